/* kv.c: the KV policy table and where the parts of a page lie (kv.h has the picture).
 * Called by engine/plan.c and pool.c for sizes, by the operators append, close and attend of every CPU backend for
 * addresses. Touches no code or scale. */
#include "kv.h"

#include <string.h>

#define ABSENT ((size_t)-1)

static const kvq_policy policies[KVQ_POLICY_COUNT] = {
#define POLICY(name, value, k_bits, v_bits, sym, rotated, bias_out, centred, wide, wide_blocks, doc) \
    [KVQ_POLICY_##name] = {value, k_bits, v_bits, sym, rotated, bias_out, centred, wide, wide_blocks, doc},
#include "policies.def"
#undef POLICY
};

const kvq_policy *kvq_policy_get(kvq_policy_id id) {
    return &policies[id];
}

kvq_policy_id kvq_policy_find(const char *value) {
    int id = 0;
    while (id < KVQ_POLICY_COUNT && strcmp(policies[id].value, value) != 0) id++;
    return (kvq_policy_id)id;
}

static size_t code_bytes(int bits, size_t n_values) {
    return n_values * (size_t)bits / 8;
}

/* Lays parts one behind the other. */
static size_t put(size_t *end, size_t n_bytes) {
    size_t at = *end;
    *end += n_bytes;
    return at;
}

void kvq_kv_image_init(kvq_kv_image *image, const kvq_policy *policy, int head_dim, int block_tokens, bool hard) {
    size_t d = (size_t)head_dim, t = (size_t)block_tokens, end = 0;
    bool wide_k = policy->wide && hard;
    image->k_bits = wide_k ? 8 : policy->k_bits;
    image->v_bits = policy->v_bits;
    image->k_codes = put(&end, code_bytes(image->k_bits, t * d));
    image->k_scales = image->k_bits == 16 ? ABSENT : put(&end, t * 2);
    image->k_mins = policy->sym ? ABSENT : put(&end, t * 2);
    image->k_mean = policy->centred && !wide_k ? put(&end, d * 2) : ABSENT;
    image->v_codes = put(&end, code_bytes(image->v_bits, t * d));
    image->v_scales = image->v_bits == 16 ? ABSENT : put(&end, t * 2);
    image->v_mins = policy->sym ? ABSENT : put(&end, t * 2);
    image->bytes = (end + 63) / 64 * 64;
}

size_t kvq_kv_wide_half_bytes(int head_dim, int block_tokens) {
    return (size_t)block_tokens * ((size_t)head_dim + 2);
}

static uint16_t *part(uint8_t *image, size_t offset) {
    return offset == ABSENT ? NULL : (uint16_t *)(image + offset);
}

void kvq_kv_closed_halves(const kvq_kv *kv, int layer, const kvq_kv_page *page, int g, kvq_kv_half *k, kvq_kv_half *v) {
    const kvq_kv_layer *l = &kv->layers[layer];
    const kvq_kv_image *im = &l->closed;
    uint8_t *head = page->block + l->offset + (size_t)g * im->bytes;
    *k = (kvq_kv_half){.codes = head + im->k_codes,
                       .scales = part(head, im->k_scales),
                       .mins = part(head, im->k_mins),
                       .mean = part(head, im->k_mean),
                       .bits = im->k_bits,
                       .sym = kv->policy->sym};
    *v = (kvq_kv_half){.codes = head + im->v_codes,
                       .scales = part(head, im->v_scales),
                       .mins = part(head, im->v_mins),
                       .bits = im->v_bits,
                       .sym = kv->policy->sym};
}

static kvq_kv_half wide_half(const kvq_kv *kv, uint8_t *at) {
    size_t n_codes = (size_t)kv->block_tokens * (size_t)kv->head_dim;
    return (kvq_kv_half){.codes = at, .scales = part(at, n_codes), .bits = 8, .sym = true};
}

void kvq_kv_wide_halves(const kvq_kv *kv, int layer, const kvq_kv_page *page, uint8_t *scratch, size_t slot_bytes,
                        int g, kvq_kv_half *k, kvq_kv_half *v) {
    const kvq_kv_layer *l = &kv->layers[layer];
    if (page->scratch >= 0) {
        size_t half = kvq_kv_wide_half_bytes(kv->head_dim, kv->block_tokens);
        uint8_t *at = scratch + (size_t)page->scratch * slot_bytes + (size_t)g * 2 * half;
        *k = wide_half(kv, at);
        *v = wide_half(kv, at + half);
        return;
    }
    size_t at = l->offset + (size_t)g * l->closed.bytes;
    *k = wide_half(kv, page->block + at);
    *v = wide_half(kv, page->wide_v + at);
}

void kvq_kv_copy_wide(const kvq_kv *kv, int layer, const kvq_kv_page *page, uint8_t *scratch, size_t slot_bytes,
                      int g) {
    size_t half = kvq_kv_wide_half_bytes(kv->head_dim, kv->block_tokens);
    kvq_kv_page open = *page;
    open.scratch = -1;
    kvq_kv_half k_from, v_from, k, v;
    kvq_kv_wide_halves(kv, layer, &open, NULL, 0, g, &k_from, &v_from);
    kvq_kv_wide_halves(kv, layer, page, scratch, slot_bytes, g, &k, &v);
    memcpy(k.codes, k_from.codes, half); /* the scales follow the codes */
    memcpy(v.codes, v_from.codes, half);
}
