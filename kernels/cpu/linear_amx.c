/* linear_amx.c: `linear` of many rows by AMX tiles, of weights in groups of 32; of few rows, of groups of 16 and of
 * float weights it is linear_avx512.c's. Filled in by ops.c; work is shared out by linear.c, which has each tile of
 * weights unpacked once for all panels.
 *
 * A group's integers, 16 rows times 16 outputs, are one TDPBSSD: A is the panel's codes as they lie there (a row is a
 * row's 32 inputs), B the group's 8 x 64 bytes of weights as they lie in the tile (matrix.h: word n of line k is inputs
 * 4k .. 4k + 3 of output n), their zero taken away. Each group has scales of its own and each output adds its groups in
 * one float chain, the same as everywhere, so a product ends after 32 of the 64 inputs that a tile could hold, and 16
 * vectors of integers go through memory into AVX-512.
 *
 * What that costs, by Intel's tables for Sapphire Rapids, in cycles per group of 16 x 16 x 32 products: TDPBSSD 16;
 * float work 16 x (convert, scale times d, multiply-add, with a minimum another one) on two ports, 24 or 32; loads 16 +
 * 8 for the tiles, 16 integers, 16 d, on two ports 28 (with a minimum 36); TILESTORED 16. So 28 to 36, where AVX-512
 * VNNI has 16 x (8 dots, 4 of the rest) on two ports, 96: a third, and never less, whatever AMX can do. Folding two
 * groups into one product needs one scale for both, BF16 tiles (whose products would be scaled before) round otherwise:
 * other tokens than on other machines. Two tiles of outputs a load of A would save 8 of the loads, and spill half the
 * accumulators.
 *
 * What a tile has stored is not at hand at once, so products run AHEAD groups before the floats. Measured
 * (docs/performance.md): 1.4 times AVX-512's products; with nothing ahead 1.2 times, with three groups no more. Groups
 * of 16, which leave three quarters of a tile empty, were slower than AVX-512's.
 *
 * Eight rows: unpacking costs some 14 cycles a group, the tiles still 16, AVX-512 48; at four it is even (counted). */
#include "simd_avx512.h"

#include "linear_tile_tmpl.h"
#include "ops.h"
#include "tiles.h"

#define TILE_ROWS 16 /* of a panel */
#define MIN_ROWS 8   /* linear.c's panels are as equal as they can be: of 8 rows and more, none has less than 8 */

/* A tile reads 16 rows of codes where a panel has fewer, too: what lies behind them, at the worst in the worker's
 * unpacked tile, which linear.c takes from the workspace after the panels. Its integers are not used. */
_Static_assert(TILE_ROWS *KVQ_ACT_GROUP - MIN_ROWS * KVQ_PANEL_GROUP_BYTES <= KVQ_UNPACKED_GROUP_BYTES, "room behind");

/* Two sets of tiles, used in turns: integers, A and B. */
static const kvq_tile_shapes shapes = {
    .palette = 1, .row_bytes = {64, 32, 64, 64, 32, 64}, .rows = {TILE_ROWS, TILE_ROWS, 8, TILE_ROWS, TILE_ROWS, 8}};

static void enter(void) {
    kvq_tiles_shape(&shapes);
}

static void leave(void) {
    kvq_tiles_release();
}

/* Per group: its codes less their zero as signed bytes, its scales and, if there are, its minimums as floats. */
V_INLINE void unpack_tile(const kvq_linear_run *run, uint8_t *out, const int bits) {
    const kvq_layout *layout = &run->part->layout;
    const uint8_t *w = run->part->data + (size_t)run->tile_begin * run->part->tile_bytes;
    const v64b zero = _mm512_set1_epi8((char)layout->zero); /* 128 of 8 bits: modulo 256 that is right too */
    supers super = {v_zero(), v_zero()};
    for (int i = 0; i < run->n_in; i += KVQ_ACT_GROUP) {
        if (layout->scale_type == KVQ_SCALE_SUPER && i % KVQ_SUPER_INPUTS == 0)
            super = load_supers(&w, layout->has_min);
        for (int k = 0; k < KVQ_ACT_GROUP / 4; k++, out += 64)
            _mm512_storeu_si512(out, _mm512_sub_epi8(load_codes(w, bits, k), zero));
        w += KVQ_ACT_GROUP * bits * 2;
        v_store((float *)out, load_scales(&w, layout->scale_type, super.d));
        out += sizeof(float) * V_LANES;
        if (!layout->has_min) continue;
        v_store((float *)out, load_scales(&w, layout->scale_type, super.dmin));
        out += sizeof(float) * V_LANES;
    }
}

static void unpack(const kvq_linear_run *run, uint8_t *tile) {
    switch (run->part->layout.bits) {
    case 4:
        unpack_tile(run, tile, 4);
        break;
    case 5:
        unpack_tile(run, tile, 5);
        break;
    default:
        unpack_tile(run, tile, 8);
        break;
    }
}

/* Groups that products are ahead of the floats, and integers kept for them: a power of two above it. */
#define AHEAD 2
#define KEPT 4

/* Integers of 16 rows at q and the group g at w, by one of the two sets of tiles. */
#define DOTS(dots, q, w, integers, a, b)    \
    do {                                    \
        KVQ_TILE_ZERO(integers);            \
        KVQ_TILE_LOAD(a, q, KVQ_ACT_GROUP); \
        KVQ_TILE_LOAD(b, w, 64);            \
        KVQ_TILE_DOT(integers, a, b);       \
        KVQ_TILE_STORE(integers, dots, 64); \
    } while (0)

V_INLINE void dots_of(int32_t *dots, const uint8_t *q, const uint8_t *w, int g) {
    if (g % 2)
        DOTS(dots, q, w, 0, 1, 2);
    else
        DOTS(dots, q, w, 3, 4, 5);
}

/* A tile, unpacked, times a panel of R rows: linear_tmpl.h's chain of floats. */
V_INLINE void tile_times_panel(const kvq_linear_run *run, const uint8_t *w, const bool has_min, const int R) {
    _Alignas(64) int32_t dots[KEPT][TILE_ROWS * V_LANES];
    const size_t panel_bytes = (size_t)R * KVQ_PANEL_GROUP_BYTES;
    const size_t w_bytes = (size_t)(KVQ_ACT_GROUP + (has_min ? 8 : 4)) * V_LANES;
    const int n_groups = run->n_in / KVQ_ACT_GROUP;
    const uint8_t *panel = run->panel;
    v16f acc[TILE_ROWS];
    V_UNROLL for (int r = 0; r < R; r++) acc[r] = v_zero();
    for (int g = -AHEAD; g < n_groups; g++) {
        const int next = g + AHEAD;
        if (next < n_groups)
            dots_of(dots[next % KEPT], panel + (size_t)next * panel_bytes, w + (size_t)next * w_bytes, next);
        if (g < 0) continue;
        const uint8_t *at = panel + (size_t)g * panel_bytes;
        const float *d = (const float *)(at + R * KVQ_PANEL_SCALE);
        const float *d_sums = (const float *)(at + R * KVQ_PANEL_D_SUMS);
        const float *scales = (const float *)(w + (size_t)g * w_bytes + (size_t)KVQ_ACT_GROUP * V_LANES);
        const v16f scale = v_load(scales);
        V_UNROLL for (int r = 0; r < R; r++) acc[r] =
            v_fma(v_float(v_load_i(dots[g % KEPT] + r * V_LANES)), v_mul(scale, v_set1(d[r])), acc[r]);
        if (!has_min) continue;
        const v16f min = v_load(scales + V_LANES);
        V_UNROLL for (int r = 0; r < R; r++) acc[r] = v_fma(min, v_set1(d_sums[r]), acc[r]);
    }
    V_UNROLL for (int r = 0; r < R; r++) store(run, run->tile_begin, r, acc[r]);
}

/* A function per number of rows, so that the accumulators are registers. */
typedef void panel_kernel(const kvq_linear_run *run, const uint8_t *tile);

#define ROWS_MAP(X, ...) \
    X(8, __VA_ARGS__)    \
    X(9, __VA_ARGS__)    \
    X(10, __VA_ARGS__)   \
    X(11, __VA_ARGS__) X(12, __VA_ARGS__) X(13, __VA_ARGS__) X(14, __VA_ARGS__) X(15, __VA_ARGS__) X(16, __VA_ARGS__)
#define KERNEL(R, name, has_min)                                             \
    static void name##_##R(const kvq_linear_run *run, const uint8_t *tile) { \
        tile_times_panel(run, tile, has_min, R);                             \
    }
#define ENTRY(R, name) name##_##R,
ROWS_MAP(KERNEL, panel, false)
ROWS_MAP(KERNEL, panel_min, true)

static panel_kernel *const panel_kernels[2][TILE_ROWS - MIN_ROWS + 1] = {{ROWS_MAP(ENTRY, panel)},
                                                                         {ROWS_MAP(ENTRY, panel_min)}};

static void unpacked(const kvq_linear_run *run, const uint8_t *tile) {
    panel_kernels[run->part->layout.has_min][run->n_rows - MIN_ROWS](run, tile);
}

static bool fits_tiles(const kvq_matrix *m) {
    for (int p = 0; p < m->n_parts; p++)
        if (m->parts[p].layout.bits == 0 || m->parts[p].layout.group != KVQ_ACT_GROUP) return false;
    return true;
}

static void linear(kvq_stream *s, const kvq_linear *job) {
    kvq_linear_kernels kernels = kvq_linear_kernels_avx512;
    if (job->n_rows >= MIN_ROWS && fits_tiles(job->w)) {
        kernels.unpack_from = MIN_ROWS;
        kernels.unpack_rows = TILE_ROWS;
        kernels.unpack_tiles = 1;
        kernels.unpack = unpack;
        kernels.unpacked = unpacked;
        kernels.enter = enter;
        kernels.leave = leave;
    }
    kvq_cpu_linear(s, job, &kernels);
}

void kvq_linear_fill_amx(kvq_ops *ops) {
    ops->linear = linear;
}
