/* suite_kv.c: the cache: append, close_pages and attend together, over caches that grow step by step (kv_world.h).
 *
 * For each policy and shape: what `ref` writes and what each instruction set writes are near (ties of roundings apart);
 * attend on the cache it finds is within the bound derived for 8-bit queries and probabilities; and bit for bit the
 * same come from every instruction set, from one and from three threads, and however the tokens were cut into chunks:
 * one at a time, odd sizes, all at once. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "kv_world.h"

#define COUNT(array) ((int)(sizeof array / sizeof *array))

static const int one_by_one[] = {1, 0}, odd_sizes[] = {7, 64, 3, 1, 130, 2, 0}, at_once[] = {4096, 0};

/* clang-format off */
/*   policy d   heads kv  T  neox  n_rot norm  bias  hostile window cap  lengths, seed, odd_v */
static const kv_world_spec shapes[] = {
    {0,    64,   9,  3,  32, false, 64, false, true,  false,   0,   0, {310,  70,  13}, 1, 0},
    {0,    64,  14,  2,  64, true,  64, false, true,  false, 100,   0, {150,   1,  64}, 2, 0},
    {0,    80,   4,  4,  32, true,  40, false, false, false,  40,   0, {100,  65,  33}, 3, 0},
    {0,    96,   6,  2,  64, true,  96, true,  false, false,   0,  30, {130,  64,  20}, 4, 0},
    {0,   128,   8,  1, 128, false, 64, false, true,  false,   0,   0, {150, 129,  27}, 5, 0},
    {0,   256,   4,  1,  64, true, 256, true,  false, false,  70,  50, {140,  63,   3}, 6, 0},
    {0,    16,  40,  1,  32, false, 16, false, true,  false,  33,   0, { 90,   2,  65}, 7, 0},
    {0,   320,   2,  2,  32, true, 320, false, true,  false,   0,   0, { 70,  33,   1}, 8, 0},
    {0,   128,   4,  2,  32, true, 128, true,  false, false,   0,   0, { 70,  32,   5}, 9, 0},
    {0,    64,   1,  1, 128, false, 64, false, true,  false,   0,   0, {540,   9,  20}, 10, 0},
    {0,   512,   4,  2,  64, true, 512, true,  false, false,   0,   0, {150,  64,   3}, 12, 0},
    /* Rows of one page whose windows begin on both sides of a split's edge. */
    {0,    32,   4,  1,  32, false, 32, false, true,  false,  38,   0, {330,   7,  40}, 11, 0},
};
/* clang-format on */

static kvq_stream *new_stream(check *c, const check_level *level, const kv_world_spec *spec, int threads) {
    kvq_shapes sizes = {.max_rows = 1024,
                        .max_in = 64,
                        .max_out = 64,
                        .n_heads = spec->n_heads,
                        .n_kv_heads = spec->n_kv_heads,
                        .head_dim = spec->head_dim,
                        .max_tokens = 1024,
                        .block_tokens = spec->block_tokens,
                        .threads = threads,
                        .max_seqs = KV_WORLD_SEQS,
                        .n_groups = KV_WORLD_GROUPS};
    kvq_stream *s = NULL;
    kvq_error error;
    if (level->backend->stream_new(level->device, &sizes, &s, &error) != KVQ_OK)
        check_fail(c, CHECK_STREAM, "%s", error.text);
    return s;
}

/* A new world, fed by one instruction set; what is wrong with the bytes around is reported. */
static kv_world *grow(check *c, const kv_world_spec *spec, const check_level *level, const int *chunks, int threads,
                      bool beside_ref) {
    kv_world *w = kv_world_new(c, spec);
    kvq_stream *s = new_stream(c, level, spec, threads);
    kvq_error error;
    if (!s) return w;
    kv_world_run(w, level, s, chunks, beside_ref);
    if (level->backend->stream_error(s, &error) != KVQ_OK)
        check_fail(c, CHECK_STREAM, "%s: %s", level->name, error.text);
    const char *wrong = kv_world_guards(w);
    if (wrong) check_fail(c, CHECK_GUARD, "%s: %s", level->name, wrong);
    level->backend->stream_free(s);
    return w;
}

static void compare(check *c, const kv_world *first, kv_world *other, const char *what, int first_sequence) {
    const char *wrong = kv_world_difference(first, other, first_sequence);
    if (wrong) check_fail(c, CHECK_NOT_IDENTICAL, "%s: %s", what, wrong);
    c->n_runs++;
    kv_world_free(other);
}

static void check_near(check *c, const kv_world *w, const kv_world *ref, const char *level) {
    double ratio;
    const char *wrong = kv_world_is_near(w, ref);
    if (wrong) check_fail(c, CHECK_WRONG_VALUE, "%s: %s", level, wrong);
    wrong = kv_world_attend_error(w, &ratio);
    if (wrong) check_fail(c, CHECK_WRONG_VALUE, "%s: %s", level, wrong);
    c->n_runs++;
}

static void world_case(check *c, const kv_world_spec *spec) {
    const kvq_policy *policy = kvq_policy_get(spec->policy);
    if (!check_begin(c, "kv_%s_d%d_h%d_g%d_t%d", policy->value, spec->head_dim, spec->n_heads, spec->n_kv_heads,
                     spec->block_tokens))
        return;
    check_level writer = c->levels[0];
    writer.ops.attend = NULL;
    kv_world *ref = grow(c, spec, &writer, at_once, 1, false);
    kv_world *first = grow(c, spec, &c->levels[1], odd_sizes, 1, true);
    check_near(c, first, ref, c->levels[1].name);
    for (int l = 1; l < c->n_levels; l++) {
        const check_level *level = &c->levels[l];
        if (l > 1 || level->device) /* a device's second stream is another order of blocks */
            compare(c, first, grow(c, spec, level, odd_sizes, CHECK_THREADS, false), level->name, 0);
    }
    const check_level *last = &c->levels[c->n_levels - 1];
    compare(c, first, grow(c, spec, last, at_once, CHECK_THREADS, false), "at once", 0);
    compare(c, first, grow(c, spec, last, one_by_one, 2, false), "one by one", 0);
    kv_world_free(first);
    kv_world_free(ref);
    check_end(c);
}

/* One sequence of NaN and infinities: nothing crashes, nothing is written elsewhere, and its neighbours do not notice.
 */
static void hostile_case(check *c, kv_world_spec spec) {
    if (!check_begin(c, "kv_%s_hostile", kvq_policy_get(spec.policy)->value)) return;
    const check_level *last = &c->levels[c->n_levels - 1];
    kv_world *plain = grow(c, &spec, last, odd_sizes, 1, false);
    spec.hostile = true;
    for (int l = 0; l < c->n_levels; l++) {
        kv_world *w = grow(c, &spec, &c->levels[l], odd_sizes, CHECK_THREADS, false);
        if (l > 0)
            compare(c, plain, w, c->levels[l].name, 1);
        else
            kv_world_free(w);
    }
    kv_world_free(plain);
    check_end(c);
}

/* A token's V that is not finite, or too large for a scale in half: rows that do not see it do not notice. */
static void unseen_case(check *c, kvq_policy_id policy, float odd_v, const char *name) {
    kv_world_spec spec = {policy, 64, 4, 1, 128, true, 64, false, false, false, 38, 0, {150, 3, 3}, 31, 0};
    if (!check_begin(c, "kv_%s_unseen_%s", kvq_policy_get(policy)->value, name)) return;
    const check_level *last = &c->levels[c->n_levels - 1];
    const int *chunks[] = {odd_sizes, at_once, one_by_one};
    size_t n = (size_t)spec.n_heads * (size_t)spec.head_dim;
    spec.seed += (uint32_t)c->seed * 100;
    for (int k = 0; k < COUNT(chunks); k++) {
        spec.odd_v = 0;
        kv_world *plain = grow(c, &spec, last, chunks[k], 1, false);
        spec.odd_v = odd_v;
        kv_world *odd = grow(c, &spec, last, chunks[k], 1, false);
        for (int r = 0; r < spec.len[0]; r++) {
            bool sees = r >= KV_WORLD_ODD_TOKEN && r < KV_WORLD_ODD_TOKEN + spec.window;
            const float *want = plain->out[KV_WORLD_LAYERS - 1][0] + (size_t)r * n;
            if (!sees && memcmp(want, odd->out[KV_WORLD_LAYERS - 1][0] + (size_t)r * n, n * sizeof *want) != 0) {
                check_fail(c, CHECK_NOT_IDENTICAL, "%s: row %d", last->name, r);
                break;
            }
        }
        c->n_runs++;
        kv_world_free(odd);
        kv_world_free(plain);
    }
    check_end(c);
}

void suite_kv(check *c) {
    for (int p = 0; p < KVQ_POLICY_COUNT; p++) {
        for (int i = 0; i < COUNT(shapes); i++) {
            kv_world_spec spec = shapes[i];
            spec.policy = (kvq_policy_id)p;
            spec.seed += (uint32_t)c->seed * 100;
            world_case(c, &spec);
        }
        kv_world_spec spec = shapes[0];
        spec.policy = (kvq_policy_id)p;
        spec.len[0] = 150; /* ref attends for every row here: slow */
        hostile_case(c, spec);
        if (kvq_policy_get(spec.policy)->v_bits == 16) continue; /* there a sum with zero times infinity is a NaN */
        unseen_case(c, spec.policy, INFINITY, "infinity");
        unseen_case(c, spec.policy, NAN, "nan");
        unseen_case(c, spec.policy, -1e6f, "large"); /* too large for a scale in half */
    }
}

/* ---- bench: a cache larger than the last level, layer after layer as a step reads it ---- */

#define BENCH_LAYERS 30
#define BENCH_DEPTH 4096
#define BENCH_ROWS 512

typedef struct bench_world {
    kvq_kv kv;
    kvq_kv_layer layers[BENCH_LAYERS];
    kvq_kv_page pages[(BENCH_DEPTH + BENCH_ROWS) / 64 + 1];
    kvq_batch batch;
    kvq_batch_seq seq;
    uint8_t *pool, *wide_v;
    int pos[BENCH_ROWS], row_seq[BENCH_ROWS];
    float *q, *qkv, *rope, *out;
    int n_heads;
    const kvq_ops *ops;
    kvq_stream *stream;
} bench_world;

static void *bench_alloc(size_t bytes, int fill) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) abort();
    memset(p, fill, (bytes + 63) / 64 * 64);
    return p;
}

/* n_rows of one sequence from position `depth` on, n_heads = 9 or so over a pool of every layer's pages. */
static void bench_open(bench_world *w, kvq_policy_id policy, int head_dim, int n_heads, int n_kv_heads, int depth,
                       int n_rows) {
    *w = (bench_world){.n_heads = n_heads};
    w->kv = (kvq_kv){.policy = kvq_policy_get(policy),
                     .block_tokens = 64,
                     .head_dim = head_dim,
                     .n_kv_heads = n_kv_heads,
                     .n_layers = BENCH_LAYERS,
                     .n_groups = 1,
                     .layers = w->layers};
    for (int l = 0; l < BENCH_LAYERS; l++) {
        kvq_kv_image_init(&w->layers[l].closed, w->kv.policy, head_dim, 64, false);
        w->layers[l].offset = w->kv.block_bytes;
        w->kv.block_bytes += w->layers[l].closed.bytes * (size_t)n_kv_heads;
    }
    int n_pages = (depth + n_rows + 63) / 64;
    w->pool = bench_alloc((size_t)(n_pages + 1) * w->kv.block_bytes, 0x2d); /* halves 0x2d2d: 0.08 */
    w->wide_v = bench_alloc(2 * w->kv.block_bytes, 0x2d);
    for (int p = 0; p < n_pages; p++)
        w->pages[p] =
            (kvq_kv_page){w->pool + (size_t)p * w->kv.block_bytes, w->wide_v + (p > 0 ? w->kv.block_bytes : 0), -1};
    size_t heads = (size_t)(n_heads + 2 * n_kv_heads), rows = (size_t)n_rows;
    w->q = bench_alloc(rows * heads * (size_t)head_dim * sizeof(float), 0x3e);
    w->qkv = bench_alloc(rows * heads * (size_t)head_dim * sizeof(float), 0x3e);
    w->out = bench_alloc(rows * heads * (size_t)head_dim * sizeof(float), 0);
    w->rope = bench_alloc(rows * (size_t)head_dim * sizeof(float), 0x3e);
    for (int r = 0; r < n_rows; r++) w->pos[r] = depth + r;
    w->seq = (kvq_batch_seq){.n_rows = n_rows, .pos_begin = depth, .pages = {w->pages}};
    w->batch = (kvq_batch){.n_rows = n_rows, .n_seqs = 1, .pos = w->pos, .row_seq = w->row_seq, .seqs = &w->seq};
}

static void bench_done(bench_world *w) {
    free(w->pool);
    free(w->wide_v);
    free(w->q);
    free(w->qkv);
    free(w->out);
    free(w->rope);
}

static void run_attend(void *arg) {
    bench_world *w = arg;
    for (int l = 0; l < BENCH_LAYERS; l++)
        w->ops->attend(w->stream, &(kvq_attend){.out = w->out,
                                                .q = w->q,
                                                .scale = 0.125f,
                                                .n_heads = w->n_heads,
                                                .batch = &w->batch,
                                                .kv = &w->kv,
                                                .layer = l});
}

static void run_append(void *arg) {
    bench_world *w = arg;
    for (int l = 0; l < BENCH_LAYERS; l++)
        w->ops->append(w->stream, &(kvq_append){.q_out = w->q,
                                                .qkv = w->qkv,
                                                .rope = w->rope,
                                                .n_rot = w->kv.head_dim,
                                                .n_heads = w->n_heads,
                                                .batch = &w->batch,
                                                .kv = &w->kv,
                                                .layer = l});
}

typedef struct bench_model {
    int head_dim, n_heads, n_kv_heads;
} bench_model;

static void bench_operator(check *c, const char *what, void (*fn)(void *), kvq_policy_id policy,
                           const bench_model *model, int depth, int n_rows, kvq_stream *stream) {
    const check_level *level = &c->levels[c->n_levels - 1];
    char name[80];
    snprintf(name, sizeof name, "%s %s d%d %d/%d heads, depth %d, %d rows", what, kvq_policy_get(policy)->value,
             model->head_dim, model->n_heads, model->n_kv_heads, depth, n_rows);
    if (!check_begin(c, "%s", name)) return;
    bench_world *w = bench_alloc(sizeof *w, 0);
    bench_open(w, policy, model->head_dim, model->n_heads, model->n_kv_heads, depth, n_rows);
    w->stream = stream;
    w->ops = &level->ops;
    double bytes = n_rows == 1 ? (double)(w->kv.block_bytes * (size_t)depth / 64) : 0;
    check_bench_row(name, level->name, kvq_cpu_stream_threads(stream), check_time(fn, w) / BENCH_LAYERS,
                    bytes / BENCH_LAYERS, 0);
    bench_done(w);
    free(w);
    check_end(c);
}

/* One layer's time. Decode at depth 4096 reads every byte of the pool once; prefill is bound by arithmetic. */
void bench_kv(check *c) {
    static const bench_model models[] = {{64, 9, 3}, {64, 14, 2}, {256, 4, 1}, {128, 32, 8}};
    kv_world_spec sizes = {.n_heads = 32, .n_kv_heads = 8, .head_dim = 256, .block_tokens = 64};
    for (int threads = 1; threads <= 2; threads++) {
        kvq_stream *stream = new_stream(c, &c->levels[c->n_levels - 1], &sizes, threads);
        for (int m = 0; m < COUNT(models); m++)
            for (kvq_policy_id p = 0; p < KVQ_POLICY_COUNT; p++) {
                bench_operator(c, "attend", run_attend, p, &models[m], BENCH_DEPTH, 1, stream);
                bench_operator(c, "attend", run_attend, p, &models[m], 0, BENCH_ROWS, stream);
                bench_operator(c, "append", run_append, p, &models[m], 0, BENCH_ROWS, stream);
            }
        kvq_cpu_stream_free(stream);
    }
}
