/* config_use.c: the configuration as others need it: the engine's options, a prompt's defaults, secrets.
 * Called by main.c, prompt.c and mqtt.c. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "file.h"

void config_engine_options(const config *c, kvq_options *options) {
    options->model_path = *c->model_path ? c->model_path : NULL;
    options->backend = c->engine_backend;
    options->isa = c->engine_isa;
    options->device = c->engine_device;
    options->quant_policy = c->engine_quant_policy;
    options->cache_max_entry_count =
        strcmp(c->engine_cache_max_entry_count, "auto") ? c->engine_cache_max_entry_count : NULL;
    options->cache_block_seq_len = c->engine_cache_block_seq_len;
    options->session_len = c->engine_session_len;
    options->max_batch_size = c->engine_max_batch_size;
    options->max_prefill_token_num = c->engine_max_prefill_token_num;
    options->enable_prefix_caching = c->engine_enable_prefix_caching;
    options->reproducible = c->engine_reproducible;
    options->threads = c->engine_threads;
}

void config_request_defaults(const config *c, kvq_request *request) {
    request->system = *c->generation_system ? c->generation_system : NULL;
    request->max_tokens = c->generation_max_new_tokens;
    request->temperature = (float)c->generation_temperature;
    request->top_p = (float)c->generation_top_p;
    request->top_k = c->generation_top_k;
    request->min_p = (float)c->generation_min_p;
    request->repetition_penalty = (float)c->generation_repetition_penalty;
    request->presence_penalty = (float)c->generation_presence_penalty;
    request->frequency_penalty = (float)c->generation_frequency_penalty;
    request->seed = c->generation_random_seed.value;
    request->has_seed = c->generation_random_seed.is_set;
    request->stop = (const char *const *)c->generation_stop_words.items;
    request->n_stop = c->generation_stop_words.n;
}

/* ---- secrets
 * ---------------------------------------------------------------------------------------------------------- */

enum { MAX_SECRET_BYTES = 65536 };

kvq_status config_secret_path(const char *value, char **ret, kvq_error *err) {
    char *path = NULL;
    const char *directory = getenv("CREDENTIALS_DIRECTORY");
    if (*value == '/')
        path = strdup(value);
    else if (*value && !directory)
        return kvq_fail(err, KVQ_BAD_ARGUMENT,
                        "credential '%s': systemd gave none; see LoadCredential= in systemd.exec(5)", value);
    else if (*value && asprintf(&path, "%s/%s", directory, value) < 0)
        path = NULL;
    if (*value && !path) return kvq_fail(err, KVQ_NO_MEMORY, "credential '%s': no memory", value);
    *ret = path;
    return KVQ_OK;
}

kvq_status config_read_password(const config *c, char **ret, kvq_error *err) {
    char *path = NULL, *text = NULL;
    bool is_named = *c->mqtt_password_file;
    if (!is_named && !getenv("CREDENTIALS_DIRECTORY")) {
        *ret = NULL;
        return KVQ_OK;
    }
    kvq_status status = config_secret_path(is_named ? c->mqtt_password_file : CONFIG_PASSWORD_CREDENTIAL, &path, err);
    if (status) return status;
    if (!is_named && access(path, F_OK)) { /* the unit has other credentials, not this one */
        free(path);
        *ret = NULL;
        return KVQ_OK;
    }
    status = file_read(path, MAX_SECRET_BYTES, &text, err);
    free(path);
    if (status) return status;
    text[strcspn(text, "\r\n")] = '\0';
    *ret = text;
    return KVQ_OK;
}
