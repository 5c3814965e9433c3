/* tiny_model.c: a GGUF writer for tests. Called by tests/engine/test_*.c. Weights are scaled so that scores and logits
 * spread (with flat ones every mask and every rope gives the same tokens). */
#include "tiny_model.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "kernels/formats.h"

/* clang-format off */
const tiny_model tiny_models[TINY_MODELS] = {
    [TINY_LLAMA]  = {.name = "llama",  .arch = "llama",  .n_layers = 2, .n_heads = 4, .coded = true, .rope_factors = true},
    [TINY_QWEN2]  = {.name = "qwen2",  .arch = "qwen2",  .n_layers = 3, .n_heads = 2, .qkv_bias = true}, /* llama.cpp wants n_heads x head_dim = hidden */
    [TINY_GEMMA3] = {.name = "gemma3", .arch = "gemma3", .n_layers = 7, .n_heads = 4, .window = 96, .qk_norm = true, .post_norms = true,
                     .rope_linear = 8, .logit_softcap = 8},
    [TINY_QWEN3]  = {.name = "qwen3",  .arch = "qwen3",  .n_layers = 2, .n_heads = 4, .qk_norm = true},
};
/* clang-format on */

enum {
    TENSORS_MAX = 128,
    ALIGNMENT = 32,
    TYPE_U32 = 4,
    TYPE_I32 = 5,
    TYPE_F32 = 6,
    TYPE_BOOL = 7,
    TYPE_STRING = 8,
    TYPE_ARRAY = 9
};

typedef struct tensor {
    char name[48];
    int n_in, n_rows;            /* n_rows 0: a vector */
    float centre, spread, slope; /* slope: from one value to the next */
    bool coded;
} tensor;

typedef struct writer {
    FILE *out;
    const tiny_model *model;
    tensor tensors[TENSORS_MAX];
    int n_tensors;
    uint64_t n_keys, random;
} writer;

static int ffn_of(const tiny_model *m) {
    return m->ffn ? m->ffn : TINY_FFN;
}

/* ---- numbers and text ----------------------------------------------------------------------------------------------
 */

static void put(writer *w, const void *bytes, size_t n) {
    (void)fwrite(bytes, 1, n, w->out); /* ferror is asked at the end */
}
static void put_u32(writer *w, uint32_t v) {
    put(w, &v, sizeof v);
}
static void put_u64(writer *w, uint64_t v) {
    put(w, &v, sizeof v);
}

static void put_string(writer *w, const char *text, size_t n) {
    put_u64(w, n);
    put(w, text, n);
}

static void put_key(writer *w, const char *prefix, const char *name, uint32_t type) {
    char key[96];
    snprintf(key, sizeof key, "%s%s%s", prefix, prefix[0] ? "." : "", name);
    put_string(w, key, strlen(key));
    put_u32(w, type);
    w->n_keys++;
}

static void put_key_u32(writer *w, const char *prefix, const char *name, uint32_t value) {
    put_key(w, prefix, name, TYPE_U32);
    put_u32(w, value);
}

static void put_key_f32(writer *w, const char *prefix, const char *name, float value) {
    put_key(w, prefix, name, TYPE_F32);
    put(w, &value, sizeof value);
}

static void put_key_text(writer *w, const char *name, const char *value) {
    put_key(w, "", name, TYPE_STRING);
    put_string(w, value, strlen(value));
}

/* Roughly normal: the sum of four even draws, scaled to deviation 1. */
static float normal(writer *w) {
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        w->random = w->random * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(w->random >> 40) / 16777216.0f - 0.5f;
    }
    return sum * 1.7320508f;
}

/* ---- metadata ------------------------------------------------------------------------------------------------------
 */

static const char chat_template[] = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
                                    "{% if add_generation_prompt %}<assistant>{% endif %}";

/* GPT-2's printable stand-in for a byte, as UTF-8. */
static size_t byte_token(int byte, char out[4]) {
    static const int ranges[][2] = {{0x21, 0x7e}, {0xa1, 0xac}, {0xae, 0xff}};
    int code = -1, others = 0;
    for (int b = 0; b <= byte; b++) {
        bool printable = false;
        for (int i = 0; i < 3; i++) printable |= b >= ranges[i][0] && b <= ranges[i][1];
        code = printable ? b : 256 + others;
        others += !printable;
    }
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xC0 | (code >> 6));
    out[1] = (char)(0x80 | (code & 0x3F));
    return 2;
}

static void put_vocabulary(writer *w) {
    static const char *const more[] = {"th", "<bos>", "<eos>", "<other>"};
    char token[4];
    put_key_text(w, "tokenizer.ggml.model", "gpt2");
    put_key_text(w, "tokenizer.ggml.pre", "gpt-2");
    put_key_text(w, "tokenizer.chat_template", chat_template);
    put_key(w, "", "tokenizer.ggml.tokens", TYPE_ARRAY);
    put_u32(w, TYPE_STRING);
    put_u64(w, TINY_VOCAB);
    for (int b = 0; b < 256; b++) put_string(w, token, byte_token(b, token));
    for (int i = 0; i < 4; i++) put_string(w, more[i], strlen(more[i]));
    put_key(w, "", "tokenizer.ggml.token_type", TYPE_ARRAY);
    put_u32(w, TYPE_I32);
    put_u64(w, TINY_VOCAB);
    for (int i = 0; i < TINY_VOCAB; i++) put_u32(w, i < TINY_BOS ? 1 : 3); /* normal, control */
    put_key(w, "", "tokenizer.ggml.merges", TYPE_ARRAY);
    put_u32(w, TYPE_STRING);
    put_u64(w, 1);
    put_string(w, "t h", 3);
    put_key_u32(w, "tokenizer.ggml", "bos_token_id", TINY_BOS);
    put_key_u32(w, "tokenizer.ggml", "eos_token_id", TINY_EOS);
}

static void put_metadata(writer *w) {
    const char *arch = w->model->arch;
    put_key_text(w, "general.architecture", arch);
    put_key_text(w, "general.name", w->model->name);
    put_key_u32(w, arch, "block_count", (uint32_t)w->model->n_layers);
    put_key_u32(w, arch, "context_length", TINY_CONTEXT);
    put_key_u32(w, arch, "embedding_length", TINY_HIDDEN);
    put_key_u32(w, arch, "feed_forward_length", (uint32_t)ffn_of(w->model));
    put_key_u32(w, arch, "attention.head_count", (uint32_t)w->model->n_heads);
    put_key_u32(w, arch, "attention.head_count_kv", TINY_KV_HEADS);
    put_key_u32(w, arch, "attention.key_length", TINY_HEAD_DIM);
    put_key_u32(w, arch, "attention.value_length", TINY_HEAD_DIM);
    put_key_f32(w, arch, "attention.layer_norm_rms_epsilon", 1e-5f);
    put_key_f32(w, arch, "rope.freq_base", 10000.0f);
    if (w->model->window) put_key_u32(w, arch, "attention.sliding_window", (uint32_t)w->model->window);
    if (w->model->rope_linear > 0) put_key_f32(w, arch, "rope.scaling.factor", w->model->rope_linear);
    if (w->model->logit_softcap > 0) put_key_f32(w, arch, "final_logit_softcapping", w->model->logit_softcap);
    put_vocabulary(w);
}

/* ---- tensors -------------------------------------------------------------------------------------------------------
 */

/* A product with an input of deviation 1 has deviation `spread`. */
static void add_matrix(writer *w, const char *name, int n_in, int n_rows, float spread) {
    tensor *t = &w->tensors[w->n_tensors++];
    *t = (tensor){.n_in = n_in, .n_rows = n_rows, .spread = spread / sqrtf((float)n_in), .coded = w->model->coded};
    snprintf(t->name, sizeof t->name, "%s", name);
}

static void add_vector(writer *w, const char *name, int n, float centre, float spread) {
    tensor *t = &w->tensors[w->n_tensors++];
    *t = (tensor){.n_in = n, .centre = centre, .spread = spread};
    snprintf(t->name, sizeof t->name, "%s", name);
}

/* As Llama 3's: the angle of a pair is divided by its factor, and slow pairs have larger ones. */
static void add_rope_factors(writer *w) {
    add_vector(w, "rope_freqs.weight", TINY_HEAD_DIM / 2, 1, 0);
    w->tensors[w->n_tensors - 1].slope = 0.5f;
}

static void add_layer(writer *w, int l) {
    const tiny_model *m = w->model;
    const int q = m->n_heads * TINY_HEAD_DIM, kv = TINY_KV_HEADS * TINY_HEAD_DIM;
    char n[48];
    const float spread = m->qk_norm ? 1.0f : 1.4f;
#define NAME(suffix) (snprintf(n, sizeof n, "blk.%d." suffix, l), n)
    add_vector(w, NAME("attn_norm.weight"), TINY_HIDDEN, 1, 0.1f);
    add_matrix(w, NAME("attn_q.weight"), TINY_HIDDEN, q, spread);
    add_matrix(w, NAME("attn_k.weight"), TINY_HIDDEN, kv, spread);
    add_matrix(w, NAME("attn_v.weight"), TINY_HIDDEN, kv, 1);
    add_matrix(w, NAME("attn_output.weight"), q, TINY_HIDDEN, 1);
    if (m->qkv_bias) {
        add_vector(w, NAME("attn_q.bias"), q, 0, 1);
        add_vector(w, NAME("attn_k.bias"), kv, 0, l == 0 ? 8 : 1); /* the first layer's K stays in 8 bits */
        add_vector(w, NAME("attn_v.bias"), kv, 0, 0.3f);
    }
    if (m->qk_norm) {
        add_vector(w, NAME("attn_q_norm.weight"), TINY_HEAD_DIM, 1.4f, 0.2f);
        add_vector(w, NAME("attn_k_norm.weight"), TINY_HEAD_DIM, 1.4f, 0.2f);
    }
    if (m->post_norms) {
        add_vector(w, NAME("post_attention_norm.weight"), TINY_HIDDEN, 1, 0.1f);
        add_vector(w, NAME("post_ffw_norm.weight"), TINY_HIDDEN, 1, 0.1f);
    }
    add_vector(w, NAME("ffn_norm.weight"), TINY_HIDDEN, 1, 0.1f);
    add_matrix(w, NAME("ffn_gate.weight"), TINY_HIDDEN, ffn_of(w->model), 1);
    add_matrix(w, NAME("ffn_up.weight"), TINY_HIDDEN, ffn_of(w->model), 1);
    add_matrix(w, NAME("ffn_down.weight"), ffn_of(w->model), TINY_HIDDEN, 1);
#undef NAME
}

static uint64_t tensor_bytes(const tensor *t) {
    uint64_t n = (uint64_t)t->n_in * (uint64_t)(t->n_rows ? t->n_rows : 1);
    return t->coded ? n / 32 * 34 : n * sizeof(float);
}

static uint64_t aligned(uint64_t n) {
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void put_tensor_infos(writer *w) {
    uint64_t offset = 0;
    for (int i = 0; i < w->n_tensors; i++) {
        const tensor *t = &w->tensors[i];
        put_string(w, t->name, strlen(t->name));
        put_u32(w, t->n_rows ? 2 : 1);
        put_u64(w, (uint64_t)t->n_in);
        if (t->n_rows) put_u64(w, (uint64_t)t->n_rows);
        put_u32(w, kvq_format_get(t->coded ? KVQ_FORMAT_Q8_0 : KVQ_FORMAT_F32)->id);
        put_u64(w, offset);
        offset += aligned(tensor_bytes(t));
    }
}

/* 32 weights: a half and 32 signed codes. */
static void put_coded_block(writer *w, float spread) {
    const uint16_t scale = kvq_float_to_half(spread * 3.5f / 127);
    int8_t codes[32];
    for (int i = 0; i < 32; i++) codes[i] = (int8_t)(normal(w) * 36.0f); /* at most 3.47 deviations: 125 */
    put(w, &scale, sizeof scale);
    put(w, codes, sizeof codes);
}

static void put_padding(writer *w) {
    static const char zeros[ALIGNMENT] = {0};
    long at = ftell(w->out);
    put(w, zeros, (size_t)(aligned((uint64_t)at) - (uint64_t)at));
}

static void put_tensor_data(writer *w, const tensor *t) {
    int n = t->n_in * (t->n_rows ? t->n_rows : 1);
    put_padding(w);
    for (int i = 0; t->coded && i < n / 32; i++) put_coded_block(w, t->spread);
    for (int i = 0; !t->coded && i < n; i++) {
        float value = t->centre + t->slope * (float)i + t->spread * normal(w);
        put(w, &value, sizeof value);
    }
}

/* The count of keys stands before the keys: patched in afterwards. */
static void put_all(writer *w) {
    put(w, "GGUF", 4);
    put_u32(w, 3);
    put_u64(w, (uint64_t)w->n_tensors);
    put_u64(w, 0);
    put_metadata(w);
    put_tensor_infos(w);
    for (int i = 0; i < w->n_tensors; i++) put_tensor_data(w, &w->tensors[i]);
    put_padding(w);
    (void)fseek(w->out, 16, SEEK_SET); /* a failure shows in the file's content, which the engine checks */
    put_u64(w, w->n_keys);
}

bool tiny_model_write(const tiny_model *m, const char *path) {
    writer w = {.model = m, .random = 42, .out = fopen(path, "wb")};
    if (!w.out) return false;
    /* As large as one layer's output would drown the layers where the table is tied; gemma3 multiplies by sqrt(hidden).
     */
    float embedding = m->post_norms ? 1.0f : 0.8f, logits = 3.0f / embedding;
    add_matrix(&w, "token_embd.weight", TINY_HIDDEN, TINY_VOCAB, embedding);
    add_vector(&w, "output_norm.weight", TINY_HIDDEN, logits, 0.1f * logits);
    for (int l = 0; l < m->n_layers; l++) add_layer(&w, l);
    if (m->rope_factors) add_rope_factors(&w);
    put_all(&w);
    bool failed = ferror(w.out) != 0;
    return fclose(w.out) == 0 && !failed;
}
