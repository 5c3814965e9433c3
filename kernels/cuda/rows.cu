/* rows.cu: the operators that work on rows alone: embed, norm, glu, rope_table, gather, softcap. A block is a row, or
 * 256 values of one. They cannot avoid reading and writing their rows once. norm and glu leave few rows in 8 bits, too,
 * for the product behind them, or rows as halves for one that takes them so, where they are launched at all: often they
 * are part of a product (fuse.cu). */
#include "stream.h"

#include "columns.cuh"
#include "half_rows.cuh"
#include "vmath.cuh"
#include "warp.cuh"

#define ROW_THREADS 256

/* ---- embed ---- */

__global__ void embed_rows(kvq_embed job, kvq_matrix table, const int *ids) {
    kvq_wait_for_launches();
    int row = ids[blockIdx.x], p = 0;
    if (row < 0) row = job.drawn[-1 - row];
    while (row >= table.parts[p].row_begin + table.parts[p].n_rows) p++;
    int i = (int)(blockIdx.y * ROW_THREADS + threadIdx.x);
    if (i < table.n_in)
        job.out[(size_t)blockIdx.x * table.n_in + i] =
            kvq_matrix_value(&table.parts[p], row - table.parts[p].row_begin, i) * job.scale;
}

static void embed(kvq_stream *s, const kvq_embed *job) {
    if (job->n_rows == 0) return;
    const int *ids = kvq_cuda_ints(s, job->ids, job->n_rows);
    dim3 grid(job->n_rows, kvq_cuda_blocks(job->table->n_in, ROW_THREADS));
    KVQ_LAUNCH(embed_rows, grid, dim3(ROW_THREADS), 0, s, *job, *job->table, ids);
}

/* ---- norm: a block is a row. The squares' sum: a thread's own, in order, then kvq_block_sum's order. The number of
 * threads is the row's length's alone. N values side by side are loaded at once: four where the row has a multiple.
 *
 * Decode waits for one row: for its loads, and for the kernel's instructions, which are fetched for it alone, eight in
 * 128 bytes. So all loads of a thread, twice N values of each tensor in all but the longest rows, are asked for before
 * the first sum, and what is then done with N values is there once and goes round ---- */

#define NORM_THREADS 1024 /* at most */

template <int N> struct norm_values { float in[N], residual[N], weight[N]; };

/* Weights are no launch's work: asked for before the launches before are waited for. */
template <int N> static __device__ __forceinline__ void load_weights(norm_values<N> *ret, const kvq_norm &job, int i) {
    for (int k = 0; k < N; k++) ret->weight[k] = 1;
    if (job.weight && i < job.n_cols) kvq_load_values<N>(ret->weight, job.weight + i);
}
template <int N>
static __device__ __forceinline__ void load_row(norm_values<N> *ret, const kvq_norm &job, size_t at, int i) {
    for (int k = 0; k < N; k++) ret->in[k] = ret->residual[k] = 0;
    if (i >= job.n_cols) return;
    kvq_load_values<N>(ret->in, job.in + at + i);
    if (job.residual) kvq_load_values<N>(ret->residual, job.residual + at + i);
}

template <int N> static __device__ __forceinline__ float add_squares(float sum, const float x[N]) {
    for (int k = 0; k < N; k++) sum = fmaf(x[k], x[k], sum);
    return sum;
}

/* left: of the next norm, times whose weights they are left then, or of no other. HALVES: results are left as halves,
 * not in 8 bits. */
template <int N, bool HALVES>
__global__ void __launch_bounds__(NORM_THREADS)
    norm_rows(kvq_norm job, kvq_activations left, const float *next_weight, kvq_half_rows halves) {
    KVQ_SHARED(float, scratch, KVQ_WARP_LANES);
    KVQ_SHARED(int, maxima, KVQ_WARP_LANES);
    int n = job.n_cols, i = N * (int)threadIdx.x, step = N * (int)blockDim.x;
    size_t at = (size_t)blockIdx.x * n;
    norm_values<N> v, next;
    load_weights<N>(&v, job, i);
    load_weights<N>(&next, job, i + step);
    kvq_wait_for_launches();
    load_row<N>(&v, job, at, i);
    load_row<N>(&next, job, at, i + step);
    float sum = add_squares<N>(add_squares<N>(0, v.in), next.in), more[N];
#pragma unroll 1
    for (int j = i + 2 * step; j < n; j += step) {
        kvq_load_values<N>(more, job.in + at + j);
        sum = add_squares<N>(sum, more);
    }
    float factor = 1.0f / sqrtf(kvq_block_sum(sum, scratch) / (float)n + job.eps);
    int largest = 0;
#pragma unroll 1
    for (int begin = 0; begin < n; begin += step, i += step) { /* all lanes of a warp, to leave 8 bits together */
        float y[N];
        for (int k = 0; k < N; k++) {
            y[k] = v.in[k] * factor * v.weight[k];
            if (job.residual) y[k] += v.residual[k]; /* -0 + 0 would be 0 */
        }
        if (i < n) kvq_store_values<N>(job.out + at + i, y);
        if constexpr (HALVES) {
            if (i < n) largest = kvq_largest_bits<N>(largest, y);
        } else if constexpr (N == 4) { /* only rows of whole steps have it */
            if (left.columns) {
                float times[4] = {1, 1, 1, 1};
                if (next_weight && i < n) kvq_load_values<4>(times, next_weight + i);
                kvq_leave_values<4>(left, blockIdx.x, i, y, times, i < n);
            }
        }
        v = next;
        load_weights<N>(&next, job, i + 2 * step);
        load_row<N>(&next, job, at, i + 2 * step);
    }
    if constexpr (HALVES) kvq_leave_halves(halves, (int)blockIdx.x, job.out + at, largest, maxima);
}

/* Whole warps for n values, so many of a thread, or as many threads as there may be. */
static dim3 threads_for(int n, int of_a_thread, int most) {
    int threads = kvq_cuda_blocks(n, of_a_thread * KVQ_WARP_LANES) * KVQ_WARP_LANES;
    return dim3(threads < most ? threads : most);
}

void kvq_cuda_launch_norm(kvq_stream *s, const kvq_norm *job, const kvq_norm *next, const kvq_half_rows *halves) {
    bool fours = job->n_cols % 4 == 0;
    dim3 grid(job->n_rows), threads = threads_for(job->n_cols, 2 * (fours ? 4 : 1), NORM_THREADS);
    if (halves) {
        KVQ_LAUNCH((norm_rows<4, true>), grid, threads, 0, s, *job, kvq_activations{}, NULL, *halves);
        return;
    }
    kvq_activations left = kvq_cuda_leave(s, next ? next->out : job->out, job->n_rows, job->n_cols, next);
    const float *next_weight = next ? next->weight : NULL;
    if (fours)
        KVQ_LAUNCH((norm_rows<4, false>), grid, threads, 0, s, *job, left, next_weight, kvq_half_rows{});
    else
        KVQ_LAUNCH((norm_rows<1, false>), grid, threads, 0, s, *job, left, next_weight, kvq_half_rows{});
}

static void norm(kvq_stream *s, const kvq_norm *job) {
    if (job->n_rows > 0) kvq_cuda_fuse_norm(s, job);
}

/* ---- glu: a thread has N values; two, so that few rows have many threads with little to do, and many rows enough
 * under way. Where results are left as halves a block is a row, for its largest, with four values of a thread at once
 * ---- */

#define GLU_THREADS 1024 /* at most, of a row's block */

template <int N> __global__ void __launch_bounds__(ROW_THREADS) glu_rows(kvq_glu job, kvq_activations left) {
    kvq_wait_for_launches();
    int i = N * (int)(blockIdx.y * ROW_THREADS + threadIdx.x);
    const float *gates = job.gate_up + (size_t)blockIdx.x * 2 * job.ffn_dim + i;
    float gate[N] = {}, y[N] = {};
    if (i < job.ffn_dim) {
        kvq_load_values<N>(gate, gates);
        kvq_load_values<N>(y, gates + job.ffn_dim);
    }
    for (int k = 0; k < N; k++) y[k] = kvq_gated(job.activation, gate[k], y[k]);
    if (i < job.ffn_dim) kvq_store_values<N>(job.out + (size_t)blockIdx.x * job.ffn_dim + i, y);
    if constexpr (N == 2)
        if (left.columns) kvq_quantize_values<N>(left, blockIdx.x, i, y, i < job.ffn_dim);
}

__global__ void __launch_bounds__(GLU_THREADS) glu_halves(kvq_glu job, kvq_half_rows halves) {
    KVQ_SHARED(int, scratch, KVQ_WARP_LANES);
    kvq_wait_for_launches();
    int largest = 0;
    const float *gates = job.gate_up + (size_t)blockIdx.x * 2 * job.ffn_dim;
    float *out = job.out + (size_t)blockIdx.x * job.ffn_dim;
    for (int i = 4 * (int)threadIdx.x; i < job.ffn_dim; i += 4 * (int)blockDim.x) {
        float gate[4], y[4];
        kvq_load_values<4>(gate, gates + i);
        kvq_load_values<4>(y, gates + job.ffn_dim + i);
        for (int k = 0; k < 4; k++) y[k] = kvq_gated(job.activation, gate[k], y[k]);
        kvq_store_values<4>(out + i, y);
        largest = kvq_largest_bits<4>(largest, y);
    }
    kvq_leave_halves(halves, (int)blockIdx.x, out, largest, scratch);
}

void kvq_cuda_launch_glu(kvq_stream *s, const kvq_glu *job, const kvq_half_rows *halves) {
    if (halves) {
        KVQ_LAUNCH(glu_halves, dim3(job->n_rows), threads_for(job->ffn_dim, 4, GLU_THREADS), 0, s, *job, *halves);
        return;
    }
    bool pairs = job->ffn_dim % 2 == 0;
    dim3 grid(job->n_rows, kvq_cuda_blocks(job->ffn_dim, (pairs ? 2 : 1) * ROW_THREADS));
    kvq_activations left = kvq_cuda_leave(s, job->out, job->n_rows, job->ffn_dim, NULL);
    if (pairs)
        KVQ_LAUNCH(glu_rows<2>, grid, dim3(ROW_THREADS), 0, s, *job, left);
    else
        KVQ_LAUNCH(glu_rows<1>, grid, dim3(ROW_THREADS), 0, s, *job, left);
}

static void glu(kvq_stream *s, const kvq_glu *job) {
    if (job->n_rows > 0) kvq_cuda_fuse_glu(s, job);
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
    int i = (int)(blockIdx.y * ROW_THREADS + threadIdx.x);
    if (i < job.n_cols)
        job.out[(size_t)blockIdx.x * job.n_cols + i] = job.in[(size_t)rows[blockIdx.x] * job.n_cols + i];
}

static void gather(kvq_stream *s, const kvq_gather *job) {
    if (job->n_rows == 0) return;
    const int *rows = kvq_cuda_ints(s, job->rows, job->n_rows);
    dim3 grid(job->n_rows, kvq_cuda_blocks(job->n_cols, ROW_THREADS));
    KVQ_LAUNCH(gather_rows, grid, dim3(ROW_THREADS), 0, s, *job, rows);
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
