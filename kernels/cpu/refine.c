/* refine.c: `refine` over the compute pool, the same for every instruction set, whose coded products it uses
 * (linear.h). First each row's threshold and what its codes leave, quantized once more; then runs of tiles are looked
 * through, and those that hold a value above the threshold get the product of what was left. */
#include <math.h>
#include <string.h>

#include "../ref/activations.h"
#include "linear.h"

#define TILES_PER_ITEM 256 /* 16 KB of values: looked through in a microsecond or two */

typedef struct refine_work {
    const kvq_refine *job;
    const kvq_linear_kernels *kernels;
    float *rest;      /* [threads, n_in]: what the codes of a row leave */
    float *threshold; /* [n_rows] */
    uint8_t *panels;  /* [n_rows] panels of one row */
    size_t panel_bytes;
    int items_per_row;
} refine_work;

/* Lanes apart, so that compilers make vectors of it; a NaN is never larger. */
static float largest_of(const float *x, int n) {
    float lanes[KVQ_TILE_ROWS], largest = -INFINITY;
    for (int l = 0; l < KVQ_TILE_ROWS; l++) lanes[l] = -INFINITY;
    int i = 0;
    for (; i + KVQ_TILE_ROWS <= n; i += KVQ_TILE_ROWS)
        for (int l = 0; l < KVQ_TILE_ROWS; l++) lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
    for (; i < n; i++) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    for (int l = 0; l < KVQ_TILE_ROWS; l++) largest = lanes[l] > largest ? lanes[l] : largest;
    return largest;
}

static bool any_above(const float *x, int n, float threshold) {
    int above = 0;
    for (int i = 0; i < n; i++) above |= x[i] >= threshold;
    return above;
}

static void prepare_row(void *arg, int r, int worker) {
    const refine_work *w = arg;
    int n_in = w->job->w->n_in, n_out = w->job->w->n_out;
    float *rest = w->rest + (size_t)worker * n_in;
    kvq_ref_remainder(w->job->in + (size_t)r * n_in, n_in, rest);
    w->kernels->quantize(rest, n_in, 1, true, w->panels + r * w->panel_bytes);
    w->threshold[r] = largest_of(w->job->x + (size_t)r * n_out, n_out) - w->job->margin;
}

static void refine_tile(const refine_work *w, const kvq_matrix_part *part, int tile, int r) {
    int n_out = w->job->w->n_out, column = tile * KVQ_TILE_ROWS, left = part->n_rows - column;
    float *x = w->job->x + (size_t)r * n_out + part->row_begin;
    if (!any_above(x + column, left < KVQ_TILE_ROWS ? left : KVQ_TILE_ROWS, w->threshold[r])) return;
    w->kernels->coded(&(kvq_linear_run){.part = part,
                                        .tile_begin = tile,
                                        .n_tiles = 1,
                                        .panel = w->panels + r * w->panel_bytes,
                                        .n_rows = 1,
                                        .n_in = w->job->w->n_in,
                                        .n_out = n_out,
                                        .out = x,
                                        .residual = x});
}

/* Tiles are numbered through the parts. */
static void refine_item(void *arg, int item, int worker) {
    (void)worker;
    const refine_work *w = arg;
    int r = item / w->items_per_row, begin = item % w->items_per_row * TILES_PER_ITEM;
    const kvq_matrix *m = w->job->w;
    for (int p = 0; p < m->n_parts; p++) {
        const kvq_matrix_part *part = &m->parts[p];
        int n_tiles = kvq_items(part->n_rows, KVQ_TILE_ROWS), end = begin + TILES_PER_ITEM;
        for (int t = begin > 0 ? begin : 0; t < end && t < n_tiles && part->layout.bits; t++)
            refine_tile(w, part, t, r);
        begin -= n_tiles;
    }
}

void kvq_cpu_refine(kvq_stream *s, const kvq_refine *job, const kvq_linear_kernels *kernels) {
    if (job->n_rows == 0 || job->w->n_in % KVQ_ACT_GROUP != 0) return; /* floats have nothing to refine */
    size_t n_in = (size_t)job->w->n_in, used = 0;
    refine_work w = {.job = job, .kernels = kernels};
    w.panel_bytes = n_in / KVQ_ACT_GROUP * KVQ_PANEL_GROUP_BYTES;
    w.rest = kvq_stream_take(s, &used, (size_t)kvq_workers_count(s->workers) * n_in * sizeof *w.rest);
    w.threshold = kvq_stream_take(s, &used, (size_t)job->n_rows * sizeof *w.threshold);
    w.panels = kvq_stream_take(s, &used, (size_t)job->n_rows * w.panel_bytes);
    if (s->error.code != KVQ_OK) return;
    int n_tiles = 0;
    for (int p = 0; p < job->w->n_parts; p++) n_tiles += kvq_items(job->w->parts[p].n_rows, KVQ_TILE_ROWS);
    w.items_per_row = kvq_items(n_tiles, TILES_PER_ITEM);
    kvq_workers_run(s->workers, prepare_row, &w, job->n_rows);
    kvq_workers_run(s->workers, refine_item, &w, job->n_rows * w.items_per_row);
}
