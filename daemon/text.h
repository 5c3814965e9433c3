/* text.h: UTF-8 from outside. prompt.c refuses what is not; names and messages that come out of files are mended,
 * because no JSON could carry them otherwise. */
#ifndef KVQD_TEXT_H
#define KVQD_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Well-formed UTF-8 (no surrogates, no overlong forms) without zero bytes. */
bool text_is_valid(const void *bytes, size_t n_bytes);

/* Puts '?' in place of each byte of a terminated text that is part of no character. */
void text_mend(char *text);

/* The same for n_bytes that may have zero bytes among them: '?' as well. */
void text_mend_bytes(char *text, size_t n_bytes);

#endif
