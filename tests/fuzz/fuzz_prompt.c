/* fuzz_prompt.c: any bytes as a prompt message. The first byte picks the content type. */
#include <stdlib.h>
#include <string.h>

#include "../../daemon/prompt.h"
#include "../../daemon/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    static const char *const content_types[] = {NULL, "application/json", "text/plain",
                                                "application/json; charset=utf-8", ""};
    if (n_bytes == 0) return 0;
    kvq_request defaults = kvq_default_request();
    prompt_input in = {
        .payload = data + 1,
        .n_bytes = n_bytes - 1,
        .max_bytes = 1 << 20,
        .content_type = content_types[data[0] % (sizeof content_types / sizeof *content_types)],
        .defaults = &defaults,
    };
    prompt p;
    failure f = {0};
    if (prompt_parse(&in, &p, &f)) {
        const kvq_request *r = &p.request;
        if (!r->prompt == !r->n_messages) abort(); /* exactly one of the two */
        if (p.id[0] && !prompt_is_name(p.id, strlen(p.id))) abort();
        prompt_done(&p);
    }
    (void)text_is_valid(data, n_bytes);
    (void)prompt_is_name((const char *)data, n_bytes);
    return 0;
}
