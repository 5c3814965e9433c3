/* mqtt.c: one connection to the broker through Paho's MQTTAsync; the only file that includes it. See mqtt.h.
 *
 * Paho's object is made anew for every attempt to connect, so that nothing of an old connection (message ids, unsent
 * messages, callbacks) reaches into a new one; a second object, never connected, keeps the library's threads alive
 * meanwhile, because destroying the last object waits for them up to a second. Its own reconnecting is not used: it
 * would not subscribe again.
 *
 * Callbacks run on Paho's threads under its lock. They put an entry into the inbox, which the main loop takes in order;
 * an entry carries the attempt's number, and entries of former attempts are thrown away. The inbox lock is never held
 * while Paho is called, so that the two locks cannot cross. A prompt is stored (journal) inside messageArrived:
 * Paho 1.3.12 sends the PUBACK when that returns.
 *
 * Another client with our id would be thrown out by us and we by it, for ever. MQTT 5 has a reason code for that, but
 * mosquitto 2.0.11 just closes; so two connections in a row lost within seconds count as well. Then a probe under a
 * name of its own asks who is there (request/ping), and only if nobody answers do we come back. The retained `online`
 * on the status topic is no proof: it may be our own, left over by a broker that died before it sent our last will. */
#include "mqtt.h"

#include <MQTTAsync.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_PER_MS INT64_C(1000000)
#define MAX_IN_FLIGHT 8
#define MAX_BUFFERED 1000 /* publishes that Paho holds for a slow socket; more are dropped and counted */
#define MAX_INBOX 4096    /* messages; what is stored in the journal does not come here */
#define MAX_INBOX_BYTES (32u << 20)
#define FIRST_RETRY_MS 250 /* doubles up to the last */
#define LAST_RETRY_MS 15000
#define PROBE_MS 5000             /* a daemon answers between two steps of its engine */
#define FIRST_PROBE_PAUSE_MS 5000 /* doubles up to the last */
#define LAST_PROBE_PAUSE_MS 600000
#define SHORT_LIFE_MS 5000 /* a connection lost this soon counts towards a conflict */
#define MAX_SHORT_LIVES 2
#define CONNECT_TIMEOUT_S 30

typedef enum phase { WAITING, CONNECTING, CONNECTED, PROBE_CONNECTING, PROBING } phase;

typedef enum entry_kind {
    ENTRY_CONNECTED,
    ENTRY_FAILED,
    ENTRY_LOST,
    ENTRY_MESSAGE,
    ENTRY_ACK,
    ENTRY_SUBSCRIPTION_REFUSED
} entry_kind;

/* One thing that happened on Paho's side. */
typedef struct entry {
    struct entry *next;
    entry_kind kind;
    unsigned attempt;
    message *message;
    uint64_t publication; /* ENTRY_ACK: which */
    int code;
    int receive_maximum;
    uint32_t max_packet_bytes;
    char text[KVQ_ERROR_BYTES];
} entry;

/* A QoS 1 message on its way. */
typedef struct publication {
    struct publication *next;
    uint64_t number;
    int64_t cookie;
    int n_more;
    bool in_flight;
    mqtt_publication what; /* points behind this struct */
} publication;

/* What a callback gets: which object and which attempt. Freed after Paho's object is destroyed. */
typedef struct attempt {
    mqtt *owner;
    unsigned number;
    bool is_probe;
} attempt;

struct mqtt {
    mqtt_options options; /* strings owned */
    MQTTAsync anchor, client;
    attempt *attempt;
    unsigned n_attempts;

    /* the main loop's */
    phase phase;
    int version;     /* of the attempt that is or was */
    bool refuses_v5; /* so the broker said to this attempt: the next one asks for 3.1.1 */
    bool ever_connected;
    int64_t retry_at_ns, retry_ms, probe_pause_ms, connected_at_ns;
    int n_short_lives;
    bool conflict, somebody_answers;
    int max_in_flight, n_in_flight;
    uint32_t max_packet_bytes; /* of the broker; 0: no limit known */
    publication *first, *last;
    size_t n_waiting;
    uint64_t n_publications;

    pthread_mutex_t inbox_mutex; /* the fields below; shared with Paho's threads */
    entry *inbox_first, *inbox_last;
    size_t n_inbox_messages, n_inbox_bytes;
    mqtt_stats stats;
};

/* ---- inbox: Paho's threads put, the main loop takes ------------------------------------------------------ */

static void lock(mqtt *m) {
    (void)pthread_mutex_lock(&m->inbox_mutex); /* fails only for a mutex that is not one */
}

static void unlock(mqtt *m) {
    (void)pthread_mutex_unlock(&m->inbox_mutex);
}

static void wake(mqtt *m) {
    uint64_t one = 1;
    ssize_t n = write(m->options.wake_fd, &one, sizeof one);
    (void)n; /* an eventfd that cannot take one more is awake already */
}

/* What a message takes in the inbox: each of these a client can make long. */
static size_t inbox_bytes(const message *m) {
    return sizeof *m + m->n_bytes + strlen(m->topic) + strlen(m->response_topic) + strlen(m->content_type) +
           m->n_correlation_bytes;
}

static bool has_room(const mqtt *m, const entry *e) {
    if (e->kind != ENTRY_MESSAGE) return true; /* as many as we sent, or one per attempt */
    return m->n_inbox_messages < MAX_INBOX && inbox_bytes(e->message) <= MAX_INBOX_BYTES - m->n_inbox_bytes;
}

static void count_inbox(mqtt *m, const entry *e, bool add) {
    if (e->kind != ENTRY_MESSAGE) return;
    m->n_inbox_messages += add ? 1 : (size_t)-1;
    m->n_inbox_bytes += add ? inbox_bytes(e->message) : -inbox_bytes(e->message);
}

static void entry_free(entry *e) {
    if (!e) return;
    message_free(e->message);
    free(e);
}

/* Takes e; NULL (no memory) counts as dropped. */
static void put(mqtt *m, entry *e) {
    lock(m);
    if (e && has_room(m, e)) {
        count_inbox(m, e, true);
        if (m->inbox_last)
            m->inbox_last->next = e;
        else
            m->inbox_first = e;
        m->inbox_last = e;
        e = NULL;
    } else {
        m->stats.n_dropped_in++;
    }
    unlock(m);
    entry_free(e);
    wake(m);
}

static entry *entry_new(const attempt *a, entry_kind kind) {
    entry *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->kind = kind;
    e->attempt = a->number;
    return e;
}

static entry *take(mqtt *m) {
    lock(m);
    entry *e = m->inbox_first;
    if (e) {
        m->inbox_first = e->next;
        if (!e->next) m->inbox_last = NULL;
        count_inbox(m, e, false);
    }
    unlock(m);
    return e;
}

/* ---- Paho's callbacks ------------------------------------------------------------------------------------ */

static void set_text(entry *e, const char *text, int code) {
    if (!text || !*text) text = "no reason given";
    if (code)
        snprintf(e->text, sizeof e->text, "%s (%d)", text, code);
    else
        snprintf(e->text, sizeof e->text, "%s", text);
}

static int64_t number_property(MQTTProperties *properties, enum MQTTPropertyCodes code, int64_t otherwise) {
    if (!MQTTProperties_hasProperty(properties, code)) return otherwise;
    return (uint32_t)MQTTProperties_getNumericValue(properties, code);
}

static void on_connect5(void *context, MQTTAsync_successData5 *data) {
    attempt *a = context;
    entry *e = entry_new(a, ENTRY_CONNECTED);
    if (e) {
        e->receive_maximum = (int)number_property(&data->properties, MQTTPROPERTY_CODE_RECEIVE_MAXIMUM, 65535);
        e->max_packet_bytes = (uint32_t)number_property(&data->properties, MQTTPROPERTY_CODE_MAXIMUM_PACKET_SIZE, 0);
    }
    put(a->owner, e);
}

static void on_connect3(void *context, MQTTAsync_successData *data) {
    attempt *a = context;
    entry *e = entry_new(a, ENTRY_CONNECTED);
    (void)data; /* a CONNACK of 3.1.1 sets no limits */
    if (e) e->receive_maximum = 65535;
    put(a->owner, e);
}

static void connect_failed(attempt *a, int code, const char *text) {
    entry *e = entry_new(a, ENTRY_FAILED);
    if (e) {
        e->code = code;
        set_text(e, text, code);
    }
    put(a->owner, e);
}

static int failure_of(const MQTTAsync_failureData5 *data) {
    return data->reasonCode ? (int)data->reasonCode : data->code;
}

/* Paho's own text is "CONNACK return code", whatever the broker's reason is. */
static void on_connect_failure5(void *context, MQTTAsync_failureData5 *data) {
    int code = failure_of(data);
    bool is_reason = code >= MQTTREASONCODE_UNSPECIFIED_ERROR;
    connect_failed(context, code, is_reason ? MQTTReasonCode_toString((enum MQTTReasonCodes)code) : data->message);
}

static void on_connect_failure3(void *context, MQTTAsync_failureData *data) {
    static const char *const reasons[] = {
        /* MQTT 3.1.1, table 3.1 */
        NULL,
        "the broker does not speak MQTT 3.1.1",
        "the broker does not allow this client identifier",
        "the broker is not available",
        "the user name or password is wrong",
        "not authorized",
    };
    bool is_reason = data->code > 0 && data->code < (int)(sizeof reasons / sizeof *reasons);
    connect_failed(context, data->code, is_reason ? reasons[data->code] : data->message);
}

static void connection_lost(attempt *a, int code, const char *text) {
    entry *e = entry_new(a, ENTRY_LOST);
    if (e) {
        e->code = code;
        set_text(e, text, code);
    }
    put(a->owner, e);
}

static void on_lost(void *context, char *cause) {
    connection_lost(context, 0, cause ? cause : "the connection broke");
}

/* After a DISCONNECT packet Paho 1.3.12 does not call on_lost. */
static void on_disconnect_packet(void *context, MQTTProperties *properties, enum MQTTReasonCodes code) {
    (void)properties;
    connection_lost(context, (int)code, MQTTReasonCode_toString(code));
}

/* A string or bytes of a property, borrowed from Paho's message, not terminated. */
static MQTTLenString property(const MQTTAsync_message *pm, enum MQTTPropertyCodes code) {
    MQTTProperty *p = MQTTProperties_getProperty((MQTTProperties *)&pm->properties, code);
    return p ? p->value.data : (MQTTLenString){0};
}

static char *terminated(MQTTLenString s) {
    size_t n_bytes = s.data && s.len > 0 ? (size_t)s.len : 0;
    char *copy = malloc(n_bytes + 1);
    if (!copy) return NULL;
    if (n_bytes) memcpy(copy, s.data, n_bytes);
    copy[n_bytes] = '\0';
    return copy;
}

/* Paho gives topics with zero bytes in them a length; no topic of ours has one, so such a message is nobody's. */
static bool read_message(const char *topic, int topic_bytes, const MQTTAsync_message *pm, message *ret,
                         char **ret_texts) {
    if (topic_bytes != 0 && (size_t)topic_bytes != strlen(topic)) return false;
    MQTTLenString correlation = property(pm, MQTTPROPERTY_CODE_CORRELATION_DATA);
    ret_texts[0] = terminated(property(pm, MQTTPROPERTY_CODE_RESPONSE_TOPIC));
    ret_texts[1] = terminated(property(pm, MQTTPROPERTY_CODE_CONTENT_TYPE));
    *ret = (message){
        .topic = topic,
        .payload = pm->payload,
        .n_bytes = (size_t)pm->payloadlen,
        .qos = pm->qos,
        .packet_id = pm->msgid,
        .retained = pm->retained,
        .duplicate = pm->dup,
        .received_ms = clock_wall_ms(),
        .clock_synced = clock_is_synced(),
        .response_topic = ret_texts[0],
        .content_type = ret_texts[1],
        .correlation = correlation.data,
        .n_correlation_bytes = (size_t)correlation.len,
        .expiry_s = number_property((MQTTProperties *)&pm->properties, MQTTPROPERTY_CODE_MESSAGE_EXPIRY_INTERVAL, -1),
    };
    return ret_texts[0] && ret_texts[1];
}

static void take_message(attempt *a, const message *m) {
    mqtt *owner = a->owner;
    lock(owner);
    owner->stats.n_received++;
    unlock(owner);
    if (!a->is_probe && owner->options.store && owner->options.store(owner->options.user, m)) {
        wake(owner);
        return;
    }
    entry *e = entry_new(a, ENTRY_MESSAGE);
    if (e && !(e->message = message_copy(m))) {
        free(e);
        e = NULL;
    }
    put(owner, e);
}

/* Always 1: with 0 Paho would keep the message and call again, without bound. Its memory is given back with its own
 * functions, because it tracks its heap. */
static int on_message(void *context, char *topic, int topic_bytes, MQTTAsync_message *pm) {
    message m;
    char *texts[2] = {NULL, NULL};
    if (read_message(topic, topic_bytes, pm, &m, texts)) take_message(context, &m);
    free(texts[0]);
    free(texts[1]);
    MQTTAsync_freeMessage(&pm);
    MQTTAsync_free(topic);
    return 1;
}

/* Contexts of publishes and subscriptions are the attempt; the token tells which. */
static void acknowledged(attempt *a, int token, int code) {
    entry *e = entry_new(a, ENTRY_ACK);
    if (e) {
        e->publication = (uint64_t)token;
        e->code = code;
        if (code) set_text(e, MQTTReasonCode_toString((enum MQTTReasonCodes)code), code);
    }
    put(a->owner, e);
}

static void on_puback5(void *context, MQTTAsync_successData5 *data) {
    acknowledged(context, data->token, 0);
}

/* Without a reason code of the broker's nobody refused it: Paho gives up what is in flight when a connection without a
 * session breaks, before it tells of the break. */
static void on_puback_failure5(void *context, MQTTAsync_failureData5 *data) {
    if (data->reasonCode) acknowledged(context, data->token, (int)data->reasonCode);
}

static void on_puback3(void *context, MQTTAsync_successData *data) {
    acknowledged(context, data->token, 0);
}

static void subscription_refused(attempt *a, int code) {
    entry *e = entry_new(a, ENTRY_SUBSCRIPTION_REFUSED);
    if (e) snprintf(e->text, sizeof e->text, "the broker refused a subscription (%d)", code);
    put(a->owner, e);
}

static void on_suback_failure5(void *context, MQTTAsync_failureData5 *data) {
    subscription_refused(context, failure_of(data));
}

static void on_suback_failure3(void *context, MQTTAsync_failureData *data) {
    subscription_refused(context, data->code);
}

/* ---- open and close -------------------------------------------------------------------------------------- */

static bool copy_text(const char **text) {
    if (!*text || !**text) {
        *text = NULL;
        return true;
    }
    *text = strdup(*text);
    return *text != NULL;
}

static bool copy_options(mqtt_options *o) {
    bool ok = true;
    const char **texts[] = {&o->uri,       &o->client_id,    &o->username,   &o->ca_file,
                            &o->cert_file, &o->status_topic, &o->ping_topic, &o->pong_topic};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) ok = copy_text(texts[i]) && ok;
    return ok;
}

static void free_options(mqtt_options *o) {
    const char **texts[] = {&o->uri,       &o->client_id,    &o->username,   &o->ca_file,
                            &o->cert_file, &o->status_topic, &o->ping_topic, &o->pong_topic};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) free((char *)*texts[i]);
}

static int create(mqtt *m, const char *client_id, int version, MQTTAsync *ret) {
    MQTTAsync_createOptions o = MQTTAsync_createOptions_initializer5;
    o.MQTTVersion = version;
    o.sendWhileDisconnected = 0;
    o.maxBufferedMessages = MAX_BUFFERED;
    o.deleteOldestMessages = 0; /* would drop without telling */
    o.persistQoS0 = 0;
    return MQTTAsync_createWithOptions(ret, m->options.uri, client_id, MQTTCLIENT_PERSISTENCE_NONE, NULL, &o);
}

kvq_status mqtt_open(const mqtt_options *options, mqtt **ret, kvq_error *err) {
    mqtt *m = calloc(1, sizeof *m);
    if (!m) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for a connection to '%s'", options->uri);
    m->options = *options;
    m->retry_ms = FIRST_RETRY_MS;
    m->probe_pause_ms = FIRST_PROBE_PAUSE_MS;
    (void)pthread_mutex_init(&m->inbox_mutex, NULL); /* a default mutex needs no resource */
    if (!copy_options(&m->options)) {
        mqtt_close(m);
        return kvq_fail(err, KVQ_NO_MEMORY, "no memory for a connection to '%s'", options->uri);
    }
    MQTTAsync_init_options init = MQTTAsync_init_options_initializer;
    init.do_openssl_init = 1;
    MQTTAsync_global_init(&init);
    int rc = create(m, "kvqd-anchor", MQTTVERSION_5, &m->anchor);
    if (rc != MQTTASYNC_SUCCESS) {
        m->anchor = NULL;
        mqtt_close(m);
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "cannot use the broker address '%s': %s", options->uri,
                        MQTTAsync_strerror(rc));
    }
    *ret = m;
    return KVQ_OK;
}

static void forget_publications(mqtt *m) {
    for (publication *p = m->first, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    m->first = m->last = NULL;
    m->n_waiting = 0;
    m->n_in_flight = 0;
}

static void destroy_client(mqtt *m) {
    if (m->client) MQTTAsync_destroy(&m->client); /* no callback comes after this */
    m->client = NULL;
    free(m->attempt);
    m->attempt = NULL;
    forget_publications(m);
}

void mqtt_close(mqtt *m) {
    if (!m) return;
    destroy_client(m);
    if (m->anchor) MQTTAsync_destroy(&m->anchor);
    for (entry *e; (e = take(m));) entry_free(e);
    free_options(&m->options);
    (void)pthread_mutex_destroy(&m->inbox_mutex);
    free(m);
}

/* ---- connecting ------------------------------------------------------------------------------------------ */

static void add_number(MQTTProperties *properties, enum MQTTPropertyCodes code, uint32_t n) {
    MQTTProperty p = {.identifier = code};
    p.value.integer4 = n;
    (void)MQTTProperties_add(properties, &p); /* no memory: the property is missing, which every one of ours may be */
}

static void add_bytes(MQTTProperties *properties, enum MQTTPropertyCodes code, const void *bytes, size_t n_bytes) {
    MQTTProperty p = {.identifier = code};
    p.value.data = (MQTTLenString){.data = (char *)bytes, .len = (int)n_bytes};
    (void)MQTTProperties_add(properties, &p); /* as above */
}

static void set_callbacks(mqtt *m, MQTTAsync_connectOptions *o, bool is_v5) {
    o->context = m->attempt;
    if (is_v5) {
        o->onSuccess5 = on_connect5;
        o->onFailure5 = on_connect_failure5;
    } else {
        o->onSuccess = on_connect3;
        o->onFailure = on_connect_failure3;
    }
    (void)MQTTAsync_setCallbacks(m->client, m->attempt, on_lost, on_message, NULL); /* fails after connect only */
    (void)MQTTAsync_setDisconnected(m->client, m->attempt, on_disconnect_packet);
}

static bool is_encrypted(const char *uri) {
    return strncmp(uri, "mqtts:", 6) == 0 || strncmp(uri, "wss:", 4) == 0 || strncmp(uri, "ssl:", 4) == 0;
}

static bool is_websocket(const char *uri) {
    return strncmp(uri, "ws:", 3) == 0 || strncmp(uri, "wss:", 4) == 0;
}

static int connect_with(mqtt *m, const mqtt_secrets *secrets, bool is_probe) {
    const mqtt_options *opt = &m->options;
    bool is_v5 = m->version == MQTTVERSION_5, clean = is_probe || opt->session_expiry_s == 0;
    MQTTAsync_connectOptions v5 = MQTTAsync_connectOptions_initializer5, v3 = MQTTAsync_connectOptions_initializer;
    MQTTAsync_connectOptions v5_ws = MQTTAsync_connectOptions_initializer5_ws,
                             v3_ws = MQTTAsync_connectOptions_initializer_ws;
    MQTTAsync_connectOptions o = is_websocket(opt->uri) ? (is_v5 ? v5_ws : v3_ws) : (is_v5 ? v5 : v3);
    MQTTAsync_willOptions will = MQTTAsync_willOptions_initializer;
    MQTTAsync_SSLOptions ssl = MQTTAsync_SSLOptions_initializer;
    MQTTProperties properties = MQTTProperties_initializer;

    o.MQTTVersion = m->version;
    o.keepAliveInterval = opt->keepalive_s;
    o.connectTimeout = CONNECT_TIMEOUT_S;
    o.username = opt->username;
    o.password = secrets->password;
    o.maxInflight = 2 * MAX_IN_FLIGHT;
    if (is_v5) {
        o.cleanstart = clean;
        if (!clean) add_number(&properties, MQTTPROPERTY_CODE_SESSION_EXPIRY_INTERVAL, (uint32_t)opt->session_expiry_s);
        if (opt->max_message_bytes)
            add_number(&properties, MQTTPROPERTY_CODE_MAXIMUM_PACKET_SIZE, (uint32_t)opt->max_message_bytes);
        o.connectProperties = &properties;
    } else {
        o.cleansession = clean;
    }
    if (opt->status_topic && !is_probe) {
        will.topicName = opt->status_topic;
        will.message = "offline";
        will.retained = 1;
        will.qos = 1;
        o.will = &will;
    }
    if (is_encrypted(opt->uri)) {
        ssl.trustStore = opt->ca_file;
        ssl.keyStore = opt->cert_file;
        ssl.privateKey = secrets->key_file;
        ssl.enableServerCertAuth = 1;
        ssl.verify = 1; /* the name in the certificate too */
        o.ssl = &ssl;
    }
    set_callbacks(m, &o, is_v5);
    int rc = MQTTAsync_connect(m->client, &o);
    MQTTProperties_free(&properties);
    return rc;
}

static uint32_t random_number(void) {
    uint32_t n = 0;
    ssize_t got = getrandom(&n, sizeof n, GRND_NONBLOCK);
    (void)got; /* only spreads retries; 0 will do */
    return n;
}

/* Up to a fifth more, so that a fleet does not come back in one instant. */
static int64_t with_jitter(int64_t ms) {
    return ms + ms * (random_number() % 200) / 1000;
}

static void wait_for(mqtt *m, int64_t now_ns, int64_t ms) {
    m->phase = WAITING;
    m->retry_at_ns = now_ns + with_jitter(ms) * NS_PER_MS;
}

static void retry_later(mqtt *m, int64_t now_ns) {
    wait_for(m, now_ns, m->retry_ms);
    m->retry_ms = 2 * m->retry_ms < LAST_RETRY_MS ? 2 * m->retry_ms : LAST_RETRY_MS;
}

/* Paho would only say "TCP/TLS connect failure". */
static kvq_status check_files(const mqtt_options *opt, const mqtt_secrets *secrets, kvq_error *err) {
    const struct {
        const char *key, *path;
    } files[] = {{"ca_file", opt->ca_file}, {"cert_file", opt->cert_file}, {"key_file", secrets->key_file}};
    for (size_t i = 0; i < sizeof files / sizeof *files && is_encrypted(opt->uri); i++)
        if (files[i].path && access(files[i].path, R_OK) != 0)
            return kvq_fail(err, KVQ_IO, "cannot read %s '%s': %m", files[i].key, files[i].path);
    return KVQ_OK;
}

/* What is wrong before anything is sent is told, and tried again, like what a broker refuses: files that cannot be
 * read, and what Paho does not take, such as a password that is not UTF-8. */
static void connect_now(mqtt *m, bool is_probe) {
    const mqtt_options *opt = &m->options;
    mqtt_secrets secrets = {0};
    kvq_error err;
    kvq_status status = opt->read_secrets ? opt->read_secrets(opt->owner, &secrets, &err) : KVQ_OK;
    if (!status) status = check_files(opt, &secrets, &err);
    if (status) {
        connect_failed(m->attempt, 0, err.text);
    } else {
        int rc = connect_with(m, &secrets, is_probe); /* Paho copies what it is given */
        if (rc != MQTTASYNC_SUCCESS) connect_failed(m->attempt, rc, MQTTAsync_strerror(rc));
    }
    if (secrets.password) explicit_bzero(secrets.password, strlen(secrets.password));
    free(secrets.password);
    free(secrets.key_file);
}

static bool start_attempt(mqtt *m, bool is_probe) {
    char probe_id[64];
    snprintf(probe_id, sizeof probe_id, "kvqd-probe-%08x", random_number());
    destroy_client(m);
    m->version = m->refuses_v5 ? MQTTVERSION_3_1_1 : MQTTVERSION_5; /* 5 again each time: brokers get upgraded */
    m->refuses_v5 = false;
    m->attempt = calloc(1, sizeof *m->attempt);
    if (!m->attempt) return false;
    *m->attempt = (attempt){.owner = m, .number = ++m->n_attempts, .is_probe = is_probe};
    const char *client_id = is_probe ? probe_id : m->options.client_id ? m->options.client_id : "";
    if (create(m, client_id, m->version, &m->client) != MQTTASYNC_SUCCESS) {
        m->client = NULL;
        return false;
    }
    m->phase = is_probe ? PROBE_CONNECTING : CONNECTING;
    m->somebody_answers = false;
    connect_now(m, is_probe);
    return true;
}

/* ---- what the inbox says, in the main loop --------------------------------------------------------------- */

/* Paho has no way to turn Nagle's algorithm off (1.3.12 to today) nor to its socket. Every TCP socket of this process
 * is Paho's, so turn it off on all: a delta must not wait for the broker's delayed acknowledgement. */
static void set_no_delay(void) {
    for (int fd = 3; fd < 1024; fd++) {
        int protocol = 0, on = 1;
        socklen_t n = sizeof protocol;
        if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &n) == 0 && protocol == IPPROTO_TCP)
            (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* it only costs latency */
    }
}

static bool send_now(mqtt *m, const mqtt_publication *p, int *ret_token);

/* The broker handles the two in order, so that the answer finds its subscriber. */
static void ask_who_is_there(mqtt *m) {
    mqtt_publication ping = {.topic = m->options.ping_topic, .payload = "{}", .n_bytes = 2, .qos = 1};
    int token;
    mqtt_subscribe(m, m->options.pong_topic, 0);
    (void)send_now(m, &ping, &token); /* not sent: the connection broke, and there will be another probe */
}

static bool now_connected(mqtt *m, const entry *e, mqtt_event *ret) {
    int64_t now_ns = clock_monotonic_ns();
    if (m->attempt->is_probe) {
        m->phase = PROBING;
        m->retry_at_ns = now_ns + PROBE_MS * NS_PER_MS;
        ask_who_is_there(m);
        return false;
    }
    set_no_delay();
    m->phase = CONNECTED;
    m->ever_connected = true;
    m->conflict = false;
    m->connected_at_ns = now_ns;
    m->max_packet_bytes = e->max_packet_bytes;
    int half = e->receive_maximum / 2;
    m->max_in_flight = half < 1 ? 1 : half < MAX_IN_FLIGHT ? half : MAX_IN_FLIGHT;
    lock(m);
    m->stats.n_connects++;
    unlock(m);
    ret->kind = MQTT_CONNECTED;
    return true;
}

/* A broker that knows only 3.1.1 answers a CONNECT of version 5 with return code 1; one that knows 5 and refuses it
 * with 0x84. */
static bool is_version_refused(int code) {
    return code == 1 || code == MQTTREASONCODE_UNSUPPORTED_PROTOCOL_VERSION;
}

static bool now_failed(mqtt *m, const entry *e, mqtt_event *ret) {
    int64_t now_ns = clock_monotonic_ns();
    m->refuses_v5 = is_version_refused(e->code) && m->version == MQTTVERSION_5;
    if (m->refuses_v5) {
        wait_for(m, now_ns, 0);
        return false;
    }
    retry_later(m, now_ns);
    ret->kind = MQTT_REFUSED;
    snprintf(ret->text, sizeof ret->text, "%s", e->text);
    return true;
}

static bool now_lost(mqtt *m, const entry *e, mqtt_event *ret) {
    int64_t now_ns = clock_monotonic_ns();
    bool was_probe = m->attempt->is_probe;
    if (m->phase != CONNECTED && m->phase != PROBING) return false;
    forget_publications(m);
    if (was_probe) {
        wait_for(m, now_ns, FIRST_RETRY_MS);
        return false;
    }
    bool short_life = now_ns - m->connected_at_ns < SHORT_LIFE_MS * NS_PER_MS;
    m->n_short_lives = short_life ? m->n_short_lives + 1 : 0;
    if (!short_life) m->retry_ms = FIRST_RETRY_MS;
    bool taken_over = e->code == MQTTREASONCODE_SESSION_TAKEN_OVER;
    m->conflict = m->options.ping_topic && (taken_over || m->n_short_lives >= MAX_SHORT_LIVES);
    if (m->conflict)
        wait_for(m, now_ns, FIRST_RETRY_MS); /* with a probe */
    else
        retry_later(m, now_ns);
    ret->kind = m->conflict ? MQTT_CONFLICT : MQTT_LOST;
    snprintf(ret->text, sizeof ret->text, "%s", e->text);
    return true;
}

static bool now_message(mqtt *m, entry *e, mqtt_event *ret) {
    if (m->attempt->is_probe) {
        if (!e->message->retained) m->somebody_answers = true;
        return false;
    }
    ret->kind = MQTT_MESSAGE;
    ret->message = e->message;
    e->message = NULL;
    return true;
}

static publication *unlink_publication(mqtt *m, uint64_t number) {
    publication *before = NULL;
    for (publication *p = m->first; p; before = p, p = p->next) {
        if (!p->in_flight || p->number != number) continue;
        if (before)
            before->next = p->next;
        else
            m->first = p->next;
        if (m->last == p) m->last = before;
        m->n_waiting--;
        m->n_in_flight--;
        return p;
    }
    return NULL;
}

static bool has_more(const mqtt *m, int64_t cookie) {
    for (const publication *p = m->first; p; p = p->next)
        if (p->cookie == cookie) return true;
    return false;
}

static bool now_acknowledged(mqtt *m, const entry *e, mqtt_event *ret) {
    publication *p = unlink_publication(m, e->publication);
    if (!p) return false;
    int64_t cookie = p->cookie;
    bool last = cookie != 0 && p->n_more == 0 && !has_more(m, cookie);
    free(p);
    if (!last && !(e->code && cookie)) return false;
    ret->kind = MQTT_DELIVERED;
    ret->cookie = cookie;
    snprintf(ret->text, sizeof ret->text, "%s", e->text);
    return true;
}

static bool now_refused(const entry *e, mqtt_event *ret) {
    ret->kind = MQTT_SUBSCRIPTION_REFUSED;
    snprintf(ret->text, sizeof ret->text, "%s", e->text);
    return true;
}

/* True if the caller is to hear of it. */
static bool apply(mqtt *m, entry *e, mqtt_event *ret) {
    if (!m->attempt || e->attempt != m->attempt->number) return false;
    switch (e->kind) {
    case ENTRY_CONNECTED:
        return now_connected(m, e, ret);
    case ENTRY_FAILED:
        return now_failed(m, e, ret);
    case ENTRY_LOST:
        return now_lost(m, e, ret);
    case ENTRY_MESSAGE:
        return now_message(m, e, ret);
    case ENTRY_ACK:
        return now_acknowledged(m, e, ret);
    case ENTRY_SUBSCRIPTION_REFUSED:
        return now_refused(e, ret);
    }
    return false;
}

bool mqtt_take(mqtt *m, mqtt_event *ret) {
    for (entry *e; (e = take(m));) {
        *ret = (mqtt_event){0};
        bool told = apply(m, e, ret);
        entry_free(e);
        if (told) return true;
    }
    return false;
}

void mqtt_event_done(mqtt_event *e) {
    message_free(e->message);
    e->message = NULL;
}

/* ---- upkeep ---------------------------------------------------------------------------------------------- */

static bool send_now(mqtt *m, const mqtt_publication *p, int *ret_token) {
    bool is_v5 = m->version == MQTTVERSION_5;
    MQTTAsync_message pm = MQTTAsync_message_initializer;
    MQTTAsync_responseOptions response =
        MQTTAsync_responseOptions_initializer; /* never NULL: the properties would be lost */
    pm.payload = (void *)p->payload;
    pm.payloadlen = (int)p->n_bytes;
    pm.qos = p->qos;
    pm.retained = p->retained;
    response.context = m->attempt;
    if (is_v5) {
        const char *type = p->is_text ? "text/plain" : "application/json";
        MQTTProperty utf8 = {.identifier = MQTTPROPERTY_CODE_PAYLOAD_FORMAT_INDICATOR};
        utf8.value.byte = 1;
        (void)MQTTProperties_add(&pm.properties, &utf8); /* no memory: the property is missing, which it may be */
        add_bytes(&pm.properties, MQTTPROPERTY_CODE_CONTENT_TYPE, type, strlen(type));
        if (p->n_correlation_bytes)
            add_bytes(&pm.properties, MQTTPROPERTY_CODE_CORRELATION_DATA, p->correlation, p->n_correlation_bytes);
        if (p->expiry_s > 0)
            add_number(&pm.properties, MQTTPROPERTY_CODE_MESSAGE_EXPIRY_INTERVAL, (uint32_t)p->expiry_s);
        if (p->qos) response.onSuccess5 = on_puback5;
        if (p->qos) response.onFailure5 = on_puback_failure5;
    } else if (p->qos) {
        response.onSuccess = on_puback3; /* a PUBACK of 3.1.1 cannot refuse */
    }
    int rc = MQTTAsync_sendMessage(m->client, p->topic, &pm, &response);
    MQTTProperties_free(&pm.properties);
    lock(m);
    if (rc == MQTTASYNC_SUCCESS)
        m->stats.n_published++;
    else
        m->stats.n_dropped_out++;
    unlock(m);
    *ret_token = response.token;
    return rc == MQTTASYNC_SUCCESS;
}

/* Sends in order while few enough are in flight. One that Paho does not take now is tried again with the next call. */
static void pump(mqtt *m) {
    for (publication *p = m->first; p && m->phase == CONNECTED && m->n_in_flight < m->max_in_flight; p = p->next) {
        int token;
        if (p->in_flight) continue;
        if (!send_now(m, &p->what, &token)) return;
        p->number = (uint64_t)token;
        p->in_flight = true;
        m->n_in_flight++;
    }
}

static void end_probe(mqtt *m, int64_t now_ns) {
    bool somebody = m->somebody_answers;
    destroy_client(m);
    if (somebody) {
        wait_for(m, now_ns, m->probe_pause_ms);
        m->probe_pause_ms = 2 * m->probe_pause_ms < LAST_PROBE_PAUSE_MS ? 2 * m->probe_pause_ms : LAST_PROBE_PAUSE_MS;
        return;
    }
    m->conflict = false;
    m->n_short_lives = 0;
    m->probe_pause_ms = FIRST_PROBE_PAUSE_MS;
    wait_for(m, now_ns, 0);
}

int64_t mqtt_run(mqtt *m, int64_t now_ns) {
    if (m->phase == PROBING && (m->somebody_answers || now_ns >= m->retry_at_ns)) end_probe(m, now_ns);
    if (m->phase == WAITING && now_ns >= m->retry_at_ns && !start_attempt(m, m->conflict)) retry_later(m, now_ns);
    pump(m);
    return m->phase == WAITING || m->phase == PROBING ? m->retry_at_ns : INT64_MAX;
}

bool mqtt_is_connected(const mqtt *m) {
    return m->phase == CONNECTED;
}

int mqtt_version(const mqtt *m) {
    return m->ever_connected ? (m->version == MQTTVERSION_5 ? 5 : 4) : 0;
}

/* Fixed header 5, topic length 2, packet id 2, property length 4, format 2, content type 3 + 16, correlation 3,
 * expiry 5. */
size_t mqtt_max_payload_bytes(const mqtt *m, const char *topic, size_t n_correlation_bytes) {
    if (m->max_packet_bytes == 0) return SIZE_MAX;
    size_t overhead = 48 + strlen(topic) + n_correlation_bytes;
    return m->max_packet_bytes > overhead ? m->max_packet_bytes - overhead : 0;
}

void mqtt_unsubscribe(mqtt *m, const char *filter) {
    (void)MQTTAsync_unsubscribe(m->client, filter,
                                NULL); /* fails with the connection, and then nothing is left of it */
}

void mqtt_subscribe(mqtt *m, const char *filter, int qos) {
    MQTTAsync_responseOptions response = MQTTAsync_responseOptions_initializer;
    response.context = m->attempt;
    if (m->version == MQTTVERSION_5)
        response.onFailure5 = on_suback_failure5;
    else
        response.onFailure = on_suback_failure3;
    if (MQTTAsync_subscribe(m->client, filter, qos, &response) != MQTTASYNC_SUCCESS)
        subscription_refused(m->attempt, -1);
}

/* ---- publishing ------------------------------------------------------------------------------------------ */

static void *put_bytes(char **at, const void *bytes, size_t n_bytes) {
    void *start = *at;
    if (n_bytes) memcpy(start, bytes, n_bytes);
    *at += n_bytes;
    return start;
}

static bool append(mqtt *m, const mqtt_publication *p) {
    size_t n_topic = strlen(p->topic) + 1;
    publication *copy = malloc(sizeof *copy + n_topic + p->n_bytes + p->n_correlation_bytes);
    if (!copy) return false;
    char *at = (char *)(copy + 1);
    *copy = (publication){.cookie = p->cookie, .n_more = p->n_more, .what = *p};
    copy->what.topic = put_bytes(&at, p->topic, n_topic);
    copy->what.payload = put_bytes(&at, p->payload, p->n_bytes);
    copy->what.correlation = put_bytes(&at, p->correlation, p->n_correlation_bytes);
    if (m->last)
        m->last->next = copy;
    else
        m->first = copy;
    m->last = copy;
    m->n_waiting++;
    return true;
}

bool mqtt_publish(mqtt *m, const mqtt_publication *p) {
    int token;
    if (m->phase != CONNECTED) return false;
    if (p->n_bytes > mqtt_max_payload_bytes(m, p->topic, p->n_correlation_bytes))
        return false; /* the broker would hang up */
    if (p->qos == 0) return send_now(m, p, &token);
    if (m->n_waiting >= MQTT_MAX_WAITING || !append(m, p)) return false;
    pump(m);
    return true;
}

size_t mqtt_n_waiting(const mqtt *m) {
    return m->n_waiting;
}

void mqtt_get_stats(mqtt *m, mqtt_stats *ret) {
    lock(m);
    *ret = m->stats;
    unlock(m);
}
