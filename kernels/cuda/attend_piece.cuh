/* attend_piece.cuh: attention of one tile to one piece of a page (64 tokens), by one warp on tensor cores, on the
 * codes. Used by attend.cu, which has the tiles, the splits and what becomes of a piece's result; the codes come from
 * page_queue.cuh.
 *
 * A lane is (g, q) = (lane / 4, lane % 4); it has rows g and g + 8 of the tile, a row being a query (one row of the
 * batch, one head). Kinds of tile:
 *   codes   8 or 16 queries: int8 queries times K's codes, then probability bytes times V's, m16n8k32, exact sums
 *   halves  8 queries, each in two halves whose sum it is to 22 bits: row g has the upper part, row g + 8 the lower;
 *           m16n8k16, and the two rows of a result are added. Probabilities likewise.
 * Where columns of B stand for tokens (K), fragment u of chunk c has tokens 32 c + 4 g + u (halves: 8 g + u). So C
 * gives a lane 8 tokens in a row, 32 c + 8 q ... (halves: 16, 16 q ...), which is the depth that its words of A have in
 * the product with V: a soft-max never leaves the four lanes of its row. */
#ifndef KVQ_CUDA_ATTEND_PIECE_CUH
#define KVQ_CUDA_ATTEND_PIECE_CUH

#include "page_queue.cuh"
#include "warp.cuh"

#define KVQ_LOG2_E 1.44269504f /* scores are kept in units of ln 2 */

typedef enum tile_kind { TILE_HALVES, TILE_CODES_8, TILE_CODES_16 } tile_kind;

template <tile_kind KIND> constexpr bool is_halves = KIND == TILE_HALVES;
template <tile_kind KIND> constexpr int rows_of_lane = KIND == TILE_CODES_16 ? 2 : 1;
template <tile_kind KIND> constexpr int rows_of_tile = 8 * rows_of_lane<KIND>;
#define OWN_TOKENS (KVQ_PIECE_TOKENS / 4) /* of a row, that a lane has */

/* What a piece did to a row: probabilities relative to 2^max, their sum, and values = scale * v + plus. Minus infinity
 * and zeros where it sees nothing of the piece. */
typedef struct piece_row {
    float max, sum, scale, plus;
} piece_row;
#define PIECE_FLOATS 4

/* A row's soft-max so far; every thread that has to do with the row has it. */
typedef struct row_state {
    float max, sum;
} row_state;

/* How a piece becomes part of it: acc * keep + plus + scale * v. */
typedef struct row_merge {
    float keep, scale, plus;
} row_merge;

static __device__ __forceinline__ row_merge merge_row(row_state *state, const piece_row &from) {
    float larger = fmaxf(state->max, from.max), base = larger == -INFINITY ? 0.0f : larger; /* no infinity less one */
    float add = kvq_exp2(from.max - base);
    const row_merge ret = {kvq_exp2(state->max - base), from.scale * add, from.plus * add};
    state->sum = fmaf(state->sum, ret.keep, from.sum * add);
    state->max = larger;
    return ret;
}

static __device__ __forceinline__ float4 merged(float4 acc, float4 v, const row_merge &m) {
    return float4{fmaf(m.scale, v.x, fmaf(acc.x, m.keep, m.plus)), fmaf(m.scale, v.y, fmaf(acc.y, m.keep, m.plus)),
                  fmaf(m.scale, v.z, fmaf(acc.z, m.keep, m.plus)), fmaf(m.scale, v.w, fmaf(acc.w, m.keep, m.plus))};
}

/* What a tile has of a block's shared memory. */
typedef struct shared {
    KVQ_SHARED_PTR(uint8_t) q;            /* [groups of 32 codes or 16 halves, 32 lanes, 4] words of A */
    KVQ_SHARED_PTR(float) q_scale;        /* [16] of the codes or halves, in units of the job's scale */
    KVQ_SHARED_PTR(float) q_up;           /* [16] the power of two that brings a query's floats to 2^14 */
    KVQ_SHARED_PTR(float) q_down;         /* [16] the job's scale over it */
    KVQ_SHARED_PTR(int) q_sum;            /* [16] of the codes */
    KVQ_SHARED_PTR(float) constants;      /* [4, rows, KVQ_SPLIT_PAGES]: parts of q . (k_mean + k_ref), times q_up */
    KVQ_SHARED_PTR(kvq_queue_half) pages; /* [KVQ_SPLIT_PAGES, K and V], the block's */
    KVQ_SHARED_PTR(float4) piece;         /* [warps, rows] piece_rows, of a tile that has several warps */
    KVQ_SHARED_PTR(float) v;              /* [warps, rows, head_dim + 4] sums of a piece, likewise */
    KVQ_SHARED_PTR(float) acc;            /* [rows, head_dim + 4] of the split */
    int warp;                             /* this one, of the tile's */
} shared;

/* What rows of a tile see of a piece. */
typedef struct piece_view {
    int page;               /* of the split */
    int last[2], before[2]; /* the lane's rows see tokens in (before, last] of the piece */
    int n_written;          /* tokens that any row may look at */
    bool masked;            /* some row does not see all of it */
    float plus[2];          /* what the page's constant adds to every score */
} piece_view;

template <tile_kind KIND> static __device__ __forceinline__ int token_of(int i) {
    int q = threadIdx.x % 4;
    return is_halves<KIND> ? 16 * q + i : i / 8 * 32 + 8 * q + i % 8;
}

static __device__ __forceinline__ float of_row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(KVQ_WARP, x, 2));
    return fmaxf(x, __shfl_xor_sync(KVQ_WARP, x, 1));
}
template <typename T> static __device__ __forceinline__ T of_row_sum(T x) {
    x += __shfl_xor_sync(KVQ_WARP, x, 2);
    return x + __shfl_xor_sync(KVQ_WARP, x, 1);
}

/* Eight halves of a lane's 16 bytes. */
static __device__ __forceinline__ void eight_halves(float *ret, uint4 x) {
    const uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int i = 0; i < 8; i++) ret[i] = i % 2 ? kvq_high_half_float(words[i / 2]) : kvq_low_half_float(words[i / 2]);
}

/* The four B fragments of a lane's 16 bytes at 4 bits, or of two lines of them at 8. */
template <int BITS> static __device__ __forceinline__ void fragment_of(uint32_t *b, uint32_t first, uint32_t second) {
    b[0] = BITS == 4 ? first & 0x0f0f0f0fu : first ^ 0x80808080u;
    b[1] = BITS == 4 ? first >> 4 & 0x0f0f0f0fu : second ^ 0x80808080u;
}

/* ---- scores ---- */

/* The lane's words of A for group k of the queries' channels. They lie in shared memory as the product takes them:
 * where a tile has 8 queries, rows 8 .. 15 repeat them, since zeros would be moved there before each product. */
static __device__ __forceinline__ void query_words(uint32_t *a, const shared &s, int k) {
    int lane = threadIdx.x % KVQ_WARP_LANES;
    const uint4 words = KVQ_SHARED_CAST(uint4, s.q)[k * KVQ_WARP_LANES + lane];
    a[0] = words.x, a[1] = words.y, a[2] = words.z, a[3] = words.w;
}

/* A step of K: 32 channels at 8 bits, 64 at 4. */
template <int BITS>
static __device__ __forceinline__ void dot_step(int dots[2][4][4], const shared &s, KVQ_SHARED_PTR(uint4) codes,
                                                int step) {
    constexpr int groups = BITS == 4 ? 2 : 1; /* of 32 channels */
    uint32_t a[2][4], b[2];
#pragma unroll
    for (int k = 0; k < groups; k++) query_words(a[k], s, groups * step + k);
#pragma unroll
    for (int c = 0; c < 2; c++) {
        const uint4 x = codes[64 * c], y = codes[64 * c + 32];
        const uint32_t words[2][4] = {{x.x, x.y, x.z, x.w}, {y.x, y.y, y.z, y.w}};
#pragma unroll
        for (int u = 0; u < 4; u++)
#pragma unroll
            for (int k = 0; k < groups; k++) {
                fragment_of<BITS>(b, words[k][u], words[1][u]);
                kvq_mma_ss(dots[c][u], a[k], b);
            }
    }
}

/* Scores of the lane's rows and tokens. */
template <tile_kind KIND, bool SHARED>
static __device__ __forceinline__ void scores_of_codes(float x[][OWN_TOKENS], const shared &s, kvq_page_queue &queue,
                                                       KVQ_SHARED_PTR(uint8_t) scales, int bits, bool sym,
                                                       const piece_view &view) {
    int g = threadIdx.x % KVQ_WARP_LANES / 4, q = threadIdx.x % 4, dots[2][4][4] = {};
    int zero = bits == 4 ? (sym ? 8 : 0) : (sym ? 0 : -128);
#pragma unroll
    for (int r = 0; r < rows_of_lane<KIND>; r++) {
        int zeros = zero * s.q_sum[g + 8 * r];
#pragma unroll
        for (int i = 0; i < 8; i++) dots[i / 4][i % 4][2 * r] = dots[i / 4][i % 4][2 * r + 1] = -zeros;
    }
    int n_steps = (queue.head_dim * bits + 255) / 256;
#pragma unroll 1
    for (int step = 0; step < n_steps; step++) {
        KVQ_SHARED_PTR(uint4) codes = kvq_queue_take<false, SHARED>(queue);
        if (bits == 4)
            dot_step<4>(dots, s, codes, step);
        else
            dot_step<8>(dots, s, codes, step);
    }
    __syncwarp(); /* the scales came with other lanes' copies */
#pragma unroll
    for (int c = 0; c < 2; c++) {
        float k_scale[8];
        eight_halves(k_scale, KVQ_SHARED_CAST(uint4, scales + KVQ_QUEUE_K_SCALES * 128 + 64 * c + 16 * q)[0]);
#pragma unroll
        for (int r = 0; r < rows_of_lane<KIND>; r++) {
            float scale = s.q_scale[g + 8 * r];
#pragma unroll
            for (int i = 0; i < 8; i++)
                x[r][8 * c + i] = fmaf(scale * k_scale[i], (float)dots[c][i % 4][2 * r + i / 4], view.plus[r]);
        }
        if (sym) continue;
        float k_min[8];
        eight_halves(k_min, KVQ_SHARED_CAST(uint4, scales + KVQ_QUEUE_K_MINS * 128 + 64 * c + 16 * q)[0]);
#pragma unroll
        for (int r = 0; r < rows_of_lane<KIND>; r++) {
            float sum = s.q_scale[g + 8 * r] * (float)s.q_sum[g + 8 * r];
#pragma unroll
            for (int i = 0; i < 8; i++) x[r][8 * c + i] = fmaf(sum, k_min[i], x[r][8 * c + i]);
        }
    }
}

/* Two rows of eight halves become eight fragments' words. */
static __device__ __forceinline__ uint32_t pair_of(uint4 first, uint4 second, int u) {
    const uint32_t x[4] = {first.x, first.y, first.z, first.w}, y[4] = {second.x, second.y, second.z, second.w};
    return kvq_pick_bytes(x[u / 2], y[u / 2], u % 2 ? 0x7632 : 0x5410);
}

/* Eight fragments of four rows of halves. */
static __device__ __forceinline__ void multiply_halves(float c[8][4], const uint32_t *a, KVQ_SHARED_PTR(uint4) halves) {
    const uint4 rows[4] = {halves[0], halves[32], halves[64], halves[96]};
#pragma unroll
    for (int u = 0; u < 8; u++) {
        const uint32_t b[2] = {pair_of(rows[0], rows[1], u), pair_of(rows[2], rows[3], u)};
        kvq_mma_halves(c[u], a, b);
    }
}

template <bool SHARED>
static __device__ __forceinline__ void scores_of_halves(float x[][OWN_TOKENS], const shared &s, kvq_page_queue &queue,
                                                        const piece_view &view) {
    float dots[8][4] = {}, scale = s.q_scale[threadIdx.x % KVQ_WARP_LANES / 4];
#pragma unroll 1
    for (int step = 0; step < queue.head_dim / 16; step++) {
        KVQ_SHARED_PTR(uint4) halves = kvq_queue_take<true, SHARED>(queue);
        uint32_t a[4];
        query_words(a, s, step);
        multiply_halves(dots, a, halves);
    }
#pragma unroll
    for (int i = 0; i < OWN_TOKENS; i++)
        x[0][i] = fmaf(scale, dots[i % 8][i / 8] + dots[i % 8][2 + i / 8], view.plus[0]);
}

/* ---- soft-max of a piece ---- */

/* Scores become probabilities relative to the piece's maximum, which is told with their sum. A row that sees nothing
 * has a maximum of minus infinity, and probabilities of zero. */
template <tile_kind KIND>
static __device__ __forceinline__ void weigh_row(float *x, float softcap, int last, int before, bool masked,
                                                 piece_row *ret) {
    if (softcap > 0) {
        float to_two = 2.0f * KVQ_LOG2_E * kvq_reciprocal(softcap), cap = softcap * KVQ_LOG2_E;
#pragma unroll
        for (int i = 0; i < OWN_TOKENS; i++) /* tanh z = 1 - 2 / (1 + e^2z) */
            x[i] = fmaf(-2.0f * cap, kvq_reciprocal(1.0f + kvq_exp2(x[i] * to_two)), cap);
    }
    if (masked)
#pragma unroll
        for (int i = 0; i < OWN_TOKENS; i++) {
            int token = token_of<KIND>(i);
            x[i] = token > last || token <= before ? -INFINITY : x[i];
        }
    float max = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < OWN_TOKENS; i++) max = fmaxf(max, x[i]);
    max = of_row_max(max);
    float base = max == -INFINITY ? 0.0f : max;
#pragma unroll
    for (int i = 0; i < OWN_TOKENS; i++) {
        x[i] = kvq_exp2(x[i] - base);
        sum += x[i];
    }
    ret->max = max;
    ret->sum = of_row_sum(sum);
}

/* What V's codes mean for the bytes that they are multiplied with: scales of the lane's tokens, minimums, and the zeros
 * of the codes as the sums see them: 8 or, mirrored, 7 at 4 bits; at 8 bits, where a bit of the codes is turned, 0 or
 * -128 */
struct v_tokens {
    float scale[OWN_TOKENS], min[OWN_TOKENS];
    uint32_t zero[4];
};

/* The sign bits of a word's two halves and of another's, each as the lowest bit of a byte. */
static __device__ __forceinline__ uint32_t sign_bytes(uint32_t x, uint32_t y) {
    return kvq_pick_bytes(x, y, 0x7531) >> 7 & 0x01010101u;
}

static __device__ __forceinline__ void load_v_tokens(v_tokens &ret, KVQ_SHARED_PTR(uint8_t) scales, int bits, bool sym,
                                                     int n_written) {
    int q = threadIdx.x % 4;
    bool signs = sym && bits == 4;
    uint32_t zeros = bits == 4 ? (sym ? 0x08080808u : 0) : (sym ? 0 : 0x80808080u);
#pragma unroll
    for (int c = 0; c < 2; c++) {
        KVQ_SHARED_PTR(uint8_t) at = scales + KVQ_QUEUE_V_SCALES * 128 + 64 * c + 16 * q;
        const uint4 x = KVQ_SHARED_CAST(uint4, at)[0];
        eight_halves(ret.scale + 8 * c, x);
        ret.zero[2 * c] = signs ? zeros - sign_bytes(x.x, x.y) : zeros;
        ret.zero[2 * c + 1] = signs ? zeros - sign_bytes(x.z, x.w) : zeros;
        if (!sym) eight_halves(ret.min + 8 * c, KVQ_SHARED_CAST(uint4, at + 128)[0]);
    }
    if (n_written >= KVQ_PIECE_TOKENS) return;
#pragma unroll
    for (int i = 0; i < OWN_TOKENS; i++) /* scales behind may be anything, a NaN too */
        if (i / 8 * 32 + 8 * q + i % 8 >= n_written) ret.scale[i] = ret.min[i] = 0;
}

/* Probabilities times V's scales in bytes: w is V's A. What the sums have too much for the codes' zeros is taken away
 * with `plus`. */
static __device__ __forceinline__ void weights_of_row(uint32_t *w, float *x, const v_tokens &v, bool sym, bool masked,
                                                      piece_row *ret) {
    float max = 0, plus = 0;
    int zero = 0;
    if (!sym)
#pragma unroll
        for (int i = 0; i < OWN_TOKENS; i++) plus = fmaf(x[i], masked && x[i] == 0 ? 0.0f : v.min[i], plus);
#pragma unroll
    for (int i = 0; i < OWN_TOKENS; i++) x[i] = x[i] * fabsf(v.scale[i]);
    if (masked) /* zero times infinity, of a token that the row does not see, is no NaN of its own */
#pragma unroll
        for (int i = 0; i < OWN_TOKENS; i++) x[i] = fmaxf(x[i], 0.0f);
#pragma unroll
    for (int i = 0; i < OWN_TOKENS; i++) max = kvq_larger_or_nan(max, x[i]);
    max = kvq_larger_or_nan(max, __shfl_xor_sync(KVQ_WARP, max, 2));
    max = kvq_larger_or_nan(max, __shfl_xor_sync(KVQ_WARP, max, 1));
    float per_byte = max > 1e-30f ? 255.0f * kvq_reciprocal(max) : 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[i] = kvq_four_bytes(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3], per_byte);
        zero = kvq_dp4a_us(w[i], v.zero[i], zero);
    }
    ret->scale = max * (1.0f / 255.0f);
    ret->plus = fmaf(-ret->scale, (float)of_row_sum(zero), sym ? 0.0f : of_row_sum(plus));
}

/* ---- values ---- */

/* Values go to the warp's place in s.v; with SHARED the accumulators, which the warp has for itself, take them at once.
 */
template <bool SHARED>
static __device__ __forceinline__ void store_values(KVQ_SHARED_PTR(float4) to, float4 v, const row_merge &m) {
    kvq_store_shared_16(to, SHARED ? merged(to[0], v, m) : v);
}

/* Sums of 32 channels: a lane has eight in a row, for `v` and, with two rows, eight rows further on. */
template <tile_kind KIND, bool SHARED>
static __device__ __forceinline__ void store_sums(KVQ_SHARED_PTR(float) v, const int sums[4][4],
                                                  const row_merge *merges, int d) {
#pragma unroll
    for (int r = 0; r < rows_of_lane<KIND>; r++) {
        KVQ_SHARED_PTR(float4) to = KVQ_SHARED_CAST(float4, v + 8 * r * (d + 4));
#pragma unroll
        for (int b = 0; b < 2; b++)
            store_values<SHARED>(to + b,
                                 float4{(float)sums[0][2 * r + b], (float)sums[1][2 * r + b], (float)sums[2][2 * r + b],
                                        (float)sums[3][2 * r + b]},
                                 merges[r]);
    }
}

/* A step of V: 32 channels at 8 bits, 64 at 4, of which this lane has `left` from its first on. a: the weights of 32
 * tokens, and of the other 32. */
template <int BITS, tile_kind KIND, bool SHARED>
static __device__ __forceinline__ void values_of_step(KVQ_SHARED_PTR(float) v, const uint32_t a[2][4],
                                                      const row_merge *merges, KVQ_SHARED_PTR(uint4) codes, int left,
                                                      int d) {
    constexpr int groups = BITS == 4 ? 2 : 1; /* of 32 channels */
#pragma unroll
    for (int c = 0; c < groups; c++) {
        int sums[4][4] = {};
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const uint4 x = codes[BITS == 4 ? (c * 2 + k) * 32 : 64 * k];
            const uint4 y = BITS == 4 ? x : (uint4)codes[64 * k + 32];
            const uint32_t first[4] = {x.x, x.y, x.z, x.w}, second[4] = {y.x, y.y, y.z, y.w};
            uint32_t b[2];
#pragma unroll
            for (int u = 0; u < 4; u++) {
                fragment_of<BITS>(b, first[u], second[u]);
                kvq_mma_us(sums[u], a[k], b);
            }
        }
        if (32 * c < left) store_sums<KIND, SHARED>(v + 32 * c, sums, merges, d);
    }
}

template <tile_kind KIND, bool SHARED>
static __device__ __forceinline__ void values_of_codes(KVQ_SHARED_PTR(float) v, const uint32_t w[][4],
                                                       const row_merge *merges, kvq_page_queue &queue, int bits) {
    uint32_t a[2][4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        a[i / 2][i % 2 * 2] = w[0][i];
        /* Rows 8 .. 15 of the smaller tiles are nobody's. Copies or zeros would be made anew before each product. */
        a[i / 2][i % 2 * 2 + 1] = rows_of_lane<KIND> == 2 ? w[rows_of_lane<KIND> - 1][i] : ~w[0][i];
    }
    int d = queue.head_dim, lane = threadIdx.x % KVQ_WARP_LANES, step_channels = bits == 4 ? 64 : 32;
    int left = d - 8 * (lane % 4); /* channels from this lane's first on */
    v += lane / 4 * (d + 4) + 8 * (lane % 4);
#pragma unroll 1
    for (int channel = 0; channel < d; channel += step_channels) {
        KVQ_SHARED_PTR(uint4) codes = kvq_queue_take<false, SHARED>(queue);
        if (bits == 4)
            values_of_step<4, KIND, SHARED>(v, a, merges, codes, left, d);
        else
            values_of_step<8, KIND, SHARED>(v, a, merges, codes, left, d);
        v += step_channels;
        left -= step_channels;
    }
}

/* Sums of a lane's sixteen channels. */
template <bool SHARED>
static __device__ __forceinline__ void store_sums_of_halves(KVQ_SHARED_PTR(float) v, const float sums[8][4],
                                                            const row_merge &merge) {
    KVQ_SHARED_PTR(float4) to = KVQ_SHARED_CAST(float4, v);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float(*four)[4] = sums + 4 * (i % 2);
        int b = i / 2;
        store_values<SHARED>(to + i,
                             float4{four[0][b] + four[0][2 + b], four[1][b] + four[1][2 + b],
                                    four[2][b] + four[2][2 + b], four[3][b] + four[3][2 + b]},
                             merge);
    }
}

/* Two floats as two words of halves whose sums they are, to 22 bits. */
static __device__ __forceinline__ void split_floats(uint32_t *upper, uint32_t *lower, float x, float y) {
    *upper = kvq_two_halves(x, y);
    *lower = kvq_two_halves(x - kvq_half_float((uint16_t)*upper), y - kvq_half_float((uint16_t)(*upper >> 16)));
}

/* Probabilities are brought to 2^14 first, so that their lower halves are exact too. */
#define HALVES_UP 16384.0f

template <bool SHARED>
static __device__ __forceinline__ void values_of_halves(KVQ_SHARED_PTR(float) v, const float *x, const row_merge &merge,
                                                        kvq_page_queue &queue) {
    int g = threadIdx.x % KVQ_WARP_LANES / 4, q = threadIdx.x % 4, d = queue.head_dim;
    uint32_t upper[8], lower[8];
#pragma unroll
    for (int i = 0; i < 8; i++) split_floats(&upper[i], &lower[i], x[2 * i] * HALVES_UP, x[2 * i + 1] * HALVES_UP);
    for (int channel = 0; channel < d; channel += 64) {
        float sums[8][4] = {};
#pragma unroll
        for (int step = 0; step < 4; step++) {
            const uint32_t a[4] = {upper[2 * step], lower[2 * step], upper[2 * step + 1], lower[2 * step + 1]};
            multiply_halves(sums, a, kvq_queue_take<true, SHARED>(queue));
        }
        if (channel + 16 * q < d) store_sums_of_halves<SHARED>(v + g * (d + 4) + channel + 16 * q, sums, merge);
    }
}

/* ---- a piece ---- */

/* What becomes of a row's result, n of the tile: it is left for merge_pieces; with SHARED it is merged here. */
template <tile_kind KIND, bool SHARED>
static __device__ __forceinline__ row_merge leave_row(const shared &s, int n, const piece_row &row, row_state *state) {
    if (SHARED) return merge_row(state, row);
    if (threadIdx.x % 4 == 0)
        kvq_store_shared_16(s.piece + (s.warp * rows_of_tile<KIND> + n), float4{row.max, row.sum, row.scale, row.plus});
    return row_merge{1, 0, 0};
}

/* The next piece of the queue: its result goes to the warp's place in s.piece and s.v. With SHARED it is called by all
 * warps of the block, each for a tile of its own, and the result is merged into `states` of the lane's rows and into
 * s.acc. */
template <tile_kind KIND, bool SHARED>
static __device__ __forceinline__ void attend_piece(const shared &s, kvq_page_queue &queue, int set, float softcap,
                                                    bool sym, const piece_view &view, row_state *states) {
    constexpr int rows = rows_of_lane<KIND>;
    int g = threadIdx.x % KVQ_WARP_LANES / 4, row_floats = rows_of_tile<KIND> * (queue.head_dim + 4);
    KVQ_SHARED_PTR(float) v = SHARED ? s.acc : s.v + s.warp * row_floats;
    float x[rows][OWN_TOKENS];
    piece_row row;
    row_merge merges[rows];
    if constexpr (is_halves<KIND>) {
        scores_of_halves<SHARED>(x, s, queue, view);
        weigh_row<KIND>(x[0], softcap, view.last[0], view.before[0], view.masked, &row);
        row.scale = 1.0f / HALVES_UP;
        row.plus = 0;
        merges[0] = leave_row<KIND, SHARED>(s, g, row, states);
        values_of_halves<SHARED>(v, x[0], merges[0], queue);
    } else {
        KVQ_SHARED_PTR(uint8_t) scales = queue.scales + set * KVQ_QUEUE_SCALE_BYTES;
        const kvq_queue_half k_half = s.pages[2 * view.page], v_half = s.pages[2 * view.page + 1];
        uint32_t w[rows][4];
        v_tokens tokens;
        scores_of_codes<KIND, SHARED>(x, s, queue, scales, k_half.bits, sym, view);
        load_v_tokens(tokens, scales, v_half.bits, sym, view.n_written);
#pragma unroll
        for (int r = 0; r < rows; r++) {
            weigh_row<KIND>(x[r], softcap, view.last[r], view.before[r], view.masked, &row);
            weights_of_row(w[r], x[r], tokens, sym, view.masked, &row);
            merges[r] = leave_row<KIND, SHARED>(s, g + 8 * r, row, SHARED ? states + r : nullptr);
        }
        __syncwarp(); /* the scales are read: copies of a later piece may overwrite them */
        values_of_codes<KIND, SHARED>(v, w, merges, queue, v_half.bits);
    }
}

#endif
