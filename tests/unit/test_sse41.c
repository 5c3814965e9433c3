/* Proves what kernels/cpu/simd_sse41.h makes itself, because SSE4.1 has no instruction for it: the fused multiply-add
 * and the conversions of halves, against fmaf and kernels/formats.c, bit for bit. All else of that set is proved by
 * check_kernels, whose random values seldom come to where a sum that is rounded twice goes wrong. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/cpu/simd_sse41.h"
#include "kernels/formats.h"

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static uint32_t next(void) { /* Marsaglia, "Xorshift RNGs", 2003 */
    static uint32_t x = 2463534242u;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return x;
}

/* The same number with the same sign, or NaN both. */
static void assert_same(float got, float want) {
    if (isnan(got) && isnan(want)) return;
    assert_int_equal(bits_of(got), bits_of(want));
}

/* ---- multiply-add ---- */

static int n_twice_differs; /* of all triples so far: a sum rounded to a double and then to a float is another one */

/* The triple in one lane, others' in the rest. */
static void check_fma(float x, float y, float z) {
    float in[3][V_LANES], out[V_LANES];
    const int lane = (int)(next() % V_LANES);
    for (int l = 0; l < V_LANES; l++) in[0][l] = 1.5f, in[1][l] = (float)l, in[2][l] = 0.25f;
    in[0][lane] = x, in[1][lane] = y, in[2][lane] = z;
    v_store(out, v_fma(v_load(in[0]), v_load(in[1]), v_load(in[2])));
    for (int l = 0; l < V_LANES; l++) assert_same(out[l], fmaf(in[0][l], in[1][l], in[2][l]));
    const float twice = (float)((double)x * (double)y + (double)z);
    n_twice_differs += bits_of(twice) != bits_of(out[lane]) && !isnan(twice);
}

static void check_fma_with_signs(float x, float y, float z) {
    for (int signs = 0; signs < 8; signs++) check_fma(signs & 1 ? -x : x, signs & 2 ? -y : y, signs & 4 ? -z : z);
}

/* Products that lie 2^-46 of themselves beside half of what a float z is rounded to: as a double the sum is the middle.
 */
static void sums_beside_the_middle_are_rounded_once(void **state) {
    (void)state;
    n_twice_differs = 0;
    for (int i = 0; i < 20000; i++) {
        const int exponent = (int)(next() % 180) - 60, part = (int)(next() % 40) - 20;
        const float z = ldexpf(1 + (float)(next() % (1 << 23)) * 0x1p-23f, exponent);
        check_fma_with_signs(ldexpf(1 + 0x1p-23f, part), ldexpf(1 - 0x1p-23f, exponent - 24 - part), z);
        check_fma_with_signs(ldexpf(1, part), ldexpf(1, exponent - 24 - part), z); /* the middle itself: to even */
    }
    assert_in_range(n_twice_differs, 10000, 160000);
    check_fma_with_signs(0x1p60f * (1 + 0x1p-23f), 0x1p43f * (1 - 0x1p-23f), FLT_MAX); /* the middle to infinity */
}

static void sums_that_are_tiny_are_rounded_once(void **state) {
    (void)state;
    n_twice_differs = 0;
    for (int i = 0; i < 20000; i++) {
        const float z = float_of(next() % (4 << 23)); /* below 2^-123 */
        check_fma_with_signs((1 + 0x1p-23f) * 0x1p-70f, ldexpf(1 - 0x1p-23f, -80 - (int)(next() % 3)), z);
        check_fma_with_signs(0x1p-70f, 0x1p-80f, z);
    }
    assert_in_range(n_twice_differs, 1000, 160000);
    check_fma_with_signs(0x1p-75f, 0x1p-75f, 0); /* half of the least float: to even, which is zero */
    check_fma_with_signs(0x1p-75f * (1 + 0x1p-23f), 0x1p-75f, 0);
}

static void any_bits_give_what_fmaf_gives(void **state) {
    (void)state;
    for (int i = 0; i < 300000; i++) check_fma(float_of(next()), float_of(next()), float_of(next()));
    static const float ends[] = {
        0,         FLT_TRUE_MIN, FLT_MIN, 1, 1 + FLT_EPSILON, FLT_MAX, INFINITY, 0x1.fffffep126f, 0x1p-23f * FLT_MAX,
        (float)NAN};
    const size_t n = sizeof ends / sizeof *ends;
    for (size_t i = 0; i < n * n * n; i++) check_fma_with_signs(ends[i % n], ends[i / n % n], ends[i / n / n]);
}

/* ---- halves ---- */

static void every_half_becomes_its_float(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h += V_LANES) {
        uint16_t in[V_LANES];
        float out[V_LANES];
        for (uint32_t l = 0; l < V_LANES; l++) in[l] = (uint16_t)(h + l);
        v_store(out, v_load_half(in));
        for (int l = 0; l < V_LANES; l++) assert_same(out[l], kvq_half_to_float(in[l]));
    }
}

static void check_half(float x) {
    uint16_t out[V_LANES];
    v_store_half(out, v_set1(x));
    for (int l = 0; l < V_LANES; l++) {
        if (isnan(x))
            assert_true(isnan(kvq_half_to_float(out[l])));
        else
            assert_int_equal(out[l], kvq_float_to_half(x));
    }
}

/* Each half, the middle between it and the next one, and the floats beside that. */
static void floats_become_the_nearest_half(void **state) {
    (void)state;
    for (uint32_t h = 0; h <= 0x7C00; h++) {
        const float x = kvq_half_to_float((uint16_t)h);
        const float above = h < 0x7BFF ? kvq_half_to_float((uint16_t)(h + 1)) : 65536.0f;
        const float middle = isinf(x) ? FLT_MAX : x + (above - x) / 2;
        const float all[] = {x, middle, nextafterf(middle, 0), nextafterf(middle, INFINITY)};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            check_half(all[i]);
            check_half(-all[i]);
        }
    }
    for (int i = 0; i < 300000; i++) check_half(float_of(next()));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_beside_the_middle_are_rounded_once),
        cmocka_unit_test(sums_that_are_tiny_are_rounded_once),
        cmocka_unit_test(any_bits_give_what_fmaf_gives),
        cmocka_unit_test(every_half_becomes_its_float),
        cmocka_unit_test(floats_become_the_nearest_half),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
