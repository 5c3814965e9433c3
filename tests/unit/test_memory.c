/* test_memory.c: engine/memory.c on made-up machines: a folder with the files of /proc and /sys that a case lists. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/memory.h"

#define MIB ((uint64_t)1 << 20)

static char root[64];

static int set_up(void **state) {
    (void)state;
    strcpy(root, "/tmp/kvq-test-memory-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *where) {
    (void)status;
    (void)kind;
    (void)where;
    return remove(path);
}

static int tear_down(void **state) {
    (void)state;
    return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Makes the folders on the way, too. */
static void put(const char *path, const char *text) {
    char file[512];
    snprintf(file, sizeof file, "%s%s", root, path);
    for (char *slash = strchr(file + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(file, 0700); /* it may be there; the file's own fopen tells if it is not */
        *slash = '/';
    }
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* 1000 MiB are available. */
static void put_machine(const char *cgroup) {
    put("/proc/meminfo", "MemTotal:        2048000 kB\nMemFree:  1 kB\nMemAvailable:    1024000 kB\nCached: 7 kB\n");
    put("/proc/self/cgroup", cgroup);
}

static void without_groups_all_that_is_available_is_left(void **state) {
    (void)state;
    put("/proc/meminfo", "MemTotal:        2048000 kB\nMemFree:  1 kB\nMemAvailable:    1024000 kB\n");
    kvq_memory m = kvq_memory_read(root);
    assert_int_equal(m.total_bytes, 2000 * MIB);
    assert_int_equal(m.available_bytes, 1000 * MIB);
    assert_int_equal(m.left_bytes, 1000 * MIB);
    assert_int_equal(m.limit_bytes, 0);
    assert_int_equal(m.used_bytes, 0);
}

#define SERVICE "/sys/fs/cgroup/system.slice/kvqd.service/"
#define SLICE "/sys/fs/cgroup/system.slice/"
#define TOP "/sys/fs/cgroup/"

static void the_tightest_limit_on_the_way_to_the_root_caps_what_is_left(void **state) {
    (void)state;
    static const struct {
        const char *service, *slice, *top; /* memory.max, each with 100 MiB in use */
        uint64_t limit_mib, left_mib;
    } cases[] = {{"max", "max", "max", 0, 1000},
                 {"419430400", "max", "max", 400, 300},
                 {"max", "419430400", "max", 400, 300},
                 {"max", "max", "419430400", 400, 300},
                 {"629145600", "419430400", "524288000", 400, 300},
                 {"104857600", "max", "max", 100, 0},
                 {"52428800", "max", "max", 50, 0}, /* more in use than allowed: nothing is left, not a lot */
                 {"4294967296", "max", "max", 4096, 1000}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_machine("0::/system.slice/kvqd.service\n");
        put(SERVICE "memory.max", cases[i].service);
        put(SLICE "memory.max", cases[i].slice);
        put(TOP "memory.max", cases[i].top);
        put(SERVICE "memory.current", "104857600\n");
        put(SLICE "memory.current", "104857600\n");
        put(TOP "memory.current", "104857600\n");
        kvq_memory m = kvq_memory_read(root);
        if (m.limit_bytes != cases[i].limit_mib * MIB || m.left_bytes != cases[i].left_mib * MIB)
            fail_msg("case %zu: limit %.1f MiB, left %.1f MiB", i, (double)m.limit_bytes / (double)MIB,
                     (double)m.left_bytes / (double)MIB);
        assert_int_equal(m.used_bytes, 100 * MIB);
        assert_int_equal(m.available_bytes, 1000 * MIB);
    }
}

static void clean_file_pages_count_as_free(void **state) {
    (void)state;
    put_machine("0::/system.slice/kvqd.service\n");
    put(SERVICE "memory.max", "419430400\n");
    put(SERVICE "memory.current", "314572800\n");
    put(SERVICE "memory.stat", "anon 1\nfile 9\nworkingset_refault_active_file 12345678\ninactive_file 104857600\n"
                               "active_file 52428800\n");
    assert_int_equal(kvq_memory_read(root).left_bytes, 250 * MIB);
    put(SERVICE "memory.stat", "inactive_file 104857600\nactive_file 524288000\n"); /* read a moment later */
    assert_int_equal(kvq_memory_read(root).left_bytes, 400 * MIB);
}

static void a_limit_whose_use_is_not_told_caps_nothing(void **state) {
    (void)state;
    put_machine("0::/system.slice/kvqd.service\n");
    put(SERVICE "memory.max", "419430400\n");
    kvq_memory m = kvq_memory_read(root);
    assert_int_equal(m.limit_bytes, 400 * MIB);
    assert_int_equal(m.left_bytes, 1000 * MIB);
    assert_int_equal(m.used_bytes, 0);
}

/* As in a container: its own group is the root that it sees. */
static void a_group_at_the_root_is_read(void **state) {
    (void)state;
    put_machine("0::/\n");
    put(TOP "memory.max", "419430400\n");
    put(TOP "memory.current", "104857600\n");
    kvq_memory m = kvq_memory_read(root);
    assert_int_equal(m.left_bytes, 300 * MIB);
    assert_int_equal(m.used_bytes, 100 * MIB);
}

static void groups_of_version_1_are_read_too(void **state) {
    (void)state;
#define V1 "/sys/fs/cgroup/memory/"
    put_machine("5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/x\n");
    put(V1 "docker/abc/memory.limit_in_bytes", "419430400\n");
    put(V1 "docker/abc/memory.usage_in_bytes", "314572800\n");
    put(V1 "docker/abc/memory.stat", "inactive_file 1\nactive_file 2\ntotal_inactive_file 104857600\n"
                                     "total_active_file 52428800\n");
    put(V1 "memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    put(V1 "memory.usage_in_bytes", "999999999\n");
    kvq_memory m = kvq_memory_read(root);
    assert_int_equal(m.limit_bytes, 400 * MIB);
    assert_int_equal(m.left_bytes, 250 * MIB);
    assert_int_equal(m.used_bytes, 300 * MIB);
}

static void damaged_files_tell_nothing(void **state) {
    (void)state;
    put("/proc/meminfo", "MemTotal:\nMemAvailable: lots\n");
    put("/proc/self/cgroup", "nonsense\n:\n::\n0::");
    put(TOP "memory.max", "");
    put(TOP "memory.current", "-5\n");
    kvq_memory m = kvq_memory_read(root);
    assert_true(m.total_bytes == 0 && m.available_bytes == 0 && m.left_bytes == 0);
    assert_true(m.limit_bytes == 0 && m.used_bytes == 0);
}

static void this_machine_tells_what_is_left(void **state) {
    (void)state;
    uint64_t left = 0;
    kvq_error err = {0};
    assert_int_equal(kvq_memory_free_bytes(&left, &err), KVQ_OK);
    assert_true(left > 0 && left <= kvq_memory_read("").total_bytes);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(without_groups_all_that_is_available_is_left),
        TEST(the_tightest_limit_on_the_way_to_the_root_caps_what_is_left),
        TEST(clean_file_pages_count_as_free),
        TEST(a_limit_whose_use_is_not_told_caps_nothing),
        TEST(a_group_at_the_root_is_read),
        TEST(groups_of_version_1_are_read_too),
        TEST(damaged_files_tell_nothing),
        TEST(this_machine_tells_what_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
