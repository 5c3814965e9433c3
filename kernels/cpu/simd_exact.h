/* simd_exact.h: simd.h's dots of bytes for sets that have an exact one of unsigned by signed, v_dot_exact: it is all of
 * them, with no bias on weights. Included behind it by those sets' headers. */
#define V_WIDE_BIAS 0
#define V_VALUE_BIAS 128

V_INLINE v16i v_dot_narrow(v16i acc, v64b u, v64b s) {
    return v_dot_exact(acc, u, s);
}
V_INLINE v16i v_dot_wide(v16i acc, v64b u, v64b s) {
    return v_dot_exact(acc, u, s);
}
V_INLINE v64b v_value_b(v64b c) {
    return v_flip_b(c);
}
V_INLINE v16i v_dot_value(v16i acc, v64b u, v64b s) {
    return v_dot_exact(acc, u, s);
}
V_INLINE v16i v_dot_nibble(v16i acc, v64b u, v64b n) {
    return v_dot_exact(acc, u, n);
}
