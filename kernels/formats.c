/* formats.c: unpacks one block of each number format of GGUF files; see formats.h. Called by repack.c and the checks.
 * The block pictures are those of ggml-common.h; `golden` vectors made from python's gguf.quants prove them
 * (tests/unit). */
#include "formats.h"

#include <string.h>

static uint16_t read_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static float read_half(const uint8_t *p) {
    return kvq_half_to_float(read_u16(p));
}

static float float_of_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

float kvq_half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31) return float_of_bits(sign | 0x7F800000 | fraction << 13);
    if (exponent > 0) return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float tiny = (float)fraction * 0x1p-24f; /* exact: 10 bits */
    return sign ? -tiny : tiny;
}

uint16_t kvq_float_to_half(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return (uint16_t)(sign | 0x7E00 | (magnitude >> 13 & 0x3FF)); /* NaN, made quiet */
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7C00);                            /* 2^16 and more */
    if (magnitude < 0x38800000) { /* below 2^-14: adding 1/2 leaves a multiple of 2^-24 in the low bits, rounded */
        float sum = float_of_bits(magnitude) + 0.5f;
        memcpy(&bits, &sum, sizeof bits);
        return (uint16_t)(sign | (uint16_t)(bits - 0x3F000000));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | (magnitude - 0x38000000 + 0xFFF + odd) >> 13); /* a carry into the exponent is right */
}

float kvq_bfloat_to_float(uint16_t b) {
    return float_of_bits((uint32_t)b << 16);
}

/* 32 codes of 4 bits: low nibbles first, then the high ones. */
static void unpack_nibbles(const uint8_t *src, uint8_t *code) {
    for (int i = 0; i < 16; i++) {
        code[i] = src[i] & 15;
        code[i + 16] = src[i] >> 4;
    }
}

/* Adds bit i of the four bytes at `high` to code i as its fifth. */
static void add_fifth_bits(const uint8_t *high, uint8_t *code) {
    for (int i = 0; i < 32; i++) code[i] |= (uint8_t)((high[i / 8] >> i % 8 & 1) << 4);
}

/* Q4_0: d f16 | 32 x 4 bits */
static void unpack_q4_0(const uint8_t *p, kvq_unpacked *out) {
    out->scale[0] = read_half(p);
    out->min[0] = 0;
    unpack_nibbles(p + 2, out->code);
}

/* Q4_1: d f16 | min f16 | 32 x 4 bits */
static void unpack_q4_1(const uint8_t *p, kvq_unpacked *out) {
    out->scale[0] = read_half(p);
    out->min[0] = read_half(p + 2);
    unpack_nibbles(p + 4, out->code);
}

/* Q5_0: d f16 | 32 fifth bits | 32 x 4 bits */
static void unpack_q5_0(const uint8_t *p, kvq_unpacked *out) {
    out->scale[0] = read_half(p);
    out->min[0] = 0;
    unpack_nibbles(p + 6, out->code);
    add_fifth_bits(p + 2, out->code);
}

/* Q5_1: d f16 | min f16 | 32 fifth bits | 32 x 4 bits */
static void unpack_q5_1(const uint8_t *p, kvq_unpacked *out) {
    out->scale[0] = read_half(p);
    out->min[0] = read_half(p + 2);
    unpack_nibbles(p + 8, out->code);
    add_fifth_bits(p + 4, out->code);
}

/* Q8_0: d f16 | 32 x int8 */
static void unpack_q8_0(const uint8_t *p, kvq_unpacked *out) {
    out->scale[0] = read_half(p);
    out->min[0] = 0;
    for (int i = 0; i < 32; i++) out->code[i] = p[2 + i] ^ 0x80;
}

/* K formats keep 256 codes in two halves of 128; within a half, 32 bytes hold 4 (2 bits each) or 2 (4 bits) runs of 32.
 */
static void unpack_2bit_runs(const uint8_t *src, uint8_t *code) {
    for (int i = 0; i < 256; i++) code[i] = src[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

static void unpack_4bit_runs(const uint8_t *src, uint8_t *code) {
    for (int i = 0; i < 256; i++) code[i] = src[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
}

/* Scales and minimums of n groups from what the block has of them. */
static void multiply_scales(kvq_unpacked *out, int n) {
    for (int g = 0; g < n; g++) {
        out->scale[g] = out->d * (float)out->sub_scale[g];
        out->min[g] = out->dmin * (float)out->sub_min[g];
    }
}

/* The same for formats without minimums. */
static void multiply_scales_only(kvq_unpacked *out, int n) {
    for (int g = 0; g < n; g++) {
        out->scale[g] = out->d * (float)out->sub_scale[g];
        out->min[g] = 0;
    }
}

/* Q2_K: 16 x (scale 4 bits | min 4 bits) | 256 x 2 bits | d f16 | dmin f16 */
static void unpack_q2_k(const uint8_t *p, kvq_unpacked *out) {
    out->d = read_half(p + 80);
    out->dmin = -read_half(p + 82); /* minimums are subtracted */
    for (int g = 0; g < 16; g++) {
        out->sub_scale[g] = (int8_t)(p[g] & 15);
        out->sub_min[g] = (int8_t)(p[g] >> 4);
    }
    multiply_scales(out, 16);
    unpack_2bit_runs(p + 16, out->code);
}

/* Q3_K: 256 third bits | 256 x 2 bits | 16 x 6 bits of scale (+ 32) | d f16. Of the scales 8 bytes hold the low 4 bits,
 * then 4 bytes the high 2. A code is its two low bits plus 4 when the third bit is set, minus 4. */
static void unpack_q3_k(const uint8_t *p, kvq_unpacked *out) {
    const uint8_t *s = p + 96;
    out->d = read_half(p + 108);
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4;
        int high = s[8 + g % 4] >> (g / 4 * 2) & 3;
        out->sub_scale[g] = (int8_t)((low | high << 4) - 32);
    }
    multiply_scales_only(out, 16);
    unpack_2bit_runs(p + 32, out->code);
    for (int i = 0; i < 256; i++) out->code[i] |= (uint8_t)((p[i % 32] >> i / 32 & 1) << 2);
}

/* The 8 scales and 8 minimums of 6 bits in 12 bytes, of Q4_K and Q5_K: 4 + 4 in the low 6 bits of 8 bytes; of the
 * others the low 4 bits in the last 4 bytes and the high 2 in the top bits of the first 8. */
static void unpack_k_scales(const uint8_t *s, float d, float dmin, kvq_unpacked *out) {
    out->d = d;
    out->dmin = -dmin; /* minimums are subtracted */
    for (int g = 0; g < 8; g++) {
        int scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
        int min = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | s[g] >> 6 << 4;
        out->sub_scale[g] = (int8_t)scale;
        out->sub_min[g] = (int8_t)min;
    }
    multiply_scales(out, 8);
}

/* Q4_K: d f16 | dmin f16 | 12 bytes of scales and minimums | 256 x 4 bits */
static void unpack_q4_k(const uint8_t *p, kvq_unpacked *out) {
    unpack_k_scales(p + 4, read_half(p), read_half(p + 2), out);
    unpack_4bit_runs(p + 16, out->code);
}

/* Q5_K: d f16 | dmin f16 | 12 bytes of scales and minimums | 256 fifth bits | 256 x 4 bits */
static void unpack_q5_k(const uint8_t *p, kvq_unpacked *out) {
    unpack_k_scales(p + 4, read_half(p), read_half(p + 2), out);
    unpack_4bit_runs(p + 48, out->code);
    for (int i = 0; i < 256; i++) out->code[i] |= (uint8_t)((p[16 + i % 32] >> i / 32 & 1) << 4);
}

/* Q6_K: 256 x 4 low bits | 256 x 2 high bits | 16 x int8 scale | d f16. Low bits: in a half, 64 bytes, low nibbles
 * first. */
static void unpack_q6_k(const uint8_t *p, kvq_unpacked *out) {
    out->d = read_half(p + 208);
    for (int g = 0; g < 16; g++) out->sub_scale[g] = (int8_t)p[192 + g];
    multiply_scales_only(out, 16);
    unpack_2bit_runs(p + 128, out->code);
    for (int i = 0; i < 256; i++) {
        int low = p[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        out->code[i] = (uint8_t)(low | out->code[i] << 4);
    }
}

/* Code books, + 128. ggml-common.h kvalues_iq4nl; OCP Microscaling Formats 1.0, table 5 (FP4 E2M1), doubled. */
static const uint8_t iq4nl_codes[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t fp4_codes[16] = {128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116};

static void look_up(const uint8_t *book, uint8_t *code, int n) {
    for (int i = 0; i < n; i++) code[i] = book[code[i]];
}

/* IQ4_NL: d f16 | 32 x 4 bits into the book */
static void unpack_iq4_nl(const uint8_t *p, kvq_unpacked *out) {
    out->scale[0] = read_half(p);
    out->min[0] = 0;
    unpack_nibbles(p + 2, out->code);
    look_up(iq4nl_codes, out->code, 32);
}

/* IQ4_XS: d f16 | 8 x 2 high bits of scale (+ 32) | 8 x 4 low bits | 256 x 4 bits into the book, in runs of 32 */
static void unpack_iq4_xs(const uint8_t *p, kvq_unpacked *out) {
    out->d = read_half(p);
    for (int g = 0; g < 8; g++) {
        int low = p[4 + g / 2] >> (g % 2 * 4) & 15, high = read_u16(p + 2) >> 2 * g & 3;
        out->sub_scale[g] = (int8_t)((low | high << 4) - 32);
        unpack_nibbles(p + 8 + 16 * g, out->code + 32 * g);
    }
    multiply_scales_only(out, 8);
    look_up(iq4nl_codes, out->code, 256);
}

/* MXFP4: exponent byte e, scale 2^(e - 128) (halved, as the book is doubled) | 32 x 4 bits into the book.
 * For e < 2 that is no normal float, so it is put together by hand. */
static void unpack_mxfp4(const uint8_t *p, kvq_unpacked *out) {
    out->scale[0] = float_of_bits(p[0] < 2 ? 0x00200000u << p[0] : (uint32_t)(p[0] - 1) << 23);
    out->min[0] = 0;
    unpack_nibbles(p + 1, out->code);
    look_up(fp4_codes, out->code, 32);
}

static const kvq_format_info infos[KVQ_FORMAT_COUNT] = {
#define FORMAT(name, id, block, bytes, group, bits, zero, min, scales, unpack) \
    {#name, id, block, bytes, group, bits, zero, min, KVQ_SCALE_##scales, unpack},
#include "formats.def"
#undef FORMAT
};

const kvq_format_info *kvq_format_get(kvq_format format) {
    return &infos[format];
}

kvq_format kvq_format_find(uint32_t id) {
    for (int f = 0; f < KVQ_FORMAT_COUNT; f++)
        if (infos[f].id == id) return (kvq_format)f;
    return KVQ_FORMAT_COUNT;
}

static void plain_to_float(kvq_format format, const void *src, float *out, size_t n) {
    const uint8_t *p = src; /* tensors of a damaged file may be misaligned */
    if (format == KVQ_FORMAT_F32) memcpy(out, src, n * sizeof *out);
    if (format == KVQ_FORMAT_F16)
        for (size_t i = 0; i < n; i++) out[i] = read_half(p + 2 * i);
    if (format == KVQ_FORMAT_BF16)
        for (size_t i = 0; i < n; i++) out[i] = kvq_bfloat_to_float(read_u16(p + 2 * i));
}

void kvq_format_to_float(kvq_format format, const void *src, float *out, size_t n) {
    const kvq_format_info *info = &infos[format];
    if (info->group_len == 0) {
        plain_to_float(format, src, out, n);
        return;
    }
    kvq_unpacked u;
    const uint8_t *block = src;
    for (size_t done = 0; done < n; done += info->block_len, block += info->block_bytes) {
        info->unpack(block, &u);
        for (int i = 0; i < info->block_len; i++) {
            float product = u.scale[i / info->group_len] * (float)(u.code[i] - info->zero);
            out[done + i] = info->has_min ? product + u.min[i / info->group_len] : product; /* -0 + 0 would be 0 */
        }
    }
}
