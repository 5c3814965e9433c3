/* simd_dots_arm64.h: the dots of bytes by SDOT and UDOT; the end of simd_dotprod.h and simd_i8mm.h. */
#define V_WIDE_BIAS 128
#define V_VALUE_BIAS 0

V_INLINE int32x4_t v_dot_signed4(int32x4_t acc, uint8x16_t x, uint8x16_t y) {
    return vdotq_s32(acc, vreinterpretq_s8_u8(x), vreinterpretq_s8_u8(y));
}
V_INLINE int32x4_t v_dot_unsigned4(int32x4_t acc, uint8x16_t x, uint8x16_t y) {
    return vreinterpretq_s32_u32(vdotq_u32(vreinterpretq_u32_s32(acc), x, y));
}
V_INLINE v16i v_dot_narrow(v16i acc, v64b u, v64b s) {
    return V_EACH3(v16i, v_dot_signed4, acc, u, s);
}
V_INLINE v16i v_dot_wide(v16i acc, v64b u, v64b s) {
    return v_dot_narrow(acc, v_flip_b(u), s);
}
V_INLINE v16i v_dot_nibble(v16i acc, v64b u, v64b nibble) {
    return V_EACH3(v16i, v_dot_unsigned4, acc, u, nibble);
}
V_INLINE v64b v_value_b(v64b c) {
    return c;
}
V_INLINE v16i v_dot_value(v16i acc, v64b u, v64b c) {
    return V_EACH3(v16i, v_dot_unsigned4, acc, u, c);
}

#include "simd_sums.h"
