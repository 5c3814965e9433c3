/* linear_tile_tmpl.h: how a tile's weights are read and unpacked and its results written (matrix.h): what linear_tmpl.h
 * and linear_amx.c have in common. Included by them after a simd_*.h. */
#include "linear.h"

/* ---- results ---- */

/* Lanes of tile `tile` that are outputs; the last tile may be padded. */
V_INLINE int lanes_of(const kvq_linear_run *run, int tile) {
    int left = run->part->n_rows - tile * KVQ_TILE_ROWS;
    return left < KVQ_TILE_ROWS ? left : KVQ_TILE_ROWS;
}

static void store_part(const kvq_linear_run *run, int tile, int r, v16f acc) {
    float lanes[V_LANES];
    size_t column = (size_t)tile * KVQ_TILE_ROWS, at = (size_t)r * run->n_out + column;
    v_store(lanes, acc);
    for (int l = 0; l < lanes_of(run, tile); l++) {
        if (run->bias) lanes[l] += run->bias[column + l];
        if (run->residual) lanes[l] += run->residual[at + l];
        run->out[at + l] = lanes[l];
    }
}

V_INLINE void store(const kvq_linear_run *run, int tile, int r, v16f acc) {
    size_t column = (size_t)tile * KVQ_TILE_ROWS, at = (size_t)r * run->n_out + column;
    if (lanes_of(run, tile) < KVQ_TILE_ROWS) {
        store_part(run, tile, r, acc);
        return;
    }
    if (run->bias) acc = v_add(acc, v_load(run->bias + column));
    if (run->residual) acc = v_add(acc, v_load(run->residual + at));
    v_store(run->out + at, acc);
}

/* ---- codes and scales ---- */

/* The super scales that hold for 256 inputs; moves *w behind them. */
typedef struct supers {
    v16f d, dmin;
} supers;

V_INLINE supers load_supers(const uint8_t **w, bool has_min) {
    supers ret = {v_load_half((const uint16_t *)*w), v_zero()};
    *w += 2 * V_LANES;
    if (!has_min) return ret;
    ret.dmin = v_load_half((const uint16_t *)*w);
    *w += 2 * V_LANES;
    return ret;
}

/* 16 scales or minimums; moves *w behind them. */
V_INLINE v16f load_scales(const uint8_t **w, kvq_scale_type type, v16f super) {
    const uint8_t *at = *w;
    *w += type == KVQ_SCALE_SUPER ? V_LANES : type == KVQ_SCALE_F16 ? 2 * V_LANES : 4 * V_LANES;
    if (type == KVQ_SCALE_SUPER) return v_mul(super, v_float(v_load_i8(at)));
    return type == KVQ_SCALE_F16 ? v_load_half((const uint16_t *)at) : v_load((const float *)at);
}

/* Codes of inputs 4 k .. 4 k + 3 of a group at w, stored in so many bits (matrix.h has the picture); both are
 * constants. */
V_INLINE v64b load_codes(const uint8_t *w, const int stored, const int k) {
    if (stored == 8) return v_load_b(w + 64 * k);
    v64b pair = v_load_b(w + (stored > 4 ? 64 : 0) + 64 * (k / 2));
    v64b nibbles = k % 2 ? v_high_b(pair) : v_low_b(pair);
    if (stored == 4) return nibbles;
    return v_or_b(nibbles, v_bits_to_4_b(v_load_b(w), k * (stored - 4), stored == 5 ? 0x10 : 0x30));
}

/* ---- unpacked ---- */

/* What an unpacked tile has of codes with that zero: defined by the file that includes this. */
V_INLINE v64b unpacked_codes(v64b codes, int zero);

/* A tile for all panels to read: per group its codes as bytes, then its scales and, if there are, its minimums as
 * floats. */
V_INLINE void unpack_tile(const kvq_linear_run *run, uint8_t *out, const int bits, const int group) {
    const kvq_layout *layout = &run->part->layout;
    const uint8_t *w = run->part->data + (size_t)run->tile_begin * run->part->tile_bytes;
    const int zero = layout->zero;
    supers super = {v_zero(), v_zero()};
    for (int i = 0; i < run->n_in; i += group) {
        if (layout->scale_type == KVQ_SCALE_SUPER && i % KVQ_SUPER_INPUTS == 0)
            super = load_supers(&w, layout->has_min);
        V_UNROLL for (int k = 0; k < group / 4; k++, out += 64)
            v_store_b(out, unpacked_codes(load_codes(w, bits, k), zero));
        w += group * bits * 2;
        v_store((float *)out, load_scales(&w, layout->scale_type, super.d));
        out += sizeof(float) * V_LANES;
        if (!layout->has_min) continue;
        v_store((float *)out, load_scales(&w, layout->scale_type, super.dmin));
        out += sizeof(float) * V_LANES;
    }
}
