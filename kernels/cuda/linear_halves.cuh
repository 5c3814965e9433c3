/* linear_halves.cuh: what linear_halves.cu and linear_cublas.cu share: which of them multiplies where results may
 * depend on the batch, rows as halves, and results that halves cannot give. */
#ifndef KVQ_CUDA_LINEAR_HALVES_CUH
#define KVQ_CUDA_LINEAR_HALVES_CUH

#include "half_rows.cuh"
#include "linear.cuh"
#include "matrix.cuh"

#include <limits.h>

/* ---- which of them ---- */

/* Codes as halves: where an SM adds at least 1,024 products of halves in float a cycle; with fewer, many_rows' integers
 * are as fast, so that kernels for codes are not compiled for the others. capability: 90 is 9.0. */
static __host__ __device__ constexpr bool kvq_has_fast_halves(int capability) {
    return capability == 80 || capability == 87 || (capability >= 90 && capability < 120);
}
#ifdef __CUDA_ARCH__
#define KVQ_BUILT_FOR_HALVES(coded) (!(coded) || kvq_has_fast_halves(__CUDA_ARCH__ / 10))
#else
#define KVQ_BUILT_FOR_HALVES(coded) true
#endif

/* cuBLAS: where mma.sync, linear_halves.cu's instruction, does not reach the tensor cores' peak, and from so many rows
 * of a step on that writing the weights as halves first is made up for (docs/cuda.md counts, and has what an H200
 * showed). Not on 8.0 and 8.7, whose peak mma.sync reaches, nor on 11.0, whose memory is twelve times slower than an
 * H100's. INT_MAX: never. */
static inline int kvq_cuda_cublas_rows(int capability) {
    static const struct { int from, to, n_rows; } table[] = {{90, 90, 1024}, {100, 109, 1024}};
    for (const auto &row : table)
        if (capability >= row.from && capability <= row.to) return row.n_rows;
    return INT_MAX;
}

/* ---- activations as halves ---- */

/* The product's, by a kernel of its own or by the one of the norm or glu that makes them. */
void kvq_cuda_convert_rows(kvq_stream *s, const kvq_linear *job, const kvq_half_rows *to);

/* ---- results ---- */

static __device__ __forceinline__ bool kvq_is_finite(float x) {
    return (__float_as_int(x) & 0x7f800000) != 0x7f800000;
}

/* A result in float, for weights that are no halves. */
static __device__ __attribute__((noinline)) void kvq_store_exactly(const kvq_linear &job, const kvq_matrix_part &part,
                                                                   int n_in, int n_out, int o, int row) {
    if (o >= part.n_rows || row >= job.n_rows) return;
    const float *x = job.in + (size_t)row * n_in;
    float sum = 0;
    for (int i = 0; i < n_in; i++) sum = fmaf(kvq_matrix_value(&part, o, i), x[i], sum);
    kvq_store(job, part, n_out, o, row, sum);
}

#endif
