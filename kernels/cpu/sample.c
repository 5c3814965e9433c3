/* sample.c (cpu): logits -> token, a row a worker; ../sampling.h has the arithmetic. Fills the table for every
 * instruction set.
 *
 * A vocabulary may have 262,144 entries and a step may sample 32 rows, so nothing here sorts a vocabulary:
 *   - one pass finds the largest logit of every block of 128; the largest of those is the maximum, found with no other
 *     pass;
 *   - top_k: at least k logits are as large as the k-th largest block maximum, so what lies below that is never looked
 *     at (beyond its block's maximum);
 *   - top_p: shares below (total - need) / n sum to less than total - need, so the smallest set that reaches what is
 *     needed is among the others;
 *   - among what is left, a quickselect finds the boundary of the set.
 * Microseconds a draw: tests/bench/bench_sampler.c. */
#include <math.h>

#include "../sampling.h"
#include "sample.h"
#include "stream.h"

#define BLOCK KVQ_SAMPLE_BLOCK /* a top_k of 40 is far below the number of blocks: 2,048 of 262,144 tokens */
#define LANES 16               /* of maxima, so that compilers make vectors of them */

/* One row under way; the arrays are the worker's. */
typedef struct sampling {
    const float *x; /* [n] logits */
    int n, n_blocks;
    kvq_sample_heat heat;
    float *block_max;    /* [n_blocks] */
    uint64_t *block_sum; /* [n_blocks] shares of what is kept */
    uint64_t *places;    /* [n_blocks * BLOCK] candidates */
    uint64_t least;      /* kept: places from here on .. */
    float min_p;         /* .. of at least this weight */
} sampling;

static size_t worker_bytes(int vocab_size) {
    size_t n_blocks = (size_t)kvq_items(vocab_size, BLOCK);
    return n_blocks * (sizeof(float) + sizeof(uint64_t) + BLOCK * sizeof(uint64_t)) + 3 * KVQ_ALIGN;
}

size_t kvq_sample_workspace_bytes(const kvq_shapes *shapes, int threads) {
    return (size_t)threads * kvq_aligned(worker_bytes(shapes->vocab_size));
}

/* ---- maxima ------------------------------------------------------------------------------------------------------ */

static int block_length(const sampling *s, int b) {
    int rest = s->n - b * BLOCK;
    return rest < BLOCK ? rest : BLOCK;
}

/* `x > lane ? x : lane` keeps the lane when x is NaN. */
static float largest(const float *x, int n) {
    float lane[LANES];
    for (int j = 0; j < LANES; j++) lane[j] = -INFINITY;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (; i < n; i++) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    for (int j = 1; j < LANES; j++) lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];
    return lane[0];
}

/* Fills block_max and returns the first block that holds the maximum. */
static int find_maxima(sampling *s) {
    int best = 0;
    for (int b = 0; b < s->n_blocks; b++) {
        s->block_max[b] = largest(s->x + (size_t)b * BLOCK, block_length(s, b));
        if (s->block_max[b] > s->block_max[best]) best = b;
    }
    return best;
}

static int first_equal(const sampling *s, int block, float value) {
    int id = block * BLOCK;
    while (s->x[id] != value) id++; /* it is the block's maximum, so it is there */
    return id;
}

static bool any_finite(const float *x, int n) {
    for (int i = 0; i < n; i++)
        if (isfinite(x[i])) return true;
    return false;
}

/* ---- sets of candidates ------------------------------------------------------------------------------------------ */

static void swap(uint64_t *a, uint64_t *b) {
    uint64_t t = *a;
    *a = *b;
    *b = t;
}

typedef enum measure { BY_COUNT, BY_SHARE } measure;

static uint64_t measure_of(const sampling *s, uint64_t place, measure m) {
    return m == BY_COUNT ? 1 : kvq_sample_share(s->heat, kvq_sample_logit(place));
}

/* Puts the median of first, middle and last in order at the end. */
static void median_last(uint64_t *c, int n) {
    uint64_t *a = &c[0], *b = &c[n / 2], *z = &c[n - 1];
    if (*b > *a) swap(a, b);
    if (*z > *b) swap(b, z);
    if (*b > *a) swap(a, b);
    swap(b, z);
}

/* Moves the shortest set of first places whose measure reaches `need` to the front, the last of them last; its length;
 * n if all of them do not reach it. Quickselect: the parts that the boundary is not in are never ordered. */
static int take_first(const sampling *s, int n, uint64_t need, measure m) {
    uint64_t *c = s->places;
    int begin = 0, end = n;
    while (end - begin > 1) {
        median_last(c + begin, end - begin);
        uint64_t pivot = c[end - 1], sum = 0, own = measure_of(s, pivot, m);
        int split = begin;
        for (int i = begin; i < end - 1; i++)
            if (c[i] > pivot) {
                sum += measure_of(s, c[i], m);
                swap(&c[split++], &c[i]);
            }
        swap(&c[split], &c[end - 1]);
        if (need <= sum) {
            end = split;
        } else if (need <= sum + own) {
            return split + 1;
        } else {
            need -= sum + own;
            begin = split + 1;
        }
    }
    return end > begin ? begin + 1 : begin;
}

/* A logit that at least k logits reach: the k-th largest block maximum. */
static float floor_of_top(sampling *s, int k) {
    if (k >= s->n_blocks) return -INFINITY;
    for (int b = 0; b < s->n_blocks; b++) s->places[b] = kvq_sample_place(kvq_sample_key(s->block_max[b]), b);
    return kvq_sample_logit(s->places[take_first(s, s->n_blocks, (uint64_t)k, BY_COUNT) - 1]);
}

static int gather_logits(sampling *s, float least) {
    int n = 0;
    for (int b = 0; b < s->n_blocks; b++) {
        if (s->block_max[b] < least) continue;
        for (int id = b * BLOCK; id < b * BLOCK + block_length(s, b); id++)
            if (s->x[id] >= least) s->places[n++] = kvq_sample_place(kvq_sample_key(s->x[id]), id);
    }
    return n;
}

/* Weights of a block, 0 for what is not kept and beyond its end. */
static void weigh_block(const sampling *s, int b, float weight[BLOCK]) {
    const float *in = s->x + (size_t)b * BLOCK;
    const kvq_sample_heat heat = s->heat; /* a copy: stores to weight could change s */
    int n = block_length(s, b);
    if (s->least > 0 || heat.max == INFINITY) { /* few of them */
        for (int i = 0; i < n; i++) {
            bool kept = kvq_sample_place(kvq_sample_key(in[i]), b * BLOCK + i) >= s->least;
            weight[i] = kept ? kvq_sample_weight(heat, in[i]) : 0;
        }
    } else {
        for (int i = 0; i < n; i++)
            weight[i] = kvq_sample_exponent(heat, in[i]); /* two loops: as one, gcc 12 branches, one by one */
        for (int i = 0; i < n; i++) weight[i] = kvq_sample_exp(weight[i]);
    }
    for (int i = n; i < BLOCK; i++) weight[i] = 0;
    for (int i = 0; s->min_p > 0 && i < n; i++) weight[i] = weight[i] >= s->min_p ? weight[i] : 0;
}

/* Every token whose share reaches `least`, and perhaps some more. */
static int gather_shares(sampling *s, uint64_t least) {
    int n = 0;
    float weight[BLOCK];
    least -= least / 1024; /* the exponential's own rounding: of two logits the larger may have the smaller share */
    for (int b = 0; b < s->n_blocks; b++) {
        uint64_t most = kvq_sample_share(s->heat, s->block_max[b]);
        if (most + most / 1024 < least) continue;
        weigh_block(s, b, weight);
        for (int i = 0, id = b * BLOCK; i < block_length(s, b); i++, id++)
            if (kvq_sample_share_of(weight[i]) >= least)
                s->places[n++] = kvq_sample_place(kvq_sample_key(s->x[id]), id);
    }
    return n;
}

/* ---- sums and the draw ------------------------------------------------------------------------------------------- */

/* Whether a block may hold something that is kept. */
static bool is_looked_at(const sampling *s, int b) {
    uint64_t best = kvq_sample_place(kvq_sample_key(s->block_max[b]), 0);
    return best >= s->least && kvq_sample_weight(s->heat, s->block_max[b]) * 1.001f >= s->min_p;
}

/* The sum of shares in units of 1, exact: 4096 has its last bit at 2^-40, where the sum is rounded as a share is, and
 * 128 of them stay within a double's 53 bits. */
static double sum_weights(const float weight[BLOCK]) {
    double lane[LANES] = {0}, sum = 0;
    for (int i = 0; i < BLOCK; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += ((double)weight[i + j] + 4096.0) - 4096.0;
    for (int j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

/* The shares that are kept, together and in block_sum. */
static uint64_t sum_kept(sampling *s) {
    uint64_t total = 0;
    float weight[BLOCK];
    for (int b = 0; b < s->n_blocks; b++) {
        s->block_sum[b] = 0;
        if (!is_looked_at(s, b)) continue;
        weigh_block(s, b, weight);
        s->block_sum[b] = (uint64_t)(sum_weights(weight) * (double)KVQ_SHARE_UNITS);
        total += s->block_sum[b];
    }
    return total;
}

/* The token at which the kept shares, in order of ids, pass `target`, which is below their sum. */
static int find_target(const sampling *s, uint64_t target) {
    int b = 0, i = 0;
    float weight[BLOCK];
    while (target >= s->block_sum[b]) target -= s->block_sum[b++];
    weigh_block(s, b, weight);
    for (uint64_t share; target >= (share = kvq_sample_share_of(weight[i])); i++) target -= share;
    return b * BLOCK + i;
}

static void keep_top_k(sampling *s, const kvq_sample_row *row) {
    int n = gather_logits(s, floor_of_top(s, row->top_k));
    n = take_first(s, n, (uint64_t)row->top_k, BY_COUNT);
    if (row->top_p < 1) {
        uint64_t total = 0;
        for (int i = 0; i < n; i++) total += measure_of(s, s->places[i], BY_SHARE);
        n = take_first(s, n, kvq_sample_need(row->top_p, total), BY_SHARE);
    }
    s->least = s->places[n - 1];
}

static void keep_top_p(sampling *s, const kvq_sample_row *row) {
    uint64_t total = sum_kept(s), need = kvq_sample_need(row->top_p, total);
    int n = gather_shares(s, (total - need) / (uint64_t)s->n);
    s->least = s->places[take_first(s, n, need, BY_SHARE) - 1];
}

static int sample_row(sampling *s, const kvq_sample_row *row) {
    int best = find_maxima(s);
    float max = s->block_max[best];
    if (!isfinite(max) && !any_finite(s->x, s->n)) return 0;
    if (!(row->temperature > 0)) return first_equal(s, best, max);
    s->heat = kvq_sample_heat_of(max, row->temperature);
    if (kvq_sample_has_top_k(row, s->n))
        keep_top_k(s, row);
    else if (row->top_p < 1)
        keep_top_p(s, row);
    s->min_p = row->min_p;
    uint64_t total = sum_kept(s);
    return find_target(s, kvq_sample_target(kvq_sample_random(row->seed, row->index), total));
}

/* ---- the operator ------------------------------------------------------------------------------------------------ */

typedef struct sample_work {
    const kvq_sample *job;
    uint8_t *arrays; /* [threads, worker_bytes] */
} sample_work;

static void sample_item(void *arg, int r, int worker) {
    const sample_work *w = arg;
    const kvq_sample *job = w->job;
    const kvq_sample_row *row = &job->rows[r];
    float *x = job->logits + (size_t)r * (size_t)job->vocab_size;
    for (int i = 0; i < row->n_edits; i++) {
        const kvq_sample_edit *e = &job->edits[row->edit_begin + i];
        x[e->id] = kvq_sample_edited(row, e, x[e->id]);
    }
    sampling s = {.x = x, .n = job->vocab_size, .n_blocks = kvq_items(job->vocab_size, BLOCK)};
    uint8_t *at = w->arrays + (size_t)worker * kvq_aligned(worker_bytes(job->vocab_size));
    s.places = (uint64_t *)at;
    at += (size_t)s.n_blocks * BLOCK * sizeof *s.places;
    s.block_sum = (uint64_t *)at;
    at += kvq_aligned((size_t)s.n_blocks * sizeof *s.block_sum);
    s.block_max = (float *)at;
    job->ids[r] = sample_row(&s, row);
}

static void sample(kvq_stream *s, const kvq_sample *job) {
    size_t used = 0, each = kvq_aligned(worker_bytes(job->vocab_size));
    if (job->n_rows == 0) return;
    sample_work w = {.job = job, .arrays = kvq_stream_take(s, &used, (size_t)kvq_workers_count(s->workers) * each)};
    if (w.arrays) kvq_workers_run(s->workers, sample_item, &w, job->n_rows);
}

void kvq_cpu_fill_sample(kvq_ops *ops) {
    ops->sample = sample;
}
