/* telemetry.c: what walks the metric table, and the state and info topics. See telemetry.h and telemetry.def. */
#include "telemetry.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "daemon.h"
#include "log.h"
#include "text.h"

#define STATE_MIN_NS NS_PER_S   /* queue and active change often; the phase is told at once */
#define IDLE_TELEMETRY_FACTOR 6 /* an idle daemon says so less often */

/* Everything a row can ask for, taken once per message. */
typedef struct snapshot {
    const telemetry *t;
    kvq_stats engine; /* counters over all engines since start */
    journal_stats journal;
    mqtt_stats mqtt;
    power_sample power;
    gpu_sample gpu;
    double uptime_s, clock_synced, pool_used_ratio, prefix_hit_ratio, cpu_s;
    uint64_t n_queued, n_failed, pool_bytes;
} snapshot;

/* ---- sensors --------------------------------------------------------------------------------------------- */

static double sum_of_known(double a, double b) {
    return isnan(a) ? b : isnan(b) ? a : a + b;
}

/* RAPL knows of the processor alone; the other sensors of power.c see a GPU too. */
static bool gpu_is_apart(const telemetry *t) {
    return !t->sample.source || strcmp(t->sample.source, "rapl") == 0;
}

static void read_energy(telemetry *t) {
    int64_t now_ns = clock_monotonic_ns();
    t->sample = (power_sample){.power_w = NAN, .energy_j = NAN, .temperature_c = NAN, .gpu = GPU_UNKNOWN};
    if (t->power) power_read(t->power, now_ns, &t->sample);
    if (t->nvml) t->gpu_j = sum_of_known(t->gpu_before_j, nvml_joules(t->nvml, (double)now_ns / NS_PER_S));
    t->energy_j = gpu_is_apart(t) ? sum_of_known(t->sample.energy_j, t->gpu_j) : t->sample.energy_j;
}

static void read_sensors(telemetry *t) {
    read_energy(t);
    t->gpu = t->has_gpu ? t->sample.gpu : GPU_UNKNOWN;
    if (t->nvml) nvml_read(t->nvml, &t->gpu);
    t->power_w = gpu_is_apart(t) ? sum_of_known(t->sample.power_w, t->gpu.power_w) : t->sample.power_w;
}

double telemetry_share_joules(telemetry *t, size_t n_running) {
    read_energy(t);
    /* the first figure of a sensor that was not there before begins at 0: a difference with it is none of a request's
     */
    double used = t->energy_j - t->share_energy_j;
    if (n_running > 0 && used > 0) t->share_j += used / (double)n_running;
    t->share_energy_j = t->energy_j;
    return isnan(t->energy_j) ? NAN : t->share_j;
}

void telemetry_follow_gpu(telemetry *t, const kvq_info *i) {
    t->has_gpu = strcmp(i->backend, "cuda") == 0;
    if (t->has_gpu && !t->nvml) t->nvml = nvml_open(NVML_LIBRARY, i->device_bus_id);
    read_sensors(t);
}

static void leave_gpu(telemetry *t) {
    read_energy(t);
    t->gpu_before_j = t->gpu_j;
    nvml_close(t->nvml);
    t->nvml = NULL;
    t->has_gpu = false;
    read_sensors(t);
}

/* ---- counting -------------------------------------------------------------------------------------------- */

void telemetry_count_end(telemetry *t, const reply_facts *facts) {
    const kvq_result *r = &facts->result;
    if (facts->failure) {
        t->n_refused[facts->failure->code]++;
        return;
    }
    t->n_answered++;
    latency_add(&t->durations[DURATION_FIRST_TOKEN], r->ttft_ms / 1000);
    latency_add(&t->durations[DURATION_QUEUE], r->queue_ms / 1000);
    latency_add(&t->durations[DURATION_PREFILL], r->prefill_ms / 1000);
    latency_add(&t->durations[DURATION_DECODE], r->decode_ms / 1000);
    latency_add(&t->durations[DURATION_REQUEST], (r->ttft_ms + r->decode_ms) / 1000);
    if (r->completion_tokens > 1)
        latency_add(&t->durations[DURATION_PER_TOKEN], r->decode_ms / 1000 / (r->completion_tokens - 1));
}

double telemetry_median_request_s(const telemetry *t) {
    double s = latency_quantile(&t->durations[DURATION_REQUEST], 0.5);
    return isfinite(s) ? s : 0;
}

void telemetry_init(telemetry *t) {
    *t = (telemetry){.power = power_new(""), .gpu_j = NAN, .gpu_before_j = NAN, .joules_a_token = NAN};
    read_sensors(t);
    t->share_energy_j = t->interval_energy_j = t->energy_j;
}

static void add_counters(kvq_stats *to, const kvq_stats *from) {
    to->steps += from->steps;
    to->prompt_tokens += from->prompt_tokens;
    to->prefill_tokens += from->prefill_tokens;
    to->generation_tokens += from->generation_tokens;
    to->preemptions += from->preemptions;
    to->prefix_queries += from->prefix_queries;
    to->prefix_hits += from->prefix_hits;
    to->prefix_hit_tokens += from->prefix_hit_tokens;
    to->prefix_query_tokens += from->prefix_query_tokens;
}

void telemetry_keep_counters(kvqd *d) {
    kvq_stats stats;
    if (!d->engine) return;
    kvq_get_stats(d->engine, &stats);
    add_counters(&d->telemetry.before, &stats);
    leave_gpu(&d->telemetry);
}

/* ---- the machine ----------------------------------------------------------------------------------------- */

static double cpu_seconds(void) {
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u) != 0) return NAN;
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static double clock_synced(void) {
    clock_sync sync = clock_ask_sync();
    return sync == CLOCK_UNKNOWN ? NAN : sync == CLOCK_SYNCED;
}

static void cpu_name(char *ret, size_t n_bytes) {
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");
    snprintf(ret, n_bytes, "unknown");
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        colon[strcspn(colon, "\n")] = '\0';
        snprintf(ret, n_bytes, "%s", colon + 1 + (colon[1] == ' '));
        break;
    }
    (void)fclose(f); /* only read */
}

/* ---- telemetry ------------------------------------------------------------------------------------------- */

static uint64_t n_failed(const telemetry *t) {
    uint64_t n = 0;
    for (int i = 0; i < FAILURE_COUNT; i++)
        if (i != FAILURE_CANCELLED) n += t->n_refused[i];
    return n;
}

static void take_snapshot(kvqd *d, snapshot *s) {
    *s = (snapshot){
        .t = &d->telemetry,
        .uptime_s = (double)(clock_monotonic_ns() - d->started_ns) / 1e9,
        .clock_synced = clock_synced(),
        .pool_used_ratio = NAN,
        .prefix_hit_ratio = NAN,
        .power = d->telemetry.sample,
        .gpu = d->telemetry.gpu,
        .cpu_s = cpu_seconds(),
        .n_queued = requests_n_queued(d),
        .n_failed = n_failed(&d->telemetry),
    };
    if (d->engine) {
        kvq_get_stats(d->engine, &s->engine);
        s->pool_bytes = kvq_get_info(d->engine)->pool_bytes;
        if (s->engine.n_blocks) s->pool_used_ratio = (double)s->engine.blocks_used / (double)s->engine.n_blocks;
    }
    add_counters(&s->engine, &d->telemetry.before);
    if (s->engine.prefix_query_tokens)
        s->prefix_hit_ratio = (double)s->engine.prefix_hit_tokens / (double)s->engine.prefix_query_tokens;
    journal_get_stats(d->journal, &s->journal);
    mqtt_get_stats(d->mqtt, &s->mqtt);
}

static json_t *number(double x) {
    if (!isfinite(x)) return json_null();
    return x == floor(x) && fabs(x) < 9e15 ? json_integer((json_int_t)x) : json_real(x);
}

static json_t *quantiles(const latency *l) {
    return json_pack("{s:o, s:o, s:o, s:I, s:o}", "p50", number(latency_quantile(l, 0.5)), "p90",
                     number(latency_quantile(l, 0.9)), "p99", number(latency_quantile(l, 0.99)), "count",
                     (json_int_t)l->n, "sum", number(l->sum));
}

static json_t *text(const char *known) {
    return known ? json_string(known) : json_null();
}

#define METRIC_COUNTER(getter) number((double)(getter))
#define METRIC_GAUGE(getter) number((double)(getter))
#define METRIC_TEXT(getter) text(getter)
#define METRIC_QUANTILES(getter) quantiles(&s->t->durations[getter])
#define METRIC(name, unit, kind, getter, home)     \
    static json_t *get_##name(const snapshot *s) { \
        return METRIC_##kind(getter);              \
    }
#include "telemetry.def"
#undef METRIC

static const struct {
    const char *name;
    json_t *(*get)(const snapshot *s);
} metrics[] = {
#define METRIC(name, unit, kind, getter, home) {#name, get_##name},
#include "telemetry.def"
#undef METRIC
};

json_t *telemetry_metrics(kvqd *d) {
    snapshot s;
    take_snapshot(d, &s);
    json_t *object = json_object();
    for (size_t i = 0; object && i < sizeof metrics / sizeof *metrics; i++)
        (void)json_object_set_new(object, metrics[i].name, metrics[i].get(&s)); /* no memory: a number less */
    return object;
}

/* The rates are of the time since the last message. */
static void measure_speed(kvqd *d, int64_t now_ns) {
    telemetry *t = &d->telemetry;
    kvq_stats stats = {0};
    if (d->engine) kvq_get_stats(d->engine, &stats);
    add_counters(&stats, &t->before);
    double s = (double)(now_ns - t->interval_start_ns) / 1e9;
    if (t->interval_start_ns && s > 0) {
        t->tokens_per_second = (double)(stats.generation_tokens - t->interval_tokens) / s;
        t->prompt_tokens_per_second = (double)(stats.prefill_tokens - t->interval_prompt_tokens) / s;
        uint64_t n = stats.generation_tokens - t->interval_tokens;
        t->joules_a_token = n ? (t->energy_j - t->interval_energy_j) / (double)n : NAN;
    }
    t->interval_energy_j = t->energy_j;
    t->interval_start_ns = now_ns;
    t->interval_tokens = stats.generation_tokens;
    t->interval_prompt_tokens = stats.prefill_tokens;
}

/* ---- state ----------------------------------------------------------------------------------------------- */

json_t *telemetry_state(const kvqd *d) {
    const char *reason = daemon_reason(d);
    double progress = d->loader ? loader_progress(d->loader) : 1;
    return json_pack("{s:s, s:o, s:s?, s:I, s:I}", "phase", daemon_phase_name(daemon_current_phase(d)), "progress",
                     number(round(progress * 20) / 20), "reason", *reason ? reason : NULL, "queue",
                     (json_int_t)requests_n_queued(d), "active", (json_int_t)(d->requests.n - d->requests.n_waiting));
}

/* Only the phase and what belongs to it: a change of that is told at once. */
static bool is_new_phase(const char *last, const char *state) {
    const char *queue = strstr(state, "\"queue\"");
    size_t n = queue ? (size_t)(queue - state) : strlen(state);
    return !last || strncmp(last, state, n) != 0;
}

static void publish_state(kvqd *d, int64_t now_ns) {
    telemetry *t = &d->telemetry;
    json_t *state = telemetry_state(d);
    char *text = state ? json_dumps(state, JSON_COMPACT) : NULL;
    bool changed = text && (!t->last_state || strcmp(text, t->last_state) != 0);
    if (changed && !is_new_phase(t->last_state, text) && now_ns < t->state_at_ns) {
        daemon_wake_at(d, t->state_at_ns);
        changed = false;
    }
    if (changed && daemon_publish_json(d, TOPIC_STATE, NULL, json_incref(state))) {
        free(t->last_state);
        t->last_state = text;
        text = NULL;
        t->state_at_ns = now_ns + STATE_MIN_NS;
    }
    free(text);
    json_decref(state);
}

/* ---- info ------------------------------------------------------------------------------------------------ */

static json_t *hardware(const power_sample *p) {
    char cpu[128];
    struct utsname u;
    cpu_name(cpu, sizeof cpu);
    if (uname(&u) != 0) u = (struct utsname){.machine = "unknown", .release = "unknown"};
    return json_pack("{s:s, s:s, s:I, s:o, s:s}", "cpu", cpu, "machine", u.machine, "cores",
                     (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "memory_bytes", number((double)p->memory_total_bytes),
                     "kernel", u.release);
}

static json_t *capacity(const kvq_info *i) {
    json_t *list = json_array();
    for (int n = 0; list && n < 3; n++) {
        const kvq_capacity *c = &i->capacity[n];
        json_t *row = json_pack("{s:i, s:I, s:I, s:I}", "tokens_a_sequence", c->tokens_a_sequence, "tokens",
                                (json_int_t)c->tokens, "tokens_f16", (json_int_t)c->tokens_f16, "sequences",
                                (json_int_t)c->sequences);
        (void)json_array_append_new(list, row); /* no memory: a row less */
    }
    return list;
}

static json_t *model_info(const kvqd *d, const kvq_info *i) {
    char path[1024], template_error[KVQ_ERROR_BYTES];
    snprintf(path, sizeof path, "%s", d->model_path ? d->model_path : "");
    snprintf(template_error, sizeof template_error, "%s", i->template_error ? i->template_error : "");
    text_mend(path);
    text_mend(template_error);
    return json_pack("{s:s, s:s?, s:s?, s:s, s:I, s:I, s:i, s:b, s:s?}", "name", daemon_model_name(d), "architecture",
                     i->architecture, "file_type", i->file_type, "path", path, "parameters",
                     (json_int_t)i->n_parameters, "file_bytes", (json_int_t)i->model_file_bytes, "session_len_model",
                     i->session_len_model, "has_chat_template", i->has_chat_template, "template_error",
                     *template_error ? template_error : NULL);
}

static json_t *kv_info(const kvq_info *i) {
    return json_pack("{s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:i, s:o}", "policy", i->quant_policy, "bits_per_value",
                     number(i->bits_per_value), "pool_bytes", (json_int_t)i->pool_bytes, "block_bytes",
                     (json_int_t)i->block_bytes, "blocks", (json_int_t)i->n_blocks, "weight_bytes",
                     (json_int_t)i->weight_bytes, "workspace_bytes", (json_int_t)i->workspace_bytes, "hard_layers",
                     i->n_hard_layers, "capacity", capacity(i));
}

static json_t *limits_info(const kvqd *d, const kvq_info *i) {
    const config *c = &d->config;
    return json_pack("{s:i, s:i, s:I, s:i, s:i}", "session_len", i ? i->session_len : 0, "max_batch_size",
                     i ? i->max_batch_size : 0, "max_prompt_bytes", (json_int_t)c->limits_max_prompt_bytes, "max_queue",
                     c->limits_max_queue, "max_requests_per_client", c->limits_max_requests_per_client);
}

json_t *telemetry_info(const kvqd *d) {
    const kvq_info *i = d->engine ? kvq_get_info(d->engine) : NULL;
    json_t *backend = json_pack("{s:s, s:s?, s:s?, s:i, s:s?, s:s?, s:s?, s:s?, s:s?}", "requested",
                                d->config.engine_backend, "active", i ? i->backend : NULL, "isa", i ? i->isa : NULL,
                                "threads", i ? i->threads : 0, "device", i && *i->device ? i->device : NULL,
                                "device_version", i && *i->device_version ? i->device_version : NULL, "device_bus_id",
                                i && *i->device_bus_id ? i->device_bus_id : NULL, "cublas", i ? i->cublas : NULL,
                                "gpu_passed_over", i ? i->passed_over : NULL);
    return json_pack("{s:i, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:s, s:i, s:o}", "api", 1, "version", KVQ_VERSION,
                     "node", d->node, "hardware", hardware(&d->telemetry.sample), "backend", backend, "model",
                     i ? model_info(d, i) : json_null(), "kv", i ? kv_info(i) : json_null(), "limits",
                     limits_info(d, i), "base_topic", d->names.base, "mqtt_version", mqtt_version(d->mqtt),
                     "configuration", config_to_json(&d->config));
}

void telemetry_publish_info(kvqd *d) {
    (void)daemon_publish_json(d, TOPIC_INFO, NULL, telemetry_info(d)); /* sent at every connect again */
}

/* ---- when ------------------------------------------------------------------------------------------------ */

static bool is_idle(const kvqd *d) {
    return d->requests.n == 0 && !d->loader;
}

static const char *at_degrees(double celsius, char ret[40]) {
    if (isnan(celsius)) return "; its temperature is not known";
    snprintf(ret, 40, " at %.0f degrees", celsius);
    return ret;
}

/* An event and a log entry when the machine begins to slow us down, and an event when it ends. */
static void tell_throttling(kvqd *d) {
    telemetry *t = &d->telemetry;
    bool cpu_is = t->sample.has_throttling && t->sample.is_throttled, gpu_is = t->gpu.throttled > 0;
    bool is = cpu_is || gpu_is;
    char degrees[40];
    if (is == t->was_throttled) return;
    t->was_throttled = is;
    daemon_event(d, "throttle",
                 json_pack("{s:b, s:b, s:o, s:o}", "throttled", is, "gpu_throttled", gpu_is, "temperature_c",
                           number(t->sample.temperature_c), "gpu_temperature_c", number(t->gpu.temperature_c)));
    if (gpu_is)
        log_event(LOG_MESSAGE_THROTTLED, NULL, "the GPU is throttled%s: %s", at_degrees(t->gpu.temperature_c, degrees),
                  t->gpu.throttle_text);
    else if (is)
        log_event(LOG_MESSAGE_THROTTLED, NULL, "the processor is throttled%s",
                  at_degrees(t->sample.temperature_c, degrees));
}

/* A busy daemon tells every interval_s; an idle one a few times less often, and at once when it becomes busy. */
static void publish_metrics(kvqd *d, int64_t now_ns) {
    telemetry *t = &d->telemetry;
    int64_t interval_ns = d->config.telemetry_interval_s * NS_PER_S;
    read_sensors(t);
    measure_speed(d, now_ns);
    tell_throttling(d);
    (void)daemon_publish_json(d, TOPIC_TELEMETRY, NULL, telemetry_metrics(d)); /* QoS 0 */
    t->telemetry_at_ns = now_ns + (is_idle(d) && t->tokens_per_second <= 0 ? IDLE_TELEMETRY_FACTOR : 1) * interval_ns;
}

void telemetry_publish(kvqd *d, int64_t now_ns) {
    telemetry *t = &d->telemetry;
    int64_t busy_ns = now_ns + d->config.telemetry_interval_s * NS_PER_S;
    if (!mqtt_is_connected(d->mqtt)) return;
    publish_state(d, now_ns);
    if (!is_idle(d) && t->telemetry_at_ns > busy_ns) t->telemetry_at_ns = busy_ns;
    if (now_ns >= t->telemetry_at_ns) publish_metrics(d, now_ns);
    daemon_wake_at(d, t->telemetry_at_ns);
}

void telemetry_birth(kvqd *d) {
    char topic[TOPIC_BYTES];
    topic_make(&d->names, TOPIC_STATUS, NULL, topic);
    mqtt_publication online = {
        .topic = topic, .payload = "online", .n_bytes = 6, .qos = 1, .retained = true, .is_text = true};
    (void)mqtt_publish(d->mqtt, &online); /* just connected: there is room */
    free(d->telemetry.last_state);
    d->telemetry.last_state = NULL;
    d->telemetry.telemetry_at_ns = 0;
    telemetry_publish_info(d);
    telemetry_publish(d, clock_monotonic_ns());
}

void telemetry_status_line(const kvqd *d, char *ret, size_t n_bytes) {
    const char *reason = daemon_reason(d), *model = daemon_model_name(d);
    kvq_stats stats = {0};
    if (d->engine) kvq_get_stats(d->engine, &stats);
    double used = stats.n_blocks ? 100.0 * (double)stats.blocks_used / (double)stats.n_blocks : 0;
    bool connected = mqtt_is_connected(d->mqtt);
    snprintf(ret, n_bytes, "%s%s%s%s%s; %zu requests; %.1f tokens/s; KV pool %.0f %% used%s%s%s",
             daemon_phase_name(daemon_current_phase(d)), model ? " with " : "", model ? model : "", *reason ? ": " : "",
             reason, d->requests.n, d->telemetry.tokens_per_second, used, connected ? "" : "; no broker",
             connected || !*d->refusal ? "" : ": ", connected ? "" : d->refusal);
}

void telemetry_done(telemetry *t) {
    power_free(t->power);
    t->power = NULL;
    nvml_close(t->nvml);
    t->nvml = NULL;
    free(t->last_state);
    t->last_state = NULL;
}
