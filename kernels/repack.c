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
                        .scale_type = info->scale_type};
}

static size_t codes_bytes(const kvq_layout *layout) {
    return (size_t)layout->group * layout->bits / 8 * KVQ_TILE_ROWS;
}

/* 16 scales, or as many minimums. */
static size_t scales_bytes(const kvq_layout *layout) {
    static const size_t bytes[] = {
        [KVQ_SCALE_NONE] = 0, [KVQ_SCALE_F16] = 2, [KVQ_SCALE_F32] = 4, [KVQ_SCALE_SUPER] = 1};
    return KVQ_TILE_ROWS * bytes[layout->scale_type];
}

/* What stands before the groups of 256 inputs. */
static size_t super_bytes(const kvq_layout *layout) {
    if (layout->scale_type != KVQ_SCALE_SUPER) return 0;
    return KVQ_TILE_ROWS * sizeof(uint16_t) * (layout->has_min ? 2 : 1);
}

/* A group of 16 rows; for float layouts 16 values. */
static size_t group_bytes(const kvq_layout *layout) {
    if (layout->bits == 0) return KVQ_TILE_ROWS * (layout->kind == KVQ_FORMAT_F32 ? 4 : 2);
    return codes_bytes(layout) + scales_bytes(layout) * (layout->has_min ? 2 : 1);
}

/* Where the super scales that input i belongs to begin in a tile, and where i's group does. i begins a group. */
static size_t super_at(const kvq_layout *layout, int i) {
    size_t before = (size_t)(i / KVQ_SUPER_INPUTS);
    return before * (super_bytes(layout) + KVQ_SUPER_INPUTS / layout->group * group_bytes(layout));
}

static size_t group_at(const kvq_layout *layout, int i) {
    if (layout->scale_type != KVQ_SCALE_SUPER) return (size_t)(i / layout->group) * group_bytes(layout);
    return super_at(layout, i) + super_bytes(layout) +
           (size_t)(i % KVQ_SUPER_INPUTS / layout->group) * group_bytes(layout);
}

size_t kvq_matrix_part_bytes(const kvq_layout *layout, int n_rows, int n_in, size_t *ret_tile_bytes) {
    int unit = layout->bits == 0 ? 1 : KVQ_ACT_GROUP; /* activations share a scale by 32, also where weights do by 16 */
    if (layout->scale_type == KVQ_SCALE_SUPER) unit = KVQ_SUPER_INPUTS;
    if (n_rows <= 0 || n_in <= 0 || n_in % unit != 0) return 0;
    size_t tile = group_at(layout, n_in - layout->group) + group_bytes(layout);
    tile = (tile + TILE_BYTES_ALIGN - 1) / TILE_BYTES_ALIGN * TILE_BYTES_ALIGN;
    size_t n_tiles = ((size_t)n_rows + KVQ_TILE_ROWS - 1) / KVQ_TILE_ROWS, bytes;
    if (__builtin_mul_overflow(tile, n_tiles, &bytes) || bytes > PTRDIFF_MAX) return 0;
    if (ret_tile_bytes) *ret_tile_bytes = tile;
    return bytes;
}

/* Four codes as one word, so that a load repacks half a billion weights in a second or two: whatever is shifted is
 * masked such that no bit crosses from byte to byte. */
static uint32_t get_word(const uint8_t *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static void put_word(uint8_t *at, uint32_t word) {
    memcpy(at, &word, sizeof word);
}

/* A group's codes into lane r. */
static void put_codes(uint8_t *group, const kvq_layout *layout, int r, const uint8_t *code) {
    uint8_t *lane = group + 4 * r;
    int n_high = layout->bits - 4; /* bits above the nibble, in a chunk of their own */
    if (layout->bits == 8) {
        for (int i = 0; i < layout->group; i += 4, lane += 64) put_word(lane, get_word(code + i));
        return;
    }
    if (n_high > 0) {
        uint32_t high = 0, mask = n_high == 1 ? 0x01010101 : 0x03030303;
        for (int k = 0; k < layout->group / 4; k++) high |= (get_word(code + 4 * k) >> 4 & mask) << k * n_high;
        put_word(lane, high);
        lane += 64;
    }
    for (int i = 0; i < layout->group; i += 8, lane += 64)
        put_word(lane, (get_word(code + i) & 0x0F0F0F0F) | (get_word(code + i + 4) & 0x0F0F0F0F) << 4);
}

static void get_codes(const uint8_t *group, const kvq_layout *layout, int r, uint8_t *code) {
    int n_high = layout->bits - 4;
    if (layout->bits == 8) {
        for (int i = 0; i < layout->group; i++) code[i] = group[i / 4 * 64 + 4 * r + i % 4];
        return;
    }
    const uint8_t *nibbles = n_high > 0 ? group + 64 : group;
    for (int i = 0; i < layout->group; i++) {
        int high = n_high > 0 ? group[4 * r + i % 4] >> (i / 4 * n_high) & ((1 << n_high) - 1) : 0;
        code[i] = (uint8_t)((nibbles[i / 8 * 64 + 4 * r + i % 4] >> (i / 4 % 2 * 4) & 15) | high << 4);
    }
}

static void put_half(uint8_t *halves, int r, float value) {
    uint16_t half = kvq_float_to_half(value);
    memcpy(halves + 2 * r, &half, sizeof half);
}

static float get_half(const uint8_t *halves, int r) {
    uint16_t half;
    memcpy(&half, halves + 2 * r, sizeof half);
    return kvq_half_to_float(half);
}

/* Scale or minimum of row r at `scales`: value, which is a super scale times `sub` where the layout has such. */
static void put_scale(uint8_t *scales, kvq_scale_type type, int r, float value, int8_t sub) {
    if (type == KVQ_SCALE_SUPER)
        scales[r] = (uint8_t)sub;
    else if (type == KVQ_SCALE_F16)
        put_half(scales, r, value);
    else
        memcpy(scales + 4 * r, &value, sizeof value);
}

static float get_scale(const uint8_t *scales, kvq_scale_type type, int r, float super) {
    float value;
    if (type == KVQ_SCALE_SUPER) return super * (float)(int8_t)scales[r];
    if (type == KVQ_SCALE_F16) return get_half(scales, r);
    memcpy(&value, scales + 4 * r, sizeof value);
    return value;
}

/* One tensor row into lane r of its tile. */
static void repack_coded_row(const kvq_layout *layout, uint8_t *tile, int r, kvq_format format, const uint8_t *src,
                             int n_in) {
    const kvq_format_info *info = kvq_format_get(format);
    size_t super_half = KVQ_TILE_ROWS * sizeof(uint16_t), step = group_bytes(layout);
    kvq_unpacked u = {0};
    for (int i = 0; i < n_in; i += info->block_len, src += info->block_bytes) {
        info->unpack(src, &u);
        if (layout->scale_type == KVQ_SCALE_SUPER) {
            put_half(tile + super_at(layout, i), r, u.d);
            if (layout->has_min) put_half(tile + super_at(layout, i) + super_half, r, u.dmin);
        }
        uint8_t *group = tile + group_at(layout, i);
        for (int g = 0; g < info->block_len / layout->group; g++, group += step) {
            uint8_t *scales = group + codes_bytes(layout);
            put_codes(group, layout, r, u.code + g * layout->group);
            put_scale(scales, layout->scale_type, r, u.scale[g], u.sub_scale[g]);
            scales += scales_bytes(layout);
            if (layout->has_min) put_scale(scales, layout->scale_type, r, u.min[g], u.sub_min[g]);
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

/* The group of row r that begins at input i. */
static void get_group(const kvq_matrix_part *part, int row, int i, uint8_t *code, float *scale, float *min) {
    const kvq_layout *layout = &part->layout;
    const uint8_t *tile = part->data + (size_t)(row / KVQ_TILE_ROWS) * part->tile_bytes;
    const uint8_t *super = tile + super_at(layout, i), *group = tile + group_at(layout, i);
    const uint8_t *scales = group + codes_bytes(layout), *mins = scales + scales_bytes(layout);
    int r = row % KVQ_TILE_ROWS;
    bool has_super = layout->scale_type == KVQ_SCALE_SUPER;
    float d = has_super ? get_half(super, r) : 0;
    float dmin = has_super && layout->has_min ? get_half(super + KVQ_TILE_ROWS * sizeof(uint16_t), r) : 0;
    get_codes(group, layout, r, code);
    *scale = get_scale(scales, layout->scale_type, r, d);
    *min = layout->has_min ? get_scale(mins, layout->scale_type, r, dmin) : 0;
}

void kvq_matrix_part_codes(const kvq_matrix_part *part, int row, int n_in, uint8_t *code, float *scale, float *min) {
    int group = part->layout.group;
    for (int i = 0; i < n_in; i += group) get_group(part, row, i, code + i, &scale[i / group], &min[i / group]);
}

static void coded_row(const kvq_matrix_part *part, int row, int n_in, float *out) {
    const kvq_layout *layout = &part->layout;
    uint8_t code[KVQ_ACT_GROUP];
    for (int i = 0; i < n_in; i += layout->group) {
        float scale, min;
        get_group(part, row, i, code, &scale, &min);
        for (int j = 0; j < layout->group; j++) {
            float product = scale * (float)(code[j] - layout->zero);
            out[i + j] = layout->has_min ? product + min : product; /* -0 + 0 would be 0 */
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
