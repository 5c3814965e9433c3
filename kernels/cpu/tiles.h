/* tiles.h: the AMX instructions that linear_amx.c is made of. Written out, since gcc 12's _tile_loadconfig tells the
 * compiler that it reads 8 of the 64 bytes. No compiler uses tile registers by itself, so they need not be named as
 * changed. The tests put plain C in this file's place (tests/emulated/tiles.h). */
#ifndef KVQ_CPU_TILES_H
#define KVQ_CPU_TILES_H

#include <stddef.h>
#include <stdint.h>

/* Intel SDM volume 1, 18.1: the operand of LDTILECFG. */
typedef struct kvq_tile_shapes {
    uint8_t palette, start_row, zeros[14];
    uint16_t row_bytes[16]; /* of tiles 0 to 7; the others are zero */
    uint8_t rows[16];
} kvq_tile_shapes;
_Static_assert(sizeof(kvq_tile_shapes) == 64, "as LDTILECFG reads it");

static inline void kvq_tiles_shape(const kvq_tile_shapes *shapes) {
    __asm__ volatile("ldtilecfg %0" : : "m"(*shapes));
}
static inline void kvq_tiles_release(void) {
    __asm__ volatile("tilerelease");
}

/* Tile numbers are literals. Rows are `stride` bytes apart. */
#define KVQ_TILE_LOAD(tile, from, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"((ptrdiff_t)(stride)) : "memory")
#define KVQ_TILE_STORE(tile, to, stride) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(to), "r"((ptrdiff_t)(stride)) : "memory")
#define KVQ_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
/* c[m][n] += sum over the bytes b of 32-bit words k of a[m][4k + b] b[k][4n + b], signed by signed. */
#define KVQ_TILE_DOT(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)

#endif
