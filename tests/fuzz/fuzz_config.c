/* fuzz_config.c: any bytes as kvqd.ini. What is accepted must print to something that is accepted and prints alike;
 * what is refused must say why; and nothing may leak. */
#include <stdlib.h>
#include <string.h>

#include "../../daemon/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

/* The configuration as a file: every key on a line of its own. Values of several lines are indented, as a file has
 * them. */
static char *print_all(const config *c) {
    char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    if (!out) abort();
    for (size_t i = 0; i < config_n_keys; i++) {
        char *value = config_value(c, &config_keys[i]);
        if (!value) abort();
        fprintf(out, "[%s]\n%s =", config_keys[i].section, config_keys[i].name);
        for (char *line = value, *end; line; line = end ? end + 1 : NULL) {
            end = strchr(line, '\n');
            fprintf(out, " %.*s\n", (int)(end ? end - line : (long)strlen(line)), line);
        }
        free(value);
    }
    if (fclose(out)) abort();
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    config c, again;
    config_report report = {0};
    char *text = malloc(n_bytes + 1);
    if (!text) abort();
    memcpy(text, data, n_bytes);
    text[n_bytes] = '\0';
    if (config_load_text(text, &c, &report)) {
        if (report.n_errors) abort();
        char *printed = print_all(&c);
        /* A ';' after a blank, or a line longer than a file may have, does not survive a file; all else must. */
        if (!strstr(printed, " ;") && config_load_text(printed, &again, &report)) {
            char *printed_again = print_all(&again);
            if (strcmp(printed, printed_again)) abort();
            free(printed_again);
            config_free(&again);
        }
        free(printed);
        json_t *json = config_to_json(&c);
        if (!json) abort();
        json_decref(json);
        config_free(&c);
    } else if (!report.n_errors || !report.text || report.text[report.n_bytes - 1] != '\n') {
        abort();
    }
    config_report_free(&report);
    free(text);
    return 0;
}
