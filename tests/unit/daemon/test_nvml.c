/* test_nvml.c: daemon/nvml.c with a false library in the driver's place (fake_nvml.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dlfcn.h>
#include <string.h>

#include "daemon/nvml.h"
#include "fake_nvml.h"

#define BUS_ID "0000:65:00.0"

/* The library that the code under test will find open already, as it was when it was built. */
static fake_gpu *gpu;

static int setup(void **state) {
    static fake_gpu first;
    (void)state;
    void *library = dlopen(FAKE_NVML, RTLD_NOW);
    if (!library) return -1;
    gpu = dlsym(library, "fake_nvml_gpu");
    if (!first.bus_id) first = *gpu;
    *gpu = first;
    return 0;
}

static void every_figure_comes_in_base_units(void **state) {
    (void)state;
    nvml *n = nvml_open(FAKE_NVML, BUS_ID);
    gpu_sample s = GPU_UNKNOWN;
    nvml_read(n, &s);
    assert_true(s.power_w == 250.5 && s.temperature_c == 61);
    assert_true(s.clock_hz == 1980e6 && s.memory_clock_hz == 2619e6);
    assert_true(s.utilization_ratio == 0.97);
    assert_true(s.memory_used_bytes == (double)(20ull << 30) && s.memory_total_bytes == (double)(80ull << 30));
    nvml_close(n);
    assert_int_equal(gpu->n_open, 0);
}

static void a_power_limit_is_a_reason_but_no_throttling(void **state) {
    static const struct {
        unsigned long long bits;
        double throttled;
        const char *text;
    } cases[] = {
        {0, 0, ""},
        {0x1, 0, ""}, /* idle */
        {0x4, 0, "power_cap"},
        {0x8 | 0x40, 1, "hw_slowdown,hw_thermal"},
        {0x1ff, 1, "power_cap,hw_slowdown,sw_thermal,hw_thermal,hw_power_brake"},
    };
    (void)state;
    nvml *n = nvml_open(FAKE_NVML, BUS_ID);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gpu_sample s = GPU_UNKNOWN;
        gpu->reasons = cases[i].bits;
        nvml_read(n, &s);
        assert_true(s.throttled == cases[i].throttled);
        assert_string_equal(s.throttle_text, cases[i].text);
    }
    nvml_close(n);
}

static void energy_is_the_counters_difference(void **state) {
    (void)state;
    nvml *n = nvml_open(FAKE_NVML, BUS_ID);
    assert_true(nvml_joules(n, 1) == 0);
    gpu->energy_mj += 1500;
    assert_true(nvml_joules(n, 2) == 1.5);
    gpu->energy_mj = 10; /* the driver was loaded again */
    assert_true(nvml_joules(n, 3) == 1.5);
    gpu->energy_mj = 1010;
    assert_true(nvml_joules(n, 4) == 2.5);
    gpu->other_result = 15; /* the GPU is lost */
    assert_true(nvml_joules(n, 5) == 2.5);
    nvml_close(n);
}

static void without_a_counter_energy_is_power_over_time(void **state) {
    (void)state;
    gpu->has_no_counter = 1;
    gpu->milliwatts = 10000;
    nvml *n = nvml_open(FAKE_NVML, BUS_ID);
    assert_true(nvml_joules(n, 100) == 0);
    gpu->milliwatts = 20000;
    assert_true(nvml_joules(n, 102) == 30); /* 2 s at a mean of 15 W */
    nvml_close(n);
}

static void a_driver_without_a_function_gives_the_other_figures(void **state) {
    (void)state;
    nvml *n = nvml_open(FAKE_NVML_OLD, BUS_ID);
    gpu_sample s = GPU_UNKNOWN;
    nvml_read(n, &s);
    assert_true(s.power_w == 250.5 && isnan(s.throttled));
    assert_string_equal(s.throttle_text, "");
    assert_true(nvml_joules(n, 0) == 0 && nvml_joules(n, 2) == 501);
    nvml_close(n);
}

static void a_gpu_that_does_not_answer_is_unknown(void **state) {
    (void)state;
    nvml *n = nvml_open(FAKE_NVML, BUS_ID);
    gpu_sample s = GPU_UNKNOWN;
    gpu->other_result = 15;
    s.temperature_c = 40; /* known from elsewhere */
    nvml_read(n, &s);
    assert_true(isnan(s.power_w) && isnan(s.utilization_ratio) && isnan(s.memory_used_bytes) && isnan(s.throttled));
    assert_true(s.temperature_c == 40);
    nvml_close(n);

    gpu->other_result = 3; /* not supported, the counter included */
    n = nvml_open(FAKE_NVML, BUS_ID);
    assert_true(isnan(nvml_joules(n, 1)));
    nvml_close(n);
}

static void no_library_no_gpu_and_no_right_are_no_figures(void **state) {
    (void)state;
    assert_null(nvml_open("/nowhere/libnvidia-ml.so.1", BUS_ID));
    assert_null(nvml_open(FAKE_NVML, "0000:17:00.0"));
    assert_int_equal(gpu->n_open, 0);
    gpu->init_result = 4; /* no permission */
    assert_null(nvml_open(FAKE_NVML, BUS_ID));
    assert_int_equal(gpu->n_open, 0);
    nvml_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(every_figure_comes_in_base_units, setup),
        cmocka_unit_test_setup(a_power_limit_is_a_reason_but_no_throttling, setup),
        cmocka_unit_test_setup(energy_is_the_counters_difference, setup),
        cmocka_unit_test_setup(without_a_counter_energy_is_power_over_time, setup),
        cmocka_unit_test_setup(a_driver_without_a_function_gives_the_other_figures, setup),
        cmocka_unit_test_setup(a_gpu_that_does_not_answer_is_unknown, setup),
        cmocka_unit_test_setup(no_library_no_gpu_and_no_right_are_no_figures, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
