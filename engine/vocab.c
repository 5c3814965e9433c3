/* vocab.c: the vocabulary read from a model file. Called by tokenizer.c at open, searched by every family.
 * What GGUF files leave unsaid about special tokens is settled by their names, in the tables below: the same names that
 * llama.cpp goes by, since converters are tested against it. */
#include "vocab.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"

#define EMPTY_NAME_BYTES 24 /* "[EMPTY_2147483647]" */

/* ---- ids --------------------------------------------------------------------------------------------------------- */

bool kvq_ids_push(kvq_ids *ids, int id) {
    if (ids->n == ids->capacity) {
        size_t wanted = ids->capacity ? ids->capacity * 2 : 256;
        int *bigger = realloc(ids->data, wanted * sizeof *bigger);
        if (!bigger) return false;
        ids->data = bigger;
        ids->capacity = wanted;
    }
    ids->data[ids->n++] = id;
    return true;
}

/* ---- text to id -------------------------------------------------------------------------------------------------- */

int kvq_vocab_find(const kvq_vocab *v, const char *bytes, size_t n_bytes) {
    if (n_bytes > v->longest_bytes) return -1;
    uint32_t hash = (uint32_t)kvq_hash(v->hash_seed, bytes, n_bytes);
    for (size_t i = hash & v->slot_mask; v->slots[i].id >= 0; i = (i + 1) & v->slot_mask) {
        if (v->slots[i].hash != hash) continue;
        kvq_text text = v->texts[v->slots[i].id];
        if (text.n_bytes == n_bytes && memcmp(text.bytes, bytes, n_bytes) == 0) return v->slots[i].id;
    }
    return -1;
}

static void add_slot(kvq_vocab *v, int id) {
    uint32_t hash = (uint32_t)kvq_hash(v->hash_seed, v->texts[id].bytes, v->texts[id].n_bytes);
    size_t i = hash & v->slot_mask;
    while (v->slots[i].id >= 0) i = (i + 1) & v->slot_mask;
    v->slots[i] = (kvq_vocab_slot){hash, id};
}

static int find_name(const kvq_vocab *v, const char *name) {
    return kvq_vocab_find(v, name, strlen(name));
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static kvq_status no_memory(const kvq_gguf *g, kvq_error *err) {
    return kvq_fail(err, KVQ_NO_MEMORY, "'%s': no memory for the vocabulary", kvq_gguf_path(g));
}

/* An empty text cannot be told from no text, so it gets a name, as in llama.cpp. */
static void name_empty_tokens(kvq_vocab *v) {
    char *name = v->empty_names;
    for (int id = 0; id < v->n_tokens; id++) {
        if (v->texts[id].n_bytes > 0) continue;
        int n = snprintf(name, EMPTY_NAME_BYTES, "[EMPTY_%d]", id);
        v->texts[id] = (kvq_text){name, (size_t)n};
        name += EMPTY_NAME_BYTES;
    }
}

static kvq_status read_texts(const kvq_gguf *g, kvq_vocab *v, kvq_error *err) {
    kvq_gguf_type type = KVQ_GGUF_U8;
    uint64_t n = 0;
    const kvq_gguf_items *tokens = kvq_gguf_items_find(g, "tokenizer.ggml.tokens", &type, &n);
    if (!tokens || type != KVQ_GGUF_STRING || n == 0 || n > INT_MAX / 4)
        return kvq_fail(err, KVQ_BAD_FILE, "'%s' has no vocabulary: key 'tokenizer.ggml.tokens' is not a list of texts",
                        kvq_gguf_path(g));
    v->n_tokens = (int)n;
    v->hash_seed = kvq_random();
    v->texts = calloc(n, sizeof *v->texts);
    if (!v->texts) return no_memory(g, err);
    size_t n_empty = 0;
    for (uint64_t i = 0; i < n; i++) {
        (void)kvq_gguf_items_text(tokens, i, &v->texts[i]); /* cannot fail: kind and range are checked */
        n_empty += v->texts[i].n_bytes == 0;
    }
    v->empty_names = malloc(n_empty * EMPTY_NAME_BYTES + 1);
    if (!v->empty_names) return no_memory(g, err);
    name_empty_tokens(v);
    return KVQ_OK;
}

static kvq_status index_texts(const kvq_gguf *g, kvq_vocab *v, kvq_error *err) {
    size_t n_slots = 16;
    while (n_slots < (size_t)v->n_tokens * 2) n_slots *= 2;
    v->slots = malloc(n_slots * sizeof *v->slots);
    if (!v->slots) return no_memory(g, err);
    v->slot_mask = n_slots - 1;
    for (size_t i = 0; i < n_slots; i++) v->slots[i].id = -1;
    for (int id = 0; id < v->n_tokens; id++) {
        if (v->texts[id].n_bytes > v->longest_bytes) v->longest_bytes = v->texts[id].n_bytes;
        int twin = kvq_vocab_find(v, v->texts[id].bytes, v->texts[id].n_bytes);
        if (twin >= 0)
            return kvq_fail(err, KVQ_BAD_FILE, "'%s': tokens %d and %d of the vocabulary have the same text",
                            kvq_gguf_path(g), twin, id);
        add_slot(v, id);
    }
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        v->byte_ids[b] = find_name(v, name);
    }
    return KVQ_OK;
}

/* GGUF's token types by their numbers. */
static const uint16_t type_attributes[] = {
    0, KVQ_TOKEN_NORMAL, KVQ_TOKEN_UNKNOWN, KVQ_TOKEN_CONTROL, KVQ_TOKEN_USER_DEFINED, KVQ_TOKEN_UNUSED, KVQ_TOKEN_BYTE,
};
#define N_TYPES (sizeof type_attributes / sizeof *type_attributes)

static kvq_status read_attributes(const kvq_gguf *g, kvq_vocab *v, kvq_error *err) {
    v->attributes = calloc((size_t)v->n_tokens, sizeof *v->attributes);
    if (!v->attributes) return no_memory(g, err);
    kvq_gguf_type type = KVQ_GGUF_U8;
    uint64_t n = 0;
    const kvq_gguf_items *types = kvq_gguf_items_find(g, "tokenizer.ggml.token_type", &type, &n);
    if (types && (type != KVQ_GGUF_I32 || n < (uint64_t)v->n_tokens))
        return kvq_fail(err, KVQ_BAD_FILE, "'%s': key 'tokenizer.ggml.token_type' is not a list of %d i32 numbers",
                        kvq_gguf_path(g), v->n_tokens);
    for (int id = 0; id < v->n_tokens; id++) {
        int64_t t = 1;
        if (types) (void)kvq_gguf_items_i64(types, (uint64_t)id, &t); /* kind and range are checked */
        v->attributes[id] = t >= 0 && t < (int64_t)N_TYPES ? type_attributes[t] : 0;
    }
    return KVQ_OK;
}

static kvq_status read_scores(const kvq_gguf *g, kvq_vocab *v, kvq_error *err) {
    kvq_gguf_type type = KVQ_GGUF_U8;
    uint64_t n = 0;
    const kvq_gguf_items *scores = kvq_gguf_items_find(g, "tokenizer.ggml.scores", &type, &n);
    if (!scores) return KVQ_OK;
    if ((type != KVQ_GGUF_F32 && type != KVQ_GGUF_I32) || n < (uint64_t)v->n_tokens)
        return kvq_fail(err, KVQ_BAD_FILE, "'%s': key 'tokenizer.ggml.scores' is not a list of %d f32 or i32 numbers",
                        kvq_gguf_path(g), v->n_tokens);
    v->scores = calloc((size_t)v->n_tokens, sizeof *v->scores);
    if (!v->scores) return no_memory(g, err);
    for (int id = 0; id < v->n_tokens; id++) {
        double score = 0;
        (void)kvq_gguf_items_f64(scores, (uint64_t)id, &score); /* kind and range are checked */
        v->scores[id] = isnan(score) ? -INFINITY : (float)score;
    }
    return KVQ_OK;
}

kvq_status kvq_vocab_init(const kvq_gguf *g, kvq_vocab *v, kvq_error *err) {
    *v = (kvq_vocab){.bos = -1, .eos = -1, .eot = -1, .eom = -1, .unknown = -1};
    kvq_status status;
    if ((status = read_texts(g, v, err)) || (status = index_texts(g, v, err)) ||
        (status = read_attributes(g, v, err)) || (status = read_scores(g, v, err))) {
        kvq_vocab_done(v);
        return status;
    }
    return KVQ_OK;
}

void kvq_vocab_done(kvq_vocab *v) {
    free(v->texts);
    free(v->attributes);
    free(v->scores);
    free(v->empty_names);
    free(v->slots);
    *v = (kvq_vocab){0};
}

/* ---- special tokens ---------------------------------------------------------------------------------------------- */

/* Names that end a generation, whatever the file says. They are control tokens, also where the file calls them normal.
 */
static const char *const end_names[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
};

/* Tokens of code models ("fill in the middle"). The first name of a row that the vocabulary has is that token, unless
 * the file's key says another; it is control, and where the last column says so it ends a generation. */
static const struct {
    const char *keys[2];
    const char *names[8];
    bool ends;
} code_tokens[] = {
    {{"tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"},
     {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
      "<|prefix|>"},
     false},
    {{"tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"},
     {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
      "<|suffix|>"},
     false},
    {{"tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"},
     {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
      "<|middle|>"},
     false},
    {{"tokenizer.ggml.fim_pad_token_id"}, {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}, true},
    {{"tokenizer.ggml.fim_rep_token_id"},
     {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"},
     true},
    {{"tokenizer.ggml.fim_sep_token_id"}, {"<|file_sep|>"}, true},
};

/* gpt-oss frames its channels with these; they are text to be shown, not control. */
static const char *const shown_names[] = {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"};

/* White space that a special token swallows is said in no GGUF key, only by the model's name. An empty token: every
 * special one. */
static const struct {
    const char *key, *contains, *token;
    uint16_t attribute;
    bool on;
} stripping_rules[] = {
    {"tokenizer.ggml.pre", "jina-v2-de", "<mask>", KVQ_TOKEN_STRIPS_LEFT, true},
    {"tokenizer.ggml.pre", "jina-v2-es", "<mask>", KVQ_TOKEN_STRIPS_LEFT, true},
    {"tokenizer.ggml.pre", "jina-v2-code", "<mask>", KVQ_TOKEN_STRIPS_LEFT, true},
    {"general.name", "phi-3", "", KVQ_TOKEN_STRIPS_RIGHT, true},
    {"general.name", "phi3", "", KVQ_TOKEN_STRIPS_RIGHT, true},
    {"general.name", "phi-3", "</s>", KVQ_TOKEN_STRIPS_RIGHT, true},
    {"general.name", "phi3", "</s>", KVQ_TOKEN_STRIPS_RIGHT, true},
    {"general.name", "phi-3", "<unk>", KVQ_TOKEN_STRIPS_RIGHT, false},
    {"general.name", "phi3", "<unk>", KVQ_TOKEN_STRIPS_RIGHT, false},
    {"general.name", "phi-3", "<s>", KVQ_TOKEN_STRIPS_RIGHT, false},
    {"general.name", "phi3", "<s>", KVQ_TOKEN_STRIPS_RIGHT, false},
    {"general.name", "phi-3", "<|endoftext|>", KVQ_TOKEN_STRIPS_RIGHT, false},
    {"general.name", "phi3", "<|endoftext|>", KVQ_TOKEN_STRIPS_RIGHT, false},
};

#define N_OF(table) (sizeof(table) / sizeof *(table))

static void read_id(const kvq_gguf *g, const kvq_vocab *v, const char *key, int *id) {
    uint64_t n;
    if (*id >= v->n_tokens) *id = -1;
    if (key && kvq_gguf_u64(g, key, &n) && n < (uint64_t)v->n_tokens) *id = (int)n;
}

static void mark_end(kvq_vocab *v, int id) {
    if (id >= 0) v->attributes[id] |= KVQ_TOKEN_END;
}

static void mark_code_tokens(const kvq_gguf *g, kvq_vocab *v) {
    for (size_t row = 0; row < N_OF(code_tokens); row++) {
        int id = -1;
        for (size_t k = 0; k < N_OF(code_tokens[row].keys); k++) read_id(g, v, code_tokens[row].keys[k], &id);
        for (size_t k = 0; id < 0 && k < N_OF(code_tokens[row].names) && code_tokens[row].names[k]; k++) {
            id = find_name(v, code_tokens[row].names[k]);
            if (id >= 0) v->attributes[id] |= KVQ_TOKEN_CONTROL;
        }
        if (code_tokens[row].ends) mark_end(v, id);
    }
}

static bool ends(const kvq_vocab *v, const char *name) {
    int id = find_name(v, name);
    return id >= 0 && (v->attributes[id] & KVQ_TOKEN_END);
}

/* Where a model has its own way to end, a name that ends elsewhere does not: "<|end|>" only closes a message in the
 * harmony format of gpt-oss and solar-open, "</s>" is ordinary text (HTML) to gemma 4. */
static void unmark_ends(kvq_vocab *v) {
    bool harmony = ends(v, "<|return|>") && (ends(v, "<|call|>") || ends(v, "<|calls|>"));
    bool solar = ends(v, "<|flush|>") && (ends(v, "<|call|>") || ends(v, "<|calls|>"));
    if ((harmony || solar) && ends(v, "<|end|>")) v->attributes[find_name(v, "<|end|>")] = KVQ_TOKEN_USER_DEFINED;
    if ((ends(v, "<|tool_response>") || ends(v, "<|plamo:eos|>")) && ends(v, "</s>"))
        v->attributes[find_name(v, "</s>")] = KVQ_TOKEN_NORMAL;
}

static bool contains_folded(kvq_text text, const char *part) {
    size_t n = strlen(part);
    for (size_t at = 0; at + n <= text.n_bytes; at++) {
        size_t i = 0;
        while (i < n) {
            char c = text.bytes[at + i];
            if (c >= 'A' && c <= 'Z') c = (char)(c + 32);
            if (c != part[i]) break;
            i++;
        }
        if (i == n) return true;
    }
    return false;
}

static void set_attribute(kvq_vocab *v, int id, uint16_t attribute, bool on) {
    v->attributes[id] = (uint16_t)(on ? v->attributes[id] | attribute : v->attributes[id] & ~attribute);
}

static void apply_stripping_rules(const kvq_gguf *g, kvq_vocab *v) {
    for (size_t r = 0; r < N_OF(stripping_rules); r++) {
        kvq_text value;
        if (!kvq_gguf_text(g, stripping_rules[r].key, &value) || !contains_folded(value, stripping_rules[r].contains))
            continue;
        if (*stripping_rules[r].token) {
            int id = find_name(v, stripping_rules[r].token);
            if (id >= 0) set_attribute(v, id, stripping_rules[r].attribute, stripping_rules[r].on);
            continue;
        }
        for (int id = 0; id < v->n_tokens; id++)
            if (v->attributes[id] & (KVQ_TOKEN_CONTROL | KVQ_TOKEN_USER_DEFINED | KVQ_TOKEN_UNKNOWN))
                set_attribute(v, id, stripping_rules[r].attribute, stripping_rules[r].on);
    }
}

void kvq_vocab_mark_special(const kvq_gguf *g, kvq_vocab *v) {
    read_id(g, v, "tokenizer.ggml.bos_token_id", &v->bos);
    read_id(g, v, "tokenizer.ggml.eos_token_id", &v->eos);
    read_id(g, v, "tokenizer.ggml.eot_token_id", &v->eot);
    read_id(g, v, "tokenizer.ggml.eom_token_id", &v->eom);
    read_id(g, v, "tokenizer.ggml.unknown_token_id", &v->unknown);
    mark_code_tokens(g, v);
    for (size_t i = 0; i < N_OF(end_names); i++) {
        int id = find_name(v, end_names[i]);
        if (id >= 0) v->attributes[id] |= KVQ_TOKEN_END | KVQ_TOKEN_CONTROL;
    }
    for (size_t i = 0; i < N_OF(shown_names); i++) {
        int id = find_name(v, shown_names[i]);
        if (id >= 0) v->attributes[id] = KVQ_TOKEN_USER_DEFINED;
    }
    mark_end(v, v->eos);
    mark_end(v, v->eot);
    mark_end(v, v->eom);
    unmark_ends(v);
    apply_stripping_rules(g, v);
}
