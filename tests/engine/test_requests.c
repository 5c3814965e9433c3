/* test_requests.c: what a request asks for and what comes of it: lengths, stops, biases, seeds, cancelling, deadlines,
 * sessions, priorities, the context's end, and every argument that is refused. Through kvq.h alone, on a tiny model. */
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

static int ids_of_prompt[PROMPT_MAX];

static kvq_engine *open_default(void) {
    kvq_options o = world_options(TINY_LLAMA, "8");
    return world_open(&o);
}

static answer run_one(kvq_engine *e, kvq_request r) {
    answer a;
    (void)world_submit(e, &r, &a);
    (void)world_run(e);
    assert_true(a.ended);
    assert_int_equal(world_blocks_used(e), 0);
    return a;
}

/* ---- how an answer ends ------------------------------------------------------------------------------------------ */

static void max_tokens_ends_the_answer(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    for (int n = 1; n < 70; n += 23) {
        answer a = run_one(e, world_request(ids_of_prompt, 40, 1, n));
        assert_int_equal(a.reason, KVQ_FINISH_LENGTH);
        assert_int_equal(a.result.completion_tokens, n);
        assert_int_equal(a.result.prompt_tokens, 40);
        assert_false(a.result.truncated);
        assert_true(a.result.kv_bytes > 0);
    }
    kvq_close(e);
}

static void the_context_ends_the_answer_and_says_so(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    answer a = run_one(e, world_request(ids_of_prompt, 450, 1, 0));
    assert_int_equal(a.reason, KVQ_FINISH_LENGTH);
    assert_true(a.result.truncated);
    assert_int_equal(a.result.prompt_tokens + a.result.completion_tokens, 512);
    a = run_one(e, world_request(ids_of_prompt, 450, 1, 500));
    assert_true(a.result.truncated);
    a = run_one(e, world_request(ids_of_prompt, 450, 1, 62)); /* exactly what fits is no truncation */
    assert_false(a.result.truncated);
    assert_int_equal(a.result.completion_tokens, 62);
    kvq_close(e);
}

static void an_end_token_ends_the_answer_unless_ignored(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    const kvq_token_bias bias[] = {{TINY_EOS, 100}};
    kvq_request r = world_request(ids_of_prompt, 10, 1, 8);
    r.logit_bias = bias;
    r.n_logit_bias = 1;
    answer a = run_one(e, r);
    assert_int_equal(a.reason, KVQ_FINISH_LENGTH);
    assert_int_equal(a.result.completion_tokens, 8);
    r.ignore_end = false;
    a = run_one(e, r);
    assert_int_equal(a.reason, KVQ_FINISH_STOP);
    assert_int_equal(a.result.completion_tokens, 1);
    assert_int_equal(a.n_bytes, 0);
    kvq_close(e);
}

/* Letters only, so that every token is one byte of text and text can be cut anywhere. */
static kvq_request request_of_letters(kvq_token_bias bias[26], int max_tokens) {
    kvq_request r = world_request(ids_of_prompt, 10, 3, max_tokens);
    for (int i = 0; i < 26; i++) bias[i] = (kvq_token_bias){'a' + i, 60};
    r.logit_bias = bias;
    r.n_logit_bias = 26;
    return r;
}

static void text_ends_before_a_stop_string_that_spans_tokens(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    kvq_token_bias bias[26];
    kvq_request r = request_of_letters(bias, 60);
    answer whole = run_one(e, r);
    assert_int_equal(whole.n_bytes, 60);
    for (int n = 1; n <= 7; n += 2) {
        char stop[8] = {0};
        memcpy(stop, whole.text + 40, (size_t)n);
        const char *stops[] = {"never said!", stop};
        r.stop = stops;
        r.n_stop = 2;
        answer a = run_one(e, r);
        size_t expected = (size_t)(strstr(whole.text, stop) - whole.text);
        assert_int_equal(a.reason, KVQ_FINISH_STOP);
        assert_int_equal(a.n_bytes, expected);
        assert_memory_equal(a.text, whole.text, expected);
        assert_int_equal(a.result.completion_tokens, expected + (size_t)n);
    }
    kvq_close(e);
}

static void text_held_for_a_stop_string_comes_out_at_the_end(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    kvq_token_bias bias[26];
    kvq_request r = request_of_letters(bias, 60);
    answer whole = run_one(e, r);
    char stop[24];
    snprintf(stop, sizeof stop, "%.20s!", whole.text + 45); /* 15 letters and what never comes */
    const char *stops[] = {stop};
    r.stop = stops;
    r.n_stop = 1;
    answer a = run_one(e, r);
    assert_int_equal(a.reason, KVQ_FINISH_LENGTH);
    assert_string_equal(a.text, whole.text);
    kvq_close(e);
}

/* The last token's byte begins a character whose rest never comes: it is said as U+FFFD, which may be what was waited
 * for. */
static void a_stop_string_that_the_last_replaced_byte_completes_ends_the_answer(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    const kvq_token_bias bias[] = {{0xC3, 100}};
    const char *const stops[] = {"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"};
    static const struct {
        int n_prompt, max_tokens;
        kvq_finish reason;
        bool truncated;
        const char *text, *why;
    } cases[] = {{10, 3, KVQ_FINISH_STOP, false, "", "the third completes it"},
                 {10, 2, KVQ_FINISH_LENGTH, false, "\xEF\xBF\xBD\xEF\xBF\xBD", "two do not, and are given out"},
                 {509, 0, KVQ_FINISH_STOP, false, "", "the context's end came with it and was not what ended it"},
                 {510, 0, KVQ_FINISH_LENGTH, true, "\xEF\xBF\xBD\xEF\xBF\xBD", "the context's end came before"}};
    for (int i = 0; i < COUNT_OF(cases); i++) {
        kvq_request r = world_request(ids_of_prompt, cases[i].n_prompt, 1, cases[i].max_tokens);
        r.logit_bias = bias;
        r.n_logit_bias = 1;
        r.stop = stops;
        r.n_stop = 1;
        answer a = run_one(e, r);
        if (a.reason != cases[i].reason || a.result.truncated != cases[i].truncated)
            fail_msg("%s: ended by '%s', truncated %d", cases[i].why, kvq_finish_name(a.reason), a.result.truncated);
        assert_int_equal(a.n_bytes, strlen(cases[i].text));
        assert_memory_equal(a.text, cases[i].text, a.n_bytes);
    }
    kvq_close(e);
}

static void a_cancelled_request_frees_its_blocks_within_two_steps(void **state) {
    (void)state;
    static const int steps_before[] = {0, 1, 3, 20};
    for (int i = 0; i < COUNT_OF(steps_before); i++) {
        kvq_engine *e = open_default();
        answer a, other;
        kvq_request r = world_request(ids_of_prompt, 150, 1, 200), r2 = world_request(ids_of_prompt, 20, 2, 60);
        uint64_t id = world_submit(e, &r, &a);
        for (int s = 0; s < steps_before[i]; s++) world_step(e, s);
        uint64_t used = world_blocks_used(e);
        assert_true((steps_before[i] == 0) == (used == 0));
        assert_int_equal(kvq_cancel(e, id), KVQ_OK);
        world_step(e, 100);
        if (!a.ended) world_step(e, 101);
        assert_true(a.ended);
        assert_false(a.failed);
        assert_int_equal(a.reason, KVQ_FINISH_CANCELLED);
        assert_int_equal(world_blocks_used(e), 0);
        assert_int_equal(kvq_cancel(e, id), KVQ_NOT_FOUND);
        (void)world_submit(e, &r2, &other); /* and the engine goes on */
        (void)world_run(e);
        assert_int_equal(other.result.completion_tokens, 60);
        kvq_close(e);
    }
}

static void cancelling_one_leaves_the_others_as_they_were(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    answer alone = run_one(e, world_request(ids_of_prompt, 70, 1, 50)), a, b;
    kvq_request r1 = world_request(ids_of_prompt, 70, 1, 50);
    (void)world_submit(e, &r1, &a);
    kvq_request r2 = world_request(ids_of_prompt, 90, 2, 50);
    uint64_t id = world_submit(e, &r2, &b);
    for (int s = 0; s < 10; s++) world_step(e, s);
    assert_int_equal(kvq_cancel(e, id), KVQ_OK);
    (void)world_run(e);
    assert_int_equal(b.reason, KVQ_FINISH_CANCELLED);
    world_same(&a, &alone, "beside a cancelled one");
    kvq_close(e);
}

static void a_deadline_ends_what_waits_and_what_runs(void **state) {
    (void)state;
    kvq_options o = world_options(TINY_LLAMA, "8");
    o.max_batch_size = 1;
    kvq_engine *e = world_open(&o);
    answer a, waiting;
    kvq_request r = world_request(ids_of_prompt, 40, 1, 400);
    r.deadline_ms = 1;
    (void)world_submit(e, &r, &a);
    (void)world_submit(e, &r, &waiting);
    int64_t steps = world_run(e);
    assert_true(steps > 0);
    assert_int_equal(waiting.reason, KVQ_FINISH_DEADLINE);
    assert_int_equal(a.reason, KVQ_FINISH_DEADLINE); /* 400 tokens take far more than a millisecond */
    assert_int_equal(world_blocks_used(e), 0);
    kvq_close(e);
}

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

static void a_bias_forces_and_forbids(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    const kvq_token_bias force[] = {{'A', 100}};
    kvq_request r = world_request(ids_of_prompt, 10, 1, 20);
    r.logit_bias = force;
    r.n_logit_bias = 1;
    answer a = run_one(e, r);
    assert_string_equal(a.text, "AAAAAAAAAAAAAAAAAAAA");
    kvq_close(e);
}

static void the_seed_that_was_drawn_gives_the_same_answer_again(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    kvq_token_bias bias[26];
    kvq_request r = request_of_letters(bias, 40);
    r.has_seed = false;
    answer first = run_one(e, r), second = run_one(e, r);
    assert_true(first.result.seed != second.result.seed);
    assert_string_not_equal(first.text, second.text);
    assert_true(first.result.seed < (uint64_t)1 << 53); /* any JSON reader keeps it */
    r.has_seed = true;
    r.seed = first.result.seed;
    answer again = run_one(e, r);
    assert_string_equal(again.text, first.text);
    kvq_close(e);
}

static void text_comes_in_whole_characters(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    /* U+00E9 is two tokens here, C3 A9; only these are likely, in any order, so many characters are broken. */
    const kvq_token_bias bias[] = {{0xC3, 60}, {0xA9, 60}};
    kvq_request r = world_request(ids_of_prompt, 10, 4, 100);
    r.logit_bias = bias;
    r.n_logit_bias = 2;
    r.frequency_penalty = 0.5f; /* so that both occur */
    answer a = run_one(e, r);
    int n_whole = 0, n_replaced = 0;
    for (size_t i = 0; i < a.n_bytes;) {
        if (memcmp(a.text + i, "\xC3\xA9", 2) == 0) {
            n_whole++;
            i += 2;
        } else if (memcmp(a.text + i, "\xEF\xBF\xBD", 3) == 0) {
            n_replaced++;
            i += 3;
        } else
            fail_msg("byte %zu of the text is neither of the two characters", i);
    }
    assert_int_equal(2 * n_whole + n_replaced, 100);
    if (n_whole <= 5 || n_replaced <= 5)
        fail_msg("%d whole characters and %d replaced: both should be common", n_whole, n_replaced);
    kvq_close(e);
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

static void higher_priority_goes_first(void **state) {
    (void)state;
    kvq_options o = world_options(TINY_LLAMA, "8");
    o.max_batch_size = 1;
    kvq_engine *e = world_open(&o);
    static const int priorities[] = {5, 1, 9, 5};
    answer a[4];
    for (int i = 0; i < 4; i++) {
        kvq_request r = world_request(ids_of_prompt, 20, 1, 5);
        r.priority = priorities[i];
        (void)world_submit(e, &r, &a[i]);
    }
    (void)world_run(e);
    assert_true(a[2].last_step < a[0].first_step);
    assert_true(a[0].last_step < a[3].first_step); /* within one priority in order of arrival */
    assert_true(a[3].last_step < a[1].first_step);
    kvq_close(e);
}

static void clients_take_turns_within_a_priority(void **state) {
    (void)state;
    kvq_options o = world_options(TINY_LLAMA, "8");
    o.max_batch_size = 1;
    kvq_engine *e = world_open(&o);
    answer many[6], one;
    for (int i = 0; i < 6; i++) {
        kvq_request r = world_request(ids_of_prompt, 20, 1, 5);
        r.client = "many";
        (void)world_submit(e, &r, &many[i]);
    }
    kvq_request r = world_request(ids_of_prompt, 20, 1, 5);
    r.client = "one";
    (void)world_submit(e, &r, &one);
    (void)world_run(e);
    assert_true(one.last_step < many[2].first_step); /* not behind all six that came before */
    kvq_close(e);
}

static void a_short_prompt_does_not_wait_until_a_long_one_is_read(void **state) {
    (void)state;
    kvq_options o = world_options(TINY_LLAMA, "4");
    o.max_prefill_token_num = 16;
    kvq_engine *e = world_open(&o);
    answer writing, reading, asked;
    kvq_token_bias bias[26]; /* letters: each token is an event at once */
    kvq_request r1 = request_of_letters(bias, 60);
    (void)world_submit(e, &r1, &writing);
    for (int s = 0; s < 5; s++) world_step(e, s);
    kvq_request r2 = world_request(ids_of_prompt, 480, 2, 5); /* 30 steps of 16 tokens */
    r2.logit_bias = bias;
    r2.n_logit_bias = 26;
    (void)world_submit(e, &r2, &reading);
    for (int s = 5; s < 7; s++) world_step(e, s); /* it is being read already when the short one comes */
    kvq_request r3 = world_request(ids_of_prompt, 5, 3, 5);
    r3.logit_bias = bias;
    r3.n_logit_bias = 26;
    (void)world_submit(e, &r3, &asked);
    int events_before = writing.n_events;
    for (int s = 7; s < 25; s++) world_step(e, s);
    assert_int_equal(reading.n_events, 0);
    assert_true(asked.ended);
    assert_int_equal(asked.first_step, 7); /* half of a step's 16 tokens are enough for five */
    assert_int_equal(asked.last_step, 11);
    assert_int_equal(writing.n_events, events_before + 18); /* the answer being written goes on meanwhile */
    (void)world_run(e);
    assert_true(reading.ended && writing.ended);
    assert_int_equal(reading.result.completion_tokens, 5);
    kvq_close(e);
}

/* ---- sessions ---------------------------------------------------------------------------------------------------- */

static kvq_request turn(const char *session, const char *text) {
    kvq_request r = kvq_default_request();
    r.prompt = text;
    r.session = session;
    r.max_tokens = 8;
    r.seed = 1;
    r.has_seed = true;
    r.ignore_end = true;
    return r;
}

static void a_session_goes_on_from_what_was_said(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    kvq_stats stats;
    answer first = run_one(e, turn("s", "Hello.")), other = run_one(e, turn("t", "Hello."));
    answer second = run_one(e, turn("s", "And?"));
    assert_int_equal(first.result.prompt_tokens, other.result.prompt_tokens);
    assert_true(second.result.prompt_tokens > first.result.prompt_tokens + first.result.completion_tokens);
    kvq_get_stats(e, &stats);
    assert_int_equal(stats.sessions, 2);
    assert_true(kvq_session_drop(e, "s"));
    assert_false(kvq_session_drop(e, "s"));
    assert_false(kvq_session_drop(e, "unknown"));
    answer again = run_one(e, turn("s", "Hello."));
    world_same(&again, &first, "a dropped session begins anew");
    kvq_close(e);
}

static void turns_of_one_session_are_answered_one_after_the_other(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    answer a, b;
    kvq_request r1 = turn("s", "one"), r2 = turn("s", "two");
    (void)world_submit(e, &r1, &a);
    (void)world_submit(e, &r2, &b);
    (void)world_run(e);
    assert_true(a.last_step < b.first_step);
    assert_true(b.result.prompt_tokens > a.result.prompt_tokens + a.result.completion_tokens);
    kvq_close(e);
}

/* A template that minds whose turn it is sees every role of a long session. */
static void a_session_of_many_messages_keeps_all_their_roles(void **state) {
    (void)state;
    kvq_options o = world_options(TINY_LLAMA, "8");
    o.chat_template = "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
                      "{{ raise_exception('two turns of one side') }}{% endif %}{{ m['content'] }}{% endfor %}";
    kvq_engine *e = world_open(&o);
    kvq_message messages[81];
    for (int i = 0; i < 81; i++) messages[i] = (kvq_message){i % 2 ? "assistant" : "user", "x"};
    kvq_request r = turn("s", NULL);
    r.messages = messages;
    r.n_messages = 81;
    answer first = run_one(e, r), second = run_one(e, turn("s", "y"));
    assert_int_equal(second.result.prompt_tokens, first.result.prompt_tokens + first.result.completion_tokens + 1);
    kvq_close(e);
}

/* A template that minds the whole of a role sees it again in the next turn. */
static void a_session_keeps_a_long_role_whole(void **state) {
    (void)state;
    kvq_options o = world_options(TINY_LLAMA, "8");
    o.chat_template = "{% for m in messages %}{% if not loop.first %}x{{ m['content'] }}{% endif %}"
                      "{% endfor %}{{ messages[0]['role'] }}";
    kvq_engine *e = world_open(&o);
    const kvq_message message = {"31-bytes-and-not-one-more-of-it", "?"};
    kvq_request r = turn("s", NULL);
    r.messages = &message;
    r.n_messages = 1;
    answer first = run_one(e, r), second = run_one(e, turn("s", "y"));
    /* behind the answer: "x" and "y" of the new turn, and the first message's role */
    assert_int_equal(second.result.prompt_tokens, first.result.prompt_tokens + first.result.completion_tokens + 2 + 31);
    kvq_close(e);
}

static void a_refused_request_costs_nobody_a_session(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    kvq_stats stats;
    for (int i = 0; i < KVQ_MAX_SESSIONS; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        kvq_request r = turn(name, "x");
        r.max_tokens = 1;
        (void)run_one(e, r);
    }
    char text[600];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    kvq_request too_long = turn("new", text);
    uint64_t id;
    kvq_error err;
    assert_int_equal(kvq_submit(e, &too_long, &id, &err), KVQ_NO_SPACE);
    kvq_get_stats(e, &stats);
    assert_int_equal(stats.sessions, KVQ_MAX_SESSIONS);
    (void)run_one(e, turn("new", "x")); /* this one does: the session used longest ago is forgotten */
    kvq_get_stats(e, &stats);
    assert_int_equal(stats.sessions, KVQ_MAX_SESSIONS);
    assert_false(kvq_session_drop(e, "s0"));
    assert_true(kvq_session_drop(e, "s1"));
    kvq_close(e);
}

static void a_session_longer_than_the_context_is_refused_and_the_engine_goes_on(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    char text[220];
    int n_answered = 0;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    for (int i = 0; i < 4; i++) {
        answer a = {0};
        kvq_error err = {0};
        uint64_t id;
        kvq_request r = turn("s", text);
        r.user = &a;
        a.first_step = -1;
        kvq_status status = kvq_submit(e, &r, &id, &err);
        if (!status) (void)world_run(e);
        if (!status && !a.failed) n_answered++;
        if (status || a.failed) assert_int_equal(status ? status : a.error.code, KVQ_NO_SPACE);
    }
    assert_int_equal(n_answered, 2); /* 2 (219 + 8 + frame) fit 512, a third turn does not */
    answer fresh = run_one(e, turn("t", "Hello."));
    assert_false(fresh.failed);
    kvq_close(e);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void what_cannot_be_is_refused_by_name(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    static const kvq_message no_content[] = {{"user", NULL}}, hello[] = {{"user", "hello"}};
    static const kvq_message long_message = {"a-role-that-has-32-bytes-is-long", "hello"};
    static const int far[] = {5, TINY_VOCAB}, fine[] = {5}, negative[] = {-1};
    static const kvq_token_bias bias[] = {{TINY_VOCAB, 1}};
    static const char *const empty_stop[] = {""};
    const kvq_request d = kvq_default_request();
    kvq_request none = d, two = d, id_far = d, id_negative = d, hot = d, bad_bias = d, stop = d, urgent = d, length = d,
                late = d, role = d, long_role = d, seed = d;
    two.prompt = "x";
    two.messages = hello;
    two.n_messages = 1;
    id_far.ids = far;
    id_far.n_ids = 2;
    id_negative.ids = negative;
    id_negative.n_ids = 1;
    hot.temperature = 3;
    bad_bias.logit_bias = bias;
    bad_bias.n_logit_bias = 1;
    stop.stop = empty_stop;
    stop.n_stop = 1;
    urgent.priority = 10;
    length.max_tokens = -1;
    late.deadline_ms = -1;
    seed.seed = (uint64_t)KVQ_MAX_SEED + 1;
    seed.has_seed = true;
    role.messages = no_content;
    role.n_messages = 1;
    long_role.messages = &long_message;
    long_role.n_messages = 1;
    hot.ids = bad_bias.ids = stop.ids = urgent.ids = length.ids = late.ids = seed.ids = fine;
    hot.n_ids = bad_bias.n_ids = stop.n_ids = urgent.n_ids = length.n_ids = late.n_ids = seed.n_ids = 1;
    const struct {
        const kvq_request *request;
        const char *names;
    } cases[] = {{&none, "'prompt'"},      {&two, "'messages'"},    {&id_far, "'ids'"},
                 {&id_negative, "'ids'"},  {&hot, "'temperature'"}, {&bad_bias, "'logit_bias'"},
                 {&stop, "'stop'"},        {&urgent, "'priority'"}, {&length, "'max_tokens'"},
                 {&late, "'deadline_ms'"}, {&role, "'messages'"},   {&long_role, "32 bytes"},
                 {&seed, "'seed'"}};
    for (int i = 0; i < COUNT_OF(cases); i++) {
        uint64_t id = 0;
        kvq_error err = {0};
        assert_int_equal(kvq_submit(e, cases[i].request, &id, &err), KVQ_BAD_ARGUMENT);
        if (!strstr(err.text, cases[i].names)) fail_msg("case %d: '%s' does not name %s", i, err.text, cases[i].names);
        assert_int_equal(id, 0);
        assert_false(kvq_is_active(e));
    }
    kvq_close(e);
}

static void a_prompt_longer_than_the_context_is_refused_with_both_numbers(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    uint64_t id;
    kvq_error err = {0};
    kvq_request r = world_request(ids_of_prompt, 700, 1, 5);
    assert_int_equal(kvq_submit(e, &r, &id, &err), KVQ_NO_SPACE);
    assert_non_null(strstr(err.text, "700"));
    assert_non_null(strstr(err.text, "512"));
    assert_false(kvq_is_active(e));
    kvq_close(e);
}

static void one_request_too_many_is_busy(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    answer *answers = calloc(KVQ_MAX_REQUESTS, sizeof *answers);
    assert_non_null(answers);
    for (int i = 0; i < KVQ_MAX_REQUESTS; i++) {
        kvq_request r = world_request(ids_of_prompt, 3, 1, 1);
        (void)world_submit(e, &r, &answers[i]);
    }
    uint64_t id;
    kvq_error err = {0};
    kvq_request r = world_request(ids_of_prompt, 3, 1, 1);
    assert_int_equal(kvq_submit(e, &r, &id, &err), KVQ_BUSY);
    (void)world_run(e);
    for (int i = 0; i < KVQ_MAX_REQUESTS; i++) assert_true(answers[i].ended && !answers[i].failed);
    free(answers);
    kvq_close(e);
}

static void nothing_to_do_is_no_error(void **state) {
    (void)state;
    kvq_engine *e = open_default();
    const kvq_event *events;
    size_t n = 7;
    assert_false(kvq_is_active(e));
    assert_int_equal(kvq_step(e, &events, &n, NULL), KVQ_OK);
    assert_int_equal(n, 0);
    assert_int_equal(kvq_cancel(e, 12345), KVQ_NOT_FOUND);
    kvq_close(e);
    kvq_close(NULL);
}

static void an_engine_closes_with_requests_in_every_state(void **state) {
    (void)state;
    kvq_options o = world_options(TINY_GEMMA3, "4");
    o.max_batch_size = 2;
    o.enable_prefix_caching = true;
    kvq_engine *e = world_open(&o);
    answer a[4];
    for (int i = 0; i < 4; i++) {
        kvq_request r = world_request(ids_of_prompt, 200, (uint64_t)i, 50);
        r.session = "s"; /* one runs, the others wait for it */
        if (i == 3) r.session = NULL;
        (void)world_submit(e, &r, &a[i]);
    }
    for (int s = 0; s < 6; s++) world_step(e, s);
    kvq_close(e); /* the sanitizer build sees what is lost */
}

static void options_that_cannot_be_are_refused(void **state) {
    (void)state;
    const kvq_options d = world_options(TINY_LLAMA, "8");
    kvq_options policy = d, isa = d, backend = d, block = d, batch = d, budget = d, threads = d, missing = d, cache = d,
                tiny_pool = d, length = d;
    policy.quant_policy = "5";
    isa.isa = "mmx";
    backend.backend = "tpu";
    block.cache_block_seq_len = 48;
    batch.max_batch_size = 0;
    budget.max_prefill_token_num = 0;
    threads.threads = -1;
    missing.model_path = "/nowhere/model.gguf";
    cache.cache_max_entry_count = "lots";
    tiny_pool.cache_max_entry_count = "2";
    length.session_len = 100000;
    const struct {
        const kvq_options *options;
        kvq_status status;
        const char *names;
    } cases[] = {{&policy, KVQ_BAD_ARGUMENT, "quant_policy"},
                 {&isa, KVQ_UNSUPPORTED, "mmx"},
                 {&backend, KVQ_BAD_ARGUMENT, "backend"},
                 {&block, KVQ_BAD_ARGUMENT, "cache_block_seq_len"},
                 {&batch, KVQ_BAD_ARGUMENT, "max_batch_size"},
                 {&budget, KVQ_BAD_ARGUMENT, "max_prefill_token_num"},
                 {&threads, KVQ_BAD_ARGUMENT, "threads"},
                 {&missing, KVQ_IO, "/nowhere/model.gguf"},
                 {&cache, KVQ_BAD_ARGUMENT, "cache_max_entry_count"},
                 {&tiny_pool, KVQ_NO_SPACE, "cache_max_entry_count"},
                 {&length, KVQ_BAD_ARGUMENT, "session_len"}};
    for (int i = 0; i < COUNT_OF(cases); i++) {
        kvq_engine *e = NULL;
        kvq_error err = {0};
        kvq_status status = kvq_open(cases[i].options, &e, &err);
        if (status != cases[i].status)
            fail_msg("case %d (%s): status %s, expected %s: %s", i, cases[i].names, kvq_status_name(status),
                     kvq_status_name(cases[i].status), err.text);
        if (!strstr(err.text, cases[i].names)) fail_msg("case %d: '%s' does not name %s", i, err.text, cases[i].names);
        assert_null(e);
    }
}

static int stop_at_half(void *user, double ratio) {
    double *last = user;
    assert_true(ratio >= *last && ratio <= 1);
    *last = ratio;
    return ratio > 0.4;
}

static void loading_tells_its_progress_and_can_be_cancelled(void **state) {
    (void)state;
    double last = 0;
    kvq_engine *e = NULL;
    kvq_error err = {0};
    kvq_options o = world_options(TINY_LLAMA, "8");
    o.progress = stop_at_half;
    o.progress_user = &last;
    assert_int_equal(kvq_open(&o, &e, &err), KVQ_CANCELLED);
    assert_null(e);
    assert_true(last > 0.4);
}

static void the_plan_and_the_engine_say_the_same(void **state) {
    (void)state;
    static const char *const policies[] = {"0", "8", "4", "lmdeploy8", "lmdeploy4"};
    for (int m = 0; m < TINY_MODELS; m++)
        for (int p = 0; p < 5; p++) {
            kvq_options o = world_options(m, policies[p]);
            kvq_engine *e = world_open(&o);
            kvq_plan *plan = NULL;
            assert_int_equal(kvq_plan_open(&o, &plan, NULL), KVQ_OK);
            const kvq_info *i = kvq_get_info(e), *j = kvq_plan_info(plan);
            assert_string_equal(i->model_name, j->model_name);
            assert_string_equal(i->quant_policy, policies[p]);
            assert_int_equal(i->pool_bytes, j->pool_bytes);
            assert_int_equal(i->n_blocks, j->n_blocks);
            assert_int_equal(i->weight_bytes, j->weight_bytes);
            assert_int_equal(i->workspace_bytes, j->workspace_bytes);
            assert_int_equal(i->session_len, j->session_len);
            assert_memory_equal(i->capacity, j->capacity, sizeof i->capacity);
            assert_true(i->pool_bytes <= i->n_blocks * i->block_bytes && i->capacity[2].sequences > 0);
            kvq_plan_close(plan);
            kvq_close(e);
        }
}

/* Neither a device that is not there nor a pool that fits nothing is the file's matter. */
static void a_file_is_checked_without_a_device(void **state) {
    (void)state;
    kvq_error err = {0};
    for (int m = 0; m < TINY_MODELS; m++) {
        kvq_options o = world_options(m, "8");
        o.backend = "cuda";
        o.device = 63;
        o.cache_max_entry_count = "1";
        assert_int_equal(kvq_check_file(&o, &err), KVQ_OK);
    }
    kvq_options o = world_options(TINY_LLAMA, "8");
    o.model_path = "/proc/self/exe";
    assert_int_equal(kvq_check_file(&o, &err), KVQ_BAD_FILE);
    assert_non_null(strstr(err.text, "/proc/self/exe"));
    o.model_path = "/nowhere.gguf";
    assert_int_equal(kvq_check_file(&o, &err), KVQ_IO);
    o = world_options(TINY_LLAMA, "5");
    assert_int_equal(kvq_check_file(&o, &err), KVQ_BAD_ARGUMENT);
    o = world_options(TINY_LLAMA, "8");
    o.chat_template = "{% endfoo %}";
    assert_int_equal(kvq_check_file(&o, &err), KVQ_UNSUPPORTED);
    assert_non_null(strstr(err.text, "endfoo"));
}

static int remove_models(void **state) {
    (void)state;
    world_remove_models();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(max_tokens_ends_the_answer),
        cmocka_unit_test(the_context_ends_the_answer_and_says_so),
        cmocka_unit_test(an_end_token_ends_the_answer_unless_ignored),
        cmocka_unit_test(text_ends_before_a_stop_string_that_spans_tokens),
        cmocka_unit_test(text_held_for_a_stop_string_comes_out_at_the_end),
        cmocka_unit_test(a_stop_string_that_the_last_replaced_byte_completes_ends_the_answer),
        cmocka_unit_test(a_cancelled_request_frees_its_blocks_within_two_steps),
        cmocka_unit_test(cancelling_one_leaves_the_others_as_they_were),
        cmocka_unit_test(a_deadline_ends_what_waits_and_what_runs),
        cmocka_unit_test(a_bias_forces_and_forbids),
        cmocka_unit_test(the_seed_that_was_drawn_gives_the_same_answer_again),
        cmocka_unit_test(text_comes_in_whole_characters),
        cmocka_unit_test(higher_priority_goes_first),
        cmocka_unit_test(clients_take_turns_within_a_priority),
        cmocka_unit_test(a_short_prompt_does_not_wait_until_a_long_one_is_read),
        cmocka_unit_test(a_session_goes_on_from_what_was_said),
        cmocka_unit_test(turns_of_one_session_are_answered_one_after_the_other),
        cmocka_unit_test(a_session_of_many_messages_keeps_all_their_roles),
        cmocka_unit_test(a_session_keeps_a_long_role_whole),
        cmocka_unit_test(a_refused_request_costs_nobody_a_session),
        cmocka_unit_test(a_session_longer_than_the_context_is_refused_and_the_engine_goes_on),
        cmocka_unit_test(what_cannot_be_is_refused_by_name),
        cmocka_unit_test(a_prompt_longer_than_the_context_is_refused_with_both_numbers),
        cmocka_unit_test(one_request_too_many_is_busy),
        cmocka_unit_test(nothing_to_do_is_no_error),
        cmocka_unit_test(an_engine_closes_with_requests_in_every_state),
        cmocka_unit_test(options_that_cannot_be_are_refused),
        cmocka_unit_test(loading_tells_its_progress_and_can_be_cancelled),
        cmocka_unit_test(the_plan_and_the_engine_say_the_same),
        cmocka_unit_test(a_file_is_checked_without_a_device),
    };
    return cmocka_run_group_tests(tests, NULL, remove_models);
}
