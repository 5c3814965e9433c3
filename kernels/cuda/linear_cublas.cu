/* linear_cublas.cu: products of very many rows by cuBLAS, on devices whose tensor cores linear_halves.cu does not keep
 * busy (kvq_cuda_cublas_rows), where results may depend on the batch (kvq_shapes) and there is a cuBLAS (cublas.cu).
 * Called by linear.cu.
 *
 * cuBLAS wants matrices, so a slice of outputs at a time is made one: its weights as halves by rows, times the rows as
 * halves, gives sums in float, from which the results are made. 4,096 outputs are a slice: with tiles of 128 x 256 and
 * 2,048 rows 256 of them, two for each of an H100's 132 SMs and 3 % left over, and what lies in between, up to a few
 * tens of megabytes, is still in or near its L2 cache when it is read. A slice may be of several parts.
 *
 * What is promised is what linear_halves.cu promises, with its conversions: rows brought into a half's range by a power
 * of two, sums that are not finite computed again in float, NaN and infinities as everywhere. In what order cuBLAS adds
 * is its own business, but for the same sizes on the same device it is always the same (cuBLAS documentation, "Results
 * reproducibility"; its workspace is ours and one stream uses it).
 *
 * A call of a library is not a launch that can be kept: what was kept before it goes first (graph.cu), and the rest of
 * such a step is launched one by one. Only a decode step of a thousand sequences ever comes to that.
 *
 * What it costs: docs/cuda.md. */
#include "stream.h"

#include "halves.cuh"
#include "linear_halves.cuh"

#include <stdlib.h>

#define SLICE_OUTS 4096 /* at most */

#define UNPACK_WARPS 8
#define UNPACK_THREADS (UNPACK_WARPS * KVQ_WARP_LANES)
#define UNPACK_STEPS 4 /* of a warp, loaded at once */

#define STORE_THREADS 256
#define STORE_OUTS 4 /* of a thread, loaded at once */

static int slice_outs(const kvq_shapes *shapes) {
    int n = kvq_cuda_blocks(shapes->max_out, KVQ_WARP_ROWS) * KVQ_WARP_ROWS;
    return n < SLICE_OUTS ? n : SLICE_OUTS; /* the logits may have more: in slices */
}

size_t kvq_cuda_cublas_bytes(const kvq_shapes *shapes) {
    size_t rows = (size_t)shapes->max_rows, n_in = (size_t)shapes->max_in, outs = (size_t)slice_outs(shapes);
    return kvq_cuda_aligned(rows * n_in * sizeof(uint16_t)) + kvq_cuda_aligned(rows * sizeof(float)) +
           kvq_cuda_aligned(outs * n_in * sizeof(uint16_t)) + kvq_cuda_aligned(outs * rows * sizeof(float));
}

/* ---- weights ---- */

/* Outputs begin .. end - 1 of a part as halves, by rows. A warp has 32 outputs, its block's others the steps beside its
 * own, so that they write side by side. */
template <typename W>
__global__ void __launch_bounds__(UNPACK_THREADS)
    unpack_rows(kvq_matrix_part part, uint16_t *halves, int n_steps, int begin, int end) {
    kvq_wait_for_launches();
    if constexpr (KVQ_BUILT_FOR_HALVES(W::CODED)) {
        int warp = threadIdx.x / KVQ_WARP_LANES, lane = threadIdx.x % KVQ_WARP_LANES, g = lane / 4, t = lane % 4;
        int group = begin / KVQ_WARP_ROWS + (int)blockIdx.y,
            first = (int)blockIdx.x * UNPACK_STEPS * UNPACK_WARPS + warp;
        const uint8_t *tile = kvq_tile_of(part, group * 2 + g / 4);
        typename W::raw raw[UNPACK_STEPS];
#pragma unroll
        for (int n = 0; n < UNPACK_STEPS; n++) {
            int step = first + n * UNPACK_WARPS;
            if (step < n_steps) W::load_from_tile(&raw[n], tile + W::step_at(step), tile + W::super_at(step), lane);
        }
#pragma unroll
        for (int n = 0; n < UNPACK_STEPS; n++) {
            int step = first + n * UNPACK_WARPS;
            if (step >= n_steps) break;
            kvq_half_weights w;
            W::unpack(&w, raw[n], lane);
#pragma unroll
            for (int i = 0; i < KVQ_LANE_ROWS; i++) {
                int o = group * KVQ_WARP_ROWS + KVQ_LANE_ROWS * g + i;
                uint16_t *to = halves + ((size_t)(o - begin) * n_steps + step) * KVQ_STEP + 8 * t;
                if (o >= begin && o < end) kvq_store_16(to, kvq_row_pairs(w, i));
            }
        }
    }
}

/* ---- results ---- */

/* Outputs begin .. end - 1 of a part out of the sums, whose first is output `begin`. */
__global__ void __launch_bounds__(STORE_THREADS)
    store_sums(KVQ_ARGUMENT(kvq_linear) job, KVQ_ARGUMENT(kvq_matrix_part) part, const float *sums, const float *scales,
               int sums_apart, int n_in, int n_out, int begin, int end) {
    kvq_wait_for_launches();
    int row = blockIdx.x, first = begin + (int)blockIdx.y * STORE_OUTS * STORE_THREADS + (int)threadIdx.x;
    bool is_coded = part.layout.bits > 0;
    float sum[STORE_OUTS], scale = scales[row];
    kvq_addends plus[STORE_OUTS];
#pragma unroll
    for (int k = 0; k < STORE_OUTS; k++) {
        int o = first + k * STORE_THREADS;
        if (o >= end) break;
        sum[k] = sums[(size_t)row * sums_apart + o - begin];
        plus[k] = kvq_load_addends(job, part, n_out, o, row);
    }
#pragma unroll
    for (int k = 0; k < STORE_OUTS; k++) {
        int o = first + k * STORE_THREADS;
        if (o >= end) break;
        if (kvq_is_finite(scale) ? kvq_is_finite(sum[k]) : is_coded) /* an infinity among floats is more than a NaN */
            kvq_store_sum(job, part, n_out, o, row, sum[k] * scale, plus[k]);
        else
            kvq_store_exactly(job, part, n_in, n_out, o, row);
    }
}

/* ---- the host's part ---- */

typedef void unpack_fn(kvq_stream *s, const kvq_matrix_part *part, uint16_t *halves, int n_steps, int begin, int end);

template <typename W>
static void unpack(kvq_stream *s, const kvq_matrix_part *part, uint16_t *halves, int n_steps, int begin, int end) {
    dim3 grid(kvq_cuda_blocks(n_steps, UNPACK_STEPS * UNPACK_WARPS),
              kvq_cuda_blocks(end, KVQ_WARP_ROWS) - begin / KVQ_WARP_ROWS);
    KVQ_LAUNCH((unpack_rows<W>), grid, dim3(UNPACK_THREADS), 0, s, *part, halves, n_steps, begin, end);
}

/* Every layout that linear_halves.cu takes, which was asked before. */
static const struct kind {
    kvq_linear_key key;
    kvq_format format; /* of float weights */
    unpack_fn *unpack;
} kinds[] = {
#define CODED(bits, group, zero, scale, min)      \
    {{bits, group, zero, KVQ_SCALE_##scale, min}, \
     KVQ_FORMAT_COUNT,                            \
     unpack<kvq_half_coded<kvq_coded<bits, group, zero, KVQ_SCALE_##scale, min>>>},
    {{0, 1, 0, KVQ_SCALE_NONE, false}, KVQ_FORMAT_F16, unpack<kvq_half_floats<KVQ_FORMAT_F16>>},
    {{0, 1, 0, KVQ_SCALE_NONE, false}, KVQ_FORMAT_BF16, unpack<kvq_half_floats<KVQ_FORMAT_BF16>>},
    KVQ_CODED_MAP(CODED)
#undef CODED
};

static unpack_fn *unpack_of(const kvq_layout *layout) {
    const struct kind *kind = kinds;
    while (!kvq_linear_fits(&kind->key, layout) || kind->format != layout->kind) kind++;
    return kind->unpack;
}

/* A part's own outputs begin .. end - 1, if it has some in the slice, and where they stand in it. */
typedef struct range {
    int begin, end, at;
} range;

static bool is_in_slice(const kvq_matrix_part *part, int slice_begin, int slice_end, range *ret) {
    int begin = slice_begin - part->row_begin, end = slice_end - part->row_begin;
    ret->begin = begin > 0 ? begin : 0;
    ret->end = end < part->n_rows ? end : part->n_rows;
    ret->at = ret->begin - begin;
    return ret->begin < ret->end;
}

/* What a product takes of the workspace. */
typedef struct slice {
    kvq_half_rows x;
    uint16_t *w;
    float *sums;
    int n_outs; /* at most; the sums' rows are as far apart */
} slice;

static bool take_slice(kvq_stream *s, int n_rows, int n_in, slice *ret) {
    size_t used = 0, rows = (size_t)n_rows, inputs = (size_t)n_in, outs = (size_t)slice_outs(&s->shapes);
    *ret = slice{};
    ret->x.n_in = ret->x.row_apart = n_in;
    ret->x.halves = (uint16_t *)kvq_cuda_take(s, &used, rows * inputs * sizeof(uint16_t));
    ret->x.scale = (float *)kvq_cuda_take(s, &used, rows * sizeof(float));
    ret->w = (uint16_t *)kvq_cuda_take(s, &used, outs * inputs * sizeof(uint16_t));
    ret->sums = (float *)kvq_cuda_take(s, &used, outs * rows * sizeof(float));
    ret->n_outs = (int)outs;
    return ret->x.halves && ret->x.scale && ret->w && ret->sums;
}

static kvq_status multiply(kvq_stream *s, const slice *with, int n_outs, int n_rows, kvq_error *err) {
    const kvq_cublas_product product = {with->sums, with->w,      with->x.halves, n_outs,
                                        n_rows,     with->x.n_in, with->n_outs};
    return kvq_cublas_multiply(s->cublas, &product, err);
}

/* Outputs begin .. end - 1 of the whole matrix. */
static void make_slice(kvq_stream *s, const kvq_linear *job, const slice *with, int begin, int end) {
    const kvq_matrix *m = job->w;
    kvq_error error;
    range r;
    for (int p = 0; p < m->n_parts; p++)
        if (is_in_slice(&m->parts[p], begin, end, &r))
            unpack_of (&m->parts[p].layout)(s, &m->parts[p], with->w + (size_t)r.at * m->n_in, m->n_in / KVQ_STEP,
                                            r.begin, r.end);
    if (multiply(s, with, end - begin, job->n_rows, &error)) kvq_cuda_fail(s, error.code, "%s", error.text);
    for (int p = 0; p < m->n_parts; p++) {
        if (!is_in_slice(&m->parts[p], begin, end, &r)) continue;
        dim3 grid(job->n_rows, kvq_cuda_blocks(r.end - r.begin, STORE_OUTS * STORE_THREADS));
        KVQ_LAUNCH(store_sums, grid, dim3(STORE_THREADS), 0, s, *job, m->parts[p], with->sums + r.at, with->x.scale,
                   with->n_outs, m->n_in, m->n_out, r.begin, r.end);
    }
}

static bool takes_cublas(const kvq_stream *s, const kvq_matrix *m, int n_rows) {
    return s->cublas && n_rows >= s->cublas_rows && kvq_cuda_takes_halves(s, m, n_rows);
}

bool kvq_cuda_linear_cublas(kvq_stream *s, const kvq_linear *job) {
    const kvq_matrix *m = job->w;
    slice with;
    if (!takes_cublas(s, m, job->n_rows)) return false;
    if (!take_slice(s, job->n_rows, m->n_in, &with)) return true; /* an error of the stream */
    kvq_cuda_convert_rows(s, job, &with.x); /* first: a flush settles what is held, and this may take it */
    kvq_cuda_flush(s);
    for (int begin = 0; begin < m->n_out && s->error.code == KVQ_OK; begin += with.n_outs)
        make_slice(s, job, &with, begin, m->n_out - begin < with.n_outs ? m->n_out : begin + with.n_outs);
    return true;
}

/* ---- the start ---- */

/* KVQ_CUDA_CUBLAS_ROWS in the environment is the least instead of the table's, on every device, to measure where it is.
 */
int kvq_cuda_least_cublas_rows(int capability) {
    const char *wish = secure_getenv("KVQ_CUDA_CUBLAS_ROWS");
    int n_rows = wish ? atoi(wish) : 0;
    return n_rows > 0 ? n_rows : kvq_cuda_cublas_rows(capability);
}

/* A product as large as they come: a library that does not fit this device is found out now, and what it loads for such
 * sizes is loaded now. */
kvq_status kvq_cuda_try_cublas(kvq_stream *s, kvq_error *err) {
    slice with;
    if (!take_slice(s, s->shapes.max_rows, s->shapes.max_in / KVQ_STEP * KVQ_STEP, &with))
        return kvq_fail(err, KVQ_INTERNAL, "%s", s->error.text);
    kvq_status status = multiply(s, &with, with.n_outs, s->shapes.max_rows, err);
    if (status) return status;
    cudaError_t error = cudaStreamSynchronize(s->cuda);
    if (error == cudaSuccess) return KVQ_OK;
    (void)cudaGetLastError(); /* it is told here */
    return kvq_fail(err, KVQ_DEVICE, "cuBLAS: a first product: %s (%s)", cudaGetErrorName(error),
                    cudaGetErrorString(error));
}
