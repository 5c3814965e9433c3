/* test_arch.c: engine/arch.c: sizes and constants out of GGUF metadata, and every file that is refused, by name. Each
 * case is a small model's metadata with a few keys added, changed or left out. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "engine/arch.h"
#include "gguf_file.h"

enum { HIDDEN = 128, HEADS = 2, HEAD_DIM = 32, VOCAB = 10, KEYS_MAX = 4 };

typedef enum key_kind { WITHOUT = 1, INTEGER, REAL, TEXT, LIST } key_kind;

/* One key below the architecture's name, "block_count" for "llama.block_count". */
typedef struct key {
    const char *suffix;
    key_kind kind;
    double number; /* of a LIST its only item */
    const char *text;
} key;

static const key usual[] = {
    {"block_count", INTEGER, 2, NULL},
    {"embedding_length", INTEGER, HIDDEN, NULL},
    {"feed_forward_length", INTEGER, 256, NULL},
    {"attention.head_count", INTEGER, HEADS, NULL},
    {"attention.key_length", INTEGER, HEAD_DIM, NULL},
    {"attention.value_length", INTEGER, HEAD_DIM, NULL},
    {"context_length", INTEGER, 2048, NULL},
    {"rope.freq_base", REAL, 1e6, NULL},
    {"attention.sliding_window", INTEGER, 96, NULL}, /* of those that have no window a key too many */
};

static gguf_file file;
static kvq_gguf *gguf;

static int tear_down(void **state) {
    (void)state;
    kvq_gguf_close(gguf);
    gguf = NULL;
    end_file(&file);
    return 0;
}

static void put_model_key(const char *arch, const key *k) {
    char name[128];
    snprintf(name, sizeof name, "%s.%s", arch, k->suffix);
    const float as_real = (float)k->number;
    switch (k->kind) {
    case WITHOUT:
        break;
    case INTEGER:
        put_u32_key(&file, name, (uint32_t)k->number);
        break;
    case REAL:
        put_key(&file, name, KVQ_GGUF_F32, &as_real, sizeof as_real);
        break;
    case TEXT:
        put_text_key(&file, name, k->text);
        break;
    case LIST:
        put_array_key(&file, name, KVQ_GGUF_U32, 1);
        put_u32(&file, (uint32_t)k->number);
        break;
    }
}

static bool is_among(const char *suffix, const key *keys) {
    for (int i = 0; i < KEYS_MAX && keys[i].suffix; i++)
        if (strcmp(keys[i].suffix, suffix) == 0) return true;
    return false;
}

/* keys [KEYS_MAX], the unused ones zeros. arch NULL: the file does not say. embedding_dims 0: there is none. */
static kvq_status read_model(const char *arch, const key *keys, int embedding_dims, kvq_hparams *ret, kvq_error *err) {
    static const uint64_t dims[] = {HIDDEN, VOCAB};
    (void)tear_down(NULL);
    start_file(&file);
    if (arch) put_text_key(&file, "general.architecture", arch);
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        if (!is_among(usual[i].suffix, keys)) put_model_key(arch ? arch : "none", &usual[i]);
    for (int i = 0; i < KEYS_MAX && keys[i].suffix; i++) put_model_key(arch ? arch : "none", &keys[i]);
    if (embedding_dims) put_tensor(&file, "token_embd.weight", embedding_dims, dims, 0, 0);
    pad_to(&file, 32);
    static const float zeros[HIDDEN * VOCAB];
    if (embedding_dims) put(&file, zeros, sizeof zeros);
    if (open_file(&file, &gguf, err)) fail_msg("%s", err->text);
    return kvq_hparams_read(gguf, ret, err);
}

static kvq_hparams must_read(const char *arch, const key *keys) {
    kvq_hparams p = {0};
    kvq_error err = {0};
    if (read_model(arch, keys, 2, &p, &err)) fail_msg("%s", err.text);
    return p;
}

/* ---- what is read ------------------------------------------------------------------------------------------------ */

static void sizes_are_those_of_the_file(void **state) {
    (void)state;
    kvq_hparams p = must_read("llama", (const key[KEYS_MAX]){{"attention.head_count_kv", INTEGER, 1, NULL}});
    assert_string_equal(p.arch->name, "llama");
    assert_int_equal(p.n_layers, 2);
    assert_int_equal(p.hidden_dim, HIDDEN);
    assert_int_equal(p.ffn_dim, 256);
    assert_int_equal(p.n_heads, HEADS);
    assert_int_equal(p.n_kv_heads, 1);
    assert_int_equal(p.head_dim, HEAD_DIM);
    assert_int_equal(p.vocab_size, VOCAB);
    assert_int_equal(p.context_len, 2048);
    assert_int_equal(p.rope[0].n_rot, HEAD_DIM);
    assert_true(p.rope[0].freq_base == 1e6);
}

static void what_a_file_does_not_say_follows_from_the_rest(void **state) {
    (void)state;
    kvq_hparams p = must_read("llama", (const key[KEYS_MAX]){{"attention.key_length", WITHOUT, 0, NULL},
                                                             {"attention.value_length", WITHOUT, 0, NULL},
                                                             {"rope.freq_base", WITHOUT, 0, NULL}});
    assert_int_equal(p.n_kv_heads, HEADS);
    assert_int_equal(p.head_dim, HIDDEN / HEADS);
    assert_int_equal(p.rope[0].n_rot, HIDDEN / HEADS);
    assert_true(p.rope[0].freq_base == 10000.0);
    assert_true(p.norm_eps == 1e-5f);
}

static void linear_rope_scaling_divides_positions_by_its_factor(void **state) {
    (void)state;
    static const struct {
        key keys[KEYS_MAX];
        double scale;
        const char *why;
    } cases[] = {
        {{{0}}, 1, "none"},
        {{{"rope.scaling.type", TEXT, 0, "linear"}, {"rope.scaling.factor", REAL, 4, NULL}}, 0.25, "linear"},
        {{{"rope.scaling.factor", REAL, 4, NULL}}, 0.25, "a factor without a type is linear"},
        {{{"rope.scale_linear", REAL, 8, NULL}}, 0.125, "the older name"},
        {{{"rope.scale_linear", REAL, 8, NULL}, {"rope.scaling.factor", REAL, 2, NULL}}, 0.5, "the newer name counts"},
        {{{"rope.scaling.type", TEXT, 0, "none"}, {"rope.scaling.factor", REAL, 4, NULL}}, 1, "a type of none"},
        {{{"rope.scaling.type", TEXT, 0, "linear"}}, 1, "linear without a factor"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvq_hparams llama = must_read("llama", cases[i].keys), gemma = must_read("gemma3", cases[i].keys);
        if (llama.rope[0].scale != cases[i].scale || gemma.rope[0].scale != cases[i].scale)
            fail_msg("%s: scale %g, expected %g", cases[i].why, llama.rope[0].scale, cases[i].scale);
        if (gemma.rope[1].scale != 1) fail_msg("%s: windowed layers are scaled too", cases[i].why);
    }
}

static void windowed_layers_have_a_rope_base_of_their_own(void **state) {
    (void)state;
    kvq_hparams p = must_read("gemma3", (const key[KEYS_MAX]){{0}});
    assert_int_equal(p.window, 96);
    assert_true(p.rope[0].freq_base == 1e6 && p.rope[1].freq_base == 10000.0);
    p = must_read("gemma3", (const key[KEYS_MAX]){{"rope.freq_base_swa", REAL, 50000, NULL}});
    assert_true(p.rope[0].freq_base == 1e6 && p.rope[1].freq_base == 50000.0);
}

static void every_sixth_layer_of_gemma3_attends_to_all(void **state) {
    (void)state;
    const key layers[KEYS_MAX] = {{"block_count", INTEGER, 13, NULL}};
    kvq_hparams gemma = must_read("gemma3", layers), llama = must_read("llama", layers);
    for (int l = 0; l < 13; l++) {
        assert_int_equal(kvq_hparams_is_local(&gemma, l), l != 5 && l != 11);
        assert_false(kvq_hparams_is_local(&llama, l)); /* whatever window its file names */
    }
}

static void softcaps_are_read_and_off_without_a_key(void **state) {
    (void)state;
    kvq_hparams p = must_read("gemma3", (const key[KEYS_MAX]){{0}});
    assert_true(p.attention_softcap == 0 && p.logit_softcap == 0);
    p = must_read("gemma3", (const key[KEYS_MAX]){{"attn_logit_softcapping", REAL, 50, NULL},
                                                  {"final_logit_softcapping", REAL, 30, NULL}});
    assert_true(p.attention_softcap == 50 && p.logit_softcap == 30);
}

/* gemma-3-27b, which is told by its 62 layers, has query_pre_attn_scalar = hidden_dim / n_heads. */
static void the_attention_scale_is_of_the_head_but_for_gemma3_of_62_layers(void **state) {
    (void)state;
    static const struct {
        const char *arch;
        int n_layers;
        double scaled_by;
    } cases[] = {{"gemma3", 62, (double)HIDDEN / HEADS},
                 {"gemma3", 61, HEAD_DIM},
                 {"gemma3", 63, HEAD_DIM},
                 {"gemma3", 2, HEAD_DIM},
                 {"llama", 62, HEAD_DIM},
                 {"qwen3", 62, HEAD_DIM}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvq_hparams p =
            must_read(cases[i].arch, (const key[KEYS_MAX]){{"block_count", INTEGER, cases[i].n_layers, NULL}});
        if (p.attention_scale != (float)(1 / sqrt(cases[i].scaled_by)))
            fail_msg("%s with %d layers: %g", cases[i].arch, cases[i].n_layers, (double)p.attention_scale);
    }
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

static void what_is_not_built_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *arch;
        key keys[KEYS_MAX];
        kvq_status status;
        const char *text; /* behind the file's name */
    } cases[] = {
        {NULL, {{0}}, KVQ_BAD_FILE, "key 'general.architecture' is missing"},
        {"gpt2", {{0}}, KVQ_UNSUPPORTED, "architecture 'gpt2' is not supported (llama, qwen2, qwen3, gemma3)"},
        {"llama\n4", {{0}}, KVQ_UNSUPPORTED, "architecture 'llama?4' is not supported (llama, qwen2, qwen3, gemma3)"},
        {"llama",
         {{"rope.scaling.type", TEXT, 0, "yarn"}},
         KVQ_UNSUPPORTED,
         "RoPE scaling 'yarn' is not supported (none, linear)"},
        {"qwen2",
         {{"rope.scaling.type", TEXT, 0, "longrope"}},
         KVQ_UNSUPPORTED,
         "RoPE scaling 'longrope' is not supported (none, linear)"},
        {"llama",
         {{"rope.scaling.factor", REAL, 0, NULL}},
         KVQ_UNSUPPORTED,
         "key 'llama.rope.scaling.factor' is 0, allowed is above 0 to 1e+06"},
        {"llama", {{"expert_count", INTEGER, 8, NULL}}, KVQ_UNSUPPORTED, "mixtures of experts are not supported"},
        {"llama",
         {{"feed_forward_length", LIST, 256, NULL}},
         KVQ_UNSUPPORTED,
         "key 'llama.feed_forward_length' differs from layer to layer, which this build does not do"},
        {"qwen3",
         {{"attention.head_count_kv", LIST, 1, NULL}},
         KVQ_UNSUPPORTED,
         "key 'qwen3.attention.head_count_kv' differs from layer to layer, which this build does not do"},
        {"llama",
         {{"attention.value_length", INTEGER, 64, NULL}},
         KVQ_UNSUPPORTED,
         "keys of 32 and values of 64 channels are not supported"},
        {"llama",
         {{"attention.head_count", INTEGER, 4, NULL}, {"attention.head_count_kv", INTEGER, 3, NULL}},
         KVQ_UNSUPPORTED,
         "4 query heads do not divide among 3 KV heads"},
        {"llama",
         {{"attention.key_length", INTEGER, 112, NULL}, {"attention.value_length", INTEGER, 112, NULL}},
         KVQ_UNSUPPORTED,
         "head size 112 is not supported (16 x 2^k, 12 x 2^k or 20 x 2^k, a multiple of 16)"},
        {"llama",
         {{"rope.dimension_count", INTEGER, 34, NULL}},
         KVQ_UNSUPPORTED,
         "RoPE over 34 of 32 channels is not supported"},
        {"llama",
         {{"rope.dimension_count", INTEGER, 31, NULL}},
         KVQ_UNSUPPORTED,
         "RoPE over 31 of 32 channels is not supported"},
        {"llama", {{"block_count", WITHOUT, 0, NULL}}, KVQ_BAD_FILE, "key 'llama.block_count' is missing"},
        {"llama",
         {{"block_count", INTEGER, 1025, NULL}},
         KVQ_UNSUPPORTED,
         "key 'llama.block_count' is 1025, allowed is 1 to 1024"},
        {"llama", {{"block_count", TEXT, 0, "two"}}, KVQ_BAD_FILE, "key 'llama.block_count' is missing"},
        {"gemma3",
         {{"attention.sliding_window", WITHOUT, 0, NULL}},
         KVQ_BAD_FILE,
         "key 'gemma3.attention.sliding_window' is missing"},
        {"gemma3",
         {{"final_logit_softcapping", REAL, -1, NULL}},
         KVQ_UNSUPPORTED,
         "key 'gemma3.final_logit_softcapping' is -1, allowed is above 0 to 1e+06"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvq_hparams p = {.n_layers = -7};
        kvq_error err = {0};
        char expected[KVQ_ERROR_BYTES];
        kvq_status status = read_model(cases[i].arch, cases[i].keys, 2, &p, &err);
        snprintf(expected, sizeof expected, "'%s': %s", file.path, cases[i].text);
        if (status != cases[i].status || err.code != status)
            fail_msg("%s: status %s, text '%s'", cases[i].text, kvq_status_name(status), err.text);
        assert_string_equal(err.text, expected);
        assert_int_equal(p.n_layers, -7); /* untouched */
    }
}

static void a_file_of_no_experts_is_none_of_experts(void **state) {
    (void)state;
    (void)must_read("llama", (const key[KEYS_MAX]){{"expert_count", INTEGER, 0, NULL}});
}

static void the_vocabulary_is_as_long_as_the_embedding(void **state) {
    (void)state;
    static const struct {
        int dims;
        const char *text;
    } cases[] = {{0, "tensor 'token_embd.weight' is missing"},
                 {1, "tensor 'token_embd.weight' has 1 rows, allowed is 1 to 4194304"}};
    for (size_t i = 0; i < 2; i++) {
        kvq_hparams p;
        kvq_error err = {0};
        assert_int_equal(read_model("llama", (const key[KEYS_MAX]){{0}}, cases[i].dims, &p, &err), KVQ_BAD_FILE);
        if (!strstr(err.text, cases[i].text)) fail_msg("'%s' is not '%s'", err.text, cases[i].text);
    }
}

int main(void) {
    start_file(&file);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(sizes_are_those_of_the_file, tear_down),
        cmocka_unit_test_teardown(what_a_file_does_not_say_follows_from_the_rest, tear_down),
        cmocka_unit_test_teardown(linear_rope_scaling_divides_positions_by_its_factor, tear_down),
        cmocka_unit_test_teardown(windowed_layers_have_a_rope_base_of_their_own, tear_down),
        cmocka_unit_test_teardown(every_sixth_layer_of_gemma3_attends_to_all, tear_down),
        cmocka_unit_test_teardown(softcaps_are_read_and_off_without_a_key, tear_down),
        cmocka_unit_test_teardown(the_attention_scale_is_of_the_head_but_for_gemma3_of_62_layers, tear_down),
        cmocka_unit_test_teardown(what_is_not_built_is_refused_by_name, tear_down),
        cmocka_unit_test_teardown(a_file_of_no_experts_is_none_of_experts, tear_down),
        cmocka_unit_test_teardown(the_vocabulary_is_as_long_as_the_embedding, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
