/* cublas.cu: the only file that knows cuBLAS. Called by backend.cu and linear_cublas.cu.
 *
 * The library is opened by name, that of the CUDA this plugin was compiled with: it is some hundreds of megabytes,
 * which a toolkit or JetPack brings and the plugin does not. Its header is not needed, nor there wherever a compiler
 * is: the functions' forms and the numbers are below, from cublas_api.h and library_types.h of CUDA 13.0; what is an
 * enum there is an int here.
 *
 * KVQ_CUDA_CUBLAS in the environment names another file (ignored in programs with raised rights); 0: none is opened. */
#include "stream.h"

#include <dlfcn.h>
#include <stdio.h>

/* CUBLAS_STATUS_SUCCESS, CUBLAS_OP_N and so on; the runtime's own header has some of them. */
enum { BLAS_SUCCESS = 0, BLAS_OP_N = 0, BLAS_OP_T = 1, BLAS_COMPUTE_32F = 68, BLAS_GEMM_DEFAULT = -1 };
enum { BLAS_R_32F = 0, BLAS_R_16F = 2 };

typedef struct cublasContext *cublas_handle;

/* clang-format off */
/*    member         cuBLAS' name             answer         arguments */
#define CUBLAS_FUNCTIONS(X)                                                                                              \
    X(create,        "cublasCreate_v2",       int,           (cublas_handle *))                                          \
    X(destroy,       "cublasDestroy_v2",      int,           (cublas_handle))                                            \
    X(version,       "cublasGetVersion_v2",   int,           (cublas_handle, int *))                                     \
    X(set_stream,    "cublasSetStream_v2",    int,           (cublas_handle, cudaStream_t))                              \
    X(set_workspace, "cublasSetWorkspace_v2", int,           (cublas_handle, void *, size_t))                            \
    X(name_status,   "cublasGetStatusName",   const char *,  (int))                                                      \
    X(gemm,          "cublasGemmEx",          int,           (cublas_handle, int, int, int, int, int, const void *,      \
                                                              const void *, int, int, const void *, int, int,            \
                                                              const void *, void *, int, int, int, int))
/* clang-format on */

struct kvq_cublas_library {
    char file[256];
#define CUBLAS_MEMBER(member, name, answer, arguments) answer(*member) arguments;
    CUBLAS_FUNCTIONS(CUBLAS_MEMBER)
#undef CUBLAS_MEMBER
};

struct kvq_cublas {
    const kvq_cublas_library *library;
    cublas_handle handle;
    int version;
};

/* ---- the library ---- */

static void name_file(char *ret, size_t ret_bytes) {
    const char *wish = secure_getenv("KVQ_CUDA_CUBLAS");
    if (wish && *wish)
        snprintf(ret, ret_bytes, "%s", wish);
    else
        snprintf(ret, ret_bytes, "libcublas.so.%d", CUDART_VERSION / 1000);
}

static kvq_status look_up(kvq_cublas_library *l, void *file, kvq_error *err) {
#define CUBLAS_LOOK_UP(member, name, answer, arguments)                                     \
    {                                                                                       \
        void *found = dlsym(file, name);                                                    \
        if (!found) return kvq_fail(err, KVQ_NOT_FOUND, "'%s' has no '" name "'", l->file); \
        memcpy(&l->member, &found, sizeof found);                                           \
    }
    CUBLAS_FUNCTIONS(CUBLAS_LOOK_UP)
#undef CUBLAS_LOOK_UP
    return KVQ_OK;
}

kvq_status kvq_cublas_open(kvq_cublas_library **ret, kvq_error *err) {
    kvq_cublas_library *l = (kvq_cublas_library *)calloc(1, sizeof *l);
    if (!l) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for cuBLAS");
    kvq_status status = KVQ_OK;
    name_file(l->file, sizeof l->file);
    void *file = strcmp(l->file, "0") == 0 ? NULL : dlopen(l->file, RTLD_NOW | RTLD_LOCAL);
    if (strcmp(l->file, "0") == 0)
        status = kvq_fail(err, KVQ_NOT_FOUND, "KVQ_CUDA_CUBLAS is 0");
    else if (!file)
        status = kvq_fail(err, KVQ_NOT_FOUND, "it cannot be opened: %s", dlerror());
    else
        status = look_up(l, file, err);
    if (status) {
        kvq_cublas_close(l);
        return status;
    }
    *ret = l;
    return KVQ_OK;
}

void kvq_cublas_close(kvq_cublas_library *l) {
    free(l);
}

const char *kvq_cublas_file(const kvq_cublas_library *l) {
    return l->file;
}

/* ---- products on a stream ---- */

static kvq_status fail_call(const kvq_cublas *c, int status, const char *what, kvq_error *err) {
    const char *name = c->library->name_status(status);
    return kvq_fail(err, KVQ_DEVICE, "cuBLAS: %s: %s", what, name ? name : "a failure without a name");
}

/* The workspace last: setting a stream takes it away again (documentation of cublasSetStream). */
kvq_status kvq_cublas_new(const kvq_cublas_library *l, cudaStream_t stream, uint8_t *memory, kvq_cublas **ret,
                          kvq_error *err) {
    kvq_cublas *c = (kvq_cublas *)calloc(1, sizeof *c);
    if (!c) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for cuBLAS");
    c->library = l;
    const char *what = "starting it";
    int status = l->create(&c->handle);
    if (status == BLAS_SUCCESS) status = l->version(c->handle, &c->version);
    if (status == BLAS_SUCCESS) {
        what = "giving it a stream and memory";
        status = l->set_stream(c->handle, stream);
    }
    if (status == BLAS_SUCCESS) status = l->set_workspace(c->handle, memory, KVQ_CUBLAS_BYTES);
    if (status != BLAS_SUCCESS) {
        (void)fail_call(c, status, what, err);
        kvq_cublas_free(c);
        return KVQ_DEVICE;
    }
    *ret = c;
    return KVQ_OK;
}

void kvq_cublas_free(kvq_cublas *c) {
    if (!c) return;
    if (c->handle) (void)c->library->destroy(c->handle); /* nothing could be done about it */
    free(c);
}

int kvq_cublas_version(const kvq_cublas *c) {
    return c->version;
}

/* cuBLAS' matrices are of columns: what is [n_out, n_in] by rows is [n_in, n_out] there, and the sums' [n_rows, n_out]
 * are its [n_out, n_rows]: w turned, times x. */
kvq_status kvq_cublas_multiply(kvq_cublas *c, const kvq_cublas_product *p, kvq_error *err) {
    const float one = 1, zero = 0;
    char what[96];
    int status = c->library->gemm(c->handle, BLAS_OP_T, BLAS_OP_N, p->n_out, p->n_rows, p->n_in, &one, p->w, BLAS_R_16F,
                                  p->n_in, p->x, BLAS_R_16F, p->n_in, &zero, p->sums, BLAS_R_32F, p->sums_apart,
                                  BLAS_COMPUTE_32F, BLAS_GEMM_DEFAULT);
    if (status == BLAS_SUCCESS) return KVQ_OK;
    (void)cudaGetLastError(); /* it may be the reason, and is told here */
    snprintf(what, sizeof what, "%d outputs of %d inputs for %d rows", p->n_out, p->n_in, p->n_rows);
    return fail_call(c, status, what, err);
}
