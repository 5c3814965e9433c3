/* attend_tmpl.h: attention of one tile over one split of the cache, on the codes. Included after vmath_tmpl.h
 * and head_tmpl.h by kv_generic.c, kv_avx2.c, kv_avx512.c; called through attend.c.
 *
 * A page at a time, for BLOCK_QUERIES queries at a time:
 *   scores   lanes are tokens: one load of K codes [d/4][T][4] is 16 tokens x 4 channels, 4 query bytes in every lane
 *   weigh    soft-max over 16 lanes of tokens, one maximum a page; probabilities times V's scales to bytes
 *   values   lanes are channels: one load of V codes [T/4][d][4] is 16 channels x 4 tokens, 4 probability bytes in
 * every lane Integer sums run over a whole page, then go to the float accumulator with one fused multiply-add: so the
 * bits of a result do not depend on the instruction set, nor on which queries share a tile.
 *
 * Bytes that cannot be avoided: the page's codes and scales, once per tile: (66 d + 256) per page and KV head at 4
 * bits. Operations: d T / 16 dot instructions per query for K and V each at 64 products an instruction. */
#include <math.h>

#include "../formats.h"
#include "../hadamard.h"
#include "attend.h"

/* Accumulators a block keeps in registers: BLOCK_QUERIES x BLOCK_VECTORS. */
#define BLOCK_QUERIES (V_REGISTERS >= 32 ? 4 : 2)
#define BLOCK_VECTORS (V_REGISTERS >= 32 ? 4 : 2)
#define BLOCK_QUERIES_MOST 4
#define BLOCK_VECTORS_MOST 4
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
    int8_t bytes[MAX_QUERIES][KVQ_MAX_HEAD_DIM];
} queries;

/* A page as the tile sees it. */
typedef struct page {
    kvq_kv_half k, v;
    int begin;     /* position of its first token */
    int n_written; /* tokens that the tile may look at: up to its last row's position */
    bool masked;   /* some query does not see all of it */
    bool has_k_const;
    float k_const[KVQ_MAX_HEAD_DIM];              /* k_mean + k_ref */
    float k_scale[MAX_TOKENS], k_min[MAX_TOKENS]; /* k_min only when asym */
    float v_scale[MAX_TOKENS], v_min[MAX_TOKENS]; /* magnitudes; 0 behind n_written */
    int32_t v_mirrored[MAX_TOKENS];               /* -1 for tokens whose 4-bit codes are mirrored, else 0 */
} page;

/* What one block of queries knows of the page. */
typedef struct block {
    int first, n; /* queries [first, first + n) of the tile */
    bool seen[BLOCK_QUERIES_MOST];
    float correction[BLOCK_QUERIES_MOST];                        /* of what the state has so far */
    float w_scale[BLOCK_QUERIES_MOST], plus[BLOCK_QUERIES_MOST]; /* value = w_scale * (integer sum - zero) + plus */
    int32_t zero[BLOCK_QUERIES_MOST];
    int32_t sums[BLOCK_QUERIES_MOST][MAX_TOKENS]; /* products of codes with K */
    float w[BLOCK_QUERIES_MOST][MAX_TOKENS];      /* halves: products with K, then probabilities */
    uint8_t w_bytes[BLOCK_QUERIES_MOST][MAX_TOKENS];
} block;

/* ---- queries ---- */

static void quantize_query(queries *qs, int n, int d, float scale) {
    const float *q = qs->q[n];
    v16f largest = v_zero();
    for (int i = 0; i < d; i += V_LANES) largest = v_max(v_abs(v_load(q + i)), largest);
    float max = v_hmax(largest);
    v16f per_code = v_set1(max > 1e-30f ? 127.0f / max : 0.0f);
    v16i sum = v_zero_i();
    for (int i = 0; i < d; i += V_LANES) {
        v16f x = v_mul(v_load(q + i), per_code);
        v16i code = v_rint(v_min(v_max(x, v_set1(-127.0f)), v_set1(127.0f)));
        v_store_low_b(&qs->bytes[n][i], code);
        sum = v_add_i(sum, code);
    }
    qs->sum[n] = v_hsum_i(sum);
    qs->scale[n] = max * (1.0f / 127.0f) * scale;
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
        if (job->kv->policy->k_bits != 16) quantize_query(qs, n, d, qs->unit);
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

static void load_scales(page *p, int n_tokens) {
    for (int t = 0; t < n_tokens; t += V_LANES) {
        v16f v_scale = v_load_half(p->v.scales + t);
        v_store(p->k_scale + t, v_load_half(p->k.scales + t));
        v_store(p->v_scale + t, only_written(p, t, v_abs(v_scale)));
        v16i sign = v_shr_i(v_bits(v_scale), 31);
        v_store_i(p->v_mirrored + t, v_sub_i(v_zero_i(), sign));
        if (p->k.sym) continue;
        v_store(p->k_min + t, v_load_half(p->k.mins + t));
        v_store(p->v_min + t, only_written(p, t, v_load_half(p->v.mins + t)));
    }
}

static void load_page(page *p, const kvq_attend_tile *tile, int index) {
    const kvq_attend *job = tile->job;
    const kvq_kv *kv = job->kv;
    const kvq_batch *b = job->batch;
    int n_tokens = kv->block_tokens, pos_begin = b->pos[tile->row_begin];
    int pos_last = pos_begin + tile->n_rows - 1;
    const kvq_kv_page *place = &b->seqs[tile->seq].pages[kv->layers[job->layer].group][index];
    if (kvq_kv_sees_wide(kv, pos_begin, index))
        kvq_kv_wide_halves(kv, job->layer, place, b->scratch, b->scratch_slot_bytes, tile->g, &p->k, &p->v);
    else
        kvq_kv_closed_halves(kv, job->layer, place, tile->g, &p->k, &p->v);
    p->begin = index * n_tokens;
    p->n_written = pos_last - p->begin + 1 < n_tokens ? pos_last - p->begin + 1 : n_tokens;
    p->masked = p->begin + n_tokens - 1 > pos_begin || (job->window && p->begin <= pos_last - job->window);
    load_k_const(p, job, index, tile->g);
    if (p->k.bits != 16) load_scales(p, n_tokens);
}

/* ---- integer products ---- */

/* A sum of products over `inner` for n queries and some lanes: out[n][lane], row_bytes from one row of lanes to the
 * next. */
typedef struct dot {
    const uint8_t *codes;
    size_t row_bytes, out_step;
    int inner;
    void *out;                            /* int32_t, or float for halves */
    const void *with[BLOCK_QUERIES_MOST]; /* bytes, or floats for halves */
} dot;

/* K: codes unsigned, bytes signed. V: bytes unsigned, codes unsigned, or with bits 8 what v_value_b made of them. */
V_INLINE v16i dot_four(v16i sum, v64b code, v64b bytes, const int bits, const bool is_v) {
    if (is_v) return bits == 4 ? v_dot_nibble(sum, bytes, code) : v_dot_value(sum, bytes, code);
    return bits == 4 ? v_dot_narrow(sum, code, bytes) : v_dot_wide(sum, code, bytes);
}

/* sums[n][v] += codes times bytes over `inner` values, for n_vectors x 16 lanes from job->codes on: the layout of K
 * (inner: channels, lanes: tokens) and of V (the other way round). */
V_INLINE void dot_codes(v16i sums[BLOCK_QUERIES_MOST][BLOCK_VECTORS_MOST], const dot *job, const int bits,
                        const bool is_v, const int n, const int n_vectors) {
    const uint8_t *codes = job->codes;
    for (int j = 0; j < job->inner; j += 32 / bits, codes += job->row_bytes) {
        v64b code[BLOCK_VECTORS_MOST], high[BLOCK_VECTORS_MOST];
        for (int v = 0; v < n_vectors; v++) {
            code[v] = v_load_b(codes + 4 * V_LANES * v);
            if (bits == 8 && is_v) code[v] = v_value_b(code[v]);
            if (bits == 4) high[v] = v_high_b(code[v]), code[v] = v_low_b(code[v]);
        }
        for (int q = 0; q < n; q++) {
            v64b x = v_splat4((const uint8_t *)job->with[q] + j);
            for (int v = 0; v < n_vectors; v++) sums[q][v] = dot_four(sums[q][v], code[v], x, bits, is_v);
            if (bits != 4) continue;
            x = v_splat4((const uint8_t *)job->with[q] + j + 4);
            for (int v = 0; v < n_vectors; v++) sums[q][v] = dot_four(sums[q][v], high[v], x, bits, is_v);
        }
    }
}

/* The same, stored. */
V_INLINE void dot_block(const dot *job, const int bits, const bool is_v, const int n, const int n_vectors) {
    v16i sums[BLOCK_QUERIES_MOST][BLOCK_VECTORS_MOST];
    for (int q = 0; q < n; q++)
        for (int v = 0; v < n_vectors; v++) sums[q][v] = v_zero_i();
    dot_codes(sums, job, bits, is_v, n, n_vectors);
    for (int q = 0; q < n; q++)
        for (int v = 0; v < n_vectors; v++)
            v_store_i((int32_t *)job->out + (size_t)q * job->out_step + (size_t)(V_LANES * v), sums[q][v]);
}

/* Halves times floats: out[n][lane] = sum over inner of with[n][i] halves[i][lane], one chain a lane. */
V_INLINE void dot_block_halves(const dot *job, const int n, const int n_vectors) {
    const uint8_t *row = job->codes;
    v16f sums[BLOCK_QUERIES_MOST][BLOCK_VECTORS_MOST];
    for (int q = 0; q < n; q++)
        for (int v = 0; v < n_vectors; v++) sums[q][v] = v_zero();
    for (int i = 0; i < job->inner; i++, row += job->row_bytes) {
        v16f x[BLOCK_VECTORS_MOST];
        for (int v = 0; v < n_vectors; v++) x[v] = v_load_half((const uint16_t *)row + V_LANES * v);
        for (int q = 0; q < n; q++) {
            v16f w = v_set1(((const float *)job->with[q])[i]);
            for (int v = 0; v < n_vectors; v++) sums[q][v] = v_fma(x[v], w, sums[q][v]);
        }
    }
    for (int q = 0; q < n; q++)
        for (int v = 0; v < n_vectors; v++)
            v_store((float *)job->out + (size_t)q * job->out_step + (size_t)(V_LANES * v), sums[q][v]);
}

/* A function whose inner loop is compiled for every block size that occurs. */
#define DOT_CASE(n, n_vectors, call) \
    case (n)*8 + (n_vectors):        \
        call(n, n_vectors);          \
        break;
#define DOT_FUNCTION(name, call)                             \
    static void name(const dot *job, int n, int n_vectors) { \
        switch (n * 8 + n_vectors) {                         \
            DOT_CASE(1, 1, call)                             \
            DOT_CASE(1, 2, call)                             \
            DOT_CASE(2, 1, call)                             \
            DOT_CASE(2, 2, call)                             \
            DOT_CASES_LARGE(call)                            \
        }                                                    \
    }
#if V_REGISTERS >= 32
#define DOT_CASES_LARGE(call) \
    DOT_CASE(1, 3, call)      \
    DOT_CASE(1, 4, call)      \
    DOT_CASE(2, 3, call)      \
    DOT_CASE(2, 4, call)      \
    DOT_CASE(3, 1, call)      \
    DOT_CASE(3, 2, call)      \
    DOT_CASE(3, 3, call)      \
    DOT_CASE(3, 4, call)      \
    DOT_CASE(4, 1, call)      \
    DOT_CASE(4, 2, call)      \
    DOT_CASE(4, 3, call)      \
    DOT_CASE(4, 4, call)
#else
#define DOT_CASES_LARGE(call)
#endif
#define DOT_K4(n, n_vectors) dot_block(job, 4, false, n, n_vectors)
#define DOT_K8(n, n_vectors) dot_block(job, 8, false, n, n_vectors)
#define DOT_V4(n, n_vectors) dot_block(job, 4, true, n, n_vectors)
#define DOT_V8(n, n_vectors) dot_block(job, 8, true, n, n_vectors)
#define DOT_HALVES(n, n_vectors) dot_block_halves(job, n, n_vectors)
DOT_FUNCTION(dot_k4, DOT_K4)
DOT_FUNCTION(dot_k8, DOT_K8)
DOT_FUNCTION(dot_v4, DOT_V4)
DOT_FUNCTION(dot_v8, DOT_V8)
DOT_FUNCTION(dot_halves, DOT_HALVES)

/* All lanes of a half, BLOCK_VECTORS vectors at a time. */
static void dot_lanes(dot *job, int n, int n_lanes, int bits, bool is_v) {
    static void (*const functions[2][2])(const dot *, int, int) = {{dot_k4, dot_k8}, {dot_v4, dot_v8}};
    size_t lane_bytes = bits == 16 ? 2 : 4;
    job->row_bytes = (size_t)n_lanes * lane_bytes;
    for (int lane = 0; lane < n_lanes; lane += BLOCK_VECTORS * V_LANES) {
        int n_vectors = (n_lanes - lane) / V_LANES < BLOCK_VECTORS ? (n_lanes - lane) / V_LANES : BLOCK_VECTORS;
        if (bits == 16)
            dot_halves(job, n, n_vectors);
        else
            functions[is_v][bits == 8](job, n, n_vectors);
        job->codes += (size_t)(BLOCK_VECTORS * V_LANES) * lane_bytes;
        job->out = (int32_t *)job->out + BLOCK_VECTORS * V_LANES;
    }
}

/* ---- scores ---- */

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

/* unit (q . k_const), in 16 lanes. */
V_INLINE float query_const(const page *p, const queries *qs, int n, int d) {
    if (!p->has_k_const) return 0;
    v16f sum = v_zero();
    for (int i = 0; i < d; i += V_LANES) sum = v_fma(v_load(qs->q[n] + i), v_load(p->k_const + i), sum);
    return v_hsum(sum) * qs->unit;
}

V_LARGE void scores_of_codes(v16f *x, const int32_t *sums, const page *p, const queries *qs, int q, int d,
                             const int n_vectors) {
    /* What the dot product took as the codes' zero: nothing at 4 bits, V_WIDE_BIAS at 8. */
    int zero = p->k.bits == 4 ? (p->k.sym ? 8 : 0) : (p->k.sym ? 128 : 0) - V_WIDE_BIAS;
    v16f plus = v_set1(query_const(p, qs, q, d)), scale = v_set1(qs->scale[q]);
    v16f min_scale = v_set1(qs->scale[q] * (float)qs->sum[q]);
    v16i zeros = v_set1_i(zero * qs->sum[q]);
    for (int v = 0; v < n_vectors; v++) {
        v16f dots = v_float(v_sub_i(v_load_i(sums + V_LANES * v), zeros));
        v16f rest = p->k.sym ? plus : v_fma(min_scale, v_load(p->k_min + V_LANES * v), plus);
        x[v] = v_fma(v_mul(scale, v_load(p->k_scale + V_LANES * v)), dots, rest);
    }
}

V_LARGE void scores_of_halves(v16f *x, const float *sums, const page *p, const queries *qs, int q, int d,
                              const int n_vectors) {
    v16f plus = v_set1(query_const(p, qs, q, d)), scale = v_set1(qs->unit);
    for (int v = 0; v < n_vectors; v++) x[v] = v_fma(scale, v_load(sums + V_LANES * v), plus);
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

/* ---- soft-max ---- */

/* Scores become probabilities relative to the new maximum; false, with nothing changed, if all are masked. */
V_LARGE bool softmax(v16f *x, float *max, float *sum, float *correction, bool masked, const int n_vectors) {
    v16f largest = x[0], total = v_zero();
    for (int v = 1; v < n_vectors; v++) largest = v_max(x[v], largest);
    float here = v_hmax(largest), before[V_LANES];
    if (here == -INFINITY) return false;
    float new_max = here > *max ? here : *max;
    for (int v = 0; v < n_vectors; v++) {
        v16f y = v_sub(x[v], v_set1(new_max));
        x[v] = exp2_low(y);
        if (masked) x[v] = v_select_lt(y, v_set1(-3e38f), v_zero(), x[v]);
        total = v_add(total, x[v]);
    }
    v_store(before, exp2_low(v_set1(*max - new_max)));
    *correction = before[0];
    *sum = fmaf(*sum, before[0], v_hsum(total));
    *max = new_max;
    return true;
}

/* Probabilities times V's scales to bytes, with what the codes' zero and minimum add up to. */
V_LARGE void weights_to_bytes(v16f *x, block *b, int n, const page *p, const int n_vectors) {
    v16f largest = v_zero(), plus = v_zero();
    for (int v = 0; v < n_vectors; v++) {
        if (!p->v.sym) plus = v_fma(x[v], v_load(p->v_min + V_LANES * v), plus);
        x[v] = v_mul(x[v], v_load(p->v_scale + V_LANES * v));
        largest = v_max(x[v], largest);
    }
    float max = v_hmax(largest);
    v16f per_byte = v_set1(max > 1e-30f ? 255.0f / max : 0.0f);
    /* Zeros of the codes as the dot product sees them: 8 or, mirrored, 7 at 4 bits; at 8 bits one for all. */
    const int zero8 = p->v.bits == 8 ? (p->v.sym ? 128 : 0) - V_VALUE_BIAS : 0;
    v16i zero = v_zero_i();
    for (int v = 0; v < n_vectors; v++) {
        v16i byte = v_rint(v_mul(x[v], per_byte));
        v_store_low_b(&b->w_bytes[n][V_LANES * v], byte);
        if (p->v.bits == 4 && p->v.sym)
            zero = v_add_i(zero, v_sub_i(v_shl_i(byte, 3), v_and_i(byte, v_load_i(p->v_mirrored + V_LANES * v))));
        if (zero8 != 0) zero = v_add_i(zero, byte);
    }
    if (zero8 != 0) zero = v_mul_i(zero, v_set1_i(zero8)); /* in lanes, where a NaN's bytes may wrap */
    bool has_zero = zero8 != 0 || (p->v.bits == 4 && p->v.sym);
    b->zero[n] = has_zero ? v_hsum_i(zero) : 0;
    b->w_scale[n] = max * (1.0f / 255.0f);
    b->plus[n] = p->v.sym ? 0 : v_hsum(plus);
}

/* One query of the block, from its products with K to what V is multiplied with. */
V_LARGE void weigh_query(block *b, int n, const page *p, const queries *qs, const kvq_attend *job, float *state,
                         const bool halves, const int n_vectors) {
    v16f x[MAX_TOKENS / V_LANES];
    int q = b->first + n, d = job->kv->head_dim;
    if (halves)
        scores_of_halves(x, b->w[n], p, qs, q, d, n_vectors);
    else
        scores_of_codes(x, b->sums[n], p, qs, q, d, n_vectors);
    if (job->softcap > 0) softcap_scores(x, job->softcap, n_vectors);
    if (p->masked) mask_scores(x, p, qs->pos[q], job->window, n_vectors);
    b->seen[n] = softmax(x, &state[q], &state[MAX_QUERIES + q], &b->correction[n], p->masked, n_vectors);
    if (!b->seen[n])
        for (int v = 0; v < n_vectors; v++) x[v] = v_zero();
    if (!halves)
        weights_to_bytes(x, b, n, p, n_vectors);
    else
        for (int v = 0; v < n_vectors; v++) v_store(&b->w[n][V_LANES * v], x[v]);
}

/* All queries of the block; compiled for each page length and kind. */
#define WEIGH_FUNCTION(name, halves, n_vectors)                                                         \
    static void name(block *b, const page *p, const queries *qs, const kvq_attend *job, float *state) { \
        for (int n = 0; n < b->n; n++) weigh_query(b, n, p, qs, job, state, halves, n_vectors);         \
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
    functions[p->k.bits == 16][job->kv->block_tokens / 64](b, p, qs, job, state); /* 32, 64, 128: 0, 1, 2 */
}

static void dot_k(block *b, const page *p, const queries *qs, const kvq_attend *job) {
    bool halves = p->k.bits == 16;
    dot products = {.codes = p->k.codes, .out_step = MAX_TOKENS, .inner = job->kv->head_dim};
    products.out = halves ? (void *)b->w : (void *)b->sums;
    for (int n = 0; n < b->n; n++)
        products.with[n] = halves ? (const void *)qs->q[b->first + n] : (const void *)qs->bytes[b->first + n];
    dot_lanes(&products, b->n, job->kv->block_tokens, p->k.bits, false);
}

/* ---- values ---- */

static void add_value_codes(block *b, const page *p, float *acc, const kvq_attend *job) {
    int n_tokens = job->kv->block_tokens, d = job->kv->head_dim;
    int32_t sums[BLOCK_QUERIES_MOST][KVQ_MAX_HEAD_DIM];
    dot products = {.codes = p->v.codes, .out_step = KVQ_MAX_HEAD_DIM, .inner = n_tokens, .out = sums};
    for (int n = 0; n < b->n; n++) products.with[n] = b->w_bytes[n];
    dot_lanes(&products, b->n, d, p->v.bits, true);
    for (int n = 0; n < b->n; n++) {
        if (!b->seen[n]) continue;
        float *to = acc + (size_t)(b->first + n) * (size_t)d;
        v16i zero = v_set1_i(b->zero[n]);
        v16f scale = v_set1(b->w_scale[n]), plus = v_set1(b->plus[n]), correction = v_set1(b->correction[n]);
        for (int i = 0; i < d; i += V_LANES) {
            v16f sum = v_float(v_sub_i(v_load_i(&sums[n][i]), zero));
            v16f old = p->v.sym ? v_mul(v_load(to + i), correction) : v_fma(v_load(to + i), correction, plus);
            v_store(to + i, v_fma(scale, sum, old));
        }
    }
}

static void add_value_halves(block *b, const page *p, float *acc, const kvq_attend *job) {
    int d = job->kv->head_dim;
    float sums[BLOCK_QUERIES_MOST][KVQ_MAX_HEAD_DIM];
    dot products = {.codes = p->v.codes, .out_step = KVQ_MAX_HEAD_DIM, .inner = p->n_written, .out = sums};
    for (int n = 0; n < b->n; n++) products.with[n] = b->w[n];
    dot_lanes(&products, b->n, d, 16, true);
    for (int n = 0; n < b->n; n++) {
        if (!b->seen[n]) continue;
        float *to = acc + (size_t)(b->first + n) * (size_t)d;
        for (int i = 0; i < d; i += V_LANES)
            v_store(to + i, v_fma(v_load(to + i), v_set1(b->correction[n]), v_load(&sums[n][i])));
    }
}

/* ---- a page, a split ---- */

static void attend_block(block *b, const page *p, const queries *qs, const kvq_attend *job, float *state) {
    dot_k(b, p, qs, job);
    weigh(b, p, qs, job, state);
    if (p->k.bits == 16)
        add_value_halves(b, p, state + 2 * MAX_QUERIES, job);
    else
        add_value_codes(b, p, state + 2 * MAX_QUERIES, job);
}

static void attend_page(const page *p, const queries *qs, const kvq_attend *job, float *state) {
    block b;
    for (b.first = 0; b.first < qs->n; b.first += BLOCK_QUERIES) {
        b.n = qs->n - b.first < BLOCK_QUERIES ? qs->n - b.first : BLOCK_QUERIES;
        attend_block(&b, p, qs, job, state);
    }
}

static void prefetch_bytes(const uint8_t *from, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i += 64) v_prefetch(from + i);
}

/* Asks for a page while the one before it is computed: blocks lie apart, so the hardware cannot guess where it goes on.
 */
static void prefetch_page(const kvq_attend_tile *tile, int index) {
    const kvq_attend *job = tile->job;
    const kvq_kv *kv = job->kv;
    const kvq_kv_layer *layer = &kv->layers[job->layer];
    const kvq_batch *b = job->batch;
    const kvq_kv_page *place = &b->seqs[tile->seq].pages[layer->group][index];
    if (!kvq_kv_sees_wide(kv, b->pos[tile->row_begin], index)) {
        prefetch_bytes(place->block + layer->offset + (size_t)tile->g * layer->closed.bytes, layer->closed.bytes);
        return;
    }
    kvq_kv_half k, v;
    kvq_kv_wide_halves(kv, job->layer, place, b->scratch, b->scratch_slot_bytes, tile->g, &k, &v);
    prefetch_bytes(k.codes, kvq_kv_wide_half_bytes(kv->head_dim, kv->block_tokens));
    prefetch_bytes(v.codes, kvq_kv_wide_half_bytes(kv->head_dim, kv->block_tokens));
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
    kvq_attend_state_clear(state, qs.n, job->kv->head_dim);
    for (int i = begin; i < end; i++) {
        load_page(&p, tile, i);
        if (i + 1 < end) prefetch_page(tile, i + 1);
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

static void attend_finish(const kvq_attend_tile *tile, float *state) {
    const kvq_attend *job = tile->job;
    int d = job->kv->head_dim;
    for (int n = 0; n < tile->n_rows * tile->n_heads; n++) {
        int r = tile->row_begin + n / tile->n_heads, h = tile->head_begin + n % tile->n_heads;
        float *x = state + 2 * MAX_QUERIES + (size_t)n * (size_t)d;
        float *out = job->out + ((size_t)r * (size_t)job->n_heads + (size_t)h) * (size_t)d;
        v16f unit = v_set1(1.0f / state[MAX_QUERIES + n]);
        for (int i = 0; i < d; i += V_LANES) v_store(x + i, v_mul(v_load(x + i), unit));
        if (job->kv->policy->rotated) head_hadamard(x, d);
        memcpy(out, x, (size_t)d * sizeof *x);
    }
}

static void attend(kvq_stream *s, const kvq_attend *job) {
    static const kvq_attend_kernels kernels = {attend_split, attend_merge, attend_finish};
    kvq_cpu_attend(s, job, &kernels);
}
