/* forward.c: THE forward pass, for every architecture and backend: a list of operator calls (kernels/ops.h).
 * Called by engine.c once a step. Differences between models are columns of arch.c's table and tensors that are there
 * or not; differences between machines are behind the operators. */
#include "forward.h"

#include <math.h>
#include <string.h>

/* Logits this close to the largest (nats: a token 400 times less likely) are refined; those below hardly change the
 * distribution. SmolLM2 Q4_1, 652 positions, KL divergence from the float truth: 0.00340 without, 0.00290 with 4,
 * 0.00279 with 6 (3.6 % of the tiles), 0.00273 with 8 (10 %), 0.00269 with all of them. */
#define REFINE_MARGIN 6.0f

#define BUFFER_ALIGNMENT 256 /* what GPUs ask of a tensor's beginning; CPUs ask 64 */

static int max_int(int a, int b) {
    return a > b ? a : b;
}

/* Walks the buffers in order: with base NULL only counts. */
static uint64_t place_buffers(kvq_forward *f, const kvq_hparams *p, uint8_t *base) {
    size_t q_dim = (size_t)p->n_heads * (size_t)p->head_dim, kv_dim = (size_t)p->n_kv_heads * (size_t)p->head_dim;
    size_t rows = (size_t)f->max_rows, logit_rows = (size_t)f->max_logit_rows;
    struct {
        void *buffer; /* the pointer to set, of floats or ints */
        size_t n_rows, n_cols;
    } buffers[] = {
        {&f->x, rows, (size_t)p->hidden_dim},
        {&f->h, rows, (size_t)max_int(p->hidden_dim, p->n_heads * p->head_dim)},
        {&f->qkv, rows, q_dim + 2 * kv_dim},
        {&f->q, rows, q_dim},
        {&f->gate_up, rows, 2 * (size_t)p->ffn_dim},
        {&f->act, rows, (size_t)p->ffn_dim},
        {&f->rope[0], rows, (size_t)p->rope[0].n_rot},
        {&f->rope[1], p->window ? rows : 0, (size_t)p->rope[1].n_rot},
        {&f->picked, logit_rows, (size_t)p->hidden_dim},
        {&f->logits, logit_rows, (size_t)p->vocab_size},
        {&f->ids, logit_rows, 1},
    };
    uint64_t used = 0;
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        void *at = base ? base + used : NULL;
        if (at) memcpy(buffers[i].buffer, &at, sizeof at);
        uint64_t bytes = (uint64_t)buffers[i].n_rows * buffers[i].n_cols * sizeof(float);
        used += (bytes + BUFFER_ALIGNMENT - 1) & ~(uint64_t)(BUFFER_ALIGNMENT - 1);
    }
    return used;
}

uint64_t kvq_forward_bytes(const kvq_hparams *p, int max_rows, int max_logit_rows) {
    kvq_forward f = {.max_rows = max_rows, .max_logit_rows = max_logit_rows};
    return place_buffers(&f, p, NULL);
}

static uint64_t logit_bytes(const kvq_forward *f, int n_rows) {
    return (uint64_t)n_rows * (uint64_t)f->model->hparams.vocab_size * sizeof(float);
}

static uint64_t ids_bytes(int n_rows) {
    return (uint64_t)n_rows * sizeof(int);
}

static uint64_t host_ids_bytes(const kvq_forward *f) {
    return KVQ_BACKEND_FETCHES * ids_bytes(f->max_logit_rows);
}

kvq_status kvq_forward_init(kvq_forward *ret, const kvq_model *model, const kvq_kv *kv, const kvq_machine *machine,
                            kvq_stream *stream, int max_rows, int max_logit_rows, kvq_error *err) {
    kvq_forward f = {.model = model, .kv = kv, .machine = machine, .stream = stream};
    f.ops = machine->backend->ops(machine->device);
    f.max_rows = max_rows;
    f.max_logit_rows = max_logit_rows;
    f.arena_bytes = place_buffers(&f, &model->hparams, NULL);
    /* resident: what is free for the pool is measured after this */
    kvq_status status = kvq_machine_take(machine, KVQ_MEMORY_DEVICE, f.arena_bytes, true, "workspace", &f.arena, err);
    if (status) return status;
    (void)place_buffers(&f, &model->hparams, f.arena);
    f.host_logits = f.logits;
    uint8_t *logits = NULL, *ids = NULL;
    if (!machine->info.is_host) {
        status =
            kvq_machine_take(machine, KVQ_MEMORY_SHARED, logit_bytes(&f, max_logit_rows), true, "logits", &logits, err);
        f.host_logits = (float *)logits;
    }
    if (!status) status = kvq_machine_take(machine, KVQ_MEMORY_SHARED, host_ids_bytes(&f), true, "tokens", &ids, err);
    f.host_ids = (int *)ids;
    if (status)
        kvq_forward_done(&f);
    else
        *ret = f;
    return status;
}

void kvq_forward_done(kvq_forward *f) {
    if (!f || !f->machine) return;
    if (f->host_logits != f->logits)
        kvq_machine_give(f->machine, KVQ_MEMORY_SHARED, (uint8_t *)f->host_logits, logit_bytes(f, f->max_logit_rows));
    kvq_machine_give(f->machine, KVQ_MEMORY_SHARED, (uint8_t *)f->host_ids, host_ids_bytes(f));
    kvq_machine_give(f->machine, KVQ_MEMORY_DEVICE, f->arena, f->arena_bytes);
    *f = (kvq_forward){0};
}

/* out[r] = in[r] W + bias, or added to out when add is set. */
static void linear(kvq_forward *f, float *out, const float *in, const kvq_matrix *w, const float *bias, bool add,
                   int n) {
    f->ops->linear(
        f->stream,
        &(kvq_linear){.out = out, .in = in, .w = w, .bias = bias, .residual = add ? out : NULL, .n_rows = n});
}

static kvq_norm norm_of(const kvq_forward *f, float *out, const float *in, const float *weight, int n) {
    const kvq_hparams *p = &f->model->hparams;
    return (kvq_norm){.out = out, .in = in, .weight = weight, .eps = p->norm_eps, .n_rows = n, .n_cols = p->hidden_dim};
}

/* h = norm(x), for the product that comes next. */
static void norm_for_linear(kvq_forward *f, const float *weight, int n) {
    kvq_norm job = norm_of(f, f->h, f->x, weight, n);
    job.feeds_linear = true;
    f->ops->norm(f->stream, &job);
}

/* x += block(h), with a norm in between where the architecture has one. */
static void project_and_add(kvq_forward *f, const float *in, const kvq_matrix *w, const float *bias,
                            const float *post_norm, int n) {
    if (!post_norm) {
        linear(f, f->x, in, w, bias, true, n);
        return;
    }
    linear(f, f->h, in, w, bias, false, n);
    kvq_norm job = norm_of(f, f->x, f->h, post_norm, n);
    job.residual = f->x;
    f->ops->norm(f->stream, &job);
}

static void run_attention(kvq_forward *f, const kvq_batch *batch, int l) {
    const kvq_hparams *p = &f->model->hparams;
    const kvq_model_layer *w = &f->model->layers[l];
    kvq_stream *s = f->stream;
    norm_for_linear(f, w->attn_norm, batch->n_rows);
    linear(f, f->qkv, f->h, &w->qkv, w->qkv_bias, false, batch->n_rows);
    f->ops->append(s, &(kvq_append){.q_out = f->q,
                                    .qkv = f->qkv,
                                    .q_norm = w->q_norm,
                                    .k_norm = w->k_norm,
                                    .norm_eps = p->norm_eps,
                                    .rope = f->rope[w->rope],
                                    .neox = p->rope[w->rope].neox,
                                    .n_rot = p->rope[w->rope].n_rot,
                                    .n_heads = p->n_heads,
                                    .batch = batch,
                                    .kv = f->kv,
                                    .layer = l});
    f->ops->close_pages(s, &(kvq_close_pages){.batch = batch, .kv = f->kv, .layer = l});
    float *attended = f->qkv; /* q, k and v of these rows are in q and in the cache by now */
    f->ops->attend(s, &(kvq_attend){.out = attended,
                                    .q = f->q,
                                    .scale = p->attention_scale,
                                    .softcap = p->attention_softcap,
                                    .window = w->window,
                                    .n_heads = p->n_heads,
                                    .batch = batch,
                                    .kv = f->kv,
                                    .layer = l});
    project_and_add(f, attended, &w->attn_out, w->attn_out_bias, w->post_attn_norm, batch->n_rows);
}

static void run_feed_forward(kvq_forward *f, const kvq_batch *batch, int l) {
    const kvq_hparams *p = &f->model->hparams;
    const kvq_model_layer *w = &f->model->layers[l];
    norm_for_linear(f, w->ffn_norm, batch->n_rows);
    linear(f, f->gate_up, f->h, &w->gate_up, w->gate_up_bias, false, batch->n_rows);
    f->ops->glu(f->stream, &(kvq_glu){.out = f->act,
                                      .gate_up = f->gate_up,
                                      .activation = p->arch->activation,
                                      .n_rows = batch->n_rows,
                                      .ffn_dim = p->ffn_dim});
    project_and_add(f, f->act, &w->down, w->down_bias, w->post_ffn_norm, batch->n_rows);
}

void kvq_forward_run(kvq_forward *f, const kvq_batch *batch) {
    const kvq_hparams *p = &f->model->hparams;
    float scale = p->arch->scaled_embedding ? sqrtf((float)p->hidden_dim) : 1.0f;
    f->ops->begin(f->stream, &(kvq_begin){.batch = batch, .kv = f->kv});
    for (int i = 0; i < (p->window ? 2 : 1); i++)
        f->ops->rope_table(f->stream, &(kvq_rope_table){.table = f->rope[i],
                                                        .rope = &f->model->rope[i],
                                                        .pos = batch->pos,
                                                        .n_rows = batch->n_rows});
    f->ops->embed(f->stream, &(kvq_embed){.out = f->x,
                                          .ids = batch->ids,
                                          .drawn = f->ids,
                                          .table = &f->model->embedding,
                                          .scale = scale,
                                          .n_rows = batch->n_rows});
    for (int l = 0; l < p->n_layers; l++) {
        run_attention(f, batch, l);
        run_feed_forward(f, batch, l);
    }
}

/* The last layer's rows, one behind the other: where they are if they lie so, as those of a decode step do. */
static const float *gather_rows(kvq_forward *f, const int *rows, int n_rows) {
    int n_cols = f->model->hparams.hidden_dim;
    bool are_together = (size_t)n_cols * sizeof(float) % 64 == 0; /* where operators ask a tensor to begin */
    for (int i = 1; i < n_rows; i++) are_together &= rows[i] == rows[0] + i;
    if (are_together) return f->x + (size_t)rows[0] * (size_t)n_cols;
    f->ops->gather(f->stream,
                   &(kvq_gather){.out = f->picked, .in = f->x, .rows = rows, .n_rows = n_rows, .n_cols = n_cols});
    return f->picked;
}

void kvq_forward_head(kvq_forward *f, const int *rows, int n_rows) {
    const kvq_hparams *p = &f->model->hparams;
    const float *x = gather_rows(f, rows, n_rows);
    kvq_norm last = norm_of(f, f->picked, x, f->model->output_norm, n_rows); /* refine reads it, too */
    f->ops->norm(f->stream, &last);
    linear(f, f->logits, f->picked, &f->model->output, NULL, false, n_rows);
    f->ops->refine(
        f->stream,
        &(kvq_refine){
            .x = f->logits, .in = f->picked, .w = &f->model->output, .margin = REFINE_MARGIN, .n_rows = n_rows});
    if (p->logit_softcap > 0)
        f->ops->softcap(
            f->stream,
            &(kvq_softcap){.x = f->logits, .cap = p->logit_softcap, .n_rows = n_rows, .n_cols = p->vocab_size});
}

kvq_status kvq_forward_fetch(kvq_forward *f, int n_rows, kvq_error *err) {
    return f->machine->backend->fetch(f->stream, f->host_logits, f->logits, logit_bytes(f, n_rows), err);
}

void kvq_forward_sample(kvq_forward *f, int begin, kvq_sample job) {
    job.logits = f->logits + (size_t)begin * (size_t)job.vocab_size;
    job.ids = f->ids + begin;
    f->ops->sample(f->stream, &job);
}

static int *host_ids_of(const kvq_forward *f, int which) {
    return f->host_ids + which * f->max_logit_rows;
}

void kvq_forward_bring(kvq_forward *f, int n_rows, int which) {
    f->machine->backend->start_fetch(f->stream, host_ids_of(f, which), f->ids, ids_bytes(n_rows), which);
}

kvq_status kvq_forward_wait(kvq_forward *f, int which, const int **ret_ids, kvq_error *err) {
    *ret_ids = host_ids_of(f, which);
    return f->machine->backend->wait_fetch(f->stream, which, err);
}
