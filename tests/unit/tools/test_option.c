/* test_option.c: tools/option.c: every kind of value, every error's text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tools/option.h"

#define COUNT_OF(a) (sizeof(a) / sizeof *(a))

typedef struct values {
    bool raw;
    const char *model, *format;
    int tokens;
    float temperature;
    option_seed seed;
    option_ints depths;
    option_texts policies, stops, rest;
} values;

#define AT(member) offsetof(values, member)

/* clang-format off */
static const option options[] = {
    {'m', "model",  OPTION_TEXT,  AT(model),       "FILE",   NULL,    0, 0, NULL, true,  "m"},
    { 0,  "raw",    OPTION_FLAG,  AT(raw),         NULL,     NULL,    0, 0, NULL, false, "r"},
    {'n', "tokens", OPTION_INT,   AT(tokens),      "N",      "256",   0, 1000, NULL, false, "n"},
    { 0,  "temp",   OPTION_FLOAT, AT(temperature), "T",      "0.5",   0, 2, NULL, false, "t"},
    { 0,  "seed",   OPTION_SEED,  AT(seed),        "S",      NULL,    0, 0, NULL, false, "s"},
    {'d', "depth",  OPTION_INTS,  AT(depths),      "LIST",   "0,64",  0, 4096, NULL, false, "d"},
    { 0,  "kv",     OPTION_NAMES, AT(policies),    "LIST",   "0,8",   0, 0, "0|8|4|lmdeploy4", false, "k"},
    {'o', "output", OPTION_NAME,  AT(format),      "FORMAT", "table", 0, 0, "table|json", false, "o"},
    { 0,  "stop",   OPTION_TEXTS, AT(stops),       "TEXT",   NULL,    0, 0, NULL, false, "s"},
    { 0,  NULL,     OPTION_REST,  AT(rest),        "WORD",   NULL,    0, 0, NULL, false, "w"},
};
/* clang-format on */

enum { WORDS_MAX = 24 };

static kvq_status parse(const char *const *words, values *ret, kvq_error *err) {
    char *argv[WORDS_MAX];
    int argc = 0;
    for (; words[argc]; argc++) argv[argc] = (char *)words[argc];
    return option_parse(options, COUNT_OF(options), argc, argv, ret, sizeof *ret, err);
}

static void defaults_come_from_the_table(void **state) {
    (void)state;
    values v;
    memset(&v, 0xA5, sizeof v);
    assert_int_equal(parse((const char *const[]){"-m", "x", NULL}, &v, NULL), KVQ_OK);
    assert_string_equal(v.model, "x");
    assert_false(v.raw);
    assert_int_equal(v.tokens, 256);
    assert_true(v.temperature == 0.5f);
    assert_false(v.seed.given);
    assert_int_equal(v.depths.n, 2);
    assert_int_equal(v.depths.values[1], 64);
    assert_int_equal(v.policies.n, 2);
    assert_string_equal(v.policies.values[1], "8");
    assert_string_equal(v.format, "table");
    assert_int_equal(v.stops.n, 0);
    assert_int_equal(v.rest.n, 0);
}

static void every_spelling_is_taken(void **state) {
    (void)state;
    values v;
    const char *const words[] = {"--model=a=b", "--raw",    "-n7",  "--temp",    "1.5", "--seed", "9223372036854775807",
                                 "-d",          "1,2,4096", "--kv", "lmdeploy4", "one", "--stop", "a,b",
                                 "--stop=",     "-",        "-o",   "json",      "--",  "--raw",  NULL};
    assert_int_equal(parse(words, &v, NULL), KVQ_OK);
    assert_string_equal(v.model, "a=b");
    assert_true(v.raw);
    assert_int_equal(v.tokens, 7);
    assert_true(v.temperature == 1.5f);
    assert_true(v.seed.given && v.seed.value == INT64_MAX);
    assert_int_equal(v.depths.n, 3);
    assert_int_equal(v.depths.values[2], 4096);
    assert_int_equal(v.policies.n, 1);
    assert_string_equal(v.policies.values[0], "lmdeploy4");
    assert_string_equal(v.format, "json");
    assert_int_equal(v.stops.n, 2);
    assert_string_equal(v.stops.values[0], "a,b");
    assert_string_equal(v.stops.values[1], "");
    assert_int_equal(v.rest.n, 3);
    assert_string_equal(v.rest.values[1], "-");
    assert_string_equal(v.rest.values[2], "--raw");
}

static void what_is_wrong_is_said(void **state) {
    (void)state;
    static const struct {
        const char *words[WORDS_MAX], *text;
    } cases[] = {
        {{NULL}, "'-m, --model FILE' is missing."},
        {{"-m"}, "'-m, --model FILE' wants a value."},
        {{"-m", "x", "--tmep", "1"}, "Unknown option '--tmep'; did you mean '--temp'?"},
        {{"-m", "x", "--temperature=1"}, "Unknown option '--temperature=1'; '--help' lists what there is."},
        {{"-m", "x", "--outptu=1"}, "Unknown option '--outptu=1'; did you mean '--output'?"},
        {{"-m", "x", "-z"}, "Unknown option '-z'; '--help' lists what there is."},
        {{"-m", "x", "--raw=1"}, "'--raw' takes no value; '1' was given."},
        {{"-m", "x", "-n", "1001"}, "'1001' is no value for '-n, --tokens N'; allowed: 0 to 1000."},
        {{"-m", "x", "-n", "-1"}, "'-1' is no value for '-n, --tokens N'; allowed: 0 to 1000."},
        {{"-m", "x", "-n", "5x"}, "'5x' is no value for '-n, --tokens N'; allowed: 0 to 1000."},
        {{"-m", "x", "-n", ""}, "'' is no value for '-n, --tokens N'; allowed: 0 to 1000."},
        {{"-m", "x", "-n", "99999999999999999999"},
         "'99999999999999999999' is no value for '-n, --tokens N'; allowed: 0 to 1000."},
        {{"-m", "x", "--temp", "nan"}, "'nan' is no value for '--temp T'; allowed: 0 to 2."},
        {{"-m", "x", "--temp", "2.1"}, "'2.1' is no value for '--temp T'; allowed: 0 to 2."},
        {{"-m", "x", "--seed", "-1"},
         "'-1' is no value for '--seed S'; allowed: a whole number from 0 to 9223372036854775807."},
        {{"-m", "x", "--seed", "9223372036854775808"},
         "'9223372036854775808' is no value for '--seed S'; allowed: a whole number from 0 to 9223372036854775807."},
        {{"-m", "x", "-d", "1,,2"}, "'1,,2' is no value for '-d, --depth LIST'; allowed: 0 to 4096."},
        {{"-m", "x", "-d", "1,"}, "'1,' is no value for '-d, --depth LIST'; allowed: 0 to 4096."},
        {{"-m", "x", "-d", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"},
         "'1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17' is no value for '-d, --depth LIST'; allowed: 0 to 4096."},
        {{"-m", "x", "--kv", "8,5"}, "'8,5' is no value for '--kv LIST'; allowed: one of 0, 8, 4, lmdeploy4."},
        {{"-m", "x", "--kv", "lmdeploy"},
         "'lmdeploy' is no value for '--kv LIST'; allowed: one of 0, 8, 4, lmdeploy4."},
        {{"-m", "x", "-o", "j"}, "'j' is no value for '-o, --output FORMAT'; allowed: one of table, json."},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        values v;
        kvq_error err = {0};
        assert_int_equal(parse(cases[i].words, &v, &err), KVQ_BAD_ARGUMENT);
        assert_string_equal(err.text, cases[i].text);
    }
}

static void a_positional_argument_too_many_is_said(void **state) {
    (void)state;
    static const option one[] = {{0, NULL, OPTION_TEXT, AT(model), "MODEL", NULL, 0, 0, NULL, true, "m"}};
    char *argv[] = {"a", "b"};
    values v;
    kvq_error err = {0};
    assert_int_equal(option_parse(one, 1, 1, argv, &v, sizeof v, &err), KVQ_OK);
    assert_int_equal(option_parse(one, 1, 2, argv, &v, sizeof v, &err), KVQ_BAD_ARGUMENT);
    assert_string_equal(err.text, "Unexpected argument 'b'.");
    assert_int_equal(option_parse(one, 1, 0, argv, &v, sizeof v, &err), KVQ_BAD_ARGUMENT);
    assert_string_equal(err.text, "'MODEL' is missing.");
}

static void a_thousand_words_are_taken_and_one_more_is_said(void **state) {
    (void)state;
    static const option rest[] = {{0, NULL, OPTION_REST, AT(rest), "WORD", NULL, 0, 0, NULL, false, "w"}};
    char *argv[OPTION_TEXTS_MAX + 1];
    values v;
    kvq_error err = {0};
    for (int i = 0; i <= OPTION_TEXTS_MAX; i++) argv[i] = "word";
    assert_int_equal(option_parse(rest, 1, OPTION_TEXTS_MAX, argv, &v, sizeof v, &err), KVQ_OK);
    assert_int_equal(v.rest.n, OPTION_TEXTS_MAX);
    assert_int_equal(option_parse(rest, 1, OPTION_TEXTS_MAX + 1, argv, &v, sizeof v, &err), KVQ_BAD_ARGUMENT);
    assert_string_equal(err.text, "'WORD' is given more than 1024 times.");
}

static void the_nearest_name_is_a_slip_away(void **state) {
    (void)state;
    static const char *const names[] = {"run", "bench", "eval", "tokenize", "logits", "show"};
    static const struct {
        const char *typed, *nearest;
    } cases[] = {{"bnech", "bench"},  {"rn", "run"}, {"evla", "eval"},    {"tokenise", "tokenize"},
                 {"logit", "logits"}, {"xyz", NULL}, {"benchmark", NULL}, {"", NULL}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const char *got = option_nearest(cases[i].typed, names, COUNT_OF(names));
        if (cases[i].nearest)
            assert_string_equal(got, cases[i].nearest);
        else
            assert_null(got);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_come_from_the_table),
        cmocka_unit_test(every_spelling_is_taken),
        cmocka_unit_test(what_is_wrong_is_said),
        cmocka_unit_test(a_positional_argument_too_many_is_said),
        cmocka_unit_test(a_thousand_words_are_taken_and_one_more_is_said),
        cmocka_unit_test(the_nearest_name_is_a_slip_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
