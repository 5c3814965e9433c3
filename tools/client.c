/* client.c: a client of a running kvqd. See client.h. MQTT 5 is tried first, because there a broker says that it
 * refuses a message (an access list) or that nobody listens; in 3.1.1 it acknowledges and drops it. */
#include "client.h"

#include <MQTTClient.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "progress.h"

#define CONNECT_TIMEOUT_S 10
#define PUBLISH_TIMEOUT_MS 10000
#define FIND_MS 700 /* retained status messages come with the acknowledgement of the subscription */
#define MAX_NODES 64

struct client {
    MQTTClient handle;
    char *prefix; /* "kvqd/node/" */
    char node[128];
    char user[CLIENT_USER_BYTES + 1]; /* "" where there is none that can be a CLIENT */
    bool is_connected;
    int acked_token, acked_reason; /* of the latest PUBACK of MQTT 5 */
};

const char *client_node(const client *c) {
    return c->node;
}

/* ---- names
 * ----------------------------------------------------------------------------------------------------------- */

void client_make_id(char ret[CLIENT_ID_BYTES]) {
    uint64_t n = 0;
    if (getrandom(&n, sizeof n, 0) != (ssize_t)sizeof n) n = (uint64_t)time(NULL); /* only before boot has entropy */
    snprintf(ret, CLIENT_ID_BYTES, "ctl-%016llx", (unsigned long long)n);
}

void client_make_name(const client *c, char ret[CLIENT_NAME_BYTES]) {
    char id[CLIENT_ID_BYTES];
    client_make_id(id);
    snprintf(ret, CLIENT_NAME_BYTES, "%s%s%s", c->user, *c->user ? "/" : "", id);
}

/* What kvqd takes for a level of a request's name (docs/mqtt.md). */
static bool can_be_client(const char *user) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    size_t n = strspn(user, allowed);
    return n > 0 && n <= CLIENT_USER_BYTES && user[n] == '\0' && strcmp(user, "delta") != 0;
}

/* ---- connecting
 * ------------------------------------------------------------------------------------------------------ */

static kvq_status read_password(const char *path, char *ret, size_t n_bytes, kvq_error *err) {
    FILE *f = fopen(path, "re");
    if (!f) return kvq_fail(err, KVQ_IO, "Cannot open the password file '%s': %m.", path);
    bool got = fgets(ret, (int)n_bytes, f) != NULL;
    (void)fclose(f); /* only read */
    if (!got) return kvq_fail(err, KVQ_IO, "The password file '%s' is empty.", path);
    ret[strcspn(ret, "\r\n")] = '\0';
    return KVQ_OK;
}

static bool starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

/* Paho takes anything for a host name. */
static bool is_broker_address(const char *text) {
    static const char *const starts[] = {"mqtt://", "mqtts://", "ws://", "wss://"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (starts_with(text, starts[i])) return text[strlen(starts[i])] != '\0';
    return false;
}

/* Called by Paho while we wait for it, before the message counts as delivered. */
static void on_acked(void *context, int token, int packet_type, MQTTProperties *properties,
                     enum MQTTReasonCodes reason) {
    client *c = context;
    (void)packet_type;
    (void)properties;
    c->acked_token = token;
    c->acked_reason = reason;
}

/* One attempt with one version of MQTT: a handle is made for one. *ret_code is Paho's or the broker's. */
static kvq_status connect_by(client *c, const client_options *o, const char *password, bool is_v5, int *ret_code,
                             kvq_error *err) {
    static const MQTTClient_connectOptions forms[2][2] = {
        {MQTTClient_connectOptions_initializer, MQTTClient_connectOptions_initializer_ws},
        {MQTTClient_connectOptions_initializer5, MQTTClient_connectOptions_initializer5_ws}};
    MQTTClient_createOptions create = MQTTClient_createOptions_initializer;
    MQTTClient_connectOptions options = forms[is_v5][starts_with(o->broker, "ws")];
    MQTTClient_SSLOptions ssl = MQTTClient_SSLOptions_initializer;
    char id[CLIENT_ID_BYTES];
    client_make_id(id);
    create.MQTTVersion = options.MQTTVersion = is_v5 ? MQTTVERSION_5 : MQTTVERSION_3_1_1;
    if (c->handle) MQTTClient_destroy(&c->handle);
    if (MQTTClient_createWithOptions(&c->handle, o->broker, id, MQTTCLIENT_PERSISTENCE_NONE, NULL, &create)) {
        c->handle = NULL;
        return kvq_fail(err, KVQ_NO_MEMORY, "No memory for a connection to '%s'.", o->broker);
    }
    (void)MQTTClient_setPublished(c->handle, c, on_acked); /* fails only when connected */
    options.connectTimeout = CONNECT_TIMEOUT_S;
    options.username = o->username;
    options.password = password;
    if (starts_with(o->broker, "mqtts:") || starts_with(o->broker, "wss:")) {
        ssl.trustStore = o->ca_file;
        ssl.verify = 1;
        options.ssl = &ssl;
    }
    if (is_v5) {
        MQTTResponse response = MQTTClient_connect5(c->handle, &options, NULL, NULL);
        *ret_code = response.reasonCode;
        MQTTResponse_free(response);
    } else {
        *ret_code = MQTTClient_connect(c->handle, &options);
    }
    c->is_connected = *ret_code == MQTTCLIENT_SUCCESS;
    return KVQ_OK;
}

static const char *why_refused(int code) {
    static const struct {
        int code;
        const char *text;
    } reasons[] = {{4, "the user name or password is wrong"},
                   {MQTTREASONCODE_BAD_USER_NAME_OR_PASSWORD, "the user name or password is wrong"},
                   {5, "it refuses this user"},
                   {MQTTREASONCODE_NOT_AUTHORIZED, "it refuses this user"}};
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (reasons[i].code == code) return reasons[i].text;
    return NULL;
}

/* A broker of before MQTT 5 refuses the version, or just closes the connection. One that nobody hears of has taken the
 * whole time. */
static bool may_be_old(int code, int64_t waited_ns) {
    if (code < 0) return waited_ns < CONNECT_TIMEOUT_S * INT64_C(1000000000);
    return code == 1 || code == MQTTREASONCODE_UNSUPPORTED_PROTOCOL_VERSION;
}

static kvq_status connect_to(client *c, const client_options *o, kvq_error *err) {
    char secret[512] = "";
    int code = 0;
    kvq_status status = o->password_file ? read_password(o->password_file, secret, sizeof secret, err) : KVQ_OK;
    const char *password = *secret ? secret : NULL;
    int64_t begin_ns = progress_now_ns();
    if (!status) status = connect_by(c, o, password, true, &code, err);
    if (!status && !c->is_connected && may_be_old(code, progress_now_ns() - begin_ns))
        status = connect_by(c, o, password, false, &code, err);
    explicit_bzero(secret, sizeof secret);
    if (status || c->is_connected) return status;
    const char *why = why_refused(code);
    if (!why && code >= MQTTREASONCODE_UNSPECIFIED_ERROR) why = MQTTReasonCode_toString((enum MQTTReasonCodes)code);
    return kvq_fail(err, KVQ_IO, "Cannot connect to '%s': %s (%d).", o->broker,
                    why ? why : "nobody answers, or not as a broker", code);
}

static kvq_status subscribe(client *c, const char *filter, kvq_error *err) {
    MQTTResponse response = MQTTClient_subscribe5(c->handle, filter, 1, NULL, NULL); /* of 3.1.1, too */
    int code = response.reasonCode;                                                  /* or the QoS that is granted */
    MQTTResponse_free(response);
    if (code >= 0 && code <= 2) return KVQ_OK;
    return kvq_fail(err, KVQ_IO, "The broker refuses a subscription to '%s' (%d).", filter, code);
}

/* ---- which node
 * ------------------------------------------------------------------------------------------------------ */

/* "kvqd/NODE/status" -> NODE, if it is online. */
static bool read_node(const client_message *m, const char *base, char *ret, size_t n_bytes) {
    size_t n = strlen(base);
    if (!starts_with(m->topic, base) || m->topic[n] != '/' || strcmp(m->payload, "online") != 0) return false;
    const char *node = m->topic + n + 1, *slash = strchr(node, '/');
    if (!slash || (size_t)(slash - node) >= n_bytes) return false;
    snprintf(ret, n_bytes, "%.*s", (int)(slash - node), node);
    return true;
}

static kvq_status find_node(client *c, const char *base, kvq_error *err) {
    char filter[256], names[400] = "", name[sizeof c->node];
    int n_found = 0;
    snprintf(filter, sizeof filter, "%s/+/status", base);
    kvq_status status = subscribe(c, filter, err);
    if (status) return status;
    for (;;) {
        client_message m;
        status = client_receive(c, FIND_MS, &m, err);
        if (status) return status;
        if (!m.topic) break;
        if (read_node(&m, base, name, sizeof name) && n_found++ < MAX_NODES) {
            size_t n = strlen(names);
            snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", name);
            memcpy(c->node, name, sizeof name);
        }
        client_message_done(&m);
    }
    MQTTResponse_free(MQTTClient_unsubscribe5(c->handle, filter, NULL)); /* what still comes of it is not looked at */
    if (n_found == 1) return KVQ_OK;
    if (n_found == 0) return kvq_fail(err, KVQ_NOT_FOUND, "No kvqd is online under '%s/'.", base);
    return kvq_fail(err, KVQ_NOT_FOUND, "Several are online, say which with --node: %s.", names);
}

kvq_status client_open(const client_options *o, client **ret, kvq_error *err) {
    client *c = calloc(1, sizeof *c);
    if (!c) return kvq_fail(err, KVQ_NO_MEMORY, "No memory for a connection.");
    if (o->username && can_be_client(o->username)) snprintf(c->user, sizeof c->user, "%s", o->username);
    kvq_status status = KVQ_OK;
    if (!is_broker_address(o->broker))
        status = kvq_fail(err, KVQ_BAD_ARGUMENT,
                          "'%s' is no broker address; they look like mqtt://HOST:1883 (or mqtts, ws, wss).", o->broker);
    if (!status) status = connect_to(c, o, err);
    if (!status && o->node) snprintf(c->node, sizeof c->node, "%s", o->node);
    if (!status && !o->node) status = find_node(c, o->base, err);
    if (!status && asprintf(&c->prefix, "%s/%s/", o->base, c->node) < 0) {
        c->prefix = NULL;
        status = kvq_fail(err, KVQ_NO_MEMORY, "No memory for a topic.");
    }
    if (status) {
        client_close(c);
        return status;
    }
    *ret = c;
    return KVQ_OK;
}

void client_close(client *c) {
    if (!c) return;
    if (c->is_connected) (void)MQTTClient_disconnect(c->handle, 1000); /* broken already: nothing to say goodbye to */
    if (c->handle) MQTTClient_destroy(&c->handle);
    free(c->prefix);
    free(c);
}

/* ---- messages
 * -------------------------------------------------------------------------------------------------------- */

kvq_status client_subscribe(client *c, const char *topic, kvq_error *err) {
    char full[1024];
    snprintf(full, sizeof full, "%s%s", c->prefix, topic);
    return subscribe(c, full, err);
}

kvq_status client_publish(client *c, const char *topic, const char *payload, kvq_error *err) {
    char full[1024];
    MQTTClient_deliveryToken token;
    snprintf(full, sizeof full, "%s%s", c->prefix, topic);
    c->acked_token = 0; /* no message's */
    MQTTResponse response =
        MQTTClient_publish5(c->handle, full, (int)strlen(payload), payload, 1, 0, NULL, &token); /* of 3.1.1, too */
    int rc = response.reasonCode;
    MQTTResponse_free(response);
    if (rc == MQTTCLIENT_SUCCESS) rc = MQTTClient_waitForCompletion(c->handle, token, PUBLISH_TIMEOUT_MS);
    if (rc != MQTTCLIENT_SUCCESS)
        return kvq_fail(err, KVQ_IO, "The broker did not take a message to '%s' (%d).", full, rc);
    int reason = c->acked_token == token ? c->acked_reason : 0;
    if (reason == MQTTREASONCODE_NO_MATCHING_SUBSCRIBERS)
        return kvq_fail(err, KVQ_NOT_FOUND, "Nobody listens to '%s'; is kvqd running there?", full);
    if (reason >= MQTTREASONCODE_UNSPECIFIED_ERROR)
        return kvq_fail(err, KVQ_IO, "The broker refuses a message to '%s': %s (%d).", full,
                        MQTTReasonCode_toString((enum MQTTReasonCodes)reason), reason);
    return KVQ_OK;
}

kvq_status client_receive(client *c, int timeout_ms, client_message *ret, kvq_error *err) {
    char *topic = NULL;
    int topic_bytes = 0;
    MQTTClient_message *m = NULL;
    *ret = (client_message){0};
    int rc = MQTTClient_receive(c->handle, &topic, &topic_bytes, &m, (unsigned long)timeout_ms);
    if (rc != MQTTCLIENT_SUCCESS && rc != MQTTCLIENT_TOPICNAME_TRUNCATED)
        return kvq_fail(err, KVQ_IO, "The connection to the broker broke (%d).", rc);
    if (!m) return KVQ_OK;
    size_t skip = c->prefix && starts_with(topic, c->prefix) ? strlen(c->prefix) : 0;
    ret->topic = strdup(topic + skip);
    ret->payload = calloc(1, (size_t)m->payloadlen + 1);
    if (ret->payload && m->payloadlen) memcpy(ret->payload, m->payload, (size_t)m->payloadlen);
    MQTTClient_freeMessage(&m);
    MQTTClient_free(topic);
    if (ret->topic && ret->payload) return KVQ_OK;
    client_message_done(ret);
    return kvq_fail(err, KVQ_NO_MEMORY, "No memory for a message.");
}

void client_message_done(client_message *m) {
    free(m->topic);
    free(m->payload);
    *m = (client_message){0};
}
