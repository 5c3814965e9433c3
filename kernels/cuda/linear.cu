/* linear.cu: matrix products (../matrix.h) on tensor cores: activations to int8 by a kernel of their own, exactly as on
 * the CPU, then int8 products of a step of 32 inputs at once, scaled in float. The integers are the CPU's; only the
 * order of the float sums differs:
 *
 *   The steps of a row are cut into at most 16 slices, by n_in alone. A slice is one chain, slices are added in order.
 *
 * Both kernels keep to that, so that the bits of a result do not depend on how many rows a step has:
 *
 *   few_rows   up to 64 rows: a block is 32 output rows times up to 16 activation rows, a warp is a slice. Weights go
 *              from memory to registers, each byte once per 16 rows; blocks that share them run side by side, so that
 *              the second time they come from the L2 cache.
 *   many_rows  a block is 128 output rows times 64 activation rows, which come into shared memory by asynchronous
 *              copies, three steps ahead; a warp is 32 x 32, and goes through the slices one after the other.
 *
 * What that costs (docs/cuda.md has the sums): few_rows takes 28 instructions of a warp for 16 rows x 32 inputs, 288
 * bytes at 4 bits, and 8 activation rows; an H100 has time for 77 while it reads them. dp4a would take half of that at
 * one row and more from four rows on; as memory is the limit either way, one kernel does all. many_rows is bound by the
 * three float instructions that scale an integer sum, which is why no tile shape was tuned.
 *
 * Float weights: a block of 128 threads is one tile of 16 output rows times up to 8 activation rows, plain: its 8
 * half-warps take every eighth input and are added in order.
 *
 * Not measured on any GPU yet. */
#include "stream.h"

#include "fragments.cuh"
#include "warp.cuh"

#define QUANTIZE_THREADS 256

#define SLICES 16 /* at most */
#define FEW_THREADS (SLICES * KVQ_WARP_LANES)
#define FEW_ROWS 64 /* more: many_rows */
#define AHEAD 2     /* steps that a warp of few_rows loads at once */

#define OUTS 128 /* output rows of a block of many_rows */
#define ROWS 64  /* activation rows */
#define MANY_TILES (OUTS / KVQ_TILE_ROWS)
#define WARP_COLUMNS 32 /* activation rows of a warp */
#define OUT_WARPS (OUTS / KVQ_WARP_ROWS)
#define MANY_THREADS (OUT_WARPS * (ROWS / WARP_COLUMNS) * KVQ_WARP_LANES)
#define STAGES 4

#define FLOAT_SLICES 8
#define FLOAT_THREADS (FLOAT_SLICES * KVQ_TILE_ROWS)
#define FLOAT_ROWS 8 /* activation rows of a block */

/* Quantized activations of a launch. Scales and sums stand by step, so that a lane finds its two rows side by side. */
typedef struct activations {
    const int8_t *q; /* [n_rows, n_in] */
    const float *d;  /* [n_in / 32, padded] */
    const int *sums; /* [n_in / 32, padded, 2] of each 16 inputs */
    int n_rows, n_in;
    int padded;                      /* n_rows, to whole blocks of many_rows; what is behind n_rows may be anything */
    int n_steps, in_slice, n_slices; /* steps, those of a slice, and slices */
} activations;

static int padded_rows(int n_rows) {
    return kvq_cuda_blocks(n_rows, ROWS) * ROWS;
}

size_t kvq_cuda_linear_bytes(const kvq_shapes *shapes) {
    size_t rows = (size_t)padded_rows(shapes->max_rows), n_in = (size_t)shapes->max_in + KVQ_STEP;
    return kvq_cuda_aligned(rows * n_in) + kvq_cuda_aligned(rows * (n_in / KVQ_STEP) * sizeof(float)) +
           kvq_cuda_aligned(rows * (n_in / 16) * sizeof(int));
}

/* ---- activations ---- */

/* A warp is a group of 32 values of a row. The largest is taken over the bits of |x|, whose order is that of the floats
 * with NaN and infinity above all of them. */
__global__ void quantize_groups(const float *x, int8_t *q, float *d, int *sums, activations a) {
    int group = blockIdx.x * (QUANTIZE_THREADS / KVQ_WARP_LANES) + threadIdx.x / KVQ_WARP_LANES;
    int lane = threadIdx.x % KVQ_WARP_LANES;
    if (group >= a.n_rows * a.n_steps) return; /* whole warps */
    size_t at = (size_t)group * KVQ_STEP + lane, to = (size_t)(group % a.n_steps) * a.padded + group / a.n_steps;
    float value = x[at];
    int bits = kvq_warp_max(__float_as_int(fabsf(value)));
    float largest = __int_as_float(bits);
    bool finite = bits < 0x7f800000, some = finite && largest >= KVQ_ACT_TINY;
    float scale = largest / 127.0f, inverse = some ? 1.0f / scale : 0.0f;
    int code = some ? __float2int_rn(value * inverse) : 0, sum = code;
    for (int n = 8; n > 0; n /= 2) sum += __shfl_xor_sync(KVQ_WARP, sum, n); /* of each half */
    q[at] = (int8_t)code;
    if (lane % 16 == 0) sums[to * 2 + lane / 16] = sum;
    if (lane == 0) d[to] = some ? scale : finite ? 0.0f : __int_as_float(0x7fc00000);
}

/* ---- results ---- */

/* Output o of the part, activation row `row`: bias and residual in the CPU's order. */
static __device__ __forceinline__ void store(const kvq_linear &job, const kvq_matrix_part &part, int n_out, int o,
                                             int row, float value) {
    if (o >= part.n_rows || row >= job.n_rows) return;
    size_t at = (size_t)row * n_out + part.row_begin + o;
    if (job.bias) value += job.bias[part.row_begin + o];
    if (job.residual) value += job.residual[at];
    job.out[at] = value;
}

/* A part's tile; the last one for those behind, whose results nobody stores. */
static __device__ __forceinline__ const uint8_t *tile_of(const kvq_matrix_part &part, int tile) {
    int last = (part.n_rows - 1) / KVQ_TILE_ROWS;
    return part.data + (size_t)(tile < last ? tile : last) * part.tile_bytes;
}

/* ---- few rows ---- */

/* Eight activation rows from `row` on; for rows behind n_rows the last one's bytes. */
static __device__ __forceinline__ void load_columns(kvq_columns *ret, const activations &x, int step, int row,
                                                    int lane) {
    int g = row + lane / 4, t = lane % 4, last = x.n_rows - 1;
    size_t pair = (size_t)step * x.padded + row + 2 * t;
    uint2 q = *(const uint2 *)(x.q + (size_t)(g < last ? g : last) * x.n_in + step * KVQ_STEP + 8 * t);
    float2 d = *(const float2 *)(x.d + pair);
    int4 sums = *(const int4 *)(x.sums + 2 * pair);
    *ret = kvq_columns{{q.x, q.y}, {d.x, d.y}, {{sums.x, sums.y}, {sums.z, sums.w}}};
}

/* The slices' sums, a warp per activation row, a lane per output row. */
template <int PRODUCTS>
static __device__ __forceinline__ void merge_slices(const kvq_linear &job, const kvq_matrix_part &part, int n_out,
                                                    int row, KVQ_SHARED_PTR(float) partial, int n_slices) {
    int column = threadIdx.x / KVQ_WARP_LANES, lane = threadIdx.x % KVQ_WARP_LANES;
    if (column >= PRODUCTS * KVQ_COLUMNS) return;
    float sum = partial[column * KVQ_WARP_ROWS + lane];
    for (int s = 1; s < n_slices; s++) sum += partial[(s * PRODUCTS * KVQ_COLUMNS + column) * KVQ_WARP_ROWS + lane];
    store(job, part, n_out, (int)blockIdx.y * KVQ_WARP_ROWS + lane, row + column, sum);
}

/* PRODUCTS times 8 activation rows. */
template <typename K, int PRODUCTS>
__global__ void __launch_bounds__(FEW_THREADS, PRODUCTS == 1 ? 2 : 1)
    few_rows(kvq_linear job, kvq_matrix_part part, activations x, int n_out) {
    KVQ_SHARED(float, partial, SLICES *PRODUCTS *KVQ_COLUMNS *KVQ_WARP_ROWS);
    int slice = threadIdx.x / KVQ_WARP_LANES, lane = threadIdx.x % KVQ_WARP_LANES, g = lane / 4, t = lane % 4;
    int row = (int)blockIdx.x * PRODUCTS * KVQ_COLUMNS;
    int begin = slice * x.in_slice, end = begin + x.in_slice < x.n_steps ? begin + x.in_slice : x.n_steps;
    const uint8_t *tile = tile_of(part, (int)blockIdx.y * 2 + g / 4);
    float acc[PRODUCTS][KVQ_LANE_ROWS][KVQ_LANE_COLUMNS] = {};
    for (int step = begin; step < end; step += AHEAD) {
        kvq_raw<K> raw[AHEAD];
#pragma unroll
        for (int n = 0; n < AHEAD; n++) {
            int at = step + n < end ? step + n : end - 1;
            kvq_load_step<K>(&raw[n], tile + kvq_step_at<K>(at), tile + kvq_super_at<K>(at), lane);
        }
#pragma unroll
        for (int n = 0; n < AHEAD; n++) {
            if (step + n >= end) break;
            kvq_weights<K> weights;
            kvq_unpack_step<K>(&weights, raw[n], lane);
#pragma unroll
            for (int p = 0; p < PRODUCTS; p++) {
                kvq_columns columns;
                load_columns(&columns, x, step + n, row + p * KVQ_COLUMNS, lane);
                kvq_add_step<K>(acc[p], weights, columns, part.layout.zero, lane);
            }
        }
    }
    for (int p = 0; p < PRODUCTS; p++)
        for (int i = 0; i < KVQ_LANE_ROWS; i++)
            for (int n = 0; n < KVQ_LANE_COLUMNS; n++) {
                int column = (slice * PRODUCTS + p) * KVQ_COLUMNS + 2 * t + n;
                partial[column * KVQ_WARP_ROWS + KVQ_LANE_ROWS * g + i] = acc[p][i][n];
            }
    __syncthreads();
    merge_slices<PRODUCTS>(job, part, n_out, row, partial, x.n_slices);
}

/* ---- many rows ---- */

/* A step in shared memory: bytes of the tiles, of the activations, their scales and sums. */
template <typename K> struct stage {
    static constexpr int Q = MANY_TILES * K::STEP_BYTES, D = Q + ROWS * KVQ_STEP, SUMS = D + ROWS * 4,
                         BYTES = SUMS + ROWS * 8;
};

/* Copies `bytes`, a multiple of 16, that stand in one piece, spread over the block. */
static __device__ __forceinline__ void copy_piece(KVQ_SHARED_PTR(uint8_t) to, const void *from, int bytes) {
    for (int i = threadIdx.x * 16; i < bytes; i += MANY_THREADS * 16)
        kvq_copy_async(to + i, (const uint8_t *)from + i, 16);
}

/* Asks for a step's bytes; rows behind n_rows are zeros. Nothing for steps behind the last, but a group all the same.
 */
template <typename K>
static __device__ __forceinline__ void copy_step(KVQ_SHARED_PTR(uint8_t) to, const kvq_matrix_part &part,
                                                 const activations &x, int step, int row) {
    if (step < x.n_steps) {
        const int chunks = K::STEP_BYTES / 16;
        for (int i = threadIdx.x; i < MANY_TILES * chunks; i += MANY_THREADS) {
            const uint8_t *tile = tile_of(part, (int)blockIdx.x * MANY_TILES + i / chunks);
            kvq_copy_async(to + 16 * i, tile + kvq_step_at<K>(step) + i % chunks * 16, 16);
        }
        for (int i = threadIdx.x; i < ROWS * KVQ_STEP / 16; i += MANY_THREADS) {
            int r = row + i / 2, last = x.n_rows - 1;
            const int8_t *from = x.q + (size_t)(r < last ? r : last) * x.n_in + step * KVQ_STEP + i % 2 * 16;
            kvq_copy_async(to + (stage<K>::Q + 16 * i), from, r <= last ? 16 : 0);
        }
        size_t at = (size_t)step * x.padded + row;
        copy_piece(to + stage<K>::D, x.d + at, ROWS * 4);
        copy_piece(to + stage<K>::SUMS, x.sums + 2 * at, ROWS * 8);
    }
    kvq_copy_commit();
}

/* Eight activation rows of a stage, from row `first` of the block on. */
template <typename K>
static __device__ __forceinline__ void read_columns(kvq_columns *ret, KVQ_SHARED_PTR(uint8_t) from, int first,
                                                    int lane) {
    int pair = first + lane % 4 * 2;
    uint2 q = kvq_read<uint2>(from + (stage<K>::Q + first * KVQ_STEP + lane * 8));
    float2 d = kvq_read<float2>(from + (stage<K>::D + pair * 4));
    int4 sums = kvq_read<int4>(from + (stage<K>::SUMS + pair * 8));
    *ret = kvq_columns{{q.x, q.y}, {d.x, d.y}, {{sums.x, sums.y}, {sums.z, sums.w}}};
}

template <typename K>
__global__ void __launch_bounds__(MANY_THREADS, 2)
    many_rows(kvq_linear job, kvq_matrix_part part, activations x, int n_out) {
    KVQ_SHARED(uint8_t, stages, STAGES * stage<K>::BYTES);
    const int products = WARP_COLUMNS / KVQ_COLUMNS;
    int warp = threadIdx.x / KVQ_WARP_LANES, lane = threadIdx.x % KVQ_WARP_LANES, g = lane / 4, t = lane % 4;
    int row = (int)blockIdx.y * ROWS, first = warp / OUT_WARPS * WARP_COLUMNS, out_warp = warp % OUT_WARPS;
    int tile = out_warp * 2 + g / 4;
    const uint8_t *tile_bytes = tile_of(part, (int)blockIdx.x * MANY_TILES + tile);
    float sum[products][KVQ_LANE_ROWS][KVQ_LANE_COLUMNS], total[products][KVQ_LANE_ROWS][KVQ_LANE_COLUMNS];
    for (int p = 0; p < products; p++)
        for (int i = 0; i < KVQ_LANE_ROWS; i++)
            for (int n = 0; n < KVQ_LANE_COLUMNS; n++) sum[p][i][n] = 0, total[p][i][n] = -0.0f; /* x + -0 is x */
    for (int step = 0; step < STAGES - 1; step++) copy_step<K>(stages + step * stage<K>::BYTES, part, x, step, row);
    for (int step = 0; step < x.n_steps; step++) {
        KVQ_SHARED_PTR(uint8_t) here = stages + step % STAGES * stage<K>::BYTES;
        kvq_copy_wait<STAGES - 2>();
        __syncthreads(); /* the step is there for all, and all have done with the one whose place is next */
        copy_step<K>(stages + (step + STAGES - 1) % STAGES * stage<K>::BYTES, part, x, step + STAGES - 1, row);
        kvq_raw<K> raw;
        kvq_weights<K> weights;
        kvq_load_step<K>(&raw, here + tile * K::STEP_BYTES, tile_bytes + kvq_super_at<K>(step), lane);
        kvq_unpack_step<K>(&weights, raw, lane);
        bool ends = (step + 1) % x.in_slice == 0 || step + 1 == x.n_steps; /* the slice */
#pragma unroll
        for (int p = 0; p < products; p++) {
            if (row + first + p * KVQ_COLUMNS >= job.n_rows) break;
            kvq_columns columns;
            read_columns<K>(&columns, here, first + p * KVQ_COLUMNS, lane);
            kvq_add_step<K>(sum[p], weights, columns, part.layout.zero, lane);
            if (!ends) continue;
            for (int i = 0; i < KVQ_LANE_ROWS; i++)
                for (int n = 0; n < KVQ_LANE_COLUMNS; n++) total[p][i][n] += sum[p][i][n], sum[p][i][n] = 0;
        }
    }
    for (int p = 0; p < products; p++)
        for (int n = 0; n < KVQ_LANE_COLUMNS; n++)
            for (int i = 0; i < KVQ_LANE_ROWS; i++)
                store(job, part, n_out, (int)blockIdx.x * OUTS + out_warp * KVQ_WARP_ROWS + KVQ_LANE_ROWS * g + i,
                      row + first + p * KVQ_COLUMNS + 2 * t + n, total[p][i][n]);
}

/* ---- float weights ---- */

/* Activations as they are, inputs in eight interleaved chains. */
template <int ROW_COUNT> __global__ void float_tile(kvq_linear job, kvq_matrix_part part, int n_in, int n_out) {
    KVQ_SHARED(float, partial, ROW_COUNT *FLOAT_SLICES *KVQ_TILE_ROWS);
    int slice = threadIdx.x / KVQ_TILE_ROWS, r = threadIdx.x % KVQ_TILE_ROWS, row = blockIdx.y * FLOAT_ROWS;
    int n_rows = job.n_rows - row < ROW_COUNT ? job.n_rows - row : ROW_COUNT;
    const uint8_t *tile = tile_of(part, blockIdx.x);
    float acc[ROW_COUNT] = {};
    for (int i = slice; i < n_in; i += FLOAT_SLICES) {
        float w = kvq_float_of(tile, part.layout.kind, (size_t)i * KVQ_TILE_ROWS + r);
#pragma unroll
        for (int n = 0; n < ROW_COUNT; n++)
            if (n < n_rows) acc[n] = fmaf(w, job.in[(size_t)(row + n) * n_in + i], acc[n]);
    }
#pragma unroll
    for (int n = 0; n < ROW_COUNT; n++) partial[(n * FLOAT_SLICES + slice) * KVQ_TILE_ROWS + r] = acc[n];
    __syncthreads();
    int n = slice; /* now a half-warp is an activation row */
    if (n >= n_rows) return;
    float sum = partial[n * FLOAT_SLICES * KVQ_TILE_ROWS + r];
    for (int s = 1; s < FLOAT_SLICES; s++) sum += partial[(n * FLOAT_SLICES + s) * KVQ_TILE_ROWS + r];
    store(job, part, n_out, (int)blockIdx.x * KVQ_TILE_ROWS + r, row + n, sum);
}

/* ---- the host's part ---- */

typedef void launch_fn(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const activations *x);

template <typename K, int PRODUCTS>
static void launch_few(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const activations *x) {
    dim3 grid(kvq_cuda_blocks(job->n_rows, PRODUCTS * KVQ_COLUMNS), kvq_cuda_blocks(part->n_rows, KVQ_WARP_ROWS));
    KVQ_LAUNCH((few_rows<K, PRODUCTS>), grid, dim3(FEW_THREADS), 0, s, *job, *part, *x, job->w->n_out);
}

template <typename K>
static void launch_coded(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const activations *x) {
    dim3 grid(kvq_cuda_blocks(part->n_rows, OUTS), kvq_cuda_blocks(job->n_rows, ROWS));
    if (job->n_rows <= KVQ_COLUMNS)
        launch_few<K, 1>(s, job, part, x);
    else if (job->n_rows <= FEW_ROWS)
        launch_few<K, 2>(s, job, part, x);
    else
        KVQ_LAUNCH((many_rows<K>), grid, dim3(MANY_THREADS), 0, s, *job, *part, *x, job->w->n_out);
}

static void launch_float(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const activations *x) {
    (void)x;
    int n_in = job->w->n_in, n_out = job->w->n_out;
    dim3 grid(kvq_cuda_blocks(part->n_rows, KVQ_TILE_ROWS), kvq_cuda_blocks(job->n_rows, FLOAT_ROWS));
    if (job->n_rows == 1)
        KVQ_LAUNCH((float_tile<1>), grid, dim3(FLOAT_THREADS), 0, s, *job, *part, n_in, n_out);
    else
        KVQ_LAUNCH((float_tile<FLOAT_ROWS>), grid, dim3(FLOAT_THREADS), 0, s, *job, *part, n_in, n_out);
}

/* Every layout that formats.def makes. */
static const struct kind {
    int bits, group;
    kvq_scale_type scale;
    bool has_min;
    launch_fn *launch;
} kinds[] = {
#define CODED(bits, group, scale, min) \
    { bits, group, KVQ_SCALE_##scale, min, launch_coded<kvq_coded<bits, group, KVQ_SCALE_##scale, min>> }
    /* clang-format off */
    {0, 1, KVQ_SCALE_NONE, false, launch_float},
    CODED(4, 16, SUPER, false),
    CODED(4, 16, SUPER, true),
    CODED(4, 32, F16,   false),
    CODED(4, 32, F16,   true),
    CODED(4, 32, SUPER, true),
    CODED(5, 32, F16,   false),
    CODED(5, 32, F16,   true),
    CODED(5, 32, SUPER, true),
    CODED(6, 16, SUPER, false),
    CODED(8, 32, F16,   false),
    CODED(8, 32, F32,   false),
    CODED(8, 32, SUPER, false),
/* clang-format on */
#undef CODED
};

/* NULL after an error of the stream. */
static const struct kind *find_kind(kvq_stream *s, const kvq_layout *layout) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const struct kind *kind = &kinds[i];
        if (kind->bits == layout->bits && kind->group == layout->group && kind->scale == layout->scale_type &&
            kind->has_min == layout->has_min)
            return kind;
    }
    kvq_cuda_fail(s, KVQ_UNSUPPORTED, "the CUDA backend has no product with weights of %d bits in groups of %d",
                  layout->bits, layout->group);
    return NULL;
}

static bool quantize(kvq_stream *s, const kvq_linear *job, activations *ret) {
    int n_rows = job->n_rows, n_steps = job->w->n_in / KVQ_STEP, padded = padded_rows(n_rows);
    size_t n_scales = (size_t)n_steps * padded, used = 0;
    int8_t *q = (int8_t *)kvq_cuda_take(s, &used, (size_t)n_rows * job->w->n_in);
    float *d = (float *)kvq_cuda_take(s, &used, n_scales * sizeof(float));
    int *sums = (int *)kvq_cuda_take(s, &used, n_scales * 2 * sizeof(int));
    if (!q || !d || !sums) return false;
    int in_slice = kvq_cuda_blocks(n_steps, SLICES), n_slices = kvq_cuda_blocks(n_steps, in_slice);
    *ret = activations{q, d, sums, n_rows, job->w->n_in, padded, n_steps, in_slice, n_slices};
    KVQ_LAUNCH(quantize_groups, dim3(kvq_cuda_blocks(n_rows * n_steps, QUANTIZE_THREADS / KVQ_WARP_LANES)),
               dim3(QUANTIZE_THREADS), 0, s, job->in, q, d, sums, *ret);
    return true;
}

static void linear(kvq_stream *s, const kvq_linear *job) {
    const kvq_matrix *m = job->w;
    activations x = {};
    bool coded = false;
    if (job->n_rows == 0) return;
    for (int p = 0; p < m->n_parts; p++) coded |= m->parts[p].layout.bits > 0;
    if (coded && !quantize(s, job, &x)) return;
    for (int p = 0; p < m->n_parts; p++) {
        const struct kind *kind = find_kind(s, &m->parts[p].layout);
        if (!kind) return;
        kind->launch(s, job, &m->parts[p], &x);
    }
}

void kvq_cuda_fill_linear(kvq_ops *ops) {
    ops->linear = linear;
}
