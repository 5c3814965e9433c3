/* glu.c: the reference of `glu`: activated gate times up. */
#include <math.h>

#include "ref.h"

/* (1 + tanh(v)) / 2 is 1 / (1 + exp(-2 v)), which keeps its digits where tanh is near -1. */
static double activate(kvq_activation activation, double x) {
    if (activation == KVQ_ACT_SILU) return x / (1 + exp(-x));
    return x / (1 + exp(-2 * 0.79788456080286535588 * (x + 0.044715 * x * x * x))); /* sqrt(2 / pi) */
}

void kvq_ref_glu(kvq_stream *s, const kvq_glu *job) {
    (void)s; /* needs neither threads nor workspace */
    for (int r = 0; r < job->n_rows; r++) {
        const float *gate = job->gate_up + (size_t)r * 2 * job->ffn_dim, *up = gate + job->ffn_dim;
        float *out = job->out + (size_t)r * job->ffn_dim;
        for (int i = 0; i < job->ffn_dim; i++) out[i] = (float)(activate(job->activation, gate[i]) * up[i]);
    }
}
