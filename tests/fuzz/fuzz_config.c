/* fuzz_config.c: any text as kvqd.ini. It loads, or every problem comes back as a line; what loaded can be printed. */
#include <stdlib.h>
#include <string.h>

#include "../../daemon/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    char *text = malloc(n_bytes + 1);
    if (!text) abort();
    memcpy(text, data, n_bytes);
    text[n_bytes] = '\0';
    config c;
    config_report report = {0};
    if (config_load_text(text, &c, &report)) {
        for (size_t i = 0; i < config_n_keys; i++) free(config_value(&c, &config_keys[i]));
        json_t *json = config_to_json(&c);
        if (!json) abort();
        json_decref(json);
        config_free(&c);
    } else if (report.n_errors < 1 || !report.text) {
        abort(); /* a refusal says why */
    }
    config_report_free(&report);
    free(text);
    return 0;
}
