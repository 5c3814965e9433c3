/* warp.cuh: sums and maxima over a warp and a block, always in the same order: butterflies within a warp, then warps in
 * order. All threads of the block call them; all get the result. */
#ifndef KVQ_CUDA_WARP_CUH
#define KVQ_CUDA_WARP_CUH

#include "launch.cuh"

/* T is float or int. */
template <typename T> static __device__ __forceinline__ T kvq_warp_sum(T x) {
    for (int n = KVQ_WARP_LANES / 2; n > 0; n /= 2) x += __shfl_xor_sync(KVQ_WARP, x, n);
    return x;
}
/* Of numbers that are no NaN; a NaN in y gives x, as in the CPU's v_max (so that with one, lanes of a warp may differ
 * in what they get below). */
template <typename T> static __device__ __forceinline__ T kvq_larger(T x, T y) {
    return y > x ? y : x;
}
template <typename T> static __device__ __forceinline__ T kvq_warp_max(T x) {
    for (int n = KVQ_WARP_LANES / 2; n > 0; n /= 2) x = kvq_larger(x, __shfl_xor_sync(KVQ_WARP, x, n));
    return x;
}

/* Over the block; scratch [32] is shared memory that nobody else uses. Ends with a barrier. */
static __device__ __forceinline__ float kvq_block_sum(float x, KVQ_SHARED_PTR(float) scratch) {
    int lane = threadIdx.x % KVQ_WARP_LANES, warp = threadIdx.x / KVQ_WARP_LANES, n = blockDim.x / KVQ_WARP_LANES;
    x = kvq_warp_sum(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    float sum = scratch[0];
    for (int w = 1; w < n; w++) sum += scratch[w];
    __syncthreads();
    return sum;
}
template <typename T> static __device__ __forceinline__ T kvq_block_max(T x, KVQ_SHARED_PTR(T) scratch) {
    int lane = threadIdx.x % KVQ_WARP_LANES, warp = threadIdx.x / KVQ_WARP_LANES, n = blockDim.x / KVQ_WARP_LANES;
    x = kvq_warp_max(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    T max = scratch[0];
    for (int w = 1; w < n; w++) max = kvq_larger<T>(max, scratch[w]);
    __syncthreads();
    return max;
}

#endif
