/* rows.cu: the operators that work on rows alone: embed, norm, glu, rope_table, gather, softcap. A block is a row, or
 * 256 values of a flat tensor. They cannot avoid reading and writing their rows once. norm and glu leave few rows in 8
 * bits, too, for the product behind them. */
#include "stream.h"

#include "columns.cuh"
#include "vmath.cuh"
#include "warp.cuh"

#define ROW_THREADS 256
#define MOST_THREADS 1024 /* of a block */

/* ---- embed ---- */

__global__ void embed_rows(kvq_embed job, kvq_matrix table, const int *ids) {
    kvq_wait_for_launches();
    int row = ids[blockIdx.x], p = 0;
    while (row >= table.parts[p].row_begin + table.parts[p].n_rows) p++;
    float *out = job.out + (size_t)blockIdx.x * table.n_in;
    for (int i = threadIdx.x; i < table.n_in; i += blockDim.x)
        out[i] = kvq_matrix_value(&table.parts[p], row - table.parts[p].row_begin, i) * job.scale;
}

static void embed(kvq_stream *s, const kvq_embed *job) {
    if (job->n_rows == 0) return;
    const int *ids = kvq_cuda_ints(s, job->ids, job->n_rows);
    KVQ_LAUNCH(embed_rows, dim3(job->n_rows), dim3(ROW_THREADS), 0, s, *job, *job->table, ids);
}

/* ---- norm: the squares' sum in the block's threads (thread = index % threads, in order), then kvq_block_sum's order.
 * The number of threads is the row's length's alone ---- */

/* Values that a thread has at a time. A row has one block only, and waits for memory: of the first values, mostly all
 * there are, everything is asked for before anything is used, and none twice. */
#define NORM_VALUES 8

/* x[u] = from[begin + u * blockDim.x], 0 behind the row's end, `absent` where there is no `from`. */
static __device__ __forceinline__ void load_values(float x[NORM_VALUES], const float *from, int begin, int n,
                                                   float absent) {
#pragma unroll
    for (int u = 0; u < NORM_VALUES; u++) {
        int i = begin + u * (int)blockDim.x;
        x[u] = !from ? absent : i < n ? from[i] : 0.0f;
    }
}

/* What a thread has of a row at a time. */
typedef struct norm_values {
    float x[NORM_VALUES], weight[NORM_VALUES], residual[NORM_VALUES];
} norm_values;

static __device__ __forceinline__ void load_norm(norm_values *ret, const kvq_norm &job, size_t at, int begin) {
    load_values(ret->x, job.in + at, begin, job.n_cols, 0);
    load_values(ret->weight, job.weight, begin, job.n_cols, 1);
    load_values(ret->residual, job.residual ? job.residual + at : nullptr, begin, job.n_cols, 0);
}

static __device__ __forceinline__ float add_squares(float sum, const float x[NORM_VALUES]) {
#pragma unroll
    for (int u = 0; u < NORM_VALUES; u++) sum = fmaf(x[u], x[u], sum);
    return sum;
}

__global__ void __launch_bounds__(MOST_THREADS) norm_rows(kvq_norm job, kvq_activations left) {
    KVQ_SHARED(float, scratch, 32);
    kvq_wait_for_launches();
    size_t at = (size_t)blockIdx.x * job.n_cols;
    int n = job.n_cols, at_once = NORM_VALUES * (int)blockDim.x, first = threadIdx.x;
    norm_values v;
    load_norm(&v, job, at, first);
    float sum = add_squares(0, v.x), more[NORM_VALUES];
    for (int begin = first + at_once; begin < n; begin += at_once) {
        load_values(more, job.in + at, begin, n, 0);
        sum = add_squares(sum, more);
    }
    sum = kvq_block_sum(sum, scratch);
    float factor = 1.0f / sqrtf(sum / (float)n + job.eps);
    for (int begin = first; begin < n; begin += at_once) {
        if (begin > first) load_norm(&v, job, at, begin);
#pragma unroll
        for (int u = 0; u < NORM_VALUES; u++) {
            int i = begin + u * (int)blockDim.x;
            if (i >= n) break; /* where something is left, n is of whole warps */
            float y = v.x[u] * factor * v.weight[u];
            if (job.residual) y += v.residual[u];
            job.out[at + i] = y;
            if (left.columns) kvq_quantize_step(left, blockIdx.x, i / KVQ_STEP, y);
        }
    }
}

static void norm(kvq_stream *s, const kvq_norm *job) {
    if (job->n_rows == 0) return;
    int threads = ROW_THREADS;
    while (threads < MOST_THREADS && threads * NORM_VALUES < job->n_cols) threads *= 2;
    kvq_activations left = kvq_cuda_leave(s, job->out, job->n_rows, job->n_cols);
    KVQ_LAUNCH(norm_rows, dim3(job->n_rows), dim3(threads), 0, s, *job, left);
}

/* ---- glu ---- */

/* x / (1 + exp(-u)); gelu_tanh too, as (1 + tanh(v)) / 2 = 1 / (1 + exp(-2 v)). */
static __device__ float activate(kvq_activation activation, float x) {
    float minus_u = -x;
    if (activation == KVQ_ACT_GELU_TANH) minus_u = fmaf(x * x * x, 0.044715f, x) * -1.59576912f; /* -2 sqrt(2 / pi) */
    return x / (1.0f + kvq_exp(minus_u));
}

#define GLU_VALUES 4 /* of a thread, loaded at once: one would leave half of the memory's bandwidth */

__global__ void __launch_bounds__(ROW_THREADS) glu_rows(kvq_glu job, kvq_activations left) {
    kvq_wait_for_launches();
    int first = (int)blockIdx.y * GLU_VALUES * ROW_THREADS + (int)threadIdx.x;
    const float *gates = job.gate_up + (size_t)blockIdx.x * 2 * job.ffn_dim, *ups = gates + job.ffn_dim;
    float gate[GLU_VALUES], up[GLU_VALUES];
#pragma unroll
    for (int k = 0; k < GLU_VALUES; k++) {
        int i = first + k * ROW_THREADS;
        if (i >= job.ffn_dim) break;
        gate[k] = gates[i];
        up[k] = ups[i];
    }
#pragma unroll
    for (int k = 0; k < GLU_VALUES; k++) {
        int i = first + k * ROW_THREADS;
        if (i >= job.ffn_dim) break; /* whole warps, where something is left */
        float y = activate(job.activation, gate[k]) * up[k];
        job.out[(size_t)blockIdx.x * job.ffn_dim + i] = y;
        if (left.columns) kvq_quantize_step(left, blockIdx.x, i / KVQ_STEP, y);
    }
}

static void glu(kvq_stream *s, const kvq_glu *job) {
    if (job->n_rows == 0) return;
    dim3 grid(job->n_rows, kvq_cuda_blocks(job->ffn_dim, GLU_VALUES * ROW_THREADS));
    kvq_activations left = kvq_cuda_leave(s, job->out, job->n_rows, job->ffn_dim);
    KVQ_LAUNCH(glu_rows, grid, dim3(ROW_THREADS), 0, s, *job, left);
}

/* ---- rope_table: angles in double; a float's angle at position 20,000 would be wrong in the third digit ---- */

__global__ void rope_rows(float *table, kvq_rope rope, const int *pos) {
    kvq_wait_for_launches();
    int half = rope.n_rot / 2;
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        double frequency = rope.scale * pow(rope.freq_base, -2.0 * i / rope.n_rot);
        if (rope.factors) frequency /= (double)rope.factors[i];
        float *pair = table + ((size_t)blockIdx.x * half + i) * 2;
        pair[0] = (float)cos(pos[blockIdx.x] * frequency);
        pair[1] = (float)sin(pos[blockIdx.x] * frequency);
    }
}

static void rope_table(kvq_stream *s, const kvq_rope_table *job) {
    if (job->n_rows == 0) return;
    const int *pos = kvq_cuda_ints(s, job->pos, job->n_rows);
    KVQ_LAUNCH(rope_rows, dim3(job->n_rows), dim3(64), 0, s, job->table, *job->rope, pos);
}

/* ---- gather ---- */

__global__ void gather_rows(kvq_gather job, const int *rows) {
    kvq_wait_for_launches();
    const float *in = job.in + (size_t)rows[blockIdx.x] * job.n_cols;
    for (int i = threadIdx.x; i < job.n_cols; i += blockDim.x) job.out[(size_t)blockIdx.x * job.n_cols + i] = in[i];
}

static void gather(kvq_stream *s, const kvq_gather *job) {
    if (job->n_rows == 0) return;
    const int *rows = kvq_cuda_ints(s, job->rows, job->n_rows);
    KVQ_LAUNCH(gather_rows, dim3(job->n_rows), dim3(ROW_THREADS), 0, s, *job, rows);
}

/* ---- softcap ---- */

__global__ void softcap_values(kvq_softcap job) {
    kvq_wait_for_launches();
    int i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= job.n_cols) return;
    float *x = job.x + (size_t)blockIdx.x * job.n_cols + i;
    *x = job.cap * kvq_tanh(*x / job.cap);
}

static void softcap(kvq_stream *s, const kvq_softcap *job) {
    if (job->n_rows == 0) return;
    dim3 grid(job->n_rows, kvq_cuda_blocks(job->n_cols, ROW_THREADS));
    KVQ_LAUNCH(softcap_values, grid, dim3(ROW_THREADS), 0, s, *job);
}

void kvq_cuda_fill_rows(kvq_ops *ops) {
    ops->embed = embed;
    ops->norm = norm;
    ops->glu = glu;
    ops->rope_table = rope_table;
    ops->gather = gather;
    ops->softcap = softcap;
}
