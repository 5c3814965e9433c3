/* template.c: the public functions of the chat template: parse once at load, render a conversation. Called by engine.c.
 * Holds the two setjmps behind kvq_tpl_fail, and turns messages and JSON into the variables a render starts with. The
 * interpreter itself is in the other template_*.c; template_internal.h says which file does what. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"
#include "template_internal.h"

/* Runs job; what it needs to give back it puts into what arg points to. */
static kvq_status guarded(kvq_tpl_run *r, void (*job)(kvq_tpl_run *r, void *arg), void *arg) {
    if (setjmp(r->failed) == 0) job(r, arg);
    return r->status;
}

/* ---- parsing --------------------------------------------------------------------------------------------------- */

typedef struct parse_job {
    const char *source;
    size_t n_bytes;
    kvq_template *t;
} parse_job;

static void check_source(kvq_tpl_run *r, const char *source, size_t n_bytes) {
    if (n_bytes > KVQ_TPL_MAX_SOURCE_BYTES)
        kvq_tpl_fail(r, KVQ_UNSUPPORTED, "has %zu bytes, more than %zu", n_bytes, KVQ_TPL_MAX_SOURCE_BYTES);
    if (!kvq_tpl_is_valid_utf8(source, n_bytes)) kvq_tpl_fail(r, KVQ_BAD_FILE, "is not valid UTF-8");
}

static void run_parse(kvq_tpl_run *r, void *arg) {
    parse_job *job = arg;
    kvq_tpl_tokens tokens = {0};
    check_source(r, job->source, job->n_bytes);
    job->t = kvq_tpl_alloc(r, sizeof *job->t);
    kvq_tpl_lex(r, job->source, job->n_bytes, &tokens);
    kvq_tpl_parse(r, &tokens, &job->t->body);
    kvq_tpl_bind(r, job->t);
}

kvq_status kvq_template_parse(const char *source, size_t n_bytes, kvq_template **ret, kvq_error *err) {
    kvq_tpl_run r = {.err = err, .line = 1};
    parse_job job = {.source = source, .n_bytes = n_bytes};
    kvq_status status = guarded(&r, run_parse, &job);
    free(r.out);
    if (status != KVQ_OK) {
        kvq_tpl_free_chunks(r.chunks);
        return status;
    }
    job.t->chunks = r.chunks;
    *ret = job.t;
    return KVQ_OK;
}

void kvq_template_free(kvq_template *t) {
    if (t) kvq_tpl_free_chunks(t->chunks); /* t itself lies in them */
}

/* ---- variables ------------------------------------------------------------------------------------------------- */

static kvq_tpl_value from_json(kvq_tpl_run *r, const json_t *j);

static kvq_tpl_value from_array(kvq_tpl_run *r, const json_t *j) {
    kvq_tpl_list *l = kvq_tpl_list_new(r, json_array_size(j));
    for (size_t i = 0; i < json_array_size(j); i++) kvq_tpl_list_push(r, l, from_json(r, json_array_get(j, i)));
    return kvq_tpl_list_value(l);
}

/* jansson walks an object in the order of its text. */
static void merge_object(kvq_tpl_run *r, kvq_tpl_dict *d, json_t *j) {
    for (void *at = json_object_iter(j); at; at = json_object_iter_next(j, at)) {
        kvq_tpl_value key = kvq_tpl_copy_text(r, json_object_iter_key(at), json_object_iter_key_len(at));
        kvq_tpl_dict_set(r, d, key, from_json(r, json_object_iter_value(at)));
    }
}

static kvq_tpl_value from_json(kvq_tpl_run *r, const json_t *j) {
    kvq_tpl_value v = kvq_tpl_none;
    kvq_tpl_charge(r, 1);
    kvq_tpl_enter(r);
    switch (json_typeof(j)) {
    case JSON_OBJECT: {
        kvq_tpl_dict *d = kvq_tpl_dict_new(r);
        merge_object(r, d, (json_t *)j); /* the iterator wants it mutable but changes nothing */
        v = kvq_tpl_dict_value(d);
        break;
    }
    case JSON_ARRAY:
        v = from_array(r, j);
        break;
    case JSON_STRING:
        v = kvq_tpl_copy_text(r, json_string_value(j), json_string_length(j));
        break;
    case JSON_INTEGER:
        v = kvq_tpl_int(json_integer_value(j));
        break;
    case JSON_REAL:
        v = kvq_tpl_real(json_real_value(j));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        v = kvq_tpl_bool(json_is_true(j));
        break;
    case JSON_NULL:
        break;
    }
    kvq_tpl_leave(r);
    return v;
}

static void set_variable(kvq_tpl_run *r, const char *name, kvq_tpl_value v) {
    kvq_tpl_dict_set(r, r->variables, kvq_tpl_literal(r, name), v);
}

static void set_text(kvq_tpl_run *r, kvq_tpl_dict *d, const char *name, const char *text) {
    kvq_tpl_dict_set(r, d, kvq_tpl_literal(r, name), kvq_tpl_mend_utf8(r, text, strlen(text)));
}

static kvq_tpl_value make_messages(kvq_tpl_run *r, const kvq_template_input *input) {
    kvq_tpl_list *l = kvq_tpl_list_new(r, input->n_messages);
    for (size_t i = 0; i < input->n_messages; i++) {
        kvq_tpl_dict *message = kvq_tpl_dict_new(r);
        set_text(r, message, "role", input->messages[i].role);
        set_text(r, message, "content", input->messages[i].content);
        kvq_tpl_list_push(r, l, kvq_tpl_dict_value(message));
    }
    return kvq_tpl_list_value(l);
}

/* ---- rendering ------------------------------------------------------------------------------------------------- */

typedef struct render_job {
    const kvq_template *t;
    const kvq_template_input *input;
    json_t *extra; /* an object, or NULL */
} render_job;

static void run_render(kvq_tpl_run *r, void *arg) {
    const render_job *job = arg;
    r->variables = kvq_tpl_dict_new(r);
    kvq_tpl_add_globals(r, r->variables);
    set_variable(r, "messages", make_messages(r, job->input));
    set_variable(r, "tools", kvq_tpl_none); /* transformers always passes these two */
    set_variable(r, "documents", kvq_tpl_none);
    set_variable(r, "add_generation_prompt", kvq_tpl_bool(job->input->add_generation_prompt));
    set_text(r, r->variables, "bos_token", job->input->bos_token);
    set_text(r, r->variables, "eos_token", job->input->eos_token);
    if (job->extra) merge_object(r, r->variables, job->extra);
    r->now_s = job->input->now_s;
    kvq_tpl_run_template(r, job->t);
    kvq_tpl_put_char(r, '\0'); /* so that there is a buffer even for no text at all */
    r->n_out--;
}

static kvq_status parse_extra(const char *text, json_t **ret, kvq_error *err) {
    json_error_t error;
    json_t *j = json_loads(text, JSON_ALLOW_NUL, &error);
    if (!j && json_error_code(&error) == json_error_out_of_memory)
        return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the template's variables");
    if (!j)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "the template's variables are not JSON: line %d: %s", error.line,
                        error.text);
    if (!json_is_object(j)) {
        json_decref(j);
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "the template's variables must be a JSON object");
    }
    *ret = j;
    return KVQ_OK;
}

kvq_status kvq_template_render(const kvq_template *t, const kvq_template_input *input, char **ret_text,
                               size_t *ret_n_bytes, kvq_error *err) {
    kvq_tpl_run r = {.err = err, .line = 1, .hash_seed = kvq_random()};
    render_job job = {.t = t, .input = input};
    kvq_status status = input->extra_json ? parse_extra(input->extra_json, &job.extra, err) : KVQ_OK;
    if (status == KVQ_OK) status = guarded(&r, run_render, &job);
    json_decref(job.extra);
    kvq_tpl_free_chunks(r.chunks);
    if (status != KVQ_OK) {
        free(r.out);
        return status;
    }
    r.out[r.n_out] = '\0';
    *ret_text = r.out;
    *ret_n_bytes = r.n_out;
    return KVQ_OK;
}
