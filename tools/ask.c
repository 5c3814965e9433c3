/* ask.c: `kvqctl ask`: one prompt to a running kvqd, its answer streamed to stdout. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
#include "command.h"
#include "conversation.h"
#include "file.h"
#include "interrupt.h"

typedef struct ask_values {
    client_options client;
    const char *file, *system, *session, *model;
    option_texts words;
    int max_tokens, timeout_s;
    float temperature;
    option_seed seed;
    bool raw, quiet, json;
} ask_values;

#define AT(member) offsetof(ask_values, member)

/* clang-format off */
static const option options[] = {
    CLIENT_OPTIONS(ask_values),
    { 0,  NULL,      OPTION_REST,  AT(words),       "TEXT", NULL,  0, 0, NULL, false, "The prompt; without it and -f it is read from standard input."},
    {'f', "file",    OPTION_TEXT,  AT(file),        "FILE", NULL,  0, 0, NULL, false, "A file with the prompt; - is standard input."},
    { 0,  "system",  OPTION_TEXT,  AT(system),      "TEXT", NULL,  0, 0, NULL, false, "A system message before the prompt."},
    {'s', "session", OPTION_TEXT,  AT(session),     "NAME", NULL,  0, 0, NULL, false, "Go on with the conversation of this name."},
    { 0,  "model",   OPTION_TEXT,  AT(model),       "NAME", NULL,  0, 0, NULL, false, "Refuse to be answered by another model."},
    { 0,  "raw",     OPTION_FLAG,  AT(raw),         NULL,   NULL,  0, 0, NULL, false, "The prompt goes to the model as it is, without the chat template."},
    {'n', "tokens",  OPTION_INT,   AT(max_tokens),  "N",    "-1", -1, 1048576, NULL, false, "Tokens of the answer at most; -1 is what kvqd is configured for."},
    { 0,  "temp",    OPTION_FLOAT, AT(temperature), "T",    "-1", -1, 2, NULL, false, "Temperature; -1 is what kvqd is configured for."},
    { 0,  "seed",    OPTION_SEED,  AT(seed),        "S",    NULL,  0, 0, NULL, false, "The same seed draws the same answer."},
    { 0,  "timeout", OPTION_INT,   AT(timeout_s),   "S",    "300", 1, 86400, NULL, false, "Give up after this many seconds without a sign of an answer."},
    { 0,  "json",    OPTION_FLAG,  AT(json),        NULL,   NULL,  0, 0, NULL, false, "The final message as JSON on standard output after the text."},
    {'q', "quiet",   OPTION_FLAG,  AT(quiet),       NULL,   NULL,  0, 0, NULL, false, "No figures on stderr."},
};
/* clang-format on */

/* The words joined by blanks, or the file; owned by the caller. */
static kvq_status find_text(const ask_values *v, char **ret, kvq_error *err) {
    if (v->words.n == 0) {
        if (!v->file && isatty(STDIN_FILENO))
            return kvq_fail(err, KVQ_BAD_ARGUMENT,
                            "No prompt: give it as arguments, with --file, or on standard input.");
        return file_read_prompt(v->file ? v->file : "-", ret, err);
    }
    if (v->file) return kvq_fail(err, KVQ_BAD_ARGUMENT, "There are a prompt and --file; one of them is the prompt.");
    size_t n_bytes = 1;
    for (int i = 0; i < v->words.n; i++) n_bytes += strlen(v->words.values[i]) + 1;
    char *text = calloc(1, n_bytes);
    if (!text) return kvq_fail(err, KVQ_NO_MEMORY, "No memory for the prompt.");
    for (int i = 0, used = 0; i < v->words.n; i++)
        used += snprintf(text + used, n_bytes - (size_t)used, "%s%s", i ? " " : "", v->words.values[i]);
    *ret = text;
    return KVQ_OK;
}

static void set_text(json_t *o, const char *key, const char *text) {
    if (text) (void)json_object_set_new(o, key, json_string(text)); /* no UTF-8: seen when the whole is dumped */
}

static json_t *make_prompt(const ask_values *v, const char *text) {
    json_t *o = json_object();
    if (!o || json_object_set_new(o, "prompt", json_string(text)) != 0) {
        json_decref(o);
        return NULL;
    }
    set_text(o, "system", v->system);
    set_text(o, "session", v->session);
    set_text(o, "model", v->model);
    if (v->raw) (void)json_object_set_new(o, "raw", json_true()); /* the four below: no memory shows in the dump */
    if (v->max_tokens >= 0) (void)json_object_set_new(o, "max_tokens", json_integer(v->max_tokens));
    if (v->temperature >= 0) (void)json_object_set_new(o, "temperature", json_real((double)v->temperature));
    if (v->seed.given) (void)json_object_set_new(o, "seed", json_integer((json_int_t)v->seed.value));
    return o;
}

static kvq_status ask(const ask_values *v, const char *text, kvq_error *err) {
    client *c = NULL;
    json_t *final = NULL, *prompt = make_prompt(v, text);
    if (!prompt) return kvq_fail(err, KVQ_BAD_ARGUMENT, "The prompt is not UTF-8 text.");
    kvq_status status = client_open(&v->client, &c, err);
    if (status)
        json_decref(prompt);
    else
        status = conversation_ask(c, prompt, v->timeout_s, &final, err);
    if (!status) putchar('\n');
    if (!status && v->json) {
        (void)json_dumpf(final, stdout, JSON_COMPACT); /* a broken stdout is seen at the flush below */
        putchar('\n');
    }
    if (!status && !v->quiet) conversation_print_figures(final);
    if (!status && (fflush(stdout) != 0 || ferror(stdout)))
        status = kvq_fail(err, KVQ_IO, "Cannot write the answer: %m.");
    json_decref(final);
    client_close(c);
    return status;
}

static int run(const void *values) {
    const ask_values *v = values;
    char *text = NULL;
    kvq_error err = {0};
    kvq_status status = find_text(v, &text, &err);
    interrupt_catch();
    if (!status) status = ask(v, text, &err);
    free(text);
    if (status == KVQ_CANCELLED) return EXIT_CODE_INTERRUPTED;
    return status ? command_fail(status == KVQ_BAD_ARGUMENT ? EXIT_CODE_USAGE : EXIT_CODE_FAILED, "%s", err.text)
                  : EXIT_CODE_OK;
}

const command command_ask = {
    .name = "ask",
    .doc = "Asks a running kvqd, over MQTT, and prints the answer as it comes.",
    .about = "The prompt is published under an id of its own; Ctrl-C cancels it at the daemon. The text goes to "
             "standard output, figures to standard error.",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .values_bytes = sizeof(ask_values),
    .run = run,
};
