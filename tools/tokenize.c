/* tokenize.c: `kvqctl tokenize`: a file's text as token ids. Needs the model file's vocabulary only. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "engine_options.h"
#include "report.h"

typedef struct tokenize_values {
    engine_options engine;
    const char *file, *output;
    bool bos, special;
} tokenize_values;

#define AT(member) offsetof(tokenize_values, member)

/* clang-format off */
static const option options[] = {
    ENGINE_OPTION_MODEL(tokenize_values),
    {'f', "file",    OPTION_TEXT, AT(file),    "FILE",   NULL,   0, 0, NULL, true,  "The text, any bytes; - is standard input."},
    { 0,  "bos",     OPTION_FLAG, AT(bos),     NULL,     NULL,   0, 0, NULL, false, "Begin-of-text (and end) tokens where the model's file asks for them."},
    { 0,  "special", OPTION_FLAG, AT(special), NULL,     NULL,   0, 0, NULL, false, "Control tokens written in the text become their ids."},
    {'o', "output",  OPTION_NAME, AT(output),  "FORMAT", "json", 0, 0, "json|lines", false, "json: {\"ids\":[...]}; lines: an id a line."},
    ENGINE_OPTION_BACKEND(tokenize_values),
};
/* clang-format on */

static kvq_status print_lines(const int *ids, size_t n, kvq_error *err) {
    for (size_t i = 0; i < n; i++) printf("%d\n", ids[i]);
    return fflush(stdout) || ferror(stdout) ? kvq_fail(err, KVQ_IO, "Cannot write the ids.") : KVQ_OK;
}

static kvq_status print_json(const int *ids, size_t n, kvq_error *err) {
    json_t *list = json_array(), *root = json_object();
    int failed = json_object_set_new(root, "ids", list);
    for (size_t i = 0; i < n && !failed; i++) failed = json_array_append_new(list, json_integer(ids[i]));
    kvq_status status =
        failed ? kvq_fail(err, KVQ_NO_MEMORY, "No memory for %zu ids as JSON.", n) : report_print(root, err);
    json_decref(root);
    return status;
}

static int run(const void *values) {
    const tokenize_values *v = values;
    int *ids = NULL;
    size_t n;
    kvq_error err = {0};
    if (engine_tokenize_file(v->engine.model, v->file, v->bos, v->special, &ids, &n, &err)) return engine_fail(&err);
    kvq_status status = (strcmp(v->output, "json") == 0 ? print_json : print_lines)(ids, n, &err);
    free(ids);
    return status ? engine_fail(&err) : EXIT_CODE_OK;
}

const command command_tokenize = {
    .name = "tokenize",
    .doc = "Prints a file's text as the model's token ids.",
    .about = "The whole file is one text; any bytes will do, valid UTF-8 or not. Works on files that hold a vocabulary "
             "only. No backend is opened: the ids are the same with each.",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .values_bytes = sizeof(tokenize_values),
    .run = run,
};
