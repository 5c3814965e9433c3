/* softcap.c: the reference of `softcap`. */
#include <math.h>

#include "ref.h"

void kvq_ref_softcap(kvq_stream *s, const kvq_softcap *job) {
    (void)s; /* needs neither threads nor workspace */
    size_t n = (size_t)job->n_rows * (size_t)job->n_cols;
    for (size_t i = 0; i < n; i++) job->x[i] = (float)(job->cap * tanh((double)job->x[i] / job->cap));
}
