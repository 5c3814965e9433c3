/* tiles.h: kernels/cpu/tiles.h in plain C, after the pseudocode of the Intel Intrinsics Guide; included before it,
 * whose guard it takes. A use that a CPU answers with an exception (no shapes, shapes that do not fit each other)
 * aborts. */
#ifndef KVQ_CPU_TILES_H
#define KVQ_CPU_TILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct kvq_tile_shapes {
    uint8_t palette, start_row, zeros[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} kvq_tile_shapes;

typedef struct emulated_tiles {
    bool shaped;
    kvq_tile_shapes shapes;
    int8_t bytes[8][16][64];
} emulated_tiles;

static _Thread_local emulated_tiles tiles;

static inline void demand(bool holds) {
    if (!holds) abort();
}

static inline void kvq_tiles_shape(const kvq_tile_shapes *shapes) {
    demand(!tiles.shaped && shapes->palette == 1 && shapes->start_row == 0);
    for (int t = 0; t < 16; t++)
        demand(t < 8 ? shapes->rows[t] <= 16 && shapes->row_bytes[t] <= 64
                     : shapes->rows[t] == 0 && shapes->row_bytes[t] == 0);
    memset(&tiles, 0, sizeof tiles);
    tiles.shaped = true;
    tiles.shapes = *shapes;
}

static inline void kvq_tiles_release(void) {
    demand(tiles.shaped);
    tiles.shaped = false;
}

static inline void demand_tile(int t) {
    demand(tiles.shaped && tiles.shapes.rows[t] > 0 && tiles.shapes.row_bytes[t] > 0);
}

static inline void emulated_tile_load(int t, const void *from, ptrdiff_t stride) {
    demand_tile(t);
    memset(tiles.bytes[t], 0, sizeof tiles.bytes[t]);
    for (int row = 0; row < tiles.shapes.rows[t]; row++)
        memcpy(tiles.bytes[t][row], (const uint8_t *)from + row * stride, tiles.shapes.row_bytes[t]);
}

static inline void emulated_tile_store(int t, void *to, ptrdiff_t stride) {
    demand_tile(t);
    for (int row = 0; row < tiles.shapes.rows[t]; row++)
        memcpy((uint8_t *)to + row * stride, tiles.bytes[t][row], tiles.shapes.row_bytes[t]);
}

static inline void emulated_tile_zero(int t) {
    demand_tile(t);
    memset(tiles.bytes[t], 0, sizeof tiles.bytes[t]);
}

static inline void emulated_tile_dot(int c, int a, int b) {
    const kvq_tile_shapes *s = &tiles.shapes;
    demand_tile(a);
    demand_tile(b);
    demand_tile(c);
    demand(a != b && b != c && a != c);
    demand(s->rows[c] == s->rows[a] && s->row_bytes[c] == s->row_bytes[b] && s->row_bytes[a] == 4 * s->rows[b]);
    for (int m = 0; m < s->rows[c]; m++)
        for (int n = 0; n < s->row_bytes[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &tiles.bytes[c][m][4 * n], sizeof sum);
            for (int k = 0; k < s->rows[b]; k++)
                for (int i = 0; i < 4; i++) sum += tiles.bytes[a][m][4 * k + i] * tiles.bytes[b][k][4 * n + i];
            memcpy(&tiles.bytes[c][m][4 * n], &sum, sizeof sum);
        }
}

#define KVQ_TILE_LOAD(tile, from, stride) emulated_tile_load(tile, from, stride)
#define KVQ_TILE_STORE(tile, to, stride) emulated_tile_store(tile, to, stride)
#define KVQ_TILE_ZERO(tile) emulated_tile_zero(tile)
#define KVQ_TILE_DOT(c, a, b) emulated_tile_dot(c, a, b)

#endif
