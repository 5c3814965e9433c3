/* sampler.h: how a request wants its tokens drawn, and the job that draws them (the operator `sample`). Called by
 * engine.c once a step. */
#ifndef KVQ_SAMPLER_H
#define KVQ_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../kernels/ops.h"

typedef struct kvq_logit_bias {
    int id;
    float bias; /* -100 .. 100, added to the logit first */
} kvq_logit_bias;

/* Order: logit bias, penalties (repetition as in CTRL: divide positive, multiply negative logits of every token seen in
 * prompt and answer; presence and frequency as OpenAI's, over the answer only), temperature, top_k, top_p, min_p, draw.
 * temperature 0: the largest logit, ties to the lowest id. */
typedef struct kvq_sampling {
    float temperature;                         /* 0 .. 2 */
    float top_p;                               /* (0, 1] */
    float min_p;                               /* 0 .. 1 */
    int top_k;                                 /* 0: off */
    float repetition_penalty;                  /* > 0, 1: off */
    float presence_penalty, frequency_penalty; /* -2 .. 2 */
    uint64_t seed;
    const kvq_logit_bias *logit_bias; /* owned by the request */
    int n_logit_bias;
} kvq_sampling;

typedef struct kvq_sampler kvq_sampler;

/* One job under way, of at most max_rows rows; one per engine, not per request. */
kvq_status kvq_sampler_new(int vocab_size, int max_rows, kvq_sampler **ret, kvq_error *err);
void kvq_sampler_free(kvq_sampler *s);

/* An empty job. */
void kvq_sampler_begin(kvq_sampler *s);
/* Adds a row: the token at answer index token_index (0 for the first), drawn by p, which kvq_sampling_check passed.
 * prompt and answer: the ids so far, for penalties. False when the job has no room for it; an empty job has. */
bool kvq_sampler_add(kvq_sampler *s, const kvq_sampling *p, const int *prompt, int n_prompt, const int *answer,
                     int n_answer, int token_index);
/* The job, without logits and ids; borrowed until the next begin or add. */
kvq_sample kvq_sampler_job(const kvq_sampler *s);

/* Whether a draw depends on the ids before it. */
bool kvq_sampling_has_penalties(const kvq_sampling *p);

/* The first key whose value is out of range, as a sentence; KVQ_OK if all are fine. */
kvq_status kvq_sampling_check(const kvq_sampling *p, int vocab_size, kvq_error *err);

/* Stop strings that may span tokens. One matcher per request. */
typedef struct kvq_stop_matcher kvq_stop_matcher;
kvq_status kvq_stop_new(const char *const *stops, int n_stops, kvq_stop_matcher **ret, kvq_error *err);
void kvq_stop_free(kvq_stop_matcher *m);

/* Takes n bytes of new text; gives back in *ret_text / *ret_n the text that is certainly not part of a stop string
 * (borrowed until the next call). Returns true when a stop string was found: the text ends before it, nothing after it
 * comes out. finish gives back what was held. */
bool kvq_stop_feed(kvq_stop_matcher *m, const char *text, size_t n, const char **ret_text, size_t *ret_n);
void kvq_stop_finish(kvq_stop_matcher *m, const char **ret_text, size_t *ret_n);

#endif
