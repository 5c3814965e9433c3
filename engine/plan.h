/* plan.h: memory arithmetic: how layers share the pool's blocks, how big the pool is, what fits, and which key to
 * change when it does not. Called by engine.c; tested as arithmetic. */
#ifndef KVQ_PLAN_H
#define KVQ_PLAN_H

#include "../kernels/batch.h"
#include "model.h"

/* How the KV cache of one model is laid out under one policy. */
typedef struct kvq_kv_plan {
    kvq_kv kv;                        /* kv.layers owned by the plan; k_ref not set */
    int group_window[KVQ_MAX_GROUPS]; /* tokens; 0: all */
    uint64_t block_bytes_f16;         /* a block of the same layers in halves */
    int n_hard_layers, n_ref_layers;  /* K kept in 8 bits; K bias taken out */
    double bits_per_value;            /* of closed pages, mean over layers */
} kvq_kv_plan;

kvq_status kvq_kv_plan_init(kvq_kv_plan *ret, const kvq_gguf *g, const kvq_hparams *p, kvq_policy_id policy,
                            int block_tokens, kvq_error *err);
void kvq_kv_plan_done(kvq_kv_plan *plan);

/* Blocks that one sequence of n_tokens holds while it decodes, wide pages included; chunk_tokens more where a prefill
 * chunk of that size is being read over windowed layers. */
uint64_t kvq_plan_blocks(const kvq_kv_plan *plan, uint64_t n_tokens, uint64_t chunk_tokens);
uint64_t kvq_plan_blocks_f16(const kvq_kv_plan *plan, uint64_t n_tokens);

/* What is free for the pool, and whether the system lives in that memory too. */
typedef struct kvq_free_memory {
    uint64_t bytes;
    bool is_shared;
} kvq_free_memory;

/* Takes weights and workspace off what is free. Errors: KVQ_NO_MEMORY (says how much is missing, and which keys to
 * change). */
kvq_status kvq_plan_fixed(uint64_t weight_bytes, uint64_t workspace_bytes, kvq_free_memory *free, kvq_error *err);

/* The pool that cache_max_entry_count asks for: "0.5" (share of what is free), "4000" (f16 blocks, a whole number
 * above 1), "1536M" (bytes; K, M, G, T). NULL: half of what is free, 0.8 where the memory is not shared, at most twice
 * the f16 bytes of max_batch_size sequences of session_len. What comes of it is whole blocks. Errors: KVQ_BAD_ARGUMENT
 * (syntax, range), KVQ_NO_SPACE (more than is free: says both numbers). */
kvq_status kvq_plan_pool_bytes(const kvq_kv_plan *plan, const char *cache_max_entry_count, kvq_free_memory free,
                               int session_len, int max_batch_size, uint64_t *ret_n_blocks, kvq_error *err);

#define KVQ_DEFAULT_SESSION_LEN 8192 /* tokens, where session_len is 0 and the model and the pool allow it */

/* session_len as asked, or for 0 the least of the model's, KVQ_DEFAULT_SESSION_LEN and what n_blocks hold. Errors:
 * KVQ_NO_SPACE (says how many tokens fit and which keys to change), KVQ_BAD_ARGUMENT (beyond the model's context). */
kvq_status kvq_plan_session_len(const kvq_kv_plan *plan, uint64_t n_blocks, int asked, int model_context_len,
                                int chunk_tokens, int *ret, kvq_error *err);

#endif
