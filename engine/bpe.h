/* bpe.h: byte-level BPE, the tokenizer family of GPT-2's heirs (tokenizer.ggml.model "gpt2" and "gemma4").
 * Called by tokenizer.c. */
#ifndef KVQ_BPE_H
#define KVQ_BPE_H

#include "meter.h"
#include "pretokenizer.h"
#include "vocab.h"

typedef struct kvq_bpe kvq_bpe;

/* v, pre: borrowed until kvq_bpe_free. Errors: KVQ_BAD_FILE, KVQ_UNSUPPORTED (pre-tokenizer), KVQ_NO_MEMORY,
 * KVQ_INTERNAL. */
kvq_status kvq_bpe_open(const kvq_gguf *g, const kvq_vocab *v, const kvq_pretokenizer *pre, kvq_bpe **ret,
                        kvq_error *err);
void kvq_bpe_free(kvq_bpe *b);

/* Appends the ids of a text without special tokens. Errors: KVQ_NO_MEMORY, KVQ_INTERNAL, KVQ_CANCELLED. */
kvq_status kvq_bpe_encode(const kvq_bpe *b, const char *text, size_t n_bytes, const kvq_meter *meter, kvq_ids *ids,
                          kvq_error *err);

/* Writes the bytes that a normal token's text spells, never more than the text has, and returns how many. */
size_t kvq_bpe_piece(const kvq_bpe *b, kvq_text text, char *out);

#endif
