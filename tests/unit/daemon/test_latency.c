/* test_latency.c: quantiles of recent durations (daemon/latency.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "daemon/latency.h"

static void without_samples_nothing_is_known(void **state) {
    (void)state;
    latency l = {0};
    assert_true(isnan(latency_quantile(&l, 0.5)));
    latency_add(&l, NAN);
    latency_add(&l, INFINITY);
    assert_int_equal(l.n, 0);
}

static void quantiles_are_the_nearest_rank_whatever_the_order(void **state) {
    (void)state;
    latency l = {0};
    for (int i = 0; i < 100; i++) latency_add(&l, (i * 37) % 100 + 1); /* 1 .. 100, each once */
    assert_float_equal(latency_quantile(&l, 0.5), 50, 0);
    assert_float_equal(latency_quantile(&l, 0.9), 90, 0);
    assert_float_equal(latency_quantile(&l, 0.99), 99, 0);
    assert_float_equal(latency_quantile(&l, 0), 1, 0);
    assert_float_equal(latency_quantile(&l, 1), 100, 0);
    assert_float_equal(l.sum, 5050, 0);
}

static void old_samples_make_room_for_new_ones(void **state) {
    (void)state;
    latency l = {0};
    for (int i = 0; i < LATENCY_SAMPLES; i++) latency_add(&l, 1000);
    for (int i = 0; i < LATENCY_SAMPLES; i++) latency_add(&l, 1);
    assert_float_equal(latency_quantile(&l, 1), 1, 0);
    assert_int_equal(l.n, 2 * LATENCY_SAMPLES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_samples_nothing_is_known),
        cmocka_unit_test(quantiles_are_the_nearest_rank_whatever_the_order),
        cmocka_unit_test(old_samples_make_room_for_new_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
