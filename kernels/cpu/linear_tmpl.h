/* linear_tmpl.h: a tile of weights times a panel of activations (matrix.h, linear.h). Included after a simd_*.h by
 * linear_generic.c, linear_avx2.c, linear_avx512.c, which say PANEL_ROWS, the rows of a full panel; called through
 * linear.c.
 *
 * Lanes are the tile's 16 outputs. Per group and row: the integer dot product of 4 inputs of 16 outputs is one
 * instruction on AVX-512 VNNI, eight for a group of 32, and the group costs four more (the zero's share, to float,
 * times both scales, into the accumulator; five with a minimum). So the limit is 8 / 12 of the machine's dot products;
 * what is reached is printed by check_kernels --bench --test=linear, and for one row the share of the memory's
 * bandwidth, which is the limit there: every byte of the weights is read once. */
#include <math.h>

#include "linear.h"

/* X(1, ..) to X(PANEL_ROWS, ..) */
#define PANEL_MAP(X, ...) V_JOIN(PANEL_MAP, PANEL_ROWS)(X, __VA_ARGS__)
/* clang-format off */
#define PANEL_MAP_2(X, ...) X(1, __VA_ARGS__) X(2, __VA_ARGS__)
#define PANEL_MAP_4(X, ...) PANEL_MAP_2(X, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__)
#define PANEL_MAP_12(X, ...) PANEL_MAP_4(X, __VA_ARGS__) \
    X(5, __VA_ARGS__) X(6, __VA_ARGS__) X(7, __VA_ARGS__) X(8, __VA_ARGS__) \
    X(9, __VA_ARGS__) X(10, __VA_ARGS__) X(11, __VA_ARGS__) X(12, __VA_ARGS__)
/* clang-format on */

/* Bytes ahead that a tile is asked for. On Zen 5, one thread, 8-bit weights: 42 GB/s; with 2048 27, with 1024 27,
 * without any 34 (check_kernels --bench --test=linear, processor time). Float weights, four tiles at once, are read
 * best without. */
#define PREFETCH_BYTES 4096

/* ---- activations into panels ---- */

/* One group of one row: codes, and d, S as matrix.h says. The maximum is taken over the bits of |x|, whose order is
 * that of the floats with NaN and infinity above all of them. */
V_INLINE void quantize_group(const float *x, int8_t *q, float *ret_d, int32_t sums[2]) {
    v16f a = v_load(x), b = v_load(x + V_LANES);
    int32_t bits = v_hmax_i(v_max_i(v_bits(v_abs(a)), v_bits(v_abs(b))));
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    bool finite = bits < 0x7F800000;
    if (!finite || largest < KVQ_ACT_TINY) {
        *ret_d = finite ? 0.0f : (float)NAN;
        sums[0] = sums[1] = 0;
        memset(q, 0, KVQ_ACT_GROUP);
        return;
    }
    *ret_d = largest / 127.0f;
    v16f inverse = v_set1(1.0f / *ret_d);
    v16i qa = v_rint(v_mul(a, inverse)), qb = v_rint(v_mul(b, inverse));
    v_store_low_b(q, qa);
    v_store_low_b(q + V_LANES, qb);
    sums[0] = v_hsum_i(qa);
    sums[1] = v_hsum_i(qb);
}

static void quantize(const float *in, int n_in, int n_rows, void *panel) {
    uint8_t *at = panel;
    for (int i = 0; i < n_in; i += KVQ_ACT_GROUP, at += n_rows * KVQ_PANEL_GROUP_BYTES) {
        float *scale = (float *)(at + n_rows * KVQ_PANEL_SCALE), *d_sums = (float *)(at + n_rows * KVQ_PANEL_D_SUMS);
        int16_t *pair = (int16_t *)(at + n_rows * KVQ_PANEL_SUMS);
        for (int r = 0; r < n_rows; r++) {
            int32_t sums[2];
            quantize_group(in + (size_t)r * n_in + i, (int8_t *)at + r * KVQ_ACT_GROUP, &scale[r], sums);
            pair[2 * r] = (int16_t)sums[0];
            pair[2 * r + 1] = (int16_t)sums[1];
            d_sums[r] = scale[r] * (float)(sums[0] + sums[1]);
            d_sums[n_rows + r] = scale[r] * (float)sums[0];
            d_sums[2 * n_rows + r] = scale[r] * (float)sums[1];
        }
    }
}

static void transpose(const float *in, int n_in, int n_rows, void *panel) {
    float *out = panel;
    for (int r = 0; r < n_rows; r++)
        for (int i = 0; i < n_in; i++) out[(size_t)i * n_rows + r] = in[(size_t)r * n_in + i];
}

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

/* ---- coded weights ------------------------------------------------------------------------------------------------
 */

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

/* Both halves of a pair of sums times what the codes' zero takes away (and the instruction set's bias gives back).
 * `half` is 0 or 1 for groups of 16, else both halves count. */
V_INLINE v16i zero_pair(int zero, int group, int half) {
    uint32_t factor = (uint16_t)-zero;
    uint32_t low = group == 32 || half == 0 ? factor : 0, high = group == 32 || half == 1 ? factor : 0;
    return v_set1_i((int32_t)(low | high << 16));
}

V_INLINE v16i pair_of(const uint8_t *sums) {
    int32_t pair;
    memcpy(&pair, sums, sizeof pair);
    return v_set1_i(pair);
}

/* Codes of inputs 4 k .. 4 k + 3 of a group at w (matrix.h has the picture); k and bits are constants. */
V_INLINE v64b load_codes(const uint8_t *w, const int bits, const int k) {
    if (bits == 8) return v_load_b(w + 64 * k);
    v64b pair = v_load_b(w + (bits > 4 ? 64 : 0) + 64 * (k / 2));
    v64b nibbles = k % 2 ? v_high_b(pair) : v_low_b(pair);
    if (bits == 4) return nibbles;
    return v_or_b(nibbles, v_bits_to_4_b(v_load_b(w), k * (bits - 4), bits == 5 ? 0x10 : 0x30));
}

/* One tile times R rows. What is const here is known to the compiler, which leaves straight code per group. */
V_INLINE void coded_tile(const kvq_linear_run *run, int tile, const int bits, const int group, const bool has_zero,
                         const int R) {
    const kvq_layout *layout = &run->part->layout;
    const kvq_scale_type scale_type = layout->scale_type;
    const bool has_min = layout->has_min, wide = bits == 8;
    const int zero = layout->zero - (wide ? V_WIDE_BIAS : 0);
    const int halves = KVQ_ACT_GROUP / group, n_codes = group / 4,
              n_lines = group * bits / 32; /* cache lines of codes */
    const v16i zeros[2] = {zero_pair(zero, group, 0), zero_pair(zero, group, 1)};
    const uint8_t *w = run->part->data + (size_t)tile * run->part->tile_bytes, *panel = run->panel;
    supers super = {v_zero(), v_zero()};
    v16f acc[PANEL_ROWS];
    V_UNROLL for (int r = 0; r < R; r++) acc[r] = v_zero();

    for (int i = 0; i < run->n_in; i += KVQ_ACT_GROUP, panel += R * KVQ_PANEL_GROUP_BYTES) {
        const float *d = (const float *)(panel + R * KVQ_PANEL_SCALE);
        const float *d_sums = (const float *)(panel + R * KVQ_PANEL_D_SUMS) + (group == 16 ? R : 0);
        if (scale_type == KVQ_SCALE_SUPER && i % KVQ_SUPER_INPUTS == 0) super = load_supers(&w, has_min);
        V_UNROLL for (int half = 0; half < halves; half++, d_sums += R) {
            const uint8_t *q = panel + half * 16;
            v16i dot[PANEL_ROWS];
            V_UNROLL for (int r = 0; r < R; r++) {
                dot[r] = v_zero_i();
                if (has_zero) dot[r] = v_dot_pair(dot[r], pair_of(panel + R * KVQ_PANEL_SUMS + 4 * r), zeros[half]);
            }
            V_UNROLL for (int k = 0; k < n_codes; k++) {
                v64b codes = load_codes(w, bits, k);
                V_UNROLL for (int r = 0; r < R; r++) {
                    v64b four = v_splat4(q + r * KVQ_ACT_GROUP + 4 * k);
                    dot[r] = wide ? v_dot_wide(dot[r], codes, four) : v_dot_narrow(dot[r], codes, four);
                }
            }
            V_UNROLL for (int line = 0; line < n_lines; line++) v_prefetch(w + PREFETCH_BYTES + 64 * line);
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

/* A kernel per kind of layout and number of rows, and the table that picks one. Codes of 8 bits have zero 128 (only
 * they exceed 127, which v_dot_wide is for), which an instruction set's bias may be already. */
#define CODED_KERNEL(R, name, bits, group, has_zero)              \
    static void name##_##R(const kvq_linear_run *run, int tile) { \
        coded_tile(run, tile, bits, group, has_zero, R);          \
    }
PANEL_MAP(CODED_KERNEL, coded4_32, 4, 32, false)
PANEL_MAP(CODED_KERNEL, coded4_32_zero, 4, 32, true)
PANEL_MAP(CODED_KERNEL, coded4_16, 4, 16, false)
PANEL_MAP(CODED_KERNEL, coded4_16_zero, 4, 16, true)
PANEL_MAP(CODED_KERNEL, coded5_32, 5, 32, false)
PANEL_MAP(CODED_KERNEL, coded5_32_zero, 5, 32, true)
PANEL_MAP(CODED_KERNEL, coded6_16_zero, 6, 16, true)
PANEL_MAP(CODED_KERNEL, coded8_32_zero, 8, 32, V_WIDE_BIAS == 0)

typedef void tile_kernel(const kvq_linear_run *run, int tile);

#define KERNEL_ENTRY(R, name) name##_##R,

/* clang-format off */
static const struct coded_kind {
    int bits, group;
    bool has_zero;
    tile_kernel *rows[PANEL_ROWS];
} coded_kinds[] = {
    {4, 32, false, {PANEL_MAP(KERNEL_ENTRY, coded4_32)}},
    {4, 32, true,  {PANEL_MAP(KERNEL_ENTRY, coded4_32_zero)}},
    {4, 16, false, {PANEL_MAP(KERNEL_ENTRY, coded4_16)}},
    {4, 16, true,  {PANEL_MAP(KERNEL_ENTRY, coded4_16_zero)}},
    {5, 32, false, {PANEL_MAP(KERNEL_ENTRY, coded5_32)}},
    {5, 32, true,  {PANEL_MAP(KERNEL_ENTRY, coded5_32_zero)}},
    {6, 16, true,  {PANEL_MAP(KERNEL_ENTRY, coded6_16_zero)}},
    {8, 32, true,  {PANEL_MAP(KERNEL_ENTRY, coded8_32_zero)}},
};
/* clang-format on */

static void coded(const kvq_linear_run *run) {
    const kvq_layout *layout = &run->part->layout;
    const struct coded_kind *kind = coded_kinds;
    while (kind->bits != layout->bits || kind->group != layout->group || kind->has_zero != (layout->zero != 0)) kind++;
    tile_kernel *kernel = kind->rows[run->n_rows - 1];
    for (int t = 0; t < run->n_tiles; t++) kernel(run, run->tile_begin + t);
}

/* ---- float weights ---- */

V_INLINE v16f load_weights(const uint8_t *w, const kvq_format kind) {
    if (kind == KVQ_FORMAT_F32) return v_load((const float *)w);
    return kind == KVQ_FORMAT_F16 ? v_load_half((const uint16_t *)w) : v_load_bfloat((const uint16_t *)w);
}

/* T tiles times R rows: one row alone takes four tiles at once, because its chain of additions waits for itself. */
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

#define FLOAT_KERNEL(R, name, kind)                               \
    static void name##_##R(const kvq_linear_run *run, int tile) { \
        float_tiles(run, tile, kind, 1, R);                       \
    }
PANEL_MAP(FLOAT_KERNEL, f32, KVQ_FORMAT_F32)
PANEL_MAP(FLOAT_KERNEL, f16, KVQ_FORMAT_F16)
PANEL_MAP(FLOAT_KERNEL, bf16, KVQ_FORMAT_BF16)

#define FOUR_TILES(name, kind)                              \
    static void name(const kvq_linear_run *run, int tile) { \
        float_tiles(run, tile, kind, 4, 1);                 \
    }
FOUR_TILES(f32_four, KVQ_FORMAT_F32)
FOUR_TILES(f16_four, KVQ_FORMAT_F16)
FOUR_TILES(bf16_four, KVQ_FORMAT_BF16)

static const struct float_kind {
    kvq_format kind;
    tile_kernel *four; /* four tiles, one row */
    tile_kernel *rows[PANEL_ROWS];
} float_kinds[] = {
    {KVQ_FORMAT_F32, f32_four, {PANEL_MAP(KERNEL_ENTRY, f32)}},
    {KVQ_FORMAT_F16, f16_four, {PANEL_MAP(KERNEL_ENTRY, f16)}},
    {KVQ_FORMAT_BF16, bf16_four, {PANEL_MAP(KERNEL_ENTRY, bf16)}},
};

static void floats(const kvq_linear_run *run) {
    const struct float_kind *kind = float_kinds;
    while (kind->kind != run->part->layout.kind) kind++;
    int tile = run->tile_begin, end = run->tile_begin + run->n_tiles;
    for (; run->n_rows == 1 && tile + 4 <= end; tile += 4) kind->four(run, tile);
    for (; tile < end; tile++) kind->rows[run->n_rows - 1](run, tile);
}

static const kvq_linear_kernels kernels = {
    .panel_rows = PANEL_ROWS, .quantize = quantize, .transpose = transpose, .coded = coded, .floats = floats};

static void linear(kvq_stream *s, const kvq_linear *job) {
    kvq_cpu_linear(s, job, &kernels);
}

void V_NAME(kvq_linear_fill)(kvq_ops *ops) {
    ops->linear = linear;
}
