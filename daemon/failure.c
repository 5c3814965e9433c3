/* failure.c: the error codes of the MQTT contract. See failure.h. */
#include "failure.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "text.h"

static const char *const failure_names[] = {
#define FAILURE_X(name, text) text,
    FAILURE_MAP(FAILURE_X)
#undef FAILURE_X
};

/* One row per status of the engine. What a request can be blamed for is bad_request; the rest is ours. */
static const failure_code code_of_status[KVQ_STATUS_COUNT] = {
    [KVQ_OK] = FAILURE_NONE,
    [KVQ_BAD_ARGUMENT] = FAILURE_BAD_REQUEST,
    [KVQ_BAD_FILE] = FAILURE_INTERNAL,
    [KVQ_UNSUPPORTED] =
        FAILURE_BAD_REQUEST, /* the model's file has no chat template that we can use: "raw" would work */
    [KVQ_IO] = FAILURE_INTERNAL,
    [KVQ_NO_MEMORY] = FAILURE_INTERNAL,
    [KVQ_NO_SPACE] = FAILURE_CONTEXT_FULL,
    [KVQ_BUSY] = FAILURE_BUSY,
    [KVQ_NOT_FOUND] = FAILURE_BAD_REQUEST,
    [KVQ_CANCELLED] = FAILURE_CANCELLED,
    [KVQ_DEADLINE] = FAILURE_DEADLINE,
    [KVQ_DEVICE] = FAILURE_INTERNAL,
    [KVQ_INTERNAL] = FAILURE_INTERNAL,
};

const char *failure_name(failure_code code) {
    return (unsigned)code < FAILURE_COUNT ? failure_names[code] : "internal";
}

failure_code failure_of_status(kvq_status status) {
    return (unsigned)status < KVQ_STATUS_COUNT ? code_of_status[status] : FAILURE_INTERNAL;
}

bool failure_set(failure *f, failure_code code, const char *format, ...) {
    kvq_error cut; /* kvq_fail cuts on a character; the text goes through it for that */
    char text[2 * KVQ_ERROR_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0) text[0] = '\0';
    (void)kvq_fail(&cut, KVQ_OK, "%s", text); /* only formats; the code is ours */
    *f = (failure){.code = code};
    memcpy(f->text, cut.text, sizeof f->text);
    text_mend(f->text);
    return false;
}

void failure_from_error(failure *f, const kvq_error *err) {
    (void)failure_set(f, failure_of_status(err->code), "%s", err->text); /* always false */
}
