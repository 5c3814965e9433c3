/* template_print.c: values as text: Python's str and repr, json.dumps, and numbers both ways, without the locale.
 * Called by the evaluator (output), filters and formatting. All text goes to the run's buffer. */
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "template_internal.h"

/* ---- numbers --------------------------------------------------------------------------------------------------- */

void kvq_tpl_put_int(kvq_tpl_run *r, int64_t i) {
    char text[24];
    int n = snprintf(text, sizeof text, "%lld", (long long)i);
    kvq_tpl_put(r, text, (size_t)n);
}

/* The shortest digits that read back as d: precision 15 or 16 where they suffice, else 17; subnormals may need fewer.
 */
static int shortest_digits(double d, char *digits, int *exponent) {
    char text[40];
    int n_digits = 0;
    for (int precision = fabs(d) < DBL_MIN ? 1 : 15; precision <= 17; precision++) {
        (void)snprintf(text, sizeof text, "%.*e", precision - 1, d); /* 26 characters at most */
        if (strtod(text, NULL) == d) break;
    }
    const char *e = strchr(text, 'e');
    for (const char *p = text; p < e; p++)
        if (*p >= '0' && *p <= '9')
            digits[n_digits++] = *p; /* skips sign and decimal point, whatever the locale's is */
    while (n_digits > 1 && digits[n_digits - 1] == '0') n_digits--;
    *exponent = (int)strtol(e + 1, NULL, 10);
    return n_digits;
}

static void put_zeros(kvq_tpl_run *r, int n) {
    for (int i = 0; i < n; i++) kvq_tpl_put_char(r, '0');
}

static void put_exponent_form(kvq_tpl_run *r, const char *digits, int n, int exponent) {
    char text[16];
    kvq_tpl_put(r, digits, 1);
    if (n > 1) kvq_tpl_put_char(r, '.');
    kvq_tpl_put(r, digits + 1, (size_t)n - 1);
    (void)snprintf(text, sizeof text, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    kvq_tpl_put_text(r, text);
}

static void put_plain_form(kvq_tpl_run *r, const char *digits, int n, int exponent) {
    if (exponent < 0) {
        kvq_tpl_put_text(r, "0.");
        put_zeros(r, -exponent - 1);
        kvq_tpl_put(r, digits, (size_t)n);
        return;
    }
    int n_whole = exponent + 1;
    kvq_tpl_put(r, digits, (size_t)(n < n_whole ? n : n_whole));
    put_zeros(r, n_whole - n);
    kvq_tpl_put_char(r, '.');
    if (n > n_whole)
        kvq_tpl_put(r, digits + n_whole, (size_t)(n - n_whole));
    else
        kvq_tpl_put_char(r, '0');
}

/* Python's rule for when a repr takes an exponent. */
void kvq_tpl_put_real(kvq_tpl_run *r, double d) {
    char digits[40];
    int exponent;
    if (isnan(d)) {
        kvq_tpl_put_text(r, "nan");
        return;
    }
    if (signbit(d)) kvq_tpl_put_char(r, '-');
    if (isinf(d)) {
        kvq_tpl_put_text(r, "inf");
        return;
    }
    int n = shortest_digits(fabs(d), digits, &exponent);
    if (exponent < -4 || exponent >= 16)
        put_exponent_form(r, digits, n, exponent);
    else
        put_plain_form(r, digits, n, exponent);
}

void kvq_tpl_put_fixed(kvq_tpl_run *r, char conversion, int precision, double d) {
    char text[512]; /* 309 digits, the precision, sign and point */
    const char format[] = {'%', '.', '*', conversion, '\0'};
    if (isnan(d) || isinf(d)) {
        kvq_tpl_put_text(r, isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
        return;
    }
    if (precision > 150) kvq_tpl_fail(r, KVQ_NO_SPACE, "a precision of %d digits is too large", precision);
    int n = snprintf(text, sizeof text, format, precision, d);
    const char *point = localeconv()->decimal_point;
    char *found = strcmp(point, ".") != 0 ? strstr(text, point) : NULL;
    if (!found) {
        kvq_tpl_put(r, text, (size_t)n);
        return;
    }
    kvq_tpl_put(r, text, (size_t)(found - text));
    kvq_tpl_put_char(r, '.');
    kvq_tpl_put_text(r, found + strlen(point));
}

static void trim_ascii(const char **bytes, size_t *n) {
    while (*n && kvq_tpl_is_space((unsigned char)**bytes)) (*bytes)++, (*n)--;
    while (*n && kvq_tpl_is_space((unsigned char)(*bytes)[*n - 1])) (*n)--;
}

static bool is_digit_char(char c) {
    return c >= '0' && c <= '9';
}

/* Copies a Python number without its underscores, which must stand between digits. */
static bool copy_number(const char *bytes, size_t n, char *text, size_t capacity) {
    size_t n_text = 0;
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] == '_') {
            if (i == 0 || i + 1 == n || !is_digit_char(bytes[i - 1]) || !is_digit_char(bytes[i + 1])) return false;
            continue;
        }
        if (n_text + 1 >= capacity) return false;
        text[n_text++] = bytes[i];
    }
    text[n_text] = '\0';
    return n_text > 0;
}

static bool is_word_number(const char *text) {
    static const char *const words[] = {"inf", "infinity", "nan"};
    if (*text == '+' || *text == '-') text++;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t at = 0;
        while (words[i][at] && (text[at] | 0x20) == words[i][at]) at++;
        if (!words[i][at] && !text[at]) return true;
    }
    return false;
}

/* sign digits [. digits] [e sign digits], with a digit somewhere before the e. */
static bool is_decimal_number(const char *p) {
    int n_digits = 0;
    if (*p == '+' || *p == '-') p++;
    while (is_digit_char(*p)) p++, n_digits++;
    if (*p == '.') p++;
    while (is_digit_char(*p)) p++, n_digits++;
    if (n_digits == 0) return false;
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '+' || *p == '-') p++;
        if (!is_digit_char(*p)) return false;
        while (is_digit_char(*p)) p++;
    }
    return *p == '\0';
}

bool kvq_tpl_parse_real(const char *bytes, size_t n_bytes, double *ret) {
    char text[512], local[520];
    trim_ascii(&bytes, &n_bytes);
    if (!copy_number(bytes, n_bytes, text, sizeof text)) return false;
    if (!is_decimal_number(text) && !is_word_number(text)) return false;
    const char *point = localeconv()->decimal_point;
    char *dot = strchr(text, '.');
    if (dot && strcmp(point, ".") != 0 && strlen(point) < 8) {
        (void)snprintf(local, sizeof local, "%.*s%s%s", (int)(dot - text), text, point, dot + 1);
        *ret = strtod(local, NULL);
    } else {
        *ret = strtod(text, NULL);
    }
    return true;
}

static int digit_value(char c) {
    if (is_digit_char(c)) return c - '0';
    char lower = (char)(c | 0x20);
    return lower >= 'a' && lower <= 'z' ? lower - 'a' + 10 : 99;
}

/* Skips 0x, 0o or 0b where the base allows it; base 0 takes the base from it. An underscore may follow the prefix. */
static void skip_prefix(const char **p, int *base) {
    const char *at = *p;
    char letter = at[0] == '0' ? (char)(at[1] | 0x20) : '\0';
    int named = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (named && (*base == named || *base == 0) && digit_value(at[2] == '_' ? at[3] : at[2]) < named) {
        *p = at + (at[2] == '_' ? 3 : 2);
        *base = named;
    }
    if (*base == 0) *base = 10;
}

bool kvq_tpl_parse_int(const char *bytes, size_t n_bytes, int base, int64_t *ret, bool *ret_overflow) {
    char text[512];
    uint64_t value = 0;
    *ret_overflow = false;
    trim_ascii(&bytes, &n_bytes);
    if (n_bytes == 0 || n_bytes >= sizeof text) return false;
    memcpy(text, bytes, n_bytes);
    text[n_bytes] = '\0';
    const char *p = text;
    bool negative = *p == '-';
    if (*p == '+' || *p == '-') p++;
    bool from_prefix = base == 0;
    skip_prefix(&p, &base);
    bool zero_first = from_prefix && base == 10 && p[0] == '0';
    bool after_digit = false;
    for (; *p; p++) {
        if (*p == '_' && after_digit) {
            after_digit = false;
            continue;
        }
        int digit = digit_value(*p);
        if (digit >= base) return false;
        if (zero_first && digit != 0) return false; /* "012" is no number in base 0 */
        after_digit = true;
        if (__builtin_mul_overflow(value, (uint64_t)base, &value) ||
            __builtin_add_overflow(value, (uint64_t)digit, &value))
            *ret_overflow = true;
    }
    if (!after_digit) return false;
    if (value > (uint64_t)INT64_MAX + negative) *ret_overflow = true;
    *ret = negative ? (int64_t)(0 - value) : (int64_t)value;
    return true;
}

/* ---- str and repr ---------------------------------------------------------------------------------------------- */

static void put_hex(kvq_tpl_run *r, char letter, int n_digits, int32_t c) {
    char text[16];
    int n = snprintf(text, sizeof text, "\\%c%0*x", letter, n_digits, (unsigned)c);
    kvq_tpl_put(r, text, (size_t)n);
}

static void put_repr_char(kvq_tpl_run *r, char quote, const char *at, size_t n) {
    int32_t c = kvq_tpl_decode(at);
    if (c == quote || c == '\\') {
        kvq_tpl_put_char(r, '\\');
        kvq_tpl_put_char(r, (char)c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
        kvq_tpl_put_text(r, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
    } else if (kvq_tpl_is_printable(c)) {
        kvq_tpl_put(r, at, n);
    } else if (c < 0x100) {
        put_hex(r, 'x', 2, c);
    } else {
        put_hex(r, c < 0x10000 ? 'u' : 'U', c < 0x10000 ? 4 : 8, c);
    }
}

static void put_repr_string(kvq_tpl_run *r, const kvq_tpl_string *s) {
    bool single = memchr(s->bytes, '\'', s->n_bytes) != NULL,
         both = single && memchr(s->bytes, '"', s->n_bytes) != NULL;
    char quote = single && !both ? '"' : '\'';
    kvq_tpl_charge(r, s->n_bytes / 16);
    kvq_tpl_put_char(r, quote);
    for (size_t at = 0; at < s->n_bytes;) {
        size_t n = kvq_tpl_char_bytes(s->bytes + at);
        put_repr_char(r, quote, s->bytes + at, n);
        at += n;
    }
    kvq_tpl_put_char(r, quote);
}

static void put_repr_list(kvq_tpl_run *r, kvq_tpl_value v) {
    bool tuple = v.kind == KVQ_TPL_TUPLE;
    kvq_tpl_put_char(r, tuple ? '(' : '[');
    for (size_t i = 0; i < v.as.list->n; i++) {
        if (i) kvq_tpl_put_text(r, ", ");
        kvq_tpl_put_repr(r, v.as.list->items[i]);
    }
    if (tuple && v.as.list->n == 1) kvq_tpl_put_char(r, ',');
    kvq_tpl_put_char(r, tuple ? ')' : ']');
}

static void put_repr_dict(kvq_tpl_run *r, const kvq_tpl_dict *d) {
    kvq_tpl_put_char(r, '{');
    for (size_t i = 0; i < d->n; i++) {
        if (i) kvq_tpl_put_text(r, ", ");
        kvq_tpl_put_repr(r, d->entries[i].key);
        kvq_tpl_put_text(r, ": ");
        kvq_tpl_put_repr(r, d->entries[i].value);
    }
    kvq_tpl_put_char(r, '}');
}

static void put_repr_view(kvq_tpl_run *r, kvq_tpl_value v) {
    kvq_tpl_put_text(r, kvq_tpl_type_name(v));
    kvq_tpl_put_char(r, '(');
    put_repr_list(r, kvq_tpl_list_value(kvq_tpl_collect(r, v)));
    kvq_tpl_put_char(r, ')');
}

static void put_repr_range(kvq_tpl_run *r, const kvq_tpl_range *range) {
    kvq_tpl_put_text(r, "range(");
    kvq_tpl_put_int(r, range->start);
    kvq_tpl_put_text(r, ", ");
    kvq_tpl_put_int(r, range->stop);
    if (range->step != 1) {
        kvq_tpl_put_text(r, ", ");
        kvq_tpl_put_int(r, range->step);
    }
    kvq_tpl_put_char(r, ')');
}

static void put_repr_loop(kvq_tpl_run *r, kvq_tpl_loop *loop) {
    kvq_tpl_put_text(r, "<LoopContext ");
    kvq_tpl_put_int(r, loop->index0 + 1);
    kvq_tpl_put_char(r, '/');
    kvq_tpl_put_int(r, kvq_tpl_loop_length(r, loop));
    kvq_tpl_put_char(r, '>');
}

static void put_repr_macro(kvq_tpl_run *r, const kvq_tpl_macro *m) {
    kvq_tpl_put_text(r, "<Macro ");
    if (m->name)
        put_repr_string(r, m->name);
    else
        kvq_tpl_put_text(r, "anonymous");
    kvq_tpl_put_char(r, '>');
}

static void put_repr(kvq_tpl_run *r, kvq_tpl_value v) {
    switch (v.kind) {
    case KVQ_TPL_UNDEFINED:
        kvq_tpl_put_text(r, "Undefined");
        break;
    case KVQ_TPL_NONE:
        kvq_tpl_put_text(r, "None");
        break;
    case KVQ_TPL_BOOL:
        kvq_tpl_put_text(r, v.as.boolean ? "True" : "False");
        break;
    case KVQ_TPL_INT:
        kvq_tpl_put_int(r, v.as.integer);
        break;
    case KVQ_TPL_FLOAT:
        kvq_tpl_put_real(r, v.as.real);
        break;
    case KVQ_TPL_STRING:
        if (v.flag) kvq_tpl_put_text(r, "Markup(");
        put_repr_string(r, v.as.text);
        if (v.flag) kvq_tpl_put_char(r, ')');
        break;
    case KVQ_TPL_LIST:
    case KVQ_TPL_TUPLE:
        put_repr_list(r, v);
        break;
    case KVQ_TPL_DICT:
        put_repr_dict(r, v.as.dict);
        break;
    case KVQ_TPL_VIEW:
        put_repr_view(r, v);
        break;
    case KVQ_TPL_RANGE:
        put_repr_range(r, v.as.range);
        break;
    case KVQ_TPL_NAMESPACE:
        kvq_tpl_put_text(r, "<Namespace ");
        put_repr_dict(r, v.as.dict);
        kvq_tpl_put_char(r, '>');
        break;
    case KVQ_TPL_LOOP:
        put_repr_loop(r, v.as.loop);
        break;
    case KVQ_TPL_MACRO:
        put_repr_macro(r, v.as.macro);
        break;
    default: /* Python prints an address here, which no template can mean */
        kvq_tpl_put_char(r, '<');
        kvq_tpl_put_text(r, kvq_tpl_type_name(v));
        kvq_tpl_put_text(r, " object>");
    }
}

void kvq_tpl_put_repr(kvq_tpl_run *r, kvq_tpl_value v) {
    kvq_tpl_charge(r, 1);
    kvq_tpl_enter(r);
    put_repr(r, v);
    kvq_tpl_leave(r);
}

void kvq_tpl_put_str(kvq_tpl_run *r, kvq_tpl_value v) {
    if (v.kind == KVQ_TPL_STRING)
        kvq_tpl_put(r, v.as.text->bytes, v.as.text->n_bytes);
    else if (v.kind != KVQ_TPL_UNDEFINED)
        kvq_tpl_put_repr(r, v);
}

kvq_tpl_value kvq_tpl_str(kvq_tpl_run *r, kvq_tpl_value v) {
    v = kvq_tpl_soft_str(r, v);
    v.flag = 0;
    return v;
}

kvq_tpl_value kvq_tpl_soft_str(kvq_tpl_run *r, kvq_tpl_value v) {
    if (v.kind == KVQ_TPL_STRING) return v;
    size_t mark = r->n_out;
    kvq_tpl_put_str(r, v);
    return kvq_tpl_take(r, mark);
}

kvq_tpl_value kvq_tpl_repr(kvq_tpl_run *r, kvq_tpl_value v) {
    size_t mark = r->n_out;
    kvq_tpl_put_repr(r, v);
    return kvq_tpl_take(r, mark);
}

/* ---- JSON: json.dumps ------------------------------------------------------------------------------------------ */

static void put_json_escape(kvq_tpl_run *r, int32_t c) {
    if (c >= 0x10000) {
        put_hex(r, 'u', 4, 0xD800 + ((c - 0x10000) >> 10));
        put_hex(r, 'u', 4, 0xDC00 + ((c - 0x10000) & 0x3FF));
    } else {
        put_hex(r, 'u', 4, c);
    }
}

static void put_json_string(kvq_tpl_run *r, const kvq_tpl_string *s, bool ensure_ascii) {
    static const char *const short_escapes[128] = {['"'] = "\\\"", ['\\'] = "\\\\", ['\n'] = "\\n", ['\r'] = "\\r",
                                                   ['\t'] = "\\t", ['\b'] = "\\b",  ['\f'] = "\\f"};
    size_t from = 0, n;
    kvq_tpl_charge(r, s->n_bytes / 32);
    kvq_tpl_put_char(r, '"');
    for (size_t at = 0; at < s->n_bytes; at += n) {
        int32_t c = kvq_tpl_decode(s->bytes + at);
        n = kvq_tpl_char_bytes(s->bytes + at);
        const char *escape = c < 128 ? short_escapes[c] : NULL;
        if (!escape && c >= 0x20 && (c < 127 || !ensure_ascii)) continue;
        kvq_tpl_put(r, s->bytes + from, at - from);
        from = at + n;
        if (escape)
            kvq_tpl_put_text(r, escape);
        else
            put_json_escape(r, c);
    }
    kvq_tpl_put(r, s->bytes + from, s->n_bytes - from);
    kvq_tpl_put_char(r, '"');
}

static void put_json_real(kvq_tpl_run *r, double d) {
    if (isnan(d))
        kvq_tpl_put_text(r, "NaN");
    else if (isinf(d))
        kvq_tpl_put_text(r, d < 0 ? "-Infinity" : "Infinity");
    else
        kvq_tpl_put_real(r, d);
}

static void put_json_break(kvq_tpl_run *r, const kvq_tpl_json_options *o, int level) {
    if (!o->indent) return;
    kvq_tpl_put_char(r, '\n');
    kvq_tpl_put_fill(r, o->indent, level);
}

static void put_json_value(kvq_tpl_run *r, kvq_tpl_value v, const kvq_tpl_json_options *o, int level);

static void put_json_list(kvq_tpl_run *r, const kvq_tpl_list *l, const kvq_tpl_json_options *o, int level) {
    kvq_tpl_put_char(r, '[');
    for (size_t i = 0; i < l->n; i++) {
        if (i) kvq_tpl_put(r, o->item_separator->bytes, o->item_separator->n_bytes);
        put_json_break(r, o, level + 1);
        put_json_value(r, l->items[i], o, level + 1);
    }
    if (l->n) put_json_break(r, o, level);
    kvq_tpl_put_char(r, ']');
}

/* Keys that are not strings are written as the text of their value. */
static kvq_tpl_value json_key(kvq_tpl_run *r, kvq_tpl_value key) {
    if (key.kind == KVQ_TPL_STRING) return key;
    if (!kvq_tpl_is_number(key) && key.kind != KVQ_TPL_NONE)
        kvq_tpl_fail(r, KVQ_BAD_FILE, "tojson: keys must be strings, numbers or none, not '%s'",
                     kvq_tpl_type_name(key));
    size_t mark = r->n_out;
    if (key.kind == KVQ_TPL_FLOAT)
        put_json_real(r, key.as.real);
    else if (key.kind == KVQ_TPL_INT)
        kvq_tpl_put_int(r, key.as.integer);
    else
        kvq_tpl_put_text(r, key.kind == KVQ_TPL_NONE ? "null" : key.as.boolean ? "true" : "false");
    return kvq_tpl_take(r, mark);
}

/* Indices of the entries in order of their keys: a merge sort, since Python's is stable and keys may be equal (1, 1.0).
 */
static void sort_keys(kvq_tpl_run *r, const kvq_tpl_dict *d, size_t *order, size_t *spare, size_t n) {
    if (n < 2) return;
    size_t half = n / 2, left = 0, right = half;
    kvq_tpl_enter(r);
    sort_keys(r, d, order, spare, half);
    sort_keys(r, d, order + half, spare, n - half);
    kvq_tpl_leave(r);
    for (size_t i = 0; i < n; i++) {
        bool take_right = left == half || (right < n && kvq_tpl_compare(r, KVQ_TPL_LT, d->entries[order[right]].key,
                                                                        d->entries[order[left]].key));
        spare[i] = order[take_right ? right++ : left++];
    }
    memcpy(order, spare, n * sizeof *order);
}

static void put_json_dict(kvq_tpl_run *r, const kvq_tpl_dict *d, const kvq_tpl_json_options *o, int level) {
    size_t *order = kvq_tpl_alloc_array(r, d->n * 2, sizeof *order);
    for (size_t i = 0; i < d->n; i++) order[i] = i;
    if (o->sort_keys) sort_keys(r, d, order, order + d->n, d->n);
    kvq_tpl_put_char(r, '{');
    for (size_t i = 0; i < d->n; i++) {
        const kvq_tpl_entry *e = &d->entries[order[i]];
        if (i) kvq_tpl_put(r, o->item_separator->bytes, o->item_separator->n_bytes);
        put_json_break(r, o, level + 1);
        put_json_string(r, json_key(r, e->key).as.text, o->ensure_ascii);
        kvq_tpl_put(r, o->key_separator->bytes, o->key_separator->n_bytes);
        put_json_value(r, e->value, o, level + 1);
    }
    if (d->n) put_json_break(r, o, level);
    kvq_tpl_put_char(r, '}');
}

static void put_json_value(kvq_tpl_run *r, kvq_tpl_value v, const kvq_tpl_json_options *o, int level) {
    kvq_tpl_charge(r, 1);
    kvq_tpl_enter(r);
    switch (v.kind) {
    case KVQ_TPL_NONE:
        kvq_tpl_put_text(r, "null");
        break;
    case KVQ_TPL_BOOL:
        kvq_tpl_put_text(r, v.as.boolean ? "true" : "false");
        break;
    case KVQ_TPL_INT:
        kvq_tpl_put_int(r, v.as.integer);
        break;
    case KVQ_TPL_FLOAT:
        put_json_real(r, v.as.real);
        break;
    case KVQ_TPL_STRING:
        put_json_string(r, v.as.text, o->ensure_ascii);
        break;
    case KVQ_TPL_LIST:
    case KVQ_TPL_TUPLE:
        put_json_list(r, v.as.list, o, level);
        break;
    case KVQ_TPL_DICT:
        put_json_dict(r, v.as.dict, o, level);
        break;
    default:
        kvq_tpl_fail(r, KVQ_BAD_FILE, "tojson: a value of type '%s' has no JSON form", kvq_tpl_type_name(v));
    }
    kvq_tpl_leave(r);
}

void kvq_tpl_put_json(kvq_tpl_run *r, kvq_tpl_value v, const kvq_tpl_json_options *options) {
    put_json_value(r, v, options, 0);
}
