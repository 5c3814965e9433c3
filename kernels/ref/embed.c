/* embed.c: the reference of `embed`: one row of the table per token. */
#include "ref.h"

void kvq_ref_embed(kvq_stream *s, const kvq_embed *job) {
    (void)s; /* needs neither threads nor workspace */
    for (int r = 0; r < job->n_rows; r++) {
        float *out = job->out + (size_t)r * job->table->n_in;
        int id = job->ids[r];
        kvq_matrix_row(job->table, id < 0 ? job->drawn[-1 - id] : id, out);
        for (int i = 0; i < job->table->n_in; i++) out[i] *= job->scale;
    }
}
