/* warp.cuh: sums and maxima over a warp and a block, always in the same order: butterflies within a warp, then one over
 * what the warps have. All threads of the block call them; all get the result. And a thread's values that stand side by
 * side. */
#ifndef KVQ_CUDA_WARP_CUH
#define KVQ_CUDA_WARP_CUH

#include "launch.cuh"
#include "ptx.cuh"

/* T is any number. */
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

/* Over the block; scratch [32] is shared memory that nobody else uses before the block's next barrier. */
static __device__ __forceinline__ float kvq_block_sum(float x, KVQ_SHARED_PTR(float) scratch) {
    int lane = threadIdx.x % KVQ_WARP_LANES, warp = threadIdx.x / KVQ_WARP_LANES, n = blockDim.x / KVQ_WARP_LANES;
    x = kvq_warp_sum(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    return kvq_warp_sum(lane < n ? (float)scratch[lane] : 0.0f);
}
template <typename T> static __device__ __forceinline__ T kvq_block_max(T x, KVQ_SHARED_PTR(T) scratch) {
    int lane = threadIdx.x % KVQ_WARP_LANES, warp = threadIdx.x / KVQ_WARP_LANES, n = blockDim.x / KVQ_WARP_LANES;
    x = kvq_warp_max(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    return kvq_warp_max<T>(scratch[lane < n ? lane : 0]);
}

/* N values side by side in one load or store: four or two, at a multiple of their bytes of device memory, or one. */
template <int N> static __device__ __forceinline__ void kvq_load_values(float to[N], const float *from) {
    if constexpr (N == 4) {
        float4 x = *(const float4 *)from;
        to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
    } else if constexpr (N == 2) {
        float2 x = *(const float2 *)from;
        to[0] = x.x, to[1] = x.y;
    } else {
        to[0] = from[0];
    }
}
template <int N> static __device__ __forceinline__ void kvq_store_values(float *to, const float from[N]) {
    if constexpr (N == 4)
        kvq_store_16(to, float4{from[0], from[1], from[2], from[3]});
    else if constexpr (N == 2)
        *(float2 *)to = float2{from[0], from[1]};
    else
        to[0] = from[0];
}

#endif
