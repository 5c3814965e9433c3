/* suite_rows.c: the operators that work on rows alone: embed, norm, glu, rope_table, gather, softcap. */
#include <math.h>
#include <stdlib.h>

#include "check.h"

#define EPS 0x1p-24 /* a float's rounding error, relative */

static const int widths[] = {16, 32, 64, 100, 101, 576, 640, 1152, 2050, 8224};
static const int row_counts[] = {0, 1, 2, 7, 33};
static const check_fill fills[] = {CHECK_NORMAL, CHECK_OUTLIERS, CHECK_ZEROS, CHECK_HUGE, CHECK_TINY};
static const char *const fill_names[] = {"normal", "outliers", "zeros", "huge", "tiny"};

#define COUNT(array) ((int)(sizeof array / sizeof *array))

static double *new_bounds(size_t n) {
    double *ret = calloc(n > 0 ? n : 1, sizeof *ret);
    if (!ret) abort();
    return ret;
}

static void call_norm(const kvq_ops *ops, kvq_stream *s, void *job) {
    ops->norm(s, job);
}

/* The mean: a lane adds n / 16 squares, so (n / 16 + 6) roundings of a sum of positive terms, halved by the root; then
 * the root, division and two products; then the sum with the residual. */
static void norm_case(check *c, int n, int r, int variant, int fill) {
    bool weighted = variant & 1, added = variant & 2, in_place = variant & 4;
    if (!check_begin(c, "norm_n%d_r%d_%s%s%s%s", n, r, fill_names[fill], weighted ? "_weight" : "",
                     added ? "_residual" : "", in_place ? "_inplace" : ""))
        return;
    size_t all = (size_t)n * r;
    float *in = check_floats(c, all, fills[fill]);
    kvq_norm job = {.in = in, .eps = 1e-5f, .n_rows = r, .n_cols = n};
    job.weight = weighted ? check_floats(c, n, CHECK_OUTLIERS) : NULL;
    job.residual = added ? check_floats(c, all, CHECK_NORMAL) : NULL;
    job.out = in_place ? (added ? (float *)job.residual : in) : check_floats(c, all, CHECK_JUNK);
    double *bound = new_bounds(all);
    for (size_t row = 0; row < (size_t)r; row++) {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += (double)in[row * n + i] * in[row * n + i];
        double factor = 1 / sqrt(sum / n + 1e-5);
        for (int i = 0; i < n; i++) {
            double y = fabs(in[row * n + i] * factor * (weighted ? job.weight[i] : 1));
            double plus = added ? fabs((double)job.residual[row * n + i]) : 0;
            double tiny = 0x1p-149 * ((weighted ? fabs((double)job.weight[i]) : 1) + 2); /* denormals */
            bound[row * n + i] = EPS * (y * ((n / 16.0 + 7) / 2 + 6) + 2 * plus) + tiny;
        }
    }
    check_run(c, &(check_op){.call = call_norm, .job = &job, .outs = {job.out}, .n_outs = 1, .bound = bound});
    check_end(c);
    free(bound);
}

static void call_glu(const kvq_ops *ops, kvq_stream *s, void *job) {
    ops->glu(s, job);
}

/* sigmoid(u) = 1 / (1 + e^-u), the argument of e known to EPS |u| per rounding (four of them in gelu, one in silu), e
 * to 3 EPS, sum, quotient and two products: relative error of the result EPS (7 + k |u|). Where e^-u leaves the floats
 * the kernels give 0 and the truth is below 1e-36. */
static void glu_case(check *c, int n, int r, int activation, int fill) {
    if (!check_begin(c, "glu_%s_n%d_r%d_%s", activation == KVQ_ACT_SILU ? "silu" : "gelu", n, r, fill_names[fill]))
        return;
    size_t all = (size_t)n * r;
    kvq_glu job = {.activation = (kvq_activation)activation, .n_rows = r, .ffn_dim = n};
    job.gate_up = check_floats(c, 2 * all, fills[fill]);
    job.out = check_floats(c, all, CHECK_JUNK);
    double *bound = new_bounds(all);
    for (size_t i = 0; i < all; i++) {
        size_t row = i / n, col = i % n;
        double x = job.gate_up[row * 2 * n + col], up = job.gate_up[row * 2 * n + n + col];
        double u = activation == KVQ_ACT_SILU ? x : 1.5957691216057308 * (x + 0.044715 * x * x * x);
        double y = fabs(x / (1 + exp(-u)) * up);
        double k = activation == KVQ_ACT_SILU ? 2 : 6;
        bound[i] = EPS * y * (8 + k * fmin(fabs(u), 88)) + 1e-36 * fabs(x * up) + 1e-44;
    }
    check_run(c, &(check_op){.call = call_glu, .job = &job, .outs = {job.out}, .n_outs = 1, .bound = bound});
    check_end(c);
    free(bound);
}

static void call_softcap(const kvq_ops *ops, kvq_stream *s, void *job) {
    ops->softcap(s, job);
}

/* tanh within 4e-7 absolute, plus what the rounding of x / cap does to it. */
static void softcap_case(check *c, int n, int r, int fill) {
    if (!check_begin(c, "softcap_n%d_r%d_%s", n, r, fill_names[fill])) return;
    size_t all = (size_t)n * r;
    kvq_softcap job = {.cap = 30, .n_rows = r, .n_cols = n};
    job.x = check_floats(c, all, fills[fill]);
    double *bound = new_bounds(all);
    for (size_t i = 0; i < all; i++) bound[i] = 30 * 4e-7;
    check_run(c, &(check_op){.call = call_softcap, .job = &job, .outs = {job.x}, .n_outs = 1, .bound = bound});
    check_end(c);
    free(bound);
}

static void call_rope_table(const kvq_ops *ops, kvq_stream *s, void *job) {
    ops->rope_table(s, job);
}

static void rope_table_case(check *c, int n_rot, int r, bool factors) {
    if (!check_begin(c, "rope_table_n%d_r%d%s", n_rot, r, factors ? "_factors" : "")) return;
    kvq_rope rope = {.n_rot = n_rot, .freq_base = 500000, .scale = 0.125};
    float *divisors = check_floats(c, n_rot / 2, CHECK_NORMAL);
    for (int i = 0; i < n_rot / 2; i++) divisors[i] = 1 + fabsf(divisors[i]);
    if (factors) rope.factors = divisors;
    int *pos = check_alloc(c, (size_t)r * sizeof *pos);
    for (int i = 0; i < r; i++) pos[i] = check_random_int(c, 0, 32767);
    kvq_rope_table job = {.rope = &rope, .pos = pos, .n_rows = r};
    job.table = check_floats(c, (size_t)r * n_rot, CHECK_JUNK);
    double *bound = new_bounds((size_t)r * n_rot);
    for (size_t i = 0; i < (size_t)r * n_rot; i++) bound[i] = 2 * EPS;
    check_run(c, &(check_op){.call = call_rope_table, .job = &job, .outs = {job.table}, .n_outs = 1, .bound = bound});
    check_end(c);
    free(bound);
}

static void call_gather(const kvq_ops *ops, kvq_stream *s, void *job) {
    ops->gather(s, job);
}

static void gather_case(check *c, int n, int r) {
    if (!check_begin(c, "gather_n%d_r%d", n, r)) return;
    int *rows = check_alloc(c, (size_t)r * sizeof *rows);
    for (int i = 0; i < r; i++) rows[i] = check_random_int(c, 0, 8);
    kvq_gather job = {.in = check_floats(c, 9 * (size_t)n, CHECK_OUTLIERS), .rows = rows, .n_rows = r, .n_cols = n};
    job.out = check_floats(c, (size_t)r * n, CHECK_JUNK);
    double *bound = new_bounds((size_t)r * n);
    check_run(c, &(check_op){.call = call_gather, .job = &job, .outs = {job.out}, .n_outs = 1, .bound = bound});
    check_end(c);
    free(bound);
}

void suite_rows(check *c) {
    for (int w = 0; w < COUNT(widths); w++)
        for (int r = 0; r < COUNT(row_counts); r++) {
            gather_case(c, widths[w], row_counts[r]);
            for (int f = 0; f < COUNT(fills); f++) {
                for (int variant = 0; variant < 8; variant++) norm_case(c, widths[w], row_counts[r], variant, f);
                glu_case(c, widths[w], row_counts[r], KVQ_ACT_SILU, f);
                glu_case(c, widths[w], row_counts[r], KVQ_ACT_GELU_TANH, f);
                softcap_case(c, widths[w], row_counts[r], f);
            }
        }
    static const int rots[] = {2, 32, 64, 80, 96, 128, 256};
    for (int i = 0; i < COUNT(rots); i++) {
        rope_table_case(c, rots[i], 5, false);
        rope_table_case(c, rots[i], 5, true);
    }
}
