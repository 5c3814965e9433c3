/* linear_arm64_tmpl.h: `linear` for arm64 with dot products of bytes (ARMv8.2) or their matrix products too (ARMv8.6),
 * which V_MATRIX says; the place of linear_tmpl.h in linear_dotprod.c and linear_i8mm.c, which say PANEL_ROWS. Called
 * through linear.c.
 *
 * A tile is computed in *columns* of four outputs, a register. The codes of a group are unpacked once for all rows of
 * the panel, and activations are not spread over lanes: SDOT takes the four inputs of a row out of a register that
 * holds 16 of them. Up to four rows all columns are computed in one walk over the tile, whose weights come from memory
 * then; with more rows each column walks alone, since 32 registers hold an accumulator for each row, the codes of a
 * group, and the rest.
 *
 * SMMLA multiplies 2 outputs x 8 inputs by 8 inputs x 2 rows. So panels interleave the rows of a pair by 8 inputs, and
 * the codes of 8 inputs of an output are zipped together, once per panel. A pair's sums are [output 0 row 0, output 0
 * row 1, output 1 row 0, output 1 row 1]; the last of an odd number of rows is both rows of its pair. A single row has
 * nobody to share the zipping with and takes SDOT.
 *
 * The limit: per row, four outputs and group of 32, the vector units do 8 SDOT, begin the sum, turn it to float,
 * multiply scale and d, and add it to the accumulator: 12 operations, 13 with a minimum; with SMMLA 4 of 8. Cortex-A76
 * and A78 do two a cycle, SDOT among them, so 8/12 of the machine's dot products are the most that this arithmetic
 * lets one have, and 4/8 of its matrix products. What the code needs beyond that tests/bench/arm64_counts counts. */
#include "linear_rows_tmpl.h"

#ifdef V_MATRIX
#define PAIR 2 /* rows whose activations are interleaved */
#else
#define PAIR 1
#endif

#define COLUMN 4 /* outputs */
#define N_COLUMNS (KVQ_TILE_ROWS / COLUMN)

/* ---- activations into panels ----
 * R rows, for each group of 32 inputs in order; the fields of linear.h, with sums that need no adding up:
 *
 *   codes    int8  [R][32]   q; the rows of a pair in turns, 8 codes each
 *   scale    float [R]       d
 *   d S      float [3][R]    d * S of all 32 inputs, of 0-15, of 16-31
 *   sums     int16 [3][R]    S of the same; [R] more unused */
#define SCALE_AT KVQ_ACT_GROUP
#define D_SUMS_AT (SCALE_AT + 4)
#define SUMS_AT (D_SUMS_AT + 12)
#define GROUP_BYTES (SUMS_AT + 8)
_Static_assert(GROUP_BYTES <= KVQ_PANEL_GROUP_BYTES, "panels have room");

/* Whether row r of R has another beside it in its pair. */
#define IS_PAIRED(r, R) (PAIR == 2 && ((r) | 1) < (R))

static void quantize(const float *in, int n_in, int n_rows, bool halves, void *panel) {
    uint8_t *at = panel;
    for (int i = 0; i < n_in; i += KVQ_ACT_GROUP, at += n_rows * GROUP_BYTES) {
        float *d = (float *)(at + n_rows * SCALE_AT), *d_sums = (float *)(at + n_rows * D_SUMS_AT);
        int16_t *sums = (int16_t *)(at + n_rows * SUMS_AT);
        for (int r = 0; r < n_rows; r++) {
            int8_t q[KVQ_ACT_GROUP];
            v16i integers[2];
            d[r] = quantize_group(in + (size_t)r * n_in + i, q, integers);
            const int32_t half[2] = {v_hsum_i(integers[0]), v_hsum_i(integers[1])};
            const int32_t sum[3] = {half[0] + half[1], half[0], half[1]};
            for (int s = 0; s < (halves ? 3 : 1); s++) {
                d_sums[s * n_rows + r] = d[r] * (float)sum[s];
                sums[s * n_rows + r] = (int16_t)sum[s];
            }
            const bool paired = IS_PAIRED(r, n_rows);
            uint8_t *codes = at + (paired ? r / 2 * 64 + r % 2 * 8 : r * 32);
            for (int e = 0; e < 4; e++) memcpy(codes + e * (paired ? 16 : 8), q + 8 * e, 8);
        }
    }
}

/* ---- results ---- */

/* R rows of four outputs, of which the part may have fewer. A function of its own: once per tile, and large. */
static __attribute__((noinline)) void store(const kvq_linear_run *run, int output, const float32x4_t *acc, int R) {
    int left = run->part->n_rows - output;
    for (int r = 0; r < R; r++) {
        float32x4_t sum = acc[r];
        size_t at = (size_t)r * run->n_out + output;
        if (left >= COLUMN) {
            if (run->bias) sum = vaddq_f32(sum, vld1q_f32(run->bias + output));
            if (run->residual) sum = vaddq_f32(sum, vld1q_f32(run->residual + at));
            vst1q_f32(run->out + at, sum);
            continue;
        }
        for (int l = 0; l < left; l++) {
            float lane = ((const float *)&acc[r])[l];
            if (run->bias) lane += run->bias[output + l];
            if (run->residual) lane += run->residual[at + l];
            run->out[at + l] = lane;
        }
    }
}

/* ---- coded weights ---- */

/* Where a group of 16 or 32 inputs of a tile has what; `super`: the halves that its scales are factors of. */
typedef struct group_at {
    const uint8_t *codes, *scales, *mins, *super, *end;
} group_at;

V_INLINE int scales_bytes_of(kvq_scale_type type) {
    return KVQ_TILE_ROWS * (type == KVQ_SCALE_SUPER ? 1 : type == KVQ_SCALE_F16 ? 2 : 4);
}

/* The group behind `at`, which begins with input i; before the first one, `end` is where the tile begins. */
V_INLINE group_at next_group(group_at at, const kvq_layout kind, int i) {
    const int scales_bytes = scales_bytes_of(kind.scale_type);
    at.codes = at.end;
    if (kind.scale_type == KVQ_SCALE_SUPER && i % KVQ_SUPER_INPUTS == 0) {
        at.super = at.codes;
        at.codes += (kind.has_min ? 2 : 1) * 2 * KVQ_TILE_ROWS;
    }
    at.scales = at.codes + kind.group * kind.bits * 2;
    at.mins = at.scales + scales_bytes;
    at.end = at.mins + (kind.has_min ? scales_bytes : 0);
    return at;
}

/* What the scales and minimums of a column are factors of; for 256 inputs. */
typedef struct supers {
    float32x4_t d, dmin;
} supers;

V_INLINE float32x4_t load_halves(const uint8_t *at) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)at)));
}

/* Those of the group `at`, which begins with input i, if they are new. */
V_INLINE void load_supers(supers *super, group_at at, const kvq_layout kind, int i, int column) {
    if (kind.scale_type != KVQ_SCALE_SUPER || i % KVQ_SUPER_INPUTS != 0) return;
    const uint8_t *d = at.super + 2 * COLUMN * column;
    super->d = load_halves(d);
    if (kind.has_min) super->dmin = load_halves(d + 2 * KVQ_TILE_ROWS);
}

/* Four scales or minimums, those of a column, of 16 at `from`. */
V_INLINE float32x4_t load_scales(const uint8_t *from, float32x4_t super, kvq_scale_type type, int column) {
    const uint8_t *at = from + column * (scales_bytes_of(type) / N_COLUMNS);
    if (type == KVQ_SCALE_F32) return vld1q_f32((const float *)at);
    if (type == KVQ_SCALE_F16) return load_halves(at);
    int32_t four;
    memcpy(&four, at, sizeof four);
    int16x8_t factors = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
    return vmulq_f32(super, vcvtq_f32_s32(vmovl_s16(vget_low_s16(factors))));
}
V_INLINE float32x4_t scale_of(group_at at, supers super, const kvq_layout kind, int column) {
    return load_scales(at.scales, super.d, kind.scale_type, column);
}
V_INLINE float32x4_t min_of(group_at at, supers super, const kvq_layout kind, int column) {
    return load_scales(at.mins, super.dmin, kind.scale_type, column);
}

/* Codes of inputs 4 k .. 4 k + 3 of a group whose column begins at w (matrix.h has the picture), as signed bytes: those
 * of 8 bits less 128, which is their zero. bits and k are constants. */
V_INLINE int8x16_t load_codes(const uint8_t *w, const int bits, const int k) {
    if (bits == 8) return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w + 64 * k), vdupq_n_u8(0x80)));
    uint8x16_t pair = vld1q_u8(w + (bits > 4 ? 64 : 0) + 64 * (k / 2));
    uint8x16_t code = k % 2 ? vshrq_n_u8(pair, 4) : vandq_u8(pair, vdupq_n_u8(15));
    if (bits > 4) {
        const int from = k * (bits - 4);
        uint8x16_t high = vld1q_u8(w), mask = vdupq_n_u8(bits == 5 ? 0x10 : 0x30);
        high = from <= 4 ? high << (uint8_t)(4 - from) : high >> (uint8_t)(from - 4);
        code = vbslq_u8(mask, high, code);
    }
    return vreinterpretq_s8_u8(code);
}

/* What a column is multiplied with: a group of a panel, or half of one. */
typedef struct panel_part {
    const uint8_t *codes;
    const float *d, *d_sums;
    const int16_t *sums;
    int from; /* input that it begins with */
} panel_part;

V_INLINE panel_part part_of(const uint8_t *panel, const int group, const int from, const int R) {
    const int s = group == KVQ_ACT_GROUP ? 0 : 1 + from / group;
    return (panel_part){.codes = panel,
                        .d = (const float *)(panel + R * SCALE_AT),
                        .d_sums = (const float *)(panel + R * D_SUMS_AT) + s * R,
                        .sums = (const int16_t *)(panel + R * SUMS_AT) + s * R,
                        .from = from};
}

/* acc[r] += the products of a group of a column, n_codes registers, and row r. Rows go by four in step, as a sum waits
 * for itself, and a CPU that works in order with it. */
V_INLINE void add_rows(float32x4_t *acc, const int8x16_t *codes, const int n_codes, panel_part p, const bool has_zero,
                       int16x4_t minus_zero, float32x4_t scale, const int R) {
    V_UNROLL for (int r = 0; r < R; r += 2) {
        const int n = R - r < 2 ? R - r : 2;
        int32x4_t dot[2];
        int8x16_t x[2];
        V_UNROLL for (int j = 0; j < n; j++) dot[j] =
            has_zero ? vmull_n_s16(minus_zero, p.sums[r + j]) : vdupq_n_s32(0);
        V_UNROLL for (int k = 0; k < n_codes; k += 4) {
            V_UNROLL for (int j = 0; j < n; j++) x[j] =
                vld1q_s8((const int8_t *)p.codes + (r + j) * KVQ_ACT_GROUP + p.from + 4 * k);
            V_UNROLL for (int j = 0; j < n; j++) dot[j] = vdotq_laneq_s32(dot[j], codes[k], x[j], 0);
            V_UNROLL for (int j = 0; j < n; j++) dot[j] = vdotq_laneq_s32(dot[j], codes[k + 1], x[j], 1);
            V_UNROLL for (int j = 0; j < n; j++) dot[j] = vdotq_laneq_s32(dot[j], codes[k + 2], x[j], 2);
            V_UNROLL for (int j = 0; j < n; j++) dot[j] = vdotq_laneq_s32(dot[j], codes[k + 3], x[j], 3);
        }
        V_UNROLL for (int j = 0; j < n; j++) acc[r + j] =
            vfmaq_f32(acc[r + j], vcvtq_f32_s32(dot[j]), vmulq_n_f32(scale, p.d[r + j]));
    }
}

V_INLINE void add_mins(float32x4_t *acc, panel_part p, float32x4_t min, const int R) {
    V_UNROLL for (int r = 0; r < R; r++) acc[r] = vfmaq_n_f32(acc[r], min, p.d_sums[r]);
}

#ifdef V_MATRIX
/* Rows 2 i and 2 i + 1 of an array, or the last one alone, for the lanes of a pair's sums. */
V_INLINE float32x4_t pair_of_floats(const float *x, const int i, const int R) {
    if (!IS_PAIRED(2 * i, R)) return vdupq_n_f32(x[2 * i]);
    return vreinterpretq_f32_u64(vld1q_dup_u64((const uint64_t *)(const void *)(x + 2 * i)));
}
V_INLINE int16x4_t pair_of_sums(const int16_t *x, const int i, const int R) {
    if (!IS_PAIRED(2 * i, R)) return vdup_n_s16(x[2 * i]);
    return vreinterpret_s16_u32(vld1_dup_u32((const uint32_t *)(const void *)(x + 2 * i)));
}
/* Inputs 8 e .. 8 e + 7 of both. */
V_INLINE int8x16_t pair_of_codes(const uint8_t *codes, const int i, const int e, const int R) {
    if (IS_PAIRED(2 * i, R)) return vld1q_s8((const int8_t *)codes + 64 * i + 16 * e);
    return vreinterpretq_s8_u64(vld1q_dup_u64((const uint64_t *)(const void *)(codes + 64 * i + 8 * e)));
}
V_INLINE int8x16_t zip_low(int8x16_t a, int8x16_t b) {
    return vreinterpretq_s8_s32(vzip1q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}
V_INLINE int8x16_t zip_high(int8x16_t a, int8x16_t b) {
    return vreinterpretq_s8_s32(vzip2q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}

/* Codes of inputs 8 e .. 8 e + 7: outputs 0 and 1 to codes[2 e], 2 and 3 to codes[2 e + 1]. */
V_INLINE void zip_codes(int8x16_t *codes, const int n_codes) {
    V_UNROLL for (int k = 0; k < n_codes; k += 2) {
        int8x16_t low = zip_low(codes[k], codes[k + 1]), high = zip_high(codes[k], codes[k + 1]);
        codes[k] = low;
        codes[k + 1] = high;
    }
}

/* The same for pairs of rows and zipped codes: acc[2 i] has outputs 0 and 1, acc[2 i + 1] outputs 2 and 3. */
V_INLINE void add_pairs(float32x4_t *acc, const int8x16_t *codes, const int n_codes, panel_part p, const bool has_zero,
                        int16x4_t minus_zero, float32x4_t scale, const int R) {
    float32x4_t scale_low = vzip1q_f32(scale, scale), scale_high = vzip2q_f32(scale, scale);
    V_UNROLL for (int i = 0; 2 * i < R; i += 2) { /* two pairs in step */
        const int n = R - 2 * i <= 2 ? 1 : 2;
        int32x4_t low[2], high[2];
        V_UNROLL for (int j = 0; j < n; j++) low[j] = high[j] =
            has_zero ? vmull_s16(minus_zero, pair_of_sums(p.sums, i + j, R)) : vdupq_n_s32(0);
        V_UNROLL for (int e = 0; e < n_codes / 2; e++) {
            V_UNROLL for (int j = 0; j < n; j++) {
                int8x16_t x = pair_of_codes(p.codes, i + j, p.from / 8 + e, R);
                low[j] = vmmlaq_s32(low[j], codes[2 * e], x);
                high[j] = vmmlaq_s32(high[j], codes[2 * e + 1], x);
            }
        }
        V_UNROLL for (int j = 0; j < n; j++) {
            float32x4_t d = pair_of_floats(p.d, i + j, R), *sums = acc + 2 * (i + j);
            sums[0] = vfmaq_f32(sums[0], vcvtq_f32_s32(low[j]), vmulq_f32(scale_low, d));
            sums[1] = vfmaq_f32(sums[1], vcvtq_f32_s32(high[j]), vmulq_f32(scale_high, d));
        }
    }
}

V_INLINE void add_pair_mins(float32x4_t *acc, panel_part p, float32x4_t min, const int R) {
    float32x4_t min_low = vzip1q_f32(min, min), min_high = vzip2q_f32(min, min);
    V_UNROLL for (int i = 0; 2 * i < R; i++) {
        float32x4_t d_sum = pair_of_floats(p.d_sums, i, R);
        acc[2 * i] = vfmaq_f32(acc[2 * i], min_low, d_sum);
        acc[2 * i + 1] = vfmaq_f32(acc[2 * i + 1], min_high, d_sum);
    }
}

V_INLINE void unpair(float32x4_t *acc, const int R) {
    V_UNROLL for (int i = 0; 2 * i < R; i++) {
        float32x4_t low = acc[2 * i], high = acc[2 * i + 1];
        acc[2 * i] = vuzp1q_f32(low, high);
        acc[2 * i + 1] = vuzp2q_f32(low, high);
    }
}
#else /* never called */
#define add_pairs add_rows
#define add_pair_mins add_mins
V_INLINE void zip_codes(int8x16_t *codes, const int n_codes) {
    (void)codes;
    (void)n_codes;
}
V_INLINE void unpair(float32x4_t *acc, const int R) {
    (void)acc;
    (void)R;
}
#endif

/* acc[c][..], of C columns from the first on, to the outputs. */
V_INLINE void store_columns(const kvq_linear_run *run, int tile, int first, float32x4_t (*acc)[PANEL_ROWS + 1],
                            const bool pairs, const int C, const int R) {
    V_UNROLL for (int c = 0; c < C; c++) {
        float32x4_t sums[PANEL_ROWS + 1]; /* a copy: what `store` sees the place of stays in no register */
        if (pairs) unpair(acc[c], R);
        V_UNROLL for (int r = 0; r < R; r++) sums[r] = acc[c][r];
        store(run, tile * KVQ_TILE_ROWS + (first + c) * COLUMN, sums, R);
    }
}

/* C columns of a tile from the first on, times R rows. What is const here is known to the compiler, the kind of layout
 * too, and it leaves straight code per group. */
V_INLINE void coded_columns(const kvq_linear_run *run, int tile, int first, const kvq_layout kind, const int C,
                            const int R) {
    const int group = kind.group, n_codes = group / 4;
    const bool has_zero = kind.zero != 0 && kind.bits < 8, pairs = PAIR == 2 && R > 1;
    const int16x4_t minus_zero = vdup_n_s16((int16_t)-kind.zero);
    const uint8_t *panel = run->panel;
    group_at at = {.end = run->part->data + (size_t)tile * run->part->tile_bytes};
    supers super[N_COLUMNS] = {{vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}};
    float32x4_t acc[N_COLUMNS][PANEL_ROWS + 1];
    V_UNROLL for (int c = 0; c < C; c++) {
        V_UNROLL for (int r = 0; r <= R; r++) acc[c][r] = vdupq_n_f32(0.0f);
    }
    for (int i = 0; i < run->n_in; i += KVQ_ACT_GROUP, panel += R * GROUP_BYTES) {
        V_UNROLL for (int from = 0; from < KVQ_ACT_GROUP; from += group) {
            const panel_part p = part_of(panel, group, from, R);
            at = next_group(at, kind, i + from);
            V_UNROLL for (int c = 0; c < C; c++) {
                load_supers(&super[c], at, kind, i + from, first + c);
                int8x16_t codes[KVQ_ACT_GROUP / 4];
                V_UNROLL for (int k = 0; k < n_codes; k++) codes[k] =
                    load_codes(at.codes + 16 * (first + c), kind.bits, k);
                if (pairs) zip_codes(codes, n_codes);
                (pairs ? add_pairs : add_rows)(acc[c], codes, n_codes, p, has_zero, minus_zero,
                                               scale_of(at, super[c], kind, first + c), R);
                if (kind.has_min)
                    (pairs ? add_pair_mins : add_mins)(acc[c], p, min_of(at, super[c], kind, first + c), R);
            }
        }
    }
    store_columns(run, tile, first, acc, pairs, C, R);
}

/* A tile unpacked is its columns one after the other, each for every group of 16 or 32 inputs: its codes as they are
 * multiplied, less their zero and zipped where rows come in pairs, four scales, four minimums if there are any. */
V_INLINE size_t unpacked_group_bytes(const int group, const bool has_min) {
    return group * COLUMN + (has_min ? 2 : 1) * COLUMN * sizeof(float);
}

V_INLINE void unpack_column(const kvq_linear_run *run, int column, const kvq_layout kind, uint8_t *out) {
    const int group = kind.group, n_codes = group / 4;
    const int8x16_t zero = vdupq_n_s8((int8_t)(kind.bits < 8 ? kind.zero : 0));
    supers super = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    group_at at = {.end = run->part->data + (size_t)run->tile_begin * run->part->tile_bytes};
    for (int i = 0; i < run->n_in; i += group, out += unpacked_group_bytes(group, kind.has_min)) {
        int8x16_t codes[KVQ_ACT_GROUP / 4];
        at = next_group(at, kind, i);
        load_supers(&super, at, kind, i, column);
        V_UNROLL for (int k = 0; k < n_codes; k++) codes[k] =
            vsubq_s8(load_codes(at.codes + 16 * column, kind.bits, k), zero);
        zip_codes(codes, n_codes);
        V_UNROLL for (int k = 0; k < n_codes; k++) vst1q_s8((int8_t *)out + 16 * k, codes[k]);
        float *scales = (float *)(out + group * COLUMN);
        vst1q_f32(scales, scale_of(at, super, kind, column));
        if (kind.has_min) vst1q_f32(scales + COLUMN, min_of(at, super, kind, column));
    }
}

V_INLINE void unpacked_column(const kvq_linear_run *run, int column, const uint8_t *at, const int group,
                              const bool has_min, const int R) {
    const int n_codes = group / 4;
    const bool pairs = PAIR == 2;
    const uint8_t *panel = run->panel;
    float32x4_t acc[1][PANEL_ROWS + 1];
    V_UNROLL for (int r = 0; r <= R; r++) acc[0][r] = vdupq_n_f32(0.0f);
    for (int i = 0; i < run->n_in; i += KVQ_ACT_GROUP, panel += R * GROUP_BYTES) {
        V_UNROLL for (int from = 0; from < KVQ_ACT_GROUP; from += group) {
            const panel_part p = part_of(panel, group, from, R);
            const float *scales = (const float *)(at + group * COLUMN);
            int8x16_t codes[KVQ_ACT_GROUP / 4];
            V_UNROLL for (int k = 0; k < n_codes; k++) codes[k] = vld1q_s8((const int8_t *)at + 16 * k);
            (pairs ? add_pairs : add_rows)(acc[0], codes, n_codes, p, false, vdup_n_s16(0), vld1q_f32(scales), R);
            if (has_min) (pairs ? add_pair_mins : add_mins)(acc[0], p, vld1q_f32(scales + COLUMN), R);
            at += unpacked_group_bytes(group, has_min);
        }
    }
    store_columns(run, run->tile_begin, column, acc, pairs, 1, R);
}

/* Columns of a walk, so that there is an accumulator for each of them and each row. */
#define COLUMNS_OF(R) ((R) <= 2 ? 4 : (R) <= 4 ? 2 : 1)

/* THE kinds of layout: X(name, bits, group, zero, has_min, scale type), for the formats in the comment. */
/* clang-format off */
#define CODED_KINDS(X)                                         \
    X(coded4_32_zero,      4, 32,   8, false, KVQ_SCALE_F16)   /* Q4_0 */           \
    X(coded4_32_min,       4, 32,   0, true,  KVQ_SCALE_F16)   /* Q4_1 */           \
    X(coded4_32_super,     4, 32,   0, true,  KVQ_SCALE_SUPER) /* Q4_K */           \
    X(coded4_16_super,     4, 16,   0, true,  KVQ_SCALE_SUPER) /* Q2_K */           \
    X(coded4_16_zero,      4, 16,   4, false, KVQ_SCALE_SUPER) /* Q3_K */           \
    X(coded5_32_zero,      5, 32,  16, false, KVQ_SCALE_F16)   /* Q5_0 */           \
    X(coded5_32_min,       5, 32,   0, true,  KVQ_SCALE_F16)   /* Q5_1 */           \
    X(coded5_32_super,     5, 32,   0, true,  KVQ_SCALE_SUPER) /* Q5_K */           \
    X(coded6_16_zero,      6, 16,  32, false, KVQ_SCALE_SUPER) /* Q6_K */           \
    X(coded8_32,           8, 32, 128, false, KVQ_SCALE_F16)   /* Q8_0, IQ4_NL */   \
    X(coded8_32_super,     8, 32, 128, false, KVQ_SCALE_SUPER) /* IQ4_XS */         \
    X(coded8_32_float,     8, 32, 128, false, KVQ_SCALE_F32)   /* MXFP4 */
/* clang-format on */

typedef void tile_kernel(const kvq_linear_run *run, int tile);

#define CODED_KERNEL(R, name, ...)                                                                              \
    static void name##_##R(const kvq_linear_run *run, int tile) {                                               \
        const kvq_layout kind = {KVQ_FORMAT_COUNT, __VA_ARGS__};                                                \
        for (int c = 0; c < N_COLUMNS; c += COLUMNS_OF(R)) coded_columns(run, tile, c, kind, COLUMNS_OF(R), R); \
    }
#define CODED_ROWS(...) PANEL_MAP(CODED_KERNEL, __VA_ARGS__)
CODED_KINDS(CODED_ROWS)

#define UNPACK(name, ...)                                                            \
    static void name##_unpack(const kvq_linear_run *run, int column, uint8_t *out) { \
        const kvq_layout kind = {KVQ_FORMAT_COUNT, __VA_ARGS__};                     \
        unpack_column(run, column, kind, out);                                       \
    }
CODED_KINDS(UNPACK)

#define UNPACKED_KERNEL(R, name, group, has_min)                                       \
    static void name##_##R(const kvq_linear_run *run, int column, const uint8_t *at) { \
        unpacked_column(run, column, at, group, has_min, R);                           \
    }
PANEL_MAP(UNPACKED_KERNEL, unpacked16, 16, false)
PANEL_MAP(UNPACKED_KERNEL, unpacked16_min, 16, true)
PANEL_MAP(UNPACKED_KERNEL, unpacked32, 32, false)
PANEL_MAP(UNPACKED_KERNEL, unpacked32_min, 32, true)

typedef void unpacked_kernel(const kvq_linear_run *run, int column, const uint8_t *at);
static unpacked_kernel *const unpacked_kernels[2][2][PANEL_ROWS] = {
    /* by group of 32, has_min, rows */
    {{PANEL_MAP(KERNEL_ENTRY, unpacked16)}, {PANEL_MAP(KERNEL_ENTRY, unpacked16_min)}},
    {{PANEL_MAP(KERNEL_ENTRY, unpacked32)}, {PANEL_MAP(KERNEL_ENTRY, unpacked32_min)}},
};

static const struct coded_kind {
    kvq_layout layout;
    void (*unpack)(const kvq_linear_run *run, int column, uint8_t *out);
    tile_kernel *rows[PANEL_ROWS];
} coded_kinds[] = {
#define KIND_ENTRY(name, ...) {{KVQ_FORMAT_COUNT, __VA_ARGS__}, name##_unpack, {PANEL_MAP(KERNEL_ENTRY, name)}},
    CODED_KINDS(KIND_ENTRY)};

static bool is_alike(const kvq_layout *a, const kvq_layout *b) {
    return a->bits == b->bits && a->group == b->group && a->zero == b->zero && a->has_min == b->has_min &&
           a->scale_type == b->scale_type;
}

/* Every format's layout is there: check_kernels runs them all. */
static const struct coded_kind *kind_of(const kvq_layout *layout) {
    const struct coded_kind *kind = coded_kinds;
    while (!is_alike(&kind->layout, layout)) kind++;
    return kind;
}

static void coded(const kvq_linear_run *run) {
    tile_kernel *kernel = kind_of(&run->part->layout)->rows[run->n_rows - 1];
    for (int t = 0; t < run->n_tiles; t++) kernel(run, run->tile_begin + t);
}

/* Of columns when a tile is unpacked. */
static size_t column_bytes(const kvq_linear_run *run) {
    const kvq_layout *layout = &run->part->layout;
    return run->n_in / layout->group * unpacked_group_bytes(layout->group, layout->has_min);
}

static void unpack(const kvq_linear_run *run, uint8_t *tile) {
    const struct coded_kind *kind = kind_of(&run->part->layout);
    for (int c = 0; c < N_COLUMNS; c++) kind->unpack(run, c, tile + c * column_bytes(run));
}

static void unpacked(const kvq_linear_run *run, const uint8_t *tile) {
    const kvq_layout *layout = &run->part->layout;
    unpacked_kernel *kernel = unpacked_kernels[layout->group == KVQ_ACT_GROUP][layout->has_min][run->n_rows - 1];
    for (int c = 0; c < N_COLUMNS; c++) kernel(run, c, tile + c * column_bytes(run));
}

/* ---- float weights ---- */

V_INLINE float32x4_t load_weights(const uint8_t *w, const kvq_format kind) {
    if (kind == KVQ_FORMAT_F32) return vld1q_f32((const float *)w);
    uint16x4_t half = vld1_u16((const uint16_t *)w);
    if (kind == KVQ_FORMAT_F16) return vcvt_f32_f16(vreinterpret_f16_u16(half));
    return vreinterpretq_f32_u32(vshll_n_u16(half, 16));
}

/* acc[r] += weights * x[r]. */
V_INLINE void add_products(float32x4_t *acc, float32x4_t weights, const float *x, const int R) {
    V_UNROLL for (int r = 0; r + 4 <= R; r += 4) {
        float32x4_t four = vld1q_f32(x + r);
        acc[r] = vfmaq_laneq_f32(acc[r], weights, four, 0);
        acc[r + 1] = vfmaq_laneq_f32(acc[r + 1], weights, four, 1);
        acc[r + 2] = vfmaq_laneq_f32(acc[r + 2], weights, four, 2);
        acc[r + 3] = vfmaq_laneq_f32(acc[r + 3], weights, four, 3);
    }
    V_UNROLL for (int r = R / 4 * 4; r < R; r++) acc[r] = vfmaq_n_f32(acc[r], weights, x[r]);
}

/* C columns times R rows. */
V_INLINE void float_columns(const kvq_linear_run *run, int tile, int first, const kvq_format kind, const int C,
                            const int R) {
    const size_t bytes = kind == KVQ_FORMAT_F32 ? 4 : 2;
    const uint8_t *w = run->part->data + (size_t)tile * run->part->tile_bytes + first * COLUMN * bytes;
    const float *x = run->panel;
    float32x4_t acc[N_COLUMNS][PANEL_ROWS + 1];
    V_UNROLL for (int c = 0; c < C; c++) {
        V_UNROLL for (int r = 0; r < R; r++) acc[c][r] = vdupq_n_f32(0.0f);
    }
    for (int i = 0; i < run->n_in; i++, x += R, w += KVQ_TILE_ROWS * bytes) {
        V_UNROLL for (int c = 0; c < C; c++) add_products(acc[c], load_weights(w + c * COLUMN * bytes, kind), x, R);
    }
    store_columns(run, tile, first, acc, false, C, R);
}

/* T tiles times one row. */
V_INLINE void float_row(const kvq_linear_run *run, int tile, const kvq_format kind, const int T) {
    const size_t step = V_LANES * (kind == KVQ_FORMAT_F32 ? 4 : 2), tile_bytes = run->part->tile_bytes;
    const uint8_t *w = run->part->data + (size_t)tile * tile_bytes;
    const float *x = run->panel;
    v16f acc[4];
    V_UNROLL for (int t = 0; t < T; t++) acc[t] = v_zero();
    for (int i = 0; i < run->n_in; i++, w += step) {
        V_UNROLL for (int t = 0; t < T; t++) {
            const uint8_t *at = w + (size_t)t * tile_bytes;
            v16f weights = kind == KVQ_FORMAT_F32   ? v_load((const float *)at)
                           : kind == KVQ_FORMAT_F16 ? v_load_half((const uint16_t *)at)
                                                    : v_load_bfloat((const uint16_t *)at);
            acc[t] = v_fma(weights, v_set1(x[i]), acc[t]);
        }
    }
    V_UNROLL for (int t = 0; t < T; t++) {
        float32x4_t columns[N_COLUMNS] = {acc[t].a, acc[t].b, acc[t].c, acc[t].d};
        for (int c = 0; c < N_COLUMNS; c++) store(run, (tile + t) * KVQ_TILE_ROWS + c * COLUMN, columns + c, 1);
    }
}

V_INLINE void float_tiles(const kvq_linear_run *run, int tile, const kvq_format kind, const int T, const int R) {
    const int C = R <= 4 ? 4 : R <= 8 ? 2 : 1;
    if (R == 1) {
        float_row(run, tile, kind, T);
        return;
    }
    for (int c = 0; c < N_COLUMNS; c += C) float_columns(run, tile, c, kind, C, R);
}

const kvq_linear_kernels V_NAME(kvq_linear_kernels) = {.panel_rows = PANEL_ROWS,
                                                       .quantize = quantize,
                                                       .transpose = transpose,
                                                       .coded = coded,
                                                       .unpack_from = 1, /* always */
                                                       .unpack_rows = PANEL_ROWS,
                                                       .unpack_tiles = 1,
                                                       .unpack = unpack,
                                                       .unpacked = unpacked,
                                                       .floats = floats};
