/* fuzz_gguf.c: any bytes as a GGUF file. The container must open or refuse it, and whatever opened must be readable to
 * the last key, item and tensor byte. */
#include "../../engine/gguf.h"
#include "memory_file.h"

static volatile unsigned sink; /* what is read is used, so that no read is optimised away */

static void read_array(const kvq_gguf *g, const kvq_gguf_key *k, const char *name) {
    kvq_gguf_type type;
    uint64_t n;
    if (!kvq_gguf_array(g, name, &type, &n)) return;
    for (uint64_t i = 0; i < n && i < 4096; i++) {
        kvq_text text;
        double number;
        uint64_t whole;
        if (kvq_gguf_array_text(g, name, i, &text))
            for (size_t b = 0; b < text.n_bytes; b++) sink += (unsigned char)text.bytes[b];
        if (kvq_gguf_array_f64(g, name, i, &number)) sink += number > 0;
        if (kvq_gguf_array_u64(g, name, i, &whole)) sink += (unsigned)whole;
    }
    kvq_text beyond;
    if (kvq_gguf_array_text(g, name, n, &beyond) || n != k->n_items) abort();
}

static void read_key(const kvq_gguf *g, kvq_gguf_key k) {
    char name[256];
    if (k.name.n_bytes >= sizeof name) return;
    (void)snprintf(name, sizeof name, "%.*s", (int)k.name.n_bytes, k.name.bytes);
    uint64_t whole;
    double number;
    bool flag;
    kvq_text text;
    if (kvq_gguf_u64(g, name, &whole)) sink += (unsigned)whole;
    if (kvq_gguf_f64(g, name, &number)) sink += number > 0;
    if (kvq_gguf_bool(g, name, &flag)) sink += flag;
    if (kvq_gguf_text(g, name, &text))
        for (size_t b = 0; b < text.n_bytes; b++) sink += (unsigned char)text.bytes[b];
    if (k.type == KVQ_GGUF_ARRAY) read_array(g, &k, name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    memory_file file;
    memory_file_open(&file, data, n_bytes);
    kvq_gguf *g = NULL;
    kvq_error err = {0};
    kvq_status status = kvq_gguf_open(file.path, &g, &err);
    if (status) {
        if (g || !err.text[0]) abort(); /* a refusal says why, and leaves nothing behind */
    } else {
        for (size_t i = 0; i < kvq_gguf_n_keys(g); i++) read_key(g, kvq_gguf_key_at(g, i));
        for (size_t i = 0; i < kvq_gguf_n_tensors(g); i++) {
            const kvq_gguf_tensor *t = kvq_gguf_tensor_at(g, i);
            const unsigned char *bytes = t->data;
            for (uint64_t b = 0; b < t->n_bytes; b++) sink += bytes[b];
            if (!kvq_gguf_tensor_find(g, t->name)) abort();
        }
    }
    kvq_gguf_close(g);
    memory_file_close(&file);
    return 0;
}
