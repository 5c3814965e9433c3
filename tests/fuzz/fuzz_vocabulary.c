/* fuzz_vocabulary.c: any bytes as a model file whose tokenizer is opened: vocabulary, types, merge rules, special ids.
 * What opens must encode any text to ids inside the vocabulary, and every token must have a piece. */
#include "../../engine/tokenizer.h"
#include "memory_file.h"

static volatile unsigned sink; /* what is read is used, so that no read is optimised away */

static void encode(const kvq_tokenizer *t, const char *text, size_t n_bytes, kvq_encode_options options) {
    int *ids;
    size_t n_ids;
    kvq_error err = {0};
    if (kvq_tokenizer_encode(t, text, n_bytes, options, &ids, &n_ids, &err)) abort();
    kvq_detokenizer d = {0};
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || ids[i] >= kvq_tokenizer_n_vocab(t)) abort();
        size_t capacity = KVQ_DETOKENIZED_BYTES(kvq_tokenizer_piece(t, ids[i], true).n_bytes);
        char *out = malloc(capacity);
        if (!out) abort();
        if (kvq_detokenize(t, &d, ids[i], true, out, capacity) > capacity) abort();
        free(out);
    }
    free(ids);
}

static void read_pieces(const kvq_tokenizer *t) {
    for (int id = -1; id <= kvq_tokenizer_n_vocab(t); id++) {
        kvq_text piece = kvq_tokenizer_piece(t, id, true), text = kvq_tokenizer_text(t, id);
        for (size_t b = 0; b < piece.n_bytes; b++) sink += (unsigned char)piece.bytes[b];
        for (size_t b = 0; b < text.n_bytes; b++) sink += (unsigned char)text.bytes[b];
        sink += kvq_tokenizer_is_end(t, id) + kvq_tokenizer_is_control(t, id);
    }
    sink += (unsigned)(kvq_tokenizer_bos(t) + kvq_tokenizer_eos(t)) + kvq_tokenizer_adds_bos(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    static const char text[] =
        "Hello  world, 12345!\n\t<s></s><|im_start|>\xC3\xA9\xE4\xB8\xAD\xFF\xED\xA0\x80 a\0b aaaaaaaa";
    memory_file file;
    memory_file_open(&file, data, n_bytes);
    kvq_gguf *g = NULL;
    kvq_tokenizer *t = NULL;
    kvq_error err = {0};
    if (!kvq_gguf_open(file.path, &g, &err)) {
        if (kvq_tokenizer_open(g, &t, &err)) {
            if (t || !err.text[0]) abort(); /* a refusal says why, and leaves nothing behind */
        } else {
            read_pieces(t);
            for (unsigned how = 0; how < 4; how++)
                encode(t, text, sizeof text - 1,
                       (kvq_encode_options){.add_special = how & 1, .parse_special = how & 2});
            encode(t, (const char *)data, n_bytes < 4096 ? n_bytes : 4096, (kvq_encode_options){.parse_special = true});
        }
    }
    kvq_tokenizer_free(t);
    kvq_gguf_close(g);
    memory_file_close(&file);
    return 0;
}
