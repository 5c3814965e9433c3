/* run.c: `kvqctl run`: one prompt, its answer streamed to stdout, figures on stderr. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "engine_options.h"
#include "file.h"
#include "interrupt.h"
#include "progress.h"

typedef struct run_values {
    engine_options engine;
    const char *policy, *prompt, *file, *system;
    int max_tokens, top_k, session_len;
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    option_seed seed;
    option_texts stop;
    bool raw, quiet;
} run_values;

#define AT(member) offsetof(run_values, member)

/* clang-format off */
static const option options[] = {
    ENGINE_OPTION_MODEL(run_values),
    {'p', "prompt",      OPTION_TEXT,  AT(prompt),      "TEXT",   NULL,  0, 0, NULL, false, "The prompt; without -p and -f it is read from standard input."},
    {'f', "file",        OPTION_TEXT,  AT(file),        "FILE",   NULL,  0, 0, NULL, false, "A file with the prompt; - is standard input."},
    { 0,  "system",      OPTION_TEXT,  AT(system),      "TEXT",   NULL,  0, 0, NULL, false, "A system message before the prompt."},
    { 0,  "raw",         OPTION_FLAG,  AT(raw),         NULL,     NULL,  0, 0, NULL, false, "The prompt goes to the model as it is, without the chat template."},
    {'n', "tokens",      OPTION_INT,   AT(max_tokens),  "N",      "256", 0, 1048576, NULL, false, "Tokens of the answer at most; 0 is until the context is full."},
    { 0,  "temp",        OPTION_FLOAT, AT(temperature), "T",      "0.8", 0, 2, NULL, false, "Temperature; 0 always takes the likeliest token."},
    { 0,  "top-k",       OPTION_INT,   AT(top_k),       "N",      "50",   0, 1000000, NULL, false, "Draw from the N likeliest tokens; 0 is off."},
    { 0,  "top-p",       OPTION_ABOVE, AT(top_p),       "P",      "1",   0, 1, NULL, false, "Draw from the likeliest tokens that together reach P."},
    { 0,  "min-p",       OPTION_FLOAT, AT(min_p),       "P",      "0",   0, 1, NULL, false, "Draw from tokens at least P times as likely as the likeliest."},
    { 0,  "repetition-penalty", OPTION_ABOVE, AT(repetition_penalty), "X", "1", 0, 100, NULL, false, "Divides the logits of tokens seen; 1 is off."},
    { 0,  "presence-penalty",   OPTION_FLOAT, AT(presence_penalty),   "X", "0", -2, 2, NULL, false, "Taken from tokens that the answer has."},
    { 0,  "frequency-penalty",  OPTION_FLOAT, AT(frequency_penalty),  "X", "0", -2, 2, NULL, false, "Taken from tokens for each time the answer has them."},
    { 0,  "seed",        OPTION_SEED,  AT(seed),        "S",      NULL,  0, 0, NULL, false, "The same seed draws the same answer; without one it differs each time."},
    { 0,  "stop",        OPTION_TEXTS, AT(stop),        "TEXT",   NULL,  0, 0, NULL, false, "The answer ends before this text; may be given several times."},
    { 0,  "kv",          OPTION_NAME,  AT(policy),      "POLICY", "8",   0, 0, POLICY_NAMES, false, "How the KV cache is kept; 0 is f16."},
    { 0,  "session-len", OPTION_INT,   AT(session_len), "TOKENS", "0",   0, 1048576, NULL, false, "Longest sequence, prompt and answer; 0 is the least of the model's, 8192 and what fits."},
    ENGINE_OPTIONS(run_values),
    {'q', "quiet",       OPTION_FLAG,  AT(quiet),       NULL,     NULL,  0, 0, NULL, false, "No figures on stderr."},
};
/* clang-format on */

/* The prompt from -p, -f or standard input; *ret_owned is freed by the caller. */
static kvq_status find_prompt(const run_values *v, const char **ret, char **ret_owned, kvq_error *err) {
    if (v->prompt && v->file)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'--prompt' and '--file' are both given; one of them is the prompt.");
    *ret = v->prompt;
    if (v->prompt) return KVQ_OK;
    if (!v->file && isatty(STDIN_FILENO))
        return kvq_fail(err, KVQ_BAD_ARGUMENT,
                        "No prompt: give '--prompt TEXT', '--file FILE' or text on standard input.");
    kvq_status status = file_read_prompt(v->file ? v->file : "-", ret_owned, err);
    *ret = *ret_owned;
    return status;
}

static kvq_request make_request(const run_values *v, const char *prompt) {
    kvq_request r = kvq_default_request();
    r.prompt = prompt;
    r.raw = v->raw;
    r.system = v->system;
    r.max_tokens = v->max_tokens;
    r.temperature = v->temperature;
    r.top_k = v->top_k;
    r.top_p = v->top_p;
    r.min_p = v->min_p;
    r.repetition_penalty = v->repetition_penalty;
    r.presence_penalty = v->presence_penalty;
    r.frequency_penalty = v->frequency_penalty;
    r.seed = v->seed.value;
    r.has_seed = v->seed.given;
    r.stop = v->stop.values;
    r.n_stop = (size_t)v->stop.n;
    return r;
}

/* What is known when the answer has ended. */
typedef struct outcome {
    kvq_event last;
    bool ended_line;
} outcome;

static kvq_status write_text(const kvq_event *e, outcome *o, kvq_error *err) {
    if (e->n_bytes == 0) return KVQ_OK;
    o->ended_line = e->text[e->n_bytes - 1] == '\n';
    if (fwrite(e->text, 1, e->n_bytes, stdout) == e->n_bytes && fflush(stdout) == 0) return KVQ_OK;
    return kvq_fail(err, KVQ_IO, "Cannot write the answer: %s.", strerror(errno));
}

/* How far the prompt is read; it is the engine's only one. */
static void show_reading(const kvq_engine *engine, progress *bar) {
    kvq_stats stats;
    kvq_get_stats(engine, &stats);
    progress_step(bar, (double)stats.prefill_tokens / (double)stats.prompt_tokens);
}

/* A bar while the prompt is read, until there is text. */
static kvq_status stream(kvq_engine *engine, uint64_t id, outcome *o, kvq_error *err) {
    bool cancelled = false, is_reading = true;
    kvq_status status = KVQ_OK;
    progress bar;
    progress_begin(&bar, "Reading");
    while (!status && kvq_is_active(engine)) {
        const kvq_event *events;
        size_t n;
        if (interrupt_seen() && !cancelled) {
            (void)kvq_cancel(engine, id); /* NOT_FOUND: it has just ended, its event is on the way */
            cancelled = true;
        }
        status = kvq_step(engine, &events, &n, err);
        is_reading = is_reading && !status && n == 0;
        if (is_reading)
            show_reading(engine, &bar);
        else
            progress_done(&bar);
        for (size_t i = 0; !status && i < n; i++) {
            status = write_text(&events[i], o, err);
            if (events[i].kind != KVQ_EVENT_TEXT) o->last = events[i];
        }
    }
    if (status) return status;
    if (o->last.kind == KVQ_EVENT_FAILED) return kvq_fail(err, o->last.error.code, "%s", o->last.error.text);
    return KVQ_OK;
}

static double rate(int tokens, double ms) {
    return ms > 0 ? tokens / ms * 1000 : 0;
}

static void print_figures(const outcome *o, const char *policy) {
    const kvq_result *r = &o->last.result;
    int fresh = r->prompt_tokens - r->cached_tokens;
    fprintf(stderr,
            "prompt %d tokens, %.0f ms, %.1f tokens/s; answer %d tokens, %.0f ms, %.1f tokens/s; first token after "
            "%.0f ms; %s%s; "
            "seed %" PRIu64 "; kv %s, %.1f KiB\n",
            r->prompt_tokens, r->prefill_ms, rate(fresh, r->prefill_ms), r->completion_tokens, r->decode_ms,
            rate(r->completion_tokens - 1, r->decode_ms), r->ttft_ms, kvq_finish_name(o->last.reason),
            r->truncated ? ", the context is full" : "", r->seed, policy, (double)r->kv_bytes / 1024);
}

static int run(const void *values) {
    const run_values *v = values;
    const char *prompt = NULL;
    char *owned = NULL;
    kvq_engine *engine = NULL;
    kvq_error err = {0};
    outcome o = {.ended_line = true};
    uint64_t id;
    interrupt_catch();
    kvq_options opening = engine_options_make(&v->engine, v->policy);
    opening.max_batch_size = 1;
    opening.session_len = v->session_len;
    kvq_status status = find_prompt(v, &prompt, &owned, &err);
    if (!status) status = engine_open(&opening, &engine, &err);
    const kvq_request request = make_request(v, prompt);
    if (!status) status = kvq_submit(engine, &request, &id, &err);
    if (!status) status = stream(engine, id, &o, &err);
    if (!o.ended_line && isatty(STDOUT_FILENO)) putchar('\n');
    int code = status                                  ? engine_fail(&err)
               : o.last.reason == KVQ_FINISH_CANCELLED ? EXIT_CODE_INTERRUPTED
                                                       : EXIT_CODE_OK;
    if (!status && !v->quiet) print_figures(&o, v->policy);
    kvq_close(engine);
    free(owned);
    return code;
}

const command command_run = {
    .name = "run",
    .doc = "Answers one prompt; the text goes to standard output as it is made.",
    .about = "Loads the model, puts the prompt through its chat template and streams the answer. Ctrl-C ends the "
             "answer; what "
             "was said stays. Figures go to standard error.",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .values_bytes = sizeof(run_values),
    .run = run,
};
