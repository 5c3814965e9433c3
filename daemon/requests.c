/* requests.c: the prompts in progress. See requests.h.
 *
 * A prompt is checked in this order, and each check knows where to answer because the ones before it found out:
 *   1. where to answer: the node's response topic, or the MQTT 5 Response Topic if it is under an allowed prefix
 *   2. what it says (prompt.c), its name, and that topic and JSON agree
 *   3. whether it is one we know: running (nothing to do), answered (the stored answer again)
 *   4. whether it is still wanted (age, expiry), whether it brought us down three times
 *   5. whether there is room (max_queue, max_requests_per_client), and a model
 * A refusal is an answer like any other: stored, then published.
 *
 * Prompts wait here, not in the engine, which gets as many as it computes at once: so a prompt counts as an attempt
 * only once it could have brought the daemon down. The order is priority, then turn, then arrival. Turns are start-time
 * fair queueing (Goyal, Vin, Cheng 1996) with every prompt of one size: a client's next prompt comes a turn after its
 * last one, so a client with sixty prompts does not keep out one with a single prompt, and nobody waits for ever.
 * Prompts without a client share one. */
#include "requests.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "daemon.h"
#include "log.h"
#include "prompt.h"
#include "reply.h"
#include "text.h"

#define RETRY_AFTER_MS 1000 /* told with busy when nothing was measured yet */

struct request {
    request *next_in_bucket, *next, *previous;
    char name[TOPIC_REQUEST_BYTES]; /* ID or CLIENT/ID */
    const char *id;                 /* in name */
    char client[PROMPT_NAME_BYTES + 1];
    int64_t row;        /* in the journal; 0: not there */
    int attempts;       /* so far; the daemon died during each */
    uint64_t engine_id; /* 0: waiting */
    message *message;   /* owned */
    bool is_submitted, on_response_topic, wants_deltas, knows_age;
    topic_names names; /* under which it is answered */
    char *former;      /* what they point into where they are not d->names; owned */
    char *topic;       /* of the final, owned */
    char *session;
    prompt prompt;
    reply reply;
    int64_t accepted_ns, submitted_ns, first_ns, deadline_ns; /* monotonic; 0: not yet, none */
    int64_t received_ns;                                      /* the same; before we started, perhaps */
    int64_t turn;                                             /* when its client's share comes: see take_turn */
    failure_code cut;                                         /* why we cancelled it */
    double joules_before;                                     /* telemetry_share_joules when it began */
};

/* ---- the table ------------------------------------------------------------------------------------------- */

static size_t bucket_of(const char *name) {
    uint32_t h = 2166136261u; /* FNV-1a */
    for (const char *c = name; *c; c++) h = (h ^ (unsigned char)*c) * 16777619u;
    return h % REQUESTS_BUCKETS;
}

static request *find(const requests *t, const char *name) {
    request *r = t->buckets[bucket_of(name)];
    while (r && strcmp(r->name, name) != 0) r = r->next_in_bucket;
    return r;
}

static void add(requests *t, request *r) {
    request **bucket = &t->buckets[bucket_of(r->name)];
    r->next_in_bucket = *bucket;
    *bucket = r;
    r->previous = t->last;
    if (t->last)
        t->last->next = r;
    else
        t->first = r;
    t->last = r;
    t->n++;
    t->n_waiting++;
}

static void mark_submitted(requests *t, request *r) {
    if (!r->is_submitted) t->n_waiting--;
    r->is_submitted = true;
}

static void request_free(request *r) {
    if (!r) return;
    prompt_done(&r->prompt);
    reply_done(&r->reply);
    message_free(r->message);
    free(r->former);
    free(r->topic);
    free(r->session);
    free(r);
}

static void drop(requests *t, request *r) {
    request **at = &t->buckets[bucket_of(r->name)];
    while (*at != r) at = &(*at)->next_in_bucket;
    *at = r->next_in_bucket;
    if (r->previous)
        r->previous->next = r->next;
    else
        t->first = r->next;
    if (r->next)
        r->next->previous = r->previous;
    else
        t->last = r->previous;
    mark_submitted(t, r);
    t->n--;
    request_free(r);
}

static size_t n_of_client(const requests *t, const char *client) {
    size_t n = 0;
    for (const request *r = t->first; r; r = r->next) n += strcmp(r->client, client) == 0;
    return n;
}

size_t requests_n_queued(const kvqd *d) {
    kvq_stats stats = {0};
    if (d->engine) kvq_get_stats(d->engine, &stats);
    return d->requests.n_waiting + (size_t)stats.requests_waiting;
}

/* ---- answers --------------------------------------------------------------------------------------------- */

/* What goes out for an answer: the whole, or parts; where they do not fit what the broker takes, a short one that says
 * so. NO_SPACE: not even that fits. */
static kvq_status parts_of(kvqd *d, const journal_answer *a, char ***ret, size_t *ret_n) {
    size_t n_bytes, max_bytes = mqtt_max_payload_bytes(d->mqtt, a->topic, a->n_correlation_bytes);
    kvq_status status = reply_parts(a->payload, a->n_bytes, max_bytes, MQTT_MAX_WAITING, ret, ret_n);
    if (status != KVQ_NO_SPACE) return status;
    failure f;
    (void)failure_set(&f, FAILURE_TOO_LARGE,
                      "the answer of %zu bytes does not fit in %d messages of the broker's Maximum Packet Size",
                      a->n_bytes, MQTT_MAX_WAITING);
    char *brief = reply_short(a->payload, a->n_bytes, &f, &n_bytes);
    if (!brief) return KVQ_NO_MEMORY;
    status = reply_parts(brief, n_bytes, max_bytes, 1, ret, ret_n);
    free(brief);
    if (!status) log_warning("an answer on '%s' becomes an error: %s", a->topic, f.text);
    return status;
}

typedef enum handed { HANDED, LATER, NEVER } handed;

/* All parts or none. */
static handed hand_over(kvqd *d, const journal_answer *a) {
    size_t n;
    char **parts;
    kvq_status status = parts_of(d, a, &parts, &n);
    if (status) return status == KVQ_NO_MEMORY ? LATER : NEVER;
    handed result = mqtt_n_waiting(d->mqtt) + n <= MQTT_MAX_WAITING ? HANDED : LATER;
    for (size_t i = 0; i < n && result == HANDED; i++) {
        mqtt_publication p = {
            .topic = a->topic,
            .payload = parts[i],
            .n_bytes = strlen(parts[i]),
            .correlation = a->correlation,
            .n_correlation_bytes = a->n_correlation_bytes,
            .qos = 1,
            .cookie = a->row,
            .n_more = (int)(n - 1 - i),
        };
        if (!mqtt_publish(d->mqtt, &p)) result = LATER; /* the connection broke: all parts go again with the next one */
    }
    reply_parts_free(parts, n);
    return result;
}

static void publish_loose(kvqd *d, const request *r, const char *answer, size_t n_bytes) {
    journal_answer a = {
        .topic = r->topic,
        .payload = (void *)answer, /* only read */
        .n_bytes = n_bytes,
        .correlation = (void *)r->message->correlation,
        .n_correlation_bytes = r->message->n_correlation_bytes,
    };
    if (hand_over(d, &a) != HANDED) d->telemetry.n_answers_dropped++;
}

/* Stores the answer; what is stored is published by requests_publish_answers. An answer that cannot be stored goes out
 * at once, without the promise. */
static void deliver(kvqd *d, const request *r, const char *answer, size_t n_bytes, bool reusable) {
    kvq_error err;
    if (r->row) {
        const message *m = r->message;
        if (!journal_finish(d->journal, r->row, r->name, r->topic, m->correlation, m->n_correlation_bytes, answer,
                            n_bytes, reusable, &err))
            return;
        log_error("request '%s': %s; its answer is sent once, and it may run again after a restart", r->name, err.text);
    }
    publish_loose(d, r, answer, n_bytes);
}

static void log_end(const request *r, const reply_facts *facts) {
    if (!facts->failure) {
        log_event(LOG_MESSAGE_REQUEST_FINISHED,
                  LOG_FIELDS(LOG_TEXT("REQUEST_ID", r->name), LOG_NUMBER("TOKENS", facts->result.completion_tokens)),
                  "request '%s': %d tokens in, %d out, %.0f ms to the first", r->name, facts->result.prompt_tokens,
                  facts->result.completion_tokens, facts->result.ttft_ms);
        return;
    }
    log_event(LOG_MESSAGE_REQUEST_REFUSED, LOG_FIELDS(LOG_TEXT("REQUEST_ID", r->name)), "request '%s': %s: %s", r->name,
              failure_name(facts->failure->code), facts->failure->text);
}

static void end(kvqd *d, const request *r, const reply_facts *facts) {
    size_t n_bytes;
    char *answer = reply_final(facts, &n_bytes);
    if (answer) {
        deliver(d, r, answer, n_bytes, !facts->failure);
    } else {
        log_error("request '%s': no memory for its answer", r->name);
    }
    log_end(r, facts);
    telemetry_count_end(&d->telemetry, facts);
    free(answer);
}

static kvq_finish finish_of(failure_code code) {
    return code == FAILURE_CANCELLED  ? KVQ_FINISH_CANCELLED
           : code == FAILURE_DEADLINE ? KVQ_FINISH_DEADLINE
                                      : KVQ_FINISH_ERROR;
}

/* An answer to what never ran. */
static void refuse(kvqd *d, const request *r, const failure *f) {
    reply_facts facts = {
        .id = r->id,
        .model = daemon_model_name(d),
        .text = r->reply.text,
        .reason = finish_of(f->code),
        .pool_used_ratio = NAN,
        .energy_j = NAN,
        .failure = f,
    };
    end(d, r, &facts);
}

static size_t n_running(const kvqd *d) {
    return d->requests.n - d->requests.n_waiting;
}

/* Of the pool while this sequence was in it: its own blocks are free by the time its end is told. */
static double pool_used_ratio(const kvqd *d, const kvq_result *r) {
    kvq_stats stats;
    kvq_get_stats(d->engine, &stats);
    uint64_t pool_bytes = kvq_get_info(d->engine)->pool_bytes;
    if (stats.n_blocks == 0 || pool_bytes == 0) return NAN;
    double ratio = (double)stats.blocks_used / (double)stats.n_blocks + (double)r->kv_bytes / (double)pool_bytes;
    return ratio < 1 ? ratio : 1;
}

static void send_delta(kvqd *d, request *r, int64_t now_ns) {
    char topic[TOPIC_BYTES];
    size_t n_bytes;
    char *delta = reply_take_delta(&r->reply, r->id, now_ns, &n_bytes);
    if (!delta) return; /* no memory: the final carries the text */
    topic_make(&r->names, TOPIC_DELTA, r->name, topic);
    mqtt_publication p = {
        .topic = r->on_response_topic ? r->topic : topic,
        .payload = delta,
        .n_bytes = n_bytes,
        .correlation = r->message->correlation,
        .n_correlation_bytes = r->message->n_correlation_bytes,
    };
    (void)mqtt_publish(d->mqtt, &p); /* QoS 0: counted there if dropped, repaired by the final */
    free(delta);
}

static void finish(kvqd *d, request *r, const kvq_event *e) {
    failure f = {0};
    if (r->wants_deltas && reply_delta_due_ns(&r->reply) != INT64_MAX) send_delta(d, r, clock_monotonic_ns());
    failure_code code = e->kind == KVQ_EVENT_FAILED         ? failure_of_status(e->error.code)
                        : e->reason == KVQ_FINISH_CANCELLED ? (r->cut ? r->cut : FAILURE_CANCELLED)
                        : e->reason == KVQ_FINISH_DEADLINE  ? FAILURE_DEADLINE
                                                            : FAILURE_NONE;
    if (e->kind == KVQ_EVENT_FAILED)
        failure_from_error(&f, &e->error);
    else if (code)
        (void)failure_set(&f, code, code == FAILURE_DEADLINE ? "its time was up" : "it was cancelled");
    if (code == FAILURE_NONE && e->kind == KVQ_EVENT_FAILED) f.code = code = FAILURE_INTERNAL;
    reply_facts facts = {
        .id = r->id,
        .model = daemon_model_name(d),
        .text = r->reply.text,
        .reason = code ? finish_of(code) : e->reason,
        .result = e->result,
        .policy = kvq_get_info(d->engine)->quant_policy,
        .pool_used_ratio = pool_used_ratio(d, &e->result),
        .energy_j = telemetry_share_joules(&d->telemetry, n_running(d)) - r->joules_before,
        .failure = code ? &f : NULL,
    };
    double waited_ms = (double)(r->submitted_ns - r->accepted_ns) / 1e6; /* here, before the engine had it */
    facts.result.queue_ms += waited_ms;
    if (facts.result.ttft_ms > 0) facts.result.ttft_ms += waited_ms;
    facts.result.seed = r->prompt.request.seed;
    end(d, r, &facts);
    drop(&d->requests, r);
}

/* ---- accepting ------------------------------------------------------------------------------------------- */

static bool has_allowed_prefix(const config *c, const char *topic) {
    for (size_t i = 0; i < c->mqtt_response_topic_prefixes.n; i++) {
        const char *prefix = c->mqtt_response_topic_prefixes.items[i];
        if (strncmp(topic, prefix, strlen(prefix)) == 0) return true;
    }
    return false;
}

/* A topic that may be published to, and not one of those we read: an answer must not become a prompt. */
static bool is_answerable(const kvqd *d, const char *topic) {
    char rest[TOPIC_REQUEST_BYTES];
    bool valid;
    size_t n = strlen(topic);
    return n > 0 && n < 65536 && topic[0] != '$' && !strpbrk(topic, "+#") && text_is_valid(topic, n) &&
           topic_match(&d->names, topic, rest, &valid) == TOPIC_COUNT;
}

/* The names of the prompt's topic, and its rest. A prompt of the journal may have come in when we had others: it is
 * answered where it is waited for, unless it came from a pool, whose members answer under their own. */
static bool find_names(const kvqd *d, request *r, char rest[TOPIC_REQUEST_BYTES], bool *ret_valid) {
    const char *topic = r->message->topic;
    topic_names former;
    r->names = d->names;
    if (topic_match(&d->names, topic, rest, ret_valid) != TOPIC_COUNT) return true;
    r->former = strdup(topic);
    if (!r->former || !topic_former_names(r->former, &former)) return false;
    if (!r->message->from_pool) r->names = former;
    return topic_match(&former, topic, rest, ret_valid) != TOPIC_COUNT;
}

static void set_name(request *r, const char *name) {
    snprintf(r->name, sizeof r->name, "%.*s", (int)sizeof r->name - 1, name); /* checked before: it fits */
    const char *slash = strchr(r->name, '/');
    r->id = slash ? slash + 1 : r->name;
    r->client[0] = '\0';
    if (slash) snprintf(r->client, sizeof r->client, "%.*s", (int)(slash - r->name), r->name);
}

static uint64_t random_bits(void) {
    uint64_t n = 0;
    if (getrandom(&n, sizeof n, 0) != (ssize_t)sizeof n)
        n = (uint64_t)clock_monotonic_ns(); /* only before boot has entropy */
    return n & KVQ_MAX_SEED;                /* it may become one */
}

static void make_name(request *r) {
    char name[32];
    snprintf(name, sizeof name, "p%016llx", (unsigned long long)random_bits());
    set_name(r, name);
}

static bool set_topic(request *r) {
    char own[TOPIC_BYTES];
    topic_make(&r->names, TOPIC_RESPONSE, r->name, own);
    r->topic = strdup(r->on_response_topic ? r->message->response_topic : own);
    return r->topic != NULL;
}

/* Check 1. A Response Topic that is not allowed is no place to say so: then the answer goes to the node's own topic. */
static bool choose_address(kvqd *d, request *r, failure *f) {
    const char *topic = r->message->response_topic;
    if (!*topic) return true;
    if (!has_allowed_prefix(&d->config, topic))
        return failure_set(f, FAILURE_BAD_REQUEST,
                           "the Response Topic '%.128s' is under none of response_topic_prefixes", topic);
    if (!is_answerable(d, topic))
        return failure_set(f, FAILURE_BAD_REQUEST, "the Response Topic '%.128s' cannot be used", topic);
    r->on_response_topic = true;
    return true;
}

static prompt_input input_of(const kvqd *d, const message *m) {
    return (prompt_input){
        .payload = m->payload,
        .n_bytes = m->n_bytes,
        .max_bytes = d->config.limits_max_prompt_bytes,
        .content_type = *m->content_type ? m->content_type : NULL,
    };
}

/* Check 2, the first half: the payload. */
static bool read_prompt(kvqd *d, request *r, failure *f) {
    prompt_input in = input_of(d, r->message);
    kvq_request defaults = kvq_default_request();
    config_request_defaults(&d->config, &defaults);
    in.defaults = &defaults;
    return prompt_parse(&in, &r->prompt, f);
}

/* Check 2, the second half. known: the name that the journal has from an earlier start. */
static bool settle_name(request *r, const char *in_topic, bool valid, const char *known, failure *f) {
    const char *in_json = r->prompt.id;
    if (*known) {
        set_name(r, known);
    } else if (*in_topic) {
        set_name(r, in_topic);
        if (!valid)
            return failure_set(f, FAILURE_BAD_REQUEST, "the topic must end in ID or CLIENT/ID, each " PROMPT_NAME_RULE,
                               PROMPT_NAME_BYTES);
        if (*in_json && strcmp(in_json, r->id) != 0)
            return failure_set(f, FAILURE_BAD_REQUEST, "'id' is '%s', but the topic says '%s'", in_json, r->id);
    } else if (*in_json) {
        set_name(r, in_json);
    } else {
        make_name(r);
    }
    return true;
}

static bool is_same(const request *a, const message *b) {
    const message *m = a->message;
    return m->n_bytes == b->n_bytes && memcmp(m->payload, b->payload, m->n_bytes) == 0 &&
           strcmp(m->content_type, b->content_type) == 0 && strcmp(m->response_topic, b->response_topic) == 0 &&
           m->n_correlation_bytes == b->n_correlation_bytes &&
           (m->n_correlation_bytes == 0 || memcmp(m->correlation, b->correlation, m->n_correlation_bytes) == 0);
}

typedef enum acquaintance { STRANGER, RUNNING, ANSWERED, IMPOSTOR } acquaintance;

/* Check 3. */
static acquaintance recognize(kvqd *d, const request *r, journal_answer *ret, failure *f) {
    kvq_error err;
    const request *other = find(&d->requests, r->name);
    if (other && is_same(other, r->message)) return RUNNING;
    if (other) {
        (void)failure_set(f, FAILURE_BAD_REQUEST, "another prompt with the id '%s' is not finished yet", r->id);
        return IMPOSTOR;
    }
    bool found = journal_find_answer(d->journal, r->name, r->message, ret, &err) == KVQ_OK;
    return found ? ANSWERED : STRANGER;
}

static bool has_age(const message *m) {
    return m->clock_synced && clock_is_synced();
}

/* Milliseconds since it was received. */
static int64_t age_ms(const message *m) {
    int64_t age = clock_wall_ms() - m->received_ms;
    return age > 0 ? age : 0;
}

/* Check 4, and the time that it has left. */
static bool is_wanted(kvqd *d, request *r, failure *f) {
    r->knows_age = has_age(r->message);
    int64_t age = r->knows_age ? age_ms(r->message) : 0, left_ms = INT64_MAX;
    if (age > (int64_t)d->config.limits_max_age_s * 1000)
        return failure_set(f, FAILURE_DEADLINE, "it waited %lld s; 'max_age_s' allows %d", (long long)age / 1000,
                           d->config.limits_max_age_s);
    r->received_ns = r->accepted_ns - age * NS_PER_MS;
    if (r->message->expiry_s >= 0) left_ms = r->message->expiry_s * 1000;
    if (r->prompt.request.deadline_ms > 0 && r->prompt.request.deadline_ms < left_ms)
        left_ms = r->prompt.request.deadline_ms;
    if (left_ms == INT64_MAX) return true;
    if (left_ms <= age) return failure_set(f, FAILURE_DEADLINE, "its time was up before it could start");
    r->deadline_ns = r->accepted_ns + (left_ms - age) * NS_PER_MS;
    return true;
}

static void set_busy(kvqd *d, failure *f, size_t n_queued) {
    f->queue_depth = (long long)n_queued;
    double s = telemetry_median_request_s(&d->telemetry);
    f->retry_after_ms = s > 0 ? (long long)(s * 1000) + 1 : RETRY_AFTER_MS;
}

/* Check 5. What was accepted before a restart, or waits for one, has its place. */
static bool has_room(kvqd *d, const request *r, failure *f) {
    const config *c = &d->config;
    size_t n_queued = requests_n_queued(d);
    if (r->row && (r->row <= d->requests.recovered_row || d->is_draining)) return true;
    if (*r->client && n_of_client(&d->requests, r->client) >= (size_t)c->limits_max_requests_per_client) {
        (void)failure_set(f, FAILURE_BUSY,
                          "client '%s' has %d unfinished prompts; 'max_requests_per_client' allows no more", r->client,
                          c->limits_max_requests_per_client);
        set_busy(d, f, n_queued);
        return false;
    }
    if (n_queued < (size_t)c->limits_max_queue) return true;
    (void)failure_set(f, FAILURE_BUSY, "%zu prompts wait; 'max_queue' allows no more", n_queued);
    set_busy(d, f, n_queued);
    return false;
}

static bool is_for_this_model(const kvqd *d, const char *wanted, failure *f) {
    const char *name = daemon_model_name(d);
    if (!wanted || !name || strcmp(wanted, name) == 0) return true; /* while loading: asked again at submit */
    return failure_set(f, FAILURE_NO_MODEL, "'model' is '%.128s'; loaded is '%.128s'", wanted, name);
}

static bool is_deliverable_name(const char *name) {
    const char *last = strrchr(name, '/');
    return *name && strlen(name) < TOPIC_REQUEST_BYTES - 1 && strcmp(last ? last + 1 : name, "delta") != 0;
}

/* Checks 2, 4 and 5 in order; false with the failure. Check 3 is between, in accept. */
static bool may_run(kvqd *d, request *r, failure *f) {
    if (!is_wanted(d, r, f)) return false;
    if (r->attempts >= REQUESTS_MAX_ATTEMPTS) {
        log_event(LOG_MESSAGE_REQUEST_GIVEN_UP, LOG_FIELDS(LOG_TEXT("REQUEST_ID", r->name)),
                  "request '%s': the daemon died %d times while it ran; given up", r->name, r->attempts);
        return failure_set(f, FAILURE_INTERNAL, "kvqd died %d times while this ran; it is given up", r->attempts);
    }
    return has_room(d, r, f) && is_for_this_model(d, r->prompt.model, f);
}

static_assert(PROMPT_NAME_BYTES + 1 + PROMPT_SESSION_BYTES <= KVQ_MAX_SESSION_BYTES, "no session is too long");

/* A client's session is CLIENT/NAME. Whoever has no client must not get into one by a name with a slash. */
static bool keep_session_apart(request *r) {
    kvq_request *q = &r->prompt.request;
    if (!q->session || (!*r->client && !strchr(q->session, '/'))) return true;
    if (asprintf(&r->session, "%s/%s", r->client, q->session) < 0) {
        r->session = NULL;
        return false;
    }
    q->session = r->session;
    return true;
}

/* A client's prompts follow each other by a turn; one that has none waiting starts at the turn that is being served. */
static void take_turn(const requests *t, request *r) {
    int64_t last = t->turn;
    for (const request *other = t->first; other; other = other->next)
        if (other->turn > last && strcmp(other->client, r->client) == 0) last = other->turn;
    r->turn = last + 1;
}

/* From here on it is ours. */
static void take_in(kvqd *d, request *r, const journal_row *row) {
    kvq_request *q = &r->prompt.request;
    if (row && row->has_seed)
        q->seed = row->seed;
    else if (!q->has_seed)
        q->seed = random_bits();
    q->has_seed = true;
    q->client = *r->client ? r->client : NULL;
    q->user = r;
    r->wants_deltas = r->prompt.stream >= 0 ? r->prompt.stream : !r->on_response_topic;
    take_turn(&d->requests, r);
    add(&d->requests, r);
}

/* The same prompt runs already: its answer is this one's too. The row goes, unless that one came without a promise
 * (QoS 0): then it takes over this one's. */
static void join_running(kvqd *d, const request *r) {
    kvq_error err;
    request *other = find(&d->requests, r->name);
    if (!other->row)
        other->row = r->row;
    else if (r->row && journal_drop(d->journal, r->row, &err))
        log_error("request '%s': %s", r->name, err.text);
}

static void answer_again(kvqd *d, request *r, journal_answer *stored) {
    deliver(d, r, stored->payload, stored->n_bytes, true);
    journal_answer_done(stored);
    log_info("request '%s': answered before, the same answer is sent again", r->name);
}

/* Checks 1 and 2, the first half. What is refused already is read all the same: its id says where to answer. */
static bool read_request(kvqd *d, request *r, const failure *refusal, failure *f) {
    failure second;
    bool ok = choose_address(d, r, f);
    if (refusal) *f = *refusal;
    ok = ok && !refusal;
    if (read_prompt(d, r, &second)) return ok;
    if (ok) *f = second;
    return false;
}

/* All of it. Takes the message; row: NULL for one that is not in the journal; refusal: what is wrong already, or NULL.
 */
static void accept(kvqd *d, message *m, const journal_row *row, const failure *refusal) {
    char rest[TOPIC_REQUEST_BYTES];
    bool valid = true;
    failure f;
    journal_answer stored;
    request *r = calloc(1, sizeof *r);
    if (r) r->message = m;
    if (!r || !find_names(d, r, rest, &valid)) {
        log_error("no memory for the prompt '%s'", m->topic);
        if (r)
            request_free(r);
        else
            message_free(m);
        return;
    }
    r->row = row ? row->row : 0;
    r->attempts = row ? row->attempts : 0;
    r->accepted_ns = clock_monotonic_ns();
    bool ok = read_request(d, r, refusal, &f);
    /* a name is needed for refusals too */
    failure name_failure;
    bool named = settle_name(r, rest, valid, row ? row->name : "", &name_failure);
    if (ok && !named) f = name_failure;
    ok = ok && named;
    if (!named && !is_deliverable_name(r->name)) {
        daemon_event(d, "bad_topic", json_pack("{s:s}", "topic", m->topic));
        make_name(r);
    }
    if (!set_topic(r) || !keep_session_apart(r)) ok = failure_set(&f, FAILURE_INTERNAL, "no memory for this prompt");
    acquaintance known = ok ? recognize(d, r, &stored, &f) : STRANGER;
    if (known == RUNNING) {
        join_running(d, r);
    } else if (known == ANSWERED && r->topic) {
        answer_again(d, r, &stored);
    } else if (ok && known == STRANGER && may_run(d, r, &f)) {
        take_in(d, r, row);
        return;
    } else if (r->topic) {
        refuse(d, r, &f);
    }
    request_free(r);
}

void requests_accept_stored(kvqd *d) {
    requests *t = &d->requests;
    journal_row row;
    kvq_error err;
    if (!t->look_into_journal || d->is_draining) return;
    for (;;) {
        bool is_old = t->last_row < t->recovered_row;
        if (is_old && requests_n_queued(d) >= (size_t)d->config.limits_max_queue)
            return; /* the rest when there is room */
        kvq_status status = journal_next_prompt(d->journal, t->last_row, &row, &err);
        if (status && status != KVQ_NOT_FOUND) log_error("%s", err.text);
        if (status) break;
        t->last_row = row.row;
        accept(d, row.message, &row, NULL);
    }
    t->look_into_journal = false;
}

void requests_accept_loose(kvqd *d, const message *m) {
    failure f;
    const failure *refusal = NULL;
    size_t max_bytes = d->config.limits_max_prompt_bytes;
    if (m->retained) {
        daemon_event(d, "retained_prompt_ignored", json_pack("{s:s}", "topic", m->topic));
        log_warning("a retained prompt on '%s' was ignored", m->topic);
        return;
    }
    if (m->n_bytes > max_bytes) {
        (void)failure_set(&f, FAILURE_TOO_LARGE, "the prompt has %zu bytes; 'max_prompt_bytes' allows %zu", m->n_bytes,
                          max_bytes);
        refusal = &f;
    } else if (m->qos > 0) {
        (void)failure_set(&f, FAILURE_BUSY,
                          "the journal takes no more prompts; answers must be delivered first, or disk space freed");
        set_busy(d, &f, requests_n_queued(d));
        refusal = &f;
    } else if (d->is_draining) {
        (void)failure_set(&f, FAILURE_BUSY, "kvqd is stopping");
        set_busy(d, &f, requests_n_queued(d));
        refusal = &f;
    }
    message *copy = message_copy(m);
    if (copy)
        accept(d, copy, NULL, refusal);
    else
        log_error("no memory for the prompt '%s'", m->topic);
}

/* ---- running --------------------------------------------------------------------------------------------- */

static void end_waiting(kvqd *d, request *r, const failure *f) {
    refuse(d, r, f);
    drop(&d->requests, r);
}

static void cancel(kvqd *d, request *r, failure_code why) {
    failure f;
    if (r->is_submitted) {
        r->cut = why;
        (void)kvq_cancel(d->engine, r->engine_id); /* NOT_FOUND: it ended in this step, its event is on the way */
        return;
    }
    (void)failure_set(&f, why, why == FAILURE_DEADLINE ? "its time was up" : "it was cancelled");
    end_waiting(d, r, &f);
}

/* Whether a prompt of the journal has this name, or would get it. */
static bool is_named(const kvqd *d, const journal_row *row, const char *name) {
    char rest[TOPIC_REQUEST_BYTES], id[PROMPT_NAME_BYTES + 1];
    bool valid;
    if (*row->name) return strcmp(row->name, name) == 0;
    if (topic_match(&d->names, row->message->topic, rest, &valid) == TOPIC_COUNT) return false;
    if (*rest) return strcmp(rest, name) == 0;
    prompt_input in = input_of(d, row->message);
    prompt_read_id(&in, id);
    return strcmp(id, name) == 0;
}

/* Takes in a prompt before its turn, so that it can be cancelled: the queue is full of older ones, or we stop. NULL:
 * there is none of this name. */
static request *accept_named(kvqd *d, const char *name) {
    journal_row row = {.row = d->requests.last_row};
    kvq_error err;
    while (journal_next_prompt(d->journal, row.row, &row, &err) == KVQ_OK) {
        if (!is_named(d, &row, name)) {
            message_free(row.message);
            continue;
        }
        accept(d, row.message, &row, NULL);
        return find(&d->requests, name);
    }
    return NULL;
}

void requests_cancel(kvqd *d, const char *name) {
    request *r = find(&d->requests, name);
    if (!r && d->requests.look_into_journal) r = accept_named(d, name);
    if (r)
        cancel(d, r, FAILURE_CANCELLED);
    else
        log_debug("cancel of '%s': no such request", name);
}

/* Who ran when the daemon died is not known better than "one of these". So the last attempt of each is made alone: one
 * that brings us down for the third time does not take the others with it. It is the last also where something else
 * ends it, such as a power cut: more attempts would make that rarer and a prompt that kills costlier, and whoever sent
 * it may do so again. */
static bool is_last_attempt(const request *r) {
    return r->attempts >= REQUESTS_MAX_ATTEMPTS - 1;
}

static bool submit(kvqd *d, request *r, failure *f) {
    kvq_request *q = &r->prompt.request;
    kvq_error err;
    if (!is_for_this_model(d, r->prompt.model, f)) return false;
    r->submitted_ns = clock_monotonic_ns();
    q->deadline_ms = 0;
    if (r->deadline_ns) {
        q->deadline_ms = (r->deadline_ns - r->submitted_ns) / NS_PER_MS;
        if (q->deadline_ms <= 0) return failure_set(f, FAILURE_DEADLINE, "its time was up before it could start");
    }
    if (r->row && journal_start(d->journal, r->row, r->name, q->seed, &err))
        log_error("request '%s': %s; it runs all the same", r->name, err.text);
    if (kvq_submit(d->engine, q, &r->engine_id, &err)) {
        failure_from_error(f, &err);
        if (f->code == FAILURE_BUSY) set_busy(d, f, requests_n_queued(d));
        return false;
    }
    r->joules_before = telemetry_share_joules(&d->telemetry, n_running(d));
    d->requests.turn = r->turn;
    d->requests.runs_alone = is_last_attempt(r);
    mark_submitted(&d->requests, r);
    return true;
}

static bool will_there_be_a_model(const kvqd *d, failure *f) {
    if (d->engine || d->engine_phase == PHASE_LOADING || d->engine_phase == PHASE_STARTING) return true;
    return failure_set(f, FAILURE_NO_MODEL, "%s", *d->engine_reason ? d->engine_reason : "no model is loaded");
}

static bool engine_has_room(const kvqd *d) {
    kvq_stats stats;
    kvq_get_stats(d->engine, &stats);
    return stats.requests_running + stats.requests_waiting < kvq_get_info(d->engine)->max_batch_size;
}

/* The list is in order of arrival, so of equals the first is kept. */
static request *next_to_run(const requests *t) {
    request *best = NULL;
    for (request *r = t->first; r; r = r->next) {
        if (r->is_submitted) continue;
        int lead = best ? r->prompt.request.priority - best->prompt.request.priority : 1;
        if (lead > 0 || (lead == 0 && r->turn < best->turn)) best = r;
    }
    return best;
}

static bool may_join(const requests *t, const request *r) {
    bool some_run = t->n > t->n_waiting;
    return !some_run || (!t->runs_alone && !is_last_attempt(r));
}

void requests_submit(kvqd *d) {
    failure f;
    if (d->is_draining || d->bench.args) return; /* what waits when we stop is for the next start */
    while (d->requests.n_waiting > 0) {
        bool hope = will_there_be_a_model(d, &f);
        if (hope && (!d->engine || !engine_has_room(d))) return;
        request *r = next_to_run(&d->requests);
        if (hope && !may_join(&d->requests, r)) return;
        if (!hope || !submit(d, r, &f)) end_waiting(d, r, &f);
    }
}

void requests_apply(kvqd *d, const kvq_event *events, size_t n) {
    for (size_t i = 0; i < n; i++) {
        request *r = events[i].user;
        if (!r) bench_apply(d, &events[i]);
        if (!r) continue;
        if (!r->first_ns) r->first_ns = clock_monotonic_ns();
        if (!reply_add(&r->reply, events[i].text ? events[i].text : "", events[i].n_bytes, events[i].n_tokens))
            cancel(d, r, FAILURE_INTERNAL);
        if (events[i].kind != KVQ_EVENT_TEXT) finish(d, r, &events[i]);
    }
}

/* When its time is up: the engine keeps a running one's own deadline. */
static int64_t ends_at_ns(const config *c, const request *r) {
    if (r->is_submitted) return r->submitted_ns + c->limits_max_request_s * NS_PER_S;
    int64_t too_old_ns = r->received_ns + c->limits_max_age_s * NS_PER_S;
    return r->deadline_ns && r->deadline_ns < too_old_ns ? r->deadline_ns : too_old_ns;
}

/* After a boot the clock may be synchronised only now: what still waits has an age from then on. */
static void learn_age(request *r, int64_t now_ns) {
    if (r->is_submitted || r->knows_age || !has_age(r->message)) return;
    int64_t before_ns = r->received_ns - (now_ns - age_ms(r->message) * NS_PER_MS);
    if (before_ns < 0) before_ns = 0;
    r->received_ns -= before_ns;
    if (r->deadline_ns) r->deadline_ns -= before_ns;
    r->knows_age = true;
}

static void flush(kvqd *d, request *r, int64_t now_ns) {
    learn_age(r, now_ns);
    int64_t end_ns = ends_at_ns(&d->config, r);
    if (r->wants_deltas) {
        int64_t due_ns = reply_delta_due_ns(&r->reply);
        if (due_ns <= now_ns)
            send_delta(d, r, now_ns);
        else
            daemon_wake_at(d, due_ns);
    }
    if (r->cut) return;
    if (now_ns >= end_ns)
        cancel(d, r, FAILURE_DEADLINE);
    else
        daemon_wake_at(d, end_ns);
}

void requests_flush(kvqd *d, int64_t now_ns) {
    for (request *r = d->requests.first, *next; r; r = next) {
        next = r->next;
        flush(d, r, now_ns);
    }
}

/* ---- delivering ------------------------------------------------------------------------------------------ */

void requests_publish_answers(kvqd *d) {
    journal_answer a;
    kvq_error err;
    while (mqtt_is_connected(d->mqtt) && mqtt_n_waiting(d->mqtt) < MQTT_MAX_WAITING) {
        kvq_status status = journal_next_answer(d->journal, d->requests.answer_sequence, &a, &err);
        if (status && status != KVQ_NOT_FOUND) log_error("%s", err.text);
        if (status) return;
        handed result = hand_over(d, &a);
        if (result == NEVER) requests_delivered(d, a.row, "it is larger than the broker's Maximum Packet Size allows");
        if (result != LATER) d->requests.answer_sequence = a.sequence;
        journal_answer_done(&a);
        if (result == LATER) return;
    }
}

void requests_delivered(kvqd *d, int64_t row, const char *refusal) {
    kvq_error err;
    if (*refusal) {
        log_error("an answer (row %lld of the journal) cannot be delivered: %s", (long long)row, refusal);
        d->telemetry.n_answers_dropped++;
    }
    if (journal_delivered(d->journal, row, &err)) log_error("%s", err.text);
}

/* ---- stopping -------------------------------------------------------------------------------------------- */

void requests_fail_all(kvqd *d, const failure *f) {
    for (request *r = d->requests.first, *next; r; r = next) {
        next = r->next;
        end_waiting(d, r, f);
    }
}

void requests_leave(kvqd *d, const failure *lost) {
    failure f;
    kvq_error err;
    (void)failure_set(&f, FAILURE_CANCELLED, "kvqd stopped");
    if (lost) f = *lost;
    for (request *r = d->requests.first, *next; r; r = next) {
        next = r->next;
        if (r->row) {
            if (r->is_submitted && !lost && journal_forgive(d->journal, r->row, &err)) log_error("%s", err.text);
            drop(&d->requests, r);
        } else {
            end_waiting(d, r, &f);
        }
    }
}
