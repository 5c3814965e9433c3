/* test_topics.c: the topic table and what walks it (daemon/topics.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/topics.h"

static const topic_names names = {.base = "kvqd", .node = "n1", .pool = "", .home = ""};
static const topic_names all_names = {.base = "a/b", .node = "n1", .pool = "fleet", .home = "homeassistant"};

static void incoming_topics_find_their_row_and_their_rest(void **state) {
    (void)state;
    static const struct {
        const char *topic;
        topic_id id;
        const char *rest;
        bool valid;
    } cases[] = {
        {"kvqd/n1/prompt", TOPIC_PROMPT, "", true},
        {"kvqd/n1/prompt/q1", TOPIC_PROMPT_NAMED, "q1", true},
        {"kvqd/n1/prompt/alice/q1", TOPIC_PROMPT_NAMED, "alice/q1", true},
        {"kvqd/n1/prompt/a/b/c", TOPIC_PROMPT_NAMED, "a/b/c", false},
        {"kvqd/n1/prompt/", TOPIC_COUNT, NULL, false},
        {"kvqd/n1/prompt/delta", TOPIC_PROMPT_NAMED, "delta", false},
        {"kvqd/n1/prompt/x/delta", TOPIC_PROMPT_NAMED, "x/delta", false},
        {"kvqd/n1/prompt/a b", TOPIC_PROMPT_NAMED, "a b", false},
        {"kvqd/n1/prompt//x", TOPIC_PROMPT_NAMED, "/x", false},
        {"kvqd/n1/cancel/q1", TOPIC_CANCEL, "q1", true},
        {"kvqd/n1/request/ping", TOPIC_REQUEST, "ping", true},
        {"kvqd/n1/request/a/b", TOPIC_REQUEST, "a/b", false},
        {"kvqd/n1/response/q1", TOPIC_COUNT, NULL, false}, /* ours to write, not to read */
        {"kvqd/n2/prompt", TOPIC_COUNT, NULL, false},
        {"kvqd/n1", TOPIC_COUNT, NULL, false},
        {"", TOPIC_COUNT, NULL, false},
        {"kvqd/pool//prompt/x", TOPIC_COUNT, NULL, false}, /* in no pool */
        {"/status", TOPIC_COUNT, NULL, false},             /* no Home Assistant */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char rest[TOPIC_REQUEST_BYTES] = "";
        bool valid = false;
        topic_id id = topic_match(&names, cases[i].topic, rest, &valid);
        if (id != cases[i].id) fail_msg("'%s': row %d, not %d", cases[i].topic, id, cases[i].id);
        if (id == TOPIC_COUNT) continue;
        assert_string_equal(rest, cases[i].rest);
        assert_int_equal(valid, cases[i].valid);
    }
}

static void a_topic_of_former_names_tells_them(void **state) {
    (void)state;
    static const struct {
        const char *topic, *base, *node;
    } cases[] = {
        {"kvqd/n1/prompt", "kvqd", "n1"},
        {"kvqd/n1/prompt/alice/q1", "kvqd", "n1"},
        {"kvqd/n1/prompt/prompt", "kvqd", "n1"}, /* ids and clients may have this name */
        {"kvqd/n1/prompt/alice/prompt", "kvqd", "n1"},
        {"kvqd/n1/prompt/prompt/q1", "kvqd", "n1"},
        {"kvqd/n1/prompt/prompt/prompt", "kvqd", "n1"},
        {"kvqd/prompt/prompt/q1", "kvqd", "prompt"}, /* and nodes, and levels of base topics */
        {"a/prompt/b/n1/prompt/q1", "a/prompt/b", "n1"},
        {"x/a/prompt/b/n1/prompt/alice/prompt", "x/a/prompt/b", "n1"},
        {"kvqd/n1/prompts/q1", NULL, NULL},
        {"n1/prompt/q1", NULL, NULL},
        {"", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char topic[64];
        topic_names former;
        strcpy(topic, cases[i].topic);
        assert_int_equal(topic_former_names(topic, &former), cases[i].base != NULL);
        if (!cases[i].base) continue;
        assert_string_equal(former.base, cases[i].base);
        assert_string_equal(former.node, cases[i].node);
    }
}

static void a_rest_that_is_too_long_is_cut_and_not_valid(void **state) {
    (void)state;
    char topic[400] = "kvqd/n1/prompt/", rest[TOPIC_REQUEST_BYTES];
    bool valid = true;
    memset(topic + 15, 'x', 300);
    topic[315] = '\0';
    assert_int_equal(topic_match(&names, topic, rest, &valid), TOPIC_PROMPT_NAMED);
    assert_false(valid);
    assert_int_equal(strlen(rest), TOPIC_REQUEST_BYTES - 1);
}

static void outgoing_topics_carry_the_names(void **state) {
    (void)state;
    char topic[TOPIC_BYTES];
    topic_make(&all_names, TOPIC_DELTA, "alice/q1", topic);
    assert_string_equal(topic, "a/b/n1/response/alice/q1/delta");
    topic_make(&all_names, TOPIC_STATUS, NULL, topic);
    assert_string_equal(topic, "a/b/n1/status");
    topic_make(&all_names, TOPIC_REPLY, "ping", topic);
    assert_string_equal(topic, "a/b/n1/reply/ping");
    topic_make(&all_names, TOPIC_DISCOVERY, NULL, topic);
    assert_string_equal(topic, "homeassistant/device/kvqd_n1/config");
}

static bool has(const topic_filter *filters, size_t n, const char *text) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(filters[i].text, text) == 0) return true;
    return false;
}

static void filters_cover_both_forms_of_a_name(void **state) {
    (void)state;
    topic_filter f[TOPIC_MAX_FILTERS];
    size_t n = topic_filters(&names, TOPIC_NODE, f);
    assert_int_equal(n, 6);
    assert_true(has(f, n, "kvqd/n1/prompt"));
    assert_true(has(f, n, "kvqd/n1/prompt/+"));
    assert_true(has(f, n, "kvqd/n1/prompt/+/+"));
    assert_true(has(f, n, "kvqd/n1/cancel/+"));
    assert_true(has(f, n, "kvqd/n1/cancel/+/+"));
    assert_true(has(f, n, "kvqd/n1/request/+"));
    for (size_t i = 0; i < n; i++) assert_int_equal(f[i].qos, 1);
}

static void pool_prompts_are_shared_and_pool_cancels_are_not(void **state) {
    (void)state;
    topic_filter f[TOPIC_MAX_FILTERS];
    size_t n = topic_filters(&all_names, TOPIC_POOL, f);
    assert_int_equal(n, 2);
    assert_true(has(f, n, "$share/fleet/a/b/pool/fleet/prompt/+"));
    assert_true(has(f, n, "$share/fleet/a/b/pool/fleet/prompt/+/+"));
    n = topic_filters(&all_names, TOPIC_POOL_ALL, f);
    assert_int_equal(n, 2);
    assert_true(has(f, n, "a/b/pool/fleet/cancel/+"));
    assert_int_equal(topic_filters(&names, TOPIC_POOL, f), 0);
    assert_int_equal(topic_filters(&names, TOPIC_HOME, f), 0);
    assert_int_equal(topic_filters(&all_names, TOPIC_HOME, f), 1);
    assert_string_equal(f[0].text, "homeassistant/status");
}

static void state_is_retained_and_prompts_and_answers_are_not(void **state) {
    (void)state;
    assert_true(topic_table[TOPIC_STATUS].retained && topic_table[TOPIC_STATE].retained &&
                topic_table[TOPIC_INFO].retained);
    assert_true(topic_table[TOPIC_TELEMETRY].retained);
    assert_int_equal(topic_table[TOPIC_TELEMETRY].qos, 0);
    assert_false(topic_table[TOPIC_RESPONSE].retained || topic_table[TOPIC_DELTA].retained ||
                 topic_table[TOPIC_EVENT].retained);
    assert_int_equal(topic_table[TOPIC_DELTA].qos, 0);
    assert_int_equal(topic_table[TOPIC_RESPONSE].qos, 1);
}

static void names_longer_than_a_topic_are_cut_not_overrun(void **state) {
    (void)state;
    char base[600], topic[TOPIC_BYTES];
    memset(base, 'b', sizeof base - 1);
    base[sizeof base - 1] = '\0';
    topic_names n = {.base = base, .node = "n", .pool = "", .home = ""};
    topic_make(&n, TOPIC_STATUS, NULL, topic);
    assert_int_equal(strlen(topic), TOPIC_BYTES - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(incoming_topics_find_their_row_and_their_rest),
        cmocka_unit_test(a_topic_of_former_names_tells_them),
        cmocka_unit_test(a_rest_that_is_too_long_is_cut_and_not_valid),
        cmocka_unit_test(outgoing_topics_carry_the_names),
        cmocka_unit_test(filters_cover_both_forms_of_a_name),
        cmocka_unit_test(pool_prompts_are_shared_and_pool_cancels_are_not),
        cmocka_unit_test(state_is_retained_and_prompts_and_answers_are_not),
        cmocka_unit_test(names_longer_than_a_topic_are_cut_not_overrun),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
