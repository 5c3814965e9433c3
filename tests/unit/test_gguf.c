/* test_gguf.c: the GGUF container: what a right file gives back, and the error that every wrong one gets. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "failing_alloc.h"
#include "gguf_file.h"

static gguf_file file;

static int set_up(void **state) {
    (void)state;
    start_file(&file);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    end_file(&file);
    return 0;
}

static kvq_gguf *must_open(void) {
    kvq_gguf *g = NULL;
    kvq_error err = {0};
    if (open_file(&file, &g, &err)) fail_msg("%s", err.text);
    return g;
}

/* The text without the path, which is another in each run. */
static void refuses(kvq_status code, const char *text) {
    kvq_gguf *g = NULL;
    kvq_error err = {0};
    assert_int_equal(open_file(&file, &g, &err), code);
    assert_int_equal(err.code, code);
    assert_null(g);
    char expected[KVQ_ERROR_BYTES];
    snprintf(expected, sizeof expected, text, file.path);
    assert_string_equal(err.text, expected);
}

/* ---- right files --------------------------------------------------------------------------------------------------
 */

static void put_every_scalar(void) {
    put_key(&file, "u8", KVQ_GGUF_U8, &(uint8_t){200}, 1);
    put_key(&file, "i8", KVQ_GGUF_I8, &(int8_t){-3}, 1);
    put_key(&file, "u16", KVQ_GGUF_U16, &(uint16_t){60000}, 2);
    put_key(&file, "i16", KVQ_GGUF_I16, &(int16_t){-30000}, 2);
    put_key(&file, "u32", KVQ_GGUF_U32, &(uint32_t){4000000000u}, 4);
    put_key(&file, "i32", KVQ_GGUF_I32, &(int32_t){7}, 4);
    put_key(&file, "f32", KVQ_GGUF_F32, &(float){0.5f}, 4);
    put_key(&file, "bool", KVQ_GGUF_BOOL, &(uint8_t){1}, 1);
    put_key(&file, "u64", KVQ_GGUF_U64, &(uint64_t){UINT64_MAX}, 8);
    put_key(&file, "i64", KVQ_GGUF_I64, &(int64_t){INT64_MIN}, 8);
    put_key(&file, "f64", KVQ_GGUF_F64, &(double){-2.25}, 8);
    put_text_key(&file, "text", "grüß");
}

static void scalars_are_read_as_any_type_that_holds_them(void **state) {
    (void)state;
    put_every_scalar();
    kvq_gguf *g = must_open();
    const struct {
        const char *key;
        bool whole;
        uint64_t u;
        bool number;
        double f;
    } rows[] = {
        {"u8", true, 200, true, 200},     {"i8", false, 0, true, -3},     {"u16", true, 60000, true, 60000},
        {"i16", false, 0, true, -30000},  {"i32", true, 7, true, 7},      {"u32", true, 4000000000u, true, 4e9},
        {"f32", false, 0, true, 0.5},     {"bool", false, 0, false, 0},   {"u64", true, UINT64_MAX, true, 0x1p64},
        {"i64", false, 0, true, -0x1p63}, {"f64", false, 0, true, -2.25}, {"text", false, 0, false, 0},
        {"absent", false, 0, false, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t u = 0;
        double f = 0;
        assert_int_equal(kvq_gguf_u64(g, rows[i].key, &u), rows[i].whole);
        assert_int_equal(kvq_gguf_f64(g, rows[i].key, &f), rows[i].number);
        assert_true(u == rows[i].u);
        assert_true(f == rows[i].f);
    }
    bool flag = false;
    assert_true(kvq_gguf_bool(g, "bool", &flag) && flag);
    assert_false(kvq_gguf_bool(g, "u8", &flag));
    kvq_text text;
    assert_true(kvq_gguf_text(g, "text", &text));
    assert_int_equal(text.n_bytes, strlen("grüß"));
    assert_memory_equal(text.bytes, "grüß", text.n_bytes);
    assert_false(kvq_gguf_text(g, "u8", &text));
    kvq_gguf_close(g);
}

static void arrays_are_read_by_index_and_refuse_what_is_outside(void **state) {
    (void)state;
    put_array_key(&file, "texts", KVQ_GGUF_STRING, 3);
    put_text(&file, "one");
    put_text(&file, "");
    put_text(&file, "three");
    put_array_key(&file, "numbers", KVQ_GGUF_I16, 2);
    put(&file, (int16_t[]){-5, 6}, 4);
    put_array_key(&file, "flags", KVQ_GGUF_BOOL, 2);
    put(&file, (uint8_t[]){0, 9}, 2);
    put_array_key(&file, "floats", KVQ_GGUF_F32, 1);
    put(&file, &(float){1.5f}, 4);
    put_array_key(&file, "nothing", KVQ_GGUF_STRING, 0);
    kvq_gguf *g = must_open();

    kvq_gguf_type type = KVQ_GGUF_U8;
    uint64_t n = 0, u = 0;
    kvq_text text;
    double f = 0;
    int64_t whole = 0;
    assert_true(kvq_gguf_array(g, "texts", &type, &n));
    assert_int_equal(type, KVQ_GGUF_STRING);
    assert_int_equal(n, 3);
    assert_true(kvq_gguf_array_text(g, "texts", 2, &text));
    assert_memory_equal(text.bytes, "three", 5);
    assert_true(kvq_gguf_array_text(g, "texts", 1, &text));
    assert_int_equal(text.n_bytes, 0);
    assert_false(kvq_gguf_array_text(g, "texts", 3, &text));
    assert_false(kvq_gguf_array_f64(g, "texts", 0, &f));

    const kvq_gguf_items *items = kvq_gguf_items_find(g, "numbers", &type, &n);
    assert_non_null(items);
    assert_true(kvq_gguf_items_i64(items, 0, &whole) && whole == -5);
    assert_false(kvq_gguf_items_i64(items, 2, &whole));
    assert_false(kvq_gguf_items_text(items, 0, &text));
    assert_false(kvq_gguf_array_u64(g, "numbers", 0, &u));
    assert_true(kvq_gguf_array_u64(g, "numbers", 1, &u) && u == 6);
    assert_true(kvq_gguf_array_f64(g, "floats", 0, &f) && f == 1.5);
    assert_true(kvq_gguf_array_u64(g, "flags", 1, &u) && u == 1);

    assert_true(kvq_gguf_array(g, "nothing", &type, &n) && n == 0);
    assert_false(kvq_gguf_array_text(g, "nothing", 0, &text));
    assert_null(kvq_gguf_items_find(g, "absent", &type, &n));
    assert_false(kvq_gguf_text(g, "texts", &text)); /* an array is no scalar */
    kvq_gguf_close(g);
}

static void put_two_tensors(void) {
    put_tensor(&file, "b", 2, (uint64_t[]){32, 3}, 2 /* Q4_0 */, 0);
    put_tensor(&file, "a", 1, (uint64_t[]){5}, 0 /* F32 */, 64);
    pad_to(&file, 32);
    for (int i = 0; i < 64; i++) put(&file, "q", 1);
    put(&file, (float[]){1, 2, 3, 4, 5}, 20);
}

static void tensors_lie_where_the_file_says(void **state) {
    (void)state;
    put_two_tensors();
    kvq_gguf *g = must_open();
    assert_int_equal(kvq_gguf_n_tensors(g), 2);
    const kvq_gguf_tensor *a = kvq_gguf_tensor_find(g, "a"), *b = kvq_gguf_tensor_find(g, "b");
    assert_ptr_equal(b, kvq_gguf_tensor_at(g, 0));
    assert_ptr_equal(a, kvq_gguf_tensor_at(g, 1));
    assert_null(kvq_gguf_tensor_at(g, 2));
    assert_null(kvq_gguf_tensor_find(g, "c"));
    assert_int_equal(b->format, KVQ_FORMAT_Q4_0);
    assert_int_equal(b->n_bytes, 3 * 18);
    assert_int_equal(b->dims[0], 32);
    assert_int_equal(b->dims[1], 3);
    assert_int_equal(b->dims[3], 1);
    assert_memory_equal(b->data, "qqqq", 4);
    assert_int_equal(a->n_bytes, 20);
    assert_memory_equal(a->data, ((float[]){1, 2, 3, 4, 5}), 20);
    kvq_gguf_drop(g, a);
    assert_memory_equal(a->data, ((float[]){1, 2, 3, 4, 5}), 20); /* dropped pages are read again */
    assert_int_equal(kvq_gguf_file_bytes(g), file.n);
    assert_string_equal(kvq_gguf_path(g), file.path);
    kvq_gguf_close(g);
}

static void alignment_moves_the_data(void **state) {
    (void)state;
    put_u32_key(&file, "general.alignment", 128);
    put_tensor(&file, "t", 1, (uint64_t[]){1}, 0, 128);
    pad_to(&file, 128);
    size_t start = file.n;
    for (int i = 0; i < 132; i++) put(&file, "x", 1);
    kvq_gguf *g = must_open();
    assert_memory_equal(kvq_gguf_tensor_find(g, "t")->data, file.bytes + start + 128, 4);
    kvq_gguf_close(g);
}

static void version_2_and_a_file_without_tensors_or_padding_open(void **state) {
    (void)state;
    file.bytes[AT_VERSION] = 2;
    put_bool_key(&file, "b", 1);
    kvq_gguf *g = must_open();
    assert_int_equal(kvq_gguf_n_tensors(g), 0);
    assert_int_equal(kvq_gguf_n_keys(g), 1);
    kvq_gguf_key key = kvq_gguf_key_at(g, 0);
    assert_memory_equal(key.name.bytes, "b", 1);
    assert_int_equal(key.type, KVQ_GGUF_BOOL);
    assert_int_equal(key.n_items, 1);
    assert_int_equal(kvq_gguf_key_at(g, 1).n_items, 0);
    kvq_gguf_close(g);
    kvq_gguf_close(NULL);
}

/* ---- wrong files --------------------------------------------------------------------------------------------------
 */

static void what_is_no_file_is_refused(void **state) {
    (void)state;
    kvq_gguf *g = NULL;
    kvq_error err;
    assert_int_equal(kvq_gguf_open("/nonexistent/x.gguf", &g, &err), KVQ_IO);
    assert_string_equal(err.text, "cannot open '/nonexistent/x.gguf': No such file or directory");
    assert_int_equal(kvq_gguf_open("/", &g, &err), KVQ_BAD_FILE);
    assert_string_equal(err.text, "'/' is not a regular file");
    char folder[] = "/tmp/kvq-test-XXXXXX", fifo[64];
    assert_non_null(mkdtemp(folder));
    snprintf(fifo, sizeof fifo, "%s/fifo", folder);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(kvq_gguf_open(fifo, &g, &err), KVQ_BAD_FILE); /* and does not wait for a writer */
    unlink(fifo);
    rmdir(folder);
    file.n = 0;
    refuses(KVQ_BAD_FILE, "'%s' is empty, not a GGUF file");
    assert_int_equal(kvq_gguf_open("/", &g, NULL), KVQ_BAD_FILE); /* nobody need listen */
    assert_null(g);
}

static void headers_of_other_kinds_are_refused(void **state) {
    (void)state;
    memcpy(file.bytes, "GGML", 4);
    refuses(KVQ_BAD_FILE, "'%s' is not a GGUF file: it starts with 47 47 4d 4c, not 'GGUF'");
    memcpy(file.bytes, "GGUF", 4);
    file.bytes[AT_VERSION] = 1;
    refuses(KVQ_UNSUPPORTED, "'%s' has GGUF version 1, supported are 2 and 3");
    file.bytes[AT_VERSION] = 4;
    refuses(KVQ_UNSUPPORTED, "'%s' has GGUF version 4, supported are 2 and 3");
    memcpy(file.bytes + AT_VERSION, "\0\0\0\3", 4);
    refuses(KVQ_UNSUPPORTED, "'%s' is a big-endian GGUF file; convert it with gguf_convert_endian");
    memcpy(file.bytes + AT_VERSION, "\3\0\0\0", 4);
    file.n = 20;
    refuses(KVQ_BAD_FILE, "'%s': the file ends inside the header: 8 bytes wanted at offset 16, 4 bytes left");
}

static void counts_beyond_the_file_are_refused_before_they_are_used(void **state) {
    (void)state;
    set_u64(&file, AT_N_KEYS, UINT64_MAX);
    refuses(KVQ_BAD_FILE,
            "'%s': the file ends inside the keys: 18446744073709551615 keys wanted at offset 24, 0 bytes left");
    set_u64(&file, AT_N_KEYS, 0);
    set_u64(&file, AT_N_TENSORS, 1);
    refuses(KVQ_BAD_FILE,
            "'%s': the file ends inside the list of tensors: 1 tensors wanted at offset 24, 0 bytes left");
    start_file(&file);
    put_array_key(&file, "n", KVQ_GGUF_U64, UINT64_MAX / 8 + 2); /* times 8 it would be 8 */
    put_u64(&file, 0);
    refuses(KVQ_BAD_FILE,
            "'%s': the file ends inside key 0 ('n'): 2305843009213693953 u64 wanted at offset 49, 8 bytes "
            "left");
    start_file(&file);
    put_array_key(&file, "s", KVQ_GGUF_STRING, 2);
    put_text(&file, "");
    refuses(KVQ_BAD_FILE, "'%s': the file ends inside key 0 ('s'): 2 texts wanted at offset 49, 8 bytes left");
    start_file(&file);
    put_array_key(&file, "s", KVQ_GGUF_STRING, 1);
    put_u64(&file, 1);
    refuses(KVQ_BAD_FILE, "'%s': the file ends inside key 0 ('s'): 1 bytes wanted at offset 57, 0 bytes left");
}

static void keys_that_are_wrong_are_named(void **state) {
    (void)state;
    put_key(&file, "k", (kvq_gguf_type)13, "\0", 1);
    refuses(KVQ_BAD_FILE, "'%s': key 0 ('k') has value type 13, known are 0 to 12");
    start_file(&file);
    put_array_key(&file, "k", (kvq_gguf_type)99, 0);
    refuses(KVQ_BAD_FILE, "'%s': key 0 ('k') has value type 99, known are 0 to 12");
    start_file(&file);
    put_array_key(&file, "k", KVQ_GGUF_ARRAY, 1);
    put_u64(&file, 0);
    refuses(KVQ_UNSUPPORTED, "'%s': key 0 ('k') is an array of arrays, which no known model needs");
    start_file(&file);
    put_bool_key(&file, "", 0);
    refuses(KVQ_BAD_FILE, "'%s': key 0 ('') has a name of 0 bytes, allowed are 1 to 65535");
    start_file(&file);
    static char name[65537];
    memset(name, 'n', 65536);
    put_bool_key(&file, name, 0);
    refuses(KVQ_BAD_FILE, "'%s': key 0 ('nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn...') has a "
                          "name of 65536 bytes, allowed are 1 to 65535");
    start_file(&file);
    put_bool_key(&file, "a\x1b[31mz\xff", 0);
    put_bool_key(&file, "b", 0);
    put_bool_key(&file, "a\x1b[31mz\xff", 0);
    refuses(KVQ_BAD_FILE, "'%s': key 'a?[31mz?' stands in it twice"); /* and the terminal is safe */
}

static void tensors_that_are_wrong_are_named(void **state) {
    (void)state;
    static const char long_name[129] = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
                                       "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn";
    const struct {
        const char *name;
        int n_dims;
        uint64_t dims[4];
        uint32_t format;
        uint64_t offset;
        kvq_status code;
        const char *text;
    } rows[] = {
        {"t",
         1,
         {0},
         0,
         0,
         KVQ_BAD_FILE,
         "'%s': tensor 't' has 0 as dimension 0, which is zero or makes more values than 2^63"},
        {"t",
         2,
         {1ull << 32, 1ull << 32},
         0,
         0,
         KVQ_BAD_FILE,
         "'%s': tensor 't' has 4294967296 as dimension 1, which is zero or makes more values than 2^63"},
        {"t", 1, {1ull << 62}, 0, 0, KVQ_BAD_FILE, "'%s': tensor 't' is larger than any file"},
        {"t", 1, {1}, 5, 0, KVQ_UNSUPPORTED, "'%s': tensor 't' has the number format 5, which kvqd does not know"},
        {"t",
         1,
         {33},
         2,
         0,
         KVQ_BAD_FILE,
         "'%s': tensor 't' has rows of 33 values, not a multiple of Q4_0's block of 32"},
        {"t", 1, {1}, 0, 4, KVQ_BAD_FILE, "'%s': tensor 't' is at offset 4, not a multiple of the alignment 32"},
        {"t", 1, {25}, 0, 0, KVQ_BAD_FILE, "'%s': tensor 't' wants 100 bytes at offset 0 of the data, the file has 64"},
        {"t", 1, {1}, 0, 96, KVQ_BAD_FILE, "'%s': tensor 't' wants 4 bytes at offset 96 of the data, the file has 64"},
        {"t",
         1,
         {1},
         0,
         UINT64_MAX - 31,
         KVQ_BAD_FILE,
         "'%s': tensor 't' wants 4 bytes at offset 18446744073709551584 of the data, the file has 64"},
        {"",
         1,
         {1},
         0,
         0,
         KVQ_BAD_FILE,
         "'%s': tensor '' has a name of 0 bytes, allowed are 1 to 127 and none of them zero"},
        {long_name,
         1,
         {1},
         0,
         0,
         KVQ_BAD_FILE,
         "'%s': tensor 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn...' has a name of 128 bytes, "
         "allowed are 1 to 127 and none of them zero"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        start_file(&file);
        put_tensor(&file, rows[i].name, rows[i].n_dims, rows[i].dims, rows[i].format, rows[i].offset);
        pad_to(&file, 32);
        for (int k = 0; k < 64; k++) put(&file, "x", 1);
        refuses(rows[i].code, rows[i].text);
    }
    start_file(&file);
    put_tensor(&file, "t", 5, (uint64_t[]){1, 1, 1, 1, 1}, 0, 0);
    refuses(KVQ_BAD_FILE, "'%s': tensor 't' has 5 dimensions, allowed are up to 4");
}

static void tensors_may_not_share_names_or_bytes(void **state) {
    (void)state;
    put_tensor(&file, "t", 1, (uint64_t[]){9}, 0, 0);
    put_tensor(&file, "u", 1, (uint64_t[]){8}, 0, 32); /* the 9 values of t reach to 36 */
    pad_to(&file, 32);
    for (int k = 0; k < 64; k++) put(&file, "x", 1);
    refuses(KVQ_BAD_FILE, "'%s': tensors 't' and 'u' overlap");
    start_file(&file);
    put_tensor(&file, "t", 1, (uint64_t[]){8}, 0, 0);
    put_tensor(&file, "t", 1, (uint64_t[]){8}, 0, 32);
    pad_to(&file, 32);
    for (int k = 0; k < 64; k++) put(&file, "x", 1);
    refuses(KVQ_BAD_FILE, "'%s': tensor 't' stands in it twice");
}

static void alignments_that_are_no_power_of_two_are_refused(void **state) {
    (void)state;
    static const uint32_t wrong[] = {0, 3, 1u << 21};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        start_file(&file);
        put_u32_key(&file, "general.alignment", wrong[i]);
        char text[128];
        snprintf(text, sizeof text, "'%%s': key 'general.alignment' is %u, allowed are powers of 2 up to 1048576",
                 wrong[i]);
        refuses(KVQ_BAD_FILE, text);
    }
    start_file(&file);
    put_text_key(&file, "general.alignment", "32");
    refuses(KVQ_BAD_FILE, "'%s': key 'general.alignment' is not a number, allowed are powers of 2 up to 1048576");
}

static void a_file_cut_anywhere_is_refused(void **state) {
    (void)state;
    put_every_scalar();
    put_array_key(&file, "texts", KVQ_GGUF_STRING, 2);
    put_text(&file, "one");
    put_text(&file, "two");
    put_two_tensors();
    kvq_gguf_close(must_open());
    for (size_t whole = file.n; file.n-- > 1;) {
        kvq_gguf *g = NULL;
        kvq_error err = {0};
        assert_int_equal(open_file(&file, &g, &err), KVQ_BAD_FILE);
        assert_null(g);
        assert_true(strlen(err.text) > 0 && file.n < whole);
    }
}

static void a_file_with_any_bit_turned_opens_or_is_refused_with_a_reason(void **state) {
    (void)state;
    put_every_scalar();
    put_array_key(&file, "texts", KVQ_GGUF_STRING, 2);
    put_text(&file, "one");
    put_text(&file, "two");
    put_two_tensors();
    size_t n_opened = 0, n_refused = 0;
    for (size_t bit = 0; bit < file.n * 8; bit++) {
        file.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        kvq_gguf *g = NULL;
        kvq_error err = {0};
        if (open_file(&file, &g, &err)) {
            assert_true(err.code == KVQ_BAD_FILE || err.code == KVQ_UNSUPPORTED);
            assert_true(strlen(err.text) > 0);
            n_refused++;
        } else {
            for (size_t i = 0; i < kvq_gguf_n_tensors(g); i++) {
                const kvq_gguf_tensor *t = kvq_gguf_tensor_at(g, i);
                const uint8_t *end = (const uint8_t *)t->data + t->n_bytes;
                assert_true(end[-1] != 255); /* readable to the last byte; the sanitizer and the mapping look */
            }
            n_opened++;
        }
        kvq_gguf_close(g);
        file.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    assert_true(n_opened > 0 && n_refused > 0);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    put_every_scalar();
    put_array_key(&file, "texts", KVQ_GGUF_STRING, 1);
    put_text(&file, "one");
    put_two_tensors();
    kvq_gguf_close(must_open());
    int n = 0;
    for (;; n++) {
        kvq_gguf *g = NULL;
        kvq_error err = {0};
        allocations_left = n;
        kvq_status status = kvq_gguf_open(file.path, &g, &err);
        bool all_done = allocations_left >= 0;
        allocations_left = -1;
        if (all_done) {
            assert_int_equal(status, KVQ_OK);
            kvq_gguf_close(g);
            break;
        }
        assert_int_equal(status, KVQ_NO_MEMORY);
        assert_null(g);
        assert_non_null(strstr(err.text, "no memory"));
    }
    assert_true(n >= 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(scalars_are_read_as_any_type_that_holds_them),
        TEST(arrays_are_read_by_index_and_refuse_what_is_outside),
        TEST(tensors_lie_where_the_file_says),
        TEST(alignment_moves_the_data),
        TEST(version_2_and_a_file_without_tensors_or_padding_open),
        TEST(what_is_no_file_is_refused),
        TEST(headers_of_other_kinds_are_refused),
        TEST(counts_beyond_the_file_are_refused_before_they_are_used),
        TEST(keys_that_are_wrong_are_named),
        TEST(tensors_that_are_wrong_are_named),
        TEST(tensors_may_not_share_names_or_bytes),
        TEST(alignments_that_are_no_power_of_two_are_refused),
        TEST(a_file_cut_anywhere_is_refused),
        TEST(a_file_with_any_bit_turned_opens_or_is_refused_with_a_reason),
        TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
