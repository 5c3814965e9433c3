/* cublas.cuh: cuBLAS, where there is one (cublas.cu). Included by stream.h; linear_cublas.cu says what it is used for.
 */
#ifndef KVQ_CUDA_CUBLAS_CUH
#define KVQ_CUDA_CUBLAS_CUH

#include "launch.cuh"

/* The library's own memory of a stream: what its documentation of cublasSetWorkspace recommends from Hopper on. */
#define KVQ_CUBLAS_BYTES ((size_t)32 << 20)

/* The library, opened and looked through; it needs no device yet. */
typedef struct kvq_cublas_library kvq_cublas_library;
/* Errors: KVQ_NOT_FOUND (there is none, or not all of it is there), KVQ_NO_MEMORY. The file stays loaded: what
 * registers kernels with the driver does not survive being unloaded. */
kvq_status kvq_cublas_open(kvq_cublas_library **ret, kvq_error *err);
void kvq_cublas_close(kvq_cublas_library *l); /* NULL allowed */
const char *kvq_cublas_file(const kvq_cublas_library *l);

/* Products on a stream of CUDA. */
typedef struct kvq_cublas kvq_cublas;
/* memory: KVQ_CUBLAS_BYTES of the device's, borrowed until the end. Errors: KVQ_DEVICE, KVQ_NO_MEMORY. */
kvq_status kvq_cublas_new(const kvq_cublas_library *l, cudaStream_t stream, uint8_t *memory, kvq_cublas **ret,
                          kvq_error *err);
void kvq_cublas_free(kvq_cublas *c);         /* NULL allowed */
int kvq_cublas_version(const kvq_cublas *c); /* 130100 is 13.1.0 */

/* sums[r][o] = sum over i of w[o][i] * x[r][i], in float. All of it is memory of the device's. */
typedef struct kvq_cublas_product {
    float *sums;       /* [n_rows, sums_apart], of which n_out are written */
    const uint16_t *w; /* [n_out, n_in] halves */
    const uint16_t *x; /* [n_rows, n_in] */
    int n_out, n_rows, n_in, sums_apart;
} kvq_cublas_product;
/* Asks the stream for it. Errors: KVQ_DEVICE. */
kvq_status kvq_cublas_multiply(kvq_cublas *c, const kvq_cublas_product *p, kvq_error *err);

#endif
