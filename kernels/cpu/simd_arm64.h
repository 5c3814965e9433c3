/* simd_arm64.h: simd.h's vectors in four registers each, Advanced SIMD of ARMv8.0: all but the dots of bytes, in which
 * the three sets differ. Included by simd_neon.h, simd_dotprod.h and simd_i8mm.h, which add those, V_ISA and
 * V_WIDE_BIAS. */
#ifndef KVQ_SIMD_ARM64_H
#define KVQ_SIMD_ARM64_H

#include <arm_neon.h>

#include "simd.h"

#define V_REGISTERS 8 /* vectors of 16 lanes that fit in registers */

typedef struct v16f {
    float32x4_t a, b, c, d;
} v16f;
typedef struct v16i {
    int32x4_t a, b, c, d;
} v16i;
typedef struct v64b {
    uint8x16_t a, b, c, d;
} v64b;

/* clang-format off */
#define V_EACH1(type, op, x)       ((type){op((x).a), op((x).b), op((x).c), op((x).d)})
#define V_EACH2(type, op, x, y)    ((type){op((x).a, (y).a), op((x).b, (y).b), op((x).c, (y).c), op((x).d, (y).d)})
#define V_EACH3(type, op, x, y, z) ((type){op((x).a, (y).a, (z).a), op((x).b, (y).b, (z).b), \
                                           op((x).c, (y).c, (z).c), op((x).d, (y).d, (z).d)})
#define V_ALL4(type, x)            ((type){(x), (x), (x), (x)})
/* clang-format on */

V_INLINE v16f v_set1(float x) {
    return V_ALL4(v16f, vdupq_n_f32(x));
}
V_INLINE v16f v_zero(void) {
    return v_set1(0.0f);
}
V_INLINE v16f v_load(const float *p) {
    return (v16f){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
V_INLINE void v_store(float *p, v16f x) {
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}
V_INLINE v16f v_add(v16f x, v16f y) {
    return V_EACH2(v16f, vaddq_f32, x, y);
}
V_INLINE v16f v_sub(v16f x, v16f y) {
    return V_EACH2(v16f, vsubq_f32, x, y);
}
V_INLINE v16f v_mul(v16f x, v16f y) {
    return V_EACH2(v16f, vmulq_f32, x, y);
}
V_INLINE v16f v_div(v16f x, v16f y) {
    return V_EACH2(v16f, vdivq_f32, x, y);
}
V_INLINE v16f v_sqrt(v16f x) {
    return V_EACH1(v16f, vsqrtq_f32, x);
}
V_INLINE v16f v_fma(v16f x, v16f y, v16f z) {
    return V_EACH3(v16f, vfmaq_f32, z, x, y);
}
V_INLINE v16f v_abs(v16f x) {
    return V_EACH1(v16f, vabsq_f32, x);
}
V_INLINE v16f v_neg(v16f x) {
    return V_EACH1(v16f, vnegq_f32, x);
}
/* Not FMIN and FMAX: those give NaN where one is NaN. */
V_INLINE float32x4_t v_min4(float32x4_t x, float32x4_t y) {
    return vbslq_f32(vcltq_f32(x, y), x, y);
}
V_INLINE float32x4_t v_max4(float32x4_t x, float32x4_t y) {
    return vbslq_f32(vcgtq_f32(x, y), x, y);
}
V_INLINE v16f v_min(v16f x, v16f y) {
    return V_EACH2(v16f, v_min4, x, y);
}
V_INLINE v16f v_max(v16f x, v16f y) {
    return V_EACH2(v16f, v_max4, x, y);
}
V_INLINE v16f v_select_lt(v16f a, v16f b, v16f x, v16f y) {
    return (v16f){vbslq_f32(vcltq_f32(a.a, b.a), x.a, y.a), vbslq_f32(vcltq_f32(a.b, b.b), x.b, y.b),
                  vbslq_f32(vcltq_f32(a.c, b.c), x.c, y.c), vbslq_f32(vcltq_f32(a.d, b.d), x.d, y.d)};
}
V_INLINE v16f v_load_half(const uint16_t *p) {
    float16x8_t low = vreinterpretq_f16_u16(vld1q_u16(p)), high = vreinterpretq_f16_u16(vld1q_u16(p + 8));
    return (v16f){vcvt_f32_f16(vget_low_f16(low)), vcvt_high_f32_f16(low), vcvt_f32_f16(vget_low_f16(high)),
                  vcvt_high_f32_f16(high)};
}
V_INLINE void v_store_half(uint16_t *p, v16f x) {
    vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.a), x.b)));
    vst1q_u16(p + 8, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.c), x.d)));
}
V_INLINE v16f v_load_bfloat(const uint16_t *p) {
    uint16x8_t low = vld1q_u16(p), high = vld1q_u16(p + 8);
    return (v16f){
        vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(low), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(low, 16)),
        vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(high), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(high, 16))};
}

V_INLINE v16i v_set1_i(int32_t x) {
    return V_ALL4(v16i, vdupq_n_s32(x));
}
V_INLINE v16i v_zero_i(void) {
    return v_set1_i(0);
}
V_INLINE v16i v_load_i(const int32_t *p) {
    return (v16i){vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)};
}
V_INLINE void v_store_i(int32_t *p, v16i x) {
    vst1q_s32(p, x.a);
    vst1q_s32(p + 4, x.b);
    vst1q_s32(p + 8, x.c);
    vst1q_s32(p + 12, x.d);
}
V_INLINE v16i v_add_i(v16i x, v16i y) {
    return V_EACH2(v16i, vaddq_s32, x, y);
}
V_INLINE v16i v_sub_i(v16i x, v16i y) {
    return V_EACH2(v16i, vsubq_s32, x, y);
}
V_INLINE v16i v_mul_i(v16i x, v16i y) {
    return V_EACH2(v16i, vmulq_s32, x, y);
}
V_INLINE v16i v_max_i(v16i x, v16i y) {
    return V_EACH2(v16i, vmaxq_s32, x, y);
}
V_INLINE v16i v_and_i(v16i x, v16i y) {
    return V_EACH2(v16i, vandq_s32, x, y);
}
/* The vectors' own operators: an immediate where n is a constant, which it nearly always is. */
V_INLINE int32x4_t v_shl4(int32x4_t x, int n) {
    return vreinterpretq_s32_u32(vreinterpretq_u32_s32(x) << (uint32_t)n);
}
V_INLINE int32x4_t v_shr4(int32x4_t x, int n) {
    return vreinterpretq_s32_u32(vreinterpretq_u32_s32(x) >> (uint32_t)n);
}
V_INLINE v16i v_shl_i(v16i x, int n) {
    return (v16i){v_shl4(x.a, n), v_shl4(x.b, n), v_shl4(x.c, n), v_shl4(x.d, n)};
}
V_INLINE v16i v_shr_i(v16i x, int n) {
    return (v16i){v_shr4(x.a, n), v_shr4(x.b, n), v_shr4(x.c, n), v_shr4(x.d, n)};
}
V_INLINE v16i v_load_i8(const void *p) {
    int8x16_t bytes = vld1q_s8(p);
    int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
    return (v16i){vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)),
                  vmovl_high_s16(high)};
}
V_INLINE v16i v_lanes_i(void) {
    static const int32_t lanes[V_LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return v_load_i(lanes);
}

V_INLINE v16i v_rint(v16f x) {
    return V_EACH1(v16i, vcvtnq_s32_f32, x);
}
V_INLINE v16f v_float(v16i x) {
    return V_EACH1(v16f, vcvtq_f32_s32, x);
}
V_INLINE v16i v_bits(v16f x) {
    return V_EACH1(v16i, vreinterpretq_s32_f32, x);
}
V_INLINE v16f v_from_bits(v16i x) {
    return V_EACH1(v16f, vreinterpretq_f32_s32, x);
}

V_INLINE float32x4_t v_swap4(float32x4_t x, const int h) {
    return h == 1 ? vrev64q_f32(x) : vextq_f32(x, x, 2);
}
V_INLINE v16f v_swap(v16f x, const int h) {
    return h == 8   ? (v16f){x.c, x.d, x.a, x.b}
           : h == 4 ? (v16f){x.b, x.a, x.d, x.c}
                    : (v16f){v_swap4(x.a, h), v_swap4(x.b, h), v_swap4(x.c, h), v_swap4(x.d, h)};
}

V_INLINE float v_hsum(v16f x) {
    float32x4_t y = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    return vpadds_f32(vadd_f32(vget_low_f32(y), vget_high_f32(y)));
}
V_INLINE float v_hmax(v16f x) {
    float32x4_t y = v_max4(v_max4(x.a, x.c), v_max4(x.b, x.d));
    y = v_max4(y, vextq_f32(y, y, 2));
    return vgetq_lane_f32(v_max4(y, vrev64q_f32(y)), 0);
}
V_INLINE float v_hmin(v16f x) {
    float32x4_t y = v_min4(v_min4(x.a, x.c), v_min4(x.b, x.d));
    y = v_min4(y, vextq_f32(y, y, 2));
    return vgetq_lane_f32(v_min4(y, vrev64q_f32(y)), 0);
}
V_INLINE int32_t v_hmax_i(v16i x) {
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.a, x.b), vmaxq_s32(x.c, x.d)));
}
V_INLINE int32_t v_hsum_i(v16i x) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(x.a, x.b), vaddq_s32(x.c, x.d)));
}

V_INLINE int32_t v_hsum_pairs(v16i x, v16i y) {
    int32x4_t a = vaddq_s32(vaddq_s32(x.a, x.b), vaddq_s32(x.c, x.d));
    int32x4_t b = vaddq_s32(vaddq_s32(y.a, y.b), vaddq_s32(y.c, y.d)), sum = vaddq_s32(a, b);
    return vget_lane_s32(vreinterpret_s32_s16(vmovn_s32(vpaddq_s32(sum, sum))), 0);
}

V_INLINE v64b v_load_b(const void *p) {
    const uint8_t *bytes = p;
    return (v64b){vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)};
}
V_INLINE void v_store_b(void *p, v64b x) {
    uint8_t *bytes = p;
    vst1q_u8(bytes, x.a);
    vst1q_u8(bytes + 16, x.b);
    vst1q_u8(bytes + 32, x.c);
    vst1q_u8(bytes + 48, x.d);
}
V_INLINE v64b v_splat4(const void *p) {
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return V_ALL4(v64b, vreinterpretq_u8_u32(vdupq_n_u32(x)));
}
V_INLINE v64b v_low_b(v64b x) {
    v64b mask = V_ALL4(v64b, vdupq_n_u8(15));
    return V_EACH2(v64b, vandq_u8, x, mask);
}
V_INLINE v64b v_high_b(v64b x) {
    return (v64b){vshrq_n_u8(x.a, 4), vshrq_n_u8(x.b, 4), vshrq_n_u8(x.c, 4), vshrq_n_u8(x.d, 4)};
}
V_INLINE v64b v_or_b(v64b x, v64b y) {
    return V_EACH2(v64b, vorrq_u8, x, y);
}
V_INLINE uint8x16_t v_bits_to_4_b16(uint8x16_t x, const int from, const int mask) {
    uint8x16_t moved = from <= 4 ? x << (uint8_t)(4 - from) : x >> (uint8_t)(from - 4);
    return vandq_u8(moved, vdupq_n_u8((uint8_t)mask));
}
V_INLINE v64b v_bits_to_4_b(v64b x, const int from, const int mask) {
    return (v64b){v_bits_to_4_b16(x.a, from, mask), v_bits_to_4_b16(x.b, from, mask), v_bits_to_4_b16(x.c, from, mask),
                  v_bits_to_4_b16(x.d, from, mask)};
}
V_INLINE v64b v_flip_b(v64b x) {
    v64b top = V_ALL4(v64b, vdupq_n_u8(0x80));
    return V_EACH2(v64b, veorq_u8, x, top);
}
V_INLINE uint8x16_t v_low_bytes(v16i x) {
    int16x8_t low = vmovn_high_s32(vmovn_s32(x.a), x.b), high = vmovn_high_s32(vmovn_s32(x.c), x.d);
    return vreinterpretq_u8_s8(vmovn_high_s16(vmovn_s16(low), high));
}
V_INLINE void v_store_low_b(void *p, v16i x) {
    vst1q_u8(p, v_low_bytes(x));
}
V_INLINE v64b v_narrow_b(v16i w, v16i x, v16i y, v16i z) {
    return (v64b){v_low_bytes(w), v_low_bytes(x), v_low_bytes(y), v_low_bytes(z)};
}

V_INLINE int32x4_t v_dot_pair4(int32x4_t acc, int32x4_t x, int32x4_t y) { /* even halves, then odd ones */
    int16x8_t p = vreinterpretq_s16_s32(x), q = vreinterpretq_s16_s32(y);
    int32x4_t low = vmull_s16(vget_low_s16(p), vget_low_s16(q)), high = vmull_high_s16(p, q);
    return vaddq_s32(acc, vpaddq_s32(low, high));
}
V_INLINE v16i v_dot_pair(v16i acc, v16i x, v16i y) {
    return V_EACH3(v16i, v_dot_pair4, acc, x, y);
}

#endif
