/* workers.h: the CPU's compute pool, the only threads of the engine. Used by the CPU operators through their stream.
 * One caller at a time: the thread that steps the engine. */
#ifndef KVQ_WORKERS_H
#define KVQ_WORKERS_H

#include "../status.h"

typedef struct kvq_workers kvq_workers;

/* Does item `item` of a job; `worker` < kvq_workers_count says whose scratch it may use. */
typedef void kvq_work_fn(void *job, int item, int worker);

/* n_threads counts the caller, who takes part; 0 means one per physical core this process may run on. */
kvq_status kvq_workers_new(int n_threads, kvq_workers **ret, kvq_error *err);
void kvq_workers_free(kvq_workers *pool); /* NULL allowed */
int kvq_workers_count(const kvq_workers *pool);

/* Calls fn once for every item below n_items and returns when all are done. Items are handed out in rising order, to
 * whoever is free, so fn's results must not depend on who does which. */
void kvq_workers_run(kvq_workers *pool, kvq_work_fn *fn, void *job, int n_items);

/* Physical cores that this process may use: affinity and the cgroup's CPU quota counted in; at least 1. */
int kvq_physical_cores(void);

#endif
