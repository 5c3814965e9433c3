/* columns.cuh: activations in 8 bits, as a tensor core's product of eight rows takes them, and how a warp makes them.
 * Included by linear.cu, whose products read them and leave them, and by the files whose kernels leave them beside
 * their floats for a product right behind (kvq_cuda_leave): rows.cu, attend.cu. */
#ifndef KVQ_CUDA_COLUMNS_CUH
#define KVQ_CUDA_COLUMNS_CUH

#include "matrix.cuh"

#define KVQ_STEP KVQ_ACT_GROUP
#define KVQ_COLUMNS 8 /* activation rows of a product */

/* 8 activation rows of a step, as the quantizer writes them: a lane's loads stand side by side with the other lanes'.
 */
struct kvq_columns {
    uint8_t q[KVQ_COLUMNS][KVQ_STEP];         /* signed */
    float d[KVQ_COLUMNS], d_sum[KVQ_COLUMNS]; /* scales, and times the sums of the bytes */
    float d_sums[KVQ_COLUMNS][2];             /* of each 16 inputs */
};

/* Inputs i to i + N - 1 of row `row`, from the N values that a lane has: 32 / N lanes have a step, exactly as on the
 * CPU, and a warp N steps, for little more than one. By all lanes; of steps whose lanes do not `count` nothing is
 * written. */
template <int N>
static __device__ __forceinline__ void kvq_quantize_values(const kvq_activations &a, int row, int i, const float x[N],
                                                           bool count) {
    int codes[N], sum = 0;
    float d;
    kvq_quantize<N>(codes, &d, x);
    uint32_t word = 0;
#pragma unroll
    for (int b = 0; b < N; b++) {
        sum += codes[b];
        word |= ((uint32_t)codes[b] & 255) << (8 * b);
    }
    for (int n = 1; n < 16 / N; n *= 2) sum += __shfl_xor_sync(KVQ_WARP, sum, n); /* of each half */
    int both = sum + __shfl_xor_sync(KVQ_WARP, sum, 16 / N);
    if (!count) return;
    unsigned column = (unsigned)row % KVQ_COLUMNS, at = (unsigned)i % KVQ_STEP;
    kvq_columns *to = a.columns + (size_t)((unsigned)row / KVQ_COLUMNS) * a.n_steps + (unsigned)i / KVQ_STEP;
    uint8_t *q = to->q[column] + at;
    if constexpr (N == 4) *(uint32_t *)q = word;
    if constexpr (N == 2) *(uint16_t *)q = (uint16_t)word;
    if constexpr (N == 1) *q = (uint8_t)word;
    if (at % 16 == 0) to->d_sums[column][at / 16] = d * (float)sum;
    if (at == 0) {
        to->d[column] = d;
        to->d_sum[column] = d * (float)both;
    }
}

/* The same of values that may be left for a norm: times its weights (or 1), with the sum of each step's squares before
 * where a.squares wants it, in one order for all N: value 16 to value 0, then 8 to 0, down to 1. */
template <int N>
static __device__ __forceinline__ void kvq_leave_values(const kvq_activations &a, int row, int i, const float x[N],
                                                        const float weight[N], bool count) {
    float y[N], squares[N];
#pragma unroll
    for (int k = 0; k < N; k++) y[k] = x[k] * weight[k], squares[k] = x[k] * x[k];
    if (a.squares) {
#pragma unroll
        for (int n = KVQ_STEP / 2; n > 0; n /= 2)
#pragma unroll
            for (int k = 0; k < N; k++) {
                if (n >= N) squares[k] += __shfl_xor_sync(KVQ_WARP, squares[k], n / N);
                if (n < N && k < n) squares[k] += squares[k + n];
            }
        if (count && i % KVQ_STEP == 0) a.squares[(size_t)row * a.n_steps + (unsigned)i / KVQ_STEP] = squares[0];
    }
    kvq_quantize_values<N>(a, row, i, y, count);
}

/* What a row's products are to be multiplied by: 1, or its norm's factor. The sum of squares is a warp's: the steps of
 * a lane in order, then the lanes, so the same for every kernel that asks. */
static __device__ __forceinline__ float kvq_row_factor(const kvq_activations &a, int row) {
    if (!a.squares) return 1.0f;
    const float *squares = a.squares + (size_t)row * a.n_steps;
    float sum = 0;
#pragma unroll 4
    for (int i = (int)threadIdx.x % KVQ_WARP_LANES; i < a.n_steps; i += KVQ_WARP_LANES) sum += squares[i];
    return 1.0f / sqrtf(kvq_warp_sum(sum) / (float)(a.n_steps * KVQ_STEP) + a.eps);
}

#endif
