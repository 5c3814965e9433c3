/* kv.cuh: pages as kernels see them: ../kv.c's addresses on the device, and what append and attend do to one head in
 * shared memory: the Hadamard transform. */
#ifndef KVQ_CUDA_KV_CUH
#define KVQ_CUDA_KV_CUH

#include "stream.h"

#define KVQ_ABSENT ((size_t)-1)

/* The cache of one layer; a kernel's argument. */
typedef struct kvq_cuda_kv {
    kvq_policy policy;
    int block_tokens, block_shift; /* block_tokens is 1 << block_shift */
    int head_dim, n_kv_heads;
    kvq_kv_layer layer;
} kvq_cuda_kv;

static inline kvq_cuda_kv kvq_cuda_kv_of(const kvq_kv *kv, int layer) {
    kvq_cuda_kv ret = {};
    ret.policy = *kv->policy;
    ret.block_tokens = kv->block_tokens;
    ret.block_shift = __builtin_ctz((unsigned)kv->block_tokens);
    ret.head_dim = kv->head_dim;
    ret.n_kv_heads = kv->n_kv_heads;
    ret.layer = kv->layers[layer];
    return ret;
}

static __device__ __forceinline__ uint16_t *kvq_part_at(uint8_t *image, size_t offset) {
    return offset == KVQ_ABSENT ? nullptr : (uint16_t *)(image + offset);
}

static __device__ __forceinline__ void kvq_closed_halves(const kvq_cuda_kv &kv, const kvq_kv_page &page, int g,
                                                         kvq_kv_half *k, kvq_kv_half *v) {
    const kvq_kv_image &image = kv.layer.closed;
    uint8_t *head = page.block + kv.layer.offset + (size_t)g * image.bytes;
    *k = kvq_kv_half{head + image.k_codes,
                     kvq_part_at(head, image.k_scales),
                     kvq_part_at(head, image.k_mins),
                     kvq_part_at(head, image.k_mean),
                     image.k_bits,
                     kv.policy.sym};
    *v = kvq_kv_half{
        head + image.v_codes, kvq_part_at(head, image.v_scales), kvq_part_at(head, image.v_mins), nullptr, image.v_bits,
        kv.policy.sym};
}

static __device__ __forceinline__ size_t kvq_wide_half_bytes(const kvq_cuda_kv &kv) {
    return (size_t)kv.block_tokens * (size_t)(kv.head_dim + 2);
}

static __device__ __forceinline__ kvq_kv_half kvq_wide_half(const kvq_cuda_kv &kv, uint8_t *at) {
    uint16_t *scales = (uint16_t *)(at + (size_t)kv.block_tokens * (size_t)kv.head_dim);
    return kvq_kv_half{at, scales, nullptr, nullptr, 8, true};
}

/* In the scratch slot while the page closes in this step (use_slot), else in its two blocks. */
static __device__ __forceinline__ void kvq_wide_halves(const kvq_cuda_kv &kv, const kvq_kv_page &page,
                                                       const kvq_batch &batch, bool use_slot, int g, kvq_kv_half *k,
                                                       kvq_kv_half *v) {
    if (use_slot && page.scratch >= 0) {
        size_t half = kvq_wide_half_bytes(kv);
        uint8_t *at = batch.scratch + (size_t)page.scratch * batch.scratch_slot_bytes + (size_t)g * 2 * half;
        *k = kvq_wide_half(kv, at);
        *v = kvq_wide_half(kv, at + half);
        return;
    }
    size_t at = kv.layer.offset + (size_t)g * kv.layer.closed.bytes;
    *k = kvq_wide_half(kv, page.block + at);
    *v = kvq_wide_half(kv, page.wide_v + at);
}

static __device__ __forceinline__ bool kvq_sees_wide(const kvq_cuda_kv &kv, int pos, int p) {
    return kv.policy.wide && (p == 0 || p == pos >> kv.block_shift);
}

/* ---- the orthonormal Hadamard transform of a head (../hadamard.c), by a warp ---- */

typedef struct kvq_cuda_hadamard {
    int base;           /* 1, 12 or 20 */
    uint32_t minus[20]; /* row i of the base matrix: bit j set where it is -1 */
    float unit;         /* 1 / sqrt(head_dim) */
} kvq_cuda_hadamard;

static inline kvq_cuda_hadamard kvq_cuda_hadamard_of(int head_dim) {
    kvq_cuda_hadamard ret = {};
    ret.base = kvq_hadamard_base(head_dim);
    ret.unit = 1.0f / sqrtf((float)head_dim);
    for (int i = 0; i < ret.base; i++)
        for (int j = 0; j < ret.base; j++)
            if (kvq_hadamard_base_sign(ret.base, i, j) < 0) ret.minus[i] |= 1u << j;
    return ret;
}

static __device__ __forceinline__ void kvq_add_and_subtract(float *x, float *y) {
    float a = *x, b = *y;
    *x = a + b;
    *y = a - b;
}
/* That transform in a warp's registers, of a head without a base: a lane's x[c] are channels 128 c + 4 lane .. + 3. N
 * is the least power of two that holds the head. The sums are those of kvq_hadamard_warp. */
template <int N> static __device__ __forceinline__ void kvq_hadamard_lanes(float x[N][4], int d, float unit) {
    int lane = threadIdx.x % KVQ_WARP_LANES;
#pragma unroll
    for (int c = 0; c < N; c++) {
        for (int b = 0; b < 4; b++) x[c][b] *= unit;
        kvq_add_and_subtract(&x[c][0], &x[c][1]);
        kvq_add_and_subtract(&x[c][2], &x[c][3]);
        kvq_add_and_subtract(&x[c][0], &x[c][2]);
        kvq_add_and_subtract(&x[c][1], &x[c][3]);
    }
#pragma unroll 1
    for (int n = 1; n < KVQ_WARP_LANES && 4 * n < d; n *= 2) {
        float sign = lane & n ? -1.0f : 1.0f;
#pragma unroll
        for (int c = 0; c < N; c++)
            for (int b = 0; b < 4; b++) x[c][b] = fmaf(sign, x[c][b], __shfl_xor_sync(KVQ_WARP, x[c][b], n));
    }
#pragma unroll
    for (int n = 1; n < N; n *= 2) /* a head without a base has all of its N */
        for (int c = 0; c < N; c++)
            if (!(c & n))
                for (int b = 0; b < 4; b++) kvq_add_and_subtract(&x[c][b], &x[c + n][b]);
}

/* x [d], by one warp; other [d] is room for heads with a base. All of x is ordered among the lanes before and after. */
static __device__ inline void kvq_hadamard_warp(KVQ_SHARED_PTR(float) x, KVQ_SHARED_PTR(float) other, int d,
                                                const kvq_cuda_hadamard &h) {
    int n_block = h.base == 1 ? d : d / h.base, bits = 0, lane = threadIdx.x % KVQ_WARP_LANES;
    __syncwarp();
#pragma unroll 2
    for (int i = lane; i < d; i += KVQ_WARP_LANES) x[i] = x[i] * h.unit;
    __syncwarp();
    for (int step = 1; step < n_block; step *= 2, bits++) {
#pragma unroll 2
        for (int j = lane; j < d / 2; j += KVQ_WARP_LANES) {
            int low = j & (step - 1), i = 2 * (j - low) + low; /* step is a power of two */
            float a = x[i], b = x[i + step];
            x[i] = a + b;
            x[i + step] = a - b;
        }
        __syncwarp();
    }
    if (h.base == 1) return;
#pragma unroll 1
    for (int i = lane; i < d; i += KVQ_WARP_LANES) {
        uint32_t minus = h.minus[i >> bits]; /* n_block is 1 << bits */
        float sum = 0;
#pragma unroll 4
        for (int j = 0; j < h.base; j++) { /* a multiple of four */
            float value = x[(j << bits) + (i & (n_block - 1))];
            sum = minus >> j & 1 ? sum - value : sum + value;
        }
        other[i] = sum;
    }
    __syncwarp();
#pragma unroll 1
    for (int i = lane; i < d; i += KVQ_WARP_LANES) x[i] = other[i];
    __syncwarp();
}

/* Four channels from i on, and a lane's part of a head as kvq_hadamard_lanes has it, from and to shared memory. */
static __device__ __forceinline__ void kvq_get_four(float x[4], KVQ_SHARED_PTR(float) from, int i) {
    float4 four = KVQ_SHARED_CAST(float4, from)[i / 4];
    x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
}
template <int N> static __device__ __forceinline__ void kvq_get_head(float x[N][4], KVQ_SHARED_PTR(float) from, int d) {
#pragma unroll
    for (int c = 0; c < N; c++) {
        int i = 4 * (c * KVQ_WARP_LANES + (int)threadIdx.x % KVQ_WARP_LANES);
        if (i < d) kvq_get_four(x[c], from, i);
    }
}
template <int N>
static __device__ __forceinline__ void kvq_put_head(KVQ_SHARED_PTR(float) to, const float x[N][4], int d) {
    __syncwarp(); /* what stood there is done with */
#pragma unroll
    for (int c = 0; c < N; c++) {
        int lane_four = c * KVQ_WARP_LANES + (int)threadIdx.x % KVQ_WARP_LANES;
        if (4 * lane_four < d)
            kvq_store_shared_16(KVQ_SHARED_CAST(float4, to) + lane_four, float4{x[c][0], x[c][1], x[c][2], x[c][3]});
    }
    __syncwarp();
}

/* The transform of what lanes have of any head; room and other are kvq_hadamard_warp's, for heads with a base. */
template <int N>
static __device__ __forceinline__ void kvq_hadamard_head(float x[N][4], int d, const kvq_cuda_hadamard &h,
                                                         KVQ_SHARED_PTR(float) room, KVQ_SHARED_PTR(float) other) {
    if (h.base == 1) {
        kvq_hadamard_lanes<N>(x, d, h.unit);
        return;
    }
    kvq_put_head<N>(room, x, d);
    kvq_hadamard_warp(room, other, d, h);
    kvq_get_head<N>(x, room, d);
}

#endif
