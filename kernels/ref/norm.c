/* norm.c: the reference of `norm`: root mean square in double. */
#include <math.h>

#include "ref.h"

void kvq_ref_norm(kvq_stream *s, const kvq_norm *job) {
    (void)s; /* needs neither threads nor workspace */
    for (int r = 0; r < job->n_rows; r++) {
        const float *in = job->in + (size_t)r * job->n_cols;
        const float *residual = job->residual ? job->residual + (size_t)r * job->n_cols : NULL;
        float *out = job->out + (size_t)r * job->n_cols;
        double sum = 0;
        for (int i = 0; i < job->n_cols; i++) sum += (double)in[i] * in[i];
        double factor = 1 / sqrt(sum / job->n_cols + (double)job->eps);
        for (int i = 0; i < job->n_cols; i++)
            out[i] = (float)(in[i] * factor * (job->weight ? job->weight[i] : 1.0f) + (residual ? residual[i] : 0.0f));
    }
}
