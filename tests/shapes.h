/* shapes.h: what a stream needs where no attention runs: one head, one short sequence, matrices as large as given. */
#ifndef KVQ_TEST_SHAPES_H
#define KVQ_TEST_SHAPES_H

#include "kernels/ops.h"

static inline kvq_shapes shapes_of_matrices(int max_rows, int max_in, int max_out, int threads) {
    return (kvq_shapes){.max_rows = max_rows,
                        .max_in = max_in,
                        .max_out = max_out,
                        .n_heads = 1,
                        .n_kv_heads = 1,
                        .head_dim = 64,
                        .max_tokens = 64,
                        .block_tokens = 64,
                        .threads = threads,
                        .max_seqs = 1,
                        .n_groups = 1};
}

#endif
