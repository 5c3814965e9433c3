/* close.c: who closes which page; the same for every instruction set (close_tmpl.h has the arithmetic). */
#include "close.h"

#include "stream.h"

typedef struct close_work {
    const kvq_close_pages *job;
    kvq_close_head_fn *head;
} close_work;

/* Item = one KV head of one page of batch->closes. */
static void close_item(void *arg, int item, int worker) {
    (void)worker;
    const close_work *w = arg;
    const kvq_kv *kv = w->job->kv;
    const kvq_batch_close *close = &w->job->batch->closes[item / kv->n_kv_heads];
    if (close->group != kv->layers[w->job->layer].group) return;
    w->head(w->job, &w->job->batch->seqs[close->seq].pages[close->group][close->page], item % kv->n_kv_heads);
}

void kvq_cpu_close_pages(kvq_stream *s, const kvq_close_pages *job, kvq_close_head_fn *head) {
    if (!job->kv->policy->wide) return;
    close_work work = {job, head};
    kvq_workers_run(s->workers, close_item, &work, job->batch->n_closes * job->kv->n_kv_heads);
}
