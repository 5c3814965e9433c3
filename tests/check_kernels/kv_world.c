/* kv_world.c: see kv_world.h. */
#include "kv_world.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/hadamard.h"
#include "kernels/ref/kv_values.h"
#include "kernels/ref/ref.h"

#define GUARD_BYTES 64
#define GUARD 0xA7
#define UNWRITTEN 0xff

static void *allocate(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (!p) abort();
    memset(p, 0, (bytes + 127) / 64 * 64);
    return p;
}

static const char *sentence(const char *format, ...) __attribute__((format(printf, 1, 2)));
static const char *sentence(const char *format, ...) {
    static char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return text;
}

/* ---- random inputs ---- */

static double uniform(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) / 16777216.0;
}

static float normal(uint32_t *state) {
    double sum = 0;
    for (int i = 0; i < 12; i++) sum += uniform(state);
    return (float)(sum - 6);
}

static int row_floats(const kv_world_spec *spec) {
    return (spec->n_heads + 2 * spec->n_kv_heads) * spec->head_dim;
}

/* One row of q | k | v. Key outliers as real models have them; position 0 is a sink; every 37th row is zeros. */
static void fill_row(const kv_world_spec *spec, int pos, float *row, const float *bias, uint32_t *state) {
    int d = spec->head_dim, n_q = spec->n_heads * d, n_k = spec->n_kv_heads * d, n = row_floats(spec);
    for (int i = 0; i < n; i++) row[i] = normal(state);
    for (int i = 0; i < n_k; i++) {
        float *k = row + n_q + i;
        if (i % d == 3) *k *= 12;
        if (spec->k_bias) *k += bias[i];
        if (pos == 0) *k = *k * 0.1f + row[i % n_q] * 2;
    }
    if (pos % 37 == 36) memset(row + n_q, 0, (size_t)(2 * n_k) * sizeof *row);
    if (pos % 11 == 5) row[n_q + n_k + 1] = -0.0f;
}

static void make_hostile(float *row, int n, int pos) {
    static const float values[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f};
    for (int i = pos % 5; i < n; i += 17) row[i] = values[(i + pos) % 6];
}

static void fill_inputs(kv_world *w) {
    const kv_world_spec *spec = &w->spec;
    uint32_t state = spec->seed;
    size_t d = (size_t)spec->head_dim, n_k = d * (size_t)spec->n_kv_heads;
    float *bias = allocate(n_k * sizeof *bias);
    for (size_t i = 0; i < n_k; i++) bias[i] = normal(&state) * (i % 7 == 0 ? 20.0f : 0.5f);
    w->q_norm = check_take(w->check, d * sizeof(float));
    w->k_norm = check_take(w->check, d * sizeof(float));
    for (size_t i = 0; i < d; i++) {
        w->q_norm[i] = 1 + 0.2f * normal(&state);
        w->k_norm[i] = 1 + 0.2f * normal(&state);
    }
    w->k_ref = check_take(w->check, (size_t)w->n_pages * n_k * sizeof(float));
    kvq_kv_bias_ref(w->k_ref, bias, &w->rope, w->n_pages, spec->n_kv_heads, spec->head_dim, spec->block_tokens,
                    w->kv.policy->rotated);
    for (int i = 0; i < KV_WORLD_SEQS; i++) {
        w->qkv[i] = allocate((size_t)spec->len[i] * (size_t)row_floats(spec) * sizeof(float));
        for (int p = 0; p < spec->len[i]; p++)
            fill_row(spec, p, w->qkv[i] + (size_t)p * (size_t)row_floats(spec), bias, &state);
        for (int p = 0; spec->hostile && i == 0 && p < spec->len[i]; p++)
            make_hostile(w->qkv[i] + (size_t)p * (size_t)row_floats(spec), row_floats(spec), p);
    }
    if (spec->odd_v != 0)
        w->qkv[0][(size_t)KV_WORLD_ODD_TOKEN * (size_t)row_floats(spec) + (size_t)spec->n_heads * d + n_k + 3] =
            spec->odd_v;
    free(bias);
}

/* ---- the world ---- */

static size_t guarded(const kv_world *w) {
    return w->kv.block_bytes + 2 * GUARD_BYTES;
}

static uint8_t *block_at(const kv_world *w, uint8_t *blocks, int page) {
    return blocks + (size_t)page * guarded(w) + GUARD_BYTES;
}

static uint8_t *new_blocks(const kv_world *w) {
    uint8_t *blocks = check_take(w->check, (size_t)w->n_pages * guarded(w));
    memset(blocks, GUARD, (size_t)w->n_pages * guarded(w));
    for (int p = 0; p < w->n_pages; p++) memset(block_at(w, blocks, p), UNWRITTEN, w->kv.block_bytes);
    return blocks;
}

static void place_layers(kv_world *w) {
    const kv_world_spec *spec = &w->spec;
    size_t end[KV_WORLD_GROUPS] = {0};
    for (int l = 0; l < KV_WORLD_LAYERS; l++) {
        kvq_kv_layer *layer = &w->layers[l];
        layer->group = l == 2;
        layer->hard = l == 1;
        layer->offset = end[layer->group];
        kvq_kv_image_init(&layer->closed, w->kv.policy, spec->head_dim, spec->block_tokens, layer->hard);
        end[layer->group] += layer->closed.bytes * (size_t)spec->n_kv_heads;
    }
    w->kv.block_bytes = end[0] > end[1] ? end[0] : end[1];
}

kv_world *kv_world_new(const check *c, const kv_world_spec *spec) {
    kv_world *w = allocate(sizeof *w);
    w->check = c;
    w->spec = *spec;
    w->kv = (kvq_kv){.policy = kvq_policy_get(spec->policy),
                     .block_tokens = spec->block_tokens,
                     .head_dim = spec->head_dim,
                     .n_kv_heads = spec->n_kv_heads,
                     .n_layers = KV_WORLD_LAYERS,
                     .n_groups = KV_WORLD_GROUPS,
                     .layers = w->layers};
    w->rope = (kvq_rope){.neox = spec->neox, .n_rot = spec->n_rot, .freq_base = 10000, .scale = 1};
    for (int i = 0; i < KV_WORLD_SEQS; i++) {
        int pages = (spec->len[i] + spec->block_tokens - 1) / spec->block_tokens;
        if (pages > w->n_pages) w->n_pages = pages;
    }
    place_layers(w);
    fill_inputs(w);
    for (int l = 0; l < KV_WORLD_LAYERS; l++)
        if (w->kv.policy->bias_out && spec->k_bias && !spec->qk_norm) w->layers[l].k_ref = w->k_ref;
    for (int i = 0; i < KV_WORLD_SEQS; i++) {
        size_t values = (size_t)spec->len[i] * (size_t)spec->n_heads * (size_t)spec->head_dim;
        for (int g = 0; g < KV_WORLD_GROUPS; g++) {
            w->blocks[i][g] = new_blocks(w);
            w->wide_blocks[i][g] = new_blocks(w);
        }
        for (int l = 0; l < KV_WORLD_LAYERS; l++) {
            w->q[l][i] = allocate(values * sizeof(float));
            w->out[l][i] = allocate(values * sizeof(float));
            w->ref_out[l][i] = allocate(values * sizeof(float));
            w->bound[l][i] = allocate(values * sizeof(double));
        }
    }
    w->slot_bytes = 2 * (size_t)spec->n_kv_heads * kvq_kv_wide_half_bytes(spec->head_dim, spec->block_tokens);
    size_t scratch_bytes = (size_t)(w->n_pages * KV_WORLD_SEQS) * w->slot_bytes;
    w->scratch = check_take(c, scratch_bytes + 2 * GUARD_BYTES);
    memset(w->scratch, GUARD, scratch_bytes + 2 * GUARD_BYTES);
    return w;
}

static size_t scratch_bytes_of(const kv_world *w) {
    return (size_t)(w->n_pages * KV_WORLD_SEQS) * w->slot_bytes;
}

void kv_world_free(kv_world *w) {
    size_t head_bytes = (size_t)w->spec.head_dim * sizeof(float);
    for (int i = 0; i < KV_WORLD_SEQS; i++) {
        for (int g = 0; g < KV_WORLD_GROUPS; g++) {
            check_give(w->check, w->blocks[i][g], (size_t)w->n_pages * guarded(w));
            check_give(w->check, w->wide_blocks[i][g], (size_t)w->n_pages * guarded(w));
        }
        for (int l = 0; l < KV_WORLD_LAYERS; l++) {
            free(w->q[l][i]);
            free(w->out[l][i]);
            free(w->ref_out[l][i]);
            free(w->bound[l][i]);
        }
        free(w->qkv[i]);
    }
    check_give(w->check, w->q_norm, head_bytes);
    check_give(w->check, w->k_norm, head_bytes);
    check_give(w->check, w->k_ref, (size_t)(w->n_pages * w->spec.n_kv_heads) * head_bytes);
    check_give(w->check, w->scratch, scratch_bytes_of(w) + 2 * GUARD_BYTES);
    free(w);
}

/* ---- a step ---- */

typedef struct step {
    size_t n_rows; /* of room */
    kvq_batch batch;
    kvq_batch_seq seqs[KV_WORLD_SEQS];
    int which[KV_WORLD_SEQS]; /* sequence of the world */
    kvq_kv_page *pages[KV_WORLD_SEQS][KV_WORLD_GROUPS];
    kvq_batch_close *closes;
    int *pos, *row_seq;
    float *qkv, *rope, *q, *out;
} step;

static void add_sequence(kv_world *w, step *st, int i, int begin, int n) {
    const kv_world_spec *spec = &w->spec;
    kvq_batch *b = &st->batch;
    int t_page = spec->block_tokens, index = b->n_seqs++, slots[KV_WORLD_GROUPS] = {0};
    kvq_batch_seq *seq = &st->seqs[index];
    *seq = (kvq_batch_seq){.row_begin = b->n_rows, .n_rows = n, .pos_begin = begin};
    st->which[index] = i;
    for (int r = 0; r < n; r++) {
        st->pos[b->n_rows + r] = begin + r;
        st->row_seq[b->n_rows + r] = index;
    }
    b->n_rows += n;
    for (int c = 0; c < b->n_closes; c++) slots[st->closes[c].group]++; /* slots are unique per group */
    for (int g = 0; g < KV_WORLD_GROUPS; g++) {
        st->pages[index][g] = allocate((size_t)w->n_pages * sizeof(kvq_kv_page));
        seq->pages[g] = st->pages[index][g];
        for (int p = 0; p * t_page < begin + n; p++) {
            kvq_kv_page *page = &st->pages[index][g][p];
            int end = (p + 1) * t_page;
            bool closed = p > 0 && end <= begin, closing = p > 0 && end > begin && end <= begin + n;
            *page = (kvq_kv_page){.block = block_at(w, w->blocks[i][g], p), .scratch = -1};
            if (!w->kv.policy->wide) continue;
            if (!closed && (!closing || p * t_page < begin)) page->wide_v = block_at(w, w->wide_blocks[i][g], p);
            if (!closing) continue;
            page->scratch = slots[g]++;
            st->closes[b->n_closes++] = (kvq_batch_close){.seq = index, .group = g, .page = p};
        }
        for (int p = 0; g == 1 && spec->window && (p + 1) * t_page <= begin - spec->window + 1; p++)
            st->pages[index][g][p] = (kvq_kv_page){.scratch = -1}; /* behind the window of every row */
    }
}

/* The rows' inputs and cos, sin of their positions. */
static void gather_inputs(const kv_world *w, step *st) {
    int n_floats = row_floats(&w->spec), n_rot = w->spec.n_rot;
    for (int r = 0; r < st->batch.n_rows; r++) {
        int i = st->which[st->row_seq[r]];
        memcpy(st->qkv + (size_t)r * (size_t)n_floats, w->qkv[i] + (size_t)st->pos[r] * (size_t)n_floats,
               (size_t)n_floats * sizeof(float));
        for (int pair = 0; pair < n_rot / 2; pair++) {
            double angle = st->pos[r] * pow(w->rope.freq_base, -2.0 * pair / n_rot);
            st->rope[(size_t)r * (size_t)n_rot + 2 * (size_t)pair] = (float)cos(angle);
            st->rope[(size_t)r * (size_t)n_rot + 2 * (size_t)pair + 1] = (float)sin(angle);
        }
    }
}

static void scatter(const kv_world *w, const step *st, const float *rows, float *const *to) {
    size_t n = (size_t)w->spec.n_heads * (size_t)w->spec.head_dim;
    for (int r = 0; r < st->batch.n_rows; r++)
        memcpy(to[st->which[st->row_seq[r]]] + (size_t)st->pos[r] * n, rows + (size_t)r * n, n * sizeof(float));
}

/* ---- how far attend may be from ref ---- */

/* One query over its visible cache, in two passes: output as ref, and per channel how far 8-bit queries and
 * probabilities may move it. Query rounding: every q code is off by at most half, so by independent errors of variance
 * 1/12: score t is off by e_t = 6 sigma, sigma = scale sq / sqrt(12) |k_t|, and out_i by sum_t p_t e_t |v_ti - out_i|
 * to first order, doubled for the rest. Probability rounding: w is off by half of sw = max w / 255 of the page, so
 * channel i by sum_t sw / 2 |code_ti|, which is sw / 2 |v_ti - min_t| / s_t. Turned back by H, an error vector's
 * largest entry is at most its length. Both zero for f16. */
typedef struct visible {
    double k[KVQ_MAX_HEAD_DIM], k_length, v[KVQ_MAX_HEAD_DIM], v_scale, v_min;
    double score, slack, weight; /* of one query */
    int page;
    bool k_coded;
} visible;

/* The tokens that row r sees of KV head g. */
static int look(const kv_world *w, const step *st, int l, int r, int g, visible *seen) {
    const kv_world_spec *spec = &w->spec;
    int d = spec->head_dim, pos = st->pos[r], n = 0;
    int window = l == 2 ? spec->window : 0;
    for (int t = 0; t <= pos; t++) {
        if (window && t <= pos - window) continue;
        int p = t / spec->block_tokens, in_page = t % spec->block_tokens;
        const kvq_kv_page *page = &st->pages[st->row_seq[r]][w->layers[l].group][p];
        kvq_kv_half k, v;
        if (kvq_kv_sees_wide(&w->kv, pos, p))
            kvq_kv_wide_halves(&w->kv, l, page, w->scratch + GUARD_BYTES, w->slot_bytes, g, &k, &v);
        else
            kvq_kv_closed_halves(&w->kv, l, page, g, &k, &v);
        const float *k_ref = w->layers[l].k_ref;
        if (k_ref) k_ref += ((size_t)p * (size_t)spec->n_kv_heads + (size_t)g) * (size_t)d;
        visible *s = &seen[n++];
        double length = 0;
        for (int i = 0; i < d; i++) {
            double value = kvq_ref_k_value(&w->kv, &k, in_page, i);
            double coded = value - (k.mean ? (double)kvq_half_to_float(k.mean[i]) : 0);
            s->k[i] = value + (k_ref ? (double)k_ref[i] : 0);
            length += coded * coded;
            s->v[i] = kvq_ref_v_value(&w->kv, &v, in_page, i);
        }
        s->k_length = sqrt(length);
        s->k_coded = k.bits != 16;
        s->v_scale = v.bits == 16 ? 0 : fabs((double)kvq_half_to_float(v.scales[in_page]));
        s->v_min = v.mins ? (double)kvq_half_to_float(v.mins[in_page]) : 0;
        s->page = p;
    }
    return n;
}

/* Scores, their slack and the weights of one query. */
static void weigh(const kv_world *w, const float *q, visible *seen, int n) {
    const kv_world_spec *spec = &w->spec;
    int d = spec->head_dim;
    double scale = 1 / sqrt(d), q_max = 0, max = -INFINITY, sum = 0;
    for (int i = 0; i < d; i++) q_max = fmax(q_max, fabs((double)q[i]));
    for (visible *s = seen; s < seen + n; s++) {
        s->score = 0;
        for (int i = 0; i < d; i++) s->score += (double)q[i] * s->k[i] * scale;
        if (spec->softcap > 0) s->score = (double)spec->softcap * tanh(s->score / (double)spec->softcap);
        s->slack = s->k_coded ? 6 * scale * q_max / 127 / sqrt(12) * s->k_length : 0;
        max = fmax(max, s->score);
    }
    for (visible *s = seen; s < seen + n; s++) sum += s->weight = exp(s->score - max);
    for (visible *s = seen; s < seen + n; s++) s->weight /= sum;
}

static void bound_query(const kv_world *w, const float *q, visible *seen, int n, double *want, double *bound) {
    int d = w->spec.head_dim;
    double error[KVQ_MAX_HEAD_DIM] = {0}, length = 0;
    weigh(w, q, seen, n);
    for (int i = 0; i < d; i++) want[i] = 0;
    for (int t = 0; t < n; t++)
        for (int i = 0; i < d; i++) want[i] += seen[t].weight * seen[t].v[i];
    for (int first = 0, end; first < n; first = end) { /* page by page */
        double sw = 0;
        for (end = first; end < n && seen[end].page == seen[first].page; end++)
            sw = fmax(sw, seen[end].weight * seen[end].v_scale / 255);
        for (int t = first; t < end; t++) {
            const visible *s = &seen[t];
            double p = s->weight, rounding = s->v_scale > 0 ? 0.505 * sw / s->v_scale : 0;
            for (int i = 0; i < d; i++)
                error[i] += 2 * p * s->slack * fabs(s->v[i] - want[i]) + 1e-5 * p * fabs(s->v[i]) +
                            rounding * fabs(s->v[i] - s->v_min);
        }
    }
    for (int i = 0; i < d; i++) length += error[i] * error[i];
    for (int i = 0; i < d; i++) bound[i] = 1e-6 + (w->kv.policy->rotated ? sqrt(length) : error[i]);
    if (w->kv.policy->rotated) kvq_hadamard_double(want, d);
}

/* Ref's attend, and the bound, for a sample of the rows: both are slow. */
static void look_beside(kv_world *w, const step *st, int l, const kvq_attend *job) {
    int d = w->spec.head_dim, n_heads = w->spec.n_heads;
    size_t n = (size_t)n_heads * (size_t)d;
    visible *seen = allocate((size_t)w->n_pages * (size_t)w->spec.block_tokens * sizeof *seen);
    float *out = allocate(n * sizeof *out);
    for (int r = 0; r < st->batch.n_rows; r += 1 + st->batch.n_rows / 8) {
        kvq_batch row = st->batch;
        row.n_rows = 1;
        row.pos += r;
        row.row_seq += r;
        kvq_attend ref = *job;
        ref.batch = &row;
        ref.q += (size_t)r * n;
        ref.out = out;
        kvq_ref_attend(NULL, &ref);
        int i = st->which[st->row_seq[r]];
        memcpy(w->ref_out[l][i] + (size_t)st->pos[r] * n, out, n * sizeof *out);
        for (int g = 0; g < w->spec.n_kv_heads; g++) {
            int n_seen = look(w, st, l, r, g, seen), of_group = n_heads / w->spec.n_kv_heads;
            for (int h = g * of_group; h < (g + 1) * of_group; h++) {
                double want[KVQ_MAX_HEAD_DIM], *bound = w->bound[l][i] + (size_t)st->pos[r] * n + (size_t)(h * d);
                bound_query(w, ref.q + h * d, seen, n_seen, want, bound);
                for (int c = 0; c < d; c++) /* ref itself against this second walk */
                    if (!(fabs(want[c] - (double)out[h * d + c]) <= 1e-5 * (1 + fabs(want[c])))) bound[c] = -1;
            }
        }
    }
    free(seen);
    free(out);
}

/* ---- the run ---- */

static void run_layer(kv_world *w, step *st, const check_level *level, kvq_stream *s, int l, bool beside_ref) {
    const kv_world_spec *spec = &w->spec;
    const kvq_ops *ops = &level->ops;
    memset(w->scratch + GUARD_BYTES, UNWRITTEN, (size_t)(w->n_pages * KV_WORLD_SEQS) * w->slot_bytes);
    ops->append(s, &(kvq_append){.q_out = st->q,
                                 .qkv = st->qkv,
                                 .q_norm = spec->qk_norm ? w->q_norm : NULL,
                                 .k_norm = spec->qk_norm ? w->k_norm : NULL,
                                 .norm_eps = 1e-6f,
                                 .rope = st->rope,
                                 .neox = spec->neox,
                                 .n_rot = spec->n_rot,
                                 .n_heads = spec->n_heads,
                                 .batch = &st->batch,
                                 .kv = &w->kv,
                                 .layer = l});
    ops->close_pages(s, &(kvq_close_pages){.batch = &st->batch, .kv = &w->kv, .layer = l});
    kvq_attend job = {.out = st->out,
                      .q = st->q,
                      .scale = 1 / sqrtf((float)spec->head_dim),
                      .softcap = spec->softcap,
                      .window = l == 2 ? spec->window : 0,
                      .n_heads = spec->n_heads,
                      .batch = &st->batch,
                      .kv = &w->kv,
                      .layer = l};
    if (ops->attend) ops->attend(s, &job);
    (void)level->backend->fetch(s, NULL, NULL, 0, NULL); /* waits; its caller looks at the error */
    scatter(w, st, st->q, w->q[l]);
    scatter(w, st, st->out, w->out[l]);
    if (beside_ref) look_beside(w, st, l, &job);
}

static void init_step(const kv_world *w, step *st) {
    const kv_world_spec *spec = &w->spec;
    size_t rows = 0, n_q = (size_t)spec->n_heads * (size_t)spec->head_dim;
    for (int i = 0; i < KV_WORLD_SEQS; i++) rows += (size_t)spec->len[i];
    *st = (step){.closes = allocate((size_t)(w->n_pages * KV_WORLD_SEQS * KV_WORLD_GROUPS) * sizeof *st->closes),
                 .pos = allocate(rows * sizeof(int)),
                 .row_seq = allocate(rows * sizeof(int)),
                 .n_rows = rows,
                 .qkv = check_take(w->check, rows * (size_t)row_floats(spec) * sizeof(float)),
                 .rope = check_take(w->check, rows * (size_t)(spec->n_rot + 1) * sizeof(float)),
                 .q = check_take(w->check, rows * n_q * sizeof(float)),
                 .out = check_take(w->check, rows * n_q * sizeof(float))};
}

static void done_step(const kv_world *w, step *st) {
    free(st->closes);
    free(st->pos);
    free(st->row_seq);
    size_t n_q = (size_t)w->spec.n_heads * (size_t)w->spec.head_dim * sizeof(float);
    check_give(w->check, st->qkv, st->n_rows * (size_t)row_floats(&w->spec) * sizeof(float));
    check_give(w->check, st->rope, st->n_rows * (size_t)(w->spec.n_rot + 1) * sizeof(float));
    check_give(w->check, st->q, st->n_rows * n_q);
    check_give(w->check, st->out, st->n_rows * n_q);
}

/* Pages that closed give their wide blocks back. */
static void release(kv_world *w, const step *st) {
    for (int c = 0; c < st->batch.n_closes; c++) {
        const kvq_batch_close *close = &st->closes[c];
        int i = st->which[close->seq];
        memset(block_at(w, w->wide_blocks[i][close->group], close->page), UNWRITTEN, w->kv.block_bytes);
    }
    for (int i = 0; i < st->batch.n_seqs; i++)
        for (int g = 0; g < KV_WORLD_GROUPS; g++) free(st->pages[i][g]);
}

void kv_world_run(kv_world *w, const check_level *level, kvq_stream *s, const int *chunks, bool beside_ref) {
    int done[KV_WORLD_SEQS] = {0}, n_chunks = 0;
    while (chunks[n_chunks] > 0) n_chunks++;
    step st;
    init_step(w, &st);
    for (int turn = 0;; turn++) {
        st.batch = (kvq_batch){.pos = st.pos,
                               .row_seq = st.row_seq,
                               .seqs = st.seqs,
                               .closes = st.closes,
                               .scratch = w->scratch + GUARD_BYTES,
                               .scratch_slot_bytes = w->slot_bytes};
        for (int i = 0; i < KV_WORLD_SEQS; i++) {
            int left = w->spec.len[i] - done[i], n = chunks[(turn + i) % n_chunks];
            if (n > left) n = left;
            if (n == 0) continue;
            add_sequence(w, &st, i, done[i], n);
            done[i] += n;
        }
        if (st.batch.n_rows == 0) break;
        gather_inputs(w, &st);
        level->ops.begin(s, &(kvq_begin){.batch = &st.batch, .kv = &w->kv});
        for (int l = 0; l < KV_WORLD_LAYERS; l++) run_layer(w, &st, level, s, l, beside_ref);
        release(w, &st);
    }
    done_step(w, &st);
}

/* ---- what came out ---- */

static const char *guards_of(const kv_world *w, uint8_t *blocks, int i, int g, const char *kind) {
    for (int p = 0; p < w->n_pages; p++)
        for (size_t b = 0; b < GUARD_BYTES; b++) {
            const uint8_t *block = block_at(w, blocks, p);
            if (block[-1 - (ptrdiff_t)b] != GUARD)
                return sentence("%s block of sequence %d, group %d, page %d: byte %zu before it was written", kind, i,
                                g, p, b + 1);
            if (block[w->kv.block_bytes + b] != GUARD)
                return sentence("%s block of sequence %d, group %d, page %d: byte %zu behind it was written", kind, i,
                                g, p, b);
        }
    return NULL;
}

const char *kv_world_guards(const kv_world *w) {
    size_t scratch_bytes = scratch_bytes_of(w);
    for (size_t b = 0; b < GUARD_BYTES; b++)
        if (w->scratch[b] != GUARD || w->scratch[GUARD_BYTES + scratch_bytes + b] != GUARD)
            return sentence("guard byte %zu of the scratch was written", b);
    for (int i = 0; i < KV_WORLD_SEQS; i++)
        for (int g = 0; g < KV_WORLD_GROUPS; g++) {
            const char *error = guards_of(w, w->blocks[i][g], i, g, "first");
            if (!error) error = guards_of(w, w->wide_blocks[i][g], i, g, "second");
            if (error) return error;
        }
    return NULL;
}

static const char *block_difference(const kv_world *a, uint8_t *x, uint8_t *y, int i, int g, const char *kind) {
    for (int p = 0; p < a->n_pages; p++) {
        const uint8_t *one = block_at(a, x, p), *two = block_at(a, y, p);
        for (size_t b = 0; b < a->kv.block_bytes; b++)
            if (one[b] != two[b])
                return sentence("%s block of sequence %d, group %d, page %d: byte %zu is %02x and %02x", kind, i, g, p,
                                b, one[b], two[b]);
    }
    return NULL;
}

static const char *float_difference(const kv_world *w, const float *x, const float *y, int l, int i, const char *what) {
    size_t n = (size_t)w->spec.n_heads * (size_t)w->spec.head_dim;
    for (size_t j = 0; j < n * (size_t)w->spec.len[i]; j++)
        if (memcmp(x + j, y + j, sizeof *x) != 0)
            return sentence("%s of layer %d, sequence %d, position %zu, value %zu: %.9g and %.9g", what, l, i, j / n,
                            j % n, (double)x[j], (double)y[j]);
    return NULL;
}

const char *kv_world_difference(const kv_world *a, const kv_world *b, int first_sequence) {
    const char *error = NULL;
    for (int i = first_sequence; i < KV_WORLD_SEQS; i++) {
        for (int g = 0; g < KV_WORLD_GROUPS; g++) {
            if (!error) error = block_difference(a, a->blocks[i][g], b->blocks[i][g], i, g, "first");
            if (!error) error = block_difference(a, a->wide_blocks[i][g], b->wide_blocks[i][g], i, g, "second");
        }
        for (int l = 0; l < KV_WORLD_LAYERS; l++) {
            if (!error) error = float_difference(a, a->q[l][i], b->q[l][i], l, i, "q");
            if (!error) error = float_difference(a, a->out[l][i], b->out[l][i], l, i, "attention");
        }
    }
    return error;
}

/* Codes one off are rare: what is near a tie within float's rounding. */
typedef struct code_count {
    int n, n_off;
} code_count;

static bool half_is_near(const kv_world *w, const kvq_kv_half *x, const kvq_kv_half *y, bool is_v, int n_tokens,
                         code_count *count) {
    for (int t = 0; t < n_tokens; t++) {
        double scale = x->bits == 16 ? 0 : fabs((double)kvq_half_to_float(x->scales[t]));
        for (int i = 0; i < w->spec.head_dim; i++) {
            kvq_ref_place at = is_v ? kvq_ref_v_place(&w->kv, t, i) : kvq_ref_k_place(&w->kv, t, i);
            double a = kvq_ref_value(x, is_v, at, t, i), b = kvq_ref_value(y, is_v, at, t, i);
            double unit = x->bits == 16 ? fmax(fabs(b), 0.01) / 1024 : scale;
            if (!(fabs(a - b) <= 2 * unit)) return false; /* two: m may be of the other sign when both are as large */
            count->n++;
            count->n_off += fabs(a - b) > 0.1 * unit;
        }
    }
    return true;
}

static const char *pages_are_near(const kv_world *got, const kv_world *ref, int l, int i, code_count *count) {
    int t_page = got->spec.block_tokens, g_pages = got->layers[l].group, len = got->spec.len[i];
    for (int p = 0; p * t_page < len; p++) {
        bool wide = got->kv.policy->wide && (p == 0 || (p + 1) * t_page > len);
        int n_tokens = (p + 1) * t_page > len ? len - p * t_page : t_page;
        kvq_kv_page a = {block_at(got, got->blocks[i][g_pages], p), block_at(got, got->wide_blocks[i][g_pages], p), -1};
        kvq_kv_page b = {block_at(ref, ref->blocks[i][g_pages], p), block_at(ref, ref->wide_blocks[i][g_pages], p), -1};
        for (int g = 0; g < got->spec.n_kv_heads; g++) {
            kvq_kv_half ka, va, kb, vb;
            if (wide) {
                kvq_kv_wide_halves(&got->kv, l, &a, NULL, 0, g, &ka, &va);
                kvq_kv_wide_halves(&ref->kv, l, &b, NULL, 0, g, &kb, &vb);
            } else {
                kvq_kv_closed_halves(&got->kv, l, &a, g, &ka, &va);
                kvq_kv_closed_halves(&ref->kv, l, &b, g, &kb, &vb);
            }
            if (!half_is_near(got, &ka, &kb, false, n_tokens, count))
                return sentence("K of layer %d, sequence %d, page %d, head %d is not what ref wrote", l, i, p, g);
            if (!half_is_near(got, &va, &vb, true, n_tokens, count))
                return sentence("V of layer %d, sequence %d, page %d, head %d is not what ref wrote", l, i, p, g);
        }
    }
    return NULL;
}

/* Norm, RoPE and log2(d) butterflies, each rounding once: (8 + log2 d) eps of the head's length. */
static const char *q_is_near(const kv_world *got, const kv_world *ref, int l, int i) {
    int d = got->spec.head_dim;
    size_t n = (size_t)got->spec.n_heads * (size_t)d * (size_t)got->spec.len[i];
    for (size_t head = 0; head < n; head += (size_t)d) {
        double length = 0;
        for (int c = 0; c < d; c++) length += pow((double)ref->q[l][i][head + (size_t)c], 2);
        double bound = (8 + log2(d)) * ldexp(1, -23) * sqrt(length);
        for (int c = 0; c < d; c++)
            if (!(fabs((double)got->q[l][i][head + (size_t)c] - (double)ref->q[l][i][head + (size_t)c]) <= bound))
                return sentence("q of layer %d, sequence %d, head %zu, channel %d is %.9g, ref %.9g, bound %.3g", l, i,
                                head / (size_t)d, c, (double)got->q[l][i][head + (size_t)c],
                                (double)ref->q[l][i][head + (size_t)c], bound);
    }
    return NULL;
}

const char *kv_world_is_near(const kv_world *got, const kv_world *ref) {
    const char *error = NULL;
    code_count count = {0};
    for (int l = 0; l < KV_WORLD_LAYERS && !error; l++)
        for (int i = 0; i < KV_WORLD_SEQS && !error; i++) {
            error = q_is_near(got, ref, l, i);
            if (!error) error = pages_are_near(got, ref, l, i, &count);
        }
    if (!error && !(count.n_off <= count.n / 500))
        error = sentence("%d of %d codes differ from ref's: more than ties explain", count.n_off, count.n);
    return error;
}

const char *kv_world_attend_error(const kv_world *w, double *worst_ratio) {
    size_t n = (size_t)w->spec.n_heads * (size_t)w->spec.head_dim, n_checked = 0;
    *worst_ratio = 0;
    for (int l = 0; l < KV_WORLD_LAYERS; l++)
        for (int i = 0; i < KV_WORLD_SEQS; i++)
            for (size_t j = 0; j < n * (size_t)w->spec.len[i]; j++) {
                double bound = w->bound[l][i][j], got = (double)w->out[l][i][j], want = (double)w->ref_out[l][i][j];
                if (bound == 0) continue; /* not in the sample */
                n_checked++;
                if (!(fabs(got - want) <= bound))
                    return sentence(
                        "attention of layer %d, sequence %d, position %zu, value %zu is %.6g, ref %.6g, bound %.3g", l,
                        i, j / n, j % n, got, want, bound);
                *worst_ratio = fmax(*worst_ratio, fabs(got - want) / bound);
            }
    return n_checked ? NULL : "nothing was checked";
}
