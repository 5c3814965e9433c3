/* daemon.c: opening, the loop's steps, reload, drain and close. See daemon.h; main.c calls the steps in order. */
#include "daemon.h"

#include <ctype.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "bench.h"
#include "command.h"
#include "discovery.h"
#include "file.h"
#include "log.h"
#include "prompt.h"
#include "reload.h"
#include "text.h"

#define DRAIN_S 10  /* running answers get this long at a stop; the unit's TimeoutStopSec is longer */
#define GOODBYE_S 3 /* for the last acknowledgements */
#define PRUNE_EVERY_S 600
#define POOL_FULL_EVERY_S 60 /* events kv_pool_full at most this often */
#define MAX_TEMPLATE_BYTES (1u << 20)
#define PACKET_OVERHEAD_BYTES 70000 /* topic and properties of the largest message */

/* ---- phases ---------------------------------------------------------------------------------------------- */

const char *daemon_phase_name(daemon_phase phase) {
    static const char *const names[] = {
#define X(name, text) text,
        PHASE_MAP(X)
#undef X
    };
    return names[phase];
}

static bool is_queue_full(const kvqd *d) {
    return requests_n_queued(d) >= (size_t)d->config.limits_max_queue;
}

daemon_phase daemon_current_phase(const kvqd *d) {
    if (d->is_draining) return PHASE_DRAINING;
    if (d->in_conflict) return PHASE_DEGRADED;
    return d->engine_phase == PHASE_READY && is_queue_full(d) ? PHASE_BUSY : d->engine_phase;
}

const char *daemon_reason(const kvqd *d) {
    return d->in_conflict ? "node_conflict: another kvqd uses this node name at the broker" : d->engine_reason;
}

const char *daemon_model_name(const kvqd *d) {
    return d->engine ? d->model_name : NULL;
}

static void set_engine_phase(kvqd *d, daemon_phase phase, const char *reason) {
    d->engine_phase = phase;
    snprintf(d->engine_reason, sizeof d->engine_reason, "%s", reason);
    text_mend(d->engine_reason); /* may quote a file */
}

void daemon_wake_at(kvqd *d, int64_t ns) {
    if (ns < d->wake_at_ns) d->wake_at_ns = ns;
}

/* ---- publishing ------------------------------------------------------------------------------------------ */

bool daemon_publish_json(kvqd *d, topic_id id, const char *rest, json_t *object) {
    char topic[TOPIC_BYTES];
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    if (!text) return false;
    topic_make(&d->names, id, rest, topic);
    mqtt_publication p = {
        .topic = topic,
        .payload = text,
        .n_bytes = strlen(text),
        .qos = topic_table[id].qos,
        .retained = topic_table[id].retained,
    };
    bool sent = mqtt_publish(d->mqtt, &p);
    if (!sent && mqtt_is_connected(d->mqtt))
        log_warning("'%s' was not published: %zu bytes, or too many wait", topic, p.n_bytes);
    free(text);
    return sent;
}

void daemon_event(kvqd *d, const char *type, json_t *data) {
    json_t *event = json_pack("{s:s, s:f}", "type", type, "ts", (double)clock_wall_ms() / 1000);
    if (event && data) (void)json_object_update(event, data); /* no memory: the type alone */
    json_decref(data);
    (void)daemon_publish_json(d, TOPIC_EVENT, NULL, event); /* an event that nobody can hear is in the log */
}

/* ---- messages -------------------------------------------------------------------------------------------- */

typedef void handler_fn(kvqd *d, const message *m, const char *rest, bool valid);

static void on_prompt(kvqd *d, const message *m, const char *rest, bool valid) {
    (void)rest; /* requests.c matches the topic itself, for prompts of the journal too */
    (void)valid;
    requests_accept_loose(d, m);
}

static void on_cancel(kvqd *d, const message *m, const char *rest, bool valid) {
    if (m->retained || !valid) return; /* no request has such a name */
    requests_cancel(d, rest);
}

static void on_command(kvqd *d, const message *m, const char *rest, bool valid) {
    if (m->retained || !valid) return;
    command_run(d, rest, m);
}

static void on_home_status(kvqd *d, const message *m, const char *rest, bool valid) {
    (void)rest;
    (void)valid;
    if (m->n_bytes == 6 && memcmp(m->payload, "online", 6) == 0) discovery_publish(d);
}

static handler_fn *const handlers[TOPIC_COUNT] = {
#define TOPIC(name, pattern, where, qos, retained, handler) [TOPIC_##name] = handler,
#include "topics.def"
#undef TOPIC
};

static void handle(kvqd *d, const message *m) {
    char rest[TOPIC_REQUEST_BYTES];
    bool valid;
    topic_id id = topic_match(&d->names, m->topic, rest, &valid);
    if (id != TOPIC_COUNT && handlers[id]) handlers[id](d, m, rest, valid);
}

/* On the MQTT library's thread, before the broker gets its acknowledgement: see journal.h. What is not stored comes to
 * requests_accept_loose by the inbox. */
static bool store(void *user, const message *m) {
    daemon_store *s = user;
    char rest[TOPIC_REQUEST_BYTES];
    bool valid;
    kvq_error err;
    topic_id id = topic_match(&s->names, m->topic, rest, &valid);
    if (id == TOPIC_COUNT || handlers[id] != on_prompt) return false;
    if (m->qos == 0 || m->retained || m->n_bytes > s->max_prompt_bytes) return false;
    if (!journal_append(s->journal, m, &err)) return true;
    log_event(LOG_MESSAGE_JOURNAL_FULL, NULL, "a prompt on '%s' is refused: %s", m->topic, err.text);
    return false;
}

static bool store_from_pool(void *user, const message *m) {
    message marked = *m;
    marked.from_pool = true;
    return store(user, &marked);
}

static void subscribe(kvqd *d, mqtt *m, topic_where where) {
    topic_filter filters[TOPIC_MAX_FILTERS];
    size_t n = topic_filters(&d->names, where, filters);
    for (size_t i = 0; i < n; i++) mqtt_subscribe(m, filters[i].text, filters[i].qos);
}

/* What the broker hands to this member of the pool no other one gets: so only one that can run it, and answer, takes
 * its share. */
static void join_or_leave_share(kvqd *d) {
    topic_filter filters[TOPIC_MAX_FILTERS];
    bool takes_part = d->engine && !d->is_draining && !d->in_conflict;
    if (!d->pool || !mqtt_is_connected(d->pool) || takes_part == d->in_share) return;
    size_t n = topic_filters(&d->names, TOPIC_POOL, filters);
    for (size_t i = 0; i < n; i++)
        if (takes_part)
            mqtt_subscribe(d->pool, filters[i].text, filters[i].qos);
        else
            mqtt_unsubscribe(d->pool, filters[i].text);
    d->in_share = takes_part;
}

static void on_connected(kvqd *d, mqtt *m) {
    if (m == d->pool) {
        subscribe(d, m, TOPIC_POOL_ALL);
        d->in_share = false; /* a clean session: join_or_leave_share sees to it */
        return;
    }
    subscribe(d, m, TOPIC_NODE);
    subscribe(d, m, TOPIC_HOME);
    d->in_conflict = false;
    d->refusal[0] = '\0';
    d->requests.answer_sequence = 0; /* what was not acknowledged goes again */
    log_event(LOG_MESSAGE_BROKER_CONNECTED, NULL, "connected to '%s' as '%s', MQTT %s", d->config.mqtt_broker,
              d->client_id, mqtt_version(m) == 5 ? "5" : "3.1.1");
    telemetry_birth(d);
    discovery_publish(d);
}

static void on_conflict(kvqd *d, mqtt *m, const char *text) {
    if (m == d->pool) return; /* the main connection sees the same */
    d->in_conflict = true;
    log_event(LOG_MESSAGE_NODE_CONFLICT, NULL,
              "another client uses our name ('%s' on '%s'): %s; keeping away while it is there", d->client_id,
              d->config.mqtt_broker, text);
}

static void on_broker_event(kvqd *d, mqtt *m, const mqtt_event *e) {
    const char *which = m == d->pool ? " (pool)" : "";
    switch (e->kind) {
    case MQTT_CONNECTED:
        on_connected(d, m);
        break;
    case MQTT_LOST:
        log_event(LOG_MESSAGE_BROKER_LOST, NULL, "lost '%s'%s: %s", d->config.mqtt_broker, which, e->text);
        break;
    case MQTT_REFUSED:
        if (strcmp(d->refusal, e->text) != 0) /* a reason once, not with every attempt */
            log_event(LOG_MESSAGE_BROKER_REFUSED, NULL, "no connection to '%s'%s: %s; trying on", d->config.mqtt_broker,
                      which, e->text);
        snprintf(d->refusal, sizeof d->refusal, "%s", e->text);
        text_mend(d->refusal); /* may quote a file's name */
        break;
    case MQTT_CONFLICT:
        on_conflict(d, m, e->text);
        break;
    case MQTT_MESSAGE:
        handle(d, e->message);
        break;
    case MQTT_DELIVERED:
        requests_delivered(d, e->cookie, e->text);
        break;
    case MQTT_SUBSCRIPTION_REFUSED:
        log_error("'%s'%s: %s", d->config.mqtt_broker, which, e->text);
        break;
    }
}

static void take_events(kvqd *d, mqtt *m) {
    mqtt_event e;
    while (m && mqtt_take(m, &e)) {
        on_broker_event(d, m, &e);
        mqtt_event_done(&e);
    }
}

/* Stored prompts first, so that a cancel finds the prompt that it followed. */
void daemon_read_inbox(kvqd *d) {
    uint64_t n;
    d->wake_at_ns = INT64_MAX; /* a new round */
    if (read(d->wake_fd, &n, sizeof n) == (ssize_t)sizeof n) d->requests.look_into_journal = true;
    requests_accept_stored(d);
    take_events(d, d->mqtt);
    take_events(d, d->pool);
}

/* ---- the model ------------------------------------------------------------------------------------------- */

void daemon_engine_options(const kvqd *d, kvq_options *ret) {
    *ret = kvq_default_options();
    config_engine_options(&d->config, ret);
    ret->model_path = d->model_path;
    ret->chat_template = NULL; /* a file's text: read_template reads it */
}

/* *ret: the text of [model] chat_template, owned by the caller; NULL if none is configured. */
static kvq_status read_template(const kvqd *d, char **ret, kvq_error *err) {
    const char *path = d->config.model_chat_template;
    *ret = NULL;
    return *path ? file_read(path, MAX_TEMPLATE_BYTES, ret, err) : KVQ_OK;
}

static kvq_status start_loading(kvqd *d, const char *backend, kvq_error *err) {
    kvq_options options;
    char *template;
    daemon_engine_options(d, &options);
    if (backend) options.backend = backend;
    kvq_status status = read_template(d, &template, err);
    options.chat_template = template;
    if (!status) status = loader_open(&options, d->wake_fd, &d->loader, err);
    free(template);
    if (status) return status;
    if (d->engine_phase != PHASE_DEGRADED) d->engine_reason[0] = '\0';
    d->engine_phase = PHASE_LOADING;
    return KVQ_OK;
}

static void tell_ready(kvqd *d) {
    char line[NOTIFY_STATUS_BYTES];
    if (d->is_ready_told) return;
    telemetry_status_line(d, line, sizeof line);
    notify_ready(&d->notify, line);
    d->is_ready_told = true;
}

static void has_no_model(kvqd *d, kvq_status status, const char *reason) {
    bool absent = status == KVQ_NOT_FOUND;
    set_engine_phase(d, absent ? PHASE_NO_MODEL : PHASE_FAILED, reason);
    log_event(absent ? LOG_MESSAGE_NO_MODEL : LOG_MESSAGE_LOAD_FAILED, NULL, "%s", reason);
    requests_submit(d); /* refuses what waits */
    tell_ready(d);
}

static void choose_and_load(kvqd *d) {
    kvq_error err;
    char *path;
    kvq_status status = models_choose(d->state_folder, d->config.model_path, &path, &err);
    if (!status) {
        free(d->model_path);
        d->model_path = path;
        status = start_loading(d, NULL, &err);
    }
    if (status) has_no_model(d, status, err.text);
}

static void has_model(kvqd *d, kvq_engine *engine) {
    const kvq_info *i = kvq_get_info(engine);
    bool degraded = *d->engine_reason != '\0';
    d->engine = engine;
    snprintf(d->model_name, sizeof d->model_name, "%s", *d->config.model_name ? d->config.model_name : i->model_name);
    text_mend(d->model_name); /* a file's own name may be anything */
    d->engine_phase = degraded ? PHASE_DEGRADED : PHASE_READY;
    log_event(LOG_MESSAGE_READY, LOG_FIELDS(LOG_TEXT("MODEL", i->model_name), LOG_NUMBER("POOL_BYTES", i->pool_bytes)),
              "'%s' on %s (%s), KV policy %s, pool of %.1f MiB for %llu tokens in sequences of %d", i->model_name,
              i->backend, i->isa, i->quant_policy, (double)i->pool_bytes / 1048576,
              (unsigned long long)i->capacity[2].tokens, i->capacity[2].tokens_a_sequence);
    if (i->cublas) log_info("cuBLAS: %s", i->cublas);
    if (i->passed_over) log_warning("the GPU is not used: %s", i->passed_over);
    if (i->template_error)
        log_warning("the model's chat template cannot be used, only \"raw\" prompts work: %s", i->template_error);
    telemetry_follow_gpu(&d->telemetry, i);
    telemetry_publish_info(d);
    tell_ready(d);
}

/* A GPU that was asked for and is not usable: the CPU serves meanwhile, and the phase says so. */
static bool fall_back(kvqd *d, kvq_status status, const char *reason) {
    kvq_error err;
    if (status != KVQ_DEVICE || strcmp(d->config.engine_backend, "cuda") != 0 || *d->engine_reason) return false;
    set_engine_phase(d, PHASE_DEGRADED, reason);
    log_event(LOG_MESSAGE_LOAD_FAILED, NULL, "%s; the CPU is used instead", reason);
    return start_loading(d, "cpu", &err) == KVQ_OK;
}

void daemon_take_model(kvqd *d) {
    kvq_engine *engine;
    kvq_status status;
    kvq_error err;
    if (d->loader && loader_take(d->loader, &engine, &status, &err)) {
        loader_close(d->loader);
        d->loader = NULL;
        if (status == KVQ_OK)
            has_model(d, engine);
        else if (!fall_back(d, status, err.text))
            has_no_model(d, status == KVQ_NOT_FOUND ? KVQ_IO : status, err.text);
    }
    requests_submit(d);
}

static void close_engine(kvqd *d) {
    telemetry_keep_counters(d);
    kvq_close(d->engine);
    d->engine = NULL;
}

kvq_status daemon_unload(kvqd *d, kvq_error *err) {
    if (d->loader) return kvq_fail(err, KVQ_BUSY, "a model is being loaded");
    if (d->requests.n > 0) return kvq_fail(err, KVQ_BUSY, "%zu prompts are not finished", d->requests.n);
    if (d->bench.args) return kvq_fail(err, KVQ_BUSY, "a bench runs");
    if (!d->engine) return kvq_fail(err, KVQ_NOT_FOUND, "no model is loaded");
    close_engine(d);
    set_engine_phase(d, PHASE_NO_MODEL, "it was unloaded; the command 'load' brings it back");
    telemetry_publish_info(d);
    return KVQ_OK;
}

/* Looks at the file before the model that serves is given up for it. Whether it fits is known only once that is gone,
 * and the device is opened then. */
static kvq_status check_file(const kvqd *d, const char *path, kvq_error *err) {
    kvq_options options;
    char *template;
    daemon_engine_options(d, &options);
    options.model_path = path;
    kvq_status status = read_template(d, &template, err);
    options.chat_template = template;
    if (!status) status = kvq_check_file(&options, err);
    free(template);
    return status;
}

kvq_status daemon_load(kvqd *d, const char *path, kvq_error *err) {
    char *copy = strdup(path);
    kvq_status status = copy ? KVQ_OK : kvq_fail(err, KVQ_NO_MEMORY, "no memory for a path");
    if (!status && d->engine) status = check_file(d, path, err);
    if (!status && d->engine) status = daemon_unload(d, err);
    if (!status && d->loader) status = kvq_fail(err, KVQ_BUSY, "a model is being loaded");
    if (status) {
        free(copy);
        return status;
    }
    free(d->model_path);
    d->model_path = copy;
    set_engine_phase(d, PHASE_STARTING, "");
    status = start_loading(d, NULL, err);
    if (status) has_no_model(d, status, err->text);
    return status;
}

/* ---- a step ---------------------------------------------------------------------------------------------- */

/* The engine itself failed: nothing that it holds can be trusted. A process whose GPU failed gets no more from it
 * (CUDA's errors of a context are for ever), so prompts stay in the journal for the next one. */
static void lose_engine(kvqd *d, const kvq_error *err) {
    failure f;
    failure_from_error(&f, err);
    d->has_lost_gpu = err->code == KVQ_DEVICE;
    log_event(LOG_MESSAGE_LOAD_FAILED, NULL, "the engine stopped: %s", err->text);
    daemon_event(d, d->has_lost_gpu ? "gpu_lost" : "engine_failed", json_pack("{s:s}", "message", f.text));
    bench_fail(d, &f);
    if (!d->has_lost_gpu) {
        requests_fail_all(d, &f);
        close_engine(d);
    }
    set_engine_phase(d, PHASE_FAILED, err->text);
}

void daemon_await_step(kvqd *d) {
    if (d->engine) kvq_wait(d->engine);
}

void daemon_step_engine(kvqd *d) {
    const kvq_event *events;
    size_t n;
    kvq_error err;
    if (!d->engine || !kvq_is_active(d->engine)) return;
    if (kvq_step(d->engine, &events, &n, &err))
        lose_engine(d, &err);
    else
        requests_apply(d, events, n);
}

/* ---- upkeep ---------------------------------------------------------------------------------------------- */

static void tell_pool_full(kvqd *d, int64_t now_ns) {
    kvq_stats stats;
    if (!d->engine || now_ns < d->pool_full_at_ns) return;
    kvq_get_stats(d->engine, &stats);
    if (stats.preemptions > d->n_preemptions_told) {
        daemon_event(d, "kv_pool_full",
                     json_pack("{s:I, s:I}", "blocks", (json_int_t)stats.n_blocks, "preemptions",
                               (json_int_t)stats.preemptions));
        d->pool_full_at_ns = now_ns + POOL_FULL_EVERY_S * NS_PER_S;
    }
    d->n_preemptions_told = stats.preemptions;
}

static void prune_journal(kvqd *d, int64_t now_ns) {
    kvq_error err;
    if (now_ns >= d->prune_at_ns) {
        if (clock_is_synced() && journal_prune(d->journal, clock_wall_ms(), &err)) log_error("%s", err.text);
        d->prune_at_ns = now_ns + PRUNE_EVERY_S * NS_PER_S;
    }
    daemon_wake_at(d, d->prune_at_ns);
}

/* At most once a second; what changes meanwhile is told when the second is over. */
static void tell_status(kvqd *d, int64_t now_ns) {
    char line[NOTIFY_STATUS_BYTES];
    if (now_ns < d->telemetry.status_at_ns) {
        daemon_wake_at(d, d->telemetry.status_at_ns);
        return;
    }
    telemetry_status_line(d, line, sizeof line);
    notify_status(&d->notify, line);
    d->telemetry.status_at_ns = now_ns + NS_PER_S;
}

static void tell_service_manager(kvqd *d, int64_t now_ns) {
    if (d->loader) {
        notify_loading(&d->notify, now_ns, "loading the model", loader_progress(d->loader));
        daemon_wake_at(d, now_ns + NS_PER_S);
    } else if (!d->is_draining)
        tell_status(d, now_ns);
    notify_tick(&d->notify, now_ns);
}

void daemon_upkeep(kvqd *d) {
    int64_t now_ns = clock_monotonic_ns();
    requests_flush(d, now_ns);
    requests_publish_answers(d);
    daemon_wake_at(d, mqtt_run(d->mqtt, now_ns));
    if (d->pool && !d->in_conflict) daemon_wake_at(d, mqtt_run(d->pool, now_ns)); /* else it throws out the other's */
    join_or_leave_share(d);
    tell_pool_full(d, now_ns);
    telemetry_publish(d, now_ns);
    prune_journal(d, now_ns);
    tell_service_manager(d, now_ns);
    if (d->is_draining) daemon_wake_at(d, d->drain_until_ns);
}

int daemon_wait_ms(const kvqd *d) {
    int64_t now_ns = clock_monotonic_ns();
    bool has_more = d->requests.look_into_journal && d->requests.last_row >= d->requests.recovered_row;
    if ((d->engine && kvq_is_active(d->engine)) || has_more) return 0;
    int notify_ms = notify_wait_ms(&d->notify, now_ns);
    if (d->wake_at_ns == INT64_MAX) return notify_ms;
    int64_t ms = d->wake_at_ns <= now_ns ? 0 : (d->wake_at_ns - now_ns) / NS_PER_MS + 1;
    if (ms > 3600000) ms = 3600000;
    return notify_ms >= 0 && notify_ms < ms ? notify_ms : (int)ms;
}

/* ---- opening --------------------------------------------------------------------------------------------- */

/* systemd may give several folders; the first is ours. */
static char *find_state_folder(void) {
    const char *given = getenv("STATE_DIRECTORY");
    if (!given || !*given) return strdup(".");
    return strndup(given, strcspn(given, ":"));
}

/* The short host name in the characters that a topic level of ours may have. */
static void short_host_name(char *ret, size_t n_bytes) {
    char host[256] = "";
    (void)gethostname(host, sizeof host - 1); /* fails only for a short buffer */
    host[strcspn(host, ".")] = '\0';
    snprintf(ret, n_bytes, "%.63s", *host ? host : "kvqd");
    for (char *c = ret; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '_' && *c != '-') *c = '-';
}

/* Fixed at first start: a host that is renamed keeps its topics. */
static kvq_status find_node(kvqd *d, kvq_error *err) {
    const char *name = d->config.mqtt_node;
    char host[64];
    if (!*name) {
        short_host_name(host, sizeof host);
        if (!journal_remember(d->journal, "node", host, &d->node, err)) return KVQ_OK;
        log_warning("%s; the node is '%s' this time", err->text, host);
        name = host;
    }
    d->node = strdup(name);
    return d->node ? KVQ_OK : kvq_fail(err, KVQ_NO_MEMORY, "no memory for the node's name");
}

static kvq_status set_names(kvqd *d, kvq_error *err) {
    const config *c = &d->config;
    kvq_status status = find_node(d, err);
    if (status) return status;
    d->base = strdup(c->mqtt_base_topic);
    d->pool_name = strdup(c->mqtt_pool);
    int n = *c->mqtt_client_id ? asprintf(&d->client_id, "%s", c->mqtt_client_id)
                               : asprintf(&d->client_id, "kvqd-%s", d->node);
    if (n < 0) d->client_id = NULL;
    d->store = calloc(1, sizeof *d->store);
    if (!d->base || !d->pool_name || !d->client_id || !d->store)
        return kvq_fail(err, KVQ_NO_MEMORY, "no memory for names");
    d->names = (topic_names){
        .base = d->base, .node = d->node, .pool = d->pool_name, .home = c->telemetry_homeassistant_prefix};
    d->store->journal = d->journal;
    d->store->names = d->names;
    d->store->max_prompt_bytes = c->limits_max_prompt_bytes;
    d->store->names.home = ""; /* may change; no prompt comes there */
    return KVQ_OK;
}

static void apply_limits(kvqd *d) {
    const config *c = &d->config;
    log_set_level(c->log_level);
    journal_set_limits(d->journal, c->journal_max_bytes, (int64_t)c->journal_retain_h * 3600000);
    d->prune_at_ns = 0;
    d->names.home = c->telemetry_homeassistant_prefix;
}

static void warn_of_the_clock(void) {
    if (clock_ask_sync() == CLOCK_UNKNOWN)
        log_warning("whether the clock is synchronised cannot be asked: %m; the time before a restart does not count "
                    "for max_age_s and deadlines, and answers are kept longer than retain_h");
}

static kvq_status open_journal(kvqd *d, kvq_error *err) {
    bool damaged = false;
    journal_stats stats;
    kvq_status status = journal_open(d->state_folder, &d->journal, &damaged, err);
    if (status) return status;
    if (damaged)
        log_error("the journal in '%s' was damaged; it is kept as journal.db.damaged, and a new one was made",
                  d->state_folder);
    journal_get_stats(d->journal, &stats);
    if (stats.n_unanswered)
        log_info("%llu prompts of the journal are not answered yet", (unsigned long long)stats.n_unanswered);
    d->requests.look_into_journal = true;
    d->requests.recovered_row = journal_last_row(d->journal);
    return KVQ_OK;
}

/* On the main loop's thread. */
static kvq_status read_secrets(void *owner, mqtt_secrets *ret, kvq_error *err) {
    const kvqd *d = owner;
    char *password, *key_file;
    kvq_status status = config_read_password(&d->config, &password, err);
    if (status) return status;
    status = config_secret_path(d->config.mqtt_key_file, &key_file, err);
    if (status)
        free(password);
    else
        *ret = (mqtt_secrets){.password = password, .key_file = key_file};
    return status;
}

static kvq_status open_broker(kvqd *d, kvq_error *err) {
    const config *c = &d->config;
    char pool_id[128], status_topic[TOPIC_BYTES], ping_topic[TOPIC_BYTES], pong_topic[TOPIC_BYTES];
    topic_make(&d->names, TOPIC_STATUS, NULL, status_topic);
    topic_make(&d->names, TOPIC_REQUEST, "ping", ping_topic);
    topic_make(&d->names, TOPIC_REPLY, "ping", pong_topic);
    snprintf(pool_id, sizeof pool_id, "%s-pool", d->client_id);
    mqtt_options o = {
        .uri = c->mqtt_broker,
        .client_id = d->client_id,
        .username = c->mqtt_username,
        .ca_file = c->mqtt_ca_file,
        .cert_file = c->mqtt_cert_file,
        .read_secrets = read_secrets,
        .owner = d,
        .status_topic = status_topic,
        .ping_topic = ping_topic,
        .pong_topic = pong_topic,
        .keepalive_s = c->mqtt_keepalive_s,
        .session_expiry_s = c->mqtt_session_expiry_s,
        .max_message_bytes = PROMPT_READABLE_FACTOR * c->limits_max_prompt_bytes + PACKET_OVERHEAD_BYTES,
        .wake_fd = d->wake_fd,
        .store = store,
        .user = d->store,
    };
    kvq_status status = mqtt_open(&o, &d->mqtt, err);
    if (!status && *c->mqtt_pool) {
        o.client_id = pool_id;
        o.status_topic = o.ping_topic = o.pong_topic = NULL;
        o.session_expiry_s = 0; /* a durable member would get its share while it is away */
        o.store = store_from_pool;
        status = mqtt_open(&o, &d->pool, err);
    }
    return status;
}

kvq_status daemon_open(const char *config_path, const config *moved, kvqd *d, kvq_error *err) {
    *d = (kvqd){.config = *moved, .config_path = config_path, .wake_fd = -1, .started_ns = clock_monotonic_ns()};
    log_set_level(d->config.log_level);
    notify_init(&d->notify, d->started_ns);
    telemetry_init(&d->telemetry);
    d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (d->wake_fd < 0) return kvq_fail(err, KVQ_IO, "eventfd: %m");
    d->state_folder = find_state_folder();
    if (!d->state_folder) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for a path");
    log_info("kvqd " KVQ_VERSION " starts: configuration '%s', state in '%s'",
             config_path ? config_path : CONFIG_DEFAULT_PATH, d->state_folder);
    warn_of_the_clock();
    kvq_status status = open_journal(d, err);
    if (!status) status = set_names(d, err);
    if (status) return status;
    apply_limits(d);
    status = open_broker(d, err);
    if (status) return status;
    choose_and_load(d);
    return KVQ_OK;
}

/* ---- reload ---------------------------------------------------------------------------------------------- */

static size_t list_keys(char *ret, size_t n_bytes, const char *what, const config_key *const *keys, size_t n_keys) {
    size_t n = 0;
    for (size_t i = 0; i < n_keys && n < n_bytes; i++)
        n += (size_t)snprintf(ret + n, n_bytes - n, "%s[%s] %s", i ? ", " : what, keys[i]->section, keys[i]->name);
    return n < n_bytes ? n : n_bytes - 1;
}

static void describe(const config_changes *c, char *ret, size_t n_bytes) {
    size_t n = list_keys(ret, n_bytes, "changed: ", c->reloaded, c->n_reloaded);
    n += list_keys(ret + n, n_bytes - n, n ? "; need a restart: " : "need a restart: ", c->restart, c->n_restart);
    if (n == 0) snprintf(ret, n_bytes, "nothing changed");
}

static void take_config(kvqd *d, const config *new) {
    char old_home[160];
    config old = d->config;
    snprintf(old_home, sizeof old_home, "%s", old.telemetry_homeassistant_prefix);
    bool moved_home = strcmp(old_home, new->telemetry_homeassistant_prefix) != 0;
    if (moved_home) discovery_remove(d);
    d->config = *new;
    apply_limits(d);
    config_free(&old);
    d->telemetry.telemetry_at_ns = 0;
    if (moved_home && mqtt_is_connected(d->mqtt)) {
        subscribe(d, d->mqtt, TOPIC_HOME);
        discovery_publish(d);
    }
}

bool daemon_reload(kvqd *d, char *ret_text, size_t n_text) {
    config new;
    kvq_error err;
    config_changes changes = {0};
    config_report report = {0};
    bool was_ready = d->is_ready_told; /* before that, READY is the end of the start and not of a reload */
    if (was_ready) notify_reloading(&d->notify, clock_monotonic_ns());
    bool ok = config_reload(d->config_path, &d->config, &new, &changes, &report);
    if (ok) {
        describe(&changes, ret_text, n_text);
        take_config(d, &new);
        log_event(LOG_MESSAGE_CONFIG_RELOADED, NULL, "%s", ret_text);
        daemon_event(d, "config_reloaded",
                     json_pack("{s:s, s:b}", "changes", ret_text, "restart_required", changes.n_restart > 0));
        telemetry_publish_info(d);
    } else {
        snprintf(ret_text, n_text, "%s", report.text ? report.text : "no memory");
        text_mend(ret_text); /* cut inside a character, perhaps */
        log_event(LOG_MESSAGE_CONFIG_REFUSED, NULL, "the configuration was not reloaded, nothing is changed");
        log_event_lines(LOG_MESSAGE_CONFIG_REFUSED, report.text ? report.text : "no memory");
        daemon_event(d, "config_refused", json_pack("{s:s}", "message", ret_text));
    }
    const char *result = ok || !report.text ? ret_text : report.text;
    if (reload_publish(getenv("RUNTIME_DIRECTORY"), ok, result, &err)) log_error("%s", err.text);
    config_changes_free(&changes);
    config_report_free(&report);
    d->is_ready_told = false;
    if (was_ready) tell_ready(d);
    return ok;
}

/* ---- stopping -------------------------------------------------------------------------------------------- */

void daemon_drain(kvqd *d) {
    int64_t now_ns = clock_monotonic_ns();
    if (!d->is_draining) {
        d->drain_until_ns = now_ns + DRAIN_S * NS_PER_S;
        log_event(LOG_MESSAGE_STOPPING, NULL, "stopping; %zu prompts run, %zu wait for the next start",
                  d->requests.n - d->requests.n_waiting, d->requests.n_waiting);
    } else {
        d->drain_until_ns = now_ns; /* asked twice */
    }
    d->is_draining = true;
    notify_stopping(&d->notify, "finishing what runs");
}

bool daemon_is_drained(const kvqd *d) {
    if (d->has_lost_gpu) return true;
    bool some_run = d->engine && d->requests.n > d->requests.n_waiting;
    return d->is_draining && (!some_run || clock_monotonic_ns() >= d->drain_until_ns);
}

/* The last answers and `offline` get a moment to be acknowledged. */
static void say_goodbye(kvqd *d) {
    char topic[TOPIC_BYTES];
    int64_t until_ns = clock_monotonic_ns() + GOODBYE_S * NS_PER_S;
    topic_make(&d->names, TOPIC_STATUS, NULL, topic);
    mqtt_publication offline = {
        .topic = topic, .payload = "offline", .n_bytes = 7, .qos = 1, .retained = true, .is_text = true};
    requests_publish_answers(d);
    telemetry_publish(d, clock_monotonic_ns());
    bool told = false;
    while (mqtt_is_connected(d->mqtt) && (!told || mqtt_n_waiting(d->mqtt) > 0) && clock_monotonic_ns() < until_ns) {
        struct pollfd fd = {.fd = d->wake_fd, .events = POLLIN};
        uint64_t n;
        if (!told) told = mqtt_publish(d->mqtt, &offline);
        (void)poll(&fd, 1, 100);                          /* interrupted or timed out: the loop looks again */
        if (read(d->wake_fd, &n, sizeof n) < 0) continue; /* nothing happened */
        take_events(d, d->mqtt);
        requests_publish_answers(d);
        (void)mqtt_run(d->mqtt, clock_monotonic_ns());
    }
}

void daemon_close(kvqd *d) {
    if (d->mqtt && d->journal) {
        failure lost, stopped;
        (void)failure_set(&lost, FAILURE_INTERNAL, "%s", d->engine_reason);
        (void)failure_set(&stopped, FAILURE_CANCELLED, "kvqd stopped");
        requests_leave(d, d->has_lost_gpu ? &lost : NULL);
        bench_fail(d, &stopped);
        say_goodbye(d);
    }
    mqtt_close(d->pool);
    mqtt_close(d->mqtt);
    loader_close(d->loader);
    kvq_close(d->engine);
    journal_close(d->journal);
    telemetry_done(&d->telemetry);
    if (d->wake_fd >= 0) (void)close(d->wake_fd); /* an eventfd has nothing to lose */
    free(d->store);
    free(d->model_path);
    free(d->client_id);
    free(d->pool_name);
    free(d->base);
    free(d->node);
    free(d->state_folder);
    config_free(&d->config);
}
