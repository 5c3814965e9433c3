/* make_tiny_models.c: make_tiny_models FOLDER: writes every row of tiny_models as FOLDER/NAME.gguf, for tests of
 * programs. */
#include <stdio.h>

#include "tiny_model.h"

int main(int argc, char **argv) {
    char path[4096];
    if (argc != 2) {
        fprintf(stderr, "usage: make_tiny_models FOLDER\n");
        return 2;
    }
    for (int i = 0; i < TINY_MODELS; i++) {
        snprintf(path, sizeof path, "%s/%s.gguf", argv[1], tiny_models[i].name);
        if (tiny_model_write(&tiny_models[i], path)) continue;
        fprintf(stderr, "cannot write '%s'\n", path);
        return 1;
    }
    return 0;
}
