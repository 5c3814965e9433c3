/* option.h: the option table of kvqctl's commands and what walks it: defaults, parsing, errors, help, man page,
 * completion. An option is one row; no command parses anything itself. */
#ifndef KVQ_OPTION_H
#define KVQ_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "../kernels/status.h"

/* What a value is, and the type of the struct member that takes it. */
typedef enum option_kind {
    OPTION_FLAG,  /* bool; takes no value */
    OPTION_TEXT,  /* const char *, borrowed from argv; NULL when not given and without default */
    OPTION_NAME,  /* const char *, one of `names` */
    OPTION_INT,   /* int, min .. max */
    OPTION_FLOAT, /* float, min .. max */
    OPTION_ABOVE, /* float, above min .. max */
    OPTION_SEED,  /* option_seed */
    OPTION_INTS,  /* option_ints: a list with commas, each min .. max */
    OPTION_NAMES, /* option_texts: a list with commas, each one of `names` if there are any */
    OPTION_TEXTS, /* option_texts: may be given several times; commas stay */
    OPTION_REST   /* option_texts: positional arguments, as many as there are */
} option_kind;

#define OPTION_LIST_MAX 16    /* of lists with commas */
#define OPTION_TEXTS_MAX 1024 /* of what is given several times, such as the words of a prompt */

typedef struct option_seed {
    uint64_t value;
    bool given;
} option_seed;

typedef struct option_ints {
    int n, values[OPTION_LIST_MAX];
} option_ints;

typedef struct option_texts {
    int n;
    const char *values[OPTION_TEXTS_MAX];
    char store[256]; /* of OPTION_NAMES: the list, cut at its commas */
} option_texts;

typedef struct option {
    char letter;      /* 0: none */
    const char *name; /* without dashes; NULL: a positional argument */
    option_kind kind;
    size_t offset;        /* of the member in the command's values */
    const char *argument; /* what help calls the value: "FILE"; NULL for flags */
    const char *fallback; /* the default, parsed as if typed; NULL: zero */
    double min, max;      /* of numbers */
    const char *names;    /* "a|b|c" of names; NULL: any */
    bool required;
    const char *doc; /* one sentence */
} option;

/* Fills values (values_bytes, any content) with defaults, then with argv[0 .. argc - 1]. Texts are borrowed from argv.
 * KVQ_BAD_ARGUMENT with a sentence that names the option, the value, what is allowed, and for an unknown name the
 * nearest. */
kvq_status option_parse(const option *options, size_t n_options, int argc, char **argv, void *values,
                        size_t values_bytes, kvq_error *err);

/* The nearest of n names to `name` by edit distance, NULL if none is near. */
const char *option_nearest(const char *name, const char *const *names, size_t n);

/* "-m, --model FILE" */
void option_spell(const option *o, char *out, size_t n_out);

/* "Allowed", in words: "1 to 64", "one of cpu, cuda"; empty when anything is. */
void option_allowed(const option *o, char *out, size_t n_out);

#endif
