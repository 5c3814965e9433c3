/* status.h: the one list of statuses and the one way to fail, used by every room.
 * Part of the public interface (kvq.h includes it). A failing function returns a status and writes one sentence
 * into the caller's kvq_error: what was attempted, on which file, key or request, what was found, what is allowed. */
#ifndef KVQ_STATUS_H
#define KVQ_STATUS_H

#include <stdarg.h>

#ifdef __cplusplus
extern "C" {
#endif

/* clang-format off */
#define KVQ_STATUS_MAP(X) \
    X(OK,          "ok",          "Success.")                                                       \
    X(BAD_ARGUMENT,"bad_argument","An argument or option is outside what is allowed.")              \
    X(BAD_FILE,    "bad_file",    "A file is damaged or not of the expected format.")               \
    X(UNSUPPORTED, "unsupported", "The file or machine asks for something this build does not do.") \
    X(IO,          "io",          "The operating system refused a read, write or mapping.")         \
    X(NO_MEMORY,   "no_memory",   "Memory could not be allocated.")                                 \
    X(NO_SPACE,    "no_space",    "The KV pool, queue or context is too small for this.")           \
    X(BUSY,        "busy",        "The queue is full; try again later.")                            \
    X(NOT_FOUND,   "not_found",   "No such thing.")                                                 \
    X(CANCELLED,   "cancelled",   "The caller cancelled it.")                                       \
    X(DEADLINE,    "deadline",    "Its deadline passed.")                                           \
    X(DEVICE,      "device",      "The accelerator failed or is absent.")                           \
    X(INTERNAL,    "internal",    "A mistake of ours.")
/* clang-format on */

typedef enum kvq_status {
#define KVQ_X(name, text, sentence) KVQ_##name,
    KVQ_STATUS_MAP(KVQ_X)
#undef KVQ_X
        KVQ_STATUS_COUNT
} kvq_status;

#define KVQ_ERROR_BYTES 512

typedef struct kvq_error {
    kvq_status code;
    char text[KVQ_ERROR_BYTES]; /* always terminated, UTF-8, cut on a character */
} kvq_error;

/* Fills err (which may be NULL) and returns code, so that failing is one statement. */
kvq_status kvq_fail(kvq_error *err, kvq_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same with the arguments as a list, where err keeps its first failure: nothing happens when it has one. For what
 * goes on after an error and is asked about it later. */
void kvq_fail_first(kvq_error *err, kvq_status code, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

/* "bad_file" for KVQ_BAD_FILE; "?" outside the list. */
const char *kvq_status_name(kvq_status code);

/* The general sentence. */
const char *kvq_status_sentence(kvq_status code);

#ifdef __cplusplus
}
#endif
#endif
