/* simd_sums.h: simd.h's sums of a group and of attention, for sets whose dots of bytes add to 32 bits at no cost.
 * Included at the end of those sets' headers. */
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

/* Attention's: bytes are multiplied as they are, nibbles straight into the sum. */
#define V_KEY_BIAS V_WIDE_BIAS
typedef uint8_t v_factor;
typedef v64b v_factors, v_codes;
V_INLINE void v_store_factors(v_factor *p, v16i x) {
    v_store_low_b(p, x);
}
V_INLINE v_factors v_splat_factors(const v_factor *p) {
    return v_splat4(p);
}
V_INLINE v_codes v_codes_of(v64b x, const bool is_v) {
    return is_v ? v_value_b(x) : x;
}
V_INLINE v16i v_dot_factors(v16i acc, v_codes codes, v_factors x, const bool is_v) {
    return is_v ? v_dot_value(acc, x, codes) : v_dot_wide(acc, codes, x);
}

#define V_PART_LACK 0
#define V_PART_CODES 8 /* as many as a load has */
V_INLINE v16s v_part_begin(v16i sum, const bool is_v) {
    (void)is_v;
    return sum;
}
V_INLINE v16s v_part_add(v16s acc, v64b n, v64b x, const bool is_v) {
    return is_v ? v_dot_nibble(acc, x, n) : v_dot_narrow(acc, n, x);
}
V_INLINE v16i v_part_end(v16i sum, v16s acc, const bool is_v) {
    (void)sum;
    (void)is_v;
    return acc;
}
