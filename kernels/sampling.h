/* sampling.h: the arithmetic of the operator `sample` (ops.h), the same lines for ref, cpu and cuda, so that a token
 * depends on nothing but its logits, parameters, seed and index.
 *
 * Two ideas make every order of work give the same token:
 *   - a token's *place* is one number, larger for what comes first (larger logit, then lower id). A set of most likely
 *     tokens is a least place, whichever way it was found: quickselect, bisection, sorting;
 *   - a token's *share* is its weight in whole units of 2^-40, so sums are exact. What is below half a unit is never
 *     drawn; of 262,144 tokens that is less than 1.2e-7 of all, the rounding error of a float. Sums of less than
 *     KVQ_SAMPLE_VOCAB shares fit.
 *
 * Whoever compiles this for a device says how functions are declared there in KVQ_SAMPLING_FN. */
#ifndef KVQ_SAMPLING_H
#define KVQ_SAMPLING_H

#include <float.h>
#include <math.h>
#include <string.h>

#include "ops.h"

#ifndef KVQ_SAMPLING_FN
#define KVQ_SAMPLING_FN static inline
#endif

#define KVQ_SAMPLE_BLOCK 128       /* tokens that cpu and cuda look at together, or not at all */
#define KVQ_SAMPLE_VOCAB (1 << 22) /* most tokens of a vocabulary */
#define KVQ_SHARE_UNITS 0x1p40f    /* of weight 1 */

/* ---- bias and penalties ---- */

KVQ_SAMPLING_FN float kvq_sample_edited(const kvq_sample_row *row, const kvq_sample_edit *e, float x) {
    x += e->bias;
    if (e->n_seen > 0) x = x > 0 ? x / row->repetition_penalty : x * row->repetition_penalty;
    if (e->n_answer > 0) x -= row->presence_penalty + row->frequency_penalty * (float)e->n_answer;
    return x;
}

/* ---- places ---- */

/* The order of floats as that of whole numbers; -0 is 0, NaN is -infinity: that is how NaN never wins. */
KVQ_SAMPLING_FN uint32_t kvq_sample_key(float x) {
    float y = x != x ? -INFINITY : x + 0.0f;
    uint32_t bits;
    memcpy(&bits, &y, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

KVQ_SAMPLING_FN float kvq_sample_logit_of_key(uint32_t key) {
    uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

KVQ_SAMPLING_FN uint64_t kvq_sample_place(uint32_t key, int id) {
    return (uint64_t)key << 32 | (uint32_t) ~(uint32_t)id;
}

KVQ_SAMPLING_FN int kvq_sample_id(uint64_t place) {
    return (int)~(uint32_t)place;
}

KVQ_SAMPLING_FN float kvq_sample_logit(uint64_t place) {
    return kvq_sample_logit_of_key((uint32_t)(place >> 32));
}

/* ---- weights and shares ---- */

/* What turns a logit into a weight: exp((x - max) * inverse). */
typedef struct kvq_sample_heat {
    float max, inverse;
} kvq_sample_heat;

/* 1 / T overflows for the smallest T; the largest float does instead: 0 times it is 0, all else is far below -88. */
KVQ_SAMPLING_FN kvq_sample_heat kvq_sample_heat_of(float max, float temperature) {
    kvq_sample_heat h;
    h.max = max;
    h.inverse = temperature < 1 / FLT_MAX ? FLT_MAX : 1 / temperature;
    return h;
}

/* What kvq_sample_exp takes; NaN becomes -88 as well, hence weight 0. */
KVQ_SAMPLING_FN float kvq_sample_exponent(kvq_sample_heat h, float x) {
    float z = (x - h.max) * h.inverse;
    return z > -88.0f ? z : -88.0f;
}

/* exp(z), z <= 0; exactly 1 at 0; 0 below -87.7, where n is -127 and the exponent bits are 0. z = n ln 2 + r with
 * |r| <= ln 2 / 2; exp(r) by the Taylor polynomial of degree 6, whose rest is below r^7 / 5040 = 1.2e-7; 2^n put into
 * the exponent bits. No branch, so that compilers make vector code of it. */
KVQ_SAMPLING_FN float kvq_sample_exp(float z) {
    float shifted = z * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the sum's low bits are the nearest integer */
    float n = shifted - 12582912.0f;
    float r = z - n * 0.693359375f; /* ln 2 in two parts, the first exact in 9 bits (Cody and Waite, 1980) */
    r = r - n * -2.12194440e-4f;
    float e = 1.0f / 720.0f;
    e = e * r + 1.0f / 120.0f;
    e = e * r + 1.0f / 24.0f;
    e = e * r + 1.0f / 6.0f;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    int32_t bits = (int32_t)((uint32_t)((int32_t)n + 127) << 23);
    float power;
    memcpy(&power, &bits, sizeof power);
    return e * power;
}

/* 0 .. 1. An infinite logit takes all the weight; several share it. */
KVQ_SAMPLING_FN float kvq_sample_weight(kvq_sample_heat h, float x) {
    if (h.max == INFINITY) return x == INFINITY ? 1.0f : 0.0f;
    return kvq_sample_exp(kvq_sample_exponent(h, x));
}

KVQ_SAMPLING_FN uint64_t kvq_sample_share_of(float weight) {
    return (uint64_t)llrintf(weight * KVQ_SHARE_UNITS);
}

KVQ_SAMPLING_FN uint64_t kvq_sample_share(kvq_sample_heat h, float x) {
    return kvq_sample_share_of(kvq_sample_weight(h, x));
}

/* What a set must hold to be top_p of `total` > 0: 1 .. total. */
KVQ_SAMPLING_FN uint64_t kvq_sample_need(float top_p, uint64_t total) {
    double need = ceil((double)top_p * (double)total);
    if (need < 1) return 1;
    return need < (double)total ? (uint64_t)need : total;
}

KVQ_SAMPLING_FN bool kvq_sample_has_top_k(const kvq_sample_row *row, int vocab_size) {
    return row->top_k > 0 && row->top_k < vocab_size;
}

/* ---- randomness ---- */

/* Philox4x32-10 of J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): key = seed, counter =
 * token index. A function of the two alone, so a draw needs no state and a preempted request draws the same again. */
KVQ_SAMPLING_FN uint64_t kvq_sample_random(uint64_t seed, uint32_t index) {
    uint32_t c0 = index, c1 = 0, c2 = 0, c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; /* golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    return (uint64_t)c0 << 32 | c1;
}

/* floor(random * total / 2^64), 0 .. total - 1: the token whose shares, in order of ids, pass it is drawn. */
KVQ_SAMPLING_FN uint64_t kvq_sample_target(uint64_t random, uint64_t total) {
    uint64_t r0 = (uint32_t)random, r1 = random >> 32, t0 = (uint32_t)total, t1 = total >> 32;
    uint64_t middle = r1 * t0 + (r0 * t0 >> 32), low = (uint32_t)middle + r0 * t1;
    return r1 * t1 + (middle >> 32) + (low >> 32);
}

#endif
