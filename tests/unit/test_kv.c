/* Proves kernels/kv.c and kv_bias.c: page bytes, where the parts of a page lie, the constants taken from K. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/ops.h"

static const int head_dims[] = {64, 80, 96, 128, 256};
static const int pages[] = {32, 64, 128};

typedef void image_check(const kvq_kv_image *image, const kvq_policy *policy, int d, int t, bool hard);

static void for_every_image(image_check *check) {
    for (int p = 0; p < KVQ_POLICY_COUNT; p++)
        for (size_t i = 0; i < 5; i++)
            for (size_t j = 0; j < 3; j++)
                for (int hard = 0; hard < 2; hard++) {
                    kvq_kv_image image;
                    kvq_kv_image_init(&image, kvq_policy_get(p), head_dims[i], pages[j], hard);
                    check(&image, kvq_policy_get(p), head_dims[i], pages[j], hard);
                }
}

static void paint(uint8_t *bytes, size_t n, size_t at, size_t n_bytes) {
    if (at == (size_t)-1) return;
    assert_true(at <= n && n_bytes <= n - at);
    for (size_t i = 0; i < n_bytes; i++) {
        assert_int_equal(bytes[at + i], 0);
        bytes[at + i] = 1;
    }
}

static void check_parts(const kvq_kv_image *image, const kvq_policy *policy, int d, int t, bool hard) {
    (void)policy;
    (void)hard;
    uint8_t *bytes = calloc(image->bytes, 1);
    size_t n = image->bytes, values = (size_t)d * (size_t)t;
    paint(bytes, n, image->k_codes, values * (size_t)image->k_bits / 8);
    paint(bytes, n, image->k_scales, 2 * (size_t)t);
    paint(bytes, n, image->k_mins, 2 * (size_t)t);
    paint(bytes, n, image->k_mean, 2 * (size_t)d);
    paint(bytes, n, image->v_codes, values * (size_t)image->v_bits / 8);
    paint(bytes, n, image->v_scales, 2 * (size_t)t);
    paint(bytes, n, image->v_mins, 2 * (size_t)t);
    size_t painted = 0;
    for (size_t i = 0; i < n; i++) painted += bytes[i];
    assert_int_equal((painted + 63) / 64 * 64, n); /* nothing but the padding is unused */
    free(bytes);
}

static void parts_do_not_overlap_and_fill_the_image(void **state) {
    (void)state;
    for_every_image(check_parts);
}

static void check_wide(const kvq_kv_image *image, const kvq_policy *policy, int d, int t, bool hard) {
    (void)hard;
    if (policy->wide) assert_true(kvq_kv_wide_half_bytes(d, t) <= image->bytes);
}

static void a_wide_half_fits_in_a_closed_image(void **state) {
    (void)state;
    for_every_image(check_wide);
}

static void bytes_are_those_of_the_format(void **state) {
    (void)state;
    kvq_kv_image image;
    for (size_t i = 0; i < 5; i++) {
        size_t d = (size_t)head_dims[i];
        kvq_kv_image_init(&image, kvq_policy_get(KVQ_POLICY_INT4), (int)d, 64, false);
        assert_int_equal(image.bytes, (66 * d + 256 + 63) / 64 * 64);
        kvq_kv_image_init(&image, kvq_policy_get(KVQ_POLICY_INT4), (int)d, 64, true);
        assert_int_equal(image.bytes, 96 * d + 256);
        kvq_kv_image_init(&image, kvq_policy_get(KVQ_POLICY_INT8), (int)d, 64, true); /* hard means nothing here */
        assert_int_equal(image.bytes, 128 * d + 256);
        kvq_kv_image_init(&image, kvq_policy_get(KVQ_POLICY_F16), (int)d, 64, false);
        assert_int_equal(image.bytes, 256 * d);
        kvq_kv_image_init(&image, kvq_policy_get(KVQ_POLICY_LMDEPLOY4), (int)d, 64, false);
        assert_int_equal(image.bytes, 64 * d + 512);
        assert_int_equal(kvq_kv_wide_half_bytes((int)d, 64), 64 * d + 128);
    }
}

static void policies_are_found_by_name(void **state) {
    (void)state;
    assert_int_equal(kvq_policy_find("0"), KVQ_POLICY_F16);
    assert_int_equal(kvq_policy_find("8"), KVQ_POLICY_INT8);
    assert_int_equal(kvq_policy_find("4"), KVQ_POLICY_INT4);
    assert_int_equal(kvq_policy_find("lmdeploy8"), KVQ_POLICY_LMDEPLOY8);
    assert_int_equal(kvq_policy_find("lmdeploy4"), KVQ_POLICY_LMDEPLOY4);
    assert_int_equal(kvq_policy_find("5"), KVQ_POLICY_COUNT);
    assert_int_equal(kvq_policy_find(""), KVQ_POLICY_COUNT);
}

static void every_code_has_a_place_of_its_own(void **state) {
    (void)state;
    static const int bits[] = {4, 8};
    for (size_t b = 0; b < 2; b++) {
        uint8_t nibbles[64 * 64 * 2] = {0};
        for (int inner = 0; inner < 64; inner++)
            for (int lane = 0; lane < 64; lane++) {
                size_t at = kvq_kv_code_index(bits[b], 64, inner, lane);
                at = bits[b] == 4 ? 2 * at + kvq_kv_code_is_high(4, inner) : at;
                assert_true(at < 64 * 64);
                assert_int_equal(nibbles[at]++, 0);
            }
    }
}

static void rows_see_their_own_page_and_the_first_wide(void **state) {
    (void)state;
    kvq_kv kv = {.policy = kvq_policy_get(KVQ_POLICY_INT4), .block_tokens = 64};
    assert_true(kvq_kv_sees_wide(&kv, 200, 0));
    assert_false(kvq_kv_sees_wide(&kv, 200, 2));
    assert_true(kvq_kv_sees_wide(&kv, 200, 3));
    assert_true(kvq_kv_sees_wide(&kv, 191, 2));
    kv.policy = kvq_policy_get(KVQ_POLICY_INT8);
    assert_false(kvq_kv_sees_wide(&kv, 200, 3));
}

static void halves_of_a_closing_page_are_in_its_slot(void **state) {
    (void)state;
    kvq_kv_layer layer = {.offset = 4096};
    kvq_kv kv = {.policy = kvq_policy_get(KVQ_POLICY_INT4), .block_tokens = 64, .head_dim = 64, .layers = &layer};
    kvq_kv_image_init(&layer.closed, kv.policy, 64, 64, false);
    static uint8_t block[20000], wide[20000], scratch[4 * 20000];
    kvq_kv_half k, v;
    kvq_kv_page open = {.block = block, .wide_v = wide, .scratch = -1}, closing = {.block = block, .scratch = 3};

    kvq_kv_wide_halves(&kv, 0, &open, scratch, 20000, 2, &k, &v);
    assert_ptr_equal(k.codes, block + 4096 + 2 * layer.closed.bytes);
    assert_ptr_equal(v.codes, wide + 4096 + 2 * layer.closed.bytes);
    assert_ptr_equal(v.scales, v.codes + 4096);

    kvq_kv_wide_halves(&kv, 0, &closing, scratch, 20000, 2, &k, &v);
    assert_ptr_equal(k.codes, scratch + 3 * 20000 + 2 * 2 * 4224);
    assert_ptr_equal(v.codes, k.codes + 4224);
    assert_int_equal(k.bits, 8);
    assert_true(k.mean == NULL && k.mins == NULL && k.sym);

    kvq_kv_closed_halves(&kv, 0, &closing, 1, &k, &v);
    assert_ptr_equal(k.codes, block + 4096 + layer.closed.bytes);
    assert_non_null(k.mean);
    assert_null(v.mean);
    assert_int_equal(v.bits, 4);
}

/* The mean over a page of the turned bias, summed position by position. */
static void slow_bias_ref(double *out, const float *bias, const kvq_rope *rope, int page, int d, int t_page) {
    for (int i = 0; i < d; i++) out[i] = 0;
    for (int t = 0; t < t_page; t++)
        for (int i = 0; i < d; i++) {
            bool turned = i < rope->n_rot;
            int half = rope->n_rot / 2, pair = rope->neox ? i % (half > 0 ? half : 1) : i / 2;
            bool first = rope->neox ? i < half : i % 2 == 0;
            int other = rope->neox ? (first ? i + half : i - half) : (first ? i + 1 : i - 1);
            double angle = (page * t_page + t) * rope->scale * pow(rope->freq_base, -2.0 * pair / rope->n_rot);
            if (turned && rope->factors) angle /= (double)rope->factors[pair];
            double value = (double)bias[i];
            if (turned)
                value = first ? (double)bias[i] * cos(angle) - (double)bias[other] * sin(angle)
                              : (double)bias[other] * sin(angle) + (double)bias[i] * cos(angle);
            out[i] += value / t_page;
        }
}

static void the_bias_constant_is_the_mean_of_the_turned_bias(void **state) {
    (void)state;
    float bias[2 * 64], factors[32], got[5 * 2 * 64];
    double want[64];
    for (int i = 0; i < 128; i++) bias[i] = (float)(i * 29 % 61 - 30);
    for (int i = 0; i < 32; i++) factors[i] = 1.0f + (float)i * 0.25f;
    for (int variant = 0; variant < 8; variant++) {
        kvq_rope rope = {.neox = variant & 1,
                         .n_rot = variant & 2 ? 64 : 32,
                         .freq_base = 10000,
                         .scale = 0.5,
                         .factors = variant & 4 ? factors : NULL};
        kvq_kv_bias_ref(got, bias, &rope, 5, 2, 64, 32, false);
        for (int p = 0; p < 5; p++)
            for (int g = 0; g < 2; g++) {
                slow_bias_ref(want, bias + g * 64, &rope, p, 64, 32);
                for (int i = 0; i < 64; i++) assert_true(fabs((double)got[(p * 2 + g) * 64 + i] - want[i]) < 1e-5);
            }
    }
}

static void a_rotated_constant_is_the_plain_one_turned(void **state) {
    (void)state;
    float bias[64], plain[3 * 64], turned[3 * 64];
    for (int i = 0; i < 64; i++) bias[i] = (float)(i * 29 % 61 - 30);
    kvq_rope rope = {.neox = true, .n_rot = 64, .freq_base = 1e6, .scale = 1};
    kvq_kv_bias_ref(plain, bias, &rope, 3, 1, 64, 64, false);
    kvq_kv_bias_ref(turned, bias, &rope, 3, 1, 64, 64, true);
    for (int p = 0; p < 3; p++) kvq_hadamard(plain + p * 64, 64);
    assert_memory_equal(plain, turned, sizeof plain);
}

static void a_bias_is_hard_by_what_turns_within_a_page(void **state) {
    (void)state;
    kvq_rope rope = {.neox = true, .n_rot = 64, .freq_base = 1e6, .scale = 1};
    float bias[64] = {0};
    assert_false(kvq_kv_bias_is_hard(bias, &rope, 1, 64, 64));
    bias[31] = 100; /* slowest pair: 1.5e-6 of a turn a token, so the page mean takes all of it */
    assert_false(kvq_kv_bias_is_hard(bias, &rope, 1, 64, 64));
    bias[31] = 0;
    bias[32] = 100; /* fastest pair: the mean takes nothing */
    assert_true(kvq_kv_bias_is_hard(bias, &rope, 1, 64, 64));
    bias[32] = KVQ_HARD_BIAS * 0.9f;
    assert_false(kvq_kv_bias_is_hard(bias, &rope, 1, 64, 64));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_do_not_overlap_and_fill_the_image),
        cmocka_unit_test(a_wide_half_fits_in_a_closed_image),
        cmocka_unit_test(bytes_are_those_of_the_format),
        cmocka_unit_test(policies_are_found_by_name),
        cmocka_unit_test(every_code_has_a_place_of_its_own),
        cmocka_unit_test(rows_see_their_own_page_and_the_first_wide),
        cmocka_unit_test(halves_of_a_closing_page_are_in_its_slot),
        cmocka_unit_test(the_bias_constant_is_the_mean_of_the_turned_bias),
        cmocka_unit_test(a_rotated_constant_is_the_plain_one_turned),
        cmocka_unit_test(a_bias_is_hard_by_what_turns_within_a_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
