/* model.h: a file bound to an architecture, its weights repacked into execution layouts. Made by engine.c at open (and
 * by kvq_plan_open, which only counts bytes), read by forward.c. */
#ifndef KVQ_MODEL_H
#define KVQ_MODEL_H

#include "arch.h"
#include "gguf.h"
#include "machine.h"

typedef struct kvq_model_layer {
    const float *attn_norm, *post_attn_norm, *ffn_norm, *post_ffn_norm; /* [hidden_dim]; post norms may be NULL */
    const float *q_norm, *k_norm;                                       /* [head_dim] or NULL */
    kvq_matrix qkv, attn_out, gate_up, down;
    const float *qkv_bias, *attn_out_bias, *gate_up_bias, *down_bias; /* [n_out] or NULL */
    int window;                                                       /* tokens; 0: all */
    int rope;                                                         /* index into hparams.rope */
} kvq_model_layer;

typedef struct kvq_model {
    kvq_hparams hparams;
    kvq_model_layer *layers; /* [n_layers] */
    kvq_matrix embedding;
    kvq_matrix output; /* the embedding's data again when tied */
    const float *output_norm;
    uint64_t weight_bytes; /* of the arena */
    uint64_t n_parameters;
    kvq_rope rope[2];    /* hparams.rope as the operators want it: divisors in the machine's memory */
    float *rope_factors; /* hparams.rope[0].factors: the host's */
    const kvq_machine *machine;
    uint8_t *arena; /* of the machine's memory: matrices and vectors */
} kvq_model;

/* Called with a share done 0 .. 1; non-zero cancels. */
typedef int kvq_progress_fn(void *user, double ratio);

/* Binds the file's tensors, checking names, shapes and types, and repacks them into the machine's memory (borrowed
 * until kvq_model_done). Without a machine nothing is allocated but the structs: weight_bytes is filled and every data
 * pointer is NULL. Tensors of g are dropped from memory as they are repacked. ret_model is the caller's, for
 * kvq_model_done. Errors: KVQ_BAD_FILE, KVQ_UNSUPPORTED, KVQ_NO_MEMORY, KVQ_DEVICE, KVQ_CANCELLED. */
kvq_status kvq_model_init(kvq_model *ret_model, const kvq_gguf *g, const kvq_machine *machine,
                          kvq_progress_fn *progress, void *progress_user, kvq_error *err);
void kvq_model_done(kvq_model *m);

/* Layer l's K bias [n_kv_heads * head_dim] straight from the file; false when it has none or a K norm follows it (which
 * makes it part of the key like any other value). For the plan of the KV cache. */
bool kvq_model_k_bias(const kvq_gguf *g, const kvq_hparams *p, int l, float *out);

#endif
