/* config.c: reads kvqd.ini and conf.d into a struct config, and the other walks over THE configuration table
 * (config.def). Called by main.c (load, reload) and by whoever shows the configuration. inih splits lines; what a line
 * means is the table's business. A file is read whole and handed to inih line by line, so that each error knows its
 * line and none stops the reading: inih itself tells only the first line it could not split. */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

#include "../kernels/isas.h"
#include "config_types.h"
#include "file.h"

enum {
    MAX_FILE_BYTES = 1 << 20,
    MAX_LINE_BYTES = 8192, /* what inih is told; a longer line is an error, not two lines */
    MAX_ERRORS = 100,      /* told in one report; a file of rubbish has no more to say */
    PATH_BYTES = 4096
};

/* ---- the table
 * -------------------------------------------------------------------------------------------------------- */

#define ANY .low = 0
#define RANGE(minimum, maximum) .low = (minimum), .high = (maximum)
#define ABOVE(minimum, maximum) .open_low = true, .low = (minimum), .high = (maximum)
#define ZERO_OR(minimum, maximum) .zero_too = true, .low = (minimum), .high = (maximum)
#define LENGTH(maximum) .high = (maximum)
#define NAMES(...)                                      \
    .high = INT32_MAX, .names = (const char *const[]) { \
        __VA_ARGS__, NULL                               \
    }
#define YES true
#define NO false
#define KEY(section_, name_, type_, preset_, allowed_, unit_, reload_, doc_) \
    {.section = #section_,                                                   \
     .name = #name_,                                                         \
     .type = &config_type_##type_,                                           \
     .preset = preset_,                                                      \
     .unit = unit_,                                                          \
     .reload = reload_,                                                      \
     .doc = doc_,                                                            \
     .offset = offsetof(config, section_##_##name_),                         \
     .bytes = sizeof(config_##type_),                                        \
     allowed_},
const config_key config_keys[] = {
#include "config.def"
};
#undef KEY

enum { N_KEYS = sizeof config_keys / sizeof *config_keys };
const size_t config_n_keys = N_KEYS;

static void *member(config *c, const config_key *key) {
    return (char *)c + key->offset;
}
static const void *member_of(const config *c, const config_key *key) {
    return (const char *)c + key->offset;
}

static const config_key *find_key(const char *section, const char *name) {
    for (size_t i = 0; i < N_KEYS; i++)
        if (!strcmp(config_keys[i].section, section) && !strcmp(config_keys[i].name, name)) return &config_keys[i];
    return NULL;
}

/* ---- the report
 * ------------------------------------------------------------------------------------------------------- */

void config_report_free(config_report *r) {
    if (!r) return;
    free(r->text);
    *r = (config_report){0};
}

/* One more line. Out of memory costs lines, never the count: n_errors still says that it went wrong. */
static void report_line(config_report *r, const char *line) {
    if (r->n_errors++ > MAX_ERRORS) return;
    if (r->n_errors > MAX_ERRORS) line = "further errors are not shown";
    size_t n = strlen(line);
    char *more = realloc(r->text, r->n_bytes + n + 2);
    if (!more) return;
    memcpy(more + r->n_bytes, line, n);
    r->text = more;
    r->n_bytes += n;
    more[r->n_bytes++] = '\n';
    more[r->n_bytes] = '\0';
}

__attribute__((format(printf, 2, 3))) static void report_error(config_report *r, const char *format, ...) {
    char *line = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&line, format, args);
    va_end(args);
    report_line(r, n < 0 ? "no memory for an error message" : line);
    if (n >= 0) free(line);
}

/* ---- the nearest known name
 * ------------------------------------------------------------------------------------------- */

enum { MAX_NAME_BYTES = 64 };

/* Levenshtein's distance, one row at a time; names longer than MAX_NAME_BYTES are far from everything. */
static unsigned edit_distance(const char *a, const char *b) {
    unsigned row[MAX_NAME_BYTES + 1];
    size_t n = strlen(b);
    if (n > MAX_NAME_BYTES || strlen(a) > MAX_NAME_BYTES) return MAX_NAME_BYTES;
    for (size_t j = 0; j <= n; j++) row[j] = (unsigned)j;
    for (size_t i = 1; a[i - 1]; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= n; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

/* How far a name is from what was written: a key that goes on where it ends (password, password_file) is near too. */
static unsigned name_distance(const char *written, const char *name) {
    unsigned distance = edit_distance(written, name);
    size_t n = strlen(written);
    return n >= 4 && !strncmp(written, name, n) && distance > 2 ? 2 : distance;
}

/* The key nearest to what was written, or NULL if none is near. Its own section comes first, an exact name elsewhere
 * next. */
static const config_key *nearest_key(const char *section, const char *name) {
    const config_key *best = NULL;
    unsigned limit = (unsigned)strlen(name) / 3 + 1, best_distance = limit + 1;
    for (size_t i = 0; i < N_KEYS; i++) {
        bool is_here = !strcmp(config_keys[i].section, section);
        unsigned distance = name_distance(name, config_keys[i].name) + (is_here ? 0 : 1);
        if (distance < best_distance) best = &config_keys[i], best_distance = distance;
    }
    return best;
}

static const char *nearest_section(const char *section) {
    const char *best = NULL;
    unsigned best_distance = (unsigned)strlen(section) / 3 + 2;
    for (size_t i = 0; i < N_KEYS; i++) {
        unsigned distance = name_distance(section, config_keys[i].section);
        if (distance < best_distance) best = config_keys[i].section, best_distance = distance;
    }
    return best;
}

static bool is_section(const char *name) {
    for (size_t i = 0; i < N_KEYS; i++)
        if (!strcmp(config_keys[i].section, name)) return true;
    return false;
}

/* ---- one file
 * --------------------------------------------------------------------------------------------------------- */

typedef struct loading {
    config *c;
    config_report *report;
    const char *file;
    const char *rest; /* what inih has not been given yet */
    int line;         /* the one inih is working on */
    bool is_indented, wants_pair, is_after_pair;
    bool section_was_told; /* the current unknown section was reported once */
    int set_line[N_KEYS];  /* where in this file a key was set, 0: not yet */
    char *raw;             /* text of the last key that was set; a continuation is added to it */
} loading;

__attribute__((format(printf, 2, 3))) static void line_error(loading *l, const char *format, ...) {
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0)
        report_line(l->report, "no memory for an error message");
    else
        report_error(l->report, "%s:%d: %s", l->file, l->line, text), free(text);
}

static void unknown_section(loading *l, const char *section) {
    if (l->section_was_told) return;
    l->section_was_told = true;
    const char *near = nearest_section(section);
    if (!*section)
        line_error(l, "a key stands before the first [section]");
    else if (near)
        line_error(l, "unknown section [%s]; did you mean [%s]?", section, near);
    else
        line_error(l, "unknown section [%s]; see kvqd.ini(5)", section);
}

static void unknown_key(loading *l, const char *section, const char *name) {
    const config_key *near = nearest_key(section, name);
    if (near && !strcmp(near->section, section))
        line_error(l, "[%s] %s: unknown key; did you mean '%s'?", section, name, near->name);
    else if (near)
        line_error(l, "[%s] %s: unknown key; did you mean '%s' in [%s]?", section, name, near->name, near->section);
    else
        line_error(l, "[%s] %s: unknown key; see kvqd.ini(5)", section, name);
}

static void refuse_value(loading *l, const config_key *key, const char *text) {
    char *allowed = NULL;
    size_t n;
    FILE *out = open_memstream(&allowed, &n);
    if (out) {
        key->type->allowed(key, out);
        (void)fclose(out); /* a memory stream fails only for want of memory, and then allowed stays NULL or short */
    }
    line_error(l, "[%s] %s = '%.200s': allowed are %s", key->section, key->name, text,
               allowed ? allowed : "other values");
    free(allowed);
}

/* Parses text into the key's member, which keeps its old value if text is refused. */
static bool replace_value(config *c, const config_key *key, const char *text) {
    config fresh = {0};
    if (!key->type->parse(key, text, member(&fresh, key))) return false;
    if (key->type->release) key->type->release(member(c, key));
    memcpy(member(c, key), member(&fresh, key), key->bytes);
    return true;
}

static void set_value(loading *l, const config_key *key, const char *text) {
    errno = 0;
    if (replace_value(l->c, key, text)) return;
    if (errno == ENOMEM)
        line_error(l, "[%s] %s: no memory", key->section, key->name);
    else
        refuse_value(l, key, text);
}

/* An indented line: more of the value above it. */
static void continue_value(loading *l, const config_key *key, const char *text) {
    char *joined = NULL;
    if (!key->type->multi_line) {
        line_error(l, "[%s] %s: an indented line continues the value above it, which takes one line only", key->section,
                   key->name);
    } else if (asprintf(&joined, "%s\n%s", l->raw ? l->raw : "", text) < 0) {
        line_error(l, "[%s] %s: no memory", key->section, key->name);
    } else {
        free(l->raw);
        l->raw = joined;
        set_value(l, key, joined);
    }
}

/* inih's handler: one line with a name and a value, or a continuation under the name of the line above. */
static int take_pair(void *user, const char *section, const char *name, const char *text) {
    loading *l = user;
    bool continues = l->is_indented && l->is_after_pair;
    l->wants_pair = false;
    l->is_after_pair = true;
    const config_key *key = find_key(section, name);
    if (!key) {
        if (!is_section(section))
            unknown_section(l, section);
        else if (!continues)
            unknown_key(l, section, name);
        return 1;
    }
    if (continues) {
        continue_value(l, key, text);
        return 1;
    }
    size_t i = (size_t)(key - config_keys);
    if (l->set_line[i]) line_error(l, "[%s] %s: already set in line %d", section, name, l->set_line[i]);
    l->set_line[i] = l->line;
    free(l->raw);
    l->raw = strdup(text);
    if (l->raw)
        set_value(l, key, text);
    else /* the lines that continue it would stand alone */
        line_error(l, "[%s] %s: no memory", section, name);
    return 1;
}

/* Why a line cannot be given to inih, or NULL. */
static const char *line_fault(const char *line, size_t n) {
    if (n > MAX_LINE_BYTES) return "the line is too long; go on in an indented line where the key allows it";
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)line[i] < ' ' && line[i] != '\t' && !(line[i] == '\r' && i + 1 == n))
            return "the line holds a control character";
    utf8proc_int32_t character;
    for (size_t i = 0; i < n;) {
        utf8proc_ssize_t step =
            utf8proc_iterate((const utf8proc_uint8_t *)line + i, (utf8proc_ssize_t)(n - i), &character);
        if (step <= 0) return "the line is not UTF-8";
        i += (size_t)step;
    }
    return NULL;
}

/* The line that was handed out last should have become a pair by now. */
static void check_last_line(loading *l) {
    if (l->wants_pair) line_error(l, "neither 'key = value' nor '[section]' nor a comment");
    l->wants_pair = false;
}

/* inih's reader: the next line that is fit to be parsed. */
static char *next_line(char *buffer, int n_bytes, void *user) {
    loading *l = user;
    for (;;) {
        check_last_line(l);
        if (!*l->rest) return NULL;
        const char *line = l->rest;
        size_t n = strcspn(line, "\n");
        l->rest += n + (line[n] == '\n');
        l->line++;
        if (l->line == 1 && !strncmp(line, "\xEF\xBB\xBF", 3)) line += 3, n -= 3; /* a byte order mark */
        const char *fault = line_fault(line, n);
        if (!fault && n + 1 > (size_t)n_bytes) fault = "the line is too long";
        if (fault) {
            line_error(l, "%s", fault);
            continue;
        }
        const char *start = line + strspn(line, " \t\r");
        l->is_indented = start > line;
        l->wants_pair = start < line + n && !strchr(";#[", *start);
        if (*start == '[' && !(l->is_indented && l->is_after_pair)) {
            l->is_after_pair = false;
            l->section_was_told =
                !memchr(start, ']', (size_t)(line + n - start)); /* its keys have no section to be unknown in */
            if (l->section_was_told) line_error(l, "the section's name does not end with ]");
        }
        memcpy(buffer, line, n);
        buffer[n] = '\0';
        return buffer;
    }
}

static void load_text(config *c, const char *file, const char *text, config_report *report) {
    loading l = {.c = c, .report = report, .file = file, .rest = text};
    /* inih's run-time settings are the process's; these are the only lines that use it. */
    ini_use_stack = false;
    ini_max_line = ini_initial_alloc = MAX_LINE_BYTES + 3;
    ini_allow_multiline = true;
    if (ini_parse_stream(next_line, &l, take_pair, &l) == -2) report_error(report, "%s: no memory", file);
    check_last_line(&l);
    free(l.raw);
}

static void load_file(config *c, const char *path, config_report *report) {
    char *text;
    kvq_error err;
    if (file_read(path, MAX_FILE_BYTES, &text, &err)) {
        report_error(report, "%s", err.text);
        return;
    }
    load_text(c, path, text, report);
    free(text);
}

/* ---- all files
 * -------------------------------------------------------------------------------------------------------- */

static int is_ini_file(const struct dirent *entry) {
    const char *dot = strrchr(entry->d_name, '.');
    return entry->d_name[0] != '.' && dot && !strcmp(dot, ".ini");
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* conf.d beside the file at path, in order of name. */
static void load_directory(config *c, const char *path, config_report *report) {
    char directory[PATH_BYTES], file[PATH_BYTES];
    struct dirent **entries;
    const char *slash = strrchr(path, '/');
    int n = slash ? (int)(slash - path) : 1;
    if (snprintf(directory, sizeof directory, "%.*s/conf.d", n, slash ? path : ".") >= (int)sizeof directory) return;
    int n_entries = scandir(directory, &entries, is_ini_file, by_name);
    if (n_entries < 0) {
        if (errno != ENOENT) report_error(report, "cannot read '%s': %s", directory, strerror(errno));
        return;
    }
    for (int i = 0; i < n_entries; i++) {
        if (snprintf(file, sizeof file, "%s/%s", directory, entries[i]->d_name) >= (int)sizeof file)
            report_error(report, "%s: the path is too long", directory);
        else
            load_file(c, file, report);
        free(entries[i]);
    }
    free(entries);
}

/* What no single key can check. */
static void check_together(const config *c, const char *path, config_report *report) {
    if (!*c->mqtt_cert_file != !*c->mqtt_key_file)
        report_error(report, "%s: [mqtt] cert_file and key_file: one is set without the other", path);
    if (*c->mqtt_password_file && !*c->mqtt_username)
        report_error(report, "%s: [mqtt] password_file: a password needs a username", path);
    if (*c->mqtt_cert_file && strncmp(c->mqtt_broker, "mqtts:", 6) && strncmp(c->mqtt_broker, "wss:", 4))
        report_error(report, "%s: [mqtt] cert_file: needs a broker that begins with mqtts:// or wss://", path);
}

static bool set_presets(config *c, config_report *report) {
    *c = (config){0};
    for (size_t i = 0; i < N_KEYS; i++)
        if (!replace_value(c, &config_keys[i], config_keys[i].preset)) {
            report_error(report, "[%s] %s: no memory", config_keys[i].section, config_keys[i].name);
            return false;
        }
    return true;
}

bool config_load(const char *path, config *ret, config_report *report) {
    config c;
    bool is_optional = !path && access(CONFIG_DEFAULT_PATH, F_OK) && errno == ENOENT;
    int errors_before = report->n_errors;
    if (!path) path = CONFIG_DEFAULT_PATH;
    if (!set_presets(&c, report)) goto fail;
    if (!is_optional) load_file(&c, path, report);
    load_directory(&c, path, report);
    if (report->n_errors == errors_before) check_together(&c, path, report);
    if (report->n_errors != errors_before) goto fail;
    *ret = c;
    return true;
fail:
    config_free(&c);
    return false;
}

bool config_load_text(const char *text, config *ret, config_report *report) {
    config c;
    int errors_before = report->n_errors;
    if (set_presets(&c, report)) {
        load_text(&c, "text", text, report);
        if (report->n_errors == errors_before) check_together(&c, "text", report);
    }
    if (report->n_errors == errors_before) {
        *ret = c;
        return true;
    }
    config_free(&c);
    return false;
}

void config_free(config *c) {
    if (!c) return;
    for (size_t i = 0; i < N_KEYS; i++)
        if (config_keys[i].type->release) config_keys[i].type->release(member(c, &config_keys[i]));
    *c = (config){0};
}

/* ---- reload
 * ----------------------------------------------------------------------------------------------------------- */

char *config_value(const config *c, const config_key *key) {
    char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    if (!out) return NULL;
    key->type->print(key, member_of(c, key), out);
    if (!fclose(out)) return text;
    free(text);
    return NULL;
}

void config_changes_free(config_changes *c) {
    if (!c) return;
    free(c->reloaded);
    free(c->restart);
    *c = (config_changes){0};
}

/* Sorts one key into changes; a key that needs a restart gets its running value back. */
static bool compare_key(const config *running, config *fresh, const config_key *key, config_changes *changes) {
    char *was = config_value(running, key), *is = config_value(fresh, key);
    bool ok = was && is;
    if (ok && strcmp(was, is)) {
        if (key->reload)
            changes->reloaded[changes->n_reloaded++] = key;
        else
            changes->restart[changes->n_restart++] = key;
        ok = key->reload || replace_value(fresh, key, was);
    }
    free(was);
    free(is);
    return ok;
}

bool config_reload(const char *path, const config *running, config *ret, config_changes *changes,
                   config_report *report) {
    config fresh = {0};
    config_changes found = {.reloaded = calloc(N_KEYS, sizeof(config_key *)),
                            .restart = calloc(N_KEYS, sizeof(config_key *))};
    bool ok = found.reloaded && found.restart;
    if (!ok) report_error(report, "no memory to reload");
    ok = ok && config_load(path, &fresh, report);
    for (size_t i = 0; ok && i < N_KEYS; i++) {
        ok = compare_key(running, &fresh, &config_keys[i], &found);
        if (!ok) report_error(report, "no memory to reload");
    }
    if (!ok) {
        config_changes_free(&found);
        config_free(&fresh);
        return false;
    }
    *changes = found;
    *ret = fresh;
    return true;
}

/* ---- for others
 * ------------------------------------------------------------------------------------------------------- */

json_t *config_to_json(const config *c) {
    json_t *all = json_object();
    for (size_t i = 0; i < N_KEYS; i++) {
        const config_key *key = &config_keys[i];
        json_t *section = json_object_get(all, key->section);
        if (!section && !json_object_set_new(all, key->section, json_object()))
            section = json_object_get(all, key->section);
        if (json_object_set_new(section, key->name, key->type->to_json(key, member_of(c, key)))) {
            json_decref(all);
            return NULL;
        }
    }
    return all;
}
