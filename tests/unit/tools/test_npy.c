/* test_npy.c: tools/npy.c, byte by byte (tests/tools reads one back with NumPy where there is one). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tools/npy.h"

static char path[64];

static int make_path(void **state) {
    (void)state;
    strcpy(path, "/tmp/test_npy.XXXXXX");
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state) {
    (void)state;
    (void)unlink(path); /* some tests end with no file */
    return 0;
}

static void the_bytes_are_those_of_the_format(void **state) {
    (void)state;
    const float rows[2][3] = {{1, -2, 0.5f}, {3, 4, 5}};
    char bytes[256];
    npy *f = NULL;
    assert_int_equal(npy_open(path, 2, 3, &f, NULL), KVQ_OK);
    assert_int_equal(npy_write_row(f, rows[0], NULL), KVQ_OK);
    assert_int_equal(npy_write_row(f, rows[1], NULL), KVQ_OK);
    assert_int_equal(npy_close(f, NULL), KVQ_OK);
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    size_t n = fread(bytes, 1, sizeof bytes, in);
    fclose(in);
    assert_int_equal(n, 128 + sizeof rows);
    assert_memory_equal(bytes, "\x93NUMPY\x01\x00\x76\x00", 10); /* 128 - 10 = 0x76 */
    const char *header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    assert_memory_equal(bytes + 10, header, strlen(header));
    for (size_t i = 10 + strlen(header); i < 127; i++) assert_int_equal(bytes[i], ' ');
    assert_int_equal(bytes[127], '\n');
    assert_memory_equal(bytes + 128, rows, sizeof rows);
}

static void a_file_that_lacks_rows_is_removed(void **state) {
    (void)state;
    const float row[3] = {0};
    kvq_error err = {0};
    char expected[128];
    npy *f = NULL;
    assert_int_equal(npy_open(path, 2, 3, &f, NULL), KVQ_OK);
    assert_int_equal(npy_write_row(f, row, NULL), KVQ_OK);
    assert_int_equal(npy_close(f, &err), KVQ_IO);
    snprintf(expected, sizeof expected, "'%s' got 1 of 2 rows.", path);
    assert_string_equal(err.text, expected);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void a_discarded_file_is_removed(void **state) {
    (void)state;
    npy *f = NULL;
    assert_int_equal(npy_open(path, 2, 3, &f, NULL), KVQ_OK);
    npy_discard(f);
    assert_int_not_equal(access(path, F_OK), 0);
    npy_discard(NULL);
    assert_int_equal(npy_close(NULL, NULL), KVQ_OK);
}

static void a_full_disk_and_a_missing_folder_are_said(void **state) {
    (void)state;
    static const float row[4096] = {0};
    kvq_error err = {0};
    npy *f = NULL;
    assert_int_equal(npy_open("/nowhere/x.npy", 1, 1, &f, &err), KVQ_IO);
    assert_string_equal(err.text, "Cannot write '/nowhere/x.npy': No such file or directory.");
    assert_null(f);
    assert_int_equal(npy_open("/dev/full", 1, 4096, &f, NULL), KVQ_OK);
    kvq_status status = npy_write_row(f, row, &err); /* may only sit in the buffer */
    if (!status)
        status = npy_close(f, &err);
    else
        npy_discard(f);
    assert_int_equal(status, KVQ_IO);
    assert_string_equal(err.text, "Cannot write '/dev/full': No space left on device.");
    assert_int_equal(access("/dev/full", F_OK), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_bytes_are_those_of_the_format, make_path, remove_path),
        cmocka_unit_test_setup_teardown(a_file_that_lacks_rows_is_removed, make_path, remove_path),
        cmocka_unit_test_setup_teardown(a_discarded_file_is_removed, make_path, remove_path),
        cmocka_unit_test(a_full_disk_and_a_missing_folder_are_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
