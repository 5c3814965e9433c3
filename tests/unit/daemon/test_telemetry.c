/* test_telemetry.c: daemon/telemetry.c's energy: what is added up, and how it is divided among requests. A folder
 * stands in for /sys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/telemetry.h"
#include "fake_nvml.h"

static char root[64];
static telemetry t;

static void put(const char *path, const char *text) {
    char command[512];
    (void)snprintf(command, sizeof command, "mkdir -p \"$(dirname '%s%s')\" && printf '%s\\n' >'%s%s'", root, path,
                   text, root, path);
    assert_int_equal(system(command), 0);
}

#define ZONE "/sys/class/powercap/intel-rapl:0/"
static void put_joules(int joules) {
    char text[32];
    (void)snprintf(text, sizeof text, "%d000000", joules);
    put(ZONE "energy_uj", text);
}

static int setup(void **state) {
    (void)state;
    strcpy(root, "/tmp/kvqd-test-telemetry-XXXXXX");
    if (!mkdtemp(root)) return -1;
    telemetry_init(&t);
    power_free(t.power);
    return 0;
}

static int teardown(void **state) {
    char command[128];
    (void)state;
    telemetry_done(&t);
    (void)snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static void use_rapl(void) {
    put(ZONE "name", "package-0"), put(ZONE "max_energy_range_uj", "262143328850");
    put_joules(1000);
    t.power = power_new(root);
    (void)telemetry_share_joules(&t, 0);
}

static void a_moment_is_divided_among_the_requests_that_run(void **state) {
    (void)state;
    use_rapl();
    double a = telemetry_share_joules(&t, 0); /* the first begins */
    put_joules(1010);
    double b = telemetry_share_joules(&t, 1); /* a second: the 10 J were the first's */
    put_joules(1030);
    a = telemetry_share_joules(&t, 2) - a; /* the first ends: 20 J were half its own */
    put_joules(1035);
    b = telemetry_share_joules(&t, 1) - b;
    assert_true(fabs(a - 20) < 1e-9);
    assert_true(fabs(b - 15) < 1e-9);
    put_joules(2000); /* idle: nobody's */
    double c = telemetry_share_joules(&t, 0);
    put_joules(2001);
    assert_true(fabs(telemetry_share_joules(&t, 1) - c - 1) < 1e-9);
}

static void a_gpu_of_its_own_is_added_to_the_processor(void **state) {
    (void)state;
    use_rapl();
    t.has_gpu = true;
    t.nvml = nvml_open(FAKE_NVML, "0000:65:00.0");
    assert_non_null(t.nvml);
    double before = telemetry_share_joules(&t, 1), total = t.energy_j;
    put_joules(1004);
    assert_true(fabs(telemetry_share_joules(&t, 1) - before - 4) < 1e-9);
    assert_true(fabs(t.energy_j - total - 4) < 1e-9);
    assert_true(t.gpu_j == 0);
}

static void a_jetsons_rail_has_its_gpu_in_it(void **state) {
    (void)state;
#define INA "/sys/class/hwmon/hwmon1/"
    put(INA "in1_label", "VDD_IN"), put(INA "in1_input", "5000"), put(INA "curr1_input", "2000");
    t.power = power_new(root);
    t.has_gpu = true;
    t.nvml = nvml_open(FAKE_NVML_OLD, "0000:65:00.0"); /* 250 W by its own account */
    (void)telemetry_share_joules(&t, 1);
    kvq_info info = {.backend = "cuda", .device_bus_id = "0000:65:00.0"};
    telemetry_follow_gpu(&t, &info);
    assert_true(fabs(t.power_w - 10) < 1e-9);
    assert_true(t.gpu.power_w == 250.5);
    assert_true(t.energy_j < 100); /* the rail's 10 W alone, over the moments of this test */
}

static void without_sensors_nothing_is_known(void **state) {
    (void)state;
    t.power = power_new(root);
    assert_true(isnan(telemetry_share_joules(&t, 1)) && isnan(t.energy_j));
    kvq_info info = {.backend = "cpu", .device_bus_id = ""};
    telemetry_follow_gpu(&t, &info);
    assert_null(t.nvml);
    assert_true(isnan(t.power_w) && isnan(t.gpu.power_w) && isnan(t.gpu.throttled));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_moment_is_divided_among_the_requests_that_run, setup, teardown),
        cmocka_unit_test_setup_teardown(a_gpu_of_its_own_is_added_to_the_processor, setup, teardown),
        cmocka_unit_test_setup_teardown(a_jetsons_rail_has_its_gpu_in_it, setup, teardown),
        cmocka_unit_test_setup_teardown(without_sensors_nothing_is_known, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
