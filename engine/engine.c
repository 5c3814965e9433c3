/* engine.c: open, submit, step, cancel, stats, close: the life of an engine and of its requests. Called by the rooms
 * above through kvq.h. A step is: end what was cancelled or is late; start what waited for its session; launch (plan,
 * run, sample); take its tokens; tell what was said. Where the machine computes on its own, the next step is launched
 * before the tokens are told, or even before they are taken. */
#include "kvq.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "forward.h"
#include "machine.h"
#include "plan.h"
#include "request.h"
#include "scheduler.h"
#include "utf8.h"

#define NS_A_MS 1000000
#define TEXT_REST_BYTES 32 /* a kept part of a character, as U+FFFD each byte */

/* A step that was launched: for whom it draws, by row. */
typedef struct launched_step {
    struct {
        kvq_active *who;   /* NULL: it ended meanwhile, and the token is nobody's */
        uint64_t n_blocks; /* that it held then */
    } rows[KVQ_MAX_REQUESTS];
    int n;
    int64_t launch_ns;
} launched_step;

/* A token that a step drew for a request. */
typedef struct drawn_token {
    kvq_active *who; /* NULL as above */
    int id;
    bool is_end, is_last; /* by its id, and by its id or the answer's length */
    kvq_result result;    /* with this token, should it be the last */
} drawn_token;

struct kvq_engine {
    kvq_options options;
    kvq_machine machine;
    kvq_gguf *gguf;
    kvq_model model;
    kvq_tokenizer *tokenizer;
    kvq_template *chat_template;
    char template_error[KVQ_ERROR_BYTES];
    kvq_kv_plan kv_plan;
    float *k_ref; /* [n_ref_layers, n_pages, n_kv_heads, head_dim]; the machine's memory, as is scratch */
    uint8_t *scratch;
    uint64_t k_ref_bytes, scratch_bytes;
    kvq_stream *stream;
    kvq_forward forward;
    kvq_pool *pool;
    kvq_prefix *prefix;
    kvq_scheduler *scheduler;
    kvq_sampler *sampler;
    kvq_sessions sessions;
    kvq_text_tools tools;

    kvq_active *requests; /* in order of submit */
    kvq_active *done;     /* finished in the last step: their text is borrowed by its events */
    int n_requests;
    uint64_t last_id;
    kvq_event *events; /* [KVQ_MAX_REQUESTS] */
    size_t n_events;

    kvq_overlap overlap;
    launched_step launched[KVQ_BACKEND_FETCHES]; /* the last two */
    int last;                                    /* launched[last] is the last one */
    bool is_under_way;                           /* it draws for somebody, and its tokens are not taken */
    int64_t taken_ns;                            /* when tokens were taken last */
    drawn_token drawn[KVQ_MAX_REQUESTS];         /* taken and not told yet */
    int n_drawn;

    kvq_stats stats;
    kvq_info info;
    char model_name[256], file_type[16];
};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static double ms_between(int64_t from_ns, int64_t to_ns) {
    return from_ns && to_ns ? (double)(to_ns - from_ns) / NS_A_MS : 0;
}

/* ---- options
 * ------------------------------------------------------------------------------------------------------------ */

kvq_options kvq_default_options(void) {
    return (kvq_options){.backend = "auto",
                         .isa = "auto",
                         .quant_policy = "8",
                         .cache_block_seq_len = 64,
                         .max_batch_size = 32,
                         .max_prefill_token_num = 512,
                         .enable_prefix_caching = true,
                         .reproducible = true};
}

kvq_request kvq_default_request(void) {
    return (kvq_request){
        .max_tokens = 512, .top_p = 1.0f, .temperature = 0.8f, .top_k = 50, .repetition_penalty = 1.0f, .priority = 5};
}

static kvq_status check_range(const char *key, int value, int low, int high, kvq_error *err) {
    if (value >= low && value <= high) return KVQ_OK;
    return kvq_fail(err, KVQ_BAD_ARGUMENT, "%s is %d, allowed is %d to %d", key, value, low, high);
}

static kvq_status check_options(const kvq_options *o, kvq_error *err) {
    if (!o->model_path) return kvq_fail(err, KVQ_BAD_ARGUMENT, "no model file is given");
    if (o->cache_block_seq_len != 32 && o->cache_block_seq_len != 64 && o->cache_block_seq_len != 128)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "cache_block_seq_len is %d, allowed are 32, 64 and 128",
                        o->cache_block_seq_len);
    if (kvq_policy_find(o->quant_policy) == KVQ_POLICY_COUNT)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "quant_policy '%.32s' is none of 0, 8, 4, lmdeploy8, lmdeploy4",
                        o->quant_policy);
    kvq_status status = check_range("session_len", o->session_len, 0, 1 << 24, err);
    if (!status) status = check_range("max_batch_size", o->max_batch_size, 1, KVQ_MAX_REQUESTS, err);
    if (!status) status = check_range("max_prefill_token_num", o->max_prefill_token_num, 1, 65536, err);
    if (!status) status = check_range("threads", o->threads, 0, 1024, err);
    return status;
}

/* ---- the plan: sizes before anything is allocated
 * ---------------------------------------------------------------------- */

/* What one configuration needs besides the pool; the same arithmetic for `show` and for open. */
typedef struct workspace_plan {
    kvq_shapes shapes;
    int session_guess; /* tokens, before the pool's size is known */
    int chunk_tokens, max_rows;
    uint64_t bytes;
} workspace_plan;

static int max_int(int a, int b) {
    return a > b ? a : b;
}
static int min_int(int a, int b) {
    return a < b ? a : b;
}

static size_t k_ref_floats(const kvq_kv_plan *plan, int session_len) {
    size_t n_pages = ((size_t)session_len + (size_t)plan->kv.block_tokens - 1) / (size_t)plan->kv.block_tokens;
    return (size_t)plan->n_ref_layers * n_pages * (size_t)plan->kv.n_kv_heads * (size_t)plan->kv.head_dim;
}

static workspace_plan plan_workspace(const kvq_options *o, const kvq_hparams *p, const kvq_kv_plan *kv,
                                     const kvq_machine *machine) {
    workspace_plan w = {.session_guess =
                            min_int(p->context_len, o->session_len ? o->session_len : KVQ_DEFAULT_SESSION_LEN)};
    w.chunk_tokens = min_int(o->max_prefill_token_num, w.session_guess);
    w.max_rows = kvq_scheduler_max_rows(o->max_batch_size, w.chunk_tokens);
    int q_dim = p->n_heads * p->head_dim, kv_dim = p->n_kv_heads * p->head_dim;
    w.shapes = (kvq_shapes){.max_rows = w.max_rows,
                            .max_in = max_int(max_int(p->hidden_dim, q_dim), p->ffn_dim),
                            .max_out = max_int(max_int(p->hidden_dim, q_dim + 2 * kv_dim), 2 * p->ffn_dim),
                            .n_heads = p->n_heads,
                            .n_kv_heads = p->n_kv_heads,
                            .head_dim = p->head_dim,
                            .max_tokens = w.session_guess,
                            .block_tokens = o->cache_block_seq_len,
                            .threads = o->threads,
                            .max_seqs = o->max_batch_size,
                            .n_groups = kv->kv.n_groups,
                            .depends_on_batch = !o->reproducible,
                            .vocab_size = p->vocab_size};
    w.bytes = machine->backend->workspace_bytes(machine->device, &w.shapes) +
              kvq_forward_bytes(p, w.max_rows, o->max_batch_size) +
              kvq_scheduler_scratch_bytes(kv, o->max_batch_size, w.chunk_tokens) +
              k_ref_floats(kv, w.session_guess) * sizeof(float);
    return w;
}

/* What the file says without a machine: shapes, and the layout of the cache. m and kv are the caller's to end, also
 * after an error. */
static kvq_status read_shapes(const kvq_options *o, const kvq_gguf *g, kvq_model *m, kvq_kv_plan *kv, kvq_error *err) {
    kvq_status status = kvq_model_init(m, g, NULL, NULL, NULL, err);
    if (status) return status;
    return kvq_kv_plan_init(kv, g, &m->hparams, kvq_policy_find(o->quant_policy), o->cache_block_seq_len, err);
}

/* All sizes but the pool's; *left is what the pool may be of. What will not fit is told before gigabytes are loaded
 * for it. */
static kvq_status plan_sizes(const kvq_options *o, const kvq_model *m, const kvq_kv_plan *kv,
                             const kvq_machine *machine, workspace_plan *w, kvq_free_memory *left, kvq_error *err) {
    *left = (kvq_free_memory){.is_shared = machine->info.shares_memory};
    kvq_status status = kvq_machine_free_bytes(machine, &left->bytes, err);
    if (status) return status;
    *w = plan_workspace(o, &m->hparams, kv, machine);
    return kvq_plan_fixed(m->weight_bytes, w->bytes, left, err);
}

/* The format that most bytes of the layers' tensors have. */
static const char *most_used_format(const kvq_gguf *g) {
    uint64_t bytes[KVQ_FORMAT_COUNT] = {0};
    kvq_format best = KVQ_FORMAT_F32;
    for (size_t i = 0; i < kvq_gguf_n_tensors(g); i++) {
        const kvq_gguf_tensor *t = kvq_gguf_tensor_at(g, i);
        if (t->n_dims == 2 && strncmp(t->name, "blk.", 4) == 0) bytes[t->format] += t->n_bytes;
    }
    for (int f = 0; f < KVQ_FORMAT_COUNT; f++)
        if (bytes[f] > bytes[best]) best = (kvq_format)f;
    return kvq_format_get(best)->name;
}

/* The text's whole characters that fit, with '?' for each byte that is part of none: a file, and its name, may hold any
 * bytes. False if there was one, or nothing at all. */
static bool copy_name(char *out, size_t out_bytes, kvq_text text) {
    size_t n = 0;
    bool is_good = text.n_bytes > 0;
    for (size_t i = 0; i < text.n_bytes;) {
        int length = kvq_utf8_check(text.bytes + i, text.n_bytes - i);
        bool is_bad = length <= 0 || text.bytes[i] == 0;
        size_t n_bytes = is_bad ? 1 : (size_t)length;
        is_good = is_good && !is_bad;
        if (n + n_bytes >= out_bytes) break;
        memcpy(out + n, is_bad ? "?" : text.bytes + i, n_bytes);
        n += n_bytes;
        i += n_bytes;
    }
    out[n] = 0;
    return is_good;
}

/* Points into `from`. */
static void fill_device(kvq_info *info, const kvq_device_info *from) {
    info->device = from->name;
    info->device_version = from->version;
    info->device_bus_id = from->bus_id;
    info->cublas = from->cublas[0] ? from->cublas : NULL;
}

static void fill_names(kvq_info *info, const kvq_gguf *g, char *name, size_t name_bytes, char *type,
                       size_t type_bytes) {
    kvq_text text;
    const char *path = kvq_gguf_path(g), *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
    if (!kvq_gguf_text(g, "general.name", &text) || !copy_name(name, name_bytes, text))
        (void)copy_name(name, name_bytes, (kvq_text){file, strlen(file)}); /* there is no better one */
    snprintf(type, type_bytes, "%s", most_used_format(g));
    info->model_name = name;
    info->file_type = type;
}

static void fill_info(kvq_info *info, const kvq_options *o, const kvq_gguf *g, const kvq_model *m,
                      const kvq_kv_plan *kv, uint64_t n_blocks, int session_len) {
    const kvq_hparams *p = &m->hparams;
    info->architecture = p->arch->name;
    info->quant_policy = kv->kv.policy->value;
    info->n_parameters = m->n_parameters;
    info->model_file_bytes = kvq_gguf_file_bytes(g);
    info->weight_bytes = m->weight_bytes;
    info->block_bytes = kv->kv.block_bytes;
    info->n_blocks = n_blocks;
    info->pool_bytes = n_blocks * kv->kv.block_bytes;
    info->bits_per_value = kv->bits_per_value;
    info->n_layers = p->n_layers;
    info->n_heads = p->n_heads;
    info->n_kv_heads = p->n_kv_heads;
    info->head_dim = p->head_dim;
    info->hidden_dim = p->hidden_dim;
    info->vocab_size = p->vocab_size;
    info->n_groups = kv->kv.n_groups;
    info->n_hard_layers = kv->n_hard_layers;
    info->block_tokens = kv->kv.block_tokens;
    info->session_len = session_len;
    info->session_len_model = p->context_len;
    info->max_batch_size = o->max_batch_size;
    info->max_prefill_token_num = o->max_prefill_token_num;
    info->prefix_caching = o->enable_prefix_caching;
    int lengths[3] = {min_int(128, session_len), min_int(512, session_len), session_len};
    for (int i = 0; i < 3; i++) {
        uint64_t n = (uint64_t)lengths[i], each = kvq_plan_blocks(kv, n, 0), each_f16 = kvq_plan_blocks_f16(kv, n);
        uint64_t n_blocks_f16 = info->pool_bytes / kv->block_bytes_f16;
        info->capacity[i] = (kvq_capacity){.tokens_a_sequence = lengths[i],
                                           .tokens = n_blocks * n / each,
                                           .tokens_f16 = n_blocks_f16 * n / each_f16,
                                           .sequences = n_blocks / each};
    }
}

/* ---- open and close
 * ------------------------------------------------------------------------------------------------------ */

static kvq_status open_template(kvq_engine *e, kvq_error *err) {
    kvq_text source;
    const char *own = e->options.chat_template;
    if (own)
        source = (kvq_text){own, strlen(own)};
    else if (!kvq_gguf_text(e->gguf, "tokenizer.chat_template", &source))
        return KVQ_OK;
    kvq_error why = {0};
    kvq_status status = kvq_template_parse(source.bytes, source.n_bytes, &e->chat_template, &why);
    if (status == KVQ_NO_MEMORY) return kvq_fail(err, status, "%s", why.text);
    if (status) snprintf(e->template_error, sizeof e->template_error, "%s", why.text); /* raw prompts still work */
    return KVQ_OK;
}

/* The constant of each biased layer, for every page that a sequence can have. */
static kvq_status make_k_refs(kvq_engine *e, int session_len, kvq_error *err) {
    kvq_kv_plan *plan = &e->kv_plan;
    const kvq_hparams *p = &e->model.hparams;
    if (plan->n_ref_layers == 0) return KVQ_OK;
    size_t n = k_ref_floats(plan, session_len), a_layer = n / (size_t)plan->n_ref_layers;
    size_t kv_dim = (size_t)p->n_kv_heads * (size_t)p->head_dim;
    uint8_t *memory = NULL;
    float *bias = malloc(kv_dim * sizeof *bias), *made = malloc(a_layer * sizeof *made);
    kvq_status status = bias && made ? KVQ_OK : kvq_fail(err, KVQ_NO_MEMORY, "no memory for the K bias of a layer");
    e->k_ref_bytes = n * sizeof(float);
    if (!status)
        status = kvq_machine_take(&e->machine, KVQ_MEMORY_DEVICE, e->k_ref_bytes, true, "K bias", &memory, err);
    e->k_ref = (float *)memory;
    float *next = e->k_ref;
    for (int l = 0; l < p->n_layers && !status; l++) {
        if (!kvq_model_k_bias(e->gguf, p, l, bias)) continue;
        kvq_kv_bias_ref(made, bias, &p->rope[e->model.layers[l].rope], (int)(a_layer / kv_dim), p->n_kv_heads,
                        p->head_dim, plan->kv.block_tokens, plan->kv.policy->rotated);
        status = e->machine.backend->copy(e->machine.device, next, made, a_layer * sizeof *made, err);
        plan->kv.layers[l].k_ref = next;
        next += a_layer;
    }
    free(bias);
    free(made);
    return status;
}

/* The wide images of pages that close in a step. */
static kvq_status make_scratch(kvq_engine *e, const workspace_plan *w, kvq_error *err) {
    e->scratch_bytes = kvq_scheduler_scratch_bytes(&e->kv_plan, e->options.max_batch_size, w->chunk_tokens);
    if (e->scratch_bytes == 0) return KVQ_OK;
    return kvq_machine_take(&e->machine, KVQ_MEMORY_DEVICE, e->scratch_bytes, true, "pages that close", &e->scratch,
                            err);
}

static kvq_status open_compute(kvq_engine *e, const workspace_plan *w, kvq_error *err) {
    kvq_status status = e->machine.backend->stream_new(e->machine.device, &w->shapes, &e->stream, err);
    if (!status) status = make_k_refs(e, w->session_guess, err);
    if (!status) status = make_scratch(e, w, err);
    if (!status)
        status = kvq_forward_init(&e->forward, &e->model, &e->kv_plan.kv, &e->machine, e->stream, w->max_rows,
                                  e->options.max_batch_size, err);
    if (!status) status = kvq_sampler_new(e->model.hparams.vocab_size, e->options.max_batch_size, &e->sampler, err);
    return status;
}

/* The pool, sized by what is free now that weights and workspace are in place; then session_len by the pool. */
static kvq_status open_pool(kvq_engine *e, const workspace_plan *w, kvq_error *err) {
    kvq_free_memory free_memory = {.is_shared = e->machine.info.shares_memory};
    uint64_t n_blocks;
    int session_len;
    const kvq_options *o = &e->options;
    kvq_status status = kvq_machine_free_bytes(&e->machine, &free_memory.bytes, err);
    if (!status)
        status = kvq_plan_pool_bytes(&e->kv_plan, o->cache_max_entry_count, free_memory, w->session_guess,
                                     o->max_batch_size, &n_blocks, err);
    if (!status)
        status = kvq_plan_session_len(&e->kv_plan, n_blocks, o->session_len, e->model.hparams.context_len,
                                      w->chunk_tokens, &session_len, err);
    if (!status) status = kvq_pool_new(&e->machine, n_blocks, e->kv_plan.kv.block_bytes, &e->pool, err);
    if (!status && o->enable_prefix_caching)
        status = kvq_prefix_new(e->pool, e->kv_plan.kv.n_groups, e->kv_plan.group_window, e->kv_plan.kv.block_tokens,
                                n_blocks, &e->prefix, err);
    if (status) return status;
    e->tools.session_len = session_len;
    fill_info(&e->info, o, e->gguf, &e->model, &e->kv_plan, n_blocks, session_len);
    return kvq_scheduler_new(&(kvq_scheduler_options){.plan = &e->kv_plan,
                                                      .pool = e->pool,
                                                      .prefix = e->prefix,
                                                      .session_len = session_len,
                                                      .max_batch_size = o->max_batch_size,
                                                      .max_prefill_token_num = w->chunk_tokens,
                                                      .scratch = e->scratch},
                             &e->scheduler, err);
}

static kvq_status check_vocabulary(const kvq_tokenizer *t, const kvq_model *m, const kvq_options *o, kvq_error *err) {
    int n = kvq_tokenizer_n_vocab(t), n_rows = m->hparams.vocab_size;
    if (n <= n_rows) return KVQ_OK;
    return kvq_fail(err, KVQ_BAD_FILE, "'%s': the tokenizer has %d tokens, the embedding only %d rows", o->model_path,
                    n, n_rows);
}

/* All that the file alone says, which is what kvq_check_file checks: no device, no weights. */
static kvq_status open_file(kvq_engine *e, kvq_error *err) {
    const kvq_options *o = &e->options;
    kvq_status status = kvq_gguf_open(o->model_path, &e->gguf, err);
    if (!status) status = kvq_tokenizer_open(e->gguf, &e->tokenizer, err);
    if (!status) status = open_template(e, err);
    if (!status) status = read_shapes(o, e->gguf, &e->model, &e->kv_plan, err);
    if (!status) status = check_vocabulary(e->tokenizer, &e->model, o, err);
    return status;
}

static kvq_status open_model(kvq_engine *e, workspace_plan *w, kvq_error *err) {
    const kvq_options *o = &e->options;
    kvq_free_memory left;
    /* the machine first: a GPU that is not usable is told at once */
    kvq_status status = kvq_machine_open(&e->machine, o->backend, o->isa, o->device, err);
    if (!status) status = open_file(e, err);
    if (!status) status = plan_sizes(o, &e->model, &e->kv_plan, &e->machine, w, &left, err);
    if (status) return status;
    kvq_model_done(&e->model); /* the shapes; now with the weights */
    return kvq_model_init(&e->model, e->gguf, &e->machine, o->progress, o->progress_user, err);
}

static size_t longest_piece_bytes(const kvq_tokenizer *t) {
    size_t longest = 0;
    for (int i = 0; i < kvq_tokenizer_n_vocab(t); i++) {
        size_t n = kvq_tokenizer_piece(t, i, true).n_bytes;
        if (n > longest) longest = n;
    }
    return longest;
}

kvq_status kvq_open(const kvq_options *options, kvq_engine **ret, kvq_error *err) {
    kvq_status status = check_options(options, err);
    if (status) return status;
    kvq_engine *e = calloc(1, sizeof *e);
    if (!e) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the engine");
    e->options = *options;
    e->events = calloc(KVQ_MAX_REQUESTS, sizeof *e->events);
    if (!e->events) status = kvq_fail(err, KVQ_NO_MEMORY, "no memory for the engine");
    workspace_plan w = {0};
    if (!status) status = open_model(e, &w, err);
    if (!status) {
        e->info.workspace_bytes = w.bytes;
        status = open_compute(e, &w, err);
    }
    if (!status) status = open_pool(e, &w, err);
    if (status) {
        kvq_close(e);
        return status;
    }
    fill_names(&e->info, e->gguf, e->model_name, sizeof e->model_name, e->file_type, sizeof e->file_type);
    e->info.backend = e->forward.ops->backend;
    e->info.isa = e->forward.ops->isa;
    kvq_machine_describe(&e->machine);
    fill_device(&e->info, &e->machine.info);
    e->info.passed_over = e->machine.passed_over.code ? e->machine.passed_over.text : NULL;
    e->info.threads = e->machine.backend->stream_threads(e->stream);
    e->overlap = kvq_machine_overlap(&e->machine);
    e->info.has_chat_template = e->chat_template != NULL;
    e->info.template_error = e->template_error[0] ? e->template_error : NULL;
    e->tools = (kvq_text_tools){.tokenizer = e->tokenizer,
                                .chat_template = e->chat_template,
                                .template_error = e->info.template_error,
                                .session_len = e->info.session_len,
                                .vocab_size = e->model.hparams.vocab_size,
                                .longest_piece = longest_piece_bytes(e->tokenizer)};
    /* the caller's strings are not needed any more */
    e->options.model_path = e->options.chat_template = e->options.cache_max_entry_count = NULL;
    *ret = e;
    return KVQ_OK;
}

static void free_list(kvq_active **list) {
    while (*list) {
        kvq_active *next = (*list)->next;
        kvq_active_free(*list);
        *list = next;
    }
}

void kvq_close(kvq_engine *e) {
    if (!e) return;
    /* what runs uses the memory that goes now; its error does not matter any more */
    if (e->stream) (void)e->machine.backend->fetch(e->stream, NULL, NULL, 0, NULL);
    for (kvq_active *a = e->requests; a; a = a->next)
        if (e->scheduler) kvq_scheduler_remove(e->scheduler, &a->seq);
    free_list(&e->requests);
    free_list(&e->done);
    kvq_scheduler_free(e->scheduler);
    kvq_prefix_free(e->prefix);
    kvq_pool_free(e->pool);
    kvq_sampler_free(e->sampler);
    kvq_forward_done(&e->forward);
    if (e->stream) e->machine.backend->stream_free(e->stream);
    kvq_machine_give(&e->machine, KVQ_MEMORY_DEVICE, (uint8_t *)e->k_ref, e->k_ref_bytes);
    kvq_machine_give(&e->machine, KVQ_MEMORY_DEVICE, e->scratch, e->scratch_bytes);
    kvq_kv_plan_done(&e->kv_plan);
    kvq_model_done(&e->model);
    kvq_machine_close(&e->machine);
    kvq_template_free(e->chat_template);
    kvq_tokenizer_free(e->tokenizer);
    kvq_gguf_close(e->gguf);
    kvq_sessions_done(&e->sessions);
    free(e->events);
    free(e);
}

const kvq_info *kvq_get_info(const kvq_engine *e) {
    return &e->info;
}

/* ---- submit and cancel
 * ---------------------------------------------------------------------------------------------------- */

/* Makes tokens and queues them. */
static kvq_status start(kvq_engine *e, kvq_active *a, kvq_error *err) {
    kvq_status status = kvq_active_prepare(a, &e->tools, err);
    if (status) return status;
    kvq_scheduler_enqueue(e->scheduler, &a->seq);
    e->stats.prompt_tokens += (uint64_t)a->seq.n_prompt;
    return KVQ_OK;
}

static kvq_status join_session(kvq_engine *e, kvq_active *a, const char *name, kvq_error *err) {
    if (strlen(name) > KVQ_MAX_SESSION_BYTES)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'session' has %zu bytes, allowed are %d", strlen(name),
                        KVQ_MAX_SESSION_BYTES);
    a->session = kvq_sessions_open(&e->sessions, name, KVQ_MAX_SESSIONS);
    return a->session ? KVQ_OK : kvq_fail(err, KVQ_BUSY, "all %d sessions are busy", KVQ_MAX_SESSIONS);
}

/* True when an older request of the same session has not ended. */
static bool waits_for_session(const kvq_engine *e, const kvq_active *a) {
    for (const kvq_active *b = e->requests; b && b != a; b = b->next)
        if (a->session && b->session == a->session) return true;
    return false;
}

kvq_status kvq_submit(kvq_engine *e, const kvq_request *r, uint64_t *ret_id, kvq_error *err) {
    if (e->n_requests >= KVQ_MAX_REQUESTS)
        return kvq_fail(err, KVQ_BUSY, "%d requests are queued, which is all this engine takes", e->n_requests);
    kvq_active *a;
    kvq_status status = kvq_active_new(r, &e->tools, &a, err);
    if (status) return status;
    a->submit_ns = now_ns();
    a->deadline_ns = r->deadline_ms ? a->submit_ns + r->deadline_ms * NS_A_MS : 0;
    kvq_active **link = &e->requests;
    if (r->session) status = join_session(e, a, r->session, err);
    if (!status && !waits_for_session(e, a)) {
        status = start(e, a, err);
    }
    if (status) {
        if (a->session) kvq_session_release(&e->sessions, a->session);
        kvq_active_free(a);
        return status;
    }
    kvq_sessions_trim(&e->sessions, KVQ_MAX_SESSIONS);
    while (*link) link = &(*link)->next;
    *link = a;
    e->n_requests++;
    a->id = ++e->last_id;
    *ret_id = a->id;
    return KVQ_OK;
}

kvq_status kvq_cancel(kvq_engine *e, uint64_t id) {
    for (kvq_active *a = e->requests; a; a = a->next)
        if (a->id == id) {
            a->cancelled = true;
            return KVQ_OK;
        }
    return KVQ_NOT_FOUND;
}

bool kvq_session_drop(kvq_engine *e, const char *session) {
    return kvq_sessions_drop(&e->sessions, session);
}

/* ---- events
 * ------------------------------------------------------------------------------------------------------------------ */

static int n_answer(const kvq_active *a) {
    return a->is_prepared ? a->seq.n_tokens - a->seq.n_prompt : 0;
}

static kvq_event *add_event(kvq_engine *e, kvq_active *a, kvq_event_kind kind, size_t n_bytes) {
    assert(e->n_events < KVQ_MAX_REQUESTS);
    kvq_event *event = &e->events[e->n_events++];
    a->text[n_bytes] = '\0';
    *event = (kvq_event){
        .kind = kind, .id = a->id, .user = a->user, .text = a->text, .n_bytes = n_bytes, .n_tokens = n_answer(a)};
    return event;
}

static void append_text(kvq_active *a, size_t *n_bytes, const char *text, size_t n) {
    assert(*n_bytes + n < a->text_capacity);
    memmove(a->text + *n_bytes, text, n); /* it may be a->text itself that comes back */
    *n_bytes += n;
}

/* Text of the token just sampled, as far as it is whole characters and no part of a stop string. True when one was
 * found. */
static bool feed_token(kvq_engine *e, kvq_active *a, int id, size_t *n_bytes) {
    const char *text;
    size_t n = kvq_detokenize(e->tokenizer, &a->detokenizer, id, false, a->text, a->text_capacity);
    bool stopped = kvq_stop_feed(a->stop, a->text, n, &text, &n);
    *n_bytes = 0;
    append_text(a, n_bytes, text, n);
    return stopped;
}

/* What was held back for a character's rest or a stop string that did not come. True when the rest, as U+FFFD,
 * completed one. */
static bool feed_end(kvq_active *a, size_t *n_bytes) {
    char rest[TEXT_REST_BYTES];
    const char *text;
    size_t n = kvq_detokenize_end(&a->detokenizer, rest, sizeof rest);
    bool stopped = kvq_stop_feed(a->stop, rest, n, &text, &n);
    append_text(a, n_bytes, text, n);
    if (stopped) return true;
    kvq_stop_finish(a->stop, &text, &n);
    append_text(a, n_bytes, text, n);
    return false;
}

/* The tokens drawn for it are nobody's. A step that draws for nobody else is waited for by nobody. */
static void discard_tokens(kvq_engine *e, const kvq_active *a) {
    for (int i = 0; i < e->n_drawn; i++)
        if (e->drawn[i].who == a) e->drawn[i].who = NULL;
    if (!e->is_under_way) return;
    launched_step *s = &e->launched[e->last];
    for (int row = 0; row < s->n; row++)
        if (s->rows[row].who == a) s->rows[row].who = NULL;
    while (s->n > 0 && !s->rows[s->n - 1].who) s->n--;
    e->is_under_way = s->n > 0;
}

static void unlink_request(kvq_engine *e, kvq_active *a) {
    discard_tokens(e, a);
    kvq_active **link = &e->requests;
    while (*link != a) link = &(*link)->next;
    *link = a->next;
    e->n_requests--;
    a->next = e->done; /* its text is borrowed until the next step */
    e->done = a;
}

static kvq_result make_result(const kvq_engine *e, const kvq_active *a, uint64_t n_blocks) {
    int64_t now = now_ns();
    return (kvq_result){.prompt_tokens = a->seq.n_prompt,
                        .completion_tokens = n_answer(a),
                        .cached_tokens = a->seq.n_cached,
                        .queue_ms = ms_between(a->submit_ns, a->admit_ns ? a->admit_ns : now),
                        .prefill_ms = ms_between(a->admit_ns, a->first_token_ns),
                        .ttft_ms = ms_between(a->submit_ns, a->first_token_ns),
                        .decode_ms = ms_between(a->first_token_ns, now),
                        .seed = a->sampling.seed,
                        .kv_bytes = n_blocks * e->kv_plan.kv.block_bytes,
                        .n_preemptions = a->seq.n_preemptions};
}

/* A session goes on from what was said, whichever way the answer ended; a request that said nothing leaves it as it
 * was. */
static void leave_session(kvq_engine *e, kvq_active *a) {
    if (!a->session) return;
    if (n_answer(a) > 0)
        kvq_session_extend(&e->sessions, a->session, a->seq.tokens, (size_t)a->seq.n_tokens, a->messages,
                           a->n_messages);
    else
        kvq_session_release(&e->sessions, a->session);
    a->session = NULL;
}

static void finish(kvq_engine *e, kvq_active *a, kvq_finish reason, size_t n_bytes, const kvq_result *result) {
    kvq_event *event = add_event(e, a, KVQ_EVENT_FINISHED, n_bytes);
    event->reason = reason;
    event->result = *result;
    kvq_scheduler_remove(e->scheduler, &a->seq);
    leave_session(e, a);
    unlink_request(e, a);
    e->stats.requests_finished++;
    e->stats.requests_cancelled += reason == KVQ_FINISH_CANCELLED;
}

static void fail(kvq_engine *e, kvq_active *a, const kvq_error *err) {
    kvq_event *event = add_event(e, a, KVQ_EVENT_FAILED, 0);
    event->reason = KVQ_FINISH_ERROR;
    event->result = make_result(e, a, a->seq.n_blocks);
    event->error = *err;
    kvq_scheduler_remove(e->scheduler, &a->seq);
    leave_session(e, a);
    unlink_request(e, a);
    e->stats.requests_failed++;
}

/* ---- the step
 * ---------------------------------------------------------------------------------------------------------------- */

/* Cancelled and late requests end here, before they cost another row; one that is under way is in vain. */
static void end_unwanted(kvq_engine *e) {
    int64_t now = now_ns();
    kvq_active *next;
    for (kvq_active *a = e->requests; a; a = next) {
        next = a->next;
        bool late = a->deadline_ns && now >= a->deadline_ns;
        if (!a->cancelled && !late) continue;
        size_t n_bytes = 0;
        if (n_answer(a) > 0) (void)feed_end(a, &n_bytes); /* it ends for the other reason */
        kvq_result result = make_result(e, a, a->seq.n_blocks);
        finish(e, a, a->cancelled ? KVQ_FINISH_CANCELLED : KVQ_FINISH_DEADLINE, n_bytes, &result);
    }
}

static void start_held(kvq_engine *e) {
    kvq_active *next;
    kvq_error err;
    for (kvq_active *a = e->requests; a; a = next) {
        next = a->next;
        if (!a->is_prepared && !waits_for_session(e, a) && start(e, a, &err)) fail(e, a, &err);
    }
}

static kvq_status run_batch(kvq_engine *e, const kvq_batch *batch, kvq_error *err) {
    kvq_forward_run(&e->forward, batch);
    return e->machine.backend->stream_error(e->stream, err);
}

static bool add_to_job(kvq_engine *e, const kvq_active *a) {
    const kvq_sequence *seq = &a->seq;
    int index = n_answer(a);
    return kvq_sampler_add(e->sampler, &a->sampling, seq->tokens, seq->n_prompt, seq->tokens + seq->n_prompt, index,
                           index);
}

/* A token for each row of the step, whose logits are made: in one job, or in more where penalties name so many tokens
 * that they do not fit. */
static void draw_tokens(kvq_engine *e, const launched_step *s) {
    for (int begin = 0, end = 0; begin < s->n; begin = end) {
        kvq_sampler_begin(e->sampler);
        while (end < s->n && add_to_job(e, s->rows[end].who)) end++;
        kvq_forward_sample(&e->forward, begin, kvq_sampler_job(e->sampler));
    }
}

/* Logits of the sequences whose tokens are all read, then a token for each. */
static void sample_all(kvq_engine *e, const kvq_batch *batch, const kvq_scheduled *list, int64_t launch_ns) {
    int rows[KVQ_MAX_REQUESTS];
    e->last = (e->last + 1) % KVQ_BACKEND_FETCHES;
    launched_step *s = &e->launched[e->last];
    s->n = 0;
    s->launch_ns = launch_ns;
    for (int i = 0; i < batch->n_seqs; i++) {
        if (list[i].logit_row < 0) continue;
        rows[s->n] = list[i].logit_row;
        s->rows[s->n].who = (kvq_active *)list[i].seq;
        s->rows[s->n++].n_blocks = list[i].seq->n_blocks;
    }
    e->is_under_way = s->n > 0;
    if (!e->is_under_way) return;
    kvq_forward_head(&e->forward, rows, s->n);
    draw_tokens(e, s);
    kvq_forward_bring(&e->forward, s->n, e->last);
}

/* Nothing can run although something waits: no plan promised that, so it is our mistake; one request pays, the engine
 * goes on. */
static void fail_stuck(kvq_engine *e) {
    kvq_error err;
    for (kvq_active *a = e->requests; a; a = a->next)
        if (a->seq.state == KVQ_SEQUENCE_WAITING) {
            (void)kvq_fail(&err, KVQ_INTERNAL, "a sequence of %d tokens cannot get blocks although the pool is idle",
                           a->seq.n_tokens);
            fail(e, a, &err);
            return;
        }
}

/* Plans a step and asks the machine for it; its tokens are under way then, if it draws any. What it reads and writes is
 * settled: the machine does what it is asked in order, so blocks that go back now are written by later steps only. */
static kvq_status launch(kvq_engine *e, kvq_error *err) {
    const kvq_batch *batch;
    const kvq_scheduled *list;
    int64_t begin_ns = now_ns();
    if (!kvq_scheduler_plan(e->scheduler, &batch, &list)) {
        fail_stuck(e);
        return KVQ_OK;
    }
    for (int i = 0; i < batch->n_seqs; i++) {
        kvq_active *a = (kvq_active *)list[i].seq;
        if (!a->admit_ns) a->admit_ns = begin_ns;
        if (a->seq.n_computed < a->seq.n_prompt) e->stats.prefill_tokens += (uint64_t)a->seq.n_rows;
    }
    e->stats.steps++;
    kvq_status status = run_batch(e, batch, err);
    if (status) return status;
    kvq_scheduler_commit(e->scheduler);
    sample_all(e, batch, list, begin_ns);
    if (!e->is_under_way) e->stats.step_ms_last = ms_between(begin_ns, now_ns());
    return KVQ_OK;
}

/* Whether the step behind the one under way can be planned before that one's tokens are known: it is one row of
 * everyone who runs, so no prompt has to wait for it; nobody ends by its length; and no draw depends on the ids
 * themselves. */
static bool next_step_is_known(const kvq_engine *e) {
    const launched_step *s = &e->launched[e->last];
    if (e->overlap < KVQ_OVERLAP_LAUNCH || !kvq_scheduler_goes_on(e->scheduler)) return false;
    for (int row = 0; row < s->n; row++) {
        const kvq_active *a = s->rows[row].who;
        if (a && (n_answer(a) + 1 >= a->max_tokens || kvq_sampling_has_penalties(&a->sampling))) return false;
    }
    return true;
}

/* Launches it: every sequence has one more token, which the device knows as row -1 - id of the step before. */
static void launch_ahead(kvq_engine *e) {
    const launched_step *s = &e->launched[e->last];
    for (int row = 0; row < s->n; row++) {
        kvq_active *a = s->rows[row].who;
        if (a) a->seq.tokens[a->seq.n_tokens++] = -1 - row;
    }
    e->stats.steps_ahead++;
    (void)launch(e, NULL);
}

/* The next token of a sequence; says of it what the plan of the next step depends on. */
static void take_token(kvq_engine *e, kvq_active *a, int id, uint64_t n_blocks) {
    kvq_sequence *seq = &a->seq;
    seq->tokens[seq->n_tokens++] = id;
    e->stats.generation_tokens++;
    if (!a->first_token_ns) a->first_token_ns = now_ns();
    drawn_token *t = &e->drawn[e->n_drawn++];
    *t = (drawn_token){.who = a, .id = id, .result = make_result(e, a, n_blocks)};
    t->is_end = !a->ignore_end && kvq_tokenizer_is_end(e->tokenizer, id);
    t->is_last = t->is_end || n_answer(a) >= a->max_tokens;
    if (t->is_last) kvq_scheduler_remove(e->scheduler, seq);
}

/* Waits for a step. What launch_ahead put behind the sequences goes. */
static kvq_status take_tokens(kvq_engine *e, int which, kvq_error *err) {
    const launched_step *s = &e->launched[which];
    const int *ids;
    kvq_status status = kvq_forward_wait(&e->forward, which, &ids, err);
    e->n_drawn = 0;
    for (int row = 0; row < s->n; row++) {
        kvq_active *a = s->rows[row].who;
        if (a && a->seq.tokens[a->seq.n_tokens - 1] < 0) a->seq.n_tokens--;
        if (a && !status) take_token(e, a, ids[row], s->rows[row].n_blocks);
    }
    int64_t now = now_ns(), begin_ns = s->launch_ns > e->taken_ns ? s->launch_ns : e->taken_ns;
    e->taken_ns = now;
    e->stats.step_ms_last = ms_between(begin_ns, now);
    return status;
}

/* The token's text, and what comes of it. A stop string ends the answer here, when a row for its next token may be
 * under way; an end token, or the last one, ended it before. */
static void tell_token(kvq_engine *e, drawn_token *t) {
    kvq_active *a = t->who;
    size_t n_bytes = 0;
    if (!t->is_end && feed_token(e, a, t->id, &n_bytes))
        finish(e, a, KVQ_FINISH_STOP, n_bytes, &t->result);
    else if (t->is_last) {
        bool stopped = feed_end(a, &n_bytes) || t->is_end;
        t->result.truncated = !stopped && a->cut_by_context;
        finish(e, a, stopped ? KVQ_FINISH_STOP : KVQ_FINISH_LENGTH, n_bytes, &t->result);
    } else if (n_bytes > 0)
        (void)add_event(e, a, KVQ_EVENT_TEXT, n_bytes);
}

static void tell_tokens(kvq_engine *e) {
    for (int i = 0; i < e->n_drawn; i++)
        if (e->drawn[i].who) tell_token(e, &e->drawn[i]);
    e->n_drawn = 0;
}

/* Takes and tells the tokens of the step under way, and launches the next one as early as it can. A launch that fails:
 * the machine's error stays, and the next call tells it, when these tokens are told. */
static kvq_status end_step(kvq_engine *e, kvq_error *err) {
    int which = e->last;
    bool is_known = next_step_is_known(e);
    e->is_under_way = false;
    if (is_known) launch_ahead(e);
    kvq_status status = take_tokens(e, which, err);
    if (!status && !is_known && e->overlap >= KVQ_OVERLAP_TELL) (void)launch(e, NULL);
    tell_tokens(e);
    return status;
}

kvq_status kvq_step(kvq_engine *e, const kvq_event **ret_events, size_t *ret_n, kvq_error *err) {
    kvq_status status = KVQ_OK;
    free_list(&e->done);
    e->n_events = 0;
    end_unwanted(e);
    start_held(e);
    if (!e->is_under_way) status = launch(e, err);
    if (!status && e->is_under_way) status = end_step(e, err);
    *ret_events = e->events;
    *ret_n = e->n_events;
    return status;
}

void kvq_wait(kvq_engine *e) {
    const int *ids;
    if (e->is_under_way && !next_step_is_known(e))
        (void)kvq_forward_wait(&e->forward, e->last, &ids, NULL); /* the step's error, which is told there */
}

bool kvq_is_active(const kvq_engine *e) {
    return e->requests != NULL;
}

void kvq_get_stats(const kvq_engine *e, kvq_stats *ret) {
    kvq_scheduler_stats s;
    kvq_scheduler_get_stats(e->scheduler, &s);
    *ret = e->stats;
    ret->n_blocks = kvq_pool_n_blocks(e->pool);
    ret->blocks_used = kvq_pool_n_live(e->pool);
    ret->blocks_cached = kvq_pool_n_cached(e->pool);
    ret->requests_running = s.n_running;
    ret->requests_waiting = e->n_requests - s.n_running;
    ret->preemptions = s.preemptions;
    ret->prefix_queries = s.prefix_queries;
    ret->prefix_hits = s.prefix_hits;
    ret->prefix_query_tokens = s.prefix_query_tokens;
    ret->prefix_hit_tokens = s.prefix_hit_tokens;
    ret->sessions = e->sessions.n;
}

const char *kvq_finish_name(kvq_finish f) {
    static const char *const names[] = {"none", "stop", "length", "cancelled", "deadline", "error"};
    return (unsigned)f < sizeof names / sizeof names[0] ? names[f] : "?";
}

/* ---- tools
 * ------------------------------------------------------------------------------------------------------------------ */

kvq_status kvq_tokenize(const kvq_engine *e, const char *text, size_t n_bytes, bool bos, bool special, int **ret_ids,
                        size_t *ret_n, kvq_error *err) {
    return kvq_tokenizer_encode(e->tokenizer, text, n_bytes,
                                (kvq_encode_options){.add_special = bos, .parse_special = special}, ret_ids, ret_n,
                                err);
}

/* Logits of the rows of the batch just run from `from` on, as many at a time as there is room for. */
static kvq_status visit_rows(kvq_engine *e, const kvq_batch *batch, size_t first_pos, int from,
                             int (*row)(void *user, size_t pos, const float *logits), void *user, kvq_error *err) {
    int rows[KVQ_MAX_REQUESTS];
    for (int begin = from; begin < batch->n_rows; begin += e->options.max_batch_size) {
        int n = min_int(batch->n_rows - begin, e->options.max_batch_size);
        for (int i = 0; i < n; i++) rows[i] = begin + i;
        kvq_forward_head(&e->forward, rows, n);
        kvq_status status = kvq_forward_fetch(&e->forward, n, err);
        if (status) return status;
        for (int i = 0; i < n; i++)
            if (row(user, first_pos + (size_t)(begin + i),
                    e->forward.host_logits + (size_t)i * (size_t)e->model.hparams.vocab_size))
                return kvq_fail(err, KVQ_CANCELLED, "cancelled");
    }
    return KVQ_OK;
}

kvq_status kvq_logits(kvq_engine *e, const int *ids, size_t n, size_t first,
                      int (*row)(void *user, size_t pos, const float *logits), void *user, kvq_error *err) {
    if (e->requests) return kvq_fail(err, KVQ_BUSY, "logits need an idle engine");
    if (n == 0 || n > (size_t)e->info.session_len)
        return kvq_fail(err, KVQ_NO_SPACE, "%zu tokens are given, the context holds 1 to %d", n, e->info.session_len);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= e->info.vocab_size)
            return kvq_fail(err, KVQ_BAD_ARGUMENT, "token %d is outside the vocabulary of %d", ids[i],
                            e->info.vocab_size);
    kvq_sequence seq = {.tokens = (int *)ids, .n_tokens = (int)n, .n_prompt = (int)n, .client = "", .is_private = true};
    kvq_scheduler_enqueue(e->scheduler, &seq);
    kvq_status status = KVQ_OK;
    const kvq_batch *batch;
    const kvq_scheduled *list;
    while (!status && seq.n_computed < seq.n_tokens) {
        if (!kvq_scheduler_plan(e->scheduler, &batch, &list)) {
            status =
                kvq_fail(err, KVQ_INTERNAL, "a sequence of %zu tokens cannot get blocks although the pool is idle", n);
            break;
        }
        size_t first_pos = (size_t)seq.n_computed;
        status = run_batch(e, batch, err);
        kvq_scheduler_commit(e->scheduler);
        int from = first > first_pos ? min_int((int)(first - first_pos), batch->n_rows) : 0;
        if (!status) status = visit_rows(e, batch, first_pos, from, row, user, err);
    }
    kvq_scheduler_remove(e->scheduler, &seq);
    return status;
}

struct kvq_plan {
    kvq_info info;
    char model_name[256], file_type[16];
    kvq_device_info device;
    kvq_error passed_over;
};

kvq_status kvq_plan_open(const kvq_options *o, kvq_plan **ret, kvq_error *err) {
    kvq_gguf *g = NULL;
    kvq_model m = {0};
    kvq_kv_plan kv = {0};
    kvq_machine machine = {0};
    kvq_free_memory free_memory = {0};
    uint64_t n_blocks = 0;
    int session_len = 0;
    kvq_plan *plan = calloc(1, sizeof *plan);
    kvq_status status = plan ? check_options(o, err) : kvq_fail(err, KVQ_NO_MEMORY, "no memory for the plan");
    if (!status) status = kvq_machine_open(&machine, o->backend, o->isa, o->device, err);
    if (!status) status = kvq_gguf_open(o->model_path, &g, err);
    workspace_plan w = {0};
    if (!status) status = read_shapes(o, g, &m, &kv, err);
    if (!status) status = plan_sizes(o, &m, &kv, &machine, &w, &free_memory, err);
    if (!status) {
        plan->info.workspace_bytes = w.bytes;
        status = kvq_plan_pool_bytes(&kv, o->cache_max_entry_count, free_memory, w.session_guess, o->max_batch_size,
                                     &n_blocks, err);
        if (!status)
            status = kvq_plan_session_len(&kv, n_blocks, o->session_len, m.hparams.context_len, w.chunk_tokens,
                                          &session_len, err);
    }
    if (!status) {
        fill_info(&plan->info, o, g, &m, &kv, n_blocks, session_len);
        fill_names(&plan->info, g, plan->model_name, sizeof plan->model_name, plan->file_type, sizeof plan->file_type);
        plan->info.backend = machine.backend->name;
        plan->info.isa = machine.backend->ops(machine.device)->isa;
        kvq_machine_describe(&machine);
        plan->device = machine.info;
        fill_device(&plan->info, &plan->device);
        plan->info.threads = o->threads;
        plan->passed_over = machine.passed_over;
        plan->info.passed_over = plan->passed_over.code ? plan->passed_over.text : NULL;
        *ret = plan;
    }
    kvq_kv_plan_done(&kv);
    kvq_model_done(&m);
    kvq_gguf_close(g);
    kvq_machine_close(&machine);
    if (status) kvq_plan_close(plan);
    return status;
}

const kvq_info *kvq_plan_info(const kvq_plan *p) {
    return &p->info;
}
void kvq_plan_close(kvq_plan *p) {
    free(p);
}

kvq_status kvq_check_file(const kvq_options *o, kvq_error *err) {
    kvq_status status = check_options(o, err);
    if (status) return status;
    kvq_engine *e = calloc(1, sizeof *e);
    if (!e) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the engine");
    e->options = *o;
    status = open_file(e, err);
    if (!status && e->template_error[0])
        status = kvq_fail(err, KVQ_UNSUPPORTED, "'%s': its chat template cannot be used: %s", o->model_path,
                          e->template_error);
    kvq_close(e);
    return status;
}
