/* runs.h: the rows of a batch cut into runs, the work items of append and attend. */
#ifndef KVQ_CPU_RUNS_H
#define KVQ_CPU_RUNS_H

#include "../batch.h"

typedef struct kvq_row_run {
    int seq, row_begin, n_rows;
} kvq_row_run;

/* Cuts every sequence's rows where its position is a multiple of `align` and into at most most_rows rows; returns how
 * many runs, at most batch->n_rows. */
int kvq_cut_rows(const kvq_batch *batch, int align, int most_rows, kvq_row_run *runs);

#endif
