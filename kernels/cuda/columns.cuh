/* columns.cuh: activations in 8 bits, as a tensor core's product of eight rows takes them, and how a warp makes them.
 * Included by linear.cu, whose products read them, and by the files whose kernels leave them beside their floats for a
 * product right behind (kvq_cuda_leave): rows.cu, attend.cu. */
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

/* Row `row`'s step from the 32 values that the lanes of a warp have, exactly as on the CPU. */
static __device__ __forceinline__ void kvq_quantize_step(const kvq_activations &a, int row, int step, float value) {
    int lane = threadIdx.x % KVQ_WARP_LANES, column = row % KVQ_COLUMNS;
    kvq_columns *to = a.columns + (size_t)(row / KVQ_COLUMNS) * a.n_steps + step;
    float d;
    int code = kvq_quantize(value, &d), sum = code;
    for (int n = 8; n > 0; n /= 2) sum += __shfl_xor_sync(KVQ_WARP, sum, n); /* of each half */
    to->q[column][lane] = (uint8_t)code;
    int both = sum + __shfl_xor_sync(KVQ_WARP, sum, 16);
    if (lane % 16 == 0) to->d_sums[column][lane / 16] = d * (float)sum;
    if (lane == 0) {
        to->d[column] = d;
        to->d_sum[column] = d * (float)both;
    }
}

#endif
