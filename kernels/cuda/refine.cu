/* refine.cu: `refine`. First what the codes of linear's inputs leave, and the largest of each piece of a row; then a
 * block for some tiles of every row, which looks at their values and ends there if none is near. Else it multiplies
 * what is left by the weights as they are, in floats, tile by tile: a slice of the groups for each half warp, slices
 * added in order.
 *
 * Of a real model some 4 % of the tiles are near. One row is waited for by its longest block, so blocks are small, and
 * all eight warps look at the same tiles. Of many rows there would be so many such blocks that starting them is most of
 * the time: then each warp looks at tiles of its own. */
#include "matrix.cuh"
#include "warp.cuh"

#define PREPARE_THREADS 512
#define PIECES KVQ_WARP_LANES /* of a row, a block each: one block alone waits for its share of the memory */
#define PREPARE_VALUES 8      /* of a thread, loaded at once */
#define REFINE_THREADS 256
#define REFINE_WARPS (REFINE_THREADS / KVQ_WARP_LANES)
#define REFINE_BLOCKS 4 /* of an SM */
#define FEW_WAVES 16    /* of small blocks: beyond, they are large */
/* Tiles that a warp looks at: those of all warps are as many as a ballot tells. */
#define WARP_TILES (KVQ_WARP_LANES / REFINE_WARPS)
#define SLICES (REFINE_THREADS / KVQ_TILE_ROWS)

size_t kvq_cuda_refine_bytes(const kvq_shapes *shapes) {
    size_t rows = (size_t)shapes->max_rows, n_in = (size_t)shapes->max_in + KVQ_ACT_GROUP;
    return kvq_cuda_aligned(rows * n_in * sizeof(float)) + kvq_cuda_aligned(rows * PIECES * sizeof(float));
}

/* x - d q of a lane's value, its warp being the group. */
static __device__ __forceinline__ float remainder_of(float value) {
    float d;
    int code;
    kvq_quantize<1>(&code, &d, &value);
    return fmaf(-d, (float)code, value);
}

/* largest [n_rows, PIECES]; rest [n_rows, n_in]. */
__global__ void __launch_bounds__(PREPARE_THREADS)
    prepare_refine(kvq_refine job, float *rest, float *largest, int n_in, int n_out) {
    KVQ_SHARED(float, scratch, KVQ_WARP_LANES);
    kvq_wait_for_launches();
    const float *x = job.x + (size_t)blockIdx.x * n_out, *in = job.in + (size_t)blockIdx.x * n_in;
    int first = (int)(blockIdx.y * PREPARE_THREADS + threadIdx.x), step = PIECES * PREPARE_THREADS;
    float most = -INFINITY;
#pragma unroll 1
    for (int begin = first; begin < n_out; begin += PREPARE_VALUES * step) {
        float value[PREPARE_VALUES];
#pragma unroll
        for (int u = 0; u < PREPARE_VALUES; u++) value[u] = begin + u * step < n_out ? x[begin + u * step] : -INFINITY;
#pragma unroll
        for (int u = 0; u < PREPARE_VALUES; u++) most = kvq_larger(most, value[u]);
    }
    most = kvq_block_max(most, scratch);
    if (threadIdx.x == 0) largest[blockIdx.x * PIECES + blockIdx.y] = most;
#pragma unroll 1
    for (int i = first; i < n_in; i += step) /* whole warps: n_in is a multiple of 32 */
        rest[(size_t)blockIdx.x * n_in + i] = remainder_of(in[i]);
}

/* sum + what 16 inputs of a group add, from its codes 4 k on. */
static __device__ __forceinline__ float add_inputs(float sum, const kvq_layout &layout, const kvq_row_group &group,
                                                   int r, int k, const float *left) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t codes = kvq_four_codes(group.codes, layout.bits, r, k + j);
        float x[4];
        kvq_load_values<4>(x, left + 4 * j);
#pragma unroll
        for (int b = 0; b < 4; b++) sum = fmaf(kvq_weight_of(&layout, group, (int)(codes >> (8 * b) & 255)), x[b], sum);
    }
    return sum;
}

/* What a slice adds to row r of a tile. */
static __device__ __forceinline__ float sum_slice(const kvq_layout &layout, const uint8_t *tile, int r, int slice,
                                                  const float *left, int n_in) {
    const int apart = SLICES * KVQ_ACT_GROUP; /* inputs; whole super groups, so that everything else is so, too */
    static_assert(apart % KVQ_SUPER_INPUTS == 0);
    int group_bytes = kvq_group_bytes(&layout, layout.group, layout.bits);
    size_t super_at, next_super_at,
        at = kvq_group_at(&layout, layout.group, layout.bits, slice * KVQ_ACT_GROUP, &super_at);
    size_t to_next =
        kvq_group_at(&layout, layout.group, layout.bits, slice * KVQ_ACT_GROUP + apart, &next_super_at) - at;
    float sum = 0;
#pragma unroll 1
    for (int i = slice * KVQ_ACT_GROUP; i < n_in; i += apart, tile += to_next) {
        kvq_row_group group = {};
#pragma unroll 1
        for (int begin = 0; begin < KVQ_ACT_GROUP; begin += 16) {
            int within = begin & (layout.group - 1); /* groups of 16 or 32 */
            if (within == 0) group = kvq_row_group_of(&layout, tile, at + (begin > 0 ? group_bytes : 0), super_at, r);
            sum = add_inputs(sum, layout, group, r, within / 4, left + i + begin);
        }
    }
    return sum;
}

/* A bit for each of WARP_TILES tiles from `tile` on: it has a value of threshold or more. Of a whole warp. */
static __device__ __forceinline__ unsigned find_near(const float *x, int n_rows, int tile, float threshold) {
    static_assert(WARP_TILES % 2 == 0);
    int first = tile * KVQ_TILE_ROWS + (int)threadIdx.x % KVQ_WARP_LANES;
    float value[WARP_TILES / 2];
#pragma unroll
    for (int n = 0; n < WARP_TILES / 2; n++) {
        int o = first + n * KVQ_WARP_LANES;
        value[n] = o < n_rows ? x[o] : NAN;
    }
    unsigned near = 0;
#pragma unroll
    for (int n = 0; n < WARP_TILES / 2; n++) {
        unsigned lanes = __ballot_sync(KVQ_WARP, value[n] >= threshold);
        near |= ((lanes & 0xffff) != 0) << (2 * n) | (lanes >> 16 != 0) << (2 * n + 1);
    }
    return near;
}

/* N_LOOKING: warps that look at tiles of their own, 1 or all. */
template <int N_LOOKING>
__global__ void __launch_bounds__(REFINE_THREADS, REFINE_BLOCKS)
    refine_tiles(kvq_refine job, kvq_matrix_part part, const float *rest, const float *largest, int n_in, int n_out) {
    KVQ_SHARED(float, sums, REFINE_THREADS);
    KVQ_SHARED(unsigned, near_of_warp, REFINE_WARPS);
    kvq_wait_for_launches();
    int lane = threadIdx.x % KVQ_WARP_LANES, warp = threadIdx.x / KVQ_WARP_LANES;
    int r = threadIdx.x % KVQ_TILE_ROWS, slice = threadIdx.x / KVQ_TILE_ROWS;
    int first = (int)blockIdx.x * N_LOOKING * WARP_TILES;
    float *x = job.x + (size_t)blockIdx.y * n_out + part.row_begin;
    float threshold = kvq_warp_max(largest[blockIdx.y * PIECES + lane]) - job.margin;
    unsigned near = find_near(x, part.n_rows, first + warp % N_LOOKING * WARP_TILES, threshold);
    if (N_LOOKING > 1) {
        if (lane == 0) near_of_warp[warp] = near;
        __syncthreads();
        near = __ballot_sync(KVQ_WARP, near_of_warp[lane / WARP_TILES] >> lane % WARP_TILES & 1);
    }
    /* the same in every warp; nobody writes before all have looked: behind the barrier of the first tile's sums */
#pragma unroll 1
    for (; near != 0; near &= near - 1) {
        int tile_index = first + __ffs((int)near) - 1;
        const uint8_t *tile = part.data + (size_t)tile_index * part.tile_bytes;
        kvq_ask_l2_for(tile, (unsigned)part.tile_bytes, threadIdx.x, REFINE_THREADS);
        sums[threadIdx.x] = sum_slice(part.layout, tile, r, slice, rest + (size_t)blockIdx.y * n_in, n_in);
        __syncthreads();
        int o = tile_index * KVQ_TILE_ROWS + r;
        if (slice == 0 && o < part.n_rows) {
            float sum = 0;
#pragma unroll
            for (int i = 0; i < SLICES; i++) sum += sums[i * KVQ_TILE_ROWS + r];
            x[o] += sum;
        }
        __syncthreads();
    }
}

template <int N_LOOKING>
static void launch_refine(kvq_stream *s, const kvq_refine *job, const kvq_matrix_part *part, const float *rest,
                          const float *largest) {
    dim3 grid(kvq_cuda_blocks(part->n_rows, N_LOOKING * WARP_TILES * KVQ_TILE_ROWS), job->n_rows);
    KVQ_LAUNCH_NAMED(N_LOOKING == 1 ? "refine_tiles, small" : "refine_tiles", refine_tiles<N_LOOKING>, grid,
                     dim3(REFINE_THREADS), 0, s, *job, *part, rest, largest, job->w->n_in, job->w->n_out);
}

static void refine(kvq_stream *s, const kvq_refine *job) {
    const kvq_matrix *m = job->w;
    size_t used = 0, n_in = (size_t)m->n_in, n_rows = (size_t)job->n_rows;
    if (job->n_rows == 0 || m->n_in % KVQ_ACT_GROUP != 0) return; /* floats have nothing to refine */
    if (kvq_cuda_takes_halves(s, m, job->n_rows)) return;
    float *rest = (float *)kvq_cuda_take(s, &used, n_rows * n_in * sizeof(float));
    float *largest = (float *)kvq_cuda_take(s, &used, n_rows * PIECES * sizeof(float));
    if (!rest || !largest) return;
    KVQ_LAUNCH(prepare_refine, dim3(job->n_rows, PIECES), dim3(PREPARE_THREADS), 0, s, *job, rest, largest, m->n_in,
               m->n_out);
    for (int p = 0; p < m->n_parts; p++) {
        const kvq_matrix_part *part = &m->parts[p];
        if (part->layout.bits == 0) continue;
        size_t n_small = (size_t)kvq_cuda_blocks(part->n_rows, WARP_TILES * KVQ_TILE_ROWS) * n_rows;
        bool is_small = n_small <= (size_t)(FEW_WAVES * REFINE_BLOCKS * s->n_sms);
        (is_small ? launch_refine<1> : launch_refine<REFINE_WARPS>)(s, job, part, rest, largest);
    }
}

void kvq_cuda_fill_refine(kvq_ops *ops) {
    ops->refine = refine;
}
