/* close_tmpl.h: the closed image of one head of a page that became full, from its wide image. Included after a simd_*.h
 * by kv_generic.c, kv_avx2.c, kv_avx512.c; called through close.c.
 *
 * K: lanes are tokens, so that each token's largest value and sums need no step across lanes. The mean is each
 * channel's sum over tokens, 16 lanes of them, then across. V: a token's 4-bit codes follow from its 8-bit codes alone.
 * With x = s c, c its 8-bit codes and m the largest of them, the 4-bit scale is s m / -8, so code = rint(-8 c / m): no
 * ties (16 c is no odd multiple of 127 but for |c| = 127, which gives 8), hence the same bytes from every backend; the
 * refitted scale is s sum(c code) / sum(code code), integers. */
#include <math.h>

#include "../formats.h"
#include "close.h"

V_INLINE v16i load_codes(const uint8_t *p) {
    return v_load_i((const int32_t *)(const void *)p);
}

/* Byte b of each lane as a number, less 128. */
V_INLINE v16i byte_code(v16i x, int b) {
    return v_sub_i(v_and_i(v_shr_i(x, 8 * b), v_set1_i(255)), v_set1_i(128));
}

V_INLINE v16f clamp4(v16f x) {
    return v_min(v_max(x, v_set1(-8.0f)), v_set1(7.0f));
}

/* ---- K ---- */

/* mean[i] of s_t code_ti over the page, rounded to half. */
static void mean_of_k(const kvq_kv *kv, const kvq_kv_half *wide, float *mean) {
    int n_tokens = kv->block_tokens;
    for (int i = 0; i < kv->head_dim; i += 4) {
        v16f sum[4] = {v_zero(), v_zero(), v_zero(), v_zero()};
        for (int t = 0; t < n_tokens; t += V_LANES) {
            v16i codes = load_codes(wide->codes + ((size_t)(i / 4) * (size_t)n_tokens + (size_t)t) * 4);
            v16f scale = v_load_half(wide->scales + t);
            for (int b = 0; b < 4; b++) sum[b] = v_fma(v_float(byte_code(codes, b)), scale, sum[b]);
        }
        for (int b = 0; b < 4; b++) mean[i + b] = v_hsum(sum[b]) / (float)n_tokens;
    }
}

/* 16 tokens from token t on: quantized in place of x [d][16 tokens]. */
static void close_k_tokens(const kvq_kv *kv, const kvq_kv_half *wide, const kvq_kv_half *closed, const float *mean,
                           int t) {
    int d = kv->head_dim;
    size_t row = (size_t)kv->block_tokens * 4;
    float x[KVQ_MAX_HEAD_DIM][V_LANES];
    v16f scale = v_load_half(wide->scales + t), largest = v_zero(), smallest = v_zero();
    for (int i = 0; i < d; i += 4) {
        v16i codes = load_codes(wide->codes + (size_t)(i / 4) * row + (size_t)t * 4);
        for (int b = 0; b < 4; b++) {
            v16f y = v_fma(v_float(byte_code(codes, b)), scale, v_set1(-mean[i + b]));
            largest = v_max(y, largest);
            smallest = v_min(y, smallest);
            v_store(x[i + b], y);
        }
    }
    v16f m = v_select_lt(largest, v_neg(smallest), smallest, largest), tiny = v_set1(1e-30f);
    v16f per_code = v_select_lt(tiny, v_abs(m), v_div(v_set1(-8.0f), m), v_zero());
    v16f xc = v_zero(), cc = v_zero();
    for (int i = 0; i < d; i += 8) {
        v16i packed = v_zero_i();
        for (int c = 0; c < 8; c++) {
            v16f y = v_load(x[i + c]);
            v16i code = v_rint(clamp4(v_mul(y, per_code)));
            v16f f = v_float(code);
            xc = v_fma(y, f, xc);
            cc = v_fma(f, f, cc);
            packed = v_add_i(packed, v_shl_i(v_add_i(code, v_set1_i(8)), 8 * (c % 4) + c / 4 * 4));
        }
        v_store_i((int32_t *)(void *)(closed->codes + (size_t)(i / 8) * row + (size_t)t * 4), packed);
    }
    v_store_half(closed->scales + t, v_select_lt(v_zero(), cc, v_div(xc, cc), v_zero()));
}

static void close_k(const kvq_kv *kv, const kvq_kv_half *wide, const kvq_kv_half *closed) {
    if (closed->bits == 8) { /* a hard layer */
        memcpy(closed->codes, wide->codes, (size_t)kv->block_tokens * (size_t)kv->head_dim);
        memcpy(closed->scales, wide->scales, (size_t)kv->block_tokens * 2);
        return;
    }
    float mean[KVQ_MAX_HEAD_DIM] = {0};
    if (closed->mean) {
        mean_of_k(kv, wide, mean);
        for (int i = 0; i < kv->head_dim; i += V_LANES) {
            v_store_half(closed->mean + i, v_load(mean + i));
            v_store(mean + i, v_load_half(closed->mean + i));
        }
    }
    for (int t = 0; t < kv->block_tokens; t += V_LANES) close_k_tokens(kv, wide, closed, mean, t);
}

/* ---- V ---- */

/* How the 8-bit codes of 4 tokens become 4-bit ones. */
typedef struct v_tokens {
    float per_code[4];    /* 4-bit code = rint(8-bit code * per_code) */
    int32_t xc[4], cc[4]; /* sums of the refit */
} v_tokens;

/* codes: [d][4] bytes of 4 tokens. */
static void measure_v(v_tokens *tokens, const uint8_t *codes, int d) {
    for (int b = 0; b < 4; b++) {
        v16i largest = v_zero_i(), smallest = v_zero_i(), xc = v_zero_i(), cc = v_zero_i(); /* smallest: negated */
        for (int i = 0; i < d; i += V_LANES) {
            v16i code = byte_code(load_codes(codes + 4 * i), b);
            largest = v_max_i(largest, code);
            smallest = v_max_i(smallest, v_sub_i(v_zero_i(), code));
        }
        int32_t max = v_hmax_i(largest), min = -v_hmax_i(smallest), m = max >= -min ? max : min;
        tokens->per_code[b] = m ? -8.0f / (float)m : 0.0f;
        for (int i = 0; i < d; i += V_LANES) {
            v16i code = byte_code(load_codes(codes + 4 * i), b);
            v16i narrow = v_rint(clamp4(v_mul(v_float(code), v_set1(tokens->per_code[b]))));
            xc = v_add_i(xc, v_mul_i(code, narrow));
            cc = v_add_i(cc, v_mul_i(narrow, narrow));
        }
        tokens->xc[b] = v_hsum_i(xc);
        tokens->cc[b] = v_hsum_i(cc);
    }
}

/* The refitted scales of 4 tokens, and per token what turns a code into the stored nibble: (code ^ flip) + 8, where a
 * mirrored token's flip of -1 makes it 7 - code. */
static void put_v_scales(const v_tokens *tokens, const uint16_t *from, uint16_t *to, int32_t *flip) {
    for (int b = 0; b < 4; b++) {
        double s = (double)kvq_half_to_float(from[b]);
        to[b] = kvq_float_to_half(tokens->cc[b] ? (float)(s * tokens->xc[b] / tokens->cc[b]) : 0.0f);
        flip[b] = to[b] >> 15 ? -1 : 0;
    }
}

/* The nibbles of 4 tokens for 16 channels, in the low half of each byte. */
V_INLINE v16i narrow_v(const v_tokens *tokens, const int32_t *flip, v16i codes) {
    v16i packed = v_zero_i();
    for (int b = 0; b < 4; b++) {
        v16i code = v_rint(clamp4(v_mul(v_float(byte_code(codes, b)), v_set1(tokens->per_code[b]))));
        v16i nibble = flip[b] ? v_sub_i(v_set1_i(7), code) : v_add_i(code, v_set1_i(8));
        packed = v_add_i(packed, v_shl_i(nibble, 8 * b));
    }
    return packed;
}

static void close_v(const kvq_kv *kv, const kvq_kv_half *wide, const kvq_kv_half *closed) {
    int d = kv->head_dim;
    for (int t = 0; t < kv->block_tokens; t += 8) {
        const uint8_t *first = wide->codes + (size_t)t * (size_t)d, *second = first + 4 * d;
        v_tokens low, high;
        int32_t low_flip[4], high_flip[4];
        measure_v(&low, first, d);
        measure_v(&high, second, d);
        put_v_scales(&low, wide->scales + t, closed->scales + t, low_flip);
        put_v_scales(&high, wide->scales + t + 4, closed->scales + t + 4, high_flip);
        uint8_t *to = closed->codes + (size_t)t / 2 * (size_t)d;
        for (int i = 0; i < d; i += V_LANES) {
            v16i nibbles = narrow_v(&low, low_flip, load_codes(first + 4 * i));
            v16i above = narrow_v(&high, high_flip, load_codes(second + 4 * i));
            v_store_i((int32_t *)(void *)(to + 4 * i), v_add_i(nibbles, v_shl_i(above, 4)));
        }
    }
}

static void close_head(const kvq_close_pages *job, const kvq_kv_page *page, int g) {
    const kvq_kv *kv = job->kv;
    kvq_kv_half k_wide, v_wide, k, v;
    kvq_kv_wide_halves(kv, job->layer, page, job->batch->scratch, job->batch->scratch_slot_bytes, g, &k_wide, &v_wide);
    kvq_kv_closed_halves(kv, job->layer, page, g, &k, &v);
    close_k(kv, &k_wide, &k);
    close_v(kv, &v_wide, &v);
}

static void close_pages(kvq_stream *s, const kvq_close_pages *job) {
    kvq_cpu_close_pages(s, job, close_head);
}
