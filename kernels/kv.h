/* clang-format off */
/* kv.h: what the bytes of a KV page mean. Read by the operators append, close_pages and attend of every backend, and by
 * engine/plan.c and pool.c for sizes. A test says that page bytes are the same on every backend.
 *
 * A page is block_tokens (T: 32, 64 or 128) tokens of one sequence in one group of layers. A page's *image* is closed or
 * wide. The image of one layer is n_kv_heads head images, one behind the other; the layers of a group follow each other.
 * A head image of head size d (a multiple of 16) has a K half and a V half:
 *
 *   closed, sym:   K codes | K scales f16[T] | K page mean f16[d] if centred | V codes | V scales f16[T]
 *   closed, asym:  K codes | K scales f16[T] | K mins f16[T]                 | V codes | V scales f16[T] | V mins f16[T]
 *   closed, 16:    K f16   | V f16
 *   wide:          K half (codes int8, scales) in the page's first block, V half in its second, each at the head's place
 *                  in the closed image: wide half = T d + 2 T bytes, never larger than a closed head image.
 *
 * Codes are stored unsigned: code + 8 (4 bits; for V see sym below), code + 128 (8 bits); asym codes as they are.
 * Order within a half:
 *   K, 8 bits:  [d/4][T][4]   byte ((i/4) T + t) 4 + i%4 = channel i of token t      (one vector lane = one token)
 *   K, 4 bits:  [d/8][T][4]   byte ((i/8) T + t) 4 + i%4 : low nibble channels with i%8 < 4, high those with i%8 >= 4
 *   V, 8 bits:  [T/4][d][4]   byte ((t/4) d + i) 4 + t%4 = channel i of token t      (one lane = one channel)
 *   V, 4 bits:  [T/8][d][4]   byte ((t/8) d + i) 4 + t%4 : low nibble tokens with t%8 < 4, high those with t%8 >= 4
 *   K, 16 bits: [d][T]        V, 16 bits: [T][d]
 *
 * Positions not written yet hold whatever they hold: no reader may use them (attend masks by position).
 *
 * Values (see also policies.def), k after RoPE and v, both turned by H (orthonormal Hadamard) when rotated:
 *   sym:   8 bits: s = max|x| / 127. 4 bits: s = m / -8, m the value of largest magnitude (the positive one if both
 *          signs have it), so that m gets code -8. code = clamp(rint(x / s), -127, 127) or clamp(rint(x / s), -8, 7);
 *          s refitted: sum(x code) / sum(code code); stored as f16 (nearest). A row of zeros has s = 0 and codes 0.
 *          The probability bytes of attend carry V's scales and are unsigned, so V wants scales without a sign: 8-bit
 *          scales have none; 4-bit V of a token with a negative scale has its codes mirrored: stored 7 - code, and the
 *          value is |s| (stored - 7). K keeps code + 8 whatever the sign.
 *   asym:  s = f16((max - min) / (2^bits - 1)), min = f16(min); code = clamp(rint((x - min) / s), 0, 2^bits - 1);
 *          s = 0 gives code 0. (LMDeploy's format, arithmetic in float.)
 *   bias_out: x = k - k_ref[page] before quantizing; attend adds q . k_ref[page] to every score of the page.
 *   close (wide policies): x_t = s_t code_t from the wide image; K: minus mean_t x_t (mean rounded to f16 first, then
 *          subtracted), both quantized as sym 4 bits (K of hard layers: wide half kept as it is, 8 bits, no mean).
 *          V's 4-bit codes follow from its 8-bit codes alone (s_t cancels in x / s): the same from every backend. */
/* clang-format on */
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

/* The largest head that the operators take; they keep rows of a head on the stack. */
#define KVQ_MAX_HEAD_DIM 512

/* One layer's place in the pool. Head image g of a block starts at offset + g * closed.bytes, wide halves too. */
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

/* One half (K or V) of one head image: where its parts are and what they mean. */
typedef struct kvq_kv_half {
    uint8_t *codes;                 /* halves when bits is 16 */
    uint16_t *scales, *mins, *mean; /* NULL where absent */
    int bits;
    bool sym;
} kvq_kv_half;

/* The halves of KV head g of a layer in a page's closed image. */
void kvq_kv_closed_halves(const kvq_kv *kv, int layer, const kvq_kv_page *page, int g, kvq_kv_half *k, kvq_kv_half *v);

/* The same in its wide image: slot page->scratch of `scratch` while the page closes in this step, else its two blocks.
 */
void kvq_kv_wide_halves(const kvq_kv *kv, int layer, const kvq_kv_page *page, uint8_t *scratch, size_t slot_bytes,
                        int g, kvq_kv_half *k, kvq_kv_half *v);

/* A page that was begun in an earlier step and closes in this one: copies head g's wide image from its blocks to its
 * slot. */
void kvq_kv_copy_wide(const kvq_kv *kv, int layer, const kvq_kv_page *page, uint8_t *scratch, size_t slot_bytes, int g);

/* Whether a row at position pos sees page p of its sequence in the wide image. Of policies without wide pages: never.
 */
static inline bool kvq_kv_sees_wide(const kvq_kv *kv, int pos, int p) {
    return kv->policy->wide && (p == 0 || p == pos / kv->block_tokens);
}

/* K and V have one layout with the roles exchanged: dot products run over `inner` (K: channels, V: tokens), vector
 * lanes are the other index (K: tokens, n_lanes = T; V: channels, n_lanes = d). The byte of a code (the half, for 16
 * bits), and whether it is the byte's high nibble. */
static inline size_t kvq_kv_code_index(int bits, int n_lanes, int inner, int lane) {
    if (bits == 16) return (size_t)inner * (size_t)n_lanes + (size_t)lane;
    int step = 32 / bits;
    return ((size_t)(inner / step) * (size_t)n_lanes + (size_t)lane) * 4 + (size_t)(inner % 4);
}
static inline bool kvq_kv_code_is_high(int bits, int inner) {
    return bits == 4 && inner % 8 >= 4;
}

#endif
