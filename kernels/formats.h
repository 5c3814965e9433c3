/* formats.h: the number formats of GGUF tensors (formats.def) and how one block is unpacked.
 * Called by engine/gguf.c (sizes), kernels/repack.c (unpack) and the checks. */
#ifndef KVQ_FORMATS_H
#define KVQ_FORMATS_H

#include <stddef.h>
#include <stdint.h>

typedef enum kvq_format {
#define FORMAT(name, id, block, bytes, group, bits, zero, min, scales, unpack) KVQ_FORMAT_##name,
#include "formats.def"
#undef FORMAT
    KVQ_FORMAT_COUNT
} kvq_format;

/* How an execution layout keeps scales and minimums. */
typedef enum kvq_scale_type { KVQ_SCALE_NONE, KVQ_SCALE_F16, KVQ_SCALE_F32, KVQ_SCALE_SUPER } kvq_scale_type;

/* One block of a block format, value[i] = scale[i / group] * (code[i] - zero) + min[i / group].
 * Codes are unsigned and below 1 << bits of the format's row. Scales and minimums are the exact products of what
 * the file holds (for K formats: f16 * 6 bits, which a float holds exactly). */
typedef struct kvq_unpacked {
    uint8_t code[256];
    float scale[16];
    float min[16]; /* zeros where the format has none */
    /* Formats with KVQ_SCALE_SUPER: scale[g] = d * sub_scale[g], min[g] = dmin * sub_min[g], exactly. */
    float d, dmin;
    int8_t sub_scale[16], sub_min[16];
} kvq_unpacked;

typedef struct kvq_format_info {
    const char *name; /* "Q4_K" */
    uint32_t id;      /* GGUF's number */
    int block_len;    /* weights per block */
    int block_bytes;
    int group_len; /* weights per scale; 0: plain floats */
    int bits, zero;
    int has_min;
    kvq_scale_type scale_type;
    void (*unpack)(const uint8_t *block, kvq_unpacked *out); /* NULL for F32, F16, BF16 */
} kvq_format_info;

const kvq_format_info *kvq_format_get(kvq_format format);

/* The format with GGUF's number id; KVQ_FORMAT_COUNT if there is none. */
kvq_format kvq_format_find(uint32_t id);

/* n values of any format as floats. n is a multiple of the block length; src has n / block_len * block_bytes bytes. */
void kvq_format_to_float(kvq_format format, const void *src, float *out, size_t n);

float kvq_half_to_float(uint16_t h); /* exact */
uint16_t kvq_float_to_half(float f); /* round to nearest even; overflow gives infinity */
float kvq_bfloat_to_float(uint16_t b);

#endif
