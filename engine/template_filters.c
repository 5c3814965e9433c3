/* template_filters.c: THE table of filters ("x|trim"), Jinja2's, with tojson as transformers has it. The filtered value
 * is the call's self. Filters that give a generator in Python give an iterator here: read once, in step with its
 * reader. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "template_internal.h"

/* ---- arguments ------------------------------------------------------------------------------------------------- */

static bool given(const kvq_tpl_call *c, int i) {
    return c->arg[i].kind != KVQ_TPL_MISSING;
}

/* Given, and not none. */
static bool has(const kvq_tpl_call *c, int i) {
    return given(c, i) && c->arg[i].kind != KVQ_TPL_NONE;
}

static bool flag(kvq_tpl_run *r, const kvq_tpl_call *c, int i, bool unset) {
    return given(c, i) ? kvq_tpl_truth(r, c->arg[i]) : unset;
}

static int64_t integer(kvq_tpl_run *r, kvq_tpl_value v) {
    if (v.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, v);
    if (!kvq_tpl_is_integer(v)) kvq_tpl_fail(r, KVQ_BAD_FILE, "expected an integer, got '%s'", kvq_tpl_type_name(v));
    return kvq_tpl_as_int(v);
}

static const kvq_tpl_string *string(kvq_tpl_run *r, kvq_tpl_value v) {
    if (v.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, v);
    if (v.kind != KVQ_TPL_STRING) kvq_tpl_fail(r, KVQ_BAD_FILE, "expected a string, got '%s'", kvq_tpl_type_name(v));
    return v.as.text;
}

static kvq_tpl_value with_flag(kvq_tpl_value v, uint8_t flag_) {
    v.flag = flag_;
    return v;
}

/* ---- attribute paths: "name", "a.b.0", 3 ----------------------------------------------------------------------- */

typedef struct getter {
    kvq_tpl_list *parts;
    kvq_tpl_value unset; /* instead of Undefined; MISSING or NONE: Undefined it is */
    bool fold_case;      /* strings are compared in lower case */
} getter;

static void push_part(kvq_tpl_run *r, kvq_tpl_list *parts, const char *bytes, size_t n) {
    int64_t i;
    bool overflow, digits = n > 0;
    for (size_t at = 0; at < n; at++) digits = digits && bytes[at] >= '0' && bytes[at] <= '9';
    if (digits && kvq_tpl_parse_int(bytes, n, 10, &i, &overflow) && !overflow)
        kvq_tpl_list_push(r, parts, kvq_tpl_int(i));
    else
        kvq_tpl_list_push(r, parts, kvq_tpl_text(r, bytes, n));
}

static kvq_tpl_list *path_parts(kvq_tpl_run *r, const char *bytes, size_t n) {
    kvq_tpl_list *parts = kvq_tpl_list_new(r, 0);
    for (size_t from = 0, to; from <= n; from = to + 1) {
        for (to = from; to < n && bytes[to] != '.';) to++;
        push_part(r, parts, bytes + from, to - from);
    }
    return parts;
}

/* attribute MISSING or NONE: the item itself. */
static getter new_getter(kvq_tpl_run *r, kvq_tpl_value attribute, kvq_tpl_value unset, bool fold_case) {
    getter g = {kvq_tpl_list_new(r, 0), unset, fold_case};
    if (attribute.kind == KVQ_TPL_STRING)
        g.parts = path_parts(r, attribute.as.text->bytes, attribute.as.text->n_bytes);
    else if (attribute.kind != KVQ_TPL_MISSING && attribute.kind != KVQ_TPL_NONE)
        kvq_tpl_list_push(r, g.parts, attribute);
    return g;
}

static kvq_tpl_value get(kvq_tpl_run *r, const getter *g, kvq_tpl_value v) {
    bool has_unset = g->unset.kind != KVQ_TPL_MISSING && g->unset.kind != KVQ_TPL_NONE;
    for (size_t i = 0; i < g->parts->n; i++) {
        v = kvq_tpl_get_item(r, v, g->parts->items[i]);
        if (has_unset && v.kind == KVQ_TPL_UNDEFINED) v = g->unset;
    }
    return g->fold_case && v.kind == KVQ_TPL_STRING ? kvq_tpl_change_case(r, KVQ_TPL_LOWER, v.as.text) : v;
}

/* ---- strings --------------------------------------------------------------------------------------------------- */

static kvq_tpl_value filter_upper(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value s = kvq_tpl_soft_str(r, c->self);
    return with_flag(kvq_tpl_change_case(r, KVQ_TPL_UPPER, s.as.text), s.flag);
}

static kvq_tpl_value filter_lower(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value s = kvq_tpl_soft_str(r, c->self);
    return with_flag(kvq_tpl_change_case(r, KVQ_TPL_LOWER, s.as.text), s.flag);
}

static kvq_tpl_value call_method(kvq_tpl_run *r, const char *name, kvq_tpl_value self, const kvq_tpl_value *arg,
                                 size_t n) {
    const kvq_tpl_row *row = kvq_tpl_method_find(KVQ_TPL_STRING, kvq_tpl_literal(r, name).as.text);
    kvq_tpl_args args = {.items = (kvq_tpl_value *)arg, .n = n};
    return kvq_tpl_call_row(r, "method", row, self, &args);
}

static kvq_tpl_value filter_capitalize(kvq_tpl_run *r, kvq_tpl_call *c) {
    return call_method(r, "capitalize", kvq_tpl_soft_str(r, c->self), NULL, 0);
}

static kvq_tpl_value filter_center(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value width = given(c, 0) ? c->arg[0] : kvq_tpl_int(80);
    return call_method(r, "center", kvq_tpl_soft_str(r, c->self), &width, 1);
}

static kvq_tpl_value filter_trim(kvq_tpl_run *r, kvq_tpl_call *c) {
    return call_method(r, "strip", kvq_tpl_soft_str(r, c->self), c->arg, given(c, 0));
}

static bool ends_word(int32_t c) {
    return kvq_tpl_is_space(c) || (c < 128 && strchr("-({[<", c));
}

/* A word begins after white space or one of -({[<; not Python's title. */
static kvq_tpl_value filter_title(kvq_tpl_run *r, kvq_tpl_call *c) {
    const kvq_tpl_string *s = kvq_tpl_soft_str(r, c->self).as.text;
    size_t mark = r->n_out, n;
    for (size_t at = 0; at < s->n_bytes; at += n) {
        n = kvq_tpl_char_bytes(s->bytes + at);
        kvq_tpl_charge(r, 1);
        kvq_tpl_put_case(r, KVQ_TPL_UPPER, s, at);
        if (ends_word(kvq_tpl_decode(s->bytes + at))) continue;
        size_t end = at + n;
        while (end < s->n_bytes && !ends_word(kvq_tpl_decode(s->bytes + end)))
            end += kvq_tpl_char_bytes(s->bytes + end);
        kvq_tpl_value rest = kvq_tpl_text(r, s->bytes + at + n, end - at - n);
        for (size_t i = 0; i < end - at - n; i += kvq_tpl_char_bytes(rest.as.text->bytes + i))
            kvq_tpl_put_case(r, KVQ_TPL_LOWER, rest.as.text, i);
        n = end - at;
    }
    return kvq_tpl_take(r, mark);
}

static kvq_tpl_value filter_replace(kvq_tpl_run *r, kvq_tpl_call *c) {
    int64_t count = has(c, 2) ? integer(r, c->arg[2]) : -1;
    return kvq_tpl_replace(r, kvq_tpl_str(r, c->self).as.text, kvq_tpl_str(r, c->arg[0]).as.text,
                           kvq_tpl_str(r, c->arg[1]).as.text, count);
}

static kvq_tpl_value filter_string(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_soft_str(r, c->self);
}

static kvq_tpl_value filter_safe(kvq_tpl_run *r, kvq_tpl_call *c) {
    return with_flag(kvq_tpl_soft_str(r, c->self), KVQ_TPL_MARKUP);
}

static kvq_tpl_value filter_escape(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value s = kvq_tpl_soft_str(r, c->self);
    return s.flag ? s : kvq_tpl_escape(r, s.as.text);
}

static kvq_tpl_value filter_forceescape(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_escape(r, kvq_tpl_soft_str(r, c->self).as.text);
}

static kvq_tpl_value filter_indent(kvq_tpl_run *r, kvq_tpl_call *c) {
    const kvq_tpl_string *s = string(r, c->self);
    static const kvq_tpl_string space = {" ", 1, 1};
    bool first = flag(r, c, 1, false), blank = flag(r, c, 2, false);
    const kvq_tpl_string *width = given(c, 0) && c->arg[0].kind == KVQ_TPL_STRING ? c->arg[0].as.text : &space;
    int64_t times = width != &space ? 1 : given(c, 0) ? integer(r, c->arg[0]) : 4;
    size_t mark = r->n_out;
    kvq_tpl_put(r, s->bytes, s->n_bytes);
    kvq_tpl_put_char(r, '\n');
    kvq_tpl_list *lines = kvq_tpl_split_lines(r, kvq_tpl_take(r, mark).as.text, false);
    for (size_t i = 0; i < lines->n; i++) {
        if (i) kvq_tpl_put_char(r, '\n');
        if (i ? blank || lines->items[i].as.text->n_bytes : first) kvq_tpl_put_fill(r, width, times);
        kvq_tpl_put_str(r, lines->items[i]);
    }
    return with_flag(kvq_tpl_take(r, mark), c->self.flag);
}

static kvq_tpl_value filter_truncate(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value end = given(c, 2) ? c->arg[2] : kvq_tpl_literal(r, "...");
    int64_t length = given(c, 0) ? integer(r, c->arg[0]) : 255, leeway = has(c, 3) ? integer(r, c->arg[3]) : 5;
    int64_t n_end = (int64_t)string(r, end)->n_chars;
    if (length < n_end || leeway < 0) kvq_tpl_fail(r, KVQ_BAD_FILE, "truncate: the length is shorter than the ending");
    if (kvq_tpl_length(r, c->self) - length <= leeway) return c->self;
    const kvq_tpl_string *s = string(r, c->self);
    kvq_tpl_value head = kvq_tpl_text(r, s->bytes, kvq_tpl_char_offset(r, s, (size_t)(length - n_end)));
    if (!flag(r, c, 1, false)) {
        static const kvq_tpl_string space = {" ", 1, 1};
        size_t cut = kvq_tpl_find_last(r, head.as.text, &space, 0, head.as.text->n_bytes);
        if (cut != SIZE_MAX) head = kvq_tpl_text(r, s->bytes, cut);
    }
    return kvq_tpl_binary(r, KVQ_TPL_TOKEN_ADD, with_flag(head, c->self.flag), end);
}

static kvq_tpl_value filter_wordcount(kvq_tpl_run *r, kvq_tpl_call *c) {
    const kvq_tpl_string *s = kvq_tpl_soft_str(r, c->self).as.text;
    int64_t n = 0;
    bool inside = false;
    kvq_tpl_charge(r, s->n_bytes / 4);
    for (size_t at = 0; at < s->n_bytes; at += kvq_tpl_char_bytes(s->bytes + at)) {
        bool word = kvq_tpl_is_word(kvq_tpl_decode(s->bytes + at));
        n += word && !inside;
        inside = word;
    }
    return kvq_tpl_int(n);
}

static kvq_tpl_value filter_format(kvq_tpl_run *r, kvq_tpl_call *c) {
    const kvq_tpl_args *a = c->args;
    if (a->n && a->n_names) kvq_tpl_fail(r, KVQ_BAD_FILE, "format: positional and keyword arguments at once");
    kvq_tpl_list *items = kvq_tpl_list_new(r, a->n);
    kvq_tpl_dict *names = kvq_tpl_dict_new(r);
    for (size_t i = 0; i < a->n; i++) kvq_tpl_list_push(r, items, a->items[i]);
    for (size_t i = 0; i < a->n_names; i++) kvq_tpl_dict_set(r, names, kvq_tpl_string_value(a->names[i]), a->values[i]);
    return kvq_tpl_percent(r, kvq_tpl_soft_str(r, c->self),
                           a->n_names ? kvq_tpl_dict_value(names) : kvq_tpl_tuple_value(items));
}

static void put_quoted(kvq_tpl_run *r, kvq_tpl_value v, bool query) {
    static const char hex[] = "0123456789ABCDEF";
    const kvq_tpl_string *s = kvq_tpl_soft_str(r, v).as.text;
    kvq_tpl_charge(r, s->n_bytes / 8);
    for (size_t i = 0; i < s->n_bytes; i++) {
        unsigned char b = (unsigned char)s->bytes[i];
        bool plain = (b < 128 && kvq_tpl_is_word(b)) || (b && strchr(".-~", b)) || (b == '/' && !query);
        if (plain) {
            kvq_tpl_put_char(r, (char)b);
        } else if (b == ' ' && query) {
            kvq_tpl_put_char(r, '+');
        } else {
            kvq_tpl_put(r, (char[]){'%', hex[b >> 4], hex[b & 15]}, 3);
        }
    }
}

static kvq_tpl_value filter_urlencode(kvq_tpl_run *r, kvq_tpl_call *c) {
    size_t mark = r->n_out;
    if (c->self.kind == KVQ_TPL_STRING || !kvq_tpl_kind_infos[c->self.kind].iterable) {
        put_quoted(r, c->self, false);
        return kvq_tpl_take(r, mark);
    }
    kvq_tpl_value items = c->self, item;
    if (items.kind == KVQ_TPL_DICT) items = (kvq_tpl_value){.kind = KVQ_TPL_VIEW, .as.dict = items.as.dict}; /* items */
    for (kvq_tpl_iterator *it = kvq_tpl_iterate(r, items); kvq_tpl_next(r, it, &item);) {
        kvq_tpl_list *pair = kvq_tpl_collect(r, item);
        if (pair->n != 2) kvq_tpl_fail(r, KVQ_BAD_FILE, "urlencode needs pairs; got %zu items", pair->n);
        if (r->n_out > mark) kvq_tpl_put_char(r, '&');
        put_quoted(r, pair->items[0], true);
        kvq_tpl_put_char(r, '=');
        put_quoted(r, pair->items[1], true);
    }
    return kvq_tpl_take(r, mark);
}

static kvq_tpl_value filter_xmlattr(kvq_tpl_run *r, kvq_tpl_call *c) {
    size_t mark = r->n_out;
    if (c->self.kind != KVQ_TPL_DICT) kvq_tpl_fail(r, KVQ_BAD_FILE, "xmlattr needs a mapping");
    const kvq_tpl_dict *d = c->self.as.dict;
    for (size_t i = 0; i < d->n; i++) {
        kvq_tpl_value v = d->entries[i].value;
        if (v.kind == KVQ_TPL_NONE || v.kind == KVQ_TPL_UNDEFINED) continue;
        const kvq_tpl_string *key = string(r, d->entries[i].key);
        for (size_t at = 0; at < key->n_bytes; at++)
            if (strchr(" \t\n\r\f\v/>=", key->bytes[at]))
                kvq_tpl_fail(r, KVQ_BAD_FILE, "xmlattr: a bad attribute name");
        if (r->n_out > mark || flag(r, c, 0, true)) kvq_tpl_put_char(r, ' ');
        kvq_tpl_put_str(r, kvq_tpl_escape(r, key));
        kvq_tpl_put_text(r, "=\"");
        kvq_tpl_value text = kvq_tpl_soft_str(r, v);
        kvq_tpl_put_str(r, text.flag ? text : kvq_tpl_escape(r, text.as.text));
        kvq_tpl_put_char(r, '"');
    }
    return kvq_tpl_take(r, mark);
}

/* ---- JSON ------------------------------------------------------------------------------------------------------ */

static kvq_tpl_value filter_tojson(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_json_options o = {.ensure_ascii = flag(r, c, 0, false), .sort_keys = flag(r, c, 3, false)};
    o.item_separator = kvq_tpl_literal(r, has(c, 1) ? "," : ", ").as.text;
    o.key_separator = kvq_tpl_literal(r, ": ").as.text;
    if (has(c, 1) && c->arg[1].kind != KVQ_TPL_STRING)
        c->arg[1] = kvq_tpl_binary(r, KVQ_TPL_TOKEN_MUL, kvq_tpl_literal(r, " "), c->arg[1]);
    if (has(c, 1)) o.indent = c->arg[1].as.text;
    if (has(c, 2)) {
        kvq_tpl_list *pair = kvq_tpl_collect(r, c->arg[2]);
        if (pair->n != 2) kvq_tpl_fail(r, KVQ_BAD_FILE, "tojson: separators must be two strings");
        o.item_separator = string(r, pair->items[0]);
        o.key_separator = string(r, pair->items[1]);
    }
    size_t mark = r->n_out;
    kvq_tpl_put_json(r, c->self, &o);
    return kvq_tpl_take(r, mark);
}

/* ---- numbers --------------------------------------------------------------------------------------------------- */

static kvq_tpl_value filter_abs(kvq_tpl_run *r, kvq_tpl_call *c) {
    if (c->self.kind == KVQ_TPL_FLOAT) return kvq_tpl_real(fabs(c->self.as.real));
    int64_t i = integer(r, c->self);
    return i < 0 ? kvq_tpl_negate(r, kvq_tpl_int(i)) : kvq_tpl_int(i);
}

static kvq_tpl_value truncated(kvq_tpl_run *r, double d) {
    if (!(d > -9223372036854775808.0 && d < 9223372036854775808.0))
        kvq_tpl_fail(r, KVQ_UNSUPPORTED, "a float is too large for an integer of 64 bits");
    return kvq_tpl_int((int64_t)d);
}

static kvq_tpl_value filter_int(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value unset = given(c, 0) ? c->arg[0] : kvq_tpl_int(0), v = c->self;
    int64_t base = given(c, 1) ? integer(r, c->arg[1]) : 10, i;
    double d;
    bool overflow;
    if (v.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, v);
    if (kvq_tpl_is_integer(v)) return kvq_tpl_int(kvq_tpl_as_int(v));
    if (v.kind == KVQ_TPL_FLOAT) return isnan(v.as.real) ? unset : truncated(r, v.as.real);
    if (v.kind != KVQ_TPL_STRING) return unset;
    if ((base == 0 || (base >= 2 && base <= 36)) &&
        kvq_tpl_parse_int(v.as.text->bytes, v.as.text->n_bytes, (int)base, &i, &overflow)) {
        if (overflow) kvq_tpl_fail(r, KVQ_UNSUPPORTED, "an integer is too large for 64 bits");
        return kvq_tpl_int(i);
    }
    if (!kvq_tpl_parse_real(v.as.text->bytes, v.as.text->n_bytes, &d) || isnan(d) || isinf(d)) return unset;
    return truncated(r, d);
}

static kvq_tpl_value filter_float(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value unset = given(c, 0) ? c->arg[0] : kvq_tpl_real(0), v = c->self;
    double d;
    if (v.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, v);
    if (kvq_tpl_is_number(v)) return kvq_tpl_real(kvq_tpl_as_real(v));
    if (v.kind != KVQ_TPL_STRING || !kvq_tpl_parse_real(v.as.text->bytes, v.as.text->n_bytes, &d)) return unset;
    return kvq_tpl_real(d);
}

/* Python's round(float, digits): the decimal nearest to the exact value, ties to even. */
static double round_real(kvq_tpl_run *r, double d, int64_t digits) {
    double power, back;
    if (isnan(d) || isinf(d) || digits > 22) return d;
    if (digits < -308) return copysign(0, d);
    if (digits < 0) {
        power = pow(10, (double)-digits);
        return nearbyint(d / power) * power;
    }
    size_t mark = r->n_out;
    kvq_tpl_put_fixed(r, 'f', (int)digits, d);
    bool read = kvq_tpl_parse_real(r->out + mark, r->n_out - mark, &back);
    r->n_out = mark;
    return read ? back : d;
}

/* Python's round(int, -digits): to a multiple of a power of ten, ties to the even multiple. */
static int64_t round_int(int64_t i, int64_t digits) {
    int64_t power = 1;
    if (digits < -18) return 0;
    for (; digits < 0; digits++) power *= 10;
    int64_t quotient = i / power, rest = llabs(i % power);
    bool up = rest > power - rest || (rest == power - rest && quotient % 2 != 0);
    return (quotient + (up ? (i < 0 ? -1 : 1) : 0)) * power;
}

static kvq_tpl_value filter_round(kvq_tpl_run *r, kvq_tpl_call *c) {
    int64_t digits = given(c, 0) ? integer(r, c->arg[0]) : 0;
    const kvq_tpl_string *method = given(c, 1) ? string(r, c->arg[1]) : kvq_tpl_literal(r, "common").as.text;
    bool ceiling = kvq_tpl_string_is(method, "ceil");
    if (c->self.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, c->self);
    if (!kvq_tpl_is_number(c->self)) kvq_tpl_fail(r, KVQ_BAD_FILE, "round needs a number");
    if (kvq_tpl_string_is(method, "common")) {
        if (c->self.kind == KVQ_TPL_FLOAT) return kvq_tpl_real(round_real(r, c->self.as.real, digits));
        int64_t i = kvq_tpl_as_int(c->self);
        return kvq_tpl_int(digits >= 0 ? i : round_int(i, digits));
    }
    if (!ceiling && !kvq_tpl_string_is(method, "floor"))
        kvq_tpl_fail(r, KVQ_BAD_FILE, "round: the method must be common, ceil or floor");
    kvq_tpl_value power = kvq_tpl_binary(r, KVQ_TPL_TOKEN_POW, kvq_tpl_int(10), kvq_tpl_int(digits));
    double scaled = kvq_tpl_as_real(kvq_tpl_binary(r, KVQ_TPL_TOKEN_MUL, c->self, power));
    kvq_tpl_value whole = truncated(r, ceiling ? ceil(scaled) : floor(scaled));
    return kvq_tpl_binary(r, KVQ_TPL_TOKEN_DIV, whole, power);
}

static kvq_tpl_value filter_filesizeformat(kvq_tpl_run *r, kvq_tpl_call *c) {
    static const char prefixes[] = "kMGTPEZY";
    bool binary = flag(r, c, 0, false);
    double base = binary ? 1024 : 1000, unit, bytes;
    size_t mark = r->n_out;
    int i = 0;
    const kvq_tpl_string *text = kvq_tpl_is_number(c->self) ? NULL : string(r, c->self);
    if (!text)
        bytes = kvq_tpl_as_real(c->self);
    else if (!kvq_tpl_parse_real(text->bytes, text->n_bytes, &bytes))
        kvq_tpl_fail(r, KVQ_BAD_FILE, "filesizeformat needs a number");
    if (bytes == 1) return kvq_tpl_literal(r, "1 Byte");
    if (bytes < base) {
        kvq_tpl_put_int(r, truncated(r, bytes).as.integer);
        kvq_tpl_put_text(r, " Bytes");
        return kvq_tpl_take(r, mark);
    }
    for (unit = base * base; i < 7 && !(bytes < unit); i++) unit *= base;
    kvq_tpl_put_fixed(r, 'f', 1, base * bytes / unit);
    kvq_tpl_put_char(r, ' ');
    kvq_tpl_put_char(r, binary && i == 0 ? 'K' : prefixes[i]);
    kvq_tpl_put_text(r, binary ? "iB" : "B");
    return kvq_tpl_take(r, mark);
}

/* ---- any value ------------------------------------------------------------------------------------------------- */

static kvq_tpl_value filter_default(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value unset = given(c, 0) ? c->arg[0] : kvq_tpl_empty;
    if (c->self.kind == KVQ_TPL_UNDEFINED) return unset;
    return flag(r, c, 1, false) && !kvq_tpl_truth(r, c->self) ? unset : c->self;
}

static kvq_tpl_value filter_attr(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value v;
    const kvq_tpl_string *name = string(r, c->arg[0]);
    if (kvq_tpl_attribute(r, c->self, name, &v)) return v;
    return kvq_tpl_undefined(KVQ_TPL_BY_ATTRIBUTE, (kvq_tpl_kind)c->self.kind, name);
}

static kvq_tpl_value filter_length(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_int(kvq_tpl_length(r, c->self));
}

/* ---- sequences ------------------------------------------------------------------------------------------------- */

static kvq_tpl_value list_iterator(kvq_tpl_run *r, kvq_tpl_list *l) {
    return kvq_tpl_iterator_value(kvq_tpl_iterate(r, kvq_tpl_list_value(l)));
}

/* A generator over v: v is not looked at before the first item is wanted, so that what is wrong with it shows only
 * then. */
static kvq_tpl_value generate(kvq_tpl_run *r, bool (*next)(kvq_tpl_run *, kvq_tpl_iterator *, kvq_tpl_value *),
                              void *state, kvq_tpl_value v) {
    kvq_tpl_iterator *it = kvq_tpl_iterator_new(r, next, state, NULL);
    it->source = v;
    return kvq_tpl_iterator_value(it);
}

static kvq_tpl_iterator *inner(kvq_tpl_run *r, kvq_tpl_iterator *it) {
    if (!it->inner) it->inner = kvq_tpl_iterate(r, it->source);
    return it->inner;
}

static kvq_tpl_value filter_list(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_list_value(kvq_tpl_collect(r, c->self));
}

static kvq_tpl_value filter_items(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value view = {.kind = KVQ_TPL_VIEW, .flag = KVQ_TPL_ITEMS, .as.dict = c->self.as.dict};
    if (c->self.kind == KVQ_TPL_UNDEFINED) return list_iterator(r, kvq_tpl_list_new(r, 0));
    if (c->self.kind != KVQ_TPL_DICT) kvq_tpl_fail(r, KVQ_BAD_FILE, "items needs a mapping");
    return kvq_tpl_iterator_value(kvq_tpl_iterate(r, view));
}

static kvq_tpl_value filter_join(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value separator = given(c, 0) ? kvq_tpl_str(r, c->arg[0]) : kvq_tpl_empty, item;
    getter g = new_getter(r, c->arg[1], kvq_tpl_missing, false);
    kvq_tpl_list *texts = kvq_tpl_list_new(r, 0);
    for (kvq_tpl_iterator *it = kvq_tpl_iterate(r, c->self); kvq_tpl_next(r, it, &item);)
        kvq_tpl_list_push(r, texts, kvq_tpl_str(r, get(r, &g, item)));
    size_t mark = r->n_out;
    for (size_t i = 0; i < texts->n; i++) {
        if (i) kvq_tpl_put_str(r, separator);
        kvq_tpl_put_str(r, texts->items[i]);
    }
    return kvq_tpl_take(r, mark);
}

static kvq_tpl_value filter_first(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value item;
    if (kvq_tpl_next(r, kvq_tpl_iterate(r, c->self), &item)) return item;
    return kvq_tpl_undefined_hint(r, "No first item, sequence was empty.");
}

/* Python's reversed(): what has a length can be read from its end. NULL if it has none. */
static kvq_tpl_list *reversed(kvq_tpl_run *r, kvq_tpl_value v) {
    if (!kvq_tpl_kind_infos[v.kind].has_length || v.kind == KVQ_TPL_LOOP) return NULL;
    kvq_tpl_list *forwards = kvq_tpl_collect(r, v), *backwards = kvq_tpl_list_new(r, forwards->n);
    for (size_t i = forwards->n; i > 0; i--) kvq_tpl_list_push(r, backwards, forwards->items[i - 1]);
    return backwards;
}

static kvq_tpl_value filter_last(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_list *l = reversed(r, c->self);
    if (!l) kvq_tpl_fail(r, KVQ_BAD_FILE, "'%s' object is not reversible", kvq_tpl_type_name(c->self));
    return l->n ? l->items[0] : kvq_tpl_undefined_hint(r, "No last item, sequence was empty.");
}

static kvq_tpl_value filter_reverse(kvq_tpl_run *r, kvq_tpl_call *c) {
    if (c->self.kind == KVQ_TPL_STRING) return kvq_tpl_slice(r, c->self, kvq_tpl_none, kvq_tpl_none, kvq_tpl_int(-1));
    kvq_tpl_list *l = reversed(r, c->self);
    if (l) return list_iterator(r, l);
    return kvq_tpl_list_value(reversed(r, kvq_tpl_list_value(kvq_tpl_collect(r, c->self))));
}

static kvq_tpl_value filter_sum(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value sum = given(c, 1) ? c->arg[1] : kvq_tpl_int(0), item;
    getter g = new_getter(r, c->arg[0], kvq_tpl_missing, false);
    if (sum.kind == KVQ_TPL_STRING) kvq_tpl_fail(r, KVQ_BAD_FILE, "sum cannot add strings");
    for (kvq_tpl_iterator *it = kvq_tpl_iterate(r, c->self); kvq_tpl_next(r, it, &item);)
        sum = kvq_tpl_binary(r, KVQ_TPL_TOKEN_ADD, sum, get(r, &g, item));
    return sum;
}

static kvq_tpl_value extreme(kvq_tpl_run *r, kvq_tpl_call *c, kvq_tpl_order order) {
    getter g = new_getter(r, c->arg[1], kvq_tpl_missing, !flag(r, c, 0, false));
    kvq_tpl_iterator *it = kvq_tpl_iterate(r, c->self);
    kvq_tpl_value best, item;
    if (!kvq_tpl_next(r, it, &best)) return kvq_tpl_undefined_hint(r, "No aggregated item, sequence was empty.");
    kvq_tpl_value best_key = get(r, &g, best);
    while (kvq_tpl_next(r, it, &item)) {
        kvq_tpl_value key = get(r, &g, item);
        if (!kvq_tpl_compare(r, order, key, best_key)) continue;
        best = item;
        best_key = key;
    }
    return best;
}

static kvq_tpl_value filter_min(kvq_tpl_run *r, kvq_tpl_call *c) {
    return extreme(r, c, KVQ_TPL_LT);
}

static kvq_tpl_value filter_max(kvq_tpl_run *r, kvq_tpl_call *c) {
    return extreme(r, c, KVQ_TPL_GT);
}

typedef struct unique_state {
    getter g;
    kvq_tpl_dict *seen;
} unique_state;

static bool next_unique(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret) {
    unique_state *s = it->state;
    while (kvq_tpl_next(r, inner(r, it), ret)) {
        kvq_tpl_value key = get(r, &s->g, *ret);
        size_t n_before = s->seen->n;
        kvq_tpl_dict_set(r, s->seen, key, kvq_tpl_none);
        if (s->seen->n > n_before) return true;
    }
    return false;
}

static kvq_tpl_value filter_unique(kvq_tpl_run *r, kvq_tpl_call *c) {
    unique_state *s = kvq_tpl_alloc(r, sizeof *s);
    s->g = new_getter(r, c->arg[1], kvq_tpl_missing, !flag(r, c, 0, false));
    s->seen = kvq_tpl_dict_new(r);
    return generate(r, next_unique, s, c->self);
}

typedef struct batch_state {
    kvq_tpl_value size, fill, pending; /* pending: read already, of the next batch */
} batch_state;

static bool next_batch(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret) {
    batch_state *s = it->state;
    kvq_tpl_list *batch = kvq_tpl_list_new(r, 0);
    kvq_tpl_value item;
    if (s->pending.kind != KVQ_TPL_MISSING) kvq_tpl_list_push(r, batch, s->pending);
    s->pending = kvq_tpl_missing;
    *ret = kvq_tpl_list_value(batch);
    while (kvq_tpl_next(r, inner(r, it), &item)) {
        if (kvq_tpl_equal(r, kvq_tpl_int((int64_t)batch->n), s->size)) {
            s->pending = item;
            return true;
        }
        kvq_tpl_list_push(r, batch, item);
    }
    if (batch->n == 0) return false;
    bool fill = s->fill.kind != KVQ_TPL_MISSING && s->fill.kind != KVQ_TPL_NONE;
    while (fill && kvq_tpl_compare(r, KVQ_TPL_LT, kvq_tpl_int((int64_t)batch->n), s->size))
        kvq_tpl_list_push(r, batch, s->fill);
    return true;
}

static kvq_tpl_value filter_batch(kvq_tpl_run *r, kvq_tpl_call *c) {
    batch_state *s = kvq_tpl_alloc(r, sizeof *s);
    s->size = c->arg[0];
    s->fill = c->arg[1];
    return generate(r, next_batch, s, c->self);
}

static kvq_tpl_value filter_slice(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_list *all = kvq_tpl_collect(r, c->self), *slices = kvq_tpl_list_new(r, 0);
    int64_t n_slices = integer(r, c->arg[0]), n = (int64_t)all->n, at = 0;
    if (n_slices == 0) kvq_tpl_fail(r, KVQ_BAD_FILE, "division by zero");
    for (int64_t i = 0; i < n_slices; i++) {
        kvq_tpl_list *slice = kvq_tpl_list_new(r, 0);
        bool extra = i < n % n_slices;
        kvq_tpl_charge(r, 1);
        for (int64_t j = 0; j < n / n_slices + extra; j++) kvq_tpl_list_push(r, slice, all->items[at++]);
        if (has(c, 1) && !extra) kvq_tpl_list_push(r, slice, c->arg[1]);
        kvq_tpl_list_push(r, slices, kvq_tpl_list_value(slice));
    }
    return list_iterator(r, slices);
}

/* ---- map, select, reject --------------------------------------------------------------------------------------- */

typedef struct map_state {
    bool by_attribute;
    getter g;
    kvq_tpl_value name; /* of the filter or test; MISSING: truth */
    kvq_tpl_args args;
    bool wanted; /* what the test must say */
} map_state;

static bool next_mapped(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret) {
    const map_state *s = it->state;
    kvq_tpl_value item;
    if (!kvq_tpl_next(r, inner(r, it), &item)) return false;
    *ret = s->by_attribute ? get(r, &s->g, item) : kvq_tpl_call_filter(r, s->name, item, &s->args);
    return true;
}

/* The arguments from the i-th on. */
static kvq_tpl_args rest_of(const kvq_tpl_args *args, size_t i) {
    kvq_tpl_args rest = *args;
    rest.items += i;
    rest.n -= i;
    return rest;
}

static kvq_tpl_value named(const kvq_tpl_args *args, const char *name) {
    for (size_t i = 0; i < args->n_names; i++)
        if (kvq_tpl_string_is(args->names[i], name)) return args->values[i];
    return kvq_tpl_missing;
}

static kvq_tpl_value filter_map(kvq_tpl_run *r, kvq_tpl_call *c) {
    map_state *s = kvq_tpl_alloc(r, sizeof *s);
    kvq_tpl_value attribute = named(c->args, "attribute"), unset = named(c->args, "default");
    if (!kvq_tpl_truth(r, c->self)) return list_iterator(r, kvq_tpl_list_new(r, 0));
    if (c->args->n == 0 && attribute.kind != KVQ_TPL_MISSING) {
        if (c->args->n_names > 1u + (unset.kind != KVQ_TPL_MISSING))
            kvq_tpl_fail(r, KVQ_BAD_FILE, "map: unexpected keyword argument");
        s->by_attribute = true;
        s->g = new_getter(r, attribute, unset, false);
    } else {
        if (c->args->n == 0) kvq_tpl_fail(r, KVQ_BAD_FILE, "map needs a filter's name or an attribute");
        s->name = c->args->items[0];
        s->args = rest_of(c->args, 1);
    }
    return generate(r, next_mapped, s, c->self);
}

static bool next_selected(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret) {
    const map_state *s = it->state;
    while (kvq_tpl_next(r, inner(r, it), ret)) {
        kvq_tpl_value v = get(r, &s->g, *ret);
        bool yes = s->name.kind == KVQ_TPL_MISSING ? kvq_tpl_truth(r, v) : kvq_tpl_call_test(r, s->name, v, &s->args);
        if (yes == s->wanted) return true;
    }
    return false;
}

static kvq_tpl_value select_items(kvq_tpl_run *r, kvq_tpl_call *c, bool by_attribute, bool wanted) {
    map_state *s = kvq_tpl_alloc(r, sizeof *s);
    size_t at = by_attribute;
    if (!kvq_tpl_truth(r, c->self)) return list_iterator(r, kvq_tpl_list_new(r, 0));
    if (c->args->n < at) kvq_tpl_fail(r, KVQ_BAD_FILE, "the attribute's name is missing");
    s->g = new_getter(r, by_attribute ? c->args->items[0] : kvq_tpl_none, kvq_tpl_missing, false);
    s->wanted = wanted;
    if (c->args->n > at) {
        s->name = c->args->items[at];
        s->args = rest_of(c->args, at + 1);
    }
    return generate(r, next_selected, s, c->self);
}

static kvq_tpl_value filter_select(kvq_tpl_run *r, kvq_tpl_call *c) {
    return select_items(r, c, false, true);
}
static kvq_tpl_value filter_reject(kvq_tpl_run *r, kvq_tpl_call *c) {
    return select_items(r, c, false, false);
}
static kvq_tpl_value filter_selectattr(kvq_tpl_run *r, kvq_tpl_call *c) {
    return select_items(r, c, true, true);
}
static kvq_tpl_value filter_rejectattr(kvq_tpl_run *r, kvq_tpl_call *c) {
    return select_items(r, c, true, false);
}

/* ---- sorting: a merge sort, stable both ways as Python's ------------------------------------------------------- */

typedef struct sort_item {
    kvq_tpl_value key, value;
} sort_item;

static void sort_items(kvq_tpl_run *r, sort_item *items, sort_item *spare, size_t n, bool reverse) {
    if (n < 2) return;
    size_t half = n / 2, left = 0, right = half;
    kvq_tpl_enter(r);
    sort_items(r, items, spare, half, reverse);
    sort_items(r, items + half, spare, n - half, reverse);
    kvq_tpl_leave(r);
    for (size_t i = 0; i < n; i++) {
        bool take_right = left == half;
        if (!take_right && right < n)
            take_right =
                kvq_tpl_compare(r, KVQ_TPL_LT, items[reverse ? left : right].key, items[reverse ? right : left].key);
        spare[i] = items[take_right ? right++ : left++];
    }
    memcpy(items, spare, n * sizeof *items);
}

/* The values in order of their keys; items is changed. */
static kvq_tpl_list *sorted(kvq_tpl_run *r, sort_item *items, size_t n, bool reverse) {
    kvq_tpl_list *l = kvq_tpl_list_new(r, n);
    sort_items(r, items, kvq_tpl_alloc_array(r, n, sizeof *items), n, reverse);
    for (size_t i = 0; i < n; i++) kvq_tpl_list_push(r, l, items[i].value);
    return l;
}

/* Keys of sort are lists, one item for each of the attributes "a,b". */
static kvq_tpl_value multi_key(kvq_tpl_run *r, kvq_tpl_value attribute, bool fold_case, kvq_tpl_value v) {
    kvq_tpl_list *key = kvq_tpl_list_new(r, 1);
    if (attribute.kind != KVQ_TPL_STRING) {
        getter g = new_getter(r, attribute, kvq_tpl_missing, fold_case);
        kvq_tpl_list_push(r, key, get(r, &g, v));
        return kvq_tpl_list_value(key);
    }
    const kvq_tpl_string *s = attribute.as.text;
    for (size_t from = 0, to; from <= s->n_bytes; from = to + 1) {
        for (to = from; to < s->n_bytes && s->bytes[to] != ',';) to++;
        getter g = {path_parts(r, s->bytes + from, to - from), kvq_tpl_missing, fold_case};
        kvq_tpl_list_push(r, key, get(r, &g, v));
    }
    return kvq_tpl_list_value(key);
}

static kvq_tpl_value filter_sort(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_list *l = kvq_tpl_collect(r, c->self);
    sort_item *items = kvq_tpl_alloc_array(r, l->n, sizeof *items);
    bool fold_case = !flag(r, c, 1, false);
    for (size_t i = 0; i < l->n; i++)
        items[i] = (sort_item){multi_key(r, c->arg[2], fold_case, l->items[i]), l->items[i]};
    return kvq_tpl_list_value(sorted(r, items, l->n, flag(r, c, 0, false)));
}

static kvq_tpl_value filter_dictsort(kvq_tpl_run *r, kvq_tpl_call *c) {
    const kvq_tpl_string *by = given(c, 1) ? string(r, c->arg[1]) : kvq_tpl_literal(r, "key").as.text;
    bool by_value = kvq_tpl_string_is(by, "value");
    if (!by_value && !kvq_tpl_string_is(by, "key")) kvq_tpl_fail(r, KVQ_BAD_FILE, "dictsort: by must be key or value");
    if (c->self.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, c->self);
    if (c->self.kind != KVQ_TPL_DICT) kvq_tpl_fail(r, KVQ_BAD_FILE, "dictsort needs a mapping");
    const kvq_tpl_dict *d = c->self.as.dict;
    getter g = new_getter(r, kvq_tpl_none, kvq_tpl_missing, !flag(r, c, 0, false));
    sort_item *items = kvq_tpl_alloc_array(r, d->n, sizeof *items);
    for (size_t i = 0; i < d->n; i++) {
        const kvq_tpl_entry *e = &d->entries[i];
        items[i] = (sort_item){get(r, &g, by_value ? e->value : e->key), kvq_tpl_pair(r, e->key, e->value)};
    }
    return kvq_tpl_list_value(sorted(r, items, d->n, flag(r, c, 2, false)));
}

static kvq_tpl_value filter_groupby(kvq_tpl_run *r, kvq_tpl_call *c) {
    bool fold_case = !flag(r, c, 2, false);
    getter by_key = new_getter(r, c->arg[0], c->arg[1], fold_case), shown = new_getter(r, c->arg[0], c->arg[1], false);
    kvq_tpl_list *l = kvq_tpl_collect(r, c->self), *groups = kvq_tpl_list_new(r, 0), *group = NULL;
    sort_item *items = kvq_tpl_alloc_array(r, l->n, sizeof *items);
    for (size_t i = 0; i < l->n; i++) items[i] = (sort_item){get(r, &by_key, l->items[i]), l->items[i]};
    (void)sorted(r, items, l->n, false); /* items is what is wanted */
    for (size_t i = 0; i < l->n; i++) {
        if (!group || !kvq_tpl_equal(r, items[i].key, items[i - 1].key)) {
            group = kvq_tpl_list_new(r, 0);
            kvq_tpl_value pair = kvq_tpl_pair(r, get(r, &shown, items[i].value), kvq_tpl_list_value(group));
            kvq_tpl_list_push(r, groups, with_flag(pair, KVQ_TPL_GROUP));
        }
        kvq_tpl_list_push(r, group, items[i].value);
    }
    return kvq_tpl_list_value(groups);
}

/* clang-format off */
/*   name             call                  required  parameters (NULL: any)                  not supported */
static const kvq_tpl_row filters[] = {
    {"abs",            filter_abs,            0, "",                                          false},
    {"attr",           filter_attr,           1, "name",                                      false},
    {"batch",          filter_batch,          1, "linecount fill_with",                       false},
    {"capitalize",     filter_capitalize,     0, "",                                          false},
    {"center",         filter_center,         0, "width",                                     false},
    {"count",          filter_length,         0, "",                                          false},
    {"d",              filter_default,        0, "default_value boolean",                     false},
    {"default",        filter_default,        0, "default_value boolean",                     false},
    {"dictsort",       filter_dictsort,       0, "case_sensitive by reverse",                 false},
    {"e",              filter_escape,         0, "",                                          false},
    {"escape",         filter_escape,         0, "",                                          false},
    {"filesizeformat", filter_filesizeformat, 0, "binary",                                    false},
    {"first",          filter_first,          0, "",                                          false},
    {"float",          filter_float,          0, "default",                                   false},
    {"forceescape",    filter_forceescape,    0, "",                                          false},
    {"format",         filter_format,         0, NULL,                                        false},
    {"groupby",        filter_groupby,        1, "attribute default case_sensitive",          false},
    {"indent",         filter_indent,         0, "width first blank",                         false},
    {"int",            filter_int,            0, "default base",                              false},
    {"items",          filter_items,          0, "",                                          false},
    {"join",           filter_join,           0, "d attribute",                               false},
    {"last",           filter_last,           0, "",                                          false},
    {"length",         filter_length,         0, "",                                          false},
    {"list",           filter_list,           0, "",                                          false},
    {"lower",          filter_lower,          0, "",                                          false},
    {"map",            filter_map,            0, NULL,                                        false},
    {"max",            filter_max,            0, "case_sensitive attribute",                  false},
    {"min",            filter_min,            0, "case_sensitive attribute",                  false},
    {"pprint",         NULL,                  0, NULL,                                        true},
    {"random",         NULL,                  0, NULL,                                        true},
    {"reject",         filter_reject,         0, NULL,                                        false},
    {"rejectattr",     filter_rejectattr,     0, NULL,                                        false},
    {"replace",        filter_replace,        2, "old new count",                             false},
    {"reverse",        filter_reverse,        0, "",                                          false},
    {"round",          filter_round,          0, "precision method",                          false},
    {"safe",           filter_safe,           0, "",                                          false},
    {"select",         filter_select,         0, NULL,                                        false},
    {"selectattr",     filter_selectattr,     0, NULL,                                        false},
    {"slice",          filter_slice,          1, "slices fill_with",                          false},
    {"sort",           filter_sort,           0, "reverse case_sensitive attribute",          false},
    {"string",         filter_string,         0, "",                                          false},
    {"striptags",      NULL,                  0, NULL,                                        true},
    {"sum",            filter_sum,            0, "attribute start",                           false},
    {"title",          filter_title,          0, "",                                          false},
    {"tojson",         filter_tojson,         0, "ensure_ascii indent separators sort_keys",  false},
    {"trim",           filter_trim,           0, "chars",                                     false},
    {"truncate",       filter_truncate,       0, "length killwords end leeway",               false},
    {"unique",         filter_unique,         0, "case_sensitive attribute",                  false},
    {"upper",          filter_upper,          0, "",                                          false},
    {"urlencode",      filter_urlencode,      0, "",                                          false},
    {"urlize",         NULL,                  0, NULL,                                        true},
    {"wordcount",      filter_wordcount,      0, "",                                          false},
    {"wordwrap",       NULL,                  0, NULL,                                        true},
    {"xmlattr",        filter_xmlattr,        0, "autospace",                                 false},
};
/* clang-format on */

const kvq_tpl_row *kvq_tpl_filter_find(const kvq_tpl_string *name) {
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (kvq_tpl_string_is(name, filters[i].name)) return &filters[i];
    return NULL;
}
