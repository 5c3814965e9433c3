/* Proves kernels/repack.c: what goes into a tile comes out of it bit for bit, for every format, whatever the number of
 * rows and parts; padding rows are worth nothing; sizes that do not fit are refused. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/matrix.h"

#define N_IN 512
#define JUNK 0xDB

static uint8_t *random_file(kvq_format format, int n_rows) {
    const kvq_format_info *info = kvq_format_get(format);
    size_t bytes = (size_t)n_rows * (N_IN / info->block_len) * info->block_bytes;
    uint8_t *ret = malloc(bytes);
    assert_non_null(ret);
    for (size_t i = 0; i < bytes; i++) ret[i] = (uint8_t)(rand() >> 7);
    return ret;
}

/* Adds a part over a buffer full of junk. */
static void add_part(kvq_matrix *m, kvq_format format, const void *file, int n_rows) {
    kvq_matrix_part *part = &m->parts[m->n_parts++];
    *part = (kvq_matrix_part){.layout = kvq_layout_of(format), .row_begin = m->n_out, .n_rows = n_rows};
    size_t bytes = kvq_matrix_part_bytes(&part->layout, n_rows, m->n_in, &part->tile_bytes);
    assert_int_equal(part->tile_bytes % 64, 0);
    assert_int_equal(bytes, part->tile_bytes * ((n_rows + 15) / 16));
    part->data = aligned_alloc(64, bytes);
    assert_non_null(part->data);
    memset(part->data, JUNK, bytes);
    kvq_matrix_repack(part, format, file, n_rows, m->n_in);
    m->n_out += n_rows;
}

static void done(kvq_matrix *m) {
    for (int p = 0; p < m->n_parts; p++) free(m->parts[p].data);
}

/* A NaN (from a random scale) need only stay one. */
static void assert_same_floats(const float *want, const float *got, int n) {
    for (int i = 0; i < n; i++)
        if (want[i] == want[i] || got[i] == got[i]) assert_memory_equal(&want[i], &got[i], sizeof *want);
}

static void rows_come_back_as_the_file_has_them(void **state) {
    (void)state;
    static const int row_counts[] = {1, 15, 16, 17, 40};
    srand(1);
    for (int f = 0; f < KVQ_FORMAT_COUNT; f++)
        for (size_t c = 0; c < sizeof row_counts / sizeof *row_counts; c++) {
            const kvq_format_info *info = kvq_format_get((kvq_format)f);
            int n_rows = row_counts[c];
            uint8_t *file = random_file((kvq_format)f, n_rows);
            kvq_matrix m = {.n_in = N_IN};
            add_part(&m, (kvq_format)f, file, n_rows);
            for (int r = 0; r < n_rows; r++) {
                float want[N_IN], got[N_IN];
                kvq_format_to_float((kvq_format)f, file + (size_t)r * (N_IN / info->block_len) * info->block_bytes,
                                    want, N_IN);
                kvq_matrix_row(&m, r, got);
                assert_same_floats(want, got, N_IN);
            }
            done(&m);
            free(file);
        }
}

static void rows_of_a_fused_matrix_come_from_their_part(void **state) {
    (void)state;
    static const kvq_format formats[] = {KVQ_FORMAT_Q4_K, KVQ_FORMAT_F16, KVQ_FORMAT_Q6_K};
    static const int rows[] = {20, 16, 3};
    kvq_matrix m = {.n_in = N_IN};
    uint8_t *files[3];
    srand(2);
    for (int p = 0; p < 3; p++) add_part(&m, formats[p], files[p] = random_file(formats[p], rows[p]), rows[p]);
    assert_int_equal(m.n_out, 39);
    for (int r = 0; r < m.n_out; r++) {
        int p = r < 20 ? 0 : r < 36 ? 1 : 2;
        const kvq_format_info *info = kvq_format_get(formats[p]);
        size_t row_bytes = (size_t)(N_IN / info->block_len) * info->block_bytes;
        float want[N_IN], got[N_IN];
        kvq_format_to_float(formats[p], files[p] + (r - m.parts[p].row_begin) * row_bytes, want, N_IN);
        kvq_matrix_row(&m, r, got);
        assert_same_floats(want, got, N_IN);
    }
    done(&m);
    for (int p = 0; p < 3; p++) free(files[p]);
}

static void codes_and_scales_of_a_row_are_the_unpacked_ones(void **state) {
    (void)state;
    srand(3);
    for (int f = 0; f < KVQ_FORMAT_COUNT; f++) {
        const kvq_format_info *info = kvq_format_get((kvq_format)f);
        if (!info->unpack) continue;
        uint8_t *file = random_file((kvq_format)f, 17);
        kvq_matrix m = {.n_in = N_IN};
        add_part(&m, (kvq_format)f, file, 17);
        uint8_t code[N_IN];
        float scale[N_IN / 16], min[N_IN / 16];
        kvq_matrix_part_codes(&m.parts[0], 16, N_IN, code, scale, min);
        const uint8_t *block = file + (size_t)16 * (N_IN / info->block_len) * info->block_bytes;
        for (int i = 0; i < N_IN; i += info->block_len, block += info->block_bytes) {
            kvq_unpacked u;
            info->unpack(block, &u);
            assert_memory_equal(u.code, code + i, info->block_len);
            assert_same_floats(u.scale, scale + i / info->group_len, info->block_len / info->group_len);
            assert_same_floats(u.min, min + i / info->group_len, info->block_len / info->group_len);
        }
        done(&m);
        free(file);
    }
}

static void padding_rows_are_zeros(void **state) {
    (void)state;
    for (int f = 0; f < KVQ_FORMAT_COUNT; f++) {
        uint8_t *file = random_file((kvq_format)f, 3);
        kvq_matrix m = {.n_in = N_IN};
        add_part(&m, (kvq_format)f, file, 3);
        m.parts[0].n_rows = m.n_out = 16;
        for (int r = 3; r < 16; r++) {
            float got[N_IN];
            kvq_matrix_row(&m, r, got);
            for (int i = 0; i < N_IN; i++) assert_true(got[i] == 0);
        }
        done(&m);
        free(file);
    }
}

static void sizes_that_do_not_fit_are_refused(void **state) {
    (void)state;
    kvq_layout q4 = kvq_layout_of(KVQ_FORMAT_Q4_0), f32 = kvq_layout_of(KVQ_FORMAT_F32);
    const struct {
        const kvq_layout *layout;
        int n_rows, n_in;
        size_t want;
    } cases[] = {
        {&q4, 16, 48, 0}, /* no multiple of 32 */
        {&q4, 0, 32, 0},    {&q4, 16, 0, 0},   {&q4, -1, 32, 0},
        {&q4, 16, 32, 320}, /* 256 of codes, 32 of scales, up to a cache line */
        {&q4, 17, 32, 640}, {&f32, 1, 3, 192}, {&f32, INT_MAX, INT_MAX, 0}, /* more than the address space */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(kvq_matrix_part_bytes(cases[i].layout, cases[i].n_rows, cases[i].n_in, NULL), cases[i].want);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_back_as_the_file_has_them),
        cmocka_unit_test(rows_of_a_fused_matrix_come_from_their_part),
        cmocka_unit_test(codes_and_scales_of_a_row_are_the_unpacked_ones),
        cmocka_unit_test(padding_rows_are_zeros),
        cmocka_unit_test(sizes_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
