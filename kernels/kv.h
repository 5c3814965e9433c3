/* kv.h: what the bytes of a KV page mean. Read by the operators append, close and attend of every backend, and by
 * engine/plan.c and pool.c for sizes. A test says that page bytes are the same on every backend.
 *
 * A page is block_tokens (T: 32, 64 or 128) tokens of one sequence in one group of layers. A page's *image* is closed or
 * wide. The image of one layer is n_kv_heads head images, one behind the other; the layers of a group follow each other.
 * A head image of head size d has a K half and a V half:
 *
 *   closed, sym:   K codes | K scales f16[T] | K page mean f16[d] if centred     | V codes | V scales f16[T]
 *   closed, asym:  K codes | K scales f16[T] | K mins f16[T]                     | V codes | V scales f16[T] | V mins f16[T]
 *   closed, 16:    K f16   | V f16
 *   wide:          K half (codes int8, scales) in the page's first block, V half in its second, each at the layer's
 *                  offset of the closed image: wide half = T d + 2 T bytes, never larger than a closed head image.
 *
 * Codes are stored unsigned: code + 8 (4 bits), code + 128 (8 bits); asym codes as they are. Order within a half:
 *   K, 8 bits:  [d/4][T][4]      byte ((i/4) T + t) 4 + i%4 = channel i of token t     (one vector lane = one token)
 *   K, 4 bits:  [d/8][T][4]      byte ((i/8) T + t) 4 + i%4 : low nibble channels with i%8 < 4, high those with i%8 >= 4
 *   V, 8 bits:  [T/4][d][4]      byte ((t/4) d + i) 4 + t%4 = channel i of token t     (one lane = one channel)
 *   V, 4 bits:  [T/8][d][4]      byte ((t/8) d + i) 4 + t%4 : low nibble tokens with t%8 < 4, high those with t%8 >= 4
 *   K, 16 bits: [d][T]           V, 16 bits: [T][d]
 *
 * Positions not written yet hold whatever they hold: no reader may use them (attend masks by position).
 *
 * Values (see also policies.def), k after RoPE and v, both turned by H (orthonormal Hadamard) when rotated:
 *   sym:   m = the value of largest magnitude (first such); n = 127 (8 bits) or 8 (4 bits); s = m / -n;
 *          code = clamp(rint(x / s), -n, 127 or 7); s refitted: sum(x code) / sum(code code); stored as f16 (nearest).
 *          A row of zeros has s = 0 and codes 0. For 8 bits code -128 never occurs.
 *   asym:  s = f16((max - min) / (2^bits - 1)), min = f16(min); code = clamp(rint((x - min) / s), 0, 2^bits - 1);
 *          s = 0 gives code 0. (LMDeploy's format, arithmetic in float.)
 *   bias_out: x = k - k_ref[page] before quantizing; attend adds q . k_ref[page] to every score of the page.
 *   close (wide policies): x_t = s_t code_t from the wide image; K: minus mean_t x_t (mean rounded to f16 first, then
 *          subtracted), both quantized as sym 4 bits (K of hard layers: wide half kept as it is, 8 bits, no mean). */
#ifndef KVQ_KV_H
#define KVQ_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum kvq_policy_id {
#define POLICY(name, value, k_bits, v_bits, sym, rotated, bias_out, centred, wide, wide_blocks, doc) KVQ_POLICY_##name,
#include "policies.def"
#undef POLICY
    KVQ_POLICY_COUNT
} kvq_policy_id;

typedef struct kvq_policy {
    const char *value; /* its name in the INI, on the command line and in JSON */
    int k_bits, v_bits;
    bool sym, rotated, bias_out, centred, wide;
    int wide_blocks;
    const char *doc;
} kvq_policy;

const kvq_policy *kvq_policy_get(kvq_policy_id id);
kvq_policy_id kvq_policy_find(const char *value); /* KVQ_POLICY_COUNT if there is none */

/* Byte offsets within one head image, and its size. Filled by kvq_kv_image_init. */
typedef struct kvq_kv_image {
    int k_bits, v_bits;
    size_t k_codes, k_scales, k_mins, k_mean; /* k_mins, k_mean: (size_t)-1 where absent */
    size_t v_codes, v_scales, v_mins;
    size_t bytes; /* of one head image, a multiple of 64 */
} kvq_kv_image;

/* The closed image of a layer. hard: K stays in 8 bits (only meaningful for wide policies). */
void kvq_kv_image_init(kvq_kv_image *image, const kvq_policy *policy, int head_dim, int block_tokens, bool hard);

/* Bytes of one wide half of one head: T d + 2 T. Codes first, scales at T d. */
size_t kvq_kv_wide_half_bytes(int head_dim, int block_tokens);

/* One layer's place in the pool. */
typedef struct kvq_kv_layer {
    int group;           /* which page list its tokens are in */
    size_t offset;       /* of this layer's image in a block */
    bool hard;           /* K of closed pages in 8 bits */
    kvq_kv_image closed; /* offsets in one head image */
    const float *k_ref;  /* [n_pages, n_kv_heads, head_dim], turned by H if the policy is rotated; NULL: none */
} kvq_kv_layer;

typedef struct kvq_kv {
    const kvq_policy *policy;
    int block_tokens, head_dim, n_kv_heads, n_layers, n_groups;
    size_t block_bytes;
    kvq_kv_layer *layers; /* [n_layers] */
} kvq_kv;

/* One page of one sequence as a step sees it. */
typedef struct kvq_kv_page {
    uint8_t *block;  /* the closed image, or the wide K halves while the page is open or is the first one */
    uint8_t *wide_v; /* the wide V halves (second block); NULL when the page has none (closed, or policy not wide) */
    int scratch;     /* >= 0: the page closes in this step; its wide image is slot `scratch` of the batch's scratch */
} kvq_kv_page;

#endif
