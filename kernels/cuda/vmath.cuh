/* vmath.cuh: elementary functions, the operations of the CPU's (../cpu/vmath_tmpl.h) one by one, so that both backends
 * give the same bits where their sums are in the same order. Attention has ptx.cuh's instead. */
#ifndef KVQ_CUDA_VMATH_CUH
#define KVQ_CUDA_VMATH_CUH

#include "stream.h"

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

/* act(gate) * up: x / (1 + exp(-u)); gelu_tanh too, as (1 + tanh(v)) / 2 = 1 / (1 + exp(-2 v)). */
static __device__ __forceinline__ float kvq_gated(kvq_activation activation, float gate, float up) {
    float minus_2v = fmaf(gate * gate * gate, 0.044715f, gate) * -1.59576912f; /* -2 sqrt(2 / pi) */
    return up * (gate / (1.0f + kvq_exp(activation == KVQ_ACT_GELU_TANH ? minus_2v : -gate)));
}

#endif
