/* simd_avx512.h: simd.h's vectors in one register each, AVX-512 F, BW, DQ, VL and VNNI. */
#ifndef KVQ_SIMD_AVX512_H
#define KVQ_SIMD_AVX512_H

#include <immintrin.h>

#include "simd.h"

#define V_ISA avx512
#define V_REGISTERS 32 /* vectors that fit in registers; kernels choose their blocking by it */

typedef __m512 v16f;
typedef __m512i v16i;
typedef __m512i v64b;

V_INLINE v16f v_zero(void) {
    return _mm512_setzero_ps();
}
V_INLINE v16f v_set1(float x) {
    return _mm512_set1_ps(x);
}
V_INLINE v16f v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
V_INLINE void v_store(float *p, v16f a) {
    _mm512_storeu_ps(p, a);
}
V_INLINE v16f v_add(v16f a, v16f b) {
    return _mm512_add_ps(a, b);
}
V_INLINE v16f v_sub(v16f a, v16f b) {
    return _mm512_sub_ps(a, b);
}
V_INLINE v16f v_mul(v16f a, v16f b) {
    return _mm512_mul_ps(a, b);
}
V_INLINE v16f v_div(v16f a, v16f b) {
    return _mm512_div_ps(a, b);
}
V_INLINE v16f v_sqrt(v16f a) {
    return _mm512_sqrt_ps(a);
}
V_INLINE v16f v_fma(v16f a, v16f b, v16f c) {
    return _mm512_fmadd_ps(a, b, c);
}
V_INLINE v16f v_abs(v16f a) {
    return _mm512_abs_ps(a);
}
V_INLINE v16f v_neg(v16f a) {
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}
V_INLINE v16f v_min(v16f a, v16f b) {
    return _mm512_min_ps(a, b);
}
V_INLINE v16f v_max(v16f a, v16f b) {
    return _mm512_max_ps(a, b);
}
V_INLINE v16f v_select_lt(v16f a, v16f b, v16f x, v16f y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
V_INLINE v16f v_load_half(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
V_INLINE void v_store_half(uint16_t *p, v16f a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
V_INLINE v16f v_load_bfloat(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}

V_INLINE v16i v_zero_i(void) {
    return _mm512_setzero_si512();
}
V_INLINE v16i v_set1_i(int32_t x) {
    return _mm512_set1_epi32(x);
}
V_INLINE v16i v_load_i(const int32_t *p) {
    return _mm512_loadu_si512(p);
}
V_INLINE void v_store_i(int32_t *p, v16i a) {
    _mm512_storeu_si512(p, a);
}
V_INLINE v16i v_add_i(v16i a, v16i b) {
    return _mm512_add_epi32(a, b);
}
V_INLINE v16i v_sub_i(v16i a, v16i b) {
    return _mm512_sub_epi32(a, b);
}
V_INLINE v16i v_mul_i(v16i a, v16i b) {
    return _mm512_mullo_epi32(a, b);
}
V_INLINE v16i v_max_i(v16i a, v16i b) {
    return _mm512_max_epi32(a, b);
}
V_INLINE v16i v_and_i(v16i a, v16i b) {
    return _mm512_and_si512(a, b);
}
V_INLINE v16i v_shl_i(v16i a, int n) {
    return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n));
}
V_INLINE v16i v_shr_i(v16i a, int n) {
    return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n));
}
V_INLINE v16i v_load_i8(const void *p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(p));
}
V_INLINE v16i v_lanes_i(void) {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

V_INLINE v16i v_rint(v16f a) {
    return _mm512_cvtps_epi32(a);
}
V_INLINE v16f v_float(v16i a) {
    return _mm512_cvtepi32_ps(a);
}
V_INLINE v16i v_bits(v16f a) {
    return _mm512_castps_si512(a);
}
V_INLINE v16f v_from_bits(v16i a) {
    return _mm512_castsi512_ps(a);
}

V_INLINE v16f v_swap(v16f x, const int h) {
    return h == 1   ? _mm512_permute_ps(x, 0xB1)
           : h == 2 ? _mm512_permute_ps(x, 0x4E)
           : h == 4 ? _mm512_shuffle_f32x4(x, x, 0xB1)
                    : _mm512_shuffle_f32x4(x, x, 0x4E);
}

V_INLINE float v_hsum(v16f a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
V_INLINE float v_hmax(v16f a) {
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
V_INLINE float v_hmin(v16f a) {
    __m256 b = _mm256_min_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_min_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_min_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_min_ss(c, _mm_movehdup_ps(c)));
}
V_INLINE int32_t v_hmax_i(v16i a) {
    return _mm512_reduce_max_epi32(a);
}
/* Not _mm512_reduce_add_epi32: gcc's adds signed ints, and a NaN's codes may wrap. */
V_INLINE int32_t v_hsum_i(v16i a) {
    __m256i b = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4E));                       /* 2 3 0 1 */
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xB1))); /* 1 0 3 2 */
}

/* By way of the bytes, which the caller stores anyway. */
V_INLINE int32_t v_hsum_pairs(v16i a, v16i b) {
    const __m128i one = _mm_set1_epi8(1);
    __m128i x =
        _mm_add_epi16(_mm_maddubs_epi16(one, _mm512_cvtepi32_epi8(a)), _mm_maddubs_epi16(one, _mm512_cvtepi32_epi8(b)));
    x = _mm_add_epi16(x, _mm_shuffle_epi32(x, 0xB1));
    return _mm_cvtsi128_si32(_mm_add_epi16(x, _mm_shuffle_epi32(x, 0x4E)));
}

V_INLINE v64b v_load_b(const void *p) {
    return _mm512_loadu_si512(p);
}
V_INLINE void v_store_b(void *p, v64b a) {
    _mm512_storeu_si512(p, a);
}
V_INLINE v64b v_splat4(const void *p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return _mm512_set1_epi32(x);
}
V_INLINE v64b v_low_b(v64b a) {
    return _mm512_and_si512(a, _mm512_set1_epi8(15));
}
V_INLINE v64b v_high_b(v64b a) {
    return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15));
}
V_INLINE v64b v_or_b(v64b a, v64b b) {
    return _mm512_or_si512(a, b);
}
V_INLINE v64b v_bits_to_4_b(v64b a, const int from, const int mask) {
    v64b moved = from <= 4 ? _mm512_slli_epi16(a, (unsigned)(4 - from)) : _mm512_srli_epi16(a, (unsigned)(from - 4));
    return _mm512_and_si512(moved, _mm512_set1_epi8((char)mask));
}
V_INLINE v64b v_flip_b(v64b a) {
    return _mm512_xor_si512(a, _mm512_set1_epi8(-128));
}
V_INLINE void v_store_low_b(void *p, v16i a) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a));
}

V_INLINE v64b v_narrow_b(v16i w, v16i x, v16i y, v16i z) {
    __m512i b = _mm512_packus_epi16(_mm512_packs_epi32(w, x), _mm512_packs_epi32(y, z));
    return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), b);
}

V_INLINE v16i v_dot_exact(v16i acc, v64b u, v64b s) {
    return _mm512_dpbusd_epi32(acc, u, s);
}
#include "simd_exact.h"

V_INLINE v16i v_dot_pair(v16i acc, v16i a, v16i b) {
    return _mm512_dpwssd_epi32(acc, a, b);
}

#include "simd_sums.h"

#endif
