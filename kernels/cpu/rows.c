/* rows.c: embed, norm, glu and softcap over the compute pool: rows in runs long enough to be worth handing out. */
#include "rows.h"

#define VALUES_PER_ITEM 8192 /* a few microseconds; fewer stay with the caller */

static int rows_per_item(int n_cols) {
    return n_cols < VALUES_PER_ITEM ? VALUES_PER_ITEM / n_cols : 1;
}

static int least(int a, int b) {
    return a < b ? a : b;
}

/* One job and how it is cut. */
typedef struct rows_work {
    const void *job;
    int n_rows, per_item;
    kvq_norm_rows_fn *norm;
    kvq_glu_rows_fn *glu;
} rows_work;

static void norm_item(void *arg, int item, int worker) {
    (void)worker;
    const rows_work *w = arg;
    int begin = item * w->per_item;
    w->norm(w->job, begin, least(w->per_item, w->n_rows - begin));
}

void kvq_cpu_norm(kvq_stream *s, const kvq_norm *job, kvq_norm_rows_fn *rows) {
    rows_work w = {.job = job, .n_rows = job->n_rows, .per_item = rows_per_item(job->n_cols), .norm = rows};
    kvq_workers_run(s->workers, norm_item, &w, kvq_items(w.n_rows, w.per_item));
}

static void glu_item(void *arg, int item, int worker) {
    (void)worker;
    const rows_work *w = arg;
    int begin = item * w->per_item;
    w->glu(w->job, begin, least(w->per_item, w->n_rows - begin));
}

void kvq_cpu_glu(kvq_stream *s, const kvq_glu *job, kvq_glu_rows_fn *rows) {
    rows_work w = {.job = job, .n_rows = job->n_rows, .per_item = rows_per_item(job->ffn_dim), .glu = rows};
    kvq_workers_run(s->workers, glu_item, &w, kvq_items(w.n_rows, w.per_item));
}

typedef struct softcap_work {
    float *x;
    size_t n;
    float cap;
    kvq_softcap_values_fn *values;
} softcap_work;

static void softcap_item(void *arg, int item, int worker) {
    (void)worker;
    const softcap_work *w = arg;
    size_t begin = (size_t)item * VALUES_PER_ITEM, left = w->n - begin;
    w->values(w->x + begin, left < VALUES_PER_ITEM ? left : VALUES_PER_ITEM, w->cap);
}

void kvq_cpu_softcap(kvq_stream *s, const kvq_softcap *job, kvq_softcap_values_fn *values) {
    softcap_work w = {.x = job->x, .n = (size_t)job->n_rows * (size_t)job->n_cols, .cap = job->cap, .values = values};
    kvq_workers_run(s->workers, softcap_item, &w, (int)((w.n + VALUES_PER_ITEM - 1) / VALUES_PER_ITEM));
}

static void embed_item(void *arg, int item, int worker) {
    (void)worker;
    const kvq_embed *job = arg;
    float *out = job->out + (size_t)item * job->table->n_in;
    int id = job->ids[item];
    kvq_matrix_row(job->table, id < 0 ? job->drawn[-1 - id] : id, out);
    for (int i = 0; i < job->table->n_in; i++) out[i] *= job->scale;
}

void kvq_cpu_embed(kvq_stream *s, const kvq_embed *job) {
    kvq_embed copy = *job; /* the pool's jobs are not const */
    kvq_workers_run(s->workers, embed_item, &copy, job->n_rows);
}
