/* bench_gpu.c: what tests/gpu/run measures beside kvqctl bench, one JSON object a line on stdout.
 *
 *     bench_gpu copy PLUGIN MIB
 *         bytes/s of `gather` over MIB read and written: the bandwidth that a plain kernel reaches here
 *     bench_gpu attend PLUGIN N_HEADS N_KV_HEADS HEAD_DIM LAYERS BATCH,... DEPTH,... POOL_MIB
 *         decode attention by policy, batch and depth: us a layer, bytes of the cache read, bytes/s. Sequences share no
 * page; a configuration whose pages do not fit in POOL_MIB is left out. Each layer has its own bytes, so a layer finds
 * nothing of its own in the GPU's last-level cache if the layers together are larger than that. bench_gpu requests
 * MODEL BACKEND POOL MAX_BATCH N_REQUESTS LONGEST POLICY,... requests/s and tokens/s over a pool of fixed size, all
 * requests there from the start. Lengths are drawn like ShareGPT's: log-normal, medians of 120 in and 150 out, clipped
 * to 4 .. LONGEST (the distribution that vLLM's and LMDeploy's throughput benches have for it), the same ones in every
 * run.
 *
 * Times are the least of several repeats, the device waited for. Called by tests/gpu/run. */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/kvq.h"
#include "kernels/backend.h"
#include "tests/shapes.h"

enum { BLOCK_TOKENS = 64, REPEATS = 7, LIST_MAX = 8 };

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what, const kvq_error *err) {
    fprintf(stderr, "bench_gpu: %s: %s\n", what, err->text);
    exit(1);
}

static int parse_list(const char *text, int *ret) {
    int n = 0;
    for (char *end; *text && n < LIST_MAX; text = *end ? end + 1 : end) ret[n++] = (int)strtol(text, &end, 10);
    return n;
}

/* ---- the device ---- */

typedef struct device {
    const kvq_backend *backend;
    kvq_device *device;
    const kvq_ops *ops;
    kvq_stream *stream;
} device;

static device open_plugin(const char *path, const kvq_shapes *shapes) {
    kvq_error err;
    device d;
    if (kvq_plugin_open(path, &d.backend, &err) ||
        d.backend->open(&(kvq_device_options){.isa = "auto"}, &d.device, &err) ||
        d.backend->stream_new(d.device, shapes, &d.stream, &err))
        die("opening the device", &err);
    d.ops = d.backend->ops(d.device);
    return d;
}

static void close_plugin(device *d) {
    d->backend->stream_free(d->stream);
    d->backend->close(d->device);
}

static uint8_t *take(const device *d, uint64_t bytes, const char *what) {
    kvq_error err;
    uint8_t *ret;
    if (d->backend->take(d->device, KVQ_MEMORY_DEVICE, bytes, true, what, &ret, &err)) die(what, &err);
    return ret;
}

static void wait_for(const device *d) {
    kvq_error err;
    if (d->backend->fetch(d->stream, NULL, NULL, 0, &err)) die("waiting for the device", &err);
}

/* Least seconds of `run`, the device waited for, after one that is not counted. */
static double least_s(const device *d, void (*run)(const device *d, void *job), void *job) {
    double least = INFINITY;
    for (int i = -1; i < REPEATS; i++) {
        double begin = now_s();
        run(d, job);
        wait_for(d);
        double s = now_s() - begin;
        if (i >= 0 && s < least) least = s;
    }
    return least;
}

/* ---- copy ---- */

enum { COPY_COLS = 1 << 16, COPY_TIMES = 10 };

typedef struct copy_job {
    float *to, *from;
    const int *rows;
    int n_rows;
} copy_job;

static void run_copy(const device *d, void *arg) {
    const copy_job *j = arg;
    for (int i = 0; i < COPY_TIMES; i++)
        d->ops->gather(
            d->stream,
            &(kvq_gather){.out = j->to, .in = j->from, .rows = j->rows, .n_rows = j->n_rows, .n_cols = COPY_COLS});
}

static int bench_copy(char **argv) {
    int n_rows = atoi(argv[1]) * (1 << 20) / (COPY_COLS * 4);
    uint64_t bytes = (uint64_t)n_rows * COPY_COLS * sizeof(float);
    kvq_shapes shapes = shapes_of_matrices(n_rows, 64, 64, 0);
    device d = open_plugin(argv[0], &shapes);
    int *rows = malloc((size_t)n_rows * sizeof *rows);
    if (!rows) abort();
    for (int r = 0; r < n_rows; r++) rows[r] = r;
    copy_job job = {.to = (float *)take(&d, bytes, "copy"),
                    .from = (float *)take(&d, bytes, "copy"),
                    .rows = rows,
                    .n_rows = n_rows};
    double s = least_s(&d, run_copy, &job) / COPY_TIMES;
    printf("{\"bench\":\"copy\",\"mib\":%d,\"bytes_per_s\":%.4g}\n", atoi(argv[1]), 2.0 * (double)bytes / s);
    d.backend->give(d.device, KVQ_MEMORY_DEVICE, (uint8_t *)job.to, bytes);
    d.backend->give(d.device, KVQ_MEMORY_DEVICE, (uint8_t *)job.from, bytes);
    free(rows);
    close_plugin(&d);
    return 0;
}

/* ---- attend ---- */

typedef struct attend_job {
    kvq_kv kv;
    kvq_batch batch;
    float *q, *out;
    int n_heads, n_layers;
} attend_job;

static void run_attend(const device *d, void *arg) {
    attend_job *j = arg;
    d->ops->begin(d->stream, &(kvq_begin){.batch = &j->batch, .kv = &j->kv});
    for (int l = 0; l < j->n_layers; l++)
        d->ops->attend(d->stream, &(kvq_attend){.out = j->out,
                                                .q = j->q,
                                                .scale = 0.0884f,
                                                .n_heads = j->n_heads,
                                                .batch = &j->batch,
                                                .kv = &j->kv,
                                                .layer = l});
}

/* Every layer's pages one behind the other in a block, as the engine has them. */
static void lay_out(attend_job *j, kvq_kv_layer *layers) {
    j->kv.block_bytes = 0;
    for (int l = 0; l < j->n_layers; l++) {
        kvq_kv_image_init(&layers[l].closed, j->kv.policy, j->kv.head_dim, BLOCK_TOKENS, false);
        layers[l].offset = j->kv.block_bytes;
        j->kv.block_bytes += layers[l].closed.bytes * (size_t)j->kv.n_kv_heads;
    }
}

static void bench_depth(const device *d, attend_job *j, uint8_t *pool, uint64_t pool_bytes, int n_seqs, int depth) {
    int n_pages = (depth + BLOCK_TOKENS - 1) / BLOCK_TOKENS,
        wide = j->kv.policy->wide ? 2 : 0; /* pages that have a second block */
    uint64_t n_blocks = (uint64_t)n_seqs * (uint64_t)(n_pages + wide), block = 0;
    if (n_blocks * j->kv.block_bytes > pool_bytes) return;
    kvq_kv_page *pages = calloc((size_t)n_seqs * (size_t)n_pages, sizeof *pages);
    kvq_batch_seq *seqs = calloc((size_t)n_seqs, sizeof *seqs);
    int *ints = calloc((size_t)n_seqs * 3, sizeof *ints);
    if (!pages || !seqs || !ints) abort();
    for (int i = 0; i < n_seqs; i++) {
        kvq_kv_page *own = pages + (size_t)i * (size_t)n_pages;
        for (int p = 0; p < n_pages; p++) {
            bool is_wide = wide && (p == 0 || p == n_pages - 1);
            own[p] = (kvq_kv_page){.block = pool + block++ * j->kv.block_bytes, .scratch = -1};
            if (is_wide) own[p].wide_v = pool + block++ * j->kv.block_bytes;
        }
        seqs[i] = (kvq_batch_seq){.row_begin = i, .n_rows = 1, .pos_begin = depth - 1, .pages = {own}};
        ints[n_seqs + i] = depth - 1; /* the last of depth positions */
        ints[2 * n_seqs + i] = i;
    }
    j->batch = (kvq_batch){.n_rows = n_seqs,
                           .n_seqs = n_seqs,
                           .ids = ints,
                           .pos = ints + n_seqs,
                           .row_seq = ints + 2 * n_seqs,
                           .seqs = seqs};
    double s = least_s(d, run_attend, j) / j->n_layers,
           read = (double)n_blocks * (double)j->kv.block_bytes / j->n_layers;
    printf("{\"bench\":\"attend\",\"kv\":\"%s\",\"batch\":%d,\"depth\":%d,\"us\":%.3f,\"bytes\":%.0f,\"bytes_per_s\":%."
           "4g}\n",
           j->kv.policy->value, n_seqs, depth, s * 1e6, read, read / s);
    fflush(stdout);
    free(pages);
    free(seqs);
    free(ints);
}

static int bench_attend(char **argv) {
    static const kvq_policy_id policies[] = {KVQ_POLICY_F16, KVQ_POLICY_INT8, KVQ_POLICY_INT4};
    int batches[LIST_MAX], depths[LIST_MAX], n_batches = parse_list(argv[5], batches),
                                             n_depths = parse_list(argv[6], depths);
    attend_job j = {.n_heads = atoi(argv[1]), .n_layers = atoi(argv[4])};
    uint64_t pool_bytes = (uint64_t)strtoull(argv[7], NULL, 10) << 20;
    int n_kv_heads = atoi(argv[2]), head_dim = atoi(argv[3]), deepest = 1, most = 1;
    for (int i = 0; i < n_depths; i++) deepest = depths[i] > deepest ? depths[i] : deepest;
    for (int i = 0; i < n_batches; i++) most = batches[i] > most ? batches[i] : most;
    kvq_shapes shapes = {.max_rows = most,
                         .max_in = j.n_heads * head_dim,
                         .max_out = 3 * j.n_heads * head_dim,
                         .n_heads = j.n_heads,
                         .n_kv_heads = n_kv_heads,
                         .head_dim = head_dim,
                         .max_tokens = deepest + BLOCK_TOKENS,
                         .block_tokens = BLOCK_TOKENS,
                         .max_seqs = most,
                         .n_groups = 1};
    device d = open_plugin(argv[0], &shapes);
    kvq_kv_layer *layers = calloc((size_t)j.n_layers, sizeof *layers);
    uint64_t q_bytes = (uint64_t)most * (uint64_t)j.n_heads * (uint64_t)head_dim * sizeof(float);
    uint8_t *pool = take(&d, pool_bytes, "the pool"); /* zeros: scores are equal, which costs what all others do */
    if (!layers) abort();
    j.q = (float *)take(&d, q_bytes, "queries");
    j.out = (float *)take(&d, q_bytes, "outputs");
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        j.kv = (kvq_kv){.policy = kvq_policy_get(policies[p]),
                        .block_tokens = BLOCK_TOKENS,
                        .head_dim = head_dim,
                        .n_kv_heads = n_kv_heads,
                        .n_layers = j.n_layers,
                        .n_groups = 1,
                        .layers = layers};
        lay_out(&j, layers);
        for (int b = 0; b < n_batches; b++)
            for (int t = 0; t < n_depths; t++) bench_depth(&d, &j, pool, pool_bytes, batches[b], depths[t]);
    }
    d.backend->give(d.device, KVQ_MEMORY_DEVICE, pool, pool_bytes);
    d.backend->give(d.device, KVQ_MEMORY_DEVICE, (uint8_t *)j.q, q_bytes);
    d.backend->give(d.device, KVQ_MEMORY_DEVICE, (uint8_t *)j.out, q_bytes);
    free(layers);
    close_plugin(&d);
    return 0;
}

/* ---- requests ---- */

/* xorshift64*; two draws make a normal number (Box and Muller, 1958). */
static double uniform(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return ((double)(*state * 0x2545F4914F6CDD1Du >> 11) + 0.5) * 0x1p-53;
}

static int draw_length(uint64_t *state, double median, double spread, int longest) {
    double normal = sqrt(-2 * log(uniform(state))) * cos(6.283185307179586 * uniform(state));
    double n = median * exp(spread * normal);
    return n < 4 ? 4 : n > longest ? longest : (int)n;
}

static void submit_all(kvq_engine *e, int n_requests, int longest, int vocab_size, uint64_t *ret_prompt_tokens) {
    uint64_t state = 20260101, id;
    kvq_error err;
    int *ids = malloc((size_t)longest * sizeof *ids);
    if (!ids) abort();
    for (int i = 0; i < n_requests; i++) {
        kvq_request r = kvq_default_request();
        r.n_ids = (size_t)draw_length(&state, 120, 1.2, longest);
        r.max_tokens = draw_length(&state, 150, 0.9, longest);
        for (size_t t = 0; t < r.n_ids; t++) ids[t] = (int)(uniform(&state) * (vocab_size - 1));
        r.ids = ids;
        r.ignore_end = true;
        r.temperature = 0;
        *ret_prompt_tokens += r.n_ids;
        if (kvq_submit(e, &r, &id, &err)) die("submitting", &err);
    }
    free(ids);
}

static void bench_policy(kvq_options o, int n_requests, int longest) {
    kvq_engine *e;
    kvq_error err;
    const kvq_event *events;
    size_t n;
    kvq_stats stats;
    uint64_t prompt_tokens = 0;
    if (kvq_open(&o, &e, &err)) die("opening the model", &err);
    const kvq_info *info = kvq_get_info(e);
    submit_all(e, n_requests, longest, info->vocab_size, &prompt_tokens);
    double begin = now_s();
    while (kvq_is_active(e))
        if (kvq_step(e, &events, &n, &err)) die("a step", &err);
    double s = now_s() - begin;
    kvq_get_stats(e, &stats);
    printf("{\"bench\":\"requests\",\"kv\":\"%s\",\"backend\":\"%s\",\"pool_bytes\":%llu,\"requests\":%d,\"prompt_"
           "tokens\":%llu,\"tokens\":%llu,"
           "\"steps\":%llu,\"steps_ahead\":%llu,\"preemptions\":%llu,\"requests_per_s\":%.4g,\"tokens_per_s\":%.5g}\n",
           info->quant_policy, info->backend, (unsigned long long)info->pool_bytes, n_requests,
           (unsigned long long)prompt_tokens, (unsigned long long)stats.generation_tokens,
           (unsigned long long)stats.steps, (unsigned long long)stats.steps_ahead,
           (unsigned long long)stats.preemptions, n_requests / s, (double)stats.generation_tokens / s);
    fflush(stdout);
    kvq_close(e);
}

static int bench_requests(char **argv) {
    char *save = NULL;
    kvq_options o = kvq_default_options();
    o.model_path = argv[0];
    o.backend = argv[1];
    o.cache_max_entry_count = argv[2];
    o.max_batch_size = atoi(argv[3]);
    o.enable_prefix_caching = false;
    o.reproducible = false; /* as the service has it */
    int n_requests = atoi(argv[4]), longest = atoi(argv[5]);
    o.session_len = 2 * longest;
    for (char *kv = strtok_r(argv[6], ",", &save); kv; kv = strtok_r(NULL, ",", &save)) {
        o.quant_policy = kv;
        bench_policy(o, n_requests, longest);
    }
    return 0;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int n_args;
        int (*run)(char **argv);
    } benches[] = {{"copy", 2, bench_copy}, {"attend", 8, bench_attend}, {"requests", 7, bench_requests}};
    for (size_t i = 0; argc > 1 && i < sizeof benches / sizeof *benches; i++)
        if (strcmp(argv[1], benches[i].name) == 0 && argc == benches[i].n_args + 2) return benches[i].run(argv + 2);
    fputs("bench_gpu: see the first lines of tests/gpu/bench_gpu.c\n", stderr);
    return 2;
}
