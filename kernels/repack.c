/* repack.c: GGUF tensors into the execution layouts of matrix.h, and back to floats. Called by engine/model.c at load;
 * rows are read back by embed, by ref and by the checks. Loses nothing: codes, scales and minimums are kept as they
 * are. */
#include "matrix.h"

#include <string.h>

#define TILE_BYTES_ALIGN 64 /* tiles begin on a cache line */

kvq_layout kvq_layout_of(kvq_format format) {
    const kvq_format_info *info = kvq_format_get(format);
    if (info->group_len == 0) return (kvq_layout){.kind = format, .group = 1};
    return (kvq_layout){.kind = KVQ_FORMAT_COUNT,
                        .bits = info->bits,
                        .group = info->group_len,
                        .zero = info->zero,
                        .has_min = info->has_min,
                        .scale_type = info->exact_f16 ? KVQ_SCALE_F16 : KVQ_SCALE_F32};
}

size_t kvq_layout_group_bytes(const kvq_layout *layout) {
    if (layout->bits == 0) return KVQ_TILE_ROWS * (layout->kind == KVQ_FORMAT_F32 ? 4 : 2);
    size_t codes = (size_t)layout->group * layout->bits / 8 * KVQ_TILE_ROWS;
    size_t scales = KVQ_TILE_ROWS * (layout->scale_type == KVQ_SCALE_F16 ? 2 : 4);
    return codes + scales * (layout->has_min ? 2 : 1);
}

size_t kvq_matrix_part_bytes(const kvq_layout *layout, int n_rows, int n_in, size_t *ret_tile_bytes) {
    int unit = layout->bits == 0 ? 1 : KVQ_ACT_GROUP; /* activations share a scale by 32, also where weights do by 16 */
    if (n_rows <= 0 || n_in <= 0 || n_in % unit != 0) return 0;
    size_t tile = (size_t)(n_in / layout->group) * kvq_layout_group_bytes(layout);
    tile = (tile + TILE_BYTES_ALIGN - 1) / TILE_BYTES_ALIGN * TILE_BYTES_ALIGN;
    size_t n_tiles = ((size_t)n_rows + KVQ_TILE_ROWS - 1) / KVQ_TILE_ROWS, bytes;
    if (__builtin_mul_overflow(tile, n_tiles, &bytes) || bytes > PTRDIFF_MAX) return 0;
    if (ret_tile_bytes) *ret_tile_bytes = tile;
    return bytes;
}

/* Codes i .. i + 3 of a row go to lane r of their chunk. */
static void put_codes(uint8_t *group, int bits, int n, int r, const uint8_t *code) {
    int step = bits == 4 ? 8 : 4;
    for (int i = 0; i < n; i += step) {
        uint8_t *lane = group + (size_t)i / step * 64 + 4 * r;
        for (int b = 0; b < 4; b++) lane[b] = (uint8_t)(bits == 4 ? code[i + b] | code[i + 4 + b] << 4 : code[i + b]);
    }
}

static void get_codes(const uint8_t *group, int bits, int n, int r, uint8_t *code) {
    int step = bits == 4 ? 8 : 4;
    for (int i = 0; i < n; i += step) {
        const uint8_t *lane = group + (size_t)i / step * 64 + 4 * r;
        for (int b = 0; b < 4; b++) {
            code[i + b] = bits == 4 ? lane[b] & 15 : lane[b];
            if (bits == 4) code[i + 4 + b] = lane[b] >> 4;
        }
    }
}

static void put_scale(uint8_t *scales, kvq_scale_type type, int r, float value) {
    uint16_t half = kvq_float_to_half(value);
    if (type == KVQ_SCALE_F16)
        memcpy(scales + 2 * r, &half, sizeof half);
    else
        memcpy(scales + 4 * r, &value, sizeof value);
}

static float get_scale(const uint8_t *scales, kvq_scale_type type, int r) {
    uint16_t half;
    float value;
    memcpy(&half, scales + 2 * r, sizeof half);
    if (type == KVQ_SCALE_F16) return kvq_half_to_float(half);
    memcpy(&value, scales + 4 * r, sizeof value);
    return value;
}

static size_t codes_bytes(const kvq_layout *layout) {
    return (size_t)layout->group * layout->bits / 8 * KVQ_TILE_ROWS;
}

static size_t scales_bytes(const kvq_layout *layout) {
    return KVQ_TILE_ROWS * (layout->scale_type == KVQ_SCALE_F16 ? 2 : 4);
}

/* One tensor row into lane r of its tile. */
static void repack_coded_row(const kvq_layout *layout, uint8_t *tile, int r, kvq_format format, const uint8_t *src,
                             int n_in) {
    const kvq_format_info *info = kvq_format_get(format);
    kvq_unpacked u;
    for (int i = 0; i < n_in; i += info->block_len, src += info->block_bytes) {
        info->unpack(src, &u);
        for (int g = 0; g < info->block_len / layout->group; g++, tile += kvq_layout_group_bytes(layout)) {
            uint8_t *scales = tile + codes_bytes(layout);
            put_codes(tile, layout->bits, layout->group, r, u.code + g * layout->group);
            put_scale(scales, layout->scale_type, r, u.scale[g]);
            if (layout->has_min) put_scale(scales + scales_bytes(layout), layout->scale_type, r, u.min[g]);
        }
    }
}

static void repack_float_row(uint8_t *tile, int r, const uint8_t *src, int n_in, size_t value_bytes) {
    for (int i = 0; i < n_in; i++)
        memcpy(tile + ((size_t)i * KVQ_TILE_ROWS + r) * value_bytes, src + (size_t)i * value_bytes, value_bytes);
}

void kvq_matrix_repack(kvq_matrix_part *part, kvq_format format, const void *src, int n_rows, int n_in) {
    const kvq_layout *layout = &part->layout;
    const kvq_format_info *info = kvq_format_get(format);
    size_t row_bytes = (size_t)(n_in / info->block_len) * info->block_bytes;
    for (int row = 0; row < n_rows; row++) {
        uint8_t *tile = part->data + (size_t)(row / KVQ_TILE_ROWS) * part->tile_bytes;
        const uint8_t *from = (const uint8_t *)src + (size_t)row * row_bytes;
        int r = row % KVQ_TILE_ROWS;
        if (r == 0) memset(tile, 0, part->tile_bytes); /* padding rows have scale 0, padding bytes a value */
        if (layout->bits == 0)
            repack_float_row(tile, r, from, n_in, info->block_bytes);
        else
            repack_coded_row(layout, tile, r, format, from, n_in);
    }
}

void kvq_matrix_part_codes(const kvq_matrix_part *part, int row, int n_in, uint8_t *code, float *scale, float *min) {
    const kvq_layout *layout = &part->layout;
    const uint8_t *group = part->data + (size_t)(row / KVQ_TILE_ROWS) * part->tile_bytes;
    int r = row % KVQ_TILE_ROWS;
    for (int g = 0; g < n_in / layout->group; g++, group += kvq_layout_group_bytes(layout)) {
        const uint8_t *scales = group + codes_bytes(layout);
        get_codes(group, layout->bits, layout->group, r, code + g * layout->group);
        scale[g] = get_scale(scales, layout->scale_type, r);
        min[g] = layout->has_min ? get_scale(scales + scales_bytes(layout), layout->scale_type, r) : 0;
    }
}

static void coded_row(const kvq_matrix_part *part, int row, int n_in, float *out) {
    const kvq_layout *layout = &part->layout;
    const uint8_t *group = part->data + (size_t)(row / KVQ_TILE_ROWS) * part->tile_bytes;
    int r = row % KVQ_TILE_ROWS;
    uint8_t code[KVQ_ACT_GROUP];
    for (int i = 0; i < n_in; i += layout->group, group += kvq_layout_group_bytes(layout)) {
        const uint8_t *scales = group + codes_bytes(layout);
        float scale = get_scale(scales, layout->scale_type, r);
        float min = layout->has_min ? get_scale(scales + scales_bytes(layout), layout->scale_type, r) : 0;
        get_codes(group, layout->bits, layout->group, r, code);
        for (int j = 0; j < layout->group; j++) {
            float product = scale * (float)(code[j] - layout->zero);
            out[i + j] = layout->has_min ? product + min : product;
        }
    }
}

static void float_row(const kvq_matrix_part *part, int row, int n_in, float *out) {
    const uint8_t *tile = part->data + (size_t)(row / KVQ_TILE_ROWS) * part->tile_bytes;
    size_t value_bytes = kvq_format_get(part->layout.kind)->block_bytes;
    for (int i = 0; i < n_in; i++) {
        const uint8_t *value = tile + ((size_t)i * KVQ_TILE_ROWS + row % KVQ_TILE_ROWS) * value_bytes;
        kvq_format_to_float(part->layout.kind, value, &out[i], 1);
    }
}

const kvq_matrix_part *kvq_matrix_part_of(const kvq_matrix *m, int row) {
    const kvq_matrix_part *part = m->parts;
    while (row >= part->row_begin + part->n_rows) part++;
    return part;
}

void kvq_matrix_row(const kvq_matrix *m, int row, float *out) {
    const kvq_matrix_part *part = kvq_matrix_part_of(m, row);
    if (part->layout.bits == 0)
        float_row(part, row - part->row_begin, m->n_in, out);
    else
        coded_row(part, row - part->row_begin, m->n_in, out);
}
