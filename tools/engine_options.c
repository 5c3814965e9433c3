/* engine_options.c: from command-line options to an open engine. Called by run, bench, eval, logits, show. */
#include "engine_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../engine/gguf.h"
#include "../engine/tokenizer.h"
#include "../kernels/isas.h"
#include "command.h"
#include "file.h"
#include "interrupt.h"
#include "progress.h"

#define ISA_CHOICE(name, rows, linear, kv) "|" #name
const char engine_isa_names[] = "auto" KVQ_ISA_MAP(ISA_CHOICE, ISA_CHOICE, ISA_CHOICE);
#undef ISA_CHOICE

/* Each name with a bar before it; POLICY_NAMES skips the first bar. */
const char engine_policy_names[] =
#define POLICY(name, value, k_bits, v_bits, sym, rotated, bias_out, centred, wide, wide_blocks, doc) "|" value
#include "../kernels/policies.def"
#undef POLICY
    ;

kvq_options engine_options_make(const engine_options *o, const char *policy) {
    kvq_options options = kvq_default_options();
    options.model_path = o->model;
    options.backend = o->backend;
    options.isa = o->isa;
    options.device = o->device;
    options.threads = o->threads;
    options.cache_max_entry_count = o->cache;
    options.cache_block_seq_len = o->block_tokens;
    options.reproducible = strcmp(o->reproducible, "yes") == 0;
    if (policy) options.quant_policy = policy;
    return options;
}

static int show_share(void *user, double ratio) {
    progress_step(user, ratio);
    return interrupt_seen();
}

kvq_status engine_open(const kvq_options *options, kvq_engine **ret, kvq_error *err) {
    kvq_options with_bar = *options;
    progress bar;
    progress_begin(&bar, "Loading");
    with_bar.progress = show_share;
    with_bar.progress_user = &bar;
    kvq_status status = kvq_open(&with_bar, ret, err);
    progress_done(&bar);
    const char *passed_over = status ? NULL : kvq_get_info(*ret)->passed_over;
    if (passed_over) fprintf(stderr, "kvqctl: the CPU is used, not the GPU: %s\n", passed_over); /* never in silence */
    return status;
}

kvq_status engine_tokenize_file(const char *model, const char *text_path, bool add_special, bool parse_special,
                                int **ret_ids, size_t *ret_n, kvq_error *err) {
    kvq_gguf *file = NULL;
    kvq_tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t n_bytes;
    progress bar;
    const kvq_encode_options how = {
        .add_special = add_special, .parse_special = parse_special, .progress = show_share, .progress_user = &bar};
    kvq_status status = kvq_gguf_open(model, &file, err);
    if (!status) status = kvq_tokenizer_open(file, &tokenizer, err);
    if (!status) status = file_read(text_path, &text, &n_bytes, err);
    progress_begin(&bar, "Tokenizing");
    if (!status) status = kvq_tokenizer_encode(tokenizer, text, n_bytes, how, ret_ids, ret_n, err);
    progress_done(&bar);
    free(text);
    kvq_tokenizer_free(tokenizer);
    kvq_gguf_close(file);
    return status;
}

int engine_fail(const kvq_error *err) {
    if (err->code == KVQ_CANCELLED && interrupt_seen()) return EXIT_CODE_INTERRUPTED;
    return command_fail(err->code == KVQ_BAD_ARGUMENT ? EXIT_CODE_USAGE : EXIT_CODE_FAILED, "%s", err->text);
}
