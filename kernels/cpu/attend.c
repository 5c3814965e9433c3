/* attend.c: who attends to what; the same for every instruction set (attend_tmpl.h has the arithmetic).
 *
 * The cache of a sequence is cut into splits of KVQ_SPLIT_PAGES pages at fixed positions. A split's soft-max state is
 * computed on its own and splits are merged in order, so the bits of a result are the same in both ways of sharing the
 * work out:
 *   by tile   an item is a tile and walks its splits one after the other: prefill, many sequences
 *   by split  an item is a run of splits of a tile; who finishes the tile's last one merges them: few sequences, long
 *             cache */
#include "attend.h"

#include <stdatomic.h>

#include "../runs.h"
#include "stream.h"

/* Memory for the states of splits; what does not fit goes by tile. 64 splits (32 k tokens) of 8 KV heads with 4 query
 * heads of 128 each are 1.2 MB. */
#define PARTIAL_BYTES ((size_t)1 << 20)
#define ITEMS_A_THREAD 4 /* by tile from this many items a thread on: enough to even out */
#define RUNS_A_THREAD 6  /* by split: at least, when there are splits enough */

typedef struct attend_work {
    const kvq_attend *job;
    const kvq_attend_kernels *kernels;
    const kvq_row_run *runs;
    int heads_a_tile, n_head_tiles; /* tiles of one run of rows: n_kv_heads x tiles of a group */
    /* by split only */
    int n_splits;     /* of the longest tile */
    int n_split_runs; /* of a tile: a worker takes several splits, since each asks for the first page of the next */
    int splits_a_run;
    float *states; /* [tiles, n_splits, state_floats] */
    size_t state_floats;
    atomic_int *left; /* [tiles] splits not done */
} attend_work;

static kvq_attend_tile tile_of(const attend_work *w, int index) {
    const kvq_row_run *run = &w->runs[index / w->n_head_tiles];
    int group = w->job->n_heads / w->job->kv->n_kv_heads, tiles_a_group = w->n_head_tiles / w->job->kv->n_kv_heads;
    int head_tile = index % w->n_head_tiles, in_group = head_tile % tiles_a_group * w->heads_a_tile;
    int g = head_tile / tiles_a_group;
    return (kvq_attend_tile){.job = w->job,
                             .seq = run->seq,
                             .row_begin = run->row_begin,
                             .n_rows = run->n_rows,
                             .g = g,
                             .head_begin = g * group + in_group,
                             .n_heads = group - in_group < w->heads_a_tile ? group - in_group : w->heads_a_tile};
}

/* Splits that a tile's rows see: [*begin, *end). */
static void splits_of(const attend_work *w, int row_begin, int *begin, int *end) {
    int split_tokens = KVQ_SPLIT_PAGES * w->job->kv->block_tokens, pos = w->job->batch->pos[row_begin];
    int window = w->job->window;
    *begin = window && pos >= window ? (pos - window + 1) / split_tokens : 0;
    *end = pos / split_tokens + 1; /* a tile's rows lie in one page, so in one split */
}

static void tile_item(void *arg, int item, int worker) {
    (void)worker;
    const attend_work *w = arg;
    kvq_attend_tile tile = tile_of(w, item);
    int n_queries = tile.n_rows * tile.n_heads, d = w->job->kv->head_dim, begin, end;
    float total[2 * KVQ_ATTEND_QUERIES + KVQ_ATTEND_QUERIES * KVQ_MAX_HEAD_DIM];
    float part[2 * KVQ_ATTEND_QUERIES + KVQ_ATTEND_QUERIES * KVQ_MAX_HEAD_DIM];
    splits_of(w, tile.row_begin, &begin, &end);
    w->kernels->split(&tile, begin, total);
    for (int split = begin + 1; split < end; split++) {
        w->kernels->split(&tile, split, part);
        w->kernels->merge(total, part, n_queries, d);
    }
    w->kernels->finish(&tile, total);
}

static void split_item(void *arg, int item, int worker) {
    (void)worker;
    const attend_work *w = arg;
    int index = item / w->n_split_runs, first = item % w->n_split_runs * w->splits_a_run, begin, end;
    kvq_attend_tile tile = tile_of(w, index);
    float *states = w->states + (size_t)index * (size_t)w->n_splits * w->state_floats;
    splits_of(w, tile.row_begin, &begin, &end);
    int n_splits = end - begin, n = n_splits - first < w->splits_a_run ? n_splits - first : w->splits_a_run;
    if (n <= 0) return;
    for (int i = first; i < first + n; i++) w->kernels->split(&tile, begin + i, states + (size_t)i * w->state_floats);
    if (atomic_fetch_sub(&w->left[index], n) > n) return;

    int n_queries = tile.n_rows * tile.n_heads, d = w->job->kv->head_dim;
    for (int i = 1; i < n_splits; i++) w->kernels->merge(states, states + (size_t)i * w->state_floats, n_queries, d);
    w->kernels->finish(&tile, states);
}

/* Cuts by split when there are too few tiles to keep every thread busy, some tile has several splits and the states
 * fit. */
static bool cut_by_split(kvq_stream *s, size_t *used, attend_work *w, int n_runs) {
    int n_tiles = n_runs * w->n_head_tiles, most_rows = 0;
    if (n_tiles >= ITEMS_A_THREAD * kvq_workers_count(s->workers)) return false;
    for (int i = 0; i < n_runs; i++) {
        int begin, end;
        splits_of(w, w->runs[i].row_begin, &begin, &end);
        if (end - begin > w->n_splits) w->n_splits = end - begin;
        if (w->runs[i].n_rows > most_rows) most_rows = w->runs[i].n_rows;
    }
    w->state_floats = kvq_attend_state_floats(most_rows * w->heads_a_tile, w->job->kv->head_dim);
    size_t states_bytes = (size_t)n_tiles * (size_t)w->n_splits * w->state_floats * sizeof(float);
    if (w->n_splits < 2 || states_bytes > PARTIAL_BYTES) return false;
    w->states = kvq_stream_take(s, used, states_bytes);
    w->left = kvq_stream_take(s, used, (size_t)n_tiles * sizeof *w->left);
    if (!w->states || !w->left) return false;
    for (int i = 0; i < n_tiles; i++) {
        int begin, end;
        splits_of(w, w->runs[i / w->n_head_tiles].row_begin, &begin, &end);
        atomic_init(&w->left[i], end - begin);
    }
    int splits_a_run = n_tiles * w->n_splits / (RUNS_A_THREAD * kvq_workers_count(s->workers));
    w->splits_a_run = splits_a_run > 1 ? splits_a_run : 1;
    w->n_split_runs = kvq_items(w->n_splits, w->splits_a_run);
    return true;
}

void kvq_cpu_attend(kvq_stream *s, const kvq_attend *job, const kvq_attend_kernels *kernels) {
    const kvq_batch *b = job->batch;
    kvq_head_tiles heads = kvq_cut_heads(job->n_heads, job->kv->n_kv_heads, KVQ_ATTEND_QUERIES);
    size_t used = 0;
    kvq_row_run *runs = kvq_stream_take(s, &used, (size_t)b->n_rows * sizeof *runs);
    if (!runs) return;
    attend_work work = {.job = job,
                        .kernels = kernels,
                        .runs = runs,
                        .heads_a_tile = heads.heads_a_tile,
                        .n_head_tiles = heads.n_tiles,
                        .n_splits = 1};
    int n_runs = kvq_cut_rows(b, job->kv->block_tokens, heads.rows_a_tile, runs);
    int n_tiles = n_runs * work.n_head_tiles;
    if (cut_by_split(s, &used, &work, n_runs))
        kvq_workers_run(s->workers, split_item, &work, n_tiles * work.n_split_runs);
    else
        kvq_workers_run(s->workers, tile_item, &work, n_tiles);
}

size_t kvq_attend_workspace_bytes(const kvq_shapes *shapes, int threads) {
    size_t runs = kvq_aligned((size_t)shapes->max_rows * sizeof(kvq_row_run));
    size_t left = kvq_aligned((size_t)(ITEMS_A_THREAD * threads) * sizeof(atomic_int));
    return runs + left + PARTIAL_BYTES;
}
