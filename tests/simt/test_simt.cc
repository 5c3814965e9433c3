/* test_simt.cc: the shim itself. Right kernels run and give what a device gives; broken ones are found, each for what
 * is wrong with it. */
#include <stdio.h>

extern "C" {
#include "../../kernels/formats.h"
}
#include "../../kernels/cuda/ptx.cuh"

#define SHARED KVQ_SHARED
#define WARP KVQ_WARP
#define THREADS 96

/* ---- right ---- */

__global__ void reverses(int *out) {
    SHARED(int, x, THREADS);
    x[threadIdx.x] = (int)threadIdx.x;
    __syncthreads();
    out[blockIdx.x * THREADS + threadIdx.x] = x[THREADS - 1 - threadIdx.x];
}

__global__ void sums_warps(int *out) {
    int x = (int)threadIdx.x;
    for (int n = 16; n > 0; n /= 2) x += __shfl_xor_sync(WARP, x, n);
    out[threadIdx.x] = x + __shfl_sync(WARP, (int)threadIdx.x, 3) + (int)__ballot_sync(WARP, threadIdx.x % 32 == 1);
}

/* Neighbours in a warp, ordered by __syncwarp alone; then the same bytes written anew; then words that all lanes read
 * and one of them, behind the next __syncwarp, once more before it writes. */
__global__ void hands_on(int *out) {
    SHARED(int, x, THREADS);
    unsigned i = threadIdx.x, next = i / 32 * 32 + (i + 1) % 32;
    x[i] = (int)i;
    __syncwarp();
    int y = x[next];
    __syncwarp();
    x[next] = y + 1;
    __syncwarp();
    int sum = 0;
    for (unsigned lane = 0; lane < 32; lane++) {
        sum += x[i / 32 * 32 + lane];
        __syncwarp();
        if (i % 32 == lane) x[i] = x[i] + 1;
        __syncwarp();
    }
    out[i] = sum == (int)(i / 32 * 32) * 32 + 528 ? x[i] - 1 : -1; /* 1 to 32, and the warp's first index for each */
}

/* Bytes of one word by different threads are no race. */
__global__ void writes_bytes(int *out) {
    SHARED(uint8_t, x, THREADS);
    x[threadIdx.x] = (uint8_t)threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = x[(threadIdx.x + 1) % THREADS];
}

/* ---- right: tensor cores, against the formulas of the PTX ISA (9.2) ----
 *
 * A fragment's element i of a lane stands at a row and a column that the ISA gives as formulas. Kernels fill fragments
 * by them from matrices in `in` and write C by them to `out`; the host multiplies the matrices plainly. */

typedef struct place {
    int row, column;
} place;

/* 9.7.14.5.8, mma.m16n8k16 with .f16. */
static place a_halves_at(int lane, int i) {
    int group = lane >> 2, in_group = lane % 4;
    bool upper = (0 <= i && i < 2) || (4 <= i && i < 6);
    return place{upper ? group : group + 8, in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
}
static place b_halves_at(int lane, int i) {
    int group = lane >> 2, in_group = lane % 4;
    return place{in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0), group};
}
/* 9.7.14.5.10, mma.m16n8k32 with .s8 / .u8. */
static place a_bytes_at(int lane, int i) {
    int group = lane >> 2, in_group = lane % 4;
    bool upper = (0 <= i && i < 4) || (8 <= i && i < 12);
    return place{upper ? group : group + 8, in_group * 4 + (i & 3) + (i >= 8 ? 16 : 0)};
}
static place b_bytes_at(int lane, int i) {
    int group = lane >> 2, in_group = lane % 4;
    return place{in_group * 4 + (i & 3) + (i >= 4 ? 16 : 0), group};
}
/* Both. */
static place c_at(int lane, int i) {
    int group = lane >> 2, in_group = lane % 4;
    return place{i < 2 ? group : group + 8, in_group * 2 + (i & 1)};
}

#define A_VALUE(row, k) (((row)*37 + (k)*11) % 251) /* of bytes, 0 to 250 */
#define B_VALUE(k, column) (((k)*53 + (column)*29) % 255 - 127)
#define HALF_VALUE(value) ((float)(value) / 64.0f)

template <bool SIGNED> static void multiply_bytes(int *out) {
    int lane = (int)threadIdx.x % 32, c[4];
    uint32_t a[4] = {}, b[2] = {};
    for (int i = 0; i < 16; i++) {
        place at = a_bytes_at(lane, i);
        a[i / 4] |= (uint32_t)(uint8_t)(A_VALUE(at.row, at.column) - (SIGNED ? 125 : 0)) << (8 * (i % 4));
    }
    for (int i = 0; i < 8; i++) {
        place at = b_bytes_at(lane, i);
        b[i / 4] |= (uint32_t)(uint8_t)B_VALUE(at.row, at.column) << (8 * (i % 4));
    }
    for (int i = 0; i < 4; i++) c[i] = 1000 * i;
    if (SIGNED)
        kvq_mma_ss(c, a, b);
    else
        kvq_mma_us(c, a, b);
    for (int i = 0; i < 4; i++) {
        place at = c_at(lane, i);
        if (threadIdx.x < 32) out[at.row * 8 + at.column] = c[i] - 1000 * i;
    }
}
__global__ void multiplies_signed(int *out) {
    multiply_bytes<true>(out);
}
__global__ void multiplies_unsigned(int *out) {
    multiply_bytes<false>(out);
}

__global__ void multiplies_halves(int *out) {
    int lane = (int)threadIdx.x % 32;
    uint32_t a[4] = {}, b[2] = {};
    float c[4] = {0, 8, 16, 24};
    for (int i = 0; i < 8; i++) {
        place at = a_halves_at(lane, i);
        a[i / 2] |= (uint32_t)kvq_float_half(HALF_VALUE(A_VALUE(at.row, at.column))) << (16 * (i % 2));
    }
    for (int i = 0; i < 4; i++) {
        place at = b_halves_at(lane, i);
        b[i / 2] |= (uint32_t)kvq_float_half(HALF_VALUE(B_VALUE(at.row, at.column))) << (16 * (i % 2));
    }
    kvq_mma_halves(c, a, b);
    for (int i = 0; i < 4; i++) {
        place at = c_at(lane, i);
        if (threadIdx.x < 32) out[at.row * 8 + at.column] = (int)((c[i] - (float)(8 * i)) * 4096.0f);
    }
}

/* Bytes of A and of B's transpose as rows in shared memory, by ldmatrix into fragments (9.7.14.5.15): equal to those
 * that the formulas give. Rows are 48 bytes apart. */
__global__ void loads_matrices(int *out) {
    SHARED(uint8_t, x, 3 * 16 * 48);
    SHARED(uint16_t, halves, 3 * 16 * 24);
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, wrong = 0;
    for (int i = lane; i < 16 * 32; i += 32) {
        x[warp * 16 * 48 + i / 32 * 48 + i % 32] = (uint8_t)A_VALUE(i / 32, i % 32);
        if (i < 16 * 16) halves[warp * 16 * 24 + i / 16 * 24 + i % 16] = (uint16_t)(256 * (i / 16) + i % 16);
    }
    __syncwarp();
    uint32_t a[4], b[4];
    kvq_load_matrices(a, x + (warp * 16 * 48 + lane % 16 * 48 + lane / 16 * 16));
    for (int i = 0; i < 16; i++) {
        place at = a_bytes_at(lane, i);
        wrong += (int)(a[i / 4] >> (8 * (i % 4)) & 255) != A_VALUE(at.row, at.column);
    }
    /* B [16, 8] of halves twice, rows along k: words 0 and 1 columns 0 .. 7, words 2 and 3 the next 8. */
    kvq_load_matrices_turned(b, halves + (warp * 16 * 24 + lane % 16 * 24 + lane / 16 * 8));
    for (int i = 0; i < 8; i++) {
        place at = b_halves_at(lane, i % 4);
        wrong += (int)(b[i / 2] >> (16 * (i % 2)) & 0xffff) != 256 * at.row + at.column + i / 4 * 8;
    }
    out[threadIdx.x] = wrong;
}

/* Two groups of copies, the second shorter: zeros behind its bytes. */
__global__ void copies(int *out) {
    SHARED(uint32_t, x, 2 * 4 * THREADS);
    int i = (int)threadIdx.x, other = (i + 33) % THREADS;
    const int *from = out + 2 * THREADS;
    kvq_copy_async(x + 4 * i, from + 4 * i, 16);
    kvq_copy_commit();
    kvq_copy_async(x + 4 * (THREADS + i), from + 4 * i, 4 * (i % 5));
    kvq_copy_commit();
    kvq_copy_wait<1>();
    __syncthreads();
    int wrong = 0;
    for (int n = 0; n < 4; n++) wrong += (int)x[4 * other + n] != 4 * other + n;
    kvq_copy_wait<0>();
    __syncthreads();
    for (int n = 0; n < 4; n++) wrong += (int)x[4 * (THREADS + other) + n] != (n < other % 5 ? 4 * other + n : 0);
    out[i] = wrong;
}

/* Blocks leave numbers; the last of them to come, in whatever order, adds all. BEFORE and BEHIND the ticket there are
 * to be barriers, and TAKER is the thread that takes it. */
#define N_BLOCKS 2
#define ADDS_WHAT_ALL_LEFT(BEFORE, TAKER, BEHIND)                                    \
    SHARED(unsigned, ticket, 1);                                                     \
    float *numbers = (float *)out;                                                   \
    numbers[blockIdx.x * 4 + threadIdx.x % 4] = (float)(blockIdx.x + 1);             \
    if (threadIdx.x == 0) ticket[0] = 0;                                             \
    BEFORE;                                                                          \
    if (TAKER) ticket[0] = kvq_take_ticket((unsigned *)out + THREADS, N_BLOCKS - 1); \
    BEHIND;                                                                          \
    if (ticket[0] != N_BLOCKS - 1) return;                                           \
    float4 x = kvq_load_16_l2(numbers);                                              \
    if (threadIdx.x == 0) out[THREADS + 1] += (int)(x.x + x.w + kvq_load_4_l2(numbers + 7));

__global__ void takes_a_ticket(int *out) {
    ADDS_WHAT_ALL_LEFT(__syncthreads(), threadIdx.x == 0, __syncthreads());
}

/* ---- wrong ---- */

__global__ void takes_a_ticket_at_once(int *out) {
    ADDS_WHAT_ALL_LEFT((void)0, threadIdx.x == 0, __syncthreads());
}

__global__ void takes_two_tickets(int *out) {
    ADDS_WHAT_ALL_LEFT(__syncthreads(), threadIdx.x % 32 == 0, __syncthreads());
}

/* The thread that has the ticket reads at once what the others left. */
__global__ void trusts_its_ticket(int *out) {
    ADDS_WHAT_ALL_LEFT(__syncthreads(), threadIdx.x == 0, if (threadIdx.x > 0) return );
}

__global__ void reads_too_early(int *out) {
    SHARED(int, x, THREADS);
    x[threadIdx.x] = (int)threadIdx.x;
    out[threadIdx.x] = x[(threadIdx.x + 40) % THREADS]; /* no barrier: another warp's */
}

__global__ void reads_neighbour_too_early(int *out) {
    SHARED(int, x, THREADS);
    unsigned i = threadIdx.x;
    if (i % 32 == 0) x[i + 1] = 0;
    x[i] = (int)i;
    out[i] = x[i ^ 1u]; /* no __syncwarp */
}

/* A shuffle orders nothing in memory. */
__global__ void trusts_a_shuffle(int *out) {
    SHARED(int, x, THREADS);
    unsigned i = threadIdx.x;
    x[i] = (int)i;
    int y = __shfl_xor_sync(WARP, (int)i, 1);
    out[i] = y + x[i ^ 1u];
}

__global__ void writes_what_is_read(int *out) {
    SHARED(int, x, THREADS);
    x[threadIdx.x] = 0;
    __syncthreads();
    out[threadIdx.x] = x[5];
    if (threadIdx.x == 70) x[5] = 1;
}

__global__ void both_write(int *out) {
    SHARED(int, x, THREADS);
    x[threadIdx.x / 2] = (int)threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = x[0];
}

__global__ void diverges(int *out) {
    if (threadIdx.x < 64) __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void meets_elsewhere(int *out) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void loses_a_lane(int *out) {
    if (threadIdx.x == 7) return;
    out[threadIdx.x] = __shfl_xor_sync(WARP, (int)threadIdx.x, 1);
}

__global__ void uses_half_a_warp(int *out) {
    if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffu, (int)threadIdx.x, 1);
}

__global__ void writes_behind(int *out) {
    SHARED(int, x, THREADS);
    SHARED(int, y, THREADS); /* what lies behind */
    y[threadIdx.x] = 0;
    x[threadIdx.x + 1] = 0;
    out[threadIdx.x] = 0;
}

__global__ void reads_before(int *out) {
    SHARED(int, x, THREADS);
    x[threadIdx.x] = 0;
    __syncthreads();
    out[threadIdx.x] = x[(int)threadIdx.x - 1];
}

__global__ void reads_unwritten(int *out) {
    SHARED(int, x, THREADS);
    if (threadIdx.x == 0) x[0] = 1;
    __syncthreads();
    out[threadIdx.x] = x[threadIdx.x];
}

__global__ void wants_too_much(int *out) {
    SHARED(int, x, 60000);
    x[threadIdx.x] = 0;
    out[threadIdx.x] = 0;
}

/* Its neighbours of the same group arrived: its own did not. */
__global__ void uses_a_copy_too_early(int *out) {
    SHARED(int, x, 2 * 4 * THREADS);
    kvq_copy_async(x + 4 * threadIdx.x, out + 2 * THREADS, 16);
    kvq_copy_commit();
    kvq_copy_async(x + 4 * (THREADS + threadIdx.x), out + 2 * THREADS, 16);
    kvq_copy_commit();
    kvq_copy_wait<1>();
    __syncthreads();
    out[threadIdx.x] = x[4 * (THREADS + threadIdx.x)];
    kvq_copy_wait<0>();
}

/* What was not committed is not waited for. */
__global__ void forgets_to_commit(int *out) {
    SHARED(int, x, 4 * THREADS);
    kvq_copy_async(x + 4 * threadIdx.x, out + 2 * THREADS, 16);
    kvq_copy_wait<0>();
    out[threadIdx.x] = x[4 * threadIdx.x];
}

__global__ void waits_without_a_barrier(int *out) {
    SHARED(int, x, 4 * THREADS);
    kvq_copy_async(x + 4 * threadIdx.x, out + 2 * THREADS, 16);
    kvq_copy_commit();
    kvq_copy_wait<0>();
    out[threadIdx.x] = x[4 * (threadIdx.x - (threadIdx.x % 32 > 0))];
}

__global__ void copies_over_what_is_read(int *out) {
    SHARED(int, x, 4 * THREADS);
    for (int i = 0; i < 4; i++) x[4 * threadIdx.x + i] = 0;
    __syncthreads();
    out[threadIdx.x] = x[(4 * threadIdx.x + 4) % (4 * THREADS)];
    kvq_copy_async(x + 4 * threadIdx.x, out + 2 * THREADS, 16);
    kvq_copy_commit();
    kvq_copy_wait<0>();
}

__global__ void never_waits(int *out) {
    SHARED(int, x, 4 * THREADS);
    kvq_copy_async(x + 4 * threadIdx.x, out + 2 * THREADS, 16);
    kvq_copy_commit();
}

__global__ void copies_to_an_odd_place(int *out) {
    SHARED(int, x, 4 * THREADS + 4);
    kvq_copy_async(x + (4 * threadIdx.x + 1), out + 2 * THREADS, 16);
}

__global__ void copies_from_an_odd_place(int *out) {
    SHARED(int, x, 4 * THREADS);
    kvq_copy_async(x + 4 * threadIdx.x, out + 2 * THREADS + 1, 16);
}

__global__ void copies_behind(int *out) {
    SHARED(int, x, 4 * THREADS - 4);
    SHARED(int, y, 4); /* what lies behind */
    if (threadIdx.x == 0) y[0] = 0;
    kvq_copy_async(x + 4 * threadIdx.x, out + 2 * THREADS, 16);
    kvq_copy_commit();
    kvq_copy_wait<0>();
}

__global__ void loads_an_odd_row(int *out) {
    SHARED(int, x, 8 * THREADS);
    uint32_t words[4];
    for (int i = 0; i < 8; i++) x[8 * threadIdx.x + i] = 0;
    __syncthreads();
    kvq_load_matrices(words, x + (threadIdx.x % 32 * 4 + 2));
    out[threadIdx.x] = (int)words[0];
}

__global__ void loads_matrices_too_early(int *out) {
    SHARED(int, x, 4 * THREADS);
    uint32_t words[4];
    for (int i = 0; i < 4; i++) x[4 * threadIdx.x + i] = 0;
    kvq_load_matrices(words, x + 4 * threadIdx.x); /* a lane reads rows of others */
    out[threadIdx.x] = (int)words[0];
}

/* clang-format off */
static const struct {
    const char *name;
    void (*kernel)(int *out);
    const char *error; /* what the report says; NULL: none */
} kernels[] = {
    {"reverses",                  reverses,                  NULL},
    {"sums_warps",                sums_warps,                NULL},
    {"hands_on",                  hands_on,                  NULL},
    {"writes_bytes",              writes_bytes,              NULL},
    {"multiplies_signed",         multiplies_signed,         NULL},
    {"multiplies_unsigned",       multiplies_unsigned,       NULL},
    {"multiplies_halves",         multiplies_halves,         NULL},
    {"loads_matrices",            loads_matrices,            NULL},
    {"copies",                    copies,                    NULL},
    {"takes_a_ticket",            takes_a_ticket,            NULL},
    {"takes_a_ticket_at_once",    takes_a_ticket_at_once,    "no barrier orders"},
    {"takes_two_tickets",         takes_two_tickets,         "a second ticket"},
    {"trusts_its_ticket",         trusts_its_ticket,         "no barrier since the ticket"},
    {"reads_too_early",           reads_too_early,           "nobody wrote"}, /* in the order that the shim runs them */
    {"reads_neighbour_too_early", reads_neighbour_too_early, "race"},
    {"trusts_a_shuffle",          trusts_a_shuffle,          "race"},
    {"writes_what_is_read",       writes_what_is_read,       "read since the last barrier"},
    {"both_write",                both_write,                "race"},
    {"diverges",                  diverges,                  "divergent barrier"},
    {"meets_elsewhere",           meets_elsewhere,           "divergent barrier"},
    {"loses_a_lane",              loses_a_lane,              "divergent"},
    {"uses_half_a_warp",          uses_half_a_warp,          "only whole warps"},
    {"writes_behind",             writes_behind,             "out of bounds"},
    {"reads_before",              reads_before,              "out of bounds"},
    {"reads_unwritten",           reads_unwritten,           "nobody wrote"},
    {"wants_too_much",            wants_too_much,            "bytes of shared memory, a block has"},
    {"uses_a_copy_too_early",     uses_a_copy_too_early,     "is under way"},
    {"forgets_to_commit",         forgets_to_commit,         "is under way"},
    {"waits_without_a_barrier",   waits_without_a_barrier,   "race"},
    {"copies_over_what_is_read",  copies_over_what_is_read,  "read since the last barrier"},
    {"never_waits",               never_waits,               "without waiting"},
    {"copies_to_an_odd_place",    copies_to_an_odd_place,    "no multiples of 16"},
    {"copies_from_an_odd_place",  copies_from_an_odd_place,  "no multiples of 16"},
    {"copies_behind",             copies_behind,             "out of bounds"},
    {"loads_an_odd_row",          loads_an_odd_row,          "no multiple of 16"},
    {"loads_matrices_too_early",  loads_matrices_too_early,  "race"},
};
/* clang-format on */

static int n_failed;

static void expect(bool right, const char *what, const char *found) {
    if (right) return;
    n_failed++;
    printf("FAILED: %s: %s\n", what, found);
}

/* The error of one launch of two blocks; "" if none. */
static const char *error_of(void (*kernel)(int *), const char *name, int *out, bool reverse) {
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    simt_stream_reverse(s, reverse);
    simt_launch_call(s, name, dim3(2), dim3(THREADS), 0, kernel, out);
    cudaError_t error = cudaStreamSynchronize(s);
    const char *text = error == cudaSuccess ? "" : cudaGetErrorString(error);
    (void)cudaGetLastError();
    cudaStreamDestroy(s);
    return text;
}

static void check_values(int *device) {
    int out[2 * THREADS];
    error_of(reverses, "reverses", device, true);
    cudaMemcpy(out, device, sizeof out, cudaMemcpyDeviceToHost);
    for (int i = 0; i < 2 * THREADS; i++) expect(out[i] == THREADS - 1 - i % THREADS, "reverses", "a wrong value");
    error_of(sums_warps, "sums_warps", device, false);
    cudaMemcpy(out, device, sizeof out, cudaMemcpyDeviceToHost);
    for (int i = 0; i < THREADS; i++)
        expect(out[i] == 496 + i / 32 * 1024 + i / 32 * 32 + 3 + 2, "sums_warps", "a wrong value");
    error_of(hands_on, "hands_on", device, false);
    cudaMemcpy(out, device, sizeof out, cudaMemcpyDeviceToHost);
    for (int i = 0; i < THREADS; i++) expect(out[i] == i + 1, "hands_on", "a wrong value");
}

/* Products of 16 x k and k x 8 matrices. */
static void check_products(int *device) {
    /* clang-format off */
    static const struct {
        const char *name;
        void (*kernel)(int *out);
        int k, minus;
    } products[] = {
        {"multiplies_signed",   multiplies_signed,   32, 125},
        {"multiplies_unsigned", multiplies_unsigned, 32,   0},
        {"multiplies_halves",   multiplies_halves,   16,   0},
    };
    /* clang-format on */
    for (size_t p = 0; p < sizeof products / sizeof *products; p++) {
        int out[128];
        error_of(products[p].kernel, products[p].name, device, false);
        cudaMemcpy(out, device, sizeof out, cudaMemcpyDeviceToHost);
        for (int i = 0; i < 128; i++) {
            int sum = 0;
            for (int k = 0; k < products[p].k; k++) sum += (A_VALUE(i / 8, k) - products[p].minus) * B_VALUE(k, i % 8);
            expect(out[i] == sum, products[p].name, "a wrong value");
        }
    }
}

/* Kernels that count what is wrong. */
static void check_counts(int *device) {
    int out[THREADS], from[4 * THREADS];
    for (int i = 0; i < 4 * THREADS; i++) from[i] = i;
    cudaMemcpy(device + 2 * THREADS, from, sizeof from, cudaMemcpyHostToDevice);
    cudaStreamSynchronize(cudaStreamLegacy);
    error_of(loads_matrices, "loads_matrices", device, false);
    cudaMemcpy(out, device, sizeof out, cudaMemcpyDeviceToHost);
    for (int i = 0; i < THREADS; i++) expect(out[i] == 0, "loads_matrices", "a wrong value");
    error_of(copies, "copies", device, false);
    cudaMemcpy(out, device, sizeof out, cudaMemcpyDeviceToHost);
    for (int i = 0; i < THREADS; i++) expect(out[i] == 0, "copies", "a wrong value");
}

/* Each launch has one block that comes last, in both orders, and leaves the counter as it was. */
static void check_tickets(int *device) {
    int out[2] = {};
    cudaMemcpy(device + THREADS, out, sizeof out, cudaMemcpyHostToDevice);
    cudaStreamSynchronize(cudaStreamLegacy);
    for (int launch = 1; launch <= 4; launch++) {
        error_of(takes_a_ticket, "takes_a_ticket", device, launch % 2);
        cudaMemcpy(out, device + THREADS, sizeof out, cudaMemcpyDeviceToHost);
        expect(out[0] == 0, "takes_a_ticket", "a counter that is not back at its start");
        expect(out[1] == launch * 4, "takes_a_ticket", "a wrong value");
    }
}

/* Nothing runs before the stream is waited for: what the host changes until then shows. */
static void launches_wait(int *device) {
    cudaStream_t s;
    int from = 1, to = 0;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaMemcpyAsync(device, &from, sizeof from, cudaMemcpyHostToDevice, s);
    from = 2;
    cudaMemcpyAsync(&to, device, sizeof to, cudaMemcpyDeviceToHost, s);
    expect(to == 0, "a copy", "ran before it was waited for");
    cudaStreamSynchronize(s);
    expect(to == 2, "a copy", "took what was there when it was asked for");
    cudaStreamDestroy(s);
}

__global__ void comes_early(int *out) {
    kvq_wait_for_launches();
    if (threadIdx.x > 0) return;
    *out = 3;
}
__global__ void comes_early_and_does_not_wait(int *out) {
    if (threadIdx.x > 0) return; /* these end at once, perhaps before the launch ahead */
    kvq_wait_for_launches();
    *out = 3;
}

/* The error of a launch that may come early, or of one that may not. */
static const char *error_of_early(void (*kernel)(int *), const char *name, int *out, bool is_early) {
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = is_early;
    const cudaLaunchConfig_t config = {dim3(1), dim3(THREADS), 0, s, &attribute, 1};
    void *args[] = {&out};
    simt_announce(name, kernel);
    cudaLaunchKernelExC(&config, (const void *)kernel, args);
    const char *text = cudaStreamSynchronize(s) == cudaSuccess ? "" : cudaGetErrorString(cudaErrorLaunchFailure);
    (void)cudaGetLastError();
    cudaStreamDestroy(s);
    return text;
}

static void early_launches_wait(int *device) {
    static const char found[] = "has not waited for the launches before";
    const char *right = error_of_early(comes_early, "comes_early", device, true);
    expect(*right == '\0', "comes_early", right);
    right = error_of_early(comes_early_and_does_not_wait, "comes_late", device, false);
    expect(*right == '\0', "comes_late", right);
    const char *wrong = error_of_early(comes_early_and_does_not_wait, "does_not_wait", device, true);
    expect(strstr(wrong, found) != NULL, "does_not_wait", *wrong ? wrong : "nothing was reported");
}

int main(void) {
    void *memory;
    if (cudaMalloc(&memory, 6 * THREADS * sizeof(int)) != cudaSuccess) return 1; /* results, and what is copied from */
    int *device = (int *)memory;
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        for (int reverse = 0; reverse < 2; reverse++) {
            const char *found = error_of(kernels[i].kernel, kernels[i].name, device, reverse);
            bool named = strstr(found, kernels[i].name) != NULL;
            if (!kernels[i].error)
                expect(*found == '\0', kernels[i].name, found);
            else
                expect(named && (strstr(found, kernels[i].error) || (reverse && strstr(found, "race"))),
                       kernels[i].name, *found ? found : "nothing was reported");
        }
    check_values(device);
    check_products(device);
    check_counts(device);
    check_tickets(device);
    launches_wait(device);
    early_launches_wait(device);
    cudaFree(memory);
    printf("%zu kernels, %d failed\n", sizeof kernels / sizeof *kernels, n_failed);
    return n_failed > 0;
}
