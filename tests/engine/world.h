/* world.h: what the engine's behaviour tests share: tiny models on disk, requests of known ids, answers collected from
 * events. */
#ifndef KVQ_WORLD_H
#define KVQ_WORLD_H

#include "engine/kvq.h"
#include "tiny_model.h"

enum { ANSWER_BYTES = 4096, PROMPT_MAX = 1024 };

typedef struct answer {
    char text[ANSWER_BYTES];
    size_t n_bytes;
    int n_events, first_step, last_step; /* steps, counted by run_all */
    bool ended, failed;
    kvq_finish reason;
    kvq_result result;
    kvq_error error;
} answer;

/* The file of a tiny model, written once per program; borrowed. */
const char *world_model(int model);
void world_remove_models(void);

/* Writes it to a new file, whose name path [.., "XXXXXX"] becomes; the caller's to remove. Fails the test. */
void world_write_model(const tiny_model *m, char *path);

/* Small and quick: one thread, pages of 32 tokens, prefill in chunks of 64, no prefix cache. */
kvq_options world_options(int model, const char *policy);
kvq_engine *world_open(const kvq_options *o); /* fails the test */

/* The least cache_max_entry_count, in f16 blocks, that holds one sequence of o.session_len, written to out. */
const char *world_smallest_pool(kvq_options o, char *out, size_t n_out);

/* A request with n ids that depend on `seed` alone, temperature 1, that goes on after end tokens. ids is [n], the
 * caller's. */
kvq_request world_request(int *ids, int n, uint64_t seed, int max_tokens);
/* It may end by its token, whose logit has `bias` added, and no other has any. Borrowed until the next call. */
void world_may_end(kvq_request *r, float bias);

/* Submits; the answer is where events of this request go. Returns the id. */
uint64_t world_submit(kvq_engine *e, kvq_request *r, answer *a);

/* One step; events go to their answers. */
void world_step(kvq_engine *e, int step);
/* Steps until nothing is active; returns how many. */
int world_run(kvq_engine *e);

/* Fails the test, naming `what`, unless both answers say the same. */
void world_same(const answer *got, const answer *expected, const char *what);

uint64_t world_blocks_used(const kvq_engine *e);

#endif
