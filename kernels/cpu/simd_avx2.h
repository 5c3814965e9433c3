/* simd_avx2.h: simd.h's vectors in two registers each, AVX2 with FMA and F16C. All but the dots of bytes, the last
 * part, serves simd_avxvnni.h too. */
#ifndef KVQ_SIMD_AVX2_H
#define KVQ_SIMD_AVX2_H

#include <immintrin.h>

#include "simd.h"

#define V_REGISTERS 8 /* vectors of 16 lanes that fit in registers */

typedef struct v16f {
    __m256 a, b;
} v16f;
typedef struct v16i {
    __m256i a, b;
} v16i;
typedef v16i v64b;

/* clang-format off */
#define V_EACH1F(op, x)       ((v16f){op((x).a), op((x).b)})
#define V_EACH2F(op, x, y)    ((v16f){op((x).a, (y).a), op((x).b, (y).b)})
#define V_EACH2I(op, x, y)    ((v16i){op((x).a, (y).a), op((x).b, (y).b)})
#define V_BOTHF(x)            ((v16f){(x), (x)})
#define V_BOTHI(x)            ((v16i){(x), (x)})
/* clang-format on */

V_INLINE v16f v_zero(void) {
    return V_BOTHF(_mm256_setzero_ps());
}
V_INLINE v16f v_set1(float x) {
    return V_BOTHF(_mm256_set1_ps(x));
}
V_INLINE v16f v_load(const float *p) {
    return (v16f){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
V_INLINE void v_store(float *p, v16f x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
V_INLINE v16f v_add(v16f x, v16f y) {
    return V_EACH2F(_mm256_add_ps, x, y);
}
V_INLINE v16f v_sub(v16f x, v16f y) {
    return V_EACH2F(_mm256_sub_ps, x, y);
}
V_INLINE v16f v_mul(v16f x, v16f y) {
    return V_EACH2F(_mm256_mul_ps, x, y);
}
V_INLINE v16f v_div(v16f x, v16f y) {
    return V_EACH2F(_mm256_div_ps, x, y);
}
V_INLINE v16f v_sqrt(v16f x) {
    return V_EACH1F(_mm256_sqrt_ps, x);
}
V_INLINE v16f v_fma(v16f x, v16f y, v16f z) {
    return (v16f){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
V_INLINE v16f v_abs(v16f x) {
    v16f sign = v_set1(-0.0f);
    return V_EACH2F(_mm256_andnot_ps, sign, x);
}
V_INLINE v16f v_neg(v16f x) {
    v16f sign = v_set1(-0.0f);
    return V_EACH2F(_mm256_xor_ps, sign, x);
}
V_INLINE v16f v_min(v16f x, v16f y) {
    return V_EACH2F(_mm256_min_ps, x, y);
}
V_INLINE v16f v_max(v16f x, v16f y) {
    return V_EACH2F(_mm256_max_ps, x, y);
}
V_INLINE v16f v_select_lt(v16f a, v16f b, v16f x, v16f y) {
    return (v16f){_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
                  _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ))};
}
V_INLINE v16f v_load_half(const uint16_t *p) {
    return (v16f){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                  _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
V_INLINE void v_store_half(uint16_t *p, v16f x) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
V_INLINE __m256 v_bfloat8(const uint16_t *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
V_INLINE v16f v_load_bfloat(const uint16_t *p) {
    return (v16f){v_bfloat8(p), v_bfloat8(p + 8)};
}

V_INLINE v16i v_zero_i(void) {
    return V_BOTHI(_mm256_setzero_si256());
}
V_INLINE v16i v_set1_i(int32_t x) {
    return V_BOTHI(_mm256_set1_epi32(x));
}
V_INLINE v16i v_load_i(const int32_t *p) {
    return (v16i){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 8))};
}
V_INLINE void v_store_i(int32_t *p, v16i x) {
    _mm256_storeu_si256((__m256i *)p, x.a);
    _mm256_storeu_si256((__m256i *)(p + 8), x.b);
}
V_INLINE v16i v_add_i(v16i x, v16i y) {
    return V_EACH2I(_mm256_add_epi32, x, y);
}
V_INLINE v16i v_sub_i(v16i x, v16i y) {
    return V_EACH2I(_mm256_sub_epi32, x, y);
}
V_INLINE v16i v_mul_i(v16i x, v16i y) {
    return V_EACH2I(_mm256_mullo_epi32, x, y);
}
V_INLINE v16i v_max_i(v16i x, v16i y) {
    return V_EACH2I(_mm256_max_epi32, x, y);
}
V_INLINE v16i v_and_i(v16i x, v16i y) {
    return V_EACH2I(_mm256_and_si256, x, y);
}
V_INLINE v16i v_shl_i(v16i x, int n) {
    __m128i by = _mm_cvtsi32_si128(n);
    return (v16i){_mm256_sll_epi32(x.a, by), _mm256_sll_epi32(x.b, by)};
}
V_INLINE v16i v_shr_i(v16i x, int n) {
    __m128i by = _mm_cvtsi32_si128(n);
    return (v16i){_mm256_srl_epi32(x.a, by), _mm256_srl_epi32(x.b, by)};
}
V_INLINE v16i v_load_i8(const void *p) {
    __m128i bytes = _mm_loadu_si128(p);
    return (v16i){_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
}
V_INLINE v16i v_lanes_i(void) {
    return (v16i){_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
}

V_INLINE v16i v_rint(v16f x) {
    return (v16i){_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
}
V_INLINE v16f v_float(v16i x) {
    return (v16f){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
V_INLINE v16i v_bits(v16f x) {
    return (v16i){_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}
V_INLINE v16f v_from_bits(v16i x) {
    return (v16f){_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}

V_INLINE __m256 v_swap8(__m256 x, const int h) {
    return h == 1 ? _mm256_permute_ps(x, 0xB1) : h == 2 ? _mm256_permute_ps(x, 0x4E) : _mm256_permute2f128_ps(x, x, 1);
}
V_INLINE v16f v_swap(v16f x, const int h) {
    return h == 8 ? (v16f){x.b, x.a} : (v16f){v_swap8(x.a, h), v_swap8(x.b, h)};
}

V_INLINE float v_hsum(v16f x) {
    __m256 b = _mm256_add_ps(x.a, x.b);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
V_INLINE float v_hmax(v16f x) {
    __m256 b = _mm256_max_ps(x.a, x.b);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
V_INLINE float v_hmin(v16f x) {
    __m256 b = _mm256_min_ps(x.a, x.b);
    __m128 c = _mm_min_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_min_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_min_ss(c, _mm_movehdup_ps(c)));
}
V_INLINE int32_t v_hmax_i(v16i x) {
    __m256i b = _mm256_max_epi32(x.a, x.b);
    __m128i c = _mm_max_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    c = _mm_max_epi32(c, _mm_shuffle_epi32(c, 0x4E));
    return _mm_cvtsi128_si32(_mm_max_epi32(c, _mm_shuffle_epi32(c, 0xB1)));
}
V_INLINE int32_t v_hsum_i(v16i x) {
    __m256i b = _mm256_add_epi32(x.a, x.b);
    __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xB1)));
}

V_INLINE v64b v_load_b(const void *p) {
    return (v64b){_mm256_loadu_si256(p), _mm256_loadu_si256((const __m256i *)p + 1)};
}
V_INLINE void v_store_b(void *p, v64b x) {
    _mm256_storeu_si256(p, x.a);
    _mm256_storeu_si256((__m256i *)p + 1, x.b);
}
V_INLINE v64b v_splat4(const void *p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return V_BOTHI(_mm256_set1_epi32(x));
}
V_INLINE v64b v_low_b(v64b x) {
    v64b mask = V_BOTHI(_mm256_set1_epi8(15));
    return V_EACH2I(_mm256_and_si256, x, mask);
}
V_INLINE v64b v_high_b(v64b x) {
    return v_low_b((v64b){_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)});
}
V_INLINE v64b v_or_b(v64b x, v64b y) {
    return V_EACH2I(_mm256_or_si256, x, y);
}
V_INLINE __m256i v_bits_to_4_b8(__m256i x, const int from, const int mask) {
    __m256i moved = from <= 4 ? _mm256_slli_epi16(x, 4 - from) : _mm256_srli_epi16(x, from - 4);
    return _mm256_and_si256(moved, _mm256_set1_epi8((char)mask));
}
V_INLINE v64b v_bits_to_4_b(v64b x, const int from, const int mask) {
    return (v64b){v_bits_to_4_b8(x.a, from, mask), v_bits_to_4_b8(x.b, from, mask)};
}
V_INLINE v64b v_flip_b(v64b x) {
    v64b top = V_BOTHI(_mm256_set1_epi8(-128));
    return V_EACH2I(_mm256_xor_si256, x, top);
}
V_INLINE __m256i v_narrow8(__m256i w, __m256i x, __m256i y, __m256i z) {
    __m256i b = _mm256_packus_epi16(_mm256_packs_epi32(w, x), _mm256_packs_epi32(y, z));
    return _mm256_permutevar8x32_epi32(b, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
V_INLINE v64b v_narrow_b(v16i w, v16i x, v16i y, v16i z) {
    return (v64b){v_narrow8(w.a, w.b, x.a, x.b), v_narrow8(y.a, y.b, z.a, z.b)};
}
V_INLINE __m128i v_low_bytes8(__m256i x) { /* the low bytes of 8 lanes in the low 8 bytes */
    const __m256i pick = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1,
                                          -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    x = _mm256_shuffle_epi8(x, pick);
    return _mm_unpacklo_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}
V_INLINE void v_store_low_b(void *p, v16i x) {
    _mm_storeu_si128((__m128i *)p, _mm_unpacklo_epi64(v_low_bytes8(x.a), v_low_bytes8(x.b)));
}
/* By way of the bytes, which the caller stores anyway. */
V_INLINE int32_t v_hsum_pairs(v16i a, v16i b) {
    const __m128i one = _mm_set1_epi8(1);
    __m128i x = _mm_unpacklo_epi64(v_low_bytes8(a.a), v_low_bytes8(a.b));
    __m128i y = _mm_unpacklo_epi64(v_low_bytes8(b.a), v_low_bytes8(b.b));
    x = _mm_add_epi16(_mm_maddubs_epi16(one, x), _mm_maddubs_epi16(one, y));
    x = _mm_add_epi16(x, _mm_shuffle_epi32(x, 0xB1));
    return _mm_cvtsi128_si32(_mm_add_epi16(x, _mm_shuffle_epi32(x, 0x4E)));
}

#ifndef V_AVX_VNNI
#define V_ISA avx2
#define V_WIDE_BIAS 128

V_INLINE __m256i v_dot_narrow8(__m256i acc, __m256i u, __m256i s) { /* pairs: 2 * 127 * 128 fits 16 bits */
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}
V_INLINE v16i v_dot_narrow(v16i acc, v64b u, v64b s) {
    return (v16i){v_dot_narrow8(acc.a, u.a, s.a), v_dot_narrow8(acc.b, u.b, s.b)};
}
/* With c = u - 128: |c| <= 128 times s under c's sign, so a pair is at most 2 * 128 * 127, which fits 16 bits. */
V_INLINE __m256i v_dot_wide8(__m256i acc, __m256i u, __m256i s) {
    __m256i c = _mm256_xor_si256(u, _mm256_set1_epi8(-128));
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(c), _mm256_sign_epi8(s, c));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
V_INLINE v16i v_dot_wide(v16i acc, v64b u, v64b s) {
    acc = (v16i){v_dot_wide8(acc.a, u.a, s.a), v_dot_wide8(acc.b, u.b, s.b)};
    __asm__("" : "+x"(acc.a), "+x"(acc.b)); /* as in v_sum_dot */
    return acc;
}
V_INLINE v16i v_dot_nibble(v16i acc, v64b u, v64b n) {
    return v_dot_narrow(acc, u, n);
}
V_INLINE v16i v_dot_pair(v16i acc, v16i x, v16i y) {
    return (v16i){_mm256_add_epi32(acc.a, _mm256_madd_epi16(x.a, y.a)),
                  _mm256_add_epi32(acc.b, _mm256_madd_epi16(x.b, y.b))};
}

/* Sums stay in 16-bit lanes, modulo 2^16, until the group's end: one addition a dot instead of two and a pmaddwd. */
#define V_SUM_MAX INT16_MAX

typedef v16i v16s;

V_INLINE v16s v_sum_zero(void) {
    return v_zero_i();
}
V_INLINE v16s v_sum_begin(v16i pair, v16i factor) {
    return V_EACH2I(_mm256_mullo_epi16, pair, factor);
}
/* The empty statement keeps gcc from adding in a tree, for which it first computes all products and spills them. */
V_INLINE v16s v_sum_dot(v16s sum, v64b u, v64b s) {
    sum.a = _mm256_add_epi16(sum.a, _mm256_maddubs_epi16(u.a, s.a));
    sum.b = _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(u.b, s.b));
    __asm__("" : "+x"(sum.a), "+x"(sum.b));
    return sum;
}
V_INLINE v16i v_sum_end(v16s sum) {
    v16i ones = V_BOTHI(_mm256_set1_epi16(1));
    return V_EACH2I(_mm256_madd_epi16, sum, ones);
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
V_INLINE void v_store_factors(v_factor *p, v16i x) {
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xD8));
}
V_INLINE v_factors v_splat_factors(const v_factor *p) {
    return (v_factors){v_splat4(p), v_splat4(p + 2)};
}
V_INLINE v_codes v_codes_of(v64b x, const bool is_v) {
    const __m256i first = _mm256_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, /* again */
                                           0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
    const __m256i second = _mm256_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1, /* again */
                                            2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1);
    (void)is_v;
    return (v_codes){{_mm256_shuffle_epi8(x.a, first), _mm256_shuffle_epi8(x.b, first)},
                     {_mm256_shuffle_epi8(x.a, second), _mm256_shuffle_epi8(x.b, second)}};
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
    return V_BOTHI(_mm256_set1_epi16(is_v ? -32768 : 0));
}
V_INLINE v16s v_part_add(v16s acc, v64b n, v64b x, const bool is_v) {
    return is_v ? v_sum_dot(acc, x, n) : v_sum_dot(acc, n, x);
}
V_INLINE v16i v_part_end(v16i sum, v16s acc, const bool is_v) {
    (void)is_v;
    return v_add_i(sum, v_sum_end(acc));
}

#endif

#endif
