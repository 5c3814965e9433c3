/* immintrin.h: the intrinsics of instruction sets that this CPU may lack, for check_kernels_emulated, whose kernels
 * find this file before the compiler's own. Most are SIMDe's, in plain C. Below is what SIMDe 0.7.4 lacks, and what it
 * rounds otherwise than the instruction does: by lane, after the pseudocode of the Intel Intrinsics Guide. It is
 * compiled for x86-64 without extensions, so that nothing above SSE2 is executed. */
#ifndef KVQ_EMULATED_IMMINTRIN_H
#define KVQ_EMULATED_IMMINTRIN_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "kernels/formats.h"

#ifndef _MM_FROUND_NO_EXC
#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#endif

/* NAME of RET from one argument: lane l of n is `expr`, with the argument's lanes in x. */
#define EMULATE_LANES(NAME, RET, ret_lanes, ARG, n, expr)      \
    static inline RET emulated_##NAME(ARG a) {                 \
        simde##ARG##_private x = simde##ARG##_to_private(a);   \
        simde##RET##_private ret;                              \
        for (int l = 0; l < (n); l++) ret.ret_lanes[l] = expr; \
        return simde##RET##_from_private(ret);                 \
    }

/* To the nearest even; what does not fit becomes the "integer indefinite". */
static inline int32_t emulated_rint(float x) {
    return x >= -0x1p31f && x < 0x1p31f ? (int32_t)lrintf(x) : INT32_MIN;
}

EMULATE_LANES(_mm512_cvtps_epi32, __m512i, i32, __m512, 16, emulated_rint(x.f32[l]))
EMULATE_LANES(_mm512_cvtepi32_ps, __m512, f32, __m512i, 16, (float)x.i32[l])
EMULATE_LANES(_mm512_cvtepi8_epi32, __m512i, i32, __m128i, 16, x.i8[l])
EMULATE_LANES(_mm512_cvtepu16_epi32, __m512i, i32, __m256i, 16, x.u16[l])
EMULATE_LANES(_mm512_cvtepi32_epi8, __m128i, u8, __m512i, 16, (uint8_t)x.i32[l])
EMULATE_LANES(_mm256_cvtph_ps, __m256, f32, __m128i, 8, kvq_half_to_float(x.u16[l]))
EMULATE_LANES(_mm512_cvtph_ps, __m512, f32, __m256i, 16, kvq_half_to_float(x.u16[l]))
#define _mm512_cvtps_epi32(a) emulated__mm512_cvtps_epi32(a)
#define _mm512_cvtepi32_ps(a) emulated__mm512_cvtepi32_ps(a)
#define _mm512_cvtepi8_epi32(a) emulated__mm512_cvtepi8_epi32(a)
#define _mm512_cvtepu16_epi32(a) emulated__mm512_cvtepu16_epi32(a)
#define _mm512_cvtepi32_epi8(a) emulated__mm512_cvtepi32_epi8(a)
#define _mm256_cvtph_ps(a) emulated__mm256_cvtph_ps(a)
#define _mm512_cvtph_ps(a) emulated__mm512_cvtph_ps(a)

/* Of the immediate only rounding to the nearest even is written down. */
#define EMULATE_TO_HALVES(name, ret_type, type, n)                              \
    static inline ret_type emulated_##name(type a, int rounding) {              \
        simde##type##_private x = simde##type##_to_private(a);                  \
        simde##ret_type##_private ret;                                          \
        if ((rounding & 7) != 0) abort();                                       \
        for (int l = 0; l < (n); l++) ret.u16[l] = kvq_float_to_half(x.f32[l]); \
        return simde##ret_type##_from_private(ret);                             \
    }
EMULATE_TO_HALVES(_mm256_cvtps_ph, __m128i, __m256, 8)
EMULATE_TO_HALVES(_mm512_cvtps_ph, __m256i, __m512, 16)
#define _mm256_cvtps_ph(a, rounding) emulated__mm256_cvtps_ph(a, rounding)
#define _mm512_cvtps_ph(a, rounding) emulated__mm512_cvtps_ph(a, rounding)

/* Rounded once; SIMDe's rounds the product too. */
#define EMULATE_FMADD(name, type, n)                                                            \
    static inline type emulated_##name(type a, type b, type c) {                                \
        simde##type##_private x = simde##type##_to_private(a), y = simde##type##_to_private(b), \
                              z = simde##type##_to_private(c);                                  \
        for (int l = 0; l < (n); l++) z.f32[l] = fmaf(x.f32[l], y.f32[l], z.f32[l]);            \
        return simde##type##_from_private(z);                                                   \
    }
EMULATE_FMADD(_mm256_fmadd_ps, __m256, 8)
EMULATE_FMADD(_mm512_fmadd_ps, __m512, 16)
#undef _mm256_fmadd_ps
#undef _mm512_fmadd_ps
#define _mm256_fmadd_ps(a, b, c) emulated__mm256_fmadd_ps(a, b, c)
#define _mm512_fmadd_ps(a, b, c) emulated__mm512_fmadd_ps(a, b, c)

/* AVX-VNNI: the same as the 256-bit ones of AVX-512. */
#define _mm256_dpbusd_avx_epi32(acc, a, b) _mm256_dpbusd_epi32(acc, a, b)
#define _mm256_dpwssd_avx_epi32(acc, a, b) _mm256_dpwssd_epi32(acc, a, b)

/* Within each four lanes, two bits of `pick` a lane. */
static inline __m512 emulated_permute_ps(__m512 a, int pick) {
    simde__m512_private x = simde__m512_to_private(a), ret;
    for (int l = 0; l < 16; l++) ret.f32[l] = x.f32[l / 4 * 4 + (pick >> l % 4 * 2 & 3)];
    return simde__m512_from_private(ret);
}
#define _mm512_permute_ps(a, pick) emulated_permute_ps(a, pick)

/* Quarters: the lower two from a, the upper two from b. */
static inline __m512 emulated_shuffle_f32x4(__m512 a, __m512 b, int pick) {
    simde__m512_private x = simde__m512_to_private(a), y = simde__m512_to_private(b), ret;
    for (int l = 0; l < 16; l++) {
        int from = (pick >> l / 4 * 2 & 3) * 4 + l % 4;
        ret.f32[l] = l < 8 ? x.f32[from] : y.f32[from];
    }
    return simde__m512_from_private(ret);
}
#define _mm512_shuffle_f32x4(a, b, pick) emulated_shuffle_f32x4(a, b, pick)

static inline __m256 emulated_extractf32x8_ps(__m512 a, int half) {
    return simde__m512_to_private(a).m256[half & 1];
}
#define _mm512_extractf32x8_ps(a, half) emulated_extractf32x8_ps(a, half)

static inline int32_t emulated_reduce_max_epi32(__m512i a) {
    simde__m512i_private x = simde__m512i_to_private(a);
    int32_t ret = x.i32[0];
    for (int l = 1; l < 16; l++) ret = x.i32[l] > ret ? x.i32[l] : ret;
    return ret;
}
#define _mm512_reduce_max_epi32(a) emulated_reduce_max_epi32(a)

#endif
