/* client.h: a client of a running kvqd, for ask, chat, top, status and cancel. client.c is the only file here that
 * includes Paho (MQTTClient: a command does one thing at a time). Topics are given without what all of a node's begin
 * with: "response/q1". */
#ifndef KVQ_CLIENT_H
#define KVQ_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../kernels/status.h"
#include "option.h"

typedef struct client_options {
    const char *broker, *base, *node, *username, *password_file, *ca_file;
} client_options;

/* Rows for a command whose values have a member `client` of that type. */
/* clang-format off */
#define CLIENT_OPTIONS(values) \
    {.letter = 'b', .name = "broker", .kind = OPTION_TEXT, .offset = offsetof(values, client.broker), .argument = "URL", \
     .fallback = "mqtt://localhost:1883", .doc = "The broker: mqtt://, mqtts://, ws:// or wss://HOST:PORT."}, \
    {.letter = 'd', .name = "node", .kind = OPTION_TEXT, .offset = offsetof(values, client.node), .argument = "NODE", \
     .doc = "Which kvqd; without it the one that is online at the broker."}, \
    {.name = "base", .kind = OPTION_TEXT, .offset = offsetof(values, client.base), .argument = "TOPIC", .fallback = "kvqd", \
     .doc = "What every topic begins with (base_topic)."}, \
    {.letter = 'u', .name = "user", .kind = OPTION_TEXT, .offset = offsetof(values, client.username), .argument = "NAME", \
     .doc = "User name at the broker; prompts are then named NAME/ID, which its access list may ask for."}, \
    {.name = "password-file", .kind = OPTION_TEXT, .offset = offsetof(values, client.password_file), .argument = "FILE", \
     .doc = "A file whose first line is the password."}, \
    {.name = "ca-file", .kind = OPTION_TEXT, .offset = offsetof(values, client.ca_file), .argument = "FILE", \
     .doc = "Certificates (PEM) that the broker's is checked against; without it the system's."}
/* clang-format on */

typedef struct client client;

/* Connects, and finds the node if none is named. Errors: IO (broker, password file), NOT_FOUND (no node is online, or
 * several: the text lists them), NO_MEMORY. */
kvq_status client_open(const client_options *options, client **ret, kvq_error *err);
void client_close(client *c); /* NULL allowed */
const char *client_node(const client *c);

/* An id that nobody else has: of a connection, a transaction, a session. */
enum { CLIENT_ID_BYTES = 32 };
void client_make_id(char ret[CLIENT_ID_BYTES]);

/* A name for a request that nobody else has: CLIENT/ID with the user's name as CLIENT, as docs/mqtt.md's access list
 * has it, or ID without a user, and for one whose name cannot be a CLIENT. */
enum { CLIENT_USER_BYTES = 64, CLIENT_NAME_BYTES = CLIENT_USER_BYTES + 1 + CLIENT_ID_BYTES };
void client_make_name(const client *c, char ret[CLIENT_NAME_BYTES]);

kvq_status client_subscribe(client *c, const char *topic, kvq_error *err);
kvq_status client_publish(client *c, const char *topic, const char *payload,
                          kvq_error *err); /* QoS 1, acknowledged at return */

typedef struct client_message {
    char *topic, *payload; /* terminated; owned: client_message_done */
} client_message;

/* The next message, or one with a NULL topic when none came in time. Errors: IO (the connection broke). */
kvq_status client_receive(client *c, int timeout_ms, client_message *ret, kvq_error *err);
void client_message_done(client_message *m);

#endif
