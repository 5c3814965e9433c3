/* spm.c: SentencePiece's BPE: no words and no merge rules; two neighbours may merge when their text together is a
 * token, and the token with the highest score goes first. Called by tokenizer.c. Characters that end up in no token
 * become the tokens of their bytes ("<0xE2>"), so invalid UTF-8 passes through unharmed.
 *
 * A whole text in one chain would make a heap that no cache holds. But no merge reaches over two characters that stand
 * side by side in no token, such as "e" and U+2581 in most vocabularies; cut there, the ids are the same and a chain is
 * a word (gemma-3, 421 kB of English prose: 7 times as fast). Which pairs occur is one bit each in a hashed set; a
 * false "yes" only leaves a chain longer. */
#include "spm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "merge.h"
#include "utf8.h"

#define PAIR_BITS 20 /* 128 KiB; gemma-3 has 34,012 pairs in 262,144 tokens */

struct kvq_spm {
    const kvq_vocab *v;
    uint64_t pairs[(1u << PAIR_BITS) / 64];
};

/* ---- pairs of characters ----------------------------------------------------------------------------------------- */

static int character_bytes(const char *text, size_t n_left) {
    size_t n = (size_t)kvq_utf8_announced((uint8_t)*text);
    return (int)(n < n_left ? n : n_left);
}

/* The bit of the characters of n_first and n_second bytes at text. */
static uint32_t pair_bit(const char *text, int n_first, int n_second) {
    uint32_t first = 0, second = 0;
    memcpy(&first, text, (size_t)n_first);
    memcpy(&second, text + n_first, (size_t)n_second);
    return (uint32_t)(((uint64_t)first << 32 | second) * 0x9E3779B97F4A7C15u >> (64 - PAIR_BITS));
}

static void note_pairs(kvq_spm *s, kvq_text token) {
    int n_first = character_bytes(token.bytes, token.n_bytes);
    for (size_t at = 0; at + (size_t)n_first < token.n_bytes;) {
        const char *second = token.bytes + at + n_first;
        int n_second = character_bytes(second, token.n_bytes - at - (size_t)n_first);
        uint32_t bit = pair_bit(token.bytes + at, n_first, n_second);
        s->pairs[bit / 64] |= (uint64_t)1 << (bit % 64);
        at += (size_t)n_first;
        n_first = n_second;
    }
}

static bool may_merge(const kvq_spm *s, const char *text, int n_first, int n_second) {
    uint32_t bit = pair_bit(text, n_first, n_second);
    return s->pairs[bit / 64] >> (bit % 64) & 1;
}

kvq_spm *kvq_spm_new(const kvq_vocab *v) {
    kvq_spm *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->v = v;
    for (int id = 0; id < v->n_tokens; id++) note_pairs(s, v->texts[id]);
    return s;
}

void kvq_spm_free(kvq_spm *s) {
    free(s);
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

typedef struct session {
    const kvq_spm *spm;
    const kvq_vocab *v;
    char *text; /* with U+2581 for spaces */
    int n_bytes;
    kvq_merger merger;
} session;

/* Floats as integers in the same order, the highest first; -0 equals 0. */
static uint32_t order_of(float score) {
    uint32_t bits;
    score += 0.0f;
    memcpy(&bits, &score, sizeof bits);
    uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return ~ascending;
}

static bool merge_rule(const void *family, const kvq_symbol *left, const kvq_symbol *right, uint32_t *ret_order,
                       int *ret_id) {
    const session *s = family;
    int id = kvq_vocab_find(s->v, s->text + left->start, (size_t)left->n_bytes + (size_t)right->n_bytes);
    if (id < 0) return false;
    *ret_order = order_of(s->v->scores ? s->v->scores[id] : 0);
    *ret_id = id;
    return true;
}

static bool escape_spaces(session *s, const char *text, size_t n_bytes, bool add_space) {
    size_t n_spaces = add_space;
    for (size_t i = 0; i < n_bytes; i++) n_spaces += text[i] == ' ';
    s->text = malloc(n_bytes + 3 * n_spaces + 1);
    if (!s->text) return false;
    char *out = s->text;
    if (add_space) out += kvq_utf8_put(0x2581, out);
    for (size_t i = 0; i < n_bytes; i++) {
        if (text[i] == ' ')
            out += kvq_utf8_put(0x2581, out);
        else
            *out++ = text[i];
    }
    s->n_bytes = (int)(out - s->text);
    return true;
}

/* Makes a chain of the characters from `at` on, up to the first two that no token has side by side. Returns where it
 * ends, or -1: no memory. */
static int add_chain(session *s, int at) {
    kvq_merger_clear(&s->merger);
    for (;;) {
        int n = character_bytes(s->text + at, (size_t)(s->n_bytes - at));
        if (!kvq_merger_add(&s->merger, at, n, -1)) return -1;
        int next = at + n;
        if (next == s->n_bytes) return next;
        if (!may_merge(s->spm, s->text + at, n, character_bytes(s->text + next, (size_t)(s->n_bytes - next))))
            return next;
        at = next;
    }
}

/* A character that no merge touched: a token, or its bytes. A byte without a token becomes the unknown token. */
static bool add_character(const session *s, const kvq_symbol *symbol, kvq_ids *ids) {
    const char *bytes = s->text + symbol->start;
    int id = kvq_vocab_find(s->v, bytes, (size_t)symbol->n_bytes);
    if (id >= 0) return kvq_ids_push(ids, id);
    for (int i = 0; i < symbol->n_bytes; i++) {
        id = s->v->byte_ids[(uint8_t)bytes[i]];
        if (id < 0) id = kvq_vocab_find(s->v, bytes + i, 1);
        if (id < 0) id = s->v->unknown;
        if (id >= 0 && !kvq_ids_push(ids, id)) return false;
    }
    return true;
}

static bool encode_chain(session *s, kvq_ids *ids) {
    if (!kvq_merger_run(&s->merger, merge_rule, s)) return false;
    for (int i = 0; i >= 0; i = s->merger.symbols[i].next) {
        const kvq_symbol *symbol = &s->merger.symbols[i];
        if (!(symbol->id >= 0 ? kvq_ids_push(ids, symbol->id) : add_character(s, symbol, ids))) return false;
    }
    return true;
}

static kvq_status no_memory(size_t n_bytes, kvq_error *err) {
    return kvq_fail(err, KVQ_NO_MEMORY, "no memory to tokenize a text of %zu bytes", n_bytes);
}

static kvq_status encode(session *s, const char *text, size_t n_bytes, bool add_space, const kvq_meter *meter,
                         kvq_ids *ids, kvq_error *err) {
    kvq_meter whole = kvq_meter_part(meter, 0, 1);
    if (!escape_spaces(s, text, n_bytes, add_space)) return no_memory(n_bytes, err);
    for (int at = 0; at < s->n_bytes;) {
        at = add_chain(s, at);
        if (at < 0 || !encode_chain(s, ids)) return no_memory(n_bytes, err);
        if (!kvq_meter_show(&whole, (double)at / s->n_bytes)) return kvq_meter_stopped(err);
    }
    return KVQ_OK;
}

kvq_status kvq_spm_encode(const kvq_spm *spm, const char *text, size_t n_bytes, bool add_space, const kvq_meter *meter,
                          kvq_ids *ids, kvq_error *err) {
    session s = {.spm = spm, .v = spm->v};
    kvq_status status = encode(&s, text, n_bytes, add_space, meter, ids, err);
    kvq_merger_done(&s.merger);
    free(s.text);
    return status;
}
