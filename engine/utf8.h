/* utf8.h: UTF-8 read byte by byte, strictly (RFC 3629) for what people see and loosely for what tokenizers were trained
 * with. Called by bpe.c, spm.c, tokenizer.c and engine.c. */
#ifndef KVQ_UTF8_H
#define KVQ_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that a lead byte announces; 1 for bytes that are none. Nothing is checked. */
static inline int kvq_utf8_announced(uint8_t lead) {
    return lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/* Writes code point c (at most U+10FFFF; a surrogate as three bytes) and returns its 1 to 4 bytes. */
int kvq_utf8_put(uint32_t c, char *out);

/* Reads one character as llama.cpp does, loosely: overlong forms and surrogates count. Returns its bytes, or 0 if there
 * is none at bytes (n_bytes > 0). */
int kvq_utf8_get_loose(const char *bytes, size_t n_bytes, uint32_t *ret);

/* Strictly: bytes of the valid character at bytes; 0 if it could still become one (it is cut); else minus the number of
 * bytes to be replaced by one U+FFFD (the longest wrong start, as Unicode 3.9 recommends). n_bytes > 0. */
int kvq_utf8_check(const char *bytes, size_t n_bytes);

#endif
