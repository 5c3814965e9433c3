/* bench.c: `kvqctl bench`: how fast a model is read (prefill), written (decode, at depths) and served to many (batch),
 * for each KV policy. Prompts are random token ids, distinct for every sequence; the prefix cache is off, so nothing is
 * read twice. What is divided by its seconds:
 *
 *   prefill   p ids read, up to the first token
 *   decode    n tokens after the first, of one sequence whose first d were read
 *   batch     b sequences at once, p ids in and n tokens out each: b (p + n), all of it
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "command.h"
#include "engine_options.h"
#include "interrupt.h"
#include "progress.h"
#include "report.h"

typedef struct bench_values {
    engine_options engine;
    int prompt_tokens, answer_tokens, repeats, prefill_budget;
    option_ints depths, batches;
    option_texts policies;
    const char *output;
} bench_values;

#define AT(member) offsetof(bench_values, member)

/* clang-format off */
static const option options[] = {
    ENGINE_OPTION_MODEL(bench_values),
    {'p', "prompt-tokens", OPTION_INT,   AT(prompt_tokens), "N",      "512",    0, 1048576, NULL, false, "Prompt tokens of prefill and batch; 0 leaves prefill out."},
    {'n', "tokens",        OPTION_INT,   AT(answer_tokens), "N",      "128",    0, 1048576, NULL, false, "Answer tokens of decode and batch; 0 leaves decode out."},
    {'d', "depth",         OPTION_INTS,  AT(depths),        "LIST",   "0,4096", 0, 1048576, NULL, false, "Depths at which decode is measured, in tokens."},
    {'b', "batch",         OPTION_INTS,  AT(batches),       "LIST",   "1,16",   0, 4096,    NULL, false, "Sequences at once in batch; 0 leaves it out."},
    { 0,  "kv",            OPTION_NAMES, AT(policies),      "LIST",   "0,8,4",  0, 0, POLICY_NAMES, false, "KV policies to measure; 0 is f16."},
    {'r', "repeat",        OPTION_INT,   AT(repeats),       "N",      "3",      1, 1000,    NULL, false, "Times that each test is run; median, least and most are told."},
    { 0,  "prefill-budget",OPTION_INT,   AT(prefill_budget),"N",      "0",      0, 1048576, NULL, false, "Prompt tokens a step (max_prefill_token_num); 0 is the engine's default."},
    {'o', "output",        OPTION_NAME,  AT(output),        "FORMAT", "table",  0, 0, "table|json", false, "table, or json for programs."},
    ENGINE_OPTIONS(bench_values),
};
/* clang-format on */

enum { WARM_UP_PROMPT = 64, WARM_UP_ANSWER = 8, TESTS_MAX = 2 * OPTION_LIST_MAX + 1 };

typedef enum test_kind { TEST_PREFILL, TEST_DECODE, TEST_BATCH } test_kind;
static const char *const test_names[] = {"prefill", "decode", "batch"};

typedef struct test {
    test_kind kind;
    int prompt_tokens, answer_tokens, depth, batch;
} test;

typedef struct samples {
    double median, min, max; /* tokens_per_s */
} samples;

typedef struct bench {
    const bench_values *values;
    kvq_engine *engine;
    test tests[TESTS_MAX];
    int n_tests;
    uint64_t random;
    progress bar;
    double work_done, work_all; /* tokens, for the bar */
} bench;

/* ---- requests ------------------------------------------------------------------------------------------------------
 */

/* SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014). */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static kvq_status submit(bench *b, int prompt_tokens, int answer_tokens, kvq_error *err) {
    uint64_t id, vocab_size = (uint64_t)kvq_get_info(b->engine)->vocab_size;
    int *ids = malloc((size_t)prompt_tokens * sizeof *ids);
    if (!ids) return kvq_fail(err, KVQ_NO_MEMORY, "No memory for a prompt of %d tokens.", prompt_tokens);
    for (int i = 0; i < prompt_tokens; i++) ids[i] = (int)(next_random(&b->random) % vocab_size);
    kvq_request r = kvq_default_request();
    r.ids = ids;
    r.n_ids = (size_t)prompt_tokens;
    r.max_tokens = answer_tokens;
    r.temperature = 0;
    r.ignore_end = true;
    kvq_status status = kvq_submit(b->engine, &r, &id, err);
    free(ids);
    return status;
}

static uint64_t tokens_generated(const bench *b) {
    kvq_stats stats;
    kvq_get_stats(b->engine, &stats);
    return stats.generation_tokens;
}

static double tokens_computed(const bench *b) {
    kvq_stats stats;
    kvq_get_stats(b->engine, &stats);
    return (double)(stats.generation_tokens + stats.prefill_tokens);
}

static kvq_status step(bench *b, kvq_error *err) {
    const kvq_event *events;
    size_t n;
    double before = tokens_computed(b);
    if (interrupt_seen()) return kvq_fail(err, KVQ_CANCELLED, "Interrupted.");
    kvq_status status = kvq_step(b->engine, &events, &n, err);
    for (size_t i = 0; !status && i < n; i++)
        if (events[i].kind == KVQ_EVENT_FAILED)
            status = kvq_fail(err, events[i].error.code, "%s", events[i].error.text);
    b->work_done += tokens_computed(b) - before;
    progress_step(&b->bar, b->work_done / b->work_all);
    return status;
}

/* Steps until everything submitted has ended, and checks that `expected` tokens were made since `generated_before`. */
static kvq_status drain(bench *b, uint64_t generated_before, uint64_t expected, kvq_error *err) {
    while (kvq_is_active(b->engine)) {
        kvq_status status = step(b, err);
        if (status) return status;
    }
    uint64_t made = tokens_generated(b) - generated_before;
    if (made != expected)
        return kvq_fail(err, KVQ_INTERNAL, "The engine made %llu tokens where %llu were asked.",
                        (unsigned long long)made, (unsigned long long)expected);
    return KVQ_OK;
}

static double seconds_since(int64_t begin_ns) {
    return (double)(progress_now_ns() - begin_ns) * 1e-9;
}

/* ---- tests ---------------------------------------------------------------------------------------------------------
 */

static kvq_status run_prefill(bench *b, const test *t, double *ret_rate, kvq_error *err) {
    uint64_t before = tokens_generated(b);
    int64_t begin = progress_now_ns();
    kvq_status status = submit(b, t->prompt_tokens, 1, err);
    if (!status) status = drain(b, before, 1, err);
    *ret_rate = t->prompt_tokens / seconds_since(begin);
    return status;
}

/* The first token comes out of the prefill; from there on each step reads one token at depth, depth + 1, ... */
static kvq_status run_decode(bench *b, const test *t, double *ret_rate, kvq_error *err) {
    uint64_t before = tokens_generated(b);
    kvq_status status = submit(b, t->depth > 0 ? t->depth : 1, t->answer_tokens + 1, err);
    while (!status && tokens_generated(b) == before) status = step(b, err);
    int64_t begin = progress_now_ns();
    if (!status) status = drain(b, before, (uint64_t)t->answer_tokens + 1, err);
    *ret_rate = t->answer_tokens / seconds_since(begin);
    return status;
}

static kvq_status run_batch(bench *b, const test *t, double *ret_rate, kvq_error *err) {
    uint64_t before = tokens_generated(b);
    kvq_status status = KVQ_OK;
    int64_t begin = progress_now_ns();
    for (int i = 0; !status && i < t->batch; i++) status = submit(b, t->prompt_tokens, t->answer_tokens, err);
    if (!status) status = drain(b, before, (uint64_t)t->batch * (uint64_t)t->answer_tokens, err);
    *ret_rate = (double)t->batch * (t->prompt_tokens + t->answer_tokens) / seconds_since(begin);
    return status;
}

static kvq_status (*const runners[])(bench *, const test *, double *, kvq_error *) = {
    [TEST_PREFILL] = run_prefill,
    [TEST_DECODE] = run_decode,
    [TEST_BATCH] = run_batch,
};

static int at_least_one(int n) {
    return n > 0 ? n : 1;
}

static void plan_tests(bench *b) {
    const bench_values *v = b->values;
    if (v->prompt_tokens > 0) b->tests[b->n_tests++] = (test){TEST_PREFILL, v->prompt_tokens, 1, 0, 1};
    for (int i = 0; v->answer_tokens > 0 && i < v->depths.n; i++)
        b->tests[b->n_tests++] = (test){TEST_DECODE, 0, v->answer_tokens, v->depths.values[i], 1};
    for (int i = 0; i < v->batches.n; i++)
        if (v->batches.values[i] > 0)
            b->tests[b->n_tests++] = (test){TEST_BATCH, at_least_one(v->prompt_tokens), at_least_one(v->answer_tokens),
                                            0, v->batches.values[i]};
}

static int sequence_tokens(const test *t) {
    return t->depth + t->prompt_tokens + t->answer_tokens +
           2; /* at depth 0 a prompt of one token, and one token untimed */
}

/* Tokens of one run, those that are not timed included. */
static double work_of(const test *t) {
    int before = t->kind == TEST_DECODE ? at_least_one(t->depth) + 1 : 0;
    return before + (double)t->batch * (t->prompt_tokens + t->answer_tokens);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static kvq_status measure(bench *b, const test *t, samples *ret, kvq_error *err) {
    int n = b->values->repeats;
    double *rates = calloc((size_t)n, sizeof *rates);
    if (!rates) return kvq_fail(err, KVQ_NO_MEMORY, "No memory for %d samples.", n);
    kvq_status status = KVQ_OK;
    for (int i = 0; !status && i < n; i++) status = runners[t->kind](b, t, &rates[i], err);
    qsort(rates, (size_t)n, sizeof *rates, by_value);
    *ret = (samples){.median = (rates[(n - 1) / 2] + rates[n / 2]) / 2, .min = rates[0], .max = rates[n - 1]};
    free(rates);
    return status;
}

/* ---- output --------------------------------------------------------------------------------------------------------
 */

static void read_cpu_name(char *out, size_t n_out) {
    char line[256];
    FILE *in = fopen("/proc/cpuinfo", "r");
    snprintf(out, n_out, "unknown");
    while (in && fgets(line, sizeof line, in)) {
        char *colon = strchr(line, ':');
        if (!colon || (strncmp(line, "model name", 10) != 0 && strncmp(line, "Model", 5) != 0)) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(out, n_out, "%s", colon + 1 + (colon[1] == ' '));
        break;
    }
    if (in) (void)fclose(in); /* only read from */
}

static json_t *machine_json(const kvq_info *info) {
    char cpu[256];
    struct utsname os = {0};
    read_cpu_name(cpu, sizeof cpu);
    (void)uname(&os); /* fails only for a bad pointer */
    return json_pack("{s:s, s:I, s:I, s:s, s:s, s:s, s:s, s:i, s:s?, s:s}", "cpu", cpu, "processors",
                     (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "memory_bytes",
                     (json_int_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE), "system", os.sysname, "architecture",
                     os.machine, "backend", info->backend, "isa", info->isa, "threads", info->threads, "cublas",
                     info->cublas, "kvqd", KVQ_VERSION);
}

static int tokens_timed(const test *t) {
    if (t->kind == TEST_PREFILL) return t->prompt_tokens;
    return t->kind == TEST_DECODE ? t->answer_tokens : t->batch * (t->prompt_tokens + t->answer_tokens);
}

static json_t *run_json(const test *t, const char *policy, const samples *s) {
    return json_pack("{s:s, s:o, s:i, s:i, s:i, s:{s:f, s:f, s:f}}", "test", test_names[t->kind], "kv",
                     report_policy(policy), "tokens", tokens_timed(t), "depth", t->depth, "batch", t->batch,
                     "tokens_per_s", "median", s->median, "min", s->min, "max", s->max);
}

static void print_head(const kvq_info *info) {
    char cpu[256];
    read_cpu_name(cpu, sizeof cpu);
    printf("%s, %s; %s, backend %s, isa %s, %d threads\n", info->model_name, info->file_type, cpu, info->backend,
           info->isa, info->threads);
    printf("%-8s %-10s %8s %8s %6s %12s %12s %12s   tokens/s\n", "test", "kv", "tokens", "depth", "batch", "median",
           "min", "max");
}

static void print_row(const test *t, const char *policy, const samples *s) {
    printf("%-8s %-10s %8d %8d %6d %12.1f %12.1f %12.1f\n", test_names[t->kind], policy, tokens_timed(t), t->depth,
           t->batch, s->median, s->min, s->max);
    fflush(stdout);
}

/* ---- all of it -----------------------------------------------------------------------------------------------------
 */

static kvq_status open_for(bench *b, const char *policy, kvq_error *err) {
    kvq_options o = engine_options_make(&b->values->engine, policy);
    o.enable_prefix_caching = false;
    o.session_len = WARM_UP_PROMPT + WARM_UP_ANSWER;
    o.max_batch_size = 1;
    if (b->values->prefill_budget > 0) o.max_prefill_token_num = b->values->prefill_budget;
    for (int i = 0; i < b->n_tests; i++) {
        if (sequence_tokens(&b->tests[i]) > o.session_len) o.session_len = sequence_tokens(&b->tests[i]);
        if (b->tests[i].batch > o.max_batch_size) o.max_batch_size = b->tests[i].batch;
    }
    return engine_open(&o, &b->engine, err);
}

static kvq_status warm_up(bench *b, kvq_error *err) {
    uint64_t before = tokens_generated(b);
    kvq_status status = submit(b, WARM_UP_PROMPT, WARM_UP_ANSWER, err);
    return status ? status : drain(b, before, WARM_UP_ANSWER, err);
}

/* Every test under one policy; rows go to `runs` (json) or to stdout. */
static kvq_status run_policy(bench *b, const char *policy, json_t *root, kvq_error *err) {
    kvq_status status = open_for(b, policy, err);
    bool table = strcmp(b->values->output, "table") == 0;
    if (status) return status;
    const kvq_info *info = kvq_get_info(b->engine);
    if (!json_object_get(root, "model")) {
        json_object_set_new(root, "machine", machine_json(info));
        json_object_set_new(root, "model", json_string(info->model_name));
        json_object_set_new(root, "runs", json_array());
        if (table) print_head(info);
    }
    progress_begin(&b->bar, policy);
    b->work_done = 0;
    status = warm_up(b, err);
    for (int i = 0; !status && i < b->n_tests; i++) {
        samples s = {0};
        status = measure(b, &b->tests[i], &s, err);
        progress_done(&b->bar);
        if (status) break;
        json_array_append_new(json_object_get(root, "runs"), run_json(&b->tests[i], policy, &s));
        if (table) print_row(&b->tests[i], policy, &s);
    }
    progress_done(&b->bar);
    kvq_close(b->engine);
    b->engine = NULL;
    return status;
}

static int run(const void *values) {
    const bench_values *v = values;
    bench b = {.values = v, .random = 1, .work_all = WARM_UP_PROMPT + WARM_UP_ANSWER};
    kvq_error err = {0};
    kvq_status status = KVQ_OK;
    json_t *root = json_object();
    interrupt_catch();
    plan_tests(&b);
    if (b.n_tests == 0) return command_fail(EXIT_CODE_USAGE, "Every test is left out: -p, -n and -b are 0.");
    for (int i = 0; i < b.n_tests; i++) b.work_all += v->repeats * work_of(&b.tests[i]);
    for (int i = 0; !status && i < v->policies.n; i++) status = run_policy(&b, v->policies.values[i], root, &err);
    if (!status && strcmp(v->output, "json") == 0) status = report_print(root, &err);
    json_decref(root);
    return status ? engine_fail(&err) : EXIT_CODE_OK;
}

const command command_bench = {
    .name = "bench",
    .doc = "Measures tokens a second: reading, writing at depths, serving many.",
    .about =
        "Prompts are random token ids, distinct for every sequence, with the prefix cache off. prefill times the "
        "reading of -p "
        "tokens up to the first token of the answer; decode times -n tokens of one sequence after its first -d; batch "
        "times "
        "-b sequences at once, -p tokens in and -n out each, and counts both. Each test runs -r times after a warm-up.",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .values_bytes = sizeof(bench_values),
    .run = run,
};
