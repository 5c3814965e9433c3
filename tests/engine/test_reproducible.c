/* test_reproducible.c: same request, seed, build and backend give the same tokens, whatever else is in the batch,
 * however the prefill was chunked, whichever blocks came from the prefix cache, how often it was preempted, and however
 * many threads ran. Every policy, on models with coded and float products, with a bias in K, with sliding windows.
 * --sample: a little of one of these worlds, for emulators. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "world.h"
#include "tests/sample.h"

enum { REQUESTS = 33 };

/* Which model under which policy. Policy 4 has all the machinery (wide pages, closing, hard layers), so every model
 * runs under it. */
static const struct world {
    int model;
    const char *policy;
} worlds[] = {{TINY_GEMMA3, "4"}, {TINY_LLAMA, "4"}, {TINY_QWEN2, "4"},          {TINY_LLAMA, "8"},
              {TINY_QWEN2, "8"},  {TINY_LLAMA, "0"}, {TINY_GEMMA3, "lmdeploy4"}, {TINY_LLAMA, "lmdeploy8"}};
static int n_worlds = sizeof worlds / sizeof *worlds;
static int stride = 1; /* 10: only every tenth request is tried */
static int answer_tokens = 50;

/* Lengths around the ends of pages of 32 and of chunks, short and long. */
static const int lengths[REQUESTS] = {1,   2,   31,  32,  33,  63,  64,  65,  95,  96,  97,
                                      127, 128, 129, 159, 160, 161, 200, 223, 224, 225, 255,
                                      256, 257, 288, 300, 319, 320, 321, 350, 5,   7,   12};

typedef struct expected {
    answer answers[REQUESTS]; /* each alone, the prefill in one chunk */
} expected;

static kvq_request request(int *ids, int i) {
    return world_request(ids, lengths[i], 100u + (uint64_t)i, answer_tokens);
}

static expected *run_alone(int model, const char *policy) {
    expected *x = calloc(1, sizeof *x);
    assert_non_null(x);
    kvq_options o = world_options(model, policy);
    o.max_batch_size = 1;
    o.max_prefill_token_num = 512;
    kvq_engine *e = world_open(&o);
    for (int i = 0; i < REQUESTS; i += stride) {
        int ids[PROMPT_MAX];
        kvq_request r = request(ids, i);
        (void)world_submit(e, &r, &x->answers[i]);
        (void)world_run(e);
        assert_int_equal(x->answers[i].result.completion_tokens, answer_tokens);
        assert_int_equal(x->answers[i].result.prompt_tokens, lengths[i]);
        assert_true(x->answers[i].n_bytes * 2 >
                    (size_t)answer_tokens); /* and no two say the same: the comparisons below could fail */
        if (i > 0) assert_string_not_equal(x->answers[i].text, x->answers[i - stride].text);
    }
    kvq_close(e);
    return x;
}

/* All requests at once in an engine of these options. */
static void check_together(const kvq_options *o, const expected *x, kvq_stats *ret_stats, const char *what) {
    kvq_engine *e = world_open(o);
    answer *answers = calloc(REQUESTS, sizeof *answers);
    assert_non_null(answers);
    for (int i = 0; i < REQUESTS; i += stride) {
        int ids[PROMPT_MAX];
        kvq_request r = request(ids, i);
        (void)world_submit(e, &r, &answers[i]);
    }
    (void)world_run(e);
    for (int i = 0; i < REQUESTS; i += stride) {
        char name[128];
        snprintf(name, sizeof name, "%s, %s, policy %s, prompt of %d", what, kvq_get_info(e)->model_name,
                 o->quant_policy, lengths[i]);
        world_same(&answers[i], &x->answers[i], name);
    }
    kvq_get_stats(e, ret_stats);
    assert_int_equal(ret_stats->blocks_used, 0);
    free(answers);
    kvq_close(e);
}

static void check_model(int model, const char *policy) {
    expected *x = run_alone(model, policy);
    kvq_stats stats;
    kvq_options o = world_options(model, policy);
    check_together(&o, x, &stats, "among 32 others");
    assert_int_equal(stats.preemptions, 0);

    o.max_prefill_token_num = 7;
    check_together(&o, x, &stats, "a prefill budget of 7");
    o.max_prefill_token_num = 500;
    check_together(&o, x, &stats, "a prefill budget of 500");

    o = world_options(model, policy);
    o.threads = 2;
    check_together(&o, x, &stats, "two threads");

    o = world_options(model, policy);
    o.session_len = 400;
    char pool[16];
    o.cache_max_entry_count = world_smallest_pool(o, pool, sizeof pool);
    check_together(&o, x, &stats, "a pool for one or two of them");
    if (stats.preemptions == 0 && stride == 1)
        fail_msg("model %d, policy %s: the small pool led to no preemption", model, policy);

    o = world_options(model, policy);
    o.enable_prefix_caching = true;
    check_together(&o, x, &stats, "the prefix cache on");
    free(x);
}

static void an_answer_does_not_depend_on_what_else_happens(void **state) {
    (void)state;
    for (int w = 0; w < n_worlds; w++) check_model(worlds[w].model, worlds[w].policy);
}

/* The same prompts again, and longer ones that begin the same: a warm cache, hit at every length. */
static void a_warm_prefix_cache_changes_nothing_but_time(void **state) {
    (void)state;
    for (const struct world *w = worlds; w < worlds + n_worlds; w++) {
        kvq_options o = world_options(w->model, w->policy);
        kvq_engine *cold = world_open(&o);
        o.enable_prefix_caching = true;
        kvq_engine *warm = world_open(&o);
        for (int n = 20; n <= 400; n += stride == 1 ? 19 : 76) {
            int ids[PROMPT_MAX];
            char name[96];
            answer a, b;
            kvq_request r =
                world_request(ids, n, 5, 12); /* ids are a function of place: each prompt begins as the one before */
            (void)world_submit(cold, &r, &a);
            (void)world_run(cold);
            (void)world_submit(warm, &r, &b);
            (void)world_run(warm);
            snprintf(name, sizeof name, "model %d, policy %s, %d ids", w->model, w->policy, n);
            world_same(&b, &a, name);
            assert_int_equal(a.result.cached_tokens, 0);
            if (n > 100 && b.result.cached_tokens < 32) fail_msg("%s: %d cached tokens", name, b.result.cached_tokens);
            assert_true(b.result.cached_tokens < n);
        }
        assert_int_equal(world_blocks_used(warm), 0);
        kvq_close(cold);
        kvq_close(warm);
    }
}

typedef struct logit_rows {
    float *rows;
    size_t n;
} logit_rows;

static int keep_row(void *user, size_t pos, const float *logits) {
    logit_rows *l = user;
    assert_int_equal(pos, l->n);
    memcpy(l->rows + pos * TINY_VOCAB, logits, TINY_VOCAB * sizeof *logits);
    l->n++;
    return 0;
}

/* Bit for bit, at every position: stronger than tokens, which hide small differences. */
static void logits_do_not_depend_on_how_the_prompt_is_cut(void **state) {
    (void)state;
    enum { N = 300, LATE = 205 };
    static const int budgets[] = {512, 33, 7, 64, 1};
    int ids[PROMPT_MAX];
    (void)world_request(ids, N, 77, 1);
    for (const struct world *w = worlds; w < worlds + n_worlds; w++) {
        logit_rows first = {.rows = malloc(sizeof(float) * N * TINY_VOCAB)},
                   next = {.rows = malloc(sizeof(float) * N * TINY_VOCAB)};
        assert_non_null(first.rows);
        assert_non_null(next.rows);
        for (size_t b = 0; b < (stride == 1 ? sizeof budgets / sizeof *budgets : 3); b++) {
            kvq_error err = {0};
            kvq_options o = world_options(w->model, w->policy);
            o.max_prefill_token_num = budgets[b];
            o.threads = 1 + (int)(b % 2);
            kvq_engine *e = world_open(&o);
            logit_rows *l = b == 0 ? &first : &next;
            l->n = 0;
            if (kvq_logits(e, ids, N, 0, keep_row, l, &err)) fail_msg("kvq_logits: %s", err.text);
            assert_int_equal(l->n, N);
            if (b == 1) { /* the same from a later position on */
                memset(l->rows + LATE * TINY_VOCAB, 0, sizeof(float) * (N - LATE) * TINY_VOCAB);
                l->n = LATE;
                if (kvq_logits(e, ids, N, LATE, keep_row, l, &err)) fail_msg("kvq_logits: %s", err.text);
                assert_int_equal(l->n, N);
            }
            for (int i = 0; i < N; i++)
                if (memcmp(l->rows + i * TINY_VOCAB, first.rows + i * TINY_VOCAB, TINY_VOCAB * sizeof(float)) != 0)
                    fail_msg("model %d, policy %s, budget %d: logits differ at position %d", w->model, w->policy,
                             budgets[b], i);
            kvq_close(e);
        }
        free(first.rows);
        free(next.rows);
    }
}

/* Turns of a session on an engine where nothing is cached, or everything. */
static void a_session_says_the_same_with_and_without_the_cache(void **state) {
    (void)state;
    for (int m = 0; m < (n_worlds > 1 ? TINY_MODELS : 1); m++) {
        kvq_options o = world_options(m, "4");
        kvq_engine *cold = world_open(&o);
        o.enable_prefix_caching = true;
        kvq_engine *warm = world_open(&o);
        for (int turn = 0; turn < 4; turn++) {
            answer a, b;
            kvq_request r = kvq_default_request();
            r.prompt = "This is what I say in every turn, and it is longer than a page.";
            r.session = "one";
            r.max_tokens = 20;
            r.seed = 9;
            r.has_seed = true;
            r.ignore_end = true;
            (void)world_submit(cold, &r, &a);
            (void)world_run(cold);
            (void)world_submit(warm, &r, &b);
            (void)world_run(warm);
            world_same(&b, &a, "a turn of a session");
            assert_int_equal(a.result.prompt_tokens, b.result.prompt_tokens);
            if (turn > 0) assert_true(a.result.prompt_tokens > 80 && b.result.cached_tokens >= 64);
        }
        kvq_close(cold);
        kvq_close(warm);
    }
}

static int remove_models(void **state) {
    (void)state;
    world_remove_models();
    return 0;
}

int main(int argc, char **argv) {
    if (is_sample(argc, argv)) n_worlds = 1, stride = 10, answer_tokens = 20;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_does_not_depend_on_what_else_happens),
        cmocka_unit_test(a_warm_prefix_cache_changes_nothing_but_time),
        cmocka_unit_test(logits_do_not_depend_on_how_the_prompt_is_cut),
        cmocka_unit_test(a_session_says_the_same_with_and_without_the_cache),
    };
    return cmocka_run_group_tests(tests, NULL, remove_models);
}
