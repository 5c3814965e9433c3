/* config_print.c: the pages for people that are made from THE configuration table: --help, etc/kvqd.ini, kvqd.ini(5)
 * and the tables in docs/configuration.md and README.md. Called by main.c (help) and by the test that keeps the
 * committed pages true.
 */
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "config_types.h"

static const struct {
    const char *name, *doc;
} sections[] = {
#define SECTION(name, doc) {#name, doc},
#include "config.def"
#undef SECTION
};

static const char *section_doc(const char *name) {
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
        if (!strcmp(sections[i].name, name)) return sections[i].doc;
    return "";
}

static bool begins_section(size_t i) {
    return i == 0 || strcmp(config_keys[i - 1].section, config_keys[i].section) != 0;
}

/* Writes text with its lines broken at blanks, each behind prefix. */
static void print_wrapped(FILE *out, const char *prefix, const char *text, size_t width) {
    size_t column = 0;
    while (*text) {
        size_t n = strcspn(text, " ");
        if (column && column + 1 + n > width) {
            fputc('\n', out);
            column = 0;
        }
        column += (size_t)fprintf(out, "%s%.*s", column ? " " : prefix, (int)n, text);
        text += n;
        text += *text == ' ';
    }
    fputc('\n', out);
}

void config_print_help(FILE *out) {
    for (size_t i = 0; i < config_n_keys; i++) {
        const config_key *key = &config_keys[i];
        if (begins_section(i)) fprintf(out, "%s[%s] %s\n", i ? "\n" : "", key->section, section_doc(key->section));
        fprintf(out, "  %s = %s   (", key->name, key->preset);
        key->type->allowed(key, out);
        fprintf(out, ")%s\n", key->reload ? " (reload)" : "");
        print_wrapped(out, "      ", key->doc, 100);
    }
}

void config_print_ini(FILE *out) {
    fputs(
        "# kvqd.ini: the configuration of kvqd. Every key stands here with its default, commented out.\n"
        "# Better than a change here is a file in conf.d beside it, for example conf.d/local.ini: those files are read "
        "after this\n"
        "# one in order of name, later values win, and an upgrade never asks about them.\n"
        "# Check it with: kvqd --check-config /etc/kvqd/kvqd.ini      Explained in kvqd.ini(5).\n"
        "# Keys marked (reload) take effect with: systemctl reload kvqd      All others with: systemctl restart kvqd\n"
        "# This file is made from daemon/config.def.\n",
        out);
    for (size_t i = 0; i < config_n_keys; i++) {
        const config_key *key = &config_keys[i];
        if (begins_section(i)) {
            fputc('\n', out);
            print_wrapped(out, "# ", section_doc(key->section), 120);
            fprintf(out, "[%s]\n", key->section);
        }
        fputc('\n', out);
        print_wrapped(out, "# ", key->doc, 120);
        fputs("# Allowed: ", out);
        key->type->allowed(key, out);
        fprintf(out, ".%s\n;%s =%s%s\n", key->reload ? " (reload)" : "", key->name, *key->preset ? " " : "",
                key->preset);
    }
}

/* roff: a backslash, a dash and what begins a line with a dot or an apostrophe have meanings of their own. */
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

static void print_man_key(FILE *out, const config_key *key) {
    char *allowed = NULL;
    size_t n;
    FILE *text = open_memstream(&allowed, &n);
    fputs(".TP\n.B ", out);
    print_roff(out, key->name);
    fputc('\n', out);
    print_roff(out, key->doc);
    fputs("\n.br\nAllowed: ", out);
    if (text) {
        key->type->allowed(key, text);
        if (!fclose(text)) print_roff(out, allowed);
        free(allowed);
    }
    fputs(".\n.br\nDefault: ", out);
    if (*key->preset)
        print_roff(out, key->preset);
    else
        fputs("empty", out);
    fprintf(out, ". %s\n", key->reload ? "Reload applies it." : "Needs a restart.");
}

static const char man_head[] =
    ".\\\" Made from daemon/config.def.\n"
    ".TH KVQD.INI 5 \"\" \"kvqd\" \"kvqd\"\n"
    ".SH NAME\n"
    "kvqd.ini \\- configuration of the kvqd LLM service\n"
    ".SH SYNOPSIS\n"
    ".I /etc/kvqd/kvqd.ini\n"
    ".br\n"
    ".I /etc/kvqd/conf.d/*.ini\n"
    ".SH DESCRIPTION\n"
    "The files are read in this order, those in conf.d by name; where a key stands in several of them, the last one "
    "wins.\n"
    "Every key has a default, so that empty files are a valid configuration.\n"
    ".PP\n"
    "A line is empty, a comment that begins with # or ;, a [section], or\n"
    ".BR \"key = value\" .\n"
    "A ; after a blank begins a comment too. For keys that take text or a list, indented lines go on with the value "
    "above them.\n"
    "Files are UTF\\-8.\n"
    ".PP\n"
    "An unknown section or key, a key that stands twice in a file and a value that is not allowed are errors. All of "
    "them are\n"
    "reported, with file and line; kvqd then exits with code 78 and systemd does not start it again.\n"
    ".B kvqd \\-\\-check\\-config\n"
    ".I FILE\n"
    "only checks.\n"
    ".PP\n"
    "Secrets are never written in these files. Keys that need one take the absolute path of a file, or the name of a "
    "credential\n"
    "that systemd hands over (LoadCredential= in\n"
    ".BR systemd.exec (5)).\n";

static const char man_tail[] = ".SH EXAMPLE\n"
                               ".nf\n"
                               "# /etc/kvqd/conf.d/local.ini\n"
                               "[engine]\n"
                               "quant_policy = 4\n"
                               "cache_max_entry_count = 6G\n"
                               "\n"
                               "[generation]\n"
                               "system = You answer in one sentence.\n"
                               "    You never use lists.\n"
                               "stop_words = \"</answer>\", \"\\en\\en\"\n"
                               "\n"
                               "[mqtt]\n"
                               "broker = mqtts://broker.example.com:8883\n"
                               "username = kvqd\n"
                               "password_file = /etc/kvqd/mqtt\\-password\n"
                               ".fi\n"
                               ".SH SEE ALSO\n"
                               ".BR kvqd (8),\n"
                               ".BR kvqctl (1),\n"
                               ".BR systemd.exec (5)\n";

void config_print_man(FILE *out) {
    fputs(man_head, out);
    for (size_t i = 0; i < config_n_keys; i++) {
        const config_key *key = &config_keys[i];
        if (begins_section(i)) {
            fprintf(out, ".SH [%s]\n", key->section);
            print_roff(out, section_doc(key->section));
            fputc('\n', out);
        }
        print_man_key(out, key);
    }
    fputs(man_tail, out);
}

/* A vertical bar would end the table's cell. */
static void print_cell(FILE *out, const char *text) {
    for (; *text; text++) fprintf(out, *text == '|' ? "\\%c" : "%c", *text);
}

static void print_default_cell(FILE *out, const config_key *key) {
    fprintf(out, *key->preset ? "`%s` | " : "empty | ", key->preset);
}

void config_print_markdown(FILE *out) {
    for (size_t i = 0; i < config_n_keys; i++) {
        const config_key *key = &config_keys[i];
        if (begins_section(i))
            fprintf(
                out,
                "%s### [%s]\n\n%s\n\n| key | default | allowed | reload | what |\n| --- | --- | --- | --- | --- |\n",
                i ? "\n" : "", key->section, section_doc(key->section));
        fprintf(out, "| `%s` | ", key->name);
        print_default_cell(out, key);
        key->type->allowed(key, out);
        fprintf(out, " | %s | ", key->reload ? "yes" : "no");
        print_cell(out, key->doc);
        fputs(" |\n", out);
    }
}

void config_print_readme(FILE *out) {
    fputs("| key | default | what |\n| --- | --- | --- |\n", out);
    for (size_t i = 0; i < config_n_keys; i++) {
        const config_key *key = &config_keys[i];
        const char *end = strstr(key->doc, ". "); /* of the first sentence; the last ends with the text */
        fprintf(out, "| `[%s] %s` | ", key->section, key->name);
        print_default_cell(out, key);
        fprintf(out, "%.*s |\n", end ? (int)(end + 1 - key->doc) : (int)strlen(key->doc), key->doc);
    }
}
