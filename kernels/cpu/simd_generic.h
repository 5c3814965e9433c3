/* simd_generic.h: simd.h's vectors as arrays in plain C, for any machine. The loops over 16 lanes are for the compiler
 * to vectorize with whatever every machine of the target has (SSE2, NEON). fmaf is a call where the target has no fused
 * multiply-add, and slow there: that is the price of the same bits everywhere. */
#ifndef KVQ_SIMD_GENERIC_H
#define KVQ_SIMD_GENERIC_H

#include <math.h>

#include "../formats.h"
#define V_LARGE static __attribute__((noinline, unused))
#include "simd.h"

#define V_ISA generic
#define V_REGISTERS 8
#undef V_UNROLL
#define V_UNROLL /* a vector is a loop already */

typedef struct v16f {
    float v[V_LANES];
} v16f;
typedef struct v16i {
    int32_t v[V_LANES];
} v16i;
typedef struct v64b {
    uint8_t v[4 * V_LANES];
} v64b;

/* `name(args)` whose lane l is `expr`. */
#define V_LANEWISE(type, name, args, expr)                 \
    V_INLINE type name args {                              \
        type ret;                                          \
        for (int l = 0; l < V_LANES; l++) ret.v[l] = expr; \
        return ret;                                        \
    }

V_INLINE int32_t v_wrap(uint32_t x) {
    return (int32_t)x;
} /* gcc and clang define it as modulo 2^32 */
V_INLINE int32_t v_float_bits(float x) {
    int32_t i;
    memcpy(&i, &x, sizeof i);
    return i;
}
V_INLINE float v_bits_float(int32_t i) {
    float x;
    memcpy(&x, &i, sizeof x);
    return x;
}

V_LANEWISE(v16f, v_zero, (void), 0.0f)
V_LANEWISE(v16f, v_set1, (float x), x)
V_LANEWISE(v16f, v_load, (const float *p), p[l])
V_INLINE void v_store(float *p, v16f x) {
    memcpy(p, x.v, sizeof x.v);
}
V_LANEWISE(v16f, v_add, (v16f x, v16f y), x.v[l] + y.v[l])
V_LANEWISE(v16f, v_sub, (v16f x, v16f y), x.v[l] - y.v[l])
V_LANEWISE(v16f, v_mul, (v16f x, v16f y), x.v[l] * y.v[l])
V_LANEWISE(v16f, v_div, (v16f x, v16f y), x.v[l] / y.v[l])
V_LANEWISE(v16f, v_sqrt, (v16f x), sqrtf(x.v[l]))
V_LANEWISE(v16f, v_fma, (v16f x, v16f y, v16f z), fmaf(x.v[l], y.v[l], z.v[l]))
V_LANEWISE(v16f, v_abs, (v16f x), fabsf(x.v[l]))
V_LANEWISE(v16f, v_neg, (v16f x), -x.v[l])
V_LANEWISE(v16f, v_min, (v16f x, v16f y), x.v[l] < y.v[l] ? x.v[l] : y.v[l])
V_LANEWISE(v16f, v_max, (v16f x, v16f y), x.v[l] > y.v[l] ? x.v[l] : y.v[l])
V_LANEWISE(v16f, v_select_lt, (v16f a, v16f b, v16f x, v16f y), a.v[l] < b.v[l] ? x.v[l] : y.v[l])
V_LANEWISE(v16f, v_load_half, (const uint16_t *p), kvq_half_to_float(p[l]))
V_INLINE void v_store_half(uint16_t *p, v16f x) {
    for (int l = 0; l < V_LANES; l++) p[l] = kvq_float_to_half(x.v[l]);
}
V_LANEWISE(v16f, v_load_bfloat, (const uint16_t *p), kvq_bfloat_to_float(p[l]))

V_LANEWISE(v16i, v_zero_i, (void), 0)
V_LANEWISE(v16i, v_set1_i, (int32_t x), x)
V_LANEWISE(v16i, v_load_i, (const int32_t *p), p[l])
V_INLINE void v_store_i(int32_t *p, v16i x) {
    memcpy(p, x.v, sizeof x.v);
}
V_LANEWISE(v16i, v_add_i, (v16i x, v16i y), v_wrap((uint32_t)x.v[l] + (uint32_t)y.v[l]))
V_LANEWISE(v16i, v_sub_i, (v16i x, v16i y), v_wrap((uint32_t)x.v[l] - (uint32_t)y.v[l]))
V_LANEWISE(v16i, v_mul_i, (v16i x, v16i y), v_wrap((uint32_t)x.v[l] * (uint32_t)y.v[l]))
V_LANEWISE(v16i, v_max_i, (v16i x, v16i y), x.v[l] > y.v[l] ? x.v[l] : y.v[l])
V_LANEWISE(v16i, v_and_i, (v16i x, v16i y), x.v[l] & y.v[l])
V_LANEWISE(v16i, v_shl_i, (v16i x, int n), v_wrap((uint32_t)x.v[l] << n))
V_LANEWISE(v16i, v_shr_i, (v16i x, int n), v_wrap((uint32_t)x.v[l] >> n))
V_LANEWISE(v16i, v_load_i8, (const void *p), ((const int8_t *)p)[l])
V_LANEWISE(v16i, v_lanes_i, (void), l)

/* Out of range (only ever a NaN on its way through exp) any integer will do, but the conversion must be defined. */
V_INLINE int32_t v_rint1(float x) {
    return x > -2e9f && x < 2e9f ? (int32_t)lrintf(x) : INT32_MIN;
}
V_LANEWISE(v16i, v_rint, (v16f x), v_rint1(x.v[l]))
V_LANEWISE(v16f, v_float, (v16i x), (float)x.v[l])
V_LANEWISE(v16i, v_bits, (v16f x), v_float_bits(x.v[l]))
V_LANEWISE(v16f, v_from_bits, (v16i x), v_bits_float(x.v[l]))

V_LANEWISE(v16f, v_swap, (v16f x, const int h), x.v[l ^ h])

V_INLINE float v_hsum(v16f x) {
    for (int n = 8; n > 0; n /= 2)
        for (int l = 0; l < n; l++) x.v[l] += x.v[l + n];
    return x.v[0];
}
V_INLINE float v_hmax(v16f x) {
    for (int n = 8; n > 0; n /= 2)
        for (int l = 0; l < n; l++) x.v[l] = x.v[l] > x.v[l + n] ? x.v[l] : x.v[l + n];
    return x.v[0];
}
V_INLINE float v_hmin(v16f x) {
    for (int n = 8; n > 0; n /= 2)
        for (int l = 0; l < n; l++) x.v[l] = x.v[l] < x.v[l + n] ? x.v[l] : x.v[l + n];
    return x.v[0];
}
V_INLINE int32_t v_hmax_i(v16i x) {
    for (int l = 1; l < V_LANES; l++) x.v[0] = x.v[l] > x.v[0] ? x.v[l] : x.v[0];
    return x.v[0];
}
V_INLINE int32_t v_hsum_i(v16i x) {
    uint32_t sum = 0;
    for (int l = 0; l < V_LANES; l++) sum += (uint32_t)x.v[l];
    return v_wrap(sum);
}

V_INLINE int32_t v_hsum_pairs(v16i x, v16i y) {
    uint32_t sum[2] = {0, 0};
    for (int l = 0; l < V_LANES; l++) sum[l / 2 % 2] += (uint32_t)x.v[l] + (uint32_t)y.v[l];
    return v_wrap((sum[0] & 0xFFFF) | sum[1] << 16);
}

V_INLINE v64b v_load_b(const void *p) {
    v64b ret;
    memcpy(ret.v, p, sizeof ret.v);
    return ret;
}
V_INLINE void v_store_b(void *p, v64b x) {
    memcpy(p, x.v, sizeof x.v);
}
V_INLINE v64b v_splat4(const void *p) {
    v64b ret;
    for (int l = 0; l < V_LANES; l++) memcpy(ret.v + 4 * l, p, 4);
    return ret;
}
#define V_BYTEWISE(name, expr)                                          \
    V_INLINE v64b name(v64b x) {                                        \
        for (int i = 0; i < 4 * V_LANES; i++) x.v[i] = (uint8_t)(expr); \
        return x;                                                       \
    }
V_BYTEWISE(v_low_b, x.v[i] & 15)
V_BYTEWISE(v_high_b, x.v[i] >> 4)
V_INLINE v64b v_or_b(v64b x, v64b y) {
    for (int i = 0; i < 4 * V_LANES; i++) x.v[i] |= y.v[i];
    return x;
}
V_INLINE v64b v_bits_to_4_b(v64b x, const int from, const int mask) {
    for (int i = 0; i < 4 * V_LANES; i++) x.v[i] = (uint8_t)(x.v[i] << 4 >> from & mask);
    return x;
}
V_BYTEWISE(v_flip_b, x.v[i] ^ 0x80)
V_INLINE void v_store_low_b(void *p, v16i x) {
    uint8_t *bytes = p;
    for (int l = 0; l < V_LANES; l++) bytes[l] = (uint8_t)x.v[l];
}

V_INLINE v64b v_narrow_b(v16i w, v16i x, v16i y, v16i z) {
    v64b ret = {0};
    v_store_low_b(ret.v, w);
    v_store_low_b(ret.v + V_LANES, x);
    v_store_low_b(ret.v + 2 * V_LANES, y);
    v_store_low_b(ret.v + 3 * V_LANES, z);
    return ret;
}

V_INLINE v16i v_dot_exact(v16i acc, v64b u, v64b s) {
    for (int l = 0; l < V_LANES; l++)
        for (int b = 0; b < 4; b++) acc.v[l] += u.v[4 * l + b] * (int8_t)s.v[4 * l + b];
    return acc;
}
#include "simd_exact.h"

V_INLINE v16i v_dot_pair(v16i acc, v16i x, v16i y) {
    for (int l = 0; l < V_LANES; l++)
        acc.v[l] += (int16_t)x.v[l] * (int16_t)y.v[l] + (int16_t)(x.v[l] >> 16) * (int16_t)(y.v[l] >> 16);
    return acc;
}

#include "simd_sums.h"

#endif
