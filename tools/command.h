/* command.h: what a kvqctl command is. A command is one file that defines one `const command`, and one row of the table
 * in kvqctl.c; usage, --help, the man page and bash completion are walks over these structs. */
#ifndef KVQ_COMMAND_H
#define KVQ_COMMAND_H

#include <stddef.h>

#include "option.h"

/* Exit codes of kvqctl, for scripts; the man page says the same. */
enum {
    EXIT_CODE_OK = 0,
    EXIT_CODE_FAILED = 1,       /* the engine, a file or the daemon refused; stderr says why */
    EXIT_CODE_USAGE = 2,        /* an option or argument is wrong */
    EXIT_CODE_INTERRUPTED = 130 /* Ctrl-C, as shells have it: 128 + SIGINT */
};

typedef struct command {
    const char *name;
    const char *doc;   /* one line */
    const char *about; /* sentences for the man page */
    const option *options;
    size_t n_options;
    size_t values_bytes;            /* of the struct that the options' offsets are of */
    int (*run)(const void *values); /* returns an exit code */
} command;

/* One line on stderr, "kvqctl: ..." ; returns the code, so that failing is one statement. */
int command_fail(int exit_code, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
