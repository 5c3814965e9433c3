/* render_template.c: renders templates for tests/live/compare_templates.py. Reads jobs from standard input, one after
 * the other: a line with four byte counts (template, variables, bos and eos token) and the time, then those bytes;
 * writes for each a line "status n_bytes" and that many bytes: the text, or the error's. The variables are one JSON
 * object. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/template.h"

static char *read_part(size_t n) {
    char *text = malloc(n + 1);
    if (!text || fread(text, 1, n, stdin) != n) exit(2);
    text[n] = '\0';
    return text;
}

static kvq_status render(const char *source, size_t n_source, const kvq_template_input *input, char **ret,
                         size_t *ret_n, kvq_error *err) {
    kvq_template *t;
    kvq_status status = kvq_template_parse(source, n_source, &t, err);
    if (status != KVQ_OK) return status;
    status = kvq_template_render(t, input, ret, ret_n, err);
    kvq_template_free(t);
    return status;
}

int main(void) {
    size_t n[4];
    int64_t now_s;
    while (scanf("%zu %zu %zu %zu %" SCNd64, &n[0], &n[1], &n[2], &n[3], &now_s) == 5) {
        if (getchar() != '\n') return 2;
        char *part[4], *text = NULL;
        size_t n_text = 0;
        kvq_error err;
        for (int i = 0; i < 4; i++) part[i] = read_part(n[i]);
        kvq_template_input input = {.bos_token = part[2], .eos_token = part[3], .extra_json = part[1], .now_s = now_s};
        kvq_status status = render(part[0], n[0], &input, &text, &n_text, &err);
        printf("%s %zu\n", kvq_status_name(status), status == KVQ_OK ? n_text : strlen(err.text));
        if (status == KVQ_OK)
            fwrite(text, 1, n_text, stdout);
        else
            fputs(err.text, stdout);
        fflush(stdout);
        free(text);
        for (int i = 0; i < 4; i++) free(part[i]);
    }
    return 0;
}
