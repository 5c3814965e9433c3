/* sample.c: the reference of `sample`: sorts the whole vocabulary, twice. */
#include <stdlib.h>

#include "../cpu/stream.h"
#include "../sampling.h"
#include "ref.h"

static int by_place(const void *a, const void *b) { /* the first is the largest */
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x > y ? -1 : x < y;
}

static int by_id(const void *a, const void *b) {
    int x = kvq_sample_id(*(const uint64_t *)a), y = kvq_sample_id(*(const uint64_t *)b);
    return x - y;
}

static uint64_t share_of(kvq_sample_heat h, uint64_t place) {
    return kvq_sample_share(h, kvq_sample_logit(place));
}

static uint64_t sum_of(kvq_sample_heat h, const uint64_t *places, int n) {
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) sum += share_of(h, places[i]);
    return sum;
}

static int keep_top_p(kvq_sample_heat h, const uint64_t *places, int n, float top_p) {
    uint64_t need = kvq_sample_need(top_p, sum_of(h, places, n)), sum = 0;
    for (int i = 0; i < n; i++) {
        sum += share_of(h, places[i]);
        if (sum >= need) return i + 1;
    }
    return n;
}

static int keep_min_p(kvq_sample_heat h, uint64_t *places, int n, float min_p) {
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (kvq_sample_weight(h, kvq_sample_logit(places[i])) >= min_p) places[kept++] = places[i];
    return kept;
}

static int draw(kvq_sample_heat h, uint64_t *places, int n, uint64_t random) {
    uint64_t target = kvq_sample_target(random, sum_of(h, places, n)), sum = 0;
    qsort(places, (size_t)n, sizeof *places, by_id);
    for (int i = 0; i < n; i++) {
        sum += share_of(h, places[i]);
        if (sum > target) return kvq_sample_id(places[i]);
    }
    return 0; /* not reached: the largest has a whole weight, and the target is below the sum */
}

static int sample_row(const kvq_sample_row *row, const float *x, int vocab_size, uint64_t *places) {
    bool any_finite = false;
    for (int id = 0; id < vocab_size; id++) {
        places[id] = kvq_sample_place(kvq_sample_key(x[id]), id);
        any_finite = any_finite || isfinite(x[id]);
    }
    if (!any_finite) return 0;
    int n = vocab_size;
    qsort(places, (size_t)n, sizeof *places, by_place);
    if (!(row->temperature > 0)) return kvq_sample_id(places[0]);
    kvq_sample_heat h = kvq_sample_heat_of(kvq_sample_logit(places[0]), row->temperature);
    if (kvq_sample_has_top_k(row, vocab_size)) n = row->top_k;
    if (row->top_p < 1) n = keep_top_p(h, places, n, row->top_p);
    if (row->min_p > 0) n = keep_min_p(h, places, n, row->min_p);
    return draw(h, places, n, kvq_sample_random(row->seed, row->index));
}

void kvq_ref_sample(kvq_stream *s, const kvq_sample *job) {
    size_t used = 0, n = (size_t)job->vocab_size;
    uint64_t *places = kvq_stream_take(s, &used, n * sizeof *places);
    for (int r = 0; r < job->n_rows && places; r++) {
        const kvq_sample_row *row = &job->rows[r];
        float *x = job->logits + (size_t)r * n;
        for (int i = 0; i < row->n_edits; i++) {
            const kvq_sample_edit *e = &job->edits[row->edit_begin + i];
            x[e->id] = kvq_sample_edited(row, e, x[e->id]);
        }
        job->ids[r] = sample_row(row, x, job->vocab_size, places);
    }
}
