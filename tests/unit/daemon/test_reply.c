/* test_reply.c: what the engine said -> the bytes of delta and final messages (daemon/reply.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>

#include "daemon/prompt.h"
#include "daemon/text.h"
#include "daemon/reply.h"

#define MS INT64_C(1000000)

static void the_first_token_goes_at_once_the_next_after_40_ms(void **state) {
    (void)state;
    reply r = {0};
    size_t n;
    assert_true(reply_delta_due_ns(&r) == INT64_MAX);
    assert_true(reply_add(&r, "Hel", 3, 1));
    assert_true(reply_delta_due_ns(&r) <= 0);
    char *delta = reply_take_delta(&r, "q", 100 * MS, &n);
    assert_string_equal(delta, "{\"id\":\"q\",\"seq\":0,\"text\":\"Hel\",\"n\":1}");
    assert_int_equal(n, strlen(delta));
    free(delta);
    assert_true(reply_delta_due_ns(&r) == INT64_MAX);
    assert_true(reply_add(&r, "lo \"\xe2\x82\xac\"\n", 9, 3));
    assert_true(reply_delta_due_ns(&r) == 140 * MS);
    delta = reply_take_delta(&r, "q", 141 * MS, &n);
    assert_string_equal(delta, "{\"id\":\"q\",\"seq\":1,\"text\":\"lo \\\"\xe2\x82\xac\\\"\\n\",\"n\":3}");
    free(delta);
    assert_string_equal(r.text, "Hello \"\xe2\x82\xac\"\n");
    reply_done(&r);
}

static void sixteen_tokens_do_not_wait(void **state) {
    (void)state;
    reply r = {0};
    size_t n;
    assert_true(reply_add(&r, "a", 1, 1));
    free(reply_take_delta(&r, "q", 1000 * MS, &n));
    for (int i = 2; i <= 16; i++) assert_true(reply_add(&r, "b", 1, i));
    assert_true(reply_delta_due_ns(&r) == 1040 * MS);
    assert_true(reply_add(&r, "c", 1, 17));
    assert_true(reply_delta_due_ns(&r) == INT64_MIN);
    reply_done(&r);
}

static void tokens_without_text_make_no_delta(void **state) {
    (void)state;
    reply r = {0};
    assert_true(reply_add(&r, "", 0, 5));
    assert_true(reply_delta_due_ns(&r) == INT64_MAX);
    assert_string_equal(r.text, "");
    reply_done(&r);
}

static void a_zero_byte_ends_no_text(void **state) {
    (void)state;
    reply r = {0};
    size_t n;
    assert_true(reply_add(&r, "a\0b\xff", 4, 2));
    char *delta = reply_take_delta(&r, "q", 100 * MS, &n);
    assert_string_equal(delta, "{\"id\":\"q\",\"seq\":0,\"text\":\"a?b?\",\"n\":2}");
    free(delta);
    assert_string_equal(r.text, "a?b?");
    reply_done(&r);
}

static void a_final_has_every_key_of_the_contract(void **state) {
    (void)state;
    reply_facts facts = {
        .id = "q1",
        .model = "SmolLM2",
        .text = "Hi \xf0\x9f\x98\x80",
        .reason = KVQ_FINISH_STOP,
        .result = {.prompt_tokens = 9,
                   .completion_tokens = 5,
                   .cached_tokens = 3,
                   .queue_ms = 0.1234,
                   .prefill_ms = 10,
                   .ttft_ms = 11.5,
                   .decode_ms = 100,
                   .seed = INT64_MAX,
                   .kv_bytes = 4096},
        .policy = "8",
        .pool_used_ratio = 0.25,
        .energy_j = 2.5,
    };
    size_t n;
    char *final = reply_final(&facts, &n);
    assert_string_equal(
        final,
        "{\"id\":\"q1\",\"model\":\"SmolLM2\",\"text\":\"Hi \xf0\x9f\x98\x80\",\"finish_reason\":\"stop\","
        "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":5,\"cached_tokens\":3},"
        "\"timings\":{\"queue_ms\":0.123,\"prefill_ms\":10.0,\"ttft_ms\":11.5,\"decode_ms\":100.0,"
        "\"tokens_per_second\":40.0},\"kv\":{\"policy\":\"8\",\"bytes\":4096,\"pool_used_ratio\":0.25},"
        "\"energy_j\":2.5,\"energy_per_token_j\":0.5,\"truncated\":false,\"seed\":9223372036854775807,\"error\":null}");
    assert_int_equal(n, strlen(final));
    free(final);
}

static void a_refusal_says_why_and_busy_says_when(void **state) {
    (void)state;
    failure f;
    assert_false(failure_set(&f, FAILURE_BUSY, "%d prompts wait", 64));
    f.queue_depth = 64;
    f.retry_after_ms = 1500;
    reply_facts facts = {.id = "q", .reason = KVQ_FINISH_ERROR, .pool_used_ratio = NAN, .energy_j = NAN, .failure = &f};
    size_t n;
    char *final = reply_final(&facts, &n);
    assert_non_null(strstr(final, "\"energy_j\":null,\"energy_per_token_j\":null,"));
    assert_non_null(strstr(final, "\"model\":null,\"text\":\"\",\"finish_reason\":\"error\""));
    assert_non_null(strstr(final, "\"error\":{\"code\":\"busy\",\"message\":\"64 prompts wait\",\"queue_depth\":64,"
                                  "\"retry_after_ms\":1500}"));
    free(final);
}

static void every_status_of_the_engine_has_a_code(void **state) {
    (void)state;
    assert_int_equal(failure_of_status(KVQ_OK), FAILURE_NONE);
    for (int s = KVQ_OK + 1; s < KVQ_STATUS_COUNT; s++)
        if (failure_of_status((kvq_status)s) == FAILURE_NONE) fail_msg("%s has none", kvq_status_name((kvq_status)s));
    assert_string_equal(failure_name(failure_of_status(KVQ_NO_SPACE)), "context_full");
    assert_string_equal(failure_name(failure_of_status(KVQ_BAD_ARGUMENT)), "bad_request");
    assert_string_equal(failure_name(failure_of_status(KVQ_DEADLINE)), "deadline");
}

enum { MANY = 1000 };

static char *long_final(size_t n_text, size_t *ret_n) {
    char *text = malloc(n_text + 8);
    size_t n = 0;
    while (n < n_text) n += (size_t)sprintf(text + n, "%s", (n % 7) ? "\"\xe2\x82\xac" : "\n\x01z");
    reply_facts facts = {
        .id = "q", .model = "m", .text = text, .reason = KVQ_FINISH_LENGTH, .policy = "4", .energy_j = NAN};
    char *final = reply_final(&facts, ret_n);
    free(text);
    return final;
}

static void parts_fit_and_join_to_the_whole_text(void **state) {
    (void)state;
    size_t n_final, n;
    char *final = long_final(3000, &n_final);
    json_t *whole = json_loads(final, 0, NULL);
    const char *text = json_string_value(json_object_get(whole, "text"));
    for (size_t limit = 500; limit < n_final; limit += 97) {
        char **parts;
        assert_int_equal(reply_parts(final, n_final, limit, MANY, &parts, &n), KVQ_OK);
        assert_true(n > 1);
        char *joined = calloc(1, 8000);
        for (size_t i = 0; i < n; i++) {
            if (!(strlen(parts[i]) <= limit)) fail_msg("part %zu has %zu bytes, limit %zu", i, strlen(parts[i]), limit);
            json_t *part = json_loads(parts[i], 0, NULL);
            assert_non_null(part);
            assert_int_equal(json_integer_value(json_object_get(part, "part")), i + 1);
            assert_int_equal(json_integer_value(json_object_get(part, "parts")), n);
            assert_string_equal(json_string_value(json_object_get(part, "id")), "q");
            assert_int_equal(json_object_get(part, "finish_reason") != NULL, i + 1 == n);
            const char *piece = json_string_value(json_object_get(part, "text"));
            assert_true(text_is_valid(piece, strlen(piece)));
            strcat(joined, piece);
            json_decref(part);
        }
        assert_string_equal(joined, text);
        free(joined);
        reply_parts_free(parts, n);
    }
    json_decref(whole);
    free(final);
}

static void a_final_that_fits_is_not_touched(void **state) {
    (void)state;
    size_t n_final, n;
    char *final = long_final(100, &n_final);
    char **parts;
    assert_int_equal(reply_parts(final, n_final, n_final, MANY, &parts, &n), KVQ_OK);
    assert_int_equal(n, 1);
    assert_string_equal(parts[0], final);
    reply_parts_free(parts, n);
    free(final);
}

static void a_limit_without_room_for_the_keys_is_refused(void **state) {
    (void)state;
    size_t n_final, n = 0;
    char *final = long_final(1000, &n_final), **parts;
    assert_int_equal(reply_parts(final, n_final, 100, MANY, &parts, &n), KVQ_NO_SPACE);
    assert_null(parts);
    assert_int_equal(reply_parts(final, n_final, 0, MANY, &parts, &n), KVQ_NO_SPACE);
    free(final);
}

static void a_final_of_too_many_parts_is_refused(void **state) {
    (void)state;
    size_t n_final, n, n_again;
    char *final = long_final(3000, &n_final), **parts;
    assert_int_equal(reply_parts(final, n_final, 500, MANY, &parts, &n), KVQ_OK);
    reply_parts_free(parts, n);
    assert_int_equal(reply_parts(final, n_final, 500, n - 1, &parts, &n_again), KVQ_NO_SPACE);
    assert_null(parts);
    assert_int_equal(n_again, 0);
    assert_int_equal(reply_parts(final, n_final, 500, n, &parts, &n_again), KVQ_OK);
    assert_int_equal(n_again, n);
    reply_parts_free(parts, n);
    free(final);
}

static void a_short_final_has_the_id_and_the_reason(void **state) {
    (void)state;
    failure f;
    size_t n_final, n;
    char *final = long_final(3000, &n_final);
    (void)failure_set(&f, FAILURE_TOO_LARGE, "%zu bytes", (size_t)3000);
    char *brief = reply_short(final, n_final, &f, &n);
    assert_string_equal(brief,
                        "{\"id\":\"q\",\"text\":\"\",\"finish_reason\":\"error\",\"error\":{\"code\":\"too_large\","
                        "\"message\":\"3000 bytes\"}}");
    assert_int_equal(n, strlen(brief));
    free(brief);
    free(final);
}

static int json_allocations_left;
static void *failing_json_malloc(size_t n_bytes) {
    return json_allocations_left-- > 0 ? malloc(n_bytes) : NULL;
}

/* An answer waits for memory then; it is never given up for it. */
static void no_memory_is_told_from_no_room(void **state) {
    (void)state;
    size_t n_final, n;
    char *final = long_final(1000, &n_final), **parts = NULL;
    kvq_status status = KVQ_NO_MEMORY;
    int tries = 0;
    json_set_alloc_funcs(failing_json_malloc, free);
    for (; status == KVQ_NO_MEMORY; tries++) {
        assert_null(parts);
        json_allocations_left = tries;
        status = reply_parts(final, n_final, 500, MANY, &parts, &n);
    }
    json_set_alloc_funcs(malloc, free);
    assert_int_equal(status, KVQ_OK);
    assert_true(tries > 50);
    reply_parts_free(parts, n);
    free(final);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_token_goes_at_once_the_next_after_40_ms),
        cmocka_unit_test(sixteen_tokens_do_not_wait),
        cmocka_unit_test(tokens_without_text_make_no_delta),
        cmocka_unit_test(a_zero_byte_ends_no_text),
        cmocka_unit_test(a_final_has_every_key_of_the_contract),
        cmocka_unit_test(a_refusal_says_why_and_busy_says_when),
        cmocka_unit_test(every_status_of_the_engine_has_a_code),
        cmocka_unit_test(parts_fit_and_join_to_the_whole_text),
        cmocka_unit_test(a_final_that_fits_is_not_touched),
        cmocka_unit_test(a_limit_without_room_for_the_keys_is_refused),
        cmocka_unit_test(a_final_of_too_many_parts_is_refused),
        cmocka_unit_test(a_short_final_has_the_id_and_the_reason),
        cmocka_unit_test(no_memory_is_told_from_no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
