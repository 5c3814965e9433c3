/* matrix.h: a weight matrix in an execution layout, and how it is made from a GGUF tensor.
 * Called by engine/model.c at load (repack) and read by the operators embed and linear.
 *
 * y = W x, W [n_out, n_in], n_in contiguous in the file. Rows are stored in *tiles* of 16 output rows, so that a
 * vector of 16 lanes holds one value of 16 outputs: lanes are rows, dot products never cross lanes, and each output is
 * summed in file order by one chain whatever the instruction set (so every machine gives the same float).
 * n_out is padded to a multiple of 16 with zero scales. Per tile, for each group of `group` inputs, in order:
 *
 *   bits 4:  group/8 x 64 bytes. Chunk j, byte 4r+b: low nibble = code of row r, input 8j+b; high = input 8j+4+b
 *   bits 5:  64 bytes, byte 4r+b: bit k = fifth bit of row r, input 4k+b; then as bits 4 (group is 32)
 *   bits 6:  64 bytes, byte 4r+b: bits 2k, 2k+1 = high bits of row r, input 4k+b; then as bits 4 (group is 16)
 *   bits 8:  group/4 x 64 bytes. Chunk j, byte 4r+b = code of row r, input 4j+b
 *   then 16 scales (f16, f32 or int8), then 16 minimums of the same type if has_min.
 *
 * With scales of type SUPER the int8s are factors of a half that all groups of 256 inputs share: before the first of
 * them stand 16 halves d, then 16 dmin if has_min; scale = d * int8, min = dmin * int8, both exact in float. n_in is a
 * multiple of 32; tile_bytes is rounded up to a cache line.
 *
 * Floats (F32, F16, BF16): per tile, for each input in order, 16 values of the file's own type.
 *
 * Quantized products: activations are quantized per group of 32 inputs to int8, q = rint(x * (1/d)), d = max|x| / 127
 * (max|x| below KVQ_ACT_TINY gives d = 0, q = 0; with a NaN or infinity among the inputs d = NaN and q = 0, so that all
 * outputs are NaN), and group sums S (int) are kept per 16. For each group, in file order:
 *   dot  = sum code * q - zero * S                           (exact, integer)
 *   acc  = fmaf((float)dot, scale * d, acc)                  (one chain; scale * d rounded to float first)
 *   acc  = fmaf(min, d * (float)S, acc)                      (only when has_min)
 * Float products: acc = fmaf(w, x, acc), inputs in order, activations not quantized. Then + bias, then + residual.
 * `ref` computes the same sums in double on the unquantized or quantized activations as the layout says. */
#ifndef KVQ_MATRIX_H
#define KVQ_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "formats.h"
#include "status.h"

#define KVQ_TILE_ROWS 16
#define KVQ_SUPER_INPUTS 256
#define KVQ_ACT_GROUP 32    /* inputs that share one activation scale */
#define KVQ_ACT_TINY 1e-30f /* 127 / KVQ_ACT_TINY is still a float */

typedef struct kvq_layout {
    kvq_format kind; /* KVQ_FORMAT_F32, F16 or BF16 for float layouts; KVQ_FORMAT_COUNT for coded ones */
    int bits;        /* 4, 5, 6 or 8; 0 for float layouts */
    int group;       /* 16 or 32; 1 for float layouts */
    int zero;
    bool has_min;
    kvq_scale_type scale_type;
} kvq_layout;

/* One run of output rows of one layout: of one tensor, or of several that lie one behind the other (fused matrices,
 * such as QKV, have up to three). */
typedef struct kvq_matrix_part {
    kvq_layout layout;
    int row_begin, n_rows; /* outputs [row_begin, row_begin + n_rows) of the whole; n_rows any, tiles are padded */
    size_t tile_bytes;     /* bytes of one tile: 16 rows, all inputs */
    uint8_t *data;         /* 64-byte aligned, ceil(n_rows / 16) * tile_bytes */
} kvq_matrix_part;

#define KVQ_MATRIX_PARTS 3

typedef struct kvq_matrix {
    int n_out, n_in;
    int n_parts;
    kvq_matrix_part parts[KVQ_MATRIX_PARTS];
} kvq_matrix;

/* The execution layout that tensors of this format get. */
kvq_layout kvq_layout_of(kvq_format format);

/* Bytes of a part with n_rows x n_in in that layout; 0 when n_in does not fit its groups. */
size_t kvq_matrix_part_bytes(const kvq_layout *layout, int n_rows, int n_in, size_t *ret_tile_bytes);

/* Repacks tensor rows [first_row, first_row + n_rows) of src ([*, n_in] in `format`) into part->data (owned by the
 * caller, of kvq_matrix_part_bytes, zeroed or not). Loses nothing: kvq_matrix_row gives the same floats as the file. */
void kvq_matrix_repack(kvq_matrix_part *part, kvq_format format, const void *src, int n_rows, int n_in);

/* The part that row `row` of the whole matrix is in. */
const kvq_matrix_part *kvq_matrix_part_of(const kvq_matrix *m, int row);

/* Row `row` of a coded part as it is stored: n_in codes, a scale and a minimum (0 if none) per group. */
void kvq_matrix_part_codes(const kvq_matrix_part *part, int row, int n_in, uint8_t *code, float *scale, float *min);

/* Row `row` of the whole matrix as n_in floats (embedding lookup, checks). */
void kvq_matrix_row(const kvq_matrix *m, int row, float *out);

#endif
