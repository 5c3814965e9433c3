/* simd_avxvnni.h: simd.h in 256 bits with AVX-VNNI (Alder Lake-N, Core Ultra, Zen 5): AVX2 whose dots of bytes are one
 * instruction, unsigned by signed and exact, as in AVX-512 VNNI. */
#ifndef KVQ_SIMD_AVXVNNI_H
#define KVQ_SIMD_AVXVNNI_H

#define V_EXACT_DOTS
#include "simd_avx2.h"

#define V_ISA avxvnni

V_INLINE v16i v_dot_exact(v16i acc, v64b u, v64b s) {
    return (v16i){_mm256_dpbusd_avx_epi32(acc.a, u.a, s.a), _mm256_dpbusd_avx_epi32(acc.b, u.b, s.b)};
}
#include "simd_exact.h"

V_INLINE v16i v_dot_pair(v16i acc, v16i x, v16i y) {
    return (v16i){_mm256_dpwssd_avx_epi32(acc.a, x.a, y.a), _mm256_dpwssd_avx_epi32(acc.b, x.b, y.b)};
}

#include "simd_sums.h"

#endif
