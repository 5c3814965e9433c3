/* ops.h: THE operator table. engine/forward.c calls these and nothing else of a backend; a backend is a kvq_ops filled
 * in.
 *
 * Every operator takes the stream and one struct that describes the job. It returns nothing: the stream keeps its first
 * error (kvq_ops.error), the step asks once. Operators of one stream run in order. Unless said otherwise tensors are
 * float, row-major, contiguous, 64-byte aligned at their start, buffers do not overlap, and zero rows mean nothing to
 * do. Nothing allocates: what an operator needs beyond its arguments comes from the stream's workspace, whose size
 * workspace_bytes tells before the stream is made.
 *
 * Where memory is: tensors (floats, matrix data, blocks, scratch, k_ref, rope factors) are in the device's memory;
 * structs and lists of ints (jobs, batch with all its lists, kv, rope, ids, pos, rows) are in the host's. A backend
 * with memory of its own is told of the batch by `begin`, once a step.
 *
 * Words: n_rows rows of this step, hidden_dim, ffn_dim, n_heads, n_kv_heads, head_dim, T = block_tokens. */
#ifndef KVQ_OPS_H
#define KVQ_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "batch.h"
#include "kv.h"
#include "matrix.h"
#include "status.h"

typedef struct kvq_stream kvq_stream; /* a backend's own: compute pool, workspace, first error */

/* The largest sizes a stream will ever see; fixed at open. */
typedef struct kvq_shapes {
    int max_rows; /* rows in one step */
    int max_in;   /* largest n_in of any matrix */
    int max_out;  /* largest n_out of any matrix but the logits' */
    int n_heads, n_kv_heads, head_dim;
    int max_tokens; /* longest sequence */
    int block_tokens;
    int threads;            /* CPU workers, the caller's thread included; 0: one per physical core */
    int max_seqs, n_groups; /* of a batch; at most max_seqs rows are sampled at a time */
    int vocab_size;         /* of `sample`; 0 where it is not called */
    bool depends_on_batch;  /* a row's results may depend on how many rows the step has: products of many rows may be
                             * made of activations in half precision instead of int8 (matrix.h). The CPU's never are. */
} kvq_shapes;

/* Begins a step: what append, close_pages and attend will be given as batch and kv until the next one. Copies to the
 * device what they need of both; on the CPU does nothing. */
typedef struct kvq_begin {
    const kvq_batch *batch;
    const kvq_kv *kv;
} kvq_begin;

/* out[r] = scale * row ids[r] of table. ids are valid (the engine checks); -1 - i stands for drawn[i], which the host
 * does not know yet. */
typedef struct kvq_embed {
    float *out; /* [n_rows, table->n_in] */
    const int *ids;
    const int *drawn; /* DEVICE memory: what a `sample` before it wrote. NULL: no id is negative */
    const kvq_matrix *table;
    float scale;
    int n_rows;
} kvq_embed;

/* RMS norm: out[r] = in[r] / sqrt(mean(in[r]^2) + eps) * weight, then out[r] += residual[r] if residual is not NULL.
 * out may be in or residual. The CPU's mean is summed in 16 lanes (lane = index % 16, in order), then lanes
 * pairwise (8+8, 4+4, 2+2, 1+1); CUDA's in a block's threads (kernels/cuda/rows.cu), or in steps of 32 where the norm
 * feeds a product: that one's activations are then in[r] * weight, and its sums are multiplied by the rest (fuse.cu).
 */
typedef struct kvq_norm {
    float *out;
    const float *in, *weight, *residual; /* [n_rows, n_cols], [n_cols] or NULL for ones, [n_rows, n_cols] or NULL */
    float eps;
    int n_rows, n_cols;
    /* residual is NULL, and out is read by nothing but a linear, with all of these rows, which is the stream's next
     * operator, before any fetch: out may stay unwritten */
    bool feeds_linear;
} kvq_norm;

/* out[r] = W in[r] + bias + residual[r], see matrix.h for the arithmetic. out may be residual. */
typedef struct kvq_linear {
    float *out;      /* [n_rows, w->n_out] */
    const float *in; /* [n_rows, w->n_in] */
    const kvq_matrix *w;
    const float *bias;     /* [n_out] or NULL */
    const float *residual; /* [n_rows, n_out] or NULL */
    int n_rows;
} kvq_linear;

/* Finer logits where they matter: linear rounds its inputs to 8 bits (matrix.h), and behind the last product nothing
 * smooths the error. For every tile of 16 outputs in which some x is at least its row's largest less `margin`:
 *   x[r] += W (in[r] - d q)        what the codes leave, to 8 bits of it at least
 * Parts with float weights are left as they are, for linear rounds nothing there. */
typedef struct kvq_refine {
    float *x;        /* [n_rows, w->n_out], what linear made of in */
    const float *in; /* [n_rows, w->n_in] */
    const kvq_matrix *w;
    float margin;
    int n_rows;
} kvq_refine;

/* act(gate) * up. gate_up rows are [gate ffn_dim | up ffn_dim]. silu(x) = x / (1 + exp(-x));
 * gelu_tanh(x) = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). */
typedef enum kvq_activation { KVQ_ACT_SILU, KVQ_ACT_GELU_TANH } kvq_activation;

typedef struct kvq_glu {
    float *out;           /* [n_rows, ffn_dim] */
    const float *gate_up; /* [n_rows, 2 * ffn_dim] */
    kvq_activation activation;
    int n_rows, ffn_dim;
} kvq_glu;

/* How positions turn q and k. Angles are computed in double: angle(pos, i) = pos * scale * freq_base^(-2 i / n_rot) /
 * factor[i]. */
typedef struct kvq_rope {
    bool neox; /* pairs (i, i + n_rot/2) as in NeoX; else (2 i, 2 i + 1). Channels from n_rot on stay. */
    int n_rot; /* even, at most head_dim */
    double freq_base;
    double scale;         /* linear position scale, 1 / rope.scaling.factor */
    const float *factors; /* [n_rot / 2] divisors (Llama 3's rope_freqs.weight) or NULL */
} kvq_rope;

/* cos and sin of this step's positions: table[r][i] = {cos, sin}, once a step, used by every layer of that rope kind.
 */
typedef struct kvq_rope_table {
    float *table; /* [n_rows, n_rot / 2, 2] */
    const kvq_rope *rope;
    const int *pos;
    int n_rows;
} kvq_rope_table;

/* For each row: q and k heads RMS-normed with q_norm / k_norm (per head over head_dim; NULL: not), turned by RoPE; q is
 * written to q_out (turned by H too when the policy is rotated); k and v are turned, quantized and written to the page
 * of the row's position: into the scratch slot when the page closes in this step, else into the open page. When a page
 * that closes was begun in an earlier step, its wide image is first copied from its blocks to the slot. */
typedef struct kvq_append {
    float *q_out;     /* [n_rows, n_heads, head_dim]; may not be qkv */
    const float *qkv; /* [n_rows, (n_heads + 2 n_kv_heads) * head_dim]: q | k | v */
    const float *q_norm, *k_norm;
    float norm_eps;
    const float *rope; /* kvq_rope_table's table of this layer's rope kind */
    bool neox;
    int n_rot, n_heads;
    const kvq_batch *batch;
    const kvq_kv *kv;
    int layer;
} kvq_append;

/* Closes the pages of batch->closes that belong to the layer's group: closed image from the scratch slot into
 * page->block. For policies without wide pages, does nothing. */
typedef struct kvq_close_pages {
    const kvq_batch *batch;
    const kvq_kv *kv;
    int layer;
} kvq_close_pages;

/* out[r, h] = softmax_t(softcap(scale * q[r, h] . k_t)) v_t over positions t of the row's sequence with
 * pos - window < t <= pos (window 0: all t <= pos), KV head g = h / (n_heads / n_kv_heads), output turned back by H.
 * What a row at position p sees: of a wide policy, page 0 and page p / T in their wide image, all others closed.
 * A page's wide image is its scratch slot when page.scratch >= 0, else its two blocks.
 *
 * The fast backends compute on codes: q turned to int8 per row and head (q8 = rint(q * (127 / max|q|)), sq = max|q| /
 * 127), score = sq * s_t * (float)dot + q . (k_mean + k_ref), times scale; a page at a time, probabilities times the
 * magnitude of V's token scale in 8 bits (w8 = rint(w * (255 / max w)), sw = max_t w / 255 of the page), integer sums
 * over the page, then acc = fmaf(sw, (float)sum, acc * correction). Pages go in order of position within a *split* of
 * KVQ_SPLIT_PAGES pages that starts at a multiple of KVQ_SPLIT_PAGES; splits are merged in order. So a row's result
 * depends on nothing but its own q, its position and the cache. (CUDA: pieces of at most 64 tokens, not pages;
 * roundings to codes are of fused products, so one near a tie may fall to the other side.) */
#define KVQ_SPLIT_PAGES 8

typedef struct kvq_attend {
    float *out;           /* [n_rows, n_heads, head_dim] */
    const float *q;       /* as append wrote it */
    float scale, softcap; /* softcap 0: none; else softcap * tanh(x / softcap) */
    int window, n_heads;
    const kvq_batch *batch;
    const kvq_kv *kv;
    int layer;
} kvq_attend;

/* out[i] = in[rows[i]], i < n_rows: picks the rows whose logits are wanted. */
typedef struct kvq_gather {
    float *out;
    const float *in;
    const int *rows;
    int n_rows, n_cols;
} kvq_gather;

/* x = cap * tanh(x / cap) in place. */
typedef struct kvq_softcap {
    float *x;
    float cap;
    int n_rows, n_cols;
} kvq_softcap;

/* What changes the logit x of one token, in this order: x += bias; n_seen > 0: x is divided by the row's
 * repetition_penalty if positive, else multiplied; n_answer > 0: x -= presence_penalty + frequency_penalty n_answer. */
typedef struct kvq_sample_edit {
    int id; /* valid; once per row */
    float bias;
    int n_seen, n_answer; /* occurrences in prompt and answer, and in the answer */
} kvq_sample_edit;

typedef struct kvq_sample_row {
    float temperature;  /* 0: the largest logit, ties to the lowest id */
    float top_p, min_p; /* 1: off, 0: off */
    int top_k;          /* 0: off */
    float repetition_penalty, presence_penalty, frequency_penalty;
    uint32_t index; /* of the token: the draw is a function of (seed, index) */
    uint64_t seed;
    int edit_begin, n_edits; /* in the job's edits */
} kvq_sample_row;

/* ids[r] = the token drawn from logits[r], which are edited in place first. Weights are exp((x - max) / temperature);
 * kept are the top_k largest logits (ties: the lower id), of those the fewest first ones that reach top_p of their sum,
 * of those the weights of at least min_p; one is drawn in order of ids. NaN never wins; if no logit is finite, token 0.
 * Every backend draws the same token (sampling.h). n_edits is at most the shapes' vocab_size. */
typedef struct kvq_sample {
    int *ids;      /* [n_rows] in the device's memory, as are logits */
    float *logits; /* [n_rows, vocab_size] */
    const kvq_sample_row *rows;
    const kvq_sample_edit *edits; /* [n_edits] */
    int n_rows, n_edits, vocab_size;
} kvq_sample;

#define KVQ_OP_MAP(X) \
    X(begin)          \
    X(embed)          \
    X(norm) X(linear) X(refine) X(glu) X(rope_table) X(append) X(close_pages) X(attend) X(gather) X(softcap) X(sample)

#define KVQ_X(op) typedef void kvq_##op##_fn(kvq_stream *s, const kvq_##op *job);
KVQ_OP_MAP(KVQ_X)
#undef KVQ_X

typedef struct kvq_ops {
    const char *backend; /* "ref", "cpu", "cuda" */
    const char *isa;     /* "ref", "generic", "avx2", "dotprod", "sm_90", ... */
#define KVQ_X(op) kvq_##op##_fn *op;
    KVQ_OP_MAP(KVQ_X)
#undef KVQ_X
} kvq_ops;

/* Fills ops for the CPU and the named instruction set: "ref" (plain C, double sums, the truth), "generic" (any
 * machine), the others of isas.h, or "auto" (the best this machine has). A set the machine lacks is KVQ_UNSUPPORTED and
 * names what it has. */
kvq_status kvq_cpu_ops_init(kvq_ops *ops, const char *isa, kvq_error *err);

/* The CPU's stream: worker threads and workspace. Freed by kvq_cpu_stream_free (NULL allowed). */
kvq_status kvq_cpu_stream_new(const kvq_shapes *shapes, kvq_stream **ret, kvq_error *err);
void kvq_cpu_stream_free(kvq_stream *s);
size_t kvq_cpu_workspace_bytes(const kvq_shapes *shapes);
int kvq_cpu_stream_threads(const kvq_stream *s);

/* The stream's first error; KVQ_OK if none. */
kvq_status kvq_cpu_stream_error(const kvq_stream *s, kvq_error *err);

/* Parameters of the model that the policy needs, see kv.h: turns `bias` [n_kv_heads, head_dim] by RoPE at every
 * position, takes the mean over each page and, if rotated, turns it by H. out [n_pages, n_kv_heads, head_dim]. Plain C,
 * at load. */
void kvq_kv_bias_ref(float *out, const float *bias, const kvq_rope *rope, int n_pages, int n_kv_heads, int head_dim,
                     int block_tokens, bool rotated);

/* True when what the constant leaves of the bias is large, so that K of this layer stays in 8 bits (kv.h, hard):
 * max over pairs of |b| sqrt(1 - |g|^2) with g the page mean of the pair's unit phasor, above KVQ_HARD_BIAS.
 * Where 4 comes from: of Qwen2.5-Coder-0.5B's 24 layers the constant leaves 54.9, 4.05, 3.88, 3.81, 2.62 and less
 * (pages of 64). With the first two hard, int4 diverges by 0.0060 from f16 at 4.53 bits (kvqctl eval,
 * docs/kv-cache.md); the rule "largest bias above 20", six layers, gives 0.0060 at 4.84 bits. */
#define KVQ_HARD_BIAS 4.0f
bool kvq_kv_bias_is_hard(const float *bias, const kvq_rope *rope, int n_kv_heads, int head_dim, int block_tokens);

/* In-place orthonormal Hadamard transform of n = 2^k, 12 * 2^k or 20 * 2^k values (96 = H12 x H8, 80 = H20 x H4), plain
 * C. */
void kvq_hadamard(float *x, int n);
bool kvq_hadamard_fits(int n);

#endif
