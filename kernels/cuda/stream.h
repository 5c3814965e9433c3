/* stream.h (cuda): the CUDA backend's stream, and what its files say to each other. Included by every .cu file first:
 * it brings the operators' contracts, which are C. */
#ifndef KVQ_CUDA_STREAM_H
#define KVQ_CUDA_STREAM_H

extern "C" {
#include "../backend.h"
#include "../formats.h"
#include "../hadamard.h"
#include "../runs.h"
}
#include "cublas.cuh"
#include "launch.cuh"
#include "ptx.cuh"

#define KVQ_CUDA_QUERIES 16      /* most queries of a tile of attend: the rows of a tensor core's product */
#define KVQ_CUDA_SHARING_TILES 4 /* tiles of one page that attend takes together */
#define KVQ_CUDA_FEW_ROWS 64     /* of a product that is bound by its weights: linear.cu has another kernel for more */

/* The step on the device: what `begin` was given, with every list and page table copied there in one piece. */
typedef struct kvq_cuda_step {
    kvq_batch batch; /* all pointers are the device's */
    const kvq_batch *host;
    kvq_head_tiles heads; /* of attend: rows of one page, times heads of a KV group, are a tile */
    const kvq_row_run *tiles;
    int small_end; /* up to here tiles of at most 8 queries that have a block for themselves */
    int alone_end; /* then larger ones */
    int n_tiles;   /* then those that share their page's copies, KVQ_CUDA_SHARING_TILES places a block */
    int n_groups;
    int most_splits; /* that a tile sees when nothing is behind a window */
} kvq_cuda_step;

/* Launches in the order they were asked for, with their arguments' values (graph.cu). */
typedef struct kvq_cuda_calls {
    struct kept_call *list; /* [KVQ_CUDA_CALLS] */
    uint8_t *values;        /* [KVQ_CUDA_VALUE_BYTES] */
    int n;
    size_t value_bytes;
} kvq_cuda_calls;

/* Activations in 8 bits (columns.cuh), of rows [n_rows / 8, n_steps]. No columns: there are none. With squares they are
 * of rows before their RMS norm, times its weights: its factor, 1 / sqrt(mean square + eps), is the product's to find.
 */
typedef struct kvq_activations {
    struct kvq_columns *columns; /* rows behind n_rows are anything */
    float *squares;              /* [n_rows, n_steps] the sum of each step's squares, or NULL */
    int n_steps;                 /* of 32 inputs, in a row */
    float eps;
} kvq_activations;

/* Activations as halves (half_rows.cuh): rows times a power of two that brings them into a half's range; each eight of
 * inputs in the order of kvq_half_input. Row r, input i is at
 * halves[r / 8 * 8 * n_in + r % 8 * row_apart + i / 32 * step_apart + i % 32], where steps of 32 lie side by side in a
 * matrix by rows (row_apart is n_in), and those of eight rows in kvq_half_columns (row_apart is 32). No padding:
 * graph.cu compares arguments. */
typedef struct kvq_half_rows {
    uint16_t *halves;
    float *scale; /* [n_rows] of the row's results; NaN where they are */
    int n_in, row_apart;
} kvq_half_rows;

/* Activations in 8 bits that a kernel left beside its floats, or instead of them. */
typedef struct kvq_cuda_left {
    const float *floats;
    int n_rows;
    kvq_activations x;
    uint64_t launch; /* the kernel's: n_launches, once it is launched */
} kvq_cuda_left;

/* What the blocks of a product of up to KVQ_CUDA_FEW_ROWS do behind it, whatever operator asked for that: its results,
 * or act(gate) * up of them, are left in 8 bits for another product. No padding: graph.cu compares arguments. */
typedef struct kvq_epilogue {
    kvq_activations left; /* no columns: nothing */
    const float *weight;  /* that values are multiplied by first: of the norm that left.squares is for; or NULL */
    float *gated;         /* [n_rows, n_out / 2] act(gate) * up in float, too; NULL: no glu */
    kvq_activation activation;
    int n_halves; /* 2: results are [gate | up], of as many tiles; else 1 */
} kvq_epilogue;

/* What fuse.cu holds back until the next operator is known; one at most. */
typedef enum kvq_cuda_held_kind {
    KVQ_HELD_NOTHING,
    KVQ_HELD_PRODUCT,
    KVQ_HELD_NORM,
    KVQ_HELD_FEEDING_NORM, /* of which only the next product needs results */
    KVQ_HELD_GLU
} kvq_cuda_held_kind;
typedef struct kvq_cuda_held {
    kvq_cuda_held_kind what;
    kvq_linear product; /* of the matrix below, activations x */
    kvq_matrix matrix;
    kvq_activations x;
    kvq_norm norm;
    kvq_glu glu;
} kvq_cuda_held;

/* A step that was replayed or may be: a CUDA graph of its launches, one behind the other. */
typedef struct kvq_cuda_graph {
    kvq_cuda_calls calls; /* as the graph has them now */
    cudaGraph_t graph;
    cudaGraphNode_t *nodes;
    cudaGraphExec_t exec; /* NULL: seen once, not built yet */
    uint64_t used_at;     /* in steps */
} kvq_cuda_graph;

enum { KVQ_CUDA_GRAPHS = 8, KVQ_CUDA_CALLS = 4096, KVQ_CUDA_VALUE_BYTES = 1 << 20 };

struct kvq_stream {
    cudaStream_t cuda;
    kvq_device *device;
    kvq_shapes shapes;
    size_t shared_bytes; /* that a block may have */
    int capability;      /* 90: compute capability 9.0 */
    int built_for;       /* that of the code it runs: lower where the plugin has only PTX of a lower one */
    int n_sms;
    size_t l2_bytes;
    kvq_cublas *cublas; /* NULL: not for a stream of such shapes, or there is none */
    int cublas_rows;    /* of a product that is cuBLAS', at least */
    int halves_rows;    /* the same of linear_halves.cu's */

    uint8_t *workspace; /* each operator may use all of it; nothing survives it but a held product's activations */
    size_t workspace_bytes;
    /* What a kernel leaves for the product behind it, of KVQ_CUDA_FEW_ROWS at most; and what that product leaves
     * itself, while it reads the other. */
    kvq_activations room_left[2];
    int next_left;
    kvq_cuda_left left;
    kvq_cuda_held held;
    uint64_t n_launches;
    unsigned *counters; /* of blocks that are done, one for each tile of attend, or of linear_halves.cu's outputs and
                         * rows; all are 0 between launches */
    size_t n_counters;
    uint8_t *cublas_memory;   /* KVQ_CUBLAS_BYTES, the library's own */
    uint8_t *staging, *lists; /* the step's lists: pinned on the host, and on the device; then other lists */
    size_t lists_bytes, room_bytes, room_used;
    cudaEvent_t uploaded; /* staging may be written again */
    cudaEvent_t fetched[KVQ_BACKEND_FETCHES];
    bool failed[KVQ_BACKEND_FETCHES]; /* its bytes are nothing: the stream had an error, or a wait since */
    kvq_cuda_step step;
    kvq_error error; /* the first */

    bool launches_early;           /* where the device can and somebody wants it: graph.cu */
    bool uses_graphs, keeps_calls; /* keeps: launches wait in `calls` until kvq_cuda_flush */
    kvq_cuda_calls calls;
    kvq_cuda_graph graphs[KVQ_CUDA_GRAPHS];
    uint64_t n_steps, n_replays;
    struct kvq_cuda_times *times; /* of kernels; NULL: nobody wants to know */
};

/* Keeps the first error of the stream. */
void kvq_cuda_fail(kvq_stream *s, kvq_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* After a call of the runtime or a launch: a failure becomes the stream's error. */
void kvq_cuda_check(kvq_stream *s, cudaError_t error, const char *what);

/* After the host has waited for something: an error that shows now counts against every fetch under way. */
void kvq_cuda_waited(kvq_stream *s, cudaError_t error, const char *what);

/* Launches from now on are kept until kvq_cuda_flush, which launches them as one graph if it can. */
void kvq_cuda_keep_calls(kvq_stream *s);
void kvq_cuda_flush(kvq_stream *s);
bool kvq_cuda_graphs_init(kvq_stream *s); /* false: no memory of the host */
void kvq_cuda_graphs_done(kvq_stream *s);

/* Times of kernels (times.cu); NULL where they were not asked for. _done prints them and frees. */
typedef struct kvq_cuda_times kvq_cuda_times;
kvq_cuda_times *kvq_cuda_times_new(void);
void kvq_cuda_times_begin(kvq_cuda_times *t, cudaStream_t stream); /* around each launch */
void kvq_cuda_times_end(kvq_cuda_times *t, cudaStream_t stream, const char *name, dim3 grid);
void kvq_cuda_times_done(kvq_cuda_times *t); /* NULL allowed */

/* `bytes` of the workspace from *used on; NULL after an error of the stream when it is too small, which only a job
 * beyond the stream's shapes can cause. */
void *kvq_cuda_take(kvq_stream *s, size_t *used, size_t bytes);

/* For an operator that is about to launch a kernel which makes all of [n_rows, n_cols] floats, or the last of them:
 * where it may leave them in 8 bits as well, or instead (a norm's that feeds a linear), for a product whose operator
 * comes next (linear.cu), which would have to read them for that again. Any launch in between, and they do not count.
 * No columns where no product would take them. norm: where it leaves them before that norm, with squares; else NULL. */
kvq_activations kvq_cuda_leave(kvq_stream *s, const float *floats, int n_rows, int n_cols, const kvq_norm *norm);

/* Whether a product can take rows so long in 8 bits from a kernel before it, or leave them. */
bool kvq_cuda_fits_left(const kvq_stream *s, int n_cols);

/* Operators that are held back, in case they can be part of the one before or the one behind (fuse.cu). */
void kvq_cuda_settle(kvq_stream *s); /* nothing is held any more: before any launch */
void kvq_cuda_hold_product(kvq_stream *s, const kvq_linear *job, const kvq_activations *x);
void kvq_cuda_fuse_norm(kvq_stream *s, const kvq_norm *job); /* does it, or holds it */
void kvq_cuda_fuse_glu(kvq_stream *s, const kvq_glu *job);
/* The norm whose results the product reads and that was held back for it: the caller's work from now on. Whatever else
 * is held is settled. */
bool kvq_cuda_take_norm(kvq_stream *s, const kvq_linear *job, kvq_norm *ret);
/* The product's rows as halves, by the norm or glu that makes them, if that was held back; false: nothing done. */
bool kvq_cuda_fuse_conversion(kvq_stream *s, const kvq_linear *job, const kvq_half_rows *to);
/* Their launches. then: NULL for nothing. next: the norm of the norm's results that feeds a product, or NULL. halves:
 * where results are left beside their floats, or NULL; of rows that are multiples of 32, and without `next`. */
void kvq_cuda_launch_product(kvq_stream *s, const kvq_linear *job, const kvq_activations *x, const kvq_epilogue *then);
void kvq_cuda_launch_norm(kvq_stream *s, const kvq_norm *job, const kvq_norm *next, const kvq_half_rows *halves);
void kvq_cuda_launch_glu(kvq_stream *s, const kvq_glu *job, const kvq_half_rows *halves);

/* The step on the device; NULL after an error of the stream when `begin` was not called for this batch. */
const kvq_cuda_step *kvq_cuda_step_of(kvq_stream *s, const kvq_batch *batch);

/* Room behind the step's lists, for `n_bytes` until the next step begins: written to on the host, then sent. host is
 * NULL after an error of the stream when there never is as much. */
typedef struct kvq_cuda_room {
    uint8_t *host, *device;
} kvq_cuda_room;
kvq_cuda_room kvq_cuda_take_room(kvq_stream *s, size_t n_bytes);
void kvq_cuda_send(kvq_stream *s, kvq_cuda_room room, size_t n_bytes);

/* A list of ints on the device: the step's own when it is one of the batch's, else copied behind the step's lists. */
const int *kvq_cuda_ints(kvq_stream *s, const int *host, int n);

static inline size_t kvq_cuda_aligned(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}
static inline int kvq_cuda_blocks(int n, int per_block) {
    return (n + per_block - 1) / per_block;
}
/* Splits of attend that n_tokens of a sequence have. */
static inline int kvq_cuda_splits(int n_tokens, int block_tokens) {
    return kvq_cuda_blocks(n_tokens, block_tokens * KVQ_SPLIT_PAGES);
}

/* Places in the list of a step's tiles, at most: of two rows, each a tile, that share their page. */
static inline size_t kvq_cuda_tiles_most(int n_rows) {
    return (size_t)n_rows * KVQ_CUDA_SHARING_TILES / 2 + KVQ_CUDA_SHARING_TILES;
}

/* What operators need of the workspace at most; each stands beside its operator. */
size_t kvq_cuda_linear_bytes(const kvq_shapes *shapes, int n_sms);
size_t kvq_cuda_left_bytes(const kvq_shapes *shapes);              /* of kvq_stream.room_left, beside the workspace */
size_t kvq_cuda_halves_bytes(const kvq_shapes *shapes, int n_sms); /* linear_halves.cu's part of linear's */
size_t kvq_cuda_cublas_bytes(const kvq_shapes *shapes);            /* linear_cublas.cu's, of streams that have cuBLAS */
size_t kvq_cuda_refine_bytes(const kvq_shapes *shapes);
size_t kvq_cuda_attend_bytes(const kvq_shapes *shapes);
/* Of kvq_stream.counters, beside the workspace. */
size_t kvq_cuda_attend_counters(const kvq_shapes *shapes);
size_t kvq_cuda_halves_counters(int n_sms);
size_t kvq_cuda_sample_bytes(const kvq_shapes *shapes);

/* The stream's room_left out of that memory. */
void kvq_cuda_place_left(kvq_stream *s, uint8_t *memory);

/* The table's fillers, one per file. */
void kvq_cuda_fill_rows(kvq_ops *ops); /* embed, norm, glu, rope_table, gather, softcap */
void kvq_cuda_fill_linear(kvq_ops *ops);
void kvq_cuda_fill_refine(kvq_ops *ops);
void kvq_cuda_fill_append(kvq_ops *ops);
void kvq_cuda_fill_close(kvq_ops *ops);
void kvq_cuda_fill_attend(kvq_ops *ops);
void kvq_cuda_fill_sample(kvq_ops *ops);
void kvq_cuda_fill_step(kvq_ops *ops); /* begin */

/* Allow kernels that much shared memory a block; once, when the device is opened. */
kvq_status kvq_cuda_allow_attend(size_t shared_bytes, kvq_error *err);
kvq_status kvq_cuda_allow_halves(size_t shared_bytes, kvq_error *err);

/* Whether a product is made of activations in halves (linear_halves.cu): where results may depend on the batch, of many
 * rows. Then there is nothing to refine. */
bool kvq_cuda_takes_halves(const kvq_stream *s, const kvq_matrix *m, int n_rows);
/* The same of any coded weights, as far as that is known without them: nobody needs such rows in 8 bits. */
bool kvq_cuda_codes_as_halves(const kvq_stream *s, int n_rows);
/* Makes it; false, and nothing done, where kvq_cuda_takes_halves says no. */
bool kvq_cuda_linear_halves(kvq_stream *s, const kvq_linear *job);
/* The same by cuBLAS (linear_cublas.cu), of more rows still; false, and nothing done, where it is not for this product
 * or the stream has none. */
bool kvq_cuda_linear_cublas(kvq_stream *s, const kvq_linear *job);
/* A first product, at the start. Errors: KVQ_DEVICE. */
kvq_status kvq_cuda_try_cublas(kvq_stream *s, kvq_error *err);
/* From how many rows on halves are taken where they are allowed. */
int kvq_cuda_least_halves_rows();
/* From how many rows on a device takes cuBLAS; INT_MAX: never. */
int kvq_cuda_least_cublas_rows(int capability);

#endif
