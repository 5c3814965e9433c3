/* vmath.cuh: elementary functions, the operations of the CPU's (../cpu/vmath_tmpl.h, attend_tmpl.h) one by one, so that
 * both backends give the same bits where their sums are in the same order. */
#ifndef KVQ_CUDA_VMATH_CUH
#define KVQ_CUDA_VMATH_CUH

#include "launch.cuh"

/* exp(x): 0 below -86.9, infinity above 88.73, a NaN stays one. */
static __device__ __forceinline__ float kvq_exp(float x) {
    float low = -86.9f > x ? -86.9f : x, clamped = 88.73f < low ? 88.73f : low;
    int n = __float2int_rn(clamped * 1.44269504f);
    float nf = (float)n, r = fmaf(nf, -0.693359375f, clamped);
    r = fmaf(nf, 2.12194440e-4f, r);
    float p = 1.0f / 5040.0f;
    p = fmaf(p, r, 1.0f / 720.0f);
    p = fmaf(p, r, 1.0f / 120.0f);
    p = fmaf(p, r, 1.0f / 24.0f);
    p = fmaf(p, r, 1.0f / 6.0f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    float y = p * 2.0f * __int_as_float((int)((uint32_t)(n + 126) << 23)); /* in two steps: 2^128 is no float */
    return x < -86.9f ? 0.0f : y;
}

/* tanh(x): absolute error below 2e-7. */
static __device__ __forceinline__ float kvq_tanh(float x) {
    float e = kvq_exp(fabsf(x) * -2.0f), t = (1.0f - e) / (1.0f + e);
    return x < 0 ? -t : t;
}

/* 2^x for x <= 0; a NaN stays one; below -126: less than 2^-125. */
static __device__ __forceinline__ float kvq_exp2_low(float x) {
    float magic = 12582912.0f, y = -126.0f > x ? -126.0f : x;
    float t = y + magic, r = y - (t - magic);
    float p = fmaf(0x1.5bba14p-10f, r, 0x1.3cea88p-7f);
    p = fmaf(p, r, 0x1.c6b752p-5f);
    p = fmaf(p, r, 0x1.ebf9bcp-3f);
    p = fmaf(p, r, 0x1.62e42ap-1f);
    p = fmaf(p, r, 1.0f);
    return __int_as_float((int)((uint32_t)__float_as_int(p) + ((uint32_t)__float_as_int(t) << 23)));
}

#endif
