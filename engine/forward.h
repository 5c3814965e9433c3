/* forward.h: the forward pass and the buffers it runs in. Made by engine.c at open, run once a step. */
#ifndef KVQ_FORWARD_H
#define KVQ_FORWARD_H

#include "model.h"

/* The buffers of one step; sizes are for max_rows rows. */
typedef struct kvq_forward {
    const kvq_model *model;
    const kvq_machine *machine;
    const kvq_kv *kv;
    const kvq_ops *ops;
    kvq_stream *stream;
    int max_rows, max_logit_rows;
    float *x;       /* [max_rows, hidden_dim] the residual stream */
    float *h;       /* [max_rows, max(hidden_dim, n_heads * head_dim)] */
    float *qkv;     /* [max_rows, (n_heads + 2 n_kv_heads) * head_dim] */
    float *q;       /* [max_rows, n_heads, head_dim] */
    float *gate_up; /* [max_rows, 2 * ffn_dim] */
    float *act;     /* [max_rows, ffn_dim] */
    float *rope[2]; /* [max_rows, n_rot / 2, 2] cos and sin, by kind of layer */
    float *picked;  /* [max_logit_rows, hidden_dim] */
    float *logits;  /* [max_logit_rows, vocab_size] */
    int *ids;       /* [max_logit_rows] sampled */
    uint8_t *arena; /* all of the above: the machine's memory */
    uint64_t arena_bytes;
    float *host_logits; /* logits where the host can read them: themselves, or a copy */
    int *host_ids;      /* [KVQ_BACKEND_FETCHES, max_logit_rows] a copy of ids, of each step that is under way */
} kvq_forward;

/* Bytes of the buffers above. */
uint64_t kvq_forward_bytes(const kvq_hparams *p, int max_rows, int max_logit_rows);

kvq_status kvq_forward_init(kvq_forward *ret, const kvq_model *model, const kvq_kv *kv, const kvq_machine *machine,
                            kvq_stream *stream, int max_rows, int max_logit_rows, kvq_error *err);
void kvq_forward_done(kvq_forward *f);

/* Runs the batch through all layers; f->x holds the last layer's rows. An id of -1 - i is what row i of the step before
 * draws. */
void kvq_forward_run(kvq_forward *f, const kvq_batch *batch);

/* f->logits of the given rows of the batch just run; n_rows at most max_logit_rows. */
void kvq_forward_head(kvq_forward *f, const int *rows, int n_rows);

/* The logits just made, in f->host_logits. Waits for them. Errors: the stream's. */
kvq_status kvq_forward_fetch(kvq_forward *f, int n_rows, kvq_error *err);

/* Draws from rows begin, begin + 1, ... of the logits just made, each once. job's logits and ids are set here. */
void kvq_forward_sample(kvq_forward *f, int begin, kvq_sample job);

/* All rows are drawn: the machine computes from now on, while the host does other things, and brings the n_rows tokens
 * of step `which`, 0 or 1, so that two may be under way. */
void kvq_forward_bring(kvq_forward *f, int n_rows, int which);

/* Waits for the step that was brought last as `which`, and gives its tokens, borrowed until the next kvq_forward_bring
 * of that `which`. Errors: the stream's. */
kvq_status kvq_forward_wait(kvq_forward *f, int which, const int **ret_ids, kvq_error *err);

#endif
