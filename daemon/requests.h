/* requests.h: the prompts in progress, from the message to the stored answer: accepted or refused, waiting for a model,
 * in the engine, cancelled, finished. Called by daemon.c. See requests.c for the order of the checks. */
#ifndef KVQD_REQUESTS_H
#define KVQD_REQUESTS_H

#include "../engine/kvq.h"
#include "failure.h"
#include "message.h"

#define REQUESTS_BUCKETS 1024
#define REQUESTS_MAX_ATTEMPTS 3

typedef struct request request;
struct kvqd;

typedef struct requests {
    request *buckets[REQUESTS_BUCKETS]; /* by name */
    request *first, *last;              /* all, in order of arrival */
    size_t n, n_waiting;                /* n_waiting: not handed to the engine yet */
    int64_t turn;                       /* of the prompt that went to the engine last */
    bool runs_alone;                    /* what runs now: no other may join it */
    bool look_into_journal;             /* there may be rows after last_row */
    int64_t last_row;                   /* of the journal, looked at */
    int64_t recovered_row;              /* rows up to this one were there at start: never refused as busy */
    int64_t answer_sequence;            /* answers up to this one were handed to the connection */
} requests;

/* Prompts of the journal that nobody looked at yet. */
void requests_accept_stored(struct kvqd *d);

/* A prompt that is not in the journal: QoS 0, retained, too large, or the journal did not take it. */
void requests_accept_loose(struct kvqd *d, const message *m);

void requests_cancel(struct kvqd *d, const char *name);

/* Hands waiting prompts to the engine, or refuses them if there will be none. */
void requests_submit(struct kvqd *d);

void requests_apply(struct kvqd *d, const kvq_event *events, size_t n);

/* Sends the deltas that are due, ends what is past its time. */
void requests_flush(struct kvqd *d, int64_t now_ns);

/* Hands stored answers to the connection as far as it takes them. */
void requests_publish_answers(struct kvqd *d);
void requests_delivered(struct kvqd *d, int64_t row, const char *refusal);

/* Ends all with this failure. */
void requests_fail_all(struct kvqd *d, const failure *f);

/* The daemon stops: what is journaled stays there for the next start, the rest is ended. `lost`: why it cannot go on;
 * then what ran has used up an attempt. NULL: an orderly stop. */
void requests_leave(struct kvqd *d, const failure *lost);

size_t requests_n_queued(const struct kvqd *d); /* waiting here or in the engine */

#endif
