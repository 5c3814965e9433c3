/* gguf.h: a GGUF file (version 2 or 3) by mmap, trusting no byte of it. The container alone: what keys and tensors
 * mean is the business of model.c, tokenizer.c and template.c. Every offset, count, type and length is checked against
 * the file at open, so the finders below cannot fail on a damaged file. */
#ifndef KVQ_GGUF_H
#define KVQ_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../kernels/formats.h"
#include "../kernels/status.h"

typedef struct kvq_gguf kvq_gguf;

/* GGUF's value types, by its own numbers. */
typedef enum kvq_gguf_type {
    KVQ_GGUF_U8,
    KVQ_GGUF_I8,
    KVQ_GGUF_U16,
    KVQ_GGUF_I16,
    KVQ_GGUF_U32,
    KVQ_GGUF_I32,
    KVQ_GGUF_F32,
    KVQ_GGUF_BOOL,
    KVQ_GGUF_STRING,
    KVQ_GGUF_ARRAY,
    KVQ_GGUF_U64,
    KVQ_GGUF_I64,
    KVQ_GGUF_F64,
    KVQ_GGUF_TYPE_COUNT
} kvq_gguf_type;

/* Bytes inside the mapping; not terminated; borrowed until kvq_gguf_close. */
typedef struct kvq_text {
    const char *bytes;
    size_t n_bytes;
} kvq_text;

/* A text from the file for a message: cut after 64 bytes, '?' for what is not plain ASCII. Returns out. */
#define KVQ_SHOWN_BYTES 68
const char *kvq_text_show(kvq_text text, char out[KVQ_SHOWN_BYTES]);

typedef struct kvq_gguf_tensor {
    char name[128]; /* terminated copy */
    int n_dims;
    uint64_t dims[4]; /* GGUF order: dims[0] is contiguous (n_in), dims[1] rows (n_out); unused ones are 1 */
    kvq_format format;
    const void *data; /* in the mapping */
    uint64_t n_bytes;
} kvq_gguf_tensor;

/* One metadata value, for kvqctl show. */
typedef struct kvq_gguf_key {
    kvq_text name;
    kvq_gguf_type type, item_type; /* item_type: of an array's items */
    uint64_t n_items;              /* 1 for scalars */
} kvq_gguf_key;

/* Errors: KVQ_IO (cannot open or map), KVQ_BAD_FILE (not GGUF, truncated, inconsistent), KVQ_UNSUPPORTED (version,
 * big-endian, unknown tensor type), KVQ_NO_MEMORY. Each text names the file and the key or tensor. */
kvq_status kvq_gguf_open(const char *path, kvq_gguf **ret, kvq_error *err);
void kvq_gguf_close(kvq_gguf *g);
const char *kvq_gguf_path(const kvq_gguf *g);
uint64_t kvq_gguf_file_bytes(const kvq_gguf *g);

/* Scalars. False when the key is absent or of another kind; any integer type that holds the value will do, and an
 * integer where a float is asked. */
bool kvq_gguf_u64(const kvq_gguf *g, const char *key, uint64_t *ret);
bool kvq_gguf_f64(const kvq_gguf *g, const char *key, double *ret);
bool kvq_gguf_bool(const kvq_gguf *g, const char *key, bool *ret);
bool kvq_gguf_text(const kvq_gguf *g, const char *key, kvq_text *ret);

/* Arrays: length (false if absent or not an array), then items by index (false out of range or of another kind). Text
 * items are indexed at open, so each access is O(1). */
bool kvq_gguf_array(const kvq_gguf *g, const char *key, kvq_gguf_type *ret_type, uint64_t *ret_n);
bool kvq_gguf_array_text(const kvq_gguf *g, const char *key, uint64_t i, kvq_text *ret);
bool kvq_gguf_array_f64(const kvq_gguf *g, const char *key, uint64_t i, double *ret);
bool kvq_gguf_array_u64(const kvq_gguf *g, const char *key, uint64_t i, uint64_t *ret);

/* Opaque handle for loops over long arrays (vocabularies), so that the key is not looked up each time. NULL if absent.
 */
typedef struct kvq_gguf_items kvq_gguf_items;
const kvq_gguf_items *kvq_gguf_items_find(const kvq_gguf *g, const char *key, kvq_gguf_type *ret_type, uint64_t *ret_n);
bool kvq_gguf_items_text(const kvq_gguf_items *a, uint64_t i, kvq_text *ret);
bool kvq_gguf_items_f64(const kvq_gguf_items *a, uint64_t i, double *ret);
bool kvq_gguf_items_i64(const kvq_gguf_items *a, uint64_t i, int64_t *ret);

size_t kvq_gguf_n_tensors(const kvq_gguf *g);
const kvq_gguf_tensor *kvq_gguf_tensor_at(const kvq_gguf *g, size_t i);
const kvq_gguf_tensor *kvq_gguf_tensor_find(const kvq_gguf *g, const char *name); /* NULL if absent */

size_t kvq_gguf_n_keys(const kvq_gguf *g);
kvq_gguf_key kvq_gguf_key_at(const kvq_gguf *g, size_t i);

/* Tells the kernel that these pages of the file, and some beside them, are not needed now (after repacking a tensor).
 */
void kvq_gguf_drop(const kvq_gguf *g, const kvq_gguf_tensor *t);

#endif
