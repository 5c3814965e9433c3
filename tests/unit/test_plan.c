/* test_plan.c: the arithmetic of memory: what fits a pool under every policy, and what is said when it does not. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "engine/plan.h"
#include "gguf_file.h"

/* SmolLM2's cache: 30 layers, 3 KV heads of 64, pages of 64 tokens. */
static kvq_kv_plan make_plan(kvq_policy_id policy) {
    kvq_kv_image image, f16;
    kvq_kv_image_init(&image, kvq_policy_get(policy), 64, 64, false);
    kvq_kv_image_init(&f16, kvq_policy_get(KVQ_POLICY_F16), 64, 64, false);
    return (kvq_kv_plan){.kv = {.policy = kvq_policy_get(policy),
                                .block_tokens = 64,
                                .head_dim = 64,
                                .n_kv_heads = 3,
                                .n_layers = 30,
                                .n_groups = 1,
                                .block_bytes = image.bytes * 90},
                         .block_bytes_f16 = f16.bytes * 90};
}

static void pages_have_the_bytes_of_the_format(void **state) {
    (void)state;
    assert_int_equal(make_plan(KVQ_POLICY_F16).kv.block_bytes, 90 * 16384);
    assert_int_equal(make_plan(KVQ_POLICY_INT8).kv.block_bytes, 90 * 8448);
    assert_int_equal(make_plan(KVQ_POLICY_INT4).kv.block_bytes, 90 * (66 * 64 + 256));
    assert_int_equal(make_plan(KVQ_POLICY_LMDEPLOY8).kv.block_bytes, 90 * 8704);
    assert_int_equal(make_plan(KVQ_POLICY_LMDEPLOY4).kv.block_bytes, 90 * 4608);
}

/* Tokens in sequences of n that a pool of these bytes holds, relative to halves. */
static double gain(kvq_policy_id policy, uint64_t n) {
    kvq_kv_plan plan = make_plan(policy);
    double bytes = (double)kvq_plan_blocks(&plan, n, 0) * (double)plan.kv.block_bytes;
    double bytes_f16 = (double)kvq_plan_blocks_f16(&plan, n) * (double)plan.block_bytes_f16;
    return bytes_f16 / bytes;
}

static void same_bytes_hold_the_promised_tokens(void **state) {
    (void)state;
    assert_true(gain(KVQ_POLICY_INT8, 4096) >= 1.9);
    assert_true(gain(KVQ_POLICY_INT4, 4096) >= 3.5);
    assert_true(gain(KVQ_POLICY_INT4, 128) < gain(KVQ_POLICY_INT8, 128)); /* short sequences pay for the wide pages */
}

static void wide_pages_cost_two_blocks_a_sequence(void **state) {
    (void)state;
    kvq_kv_plan plan = make_plan(KVQ_POLICY_INT4);
    assert_int_equal(kvq_plan_blocks(&plan, 0, 0), 0);
    assert_int_equal(kvq_plan_blocks(&plan, 1, 0), 2);
    assert_int_equal(kvq_plan_blocks(&plan, 64, 0), 2);
    assert_int_equal(kvq_plan_blocks(&plan, 65, 0), 4);
    assert_int_equal(kvq_plan_blocks(&plan, 4096, 0), 66);
    assert_int_equal(kvq_plan_blocks_f16(&plan, 4096), 64);
}

static void windowed_groups_hold_what_the_window_sees(void **state) {
    (void)state;
    kvq_kv_plan plan = make_plan(KVQ_POLICY_INT8);
    plan.kv.n_groups = 2;
    plan.group_window[1] = 512;
    assert_int_equal(kvq_plan_blocks(&plan, 512, 0), 16);
    /* 512 tokens may begin inside a page and end inside another: 9 pages and never more */
    assert_int_equal(kvq_plan_blocks(&plan, 64 * 100, 0), 100 + 9);
    assert_int_equal(kvq_plan_blocks(&plan, 64 * 100, 256), 100 + 13);
}

static kvq_free_memory shared(uint64_t bytes) {
    return (kvq_free_memory){.bytes = bytes, .is_shared = true};
}

static void pool_is_a_share_a_count_or_bytes(void **state) {
    (void)state;
    kvq_kv_plan plan = make_plan(KVQ_POLICY_INT8);
    const uint64_t gib = (uint64_t)1 << 30, block = plan.kv.block_bytes;
    static const struct {
        const char *text;
        double bytes;
    } cases[] = {{"0.5", 0.5 * 4}, {"1", 4},  {"1.0", 4},      {".25", 1},
                 {"512M", 0.5},    {"2g", 2}, {"1048576K", 1}, {"0.001T", 1.024}};
    uint64_t n;
    kvq_error err;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(kvq_plan_pool_bytes(&plan, cases[i].text, shared(4 * gib), 4096, 4, &n, &err), KVQ_OK);
        assert_int_equal(n, (uint64_t)(cases[i].bytes * (double)gib / (double)block));
    }
    /* a number above 1 counts blocks of halves, whatever the policy: it never changes the pool's size */
    assert_int_equal(kvq_plan_pool_bytes(&plan, "100", shared(4 * gib), 4096, 4, &n, &err), KVQ_OK);
    assert_int_equal(n, 100 * plan.block_bytes_f16 / block);
    /* unset: half of what is free, but no more than twice what the batch can fill */
    assert_int_equal(kvq_plan_pool_bytes(&plan, NULL, shared(gib / 4), 4096, 4, &n, &err), KVQ_OK);
    assert_int_equal(n, gib / 8 / block);
    /* of a GPU's own memory: four fifths */
    kvq_free_memory own = {.bytes = gib / 4};
    assert_int_equal(kvq_plan_pool_bytes(&plan, NULL, own, 4096, 4, &n, &err), KVQ_OK);
    assert_int_equal(n, gib / 5 / block);
    assert_int_equal(kvq_plan_pool_bytes(&plan, NULL, shared(64 * gib), 4096, 4, &n, &err), KVQ_OK);
    assert_int_equal(n, 2 * 4 * 64 * plan.block_bytes_f16 / block);
}

static void bad_pool_sizes_are_named(void **state) {
    (void)state;
    kvq_kv_plan plan = make_plan(KVQ_POLICY_INT8);
    uint64_t n;
    kvq_error err;
    static const char *const bad[] = {"",      "0",   "-1", "0.5x", "12MB",  "1e9",
                                      "1.2.3", "nan", "M",  "1.5",  "400.7", "400."};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(kvq_plan_pool_bytes(&plan, bad[i], shared(1 << 30), 4096, 4, &n, &err), KVQ_BAD_ARGUMENT);
        assert_non_null(strstr(err.text, "cache_max_entry_count '"));
        assert_non_null(
            strstr(err.text, "a share above 0 to 1, a whole number of f16 blocks above 1, bytes with a unit"));
    }
    assert_int_equal(kvq_plan_pool_bytes(&plan, "2G", shared(1 << 30), 4096, 4, &n, &err), KVQ_NO_SPACE);
    assert_string_equal(err.text,
                        "a KV pool of 2048 MiB is asked for, 1024 MiB are free after weights and workspace: 1024 "
                        "MiB are missing; lower cache_max_entry_count");
}

static void what_is_fixed_must_fit_first(void **state) {
    (void)state;
    const uint64_t mib = 1 << 20;
    kvq_error err;
    kvq_free_memory memory = shared(100 * mib);
    assert_int_equal(kvq_plan_fixed(60 * mib, 40 * mib, &memory, &err), KVQ_OK);
    assert_int_equal(memory.bytes, 0);
    memory = (kvq_free_memory){.bytes = 64 * mib};
    assert_int_equal(kvq_plan_fixed(60 * mib, 40 * mib, &memory, &err), KVQ_NO_MEMORY);
    assert_string_equal(err.text,
                        "weights take 60.0 MiB and the workspace 40.0 MiB, 64.0 MiB of the GPU's memory are free: 36.0 "
                        "MiB are missing; take a model of fewer or smaller weights, or lower max_batch_size or "
                        "max_prefill_token_num, which make the workspace");
    assert_int_equal(memory.bytes, 64 * mib);
}

static void session_len_is_the_least_of_model_default_and_pool(void **state) {
    (void)state;
    kvq_kv_plan plan = make_plan(KVQ_POLICY_INT4);
    int n;
    kvq_error err;
    assert_int_equal(kvq_plan_session_len(&plan, 100000, 0, 2048, 512, &n, &err), KVQ_OK);
    assert_int_equal(n, 2048);
    assert_int_equal(kvq_plan_session_len(&plan, 100000, 0, 131072, 512, &n, &err), KVQ_OK);
    assert_int_equal(n, 8192);
    assert_int_equal(kvq_plan_session_len(&plan, 100000, 20000, 131072, 512, &n, &err), KVQ_OK);
    assert_int_equal(n, 20000);
    assert_int_equal(kvq_plan_session_len(&plan, 66, 0, 131072, 512, &n, &err), KVQ_OK);
    assert_int_equal(n, 4096);
    assert_int_equal(kvq_plan_session_len(&plan, 66, 4097, 131072, 512, &n, &err), KVQ_NO_SPACE);
    assert_string_equal(err.text,
                        "the KV pool of 66 blocks holds one sequence of 4096 tokens, session_len asks for 4097; raise "
                        "cache_max_entry_count, lower session_len or choose a quant_policy of fewer bits");
    assert_int_equal(kvq_plan_session_len(&plan, 1, 0, 131072, 512, &n, &err), KVQ_NO_SPACE);
    assert_int_equal(kvq_plan_session_len(&plan, 66, 10, 131072, 512, &n, &err), KVQ_OK);
    assert_int_equal(n, 10); /* who asks for a short one gets it */
    assert_int_equal(kvq_plan_session_len(&plan, 66, 4096, 2048, 512, &n, &err), KVQ_BAD_ARGUMENT);
    assert_string_equal(err.text, "session_len 4096 is beyond the model's context of 2048 tokens");
}

/* ---- layers into groups and blocks ------------------------------------------------------------------------------ */

/* Heads of 64 and pages of 64 tokens: in bytes, a closed page of one head by the policy int4, and with K in 8 bits. */
enum { INT4_BYTES = 66 * 64 + 256, HARD_BYTES = (64 + 2) * 64 + (32 + 2) * 64 };

static const kvq_arch plain_arch = {.name = "plain"}, windowed_arch = {.name = "windowed", .window_pattern = 6},
                      normed_arch = {.name = "normed", .qk_norm = true};

static kvq_hparams make_hparams(const kvq_arch *arch, int n_layers) {
    const kvq_rope rope = {.neox = true, .n_rot = 64, .freq_base = 10000, .scale = 1};
    return (kvq_hparams){.arch = arch,
                         .n_layers = n_layers,
                         .n_heads = 2,
                         .n_kv_heads = 2,
                         .head_dim = 64,
                         .window = arch->window_pattern ? 512 : 0,
                         .rope = {rope, rope}};
}

/* A file with a K bias of this size in each of n layers; 0: that layer has none. */
static void open_biases(gguf_file *file, kvq_gguf **ret, const float *biases, int n) {
    static float values[2 * 64];
    kvq_error err = {0};
    uint64_t n_values = sizeof values / sizeof *values, offset = 0;
    start_file(file);
    for (int l = 0; l < n; l++) {
        char name[32];
        snprintf(name, sizeof name, "blk.%d.attn_k.bias", l);
        if (biases[l] == 0) continue;
        put_tensor(file, name, 1, &n_values, 0, offset);
        offset += sizeof values;
    }
    pad_to(file, 32);
    for (int l = 0; l < n; l++) {
        for (size_t i = 0; i < n_values; i++) values[i] = biases[l];
        if (biases[l] != 0) put(file, values, sizeof values);
    }
    if (open_file(file, ret, &err)) fail_msg("%s", err.text);
}

static void layers_whose_k_bias_is_hard_keep_k_in_8_bits(void **state) {
    (void)state;
    static const struct {
        const kvq_arch *arch;
        kvq_policy_id policy;
        int n_hard, n_ref;
    } cases[] = {{&plain_arch, KVQ_POLICY_INT4, 2, 3},
                 {&plain_arch, KVQ_POLICY_INT8, 0, 3},
                 {&plain_arch, KVQ_POLICY_F16, 0, 0},
                 {&plain_arch, KVQ_POLICY_LMDEPLOY4, 0, 0},
                 {&normed_arch, KVQ_POLICY_INT4, 0, 0}};
    static const float biases[] = {100, 0.01f, 0, 50};
    static const bool hard[] = {true, false, false, true};
    static gguf_file file;
    kvq_gguf *g = NULL;
    open_biases(&file, &g, biases, 4);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvq_hparams p = make_hparams(cases[i].arch, 4);
        kvq_kv_plan plan;
        kvq_error err = {0};
        assert_int_equal(kvq_kv_plan_init(&plan, g, &p, cases[i].policy, 64, &err), KVQ_OK);
        if (plan.n_hard_layers != cases[i].n_hard || plan.n_ref_layers != cases[i].n_ref)
            fail_msg("%s, policy %s: %d hard, %d with a bias taken out", cases[i].arch->name, plan.kv.policy->value,
                     plan.n_hard_layers, plan.n_ref_layers);
        size_t offset = 0;
        for (int l = 0; l < 4; l++) {
            const kvq_kv_layer *layer = &plan.kv.layers[l];
            assert_int_equal(layer->hard, cases[i].n_hard && hard[l]);
            if (cases[i].policy == KVQ_POLICY_INT4)
                assert_int_equal(layer->closed.bytes, layer->hard ? HARD_BYTES : INT4_BYTES);
            assert_int_equal(layer->offset, offset);
            offset += 2 * layer->closed.bytes;
        }
        assert_int_equal(plan.kv.block_bytes, offset);
        assert_int_equal(plan.block_bytes_f16, 4 * 2 * 2 * 64 * 64 * 2);
        assert_true(plan.bits_per_value == (double)offset * 8 / (4 * 2 * 2 * 64 * 64));
        kvq_kv_plan_done(&plan);
    }
    kvq_gguf_close(g);
    end_file(&file);
}

static void groups_have_equally_many_layers_of_one_kind(void **state) {
    (void)state;
    static const struct {
        const kvq_arch *arch;
        int n_layers, group_layers, n_groups, n_global_groups;
    } cases[] = {{&plain_arch, 30, 30, 1, 1},
                 {&windowed_arch, 18, 3, 6, 1},  /* 3 attend to all, 15 do not */
                 {&windowed_arch, 26, 2, 13, 2}, /* 4 and 22 */
                 {&windowed_arch, 7, 1, 7, 1},
                 {&windowed_arch, 5, 5, 1, 0}};
    static gguf_file file;
    kvq_gguf *g = NULL;
    open_biases(&file, &g, NULL, 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvq_hparams p = make_hparams(cases[i].arch, cases[i].n_layers);
        kvq_kv_plan plan;
        kvq_error err = {0};
        int n_in[KVQ_MAX_GROUPS] = {0};
        assert_int_equal(kvq_kv_plan_init(&plan, g, &p, KVQ_POLICY_INT8, 64, &err), KVQ_OK);
        assert_int_equal(plan.kv.n_groups, cases[i].n_groups);
        for (int l = 0; l < cases[i].n_layers; l++) {
            const kvq_kv_layer *layer = &plan.kv.layers[l];
            bool local = kvq_hparams_is_local(&p, l);
            assert_int_equal(layer->group >= cases[i].n_global_groups, local);
            assert_int_equal(plan.group_window[layer->group], local ? 512 : 0);
            assert_int_equal(layer->offset, (size_t)n_in[layer->group]++ * 2 * layer->closed.bytes);
        }
        for (int n = 0; n < plan.kv.n_groups; n++) assert_int_equal(n_in[n], cases[i].group_layers);
        assert_int_equal(plan.kv.block_bytes, (size_t)cases[i].group_layers * 2 * 8448);
        kvq_kv_plan_done(&plan);
    }
    kvq_hparams p = make_hparams(&windowed_arch, 205); /* 34 attend to all, 171 do not: no common divisor */
    kvq_kv_plan plan;
    kvq_error err = {0};
    assert_int_equal(kvq_kv_plan_init(&plan, g, &p, KVQ_POLICY_INT8, 64, &err), KVQ_UNSUPPORTED);
    assert_non_null(strstr(err.text, "171 layers with a window among 205 make 205 groups, allowed are"));
    kvq_gguf_close(g);
    end_file(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_have_the_bytes_of_the_format),
        cmocka_unit_test(same_bytes_hold_the_promised_tokens),
        cmocka_unit_test(wide_pages_cost_two_blocks_a_sequence),
        cmocka_unit_test(windowed_groups_hold_what_the_window_sees),
        cmocka_unit_test(pool_is_a_share_a_count_or_bytes),
        cmocka_unit_test(bad_pool_sizes_are_named),
        cmocka_unit_test(what_is_fixed_must_fit_first),
        cmocka_unit_test(layers_whose_k_bias_is_hard_keep_k_in_8_bits),
        cmocka_unit_test(groups_have_equally_many_layers_of_one_kind),
        cmocka_unit_test(session_len_is_the_least_of_model_default_and_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
