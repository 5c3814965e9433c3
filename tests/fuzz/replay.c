/* replay.c: runs a fuzz target over files without a fuzzer, so that every corpus is a test of every build. Linked with
 * one fuzz_*.c; libFuzzer takes its place in the fuzz builds.
 *
 *     fuzz_gguf_replay [--mutations N] FOLDER_OR_FILE...
 *
 * Each file is run as it is, then cut short at N places, then N times with a few bytes changed. The changes come from a
 * generator with a fixed seed: the same inputs every time and on every machine. No file run is a failure. A crash
 * prints its input's file and mutation first, since stdout is flushed before each run. */
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static uint64_t random_state = 0x9E3779B97F4A7C15u;

static uint64_t next_random(void) { /* xorshift64*, Vigna 2016 */
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1Du;
}

static void run_one(const char *path, const char *kind, int number, const uint8_t *data, size_t n_bytes) {
    /* A buffer of exactly this size: one byte read behind it is seen by the address sanitizer. */
    uint8_t *exact = malloc(n_bytes ? n_bytes : 1);
    if (!exact) exit(EXIT_FAILURE);
    if (n_bytes) memcpy(exact, data, n_bytes);
    fprintf(stderr, "%s %s %d\r", path, kind, number);
    (void)LLVMFuzzerTestOneInput(exact, n_bytes);
    free(exact);
}

static const uint8_t hard_bytes[] = {0x00, 0x01, 0x7F, 0x80, 0xFF, '"', '{', '\\', '%', '\n'};

static void mutate(uint8_t *data, size_t n_bytes) {
    int n_changes = 1 + (int)(next_random() % 4);
    for (int i = 0; i < n_changes; i++) {
        uint64_t r = next_random();
        /* Headers matter most: half of the changes fall into the first 512 bytes. */
        size_t span = (r & 1) && n_bytes > 512 ? 512 : n_bytes;
        size_t at = (size_t)((r >> 8) % span);
        if (r & 2)
            data[at] ^= (uint8_t)(1u << ((r >> 2) & 7));
        else
            data[at] = hard_bytes[(r >> 2) % sizeof hard_bytes];
    }
}

static uint8_t *read_file(const char *path, size_t *ret_n_bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    uint8_t *data = NULL;
    long n = -1;
    if (!fseek(f, 0, SEEK_END) && (n = ftell(f)) >= 0 && !fseek(f, 0, SEEK_SET)) data = malloc((size_t)n + 1);
    if (data && fread(data, 1, (size_t)n, f) != (size_t)n) {
        free(data);
        data = NULL;
    }
    (void)fclose(f); /* only read from */
    if (data) *ret_n_bytes = (size_t)n;
    return data;
}

static bool run_file(const char *path, int n_mutations) {
    size_t n_bytes = 0;
    uint8_t *data = read_file(path, &n_bytes);
    if (!data) {
        fprintf(stderr, "replay: cannot read '%s'\n", path);
        return false;
    }
    run_one(path, "as it is", 0, data, n_bytes);
    for (int i = 0; i < n_mutations && n_bytes > 0; i++) {
        uint64_t r = next_random();
        run_one(path, "cut", i, data, (size_t)((r >> 1) % (r & 1 && n_bytes > 4096 ? 4096 : n_bytes)));
        uint8_t *changed = malloc(n_bytes);
        if (!changed) exit(EXIT_FAILURE);
        memcpy(changed, data, n_bytes);
        mutate(changed, n_bytes);
        run_one(path, "changed", i, changed, n_bytes);
        free(changed);
    }
    free(data);
    return true;
}

/* Files run, or -1. */
static int run_path(const char *path, int n_mutations) {
    struct stat status;
    if (stat(path, &status)) return -1;
    if (!S_ISDIR(status.st_mode)) return run_file(path, n_mutations) ? 1 : -1;
    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort), n_run = 0; /* sorted: the generator's state then fits the file */
    for (int i = 0; i < n; i++) {
        char inner[4096];
        int length = snprintf(inner, sizeof inner, "%s/%s", path, names[i]->d_name);
        bool hidden = names[i]->d_name[0] == '.';
        free(names[i]);
        if (hidden || n_run < 0) continue;
        n_run = length < (int)sizeof inner && run_file(inner, n_mutations) ? n_run + 1 : -1;
    }
    if (n >= 0) free(names);
    return n < 0 ? -1 : n_run;
}

int main(int argc, char **argv) {
    int n_mutations = 0, n_run = 0, first = 1;
    if (argc > 2 && !strcmp(argv[1], "--mutations")) {
        n_mutations = atoi(argv[2]);
        first = 3;
    }
    for (int i = first; i < argc; i++) {
        int n = run_path(argv[i], n_mutations);
        if (n < 0) {
            fprintf(stderr, "replay: cannot run '%s'\n", argv[i]);
            return EXIT_FAILURE;
        }
        n_run += n;
    }
    fprintf(stderr, "\n");
    printf("%d files, %d mutations of each\n", n_run, 2 * n_mutations);
    return n_run > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
