/* gguf.c: the GGUF container, version 2 or 3, mapped read-only and trusted in no byte.
 * Called by model.c (tensors, hyperparameters), tokenizer.c (vocabulary), template's callers and kvqctl show.
 * All numbers are little-endian and unaligned:
 *
 *     "GGUF" | u32 version | u64 n_tensors | u64 n_keys
 *     n_keys    times: text name | u32 type | value             text  = u64 n_bytes | bytes
 *     n_tensors times: text name | u32 n_dims | u64 dims[n_dims] | u32 format | u64 offset
 *     padding to general.alignment (32 if absent) | tensor data; offsets count from here
 *     array value = u32 item type | u64 n | items
 *
 * One reader walks this once at open. Every length is compared with the bytes that are left before it is used, so
 * memory grows only with what the file really holds. Names are found by bisection in arrays sorted at open: keys are
 * few, and unlike a hash this has no bad case that a hostile file could choose. What cannot be guarded: a file that
 * another process truncates while it is mapped (SIGBUS). */
#define _GNU_SOURCE
#include "gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_ALIGNMENT 32
#define MAX_ALIGNMENT (1u << 20) /* a sane bound; files use 32, sometimes 4096 */
#define MAX_KEY_NAME_BYTES 65535 /* the GGUF standard's limit */
#define LEAST_KEY_BYTES 13       /* empty name, type, one byte of value */
#define LEAST_TENSOR_BYTES 24    /* empty name, no dimensions, format, offset */
#define LABEL_BYTES 112

/* One key with its value; also the handle that loops over arrays use. */
struct kvq_gguf_items {
    kvq_text name;
    kvq_gguf_type type, item_type;
    uint64_t n_items;
    const uint8_t *data; /* the items in the mapping; NULL for text */
    kvq_text *texts;     /* [n_items], owned, for text items; a scalar text is one item */
};

struct kvq_gguf {
    char *path;
    const uint8_t *bytes; /* the mapping */
    size_t n_bytes;
    uint64_t alignment;

    kvq_gguf_items *keys;
    size_t n_keys, keys_capacity;
    const kvq_gguf_items **keys_by_name; /* [n_keys] */

    kvq_gguf_tensor *tensors;
    uint64_t *offsets; /* [n_tensors], from the start of the data */
    size_t n_tensors, tensors_capacity;
    const kvq_gguf_tensor **tensors_by_name; /* [n_tensors] */
};

/* clang-format off */
static const struct { const char *name; size_t n_bytes; } value_types[KVQ_GGUF_TYPE_COUNT] = {
    [KVQ_GGUF_U8]    = {"u8",  1}, [KVQ_GGUF_I8]     = {"i8",     1}, [KVQ_GGUF_U16]   = {"u16",   2},
    [KVQ_GGUF_I16]   = {"i16", 2}, [KVQ_GGUF_U32]    = {"u32",    4}, [KVQ_GGUF_I32]   = {"i32",   4},
    [KVQ_GGUF_F32]   = {"f32", 4}, [KVQ_GGUF_BOOL]   = {"bool",   1}, [KVQ_GGUF_STRING]= {"text",  0},
    [KVQ_GGUF_ARRAY] = {"array", 0}, [KVQ_GGUF_U64]  = {"u64",    8}, [KVQ_GGUF_I64]   = {"i64",   8},
    [KVQ_GGUF_F64]   = {"f64", 8},
};
/* clang-format on */

/* ---- the reader -------------------------------------------------------------------------------------------------- */

typedef struct reader {
    kvq_gguf *g;
    size_t at;               /* offset of the next byte */
    char label[LABEL_BYTES]; /* what is being read, for the errors: "key 3 ('general.name')" */
    kvq_error *err;
} reader;

const char *kvq_text_show(kvq_text name, char out[KVQ_SHOWN_BYTES]) {
    size_t n = name.n_bytes < 64 ? name.n_bytes : 64;
    for (size_t i = 0; i < n; i++) out[i] = name.bytes[i] >= 0x20 && name.bytes[i] < 0x7F ? name.bytes[i] : '?';
    memcpy(out + n, name.n_bytes > 64 ? "..." : "", name.n_bytes > 64 ? 4 : 1);
    return out;
}

static size_t bytes_left(const reader *r) {
    return r->g->n_bytes - r->at;
}

static kvq_status no_memory(const reader *r) {
    return kvq_fail(r->err, KVQ_NO_MEMORY, "'%s': no memory for %s", r->g->path, r->label);
}

static kvq_status ends_early(const reader *r, uint64_t n, const char *unit) {
    return kvq_fail(r->err, KVQ_BAD_FILE,
                    "'%s': the file ends inside %s: %" PRIu64 " %s wanted at offset %zu, %zu bytes left", r->g->path,
                    r->label, n, unit, r->at, bytes_left(r));
}

static kvq_status take_bytes(reader *r, uint64_t n, const uint8_t **ret) {
    if (n > bytes_left(r)) return ends_early(r, n, "bytes");
    *ret = r->g->bytes + r->at;
    r->at += (size_t)n;
    return KVQ_OK;
}

static kvq_status take_u32(reader *r, uint32_t *ret) {
    const uint8_t *p = NULL;
    kvq_status status = take_bytes(r, sizeof *ret, &p);
    if (!status) memcpy(ret, p, sizeof *ret);
    return status;
}

static kvq_status take_u64(reader *r, uint64_t *ret) {
    const uint8_t *p = NULL;
    kvq_status status = take_bytes(r, sizeof *ret, &p);
    if (!status) memcpy(ret, p, sizeof *ret);
    return status;
}

static kvq_status take_text(reader *r, kvq_text *ret) {
    uint64_t n = 0;
    const uint8_t *p = NULL;
    kvq_status status;
    if ((status = take_u64(r, &n)) || (status = take_bytes(r, n, &p))) return status;
    *ret = (kvq_text){(const char *)p, (size_t)n};
    return KVQ_OK;
}

static const kvq_gguf_items *find_key(const kvq_gguf *g, const char *name);

/* ---- keys -------------------------------------------------------------------------------------------------------- */

static kvq_status take_value_type(reader *r, kvq_gguf_type *ret) {
    uint32_t type = 0;
    kvq_status status = take_u32(r, &type);
    if (status) return status;
    if (type >= KVQ_GGUF_TYPE_COUNT)
        return kvq_fail(r->err, KVQ_BAD_FILE, "'%s': %s has value type %" PRIu32 ", known are 0 to %d", r->g->path,
                        r->label, type, KVQ_GGUF_TYPE_COUNT - 1);
    *ret = (kvq_gguf_type)type;
    return KVQ_OK;
}

static kvq_status take_items(reader *r, kvq_gguf_items *key) {
    if (key->item_type != KVQ_GGUF_STRING) {
        size_t width = value_types[key->item_type].n_bytes;
        if (key->n_items > bytes_left(r) / width) return ends_early(r, key->n_items, value_types[key->item_type].name);
        return take_bytes(r, key->n_items * width, &key->data);
    }
    if (key->n_items > bytes_left(r) / sizeof(uint64_t)) return ends_early(r, key->n_items, "texts");
    key->texts = calloc((size_t)key->n_items + 1, sizeof *key->texts);
    if (!key->texts) return no_memory(r);
    for (uint64_t i = 0; i < key->n_items; i++) {
        kvq_status status = take_text(r, &key->texts[i]);
        if (status) return status;
    }
    return KVQ_OK;
}

static kvq_status take_value(reader *r, kvq_gguf_items *key) {
    kvq_status status = take_value_type(r, &key->type);
    if (status) return status;
    key->item_type = key->type;
    key->n_items = 1;
    if (key->type == KVQ_GGUF_ARRAY) {
        if ((status = take_value_type(r, &key->item_type)) || (status = take_u64(r, &key->n_items))) return status;
        if (key->item_type == KVQ_GGUF_ARRAY)
            return kvq_fail(r->err, KVQ_UNSUPPORTED, "'%s': %s is an array of arrays, which no known model needs",
                            r->g->path, r->label);
    }
    return take_items(r, key);
}

/* Room for one more element of an array that grows by doubling, so that a count in the file never decides an
 * allocation. */
static bool grow(void **array, size_t n, size_t *capacity, size_t element_bytes) {
    if (n < *capacity) return true;
    size_t wanted = *capacity ? *capacity * 2 : 64;
    void *bigger = reallocarray(*array, wanted, element_bytes);
    if (!bigger) return false;
    *array = bigger;
    *capacity = wanted;
    return true;
}

static kvq_status take_key(reader *r, uint64_t i) {
    kvq_gguf *g = r->g;
    snprintf(r->label, sizeof r->label, "the name of key %" PRIu64, i);
    if (!grow((void **)&g->keys, g->n_keys, &g->keys_capacity, sizeof *g->keys)) return no_memory(r);
    kvq_gguf_items *key = &g->keys[g->n_keys++];
    *key = (kvq_gguf_items){0};
    kvq_status status = take_text(r, &key->name);
    if (status) return status;
    char name[KVQ_SHOWN_BYTES];
    snprintf(r->label, sizeof r->label, "key %" PRIu64 " ('%s')", i, kvq_text_show(key->name, name));
    if (key->name.n_bytes == 0 || key->name.n_bytes > MAX_KEY_NAME_BYTES)
        return kvq_fail(r->err, KVQ_BAD_FILE, "'%s': %s has a name of %zu bytes, allowed are 1 to %d", g->path,
                        r->label, key->name.n_bytes, MAX_KEY_NAME_BYTES);
    return take_value(r, key);
}

static kvq_status take_keys(reader *r, uint64_t n) {
    snprintf(r->label, sizeof r->label, "the keys");
    if (n > bytes_left(r) / LEAST_KEY_BYTES) return ends_early(r, n, "keys");
    for (uint64_t i = 0; i < n; i++) {
        kvq_status status = take_key(r, i);
        if (status) return status;
    }
    return KVQ_OK;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static kvq_status take_dims(reader *r, kvq_gguf_tensor *t, uint64_t *ret_n_values) {
    uint32_t n_dims = 0;
    kvq_status status = take_u32(r, &n_dims);
    if (status) return status;
    if (n_dims > 4)
        return kvq_fail(r->err, KVQ_BAD_FILE, "'%s': %s has %" PRIu32 " dimensions, allowed are up to 4", r->g->path,
                        r->label, n_dims);
    t->n_dims = (int)n_dims;
    *ret_n_values = 1;
    for (int d = 0; d < t->n_dims; d++) {
        if ((status = take_u64(r, &t->dims[d]))) return status;
        if (t->dims[d] == 0 || __builtin_mul_overflow(*ret_n_values, t->dims[d], ret_n_values) ||
            *ret_n_values > INT64_MAX)
            return kvq_fail(r->err, KVQ_BAD_FILE,
                            "'%s': %s has %" PRIu64 " as dimension %d, which is zero or makes more values than 2^63",
                            r->g->path, r->label, t->dims[d], d);
    }
    return KVQ_OK;
}

static kvq_status take_format(reader *r, kvq_gguf_tensor *t, uint64_t n_values) {
    uint32_t id = 0;
    kvq_status status = take_u32(r, &id);
    if (status) return status;
    t->format = kvq_format_find(id);
    if (t->format == KVQ_FORMAT_COUNT)
        return kvq_fail(r->err, KVQ_UNSUPPORTED, "'%s': %s has the number format %" PRIu32 ", which kvqd does not know",
                        r->g->path, r->label, id);
    const kvq_format_info *format = kvq_format_get(t->format);
    uint64_t block_len = (uint64_t)format->block_len;
    if (t->dims[0] % block_len != 0)
        return kvq_fail(r->err, KVQ_BAD_FILE,
                        "'%s': %s has rows of %" PRIu64 " values, not a multiple of %s's block of %d", r->g->path,
                        r->label, t->dims[0], format->name, format->block_len);
    if (__builtin_mul_overflow(n_values / block_len, (uint64_t)format->block_bytes, &t->n_bytes))
        return kvq_fail(r->err, KVQ_BAD_FILE, "'%s': %s is larger than any file", r->g->path, r->label);
    return KVQ_OK;
}

static kvq_status take_tensor_name(reader *r, kvq_gguf_tensor *t) {
    kvq_text name;
    kvq_status status = take_text(r, &name);
    if (status) return status;
    char text[KVQ_SHOWN_BYTES];
    snprintf(r->label, sizeof r->label, "tensor '%s'", kvq_text_show(name, text));
    if (name.n_bytes == 0 || name.n_bytes >= sizeof t->name || memchr(name.bytes, '\0', name.n_bytes))
        return kvq_fail(r->err, KVQ_BAD_FILE,
                        "'%s': %s has a name of %zu bytes, allowed are 1 to %zu and none of them zero", r->g->path,
                        r->label, name.n_bytes, sizeof t->name - 1);
    memcpy(t->name, name.bytes, name.n_bytes);
    return KVQ_OK;
}

static kvq_status take_tensor(reader *r, uint64_t i) {
    kvq_gguf *g = r->g;
    snprintf(r->label, sizeof r->label, "the name of tensor %" PRIu64, i);
    size_t offsets_capacity = g->tensors_capacity;
    if (!grow((void **)&g->offsets, g->n_tensors, &offsets_capacity, sizeof *g->offsets) ||
        !grow((void **)&g->tensors, g->n_tensors, &g->tensors_capacity, sizeof *g->tensors))
        return no_memory(r);
    kvq_gguf_tensor *t = &g->tensors[g->n_tensors];
    *t = (kvq_gguf_tensor){.dims = {1, 1, 1, 1}};
    uint64_t n_values = 1;
    kvq_status status;
    if ((status = take_tensor_name(r, t)) || (status = take_dims(r, t, &n_values)) ||
        (status = take_format(r, t, n_values)) || (status = take_u64(r, &g->offsets[g->n_tensors])))
        return status;
    g->n_tensors++;
    return KVQ_OK;
}

static kvq_status take_tensors(reader *r, uint64_t n) {
    snprintf(r->label, sizeof r->label, "the list of tensors");
    if (n > bytes_left(r) / LEAST_TENSOR_BYTES) return ends_early(r, n, "tensors");
    for (uint64_t i = 0; i < n; i++) {
        kvq_status status = take_tensor(r, i);
        if (status) return status;
    }
    return KVQ_OK;
}

static kvq_status find_alignment(reader *r) {
    kvq_gguf *g = r->g;
    g->alignment = DEFAULT_ALIGNMENT;
    if (!find_key(g, "general.alignment")) return KVQ_OK;
    uint64_t a = 0;
    if (!kvq_gguf_u64(g, "general.alignment", &a))
        return kvq_fail(r->err, KVQ_BAD_FILE,
                        "'%s': key 'general.alignment' is not a number, allowed are powers of 2 up to %u", g->path,
                        MAX_ALIGNMENT);
    if (a == 0 || a > MAX_ALIGNMENT || (a & (a - 1)) != 0)
        return kvq_fail(r->err, KVQ_BAD_FILE,
                        "'%s': key 'general.alignment' is %" PRIu64 ", allowed are powers of 2 up to %u", g->path, a,
                        MAX_ALIGNMENT);
    g->alignment = a;
    return KVQ_OK;
}

/* Offsets to pointers, once the end of the header is known. */
static kvq_status place_tensors(reader *r) {
    kvq_gguf *g = r->g;
    if (g->n_tensors == 0) return KVQ_OK; /* vocabulary-only files may end without the padding */
    uint64_t start = ((uint64_t)r->at + g->alignment - 1) & ~(g->alignment - 1);
    uint64_t data_bytes = start < g->n_bytes ? g->n_bytes - start : 0;
    for (size_t i = 0; i < g->n_tensors; i++) {
        kvq_gguf_tensor *t = &g->tensors[i];
        char name[KVQ_SHOWN_BYTES];
        kvq_text text = {t->name, strlen(t->name)};
        if (g->offsets[i] % g->alignment != 0)
            return kvq_fail(r->err, KVQ_BAD_FILE,
                            "'%s': tensor '%s' is at offset %" PRIu64 ", not a multiple of the alignment %" PRIu64,
                            g->path, kvq_text_show(text, name), g->offsets[i], g->alignment);
        if (g->offsets[i] > data_bytes || t->n_bytes > data_bytes - g->offsets[i])
            return kvq_fail(r->err, KVQ_BAD_FILE,
                            "'%s': tensor '%s' wants %" PRIu64 " bytes at offset %" PRIu64
                            " of the data, the file has %" PRIu64,
                            g->path, kvq_text_show(text, name), t->n_bytes, g->offsets[i], data_bytes);
        t->data = g->bytes + start + g->offsets[i];
    }
    return KVQ_OK;
}

/* ---- indexes ----------------------------------------------------------------------------------------------------- */

static int compare_texts(kvq_text a, kvq_text b) {
    size_t n = a.n_bytes < b.n_bytes ? a.n_bytes : b.n_bytes;
    int order = memcmp(a.bytes, b.bytes, n);
    return order ? order : (a.n_bytes > b.n_bytes) - (a.n_bytes < b.n_bytes);
}

static int compare_keys(const void *a, const void *b) {
    return compare_texts((*(const kvq_gguf_items *const *)a)->name, (*(const kvq_gguf_items *const *)b)->name);
}

static int compare_tensors(const void *a, const void *b) {
    return strcmp((*(const kvq_gguf_tensor *const *)a)->name, (*(const kvq_gguf_tensor *const *)b)->name);
}

static int compare_places(const void *a, const void *b) {
    const uint8_t *x = (*(const kvq_gguf_tensor *const *)a)->data, *y = (*(const kvq_gguf_tensor *const *)b)->data;
    return (x > y) - (x < y);
}

static kvq_status index_keys(reader *r) {
    kvq_gguf *g = r->g;
    snprintf(r->label, sizeof r->label, "the index of keys");
    g->keys_by_name = calloc(g->n_keys + 1, sizeof *g->keys_by_name);
    if (!g->keys_by_name) return no_memory(r);
    for (size_t i = 0; i < g->n_keys; i++) g->keys_by_name[i] = &g->keys[i];
    qsort(g->keys_by_name, g->n_keys, sizeof *g->keys_by_name, compare_keys);
    char name[KVQ_SHOWN_BYTES];
    for (size_t i = 1; i < g->n_keys; i++)
        if (compare_keys(&g->keys_by_name[i - 1], &g->keys_by_name[i]) == 0)
            return kvq_fail(r->err, KVQ_BAD_FILE, "'%s': key '%s' stands in it twice", g->path,
                            kvq_text_show(g->keys_by_name[i]->name, name));
    return KVQ_OK;
}

/* Sorted by place first, to see overlaps, then by name. */
static kvq_status index_tensors(reader *r) {
    kvq_gguf *g = r->g;
    snprintf(r->label, sizeof r->label, "the index of tensors");
    const kvq_gguf_tensor **order = calloc(g->n_tensors + 1, sizeof(*order));
    if (!order) return no_memory(r);
    g->tensors_by_name = order;
    for (size_t i = 0; i < g->n_tensors; i++) order[i] = &g->tensors[i];
    char one[KVQ_SHOWN_BYTES], two[KVQ_SHOWN_BYTES];
#define NAME(i, buffer) kvq_text_show((kvq_text){order[i]->name, strlen(order[i]->name)}, buffer)
    qsort(order, g->n_tensors, sizeof(*order), compare_places);
    for (size_t i = 1; i < g->n_tensors; i++)
        if ((const uint8_t *)order[i]->data - (const uint8_t *)order[i - 1]->data < (ptrdiff_t)order[i - 1]->n_bytes)
            return kvq_fail(r->err, KVQ_BAD_FILE, "'%s': tensors '%s' and '%s' overlap", g->path, NAME(i - 1, one),
                            NAME(i, two));
    qsort(order, g->n_tensors, sizeof(*order), compare_tensors);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (compare_tensors(&order[i - 1], &order[i]) == 0)
            return kvq_fail(r->err, KVQ_BAD_FILE, "'%s': tensor '%s' stands in it twice", g->path, NAME(i, one));
#undef NAME
    return KVQ_OK;
}

/* ---- open and close ---------------------------------------------------------------------------------------------- */

static kvq_status map_file(kvq_gguf *g, kvq_error *err) {
    /* O_NONBLOCK: a FIFO in place of the file must not hang the open; it means nothing to a regular file. */
    int fd = open(g->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return kvq_fail(err, KVQ_IO, "cannot open '%s': %s", g->path, strerror(errno));
    struct stat st;
    kvq_status status = KVQ_OK;
    if (fstat(fd, &st) != 0)
        status = kvq_fail(err, KVQ_IO, "cannot ask for the size of '%s': %s", g->path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        status = kvq_fail(err, KVQ_BAD_FILE, "'%s' is not a regular file", g->path);
    else if (st.st_size == 0)
        status = kvq_fail(err, KVQ_BAD_FILE, "'%s' is empty, not a GGUF file", g->path);
    else if ((uint64_t)st.st_size > SIZE_MAX / 2)
        status = kvq_fail(err, KVQ_UNSUPPORTED, "'%s' is larger than this machine can map", g->path);
    else {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            status = kvq_fail(err, KVQ_IO, "cannot map '%s': %s", g->path, strerror(errno));
        else {
            g->bytes = p;
            g->n_bytes = (size_t)st.st_size;
        }
    }
    (void)close(fd); /* read-only: nothing that a failing close could lose */
    return status;
}

static kvq_status take_header(reader *r, uint64_t *ret_n_tensors, uint64_t *ret_n_keys) {
    const char *path = r->g->path;
    const uint8_t *magic = NULL;
    uint32_t version = 0;
    kvq_status status;
    snprintf(r->label, sizeof r->label, "the header");
    if ((status = take_bytes(r, 4, &magic))) return status;
    if (memcmp(magic, "GGUF", 4) != 0)
        return kvq_fail(r->err, KVQ_BAD_FILE, "'%s' is not a GGUF file: it starts with %02x %02x %02x %02x, not 'GGUF'",
                        path, magic[0], magic[1], magic[2], magic[3]);
    if ((status = take_u32(r, &version))) return status;
    if (version != 0 && (version & 0xFFFF) == 0)
        return kvq_fail(r->err, KVQ_UNSUPPORTED, "'%s' is a big-endian GGUF file; convert it with gguf_convert_endian",
                        path);
    if (version != 2 && version != 3)
        return kvq_fail(r->err, KVQ_UNSUPPORTED, "'%s' has GGUF version %" PRIu32 ", supported are 2 and 3", path,
                        version);
    if ((status = take_u64(r, ret_n_tensors))) return status;
    return take_u64(r, ret_n_keys);
}

static kvq_status read_file(kvq_gguf *g, kvq_error *err) {
    reader r = {.g = g, .err = err};
    uint64_t n_tensors = 0, n_keys = 0;
    kvq_status status;
    if ((status = take_header(&r, &n_tensors, &n_keys)) || (status = take_keys(&r, n_keys)) ||
        (status = index_keys(&r)) || (status = find_alignment(&r)) || (status = take_tensors(&r, n_tensors)) ||
        (status = place_tensors(&r)) || (status = index_tensors(&r)))
        return status;
    return KVQ_OK;
}

kvq_status kvq_gguf_open(const char *path, kvq_gguf **ret, kvq_error *err) {
    kvq_gguf *g = calloc(1, sizeof *g);
    if (!g) return kvq_fail(err, KVQ_NO_MEMORY, "'%s': no memory to open it", path);
    kvq_status status;
    g->path = strdup(path);
    if (!g->path) {
        status = kvq_fail(err, KVQ_NO_MEMORY, "'%s': no memory to open it", path);
        goto fail;
    }
    if ((status = map_file(g, err)) || (status = read_file(g, err))) goto fail;
    *ret = g;
    return KVQ_OK;
fail:
    kvq_gguf_close(g);
    return status;
}

void kvq_gguf_close(kvq_gguf *g) {
    if (!g) return;
    for (size_t i = 0; i < g->n_keys; i++) free(g->keys[i].texts);
    free(g->keys);
    free(g->keys_by_name);
    free(g->tensors);
    free(g->offsets);
    free(g->tensors_by_name);
    if (g->bytes) munmap((void *)g->bytes, g->n_bytes);
    free(g->path);
    free(g);
}

const char *kvq_gguf_path(const kvq_gguf *g) {
    return g->path;
}

uint64_t kvq_gguf_file_bytes(const kvq_gguf *g) {
    return g->n_bytes;
}

void kvq_gguf_drop(const kvq_gguf *g, const kvq_gguf_tensor *t) {
    /* The kernel may map all of the folio that a page which is looked at lies in: what a page of the page table maps at
     * most, 2 MB of a file that was just written, whatever else was dropped of them. So it is rounded outward; the
     * mapping is clean, and what a neighbour still needs is read again. */
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), folio = page * (page / 8);
    uintptr_t mapped = (uintptr_t)g->bytes, start = (uintptr_t)t->data - mapped, end = start + t->n_bytes;
    start = start / folio * folio;
    end = (end + folio - 1) / folio * folio;
    if (end > g->n_bytes) end = g->n_bytes;
    (void)madvise((void *)(mapped + start), end - start, MADV_DONTNEED); /* a refusal costs memory, nothing else */
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

typedef struct number {
    enum { NOT_A_NUMBER, SIGNED, UNSIGNED, REAL } kind;
    int64_t i;
    uint64_t u;
    double f;
} number;

static number load_number(const kvq_gguf_items *a, uint64_t i) {
    if (i >= a->n_items || !a->data) return (number){.kind = NOT_A_NUMBER};
    const uint8_t *p = a->data + i * value_types[a->item_type].n_bytes;
#define LOAD(case_type, c_type, number_kind, field)       \
    case case_type: {                                     \
        c_type v;                                         \
        memcpy(&v, p, sizeof v);                          \
        return (number){.kind = number_kind, .field = v}; \
    }
    switch (a->item_type) {
        LOAD(KVQ_GGUF_U8, uint8_t, UNSIGNED, u)
        LOAD(KVQ_GGUF_I8, int8_t, SIGNED, i)
        LOAD(KVQ_GGUF_U16, uint16_t, UNSIGNED, u)
        LOAD(KVQ_GGUF_I16, int16_t, SIGNED, i)
        LOAD(KVQ_GGUF_U32, uint32_t, UNSIGNED, u)
        LOAD(KVQ_GGUF_I32, int32_t, SIGNED, i)
        LOAD(KVQ_GGUF_U64, uint64_t, UNSIGNED, u)
        LOAD(KVQ_GGUF_I64, int64_t, SIGNED, i)
        LOAD(KVQ_GGUF_F32, float, REAL, f)
        LOAD(KVQ_GGUF_F64, double, REAL, f)
    case KVQ_GGUF_BOOL:
        return (number){.kind = UNSIGNED, .u = *p != 0};
    default:
        return (number){.kind = NOT_A_NUMBER};
    }
#undef LOAD
}

static bool number_to_u64(number n, uint64_t *ret) {
    if (n.kind == UNSIGNED)
        *ret = n.u;
    else if (n.kind == SIGNED && n.i >= 0)
        *ret = (uint64_t)n.i;
    else
        return false;
    return true;
}

static bool number_to_i64(number n, int64_t *ret) {
    if (n.kind == SIGNED)
        *ret = n.i;
    else if (n.kind == UNSIGNED && n.u <= INT64_MAX)
        *ret = (int64_t)n.u;
    else
        return false;
    return true;
}

static bool number_to_f64(number n, double *ret) {
    if (n.kind == NOT_A_NUMBER) return false;
    *ret = n.kind == REAL ? n.f : n.kind == SIGNED ? (double)n.i : (double)n.u;
    return true;
}

static const kvq_gguf_items *find_key(const kvq_gguf *g, const char *name) {
    kvq_gguf_items wanted = {.name = {name, strlen(name)}};
    const kvq_gguf_items *key = &wanted;
    const kvq_gguf_items **found = bsearch(&key, g->keys_by_name, g->n_keys, sizeof *g->keys_by_name, compare_keys);
    return found ? *found : NULL;
}

static const kvq_gguf_items *find_scalar(const kvq_gguf *g, const char *name) {
    const kvq_gguf_items *key = find_key(g, name);
    return key && key->type != KVQ_GGUF_ARRAY ? key : NULL;
}

bool kvq_gguf_u64(const kvq_gguf *g, const char *key, uint64_t *ret) {
    const kvq_gguf_items *a = find_scalar(g, key);
    return a && a->type != KVQ_GGUF_BOOL && number_to_u64(load_number(a, 0), ret);
}

bool kvq_gguf_f64(const kvq_gguf *g, const char *key, double *ret) {
    const kvq_gguf_items *a = find_scalar(g, key);
    return a && a->type != KVQ_GGUF_BOOL && number_to_f64(load_number(a, 0), ret);
}

bool kvq_gguf_bool(const kvq_gguf *g, const char *key, bool *ret) {
    const kvq_gguf_items *a = find_scalar(g, key);
    if (!a || a->type != KVQ_GGUF_BOOL) return false;
    *ret = load_number(a, 0).u != 0;
    return true;
}

bool kvq_gguf_text(const kvq_gguf *g, const char *key, kvq_text *ret) {
    const kvq_gguf_items *a = find_scalar(g, key);
    return a && kvq_gguf_items_text(a, 0, ret);
}

const kvq_gguf_items *kvq_gguf_items_find(const kvq_gguf *g, const char *key, kvq_gguf_type *ret_type,
                                          uint64_t *ret_n) {
    const kvq_gguf_items *a = find_key(g, key);
    if (!a || a->type != KVQ_GGUF_ARRAY) return NULL;
    if (ret_type) *ret_type = a->item_type;
    if (ret_n) *ret_n = a->n_items;
    return a;
}

bool kvq_gguf_items_text(const kvq_gguf_items *a, uint64_t i, kvq_text *ret) {
    if (!a->texts || i >= a->n_items) return false;
    *ret = a->texts[i];
    return true;
}

bool kvq_gguf_items_f64(const kvq_gguf_items *a, uint64_t i, double *ret) {
    return number_to_f64(load_number(a, i), ret);
}

bool kvq_gguf_items_i64(const kvq_gguf_items *a, uint64_t i, int64_t *ret) {
    return number_to_i64(load_number(a, i), ret);
}

bool kvq_gguf_array(const kvq_gguf *g, const char *key, kvq_gguf_type *ret_type, uint64_t *ret_n) {
    return kvq_gguf_items_find(g, key, ret_type, ret_n) != NULL;
}

bool kvq_gguf_array_text(const kvq_gguf *g, const char *key, uint64_t i, kvq_text *ret) {
    const kvq_gguf_items *a = kvq_gguf_items_find(g, key, NULL, NULL);
    return a && kvq_gguf_items_text(a, i, ret);
}

bool kvq_gguf_array_f64(const kvq_gguf *g, const char *key, uint64_t i, double *ret) {
    const kvq_gguf_items *a = kvq_gguf_items_find(g, key, NULL, NULL);
    return a && kvq_gguf_items_f64(a, i, ret);
}

bool kvq_gguf_array_u64(const kvq_gguf *g, const char *key, uint64_t i, uint64_t *ret) {
    const kvq_gguf_items *a = kvq_gguf_items_find(g, key, NULL, NULL);
    return a && number_to_u64(load_number(a, i), ret);
}

/* ---- enumeration ------------------------------------------------------------------------------------------------- */

size_t kvq_gguf_n_tensors(const kvq_gguf *g) {
    return g->n_tensors;
}

const kvq_gguf_tensor *kvq_gguf_tensor_at(const kvq_gguf *g, size_t i) {
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

const kvq_gguf_tensor *kvq_gguf_tensor_find(const kvq_gguf *g, const char *name) {
    kvq_gguf_tensor wanted;
    size_t n = strlen(name);
    if (n >= sizeof wanted.name) return NULL;
    memcpy(wanted.name, name, n + 1);
    const kvq_gguf_tensor *key = &wanted;
    const kvq_gguf_tensor **found =
        bsearch(&key, g->tensors_by_name, g->n_tensors, sizeof *g->tensors_by_name, compare_tensors);
    return found ? *found : NULL;
}

size_t kvq_gguf_n_keys(const kvq_gguf *g) {
    return g->n_keys;
}

kvq_gguf_key kvq_gguf_key_at(const kvq_gguf *g, size_t i) {
    if (i >= g->n_keys) return (kvq_gguf_key){0};
    const kvq_gguf_items *a = &g->keys[i];
    return (kvq_gguf_key){.name = a->name, .type = a->type, .item_type = a->item_type, .n_items = a->n_items};
}
