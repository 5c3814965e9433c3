/* file.c: reads input files whole, pipes included. Called by run, ask, eval, tokenize, logits. */
#include "file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static kvq_status read_all(FILE *in, const char *name, char **ret_bytes, size_t *ret_n, kvq_error *err) {
    char *bytes = NULL;
    size_t n = 0, capacity = 0, got;
    do {
        if (capacity - n < 2) {
            size_t larger = capacity ? capacity * 2 : 65536;
            char *moved = larger > capacity ? realloc(bytes, larger) : NULL;
            if (!moved) {
                free(bytes);
                return kvq_fail(err, KVQ_NO_MEMORY, "No memory for '%s' after %zu bytes.", name, n);
            }
            bytes = moved;
            capacity = larger;
        }
        got = fread(bytes + n, 1, capacity - n - 1, in);
        n += got;
    } while (got > 0);
    if (ferror(in)) {
        free(bytes);
        return kvq_fail(err, KVQ_IO, "Cannot read '%s': %s.", name, strerror(errno));
    }
    bytes[n] = '\0';
    *ret_bytes = bytes;
    *ret_n = n;
    return KVQ_OK;
}

kvq_status file_read(const char *path, char **ret_bytes, size_t *ret_n, kvq_error *err) {
    if (strcmp(path, "-") == 0) return read_all(stdin, "standard input", ret_bytes, ret_n, err);
    FILE *in = fopen(path, "rb");
    if (!in) return kvq_fail(err, KVQ_IO, "Cannot open '%s': %s.", path, strerror(errno));
    kvq_status status = read_all(in, path, ret_bytes, ret_n, err);
    (void)fclose(in); /* only read from */
    return status;
}

kvq_status file_read_prompt(const char *path, char **ret_text, kvq_error *err) {
    char *text = NULL;
    size_t n_bytes = 0;
    kvq_status status = file_read(path, &text, &n_bytes, err);
    if (!status && strlen(text) != n_bytes)
        status =
            kvq_fail(err, KVQ_BAD_ARGUMENT, "The prompt has a NUL byte at offset %zu; it is not text.", strlen(text));
    if (status)
        free(text);
    else
        *ret_text = text;
    return status;
}
