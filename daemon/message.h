/* message.h: one MQTT message as it came in: what mqtt.c hands to the rest, and what journal.c stores of a prompt. */
#ifndef KVQD_MESSAGE_H
#define KVQD_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Who made it owns it; message_copy's result owns everything it points to (message_free). Strings are UTF-8,
 * terminated, never NULL in a copy: empty means absent. */
typedef struct message {
    const char *topic;
    const void *payload;
    size_t n_bytes;
    int qos, packet_id; /* packet_id: of this connection's session, 0 at QoS 0 */
    bool retained, duplicate, from_pool;
    int64_t received_ms; /* wall clock */
    bool clock_synced;   /* whether that could be trusted then */
    /* MQTT 5 */
    const char *response_topic, *content_type;
    const void *correlation;
    size_t n_correlation_bytes;
    int64_t expiry_s; /* -1 absent */
} message;

message *message_copy(const message *m); /* one allocation; NULL: no memory */
void message_free(message *m);

int64_t clock_wall_ms(void); /* milliseconds since 1970, UTC */
int64_t clock_monotonic_ns(void);

/* The kernel's word, which NTP and chrony give it once they have set the clock. UNKNOWN: it may not be asked (errno
 * says why), as in a sandbox whose filter of system calls lacks clock_adjtime. */
typedef enum clock_sync { CLOCK_UNSYNCED, CLOCK_SYNCED, CLOCK_UNKNOWN } clock_sync;
clock_sync clock_ask_sync(void);
bool clock_is_synced(void); /* for sure: what is unknown is not */

#endif
