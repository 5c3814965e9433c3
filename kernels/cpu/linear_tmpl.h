/* linear_tmpl.h: a tile of weights times a panel of activations (matrix.h, linear.h). Included after a simd_*.h by
 * linear_generic.c, linear_avx2.c, linear_avx512.c, which say PANEL_ROWS, the rows of a full panel; called through
 * linear.c. UNPACK_PANELS, if defined, says for how many panels or more tiles are unpacked once.
 *
 * Lanes are the tile's 16 outputs. Per group and row: the integer dot product of 4 inputs of 16 outputs is one
 * instruction on AVX-512 VNNI, eight for a group of 32, and the group costs four more (the zero's share, to float,
 * times both scales, into the accumulator; five with a minimum). So the limit is 8 / 12 of the machine's dot products;
 * what is reached is printed by check_kernels --bench --test=linear, and for one row the share of the memory's
 * bandwidth, which is the limit there: every byte of the weights is read once. */
#include "linear_rows_tmpl.h"
#include "linear_tile_tmpl.h"

/* Bytes ahead that a tile is asked for. On Zen 5, one thread, 8-bit weights: 42 GB/s; with 2048 27, with 1024 27,
 * without any 34 (check_kernels --bench --test=linear, processor time). Float weights, four tiles at once, are read
 * best without. */
#define PREFETCH_BYTES 4096

/* ---- activations into panels ---- */

/* The two 16-bit halves of a pair. */
V_INLINE int low_of(int32_t pair) {
    return (int16_t)pair;
}
V_INLINE int high_of(int32_t pair) {
    return (int16_t)(pair >> 16);
}
V_INLINE int32_t add_pairs(int32_t a, int32_t b) {
    return (int32_t)((uint32_t)(uint16_t)(low_of(a) + low_of(b)) | (uint32_t)(high_of(a) + high_of(b)) << 16);
}

/* Inputs ahead that a row is asked for: with as many rows at a time as a panel has the hardware does not do it. A tenth
 * of the time (512 rows, Emerald Rapids). */
#define AHEAD (4 * KVQ_ACT_GROUP)

static void quantize(const float *in, int n_in, int n_rows, void *panel) {
    uint8_t *at = panel;
    for (int i = 0; i < n_in; i += KVQ_ACT_GROUP, at += n_rows * KVQ_PANEL_GROUP_BYTES) {
        float *scale = (float *)(at + n_rows * KVQ_PANEL_SCALE), *d_sums = (float *)(at + n_rows * KVQ_PANEL_D_SUMS);
        int16_t *sums = (int16_t *)(at + n_rows * KVQ_PANEL_SUMS);
        for (int r = 0; r < n_rows; r++) {
            v16i codes[2];
            const float *x = in + (size_t)r * n_in + i;
            v_prefetch(x + AHEAD);
            v_prefetch(x + AHEAD + V_LANES);
            const float d = quantize_group(x, (int8_t *)at + r * KVQ_ACT_GROUP, codes);
            scale[r] = d;
            const int32_t first = v_hsum_pairs(codes[0]), second = v_hsum_pairs(codes[1]);
            const int32_t pairs[3] = {add_pairs(first, second), first, second};
            V_UNROLL for (int part = 0; part < 3; part++) {
                memcpy(&sums[2 * (part * n_rows + r)], &pairs[part], sizeof pairs[part]);
                d_sums[part * n_rows + r] = d * (float)(low_of(pairs[part]) + high_of(pairs[part]));
            }
        }
    }
}

/* ---- coded weights ---- */

/* `factor` for both halves of a pair of sums. */
V_INLINE v16i both_halves(int factor) {
    return v_set1_i((int32_t)((uint32_t)(uint16_t)factor * 0x10001));
}

V_INLINE v16i pair_of(const uint8_t *sums) {
    int32_t pair;
    memcpy(&pair, sums, sizeof pair);
    return v_set1_i(pair);
}

/* dot[r] of a group at w times rows q, of codes of at most 6 bits. Sums may be kept in narrow lanes, which hold a group
 * whose codes have their zero taken away; codes of 5 bits without a zero are given one, and its share back. `pairs` are
 * the rows' sums of these inputs. */
V_INLINE void narrow_dots(v16i *dot, const uint8_t *w, const int stored, const int bits, const int group,
                          const bool has_zero, int zero, const uint8_t *q, const uint8_t *pairs, const int R) {
    const int half_sum = group / 2 * 127, middle = 1 << (bits - 1);
    _Static_assert(16 * 16 * 127 <= V_SUM_MAX && 8 * 32 * 127 <= V_SUM_MAX, "groups of 5 and 6 bits fit");
    const bool lifted = !has_zero && half_sum * (2 * middle - 1) > V_SUM_MAX;
    const v16i minus = both_halves(lifted ? -middle : -zero), back = both_halves(middle);
    v16s sum[PANEL_ROWS];
    V_UNROLL for (int r = 0; r < R; r++) sum[r] =
        has_zero || lifted ? v_sum_begin(pair_of(pairs + 4 * r), minus) : v_sum_zero();
    V_UNROLL for (int k = 0; k < group / 4; k++) {
        v64b codes = load_codes(w, stored, k);
        V_UNROLL for (int r = 0; r < R; r++) sum[r] = v_sum_dot(sum[r], codes, v_splat4(q + r * KVQ_ACT_GROUP + 4 * k));
    }
    V_UNROLL for (int r = 0; r < R; r++) {
        dot[r] = v_sum_end(sum[r]);
        if (lifted) dot[r] = v_dot_pair(dot[r], pair_of(pairs + 4 * r), back);
    }
}

/* The same for codes of 8 bits, whose zero is what the instruction set's bias leaves of it. */
V_INLINE void wide_dots(v16i *dot, const uint8_t *w, const int group, const bool has_zero, int zero, const uint8_t *q,
                        const uint8_t *pairs, const int R) {
    const v16i minus = both_halves(-zero);
    V_UNROLL for (int r = 0; r < R; r++) {
        dot[r] = v_zero_i();
        if (has_zero) dot[r] = v_dot_pair(dot[r], pair_of(pairs + 4 * r), minus);
    }
    V_UNROLL for (int k = 0; k < group / 4; k++) {
        v64b codes = v_load_b(w + 64 * k);
        V_UNROLL for (int r = 0; r < R; r++) dot[r] =
            v_dot_wide(dot[r], codes, v_splat4(q + r * KVQ_ACT_GROUP + 4 * k));
    }
}

/* One tile at w times R rows. What is const here is known to the compiler, which leaves straight code per group. The
 * tile is as the layout says, or as unpack_tile left it. */
V_INLINE void coded_tile(const kvq_linear_run *run, int tile, const uint8_t *w, const bool is_unpacked, const int bits,
                         const int group, const bool has_zero, const int R) {
    const kvq_layout *layout = &run->part->layout;
    const bool has_min = layout->has_min;
    const int stored = is_unpacked ? 8 : bits;
    const kvq_scale_type scale_type = is_unpacked ? KVQ_SCALE_F32 : layout->scale_type;
    const int zero = layout->zero - (bits == 8 ? V_WIDE_BIAS : 0);
    const int n_lines = group * stored / 32; /* cache lines of codes */
    const uint8_t *panel = run->panel;
    supers super = {v_zero(), v_zero()};
    v16f acc[PANEL_ROWS];
    V_UNROLL for (int r = 0; r < R; r++) acc[r] = v_zero();

    for (int i = 0; i < run->n_in; i += KVQ_ACT_GROUP, panel += R * KVQ_PANEL_GROUP_BYTES) {
        const float *d = (const float *)(panel + R * KVQ_PANEL_SCALE);
        if (scale_type == KVQ_SCALE_SUPER && i % KVQ_SUPER_INPUTS == 0) super = load_supers(&w, has_min);
        V_UNROLL for (int half = 0; half < KVQ_ACT_GROUP / group; half++) {
            const int part = group == KVQ_ACT_GROUP ? 0 : 1 + half; /* of the panel's sums */
            const uint8_t *q = panel + half * 16, *pairs = panel + R * (KVQ_PANEL_SUMS + 4 * part);
            const float *d_sums = (const float *)(panel + R * (KVQ_PANEL_D_SUMS + 4 * part));
            v16i dot[PANEL_ROWS];
            if (bits == 8)
                wide_dots(dot, w, group, has_zero, zero, q, pairs, R);
            else
                narrow_dots(dot, w, stored, bits, group, has_zero, zero, q, pairs, R);
            V_UNROLL for (int line = 0; line < n_lines && !is_unpacked; line++)
                v_prefetch(w + PREFETCH_BYTES + 64 * line);
            w += 64 * n_lines;
            v16f scale = load_scales(&w, scale_type, super.d);
            V_UNROLL for (int r = 0; r < R; r++) acc[r] = v_fma(v_float(dot[r]), v_mul(scale, v_set1(d[r])), acc[r]);
            if (!has_min) continue;
            v16f min = load_scales(&w, scale_type, super.dmin);
            V_UNROLL for (int r = 0; r < R; r++) acc[r] = v_fma(min, v_set1(d_sums[r]), acc[r]);
        }
    }
    V_UNROLL for (int r = 0; r < R; r++) store(run, tile, r, acc[r]);
}

#ifdef UNPACK_PANELS
/* A tile's codes as bytes, its scales and minimums as floats, for all panels to read. */
V_INLINE void unpack_tile(const kvq_linear_run *run, uint8_t *out, const int bits, const int group) {
    const kvq_layout *layout = &run->part->layout;
    const uint8_t *w = run->part->data + (size_t)run->tile_begin * run->part->tile_bytes;
    supers super = {v_zero(), v_zero()};
    for (int i = 0; i < run->n_in; i += group) {
        if (layout->scale_type == KVQ_SCALE_SUPER && i % KVQ_SUPER_INPUTS == 0)
            super = load_supers(&w, layout->has_min);
        V_UNROLL for (int k = 0; k < group / 4; k++, out += 64) v_store_b(out, load_codes(w, bits, k));
        w += group * bits * 2;
        v_store((float *)out, load_scales(&w, layout->scale_type, super.d));
        out += sizeof(float) * V_LANES;
        if (!layout->has_min) continue;
        v_store((float *)out, load_scales(&w, layout->scale_type, super.dmin));
        out += sizeof(float) * V_LANES;
    }
}
#endif

/* A kernel per kind of layout and number of rows, and the table that picks one. Codes of 8 bits have zero 128 (only
 * they exceed 127, which v_dot_wide is for), which an instruction set's bias may be already. */
#define CODED_KERNEL(R, name, is_unpacked, bits, group, has_zero)                   \
    static void name##_##R(const kvq_linear_run *run, int tile, const uint8_t *w) { \
        coded_tile(run, tile, w, is_unpacked, bits, group, has_zero, R);            \
    }
typedef void coded_kernel(const kvq_linear_run *run, int tile, const uint8_t *w);
typedef void unpack_kernel(const kvq_linear_run *run, uint8_t *tile);

#ifdef UNPACK_PANELS
#define CODED_KIND(name, bits, group, has_zero)                           \
    PANEL_MAP(CODED_KERNEL, name, false, bits, group, has_zero)           \
    PANEL_MAP(CODED_KERNEL, name##_unpacked, true, bits, group, has_zero) \
    static void name##_unpack(const kvq_linear_run *run, uint8_t *tile) { \
        unpack_tile(run, tile, bits, group);                              \
    }
#define CODED_ENTRIES(name) {PANEL_MAP(KERNEL_ENTRY, name)}, {PANEL_MAP(KERNEL_ENTRY, name##_unpacked)}, name##_unpack
#else
#define CODED_KIND(name, bits, group, has_zero) PANEL_MAP(CODED_KERNEL, name, false, bits, group, has_zero)
#define CODED_ENTRIES(name) {PANEL_MAP(KERNEL_ENTRY, name)}, {NULL}, NULL
#endif

CODED_KIND(coded4_32, 4, 32, false)
CODED_KIND(coded4_32_zero, 4, 32, true)
CODED_KIND(coded4_16, 4, 16, false)
CODED_KIND(coded4_16_zero, 4, 16, true)
CODED_KIND(coded5_32, 5, 32, false)
CODED_KIND(coded5_32_zero, 5, 32, true)
CODED_KIND(coded6_16_zero, 6, 16, true)
CODED_KIND(coded8_32_zero, 8, 32, V_WIDE_BIAS == 0)

/* clang-format off */
static const struct coded_kind {
    int bits, group;
    bool has_zero;
    coded_kernel *rows[PANEL_ROWS], *unpacked_rows[PANEL_ROWS];
    unpack_kernel *unpack;
} coded_kinds[] = {
    {4, 32, false, CODED_ENTRIES(coded4_32)},
    {4, 32, true,  CODED_ENTRIES(coded4_32_zero)},
    {4, 16, false, CODED_ENTRIES(coded4_16)},
    {4, 16, true,  CODED_ENTRIES(coded4_16_zero)},
    {5, 32, false, CODED_ENTRIES(coded5_32)},
    {5, 32, true,  CODED_ENTRIES(coded5_32_zero)},
    {6, 16, true,  CODED_ENTRIES(coded6_16_zero)},
    {8, 32, true,  CODED_ENTRIES(coded8_32_zero)},
};
/* clang-format on */

static const struct coded_kind *kind_of(const kvq_layout *layout) {
    const struct coded_kind *kind = coded_kinds;
    while (kind->bits != layout->bits || kind->group != layout->group || kind->has_zero != (layout->zero != 0)) kind++;
    return kind;
}

static void coded(const kvq_linear_run *run) {
    coded_kernel *kernel = kind_of(&run->part->layout)->rows[run->n_rows - 1];
    const uint8_t *w = run->part->data + (size_t)run->tile_begin * run->part->tile_bytes;
    for (int t = 0; t < run->n_tiles; t++, w += run->part->tile_bytes) kernel(run, run->tile_begin + t, w);
}

#ifdef UNPACK_PANELS
static void unpack(const kvq_linear_run *run, uint8_t *tile) {
    kind_of(&run->part->layout)->unpack(run, tile);
}

static void unpacked(const kvq_linear_run *run, const uint8_t *tile) {
    kind_of(&run->part->layout)->unpacked_rows[run->n_rows - 1](run, run->tile_begin, tile);
}
#endif

/* ---- float weights ---- */

V_INLINE v16f load_weights(const uint8_t *w, const kvq_format kind) {
    if (kind == KVQ_FORMAT_F32) return v_load((const float *)w);
    return kind == KVQ_FORMAT_F16 ? v_load_half((const uint16_t *)w) : v_load_bfloat((const uint16_t *)w);
}

V_INLINE void float_tiles(const kvq_linear_run *run, int tile, const kvq_format kind, const int T, const int R) {
    const size_t step = V_LANES * (kind == KVQ_FORMAT_F32 ? 4 : 2), tile_bytes = run->part->tile_bytes;
    const uint8_t *w = run->part->data + (size_t)tile * tile_bytes;
    const float *x = run->panel;
    v16f acc[PANEL_ROWS > 4 ? PANEL_ROWS : 4];
    V_UNROLL for (int a = 0; a < T * R; a++) acc[a] = v_zero();
    for (int i = 0; i < run->n_in; i++, w += step, x += R) {
        V_UNROLL for (int t = 0; t < T; t++) {
            v16f weights = load_weights(w + (size_t)t * tile_bytes, kind);
            V_UNROLL for (int r = 0; r < R; r++) acc[t * R + r] = v_fma(weights, v_set1(x[r]), acc[t * R + r]);
        }
    }
    V_UNROLL for (int t = 0; t < T; t++) {
        V_UNROLL for (int r = 0; r < R; r++) store(run, tile + t, r, acc[t * R + r]);
    }
}

const kvq_linear_kernels V_NAME(kvq_linear_kernels) = {.panel_rows = PANEL_ROWS,
                                                       .quantize = quantize,
                                                       .transpose = transpose,
                                                       .coded = coded,
#ifdef UNPACK_PANELS
                                                       .unpack_panels = UNPACK_PANELS,
                                                       .unpack = unpack,
                                                       .unpacked = unpacked,
#endif
                                                       .floats = floats};
