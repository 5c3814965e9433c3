/* simd_neon.h: simd.h for every arm64 CPU (ARMv8.0, Cortex-A53, A72): products of bytes by 8 to 16 bits, which pairs
 * then carry to 32. */
#ifndef KVQ_SIMD_NEON_H
#define KVQ_SIMD_NEON_H

#include "simd_arm64.h"

#define V_ISA neon
#define V_WIDE_BIAS 128
#define V_VALUE_BIAS 0

/* Pairs of products of signed bytes fit 16 bits while no two of -128 meet: at most 2 * 128 * 127. */
V_INLINE int32x4_t v_dot_signed4(int32x4_t acc, int8x16_t x, int8x16_t y) {
    int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(y)), high = vmull_high_s8(x, y);
    return vpadalq_s16(acc, vpaddq_s16(low, high));
}
V_INLINE int32x4_t v_dot_narrow4(int32x4_t acc, uint8x16_t u, uint8x16_t s) {
    return v_dot_signed4(acc, vreinterpretq_s8_u8(u), vreinterpretq_s8_u8(s));
}
V_INLINE v16i v_dot_narrow(v16i acc, v64b u, v64b s) {
    return V_EACH3(v16i, v_dot_narrow4, acc, u, s);
}
V_INLINE v16i v_dot_wide(v16i acc, v64b u, v64b s) {
    return v_dot_narrow(acc, v_flip_b(u), s);
}
V_INLINE int32x4_t v_dot_nibble4(int32x4_t acc, uint8x16_t u, uint8x16_t nibble) {
    uint16x8_t low = vmull_u8(vget_low_u8(u), vget_low_u8(nibble)), high = vmull_high_u8(u, nibble);
    return vreinterpretq_s32_u32(vpadalq_u16(vreinterpretq_u32_s32(acc), vpaddq_u16(low, high)));
}
V_INLINE v16i v_dot_nibble(v16i acc, v64b u, v64b nibble) {
    return V_EACH3(v16i, v_dot_nibble4, acc, u, nibble);
}
/* A product fits 16 bits, two of them do not. */
V_INLINE int32x4_t v_dot_value4(int32x4_t acc, uint8x16_t u, uint8x16_t c) {
    uint32x4_t low = vpaddlq_u16(vmull_u8(vget_low_u8(u), vget_low_u8(c))), high = vpaddlq_u16(vmull_high_u8(u, c));
    return vaddq_s32(acc, vreinterpretq_s32_u32(vpaddq_u32(low, high)));
}
V_INLINE v64b v_value_b(v64b c) {
    return c;
}
V_INLINE v16i v_dot_value(v16i acc, v64b u, v64b c) {
    return V_EACH3(v16i, v_dot_value4, acc, u, c);
}

#include "simd_sums.h"

#endif
