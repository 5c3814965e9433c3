/* command.c: the table of request/<cmd> handlers. See command.h.
 * A handler gets the request's JSON object and returns the data of the reply, or NULL with *f filled, or JSON's null if
 * it replies later (command_reply). None of them waits: `load` answers when loading has begun, and the state topic
 * tells how it goes. */
#include "command.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bench.h"
#include "daemon.h"
#include "log.h"
#include "text.h"

#define MAX_COMMAND_BYTES 65536

typedef json_t *command_fn(kvqd *d, const json_t *args, failure *f);

/* ---- helpers --------------------------------------------------------------------------------------------- */

/* A string of the request; "" when it is absent. False if it is of another type. */
static bool text_of(const json_t *args, const char *key, const char **ret, failure *f) {
    const json_t *value = json_object_get(args, key);
    *ret = value ? json_string_value(value) : "";
    return *ret || failure_set(f, FAILURE_BAD_REQUEST, "'%s' must be a string", key);
}

static bool number_of(const json_t *args, const char *key, int preset, int low, int high, int *ret, failure *f) {
    const json_t *value = json_object_get(args, key);
    json_int_t n = value ? json_integer_value(value) : preset;
    if ((value && !json_is_integer(value)) || n < low || n > high)
        return failure_set(f, FAILURE_BAD_REQUEST, "'%s' must be a whole number from %d to %d", key, low, high);
    *ret = (int)n;
    return true;
}

static json_t *fail_from(const kvq_error *err, failure *f) {
    failure_from_error(f, err);
    if (err->code == KVQ_NOT_FOUND) f->code = FAILURE_NO_MODEL;
    return NULL;
}

/* '?' for each byte that JSON could not carry: a file's name may be anything. */
static json_t *json_path(const char *path) {
    char text[PATH_MAX];
    snprintf(text, sizeof text, "%s", path);
    text_mend(text);
    return json_string(text);
}

/* ---- the commands ---------------------------------------------------------------------------------------- */

static json_t *run_ping(kvqd *d, const json_t *args, failure *f) {
    (void)args;
    (void)f;
    return json_pack("{s:s, s:s, s:s}", "node", d->node, "version", KVQ_VERSION, "phase",
                     daemon_phase_name(daemon_current_phase(d)));
}

static json_t *run_reload(kvqd *d, const json_t *args, failure *f) {
    char text[1024];
    (void)args;
    if (daemon_reload(d, text, sizeof text)) return json_pack("{s:s}", "changes", text);
    (void)failure_set(f, FAILURE_BAD_REQUEST, "%s", text);
    return NULL;
}

static json_t *run_models(kvqd *d, const json_t *args, failure *f) {
    models_list l;
    kvq_error err;
    (void)args;
    if (models_find(d->state_folder, &l, &err)) return fail_from(&err, f);
    json_t *list = json_array();
    for (size_t i = 0; i < l.n; i++) {
        struct stat st = {0};
        const char *file = strrchr(l.paths[i], '/') + 1;
        (void)stat(l.paths[i], &st); /* gone meanwhile: 0 bytes */
        bool loaded = d->engine && d->model_path && strcmp(d->model_path, l.paths[i]) == 0;
        (void)json_array_append_new(list, json_pack("{s:o, s:o, s:I, s:b}", "name", json_path(file), "path",
                                                    json_path(l.paths[i]), "bytes", (json_int_t)st.st_size, "loaded",
                                                    loaded)); /* no memory: one less */
    }
    models_free(&l);
    return json_pack("{s:o, s:s?}", "models", list, "loaded", daemon_model_name(d));
}

/* The path of the model that a request names; without "model" the configured one. */
static bool path_of(kvqd *d, const json_t *args, char **ret, failure *f) {
    const char *name;
    kvq_error err;
    if (!text_of(args, "model", &name, f)) return false;
    kvq_status status = *name ? models_named(d->state_folder, name, ret, &err)
                              : models_choose(d->state_folder, d->config.model_path, ret, &err);
    if (status) (void)fail_from(&err, f);
    return status == KVQ_OK;
}

static json_t *run_load(kvqd *d, const json_t *args, failure *f) {
    char *path;
    kvq_error err;
    if (!path_of(d, args, &path, f)) return NULL;
    kvq_status status = daemon_load(d, path, &err);
    json_t *data = status ? fail_from(&err, f) : json_pack("{s:o}", "loading", json_path(path));
    free(path);
    return data;
}

static json_t *run_unload(kvqd *d, const json_t *args, failure *f) {
    kvq_error err;
    (void)args;
    if (daemon_unload(d, &err)) return fail_from(&err, f);
    return json_object();
}

static json_t *plan_to_json(const kvq_info *i) {
    json_t *list = json_array();
    for (int n = 0; n < 3; n++)
        (void)json_array_append_new(list,
                                    json_pack("{s:i, s:I, s:I}", "tokens_a_sequence", i->capacity[n].tokens_a_sequence,
                                              "tokens", (json_int_t)i->capacity[n].tokens, "tokens_f16",
                                              (json_int_t)i->capacity[n].tokens_f16)); /* no memory: a row less */
    return json_pack("{s:s?, s:s, s:I, s:I, s:I, s:I, s:i, s:o}", "model", i->model_name, "policy", i->quant_policy,
                     "weight_bytes", (json_int_t)i->weight_bytes, "workspace_bytes", (json_int_t)i->workspace_bytes,
                     "pool_bytes", (json_int_t)i->pool_bytes, "blocks", (json_int_t)i->n_blocks, "session_len",
                     i->session_len, "capacity", list);
}

/* What a model would need with the running configuration, or another policy, from its file alone. */
static json_t *run_plan(kvqd *d, const json_t *args, failure *f) {
    char *path;
    const char *policy;
    kvq_plan *plan;
    kvq_error err;
    if (!text_of(args, "quant_policy", &policy, f) || !path_of(d, args, &path, f)) return NULL;
    kvq_options options;
    daemon_engine_options(d, &options);
    options.model_path = path;
    if (*policy) options.quant_policy = policy;
    kvq_status status = kvq_plan_open(&options, &plan, &err);
    json_t *data = status ? fail_from(&err, f) : plan_to_json(kvq_plan_info(plan));
    if (!status) kvq_plan_close(plan);
    free(path);
    return data;
}

static json_t *run_bench(kvqd *d, const json_t *args, failure *f) {
    int n = 0, m = 0; /* gcc at -O3 does not see that number_of sets them or fails */
    bool ok = number_of(args, "prompt_tokens", 128, 1, BENCH_MAX_TOKENS, &n, f) &&
              number_of(args, "tokens", 32, 2, BENCH_MAX_TOKENS, &m, f) && bench_start(d, args, n, m, f);
    return ok ? json_null() : NULL;
}

static json_t *run_sessions(kvqd *d, const json_t *args, failure *f) {
    const char *name;
    kvq_stats stats = {0};
    if (!text_of(args, "drop", &name, f)) return NULL;
    bool dropped = *name && d->engine && kvq_session_drop(d->engine, name);
    if (*name && !dropped) {
        (void)failure_set(f, FAILURE_BAD_REQUEST, "there is no session '%.128s'", name);
        return NULL;
    }
    if (d->engine) kvq_get_stats(d->engine, &stats);
    return json_pack("{s:I, s:b}", "sessions", (json_int_t)stats.sessions, "dropped", dropped);
}

static json_t *run_dump(kvqd *d, const json_t *args, failure *f) {
    (void)args;
    (void)f;
    return json_pack("{s:o, s:o, s:o}", "state", telemetry_state(d), "info", telemetry_info(d), "telemetry",
                     telemetry_metrics(d));
}

/* clang-format off */
static const struct {
    const char *name;
    command_fn *run;
} commands[] = {
    {"ping",     run_ping},     /* who is there */
    {"reload",   run_reload},   /* as SIGHUP */
    {"models",   run_models},   /* the files in the models folders */
    {"load",     run_load},     /* {"model"}: another one, while idle */
    {"unload",   run_unload},   /* gives its memory back, while idle */
    {"plan",     run_plan},     /* {"model","quant_policy"}: what it would need */
    {"bench",    run_bench},    /* {"prompt_tokens","tokens"}: speed of this machine, while idle */
    {"sessions", run_sessions}, /* {"drop"}: how many, forget one */
    {"dump",     run_dump},     /* state, info and telemetry in one */
};
/* clang-format on */

static json_t *run(kvqd *d, const char *name, const json_t *args, failure *f) {
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(commands[i].name, name) == 0) return commands[i].run(d, args, f);
    char known[256] = "";
    for (size_t i = 0, n = 0; i < sizeof commands / sizeof *commands; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", commands[i].name);
    (void)failure_set(f, FAILURE_BAD_REQUEST, "there is no command '%.64s'; there are %s", name, known);
    return NULL;
}

/* An empty payload is an empty object, for people at a shell. */
static json_t *parse(const message *m, failure *f) {
    json_error_t e;
    if (m->n_bytes == 0) return json_object();
    if (m->n_bytes > MAX_COMMAND_BYTES) {
        (void)failure_set(f, FAILURE_TOO_LARGE, "a command has at most %d bytes", MAX_COMMAND_BYTES);
        return NULL;
    }
    json_t *args = json_loadb(m->payload, m->n_bytes, JSON_REJECT_DUPLICATES, &e);
    if (json_is_object(args)) return args;
    (void)failure_set(f, FAILURE_BAD_REQUEST, "a command is a JSON object or empty%s%s", args ? "" : ": ",
                      args ? "" : e.text);
    json_decref(args);
    return NULL;
}

void command_reply(kvqd *d, const char *name, const json_t *args, json_t *data, const failure *f) {
    json_t *transaction = json_object_get(args, "transaction");
    json_t *answer = data ? json_pack("{s:s, s:o}", "status", "ok", "data", data)
                          : json_pack("{s:s, s:{s:s, s:s}}", "status", "error", "error", "code", failure_name(f->code),
                                      "message", f->text);
    if (answer && transaction)
        (void)json_object_set(answer, "transaction", transaction); /* no memory: the key is missing */
    if (!daemon_publish_json(d, TOPIC_REPLY, name, answer)) log_warning("the reply to '%s' was not sent", name);
}

void command_run(kvqd *d, const char *name, const message *m) {
    failure f;
    (void)failure_set(&f, FAILURE_INTERNAL, "no memory for a reply"); /* unless there is a better reason */
    json_t *args = parse(m, &f);
    json_t *data = args ? run(d, name, args, &f) : NULL;
    if (!json_is_null(data)) command_reply(d, name, args, data, &f);
    json_decref(args);
}
