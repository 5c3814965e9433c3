/* linear.cu: matrix products (../matrix.h), plain: a block of 128 threads is one tile of 16 output rows times up to 8
 * activation rows. Its 8 half-warps take every eighth group of 32 inputs, a lane per output row, and are added in
 * order: so the bits of a result do not depend on how many rows a step has. Weights are read once per 8 rows, in lines
 * of 64 bytes. Activations are quantized before by a kernel of their own, exactly as on the CPU; the integer products
 * are those of the CPU too, only the order of the float sums differs.
 *
 * Made to be right first: no tensor cores. Not measured on any GPU yet. */
#include "stream.h"

#include "matrix.cuh"
#include "warp.cuh"

#define SLICES 8
#define LINEAR_THREADS (SLICES * KVQ_TILE_ROWS)
#define MOST_ROWS 8 /* activation rows of a block */
#define QUANTIZE_THREADS 256

/* Quantized activations of a launch: [n_rows, n_in], [n_rows, n_in / 32], [n_rows, n_in / 16]. */
typedef struct activations {
    const int8_t *q;
    const float *d;
    const int *sums;
} activations;

size_t kvq_cuda_linear_bytes(const kvq_shapes *shapes) {
    size_t rows = (size_t)shapes->max_rows, n_in = (size_t)shapes->max_in + KVQ_ACT_GROUP;
    return kvq_cuda_aligned(rows * n_in) + kvq_cuda_aligned(rows * (n_in / KVQ_ACT_GROUP) * sizeof(float)) +
           kvq_cuda_aligned(rows * (n_in / 16) * sizeof(int));
}

/* A warp is a group of 32 values of the flat tensor. The largest is taken over the bits of |x|, whose order is that of
 * the floats with NaN and infinity above all of them. */
__global__ void quantize_groups(const float *x, int8_t *q, float *d, int *sums, int n_groups) {
    int group = blockIdx.x * (QUANTIZE_THREADS / KVQ_WARP_LANES) + threadIdx.x / KVQ_WARP_LANES;
    int lane = threadIdx.x % KVQ_WARP_LANES;
    if (group >= n_groups) return; /* whole warps */
    size_t at = (size_t)group * KVQ_ACT_GROUP + lane;
    float value = x[at];
    int bits = kvq_warp_max(__float_as_int(fabsf(value)));
    float largest = __int_as_float(bits);
    bool finite = bits < 0x7f800000, some = finite && largest >= KVQ_ACT_TINY;
    float scale = largest / 127.0f, inverse = some ? 1.0f / scale : 0.0f;
    int code = some ? __float2int_rn(value * inverse) : 0, sum = code;
    for (int n = 8; n > 0; n /= 2) sum += __shfl_xor_sync(KVQ_WARP, sum, n); /* of each half */
    q[at] = (int8_t)code;
    if (lane % 16 == 0) sums[group * 2 + lane / 16] = sum;
    if (lane == 0) d[group] = some ? scale : finite ? 0.0f : __int_as_float(0x7fc00000);
}

/* One group of 32 inputs of one output, times ROWS activation rows. */
template <int BITS, int GROUP, int ROWS>
static __device__ __forceinline__ void add_group(float *acc, const uint8_t *tile, const kvq_layout *layout, int r,
                                                 int i, const activations *x, int row, int n_rows, int n_in) {
    for (int half = 0; half < KVQ_ACT_GROUP / GROUP; half++) {
        size_t super_at, at = kvq_group_at(layout, GROUP, BITS, i + half * GROUP, &super_at);
        const uint8_t *group = tile + at, *scales = group + kvq_codes_bytes(GROUP, BITS);
        float scale = kvq_scale_of(scales, layout->scale_type, r, kvq_super_of(tile, super_at, layout, r, false));
        float min = 0;
        if (layout->has_min)
            min = kvq_scale_of(scales + kvq_scales_bytes(layout->scale_type), layout->scale_type, r,
                               kvq_super_of(tile, super_at, layout, r, true));
        uint32_t codes[GROUP / 4];
#pragma unroll
        for (int k = 0; k < GROUP / 4; k++) codes[k] = kvq_four_codes(group, BITS, r, k);
#pragma unroll
        for (int n = 0; n < ROWS; n++) {
            if (n >= n_rows) break;
            size_t first = (size_t)(row + n) * n_in + i + half * GROUP;
            const uint32_t *q = (const uint32_t *)(x->q + first);
            const int *sums = x->sums + first / 16;
            float d = x->d[first / KVQ_ACT_GROUP];
            int sum = GROUP == 32 ? sums[0] + sums[1] : sums[0], dot = -layout->zero * sum;
#pragma unroll
            for (int k = 0; k < GROUP / 4; k++) dot = kvq_dp4a_us(codes[k], q[k], dot);
            acc[n] = fmaf((float)dot, scale * d, acc[n]);
            if (layout->has_min) acc[n] = fmaf(min, d * (float)sum, acc[n]);
        }
    }
}

/* Adds the slices in order, then bias and residual. */
template <int ROWS>
static __device__ __forceinline__ void store_tile(const float *acc, KVQ_SHARED_PTR(float) partial,
                                                  const kvq_linear &job, int n_out, const kvq_matrix_part &part,
                                                  int row, int n_rows) {
    int slice = threadIdx.x / KVQ_TILE_ROWS, r = threadIdx.x % KVQ_TILE_ROWS;
#pragma unroll
    for (int n = 0; n < ROWS; n++) partial[(n * SLICES + slice) * KVQ_TILE_ROWS + r] = acc[n];
    __syncthreads();
    int n = slice, o = (int)blockIdx.x * KVQ_TILE_ROWS + r; /* now a half-warp is an activation row */
    if (n >= n_rows || o >= part.n_rows) return;
    float sum = partial[n * SLICES * KVQ_TILE_ROWS + r];
    for (int s = 1; s < SLICES; s++) sum += partial[(n * SLICES + s) * KVQ_TILE_ROWS + r];
    size_t at = (size_t)(row + n) * n_out + part.row_begin + o;
    if (job.bias) sum += job.bias[part.row_begin + o];
    if (job.residual) sum += job.residual[at];
    job.out[at] = sum;
}

template <int BITS, int GROUP, int ROWS>
__global__ void coded_tile(kvq_linear job, kvq_matrix_part part, activations x, int n_in, int n_out) {
    KVQ_SHARED(float, partial, ROWS *SLICES *KVQ_TILE_ROWS);
    int slice = threadIdx.x / KVQ_TILE_ROWS, r = threadIdx.x % KVQ_TILE_ROWS, row = blockIdx.y * MOST_ROWS;
    int n_rows = job.n_rows - row < ROWS ? job.n_rows - row : ROWS;
    const uint8_t *tile = part.data + blockIdx.x * part.tile_bytes;
    float acc[ROWS] = {};
    for (int i = slice * KVQ_ACT_GROUP; i < n_in; i += SLICES * KVQ_ACT_GROUP)
        add_group<BITS, GROUP, ROWS>(acc, tile, &part.layout, r, i, &x, row, n_rows, n_in);
    store_tile<ROWS>(acc, partial, job, n_out, part, row, n_rows);
}

/* Float weights: activations as they are, inputs in eight interleaved chains. */
template <int ROWS> __global__ void float_tile(kvq_linear job, kvq_matrix_part part, int n_in, int n_out) {
    KVQ_SHARED(float, partial, ROWS *SLICES *KVQ_TILE_ROWS);
    int slice = threadIdx.x / KVQ_TILE_ROWS, r = threadIdx.x % KVQ_TILE_ROWS, row = blockIdx.y * MOST_ROWS;
    int n_rows = job.n_rows - row < ROWS ? job.n_rows - row : ROWS;
    const uint8_t *tile = part.data + blockIdx.x * part.tile_bytes;
    float acc[ROWS] = {};
    for (int i = slice; i < n_in; i += SLICES) {
        float w = kvq_float_of(tile, part.layout.kind, (size_t)i * KVQ_TILE_ROWS + r);
#pragma unroll
        for (int n = 0; n < ROWS; n++)
            if (n < n_rows) acc[n] = fmaf(w, job.in[(size_t)(row + n) * n_in + i], acc[n]);
    }
    store_tile<ROWS>(acc, partial, job, n_out, part, row, n_rows);
}

/* ---- the host's part ---- */

typedef void launch_fn(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const activations *x,
                       dim3 grid);

template <int BITS, int GROUP, int ROWS>
static void launch_coded(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const activations *x,
                         dim3 grid) {
    KVQ_LAUNCH((coded_tile<BITS, GROUP, ROWS>), grid, dim3(LINEAR_THREADS), 0, s, *job, *part, *x, job->w->n_in,
               job->w->n_out);
}

template <int ROWS>
static void launch_float(kvq_stream *s, const kvq_linear *job, const kvq_matrix_part *part, const activations *x,
                         dim3 grid) {
    (void)x;
    KVQ_LAUNCH((float_tile<ROWS>), grid, dim3(LINEAR_THREADS), 0, s, *job, *part, job->w->n_in, job->w->n_out);
}

/* clang-format off */
/* One kernel per bits and group, for one activation row and for several. */
static const struct kind {
    int bits, group;
    launch_fn *one, *several;
} kinds[] = {
    {0,  1, launch_float<1>,        launch_float<MOST_ROWS>},
    {4, 16, launch_coded<4, 16, 1>, launch_coded<4, 16, MOST_ROWS>},
    {4, 32, launch_coded<4, 32, 1>, launch_coded<4, 32, MOST_ROWS>},
    {5, 32, launch_coded<5, 32, 1>, launch_coded<5, 32, MOST_ROWS>},
    {6, 16, launch_coded<6, 16, 1>, launch_coded<6, 16, MOST_ROWS>},
    {8, 32, launch_coded<8, 32, 1>, launch_coded<8, 32, MOST_ROWS>},
};
/* clang-format on */

static bool quantize(kvq_stream *s, const kvq_linear *job, activations *ret) {
    size_t n = (size_t)job->n_rows * job->w->n_in, used = 0;
    int n_groups = (int)(n / KVQ_ACT_GROUP), per_block = QUANTIZE_THREADS / KVQ_WARP_LANES;
    int8_t *q = (int8_t *)kvq_cuda_take(s, &used, n);
    float *d = (float *)kvq_cuda_take(s, &used, (size_t)n_groups * sizeof(float));
    int *sums = (int *)kvq_cuda_take(s, &used, n / 16 * sizeof(int));
    if (!q || !d || !sums) return false;
    KVQ_LAUNCH(quantize_groups, dim3(kvq_cuda_blocks(n_groups, per_block)), dim3(QUANTIZE_THREADS), 0, s, job->in, q, d,
               sums, n_groups);
    *ret = activations{q, d, sums};
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
        const kvq_matrix_part *part = &m->parts[p];
        const struct kind *kind = kinds;
        while (kind->bits != part->layout.bits || kind->group != part->layout.group) kind++;
        dim3 grid(kvq_cuda_blocks(part->n_rows, KVQ_TILE_ROWS), kvq_cuda_blocks(job->n_rows, MOST_ROWS));
        (job->n_rows == 1 ? kind->one : kind->several)(s, job, part, &x, grid);
    }
}

void kvq_cuda_fill_linear(kvq_ops *ops) {
    ops->linear = linear;
}
