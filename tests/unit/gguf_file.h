/* gguf_file.h: GGUF files written byte by byte in memory, right or wrong, for the tests of what reads them.
 * The counts in the header are those that the keys and tensors put so far come to, unless a test overwrites them. */
#ifndef KVQ_TEST_GGUF_FILE_H
#define KVQ_TEST_GGUF_FILE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/gguf.h"

typedef struct gguf_file {
    uint8_t bytes[1 << 18];
    size_t n;
    int fd;
    char path[32];
} gguf_file;

static inline void put(gguf_file *f, const void *bytes, size_t n) {
    if (n > sizeof f->bytes - f->n) abort();
    if (n) memcpy(f->bytes + f->n, bytes, n);
    f->n += n;
}

static inline void put_u32(gguf_file *f, uint32_t v) {
    put(f, &v, sizeof v);
}

static inline void put_u64(gguf_file *f, uint64_t v) {
    put(f, &v, sizeof v);
}

static inline void put_text(gguf_file *f, const char *text) {
    put_u64(f, strlen(text));
    put(f, text, strlen(text));
}

static inline void set_u64(gguf_file *f, size_t at, uint64_t v) {
    memcpy(f->bytes + at, &v, sizeof v);
}

enum { AT_VERSION = 4, AT_N_TENSORS = 8, AT_N_KEYS = 16 };

static inline void count_one(gguf_file *f, size_t at) {
    uint64_t n;
    memcpy(&n, f->bytes + at, sizeof n);
    set_u64(f, at, n + 1);
}

static inline void start_file(gguf_file *f) {
    f->n = 0;
    f->fd = -1;
    put(f, "GGUF", 4);
    put_u32(f, 3);
    put_u64(f, 0);
    put_u64(f, 0);
}

static inline void put_key(gguf_file *f, const char *name, kvq_gguf_type type, const void *value, size_t n) {
    count_one(f, AT_N_KEYS);
    put_text(f, name);
    put_u32(f, (uint32_t)type);
    put(f, value, n);
}

static inline void put_u32_key(gguf_file *f, const char *name, uint32_t v) {
    put_key(f, name, KVQ_GGUF_U32, &v, sizeof v);
}

static inline void put_bool_key(gguf_file *f, const char *name, uint8_t v) {
    put_key(f, name, KVQ_GGUF_BOOL, &v, 1);
}

static inline void put_text_key(gguf_file *f, const char *name, const char *text) {
    put_key(f, name, KVQ_GGUF_STRING, NULL, 0);
    put_text(f, text);
}

/* Items follow by put. */
static inline void put_array_key(gguf_file *f, const char *name, kvq_gguf_type item_type, uint64_t n_items) {
    put_key(f, name, KVQ_GGUF_ARRAY, NULL, 0);
    put_u32(f, (uint32_t)item_type);
    put_u64(f, n_items);
}

static inline void put_tensor(gguf_file *f, const char *name, int n_dims, const uint64_t *dims, uint32_t format,
                              uint64_t offset) {
    count_one(f, AT_N_TENSORS);
    put_text(f, name);
    put_u32(f, (uint32_t)n_dims);
    for (int d = 0; d < n_dims; d++) put_u64(f, dims[d]);
    put_u32(f, format);
    put_u64(f, offset);
}

static inline void pad_to(gguf_file *f, size_t alignment) {
    while (f->n % alignment) put(f, "", 1);
}

static inline kvq_status open_file(gguf_file *f, kvq_gguf **ret, kvq_error *err) {
    if (f->fd >= 0) close(f->fd);
    f->fd = memfd_create("gguf", MFD_CLOEXEC);
    if (f->fd < 0 || (f->n && write(f->fd, f->bytes, f->n) != (ssize_t)f->n)) abort();
    snprintf(f->path, sizeof f->path, "/proc/self/fd/%d", f->fd);
    return kvq_gguf_open(f->path, ret, err);
}

static inline void end_file(gguf_file *f) {
    if (f->fd >= 0) close(f->fd);
    f->fd = -1;
}

#endif
