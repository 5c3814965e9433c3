/* check.h: the harness of check_kernels: every operator of every instruction set against `ref`, on hard inputs, between
 * guard bytes. main.c has the tables; each suite_*.c has one family of operators; check.c is what they share.
 *
 * A suite, for each shape:
 *
 *     if (!check_begin(c, "norm_n%d_r%d", n_cols, n_rows)) continue;     // --test=PATTERN, and the case's own seed
 *     float *in = check_floats(c, n, CHECK_OUTLIERS);                    // guarded, filled from the seed
 *     float *out = check_floats(c, n, CHECK_JUNK);
 *     check_run(c, &(check_op){.call = call_norm, .job = &job, .outs = {out}, .n_outs = 1, .bound = bound});
 *     check_end(c);                                                      // frees the buffers
 *
 * check_run calls the operator of `ref`, then that of every instruction set the machine has (or of the plugin of
 * --plugin alone), by one thread and by three (a plugin: on two streams, of which the shim's second runs blocks and
 * warps backwards), each time from the same contents of all buffers. It fails the case when a result is further from
 * ref's than the bound, when two instruction sets or thread counts differ in a bit, when a byte around a buffer or in
 * an input has changed, when the operator crashes, or when the stream has an error. */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"

#define CHECK_MAX_LEVELS 8
#define CHECK_MAX_BUFFERS 64
#define CHECK_MAX_OUTS 4
#define CHECK_THREADS 3 /* of the second run; more than the machine has is fine */

typedef enum check_fill {
    CHECK_JUNK,     /* finite patterns that no kernel would produce */
    CHECK_NORMAL,   /* about normal, deviation 1 */
    CHECK_OUTLIERS, /* the same, some values 20 to 1000 times as large, some rows' worth of zeros, -0, denormals */
    CHECK_ZEROS,
    CHECK_HUGE, /* up to 1e18, so that squares stay finite in double but not in float */
    CHECK_TINY  /* 1e-38 and denormals */
} check_fill;

typedef enum check_failure {
    CHECK_PASSED,
    CHECK_WRONG_VALUE,
    CHECK_NOT_IDENTICAL, /* between instruction sets or thread counts */
    CHECK_GUARD,         /* wrote around a buffer */
    CHECK_INPUT,         /* wrote into an input */
    CHECK_CRASH,
    CHECK_STREAM /* the stream has an error */
} check_failure;

typedef struct check_level {
    const char *name; /* instruction set */
    kvq_ops ops;
    const kvq_backend *backend;
    kvq_device *device;     /* of a plugin; NULL: the CPU, whose streams need none */
    kvq_stream *one, *many; /* streams of one and of CHECK_THREADS threads */
} check_level;

typedef struct check_buffer {
    uint8_t *map;
    size_t map_bytes;
    uint8_t *data;
    size_t bytes;
    uint8_t *before; /* contents when check_run began */
} check_buffer;

typedef struct check {
    uint64_t seed;
    const char *pattern; /* of --test; NULL: all */
    bool list, quiet, bench;
    int sample; /* of --sample: one case in so many, chosen by its name; 0: all */

    check_level levels[CHECK_MAX_LEVELS]; /* [0] is ref */
    int n_levels;
    kvq_stream *one, *many; /* of the CPU */
    bool device_memory;     /* buffers have to be in memory that levels[1].device sees */

    char name[160]; /* the case */
    uint64_t rng;
    check_buffer buffers[CHECK_MAX_BUFFERS];
    int n_buffers;
    check_failure failure; /* of the case so far */

    int n_cases, n_runs, n_failed; /* runs: calls of a fast operator that were compared */
} check;

typedef void check_call(const kvq_ops *ops, kvq_stream *s, void *job);

/* What differs, for the report. */
typedef struct check_difference {
    size_t index;
    double want, got, bound;
} check_difference;

/* True when output `out` is right. */
typedef bool check_compare(void *context, int out, const void *want, const void *got, check_difference *ret);

typedef struct check_op {
    check_call *call;
    void *job;
    void *outs[CHECK_MAX_OUTS]; /* from check_alloc or check_floats */
    int n_outs;
    const double *bound;    /* per float of outs[0], absolute; or */
    check_compare *compare; /* for outputs that are no floats; gets context */
    void *context;
} check_op;

/* Begins a case; false when it is not to be run (pattern, --list). */
bool check_begin(check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
void check_run(check *c, const check_op *op);
void check_end(check *c);

/* Records a failure of the current case and prints it. */
void check_fail(check *c, check_failure failure, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Memory that every level can use: the host's, or what a device sees too. Filled with zeros, 64-byte aligned. */
void *check_take(const check *c, size_t bytes);
void check_give(const check *c, void *memory, size_t bytes);

/* Buffers of the case, 64-byte aligned, guarded, freed by check_end. */
void *check_alloc(check *c, size_t bytes);
float *check_floats(check *c, size_t n, check_fill fill);

void check_fill_floats(check *c, float *out, size_t n, check_fill fill);
uint32_t check_random(check *c);                   /* 32 random bits */
int check_random_int(check *c, int low, int high); /* inclusive */
double check_random_normal(check *c);

/* Compares floats with absolute bounds (NULL: bit for bit). Written so that a NaN fails; where want is not finite, got
 * must be the same. */
bool check_same_floats(const float *want, const float *got, size_t n, const double *bound, check_difference *ret);

/* ---- benches: --bench calls a suite's bench function, which times and prints rows ---- */

/* Nanoseconds of one call of fn, the least of several after a warm-up. */
double check_time(void (*fn)(void *arg), void *arg);

/* This machine's limits, measured once: bytes read per ns with `threads`, and u8 x s8 products per ns on one thread. */
double check_read_bandwidth(int threads);

/* One printed row: time, GB/s and the share of the read bandwidth, G products/s. Zero leaves a column out. */
void check_bench_row(const char *name, const char *level, int threads, double ns, double bytes, double products);

/* ---- suites ---- */
void suite_rows(check *c);
void suite_linear(check *c);
void suite_kv(check *c);
void suite_sample(check *c);
void suite_selftest(check *c);
void bench_linear(check *c);
void bench_kv(check *c);

#endif
