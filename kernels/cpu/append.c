/* append.c: who writes which rows into the cache; the same for every instruction set (append_tmpl.h has the
 * arithmetic). Rows are independent but for two tokens that share a byte of 4-bit V codes: a run of rows begins and
 * ends where the position is a multiple of 8, so both are written by one worker. */
#include "append.h"

#include "../runs.h"
#include "stream.h"

#define TOKENS_OF_A_BYTE 8 /* tokens t and t + 4 of 8 share bytes */

typedef struct append_work {
    const kvq_append *job;
    kvq_append_rows_fn *rows;
    const kvq_row_run *runs;
} append_work;

static void append_item(void *arg, int item, int worker) {
    (void)worker;
    const append_work *w = arg;
    w->rows(w->job, w->runs[item].row_begin, w->runs[item].n_rows);
}

/* Item = a page of batch->closes: if it was begun in an earlier step, its wide image moves to its slot. */
static void move_item(void *arg, int item, int worker) {
    (void)worker;
    const kvq_append *job = ((const append_work *)arg)->job;
    const kvq_kv *kv = job->kv;
    const kvq_batch *b = job->batch;
    const kvq_batch_close *close = &b->closes[item];
    const kvq_batch_seq *seq = &b->seqs[close->seq];
    if (close->group != kv->layers[job->layer].group || seq->pos_begin <= close->page * kv->block_tokens) return;
    const kvq_kv_page *page = &seq->pages[close->group][close->page];
    for (int g = 0; g < kv->n_kv_heads; g++)
        kvq_kv_copy_wide(kv, job->layer, page, b->scratch, b->scratch_slot_bytes, g);
}

void kvq_cpu_append(kvq_stream *s, const kvq_append *job, kvq_append_rows_fn *rows) {
    const kvq_batch *b = job->batch;
    size_t used = 0;
    kvq_row_run *runs = kvq_stream_take(s, &used, (size_t)b->n_rows * sizeof *runs);
    if (!runs) return;
    append_work work = {job, rows, runs};
    if (job->kv->policy->wide) kvq_workers_run(s->workers, move_item, &work, b->n_closes);
    kvq_workers_run(s->workers, append_item, &work, kvq_cut_rows(b, TOKENS_OF_A_BYTE, TOKENS_OF_A_BYTE, runs));
}
