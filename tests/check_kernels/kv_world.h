/* kv_world.h: a small world for the operators append, close_pages and attend: a few sequences, two groups of pages,
 * three layers (one of them hard, one with a window), and a scheduler that feeds the sequences in chunks of given sizes
 * as the engine's would. Used by suite_kv.c.
 *
 * Everything not written yet is 0xff (NaN in half), released wide blocks and the scratch of another layer are filled
 * with it again, absent pages are NULL, and every block stands between guard bytes: so a look at what is not there
 * shows. */
#ifndef KV_WORLD_H
#define KV_WORLD_H

#include "check.h"

#define KV_WORLD_SEQS 3
#define KV_WORLD_LAYERS 3
#define KV_WORLD_GROUPS 2

typedef struct kv_world_spec {
    kvq_policy_id policy;
    int head_dim, n_heads, n_kv_heads, block_tokens;
    bool neox;
    int n_rot;
    bool qk_norm, k_bias, hostile; /* hostile: sequence 0 has NaN, infinities and values up to 1e38 */
    int window;                    /* of layer 2; 0: none */
    float softcap;
    int len[KV_WORLD_SEQS];
    uint32_t seed;
    float odd_v; /* in V of sequence 0's token KV_WORLD_ODD_TOKEN; 0: nothing */
} kv_world_spec;
#define KV_WORLD_ODD_TOKEN 20

typedef struct kv_world {
    const check *check; /* whose memory it is in */
    kv_world_spec spec;
    kvq_kv kv;
    kvq_kv_layer layers[KV_WORLD_LAYERS];
    kvq_rope rope;
    float *q_norm, *k_norm, *k_ref;
    int n_pages;                                     /* of the longest sequence */
    uint8_t *blocks[KV_WORLD_SEQS][KV_WORLD_GROUPS]; /* n_pages blocks with guards */
    uint8_t *wide_blocks[KV_WORLD_SEQS][KV_WORLD_GROUPS];
    uint8_t *scratch;
    size_t slot_bytes;
    float *qkv[KV_WORLD_SEQS];                     /* [len, (n_heads + 2 n_kv_heads) head_dim] */
    float *q[KV_WORLD_LAYERS][KV_WORLD_SEQS];      /* what append gave: [len, n_heads, head_dim] */
    float *out[KV_WORLD_LAYERS][KV_WORLD_SEQS];    /* what attend gave */
    double *bound[KV_WORLD_LAYERS][KV_WORLD_SEQS]; /* of its difference from ref, when ref is run beside; else NULL */
    float *ref_out[KV_WORLD_LAYERS][KV_WORLD_SEQS];
} kv_world;

/* Random inputs from spec->seed: outlier channels, a bias in K, an attention sink, rows of zeros. */
kv_world *kv_world_new(const check *c, const kv_world_spec *spec);
void kv_world_free(kv_world *w);

/* Feeds all sequences: step by step each takes the next chunk size of `chunks` (ended by 0, then from the start again;
 * sequence i begins i sizes later). Without level->ops.attend only the cache is made. With beside_ref, ref's attend
 * runs on the same cache and `bound` is filled. */
void kv_world_run(kv_world *w, const check_level *level, kvq_stream *s, const int *chunks, bool beside_ref);

/* NULL, or where guard bytes were overwritten. */
const char *kv_world_guards(const kv_world *w);

/* What two worlds differ in bit for bit, sequences from first_sequence on: NULL if nothing, else a sentence (static
 * storage). */
const char *kv_world_difference(const kv_world *a, const kv_world *b, int first_sequence);

/* The same with room for other roundings of the same formulas (q_out, codes one off near a tie). */
const char *kv_world_is_near(const kv_world *got, const kv_world *ref);

/* NULL, or where attend was further from ref than the derived bound. Needs beside_ref. */
const char *kv_world_attend_error(const kv_world *w, double *worst_ratio);

#endif
