/* suite_linear.c: `linear`, `refine` and `embed`, for every weight format, odd output counts, fused matrices, every row
 * count that a blocking could treat apart. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "kernels/formats.h"
#include "kernels/ref/activations.h"
#include "tests/shapes.h"

#define EPS 0x1p-24
#define COUNT(array) ((int)(sizeof array / sizeof *array))

#define CUBLAS_ROWS 1024 /* of a product that cuBLAS makes where it does (kernels/cuda/linear_halves.cuh), at least */
#define SCALES 0.02      /* deviation of the scales, where they are not to be too large for something */

/* Random bytes of a format whose scales are reasonable: every half in the block's scale places is set small. The
 * formats of this table say where their halves are; a byte of any other place may be anything. */
static const struct halves {
    kvq_format format;
    int at[2];
} scale_places[] = {
    {KVQ_FORMAT_Q4_0, {0, -1}},   {KVQ_FORMAT_Q4_1, {0, 2}},    {KVQ_FORMAT_Q5_0, {0, -1}},
    {KVQ_FORMAT_Q5_1, {0, 2}},    {KVQ_FORMAT_Q8_0, {0, -1}},   {KVQ_FORMAT_Q2_K, {80, 82}},
    {KVQ_FORMAT_Q3_K, {108, -1}}, {KVQ_FORMAT_Q4_K, {0, 2}},    {KVQ_FORMAT_Q5_K, {0, 2}},
    {KVQ_FORMAT_Q6_K, {208, -1}}, {KVQ_FORMAT_IQ4_NL, {0, -1}}, {KVQ_FORMAT_IQ4_XS, {0, -1}},
    {KVQ_FORMAT_MXFP4, {-1, -1}},
};

static void put_half(uint8_t *at, float value) {
    uint16_t half = kvq_float_to_half(value);
    memcpy(at, &half, sizeof half);
}

static void random_block(check *c, kvq_format format, uint8_t *block, double scales) {
    const kvq_format_info *info = kvq_format_get(format);
    for (int i = 0; i < info->block_bytes; i++) block[i] = (uint8_t)check_random(c);
    if (format == KVQ_FORMAT_MXFP4) block[0] = (uint8_t)(check_random_int(c, 110, 130) + (int)log2(scales / SCALES));
    for (int s = 0; s < COUNT(scale_places); s++)
        for (int h = 0; h < 2 && scale_places[s].format == format; h++)
            if (scale_places[s].at[h] >= 0)
                put_half(block + scale_places[s].at[h],
                         (float)fmax(fmin(check_random_normal(c) * scales, 60000), -60000));
}

static void random_float(check *c, kvq_format format, uint8_t *at) {
    float value = (float)check_random_normal(c);
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t half = format == KVQ_FORMAT_F16 ? kvq_float_to_half(value) : (uint16_t)(bits >> 16);
    if (format == KVQ_FORMAT_F32)
        memcpy(at, &value, sizeof value);
    else
        memcpy(at, &half, sizeof half);
}

/* Adds a part of n rows in the format to the matrix, its data in a guarded buffer. */
static void add_scaled_part(check *c, kvq_matrix *m, kvq_format format, int n_rows, double scales) {
    const kvq_format_info *info = kvq_format_get(format);
    size_t n_blocks = (size_t)n_rows * (m->n_in / info->block_len);
    uint8_t *file = malloc(n_blocks * info->block_bytes);
    if (!file) abort();
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *block = file + b * info->block_bytes;
        if (info->group_len == 0)
            random_float(c, format, block);
        else
            random_block(c, format, block, scales);
    }
    kvq_matrix_part *part = &m->parts[m->n_parts++];
    *part = (kvq_matrix_part){.layout = kvq_layout_of(format), .row_begin = m->n_out, .n_rows = n_rows};
    part->data = check_alloc(c, kvq_matrix_part_bytes(&part->layout, n_rows, m->n_in, &part->tile_bytes));
    kvq_matrix_repack(part, format, file, n_rows, m->n_in);
    m->n_out += n_rows;
    free(file);
}

static void add_part(check *c, kvq_matrix *m, kvq_format format, int n_rows) {
    add_scaled_part(c, m, format, n_rows, SCALES);
}

/* sum over groups of |scale d dot| + |min d S| (coded) or of |w x| (floats), the magnitude that roundings are relative
 * to; ret_n gets the number of terms. */
static double magnitude(const kvq_matrix *m, int o, const float *x, int *ret_n) {
    const kvq_matrix_part *part = kvq_matrix_part_of(m, o);
    int n = m->n_in, group = part->layout.group;
    float *values = calloc((size_t)n * 4, sizeof *values), *d = values + n, *scale = d + n, *min = scale + n;
    int8_t *q = malloc(n);
    uint8_t *code = malloc(n);
    int *sums = calloc(n, sizeof *sums);
    if (!values || !q || !code || !sums) abort();
    double sum = 0;
    if (part->layout.bits == 0) {
        kvq_matrix_row(m, o, values);
        for (int i = 0; i < n; i++) sum += fabs((double)values[i] * x[i]);
    } else {
        kvq_ref_quantize(x, n, q, d, sums);
        kvq_matrix_part_codes(part, o - part->row_begin, n, code, scale, min);
        for (int g = 0; g < n / group; g++) {
            int dot = 0, total = 0;
            for (int i = g * group; i < (g + 1) * group; i++) {
                dot += (code[i] - part->layout.zero) * q[i];
                total += q[i];
            }
            double dg = d[g * group / KVQ_ACT_GROUP];
            sum += fabs(scale[g] * dg * dot) + fabs(min[g] * dg * total);
        }
    }
    *ret_n = part->layout.bits ? n / group * (part->layout.has_min ? 2 : 1) : n;
    free(values);
    free(q);
    free(code);
    free(sums);
    return sum;
}

static void call_linear(const kvq_ops *ops, kvq_stream *s, void *job) {
    ops->linear(s, job);
}

/* A chain of n fused additions: each rounds a partial sum, which is at most the magnitude; a term has one rounding of
 * its own (scale d, or d S), and bias and residual two more. */
static void bounds_of(const kvq_linear *job, double *bound) {
    for (int r = 0; r < job->n_rows; r++)
        for (int o = 0; o < job->w->n_out; o++) {
            int n = 0;
            double sum = magnitude(job->w, o, job->in + (size_t)r * job->w->n_in, &n);
            size_t at = (size_t)r * job->w->n_out + o;
            double plus =
                (job->bias ? fabs((double)job->bias[o]) : 0) + (job->residual ? fabs((double)job->residual[at]) : 0);
            bound[at] = EPS * (sum * (n + 4) + 3 * plus) + 1e-40;
        }
}

typedef struct linear_shape {
    kvq_format formats[KVQ_MATRIX_PARTS];
    int n_parts, n_outs[KVQ_MATRIX_PARTS], n_in, n_rows;
    bool bias, residual;
    check_fill fill;
} linear_shape;

static void linear_case(check *c, const char *name, const linear_shape *shape) {
    if (!check_begin(c, "linear_%s_out%d_in%d_r%d%s%s%s", name, shape->n_outs[0], shape->n_in, shape->n_rows,
                     shape->bias ? "_bias" : "", shape->residual ? "_residual" : "",
                     shape->fill == CHECK_HUGE ? "_huge" : ""))
        return;
    kvq_matrix m = {.n_in = shape->n_in};
    for (int p = 0; p < shape->n_parts; p++) add_part(c, &m, shape->formats[p], shape->n_outs[p]);
    size_t n = (size_t)shape->n_rows * m.n_out;
    kvq_linear job = {.w = &m, .n_rows = shape->n_rows};
    job.in = check_floats(c, (size_t)shape->n_rows * m.n_in, shape->fill);
    job.bias = shape->bias ? check_floats(c, m.n_out, CHECK_OUTLIERS) : NULL;
    job.out = check_floats(c, n, shape->residual ? CHECK_OUTLIERS : CHECK_JUNK);
    job.residual = shape->residual ? job.out : NULL;
    double *bound = calloc(n > 0 ? n : 1, sizeof *bound);
    if (!bound) abort();
    bounds_of(&job, bound);
    check_run(c, &(check_op){.call = call_linear, .job = &job, .outs = {job.out}, .n_outs = 1, .bound = bound});
    check_end(c);
    free(bound);
}

static void formats_cases(check *c, kvq_format format) {
    static const int outs[] = {1, 16, 40, 100};
    static const int row_counts[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 16, 23, 24, 25, 29, 37, 65, 130};
    const char *name = kvq_format_get(format)->name;
    linear_shape s = {.formats = {format}, .n_parts = 1, .fill = CHECK_OUTLIERS};
    s.n_in = kvq_format_get(format)->block_len == 256 ? 512 : 96;
    for (int r = 0; r < COUNT(row_counts); r++) {
        s.n_outs[0] = outs[r % COUNT(outs)];
        s.n_rows = row_counts[r];
        s.bias = r & 1;
        s.residual = r & 2;
        linear_case(c, name, &s);
    }
    s = (linear_shape){/* more panels than pass a tile at once */
                       .formats = {format}, .n_parts = 1, .n_outs = {40},
                       .n_in = 2560,        .n_rows = 70, .fill = CHECK_OUTLIERS};
    linear_case(c, name, &s);
    for (int o = 0; o < COUNT(outs); o++) {
        s = (linear_shape){
            .formats = {format}, .n_parts = 1, .n_outs = {outs[o]}, .n_in = 2560, .n_rows = 1, .fill = CHECK_OUTLIERS};
        linear_case(c, name, &s);
        s.fill = CHECK_HUGE;
        s.n_rows = 5;
        linear_case(c, name, &s);
    }
}

static void fused_cases(check *c) {
    static const int row_counts[] = {1, 6, 20};
    for (int r = 0; r < COUNT(row_counts); r++) {
        linear_shape s = {.formats = {KVQ_FORMAT_Q5_0, KVQ_FORMAT_Q5_0, KVQ_FORMAT_Q8_0},
                          .n_parts = 3,
                          .n_outs = {48, 16, 16},
                          .n_in = 96,
                          .n_rows = row_counts[r],
                          .bias = true,
                          .fill = CHECK_OUTLIERS};
        linear_case(c, "fused_q5_0_q8_0", &s);
        s = (linear_shape){.formats = {KVQ_FORMAT_Q4_K, KVQ_FORMAT_Q6_K, KVQ_FORMAT_F16},
                           .n_parts = 3,
                           .n_outs = {40, 24, 17},
                           .n_in = 256,
                           .n_rows = row_counts[r],
                           .residual = true,
                           .fill = CHECK_OUTLIERS};
        linear_case(c, "fused_q4_k_q6_k_f16", &s);
    }
}

/* ---- products right behind what made their activations, which a backend may have quantized then ---- */

typedef struct behind_job {
    kvq_norm norm;
    kvq_glu glu;
    kvq_gather gather;
    kvq_linear linear[4]; /* behind norm, behind glu, behind norm and a gather over it, and again */
} behind_job;

static void call_behind(const kvq_ops *ops, kvq_stream *s, void *job) {
    const behind_job *b = job;
    ops->norm(s, &b->norm);
    ops->linear(s, &b->linear[0]);
    ops->glu(s, &b->glu);
    ops->linear(s, &b->linear[1]);
    ops->norm(s, &b->norm);
    ops->gather(s, &b->gather);
    ops->linear(s, &b->linear[2]);
    ops->linear(s, &b->linear[3]);
}

/* Rows from value `at` of an output on. What a wrong operator's activations would give differs by as much as a result
 * is large; what another order of norm's sum does to a few codes, by a hundredth of that. */
static bool are_rows_near(const float *want, const float *got, size_t at, int n_rows, int n_cols,
                          check_difference *ret) {
    for (int r = 0; r < n_rows; r++, at += (size_t)n_cols) {
        double squares = 0;
        for (int o = 0; o < n_cols; o++) squares += (double)want[at + (size_t)o] * want[at + (size_t)o];
        double bound = 0.05 * sqrt(squares / n_cols);
        for (size_t i = at; i < at + (size_t)n_cols; i++) {
            *ret = (check_difference){i, (double)want[i], (double)got[i], bound};
            if (!(fabs((double)got[i] - (double)want[i]) <= bound)) return false;
        }
    }
    return true;
}

static bool compare_behind(void *context, int out, const void *want, const void *got, check_difference *ret) {
    const behind_job *b = context;
    if (out > 0) return true; /* the activations, which suite_rows checks */
    return are_rows_near(want, got, 0, 4 * b->linear[0].n_rows, b->linear[0].w->n_out, ret);
}

static void behind_case(check *c, kvq_format format, int n_rows) {
    enum { N_IN = 512, N_OUT = 48 };
    if (!check_begin(c, "linear_%s_behind_r%d", kvq_format_get(format)->name, n_rows)) return;
    kvq_matrix m = {.n_in = N_IN};
    add_part(c, &m, format, N_OUT);
    size_t n = (size_t)n_rows * N_IN, n_results = (size_t)n_rows * N_OUT;
    float *x = check_floats(c, n, CHECK_JUNK), *results = check_floats(c, 4 * n_results, CHECK_JUNK);
    int *rows = check_alloc(c, (size_t)n_rows * sizeof *rows);
    for (int r = 0; r < n_rows; r++) rows[r] = n_rows - 1 - r;
    behind_job job = {
        .norm = {.out = x, .in = check_floats(c, n, CHECK_NORMAL), .eps = 1e-5f, .n_rows = n_rows, .n_cols = N_IN},
        .glu = {.out = x, .gate_up = check_floats(c, 2 * n, CHECK_NORMAL), .n_rows = n_rows, .ffn_dim = N_IN},
        .gather = {.out = x, .in = check_floats(c, n, CHECK_NORMAL), .rows = rows, .n_rows = n_rows, .n_cols = N_IN}};
    for (int i = 0; i < 4; i++)
        job.linear[i] = (kvq_linear){.out = results + (size_t)i * n_results, .in = x, .w = &m, .n_rows = n_rows};
    check_run(c, &(check_op){.call = call_behind,
                             .job = &job,
                             .outs = {results, x},
                             .n_outs = 2,
                             .compare = compare_behind,
                             .context = &job});
    check_end(c);
}

static void behind_cases(check *c) {
    static const kvq_format formats[] = {KVQ_FORMAT_Q4_0, KVQ_FORMAT_Q4_K, KVQ_FORMAT_Q6_K, KVQ_FORMAT_F16};
    static const int row_counts[] = {1, 9, 64, 65};
    for (int f = 0; f < COUNT(formats); f++)
        for (int r = 0; r < COUNT(row_counts); r++) behind_case(c, formats[f], row_counts[r]);
}

/* ---- a layer's products with norm and glu between them that only the next product reads: a backend may make those of
 * one kernel with the product before or behind ---- */

enum { CHAIN_HIDDEN = 512, CHAIN_FFN = 256 };

typedef struct chain_job {
    kvq_linear first; /* y += W1 x; feeds norm */
    kvq_norm norm;    /* h */
    kvq_linear gate_up;
    kvq_glu glu;
    kvq_linear down; /* t = W3 act */
    kvq_norm post;   /* y2 += norm(t) */
    kvq_norm again;  /* of y2, feeds the last: once right behind what made its rows, once not */
    kvq_linear last, other;
} chain_job;

static void call_chain(const kvq_ops *ops, kvq_stream *s, void *job) {
    const chain_job *b = job;
    ops->linear(s, &b->first);
    ops->norm(s, &b->norm);
    ops->linear(s, &b->gate_up);
    ops->glu(s, &b->glu);
    ops->linear(s, &b->down);
    ops->norm(s, &b->post);
    ops->norm(s, &b->again);
    ops->linear(s, &b->last);
    ops->norm(s, &b->again); /* behind what did not make its rows */
    ops->linear(s, &b->other);
}

/* As compare_behind, of each tensor of the results by itself: y, gate_up, t, y2, last, other. */
static bool compare_chain(void *context, int out, const void *want, const void *got, check_difference *ret) {
    const chain_job *b = context;
    const int n_cols[] = {CHAIN_HIDDEN, 2 * CHAIN_FFN, CHAIN_HIDDEN, CHAIN_HIDDEN, CHAIN_HIDDEN, CHAIN_HIDDEN};
    int n_rows = b->first.n_rows;
    size_t at = 0;
    for (int t = 0; out == 0 && t < COUNT(n_cols); t++) { /* the other outs need not be written */
        if (!are_rows_near(want, got, at, n_rows, n_cols[t], ret)) return false;
        at += (size_t)n_rows * (size_t)n_cols[t];
    }
    return true;
}

/* The tensors of a chain, of so many rows. */
typedef struct chain_tensors {
    kvq_matrix square, gate_up, down, last;
    const float *in, *weight; /* weight: of the norms, or NULL */
    float *results, *h, *act;
    int n_rows;
    kvq_activation activation;
} chain_tensors;

enum { CHAIN_RESULTS = 5 * CHAIN_HIDDEN + 2 * CHAIN_FFN }; /* of a row */

static chain_tensors chain_tensors_of(check *c, const kvq_format formats[3], int n_rows, bool has_weight) {
    chain_tensors x = {.square = {.n_in = CHAIN_HIDDEN}, .n_rows = n_rows};
    x.gate_up = x.last = x.square;
    x.down.n_in = CHAIN_FFN;
    add_part(c, &x.square, formats[0], CHAIN_HIDDEN);
    add_part(c, &x.gate_up, formats[0], 2 * CHAIN_FFN);
    add_part(c, &x.down, formats[1], CHAIN_HIDDEN);
    add_part(c, &x.last, formats[0], CHAIN_HIDDEN / 2);
    add_part(c, &x.last, formats[2], CHAIN_HIDDEN / 2);
    x.in = check_floats(c, (size_t)n_rows * CHAIN_HIDDEN, CHECK_NORMAL);
    x.weight = has_weight ? check_floats(c, CHAIN_HIDDEN, CHECK_NORMAL) : NULL;
    x.results = check_floats(c, (size_t)n_rows * CHAIN_RESULTS, CHECK_NORMAL);
    x.h = check_floats(c, (size_t)n_rows * CHAIN_HIDDEN, CHECK_JUNK);
    x.act = check_floats(c, (size_t)n_rows * CHAIN_FFN, CHECK_JUNK);
    x.activation = has_weight ? KVQ_ACT_SILU : KVQ_ACT_GELU_TANH;
    return x;
}

/* Of n_rows rows from `row` on. */
static chain_job chain_of(const chain_tensors *x, int row, int n_rows) {
    size_t all = (size_t)x->n_rows, r = (size_t)row, n = all * CHAIN_HIDDEN;
    float *y = x->results + r * CHAIN_HIDDEN, *both = x->results + n + r * 2 * CHAIN_FFN;
    float *t = x->results + n + all * 2 * CHAIN_FFN + r * CHAIN_HIDDEN, *y2 = t + n, *last = y2 + n, *other = last + n;
    float *h = x->h + r * CHAIN_HIDDEN, *act = x->act + r * CHAIN_FFN;
    const kvq_norm norm = {
        .out = h, .in = y, .weight = x->weight, .eps = 1e-5f, .n_rows = n_rows, .n_cols = CHAIN_HIDDEN};
    chain_job job = {.norm = norm, .post = norm, .again = norm};
    job.first =
        (kvq_linear){.out = y, .in = x->in + r * CHAIN_HIDDEN, .w = &x->square, .residual = y, .n_rows = n_rows};
    job.gate_up = (kvq_linear){.out = both, .in = h, .w = &x->gate_up, .n_rows = n_rows};
    job.glu =
        (kvq_glu){.out = act, .gate_up = both, .activation = x->activation, .n_rows = n_rows, .ffn_dim = CHAIN_FFN};
    job.down = (kvq_linear){.out = t, .in = act, .w = &x->down, .n_rows = n_rows};
    job.post.in = t;
    job.post.out = y2;
    job.post.residual = y2;
    job.again.in = y2;
    job.norm.feeds_linear = job.again.feeds_linear = true;
    job.last = (kvq_linear){.out = last, .in = h, .w = &x->last, .n_rows = n_rows};
    job.other = (kvq_linear){.out = other, .in = h, .w = &x->square, .n_rows = n_rows};
    return job;
}

static void chain_case(check *c, const kvq_format formats[3], int n_rows, bool has_weight) {
    if (!check_begin(c, "linear_%s_%s_%s_chain_r%d%s", kvq_format_get(formats[0])->name,
                     kvq_format_get(formats[1])->name, kvq_format_get(formats[2])->name, n_rows,
                     has_weight ? "_weight" : ""))
        return;
    chain_tensors x = chain_tensors_of(c, formats, n_rows, has_weight);
    chain_job job = chain_of(&x, 0, n_rows);
    check_run(c, &(check_op){.call = call_chain,
                             .job = &job,
                             .outs = {x.results, x.h, x.act},
                             .n_outs = 3,
                             .compare = compare_chain,
                             .context = &job});
    check_end(c);
}

/* The same rows together and in pieces: not a bit may differ. */
enum { PIECES = 4 };
static const int piece_rows[PIECES] = {1, 8, 17, 44}, all_pieces = 70;

typedef struct pieces_job {
    chain_job whole, pieces[PIECES];
} pieces_job;

static void call_pieces(const kvq_ops *ops, kvq_stream *s, void *job) {
    pieces_job *b = job;
    call_chain(ops, s, &b->whole);
    for (int i = 0; i < PIECES; i++) call_chain(ops, s, &b->pieces[i]);
}

static bool compare_pieces(void *context, int out, const void *want, const void *got, check_difference *ret) {
    const pieces_job *b = context;
    (void)want;
    if (out > 0) return true;
    const float *whole = got, *pieces = whole + (b->pieces[0].first.out - b->whole.first.out);
    return check_same_floats(whole, pieces, (size_t)all_pieces * CHAIN_RESULTS, NULL, ret);
}

static void pieces_case(check *c, const kvq_format formats[3]) {
    if (!check_begin(c, "linear_%s_%s_%s_chain_pieces", kvq_format_get(formats[0])->name,
                     kvq_format_get(formats[1])->name, kvq_format_get(formats[2])->name))
        return;
    chain_tensors x = chain_tensors_of(c, formats, all_pieces, true), y = x;
    size_t n = (size_t)all_pieces * CHAIN_RESULTS;
    x.results = check_floats(c, 2 * n, CHECK_NORMAL);
    y.results = x.results + n;
    memcpy(y.results, x.results, n * sizeof(float));
    pieces_job job = {.whole = chain_of(&x, 0, all_pieces)};
    for (int i = 0, row = 0; i < PIECES; row += piece_rows[i++]) job.pieces[i] = chain_of(&y, row, piece_rows[i]);
    check_run(c, &(check_op){.call = call_pieces,
                             .job = &job,
                             .outs = {x.results, x.h, x.act},
                             .n_outs = 3,
                             .compare = compare_pieces,
                             .context = &job});
    check_end(c);
}

static void chain_cases(check *c) {
    static const kvq_format formats[][3] = {{KVQ_FORMAT_Q4_0, KVQ_FORMAT_Q4_0, KVQ_FORMAT_Q4_0},
                                            {KVQ_FORMAT_Q4_K, KVQ_FORMAT_Q6_K, KVQ_FORMAT_Q6_K},
                                            {KVQ_FORMAT_Q8_0, KVQ_FORMAT_F16, KVQ_FORMAT_F16}, /* which reads floats */
                                            {KVQ_FORMAT_F16, KVQ_FORMAT_Q4_0, KVQ_FORMAT_Q4_1}};
    static const int row_counts[] = {1, 8, 17, 64, 65};
    for (int f = 0; f < COUNT(formats); f++) {
        for (int r = 0; r < COUNT(row_counts); r++) chain_case(c, formats[f], row_counts[r], r % 2 == 0);
        pieces_case(c, formats[f]);
    }
}

/* A NaN or infinity in the input reaches every output of its row and no other row. */
static void not_finite_case(check *c, kvq_format format, float value, const char *value_name) {
    if (!check_begin(c, "linear_%s_%s", kvq_format_get(format)->name, value_name)) return;
    kvq_matrix m = {.n_in = 512};
    add_part(c, &m, format, 20);
    kvq_linear job = {.w = &m, .n_rows = 9, .in = check_floats(c, 9 * 512, CHECK_NORMAL)};
    ((float *)job.in)[4 * 512 + 77] = value;
    job.out = check_floats(c, 9 * 20, CHECK_JUNK);
    double *bound = calloc(9 * 20, sizeof *bound);
    if (!bound) abort();
    bounds_of(&job, bound);
    check_run(c, &(check_op){.call = call_linear, .job = &job, .outs = {job.out}, .n_outs = 1, .bound = bound});
    check_end(c);
    free(bound);
}

/* ---- products in half precision, where results may depend on the batch (kvq_shapes) ---- */

typedef struct halves_case_of {
    const kvq_linear *job;
    double *exact, *bound; /* [n_rows, n_out] in double, on activations as they are; and what halves may differ by */
    const double *bound_of_codes;
    bool must; /* be halves; else int8 is right too: what a device does depends on what it does faster */
} halves_case_of;

/* Activations, scales, minimums and weights are each rounded to a half, 2^-11 of them, or by the smallest of a row in
 * its range; sums are floats that a device may cut off. */
static void halves_of(const kvq_linear *job, halves_case_of *h) {
    int n = job->w->n_in, n_out = job->w->n_out;
    float *w = calloc((size_t)n * 3, sizeof *w), *scale = w + n, *min = scale + n;
    uint8_t *code = malloc(n);
    if (!w || !code) abort();
    for (int o = 0; o < n_out; o++) {
        const kvq_matrix_part *part = kvq_matrix_part_of(job->w, o);
        kvq_matrix_row(job->w, o, w);
        if (part->layout.bits) kvq_matrix_part_codes(part, o - part->row_begin, n, code, scale, min);
        for (int r = 0; r < job->n_rows; r++) {
            const float *x = job->in + (size_t)r * n;
            size_t at = (size_t)r * n_out + o;
            double sum = 0, magnitude = 0, weights = 0, inputs = 0, largest = 0;
            for (int i = 0; i < n; i++) {
                double least = part->layout.bits ? fabs((double)min[i / part->layout.group]) : 0;
                sum += (double)w[i] * x[i];
                magnitude += (fabs((double)w[i]) + 2 * least) * fabs((double)x[i]);
                weights += fabs((double)w[i]);
                inputs += fabs((double)x[i]);
                largest = fmax(largest, fabs((double)x[i]));
            }
            double bias = job->bias ? (double)job->bias[o] : 0,
                   residual = job->residual ? (double)job->residual[at] : 0;
            h->exact[at] = sum + bias + residual;
            h->bound[at] = magnitude * (3 * 0x1p-11 + n * 0x1p-23) + weights * largest * 0x1p-17 + inputs * 0x1p-25 +
                           3 * EPS * (fabs(bias) + fabs(residual)) + weights * 1e-30 + 1e-40;
        }
    }
    free(w);
    free(code);
}

static bool compare_halves(void *context, int out, const void *want, const void *got, check_difference *ret) {
    const halves_case_of *h = context;
    const float *ref = want, *values = got;
    size_t n = (size_t)h->job->n_rows * h->job->w->n_out, i = 0;
    (void)out;
    while (i < n && (isfinite(ref[i]) ? fabs((double)values[i] - h->exact[i]) <= h->bound[i]
                     : isnan(ref[i])  ? isnan(values[i])
                                      : values[i] == ref[i]))
        i++;
    if (i == n) return true;
    if (!h->must && check_same_floats(want, got, n, h->bound_of_codes, ret)) return true;
    *ret = (check_difference){i, h->exact[i], (double)values[i], h->bound[i]};
    return false;
}

typedef struct halves_shape {
    const char *what;
    int n_out, n_in, n_rows;
    bool bias, residual;
    check_fill fill;
    double scales;
    float odd;   /* one input; 0: none */
    int max_out; /* of the stream; 0: 1024 */
} halves_shape;

/* Where the device takes cuBLAS for such shapes (the shim does: its name is given by the test), it must have started.
 */
static void check_cublas(check *c, const check_level *level) {
    kvq_device_info info;
    level->backend->describe(level->device, &info);
    if (!c->device_memory && (!info.cublas[0] || strncmp(info.cublas, "not used", 8) == 0))
        check_fail(c, CHECK_STREAM, "cuBLAS: '%s'; KVQ_CUDA_CUBLAS names the false one", info.cublas);
}

/* The device's streams are such that results may depend on the batch, until end_halves gets what this returned. */
static check_level begin_halves(check *c, kvq_shapes sizes) {
    check_level *level = &c->levels[1], before = *level;
    sizes.depends_on_batch = true;
    kvq_error error;
    kvq_status status = level->backend->stream_new(level->device, &sizes, &level->one, &error);
    sizes.threads = CHECK_THREADS;
    if (!status) status = level->backend->stream_new(level->device, &sizes, &level->many, &error);
    if (status) check_fail(c, CHECK_STREAM, "%s", error.text);
    if (sizes.max_rows >= CUBLAS_ROWS) check_cublas(c, level);
    return before;
}

static void end_halves(check *c, check_level before) {
    check_level *level = &c->levels[1];
    if (level->one != before.one) level->backend->stream_free(level->one);
    if (level->many != before.many) level->backend->stream_free(level->many);
    *level = before;
}

/* Each format is a part of shape->n_out outputs. */
static void halves_case(check *c, const char *name, const kvq_format *formats, int n_formats,
                        const halves_shape *shape) {
    if (!c->levels[1].device || !check_begin(c, "linear_halves_%s_%s", name, shape->what)) return;
    check_level before =
        begin_halves(c, shapes_of_matrices(shape->n_rows, shape->n_in, shape->max_out ? shape->max_out : 1024, 1));
    kvq_matrix m = {.n_in = shape->n_in};
    for (int f = 0; f < n_formats; f++) add_scaled_part(c, &m, formats[f], shape->n_out, shape->scales);
    size_t n = (size_t)shape->n_rows * m.n_out;
    kvq_linear job = {.w = &m, .n_rows = shape->n_rows};
    float *in = check_floats(c, (size_t)shape->n_rows * m.n_in, shape->fill);
    if (shape->odd != 0) in[(size_t)(shape->n_rows / 2) * m.n_in + 77] = shape->odd;
    job.in = in;
    job.bias = shape->bias ? check_floats(c, m.n_out, CHECK_OUTLIERS) : NULL;
    job.out = check_floats(c, n, shape->residual ? CHECK_OUTLIERS : CHECK_JUNK);
    job.residual = shape->residual ? job.out : NULL;
    double *bounds = calloc(3 * n, sizeof *bounds);
    if (!bounds) abort();
    halves_case_of h = {&job, bounds, bounds + n, bounds + 2 * n, !c->device_memory};
    halves_of(&job, &h);
    bounds_of(&job, bounds + 2 * n);
    if (c->failure == CHECK_PASSED)
        check_run(c, &(check_op){.call = call_linear,
                                 .job = &job,
                                 .outs = {job.out},
                                 .n_outs = 1,
                                 .compare = compare_halves,
                                 .context = &h});
    check_end(c);
    end_halves(c, before);
    free(bounds);
}

static void each_halves_case(check *c, kvq_format format, const halves_shape *shapes, int n_shapes) {
    for (int s = 0; s < n_shapes; s++) halves_case(c, kvq_format_get(format)->name, &format, 1, &shapes[s]);
}

/* Slices of outputs are as wide as max_out. */
static void cublas_cases(check *c, kvq_format format) {
    static const halves_shape shapes[] = {
        {"cublas_slices", 75, 256, 1024, true, true, CHECK_OUTLIERS, SCALES, 0, 32},
        {"cublas_one_slice", 40, 1280, 1030, false, false, CHECK_NORMAL, SCALES, 0, 64},
        {"cublas_huge", 20, 256, 1025, false, true, CHECK_HUGE, SCALES, 0, 32},
        {"cublas_too_large", 20, 256, 1025, true, false, CHECK_NORMAL, SCALES * 0x1p20, 0, 32},
        {"cublas_nan", 20, 256, 1024, false, false, CHECK_NORMAL, SCALES, NAN, 32},
        {"cublas_infinity", 20, 256, 1024, false, false, CHECK_NORMAL, SCALES, -INFINITY, 32},
    };
    each_halves_case(c, format, shapes, COUNT(shapes));
}

/* Parts that begin and end within slices. */
static void fused_cublas_case(check *c) {
    static const kvq_format formats[] = {KVQ_FORMAT_Q4_K, KVQ_FORMAT_F16, KVQ_FORMAT_Q6_K};
    const halves_shape shape = {"cublas_slices", 45, 512, 1026, true, true, CHECK_OUTLIERS, SCALES, 0, 64};
    halves_case(c, "fused", formats, COUNT(formats), &shape);
}

/* The device chooses by its SMs how rows are cut into blocks and inputs into slices; what is said here is the shim's,
 * which has four. */
static void halves_cases(check *c, kvq_format format) {
    static const halves_shape shapes[] = {
        {"fewest_rows_in_unequal_slices", 40, 1024, 33, true, true, CHECK_OUTLIERS, SCALES, 0, 0},
        {"few_rows_in_slices_of_two_tiles", 300, 1024, 64, false, true, CHECK_OUTLIERS, SCALES, 0, 0},
        {"slices_too_large", 20, 1024, 40, true, true, CHECK_NORMAL, SCALES * 0x1p20, 0, 0},
        {"slices_nan", 20, 1024, 40, false, false, CHECK_NORMAL, SCALES, NAN, 0},
        {"many_rows", 600, 256, 100, true, false, CHECK_OUTLIERS, SCALES, 0, 0},
        {"two_blocks_of_rows", 40, 512, 130, true, true, CHECK_OUTLIERS, SCALES, 0, 0},
        {"two_blocks_of_outputs", 300, 256, 65, false, false, CHECK_OUTLIERS, SCALES, 0, 0},
        {"odd_outputs", 257, 1280, 70, false, true, CHECK_NORMAL, SCALES, 0, 0},
        {"huge", 20, 256, 129, false, false, CHECK_HUGE, SCALES, 0, 0},
        {"tiny", 20, 256, 129, true, false, CHECK_TINY, SCALES, 0, 0},
        {"too_large", 20, 256, 129, true, true, CHECK_NORMAL, SCALES * 0x1p20, 0, 0},
        {"nan", 20, 256, 129, false, false, CHECK_NORMAL, SCALES, NAN, 0},
        {"infinity", 20, 256, 129, false, false, CHECK_NORMAL, SCALES, -INFINITY, 0},
    };
    each_halves_case(c, format, shapes, COUNT(shapes));
}

/* Long enough for the shim to slice blocks of many rows, and shorter than what is asked for ahead. */
static void odd_halves_cases(check *c, kvq_format format) {
    static const halves_shape shapes[] = {
        {"many_rows_in_slices", 300, 4096, 65, true, true, CHECK_OUTLIERS, SCALES, 0, 0},
        {"one_step", 40, 32, 66, true, true, CHECK_OUTLIERS, SCALES, 0, 0},
        {"three_steps", 40, 96, 40, true, true, CHECK_OUTLIERS, SCALES, 0, 0},
    };
    each_halves_case(c, format, shapes, COUNT(shapes));
}

/* ---- norm and glu right before such a product, whose rows a backend may make halves of with the operator; and with
 * something between them, where it cannot: not a bit may differ ---- */

enum { BEFORE_OUT = 96, BEFORE_OPS = 3 };

typedef struct before_job {
    kvq_norm norm[2]; /* one that feeds the product; one that does not, with a residual */
    kvq_glu glu;
    kvq_linear linear[BEFORE_OPS];
    kvq_gather between; /* n_rows 0: nothing */
} before_job;

typedef struct before_jobs {
    before_job together, apart;
} before_jobs;

static void call_before(const kvq_ops *ops, kvq_stream *s, const before_job *b) {
    for (int i = 0; i < BEFORE_OPS; i++) {
        if (i < 2)
            ops->norm(s, &b->norm[i]);
        else
            ops->glu(s, &b->glu);
        if (b->between.n_rows > 0) ops->gather(s, &b->between);
        ops->linear(s, &b->linear[i]);
    }
}

static void call_both_before(const kvq_ops *ops, kvq_stream *s, void *job) {
    const before_jobs *b = job;
    call_before(ops, s, &b->together);
    call_before(ops, s, &b->apart);
}

/* Results, then what the operators made. The floats of a norm that feeds a product, which come first, may stay
 * unwritten. */
static bool compare_before(void *context, int out, const void *want, const void *got, check_difference *ret) {
    const kvq_glu *glu = &((const before_jobs *)context)->together.glu;
    size_t n = (size_t)glu->n_rows * (size_t)(out == 0 ? BEFORE_OUT : glu->ffn_dim), skipped = out == 0 ? 0 : n;
    const float *together = got, *apart = together + BEFORE_OPS * n;
    (void)want;
    return out > 1 || check_same_floats(apart + skipped, together + skipped, BEFORE_OPS * n - skipped, NULL, ret);
}

/* Rows that halves are special for, each n_cols long. */
static void put_special_rows(check *c, float *x, int n_cols) {
    for (int i = 0; i < n_cols; i++) {
        x[i] = 1e3f * (float)check_random_normal(c); /* above their range, of a glu */
        x[n_cols + i] = 1e-9f * (float)check_random_normal(c);
        x[2 * n_cols + i] = 0;
    }
    x[3 * n_cols + 77] = NAN;
    x[4 * n_cols + 77] = INFINITY;
}

/* Results and floats of its own. */
static before_job before_of(const before_job *of, float *results, float *made) {
    before_job ret = *of;
    size_t n_rows = (size_t)of->glu.n_rows, n = n_rows * (size_t)of->glu.ffn_dim;
    ret.norm[0].out = made;
    ret.norm[1].out = made + n;
    ret.glu.out = made + 2 * n;
    for (int i = 0; i < BEFORE_OPS; i++) {
        ret.linear[i].in = made + (size_t)i * n;
        ret.linear[i].out = results + (size_t)i * n_rows * BEFORE_OUT;
    }
    return ret;
}

static void before_case(check *c, kvq_format format, int n_in, int n_rows, double scales, const char *what) {
    /* A device may make products of coded weights in 8 bits, and then a norm's results in codes differ. */
    if (!c->levels[1].device || (c->device_memory && kvq_format_get(format)->group_len > 0)) return;
    if (!check_begin(c, "linear_halves_%s_chain_in%d_r%d%s", kvq_format_get(format)->name, n_in, n_rows, what)) return;
    check_level before = begin_halves(c, shapes_of_matrices(n_rows, n_in, 128, 1));
    kvq_matrix m = {.n_in = n_in};
    add_scaled_part(c, &m, format, BEFORE_OUT, scales);
    size_t n = (size_t)n_rows * (size_t)n_in, n_results = (size_t)n_rows * BEFORE_OUT;
    float *in = check_floats(c, n, CHECK_OUTLIERS), *gate_up = check_floats(c, 2 * n, CHECK_OUTLIERS);
    float *weight = check_floats(c, n_in, CHECK_NORMAL), *results = check_floats(c, 6 * n_results, CHECK_JUNK);
    float *made = check_floats(c, 6 * n, CHECK_JUNK), *between = check_floats(c, n_in, CHECK_JUNK);
    put_special_rows(c, in, n_in);
    put_special_rows(c, gate_up, 2 * n_in);
    weight[70] = 1e5f; /* most rows of a norm above the range */
    static const int rows[1];
    kvq_norm norm = {.in = in, .eps = 1e-5f, .n_rows = n_rows, .n_cols = n_in};
    before_job job = {.norm = {norm, norm}, .glu = {.gate_up = gate_up, .n_rows = n_rows, .ffn_dim = n_in}};
    job.norm[0].weight = weight;
    job.norm[1].residual = check_floats(c, n, CHECK_NORMAL);
    for (int i = 0; i < BEFORE_OPS; i++) job.linear[i] = (kvq_linear){.w = &m, .n_rows = n_rows};
    before_jobs jobs = {before_of(&job, results, made), before_of(&job, results + 3 * n_results, made + 3 * n)};
    jobs.together.norm[0].feeds_linear = true;
    jobs.apart.between = (kvq_gather){.out = between, .in = weight, .rows = rows, .n_rows = 1, .n_cols = n_in};
    if (c->failure == CHECK_PASSED)
        check_run(c, &(check_op){.call = call_both_before,
                                 .job = &jobs,
                                 .outs = {results, made, between},
                                 .n_outs = 3,
                                 .compare = compare_before,
                                 .context = &jobs});
    check_end(c);
    end_halves(c, before);
}

static void before_cases(check *c) {
    before_case(c, KVQ_FORMAT_F16, 384, 70, SCALES, "");
    before_case(c, KVQ_FORMAT_F16, 8256, 70, SCALES, ""); /* more than a block's threads have at once */
    before_case(c, KVQ_FORMAT_F16, 384, CUBLAS_ROWS, SCALES, "_cublas");
    before_case(c, KVQ_FORMAT_Q4_0, 384, 130, SCALES, "");
    before_case(c, KVQ_FORMAT_Q4_0, 384, 130, SCALES * 0x1p20, "_too_large"); /* which read the operators' floats */
}

static void call_refine(const kvq_ops *ops, kvq_stream *s, void *job) {
    ops->refine(s, job);
}

/* What a fast refine may differ by: half a step of what is left, quantized once more, for every input; and roundings.
 * Nothing at all where no value of the tile reaches the threshold. */
static double refine_bound(const kvq_refine *job, int r, int o, const float *rest, float threshold, float *weights) {
    const kvq_matrix *m = job->w;
    const kvq_matrix_part *part = kvq_matrix_part_of(m, o);
    const float *x = job->x + (size_t)r * m->n_out;
    int begin = part->row_begin + (o - part->row_begin) / KVQ_TILE_ROWS * KVQ_TILE_ROWS, end = begin + KVQ_TILE_ROWS;
    bool above = false;
    for (int i = begin; i < end && i < part->row_begin + part->n_rows; i++) above |= x[i] >= threshold;
    if (!above || part->layout.bits == 0) return 0;
    double step = 0, roundings = fabs((double)x[o]);
    kvq_matrix_row(m, o, weights);
    for (int g = 0; g < m->n_in; g += KVQ_ACT_GROUP) {
        double largest = 0, sum = 0;
        for (int i = g; i < g + KVQ_ACT_GROUP; i++) {
            if (fabsf(rest[i]) > largest) largest = fabsf(rest[i]);
            sum += fabs((double)weights[i]);
        }
        step += sum * largest / 254;
        roundings += sum * largest;
    }
    return step * 1.01 + EPS * roundings * (m->n_in / 16 + 4) + 1e-30;
}

enum { NO_NAN, NAN_INPUT, NAN_LOGIT, NAN_LOGITS };

static void refine_case(check *c, kvq_format format, int n_out, int n_rows, float margin, int nan) {
    static const char *const names[] = {"", "_nan_input", "_nan_logit", "_nan_logits"};
    if (!check_begin(c, "refine_%s_out%d_r%d_margin%g%s", kvq_format_get(format)->name, n_out, n_rows, margin,
                     names[nan]))
        return;
    kvq_matrix m = {.n_in = 512};
    add_part(c, &m, format, n_out);
    add_part(c, &m, KVQ_FORMAT_Q8_0, 20);
    float *in = check_floats(c, (size_t)n_rows * 512, CHECK_OUTLIERS), rest[512], weights[512];
    kvq_refine job = {.in = in, .w = &m, .n_rows = n_rows, .margin = margin};
    job.x = check_floats(c, (size_t)n_rows * m.n_out, CHECK_NORMAL);
    if (nan == NAN_INPUT) in[(size_t)(n_rows - 1) * 512 + 100] = NAN;
    for (int o = 0; nan >= NAN_LOGIT && o < (nan == NAN_LOGIT ? 1 : m.n_out); o++) job.x[o] = NAN;
    double *bound = calloc((size_t)n_rows * m.n_out + 1, sizeof *bound);
    if (!bound) abort();
    for (int r = 0; r < n_rows; r++) {
        float largest = -INFINITY;
        for (int o = 0; o < m.n_out; o++)
            if (job.x[(size_t)r * m.n_out + o] > largest) largest = job.x[(size_t)r * m.n_out + o];
        kvq_ref_remainder(in + (size_t)r * 512, 512, rest);
        for (int o = 0; o < m.n_out; o++)
            bound[(size_t)r * m.n_out + o] = refine_bound(&job, r, o, rest, largest - margin, weights);
    }
    check_run(c, &(check_op){.call = call_refine, .job = &job, .outs = {job.x}, .n_outs = 1, .bound = bound});
    check_end(c);
    free(bound);
}

static void refine_cases(check *c, kvq_format format) {
    refine_case(c, format, 40, 0, 1, NO_NAN);
    refine_case(c, format, 1, 1, 0, NO_NAN);
    refine_case(c, format, 5000, 1, 2, NO_NAN);
    refine_case(c, format, 300, 7, 1.5f, NO_NAN);
    refine_case(c, format, 300, 3, 100, NO_NAN); /* all of them */
    /* CUDA's blocks are large from 64 small ones, of 64 values, an SM on: 256 on the shim, up to 12,000 on GPUs */
    refine_case(c, format, 5000, 4, 2, NO_NAN);
    refine_case(c, format, 2100, 8, 100, NO_NAN);
    if (format == KVQ_FORMAT_Q4_0) refine_case(c, format, 8200, 96, 2, NO_NAN);
    for (int nan = NAN_INPUT; nan <= NAN_LOGITS; nan++) refine_case(c, format, 70, 2, 1, nan);
}

static void call_embed(const kvq_ops *ops, kvq_stream *s, void *job) {
    ops->embed(s, job);
}

static void embed_case(check *c, kvq_format format, int n_rows) {
    if (!check_begin(c, "embed_%s_r%d", kvq_format_get(format)->name, n_rows)) return;
    kvq_matrix m = {.n_in = 512};
    add_part(c, &m, format, 37);
    enum { N_DRAWN = 3 };
    int *ids = check_alloc(c, (size_t)n_rows * sizeof *ids), *drawn = check_alloc(c, N_DRAWN * sizeof *drawn);
    for (int i = 0; i < N_DRAWN; i++) drawn[i] = check_random_int(c, 0, 36);
    for (int i = 0; i < n_rows; i++)
        ids[i] = i % 3 == 1 ? -1 - check_random_int(c, 0, N_DRAWN - 1) : check_random_int(c, 0, 36);
    kvq_embed job = {.table = &m, .ids = ids, .drawn = drawn, .scale = 25.298f, .n_rows = n_rows};
    job.out = check_floats(c, (size_t)n_rows * 512, CHECK_JUNK);
    double *bound = calloc((size_t)n_rows * 512 + 1, sizeof *bound); /* no rounding differs: equal */
    if (!bound) abort();
    check_run(c, &(check_op){.call = call_embed, .job = &job, .outs = {job.out}, .n_outs = 1, .bound = bound});
    check_end(c);
    free(bound);
}

void suite_linear(check *c) {
    for (int f = 0; f < KVQ_FORMAT_COUNT; f++) {
        formats_cases(c, (kvq_format)f);
        not_finite_case(c, (kvq_format)f, NAN, "nan");
        not_finite_case(c, (kvq_format)f, INFINITY, "infinity");
        if (f != KVQ_FORMAT_F32) halves_cases(c, (kvq_format)f);
        if (f == KVQ_FORMAT_Q4_0 || f == KVQ_FORMAT_F16) odd_halves_cases(c, (kvq_format)f);
        if (f != KVQ_FORMAT_F32) cublas_cases(c, (kvq_format)f);
        refine_cases(c, (kvq_format)f);
        for (int r = 0; r < 4; r++) embed_case(c, (kvq_format)f, r);
    }
    fused_cases(c);
    behind_cases(c);
    chain_cases(c);
    before_cases(c);
    fused_cublas_case(c);
}

/* ---- bench: decode (one row) against the memory's bandwidth, prefill against the machine's products ---- */

#define BENCH_OUT 8192
#define BENCH_IN 4096 /* 8192 x 4096 at 4 bits: 17 MB; the matrix is walked four times over different copies */
#define BENCH_COPIES 6

typedef struct bench_job {
    const kvq_ops *ops;
    kvq_stream *stream;
    kvq_linear linear[BENCH_COPIES];
    int n;
} bench_job;

static void run_bench(void *arg) {
    bench_job *b = arg;
    for (int i = 0; i < b->n; i++) b->ops->linear(b->stream, &b->linear[i]);
}

static void bench_format(check *c, kvq_format format, int n_rows, int n_in, int n_out, int copies,
                         const check_level *level, kvq_stream *stream) {
    char name[80];
    snprintf(name, sizeof name, "linear_%s_%dx%d_r%d", kvq_format_get(format)->name, n_out, n_in, n_rows);
    if (!check_begin(c, "%s", name)) return;
    bench_job b = {.ops = &level->ops, .stream = stream, .n = copies};
    float *in = check_floats(c, (size_t)n_rows * n_in, CHECK_NORMAL);
    float *out = check_floats(c, (size_t)n_rows * n_out, CHECK_JUNK);
    kvq_matrix matrices[BENCH_COPIES];
    size_t bytes = 0;
    for (int i = 0; i < copies; i++) {
        matrices[i] = (kvq_matrix){.n_in = n_in};
        add_part(c, &matrices[i], format, n_out);
        b.linear[i] = (kvq_linear){.out = out, .in = in, .w = &matrices[i], .n_rows = n_rows};
        bytes += kvq_matrix_part_bytes(&matrices[i].parts[0].layout, n_out, n_in, NULL);
    }
    double ns = check_time(run_bench, &b);
    double products = (double)n_rows * n_in * n_out * copies;
    check_bench_row(name, level->name, kvq_cpu_stream_threads(stream), ns, n_rows == 1 ? (double)bytes : 0, products);
    check_end(c);
}

void bench_linear(check *c) {
    static const kvq_format formats[] = {KVQ_FORMAT_Q4_0, KVQ_FORMAT_Q4_1, KVQ_FORMAT_Q5_0, KVQ_FORMAT_Q8_0,
                                         KVQ_FORMAT_Q4_K, KVQ_FORMAT_Q6_K, KVQ_FORMAT_F16,  KVQ_FORMAT_F32};
    for (int threads = 1; threads <= 2; threads++) {
        kvq_stream *stream;
        kvq_shapes shapes = shapes_of_matrices(512, BENCH_IN, BENCH_OUT, threads);
        if (kvq_cpu_stream_new(&shapes, &stream, NULL) != KVQ_OK) return;
        for (int l = c->n_levels > 2 ? 2 : 1; l < c->n_levels; l++)
            for (int f = 0; f < COUNT(formats); f++) {
                bench_format(c, formats[f], 1, BENCH_IN, BENCH_OUT, 4, &c->levels[l], stream);
                bench_format(c, formats[f], 512, 768, 1536, 1, &c->levels[l], stream);
            }
        kvq_cpu_stream_free(stream);
    }
}
