/* attend_tmpl.h: attention of one tile over one split of the cache, on the codes. Included after vmath_tmpl.h
 * and head_tmpl.h by kv_generic.c, kv_avx2.c, kv_avx512.c; called through attend.c.
 *
 * A page at a time, for BLOCK_QUERIES queries at a time:
 *   scores   lanes are tokens: one load of K codes [d/4][T][4] is 16 tokens x 4 channels, 4 query bytes in every lane
 *   soft-max 16 lanes of tokens, one maximum a page; probabilities times V's scales to bytes
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
#define MAX_TOKENS 128 /* of a page */

/* The tile's queries: floats as append wrote them, bytes with one scale, the sum of the bytes (for the codes' zero). */
typedef struct queries {
    int n;
    const float *q[MAX_QUERIES];
    int pos[MAX_QUERIES];
    float scale[MAX_QUERIES]; /* of the bytes, times the job's scale */
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
    float max[V_LANES], correction[V_LANES];
    float w_scale[BLOCK_QUERIES_MOST], plus[BLOCK_QUERIES_MOST]; /* value = w_scale * (integer sum - zero) + plus */
    int32_t zero[BLOCK_QUERIES_MOST];
    float w[BLOCK_QUERIES_MOST][MAX_TOKENS]; /* scores, then probabilities (times V's scales when quantized) */
    uint8_t w_bytes[BLOCK_QUERIES_MOST][MAX_TOKENS];
} block;

/* ---- queries
 * ---------------------------------------------------------------------------------------------------------- */

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
    for (int n = 0; n < qs->n; n++) {
        int r = tile->row_begin + n / tile->n_heads, h = tile->head_begin + n % tile->n_heads;
        qs->q[n] = job->q + ((size_t)r * (size_t)job->n_heads + (size_t)h) * (size_t)d;
        qs->pos[n] = job->batch->pos[r];
        if (job->kv->policy->k_bits != 16)
            quantize_query(qs, n, d, job->scale);
        else
            qs->scale[n] = job->scale;
    }
}

/* ---- the page's constants
 * --------------------------------------------------------------------------------------------- */

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

/* ---- integer products
 * -------------------------------------------------------------------------------------------------- */

/* A sum of products over `inner` for n queries and some lanes: out[n][lane], row_bytes from one row of lanes to the
 * next. */
typedef struct dot {
    const uint8_t *codes;
    size_t row_bytes, out_step;
    int inner;
    void *out;                            /* int32_t, or float for halves */
    const void *with[BLOCK_QUERIES_MOST]; /* bytes, or floats for halves */
} dot;

/* sums[n][v] += codes times bytes over `inner` values, for n_vectors x 16 lanes from job->codes on: the layout of K
 * (inner: channels, lanes: tokens) and of V (the other way round). K: codes unsigned, bytes signed. V: bytes unsigned,
 * 8-bit codes signed. */
V_INLINE void dot_codes(v16i sums[BLOCK_QUERIES_MOST][BLOCK_VECTORS_MOST], const dot *job, const int bits,
                        const bool is_v, const int n, const int n_vectors) {
    const uint8_t *codes = job->codes;
    for (int j = 0; j < job->inner; j += 32 / bits, codes += job->row_bytes) {
        v64b code[BLOCK_VECTORS_MOST], high[BLOCK_VECTORS_MOST];
        for (int v = 0; v < n_vectors; v++) {
            code[v] = v_load_b(codes + 4 * V_LANES * v);
            if (bits == 8 && is_v) code[v] = v_flip_b(code[v]);
            if (bits == 4) high[v] = v_high_b(code[v]), code[v] = v_low_b(code[v]);
        }
        for (int q = 0; q < n; q++) {
            v64b x = v_splat4((const uint8_t *)job->with[q] + j);
            for (int v = 0; v < n_vectors; v++)
                sums[q][v] = bits == 4 ? v_dot_narrow(sums[q][v], is_v ? x : code[v], is_v ? code[v] : x)
                             : is_v ? v_dot_exact(sums[q][v], x, code[v])
                                       : v_dot_wide(sums[q][v], code[v], x);
            if (bits != 4) continue;
            x = v_splat4((const uint8_t *)job->with[q] + j + 4);
            for (int v = 0; v < n_vectors; v++)
                sums[q][v] = v_dot_narrow(sums[q][v], is_v ? x : high[v], is_v ? high[v] : x);
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

/* ---- scores
 * ------------------------------------------------------------------------------------------------------------ */

/* scale q . k_const, in 16 lanes. */
static float query_const(const page *p, const queries *qs, int n, int d, float scale) {
    if (!p->has_k_const) return 0;
    v16f sum = v_zero();
    for (int i = 0; i < d; i += V_LANES) sum = v_fma(v_load(qs->q[n] + i), v_load(p->k_const + i), sum);
    return v_hsum(sum) * scale;
}

static void score_codes(block *b, const page *p, const queries *qs, const kvq_attend *job) {
    int n_tokens = job->kv->block_tokens, d = job->kv->head_dim;
    int32_t sums[BLOCK_QUERIES_MOST][MAX_TOKENS];
    dot products = {.codes = p->k.codes, .out_step = MAX_TOKENS, .inner = d, .out = sums};
    for (int n = 0; n < b->n; n++) products.with[n] = qs->bytes[b->first + n];
    dot_lanes(&products, b->n, n_tokens, p->k.bits, false);

    /* What the dot product took as the codes' zero: nothing at 4 bits, V_WIDE_BIAS at 8. */
    int zero = p->k.bits == 4 ? (p->k.sym ? 8 : 0) : (p->k.sym ? 128 : 0) - V_WIDE_BIAS;
    for (int n = 0; n < b->n; n++) {
        int q = b->first + n;
        v16f plus = v_set1(query_const(p, qs, q, d, job->scale));
        v16f scale = v_set1(qs->scale[q]), min_scale = v_set1(qs->scale[q] * (float)qs->sum[q]);
        v16i zeros = v_set1_i(zero * qs->sum[q]);
        for (int t = 0; t < n_tokens; t += V_LANES) {
            v16f x = v_float(v_sub_i(v_load_i(&sums[n][t]), zeros));
            v16f rest = p->k.sym ? plus : v_fma(min_scale, v_load(p->k_min + t), plus);
            v_store(&b->w[n][t], v_fma(v_mul(scale, v_load(p->k_scale + t)), x, rest));
        }
    }
}

static void score_halves(block *b, const page *p, const queries *qs, const kvq_attend *job) {
    int n_tokens = job->kv->block_tokens, d = job->kv->head_dim;
    dot products = {.codes = p->k.codes, .out_step = MAX_TOKENS, .inner = d, .out = b->w};
    for (int n = 0; n < b->n; n++) products.with[n] = qs->q[b->first + n];
    dot_lanes(&products, b->n, n_tokens, 16, false);
    for (int n = 0; n < b->n; n++) {
        v16f plus = v_set1(query_const(p, qs, b->first + n, d, job->scale)), scale = v_set1(job->scale);
        for (int t = 0; t < n_tokens; t += V_LANES) v_store(&b->w[n][t], v_fma(scale, v_load(&b->w[n][t]), plus));
    }
}

static void softcap_scores(float *x, int n_tokens, float cap) {
    for (int t = 0; t < n_tokens; t += V_LANES) {
        v16f y = v_tanh(v_mul(v_load(x + t), v_set1(1.0f / cap)));
        v_store(x + t, v_mul(y, v_set1(cap)));
    }
}

/* Minus infinity for tokens that a query at pos does not see. */
static void mask_scores(float *x, const page *p, int n_tokens, int pos, int window) {
    float last = (float)(pos - p->begin), before = window ? last - (float)window : -1.0f;
    v16f none = v_set1(-INFINITY);
    for (int t = 0; t < n_tokens; t += V_LANES) {
        v16f index = v_float(v_add_i(v_lanes_i(), v_set1_i(t)));
        v16f y = v_select_lt(v_set1(last), index, none, v_load(x + t));
        v_store(x + t, v_select_lt(v_set1(before), index, y, none));
    }
}

/* ---- soft-max
 * ---------------------------------------------------------------------------------------------------------- */

/* The block's new maxima, and what the states so far are to be multiplied with. */
static void raise_maxima(block *b, int n_tokens, float *state_max) {
    float old[V_LANES] = {0};
    for (int n = 0; n < V_LANES; n++) b->max[n] = 0;
    for (int n = 0; n < b->n; n++) {
        v16f largest = v_load(b->w[n]);
        for (int t = V_LANES; t < n_tokens; t += V_LANES) largest = v_max(v_load(&b->w[n][t]), largest);
        float max = v_hmax(largest);
        b->seen[n] = max != -INFINITY;
        if (!b->seen[n]) continue;
        old[n] = state_max[b->first + n];
        b->max[n] = state_max[b->first + n] = max > old[n] ? max : old[n];
    }
    v_store(b->correction, v_exp(v_sub(v_load(old), v_load(b->max))));
}

/* Scores become probabilities; returns their sum. */
static float exponentiate(float *x, int n_tokens, float max) {
    v16f sum = v_zero();
    for (int t = 0; t < n_tokens; t += V_LANES) {
        v16f y = v_exp(v_sub(v_load(x + t), v_set1(max)));
        v_store(x + t, y);
        sum = v_add(sum, y);
    }
    return v_hsum(sum);
}

/* Probabilities times V's scales to bytes, with what the codes' zero and minimum add up to. */
static void quantize_weights(block *b, int n, const page *p, int n_tokens) {
    v16f largest = v_zero(), plus = v_zero();
    float *w = b->w[n];
    for (int t = 0; t < n_tokens; t += V_LANES) {
        v16f x = v_load(w + t);
        if (!p->v.sym) plus = v_fma(x, v_load(p->v_min + t), plus);
        x = v_mul(x, v_load(p->v_scale + t));
        v_store(w + t, x);
        largest = v_max(x, largest);
    }
    float max = v_hmax(largest);
    v16f per_byte = v_set1(max > 1e-30f ? 255.0f / max : 0.0f);
    v16i sum = v_zero_i(), mirrored = v_zero_i();
    for (int t = 0; t < n_tokens; t += V_LANES) {
        v16i byte = v_rint(v_min(v_mul(v_load(w + t), per_byte), v_set1(255.0f)));
        v_store_low_b(&b->w_bytes[n][t], byte);
        sum = v_add_i(sum, byte);
        mirrored = v_add_i(mirrored, v_and_i(byte, v_load_i(p->v_mirrored + t)));
    }
    int32_t all = v_hsum_i(sum);
    b->w_scale[n] = max * (1.0f / 255.0f);
    b->plus[n] = p->v.sym ? 0 : v_hsum(plus);
    if (p->v.bits == 4)
        b->zero[n] = p->v.sym ? 8 * all - v_hsum_i(mirrored) : 0;
    else
        b->zero[n] = p->v.sym ? 0 : -128 * all; /* the dot product takes 128 from 8-bit codes */
}

/* ---- values
 * ------------------------------------------------------------------------------------------------------------ */

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

/* ---- a page, a split
 * --------------------------------------------------------------------------------------------------- */

static void attend_block(block *b, const page *p, const queries *qs, const kvq_attend *job, float *state) {
    int n_tokens = job->kv->block_tokens;
    bool halves = p->k.bits == 16;
    float *state_max = state, *state_sum = state + MAX_QUERIES, *acc = state + 2 * MAX_QUERIES;
    if (halves)
        score_halves(b, p, qs, job);
    else
        score_codes(b, p, qs, job);
    for (int n = 0; n < b->n; n++) {
        if (job->softcap > 0) softcap_scores(b->w[n], n_tokens, job->softcap);
        if (p->masked) mask_scores(b->w[n], p, n_tokens, qs->pos[b->first + n], job->window);
    }
    raise_maxima(b, n_tokens, state_max);
    for (int n = 0; n < b->n; n++) {
        float sum = exponentiate(b->w[n], n_tokens, b->max[n]);
        if (!halves) quantize_weights(b, n, p, n_tokens);
        if (b->seen[n]) state_sum[b->first + n] = fmaf(state_sum[b->first + n], b->correction[n], sum);
    }
    if (halves)
        add_value_halves(b, p, acc, job);
    else
        add_value_codes(b, p, acc, job);
}

static void attend_page(const page *p, const queries *qs, const kvq_attend *job, float *state) {
    block b;
    for (b.first = 0; b.first < qs->n; b.first += BLOCK_QUERIES) {
        b.n = qs->n - b.first < BLOCK_QUERIES ? qs->n - b.first : BLOCK_QUERIES;
        attend_block(&b, p, qs, job, state);
    }
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
        attend_page(&p, &qs, job, state);
    }
}

/* into = both; the factor of the side with the larger maximum is 1. An empty side changes nothing. */
static void attend_merge(float *into, const float *from, int n_queries, int d) {
    for (int n = 0; n < n_queries; n++) {
        if (from[n] == -INFINITY) continue;
        float max = into[n] > from[n] ? into[n] : from[n], factor[V_LANES] = {into[n] - max, from[n] - max};
        v_store(factor, v_exp(v_load(factor)));
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
