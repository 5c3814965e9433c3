/* engine_options.h: the options that every command with an engine takes, and opening an engine with a progress bar. */
#ifndef KVQ_ENGINE_OPTIONS_H
#define KVQ_ENGINE_OPTIONS_H

#include "../engine/kvq.h"
#include "option.h"

typedef struct engine_options {
    const char *model, *backend, *isa, *cache, *reproducible;
    int threads, device, block_tokens;
} engine_options;

/* Rows for a command whose values have a member `engine` of that type. Policies are rows of their own: some commands
 * take a list. */
/* clang-format off */
#define ENGINE_OPTION_MODEL(values) \
    {.letter = 'm', .name = "model", .kind = OPTION_TEXT, .offset = offsetof(values, engine.model), .argument = "FILE", \
     .required = true, .doc = "The model, a GGUF file."}
#define ENGINE_OPTION_BACKEND(values) \
    {.name = "backend", .kind = OPTION_NAME, .offset = offsetof(values, engine.backend), .argument = "NAME", .fallback = "auto", \
     .names = "auto|cpu|cuda", .doc = "Where the model runs; auto takes the GPU if one is usable."}
#define ENGINE_OPTIONS(values) \
    ENGINE_OPTION_BACKEND(values), \
    {.name = "isa", .kind = OPTION_NAME, .offset = offsetof(values, engine.isa), .argument = "NAME", .fallback = "auto", \
     .names = engine_isa_names, .doc = "The CPU's instruction set; auto takes the best there is."}, \
    {.name = "device", .kind = OPTION_INT, .offset = offsetof(values, engine.device), .argument = "N", .fallback = "0", \
     .min = 0, .max = 63, .doc = "Which GPU."}, \
    {.letter = 't', .name = "threads", .kind = OPTION_INT, .offset = offsetof(values, engine.threads), .argument = "N", \
     .fallback = "0", .min = 0, .max = 1024, .doc = "CPU threads; 0 is one per physical core."}, \
    {.name = "cache", .kind = OPTION_TEXT, .offset = offsetof(values, engine.cache), .argument = "SIZE", \
     .doc = "The KV pool (cache_max_entry_count): 0.5 is a share of the free memory, 4000 f16 blocks, 1536M bytes."}, \
    {.name = "block", .kind = OPTION_INT, .offset = offsetof(values, engine.block_tokens), .argument = "TOKENS", \
     .fallback = "64", .min = 32, .max = 128, .doc = "Tokens of a KV page (cache_block_seq_len): 32, 64 or 128."}, \
    {.name = "reproducible", .kind = OPTION_NAME, .offset = offsetof(values, engine.reproducible), .argument = "WHETHER", .fallback = "yes", \
     .names = "yes|no", .doc = "On a GPU, the same tokens whatever else is in the batch; no reads prompts faster."}
/* The rows of kernels/policies.def, "0|8|...", so that a new policy needs no word here. */
extern const char engine_isa_names[]; /* of kernels/isas.h, likewise */
extern const char engine_policy_names[];
#define POLICY_NAMES (engine_policy_names + 1)
/* clang-format on */

/* max_batch_size of commands that want logits of every position: so many are one product with the output matrix. */
#define LOGIT_ROWS 16

/* The engine's defaults with these options and a policy (NULL: the default one). */
kvq_options engine_options_make(const engine_options *o, const char *policy);

/* kvq_open with a bar on stderr; Ctrl-C gives up with KVQ_CANCELLED. */
kvq_status engine_open(const kvq_options *options, kvq_engine **ret, kvq_error *err);

/* Text of a file as token ids by the model file's tokenizer alone (no engine), with a bar; Ctrl-C, where it is caught,
 * gives up with KVQ_CANCELLED. ids owned by the caller (free). */
kvq_status engine_tokenize_file(const char *model, const char *text_path, bool add_special, bool parse_special,
                                int **ret_ids, size_t *ret_n, kvq_error *err);

/* What failed, for people, and the exit code that goes with it. */
int engine_fail(const kvq_error *err);

#endif
