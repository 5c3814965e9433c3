/* linear.c: the reference of `linear`: sums in double. Coded layouts multiply the quantized activations that matrix.h
 * describes, float layouts the activations themselves. Parallel over output rows, so that whole models run through it.
 */
#include <string.h>

#include "../cpu/stream.h"
#include "activations.h"
#include "ref.h"

#define OUTPUTS_PER_ITEM 16

typedef struct linear_job {
    const kvq_linear *job;
    int8_t *q;      /* [n_rows, n_in]; coded parts only */
    float *d;       /* [n_rows, n_in / 32] */
    int *sums;      /* [n_rows, n_in / 16] */
    float *scratch; /* [threads, 2 n_in]: an output's weights */
} linear_job;

/* code, scale and min of one output; `values` for float layouts */
typedef struct weights {
    const kvq_layout *layout;
    uint8_t *code;
    float *scale, *min, *values;
} weights;

static double dot_floats(const weights *w, const float *x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)w->values[i] * x[i];
    return sum;
}

static double dot_codes(const weights *w, const linear_job *l, int r, int n) {
    int group = w->layout->group;
    const int8_t *q = l->q + (size_t)r * n;
    const float *d = l->d + (size_t)r * (n / KVQ_ACT_GROUP);
    double sum = 0;
    for (int g = 0; g < n / group; g++) {
        int dot = 0, total = 0;
        for (int i = g * group; i < (g + 1) * group; i++) {
            dot += (w->code[i] - w->layout->zero) * q[i];
            total += q[i];
        }
        float dg = d[g * group / KVQ_ACT_GROUP];
        sum += (double)w->scale[g] * dg * dot + (double)w->min[g] * dg * total;
    }
    return sum;
}

static void do_output(const linear_job *l, const weights *w, int o) {
    const kvq_linear *job = l->job;
    int n_in = job->w->n_in, n_out = job->w->n_out;
    for (int r = 0; r < job->n_rows; r++) {
        size_t at = (size_t)r * n_out + o;
        double y = w->layout->bits ? dot_codes(w, l, r, n_in) : dot_floats(w, job->in + (size_t)r * n_in, n_in);
        if (job->bias) y += job->bias[o];
        if (job->residual) y += job->residual[at];
        job->out[at] = (float)y;
    }
}

static void do_outputs(void *arg, int item, int worker) {
    const linear_job *l = arg;
    const kvq_matrix *m = l->job->w;
    float *scratch = l->scratch + (size_t)worker * 2 * m->n_in;
    int end = (item + 1) * OUTPUTS_PER_ITEM < m->n_out ? (item + 1) * OUTPUTS_PER_ITEM : m->n_out;
    for (int o = item * OUTPUTS_PER_ITEM; o < end; o++) {
        const kvq_matrix_part *part = kvq_matrix_part_of(m, o);
        /* codes fill a quarter of n_in floats, scales and minimums a sixteenth each at most */
        weights w = {.layout = &part->layout, .values = scratch, .code = (uint8_t *)scratch};
        w.scale = scratch + m->n_in;
        w.min = w.scale + m->n_in / 2;
        if (part->layout.bits)
            kvq_matrix_part_codes(part, o - part->row_begin, m->n_in, w.code, w.scale, w.min);
        else
            kvq_matrix_row(m, o, w.values);
        do_output(l, &w, o);
    }
}

void kvq_ref_linear(kvq_stream *s, const kvq_linear *job) {
    if (job->n_rows == 0) return;
    size_t n_in = (size_t)job->w->n_in, n_rows = (size_t)job->n_rows, used = 0;
    linear_job l = {.job = job};
    l.scratch = kvq_stream_take(s, &used, (size_t)kvq_workers_count(s->workers) * 2 * n_in * sizeof(float));
    l.q = kvq_stream_take(s, &used, n_rows * n_in);
    l.d = kvq_stream_take(s, &used, n_rows * (n_in / KVQ_ACT_GROUP) * sizeof *l.d);
    l.sums = kvq_stream_take(s, &used, n_rows * (n_in / 16) * sizeof *l.sums);
    if (s->error.code != KVQ_OK) return;
    for (size_t r = 0; r < n_rows && n_in % KVQ_ACT_GROUP == 0; r++)
        kvq_ref_quantize(job->in + r * n_in, (int)n_in, l.q + r * n_in, l.d + r * (n_in / KVQ_ACT_GROUP),
                         l.sums + r * (n_in / 16));
    kvq_workers_run(s->workers, do_outputs, &l, kvq_items(job->w->n_out, OUTPUTS_PER_ITEM));
}
