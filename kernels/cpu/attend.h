/* attend.h: what attend.c (who computes what) and attend_tmpl.h (how, per instruction set) say to each other.
 *
 * A *tile* is rows of one sequence that lie in one page, times heads of one KV group: its queries all see the same
 * image of every page, so each load of codes serves all of them. A *state* is their soft-max over part of the cache:
 * maximum, sum and accumulator, floats, scaled by 2^-maximum: [QUERIES] maxima, [QUERIES] sums, [n_queries, head_dim].
 */
#ifndef KVQ_CPU_ATTEND_H
#define KVQ_CPU_ATTEND_H

#include "../ops.h"

#define KVQ_ATTEND_QUERIES 32 /* most queries of a tile: their state stays in L2 (32 x 256 floats: 32 KiB) */

typedef struct kvq_attend_tile {
    const kvq_attend *job;
    int seq, row_begin, n_rows;
    int g, head_begin, n_heads; /* query heads [head_begin, head_begin + n_heads) of KV head g */
} kvq_attend_tile;

static inline size_t kvq_attend_state_floats(int n_queries, int head_dim) {
    return 2 * KVQ_ATTEND_QUERIES + (size_t)n_queries * (size_t)head_dim;
}

typedef struct kvq_attend_kernels {
    void (*split)(const kvq_attend_tile *tile, int split, float *state); /* the pages of one split */
    void (*merge)(float *into, const float *from, int n_queries, int d); /* in order of splits */
    void (*finish)(const kvq_attend_tile *tile, const float *state);     /* state to job->out */
} kvq_attend_kernels;

void kvq_cpu_attend(kvq_stream *s, const kvq_attend *job, const kvq_attend_kernels *kernels);

#endif
