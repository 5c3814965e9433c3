/* file.h: whole input files, of commands that take -f FILE. */
#ifndef KVQ_FILE_H
#define KVQ_FILE_H

#include <stddef.h>

#include "../kernels/status.h"

/* Reads all of path ("-": standard input) into memory owned by the caller (free); terminated. Errors: KVQ_IO,
 * KVQ_NO_MEMORY. */
kvq_status file_read(const char *path, char **ret_bytes, size_t *ret_n, kvq_error *err);

/* The same for what ends at its first NUL: one inside is KVQ_BAD_ARGUMENT, so that no prompt is cut in silence. */
kvq_status file_read_prompt(const char *path, char **ret_text, kvq_error *err);

#endif
