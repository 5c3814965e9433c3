/* linear.cuh: what linear.cu, linear_halves.cu and linear_cublas.cu share: the layouts there are, tiles, and how
 * results are stored. */
#ifndef KVQ_CUDA_LINEAR_CUH
#define KVQ_CUDA_LINEAR_CUH

#include "stream.h"

/* Every coded layout that formats.def makes: bits, group, zero, scale, minimums. */
#define KVQ_CODED_MAP(X)       \
    X(4, 16, 0, SUPER, true)   \
    X(4, 16, 4, SUPER, false)  \
    X(4, 32, 0, F16, true)     \
    X(4, 32, 0, SUPER, true)   \
    X(4, 32, 8, F16, false)    \
    X(5, 32, 0, F16, true)     \
    X(5, 32, 0, SUPER, true)   \
    X(5, 32, 16, F16, false)   \
    X(6, 16, 32, SUPER, false) \
    X(8, 32, 128, F16, false)  \
    X(8, 32, 128, F32, false)  \
    X(8, 32, 128, SUPER, false)

/* What a kernel is compiled for; the formats of float layouts are told apart by `kind`. */
typedef struct kvq_linear_key {
    int bits, group, zero;
    kvq_scale_type scale;
    bool has_min;
} kvq_linear_key;

static inline bool kvq_linear_fits(const kvq_linear_key *key, const kvq_layout *layout) {
    return key->bits == layout->bits && key->group == layout->group && key->zero == layout->zero &&
           key->scale == layout->scale_type && key->has_min == layout->has_min;
}

/* What is added to output o of the part, activation row `row`; it may lie where the output will. */
typedef struct kvq_addends {
    float bias, residual;
} kvq_addends;

static __device__ __forceinline__ kvq_addends kvq_load_addends(const kvq_linear &job, const kvq_matrix_part &part,
                                                               int n_out, int o, int row) {
    kvq_addends ret = {0, 0};
    if (job.bias) ret.bias = job.bias[part.row_begin + o];
    if (job.residual) ret.residual = job.residual[(size_t)row * n_out + part.row_begin + o];
    return ret;
}

/* The output, in the CPU's order of adding; returns it. */
static __device__ __forceinline__ float kvq_store_sum(const kvq_linear &job, const kvq_matrix_part &part, int n_out,
                                                      int o, int row, float value, const kvq_addends &plus) {
    if (job.bias) value += plus.bias;
    if (job.residual) value += plus.residual;
    job.out[(size_t)row * n_out + part.row_begin + o] = value;
    return value;
}

/* Both, where there is such an output. */
static __device__ __forceinline__ void kvq_store(const kvq_linear &job, const kvq_matrix_part &part, int n_out, int o,
                                                 int row, float value) {
    if (o >= part.n_rows || row >= job.n_rows) return;
    kvq_store_sum(job, part, n_out, o, row, value, kvq_load_addends(job, part, n_out, o, row));
}

/* Whether outputs o to o + 3 of a row can be stored at once. */
static __device__ __forceinline__ bool kvq_lie_together(const kvq_matrix_part &part, int n_out, int o) {
    return (n_out | part.row_begin) % 4 == 0 && o + 4 <= part.n_rows;
}

/* Outputs o to o + 3 of a row; in one store where they lie so. */
static __device__ __forceinline__ void kvq_store_four(const kvq_linear &job, const kvq_matrix_part &part, int n_out,
                                                      int o, int row, const float *value) {
    if (!kvq_lie_together(part, n_out, o)) {
#pragma unroll
        for (int i = 0; i < KVQ_LANE_ROWS; i++) kvq_store(job, part, n_out, o + i, row, value[i]);
        return;
    }
    if (row >= job.n_rows) return;
    size_t at = (size_t)row * n_out + part.row_begin + o;
    float4 sum = {value[0], value[1], value[2], value[3]};
    if (job.bias) {
        float4 b = *(const float4 *)(job.bias + part.row_begin + o);
        sum.x += b.x, sum.y += b.y, sum.z += b.z, sum.w += b.w;
    }
    if (job.residual) {
        float4 r = *(const float4 *)(job.residual + at);
        sum.x += r.x, sum.y += r.y, sum.z += r.z, sum.w += r.w;
    }
    kvq_store_16(job.out + at, sum);
}

/* A part's tile; the last one for those behind, whose results nobody stores. 16 rows have less than 4 GB: one
 * multiplication. */
static __device__ __forceinline__ const uint8_t *kvq_tile_of(const kvq_matrix_part &part, int tile) {
    unsigned last = (unsigned)(part.n_rows - 1) / KVQ_TILE_ROWS;
    return part.data + (size_t)((unsigned)tile < last ? (unsigned)tile : last) * (unsigned)part.tile_bytes;
}

#endif
