/* file.h: a small file as a string. For configuration, secrets and templates: config.c, config_use.c, main.c. */
#ifndef KVQD_FILE_H
#define KVQD_FILE_H

#include "../engine/kvq.h"

/* The whole regular file at path, at most max_bytes, without zero bytes, terminated; the caller frees it.
 * Errors: IO, BAD_FILE, NO_MEMORY; the text names the file. */
kvq_status file_read(const char *path, size_t max_bytes, char **ret, kvq_error *err);

#endif
