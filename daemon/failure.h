/* failure.h: what a client is told when its prompt is not answered: one of the contract's error codes and a sentence.
 * Used by prompt.c, requests.c, reply.c, command.c. The map from the engine's statuses is one table. */
#ifndef KVQD_FAILURE_H
#define KVQD_FAILURE_H

#include <stdbool.h>

#include "../engine/kvq.h"

/* clang-format off */
#define FAILURE_MAP(X) \
    X(NONE,         "")             \
    X(BUSY,         "busy")         \
    X(TOO_LARGE,    "too_large")    \
    X(BAD_REQUEST,  "bad_request")  \
    X(NO_MODEL,     "no_model")     \
    X(CONTEXT_FULL, "context_full") \
    X(DEADLINE,     "deadline")     \
    X(CANCELLED,    "cancelled")    \
    X(INTERNAL,     "internal")
/* clang-format on */

typedef enum failure_code {
#define FAILURE_X(name, text) FAILURE_##name,
    FAILURE_MAP(FAILURE_X)
#undef FAILURE_X
        FAILURE_COUNT
} failure_code;

typedef struct failure {
    failure_code code;
    char text[KVQ_ERROR_BYTES];            /* UTF-8, whole characters */
    long long queue_depth, retry_after_ms; /* busy only */
} failure;

const char *failure_name(failure_code code); /* "bad_request" */
failure_code failure_of_status(kvq_status status);

/* Fills f (never NULL) and returns false, so that refusing is one statement. */
bool failure_set(failure *f, failure_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));
void failure_from_error(failure *f, const kvq_error *err);

#endif
