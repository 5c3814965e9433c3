/* linear.c: how a matrix product is cut into work, the same for every instruction set (linear_tmpl.h has the
 * arithmetic).
 *
 * First the activations are packed into panels, then runs of tiles are handed out; each run walks all panels, so that
 * weights come from memory once and stay in the second-level cache while the panels pass; or, where an instruction set
 * gains by it, each tile is unpacked once for a chunk of panels. No output is ever cut: how
 * the work is shared cannot change a bit. */
#include "linear.h"

#define RUN_BYTES ((size_t)192 << 10) /* of weights: leaves room for panels in a second-level cache of 512 KiB */
#define RUNS_A_THREAD 6               /* at least, when there are tiles enough, so that threads finish together */
#define PACK_VALUES 16384             /* of one packing item */

#define CHUNK_ROWS 144 /* that a tile, unpacked once, is multiplied by: at least */

/* Panels, of which those of floats are the largest, and tiles per worker; ref wants less. */
size_t kvq_linear_workspace_bytes(const kvq_shapes *shapes, int threads) {
    size_t n_in = (size_t)shapes->max_in + KVQ_ACT_GROUP, n_rows = (size_t)shapes->max_rows;
    return n_rows * n_in * sizeof(float) + (size_t)threads * KVQ_UNPACK_TILES_MOST * kvq_unpacked_bytes((int)n_in) +
           8 * KVQ_ALIGN;
}

typedef struct linear_work {
    const kvq_linear *job;
    const kvq_linear_kernels *kernels;
    bool floats; /* the parts with float layouts, or those with codes */
    bool halves; /* some of those have groups of 16 */
    uint8_t *panels;
    size_t row_bytes; /* of a panel, per row */
    int panel_rows, n_panels, panels_per_item, panels_per_chunk;
    int tiles_per_item;
    uint8_t *tiles;      /* where workers unpack theirs; NULL: panels are multiplied by tiles as they are */
    size_t worker_bytes; /* of a worker's tiles */
} linear_work;

static bool wanted(const linear_work *w, const kvq_matrix_part *part) {
    return (part->layout.bits == 0) == w->floats;
}

static bool has_halves(const kvq_matrix *m) {
    for (int p = 0; p < m->n_parts; p++)
        if (m->parts[p].layout.bits > 0 && m->parts[p].layout.group < KVQ_ACT_GROUP) return true;
    return false;
}

static int tiles_of(const kvq_matrix_part *part) {
    return kvq_items(part->n_rows, KVQ_TILE_ROWS);
}

/* Panels are as equal as they can be: 13 rows are 7 and 6 rather than 12 and 1. */
static int panel_begin(const linear_work *w, int panel) {
    return (int)((int64_t)panel * w->job->n_rows / w->n_panels);
}

static void pack_item(void *arg, int item, int worker) {
    (void)worker;
    const linear_work *w = arg;
    const kvq_linear *job = w->job;
    int end = (item + 1) * w->panels_per_item;
    for (int p = item * w->panels_per_item; p < end && p < w->n_panels; p++) {
        int row = panel_begin(w, p), n_rows = panel_begin(w, p + 1) - row;
        const float *in = job->in + (size_t)row * job->w->n_in;
        uint8_t *panel = w->panels + (size_t)row * w->row_bytes;
        if (w->floats)
            w->kernels->transpose(in, job->w->n_in, n_rows, panel);
        else
            w->kernels->quantize(in, job->w->n_in, n_rows, w->halves, panel);
    }
}

/* Which part and tiles an item is: items are numbered through the wanted parts. */
static kvq_linear_run run_of(const linear_work *w, int item) {
    const kvq_matrix_part *part = w->job->w->parts;
    for (;; part++) {
        int n_items = wanted(w, part) ? kvq_items(tiles_of(part), w->tiles_per_item) : 0;
        if (item < n_items) break;
        item -= n_items;
    }
    int begin = item * w->tiles_per_item, left = tiles_of(part) - begin;
    return (kvq_linear_run){.part = part,
                            .tile_begin = begin,
                            .n_tiles = left < w->tiles_per_item ? left : w->tiles_per_item,
                            .n_in = w->job->w->n_in,
                            .n_out = w->job->w->n_out};
}

static void set_panel(const linear_work *w, kvq_linear_run *run, int p) {
    const kvq_linear *job = w->job;
    int row = panel_begin(w, p);
    size_t at = (size_t)row * run->n_out + run->part->row_begin;
    run->n_rows = panel_begin(w, p + 1) - row;
    run->panel = w->panels + (size_t)row * w->row_bytes;
    run->out = job->out + at;
    run->residual = job->residual ? job->residual + at : NULL;
}

/* All panels, a chunk at a time, while the tiles, in the first-level cache if they are not too large, pass. */
static void run_unpacked(const linear_work *w, kvq_linear_run run, uint8_t *tile) {
    int end = run.tile_begin + run.n_tiles, begin = run.tile_begin;
    int chunk = w->panels_per_chunk, most = w->kernels->unpack_tiles;
    for (int from = 0; from < w->n_panels; from += chunk) {
        int to = from + chunk < w->n_panels ? from + chunk : w->n_panels;
        for (int first = begin; first < end; first += most) {
            run.n_tiles = end - first < most ? end - first : most;
            for (int t = 0; t < run.n_tiles; t++) {
                run.tile_begin = first + t;
                w->kernels->unpack(&run, tile + (size_t)t * kvq_unpacked_bytes(run.n_in));
            }
            run.tile_begin = first;
            for (int p = from; p < to; p++) {
                set_panel(w, &run, p);
                w->kernels->unpacked(&run, tile);
            }
        }
    }
}

static void run_item(void *arg, int item, int worker) {
    const linear_work *w = arg;
    const kvq_linear *job = w->job;
    kvq_linear_run run = run_of(w, item);
    run.bias = job->bias ? job->bias + run.part->row_begin : NULL;
    if (w->tiles) {
        if (w->kernels->enter) w->kernels->enter();
        run_unpacked(w, run, w->tiles + (size_t)worker * w->worker_bytes);
        if (w->kernels->leave) w->kernels->leave();
        return;
    }
    for (int p = 0; p < w->n_panels; p++) {
        set_panel(w, &run, p);
        if (w->floats)
            w->kernels->floats(&run);
        else
            w->kernels->coded(&run);
    }
}

static int count_items(const linear_work *w) {
    int n = 0;
    for (int p = 0; p < w->job->w->n_parts; p++)
        if (wanted(w, &w->job->w->parts[p])) n += kvq_items(tiles_of(&w->job->w->parts[p]), w->tiles_per_item);
    return n;
}

/* Tiles of an item: RUN_BYTES of weights, fewer when that leaves threads without work. */
static int choose_tiles_per_item(const linear_work *w, int threads) {
    int n_tiles = 0;
    size_t largest = 1;
    for (int p = 0; p < w->job->w->n_parts; p++) {
        const kvq_matrix_part *part = &w->job->w->parts[p];
        if (!wanted(w, part)) continue;
        n_tiles += tiles_of(part);
        if (part->tile_bytes > largest) largest = part->tile_bytes;
    }
    int by_bytes = (int)(RUN_BYTES / largest), by_threads = n_tiles / (RUNS_A_THREAD * threads);
    int tiles = by_bytes < by_threads ? by_bytes : by_threads;
    return tiles > 0 ? tiles : 1;
}

/* Panels that stay in half of the second-level cache while tiles pass. */
static int choose_panels_per_chunk(const linear_work *w, size_t cache_bytes) {
    size_t n_rows = cache_bytes / 2 / w->row_bytes;
    return kvq_items(n_rows > CHUNK_ROWS ? (int)n_rows : CHUNK_ROWS, w->panel_rows);
}

static void run_parts(kvq_stream *s, linear_work *w) {
    int n_in = w->job->w->n_in, threads = kvq_workers_count(s->workers);
    bool unpacks = w->kernels->unpack && !w->floats && w->job->n_rows >= w->kernels->unpack_from;
    int tiles_at_once = unpacks ? w->kernels->unpack_tiles : 1;
    size_t used = 0;
    w->panel_rows = unpacks ? w->kernels->unpack_rows : w->kernels->panel_rows;
    w->n_panels = kvq_items(w->job->n_rows, w->panel_rows);
    w->tiles_per_item = kvq_items(choose_tiles_per_item(w, threads), tiles_at_once) * tiles_at_once;
    int n_items = count_items(w);
    if (n_items == 0) return;
    w->row_bytes = w->floats ? (size_t)n_in * sizeof(float) : (size_t)(n_in / KVQ_ACT_GROUP) * KVQ_PANEL_GROUP_BYTES;
    w->panels = kvq_stream_take(s, &used, (size_t)w->job->n_rows * w->row_bytes);
    w->worker_bytes = (size_t)tiles_at_once * kvq_unpacked_bytes(n_in);
    w->tiles = unpacks ? kvq_stream_take(s, &used, (size_t)threads * w->worker_bytes) : NULL;
    if (s->error.code != KVQ_OK) return;
    w->panels_per_chunk = choose_panels_per_chunk(w, s->cache_bytes);
    int panel_values = n_in * w->panel_rows;
    w->panels_per_item = panel_values < PACK_VALUES ? PACK_VALUES / panel_values : 1;
    kvq_workers_run(s->workers, pack_item, w, kvq_items(w->n_panels, w->panels_per_item));
    kvq_workers_run(s->workers, run_item, w, n_items);
}

void kvq_cpu_linear(kvq_stream *s, const kvq_linear *job, const kvq_linear_kernels *kernels) {
    if (job->n_rows == 0) return;
    linear_work work = {.job = job, .kernels = kernels, .halves = has_halves(job->w)};
    run_parts(s, &work);
    work.floats = true;
    run_parts(s, &work);
}
