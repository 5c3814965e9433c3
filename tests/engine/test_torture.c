/* test_torture.c: long random lives of an engine: requests come, are cancelled, run out of time, go on in sessions,
 * while the pool is too small and the prefix cache is on. Each ends exactly once; each that was left alone says what it
 * says alone; nothing is left behind. --sample: one life of each model, for the sanitizers.
 *
 * The engine's clock is the test's own and goes on by being looked at, so that a life is the same on every machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "world.h"
#include "tests/sample.h"

enum { KINDS = 12, LIVE_MAX = 24, ACTIONS = 2200, TICK_NS = 100000 };

int __wrap_clock_gettime(clockid_t clock, struct timespec *ret);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret) {
    static int64_t ns;
    (void)clock;
    ns += TICK_NS;
    *ret = (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    return 0;
}

typedef struct live {
    answer answer;
    uint64_t id;
    int kind;             /* which request, or -1: of a session */
    bool used, disturbed; /* cancelled, or with a deadline: it need not say everything */
} live;

typedef struct life {
    kvq_engine *engine;
    answer *alone;  /* [KINDS] */
    live *requests; /* [LIVE_MAX] */
    uint32_t random;
    int n_submitted, n_compared, n_cancelled, n_turns, step;
} life;

static uint32_t next_random(life *x) {
    x->random = x->random * 1664525u + 1013904223u;
    return x->random >> 8;
}

static kvq_request kind_request(int *ids, int kind) {
    static const int lengths[KINDS] = {1, 20, 31, 32, 33, 64, 90, 128, 150, 200, 256, 300};
    kvq_request r =
        world_request(ids, lengths[kind], 7u + (uint64_t)(kind % 3), 20 + kind * 13 % 70); /* some begin alike */
    if (kind % 6 == 1) world_may_end(&r, 3); /* these do sooner or later */
    return r;
}

static int n_ended_by_token; /* of those alone */

static answer *run_alone(const kvq_options *o) {
    kvq_engine *e = world_open(o);
    answer *alone = calloc(KINDS, sizeof *alone);
    assert_non_null(alone);
    for (int k = 0; k < KINDS; k++) {
        int ids[PROMPT_MAX];
        kvq_request r = kind_request(ids, k);
        (void)world_submit(e, &r, &alone[k]);
        (void)world_run(e);
        n_ended_by_token += alone[k].reason == KVQ_FINISH_STOP;
    }
    kvq_close(e);
    return alone;
}

static live *find_free(life *x) {
    for (int i = 0; i < LIVE_MAX; i++)
        if (!x->requests[i].used) return &x->requests[i];
    return NULL;
}

static void submit_some(life *x) {
    int ids[PROMPT_MAX];
    live *l = find_free(x);
    if (!l) return;
    *l = (live){.used = true, .kind = (int)(next_random(x) % KINDS)};
    kvq_request r = kind_request(ids, l->kind);
    r.priority = (int)(next_random(x) % 10);
    if (next_random(x) % 15 == 0) {
        r.deadline_ms = 1;
        l->disturbed = true;
    }
    l->id = world_submit(x->engine, &r, &l->answer);
    x->n_submitted++;
}

static void submit_turn(life *x) {
    static const char *const names[] = {"a", "b", "c"};
    live *l = find_free(x);
    if (!l) return;
    *l = (live){.used = true, .kind = -1};
    kvq_request r = kvq_default_request();
    r.prompt = "And then, what did the others say?";
    r.session = names[next_random(x) % 3];
    r.max_tokens = 6;
    r.has_seed = true;
    r.seed = next_random(x);
    r.ignore_end = true;
    kvq_error err = {0};
    r.user = &l->answer;
    kvq_status status = kvq_submit(x->engine, &r, &l->id, &err);
    if (status) { /* the session is as long as the context */
        assert_int_equal(status, KVQ_NO_SPACE);
        l->used = false;
        (void)kvq_session_drop(x->engine, r.session); /* false while another turn of it runs */
        return;
    }
    x->n_submitted++;
    x->n_turns++;
}

static void cancel_some(life *x) {
    live *l = &x->requests[next_random(x) % LIVE_MAX];
    if (!l->used || kvq_cancel(x->engine, l->id)) return; /* NOT_FOUND: it has just ended */
    l->disturbed = true;
    x->n_cancelled++;
}

static void drop_session(life *x) {
    static const char *const names[] = {"a", "b", "c"};
    (void)kvq_session_drop(x->engine, names[next_random(x) % 3]); /* there may be none */
}

/* Whether part is how an answer that says whole may end early: with any of its characters, or within one, which then
 * is U+FFFD. Those are three bytes, so such a part may be longer than the whole. */
static bool is_beginning(const char *part, size_t n_part, const char *whole, size_t n_whole) {
    if (n_part <= n_whole && memcmp(part, whole, n_part) == 0) return true;
    if (n_part < 3 || memcmp(part + n_part - 3, "\xEF\xBF\xBD", 3) != 0) return false;
    return n_part - 3 < n_whole && memcmp(part, whole, n_part - 3) == 0;
}

/* Takes what has ended, and looks at it. */
static void reap(life *x) {
    for (int i = 0; i < LIVE_MAX; i++) {
        live *l = &x->requests[i];
        if (!l->used || !l->answer.ended) continue;
        l->used = false;
        if (l->kind < 0) {
            if (l->answer.failed)
                assert_int_equal(l->answer.error.code, KVQ_NO_SPACE); /* the session became too long */
        } else if (!l->disturbed) {
            char what[64];
            snprintf(what, sizeof what, "request of kind %d at step %d", l->kind, x->step);
            world_same(&l->answer, &x->alone[l->kind], what);
            x->n_compared++;
        } else {
            const answer *whole = &x->alone[l->kind];
            assert_false(l->answer.failed);
            assert_true(is_beginning(l->answer.text, l->answer.n_bytes, whole->text, whole->n_bytes));
        }
    }
}

static uint64_t live_one(int model, const char *policy, uint32_t seed) {
    kvq_options o = world_options(model, policy);
    life x = {.random = seed, .requests = calloc(LIVE_MAX, sizeof(live)), .alone = run_alone(&o)};
    assert_non_null(x.requests);
    o.enable_prefix_caching = true;
    char pool[16];
    o.cache_max_entry_count = world_smallest_pool(o, pool, sizeof pool);
    o.max_batch_size = 8;
    o.max_prefill_token_num = 48;
    x.engine = world_open(&o);
    for (int i = 0; i < ACTIONS; i++) {
        uint32_t what = next_random(&x) % 20;
        if (what < 5)
            submit_some(&x);
        else if (what < 7)
            submit_turn(&x);
        else if (what < 8)
            cancel_some(&x);
        else if (what == 8 && next_random(&x) % 4 == 0)
            drop_session(&x);
        else
            world_step(x.engine, x.step++);
        reap(&x);
    }
    while (kvq_is_active(x.engine)) {
        world_step(x.engine, x.step++);
        reap(&x);
    }
    for (int i = 0; i < LIVE_MAX; i++) assert_false(x.requests[i].used); /* each has ended */
    kvq_stats stats;
    kvq_get_stats(x.engine, &stats);
    assert_int_equal(stats.blocks_used, 0);
    assert_int_equal(stats.requests_running + stats.requests_waiting, 0);
    assert_true(stats.blocks_cached <= stats.n_blocks);
    assert_int_equal(stats.requests_finished + stats.requests_failed, x.n_submitted);
    assert_true(x.n_compared > 30 && x.n_cancelled > 3 && x.n_turns > 10); /* the life was one */
    assert_true(stats.prefix_hits > 0);
    uint64_t n_preemptions = stats.preemptions;
    kvq_close(x.engine);
    free(x.alone);
    free(x.requests);
    return n_preemptions;
}

static uint32_t lives_one_in = 1;

static void random_lives_end_well(void **state) {
    (void)state;
    static const char *const policies[] = {"4", "8", "lmdeploy4"};
    uint64_t n_preemptions = 0;
    uint32_t n_lives = 0;
    for (uint32_t i = 0; i < TINY_MODELS * 6; i += lives_one_in) {
        uint32_t p = i % 3, seed = 1 + i / 3 % 2;
        n_preemptions += live_one((int)(i / 6), policies[p], seed * 1000 + p);
        n_lives++;
    }
    printf("%u lives, %llu preemptions, %d ends by a token alone\n", n_lives, (unsigned long long)n_preemptions,
           n_ended_by_token);
    assert_true(n_preemptions >= 2 * n_lives && n_ended_by_token > 0);
}

static void a_beginning_may_end_within_a_character(void **state) {
    (void)state;
    static const struct {
        const char *part, *whole;
        bool expected;
        const char *why;
    } cases[] = {
        {"", "ab", true, "nothing yet"},
        {"ab", "ab", true, "all of it"},
        {"a", "ab", true, "a character less"},
        {"ac", "ab", false, "another text"},
        {"abc", "ab", false, "more than the whole"},
        {"a\uFFFD", "a\u00E9", true, "a cut character of two bytes is longer by one"},
        {"\uFFFD", "\u00E9", true, "without anything before it, too"},
        {"a\uFFFD", "a\u20AC!", true, "of three bytes"},
        {"a\uFFFD", "a", false, "nothing was cut: the whole has no more"},
        {"b\uFFFD", "a\u00E9", false, "another text before the cut character"},
        {"a\uFFFD\uFFFD", "a\u00E9\u00E9", false, "only the last character can be cut"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (is_beginning(cases[i].part, strlen(cases[i].part), cases[i].whole, strlen(cases[i].whole)) !=
            cases[i].expected)
            fail_msg("%s", cases[i].why);
}

static int remove_models(void **state) {
    (void)state;
    world_remove_models();
    return 0;
}

int main(int argc, char **argv) {
    if (is_sample(argc, argv)) lives_one_in = 7;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_beginning_may_end_within_a_character),
        cmocka_unit_test(random_lives_end_well),
    };
    return cmocka_run_group_tests(tests, NULL, remove_models);
}
