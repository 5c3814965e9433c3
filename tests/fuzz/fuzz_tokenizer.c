/* fuzz_tokenizer.c: any bytes as text, for the vocabulary of the model file that KVQ_FUZZ_MODEL names. Encoding never
 * fails, ids are in the vocabulary, and well-formed text comes back byte for byte. */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "../../engine/tokenizer.h"

static kvq_tokenizer *open_once(void) {
    static kvq_gguf *file; /* for the life of the process: the fuzzer calls a million times */
    static kvq_tokenizer *t;
    if (t) return t;
    const char *path = getenv("KVQ_FUZZ_MODEL");
    kvq_error err;
    if (!path || kvq_gguf_open(path, &file, &err) || kvq_tokenizer_open(file, &t, &err)) abort();
    return t;
}

static bool is_utf8(const uint8_t *data, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate(data + i, (utf8proc_ssize_t)(n_bytes - i), &c);
        if (n <= 0) return false;
        i += (size_t)n;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    const kvq_tokenizer *t = open_once();
    if (n_bytes > 1 << 16) return 0;
    int *ids;
    size_t n_ids;
    kvq_error err = {0};
    if (kvq_tokenizer_encode(t, (const char *)data, n_bytes, (kvq_encode_options){0}, &ids, &n_ids, &err)) abort();
    size_t capacity = n_bytes * 4 + 64, length = 0;
    char *back = malloc(capacity);
    if (!back) abort();
    kvq_detokenizer d = {0};
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || ids[i] >= kvq_tokenizer_n_vocab(t)) abort();
        length += kvq_detokenize(t, &d, ids[i], false, back + length, capacity - length);
        if (length + 16 > capacity) abort();
    }
    length += kvq_detokenize_end(&d, back + length, capacity - length);
    if (is_utf8(data, n_bytes) && (length != n_bytes || memcmp(back, data, n_bytes))) abort();
    free(back);
    free(ids);
    return 0;
}
