/* option.c: walks an option table over argv. Called by kvqctl.c; touches nothing but its arguments.
 * Forms: --name VALUE, --name=VALUE, -x VALUE, -xVALUE, "--" ends options, a lone "-" is a value. */
#include "option.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../engine/kvq.h"

/* ---- names ---------------------------------------------------------------------------------------------------------
 */

enum { NEAREST_BYTES = 32 }; /* longer names are not compared */

static int least(int a, int b, int c) {
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Edits (insert, delete, replace, swap of neighbours) from a to b: R. Damerau, CACM 1964; three rows of the table. */
static int edit_distance(const char *a, const char *b) {
    int row[3][NEAREST_BYTES + 1];
    size_t n_a = strlen(a), n_b = strlen(b);
    if (n_a > NEAREST_BYTES || n_b > NEAREST_BYTES) return NEAREST_BYTES;
    for (size_t j = 0; j <= n_b; j++) row[0][j] = (int)j;
    for (size_t i = 1; i <= n_a; i++) {
        int *now = row[i % 3], *last = row[(i - 1) % 3], *before_last = row[(i + 1) % 3];
        now[0] = (int)i;
        for (size_t j = 1; j <= n_b; j++) {
            now[j] = least(last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before_last[j - 2] + 1 < now[j])
                now[j] = before_last[j - 2] + 1;
        }
    }
    return row[n_a % 3][n_b];
}

const char *option_nearest(const char *name, const char *const *names, size_t n) {
    const char *best = NULL;
    int best_distance = (int)strlen(name) / 2 + 1; /* half of it wrong is not a slip any more */
    if (best_distance > 4) best_distance = 4;
    for (size_t i = 0; i < n; i++) {
        int distance = edit_distance(name, names[i]);
        if (distance >= best_distance) continue;
        best_distance = distance;
        best = names[i];
    }
    return best;
}

void option_spell(const option *o, char *out, size_t n_out) {
    const char *space = o->argument && o->name ? " " : "";
    const char *argument = o->argument ? o->argument : "";
    if (!o->name)
        snprintf(out, n_out, "%s%s", argument, o->kind == OPTION_REST ? "..." : "");
    else if (o->letter)
        snprintf(out, n_out, "-%c, --%s%s%s", o->letter, o->name, space, argument);
    else
        snprintf(out, n_out, "--%s%s%s", o->name, space, argument);
}

void option_allowed(const option *o, char *out, size_t n_out) {
    out[0] = '\0';
    if (o->names) {
        size_t used = (size_t)snprintf(out, n_out, "one of ");
        for (const char *p = o->names; *p && used + 3 < n_out; p++) {
            if (*p == '|') out[used++] = ',';
            out[used++] = *p == '|' ? ' ' : *p;
        }
        out[used] = '\0';
    } else if (o->kind == OPTION_INT || o->kind == OPTION_INTS || o->kind == OPTION_FLOAT) {
        snprintf(out, n_out, "%.15g to %.15g", o->min, o->max);
    } else if (o->kind == OPTION_ABOVE) {
        snprintf(out, n_out, "above %.15g, up to %.15g", o->min, o->max);
    } else if (o->kind == OPTION_SEED) {
        snprintf(out, n_out, "a whole number from 0 to %" PRId64, KVQ_MAX_SEED);
    }
}

/* ---- values --------------------------------------------------------------------------------------------------------
 */

static void *member(const option *o, void *values) {
    return (char *)values + o->offset;
}

static kvq_status bad_value(const option *o, const char *value, kvq_error *err) {
    char spelled[96], allowed[192];
    option_spell(o, spelled, sizeof spelled);
    option_allowed(o, allowed, sizeof allowed);
    return kvq_fail(err, KVQ_BAD_ARGUMENT, "'%s' is no value for '%s'; allowed: %s.", value, spelled, allowed);
}

static bool parse_int(const option *o, const char *text, const char **ret_end, int *ret) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (end == text || errno || (double)value < o->min || (double)value > o->max) return false;
    *ret_end = end;
    *ret = (int)value;
    return true;
}

static kvq_status set_int(const option *o, const char *text, void *values, kvq_error *err) {
    const char *end;
    int value;
    if (!parse_int(o, text, &end, &value) || *end) return bad_value(o, text, err);
    *(int *)member(o, values) = value;
    return KVQ_OK;
}

static kvq_status set_ints(const option *o, const char *text, void *values, kvq_error *err) {
    option_ints list = {0};
    const char *at = text;
    for (;;) {
        if (list.n == OPTION_LIST_MAX || !parse_int(o, at, &at, &list.values[list.n++]) || (*at && *at != ','))
            return bad_value(o, text, err);
        if (!*at) break;
        at++;
    }
    *(option_ints *)member(o, values) = list;
    return KVQ_OK;
}

static kvq_status set_float(const option *o, const char *text, void *values, kvq_error *err) {
    char *end;
    float value = strtof(text, &end);
    bool above = o->kind == OPTION_ABOVE ? (double)value > o->min : (double)value >= o->min; /* false for NaN */
    if (end == text || *end || !above || !((double)value <= o->max)) return bad_value(o, text, err);
    *(float *)member(o, values) = value;
    return KVQ_OK;
}

static kvq_status set_seed(const option *o, const char *text, void *values, kvq_error *err) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value > KVQ_MAX_SEED) return bad_value(o, text, err);
    *(option_seed *)member(o, values) = (option_seed){.value = value, .given = true};
    return KVQ_OK;
}

static bool is_allowed(const option *o, const char *name) {
    size_t n = strlen(name);
    for (const char *p = o->names; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strncmp(p, name, n) == 0 && (p[n] == '|' || p[n] == '\0')) return n > 0;
    return !o->names && n > 0;
}

static kvq_status set_name(const option *o, const char *text, void *values, kvq_error *err) {
    if (!is_allowed(o, text)) return bad_value(o, text, err);
    *(const char **)member(o, values) = text;
    return KVQ_OK;
}

static kvq_status set_names(const option *o, const char *text, void *values, kvq_error *err) {
    option_texts *list = member(o, values);
    if (strlen(text) >= sizeof list->store) return bad_value(o, text, err);
    memmove(list->store, text, strlen(text) + 1);
    list->n = 0;
    for (char *at = list->store, *comma; at; at = comma) {
        comma = strchr(at, ',');
        if (comma) *comma++ = '\0';
        if (list->n == OPTION_LIST_MAX || !is_allowed(o, at)) return bad_value(o, text, err);
        list->values[list->n++] = at;
    }
    return KVQ_OK;
}

static kvq_status add_text(const option *o, const char *text, void *values, kvq_error *err) {
    option_texts *list = member(o, values);
    if (list->n == OPTION_TEXTS_MAX)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'%s' is given more than %d times.", o->name ? o->name : o->argument,
                        OPTION_TEXTS_MAX);
    list->values[list->n++] = text;
    return KVQ_OK;
}

static kvq_status set_text(const option *o, const char *text, void *values, kvq_error *err) {
    (void)err; /* any text will do */
    *(const char **)member(o, values) = text;
    return KVQ_OK;
}

static kvq_status set_flag(const option *o, const char *text, void *values, kvq_error *err) {
    (void)text;
    (void)err; /* a flag has no value that could be wrong */
    *(bool *)member(o, values) = true;
    return KVQ_OK;
}

static kvq_status (*const setters[])(const option *, const char *, void *, kvq_error *) = {
    [OPTION_FLAG] = set_flag,   [OPTION_TEXT] = set_text,   [OPTION_NAME] = set_name, [OPTION_INT] = set_int,
    [OPTION_FLOAT] = set_float, [OPTION_ABOVE] = set_float, [OPTION_SEED] = set_seed, [OPTION_INTS] = set_ints,
    [OPTION_NAMES] = set_names, [OPTION_TEXTS] = add_text,  [OPTION_REST] = add_text,
};

/* ---- arguments -----------------------------------------------------------------------------------------------------
 */

typedef struct parsing {
    const option *options;
    size_t n_options;
    char **argv;
    int argc, at;
    void *values;
    bool *seen;           /* [n_options] */
    bool only_positional; /* after "--" */
} parsing;

static kvq_status unknown(const parsing *p, const char *typed, const char *name, kvq_error *err) {
    const char *names[OPTION_LIST_MAX * 4];
    size_t n = 0;
    for (size_t i = 0; i < p->n_options && n < sizeof names / sizeof *names; i++)
        if (p->options[i].name) names[n++] = p->options[i].name;
    const char *nearest = option_nearest(name, names, n);
    if (nearest) return kvq_fail(err, KVQ_BAD_ARGUMENT, "Unknown option '%s'; did you mean '--%s'?", typed, nearest);
    return kvq_fail(err, KVQ_BAD_ARGUMENT, "Unknown option '%s'; '--help' lists what there is.", typed);
}

static kvq_status apply(parsing *p, const option *o, const char *value, kvq_error *err) {
    p->seen[o - p->options] = true;
    return setters[o->kind](o, value, p->values, err);
}

/* `attached`: the value in the same word, or NULL. */
static kvq_status take_value(parsing *p, const option *o, const char *attached, kvq_error *err) {
    char spelled[96];
    option_spell(o, spelled, sizeof spelled);
    if (o->kind == OPTION_FLAG) {
        if (attached) return kvq_fail(err, KVQ_BAD_ARGUMENT, "'%s' takes no value; '%s' was given.", spelled, attached);
        return apply(p, o, NULL, err);
    }
    if (attached) return apply(p, o, attached, err);
    if (p->at == p->argc) return kvq_fail(err, KVQ_BAD_ARGUMENT, "'%s' wants a value.", spelled);
    return apply(p, o, p->argv[p->at++], err);
}

static kvq_status take_long(parsing *p, const char *word, kvq_error *err) {
    const char *name = word + 2, *equals = strchr(name, '=');
    size_t n = equals ? (size_t)(equals - name) : strlen(name);
    for (size_t i = 0; i < p->n_options; i++) {
        const option *o = &p->options[i];
        if (o->name && strlen(o->name) == n && memcmp(o->name, name, n) == 0)
            return take_value(p, o, equals ? equals + 1 : NULL, err);
    }
    char only_name[64];
    snprintf(only_name, sizeof only_name, "%.*s", (int)(n < 63 ? n : 63), name);
    return unknown(p, word, only_name, err);
}

static kvq_status take_letter(parsing *p, const char *word, kvq_error *err) {
    for (size_t i = 0; i < p->n_options; i++)
        if (p->options[i].letter == word[1]) return take_value(p, &p->options[i], word[2] ? word + 2 : NULL, err);
    return unknown(p, word, word + 1, err);
}

static kvq_status take_positional(parsing *p, const char *word, kvq_error *err) {
    for (size_t i = 0; i < p->n_options; i++) {
        const option *o = &p->options[i];
        if (!o->name && (!p->seen[i] || o->kind == OPTION_REST)) return apply(p, o, word, err);
    }
    return kvq_fail(err, KVQ_BAD_ARGUMENT, "Unexpected argument '%s'.", word);
}

static kvq_status take_word(parsing *p, const char *word, kvq_error *err) {
    if (p->only_positional || word[0] != '-' || word[1] == '\0') return take_positional(p, word, err);
    if (strcmp(word, "--") == 0) {
        p->only_positional = true;
        return KVQ_OK;
    }
    return word[1] == '-' ? take_long(p, word, err) : take_letter(p, word, err);
}

static kvq_status check_required(const parsing *p, kvq_error *err) {
    for (size_t i = 0; i < p->n_options; i++) {
        char spelled[96];
        if (!p->options[i].required || p->seen[i]) continue;
        option_spell(&p->options[i], spelled, sizeof spelled);
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'%s' is missing.", spelled);
    }
    return KVQ_OK;
}

enum { OPTIONS_MAX = 64 };

kvq_status option_parse(const option *options, size_t n_options, int argc, char **argv, void *values,
                        size_t values_bytes, kvq_error *err) {
    bool seen[OPTIONS_MAX] = {0};
    parsing p = {
        .options = options, .n_options = n_options, .argv = argv, .argc = argc, .values = values, .seen = seen};
    if (n_options > OPTIONS_MAX) return kvq_fail(err, KVQ_INTERNAL, "More than %d options in a table.", OPTIONS_MAX);
    memset(values, 0, values_bytes);
    for (size_t i = 0; i < n_options; i++) {
        if (!options[i].fallback) continue;
        kvq_status status = setters[options[i].kind](&options[i], options[i].fallback, values, err);
        if (status) return status;
    }
    while (p.at < argc) {
        kvq_status status = take_word(&p, argv[p.at++], err);
        if (status) return status;
    }
    return check_required(&p, err);
}
