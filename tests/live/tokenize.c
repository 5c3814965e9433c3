/* tokenize.c: token ids of whole files, and their text back, for compare_tokens.py and make_token_golden.py.
 *     tokenize MODEL [--bos] [--special] [--time] FILE...     one line of JSON per file: {"ids":[...]}
 *     tokenize MODEL --pieces                         one line per token: id, attributes (e: end, c: control), hex of
 * its piece
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/tokenizer.h"

static void die(const char *text) {
    fprintf(stderr, "tokenize: %s\n", text);
    exit(1);
}

static char *read_file(const char *path, size_t *ret_n_bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) die(path);
    char *bytes = NULL;
    size_t n = 0, capacity = 0;
    for (;;) {
        if (n == capacity) {
            capacity = capacity ? capacity * 2 : 1 << 16;
            bytes = realloc(bytes, capacity);
            if (!bytes) die("no memory");
        }
        size_t got = fread(bytes + n, 1, capacity - n, f);
        if (got == 0) break;
        n += got;
    }
    if (ferror(f)) die(path);
    fclose(f);
    *ret_n_bytes = n;
    return bytes;
}

static double cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void print_ids(const kvq_tokenizer *t, const char *path, kvq_encode_options options, bool timed) {
    size_t n_bytes = 0, n = 0;
    char *text = read_file(path, &n_bytes);
    int *ids = NULL;
    kvq_error err;
    double start_s = cpu_s();
    if (kvq_tokenizer_encode(t, text, n_bytes, options, &ids, &n, &err)) die(err.text);
    double s = cpu_s() - start_s;
    if (timed)
        fprintf(stderr, "%s: %zu bytes, %zu tokens, %.1f ms, %.1f MB/s\n", path, n_bytes, n, s * 1e3,
                (double)n_bytes / s / 1e6);
    printf("{\"ids\":[");
    for (size_t i = 0; i < n; i++) printf(i ? ",%d" : "%d", ids[i]);
    printf("]}\n");
    free(ids);
    free(text);
}

static void print_pieces(const kvq_tokenizer *t) {
    for (int id = 0; id < kvq_tokenizer_n_vocab(t); id++) {
        kvq_text piece = kvq_tokenizer_piece(t, id, true);
        printf("%d %s%s ", id, kvq_tokenizer_is_end(t, id) ? "e" : "-", kvq_tokenizer_is_control(t, id) ? "c" : "-");
        for (size_t i = 0; i < piece.n_bytes; i++) printf("%02x", (unsigned char)piece.bytes[i]);
        printf("\n");
    }
}

int main(int argc, char **argv) {
    if (argc < 3) die("usage: tokenize MODEL [--bos] [--special] [--time] [--pieces] FILE...");
    kvq_error err;
    kvq_gguf *g;
    kvq_tokenizer *t;
    double start_s = cpu_s();
    if (kvq_gguf_open(argv[1], &g, &err) || kvq_tokenizer_open(g, &t, &err)) die(err.text);
    double open_s = cpu_s() - start_s;
    kvq_encode_options options = {0};
    bool timed = false;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--bos") == 0)
            options.add_special = true;
        else if (strcmp(argv[i], "--special") == 0)
            options.parse_special = true;
        else if (strcmp(argv[i], "--time") == 0)
            timed = true;
        else if (strcmp(argv[i], "--pieces") == 0)
            print_pieces(t);
        else
            print_ids(t, argv[i], options, timed);
    }
    if (timed) fprintf(stderr, "open: %.1f ms\n", open_s * 1e3);
    kvq_tokenizer_free(t);
    kvq_gguf_close(g);
    return 0;
}
