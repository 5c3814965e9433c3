/* test_engine_on_shim.c: the whole engine through the CUDA backend, on the SIMT shim: every architecture and policy
 * gives the CPU backend's logits, answers do not depend on who shares a batch, and every fault of a GPU is told as what
 * it is. KVQ_CUDA_PLUGIN names libkvq-cuda-shim.so (simt.cmake). --sample: some policies of each model, shorter
 * answers. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_cublas.h"
#include "world.h"
#include "tests/sample.h"

#define COUNT_OF(a) (sizeof(a) / sizeof *(a))

static const char *const policies[] = {"0", "8", "4", "lmdeploy8", "lmdeploy4"};

/* Most divergence from the CPU backend in nats, mean and worst of N_IDS positions: about three times what was seen. */
static const struct bound {
    double mean, worst;
} bounds[] = {{1e-6, 1e-5}, {5e-5, 2e-3}, {1e-4, 2e-3}, {3e-4, 2e-3}, {2e-3, 2e-2}}, coded_bound = {7e-4, 8e-3},
  halves_bound = {9e-3, 5e-2}; /* products in halves, here or by cuBLAS, beside the CPU's of activations in 8 bits */

static kvq_options cuda_options(int model, const char *policy) {
    kvq_options o = world_options(model, policy);
    o.backend = "cuda";
    o.max_batch_size = 8;
    o.cache_max_entry_count = "300";
    return o;
}

/* ---- the same logits as the CPU's -------------------------------------------------------------------------------- */

enum { N_IDS = 150 }; /* five pages of 32, two chunks of 64 and a rest; beyond gemma3's window of 96 */

typedef struct rows {
    float *logits; /* [N_IDS, TINY_VOCAB] */
    size_t n;
} rows;

static int keep_row(void *user, size_t pos, const float *logits) {
    rows *r = user;
    assert_int_equal(pos, r->n);
    memcpy(r->logits + r->n++ * TINY_VOCAB, logits, TINY_VOCAB * sizeof(float));
    return 0;
}

static rows logits_of(kvq_options o) {
    kvq_error err;
    int ids[N_IDS];
    rows r = {.logits = calloc(N_IDS * TINY_VOCAB, sizeof(float))};
    assert_non_null(r.logits);
    (void)world_request(ids, N_IDS, 7, 1);
    kvq_engine *e = world_open(&o);
    if (kvq_logits(e, ids, N_IDS, 0, keep_row, &r, &err)) fail_msg("%s", err.text);
    assert_string_equal(kvq_get_info(e)->backend, strcmp(o.backend, "cuda") == 0 ? "cuda" : "cpu");
    kvq_close(e);
    return r;
}

/* Divergence in nats of what b says from what a says. */
static double divergence(const float *a, const float *b) {
    double max_a = -INFINITY, max_b = -INFINITY, sum_a = 0, sum_b = 0, kl = 0;
    for (int i = 0; i < TINY_VOCAB; i++) {
        max_a = fmax(max_a, (double)a[i]);
        max_b = fmax(max_b, (double)b[i]);
    }
    for (int i = 0; i < TINY_VOCAB; i++) {
        sum_a += exp((double)a[i] - max_a);
        sum_b += exp((double)b[i] - max_b);
    }
    for (int i = 0; i < TINY_VOCAB; i++) {
        double log_a = (double)a[i] - max_a - log(sum_a), log_b = (double)b[i] - max_b - log(sum_b);
        kl += exp(log_a) * (log_a - log_b);
    }
    return kl;
}

static void within(struct bound most, rows want, rows got) {
    double worst = 0, mean = 0;
    for (int i = 0; i < N_IDS; i++) {
        double kl = divergence(want.logits + i * TINY_VOCAB, got.logits + i * TINY_VOCAB);
        worst = fmax(worst, kl);
        mean += kl / N_IDS;
    }
    printf("divergence from the CPU backend %.2g in the mean, %.2g at most\n", mean, worst);
    assert_true(mean <= most.mean && worst <= most.worst); /* false for a NaN */
}

static int no_fault(void **state) {
    (void)state;
    return unsetenv("KVQ_SIMT_FAULT") || unsetenv("KVQ_SIMT_MEMORY") || unsetenv("KVQ_CUDA_CUBLAS") ||
           unsetenv("KVQ_CUDA_CUBLAS_ROWS") || unsetenv("KVQ_CUDA_HALVES_ROWS") || unsetenv("FAKE_CUBLAS_FAULT") ||
           unsetenv("KVQ_CUDA_EARLY") || unsetenv("KVQ_OVERLAP");
}

/* What the shim counts, by the name of its function. */
static uint64_t count_of(const char *name) {
    void *plugin = dlopen(getenv("KVQ_CUDA_PLUGIN"), RTLD_NOW | RTLD_NOLOAD);
    assert_non_null(plugin);
    void *symbol = dlsym(plugin, name);
    uint64_t (*count)(void);
    assert_non_null(symbol);
    memcpy(&count, &symbol, sizeof count);
    (void)dlclose(plugin);
    return count();
}

enum { N_ANSWERS = 5 };

/* With --sample a policy or two for each model, and int4 alone in smaller batches. */
static size_t one_in = 1, first_policy = 0;
static int n_answers = N_ANSWERS, answer_tokens = 20;

/* The integers are the CPU's and only the order of float sums differs; but a code near a tie may then fall to the other
 * side, in the cache as in the activations, and that is what the bound leaves room for. */
static void logits_are_the_cpus(void **state) {
    (void)state;
    for (int model = 0; model < TINY_MODELS; model++)
        for (size_t p = (size_t)model % one_in; p < COUNT_OF(policies); p += one_in) {
            kvq_options o = cuda_options(model, policies[p]), cpu = o;
            cpu.backend = "cpu";
            rows want = logits_of(cpu), got = logits_of(o);
            printf("%s, policy %s: ", tiny_models[model].name, policies[p]);
            within(tiny_models[model].coded ? coded_bound : bounds[p], want, got);
            free(want.logits);
            free(got.logits);
        }
}

/* ---- reproducible ------------------------------------------------------------------------------------------------ */

/* Each draws its tokens another way; the tokens that two of them have seen do not fit into one job of the sampler. */
static kvq_request request_of(int *ids, int i) {
    kvq_request r = world_request(ids, 30 + 17 * i, (uint64_t)i + 1, answer_tokens);
    r.temperature = i == 0 ? 0 : 1;
    r.top_k = i == 1 ? 20 : 0;
    r.top_p = i == 2 ? 0.9f : 1;
    r.min_p = i == 2 ? 0.001f : 0;
    r.repetition_penalty = i >= 3 ? 1.2f : 1;
    r.presence_penalty = i == 3 ? 0.3f : 0;
    return r;
}

/* Alone, all at once, in other chunks, over a pool that makes them preempt each other, and found in the prefix cache.
 */
static void answers_do_not_depend_on_the_batch(void **state) {
    (void)state;
    static int ids[N_ANSWERS][PROMPT_MAX];
    static answer alone[N_ANSWERS], together[N_ANSWERS];
    for (size_t p = first_policy; p < COUNT_OF(policies); p += one_in) {
        kvq_options o = cuda_options((int)p % TINY_MODELS, policies[p]);
        kvq_engine *e = world_open(&o);
        for (int i = 0; i < n_answers; i++) {
            kvq_request r = request_of(ids[i], i);
            (void)world_submit(e, &r, &alone[i]);
            (void)world_run(e);
        }
        kvq_close(e);
        char pool[16];
        (void)world_smallest_pool(o, pool, sizeof pool);
        o.cache_max_entry_count = pool;
        o.max_prefill_token_num = 23;
        o.enable_prefix_caching = true;
        e = world_open(&o);
        for (int round = 0; round < 2; round++) {
            for (int i = 0; i < n_answers; i++) {
                kvq_request r = request_of(ids[i], i);
                (void)world_submit(e, &r, &together[i]);
            }
            (void)world_run(e);
            for (int i = 0; i < n_answers; i++) world_same(&together[i], &alone[i], policies[p]);
        }
        assert_int_equal(world_blocks_used(e), 0);
        kvq_close(e);
    }
}

/* ---- not reproducible -------------------------------------------------------------------------------------------- */

/* A prompt in one piece is read in half precision then: what differs from the CPU's logits are the roundings of its
 * activations to 8 bits. Decode steps stay what they are, graphs and all. */
static void prompts_are_read_in_halves_where_that_is_allowed(void **state) {
    (void)state;
    static answer both[2];
    static int ids[2][PROMPT_MAX];
    kvq_options o = cuda_options(TINY_LLAMA, "0"), cpu = o;
    o.max_prefill_token_num = cpu.max_prefill_token_num = N_IDS;
    cpu.backend = "cpu";
    rows codes = logits_of(o), want = logits_of(cpu);
    o.reproducible = false;
    rows halves = logits_of(o);
    printf("halves: ");
    within(halves_bound, want, halves);
    assert_memory_not_equal(halves.logits, codes.logits, N_IDS * TINY_VOCAB * sizeof(float)); /* so they were used */
    for (int i = 0; i < 2; i++) {
        kvq_engine *e = world_open(&o);
        kvq_request r = world_request(ids[i], N_IDS, 7, answer_tokens);
        (void)world_submit(e, &r, &both[i]);
        (void)world_run(e);
        kvq_close(e);
        setenv("KVQ_CUDA_GRAPHS", "0", 1);
    }
    unsetenv("KVQ_CUDA_GRAPHS");
    world_same(&both[0], &both[1], "two runs, one without graphs");
    free(codes.logits);
    free(want.logits);
    free(halves.logits);
}

/* Steps of some sequences go through the same kernels; as graphs and without, answers are the same.
 * KVQ_CUDA_HALVES_ROWS begins with fewer sequences than otherwise. The down projection is long enough to be cut into
 * slices, whose blocks count by the tickets that attention's do. */
static void decode_steps_are_in_halves_too(void **state) {
    (void)state;
    static answer answers[2][N_ANSWERS];
    static int ids[PROMPT_MAX];
    uint64_t n_graphs[2];
    kvq_options o = cuda_options(TINY_LLAMA, "4");
    tiny_model model = tiny_models[TINY_LLAMA];
    char path[] = "/tmp/kvq_tiny_long.XXXXXX";
    model.ffn = 512;
    world_write_model(&model, path);
    o.model_path = path;
    o.reproducible = false;
    setenv("KVQ_CUDA_HALVES_ROWS", "2", 1);
    for (int run = 0; run < 2; run++) {
        if (run == 1) setenv("KVQ_CUDA_GRAPHS", "0", 1);
        n_graphs[run] = count_of("simt_count_graph_launches");
        kvq_engine *e = world_open(&o);
        for (int i = 0; i < n_answers; i++) {
            kvq_request r = request_of(ids, i);
            (void)world_submit(e, &r, &answers[run][i]);
        }
        (void)world_run(e);
        kvq_close(e);
        n_graphs[run] = count_of("simt_count_graph_launches") - n_graphs[run];
    }
    unsetenv("KVQ_CUDA_GRAPHS");
    (void)unlink(path);
    for (int i = 0; i < n_answers; i++) world_same(&answers[0][i], &answers[1][i], "decode in halves, without graphs");
    assert_true(n_graphs[0] > 0 && n_graphs[1] == 0);
}

/* ---- early launches ---------------------------------------------------------------------------------------------- */

/* KVQ_CUDA_EARLY=1: every kernel waits for the launches before it (the shim looks), alone and in graphs, and answers
 * are the same. */
static void launches_that_come_early_change_nothing(void **state) {
    (void)state;
    static answer answers[3];
    uint64_t n_early[3], n_graphs[3];
    int ids[N_IDS];
    for (int i = 0; i < 3; i++) { /* early, early without graphs, and not */
        kvq_options o = cuda_options(TINY_LLAMA, "4");
        n_early[i] = count_of("simt_count_early_launches");
        n_graphs[i] = count_of("simt_count_graph_launches");
        if (i < 2) setenv("KVQ_CUDA_EARLY", "1", 1);
        if (i == 1) setenv("KVQ_CUDA_GRAPHS", "0", 1);
        kvq_engine *e = world_open(&o);
        unsetenv("KVQ_CUDA_EARLY");
        unsetenv("KVQ_CUDA_GRAPHS");
        kvq_request r = world_request(ids, N_IDS, 7, answer_tokens);
        (void)world_submit(e, &r, &answers[i]);
        (void)world_run(e);
        kvq_close(e);
        n_early[i] = count_of("simt_count_early_launches") - n_early[i];
        n_graphs[i] = count_of("simt_count_graph_launches") - n_graphs[i];
        world_same(&answers[0], &answers[i], "early launches");
    }
    assert_true(n_graphs[0] > 0 && n_graphs[1] == 0);
    assert_true(n_early[1] > n_graphs[0] && n_early[2] == 0);
    assert_int_equal(n_early[0], n_early[1] - n_graphs[0]); /* all but the first of each graph */
}

/* ---- cuBLAS ------------------------------------------------------------------------------------------------------ */

/* What the false one counts. It stays loaded, as the real one would. */
static fake_cublas_counts cublas_counts(void) {
    void *library = dlopen(FAKE_CUBLAS, RTLD_NOW);
    assert_non_null(library);
    const fake_cublas_counts *counts = dlsym(library, "fake_cublas");
    assert_non_null(counts);
    fake_cublas_counts ret = *counts;
    (void)dlclose(library);
    return ret;
}

/* Steps of a whole prompt go to cuBLAS then; fault NULL: it works. */
static kvq_options cublas_options(const char *library, const char *fault) {
    kvq_options o = cuda_options(TINY_LLAMA, "0");
    o.max_prefill_token_num = N_IDS;
    o.reproducible = false;
    setenv("KVQ_CUDA_CUBLAS", library, 1);
    setenv("KVQ_CUDA_CUBLAS_ROWS", "100", 1);
    if (fault)
        setenv("FAKE_CUBLAS_FAULT", fault, 1);
    else
        unsetenv("FAKE_CUBLAS_FAULT");
    return o;
}

static void prompts_are_read_by_cublas_where_there_is_one(void **state) {
    (void)state;
    kvq_options o = cublas_options(FAKE_CUBLAS, NULL), cpu = o;
    cpu.backend = "cpu";
    rows want = logits_of(cpu);
    int before = cublas_counts().n_products;
    rows got = logits_of(o);
    assert_in_range(cublas_counts().n_products - before, 2 * 4, 1000); /* four products in each of two layers */
    printf("cuBLAS: ");
    within(halves_bound, want, got);
    assert_int_equal(cublas_counts().n_handles, 0);
    free(want.logits);
    free(got.logits);
}

/* Its memory is in the plan and taken at the start; a prompt allocates nothing, and decode steps stay graphs. */
static void cublas_has_its_memory_from_the_plan(void **state) {
    (void)state;
    static answer answers[2];
    int ids[N_IDS];
    kvq_error err = {0};
    kvq_options o = cublas_options(FAKE_CUBLAS, NULL);
    o.cache_max_entry_count = "0.5";
    setenv("KVQ_SIMT_MEMORY", "400000000", 1);
    kvq_plan *plan = NULL;
    if (kvq_plan_open(&o, &plan, &err)) fail_msg("%s", err.text);
    uint64_t workspace_bytes = kvq_plan_info(plan)->workspace_bytes;
    kvq_plan_close(plan);
    for (int i = 0; i < 2; i++) {
        kvq_engine *e = world_open(&o);
        assert_string_equal(kvq_get_info(e)->cublas, "13.0.1 for 100 rows a step and more");
        assert_int_equal(kvq_get_info(e)->workspace_bytes, workspace_bytes);
        uint64_t left = 400000000 - kvq_get_info(e)->weight_bytes - workspace_bytes;
        assert_in_range(kvq_get_info(e)->pool_bytes, left / 2 - left / 50, left / 2);
        uint64_t allocations = count_of("simt_count_allocations"), graphs = count_of("simt_count_graph_launches");
        int products = cublas_counts().n_products;
        kvq_request r = world_request(ids, N_IDS, 7, answer_tokens);
        (void)world_submit(e, &r, &answers[i]);
        (void)world_run(e);
        assert_int_equal(count_of("simt_count_allocations"), allocations);
        assert_true(cublas_counts().n_products > products);
        if (i == 0) assert_true(count_of("simt_count_graph_launches") > graphs);
        kvq_close(e);
        setenv("KVQ_CUDA_GRAPHS", "0", 1);
    }
    unsetenv("KVQ_CUDA_GRAPHS");
    world_same(&answers[0], &answers[1], "two runs, one without graphs");
    o.reproducible = true;
    kvq_engine *e = world_open(&o);
    assert_null(kvq_get_info(e)->cublas);
    assert_in_range(kvq_get_info(e)->workspace_bytes, 1, workspace_bytes - (32 << 20));
    kvq_close(e);
    o.reproducible = false;
    o.max_prefill_token_num = 60; /* and at most 8 sequences: no step of a hundred rows */
    e = world_open(&o);
    assert_null(kvq_get_info(e)->cublas);
    kvq_close(e);
}

/* Decode steps of so many sequences that their products are cuBLAS': what was kept for a graph goes before each. */
enum { MANY = 70 };

static void large_decode_steps_leave_their_graph_for_cublas(void **state) {
    (void)state;
    static answer answers[2][MANY];
    static int ids[MANY][4];
    kvq_options o = cublas_options(FAKE_CUBLAS, NULL);
    o.max_batch_size = MANY;
    o.max_prefill_token_num = 60; /* so that no prompt has a step of its own for it */
    setenv("KVQ_CUDA_CUBLAS_ROWS", "66", 1);
    for (int run = 0; run < 2; run++) {
        kvq_engine *e = world_open(&o);
        int products = cublas_counts().n_products;
        for (int i = 0; i < MANY; i++) {
            kvq_request r = world_request(ids[i], 2, (uint64_t)i + 1, 5);
            (void)world_submit(e, &r, &answers[run][i]);
        }
        (void)world_run(e);
        assert_true(cublas_counts().n_products > products);
        kvq_close(e);
        setenv("KVQ_CUDA_GRAPHS", "0", 1);
    }
    unsetenv("KVQ_CUDA_GRAPHS");
    for (int i = 0; i < MANY; i++) world_same(&answers[0][i], &answers[1][i], "graphs and none");
}

/* One that is not there or does not start is told, and prompts are read in halves as without it. */
static void without_cublas_halves_serve_and_the_reason_is_told(void **state) {
    (void)state;
    static const struct {
        const char *library, *fault, *text;
    } cases[] = {
        {"/nowhere/libcublas.so", NULL, "not used: it cannot be opened: /nowhere/libcublas.so: "},
        {"0", NULL, "not used: KVQ_CUDA_CUBLAS is 0"},
        {"", NULL, "not used: it cannot be opened: libcublas.so.0: "}, /* the shim's CUDA has no version */
        {OLD_PLUGIN, NULL, "has no 'cublasCreate_v2'"},
        {FAKE_CUBLAS, "create", "not used: cuBLAS: starting it: CUBLAS_STATUS_ALLOC_FAILED"},
        {FAKE_CUBLAS, "workspace", "not used: cuBLAS: giving it a stream and memory: CUBLAS_STATUS_ALLOC_FAILED"},
        {FAKE_CUBLAS, "first", "rows: CUBLAS_STATUS_EXECUTION_FAILED"},
    };
    rows want = logits_of(cublas_options("0", NULL));
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        kvq_options o = cublas_options(cases[i].library, cases[i].fault);
        kvq_engine *e = world_open(&o);
        const char *text = kvq_get_info(e)->cublas;
        if (!text || !strstr(text, cases[i].text)) fail_msg("'%s' instead of '%s'", text, cases[i].text);
        kvq_close(e);
        assert_int_equal(cublas_counts().n_handles, 0);
    }
    rows got = logits_of(cublas_options(FAKE_CUBLAS, "create"));
    assert_memory_equal(got.logits, want.logits, N_IDS * TINY_VOCAB * sizeof(float));
    free(want.logits);
    free(got.logits);
}

/* A product that is refused in a step ends it with the library's words, as a lost GPU does. */
static void a_product_that_cublas_refuses_ends_the_step(void **state) {
    (void)state;
    kvq_options o = cublas_options(FAKE_CUBLAS, "later");
    kvq_engine *e = world_open(&o);
    int ids[N_IDS];
    kvq_request r = world_request(ids, N_IDS, 7, 2);
    uint64_t id;
    const kvq_event *events;
    size_t n;
    kvq_error err = {0};
    assert_int_equal(kvq_submit(e, &r, &id, &err), KVQ_OK);
    assert_int_equal(kvq_step(e, &events, &n, &err), KVQ_DEVICE);
    if (!strstr(err.text, "rows: CUBLAS_STATUS_EXECUTION_FAILED")) fail_msg("'%s'", err.text);
    kvq_close(e);
    assert_int_equal(cublas_counts().n_handles, 0);
}

/* ---- faults ------------------------------------------------------------------------------------------------------ */

static void every_missing_piece_is_named(void **state) {
    (void)state;
    static const struct {
        const char *fault, *text;
    } cases[] = {
        {"no_driver", "no NVIDIA driver is installed"},
        {"old_driver", "the NVIDIA driver is too old: it knows CUDA 11.4, this backend needs 13.0"},
        {"no_device", "no NVIDIA GPU is found"},
        {"old_device", "has compute capability 6.1, this backend runs on 7.5 and later"},
        {"no_image", "cudaErrorNoKernelImageForDevice"},
        {"launch", "the GPU does not run a first kernel: cudaErrorLaunchFailure (kernel probe: a fault on purpose)"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        kvq_options o = cuda_options(TINY_LLAMA, "8");
        kvq_engine *e = NULL;
        kvq_error err = {0};
        setenv("KVQ_SIMT_FAULT", cases[i].fault, 1);
        assert_int_equal(kvq_open(&o, &e, &err), KVQ_DEVICE);
        if (!strstr(err.text, cases[i].text)) fail_msg("%s: '%s'", cases[i].fault, err.text);
        assert_non_null(strstr(err.text, "backend 'cuda' is asked for: "));

        o.backend = "auto"; /* takes the CPU, and says why */
        e = world_open(&o);
        assert_string_equal(kvq_get_info(e)->backend, "cpu");
        assert_non_null(kvq_get_info(e)->passed_over);
        assert_non_null(strstr(kvq_get_info(e)->passed_over, cases[i].text));
        kvq_close(e);
    }
}

static void auto_takes_the_gpu_where_one_is(void **state) {
    (void)state;
    kvq_options o = cuda_options(TINY_LLAMA, "8");
    o.backend = "auto";
    kvq_engine *e = world_open(&o);
    assert_string_equal(kvq_get_info(e)->backend, "cuda");
    assert_string_equal(kvq_get_info(e)->isa, "sm_90");
    assert_string_equal(kvq_get_info(e)->device, "SIMT shim on the host");
    assert_null(kvq_get_info(e)->passed_over);
    kvq_close(e);
}

static void a_gpu_that_is_not_there_is_named(void **state) {
    (void)state;
    kvq_options o = cuda_options(TINY_LLAMA, "8");
    kvq_engine *e = NULL;
    kvq_error err = {0};
    o.device = 3;
    assert_int_equal(kvq_open(&o, &e, &err), KVQ_DEVICE);
    assert_non_null(strstr(err.text, "GPU 3 is asked for, this machine has 1, counted from 0"));
}

static void a_plugin_of_another_version_is_refused(void **state) {
    (void)state;
    kvq_options o = cuda_options(TINY_LLAMA, "8");
    kvq_engine *e = NULL;
    kvq_error err = {0};
    char *plugin = strdup(getenv("KVQ_CUDA_PLUGIN"));
    setenv("KVQ_CUDA_PLUGIN", OLD_PLUGIN, 1);
    kvq_status status = kvq_open(&o, &e, &err);
    setenv("KVQ_CUDA_PLUGIN", plugin, 1);
    free(plugin);
    assert_int_equal(status, KVQ_DEVICE);
    assert_non_null(strstr(err.text, "is of another version of kvqd"));
}

/* Weights, then workspace, then the pool are what does not fit; everything taken before is given back. */
static void memory_that_is_missing_is_missed_at_start(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *text;
        kvq_status status;
    } cases[] = {
        {"100000", "0.1 MiB of the GPU's memory are free", KVQ_NO_MEMORY},
        {"500000", "MiB are missing; take a model of fewer or smaller weights, or lower max_batch_size", KVQ_NO_MEMORY},
        {"40000000", "MiB are missing; lower cache_max_entry_count", KVQ_NO_SPACE},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        kvq_options o = cuda_options(TINY_LLAMA, "8");
        kvq_engine *e = NULL;
        kvq_error err = {0};
        o.cache_max_entry_count = "1G";
        setenv("KVQ_SIMT_MEMORY", cases[i].bytes, 1);
        kvq_status status = kvq_open(&o, &e, &err);
        if (status != cases[i].status || !strstr(err.text, cases[i].text))
            fail_msg("%s: '%s'", cases[i].bytes, err.text);
    }
    (void)no_fault(state); /* nothing of it is left behind */
    kvq_options o = cuda_options(TINY_LLAMA, "8");
    kvq_close(world_open(&o));
}

/* The share is of the device's memory, not of the host's. */
static void the_pool_is_a_share_of_the_gpus_memory(void **state) {
    (void)state;
    kvq_options o = cuda_options(TINY_LLAMA, "8");
    o.cache_max_entry_count = "0.5";
    setenv("KVQ_SIMT_MEMORY", "200000000", 1);
    kvq_engine *e = world_open(&o);
    const kvq_info *i = kvq_get_info(e);
    uint64_t left = 200000000 - i->weight_bytes - i->workspace_bytes;
    assert_in_range(i->pool_bytes, left / 2 - left / 50, left / 2);
    kvq_close(e);
}

/* An integrated GPU's memory is the system's: MemAvailable, not what the driver says is free. */
static void a_jetsons_pool_is_a_share_of_the_systems_memory(void **state) {
    (void)state;
    kvq_options o = cuda_options(TINY_LLAMA, "8");
    o.cache_max_entry_count = "0.01";
    setenv("KVQ_SIMT_FAULT", "integrated", 1);
    setenv("KVQ_SIMT_MEMORY", "400000000000", 1); /* more than this machine has */
    kvq_engine *e = world_open(&o);
    uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    assert_in_range(kvq_get_info(e)->pool_bytes, 1, all / 100);
    kvq_close(e);
}

/* Requests of every kind, a pool that makes them preempt each other, the prefix cache: the device's memory and the
 * pinned memory stay as the start made them. */
static void nothing_is_allocated_after_the_start(void **state) {
    (void)state;
    static int ids[N_ANSWERS][PROMPT_MAX];
    static answer answers[N_ANSWERS];
    char pool[16];
    kvq_options o = cuda_options(TINY_LLAMA, "4");
    (void)world_smallest_pool(o, pool, sizeof pool);
    o.cache_max_entry_count = pool;
    o.enable_prefix_caching = true;
    kvq_engine *e = world_open(&o);
    uint64_t before = count_of("simt_count_allocations");
    assert_true(before > 0);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < n_answers; i++) {
            kvq_request r = request_of(ids[i], i);
            (void)world_submit(e, &r, &answers[i]);
        }
        (void)world_run(e);
    }
    assert_int_equal(count_of("simt_count_allocations"), before);
    kvq_close(e);
}

/* Answers of three sequences that begin and end at different steps, so that steps of three row counts take turns. */
enum { MOST_STEPS = 48 };

static uint64_t answer_three(answer *answers) {
    static int ids[3][PROMPT_MAX];
    kvq_options o = cuda_options(TINY_LLAMA, "4");
    kvq_engine *e = world_open(&o);
    uint64_t before = count_of("simt_count_graph_launches");
    for (int i = 0; i < 3; i++) {
        kvq_request r = world_request(ids[i], 30 + 17 * i, (uint64_t)i + 1, MOST_STEPS - 20 * (2 - i));
        (void)world_submit(e, &r, &answers[i]);
    }
    (void)world_run(e);
    kvq_close(e);
    return count_of("simt_count_graph_launches") - before;
}

/* The same tokens as launches one by one give; also where the driver will not make a graph. */
static void decode_steps_are_replayed_as_graphs(void **state) {
    (void)state;
    static answer by_graphs[3], one_by_one[3], refused[3];
    uint64_t n = answer_three(by_graphs), nodes = count_of("simt_count_graph_nodes");
    uint64_t changed = count_of("simt_count_node_changes");
    printf("%llu of about %d decode steps were replayed, %.2g of their launches changed\n", (unsigned long long)n,
           MOST_STEPS, (double)changed / (double)nodes);
    assert_in_range(n, MOST_STEPS * 3 / 4, MOST_STEPS);
    assert_in_range(changed, 0, nodes / 5); /* else a graph costs more than it spares */
    setenv("KVQ_CUDA_GRAPHS", "0", 1);
    assert_int_equal(answer_three(one_by_one), 0);
    unsetenv("KVQ_CUDA_GRAPHS");
    setenv("KVQ_SIMT_FAULT", "no_graphs", 1);
    assert_int_equal(answer_three(refused), 0);
    for (int i = 0; i < 3; i++) {
        world_same(&by_graphs[i], &one_by_one[i], "graphs");
        world_same(&refused[i], &one_by_one[i], "no graphs");
    }
}

/* Launches of a decode step of one sequence, all of them in a graph. */
static int launches_of_a_step(int model) {
    static answer a; /* of 20 tokens */
    static int ids[PROMPT_MAX];
    kvq_options o = cuda_options(model, "8");
    kvq_engine *e = world_open(&o);
    kvq_request r = world_request(ids, 40, 1, 20);
    (void)world_submit(e, &r, &a);
    uint64_t graphs = count_of("simt_count_graph_launches"), nodes = count_of("simt_count_graph_nodes");
    (void)world_run(e);
    kvq_close(e);
    graphs = count_of("simt_count_graph_launches") - graphs;
    nodes = count_of("simt_count_graph_nodes") - nodes;
    assert_in_range(graphs, 15, 19);
    assert_int_equal(nodes % graphs, 0); /* all are alike */
    return (int)(nodes / graphs);
}

/* A layer: q, k and v; append; attention; output, gate and up, down, with the norms and the glu. What is
 * once a step: angles, embedding, the first norm, two for the logits, two that refine, two that draw. */
static void a_layer_is_few_launches(void **state) {
    (void)state;
    assert_int_equal(launches_of_a_step(TINY_LLAMA), 2 * 6 + 9);
}

/* Launches of a prompt of one step, in halves, and of the first token: early ones, which the shim counts. */
static int launches_of_a_prompt(bool by_cublas) {
    static answer a;
    static int ids[PROMPT_MAX];
    kvq_options o = cublas_options(by_cublas ? FAKE_CUBLAS : "0", NULL);
    setenv("KVQ_CUDA_EARLY", "1", 1);
    kvq_engine *e = world_open(&o);
    kvq_request r = world_request(ids, N_IDS, 1, 1);
    (void)world_submit(e, &r, &a);
    uint64_t n = count_of("simt_count_early_launches");
    (void)world_run(e);
    kvq_close(e);
    return (int)(count_of("simt_count_early_launches") - n);
}

/* A layer: norm; q, k and v; append; attention, two; its rows to halves; output; norm; gate and up; glu; down: norm and
 * glu leave halves themselves. By cuBLAS weights are unpacked before a product and sums stored behind it, instead of
 * the one launch. What is once a step: angles, embedding, two for the logits, two that refine, two that draw. */
static void a_layer_of_a_prompt_is_few_launches(void **state) {
    (void)state;
    assert_int_equal(launches_of_a_prompt(false), 2 * 11 + 8);
    assert_int_equal(launches_of_a_prompt(true), 2 * (11 + 4) + 8);
}

/* For its tokens: a step is launched whole, lists, kernels and the way back of the tokens, and what a call has launched
 * ahead is still to run when it returns. */
static void the_host_waits_once_a_step(void **state) {
    (void)state;
    static answer answers[3];
    kvq_stats stats;
    int ids[PROMPT_MAX];
    kvq_options o = cuda_options(TINY_LLAMA, "4");
    setenv("KVQ_OVERLAP", "1", 1);
    kvq_engine *e = world_open(&o);
    unsetenv("KVQ_OVERLAP");
    for (int i = 0; i < 3; i++) {
        kvq_request r = world_request(ids, 10 + 5 * i, (uint64_t)i + 1, 10 + i);
        (void)world_submit(e, &r, &answers[i]);
    }
    uint64_t n_waits = count_of("simt_count_waits"), n_calls = 0;
    while (kvq_is_active(e)) {
        world_step(e, (int)n_calls++);
        n_waits += n_calls == 1; /* nothing was launched before the first */
        assert_int_equal(count_of("simt_count_waits"), n_waits);
        kvq_wait(e);
        n_waits += kvq_is_active(e);
        assert_int_equal(count_of("simt_count_waits"), n_waits);
    }
    kvq_get_stats(e, &stats);
    assert_int_equal(n_calls, 12); /* the longest answer */
    assert_int_equal(stats.steps, n_calls);
    kvq_close(e);
}

/* A step that only decodes is asked for while the one before has not run: the device then has that one's ids, and the
 * host none. */
static void a_step_is_launched_before_the_one_before_has_run(void **state) {
    (void)state;
    static answer a;
    kvq_stats stats;
    int ids[PROMPT_MAX];
    kvq_options o = cuda_options(TINY_LLAMA, "4");
    kvq_engine *e = world_open(&o);
    kvq_request r = world_request(ids, 20, 1, 10);
    (void)world_submit(e, &r, &a);
    world_step(e, 0);
    for (uint64_t n = 2; kvq_is_active(e); n++) {
        uint64_t n_waits = count_of("simt_count_waits");
        kvq_wait(e); /* does not, but for the last */
        assert_int_equal(count_of("simt_count_waits") - n_waits, n == 10);
        world_step(e, (int)n);
        assert_int_equal(count_of("simt_count_waits") - n_waits, 1);
        kvq_get_stats(e, &stats);
        assert_int_equal(stats.steps, n < 10 ? n + 1 : 10);
    }
    assert_int_equal(stats.steps_ahead, 9);
    kvq_close(e);
}

/* Not while a prompt can be admitted or is being read: a prompt that comes meanwhile is in the next step. */
static void prompts_have_no_step_in_front_of_them(void **state) {
    (void)state;
    static answer a, b;
    int ids[PROMPT_MAX];
    kvq_options o = cuda_options(TINY_LLAMA, "4");
    o.max_prefill_token_num = 16;
    kvq_engine *e = world_open(&o);
    kvq_request r = world_request(ids, 10, 1, 12);
    (void)world_submit(e, &r, &a);
    world_step(e, 0);
    r = world_request(ids, 40, 2, 2);
    (void)world_submit(e, &r, &b);
    for (int n = 1; n <= 4; n++) { /* the step before the three that read it, then those */
        uint64_t n_waits = count_of("simt_count_waits");
        kvq_wait(e);
        assert_int_equal(count_of("simt_count_waits") - n_waits, n < 4);
        world_step(e, n);
    }
    assert_false(b.ended); /* it has one of its two tokens */
    world_step(e, 5);
    assert_true(b.ended);
    kvq_close(e);
}

/* A GPU that fails in the field ends the step with the device's words, not with wrong tokens; be it the first, or one
 * that was launched ahead, or one that could not be launched: what was known before is told first. */
static void a_lost_gpu_ends_the_step(void **state) {
    static const struct {
        int n_steps;
        const char *fault;
        const char *overlap; /* "1": kvq_wait is the first that sees it */
        size_t n_told;       /* by the call behind the fault */
        const char *text;
    } cases[] = {{0, "launch", "2", 0, "a step failed on the GPU: cudaErrorLaunchFailure"},
                 {3, "launch", "2", 0, "a step failed on the GPU: cudaErrorLaunchFailure"},
                 {3, "launch", "1", 0, "a step failed on the GPU: cudaErrorLaunchFailure"},
                 {3, "no_image", "2", 1, "cudaErrorNoKernelImageForDevice"},
                 {3, "no_image", "1", 1, "cudaErrorNoKernelImageForDevice"}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        static answer a;
        kvq_options o = cuda_options(TINY_LLAMA, "8");
        const kvq_token_bias letter = {'a', 100};
        setenv("KVQ_OVERLAP", cases[i].overlap, 1);
        kvq_engine *e = world_open(&o);
        unsetenv("KVQ_OVERLAP");
        int ids[40];
        kvq_request r = world_request(ids, 40, 1, 10);
        r.logit_bias = &letter; /* so that each token is an event */
        r.n_logit_bias = 1;
        const kvq_event *events;
        size_t n;
        kvq_error err = {0};
        (void)world_submit(e, &r, &a);
        for (int s = 0; s < cases[i].n_steps; s++) world_step(e, s);
        assert_int_equal(a.n_bytes, cases[i].n_steps);
        setenv("KVQ_SIMT_FAULT", cases[i].fault, 1);
        kvq_wait(e);
        kvq_status status = kvq_step(e, &events, &n, &err);
        assert_int_equal(n, cases[i].n_told);
        if (!status) status = kvq_step(e, &events, &n, &err);
        assert_int_equal(status, KVQ_DEVICE);
        assert_int_equal(n, 0);
        if (!strstr(err.text, cases[i].text)) fail_msg("%s: '%s'", cases[i].fault, err.text);
        kvq_close(e);
        (void)no_fault(state);
    }
}

int main(int argc, char **argv) {
    if (is_sample(argc, argv)) one_in = 4, first_policy = 2, n_answers = 3, answer_tokens = 8;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(logits_are_the_cpus, no_fault),
        cmocka_unit_test_setup(answers_do_not_depend_on_the_batch, no_fault),
        cmocka_unit_test_setup(prompts_are_read_in_halves_where_that_is_allowed, no_fault),
        cmocka_unit_test_setup(decode_steps_are_in_halves_too, no_fault),
        cmocka_unit_test_setup(launches_that_come_early_change_nothing, no_fault),
        cmocka_unit_test_setup(prompts_are_read_by_cublas_where_there_is_one, no_fault),
        cmocka_unit_test_setup(cublas_has_its_memory_from_the_plan, no_fault),
        cmocka_unit_test_setup(large_decode_steps_leave_their_graph_for_cublas, no_fault),
        cmocka_unit_test_setup(without_cublas_halves_serve_and_the_reason_is_told, no_fault),
        cmocka_unit_test_setup(a_product_that_cublas_refuses_ends_the_step, no_fault),
        cmocka_unit_test_setup(every_missing_piece_is_named, no_fault),
        cmocka_unit_test_setup(auto_takes_the_gpu_where_one_is, no_fault),
        cmocka_unit_test_setup(a_gpu_that_is_not_there_is_named, no_fault),
        cmocka_unit_test_setup(a_plugin_of_another_version_is_refused, no_fault),
        cmocka_unit_test_setup(memory_that_is_missing_is_missed_at_start, no_fault),
        cmocka_unit_test_setup(the_pool_is_a_share_of_the_gpus_memory, no_fault),
        cmocka_unit_test_setup(a_jetsons_pool_is_a_share_of_the_systems_memory, no_fault),
        cmocka_unit_test_setup(nothing_is_allocated_after_the_start, no_fault),
        cmocka_unit_test_setup(decode_steps_are_replayed_as_graphs, no_fault),
        cmocka_unit_test_setup(a_layer_is_few_launches, no_fault),
        cmocka_unit_test_setup(a_layer_of_a_prompt_is_few_launches, no_fault),
        cmocka_unit_test_setup(the_host_waits_once_a_step, no_fault),
        cmocka_unit_test_setup(a_step_is_launched_before_the_one_before_has_run, no_fault),
        cmocka_unit_test_setup(prompts_have_no_step_in_front_of_them, no_fault),
        cmocka_unit_test_setup(a_lost_gpu_ends_the_step, no_fault),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    world_remove_models();
    return failed;
}
