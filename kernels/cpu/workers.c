/* workers.c: the CPU's compute pool. Called by the CPU operators; see workers.h.
 *
 * A job is published in one 64-bit word, `open`: its generation above, the items not yet taken below. Taking an item is
 * one compare-and-swap that lowers it, so a worker that wakes late sees either a later job or nothing left, and nobody
 * has to wait for it: the caller waits for items, not for workers. Whoever holds an item of generation g knows that g's
 * fn and job stay, because the caller cannot publish g + 1 before that item is counted in `done`.
 *
 * Which item that is: the next of the worker's own share, an equal run of all items, or of another's when that is
 * done. So what one operator leaves of some rows in a core's cache the next one finds there (prefill of 512 tokens,
 * two threads: see docs/performance.md).
 *
 * A decode step has some two hundred jobs of a few microseconds, so a worker that runs out spins for SPIN_NS before it
 * parks on a futex; an idle engine uses no CPU. */
#define _GNU_SOURCE
#include "workers.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 256
#define SPIN_NS 50000
#define SPINS_PER_CLOCK 64 /* the clock is read once in so many turns */
#define CACHE_LINE 64

typedef struct worker {
    kvq_workers *pool;
    int index;
    pthread_t thread;
} worker;

/* Items [next, end) of the job are not begun. */
typedef struct share {
    _Alignas(CACHE_LINE) _Atomic uint32_t next;
    uint32_t end;
} share;

struct kvq_workers {
    _Alignas(CACHE_LINE) _Atomic uint64_t open; /* generation << 32 | items not taken yet */
    _Alignas(CACHE_LINE) _Atomic uint32_t done; /* items finished; the caller may wait on it */
    _Atomic uint32_t caller_waits;
    _Alignas(CACHE_LINE) _Atomic uint32_t generation; /* workers wait on it */
    _Atomic uint32_t parked;
    _Atomic bool stop;

    /* Written by the caller between jobs, read by whoever holds an item. */
    kvq_work_fn *fn;
    void *job;
    uint32_t n_items;

    int n_threads, n_started; /* the caller included; started without the caller */
    worker workers[MAX_THREADS];
    share shares[MAX_THREADS];
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void futex_wait(_Atomic uint32_t *word, uint32_t while_is) {
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, while_is, NULL, NULL,
                  0); /* woken, changed or interrupted: look again */
}

static void futex_wake(_Atomic uint32_t *word) {
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); /* nobody there is no failure */
}

/* Spins until *word is no longer `is`, for SPIN_NS at most; false when it still is. */
static bool spin_while(_Atomic uint32_t *word, uint32_t is) {
    int64_t until = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_PER_CLOCK; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != is) return true;
            relax();
        }
    } while (now_ns() < until);
    return atomic_load_explicit(word, memory_order_acquire) != is;
}

/* Items left in `open`, or 0. */
static uint32_t items_left(uint64_t open) {
    return (uint32_t)open;
}

/* For who has taken one: there are as many as have been taken, so all shares cannot be done. */
static uint32_t next_item(kvq_workers *pool, int index) {
    for (int i = index;; i = (i + 1) % pool->n_threads) {
        share *s = &pool->shares[i];
        if (atomic_load_explicit(&s->next, memory_order_relaxed) >= s->end) continue;
        uint32_t item = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed);
        if (item < s->end) return item;
    }
}

/* Takes and does items until none is left. */
static void work(kvq_workers *pool, int index) {
    uint64_t open = atomic_load_explicit(&pool->open, memory_order_acquire);
    while (items_left(open) > 0) {
        if (!atomic_compare_exchange_weak_explicit(&pool->open, &open, open - 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        uint32_t n_items = pool->n_items;
        pool->fn(pool->job, (int)next_item(pool, index), index);
        uint32_t done = atomic_fetch_add(&pool->done, 1) + 1;
        if (done == n_items && atomic_load(&pool->caller_waits)) futex_wake(&pool->done);
        open = atomic_load_explicit(&pool->open, memory_order_acquire);
    }
}

static void *worker_main(void *arg) {
    worker *w = arg;
    kvq_workers *pool = w->pool;
    uint32_t seen = 0;
    while (!atomic_load(&pool->stop)) {
        work(pool, w->index);
        if (!spin_while(&pool->generation, seen)) {
            atomic_fetch_add(&pool->parked,
                             1); /* before the kernel compares, so that the caller's look comes after one of the two */
            while (atomic_load(&pool->generation) == seen) futex_wait(&pool->generation, seen);
            atomic_fetch_sub(&pool->parked, 1);
        }
        seen = atomic_load(&pool->generation);
    }
    return NULL;
}

static void announce(kvq_workers *pool) {
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->parked) > 0) futex_wake(&pool->generation);
}

/* Waits until done is n_items. The wake needs caller_waits to be seen by whoever finishes last, and that one counts
 * first and looks afterwards, so one of the two always notices the other. */
static void wait_done(kvq_workers *pool, uint32_t n_items) {
    uint32_t done;
    while ((done = atomic_load(&pool->done)) != n_items) {
        if (spin_while(&pool->done, done)) continue;
        atomic_store(&pool->caller_waits, 1);
        done = atomic_load(&pool->done);
        if (done != n_items) futex_wait(&pool->done, done);
        atomic_store(&pool->caller_waits, 0);
    }
}

void kvq_workers_run(kvq_workers *pool, kvq_work_fn *fn, void *job, int n_items) {
    if (n_items <= 0) return;
    if (pool->n_threads == 1 || n_items == 1) {
        for (int i = 0; i < n_items; i++) fn(job, i, 0);
        return;
    }
    pool->fn = fn;
    pool->job = job;
    pool->n_items = (uint32_t)n_items;
    for (int i = 0; i < pool->n_threads; i++) {
        atomic_store_explicit(&pool->shares[i].next, (uint32_t)((int64_t)i * n_items / pool->n_threads),
                              memory_order_relaxed);
        pool->shares[i].end = (uint32_t)((int64_t)(i + 1) * n_items / pool->n_threads);
    }
    atomic_store(&pool->done, 0);
    uint64_t generation = atomic_load_explicit(&pool->generation, memory_order_relaxed) + 1;
    atomic_store(&pool->open, generation << 32 | (uint32_t)n_items);
    announce(pool);
    work(pool, 0);
    wait_done(pool, (uint32_t)n_items);
}

kvq_status kvq_workers_new(int n_threads, kvq_workers **ret, kvq_error *err) {
    if (n_threads == 0) n_threads = kvq_physical_cores();
    if (n_threads < 1 || n_threads > MAX_THREADS)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "%d compute threads: from 1 to %d are allowed", n_threads, MAX_THREADS);
    kvq_workers *pool = aligned_alloc(CACHE_LINE, (sizeof *pool + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    if (!pool) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for %d compute threads", n_threads);
    memset(pool, 0, sizeof *pool);
    pool->n_threads = n_threads;
    for (int i = 1; i < n_threads; i++) {
        worker *w = &pool->workers[i];
        *w = (worker){.pool = pool, .index = i};
        int error = pthread_create(&w->thread, NULL, worker_main, w);
        if (error) {
            kvq_workers_free(pool);
            return kvq_fail(err, KVQ_NO_MEMORY, "compute thread %d of %d does not start: %s", i, n_threads,
                            strerror(error));
        }
        pool->n_started++;
    }
    *ret = pool;
    return KVQ_OK;
}

void kvq_workers_free(kvq_workers *pool) {
    if (!pool) return;
    atomic_store(&pool->stop, true);
    announce(pool);
    for (int i = 1; i <= pool->n_started; i++) pthread_join(pool->workers[i].thread, NULL);
    free(pool);
}

int kvq_workers_count(const kvq_workers *pool) {
    return pool->n_threads;
}

/* True when no lower-numbered allowed CPU is a hardware thread of the same core. */
static bool first_of_its_core(int cpu, const cpu_set_t *allowed) {
    char path[96], list[256];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *file = fopen(path, "re");
    if (!file) return true; /* not told: count it */
    bool got = fgets(list, sizeof list, file) != NULL;
    fclose(file);
    for (const char *p = list; got && *p;) { /* "0,4" or "0-1" */
        char *end;
        long from = strtol(p, &end, 10), to = from;
        if (end == p) break;
        if (*end == '-') to = strtol(end + 1, &end, 10);
        for (long c = from; c <= to && c < cpu; c++)
            if (c >= 0 && c < CPU_SETSIZE && CPU_ISSET((size_t)c, allowed)) return false;
        p = *end == ',' ? end + 1 : "";
    }
    return true;
}

/* CPUs of the cgroup's quota, rounded up; INT_MAX when there is none. */
static int quota_cpus(void) {
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!file) return INT_MAX;
    long long quota, period;
    int n = fscanf(file, "%lld %lld", &quota, &period); /* "max 100000" matches nothing */
    fclose(file);
    if (n != 2 || quota <= 0 || period <= 0 || quota / period >= INT_MAX) return INT_MAX;
    return (int)((quota + period - 1) / period);
}

int kvq_physical_cores(void) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
    int cores = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET((size_t)cpu, &allowed)) cores += first_of_its_core(cpu, &allowed);
    int quota = quota_cpus();
    if (cores > quota) cores = quota;
    if (cores > MAX_THREADS) cores = MAX_THREADS;
    return cores > 0 ? cores : 1;
}
