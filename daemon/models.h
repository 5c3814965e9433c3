/* models.h: which model to load, and loading it in a thread of its own. Called by daemon.c and command.c. */
#ifndef KVQD_MODELS_H
#define KVQD_MODELS_H

#include "../engine/kvq.h"

#define MODELS_PACKAGED_FOLDER "/usr/share/kvqd/models"
#define MODELS_SYSTEM_FOLDER "/var/lib/kvqd/models"
#define MODELS_MAX 1024

/* The GGUF files of the models folders, sorted by name: state_folder/models, then the system's, then the packages'. */
typedef struct models_list {
    size_t n;
    char **paths; /* owned: models_free */
} models_list;

kvq_status models_find(const char *state_folder, models_list *ret, kvq_error *err);
void models_free(models_list *l);

/* The path for what a person named: [model] path (a file; empty: the only one there is), or of the command `load` (a
 * file name in a models folder, with or without ".gguf"; no slashes). *ret is the caller's to free. Errors: NOT_FOUND
 * (none, or several: the text lists them), NO_MEMORY. */
kvq_status models_choose(const char *state_folder, const char *configured_path, char **ret, kvq_error *err);
kvq_status models_named(const char *state_folder, const char *name, char **ret, kvq_error *err);

/* A model on its way into memory. The engine is handed over to the caller of loader_take, who may be another thread. */
typedef struct loader loader;

/* options and its strings are copied; chat_template is the template's text. wake_fd: an eventfd, written as it goes on
 * and at the end. */
kvq_status loader_open(const kvq_options *options, int wake_fd, loader **ret, kvq_error *err);
double loader_progress(const loader *l);

/* True once it ended: *ret_status, and *ret_engine (the caller's) or *err. */
bool loader_take(loader *l, kvq_engine **ret_engine, kvq_status *ret_status, kvq_error *err);
void loader_close(loader *l); /* cancels and waits; NULL allowed */

#endif
