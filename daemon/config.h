/* config.h: kvqd's configuration. The table is config.def; this is what walks it.
 * main.c loads and reloads; every other file of the daemon reads members of struct config and nothing else.
 * Nothing here logs or exits: problems come back as text, one line each, ready to be shown.
 *
 *     config c;
 *     config_report report = {0};
 *     if (!config_load(NULL, &c, &report)) { fputs(report.text, stderr); return CONFIG_EXIT_CODE; }
 *     ... config_free(&c); config_report_free(&report); */
#ifndef KVQD_CONFIG_H
#define KVQD_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "../engine/kvq.h"

#define CONFIG_DEFAULT_PATH \
    "/etc/kvqd/kvqd.ini"    /* beside it conf.d, whose *.ini files are read after it in order of name */
#define CONFIG_EXIT_CODE 78 /* EX_CONFIG of sysexits.h; the unit's RestartPreventExitStatus */
#define CONFIG_PASSWORD_CREDENTIAL "mqtt-password"

typedef struct config_list {
    size_t n;
    char **items;
} config_list;

typedef struct config_seed {
    bool is_set; /* false: draw one for every prompt */
    uint64_t value;
} config_seed;

/* What the types of config.def are in C. Strings are never NULL; empty means not set. */
typedef char *config_STRING, *config_TEXT, *config_PATH, *config_SECRET, *config_NAME, *config_POOL, *config_URL,
    *config_ID, *config_TOPIC;
typedef int config_INT, config_PICK, config_DURATION; /* a duration is in the unit at the end of its key's name */
typedef double config_NUMBER;
typedef uint64_t config_BYTES;
typedef bool config_BOOL;
typedef config_seed config_SEED;
typedef config_list config_LIST;

/* One member per row: engine_session_len, mqtt_broker, ... Owns its strings. */
typedef struct config {
#define KEY(section, key, type, ...) config_##type section##_##key;
#include "config.def"
#undef KEY
} config;

typedef struct config_type config_type;

typedef struct config_key {
    const char *section, *name;
    const config_type *type;
    const char *preset; /* the default, as it would stand in the file */
    double low, high;
    bool open_low;            /* ABOVE: low itself is not allowed */
    bool zero_too;            /* ZERO_OR: 0 is allowed though it is below low */
    const char *const *names; /* NULL-terminated, or NULL */
    const char *unit;
    bool reload;
    const char *doc;
    size_t offset, bytes; /* of the member in struct config */
} config_key;

extern const config_key config_keys[]; /* in the order of config.def */
extern const size_t config_n_keys;

/* Problems, one line each: "FILE:LINE: [section] key = 'value': what is allowed". Start from {0}. */
typedef struct config_report {
    int n_errors;
    char *text; /* NULL when there is none */
    size_t n_bytes;
} config_report;

void config_report_free(config_report *r);

/* Fills *ret with the defaults, then the file at path, then conf.d/ *.ini beside it. path NULL means
 * CONFIG_DEFAULT_PATH, which may be missing; a file that was named may not. Reads everything and reports every error,
 * not only the first. On failure *ret is untouched. On success *ret is the caller's until config_free. */
bool config_load(const char *path, config *ret, config_report *report);

/* The same from a string that stands for one file ("text" in errors), without conf.d. For tests and the fuzzer. */
bool config_load_text(const char *text, config *ret, config_report *report);
void config_free(config *c); /* NULL and {0} allowed */

/* Reload, all or nothing. Reads everything again; on failure nothing changed. On success *ret holds the new values of
 * keys that can be reloaded and the running values of the others; changes tells all keys whose value in the files
 * differs from running's, those that need a restart included. The caller applies *ret, and goes back to running
 * (config_free(ret)) if that fails. */
typedef struct config_changes {
    size_t n_reloaded, n_restart;
    const config_key **reloaded, **restart; /* rows of config_keys */
} config_changes;

bool config_reload(const char *path, const config *running, config *ret, config_changes *changes,
                   config_report *report);
void config_changes_free(config_changes *c);

/* {"engine":{"session_len":0,...},...} for the info topic. There are no secrets in it: the INI holds none. NULL: no
 * memory. */
json_t *config_to_json(const config *c);

/* A key's value as it would stand in the file; the caller frees it. NULL: no memory. */
char *config_value(const config *c, const config_key *key);

/* For the engine. Strings are borrowed from c. options->chat_template is left alone: [model] chat_template names a
 * file, which the caller reads. Fields that no key sets are left as they are. */
void config_engine_options(const config *c, kvq_options *options);
void config_request_defaults(const config *c, kvq_request *request);

/* The broker's password: the first line of password_file (a path, or the name of a systemd credential), else of the
 * credential mqtt-password, if there is one. *ret is NULL when there is none, else the caller's to free. Errors: IO,
 * BAD_FILE, NO_MEMORY. */
kvq_status config_read_password(const config *c, char **ret, kvq_error *err);

/* Where a SECRET is: a path as it is, a credential's name under $CREDENTIALS_DIRECTORY. *ret is the caller's to free;
 * NULL if value is empty. Errors: BAD_ARGUMENT (a credential, and systemd gave none), NO_MEMORY. */
kvq_status config_secret_path(const char *value, char **ret, kvq_error *err);

/* The pages made from the table. All but help are committed; tests/unit/daemon/test_config_pages.c compares them. */
void config_print_help(FILE *out);     /* one line per key */
void config_print_ini(FILE *out);      /* etc/kvqd.ini */
void config_print_man(FILE *out);      /* packaging/man/kvqd.ini.5 */
void config_print_markdown(FILE *out); /* the table in docs/configuration.md */
void config_print_readme(FILE *out);   /* the table in README.md: each key's first sentence */

#endif
