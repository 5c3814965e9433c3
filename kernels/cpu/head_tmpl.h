/* head_tmpl.h: what append and attend do to one head of head_dim floats (a multiple of 16), in vectors of 16 channels:
 * RMS norm, RoPE, the Hadamard transform. Included after a simd_*.h by the kernel files of append and attend. */
#include <math.h>

#include "../hadamard.h"
#include "../kv.h"

#define HEAD_VECTORS (KVQ_MAX_HEAD_DIM / V_LANES)

/* fn(d, ..) with the common head sizes as constants: loops over a head's vectors are then unrolled and the vectors stay
 * in registers from one step to the next. fn is inline and returns nothing. */
#define HEAD_CALL(fn, d, ...) \
    ((d) == 64 ? fn(64, __VA_ARGS__) : (d) == 128 ? fn(128, __VA_ARGS__) : fn((int)(d), __VA_ARGS__))

V_INLINE void head_load(v16f *x, const int d, const float *from) {
    for (int v = 0; v < d / V_LANES; v++) x[v] = v_load(from + V_LANES * v);
}

V_INLINE void head_store(float *to, const int d, const v16f *x) {
    for (int v = 0; v < d / V_LANES; v++) v_store(to + V_LANES * v, x[v]);
}

/* Asks for the head n_floats behind x, if there is one: memory's stream of rows is slower than what is done to a head
 * in registers, and the hardware does not fetch far enough ahead by itself. */
V_INLINE void head_ask_ahead(const float *x, const int d, size_t n_floats) {
    for (int i = 0; i < d; i += V_LANES) v_prefetch((const void *)((uintptr_t)(x + i) + n_floats * sizeof *x));
}

/* x / sqrt(mean(x^2) + eps) * weight; the mean in 16 lanes. */
V_INLINE void head_norm(v16f *x, const int d, const float *weight, float eps) {
    v16f sum = v_zero();
    for (int v = 0; v < d / V_LANES; v++) sum = v_fma(x[v], x[v], sum);
    v16f unit = v_set1(1.0f / sqrtf(v_hsum(sum) / (float)d + eps));
    for (int v = 0; v < d / V_LANES; v++) x[v] = v_mul(v_mul(x[v], unit), v_load(weight + V_LANES * v));
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

V_INLINE v16f head_turned(v16f x, v16f partner, const head_rope *rope, int v) {
    return v_fma(x, v_load(rope->c + V_LANES * v), v_mul(partner, v_load(rope->s + V_LANES * v)));
}

/* Neox of any n_rot: by way of memory. */
V_INLINE void head_turn_part(v16f *x, const int d, const head_rope *rope) {
    float from[KVQ_MAX_HEAD_DIM], partner[KVQ_MAX_HEAD_DIM] = {0};
    size_t half = (size_t)rope->n_rot / 2;
    head_store(from, d, x);
    memcpy(partner, from + half, half * sizeof *from);
    memcpy(partner + half, from, half * sizeof *from);
    for (int v = 0; v < d / V_LANES; v++) x[v] = head_turned(x[v], v_load(partner + V_LANES * v), rope, v);
}

V_INLINE void head_turn(v16f *x, const int d, const head_rope *rope) {
    const int half = d / V_LANES / 2;
    if (!rope->neox)
        for (int v = 0; v < d / V_LANES; v++) x[v] = head_turned(x[v], v_swap(x[v], 1), rope, v);
    else if (rope->n_rot == d && d % (2 * V_LANES) == 0)
        for (int v = 0; v < half; v++) {
            v16f first = x[v];
            x[v] = head_turned(first, x[v + half], rope, v);
            x[v + half] = head_turned(x[v + half], first, rope, v + half);
        }
    else
        head_turn_part(x, d, rope);
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
V_INLINE void head_butterflies(v16f *x, const int d, const int n_block) {
    v16f unit = v_set1(1.0f / sqrtf((float)d));
    for (int v = 0; v < d / V_LANES; v++) {
        v16f a = v_mul(x[v], unit);
        if (n_block > 1) a = HEAD_BUTTERFLY(a, 1, 0);
        if (n_block > 2) a = HEAD_BUTTERFLY(a, 2, 1);
        if (n_block > 4) a = HEAD_BUTTERFLY(a, 4, 2);
        if (n_block > 8) a = HEAD_BUTTERFLY(a, 8, 3);
        x[v] = a;
    }
    for (int h = 1; h < n_block / V_LANES; h *= 2)
        for (int v = 0; v < d / V_LANES; v++) {
            if (v & h) continue;
            v16f a = x[v], b = x[v + h];
            x[v] = v_add(a, b);
            x[v + h] = v_sub(a, b);
        }
}

/* The base matrix (12 or 20) over x viewed as [base][step]; plain loops, such heads are rare. */
static void head_turn_base(v16f *vectors, int base, int step) {
    float x[KVQ_MAX_HEAD_DIM], out[KVQ_MAX_HEAD_DIM] = {0};
    head_store(x, base * step, vectors);
    for (int i = 0; i < base; i++)
        for (int j = 0; j < base; j++) {
            bool plus = kvq_hadamard_base_sign(base, i, j) > 0;
            float *to = out + i * step;
            const float *from = x + j * step;
            for (int c = 0; c < step; c++) to[c] = plus ? to[c] + from[c] : to[c] - from[c];
        }
    head_load(vectors, base * step, out);
}

/* The orthonormal Hadamard transform in place; its own inverse (hadamard.c). */
V_INLINE void head_hadamard(v16f *x, const int d) {
    int base = (d & (d - 1)) == 0 ? 1 : kvq_hadamard_base(d); /* 1 is known when d is */
    head_butterflies(x, d, d / base);
    if (base > 1) head_turn_base(x, base, d / base);
}
