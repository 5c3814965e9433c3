/* simd_sse41.h: simd.h's vectors in four registers each, SSE4.1, for processors without AVX2 (Bay Trail to Jasper Lake,
 * Sandy Bridge, Jaguar). There is no fused multiply-add and no conversion of halves: both are made here, with
 * the bits that the instructions of the later sets give. */
#ifndef KVQ_SIMD_SSE41_H
#define KVQ_SIMD_SSE41_H

#include <smmintrin.h>

#include "simd.h"

#define V_ISA sse41
#define V_REGISTERS 4 /* vectors of 16 lanes that fit in registers */

typedef struct v16f {
    __m128 a, b, c, d;
} v16f;
typedef struct v16i {
    __m128i a, b, c, d;
} v16i;
typedef v16i v64b;

/* clang-format off */
#define V_REG(op)                _mm_##op
#define V_BITS(op)               _mm_##op##_si128
#define V_EACH1(type, op, x)     ((type){op((x).a), op((x).b), op((x).c), op((x).d)})
#define V_EACH2(type, op, x, y)  ((type){op((x).a, (y).a), op((x).b, (y).b), op((x).c, (y).c), op((x).d, (y).d)})
#define V_EACH1F(op, x)          V_EACH1(v16f, op, x)
#define V_EACH2F(op, x, y)       V_EACH2(v16f, op, x, y)
#define V_EACH3F(op, x, y, z)    ((v16f){op((x).a, (y).a, (z).a), op((x).b, (y).b, (z).b), \
                                         op((x).c, (y).c, (z).c), op((x).d, (y).d, (z).d)})
#define V_EACH1I(op, x)          V_EACH1(v16i, op, x)
#define V_EACH1I_BY(op, x, n)    ((v16i){op((x).a, n), op((x).b, n), op((x).c, n), op((x).d, n)})
#define V_EACH2I(op, x, y)       V_EACH2(v16i, op, x, y)
#define V_EACH1F_TO_I(op, x)     V_EACH1(v16i, op, x)
#define V_EACH1I_TO_F(op, x)     V_EACH1(v16f, op, x)
#define V_ALLF(x)                ((v16f){(x), (x), (x), (x)})
#define V_ALLI(x)                ((v16i){(x), (x), (x), (x)})
#define V_AS_I(x)                _mm_castps_si128(x)
#define V_AS_F(x)                _mm_castsi128_ps(x)
#define V_LESS(x, y)             _mm_cmplt_ps(x, y)
#define V_SPLAT16(p)             _mm_loadu_si128((const __m128i *)(p))
#define V_KEEP(x)                __asm__("" : "+x"((x).a), "+x"((x).b), "+x"((x).c), "+x"((x).d))
#define V_FOLDF(op, x)           _mm_##op(_mm_##op((x).a, (x).c), _mm_##op((x).b, (x).d))
#define V_FOLDI(op, x)           V_FOLDF(op, x)
/* clang-format on */

V_INLINE __m128i v_low_bytes(v16i x) {
    const v16i mask = V_ALLI(_mm_set1_epi32(0xFF)), low = V_EACH2I(_mm_and_si128, x, mask);
    return _mm_packus_epi16(_mm_packus_epi32(low.a, low.b), _mm_packus_epi32(low.c, low.d));
}

#include "simd_registers.h"

V_INLINE v16f v_load(const float *p) {
    return (v16f){_mm_loadu_ps(p), _mm_loadu_ps(p + 4), _mm_loadu_ps(p + 8), _mm_loadu_ps(p + 12)};
}
V_INLINE void v_store(float *p, v16f x) {
    _mm_storeu_ps(p, x.a);
    _mm_storeu_ps(p + 4, x.b);
    _mm_storeu_ps(p + 8, x.c);
    _mm_storeu_ps(p + 12, x.d);
}

/* ---- x y + z, rounded once ----
 *
 * The product of two floats is exact in a double. Its sum with a third is rounded to a double and then to a float,
 * which differs from rounding once only where the double lies in the middle between two floats and is not the sum
 * itself: its lower 29 bits are 1 and zeros, or its float is so small that fewer bits are left of it. There, which is
 * seldom but where a result is zero, the sum is first rounded to odd, after which rounding again is right (S. Boldo and
 * G. Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008). */

/* x + y in doubles, rounded to odd: where it is not exact and its last bit 0, its neighbour towards the exact sum. The
 * error is exact too (D. Knuth's two-sum; a NaN where the sum is none or infinite, and then nothing changes). */
V_INLINE __m128d v_add_to_odd(__m128d x, __m128d y) {
    const __m128d sum = _mm_add_pd(x, y), part = _mm_sub_pd(sum, x);
    const __m128d error = _mm_add_pd(_mm_sub_pd(x, _mm_sub_pd(sum, part)), _mm_sub_pd(y, part));
    const __m128d zero = _mm_setzero_pd();
    const __m128d inexact = _mm_or_pd(_mm_cmplt_pd(error, zero), _mm_cmpgt_pd(error, zero));
    const __m128i bits = _mm_castpd_si128(sum), one = _mm_set1_epi64x(1);
    const __m128i even = _mm_cmpeq_epi64(_mm_and_si128(bits, one), _mm_setzero_si128());
    const __m128i change = _mm_and_si128(_mm_castpd_si128(inexact), even); /* all bits, or none */
    const __m128i inwards = _mm_srai_epi32(_mm_shuffle_epi32(_mm_castpd_si128(_mm_xor_pd(sum, error)), 0xF5), 31);
    const __m128i step = _mm_or_si128(inwards, one); /* 1, or -1 where the error's sign is not the sum's */
    return _mm_castsi128_pd(_mm_add_epi64(bits, _mm_and_si128(change, step)));
}
V_INLINE __m128d v_low_half(__m128 x) {
    return _mm_cvtps_pd(x);
}
V_INLINE __m128d v_high_half(__m128 x) { /* pshufd needs no copy of x first, as movhlps does */
    return _mm_cvtps_pd(_mm_castsi128_ps(_mm_shuffle_epi32(_mm_castps_si128(x), 0xEE)));
}
V_INLINE __m128 v_halves(__m128d low, __m128d high) {
    return _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high));
}
static __attribute__((noinline, cold, unused)) __m128 v_fma4_odd(__m128 x, __m128 y, __m128 z) {
    return v_halves(v_add_to_odd(_mm_mul_pd(v_low_half(x), v_low_half(y)), v_low_half(z)),
                    v_add_to_odd(_mm_mul_pd(v_high_half(x), v_high_half(y)), v_high_half(z)));
}
/* Four lanes rounded twice. *rest keeps the least of what the doubles have below a float's bits, shifted so that the
 * middle is the least there is; *size the least size of the floats. */
V_INLINE __m128 v_fma4(__m128 x, __m128 y, __m128 z, __m128i *rest, __m128i *size) {
    const __m128d low = _mm_add_pd(_mm_mul_pd(v_low_half(x), v_low_half(y)), v_low_half(z));
    const __m128d high = _mm_add_pd(_mm_mul_pd(v_high_half(x), v_high_half(y)), v_high_half(z));
    const __m128i words = _mm_castps_si128(_mm_shuffle_ps(_mm_castpd_ps(low), _mm_castpd_ps(high), 0x88));
    const __m128 sum = v_halves(low, high);
    *rest = _mm_min_epi32(*rest, _mm_slli_epi32(words, 3));
    *size = _mm_min_epi32(*size, _mm_and_si128(_mm_castps_si128(sum), _mm_set1_epi32(INT32_MAX)));
    return sum;
}
V_INLINE v16f v_fma(v16f x, v16f y, v16f z) {
    __m128i rest = _mm_set1_epi32(INT32_MAX), size = rest;
    v16f sum = {v_fma4(x.a, y.a, z.a, &rest, &size), v_fma4(x.b, y.b, z.b, &rest, &size),
                v_fma4(x.c, y.c, z.c, &rest, &size), v_fma4(x.d, y.d, z.d, &rest, &size)};
    const __m128i middle = _mm_cmpeq_epi32(rest, _mm_set1_epi32(INT32_MIN));
    const __m128i tiny = _mm_cmplt_epi32(size, _mm_set1_epi32(0x00800001)); /* at most FLT_MIN */
    if (__builtin_expect(_mm_movemask_epi8(_mm_or_si128(middle, tiny)), 0)) sum = V_EACH3F(v_fma4_odd, x, y, z);
    return sum;
}

/* ---- halves ---- */

/* Exponent and fraction go to their places in a float, whose exponent has a larger bias; a multiplication, which is
 * exact and normalizes, makes that good. Infinity and NaN get a float's largest exponent. */
V_INLINE __m128 v_half4(const uint16_t *p) {
    const __m128i h = _mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)p));
    const __m128i size = _mm_and_si128(h, _mm_set1_epi32(0x7FFF)), sign = _mm_slli_epi32(_mm_xor_si128(h, size), 16);
    const __m128i endless = _mm_and_si128(_mm_cmpgt_epi32(size, _mm_set1_epi32(0x7BFF)), _mm_set1_epi32(0x7F800000));
    const __m128 value = _mm_mul_ps(_mm_castsi128_ps(_mm_slli_epi32(size, 13)), _mm_set1_ps(0x1p112f));
    return _mm_castsi128_ps(_mm_or_si128(_mm_or_si128(_mm_castps_si128(value), endless), sign));
}
V_INLINE v16f v_load_half(const uint16_t *p) {
    return (v16f){v_half4(p), v_half4(p + 4), v_half4(p + 8), v_half4(p + 12)};
}
/* The nearest half, ties to even, in the low 16 bits of each lane. Normal ones: the fraction's lower 13 bits are
 * rounded away, which may carry into the exponent and makes infinity of what is too large. Smaller ones: an addition of
 * 0.5 leaves them, rounded, in the sum's last bits. */
V_INLINE __m128i v_to_half4(__m128 x) {
    const __m128i bits = _mm_castps_si128(x), size = _mm_and_si128(bits, _mm_set1_epi32(0x7FFFFFFF));
    const __m128i sign = _mm_srli_epi32(_mm_xor_si128(bits, size), 16);
    const __m128i odd = _mm_and_si128(_mm_srli_epi32(size, 13), _mm_set1_epi32(1));
    const __m128i lifted = _mm_add_epi32(_mm_add_epi32(size, _mm_set1_epi32(0xFFF - (112 << 23))), odd);
    const __m128i normal = _mm_min_epi32(_mm_srai_epi32(lifted, 13), _mm_set1_epi32(0x7C00));
    const __m128i half = _mm_castps_si128(_mm_set1_ps(0.5f));
    const __m128i tiny = _mm_sub_epi32(_mm_castps_si128(_mm_add_ps(_mm_castsi128_ps(size), _mm_set1_ps(0.5f))), half);
    const __m128i is_tiny = _mm_cmplt_epi32(size, _mm_set1_epi32(113 << 23));
    const __m128i is_nan = _mm_cmpgt_epi32(size, _mm_set1_epi32(0x7F800000));
    const __m128i value =
        _mm_or_si128(_mm_blendv_epi8(normal, tiny, is_tiny), _mm_and_si128(is_nan, _mm_set1_epi32(0x200)));
    return _mm_or_si128(value, sign);
}
V_INLINE void v_store_half(uint16_t *p, v16f x) {
    const v16i h = V_EACH1F_TO_I(v_to_half4, x);
    _mm_storeu_si128((__m128i *)p, _mm_packus_epi32(h.a, h.b));
    _mm_storeu_si128((__m128i *)(p + 8), _mm_packus_epi32(h.c, h.d));
}
V_INLINE __m128 v_bfloat4(const uint16_t *p) {
    return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)p)), 16));
}
V_INLINE v16f v_load_bfloat(const uint16_t *p) {
    return (v16f){v_bfloat4(p), v_bfloat4(p + 4), v_bfloat4(p + 8), v_bfloat4(p + 12)};
}

/* ---- integers and bytes ---- */

V_INLINE v16i v_load_i(const int32_t *p) {
    const __m128i *at = (const __m128i *)p;
    return (v16i){_mm_loadu_si128(at), _mm_loadu_si128(at + 1), _mm_loadu_si128(at + 2), _mm_loadu_si128(at + 3)};
}
V_INLINE void v_store_i(int32_t *p, v16i x) {
    __m128i *at = (__m128i *)p;
    _mm_storeu_si128(at, x.a);
    _mm_storeu_si128(at + 1, x.b);
    _mm_storeu_si128(at + 2, x.c);
    _mm_storeu_si128(at + 3, x.d);
}
V_INLINE v16i v_load_i8(const void *p) {
    const __m128i x = _mm_loadu_si128(p);
    return (v16i){_mm_cvtepi8_epi32(x), _mm_cvtepi8_epi32(_mm_srli_si128(x, 4)),
                  _mm_cvtepi8_epi32(_mm_srli_si128(x, 8)), _mm_cvtepi8_epi32(_mm_srli_si128(x, 12))};
}
V_INLINE v16i v_lanes_i(void) {
    return (v16i){_mm_setr_epi32(0, 1, 2, 3), _mm_setr_epi32(4, 5, 6, 7), _mm_setr_epi32(8, 9, 10, 11),
                  _mm_setr_epi32(12, 13, 14, 15)};
}

V_INLINE v16f v_swap(v16f x, const int h) {
    if (h == 8) return (v16f){x.c, x.d, x.a, x.b};
    if (h == 4) return (v16f){x.b, x.a, x.d, x.c};
#define V_SWAP4(r) (h == 1 ? _mm_shuffle_ps(r, r, 0xB1) : _mm_shuffle_ps(r, r, 0x4E))
    return V_EACH1F(V_SWAP4, x);
#undef V_SWAP4
}

V_INLINE v64b v_load_b(const void *p) {
    return v_load_i(p);
}
V_INLINE void v_store_b(void *p, v64b x) {
    v_store_i(p, x);
}
V_INLINE __m128i v_narrow4(v16i x) {
    return _mm_packus_epi16(_mm_packs_epi32(x.a, x.b), _mm_packs_epi32(x.c, x.d));
}
V_INLINE v64b v_narrow_b(v16i w, v16i x, v16i y, v16i z) {
    return (v64b){v_narrow4(w), v_narrow4(x), v_narrow4(y), v_narrow4(z)};
}
V_INLINE void v_store_factors(v_factor *p, v16i x) {
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi32(x.a, x.b));
    _mm_storeu_si128((__m128i *)(p + 8), _mm_packs_epi32(x.c, x.d));
}

#endif
