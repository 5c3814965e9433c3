/* linear.h: what linear.c (who computes what) and linear_tmpl.h (how, per instruction set) say to each other.
 *
 * A *panel* is up to panel_rows activation rows, packed so that a kernel reads them forward while it walks the groups
 * of a tile of weights, which is loaded once for all rows of the panel. R rows, for each group of 32 inputs in order:
 *
 *   codes    int8  [R][32]   q
 *   scale    float [R]       d
 *   sums     int16 [3][R][2] S of all 32, of 0-15, of 16-31, each in the two parts that the halves of a lane get
 *                            (simd.h): inputs 4k and 4k + 1, inputs 4k + 2 and 4k + 3
 *   d S      float [3][R]    d * S of the same: what a minimum is multiplied by
 *
 * Panels for float weights are transposed rows: float [n_in][R]. */
#ifndef KVQ_CPU_LINEAR_H
#define KVQ_CPU_LINEAR_H

#include "stream.h"

/* Bytes of a group of 32 inputs of one row, by field, in the order of the picture. */
#define KVQ_PANEL_SCALE KVQ_ACT_GROUP
#define KVQ_PANEL_SUMS (KVQ_PANEL_SCALE + 4)
#define KVQ_PANEL_D_SUMS (KVQ_PANEL_SUMS + 12)
#define KVQ_PANEL_GROUP_BYTES (KVQ_PANEL_D_SUMS + 12)

/* Tiles [tile_begin, tile_begin + n_tiles) of a part times one panel. */
typedef struct kvq_linear_run {
    const kvq_matrix_part *part;
    int tile_begin, n_tiles;
    const void *panel;
    int n_rows, n_in, n_out; /* rows of the panel; n_out is the row stride of out and residual */
    float *out;              /* the panel's first row, the part's first output */
    const float *bias, *residual;
} kvq_linear_run;

/* Bytes of a tile unpacked, per group of 32 inputs: codes as bytes; scales and minimums as floats, two of each at
 * most. */
#define KVQ_UNPACKED_GROUP_BYTES (KVQ_ACT_GROUP * KVQ_TILE_ROWS + 4 * KVQ_TILE_ROWS * 4)

#define KVQ_UNPACK_TILES_MOST 2 /* that an instruction set unpacks at a time */

static inline size_t kvq_unpacked_bytes(int n_in) {
    return (size_t)kvq_items(n_in, KVQ_ACT_GROUP) * KVQ_UNPACKED_GROUP_BYTES;
}

typedef struct kvq_linear_kernels {
    int panel_rows;
    /* Rows of n_in values into a panel; without the sums of halves where no layout has groups of 16. */
    void (*quantize)(const float *in, int n_in, int n_rows, bool halves, void *panel);
    void (*transpose)(const float *in, int n_in, int n_rows, void *panel); /* the same for float weights */
    void (*coded)(const kvq_linear_run *run);                              /* tiles as they are */
    /* Where it pays to unpack tiles once, from so many rows on (else NULL): the first tile of the run to `tile`, and
     * the run's tiles, at most unpack_tiles, which lie kvq_unpacked_bytes apart, times its panel, of at most
     * unpack_rows. */
    int unpack_from, unpack_rows, unpack_tiles;
    void (*unpack)(const kvq_linear_run *run, uint8_t *tile);
    void (*unpacked)(const kvq_linear_run *run, const uint8_t *tile);
    /* What a worker does before and after it calls `unpacked` some times; NULL: nothing. */
    void (*enter)(void);
    void (*leave)(void);
    void (*floats)(const kvq_linear_run *run);
} kvq_linear_kernels;

/* kvq_linear_kernels_SET. */
#define KVQ_LINEAR_KERNELS(set) extern const kvq_linear_kernels kvq_linear_kernels_##set;
KVQ_LINEAR_KERNELS(generic)
KVQ_LINEAR_KERNELS(sse41)
KVQ_LINEAR_KERNELS(avx2)
KVQ_LINEAR_KERNELS(avxvnni)
KVQ_LINEAR_KERNELS(avx512)
KVQ_LINEAR_KERNELS(neon)
KVQ_LINEAR_KERNELS(dotprod)
KVQ_LINEAR_KERNELS(i8mm)

void kvq_cpu_linear(kvq_stream *s, const kvq_linear *job, const kvq_linear_kernels *kernels);
void kvq_cpu_refine(kvq_stream *s, const kvq_refine *job, const kvq_linear_kernels *kernels);

#endif
