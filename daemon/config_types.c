/* config_types.c: the types of config.def, one row each at the end: how a value is read, printed and described.
 * Called by config.c and config_print.c only. The text of a refusal is made from the columns that the check reads, so
 * the two cannot disagree. Numbers follow the C locale: kvqd never calls setlocale. */
#include "config_types.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- strings
 * ---------------------------------------------------------------------------------------------------------- */

static bool keep(const char *text, void *value) {
    char *copy = strdup(text);
    if (!copy) return false;
    *(char **)value = copy;
    return true;
}

static bool parse_string(const config_key *key, const char *text, void *value) {
    return (double)strlen(text) <= key->high && keep(text, value);
}

static void print_string(const config_key *key, const void *value, FILE *out) {
    (void)key;
    fputs(*(char *const *)value, out);
}

static void allowed_string(const config_key *key, FILE *out) {
    fprintf(out, "up to %.0f bytes of text", key->high);
}

static json_t *string_to_json(const config_key *key, const void *value) {
    (void)key;
    return json_string(*(char *const *)value);
}

static void release_string(void *value) {
    free(*(char **)value);
    *(char **)value = NULL;
}

static bool parse_path(const config_key *key, const char *text, void *value) {
    return (*text == '\0' || *text == '/') && parse_string(key, text, value);
}

static void allowed_path(const config_key *key, FILE *out) {
    (void)key;
    fputs("an absolute path, or nothing", out);
}

static bool is_id(const char *text, const char *more) {
    for (const char *p = text; *p; p++)
        if (!isascii((unsigned char)*p) || (!isalnum((unsigned char)*p) && !strchr(more, *p))) return false;
    return true;
}

static bool parse_secret(const config_key *key, const char *text, void *value) {
    return (*text == '/' || (is_id(text, "_-.") && *text != '.')) && parse_string(key, text, value);
}

static void allowed_secret(const config_key *key, FILE *out) {
    (void)key;
    fputs("an absolute path, the name of a systemd credential, or nothing", out);
}

static bool parse_id(const config_key *key, const char *text, void *value) {
    return is_id(text, "_-") && parse_string(key, text, value);
}

static void allowed_id(const config_key *key, FILE *out) {
    fprintf(out, "up to %.0f of the characters A-Z a-z 0-9 _ -", key->high);
}

/* A level may be empty in MQTT; in a prefix it is a typing error. */
static bool parse_topic(const config_key *key, const char *text, void *value) {
    size_t n = strlen(text);
    if (strpbrk(text, "+#") || strstr(text, "//") || *text == '/' || *text == '$' || (n && text[n - 1] == '/'))
        return false;
    return (n || !*key->preset) && parse_string(key, text, value);
}

static void allowed_topic(const config_key *key, FILE *out) {
    fprintf(
        out,
        "a topic of up to %.0f bytes without + and #, that neither begins nor ends with / and does not begin with $",
        key->high);
}

/* ---- names
 * ------------------------------------------------------------------------------------------------------------ */

static bool parse_name(const config_key *key, const char *text, void *value) {
    for (const char *const *name = key->names; *name; name++)
        if (!strcmp(*name, text)) return keep(text, value);
    return false;
}

static void allowed_name(const config_key *key, FILE *out) {
    for (const char *const *name = key->names; *name; name++)
        fprintf(out, "%s%s", name == key->names ? "" : name[1] ? ", " : " or ", *name);
}

static bool parse_pick(const config_key *key, const char *text, void *value) {
    for (const char *const *name = key->names; *name; name++) {
        if (strcmp(*name, text)) continue;
        *(int *)value = atoi(text);
        return true;
    }
    return false;
}

static bool parse_url(const config_key *key, const char *text, void *value) {
    const char *rest = strstr(text, "://");
    if (!rest || strlen(text) > 1024) return false;
    bool known = false;
    for (const char *const *name = key->names; *name; name++)
        if (strlen(*name) == (size_t)(rest - text) && !strncmp(*name, text, strlen(*name))) known = true;
    rest += 3;
    if (!known || strchr("/:?#", *rest) || strpbrk(rest, "@ \t\"'\\"))
        return false; /* strchr finds the terminator too: no host */
    const char *end = rest + strcspn(rest, "/");
    const char *bracket = *rest == '[' ? strchr(rest, ']') : NULL; /* an IPv6 address has colons of its own */
    const char *port = *rest == '[' ? (bracket && bracket < end ? bracket + 1 : NULL) : rest + strcspn(rest, ":/");
    if (!port || (port < end && *port != ':')) return false;
    if (port < end) {
        char *after;
        if (!isdigit((unsigned char)port[1])) return false;
        unsigned long number = strtoul(port + 1, &after, 10);
        if (after != end || number < 1 || number > 65535) return false;
    }
    return keep(text, value);
}

static void allowed_url(const config_key *key, FILE *out) {
    fputs("SCHEME://HOST[:PORT] with SCHEME ", out);
    allowed_name(key, out);
    fputs(", and no user or password in it (see username, password_file)", out);
}

/* ---- numbers
 * ---------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name, *words;
    unsigned seconds;
} durations[] = {{"s", "seconds", 1}, {"min", "minutes", 60}, {"h", "hours", 3600}, {"d", "days", 86400}};

static unsigned duration_seconds(const char *unit) {
    for (size_t i = 0; i < sizeof durations / sizeof *durations; i++)
        if (!strcmp(durations[i].name, unit)) return durations[i].seconds;
    return 0;
}

/* "seconds" for "s"; what is no duration stays as it is. */
static const char *duration_words(const char *unit) {
    for (size_t i = 0; i < sizeof durations / sizeof *durations; i++)
        if (!strcmp(durations[i].name, unit)) return durations[i].words;
    return unit;
}

/* Above a low end is what stays above it as the float that the engine gets: 1e-60 is 0 there. */
static bool in_range(const config_key *key, double x) {
    bool above = key->open_low ? (double)(float)x > key->low : x >= key->low;
    return (above && x <= key->high) || (key->zero_too && x == 0);
}

/* The digits at *text; moves *text behind them. */
static bool scan_digits(const char **text, uint64_t *ret) {
    char *end;
    if (!isdigit((unsigned char)**text)) return false;
    errno = 0;
    uint64_t x = strtoull(*text, &end, 10);
    if (errno) return false;
    *text = end;
    *ret = x;
    return true;
}

static bool parse_int(const config_key *key, const char *text, void *value) {
    uint64_t x;
    if (!scan_digits(&text, &x) || *text || !in_range(key, (double)x)) return false;
    *(int *)value = (int)x; /* ranges end at INT_MAX or below; a test says so */
    return true;
}

static void print_int(const config_key *key, const void *value, FILE *out) {
    (void)key;
    fprintf(out, "%d", *(const int *)value);
}

static void allowed_int(const config_key *key, FILE *out) {
    const char *unit = duration_words(key->unit);
    fprintf(out, "%swhole numbers%s%s from %.10g to %.10g", key->zero_too ? "0, or " : "", *unit ? " of " : "", unit,
            key->low, key->high);
}

static json_t *int_to_json(const config_key *key, const void *value) {
    (void)key;
    return json_integer(*(const int *)value);
}

static bool parse_duration(const config_key *key, const char *text, void *value) {
    uint64_t x;
    if (!scan_digits(&text, &x)) return false;
    text += strspn(text, " \t");
    unsigned own = duration_seconds(key->unit), unit = *text ? duration_seconds(text) : own;
    if (!unit || __builtin_mul_overflow(x, unit, &x) || x % own || !in_range(key, (double)(x / own))) return false;
    *(int *)value = (int)(x / own);
    return true;
}

static void allowed_duration(const config_key *key, FILE *out) {
    allowed_int(key, out);
    fputs(key->unit[0] == 'h' ? ", or with a unit: h, d" : ", or with a unit: s, min, h, d", out);
}

static bool parse_number(const config_key *key, const char *text, void *value) {
    char *end;
    if (!*text || text[strspn(text, "0123456789.eE+-")])
        return false; /* strtod also reads hex, nan, inf and white space */
    double x = strtod(text, &end);
    if (end == text || *end || !in_range(key, x)) return false;
    *(double *)value = x;
    return true;
}

static void print_number(const config_key *key, const void *value, FILE *out) {
    (void)key;
    fprintf(out, "%.17g", *(const double *)value);
}

static void allowed_number(const config_key *key, FILE *out) {
    fprintf(out, key->open_low ? "numbers above %.10g, up to %.10g" : "numbers from %.10g to %.10g", key->low,
            key->high);
}

static json_t *number_to_json(const config_key *key, const void *value) {
    (void)key;
    return json_real(*(const double *)value);
}

/* 512K, 1536M, 6G, 1T, in powers of 1024. */
static bool scan_bytes(const char *text, uint64_t *ret, bool *has_unit) {
    uint64_t x;
    if (!scan_digits(&text, &x)) return false;
    const char *units = "KMGT", *unit = *text ? strchr(units, toupper((unsigned char)*text)) : NULL;
    if (*text && (!unit || text[1])) return false;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    if (x > UINT64_MAX >> shift) return false;
    *ret = x << shift;
    *has_unit = unit != NULL;
    return true;
}

static bool parse_bytes(const config_key *key, const char *text, void *value) {
    bool has_unit;
    uint64_t x;
    if (!scan_bytes(text, &x, &has_unit) || !in_range(key, (double)x)) return false;
    *(uint64_t *)value = x;
    return true;
}

static void print_bytes(const config_key *key, const void *value, FILE *out) {
    (void)key;
    fprintf(out, "%" PRIu64, *(const uint64_t *)value);
}

static void allowed_bytes(const config_key *key, FILE *out) {
    fprintf(out, "whole numbers of bytes from %.0f to %.0f, or with a unit: K, M, G, T", key->low, key->high);
}

static json_t *bytes_to_json(const config_key *key, const void *value) {
    (void)key;
    return json_integer((json_int_t) * (const uint64_t *)value);
}

/* Only the form is checked here: how much that is depends on the model and the machine. */
static bool parse_pool(const config_key *key, const char *text, void *value) {
    bool has_unit;
    uint64_t x;
    config_key fraction = {.open_low = true, .high = 1};
    double share = 0;
    if (!strcmp(text, "auto")) return keep(text, value);
    if (scan_bytes(text, &x, &has_unit) && x > 1) return keep(text, value);
    return parse_number(&fraction, text, &share) && parse_string(key, text, value);
}

static void allowed_pool(const config_key *key, FILE *out) {
    (void)key;
    fputs("auto, a fraction above 0 and up to 1, a whole number of blocks above 1, or bytes with a unit (1536M, 6G)",
          out);
}

/* ---- yes and no, seeds
 * ------------------------------------------------------------------------------------------------ */

static bool parse_bool(const config_key *key, const char *text, void *value) {
    static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {"no", "false", "off", "0"};
    (void)key;
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        if (!strcmp(text, yes[i])) return *(bool *)value = true;
        if (!strcmp(text, no[i])) return !(*(bool *)value = false);
    }
    return false;
}

static void print_bool(const config_key *key, const void *value, FILE *out) {
    (void)key;
    fputs(*(const bool *)value ? "yes" : "no", out);
}

static void allowed_bool(const config_key *key, FILE *out) {
    (void)key;
    fputs("yes or no", out);
}

static json_t *bool_to_json(const config_key *key, const void *value) {
    (void)key;
    return json_boolean(*(const bool *)value);
}

static bool parse_seed(const config_key *key, const char *text, void *value) {
    config_seed seed = {.is_set = true};
    (void)key;
    if (!strcmp(text, "auto"))
        seed.is_set = false;
    else if (!scan_digits(&text, &seed.value) || *text || seed.value > KVQ_MAX_SEED)
        return false;
    *(config_seed *)value = seed;
    return true;
}

static void print_seed(const config_key *key, const void *value, FILE *out) {
    const config_seed *seed = value;
    (void)key;
    if (seed->is_set)
        fprintf(out, "%" PRIu64, seed->value);
    else
        fputs("auto", out);
}

static void allowed_seed(const config_key *key, FILE *out) {
    (void)key;
    fprintf(out, "auto, or a whole number from 0 to %" PRId64, KVQ_MAX_SEED);
}

static json_t *seed_to_json(const config_key *key, const void *value) {
    const config_seed *seed = value;
    (void)key;
    return seed->is_set ? json_integer((json_int_t)seed->value) : json_string("auto");
}

/* ---- lists: items between commas or line ends, in double quotes where they hold blanks, commas or escapes
 * ----------------- */

enum { MAX_ITEM_BYTES = 256 }; /* as for the stop strings of a prompt (prompt.h) */

static const char escapes[] = "n\nt\tr\r\"\"\\\\"; /* pairs: the letter behind a backslash, the character it means */

static char unescaped(char letter) {
    for (const char *p = escapes; *p; p += 2)
        if (*p == letter) return p[1];
    return '\0';
}

static char escaped(char c) {
    for (const char *p = escapes; *p; p += 2)
        if (p[1] == c) return *p;
    return '\0';
}

/* Copies the item at *text to out, which has room for all of it; moves *text behind it. */
static bool scan_item(const char **text, char *out) {
    const char *p = *text;
    if (*p != '"') {
        size_t n = strcspn(p, ",\n\"");
        if (p[n] == '"') return false;
        memcpy(out, p, n);
        while (n && isspace((unsigned char)out[n - 1])) n--;
        out[n] = '\0';
        *text = p + strcspn(p, ",\n");
        return n > 0;
    }
    char *start = out;
    for (p++; *p != '"'; p++) {
        if (*p == '\0' || *p == '\n') return false;
        *out = *p == '\\' ? unescaped(*++p) : *p;
        if (*out++ == '\0') return false;
    }
    *out = '\0';
    *text = p + 1 + strspn(p + 1, " \t");
    return out > start && (!**text || **text == ',' || **text == '\n');
}

static void release_list(void *value) {
    config_list *list = value;
    for (size_t i = 0; i < list->n; i++) free(list->items[i]);
    free(list->items);
    *list = (config_list){0};
}

static bool list_append(config_list *list, const char *item) {
    char **more = realloc(list->items, (list->n + 1) * sizeof *more);
    if (!more) return false;
    list->items = more;
    more[list->n] = strdup(item);
    return more[list->n] && ++list->n;
}

static bool parse_list(const config_key *key, const char *text, void *value) {
    config_list list = {0};
    char *item = malloc(strlen(text) + 1);
    if (!item) return false;
    text += strspn(text, " \t\n");
    while (*text) {
        if ((double)list.n >= key->high || !scan_item(&text, item) || strlen(item) > MAX_ITEM_BYTES) goto fail;
        if (!list_append(&list, item)) goto fail;
        text += *text == ',';
        text += strspn(text, " \t\n");
    }
    free(item);
    *(config_list *)value = list;
    return true;
fail:
    free(item);
    release_list(&list);
    return false;
}

static void print_list(const config_key *key, const void *value, FILE *out) {
    const config_list *list = value;
    (void)key;
    for (size_t i = 0; i < list->n; i++) {
        fputs(i ? ", \"" : "\"", out);
        for (const char *p = list->items[i]; *p; p++) {
            if (escaped(*p))
                fprintf(out, "\\%c", escaped(*p));
            else
                fputc(*p, out);
        }
        fputc('"', out);
    }
}

static void allowed_list(const config_key *key, FILE *out) {
    fprintf(
        out,
        "up to %.0f items of at most %d bytes, separated by commas, in double quotes where they hold blanks, commas or "
        "\\n, \\t, \\r, \\\", \\\\",
        key->high, MAX_ITEM_BYTES);
}

static json_t *list_to_json(const config_key *key, const void *value) {
    const config_list *list = value;
    json_t *array = json_array();
    (void)key;
    for (size_t i = 0; i < list->n; i++)
        if (json_array_append_new(array, json_string(list->items[i]))) {
            json_decref(array);
            return NULL;
        }
    return array;
}

/* ---- the rows
 * --------------------------------------------------------------------------------------------------------- */

/* clang-format off */
/*         type                      lines  parse           print         allowed           to_json         release */
const config_type config_type_STRING   = {false, parse_string,   print_string, allowed_string,   string_to_json, release_string};
const config_type config_type_TEXT     = {true,  parse_string,   print_string, allowed_string,   string_to_json, release_string};
const config_type config_type_PATH     = {false, parse_path,     print_string, allowed_path,     string_to_json, release_string};
const config_type config_type_SECRET   = {false, parse_secret,   print_string, allowed_secret,   string_to_json, release_string};
const config_type config_type_NAME     = {false, parse_name,     print_string, allowed_name,     string_to_json, release_string};
const config_type config_type_POOL     = {false, parse_pool,     print_string, allowed_pool,     string_to_json, release_string};
const config_type config_type_URL      = {false, parse_url,      print_string, allowed_url,      string_to_json, release_string};
const config_type config_type_ID       = {false, parse_id,       print_string, allowed_id,       string_to_json, release_string};
const config_type config_type_TOPIC    = {false, parse_topic,    print_string, allowed_topic,    string_to_json, release_string};
const config_type config_type_INT      = {false, parse_int,      print_int,    allowed_int,      int_to_json,    NULL};
const config_type config_type_PICK     = {false, parse_pick,     print_int,    allowed_name,     int_to_json,    NULL};
const config_type config_type_DURATION = {false, parse_duration, print_int,    allowed_duration, int_to_json,    NULL};
const config_type config_type_NUMBER   = {false, parse_number,   print_number, allowed_number,   number_to_json, NULL};
const config_type config_type_BYTES    = {false, parse_bytes,    print_bytes,  allowed_bytes,    bytes_to_json,  NULL};
const config_type config_type_BOOL     = {false, parse_bool,     print_bool,   allowed_bool,     bool_to_json,   NULL};
const config_type config_type_SEED     = {false, parse_seed,     print_seed,   allowed_seed,     seed_to_json,   NULL};
const config_type config_type_LIST     = {true,  parse_list,     print_list,   allowed_list,     list_to_json,   release_list};
/* clang-format on */
