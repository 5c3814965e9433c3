/* spm.c: SentencePiece's BPE: no words and no merge rules; two neighbours may merge when their text together is a
 * token, and the token with the highest score goes first. Called by tokenizer.c. Characters that end up in no token
 * become the tokens of their bytes ("<0xE2>"), so invalid UTF-8 passes through unharmed. */
#include "spm.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "merge.h"
#include "utf8.h"

typedef struct session {
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

static bool add_symbols(session *s) {
    for (int at = 0; at < s->n_bytes;) {
        int n = kvq_utf8_announced((uint8_t)s->text[at]);
        if (n > s->n_bytes - at) n = s->n_bytes - at;
        if (!kvq_merger_add(&s->merger, at, n, -1)) return false;
        at += n;
    }
    return true;
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

static bool encode(session *s, const char *text, size_t n_bytes, bool add_space, kvq_ids *ids) {
    if (!escape_spaces(s, text, n_bytes, add_space) || !add_symbols(s) || !kvq_merger_run(&s->merger, merge_rule, s))
        return false;
    for (int i = s->merger.n_symbols > 0 ? 0 : -1; i >= 0; i = s->merger.symbols[i].next) {
        const kvq_symbol *symbol = &s->merger.symbols[i];
        if (!(symbol->id >= 0 ? kvq_ids_push(ids, symbol->id) : add_character(s, symbol, ids))) return false;
    }
    return true;
}

kvq_status kvq_spm_encode(const kvq_vocab *v, const char *text, size_t n_bytes, bool add_space, kvq_ids *ids,
                          kvq_error *err) {
    session s = {.v = v};
    bool done = encode(&s, text, n_bytes, add_space, ids);
    kvq_merger_done(&s.merger);
    free(s.text);
    return done ? KVQ_OK : kvq_fail(err, KVQ_NO_MEMORY, "no memory to tokenize a text of %zu bytes", n_bytes);
}
