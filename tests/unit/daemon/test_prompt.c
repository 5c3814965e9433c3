/* test_prompt.c: the bytes of a prompt -> a checked request (daemon/prompt.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/prompt.h"
#include "daemon/text.h"

static kvq_request defaults;

static int setup(void **state) {
    (void)state;
    defaults = kvq_default_request();
    defaults.temperature = 0.8f;
    defaults.max_tokens = 512;
    defaults.system = "Be brief.";
    return 0;
}

static bool parse_typed(const char *text, size_t n, const char *type, prompt *p, failure *f) {
    /* exactly n bytes on the heap, so that a sanitizer sees a byte read too many */
    char *bytes = malloc(n ? n : 1);
    assert_non_null(bytes);
    memcpy(bytes, text, n);
    prompt_input in = {.payload = bytes, .n_bytes = n, .max_bytes = 4096, .content_type = type, .defaults = &defaults};
    *p = (prompt){0};
    *f = (failure){0};
    bool ok = prompt_parse(&in, p, f);
    free(bytes);
    return ok;
}

static bool parse(const char *text, prompt *p, failure *f) {
    return parse_typed(text, strlen(text), NULL, p, f);
}

static void plain_text_is_one_turn_with_the_defaults(void **state) {
    (void)state;
    prompt p;
    failure f;
    assert_true(parse("Why is the sky blue?\n{not json}", &p, &f));
    assert_string_equal(p.request.prompt, "Why is the sky blue?\n{not json}");
    assert_string_equal(p.request.system, "Be brief.");
    assert_int_equal(p.request.max_tokens, 512);
    assert_int_equal(p.stream, -1);
    assert_string_equal(p.id, "");
    assert_null(p.model);
    prompt_done(&p);
}

/* A reload frees the configuration while prompts wait. */
static void the_defaults_may_go_before_the_prompt(void **state) {
    (void)state;
    char *system = strdup("Be brief."), *word = strdup("User:");
    const char **stop = malloc(2 * sizeof *stop);
    stop[0] = word;
    stop[1] = "\n\n";
    kvq_request loaded = kvq_default_request();
    loaded.system = system;
    loaded.stop = stop;
    loaded.n_stop = 2;
    prompt_input in = {.payload = "hi", .n_bytes = 2, .max_bytes = 4096, .defaults = &loaded};
    prompt p;
    failure f;
    assert_true(prompt_parse(&in, &p, &f));
    memset(system, 'x', strlen(system));
    memset(word, 'x', strlen(word));
    free(system);
    free(word);
    free(stop);
    assert_string_equal(p.request.system, "Be brief.");
    assert_int_equal(p.request.n_stop, 2);
    assert_string_equal(p.request.stop[0], "User:");
    assert_string_equal(p.request.stop[1], "\n\n");
    prompt_done(&p);
}

static void json_sets_every_key(void **state) {
    (void)state;
    prompt p;
    failure f;
    assert_true(
        parse("{\"id\":\"a.b-c_9\",\"model\":\"m\",\"prompt\":\"hi\",\"raw\":true,\"session\":\"s\",\"max_tokens\":7,"
              "\"temperature\":0.5,\"top_p\":0.9,\"top_k\":40,\"min_p\":0.05,\"repetition_penalty\":1.1,"
              "\"presence_penalty\":-1,\"frequency_penalty\":1.5,\"logit_bias\":{\"5\":-3.5,\"17\":2},\"seed\":42,"
              "\"stop\":[\"a\",\"bc\"],\"stream\":false,\"deadline_ms\":5000,\"priority\":9}",
              &p, &f));
    const kvq_request *r = &p.request;
    assert_string_equal(p.id, "a.b-c_9");
    assert_string_equal(p.model, "m");
    assert_string_equal(r->prompt, "hi");
    assert_true(r->raw);
    assert_null(r->system); /* the configured one is not for raw text */
    assert_string_equal(r->session, "s");
    assert_int_equal(r->max_tokens, 7);
    assert_float_equal(r->temperature, 0.5, 1e-6);
    assert_float_equal(r->top_p, 0.9, 1e-6);
    assert_int_equal(r->top_k, 40);
    assert_float_equal(r->min_p, 0.05, 1e-6);
    assert_float_equal(r->repetition_penalty, 1.1, 1e-6);
    assert_float_equal(r->presence_penalty, -1, 1e-6);
    assert_float_equal(r->frequency_penalty, 1.5, 1e-6);
    assert_int_equal(r->n_logit_bias, 2);
    assert_int_equal(r->logit_bias[0].id, 5);
    assert_float_equal(r->logit_bias[0].bias, -3.5, 1e-6);
    assert_int_equal(r->logit_bias[1].id, 17);
    assert_true(r->has_seed);
    assert_int_equal(r->seed, 42);
    assert_int_equal(r->n_stop, 2);
    assert_string_equal(r->stop[1], "bc");
    assert_int_equal(p.stream, 0);
    assert_int_equal(r->deadline_ms, 5000);
    assert_int_equal(r->priority, 9);
    prompt_done(&p);
}

static void messages_keep_their_order_and_their_system(void **state) {
    (void)state;
    prompt p;
    failure f;
    assert_true(parse("{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"content\":\"U\",\"role\":\"user\"}]}",
                      &p, &f));
    assert_int_equal(p.request.n_messages, 2);
    assert_string_equal(p.request.messages[0].role, "system");
    assert_string_equal(p.request.messages[1].content, "U");
    assert_null(p.request.system);
    prompt_done(&p);
    assert_true(parse("{\"messages\":[{\"role\":\"user\",\"content\":\"U\"}]}", &p, &f));
    assert_string_equal(p.request.system, "Be brief.");
    prompt_done(&p);
    assert_true(parse("{\"system\":\"Mine\",\"prompt\":\"U\"}", &p, &f));
    assert_string_equal(p.request.system, "Mine");
    prompt_done(&p);
}

static void braces_that_do_not_parse_are_plain_text_unless_the_type_says_json(void **state) {
    (void)state;
    prompt p;
    failure f;
    const char text[] = "{x} is what?";
    assert_true(parse(text, &p, &f));
    assert_string_equal(p.request.prompt, text);
    prompt_done(&p);
    assert_false(parse_typed(text, strlen(text), "application/json", &p, &f));
    assert_int_equal(f.code, FAILURE_BAD_REQUEST);
    assert_non_null(strstr(f.text, "does not parse"));
    assert_false(parse_typed("[1]", 3, "application/json; charset=utf-8", &p, &f));
    assert_non_null(strstr(f.text, "is an object"));
    assert_true(parse_typed("{\"prompt\":1}", 12, "text/plain", &p, &f));
    assert_string_equal(p.request.prompt, "{\"prompt\":1}");
    prompt_done(&p);
}

static void a_bad_key_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *json, *text;
    } cases[] = {
        {"{\"prompt\":\"x\",\"max_token\":3}", "'max_token' is not a key; 'max_tokens' is the nearest"},
        {"{\"prompt\":\"x\",\"response_format\":{}}", "'response_format' is not a key of a prompt"},
        {"{\"id\":5,\"prompt\":\"x\"}", "'id' is an integer; it must be a string"},
        {"{\"id\":\"a/b\",\"prompt\":\"x\"}", "'id' must be 1 to 64"},
        {"{\"id\":\"delta\",\"prompt\":\"x\"}", "not 'delta'"},
        {"{\"id\":\"\",\"prompt\":\"x\"}", "'id' must be 1 to 64"},
        {"{\"model\":null,\"prompt\":\"x\"}", "'model' is null; it must be a string"},
        {"{\"prompt\":[]}", "'prompt' is an array; it must be a string"},
        {"{}", "'prompt' or 'messages' is missing"},
        {"{\"prompt\":\"x\",\"messages\":[{\"role\":\"user\",\"content\":\"y\"}]}", "exclude each other"},
        {"{\"messages\":[]}", "'messages' has 0 items"},
        {"{\"messages\":{}}", "'messages' is an object"},
        {"{\"messages\":[3]}", "'messages[0]' is an integer"},
        {"{\"messages\":[{\"role\":\"user\"}]}", "'messages[0].content' is missing"},
        {"{\"messages\":[{\"content\":\"x\"}]}", "'messages[0].role' is missing"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", "'messages[0].content' is an array"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"name\":\"y\"}]}", "'messages[0].name' is not a key"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"raw\":true}", "'raw' needs 'prompt'"},
        {"{\"prompt\":\"x\",\"raw\":1}", "'raw' is an integer; it must be true or false"},
        {"{\"prompt\":\"x\",\"system\":false}", "'system' is false"},
        {"{\"prompt\":\"x\",\"session\":\"\"}", "'session' has 0 bytes"},
        {"{\"prompt\":\"x\",\"max_tokens\":-1}", "'max_tokens' is -1; 0 to 1048576 are allowed"},
        {"{\"prompt\":\"x\",\"max_tokens\":1.5}", "'max_tokens' is a number; it must be a whole number"},
        {"{\"prompt\":\"x\",\"temperature\":2.01}", "'temperature' is 2.01; 0 to 2 are allowed"},
        {"{\"prompt\":\"x\",\"temperature\":\"hot\"}", "'temperature' is a string; it must be a number"},
        {"{\"prompt\":\"x\",\"top_p\":0}", "'top_p' is 0; above 0 to 1 are allowed"},
        {"{\"prompt\":\"x\",\"top_k\":-5}", "'top_k' is -5"},
        {"{\"prompt\":\"x\",\"min_p\":1.5}", "'min_p' is 1.5"},
        {"{\"prompt\":\"x\",\"repetition_penalty\":0}", "'repetition_penalty' is 0"},
        {"{\"prompt\":\"x\",\"presence_penalty\":3}", "'presence_penalty' is 3; -2 to 2"},
        {"{\"prompt\":\"x\",\"frequency_penalty\":-3}", "'frequency_penalty' is -3"},
        {"{\"prompt\":\"x\",\"logit_bias\":[]}", "'logit_bias' is an array"},
        {"{\"prompt\":\"x\",\"logit_bias\":{\"a\":1}}", "'logit_bias.a' is not a token id"},
        {"{\"prompt\":\"x\",\"logit_bias\":{\"1234567890\":1}}", "is not a token id"},
        {"{\"prompt\":\"x\",\"logit_bias\":{\"7\":101}}", "'logit_bias.7' must be a number from -100 to 100"},
        {"{\"prompt\":\"x\",\"seed\":-1}", "'seed' is -1"},
        {"{\"prompt\":\"x\",\"seed\":1.0}", "'seed' is a number"},
        {"{\"prompt\":\"x\",\"stop\":3}", "'stop' is an integer"},
        {"{\"prompt\":\"x\",\"stop\":[\"a\",3]}", "'stop[1]' is an integer"},
        {"{\"prompt\":\"x\",\"stop\":[\"\"]}", "'stop[0]' has 0 bytes"},
        {"{\"prompt\":\"x\",\"stream\":\"yes\"}", "'stream' is a string"},
        {"{\"prompt\":\"x\",\"deadline_ms\":0}", "'deadline_ms' is 0; 1 to 604800000"},
        {"{\"prompt\":\"x\",\"priority\":10}", "'priority' is 10; 0 to 9"},
        {"{\"prompt\":\"x\",\"prompt\":\"y\"}", "does not parse"},
        {"{\"prompt\":\"x\",\"seed\":9223372036854775808}", "does not parse: line 1, column 40: too big integer"},
        {"{\"prompt\":\"a\\u0000b\"}", "does not parse"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        prompt p;
        failure f;
        if (parse(cases[i].json, &p, &f)) fail_msg("accepted: %s", cases[i].json);
        if (f.code != FAILURE_BAD_REQUEST) fail_msg("code %s: %s", failure_name(f.code), cases[i].json);
        if (!strstr(f.text, cases[i].text)) fail_msg("%s: '%s' lacks '%s'", cases[i].json, f.text, cases[i].text);
    }
}

static void bytes_that_are_not_text_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
    } cases[] = {
        {"", 0},
        {"a\0b", 3},
        {"\xff", 1},
        {"\xc0\x80", 2},
        {"\xed\xa0\x80", 3},
        {"\xe2\x82", 2},
        {"\x80", 1},
        {"\xf4\x90\x80\x80", 4},
        {"\xf0\x8f\xbf\xbf", 4},
        {"ab\xc3", 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        prompt p;
        failure f;
        if (parse_typed(cases[i].bytes, cases[i].n, NULL, &p, &f)) fail_msg("case %zu was accepted", i);
        assert_int_equal(f.code, FAILURE_BAD_REQUEST);
    }
    assert_true(text_is_valid("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 10));
}

static void a_prompt_over_the_limit_is_too_large(void **state) {
    (void)state;
    char text[5000];
    prompt p;
    failure f;
    memset(text, 'a', sizeof text);
    assert_true(parse_typed(text, 4096, NULL, &p, &f));
    prompt_done(&p);
    assert_false(parse_typed(text, 4097, NULL, &p, &f));
    assert_int_equal(f.code, FAILURE_TOO_LARGE);
    assert_non_null(strstr(f.text, "4097"));
    assert_non_null(strstr(f.text, "max_prompt_bytes"));
}

static void deep_nesting_is_refused_not_followed(void **state) {
    (void)state;
    char text[4000] = "{\"prompt\":\"x\",\"stop\":";
    prompt p;
    failure f;
    size_t n = strlen(text);
    memset(text + n, '[', sizeof text - n);
    assert_false(parse_typed(text, sizeof text, NULL, &p, &f));
    assert_int_equal(f.code, FAILURE_BAD_REQUEST);
}

static void names_are_one_to_64_plain_characters(void **state) {
    (void)state;
    char longest[65];
    memset(longest, 'x', sizeof longest);
    assert_true(prompt_is_name("A", 1));
    assert_true(prompt_is_name("..", 2));
    assert_true(prompt_is_name("delta2", 6));
    assert_true(prompt_is_name(longest, 64));
    assert_false(prompt_is_name(longest, 65));
    assert_false(prompt_is_name("", 0));
    assert_false(prompt_is_name("delta", 5));
    assert_false(prompt_is_name("a b", 3));
    assert_false(prompt_is_name("a+", 2));
    assert_false(prompt_is_name("\xc3\xa9", 2));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(plain_text_is_one_turn_with_the_defaults, setup),
        cmocka_unit_test_setup(the_defaults_may_go_before_the_prompt, setup),
        cmocka_unit_test_setup(json_sets_every_key, setup),
        cmocka_unit_test_setup(messages_keep_their_order_and_their_system, setup),
        cmocka_unit_test_setup(braces_that_do_not_parse_are_plain_text_unless_the_type_says_json, setup),
        cmocka_unit_test_setup(a_bad_key_is_refused_by_name, setup),
        cmocka_unit_test_setup(bytes_that_are_not_text_are_refused, setup),
        cmocka_unit_test_setup(a_prompt_over_the_limit_is_too_large, setup),
        cmocka_unit_test_setup(deep_nesting_is_refused_not_followed, setup),
        cmocka_unit_test_setup(names_are_one_to_64_plain_characters, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
