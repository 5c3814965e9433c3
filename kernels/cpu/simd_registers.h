/* simd_registers.h: what simd_avx2.h and simd_sse41.h have in common: simd.h's vectors in a few registers each.
 * Included by them behind the vectors' types, v16f and v16i with a register in each member, and
 *
 *   V_REG(op) V_BITS(op)   an intrinsic on one register: _mm256_op or _mm_op; on all its bits
 *   V_EACH*(op, x, y, z)   a vector whose registers are op of those of x, y, z: F floats, I integers, TO the other kind
 *   V_ALL*(x)              every register is x
 *   V_AS_I(x) V_AS_F(x)    a register's bits as the other kind
 *   V_LESS(x, y)           registers of floats: all bits of a lane where x < y
 *   V_SPLAT16(p)           the 16 bytes at p in each 16 of a register
 *   V_FOLD*(op, x)         four lanes in an __m128: op(op(0..3, 8..11), op(4..7, 12..15))
 *   V_KEEP(x)              x must be in registers here: an empty asm statement
 *   v_low_bytes(x)         the low bytes of 16 lanes in an __m128i
 *
 * The dots of bytes, the last part, are for sets that have pmaddubsw alone (V_EXACT_DOTS is not defined). */

V_INLINE v16f v_zero(void) {
    return V_ALLF(V_REG(set1_ps)(0.0f));
}
V_INLINE v16f v_set1(float x) {
    return V_ALLF(V_REG(set1_ps)(x));
}
V_INLINE v16f v_add(v16f x, v16f y) {
    return V_EACH2F(V_REG(add_ps), x, y);
}
V_INLINE v16f v_sub(v16f x, v16f y) {
    return V_EACH2F(V_REG(sub_ps), x, y);
}
V_INLINE v16f v_mul(v16f x, v16f y) {
    return V_EACH2F(V_REG(mul_ps), x, y);
}
V_INLINE v16f v_div(v16f x, v16f y) {
    return V_EACH2F(V_REG(div_ps), x, y);
}
V_INLINE v16f v_sqrt(v16f x) {
    return V_EACH1F(V_REG(sqrt_ps), x);
}
V_INLINE v16f v_abs(v16f x) {
    v16f sign = v_set1(-0.0f);
    return V_EACH2F(V_REG(andnot_ps), sign, x);
}
V_INLINE v16f v_neg(v16f x) {
    v16f sign = v_set1(-0.0f);
    return V_EACH2F(V_REG(xor_ps), sign, x);
}
V_INLINE v16f v_min(v16f x, v16f y) {
    return V_EACH2F(V_REG(min_ps), x, y);
}
V_INLINE v16f v_max(v16f x, v16f y) {
    return V_EACH2F(V_REG(max_ps), x, y);
}
V_INLINE v16f v_select_lt(v16f a, v16f b, v16f x, v16f y) {
    v16f less = V_EACH2F(V_LESS, a, b);
    return V_EACH3F(V_REG(blendv_ps), y, x, less);
}

V_INLINE v16i v_set1_i(int32_t x) {
    return V_ALLI(V_REG(set1_epi32)(x));
}
V_INLINE v16i v_zero_i(void) {
    return v_set1_i(0);
}
V_INLINE v16i v_add_i(v16i x, v16i y) {
    return V_EACH2I(V_REG(add_epi32), x, y);
}
V_INLINE v16i v_sub_i(v16i x, v16i y) {
    return V_EACH2I(V_REG(sub_epi32), x, y);
}
V_INLINE v16i v_mul_i(v16i x, v16i y) {
    return V_EACH2I(V_REG(mullo_epi32), x, y);
}
V_INLINE v16i v_max_i(v16i x, v16i y) {
    return V_EACH2I(V_REG(max_epi32), x, y);
}
V_INLINE v16i v_and_i(v16i x, v16i y) {
    return V_EACH2I(V_BITS(and), x, y);
}
V_INLINE v16i v_shl_i(v16i x, int n) {
    return V_EACH1I_BY(V_REG(sll_epi32), x, _mm_cvtsi32_si128(n));
}
V_INLINE v16i v_shr_i(v16i x, int n) {
    return V_EACH1I_BY(V_REG(srl_epi32), x, _mm_cvtsi32_si128(n));
}

V_INLINE v16i v_rint(v16f x) {
    return V_EACH1F_TO_I(V_REG(cvtps_epi32), x);
}
V_INLINE v16f v_float(v16i x) {
    return V_EACH1I_TO_F(V_REG(cvtepi32_ps), x);
}
V_INLINE v16i v_bits(v16f x) {
    return V_EACH1F_TO_I(V_AS_I, x);
}
V_INLINE v16f v_from_bits(v16i x) {
    return V_EACH1I_TO_F(V_AS_F, x);
}

V_INLINE float v_hsum(v16f x) {
    __m128 c = V_FOLDF(add_ps, x);
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
V_INLINE float v_hmax(v16f x) {
    __m128 c = V_FOLDF(max_ps, x);
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
V_INLINE float v_hmin(v16f x) {
    __m128 c = V_FOLDF(min_ps, x);
    c = _mm_min_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_min_ss(c, _mm_movehdup_ps(c)));
}
V_INLINE int32_t v_hmax_i(v16i x) {
    __m128i c = V_FOLDI(max_epi32, x);
    c = _mm_max_epi32(c, _mm_shuffle_epi32(c, 0x4E));
    return _mm_cvtsi128_si32(_mm_max_epi32(c, _mm_shuffle_epi32(c, 0xB1)));
}
V_INLINE int32_t v_hsum_i(v16i x) {
    __m128i c = V_FOLDI(add_epi32, x);
    c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xB1)));
}

V_INLINE v64b v_set1_b(int x) {
    return V_ALLI(V_REG(set1_epi8)((char)x));
}
V_INLINE v64b v_splat4(const void *p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return v_set1_i(x);
}
V_INLINE v64b v_low_b(v64b x) {
    return v_and_i(x, v_set1_b(15));
}
V_INLINE v64b v_high_b(v64b x) {
    return v_low_b(V_EACH1I_BY(V_REG(srli_epi16), x, 4));
}
V_INLINE v64b v_or_b(v64b x, v64b y) {
    return V_EACH2I(V_BITS(or), x, y);
}
V_INLINE v64b v_bits_to_4_b(v64b x, const int from, const int mask) {
    v64b moved = from <= 4 ? V_EACH1I_BY(V_REG(slli_epi16), x, 4 - from) : V_EACH1I_BY(V_REG(srli_epi16), x, from - 4);
    return v_and_i(moved, v_set1_b(mask));
}
V_INLINE v64b v_flip_b(v64b x) {
    v64b top = v_set1_b(-128);
    return V_EACH2I(V_BITS(xor), x, top);
}
V_INLINE void v_store_low_b(void *p, v16i x) {
    _mm_storeu_si128((__m128i *)p, v_low_bytes(x));
}
/* By way of the bytes, which the caller stores anyway. */
V_INLINE int32_t v_hsum_pairs(v16i a, v16i b) {
    const __m128i one = _mm_set1_epi8(1);
    __m128i x = _mm_add_epi16(_mm_maddubs_epi16(one, v_low_bytes(a)), _mm_maddubs_epi16(one, v_low_bytes(b)));
    x = _mm_add_epi16(x, _mm_shuffle_epi32(x, 0xB1));
    return _mm_cvtsi128_si32(_mm_add_epi16(x, _mm_shuffle_epi32(x, 0x4E)));
}

#ifndef V_EXACT_DOTS
#define V_WIDE_BIAS 128

V_INLINE v16i v_set1_s(int x) {
    return V_ALLI(V_REG(set1_epi16)((short)x));
}
V_INLINE v16i v_maddubs(v64b u, v64b s) {
    return V_EACH2I(V_REG(maddubs_epi16), u, s);
}
V_INLINE v16i v_madd(v16i x, v16i y) {
    return V_EACH2I(V_REG(madd_epi16), x, y);
}

V_INLINE v16i v_dot_narrow(v16i acc, v64b u, v64b s) { /* pairs: 2 * 127 * 128 fits 16 bits */
    return v_add_i(acc, v_madd(v_maddubs(u, s), v_set1_s(1)));
}
/* With c = u - 128: |c| <= 128 times s under c's sign, so a pair is at most 2 * 128 * 127, which fits 16 bits. */
V_INLINE v16i v_dot_wide(v16i acc, v64b u, v64b s) {
    v64b c = v_flip_b(u), size = V_EACH1I(V_REG(abs_epi8), c), with = V_EACH2I(V_REG(sign_epi8), s, c);
    acc = v_dot_narrow(acc, size, with);
    V_KEEP(acc); /* as in v_sum_dot */
    return acc;
}
V_INLINE v16i v_dot_nibble(v16i acc, v64b u, v64b n) {
    return v_dot_narrow(acc, u, n);
}
V_INLINE v16i v_dot_pair(v16i acc, v16i x, v16i y) {
    return v_add_i(acc, v_madd(x, y));
}

/* Sums stay in 16-bit lanes, modulo 2^16, until the group's end: one addition a dot instead of two and a pmaddwd. */
#define V_SUM_MAX INT16_MAX

typedef v16i v16s;

V_INLINE v16s v_sum_zero(void) {
    return v_zero_i();
}
V_INLINE v16s v_sum_begin(v16i pair, v16i factor) {
    return V_EACH2I(V_REG(mullo_epi16), pair, factor);
}
/* V_KEEP, an empty asm statement, keeps gcc from adding in a tree, for which it first computes all products and spills
 * them. */
V_INLINE v16s v_sum_dot(v16s sum, v64b u, v64b s) {
    v16i products = v_maddubs(u, s);
    sum = V_EACH2I(V_REG(add_epi16), sum, products);
    V_KEEP(sum);
    return sum;
}
V_INLINE v16i v_sum_end(v16s sum) {
    return v_madd(sum, v_set1_s(1));
}

/* 8-bit codes and what they are multiplied with as 16-bit numbers: two instructions for 16 products of any sign, where
 * bytes need three for 32 (v_dot_wide) after one for each vector of factors, and V cannot use those. */
#define V_KEY_BIAS 0
#define V_VALUE_BIAS 0
typedef int16_t v_factor;
typedef struct v_factors {
    v16i low, high;
} v_factors;
typedef v_factors v_codes; /* codes 0 and 1, 2 and 3 of every lane */
V_INLINE v_factors v_splat_factors(const v_factor *p) {
    return (v_factors){v_splat4(p), v_splat4(p + 2)};
}
V_INLINE v_codes v_codes_of(v64b x, const bool is_v) {
    static const int8_t first[16] = {0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1};
    static const int8_t second[16] = {2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1};
    (void)is_v;
    return (v_codes){V_EACH1I_BY(V_REG(shuffle_epi8), x, V_SPLAT16(first)),
                     V_EACH1I_BY(V_REG(shuffle_epi8), x, V_SPLAT16(second))};
}
V_INLINE v16i v_dot_factors(v16i acc, v_codes codes, v_factors x, const bool is_v) {
    (void)is_v;
    return v_dot_pair(v_dot_pair(acc, codes.low, x.low), codes.high, x.high);
}

/* Nibbles times bytes, summed in 16 bits: 8 steps of two products of at most 15 * 127 from 0, or of 15 * 255 from
 * -32768 (V, whose bytes have no sign): then a lane of 32 codes lacks two times that. */
#define V_PART_LACK 2048
#define V_PART_CODES 32
V_INLINE v16s v_part_begin(v16i sum, const bool is_v) {
    (void)sum;
    return v_set1_s(is_v ? -32768 : 0);
}
V_INLINE v16s v_part_add(v16s acc, v64b n, v64b x, const bool is_v) {
    return is_v ? v_sum_dot(acc, x, n) : v_sum_dot(acc, n, x);
}
V_INLINE v16i v_part_end(v16i sum, v16s acc, const bool is_v) {
    (void)is_v;
    return v_add_i(sum, v_sum_end(acc));
}

#endif
