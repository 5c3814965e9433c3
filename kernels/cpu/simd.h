/* clang-format off */
/* simd.h: what the instruction sets have in common; included by simd_generic.h, simd_sse41.h, simd_avx2.h and so on, one of
 * which a kernel file includes before the *_tmpl.h files that it is made of.
 *
 * A vector is always 16 lanes: v16f floats, v16i 32-bit integers, v64b 64 bytes (lane l = bytes 4 l .. 4 l + 3). A
 * kernel is written once over these and compiled per instruction set, with results that are the same bit for bit:
 * integers are exact, floats go through the same chain of operations (no contraction: -ffp-contract=off; v_fma is fused
 * everywhere). A NaN stays a NaN but its sign and payload are nobody's business.
 *
 *   floats    v_zero v_set1 v_load v_store v_add v_sub v_mul v_div v_sqrt v_fma(a, b, c) = a b + c   v_abs v_neg
 *             v_min(a, b) = a < b ? a : b   v_max(a, b) = a > b ? a : b   (so b where one is NaN)
 *             v_select_lt(a, b, x, y) = a < b ? x : y
 *             v_load_half v_store_half v_load_bfloat   16 values of 2 bytes; storing rounds to nearest even
 *             v_hmax v_hmin v_hsum     over lanes; sum pairwise 8+8, 4+4, 2+2, 1+1
 *             v_swap(x, h)   lane l = lane l ^ h of x; h is 1, 2, 4 or 8, a constant
 *   integers  v_zero_i v_set1_i v_load_i v_store_i v_add_i v_sub_i v_mul_i v_max_i v_and_i v_shl_i v_shr_i(logical)
 *             v_load_i8: 16 int8 as integers
 *             v_lanes_i = 0, 1, .. 15   v_hmax_i v_hsum_i
 *   between   v_rint(f) to the nearest even integer, in range only   v_float(i)   v_bits(f)   v_from_bits(i)
 *   bytes     v_load_b v_store_b v_splat4(p): the 4 bytes at p in every lane   v_low_b v_high_b: nibbles, as bytes   v_or_b
 *             v_bits_to_4_b(x, from, mask): bit `from` of each byte moved to bit 4, others with it, & mask (16 or 48)
 *             v_flip_b: byte ^ 0x80, which turns code + 128 (unsigned) into code (signed)
 *             v_store_low_b: low byte of each lane   v_narrow_b: those of four vectors, of values 0 .. 255
 *   dots      acc lane + sum over the lane's 4 bytes, exact:
 *             v_dot_narrow(acc, u, s)  u unsigned, at most 127; s signed
 *             v_dot_nibble(acc, u, n)  u unsigned; n 0 .. 15
 *             v_dot_wide(acc, u, s)    u unsigned; s signed, not -128; adds sum (u - V_WIDE_BIAS) s, where V_WIDE_BIAS is
 *                                      the set's own (0 or 128): SSE4.1 and AVX2 have no u8 x s8 sum that cannot
 *                                      saturate
 *             v_dot_pair(acc, a, b)    lane = acc + a.lo b.lo + a.hi b.hi of signed 16-bit halves
 *   sums      of a group's products, in lanes of whatever width holds them (exact; simd_sums.h, or the set's own):
 *             v_sum_zero   v_sum_begin(pair, factor): as v_dot_pair   v_sum_dot: as v_dot_narrow   v_sum_end: as integers
 *             V_SUM_MAX    what the products of bytes 0 and 1, and of 2 and 3, of all dots may come to in the end, a
 *                          sum's beginning counted; on the way they may be anything
 *             v_hsum_pairs(i, j)  of numbers -127 .. 127: the sum of both vectors' lanes l % 4 < 2 in the low 16 bits, of
 *                              the others in the high ones
 *   of attention, K (codes times signed bytes) or V (times unsigned ones) as the constant is_v says; SSE4.1's and AVX2's
 * are in simd_registers.h, the others' in simd_sums.h:
 *             v_dot_factors(acc, v_codes_of(b, is_v), v_splat_factors(p), is_v)   b: 8-bit codes; p: 4 v_factors, which
 *                                      v_store_factors made of numbers up to 8 bits; adds sum (code - bias) factor,
 *                                      bias being V_KEY_BIAS or V_VALUE_BIAS, 0 or 128
 *             v_part_begin(sum, is_v) v_part_add(part, n, x, is_v) v_part_end(sum, part, is_v)
 *                                      nibbles times bytes: sum + sum over V_PART_CODES codes a lane, or 16 or 32; of
 *                                      V, if over 32, less V_PART_LACK a code
 *   V_UNROLL before a loop of a known length over registers
 *   memory    v_prefetch(p): a hint, any address */
/* clang-format on */
#ifndef KVQ_SIMD_H
#define KVQ_SIMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define V_LANES 16
#define V_INLINE static inline __attribute__((always_inline, unused))

/* For a function of many operations on vectors: inline where they are registers, a call where they are arrays, whose
 * loops would be unrolled over and over (kv_generic.c compiles in 4 s instead of 14). */
#ifndef V_LARGE
#define V_LARGE V_INLINE
#endif

/* Sanitized code is compiled at -O1, where gcc refuses the hint. Emulated code says itself that it wants none. */
#if defined(V_UNROLL)
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define V_UNROLL
#else
#define V_UNROLL _Pragma("GCC unroll 16")
#endif

V_INLINE void v_prefetch(const void *p) {
    __builtin_prefetch(p, 0, 3);
}

/* Joins a kernel's name and the instruction set's: V_NAME(kvq_norm) is kvq_norm_avx2. */
#define V_JOIN2(name, isa) name##_##isa
#define V_JOIN(name, isa) V_JOIN2(name, isa)
#define V_NAME(name) V_JOIN(name, V_ISA)

#endif
