/* template_format.c: Python's two ways to format text: 'text %s' % values, and 'text {}'.format(values) with its format
 * specifications. Called by the operator %, the filter format and the method str.format. In Markup the values are
 * escaped. */
#include <math.h>
#include <string.h>

#include "template_internal.h"

/* What both ways come down to. */
typedef struct spec {
    const kvq_tpl_string *fill; /* one character */
    char align;                 /* < > ^ = or 0: as the type has it */
    char sign;                  /* + space or 0 */
    char grouping;              /* , _ or 0 */
    bool alternate;             /* 0x and the like */
    int64_t width, precision;   /* precision -1: not given */
    char type;                  /* 0: not given */
} spec;

static const kvq_tpl_string space = {" ", 1, 1}, zero = {"0", 1, 1};

/* Puts prefix and body, padded to the width. */
static void put_padded(kvq_tpl_run *r, const spec *s, char align, const char *prefix, kvq_tpl_value body) {
    int64_t n = (int64_t)(strlen(prefix) + body.as.text->n_chars), pad = s->width > n ? s->width - n : 0;
    int64_t left = align == '<' ? 0 : align == '^' ? pad / 2 : pad;
    if (align != '=') kvq_tpl_put_fill(r, s->fill, left);
    kvq_tpl_put_text(r, prefix);
    if (align == '=') kvq_tpl_put_fill(r, s->fill, pad);
    kvq_tpl_put_str(r, body);
    if (align != '=') kvq_tpl_put_fill(r, s->fill, pad - left);
}

static void put_text_field(kvq_tpl_run *r, const spec *s, kvq_tpl_value text) {
    const kvq_tpl_string *t = text.as.text;
    if (s->precision >= 0 && (size_t)s->precision < t->n_chars)
        text = kvq_tpl_text(r, t->bytes, kvq_tpl_char_offset(r, t, (size_t)s->precision));
    put_padded(r, s, s->align ? s->align : '<', "", text);
}

static void put_digits(kvq_tpl_run *r, uint64_t magnitude, unsigned base, bool upper, int64_t min_digits) {
    char digits[72];
    int64_t n = 0;
    const char *letters = upper ? "0123456789ABCDEF" : "0123456789abcdef";
    for (; magnitude || n == 0; magnitude /= base) digits[n++] = letters[magnitude % base];
    kvq_tpl_put_fill(r, &zero, min_digits - n);
    while (n > 0) kvq_tpl_put_char(r, digits[--n]);
}

/* Separators between groups of digits before the decimal point. */
static kvq_tpl_value grouped(kvq_tpl_run *r, kvq_tpl_value text, char separator, size_t group) {
    const kvq_tpl_string *t = text.as.text;
    size_t n = 0, mark = r->n_out;
    if (!separator) return text;
    while (n < t->n_bytes && strchr("0123456789abcdefABCDEF", t->bytes[n])) n++;
    for (size_t i = 0; i < n; i++) {
        if (i && (n - i) % group == 0) kvq_tpl_put_char(r, separator);
        kvq_tpl_put_char(r, t->bytes[i]);
    }
    kvq_tpl_put(r, t->bytes + n, t->n_bytes - n);
    return kvq_tpl_take(r, mark);
}

static const char *sign_text(const spec *s, bool negative) {
    return negative ? "-" : s->sign == '+' ? "+" : s->sign == ' ' ? " " : "";
}

static void put_int_field(kvq_tpl_run *r, const spec *s, int64_t i) {
    char prefix[4] = "", *p = prefix; /* sign, 0x */
    char type = s->type ? s->type : 'd';
    unsigned base = type == 'b' ? 2 : type == 'o' ? 8 : type == 'x' || type == 'X' ? 16 : 10;
    size_t mark = r->n_out;
    put_digits(r, i < 0 ? 0 - (uint64_t)i : (uint64_t)i, base, type == 'X', s->precision);
    kvq_tpl_value digits = grouped(r, kvq_tpl_take(r, mark), s->grouping, base == 10 ? 3 : 4);
    if (*sign_text(s, i < 0)) *p++ = *sign_text(s, i < 0);
    if (s->alternate && base != 10) {
        *p++ = '0';
        *p++ = type;
    }
    put_padded(r, s, s->align ? s->align : '>', prefix, digits);
}

/* The magnitude of d: Python's default is repr, or with a precision a 'g' that keeps a digit after the point. */
static void put_magnitude(kvq_tpl_run *r, const spec *s, double d) {
    char type = s->type;
    int64_t precision = s->precision;
    if (precision > 150) kvq_tpl_fail(r, KVQ_NO_SPACE, "a precision of more than 150 digits");
    if (!type && precision < 0) {
        kvq_tpl_put_real(r, d);
        return;
    }
    size_t mark = r->n_out;
    if (precision < 0) precision = 6;
    kvq_tpl_put_fixed(r, type == '%' ? 'f' : type ? type : 'g', (int)precision, type == '%' ? d * 100 : d);
    bool has_point = memchr(r->out + mark, '.', r->n_out - mark) || memchr(r->out + mark, 'e', r->n_out - mark);
    if (!type && !has_point && isfinite(d)) kvq_tpl_put_text(r, ".0");
    if (type == '%') kvq_tpl_put_char(r, '%');
}

static void put_real_field(kvq_tpl_run *r, const spec *s, double d) {
    size_t mark = r->n_out;
    if (s->alternate) kvq_tpl_fail(r, KVQ_UNSUPPORTED, "'#' with a float is not supported");
    put_magnitude(r, s, fabs(d));
    kvq_tpl_value body = grouped(r, kvq_tpl_take(r, mark), s->grouping, 3);
    bool upper = s->type == 'E' || s->type == 'F' || s->type == 'G';
    if (upper) body = kvq_tpl_change_case(r, KVQ_TPL_UPPER, body.as.text);
    put_padded(r, s, s->align ? s->align : '>', sign_text(s, signbit(d) && !isnan(d)), body);
}

static kvq_tpl_value escaped(kvq_tpl_run *r, kvq_tpl_value text, bool markup) {
    return markup && !text.flag ? kvq_tpl_escape(r, text.as.text) : text;
}

/* ---- text % values --------------------------------------------------------------------------------------------- */

typedef struct percent {
    kvq_tpl_run *r;
    const char *at, *end;
    bool markup;
    kvq_tpl_value values;
    bool is_tuple, is_mapping;
    size_t n_used; /* of a tuple, or 1 for the single value */
} percent;

static char peek(const percent *p) {
    return p->at < p->end ? *p->at : '\0';
}

static kvq_tpl_value next_value(percent *p) {
    size_t n = p->is_tuple ? p->values.as.list->n : 1;
    if (p->n_used >= n) kvq_tpl_fail(p->r, KVQ_BAD_FILE, "not enough arguments for the format string");
    return p->is_tuple ? p->values.as.list->items[p->n_used++] : (p->n_used++, p->values);
}

static kvq_tpl_value keyed_value(percent *p) {
    const char *from = ++p->at;
    int depth = 1;
    kvq_tpl_value v;
    for (; p->at < p->end; p->at++) {
        depth += (*p->at == '(') - (*p->at == ')');
        if (depth == 0) break;
    }
    if (p->at >= p->end) kvq_tpl_fail(p->r, KVQ_BAD_FILE, "incomplete format key");
    if (!p->is_mapping) kvq_tpl_fail(p->r, KVQ_BAD_FILE, "the format string needs a mapping");
    if (p->values.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(p->r, p->values);
    kvq_tpl_value key = kvq_tpl_text(p->r, from, (size_t)(p->at - from));
    p->at++;
    if (p->values.kind != KVQ_TPL_DICT || !kvq_tpl_dict_find(p->r, p->values.as.dict, key, &v))
        kvq_tpl_fail(p->r, KVQ_BAD_FILE, "the format string's key is missing");
    return v;
}

static int64_t star_or_number(percent *p) {
    int64_t n = 0;
    if (peek(p) == '*') {
        p->at++;
        kvq_tpl_value v = next_value(p);
        if (!kvq_tpl_is_integer(v)) kvq_tpl_fail(p->r, KVQ_BAD_FILE, "* wants an integer");
        return kvq_tpl_as_int(v);
    }
    for (; peek(p) >= '0' && peek(p) <= '9'; p->at++) {
        if (n > INT32_MAX / 10) kvq_tpl_fail(p->r, KVQ_NO_SPACE, "a width is too large");
        n = n * 10 + (peek(p) - '0');
    }
    return n;
}

static double real_of(percent *p, kvq_tpl_value v) {
    if (v.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(p->r, v);
    if (!kvq_tpl_is_number(v))
        kvq_tpl_fail(p->r, KVQ_BAD_FILE, "the format needs a number, not '%s'", kvq_tpl_type_name(v));
    return kvq_tpl_as_real(v);
}

static int64_t int_of(percent *p, kvq_tpl_value v, bool from_float) {
    double d = real_of(p, v);
    if (kvq_tpl_is_integer(v)) return kvq_tpl_as_int(v);
    if (!from_float || !(d > -9e18 && d < 9e18)) kvq_tpl_fail(p->r, KVQ_BAD_FILE, "the format needs an integer");
    return (int64_t)d;
}

static kvq_tpl_value char_of(percent *p, kvq_tpl_value v) {
    if (v.kind == KVQ_TPL_STRING && v.as.text->n_chars == 1) return v;
    int64_t c = int_of(p, v, false);
    if (c < 0 || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) kvq_tpl_fail(p->r, KVQ_BAD_FILE, "%%c: not a character");
    size_t mark = p->r->n_out;
    kvq_tpl_put_point(p->r, (int32_t)c);
    return kvq_tpl_take(p->r, mark);
}

static void put_conversion(percent *p, const spec *s, kvq_tpl_value v) {
    switch (s->type) {
    case 's':
        put_text_field(p->r, s, escaped(p->r, kvq_tpl_soft_str(p->r, v), p->markup));
        break;
    case 'r':
        put_text_field(p->r, s, escaped(p->r, kvq_tpl_repr(p->r, v), p->markup));
        break;
    case 'c':
        put_text_field(p->r, s, char_of(p, v));
        break;
    case 'd':
        put_int_field(p->r, s, int_of(p, v, true));
        break;
    case 'o':
    case 'x':
    case 'X':
        put_int_field(p->r, s, int_of(p, v, false));
        break;
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        put_real_field(p->r, s, real_of(p, v));
        break;
    default:
        kvq_tpl_fail(p->r, KVQ_BAD_FILE, "unsupported format character");
    }
}

/* One %... after the percent sign. */
static void percent_field(percent *p) {
    spec s = {.fill = &space, .precision = -1, .align = '>'};
    kvq_tpl_value v = kvq_tpl_missing;
    bool zero_flag = false, minus = false;
    if (peek(p) == '(') v = keyed_value(p);
    for (; peek(p) && strchr("#0- +", peek(p)); p->at++) {
        if (*p->at == '#') s.alternate = true;
        if (*p->at == '0') zero_flag = true;
        if (*p->at == '-') minus = true;
        if (*p->at == '+' || (*p->at == ' ' && !s.sign)) s.sign = *p->at;
    }
    s.width = star_or_number(p);
    if (s.width < 0) {
        minus = true;
        s.width = -s.width;
    }
    if (peek(p) == '.') {
        p->at++;
        s.precision = star_or_number(p);
        if (s.precision < 0) s.precision = 0;
    }
    while (peek(p) && strchr("hlL", peek(p))) p->at++;
    if (p->at >= p->end) kvq_tpl_fail(p->r, KVQ_BAD_FILE, "incomplete format");
    s.type = *p->at++;
    if (s.type == '%') {
        kvq_tpl_put_char(p->r, '%');
        return;
    }
    if (s.type == 'i' || s.type == 'u') s.type = 'd';
    if (minus) {
        s.align = '<';
    } else if (zero_flag && strchr("doxXeEfFgG", s.type)) {
        s.align = '=';
        s.fill = &zero;
    }
    put_conversion(p, &s, v.kind == KVQ_TPL_MISSING ? next_value(p) : v);
}

kvq_tpl_value kvq_tpl_percent(kvq_tpl_run *r, kvq_tpl_value format, kvq_tpl_value values) {
    const kvq_tpl_string *f = format.as.text;
    percent p = {.r = r, .at = f->bytes, .end = f->bytes + f->n_bytes, .markup = format.flag, .values = values};
    p.is_tuple = values.kind == KVQ_TPL_TUPLE;
    p.is_mapping = kvq_tpl_kind_infos[values.kind].indexed && !p.is_tuple && values.kind != KVQ_TPL_STRING;
    size_t mark = r->n_out;
    while (p.at < p.end) {
        kvq_tpl_charge(r, 1);
        if (*p.at++ == '%')
            percent_field(&p);
        else
            kvq_tpl_put_char(r, p.at[-1]);
    }
    if (!p.is_mapping && p.n_used < (p.is_tuple ? values.as.list->n : 1))
        kvq_tpl_fail(r, KVQ_BAD_FILE, "not all arguments are used by the format string");
    kvq_tpl_value v = kvq_tpl_take(r, mark);
    v.flag = format.flag;
    return v;
}

/* ---- text.format(values) --------------------------------------------------------------------------------------- */

typedef struct formatter {
    kvq_tpl_run *r;
    const kvq_tpl_args *args;
    bool markup;
    int64_t next_index; /* of {}; -1: numbered by hand */
} formatter;

static spec parse_spec(kvq_tpl_run *r, const kvq_tpl_string *text) {
    spec s = {.fill = &space, .precision = -1};
    const char *p = text->bytes, *end = p + text->n_bytes;
    size_t n_fill = p < end ? kvq_tpl_char_bytes(p) : 0;
    if (n_fill && p + n_fill < end && strchr("<>=^", p[n_fill])) {
        s.fill = kvq_tpl_text(r, p, n_fill).as.text;
        s.align = p[n_fill];
        p += n_fill + 1;
    } else if (p < end && strchr("<>=^", *p)) {
        s.align = *p++;
    }
    if (p < end && strchr("+- ", *p)) s.sign = *p++;
    if (p < end && *p == '#') s.alternate = p++ != NULL;
    if (p < end && *p == '0') {
        if (!s.align) {
            s.fill = &zero;
            s.align = '=';
        }
        p++;
    }
    for (; p < end && *p >= '0' && *p <= '9'; p++) {
        if (s.width > INT32_MAX / 10) kvq_tpl_fail(r, KVQ_NO_SPACE, "a width is too large");
        s.width = s.width * 10 + (*p - '0');
    }
    if (p < end && (*p == ',' || *p == '_')) s.grouping = *p++;
    if (p < end && *p == '.') {
        if (++p >= end || *p < '0' || *p > '9') kvq_tpl_fail(r, KVQ_BAD_FILE, "format specifier missing precision");
        for (s.precision = 0; p < end && *p >= '0' && *p <= '9'; p++) {
            if (s.precision > INT32_MAX / 10) kvq_tpl_fail(r, KVQ_NO_SPACE, "a precision is too large");
            s.precision = s.precision * 10 + (*p - '0');
        }
    }
    if (p < end) s.type = *p++;
    if (p < end) kvq_tpl_fail(r, KVQ_BAD_FILE, "invalid format specifier");
    if (s.grouping && s.align == '=' && s.width) kvq_tpl_fail(r, KVQ_UNSUPPORTED, "zero padding with grouping");
    return s;
}

__attribute__((noreturn)) static void fail_spec(kvq_tpl_run *r, kvq_tpl_value v) {
    kvq_tpl_fail(r, KVQ_BAD_FILE, "this format specifier does not fit '%s'", kvq_tpl_type_name(v));
}

/* Python's format(v, spec). */
static void put_formatted(kvq_tpl_run *r, kvq_tpl_value v, const kvq_tpl_string *text) {
    if (text->n_bytes == 0) {
        kvq_tpl_put_str(r, v);
        return;
    }
    spec s = parse_spec(r, text);
    if (v.kind == KVQ_TPL_STRING) {
        if ((s.type && s.type != 's') || s.sign || s.alternate || s.grouping || (s.align == '=' && s.fill != &zero))
            fail_spec(r, v);
        if (s.align == '=') s.align = '<';
        put_text_field(r, &s, v);
    } else if (kvq_tpl_is_integer(v) && (!s.type || strchr("bdoxX", s.type))) {
        if (s.precision >= 0 || (s.grouping == ',' && s.type && s.type != 'd')) fail_spec(r, v);
        put_int_field(r, &s, kvq_tpl_as_int(v));
    } else if (kvq_tpl_is_number(v) && (!s.type || strchr("eEfFgG%", s.type))) {
        put_real_field(r, &s, kvq_tpl_as_real(v));
    } else {
        fail_spec(r, v);
    }
}

/* The value a field's name begins with; *at moves past it. */
static kvq_tpl_value first_value(formatter *f, const char **at, const char *end) {
    const char *from = *at;
    int64_t index;
    bool overflow;
    while (*at < end && **at != '.' && **at != '[') (*at)++;
    size_t n = (size_t)(*at - from);
    if (n && (from[0] < '0' || from[0] > '9')) {
        for (size_t i = 0; i < f->args->n_names; i++)
            if (f->args->names[i]->n_bytes == n && memcmp(f->args->names[i]->bytes, from, n) == 0)
                return f->args->values[i];
        kvq_tpl_fail(f->r, KVQ_BAD_FILE, "format: no argument is named '%.*s'", n > 80 ? 80 : (int)n, from);
    }
    if (n == 0 && *at < end) kvq_tpl_fail(f->r, KVQ_BAD_FILE, "format: a field without name or number");
    if ((n == 0 && f->next_index < 0) || (n && f->next_index > 0))
        kvq_tpl_fail(f->r, KVQ_BAD_FILE, "format: fields numbered by hand and not at once");
    if (n == 0)
        index = f->next_index++;
    else if (!kvq_tpl_parse_int(from, n, 10, &index, &overflow) || overflow)
        kvq_tpl_fail(f->r, KVQ_BAD_FILE, "format: a bad field number");
    else
        f->next_index = -1;
    if ((size_t)index >= f->args->n) kvq_tpl_fail(f->r, KVQ_BAD_FILE, "format: there is no argument %d", (int)index);
    return f->args->items[index];
}

static kvq_tpl_value field_value(formatter *f, const char *at, const char *end) {
    int64_t index;
    bool overflow;
    kvq_tpl_value v = first_value(f, &at, end);
    while (at < end) {
        char opener = *at++;
        const char *from = at;
        while (at < end && (opener == '[' ? *at != ']' : *at != '.' && *at != '[')) at++;
        size_t n = (size_t)(at - from);
        if (n == 0 || (opener == '[' && at >= end)) kvq_tpl_fail(f->r, KVQ_BAD_FILE, "format: a bad field");
        kvq_tpl_value part = kvq_tpl_text(f->r, from, n);
        if (opener == '[' && from[0] >= '0' && from[0] <= '9' && kvq_tpl_parse_int(from, n, 10, &index, &overflow))
            part = kvq_tpl_int(index);
        v = opener == '[' ? kvq_tpl_get_item(f->r, v, part) : kvq_tpl_get_attribute(f->r, v, part.as.text);
        if (opener == '[' && ++at < end && at[-1] == ']' && *at != '.' && *at != '[')
            kvq_tpl_fail(f->r, KVQ_BAD_FILE, "format: only . or [ may follow ]");
    }
    return v;
}

static void put_format(formatter *f, const char *at, const char *end, int depth);

/* {name!conversion:specification}; at is behind the brace, end on the closing one. */
static void put_field(formatter *f, const char *at, const char *end, int depth) {
    const char *name_end = at;
    int brackets = 0;
    char conversion = '\0';
    for (; name_end < end && (brackets || (*name_end != '!' && *name_end != ':')); name_end++)
        brackets += (*name_end == '[') - (*name_end == ']');
    kvq_tpl_value v = field_value(f, at, name_end);
    at = name_end;
    if (at < end && *at == '!') {
        if (end - at < 2 || (end - at > 2 && at[2] != ':'))
            kvq_tpl_fail(f->r, KVQ_BAD_FILE, "format: a bad conversion");
        conversion = at[1];
        at += 2;
    }
    if (conversion && conversion != 's' && conversion != 'r')
        kvq_tpl_fail(f->r, conversion == 'a' ? KVQ_UNSUPPORTED : KVQ_BAD_FILE, "format: conversion !%c", conversion);
    if (conversion == 's') v = kvq_tpl_str(f->r, v);
    if (conversion == 'r') v = kvq_tpl_repr(f->r, v);
    size_t mark = f->r->n_out;
    if (at < end) put_format(f, at + 1, end, depth + 1);
    const kvq_tpl_string *text = kvq_tpl_take(f->r, mark).as.text;
    if (!f->markup) {
        put_formatted(f->r, v, text);
        return;
    }
    bool is_markup = v.kind == KVQ_TPL_STRING && v.flag;
    if (is_markup && text->n_bytes) kvq_tpl_fail(f->r, KVQ_BAD_FILE, "format: no format specifier for Markup");
    put_formatted(f->r, v, text);
    kvq_tpl_value body = kvq_tpl_take(f->r, mark);
    kvq_tpl_put_str(f->r, is_markup ? body : kvq_tpl_escape(f->r, body.as.text));
}

static void put_format(formatter *f, const char *at, const char *end, int depth) {
    if (depth > 2) kvq_tpl_fail(f->r, KVQ_BAD_FILE, "format: nested too deeply");
    while (at < end) {
        kvq_tpl_charge(f->r, 1);
        char c = *at++;
        if ((c == '{' || c == '}') && at < end && *at == c && depth == 1) {
            kvq_tpl_put_char(f->r, c);
            at++;
        } else if (c == '{') {
            const char *from = at;
            for (int open = 1; at < end; at++) {
                open += (*at == '{') - (*at == '}');
                if (open == 0) break;
            }
            if (at >= end) kvq_tpl_fail(f->r, KVQ_BAD_FILE, "format: '{' is not closed");
            put_field(f, from, at, depth);
            at++;
        } else if (c == '}') {
            kvq_tpl_fail(f->r, KVQ_BAD_FILE, "format: a single '}'");
        } else {
            kvq_tpl_put_char(f->r, c);
        }
    }
}

kvq_tpl_value kvq_tpl_format(kvq_tpl_run *r, kvq_tpl_value format, const kvq_tpl_args *args) {
    formatter f = {.r = r, .args = args, .markup = format.flag};
    size_t mark = r->n_out;
    put_format(&f, format.as.text->bytes, format.as.text->bytes + format.as.text->n_bytes, 1);
    kvq_tpl_value v = kvq_tpl_take(r, mark);
    v.flag = format.flag;
    return v;
}
