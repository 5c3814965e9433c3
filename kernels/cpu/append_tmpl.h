/* append_tmpl.h: one run of rows into the cache: norm, RoPE, Hadamard, quantize, write. Included after head_tmpl.h
 * by kv_generic.c, kv_avx2.c, kv_avx512.c; called through append.c.
 *
 * A head stays in L1 from the projection's output to its codes. The formulas are kv.h's in float; sums in 16 lanes. */
#include <math.h>

#include "../formats.h"
#include "../hadamard.h"
#include "append.h"

/* ---- quantize ---- */

/* Codes -127 .. 127 of x, stored + 128; returns the refitted scale. */
static uint16_t quantize_sym8(const float *x, int d, uint8_t *bytes) {
    v16f largest = v_zero(), xc = v_zero(), cc = v_zero();
    for (int i = 0; i < d; i += V_LANES) largest = v_max(v_abs(v_load(x + i)), largest);
    float max = v_hmax(largest);
    v16f per_code = v_set1(max > 1e-30f ? 127.0f / max : 0.0f); /* a scale below 1e-32 is 0 in half */
    for (int i = 0; i < d; i += V_LANES) {
        v16f value = v_load(x + i), y = v_mul(value, per_code);
        v16i code = v_rint(v_min(v_max(y, v_set1(-127.0f)), v_set1(127.0f)));
        v_store_low_b(bytes + i, v_add_i(code, v_set1_i(128)));
        v16f c = v_float(code);
        xc = v_fma(value, c, xc);
        cc = v_fma(c, c, cc);
    }
    float den = v_hsum(cc); /* exact: at most 512 x 127^2 */
    return kvq_float_to_half(den > 0 ? v_hsum(xc) / den : 0.0f);
}

/* LMDeploy's format: scale and minimum rounded to halves first. */
static void quantize_asym(const float *x, int d, int bits, uint8_t *bytes, uint16_t *scale, uint16_t *min) {
    v16f largest = v_load(x), smallest = largest;
    for (int i = V_LANES; i < d; i += V_LANES) {
        largest = v_max(v_load(x + i), largest);
        smallest = v_min(v_load(x + i), smallest);
    }
    float n = (float)((1 << bits) - 1), lo = v_hmin(smallest);
    *scale = kvq_float_to_half((v_hmax(largest) - lo) / n);
    *min = kvq_float_to_half(lo);
    float s = kvq_half_to_float(*scale), m = kvq_half_to_float(*min);
    for (int i = 0; i < d; i += V_LANES) {
        v16f y = s > 0 ? v_div(v_sub(v_load(x + i), v_set1(m)), v_set1(s)) : v_zero();
        v_store_low_b(bytes + i, v_rint(v_min(v_max(y, v_zero()), v_set1(n))));
    }
}

/* ---- write ---- */

/* Token t of K: 4 (or, in nibbles, 8) channels a piece. */
static void write_k_bytes(const kvq_kv *kv, const kvq_kv_half *k, int t, const uint8_t *bytes) {
    size_t step = (size_t)kv->block_tokens * 4;
    uint8_t *to = k->codes + (size_t)t * 4;
    if (k->bits == 8) {
        for (int i = 0; i < kv->head_dim; i += 4, to += step) memcpy(to, bytes + i, 4);
        return;
    }
    for (int i = 0; i < kv->head_dim; i += 8, to += step)
        for (int c = 0; c < 4; c++) to[c] = (uint8_t)(bytes[i + c] | bytes[i + 4 + c] << 4);
}

/* Token t of V: every fourth byte. Two tokens share a byte of nibbles; a run of rows never cuts such a pair (append.c).
 */
static void write_v_bytes(const kvq_kv *kv, const kvq_kv_half *v, int t, const uint8_t *bytes) {
    uint8_t *to = v->codes + kvq_kv_code_index(v->bits, kv->head_dim, t, 0);
    if (v->bits == 8) {
        for (int i = 0; i < kv->head_dim; i++) to[4 * i] = bytes[i];
        return;
    }
    int shift = kvq_kv_code_is_high(4, t) ? 4 : 0, keep = 0xf0 >> shift;
    for (int i = 0; i < kv->head_dim; i++) to[4 * i] = (uint8_t)((to[4 * i] & keep) | bytes[i] << shift);
}

static void write_halves(const kvq_kv *kv, const kvq_kv_half *half, bool is_v, int t, const float *x) {
    uint16_t halves[KVQ_MAX_HEAD_DIM], *to = (uint16_t *)half->codes;
    for (int i = 0; i < kv->head_dim; i += V_LANES) v_store_half(halves + i, v_load(x + i));
    if (is_v)
        memcpy(to + (size_t)t * (size_t)kv->head_dim, halves, (size_t)kv->head_dim * sizeof *halves);
    else
        for (int i = 0; i < kv->head_dim; i++) to[(size_t)i * (size_t)kv->block_tokens + (size_t)t] = halves[i];
}

static void write_head(const kvq_kv *kv, const kvq_kv_half *half, bool is_v, int t, const float *x) {
    uint8_t bytes[KVQ_MAX_HEAD_DIM];
    if (half->bits == 16) {
        write_halves(kv, half, is_v, t, x);
        return;
    }
    if (half->sym)
        half->scales[t] = quantize_sym8(x, kv->head_dim, bytes); /* 4-bit sym pages are made by closing */
    else
        quantize_asym(x, kv->head_dim, half->bits, bytes, &half->scales[t], &half->mins[t]);
    if (is_v)
        write_v_bytes(kv, half, t, bytes);
    else
        write_k_bytes(kv, half, t, bytes);
}

/* ---- rows ---- */

static void prepare_head(const kvq_append *job, const float *in, const float *norm, const head_rope *rope, float *x) {
    int d = job->kv->head_dim;
    memcpy(x, in, (size_t)d * sizeof *x);
    if (norm) head_norm(x, d, norm, job->norm_eps);
    head_turn(x, d, rope);
    if (job->kv->policy->rotated) head_hadamard(x, d);
}

static void append_row(const kvq_append *job, int r) {
    const kvq_kv *kv = job->kv;
    const kvq_kv_layer *layer = &kv->layers[job->layer];
    const kvq_batch *b = job->batch;
    int d = kv->head_dim, p = b->pos[r] / kv->block_tokens, t = b->pos[r] % kv->block_tokens;
    const kvq_kv_page *page = &b->seqs[b->row_seq[r]].pages[layer->group][p];
    const float *q = job->qkv + (size_t)r * (size_t)(job->n_heads + 2 * kv->n_kv_heads) * (size_t)d;
    const float *k = q + job->n_heads * d, *v = k + kv->n_kv_heads * d;
    float *q_out = job->q_out + (size_t)r * (size_t)job->n_heads * (size_t)d, x[KVQ_MAX_HEAD_DIM];
    head_rope rope;
    head_rope_init(&rope, job->rope + (size_t)r * (size_t)job->n_rot, job->n_rot, job->neox, d);

    for (int h = 0; h < job->n_heads; h++) prepare_head(job, q + h * d, job->q_norm, &rope, q_out + h * d);
    for (int g = 0; g < kv->n_kv_heads; g++) {
        kvq_kv_half k_half, v_half;
        if (kv->policy->wide)
            kvq_kv_wide_halves(kv, job->layer, page, b->scratch, b->scratch_slot_bytes, g, &k_half, &v_half);
        else
            kvq_kv_closed_halves(kv, job->layer, page, g, &k_half, &v_half);

        prepare_head(job, k + g * d, job->k_norm, &rope, x);
        if (layer->k_ref) {
            const float *k_ref = layer->k_ref + ((size_t)p * (size_t)kv->n_kv_heads + (size_t)g) * (size_t)d;
            for (int i = 0; i < d; i += V_LANES) v_store(x + i, v_sub(v_load(x + i), v_load(k_ref + i)));
        }
        write_head(kv, &k_half, false, t, x);

        memcpy(x, v + g * d, (size_t)d * sizeof *x);
        if (kv->policy->rotated) head_hadamard(x, d);
        write_head(kv, &v_half, true, t, x);
    }
}

static void append_rows(const kvq_append *job, int row_begin, int n_rows) {
    for (int r = row_begin; r < row_begin + n_rows; r++) append_row(job, r);
}

static void append(kvq_stream *s, const kvq_append *job) {
    kvq_cpu_append(s, job, append_rows);
}
