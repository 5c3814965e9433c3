/* scheduler.h: which rows run in a step: continuous batching, chunked prefill, admission by free blocks, preemption.
 * Called by engine.c: enqueue, then plan (a batch) -> forward -> commit, once a step. Owns the page lists of running
 * sequences. */
#ifndef KVQ_SCHEDULER_H
#define KVQ_SCHEDULER_H

#include "plan.h"
#include "pool.h"
#include "prefix.h"

typedef enum kvq_sequence_state { KVQ_SEQUENCE_IDLE, KVQ_SEQUENCE_WAITING, KVQ_SEQUENCE_RUNNING } kvq_sequence_state;

/* One prompt and its answer as tokens. The engine owns it and its tokens; the scheduler owns the rest. */
typedef struct kvq_sequence {
    int *tokens; /* prompt, then answer; the last is -1 - row while a step under way draws it and nobody knows it */
    int n_tokens, n_prompt;
    int priority;       /* 0 .. 9, higher first */
    const char *client; /* "" if none */
    bool is_private;    /* neither looks into the prefix cache nor leaves anything there */

    kvq_sequence_state state;
    int n_computed; /* tokens whose keys and values are in the pool */
    int n_rows;     /* of the step being computed */
    int n_cached;   /* tokens that the first admission found in the prefix cache */
    int n_kept;     /* full pages that came from the prefix cache or were given to it */
    int n_preemptions;
    int slot;                  /* of the page lists, while running */
    uint64_t turn;             /* fair share: order within a priority */
    uint64_t arrival;          /* order of enqueue */
    uint64_t admission;        /* order of admission, while running */
    uint64_t n_blocks;         /* held */
    struct kvq_sequence *next; /* in the waiting list */
} kvq_sequence;

typedef struct kvq_scheduler_options {
    const kvq_kv_plan *plan;
    kvq_pool *pool;
    kvq_prefix *prefix; /* NULL: no prefix cache */
    int session_len, max_batch_size, max_prefill_token_num;
    uint8_t *scratch; /* kvq_scheduler_scratch_bytes of the machine's memory; borrowed until kvq_scheduler_free */
} kvq_scheduler_options;

typedef struct kvq_scheduler_stats {
    uint64_t preemptions, prefix_queries, prefix_hits, prefix_query_tokens, prefix_hit_tokens;
    int n_running, n_waiting;
} kvq_scheduler_stats;

typedef struct kvq_scheduler kvq_scheduler;

/* Rows that one step can have at most. */
int kvq_scheduler_max_rows(int max_batch_size, int max_prefill_token_num);

/* Bytes of wide images of pages that close in one step. */
uint64_t kvq_scheduler_scratch_bytes(const kvq_kv_plan *plan, int max_batch_size, int max_prefill_token_num);

kvq_status kvq_scheduler_new(const kvq_scheduler_options *options, kvq_scheduler **ret, kvq_error *err);
void kvq_scheduler_free(kvq_scheduler *s); /* before the prefix cache and the pool */

/* seq->tokens, n_tokens (1 .. session_len), n_prompt, priority and client are set, the rest is zeros. Borrowed until
 * kvq_scheduler_remove. */
void kvq_scheduler_enqueue(kvq_scheduler *s, kvq_sequence *seq);

/* Takes the sequence out and gives its blocks back. Harmless for an idle one. Not between plan and commit. */
void kvq_scheduler_remove(kvq_scheduler *s, kvq_sequence *seq);

/* The rows of one sequence in the planned step. */
typedef struct kvq_scheduled {
    kvq_sequence *seq;
    int logit_row; /* the row whose logits give the next token; -1 while the prompt is not read to its end */
} kvq_scheduled;

/* Admits, reserves blocks, preempts if need be, and builds the batch (borrowed until the next plan). False when nothing
 * is to be done. The list has one entry per batch->seqs. */
bool kvq_scheduler_plan(kvq_scheduler *s, const kvq_batch **ret_batch, const kvq_scheduled **ret_list);

/* Whether the next plan is one row of each sequence that runs, should none of them end: nobody reads a prompt, nobody
 * can be admitted (but for pages in the prefix cache, which are not looked for), and there are blocks for all. */
bool kvq_scheduler_goes_on(const kvq_scheduler *s);

/* After the machine was asked for the step's rows: they are in the pool for whatever it is asked next, full pages go to
 * the prefix cache once their tokens are known, dead ones back to the pool. */
void kvq_scheduler_commit(kvq_scheduler *s);

void kvq_scheduler_get_stats(const kvq_scheduler *s, kvq_scheduler_stats *ret);

#endif
