/* refine.c: the reference of `refine`: products in double, of the weights as they are and what the codes leave. */
#include <math.h>

#include "../cpu/stream.h"
#include "activations.h"
#include "ref.h"

static void refine_output(const kvq_refine *job, float *x, int o, const float *rest, float *weights) {
    double sum = 0;
    kvq_matrix_row(job->w, o, weights);
    for (int i = 0; i < job->w->n_in; i++) sum += (double)weights[i] * rest[i];
    x[o] = (float)(x[o] + sum);
}

static void refine_part(const kvq_refine *job, const kvq_matrix_part *part, float *x, float threshold,
                        const float *rest, float *weights) {
    for (int begin = 0; begin < part->n_rows; begin += KVQ_TILE_ROWS) {
        int end = begin + KVQ_TILE_ROWS < part->n_rows ? begin + KVQ_TILE_ROWS : part->n_rows;
        bool above = false;
        for (int o = begin; o < end; o++) above |= x[part->row_begin + o] >= threshold;
        for (int o = begin; o < end && above; o++) refine_output(job, x, part->row_begin + o, rest, weights);
    }
}

void kvq_ref_refine(kvq_stream *s, const kvq_refine *job) {
    int n_in = job->w->n_in, n_out = job->w->n_out;
    size_t used = 0;
    if (job->n_rows == 0 || n_in % KVQ_ACT_GROUP != 0) return;
    float *rest = kvq_stream_take(s, &used, (size_t)n_in * sizeof *rest);
    float *weights = kvq_stream_take(s, &used, (size_t)n_in * sizeof *weights);
    if (!rest || !weights) return;
    for (int r = 0; r < job->n_rows; r++) {
        float *x = job->x + (size_t)r * n_out, largest = -INFINITY;
        for (int o = 0; o < n_out; o++)
            if (x[o] > largest) largest = x[o];
        kvq_ref_remainder(job->in + (size_t)r * n_in, n_in, rest);
        for (int p = 0; p < job->w->n_parts; p++)
            if (job->w->parts[p].layout.bits)
                refine_part(job, &job->w->parts[p], x, largest - job->margin, rest, weights);
    }
}
