/* Proves kernels/cpu/vmath_tmpl.h: exp and tanh against the C library's doubles over their whole range. The portable
 * vectors stand for all: check_kernels proves that the other instruction sets give the same bits. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/cpu/simd_generic.h"
#include "kernels/cpu/vmath_tmpl.h"
#include "tests/sample.h"

static int coarser = 1; /* steps between values */

static float exp_of(float x) {
    return v_exp(v_set1(x)).v[3];
}
static float tanh_of(float x) {
    return v_tanh(v_set1(x)).v[3];
}

static void exp_is_within_1_2_ulp_between_its_ends(void **state) {
    (void)state;
    double worst = 0;
    for (float x = -86.9f; x < 88.72f; x += 0.00037f * (float)coarser) {
        double want = exp((double)x);
        int exponent;
        (void)frexp(want, &exponent);
        double ulp = ldexp(1, exponent - FLT_MANT_DIG);
        worst = fmax(worst, fabs(exp_of(x) - want) / ulp);
    }
    print_message("worst error of exp: %.3f ulp\n", worst);
    assert_true(worst < 1.2);
}

static void exp_beyond_its_ends_is_zero_and_infinity(void **state) {
    (void)state;
    static const float low[] = {-86.91f, -87.5f, -100, -1000, -FLT_MAX, -INFINITY};
    static const float high[] = {88.73f, 89, 1000, FLT_MAX, INFINITY};
    for (size_t i = 0; i < sizeof low / sizeof *low; i++) assert_true(exp_of(low[i]) == 0);
    for (size_t i = 0; i < sizeof high / sizeof *high; i++) assert_true(exp_of(high[i]) == INFINITY);
    assert_true(exp_of(0) == 1 && exp_of(-0.0f) == 1);
    assert_true(isnan(exp_of(NAN)));
}

static void tanh_is_within_2e_7(void **state) {
    (void)state;
    for (float x = -50; x < 50; x += 0.0013f * (float)coarser) assert_true(fabs(tanh_of(x) - tanh((double)x)) < 2e-7);
    assert_true(tanh_of(0) == 0);
    assert_true(tanh_of(INFINITY) == 1 && tanh_of(-INFINITY) == -1);
    assert_true(isnan(tanh_of(NAN)));
}

int main(int argc, char **argv) {
    if (is_sample(argc, argv)) coarser = 15;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_1_2_ulp_between_its_ends),
        cmocka_unit_test(exp_beyond_its_ends_is_zero_and_infinity),
        cmocka_unit_test(tanh_is_within_2e_7),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
