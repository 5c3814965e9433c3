/* batch.h: the ragged batch, what one step computes: rows of many sequences, decode rows and prefill chunks mixed.
 * Built by engine/scheduler.c, read by the operators append, close and attend. All arrays are owned by the scheduler
 * and live for the step. */
#ifndef KVQ_BATCH_H
#define KVQ_BATCH_H

#include "kv.h"

#define KVQ_MAX_GROUPS 64

/* The rows of one sequence: n_rows tokens at positions pos_begin .. pos_begin + n_rows - 1. */
typedef struct kvq_batch_seq {
    int row_begin, n_rows;
    int pos_begin;
    /* pages[group][p] is page p of the sequence (positions p T .. p T + T - 1). Pages behind every row's window may be
     * absent (block NULL): no operator may look at them. */
    const kvq_kv_page *pages[KVQ_MAX_GROUPS];
} kvq_batch_seq;

/* A page that becomes full in this step under a wide policy, in one group. */
typedef struct kvq_batch_close {
    int seq, group, page;
} kvq_batch_close;

typedef struct kvq_batch {
    int n_rows, n_seqs, n_closes;
    const int *ids;     /* [n_rows] token ids */
    const int *pos;     /* [n_rows] positions */
    const int *row_seq; /* [n_rows] index into seqs */
    const kvq_batch_seq *seqs;
    const kvq_batch_close *closes; /* [n_closes]; pages[..].scratch of each is its slot; slots are unique per group */
    uint8_t *scratch;              /* wide images of closing pages; reused by every layer */
    size_t scratch_slot_bytes;     /* one slot: n_kv_heads x [K wide half | V wide half] */
} kvq_batch;

#endif
