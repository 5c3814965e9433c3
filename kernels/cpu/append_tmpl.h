/* append_tmpl.h: one run of rows into the cache: norm, RoPE, Hadamard, quantize, write. Included after head_tmpl.h
 * by kv_generic.c, kv_avx2.c, kv_avx512.c; called through append.c.
 *
 * A head stays in L1 from the projection's output to its codes. The formulas are kv.h's in float; sums in 16 lanes. */
#include <math.h>

#include "../formats.h"
#include "../hadamard.h"
#include "append.h"

/* ---- quantize ---- */

/* Codes -127 .. 127 of x, + 128; returns the refitted scale. */
V_INLINE uint16_t quantize_sym8(const v16f *x, const int d, v16i *codes) {
    v16f largest = v_zero(), xc = v_zero(), cc = v_zero();
    for (int v = 0; v < d / V_LANES; v++) largest = v_max(v_abs(x[v]), largest);
    float max = v_hmax(largest);
    v16f per_code = v_set1(max > 1e-30f ? 127.0f / max : 0.0f); /* a scale below 1e-32 is 0 in half */
    for (int v = 0; v < d / V_LANES; v++) {
        v16f y = v_mul(x[v], per_code);
        v16i code = v_rint(v_min(v_max(y, v_set1(-127.0f)), v_set1(127.0f)));
        codes[v] = v_add_i(code, v_set1_i(128));
        v16f c = v_float(code);
        xc = v_fma(x[v], c, xc);
        cc = v_fma(c, c, cc);
    }
    float den = v_hsum(cc); /* exact: at most 512 x 127^2 */
    return kvq_float_to_half(den > 0 ? v_hsum(xc) / den : 0.0f);
}

/* LMDeploy's format: scale and minimum rounded to halves first. */
V_INLINE void quantize_asym(const v16f *x, const int d, int bits, v16i *codes, uint16_t *scale, uint16_t *min) {
    v16f largest = x[0], smallest = x[0];
    for (int v = 1; v < d / V_LANES; v++) {
        largest = v_max(x[v], largest);
        smallest = v_min(x[v], smallest);
    }
    float n = (float)((1 << bits) - 1), lo = v_hmin(smallest);
    *scale = kvq_float_to_half((v_hmax(largest) - lo) / n);
    *min = kvq_float_to_half(lo);
    float s = kvq_half_to_float(*scale), m = kvq_half_to_float(*min);
    for (int v = 0; v < d / V_LANES; v++) {
        v16f y = s > 0 ? v_div(v_sub(x[v], v_set1(m)), v_set1(s)) : v_zero();
        codes[v] = v_rint(v_min(v_max(y, v_zero()), v_set1(n)));
    }
}

/* ---- write ---- */

/* Token t of K: 4 (or, in nibbles, 8) channels a piece. */
V_INLINE void write_k_codes(const kvq_kv *kv, const kvq_kv_half *k, int t, const v16i *codes, const int d) {
    uint8_t bytes[KVQ_MAX_HEAD_DIM], *to = k->codes + (size_t)t * 4;
    size_t step = (size_t)kv->block_tokens * 4;
    for (int v = 0; v < d / V_LANES; v++) v_store_low_b(bytes + V_LANES * v, codes[v]);
    if (k->bits == 8) {
        for (int i = 0; i < d; i += 4, to += step) memcpy(to, bytes + i, 4);
        return;
    }
    for (int i = 0; i < d; i += 8, to += step) {
        uint32_t low, high;
        memcpy(&low, bytes + i, 4);
        memcpy(&high, bytes + i + 4, 4);
        low |= high << 4;
        memcpy(to, &low, 4);
    }
}

/* Token t of V: every fourth byte, or its low or high nibble; the other tokens' stay. A run of rows never cuts the 8
 * tokens that share lanes (append.c). While those are written, each asks for its part of the lanes behind. */
V_INLINE void write_v_codes(const kvq_kv_half *half, int t, const v16i *codes, const int d) {
    const int shared = 32 / half->bits, row_bytes = d * half->bits / 8;
    int32_t *to = (int32_t *)(void *)(half->codes + kvq_kv_code_index(half->bits, d, t - t % 4, 0));
    int shift = 8 * (t % 4) + (kvq_kv_code_is_high(half->bits, t) ? 4 : 0);
    v16i keep = v_set1_i((int32_t) ~((half->bits == 8 ? 255u : 15u) << shift));
    for (int v = 0; v < d / V_LANES; v++, to += V_LANES)
        v_store_i(to, v_add_i(v_and_i(v_load_i(to), keep), v_shl_i(codes[v], shift)));
    for (int i = 0; i < row_bytes; i += 64) v_prefetch(half->codes + (t + shared) * row_bytes + i);
}

V_INLINE void write_halves(const kvq_kv *kv, const kvq_kv_half *half, const bool is_v, int t, const v16f *x,
                           const int d) {
    uint16_t halves[KVQ_MAX_HEAD_DIM], *to = (uint16_t *)half->codes + (is_v ? t * d : t);
    for (int v = 0; v < d / V_LANES; v++) v_store_half((is_v ? to : halves) + V_LANES * v, x[v]);
    if (!is_v)
        for (int i = 0; i < d; i++) to[(size_t)i * (size_t)kv->block_tokens] = halves[i];
}

V_INLINE void write_head(const kvq_kv *kv, const kvq_kv_half *half, const bool is_v, int t, const v16f *x,
                         const int d) {
    v16i codes[HEAD_VECTORS];
    if (half->bits == 16) {
        write_halves(kv, half, is_v, t, x, d);
        return;
    }
    if (half->sym)
        half->scales[t] = quantize_sym8(x, d, codes); /* 4-bit sym pages are made by closing */
    else
        quantize_asym(x, d, half->bits, codes, &half->scales[t], &half->mins[t]);
    if (is_v)
        write_v_codes(half, t, codes, d);
    else
        write_k_codes(kv, half, t, codes, d);
}

/* ---- rows ---- */

V_INLINE void prepare_head(v16f *x, const int d, const kvq_append *job, const float *in, const float *norm,
                           const head_rope *rope) {
    head_load(x, d, in);
    if (norm) head_norm(x, d, norm, job->norm_eps);
    head_turn(x, d, rope);
    if (job->kv->policy->rotated) head_hadamard(x, d);
}

V_INLINE void append_row(const int d, const kvq_append *job, int r) {
    const kvq_kv *kv = job->kv;
    const kvq_kv_layer *layer = &kv->layers[job->layer];
    const kvq_batch *b = job->batch;
    int p = b->pos[r] / kv->block_tokens, t = b->pos[r] % kv->block_tokens;
    const kvq_kv_page *page = &b->seqs[b->row_seq[r]].pages[layer->group][p];
    const size_t row_floats = (size_t)(job->n_heads + 2 * kv->n_kv_heads) * (size_t)d;
    const float *q = job->qkv + (size_t)r * row_floats;
    const float *k = q + job->n_heads * d, *v = k + kv->n_kv_heads * d;
    float *q_out = job->q_out + (size_t)r * (size_t)job->n_heads * (size_t)d;
    v16f x[HEAD_VECTORS];
    head_rope rope;
    head_rope_init(&rope, job->rope + (size_t)r * (size_t)job->n_rot, job->n_rot, job->neox, d);

    for (int h = 0; h < job->n_heads; h++) {
        head_ask_ahead(q + h * d, d, row_floats);
        prepare_head(x, d, job, q + h * d, job->q_norm, &rope);
        head_store(q_out + h * d, d, x);
    }
    for (int g = 0; g < kv->n_kv_heads; g++) {
        kvq_kv_half k_half, v_half;
        if (kv->policy->wide)
            kvq_kv_wide_halves(kv, job->layer, page, b->scratch, b->scratch_slot_bytes, g, &k_half, &v_half);
        else
            kvq_kv_closed_halves(kv, job->layer, page, g, &k_half, &v_half);

        head_ask_ahead(k + g * d, d, row_floats);
        head_ask_ahead(v + g * d, d, row_floats);
        prepare_head(x, d, job, k + g * d, job->k_norm, &rope);
        if (layer->k_ref) {
            const float *k_ref = layer->k_ref + ((size_t)p * (size_t)kv->n_kv_heads + (size_t)g) * (size_t)d;
            for (int i = 0; i < d / V_LANES; i++) x[i] = v_sub(x[i], v_load(k_ref + V_LANES * i));
        }
        write_head(kv, &k_half, false, t, x, d);

        head_load(x, d, v + g * d);
        if (kv->policy->rotated) head_hadamard(x, d);
        write_head(kv, &v_half, true, t, x, d);
    }
}

static void append_rows(const kvq_append *job, int row_begin, int n_rows) {
    for (int r = row_begin; r < row_begin + n_rows; r++) HEAD_CALL(append_row, job->kv->head_dim, job, r);
}

static void append(kvq_stream *s, const kvq_append *job) {
    kvq_cpu_append(s, job, append_rows);
}
