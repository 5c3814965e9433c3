/* client.c: a client of a running kvqd. See client.h. */
#include "client.h"

#include <MQTTClient.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

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

static kvq_status connect_to(client *c, const client_options *o, kvq_error *err) {
    MQTTClient_connectOptions plain = MQTTClient_connectOptions_initializer,
                              ws = MQTTClient_connectOptions_initializer_ws;
    MQTTClient_connectOptions options = starts_with(o->broker, "ws") ? ws : plain;
    MQTTClient_SSLOptions ssl = MQTTClient_SSLOptions_initializer;
    char password[512] = "";
    kvq_status status = o->password_file ? read_password(o->password_file, password, sizeof password, err) : KVQ_OK;
    if (status) return status;
    options.connectTimeout = CONNECT_TIMEOUT_S;
    options.cleansession = 1;
    options.username = o->username;
    options.password = *password ? password : NULL;
    if (starts_with(o->broker, "mqtts:") || starts_with(o->broker, "wss:")) {
        ssl.trustStore = o->ca_file;
        ssl.verify = 1;
        options.ssl = &ssl;
    }
    int rc = MQTTClient_connect(c->handle, &options);
    explicit_bzero(password, sizeof password);
    c->is_connected = rc == MQTTCLIENT_SUCCESS;
    if (c->is_connected) return KVQ_OK;
    const char *why = rc == 4   ? "the user name or password is wrong"
                      : rc == 5 ? "it refuses this user"
                                : "nobody answers, or not as a broker";
    return kvq_fail(err, KVQ_IO, "Cannot connect to '%s': %s (%d).", o->broker, why, rc);
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
    if (MQTTClient_subscribe(c->handle, filter, 1) != MQTTCLIENT_SUCCESS)
        return kvq_fail(err, KVQ_IO, "Cannot subscribe to '%s'.", filter);
    for (;;) {
        client_message m;
        kvq_status status = client_receive(c, FIND_MS, &m, err);
        if (status) return status;
        if (!m.topic) break;
        if (read_node(&m, base, name, sizeof name) && n_found++ < MAX_NODES) {
            size_t n = strlen(names);
            snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", name);
            memcpy(c->node, name, sizeof name);
        }
        client_message_done(&m);
    }
    (void)MQTTClient_unsubscribe(c->handle, filter); /* what still comes of it is not looked at */
    if (n_found == 1) return KVQ_OK;
    if (n_found == 0) return kvq_fail(err, KVQ_NOT_FOUND, "No kvqd is online under '%s/'.", base);
    return kvq_fail(err, KVQ_NOT_FOUND, "Several are online, say which with --node: %s.", names);
}

kvq_status client_open(const client_options *o, client **ret, kvq_error *err) {
    char id[CLIENT_ID_BYTES];
    client *c = calloc(1, sizeof *c);
    if (!c) return kvq_fail(err, KVQ_NO_MEMORY, "No memory for a connection.");
    client_make_id(id);
    if (o->username && can_be_client(o->username)) snprintf(c->user, sizeof c->user, "%s", o->username);
    kvq_status status = KVQ_OK;
    if (!is_broker_address(o->broker))
        status = kvq_fail(err, KVQ_BAD_ARGUMENT,
                          "'%s' is no broker address; they look like mqtt://HOST:1883 (or mqtts, ws, wss).", o->broker);
    else if (MQTTClient_create(&c->handle, o->broker, id, MQTTCLIENT_PERSISTENCE_NONE, NULL) != MQTTCLIENT_SUCCESS) {
        c->handle = NULL;
        status = kvq_fail(err, KVQ_NO_MEMORY, "No memory for a connection to '%s'.", o->broker);
    }
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
    int rc = MQTTClient_subscribe(c->handle, full, 1);
    return rc == MQTTCLIENT_SUCCESS
               ? KVQ_OK
               : kvq_fail(err, KVQ_IO, "The broker refuses a subscription to '%s' (%d).", full, rc);
}

kvq_status client_publish(client *c, const char *topic, const char *payload, kvq_error *err) {
    char full[1024];
    MQTTClient_deliveryToken token;
    snprintf(full, sizeof full, "%s%s", c->prefix, topic);
    int rc = MQTTClient_publish(c->handle, full, (int)strlen(payload), payload, 1, 0, &token);
    if (rc == MQTTCLIENT_SUCCESS) rc = MQTTClient_waitForCompletion(c->handle, token, PUBLISH_TIMEOUT_MS);
    return rc == MQTTCLIENT_SUCCESS
               ? KVQ_OK
               : kvq_fail(err, KVQ_IO, "The broker did not take a message to '%s' (%d).", full, rc);
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
