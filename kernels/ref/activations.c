/* activations.c: see activations.h. */
#include "activations.h"

#include <math.h>

/* max |x| of a group, NaN when something in it is not finite. */
static float largest_of(const float *x) {
    float largest = 0;
    for (int i = 0; i < KVQ_ACT_GROUP; i++) {
        if (!isfinite(x[i])) return NAN;
        if (fabsf(x[i]) > largest) largest = fabsf(x[i]);
    }
    return largest;
}

void kvq_ref_quantize(const float *x, int n, int8_t *q, float *d, int *sums) {
    for (int i = 0; i < n / 16; i++) sums[i] = 0;
    for (int g = 0; g < n / KVQ_ACT_GROUP; g++) {
        float largest = largest_of(x + g * KVQ_ACT_GROUP);
        bool some = largest >= KVQ_ACT_TINY;
        d[g] = some || isnan(largest) ? largest / 127 : 0;
        float inverse = some ? 1 / d[g] : 0;
        for (int i = g * KVQ_ACT_GROUP; i < (g + 1) * KVQ_ACT_GROUP; i++) {
            q[i] = some ? (int8_t)lrintf(x[i] * inverse) : 0;
            sums[i / 16] += q[i];
        }
    }
}

void kvq_ref_remainder(const float *x, int n, float *out) {
    for (int g = 0; g < n; g += KVQ_ACT_GROUP) {
        int8_t q[KVQ_ACT_GROUP];
        float d;
        int sums[KVQ_ACT_GROUP / 16];
        kvq_ref_quantize(x + g, KVQ_ACT_GROUP, q, &d, sums);
        for (int i = 0; i < KVQ_ACT_GROUP; i++) out[g + i] = fmaf(-d, q[i], x[g + i]);
    }
}
