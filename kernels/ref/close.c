/* close.c (ref): the closed image of a page that became full, from its wide image. Plain C, double sums. */
#include <string.h>

#include "kv_values.h"
#include "ref.h"

/* The mean over the page of each channel of K, rounded to half. */
static void put_mean(const kvq_kv *kv, const kvq_kv_half *wide, uint16_t *mean) {
    for (int i = 0; i < kv->head_dim; i++) {
        double sum = 0;
        for (int t = 0; t < kv->block_tokens; t++) sum += kvq_ref_k_value(kv, wide, t, i);
        mean[i] = kvq_float_to_half((float)(sum / kv->block_tokens));
    }
}

static void close_k(const kvq_kv *kv, const kvq_kv_half *wide, const kvq_kv_half *closed) {
    if (closed->bits == 8) { /* a hard layer */
        memcpy(closed->codes, wide->codes, (size_t)kv->block_tokens * (size_t)kv->head_dim);
        memcpy(closed->scales, wide->scales, (size_t)kv->block_tokens * 2);
        return;
    }
    if (closed->mean) put_mean(kv, wide, closed->mean);
    for (int t = 0; t < kv->block_tokens; t++) {
        double x[KVQ_MAX_HEAD_DIM];
        for (int i = 0; i < kv->head_dim; i++)
            x[i] = kvq_ref_k_value(kv, wide, t, i) - (closed->mean ? (double)kvq_half_to_float(closed->mean[i]) : 0);
        kvq_ref_put_token(kv, closed, false, t, x);
    }
}

static void close_v(const kvq_kv *kv, const kvq_kv_half *wide, const kvq_kv_half *closed) {
    for (int t = 0; t < kv->block_tokens; t++) {
        double x[KVQ_MAX_HEAD_DIM];
        for (int i = 0; i < kv->head_dim; i++) x[i] = kvq_ref_v_value(kv, wide, t, i);
        kvq_ref_put_token(kv, closed, true, t, x);
    }
}

void kvq_ref_close_pages(kvq_stream *s, const kvq_close_pages *job) {
    (void)s;
    const kvq_kv *kv = job->kv;
    const kvq_batch *b = job->batch;
    if (!kv->policy->wide) return;
    for (int c = 0; c < b->n_closes; c++) {
        const kvq_batch_close *close = &b->closes[c];
        if (close->group != kv->layers[job->layer].group) continue;
        const kvq_kv_page *page = &b->seqs[close->seq].pages[close->group][close->page];
        for (int g = 0; g < kv->n_kv_heads; g++) {
            kvq_kv_half k_wide, v_wide, k, v;
            kvq_kv_wide_halves(kv, job->layer, page, b->scratch, b->scratch_slot_bytes, g, &k_wide, &v_wide);
            kvq_kv_closed_halves(kv, job->layer, page, g, &k, &v);
            close_k(kv, &k_wide, &k);
            close_v(kv, &v_wide, &v);
        }
    }
}
