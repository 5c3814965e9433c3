/* test_power.c: daemon/power.c on made-up machines: a folder with the files of /sys and /proc that a row lists. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/power.h"

#define SECOND INT64_C(1000000000)

static char root[64];

static int setup(void **state) {
    (void)state;
    strcpy(root, "/tmp/kvqd-test-power-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state) {
    char command[128];
    (void)state;
    (void)snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static void put(const char *path, const char *text) {
    char command[512], file[256];
    (void)snprintf(file, sizeof file, "%s%s", root, path);
    (void)snprintf(command, sizeof command, "mkdir -p \"$(dirname '%s')\"", file);
    assert_int_equal(system(command), 0);
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void an_empty_machine_gives_no_guesses(void **state) {
    power_sample s;
    (void)state;
    power *p = power_new(root);
    power_read(p, SECOND, &s);
    assert_null(s.source);
    assert_true(isnan(s.power_w) && isnan(s.energy_j) && isnan(s.temperature_c));
    assert_true(isnan(s.gpu.power_w) && isnan(s.gpu.clock_hz) && isnan(s.gpu.utilization_ratio));
    assert_false(s.has_throttling || s.is_throttled);
    assert_true(s.memory_total_bytes == 0 && s.memory_limit_bytes == 0 && s.resident_bytes == 0);
    power_free(p);
}

static void rapl_counts_packages_and_their_memory_once_and_wraps(void **state) {
    power_sample s;
    (void)state;
#define ZONE "/sys/class/powercap/intel-rapl:"
    put(ZONE "0/name", "package-0\n"), put(ZONE "0/energy_uj", "9000000\n"),
        put(ZONE "0/max_energy_range_uj", "10000000\n");
    put(ZONE "0:0/name", "core\n"), put(ZONE "0:0/energy_uj", "5\n"), put(ZONE "0:0/max_energy_range_uj", "10000000\n");
    put(ZONE "0:1/name", "dram\n"), put(ZONE "0:1/energy_uj", "0\n"), put(ZONE "0:1/max_energy_range_uj", "10000000\n");
    put(ZONE "1/name", "psys\n"), put(ZONE "1/energy_uj", "0\n"), put(ZONE "1/max_energy_range_uj", "10000000\n");
    power *p = power_new(root);
    power_read(p, SECOND, &s);
    assert_string_equal(s.source, "rapl");
    assert_true(isnan(s.power_w) && s.energy_j == 0);
    put(ZONE "0/energy_uj", "4000000\n"); /* 5 J: 1 to the end, 4 from the start */
    put(ZONE "0:0/energy_uj", "7000000\n");
    put(ZONE "0:1/energy_uj", "1000000\n");
    put(ZONE "1/energy_uj", "8000000\n");
    power_read(p, 3 * SECOND, &s);
    assert_true(fabs(s.energy_j - 6) < 1e-9);
    assert_true(fabs(s.power_w - 3) < 1e-9);
    power_free(p);
}

static void a_jetson_rail_is_volts_times_amperes(void **state) {
    power_sample s;
    (void)state;
#define INA "/sys/class/hwmon/hwmon3/"
    put(INA "in1_label", "VDD_CPU_GPU_CV\n"), put(INA "in1_input", "5000\n"), put(INA "curr1_input", "9000\n");
    put(INA "in2_label", "VDD_IN\n"), put(INA "in2_input", "5000\n"), put(INA "curr2_input", "2000\n");
    power *p = power_new(root);
    power_read(p, 0, &s);
    assert_string_equal(s.source, "ina3221");
    assert_true(fabs(s.power_w - 10) < 1e-9 && s.energy_j == 0);
    put(INA "curr2_input", "4000\n");
    power_read(p, 2 * SECOND, &s);
    assert_true(fabs(s.power_w - 20) < 1e-9);
    assert_true(fabs(s.energy_j - 30) < 1e-9); /* 2 s at a mean of 15 W */
    power_free(p);
}

static void three_rails_feed_a_jetson_without_one_for_all(void **state) {
    power_sample s;
    (void)state;
#define AGX "/sys/class/hwmon/hwmon2/"
    put(AGX "in1_label", "VDD_GPU_SOC\n"), put(AGX "in1_input", "5000\n"), put(AGX "curr1_input", "4000\n");
    put(AGX "in2_label", "VDD_CPU_CV\n"), put(AGX "in2_input", "5000\n"), put(AGX "curr2_input", "1000\n");
    put(AGX "in3_label", "VIN_SYS_5V0\n"), put(AGX "in3_input", "5000\n"), put(AGX "curr3_input", "600\n");
    put(INA "in2_label", "VDDQ_VDD2_1V8AO\n"), put(INA "in2_input", "5000\n"), put(INA "curr2_input", "100\n");
    power *p = power_new(root);
    power_read(p, 0, &s);
    assert_string_equal(s.source, "ina3221");
    assert_true(fabs(s.power_w - 28) < 1e-9); /* 20 + 5 + 3; the last rail is part of the third */
    assert_true(fabs(s.gpu.power_w - 20) < 1e-9);
    put(AGX "curr2_input", "\n"); /* a rail that cannot be read: no sum of the others */
    power_read(p, SECOND, &s);
    assert_true(fabs(s.power_w - 28) < 1e-9); /* the last one that was known */
    power_free(p);
}

static void a_jetsons_gpu_tells_load_clock_and_degrees(void **state) {
    power_sample s;
    (void)state;
    put("/sys/class/devfreq/15340000.vic/cur_freq", "115000000\n");
    put("/sys/class/devfreq/17000000.gpu/cur_freq", "624750000\n");
    put("/sys/class/devfreq/17000000.gpu/device/load", "975\n");
    put("/sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        put("/sys/class/thermal/thermal_zone0/temp", "60000\n");
    put("/sys/class/thermal/thermal_zone1/type", "gpu-thermal\n"),
        put("/sys/class/thermal/thermal_zone1/temp", "55500\n");
    put(INA "in1_label", "VDD_IN\n"), put(INA "in1_input", "5000\n"), put(INA "curr1_input", "3000\n");
    put(INA "in2_label", "VDD_CPU_GPU_CV\n"), put(INA "in2_input", "5000\n"), put(INA "curr2_input", "1500\n");
    power *p = power_new(root);
    power_read(p, 0, &s);
    assert_true(s.gpu.clock_hz == 624750000 && s.gpu.utilization_ratio == 0.975);
    assert_true(s.temperature_c == 60 && s.gpu.temperature_c == 55.5);
    assert_true(fabs(s.power_w - 15) < 1e-9 && fabs(s.gpu.power_w - 7.5) < 1e-9);
    assert_true(isnan(s.gpu.memory_clock_hz) && isnan(s.gpu.memory_used_bytes) && isnan(s.gpu.throttled));
    power_free(p);
}

static void a_power_meter_is_the_last_resort(void **state) {
    power_sample s;
    (void)state;
    put("/sys/class/hwmon/hwmon0/name", "power_meter\n"), put("/sys/class/hwmon/hwmon0/power1_average", "150000000\n");
    power *p = power_new(root);
    power_read(p, 0, &s);
    assert_string_equal(s.source, "power_meter");
    assert_true(fabs(s.power_w - 150) < 1e-9);
    power_free(p);
}

static void the_hottest_processor_sensor_counts(void **state) {
    power_sample s;
    (void)state;
    put("/sys/class/hwmon/hwmon0/name", "nvme\n"), put("/sys/class/hwmon/hwmon0/temp1_input", "99000\n");
    put("/sys/class/hwmon/hwmon1/name", "k10temp\n"), put("/sys/class/hwmon/hwmon1/temp1_input", "61500\n");
    put("/sys/class/hwmon/hwmon1/temp3_input", "64250\n");
    put("/sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        put("/sys/class/thermal/thermal_zone0/temp", "90000\n");
    power *p = power_new(root);
    power_read(p, 0, &s);
    assert_true(s.temperature_c == 64.25);
    power_free(p);
}

static void thermal_zones_serve_where_no_sensor_has_a_known_name(void **state) {
    power_sample s;
    (void)state;
    put("/sys/class/thermal/thermal_zone0/type", "acpitz\n"), put("/sys/class/thermal/thermal_zone0/temp", "90000\n");
    put("/sys/class/thermal/thermal_zone1/type", "cpu-thermal\n"),
        put("/sys/class/thermal/thermal_zone1/temp", "-5000\n");
    power *p = power_new(root);
    power_read(p, 0, &s);
    assert_true(s.temperature_c == -5);
    power_free(p);
}

static void throttling_is_a_count_that_rose_or_a_cooling_state(void **state) {
    power_sample s;
    (void)state;
#define COUNT(n) "/sys/devices/system/cpu/cpu" #n "/thermal_throttle/core_throttle_count"
    put(COUNT(0), "3\n"), put(COUNT(1), "4\n");
    put("/sys/class/thermal/cooling_device0/type", "Fan\n"), put("/sys/class/thermal/cooling_device0/cur_state", "5\n");
    put("/sys/class/thermal/cooling_device1/type", "Processor\n"),
        put("/sys/class/thermal/cooling_device1/cur_state", "0\n");
    power *p = power_new(root);
    power_read(p, 0, &s);
    assert_true(s.has_throttling && !s.is_throttled && s.throttle_events == 7);
    put(COUNT(1), "5\n");
    power_read(p, SECOND, &s);
    assert_true(s.is_throttled && s.throttle_events == 8);
    power_read(p, 2 * SECOND, &s);
    assert_false(s.is_throttled);
    put("/sys/class/thermal/cooling_device1/cur_state", "2\n");
    power_read(p, 3 * SECOND, &s);
    assert_true(s.is_throttled);
    power_free(p);
}

static void memory_is_capped_by_the_tightest_group(void **state) {
    power_sample s;
    (void)state;
    put("/proc/meminfo", "MemTotal:       16000000 kB\nMemFree:  1 kB\nMemAvailable:    8000000 kB\n");
    put("/proc/self/statm", "1000 250 3 4 5 6 7\n");
    put("/proc/self/cgroup", "0::/system.slice/kvqd.service\n");
    put("/sys/fs/cgroup/system.slice/kvqd.service/memory.max", "max\n");
    put("/sys/fs/cgroup/system.slice/kvqd.service/memory.current", "12345\n");
    put("/sys/fs/cgroup/system.slice/memory.max", "4294967296\n");
    put("/sys/fs/cgroup/memory.max", "8589934592\n");
    power *p = power_new(root);
    power_read(p, 0, &s);
    assert_true(s.memory_total_bytes == UINT64_C(16384000000) && s.memory_available_bytes == UINT64_C(8192000000));
    assert_true(s.memory_limit_bytes == UINT64_C(4294967296));
    assert_true(s.memory_used_bytes == 12345);
    assert_true(s.resident_bytes == 250 * (uint64_t)sysconf(_SC_PAGESIZE));
    power_free(p);
}

static void version_1_groups_are_read_too(void **state) {
    power_sample s;
    (void)state;
    put("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/x\n");
    put("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "1073741824\n");
    put("/sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "77\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    power *p = power_new(root);
    power_read(p, 0, &s);
    assert_true(s.memory_limit_bytes == 1073741824 && s.memory_used_bytes == 77);
    power_free(p);
}

static void the_real_machine_can_be_read(void **state) {
    power_sample s;
    (void)state;
    power *p = power_new("");
    power_read(p, 0, &s);
    assert_true(s.memory_total_bytes > 0 && s.memory_available_bytes <= s.memory_total_bytes);
    assert_true(s.resident_bytes > 0 && s.resident_bytes < s.memory_total_bytes);
    power_free(p);
}

static void damaged_sensors_are_passed_over(void **state) {
    power_sample s;
    (void)state;
    put("/proc/self/cgroup", "nonsense\n:\n::\n0::");
    put("/proc/meminfo", "MemTotal:");
    put("/sys/class/hwmon/hwmon1/name", "k10temp\n"), put("/sys/class/hwmon/hwmon1/temp1_input", "hot\n");
    put(ZONE "0/name", "package-0\n"), put(ZONE "0/energy_uj", "\n"), put(ZONE "0/max_energy_range_uj", "0\n");
    power *p = power_new(root);
    power_read(p, 0, &s);
    assert_true(isnan(s.temperature_c) && !s.source && s.memory_total_bytes == 0);
    power_free(p);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(an_empty_machine_gives_no_guesses),
        TEST(rapl_counts_packages_and_their_memory_once_and_wraps),
        TEST(a_jetson_rail_is_volts_times_amperes),
        TEST(three_rails_feed_a_jetson_without_one_for_all),
        TEST(a_jetsons_gpu_tells_load_clock_and_degrees),
        TEST(a_power_meter_is_the_last_resort),
        TEST(the_hottest_processor_sensor_counts),
        TEST(thermal_zones_serve_where_no_sensor_has_a_known_name),
        TEST(throttling_is_a_count_that_rose_or_a_cooling_state),
        TEST(memory_is_capped_by_the_tightest_group),
        TEST(version_1_groups_are_read_too),
        TEST(the_real_machine_can_be_read),
        TEST(damaged_sensors_are_passed_over),
    };
    return cmocka_run_group_tests_name("power", tests, NULL, NULL);
}
