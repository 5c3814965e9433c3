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
 * What that costs in cycles per group of 16 x 16 x 32 products, measured (docs/performance.md): TDPBSSD 16 and
 * TILESTORED 16, one after the other, since both need the tiles' unit; loads 16 + 8 for the tiles, 16 integers, 16 d,
 * on two ports 28 (with a minimum 36); float work 16 x (scale times d, multiply-add, with a minimum another one) on
 * one port, since the other's multiplier is the tiles' as long as they are in use, 32 or 48, and 16 x 2 additions that
 * any of the two ports takes. So at least 32 or 48; it is 56 or 67, where AVX-512 VNNI has 16 x (8 dots, 4 of the rest)
 * on two ports, 96. Folding two groups into one product needs one scale for both, BF16 tiles (whose products would be
 * scaled before) round otherwise: other tokens than on other machines. Two tiles of outputs a load of A would save 8 of
 * the loads, and spill half the accumulators.
 *
 * When another thread of the core is busy, the tiles' unit gives this one half of its time: then TDPBSSD and TILESTORED
 * take some 80 cycles, and AVX-512 is as fast. Groups of 16, which leave three quarters of a tile empty, were slower
 * than AVX-512's.
 *
 * Eight rows: unpacking costs some 14 cycles a group, the tiles still 32, AVX-512 48; at four it is even (counted). */
#include "simd_avx512.h"

#include "linear_tile_tmpl.h"
#include "ops.h"
#include "tiles.h"

#define TILE_ROWS 16 /* of a panel */
#define MIN_ROWS 8   /* linear.c's panels are as equal as they can be: of 8 rows and more, none has less than 8 */

/* A tile reads 16 rows of codes where a panel has fewer, too: what lies behind them, at the worst in the worker's
 * unpacked tile, which linear.c takes from the workspace after the panels. Its integers are not used. */
_Static_assert(TILE_ROWS *KVQ_ACT_GROUP - MIN_ROWS * KVQ_PANEL_GROUP_BYTES <= KVQ_UNPACKED_GROUP_BYTES, "room behind");

/* Used in turns: integers, 0 and 1; A and B, 2 and 3, 4 and 5. */
static const kvq_tile_shapes shapes = {
    .palette = 1, .row_bytes = {64, 64, 32, 64, 32, 64}, .rows = {TILE_ROWS, TILE_ROWS, TILE_ROWS, 8, TILE_ROWS, 8}};

static void enter(void) {
    kvq_tiles_shape(&shapes);
}

static void leave(void) {
    kvq_tiles_release();
}

/* Less their zero, as signed bytes; 128 of 8 bits: modulo 256 that is right too. */
V_INLINE v64b unpacked_codes(v64b codes, int zero) {
    return _mm512_sub_epi8(codes, _mm512_set1_epi8((char)zero));
}

static void unpack(const kvq_linear_run *run, uint8_t *tile) {
    switch (run->part->layout.bits) {
    case 4:
        unpack_tile(run, tile, 4, KVQ_ACT_GROUP);
        break;
    case 5:
        unpack_tile(run, tile, 5, KVQ_ACT_GROUP);
        break;
    default:
        unpack_tile(run, tile, 8, KVQ_ACT_GROUP);
        break;
    }
}

/* Group g's share of the pipeline of tile_times_panel, whose variables these are: the product of group g + 2, whose
 * tiles were loaded two steps before, the tiles of g + 4 in their place, the integers of g + 1 into memory. So no
 * instruction that is waiting for a tile stands in the way of the floats. */
#define RUN_AHEAD(own, other, a, b)                                                    \
    do {                                                                               \
        if (g >= -2 && g + 2 < n_groups) {                                             \
            KVQ_TILE_ZERO(own);                                                        \
            KVQ_TILE_DOT(own, a, b);                                                   \
        }                                                                              \
        if (g + 4 < n_groups) {                                                        \
            KVQ_TILE_LOAD(a, panel + (g + 4) * (ptrdiff_t)panel_bytes, KVQ_ACT_GROUP); \
            KVQ_TILE_LOAD(b, w + (g + 4) * (ptrdiff_t)w_bytes, 64);                    \
        }                                                                              \
        if (g >= -1 && g + 1 < n_groups) KVQ_TILE_STORE(other, dots[(g + 1) & 1], 64); \
    } while (0)

/* A group's integers as floats, exactly: 1.5 * 2^23 plus one has it in its last bits if it is less than 2^22 either
 * way, and 32 codes of 8 bits each side are less than 2^20. Two additions, which can go to the port whose multiplier
 * the tiles have, where a conversion cannot. */
V_INLINE v16f float_of(v16i integers) {
    const v16i magic = v_set1_i(0x4B400000);
    return v_sub(v_from_bits(v_add_i(magic, integers)), v_from_bits(magic));
}

/* A tile, unpacked, times a panel of R rows: linear_tmpl.h's chain of floats. */
V_INLINE void tile_times_panel(const kvq_linear_run *run, const uint8_t *w, const bool has_min, const int R) {
    _Alignas(64) int32_t dots[2][TILE_ROWS * V_LANES];
    const size_t panel_bytes = (size_t)R * KVQ_PANEL_GROUP_BYTES;
    const size_t w_bytes = (size_t)(KVQ_ACT_GROUP + (has_min ? 8 : 4)) * V_LANES;
    const int n_groups = run->n_in / KVQ_ACT_GROUP;
    const uint8_t *panel = run->panel;
    v16f acc[TILE_ROWS];
    V_UNROLL for (int r = 0; r < R; r++) acc[r] = v_zero();
    for (int g = -4; g < n_groups; g++) {
        if (g % 2 == 0)
            RUN_AHEAD(0, 1, 2, 3);
        else
            RUN_AHEAD(1, 0, 4, 5);
        if (g < 0) continue;
        const uint8_t *at = panel + (size_t)g * panel_bytes;
        const float *d = (const float *)(at + R * KVQ_PANEL_SCALE);
        const float *d_sums = (const float *)(at + R * KVQ_PANEL_D_SUMS);
        const float *scales = (const float *)(w + (size_t)g * w_bytes + (size_t)KVQ_ACT_GROUP * V_LANES);
        const v16f scale = v_load(scales);
        V_UNROLL for (int r = 0; r < R; r++) acc[r] =
            v_fma(float_of(v_load_i(dots[g & 1] + r * V_LANES)), v_mul(scale, v_set1(d[r])), acc[r]);
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
