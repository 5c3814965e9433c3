/* arch.c: THE architecture table and the reading of a model's sizes from GGUF metadata.
 * Called by model.c and plan.c. Every number is checked here, so that the rest of the engine can trust kvq_hparams. */
#include "arch.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* clang-format off */
static const kvq_arch archs[] = {
    { .name = "llama",  .activation = KVQ_ACT_SILU },
    { .name = "qwen2",  .activation = KVQ_ACT_SILU,      .rope_neox = true },
    { .name = "qwen3",  .activation = KVQ_ACT_SILU,      .rope_neox = true, .qk_norm = true },
    { .name = "gemma3", .activation = KVQ_ACT_GELU_TANH, .rope_neox = true, .qk_norm = true, .post_norms = true,
      .scaled_embedding = true, .window_pattern = 6, .local_freq_base = 10000.0, .hidden_scale_layers = 62 },
};
/* clang-format on */

static const kvq_arch *find_arch(kvq_text name) {
    for (size_t i = 0; i < sizeof archs / sizeof archs[0]; i++)
        if (strlen(archs[i].name) == name.n_bytes && memcmp(archs[i].name, name.bytes, name.n_bytes) == 0)
            return &archs[i];
    return NULL;
}

static void list_archs(char *out, size_t n) {
    size_t used = 0;
    for (size_t i = 0; i < sizeof archs / sizeof archs[0] && used < n; i++)
        used += (size_t)snprintf(out + used, n - used, "%s%s", i ? ", " : "", archs[i].name);
}

/* One metadata key "<arch>.<suffix>", with the file's name at hand for errors. */
typedef struct reader {
    const kvq_gguf *g;
    const char *arch;
    kvq_error *err;
    kvq_status status; /* the first failure; later reads do nothing */
} reader;

static void key_name(const reader *r, const char *suffix, char *out, size_t n) {
    snprintf(out, n, "%s.%s", r->arch, suffix);
}

/* An integer in [low, high]; `fallback` when the key is absent, or an error when fallback is negative. */
static int read_int(reader *r, const char *suffix, int low, int high, int fallback) {
    if (r->status) return low;
    char key[128];
    key_name(r, suffix, key, sizeof key);
    uint64_t v;
    if (!kvq_gguf_u64(r->g, key, &v)) {
        kvq_gguf_type type;
        uint64_t n;
        if (kvq_gguf_array(r->g, key, &type, &n))
            r->status = kvq_fail(r->err, KVQ_UNSUPPORTED,
                                 "'%s': key '%s' differs from layer to layer, which this build does not do",
                                 kvq_gguf_path(r->g), key);
        else if (fallback < 0)
            r->status = kvq_fail(r->err, KVQ_BAD_FILE, "'%s': key '%s' is missing", kvq_gguf_path(r->g), key);
        return fallback < 0 ? low : fallback;
    }
    if (v < (uint64_t)low || v > (uint64_t)high) {
        r->status = kvq_fail(r->err, KVQ_UNSUPPORTED, "'%s': key '%s' is %" PRIu64 ", allowed is %d to %d",
                             kvq_gguf_path(r->g), key, v, low, high);
        return low;
    }
    return (int)v;
}

/* A number in (0, high]; `fallback` when absent. */
static double read_positive(reader *r, const char *suffix, double high, double fallback) {
    if (r->status) return fallback;
    char key[128];
    key_name(r, suffix, key, sizeof key);
    double v;
    if (!kvq_gguf_f64(r->g, key, &v)) return fallback;
    if (!(v > 0 && v <= high)) {
        r->status = kvq_fail(r->err, KVQ_UNSUPPORTED, "'%s': key '%s' is %g, allowed is above 0 to %g",
                             kvq_gguf_path(r->g), key, v, high);
        return fallback;
    }
    return v;
}

/* Linear scaling is a position scale; the others (yarn, longrope) change angle and magnitude and are not built. */
static void read_rope_scaling(reader *r, kvq_hparams *p) {
    if (r->status) return;
    char key[128];
    key_name(r, "rope.scaling.type", key, sizeof key);
    kvq_text type = {"none", 4};
    bool has_type = kvq_gguf_text(r->g, key, &type);
    bool is_none = type.n_bytes == 4 && memcmp(type.bytes, "none", 4) == 0;
    bool is_linear = type.n_bytes == 6 && memcmp(type.bytes, "linear", 6) == 0;
    if (has_type && !is_none && !is_linear) {
        char shown[KVQ_SHOWN_BYTES];
        r->status = kvq_fail(r->err, KVQ_UNSUPPORTED, "'%s': RoPE scaling '%s' is not supported (none, linear)",
                             kvq_gguf_path(r->g), kvq_text_show(type, shown));
        return;
    }
    if (has_type && is_none) return;
    /* older files carry the factor without a type, or under the older name: both mean linear */
    double factor = read_positive(r, "rope.scaling.factor", 1e6, read_positive(r, "rope.scale_linear", 1e6, 1.0));
    p->rope[0].scale = 1.0 / factor;
}

/* The vocabulary is as long as the embedding has rows. */
static void read_vocab_size(reader *r, kvq_hparams *p) {
    if (r->status) return;
    const kvq_gguf_tensor *t = kvq_gguf_tensor_find(r->g, "token_embd.weight");
    if (!t)
        r->status = kvq_fail(r->err, KVQ_BAD_FILE, "'%s': tensor 'token_embd.weight' is missing", kvq_gguf_path(r->g));
    else if (t->n_dims != 2 || t->dims[1] < 1 || t->dims[1] > 1 << 22)
        r->status = kvq_fail(r->err, KVQ_BAD_FILE,
                             "'%s': tensor 'token_embd.weight' has %" PRIu64 " rows, allowed is 1 to 4194304",
                             kvq_gguf_path(r->g), t->dims[1]);
    else
        p->vocab_size = (int)t->dims[1];
}

static void check_shapes(reader *r, const kvq_hparams *p) {
    if (r->status) return;
    const char *path = kvq_gguf_path(r->g);
    if (p->n_heads % p->n_kv_heads)
        r->status = kvq_fail(r->err, KVQ_UNSUPPORTED, "'%s': %d query heads do not divide among %d KV heads", path,
                             p->n_heads, p->n_kv_heads);
    else if (p->head_dim % 16 || !kvq_hadamard_fits(p->head_dim))
        r->status = kvq_fail(r->err, KVQ_UNSUPPORTED,
                             "'%s': head size %d is not supported (16 x 2^k, 12 x 2^k or 20 x 2^k, a multiple of 16)",
                             path, p->head_dim);
    else if (p->rope[0].n_rot % 2 || p->rope[0].n_rot > p->head_dim)
        r->status = kvq_fail(r->err, KVQ_UNSUPPORTED, "'%s': RoPE over %d of %d channels is not supported", path,
                             p->rope[0].n_rot, p->head_dim);
}

kvq_status kvq_hparams_read(const kvq_gguf *g, kvq_hparams *ret, kvq_error *err) {
    kvq_text name;
    if (!kvq_gguf_text(g, "general.architecture", &name))
        return kvq_fail(err, KVQ_BAD_FILE, "'%s': key 'general.architecture' is missing", kvq_gguf_path(g));
    const kvq_arch *arch = find_arch(name);
    if (!arch) {
        char known[128], shown[KVQ_SHOWN_BYTES];
        list_archs(known, sizeof known);
        return kvq_fail(err, KVQ_UNSUPPORTED, "'%s': architecture '%s' is not supported (%s)", kvq_gguf_path(g),
                        kvq_text_show(name, shown), known);
    }

    reader r = {.g = g, .arch = arch->name, .err = err};
    kvq_hparams p = {.arch = arch};
    p.n_layers = read_int(&r, "block_count", 1, 1024, -1);
    p.hidden_dim = read_int(&r, "embedding_length", 32, 65536, -1);
    p.ffn_dim = read_int(&r, "feed_forward_length", 32, 1 << 20, -1);
    p.n_heads = read_int(&r, "attention.head_count", 1, 1024, -1);
    p.n_kv_heads = read_int(&r, "attention.head_count_kv", 1, 1024, p.n_heads);
    p.head_dim = read_int(&r, "attention.key_length", 16, 512, r.status ? 16 : p.hidden_dim / p.n_heads);
    int value_dim = read_int(&r, "attention.value_length", 16, 512, p.head_dim);
    p.context_len = read_int(&r, "context_length", 1, 1 << 24, -1);
    p.norm_eps = (float)read_positive(&r, "attention.layer_norm_rms_epsilon", 1.0, 1e-5);
    if (!r.status && value_dim != p.head_dim)
        r.status = kvq_fail(err, KVQ_UNSUPPORTED, "'%s': keys of %d and values of %d channels are not supported",
                            kvq_gguf_path(g), p.head_dim, value_dim);
    if (!r.status && read_int(&r, "expert_count", 0, 1 << 20, 0) > 0)
        r.status = kvq_fail(err, KVQ_UNSUPPORTED, "'%s': mixtures of experts are not supported", kvq_gguf_path(g));

    p.rope[0] = (kvq_rope){.neox = arch->rope_neox,
                           .n_rot = read_int(&r, "rope.dimension_count", 2, 512, p.head_dim),
                           .freq_base = read_positive(&r, "rope.freq_base", 1e12, 10000.0),
                           .scale = 1.0};
    p.rope[1] = p.rope[0];
    read_rope_scaling(&r, &p);
    if (arch->window_pattern) {
        p.window = read_int(&r, "attention.sliding_window", 1, 1 << 24, -1);
        p.rope[1].freq_base = read_positive(&r, "rope.freq_base_swa", 1e12, arch->local_freq_base);
    }
    p.attention_softcap = (float)read_positive(&r, "attn_logit_softcapping", 1e6, 0.0);
    p.logit_softcap = (float)read_positive(&r, "final_logit_softcapping", 1e6, 0.0);
    p.attention_scale = (float)(1.0 / sqrt(arch->hidden_scale_layers && arch->hidden_scale_layers == p.n_layers
                                               ? (double)p.hidden_dim / p.n_heads
                                               : (double)p.head_dim));
    read_vocab_size(&r, &p);
    check_shapes(&r, &p);
    if (r.status) return r.status;
    *ret = p;
    return KVQ_OK;
}

bool kvq_hparams_is_local(const kvq_hparams *p, int l) {
    return p->window && (l + 1) % p->arch->window_pattern != 0;
}
