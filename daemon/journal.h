/* journal.h: the durable queue. A QoS 1 prompt is in here before it is acknowledged to the broker, and its answer
 * before it is published; both stay until the answer is delivered and for [journal] retain_h after. The only file that
 * knows SQLite.
 *
 * Threads: journal_append comes from the MQTT library's thread, everything else from the main loop; one mutex inside.
 * Durability: WAL. Everything reported as done survives kill -9; prompts and answers (append, finish) survive power
 * loss too: synchronous=FULL. The rest is bookkeeping whose loss costs a repetition, so it does without the disk's
 * flush.
 *
 * A row's life:  append (NEW) -> start (STARTED; name, seed, attempts + 1) -> finish (FINISHED; the answer) ->
 * delivered. */
#ifndef KVQD_JOURNAL_H
#define KVQD_JOURNAL_H

#include "../engine/kvq.h"
#include "message.h"

typedef struct journal journal;

typedef struct journal_row {
    int64_t row;
    message *message; /* owned by the caller: message_free */
    int attempts;     /* starts so far that no end followed */
    bool has_seed;
    uint64_t seed;
    char name[132]; /* the request's name, empty before the first start */
} journal_row;

/* What is published when a prompt ends, byte for byte the same each time. */
typedef struct journal_answer {
    int64_t row, sequence; /* sequence rises with every finish */
    char *topic;           /* the three are owned by the caller: journal_answer_done */
    void *payload, *correlation;
    size_t n_bytes, n_correlation_bytes;
} journal_answer;

/* Opens or makes folder/journal.db. A damaged file is put aside as journal.db.damaged and a new one made; then
 * *ret_damaged is true. Errors: BUSY (another process has this folder's journal open), IO (texts name the file). */
kvq_status journal_open(const char *folder, journal **ret, bool *ret_damaged, kvq_error *err);
void journal_close(journal *j); /* NULL allowed */
void journal_set_limits(journal *j, uint64_t max_bytes, int64_t retain_ms);

/* Commits a prompt. A message that the broker sends again because our PUBACK was lost (same packet id, topic and
 * payload, flagged as a duplicate) is found and not stored twice. Errors: BUSY (max_bytes of undelivered prompts and
 * answers), IO (disk full, ...). */
kvq_status journal_append(journal *j, const message *m, kvq_error *err);

/* The next row after `after` that has no answer yet, in order of arrival. NOT_FOUND at the end. */
kvq_status journal_next_prompt(journal *j, int64_t after, journal_row *ret, kvq_error *err);

kvq_status journal_start(journal *j, int64_t row, const char *name, uint64_t seed, kvq_error *err);

/* Takes a start back: the daemon stops in good order, so the prompt is not to blame. */
kvq_status journal_forgive(journal *j, int64_t row, kvq_error *err);

/* reusable: this answer may serve the same prompt again (it is the model's, not a refusal). Errors: IO. */
kvq_status journal_finish(journal *j, int64_t row, const char *name, const char *topic, const void *correlation,
                          size_t n_correlation_bytes, const void *payload, size_t n_bytes, bool reusable,
                          kvq_error *err);

/* The reusable answer that the same prompt (name, payload, content type) got within the retention. NOT_FOUND if there
 * is none. */
kvq_status journal_find_answer(journal *j, const char *name, const message *m, journal_answer *ret, kvq_error *err);

/* The next answer after sequence `after` that is not delivered. NOT_FOUND at the end. */
kvq_status journal_next_answer(journal *j, int64_t after, journal_answer *ret, kvq_error *err);
void journal_answer_done(journal_answer *a);

/* The broker has the answer: it is kept for the retention, or, where that is 0, goes with its prompt. */
kvq_status journal_delivered(journal *j, int64_t row, kvq_error *err);

kvq_status journal_drop(journal *j, int64_t row, kvq_error *err);

/* Forgets delivered answers older than the retention, and the oldest ones when the journal nears max_bytes. now: wall
 * clock. */
kvq_status journal_prune(journal *j, int64_t now_ms, kvq_error *err);

/* A name kept for good, such as the node's. *ret (owned by the caller) is value itself when there was none. */
kvq_status journal_remember(journal *j, const char *key, const char *value, char **ret, kvq_error *err);

typedef struct journal_stats {
    uint64_t bytes, n_unanswered, n_undelivered, n_kept;
} journal_stats;

void journal_get_stats(journal *j, journal_stats *ret);
int64_t journal_last_row(journal *j); /* the newest; 0: there is none */

#endif
