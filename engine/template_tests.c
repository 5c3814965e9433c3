/* template_tests.c: THE table of tests ("x is even"), Jinja2's. The tested value is the call's self. */
#include <math.h>

#include "template_internal.h"

static kvq_tpl_value test_defined(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.kind != KVQ_TPL_UNDEFINED);
}

static kvq_tpl_value test_undefined(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.kind == KVQ_TPL_UNDEFINED);
}

static kvq_tpl_value test_none(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.kind == KVQ_TPL_NONE);
}

static kvq_tpl_value test_boolean(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.kind == KVQ_TPL_BOOL);
}

static kvq_tpl_value test_true(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.kind == KVQ_TPL_BOOL && c->self.as.boolean);
}

static kvq_tpl_value test_false(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.kind == KVQ_TPL_BOOL && !c->self.as.boolean);
}

static kvq_tpl_value test_integer(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.kind == KVQ_TPL_INT);
}

static kvq_tpl_value test_float(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.kind == KVQ_TPL_FLOAT);
}

static kvq_tpl_value test_number(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(kvq_tpl_is_number(c->self));
}

static kvq_tpl_value test_string(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.kind == KVQ_TPL_STRING);
}

static kvq_tpl_value test_mapping(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.kind == KVQ_TPL_DICT);
}

static kvq_tpl_value test_sequence(kvq_tpl_run *r, kvq_tpl_call *c) {
    const kvq_tpl_kind_info *info = &kvq_tpl_kind_infos[c->self.kind];
    return (void)r, kvq_tpl_bool(info->has_length && info->indexed);
}

static kvq_tpl_value test_iterable(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(kvq_tpl_kind_infos[c->self.kind].iterable);
}

static kvq_tpl_value test_callable(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(kvq_tpl_is_callable(c->self));
}

static kvq_tpl_value test_escaped(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.kind == KVQ_TPL_STRING && c->self.flag);
}

static kvq_tpl_value test_sameas(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_bool(kvq_tpl_same(r, c->self, c->arg[0]));
}

static kvq_tpl_value test_in(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_bool(kvq_tpl_contains(r, c->arg[0], c->self));
}

static kvq_tpl_value test_filter(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.kind == KVQ_TPL_STRING && kvq_tpl_filter_find(c->self.as.text));
}

static kvq_tpl_value test_test(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.kind == KVQ_TPL_STRING && kvq_tpl_test_find(c->self.as.text));
}

static bool remainder_is(kvq_tpl_run *r, kvq_tpl_value v, int64_t divisor, int64_t remainder) {
    kvq_tpl_value mod = kvq_tpl_binary(r, KVQ_TPL_TOKEN_MOD, v, kvq_tpl_int(divisor));
    return kvq_tpl_equal(r, mod, kvq_tpl_int(remainder));
}

static kvq_tpl_value test_odd(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_bool(remainder_is(r, c->self, 2, 1));
}

static kvq_tpl_value test_even(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_bool(remainder_is(r, c->self, 2, 0));
}

static kvq_tpl_value test_divisibleby(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value mod = kvq_tpl_binary(r, KVQ_TPL_TOKEN_MOD, c->self, c->arg[0]);
    return kvq_tpl_bool(kvq_tpl_equal(r, mod, kvq_tpl_int(0)));
}

/* Python's islower and isupper: a cased character, and all of them of that case. */
static bool is_all(kvq_tpl_run *r, kvq_tpl_value v, bool (*is_case)(int32_t)) {
    const kvq_tpl_string *s = kvq_tpl_str(r, v).as.text;
    bool any = false;
    kvq_tpl_charge(r, s->n_bytes / 16);
    for (size_t at = 0; at < s->n_bytes; at += kvq_tpl_char_bytes(s->bytes + at)) {
        int32_t point = kvq_tpl_decode(s->bytes + at);
        if (!kvq_tpl_is_cased(point)) continue;
        if (!is_case(point)) return false;
        any = true;
    }
    return any;
}

static kvq_tpl_value test_lower(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_bool(is_all(r, c->self, kvq_tpl_is_lower));
}

static kvq_tpl_value test_upper(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_bool(is_all(r, c->self, kvq_tpl_is_upper));
}

static kvq_tpl_value test_eq(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_bool(kvq_tpl_equal(r, c->self, c->arg[0]));
}

static kvq_tpl_value test_ne(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_bool(!kvq_tpl_equal(r, c->self, c->arg[0]));
}

static kvq_tpl_value test_lt(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_bool(kvq_tpl_compare(r, KVQ_TPL_LT, c->self, c->arg[0]));
}

static kvq_tpl_value test_le(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_bool(kvq_tpl_compare(r, KVQ_TPL_LE, c->self, c->arg[0]));
}

static kvq_tpl_value test_gt(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_bool(kvq_tpl_compare(r, KVQ_TPL_GT, c->self, c->arg[0]));
}

static kvq_tpl_value test_ge(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_bool(kvq_tpl_compare(r, KVQ_TPL_GE, c->self, c->arg[0]));
}

/* clang-format off */
/*   name           call              required  parameters */
static const kvq_tpl_row tests[] = {
    {"defined",     test_defined,     0, "", false},
    {"undefined",   test_undefined,   0, "", false},
    {"none",        test_none,        0, "", false},
    {"boolean",     test_boolean,     0, "", false},
    {"true",        test_true,        0, "", false},
    {"false",       test_false,       0, "", false},
    {"integer",     test_integer,     0, "", false},
    {"float",       test_float,       0, "", false},
    {"number",      test_number,      0, "", false},
    {"string",      test_string,      0, "", false},
    {"mapping",     test_mapping,     0, "", false},
    {"sequence",    test_sequence,    0, "", false},
    {"iterable",    test_iterable,    0, "", false},
    {"callable",    test_callable,    0, "", false},
    {"escaped",     test_escaped,     0, "", false},
    {"sameas",      test_sameas,      1, "other", false},
    {"in",          test_in,          1, "seq", false},
    {"filter",      test_filter,      0, "", false},
    {"test",        test_test,        0, "", false},
    {"odd",         test_odd,         0, "", false},
    {"even",        test_even,        0, "", false},
    {"divisibleby", test_divisibleby, 1, "num", false},
    {"lower",       test_lower,       0, "", false},
    {"upper",       test_upper,       0, "", false},
    {"eq",          test_eq,          1, "-b", false},
    {"==",          test_eq,          1, "-b", false},
    {"equalto",     test_eq,          1, "-b", false},
    {"ne",          test_ne,          1, "-b", false},
    {"!=",          test_ne,          1, "-b", false},
    {"lt",          test_lt,          1, "-b", false},
    {"<",           test_lt,          1, "-b", false},
    {"lessthan",    test_lt,          1, "-b", false},
    {"le",          test_le,          1, "-b", false},
    {"<=",          test_le,          1, "-b", false},
    {"gt",          test_gt,          1, "-b", false},
    {">",           test_gt,          1, "-b", false},
    {"greaterthan", test_gt,          1, "-b", false},
    {"ge",          test_ge,          1, "-b", false},
    {">=",          test_ge,          1, "-b", false},
};
/* clang-format on */

const kvq_tpl_row *kvq_tpl_test_find(const kvq_tpl_string *name) {
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (kvq_tpl_string_is(name, tests[i].name)) return &tests[i];
    return NULL;
}
