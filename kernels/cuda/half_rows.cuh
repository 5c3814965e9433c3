/* half_rows.cuh: rows of activations as halves, and how a block makes those of a row whose floats it has written or
 * read. Included by linear_halves.cu and linear_cublas.cu, whose products take them, and by rows.cu, whose kernels
 * leave them beside their floats for such a product right behind (kvq_cuda_fuse_conversion). */
#ifndef KVQ_CUDA_HALF_ROWS_CUH
#define KVQ_CUDA_HALF_ROWS_CUH

#include "columns.cuh"
#include "warp.cuh"

/* The larger of `largest` and |x|, as bits: in their order a NaN is larger than an infinity, and that than numbers. */
template <int N> static __device__ __forceinline__ int kvq_largest_bits(int largest, const float x[N]) {
#pragma unroll
    for (int k = 0; k < N; k++) largest = kvq_larger<int>(largest, __float_as_int(fabsf(x[k])));
    return largest;
}

/* What a row is multiplied with to be in range, and its results after that; powers of two. bits: of the largest |x|. */
static __device__ __forceinline__ float kvq_half_scale(int bits, float *inverse) {
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

/* By all of a block: row `row` out of its floats, which the block's threads may just have written. A thread has eight
 * inputs at a time, a lane's of the products. largest: kvq_largest_bits of those that the thread has seen, of some
 * thread each. scratch as of kvq_block_max. */
static __device__ __forceinline__ void kvq_leave_halves(const kvq_half_rows &to, int row, const float *from,
                                                        int largest, KVQ_SHARED_PTR(int) scratch) {
    float inverse, scale = kvq_half_scale(kvq_block_max<int>(largest, scratch), &inverse); /* and all are written */
    if (threadIdx.x == 0) to.scale[row] = scale;
    int step_apart = to.row_apart == to.n_in ? KVQ_STEP : KVQ_COLUMNS * KVQ_STEP; /* of one step: either */
    uint16_t *halves =
        to.halves + (size_t)(row / KVQ_COLUMNS) * KVQ_COLUMNS * to.n_in + (size_t)(row % KVQ_COLUMNS) * to.row_apart;
    for (int i = (int)threadIdx.x * 8; i < to.n_in; i += (int)blockDim.x * 8) {
        float4 low = *(const float4 *)(from + i), high = *(const float4 *)(from + i + 4);
        uint4 words;
        words.x = kvq_two_halves(low.x * inverse, low.z * inverse); /* the order of kvq_half_input */
        words.y = kvq_two_halves(low.y * inverse, low.w * inverse);
        words.z = kvq_two_halves(high.x * inverse, high.z * inverse);
        words.w = kvq_two_halves(high.y * inverse, high.w * inverse);
        kvq_store_16(halves + (size_t)(i / KVQ_STEP) * step_apart + i % KVQ_STEP, words);
    }
}

#endif
