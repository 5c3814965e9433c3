/* test_scheduler.c: the scheduler and the prefix cache over a pool without a model: rows, blocks, preemption, reuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/scheduler.h"

#define T 64
#define SESSION_LEN 2048
#define BATCH 8
#define BUDGET 256

typedef struct world {
    kvq_machine machine;
    kvq_kv_plan plan;
    kvq_pool *pool;
    kvq_prefix *prefix;
    kvq_scheduler *scheduler;
    uint64_t n_blocks;
} world;

/* One group without a window and n_local with one; a policy with wide pages or without. */
static world *make_world_of(kvq_policy_id policy, int window, int n_local, uint64_t n_blocks, int budget) {
    world *w = calloc(1, sizeof *w);
    kvq_error err;
    w->machine.backend = kvq_cpu_backend();
    w->n_blocks = n_blocks;
    w->plan.kv = (kvq_kv){.policy = kvq_policy_get(policy),
                          .block_tokens = T,
                          .head_dim = 64,
                          .n_kv_heads = 1,
                          .n_layers = 1 + n_local,
                          .n_groups = 1 + n_local,
                          .block_bytes = 64};
    w->plan.block_bytes_f16 = 256;
    for (int g = 1; g <= n_local; g++) w->plan.group_window[g] = window;
    assert_int_equal(kvq_pool_new(&w->machine, n_blocks, 64, &w->pool, &err), KVQ_OK);
    assert_int_equal(kvq_prefix_new(w->pool, w->plan.kv.n_groups, w->plan.group_window, T, n_blocks, &w->prefix, &err),
                     KVQ_OK);
    assert_int_equal(kvq_scheduler_new(&(kvq_scheduler_options){.plan = &w->plan,
                                                                .pool = w->pool,
                                                                .prefix = w->prefix,
                                                                .session_len = SESSION_LEN,
                                                                .max_batch_size = BATCH,
                                                                .max_prefill_token_num = budget},
                                       &w->scheduler, &err),
                     KVQ_OK);
    return w;
}

static world *make_world(kvq_policy_id policy, int window, uint64_t n_blocks) {
    return make_world_of(policy, window, window > 0, n_blocks, BUDGET);
}

static void free_world(world *w) {
    kvq_scheduler_free(w->scheduler);
    assert_int_equal(kvq_pool_n_live(w->pool), 0);
    assert_int_equal(kvq_pool_n_free(w->pool) + kvq_pool_n_cached(w->pool), w->n_blocks);
    kvq_prefix_free(w->prefix);
    assert_int_equal(kvq_pool_n_free(w->pool), w->n_blocks);
    kvq_pool_free(w->pool);
    free(w);
}

/* A prompt of n tokens that differs from those of other seeds from its first token on. */
static kvq_sequence make_sequence(int n, int seed) {
    kvq_sequence s = {
        .tokens = calloc(SESSION_LEN, sizeof(int)), .n_tokens = n, .n_prompt = n, .client = "", .priority = 5};
    for (int i = 0; i < n; i++) s.tokens[i] = seed * 100000 + i;
    return s;
}

/* Runs one step; every sequence whose prompt is read gets a token. Returns the rows. Checks what a batch promises. */
static int step(world *w) {
    const kvq_batch *b;
    const kvq_scheduled *list;
    if (!kvq_scheduler_plan(w->scheduler, &b, &list)) return 0;
    int rows = 0;
    for (int i = 0; i < b->n_seqs; i++) {
        const kvq_batch_seq *q = &b->seqs[i];
        assert_int_equal(q->row_begin, rows);
        assert_int_equal(q->pos_begin, list[i].seq->n_computed);
        for (int r = 0; r < q->n_rows; r++) {
            assert_int_equal(b->row_seq[rows + r], i);
            assert_int_equal(b->pos[rows + r], q->pos_begin + r);
            assert_int_equal(b->ids[rows + r], list[i].seq->tokens[q->pos_begin + r]);
        }
        for (int g = 0; g < w->plan.kv.n_groups; g++)
            for (int p = q->pos_begin / T; p <= (q->pos_begin + q->n_rows - 1) / T; p++) {
                const kvq_kv_page *page = &q->pages[g][p];
                bool closes = w->plan.kv.policy->wide && p > 0 && (p + 1) * T <= q->pos_begin + q->n_rows;
                assert_non_null(page->block);
                assert_int_equal(page->scratch >= 0, closes);
                if (w->plan.kv.policy->wide && !closes) assert_non_null(page->wide_v);
            }
        rows += q->n_rows;
    }
    assert_int_equal(rows, b->n_rows);
    assert_true(rows <= BUDGET + BATCH);
    int n_seqs = b->n_seqs;
    kvq_scheduled copy[BATCH];
    memcpy(copy, list, sizeof copy[0] * (size_t)n_seqs);
    kvq_scheduler_commit(w->scheduler);
    for (int i = 0; i < n_seqs; i++)
        if (copy[i].logit_row >= 0) copy[i].seq->tokens[copy[i].seq->n_tokens++] = 7;
    return rows;
}

static void long_prompt_is_read_in_chunks_of_the_budget(void **state) {
    (void)state;
    world *w = make_world(KVQ_POLICY_INT8, 0, 64);
    kvq_sequence a = make_sequence(600, 1);
    kvq_scheduler_enqueue(w->scheduler, &a);
    assert_int_equal(step(w), 256);
    assert_int_equal(step(w), 256);
    assert_int_equal(a.n_tokens, 600);
    assert_int_equal(step(w), 88);
    assert_int_equal(a.n_tokens, 601);
    assert_int_equal(step(w), 1);
    kvq_scheduler_remove(w->scheduler, &a);
    free(a.tokens);
    free_world(w);
}

static void short_prompt_is_answered_while_a_long_one_is_read(void **state) {
    (void)state;
    world *w = make_world(KVQ_POLICY_INT4, 0, 128);
    kvq_sequence a = make_sequence(1500, 1), b = make_sequence(20, 2);
    kvq_scheduler_enqueue(w->scheduler, &a);
    (void)step(w);
    kvq_scheduler_enqueue(w->scheduler, &b);
    (void)step(w);
    assert_int_equal(b.n_tokens, 21);
    assert_true(a.n_computed < a.n_tokens - 1);
    while (a.n_tokens == 1500) assert_true(step(w) > 0);
    assert_true(b.n_tokens > 21); /* and it went on meanwhile */
    kvq_scheduler_remove(w->scheduler, &a);
    kvq_scheduler_remove(w->scheduler, &b);
    free(a.tokens);
    free(b.tokens);
    free_world(w);
}

static void closed_pages_of_a_wide_policy_give_their_second_block_back(void **state) {
    (void)state;
    world *w = make_world(KVQ_POLICY_INT4, 0, 64);
    kvq_sequence a = make_sequence(4 * T, 1);
    kvq_scheduler_enqueue(w->scheduler, &a);
    (void)step(w);
    /* four full pages: the first wide for ever, the others closed */
    assert_int_equal(a.n_blocks, 5);
    (void)step(w); /* opens a fifth page, wide */
    assert_int_equal(a.n_blocks, 7);
    assert_int_equal(a.n_blocks, kvq_plan_blocks(&w->plan, 4 * T + 1, 0));
    kvq_scheduler_remove(w->scheduler, &a);
    free(a.tokens);
    free_world(w);
}

static void pages_behind_the_window_are_given_back(void **state) {
    (void)state;
    world *w = make_world(KVQ_POLICY_INT4, 128, 128);
    kvq_sequence a = make_sequence(1000, 1);
    kvq_scheduler_enqueue(w->scheduler, &a);
    while (a.n_tokens == 1000) assert_true(step(w) > 0);
    for (int i = 0; i < 30; i++) (void)step(w);
    assert_true(a.n_blocks <= kvq_plan_blocks(&w->plan, (uint64_t)a.n_tokens, 0));
    kvq_scheduler_remove(w->scheduler, &a);
    free(a.tokens);
    free_world(w);
}

static void prefix_is_found_again_but_never_the_last_token(void **state) {
    (void)state;
    world *w = make_world(KVQ_POLICY_INT4, 0, 64);
    kvq_sequence a = make_sequence(4 * T, 1), b = make_sequence(4 * T, 1);
    kvq_scheduler_enqueue(w->scheduler, &a);
    (void)step(w);
    kvq_scheduler_remove(w->scheduler, &a);
    assert_int_equal(kvq_pool_n_cached(w->pool), 5);
    kvq_scheduler_enqueue(w->scheduler, &b);
    assert_int_equal(step(w), T);
    assert_int_equal(b.n_cached, 3 * T);
    assert_int_equal(b.n_tokens, 4 * T + 1);
    kvq_scheduler_remove(w->scheduler, &b);
    free(a.tokens);
    free(b.tokens);
    free_world(w);
}

static void prefix_of_windowed_layers_needs_only_what_the_window_sees(void **state) {
    (void)state;
    world *w = make_world(KVQ_POLICY_INT8, 128, 128);
    kvq_sequence a = make_sequence(10 * T, 1), b = make_sequence(10 * T + 5, 1);
    kvq_scheduler_enqueue(w->scheduler, &a);
    while (a.n_tokens == 10 * T) assert_true(step(w) > 0);
    kvq_scheduler_remove(w->scheduler, &a);
    kvq_scheduler_enqueue(w->scheduler, &b);
    assert_int_equal(step(w), 5);
    assert_int_equal(b.n_cached, 10 * T);
    kvq_scheduler_remove(w->scheduler, &b);
    free(a.tokens);
    free(b.tokens);
    free_world(w);
}

static void evicted_prefixes_make_room_and_every_cached_block_can_go(void **state) {
    (void)state;
    world *w = make_world(KVQ_POLICY_INT4, 0, 12);
    for (int seed = 1; seed <= 20; seed++) {
        kvq_sequence a = make_sequence(5 * T + 3, seed);
        kvq_scheduler_enqueue(w->scheduler, &a);
        while (a.n_tokens < 5 * T + 10) assert_true(step(w) > 0);
        kvq_scheduler_remove(w->scheduler, &a);
        free(a.tokens);
    }
    assert_true(kvq_prefix_evict(w->prefix, 12));
    free_world(w);
}

/* Who was admitted last makes room, not who asks for it nor who came last; and comes back before whoever else waits. */
static void the_sequence_admitted_last_is_preempted_and_comes_back_first(void **state) {
    (void)state;
    world *w = make_world(KVQ_POLICY_INT8, 0, 6);
    kvq_sequence first = make_sequence(60, 1), last = make_sequence(40, 2), middle = make_sequence(50, 3),
                 urgent = make_sequence(30, 4);
    last.priority = 1;
    kvq_scheduler_enqueue(w->scheduler, &first);
    kvq_scheduler_enqueue(w->scheduler, &last);
    kvq_scheduler_enqueue(w->scheduler, &middle);
    (void)step(w);
    assert_true(first.admission < middle.admission && middle.admission < last.admission);
    while (first.n_computed < 2 * T) { /* two pages each: the pool is full */
        (void)step(w);
        assert_int_equal(first.n_preemptions + middle.n_preemptions + last.n_preemptions, 0);
    }
    assert_int_equal(kvq_pool_n_free(w->pool) + kvq_pool_n_cached(w->pool), 0);
    (void)step(w); /* the first one needs a third page */
    assert_int_equal(first.n_preemptions + middle.n_preemptions, 0);
    assert_int_equal(last.n_preemptions, 1);
    assert_int_equal(last.state, KVQ_SEQUENCE_WAITING);
    assert_int_equal(last.n_blocks, 0);
    assert_true(first.state == KVQ_SEQUENCE_RUNNING && middle.state == KVQ_SEQUENCE_RUNNING);
    urgent.priority = 9;
    kvq_scheduler_enqueue(w->scheduler, &urgent);
    kvq_scheduler_remove(w->scheduler, &first);
    kvq_scheduler_remove(w->scheduler, &middle);
    (void)step(w);
    assert_int_equal(last.state, KVQ_SEQUENCE_RUNNING);
    assert_true(urgent.state == KVQ_SEQUENCE_WAITING || last.admission < urgent.admission);
    kvq_scheduler_remove(w->scheduler, &last);
    kvq_scheduler_remove(w->scheduler, &urgent);
    free(first.tokens);
    free(last.tokens);
    free(middle.tokens);
    free(urgent.tokens);
    free_world(w);
}

/* Reads a prompt of two pages and a bit, and ends: its pages are cached, or used again. */
static void use_prefix(world *w, int seed) {
    kvq_sequence a = make_sequence(2 * T + 3, seed);
    kvq_scheduler_enqueue(w->scheduler, &a);
    (void)step(w);
    assert_int_equal(a.n_tokens, 2 * T + 4);
    kvq_scheduler_remove(w->scheduler, &a);
    free(a.tokens);
}

static int cached_pages(world *w, int seed) {
    kvq_sequence a = make_sequence(2 * T, seed);
    kvq_kv_page list[2] = {{0}}, *const pages[] = {list};
    int n = kvq_prefix_find(w->prefix, a.tokens, 2, pages);
    for (int i = 0; i < n; i++) kvq_pool_unref(w->pool, &list[i].block);
    free(a.tokens);
    return n;
}

static void the_prefix_used_longest_ago_is_evicted_first_from_its_end(void **state) {
    (void)state;
    static const int left[][3] = {{2, 2, 2}, {2, 1, 2}, {2, 0, 2}, {2, 0, 1}, {2, 0, 0}, {1, 0, 0}, {0, 0, 0}};
    for (int n = 0; n <= 6; n++) {
        world *w = make_world(KVQ_POLICY_INT8, 0, 16);
        for (int seed = 1; seed <= 3; seed++) use_prefix(w, seed);
        use_prefix(w, 1); /* cached first, used last */
        assert_int_equal(kvq_pool_n_cached(w->pool), 6);
        assert_true(kvq_prefix_evict(w->prefix, kvq_pool_n_free(w->pool) + (uint64_t)n));
        for (int seed = 1; seed <= 3; seed++)
            if (cached_pages(w, seed) != left[n][seed - 1])
                fail_msg("of prefix %d %d pages are cached after %d evictions", seed, cached_pages(w, seed), n);
        free_world(w);
    }
}

static void all_finish_over_a_pool_that_holds_few(void **state) {
    (void)state;
    for (int window = 0; window <= 100; window += 100) {
        world *w = make_world(KVQ_POLICY_INT4, window, window ? 24 : 12);
        kvq_sequence seqs[40];
        int n_done = 0, n_steps = 0;
        for (int i = 0; i < 40; i++) {
            seqs[i] = make_sequence(30 + 7 * (i % 9), i);
            kvq_scheduler_enqueue(w->scheduler, &seqs[i]);
        }
        while (n_done < 40) {
            assert_true(step(w) > 0);
            assert_true(++n_steps < 20000);
            for (int i = 0; i < 40; i++)
                if (seqs[i].state == KVQ_SEQUENCE_RUNNING && seqs[i].n_tokens >= seqs[i].n_prompt + 200) {
                    kvq_scheduler_remove(w->scheduler, &seqs[i]);
                    n_done++;
                }
        }
        kvq_scheduler_stats stats;
        kvq_scheduler_get_stats(w->scheduler, &stats);
        assert_true(stats.preemptions > 0); /* else this test tests nothing */
        for (int i = 0; i < 40; i++) free(seqs[i].tokens);
        free_world(w);
    }
}

static void higher_priority_is_admitted_first_and_clients_take_turns(void **state) {
    (void)state;
    world *w = make_world(KVQ_POLICY_INT8, 0, 64);
    kvq_sequence seqs[BATCH + 6];
    static const char *const clients[] = {"a", "a", "a", "a", "b", "b"};
    for (int i = 0; i < BATCH; i++) { /* fill every slot */
        seqs[i] = make_sequence(10, i);
        kvq_scheduler_enqueue(w->scheduler, &seqs[i]);
    }
    while (seqs[BATCH - 1].state != KVQ_SEQUENCE_RUNNING) (void)step(w);
    for (int i = 0; i < 6; i++) {
        seqs[BATCH + i] = make_sequence(10, 100 + i);
        seqs[BATCH + i].client = clients[i];
        seqs[BATCH + i].priority = i == 3 ? 9 : 5;
        kvq_scheduler_enqueue(w->scheduler, &seqs[BATCH + i]);
    }
    static const int order[] = {3, 0, 4, 1, 5, 2};
    for (int i = 0; i < 6; i++) {
        kvq_scheduler_remove(w->scheduler, &seqs[i]);
        (void)step(w);
        assert_int_equal(seqs[BATCH + order[i]].state, KVQ_SEQUENCE_RUNNING);
    }
    for (int i = 0; i < BATCH + 6; i++) {
        kvq_scheduler_remove(w->scheduler, &seqs[i]);
        free(seqs[i].tokens);
    }
    free_world(w);
}

/* The plan promises that a sequence of so many tokens fits in so many blocks; then it must never be left without one,
 * wherever its chunks begin and end: an open page that closes is wide until the step is over, while the next is too. */
static void a_sequence_that_fills_the_pool_exactly_never_lacks_a_block(void **state) {
    (void)state;
    static const kvq_policy_id policies[] = {KVQ_POLICY_INT4, KVQ_POLICY_INT8};
    static const int windows[] = {0, 1, 70, 128, 300}, budgets[] = {1, 7, 33, 64, 100, 255, 256};
    for (int i = 0; i < 2 * 5 * 7; i++) {
        kvq_policy_id policy = policies[i % 2];
        int window = windows[i / 2 % 5], budget = budgets[i / 10];
        for (int n = 1; n < 1100; n += 13) {
            int n_local = window ? 1 + n % 5 : 0;
            world *w = make_world_of(policy, window, n_local, 1, budget);
            uint64_t n_blocks = kvq_plan_blocks(&w->plan, (uint64_t)n, (uint64_t)budget);
            free_world(w);
            w = make_world_of(policy, window, n_local, n_blocks, budget);
            kvq_sequence a = make_sequence(n > 20 ? n - 20 : 1, 1);
            kvq_scheduler_enqueue(w->scheduler, &a);
            while (a.n_computed < n)
                if (step(w) == 0)
                    fail_msg("policy %d, window %d, chunks of %d, %d tokens: stuck at %d", policy, window, budget, n,
                             a.n_computed);
            assert_int_equal(a.n_preemptions, 0);
            kvq_scheduler_remove(w->scheduler, &a);
            free(a.tokens);
            free_world(w);
        }
    }
}

/* Random arrivals, ends and cancels over small pools: counts always come back, nothing is stuck. */
static void random_traffic_leaves_no_block_behind(void **state) {
    (void)state;
    static const kvq_policy_id policies[] = {KVQ_POLICY_INT4, KVQ_POLICY_INT8};
    for (unsigned round = 0; round < 8; round++) {
        srand(round);
        world *w = make_world(policies[round % 2], round & 2 ? 70 : 0, 48);
        kvq_sequence seqs[12];
        bool used[12] = {false};
        int goal[12] = {0};
        for (int n = 0; n < 3000; n++) {
            int i = rand() % 12;
            if (!used[i]) {
                seqs[i] = make_sequence(1 + rand() % 600, rand() % 4);
                goal[i] = seqs[i].n_tokens + 1 + rand() % 100;
                used[i] = true;
                kvq_scheduler_enqueue(w->scheduler, &seqs[i]);
            }
            (void)step(w);
            for (int j = 0; j < 12; j++)
                if (used[j] && (seqs[j].n_tokens >= goal[j] || rand() % 500 == 0)) {
                    kvq_scheduler_remove(w->scheduler, &seqs[j]);
                    free(seqs[j].tokens);
                    used[j] = false;
                }
        }
        for (int j = 0; j < 12; j++)
            if (used[j]) {
                kvq_scheduler_remove(w->scheduler, &seqs[j]);
                free(seqs[j].tokens);
            }
        free_world(w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_prompt_is_read_in_chunks_of_the_budget),
        cmocka_unit_test(short_prompt_is_answered_while_a_long_one_is_read),
        cmocka_unit_test(closed_pages_of_a_wide_policy_give_their_second_block_back),
        cmocka_unit_test(pages_behind_the_window_are_given_back),
        cmocka_unit_test(prefix_is_found_again_but_never_the_last_token),
        cmocka_unit_test(prefix_of_windowed_layers_needs_only_what_the_window_sees),
        cmocka_unit_test(evicted_prefixes_make_room_and_every_cached_block_can_go),
        cmocka_unit_test(the_sequence_admitted_last_is_preempted_and_comes_back_first),
        cmocka_unit_test(the_prefix_used_longest_ago_is_evicted_first_from_its_end),
        cmocka_unit_test(all_finish_over_a_pool_that_holds_few),
        cmocka_unit_test(higher_priority_is_admitted_first_and_clients_take_turns),
        cmocka_unit_test(a_sequence_that_fills_the_pool_exactly_never_lacks_a_block),
        cmocka_unit_test(random_traffic_leaves_no_block_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
