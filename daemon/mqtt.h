/* mqtt.h: one connection to the broker: connect and reconnect, subscribe, publish, inbox. mqtt.c is the only file that
 * includes Paho. Called by daemon.c from the main loop, which owns every mqtt; the library's threads only put into the
 * inbox and wake the loop through an eventfd.
 *
 *     mqtt_open(&options, &m, &err);
 *     for (;;) {
 *         wake_at = mqtt_run(m, now);
 *         poll(wake_fd, ..., wake_at);
 *         while (mqtt_take(m, &event)) { ...; mqtt_event_done(&event); }
 *     } */
#ifndef KVQD_MQTT_H
#define KVQD_MQTT_H

#include "../engine/kvq.h"
#include "message.h"

typedef struct mqtt mqtt;

/* NULL: none. mqtt.c frees them. */
typedef struct mqtt_secrets {
    char *password, *key_file;
} mqtt_secrets;

typedef struct mqtt_options {
    const char *uri;                                        /* mqtt://, mqtts://, ws://, wss:// */
    const char *client_id, *username, *ca_file, *cert_file; /* NULL or empty: none */
    /* Asked before each attempt to connect, by mqtt_run: so a password that comes late, or changes, needs no restart.
     * An error is told as MQTT_REFUSED. NULL: none. */
    kvq_status (*read_secrets)(void *owner, mqtt_secrets *ret, kvq_error *err);
    void *owner;
    const char *status_topic; /* retained "online" after connecting is the caller's; "offline" is our last will there.
                                 NULL: no will */
    /* Who has our name answers a message on the first by one on the second: how a conflict of names is told from a
     * broker in trouble. NULL: conflicts are not looked for. */
    const char *ping_topic, *pong_topic;
    int keepalive_s;
    int64_t session_expiry_s; /* 0: a clean session */
    size_t max_message_bytes; /* larger ones the broker keeps to itself (MQTT 5) */
    int wake_fd;              /* an eventfd; written when the inbox has something */
    /* Called on the library's thread for every message before it is acknowledged. True: it is stored, keep it out of
     * the inbox. Must not call any function of this header. NULL: none. */
    bool (*store)(void *user, const message *m);
    void *user;
} mqtt_options;

typedef enum mqtt_event_kind {
    MQTT_CONNECTED, /* subscribe and publish the birth messages now */
    MQTT_LOST,      /* was connected and is no more; reason in text */
    MQTT_REFUSED,   /* could not connect; reason in text; it goes on trying */
    MQTT_CONFLICT,  /* another client with our id throws us out; we keep away while it is there */
    MQTT_MESSAGE,
    MQTT_DELIVERED, /* every message of this cookie is acknowledged, or (text not empty) the broker refused one */
    MQTT_SUBSCRIPTION_REFUSED,
} mqtt_event_kind;

typedef struct mqtt_event {
    mqtt_event_kind kind;
    message *message; /* MQTT_MESSAGE */
    int64_t cookie;   /* MQTT_DELIVERED */
    char text[KVQ_ERROR_BYTES];
} mqtt_event;

/* options' strings are copied. Errors: BAD_ARGUMENT (uri), NO_MEMORY. A broker that is absent is no error: it comes
 * later. */
kvq_status mqtt_open(const mqtt_options *options, mqtt **ret, kvq_error *err);

/* Disconnects in good order (the last will is not sent) and frees. What was not acknowledged is forgotten. NULL
 * allowed. */
void mqtt_close(mqtt *m);

/* Upkeep: connects when it is time, sends what waits. Returns the monotonic time at which to call again, INT64_MAX for
 * none. */
int64_t mqtt_run(mqtt *m, int64_t now_ns);

bool mqtt_take(mqtt *m, mqtt_event *ret);
void mqtt_event_done(mqtt_event *e);

bool mqtt_is_connected(const mqtt *m);
int mqtt_version(const mqtt *m); /* 5 or 4 (3.1.1), of the connection that is or was; 0 before the first */

/* The largest PUBLISH payload the broker takes on this topic with this much correlation data. */
size_t mqtt_max_payload_bytes(const mqtt *m, const char *topic, size_t n_correlation_bytes);

void mqtt_subscribe(mqtt *m, const char *filter, int qos);
void mqtt_unsubscribe(mqtt *m, const char *filter);

typedef struct mqtt_publication {
    const char *topic;
    const void *payload, *correlation;
    size_t n_bytes, n_correlation_bytes;
    int qos;
    bool retained, is_text; /* is_text: plain text, else JSON: the Content Type */
    int64_t cookie;         /* not 0: comes back as MQTT_DELIVERED */
    int n_more;             /* of this cookie, which follow */
    int64_t expiry_s;       /* 0: none */
} mqtt_publication;

/* All copied. QoS 0 goes out at once or is dropped. QoS 1 waits for its turn among MQTT_MAX_WAITING; only few are in
 * flight at a time, because Paho 1.3.12 stalls for a second at the broker's Receive Maximum. False: not connected, or
 * full. What was not acknowledged when the connection is lost is forgotten: the caller has the journal, and publishes
 * its state at every connect. */
#define MQTT_MAX_WAITING 256
bool mqtt_publish(mqtt *m, const mqtt_publication *p);
size_t mqtt_n_waiting(const mqtt *m); /* QoS 1 messages not acknowledged yet */

typedef struct mqtt_stats {
    uint64_t n_received, n_published, n_dropped_in, n_dropped_out, n_connects;
} mqtt_stats;
void mqtt_get_stats(mqtt *m, mqtt_stats *ret);

#endif
