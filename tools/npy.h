/* npy.h: writes a two-dimensional float32 array as a NumPy .npy file, row by row. */
#ifndef KVQ_NPY_H
#define KVQ_NPY_H

#include <stddef.h>

#include "../kernels/status.h"

typedef struct npy npy;

/* Creates or replaces path. The file is complete only after n_rows rows and npy_close. */
kvq_status npy_open(const char *path, size_t n_rows, size_t n_cols, npy **ret, kvq_error *err);
kvq_status npy_write_row(npy *f, const float *row, kvq_error *err);
/* Fails (KVQ_IO) when rows are missing or the system could not write; the file is removed then. NULL allowed. */
kvq_status npy_close(npy *f, kvq_error *err);
/* Gives up: closes and removes. NULL allowed. */
void npy_discard(npy *f);

#endif
