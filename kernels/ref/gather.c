/* gather.c: `gather`: picks rows. Every CPU backend uses this one: it is a copy. */
#include <string.h>

#include "ref.h"

void kvq_ref_gather(kvq_stream *s, const kvq_gather *job) {
    (void)s; /* needs neither threads nor workspace */
    size_t n = (size_t)job->n_cols;
    for (int i = 0; i < job->n_rows; i++)
        memcpy(job->out + (size_t)i * n, job->in + (size_t)job->rows[i] * n, n * sizeof(float));
}
