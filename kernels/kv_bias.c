/* kv_bias.c: the constants that policies with bias_out take from K (ops.h: kvq_kv_bias_ref, kvq_kv_bias_is_hard).
 * Called by engine/model.c once per layer at load.
 *
 * RoPE turns the pair (b0, b1) at position p by angle p w. The mean over the T positions of page P is the pair turned
 * by P T w and multiplied with the complex number G = 1/T sum_t e^(i t w), the same for every page: so a page costs one
 * sine and cosine per pair, not T. */
#include <math.h>

#include "hadamard.h"
#include "ops.h"

static double rope_angle(const kvq_rope *rope, int pair) {
    double w = rope->scale * pow(rope->freq_base, -2.0 * pair / rope->n_rot);
    return rope->factors ? w / (double)rope->factors[pair] : w;
}

/* G of a pair: the mean of its unit phasor over positions 0 .. T - 1. */
static void mean_phasor(double w, int block_tokens, double *re, double *im) {
    *re = *im = 0;
    for (int t = 0; t < block_tokens; t++) {
        *re += cos(t * w);
        *im += sin(t * w);
    }
    *re /= block_tokens;
    *im /= block_tokens;
}

static int first_of_pair(const kvq_rope *rope, int pair) {
    return rope->neox ? pair : 2 * pair;
}
static int second_of_pair(const kvq_rope *rope, int pair) {
    return rope->neox ? pair + rope->n_rot / 2 : 2 * pair + 1;
}

void kvq_kv_bias_ref(float *out, const float *bias, const kvq_rope *rope, int n_pages, int n_kv_heads, int head_dim,
                     int block_tokens, bool rotated) {
    size_t d = (size_t)head_dim, page_values = d * (size_t)n_kv_heads;
    for (int p = 0; p < n_pages; p++)
        for (size_t i = 0; i < page_values; i++) out[(size_t)p * page_values + i] = bias[i];

    for (int pair = 0; pair < rope->n_rot / 2; pair++) {
        double w = rope_angle(rope, pair), g_re, g_im;
        mean_phasor(w, block_tokens, &g_re, &g_im);
        int i0 = first_of_pair(rope, pair), i1 = second_of_pair(rope, pair);
        for (int p = 0; p < n_pages; p++) {
            double begin = (double)p * block_tokens * w, c = cos(begin), s = sin(begin);
            double re = c * g_re - s * g_im, im = s * g_re + c * g_im;
            for (int g = 0; g < n_kv_heads; g++) {
                const float *b = bias + (size_t)g * d;
                float *o = out + (size_t)p * page_values + (size_t)g * d;
                o[i0] = (float)((double)b[i0] * re - (double)b[i1] * im);
                o[i1] = (float)((double)b[i0] * im + (double)b[i1] * re);
            }
        }
    }
    if (!rotated) return;
    for (size_t h = 0; h < (size_t)n_pages * (size_t)n_kv_heads; h++) kvq_hadamard(out + h * d, head_dim);
}

bool kvq_kv_bias_is_hard(const float *bias, const kvq_rope *rope, int n_kv_heads, int head_dim, int block_tokens) {
    double largest = 0;
    for (int pair = 0; pair < rope->n_rot / 2; pair++) {
        double re, im;
        mean_phasor(rope_angle(rope, pair), block_tokens, &re, &im);
        double left = sqrt(fmax(0, 1 - re * re - im * im));
        for (int g = 0; g < n_kv_heads; g++) {
            const float *b = bias + (size_t)g * (size_t)head_dim;
            double length = hypot((double)b[first_of_pair(rope, pair)], (double)b[second_of_pair(rope, pair)]);
            largest = fmax(largest, length * left);
        }
    }
    return largest > (double)KVQ_HARD_BIAS;
}
