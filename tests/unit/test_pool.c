/* test_pool.c: the pool's counts: who holds a block, and when it is free again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/pool.h"

#define N_BLOCKS 4
#define BLOCK_BYTES 128

static kvq_machine machine;

static int setup(void **state) {
    kvq_error err;
    return kvq_pool_new(&machine, N_BLOCKS, BLOCK_BYTES, (kvq_pool **)state, &err);
}

static int teardown(void **state) {
    kvq_pool_free(*state);
    return 0;
}

static void every_block_can_be_taken_once(void **state) {
    kvq_pool *p = *state;
    uint8_t *blocks[N_BLOCKS];
    for (int i = 0; i < N_BLOCKS; i++) {
        blocks[i] = kvq_pool_take(p);
        assert_non_null(blocks[i]);
        assert_int_equal((uintptr_t)blocks[i] % 64, 0);
        for (int j = 0; j < i; j++)
            assert_true(blocks[j] + BLOCK_BYTES <= blocks[i] || blocks[i] + BLOCK_BYTES <= blocks[j]);
    }
    assert_null(kvq_pool_take(p));
    assert_int_equal(kvq_pool_n_live(p), N_BLOCKS);
    for (int i = 0; i < N_BLOCKS; i++) kvq_pool_unref(p, &blocks[i]);
    assert_int_equal(kvq_pool_n_free(p), N_BLOCKS);
}

static void block_returns_when_the_last_sequence_lets_go(void **state) {
    kvq_pool *p = *state;
    uint8_t *a = kvq_pool_take(p), *b = a;
    kvq_pool_ref(p, b);
    kvq_pool_unref(p, &a);
    assert_null(a);
    assert_int_equal(kvq_pool_n_free(p), N_BLOCKS - 1);
    assert_true(kvq_pool_is_live(p, b));
    kvq_pool_unref(p, &b);
    assert_int_equal(kvq_pool_n_free(p), N_BLOCKS);
}

static void cached_block_is_counted_apart_and_stays(void **state) {
    kvq_pool *p = *state;
    uint8_t *a = kvq_pool_take(p), *kept = a;
    kvq_pool_cache(p, a);
    assert_int_equal(kvq_pool_n_cached(p), 0); /* a sequence holds it too */
    kvq_pool_unref(p, &a);
    assert_int_equal(kvq_pool_n_live(p), 0);
    assert_int_equal(kvq_pool_n_cached(p), 1);
    assert_int_equal(kvq_pool_n_free(p), N_BLOCKS - 1);
    kvq_pool_ref(p, kept);
    assert_int_equal(kvq_pool_n_cached(p), 0);
    uint8_t *live = kept;
    kvq_pool_uncache(p, &kept);
    assert_int_equal(kvq_pool_n_free(p), N_BLOCKS - 1);
    kvq_pool_unref(p, &live);
    assert_int_equal(kvq_pool_n_free(p), N_BLOCKS);
}

static void nothing_is_an_allowed_block_to_give(void **state) {
    uint8_t *none = NULL;
    kvq_pool_unref(*state, &none);
    kvq_pool_uncache(*state, &none);
    assert_int_equal(kvq_pool_n_free(*state), N_BLOCKS);
}

static void impossible_sizes_are_refused(void **state) {
    (void)state;
    kvq_pool *p = NULL;
    kvq_error err;
    assert_int_equal(kvq_pool_new(&machine, 0, 64, &p, &err), KVQ_BAD_ARGUMENT);
    assert_string_equal(err.text, "a KV pool of 0 blocks is not possible");
    assert_int_equal(kvq_pool_new(&machine, 1u << 31, SIZE_MAX / 2, &p, &err), KVQ_BAD_ARGUMENT);
    assert_int_equal(kvq_pool_new(&machine, 1u << 31, (size_t)1 << 31, &p, &err), KVQ_NO_MEMORY);
    assert_null(p);
}

int main(void) {
    machine.backend = kvq_cpu_backend();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_block_can_be_taken_once, setup, teardown),
        cmocka_unit_test_setup_teardown(block_returns_when_the_last_sequence_lets_go, setup, teardown),
        cmocka_unit_test_setup_teardown(cached_block_is_counted_apart_and_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_is_an_allowed_block_to_give, setup, teardown),
        cmocka_unit_test(impossible_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
