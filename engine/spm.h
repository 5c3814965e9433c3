/* spm.h: SentencePiece's BPE with byte fallback (tokenizer.ggml.model "llama"). Called by tokenizer.c. */
#ifndef KVQ_SPM_H
#define KVQ_SPM_H

#include "meter.h"
#include "vocab.h"

typedef struct kvq_spm kvq_spm;

/* v: borrowed until kvq_spm_free. NULL: no memory. */
kvq_spm *kvq_spm_new(const kvq_vocab *v);
void kvq_spm_free(kvq_spm *s);

/* Appends the ids of a text without special tokens, with a space before it if add_space. Spaces become U+2581.
 * Errors: KVQ_NO_MEMORY, KVQ_CANCELLED. */
kvq_status kvq_spm_encode(const kvq_spm *s, const char *text, size_t n_bytes, bool add_space, const kvq_meter *meter,
                          kvq_ids *ids, kvq_error *err);

#endif
