/* kv_values.h: single values of a KV page, read and written one by one: the format of kv.h spelled out for append.c,
 * close.c and attend.c of ref. Slow on purpose. */
#ifndef KVQ_REF_KV_VALUES_H
#define KVQ_REF_KV_VALUES_H

#include <math.h>

#include "../formats.h"
#include "../kv.h"

/* Where token t, channel i of a half is: K runs over channels with a lane per token, V the other way round. */
typedef struct kvq_ref_place {
    int n_lanes, inner, lane;
} kvq_ref_place;

static inline kvq_ref_place kvq_ref_k_place(const kvq_kv *kv, int t, int i) {
    return (kvq_ref_place){kv->block_tokens, i, t};
}
static inline kvq_ref_place kvq_ref_v_place(const kvq_kv *kv, int t, int i) {
    return (kvq_ref_place){kv->head_dim, t, i};
}

static inline int kvq_ref_get_code(const kvq_kv_half *half, kvq_ref_place at) {
    int byte = half->codes[kvq_kv_code_index(half->bits, at.n_lanes, at.inner, at.lane)];
    if (half->bits == 8) return byte;
    return kvq_kv_code_is_high(half->bits, at.inner) ? byte >> 4 : byte & 15;
}

static inline void kvq_ref_put_code(const kvq_kv_half *half, kvq_ref_place at, int code) {
    uint8_t *byte = &half->codes[kvq_kv_code_index(half->bits, at.n_lanes, at.inner, at.lane)];
    if (half->bits == 8)
        *byte = (uint8_t)code;
    else if (kvq_kv_code_is_high(half->bits, at.inner))
        *byte = (uint8_t)((*byte & 0x0f) | code << 4);
    else
        *byte = (uint8_t)((*byte & 0xf0) | code);
}

static inline double kvq_ref_value(const kvq_kv_half *half, bool is_v, kvq_ref_place at, int t, int i) {
    if (half->bits == 16) {
        const uint16_t *halves = (const uint16_t *)half->codes;
        return (double)kvq_half_to_float(halves[kvq_kv_code_index(16, at.n_lanes, at.inner, at.lane)]);
    }
    int code = kvq_ref_get_code(half, at);
    double scale = (double)kvq_half_to_float(half->scales[t]);
    if (!half->sym) return scale * code + (double)kvq_half_to_float(half->mins[t]);
    double mean = half->mean ? (double)kvq_half_to_float(half->mean[i]) : 0;
    if (half->bits == 8) return scale * (code - 128) + mean;
    if (is_v && signbit(scale)) return -scale * (code - 7);
    return scale * (code - 8) + mean;
}

static inline double kvq_ref_k_value(const kvq_kv *kv, const kvq_kv_half *k, int t, int i) {
    return kvq_ref_value(k, false, kvq_ref_k_place(kv, t, i), t, i);
}
static inline double kvq_ref_v_value(const kvq_kv *kv, const kvq_kv_half *v, int t, int i) {
    return kvq_ref_value(v, true, kvq_ref_v_place(kv, t, i), t, i);
}

/* Quantizes one token's head x [head_dim] and writes it to token t of a half (kernels/ref/quantize.c). */
void kvq_ref_put_token(const kvq_kv *kv, const kvq_kv_half *half, bool is_v, int t, const double *x);

#endif
