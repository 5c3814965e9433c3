/* attend_tmpl.h: attention of one tile over one split of the cache, on the codes. Included after vmath_tmpl.h
 * and head_tmpl.h by kv_generic.c, kv_avx2.c, kv_avx512.c; called through attend.c.
 *
 * A page at a time, for a block of up to BLOCK_QUERIES queries at a time:
 *   keys     lanes are tokens: one load of K codes [d/4][T][4] is 16 tokens x 4 channels, 4 query bytes in every lane;
 *            the sums become scores before they leave their registers
 *   weigh    soft-max over 16 lanes of tokens, one maximum a page; probabilities times V's scales to bytes
 *   values   lanes are channels: one load of V codes [T/4][d][4] is 16 channels x 4 tokens, 4 probability bytes in
 *            every lane; the sums go to the float accumulator with one fused multiply-add
 * Integer sums run over a whole page and are exact: so the bits of a result do not depend on the instruction set, nor
 * on which queries share a tile or a block.
 *
 * Bytes that cannot be avoided: the page's codes and scales, once per tile: (66 d + 256) per page and KV head at 4
 * bits. Operations: d T products for K and for V each, per query and page: 64 in an instruction of AVX-512 VNNI, 32 in
 * two of AVX2 (nibbles; 16 in two for bytes). */
#include <math.h>

#include "../formats.h"
#include "../hadamard.h"
#include "attend.h"

/* A block's sums stay in registers: at most BLOCK_VECTORS for each of its queries (LANES_FUNCTION). */
#define BLOCK_QUERIES (V_REGISTERS >= 32 ? 12 : 6)
#define BLOCK_VECTORS 4
#define MAX_QUERIES KVQ_ATTEND_QUERIES
#define MAX_TOKENS 128     /* of a page */
#define LOG2_E 1.44269504f /* scores are kept in units of ln 2, so that soft-max takes powers of 2 */

/* The tile's queries: floats as append wrote them, bytes with one scale, the sum of the bytes (for the codes' zero). */
typedef struct queries {
    int n;
    const float *q[MAX_QUERIES];
    int pos[MAX_QUERIES];
    float unit;               /* the job's scale, in units of ln 2 unless a softcap comes between */
    float scale[MAX_QUERIES]; /* of the bytes, times unit */
    int32_t sum[MAX_QUERIES];
    int8_t bytes[MAX_QUERIES * KVQ_MAX_HEAD_DIM];     /* [n, head_dim] */
    v_factor factors[MAX_QUERIES * KVQ_MAX_HEAD_DIM]; /* the same numbers, as 8-bit codes want them */
} queries;

/* A page as the tile sees it. */
typedef struct page {
    kvq_kv_half k, v;
    int begin;                  /* position of its first token */
    int n_written;              /* tokens that the tile may look at: up to its last row's position */
    bool masked;                /* some query does not see all of it */
    uintptr_t k_ahead, v_ahead; /* bytes from its codes to those of the page that comes next; 0: none does */
    bool has_k_const;
    float k_const[KVQ_MAX_HEAD_DIM];              /* k_mean + k_ref */
    float v_scale[MAX_TOKENS], v_min[MAX_TOKENS]; /* magnitudes; 0 behind n_written */
    uint8_t v_zero[MAX_TOKENS];                   /* of 4-bit codes: 8, or 7 where they are mirrored */
} page;

/* A block of queries and what it knows of the page. */
typedef struct block {
    int first, n; /* queries [first, first + n) of the tile */
    int head_dim, block_tokens;
    uintptr_t k_ahead, v_ahead; /* the page's for the last block, 0 for the others */
    /* keys: score = k_scale * scale of the token * (sum of products - zero) + k_plus */
    const void *k_with[BLOCK_QUERIES]; /* bytes, v_factors or floats, as the codes want them */
    int32_t k_start[BLOCK_QUERIES];    /* what the sum starts from: minus the zero of all codes */
    float k_scale[BLOCK_QUERIES], k_min[BLOCK_QUERIES], k_plus[BLOCK_QUERIES];
    float x[BLOCK_QUERIES][MAX_TOKENS]; /* scores, then probabilities, of codes times V's scales */
    /* soft-max */
    bool seen[BLOCK_QUERIES];
    float largest[BLOCK_QUERIES]; /* of the scores; codes: then of the probabilities times V's scales */
    float total[BLOCK_QUERIES];   /* sum of the page's probabilities */
    float fall[V_LANES];          /* old maximum minus new */
    float correction[V_LANES];    /* 2^fall, of what the state has so far */
    /* values: accumulator = accumulator * correction + v_plus + v_scale * (sum of products - zero) */
    uint8_t w_bytes[BLOCK_QUERIES][MAX_TOKENS];
    v_factor w_factors[BLOCK_QUERIES][MAX_TOKENS];
    int32_t v_start[BLOCK_QUERIES];
    float v_scale[BLOCK_QUERIES], v_plus[BLOCK_QUERIES];
    float *acc[BLOCK_QUERIES]; /* [head_dim], the state's */
} block;

/* ---- queries ---- */

V_INLINE void quantize_query(const int d, queries *qs, int n, size_t row_floats) {
    v16f q[HEAD_VECTORS], largest = v_zero();
    head_ask_ahead(qs->q[n], d, 2 * row_floats);
    head_load(q, d, qs->q[n]);
    for (int v = 0; v < d / V_LANES; v++) largest = v_max(v_abs(q[v]), largest);
    float max = v_hmax(largest);
    v16f per_code = v_set1(max > 1e-30f ? 127.0f / max : 0.0f);
    v16i sum = v_zero_i();
    for (int v = 0; v < d / V_LANES; v++) {
        v16f x = v_mul(q[v], per_code);
        v16i code = v_rint(v_min(v_max(x, v_set1(-127.0f)), v_set1(127.0f)));
        v_store_low_b(&qs->bytes[n * d + V_LANES * v], code);
        v_store_factors(&qs->factors[n * d + V_LANES * v], code);
        sum = v_add_i(sum, code);
    }
    qs->sum[n] = v_hsum_i(sum);
    qs->scale[n] = max * (1.0f / 127.0f) * qs->unit;
}

static void load_queries(queries *qs, const kvq_attend_tile *tile) {
    const kvq_attend *job = tile->job;
    int d = job->kv->head_dim;
    qs->n = tile->n_rows * tile->n_heads;
    qs->unit = job->softcap > 0 ? job->scale : job->scale * LOG2_E;
    for (int n = 0; n < qs->n; n++) {
        int r = tile->row_begin + n / tile->n_heads, h = tile->head_begin + n % tile->n_heads;
        qs->q[n] = job->q + ((size_t)r * (size_t)job->n_heads + (size_t)h) * (size_t)d;
        qs->pos[n] = job->batch->pos[r];
        if (job->kv->policy->k_bits != 16) HEAD_CALL(quantize_query, d, qs, n, (size_t)job->n_heads * (size_t)d);
    }
}

/* ---- the page's constants ---- */

static void load_k_const(page *p, const kvq_attend *job, int index, int g) {
    const kvq_kv *kv = job->kv;
    int d = kv->head_dim;
    const float *k_ref = kv->layers[job->layer].k_ref;
    p->has_k_const = k_ref || p->k.mean;
    if (k_ref) k_ref += ((size_t)index * (size_t)kv->n_kv_heads + (size_t)g) * (size_t)d;
    for (int i = 0; p->has_k_const && i < d; i += V_LANES) {
        v16f mean = p->k.mean ? v_load_half(p->k.mean + i) : v_zero();
        v_store(p->k_const + i, k_ref ? v_add(mean, v_load(k_ref + i)) : mean);
    }
}

/* Scales behind what is written may be anything, a NaN too; V's are multiplied with probabilities of 0. */
V_INLINE v16f only_written(const page *p, int t, v16f x) {
    v16f index = v_float(v_add_i(v_lanes_i(), v_set1_i(t)));
    return v_select_lt(index, v_set1((float)p->n_written), x, v_zero());
}

static void load_v_scales(page *p, int n_tokens) {
    bool all = p->n_written == n_tokens;
    for (int t = 0; t < n_tokens; t += V_LANES) {
        v16f scale = v_load_half(p->v.scales + t);
        v_store(p->v_scale + t, all ? v_abs(scale) : only_written(p, t, v_abs(scale)));
        v_store_low_b(p->v_zero + t, v_sub_i(v_set1_i(8), v_shr_i(v_bits(scale), 31)));
        if (!p->v.sym) v_store(p->v_min + t, only_written(p, t, v_load_half(p->v.mins + t)));
    }
}

/* The image of a page that the tile sees. */
static void halves_of(const kvq_attend_tile *tile, int index, kvq_kv_half *k, kvq_kv_half *v) {
    const kvq_attend *job = tile->job;
    const kvq_kv *kv = job->kv;
    const kvq_batch *b = job->batch;
    const kvq_kv_page *place = &b->seqs[tile->seq].pages[kv->layers[job->layer].group][index];
    if (kvq_kv_sees_wide(kv, b->pos[tile->row_begin], index))
        kvq_kv_wide_halves(kv, job->layer, place, b->scratch, b->scratch_slot_bytes, tile->g, k, v);
    else
        kvq_kv_closed_halves(kv, job->layer, place, tile->g, k, v);
}

static void load_page(page *p, const kvq_attend_tile *tile, int index) {
    const kvq_attend *job = tile->job;
    const kvq_kv *kv = job->kv;
    int n_tokens = kv->block_tokens, pos_begin = job->batch->pos[tile->row_begin];
    int pos_last = pos_begin + tile->n_rows - 1;
    halves_of(tile, index, &p->k, &p->v);
    p->begin = index * n_tokens;
    p->n_written = pos_last - p->begin + 1 < n_tokens ? pos_last - p->begin + 1 : n_tokens;
    p->masked = p->begin + n_tokens - 1 > pos_begin || (job->window && p->begin <= pos_last - job->window);
    load_k_const(p, job, index, tile->g);
    if (p->v.bits != 16) load_v_scales(p, n_tokens);
}

/* ---- sums of products ---- */

/* The part of a half that a sum runs over: K's layout (lanes: tokens, inner: channels) and V's (the other way round).
 */
typedef struct lanes {
    const uint8_t *codes; /* of the first lane */
    size_t row_bytes;     /* from one row of lanes to the next */
    int inner;
    uintptr_t ahead; /* bytes to the same codes of the page that comes next */
} lanes;

V_INLINE lanes lanes_of(const kvq_kv_half *half, int lane, int n_lanes, int inner, const int bits, uintptr_t ahead) {
    size_t lane_bytes = bits == 16 ? 2 : 4;
    return (lanes){half->codes + (size_t)lane * lane_bytes, (size_t)n_lanes * lane_bytes, inner, ahead};
}

/* Asks for the next page's codes in place of those read now, as many as n_bytes. One by one beside the arithmetic: a
 * page's 64 lines at once are more than a core may have under way, and it would wait for most of them. */
V_INLINE void ask_ahead(const lanes *l, const size_t n_bytes) {
    V_UNROLL for (size_t i = 0; i < n_bytes; i += 64) v_prefetch((const void *)((uintptr_t)l->codes + l->ahead + i));
}

V_INLINE void add_nibbles(v16s part[BLOCK_QUERIES][BLOCK_VECTORS], const v64b *code, const uint8_t *const *with, int j,
                          const bool is_v, const int n, const int n_vectors) {
    for (int q = 0; q < n; q++) {
        v64b x = v_splat4(with[q] + j);
        for (int v = 0; v < n_vectors; v++) part[q][v] = v_part_add(part[q][v], code[v], x, is_v);
    }
}

/* Codes j .. j + 7 of every lane, the low nibbles of all queries first: so few registers are needed at a time. */
V_INLINE void add_row(v16s part[BLOCK_QUERIES][BLOCK_VECTORS], const uint8_t *codes, const uint8_t *const *with, int j,
                      const bool is_v, const int n, const int n_vectors) {
    v64b both[BLOCK_VECTORS], nibbles[BLOCK_VECTORS];
    for (int v = 0; v < n_vectors; v++) both[v] = v_load_b(codes + 4 * V_LANES * v);
    for (int v = 0; v < n_vectors; v++) nibbles[v] = v_low_b(both[v]);
    add_nibbles(part, nibbles, with, j, is_v, n, n_vectors);
    for (int v = 0; v < n_vectors; v++) nibbles[v] = v_high_b(both[v]);
    add_nibbles(part, nibbles, with, j + 4, is_v, n, n_vectors);
}

/* sums[q][v] += n_codes 4-bit codes times bytes, at most V_PART_CODES. */
V_INLINE void dot_rows(v16i sums[BLOCK_QUERIES][BLOCK_VECTORS], lanes *l, const uint8_t *const *with, int j,
                       const int n_codes, const bool is_v, const int n, const int n_vectors) {
    v16s part[BLOCK_QUERIES][BLOCK_VECTORS];
    for (int q = 0; q < n; q++)
        for (int v = 0; v < n_vectors; v++) part[q][v] = v_part_begin(sums[q][v], is_v);
    V_UNROLL
    for (int i = 0; i < n_codes; i += 8, l->codes += l->row_bytes) {
        ask_ahead(l, 4 * V_LANES * n_vectors);
        add_row(part, l->codes, with, j + i, is_v, n, n_vectors);
    }
    for (int q = 0; q < n; q++)
        for (int v = 0; v < n_vectors; v++) sums[q][v] = v_part_end(sums[q][v], part[q][v], is_v);
}

/* sums[q][v] += 4-bit codes times bytes. K: bytes signed; V: unsigned. */
V_INLINE void dot_nibbles(v16i sums[BLOCK_QUERIES][BLOCK_VECTORS], lanes l, const uint8_t *const *with, const bool is_v,
                          const int n, const int n_vectors) {
    int j = 0;
    for (; j + V_PART_CODES <= l.inner; j += V_PART_CODES)
        dot_rows(sums, &l, with, j, V_PART_CODES, is_v, n, n_vectors);
    for (; V_PART_CODES > 16 && j < l.inner; j += 16) dot_rows(sums, &l, with, j, 16, is_v, n, n_vectors);
}

/* sums[q][v] += 8-bit codes, less the set's bias, times factors. */
V_INLINE void dot_bytes(v16i sums[BLOCK_QUERIES][BLOCK_VECTORS], lanes l, const v_factor *const *with, const bool is_v,
                        const int n, const int n_vectors) {
    for (int j = 0; j < l.inner; j += 4, l.codes += l.row_bytes) {
        v_codes codes[BLOCK_VECTORS];
        ask_ahead(&l, 4 * V_LANES * n_vectors);
        for (int v = 0; v < n_vectors; v++) codes[v] = v_codes_of(v_load_b(l.codes + 4 * V_LANES * v), is_v);
        for (int q = 0; q < n; q++) {
            v_factors x = v_splat_factors(with[q] + j);
            for (int v = 0; v < n_vectors; v++) sums[q][v] = v_dot_factors(sums[q][v], codes[v], x, is_v);
        }
    }
}

V_INLINE void dot_codes(v16i sums[BLOCK_QUERIES][BLOCK_VECTORS], lanes l, const void *const *with, const int bits,
                        const bool is_v, const int n, const int n_vectors) {
    if (bits == 4)
        dot_nibbles(sums, l, (const uint8_t *const *)with, is_v, n, n_vectors);
    else
        dot_bytes(sums, l, (const v_factor *const *)with, is_v, n, n_vectors);
}

/* sums[q][v] += halves times floats, one chain a lane. */
V_INLINE void dot_halves(v16f sums[BLOCK_QUERIES][BLOCK_VECTORS], lanes l, const float *const *with, const int n,
                         const int n_vectors) {
    for (int i = 0; i < l.inner; i++, l.codes += l.row_bytes) {
        v16f x[BLOCK_VECTORS];
        ask_ahead(&l, 2 * V_LANES * n_vectors);
        for (int v = 0; v < n_vectors; v++) x[v] = v_load_half((const uint16_t *)l.codes + V_LANES * v);
        for (int q = 0; q < n; q++) {
            v16f w = v_set1(with[q][i]);
            for (int v = 0; v < n_vectors; v++) sums[q][v] = v_fma(x[v], w, sums[q][v]);
        }
    }
}

/* A function of a block and all lanes of a half, compiled for every number of queries: as many vectors at a time as the
 * block has room for, then what is left. */
#define LANES_CASE(n, call, bits, most)                                                                 \
    case n:                                                                                             \
        for (; left >= (most); lane += (most)*V_LANES, left -= (most)) call(b, p, lane, bits, n, most); \
        if ((most) > 2 && left >= 2) {                                                                  \
            call(b, p, lane, bits, n, 2);                                                               \
            lane += 2 * V_LANES, left -= 2;                                                             \
        }                                                                                               \
        if ((most) > 1 && left > 0) call(b, p, lane, bits, n, 1);                                       \
        break;
#if V_REGISTERS >= 32
#define LANES_MANY(call, bits) LANES_CASE(6, call, bits, 4) LANES_CASE(12, call, bits, 2)
#else
#define LANES_MANY(call, bits) LANES_CASE(6, call, bits, 1)
#endif
#define LANES_FEW(call, bits)
/* more: LANES_MANY or LANES_FEW, as next_block wants it. */
#define LANES_FUNCTION(name, call, bits, more)                   \
    static void name(block *b, const page *p, int n_lanes) {     \
        int lane = 0, left = n_lanes / V_LANES;                  \
        switch (b->n) {                                          \
            LANES_CASE(1, call, bits, BLOCK_VECTORS)             \
            LANES_CASE(2, call, bits, V_REGISTERS >= 32 ? 4 : 2) \
            LANES_CASE(3, call, bits, V_REGISTERS >= 32 ? 4 : 1) \
            LANES_CASE(4, call, bits, V_REGISTERS >= 32 ? 4 : 1) \
            more(call, bits)                                     \
        }                                                        \
    }

/* ---- keys ---- */

/* unit (q . k_const), in 16 lanes. */
V_INLINE float query_const(const page *p, const queries *qs, int n, int d) {
    if (!p->has_k_const) return 0;
    v16f sum = v_zero();
    for (int i = 0; i < d; i += V_LANES) sum = v_fma(v_load(qs->q[n] + i), v_load(p->k_const + i), sum);
    return v_hsum(sum) * qs->unit;
}

static void begin_block(block *b, const page *p, const queries *qs, float *state) {
    int d = b->head_dim, bits = p->k.bits;
    /* The codes' zero, less what the dot product takes away itself. */
    int zero = bits == 4 ? (p->k.sym ? 8 : 0) : (p->k.sym ? 128 : 0) - V_KEY_BIAS;
    for (int i = 0; i < b->n; i++) {
        int q = b->first + i;
        b->k_with[i] = bits == 16  ? (const void *)qs->q[q]
                       : bits == 8 ? (const void *)&qs->factors[q * d]
                                   : (const void *)&qs->bytes[q * d];
        b->k_plus[i] = query_const(p, qs, q, d);
        b->k_scale[i] = bits == 16 ? qs->unit : qs->scale[q];
        b->acc[i] = state + 2 * MAX_QUERIES + (size_t)q * (size_t)d;
        if (bits == 16) continue;
        b->k_start[i] = -zero * qs->sum[q];
        b->k_min[i] = qs->scale[q] * (float)qs->sum[q];
    }
}

V_LARGE void keys_of_codes(block *b, const page *p, int lane, const int bits, const int n, const int n_vectors) {
    v16i sums[BLOCK_QUERIES][BLOCK_VECTORS];
    for (int q = 0; q < n; q++)
        for (int v = 0; v < n_vectors; v++) sums[q][v] = v_set1_i(b->k_start[q]);
    dot_codes(sums, lanes_of(&p->k, lane, b->block_tokens, b->head_dim, bits, b->k_ahead), b->k_with, bits, false, n,
              n_vectors);
    const bool sym = p->k.sym;
    for (int v = 0; v < n_vectors; v++) {
        int t = lane + V_LANES * v;
        v16f scale = v_load_half(p->k.scales + t), plus[BLOCK_QUERIES];
        for (int q = 0; q < n; q++) plus[q] = v_set1(b->k_plus[q]);
        for (int q = 0; !sym && q < n; q++) plus[q] = v_fma(v_set1(b->k_min[q]), v_load_half(p->k.mins + t), plus[q]);
        for (int q = 0; q < n; q++)
            v_store(&b->x[q][t], v_fma(v_mul(v_set1(b->k_scale[q]), scale), v_float(sums[q][v]), plus[q]));
    }
}

V_LARGE void keys_of_halves(block *b, const page *p, int lane, const int bits, const int n, const int n_vectors) {
    v16f sums[BLOCK_QUERIES][BLOCK_VECTORS];
    for (int q = 0; q < n; q++)
        for (int v = 0; v < n_vectors; v++) sums[q][v] = v_zero();
    dot_halves(sums, lanes_of(&p->k, lane, b->block_tokens, b->head_dim, bits, b->k_ahead),
               (const float *const *)b->k_with, n, n_vectors);
    for (int q = 0; q < n; q++)
        for (int v = 0; v < n_vectors; v++)
            v_store(&b->x[q][lane + V_LANES * v], v_fma(v_set1(b->k_scale[q]), sums[q][v], v_set1(b->k_plus[q])));
}

LANES_FUNCTION(keys_4, keys_of_codes, 4, LANES_FEW)
LANES_FUNCTION(keys_8, keys_of_codes, 8, LANES_FEW)
LANES_FUNCTION(keys_16, keys_of_halves, 16, LANES_MANY)

/* Vectors of tokens that none of which is written are left out; their scores are masked whatever they are. */
static void keys(block *b, const page *p) {
    int n_lanes = (p->n_written + V_LANES - 1) / V_LANES * V_LANES;
    (p->k.bits == 4 ? keys_4 : p->k.bits == 8 ? keys_8 : keys_16)(b, p, n_lanes);
    for (int i = 0; n_lanes < b->block_tokens && i < b->n; i++)
        memset(&b->x[i][n_lanes], 0, (size_t)(b->block_tokens - n_lanes) * sizeof b->x[i][0]);
}

/* ---- soft-max ---- */

/* 2^x for x <= 0 (NaN for NaN): n = rint(x) by adding 1.5 2^23, 2^r on |r| <= 1/2 by a polynomial with constant term 1
 * (minimax, relative error 1.7e-7 in float), so 2^0 = 1 exactly; n goes into the exponent. Below -126: less than
 * 2^-125. */
V_LARGE v16f exp2_low(v16f x) {
    v16f magic = v_set1(12582912.0f), y = v_max(v_set1(-126.0f), x);
    v16f t = v_add(y, magic), r = v_sub(y, v_sub(t, magic));
    v16f p = v_fma(v_set1(0x1.5bba14p-10f), r, v_set1(0x1.3cea88p-7f));
    p = v_fma(p, r, v_set1(0x1.c6b752p-5f));
    p = v_fma(p, r, v_set1(0x1.ebf9bcp-3f));
    p = v_fma(p, r, v_set1(0x1.62e42ap-1f));
    p = v_fma(p, r, v_set1(1.0f));
    return v_from_bits(v_add_i(v_bits(p), v_shl_i(v_bits(t), 23)));
}

V_LARGE void softcap_scores(v16f *x, float cap, const int n_vectors) {
    for (int v = 0; v < n_vectors; v++) x[v] = v_mul(v_tanh(v_mul(x[v], v_set1(1.0f / cap))), v_set1(cap * LOG2_E));
}

/* Minus infinity for tokens that a query at pos does not see. */
V_LARGE void mask_scores(v16f *x, const page *p, int pos, int window, const int n_vectors) {
    v16f last = v_set1((float)(pos - p->begin)), none = v_set1(-INFINITY);
    v16f before = v_set1(window ? (float)(pos - p->begin - window) : -1.0f);
    for (int v = 0; v < n_vectors; v++) {
        v16f index = v_float(v_add_i(v_lanes_i(), v_set1_i(V_LANES * v)));
        x[v] = v_select_lt(last, index, none, x[v]);
        x[v] = v_select_lt(before, index, x[v], none);
    }
}

V_LARGE float largest_of(const v16f *x, const int n_vectors) {
    v16f largest = x[0];
    for (int v = 1; v < n_vectors; v++) largest = v_max(x[v], largest);
    return v_hmax(largest);
}

/* Query i's scores as they count, and the largest of them. */
V_LARGE void finish_scores(block *b, int i, const page *p, const queries *qs, const kvq_attend *job,
                           const int n_vectors) {
    v16f x[MAX_TOKENS / V_LANES];
    for (int v = 0; v < n_vectors; v++) x[v] = v_load(&b->x[i][V_LANES * v]);
    if (job->softcap > 0) softcap_scores(x, job->softcap, n_vectors);
    if (p->masked) mask_scores(x, p, qs->pos[b->first + i], job->window, n_vectors);
    for (int v = 0; (job->softcap > 0 || p->masked) && v < n_vectors; v++) v_store(&b->x[i][V_LANES * v], x[v]);
    b->largest[i] = largest_of(x, n_vectors);
}

/* x of the tokens that a query sees, whose scores less the maximum are y; seen: any at all. What V has of the others
 * may be infinite, which times a probability of zero is a NaN. */
V_INLINE v16f only_seen(bool seen, v16f y, v16f x) {
    return seen ? v_select_lt(y, v_set1(-3e38f), v_zero(), x) : v_zero();
}

/* They become probabilities relative to the new maximum; all 0, with the maximum unchanged, if all tokens are masked.
 * Codes: times V's scales, with what its minimums add up to. */
V_LARGE void softmax(block *b, int i, const page *p, float *max, const bool halves, const int n_vectors) {
    v16f x[MAX_TOKENS / V_LANES];
    float here = b->largest[i], new_max = here > *max ? here : *max;
    v16f total = v_zero(), plus = v_zero();
    b->seen[i] = !(here == -INFINITY);
    b->fall[i] = b->seen[i] ? *max - new_max : 0;
    *max = new_max;
    for (int v = 0; v < n_vectors; v++) {
        v16f y = v_sub(v_load(&b->x[i][V_LANES * v]), v_set1(new_max));
        x[v] = exp2_low(y);
        if (p->masked) x[v] = only_seen(b->seen[i], y, x[v]);
        total = v_add(total, x[v]);
        if (!halves && !p->v.sym) {
            v16f min = v_load(p->v_min + V_LANES * v);
            plus = v_fma(x[v], p->masked ? only_seen(b->seen[i], y, min) : min, plus);
        }
        if (!halves) {
            v16f scale = v_load(p->v_scale + V_LANES * v);
            x[v] = v_mul(x[v], p->masked ? only_seen(b->seen[i], y, scale) : scale);
        }
        v_store(&b->x[i][V_LANES * v], x[v]);
    }
    b->total[i] = v_hsum(total);
    if (halves) return;
    b->v_plus[i] = p->v.sym ? 0 : v_hsum(plus);
    b->largest[i] = largest_of(x, n_vectors);
}

/* 64 weights as bytes, or as many as there are from x on. */
V_INLINE v64b weights_as_bytes(const v16i *x, const int n_vectors) {
    return v_narrow_b(x[0], x[1], n_vectors > 2 ? x[2] : v_zero_i(), n_vectors > 2 ? x[3] : v_zero_i());
}

/* Probabilities times V's scales to bytes, with what the codes' zero adds up to. */
V_LARGE void weights_to_bytes(block *b, int i, const page *p, const int n_vectors) {
    const float max = b->largest[i];
    v16f per_byte = v_set1(max > 1e-30f ? 255.0f / max : 0.0f);
    v16i byte[MAX_TOKENS / V_LANES], zero = v_zero_i();
    const int lack = p->v.bits == 4 ? V_PART_LACK * n_vectors : 0; /* of one lane, as many tokens as there are lanes */
    for (int v = 0; v < n_vectors; v++) byte[v] = v_rint(v_mul(v_load(&b->x[i][V_LANES * v]), per_byte));
    if (p->v.bits == 4) {
        for (int v = 0; v < n_vectors; v += 4) {
            v64b bytes = weights_as_bytes(byte + v, n_vectors - v);
            v_store_b(&b->w_bytes[i][V_LANES * v], bytes);
            if (p->v.sym) zero = v_dot_nibble(zero, bytes, v_load_b(p->v_zero + V_LANES * v));
        }
    } else {
        for (int v = 0; v < n_vectors; v++) {
            v_store_factors(&b->w_factors[i][V_LANES * v], byte[v]);
            zero = v_add_i(zero, byte[v]);
        }
        zero =
            v_mul_i(zero, v_set1_i((p->v.sym ? 128 : 0) - V_VALUE_BIAS)); /* in lanes, where a NaN's bytes may wrap */
    }
    b->v_start[i] = v_hsum_i(v_sub_i(v_set1_i(lack), zero));
    b->v_scale[i] = max * (1.0f / 255.0f);
}

/* All queries of the block, from their scores to what V is multiplied with; compiled for each page length and kind. One
 * step for all queries and then the next: each ends in a number that the following one waits for. */
#define WEIGH_FUNCTION(name, halves, n_vectors)                                                       \
    static void name(block *b, const page *p, const queries *qs, const kvq_attend *job, float *max) { \
        for (int i = 0; i < b->n; i++) finish_scores(b, i, p, qs, job, n_vectors);                    \
        for (int i = 0; i < b->n; i++) softmax(b, i, p, max + b->first + i, halves, n_vectors);       \
        for (int i = 0; !(halves) && i < b->n; i++) weights_to_bytes(b, i, p, n_vectors);             \
    }
WEIGH_FUNCTION(weigh_codes_32, false, 2)
WEIGH_FUNCTION(weigh_codes_64, false, 4)
WEIGH_FUNCTION(weigh_codes_128, false, 8)
WEIGH_FUNCTION(weigh_halves_32, true, 2)
WEIGH_FUNCTION(weigh_halves_64, true, 4)
WEIGH_FUNCTION(weigh_halves_128, true, 8)

static void weigh(block *b, const page *p, const queries *qs, const kvq_attend *job, float *state) {
    static void (*const functions[2][3])(block *, const page *, const queries *, const kvq_attend *, float *) = {
        {weigh_codes_32, weigh_codes_64, weigh_codes_128}, {weigh_halves_32, weigh_halves_64, weigh_halves_128}};
    v_store(b->fall, v_zero());
    functions[p->k.bits == 16][b->block_tokens / 64](b, p, qs, job, state); /* 32, 64, 128: 0, 1, 2 */
    v_store(b->correction, exp2_low(v_load(b->fall)));
    for (int i = 0; i < b->n; i++) {
        float *sum = &state[MAX_QUERIES + b->first + i];
        *sum = fmaf(*sum, b->correction[i], b->total[i]);
    }
}

/* ---- values ---- */

V_LARGE void values_of_codes(block *b, const page *p, int lane, const int bits, const int n, const int n_vectors) {
    v16i sums[BLOCK_QUERIES][BLOCK_VECTORS];
    const void *with[BLOCK_QUERIES];
    for (int q = 0; q < n; q++) {
        with[q] = bits == 4 ? (const void *)b->w_bytes[q] : (const void *)b->w_factors[q];
        for (int v = 0; v < n_vectors; v++) sums[q][v] = v_set1_i(b->v_start[q]);
    }
    dot_codes(sums, lanes_of(&p->v, lane, b->head_dim, b->block_tokens, bits, b->v_ahead), with, bits, true, n,
              n_vectors);
    for (int q = 0; q < n; q++) {
        if (!b->seen[q]) continue;
        v16f scale = v_set1(b->v_scale[q]), plus = v_set1(b->v_plus[q]), correction = v_set1(b->correction[q]);
        for (int v = 0; v < n_vectors; v++) {
            float *to = b->acc[q] + lane + V_LANES * v;
            v16f old = v_fma(v_load(to), correction, plus);
            v_store(to, v_fma(scale, v_float(sums[q][v]), old));
        }
    }
}

V_LARGE void values_of_halves(block *b, const page *p, int lane, const int bits, const int n, const int n_vectors) {
    v16f sums[BLOCK_QUERIES][BLOCK_VECTORS];
    const float *with[BLOCK_QUERIES];
    for (int q = 0; q < n; q++) {
        with[q] = b->x[q];
        for (int v = 0; v < n_vectors; v++) sums[q][v] = v_zero();
    }
    dot_halves(sums, lanes_of(&p->v, lane, b->head_dim, p->n_written, bits, b->v_ahead), with, n, n_vectors);
    for (int q = 0; q < n; q++) {
        if (!b->seen[q]) continue;
        for (int v = 0; v < n_vectors; v++) {
            float *to = b->acc[q] + lane + V_LANES * v;
            v_store(to, v_fma(v_load(to), v_set1(b->correction[q]), sums[q][v]));
        }
    }
}

LANES_FUNCTION(values_4, values_of_codes, 4, LANES_FEW)
LANES_FUNCTION(values_8, values_of_codes, 8, LANES_FEW)
LANES_FUNCTION(values_16, values_of_halves, 16, LANES_MANY)

static void values(block *b, const page *p) {
    (p->v.bits == 4 ? values_4 : p->v.bits == 8 ? values_8 : values_16)(b, p, b->head_dim);
}

/* ---- a page, a split ---- */

/* Queries of the next block, of `left`: a number that LANES_FUNCTION has. The more, the fewer times halves are turned
 * into floats: prefill of 512 rows is 4 % faster with 12, where registers hold them; codes gain nothing. */
static int next_block(int left, int bits) {
    if (bits == 16 && left >= 6) return left >= 12 && V_REGISTERS >= 32 ? 12 : 6;
    return left / ((left + 3) / 4); /* blocks of up to 4, as equal as they can be */
}

static void attend_page(const page *p, const queries *qs, const kvq_attend *job, float *state) {
    block b;
    b.head_dim = job->kv->head_dim;
    b.block_tokens = job->kv->block_tokens;
    for (b.first = 0; b.first < qs->n; b.first += b.n) {
        b.n = next_block(qs->n - b.first, p->k.bits);
        bool is_last = b.first + b.n == qs->n;
        b.k_ahead = is_last ? p->k_ahead : 0;
        b.v_ahead = is_last ? p->v_ahead : 0;
        begin_block(&b, p, qs, state);
        keys(&b, p);
        weigh(&b, p, qs, job, state);
        values(&b, p);
    }
}

static void prefetch_halves(const uint16_t *from, int n) {
    for (int i = 0; from && i < n; i += 32) v_prefetch(from + i);
}

/* Page p says where the one that comes next is: blocks lie apart, so the hardware cannot guess where it goes on. Its
 * codes are asked for in the course of this page's, what they are scaled with at once. */
static void look_ahead(page *p, const kvq_attend_tile *tile, int index) {
    const kvq_kv *kv = tile->job->kv;
    kvq_kv_half k, v;
    halves_of(tile, index, &k, &v);
    p->k_ahead = (uintptr_t)k.codes - (uintptr_t)p->k.codes;
    p->v_ahead = (uintptr_t)v.codes - (uintptr_t)p->v.codes;
    prefetch_halves(k.scales, kv->block_tokens);
    prefetch_halves(k.mins, kv->block_tokens);
    prefetch_halves(k.mean, kv->head_dim);
    prefetch_halves(v.scales, kv->block_tokens);
    prefetch_halves(v.mins, kv->block_tokens);
}

/* Makes a state empty: nothing seen. */
static void clear_state(float *state, int n_queries, int d) {
    for (int n = 0; n < n_queries; n++) {
        state[n] = -INFINITY;
        state[MAX_QUERIES + n] = 0;
    }
    memset(state + 2 * MAX_QUERIES, 0, (size_t)n_queries * (size_t)d * sizeof *state);
}

static void attend_split(const kvq_attend_tile *tile, int split, float *state) {
    const kvq_attend *job = tile->job;
    int n_tokens = job->kv->block_tokens, pos_begin = job->batch->pos[tile->row_begin];
    int first = job->window && pos_begin >= job->window ? (pos_begin - job->window + 1) / n_tokens : 0;
    int last = pos_begin / n_tokens; /* a tile's rows lie in one page */
    int begin = split * KVQ_SPLIT_PAGES > first ? split * KVQ_SPLIT_PAGES : first;
    int end = (split + 1) * KVQ_SPLIT_PAGES < last + 1 ? (split + 1) * KVQ_SPLIT_PAGES : last + 1;
    queries qs;
    page p;
    load_queries(&qs, tile);
    clear_state(state, qs.n, job->kv->head_dim);
    for (int i = begin; i < end; i++) {
        load_page(&p, tile, i);
        p.k_ahead = p.v_ahead = 0;
        if (i < last) look_ahead(&p, tile, i + 1); /* into the next split, too */
        attend_page(&p, &qs, job, state);
    }
}

/* into = both; the factor of the side with the larger maximum is 1. An empty side changes nothing. */
static void attend_merge(float *into, const float *from, int n_queries, int d) {
    for (int n = 0; n < n_queries; n++) {
        if (from[n] == -INFINITY) continue;
        float max = into[n] > from[n] ? into[n] : from[n], factor[V_LANES] = {into[n] - max, from[n] - max};
        v_store(factor, exp2_low(v_load(factor)));
        v16f keep = v_set1(factor[0]), add = v_set1(factor[1]);
        into[n] = max;
        into[MAX_QUERIES + n] = fmaf(into[MAX_QUERIES + n], factor[0], from[MAX_QUERIES + n] * factor[1]);
        float *to = into + 2 * MAX_QUERIES + (size_t)n * (size_t)d;
        const float *acc = from + 2 * MAX_QUERIES + (size_t)n * (size_t)d;
        for (int i = 0; i < d; i += V_LANES) v_store(to + i, v_fma(v_load(to + i), keep, v_mul(v_load(acc + i), add)));
    }
}

V_INLINE void finish_query(const int d, float *out, const float *acc, float total, bool rotated) {
    v16f x[HEAD_VECTORS], unit = v_set1(1.0f / total);
    for (int v = 0; v < d / V_LANES; v++) x[v] = v_mul(v_load(acc + V_LANES * v), unit);
    if (rotated) head_hadamard(x, d);
    head_store(out, d, x);
}

static void attend_finish(const kvq_attend_tile *tile, const float *state) {
    const kvq_attend *job = tile->job;
    bool rotated = job->kv->policy->rotated;
    int d = job->kv->head_dim;
    for (int n = 0; n < tile->n_rows * tile->n_heads; n++) {
        int r = tile->row_begin + n / tile->n_heads, h = tile->head_begin + n % tile->n_heads;
        const float *acc = state + 2 * MAX_QUERIES + (size_t)n * (size_t)d;
        float *out = job->out + ((size_t)r * (size_t)job->n_heads + (size_t)h) * (size_t)d;
        HEAD_CALL(finish_query, d, out, acc, state[MAX_QUERIES + n], rotated);
    }
}

static void attend(kvq_stream *s, const kvq_attend *job) {
    static const kvq_attend_kernels kernels = {attend_split, attend_merge, attend_finish};
    kvq_cpu_attend(s, job, &kernels);
}
