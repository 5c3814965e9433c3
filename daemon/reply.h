/* reply.h: what the engine said -> the bytes of delta and final messages. Called by requests.c. Pure: no MQTT, no clock
 * of its own.
 *
 * Deltas: the first token at once, then one message per REPLY_DELTA_MS or REPLY_DELTA_TOKENS, whichever comes first, so
 * that a fast model does not flood a small broker (and because neither end turns Nagle's algorithm off). */
#ifndef KVQD_REPLY_H
#define KVQD_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../engine/kvq.h"
#include "failure.h"

#define REPLY_DELTA_MS 40
#define REPLY_DELTA_TOKENS 16

/* The text of one answer as it grows. Init with zeros; reply_done frees. */
typedef struct reply {
    char *text; /* terminated once anything was added */
    size_t n_bytes, capacity_bytes, n_sent_bytes;
    int n_tokens, n_sent_tokens, n_deltas;
    int64_t last_sent_ns; /* monotonic */
} reply;

void reply_done(reply *r);

/* Appends an event's text. False: no memory, the answer is as before. */
bool reply_add(reply *r, const char *text, size_t n_bytes, int n_tokens);

/* When the next delta is to be sent: a monotonic time, at or before now when it is due; INT64_MAX when there is nothing
 * to send. */
int64_t reply_delta_due_ns(const reply *r);

/* Bytes that the caller frees, terminated; NULL: no memory (nothing is taken then). */
char *reply_take_delta(reply *r, const char *id, int64_t now_ns, size_t *ret_n_bytes);

typedef struct reply_facts {
    const char *id, *model, *text; /* model, text: NULL for none */
    kvq_finish reason;
    kvq_result result;
    const char *policy;
    double pool_used_ratio, energy_j; /* energy: the request's part; NaN: not known, null */
    const failure *failure;           /* NULL: none */
} reply_facts;

char *reply_final(const reply_facts *facts, size_t *ret_n_bytes); /* as reply_take_delta */

/* Cuts a final of reply_final that is larger than max_bytes into parts, each a JSON object {"id","part","parts","text"}
 * with a piece of the text; the last has all the other keys too. Whole characters. One part, the final itself, when it
 * fits. *ret_parts is an array of *ret_n terminated strings (reply_parts_free); NULL and 0 with KVQ_NO_SPACE: max_bytes
 * is too small for that, or for max_parts of them, or KVQ_NO_MEMORY. */
kvq_status reply_parts(const char *final, size_t n_bytes, size_t max_bytes, size_t max_parts, char ***ret_parts,
                       size_t *ret_n);
void reply_parts_free(char **parts, size_t n);

/* The short final that goes out where one of reply_final cannot: its id, and why. As reply_take_delta. */
char *reply_short(const char *final, size_t n_bytes, const failure *why, size_t *ret_n_bytes);

#endif
