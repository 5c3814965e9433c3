/* matrix.cuh: the execution layouts of ../matrix.h as kernels read them: the same bytes as on the CPU, since a tile's
 * 16 rows are 16 lanes of a warp here as they are 16 lanes of a vector there. */
#ifndef KVQ_CUDA_MATRIX_CUH
#define KVQ_CUDA_MATRIX_CUH

#include "stream.h"
#include "warp.cuh"

static __device__ __forceinline__ uint32_t kvq_load_word(const uint8_t *at) {
    return *(const uint32_t *)at; /* parts of a tile begin at multiples of 16 bytes */
}
static __device__ __forceinline__ uint16_t kvq_load_short(const uint8_t *at) {
    return *(const uint16_t *)at;
}

/* Byte sizes and places within a tile (repack.c has the same sums). */
static __device__ __forceinline__ int kvq_codes_bytes(int group, int bits) {
    return group * bits / 8 * KVQ_TILE_ROWS;
}
static __device__ __forceinline__ int kvq_scales_bytes(kvq_scale_type type) {
    return type == KVQ_SCALE_SUPER ? KVQ_TILE_ROWS : type == KVQ_SCALE_F16 ? 2 * KVQ_TILE_ROWS : 4 * KVQ_TILE_ROWS;
}
static __device__ __forceinline__ int kvq_super_bytes(const kvq_layout *layout) {
    return layout->scale_type == KVQ_SCALE_SUPER ? 2 * KVQ_TILE_ROWS * (layout->has_min ? 2 : 1) : 0;
}
static __device__ __forceinline__ int kvq_group_bytes(const kvq_layout *layout, int group, int bits) {
    return kvq_codes_bytes(group, bits) + kvq_scales_bytes(layout->scale_type) * (layout->has_min ? 2 : 1);
}

/* Where the group that begins at input i stands, and the super scales that hold for it. */
static __device__ __forceinline__ size_t kvq_group_at(const kvq_layout *layout, int group, int bits, int i,
                                                      size_t *super_at) {
    int bytes = kvq_group_bytes(layout, group, bits);
    *super_at = 0;
    if (layout->scale_type != KVQ_SCALE_SUPER) return (size_t)(i / group) * bytes;
    int before = kvq_super_bytes(layout);
    *super_at = (size_t)(i / KVQ_SUPER_INPUTS) * (before + KVQ_SUPER_INPUTS / group * bytes);
    return *super_at + before + (size_t)(i % KVQ_SUPER_INPUTS / group) * bytes;
}

/* Codes of row r, inputs 4 k .. 4 k + 3 of a group, a byte each. */
static __device__ __forceinline__ uint32_t kvq_four_codes(const uint8_t *group, int bits, int r, int k) {
    if (bits == 8) return kvq_load_word(group + 64 * k + 4 * r);
    const uint8_t *nibbles = bits > 4 ? group + 64 : group;
    uint32_t codes = kvq_load_word(nibbles + 64 * (k / 2) + 4 * r) >> (k % 2 * 4) & 0x0f0f0f0fu;
    if (bits == 4) return codes;
    uint32_t high = kvq_load_word(group + 4 * r) >> (k * (bits - 4));
    return codes | (high & (bits == 5 ? 0x01010101u : 0x03030303u)) << 4;
}

/* Scale or minimum of row r. */
static __device__ __forceinline__ float kvq_scale_of(const uint8_t *scales, kvq_scale_type type, int r, float super) {
    if (type == KVQ_SCALE_SUPER) return super * (float)(int8_t)scales[r];
    if (type == KVQ_SCALE_F16) return kvq_half_float(kvq_load_short(scales + 2 * r));
    return *(const float *)(scales + 4 * r);
}

/* Super scale of row r, or of its minimums. */
static __device__ __forceinline__ float kvq_super_of(const uint8_t *tile, size_t super_at, const kvq_layout *layout,
                                                     int r, bool of_min) {
    if (layout->scale_type != KVQ_SCALE_SUPER || (of_min && !layout->has_min)) return 0;
    return kvq_half_float(kvq_load_short(tile + super_at + (of_min ? 2 * KVQ_TILE_ROWS : 0) + 2 * r));
}

static __device__ __forceinline__ float kvq_float_of(const uint8_t *values, kvq_format kind, size_t i) {
    if (kind == KVQ_FORMAT_F32) return ((const float *)values)[i];
    uint16_t bits = ((const uint16_t *)values)[i];
    return kind == KVQ_FORMAT_F16 ? kvq_half_float(bits) : __int_as_float((int)((uint32_t)bits << 16));
}

/* A row's group of inputs in a coded tile: what its codes, scale and minimum (0: none) are. */
typedef struct kvq_row_group {
    const uint8_t *codes;
    float scale, min;
} kvq_row_group;

/* Row r's part of the group that stands at `at` of a coded tile, under the super scales at super_at. */
static __device__ __forceinline__ kvq_row_group kvq_row_group_of(const kvq_layout *layout, const uint8_t *tile,
                                                                 size_t at, size_t super_at, int r) {
    const uint8_t *codes = tile + at, *scales = codes + kvq_codes_bytes(layout->group, layout->bits);
    kvq_row_group ret = {codes, 0, 0};
    ret.scale = kvq_scale_of(scales, layout->scale_type, r, kvq_super_of(tile, super_at, layout, r, false));
    if (!layout->has_min) return ret;
    scales += kvq_scales_bytes(layout->scale_type);
    ret.min = kvq_scale_of(scales, layout->scale_type, r, kvq_super_of(tile, super_at, layout, r, true));
    return ret;
}

/* The weight that a code of the group means. */
static __device__ __forceinline__ float kvq_weight_of(const kvq_layout *layout, const kvq_row_group &group, int code) {
    float value = group.scale * (float)(code - layout->zero);
    return layout->has_min ? value + group.min : value; /* -0 + 0 would be 0 */
}

/* Weight (row, i) of a part, exactly as in the file. For embed: one at a time. */
static __device__ inline float kvq_matrix_value(const kvq_matrix_part *part, int row, int i) {
    const kvq_layout *layout = &part->layout;
    const uint8_t *tile = part->data + (size_t)(row / KVQ_TILE_ROWS) * part->tile_bytes;
    int r = row % KVQ_TILE_ROWS, bits = layout->bits, n = layout->group;
    if (bits == 0) return kvq_float_of(tile, layout->kind, (size_t)i * KVQ_TILE_ROWS + r);
    size_t super_at, at = kvq_group_at(layout, n, bits, i - i % n, &super_at);
    const kvq_row_group group = kvq_row_group_of(layout, tile, at, super_at, r);
    return kvq_weight_of(layout, group, (int)(kvq_four_codes(group.codes, bits, r, i % n / 4) >> (i % 4 * 8) & 255));
}

/* The codes of a lane's N values and the group's d, 32 / N lanes being a group of activations (../matrix.h). The
 * largest is taken over the bits of |x|, whose order is that of the floats with NaN and infinity above all of them. */
template <int N> static __device__ __forceinline__ void kvq_quantize(int codes[N], float *ret_d, const float x[N]) {
    int bits = 0;
#pragma unroll
    for (int b = 0; b < N; b++) bits = kvq_larger(bits, __float_as_int(fabsf(x[b])));
    for (int n = KVQ_ACT_GROUP / 2 / N; n > 0; n /= 2) bits = kvq_larger(bits, __shfl_xor_sync(KVQ_WARP, bits, n));
    float largest = __int_as_float(bits), d = largest / 127.0f, per_code = 1.0f / d;
    bool finite = bits < 0x7f800000, some = finite && largest >= KVQ_ACT_TINY;
    *ret_d = some ? d : finite ? 0.0f : __int_as_float(0x7fc00000);
#pragma unroll
    for (int b = 0; b < N; b++) codes[b] = some ? __float2int_rn(x[b] * per_code) : 0;
}

#endif
