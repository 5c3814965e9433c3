/* ptx.cuh: every instruction that CUDA C has no name for, one per function, with what it means in plain C: on the host
 * (KVQ_SIMT) that meaning is what runs. Included by the kernels. */
#ifndef KVQ_CUDA_PTX_CUH
#define KVQ_CUDA_PTX_CUH

#include "launch.cuh"

/* acc + sum over 4 bytes of u (unsigned) times s (signed). dp4a, sm_61. */
static __device__ __forceinline__ int kvq_dp4a_us(uint32_t u, uint32_t s, int acc) {
#ifdef KVQ_SIMT
    for (int b = 0; b < 4; b++) acc += (int)(u >> (8 * b) & 255) * (int8_t)(s >> (8 * b) & 255);
    return acc;
#else
    int ret;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(ret) : "r"(u), "r"(s), "r"(acc));
    return ret;
#endif
}

/* The float that the bits of a half mean, exactly. */
static __device__ __forceinline__ float kvq_half_float(uint16_t bits) {
#ifdef KVQ_SIMT
    return kvq_half_to_float(bits);
#else
    float ret;
    asm("cvt.f32.f16 %0, %1;" : "=f"(ret) : "h"(bits));
    return ret;
#endif
}

/* The nearest half, ties to even; too large gives infinity. */
static __device__ __forceinline__ uint16_t kvq_float_half(float x) {
#ifdef KVQ_SIMT
    return kvq_float_to_half(x);
#else
    uint16_t ret;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(ret) : "f"(x));
    return ret;
#endif
}

#endif
