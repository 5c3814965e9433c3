/* logits.c: `kvqctl logits`: the model's logits at every position of a text, as a NumPy file. */
#include <stdio.h>
#include <stdlib.h>

#include "command.h"
#include "engine_options.h"
#include "interrupt.h"
#include "npy.h"
#include "progress.h"

typedef struct logits_values {
    engine_options engine;
    const char *file, *output, *policy;
} logits_values;

#define AT(member) offsetof(logits_values, member)

/* clang-format off */
static const option options[] = {
    ENGINE_OPTION_MODEL(logits_values),
    {'f', "file",   OPTION_TEXT, AT(file),   "FILE",   NULL, 0, 0, NULL, true,  "The text; - is standard input."},
    {'o', "output", OPTION_TEXT, AT(output), "FILE",   NULL, 0, 0, NULL, true,  "The .npy file to write: float32 [tokens, vocabulary]."},
    { 0,  "kv",     OPTION_NAME, AT(policy), "POLICY", "8",  0, 0, POLICY_NAMES, false, "How the KV cache is kept; 0 is f16."},
    ENGINE_OPTIONS(logits_values),
};
/* clang-format on */

typedef struct writing {
    npy *file;
    progress bar;
    size_t n_rows;
    kvq_error *err;
    kvq_status status; /* of the file; kvq_logits itself only knows that it was stopped */
} writing;

static int write_row(void *user, size_t pos, const float *logits) {
    writing *w = user;
    progress_step(&w->bar, (double)(pos + 1) / (double)w->n_rows);
    w->status = npy_write_row(w->file, logits, w->err);
    return w->status || interrupt_seen();
}

static kvq_status write_all(kvq_engine *engine, const int *ids, size_t n, const char *path, kvq_error *err) {
    kvq_error stopped = {0};
    writing w = {.n_rows = n, .err = err};
    kvq_status status = npy_open(path, n, (size_t)kvq_get_info(engine)->vocab_size, &w.file, err);
    if (status) return status;
    progress_begin(&w.bar, "Logits");
    status = kvq_logits(engine, ids, n, 0, write_row, &w, &stopped);
    progress_done(&w.bar);
    if (!status) return npy_close(w.file, err);
    npy_discard(w.file);
    return w.status ? w.status : kvq_fail(err, status, "%s", stopped.text);
}

static int run(const void *values) {
    const logits_values *v = values;
    int *ids = NULL;
    size_t n = 0;
    kvq_engine *engine = NULL;
    kvq_error err = {0};
    interrupt_catch();
    kvq_status status = engine_tokenize_file(v->engine.model, v->file, true, false, &ids, &n, &err);
    if (!status && n == 0)
        status = kvq_fail(&err, KVQ_BAD_ARGUMENT, "'%s' is empty: there is no position to compute.", v->file);
    if (!status && n > 1048576)
        status = kvq_fail(&err, KVQ_NO_SPACE, "'%s' has %zu tokens; at most 1048576 are computed at once.", v->file, n);
    kvq_options opening = engine_options_make(&v->engine, v->policy);
    opening.max_batch_size = LOGIT_ROWS;
    opening.session_len = n > 64 ? (int)n : 64;
    opening.enable_prefix_caching = false;
    if (!status) status = engine_open(&opening, &engine, &err);
    if (!status) status = write_all(engine, ids, n, v->output, &err);
    kvq_close(engine);
    free(ids);
    return status ? engine_fail(&err) : EXIT_CODE_OK;
}

const command command_logits = {
    .name = "logits",
    .doc = "Writes the logits at every position of a text as a .npy file.",
    .about = "The text is put into tokens as the model's file says, begin-of-text included, and run as one sequence. A "
             "file that "
             "could not be completed is removed.",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .values_bytes = sizeof(logits_values),
    .run = run,
};
