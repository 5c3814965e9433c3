/* test_overlap.c: launching the next step before this one's tokens are told (KVQ_OVERLAP=1), or before they are known
 * (2, as a GPU does of itself), changes when things are computed, and nothing of what is told: every request has the
 * same events, whichever way it ends. --cuda: through the CUDA backend of KVQ_CUDA_PLUGIN, whose shim computes nothing
 * before it is waited for; fewer requests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "world.h"

#define COUNT_OF(a) (int)(sizeof(a) / sizeof *(a))

enum { ASKED_MAX = 32, LOG_BYTES = 16384, TEXT_BYTES = 64, N_WAYS = 3 };

static const char *backend = "cpu";
static int one_in = 1; /* of the requests: the shim is slow */

/* A request, and all that was told of it. */
typedef struct asked {
    uint64_t id;
    int cancel_at; /* tokens told; 0: it is left alone */
    int n_tokens;  /* told so far */
    bool ended;
    int n_cached;          /* tokens, when it has ended */
    char text[TEXT_BYTES]; /* the answer's beginning */
    size_t n_text;
    char log[LOG_BYTES]; /* a line an event */
    size_t n_log;
} asked;

/* One engine's life. */
typedef struct life {
    kvq_engine *engine;
    asked asked[ASKED_MAX];
    int n, n_calls;
    kvq_stats stats; /* at its end */
} life;

static kvq_options options_of(int model, const char *policy) {
    kvq_options o = world_options(model, policy);
    o.backend = backend;
    return o;
}

static void begin(life *x, const kvq_options *o, int overlap) {
    static const char *const ways[N_WAYS] = {"0", "1", "2"};
    memset(x, 0, sizeof *x);
    setenv("KVQ_OVERLAP", ways[overlap], 1);
    x->engine = world_open(o);
    unsetenv("KVQ_OVERLAP");
}

static asked *ask(life *x, kvq_request r, int cancel_at) {
    assert_true(x->n < ASKED_MAX);
    kvq_error err = {0};
    asked *a = &x->asked[x->n++];
    a->cancel_at = cancel_at;
    r.user = a;
    if (kvq_submit(x->engine, &r, &a->id, &err)) fail_msg("kvq_submit: %s", err.text);
    return a;
}

/* What a result says of the answer, and what it held; a cancelled one may have a block more for what is not told. */
static void write_down(asked *a, const kvq_event *event) {
    uint64_t held = event->reason == KVQ_FINISH_CANCELLED ? 0 : event->result.kv_bytes;
    int n = snprintf(a->log + a->n_log, sizeof a->log - a->n_log, "%d tokens: '%s', %zu bytes", event->n_tokens,
                     event->text, event->n_bytes);
    a->n_log += (size_t)n;
    if (event->kind != KVQ_EVENT_TEXT)
        a->n_log += (size_t)snprintf(
            a->log + a->n_log, sizeof a->log - a->n_log,
            ", ends by %s: %d and %d tokens, %d of them cached, seed %llu, truncated %d, %llu bytes, %s",
            kvq_finish_name(event->reason), event->result.prompt_tokens, event->result.completion_tokens,
            event->result.cached_tokens, (unsigned long long)event->result.seed, event->result.truncated,
            (unsigned long long)held, event->error.code ? event->error.text : "well");
    assert_true(a->n_log + 2 < sizeof a->log);
    a->log[a->n_log++] = '\n';
}

/* One call, and what a caller does with its events, cancelling among it. */
static void step(life *x) {
    const kvq_event *events;
    size_t n;
    kvq_error err = {0};
    if (x->n_calls++ % 3 == 0) kvq_wait(x->engine); /* at any time, or never */
    if (kvq_step(x->engine, &events, &n, &err)) fail_msg("kvq_step: %s", err.text);
    for (size_t i = 0; i < n; i++) {
        asked *a = events[i].user;
        assert_false(a->ended);
        write_down(a, &events[i]);
        for (size_t b = 0; b < events[i].n_bytes && a->n_text < TEXT_BYTES; b++)
            a->text[a->n_text++] = events[i].text[b];
        a->n_tokens = events[i].n_tokens;
        a->ended = events[i].kind != KVQ_EVENT_TEXT;
        if (a->ended) a->n_cached = events[i].result.cached_tokens;
        if (a->cancel_at && a->n_tokens >= a->cancel_at && !a->ended)
            assert_int_equal(kvq_cancel(x->engine, a->id), KVQ_OK);
    }
}

static void run(life *x) {
    while (kvq_is_active(x->engine)) {
        step(x);
        assert_true(x->n_calls < 20000);
    }
}

static void end(life *x) {
    for (int i = 0; i < x->n; i++) assert_true(x->asked[i].ended);
    kvq_get_stats(x->engine, &x->stats);
    assert_int_equal(x->stats.blocks_used, 0);
    assert_int_equal(x->stats.requests_finished + x->stats.requests_failed, x->n);
    kvq_close(x->engine);
}

typedef void scenario(life *x);

/* Lives the same in every way; all are over then, and there is something to look at in them. */
static void compare(scenario *live, const kvq_options *o, life lives[N_WAYS]) {
    for (int way = 0; way < N_WAYS; way++) {
        begin(&lives[way], o, way);
        live(&lives[way]);
        end(&lives[way]);
        assert_int_equal(lives[0].n, lives[way].n);
        for (int i = 0; i < lives[0].n; i++)
            if (strcmp(lives[0].asked[i].log, lives[way].asked[i].log) != 0)
                fail_msg("request %d was told\n%sand overlapped (%d)\n%s", i, lives[0].asked[i].log, way,
                         lives[way].asked[i].log);
        assert_int_equal(lives[0].stats.generation_tokens, lives[way].stats.generation_tokens);
        assert_int_equal(lives[way].stats.steps_ahead > 0, way == 2);
    }
}

static life *new_lives(void) {
    life *lives = calloc(N_WAYS, sizeof *lives);
    assert_non_null(lives);
    return lives;
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

/* Letters only: a token is a byte of text, and an event. */
static kvq_request letters(int n_prompt, uint64_t seed, int max_tokens) {
    static int ids[PROMPT_MAX];
    static kvq_token_bias bias[26];
    kvq_request r = world_request(ids, n_prompt, seed, max_tokens);
    for (int i = 0; i < 26; i++) bias[i] = (kvq_token_bias){'a' + i, 60};
    r.logit_bias = bias;
    r.n_logit_bias = 26;
    return r;
}

/* Answers of 10 to 25 letters or bytes, ended in every way there is. */
static void ask_one_of_each(life *x, int i) {
    static const char *const stops[] = {"a", "e", "th", "no", "x"};
    kvq_request r = letters(5 + 13 * i % 60, (uint64_t)i + 1, 10 + i % 16);
    switch (i % 4) {
    case 0:
        (void)ask(x, r, 0);
        break;
    case 1:
        r.stop = stops;
        r.n_stop = 5;
        (void)ask(x, r, 0);
        break;
    case 2:
        (void)ask(x, r, 3 + i % 5);
        break;
    default:
        world_may_end(&r, 4);
        if (i % 8 == 7) r.repetition_penalty = 1.2f; /* of what was drawn before: its ids must be known */
        (void)ask(x, r, 0);
    }
}

/* ---- the same is told -------------------------------------------------------------------------------------------- */

static void each_way_of_ending(life *x) {
    for (int i = 0; i < 7; i++) ask_one_of_each(x, i);
    run(x);
    for (int i = 0; i < 8; i++) ask_one_of_each(x, i);
    run(x);
}

/* End tokens one after the other, beside sequences that go on, those of few and those of many places behind them. */
static void many_end_by_their_tokens(life *x) {
    for (int i = 0; i < 12; i++) {
        kvq_request r = letters(20 + i, (uint64_t)i + 1, 60);
        world_may_end(&r, 4);
        r.ignore_end = i % 4 == 0;
        (void)ask(x, r, 0);
    }
    run(x);
}

static void ends_by_tokens_are_told_the_same(void **state) {
    (void)state;
    life *lives = new_lives();
    kvq_options o = options_of(TINY_LLAMA, "8");
    int n_by_token = 0;
    o.max_batch_size = 12;
    o.enable_prefix_caching = true;
    compare(many_end_by_their_tokens, &o, lives);
    for (int i = 0; i < lives[0].n; i++) n_by_token += lives[0].asked[i].n_tokens < 60;
    assert_true(n_by_token > 5);
    free(lives);
}

static void every_request_is_told_the_same(void **state) {
    (void)state;
    life *lives = new_lives();
    kvq_options o = options_of(TINY_LLAMA, "4");
    compare(each_way_of_ending, &o, lives);
    for (int i = 0; i < lives[0].n; i++) assert_true(lives[0].asked[i].n_log > 60); /* there was something to tell */
    free(lives);
}

/* A stop string found with each token from position 20 to 50: the row behind it, in vain, is the last of a page, which
 * it closes, or the first of one. */
static void stops_all_along_a_page(life *x) {
    static const char all[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    static const kvq_token_bias always_a[] = {{'a', 100}};
    for (size_t n = 1; n <= sizeof all - 1; n += (size_t)one_in) {
        const char *stops[] = {all + sizeof all - 1 - n};
        kvq_request r = letters(20, 1, 60);
        r.logit_bias = always_a;
        r.n_logit_bias = 1;
        r.stop = stops;
        r.n_stop = 1;
        (void)ask(x, r, 0);
        if (x->n % 6 == 0) run(x);
    }
    run(x);
}

static void a_stop_string_ends_the_answer_at_its_token(void **state) {
    (void)state;
    life *lives = new_lives();
    kvq_options o = options_of(TINY_GEMMA3, "4");
    o.enable_prefix_caching = true;
    compare(stops_all_along_a_page, &o, lives);
    free(lives);
}

static void three_turns(life *x) {
    static const char *const stops[] = {"q", "z"};
    for (int t = 0; t < 3; t++) {
        for (int s = 0; s < 4; s++) {
            kvq_request r = letters(0, 4 * (uint64_t)t + (uint64_t)s, 20 + s);
            r.ids = NULL;
            r.n_ids = 0;
            r.prompt = "And?";
            r.session = s < 2 ? "a" : "b"; /* two at a time, one behind the other */
            r.stop = stops;
            r.n_stop = s % 2 ? 2 : 0;
            (void)ask(x, r, t == 1 && s == 2 ? 7 : 0);
        }
        run(x);
    }
}

/* What is not told is not kept either: the next turn's prompt is as long. */
static void a_session_goes_on_from_what_was_told(void **state) {
    (void)state;
    life *lives = new_lives();
    kvq_options o = options_of(TINY_LLAMA, "8");
    o.enable_prefix_caching = true;
    compare(three_turns, &o, lives);
    free(lives);
}

/* Answers that end before, with and behind the last token of a page, then a prompt that begins with the same text. */
static void go_on_from_answers(life *x) {
    for (int n = 8; n <= 16; n++) {
        kvq_request r = letters(20, (uint64_t)n, n);
        asked *a = ask(x, r, 0);
        run(x);
        int ids[TEXT_BYTES + 20];
        memcpy(ids, r.ids, 20 * sizeof *ids);
        for (size_t b = 0; b < a->n_text; b++) ids[20 + b] = a->text[b];
        r.ids = ids;
        r.n_ids = 20 + a->n_text;
        (void)ask(x, r, 0);
        run(x);
    }
}

static void the_prefix_cache_has_the_pages_of_an_answer(void **state) {
    (void)state;
    life *lives = new_lives();
    kvq_options o = options_of(TINY_LLAMA, "4");
    o.enable_prefix_caching = true;
    compare(go_on_from_answers, &o, lives);
    for (int i = 1; i < lives[0].n; i += 2) { /* a page is 32 tokens; the answer's last was never read */
        int n_read = 20 + lives[0].asked[i - 1].n_tokens - 1;
        assert_int_equal(lives[0].asked[i].n_cached, n_read >= 32 ? 32 : 0);
    }
    free(lives);
}

static void thirty_two(life *x) {
    for (int i = 0; i < 32; i += one_in) ask_one_of_each(x, i);
    run(x);
}

static void thirty_two_over_a_pool_for_few(void **state) {
    (void)state;
    life *lives = new_lives();
    kvq_options o = options_of(TINY_QWEN2, "4");
    char pool[16];
    o.enable_prefix_caching = true;
    o.max_batch_size = 4;
    o.session_len = 200;
    o.cache_max_entry_count = world_smallest_pool(o, pool, sizeof pool);
    compare(thirty_two, &o, lives);
    free(lives);
}

static void long_ones(life *x) {
    static const char *const stops[] = {"qu", "zz"};
    for (int i = 0; i < 6; i++) {
        kvq_request r = letters(20 + 5 * i, (uint64_t)i + 1, 200);
        r.stop = stops;
        r.n_stop = i % 2 ? 2 : 0;
        (void)ask(x, r, i == 4 ? 100 : 0);
    }
    run(x);
}

static int younger_tokens; /* of its prompt */

/* The older one ends by its token, the younger goes on. */
static void two_that_fill_the_pool(life *x) {
    kvq_request r = letters(64, 21, 100);
    world_may_end(&r, 3);
    (void)ask(x, r, 0);
    (void)ask(x, letters(younger_tokens, 2, 100), 0);
    run(x);
}

/* Nobody is preempted for one that ends: in some of these the younger needs a page when the older has just ended. */
static void an_end_frees_its_blocks_in_time(void **state) {
    (void)state;
    if (one_in > 1) skip(); /* the shim is slow, and it is the same scheduler */
    life *lives = new_lives();
    kvq_options o = options_of(TINY_LLAMA, "4");
    char pool[16];
    o.session_len = 224;
    o.cache_max_entry_count = world_smallest_pool(o, pool, sizeof pool);
    for (younger_tokens = 48; younger_tokens < 80; younger_tokens += 3) {
        compare(two_that_fill_the_pool, &o, lives);
        assert_int_equal(lives[1].stats.preemptions, lives[2].stats.preemptions);
    }
    free(lives);
}

static void preempted_ones_are_told_the_same(void **state) {
    (void)state;
    if (one_in > 1) skip(); /* test_engine_on_shim has them */
    life *lives = new_lives();
    kvq_options o = options_of(TINY_LLAMA, "4");
    char pool[16];
    o.cache_max_entry_count = world_smallest_pool(o, pool, sizeof pool);
    compare(long_ones, &o, lives);
    for (int way = 0; way < N_WAYS; way++) assert_true(lives[way].stats.preemptions > 0);
    free(lives);
}

/* ---- when it is told --------------------------------------------------------------------------------------------- */

/* A step is launched ahead, and no call tells less for it. */
static void a_call_tells_what_it_told_before_and_a_step_is_ahead(void **state) {
    (void)state;
    for (int way = 0; way < N_WAYS; way++) {
        life *x = new_lives();
        kvq_options o = options_of(TINY_LLAMA, "8");
        begin(x, &o, way);
        asked *a = ask(x, letters(30, 1, 5), 0);
        for (int n = 1; n <= 5; n++) {
            step(x);
            assert_int_equal(a->n_tokens, n);
            kvq_get_stats(x->engine, &x->stats);
            assert_int_equal(x->stats.steps,
                             n < 5 ? n + (way > 0) : 5); /* nothing is left to run: nothing is launched */
            assert_int_equal(x->stats.generation_tokens, n);
        }
        assert_true(a->ended);
        assert_false(kvq_is_active(x->engine));
        end(x);
        free(x);
    }
}

/* Not with the step that runs in vain, for which nobody waits. */
static void end_by_a_stop_string(int way) {
    life *x = new_lives();
    kvq_options o = options_of(TINY_LLAMA, "8");
    begin(x, &o, way);
    kvq_request r = letters(30, 1, 50);
    static const char *const all[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m",
                                      "n", "o", "p", "q", "r", "s", "t", "u", "v", "w", "x", "y", "z"};
    r.stop = all;
    r.n_stop = COUNT_OF(all);
    asked *a = ask(x, r, 0), *next;
    step(x);
    assert_true(a->ended);
    assert_false(kvq_is_active(x->engine));
    kvq_get_stats(x->engine, &x->stats);
    assert_int_equal(x->stats.steps, 2);
    assert_int_equal(x->stats.blocks_used, 0);
    next = ask(x, letters(30, 1, 1), 0); /* behind it, in the same blocks */
    step(x);
    assert_true(next->ended);
    end(x);
    free(x);
}

static void an_end_by_a_stop_string_is_told_at_once(void **state) {
    (void)state;
    for (int way = 1; way < N_WAYS; way++) end_by_a_stop_string(way);
}

/* Steps launched for an answer of one token and n_more others. */
static int steps_of(life *x, const kvq_options *o, kvq_request r, int n_more) {
    begin(x, o, 2);
    asked *a = ask(x, r, 0);
    for (int i = 0; i < n_more; i++) (void)ask(x, letters(30, 1, 1), 0);
    run(x);
    end(x);
    assert_int_equal(a->n_tokens, 1);
    return (int)x->stats.steps;
}

/* What ends by its first token, which only that token's id tells, has a row in vain where the step behind was planned
 * without it: not where the draw would need the id. Who waits while the batch is full is no reason to wait for ids. */
static void a_step_is_planned_before_ids_are_known_where_it_can_be(void **state) {
    (void)state;
    life *x = new_lives();
    kvq_options o = options_of(TINY_LLAMA, "8");
    kvq_request r = letters(30, 1, 5);
    world_may_end(&r, 100);
    assert_int_equal(steps_of(x, &o, r, 0), 2);
    r.max_tokens = 1;
    assert_int_equal(steps_of(x, &o, r, 0), 1);
    r.max_tokens = 5;
    r.presence_penalty = 0.5f;
    assert_int_equal(steps_of(x, &o, r, 0), 1);
    r.presence_penalty = 0;
    o.max_batch_size = 1;
    assert_int_equal(steps_of(x, &o, r, 1), 3); /* the third is the other's */
    free(x);
}

static void an_engine_closes_with_steps_under_way(void **state) {
    (void)state;
    for (int n_steps = 1; n_steps < 8; n_steps += one_in) {
        life *x = new_lives();
        kvq_options o = options_of(TINY_GEMMA3, "4");
        o.max_prefill_token_num = 16;
        begin(x, &o, 1 + n_steps % 2);
        for (int i = 0; i < 4; i++) ask_one_of_each(x, i);
        for (int i = 0; i < n_steps; i++) step(x);
        kvq_close(x->engine); /* the sanitizer build sees what is used behind it */
        free(x);
    }
}

static int remove_models(void **state) {
    (void)state;
    world_remove_models();
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--cuda") == 0) backend = "cuda", one_in = 5;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_request_is_told_the_same),
        cmocka_unit_test(ends_by_tokens_are_told_the_same),
        cmocka_unit_test(a_stop_string_ends_the_answer_at_its_token),
        cmocka_unit_test(a_session_goes_on_from_what_was_told),
        cmocka_unit_test(the_prefix_cache_has_the_pages_of_an_answer),
        cmocka_unit_test(thirty_two_over_a_pool_for_few),
        cmocka_unit_test(preempted_ones_are_told_the_same),
        cmocka_unit_test(an_end_frees_its_blocks_in_time),
        cmocka_unit_test(a_call_tells_what_it_told_before_and_a_step_is_ahead),
        cmocka_unit_test(an_end_by_a_stop_string_is_told_at_once),
        cmocka_unit_test(a_step_is_planned_before_ids_are_known_where_it_can_be),
        cmocka_unit_test(an_engine_closes_with_steps_under_way),
    };
    return cmocka_run_group_tests(tests, NULL, remove_models);
}
