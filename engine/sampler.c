/* sampler.c: logits -> token. Called by engine.c once per sampled row; sampler.h has the order of the steps.
 *
 * A vocabulary may have 262,144 entries and a step may sample 32 rows, so nothing here sorts a vocabulary:
 *   - one pass finds the largest logit of every block of 128; the largest of those is the maximum, found with no other
 * pass;
 *   - top_k: at least k logits are as large as the k-th largest block maximum, so what lies below that is never looked
 * at (beyond its block's maximum);
 *   - top_p: weights below (1 - p) total / n sum to less than (1 - p) total, so the smallest set that reaches p is
 * among the others;
 *   - among what is left, a quickselect finds the boundary of the set, ordered by weight, then id.
 * Weights are exp((x - max) / temperature) by our own exponential, summed in a fixed order, so that a draw does not
 * depend on the C library or the instruction set. At 262,144 entries, one Zen 5 thread, plain x86-64 code: see
 * tests/bench/bench_sampler.c. */
#include "sampler.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK \
    128 /* logits per block maximum: 2,048 blocks at 262,144, so a top_k of 40 is far below the number of blocks */
#define LANES 16 /* of maxima and sums; fixed, so that sums are the same on every machine */

typedef struct candidate {
    float value; /* a logit, later its weight */
    int id;
} candidate;

struct kvq_sampler {
    int vocab_size, n_blocks;
    float *edited;         /* [n_blocks * BLOCK] logits after bias and penalties, when there are any */
    float *weight;         /* [n_blocks * BLOCK] */
    float *block_max;      /* [n_blocks] */
    double *block_sum;     /* [n_blocks] sums of weights */
    uint32_t *count;       /* [vocab_size] occurrences; zeros between calls */
    candidate *candidates; /* [n_blocks * BLOCK] */
};

kvq_status kvq_sampler_new(int vocab_size, kvq_sampler **ret, kvq_error *err) {
    if (vocab_size < 1 || vocab_size > INT32_MAX - BLOCK)
        return kvq_fail(err, KVQ_BAD_ARGUMENT,
                        "A sampler for a vocabulary of %d tokens was asked for; allowed is 1 or more.", vocab_size);
    kvq_sampler *s = calloc(1, sizeof *s);
    if (!s) goto fail;
    s->vocab_size = vocab_size;
    s->n_blocks = (vocab_size + BLOCK - 1) / BLOCK;
    size_t n_padded = (size_t)s->n_blocks * BLOCK;
    s->edited = calloc(n_padded, sizeof *s->edited);
    s->weight = calloc(n_padded, sizeof *s->weight);
    s->block_max = calloc((size_t)s->n_blocks, sizeof *s->block_max);
    s->block_sum = calloc((size_t)s->n_blocks, sizeof *s->block_sum);
    s->count = calloc((size_t)vocab_size, sizeof *s->count);
    s->candidates = calloc(n_padded, sizeof *s->candidates);
    if (!s->edited || !s->weight || !s->block_max || !s->block_sum || !s->count || !s->candidates) goto fail;
    *ret = s;
    return KVQ_OK;
fail:
    kvq_sampler_free(s);
    return kvq_fail(err, KVQ_NO_MEMORY, "No memory for the sampler of a vocabulary of %d tokens.", vocab_size);
}

void kvq_sampler_free(kvq_sampler *s) {
    if (!s) return;
    free(s->edited);
    free(s->weight);
    free(s->block_max);
    free(s->block_sum);
    free(s->count);
    free(s->candidates);
    free(s);
}

/* ---- randomness -------------------------------------------------------------------------------------------------- */

/* Philox4x32-10 of J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): key = seed, counter =
 * token index. A function of the two alone, so a draw needs no state and a preempted request draws the same again. */
static double uniform(uint64_t seed, uint32_t index) {
    uint32_t c0 = index, c1 = 0, c2 = 0, c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; /* golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    return (double)((((uint64_t)c0 << 32) | c1) >> 11) * 0x1p-53; /* [0, 1) */
}

/* ---- bias and penalties ------------------------------------------------------------------------------------------ */

static bool in_vocabulary(const kvq_sampler *s, int id) {
    return id >= 0 && id < s->vocab_size;
}

static void apply_bias(kvq_sampler *s, const kvq_sampling *p) {
    for (int i = 0; i < p->n_logit_bias; i++)
        if (in_vocabulary(s, p->logit_bias[i].id)) s->edited[p->logit_bias[i].id] += p->logit_bias[i].bias;
}

static void repeat_once(kvq_sampler *s, float penalty, const int *ids, int n) {
    for (int i = 0; i < n; i++) {
        if (!in_vocabulary(s, ids[i]) || s->count[ids[i]]++) continue;
        float *x = &s->edited[ids[i]];
        *x = *x > 0 ? *x / penalty : *x * penalty;
    }
}

static void forget(kvq_sampler *s, const int *ids, int n) {
    for (int i = 0; i < n; i++)
        if (in_vocabulary(s, ids[i])) s->count[ids[i]] = 0;
}

static void apply_counts(kvq_sampler *s, const kvq_sampling *p, const int *answer, int n_answer) {
    for (int i = 0; i < n_answer; i++)
        if (in_vocabulary(s, answer[i])) s->count[answer[i]]++;
    for (int i = 0; i < n_answer; i++) {
        if (!in_vocabulary(s, answer[i]) || !s->count[answer[i]]) continue;
        s->edited[answer[i]] -= p->presence_penalty + p->frequency_penalty * (float)s->count[answer[i]];
        s->count[answer[i]] = 0;
    }
}

/* The logits to sample from: the caller's own when nothing changes them. */
static const float *edit(kvq_sampler *s, const kvq_sampling *p, const float *logits, const int *prompt, int n_prompt,
                         const int *answer, int n_answer) {
    bool repetition = p->repetition_penalty != 1 && n_prompt + n_answer > 0;
    bool counts = (p->presence_penalty != 0 || p->frequency_penalty != 0) && n_answer > 0;
    if (p->n_logit_bias <= 0 && !repetition && !counts) return logits;
    memcpy(s->edited, logits, (size_t)s->vocab_size * sizeof *logits);
    apply_bias(s, p);
    if (repetition) {
        repeat_once(s, p->repetition_penalty, prompt, n_prompt);
        repeat_once(s, p->repetition_penalty, answer, n_answer);
        forget(s, prompt, n_prompt);
        forget(s, answer, n_answer);
    }
    if (counts) apply_counts(s, p, answer, n_answer);
    return s->edited;
}

/* ---- maxima and weights ------------------------------------------------------------------------------------------ */

static int block_length(const kvq_sampler *s, int b) {
    int rest = s->vocab_size - b * BLOCK;
    return rest < BLOCK ? rest : BLOCK;
}

/* `x > lane ? x : lane` keeps the lane when x is NaN: that is how NaN never wins. */
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
static int find_maxima(kvq_sampler *s, const float *x) {
    int best = 0;
    for (int b = 0; b < s->n_blocks; b++) {
        s->block_max[b] = largest(x + (size_t)b * BLOCK, block_length(s, b));
        if (s->block_max[b] > s->block_max[best]) best = b;
    }
    return best;
}

static int first_equal(const float *x, int begin, int n, float value) {
    for (int i = 0; i < n; i++)
        if (x[begin + i] == value) return begin + i;
    return begin;
}

static bool any_finite(const float *x, int n) {
    for (int i = 0; i < n; i++)
        if (isfinite(x[i])) return true;
    return false;
}

/* exp(z), z <= 0; exactly 1 at 0; 0 for NaN and below -87.7, where n is -127 and the exponent bits are 0. z = n ln 2 +
 * r with |r| <= ln 2 / 2; exp(r) by the Taylor polynomial of degree 6, whose rest is below r^7 / 5040 = 1.2e-7; 2^n put
 * into the exponent bits. No branch, so that compilers make vector code of it. */
static inline float exp_of(float z) {
    float shifted = z * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the sum's low bits are the nearest integer */
    float n = shifted - 12582912.0f;
    float r = z - n * 0.693359375f; /* ln 2 in two parts, the first exact in 9 bits (Cody and Waite, 1980) */
    r = r - n * -2.12194440e-4f;
    float e = 1.0f / 720.0f;
    e = e * r + 1.0f / 120.0f;
    e = e * r + 1.0f / 24.0f;
    e = e * r + 1.0f / 6.0f;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return e * power;
}

/* What turns a logit into a weight: exp((x - max) * inverse). */
typedef struct heat {
    float max, inverse;
} heat;

static heat heat_of(float max, float temperature) {
    /* 1 / T overflows for the smallest T; the largest float does instead: 0 times it is 0, all else is far below -88.
     */
    return (heat){.max = max, .inverse = temperature < 1 / FLT_MAX ? FLT_MAX : 1 / temperature};
}

/* What exp_of takes; NaN becomes -88 as well, hence weight 0. */
static inline float exponent(heat h, float x) {
    float z = (x - h.max) * h.inverse;
    return z > -88.0f ? z : -88.0f;
}

static float weigh(heat h, float x) {
    return exp_of(exponent(h, x));
}

static void weigh_block(kvq_sampler *s, const float *x, heat h, int b) {
    int n = block_length(s, b);
    float *w = s->weight + (size_t)b * BLOCK;
    const float *in = x + (size_t)b * BLOCK;
    for (int i = 0; i < n; i++)
        w[i] = exponent(h, in[i]); /* two loops: as one, gcc 12 branches and makes scalar code */
    for (int i = 0; i < n; i++) w[i] = exp_of(w[i]);
}

static double sum_block(const kvq_sampler *s, int b) {
    const float *w = s->weight + (size_t)b * BLOCK; /* beyond the vocabulary: zeros */
    float lane[LANES] = {0};
    for (int i = 0; i < BLOCK; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += w[i + j];
    double sum = 0;
    for (int j = 0; j < LANES; j++) sum += (double)lane[j];
    return sum;
}

/* Weighs the whole vocabulary; the sum of the weights. */
static double weigh_all(kvq_sampler *s, const float *x, heat h) {
    double total = 0;
    for (int b = 0; b < s->n_blocks; b++) {
        weigh_block(s, x, h, b);
        s->block_sum[b] = sum_block(s, b);
        total += s->block_sum[b];
    }
    return total;
}

/* ---- sets of candidates ------------------------------------------------------------------------------------------ */

/* Larger first, lower id first: no two candidates are equal. */
static bool before(candidate a, candidate b) {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

static void swap(candidate *a, candidate *b) {
    candidate t = *a;
    *a = *b;
    *b = t;
}

typedef enum measure { BY_COUNT, BY_VALUE } measure;

static double measure_of(candidate c, measure m) {
    return m == BY_COUNT ? 1.0 : (double)c.value;
}

/* Puts the median of first, middle and last in order at the end. */
static void median_last(candidate *c, int n) {
    candidate *a = &c[0], *b = &c[n / 2], *z = &c[n - 1];
    if (before(*b, *a)) swap(a, b);
    if (before(*z, *b)) swap(b, z);
    if (before(*b, *a)) swap(a, b);
    swap(b, z);
}

/* Moves the shortest prefix (in order of `before`) whose measure reaches `need` to the front; its length; n if all of
 * them do not reach it. Quickselect: the parts that the boundary is not in are never ordered. */
static int take_prefix(candidate *c, int n, double need, measure m) {
    int begin = 0, end = n;
    while (end - begin > 1) {
        median_last(c + begin, end - begin);
        candidate pivot = c[end - 1];
        int split = begin;
        double sum = 0;
        for (int i = begin; i < end - 1; i++)
            if (before(c[i], pivot)) {
                sum += measure_of(c[i], m);
                swap(&c[split++], &c[i]);
            }
        swap(&c[split], &c[end - 1]);
        if (need <= sum) {
            end = split;
        } else if (need <= sum + measure_of(pivot, m)) {
            return split + 1;
        } else {
            need -= sum + measure_of(pivot, m);
            begin = split + 1;
        }
    }
    return end > begin ? begin + 1 : begin;
}

/* A logit that at least k logits reach: the k-th largest block maximum. */
static float floor_of_top(kvq_sampler *s, int k) {
    if (k >= s->n_blocks) return -INFINITY;
    for (int b = 0; b < s->n_blocks; b++) s->candidates[b] = (candidate){s->block_max[b], b};
    (void)take_prefix(s->candidates, s->n_blocks, k, BY_COUNT); /* k < n_blocks: the prefix has k */
    float least = s->candidates[0].value;
    for (int i = 1; i < k; i++) least = s->candidates[i].value < least ? s->candidates[i].value : least;
    return least;
}

/* The k largest logits as candidates with weights. */
static int gather_top(kvq_sampler *s, const float *x, heat h, int k) {
    float least = floor_of_top(s, k);
    int n = 0;
    for (int b = 0; b < s->n_blocks; b++) {
        if (s->block_max[b] < least) continue;
        for (int id = b * BLOCK; id < b * BLOCK + block_length(s, b); id++)
            if (x[id] >= least && x[id] > -INFINITY) s->candidates[n++] = (candidate){x[id], id};
    }
    n = take_prefix(s->candidates, n, k, BY_COUNT);
    for (int i = 0; i < n; i++) s->candidates[i].value = weigh(h, s->candidates[i].value);
    return n;
}

/* Every token whose weight reaches `least`, of blocks that are weighed already. */
static int gather_weights(kvq_sampler *s, heat h, float least) {
    int n = 0;
    for (int b = 0; b < s->n_blocks; b++) {
        if (weigh(h, s->block_max[b]) * 1.001f < least) continue; /* 1.001: the exponential's own rounding */
        for (int id = b * BLOCK; id < b * BLOCK + block_length(s, b); id++)
            if (s->weight[id] >= least && s->weight[id] > 0) s->candidates[n++] = (candidate){s->weight[id], id};
    }
    return n;
}

static int gather_min_p(kvq_sampler *s, const float *x, heat h, float min_p) {
    for (int b = 0; b < s->n_blocks; b++)
        if (weigh(h, s->block_max[b]) * 1.001f >= min_p) weigh_block(s, x, h, b);
    return gather_weights(s, h, min_p);
}

static double sum_of(const candidate *c, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)c[i].value;
    return sum;
}

static int keep_min_p(candidate *c, int n, float min_p) {
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (c[i].value >= min_p) c[kept++] = c[i]; /* the largest weight is 1 */
    return kept;
}

/* ---- drawing ----------------------------------------------------------------------------------------------------- */

static int draw_candidate(const candidate *c, int n, double u) {
    double left = u * sum_of(c, n);
    for (int i = 0; i < n - 1; i++) {
        left -= (double)c[i].value;
        if (left < 0) return c[i].id;
    }
    return c[n - 1].id;
}

/* Of the whole vocabulary, weighed: block first, then token. Rounding may walk past the end: the last token with
 * weight. */
static int draw_any(const kvq_sampler *s, double total, double u) {
    double left = u * total;
    int last = 0;
    for (int b = 0; b < s->n_blocks; b++) {
        if (!(s->block_sum[b] > 0)) continue;
        if (left >= s->block_sum[b]) {
            left -= s->block_sum[b];
            last = b;
            continue;
        }
        for (int id = b * BLOCK; id < b * BLOCK + block_length(s, b); id++) {
            if (s->weight[id] > 0) last = id;
            left -= (double)s->weight[id];
            if (left < 0) return id;
        }
        return last;
    }
    for (int id = last * BLOCK + block_length(s, last) - 1; id > last * BLOCK; id--)
        if (s->weight[id] > 0) return id;
    return last * BLOCK;
}

static int draw_warm(kvq_sampler *s, const kvq_sampling *p, const float *x, float max, double u) {
    heat h = heat_of(max, p->temperature);
    int n;
    if (p->top_k > 0 && p->top_k < s->vocab_size) {
        n = gather_top(s, x, h, p->top_k);
        if (p->top_p < 1) n = take_prefix(s->candidates, n, (double)p->top_p * sum_of(s->candidates, n), BY_VALUE);
        n = keep_min_p(s->candidates, n, p->min_p);
    } else if (p->top_p < 1) {
        double total = weigh_all(s, x, h);
        double least = (1 - (double)p->top_p) * total / s->vocab_size;
        n = gather_weights(s, h, (float)(least * 0.999));
        n = take_prefix(s->candidates, n, (double)p->top_p * total, BY_VALUE);
        n = keep_min_p(s->candidates, n, p->min_p);
    } else if (p->min_p > 0) {
        n = gather_min_p(s, x, h, p->min_p);
    } else {
        return draw_any(s, weigh_all(s, x, h), u);
    }
    return draw_candidate(s->candidates, n, u);
}

/* An infinite logit takes all the weight; several share it. Rewritten so that the rest of the file sees finite maxima.
 */
static const float *settle_infinity(kvq_sampler *s, const float *x) {
    for (int i = 0; i < s->vocab_size; i++) s->edited[i] = x[i] == INFINITY ? 0 : -INFINITY;
    (void)find_maxima(s, s->edited); /* the maximum is 0 now */
    return s->edited;
}

int kvq_sampler_draw(kvq_sampler *s, const kvq_sampling *p, const float *logits, const int *prompt, int n_prompt,
                     const int *answer, int n_answer, int token_index) {
    const float *x = edit(s, p, logits, prompt, n_prompt, answer, n_answer);
    int best = find_maxima(s, x);
    float max = s->block_max[best];
    if (!isfinite(max) && !any_finite(x, s->vocab_size)) return 0;
    if (!(p->temperature > 0)) return first_equal(x, best * BLOCK, block_length(s, best), max);
    if (max == INFINITY) {
        x = settle_infinity(s, x);
        max = 0;
    }
    return draw_warm(s, p, x, max, uniform(p->seed, (uint32_t)token_index));
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */

typedef struct range {
    const char *key;
    size_t offset;
    double min, max;
    bool above_min; /* min itself is not allowed */
    const char *allowed;
} range;

/* clang-format off */
static const range ranges[] = {
    {"temperature",        offsetof(kvq_sampling, temperature),         0, 2,       false, "0 to 2"},
    {"top_p",              offsetof(kvq_sampling, top_p),               0, 1,       true,  "above 0, up to 1"},
    {"min_p",              offsetof(kvq_sampling, min_p),               0, 1,       false, "0 to 1"},
    {"repetition_penalty", offsetof(kvq_sampling, repetition_penalty),  0, FLT_MAX, true,  "above 0"},
    {"presence_penalty",   offsetof(kvq_sampling, presence_penalty),   -2, 2,       false, "-2 to 2"},
    {"frequency_penalty",  offsetof(kvq_sampling, frequency_penalty),  -2, 2,       false, "-2 to 2"},
};
/* clang-format on */

/* Written so that NaN is outside. */
static bool in_range(const range *r, double value) {
    return value <= r->max && (r->above_min ? value > r->min : value >= r->min);
}

static kvq_status check_bias(const kvq_logit_bias *b, int vocab_size, kvq_error *err) {
    if (b->id < 0 || b->id >= vocab_size)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'logit_bias' names token %d; the vocabulary has tokens 0 to %d.", b->id,
                        vocab_size - 1);
    if (!(b->bias >= -100 && b->bias <= 100))
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'logit_bias' of token %d is %g; allowed is -100 to 100.", b->id,
                        (double)b->bias);
    return KVQ_OK;
}

kvq_status kvq_sampling_check(const kvq_sampling *p, int vocab_size, kvq_error *err) {
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        float value;
        memcpy(&value, (const char *)p + ranges[i].offset, sizeof value);
        if (!in_range(&ranges[i], (double)value))
            return kvq_fail(err, KVQ_BAD_ARGUMENT, "'%s' is %g; allowed is %s.", ranges[i].key, (double)value,
                            ranges[i].allowed);
    }
    if (p->top_k < 0) return kvq_fail(err, KVQ_BAD_ARGUMENT, "'top_k' is %d; allowed is 0 (off) or more.", p->top_k);
    for (int i = 0; i < p->n_logit_bias; i++) {
        kvq_status status = check_bias(&p->logit_bias[i], vocab_size, err);
        if (status) return status;
    }
    return KVQ_OK;
}
