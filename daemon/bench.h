/* bench.h: the command `bench`: one sequence of its own in the engine, timed while the loop goes on as always: commands
 * are answered, cancels heard; prompts wait for its end. Called by command.c (start), requests.c and daemon.c. */
#ifndef KVQD_BENCH_H
#define KVQD_BENCH_H

#include <jansson.h>

#include "../engine/kvq.h"
#include "failure.h"

#define BENCH_MAX_TOKENS 1024

struct kvqd;

typedef struct bench {
    json_t *args; /* the command's, which the reply needs; NULL: none runs */
    int n_prompt, n_answer;
    int64_t started_ns;
} bench;

/* Needs an idle engine. True: the reply comes when it ends. */
bool bench_start(struct kvqd *d, const json_t *args, int n_prompt, int n_answer, failure *f);

/* An event of the engine that belongs to no prompt. */
void bench_apply(struct kvqd *d, const kvq_event *e);

/* Ends it with this failure, if one runs. */
void bench_fail(struct kvqd *d, const failure *f);

#endif
