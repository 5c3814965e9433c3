/* rows_tmpl.h: norm, glu and softcap of some rows. Included after a simd_*.h by rows_generic.c, rows_avx2.c,
 * rows_avx512.c; called through rows.c. Element i of a row is in lane i % 16, so a row that is no multiple of 16 long
 * ends in a vector filled up with zeros: the arithmetic is the same for every element, wherever it stands.
 *
 * They cannot avoid reading and writing their rows once; norm reads its row twice, the second time from the cache. */
#include <math.h>

#include "rows.h"
#include "vmath_tmpl.h"

V_INLINE v16f load_some(const float *p, int n) { /* n < 16 values, zeros behind */
    float lanes[V_LANES] = {0};
    memcpy(lanes, p, (size_t)n * sizeof *p);
    return v_load(lanes);
}

V_INLINE void store_some(float *p, v16f x, int n) {
    float lanes[V_LANES];
    v_store(lanes, x);
    memcpy(p, lanes, (size_t)n * sizeof *p);
}

/* n counts from the vector's first element to the row's end: any number above 0. */
V_INLINE v16f load_row(const float *p, int n) {
    return n >= V_LANES ? v_load(p) : load_some(p, n);
}
V_INLINE void store_row(float *p, v16f x, int n) {
    if (n >= V_LANES)
        v_store(p, x);
    else
        store_some(p, x, n);
}

static void norm_row(const kvq_norm *job, int r) {
    int n = job->n_cols;
    const float *in = job->in + (size_t)r * n, *residual = job->residual ? job->residual + (size_t)r * n : NULL;
    float *out = job->out + (size_t)r * n;
    v16f sum = v_zero();
    for (int i = 0; i < n; i += V_LANES) {
        v16f x = load_row(in + i, n - i);
        sum = v_fma(x, x, sum);
    }
    v16f factor = v_set1(1.0f / sqrtf(v_hsum(sum) / (float)n + job->eps));
    for (int i = 0; i < n; i += V_LANES) {
        v16f y = v_mul(load_row(in + i, n - i), factor);
        if (job->weight) y = v_mul(y, load_row(job->weight + i, n - i));
        if (residual) y = v_add(y, load_row(residual + i, n - i));
        store_row(out + i, y, n - i);
    }
}

static void norm_rows(const kvq_norm *job, int begin, int n) {
    for (int r = begin; r < begin + n; r++) norm_row(job, r);
}

/* x / (1 + exp(-u)): silu with u = x. gelu_tanh too, as (1 + tanh(v)) / 2 = 1 / (1 + exp(-2 v)), which spares the
 * difference that costs tanh its digits. */
V_INLINE v16f sigmoid_times(v16f x, v16f minus_u) {
    return v_div(x, v_add(v_set1(1.0f), v_exp(minus_u)));
}

V_INLINE v16f silu(v16f x) {
    return sigmoid_times(x, v_neg(x));
}

V_INLINE v16f gelu(v16f x) {
    v16f cubed = v_mul(v_mul(x, x), x);
    return sigmoid_times(x, v_mul(v_fma(cubed, v_set1(0.044715f), x), v_set1(-1.59576912f))); /* -2 sqrt(2 / pi) */
}

/* Values ahead that both inputs of glu are asked for: a division and an exponential do not hide their latency. */
#define AHEAD (8 * V_LANES)

static void glu_row(const kvq_glu *job, int r) {
    int n = job->ffn_dim;
    const float *gate = job->gate_up + (size_t)r * 2 * n, *up = gate + n;
    float *out = job->out + (size_t)r * n;
    for (int i = 0; i < n; i += V_LANES) {
        v_prefetch(gate + i + AHEAD);
        v_prefetch(up + i + AHEAD);
        v16f x = load_row(gate + i, n - i);
        v16f y = job->activation == KVQ_ACT_SILU ? silu(x) : gelu(x);
        store_row(out + i, v_mul(y, load_row(up + i, n - i)), n - i);
    }
}

static void glu_rows(const kvq_glu *job, int begin, int n) {
    for (int r = begin; r < begin + n; r++) glu_row(job, r);
}

static void softcap_values(float *x, size_t n, float cap) {
    v16f caps = v_set1(cap);
    for (size_t i = 0; i < n; i += V_LANES) {
        int left = n - i < V_LANES ? (int)(n - i) : V_LANES;
        v16f y = v_mul(caps, v_tanh(v_div(load_row(x + i, left), caps)));
        store_row(x + i, y, left);
    }
}

static void norm(kvq_stream *s, const kvq_norm *job) {
    kvq_cpu_norm(s, job, norm_rows);
}
static void glu(kvq_stream *s, const kvq_glu *job) {
    kvq_cpu_glu(s, job, glu_rows);
}
static void softcap(kvq_stream *s, const kvq_softcap *job) {
    kvq_cpu_softcap(s, job, softcap_values);
}

void V_NAME(kvq_rows_fill)(kvq_ops *ops) {
    ops->norm = norm;
    ops->glu = glu;
    ops->softcap = softcap;
    ops->embed = kvq_cpu_embed;
}
