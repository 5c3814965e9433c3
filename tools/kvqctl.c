/* kvqctl.c: the command-line program of kvqd: THE command table, and what picks a row. A command is a file of its own
 * (command.h); this one knows only their names. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../engine/kvq.h"
#include "command.h"
#include "help.h"

extern const command command_run, command_bench, command_eval, command_tokenize, command_logits, command_show,
    command_ask, command_chat, command_top, command_status, command_cancel;

static const command *const commands[] = {
    &command_run, &command_bench, &command_eval, &command_tokenize, &command_logits, &command_show,
    &command_ask, &command_chat,  &command_top,  &command_status,   &command_cancel,
};

enum { N_COMMANDS = sizeof commands / sizeof *commands };

int command_fail(int exit_code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("kvqctl: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return exit_code;
}

static const command *find_command(const char *name) {
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

static int unknown_command(const char *name) {
    const char *names[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS; i++) names[i] = commands[i]->name;
    const char *nearest = option_nearest(name, names, N_COMMANDS);
    if (nearest) return command_fail(EXIT_CODE_USAGE, "Unknown command '%s'; did you mean '%s'?", name, nearest);
    return command_fail(EXIT_CODE_USAGE, "Unknown command '%s'; 'kvqctl --help' lists what there is.", name);
}

static bool asks_for_help(int argc, char **argv) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

static int run_command(const command *c, int argc, char **argv) {
    kvq_error err = {0};
    if (asks_for_help(argc, argv)) {
        help_command(stdout, c);
        return EXIT_CODE_OK;
    }
    void *values = malloc(c->values_bytes);
    if (!values) return command_fail(EXIT_CODE_FAILED, "No memory.");
    int code;
    if (option_parse(c->options, c->n_options, argc, argv, values, c->values_bytes, &err))
        code = command_fail(EXIT_CODE_USAGE, "%s: %s", c->name, err.text);
    else
        code = c->run(values);
    free(values);
    return code;
}

/* kvqctl help [COMMAND | --man | --completion] */
static int run_help(int argc, char **argv) {
    if (argc == 0) {
        help_usage(stdout, commands, N_COMMANDS);
    } else if (strcmp(argv[0], "--man") == 0) {
        help_man(stdout, commands, N_COMMANDS);
    } else if (strcmp(argv[0], "--completion") == 0) {
        help_completion(stdout, commands, N_COMMANDS);
    } else {
        const command *c = find_command(argv[0]);
        if (!c) return unknown_command(argv[0]);
        help_command(stdout, c);
    }
    return EXIT_CODE_OK;
}

static int run_program(int argc, char **argv) {
    if (argc < 2) {
        help_usage(stderr, commands, N_COMMANDS);
        return EXIT_CODE_USAGE;
    }
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return run_help(argc - 2, argv + 2);
    if (strcmp(argv[1], "--version") == 0) {
        printf("kvqctl %s\n", KVQ_VERSION);
        return EXIT_CODE_OK;
    }
    const command *c = find_command(argv[1]);
    return c ? run_command(c, argc - 2, argv + 2) : unknown_command(argv[1]);
}

/* A result that was not written whole is a failure, whichever command it is of: 'kvqctl help > /dev/full'. */
int main(int argc, char **argv) {
    int code = run_program(argc, argv);
    bool written = fflush(stdout) == 0 && !ferror(stdout);
    if (written || code) return code;
    return command_fail(EXIT_CODE_FAILED, "Cannot write to standard output: %s.", strerror(errno));
}
