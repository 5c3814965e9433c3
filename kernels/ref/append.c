/* append.c (ref): q and k normed and turned, k and v quantized into the page of their position. Plain C, double sums.
 */
#include <math.h>

#include "../hadamard.h"
#include "kv_values.h"
#include "ref.h"

static void norm_head(double *x, int d, const float *weight, float eps) {
    double sum = 0;
    for (int i = 0; i < d; i++) sum += x[i] * x[i];
    double unit = 1 / sqrt(sum / d + (double)eps);
    for (int i = 0; i < d; i++) x[i] *= unit * (double)weight[i];
}

static void turn_head(double *x, const float *rope, int n_rot, bool neox) {
    for (int pair = 0; pair < n_rot / 2; pair++) {
        double c = (double)rope[2 * pair], s = (double)rope[2 * pair + 1];
        int i0 = neox ? pair : 2 * pair, i1 = neox ? pair + n_rot / 2 : 2 * pair + 1;
        double a = x[i0], b = x[i1];
        x[i0] = a * c - b * s;
        x[i1] = a * s + b * c;
    }
}

/* A q or k head on its way: loaded, normed, turned by RoPE and by H. */
static void prepare_head(const kvq_append *job, int r, const float *in, const float *norm, double *x) {
    int d = job->kv->head_dim;
    for (int i = 0; i < d; i++) x[i] = (double)in[i];
    if (norm) norm_head(x, d, norm, job->norm_eps);
    turn_head(x, job->rope + (size_t)r * (size_t)job->n_rot, job->n_rot, job->neox);
    if (job->kv->policy->rotated) kvq_hadamard_double(x, d);
}

static void append_row(const kvq_append *job, int r) {
    const kvq_kv *kv = job->kv;
    const kvq_kv_layer *layer = &kv->layers[job->layer];
    const kvq_batch *b = job->batch;
    int d = kv->head_dim, p = b->pos[r] / kv->block_tokens, t = b->pos[r] % kv->block_tokens;
    const kvq_kv_page *page = &b->seqs[b->row_seq[r]].pages[layer->group][p];
    const float *q = job->qkv + (size_t)r * (size_t)(job->n_heads + 2 * kv->n_kv_heads) * (size_t)d;
    const float *k = q + job->n_heads * d, *v = k + kv->n_kv_heads * d;
    double x[KVQ_MAX_HEAD_DIM];

    for (int h = 0; h < job->n_heads; h++) {
        prepare_head(job, r, q + h * d, job->q_norm, x);
        float *out = job->q_out + ((size_t)r * (size_t)job->n_heads + (size_t)h) * (size_t)d;
        for (int i = 0; i < d; i++) out[i] = (float)x[i];
    }
    for (int g = 0; g < kv->n_kv_heads; g++) {
        kvq_kv_half k_half, v_half;
        if (kv->policy->wide)
            kvq_kv_wide_halves(kv, job->layer, page, b->scratch, b->scratch_slot_bytes, g, &k_half, &v_half);
        else
            kvq_kv_closed_halves(kv, job->layer, page, g, &k_half, &v_half);

        prepare_head(job, r, k + g * d, job->k_norm, x);
        if (layer->k_ref) {
            const float *k_ref = layer->k_ref + ((size_t)p * (size_t)kv->n_kv_heads + (size_t)g) * (size_t)d;
            for (int i = 0; i < d; i++) x[i] -= (double)k_ref[i];
        }
        kvq_ref_put_token(kv, &k_half, false, t, x);

        for (int i = 0; i < d; i++) x[i] = (double)v[g * d + i];
        if (kv->policy->rotated) kvq_hadamard_double(x, d);
        kvq_ref_put_token(kv, &v_half, true, t, x);
    }
}

/* Pages that close in this step but were begun in an earlier one move to their slots first. */
static void move_begun_pages(const kvq_append *job) {
    const kvq_kv *kv = job->kv;
    const kvq_batch *b = job->batch;
    for (int c = 0; c < b->n_closes; c++) {
        const kvq_batch_close *close = &b->closes[c];
        const kvq_batch_seq *seq = &b->seqs[close->seq];
        if (close->group != kv->layers[job->layer].group || seq->pos_begin <= close->page * kv->block_tokens) continue;
        for (int g = 0; g < kv->n_kv_heads; g++)
            kvq_kv_copy_wide(kv, job->layer, &seq->pages[close->group][close->page], b->scratch, b->scratch_slot_bytes,
                             g);
    }
}

void kvq_ref_append(kvq_stream *s, const kvq_append *job) {
    (void)s;
    if (job->kv->policy->wide) move_begun_pages(job);
    for (int r = 0; r < job->batch->n_rows; r++) append_row(job, r);
}
