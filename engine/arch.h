/* arch.h: what an architecture is: a row of arch.c's table over GGUF keys and tensor names, and the sizes of one model.
 * Called by model.c and plan.c. */
#ifndef KVQ_ARCH_H
#define KVQ_ARCH_H

#include <stdbool.h>

#include "../kernels/ops.h"
#include "gguf.h"

/* One architecture. A model that differs in a way no column says needs a column, not a branch in forward.c. */
typedef struct kvq_arch {
    const char *name;          /* general.architecture */
    bool rope_neox;            /* pairs (i, i + n/2) instead of (2 i, 2 i + 1) */
    bool qk_norm;              /* RMS norm of each q and k head before RoPE */
    bool post_norms;           /* attention's and the feed-forward's outputs are normed before they are added */
    bool scaled_embedding;     /* embeddings times sqrt(hidden_dim) */
    kvq_activation activation; /* of the gate */
    int window_pattern; /* every n-th layer attends to all, the others within the sliding window; 0: all layers to all
                         */
    double local_freq_base;  /* RoPE base of windowed layers where the file does not say */
    int hidden_scale_layers; /* with this many layers, attention scale is 1 / sqrt(hidden_dim / n_heads) (gemma-3-27b)
                              */
} kvq_arch;

/* The sizes and constants of one model, from its file's metadata. */
typedef struct kvq_hparams {
    const kvq_arch *arch;
    int n_layers, hidden_dim, ffn_dim, n_heads, n_kv_heads, head_dim, vocab_size, context_len;
    int window; /* tokens; 0: no layer has one */
    float norm_eps, attention_scale, attention_softcap, logit_softcap;
    kvq_rope rope[2]; /* of layers that attend to all; of windowed layers. factors: see model.c */
} kvq_hparams;

/* Reads and checks. Errors: KVQ_UNSUPPORTED (architecture, mixture of experts, RoPE scaling, sizes), KVQ_BAD_FILE. */
kvq_status kvq_hparams_read(const kvq_gguf *g, kvq_hparams *ret, kvq_error *err);

/* True when layer l attends within the window only. */
bool kvq_hparams_is_local(const kvq_hparams *p, int l);

#endif
