/* vocab.h: the vocabulary of a model file: the text, attributes and score of each token, and the way back from text to
 * id. Used by tokenizer.c and the families behind it (bpe.c, spm.c, special.c); nobody else includes it. */
#ifndef KVQ_VOCAB_H
#define KVQ_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gguf.h"

/* Attributes of a token; several may hold (a token with a well-known end's name becomes control as well). */
enum {
    KVQ_TOKEN_UNKNOWN = 1,
    KVQ_TOKEN_CONTROL = 2,
    KVQ_TOKEN_USER_DEFINED = 4,
    KVQ_TOKEN_BYTE = 8,
    KVQ_TOKEN_UNUSED = 16,
    KVQ_TOKEN_NORMAL = 32,
    KVQ_TOKEN_STRIPS_LEFT = 64,   /* swallows white space before it */
    KVQ_TOKEN_STRIPS_RIGHT = 128, /* and after it */
    KVQ_TOKEN_END = 256           /* ends a generation */
};

typedef struct kvq_vocab_slot {
    uint32_t hash;
    int id; /* -1: empty */
} kvq_vocab_slot;

typedef struct kvq_vocab {
    int n_tokens;
    kvq_text *texts;      /* [n_tokens], in the mapping or in empty_names */
    uint16_t *attributes; /* [n_tokens] */
    float *scores;        /* [n_tokens]; NULL where the file has none */
    char *empty_names;    /* texts "[EMPTY_7]" of tokens whose text is empty */
    size_t longest_bytes; /* of a token's text */

    kvq_vocab_slot *slots; /* open addressing over the texts */
    size_t slot_mask;
    uint64_t hash_seed; /* of every table of this vocabulary */
    int byte_ids[256];  /* "<0x0A>" of SentencePiece's byte fallback; -1 where missing */

    int bos, eos, eot, eom, unknown; /* -1: none */
} kvq_vocab;

/* Reads tokens, types and scores; the special ids are left at -1. Errors: KVQ_BAD_FILE, KVQ_NO_MEMORY. */
kvq_status kvq_vocab_init(const kvq_gguf *g, kvq_vocab *v, kvq_error *err);
void kvq_vocab_done(kvq_vocab *v);

/* Reads the special ids (those set in v are the defaults where the file names none) and marks what ends a generation.
 */
void kvq_vocab_mark_special(const kvq_gguf *g, kvq_vocab *v);

int kvq_vocab_find(const kvq_vocab *v, const char *bytes, size_t n_bytes); /* -1 if no token has this text */

/* A growing list of token ids. Init with zeros, free data. */
typedef struct kvq_ids {
    int *data;
    size_t n, capacity;
} kvq_ids;

bool kvq_ids_push(kvq_ids *ids, int id); /* false: no memory */

#endif
