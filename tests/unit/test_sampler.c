/* test_sampler.c: engine/sampler.c and the operator `sample` against a plain sort-everything reference and by
 * chi-square at fixed seeds. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "draw.h"
#include "failing_alloc.h"
#include "tests/sample.h"

#define INF INFINITY
#define COUNT_OF(a) (int)(sizeof(a) / sizeof *(a))

static const kvq_sampling greedy = {.top_p = 1, .repetition_penalty = 1};
static const kvq_sampling plain = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 7};

/* One draw from a fresh sampler, nothing said so far. */
static int draw_once(const kvq_sampling *p, const float *logits, int n, int token_index) {
    drawer *s = drawer_new(n);
    int id = draw(s, p, logits, NULL, 0, NULL, 0, token_index);
    drawer_free(s);
    return id;
}

/* A small generator of the test's own, so that inputs are the same on every machine. */
static uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static float *random_logits(int n, uint32_t seed, float spread) {
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int i = 0; i < n; i++) {
        float sum = 0;
        for (int j = 0; j < 6; j++) sum += (float)next_random(&seed) / 16777216.0f - 0.5f;
        x[i] = sum * spread;
    }
    return x;
}

/* ---- temperature 0 ----------------------------------------------------------------------------------------------- */

static void temperature_0_takes_the_largest_and_ties_go_to_the_lowest_id(void **state) {
    (void)state;
    static const struct {
        float logits[6];
        int expected;
        const char *why;
    } cases[] = {
        {{1, 3, 2, 0, -1, 2}, 1, "the largest"},
        {{1, 3, 2, 3, 3, 2}, 1, "a tie goes to the lowest id"},
        {{-5, -4, -3, -9, -3, -8}, 2, "all negative"},
        {{0, 0, 0, 0, 0, 0}, 0, "all equal"},
        {{-0.0f, 0.0f, 0, 0, 0, 0}, 0, "minus zero equals zero"},
        {{NAN, 1, NAN, 2, NAN, 0}, 3, "NaN never wins"},
        {{NAN, -INF, NAN, -3e38f, NAN, -INF}, 3, "the only finite one"},
        {{1, INF, 2, INF, 0, 0}, 1, "infinity is the largest"},
        {{-INF, -INF, -INF, -INF, -INF, -INF}, 0, "none finite: the lowest id"},
        {{NAN, NAN, NAN, NAN, NAN, NAN}, 0, "none finite: the lowest id"},
        {{NAN, INF, -INF, INF, NAN, NAN}, 0, "none finite: the lowest id"},
    };
    for (int i = 0; i < COUNT_OF(cases); i++) {
        int id = draw_once(&greedy, cases[i].logits, 6, 0);
        if (id != cases[i].expected) fail_msg("%s: got %d, expected %d", cases[i].why, id, cases[i].expected);
    }
}

static void ties_go_to_the_lowest_id_across_blocks_and_at_the_end_of_odd_vocabularies(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 127, 128, 129, 255, 257, 1000, 49152, 262144};
    for (int i = 0; i < COUNT_OF(sizes); i++) {
        int n = sizes[i];
        float *x = random_logits(n, (uint32_t)n, 4);
        x[n - 1] = 50;
        assert_int_equal(draw_once(&greedy, x, n, 0), n - 1);
        x[n / 2] = 50;
        assert_int_equal(draw_once(&greedy, x, n, 0), n / 2);
        free(x);
    }
}

/* ---- distributions ----------------------------------------------------------------------------------------------- */

/* What the header says, the plainest way: bias and penalties left out. probability[i] is 0 for tokens outside the set.
 */
typedef struct ranked {
    double weight;
    float logit;
    int id;
} ranked;

static int by_rank(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id - y->id;
}

static double *expected_distribution(const kvq_sampling *p, const float *logits, int n) {
    ranked *r = malloc((size_t)n * sizeof *r);
    double *probability = calloc((size_t)n, sizeof *probability);
    assert_non_null(r);
    assert_non_null(probability);
    for (int i = 0; i < n; i++) r[i] = (ranked){.logit = isnan(logits[i]) ? -INF : logits[i], .id = i};
    qsort(r, (size_t)n, sizeof *r, by_rank);
    int kept = p->top_k > 0 && p->top_k < n ? p->top_k : n;
    double total = 0, reached = 0;
    for (int i = 0; i < kept; i++) {
        r[i].weight = exp(((double)r[i].logit - (double)r[0].logit) / (double)p->temperature);
        total += r[i].weight;
    }
    for (int i = 0; i < kept; i++) {
        reached += r[i].weight;
        if (reached >= (double)p->top_p * total * (1 - 1e-9)) kept = i + 1;
    }
    while (kept > 1 && r[kept - 1].weight < (double)p->min_p) kept--;
    total = 0;
    for (int i = 0; i < kept; i++) total += r[i].weight;
    for (int i = 0; i < kept; i++) probability[r[i].id] = r[i].weight / total;
    free(r);
    return probability;
}

static int draws_one_in = 1;

/* Draws n_draws times; chi-square over the tokens expected at least 5 times, the others as one bin. */
static void check_distribution(const kvq_sampling *p, const float *logits, int n, int n_draws, const char *why) {
    double *probability = expected_distribution(p, logits, n);
    n_draws /= draws_one_in;
    int *count = calloc((size_t)n, sizeof *count);
    assert_non_null(count);
    drawer *s = drawer_new(n);
    for (int i = 0; i < n_draws; i++) {
        int id = draw(s, p, logits, NULL, 0, NULL, 0, i);
        assert_in_range(id, 0, n - 1);
        if (!(probability[id] > 0)) fail_msg("%s: token %d is outside the set and was drawn", why, id);
        count[id]++;
    }
    double chi = 0, rest = n_draws;
    int bins = 0, rest_count = n_draws;
    for (int i = 0; i < n; i++) {
        double expected = probability[i] * n_draws;
        if (expected < 5) continue;
        chi += (count[i] - expected) * (count[i] - expected) / expected;
        rest -= expected;
        rest_count -= count[i];
        bins++;
    }
    if (rest >= 5) {
        chi += (rest_count - rest) * (rest_count - rest) / rest;
        bins++;
    }
    /* Chi-square with k degrees of freedom: mean k, deviation sqrt(2 k); four deviations and a little, the draws are
     * fixed. */
    int k = bins - 1;
    double bound = k + 4 * sqrt(2.0 * k) + 6;
    if (!(chi <= bound)) fail_msg("%s: chi-square %.1f of %d degrees of freedom, bound %.1f", why, chi, k, bound);
    drawer_free(s);
    free(count);
    free(probability);
}

static void draws_follow_the_distribution(void **state) {
    (void)state;
    static const struct {
        kvq_sampling p;
        const char *why;
    } cases[] = {
        {{.temperature = 1, .top_p = 1}, "temperature alone"},
        {{.temperature = 0.5f, .top_p = 1}, "cold"},
        {{.temperature = 2, .top_p = 1}, "hot"},
        {{.temperature = 1, .top_p = 1, .top_k = 1}, "top_k 1"},
        {{.temperature = 1, .top_p = 1, .top_k = 5}, "top_k 5"},
        {{.temperature = 1, .top_p = 1, .top_k = 700}, "top_k beyond the number of blocks"},
        {{.temperature = 1, .top_p = 1, .top_k = 100000}, "top_k beyond the vocabulary"},
        {{.temperature = 1, .top_p = 0.9f}, "top_p"},
        {{.temperature = 1, .top_p = 0.999f}, "top_p near 1"},
        {{.temperature = 1, .top_p = 1e-6f}, "top_p near 0"},
        {{.temperature = 1, .top_p = 1, .min_p = 0.1f}, "min_p"},
        {{.temperature = 1, .top_p = 1, .min_p = 1}, "min_p 1"},
        {{.temperature = 0.8f, .top_p = 0.8f, .top_k = 20}, "top_p over what top_k left"},
        {{.temperature = 0.8f, .top_p = 0.95f, .min_p = 0.05f}, "top_p, min_p"},
        {{.temperature = 0.8f, .top_p = 0.9f, .top_k = 40, .min_p = 0.05f}, "all three"},
    };
    static const int sizes[] = {2, 10, 128, 1000};
    for (int k = 0; k < COUNT_OF(sizes); k++) {
        float *x = random_logits(sizes[k], 99u + (uint32_t)k, 5);
        for (int i = 0; i < COUNT_OF(cases); i++) {
            kvq_sampling p = cases[i].p;
            p.repetition_penalty = 1;
            p.seed = 1000u + (uint64_t)i;
            check_distribution(&p, x, sizes[k], 20000, cases[i].why);
        }
        free(x);
    }
}

static void draws_follow_the_distribution_of_a_large_vocabulary(void **state) {
    (void)state;
    enum { N = 262144 };
    float *x = random_logits(N, 5, 12);
    for (int i = 0; i < 60; i++) x[(i * 4391) % N] = 14 - 0.2f * (float)i;
    kvq_sampling p = {.temperature = 0.7f, .top_p = 0.95f, .repetition_penalty = 1, .seed = 3};
    check_distribution(&p, x, N, 800, "top_p");
    p.top_k = 40;
    check_distribution(&p, x, N, 800, "top_k and top_p");
    p = (kvq_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    check_distribution(&p, x, N, 800, "temperature alone");
    free(x);
}

static void a_flat_vocabulary_is_drawn_evenly(void **state) {
    (void)state;
    float x[300];
    for (int i = 0; i < 300; i++) x[i] = -3;
    check_distribution(&plain, x, 300, 30000, "flat");
    kvq_sampling p = plain;
    p.top_p = 0.5f;
    check_distribution(&p, x, 300, 30000, "flat, top_p: the lower ids, since ties go by id");
    p.top_p = 1;
    p.top_k = 10;
    check_distribution(&p, x, 300, 30000, "flat, top_k: the ten lowest ids");
}

static void top_p_keeps_the_shortest_set_that_reaches_p(void **state) {
    (void)state;
    /* Weights 8, 4, 2, 1, 1 of 16. */
    const float x[5] = {logf(8), logf(4), logf(2), 0, 0};
    static const struct {
        float top_p;
        int n_kept;
    } cases[] = {{0.1f, 1},  {0.49f, 1}, {0.51f, 2}, {0.74f, 2}, {0.76f, 3},
                 {0.87f, 3}, {0.88f, 4}, {0.93f, 4}, {0.94f, 5}};
    for (int i = 0; i < COUNT_OF(cases); i++) {
        kvq_sampling p = plain;
        p.top_p = cases[i].top_p;
        int largest = 0;
        drawer *s = drawer_new(5);
        for (int k = 0; k < 2000; k++) {
            int id = draw(s, &p, x, NULL, 0, NULL, 0, k);
            if (id > largest) largest = id;
        }
        drawer_free(s);
        if (largest != cases[i].n_kept - 1)
            fail_msg("top_p %g: largest id drawn %d, expected %d", (double)cases[i].top_p, largest,
                     cases[i].n_kept - 1);
    }
}

/* ---- order of the steps ------------------------------------------------------------------------------------------ */

static void logit_bias_comes_before_the_penalties(void **state) {
    (void)state;
    drawer *s = drawer_new(3);
    const kvq_logit_bias bias[] = {{0, 5}};
    kvq_sampling p = greedy;
    p.logit_bias = bias;
    p.n_logit_bias = 1;
    p.repetition_penalty = 2;
    const int prompt[] = {0};
    /* Bias first: (-3 + 5) / 2 = 1, above 0.5 and below 1.5. Penalty first: -3 * 2 + 5 = -1, below both. */
    const float low[] = {-3, 0.5f, 0}, high[] = {-3, 1.5f, 0};
    assert_int_equal(draw(s, &p, low, prompt, 1, NULL, 0, 0), 0);
    assert_int_equal(draw(s, &p, high, prompt, 1, NULL, 0, 0), 1);
    drawer_free(s);
}

static void repetition_comes_before_presence(void **state) {
    (void)state;
    /* 4 / 2 - 1 = 1; the other order gives (4 - 1) / 2 = 1.5. */
    drawer *s = drawer_new(2);
    kvq_sampling p = greedy;
    p.repetition_penalty = 2;
    p.presence_penalty = 1;
    const int answer[] = {0};
    const float x[] = {4, 1.25f};
    assert_int_equal(draw(s, &p, x, NULL, 0, answer, 1, 0), 1);
    drawer_free(s);
}

static void a_large_bias_forces_and_forbids(void **state) {
    (void)state;
    const float x[] = {20, 0, -10, 3};
    const kvq_logit_bias force[] = {{2, 100}}, forbid[] = {{0, -100}}, twice[] = {{3, 10}, {3, 10}};
    kvq_sampling p = plain;
    p.n_logit_bias = 1;
    for (int i = 0; i < 100; i++) {
        p.logit_bias = force;
        assert_int_equal(draw_once(&p, x, 4, i), 2);
        p.logit_bias = forbid;
        assert_int_not_equal(draw_once(&p, x, 4, i), 0);
    }
    p = greedy;
    p.logit_bias = twice;
    p.n_logit_bias = 2;
    assert_int_equal(draw_once(&p, x, 4, 0), 3); /* 3 + 10 + 10 > 20: rows for one token add up */
    const kvq_logit_bias outside[] = {{-1, 100}, {4, 100}};
    p.logit_bias = outside;
    assert_int_equal(draw_once(&p, x, 4, 0), 0);
}

static void repetition_divides_positive_and_multiplies_negative_logits_once(void **state) {
    (void)state;
    drawer *s = drawer_new(3);
    kvq_sampling p = greedy;
    p.repetition_penalty = 2;
    const int seen[] = {0, 0, 0};
    static const struct {
        float logits[3];
        int expected;
        const char *why;
    } cases[] = {
        {{4, 1.9f, -9}, 0, "4 / 2 = 2, once for three occurrences"},
        {{4, 2.1f, -9}, 1, "2 < 2.1"},
        {{-1, -1.9f, -9}, 1, "-1 * 2 = -2 < -1.9"},
        {{-1, -2.1f, -9}, 0, "-2 > -2.1"},
    };
    for (int i = 0; i < COUNT_OF(cases); i++) {
        int of_prompt = draw(s, &p, cases[i].logits, seen, 3, NULL, 0, 0);
        int of_answer = draw(s, &p, cases[i].logits, NULL, 0, seen, 3, 0);
        int of_both = draw(s, &p, cases[i].logits, seen, 2, seen, 1, 0);
        if (of_prompt != cases[i].expected || of_answer != cases[i].expected || of_both != cases[i].expected)
            fail_msg("%s: prompt %d, answer %d, both %d", cases[i].why, of_prompt, of_answer, of_both);
    }
    drawer_free(s);
}

static void presence_and_frequency_look_at_the_answer_alone(void **state) {
    (void)state;
    drawer *s = drawer_new(3);
    kvq_sampling p = greedy;
    const int said[] = {0, 0, 0, 77, -5};
    const float x[] = {4, 2.75f, 0};
    p.presence_penalty = 1.5f;
    assert_int_equal(draw(s, &p, x, said, 5, NULL, 0, 0), 0);
    assert_int_equal(draw(s, &p, x, NULL, 0, said, 5, 0), 1); /* 4 - 1.5 = 2.5 */
    p.presence_penalty = 0;
    p.frequency_penalty = 0.5f;
    assert_int_equal(draw(s, &p, x, said, 5, said, 2, 0), 0); /* 4 - 2 * 0.5 = 3 */
    assert_int_equal(draw(s, &p, x, said, 5, said, 3, 0), 1); /* 4 - 3 * 0.5 = 2.5 */
    drawer_free(s);
}

static void penalties_leave_no_trace_in_the_next_draw_or_in_the_logits(void **state) {
    (void)state;
    enum { N = 500 };
    drawer *s = drawer_new(N);
    float *x = random_logits(N, 11, 4), copy[N];
    memcpy(copy, x, sizeof copy);
    int said[N];
    for (int i = 0; i < N; i++) said[i] = (i * 7) % N;
    kvq_sampling p = plain;
    p.repetition_penalty = 1.3f;
    p.presence_penalty = 0.5f;
    p.frequency_penalty = 0.5f;
    int first = draw(s, &p, x, said, 100, said, N, 3);
    (void)draw(s, &p, x, said, N, said, 10, 4);
    assert_int_equal(draw(s, &p, x, said, 100, said, N, 3), first);
    for (int i = 0; i < 50; i++) {
        int alone = draw_once(&plain, x, N, i);
        assert_int_equal(draw(s, &plain, x, NULL, 0, NULL, 0, i), alone);
    }
    assert_memory_equal(copy, x, sizeof copy);
    free(x);
    drawer_free(s);
}

/* ---- hostile values ---------------------------------------------------------------------------------------------- */

static void infinite_logits_share_all_the_weight(void **state) {
    (void)state;
    const float x[] = {1, INF, 3, NAN, INF, -INF};
    int count[6] = {0};
    for (int i = 0; i < 1000; i++) count[draw_once(&plain, x, 6, i)]++;
    assert_int_equal(count[1] + count[4], 1000);
    assert_in_range(count[1], 430, 570);
}

static void tokens_of_minus_infinity_or_nan_are_never_drawn(void **state) {
    (void)state;
    const float x[] = {-INF, NAN, 0, -INF, 0, NAN};
    static const kvq_sampling cases[] = {
        {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 2, .top_p = 1, .repetition_penalty = 1, .top_k = 5},
        {.temperature = 2, .top_p = 0.999f, .repetition_penalty = 1},
        {.temperature = 2, .top_p = 1, .repetition_penalty = 1, .min_p = 1e-9f},
        {.temperature = 2, .top_p = 0.99f, .repetition_penalty = 1, .min_p = 1e-9f, .top_k = 5},
        {.temperature = 1e-38f, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 1e-42f, .top_p = 1, .repetition_penalty = 1},
    };
    for (int c = 0; c < COUNT_OF(cases); c++)
        for (int i = 0; i < 300; i++) {
            int id = draw_once(&cases[c], x, 6, i);
            if (id != 2 && id != 4) fail_msg("setting %d drew %d", c, id);
        }
}

static void without_a_finite_logit_every_setting_gives_the_lowest_id(void **state) {
    (void)state;
    float x[200];
    for (int i = 0; i < 200; i++) x[i] = i % 2 ? NAN : -INF;
    for (int top_k = 0; top_k < 300; top_k += 50) {
        kvq_sampling p = plain;
        p.top_k = top_k;
        p.top_p = 0.5f;
        assert_int_equal(draw_once(&p, x, 200, top_k), 0);
    }
}

static void huge_logits_do_not_overflow(void **state) {
    (void)state;
    const float x[] = {-3.4e38f, 3.4e38f, 3.4e38f, 0};
    int count[4] = {0};
    for (int i = 0; i < 400; i++) count[draw_once(&plain, x, 4, i)]++;
    assert_int_equal(count[1] + count[2], 400);
    assert_in_range(count[1], 140, 260);
}

/* ---- randomness -------------------------------------------------------------------------------------------------- */

static void the_generator_is_philox4x32_10(void **state) {
    (void)state;
    /* Random123's known answer for key 0, counter 0 starts with 6627e8d5: of 65,536 equal tokens the draw takes 0x6627.
     */
    enum { N = 65536 };
    float *x = calloc(N, sizeof *x);
    assert_non_null(x);
    kvq_sampling p = plain;
    p.seed = 0;
    assert_int_equal(draw_once(&p, x, N, 0), 0x6627);
    free(x);
}

static void a_draw_depends_on_seed_and_index_alone(void **state) {
    (void)state;
    enum { N = 4000 };
    float *x = random_logits(N, 21, 1);
    drawer *s = drawer_new(N);
    int forward[64], same = 0;
    for (int i = 0; i < 64; i++) forward[i] = draw(s, &plain, x, NULL, 0, NULL, 0, i);
    kvq_sampling other = plain;
    other.seed = plain.seed + ((uint64_t)1 << 40);
    for (int i = 63; i >= 0; i--) {
        same += draw(s, &other, x, NULL, 0, NULL, 0, i) == forward[i];
        assert_int_equal(draw(s, &plain, x, NULL, 0, NULL, 0, i), forward[i]);
    }
    assert_in_range(same, 0, 3); /* the high half of the seed counts, too */
    drawer_free(s);
    free(x);
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */

static void values_out_of_range_are_named(void **state) {
    (void)state;
    static const kvq_logit_bias far[] = {{5, 0}, {100, 1}}, heavy[] = {{5, 101}}, nan_bias[] = {{5, NAN}},
                                fine[] = {{99, -100}};
    static const struct {
        kvq_sampling p;
        kvq_status status;
        const char *text;
    } cases[] = {
        {{.temperature = -0.1f, .top_p = 1, .repetition_penalty = 1},
         KVQ_BAD_ARGUMENT,
         "'temperature' is -0.1; allowed is 0 to 2."},
        {{.temperature = NAN, .top_p = 1, .repetition_penalty = 1},
         KVQ_BAD_ARGUMENT,
         "'temperature' is nan; allowed is 0 to 2."},
        {{.temperature = 2, .top_p = 0, .repetition_penalty = 1},
         KVQ_BAD_ARGUMENT,
         "'top_p' is 0; allowed is above 0, up to 1."},
        {{.top_p = 1.5f, .repetition_penalty = 1}, KVQ_BAD_ARGUMENT, "'top_p' is 1.5; allowed is above 0, up to 1."},
        {{.top_p = 1, .min_p = 2, .repetition_penalty = 1}, KVQ_BAD_ARGUMENT, "'min_p' is 2; allowed is 0 to 1."},
        {{.top_p = 1, .repetition_penalty = 0}, KVQ_BAD_ARGUMENT, "'repetition_penalty' is 0; allowed is above 0."},
        {{.top_p = 1, .repetition_penalty = INF}, KVQ_BAD_ARGUMENT, "'repetition_penalty' is inf; allowed is above 0."},
        {{.top_p = 1, .repetition_penalty = 1, .presence_penalty = 3},
         KVQ_BAD_ARGUMENT,
         "'presence_penalty' is 3; allowed is -2 to 2."},
        {{.top_p = 1, .repetition_penalty = 1, .frequency_penalty = -3},
         KVQ_BAD_ARGUMENT,
         "'frequency_penalty' is -3; allowed is -2 to 2."},
        {{.top_p = 1, .repetition_penalty = 1, .top_k = -1},
         KVQ_BAD_ARGUMENT,
         "'top_k' is -1; allowed is 0 (off) or more."},
        {{.top_p = 1, .repetition_penalty = 1, .logit_bias = far, .n_logit_bias = 2},
         KVQ_BAD_ARGUMENT,
         "'logit_bias' names token 100; the vocabulary has tokens 0 to 99."},
        {{.top_p = 1, .repetition_penalty = 1, .logit_bias = heavy, .n_logit_bias = 1},
         KVQ_BAD_ARGUMENT,
         "'logit_bias' of token 5 is 101; allowed is -100 to 100."},
        {{.top_p = 1, .repetition_penalty = 1, .logit_bias = nan_bias, .n_logit_bias = 1},
         KVQ_BAD_ARGUMENT,
         "'logit_bias' of token 5 is nan; allowed is -100 to 100."},
        {{.temperature = 2,
          .top_p = 1,
          .min_p = 1,
          .repetition_penalty = 9,
          .presence_penalty = -2,
          .frequency_penalty = 2,
          .top_k = 1000,
          .logit_bias = fine,
          .n_logit_bias = 1},
         KVQ_OK,
         ""},
    };
    for (int i = 0; i < COUNT_OF(cases); i++) {
        kvq_error err = {0};
        assert_int_equal(kvq_sampling_check(&cases[i].p, 100, &err), cases[i].status);
        assert_string_equal(err.text, cases[i].text);
    }
}

static void a_vocabulary_of_nothing_is_refused(void **state) {
    (void)state;
    kvq_sampler *s = NULL;
    kvq_error err = {0};
    assert_int_equal(kvq_sampler_new(0, 1, &s, &err), KVQ_BAD_ARGUMENT);
    assert_null(s);
    kvq_sampler_free(NULL);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    int n = 0;
    for (;; n++) {
        kvq_sampler *s = NULL;
        kvq_error err = {0};
        allocations_left = n;
        kvq_status status = kvq_sampler_new(300, 4, &s, &err);
        bool all_done = allocations_left >= 0;
        allocations_left = -1;
        if (all_done) {
            assert_int_equal(status, KVQ_OK);
            kvq_sampler_free(s);
            break;
        }
        assert_int_equal(status, KVQ_NO_MEMORY);
        assert_null(s);
        assert_string_equal(err.text, "No memory for the sampler of a vocabulary of 300 tokens.");
    }
    assert_true(n >= 2); /* the sampler, and what it works in */
}

/* Steps allocate nothing, whatever a draw asks for. */
static void a_draw_needs_no_memory(void **state) {
    (void)state;
    enum { N = 300 };
    const kvq_logit_bias bias = {7, 1};
    const kvq_sampling all = {.temperature = 0.7f,
                              .top_p = 0.9f,
                              .min_p = 0.01f,
                              .top_k = 40,
                              .repetition_penalty = 1.1f,
                              .presence_penalty = 0.5f,
                              .frequency_penalty = 0.5f,
                              .logit_bias = &bias,
                              .n_logit_bias = 1};
    const int said[] = {3, 5, 3};
    float *x = random_logits(N, 11, 4);
    drawer *s = drawer_new(N);
    allocations_left = 0;
    int id = draw(s, &all, x, said, 3, said, 3, 3);
    int left = allocations_left;
    allocations_left = -1;
    assert_int_equal(left, 0);
    assert_in_range(id, 0, N - 1);
    drawer_free(s);
    free(x);
}

static void a_row_that_does_not_fit_is_left_out_whole(void **state) {
    (void)state;
    enum { N = 10 };
    const int few[] = {1, 2, 3, 1}, all[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    kvq_sampling p = plain;
    p.repetition_penalty = 2;
    kvq_sampler *s = NULL;
    assert_int_equal(kvq_sampler_new(N, 3, &s, NULL), KVQ_OK);
    kvq_sampler_begin(s);
    assert_true(kvq_sampler_add(s, &p, few, 4, NULL, 0, 0));
    assert_false(kvq_sampler_add(s, &p, all, N, NULL, 0, 0)); /* 3 + 10 edits */
    assert_true(kvq_sampler_add(s, &p, all, 7, NULL, 0, 0));  /* but 3 + 7 are as many as the vocabulary */
    assert_true(kvq_sampler_add(s, &plain, all, N, NULL, 0, 0));
    assert_false(kvq_sampler_add(s, &plain, all, N, NULL, 0, 0)); /* a fourth row */
    kvq_sample job = kvq_sampler_job(s);
    assert_int_equal(job.n_rows, 3);
    assert_int_equal(job.n_edits, 10);
    assert_int_equal(job.edits[0].id, 1);
    assert_int_equal(job.edits[0].n_seen, 2);
    assert_int_equal(job.rows[1].edit_begin, 3);
    assert_int_equal(job.rows[1].n_edits, 7);
    assert_int_equal(job.rows[2].n_edits, 0);
    kvq_sampler_begin(s);
    assert_true(kvq_sampler_add(s, &p, all, N, NULL, 0, 0)); /* an empty job has room for any */
    kvq_sampler_free(s);
}

int main(int argc, char **argv) {
    if (is_sample(argc, argv)) draws_one_in = 20;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(temperature_0_takes_the_largest_and_ties_go_to_the_lowest_id),
        cmocka_unit_test(ties_go_to_the_lowest_id_across_blocks_and_at_the_end_of_odd_vocabularies),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(draws_follow_the_distribution_of_a_large_vocabulary),
        cmocka_unit_test(a_flat_vocabulary_is_drawn_evenly),
        cmocka_unit_test(top_p_keeps_the_shortest_set_that_reaches_p),
        cmocka_unit_test(logit_bias_comes_before_the_penalties),
        cmocka_unit_test(repetition_comes_before_presence),
        cmocka_unit_test(a_large_bias_forces_and_forbids),
        cmocka_unit_test(repetition_divides_positive_and_multiplies_negative_logits_once),
        cmocka_unit_test(presence_and_frequency_look_at_the_answer_alone),
        cmocka_unit_test(penalties_leave_no_trace_in_the_next_draw_or_in_the_logits),
        cmocka_unit_test(infinite_logits_share_all_the_weight),
        cmocka_unit_test(tokens_of_minus_infinity_or_nan_are_never_drawn),
        cmocka_unit_test(without_a_finite_logit_every_setting_gives_the_lowest_id),
        cmocka_unit_test(huge_logits_do_not_overflow),
        cmocka_unit_test(the_generator_is_philox4x32_10),
        cmocka_unit_test(a_draw_depends_on_seed_and_index_alone),
        cmocka_unit_test(values_out_of_range_are_named),
        cmocka_unit_test(a_vocabulary_of_nothing_is_refused),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(a_draw_needs_no_memory),
        cmocka_unit_test(a_row_that_does_not_fit_is_left_out_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
