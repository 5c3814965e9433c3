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
#include "vmath.cuh"
#include "warp.cuh"

#define KVQ_LOG2_E 1.44269504f /* scores are kept in units of ln 2 */

typedef enum tile_kind { TILE_HALVES, TILE_CODES_8, TILE_CODES_16 } tile_kind;

template <tile_kind KIND> constexpr bool is_halves = KIND == TILE_HALVES;
template <tile_kind KIND> constexpr int rows_of_lane = KIND == TILE_CODES_16 ? 2 : 1;
template <tile_kind KIND> constexpr int rows_of_tile = 8 * rows_of_lane<KIND>;
#define OWN_TOKENS (KVQ_PIECE_TOKENS / 4) /* of a row, that a lane has */

/* What a piece did to a row: probabilities relative to 2^max, their sum, and values = scale * v + plus. */
typedef struct piece_row {
    float max, sum, scale, plus;
} piece_row;

/* In shared memory, by rows. */
enum { PIECE_MAX, PIECE_SUM, PIECE_SCALE, PIECE_PLUS, PIECE_FLOATS };

/* A row's soft-max so far; every thread that has to do with the row has it. */
typedef struct row_state {
    float max, sum;
} row_state;

/* How a piece becomes part of it: acc * keep + plus + scale * v. */
typedef struct row_merge {
    float keep, scale, plus;
} row_merge;

static __device__ __forceinline__ row_merge merge_row(row_state *state, const piece_row &from) {
    if (from.max == -INFINITY) return row_merge{1, 0, 0}; /* nothing seen */
    float larger = state->max > from.max ? state->max : from.max, add = kvq_exp2_low(from.max - larger);
    const row_merge ret = {kvq_exp2_low(state->max - larger), from.scale * add, from.plus * add};
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
    KVQ_SHARED_PTR(uint8_t) q;         /* [16] rows of q_pitch bytes: codes, or halves */
    KVQ_SHARED_PTR(float) q_scale;     /* [16] of the codes or halves, in units of the job's scale */
    KVQ_SHARED_PTR(float) q_up;        /* [16] the power of two that brings a query's floats to 2^14 */
    KVQ_SHARED_PTR(int) q_sum;         /* [16] of the codes */
    KVQ_SHARED_PTR(float) constants;   /* [4, 16, KVQ_SPLIT_PAGES]: parts of q . (k_mean + k_ref), times q_up */
    KVQ_SHARED_PTR(kvq_kv_half) pages; /* [KVQ_SPLIT_PAGES, K and V], the block's */
    KVQ_SHARED_PTR(float) piece;       /* [warps, PIECE_FLOATS, 16], of a tile that has several */
    KVQ_SHARED_PTR(float) v;           /* [warps, rows, head_dim + 4] sums of a piece, likewise */
    KVQ_SHARED_PTR(float) acc;         /* [rows, head_dim + 4] of the split */
    int q_pitch;
    int warp; /* this one, of the tile's */
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
    x = kvq_larger(x, __shfl_xor_sync(KVQ_WARP, x, 2));
    return kvq_larger(x, __shfl_xor_sync(KVQ_WARP, x, 1));
}
template <typename T> static __device__ __forceinline__ T of_row_sum(T x) {
    x += __shfl_xor_sync(KVQ_WARP, x, 2);
    return x + __shfl_xor_sync(KVQ_WARP, x, 1);
}

/* Eight halves of a lane's 16 bytes. */
static __device__ __forceinline__ void eight_halves(float *ret, uint4 x) {
    const uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int i = 0; i < 8; i++) ret[i] = kvq_half_float((uint16_t)(words[i / 2] >> (16 * (i % 2))));
}

/* The four B fragments of a lane's 16 bytes at 4 bits, or of two lines of them at 8. */
template <int BITS> static __device__ __forceinline__ void fragment_of(uint32_t *b, uint32_t first, uint32_t second) {
    b[0] = BITS == 4 ? first & 0x0f0f0f0fu : first ^ 0x80808080u;
    b[1] = BITS == 4 ? first >> 4 & 0x0f0f0f0fu : second ^ 0x80808080u;
}

/* ---- scores ---- */

/* Words of A of step k (32 codes) for the queries; rows that the tile does not have are zeros. */
template <tile_kind KIND> static __device__ __forceinline__ void query_codes(uint32_t *a, const shared &s, int k) {
    int g = threadIdx.x % KVQ_WARP_LANES / 4, q = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint2 words = uint2{0, 0};
        if (r < rows_of_lane<KIND>) words = KVQ_SHARED_CAST(uint2, s.q + (g + 8 * r) * s.q_pitch + 32 * k + 8 * q)[0];
        a[r] = words.x;
        a[2 + r] = words.y;
    }
}

template <int BITS, tile_kind KIND, bool SHARED>
static __device__ __forceinline__ void dot_k(int dots[2][4][4], const shared &s, kvq_page_queue &queue) {
    constexpr int per_step = BITS == 4 ? 2 : 1; /* groups of 32 channels */
    int n_steps = (queue.head_dim * BITS + 255) / 256;
    for (int step = 0; step < n_steps; step++) {
        uint32_t a[2][4], b[2];
        KVQ_SHARED_PTR(uint4) codes = kvq_queue_take<false, SHARED>(queue);
#pragma unroll
        for (int k = 0; k < per_step; k++) query_codes<KIND>(a[k], s, per_step * step + k);
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const uint4 x = codes[64 * c], y = codes[64 * c + 32];
            const uint32_t words[2][4] = {{x.x, x.y, x.z, x.w}, {y.x, y.y, y.z, y.w}};
#pragma unroll
            for (int u = 0; u < 4; u++)
#pragma unroll
                for (int k = 0; k < per_step; k++) {
                    fragment_of<BITS>(b, words[k][u], words[1][u]);
                    kvq_mma_ss(dots[c][u], a[k], b);
                }
        }
    }
}

/* Scores of the lane's rows and tokens. */
template <tile_kind KIND, bool SHARED>
static __device__ __forceinline__ void scores_of_codes(float x[][OWN_TOKENS], const shared &s, kvq_page_queue &queue,
                                                       KVQ_SHARED_PTR(uint8_t) scales, int bits, bool sym,
                                                       const piece_view &view) {
    int g = threadIdx.x % KVQ_WARP_LANES / 4, q = threadIdx.x % 4, dots[2][4][4] = {};
    if (bits == 4)
        dot_k<4, KIND, SHARED>(dots, s, queue);
    else
        dot_k<8, KIND, SHARED>(dots, s, queue);
    __syncwarp(); /* the scales came with other lanes' copies */
    int zero = bits == 4 ? (sym ? 8 : 0) : (sym ? 0 : -128);
#pragma unroll
    for (int c = 0; c < 2; c++) {
        float k_scale[8], k_min[8] = {};
        eight_halves(k_scale, KVQ_SHARED_CAST(uint4, scales + KVQ_QUEUE_K_SCALES * 128 + 64 * c + 16 * q)[0]);
        if (!sym) eight_halves(k_min, KVQ_SHARED_CAST(uint4, scales + KVQ_QUEUE_K_MINS * 128 + 64 * c + 16 * q)[0]);
#pragma unroll
        for (int r = 0; r < rows_of_lane<KIND>; r++) {
            float scale = s.q_scale[g + 8 * r];
            int sum = s.q_sum[g + 8 * r], zeros = zero * sum;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float rest = sym ? view.plus[r] : fmaf(scale * (float)sum, k_min[i], view.plus[r]);
                x[r][8 * c + i] = fmaf(scale * k_scale[i], (float)(dots[c][i % 4][2 * r + i / 4] - zeros), rest);
            }
        }
    }
}

/* Two rows of eight halves become eight fragments' words. */
static __device__ __forceinline__ uint32_t pair_of(uint4 first, uint4 second, int u) {
    const uint32_t x[4] = {first.x, first.y, first.z, first.w}, y[4] = {second.x, second.y, second.z, second.w};
    return u % 2 ? x[u / 2] >> 16 | (y[u / 2] & 0xffff0000u) : (x[u / 2] & 0xffffu) | y[u / 2] << 16;
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
    int g = threadIdx.x % KVQ_WARP_LANES / 4, q = threadIdx.x % 4;
    float dots[8][4] = {}, scale = s.q_scale[g];
    for (int step = 0; step < queue.head_dim / 16; step++) {
        KVQ_SHARED_PTR(uint4) halves = kvq_queue_take<true, SHARED>(queue);
        uint32_t a[4];
#pragma unroll
        for (int w = 0; w < 4; w++)
            a[w] = KVQ_SHARED_CAST(uint32_t, s.q + (g + w % 2 * 8) * s.q_pitch + 32 * step + 4 * q + w / 2 * 16)[0];
        multiply_halves(dots, a, halves);
    }
#pragma unroll
    for (int i = 0; i < OWN_TOKENS; i++)
        x[0][i] = fmaf(scale, dots[i % 8][i / 8] + dots[i % 8][2 + i / 8], view.plus[0]);
}

/* ---- soft-max of a piece ---- */

/* Scores become probabilities relative to the piece's maximum, which is told with their sum. */
template <tile_kind KIND>
static __device__ __forceinline__ void weigh_row(float *x, float softcap, int last, int before, bool masked,
                                                 piece_row *ret) {
    if (softcap > 0)
#pragma unroll
        for (int i = 0; i < OWN_TOKENS; i++) x[i] = kvq_tanh(x[i] * (1.0f / softcap)) * (softcap * KVQ_LOG2_E);
    if (masked)
#pragma unroll
        for (int i = 0; i < OWN_TOKENS; i++) {
            int token = token_of<KIND>(i);
            x[i] = token > last || token <= before ? -INFINITY : x[i];
        }
    float max = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < OWN_TOKENS; i++) max = kvq_larger(max, x[i]);
    max = of_row_max(max);
#pragma unroll
    for (int i = 0; i < OWN_TOKENS; i++) {
        bool none = masked && x[i] == -INFINITY; /* all of them: the difference is a NaN */
        x[i] = none ? 0.0f : kvq_exp2_low(x[i] - max);
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

static __device__ __forceinline__ void load_v_tokens(v_tokens &ret, KVQ_SHARED_PTR(uint8_t) scales, int bits, bool sym,
                                                     int n_written) {
    int q = threadIdx.x % 4;
#pragma unroll
    for (int c = 0; c < 2; c++) {
        KVQ_SHARED_PTR(uint8_t) at = scales + KVQ_QUEUE_V_SCALES * 128 + 64 * c + 16 * q;
        const uint4 x = KVQ_SHARED_CAST(uint4, at)[0];
        const uint32_t words[4] = {x.x, x.y, x.z, x.w};
        eight_halves(ret.scale + 8 * c, x);
        if (!sym) eight_halves(ret.min + 8 * c, KVQ_SHARED_CAST(uint4, at + 128)[0]);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            bool written = 32 * c + 8 * q + i < n_written; /* scales behind may be anything, a NaN too */
            ret.scale[8 * c + i] = written ? fabsf(ret.scale[8 * c + i]) : 0.0f;
            ret.min[8 * c + i] = !sym && written ? ret.min[8 * c + i] : 0.0f;
        }
#pragma unroll
        for (int w = 0; w < 2; w++) {
            uint32_t sign = (words[2 * w] >> 15 & 1) | (words[2 * w] >> 31) << 8 | (words[2 * w + 1] >> 15 & 1) << 16 |
                            (words[2 * w + 1] >> 31) << 24;
            ret.zero[2 * c + w] = bits == 4 ? (sym ? 0x08080808u - sign : 0) : (sym ? 0 : 0x80808080u);
        }
    }
}

/* Probabilities times V's scales in bytes: w is V's A. */
static __device__ __forceinline__ void weights_of_row(uint32_t *w, int *ret_zero, float *x, const v_tokens &v, bool sym,
                                                      piece_row *ret) {
    float max = 0, plus = 0;
    int zero = 0;
#pragma unroll
    for (int i = 0; i < OWN_TOKENS; i++) {
        if (!sym) plus = fmaf(x[i], v.min[i], plus);
        x[i] = x[i] * v.scale[i];
        max = kvq_larger(max, x[i]);
    }
    max = of_row_max(max);
    float per_byte = max > 1e-30f ? 255.0f / max : 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[i] = kvq_four_bytes(x[4 * i] * per_byte, x[4 * i + 1] * per_byte, x[4 * i + 2] * per_byte,
                              x[4 * i + 3] * per_byte);
        zero = kvq_dp4a_us(w[i], v.zero[i], zero);
    }
    *ret_zero = of_row_sum(zero);
    ret->scale = max * (1.0f / 255.0f);
    ret->plus = sym ? plus : of_row_sum(plus);
}

/* ---- values ---- */

/* Values go to the warp's place in s.v; with SHARED the accumulators, which the warp has for itself, take them at once.
 */
template <bool SHARED>
static __device__ __forceinline__ void store_values(KVQ_SHARED_PTR(float4) to, float4 v, const row_merge &m) {
    kvq_store_shared_16(to, SHARED ? merged(to[0], v, m) : v);
}

/* Sums of 32 channels from `channel` on: a lane has eight of them in a row. */
template <tile_kind KIND, bool SHARED>
static __device__ __forceinline__ void store_sums(KVQ_SHARED_PTR(float) v, const int sums[4][4], const int *zero,
                                                  const row_merge *merges, int channel, int d) {
    int g = threadIdx.x % KVQ_WARP_LANES / 4, q = threadIdx.x % 4;
    channel += 8 * q;
#pragma unroll
    for (int r = 0; r < rows_of_lane<KIND>; r++) {
        if (channel >= d) break;
        KVQ_SHARED_PTR(float4) to = KVQ_SHARED_CAST(float4, v + (g + 8 * r) * (d + 4) + channel);
#pragma unroll
        for (int b = 0; b < 2; b++)
            store_values<SHARED>(to + b,
                                 float4{(float)(sums[0][2 * r + b] - zero[r]), (float)(sums[1][2 * r + b] - zero[r]),
                                        (float)(sums[2][2 * r + b] - zero[r]), (float)(sums[3][2 * r + b] - zero[r])},
                                 merges[r]);
    }
}

template <int BITS, tile_kind KIND, bool SHARED>
static __device__ __forceinline__ void values_of_codes(KVQ_SHARED_PTR(float) v, const uint32_t w[][4], const int *zero,
                                                       const row_merge *merges, kvq_page_queue &queue) {
    constexpr int per_step = BITS == 4 ? 2 : 1; /* groups of 32 channels */
    int d = queue.head_dim, n_steps = (d * BITS + 255) / 256;
    for (int step = 0; step < n_steps; step++) {
        KVQ_SHARED_PTR(uint4) codes = kvq_queue_take<false, SHARED>(queue);
#pragma unroll
        for (int c = 0; c < per_step; c++) {
            int sums[4][4] = {};
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const uint32_t a[4] = {w[0][2 * k], rows_of_lane<KIND> == 2 ? w[rows_of_lane<KIND> - 1][2 * k] : 0,
                                       w[0][2 * k + 1],
                                       rows_of_lane<KIND> == 2 ? w[rows_of_lane<KIND> - 1][2 * k + 1] : 0};
                const uint4 x = codes[BITS == 4 ? (c * 2 + k) * 32 : 64 * k];
                const uint4 y = BITS == 4 ? x : (uint4)codes[64 * k + 32];
                const uint32_t first[4] = {x.x, x.y, x.z, x.w}, second[4] = {y.x, y.y, y.z, y.w};
                uint32_t b[2];
#pragma unroll
                for (int u = 0; u < 4; u++) {
                    fragment_of<BITS>(b, first[u], second[u]);
                    kvq_mma_us(sums[u], a, b);
                }
            }
            store_sums<KIND, SHARED>(v, sums, zero, merges, (per_step * step + c) * 32, d);
        }
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
template <bool SHARED>
static __device__ __forceinline__ row_merge leave_row(const shared &s, int n, const piece_row &row, row_state *state) {
    if (SHARED) return merge_row(state, row);
    if (threadIdx.x % 4 == 0) {
        KVQ_SHARED_PTR(float) piece = s.piece + s.warp * (PIECE_FLOATS * 16) + n;
        piece[PIECE_MAX * 16] = row.max;
        piece[PIECE_SUM * 16] = row.sum;
        piece[PIECE_SCALE * 16] = row.scale;
        piece[PIECE_PLUS * 16] = row.plus;
    }
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
        merges[0] = leave_row<SHARED>(s, g, row, states);
        values_of_halves<SHARED>(v, x[0], merges[0], queue);
    } else {
        KVQ_SHARED_PTR(uint8_t) scales = queue.scales + set * KVQ_QUEUE_SCALE_BYTES;
        const kvq_kv_half k_half = s.pages[2 * view.page], v_half = s.pages[2 * view.page + 1];
        uint32_t w[rows][4];
        int zero[rows];
        v_tokens tokens;
        scores_of_codes<KIND, SHARED>(x, s, queue, scales, k_half.bits, sym, view);
        load_v_tokens(tokens, scales, v_half.bits, sym, view.n_written);
#pragma unroll
        for (int r = 0; r < rows; r++) {
            weigh_row<KIND>(x[r], softcap, view.last[r], view.before[r], view.masked, &row);
            weights_of_row(w[r], &zero[r], x[r], tokens, sym, &row);
            merges[r] = leave_row<SHARED>(s, g + 8 * r, row, SHARED ? states + r : nullptr);
        }
        __syncwarp(); /* the scales are read: copies of a later piece may overwrite them */
        if (v_half.bits == 4)
            values_of_codes<4, KIND, SHARED>(v, w, zero, merges, queue);
        else
            values_of_codes<8, KIND, SHARED>(v, w, zero, merges, queue);
    }
}

#endif
