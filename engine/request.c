/* request.c: kvq_request -> checked copy -> tokens. Called by engine.c. The one place where a chat template is applied.
 */
#include "request.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hash.h"

/* Stands for the last answer when a session's template is rendered: what comes behind it is what the new turn adds.
 * Drawn for each rendering, so that no message can contain it; nothing that a template trims. */
typedef struct answer_mark {
    char text[40];
} answer_mark;

#define TEXT_SLACK_BYTES 64 /* detokenizer's kept bytes, replacement characters, the end */

/* ---- checks and copies
 * -------------------------------------------------------------------------------------------------- */

static bool copy_text(char **ret, const char *text) {
    if (!text) return true;
    *ret = strdup(text);
    return *ret != NULL;
}

/* System message and messages (or the one user turn) as one list, each text owned by the list. */
static bool copy_messages(kvq_active *a, const kvq_request *r) {
    size_t n = r->messages ? r->n_messages : 1;
    a->messages = calloc(n + 1, sizeof *a->messages);
    if (!a->messages) return false;
    if (r->system && r->system[0]) a->messages[a->n_messages++] = (kvq_template_message){"system", r->system};
    for (size_t i = 0; i < n; i++)
        a->messages[a->n_messages++] = r->messages ? (kvq_template_message){r->messages[i].role, r->messages[i].content}
                                                   : (kvq_template_message){"user", r->prompt};
    for (size_t i = 0; i < a->n_messages; i++) {
        kvq_template_message *m = &a->messages[i];
        *m = (kvq_template_message){strdup(m->role), strdup(m->content)};
        if (m->role && m->content) continue;
        free((char *)m->role);
        free((char *)m->content);
        a->n_messages = i; /* the rest is the caller's */
        return false;
    }
    return true;
}

static kvq_status check_input(const kvq_request *r, const kvq_text_tools *tools, kvq_error *err) {
    int n_inputs = (r->prompt != NULL) + (r->messages != NULL) + (r->ids != NULL);
    if (n_inputs != 1)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "exactly one of 'prompt', 'messages', 'ids' must be given");
    if (r->messages && r->n_messages == 0) return kvq_fail(err, KVQ_BAD_ARGUMENT, "'messages' is empty");
    if (r->messages && r->raw) return kvq_fail(err, KVQ_BAD_ARGUMENT, "'raw' goes with 'prompt', not with 'messages'");
    for (size_t i = 0; i < r->n_messages && r->messages; i++) {
        if (!r->messages[i].role || !r->messages[i].content)
            return kvq_fail(err, KVQ_BAD_ARGUMENT, "'messages' item %zu lacks role or content", i);
        if (strlen(r->messages[i].role) > KVQ_MAX_ROLE_BYTES)
            return kvq_fail(err, KVQ_BAD_ARGUMENT, "'messages' item %zu: its role has %zu bytes, allowed are %d", i,
                            strlen(r->messages[i].role), KVQ_MAX_ROLE_BYTES);
    }
    for (size_t i = 0; i < r->n_ids && r->ids; i++)
        if (r->ids[i] < 0 || r->ids[i] >= tools->vocab_size)
            return kvq_fail(err, KVQ_BAD_ARGUMENT, "'ids' item %zu is %d, the vocabulary has %d tokens", i, r->ids[i],
                            tools->vocab_size);
    if (!r->ids && !r->raw && !tools->chat_template)
        return kvq_fail(err, KVQ_UNSUPPORTED, "the model has no usable chat template (%s); send raw prompts",
                        tools->template_error ? tools->template_error : "its file has none");
    if (r->priority < 0 || r->priority > 9)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'priority' is %d, allowed is 0 to 9", r->priority);
    if (r->max_tokens < 0)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'max_tokens' is %d, allowed is 0 and up", r->max_tokens);
    if (r->has_seed && r->seed > KVQ_MAX_SEED)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'seed' is %" PRIu64 ", allowed is 0 to %" PRId64, r->seed,
                        KVQ_MAX_SEED);
    if (r->deadline_ms < 0)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'deadline_ms' is %" PRId64 ", allowed is 0 and up", r->deadline_ms);
    return KVQ_OK;
}

/* A seed that was not given is drawn here, once, so that the answer can be told how to come again. */
static uint64_t draw_seed(void) {
    return kvq_random() >> 11; /* 53 bits: any JSON reader keeps them */
}

static kvq_status copy_sampling(kvq_active *a, const kvq_request *r, const kvq_text_tools *tools, kvq_error *err) {
    if (r->n_logit_bias) {
        a->logit_bias = calloc(r->n_logit_bias, sizeof *a->logit_bias);
        if (!a->logit_bias) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the request");
        for (size_t i = 0; i < r->n_logit_bias; i++)
            a->logit_bias[i] = (kvq_logit_bias){r->logit_bias[i].id, r->logit_bias[i].bias};
    }
    a->sampling = (kvq_sampling){.temperature = r->temperature,
                                 .top_p = r->top_p,
                                 .min_p = r->min_p,
                                 .top_k = r->top_k,
                                 .repetition_penalty = r->repetition_penalty,
                                 .presence_penalty = r->presence_penalty,
                                 .frequency_penalty = r->frequency_penalty,
                                 .seed = r->has_seed ? r->seed : draw_seed(),
                                 .logit_bias = a->logit_bias,
                                 .n_logit_bias = (int)r->n_logit_bias};
    return kvq_sampling_check(&a->sampling, tools->vocab_size, err);
}

kvq_status kvq_active_new(const kvq_request *r, const kvq_text_tools *tools, kvq_active **ret, kvq_error *err) {
    kvq_status status = check_input(r, tools, err);
    if (status) return status;
    kvq_active *a = calloc(1, sizeof *a);
    if (!a) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the request");
    a->user = r->user;
    a->raw = r->raw;
    a->ignore_end = r->ignore_end;
    a->max_tokens = r->max_tokens;
    a->seq.priority = r->priority;
    bool copied = copy_text(&a->client, r->client ? r->client : "") && copy_text(&a->extra_json, r->extra_json);
    a->seq.client = a->client;
    if (r->ids) {
        a->seq.tokens = calloc(r->n_ids ? r->n_ids : 1, sizeof(int));
        copied = copied && a->seq.tokens;
        if (copied && r->n_ids) memcpy(a->seq.tokens, r->ids, r->n_ids * sizeof(int));
        a->seq.n_tokens = (int)r->n_ids;
    } else if (r->raw)
        copied = copied && copy_text(&a->prompt, r->prompt);
    else
        copied = copied && copy_messages(a, r);
    if (!copied) status = kvq_fail(err, KVQ_NO_MEMORY, "no memory for the request");
    if (!status) status = copy_sampling(a, r, tools, err);
    if (!status) status = kvq_stop_new(r->stop, (int)r->n_stop, &a->stop, err);

    size_t longest_stop = 0;
    for (size_t i = 0; i < r->n_stop; i++)
        if (strlen(r->stop[i]) > longest_stop) longest_stop = strlen(r->stop[i]);
    /* a step's text: what the stop matcher held, the piece (every byte of it may become U+FFFD), what the detokenizer
     * kept */
    a->text_capacity = longest_stop + 3 * tools->longest_piece + TEXT_SLACK_BYTES;
    a->text = malloc(a->text_capacity);
    if (!status && !a->text) status = kvq_fail(err, KVQ_NO_MEMORY, "no memory for the request");
    if (status) {
        kvq_active_free(a);
        return status;
    }
    a->text[0] = '\0';
    *ret = a;
    return KVQ_OK;
}

static void free_messages(kvq_active *a) {
    for (size_t i = 0; i < a->n_messages; i++) {
        free((char *)a->messages[i].role);
        free((char *)a->messages[i].content);
    }
    free(a->messages);
    a->messages = NULL;
    a->n_messages = 0;
}

void kvq_active_free(kvq_active *a) {
    if (!a) return;
    free_messages(a);
    free(a->prompt);
    free(a->extra_json);
    free(a->client);
    free(a->logit_bias);
    free(a->seq.tokens);
    free(a->text);
    kvq_stop_free(a->stop);
    free(a);
}

/* ---- input -> tokens
 * ------------------------------------------------------------------------------------------------------- */

static char *vocabulary_text(kvq_text text) {
    return strndup(text.bytes ? text.bytes : "", text.n_bytes);
}

/* Renders n messages; bos and eos as the vocabulary writes them. */
static kvq_status render(const kvq_active *a, const kvq_text_tools *tools, const kvq_template_message *messages,
                         size_t n, char **ret, size_t *ret_n, kvq_error *err) {
    char *bos = vocabulary_text(kvq_tokenizer_text(tools->tokenizer, kvq_tokenizer_bos(tools->tokenizer)));
    char *eos = vocabulary_text(kvq_tokenizer_text(tools->tokenizer, kvq_tokenizer_eos(tools->tokenizer)));
    kvq_template_input input = {.messages = messages,
                                .n_messages = n,
                                .add_generation_prompt = true,
                                .bos_token = bos,
                                .eos_token = eos,
                                .extra_json = a->extra_json,
                                .now_s = (int64_t)time(NULL)};
    kvq_status status = bos && eos ? kvq_template_render(tools->chat_template, &input, ret, ret_n, err)
                                   : kvq_fail(err, KVQ_NO_MEMORY, "no memory for the prompt");
    free(bos);
    free(eos);
    return status;
}

/* The last place of the mark in text, or NULL. */
static const char *find_last_mark(const char *text, const answer_mark *mark) {
    const char *found = NULL;
    for (const char *p = text; (p = strstr(p, mark->text)); p++) found = p;
    return found;
}

static answer_mark draw_mark(void) {
    answer_mark mark;
    snprintf(mark.text, sizeof mark.text, "[[answer:%016" PRIx64 "]]", kvq_random());
    return mark;
}

/* What the new turns of a session add behind its last answer: everything is rendered with a mark in place of what was
 * said, and what follows the last mark counts. A system message of the request is left out: the session has its own. */
static kvq_status render_continuation(const kvq_active *a, const kvq_text_tools *tools, char **ret, size_t *ret_n,
                                      kvq_error *err) {
    const kvq_session *session = a->session;
    kvq_template_message *all = calloc(session->n_roles + a->n_messages, sizeof *all);
    if (!all) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the session's messages");
    size_t n = 0;
    answer_mark mark = draw_mark();
    for (size_t i = 0; i < session->n_roles; i++) all[n++] = (kvq_template_message){session->roles[i], mark.text};
    for (size_t i = 0; i < a->n_messages; i++)
        if (i > 0 || strcmp(a->messages[i].role, "system") != 0) all[n++] = a->messages[i];
    char *text = NULL;
    size_t n_bytes = 0;
    kvq_status status = render(a, tools, all, n, &text, &n_bytes, err);
    free(all);
    if (status) return status;
    const char *last = find_last_mark(text, &mark);
    if (!last) {
        free(text);
        return kvq_fail(err, KVQ_UNSUPPORTED,
                        "the model's chat template drops earlier answers, so sessions cannot go on");
    }
    const char *rest = last + strlen(mark.text);
    n_bytes = strlen(rest);
    memmove(text, rest, n_bytes + 1);
    *ret = text;
    *ret_n = n_bytes;
    return KVQ_OK;
}

/* When the answer ended with its end token, the template's own closing of the turn is there already, and with it the
 * white space that some (llama 2's) write before the token. */
static size_t closing_bytes(const kvq_active *a, const kvq_text_tools *tools, const char *text, size_t n_bytes) {
    int last = a->session->ids[a->session->n_ids - 1];
    if (!kvq_tokenizer_is_end(tools->tokenizer, last)) return 0;
    kvq_text end = kvq_tokenizer_text(tools->tokenizer, last);
    size_t n_space = strspn(text, " \n");
    bool same = end.n_bytes <= n_bytes - n_space && memcmp(end.bytes, text + n_space, end.n_bytes) == 0;
    return same ? n_space + end.n_bytes : 0;
}

/* The text of the request as the model shall read it. */
static kvq_status make_text(const kvq_active *a, const kvq_text_tools *tools, bool goes_on, char **ret, size_t *ret_n,
                            kvq_error *err) {
    if (a->raw) {
        *ret = strdup(a->prompt);
        *ret_n = strlen(a->prompt);
        return *ret ? KVQ_OK : kvq_fail(err, KVQ_NO_MEMORY, "no memory for the prompt");
    }
    if (goes_on) return render_continuation(a, tools, ret, ret_n, err);
    return render(a, tools, a->messages, a->n_messages, ret, ret_n, err);
}

static kvq_status encode(const kvq_active *a, const kvq_text_tools *tools, bool goes_on, int **ret_ids, size_t *ret_n,
                         kvq_error *err) {
    char *text = NULL;
    size_t n_bytes = 0;
    kvq_status status = make_text(a, tools, goes_on, &text, &n_bytes, err);
    if (status) return status;
    size_t skip = goes_on && !a->raw ? closing_bytes(a, tools, text, n_bytes) : 0;
    kvq_encode_options options = {.add_special = a->raw && !goes_on, .parse_special = true};
    if (goes_on) options.goes_on = kvq_tokenizer_is_text(tools->tokenizer, a->session->ids[a->session->n_ids - 1]);
    status = kvq_tokenizer_encode(tools->tokenizer, text + skip, n_bytes - skip, options, ret_ids, ret_n, err);
    free(text);
    return status;
}

/* Session's ids (or BOS, where the file asks for one and the template wrote none), then the new ones. */
static kvq_status join_tokens(kvq_active *a, const kvq_text_tools *tools, bool goes_on, const int *ids, size_t n_ids,
                              kvq_error *err) {
    int bos = kvq_tokenizer_bos(tools->tokenizer);
    bool adds_bos =
        !goes_on && !a->raw && bos >= 0 && kvq_tokenizer_adds_bos(tools->tokenizer) && (n_ids == 0 || ids[0] != bos);
    size_t n_before = goes_on ? a->session->n_ids : adds_bos;
    if (n_ids == 0) return kvq_fail(err, KVQ_BAD_ARGUMENT, "the prompt is empty");
    if (n_before + n_ids >= (size_t)tools->session_len)
        return kvq_fail(err, KVQ_NO_SPACE,
                        "the prompt has %zu tokens%s, the context holds %d with an answer of one token",
                        n_before + n_ids, goes_on ? " with its session" : "", tools->session_len);
    int *tokens = malloc((n_before + n_ids) * sizeof *tokens);
    if (!tokens) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the prompt's tokens");
    if (goes_on)
        memcpy(tokens, a->session->ids, n_before * sizeof *tokens);
    else if (adds_bos)
        tokens[0] = bos;
    memcpy(tokens + n_before, ids, n_ids * sizeof *tokens);
    free(a->seq.tokens);
    a->seq.tokens = tokens;
    a->seq.n_tokens = (int)(n_before + n_ids);
    return KVQ_OK;
}

/* Room for the whole answer behind the prompt, so that a token is never without a place. */
static kvq_status make_room(kvq_active *a, const kvq_text_tools *tools, kvq_error *err) {
    int n_prompt = a->seq.n_tokens, most = tools->session_len - n_prompt;
    if (n_prompt < 1) return kvq_fail(err, KVQ_BAD_ARGUMENT, "the prompt is empty");
    if (most < 1)
        return kvq_fail(err, KVQ_NO_SPACE, "the prompt has %d tokens, the context holds %d with an answer of one token",
                        n_prompt, tools->session_len);
    a->cut_by_context = a->max_tokens == 0 || a->max_tokens > most;
    if (a->cut_by_context) a->max_tokens = most;
    int *tokens = realloc(a->seq.tokens, (size_t)(n_prompt + a->max_tokens) * sizeof *tokens);
    if (!tokens) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the answer's tokens");
    a->seq.tokens = tokens;
    a->seq.n_prompt = n_prompt;
    return KVQ_OK;
}

kvq_status kvq_active_prepare(kvq_active *a, const kvq_text_tools *tools, kvq_error *err) {
    kvq_status status = KVQ_OK;
    bool goes_on = a->session && a->session->ids;
    bool has_ids = !a->raw && !a->messages; /* given as ids */
    int *ids = NULL;
    size_t n_ids = 0;
    if (has_ids && goes_on) status = join_tokens(a, tools, true, a->seq.tokens, (size_t)a->seq.n_tokens, err);
    if (!has_ids) {
        status = encode(a, tools, goes_on, &ids, &n_ids, err);
        if (!status) status = join_tokens(a, tools, goes_on, ids, n_ids, err);
        free(ids);
    }
    if (!status) status = make_room(a, tools, err);
    if (status) return status;
    /* a raw answer is the rest of a text, in which its first space counts; any other is a message of its own */
    a->detokenizer.started =
        (a->raw || has_ids) && kvq_tokenizer_is_text(tools->tokenizer, a->seq.tokens[a->seq.n_prompt - 1]);
    free(a->prompt);
    a->prompt = NULL;
    a->is_prepared = true;
    return KVQ_OK;
}
