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

/* ---- tiles of attend ---- */

typedef enum tile_sort { SMALL_TILE, ALONE_TILE, SHARING_TILE } tile_sort;

/* What tiles are cut of. */
typedef struct tile_rules {
    const kvq_batch *batch;
    int block_tokens, small_rows; /* tiles of so many rows at most are small */
    bool share, small_share;      /* those of a page its copies; small ones too (f16 has no others) */
} tile_rules;

static int page_of(const tile_rules *rules, const kvq_row_run *run) {
    return rules->batch->pos[run->row_begin] / rules->block_tokens;
}

static bool may_share(const tile_rules *rules, const kvq_row_run *run) {
    return rules->share && (rules->small_share || run->n_rows > rules->small_rows);
}

/* Of the runs of a page, which begin at *runs: how many there are; *ret_n_sharing of them may share it. */
static int runs_of_page(const tile_rules *rules, const kvq_row_run *runs, int n, int *ret_n_sharing) {
    int i = 0;
    *ret_n_sharing = 0;
    for (; i < n && runs[i].seq == runs[0].seq && page_of(rules, &runs[i]) == page_of(rules, &runs[0]); i++)
        *ret_n_sharing += may_share(rules, &runs[i]);
    return i;
}

/* Behind a page's n_sharing tiles, the last of which is tiles[n - 1], places without rows until blocks are full. */
static int fill_up(kvq_row_run *tiles, int n, int n_sharing) {
    int more = kvq_cuda_blocks(n_sharing, KVQ_CUDA_SHARING_TILES) * KVQ_CUDA_SHARING_TILES - n_sharing;
    for (; more > 0; more--, n++) tiles[n] = kvq_row_run{tiles[n - 1].seq, tiles[n - 1].row_begin, 0};
    return n;
}

/* Appends the runs of one sort to tiles[0, n); returns how many there are then. */
static int append_tiles(const tile_rules *rules, tile_sort sort, const kvq_row_run *runs, int n_runs,
                        kvq_row_run *tiles, int n) {
    for (int i = 0, n_sharing, n_of_page; i < n_runs; i += n_of_page) {
        n_of_page = runs_of_page(rules, runs + i, n_runs - i, &n_sharing);
        for (int j = i; j < i + n_of_page; j++) {
            bool shares = n_sharing > 1 && may_share(rules, &runs[j]);
            tile_sort is = shares ? SHARING_TILE : runs[j].n_rows > rules->small_rows ? ALONE_TILE : SMALL_TILE;
            if (is == sort) tiles[n++] = runs[j];
        }
        if (sort == SHARING_TILE && n_sharing > 1) n = fill_up(tiles, n, n_sharing);
    }
    return n;
}

/* Whether blocks of sharing tiles would keep the device busy. Where there are few rows, a block for each tile, whose
 * warps share its pieces, is done sooner. */
static bool is_worth_sharing(const kvq_stream *s, const kvq_cuda_step *step, int n_rows) {
    int64_t n_tiles = n_rows / step->heads.rows_a_tile;
    return n_tiles / KVQ_CUDA_SHARING_TILES * step->heads.n_tiles * step->most_splits >= 2 * s->n_sms;
}

/* Cuts the step's rows into tiles; runs is room for as many as there are rows. Halves take two rows of a product each
 * (attend_piece.cuh). */
static void cut_tiles(const kvq_stream *s, kvq_cuda_step *step, const kvq_batch *b, const kvq_kv *kv, kvq_row_run *runs,
                      kvq_row_run *tiles) {
    bool halves = kv->policy->k_bits == 16;
    step->heads =
        kvq_cut_heads(s->shapes.n_heads, s->shapes.n_kv_heads, halves ? KVQ_CUDA_QUERIES / 2 : KVQ_CUDA_QUERIES);
    const tile_rules rules = {.batch = b,
                              .block_tokens = kv->block_tokens,
                              .small_rows = KVQ_CUDA_QUERIES / 2 / step->heads.heads_a_tile,
                              .share = is_worth_sharing(s, step, b->n_rows),
                              .small_share = halves};
    int n_runs = kvq_cut_rows(b, kv->block_tokens, step->heads.rows_a_tile, runs);
    step->small_end = append_tiles(&rules, SMALL_TILE, runs, n_runs, tiles, 0);
    step->alone_end = append_tiles(&rules, ALONE_TILE, runs, n_runs, tiles, step->small_end);
    step->n_tiles = append_tiles(&rules, SHARING_TILE, runs, n_runs, tiles, step->alone_end);
}

/* ---- the operator ---- */

static void begin(kvq_stream *s, const kvq_begin *job) {
    const kvq_batch *b = job->batch;
    kvq_cuda_flush(s); /* a step without logits ends here */
    kvq_cuda_waited(s, cudaEventSynchronize(s->uploaded), "a step");
    layout l = {s, 0, false};
    kvq_cuda_step step = {};
    step.batch = *b;
    step.host = b;
    step.n_groups = job->kv->n_groups;
    step.batch.ids = (const int *)place_copy(&l, b->ids, (size_t)b->n_rows * sizeof(int));
    step.batch.pos = (const int *)place_copy(&l, b->pos, (size_t)b->n_rows * sizeof(int));
    step.batch.row_seq = (const int *)place_copy(&l, b->row_seq, (size_t)b->n_rows * sizeof(int));
    const void *tiles_at = NULL, *seqs_at = NULL;
    kvq_row_run *tiles = (kvq_row_run *)place(&l, kvq_cuda_tiles_most(b->n_rows) * sizeof *tiles, &tiles_at);
    kvq_batch_seq *seqs = (kvq_batch_seq *)place(&l, (size_t)b->n_seqs * sizeof *seqs, &seqs_at);
    /* What varies in length from one decode step to the next comes last: what kernels are given of the rest stays, and
     * so do the launches of a graph. */
    step.batch.closes = (const kvq_batch_close *)place_copy(&l, b->closes, (size_t)b->n_closes * sizeof *b->closes);
    if (seqs) {
        memcpy(seqs, b->seqs, (size_t)b->n_seqs * sizeof *seqs);
        place_pages(&l, seqs, b, job->kv);
    }
    step.batch.seqs = (const kvq_batch_seq *)seqs_at;
    size_t n_bytes = l.used; /* what comes behind stays on the host */
    const void *nowhere;
    kvq_row_run *runs = (kvq_row_run *)place(&l, (size_t)b->n_rows * sizeof *runs, &nowhere);
    if (l.overflows) {
        kvq_cuda_fail(s, KVQ_INTERNAL, "the lists of a step of %d rows do not fit in %zu bytes", b->n_rows,
                      s->lists_bytes);
        s->step = kvq_cuda_step{};
        return;
    }
    step.tiles = (const kvq_row_run *)tiles_at;
    int longest = 1;
    for (int i = 0; i < b->n_seqs; i++) {
        int n = b->seqs[i].pos_begin + b->seqs[i].n_rows;
        if (n > longest) longest = n;
    }
    step.most_splits = kvq_cuda_splits(longest, job->kv->block_tokens);
    cut_tiles(s, &step, b, job->kv, runs, tiles);
    s->step = step;
    s->room_used = 0;
    s->next_left = 0; /* as in the step before, for its graph */
    kvq_cuda_check(s, cudaMemcpyAsync(s->lists, s->staging, n_bytes, cudaMemcpyHostToDevice, s->cuda),
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
        kvq_cuda_waited(s, cudaStreamSynchronize(s->cuda), "waiting for a copy");
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
