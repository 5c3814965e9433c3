/* template_globals.c: THE table of functions every template can call, those of Jinja2 and of transformers. Called by
 * template.c when a render begins. */
#include <stdio.h>
#include <time.h>

#include "template_internal.h"

static kvq_tpl_value global_raise_exception(kvq_tpl_run *r, kvq_tpl_call *c) {
    const kvq_tpl_string *message = kvq_tpl_str(r, c->arg[0]).as.text;
    kvq_tpl_fail(r, KVQ_BAD_ARGUMENT, "%.*s", message->n_bytes > 400 ? 400 : (int)message->n_bytes, message->bytes);
}

/* ---- strftime: C's, by hand, because the names of days and months must not follow the locale ------------------- */

static const char *const months[] = {"January", "February", "March",     "April",   "May",      "June",
                                     "July",    "August",   "September", "October", "November", "December"};
static const char *const days[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};

static void put_number(kvq_tpl_run *r, int n, int width, char pad) {
    char text[24];
    (void)snprintf(text, sizeof text, pad == '0' ? "%0*d" : pad == ' ' ? "%*d" : "%.*d", pad == '-' ? 1 : width, n);
    kvq_tpl_put_text(r, text);
}

static void put_time(kvq_tpl_run *r, const struct tm *t, int64_t now_s, char conversion, char pad);

static void put_times(kvq_tpl_run *r, const struct tm *t, int64_t now_s, const char *format) {
    for (; *format; format++) {
        if (*format == '%')
            put_time(r, t, now_s, *++format, '0');
        else
            kvq_tpl_put_char(r, *format);
    }
}

/* Week of the year, counted from its first Sunday (first_day 0) or Monday (1). */
static int week(const struct tm *t, int first_day) {
    return (t->tm_yday + 7 - (t->tm_wday + 7 - first_day) % 7) / 7;
}

/* 53 in years that end on a Thursday or begin on one. */
static int n_iso_weeks(int year) {
    int before = year - 1, last = (year + year / 4 - year / 100 + year / 400) % 7,
        last_before = (before + before / 4 - before / 100 + before / 400) % 7;
    return 52 + (last == 4 || last_before == 3);
}

/* ISO 8601: week 1 has the year's first Thursday; the last days of December may be of the next year's week 1. */
static int iso_week(const struct tm *t, int *ret_year) {
    int year = t->tm_year + 1900, w = (t->tm_yday - (t->tm_wday + 6) % 7 + 10) / 7;
    *ret_year = w < 1 ? year - 1 : w > n_iso_weeks(year) ? year + 1 : year;
    return w < 1 ? n_iso_weeks(year - 1) : w > n_iso_weeks(year) ? 1 : w;
}

static void put_time(kvq_tpl_run *r, const struct tm *t, int64_t now_s, char conversion, char pad) {
    int hour12 = t->tm_hour % 12 ? t->tm_hour % 12 : 12, iso_year, iso = iso_week(t, &iso_year);
    char space = pad == '0' ? ' ' : pad;
    switch (conversion) {
    case 'Y':
        put_number(r, t->tm_year + 1900, 1, '0');
        break;
    case 'C':
        put_number(r, (t->tm_year + 1900) / 100, 2, pad);
        break;
    case 'y':
        put_number(r, t->tm_year % 100, 2, pad);
        break;
    case 'm':
        put_number(r, t->tm_mon + 1, 2, pad);
        break;
    case 'd':
        put_number(r, t->tm_mday, 2, pad);
        break;
    case 'e':
        put_number(r, t->tm_mday, 2, space);
        break;
    case 'H':
        put_number(r, t->tm_hour, 2, pad);
        break;
    case 'k':
        put_number(r, t->tm_hour, 2, space);
        break;
    case 'I':
        put_number(r, hour12, 2, pad);
        break;
    case 'l':
        put_number(r, hour12, 2, space);
        break;
    case 'M':
        put_number(r, t->tm_min, 2, pad);
        break;
    case 'S':
        put_number(r, t->tm_sec, 2, pad);
        break;
    case 'f':
        put_number(r, 0, 6, '0');
        break; /* Python's microseconds; the clock here has none */
    case 'j':
        put_number(r, t->tm_yday + 1, 3, pad);
        break;
    case 'u':
        put_number(r, t->tm_wday ? t->tm_wday : 7, 1, '0');
        break;
    case 'w':
        put_number(r, t->tm_wday, 1, '0');
        break;
    case 'U':
        put_number(r, week(t, 0), 2, pad);
        break;
    case 'W':
        put_number(r, week(t, 1), 2, pad);
        break;
    case 'V':
        put_number(r, iso, 2, pad);
        break;
    case 'G':
        put_number(r, iso_year, 4, '0');
        break;
    case 'g':
        put_number(r, iso_year % 100, 2, pad);
        break;
    case 's':
        kvq_tpl_put_int(r, now_s);
        break;
    case 'A':
        kvq_tpl_put_text(r, days[t->tm_wday]);
        break;
    case 'a':
        kvq_tpl_put(r, days[t->tm_wday], 3);
        break;
    case 'B':
        kvq_tpl_put_text(r, months[t->tm_mon]);
        break;
    case 'b':
    case 'h':
        kvq_tpl_put(r, months[t->tm_mon], 3);
        break;
    case 'p':
        kvq_tpl_put_text(r, t->tm_hour < 12 ? "AM" : "PM");
        break;
    case 'P':
        kvq_tpl_put_text(r, t->tm_hour < 12 ? "am" : "pm");
        break;
    case 'D':
    case 'x':
        put_times(r, t, now_s, "%m/%d/%y");
        break;
    case 'F':
        put_times(r, t, now_s, "%Y-%m-%d");
        break;
    case 'T':
    case 'X':
        put_times(r, t, now_s, "%H:%M:%S");
        break;
    case 'R':
        put_times(r, t, now_s, "%H:%M");
        break;
    case 'r':
        put_times(r, t, now_s, "%I:%M:%S %p");
        break;
    case 'c':
        put_times(r, t, now_s, "%a %b %e %H:%M:%S %Y");
        break;
    case 'n':
        kvq_tpl_put_char(r, '\n');
        break;
    case 't':
        kvq_tpl_put_char(r, '\t');
        break;
    case 'Z':
    case 'z':
        break; /* Python's now() knows no zone */
    case '%':
        kvq_tpl_put_char(r, '%');
        break;
    default:
        kvq_tpl_fail(r, KVQ_UNSUPPORTED, "strftime_now: '%%%c' is not supported", conversion ? conversion : ' ');
    }
}

static kvq_tpl_value global_strftime_now(kvq_tpl_run *r, kvq_tpl_call *c) {
    struct tm t;
    time_t now = (time_t)r->now_s;
    size_t mark = r->n_out;
    if (c->arg[0].kind != KVQ_TPL_STRING) kvq_tpl_fail(r, KVQ_BAD_FILE, "strftime_now needs a format string");
    if (!gmtime_r(&now, &t)) kvq_tpl_fail(r, KVQ_BAD_ARGUMENT, "strftime_now: the clock is out of range");
    const kvq_tpl_string *format = c->arg[0].as.text;
    for (size_t i = 0; i < format->n_bytes; i++) {
        char next = i + 1 < format->n_bytes ? format->bytes[i + 1] : '\0';
        char pad = next == '-' || next == '_' || next == '0' ? next : '\0';
        if (format->bytes[i] != '%') {
            kvq_tpl_put_char(r, format->bytes[i]);
            continue;
        }
        i += pad ? 2 : 1;
        put_time(r, &t, r->now_s, i < format->n_bytes ? format->bytes[i] : '\0', pad == '_' ? ' ' : pad ? pad : '0');
    }
    return kvq_tpl_take(r, mark);
}

/* ---- containers ------------------------------------------------------------------------------------------------ */

static int64_t range_part(kvq_tpl_run *r, kvq_tpl_value v) {
    if (v.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, v);
    if (!kvq_tpl_is_integer(v)) kvq_tpl_fail(r, KVQ_BAD_FILE, "range needs integers, got '%s'", kvq_tpl_type_name(v));
    return kvq_tpl_as_int(v);
}

static kvq_tpl_value global_range(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_range *range = kvq_tpl_alloc(r, sizeof *range);
    bool one = c->arg[1].kind == KVQ_TPL_MISSING;
    range->start = one ? 0 : range_part(r, c->arg[0]);
    range->stop = range_part(r, c->arg[one ? 0 : 1]);
    range->step = c->arg[2].kind == KVQ_TPL_MISSING ? 1 : range_part(r, c->arg[2]);
    if (range->step == 0) kvq_tpl_fail(r, KVQ_BAD_FILE, "range: the step must not be zero");
    uint64_t span = 0, by = range->step > 0 ? (uint64_t)range->step : 0 - (uint64_t)range->step;
    if (range->step > 0 && range->stop > range->start) span = (uint64_t)range->stop - (uint64_t)range->start;
    if (range->step < 0 && range->stop < range->start) span = (uint64_t)range->start - (uint64_t)range->stop;
    uint64_t n = span ? (span - 1) / by + 1 : 0;
    if (n > KVQ_TPL_MAX_RANGE) kvq_tpl_fail(r, KVQ_NO_SPACE, "a range may have %d items at most", KVQ_TPL_MAX_RANGE);
    range->n = (int64_t)n;
    return (kvq_tpl_value){.kind = KVQ_TPL_RANGE, .as.range = range};
}

/* Python's dict(mapping or pairs, **more). */
static kvq_tpl_dict *make_dict(kvq_tpl_run *r, const kvq_tpl_call *c) {
    kvq_tpl_dict *d = kvq_tpl_dict_new(r);
    if (c->args->n > 1) kvq_tpl_fail(r, KVQ_BAD_FILE, "a dict is made of one argument at most, got %zu", c->args->n);
    if (c->args->n == 1) kvq_tpl_dict_merge(r, d, c->args->items[0]);
    for (size_t i = 0; i < c->args->n_names; i++)
        kvq_tpl_dict_set(r, d, kvq_tpl_string_value(c->args->names[i]), c->args->values[i]);
    return d;
}

static kvq_tpl_value global_dict(kvq_tpl_run *r, kvq_tpl_call *c) {
    return kvq_tpl_dict_value(make_dict(r, c));
}

static kvq_tpl_value global_namespace(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_dict *d = make_dict(r, c);
    for (size_t i = 0; i < d->n; i++) {
        kvq_tpl_value key = d->entries[i].key;
        if (key.kind == KVQ_TPL_STRING && key.as.text->n_bytes && key.as.text->bytes[0] == '_')
            kvq_tpl_fail(r, KVQ_BAD_FILE, "a namespace's attribute must not begin with '_'");
    }
    return (kvq_tpl_value){.kind = KVQ_TPL_NAMESPACE, .as.dict = d};
}

static kvq_tpl_value global_cycler(kvq_tpl_run *r, kvq_tpl_call *c) {
    if (c->args->n == 0 || c->args->n_names) kvq_tpl_fail(r, KVQ_BAD_FILE, "cycler needs at least one item");
    kvq_tpl_cycler *cycler = kvq_tpl_alloc(r, sizeof *cycler);
    cycler->items = kvq_tpl_list_new(r, c->args->n);
    for (size_t i = 0; i < c->args->n; i++) kvq_tpl_list_push(r, cycler->items, c->args->items[i]);
    return (kvq_tpl_value){.kind = KVQ_TPL_CYCLER, .as.cycler = cycler};
}

static kvq_tpl_value global_joiner(kvq_tpl_run *r, kvq_tpl_call *c) {
    kvq_tpl_joiner *joiner = kvq_tpl_alloc(r, sizeof *joiner);
    joiner->separator = c->arg[0].kind == KVQ_TPL_MISSING ? kvq_tpl_literal(r, ", ") : c->arg[0];
    return (kvq_tpl_value){.kind = KVQ_TPL_JOINER, .as.joiner = joiner};
}

/* clang-format off */
/*   name                call                    required  parameters (NULL: any) */
static const kvq_tpl_row globals[] = {
    {"raise_exception",  global_raise_exception, 1, "message", false},
    {"strftime_now",     global_strftime_now,    1, "format", false},
    {"range",            global_range,           1, "-start -stop -step", false},
    {"dict",             global_dict,            0, NULL, false},
    {"namespace",        global_namespace,       0, NULL, false},
    {"cycler",           global_cycler,          0, NULL, false},
    {"joiner",           global_joiner,          0, "sep", false},
};
/* clang-format on */

void kvq_tpl_add_globals(kvq_tpl_run *r, kvq_tpl_dict *variables) {
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++) {
        kvq_tpl_value function = {.kind = KVQ_TPL_FUNCTION, .as.row = &globals[i]};
        kvq_tpl_dict_set(r, variables, kvq_tpl_literal(r, globals[i].name), function);
    }
}
