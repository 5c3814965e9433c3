/* log.h: the log. Everybody in the daemon writes it, from any thread; main.c opens it.
 * To systemd's journal with structured fields where that is what standard error is, else one line each on standard
 * error. */
#ifndef KVQD_LOG_H
#define KVQD_LOG_H

#include <stdint.h>
#include <stdio.h>

/* THE table of messages with an id (messages.def): journalctl -x explains them, MESSAGE_ID= finds them. */
typedef enum log_message {
#define MESSAGE(name, ...) LOG_MESSAGE_##name,
#include "messages.def"
#undef MESSAGE
    LOG_MESSAGE_COUNT
} log_message;

/* A journal field: LOG_TEXT("REQUEST_ID", id), LOG_NUMBER("TOKENS", 17). Names are literals of A-Z, 0-9 and _. */
typedef struct log_field {
    const char *name, *text; /* text NULL: number */
    int64_t number;
} log_field;
#define LOG_TEXT(field, value) ((log_field){.name = (field), .text = (value)})
#define LOG_NUMBER(field, value) ((log_field){.name = (field), .number = (int64_t)(value)})
#define LOG_FIELDS(...)   \
    (const log_field[]) { \
        __VA_ARGS__, {    \
            0             \
        }                 \
    }

typedef enum log_level {
    LOG_LEVEL_ERROR = 3,
    LOG_LEVEL_WARNING = 4,
    LOG_LEVEL_INFO = 6,
    LOG_LEVEL_DEBUG = 7
} log_level;

/* Where to: the journal if standard error is connected to it ($JOURNAL_STREAM), else standard error. Call it once,
 * before threads. */
void log_init(void);
void log_set_level(const char *name); /* a value of [log] level; any thread, any time */

/* One line, from any thread. Control characters in the text are shown as '?'. fields may be NULL. */
void log_write(log_level level, const log_field *fields, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same with a message id; level is the table's. */
void log_event(log_message message, const log_field *fields, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* One entry for each line of text: for a report of many errors. Not for text from outside, whose lines would look like
 * ours. */
void log_event_lines(log_message message, const char *text);

#define log_error(...) log_write(LOG_LEVEL_ERROR, NULL, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, NULL, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, NULL, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, NULL, __VA_ARGS__)

/* packaging/kvqd.catalog, made from the table. */
void log_print_catalog(FILE *out);

#endif
