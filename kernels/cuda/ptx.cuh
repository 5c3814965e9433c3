/* ptx.cuh: every instruction that CUDA C has no name for, one per function, with what it means in plain C: on the host
 * (KVQ_SIMT) that meaning is what runs. Included by the kernels. */
#ifndef KVQ_CUDA_PTX_CUH
#define KVQ_CUDA_PTX_CUH

#include "launch.cuh"

/* acc + sum over 4 bytes of u (unsigned) times s (signed). dp4a, sm_61. */
static __device__ __forceinline__ int kvq_dp4a_us(uint32_t u, uint32_t s, int acc) {
#ifdef KVQ_SIMT
    for (int b = 0; b < 4; b++) acc += (int)(u >> (8 * b) & 255) * (int8_t)(s >> (8 * b) & 255);
    return acc;
#else
    int ret;
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(ret) : "r"(u), "r"(s), "r"(acc));
    return ret;
#endif
}

/* The compute capability that this code was compiled for. */
static __device__ __forceinline__ int kvq_built_for(void) {
#ifdef KVQ_SIMT
    return 90;
#elif defined(__CUDA_ARCH__)
    return __CUDA_ARCH__ / 10;
#else
    return 0; /* the compiler's pass for the host */
#endif
}

/* First in every kernel, for every thread. Where a launch may come early (graph.cu) its blocks take their places while
 * the launch before it still ends: this waits until all launches before have ended and what they wrote is there, and
 * then lets the next one's blocks come. Until then a kernel reads its arguments and what no kernel writes, if anything.
 * Elsewhere it does nothing. griddepcontrol, sm_90. */
static __device__ __forceinline__ void kvq_wait_for_launches(void) {
#ifdef KVQ_SIMT
    simt_wait_for_launches();
#elif __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#define KVQ_L2_LINE 128u
/* Asks for the line at `at` of device memory, into the L2 cache; changes nothing. */
static __device__ __forceinline__ void kvq_ask_l2(const uint8_t *at) {
#ifdef KVQ_SIMT
    (void)*(const volatile uint8_t *)at; /* within what was allocated, as the sanitizers see */
#else
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
#endif
}

/* The same of `bytes`, by n threads of which this is number `thread`. */
static __device__ __forceinline__ void kvq_ask_l2_for(const uint8_t *from, unsigned bytes, unsigned thread,
                                                      unsigned n) {
#pragma unroll 1
    for (unsigned at = thread * KVQ_L2_LINE; at < bytes; at += n * KVQ_L2_LINE) kvq_ask_l2(from + at);
}

/* Counts blocks of a launch that have come so far: 0 for the first, `last` for the last of them, and then from 0 again.
 * By one thread, between two barriers of its block: what blocks with smaller tickets wrote before their first barrier
 * is seen behind this one's second. atom.acq_rel, sm_70: release and acquire are cumulative over barriers, so that no
 * other thread needs a fence. */
static __device__ __forceinline__ unsigned kvq_take_ticket(unsigned *counter, unsigned last) {
#ifdef KVQ_SIMT
    return simt_take_ticket(counter, last);
#else
    unsigned ret;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(ret)
                 : "l"(__cvta_generic_to_global(counter)), "r"(last)
                 : "memory");
    return ret;
#endif
}

/* Sixteen bytes in one load, at a multiple of 16 of device memory, or a float, of what other blocks of the launch may
 * have left: out of the L2 cache, where all stores go. The first-level cache, which each SM has for itself, does not
 * learn of them and might still have what was there before. */
static __device__ __forceinline__ float4 kvq_load_16_l2(const float *from) {
#ifdef KVQ_SIMT
    simt_check_ticket();
    return *(const float4 *)from;
#else
    float4 ret;
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(ret.x), "=f"(ret.y), "=f"(ret.z), "=f"(ret.w)
                 : "l"(__cvta_generic_to_global(from))
                 : "memory");
    return ret;
#endif
}
static __device__ __forceinline__ float kvq_load_4_l2(const float *from) {
#ifdef KVQ_SIMT
    simt_check_ticket();
    return *from;
#else
    float ret;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(ret) : "l"(__cvta_generic_to_global(from)) : "memory");
    return ret;
#endif
}

/* Sixteen bytes in one store, at a multiple of 16 of device memory; of shared memory. The compiler takes many
 * assignments of such structs apart, and four stores of a warp then touch each line four times. */
static __device__ __forceinline__ void kvq_store_16(void *to, uint4 x) {
#ifdef KVQ_SIMT
    *(uint4 *)to = x;
#else
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(__cvta_generic_to_global(to)), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
                 : "memory");
#endif
}
static __device__ __forceinline__ void kvq_store_16(float *to, float4 x) {
    kvq_store_16((void *)to, uint4{(uint32_t)__float_as_int(x.x), (uint32_t)__float_as_int(x.y),
                                   (uint32_t)__float_as_int(x.z), (uint32_t)__float_as_int(x.w)});
}
static __device__ __forceinline__ void kvq_store_shared_16(KVQ_SHARED_PTR(float4) to, float4 x) {
#ifdef KVQ_SIMT
    to[0] = x;
#else
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};"
                 :
                 : "r"((uint32_t)__cvta_generic_to_shared(to)), "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w)
                 : "memory");
#endif
}

/* The float that the bits of a half mean, exactly. */
static __device__ __forceinline__ float kvq_half_float(uint16_t bits) {
#ifdef KVQ_SIMT
    return kvq_half_to_float(bits);
#else
    float ret;
    asm("cvt.f32.f16 %0, %1;" : "=f"(ret) : "h"(bits));
    return ret;
#endif
}

/* The same of the low and of the high half of a word, without taking it apart first. */
static __device__ __forceinline__ float kvq_low_half_float(uint32_t word) {
#ifdef KVQ_SIMT
    return kvq_half_float((uint16_t)word);
#else
    float ret;
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low; }" : "=f"(ret) : "r"(word));
    return ret;
#endif
}
static __device__ __forceinline__ float kvq_high_half_float(uint32_t word) {
#ifdef KVQ_SIMT
    return kvq_half_float((uint16_t)(word >> 16));
#else
    float ret;
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high; }" : "=f"(ret) : "r"(word));
    return ret;
#endif
}

/* The nearest half, ties to even; too large gives infinity. */
static __device__ __forceinline__ uint16_t kvq_float_half(float x) {
#ifdef KVQ_SIMT
    return kvq_float_to_half(x);
#else
    uint16_t ret;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(ret) : "f"(x));
    return ret;
#endif
}

/* Two halves in a word, the first in its low bits. */
static __device__ __forceinline__ uint32_t kvq_two_halves(float low, float high) {
    return kvq_float_half(low) | (uint32_t)kvq_float_half(high) << 16;
}

/* Four bytes of the eight of low (0 to 3) and high (4 to 7), each named by four bits of the selector. prmt. */
static __device__ __forceinline__ uint32_t kvq_pick_bytes(uint32_t low, uint32_t high, uint32_t selector) {
#ifdef KVQ_SIMT
    uint64_t both = low | (uint64_t)high << 32;
    uint32_t ret = 0;
    for (int i = 0; i < 4; i++) ret |= (uint32_t)(both >> (selector >> (4 * i) & 7) * 8 & 255) << (8 * i);
    return ret;
#else
    return __byte_perm(low, high, selector);
#endif
}

/* Arithmetic of two halves at once: x - y, x y, x y + z, rounded once to the nearest half (the shim rounds the last one
 * to float first). Two instructions, not one fused: the sum of the first is exact where it is used. */
#ifdef KVQ_SIMT
template <typename F> static inline uint32_t simt_two_halves(uint32_t x, uint32_t y, uint32_t z, F f) {
    return kvq_two_halves(f(kvq_low_half_float(x), kvq_low_half_float(y), kvq_low_half_float(z)),
                          f(kvq_high_half_float(x), kvq_high_half_float(y), kvq_high_half_float(z)));
}
#endif
static __device__ __forceinline__ uint32_t kvq_sub_halves(uint32_t x, uint32_t y) {
#ifdef KVQ_SIMT
    return simt_two_halves(x, y, 0, [](float a, float b, float) { return a - b; });
#else
    uint32_t ret;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(ret) : "r"(x), "r"(y));
    return ret;
#endif
}
static __device__ __forceinline__ uint32_t kvq_mul_halves(uint32_t x, uint32_t y) {
#ifdef KVQ_SIMT
    return simt_two_halves(x, y, 0, [](float a, float b, float) { return a * b; });
#else
    uint32_t ret;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(ret) : "r"(x), "r"(y));
    return ret;
#endif
}
static __device__ __forceinline__ uint32_t kvq_fma_halves(uint32_t x, uint32_t y, uint32_t z) {
#ifdef KVQ_SIMT
    return simt_two_halves(x, y, z, [](float a, float b, float c) { return a * b + c; });
#else
    uint32_t ret;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(ret) : "r"(x), "r"(y), "r"(z));
    return ret;
#endif
}

/* A float's bits; a NaN's are those that the device gives every NaN of its own. */
static __device__ __forceinline__ uint32_t kvq_bits_of(float x) {
#ifdef KVQ_SIMT
    if (x != x) return 0x7fffffff;
#endif
    return (uint32_t)__float_as_int(x);
}

/* Four floats times a unit, rounded to bytes of -128 to 255, the first in the low bits; a NaN gives 255. 1.5 2^23
 * brings integers to the low bits of a float, and prmt takes them out. */
static __device__ __forceinline__ uint32_t kvq_four_bytes(float x0, float x1, float x2, float x3, float unit) {
    const float magic = 12582912.0f;
    uint32_t b0 = kvq_bits_of(fmaf(x0, unit, magic)), b1 = kvq_bits_of(fmaf(x1, unit, magic));
    uint32_t b2 = kvq_bits_of(fmaf(x2, unit, magic)), b3 = kvq_bits_of(fmaf(x3, unit, magic));
    return kvq_pick_bytes(kvq_pick_bytes(b0, b1, 0x0040), kvq_pick_bytes(b2, b3, 0x0040), 0x5410);
}

/* The larger, or a NaN where one of them is. max.NaN, sm_80. */
static __device__ __forceinline__ float kvq_larger_or_nan(float x, float y) {
#if defined(KVQ_SIMT) || __CUDA_ARCH__ < 800
    return x != x || x > y ? x : y;
#else
    float ret;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(ret) : "f"(x), "f"(y));
    return ret;
#endif
}

/* 2^x to 2^-22 of it, 1 / x to a last bit; zero where they are below 2^-126, and what x is there counts as zero. One
 * instruction each (ex2.approx.ftz, rcp.approx.ftz), where the CPU's dozen would be most of a soft-max. */
static __device__ __forceinline__ float kvq_exp2(float x) {
#ifdef KVQ_SIMT
    return x < -126.0f ? 0.0f : exp2f(x);
#else
    float ret;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(ret) : "f"(x));
    return ret;
#endif
}
static __device__ __forceinline__ float kvq_reciprocal(float x) {
#ifdef KVQ_SIMT
    if (fabsf(x) < 0x1p-126f) return copysignf(INFINITY, x);
    return fabsf(x) > 0x1p126f ? copysignf(0.0f, x) : 1.0f / x;
#else
    float ret;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(ret) : "f"(x));
    return ret;
#endif
}

/* ---- tensor cores: a warp's product of small matrices, D = A B + C, C and D in place -----------------------------
 *
 * Who holds what (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" and "... for mma.m16n8k32"),
 * with g = lane / 4, t = lane % 4, a word being `n` neighbours along k (2 halves or 4 bytes), the first in low bits:
 *   A [16, 8 n]: word w of a holds row g + 8 (w % 2), k = n t + 4 n (w / 2) ...
 *   B [8 n, 8]:  word w of b holds column g,          k = n t + 4 n w ...
 *   C [16, 8]:   element i holds row g + 8 (i / 2), column 2 t + i % 2
 * Turing has no shapes as large: two and four of its own do the same. */
#ifdef KVQ_SIMT
/* One lane's part of a product: A's row g is with the four lanes 4 g + t, so is B's column g. Value holds an element of
 * A or B exactly, N are in a word. The device may sum floats in another order and with fewer bits. */
template <typename Sum, typename Value, int N>
SIMT_NOT_SANITIZED static void simt_mma(const char *what, Sum *c, const Value (&a)[4][N], const Value (&b)[2][N]) {
    struct fragments {
        Value a[4][N], b[2][N];
    } mine;
    memcpy(mine.a, a, sizeof a);
    memcpy(mine.b, b, sizeof b);
    const uint8_t(*slots)[SIMT_SLOT_BYTES] = simt_exchange(what, KVQ_WARP, &mine, sizeof mine, false);
    unsigned g = simt_now.lane / 4, t = simt_now.lane % 4;
    for (unsigned i = 0; i < 4; i++)
        for (unsigned k = 0; k < 8; k++) {
            const fragments *row = (const fragments *)slots[4 * g + k % 4];
            const fragments *column = (const fragments *)slots[4 * (2 * t + i % 2) + k % 4];
            const Value *x = row->a[i / 2 + k / 4 * 2], *y = column->b[k / 4];
            for (int n = 0; n < N; n++) c[i] += (Sum)x[n] * (Sum)y[n];
        }
}

static inline void simt_mma_bytes(const char *what, int *c, const uint32_t *a, const uint32_t *b, bool a_is_signed) {
    int16_t x[4][4], y[2][4];
    for (int i = 0; i < 4; i++)
        for (int w = 0; w < 4; w++) {
            uint8_t byte = (uint8_t)(a[w] >> (8 * i));
            x[w][i] = a_is_signed ? (int8_t)byte : byte;
            if (w < 2) y[w][i] = (int8_t)(b[w] >> (8 * i));
        }
    simt_mma(what, c, x, y);
}
#elif __CUDA_ARCH__ < 800
#define KVQ_MMA_M8N8K16(types, c, a, b)                                                               \
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32." types ".s32 {%0, %1}, {%2}, {%3}, {%0, %1};" \
                 : "+r"((c)[0]), "+r"((c)[1])                                                         \
                 : "r"(a), "r"(b))
#define KVQ_MMA_BYTES(types, c, a, b)                    \
    do {                                                 \
        KVQ_MMA_M8N8K16(types, c, (a)[0], (b)[0]);       \
        KVQ_MMA_M8N8K16(types, c, (a)[2], (b)[1]);       \
        KVQ_MMA_M8N8K16(types, (c) + 2, (a)[1], (b)[0]); \
        KVQ_MMA_M8N8K16(types, (c) + 2, (a)[3], (b)[1]); \
    } while (0)
#else
#define KVQ_MMA_BYTES(types, c, a, b)                                                   \
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32." types                         \
                 ".s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+r"((c)[0]), "+r"((c)[1]), "+r"((c)[2]), "+r"((c)[3])               \
                 : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "r"((b)[0]), "r"((b)[1]))
#endif

/* c [16, 8] += A [16, 16] B [16, 8], halves, summed in float. */
static __device__ __forceinline__ void kvq_mma_halves(float *c, const uint32_t *a, const uint32_t *b) {
#ifdef KVQ_SIMT
    float x[4][2], y[2][2];
    for (int i = 0; i < 2; i++)
        for (int w = 0; w < 4; w++) {
            x[w][i] = kvq_half_float((uint16_t)(a[w] >> (16 * i)));
            if (w < 2) y[w][i] = kvq_half_float((uint16_t)(b[w] >> (16 * i)));
        }
    simt_mma("kvq_mma_halves", c, x, y);
#elif __CUDA_ARCH__ < 800
    for (int w = 0; w < 2; w++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[2 * w]), "r"(a[2 * w + 1]), "r"(b[w]));
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* c [16, 8] += A [16, 32] B [32, 8], signed bytes, exactly. */
static __device__ __forceinline__ void kvq_mma_ss(int *c, const uint32_t *a, const uint32_t *b) {
#ifdef KVQ_SIMT
    simt_mma_bytes("kvq_mma_ss", c, a, b, true);
#else
    KVQ_MMA_BYTES("s8.s8", c, a, b);
#endif
}

/* The same with A of unsigned bytes. */
static __device__ __forceinline__ void kvq_mma_us(int *c, const uint32_t *a, const uint32_t *b) {
#ifdef KVQ_SIMT
    simt_mma_bytes("kvq_mma_us", c, a, b, false);
#else
    KVQ_MMA_BYTES("u8.s8", c, a, b);
#endif
}

/* ---- fragments from shared memory: ldmatrix, sm_75 -----------------------------------------------------------------
 *
 * Four matrices of 8 rows of 16 bytes: lane 8 m + r gives the address of row r of matrix m, a multiple of 16; word m of
 * the result is of matrix m: row lane / 4, bytes 4 (lane % 4) ... So rows of A (m = 0: rows 0..7, 1: rows 8..15, 2 and
 * 3: their next 16 bytes) become fragments of A as above, and rows of B's transpose become B's. */
template <typename T> static __device__ __forceinline__ void kvq_load_matrices(uint32_t *ret, KVQ_SHARED_PTR(T) row) {
#ifdef KVQ_SIMT
    simt_shared<uint32_t> rows[SIMT_WARP];
    simt_exchange_rows("kvq_load_matrices", simt_shared_cast<uint32_t>(row), rows);
    for (unsigned m = 0; m < 4; m++) ret[m] = rows[8 * m + simt_now.lane / 4][simt_now.lane % 4];
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(ret[0]), "=r"(ret[1]), "=r"(ret[2]), "=r"(ret[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
#endif
}

/* The same transposed as matrices of 8 x 8 halves: word m holds column lane / 4, rows 2 (lane % 4) and the next one. */
template <typename T>
static __device__ __forceinline__ void kvq_load_matrices_turned(uint32_t *ret, KVQ_SHARED_PTR(T) row) {
#ifdef KVQ_SIMT
    simt_shared<uint16_t> rows[SIMT_WARP];
    unsigned column = simt_now.lane / 4, r = simt_now.lane % 4 * 2;
    simt_exchange_rows("kvq_load_matrices_turned", simt_shared_cast<uint16_t>(row), rows);
    for (unsigned m = 0; m < 4; m++) ret[m] = rows[8 * m + r][column] | (uint32_t)rows[8 * m + r + 1][column] << 16;
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(ret[0]), "=r"(ret[1]), "=r"(ret[2]), "=r"(ret[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
#endif
}

/* ---- asynchronous copies: cp.async, sm_80 --------------------------------------------------------------------------
 *
 * A thread copies 16 bytes of device memory into shared memory, both at multiples of 16; of the source `bytes` (0 to
 * 16) are read, the rest becomes zeros. Copies since the last commit are a group. After kvq_copy_wait<N> all groups of
 * this thread but the last N have arrived, for this thread: others see them after a barrier. Turing copies at once. */
template <typename T>
static __device__ __forceinline__ void kvq_copy_async(KVQ_SHARED_PTR(T) to, const void *from, int bytes) {
#ifdef KVQ_SIMT
    simt_copy_async(simt_shared_cast<uint8_t>(to), from, bytes);
#elif __CUDA_ARCH__ < 800
    const uint8_t *source = (const uint8_t *)from;
    uint32_t words[4] = {};
    if (bytes == 16)
        *(uint4 *)words = *(const uint4 *)source;
    else
        for (int i = 0; i < bytes; i++) words[i / 4] |= (uint32_t)source[i] << (8 * (i % 4));
    *(uint4 *)to = *(const uint4 *)words;
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
#endif
}

static __device__ __forceinline__ void kvq_copy_commit() {
#ifdef KVQ_SIMT
    simt_copy_commit();
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" : : : "memory");
#endif
}

template <int N> static __device__ __forceinline__ void kvq_copy_wait() {
#ifdef KVQ_SIMT
    simt_copy_wait(N);
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" : : "n"(N) : "memory");
#endif
}

#endif
