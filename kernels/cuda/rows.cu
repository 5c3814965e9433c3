/* rows.cu: the operators that work on rows alone: embed, norm, glu, rope_table, gather, softcap. A block is a row, or
 * 256 values of a flat tensor. They cannot avoid reading and writing their rows once; norm reads its row twice, the
 * second time from the cache. */
#include "stream.h"

#include "matrix.cuh"
#include "vmath.cuh"
#include "warp.cuh"

#define ROW_THREADS 256

/* ---- embed ---- */

__global__ void embed_rows(kvq_embed job, kvq_matrix table, const int *ids) {
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

/* ---- norm: the mean in 256 lanes (lane = index % 256, in order), then kvq_block_sum's order ---- */

/* Values that a thread has at a time: all are asked for before the first is used, since a row has one block only and
 * waits for memory. */
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

__global__ void norm_rows(kvq_norm job) {
    KVQ_SHARED(float, scratch, 32);
    size_t at = (size_t)blockIdx.x * job.n_cols;
    int n = job.n_cols, at_once = NORM_VALUES * (int)blockDim.x;
    float sum = 0, x[NORM_VALUES], weight[NORM_VALUES], residual[NORM_VALUES];
    for (int begin = threadIdx.x; begin < n; begin += at_once) {
        load_values(x, job.in + at, begin, n, 0);
#pragma unroll
        for (int u = 0; u < NORM_VALUES; u++) sum = fmaf(x[u], x[u], sum);
    }
    sum = kvq_block_sum(sum, scratch);
    float factor = 1.0f / sqrtf(sum / (float)n + job.eps);
    for (int begin = threadIdx.x; begin < n; begin += at_once) {
        load_values(x, job.in + at, begin, n, 0);
        load_values(weight, job.weight, begin, n, 1);
        load_values(residual, job.residual ? job.residual + at : nullptr, begin, n, 0);
#pragma unroll
        for (int u = 0; u < NORM_VALUES; u++) {
            int i = begin + u * (int)blockDim.x;
            float y = x[u] * factor * weight[u];
            if (i < n) job.out[at + i] = job.residual ? y + residual[u] : y;
        }
    }
}

static void norm(kvq_stream *s, const kvq_norm *job) {
    if (job->n_rows == 0) return;
    KVQ_LAUNCH(norm_rows, dim3(job->n_rows), dim3(ROW_THREADS), 0, s, *job);
}

/* ---- glu ---- */

/* x / (1 + exp(-u)); gelu_tanh too, as (1 + tanh(v)) / 2 = 1 / (1 + exp(-2 v)). */
static __device__ float activate(kvq_activation activation, float x) {
    float minus_u = -x;
    if (activation == KVQ_ACT_GELU_TANH) minus_u = fmaf(x * x * x, 0.044715f, x) * -1.59576912f; /* -2 sqrt(2 / pi) */
    return x / (1.0f + kvq_exp(minus_u));
}

__global__ void glu_rows(kvq_glu job) {
    int i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= job.ffn_dim) return;
    const float *gate = job.gate_up + (size_t)blockIdx.x * 2 * job.ffn_dim;
    job.out[(size_t)blockIdx.x * job.ffn_dim + i] = activate(job.activation, gate[i]) * gate[job.ffn_dim + i];
}

static void glu(kvq_stream *s, const kvq_glu *job) {
    if (job->n_rows == 0) return;
    dim3 grid(job->n_rows, kvq_cuda_blocks(job->ffn_dim, ROW_THREADS));
    KVQ_LAUNCH(glu_rows, grid, dim3(ROW_THREADS), 0, s, *job);
}

/* ---- rope_table: angles in double; a float's angle at position 20,000 would be wrong in the third digit ---- */

__global__ void rope_rows(float *table, kvq_rope rope, const int *pos) {
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
