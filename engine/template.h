/* template.h: a small Jinja interpreter that renders the chat template of the model's file: messages -> prompt text.
 * Called by engine.c. Parsed once at load; what it cannot parse or does not know (filter, test, statement) is an error
 * at load that names it and its line. */
#ifndef KVQ_TEMPLATE_H
#define KVQ_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../kernels/status.h"

typedef struct kvq_template kvq_template;

typedef struct kvq_template_message {
    const char *role, *content; /* UTF-8, terminated; borrowed for the call */
} kvq_template_message;

typedef struct kvq_template_input {
    const kvq_template_message *messages;
    size_t n_messages;
    bool add_generation_prompt;
    const char *bos_token, *eos_token; /* "" if none */
    const char *extra_json;            /* further variables as one JSON object ("tools", "enable_thinking", or full
                                          "messages" that replace the list above), or NULL */
    int64_t now_s;                     /* wall clock for strftime_now, seconds since 1970, UTC */
} kvq_template_input;

/* source: the template's text, copied. Errors: KVQ_UNSUPPORTED, KVQ_BAD_FILE (syntax), KVQ_NO_MEMORY; texts give the
 * line. */
kvq_status kvq_template_parse(const char *source, size_t n_bytes, kvq_template **ret, kvq_error *err);
void kvq_template_free(kvq_template *t);

/* ret_text: owned by the caller after return (free), terminated. Errors: KVQ_BAD_ARGUMENT (the template called
 * raise_exception: its message; extra_json does not parse), KVQ_BAD_FILE (type error while rendering),
 * KVQ_NO_SPACE (output or step limit: a hostile template cannot hang or fill memory), KVQ_NO_MEMORY. */
kvq_status kvq_template_render(const kvq_template *t, const kvq_template_input *input, char **ret_text,
                               size_t *ret_n_bytes, kvq_error *err);

#endif
