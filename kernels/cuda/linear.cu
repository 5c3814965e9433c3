/* linear.cu: matrix products (../matrix.h) on tensor cores: activations to int8, exactly as on the CPU, by a kernel of
 * their own or by the one that made them, then int8 products of a step of 32 inputs at once, scaled in float. The
 * integers are the CPU's; only the order of the float sums differs:
 *
 *   The steps of a row are cut into at most 16 slices, by n_in alone. A slice is one chain, slices are added in order.
 *
 * All kernels keep to that, so that the bits of a result do not depend on how many rows a step has (where they may,
 * linear_halves.cu and linear_cublas.cu take the large products):
 *
 *   one_row    one row: as few_rows, but a lane has one output of a warp's 32 and scales one sum where few_rows scales
 *              eight, and the next steps are on their way to registers while one is multiplied.
 *   few_rows   up to 64 rows: a block is 32 output rows times up to 16 activation rows, a warp is a slice. Weights go
 *              from memory to registers, each byte once per 16 rows; blocks that share them run side by side, so that
 *              the second time they come from the L2 cache.
 *   many_rows  a block is 128 output rows times 64 activation rows, which come into shared memory by asynchronous
 *              copies, three steps ahead; a warp is 32 x 32, and goes through the slices one after the other.
 *
 * docs/cuda.md counts what that costs: one_row and, of 4-bit weights, few_rows at up to 8 rows are bound by memory;
 * many_rows by the three float instructions that scale an integer sum.
 *
 * Float weights: a block of 128 threads is one tile of 16 output rows times up to 8 activation rows, plain: its 8
 * half-warps take every eighth input and are added in order.
 *
 * What it reaches: docs/cuda.md. */
#include "stream.h"

#include "fragments.cuh"
#include "linear.cuh"
#include "vmath.cuh"
#include "warp.cuh"

#define QUANTIZE_THREADS 256
#define QUANTIZE_VALUES 4 /* of a thread */

#define SLICES 16 /* at most */
#define FEW_THREADS (SLICES * KVQ_WARP_LANES)
#define FEW_BLOCKS 2  /* of an SM: what __launch_bounds__ below allows */
#define ASKED_SHARE 4 /* a fourth of the L2 cache for all warps: what is asked for must be there until it is used */
#define FEW_ROWS KVQ_CUDA_FEW_ROWS /* more: many_rows */

#define OUTS 128 /* output rows of a block of many_rows */
#define ROWS 64  /* activation rows */
#define MANY_TILES (OUTS / KVQ_TILE_ROWS)
#define WARP_COLUMNS 32 /* activation rows of a warp */
#define PRODUCTS (WARP_COLUMNS / KVQ_COLUMNS)
#define OUT_WARPS (OUTS / KVQ_WARP_ROWS)
#define MANY_THREADS (OUT_WARPS * (ROWS / WARP_COLUMNS) * KVQ_WARP_LANES)
#define STAGES 4

#define FLOAT_SLICES 8
#define FLOAT_THREADS (FLOAT_SLICES * KVQ_TILE_ROWS)
#define FLOAT_ROWS 8 /* activation rows of a block */

/* Of so many rows. */
static size_t columns_bytes(int n_rows, int n_steps) {
    size_t count = (size_t)kvq_cuda_blocks(n_rows, ROWS) * (ROWS / KVQ_COLUMNS) * (size_t)n_steps;
    return kvq_cuda_aligned(count * sizeof(kvq_columns));
}
static size_t squares_bytes(int n_rows, int n_steps) {
    return kvq_cuda_aligned((size_t)n_rows * (size_t)n_steps * sizeof(float));
}
static size_t activation_bytes(int n_rows, int n_in) {
    return columns_bytes(n_rows, n_in / KVQ_STEP) + squares_bytes(n_rows, n_in / KVQ_STEP);
}

size_t kvq_cuda_linear_bytes(const kvq_shapes *shapes, int n_sms) {
    size_t halves = shapes->depends_on_batch ? kvq_cuda_halves_bytes(shapes, n_sms) : 0;
    size_t bytes = activation_bytes(shapes->max_rows, shapes->max_in);
    return kvq_cuda_aligned(bytes > halves ? bytes : halves);
}

size_t kvq_cuda_left_bytes(const kvq_shapes *shapes) {
    return 2 * activation_bytes(FEW_ROWS, shapes->max_in);
}

void kvq_cuda_place_left(kvq_stream *s, uint8_t *memory) {
    int n_steps = s->shapes.max_in / KVQ_STEP;
    for (int i = 0; i < 2; i++) {
        uint8_t *at = memory + (size_t)i * activation_bytes(FEW_ROWS, s->shapes.max_in);
        s->room_left[i].columns = (kvq_columns *)at;
        s->room_left[i].squares = (float *)(at + columns_bytes(FEW_ROWS, n_steps));
    }
}

/* ---- activations ---- */

/* A thread has four values of a row. weight: of their norm (a.squares), or NULL. */
__global__ void quantize_rows(const float *x, const float *weight, kvq_activations a) {
    int n_in = a.n_steps * KVQ_STEP, i = QUANTIZE_VALUES * (int)(blockIdx.y * QUANTIZE_THREADS + threadIdx.x);
    float value[QUANTIZE_VALUES] = {}, times[QUANTIZE_VALUES] = {1, 1, 1, 1};
    bool count = i < n_in;
    if (count && weight) kvq_load_values<QUANTIZE_VALUES>(times, weight + i); /* no launch writes it */
    kvq_wait_for_launches();
    if (count) kvq_load_values<QUANTIZE_VALUES>(value, x + (size_t)blockIdx.x * n_in + i);
    kvq_leave_values<QUANTIZE_VALUES>(a, blockIdx.x, i, value, times, count);
}

bool kvq_cuda_fits_left(const kvq_stream *s, int n_cols) {
    return n_cols % KVQ_STEP == 0 && n_cols <= s->shapes.max_in;
}

kvq_activations kvq_cuda_leave(kvq_stream *s, const float *floats, int n_rows, int n_cols, const kvq_norm *norm) {
    kvq_cuda_settle(s);
    s->left = kvq_cuda_left{};
    if (n_rows > FEW_ROWS || kvq_cuda_codes_as_halves(s, n_rows) || !kvq_cuda_fits_left(s, n_cols)) return s->left.x;
    kvq_activations x = s->room_left[s->next_left];
    x.n_steps = n_cols / KVQ_STEP;
    if (norm)
        x.eps = norm->eps;
    else
        x.squares = NULL;
    s->left = kvq_cuda_left{floats, n_rows, x, s->n_launches + 1};
    return x;
}

/* Whether the launch before this product's left its activations. */
static bool are_left(const kvq_stream *s, const kvq_linear *job) {
    const kvq_cuda_left *left = &s->left;
    return left->floats == job->in && left->n_rows == job->n_rows && left->x.n_steps * KVQ_STEP == job->w->n_in &&
           left->launch == s->n_launches;
}

/* ---- few rows ---- */

/* Eight activation rows from `row` on, at a step, as bytes. */
static __device__ __forceinline__ const uint8_t *columns_at(const kvq_activations &x, int row, int step) {
    return (const uint8_t *)(x.columns + (size_t)(row / KVQ_COLUMNS) * x.n_steps + step);
}

/* Steps of a slice. */
static __device__ __forceinline__ int steps_a_slice(const kvq_activations &x) {
    return (int)((unsigned)(x.n_steps + SLICES - 1) / SLICES);
}

/* Of the slice that begins there. */
static __device__ __forceinline__ int steps_of(const kvq_activations &x, int begin) {
    int in_slice = steps_a_slice(x), left = x.n_steps - begin < in_slice ? x.n_steps - begin : in_slice;
    return left > 0 ? left : 0;
}

/* A lane's result, and the weight of the norm behind it, or 1. */
typedef struct weighed_result {
    float value, weight;
} weighed_result;

/* Adds the slices' sums of 32 outputs from `out` on and stores them, a warp per activation row, a lane per output row.
 * Slices without steps left -0, which changes no sum; what the sums do not need comes while the last warps end. What is
 * returned of places that have no result is anything. */
template <int COLUMNS>
static __device__ __forceinline__ weighed_result merge_slices(const kvq_linear &job, const kvq_matrix_part &part,
                                                              const kvq_activations &x, const float *weights, int n_out,
                                                              int out, int row, KVQ_SHARED_PTR(float) partial) {
    int column = threadIdx.x / KVQ_WARP_LANES, lane = threadIdx.x % KVQ_WARP_LANES, o = out + lane;
    bool is_row = column < COLUMNS && row + column < job.n_rows, stores = is_row && o < part.n_rows;
    kvq_addends plus = {0, 0};
    weighed_result ret = {0, 1};
    float factor = 1;
    if (stores) plus = kvq_load_addends(job, part, n_out, o, row + column);
    if (stores && weights) ret.weight = weights[o];
    if (is_row) factor = kvq_row_factor(x, row + column); /* whole warps */
    __syncthreads();
    if (!stores) return ret;
    float sum = partial[column * KVQ_WARP_ROWS + lane];
#pragma unroll
    for (int s = 1; s < SLICES; s++) sum += partial[(s * COLUMNS + column) * KVQ_WARP_ROWS + lane];
    ret.value = kvq_store_sum(job, part, n_out, o, row + column, sum * factor, plus);
    return ret;
}

/* Leaves the block's results, a warp's 32 of an activation row: they are a step of the next product's activations.
 * gates: each thread's own of the half before. */
template <int COLUMNS>
static __device__ __forceinline__ void leave_results(const kvq_epilogue &then, const kvq_linear &job, int step, int row,
                                                     KVQ_SHARED_PTR(float) gates, weighed_result result) {
    int column = threadIdx.x / KVQ_WARP_LANES;
    if (!then.left.columns || column >= COLUMNS || row + column >= job.n_rows) return; /* whole warps */
    int i = step * KVQ_STEP + (int)threadIdx.x % KVQ_WARP_LANES;
    if (then.gated) {
        result.value = kvq_gated(then.activation, gates[threadIdx.x], result.value);
        then.gated[(size_t)(row + column) * (size_t)(then.left.n_steps * KVQ_STEP) + i] = result.value;
    }
    kvq_leave_values<1>(then.left, row + column, i, &result.value, &result.weight, true);
}

/* Asks for the first `steps` of a warp's weights, 0 or less for none: registers have room for a few only. Half a warp
 * has a tile. */
template <typename K> static __device__ __forceinline__ void ask_for(const uint8_t *weights, int steps, int lane) {
    if (steps > 0) kvq_ask_l2_for(weights, (unsigned)(steps * K::STEP_BYTES), lane % 16, 16);
}

/* The same of a slice's first steps for outputs from `out` on: one_row, while those of the half before are merged. */
template <typename K>
static __device__ __forceinline__ void ask_for_half(const kvq_matrix_part &part, int out, int begin, int n_steps,
                                                    int asked, int lane) {
    const uint8_t *tile = kvq_tile_of(part, out / KVQ_TILE_ROWS + lane / 16);
    ask_for<K>(tile + kvq_step_at<K>(begin), n_steps < asked ? n_steps : asked, lane);
}

/* What is added to the results of 32 outputs and what they are weighed by, a line of memory each, long before. */
static __device__ __forceinline__ void ask_for_addends(const kvq_linear &job, const kvq_matrix_part &part,
                                                       const kvq_epilogue &then, int out) {
    if (threadIdx.x != 0) return;
    if (job.bias) kvq_ask_l2((const uint8_t *)(job.bias + part.row_begin + out));
    if (then.weight) kvq_ask_l2((const uint8_t *)(then.weight + out));
}

/* N products: 8 N activation rows. Weights are asked for `asked` steps ahead. */
template <typename K, int N>
__global__ void __launch_bounds__(FEW_THREADS, N == 1 ? FEW_BLOCKS : 1)
    few_rows(KVQ_ARGUMENT(kvq_linear) job, KVQ_ARGUMENT(kvq_matrix_part) part, KVQ_ARGUMENT(kvq_activations) x,
             KVQ_ARGUMENT(kvq_epilogue) then, int n_out, int asked) {
    KVQ_SHARED(float, partial, SLICES *N *KVQ_COLUMNS *KVQ_WARP_ROWS);
    KVQ_SHARED(float, gates, N *KVQ_COLUMNS *KVQ_WARP_ROWS);    /* not in registers, which are few */
    const int ahead = K::CHUNKS == 2 || K::HALVES == 2 ? 1 : 2; /* steps loaded at once: as registers allow */
    const bool early = N > 1 || !K::HAS_MIN;                    /* activations too */
    int slice = threadIdx.x / KVQ_WARP_LANES, lane = threadIdx.x % KVQ_WARP_LANES, g = lane / 4, t = lane % 4;
    int row = (int)blockIdx.x * N * KVQ_COLUMNS, begin = slice * steps_a_slice(x), end = begin + steps_of(x, begin);
#pragma unroll 1
    for (int half = 0;; half++) {
        int out = (int)(blockIdx.y + (unsigned)half * gridDim.y) * KVQ_WARP_ROWS;
        const uint8_t *tile = kvq_tile_of(part, out / KVQ_TILE_ROWS + g / 4);
        ask_for<K>(tile + kvq_step_at<K>(begin), end - begin < asked ? end - begin : asked, lane);
        ask_for_addends(job, part, then, out);
        float acc[N][KVQ_LANE_ROWS][KVQ_LANE_COLUMNS];
        const uint8_t *columns[N];
#pragma unroll
        for (int i = 0; i < N * KVQ_LANE_ROWS * KVQ_LANE_COLUMNS; i++)
            acc[i / 8][i / 2 % KVQ_LANE_ROWS][i % KVQ_LANE_COLUMNS] = begin < end ? 0.0f : -0.0f;
        if (half == 0) kvq_wait_for_launches(); /* not for weights: no launch writes them */
        /* Instead of rows that are not there the last one, whose bytes come anyway. */
        int last = N == 1 ? job.n_rows - 1 : KVQ_COLUMNS - 1, q_lane = (g < last ? g : last) * 4 + t;
        int d_t = t < last / 2 ? t : last / 2;
        for (int p = 0; p < N; p++) columns[p] = columns_at(x, row + p * KVQ_COLUMNS, begin);
#pragma unroll 1
        for (int step = begin; step < end; step += ahead) {
            kvq_raw<K> raw[ahead];
            if (asked > 0 && step + ahead + asked <= end && lane % 16 * (int)KVQ_L2_LINE < ahead * K::STEP_BYTES)
                kvq_ask_l2(tile + kvq_step_at<K>(step + asked) + lane % 16 * (int)KVQ_L2_LINE);
#pragma unroll
            for (int n = 0; n < ahead; n++)
                if (step + n < end)
                    kvq_load_step<K>(&raw[n], tile + kvq_step_at<K>(step + n), tile + kvq_super_at<K>(step + n), lane);
            kvq_lane_columns<K> in[ahead][N];
#pragma unroll
            for (int n = 0; n < ahead; n++)
#pragma unroll
                for (int p = 0; p < N; p++)
                    if (early && step + n < end)
                        kvq_load_columns<K>(&in[n][p], columns[p] + n * sizeof(kvq_columns), q_lane, d_t);
#pragma unroll
            for (int n = 0; n < ahead; n++) {
                if (step + n >= end) break;
                kvq_weights<K> weights;
                kvq_unpack_step<K>(&weights, raw[n], lane);
#pragma unroll
                for (int p = 0; p < N; p++) {
                    if (!early) kvq_load_columns<K>(&in[n][p], columns[p] + n * sizeof(kvq_columns), q_lane, d_t);
                    kvq_add_step<K>(acc[p], weights, in[n][p], lane);
                }
            }
            for (int p = 0; p < N; p++) columns[p] += ahead * sizeof(kvq_columns);
        }
        for (int p = 0; p < N; p++)
            for (int i = 0; i < KVQ_LANE_ROWS; i++)
                for (int n = 0; n < KVQ_LANE_COLUMNS; n++) {
                    int column = (slice * N + p) * KVQ_COLUMNS + 2 * t + n;
                    partial[column * KVQ_WARP_ROWS + KVQ_LANE_ROWS * g + i] = acc[p][i][n];
                }
        weighed_result result = merge_slices<N * KVQ_COLUMNS>(job, part, x, then.weight, n_out, out, row, partial);
        if (half + 1 == then.n_halves) {
            leave_results<N * KVQ_COLUMNS>(then, job, (int)blockIdx.y, row, gates, result);
            return;
        }
        if (threadIdx.x < N * KVQ_COLUMNS * KVQ_WARP_LANES) gates[threadIdx.x] = result.value;
        __syncthreads(); /* the sums are read */
    }
}

/* ---- one row ---- */

/* Steps of a row that a lane has in registers, or on their way there, and where the next ones are. */
template <typename K> struct row_steps {
    static constexpr int AHEAD = K::CHUNKS == 2 || K::SCALE == KVQ_SCALE_SUPER ? 2 : 3; /* as registers allow */
    kvq_row_raw<K> raw[AHEAD];
    kvq_row_column<K> in[AHEAD];
    kvq_row_source<K> from;
    const uint8_t *column;
};

/* Adds those steps, and loads as many again if there are more (always or never: where it is not known, each load would
 * leave two places for a step, and the compiler moves from one to the other). */
template <typename K, bool MORE>
static __device__ __forceinline__ float add_steps(float acc, row_steps<K> *steps, int lane) {
#pragma unroll
    for (int n = 0; n < row_steps<K>::AHEAD; n++) {
        kvq_row_raw<K> *raw = &steps->raw[n];
        uint32_t codes[KVQ_LANE_ROWS][2];
        float scale[K::HALVES], min[K::HALVES];
        kvq_unpack_codes<K>(codes, raw->codes, lane);
#pragma unroll
        for (int h = 0; h < K::HALVES; h++) {
            scale[h] = kvq_row_scale<K>(raw->scales[h], raw->super);
            if constexpr (K::HAS_MIN) min[h] = kvq_row_scale<K>(raw->mins[h], raw->super_min);
        }
        if (MORE) {
            kvq_load_row_step<K>(raw, &steps->from);
            kvq_next_row_step<K>(&steps->from);
        }
        acc = kvq_add_row_step<K>(acc, codes, scale, min, steps->in[n], lane);
        if (MORE) {
            kvq_load_row_column<K>(&steps->in[n], steps->column, lane);
            steps->column += sizeof(kvq_columns);
        }
    }
    return acc;
}

/* A slice's steps in rounds of so many: the first is what is left over, behind steps of zeros, which add 0 to 0.
 * Nothing stands before the first loads of weights but arithmetic on arguments. Weights are asked for `asked` steps
 * ahead of those that come to registers; those of a second half while the first one's sums are merged. */
template <typename K>
__global__ void __launch_bounds__(FEW_THREADS, FEW_BLOCKS)
    one_row(KVQ_ARGUMENT(kvq_linear) job, KVQ_ARGUMENT(kvq_matrix_part) part, KVQ_ARGUMENT(kvq_activations) x,
            KVQ_ARGUMENT(kvq_epilogue) then, int n_out, int asked) {
    KVQ_SHARED(float, partial, SLICES *KVQ_WARP_ROWS);
    KVQ_SHARED(float, gates, KVQ_WARP_ROWS); /* not in registers, which are few */
    const int ahead = row_steps<K>::AHEAD;
    int slice = threadIdx.x / KVQ_WARP_LANES, lane = threadIdx.x % KVQ_WARP_LANES;
#pragma unroll 1
    for (int half = 0;; half++) {
        int begin = slice * steps_a_slice(x), n_steps = steps_of(x, begin);
        int rounds = (int)((unsigned)(n_steps + ahead - 1) / ahead), skip = rounds * ahead - n_steps;
        int out = (int)(blockIdx.y + (unsigned)half * gridDim.y) * KVQ_WARP_ROWS;
        const uint8_t *tile = kvq_tile_of(part, out / KVQ_TILE_ROWS + lane / 16);
        row_steps<K> steps = {};
        steps.from = kvq_row_source_of<K>(tile, begin - skip, lane);
        steps.column = (const uint8_t *)(x.columns + (begin - skip));
        if (rounds == 0) skip = ahead;
#pragma unroll
        for (int n = 0; n < ahead; n++) {
            if (n >= skip) kvq_load_row_step<K>(&steps.raw[n], &steps.from);
            kvq_next_row_step<K>(&steps.from);
        }
        ask_for<K>(steps.from.codes - kvq_lane_codes_at<K>(lane), n_steps - ahead < asked ? n_steps - ahead : asked,
                   lane);
        ask_for_addends(job, part, then, out);
        if (half == 0) kvq_wait_for_launches(); /* not for weights: no launch writes them */
#pragma unroll
        for (int n = 0; n < ahead; n++) {
            if (n >= skip) kvq_load_row_column<K>(&steps.in[n], steps.column, lane);
            steps.column += sizeof(kvq_columns);
        }
        float acc = n_steps > 0 ? 0.0f : -0.0f;
        if (rounds > 0) {
#pragma unroll 1
            for (; rounds > 1; rounds--) {
                if (asked > 0 && (rounds - 2) * ahead >= asked && lane % 16 * (int)KVQ_L2_LINE < ahead * K::STEP_BYTES)
                    kvq_ask_l2(steps.from.codes +
                               (asked * K::STEP_BYTES + lane % 16 * (int)KVQ_L2_LINE - kvq_lane_codes_at<K>(lane)));
                acc = add_steps<K, true>(acc, &steps, lane);
            }
            acc = add_steps<K, false>(acc, &steps, lane);
        }
        partial[slice * KVQ_WARP_ROWS + lane] = acc;
        bool is_last = half + 1 == then.n_halves;
        if (!is_last) ask_for_half<K>(part, out + (int)gridDim.y * KVQ_WARP_ROWS, begin, n_steps, asked, lane);
        weighed_result result = merge_slices<1>(job, part, x, then.weight, n_out, out, 0, partial);
        if (is_last) {
            leave_results<1>(then, job, (int)blockIdx.y, 0, gates, result);
            return;
        }
        if (threadIdx.x < KVQ_WARP_LANES) gates[threadIdx.x] = result.value;
        __syncthreads(); /* the sums are read */
    }
}

/* ---- many rows ---- */

/* A step in shared memory: bytes of the tiles, then the activations. */
template <typename K> struct stage {
    static constexpr int COLUMNS_AT = MANY_TILES * K::STEP_BYTES,
                         BYTES = COLUMNS_AT + ROWS / KVQ_COLUMNS * (int)sizeof(kvq_columns), CHUNKS = BYTES / 16,
                         COPIES = (CHUNKS + MANY_THREADS - 1) / MANY_THREADS; /* of a thread */
};

/* Where the 16 bytes of a thread's copy come from: at step 0, and bytes to the next step, 0: as the tiles' steps go. */
typedef struct source {
    const uint8_t *at;
    int stride;
} source;

template <typename K>
static __device__ __forceinline__ source source_of(const kvq_matrix_part &part, const kvq_activations &x, int row,
                                                   int chunk) {
    const int a_tile = K::STEP_BYTES / 16, a_block = sizeof(kvq_columns) / 16, tiles = stage<K>::COLUMNS_AT / 16;
    if (chunk < tiles)
        return source{kvq_tile_of(part, (int)blockIdx.x * MANY_TILES + chunk / a_tile) + chunk % a_tile * 16, 0};
    chunk -= tiles;
    return source{columns_at(x, row + chunk / a_block * KVQ_COLUMNS, 0) + chunk % a_block * 16,
                  (int)sizeof(kvq_columns)};
}

/* Asks for a step's bytes; nothing for steps behind the last, but a group all the same. */
template <typename K>
static __device__ __forceinline__ void copy_step(KVQ_SHARED_PTR(uint8_t) stages, const source *from, int step,
                                                 int n_steps) {
    KVQ_SHARED_PTR(uint8_t) to = stages + (step % STAGES * stage<K>::BYTES + (int)threadIdx.x * 16);
    if (step < n_steps) {
        int tile_step = kvq_step_at<K>(step);
#pragma unroll
        for (int n = 0; n < stage<K>::COPIES; n++)
            if (n * MANY_THREADS + (int)threadIdx.x < stage<K>::CHUNKS)
                kvq_copy_async(to + n * MANY_THREADS * 16,
                               from[n].at + (from[n].stride ? step * from[n].stride : tile_step), 16);
    }
    kvq_copy_commit();
}

/* A lane's sums of a product. */
typedef struct lane_sums {
    float of[KVQ_LANE_ROWS][KVQ_LANE_COLUMNS];
} lane_sums;

static __device__ __forceinline__ void fill_sums(lane_sums *sums, float value) {
#pragma unroll
    for (int i = 0; i < PRODUCTS * KVQ_LANE_ROWS * KVQ_LANE_COLUMNS; i++)
        sums[i / 8].of[i / 2 % KVQ_LANE_ROWS][i % KVQ_LANE_COLUMNS] = value;
}
static __device__ __forceinline__ void add_sums(lane_sums *to, const lane_sums *from) {
#pragma unroll
    for (int i = 0; i < PRODUCTS * KVQ_LANE_ROWS * KVQ_LANE_COLUMNS; i++)
        to[i / 8].of[i / 2 % KVQ_LANE_ROWS][i % KVQ_LANE_COLUMNS] +=
            from[i / 8].of[i / 2 % KVQ_LANE_ROWS][i % KVQ_LANE_COLUMNS];
}

template <typename K>
__global__ void __launch_bounds__(MANY_THREADS, 2)
    many_rows(kvq_linear job, kvq_matrix_part part, kvq_activations x, int n_out) {
    KVQ_SHARED(uint8_t, stages, STAGES * stage<K>::BYTES);
    KVQ_SHARED(float, factors, ROWS);
    kvq_wait_for_launches();
    int warp = threadIdx.x / KVQ_WARP_LANES, lane = threadIdx.x % KVQ_WARP_LANES, g = lane / 4, t = lane % 4;
    int row = (int)blockIdx.y * ROWS, first = warp / OUT_WARPS * WARP_COLUMNS, out_warp = warp % OUT_WARPS;
    int tile = out_warp * 2 + g / 4, n_left = job.n_rows - row - first;
    const uint8_t *tile_bytes = kvq_tile_of(part, (int)blockIdx.x * MANY_TILES + tile);
    source from[stage<K>::COPIES];
#pragma unroll
    for (int n = 0; n < stage<K>::COPIES; n++) from[n] = source_of<K>(part, x, row, n * MANY_THREADS + threadIdx.x);
    lane_sums sum[PRODUCTS], total[PRODUCTS];
    fill_sums(sum, 0.0f);
    fill_sums(total, -0.0f); /* x + -0 is x */
    for (int step = 0; step < STAGES - 1; step++) copy_step<K>(stages, from, step, x.n_steps);
    for (int r = warp; r < ROWS && row + r < job.n_rows; r += MANY_THREADS / KVQ_WARP_LANES) {
        float factor = kvq_row_factor(x, row + r); /* by all lanes */
        if (lane == 0) factors[r] = factor;
    }
    int until_end = steps_a_slice(x); /* steps */
    for (int step = 0; step < x.n_steps; step++) {
        KVQ_SHARED_PTR(uint8_t) here = stages + step % STAGES * stage<K>::BYTES;
        kvq_copy_wait<STAGES - 2>();
        __syncthreads(); /* the step is there for all, and all have done with the one whose place is next */
        copy_step<K>(stages, from, step + STAGES - 1, x.n_steps);
        kvq_raw<K> raw;
        kvq_weights<K> weights;
        kvq_load_step<K>(&raw, here + tile * K::STEP_BYTES, tile_bytes + kvq_super_at<K>(step), lane);
        kvq_unpack_step<K>(&weights, raw, lane);
#pragma unroll
        for (int p = 0; p < PRODUCTS; p++) {
            if (p * KVQ_COLUMNS >= n_left) break;
            kvq_lane_columns<K> columns;
            int block = first / KVQ_COLUMNS + p;
            kvq_load_columns<K>(&columns, here + (stage<K>::COLUMNS_AT + block * (int)sizeof(kvq_columns)), lane, t);
            kvq_add_step<K>(sum[p].of, weights, columns, lane);
        }
        if (--until_end > 0 && step + 1 < x.n_steps) continue;
        until_end = steps_a_slice(x);
        add_sums(total, sum);
        fill_sums(sum, 0.0f);
    }
#pragma unroll
    for (int p = 0; p < PRODUCTS; p++)
#pragma unroll
        for (int n = 0; n < KVQ_LANE_COLUMNS; n++) {
            int r = first + p * KVQ_COLUMNS + 2 * t + n;
            float value[KVQ_LANE_ROWS], factor = row + r < job.n_rows ? (float)factors[r] : 0.0f;
#pragma unroll
            for (int i = 0; i < KVQ_LANE_ROWS; i++) value[i] = total[p].of[i][n] * factor;
            kvq_store_four(job, part, n_out, (int)blockIdx.x * OUTS + out_warp * KVQ_WARP_ROWS + KVQ_LANE_ROWS * g,
                           row + r, value);
        }
}

/* ---- float weights ---- */

/* Activations as they are, inputs in eight interleaved chains. */
template <int ROW_COUNT> __global__ void float_tile(kvq_linear job, kvq_matrix_part part, int n_in, int n_out) {
    KVQ_SHARED(float, partial, ROW_COUNT *FLOAT_SLICES *KVQ_TILE_ROWS);
    kvq_wait_for_launches();
    int slice = threadIdx.x / KVQ_TILE_ROWS, r = threadIdx.x % KVQ_TILE_ROWS, row = blockIdx.y * FLOAT_ROWS;
    int n_rows = job.n_rows - row < ROW_COUNT ? job.n_rows - row : ROW_COUNT;
    const uint8_t *tile = kvq_tile_of(part, blockIdx.x);
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
    kvq_store(job, part, n_out, (int)blockIdx.x * KVQ_TILE_ROWS + r, row + n, sum);
}

/* ---- the host's part ---- */

typedef void launch_fn(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const kvq_activations *x,
                       const kvq_epilogue *then);

/* How many steps ahead a warp asks for its weights, two tiles: what all blocks ask for that run at once has its share
 * of the L2 cache. */
template <typename K> static int steps_asked(const kvq_stream *s, dim3 grid) {
    size_t n_blocks = (size_t)grid.x * grid.y, most = (size_t)s->n_sms * FEW_BLOCKS;
    return (int)(s->l2_bytes / ASKED_SHARE / ((n_blocks < most ? n_blocks : most) * SLICES * 2 * K::STEP_BYTES));
}

/* Blocks of 32 outputs, of each half. */
static int few_blocks(const kvq_matrix_part *part, const kvq_epilogue *then) {
    return kvq_cuda_blocks(part->n_rows / then->n_halves, KVQ_WARP_ROWS);
}

template <typename K, int N>
static void launch_few(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const kvq_activations *x,
                       const kvq_epilogue *then) {
    dim3 grid(kvq_cuda_blocks(job->n_rows, N * KVQ_COLUMNS), few_blocks(part, then));
    KVQ_LAUNCH((few_rows<K, N>), grid, dim3(FEW_THREADS), 0, s, *job, *part, *x, *then, job->w->n_out,
               steps_asked<K>(s, grid));
}

template <typename K>
static void launch_one(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const kvq_activations *x,
                       const kvq_epilogue *then) {
    dim3 grid(1, few_blocks(part, then));
    KVQ_LAUNCH((one_row<K>), grid, dim3(FEW_THREADS), 0, s, *job, *part, *x, *then, job->w->n_out,
               steps_asked<K>(s, grid));
}

template <typename K>
static void launch_coded(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const kvq_activations *x,
                         const kvq_epilogue *then) {
    dim3 grid(kvq_cuda_blocks(part->n_rows, OUTS), kvq_cuda_blocks(job->n_rows, ROWS));
    if (job->n_rows == 1)
        launch_one<K>(s, job, part, x, then);
    else if (job->n_rows <= KVQ_COLUMNS)
        launch_few<K, 1>(s, job, part, x, then);
    else if (job->n_rows <= FEW_ROWS)
        launch_few<K, 2>(s, job, part, x, then);
    else
        KVQ_LAUNCH((many_rows<K>), grid, dim3(MANY_THREADS), 0, s, *job, *part, *x, job->w->n_out);
}

static void launch_float(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const kvq_activations *x,
                         const kvq_epilogue *then) {
    (void)x;
    (void)then;
    int n_in = job->w->n_in, n_out = job->w->n_out;
    dim3 grid(kvq_cuda_blocks(part->n_rows, KVQ_TILE_ROWS), kvq_cuda_blocks(job->n_rows, FLOAT_ROWS));
    if (job->n_rows == 1)
        KVQ_LAUNCH((float_tile<1>), grid, dim3(FLOAT_THREADS), 0, s, *job, *part, n_in, n_out);
    else
        KVQ_LAUNCH((float_tile<FLOAT_ROWS>), grid, dim3(FLOAT_THREADS), 0, s, *job, *part, n_in, n_out);
}

/* Every layout that formats.def makes. */
static const struct kind {
    kvq_linear_key key;
    launch_fn *launch;
} kinds[] = {{{0, 1, 0, KVQ_SCALE_NONE, false}, launch_float},
#define CODED(bits, group, zero, scale, min) \
    {{bits, group, zero, KVQ_SCALE_##scale, min}, launch_coded<kvq_coded<bits, group, zero, KVQ_SCALE_##scale, min>>},
             KVQ_CODED_MAP(CODED)
#undef CODED
};

/* NULL after an error of the stream. */
static const struct kind *find_kind(kvq_stream *s, const kvq_layout *layout) {
    for (const struct kind &kind : kinds)
        if (kvq_linear_fits(&kind.key, layout)) return &kind;
    kvq_cuda_fail(s, KVQ_UNSUPPORTED,
                  "the CUDA backend has no product with weights of %d bits in groups of %d with zero %d", layout->bits,
                  layout->group, layout->zero);
    return NULL;
}

/* The product's activations in 8 bits: those that were left, or made now; of its norm, if that was held back. False
 * after an error of the stream. */
static bool quantize(kvq_stream *s, const kvq_linear *job, kvq_activations *ret) {
    int n_steps = job->w->n_in / KVQ_STEP;
    size_t used = 0;
    kvq_norm norm;
    bool is_normed = kvq_cuda_take_norm(s, job, &norm);
    if (are_left(s, job)) {
        *ret = s->left.x;
        s->next_left = ret->columns == s->room_left[0].columns;
        return true;
    }
    *ret = kvq_activations{};
    ret->n_steps = n_steps;
    ret->columns = (kvq_columns *)kvq_cuda_take(s, &used, columns_bytes(job->n_rows, n_steps));
    if (!ret->columns) return false;
    if (is_normed) {
        ret->squares = (float *)kvq_cuda_take(s, &used, squares_bytes(job->n_rows, n_steps));
        ret->eps = norm.eps;
        if (!ret->squares) return false;
    }
    dim3 grid(job->n_rows, kvq_cuda_blocks(job->w->n_in, QUANTIZE_VALUES * QUANTIZE_THREADS));
    KVQ_LAUNCH(quantize_rows, grid, dim3(QUANTIZE_THREADS), 0, s, is_normed ? norm.in : job->in,
               is_normed ? norm.weight : NULL, *ret);
    return true;
}

void kvq_cuda_launch_product(kvq_stream *s, const kvq_linear *job, const kvq_activations *x, const kvq_epilogue *then) {
    const kvq_matrix *m = job->w;
    kvq_epilogue nothing = {};
    nothing.n_halves = 1;
    if (!then) then = &nothing;
    for (int p = 0; p < m->n_parts; p++) {
        const struct kind *kind = find_kind(s, &m->parts[p].layout);
        if (!kind) return;
        kind->launch(s, job, &m->parts[p], x, then);
    }
}

static void linear(kvq_stream *s, const kvq_linear *job) {
    const kvq_matrix *m = job->w;
    kvq_activations x = {};
    int n_coded = 0;
    if (job->n_rows == 0 || kvq_cuda_linear_cublas(s, job) || kvq_cuda_linear_halves(s, job)) return;
    for (int p = 0; p < m->n_parts; p++) n_coded += m->parts[p].layout.bits > 0;
    if (n_coded < m->n_parts) kvq_cuda_settle(s); /* floats are read as they are */
    if (n_coded > 0 && !quantize(s, job, &x)) return;
    if (n_coded == m->n_parts && job->n_rows <= FEW_ROWS)
        kvq_cuda_hold_product(s, job, &x);
    else
        kvq_cuda_launch_product(s, job, &x, NULL);
}

void kvq_cuda_fill_linear(kvq_ops *ops) {
    ops->linear = linear;
}
