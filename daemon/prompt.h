/* prompt.h: the bytes of a prompt -> a checked kvq_request. Called by requests.c once per prompt message. The only
 * parser of prompt JSON. Every byte is hostile: what comes out has passed every check that needs no model. */
#ifndef KVQD_PROMPT_H
#define KVQD_PROMPT_H

#include <stddef.h>

#include "../engine/kvq.h"
#include "failure.h"

#define PROMPT_SESSION_BYTES 128 /* longest session; the engine's limit holds CLIENT/SESSION, too */
#define PROMPT_NAME_BYTES 64     /* longest id or client */
#define PROMPT_MAX_STOPS 16
#define PROMPT_MAX_STOP_BYTES 256
#define PROMPT_MAX_MESSAGES 4096
#define PROMPT_MAX_BIASES 1024

/* Of a prompt above max_bytes the id is still read, so that the refusal reaches who sent it; but nothing of one that is
 * this many times too large. */
#define PROMPT_READABLE_FACTOR 4

typedef struct prompt_input {
    const void *payload;
    size_t n_bytes, max_bytes;
    const char *content_type;    /* MQTT 5, or NULL: application/json must parse, text/... is never JSON */
    const kvq_request *defaults; /* [generation]; copied */
} prompt_input;

/* Owns everything that request points to. */
typedef struct prompt {
    kvq_request request;
    char id[PROMPT_NAME_BYTES + 1]; /* of the JSON; empty: none */
    const char *model;              /* NULL: whichever is loaded */
    int stream;                     /* -1 not said, else 0 or 1 */
    /* what request points to */
    void *json;
    char *text;
    kvq_message *messages;
    kvq_token_bias *bias;
    const char **stop;
    void *defaults; /* strings that came with the defaults */
} prompt;

/* True and *ret is the caller's until prompt_done; or false, and *f says which key is wrong and what is allowed. Then
 * *ret is untouched but for its id, if the JSON has a good one: the refusal is answered under it. */
bool prompt_parse(const prompt_input *in, prompt *ret, failure *f);

/* The id that the JSON of a prompt has; empty if there is none, or no good one. */
void prompt_read_id(const prompt_input *in, char ret[PROMPT_NAME_BYTES + 1]);

void prompt_done(prompt *p); /* {0} allowed */

/* What an id or a client must be, for a refusal; takes PROMPT_NAME_BYTES. "delta" is a topic level of its own. */
#define PROMPT_NAME_RULE "1 to %d of the characters A-Z a-z 0-9 _ . - and not 'delta'"

/* Whether text is such a name. */
bool prompt_is_name(const char *text, size_t n_bytes);

#endif
