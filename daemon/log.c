/* log.c: one line of the log, to the journal or to standard error. Called from every thread of the daemon.
 * The two statics are the process's: there is one standard error, and a log that had to be passed to every function
 * would be passed wrongly. The level is atomic, since a reload changes it while other threads log. */
#include "log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <systemd/sd-journal.h>

enum { MAX_FIELDS = 16, TEXT_BYTES = 2048, FIELD_BYTES = 256 };

static const struct {
    const char *id;
    log_level level;
    const char *subject, *text;
} messages[] = {
#define MESSAGE(name, level, id, subject, text) {id, LOG_LEVEL_##level, subject, text},
#include "messages.def"
#undef MESSAGE
};

static bool to_journal;
static atomic_int max_level = LOG_LEVEL_INFO;

/* $JOURNAL_STREAM is "device:inode" of the stream that systemd connected to the journal (systemd.exec(5)). If standard
 * error is something else by now, a shell has redirected it and wants to see the lines. */
static bool is_journal_stream(void) {
    struct stat st;
    char here[64];
    const char *stream = getenv("JOURNAL_STREAM");
    if (!stream || fstat(STDERR_FILENO, &st)) return false;
    (void)snprintf(here, sizeof here, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    return !strcmp(here, stream);
}

void log_init(void) {
    to_journal = is_journal_stream();
}

void log_set_level(const char *name) {
    static const struct {
        const char *name;
        log_level level;
    } levels[] = {{"error", LOG_LEVEL_ERROR},
                  {"warning", LOG_LEVEL_WARNING},
                  {"info", LOG_LEVEL_INFO},
                  {"debug", LOG_LEVEL_DEBUG}};
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++)
        if (!strcmp(levels[i].name, name)) atomic_store(&max_level, (int)levels[i].level);
}

static void hide_control_characters(char *text) {
    for (; *text; text++)
        if (((unsigned char)*text < ' ' && *text != '\t') || *text == 0x7f) *text = '?';
}

static void write_journal(log_level level, const char *id, const log_field *fields, const char *text) {
    char lines[MAX_FIELDS][FIELD_BYTES], message[TEXT_BYTES + sizeof "MESSAGE="];
    struct iovec iov[MAX_FIELDS + 1];
    int n = 0;
    (void)snprintf(message, sizeof message, "MESSAGE=%s", text);
    (void)snprintf(lines[n++], FIELD_BYTES, "PRIORITY=%d", (int)level);
    (void)snprintf(lines[n++], FIELD_BYTES, "SYSLOG_IDENTIFIER=kvqd");
    if (id) (void)snprintf(lines[n++], FIELD_BYTES, "MESSAGE_ID=%s", id);
    for (; fields && fields->name && n < MAX_FIELDS; fields++, n++) {
        if (fields->text)
            (void)snprintf(lines[n], FIELD_BYTES, "%s=%s", fields->name, fields->text);
        else
            (void)snprintf(lines[n], FIELD_BYTES, "%s=%" PRId64, fields->name, fields->number);
    }
    for (int i = 0; i < n; i++) iov[i] = (struct iovec){.iov_base = lines[i], .iov_len = strlen(lines[i])};
    iov[n] = (struct iovec){.iov_base = message, .iov_len = strlen(message)};
    if (sd_journal_sendv(iov, n + 1) < 0) (void)fprintf(stderr, "<%d>kvqd: %s\n", (int)level, text);
}

/* One write, so that lines of two threads do not mix. */
static void write_stderr(log_level level, const log_field *fields, const char *text) {
    char line[TEXT_BYTES + MAX_FIELDS * FIELD_BYTES];
    const char *mark = level == LOG_LEVEL_ERROR ? "error: " : level == LOG_LEVEL_WARNING ? "warning: " : "";
    FILE *out = fmemopen(line, sizeof line - 1, "w");
    if (!out) return;
    (void)fprintf(out, "kvqd: %s%s", mark, text);
    for (int i = 0; fields && fields->name && i < MAX_FIELDS; fields++, i++) {
        if (fields->text)
            (void)fprintf(out, " %s=%.*s", fields->name, FIELD_BYTES, fields->text);
        else
            (void)fprintf(out, " %s=%" PRId64, fields->name, fields->number);
    }
    long n = ftell(out);
    (void)fclose(out);
    if (n < 0) return;
    line[n] = '\0';
    hide_control_characters(line);
    line[n] = '\n';
    (void)!write(STDERR_FILENO, line, (size_t)n + 1); /* nowhere to tell of a standard error that is gone */
}

static void write_line(log_level level, const char *id, const log_field *fields, const char *format, va_list args) {
    char text[TEXT_BYTES];
    if ((int)level > atomic_load(&max_level)) return;
    (void)vsnprintf(text, sizeof text, format, args);
    hide_control_characters(text);
    if (to_journal)
        write_journal(level, id, fields, text);
    else
        write_stderr(level, fields, text);
}

void log_write(log_level level, const log_field *fields, const char *format, ...) {
    va_list args;
    va_start(args, format);
    write_line(level, NULL, fields, format, args);
    va_end(args);
}

void log_event(log_message message, const log_field *fields, const char *format, ...) {
    va_list args;
    va_start(args, format);
    write_line(messages[message].level, messages[message].id, fields, format, args);
    va_end(args);
}

void log_event_lines(log_message message, const char *text) {
    for (size_t n; *text; text += n + (text[n] == '\n')) {
        n = strcspn(text, "\n");
        log_event(message, NULL, "%.*s", (int)n, text);
    }
}

void log_print_catalog(FILE *out) {
    fputs("# Made from daemon/messages.def. Explains kvqd's messages: journalctl -x -u kvqd\n", out);
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++)
        fprintf(out, "\n-- %s\nSubject: %s\nDefined-By: kvqd\nDocumentation: man:kvqd(8)\n\n%s\n", messages[i].id,
                messages[i].subject, messages[i].text);
}
