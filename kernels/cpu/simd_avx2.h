/* simd_avx2.h: simd.h's vectors in two registers each, AVX2 with FMA and F16C. All but the dots of bytes serves
 * simd_avxvnni.h too. */
#ifndef KVQ_SIMD_AVX2_H
#define KVQ_SIMD_AVX2_H

#include <immintrin.h>

#include "simd.h"

#ifndef V_EXACT_DOTS
#define V_ISA avx2
#endif
#define V_REGISTERS 8 /* vectors of 16 lanes that fit in registers */

typedef struct v16f {
    __m256 a, b;
} v16f;
typedef struct v16i {
    __m256i a, b;
} v16i;
typedef v16i v64b;

/* clang-format off */
#define V_REG(op)                _mm256_##op
#define V_BITS(op)               _mm256_##op##_si256
#define V_EACH1F(op, x)          ((v16f){op((x).a), op((x).b)})
#define V_EACH2F(op, x, y)       ((v16f){op((x).a, (y).a), op((x).b, (y).b)})
#define V_EACH3F(op, x, y, z)    ((v16f){op((x).a, (y).a, (z).a), op((x).b, (y).b, (z).b)})
#define V_EACH1I(op, x)          ((v16i){op((x).a), op((x).b)})
#define V_EACH1I_BY(op, x, n)    ((v16i){op((x).a, n), op((x).b, n)})
#define V_EACH2I(op, x, y)       ((v16i){op((x).a, (y).a), op((x).b, (y).b)})
#define V_EACH1F_TO_I(op, x)     ((v16i){op((x).a), op((x).b)})
#define V_EACH1I_TO_F(op, x)     ((v16f){op((x).a), op((x).b)})
#define V_ALLF(x)                ((v16f){(x), (x)})
#define V_ALLI(x)                ((v16i){(x), (x)})
#define V_AS_I(x)                _mm256_castps_si256(x)
#define V_AS_F(x)                _mm256_castsi256_ps(x)
#define V_LESS(x, y)             _mm256_cmp_ps(x, y, _CMP_LT_OQ)
#define V_SPLAT16(p)             _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(p)))
#define V_KEEP(x)                __asm__("" : "+x"((x).a), "+x"((x).b))
#define V_FOLDF(op, x)           _mm_##op(_mm256_castps256_ps128(_mm256_##op((x).a, (x).b)), \
                                          _mm256_extractf128_ps(_mm256_##op((x).a, (x).b), 1))
#define V_FOLDI(op, x)           _mm_##op(_mm256_castsi256_si128(_mm256_##op((x).a, (x).b)), \
                                          _mm256_extracti128_si256(_mm256_##op((x).a, (x).b), 1))
/* clang-format on */

V_INLINE __m128i v_low_bytes8(__m256i x) { /* the low bytes of 8 lanes in the low 8 bytes */
    const __m256i pick = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1,
                                          -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    x = _mm256_shuffle_epi8(x, pick);
    return _mm_unpacklo_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}
V_INLINE __m128i v_low_bytes(v16i x) {
    return _mm_unpacklo_epi64(v_low_bytes8(x.a), v_low_bytes8(x.b));
}

#include "simd_registers.h"

V_INLINE v16f v_load(const float *p) {
    return (v16f){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
V_INLINE void v_store(float *p, v16f x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
V_INLINE v16f v_fma(v16f x, v16f y, v16f z) {
    return V_EACH3F(_mm256_fmadd_ps, x, y, z);
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

V_INLINE v16i v_load_i(const int32_t *p) {
    return (v16i){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 8))};
}
V_INLINE void v_store_i(int32_t *p, v16i x) {
    _mm256_storeu_si256((__m256i *)p, x.a);
    _mm256_storeu_si256((__m256i *)(p + 8), x.b);
}
V_INLINE v16i v_load_i8(const void *p) {
    __m128i bytes = _mm_loadu_si128(p);
    return (v16i){_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))};
}
V_INLINE v16i v_lanes_i(void) {
    return (v16i){_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
}

V_INLINE __m256 v_swap8(__m256 x, const int h) {
    return h == 1 ? _mm256_permute_ps(x, 0xB1) : h == 2 ? _mm256_permute_ps(x, 0x4E) : _mm256_permute2f128_ps(x, x, 1);
}
V_INLINE v16f v_swap(v16f x, const int h) {
    return h == 8 ? (v16f){x.b, x.a} : (v16f){v_swap8(x.a, h), v_swap8(x.b, h)};
}

V_INLINE v64b v_load_b(const void *p) {
    return (v64b){_mm256_loadu_si256(p), _mm256_loadu_si256((const __m256i *)p + 1)};
}
V_INLINE void v_store_b(void *p, v64b x) {
    _mm256_storeu_si256(p, x.a);
    _mm256_storeu_si256((__m256i *)p + 1, x.b);
}
V_INLINE __m256i v_narrow8(__m256i w, __m256i x, __m256i y, __m256i z) {
    __m256i b = _mm256_packus_epi16(_mm256_packs_epi32(w, x), _mm256_packs_epi32(y, z));
    return _mm256_permutevar8x32_epi32(b, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
V_INLINE v64b v_narrow_b(v16i w, v16i x, v16i y, v16i z) {
    return (v64b){v_narrow8(w.a, w.b, x.a, x.b), v_narrow8(y.a, y.b, z.a, z.b)};
}

#ifndef V_EXACT_DOTS
V_INLINE void v_store_factors(v_factor *p, v16i x) {
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xD8));
}
#endif

#endif
