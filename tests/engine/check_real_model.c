/* check_real_model.c: check_real_model MODEL.gguf [N]: what test_reproducible.c proves on tiny models, once on a real
 * one and as people would see it: N prompts (32) at once over a pool that fits few of them, each answer the same as
 * alone, with 1 and 2 threads, other prefill budgets and a warm prefix cache, and no block in use afterwards. And what
 * loading takes: weights, workspace and pool, and not the file beside them. Run by scripts/test.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvq.h"

enum { MAX_PROMPTS = 32, ANSWER_TOKENS = 20, TEXT_BYTES = 2048 };

static int n_prompts = MAX_PROMPTS;

typedef struct reply {
    char text[TEXT_BYTES];
    size_t n_bytes;
    int n_tokens, n_prompt_tokens;
    bool failed;
    kvq_finish reason;
} reply;

/* Of very different lengths: some within one page of 64 tokens, some over several. */
static void make_prompt(int i, char *out, size_t n_out) {
    static const char *const subjects[] = {"the sky", "a river",        "old bread", "the number seven",
                                           "winter",  "a small engine", "music",     "salt"};
    size_t used =
        (size_t)snprintf(out, n_out, "Tell me in one sentence, please, what you know about %s.", subjects[i % 8]);
    for (int k = 0; k < i && used < n_out; k++)
        used +=
            (size_t)snprintf(out + used, n_out - used, " Also think of %s, and of %d.", subjects[(i + k) % 8], i * k);
}

static kvq_engine *open_engine(const char *path, const char *policy, const char *cache, int threads, int budget,
                               bool prefix) {
    kvq_engine *e = NULL;
    kvq_error err = {0};
    kvq_options o = kvq_default_options();
    o.model_path = path;
    o.quant_policy = policy;
    o.cache_max_entry_count = cache;
    o.session_len = 640;
    o.max_batch_size = MAX_PROMPTS;
    o.threads = threads;
    o.max_prefill_token_num = budget;
    o.enable_prefix_caching = prefix;
    if (kvq_open(&o, &e, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return e;
}

static void submit(kvq_engine *e, int i, reply *r) {
    char prompt[TEXT_BYTES];
    uint64_t id;
    kvq_error err = {0};
    make_prompt(i * MAX_PROMPTS / n_prompts, prompt, sizeof prompt); /* short and long ones */
    memset(r, 0, sizeof *r);
    kvq_request q = kvq_default_request();
    q.prompt = prompt;
    q.max_tokens = ANSWER_TOKENS;
    q.seed = (uint64_t)i;
    q.has_seed = true;
    q.user = r;
    if (!kvq_submit(e, &q, &id, &err)) return;
    fprintf(stderr, "prompt %d: %s\n", i, err.text);
    exit(1);
}

static void take(const kvq_event *event) {
    reply *r = event->user;
    if (r->n_bytes + event->n_bytes >= sizeof r->text) exit(1);
    memcpy(r->text + r->n_bytes, event->text, event->n_bytes);
    r->n_bytes += event->n_bytes;
    if (event->kind == KVQ_EVENT_TEXT) return;
    r->failed = event->kind == KVQ_EVENT_FAILED;
    r->reason = event->reason;
    r->n_tokens = event->result.completion_tokens;
    r->n_prompt_tokens = event->result.prompt_tokens;
}

/* How many had not begun when the first was done; there are slots for all. */
static int run(kvq_engine *e) {
    kvq_stats stats;
    int n_waiting = -1;
    while (kvq_is_active(e)) {
        const kvq_event *events;
        size_t n;
        kvq_error err = {0};
        if (kvq_step(e, &events, &n, &err)) {
            fprintf(stderr, "%s\n", err.text);
            exit(1);
        }
        for (size_t i = 0; i < n; i++) {
            take(&events[i]);
            if (events[i].kind == KVQ_EVENT_TEXT || n_waiting >= 0) continue;
            kvq_get_stats(e, &stats);
            n_waiting = stats.requests_waiting;
        }
    }
    return n_waiting;
}

static bool same(const reply *a, const reply *b) {
    return !a->failed && !b->failed && a->reason == b->reason && a->n_tokens == b->n_tokens &&
           a->n_bytes == b->n_bytes && memcmp(a->text, b->text, a->n_bytes) == 0;
}

/* All prompts at once; how many replies differ from those alone, and what else is wrong. A small pool that holds all of
 * them at once proves nothing: it has fewer blocks than they fill pages, and some had to wait for others. */
static int check_together(kvq_engine *e, const reply *alone, bool small, const char *what) {
    static reply replies[MAX_PROMPTS];
    kvq_stats stats;
    int wrong = 0;
    for (int i = 0; i < n_prompts; i++) submit(e, i, &replies[i]);
    int n_waiting = run(e), n_pages = 0;
    for (int i = 0; i < n_prompts; i++) {
        n_pages += (replies[i].n_prompt_tokens + replies[i].n_tokens) / kvq_get_info(e)->block_tokens;
        if (same(&replies[i], &alone[i])) continue;
        printf("  prompt %d: '%.60s' instead of '%.60s'\n", i, replies[i].text, alone[i].text);
        wrong++;
    }
    kvq_get_stats(e, &stats);
    if (stats.blocks_used != 0) wrong++;
    printf("%-46s %d of %d the same, %d blocks for %d full pages, %d waited, %d preemptions, %d prefix hits\n", what,
           n_prompts - wrong, n_prompts, (int)stats.n_blocks, n_pages, n_waiting, (int)stats.preemptions,
           (int)stats.prefix_hits);
    if (small && !((int)stats.n_blocks < n_pages && n_waiting > 0)) {
        printf("  the pool is not small\n");
        wrong++;
    }
    fflush(stdout);
    return wrong;
}

/* small: f16 blocks of a pool that holds one of the longest and little more. */
static int check_policy(const char *path, const char *policy, const char *small) {
    static reply alone[MAX_PROMPTS];
    char what[64];
    int wrong = 0;
    kvq_stats stats;
    kvq_engine *e = open_engine(path, policy, "400", 1, 1024, false);
    for (int i = 0; i < n_prompts; i++) {
        submit(e, i, &alone[i]);
        run(e);
    }
    kvq_close(e);
    const struct {
        const char *what, *cache;
        int threads, budget;
        bool prefix, again, small;
    } ways[] = {{"a small pool", small, 2, 512, false, false, true},
                {"one thread, a budget of 100, a warm cache", "400", 1, 100, true, true, false}};
    for (size_t k = 0; k < sizeof ways / sizeof *ways; k++) {
        snprintf(what, sizeof what, "policy %s, %s", policy, ways[k].what);
        e = open_engine(path, policy, ways[k].cache, ways[k].threads, ways[k].budget, ways[k].prefix);
        if (ways[k].again) wrong += check_together(e, alone, false, "  (cold)");
        wrong += check_together(e, alone, ways[k].small, what);
        kvq_get_stats(e, &stats);
        if (ways[k].again && stats.prefix_hits == 0) {
            printf("  the prefix cache was never hit\n");
            wrong++;
        }
        kvq_close(e);
    }
    return wrong;
}

/* ---- loading --------------------------------------------------------------------------------------------- */

/* The most that was ever resident of this process, mapped files included. */
static uint64_t peak_bytes(void) {
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %llu kB", &kib) == 1) break;
    if (f) (void)fclose(f); /* only read */
    return (uint64_t)kib * 1024;
}

/* Metadata and vocabulary of the three models, in folios of 2 MB. */
#define FILE_BYTES_THAT_STAY (16u << 20)

/* What of the file, which the engine has mapped, is resident in this process; UINT64_MAX: no such mapping. */
static uint64_t mapped_bytes(const char *path) {
    char line[4096], name[PATH_MAX]; /* as smaps has it: without links */
    bool is_there = false;
    if (!realpath(path, name)) return UINT64_MAX;
    unsigned long long kib = 0, all = 0;
    bool is_file = false;
    FILE *f = fopen("/proc/self/smaps", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (strchr(line, '-') && strchr(line, '-') < strchr(line, ' ')) is_file = strstr(line, name) != NULL;
        is_there = is_there || is_file;
        if (is_file && sscanf(line, "Rss: %llu kB", &kib) == 1) all += kib;
    }
    if (f) (void)fclose(f); /* only read */
    return is_there ? (uint64_t)all * 1024 : UINT64_MAX;
}

/* The first engine of this process. Each tensor's pages are given back when it is repacked; without that the whole file
 * would be resident beside the weights. A third of it is left for the vocabulary, the program and the largest tensor
 * while it loads; of the file, what stands before the tensors may stay, which shows what was forgotten only on kernels
 * that map large folios whole. */
static int check_loading(const char *path) {
    kvq_engine *e = open_engine(path, "8", "10", 1, 512, false);
    const kvq_info *info = kvq_get_info(e);
    uint64_t planned = info->weight_bytes + info->workspace_bytes + info->pool_bytes, peak = peak_bytes();
    uint64_t allowed = planned + info->model_file_bytes / 3;
    uint64_t mapped = mapped_bytes(path);
    bool ok = peak >= info->weight_bytes && peak <= allowed && mapped <= FILE_BYTES_THAT_STAY;
    printf("%-46s %.1f MiB at most, planned %.1f, allowed %.1f; of the file %.1f stay\n", "loading",
           (double)peak / 1048576, (double)planned / 1048576, (double)allowed / 1048576, (double)mapped / 1048576);
    kvq_close(e);
    return ok ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc == 3) n_prompts = atoi(argv[2]);
    if (argc < 2 || argc > 3 || n_prompts < 0 || n_prompts > MAX_PROMPTS) {
        fprintf(stderr, "usage: check_real_model MODEL.gguf [N]: N prompts, up to %d; 0: it is only loaded\n",
                MAX_PROMPTS);
        return 2;
    }
    int wrong = check_loading(argv[1]);
    if (n_prompts > 0) wrong += check_policy(argv[1], "4", "4") + check_policy(argv[1], "8", "6");
    return wrong ? 1 : 0;
}
