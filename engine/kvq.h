/* kvq.h: the public header of libkvq, the serving engine of kvqd. It compiles alone, as C and as C++.
 *
 * Nouns. An *engine* is one model in memory with its KV pool. A *request* is one prompt and the answer it gets. A
 * *step* computes one batch: a token for every sequence that is decoding, and prompt tokens up to a budget for those
 * that are not. An *event* tells the caller what a step brought: text, an end, a failure.
 *
 *     kvq_engine *engine;
 *     kvq_error err;
 *     uint64_t id;
 *     const kvq_event *events;
 *     size_t n_events;
 *     kvq_options o = kvq_default_options();
 *     o.model_path = "model.gguf";
 *     if (kvq_open(&o, &engine, &err)) die(err.text);
 *     kvq_request r = kvq_default_request();
 *     r.prompt = "Why is the sky blue?";
 *     if (kvq_submit(engine, &r, &id, &err)) die(err.text);
 *     while (kvq_is_active(engine)) {
 *         if (kvq_step(engine, &events, &n_events, &err)) die(err.text);
 *         for (size_t i = 0; i < n_events; i++) fwrite(events[i].text, 1, events[i].n_bytes, stdout);
 *     }
 *     kvq_close(engine);
 *
 * Threads: one. All calls for an engine come from one thread at a time; the only threads of its own are the CPU compute
 * pool. Time: milliseconds are of a monotonic clock. Text is UTF-8. Nothing here prints, logs or exits. */
#ifndef KVQ_H
#define KVQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../kernels/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVQ_VERSION "0.1.0"

typedef struct kvq_engine kvq_engine;

/* ---- opening
 * ---------------------------------------------------------------------------------------------------------- */

typedef struct kvq_options {
    const char *model_path;    /* a GGUF file */
    const char *chat_template; /* NULL: the file's own */
    const char *backend;       /* "auto", "cpu", "cuda" */
    const char *isa;           /* "auto" or a row of kernels/isas.h: "ref", "avx2", ... */
    int device;                /* GPU index */
    const char *quant_policy;  /* "8" (default), "0", "4", "lmdeploy8", "lmdeploy4" */
    const char
        *cache_max_entry_count; /* "0.5": share of free memory; "4000": f16 blocks; "1536M": bytes; NULL: default */
    int cache_block_seq_len;    /* 32, 64 or 128 tokens a page */
    int session_len;           /* tokens, prompt and answer together; 0: the least of the model's, 8192 and what fits */
    int max_batch_size;        /* sequences at once */
    int max_prefill_token_num; /* prompt tokens per step */
    bool enable_prefix_caching;
    bool reproducible;
    int threads; /* 0: one per physical core */
    /* Called while loading with a share done 0..1; a non-zero return cancels (KVQ_CANCELLED). NULL allowed. */
    int (*progress)(void *user, double ratio);
    void *progress_user;
} kvq_options;

kvq_options kvq_default_options(void);

/* Opens a model: reads, repacks, allocates and touches the pool. Owned by the caller after return.
 * Errors: BAD_ARGUMENT, IO, BAD_FILE, UNSUPPORTED, NO_MEMORY, NO_SPACE (pool smaller than one sequence: says what
 * fits), DEVICE, CANCELLED. */
kvq_status kvq_open(const kvq_options *options, kvq_engine **ret, kvq_error *err);
void kvq_close(kvq_engine *e); /* NULL allowed; drops what is running */

/* ---- what was opened
 * ---------------------------------------------------------------------------------------------------- */

typedef struct kvq_capacity {
    int tokens_a_sequence;       /* 128, 512, session_len */
    uint64_t tokens, tokens_f16; /* that fit in all, in sequences of that length; and in f16 in the same bytes */
    uint64_t sequences;
} kvq_capacity;

typedef struct kvq_info {
    const char *model_name, *architecture, *file_type; /* general.name or the file's name; e.g. "Q4_1" */
    const char *backend, *isa, *quant_policy;          /* the backend that runs */
    const char *device, *device_version;               /* GPU and driver; "" on the CPU */
    const char *device_bus_id;                         /* its PCI address, "0000:65:00.0"; "" on the CPU */
    const char *cublas;      /* how a GPU's large products are made by cuBLAS, or why not; NULL: not asked for */
    const char *passed_over; /* why backend "auto" runs on the CPU although a GPU's is installed */
    uint64_t n_parameters, model_file_bytes;
    uint64_t weight_bytes, workspace_bytes, pool_bytes; /* the memory plan as it was carried out */
    uint64_t block_bytes, n_blocks;
    double bits_per_value; /* of a closed page, averaged over layers, scales included */
    int n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size, n_groups, n_hard_layers;
    int block_tokens, session_len, session_len_model, max_batch_size, max_prefill_token_num, threads;
    bool has_chat_template, prefix_caching;
    const char *template_error; /* why the file's template cannot be used, or NULL */
    kvq_capacity capacity[3];
} kvq_info;

const kvq_info *kvq_get_info(const kvq_engine *e); /* borrowed until kvq_close */

/* ---- requests
 * ----------------------------------------------------------------------------------------------------------- */

#define KVQ_MAX_REQUESTS 1024     /* queued and running */
#define KVQ_MAX_SESSIONS 256      /* the one used longest ago is forgotten */
#define KVQ_MAX_SESSION_BYTES 256 /* of a session's name */
#define KVQ_MAX_ROLE_BYTES 31     /* of a message's role */
#define KVQ_MAX_SEED INT64_MAX    /* a seed that is told can be given again: numbers of JSON and SQL have a sign */

typedef struct kvq_message {
    const char *role, *content;
} kvq_message;

typedef struct kvq_token_bias {
    int id;
    float bias;
} kvq_token_bias;

typedef struct kvq_request {
    /* What to answer: exactly one of prompt, messages, ids. All copied. */
    const char *prompt;          /* one user turn (through the chat template), or the raw text */
    const kvq_message *messages; /* a conversation */
    size_t n_messages;
    const int *ids; /* token ids, as they are */
    size_t n_ids;
    bool raw;               /* prompt is not put through the chat template */
    const char *system;     /* system message put before the others, or NULL; a session that goes on keeps its own */
    const char *extra_json; /* further template variables as a JSON object (tools, enable_thinking), or NULL */
    const char *session; /* continue the conversation of this name, or NULL. The session keeps token ids: messages are
                            the new turns only. Requests of one session are answered one after the other. */

    int max_tokens; /* 0: until the context is full */
    float temperature, top_p, min_p;
    int top_k;
    float repetition_penalty, presence_penalty, frequency_penalty;
    const kvq_token_bias *logit_bias;
    size_t n_logit_bias;
    uint64_t seed; /* 0 to KVQ_MAX_SEED */
    bool has_seed; /* false: one is drawn at admission; the finished event tells it */
    const char *const *stop;
    size_t n_stop;
    bool ignore_end; /* bench: go on after an end token */

    int priority;        /* 0 .. 9, higher first; default 5 */
    const char *client;  /* fair share among clients within one priority, or NULL */
    int64_t deadline_ms; /* from now; 0: none */
    void *user;          /* comes back in events */
} kvq_request;

kvq_request kvq_default_request(void);

/* Checks, tokenizes and queues; *ret_id is never 0. Errors: BAD_ARGUMENT (names the key), NO_SPACE (longer than
 * session_len: says both numbers), BUSY (KVQ_MAX_REQUESTS), NO_MEMORY, UNSUPPORTED (no usable chat template). */
kvq_status kvq_submit(kvq_engine *e, const kvq_request *r, uint64_t *ret_id, kvq_error *err);

/* Ends a request; its finished event comes with the next step, its blocks are free then. A token of
 * it that is being computed meanwhile is not told. NOT_FOUND if there is none. */
kvq_status kvq_cancel(kvq_engine *e, uint64_t id);

/* Forgets a session; false if there is none. */
bool kvq_session_drop(kvq_engine *e, const char *session);

typedef enum kvq_event_kind {
    KVQ_EVENT_TEXT,     /* text, n_bytes: new text; n_tokens so far */
    KVQ_EVENT_FINISHED, /* reason; result is filled; text is the last piece (may be empty) */
    KVQ_EVENT_FAILED    /* error; result is filled as far as it got */
} kvq_event_kind;

typedef enum kvq_finish {
    KVQ_FINISH_NONE,
    KVQ_FINISH_STOP,   /* an end token or a stop string */
    KVQ_FINISH_LENGTH, /* max_tokens or the context is full (then truncated) */
    KVQ_FINISH_CANCELLED,
    KVQ_FINISH_DEADLINE,
    KVQ_FINISH_ERROR
} kvq_finish;

const char *kvq_finish_name(kvq_finish f); /* "stop", "length", "cancelled", "deadline", "error" */

typedef struct kvq_result {
    int prompt_tokens, completion_tokens, cached_tokens;
    double queue_ms, prefill_ms, ttft_ms, decode_ms; /* ttft: from submit to the first token */
    uint64_t seed;
    uint64_t kv_bytes; /* of the sequence at its end */
    int n_preemptions;
    bool truncated; /* the context ended the answer */
} kvq_result;

typedef struct kvq_event {
    kvq_event_kind kind;
    uint64_t id;
    void *user;
    const char *text; /* UTF-8, whole characters, terminated; borrowed until the next call for this engine */
    size_t n_bytes;
    int n_tokens;
    kvq_finish reason;
    kvq_result result;
    kvq_error error;
} kvq_event;

/* One step. Events are borrowed until the next call for this engine. A request's failure is an event; a status other
 * than OK is the engine's own (DEVICE, INTERNAL) and final. With nothing to do returns OK at once, with no events. */
kvq_status kvq_step(kvq_engine *e, const kvq_event **ret_events, size_t *ret_n, kvq_error *err);
bool kvq_is_active(const kvq_engine *e); /* something is queued, running, or an event is waiting */

/* A GPU computes the next step while the caller handles this one's events: kvq_step launches it before it returns, and
 * waits for it when it is called again. Waits here instead: what is submitted or cancelled between this and kvq_step
 * still counts for the step planned there, as it does for a caller that is never ahead. Where kvq_step is to launch one
 * more before it waits (all decode, nobody can be admitted), this returns at once. Nobody has to call it. */
void kvq_wait(kvq_engine *e);

/* ---- stats
 * -------------------------------------------------------------------------------------------------------------- */

typedef struct kvq_stats {
    uint64_t n_blocks, blocks_used,
        blocks_cached; /* used: by live sequences; cached: by the prefix cache alone; the rest free */
    int requests_running, requests_waiting;
    /* counters since open */
    uint64_t steps, steps_ahead /* launched before the ids of the step before were known */, prompt_tokens,
        prefill_tokens, generation_tokens, preemptions, prefix_queries, prefix_hits, prefix_hit_tokens,
        prefix_query_tokens, requests_finished, requests_failed, requests_cancelled;
    uint64_t sessions;
    /* from the launch, or from the step before if that ended later, until its tokens were known; a step without any:
     * until the machine was asked for it */
    double step_ms_last;
} kvq_stats;

void kvq_get_stats(const kvq_engine *e, kvq_stats *ret);

/* ---- tools: tokens, logits
 * ------------------------------------------------------------------------------------------------ */

/* ids owned by the caller (free). bos: put where the file asks for it. */
kvq_status kvq_tokenize(const kvq_engine *e, const char *text, size_t n_bytes, bool bos, bool special, int **ret_ids,
                        size_t *ret_n, kvq_error *err);

/* Runs n ids as one sequence with the engine's policy and calls row for each position from `first` on, in order, with
 * logits [vocab_size] (borrowed for the call). A non-zero return stops (KVQ_CANCELLED). Needs an idle engine; prefix
 * cache unused. The output matrix is read once for max_batch_size positions. */
kvq_status kvq_logits(kvq_engine *e, const int *ids, size_t n, size_t first,
                      int (*row)(void *user, size_t pos, const float *logits), void *user, kvq_error *err);

/* What a model would need, from the file alone: fills info as kvq_open would, without loading weights. For `kvqctl
 * show`. Its strings are borrowed until kvq_plan_close. */
typedef struct kvq_plan kvq_plan;
kvq_status kvq_plan_open(const kvq_options *options, kvq_plan **ret, kvq_error *err);
const kvq_info *kvq_plan_info(const kvq_plan *p);
void kvq_plan_close(kvq_plan *p);

/* Whether kvq_open could read its model, as far as the file alone says: opens no device, reads no weights. A chat
 * template that cannot be used is an error here, though kvq_open takes it, for raw prompts. Errors: BAD_ARGUMENT, IO,
 * BAD_FILE, UNSUPPORTED, NO_MEMORY. */
kvq_status kvq_check_file(const kvq_options *options, kvq_error *err);

#ifdef __cplusplus
}
#endif
#endif
