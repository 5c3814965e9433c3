/* models.c: which model to load, and loading it. See models.h. */
#include "models.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_model_name(const char *name) {
    size_t n = strlen(name);
    return n > 5 && strcmp(name + n - 5, ".gguf") == 0 && name[0] != '.';
}

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int by_name(const void *a, const void *b) {
    return strcmp(file_name(*(char *const *)a), file_name(*(char *const *)b));
}

void models_free(models_list *l) {
    for (size_t i = 0; i < l->n; i++) free(l->paths[i]);
    free(l->paths);
    *l = (models_list){0};
}

/* A file of the same name in an earlier folder hides this one. */
static bool is_hidden(const models_list *l, const char *name) {
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(file_name(l->paths[i]), name) == 0) return true;
    return false;
}

static bool add_model(models_list *l, const char *folder, const char *name) {
    if (l->n >= MODELS_MAX || is_hidden(l, name)) return true;
    char **paths = realloc(l->paths, (l->n + 1) * sizeof *paths);
    if (!paths) return false;
    l->paths = paths;
    if (asprintf(&paths[l->n], "%s/%s", folder, name) < 0) return false;
    l->n++;
    return true;
}

static int is_model_entry(const struct dirent *e) {
    return is_model_name(e->d_name);
}

/* A folder that is not there has no models. */
static bool add_folder(models_list *l, const char *folder) {
    struct dirent **entries = NULL;
    bool ok = true;
    int n = scandir(folder, &entries, is_model_entry, alphasort);
    for (int i = 0; i < n; i++) {
        ok = ok && add_model(l, folder, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return ok;
}

kvq_status models_find(const char *state_folder, models_list *ret, kvq_error *err) {
    models_list l = {0};
    char own[4096];
    snprintf(own, sizeof own, "%s/models", state_folder);
    if (!add_folder(&l, own) || !add_folder(&l, MODELS_SYSTEM_FOLDER) || !add_folder(&l, MODELS_PACKAGED_FOLDER)) {
        models_free(&l);
        return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the list of models");
    }
    if (l.n) qsort(l.paths, l.n, sizeof *l.paths, by_name);
    *ret = l;
    return KVQ_OK;
}

static kvq_status several(const models_list *l, kvq_error *err) {
    char names[400] = "";
    for (size_t i = 0, n = 0; i < l->n && n < sizeof names; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, "%s'%s'", i ? ", " : "", file_name(l->paths[i]));
    return kvq_fail(err, KVQ_NOT_FOUND, "there are %zu models, [model] path must say which: %s", l->n, names);
}

static kvq_status take_path(const char *path, char **ret, kvq_error *err) {
    char *copy = strdup(path);
    if (!copy) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for a path");
    *ret = copy;
    return KVQ_OK;
}

kvq_status models_choose(const char *state_folder, const char *configured_path, char **ret, kvq_error *err) {
    models_list l = {0};
    if (*configured_path && access(configured_path, F_OK) != 0)
        return kvq_fail(err, KVQ_NOT_FOUND, "[model] path = '%s': %m", configured_path);
    if (*configured_path) return take_path(configured_path, ret, err);
    kvq_status status = models_find(state_folder, &l, err);
    if (status) return status;
    if (l.n == 1)
        status = take_path(l.paths[0], ret, err);
    else if (l.n > 1)
        status = several(&l, err);
    else
        status = kvq_fail(err, KVQ_NOT_FOUND, "no model: put a GGUF file into '%s/models', or name one as [model] path",
                          state_folder);
    models_free(&l);
    return status;
}

static bool is_called(const char *path, const char *name) {
    const char *file = file_name(path);
    size_t n = strlen(name), m = strlen(file);
    return strcmp(file, name) == 0 || (m == n + 5 && strncmp(file, name, n) == 0);
}

kvq_status models_named(const char *state_folder, const char *name, char **ret, kvq_error *err) {
    models_list l = {0};
    kvq_status status = models_find(state_folder, &l, err);
    if (status) return status;
    status = kvq_fail(err, KVQ_NOT_FOUND, "no model '%.128s' in the models folders", name);
    for (size_t i = 0; i < l.n && status == KVQ_NOT_FOUND; i++)
        if (is_called(l.paths[i], name)) status = take_path(l.paths[i], ret, err);
    models_free(&l);
    return status;
}

/* ---- loading --------------------------------------------------------------------------------------------- */

struct loader {
    pthread_t thread;
    kvq_options options; /* strings owned */
    int wake_fd;
    /* written by the loading thread, read by the loop */
    atomic_int per_mille;
    atomic_bool done, cancelled;
    /* written before done is set, read after */
    kvq_engine *engine;
    kvq_status status;
    kvq_error err;
};

static void wake(loader *l) {
    uint64_t one = 1;
    ssize_t n = write(l->wake_fd, &one, sizeof one);
    (void)n; /* an eventfd that cannot take one more is awake already */
}

static int on_progress(void *user, double ratio) {
    loader *l = user;
    int per_mille = (int)(ratio * 1000);
    if (atomic_exchange(&l->per_mille, per_mille) / 10 != per_mille / 10) wake(l);
    return atomic_load(&l->cancelled);
}

static void *load(void *user) {
    loader *l = user;
    l->status = kvq_open(&l->options, &l->engine, &l->err);
    atomic_store(&l->done, true);
    wake(l);
    return NULL;
}

/* The configuration they come from may be reloaded meanwhile. */
static bool copy_strings(kvq_options *o) {
    const char **strings[] = {&o->model_path, &o->chat_template, &o->backend,
                              &o->isa,        &o->quant_policy,  &o->cache_max_entry_count};
    bool ok = true;
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        if (!*strings[i]) continue;
        *strings[i] = strdup(*strings[i]);
        ok = ok && *strings[i];
    }
    return ok;
}

static void free_loader(loader *l) {
    kvq_options *o = &l->options;
    const char *strings[] = {o->model_path, o->chat_template, o->backend,
                             o->isa,        o->quant_policy,  o->cache_max_entry_count};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) free((char *)strings[i]);
    free(l);
}

kvq_status loader_open(const kvq_options *options, int wake_fd, loader **ret, kvq_error *err) {
    loader *l = calloc(1, sizeof *l);
    if (!l) return kvq_fail(err, KVQ_NO_MEMORY, "no memory to load '%s'", options->model_path);
    l->options = *options;
    l->options.progress = on_progress;
    l->options.progress_user = l;
    l->wake_fd = wake_fd;
    int rc = copy_strings(&l->options) ? pthread_create(&l->thread, NULL, load, l) : ENOMEM;
    if (rc) {
        free_loader(l);
        return kvq_fail(err, KVQ_NO_MEMORY, "no thread to load '%s': %s", options->model_path, strerror(rc));
    }
    *ret = l;
    return KVQ_OK;
}

double loader_progress(const loader *l) {
    return atomic_load(&((loader *)l)->per_mille) / 1000.0;
}

bool loader_take(loader *l, kvq_engine **ret_engine, kvq_status *ret_status, kvq_error *err) {
    if (!atomic_load(&l->done)) return false;
    *ret_status = l->status;
    *ret_engine = l->engine;
    *err = l->err;
    l->engine = NULL;
    return true;
}

void loader_close(loader *l) {
    if (!l) return;
    atomic_store(&l->cancelled, true);
    (void)pthread_join(l->thread, NULL); /* the thread is ours and joined once */
    kvq_close(l->engine);
    free_loader(l);
}
