/* fake_cublas.c: a false libcublas.so for the SIMT shim: the functions that kernels/cuda/cublas.cu opens, as cuBLAS'
 * documentation says them, in plain C. Stricter than the real one: what is not the one product that is made here, or
 * does not lie in the device's memory, is refused, with the reason on standard error.
 *
 * FAKE_CUBLAS_FAULT = create | workspace | first (no product at all) | later (none but the first of a handle) */
#include "fake_cublas.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/formats.h"
#include "simt_stream.h"

enum { SUCCESS = 0, NOT_INITIALIZED = 1, ALLOC_FAILED = 3, INVALID_VALUE = 7, EXECUTION_FAILED = 13 };
enum { OP_N = 0, OP_T = 1, R_32F = 0, R_16F = 2, COMPUTE_32F = 68, GEMM_DEFAULT = -1 };
enum { LEAST_WORKSPACE = 32 << 20, WORKSPACE_ALIGN = 256, VERSION = 130001 };

typedef struct handle {
    simt_stream_front *stream;
    void *workspace;
    int n_products;
} handle;

extern fake_cublas_counts fake_cublas;
fake_cublas_counts fake_cublas;

int cublasCreate_v2(handle **ret);
int cublasDestroy_v2(handle *h);
int cublasGetVersion_v2(const handle *h, int *ret);
int cublasSetStream_v2(handle *h, simt_stream_front *stream);
int cublasSetWorkspace_v2(handle *h, void *workspace, size_t bytes);
const char *cublasGetStatusName(int status);
int cublasGemmEx(handle *h, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a, int type_a,
                 int lda, const void *b, int type_b, int ldb, const void *beta, void *c, int type_c, int ldc,
                 int compute, int algorithm);

static bool fault_is(const char *name) {
    const char *fault = getenv("FAKE_CUBLAS_FAULT");
    return fault && strcmp(fault, name) == 0;
}

static int refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int refuse(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("fake cuBLAS: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return INVALID_VALUE;
}

int cublasCreate_v2(handle **ret) {
    if (fault_is("create")) return ALLOC_FAILED;
    *ret = calloc(1, sizeof **ret);
    if (!*ret) return ALLOC_FAILED;
    fake_cublas.n_handles++;
    return SUCCESS;
}

int cublasDestroy_v2(handle *h) {
    if (!h) return NOT_INITIALIZED;
    fake_cublas.n_handles--;
    free(h);
    return SUCCESS;
}

int cublasGetVersion_v2(const handle *h, int *ret) {
    if (!h) return NOT_INITIALIZED;
    *ret = VERSION;
    return SUCCESS;
}

/* "unconditionally resets the cuBLAS library workspace back to the default workspace pool" */
int cublasSetStream_v2(handle *h, simt_stream_front *stream) {
    if (!h) return NOT_INITIALIZED;
    h->stream = stream;
    h->workspace = NULL;
    return SUCCESS;
}

int cublasSetWorkspace_v2(handle *h, void *workspace, size_t bytes) {
    if (!h) return NOT_INITIALIZED;
    if (fault_is("workspace")) return ALLOC_FAILED;
    if (!h->stream) return refuse("a workspace before a stream");
    if ((uintptr_t)workspace % WORKSPACE_ALIGN != 0 || bytes < LEAST_WORKSPACE)
        return refuse("a workspace of %zu bytes at %p", bytes, workspace);
    if (!h->stream->is_device(workspace, bytes)) return refuse("a workspace that is not the device's");
    h->workspace = workspace;
    return SUCCESS;
}

const char *cublasGetStatusName(int status) {
    switch (status) {
    case ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
        return "CUBLAS_STATUS_SUCCESS or another";
    }
}

/* c[j * ldc + i] = sum over l of a[i * k + l] * b[j * k + l]; numbers as there. */
typedef struct product {
    const uint16_t *a, *b;
    float *c;
    int m, n, k, ldc;
} product;

static float *floats_of(const uint16_t *halves, size_t n) {
    float *ret = malloc((n + 1) * sizeof *ret);
    if (!ret) abort();
    for (size_t i = 0; i < n; i++) ret[i] = kvq_half_to_float(halves[i]);
    return ret;
}

static void run_product(void *body) {
    const product *p = body;
    size_t m = (size_t)p->m, n = (size_t)p->n, k = (size_t)p->k;
    float *a = floats_of(p->a, m * k), *b = floats_of(p->b, n * k);
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < m; i++) {
            float sum = 0;
            for (size_t l = 0; l < k; l++) sum += a[i * k + l] * b[j * k + l];
            p->c[j * (size_t)p->ldc + i] = sum;
        }
    free(a);
    free(b);
}

static int check_memory(const simt_stream_front *s, const product *p) {
    size_t m = (size_t)p->m, n = (size_t)p->n, k = (size_t)p->k, ldc = (size_t)p->ldc;
    if (!s->is_device(p->a, m * k * sizeof *p->a)) return refuse("matrix a is not the device's");
    if (!s->is_device(p->b, n * k * sizeof *p->b)) return refuse("matrix b is not the device's");
    if (!s->is_device(p->c, ((n - 1) * ldc + m) * sizeof *p->c)) return refuse("matrix c is not the device's");
    return SUCCESS;
}

int cublasGemmEx(handle *h, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a, int type_a,
                 int lda, const void *b, int type_b, int ldb, const void *beta, void *c, int type_c, int ldc,
                 int compute, int algorithm) {
    if (!h) return NOT_INITIALIZED;
    fake_cublas.n_products++;
    if (fault_is("first") || (fault_is("later") && h->n_products > 0)) return EXECUTION_FAILED;
    h->n_products++;
    if (!h->stream || !h->workspace) return refuse("a product without a stream and a workspace of its own");
    if (op_a != OP_T || op_b != OP_N) return refuse("operations %d, %d", op_a, op_b);
    if (type_a != R_16F || type_b != R_16F || type_c != R_32F || compute != COMPUTE_32F || algorithm != GEMM_DEFAULT)
        return refuse("types %d, %d, %d, sums %d, algorithm %d", type_a, type_b, type_c, compute, algorithm);
    if (*(const float *)alpha != 1 || *(const float *)beta != 0) return refuse("factors that are not 1 and 0");
    if (m < 1 || n < 1 || k < 1 || lda != k || ldb != k || ldc < m)
        return refuse("%d x %d x %d with rows of %d, %d and %d", m, n, k, lda, ldb, ldc);
    const product p = {a, b, c, m, n, k, ldc};
    int status = check_memory(h->stream, &p);
    if (status != SUCCESS) return status;
    product *body = malloc(sizeof *body);
    if (!body) return ALLOC_FAILED;
    *body = p;
    h->stream->call(h->stream, run_product, free, body);
    return SUCCESS;
}
