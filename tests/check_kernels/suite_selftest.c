/* suite_selftest.c: the harness itself, with kernels broken on purpose: each must be caught, and for what is wrong with
 * it. A correct one, which differs from ref's bits within the bound, must pass. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "kernels/cpu/stream.h"
#include "kernels/ref/ref.h"

#define ROWS 5
#define COLS 40
#define EPS 0x1p-24

static void good(kvq_stream *s, const kvq_norm *job) {
    kvq_ref_norm(s, job);
    job->out[3] = nextafterf(job->out[3], 2 * job->out[3]);
}

static void one_row_off(kvq_stream *s, const kvq_norm *job) {
    kvq_norm shifted = *job;
    kvq_ref_norm(s, job);
    shifted.in += COLS;
    shifted.n_rows--;
    kvq_ref_norm(s, &shifted);
}

static void swapped_weight(kvq_stream *s, const kvq_norm *job) {
    float weight[COLS];
    memcpy(weight, job->weight, sizeof weight);
    weight[8] = job->weight[9];
    weight[9] = job->weight[8];
    kvq_norm swapped = *job;
    swapped.weight = weight;
    kvq_ref_norm(s, &swapped);
}

static void not_a_number(kvq_stream *s, const kvq_norm *job) {
    kvq_ref_norm(s, job);
    job->out[COLS + 1] = NAN;
}

static void writes_before(kvq_stream *s, const kvq_norm *job) {
    kvq_ref_norm(s, job);
    float *volatile out = job->out;
    out[-1] = 0;
}

static void writes_behind(kvq_stream *s, const kvq_norm *job) {
    kvq_ref_norm(s, job);
    float *volatile out = job->out;
    out[ROWS * COLS] = 0;
}

static void writes_too_little(kvq_stream *s, const kvq_norm *job) {
    kvq_norm shorter = *job;
    shorter.n_rows--;
    kvq_ref_norm(s, &shorter);
}

static void changes_input(kvq_stream *s, const kvq_norm *job) {
    kvq_ref_norm(s, job);
    ((float *)job->in)[0] += 1;
}

static void crashes(kvq_stream *s, const kvq_norm *job) {
    kvq_ref_norm(s, job);
    float *volatile out = job->out;
    out[1 << 14] = 0; /* the page behind the buffer */
}

static void depends_on_threads(kvq_stream *s, const kvq_norm *job) {
    kvq_ref_norm(s, job);
    if (kvq_cpu_stream_threads(s) > 1) job->out[7] = nextafterf(job->out[7], 2 * job->out[7]);
}

static void fails(kvq_stream *s, const kvq_norm *job) {
    kvq_ref_norm(s, job);
    kvq_stream_fail(s, KVQ_INTERNAL, "an error on purpose");
}

/* clang-format off */
static const struct broken {
    const char *name;
    kvq_norm_fn *norm;
    check_failure want;
} kernels[] = {
    {"good",               good,               CHECK_PASSED},
    {"one_row_off",        one_row_off,        CHECK_WRONG_VALUE},
    {"swapped_weight",     swapped_weight,     CHECK_WRONG_VALUE},
    {"not_a_number",       not_a_number,       CHECK_WRONG_VALUE},
    {"writes_before",      writes_before,      CHECK_GUARD},
    {"writes_behind",      writes_behind,      CHECK_GUARD},
    {"writes_too_little",  writes_too_little,  CHECK_WRONG_VALUE},
    {"changes_input",      changes_input,      CHECK_INPUT},
    {"crashes",            crashes,            CHECK_CRASH},
    {"depends_on_threads", depends_on_threads, CHECK_NOT_IDENTICAL},
    {"fails",              fails,              CHECK_STREAM},
};
/* clang-format on */

static void call_norm(const kvq_ops *ops, kvq_stream *s, void *job) {
    ops->norm(s, job);
}

/* What a check over ref and the broken kernel finds. */
static check_failure found(check *c, const struct broken *kernel) {
    check inner = {.seed = c->seed, .quiet = true, .one = c->one, .many = c->many, .n_levels = 2};
    inner.levels[0] = c->levels[0];
    inner.levels[1] = c->levels[0];
    inner.levels[1].name = kernel->name;
    inner.levels[1].ops.norm = kernel->norm;
    if (!check_begin(&inner, "selftest_inner_%s", kernel->name)) return CHECK_PASSED;
    kvq_norm job = {.n_rows = ROWS, .n_cols = COLS, .eps = 1e-6f};
    job.in = check_floats(&inner, ROWS * COLS, CHECK_NORMAL);
    job.weight = check_floats(&inner, COLS, CHECK_NORMAL);
    job.out = check_floats(&inner, ROWS * COLS, CHECK_JUNK);
    double bound[ROWS * COLS];
    for (int i = 0; i < ROWS * COLS; i++) bound[i] = 10 * EPS * fabs(job.in[i] * job.weight[i % COLS]);
    check_run(&inner, &(check_op){.call = call_norm, .job = &job, .outs = {job.out}, .n_outs = 1, .bound = bound});
    check_end(&inner);
    c->one->error = c->many->error = (kvq_error){0}; /* what `fails` left there */
    return inner.failure;
}

void suite_selftest(check *c) {
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        if (!check_begin(c, "selftest_%s", kernels[i].name)) continue;
        check_failure got = found(c, &kernels[i]);
        c->n_runs++;
        if (got != kernels[i].want)
            check_fail(c, CHECK_WRONG_VALUE, "the harness reports %d instead of %d for this kernel", got,
                       kernels[i].want);
        check_end(c);
    }
}
