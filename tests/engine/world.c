/* world.c: see world.h. Called by tests/engine/test_*.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "world.h"

static char paths[TINY_MODELS][64];

void world_write_model(const tiny_model *m, char *path) {
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_true(tiny_model_write(m, path));
}

const char *world_model(int model) {
    char *path = paths[model];
    if (path[0]) return path;
    snprintf(path, sizeof paths[model], "/tmp/kvq_tiny_%s.XXXXXX", tiny_models[model].name);
    world_write_model(&tiny_models[model], path);
    return path;
}

void world_remove_models(void) {
    for (int i = 0; i < TINY_MODELS; i++)
        if (paths[i][0]) (void)unlink(paths[i]); /* in /tmp: no harm if it stays */
}

kvq_options world_options(int model, const char *policy) {
    kvq_options o = kvq_default_options();
    o.model_path = world_model(model);
    o.quant_policy = policy;
    o.cache_max_entry_count = "1500";
    o.cache_block_seq_len = 32;
    o.session_len = 512;
    o.max_batch_size = 40;
    o.max_prefill_token_num = 64;
    o.enable_prefix_caching = false;
    o.threads = 1;
    return o;
}

kvq_engine *world_open(const kvq_options *o) {
    kvq_engine *e = NULL;
    kvq_error err = {0};
    if (kvq_open(o, &e, &err)) fail_msg("kvq_open: %s", err.text);
    return e;
}

const char *world_smallest_pool(kvq_options o, char *out, size_t n_out) {
    kvq_engine *e = NULL;
    kvq_error err = {0};
    o.cache_max_entry_count = out;
    for (int blocks = 2; blocks < 500; blocks++) {
        snprintf(out, n_out, "%d", blocks);
        kvq_status status = kvq_open(&o, &e, &err);
        kvq_close(status ? NULL : e);
        if (!status) return out;
        if (status != KVQ_NO_SPACE) fail_msg("kvq_open: %s", err.text);
    }
    fail_msg("no pool of up to 500 blocks holds a sequence");
    return out;
}

kvq_request world_request(int *ids, int n, uint64_t seed, int max_tokens) {
    kvq_request r = kvq_default_request();
    uint64_t state = seed * 2862933555777941757u + 3037000493u;
    for (int i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int)((state >> 33) % 256);
    }
    r.ids = ids;
    r.n_ids = (size_t)n;
    r.max_tokens = max_tokens;
    r.temperature = 1;
    r.top_k = 0;
    r.seed = seed;
    r.has_seed = true;
    r.ignore_end = true;
    return r;
}

void world_may_end(kvq_request *r, float bias) {
    static kvq_token_bias end;
    end = (kvq_token_bias){TINY_EOS, bias};
    r->ignore_end = false;
    r->logit_bias = &end;
    r->n_logit_bias = 1;
}

uint64_t world_submit(kvq_engine *e, kvq_request *r, answer *a) {
    uint64_t id = 0;
    kvq_error err = {0};
    memset(a, 0, sizeof *a);
    a->first_step = -1;
    r->user = a;
    if (kvq_submit(e, r, &id, &err)) fail_msg("kvq_submit: %s", err.text);
    assert_true(id != 0);
    return id;
}

static void take_event(const kvq_event *event, int step) {
    answer *a = event->user;
    assert_false(a->ended); /* nothing comes after the end */
    assert_true(a->n_bytes + event->n_bytes < sizeof a->text);
    assert_true(event->text && event->text[event->n_bytes] == '\0');
    memcpy(a->text + a->n_bytes, event->text, event->n_bytes);
    a->n_bytes += event->n_bytes;
    if (a->first_step < 0) a->first_step = step;
    a->last_step = step;
    a->n_events++;
    if (event->kind == KVQ_EVENT_TEXT) return;
    a->ended = true;
    a->failed = event->kind == KVQ_EVENT_FAILED;
    a->reason = event->reason;
    a->result = event->result;
    a->error = event->error;
}

void world_step(kvq_engine *e, int step) {
    const kvq_event *events;
    size_t n;
    kvq_error err = {0};
    if (kvq_step(e, &events, &n, &err)) fail_msg("kvq_step: %s", err.text);
    for (size_t i = 0; i < n; i++) take_event(&events[i], step);
}

int world_run(kvq_engine *e) {
    int step = 0;
    while (kvq_is_active(e)) {
        world_step(e, step++);
        if (step > 200000) fail_msg("after %d steps something is still active", step);
    }
    return step;
}

void world_same(const answer *got, const answer *expected, const char *what) {
    if (!got->ended || got->failed) fail_msg("%s: failed: %s", what, got->error.text);
    if (got->reason != expected->reason)
        fail_msg("%s: ended by '%s', expected '%s'", what, kvq_finish_name(got->reason),
                 kvq_finish_name(expected->reason));
    if (got->result.completion_tokens != expected->result.completion_tokens)
        fail_msg("%s: %d tokens, expected %d", what, got->result.completion_tokens, expected->result.completion_tokens);
    if (got->n_bytes != expected->n_bytes || memcmp(got->text, expected->text, got->n_bytes) != 0)
        fail_msg("%s: another text of %zu bytes, expected %zu", what, got->n_bytes, expected->n_bytes);
}

uint64_t world_blocks_used(const kvq_engine *e) {
    kvq_stats stats;
    kvq_get_stats(e, &stats);
    return stats.blocks_used;
}
