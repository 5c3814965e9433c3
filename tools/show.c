/* show.c: `kvqctl show`: what is in a GGUF file, and what each KV policy would make of the memory here. Reads no
 * weights. Text of the file is shown with control characters replaced: a file must not drive the reader's terminal. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../engine/gguf.h"
#include "command.h"
#include "engine_options.h"
#include "report.h"

typedef struct show_values {
    engine_options engine;
    const char *output;
    option_texts policies;
    int session_len, max_batch_size;
} show_values;

#define AT(member) offsetof(show_values, member)

/* clang-format off */
static const option options[] = {
    { 0,  NULL,          OPTION_TEXT,  offsetof(show_values, engine.model), "MODEL", NULL, 0, 0, NULL, true, "A GGUF file."},
    { 0,  "kv",          OPTION_NAMES, AT(policies),       "LIST",   "0,8,4", 0, 0, POLICY_NAMES, false, "KV policies to plan for; 0 is f16."},
    { 0,  "session-len", OPTION_INT,   AT(session_len),    "TOKENS", "0",    0, 1048576, NULL, false, "Longest sequence to plan for; 0 is the least of the model's, 8192 and what fits."},
    {'b', "batch",       OPTION_INT,   AT(max_batch_size), "N",      "0",    0, 4096, NULL, false, "Sequences at once to plan for; 0 is the engine's default."},
    {'o', "output",      OPTION_NAME,  AT(output),         "FORMAT", "table", 0, 0, "table|json", false, "table, or json for programs."},
    ENGINE_OPTIONS(show_values),
};
/* clang-format on */

enum { NAME_BYTES = 128, VALUE_BYTES = 96, KINDS_MAX = 512 };

/* ---- metadata ------------------------------------------------------------------------------------------------------
 */

/* Printable copy, cut with "..." where it is too long. */
static void show_text(kvq_text t, char *out, size_t n_out) {
    size_t n = t.n_bytes < n_out - 4 ? t.n_bytes : n_out - 4;
    while (n > 0 && n < t.n_bytes && ((unsigned char)t.bytes[n] & 0xC0) == 0x80) n--; /* not inside a character */
    for (size_t i = 0; i < n; i++) out[i] = (unsigned char)t.bytes[i] < 0x20 || t.bytes[i] == 0x7F ? ' ' : t.bytes[i];
    snprintf(out + n, n_out - n, "%s", n < t.n_bytes ? "..." : "");
}

static const char *const type_names[KVQ_GGUF_TYPE_COUNT] = {"u8",   "i8",   "u16",   "i16", "u32", "i32", "f32",
                                                            "bool", "text", "array", "u64", "i64", "f64"};

static void show_value(const kvq_gguf *g, const kvq_gguf_key *key, const char *name, char *out, size_t n_out) {
    uint64_t whole;
    double real;
    bool truth;
    kvq_text text;
    if (key->type == KVQ_GGUF_ARRAY)
        snprintf(out, n_out, "[%" PRIu64 " %s]", key->n_items, type_names[key->item_type]);
    else if (kvq_gguf_text(g, name, &text))
        show_text(text, out, n_out);
    else if (kvq_gguf_bool(g, name, &truth))
        snprintf(out, n_out, "%s", truth ? "true" : "false");
    else if (kvq_gguf_u64(g, name, &whole))
        snprintf(out, n_out, "%" PRIu64, whole);
    else if (kvq_gguf_f64(g, name, &real))
        snprintf(out, n_out, "%.9g", real);
    else
        snprintf(out, n_out, "?");
}

/* Calls `take` for each key with its name and its value, both printable. */
static void walk_keys(const kvq_gguf *g, void (*take)(void *user, const char *name, const char *value), void *user) {
    for (size_t i = 0; i < kvq_gguf_n_keys(g); i++) {
        kvq_gguf_key key = kvq_gguf_key_at(g, i);
        char name[NAME_BYTES], shown[NAME_BYTES], value[VALUE_BYTES];
        snprintf(name, sizeof name, "%.*s", (int)(key.name.n_bytes < NAME_BYTES ? key.name.n_bytes : NAME_BYTES - 1),
                 key.name.bytes);
        show_value(g, &key, name, value, sizeof value);
        show_text(key.name, shown, sizeof shown);
        take(user, shown, value);
    }
}

static void print_key(void *user, const char *name, const char *value) {
    (void)user;
    printf("  %-44s %s\n", name, value);
}

static void add_key(void *user, const char *name, const char *value) {
    json_object_set_new(user, name, json_string(value)); /* text that is not UTF-8 is left out: JSON cannot hold it */
}

/* ---- tensors -------------------------------------------------------------------------------------------------------
 */

/* Tensors of one name (without the layer's number) and format. */
typedef struct kind {
    char name[NAME_BYTES];
    kvq_format format;
    uint64_t dims[2], n_bytes, n_weights;
    int n_tensors;
} kind;

/* "blk.17.attn_q.weight" -> "blk.*.attn_q.weight" */
static void strip_number(const char *name, char *out, size_t n_out) {
    size_t used = 0;
    for (const char *p = name; *p && used + 1 < n_out;) {
        if ((p == name || p[-1] == '.') && *p >= '0' && *p <= '9') {
            while (*p >= '0' && *p <= '9') p++;
            out[used++] = '*';
        } else {
            out[used++] = (unsigned char)*p < 0x20 || *p == 0x7F ? ' ' : *p;
            p++;
        }
    }
    out[used] = '\0';
}

static kind *find_kind(kind *kinds, int *n, const char *name, const kvq_gguf_tensor *t) {
    for (int i = 0; i < *n; i++)
        if (kinds[i].format == t->format && strcmp(kinds[i].name, name) == 0) return &kinds[i];
    if (*n == KINDS_MAX) return NULL; /* a hostile file; what is shown is enough to see that */
    kind *k = &kinds[(*n)++];
    *k = (kind){.format = t->format, .dims = {t->dims[0], t->dims[1]}};
    snprintf(k->name, sizeof k->name, "%s", name);
    return k;
}

static int collect_kinds(const kvq_gguf *g, kind *kinds) {
    int n = 0;
    for (size_t i = 0; i < kvq_gguf_n_tensors(g); i++) {
        const kvq_gguf_tensor *t = kvq_gguf_tensor_at(g, i);
        char name[NAME_BYTES];
        strip_number(t->name, name, sizeof name);
        kind *k = find_kind(kinds, &n, name, t);
        if (!k) break;
        k->n_tensors++;
        k->n_bytes += t->n_bytes;
        k->n_weights += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
    }
    return n;
}

static void print_kinds(const kind *kinds, int n) {
    printf("\nTensors\n  %-44s %-8s %6s %20s %10s %12s\n", "name", "format", "count", "shape", "bits", "MiB");
    for (int i = 0; i < n; i++) {
        char shape[48];
        snprintf(shape, sizeof shape, "%" PRIu64 " x %" PRIu64, kinds[i].dims[1], kinds[i].dims[0]);
        printf("  %-44s %-8s %6d %20s %10.2f %12.2f\n", kinds[i].name, kvq_format_get(kinds[i].format)->name,
               kinds[i].n_tensors, shape,
               kinds[i].n_weights ? 8.0 * (double)kinds[i].n_bytes / (double)kinds[i].n_weights : 0,
               (double)kinds[i].n_bytes / 1048576);
    }
}

static json_t *kinds_json(const kind *kinds, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:[I, I], s:I}", "name", kinds[i].name, "format",
                                              kvq_format_get(kinds[i].format)->name, "count", kinds[i].n_tensors,
                                              "shape", (json_int_t)kinds[i].dims[1], (json_int_t)kinds[i].dims[0],
                                              "bytes", (json_int_t)kinds[i].n_bytes));
    return list;
}

/* ---- plans ---------------------------------------------------------------------------------------------------------
 */

static kvq_status open_plan(const show_values *v, const char *policy, kvq_plan **ret, kvq_error *err) {
    kvq_options o = engine_options_make(&v->engine, policy);
    o.session_len = v->session_len;
    if (v->max_batch_size > 0) o.max_batch_size = v->max_batch_size;
    return kvq_plan_open(&o, ret, err);
}

static double mib(uint64_t bytes) {
    return (double)bytes / 1048576;
}

static void print_plan_head(const kvq_info *i) {
    printf("\nMemory here: weights %.1f MiB, workspace %.1f MiB, pool %.1f MiB; sequences of at most %d tokens (the "
           "model: %d), "
           "%d at once\n",
           mib(i->weight_bytes), mib(i->workspace_bytes), mib(i->pool_bytes), i->session_len, i->session_len_model,
           i->max_batch_size);
    if (i->cublas) printf("cuBLAS: %s\n", i->cublas);
    printf("  %-10s %10s %10s %12s   tokens that fit, in sequences of\n", "kv", "bits/value", "blocks", "block bytes");
    printf("  %-10s %10s %10s %12s ", "", "", "", "");
    for (int c = 0; c < 3; c++) printf(" %18d", i->capacity[c].tokens_a_sequence);
    printf("\n");
}

static void print_plan(const kvq_info *i) {
    printf("  %-10s %10.3f %10" PRIu64 " %12" PRIu64 " ", i->quant_policy, i->bits_per_value, i->n_blocks,
           i->block_bytes);
    for (int c = 0; c < 3; c++) {
        double times =
            i->capacity[c].tokens_f16 ? (double)i->capacity[c].tokens / (double)i->capacity[c].tokens_f16 : 0;
        printf(" %10" PRIu64 " %5.2f x", i->capacity[c].tokens, times);
    }
    printf("\n");
}

static json_t *plan_json(const kvq_info *i) {
    json_t *capacity = json_array();
    for (int c = 0; c < 3; c++)
        json_array_append_new(
            capacity, json_pack("{s:i, s:I, s:I, s:I}", "tokens_a_sequence", i->capacity[c].tokens_a_sequence, "tokens",
                                (json_int_t)i->capacity[c].tokens, "tokens_f16", (json_int_t)i->capacity[c].tokens_f16,
                                "sequences", (json_int_t)i->capacity[c].sequences));
    return json_pack("{s:o, s:f, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:o}", "policy",
                     report_policy(i->quant_policy), "bits_per_value", i->bits_per_value, "weight_bytes",
                     (json_int_t)i->weight_bytes, "workspace_bytes", (json_int_t)i->workspace_bytes, "pool_bytes",
                     (json_int_t)i->pool_bytes, "blocks", (json_int_t)i->n_blocks, "block_bytes",
                     (json_int_t)i->block_bytes, "hard_layers", i->n_hard_layers, "session_len", i->session_len,
                     "max_batch_size", i->max_batch_size, "capacity", capacity);
}

/* The plan of each policy, or why there is none. */
typedef struct plans {
    kvq_plan *of[OPTION_LIST_MAX];
    kvq_error why[OPTION_LIST_MAX];
} plans;

/* A plan that cannot be made is told and is no failure of show: a vocabulary-only file has none. A device that was
 * asked for and cannot be used is one, before anything is shown. */
static kvq_status open_plans(const show_values *v, plans *ret, kvq_error *err) {
    for (int i = 0; i < v->policies.n; i++) {
        if (open_plan(v, v->policies.values[i], &ret->of[i], &ret->why[i]) != KVQ_DEVICE) continue;
        *err = ret->why[i];
        return KVQ_DEVICE;
    }
    return KVQ_OK;
}

static void close_plans(plans *p) {
    for (int i = 0; i < OPTION_LIST_MAX; i++) kvq_plan_close(p->of[i]);
}

static void print_plans(const show_values *v, const plans *p) {
    bool head = false;
    for (int i = 0; i < v->policies.n; i++) {
        if (!p->of[i]) {
            printf("%s  No plan for policy %s: %s\n", head ? "" : "\n", v->policies.values[i], p->why[i].text);
            continue;
        }
        if (!head) print_plan_head(kvq_plan_info(p->of[i]));
        print_plan(kvq_plan_info(p->of[i]));
        head = true;
    }
}

static json_t *plans_json(const show_values *v, const plans *p) {
    json_t *list = json_array();
    for (int i = 0; i < v->policies.n; i++)
        json_array_append_new(list, p->of[i] ? plan_json(kvq_plan_info(p->of[i]))
                                             : json_pack("{s:o, s:s}", "policy", report_policy(v->policies.values[i]),
                                                         "error", p->why[i].text));
    return list;
}

/* ---- all of it -----------------------------------------------------------------------------------------------------
 */

static kvq_status show_table(const show_values *v, const kvq_gguf *g, const kind *kinds, int n_kinds, const plans *p,
                             kvq_error *err) {
    printf("%s: %.1f MiB, %zu tensors\n\nMetadata\n", kvq_gguf_path(g), mib(kvq_gguf_file_bytes(g)),
           kvq_gguf_n_tensors(g));
    walk_keys(g, print_key, NULL);
    print_kinds(kinds, n_kinds);
    print_plans(v, p);
    return fflush(stdout) || ferror(stdout) ? kvq_fail(err, KVQ_IO, "Cannot write the result.") : KVQ_OK;
}

static kvq_status show_json(const show_values *v, const kvq_gguf *g, const kind *kinds, int n_kinds, const plans *p,
                            kvq_error *err) {
    json_t *metadata = json_object();
    walk_keys(g, add_key, metadata);
    json_t *root = json_pack("{s:o*, s:I, s:o, s:o, s:o}", "path", json_string(kvq_gguf_path(g)), "bytes",
                             (json_int_t)kvq_gguf_file_bytes(g), "metadata", metadata, "tensors",
                             kinds_json(kinds, n_kinds), "plans", plans_json(v, p));
    kvq_status status = report_print(root, err);
    json_decref(root);
    return status;
}

static int run(const void *values) {
    const show_values *v = values;
    kvq_gguf *g = NULL;
    kvq_error err = {0};
    plans p = {0};
    if (kvq_gguf_open(v->engine.model, &g, &err)) return engine_fail(&err);
    kind *kinds = calloc(KINDS_MAX, sizeof *kinds);
    kvq_status status =
        kinds ? KVQ_OK : kvq_fail(&err, KVQ_NO_MEMORY, "No memory to list the tensors of '%s'.", v->engine.model);
    int n_kinds = kinds ? collect_kinds(g, kinds) : 0;
    if (!status) status = open_plans(v, &p, &err);
    if (!status) status = (strcmp(v->output, "json") == 0 ? show_json : show_table)(v, g, kinds, n_kinds, &p, &err);
    close_plans(&p);
    free(kinds);
    kvq_gguf_close(g);
    return status ? engine_fail(&err) : EXIT_CODE_OK;
}

const command command_show = {
    .name = "show",
    .doc = "What is in a model file, and how many tokens each KV policy would fit here.",
    .about = "Metadata, number formats of the tensors, and the memory plan per policy: the same pool bytes, cut into "
             "that policy's blocks. "
             "The figure after each capacity is its ratio to f16.",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .values_bytes = sizeof(show_values),
    .run = run,
};
