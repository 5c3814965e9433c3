/* status.c: `kvqctl status` and `kvqctl top`: what a running kvqd tells about itself, once or as it changes. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
#include "command.h"
#include "interrupt.h"

#define REPLY_MS 5000
#define POLL_MS 200

typedef struct status_values {
    client_options client;
    bool json;
} status_values;

typedef struct top_values {
    client_options client;
    int interval_s, count;
} top_values;

/* clang-format off */
static const option status_options[] = {
    CLIENT_OPTIONS(status_values),
    {0, "json", OPTION_FLAG, offsetof(status_values, json), NULL, NULL, 0, 0, NULL, false, "State, info and telemetry as JSON."},
};
static const option top_options[] = {
    CLIENT_OPTIONS(top_values),
    {'i', "interval", OPTION_INT, offsetof(top_values, interval_s), "S", "1", 1, 3600, NULL, false, "Seconds between two looks."},
    {'n', "count", OPTION_INT, offsetof(top_values, count), "N", "0", 0, 1000000, NULL, false, "Stop after so many looks; 0 is never."},
};
/* clang-format on */

/* The data of the reply to the command `dump`; the caller's. */
static kvq_status dump(client *c, json_t **ret, kvq_error *err) {
    char id[CLIENT_ID_BYTES];
    client_make_id(id);
    char *request = NULL;
    if (asprintf(&request, "{\"transaction\":\"%s\"}", id) < 0)
        return kvq_fail(err, KVQ_NO_MEMORY, "No memory for a message.");
    kvq_status status = client_publish(c, "request/dump", request, err);
    free(request);
    for (int waited_ms = 0; !status && waited_ms < REPLY_MS && !interrupt_seen();) {
        client_message m;
        status = client_receive(c, POLL_MS, &m, err);
        if (status) return status;
        if (!m.topic) {
            waited_ms += POLL_MS;
            continue;
        }
        json_t *reply = json_loads(m.payload, 0, NULL);
        const char *transaction = json_string_value(json_object_get(reply, "transaction"));
        bool ours = transaction && strcmp(transaction, id) == 0;
        json_t *data = ours ? json_incref(json_object_get(reply, "data")) : NULL;
        json_decref(reply);
        client_message_done(&m);
        if (!data) continue;
        *ret = data;
        return KVQ_OK;
    }
    return status ? status : kvq_fail(err, KVQ_DEADLINE, "'%s' does not answer.", client_node(c));
}

static const char *text(const json_t *o, const char *key) {
    const char *t = json_string_value(json_object_get(o, key));
    return t ? t : "-";
}

static double number(const json_t *o, const char *key) {
    const json_t *n = json_object_get(o, key);
    return json_is_number(n) ? json_number_value(n) : NAN;
}

/* A figure that the machine does not give is a dash. */
static void print_figure(const char *title, double x, double scale, int digits, const char *unit) {
    printf("%-22s", title);
    if (isnan(x))
        puts("-");
    else
        printf("%.*f%s%s\n", digits, x * scale, *unit ? " " : "", unit);
}

static void print_model(const json_t *info) {
    const json_t *model = json_object_get(info, "model"), *kv = json_object_get(info, "kv"),
                 *backend = json_object_get(info, "backend");
    if (!json_is_object(model)) return;
    const json_t *longest = json_array_get(json_object_get(kv, "capacity"), 2);
    printf("%-22s%s (%s, %s)\n", "Model", text(model, "name"), text(model, "architecture"), text(model, "file_type"));
    printf("%-22s%s, %s\n", "Backend", text(backend, "active"), text(backend, "isa"));
    printf("%-22spolicy %s, %.1f MiB, holds %.0f tokens in sequences of %.0f (f16: %.0f)\n", "KV pool",
           text(kv, "policy"), number(kv, "pool_bytes") / 1048576, number(longest, "tokens"),
           number(longest, "tokens_a_sequence"), number(longest, "tokens_f16"));
}

static void print_status(const client *c, const json_t *data) {
    const json_t *state = json_object_get(data, "state"), *info = json_object_get(data, "info"),
                 *t = json_object_get(data, "telemetry");
    const json_t *ttft = json_object_get(t, "time_to_first_token_seconds");
    printf("%-22s%s, kvqd %s\n", "Node", client_node(c), text(info, "version"));
    printf("%-22s%s", "Phase", text(state, "phase"));
    if (json_is_string(json_object_get(state, "reason"))) printf(" (%s)", text(state, "reason"));
    printf("\n");
    print_model(info);
    print_figure("Running", number(t, "num_requests_running"), 1, 0, "requests");
    print_figure("Waiting", number(t, "num_requests_waiting"), 1, 0, "requests");
    print_figure("Answered", number(t, "requests_success_total"), 1, 0, "requests");
    print_figure("KV pool used", number(t, "gpu_cache_usage_perc"), 100, 1, "%");
    print_figure("Prefix cache hits", number(t, "prefix_cache_hit_rate"), 100, 1, "%");
    print_figure("First token, median", number(ttft, "p50"), 1000, 0, "ms");
    print_figure("Memory", number(t, "process_resident_memory_bytes"), 1.0 / 1048576, 0, "MiB");
    print_figure("Power", number(t, "power_w"), 1, 1, "W");
    print_figure("Temperature", number(t, "temperature_c"), 1, 0, "degrees");
    print_figure("Up", number(t, "uptime_s"), 1, 0, "s");
}

static kvq_status open_for_dump(const client_options *o, client **ret, kvq_error *err) {
    kvq_status status = client_open(o, ret, err);
    return status ? status : client_subscribe(*ret, "reply/dump", err);
}

static int end(client *c, kvq_status status, const kvq_error *err) {
    client_close(c);
    if (interrupt_seen()) return EXIT_CODE_INTERRUPTED;
    return status ? command_fail(EXIT_CODE_FAILED, "%s", err->text) : EXIT_CODE_OK;
}

static int run_status(const void *values) {
    const status_values *v = values;
    client *c = NULL;
    json_t *data = NULL;
    kvq_error err = {0};
    kvq_status status = open_for_dump(&v->client, &c, &err);
    if (!status) status = dump(c, &data, &err);
    if (!status && v->json) {
        (void)json_dumpf(data, stdout, JSON_INDENT(2)); /* a broken stdout: nobody reads it */
        putchar('\n');
    } else if (!status) {
        print_status(c, data);
    }
    json_decref(data);
    return end(c, status, &err);
}

/* One line per look; tokens per second are of the time between two. */
static void print_line(const json_t *data, double *last_tokens, double *last_s) {
    const json_t *state = json_object_get(data, "state"), *t = json_object_get(data, "telemetry");
    double tokens = number(t, "generation_tokens_total"), s = number(t, "uptime_s");
    double rate = *last_s > 0 && s > *last_s ? (tokens - *last_tokens) / (s - *last_s) : 0;
    printf("%-10s %7.0f %7.0f %9.1f %8.1f %10.0f %9.0f\n", text(state, "phase"), number(t, "num_requests_running"),
           number(t, "num_requests_waiting"), rate, 100 * number(t, "gpu_cache_usage_perc"),
           number(t, "preemptions_total"), number(t, "process_resident_memory_bytes") / 1048576);
    (void)fflush(stdout); /* a closed pipe ends us by its signal */
    *last_tokens = tokens;
    *last_s = s;
}

static int run_top(const void *values) {
    const top_values *v = values;
    client *c = NULL;
    kvq_error err = {0};
    double last_tokens = 0, last_s = 0;
    interrupt_catch();
    kvq_status status = open_for_dump(&v->client, &c, &err);
    if (!status) puts("phase      running waiting  tokens/s   pool %  preempted  RSS, MiB");
    for (int i = 0; !status && !interrupt_seen() && (v->count == 0 || i < v->count); i++) {
        json_t *data = NULL;
        if (i) sleep((unsigned)v->interval_s);
        if (interrupt_seen()) break;
        status = dump(c, &data, &err);
        if (!status) print_line(data, &last_tokens, &last_s);
        json_decref(data);
    }
    return end(c, status, &err);
}

const command command_status = {
    .name = "status",
    .doc = "What a running kvqd is doing: phase, model, pool, queue, speed.",
    .about = "Asks the daemon itself (request/dump); retained topics of one that is gone are not shown.",
    .options = status_options,
    .n_options = sizeof status_options / sizeof *status_options,
    .values_bytes = sizeof(status_values),
    .run = run_status,
};

const command command_top = {
    .name = "top",
    .doc = "The same as a line every second, like vmstat.",
    .about = "Tokens per second are those between two lines.",
    .options = top_options,
    .n_options = sizeof top_options / sizeof *top_options,
    .values_bytes = sizeof(top_values),
    .run = run_top,
};
