/* bench.c: the command `bench`. See bench.h. */
#include "bench.h"

#include "command.h"
#include "daemon.h"

static void finish(kvqd *d, json_t *data, const failure *f) {
    command_reply(d, "bench", d->bench.args, data, f);
    json_decref(d->bench.args);
    d->bench.args = NULL;
}

/* Spread over the vocabulary, and another start each time so that the prefix cache cannot answer. */
static void fill(int *ids, int n, int vocab_size) {
    uint64_t seed = (uint64_t)clock_monotonic_ns();
    for (int i = 0; i < n; i++) ids[i] = (int)((seed + (uint64_t)i * 7919) % (uint64_t)vocab_size);
}

static kvq_status submit(kvqd *d, kvq_error *err) {
    static int ids[BENCH_MAX_TOKENS]; /* copied by the engine; one thread */
    kvq_request q = kvq_default_request();
    uint64_t id;
    fill(ids, d->bench.n_prompt, kvq_get_info(d->engine)->vocab_size);
    q.ids = ids;
    q.n_ids = (size_t)d->bench.n_prompt;
    q.max_tokens = d->bench.n_answer;
    q.temperature = 0;
    q.ignore_end = true;
    return kvq_submit(d->engine, &q, &id, err);
}

bool bench_start(kvqd *d, const json_t *args, int n_prompt, int n_answer, failure *f) {
    kvq_error err;
    if (!d->engine) return failure_set(f, FAILURE_NO_MODEL, "no model is loaded");
    if (kvq_is_active(d->engine))
        return failure_set(f, FAILURE_BUSY, "prompts are running; a bench needs the engine alone");
    d->bench = (bench){.n_prompt = n_prompt, .n_answer = n_answer, .started_ns = clock_monotonic_ns()};
    if (submit(d, &err)) {
        failure_from_error(f, &err);
        return false;
    }
    d->bench.args = json_deep_copy(args);
    return d->bench.args || failure_set(f, FAILURE_INTERNAL, "no memory for a bench");
}

void bench_apply(kvqd *d, const kvq_event *e) {
    failure f;
    const bench *b = &d->bench;
    if (!b->args || e->kind == KVQ_EVENT_TEXT) return;
    if (e->kind == KVQ_EVENT_FAILED) {
        failure_from_error(&f, &e->error);
        bench_fail(d, &f);
        return;
    }
    double prefill_s = e->result.ttft_ms / 1000;
    double decode_s = (double)(clock_monotonic_ns() - b->started_ns) / 1e9 - prefill_s;
    (void)failure_set(&f, FAILURE_INTERNAL, "no memory for the result"); /* if there is none */
    finish(d,
           json_pack("{s:i, s:i, s:f, s:f}", "prompt_tokens", b->n_prompt, "tokens", b->n_answer,
                     "prefill_tokens_per_s", b->n_prompt / prefill_s, "decode_tokens_per_s",
                     (b->n_answer - 1) / decode_s),
           &f);
}

void bench_fail(kvqd *d, const failure *f) {
    if (d->bench.args) finish(d, NULL, f);
}
