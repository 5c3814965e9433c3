/* prompt.c: the bytes of a prompt -> a checked kvq_request. See prompt.h.
 * Plain text is one user turn. A payload whose first byte is '{' and that parses is a JSON object; its keys are the
 * table below, one row each: name, type, where the value goes, what is allowed. An unknown key is an error that names
 * the nearest one, because a misspelt "max_token" would otherwise be ignored in silence. */
#include "prompt.h"

#include "text.h"

#include <jansson.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct key key;
typedef bool take_fn(const key *k, json_t *value, prompt *p, failure *f);

struct key {
    const char *name;
    take_fn *take;
    size_t offset; /* in struct prompt, of what a plain type writes */
    double low, high;
    bool open_low; /* low itself is not allowed */
};

static take_fn take_id, take_string, take_text, take_bool, take_int, take_int64, take_float, take_seed, take_stream,
    take_messages, take_stop, take_bias;

#define AT(member) offsetof(prompt, member)
/* clang-format off */
static const key keys[] = {
    /* name                  take           where                          low    high       open_low */
    {"id",                   take_id,       0,                             0,     0,         false},
    {"model",                take_string,   AT(model),                     0,     256,       false},
    {"prompt",               take_text,     AT(request.prompt),            0,     0,         false},
    {"messages",             take_messages, 0,                             0,     0,         false},
    {"raw",                  take_bool,     AT(request.raw),               0,     0,         false},
    {"system",               take_text,     AT(request.system),            0,     0,         false},
    {"session",              take_string,   AT(request.session),           0,     PROMPT_SESSION_BYTES, false},
    {"max_tokens",           take_int,      AT(request.max_tokens),        0,     1048576,   false},
    {"temperature",          take_float,    AT(request.temperature),       0,     2,         false},
    {"top_p",                take_float,    AT(request.top_p),             0,     1,         true},
    {"top_k",                take_int,      AT(request.top_k),             0,     1000000,   false},
    {"min_p",                take_float,    AT(request.min_p),             0,     1,         false},
    {"repetition_penalty",   take_float,    AT(request.repetition_penalty),0,     100,       true},
    {"presence_penalty",     take_float,    AT(request.presence_penalty),  -2,    2,         false},
    {"frequency_penalty",    take_float,    AT(request.frequency_penalty), -2,    2,         false},
    {"logit_bias",           take_bias,     0,                             -100,  100,       false},
    {"seed",                 take_seed,     0,                             0,     0,         false},
    {"stop",                 take_stop,     0,                             0,     0,         false},
    {"stream",               take_stream,   0,                             0,     0,         false},
    {"deadline_ms",          take_int64,    AT(request.deadline_ms),       1,     604800000, false},
    {"priority",             take_int,      AT(request.priority),          0,     9,         false},
};
/* clang-format on */
#define N_KEYS (sizeof keys / sizeof *keys)

bool prompt_is_name(const char *text, size_t n_bytes) {
    if (n_bytes < 1 || n_bytes > PROMPT_NAME_BYTES) return false;
    for (size_t i = 0; i < n_bytes; i++) {
        char c = text[i];
        bool allowed = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
                       c == '.' || c == '-';
        if (!allowed) return false;
    }
    return !(n_bytes == 5 && memcmp(text, "delta", 5) == 0);
}

static const char *type_name(const json_t *value) {
    static const char *const names[] = {"an object", "an array", "a string", "an integer",
                                        "a number",  "true",     "false",    "null"};
    return names[json_typeof(value)];
}

static bool wrong_type(const char *name, const char *want, const json_t *value, failure *f) {
    return failure_set(f, FAILURE_BAD_REQUEST, "'%s' is %s; it must be %s", name, type_name(value), want);
}

static void *member(const key *k, prompt *p) {
    return (char *)p + k->offset;
}

static bool take_id(const key *k, json_t *value, prompt *p, failure *f) {
    if (!json_is_string(value)) return wrong_type(k->name, "a string", value, f);
    if (!prompt_is_name(json_string_value(value), json_string_length(value)))
        return failure_set(f, FAILURE_BAD_REQUEST, "'id' must be " PROMPT_NAME_RULE, PROMPT_NAME_BYTES);
    memcpy(p->id, json_string_value(value), json_string_length(value) + 1);
    return true;
}

static bool take_string(const key *k, json_t *value, prompt *p, failure *f) {
    if (!json_is_string(value)) return wrong_type(k->name, "a string", value, f);
    size_t n = json_string_length(value);
    if (n < 1 || n > (size_t)k->high)
        return failure_set(f, FAILURE_BAD_REQUEST, "'%s' has %zu bytes; 1 to %.0f are allowed", k->name, n, k->high);
    *(const char **)member(k, p) = json_string_value(value);
    return true;
}

/* Text has the payload's own limit and no other. */
static bool take_text(const key *k, json_t *value, prompt *p, failure *f) {
    if (!json_is_string(value)) return wrong_type(k->name, "a string", value, f);
    *(const char **)member(k, p) = json_string_value(value);
    return true;
}

static bool take_bool(const key *k, json_t *value, prompt *p, failure *f) {
    if (!json_is_boolean(value)) return wrong_type(k->name, "true or false", value, f);
    *(bool *)member(k, p) = json_is_true(value);
    return true;
}

static bool take_stream(const key *k, json_t *value, prompt *p, failure *f) {
    if (!json_is_boolean(value)) return wrong_type(k->name, "true or false", value, f);
    p->stream = json_is_true(value);
    return true;
}

static bool whole_number(const key *k, json_t *value, int64_t *ret, failure *f) {
    if (!json_is_integer(value)) return wrong_type(k->name, "a whole number", value, f);
    json_int_t n = json_integer_value(value);
    if ((double)n < k->low || (double)n > k->high)
        return failure_set(f, FAILURE_BAD_REQUEST, "'%s' is %lld; %.0f to %.0f are allowed", k->name, (long long)n,
                           k->low, k->high);
    *ret = n;
    return true;
}

static bool take_int(const key *k, json_t *value, prompt *p, failure *f) {
    int64_t n = 0;
    if (!whole_number(k, value, &n, f)) return false;
    *(int *)member(k, p) = (int)n;
    return true;
}

static bool take_int64(const key *k, json_t *value, prompt *p, failure *f) {
    return whole_number(k, value, (int64_t *)member(k, p), f);
}

static bool take_float(const key *k, json_t *value, prompt *p, failure *f) {
    if (!json_is_number(value)) return wrong_type(k->name, "a number", value, f);
    double x = json_number_value(value);
    bool above = k->open_low ? x > k->low : x >= k->low;
    if (!(above && x <= k->high))
        return failure_set(f, FAILURE_BAD_REQUEST, "'%s' is %g; %s%g to %g are allowed", k->name, x,
                           k->open_low ? "above " : "", k->low, k->high);
    float narrow = (float)x;
    if (k->open_low && !(narrow > 0)) narrow = 1e-30f; /* a positive double below the smallest float stays positive */
    *(float *)member(k, p) = narrow;
    return true;
}

static bool take_seed(const key *k, json_t *value, prompt *p, failure *f) {
    if (!json_is_integer(value)) return wrong_type(k->name, "a whole number", value, f);
    if (json_integer_value(value) < 0)
        return failure_set(f, FAILURE_BAD_REQUEST, "'seed' is %lld; 0 to %lld are allowed",
                           (long long)json_integer_value(value), (long long)KVQ_MAX_SEED);
    p->request.seed = (uint64_t)json_integer_value(value);
    p->request.has_seed = true;
    return true;
}

static bool take_message(const char *name, json_t *value, kvq_message *ret, failure *f) {
    char key_name[96];
    if (!json_is_object(value)) return wrong_type(name, "an object with 'role' and 'content'", value, f);
    const char *k;
    json_t *v;
    json_object_foreach(value, k, v) {
        const char **where = strcmp(k, "role") == 0 ? &ret->role : strcmp(k, "content") == 0 ? &ret->content : NULL;
        snprintf(key_name, sizeof key_name, "%s.%.32s", name, k);
        if (!where) return failure_set(f, FAILURE_BAD_REQUEST, "'%s' is not a key; 'role' and 'content' are", key_name);
        if (!json_is_string(v)) return wrong_type(key_name, "a string", v, f);
        *where = json_string_value(v);
    }
    if (!ret->role || !*ret->role) return failure_set(f, FAILURE_BAD_REQUEST, "'%s.role' is missing or empty", name);
    if (!ret->content) return failure_set(f, FAILURE_BAD_REQUEST, "'%s.content' is missing", name);
    return true;
}

static bool take_messages(const key *k, json_t *value, prompt *p, failure *f) {
    size_t n = json_array_size(value);
    if (!json_is_array(value)) return wrong_type(k->name, "an array of messages", value, f);
    if (n < 1 || n > PROMPT_MAX_MESSAGES)
        return failure_set(f, FAILURE_BAD_REQUEST, "'messages' has %zu items; 1 to %d are allowed", n,
                           PROMPT_MAX_MESSAGES);
    p->messages = calloc(n, sizeof *p->messages);
    if (!p->messages) return failure_set(f, FAILURE_INTERNAL, "no memory for %zu messages", n);
    for (size_t i = 0; i < n; i++) {
        char name[48];
        snprintf(name, sizeof name, "messages[%zu]", i);
        if (!take_message(name, json_array_get(value, i), &p->messages[i], f)) return false;
    }
    p->request.messages = p->messages;
    p->request.n_messages = n;
    return true;
}

static bool take_stop(const key *k, json_t *value, prompt *p, failure *f) {
    bool single = json_is_string(value);
    if (!single && !json_is_array(value)) return wrong_type(k->name, "a string or an array of strings", value, f);
    size_t n = single ? 1 : json_array_size(value);
    if (n > PROMPT_MAX_STOPS)
        return failure_set(f, FAILURE_BAD_REQUEST, "'stop' has %zu items; at most %d are allowed", n, PROMPT_MAX_STOPS);
    p->stop = calloc(n + 1, sizeof *p->stop);
    if (!p->stop) return failure_set(f, FAILURE_INTERNAL, "no memory for %zu stop strings", n);
    for (size_t i = 0; i < n; i++) {
        char name[48] = "stop";
        const json_t *item = single ? value : json_array_get(value, i);
        if (!single) snprintf(name, sizeof name, "stop[%zu]", i);
        if (!json_is_string(item)) return wrong_type(name, "a string", item, f);
        size_t n_bytes = json_string_length(item);
        if (n_bytes < 1 || n_bytes > PROMPT_MAX_STOP_BYTES)
            return failure_set(f, FAILURE_BAD_REQUEST, "'%s' has %zu bytes; 1 to %d are allowed", name, n_bytes,
                               PROMPT_MAX_STOP_BYTES);
        p->stop[i] = json_string_value(item);
    }
    p->request.stop = p->stop;
    p->request.n_stop = n;
    return true;
}

static bool take_bias(const key *k, json_t *value, prompt *p, failure *f) {
    if (!json_is_object(value)) return wrong_type(k->name, "an object of token id: number", value, f);
    size_t n = json_object_size(value), i = 0;
    if (n > PROMPT_MAX_BIASES)
        return failure_set(f, FAILURE_BAD_REQUEST, "'logit_bias' has %zu items; at most %d are allowed", n,
                           PROMPT_MAX_BIASES);
    p->bias = calloc(n + 1, sizeof *p->bias);
    if (!p->bias) return failure_set(f, FAILURE_INTERNAL, "no memory for %zu biases", n);
    const char *id;
    json_t *v;
    json_object_foreach(value, id, v) {
        size_t n_digits = strspn(id, "0123456789");
        if (n_digits < 1 || n_digits > 9 || id[n_digits])
            return failure_set(f, FAILURE_BAD_REQUEST, "'logit_bias.%.32s' is not a token id", id);
        double bias = json_is_number(v) ? json_number_value(v) : NAN;
        if (!(bias >= k->low && bias <= k->high))
            return failure_set(f, FAILURE_BAD_REQUEST, "'logit_bias.%s' must be a number from %g to %g", id, k->low,
                               k->high);
        p->bias[i++] = (kvq_token_bias){.id = atoi(id), .bias = (float)bias};
    }
    p->request.logit_bias = p->bias;
    p->request.n_logit_bias = n;
    return true;
}

/* Levenshtein's distance of short words, for the hint; longer words have none. */
static size_t distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b), row[33];
    if (n > 32 || m > 32) return SIZE_MAX;
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            size_t shift = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = change < shift ? change : shift;
        }
    }
    return row[m];
}

static bool unknown_key(const char *name, failure *f) {
    size_t best = 0;
    for (size_t i = 1; i < N_KEYS; i++)
        if (distance(name, keys[i].name) < distance(name, keys[best].name)) best = i;
    if (distance(name, keys[best].name) <= 3)
        return failure_set(f, FAILURE_BAD_REQUEST, "'%.64s' is not a key; '%s' is the nearest", name, keys[best].name);
    return failure_set(f, FAILURE_BAD_REQUEST, "'%.64s' is not a key of a prompt", name);
}

static bool take_key(const char *name, json_t *value, prompt *p, failure *f) {
    for (size_t i = 0; i < N_KEYS; i++)
        if (strcmp(name, keys[i].name) == 0) return keys[i].take(&keys[i], value, p, f);
    return unknown_key(name, f);
}

/* What the keys say together. */
static bool check_whole(prompt *p, failure *f) {
    kvq_request *r = &p->request;
    if (!r->prompt && !r->messages) return failure_set(f, FAILURE_BAD_REQUEST, "'prompt' or 'messages' is missing");
    if (r->prompt && r->messages)
        return failure_set(f, FAILURE_BAD_REQUEST, "'prompt' and 'messages' exclude each other; both are there");
    if (r->raw && r->messages)
        return failure_set(f, FAILURE_BAD_REQUEST, "'raw' needs 'prompt'; 'messages' go through the template");
    return true;
}

/* The configured system message is for prompts without one; raw text and conversations that bring their own stay as
 * they are. */
static void keep_default_system(prompt *p, bool own_system) {
    kvq_request *r = &p->request;
    bool begins_with_one = r->n_messages > 0 && strcmp(r->messages[0].role, "system") == 0;
    if (!own_system && (r->raw || begins_with_one || (r->system && !*r->system))) r->system = NULL;
}

static bool parse_json(json_t *root, prompt *p, failure *f) {
    const char *name;
    json_t *value, *id = json_object_get(root, "id");
    if (id && !take_key("id", id, p, f)) return false; /* first: a refusal is answered under it */
    json_object_foreach(root, name, value) {
        if (!take_key(name, value, p, f)) return false;
    }
    if (!check_whole(p, f)) return false;
    keep_default_system(p, json_object_get(root, "system") != NULL);
    return true;
}

static bool parse_plain(const prompt_input *in, prompt *p, failure *f) {
    if (in->n_bytes == 0) return failure_set(f, FAILURE_BAD_REQUEST, "the prompt is empty");
    p->text = malloc(in->n_bytes + 1);
    if (!p->text) return failure_set(f, FAILURE_INTERNAL, "no memory for a prompt of %zu bytes", in->n_bytes);
    memcpy(p->text, in->payload, in->n_bytes);
    p->text[in->n_bytes] = '\0';
    p->request.prompt = p->text;
    keep_default_system(p, false);
    return true;
}

static bool says_json(const char *content_type) {
    static const char json[] = "application/json";
    if (!content_type || strncmp(content_type, json, sizeof json - 1) != 0) return false;
    char after = content_type[sizeof json - 1];
    return after == '\0' || after == ';' || after == ' ';
}

/* *ret_root stays NULL for plain text. Errors that a person who meant JSON makes are errors even where plain text would
 * do: a key twice, a number too large, a zero byte. */
static bool find_json(const prompt_input *in, json_t **ret_root, failure *f) {
    const char *bytes = in->payload;
    bool must = says_json(in->content_type), never = in->content_type && strncmp(in->content_type, "text/", 5) == 0;
    json_error_t e;
    if (never || (!must && (in->n_bytes == 0 || bytes[0] != '{'))) return true;
    json_t *root = json_loadb(bytes, in->n_bytes, JSON_REJECT_DUPLICATES, &e);
    if (json_is_object(root)) {
        *ret_root = root;
        return true;
    }
    bool parsed = root != NULL;
    json_decref(root);
    if (parsed) return failure_set(f, FAILURE_BAD_REQUEST, "a prompt in JSON is an object");
    enum json_error_code code = json_error_code(&e);
    bool meant = code == json_error_duplicate_key || code == json_error_numeric_overflow ||
                 code == json_error_null_character || code == json_error_null_byte_in_key ||
                 code == json_error_stack_overflow;
    if (must || meant)
        return failure_set(f, FAILURE_BAD_REQUEST, "the JSON does not parse: line %d, column %d: %s", e.line, e.column,
                           e.text);
    return true;
}

/* A prompt may wait longer than the configuration lives that its defaults came from (a reload): what is still borrowed
 * from it is copied, into one block: the pointers to the stop strings, these, the system message. */
static bool own_defaults(const kvq_request *defaults, prompt *p, failure *f) {
    kvq_request *r = &p->request;
    size_t n_stop = r->stop == defaults->stop ? r->n_stop : 0;
    bool has_system = r->system && r->system == defaults->system;
    size_t n_bytes = n_stop * sizeof(char *) + (has_system ? strlen(r->system) + 1 : 0);
    for (size_t i = 0; i < n_stop; i++) n_bytes += strlen(r->stop[i]) + 1;
    if (n_bytes == 0) return true;
    const char **pointers = malloc(n_bytes);
    if (!pointers) return failure_set(f, FAILURE_INTERNAL, "no memory for a prompt");
    char *text = (char *)(pointers + n_stop);
    for (size_t i = 0; i < n_stop; i++) {
        pointers[i] = text;
        text = stpcpy(text, r->stop[i]) + 1;
    }
    if (n_stop) r->stop = pointers;
    if (has_system) r->system = memcpy(text, r->system, strlen(r->system) + 1);
    p->defaults = pointers;
    return true;
}

void prompt_read_id(const prompt_input *in, char ret[PROMPT_NAME_BYTES + 1]) {
    failure ignored; /* what else is wrong with it is another question */
    prompt p = {0};
    json_t *root = NULL;
    if (in->n_bytes / PROMPT_READABLE_FACTOR <= in->max_bytes) (void)find_json(in, &root, &ignored);
    json_t *id = json_object_get(root, "id");
    if (id) (void)take_key("id", id, &p, &ignored);
    memcpy(ret, p.id, sizeof p.id);
    json_decref(root);
}

bool prompt_parse(const prompt_input *in, prompt *ret, failure *f) {
    if (in->n_bytes > in->max_bytes) {
        prompt_read_id(in, ret->id);
        return failure_set(f, FAILURE_TOO_LARGE, "the prompt has %zu bytes; 'max_prompt_bytes' allows %zu", in->n_bytes,
                           in->max_bytes);
    }
    if (!text_is_valid(in->payload, in->n_bytes))
        return failure_set(f, FAILURE_BAD_REQUEST, "the prompt is not UTF-8 text without zero bytes");
    json_t *root = NULL;
    if (!find_json(in, &root, f)) return false;
    prompt p = {.request = *in->defaults, .stream = -1, .json = root};
    if (!(root ? parse_json(root, &p, f) : parse_plain(in, &p, f)) || !own_defaults(in->defaults, &p, f)) {
        memcpy(ret->id, p.id, sizeof ret->id);
        prompt_done(&p);
        return false;
    }
    *ret = p;
    return true;
}

void prompt_done(prompt *p) {
    json_decref(p->json);
    free(p->text);
    free(p->messages);
    free(p->bias);
    free(p->stop);
    free(p->defaults);
    *p = (prompt){0};
}
