/* request.h: a request inside the engine: its input, its tokens, how it samples and what it says. Called by engine.c;
 * request.c makes one from kvq_request, session.c gives it the conversation that went before. */
#ifndef KVQ_REQUEST_H
#define KVQ_REQUEST_H

#include "kvq.h"
#include "sampler.h"
#include "scheduler.h"
#include "session.h"
#include "template.h"
#include "tokenizer.h"

/* What a request needs of the engine to become tokens. */
typedef struct kvq_text_tools {
    const kvq_tokenizer *tokenizer;
    const kvq_template *chat_template; /* NULL: none usable */
    const char *template_error;        /* why, or NULL when the file simply has none */
    int session_len, vocab_size;
    size_t longest_piece; /* bytes of the longest token's text */
} kvq_text_tools;

typedef struct kvq_active {
    kvq_sequence seq; /* first, so that a sequence is its request */
    uint64_t id;
    void *user;

    /* the input, copied */
    char *prompt, *extra_json;
    kvq_template_message *messages;
    size_t n_messages;
    bool raw, is_prepared;
    kvq_session *session; /* NULL: none */

    kvq_sampling sampling;
    kvq_logit_bias *logit_bias;
    bool ignore_end;
    int max_tokens; /* of the answer; already cut to what the context allows */
    bool cut_by_context;
    char *client;
    int64_t deadline_ns; /* monotonic; 0: none */
    bool cancelled;

    kvq_detokenizer detokenizer;
    kvq_stop_matcher *stop;
    char *text; /* of this step's event */
    size_t text_capacity;

    int64_t submit_ns, admit_ns, first_token_ns;
    struct kvq_active *next;
} kvq_active;

/* Checks the request and copies its input. Tokens come later, from kvq_active_prepare. The
 * error names the key. Errors: BAD_ARGUMENT, NO_MEMORY, UNSUPPORTED. */
kvq_status kvq_active_new(const kvq_request *r, const kvq_text_tools *tools, kvq_active **ret, kvq_error *err);
void kvq_active_free(kvq_active *a); /* NULL allowed */

/* Turns the input into tokens, behind the session's if there is one. Errors: NO_SPACE (longer than the context),
 * BAD_ARGUMENT (empty prompt, the template refuses the messages), NO_MEMORY, UNSUPPORTED. */
kvq_status kvq_active_prepare(kvq_active *a, const kvq_text_tools *tools, kvq_error *err);

#endif
