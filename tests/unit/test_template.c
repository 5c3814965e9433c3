/* test_template.c: the chat template interpreter. What Jinja2 gives is in tests/golden/templates (made by
 * tests/golden/make_template_golden.py) and compared here byte for byte; errors, limits, allocation failure and hostile
 * input are cases of this file. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/template.h"
#include "tests/sample.h"

enum { NOW_S = 1718467200 }; /* 2024-06-15 16:00 UTC, as in compare_templates.py */

/* ---- allocation failure: malloc of the interpreter fails from the n-th call on --------------------------------- */

void *__real_malloc(size_t n_bytes);
void *__wrap_malloc(size_t n_bytes);

static int mallocs_left = -1; /* -1: all succeed */

void *__wrap_malloc(size_t n_bytes) {
    if (mallocs_left == 0) return NULL;
    if (mallocs_left > 0) mallocs_left--;
    return __real_malloc(n_bytes);
}

/* ---- one render ------------------------------------------------------------------------------------------------ */

typedef struct outcome {
    kvq_status status;
    char *text; /* of a success; free */
    size_t n_bytes;
    kvq_error err;
} outcome;

static outcome render(const char *source, const kvq_template_input *input) {
    outcome o = {0};
    kvq_template *t = NULL;
    o.status = kvq_template_parse(source, strlen(source), &t, &o.err);
    if (o.status == KVQ_OK) o.status = kvq_template_render(t, input, &o.text, &o.n_bytes, &o.err);
    kvq_template_free(t);
    return o;
}

static outcome render_json(const char *source, const char *json) {
    return render(source,
                  &(kvq_template_input){.bos_token = "<s>", .eos_token = "</s>", .extra_json = json, .now_s = NOW_S});
}

/* ---- golden ---------------------------------------------------------------------------------------------------- */

static json_t *load_golden(const char *name) {
    char path[512];
    json_error_t error;
    snprintf(path, sizeof path, "%s/tests/golden/templates/%s", KVQ_SOURCE_DIR, name);
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!j) fail_msg("%s: %s", path, error.text);
    return j;
}

static void check_golden(const char *what, outcome o, const json_t *want) {
    if (json_is_null(want)) {
        if (o.status == KVQ_OK) fail_msg("%s: must be an error, gives '%s'", what, o.text);
        assert_true(o.err.text[0] != '\0');
    } else {
        if (o.status != KVQ_OK) fail_msg("%s: %s", what, o.err.text);
        if (o.n_bytes != json_string_length(want) || memcmp(o.text, json_string_value(want), o.n_bytes) != 0)
            fail_msg("%s:\ngives  %s\nwanted %s", what, o.text, json_string_value(want));
        assert_int_equal(o.text[o.n_bytes], '\0');
    }
    free(o.text);
}

static void snippets_give_what_jinja2_gives(void **state) {
    (void)state;
    json_t *golden = load_golden("snippets.json"), *entry;
    char *variables = json_dumps(json_object_get(golden, "variables"), 0);
    size_t i, n = 0;
    json_array_foreach(json_object_get(golden, "snippets"), i, entry) {
        const char *source = json_string_value(json_object_get(entry, "source"));
        check_golden(source, render_json(source, variables), json_object_get(entry, "text"));
        n++;
    }
    assert_true(n > 400);
    free(variables);
    json_decref(golden);
}

static char *read_template(const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/templates/%s", KVQ_SOURCE_DIR, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *text = calloc(1, 65536);
    assert_non_null(text);
    assert_in_range(fread(text, 1, 65535, f), 1, 65534);
    fclose(f);
    return text;
}

static void conversations_render_as_jinja2_renders_them(void **state) {
    (void)state;
    json_t *golden = load_golden("renders.json"), *entry;
    const json_t *all = json_object_get(golden, "variables");
    size_t i, n = 0;
    json_array_foreach(json_object_get(golden, "renders"), i, entry) {
        size_t at = (size_t)json_integer_value(json_object_get(entry, "variables"));
        char *variables = json_dumps(json_array_get(all, at), 0), what[128];
        const char *name = json_string_value(json_object_get(entry, "template"));
        char *source = read_template(name);
        snprintf(what, sizeof what, "%s, variables %zu", name, at);
        check_golden(what, render_json(source, variables), json_object_get(entry, "text"));
        free(source);
        free(variables);
        n++;
    }
    assert_true(n > 300);
    json_decref(golden);
}

/* ---- input ----------------------------------------------------------------------------------------------------- */

static void messages_and_flags_reach_the_template(void **state) {
    (void)state;
    static const kvq_template_message messages[] = {{"system", "be \xC3\xA9"}, {"user", "bad \xFF\xC3 bytes"}};
    kvq_template_input input = {.messages = messages,
                                .n_messages = 2,
                                .add_generation_prompt = true,
                                .bos_token = "<b>",
                                .eos_token = "<e>",
                                .now_s = NOW_S};
    outcome o = render(
        "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m['content'] }}{{ m.content|length }};{% endfor %}"
        "{{ eos_token }}{{ add_generation_prompt }}{{ tools is none }}{{ strftime_now('%d %b %Y') }}",
        &input);
    assert_int_equal(o.status, KVQ_OK);
    assert_string_equal(o.text, "<b>system:be \xC3\xA9"
                                "4;user:bad \xEF\xBF\xBD\xEF\xBF\xBD bytes12;<e>TrueTrue15 Jun 2024");
    free(o.text);
}

static void extra_variables_replace_and_add(void **state) {
    (void)state;
    static const kvq_template_message messages[] = {{"user", "a"}};
    kvq_template_input input = {
        .messages = messages,
        .n_messages = 1,
        .bos_token = "",
        .eos_token = "",
        .extra_json = "{\"messages\":[{\"role\":\"tool\",\"content\":null}],\"x\":[1,2.50,true,\"\\u00e9\"]}"};
    outcome o = render("{{ messages }}{{ x }}{{ x|tojson }}", &input);
    assert_int_equal(o.status, KVQ_OK);
    assert_string_equal(o.text,
                        "[{'role': 'tool', 'content': None}][1, 2.5, True, '\xC3\xA9'][1, 2.5, true, \"\xC3\xA9\"]");
    free(o.text);
}

static void text_without_anything_is_an_empty_string(void **state) {
    (void)state;
    outcome o = render_json("", "{}");
    assert_int_equal(o.status, KVQ_OK);
    assert_int_equal(o.n_bytes, 0);
    assert_string_equal(o.text, "");
    free(o.text);
}

static void one_template_renders_many_times(void **state) {
    (void)state;
    kvq_template *t;
    kvq_error err;
    static const char source[] =
        "{% set ns = namespace(n=0) %}{% for x in l %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}";
    assert_int_equal(kvq_template_parse(source, strlen(source), &t, &err), KVQ_OK);
    for (int i = 0; i < 3; i++) {
        char *text;
        size_t n;
        kvq_template_input input = {.bos_token = "", .eos_token = "", .extra_json = "{\"l\": [1, 2, 3]}"};
        assert_int_equal(kvq_template_render(t, &input, &text, &n, &err), KVQ_OK);
        assert_string_equal(text, "6");
        free(text);
    }
    kvq_template_free(t);
    kvq_template_free(NULL);
}

/* ---- errors: code and text ------------------------------------------------------------------------------------- */

typedef struct error_case {
    const char *source, *json;
    kvq_status status;
    const char *text; /* part of the message */
} error_case;

static void errors_name_line_and_cause(void **state) {
    (void)state;
    static const error_case cases[] = {
        {"a\n{% frob %}", "{}", KVQ_BAD_FILE, "line 2: unknown tag 'frob'"},
        {"{{ x|frob }}", "{}", KVQ_BAD_FILE, "line 1: no filter is named 'frob'"},
        {"\n\n{{ x is frob }}", "{}", KVQ_BAD_FILE, "line 3: no test is named 'frob'"},
        {"{% include 'x' %}", "{}", KVQ_UNSUPPORTED, "the tag 'include' is not supported"},
        {"{{ x|urlize }}", "{}", KVQ_UNSUPPORTED, "the filter 'urlize' is not supported"},
        {"{% if x %}\n{{ x }}", "{}", KVQ_BAD_FILE, "line 1: the block that begins here is not closed by 'endif'"},
        {"{% for x in y %}\n{% endif %}", "{}", KVQ_BAD_FILE, "line 2: unknown tag 'endif'"},
        {"{{ 1 +\n }}", "{}", KVQ_BAD_FILE, "line 2: expected an expression, found }}"},
        {"{{ 'abc }}", "{}", KVQ_BAD_FILE, "a string is not closed by '"},
        {"{{ (1] }}", "{}", KVQ_BAD_FILE, "unexpected ']', expected ')'"},
        {"{{ a ! b }}", "{}", KVQ_BAD_FILE, "unexpected character '!'"},
        {"{# x", "{}", KVQ_BAD_FILE, "a comment is not closed by '#}'"},
        {"{% raw %}x", "{}", KVQ_BAD_FILE, "a raw block is not closed"},
        {"{% break %}", "{}", KVQ_BAD_FILE, "'break' outside of a loop"},
        {"{% set 1 = 2 %}", "{}", KVQ_BAD_FILE, "cannot assign"},
        {"{{ f(a=1, a=2) }}", "{}", KVQ_BAD_FILE, "the keyword argument 'a' is repeated"},
        {"{{ 99999999999999999999 }}", "{}", KVQ_UNSUPPORTED, "too large for 64 bits"},
        {"\xFF", "{}", KVQ_BAD_FILE, "is not valid UTF-8"},
        {"\n{{ raise_exception('roles ' ~ 'alternate') }}", "{}", KVQ_BAD_ARGUMENT, "line 2: roles alternate"},
        {"x", "{", KVQ_BAD_ARGUMENT, "the template's variables are not JSON"},
        {"x", "[1]", KVQ_BAD_ARGUMENT, "must be a JSON object"},
        {"{{ x.y }}", "{}", KVQ_BAD_FILE, "line 1: 'x' is undefined"},
        {"{{ x.y.z }}", "{\"x\": {}}", KVQ_BAD_FILE, "'dict object' has no attribute 'y'"},
        {"{{ x[3].y }}", "{\"x\": []}", KVQ_BAD_FILE, "list object has no element 3"},
        {"{{ x() }}", "{\"x\": 1}", KVQ_BAD_FILE, "'int' object cannot be called"},
        {"\n{{ x\n+\n1 }}", "{\"x\": \"a\"}", KVQ_BAD_FILE, "line 2: '+' does not work on 'str' and 'int'"},
        {"{{ 1 // 0 }}", "{}", KVQ_BAD_FILE, "division by zero"},
        {"{% for a, b in x %}{% endfor %}", "{\"x\": [[1]]}", KVQ_BAD_FILE,
         "not enough values to unpack, expected 2, got 1"},
        {"{{ x.append(1) }}", "{\"x\": []}", KVQ_BAD_FILE, "the sandbox refuses the attribute 'append' of a 'list'"},
        {"{{ x.encode() }}", "{\"x\": \"\"}", KVQ_UNSUPPORTED, "the method 'encode' is not supported"},
        {"{{ x|tojson }}", "{}", KVQ_BAD_FILE, "tojson: a value of type 'Undefined' has no JSON form"},
        {"{{ 9223372036854775807 + 1 }}", "{}", KVQ_UNSUPPORTED, "too large for 64 bits"},
        {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{}", KVQ_BAD_FILE, "not more than 1 arguments, got 2"},
        {"{{ x|trim(1, 2) }}", "{}", KVQ_BAD_FILE, "the filter 'trim' takes at most 1 arguments, got 2"},
        {"{{ x|trim(y=2) }}", "{}", KVQ_BAD_FILE, "the filter 'trim' has no parameter 'y'"},
        {"{{ x|replace('a') }}", "{}", KVQ_BAD_FILE, "the filter 'replace' needs 2 arguments"},
        {"{{ namespace(_x=1) }}", "{}", KVQ_BAD_FILE, "must not begin with '_'"},
        {"{% set x.y = 1 %}", "{\"x\": {}}", KVQ_BAD_FILE, "only a namespace's attributes can be set, 'x' is none"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        outcome o = render_json(cases[i].source, cases[i].json);
        if (o.status != cases[i].status || !strstr(o.err.text, cases[i].text))
            fail_msg("%s\ngives  %s: %s\nwanted %s: %s", cases[i].source, kvq_status_name(o.status), o.err.text,
                     kvq_status_name(cases[i].status), cases[i].text);
        assert_int_equal(o.err.code, cases[i].status);
        assert_null(o.text);
    }
}

/* ---- limits: a hostile template ends soon, with KVQ_NO_SPACE --------------------------------------------------- */

static char *repeat(const char *before, const char *part, size_t times, const char *after) {
    size_t n = strlen(part), n_before = strlen(before);
    char *text = malloc(n_before + n * times + strlen(after) + 1);
    assert_non_null(text);
    memcpy(text, before, n_before);
    for (size_t i = 0; i < times; i++) memcpy(text + n_before + i * n, part, n);
    strcpy(text + n_before + n * times, after);
    return text;
}

/* The statement a million times over; ns.s and ns.s2 are 20 MB, not ASCII, and equal. */
#define MANY(statement)                                                                                      \
    "{% set ns = namespace(t=1, s='\xC3\xA9' * 10000000, s2='\xC3\xA9' * 10000000, bytes='b' * 10000000) %}" \
    "{% for i in range(1000) %}{% for j in range(1000) %}" statement "{% endfor %}{% endfor %}"

static size_t one_in = 1; /* of hostile templates */

static void hostile_templates_end_at_a_limit(void **state) {
    (void)state;
    static const char *const sources[] = {
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'aaaaaaaaaa' * 1000000000 }}",
        "{{ [1, 2, 3] * 1000000000 }}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor "
        "%}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l == "
        "ns.l[0] }}",
        "{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(100000) %}{% set ns.x = ns.x|select %}{% endfor %}{{ "
        "ns.x|list }}",
        "{% for i in range(100000) %}{{ 'x' * 10000 }}{% endfor %}",
        "{{ range(100001) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ 'a'.center(100000000000) }}",
        "{{ 'a'|indent(100000000000, true) }}",
        "{{ 'a'.replace('', 'b' * 1000000) * 1000 }}",
        "{{ [1]|tojson(indent=100000000000) }}",
        "{% for x in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
        "{{ 'a b '|batch(1000000000000, 0)|list }}",
        "{{ [1]|slice(1000000000000)|list }}",
        MANY("{% set ns.t = (ns.t,) %}") "{{ ns.t in {} }}",
        MANY("{% set ns.t = (ns.t,) %}") "{% set d = {ns.t: 1} %}",
        "{% set ns = namespace(t=1) %}{% for i in range(60) %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}{{ ns.t in {} "
        "}}",
        MANY("{% set x = ns.s == ns.s2 %}"),
        MANY("{% set x = ns.s is sameas ns.s2 %}"),
        MANY("{% set x = ns.s < ns.s2 %}"),
        MANY("{% set x = ns.s in {} %}"),
        MANY("{% set x = ns.s.startswith(ns.s2) %}"),
        MANY("{% set x = ns.s.find('x', 9000000) %}"),
        MANY("{% set x = ns.s.strip(ns.bytes) %}"),
        MANY("{% set x = ns.s|wordcount %}"),
        MANY("{% set x = ns.s.isalpha() %}"),
        "{% set ns = namespace(d={}) %}{% for i in range(90000) %}{% set ns.d = dict(ns.d, **{'k' ~ i: i}) %}{% endfor "
        "%}",
    };
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i += one_in) {
        outcome o = render_json(sources[i], "{}");
        if (o.status != KVQ_NO_SPACE) fail_msg("%s gives %s: %s", sources[i], kvq_status_name(o.status), o.err.text);
        assert_null(o.text);
    }
}

/* Parsing counts its steps too: here each name is compared with all before it. */
static void many_names_end_at_a_limit(void **state) {
    (void)state;
    enum { N = 100000, PART_BYTES = 64 };
    static const char *const parts[][3] = {
        {"{% macro m(", "k%06d,", "k) %}{% endmacro %}"},
        {"", "{%% set k%06d = 1 %%}", ""},
        {"", "{%% macro k%06d() %%}{{ caller() }}{%% endmacro %%}", ""},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i += one_in) {
        char *source = malloc((size_t)N * PART_BYTES);
        assert_non_null(source);
        int n = sprintf(source, "%s", parts[i][0]);
        for (int k = 0; k < N && n < 4000000; k++) n += sprintf(source + n, parts[i][1], k);
        sprintf(source + n, "%s", parts[i][2]);
        outcome o = render_json(source, "{}");
        assert_int_equal(o.status, KVQ_NO_SPACE);
        free(source);
    }
}

static void deep_nesting_is_refused_without_overflowing_the_stack(void **state) {
    (void)state;
    static const struct {
        const char *before, *part, *after;
    } cases[] = {
        {"{{ ", "(", " }}"},
        {"{{ ", "[", " }}"},
        {"{{ ", "-", "1 }}"},
        {"{{ ", "not ", "1 }}"},
        {"", "{% if 1 %}", ""},
        {"{{ 1", "+1", " }}"},
        {"{{ x", "|d", " }}"},
        {"{{ x", ".y", " }}"},
        {"{{ 1", " if 1 else 2", " }}"},
        {"{{ 1", " or 1", " }}"},
        {"{{ f", "()", " }}"},
        {"{{ 1", " is odd == 1", " }}"},
        {"{% if 0 %}", "{% elif 0 %}", "{% endif %}"},
        {"{% set ", "(", " = 1 %}"},
        {"{{ {1:", "{1:", "1 }}"},
        {"", "{% for x in y %}", ""},
        {"{{ 1", "**1", " }}"},
        {"{{ a", "[0]", " }}"},
        {"{{ 1 if ", "1 if ", "1 }}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *source = repeat(cases[i].before, cases[i].part, 100000, cases[i].after);
        outcome o = render_json(source, "{}");
        if (o.status == KVQ_OK) fail_msg("100000 times '%s' gives a text", cases[i].part);
        free(source);
        free(o.text);
    }
}

static void deep_json_is_refused(void **state) {
    (void)state;
    char *open = repeat("{\"x\": ", "[", 1500, ""), *json = repeat(open, "]", 1500, "}");
    outcome o = render_json("{{ x }}", json);
    assert_int_equal(o.status, KVQ_NO_SPACE);
    free(open);
    free(json);
}

static void too_large_a_template_is_refused(void **state) {
    (void)state;
    char *source = repeat("", "0123456789abcdef", 300000, "");
    outcome o = render_json(source, "{}");
    assert_int_equal(o.status, KVQ_UNSUPPORTED);
    free(source);
}

static void a_long_conversation_is_no_limit(void **state) {
    (void)state;
    char *content = repeat("", "some words and more\n", 500, "");
    enum { N = 400 };
    kvq_template_message *messages = calloc(N, sizeof *messages);
    assert_non_null(messages);
    for (int i = 0; i < N; i++) messages[i] = (kvq_template_message){i % 2 ? "assistant" : "user", content};
    kvq_template_input input = {.messages = messages, .n_messages = N, .bos_token = "", .eos_token = ""};
    char *source = read_template("tools.jinja");
    outcome o = render(source, &input);
    assert_int_equal(o.status, KVQ_OK);
    assert_true(o.n_bytes > (size_t)N * strlen(content));
    free(o.text);
    free(source);
    free(messages);
    free(content);
}

/* ---- allocation failure ---------------------------------------------------------------------------------------- */

static void every_allocation_may_fail(void **state) {
    (void)state;
    char *source = read_template("schema.jinja");
    kvq_template_message messages[200];
    for (int i = 0; i < 200; i++)
        messages[i] = (kvq_template_message){"user", "words that fill a chunk of memory now and then"};
    kvq_template_input input = {.messages = messages, .n_messages = 200, .bos_token = "<s>", .eos_token = "</s>"};
    int n_failures = 0;
    for (int n = 0;; n++) {
        mallocs_left = n;
        outcome o = render(source, &input);
        mallocs_left = -1;
        if (o.status == KVQ_OK) {
            free(o.text);
            break;
        }
        assert_int_equal(o.status, KVQ_NO_MEMORY);
        assert_null(o.text);
        assert_non_null(strstr(o.err.text, "no memory"));
        n_failures++;
    }
    assert_true(n_failures > 5); /* chunks of both parse and render, and the growing output */
    free(source);
}

int main(int argc, char **argv) {
    if (is_sample(argc, argv)) one_in = 17;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(snippets_give_what_jinja2_gives),
        cmocka_unit_test(conversations_render_as_jinja2_renders_them),
        cmocka_unit_test(messages_and_flags_reach_the_template),
        cmocka_unit_test(extra_variables_replace_and_add),
        cmocka_unit_test(text_without_anything_is_an_empty_string),
        cmocka_unit_test(one_template_renders_many_times),
        cmocka_unit_test(errors_name_line_and_cause),
        cmocka_unit_test(hostile_templates_end_at_a_limit),
        cmocka_unit_test(many_names_end_at_a_limit),
        cmocka_unit_test(deep_nesting_is_refused_without_overflowing_the_stack),
        cmocka_unit_test(deep_json_is_refused),
        cmocka_unit_test(too_large_a_template_is_refused),
        cmocka_unit_test(a_long_conversation_is_no_limit),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
