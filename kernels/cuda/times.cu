/* times.cu: how long each kernel takes. Called by graph.cu, for every launch of a stream that keeps times, and by
 * backend.cu when the stream goes, which prints them.
 *
 * KVQ_CUDA_TIMES=1 in the environment asks for it, to see where a step's time goes: launches are then made one by one,
 * and the host waits for each. So what lies between kernels is not in these times, and a step takes longer than it
 * does. */
#include "stream.h"

#include <stdio.h>
#include <stdlib.h>

enum { KERNELS = 256 }; /* and grids at most; more are counted as one */

typedef struct kernel_time {
    const char *name;
    dim3 grid; /* tells apart which product it is */
    uint64_t n;
    double ms;
} kernel_time;

struct kvq_cuda_times {
    cudaEvent_t begin, end;
    kernel_time of[KERNELS];
    int n;
};

static bool is_of(const kernel_time *k, const char *name, dim3 grid) {
    return k->grid.x == grid.x && k->grid.y == grid.y && k->grid.z == grid.z && strcmp(k->name, name) == 0;
}

static kernel_time *find(kvq_cuda_times *t, const char *name, dim3 grid) {
    int i = 0;
    while (i < t->n && !is_of(&t->of[i], name, grid)) i++;
    if (i == KERNELS) return &t->of[KERNELS - 1];
    if (i == t->n) t->of[t->n++] = kernel_time{name, grid, 0, 0};
    return &t->of[i];
}

kvq_cuda_times *kvq_cuda_times_new(void) {
    const char *wish = secure_getenv("KVQ_CUDA_TIMES");
    if (!wish || strcmp(wish, "1") != 0) return NULL;
    kvq_cuda_times *t = (kvq_cuda_times *)calloc(1, sizeof *t);
    if (!t) return NULL;
    if (cudaEventCreateWithFlags(&t->begin, 0) == cudaSuccess && cudaEventCreateWithFlags(&t->end, 0) == cudaSuccess)
        return t;
    (void)cudaGetLastError(); /* then there are no times */
    kvq_cuda_times_done(t);
    return NULL;
}

void kvq_cuda_times_begin(kvq_cuda_times *t, cudaStream_t stream) {
    (void)cudaEventRecord(t->begin, stream); /* an error is the launch's too */
}

void kvq_cuda_times_end(kvq_cuda_times *t, cudaStream_t stream, const char *name, dim3 grid) {
    float ms = 0;
    cudaError_t error = cudaEventRecord(t->end, stream);
    if (error == cudaSuccess) error = cudaEventSynchronize(t->end);
    if (error == cudaSuccess) error = cudaEventElapsedTime(&ms, t->begin, t->end);
    if (error != cudaSuccess) return; /* the step's next call of the runtime tells it */
    kernel_time *k = find(t, name, grid);
    k->n++;
    k->ms += ms;
}

static int longest_first(const void *a, const void *b) {
    double x = ((const kernel_time *)a)->ms, y = ((const kernel_time *)b)->ms;
    return (x < y) - (x > y);
}

static void print(kvq_cuda_times *t) {
    double all = 0;
    qsort(t->of, (size_t)t->n, sizeof *t->of, longest_first);
    for (int i = 0; i < t->n; i++) all += t->of[i].ms;
    fprintf(stderr, "%-40s %20s %10s %12s %10s %7s\n", "kernel", "blocks", "launches", "ms", "us each", "share");
    for (int i = 0; i < t->n; i++) {
        const kernel_time *k = &t->of[i];
        fprintf(stderr, "%-40s %10u x%4u x%4u %10llu %12.3f %10.2f %6.1f%%\n", k->name, k->grid.x, k->grid.y, k->grid.z,
                (unsigned long long)k->n, k->ms, 1000 * k->ms / (double)k->n, 100 * k->ms / all);
    }
}

void kvq_cuda_times_done(kvq_cuda_times *t) {
    if (!t) return;
    if (t->n > 0) print(t);
    if (t->begin) (void)cudaEventDestroy(t->begin);
    if (t->end) (void)cudaEventDestroy(t->end);
    free(t);
}
