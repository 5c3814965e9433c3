/* meter.h: how far a long job is, told to whoever watches. Called by tokenizer.c and what is behind it, whose loops run
 * once a word: so only one call in KVQ_METER_CALLS is told. */
#ifndef KVQ_METER_H
#define KVQ_METER_H

#include <stdbool.h>

#include "../kernels/status.h"

#define KVQ_METER_CALLS 1024 /* about 5 kB of text; a word takes some 100 ns, a look at the clock 30 */

typedef struct kvq_meter {
    int (*tell)(void *user, double ratio); /* non-zero: give up. NULL: nobody watches */
    void *user;
    double begin, end; /* the part of the whole that is measured */
    unsigned n_calls;
} kvq_meter;

/* A part of the part that m measures, from begin to end of 0 to 1. */
static inline kvq_meter kvq_meter_part(const kvq_meter *m, double begin, double end) {
    double whole = m->end - m->begin;
    return (kvq_meter){m->tell, m->user, m->begin + whole * begin, m->begin + whole * end, 0};
}

/* A share of m's part, 0 to 1, is done. False: whoever watches wants no more. */
static inline bool kvq_meter_show(kvq_meter *m, double share) {
    if (!m->tell || ++m->n_calls % KVQ_METER_CALLS) return true;
    return m->tell(m->user, m->begin + (m->end - m->begin) * share) == 0;
}

/* What a job that was given up returns. */
static inline kvq_status kvq_meter_stopped(kvq_error *err) {
    return kvq_fail(err, KVQ_CANCELLED, "tokenizing was stopped");
}

#endif
