/* test_telemetry.c: daemon/telemetry.c: what is added up of energy, and how it is divided among requests; every row of
 * telemetry.def beside what was put in; the event throttle. A folder stands in for /sys; the engine, the journal and
 * the connection are the linker's (--wrap). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/resource.h>

#include "daemon/daemon.h"
#include "daemon/log.h"
#include "fake_nvml.h"

static char root[64];
static telemetry t;

/* ---- the other rooms ------------------------------------------------------------------------------------- */

static kvq_stats engine_stats;
static kvq_info engine_info;
static journal_stats journal_counts;
static mqtt_stats mqtt_counts;
static int64_t fake_now_ns; /* 0: the real clock */
static clock_sync clock_says;
static struct rusage used_time;
static struct published { char topic[64], payload[4096]; } published[8];
static size_t n_published;
static char logged[256]; /* the last event */

#define ENGINE ((kvq_engine *)&engine_stats) /* never looked into: every function that is called with it is here */

void __wrap_kvq_get_stats(const kvq_engine *e, kvq_stats *ret);
const kvq_info *__wrap_kvq_get_info(const kvq_engine *e);
void __wrap_journal_get_stats(journal *j, journal_stats *ret);
void __wrap_mqtt_get_stats(mqtt *m, mqtt_stats *ret);
bool __wrap_mqtt_is_connected(const mqtt *m);
bool __wrap_mqtt_publish(mqtt *m, const mqtt_publication *p);
int64_t __wrap_clock_monotonic_ns(void);
int64_t __real_clock_monotonic_ns(void);
clock_sync __wrap_clock_ask_sync(void);
int __wrap_getrusage(int who, struct rusage *ret);
void __wrap_log_event(log_message id, const log_field *fields, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

void __wrap_kvq_get_stats(const kvq_engine *e, kvq_stats *ret) {
    assert_ptr_equal(e, ENGINE);
    *ret = engine_stats;
}

const kvq_info *__wrap_kvq_get_info(const kvq_engine *e) {
    assert_ptr_equal(e, ENGINE);
    return &engine_info;
}

void __wrap_journal_get_stats(journal *j, journal_stats *ret) {
    (void)j;
    *ret = journal_counts;
}

void __wrap_mqtt_get_stats(mqtt *m, mqtt_stats *ret) {
    (void)m;
    *ret = mqtt_counts;
}

bool __wrap_mqtt_is_connected(const mqtt *m) {
    (void)m;
    return true;
}

bool __wrap_mqtt_publish(mqtt *m, const mqtt_publication *p) {
    (void)m;
    assert_true(n_published < sizeof published / sizeof *published && p->n_bytes < sizeof published->payload);
    struct published *to = &published[n_published++];
    (void)snprintf(to->topic, sizeof to->topic, "%s", p->topic);
    (void)snprintf(to->payload, sizeof to->payload, "%.*s", (int)p->n_bytes, (const char *)p->payload);
    return true;
}

int64_t __wrap_clock_monotonic_ns(void) {
    return fake_now_ns ? fake_now_ns : __real_clock_monotonic_ns();
}

clock_sync __wrap_clock_ask_sync(void) {
    return clock_says;
}

int __wrap_getrusage(int who, struct rusage *ret) {
    assert_int_equal(who, RUSAGE_SELF);
    *ret = used_time;
    return 0;
}

void __wrap_log_event(log_message id, const log_field *fields, const char *format, ...) {
    va_list args;
    (void)fields;
    assert_int_equal(id, LOG_MESSAGE_THROTTLED);
    va_start(args, format);
    (void)vsnprintf(logged, sizeof logged, format, args);
    va_end(args);
}

/* ---- energy ---------------------------------------------------------------------------------------------- */

static void put(const char *path, const char *text) {
    char command[512];
    (void)snprintf(command, sizeof command, "mkdir -p \"$(dirname '%s%s')\" && printf '%s\\n' >'%s%s'", root, path,
                   text, root, path);
    assert_int_equal(system(command), 0);
}

#define ZONE "/sys/class/powercap/intel-rapl:0/"
static void put_joules(int joules) {
    char text[32];
    (void)snprintf(text, sizeof text, "%d000000", joules);
    put(ZONE "energy_uj", text);
}

static int setup(void **state) {
    (void)state;
    strcpy(root, "/tmp/kvqd-test-telemetry-XXXXXX");
    if (!mkdtemp(root)) return -1;
    telemetry_init(&t);
    power_free(t.power);
    return 0;
}

static int teardown(void **state) {
    char command[128];
    (void)state;
    telemetry_done(&t);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static void use_rapl(void) {
    put(ZONE "name", "package-0"), put(ZONE "max_energy_range_uj", "262143328850");
    put_joules(1000);
    t.power = power_new(root);
    (void)telemetry_share_joules(&t, 0);
}

static void a_moment_is_divided_among_the_requests_that_run(void **state) {
    (void)state;
    use_rapl();
    double a = telemetry_share_joules(&t, 0); /* the first begins */
    put_joules(1010);
    double b = telemetry_share_joules(&t, 1); /* a second: the 10 J were the first's */
    put_joules(1030);
    a = telemetry_share_joules(&t, 2) - a; /* the first ends: 20 J were half its own */
    put_joules(1035);
    b = telemetry_share_joules(&t, 1) - b;
    assert_true(fabs(a - 20) < 1e-9);
    assert_true(fabs(b - 15) < 1e-9);
    put_joules(2000); /* idle: nobody's */
    double c = telemetry_share_joules(&t, 0);
    put_joules(2001);
    assert_true(fabs(telemetry_share_joules(&t, 1) - c - 1) < 1e-9);
}

static void a_gpu_of_its_own_is_added_to_the_processor(void **state) {
    (void)state;
    use_rapl();
    t.has_gpu = true;
    t.nvml = nvml_open(FAKE_NVML, "0000:65:00.0");
    assert_non_null(t.nvml);
    double before = telemetry_share_joules(&t, 1), total = t.energy_j;
    put_joules(1004);
    assert_true(fabs(telemetry_share_joules(&t, 1) - before - 4) < 1e-9);
    assert_true(fabs(t.energy_j - total - 4) < 1e-9);
    assert_true(t.gpu_j == 0);
}

static void a_jetsons_rail_has_its_gpu_in_it(void **state) {
    (void)state;
#define INA "/sys/class/hwmon/hwmon1/"
    put(INA "in1_label", "VDD_IN"), put(INA "in1_input", "5000"), put(INA "curr1_input", "2000");
    t.power = power_new(root);
    t.has_gpu = true;
    t.nvml = nvml_open(FAKE_NVML_OLD, "0000:65:00.0"); /* 250 W by its own account */
    (void)telemetry_share_joules(&t, 1);
    kvq_info info = {.backend = "cuda", .device_bus_id = "0000:65:00.0"};
    telemetry_follow_gpu(&t, &info);
    assert_true(fabs(t.power_w - 10) < 1e-9);
    assert_true(t.gpu.power_w == 250.5);
    assert_true(t.energy_j < 100); /* the rail's 10 W alone, over the moments of this test */
}

static void without_sensors_nothing_is_known(void **state) {
    (void)state;
    t.power = power_new(root);
    assert_true(isnan(telemetry_share_joules(&t, 1)) && isnan(t.energy_j));
    kvq_info info = {.backend = "cpu", .device_bus_id = ""};
    telemetry_follow_gpu(&t, &info);
    assert_null(t.nvml);
    assert_true(isnan(t.power_w) && isnan(t.gpu.power_w) && isnan(t.gpu.throttled));
}

/* ---- every row ------------------------------------------------------------------------------------------- */

typedef enum metric_kind { COUNTER, GAUGE, TEXT, QUANTILES } metric_kind;

static const struct row {
    const char *name;
    metric_kind kind;
} rows[] = {
#define METRIC(name, unit, kind, getter, home) {#name, kind},
#include "daemon/telemetry.def"
#undef METRIC
};
#define N_ROWS (sizeof rows / sizeof *rows)

/* What put_known_values leads to; no two alike, so that no row can show another's. */
static const struct known {
    const char *name;
    double value;
} known[] = {
    {"uptime_s", 4321},
    {"clock_synced", 0},
    {"num_requests_running", 11},
    {"num_requests_waiting", 12 + 14},
    {"requests_success_total", 100},
    {"requests_failed_total", 200 + 1 + 2 + 4 + 8 + 16 + 32},
    {"requests_cancelled_total", 77},
    {"requests_busy_total", 200},
    {"prompt_tokens_total", 1001 + 10000},
    {"generation_tokens_total", 1003 + 30000},
    {"generation_tokens_per_second", 15.5},
    {"prompt_tokens_per_second", 16.5},
    {"gpu_cache_usage_perc", 250.0 / 400},
    {"prefix_cache_hit_rate", (1007.0 + 70000) / (1009 + 90000)},
    {"kv_blocks_total", 400},
    {"kv_blocks_used", 250},
    {"kv_blocks_cached", 40},
    {"kv_pool_bytes", 123456},
    {"preemptions_total", 1004 + 40000},
    {"steps_total", 1000 + 5000},
    {"step_seconds_last", 0.0175},
    {"sessions", 18},
    {"process_resident_memory_bytes", 190001},
    {"memory_available_bytes", 190002},
    {"process_cpu_seconds_total", 20.25 + 1.5},
    {"memory_limit_bytes", 190003},
    {"power_w", 21.5},
    {"energy_joules_total", 22.5},
    {"energy_joules_per_token", 23.5},
    {"temperature_c", 24.5},
    {"throttled", 1},
    {"throttle_events_total", 25},
    {"gpu_power_w", 26.5},
    {"gpu_energy_joules_total", 27.5},
    {"gpu_temperature_c", 28.5},
    {"gpu_utilization_ratio", 0.29},
    {"gpu_memory_used_bytes", 190004},
    {"gpu_memory_total_bytes", 190005},
    {"gpu_clock_hz", 190006},
    {"gpu_memory_clock_hz", 190007},
    {"gpu_throttled", 0.5}, /* 0 and 1 are taken */
    {"journal_bytes", 190008},
    {"journal_prompts_unanswered", 30},
    {"journal_answers_undelivered", 31},
    {"mqtt_messages_received_total", 32},
    {"mqtt_messages_sent_total", 33},
    {"mqtt_messages_dropped_total", 34 + 300},
    {"mqtt_connects_total", 35},
    {"answers_dropped_total", 36},
};
#define N_KNOWN (sizeof known / sizeof *known)

/* The i-th of a hundred answers takes i times this. */
static const struct known_duration {
    const char *name;
    double ms;
} known_durations[] = {
    {"time_to_first_token_seconds", 2},  {"time_per_output_token_seconds", 7}, {"request_queue_time_seconds", 3},
    {"request_prefill_time_seconds", 5}, {"request_decode_time_seconds", 70},  {"e2e_request_latency_seconds", 2 + 70},
};

static void put_known_values(kvqd *d) {
    telemetry *to = &d->telemetry;
    fake_now_ns = 10000 * NS_PER_S;
    *d = (kvqd){.engine = ENGINE, .started_ns = fake_now_ns - 4321 * NS_PER_S, .requests = {.n_waiting = 12}};
    engine_stats = (kvq_stats){.n_blocks = 400,
                               .blocks_used = 250,
                               .blocks_cached = 40,
                               .requests_running = 11,
                               .requests_waiting = 14,
                               .steps = 1000,
                               .prompt_tokens = 1001,
                               .prefill_tokens = 1002,
                               .generation_tokens = 1003,
                               .preemptions = 1004,
                               .prefix_queries = 1005,
                               .prefix_hits = 1006,
                               .prefix_hit_tokens = 1007,
                               .prefix_query_tokens = 1009,
                               .sessions = 18,
                               .step_ms_last = 17.5};
    engine_info = (kvq_info){.pool_bytes = 123456};
    to->before = (kvq_stats){.steps = 5000,
                             .prompt_tokens = 10000,
                             .prefill_tokens = 20000,
                             .generation_tokens = 30000,
                             .preemptions = 40000,
                             .prefix_queries = 50000,
                             .prefix_hits = 60000,
                             .prefix_hit_tokens = 70000,
                             .prefix_query_tokens = 90000};
    journal_counts = (journal_stats){.bytes = 190008, .n_unanswered = 30, .n_undelivered = 31, .n_kept = 37};
    mqtt_counts =
        (mqtt_stats){.n_received = 32, .n_published = 33, .n_dropped_in = 34, .n_dropped_out = 300, .n_connects = 35};
    used_time = (struct rusage){.ru_utime = {20, 250000}, .ru_stime = {1, 500000}};
    for (int i = 1; i <= 100; i++)
        telemetry_count_end(to, &(reply_facts){.result = {.ttft_ms = 2.0 * i,
                                                          .queue_ms = 3.0 * i,
                                                          .prefill_ms = 5.0 * i,
                                                          .decode_ms = 70.0 * i,
                                                          .completion_tokens = 11}});
    static const uint64_t refused[FAILURE_COUNT] = {
        [FAILURE_BUSY] = 200,       [FAILURE_TOO_LARGE] = 1, [FAILURE_BAD_REQUEST] = 2, [FAILURE_NO_MODEL] = 4,
        [FAILURE_CONTEXT_FULL] = 8, [FAILURE_DEADLINE] = 16, [FAILURE_CANCELLED] = 77,  [FAILURE_INTERNAL] = 32};
    memcpy(to->n_refused, refused, sizeof refused);
    to->n_answers_dropped = 36;
    to->tokens_per_second = 15.5;
    to->prompt_tokens_per_second = 16.5;
    to->sample = (power_sample){.temperature_c = 24.5,
                                .has_throttling = true,
                                .is_throttled = true,
                                .throttle_events = 25,
                                .memory_available_bytes = 190002,
                                .memory_limit_bytes = 190003,
                                .resident_bytes = 190001};
    to->power_w = 21.5;
    to->energy_j = 22.5;
    to->joules_a_token = 23.5;
    to->gpu_j = 27.5;
    to->gpu = (gpu_sample){.power_w = 26.5,
                           .temperature_c = 28.5,
                           .clock_hz = 190006,
                           .memory_clock_hz = 190007,
                           .utilization_ratio = 0.29,
                           .memory_used_bytes = 190004,
                           .memory_total_bytes = 190005,
                           .throttled = 0.5,
                           .throttle_text = "power_cap"};
}

static void is_near(double got, double want, const char *name) {
    if (!(fabs(got - want) <= 1e-9 * (1 + fabs(want)))) fail_msg("'%s' is %.9g instead of %.9g", name, got, want);
}

static void has_known_number(const json_t *metrics, const char *name) {
    for (size_t i = 0; i < N_KNOWN; i++)
        if (strcmp(known[i].name, name) == 0) {
            const json_t *got = json_object_get(metrics, name);
            if (!json_is_number(got)) fail_msg("'%s' is no number", name);
            is_near(json_number_value(got), known[i].value, name);
            return;
        }
    fail_msg("nothing is put in for '%s'", name);
}

static void has_known_quantiles(const json_t *metrics, const char *name) {
    static const struct {
        const char *key;
        double value;
    } parts[] = {{"p50", 50}, {"p90", 90}, {"p99", 99}, {"sum", 5050}};
    for (size_t i = 0; i < sizeof known_durations / sizeof *known_durations; i++)
        if (strcmp(known_durations[i].name, name) == 0) {
            const json_t *got = json_object_get(metrics, name);
            for (size_t k = 0; k < sizeof parts / sizeof *parts; k++)
                is_near(json_number_value(json_object_get(got, parts[k].key)),
                        parts[k].value * known_durations[i].ms / 1000, name);
            assert_int_equal(json_integer_value(json_object_get(got, "count")), 100);
            return;
        }
    fail_msg("nothing is put in for '%s'", name);
}

static void every_row_shows_what_was_put_in_for_it(void **state) {
    static kvqd d;
    (void)state;
    put_known_values(&d);
    json_t *metrics = telemetry_metrics(&d);
    for (size_t i = 0; i < N_ROWS; i++)
        if (rows[i].kind == QUANTILES)
            has_known_quantiles(metrics, rows[i].name);
        else if (rows[i].kind == TEXT)
            assert_string_equal(json_string_value(json_object_get(metrics, rows[i].name)), "power_cap");
        else
            has_known_number(metrics, rows[i].name);
    assert_int_equal(json_object_size(metrics), N_ROWS);
    json_decref(metrics);
    for (size_t i = 0; i < N_KNOWN; i++)
        for (size_t k = 0; k < i; k++) assert_true(known[i].value != known[k].value);
    fake_now_ns = 0;
}

static void the_clock_is_what_the_kernel_says(void **state) {
    static const struct {
        clock_sync says;
        const char *told;
    } cases[] = {{CLOCK_UNSYNCED, "0"}, {CLOCK_SYNCED, "1"}, {CLOCK_UNKNOWN, "null"}};
    static kvqd d;
    (void)state;
    put_known_values(&d);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        clock_says = cases[i].says;
        json_t *metrics = telemetry_metrics(&d);
        char *told = json_dumps(json_object_get(metrics, "clock_synced"), JSON_ENCODE_ANY);
        assert_string_equal(told, cases[i].told);
        free(told);
        json_decref(metrics);
    }
    clock_says = CLOCK_UNSYNCED;
    fake_now_ns = 0;
}

/* ---- over a load and an unload, and while the machine gets hot ---------------------------------------------- */

#define THERMAL_ZONE "/sys/class/thermal/thermal_zone0/"
#define THROTTLE_COUNT "/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"

static void open_sensors(kvqd *d) {
    static char base[] = "kvqd", node[] = "n1", none[] = "";
    put(THROTTLE_COUNT, "5");
    put(THERMAL_ZONE "type", "x86_pkg_temp"), put(THERMAL_ZONE "temp", "50000");
    use_rapl();
    t.gpu_j = t.gpu_before_j = NAN;
    *d = (kvqd){.engine = ENGINE, .engine_phase = PHASE_READY, .telemetry = t, .names = {base, node, none, none}};
    d->config.telemetry_interval_s = 10;
    d->config.limits_max_queue = 1000;
    n_published = 0;
}

static void no_counter_falls(const json_t *before, const json_t *after) {
    for (size_t i = 0; i < N_ROWS; i++) {
        if (rows[i].kind != COUNTER) continue;
        const json_t *a = json_object_get(before, rows[i].name), *b = json_object_get(after, rows[i].name);
        if (json_is_null(a) && json_is_null(b)) continue; /* this machine has no such sensor */
        if (!(json_number_value(b) >= json_number_value(a)) || json_is_null(b))
            fail_msg("'%s' falls from %g to %g", rows[i].name, json_number_value(a), json_number_value(b));
    }
}

static void no_counter_falls_when_a_model_goes_and_another_comes(void **state) {
    static kvqd d;
    (void)state;
    open_sensors(&d);
    engine_stats = (kvq_stats){.steps = 10,
                               .prompt_tokens = 20,
                               .prefill_tokens = 30,
                               .generation_tokens = 40,
                               .preemptions = 50,
                               .prefix_queries = 60,
                               .prefix_hits = 70,
                               .prefix_hit_tokens = 80,
                               .prefix_query_tokens = 160};
    json_t *loaded = telemetry_metrics(&d);
    telemetry_keep_counters(&d);
    d.engine = NULL;
    engine_stats = (kvq_stats){0};
    json_t *unloaded = telemetry_metrics(&d);
    d.engine = ENGINE;
    json_t *fresh = telemetry_metrics(&d);
    engine_stats = (kvq_stats){.steps = 1, .prompt_tokens = 2, .generation_tokens = 3, .preemptions = 4};
    json_t *again = telemetry_metrics(&d);
    no_counter_falls(loaded, unloaded);
    no_counter_falls(unloaded, fresh);
    no_counter_falls(fresh, again);
    static const struct known sums[] = {{"steps_total", 11},
                                        {"prompt_tokens_total", 22},
                                        {"generation_tokens_total", 43},
                                        {"preemptions_total", 54},
                                        {"prefix_cache_hit_rate", 0.5}};
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++)
        is_near(json_number_value(json_object_get(again, sums[i].name)), sums[i].value, sums[i].name);
    json_decref(loaded), json_decref(unloaded), json_decref(fresh), json_decref(again);
    t = d.telemetry; /* for teardown */
}

/* The events published since the last call; the last of them as JSON. */
static json_t *last_event(size_t *ret_n) {
    json_t *last = NULL;
    *ret_n = 0;
    for (size_t i = 0; i < n_published; i++)
        if (strcmp(published[i].topic, "kvqd/n1/event") == 0) {
            json_decref(last);
            last = json_loads(published[i].payload, 0, NULL);
            ++*ret_n;
        }
    n_published = 0;
    return last;
}

static void throttling_is_an_event_when_it_begins_and_when_it_ends(void **state) {
    static kvqd d;
    size_t n;
    (void)state;
    open_sensors(&d);
    static const struct {
        const char *count, *millidegrees;
        bool is_told, is_throttled;
        const char *log, *why;
    } moments[] = {
        {"5", "", false, false, "", "nothing happened"},
        {"6", "", true, true, "the processor is throttled; its temperature is not known", "it begins"},
        {"7", "", false, true, "", "it goes on"},
        {"7", "", true, false, "", "it ends"},
        {"7", "", false, false, "", "it stays so"},
        {"8", "97600", true, true, "the processor is throttled at 98 degrees", "it begins again"},
    };
    for (size_t i = 0; i < sizeof moments / sizeof *moments; i++) {
        logged[0] = '\0';
        put(THROTTLE_COUNT, moments[i].count);
        put(THERMAL_ZONE "temp", moments[i].millidegrees);
        telemetry_publish(&d, (int64_t)(i + 1) * 1000 * NS_PER_S);
        json_t *event = last_event(&n);
        if (n != (moments[i].is_told ? 1u : 0u)) fail_msg("%s: %zu events", moments[i].why, n);
        if (event) {
            assert_string_equal(json_string_value(json_object_get(event, "type")), "throttle");
            assert_true(json_is_boolean(json_object_get(event, "throttled")));
            assert_int_equal(json_is_true(json_object_get(event, "throttled")), moments[i].is_throttled);
            assert_true(json_is_false(json_object_get(event, "gpu_throttled")));
            const json_t *celsius = json_object_get(event, "temperature_c");
            assert_true(*moments[i].millidegrees ? json_number_value(celsius) == 97.6 : json_is_null(celsius));
        }
        assert_string_equal(logged, moments[i].log);
        json_decref(event);
    }
    t = d.telemetry; /* for teardown */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_moment_is_divided_among_the_requests_that_run, setup, teardown),
        cmocka_unit_test_setup_teardown(a_gpu_of_its_own_is_added_to_the_processor, setup, teardown),
        cmocka_unit_test_setup_teardown(a_jetsons_rail_has_its_gpu_in_it, setup, teardown),
        cmocka_unit_test_setup_teardown(without_sensors_nothing_is_known, setup, teardown),
        cmocka_unit_test(every_row_shows_what_was_put_in_for_it),
        cmocka_unit_test(the_clock_is_what_the_kernel_says),
        cmocka_unit_test_setup_teardown(no_counter_falls_when_a_model_goes_and_another_comes, setup, teardown),
        cmocka_unit_test_setup_teardown(throttling_is_an_event_when_it_begins_and_when_it_ends, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
