/* cancel.c: `kvqctl cancel ID...`: ends requests of a running kvqd. */
#include <stdio.h>

#include "client.h"
#include "command.h"

typedef struct cancel_values {
    client_options client;
    option_texts names;
} cancel_values;

/* clang-format off */
static const option options[] = {
    CLIENT_OPTIONS(cancel_values),
    {0, NULL, OPTION_REST, offsetof(cancel_values, names), "ID", NULL, 0, 0, NULL, true, "ID or CLIENT/ID, as in the topic of the prompt."},
};
/* clang-format on */

static int run(const void *values) {
    const cancel_values *v = values;
    client *c = NULL;
    kvq_error err = {0};
    kvq_status status = client_open(&v->client, &c, &err);
    for (int i = 0; !status && i < v->names.n; i++) {
        char topic[200];
        snprintf(topic, sizeof topic, "cancel/%s", v->names.values[i]);
        status = client_publish(c, topic, "", &err);
    }
    client_close(c);
    return status ? command_fail(EXIT_CODE_FAILED, "%s", err.text) : EXIT_CODE_OK;
}

const command command_cancel = {
    .name = "cancel",
    .doc = "Ends requests of a running kvqd.",
    .about = "Whoever asked gets a final message that says so. An id that is not running is passed over.",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .values_bytes = sizeof(cancel_values),
    .run = run,
};
