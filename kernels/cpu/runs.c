/* runs.c: see runs.h. */
#include "runs.h"

int kvq_cut_rows(const kvq_batch *batch, int align, int most_rows, kvq_row_run *runs) {
    int n = 0;
    for (int i = 0; i < batch->n_seqs; i++) {
        const kvq_batch_seq *seq = &batch->seqs[i];
        for (int done = 0; done < seq->n_rows;) {
            int to_edge = align - (seq->pos_begin + done) % align, left = seq->n_rows - done;
            int rows = to_edge < left ? to_edge : left;
            if (rows > most_rows) rows = most_rows;
            runs[n++] = (kvq_row_run){.seq = i, .row_begin = seq->row_begin + done, .n_rows = rows};
            done += rows;
        }
    }
    return n;
}
