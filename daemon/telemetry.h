/* telemetry.h: THE metric table (telemetry.def), the topics state, info and telemetry, and the counters that belong to
 * no other file. Called by daemon.c (telemetry_publish) and requests.c (what ended). Main loop only. */
#ifndef KVQD_TELEMETRY_H
#define KVQD_TELEMETRY_H

#include <jansson.h>

#include "latency.h"
#include "nvml.h"
#include "power.h"
#include "reply.h"

struct kvqd;

typedef enum telemetry_duration {
    DURATION_FIRST_TOKEN,
    DURATION_PER_TOKEN,
    DURATION_QUEUE,
    DURATION_PREFILL,
    DURATION_DECODE,
    DURATION_REQUEST,
    DURATION_COUNT
} telemetry_duration;

typedef struct telemetry {
    latency durations[DURATION_COUNT];
    uint64_t n_answered, n_refused[FAILURE_COUNT], n_answers_dropped;
    /* what went before the engine that is loaded now: counters stay monotonic over a reload of the model */
    kvq_stats before;
    /* tokens/s of the last interval */
    double tokens_per_second, prompt_tokens_per_second;
    uint64_t interval_tokens, interval_prompt_tokens;
    int64_t interval_start_ns;
    /* when what goes out next */
    int64_t telemetry_at_ns, state_at_ns, status_at_ns;
    char *last_state; /* as published */
    power *power;     /* NULL: no memory for it; then nothing is known */
    power_sample sample;
    bool was_throttled;
    /* the GPU that runs the model */
    bool has_gpu;
    nvml *nvml;     /* NULL: the driver is not asked */
    gpu_sample gpu; /* as last read; all unknown without a GPU */
    double gpu_j;   /* since start, over all engines; NaN: not measured */
    double gpu_before_j;
    /* energy of all that is measured, once each */
    double power_w, energy_j; /* energy: since start, never falling; NaN: not measured on this machine */
    double share_j;           /* what a request that ran all the time would have had as its part */
    double share_energy_j;    /* energy_j when that was reckoned last */
    double interval_energy_j, joules_a_token;
} telemetry;

void telemetry_init(telemetry *t);
void telemetry_count_end(telemetry *t, const reply_facts *facts);
double telemetry_median_request_s(const telemetry *t); /* 0: none yet */

/* Energy is divided evenly among the requests that run, moment by moment. Called before one more runs and before one
 * ends, with how many run until now; the difference of two calls is a request's part in joules. NaN: not measured. */
double telemetry_share_joules(telemetry *t, size_t n_running);

/* The engine is about to be used: its GPU, if it has one, is what the figures are about from now on. */
void telemetry_follow_gpu(telemetry *t, const kvq_info *i);

/* What is due of state and telemetry. */
void telemetry_publish(struct kvqd *d, int64_t now_ns);

/* After connecting: status, state, info, telemetry, whatever they were before. */
void telemetry_birth(struct kvqd *d);
void telemetry_publish_info(struct kvqd *d);

/* The engine is about to be closed: what was counted stays. */
void telemetry_keep_counters(struct kvqd *d);

json_t *telemetry_state(const struct kvqd *d);
json_t *telemetry_info(const struct kvqd *d);
json_t *telemetry_metrics(struct kvqd *d);

/* One line for systemctl status. */
void telemetry_status_line(const struct kvqd *d, char *ret, size_t n_bytes);

void telemetry_done(telemetry *t);

#endif
