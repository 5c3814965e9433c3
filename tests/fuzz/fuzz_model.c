/* fuzz_model.c: any bytes as a whole model: opened with a small pool, and if that works, a few tokens are computed and
 * a few bytes tokenized. Damaged shapes, vocabularies and hyperparameters end here as an error with a text, never as
 * anything worse. */
#include <string.h>

#include "../../engine/kvq.h"
#include "memory_file.h"

static void answer(kvq_engine *e) {
    kvq_error err = {0};
    kvq_request r = kvq_default_request();
    r.prompt = "The \xE2\x82\xAC sky";
    r.raw = true;
    r.max_tokens = 3;
    r.has_seed = true;
    uint64_t id;
    if (kvq_submit(e, &r, &id, &err)) return; /* longer than the file's context, say */
    for (int step = 0; kvq_is_active(e) && step < 100; step++) {
        const kvq_event *events;
        size_t n_events;
        if (kvq_step(e, &events, &n_events, &err)) return;
    }
    if (kvq_is_active(e)) abort(); /* three tokens take no hundred steps */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    memory_file file;
    memory_file_open(&file, data, n_bytes);
    kvq_options o = kvq_default_options();
    o.model_path = file.path;
    o.backend = "cpu";
    o.cache_max_entry_count = "1M";
    o.session_len = 64;
    o.max_batch_size = 2;
    o.max_prefill_token_num = 32;
    o.threads = 1;
    o.quant_policy = n_bytes % 2 ? "8" : "4";
    kvq_engine *e = NULL;
    kvq_error err = {0};
    if (kvq_open(&o, &e, &err)) {
        if (e || !err.text[0]) abort(); /* a refusal says why */
    } else {
        answer(e);
    }
    kvq_close(e);
    memory_file_close(&file);
    return 0;
}
