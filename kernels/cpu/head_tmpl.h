/* head_tmpl.h: what append and attend do to one head of head_dim floats (a multiple of 16) in a row of memory: RMS
 * norm, RoPE, the Hadamard transform. Included after a simd_*.h by the kernel files of append and attend. */
#include <math.h>

#include "../hadamard.h"
#include "../kv.h"

/* x / sqrt(mean(x^2) + eps) * weight; the mean in 16 lanes. */
V_INLINE void head_norm(float *x, int d, const float *weight, float eps) {
    v16f sum = v_zero();
    for (int i = 0; i < d; i += V_LANES) {
        v16f a = v_load(x + i);
        sum = v_fma(a, a, sum);
    }
    v16f unit = v_set1(1.0f / sqrtf(v_hsum(sum) / (float)d + eps));
    for (int i = 0; i < d; i += V_LANES) v_store(x + i, v_mul(v_mul(v_load(x + i), unit), v_load(weight + i)));
}

/* RoPE of one position, the same for every head: x[i] = x[i] c[i] + x[partner of i] s[i]. Channels that stay have c =
 * 1, s = 0. */
typedef struct head_rope {
    bool neox;
    int n_rot;
    float c[KVQ_MAX_HEAD_DIM], s[KVQ_MAX_HEAD_DIM];
} head_rope;

V_INLINE void head_rope_init(head_rope *rope, const float *table, int n_rot, bool neox, int d) {
    rope->neox = neox;
    rope->n_rot = n_rot;
    for (int pair = 0; pair < n_rot / 2; pair++) {
        int first = neox ? pair : 2 * pair, second = neox ? pair + n_rot / 2 : 2 * pair + 1;
        rope->c[first] = rope->c[second] = table[2 * pair];
        rope->s[first] = -table[2 * pair + 1];
        rope->s[second] = table[2 * pair + 1];
    }
    for (int i = n_rot; i < d; i++) {
        rope->c[i] = 1;
        rope->s[i] = 0;
    }
}

V_INLINE void head_turn(float *x, int d, const head_rope *rope) {
    float partner[KVQ_MAX_HEAD_DIM];
    if (rope->neox) {
        size_t half = (size_t)rope->n_rot / 2;
        memcpy(partner, x + half, half * sizeof *x);
        memcpy(partner + half, x, half * sizeof *x);
        memset(partner + 2 * half, 0, ((size_t)d - 2 * half) * sizeof *x);
    } else {
        for (int i = 0; i < d; i += V_LANES) v_store(partner + i, v_swap(v_load(x + i), 1));
    }
    for (int i = 0; i < d; i += V_LANES) {
        v16f other = v_mul(v_load(partner + i), v_load(rope->s + i));
        v_store(x + i, v_fma(v_load(x + i), v_load(rope->c + i), other));
    }
}

/* +1 where bit h of the lane is clear, -1 where it is set. */
static const float head_signs[4][V_LANES] = {
    {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
    {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
    {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
    {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1},
};

/* One butterfly within a vector: lanes l and l ^ h become their sum and difference. */
#define HEAD_BUTTERFLY(x, h, row) v_fma(x, v_load(head_signs[row]), v_swap(x, h))

/* The butterflies below n_block (a power of two) and the factor 1 / sqrt(d). */
V_INLINE void head_butterflies(float *x, int d, int n_block) {
    v16f unit = v_set1(1.0f / sqrtf((float)d));
    for (int i = 0; i < d; i += V_LANES) {
        v16f a = v_mul(v_load(x + i), unit);
        if (n_block > 1) a = HEAD_BUTTERFLY(a, 1, 0);
        if (n_block > 2) a = HEAD_BUTTERFLY(a, 2, 1);
        if (n_block > 4) a = HEAD_BUTTERFLY(a, 4, 2);
        if (n_block > 8) a = HEAD_BUTTERFLY(a, 8, 3);
        v_store(x + i, a);
    }
    for (int h = V_LANES; h < n_block; h *= 2)
        for (int begin = 0; begin < d; begin += 2 * h)
            for (int i = begin; i < begin + h; i += V_LANES) {
                v16f a = v_load(x + i), b = v_load(x + i + h);
                v_store(x + i, v_add(a, b));
                v_store(x + i + h, v_sub(a, b));
            }
}

/* The base matrix (12 or 20) over x viewed as [base][step]; plain loops, such heads are rare. */
static void head_turn_base(float *x, int base, int step) {
    float out[KVQ_MAX_HEAD_DIM] = {0};
    for (int i = 0; i < base; i++)
        for (int j = 0; j < base; j++) {
            bool plus = kvq_hadamard_base_sign(base, i, j) > 0;
            float *to = out + i * step;
            const float *from = x + j * step;
            for (int c = 0; c < step; c++) to[c] = plus ? to[c] + from[c] : to[c] - from[c];
        }
    memcpy(x, out, sizeof *x * (size_t)(base * step));
}

/* The orthonormal Hadamard transform in place; its own inverse (hadamard.c). */
V_INLINE void head_hadamard(float *x, int d) {
    int base = kvq_hadamard_base(d);
    head_butterflies(x, d, d / base);
    if (base > 1) head_turn_base(x, base, d / base);
}
