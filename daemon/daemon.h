/* daemon.h: the daemon's state, and the steps of its loop. main.c runs them; requests.c, telemetry.c, command.c and
 * discovery.c work on the parts that are theirs. One thread owns all of it: the main loop, which is also the engine's.
 * Other threads (the MQTT library's, the model loader's) reach it through the journal, the inbox of mqtt.c and an
 * eventfd. */
#ifndef KVQD_DAEMON_H
#define KVQD_DAEMON_H

#include <jansson.h>

#include "bench.h"
#include "config.h"
#include "journal.h"
#include "models.h"
#include "mqtt.h"
#include "notify.h"
#include "requests.h"
#include "telemetry.h"
#include "topics.h"

#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)

/* clang-format off */
#define PHASE_MAP(X) \
    X(STARTING, "starting") X(LOADING, "loading") X(READY, "ready") X(BUSY, "busy") X(DRAINING, "draining") X(NO_MODEL, "no_model") \
    X(DEGRADED, "degraded") X(FAILED, "failed")
/* clang-format on */
typedef enum daemon_phase {
#define X(name, text) PHASE_##name,
    PHASE_MAP(X)
#undef X
} daemon_phase;
const char *daemon_phase_name(daemon_phase phase);

/* What the MQTT library's threads see of the daemon; never changes after open. */
typedef struct daemon_store {
    journal *journal;
    topic_names names;
    size_t max_prompt_bytes;
} daemon_store;

typedef struct kvqd {
    config config;
    const char *config_path; /* NULL: the default */
    char *state_folder, *base, *node, *pool_name, *client_id;
    topic_names names; /* borrowed from the three above; home from config */
    int wake_fd;

    journal *journal;
    mqtt *mqtt, *pool; /* pool: NULL if not in one */
    daemon_store *store;

    /* the model */
    char *model_path;
    char model_name[256]; /* of the loaded one; "" without */
    loader *loader;       /* while loading */
    kvq_engine *engine;   /* NULL: none */
    daemon_phase
        engine_phase; /* STARTING, LOADING, READY, NO_MODEL, FAILED, DEGRADED (the GPU asked for is not usable) */
    char engine_reason[KVQ_ERROR_BYTES];

    requests requests;
    bench bench;
    telemetry telemetry;
    notify notify;
    bool is_ready_told, in_conflict, is_draining;
    bool has_lost_gpu; /* only a new process can have it back: the loop ends, the service manager starts another */
    bool in_share;     /* of the pool's prompts */
    char refusal[KVQ_ERROR_BYTES]; /* why there is no connection, as last told; "" with one */
    uint64_t n_preemptions_told;
    int64_t started_ns, drain_until_ns, prune_at_ns, pool_full_at_ns;
    int64_t wake_at_ns; /* when the loop must go round again */
} kvqd;

/* The steps, in the loop's order. */
kvq_status daemon_open(const char *config_path, const config *moved, kvqd *d,
                       kvq_error *err); /* on failure: daemon_close */
void daemon_await_step(kvqd *d);        /* the one that a GPU computes, if the next one needs its tokens */
void daemon_read_inbox(kvqd *d);
void daemon_take_model(kvqd *d);
void daemon_step_engine(kvqd *d);
void daemon_upkeep(kvqd *d);
int daemon_wait_ms(const kvqd *d); /* for poll; -1: until something happens */
void daemon_close(kvqd *d);        /* without an orderly end (has_lost_gpu) what ran keeps its attempt in the journal */

/* What signals ask for. */
bool daemon_reload(kvqd *d, char *ret_text, size_t n_text); /* ret_text: what changed, or what is wrong */
void daemon_drain(kvqd *d);
bool daemon_is_drained(const kvqd *d);

/* The engine's options as configured; strings borrowed from d. */
void daemon_engine_options(const kvqd *d, kvq_options *ret);

/* Used by command.c. A load or unload needs an idle engine: BUSY otherwise. */
kvq_status daemon_load(kvqd *d, const char *path, kvq_error *err);
kvq_status daemon_unload(kvqd *d, kvq_error *err);

daemon_phase daemon_current_phase(const kvqd *d);
const char *daemon_reason(const kvqd *d);     /* of the phase; "" for none */
const char *daemon_model_name(const kvqd *d); /* NULL: none */

/* A JSON object to a topic of the table; takes the reference. False if it was not sent. */
bool daemon_publish_json(kvqd *d, topic_id topic, const char *rest, json_t *object);

/* {"type":..., ...data}; takes the reference of data, which may be NULL. */
void daemon_event(kvqd *d, const char *type, json_t *data);

/* Asks the loop to go round at that time at the latest. */
void daemon_wake_at(kvqd *d, int64_t ns);

#endif
