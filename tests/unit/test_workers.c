/* Proves kernels/cpu/workers.c: every item is done once, whoever is awake; a parked pool wakes and an idle one uses no
 * CPU; and stream.c, which keeps its first error. Runs under the thread sanitizer too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "kernels/cpu/stream.h"

#define MOST_ITEMS 1000

typedef struct counts {
    int done[MOST_ITEMS]; /* not atomic: an item belongs to one worker */
    atomic_int calls, outside;
    int n_workers;
} counts;

static void count_item(void *job, int item, int worker) {
    counts *c = job;
    c->done[item]++;
    atomic_fetch_add(&c->calls, 1);
    if (worker < 0 || worker >= c->n_workers) atomic_fetch_add(&c->outside, 1);
}

static void sleep_ms(long ms) {
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static void every_item_is_done_once(void **state) {
    (void)state;
    for (int threads = 1; threads <= 5; threads++) {
        kvq_workers *pool;
        assert_int_equal(kvq_workers_new(threads, &pool, NULL), KVQ_OK);
        assert_int_equal(kvq_workers_count(pool), threads);
        for (int turn = 0; turn < 2000; turn++) {
            counts c = {.n_workers = threads};
            int n = turn * 7 % 40;
            kvq_workers_run(pool, count_item, &c, n);
            assert_int_equal(c.calls, n);
            assert_int_equal(c.outside, 0);
            for (int i = 0; i < n; i++) assert_int_equal(c.done[i], 1);
        }
        kvq_workers_free(pool);
    }
}

static void a_pool_that_slept_wakes(void **state) {
    (void)state;
    kvq_workers *pool;
    assert_int_equal(kvq_workers_new(3, &pool, NULL), KVQ_OK);
    for (int turn = 0; turn < 20; turn++) {
        counts c = {.n_workers = 3};
        sleep_ms(2); /* far beyond the spinning */
        kvq_workers_run(pool, count_item, &c, MOST_ITEMS);
        assert_int_equal(c.calls, MOST_ITEMS);
    }
    kvq_workers_free(pool);
}

static double cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void an_idle_pool_uses_no_cpu(void **state) {
    (void)state;
    kvq_workers *pool;
    assert_int_equal(kvq_workers_new(4, &pool, NULL), KVQ_OK);
    counts c = {.n_workers = 4};
    kvq_workers_run(pool, count_item, &c, MOST_ITEMS);
    sleep_ms(50);
    double begin = cpu_s();
    sleep_ms(400);
    assert_true(cpu_s() - begin < 0.01);
    kvq_workers_free(pool);
}

static void item_sleeps(void *job, int item, int worker) {
    (void)worker;
    if (item == 0) sleep_ms(20); /* long enough that the caller parks */
    count_item(job, item, 0);
}

static void the_caller_waits_for_a_slow_worker(void **state) {
    (void)state;
    kvq_workers *pool;
    assert_int_equal(kvq_workers_new(2, &pool, NULL), KVQ_OK);
    for (int turn = 0; turn < 10; turn++) {
        counts c = {.n_workers = 2};
        kvq_workers_run(pool, item_sleeps, &c, 2);
        assert_int_equal(c.calls, 2);
    }
    kvq_workers_free(pool);
}

static void a_number_of_threads_out_of_range_is_refused(void **state) {
    (void)state;
    kvq_workers *pool = NULL;
    kvq_error error;
    assert_int_equal(kvq_workers_new(257, &pool, &error), KVQ_BAD_ARGUMENT);
    assert_string_equal(error.text, "257 compute threads: from 1 to 256 are allowed");
    assert_int_equal(kvq_workers_new(-1, &pool, &error), KVQ_BAD_ARGUMENT);
    assert_null(pool);
    assert_true(kvq_physical_cores() >= 1);
    kvq_workers_free(NULL);
}

static const kvq_shapes shapes = {.max_rows = 4,
                                  .max_in = 64,
                                  .max_out = 64,
                                  .n_heads = 2,
                                  .n_kv_heads = 1,
                                  .head_dim = 32,
                                  .max_tokens = 64,
                                  .block_tokens = 32,
                                  .threads = 2};

static void a_stream_keeps_its_first_error(void **state) {
    (void)state;
    kvq_stream *s;
    kvq_error error;
    assert_int_equal(kvq_cpu_stream_new(&shapes, &s, &error), KVQ_OK);
    assert_int_equal(kvq_cpu_stream_error(s, &error), KVQ_OK);
    kvq_stream_fail(s, KVQ_INTERNAL, "the first of %d", 2);
    kvq_stream_fail(s, KVQ_NO_MEMORY, "the second");
    assert_int_equal(kvq_cpu_stream_error(s, &error), KVQ_INTERNAL);
    assert_string_equal(error.text, "the first of 2");
    kvq_cpu_stream_free(s);
    kvq_cpu_stream_free(NULL);
}

static void taking_more_than_the_workspace_is_an_error_of_the_stream(void **state) {
    (void)state;
    kvq_stream *s;
    assert_int_equal(kvq_cpu_stream_new(&shapes, &s, NULL), KVQ_OK);
    size_t used = 0, bytes = kvq_cpu_workspace_bytes(&shapes);
    uint8_t *first = kvq_stream_take(s, &used, 1);
    assert_non_null(first);
    assert_ptr_equal(kvq_stream_take(s, &used, 1), first + 64);
    assert_int_equal(kvq_cpu_stream_error(s, NULL), KVQ_OK);
    assert_null(kvq_stream_take(s, &used, bytes));
    assert_null(kvq_stream_take(s, &used, SIZE_MAX - 8)); /* rounding up would wrap to 0 */
    assert_int_equal(kvq_cpu_stream_error(s, NULL), KVQ_INTERNAL);
    kvq_cpu_stream_free(s);
}

static void a_stream_without_rows_is_refused(void **state) {
    (void)state;
    kvq_stream *s = NULL;
    kvq_shapes none = shapes;
    kvq_error error;
    none.max_rows = 0;
    assert_int_equal(kvq_cpu_stream_new(&none, &s, &error), KVQ_BAD_ARGUMENT);
    assert_null(s);
    assert_non_null(strstr(error.text, "0 rows"));
}

static void an_unknown_instruction_set_names_the_known_ones(void **state) {
    (void)state;
    kvq_ops ops = {0};
    kvq_error error;
    assert_int_equal(kvq_cpu_ops_init(&ops, "avx1024", &error), KVQ_UNSUPPORTED);
    assert_non_null(strstr(error.text, "instruction set 'avx1024': this machine has auto, ref, generic"));
    assert_null(ops.linear);
    assert_int_equal(kvq_cpu_ops_init(&ops, "ref", &error), KVQ_OK);
    assert_string_equal(ops.backend, "ref");
    assert_int_equal(kvq_cpu_ops_init(&ops, "auto", &error), KVQ_OK);
    assert_string_equal(ops.backend, "cpu");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_is_done_once),
        cmocka_unit_test(a_pool_that_slept_wakes),
        cmocka_unit_test(an_idle_pool_uses_no_cpu),
        cmocka_unit_test(the_caller_waits_for_a_slow_worker),
        cmocka_unit_test(a_number_of_threads_out_of_range_is_refused),
        cmocka_unit_test(a_stream_keeps_its_first_error),
        cmocka_unit_test(taking_more_than_the_workspace_is_an_error_of_the_stream),
        cmocka_unit_test(a_stream_without_rows_is_refused),
        cmocka_unit_test(an_unknown_instruction_set_names_the_known_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
