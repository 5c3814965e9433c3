/* stream.h: the CPU's stream, shared by ref and all instruction sets: compute pool, workspace, first error.
 * Included by the CPU operators only; the engine sees kvq_stream through ops.h. */
#ifndef KVQ_STREAM_H
#define KVQ_STREAM_H

#include "../ops.h"
#include "workers.h"

#define KVQ_ALIGN 64 /* of the workspace and of what is cut from it */

struct kvq_stream {
    kvq_workers *workers;
    kvq_shapes shapes;
    uint8_t *workspace; /* each operator may use all of it; nothing survives the operator */
    size_t workspace_bytes;
    size_t cache_bytes; /* of a core's second-level cache */
    kvq_error error;
};

/* Keeps the first error of the stream. */
void kvq_stream_fail(kvq_stream *s, kvq_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* `bytes` of the workspace from *used on, aligned, moving *used behind it. NULL after an error of the stream when the
 * workspace is too small, which only a job beyond the stream's shapes can cause. */
void *kvq_stream_take(kvq_stream *s, size_t *used, size_t bytes);

static inline size_t kvq_aligned(size_t bytes) {
    return (bytes + KVQ_ALIGN - 1) / KVQ_ALIGN * KVQ_ALIGN;
}

/* What an operator needs at most; the stream's workspace is the largest of them. Each stands beside its operator. */
size_t kvq_linear_workspace_bytes(const kvq_shapes *shapes, int threads);
size_t kvq_attend_workspace_bytes(const kvq_shapes *shapes, int threads);
size_t kvq_sample_workspace_bytes(const kvq_shapes *shapes, int threads);

/* Runs fn over n_rows rows in runs of rows_per_item (item i does rows i * rows_per_item ..). */
static inline int kvq_items(int n, int per_item) {
    return (n + per_item - 1) / per_item;
}

#endif
