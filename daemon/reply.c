/* reply.c: engine events -> the bytes of delta and final messages. See reply.h. */
#include "reply.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

#define NS_PER_MS INT64_C(1000000)

void reply_done(reply *r) {
    free(r->text);
    *r = (reply){0};
}

bool reply_add(reply *r, const char *text, size_t n_bytes, int n_tokens) {
    if (n_bytes >= r->capacity_bytes - r->n_bytes) {
        size_t capacity = 2 * r->capacity_bytes + n_bytes + 256;
        char *grown = realloc(r->text, capacity);
        if (!grown) return false;
        r->text = grown;
        r->capacity_bytes = capacity;
    }
    if (n_bytes) memcpy(r->text + r->n_bytes, text, n_bytes);
    r->n_bytes += n_bytes;
    r->text[r->n_bytes] = '\0';
    /* The engine's promise is whole characters; JSON depends on it. One may be a zero byte: vocabularies have a token
     * for each byte, and a prompt can ask for it with logit_bias. It would end the final's text, not the deltas'. */
    text_mend_bytes(r->text + r->n_bytes - n_bytes, n_bytes);
    r->n_tokens = n_tokens;
    return true;
}

int64_t reply_delta_due_ns(const reply *r) {
    if (r->n_bytes == r->n_sent_bytes) return INT64_MAX;
    if (r->n_deltas == 0 || r->n_tokens - r->n_sent_tokens >= REPLY_DELTA_TOKENS) return INT64_MIN;
    return r->last_sent_ns + REPLY_DELTA_MS * NS_PER_MS;
}

/* Compact, in the order the keys were set. Takes the reference. */
static char *dump(json_t *object, size_t *ret_n_bytes) {
    char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(object);
    if (text) *ret_n_bytes = strlen(text);
    return text;
}

char *reply_take_delta(reply *r, const char *id, int64_t now_ns, size_t *ret_n_bytes) {
    json_t *delta = json_pack("{s:s, s:i, s:s%, s:i}", "id", id, "seq", r->n_deltas, "text", r->text + r->n_sent_bytes,
                              r->n_bytes - r->n_sent_bytes, "n", r->n_tokens);
    char *text = dump(delta, ret_n_bytes);
    if (!text) return NULL;
    r->n_deltas++;
    r->n_sent_bytes = r->n_bytes;
    r->n_sent_tokens = r->n_tokens;
    r->last_sent_ns = now_ns;
    return text;
}

/* Thousandths are enough for anything in a final, and NaN is not JSON. */
static json_t *number(double x) {
    return isfinite(x) ? json_real(round(x * 1000) / 1000) : json_null();
}

static json_t *timings(const kvq_result *r) {
    double tokens_per_second =
        r->completion_tokens > 1 && r->decode_ms > 0 ? (r->completion_tokens - 1) / r->decode_ms * 1000 : 0;
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "queue_ms", number(r->queue_ms), "prefill_ms", number(r->prefill_ms),
                     "ttft_ms", number(r->ttft_ms), "decode_ms", number(r->decode_ms), "tokens_per_second",
                     number(tokens_per_second));
}

static json_t *error_object(const failure *f) {
    if (!f) return json_null();
    json_t *error = json_pack("{s:s, s:s}", "code", failure_name(f->code), "message", f->text);
    if (error && f->code == FAILURE_BUSY) {
        /* a key that could not be set is a key less; the message says the same in words */
        (void)json_object_set_new(error, "queue_depth", json_integer(f->queue_depth));
        (void)json_object_set_new(error, "retry_after_ms", json_integer(f->retry_after_ms));
    }
    return error;
}

char *reply_final(const reply_facts *facts, size_t *ret_n_bytes) {
    const kvq_result *r = &facts->result;
    double energy_per_token_j = r->completion_tokens > 0 ? facts->energy_j / r->completion_tokens : NAN;
    json_t *final =
        json_pack("{s:s, s:s?, s:s, s:s, s:{s:i, s:i, s:i}, s:o, s:{s:s?, s:I, s:o}, s:o, s:o, s:b, s:I, s:o}", "id",
                  facts->id, "model", facts->model, "text", facts->text ? facts->text : "", "finish_reason",
                  kvq_finish_name(facts->reason), "usage", "prompt_tokens", r->prompt_tokens, "completion_tokens",
                  r->completion_tokens, "cached_tokens", r->cached_tokens, "timings", timings(r), "kv", "policy",
                  facts->policy, "bytes", (json_int_t)r->kv_bytes, "pool_used_ratio", number(facts->pool_used_ratio),
                  "energy_j", number(facts->energy_j), "energy_per_token_j", number(energy_per_token_j), "truncated",
                  r->truncated, "seed", (json_int_t)r->seed, "error", error_object(facts->failure));
    return dump(final, ret_n_bytes);
}

/* ---- parts ----------------------------------------------------------------------------------------------- */

/* The length of a character in a JSON string as jansson writes it. */
static size_t escaped_bytes(const char *at, size_t *ret_n_bytes) {
    unsigned char c = (unsigned char)*at;
    *ret_n_bytes = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
    if (c == '"' || c == '\\' || c == '\b' || c == '\f' || c == '\n' || c == '\r' || c == '\t') return 2;
    return c < 0x20 ? 6 : *ret_n_bytes;
}

/* How many bytes of text, in whole characters, fit in max_bytes once escaped. */
static size_t fitting_bytes(const char *text, size_t max_bytes) {
    size_t n = 0, used = 0, step;
    while (text[n]) {
        size_t more = escaped_bytes(text + n, &step);
        if (more > max_bytes - used) break;
        used += more;
        n += step;
    }
    return n;
}

static size_t dumped_bytes(const json_t *object) {
    return json_dumpb(object, NULL, 0, JSON_COMPACT | JSON_REAL_PRECISION(9));
}

/* A part with the piece of text; the numbers are set once all pieces are known. */
static json_t *make_part(const json_t *final, bool is_last, const char *text, size_t n_bytes) {
    json_t *part = is_last ? json_copy((json_t *) final) : json_pack("{s:O}", "id", json_object_get(final, "id"));
    if (!part) return NULL;
    bool set = json_object_set_new(part, "text", json_stringn(text, n_bytes)) == 0 &&
               json_object_set_new(part, "part", json_integer(999999)) == 0 &&
               json_object_set_new(part, "parts", json_integer(999999)) == 0;
    if (set) return part;
    json_decref(part);
    return NULL;
}

/* Bytes of a part without text; 0: no memory. */
static size_t overhead(const json_t *final, bool is_last) {
    json_t *empty = make_part(final, is_last, "", 0);
    size_t n = empty ? dumped_bytes(empty) : 0;
    json_decref(empty);
    return n;
}

/* Pieces as an array of parts, without numbers; no more than one above max_parts. NULL: no memory. */
static json_t *cut(const json_t *final, size_t inner, size_t last, size_t max_bytes, size_t max_parts) {
    json_t *parts = json_array();
    const char *text = json_string_value(json_object_get(final, "text"));
    if (!parts || !text) {
        json_decref(parts);
        return NULL;
    }
    for (bool done = false; !done && json_array_size(parts) <= max_parts;) {
        size_t n = fitting_bytes(text, max_bytes - last);
        done = text[n] == '\0';
        if (!done) n = fitting_bytes(text, max_bytes - inner);
        if (json_array_append_new(parts, make_part(final, done, text, n)) != 0) {
            json_decref(parts);
            return NULL;
        }
        text += n;
    }
    return parts;
}

static char *one_part(json_t *part, size_t i, size_t n) {
    size_t ignored;
    if (json_object_set_new(part, "part", json_integer((json_int_t)i + 1)) != 0 ||
        json_object_set_new(part, "parts", json_integer((json_int_t)n)) != 0)
        return NULL;
    return dump(json_incref(part), &ignored);
}

/* NULL: no memory. A failed allocation may look like a syntax error here, and reply_final's syntax is right. */
static json_t *load(const char *final, size_t n_bytes) {
    json_error_t ignored;
    return json_loadb(final, n_bytes, 0, &ignored);
}

static char **whole(const char *final, size_t n_bytes, size_t *ret_n) {
    char **parts = calloc(1, sizeof *parts);
    if (!parts || !(parts[0] = malloc(n_bytes + 1))) {
        free(parts);
        return NULL;
    }
    memcpy(parts[0], final, n_bytes);
    parts[0][n_bytes] = '\0';
    *ret_n = 1;
    return parts;
}

/* The pieces as texts. NULL: no memory. */
static char **dump_parts(json_t *pieces, size_t *ret_n) {
    size_t n = json_array_size(pieces);
    char **parts = n ? calloc(n, sizeof *parts) : NULL;
    for (size_t i = 0; parts && i < n; i++) {
        parts[i] = one_part(json_array_get(pieces, i), i, n);
        if (!parts[i]) {
            reply_parts_free(parts, n);
            return NULL;
        }
    }
    if (parts) *ret_n = n;
    return parts;
}

static kvq_status cut_and_dump(const json_t *final, size_t max_bytes, size_t max_parts, char ***ret_parts,
                               size_t *ret_n) {
    size_t inner = overhead(final, false), last = overhead(final, true);
    if (inner == 0 || last == 0) return KVQ_NO_MEMORY;
    if (inner > max_bytes || max_bytes - inner < 6 || last > max_bytes) return KVQ_NO_SPACE;
    json_t *pieces = cut(final, inner, last, max_bytes, max_parts);
    bool fit = json_array_size(pieces) <= max_parts;
    if (fit) *ret_parts = dump_parts(pieces, ret_n);
    json_decref(pieces);
    return *ret_parts ? KVQ_OK : fit ? KVQ_NO_MEMORY : KVQ_NO_SPACE;
}

kvq_status reply_parts(const char *final, size_t n_bytes, size_t max_bytes, size_t max_parts, char ***ret_parts,
                       size_t *ret_n) {
    *ret_parts = NULL;
    *ret_n = 0;
    if (n_bytes <= max_bytes) {
        *ret_parts = whole(final, n_bytes, ret_n);
        return *ret_parts ? KVQ_OK : KVQ_NO_MEMORY;
    }
    json_t *object = load(final, n_bytes);
    if (!object) return KVQ_NO_MEMORY;
    kvq_status status = cut_and_dump(object, max_bytes, max_parts, ret_parts, ret_n);
    json_decref(object);
    return status;
}

void reply_parts_free(char **parts, size_t n) {
    if (!parts) return;
    for (size_t i = 0; i < n; i++) free(parts[i]);
    free(parts);
}

char *reply_short(const char *final, size_t n_bytes, const failure *why, size_t *ret_n_bytes) {
    json_t *object = load(final, n_bytes);
    if (!object) return NULL;
    json_t *brief = json_pack("{s:O, s:s, s:s, s:o}", "id", json_object_get(object, "id"), "text", "", "finish_reason",
                              kvq_finish_name(KVQ_FINISH_ERROR), "error", error_object(why));
    json_decref(object);
    return dump(brief, ret_n_bytes);
}
