/* model.c: binds a GGUF file's tensors to an architecture and repacks them into one arena, tensor by tensor.
 * Called by engine.c. The same walk counts bytes (for the memory plan) and then loads, so plan and load cannot
 * disagree. */
#include "model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_ALIGNMENT 256             /* what GPUs ask of a tensor's beginning; CPUs ask 64 */
#define STAGING_BYTES ((size_t)8 << 20) /* of a tensor on its way to a machine with memory of its own */

typedef struct loader {
    const kvq_gguf *g;
    kvq_model *model;
    uint8_t *base; /* NULL: only count */
    uint64_t used_bytes, total_bytes;
    uint8_t *staging; /* where the machine's memory is not the host's: bytes before they are copied; else NULL */
    size_t staging_bytes;
    kvq_progress_fn *progress;
    void *progress_user;
    kvq_error *err;
    kvq_status status; /* the first failure; later steps do nothing */
} loader;

static uint8_t *arena_take(loader *o, uint64_t n_bytes) {
    uint8_t *p = o->base ? o->base + o->used_bytes : NULL;
    o->used_bytes += (n_bytes + ARENA_ALIGNMENT - 1) & ~(uint64_t)(ARENA_ALIGNMENT - 1);
    return p;
}

static void report(loader *o) {
    if (o->status || !o->base || !o->progress) return;
    if (o->progress(o->progress_user, (double)o->used_bytes / (double)o->total_bytes))
        o->status = kvq_fail(o->err, KVQ_CANCELLED, "loading '%s' was cancelled", kvq_gguf_path(o->g));
}

/* The tensor if it has this shape (n_rows 0: a vector of n_in). NULL when absent or after a failure. */
static const kvq_gguf_tensor *find_tensor(loader *o, const char *name, bool required, int n_in, int n_rows) {
    if (o->status) return NULL;
    const kvq_gguf_tensor *t = kvq_gguf_tensor_find(o->g, name);
    if (!t) {
        if (required)
            o->status = kvq_fail(o->err, KVQ_BAD_FILE, "'%s': tensor '%s' is missing", kvq_gguf_path(o->g), name);
        return NULL;
    }
    uint64_t want_rows = n_rows ? (uint64_t)n_rows : 1;
    if (t->dims[0] != (uint64_t)n_in || t->dims[1] != want_rows || t->dims[2] != 1 || t->dims[3] != 1) {
        o->status = kvq_fail(o->err, KVQ_BAD_FILE,
                             "'%s': tensor '%s' is %" PRIu64 " x %" PRIu64 ", the metadata says %d x %" PRIu64,
                             kvq_gguf_path(o->g), name, t->dims[0], t->dims[1], n_in, want_rows);
        return NULL;
    }
    return t;
}

/* Makes room for n bytes on their way into the machine's memory at `to`: that memory itself where the host can write to
 * it. NULL after a failure. */
static void *stage(loader *o, void *to, size_t n_bytes) {
    if (o->model->machine->info.is_host) return to;
    if (n_bytes > o->staging_bytes) {
        uint8_t *larger = realloc(o->staging, n_bytes);
        if (!larger) {
            o->status = kvq_fail(o->err, KVQ_NO_MEMORY, "'%s': no memory for %zu bytes of a tensor on its way",
                                 kvq_gguf_path(o->g), n_bytes);
            return NULL;
        }
        o->staging = larger;
        o->staging_bytes = n_bytes;
    }
    return o->staging;
}

/* What was staged goes to the machine. */
static void unstage(loader *o, void *to, const void *staged, size_t n_bytes) {
    const kvq_machine *m = o->model->machine;
    if (staged && staged != to) o->status = m->backend->copy(m->device, to, staged, n_bytes, o->err);
}

/* The values of a vector, whose size was looked at, as floats. Its pages go back as a matrix's do: the kernel may have
 * mapped 2 MB for a few KB. */
static void read_floats(const kvq_gguf *g, const kvq_gguf_tensor *t, float *to) {
    kvq_format_to_float(t->format, t->data, to, (size_t)t->dims[0]);
    kvq_gguf_drop(g, t);
}

/* A vector (norm weight, RoPE factors) as floats; NULL when absent, while counting and after a failure. */
static const float *load_vector(loader *o, const char *name, bool required, int n) {
    const kvq_gguf_tensor *t = find_tensor(o, name, required, n, 0);
    if (!t) return NULL;
    float *out = (float *)arena_take(o, (uint64_t)n * sizeof(float));
    if (!out) return NULL;
    float *staged = stage(o, out, (size_t)n * sizeof(float));
    if (!staged) return NULL;
    read_floats(o->g, t, staged);
    unstage(o, out, staged, (size_t)n * sizeof(float));
    return out;
}

/* The tensor's rows into the part's tiles, as many tiles at a time as there is staging for. */
static void repack(loader *o, const kvq_matrix_part *part, const kvq_gguf_tensor *t, int n_in) {
    const kvq_format_info *info = kvq_format_get(t->format);
    size_t row_bytes = (size_t)(n_in / info->block_len) * (size_t)info->block_bytes;
    size_t n_tiles = o->model->machine->info.is_host ? (size_t)part->n_rows : STAGING_BYTES / part->tile_bytes;
    if (n_tiles < 1) n_tiles = 1;
    size_t most = n_tiles * KVQ_TILE_ROWS;
    for (size_t row = 0; row < (size_t)part->n_rows && !o->status; row += most) {
        size_t left = (size_t)part->n_rows - row, n_rows = left < most ? left : most;
        size_t bytes = (n_rows + KVQ_TILE_ROWS - 1) / KVQ_TILE_ROWS * part->tile_bytes;
        uint8_t *to = part->data + row / KVQ_TILE_ROWS * part->tile_bytes;
        kvq_matrix_part tiles = *part;
        tiles.data = stage(o, to, bytes);
        if (!tiles.data) return;
        kvq_matrix_repack(&tiles, t->format, (const uint8_t *)t->data + row * row_bytes, (int)n_rows, n_in);
        unstage(o, to, tiles.data, bytes);
    }
}

static bool same_layout(const kvq_layout *a, const kvq_layout *b) {
    return a->kind == b->kind && a->bits == b->bits && a->group == b->group && a->zero == b->zero &&
           a->has_min == b->has_min && a->scale_type == b->scale_type;
}

/* A tensor's part becomes rows of the one before it where it has the same layout and lies right behind it: keys and
 * values are small, and a backend's launch, or a worker's share, is then made of all of them. */
static void add_part(kvq_matrix *m, const kvq_matrix_part *part) {
    kvq_matrix_part *last = m->n_parts > 0 ? &m->parts[m->n_parts - 1] : NULL;
    size_t last_bytes = last ? (size_t)(last->n_rows / KVQ_TILE_ROWS) * last->tile_bytes : 0;
    if (last && same_layout(&last->layout, &part->layout) && last->n_rows % KVQ_TILE_ROWS == 0 &&
        last_bytes % ARENA_ALIGNMENT == 0)
        last->n_rows += part->n_rows;
    else
        m->parts[m->n_parts++] = *part;
    m->n_out += part->n_rows;
}

/* Appends one tensor's rows to a matrix. */
static void load_part(loader *o, kvq_matrix *m, const char *name, int n_in, int n_rows) {
    const kvq_gguf_tensor *t = find_tensor(o, name, true, n_in, n_rows);
    if (!t) return;
    kvq_matrix_part part = {.layout = kvq_layout_of(t->format), .row_begin = m->n_out, .n_rows = n_rows};
    size_t bytes = kvq_matrix_part_bytes(&part.layout, n_rows, n_in, &part.tile_bytes);
    if (bytes == 0) {
        o->status =
            kvq_fail(o->err, KVQ_UNSUPPORTED, "'%s': tensor '%s' has rows of %d, which %s cannot be multiplied in",
                     kvq_gguf_path(o->g), name, n_in, kvq_format_get(t->format)->name);
        return;
    }
    part.data = arena_take(o, bytes);
    m->n_in = n_in;
    add_part(m, &part);
    o->model->n_parameters += (uint64_t)n_in * (uint64_t)n_rows;
    if (!part.data) return;
    repack(o, &part, t, n_in);
    kvq_gguf_drop(o->g, t);
    report(o);
}

typedef struct part_name {
    const char *weight, *bias;
    int n_rows;
} part_name;

/* A fused matrix: the rows of up to KVQ_MATRIX_PARTS tensors of one layer, one behind the other, and their biases (all
 * of them or none: a missing bias among present ones counts as zeros). */
static void load_matrix(loader *o, int l, kvq_matrix *m, const float **ret_bias, int n_in, const part_name *names,
                        int n) {
    char name[96];
    bool has_bias = false;
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "blk.%d.%s", l, names[i].weight);
        load_part(o, m, name, n_in, names[i].n_rows);
        snprintf(name, sizeof name, "blk.%d.%s", l, names[i].bias);
        has_bias = has_bias || kvq_gguf_tensor_find(o->g, name);
    }
    *ret_bias = NULL;
    if (!has_bias || o->status) return;
    size_t bias_bytes = (size_t)m->n_out * sizeof(float);
    float *bias = (float *)arena_take(o, bias_bytes), *staged = bias ? stage(o, bias, bias_bytes) : NULL;
    if (staged) memset(staged, 0, bias_bytes);
    for (int i = 0, row = 0; i < n; row += names[i++].n_rows) {
        snprintf(name, sizeof name, "blk.%d.%s", l, names[i].bias);
        const kvq_gguf_tensor *t = find_tensor(o, name, false, names[i].n_rows, 0);
        if (t && staged) read_floats(o->g, t, staged + row);
    }
    if (!o->status) unstage(o, bias, staged, bias_bytes);
    *ret_bias = bias;
}

static const float *load_layer_vector(loader *o, int l, const char *suffix, bool wanted, int n) {
    if (!wanted) return NULL;
    char name[96];
    snprintf(name, sizeof name, "blk.%d.%s", l, suffix);
    return load_vector(o, name, true, n);
}

static void load_layer(loader *o, int l) {
    const kvq_hparams *p = &o->model->hparams;
    kvq_model_layer *w = &o->model->layers[l];
    int q_dim = p->n_heads * p->head_dim, kv_dim = p->n_kv_heads * p->head_dim;
    bool local = kvq_hparams_is_local(p, l);
    *w = (kvq_model_layer){.window = local ? p->window : 0, .rope = local ? 1 : 0};

    w->attn_norm = load_layer_vector(o, l, "attn_norm.weight", true, p->hidden_dim);
    w->q_norm = load_layer_vector(o, l, "attn_q_norm.weight", p->arch->qk_norm, p->head_dim);
    w->k_norm = load_layer_vector(o, l, "attn_k_norm.weight", p->arch->qk_norm, p->head_dim);
    w->post_attn_norm = load_layer_vector(o, l, "post_attention_norm.weight", p->arch->post_norms, p->hidden_dim);
    w->ffn_norm = load_layer_vector(o, l, "ffn_norm.weight", true, p->hidden_dim);
    w->post_ffn_norm = load_layer_vector(o, l, "post_ffw_norm.weight", p->arch->post_norms, p->hidden_dim);

    load_matrix(o, l, &w->qkv, &w->qkv_bias, p->hidden_dim,
                (part_name[]){{"attn_q.weight", "attn_q.bias", q_dim},
                              {"attn_k.weight", "attn_k.bias", kv_dim},
                              {"attn_v.weight", "attn_v.bias", kv_dim}},
                3);
    load_matrix(o, l, &w->attn_out, &w->attn_out_bias, q_dim,
                (part_name[]){{"attn_output.weight", "attn_output.bias", p->hidden_dim}}, 1);
    load_matrix(
        o, l, &w->gate_up, &w->gate_up_bias, p->hidden_dim,
        (part_name[]){{"ffn_gate.weight", "ffn_gate.bias", p->ffn_dim}, {"ffn_up.weight", "ffn_up.bias", p->ffn_dim}},
        2);
    load_matrix(o, l, &w->down, &w->down_bias, p->ffn_dim,
                (part_name[]){{"ffn_down.weight", "ffn_down.bias", p->hidden_dim}}, 1);
}

/* Llama 3's divisors of the RoPE frequencies, for the host, which plans with them, and for the operators. */
static void load_rope_factors(loader *o) {
    kvq_model *m = o->model;
    kvq_rope *rope = &m->hparams.rope[0];
    int n = rope->n_rot / 2;
    const kvq_gguf_tensor *t = find_tensor(o, "rope_freqs.weight", false, n, 0);
    if (t && !m->rope_factors) m->rope_factors = malloc((size_t)n * sizeof(float));
    if (t && !m->rope_factors)
        o->status = kvq_fail(o->err, KVQ_NO_MEMORY, "'%s': no memory for its RoPE factors", kvq_gguf_path(o->g));
    if (t && !o->status) {
        read_floats(o->g, t, m->rope_factors);
        rope->factors = m->rope_factors;
    }
    memcpy(m->rope, m->hparams.rope, sizeof m->rope);
    m->rope[0].factors = load_vector(o, "rope_freqs.weight", false, n);
}

static void load_all(loader *o) {
    kvq_model *m = o->model;
    kvq_hparams *p = &m->hparams;
    m->n_parameters = 0;
    memset(&m->embedding, 0, sizeof m->embedding);
    memset(&m->output, 0, sizeof m->output);

    load_part(o, &m->embedding, "token_embd.weight", p->hidden_dim, p->vocab_size);
    for (int l = 0; l < p->n_layers && !o->status; l++) load_layer(o, l);
    m->output_norm = load_vector(o, "output_norm.weight", true, p->hidden_dim);
    if (kvq_gguf_tensor_find(o->g, "output.weight"))
        load_part(o, &m->output, "output.weight", p->hidden_dim, p->vocab_size);
    else
        m->output = m->embedding; /* tied */
    load_rope_factors(o);
}

kvq_status kvq_model_init(kvq_model *ret_model, const kvq_gguf *g, const kvq_machine *machine,
                          kvq_progress_fn *progress, void *progress_user, kvq_error *err) {
    kvq_model m = {.machine = machine};
    kvq_status status = kvq_hparams_read(g, &m.hparams, err);
    if (status) return status;
    m.layers = calloc((size_t)m.hparams.n_layers, sizeof *m.layers);
    if (!m.layers) return kvq_fail(err, KVQ_NO_MEMORY, "'%s': no memory for its layers", kvq_gguf_path(g));

    loader o = {.g = g, .model = &m, .progress = progress, .progress_user = progress_user, .err = err};
    load_all(&o);
    m.weight_bytes = o.used_bytes;
    if (!o.status && machine)
        o.status = kvq_machine_take(machine, KVQ_MEMORY_DEVICE, m.weight_bytes, false, "weights", &m.arena, err);
    if (!o.status && machine) {
        o.base = m.arena;
        o.total_bytes = o.used_bytes;
        o.used_bytes = 0;
        load_all(&o);
    }
    free(o.staging);
    if (o.status) {
        kvq_model_done(&m);
        return o.status;
    }
    *ret_model = m;
    return KVQ_OK;
}

void kvq_model_done(kvq_model *m) {
    if (!m) return;
    if (m->machine) kvq_machine_give(m->machine, KVQ_MEMORY_DEVICE, m->arena, m->weight_bytes);
    free(m->rope_factors);
    free(m->layers);
    *m = (kvq_model){0};
}

bool kvq_model_k_bias(const kvq_gguf *g, const kvq_hparams *p, int l, float *out) {
    char name[96];
    snprintf(name, sizeof name, "blk.%d.attn_k.bias", l);
    const kvq_gguf_tensor *t = kvq_gguf_tensor_find(g, name);
    uint64_t n = (uint64_t)p->n_kv_heads * (uint64_t)p->head_dim;
    if (!t || p->arch->qk_norm || t->n_dims != 1 || t->dims[0] != n) return false;
    read_floats(g, t, out);
    return true;
}
