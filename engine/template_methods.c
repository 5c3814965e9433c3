/* template_methods.c: THE tables of methods, those of Python's types. The object is the call's self. Rows without a
 * function are real methods that the sandbox refuses (they change their object: reading them gives Undefined, as in
 * Jinja2) or that are not supported (calling them fails). */
#include <string.h>

#include "template_internal.h"

static const kvq_tpl_string one_space = {" ", 1, 1};

static bool given(const kvq_tpl_call *c, int i) {
    return c->arg[i].kind != KVQ_TPL_MISSING;
}

static const kvq_tpl_string *string(kvq_tpl_run *r, kvq_tpl_value v) {
    if (v.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, v);
    if (v.kind != KVQ_TPL_STRING) kvq_tpl_fail(r, KVQ_BAD_FILE, "expected a string, got '%s'", kvq_tpl_type_name(v));
    return v.as.text;
}

/* NULL where not given or none. */
static const kvq_tpl_string *optional_string(kvq_tpl_run *r, const kvq_tpl_call *c, int i) {
    return given(c, i) && c->arg[i].kind != KVQ_TPL_NONE ? string(r, c->arg[i]) : NULL;
}

static int64_t integer(kvq_tpl_run *r, const kvq_tpl_call *c, int i, int64_t unset) {
    if (!given(c, i)) return unset;
    if (c->arg[i].kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, c->arg[i]);
    if (!kvq_tpl_is_integer(c->arg[i]))
        kvq_tpl_fail(r, KVQ_BAD_FILE, "expected an integer, got '%s'", kvq_tpl_type_name(c->arg[i]));
    return kvq_tpl_as_int(c->arg[i]);
}

/* Markup's methods give Markup. */
static kvq_tpl_value as_self(const kvq_tpl_call *c, kvq_tpl_value v) {
    v.flag = c->self.flag;
    return v;
}

static kvq_tpl_value part(kvq_tpl_run *r, const kvq_tpl_call *c, size_t from, size_t to) {
    return as_self(c, kvq_tpl_text(r, c->self.as.text->bytes + from, to - from));
}

/* An argument that goes into the result is escaped when that is Markup. */
static const kvq_tpl_string *inserted(kvq_tpl_run *r, const kvq_tpl_call *c, kvq_tpl_value v) {
    const kvq_tpl_string *s = string(r, v);
    return c->self.flag && !v.flag ? kvq_tpl_escape(r, s).as.text : s;
}

/* ---- str: case ------------------------------------------------------------------------------------------------- */

static kvq_tpl_value str_upper(kvq_tpl_run *r, kvq_tpl_call *c) {
    return as_self(c, kvq_tpl_change_case(r, KVQ_TPL_UPPER, c->self.as.text));
}

static kvq_tpl_value str_lower(kvq_tpl_run *r, kvq_tpl_call *c) {
    return as_self(c, kvq_tpl_change_case(r, KVQ_TPL_LOWER, c->self.as.text));
}

static kvq_tpl_value map_case(kvq_tpl_run *r, kvq_tpl_call *c, kvq_tpl_case (*choose)(int32_t point, bool *state)) {
    const kvq_tpl_string *s = c->self.as.text;
    size_t mark = r->n_out;
    bool state = false;
    kvq_tpl_charge(r, s->n_chars / 8);
    for (size_t at = 0; at < s->n_bytes; at += kvq_tpl_char_bytes(s->bytes + at))
        kvq_tpl_put_case(r, choose(kvq_tpl_decode(s->bytes + at), &state), s, at);
    return as_self(c, kvq_tpl_take(r, mark));
}

static kvq_tpl_case capital_case(int32_t point, bool *after_first) {
    (void)point;
    bool first = !*after_first;
    *after_first = true;
    return first ? KVQ_TPL_TITLE : KVQ_TPL_LOWER;
}

static kvq_tpl_case title_case(int32_t point, bool *after_cased) {
    bool first = !*after_cased;
    *after_cased = kvq_tpl_is_cased(point);
    return first ? KVQ_TPL_TITLE : KVQ_TPL_LOWER;
}

static kvq_tpl_case swapped_case(int32_t point, bool *state) {
    (void)state;
    return kvq_tpl_is_upper(point) ? KVQ_TPL_LOWER : KVQ_TPL_UPPER;
}

static kvq_tpl_value str_capitalize(kvq_tpl_run *r, kvq_tpl_call *c) {
    return map_case(r, c, capital_case);
}
static kvq_tpl_value str_title(kvq_tpl_run *r, kvq_tpl_call *c) {
    return map_case(r, c, title_case);
}
static kvq_tpl_value str_swapcase(kvq_tpl_run *r, kvq_tpl_call *c) {
    return map_case(r, c, swapped_case);
}

/* ---- str: questions -------------------------------------------------------------------------------------------- */

static bool all_chars(kvq_tpl_run *r, const kvq_tpl_string *s, bool (*is)(int32_t)) {
    kvq_tpl_charge(r, s->n_bytes / 8);
    for (size_t at = 0; at < s->n_bytes; at += kvq_tpl_char_bytes(s->bytes + at))
        if (!is(kvq_tpl_decode(s->bytes + at))) return false;
    return true;
}

static kvq_tpl_value is_every(kvq_tpl_run *r, const kvq_tpl_call *c, bool (*is)(int32_t)) {
    return kvq_tpl_bool(c->self.as.text->n_bytes && all_chars(r, c->self.as.text, is));
}

static kvq_tpl_value str_isspace(kvq_tpl_run *r, kvq_tpl_call *c) {
    return is_every(r, c, kvq_tpl_is_space);
}
static kvq_tpl_value str_isalpha(kvq_tpl_run *r, kvq_tpl_call *c) {
    return is_every(r, c, kvq_tpl_is_alpha);
}
static kvq_tpl_value str_isalnum(kvq_tpl_run *r, kvq_tpl_call *c) {
    return is_every(r, c, kvq_tpl_is_alnum);
}
static kvq_tpl_value str_isdigit(kvq_tpl_run *r, kvq_tpl_call *c) {
    return is_every(r, c, kvq_tpl_is_digit);
}
static kvq_tpl_value str_isdecimal(kvq_tpl_run *r, kvq_tpl_call *c) {
    return is_every(r, c, kvq_tpl_is_decimal);
}

static kvq_tpl_value str_isascii(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, kvq_tpl_bool(c->self.as.text->n_bytes == c->self.as.text->n_chars);
}

static kvq_tpl_value str_isprintable(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_bool(all_chars(r, c->self.as.text, kvq_tpl_is_printable));
}

static kvq_tpl_value run_test(kvq_tpl_run *r, const char *name, kvq_tpl_value v) {
    static const kvq_tpl_args none = {0};
    return kvq_tpl_bool(kvq_tpl_call_test(r, kvq_tpl_literal(r, name), v, &none));
}

static kvq_tpl_value str_islower(kvq_tpl_run *r, kvq_tpl_call *c) {
    return run_test(r, "lower", c->self);
}
static kvq_tpl_value str_isupper(kvq_tpl_run *r, kvq_tpl_call *c) {
    return run_test(r, "upper", c->self);
}

/* ---- str: finding ---------------------------------------------------------------------------------------------- */

/* The bytes that start and end arguments (i, i + 1) leave. False: the start is past the end of the string. */
static bool bounds(kvq_tpl_run *r, const kvq_tpl_call *c, int i, size_t *ret_from, size_t *ret_to) {
    const kvq_tpl_string *s = c->self.as.text;
    int64_t n = (int64_t)s->n_chars, limits[2] = {0, n};
    for (int j = 0; j < 2; j++) {
        if (given(c, i + j) && c->arg[i + j].kind != KVQ_TPL_NONE) limits[j] = integer(r, c, i + j, 0);
        if (limits[j] < 0) limits[j] = limits[j] < -n ? 0 : limits[j] + n;
    }
    if (limits[0] > n) return false;
    *ret_from = kvq_tpl_char_offset(r, s, (size_t)limits[0]);
    *ret_to = kvq_tpl_char_offset(r, s, (size_t)(limits[1] > n ? n : limits[1]));
    return *ret_from <= *ret_to;
}

static int64_t find(kvq_tpl_run *r, const kvq_tpl_call *c, bool last) {
    const kvq_tpl_string *s = c->self.as.text, *needle = string(r, c->arg[0]);
    size_t from, to;
    if (!bounds(r, c, 1, &from, &to)) return -1;
    size_t at = last ? kvq_tpl_find_last(r, s, needle, from, to) : kvq_tpl_find(r, s, needle, from, to);
    if (at == SIZE_MAX) return -1;
    kvq_tpl_charge(r, at / 64);
    return (int64_t)kvq_tpl_count_chars(s->bytes, at);
}

static kvq_tpl_value found_or_fail(kvq_tpl_run *r, int64_t at) {
    if (at < 0) kvq_tpl_fail(r, KVQ_BAD_FILE, "substring not found");
    return kvq_tpl_int(at);
}

static kvq_tpl_value str_find(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_int(find(r, c, false));
}
static kvq_tpl_value str_rfind(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_int(find(r, c, true));
}
static kvq_tpl_value str_index(kvq_tpl_run *r, kvq_tpl_call *c) {
    return found_or_fail(r, find(r, c, false));
}
static kvq_tpl_value str_rindex(kvq_tpl_run *r, kvq_tpl_call *c) {
    return found_or_fail(r, find(r, c, true));
}

static kvq_tpl_value str_count(kvq_tpl_run *r, kvq_tpl_call *c) {
    const kvq_tpl_string *s = c->self.as.text, *needle = string(r, c->arg[0]);
    size_t from, to;
    int64_t n = 0;
    if (!bounds(r, c, 1, &from, &to)) return kvq_tpl_int(0);
    if (needle->n_bytes == 0) return kvq_tpl_int((int64_t)kvq_tpl_count_chars(s->bytes + from, to - from) + 1);
    for (; (from = kvq_tpl_find(r, s, needle, from, to)) != SIZE_MAX; from += needle->n_bytes) {
        kvq_tpl_charge(r, 1);
        n++;
    }
    return kvq_tpl_int(n);
}

static bool has_end(kvq_tpl_run *r, const kvq_tpl_string *s, size_t from, size_t to, const kvq_tpl_string *end,
                    bool at_start) {
    if (to - from < end->n_bytes) return false;
    kvq_tpl_charge(r, end->n_bytes / 64);
    return memcmp(s->bytes + (at_start ? from : to - end->n_bytes), end->bytes, end->n_bytes) == 0;
}

static kvq_tpl_value starts_or_ends(kvq_tpl_run *r, const kvq_tpl_call *c, bool at_start) {
    const kvq_tpl_string *s = c->self.as.text;
    size_t from, to;
    bool within = bounds(r, c, 1, &from, &to);
    if (c->arg[0].kind != KVQ_TPL_TUPLE)
        return kvq_tpl_bool(string(r, c->arg[0]) && within && has_end(r, s, from, to, c->arg[0].as.text, at_start));
    const kvq_tpl_list *any = c->arg[0].as.list;
    for (size_t i = 0; i < any->n; i++)
        if (string(r, any->items[i]) && within && has_end(r, s, from, to, any->items[i].as.text, at_start))
            return kvq_tpl_bool(true);
    return kvq_tpl_bool(false);
}

static kvq_tpl_value str_startswith(kvq_tpl_run *r, kvq_tpl_call *c) {
    return starts_or_ends(r, c, true);
}
static kvq_tpl_value str_endswith(kvq_tpl_run *r, kvq_tpl_call *c) {
    return starts_or_ends(r, c, false);
}

/* ---- str: parts ------------------------------------------------------------------------------------------------ */

static kvq_tpl_value strip(kvq_tpl_run *r, const kvq_tpl_call *c, bool left, bool right) {
    return as_self(c, kvq_tpl_strip(r, c->self.as.text, optional_string(r, c, 0), left, right));
}

static kvq_tpl_value str_strip(kvq_tpl_run *r, kvq_tpl_call *c) {
    return strip(r, c, true, true);
}
static kvq_tpl_value str_lstrip(kvq_tpl_run *r, kvq_tpl_call *c) {
    return strip(r, c, true, false);
}
static kvq_tpl_value str_rstrip(kvq_tpl_run *r, kvq_tpl_call *c) {
    return strip(r, c, false, true);
}

static kvq_tpl_value str_removeprefix(kvq_tpl_run *r, kvq_tpl_call *c) {
    const kvq_tpl_string *s = c->self.as.text, *prefix = string(r, c->arg[0]);
    bool there = has_end(r, s, 0, s->n_bytes, prefix, true);
    return part(r, c, there ? prefix->n_bytes : 0, s->n_bytes);
}

static kvq_tpl_value str_removesuffix(kvq_tpl_run *r, kvq_tpl_call *c) {
    const kvq_tpl_string *s = c->self.as.text, *suffix = string(r, c->arg[0]);
    bool there = has_end(r, s, 0, s->n_bytes, suffix, false);
    return part(r, c, 0, s->n_bytes - (there ? suffix->n_bytes : 0));
}

static bool is_space_at(const kvq_tpl_string *s, size_t at) {
    return kvq_tpl_is_space(kvq_tpl_decode(s->bytes + at));
}

static size_t skip_spaces(const kvq_tpl_string *s, size_t at, bool spaces) {
    while (at < s->n_bytes && is_space_at(s, at) == spaces) at += kvq_tpl_char_bytes(s->bytes + at);
    return at;
}

static size_t char_before(const kvq_tpl_string *s, size_t at) {
    do at--;
    while (((unsigned char)s->bytes[at] & 0xC0) == 0x80);
    return at;
}

static size_t skip_spaces_back(const kvq_tpl_string *s, size_t at, bool spaces) {
    while (at > 0 && is_space_at(s, char_before(s, at)) == spaces) at = char_before(s, at);
    return at;
}

/* Words; after max splits the rest, with the white space at its end. */
static void split_words(kvq_tpl_run *r, const kvq_tpl_call *c, int64_t max, kvq_tpl_list *parts) {
    const kvq_tpl_string *s = c->self.as.text;
    kvq_tpl_charge(r, s->n_bytes / 32);
    for (size_t at = skip_spaces(s, 0, true); at < s->n_bytes; max--) {
        size_t end = max == 0 ? s->n_bytes : skip_spaces(s, at, false);
        kvq_tpl_list_push(r, parts, part(r, c, at, end));
        at = skip_spaces(s, end, true);
    }
}

static void split_words_back(kvq_tpl_run *r, const kvq_tpl_call *c, int64_t max, kvq_tpl_list *parts) {
    const kvq_tpl_string *s = c->self.as.text;
    kvq_tpl_charge(r, s->n_bytes / 32);
    for (size_t end = skip_spaces_back(s, s->n_bytes, true); end > 0; max--) {
        size_t at = max == 0 ? 0 : skip_spaces_back(s, end, false);
        kvq_tpl_list_push(r, parts, part(r, c, at, end));
        end = max == 0 ? 0 : skip_spaces_back(s, at, true);
    }
}

static void split_at(kvq_tpl_run *r, const kvq_tpl_call *c, const kvq_tpl_string *by, int64_t max,
                     kvq_tpl_list *parts) {
    const kvq_tpl_string *s = c->self.as.text;
    size_t from = 0;
    for (; max != 0; max--) {
        size_t at = kvq_tpl_find(r, s, by, from, s->n_bytes);
        if (at == SIZE_MAX) break;
        kvq_tpl_list_push(r, parts, part(r, c, from, at));
        from = at + by->n_bytes;
    }
    kvq_tpl_list_push(r, parts, part(r, c, from, s->n_bytes));
}

static void split_at_back(kvq_tpl_run *r, const kvq_tpl_call *c, const kvq_tpl_string *by, int64_t max,
                          kvq_tpl_list *parts) {
    const kvq_tpl_string *s = c->self.as.text;
    size_t to = s->n_bytes;
    for (; max != 0; max--) {
        size_t at = kvq_tpl_find_last(r, s, by, 0, to);
        if (at == SIZE_MAX) break;
        kvq_tpl_list_push(r, parts, part(r, c, at + by->n_bytes, to));
        to = at;
    }
    kvq_tpl_list_push(r, parts, part(r, c, 0, to));
}

static void turn_around(kvq_tpl_list *l) {
    for (size_t i = 0; i < l->n / 2; i++) {
        kvq_tpl_value v = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = v;
    }
}

static kvq_tpl_value split(kvq_tpl_run *r, const kvq_tpl_call *c, bool backwards) {
    const kvq_tpl_string *by = optional_string(r, c, 0);
    int64_t max = integer(r, c, 1, -1);
    kvq_tpl_list *parts = kvq_tpl_list_new(r, 0);
    if (by && by->n_bytes == 0) kvq_tpl_fail(r, KVQ_BAD_FILE, "empty separator");
    if (by)
        (backwards ? split_at_back : split_at)(r, c, by, max, parts);
    else
        (backwards ? split_words_back : split_words)(r, c, max, parts);
    if (backwards) turn_around(parts);
    return kvq_tpl_list_value(parts);
}

static kvq_tpl_value str_split(kvq_tpl_run *r, kvq_tpl_call *c) {
    return split(r, c, false);
}
static kvq_tpl_value str_rsplit(kvq_tpl_run *r, kvq_tpl_call *c) {
    return split(r, c, true);
}

static kvq_tpl_value str_splitlines(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_list *lines = kvq_tpl_split_lines(r, c->self.as.text, given(c, 0) && kvq_tpl_truth(r, c->arg[0]));
    for (size_t i = 0; i < lines->n; i++) lines->items[i] = as_self(c, lines->items[i]);
    return kvq_tpl_list_value(lines);
}

static kvq_tpl_value partition(kvq_tpl_run *r, const kvq_tpl_call *c, bool last) {
    const kvq_tpl_string *s = c->self.as.text, *by = string(r, c->arg[0]);
    if (by->n_bytes == 0) kvq_tpl_fail(r, KVQ_BAD_FILE, "empty separator");
    size_t at = last ? kvq_tpl_find_last(r, s, by, 0, s->n_bytes) : kvq_tpl_find(r, s, by, 0, s->n_bytes);
    size_t from = at != SIZE_MAX ? at : last ? 0 : s->n_bytes, to = at != SIZE_MAX ? at + by->n_bytes : from;
    kvq_tpl_list *parts = kvq_tpl_list_new(r, 3);
    kvq_tpl_list_push(r, parts, part(r, c, 0, from));
    kvq_tpl_list_push(r, parts, part(r, c, from, to));
    kvq_tpl_list_push(r, parts, part(r, c, to, s->n_bytes));
    return kvq_tpl_tuple_value(parts);
}

static kvq_tpl_value str_partition(kvq_tpl_run *r, kvq_tpl_call *c) {
    return partition(r, c, false);
}
static kvq_tpl_value str_rpartition(kvq_tpl_run *r, kvq_tpl_call *c) {
    return partition(r, c, true);
}

/* ---- str: making ----------------------------------------------------------------------------------------------- */

static kvq_tpl_value str_replace(kvq_tpl_run *r, kvq_tpl_call *c) {
    const kvq_tpl_string *old = string(r, c->arg[0]), *by = inserted(r, c, c->arg[1]);
    return as_self(c, kvq_tpl_replace(r, c->self.as.text, old, by, integer(r, c, 2, -1)));
}

static kvq_tpl_value str_join(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_list *items = kvq_tpl_list_new(r, 0);
    kvq_tpl_value item;
    for (kvq_tpl_iterator *it = kvq_tpl_iterate(r, c->arg[0]); kvq_tpl_next(r, it, &item);) {
        if (c->self.flag && item.kind != KVQ_TPL_STRING) item = kvq_tpl_soft_str(r, item);
        kvq_tpl_list_push(r, items, kvq_tpl_string_value(inserted(r, c, item)));
    }
    size_t mark = r->n_out;
    for (size_t i = 0; i < items->n; i++) {
        if (i) kvq_tpl_put_str(r, c->self);
        kvq_tpl_put_str(r, items->items[i]);
    }
    return as_self(c, kvq_tpl_take(r, mark));
}

static kvq_tpl_value str_format(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_format(r, c->self, c->args);
}

static kvq_tpl_value pad(kvq_tpl_run *r, const kvq_tpl_call *c, int64_t left, int64_t right) {
    const kvq_tpl_string *fill = given(c, 1) ? string(r, c->arg[1]) : &one_space;
    if (fill->n_chars != 1) kvq_tpl_fail(r, KVQ_BAD_FILE, "the fill must be one character");
    size_t mark = r->n_out;
    kvq_tpl_put_fill(r, fill, left);
    kvq_tpl_put_str(r, c->self);
    kvq_tpl_put_fill(r, fill, right);
    return as_self(c, kvq_tpl_take(r, mark));
}

static int64_t missing_width(kvq_tpl_run *r, const kvq_tpl_call *c) {
    int64_t width = integer(r, c, 0, 0), n = (int64_t)c->self.as.text->n_chars;
    return width > n ? width - n : 0;
}

static kvq_tpl_value str_ljust(kvq_tpl_run *r, kvq_tpl_call *c) {
    return pad(r, c, 0, missing_width(r, c));
}
static kvq_tpl_value str_rjust(kvq_tpl_run *r, kvq_tpl_call *c) {
    return pad(r, c, missing_width(r, c), 0);
}

/* CPython puts the odd space on the left when the width is odd. */
static kvq_tpl_value str_center(kvq_tpl_run *r, kvq_tpl_call *c) {
    int64_t n = missing_width(r, c), left = n / 2 + (n & integer(r, c, 0, 0) & 1);
    return pad(r, c, left, n - left);
}

static kvq_tpl_value str_zfill(kvq_tpl_run *r, kvq_tpl_call *c) {
    static const kvq_tpl_string zero = {"0", 1, 1};
    const kvq_tpl_string *s = c->self.as.text;
    size_t n_sign = s->n_bytes && (s->bytes[0] == '+' || s->bytes[0] == '-'), mark = r->n_out;
    int64_t n = missing_width(r, c);
    kvq_tpl_put(r, s->bytes, n_sign);
    kvq_tpl_put_fill(r, &zero, n);
    kvq_tpl_put(r, s->bytes + n_sign, s->n_bytes - n_sign);
    return as_self(c, kvq_tpl_take(r, mark));
}

static kvq_tpl_value str_expandtabs(kvq_tpl_run *r, kvq_tpl_call *c) {
    const kvq_tpl_string *s = c->self.as.text;
    int64_t size = integer(r, c, 0, 8), column = 0;
    size_t mark = r->n_out, n;
    for (size_t at = 0; at < s->n_bytes; at += n) {
        n = kvq_tpl_char_bytes(s->bytes + at);
        kvq_tpl_charge(r, 1);
        if (s->bytes[at] == '\t') {
            int64_t fill = size > 0 ? size - column % size : 0;
            kvq_tpl_put_fill(r, &one_space, fill);
            column += fill;
            continue;
        }
        kvq_tpl_put(r, s->bytes + at, n);
        column = s->bytes[at] == '\n' || s->bytes[at] == '\r' ? 0 : column + 1;
    }
    return as_self(c, kvq_tpl_take(r, mark));
}

/* ---- dict, list, tuple ----------------------------------------------------------------------------------------- */

static kvq_tpl_value dict_get(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_value v;
    if (!kvq_tpl_hashable(r, c->arg[0]))
        kvq_tpl_fail(r, KVQ_BAD_FILE, "unhashable type: '%s'", kvq_tpl_type_name(c->arg[0]));
    if (kvq_tpl_dict_find(r, c->self.as.dict, c->arg[0], &v)) return v;
    return given(c, 1) ? c->arg[1] : kvq_tpl_none;
}

static kvq_tpl_value view(const kvq_tpl_call *c, uint8_t which) {
    return (kvq_tpl_value){.kind = KVQ_TPL_VIEW, .flag = which, .as.dict = c->self.as.dict};
}

static kvq_tpl_value dict_items(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, view(c, KVQ_TPL_ITEMS);
}
static kvq_tpl_value dict_keys(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, view(c, KVQ_TPL_KEYS);
}
static kvq_tpl_value dict_values(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, view(c, KVQ_TPL_VALUES);
}
static kvq_tpl_value copy(kvq_tpl_run *r, kvq_tpl_call *c) {
    return (void)r, c->self;
} /* values never change */

static kvq_tpl_value list_count(kvq_tpl_run *r, kvq_tpl_call *c) {
    int64_t n = 0;
    for (size_t i = 0; i < c->self.as.list->n; i++) n += kvq_tpl_equal(r, c->self.as.list->items[i], c->arg[0]);
    return kvq_tpl_int(n);
}

static kvq_tpl_value list_index(kvq_tpl_run *r, kvq_tpl_call *c) {
    int64_t n = (int64_t)c->self.as.list->n, from = integer(r, c, 1, 0), to = integer(r, c, 2, n);
    if (from < 0) from = from < -n ? 0 : from + n;
    if (to < 0) to = to < -n ? 0 : to + n;
    for (int64_t i = from; i < to && i < n; i++)
        if (kvq_tpl_equal(r, c->self.as.list->items[i], c->arg[0])) return kvq_tpl_int(i);
    kvq_tpl_fail(r, KVQ_BAD_FILE, "the value is not in the list");
}

static kvq_tpl_value range_count(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_int(kvq_tpl_contains(r, c->self, c->arg[0]));
}

static kvq_tpl_value range_index(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_call on_list = *c;
    on_list.self = kvq_tpl_list_value(kvq_tpl_collect(r, c->self));
    return list_index(r, &on_list);
}

/* ---- loop, cycler ---------------------------------------------------------------------------------------------- */

static kvq_tpl_value loop_cycle(kvq_tpl_run *r, kvq_tpl_call *c) {
    if (c->args->n == 0 || c->args->n_names) kvq_tpl_fail(r, KVQ_BAD_FILE, "loop.cycle needs items");
    return c->args->items[(size_t)c->self.as.loop->index0 % c->args->n];
}

static kvq_tpl_value loop_changed(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_list *now = kvq_tpl_list_new(r, c->args->n);
    for (size_t i = 0; i < c->args->n; i++) kvq_tpl_list_push(r, now, c->args->items[i]);
    kvq_tpl_loop *loop = c->self.as.loop;
    kvq_tpl_value tuple = kvq_tpl_tuple_value(now);
    bool changed = !kvq_tpl_equal(r, loop->changed, tuple);
    if (changed) loop->changed = tuple;
    return kvq_tpl_bool(changed);
}

static kvq_tpl_value cycler_next(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_cycler *cycler = c->self.as.cycler;
    kvq_tpl_value v = cycler->items->items[cycler->at];
    cycler->at = (cycler->at + 1) % cycler->items->n;
    return (void)r, v;
}

static kvq_tpl_value cycler_reset(kvq_tpl_run *r, kvq_tpl_call *c) {
    c->self.as.cycler->at = 0;
    return (void)r, kvq_tpl_none;
}

/* clang-format off */
/*   name            call              required  parameters            not supported */
static const kvq_tpl_row str_methods[] = {
    {"capitalize",   str_capitalize,   0, "",                          false},
    {"center",       str_center,       1, "-width -fill",              false},
    {"count",        str_count,        1, "-sub -start -end",          false},
    {"endswith",     str_endswith,     1, "-suffix -start -end",       false},
    {"expandtabs",   str_expandtabs,   0, "tabsize",                   false},
    {"find",         str_find,         1, "-sub -start -end",          false},
    {"format",       str_format,       0, NULL,                        false},
    {"index",        str_index,        1, "-sub -start -end",          false},
    {"isalnum",      str_isalnum,      0, "",                          false},
    {"isalpha",      str_isalpha,      0, "",                          false},
    {"isascii",      str_isascii,      0, "",                          false},
    {"isdecimal",    str_isdecimal,    0, "",                          false},
    {"isdigit",      str_isdigit,      0, "",                          false},
    {"islower",      str_islower,      0, "",                          false},
    {"isprintable",  str_isprintable,  0, "",                          false},
    {"isspace",      str_isspace,      0, "",                          false},
    {"isupper",      str_isupper,      0, "",                          false},
    {"join",         str_join,         1, "-iterable",                 false},
    {"ljust",        str_ljust,        1, "-width -fill",              false},
    {"lower",        str_lower,        0, "",                          false},
    {"lstrip",       str_lstrip,       0, "-chars",                    false},
    {"partition",    str_partition,    1, "-sep",                      false},
    {"removeprefix", str_removeprefix, 1, "-prefix",                   false},
    {"removesuffix", str_removesuffix, 1, "-suffix",                   false},
    {"replace",      str_replace,      2, "-old -new -count",          false},
    {"rfind",        str_rfind,        1, "-sub -start -end",          false},
    {"rindex",       str_rindex,       1, "-sub -start -end",          false},
    {"rjust",        str_rjust,        1, "-width -fill",              false},
    {"rpartition",   str_rpartition,   1, "-sep",                      false},
    {"rsplit",       str_rsplit,       0, "sep maxsplit",              false},
    {"rstrip",       str_rstrip,       0, "-chars",                    false},
    {"split",        str_split,        0, "sep maxsplit",              false},
    {"splitlines",   str_splitlines,   0, "keepends",                  false},
    {"startswith",   str_startswith,   1, "-prefix -start -end",       false},
    {"strip",        str_strip,        0, "-chars",                    false},
    {"swapcase",     str_swapcase,     0, "",                          false},
    {"title",        str_title,        0, "",                          false},
    {"upper",        str_upper,        0, "",                          false},
    {"zfill",        str_zfill,        1, "-width",                    false},
    {"casefold",     NULL,             0, NULL,                        true},
    {"encode",       NULL,             0, NULL,                        true},
    {"format_map",   NULL,             0, NULL,                        true},
    {"isidentifier", NULL,             0, NULL,                        true},
    {"isnumeric",    NULL,             0, NULL,                        true},
    {"istitle",      NULL,             0, NULL,                        true},
    {"maketrans",    NULL,             0, NULL,                        true},
    {"translate",    NULL,             0, NULL,                        true},
    {0},
};

static const kvq_tpl_row dict_methods[] = {
    {"get",          dict_get,         1, "-key -default",             false},
    {"items",        dict_items,       0, "",                          false},
    {"keys",         dict_keys,        0, "",                          false},
    {"values",       dict_values,      0, "",                          false},
    {"copy",         copy,             0, "",                          false},
    {"fromkeys",     NULL,             0, NULL,                        true},
    {"clear",        NULL,             0, NULL,                        false},
    {"pop",          NULL,             0, NULL,                        false},
    {"popitem",      NULL,             0, NULL,                        false},
    {"setdefault",   NULL,             0, NULL,                        false},
    {"update",       NULL,             0, NULL,                        false},
    {0},
};

static const kvq_tpl_row list_methods[] = {
    {"count",        list_count,       1, "-value",                    false},
    {"index",        list_index,       1, "-value -start -end",        false},
    {"copy",         copy,             0, "",                          false},
    {"append",       NULL,             0, NULL,                        false},
    {"clear",        NULL,             0, NULL,                        false},
    {"extend",       NULL,             0, NULL,                        false},
    {"insert",       NULL,             0, NULL,                        false},
    {"pop",          NULL,             0, NULL,                        false},
    {"remove",       NULL,             0, NULL,                        false},
    {"reverse",      NULL,             0, NULL,                        false},
    {"sort",         NULL,             0, NULL,                        false},
    {0},
};

static const kvq_tpl_row tuple_methods[] = {
    {"count",        list_count,       1, "-value",                    false},
    {"index",        list_index,       1, "-value -start -end",        false},
    {0},
};

static const kvq_tpl_row range_methods[] = {
    {"count",        range_count,      1, "-value",                    false},
    {"index",        range_index,      1, "-value",                    false},
    {0},
};

static const kvq_tpl_row loop_methods[] = {
    {"cycle",        loop_cycle,       0, NULL,                        false},
    {"changed",      loop_changed,     0, NULL,                        false},
    {0},
};

static const kvq_tpl_row cycler_methods[] = {
    {"next",         cycler_next,      0, "",                          false},
    {"reset",        cycler_reset,     0, "",                          false},
    {0},
};
/* clang-format on */

const kvq_tpl_row *kvq_tpl_method_find(kvq_tpl_kind kind, const kvq_tpl_string *name) {
    static const kvq_tpl_row *const methods[KVQ_TPL_KIND_COUNT] = {
        [KVQ_TPL_STRING] = str_methods,   [KVQ_TPL_DICT] = dict_methods,   [KVQ_TPL_LIST] = list_methods,
        [KVQ_TPL_TUPLE] = tuple_methods,  [KVQ_TPL_RANGE] = range_methods, [KVQ_TPL_LOOP] = loop_methods,
        [KVQ_TPL_CYCLER] = cycler_methods};
    for (const kvq_tpl_row *row = methods[kind]; row && row->name; row++)
        if (kvq_tpl_string_is(name, row->name)) return row;
    return NULL;
}
