/* Proves kernels/hadamard.c: orthonormal, symmetric (so its own inverse), for every head size that a model has. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/hadamard.h"
#include "kernels/ops.h"

static const int sizes[] = {8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512};
#define N_SIZES (sizeof sizes / sizeof sizes[0])

static double matrix[KVQ_MAX_HEAD_DIM][KVQ_MAX_HEAD_DIM]; /* row i = H e_i */

static void fill_matrix(int n) {
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) matrix[i][j] = i == j;
        kvq_hadamard_double(matrix[i], n);
    }
}

static void every_entry_has_the_same_magnitude_and_rows_are_orthonormal(void **state) {
    (void)state;
    for (size_t s = 0; s < N_SIZES; s++) {
        int n = sizes[s];
        fill_matrix(n);
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                assert_true(fabs(fabs(matrix[i][j]) - 1 / sqrt(n)) < 1e-12);
                double dot = 0;
                for (int c = 0; c < n; c++) dot += matrix[i][c] * matrix[j][c];
                assert_true(fabs(dot - (i == j)) < 1e-12);
            }
    }
}

static void the_matrix_is_symmetric(void **state) {
    (void)state;
    for (size_t s = 0; s < N_SIZES; s++) {
        fill_matrix(sizes[s]);
        for (int i = 0; i < sizes[s]; i++)
            for (int j = 0; j < i; j++) assert_true(fabs(matrix[i][j] - matrix[j][i]) < 1e-12);
    }
}

static void turning_twice_gives_the_vector_back(void **state) {
    (void)state;
    for (size_t s = 0; s < N_SIZES; s++) {
        float x[KVQ_MAX_HEAD_DIM];
        for (int i = 0; i < sizes[s]; i++) x[i] = (float)((i * 37 % 101) - 50) * 0.25f;
        kvq_hadamard(x, sizes[s]);
        kvq_hadamard(x, sizes[s]);
        for (int i = 0; i < sizes[s]; i++) {
            float want = (float)((i * 37 % 101) - 50) * 0.25f;
            assert_true(fabsf(x[i] - want) <= 1e-5f);
        }
    }
}

static void powers_of_two_are_sylvesters_matrix(void **state) {
    (void)state;
    fill_matrix(64);
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++)
            assert_true(fabs(matrix[i][j] - (__builtin_popcount((unsigned)(i & j)) % 2 ? -0.125 : 0.125)) < 1e-12);
}

static void sizes_without_a_matrix_are_refused(void **state) {
    (void)state;
    static const int refused[] = {-64, 0, 1, 4, 12, 20, 56, 72, 88, 100, 112, 144, 576, 1024};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) assert_false(kvq_hadamard_fits(refused[i]));
    for (size_t i = 0; i < N_SIZES; i++) assert_true(kvq_hadamard_fits(sizes[i]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_entry_has_the_same_magnitude_and_rows_are_orthonormal),
        cmocka_unit_test(the_matrix_is_symmetric),
        cmocka_unit_test(turning_twice_gives_the_vector_back),
        cmocka_unit_test(powers_of_two_are_sylvesters_matrix),
        cmocka_unit_test(sizes_without_a_matrix_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
