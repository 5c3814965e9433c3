/* attend.c (ref): attention over the dequantized cache, exact in doubles: queries and probabilities are not quantized.
 * The fast backends are checked against this with bounds for their 8-bit queries and probabilities. */
#include <math.h>

#include "../hadamard.h"
#include "kv_values.h"
#include "ref.h"

/* Online soft-max: acc / sum is the mean of values weighted by e^score; everything is scaled by e^-max. */
typedef struct softmax {
    double max, sum, acc[KVQ_MAX_HEAD_DIM];
} softmax;

static void add_value(softmax *s, double score, const double *value, int d) {
    double max = fmax(s->max, score), old = exp(s->max - max), new = exp(score - max);
    s->sum = s->sum * old + new;
    for (int i = 0; i < d; i++) s->acc[i] = s->acc[i] * old + new *value[i];
    s->max = max;
}

/* q . k_ref of a page: what bias_out took from its K. */
static double dot_k_ref(const kvq_kv *kv, int layer, int p, int g, const float *q) {
    const float *k_ref = kv->layers[layer].k_ref;
    if (!k_ref) return 0;
    k_ref += ((size_t)p * (size_t)kv->n_kv_heads + (size_t)g) * (size_t)kv->head_dim;
    double sum = 0;
    for (int i = 0; i < kv->head_dim; i++) sum += (double)q[i] * (double)k_ref[i];
    return sum;
}

static void attend_head(const kvq_attend *job, int r, int h) {
    const kvq_kv *kv = job->kv;
    const kvq_batch *b = job->batch;
    int d = kv->head_dim, pos = b->pos[r], g = h / (job->n_heads / kv->n_kv_heads);
    const kvq_kv_page *pages = b->seqs[b->row_seq[r]].pages[kv->layers[job->layer].group];
    size_t at = ((size_t)r * (size_t)job->n_heads + (size_t)h) * (size_t)d;
    const float *q = job->q + at;
    softmax s = {.max = -INFINITY};

    for (int t = job->window && pos >= job->window ? pos - job->window + 1 : 0; t <= pos; t++) {
        int p = t / kv->block_tokens, in_page = t % kv->block_tokens;
        kvq_kv_half k, v;
        if (kvq_kv_sees_wide(kv, pos, p))
            kvq_kv_wide_halves(kv, job->layer, &pages[p], b->scratch, b->scratch_slot_bytes, g, &k, &v);
        else
            kvq_kv_closed_halves(kv, job->layer, &pages[p], g, &k, &v);

        double score = dot_k_ref(kv, job->layer, p, g, q), value[KVQ_MAX_HEAD_DIM];
        for (int i = 0; i < d; i++) {
            score += (double)q[i] * kvq_ref_k_value(kv, &k, in_page, i);
            value[i] = kvq_ref_v_value(kv, &v, in_page, i);
        }
        score *= (double)job->scale;
        if (job->softcap > 0) score = (double)job->softcap * tanh(score / (double)job->softcap);
        add_value(&s, score, value, d);
    }

    for (int i = 0; i < d; i++) s.acc[i] /= s.sum;
    if (kv->policy->rotated) kvq_hadamard_double(s.acc, d);
    for (int i = 0; i < d; i++) job->out[at + (size_t)i] = (float)s.acc[i];
}

void kvq_ref_attend(kvq_stream *s, const kvq_attend *job) {
    (void)s;
    for (int r = 0; r < job->batch->n_rows; r++)
        for (int h = 0; h < job->n_heads; h++) attend_head(job, r, h);
}
