/* sampler.c: what a request asks for, as a job of the operator `sample`. Called by engine.c once a step.
 *
 * The operator edits logits by a list, a token once. A list's length is the number of different tokens of prompt and
 * answer, so the lists of a step have no bound that memory could be taken for; but one row's is at most the
 * vocabulary, and a job has room for that. Rows that do not fit wait for a job of their own. */
#include "sampler.h"

#include <float.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/sampling.h"

struct kvq_sampler {
    int vocab_size, max_rows;
    kvq_sample_row *rows;   /* [max_rows] */
    kvq_sample_edit *edits; /* [vocab_size] */
    int *edit_of;           /* [vocab_size] 1 + the edit of a token in the row being added; zeros between rows */
    int n_rows, n_edits;
};

kvq_status kvq_sampler_new(int vocab_size, int max_rows, kvq_sampler **ret, kvq_error *err) {
    if (vocab_size < 1 || vocab_size > KVQ_SAMPLE_VOCAB)
        return kvq_fail(err, KVQ_BAD_ARGUMENT,
                        "A sampler for a vocabulary of %d tokens was asked for; allowed is 1 to %d.", vocab_size,
                        KVQ_SAMPLE_VOCAB);
    kvq_sampler *s = calloc(1, sizeof *s);
    if (!s) goto fail;
    s->vocab_size = vocab_size;
    s->max_rows = max_rows;
    s->rows = calloc((size_t)max_rows, sizeof *s->rows);
    s->edits = calloc((size_t)vocab_size, sizeof *s->edits);
    s->edit_of = calloc((size_t)vocab_size, sizeof *s->edit_of);
    if (!s->rows || !s->edits || !s->edit_of) goto fail;
    *ret = s;
    return KVQ_OK;
fail:
    kvq_sampler_free(s);
    return kvq_fail(err, KVQ_NO_MEMORY, "No memory for the sampler of a vocabulary of %d tokens.", vocab_size);
}

void kvq_sampler_free(kvq_sampler *s) {
    if (!s) return;
    free(s->rows);
    free(s->edits);
    free(s->edit_of);
    free(s);
}

void kvq_sampler_begin(kvq_sampler *s) {
    s->n_rows = 0;
    s->n_edits = 0;
}

/* ---- edits ------------------------------------------------------------------------------------------------------- */

/* Adds to the token's edit in the row being added; false when there is no room. Ids outside the vocabulary have no
 * logit. */
static bool edit(kvq_sampler *s, int id, float bias, int n_seen, int n_answer) {
    if (id < 0 || id >= s->vocab_size) return true;
    if (!s->edit_of[id]) {
        if (s->n_edits == s->vocab_size) return false;
        s->edits[s->n_edits] = (kvq_sample_edit){.id = id};
        s->edit_of[id] = ++s->n_edits;
    }
    kvq_sample_edit *e = &s->edits[s->edit_of[id] - 1];
    e->bias += bias;
    e->n_seen += n_seen;
    e->n_answer += n_answer;
    return true;
}

static bool add_bias(kvq_sampler *s, const kvq_sampling *p) {
    bool fits = true;
    for (int i = 0; i < p->n_logit_bias && fits; i++) fits = edit(s, p->logit_bias[i].id, p->logit_bias[i].bias, 0, 0);
    return fits;
}

static bool add_tokens(kvq_sampler *s, const int *ids, int n, bool seen, bool answer) {
    bool fits = true;
    if (!seen && !answer) return true;
    for (int i = 0; i < n && fits; i++) fits = edit(s, ids[i], 0, seen, answer);
    return fits;
}

static bool counts_seen(const kvq_sampling *p) {
    return p->repetition_penalty != 1;
}

static bool counts_answer(const kvq_sampling *p) {
    return p->presence_penalty != 0 || p->frequency_penalty != 0;
}

bool kvq_sampling_has_penalties(const kvq_sampling *p) {
    return counts_seen(p) || counts_answer(p);
}

bool kvq_sampler_add(kvq_sampler *s, const kvq_sampling *p, const int *prompt, int n_prompt, const int *answer,
                     int n_answer, int token_index) {
    if (s->n_rows == s->max_rows) return false;
    int begin = s->n_edits;
    bool seen = counts_seen(p), counted = counts_answer(p);
    bool fits = add_bias(s, p) && add_tokens(s, prompt, n_prompt, seen, false) &&
                add_tokens(s, answer, n_answer, seen, counted);
    for (int i = begin; i < s->n_edits; i++) s->edit_of[s->edits[i].id] = 0;
    if (!fits) {
        s->n_edits = begin;
        return false;
    }
    s->rows[s->n_rows++] = (kvq_sample_row){.temperature = p->temperature,
                                            .top_p = p->top_p,
                                            .min_p = p->min_p,
                                            .top_k = p->top_k,
                                            .repetition_penalty = p->repetition_penalty,
                                            .presence_penalty = p->presence_penalty,
                                            .frequency_penalty = p->frequency_penalty,
                                            .index = (uint32_t)token_index,
                                            .seed = p->seed,
                                            .edit_begin = begin,
                                            .n_edits = s->n_edits - begin};
    return true;
}

kvq_sample kvq_sampler_job(const kvq_sampler *s) {
    return (kvq_sample){
        .rows = s->rows, .edits = s->edits, .n_rows = s->n_rows, .n_edits = s->n_edits, .vocab_size = s->vocab_size};
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */

typedef struct range {
    const char *key;
    size_t offset;
    double min, max;
    bool above_min; /* min itself is not allowed */
    const char *allowed;
} range;

/* clang-format off */
static const range ranges[] = {
    {"temperature",        offsetof(kvq_sampling, temperature),         0, 2,       false, "0 to 2"},
    {"top_p",              offsetof(kvq_sampling, top_p),               0, 1,       true,  "above 0, up to 1"},
    {"min_p",              offsetof(kvq_sampling, min_p),               0, 1,       false, "0 to 1"},
    {"repetition_penalty", offsetof(kvq_sampling, repetition_penalty),  0, FLT_MAX, true,  "above 0"},
    {"presence_penalty",   offsetof(kvq_sampling, presence_penalty),   -2, 2,       false, "-2 to 2"},
    {"frequency_penalty",  offsetof(kvq_sampling, frequency_penalty),  -2, 2,       false, "-2 to 2"},
};
/* clang-format on */

/* Written so that NaN is outside. */
static bool in_range(const range *r, double value) {
    return value <= r->max && (r->above_min ? value > r->min : value >= r->min);
}

static kvq_status check_bias(const kvq_logit_bias *b, int vocab_size, kvq_error *err) {
    if (b->id < 0 || b->id >= vocab_size)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'logit_bias' names token %d; the vocabulary has tokens 0 to %d.", b->id,
                        vocab_size - 1);
    if (!(b->bias >= -100 && b->bias <= 100))
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'logit_bias' of token %d is %g; allowed is -100 to 100.", b->id,
                        (double)b->bias);
    return KVQ_OK;
}

kvq_status kvq_sampling_check(const kvq_sampling *p, int vocab_size, kvq_error *err) {
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        float value;
        memcpy(&value, (const char *)p + ranges[i].offset, sizeof value);
        if (!in_range(&ranges[i], (double)value))
            return kvq_fail(err, KVQ_BAD_ARGUMENT, "'%s' is %g; allowed is %s.", ranges[i].key, (double)value,
                            ranges[i].allowed);
    }
    if (p->top_k < 0) return kvq_fail(err, KVQ_BAD_ARGUMENT, "'top_k' is %d; allowed is 0 (off) or more.", p->top_k);
    for (int i = 0; i < p->n_logit_bias; i++) {
        kvq_status status = check_bias(&p->logit_bias[i], vocab_size, err);
        if (status) return status;
    }
    return KVQ_OK;
}
