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

kvq_head_tiles kvq_cut_heads(int n_heads, int n_kv_heads, int most_queries) {
    int group = n_heads / n_kv_heads, tiles_a_group = (group + most_queries - 1) / most_queries;
    int heads_a_tile = (group + tiles_a_group - 1) / tiles_a_group;
    return (kvq_head_tiles){.heads_a_tile = heads_a_tile,
                            .rows_a_tile = most_queries / heads_a_tile,
                            .n_tiles = n_kv_heads * tiles_a_group};
}
