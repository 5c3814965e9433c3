/* draw.h: one token by engine/sampler.c and the CPU's operator `sample`, for test_sampler.c and bench_sampler.c. */
#ifndef DRAW_H
#define DRAW_H

#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"
#include "tests/shapes.h"

typedef struct drawer {
    kvq_sampler *sampler;
    kvq_stream *stream;
    kvq_ops ops;
    float *logits; /* [vocab_size] the operator edits them */
    int vocab_size;
} drawer;

static void drawer_free(drawer *d) {
    if (!d) return;
    kvq_sampler_free(d->sampler);
    kvq_cpu_stream_free(d->stream);
    free(d->logits);
    free(d);
}

static drawer *drawer_new(int vocab_size) {
    kvq_shapes shapes = shapes_of_matrices(1, 32, 32, 1);
    shapes.vocab_size = vocab_size;
    drawer *d = calloc(1, sizeof *d);
    if (!d) abort();
    d->vocab_size = vocab_size;
    d->logits = malloc((size_t)vocab_size * sizeof *d->logits);
    if (!d->logits || kvq_sampler_new(vocab_size, 1, &d->sampler, NULL) || kvq_cpu_ops_init(&d->ops, "auto", NULL) ||
        kvq_cpu_stream_new(&shapes, &d->stream, NULL))
        abort();
    return d;
}

/* logits stay as they are. */
static int draw(drawer *d, const kvq_sampling *p, const float *logits, const int *prompt, int n_prompt,
                const int *answer, int n_answer, int token_index) {
    int id = -1;
    kvq_sampler_begin(d->sampler);
    if (!kvq_sampler_add(d->sampler, p, prompt, n_prompt, answer, n_answer, token_index)) abort();
    kvq_sample job = kvq_sampler_job(d->sampler);
    memcpy(d->logits, logits, (size_t)d->vocab_size * sizeof *logits);
    job.logits = d->logits;
    job.ids = &id;
    d->ops.sample(d->stream, &job);
    if (kvq_cpu_stream_error(d->stream, NULL)) abort();
    return id;
}

#endif
