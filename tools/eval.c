/* eval.c: `kvqctl eval`: what a KV policy costs in truth. The text's ids are cut into chunks; the f16 cache runs each
 * chunk first and its logits are kept, then every policy runs the same chunk and is compared row by row:
 *
 *   ppl        exp of the mean of -log q(next token)
 *   mean_kld   mean of the KL divergence sum p (log p - log q), p of the f16 cache, natural logarithm
 *   same_top   share of rows whose likeliest token is the same
 *
 * Scored are the rows of the second half of a chunk that have a next token, as llama.cpp's perplexity does. All engines
 * are open at once, so memory is that of one model per policy; of the logits only one chunk is kept. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../engine/gguf.h"
#include "../engine/tokenizer.h"
#include "command.h"
#include "engine_options.h"
#include "file.h"
#include "interrupt.h"
#include "progress.h"
#include "report.h"

typedef struct eval_values {
    engine_options engine;
    const char *file, *output;
    int chunk_tokens, chunks;
    option_texts policies;
} eval_values;

#define AT(member) offsetof(eval_values, member)

/* clang-format off */
static const option options[] = {
    ENGINE_OPTION_MODEL(eval_values),
    {'f', "file",   OPTION_TEXT,  AT(file),         "FILE",   NULL,    0, 0, NULL, true,  "The text; - is standard input."},
    {'c', "chunk",  OPTION_INT,   AT(chunk_tokens), "N",      "1024",  16, 131072, NULL, false, "Tokens a chunk; the second half of each is scored."},
    { 0,  "chunks", OPTION_INT,   AT(chunks),       "N",      "0",     0, 1048576, NULL, false, "Chunks at most; 0 is all of the text."},
    { 0,  "kv",     OPTION_NAMES, AT(policies),     "LIST",   "0,8,4", 0, 0, POLICY_NAMES, false, "KV policies to compare with 0, the f16 cache."},
    {'o', "output", OPTION_NAME,  AT(output),       "FORMAT", "table", 0, 0, "table|json", false, "table, or json for programs."},
    ENGINE_OPTIONS(eval_values),
};
/* clang-format on */

/* Sums over all scored rows of one policy. */
typedef struct score {
    const char *policy;
    kvq_engine *engine;
    double bits_per_value, sum_nll, sum_kld;
    uint64_t n_rows, n_same_top;
} score;

typedef struct eval {
    const eval_values *values;
    int *ids;
    size_t n_ids;
    int bos;                   /* -1: not put first */
    int vocab_size, first_row; /* rows first_row .. chunk_tokens - 2 are scored */
    int *chunk;
    float *truth;       /* [scored rows, vocab_size] logits of the f16 cache */
    double *truth_norm; /* [scored rows] log of the sum of their exponentials */
    score truth_score;  /* of the f16 engine */
    score *scores;      /* one per policy asked for */
    int n_scores;
    progress bar;
    double rows_done, rows_all;
} eval;

/* ---- one row -------------------------------------------------------------------------------------------------------
 */

static int likeliest(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* log(sum exp(x)), in doubles. */
static double log_sum_exp(const float *x, int n) {
    double max = (double)x[likeliest(x, n)], sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - max);
    return max + log(sum);
}

static double divergence(const float *p, double p_norm, const float *q, double q_norm, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        double log_p = (double)p[i] - p_norm;
        sum += exp(log_p) * (log_p - ((double)q[i] - q_norm));
    }
    return sum;
}

typedef struct row_job {
    eval *e;
    score *s;
    bool is_truth;
} row_job;

static void score_row(const row_job *job, size_t pos, const float *logits) {
    eval *e = job->e;
    size_t row = pos - (size_t)e->first_row;
    float *truth = e->truth + row * (size_t)e->vocab_size;
    double norm = log_sum_exp(logits, e->vocab_size);
    if (job->is_truth) {
        memcpy(truth, logits, (size_t)e->vocab_size * sizeof *truth);
        e->truth_norm[row] = norm;
    }
    job->s->sum_nll += norm - (double)logits[e->chunk[pos + 1]];
    job->s->sum_kld += divergence(truth, e->truth_norm[row], logits, norm, e->vocab_size);
    job->s->n_same_top += likeliest(logits, e->vocab_size) == likeliest(truth, e->vocab_size);
    job->s->n_rows++;
}

static int on_row(void *user, size_t pos, const float *logits) {
    const row_job *job = user;
    eval *e = job->e;
    if ((int)pos < e->values->chunk_tokens - 1) score_row(job, pos, logits);
    progress_step(&e->bar, ++e->rows_done / e->rows_all);
    return interrupt_seen();
}

/* ---- chunks --------------------------------------------------------------------------------------------------------
 */

static kvq_status score_chunk(eval *e, score *s, bool is_truth, kvq_error *err) {
    row_job job = {.e = e, .s = s, .is_truth = is_truth};
    return kvq_logits(s->engine, e->chunk, (size_t)e->values->chunk_tokens, (size_t)e->first_row, on_row, &job, err);
}

/* Chunk k: c ids of the text, or the begin-of-text token and c - 1 of them. */
static void cut_chunk(eval *e, size_t k) {
    size_t c = (size_t)e->values->chunk_tokens, shift = e->bos >= 0;
    e->chunk[0] = e->bos;
    memcpy(e->chunk + shift, e->ids + k * c, (c - shift) * sizeof *e->chunk);
}

static kvq_status score_all(eval *e, size_t n_chunks, kvq_error *err) {
    kvq_status status = KVQ_OK;
    int n_runs = 1; /* of a chunk; a policy 0 that was asked for is the truth and not run again */
    for (int i = 0; i < e->n_scores; i++) n_runs += e->scores[i].engine != e->truth_score.engine;
    e->rows_all = (double)n_chunks * (e->values->chunk_tokens - e->first_row) * n_runs;
    progress_begin(&e->bar, "Comparing");
    for (size_t k = 0; !status && k < n_chunks; k++) {
        cut_chunk(e, k);
        status = score_chunk(e, &e->truth_score, true, err);
        for (int i = 0; !status && i < e->n_scores; i++)
            if (e->scores[i].engine != e->truth_score.engine) status = score_chunk(e, &e->scores[i], false, err);
    }
    progress_done(&e->bar);
    return status;
}

/* ---- opening -------------------------------------------------------------------------------------------------------
 */

/* The begin-of-text token where the model's file asks for one, and the text's ids without any. */
static kvq_status read_text(eval *e, kvq_error *err) {
    kvq_gguf *file = NULL;
    kvq_tokenizer *tokenizer = NULL;
    const char *model = e->values->engine.model;
    kvq_status status = kvq_gguf_open(model, &file, err);
    if (!status) status = kvq_tokenizer_open(file, &tokenizer, err);
    if (!status) e->bos = kvq_tokenizer_adds_bos(tokenizer) ? kvq_tokenizer_bos(tokenizer) : -1;
    kvq_tokenizer_free(tokenizer);
    kvq_gguf_close(file);
    return status ? status : engine_tokenize_file(model, e->values->file, false, false, &e->ids, &e->n_ids, err);
}

static kvq_status open_policy(const eval *e, const char *policy, score *ret, kvq_error *err) {
    kvq_options o = engine_options_make(&e->values->engine, policy);
    o.max_batch_size = LOGIT_ROWS;
    o.session_len = e->values->chunk_tokens > 64 ? e->values->chunk_tokens : 64;
    o.enable_prefix_caching = false;
    ret->policy = policy;
    kvq_status status = engine_open(&o, &ret->engine, err);
    if (!status) ret->bits_per_value = kvq_get_info(ret->engine)->bits_per_value;
    return status;
}

static kvq_status open_engines(eval *e, kvq_error *err) {
    const option_texts *policies = &e->values->policies;
    kvq_status status = open_policy(e, "0", &e->truth_score, err);
    for (int i = 0; !status && i < policies->n; i++, e->n_scores++) {
        if (strcmp(policies->values[i], "0") == 0)
            e->scores[i] = (score){.policy = "0", .engine = e->truth_score.engine};
        else
            status = open_policy(e, policies->values[i], &e->scores[i], err);
    }
    return status;
}

static kvq_status make_room(eval *e, kvq_error *err) {
    size_t c = (size_t)e->values->chunk_tokens;
    e->vocab_size = kvq_get_info(e->truth_score.engine)->vocab_size;
    e->first_row = e->values->chunk_tokens / 2;
    size_t n_rows = c - 1 - (size_t)e->first_row;
    e->chunk = calloc(c, sizeof *e->chunk);
    e->truth = calloc(n_rows, (size_t)e->vocab_size * sizeof *e->truth);
    e->truth_norm = calloc(n_rows, sizeof *e->truth_norm);
    if (e->chunk && e->truth && e->truth_norm) return KVQ_OK;
    return kvq_fail(err, KVQ_NO_MEMORY, "No memory for the logits of %zu rows of %d; a smaller '--chunk' needs less.",
                    n_rows, e->vocab_size);
}

static void done(eval *e) {
    for (int i = 0; i < e->n_scores; i++)
        if (e->scores[i].engine != e->truth_score.engine) kvq_close(e->scores[i].engine);
    kvq_close(e->truth_score.engine);
    free(e->scores);
    free(e->ids);
    free(e->chunk);
    free(e->truth);
    free(e->truth_norm);
}

/* ---- output --------------------------------------------------------------------------------------------------------
 */

typedef struct figures {
    double ppl, mean_kld, same_top;
} figures;

static figures figures_of(const score *s) {
    double n = (double)s->n_rows;
    return (figures){.ppl = exp(s->sum_nll / n), .mean_kld = s->sum_kld / n, .same_top = (double)s->n_same_top / n};
}

static void print_table(const eval *e, size_t n_chunks) {
    printf("%s; %zu chunks of %d tokens, %llu rows scored\n", kvq_get_info(e->truth_score.engine)->model_name, n_chunks,
           e->values->chunk_tokens, (unsigned long long)e->truth_score.n_rows);
    printf("%-10s %10s %12s %12s %10s\n", "kv", "bits/value", "perplexity", "mean KLD", "same top");
    for (int i = 0; i < e->n_scores; i++) {
        figures f = figures_of(&e->scores[i]);
        printf("%-10s %10.3f %12.4f %12.6f %8.2f %%\n", e->scores[i].policy, e->scores[i].bits_per_value, f.ppl,
               f.mean_kld, 100 * f.same_top);
    }
}

static kvq_status print_json(const eval *e, size_t n_chunks, kvq_error *err) {
    json_t *list = json_array();
    for (int i = 0; i < e->n_scores; i++) {
        figures f = figures_of(&e->scores[i]);
        json_array_append_new(list, json_pack("{s:o, s:f, s:f, s:f, s:f}", "policy", report_policy(e->scores[i].policy),
                                              "bits_per_value", e->scores[i].bits_per_value, "ppl", f.ppl, "mean_kld",
                                              f.mean_kld, "same_top", f.same_top));
    }
    json_t *root = json_pack("{s:s, s:I, s:i, s:I, s:o}", "model", kvq_get_info(e->truth_score.engine)->model_name,
                             "chunks", (json_int_t)n_chunks, "chunk_tokens", e->values->chunk_tokens, "rows",
                             (json_int_t)e->truth_score.n_rows, "kv", list);
    kvq_status status = report_print(root, err);
    json_decref(root);
    return status;
}

/* JSON has no NaN, and a figure that is none must not pass for one. */
static kvq_status check_figures(const eval *e, kvq_error *err) {
    for (int i = 0; i < e->n_scores; i++) {
        figures f = figures_of(&e->scores[i]);
        if (!isfinite(f.ppl) || !isfinite(f.mean_kld))
            return kvq_fail(err, KVQ_BAD_FILE, "'%s' with policy '%s' gives logits that are not finite.",
                            e->values->engine.model, e->scores[i].policy);
    }
    return KVQ_OK;
}

static kvq_status print_scores(const eval *e, size_t n_chunks, kvq_error *err) {
    kvq_status status = check_figures(e, err);
    if (status) return status;
    if (strcmp(e->values->output, "json") == 0) return print_json(e, n_chunks, err);
    print_table(e, n_chunks);
    return fflush(stdout) ? kvq_fail(err, KVQ_IO, "Cannot write the result.") : KVQ_OK;
}

static kvq_status count_chunks(const eval *e, size_t *ret, kvq_error *err) {
    size_t c = (size_t)e->values->chunk_tokens, n = e->n_ids / c;
    if (n == 0)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'%s' has %zu tokens, fewer than the %zu of one chunk ('--chunk').",
                        e->values->file, e->n_ids, c);
    *ret = e->values->chunks > 0 && (size_t)e->values->chunks < n ? (size_t)e->values->chunks : n;
    return KVQ_OK;
}

static int run(const void *values) {
    const eval_values *v = values;
    eval e = {.values = v, .scores = calloc(OPTION_LIST_MAX, sizeof *e.scores)};
    kvq_error err = {0};
    size_t n_chunks = 0;
    interrupt_catch();
    kvq_status status = e.scores ? KVQ_OK : kvq_fail(&err, KVQ_NO_MEMORY, "No memory for the scores.");
    if (!status) status = read_text(&e, &err);
    if (!status) status = count_chunks(&e, &n_chunks, &err);
    if (!status) status = open_engines(&e, &err);
    if (!status) status = make_room(&e, &err);
    if (!status) status = score_all(&e, n_chunks, &err);
    for (int i = 0; i < e.n_scores; i++) /* the f16 cache's own row, when it was asked for */
        if (e.scores[i].engine == e.truth_score.engine) e.scores[i] = e.truth_score;
    if (!status) status = print_scores(&e, n_chunks, &err);
    done(&e);
    return status ? engine_fail(&err) : EXIT_CODE_OK;
}

const command command_eval = {
    .name = "eval",
    .doc = "Compares KV policies with the f16 cache: perplexity, KL divergence, same top token.",
    .about = "The text's ids are cut into chunks of -c (begin-of-text first in each where the model's file asks for "
             "it); the second half "
             "of each is scored. One engine per policy is open at once, beside one with the f16 cache.",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .values_bytes = sizeof(eval_values),
    .run = run,
};
