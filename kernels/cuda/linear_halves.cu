/* linear_halves.cu: products of many rows in half precision, where results may depend on the batch (kvq_shapes): what
 * linear.cu's many_rows costs in scaling integer sums is spared, since scales go into the weights, once for all rows of
 * a block. Activations are halves, finer than int8; sums are floats.
 *
 *   A block is 256 output rows times 128 activation rows, a warp 32 of the former and all of the latter, so that each
 *   code is unpacked by one warp only, in registers, into its own words of A (halves.cuh), while the tensor cores are
 * at the step before. Codes and activations come into shared memory by asynchronous copies, two steps ahead. Blocks of
 * the same outputs are neighbours: the weights come from memory once, the activations stay in the L2 cache.
 *
 * Ranges: a row of activations whose largest is not between 2^-8 and 2^15 is brought to 2^8 by a power of two that its
 * results are multiplied with. A weight beyond a half's range makes a sum that is not finite: such a result is
 * computed again in float, one by one. A row with a NaN or an infinity gives NaN with codes, and what floats give with
 * floats, as everywhere.
 *
 * Weights in F16 and BF16 go the same way. Steps of still more rows are linear_cublas.cu's on some devices. What
 * they cost: docs/cuda.md. */
#include "stream.h"

#include "halves.cuh"
#include "linear_halves.cuh"
#include "warp.cuh"

#define CONVERT_THREADS 256

#define WARPS 8
#define THREADS (WARPS * KVQ_WARP_LANES)
#define OUTS (WARPS * KVQ_WARP_ROWS) /* output rows of a block */
#define ROWS 128                     /* activation rows */
#define TILES (OUTS / KVQ_TILE_ROWS)
#define PRODUCTS (ROWS / KVQ_COLUMNS)
#define STAGES 4

#define LEAST_ROWS 65 /* fewer are linear.cu's */

/* Activations of a launch. */
typedef struct half_activations {
    kvq_half_columns *columns; /* [n_rows / 8, n_steps]; rows behind n_rows, up to whole blocks, are anything */
    float *scale;              /* [n_rows] of the row's results; NaN where they are */
    int n_steps;
} half_activations;

static size_t columns_bytes(int n_rows, int n_in) {
    return (size_t)kvq_cuda_blocks(n_rows, ROWS) * ROWS * (size_t)n_in * sizeof(uint16_t);
}

size_t kvq_cuda_halves_bytes(const kvq_shapes *shapes) {
    return kvq_cuda_aligned(columns_bytes(shapes->max_rows, shapes->max_in)) +
           kvq_cuda_aligned((size_t)shapes->max_rows * sizeof(float));
}

/* ---- activations ---- */

/* What a row is multiplied with to be in range, and its results after that; powers of two. bits: of the largest |x|. */
static __device__ __forceinline__ float scale_of(int bits, float *inverse) {
    const int least = (127 - 8) << 23, most = (127 + 15) << 23, infinity = 0x7f800000;
    *inverse = 1.0f;
    if (bits >= infinity) {
        *inverse = 0.0f;
        return __int_as_float(0x7fc00000);
    }
    if ((bits >= least && bits < most) || __int_as_float(bits) < KVQ_ACT_TINY) return 1.0f;
    int exponent = (bits >> 23) - 8;
    *inverse = __int_as_float((254 - exponent) << 23);
    return __int_as_float(exponent << 23);
}

/* A block is a row; a thread has eight inputs at a time, a lane's of the products. */
__global__ void convert_rows(const float *in, kvq_half_rows to) {
    KVQ_SHARED(int, scratch, KVQ_WARP_LANES);
    kvq_wait_for_launches();
    int row = blockIdx.x, largest = 0;
    const float *from = in + (size_t)row * to.n_in;
    for (int i = threadIdx.x; i < to.n_in; i += CONVERT_THREADS)
        largest = kvq_larger<int>(largest, __float_as_int(fabsf(from[i])));
    float inverse, scale = scale_of(kvq_block_max<int>(largest, scratch), &inverse);
    if (threadIdx.x == 0) to.scale[row] = scale;
    uint16_t *halves =
        to.halves + (size_t)(row / KVQ_COLUMNS) * KVQ_COLUMNS * to.n_in + (size_t)(row % KVQ_COLUMNS) * to.row_apart;
    for (int i = threadIdx.x * 8; i < to.n_in; i += CONVERT_THREADS * 8) {
        float4 low = *(const float4 *)(from + i), high = *(const float4 *)(from + i + 4);
        uint4 words;
        words.x = kvq_two_halves(low.x * inverse, low.z * inverse); /* the order of kvq_half_input */
        words.y = kvq_two_halves(low.y * inverse, low.w * inverse);
        words.z = kvq_two_halves(high.x * inverse, high.z * inverse);
        words.w = kvq_two_halves(high.y * inverse, high.w * inverse);
        kvq_store_16(halves + (size_t)(i / KVQ_STEP) * to.step_apart + i % KVQ_STEP, words);
    }
}

void kvq_cuda_convert_rows(kvq_stream *s, const kvq_linear *job, const kvq_half_rows *to) {
    KVQ_LAUNCH(convert_rows, dim3(job->n_rows), dim3(CONVERT_THREADS), 0, s, job->in, *to);
}

/* ---- copies ---- */

/* A step in shared memory: of each tile its super scales and the step, then the activations. */
template <typename W> struct stage {
    static constexpr int TILE_CHUNKS = (W::SUPER_BYTES + W::STEP_BYTES) / 16, CHUNKS = TILES * TILE_CHUNKS,
                         COPIES = (CHUNKS + THREADS - 1) / THREADS, /* of a thread */
        COLUMNS_AT = CHUNKS * 16, COLUMN_CHUNKS = sizeof(kvq_half_columns) / 16,
                         COLUMN_COPIES = PRODUCTS * COLUMN_CHUNKS / THREADS,
                         BYTES = COLUMNS_AT + PRODUCTS * (int)sizeof(kvq_half_columns);
};

/* Where a thread's copies come from and go to. */
template <typename W> struct half_copies {
    const uint8_t *tile[stage<W>::COPIES]; /* its 16 bytes at a super scale or a step whose offset is 0 */
    int to[stage<W>::COPIES];
    bool is_super[stage<W>::COPIES];
    const uint8_t *columns; /* the first; the others are blocks of rows behind it */
};

template <typename W>
static __device__ __forceinline__ void copies_of(half_copies<W> *ret, const kvq_matrix_part &part,
                                                 const half_activations &x, int row, int first_tile) {
    typedef stage<W> S;
    int thread = threadIdx.x;
#pragma unroll
    for (int n = 0; n < S::COPIES; n++) {
        const int supers = W::SUPER_BYTES / 16;
        int chunk = n * THREADS + thread, tile = chunk / S::TILE_CHUNKS, at = chunk % S::TILE_CHUNKS;
        ret->is_super[n] = at < supers;
        ret->tile[n] = kvq_tile_of(part, first_tile + tile) + (at < supers ? at : at - supers) * 16;
        ret->to[n] = (tile * S::TILE_CHUNKS + W::place(at)) * 16;
    }
    ret->columns = (const uint8_t *)(x.columns + (size_t)(row / KVQ_COLUMNS + thread / S::COLUMN_CHUNKS) * x.n_steps) +
                   thread % S::COLUMN_CHUNKS * 16;
}

/* Asks for a step's bytes; for those behind the last once more for the last's, so that the loop has no branches. */
template <typename W>
static __device__ __forceinline__ void copy_step(KVQ_SHARED_PTR(uint8_t) to, const half_copies<W> &from, int step,
                                                 int n_steps) {
    typedef stage<W> S;
    if (step >= n_steps) step = n_steps - 1;
    int step_at = W::step_at(step), super_at = W::super_at(step), thread = threadIdx.x;
#pragma unroll
    for (int n = 0; n < S::COPIES; n++)
        if (n * THREADS + thread < S::CHUNKS)
            kvq_copy_async(to + from.to[n], from.tile[n] + (from.is_super[n] ? super_at : step_at), 16);
    const uint8_t *columns = from.columns + (size_t)step * sizeof(kvq_half_columns);
    size_t apart = (size_t)(THREADS / S::COLUMN_CHUNKS) * n_steps * sizeof(kvq_half_columns);
#pragma unroll
    for (int n = 0; n < S::COLUMN_COPIES; n++)
        kvq_copy_async(to + (S::COLUMNS_AT + (n * THREADS + thread) * 16), columns + n * apart, 16);
    kvq_copy_commit();
}

/* ---- products ---- */

template <typename W>
static __device__ __forceinline__ void multiply(const kvq_linear &job, const kvq_matrix_part &part,
                                                const half_activations &x, int n_out) {
    typedef stage<W> S;
    KVQ_SHARED_DYNAMIC(uint8_t, stages);
    int warp = threadIdx.x / KVQ_WARP_LANES, lane = threadIdx.x % KVQ_WARP_LANES, g = lane / 4, t = lane % 4;
    int row = (int)blockIdx.x * ROWS, out = (int)blockIdx.y * OUTS;
    int tile_at = (warp * 2 + g / 4) * S::TILE_CHUNKS * 16; /* the lane's */
    float acc[PRODUCTS][KVQ_LANE_ROWS / 2][4] = {};
    half_copies<W> from;
    copies_of<W>(&from, part, x, row, out / KVQ_TILE_ROWS);
    for (int step = 0; step < STAGES - 1; step++) copy_step<W>(stages + step * S::BYTES, from, step, x.n_steps);
    kvq_copy_wait<STAGES - 2>();
    __syncthreads();
    kvq_half_weights next;
    typename W::raw raw;
    W::load(&raw, stages + (tile_at + W::SUPER_BYTES), stages + tile_at, lane);
    W::unpack(&next, raw, lane);
    for (int step = 0; step < x.n_steps; step++) {
        KVQ_SHARED_PTR(uint8_t) here = stages + step % STAGES * S::BYTES;
        KVQ_SHARED_PTR(uint8_t) behind = stages + (step + 1) % STAGES * S::BYTES;
        kvq_half_weights w = next;
        kvq_copy_wait<STAGES - 3>();
        __syncthreads(); /* the next step is there for all, and all have done with the one before this */
        W::load(&raw, behind + (tile_at + W::SUPER_BYTES), behind + tile_at, lane);
        W::unpack(&next, raw, lane);
#pragma unroll
        for (int p = 0; p < PRODUCTS; p++) {
            uint32_t b[4];
            kvq_read_words<4>(b, here + (S::COLUMNS_AT + p * (int)sizeof(kvq_half_columns) + lane * 16));
#pragma unroll
            for (int q = 0; q < 2; q++)
#pragma unroll
                for (int i = 0; i < KVQ_LANE_ROWS / 2; i++) kvq_mma_halves(acc[p][i], w.a[i][q], b + 2 * q);
            if (p == 1) /* while the tensor cores are busy */
                copy_step<W>(stages + (step + STAGES - 1) % STAGES * S::BYTES, from, step + STAGES - 1, x.n_steps);
        }
    }
    kvq_copy_wait<0>(); /* of the steps behind the last */
    uint32_t again = 0; /* fours of results that are to be computed in float */
    int o = out + warp * KVQ_WARP_ROWS + KVQ_LANE_ROWS * g;
#pragma unroll
    for (int p = 0; p < PRODUCTS; p++)
#pragma unroll
        for (int n = 0; n < KVQ_LANE_COLUMNS; n++) {
            int r = row + p * KVQ_COLUMNS + 2 * t + n;
            const float *c = acc[p][0] + n, *d = acc[p][1] + n;
            float scale = r < job.n_rows ? x.scale[r] : 0.0f;
            float sum[KVQ_LANE_ROWS] = {c[0], c[2], d[0], d[2]};
            bool finite =
                kvq_is_finite(sum[0]) && kvq_is_finite(sum[1]) && kvq_is_finite(sum[2]) && kvq_is_finite(sum[3]);
#pragma unroll
            for (int i = 0; i < KVQ_LANE_ROWS; i++) sum[i] *= scale;
            if (kvq_is_finite(scale) ? finite : W::CODED) /* an infinity among floats is more than a NaN */
                kvq_store_four(job, part, n_out, o, r, sum);
            else
                again |= 1u << (p * KVQ_LANE_COLUMNS + n);
        }
    for (int e = 0; again != 0; e++, again >>= 1)
        for (int i = 0; i < KVQ_LANE_ROWS && again % 2 == 1; i++)
            kvq_store_exactly(job, part, x.n_steps * KVQ_STEP, n_out, o + i,
                              row + e / KVQ_LANE_COLUMNS * KVQ_COLUMNS + 2 * t + e % KVQ_LANE_COLUMNS);
}

template <typename W>
__global__ void __launch_bounds__(THREADS, 1)
    half_rows(KVQ_ARGUMENT(kvq_linear) job, KVQ_ARGUMENT(kvq_matrix_part) part, KVQ_ARGUMENT(half_activations) x,
              int n_out) {
    kvq_wait_for_launches();
    if constexpr (KVQ_BUILT_FOR_HALVES(W::CODED)) multiply<W>(job, part, x, n_out);
}

/* ---- the host's part ---- */

template <typename W>
static void launch(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const half_activations *x) {
    dim3 grid(kvq_cuda_blocks(job->n_rows, ROWS), kvq_cuda_blocks(part->n_rows, OUTS));
    KVQ_LAUNCH((half_rows<W>), grid, dim3(THREADS), STAGES * stage<W>::BYTES, s, *job, *part, *x, job->w->n_out);
}
template <typename W> static cudaError_t allow() {
    return cudaFuncSetAttribute(half_rows<W>, cudaFuncAttributeMaxDynamicSharedMemorySize, STAGES * stage<W>::BYTES);
}

static const struct kind {
    kvq_linear_key key;
    kvq_format format; /* of float weights */
    size_t shared_bytes;
    void (*launch)(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const half_activations *x);
    cudaError_t (*allow)();
} kinds[] = {
#define KIND(...) STAGES *stage<__VA_ARGS__>::BYTES, launch<__VA_ARGS__>, allow<__VA_ARGS__>
#define CODED(bits, group, zero, scale, min)      \
    {{bits, group, zero, KVQ_SCALE_##scale, min}, \
     KVQ_FORMAT_COUNT,                            \
     KIND(kvq_half_coded<kvq_coded<bits, group, zero, KVQ_SCALE_##scale, min>>)},
    {{0, 1, 0, KVQ_SCALE_NONE, false}, KVQ_FORMAT_F16, KIND(kvq_half_floats<KVQ_FORMAT_F16>)},
    {{0, 1, 0, KVQ_SCALE_NONE, false}, KVQ_FORMAT_BF16, KIND(kvq_half_floats<KVQ_FORMAT_BF16>)},
    KVQ_CODED_MAP(CODED)
#undef CODED
#undef KIND
};

kvq_status kvq_cuda_allow_halves(size_t shared_bytes, kvq_error *err) {
    for (const struct kind &kind : kinds) {
        cudaError_t error = kind.shared_bytes <= shared_bytes ? kind.allow() : cudaSuccess;
        if (error != cudaSuccess)
            return kvq_fail(err, KVQ_DEVICE, "asking for %zu bytes of shared memory a block: %s", kind.shared_bytes,
                            cudaGetErrorString(error));
    }
    return KVQ_OK;
}

/* NULL: F32, which halves would cut short. */
static const struct kind *find_kind(const kvq_layout *layout) {
    for (const struct kind &kind : kinds)
        if (kvq_linear_fits(&kind.key, layout) && kind.format == layout->kind) return &kind;
    return NULL;
}

/* Float weights always: linear.cu multiplies them without tensor cores. Codes where there are blocks for every second
 * SM at least: many_rows has four times as many, of half the speed. */
bool kvq_cuda_takes_halves(const kvq_stream *s, const kvq_matrix *m, int n_rows) {
    if (!s->shapes.depends_on_batch || n_rows < LEAST_ROWS || m->n_in % KVQ_STEP != 0) return false;
    bool coded = false;
    for (int p = 0; p < m->n_parts; p++) {
        const struct kind *kind = find_kind(&m->parts[p].layout);
        if (!kind || kind->shared_bytes > s->shared_bytes) return false;
        coded |= m->parts[p].layout.bits > 0;
    }
    int n_blocks = kvq_cuda_blocks(n_rows, ROWS) * kvq_cuda_blocks(m->n_out, OUTS);
    return !coded ||
           (kvq_has_fast_halves(s->capability) && kvq_has_fast_halves(s->built_for) && 2 * n_blocks >= s->n_sms);
}

bool kvq_cuda_linear_halves(kvq_stream *s, const kvq_linear *job) {
    const kvq_matrix *m = job->w;
    size_t used = 0;
    if (!kvq_cuda_takes_halves(s, m, job->n_rows)) return false;
    half_activations x = {};
    x.n_steps = m->n_in / KVQ_STEP;
    x.columns = (kvq_half_columns *)kvq_cuda_take(s, &used, columns_bytes(job->n_rows, m->n_in));
    x.scale = (float *)kvq_cuda_take(s, &used, (size_t)job->n_rows * sizeof(float));
    if (!x.columns || !x.scale) return true; /* an error of the stream */
    const kvq_half_rows rows = {(uint16_t *)x.columns, x.scale, m->n_in, KVQ_STEP,
                                (int)(sizeof(kvq_half_columns) / sizeof(uint16_t))};
    kvq_cuda_convert_rows(s, job, &rows);
    for (int p = 0; p < m->n_parts; p++) find_kind(&m->parts[p].layout)->launch(s, job, &m->parts[p], &x);
    return true;
}
