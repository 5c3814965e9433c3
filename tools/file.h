/* file.h: whole input files, of commands that take -f FILE. */
#ifndef KVQ_FILE_H
#define KVQ_FILE_H

#include <stddef.h>

#include "../kernels/status.h"

/* Reads all of path ("-": standard input) into memory owned by the caller (free); terminated. Errors: KVQ_IO,
 * KVQ_NO_MEMORY. */
kvq_status file_read(const char *path, char **ret_bytes, size_t *ret_n, kvq_error *err);

#endif
