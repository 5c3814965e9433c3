/* npy.c: the .npy container, version 1.0 (numpy/lib/format.py). Called by logits.c.
 *   "\x93NUMPY" | 1 | 0 | u16 little-endian length of the header | header, a Python dict literal padded with spaces to
 * a multiple of 64 bytes in all and ended by "\n" | the array's bytes, row-major */
#include "npy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct npy {
    FILE *file;
    char *path;
    size_t n_rows, n_cols, rows_written;
};

static size_t make_header(char out[256], size_t n_rows, size_t n_cols) {
    const char *order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? "<" : ">";
    static const char magic[8] = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0};
    memcpy(out, magic, sizeof magic);
    int n = snprintf(out + 10, 200, "{'descr': '%sf4', 'fortran_order': False, 'shape': (%zu, %zu), }", order, n_rows,
                     n_cols);
    size_t total = (10 + (size_t)n + 1 + 63) / 64 * 64;
    memset(out + 10 + n, ' ', total - 11 - (size_t)n);
    out[total - 1] = '\n';
    out[8] = (char)((total - 10) & 0xFF);
    out[9] = (char)((total - 10) >> 8);
    return total;
}

static kvq_status write_failed(const npy *f, kvq_error *err) {
    return kvq_fail(err, KVQ_IO, "Cannot write '%s': %s.", f->path, strerror(errno));
}

kvq_status npy_open(const char *path, size_t n_rows, size_t n_cols, npy **ret, kvq_error *err) {
    char header[256];
    npy *f = calloc(1, sizeof *f);
    if (f) f->path = strdup(path);
    if (!f || !f->path) {
        free(f);
        return kvq_fail(err, KVQ_NO_MEMORY, "No memory to write '%s'.", path);
    }
    f->n_rows = n_rows;
    f->n_cols = n_cols;
    f->file = fopen(path, "wb");
    size_t n = make_header(header, n_rows, n_cols);
    if (!f->file || fwrite(header, 1, n, f->file) != n) {
        kvq_status status = write_failed(f, err);
        npy_discard(f);
        return status;
    }
    *ret = f;
    return KVQ_OK;
}

kvq_status npy_write_row(npy *f, const float *row, kvq_error *err) {
    if (fwrite(row, sizeof *row, f->n_cols, f->file) != f->n_cols) return write_failed(f, err);
    f->rows_written++;
    return KVQ_OK;
}

static void free_npy(npy *f) {
    free(f->path);
    free(f);
}

kvq_status npy_close(npy *f, kvq_error *err) {
    if (!f) return KVQ_OK;
    kvq_status status = KVQ_OK;
    if (f->rows_written != f->n_rows)
        status = kvq_fail(err, KVQ_IO, "'%s' got %zu of %zu rows.", f->path, f->rows_written, f->n_rows);
    if (fflush(f->file) != 0 && !status) status = write_failed(f, err);
    if (status) {
        npy_discard(f);
        return status;
    }
    if (fclose(f->file) != 0) status = write_failed(f, err);
    free_npy(f);
    return status;
}

void npy_discard(npy *f) {
    struct stat about;
    if (!f) return;
    if (f->file) {
        /* Only a file of our own goes; /dev/stdout and pipes stay. */
        if (fstat(fileno(f->file), &about) == 0 && S_ISREG(about.st_mode)) (void)unlink(f->path);
        (void)fclose(f->file); /* its data is unwanted */
    }
    free_npy(f);
}
