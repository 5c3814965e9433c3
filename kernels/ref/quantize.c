/* quantize.c: one token's head to the codes of a page, the formulas of kv.h. Called by append.c and close.c of ref. */
#include "kv_values.h"

static int clamped(double x, int lo, int hi) {
    return (int)rint(fmin(fmax(x, lo), hi));
} /* a NaN becomes lo */

/* s and its codes, refitted by least squares; what is returned is the half to store. */
static uint16_t quantize_sym(const double *x, int d, int bits, int *code) {
    double largest = 0, smallest = 0;
    for (int i = 0; i < d; i++) {
        largest = fmax(largest, x[i]);
        smallest = fmin(smallest, x[i]);
    }
    double s = bits == 8 ? fmax(largest, -smallest) / 127 : (largest >= -smallest ? largest : smallest) / -8;
    int lo = bits == 8 ? -127 : -8, hi = bits == 8 ? 127 : 7;
    double xc = 0, cc = 0;
    for (int i = 0; i < d; i++) {
        code[i] = s == 0 ? 0 : clamped(x[i] / s, lo, hi);
        xc += x[i] * code[i];
        cc += code[i] * code[i];
    }
    return kvq_float_to_half(cc > 0 ? (float)(xc / cc) : 0);
}

/* LMDeploy's format: arithmetic in float, scale and minimum rounded to halves before the codes are chosen. */
static void quantize_asym(const double *x, int d, int bits, int *code, uint16_t *scale, uint16_t *min) {
    float largest = (float)x[0], smallest = (float)x[0];
    for (int i = 1; i < d; i++) {
        largest = fmaxf(largest, (float)x[i]);
        smallest = fminf(smallest, (float)x[i]);
    }
    int n = (1 << bits) - 1;
    *scale = kvq_float_to_half((largest - smallest) / (float)n);
    *min = kvq_float_to_half(smallest);
    float s = kvq_half_to_float(*scale), m = kvq_half_to_float(*min);
    for (int i = 0; i < d; i++) code[i] = s == 0 ? 0 : clamped((double)(((float)x[i] - m) / s), 0, n);
}

void kvq_ref_put_token(const kvq_kv *kv, const kvq_kv_half *half, bool is_v, int t, const double *x) {
    int d = kv->head_dim, code[KVQ_MAX_HEAD_DIM];
    uint16_t *halves = (uint16_t *)half->codes;
    if (half->bits != 16 && !half->sym) quantize_asym(x, d, half->bits, code, &half->scales[t], &half->mins[t]);
    if (half->bits != 16 && half->sym) half->scales[t] = quantize_sym(x, d, half->bits, code);
    for (int i = 0; i < d; i++) {
        kvq_ref_place at = is_v ? kvq_ref_v_place(kv, t, i) : kvq_ref_k_place(kv, t, i);
        if (half->bits == 16)
            halves[kvq_kv_code_index(16, at.n_lanes, at.inner, at.lane)] = kvq_float_to_half((float)x[i]);
        else if (!half->sym)
            kvq_ref_put_code(half, at, code[i]);
        else if (half->bits == 8)
            kvq_ref_put_code(half, at, code[i] + 128);
        else if (is_v && half->scales[t] >> 15)
            kvq_ref_put_code(half, at, 7 - code[i]);
        else
            kvq_ref_put_code(half, at, code[i] + 8);
    }
}
