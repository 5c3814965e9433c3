/* topics.h: THE topic table (topics.def) and what walks it: subscriptions, matching of incoming topics, making of
 * outgoing ones. Called by daemon.c, requests.c, telemetry.c, command.c. Pure text: no Paho, no state. */
#ifndef KVQD_TOPICS_H
#define KVQD_TOPICS_H

#include <stdbool.h>
#include <stddef.h>

#include "prompt.h"

typedef enum topic_id {
#define TOPIC(name, pattern, where, qos, retained, handler) TOPIC_##name,
#include "topics.def"
#undef TOPIC
    TOPIC_COUNT
} topic_id;

typedef enum topic_where { TOPIC_OUT, TOPIC_NODE, TOPIC_HOME, TOPIC_POOL, TOPIC_POOL_ALL } topic_where;

typedef struct topic_row {
    const char *name, *pattern;
    topic_where where;
    int qos;
    bool retained;
} topic_row;

extern const topic_row topic_table[TOPIC_COUNT];

/* What the placeholders stand for. Empty strings where not configured: rows that need them are not subscribed and match
 * nothing. */
typedef struct topic_names {
    const char *base, *node, *pool, *home;
} topic_names;

#define TOPIC_REQUEST_BYTES (2 * PROMPT_NAME_BYTES + 2) /* CLIENT/ID, terminated */
#define TOPIC_BYTES 512 /* base and home topics are at most 128 bytes, nodes and pools 64 */

/* Which incoming row a topic belongs to, and its request name or command (rest, terminated; "" where the row has none).
 * *ret_valid is false when the row matches but the name in it is not one (odd characters, too long, "delta"): rest is
 * then what stood there, cut to fit. TOPIC_COUNT: not ours. */
topic_id topic_match(const topic_names *names, const char *topic, char rest[TOPIC_REQUEST_BYTES], bool *ret_valid);

/* The base topic and node under which a prompt's topic was ours, when we had other names than now; no pool, no home.
 * Cuts topic, which the names point into. False: it is no prompt's. */
bool topic_former_names(char *topic, topic_names *ret);

/* The topic of a row; rest for %r and %c, else NULL. */
void topic_make(const topic_names *names, topic_id id, const char *rest, char ret[TOPIC_BYTES]);

/* The filters to subscribe at `where`; %r becomes "+" and "+/+". Returns how many; at most TOPIC_MAX_FILTERS are
 * written. */
#define TOPIC_MAX_FILTERS 16
typedef struct topic_filter {
    char text[TOPIC_BYTES];
    int qos;
} topic_filter;
size_t topic_filters(const topic_names *names, topic_where where, topic_filter ret[TOPIC_MAX_FILTERS]);

/* ID or CLIENT/ID, each a name. */
bool topic_is_request_name(const char *text);

#endif
