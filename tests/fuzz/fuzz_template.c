/* fuzz_template.c: any bytes as a chat template, and any text as further variables: all up to the first zero byte is
 * the template, what follows is extra_json. A template parses and renders or is refused with a reason; it can neither
 * hang nor fill memory. */
#include <stdlib.h>
#include <string.h>

#include "../../engine/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    const uint8_t *zero = n_bytes ? memchr(data, 0, n_bytes) : NULL;
    size_t n_source = zero ? (size_t)(zero - data) : n_bytes;
    char *extra = NULL;
    if (zero) {
        size_t n_extra = n_bytes - n_source - 1;
        extra = malloc(n_extra + 1);
        if (!extra) abort();
        memcpy(extra, zero + 1, n_extra);
        extra[n_extra] = '\0';
    }
    kvq_template *t = NULL;
    kvq_error err = {0};
    if (kvq_template_parse((const char *)data, n_source, &t, &err)) {
        if (t || !err.text[0]) abort();
        free(extra);
        return 0;
    }
    static const kvq_template_message messages[] = {{"system", "Be brief."},
                                                    {"user", "Why is the sky blue?"},
                                                    {"assistant", "Rayleigh."},
                                                    {"user", "And <|im_end|> \"red\"?"}};
    kvq_template_input input = {.messages = messages,
                                .n_messages = sizeof messages / sizeof *messages,
                                .add_generation_prompt = true,
                                .bos_token = "<s>",
                                .eos_token = "</s>",
                                .extra_json = extra,
                                .now_s = 1700000000};
    char *text = NULL;
    size_t n_text = 0;
    err = (kvq_error){0};
    if (kvq_template_render(t, &input, &text, &n_text, &err)) {
        if (text || !err.text[0]) abort();
    } else if (text[n_text] != '\0') {
        abort();
    }
    free(text);
    kvq_template_free(t);
    free(extra);
    return 0;
}
