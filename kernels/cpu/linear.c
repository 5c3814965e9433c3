/* linear.c: how a matrix product is cut into work; see linear.h. */
#include "linear.h"

/* ref wants two floats per input and worker, and per row and input less than the float panels' 4 bytes. */
size_t kvq_linear_workspace_bytes(const kvq_shapes *shapes, int threads) {
    size_t n_in = (size_t)shapes->max_in + KVQ_ACT_GROUP, n_rows = (size_t)shapes->max_rows;
    return n_rows * n_in * sizeof(float) + (size_t)threads * 2 * n_in * sizeof(float) + 8 * KVQ_ALIGN;
}
