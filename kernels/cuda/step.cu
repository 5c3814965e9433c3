/* step.cu: a stream of the CUDA backend, and `begin`: the step's lists copied to the device in one piece. What is on
 * the device is laid out as on the host, pointers and all, so that the same structs serve kernels. */
#include "stream.h"

/* ---- errors ---- */

void kvq_cuda_fail(kvq_stream *s, kvq_status code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    kvq_fail_first(&s->error, code, format, args);
    va_end(args);
}

void kvq_cuda_check(kvq_stream *s, cudaError_t error, const char *what) {
    if (error == cudaSuccess) return;
    (void)cudaGetLastError(); /* it is told here; the next call shall not tell it again */
    kvq_cuda_fail(s, KVQ_DEVICE, "%s failed on the GPU: %s (%s)", what, cudaGetErrorName(error),
                  cudaGetErrorString(error));
}

void *kvq_cuda_take(kvq_stream *s, size_t *used, size_t bytes) {
    size_t aligned = kvq_cuda_aligned(bytes);
    if (aligned < bytes || aligned > s->workspace_bytes - *used) {
        kvq_cuda_fail(s, KVQ_INTERNAL, "an operator wants %zu bytes of GPU workspace, %zu of %zu are left", aligned,
                      s->workspace_bytes - *used, s->workspace_bytes);
        return NULL;
    }
    void *ret = s->workspace + *used;
    *used += aligned;
    return ret;
}

/* ---- lists ---- */

/* What is being laid out in staging; the same offsets hold on the device. */
typedef struct layout {
    kvq_stream *s;
    size_t used;
    bool overflows;
} layout;

/* Room for n_bytes, on the host; *ret_device is where they will be. NULL when the lists are full. */
static void *place(layout *l, size_t n_bytes, const void **ret_device) {
    size_t aligned = (n_bytes + 15) / 16 * 16;
    if (aligned > l->s->lists_bytes - l->used) {
        l->overflows = true;
        return NULL;
    }
    *ret_device = l->s->lists + l->used;
    void *ret = l->s->staging + l->used;
    l->used += aligned;
    return ret;
}

static const void *place_copy(layout *l, const void *from, size_t n_bytes) {
    const void *device = NULL;
    void *to = from ? place(l, n_bytes, &device) : NULL;
    if (to) memcpy(to, from, n_bytes);
    return device;
}

/* The page tables, and in the copied sequences where they will be. */
static void place_pages(layout *l, kvq_batch_seq *seqs, const kvq_batch *b, const kvq_kv *kv) {
    for (int i = 0; i < b->n_seqs; i++) {
        size_t n_pages = (size_t)kvq_cuda_blocks(seqs[i].pos_begin + seqs[i].n_rows, kv->block_tokens);
        for (int g = 0; g < kv->n_groups; g++)
            seqs[i].pages[g] =
                (const kvq_kv_page *)place_copy(l, b->seqs[i].pages[g], n_pages * sizeof *seqs[i].pages[g]);
    }
}

/* Returns how many have at most most_rows rows. */
static int small_tiles_first(kvq_row_run *tiles, int n, int most_rows) {
    int n_small = 0;
    for (int i = 0; i < n; i++) {
        if (tiles[i].n_rows > most_rows) continue;
        kvq_row_run tile = tiles[i];
        tiles[i] = tiles[n_small];
        tiles[n_small++] = tile;
    }
    return n_small;
}

static void begin(kvq_stream *s, const kvq_begin *job) {
    const kvq_batch *b = job->batch;
    kvq_cuda_flush(s); /* a step without logits ends here */
    kvq_cuda_check(s, cudaEventSynchronize(s->uploaded), "waiting for a copy");
    layout l = {s, 0, false};
    kvq_cuda_step step = {};
    step.batch = *b;
    step.host = b;
    step.n_groups = job->kv->n_groups;
    step.batch.ids = (const int *)place_copy(&l, b->ids, (size_t)b->n_rows * sizeof(int));
    step.batch.pos = (const int *)place_copy(&l, b->pos, (size_t)b->n_rows * sizeof(int));
    step.batch.row_seq = (const int *)place_copy(&l, b->row_seq, (size_t)b->n_rows * sizeof(int));
    const void *tiles_at = NULL, *seqs_at = NULL;
    kvq_row_run *tiles = (kvq_row_run *)place(&l, (size_t)b->n_rows * sizeof *tiles, &tiles_at);
    kvq_batch_seq *seqs = (kvq_batch_seq *)place(&l, (size_t)b->n_seqs * sizeof *seqs, &seqs_at);
    /* What varies in length from one decode step to the next comes last: what kernels are given of the rest stays, and
     * so do the launches of a graph. */
    step.batch.closes = (const kvq_batch_close *)place_copy(&l, b->closes, (size_t)b->n_closes * sizeof *b->closes);
    if (seqs) {
        memcpy(seqs, b->seqs, (size_t)b->n_seqs * sizeof *seqs);
        place_pages(&l, seqs, b, job->kv);
    }
    step.batch.seqs = (const kvq_batch_seq *)seqs_at;
    if (l.overflows) {
        kvq_cuda_fail(s, KVQ_INTERNAL, "the lists of a step of %d rows do not fit in %zu bytes", b->n_rows,
                      s->lists_bytes);
        s->step = kvq_cuda_step{};
        return;
    }
    /* Halves take two rows of a product each (attend_piece.cuh). */
    step.heads = kvq_cut_heads(s->shapes.n_heads, s->shapes.n_kv_heads,
                               job->kv->policy->k_bits == 16 ? KVQ_CUDA_QUERIES / 2 : KVQ_CUDA_QUERIES);
    step.n_tiles = kvq_cut_rows(b, job->kv->block_tokens, step.heads.rows_a_tile, tiles);
    step.n_small_tiles = small_tiles_first(tiles, step.n_tiles, KVQ_CUDA_QUERIES / 2 / step.heads.heads_a_tile);
    step.tiles = (const kvq_row_run *)tiles_at;
    int longest = 1;
    for (int i = 0; i < b->n_seqs; i++) {
        int n = b->seqs[i].pos_begin + b->seqs[i].n_rows;
        if (n > longest) longest = n;
    }
    step.most_splits = kvq_cuda_splits(longest, job->kv->block_tokens);
    s->step = step;
    s->room_used = 0;
    kvq_cuda_check(s, cudaMemcpyAsync(s->lists, s->staging, l.used, cudaMemcpyHostToDevice, s->cuda),
                   "copying a step's lists");
    kvq_cuda_check(s, cudaEventRecord(s->uploaded, s->cuda), "copying a step's lists");
    /* A decode step is many short kernels, the same ones step after step; a prefill's are long, and no two alike. */
    if (b->n_rows == b->n_seqs) kvq_cuda_keep_calls(s);
}

const kvq_cuda_step *kvq_cuda_step_of(kvq_stream *s, const kvq_batch *batch) {
    if (s->step.host == batch) return &s->step;
    kvq_cuda_fail(s, KVQ_INTERNAL, "an operator was given a batch that no `begin` told of");
    return NULL;
}

kvq_cuda_room kvq_cuda_take_room(kvq_stream *s, size_t n_bytes) {
    size_t bytes = kvq_cuda_aligned(n_bytes);
    if (bytes > s->room_bytes - s->room_used) { /* all of the room is used: wait until it is free */
        kvq_cuda_flush(s);
        kvq_cuda_check(s, cudaStreamSynchronize(s->cuda), "waiting for a copy");
        s->room_used = 0;
    }
    if (bytes > s->room_bytes) {
        kvq_cuda_fail(s, KVQ_INTERNAL, "a list of %zu bytes, the stream is for %d rows, has room for %zu", n_bytes,
                      s->shapes.max_rows, s->room_bytes);
        return kvq_cuda_room{NULL, NULL};
    }
    size_t at = s->lists_bytes + s->room_used;
    s->room_used += bytes;
    return kvq_cuda_room{s->staging + at, s->lists + at};
}

void kvq_cuda_send(kvq_stream *s, kvq_cuda_room room, size_t n_bytes) {
    kvq_cuda_check(s, cudaMemcpyAsync(room.device, room.host, n_bytes, cudaMemcpyHostToDevice, s->cuda),
                   "copying a list");
    kvq_cuda_check(s, cudaEventRecord(s->uploaded, s->cuda), "copying a list");
}

const int *kvq_cuda_ints(kvq_stream *s, const int *host, int n) {
    const kvq_batch *b = s->step.host;
    if (b && host == b->ids && n <= b->n_rows) return s->step.batch.ids;
    if (b && host == b->pos && n <= b->n_rows) return s->step.batch.pos;
    kvq_cuda_room room = kvq_cuda_take_room(s, (size_t)n * sizeof(int));
    if (!room.host) return (const int *)s->lists; /* of the step: whatever is read there is no good any more */
    memcpy(room.host, host, (size_t)n * sizeof(int));
    kvq_cuda_send(s, room, (size_t)n * sizeof(int));
    return (const int *)room.device;
}

void kvq_cuda_fill_step(kvq_ops *ops) {
    ops->begin = begin;
}
