/* Proves kernels/formats.c: every format gives bit for bit the floats of python's gguf package
 * (tests/golden/formats.txt, made by tests/golden/make_format_vectors.py), and halves convert exactly and round to
 * nearest even. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/formats.h"

#define GOLDEN KVQ_SOURCE_DIR "/tests/golden/formats.txt"

static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static kvq_format format_named(const char *name) {
    for (int f = 0; f < KVQ_FORMAT_COUNT; f++)
        if (strcmp(kvq_format_get((kvq_format)f)->name, name) == 0) return (kvq_format)f;
    return KVQ_FORMAT_COUNT;
}

static uint32_t read_hex(const char **text, int digits) {
    char part[9] = {0};
    memcpy(part, *text, digits);
    *text += digits;
    return (uint32_t)strtoul(part, NULL, 16);
}

static void every_format_gives_the_floats_of_the_gguf_package(void **state) {
    (void)state;
    static char line[4096];
    int seen[KVQ_FORMAT_COUNT] = {0};
    FILE *file = fopen(GOLDEN, "re");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        char name[16];
        int used = 0;
        assert_int_equal(sscanf(line, "%15s %n", name, &used), 1);
        kvq_format format = format_named(name);
        assert_int_not_equal(format, KVQ_FORMAT_COUNT);
        const kvq_format_info *info = kvq_format_get(format);
        uint8_t block[256];
        float got[256];
        const char *text = line + used;
        for (int i = 0; i < info->block_bytes; i++) block[i] = (uint8_t)read_hex(&text, 2);
        assert_int_equal(*text++, ' ');
        kvq_format_to_float(format, block, got, info->block_len);
        for (int i = 0; i < info->block_len; i++) {
            uint32_t want = read_hex(&text, 8);
            if (bits_of(got[i]) != want) fail_msg("%s, value %d: want %08x, got %08x", name, i, want, bits_of(got[i]));
        }
        seen[format]++;
    }
    fclose(file);
    for (int f = 0; f < KVQ_FORMAT_COUNT; f++) assert_true(seen[f] >= 3);
}

static void codes_fit_the_bits_and_scales_the_halves_of_their_row(void **state) {
    (void)state;
    srand(1);
    for (int f = 0; f < KVQ_FORMAT_COUNT; f++) {
        const kvq_format_info *info = kvq_format_get((kvq_format)f);
        assert_int_equal(kvq_format_find(info->id), f);
        for (int turn = 0; turn < 200 && info->unpack; turn++) {
            uint8_t block[256];
            kvq_unpacked u;
            for (int i = 0; i < info->block_bytes; i++) block[i] = (uint8_t)(rand() >> 7);
            info->unpack(block, &u);
            /* the kernels take codes above 127 only where the zero is 128 */
            int most = info->zero == 128 ? 255 : (1 << info->bits) - 1;
            for (int i = 0; i < info->block_len; i++) assert_true(u.code[i] <= most);
            for (int g = 0; g < info->block_len / info->group_len; g++) {
                if (!info->has_min) assert_true(u.min[g] == 0);
                if (info->scale_type == KVQ_SCALE_SUPER && !isnan(u.scale[g])) {
                    assert_true(u.scale[g] == u.d * (float)u.sub_scale[g]);
                    assert_true(!info->has_min || isnan(u.min[g]) || u.min[g] == u.dmin * (float)u.sub_min[g]);
                }
                if (info->scale_type != KVQ_SCALE_F16 || isnan(u.scale[g])) continue;
                assert_int_equal(bits_of(kvq_half_to_float(kvq_float_to_half(u.scale[g]))), bits_of(u.scale[g]));
            }
        }
    }
    assert_int_equal(kvq_format_find(4), KVQ_FORMAT_COUNT);
    assert_int_equal(kvq_format_find(UINT32_MAX), KVQ_FORMAT_COUNT);
}

static void every_half_survives_the_way_to_float_and_back(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = kvq_half_to_float((uint16_t)h);
        if (isnan(f)) {
            assert_int_equal(h & 0x7C00, 0x7C00);
            assert_true(isnan(kvq_half_to_float(kvq_float_to_half(f))));
            continue;
        }
        assert_int_equal(kvq_float_to_half(f), h);
        /* IEEE 754-2019, binary16 */
        int exponent = h >> 10 & 31;
        double want = exponent == 31  ? INFINITY
                      : exponent == 0 ? ldexp(h & 1023, -24)
                                      : ldexp(1024 + (h & 1023), exponent - 25);
        assert_true(f == (h & 0x8000 ? -want : want));
    }
}

/* Between each two neighbours: just below the middle goes down, just above goes up, the middle to the even one. */
static void floats_between_two_halves_go_to_the_nearer_and_to_the_even_one_in_the_middle(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7BFF; h++) {
        float low = kvq_half_to_float((uint16_t)h), high = kvq_half_to_float((uint16_t)(h + 1));
        float middle = (low + high) / 2;
        assert_int_equal(kvq_float_to_half(middle), h & 1 ? h + 1 : h);
        assert_int_equal(kvq_float_to_half(nextafterf(middle, 0)), h);
        assert_int_equal(kvq_float_to_half(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(kvq_float_to_half(-middle), 0x8000 | (h & 1 ? h + 1 : h));
    }
    assert_int_equal(kvq_float_to_half(65519.996f), 0x7BFF);
    assert_int_equal(kvq_float_to_half(65520.0f), 0x7C00);
    assert_int_equal(kvq_float_to_half(1e30f), 0x7C00);
    assert_int_equal(kvq_float_to_half(-INFINITY), 0xFC00);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_gives_the_floats_of_the_gguf_package),
        cmocka_unit_test(codes_fit_the_bits_and_scales_the_halves_of_their_row),
        cmocka_unit_test(every_half_survives_the_way_to_float_and_back),
        cmocka_unit_test(floats_between_two_halves_go_to_the_nearer_and_to_the_even_one_in_the_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
