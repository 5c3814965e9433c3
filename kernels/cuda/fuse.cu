/* fuse.cu: operators that are held back until the next one is known, because a kernel can do the work of both. A decode
 * step of one sequence is bound by the number of its kernels: each waits for the one before to end.
 *
 *   linear, norm   blocks of a product of few rows have whole steps of its results, 32. A norm of these that only
 *                  another product reads is its weights, times which they are quantized, and a factor of the row,
 *                  which that product multiplies its sums by: a scale changes no code. So the first product leaves
 *                  codes and each step's sum of squares.
 *   linear, glu    of [gate | up], a block makes both halves of 32 results.
 *   norm, norm     the same of a norm's results, where a model has one behind a product.
 *   norm, linear   of rows that nobody left so: one kernel quantizes them, times the norm's weights.
 *
 * And of many rows, whose product takes them as halves (linear_halves.cu):
 *
 *   norm, linear   the norm's kernel leaves the halves beside its floats, which the product may still need.
 *   glu, linear    the same.
 *
 * All results are what the operators make one by one, bit for bit, but for those of a norm that feeds a linear in 8
 * bits: its floats are not written, and codes are made before its factor, here as for any number of rows, so that they
 * do not depend on who shares the batch. Where the next product takes floats, or something else comes, what is held is
 * launched as it is.
 *
 * Called by the operators norm, glu and linear, and before every launch (graph.cu). Until then nothing is launched for
 * what is held; what it reads, in the workspace too, is as it was, since nothing else is launched either. */
#include "stream.h"

/* As it is; of a norm or glu with its rows as halves, too, if they are wanted. */
static void launch_alone(kvq_stream *s, const kvq_half_rows *halves) {
    const kvq_cuda_held held = s->held;
    s->held.what = KVQ_HELD_NOTHING; /* first: a launch settles */
    if (held.what == KVQ_HELD_PRODUCT)
        kvq_cuda_launch_product(s, &held.product, &held.x, NULL);
    else if (held.what == KVQ_HELD_GLU)
        kvq_cuda_launch_glu(s, &held.glu, halves);
    else if (held.what != KVQ_HELD_NOTHING)
        kvq_cuda_launch_norm(s, &held.norm, NULL, halves);
}

void kvq_cuda_settle(kvq_stream *s) {
    launch_alone(s, NULL);
}

void kvq_cuda_hold_product(kvq_stream *s, const kvq_linear *job, const kvq_activations *x) {
    kvq_cuda_settle(s);
    s->held.matrix = *job->w; /* the caller's are its own again when the operator returns */
    s->held.product = *job;
    s->held.product.w = &s->held.matrix;
    s->held.x = *x;
    s->held.what = KVQ_HELD_PRODUCT;
}

/* Whether what is held makes these rows; a product, in steps that no two of its parts share. */
static bool makes_rows(const kvq_cuda_held *held, const float *rows, int n_rows, int n_cols) {
    const kvq_linear *product = &held->product;
    const kvq_norm *norm = &held->norm;
    const kvq_glu *glu = &held->glu;
    switch (held->what) {
    case KVQ_HELD_PRODUCT:
        return product->out == rows && product->n_rows == n_rows && product->w->n_out == n_cols &&
               product->w->n_parts == 1 && product->w->parts[0].n_rows == n_cols;
    case KVQ_HELD_NORM:
    case KVQ_HELD_FEEDING_NORM:
        return norm->out == rows && norm->n_rows == n_rows && norm->n_cols == n_cols;
    case KVQ_HELD_GLU:
        return glu->out == rows && glu->n_rows == n_rows && glu->ffn_dim == n_cols;
    default:
        return false;
    }
}

/* Launches the product that is held with what follows; `rows` are what it leaves. */
static void launch_held(kvq_stream *s, kvq_epilogue *then, const float *rows, int n_cols, const kvq_norm *norm) {
    const kvq_cuda_held held = s->held;
    s->held.what = KVQ_HELD_NOTHING;
    then->left = kvq_cuda_leave(s, rows, held.product.n_rows, n_cols, norm);
    kvq_cuda_launch_product(s, &held.product, &held.x, then);
}

void kvq_cuda_fuse_norm(kvq_stream *s, const kvq_norm *job) {
    const kvq_norm before = s->held.norm;
    const kvq_cuda_held_kind what = s->held.what;
    bool is_behind = makes_rows(&s->held, job->in, job->n_rows, job->n_cols);
    bool feeds = job->feeds_linear && !job->residual;
    if (!kvq_cuda_fits_left(s, job->n_cols)) {
        kvq_cuda_launch_norm(s, job, NULL, NULL);
        return;
    }
    if (feeds && is_behind && what == KVQ_HELD_NORM) {
        s->held.what = KVQ_HELD_NOTHING;
        kvq_cuda_launch_norm(s, &before, job, NULL);
    } else if (feeds && is_behind && what == KVQ_HELD_PRODUCT) {
        kvq_epilogue then = {};
        then.weight = job->weight;
        then.n_halves = 1;
        launch_held(s, &then, job->out, job->n_cols, job);
    } else {
        kvq_cuda_settle(s);
        s->left = kvq_cuda_left{}; /* out has other values from now on */
    }
    s->held.norm = *job;
    s->held.what = feeds ? KVQ_HELD_FEEDING_NORM : KVQ_HELD_NORM;
}

void kvq_cuda_fuse_glu(kvq_stream *s, const kvq_glu *job) {
    int n = job->ffn_dim;
    if (kvq_cuda_fits_left(s, n) && s->held.what == KVQ_HELD_PRODUCT &&
        makes_rows(&s->held, job->gate_up, job->n_rows, 2 * n)) {
        kvq_epilogue then = {};
        then.gated = job->out;
        then.activation = job->activation;
        then.n_halves = 2;
        launch_held(s, &then, job->out, n, NULL);
        return;
    }
    kvq_cuda_settle(s);
    s->held.glu = *job;
    s->held.what = KVQ_HELD_GLU;
}

bool kvq_cuda_take_norm(kvq_stream *s, const kvq_linear *job, kvq_norm *ret) {
    if (s->held.what != KVQ_HELD_FEEDING_NORM || !makes_rows(&s->held, job->in, job->n_rows, job->w->n_in)) {
        kvq_cuda_settle(s);
        return false;
    }
    s->held.what = KVQ_HELD_NOTHING;
    *ret = s->held.norm;
    return true;
}

bool kvq_cuda_fuse_conversion(kvq_stream *s, const kvq_linear *job, const kvq_half_rows *to) {
    if (s->held.what == KVQ_HELD_PRODUCT || !makes_rows(&s->held, job->in, job->n_rows, job->w->n_in)) return false;
    launch_alone(s, to);
    return true;
}
