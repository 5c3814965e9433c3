/* test_simt.cc: the shim itself. Right kernels run and give what a device gives; broken ones are found, each for what
 * is wrong with it. */
#include <stdio.h>

#include "simt.h"

/* launch.cuh's macro */
#define SHARED(type, name, count) \
    static simt_site name##_site; \
    simt_shared<type> name = simt_static_array<type>(&name##_site, count)

#define WARP 0xffffffffu
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

/* Neighbours in a warp, ordered by __syncwarp alone; then the same bytes written anew. */
__global__ void hands_on(int *out) {
    SHARED(int, x, THREADS);
    unsigned i = threadIdx.x, next = i / 32 * 32 + (i + 1) % 32;
    x[i] = (int)i;
    __syncwarp();
    int y = x[next];
    __syncwarp();
    x[next] = y + 1;
    __syncwarp();
    out[i] = x[i];
}

/* Bytes of one word by different threads are no race. */
__global__ void writes_bytes(int *out) {
    SHARED(uint8_t, x, THREADS);
    x[threadIdx.x] = (uint8_t)threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = x[(threadIdx.x + 1) % THREADS];
}

/* ---- wrong ---- */

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

int main(void) {
    void *memory;
    if (cudaMalloc(&memory, 2 * THREADS * sizeof(int)) != cudaSuccess) return 1;
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
    launches_wait(device);
    cudaFree(memory);
    printf("%zu kernels, %d failed\n", sizeof kernels / sizeof *kernels, n_failed);
    return n_failed > 0;
}
