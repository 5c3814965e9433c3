/* help.c: walks over the command table that print it for people, man and bash. Called by kvqctl.c. The man page and the
 * completion are committed under packaging/; tests/tools/test_pages.sh compares them with what this file prints. */
#include "help.h"

#include <string.h>

void help_usage(FILE *out, const command *const *commands, size_t n) {
    fprintf(out, "Usage: kvqctl COMMAND [OPTION...]\n\n");
    for (size_t i = 0; i < n; i++) fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->doc);
    fprintf(out, "\n'kvqctl COMMAND --help' tells a command's options; 'kvqctl --version' the version.\n");
}

/* " -m FILE [-n N] ... MODEL" */
static void print_synopsis(FILE *out, const command *c) {
    for (size_t i = 0; i < c->n_options; i++) {
        const option *o = &c->options[i];
        if (!o->required && o->name) continue;
        if (o->name)
            fprintf(out, " --%s %s", o->name, o->argument);
        else
            fprintf(out, o->required ? " %s%s" : " [%s%s]", o->argument, o->kind == OPTION_REST ? "..." : "");
    }
    fprintf(out, " [OPTION...]");
}

/* " (1 to 64; default 8)", or nothing. */
static void print_limits(FILE *out, const option *o) {
    char allowed[256];
    option_allowed(o, allowed, sizeof allowed);
    const char *fallback = o->fallback ? o->fallback : "";
    if (o->required)
        fprintf(out, " (required)");
    else if (allowed[0] && fallback[0])
        fprintf(out, " (%s; default %s)", allowed, fallback);
    else if (allowed[0] || fallback[0])
        fprintf(out, fallback[0] ? " (default %s)" : " (%s)", fallback[0] ? fallback : allowed);
}

void help_command(FILE *out, const command *c) {
    fprintf(out, "Usage: kvqctl %s", c->name);
    print_synopsis(out, c);
    fprintf(out, "\n\n%s\n%s\n\n", c->doc, c->about);
    for (size_t i = 0; i < c->n_options; i++) {
        char spelled[96];
        option_spell(&c->options[i], spelled, sizeof spelled);
        bool indented = c->options[i].name && !c->options[i].letter; /* under the long names of the others */
        fprintf(out, "  %s%-*s %s", indented ? "    " : "", indented ? 26 : 30, spelled, c->options[i].doc);
        print_limits(out, &c->options[i]);
        fputc('\n', out);
    }
}

/* ---- man page ------------------------------------------------------------------------------------------------------
 */

/* Text for roff: a backslash, a leading dot or quote and a minus mean something there. */
static void print_roff(FILE *out, const char *text) {
    if (*text == '.' || *text == '\'') fputs("\\&", out);
    for (; *text; text++) {
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else
            fputc(*text, out);
    }
}

static void print_roff_option(FILE *out, const option *o) {
    char spelled[96];
    option_spell(o, spelled, sizeof spelled);
    fputs(".TP\n.B ", out);
    print_roff(out, spelled);
    fputc('\n', out);
    print_roff(out, o->doc);
    print_limits(out, o);
    fputc('\n', out);
}

static void print_roff_command(FILE *out, const command *c) {
    fprintf(out, ".SS kvqctl %s", c->name);
    fputs("\n", out);
    print_roff(out, c->doc);
    fputc('\n', out);
    print_roff(out, c->about);
    fputc('\n', out);
    for (size_t i = 0; i < c->n_options; i++) print_roff_option(out, &c->options[i]);
}

void help_man(FILE *out, const command *const *commands, size_t n) {
    fputs(
        ".\\\" Made by 'kvqctl help --man' from the command table; change tools/*.c instead.\n"
        ".TH KVQCTL 1 \"\" \"kvqd\" \"User Commands\"\n"
        ".SH NAME\nkvqctl \\- run, measure and inspect language models with kvqd's engine, and talk to a running kvqd\n"
        ".SH SYNOPSIS\n.B kvqctl\n.I COMMAND\n.RI [ OPTION ...]\n"
        ".SH DESCRIPTION\n"
        "kvqctl is the command-line program of kvqd. Commands that take a model load it themselves; the others are "
        "clients of a running\n"
        ".BR kvqd (8)\nover MQTT. Results go to standard output, errors and progress bars (on a terminal only) to "
        "standard error.\n"
        ".SH COMMANDS\n",
        out);
    for (size_t i = 0; i < n; i++) print_roff_command(out, commands[i]);
    fputs(".SH \"EXIT STATUS\"\n"
          ".TP\n.B 0\nDone.\n"
          ".TP\n.B 1\nThe engine, a file or the daemon refused; one line on standard error says why.\n"
          ".TP\n.B 2\nAn option or argument is wrong.\n"
          ".TP\n.B 130\nEnded by Ctrl\\-C.\n"
          ".SH \"SEE ALSO\"\n.BR kvqd (8),\n.BR kvqd.ini (5)\n",
          out);
}

/* ---- completion ----------------------------------------------------------------------------------------------------
 */

/* Words that complete the value of an option: names, or files; numbers and free text complete to nothing. */
static void print_value_case(FILE *out, const command *c, const option *o) {
    bool is_file = o->argument && (strcmp(o->argument, "FILE") == 0 || strcmp(o->argument, "MODEL") == 0);
    if (!o->name || o->kind == OPTION_FLAG || (!o->names && !is_file)) return;
    fprintf(out, "    %s:--%s", c->name, o->name);
    if (o->letter) fprintf(out, "|%s:-%c", c->name, o->letter);
    if (is_file) {
        fputs(") COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n", out);
        return;
    }
    fputs(") COMPREPLY=($(compgen -W \"", out);
    for (const char *p = o->names; *p; p++) fputc(*p == '|' ? ' ' : *p, out);
    fputs("\" -- \"$word\")); return ;;\n", out);
}

static void print_option_words(FILE *out, const command *c) {
    bool takes_file = false;
    fprintf(out, "    %s) words=\"--help", c->name);
    for (size_t i = 0; i < c->n_options; i++) {
        if (c->options[i].name) fprintf(out, " --%s", c->options[i].name);
        takes_file |= !c->options[i].name && strcmp(c->options[i].argument, "MODEL") == 0;
    }
    fprintf(out, "\"%s ;;\n", takes_file ? "; files=yes" : "");
}

void help_completion(FILE *out, const command *const *commands, size_t n) {
    fputs("# bash completion for kvqctl. Made by 'kvqctl help --completion' from the command table; change tools/*.c "
          "instead.\n"
          "_kvqctl() {\n"
          "  local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} words= "
          "files=\n"
          "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
          "    COMPREPLY=($(compgen -W \"help",
          out);
    for (size_t i = 0; i < n; i++) fprintf(out, " %s", commands[i]->name);
    fputs(" --help --version\" -- \"$word\"))\n    return\n  fi\n  case $command:$previous in\n", out);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < commands[i]->n_options; k++)
            print_value_case(out, commands[i], &commands[i]->options[k]);
    fputs("  esac\n  case $command in\n", out);
    for (size_t i = 0; i < n; i++) print_option_words(out, commands[i]);
    fputs("  esac\n"
          "  COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
          "  if [ -n \"$files\" ] && [ \"${word#-}\" = \"$word\" ]; then COMPREPLY=($(compgen -f -- \"$word\")); fi\n"
          "}\n"
          "complete -o filenames -F _kvqctl kvqctl\n",
          out);
}
