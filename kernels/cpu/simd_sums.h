/* simd_sums.h: simd.h's sums of a group, for sets whose dots of bytes add to 32 bits at no cost. Included at the end of
 * those sets' headers. */
#define V_SUM_MAX INT32_MAX

typedef v16i v16s;

V_INLINE v16s v_sum_zero(void) {
    return v_zero_i();
}
V_INLINE v16s v_sum_begin(v16i pair, v16i factor) {
    return v_dot_pair(v_zero_i(), pair, factor);
}
V_INLINE v16s v_sum_dot(v16s sum, v64b u, v64b s) {
    return v_dot_narrow(sum, u, s);
}
V_INLINE v16i v_sum_end(v16s sum) {
    return sum;
}
