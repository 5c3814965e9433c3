/* template_operate.c: Python's binary operators and slices over values. Called by template_eval.c and the filters that
 * add, divide or reverse. */
#include <math.h>
#include <string.h>

#include "template_internal.h"

__attribute__((noreturn)) static void fail_operands(kvq_tpl_run *r, int token, kvq_tpl_value a, kvq_tpl_value b) {
    if (a.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, a);
    if (b.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, b);
    kvq_tpl_fail(r, KVQ_BAD_FILE, "'%s' does not work on '%s' and '%s'", kvq_tpl_token_name((kvq_tpl_token_kind)token),
                 kvq_tpl_type_name(a), kvq_tpl_type_name(b));
}

__attribute__((noreturn)) static void fail_overflow(kvq_tpl_run *r) {
    kvq_tpl_fail(r, KVQ_UNSUPPORTED, "an integer is too large for 64 bits");
}

__attribute__((noreturn)) static void fail_zero(kvq_tpl_run *r) {
    kvq_tpl_fail(r, KVQ_BAD_FILE, "division by zero");
}

/* ---- integers -------------------------------------------------------------------------------------------------- */

static int64_t floor_divide(kvq_tpl_run *r, int64_t a, int64_t b) {
    if (b == 0) fail_zero(r);
    if (a == INT64_MIN && b == -1) fail_overflow(r);
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

/* The remainder has the sign of the divisor. */
static int64_t floor_modulo(kvq_tpl_run *r, int64_t a, int64_t b) {
    if (b == 0) fail_zero(r);
    if (b == -1) return 0;
    int64_t m = a % b;
    return m != 0 && (m < 0) != (b < 0) ? m + b : m;
}

static int64_t int_power(kvq_tpl_run *r, int64_t base, int64_t exponent) {
    int64_t power = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(power, base, &power)) fail_overflow(r);
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base)) fail_overflow(r);
    }
    return power;
}

static double true_divide(kvq_tpl_run *r, int64_t a, int64_t b) {
    const int64_t exact = (int64_t)1 << 53;
    if (b == 0) fail_zero(r);
    if (a >= -exact && a <= exact && b >= -exact && b <= exact) return (double)a / (double)b;
    return (double)((long double)a / (long double)b);
}

static double real_power(kvq_tpl_run *r, double a, double b) {
    if (a == 0 && b < 0) fail_zero(r);
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
        kvq_tpl_fail(r, KVQ_UNSUPPORTED, "a complex number is not supported");
    double power = pow(a, b);
    if (isinf(power) && isfinite(a) && isfinite(b)) kvq_tpl_fail(r, KVQ_BAD_FILE, "a power is too large");
    return power;
}

static kvq_tpl_value operate_ints(kvq_tpl_run *r, int token, int64_t a, int64_t b) {
    int64_t c = 0;
    switch (token) {
    case KVQ_TPL_TOKEN_ADD:
        if (__builtin_add_overflow(a, b, &c)) fail_overflow(r);
        return kvq_tpl_int(c);
    case KVQ_TPL_TOKEN_SUB:
        if (__builtin_sub_overflow(a, b, &c)) fail_overflow(r);
        return kvq_tpl_int(c);
    case KVQ_TPL_TOKEN_MUL:
        if (__builtin_mul_overflow(a, b, &c)) fail_overflow(r);
        return kvq_tpl_int(c);
    case KVQ_TPL_TOKEN_FLOORDIV:
        return kvq_tpl_int(floor_divide(r, a, b));
    case KVQ_TPL_TOKEN_MOD:
        return kvq_tpl_int(floor_modulo(r, a, b));
    case KVQ_TPL_TOKEN_DIV:
        return kvq_tpl_real(true_divide(r, a, b));
    default:
        return b >= 0 ? kvq_tpl_int(int_power(r, a, b)) : kvq_tpl_real(real_power(r, (double)a, (double)b));
    }
}

/* ---- floats: CPython's float_divmod ---------------------------------------------------------------------------- */

static double real_modulo(double a, double b, double *ret_quotient) {
    double mod = fmod(a, b), quotient = (a - mod) / b;
    if (mod != 0 && (b < 0) != (mod < 0)) {
        mod += b;
        quotient -= 1;
    } else if (mod == 0) {
        mod = copysign(0, b);
    }
    if (quotient != 0) {
        double whole = floor(quotient);
        *ret_quotient = quotient - whole > 0.5 ? whole + 1 : whole;
    } else {
        *ret_quotient = copysign(0, a / b);
    }
    return mod;
}

static double operate_reals(kvq_tpl_run *r, int token, double a, double b) {
    double quotient, mod;
    switch (token) {
    case KVQ_TPL_TOKEN_ADD:
        return a + b;
    case KVQ_TPL_TOKEN_SUB:
        return a - b;
    case KVQ_TPL_TOKEN_MUL:
        return a * b;
    case KVQ_TPL_TOKEN_POW:
        return real_power(r, a, b);
    default:
        break;
    }
    if (b == 0) fail_zero(r);
    if (token == KVQ_TPL_TOKEN_DIV) return a / b;
    mod = real_modulo(a, b, &quotient);
    return token == KVQ_TPL_TOKEN_MOD ? mod : quotient;
}

/* ---- strings and lists ----------------------------------------------------------------------------------------- */

static kvq_tpl_value add_strings(kvq_tpl_run *r, kvq_tpl_value a, kvq_tpl_value b) {
    bool markup = a.flag || b.flag;
    if (markup && !a.flag) a = kvq_tpl_escape(r, a.as.text);
    if (markup && !b.flag) b = kvq_tpl_escape(r, b.as.text);
    if (b.as.text->n_bytes == 0 || a.as.text->n_bytes == 0) {
        kvq_tpl_value only = b.as.text->n_bytes == 0 ? a : b;
        only.flag = markup;
        return only;
    }
    size_t mark = r->n_out;
    kvq_tpl_put_str(r, a);
    kvq_tpl_put_str(r, b);
    kvq_tpl_value v = kvq_tpl_take(r, mark);
    v.flag = markup;
    return v;
}

static kvq_tpl_value add_lists(kvq_tpl_run *r, kvq_tpl_value a, kvq_tpl_value b) {
    size_t n = a.as.list->n + b.as.list->n;
    kvq_tpl_charge(r, n / 4);
    kvq_tpl_list *sum = kvq_tpl_list_new(r, n);
    for (size_t i = 0; i < a.as.list->n; i++) kvq_tpl_list_push(r, sum, a.as.list->items[i]);
    for (size_t i = 0; i < b.as.list->n; i++) kvq_tpl_list_push(r, sum, b.as.list->items[i]);
    return a.kind == KVQ_TPL_LIST ? kvq_tpl_list_value(sum) : kvq_tpl_tuple_value(sum);
}

static kvq_tpl_value repeat(kvq_tpl_run *r, kvq_tpl_value what, int64_t times) {
    if (what.kind == KVQ_TPL_STRING) {
        size_t mark = r->n_out;
        if (what.as.text->n_bytes) kvq_tpl_put_fill(r, what.as.text, times);
        kvq_tpl_value v = kvq_tpl_take(r, mark);
        v.flag = what.flag;
        return v;
    }
    kvq_tpl_list *list = kvq_tpl_list_new(r, 0);
    for (int64_t i = 0; what.as.list->n && i < times; i++) {
        kvq_tpl_charge(r, 1 + what.as.list->n / 4);
        for (size_t j = 0; j < what.as.list->n; j++) kvq_tpl_list_push(r, list, what.as.list->items[j]);
    }
    return what.kind == KVQ_TPL_LIST ? kvq_tpl_list_value(list) : kvq_tpl_tuple_value(list);
}

static bool is_repeatable(kvq_tpl_value v) {
    return v.kind == KVQ_TPL_STRING || v.kind == KVQ_TPL_LIST || v.kind == KVQ_TPL_TUPLE;
}

kvq_tpl_value kvq_tpl_binary(kvq_tpl_run *r, int token, kvq_tpl_value a, kvq_tpl_value b) {
    if (kvq_tpl_is_integer(a) && kvq_tpl_is_integer(b))
        return operate_ints(r, token, kvq_tpl_as_int(a), kvq_tpl_as_int(b));
    if (kvq_tpl_is_number(a) && kvq_tpl_is_number(b))
        return kvq_tpl_real(operate_reals(r, token, kvq_tpl_as_real(a), kvq_tpl_as_real(b)));
    switch (token) {
    case KVQ_TPL_TOKEN_ADD:
        if (a.kind == KVQ_TPL_STRING && b.kind == KVQ_TPL_STRING) return add_strings(r, a, b);
        if (a.kind == b.kind && (a.kind == KVQ_TPL_LIST || a.kind == KVQ_TPL_TUPLE)) return add_lists(r, a, b);
        break;
    case KVQ_TPL_TOKEN_MUL:
        if (is_repeatable(a) && kvq_tpl_is_integer(b)) return repeat(r, a, kvq_tpl_as_int(b));
        if (is_repeatable(b) && kvq_tpl_is_integer(a)) return repeat(r, b, kvq_tpl_as_int(a));
        break;
    case KVQ_TPL_TOKEN_MOD:
        if (a.kind == KVQ_TPL_STRING) return kvq_tpl_percent(r, a, b);
        break;
    default:
        break;
    }
    fail_operands(r, token, a, b);
}

kvq_tpl_value kvq_tpl_negate(kvq_tpl_run *r, kvq_tpl_value v) {
    if (v.kind == KVQ_TPL_FLOAT) return kvq_tpl_real(-v.as.real);
    if (v.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, v);
    if (!kvq_tpl_is_integer(v)) kvq_tpl_fail(r, KVQ_BAD_FILE, "'-' does not work on '%s'", kvq_tpl_type_name(v));
    return operate_ints(r, KVQ_TPL_TOKEN_SUB, 0, kvq_tpl_as_int(v));
}

/* ---- slices ---------------------------------------------------------------------------------------------------- */

/* A bound as an index within 0..n (or -1..n-1 going backwards). */
static int64_t slice_bound(kvq_tpl_run *r, kvq_tpl_value v, int64_t unset, int64_t n, bool backwards) {
    if (v.kind == KVQ_TPL_NONE || v.kind == KVQ_TPL_MISSING) return unset;
    if (!kvq_tpl_is_integer(v)) kvq_tpl_fail(r, KVQ_BAD_FILE, "slice indices must be integers or none");
    int64_t i = kvq_tpl_as_int(v), low = backwards ? -1 : 0, high = backwards ? n - 1 : n;
    if (i < 0) i = i < -n ? low : i + n;
    return i < low ? low : i > high ? high : i;
}

static kvq_tpl_value slice_string(kvq_tpl_run *r, kvq_tpl_value s, int64_t start, int64_t step, int64_t n) {
    const kvq_tpl_string *text = s.as.text;
    kvq_tpl_value v;
    if (step == 1 || n == 0) {
        size_t from = kvq_tpl_char_offset(r, text, (size_t)start);
        size_t to = kvq_tpl_char_offset(r, text, (size_t)(start + n));
        v = kvq_tpl_text(r, text->bytes + from, n ? to - from : 0);
    } else {
        kvq_tpl_value chars = kvq_tpl_list_value(kvq_tpl_collect(r, s));
        size_t mark = r->n_out;
        for (int64_t i = 0; i < n; i++) kvq_tpl_put_str(r, chars.as.list->items[start + i * step]);
        v = kvq_tpl_take(r, mark);
    }
    v.flag = s.flag;
    return v;
}

static kvq_tpl_value slice_list(kvq_tpl_run *r, kvq_tpl_value l, int64_t start, int64_t step, int64_t n) {
    kvq_tpl_list *part = kvq_tpl_list_new(r, (size_t)n);
    kvq_tpl_charge(r, (size_t)n / 4);
    for (int64_t i = 0; i < n; i++) kvq_tpl_list_push(r, part, l.as.list->items[start + i * step]);
    return l.kind == KVQ_TPL_LIST ? kvq_tpl_list_value(part) : kvq_tpl_tuple_value(part);
}

static kvq_tpl_value slice_range(kvq_tpl_run *r, const kvq_tpl_range *range, int64_t start, int64_t stop, int64_t step,
                                 int64_t n) {
    kvq_tpl_range *part = kvq_tpl_alloc(r, sizeof *part);
    part->start = kvq_tpl_range_at(range, start);
    part->stop = kvq_tpl_range_at(range, stop);
    part->n = n;
    if (__builtin_mul_overflow(range->step, step, &part->step)) fail_overflow(r);
    return (kvq_tpl_value){.kind = KVQ_TPL_RANGE, .as.range = part};
}

kvq_tpl_value kvq_tpl_slice(kvq_tpl_run *r, kvq_tpl_value object, kvq_tpl_value start, kvq_tpl_value stop,
                            kvq_tpl_value step) {
    if (object.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, object);
    if (!is_repeatable(object) && object.kind != KVQ_TPL_RANGE)
        kvq_tpl_fail(r, KVQ_BAD_FILE, "'%s' object cannot be sliced", kvq_tpl_type_name(object));
    int64_t n = kvq_tpl_length(r, object);
    int64_t by = slice_bound(r, step, 1, INT64_MAX / 2, false); /* only its type is checked here */
    if (kvq_tpl_is_integer(step)) by = kvq_tpl_as_int(step);
    if (by == 0) kvq_tpl_fail(r, KVQ_BAD_FILE, "slice step cannot be zero");
    bool backwards = by < 0;
    int64_t from = slice_bound(r, start, backwards ? n - 1 : 0, n, backwards);
    int64_t to = slice_bound(r, stop, backwards ? -1 : n, n, backwards);
    int64_t count = 0;
    if (backwards && from > to) count = by < -n ? 1 : (from - to - 1) / -by + 1;
    if (!backwards && from < to) count = by > n ? 1 : (to - from - 1) / by + 1;
    if (object.kind == KVQ_TPL_RANGE) return slice_range(r, object.as.range, from, to, by, count);
    if (count <= 1) by = 1; /* a huge step is never multiplied */
    if (object.kind == KVQ_TPL_STRING) return slice_string(r, object, count ? from : 0, by, count);
    return slice_list(r, object, from, by, count);
}
