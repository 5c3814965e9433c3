/* linear_tmpl.h: a tile of weights times a panel of activations (matrix.h, linear.h). Included after a simd_*.h by
 * linear_generic.c, linear_avx2.c, linear_avx512.c, which say PANEL_ROWS, the rows of a full panel; called through
 * linear.c. UNPACK_FROM, if defined, says from how many rows on tiles are unpacked once; then UNPACK_TILES of them are
 * multiplied by a panel of UNPACK_ROWS at a time.
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

/* Inputs ahead that a row is asked for: with as many rows at a time as a panel has the hardware does not do it. A tenth
 * of the time (512 rows, Emerald Rapids). */
#define AHEAD (4 * KVQ_ACT_GROUP)

/* What one group's row adds up to, part 0, 1 or 2 of a panel's sums. */
V_INLINE void store_sums(int16_t *sums, float *d_sums, int at, int32_t pair, float d) {
    memcpy(&sums[2 * at], &pair, sizeof pair);
    d_sums[at] = d * (float)(low_of(pair) + high_of(pair));
}

V_INLINE void quantize_rows(const float *in, int n_in, int n_rows, uint8_t *at, const bool halves) {
    for (int i = 0; i < n_in; i += KVQ_ACT_GROUP, at += n_rows * KVQ_PANEL_GROUP_BYTES) {
        float *scale = (float *)(at + n_rows * KVQ_PANEL_SCALE), *d_sums = (float *)(at + n_rows * KVQ_PANEL_D_SUMS);
        int16_t *sums = (int16_t *)(at + n_rows * KVQ_PANEL_SUMS);
        for (int r = 0; r < n_rows; r++) {
            v16i codes[2];
            const float *x = in + (size_t)r * n_in + i;
            v_prefetch(x + AHEAD);
            v_prefetch(x + AHEAD + V_LANES);
            const float d = scale[r] = quantize_group(x, (int8_t *)at + r * KVQ_ACT_GROUP, codes);
            store_sums(sums, d_sums, r, v_hsum_pairs(codes[0], codes[1]), d);
            if (!halves) continue;
            store_sums(sums, d_sums, n_rows + r, v_hsum_pairs(codes[0], v_zero_i()), d);
            store_sums(sums, d_sums, 2 * n_rows + r, v_hsum_pairs(codes[1], v_zero_i()), d);
        }
    }
}

static void quantize(const float *in, int n_in, int n_rows, bool halves, void *panel) {
    if (halves)
        quantize_rows(in, n_in, n_rows, panel, true);
    else
        quantize_rows(in, n_in, n_rows, panel, false);
}

/* ---- coded weights ---- */

#ifdef UNPACK_FROM
#define MOST_TILES UNPACK_TILES
_Static_assert(UNPACK_TILES <= KVQ_UNPACK_TILES_MOST, "the workspace has room for so many");
_Static_assert(UNPACK_TILES *UNPACK_ROWS <= PANEL_ROWS, "as many sums as a panel has rows");
#else
#define MOST_TILES 1
#endif
#define MOST_SUMS PANEL_ROWS

/* `factor` for both halves of a pair of sums. */
V_INLINE v16i both_halves(int factor) {
    return v_set1_i((int32_t)((uint32_t)(uint16_t)factor * 0x10001));
}

V_INLINE v16i pair_of(const uint8_t *sums) {
    int32_t pair;
    memcpy(&pair, sums, sizeof pair);
    return v_set1_i(pair);
}

/* dot[t * R + r] of a group of T tiles at w times R rows at q, of codes of at most 6 bits. Sums may be kept
 * in narrow lanes, which hold a group whose codes have their zero taken away; codes of 5 bits without a zero are given
 * one, and its share back. `pairs` are the rows' sums of these inputs. */
V_INLINE void narrow_dots(v16i *dot, const uint8_t *const *w, const int stored, const int bits, const int group,
                          const bool has_zero, int zero, const uint8_t *q, const uint8_t *pairs, const int T,
                          const int R) {
    const int half_sum = group / 2 * 127, middle = 1 << (bits - 1);
    _Static_assert(16 * 16 * 127 <= V_SUM_MAX && 8 * 32 * 127 <= V_SUM_MAX, "groups of 5 and 6 bits fit");
    const bool lifted = !has_zero && half_sum * (2 * middle - 1) > V_SUM_MAX;
    const v16i minus = both_halves(lifted ? -middle : -zero), back = both_halves(middle);
    v16s sum[MOST_SUMS];
    V_UNROLL for (int r = 0; r < R; r++) {
        const v16s begin = has_zero || lifted ? v_sum_begin(pair_of(pairs + 4 * r), minus) : v_sum_zero();
        V_UNROLL for (int t = 0; t < T; t++) sum[t * R + r] = begin;
    }
    V_UNROLL for (int k = 0; k < group / 4; k++) {
        v64b codes[MOST_TILES];
        V_UNROLL for (int t = 0; t < T; t++) codes[t] = load_codes(w[t], stored, k);
        V_UNROLL for (int r = 0; r < R; r++) {
            const v64b x = v_splat4(q + r * KVQ_ACT_GROUP + 4 * k);
            V_UNROLL for (int t = 0; t < T; t++) sum[t * R + r] = v_sum_dot(sum[t * R + r], codes[t], x);
        }
    }
    V_UNROLL for (int a = 0; a < T * R; a++) {
        dot[a] = v_sum_end(sum[a]);
        if (lifted) dot[a] = v_dot_pair(dot[a], pair_of(pairs + 4 * (a % R)), back);
    }
}

/* The same for codes of 8 bits, whose zero is what the instruction set's bias leaves of it. */
V_INLINE void wide_dots(v16i *dot, const uint8_t *const *w, const int group, const bool has_zero, int zero,
                        const uint8_t *q, const uint8_t *pairs, const int T, const int R) {
    const v16i minus = both_halves(-zero);
    V_UNROLL for (int r = 0; r < R; r++) {
        const v16i begin = has_zero ? v_dot_pair(v_zero_i(), pair_of(pairs + 4 * r), minus) : v_zero_i();
        V_UNROLL for (int t = 0; t < T; t++) dot[t * R + r] = begin;
    }
    V_UNROLL for (int k = 0; k < group / 4; k++) {
        v64b codes[MOST_TILES];
        V_UNROLL for (int t = 0; t < T; t++) codes[t] = v_load_b(w[t] + 64 * k);
        V_UNROLL for (int r = 0; r < R; r++) {
            const v64b x = v_splat4(q + r * KVQ_ACT_GROUP + 4 * k);
            V_UNROLL for (int t = 0; t < T; t++) dot[t * R + r] = v_dot_wide(dot[t * R + r], codes[t], x);
        }
    }
}

/* T tiles times a panel of R rows. What is const here is known to the compiler, which leaves straight code per group.
 * The tiles are one as the layout says, or as many as unpack_tile left. */
V_INLINE void coded_tiles(const kvq_linear_run *run, int tile, const uint8_t *const *tiles, const bool is_unpacked,
                          const int bits, const int group, const bool has_zero, const int T, const int R) {
    const kvq_layout *layout = &run->part->layout;
    const bool has_min = layout->has_min;
    const int stored = is_unpacked ? 8 : bits;
    const kvq_scale_type scale_type = is_unpacked ? KVQ_SCALE_F32 : layout->scale_type;
    const int zero = layout->zero - (bits == 8 ? V_WIDE_BIAS : 0);
    const int n_lines = group * stored / 32; /* cache lines of codes */
    const uint8_t *panel = run->panel, *w[MOST_TILES];
    supers super = {v_zero(), v_zero()};
    v16f acc[MOST_SUMS], scale[MOST_TILES];
    V_UNROLL for (int t = 0; t < T; t++) w[t] = tiles[t];
    V_UNROLL for (int a = 0; a < T * R; a++) acc[a] = v_zero();

    for (int i = 0; i < run->n_in; i += KVQ_ACT_GROUP, panel += R * KVQ_PANEL_GROUP_BYTES) {
        const float *d = (const float *)(panel + R * KVQ_PANEL_SCALE);
        if (scale_type == KVQ_SCALE_SUPER && i % KVQ_SUPER_INPUTS == 0) super = load_supers(&w[0], has_min);
        V_UNROLL for (int half = 0; half < KVQ_ACT_GROUP / group; half++) {
            const int part = group == KVQ_ACT_GROUP ? 0 : 1 + half; /* of the panel's sums */
            const uint8_t *q = panel + half * 16, *pairs = panel + R * (KVQ_PANEL_SUMS + 4 * part);
            const float *d_sums = (const float *)(panel + R * (KVQ_PANEL_D_SUMS + 4 * part));
            v16i dot[MOST_SUMS];
            if (bits == 8)
                wide_dots(dot, w, group, has_zero, zero, q, pairs, T, R);
            else
                narrow_dots(dot, w, stored, bits, group, has_zero, zero, q, pairs, T, R);
            V_UNROLL for (int line = 0; line < n_lines && !is_unpacked; line++)
                v_prefetch(w[0] + PREFETCH_BYTES + 64 * line);
            V_UNROLL for (int t = 0; t < T; t++) {
                w[t] += 64 * n_lines;
                scale[t] = load_scales(&w[t], scale_type, super.d);
            }
            V_UNROLL for (int a = 0; a < T * R; a++) acc[a] =
                v_fma(v_float(dot[a]), v_mul(scale[a / R], v_set1(d[a % R])), acc[a]);
            if (!has_min) continue;
            V_UNROLL for (int t = 0; t < T; t++) scale[t] = load_scales(&w[t], scale_type, super.dmin);
            V_UNROLL for (int a = 0; a < T * R; a++) acc[a] = v_fma(scale[a / R], v_set1(d_sums[a % R]), acc[a]);
        }
    }
    V_UNROLL for (int a = 0; a < T * R; a++) {
        if (T == 1 || a / R < run->n_tiles) store(run, tile + a / R, a % R, acc[a]);
    }
}

/* As they are: the share of their zero is in the sums. */
V_INLINE v64b unpacked_codes(v64b codes, int zero) {
    (void)zero;
    return codes;
}

/* A kernel per kind of layout and number of rows, and the table that picks one. Codes of 8 bits have zero 128 (only
 * they exceed 127, which v_dot_wide is for), which an instruction set's bias may be already. */
#define CODED_KERNEL(R, name, bits, group, has_zero)                                \
    static void name##_##R(const kvq_linear_run *run, int tile, const uint8_t *w) { \
        coded_tiles(run, tile, &w, false, bits, group, has_zero, 1, R);             \
    }
typedef void coded_kernel(const kvq_linear_run *run, int tile, const uint8_t *w);

#ifdef UNPACK_FROM
#define UNPACKED_MAP(X, ...) V_JOIN(PANEL_MAP, UNPACK_ROWS)(X, __VA_ARGS__)
#define UNPACKED_KERNEL(R, name, bits, group, has_zero)                                         \
    static void name##_##R(const kvq_linear_run *run, const uint8_t *const *tiles) {            \
        coded_tiles(run, run->tile_begin, tiles, true, bits, group, has_zero, UNPACK_TILES, R); \
    }
typedef void unpacked_kernel(const kvq_linear_run *run, const uint8_t *const *tiles);
typedef void unpack_kernel(const kvq_linear_run *run, uint8_t *tile);

#define CODED_KIND(name, bits, group, has_zero)                           \
    PANEL_MAP(CODED_KERNEL, name, bits, group, has_zero)                  \
    UNPACKED_MAP(UNPACKED_KERNEL, name##_unpacked, bits, group, has_zero) \
    static void name##_unpack(const kvq_linear_run *run, uint8_t *tile) { \
        unpack_tile(run, tile, bits, group);                              \
    }
#define CODED_ENTRIES(name) \
    {PANEL_MAP(KERNEL_ENTRY, name)}, {UNPACKED_MAP(KERNEL_ENTRY, name##_unpacked)}, name##_unpack
#else
#define CODED_KIND(name, bits, group, has_zero) PANEL_MAP(CODED_KERNEL, name, bits, group, has_zero)
#define CODED_ENTRIES(name) \
    { PANEL_MAP(KERNEL_ENTRY, name) }
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
    coded_kernel *rows[PANEL_ROWS];
#ifdef UNPACK_FROM
    unpacked_kernel *unpacked_rows[UNPACK_ROWS];
    unpack_kernel *unpack;
#endif
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

#ifdef UNPACK_FROM
static void unpack(const kvq_linear_run *run, uint8_t *tile) {
    kind_of(&run->part->layout)->unpack(run, tile);
}

/* A tile that has no second one is multiplied twice and stored once. */
static void unpacked(const kvq_linear_run *run, const uint8_t *tile) {
    const uint8_t *tiles[UNPACK_TILES];
    for (int t = 0; t < UNPACK_TILES; t++)
        tiles[t] = tile + (t < run->n_tiles ? (size_t)t * kvq_unpacked_bytes(run->n_in) : 0);
    kind_of(&run->part->layout)->unpacked_rows[run->n_rows - 1](run, tiles);
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
#ifdef UNPACK_FROM
                                                       .unpack_from = UNPACK_FROM,
                                                       .unpack_rows = UNPACK_ROWS,
                                                       .unpack_tiles = UNPACK_TILES,
                                                       .unpack = unpack,
                                                       .unpacked = unpacked,
#endif
                                                       .floats = floats};
