/* spm.h: SentencePiece's BPE with byte fallback (tokenizer.ggml.model "llama"). Called by tokenizer.c. */
#ifndef KVQ_SPM_H
#define KVQ_SPM_H

#include "vocab.h"

/* Appends the ids of a text without special tokens, with a space before it if add_space. Spaces become U+2581.
 * Errors: KVQ_NO_MEMORY. */
kvq_status kvq_spm_encode(const kvq_vocab *v, const char *text, size_t n_bytes, bool add_space, kvq_ids *ids,
                          kvq_error *err);

#endif
