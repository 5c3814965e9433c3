/* refine.cu: `refine`. First, a block a row, the threshold and what the codes of linear's inputs leave; then a block
 * for every tile of every row, which looks at its 16 values and in nearly all cases ends there. The others multiply
 * what is left by the weights as they are, in floats: a slice of the groups for each half warp, slices added in order.
 */
#include "matrix.cuh"
#include "warp.cuh"

#define PREPARE_THREADS 1024 /* a row has one block only, which waits for memory */
#define REFINE_THREADS 256
#define SLICES (REFINE_THREADS / KVQ_TILE_ROWS)

size_t kvq_cuda_refine_bytes(const kvq_shapes *shapes) {
    size_t rows = (size_t)shapes->max_rows, n_in = (size_t)shapes->max_in + KVQ_ACT_GROUP;
    return kvq_cuda_aligned(rows * n_in * sizeof(float)) + kvq_cuda_aligned(rows * sizeof(float));
}

/* x - d q of a lane's value, its warp being the group. */
static __device__ __forceinline__ float remainder_of(float value) {
    float d;
    int code = kvq_quantize(value, &d);
    return fmaf(-d, (float)code, value);
}

__global__ void __launch_bounds__(PREPARE_THREADS)
    prepare_refine(kvq_refine job, float *rest, float *threshold, int n_in, int n_out) {
    KVQ_SHARED(float, scratch, KVQ_WARP_LANES);
    kvq_wait_for_launches();
    const float *x = job.x + (size_t)blockIdx.x * n_out, *in = job.in + (size_t)blockIdx.x * n_in;
    float largest = -INFINITY;
#pragma unroll 8
    for (int o = threadIdx.x; o < n_out; o += PREPARE_THREADS) largest = kvq_larger<float>(largest, x[o]);
    largest = kvq_block_max(largest, scratch);
    if (threadIdx.x == 0) threshold[blockIdx.x] = largest - job.margin;
    for (int i = threadIdx.x; i < n_in; i += PREPARE_THREADS) /* whole warps: n_in is a multiple of 32 */
        rest[(size_t)blockIdx.x * n_in + i] = remainder_of(in[i]);
}

/* sum + what the 32 inputs from i on add. */
static __device__ __forceinline__ float add_inputs(float sum, const kvq_layout &layout, const uint8_t *tile, int r,
                                                   int i, const float *left) {
    for (int begin = i; begin < i + KVQ_ACT_GROUP; begin += layout.group) {
        const kvq_row_group group = kvq_row_group_of(&layout, tile, r, begin);
#pragma unroll 4
        for (int k = 0; k < layout.group / 4; k++) {
            uint32_t codes = kvq_four_codes(group.codes, layout.bits, r, k);
            float4 x = *(const float4 *)(left + begin + 4 * k);
            float inputs[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
            for (int b = 0; b < 4; b++)
                sum = fmaf(kvq_weight_of(&layout, group, (int)(codes >> (8 * b) & 255)), inputs[b], sum);
        }
    }
    return sum;
}

__global__ void __launch_bounds__(REFINE_THREADS)
    refine_tiles(kvq_refine job, kvq_matrix_part part, const float *rest, const float *threshold, int n_in, int n_out) {
    KVQ_SHARED(float, sums, REFINE_THREADS);
    kvq_wait_for_launches();
    int l = threadIdx.x % KVQ_TILE_ROWS, slice = threadIdx.x / KVQ_TILE_ROWS, o = blockIdx.x * KVQ_TILE_ROWS + l;
    float *x = job.x + (size_t)blockIdx.y * n_out + part.row_begin + o;
    const float *left = rest + (size_t)blockIdx.y * n_in;
    bool is_near = o < part.n_rows && *x >= threshold[blockIdx.y];
    if (!__any_sync(KVQ_WARP, is_near)) return; /* every warp has the tile's 16 values, twice: the whole block */
    const uint8_t *tile = part.data + (size_t)blockIdx.x * part.tile_bytes;
    float sum = 0;
    for (int i = slice * KVQ_ACT_GROUP; i < n_in; i += SLICES * KVQ_ACT_GROUP)
        sum = add_inputs(sum, part.layout, tile, l, i, left);
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (slice > 0 || o >= part.n_rows) return;
    for (int n = 1; n < SLICES; n++) sum += sums[n * KVQ_TILE_ROWS + l];
    *x += sum;
}

static void refine(kvq_stream *s, const kvq_refine *job) {
    const kvq_matrix *m = job->w;
    size_t used = 0, n_in = (size_t)m->n_in, n_rows = (size_t)job->n_rows;
    if (job->n_rows == 0 || m->n_in % KVQ_ACT_GROUP != 0) return; /* floats have nothing to refine */
    if (kvq_cuda_takes_halves(s, m, job->n_rows)) return;
    float *rest = (float *)kvq_cuda_take(s, &used, n_rows * n_in * sizeof(float));
    float *threshold = (float *)kvq_cuda_take(s, &used, n_rows * sizeof(float));
    if (!rest || !threshold) return;
    KVQ_LAUNCH(prepare_refine, dim3(job->n_rows), dim3(PREPARE_THREADS), 0, s, *job, rest, threshold, m->n_in,
               m->n_out);
    for (int p = 0; p < m->n_parts; p++) {
        const kvq_matrix_part *part = &m->parts[p];
        if (part->layout.bits == 0) continue;
        dim3 grid(kvq_cuda_blocks(part->n_rows, KVQ_TILE_ROWS), job->n_rows);
        KVQ_LAUNCH(refine_tiles, grid, dim3(REFINE_THREADS), 0, s, *job, *part, rest, threshold, m->n_in, m->n_out);
    }
}

void kvq_cuda_fill_refine(kvq_ops *ops) {
    ops->refine = refine;
}
