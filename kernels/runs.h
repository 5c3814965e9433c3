/* runs.h: how the rows of a batch and the heads of attention are cut into work items, for every backend. Called by
 * append and attend of cpu, and by begin and attend of cuda. */
#ifndef KVQ_RUNS_H
#define KVQ_RUNS_H

#include "batch.h"

/* Rows of one sequence. */
typedef struct kvq_row_run {
    int seq, row_begin, n_rows;
} kvq_row_run;

/* Cuts every sequence's rows where its position is a multiple of `align` and into at most most_rows rows; returns how
 * many runs, at most batch->n_rows. */
int kvq_cut_rows(const kvq_batch *batch, int align, int most_rows, kvq_row_run *runs);

/* The query heads of a KV group in as few tiles as hold most_queries each, as equal as they can be; with rows_a_tile
 * rows of each head a tile is full. */
typedef struct kvq_head_tiles {
    int heads_a_tile, rows_a_tile;
    int n_tiles; /* of all groups */
} kvq_head_tiles;

kvq_head_tiles kvq_cut_heads(int n_heads, int n_kv_heads, int most_queries);

#endif
