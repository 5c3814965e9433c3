/* conversation.h: one prompt to a running kvqd and its answer, streamed to stdout. For ask.c and chat.c. */
#ifndef KVQ_CONVERSATION_H
#define KVQ_CONVERSATION_H

#include <jansson.h>

#include "client.h"

/* Publishes prompt (its reference is taken; an id is added), prints deltas as they come and what the final adds.
 * *ret_final is the caller's. Ctrl-C cancels the request and waits for its final. Errors: IO; BUSY, BAD_ARGUMENT, ...
 * for what the daemon refused. */
kvq_status conversation_ask(client *c, json_t *prompt, int timeout_s, json_t **ret_final, kvq_error *err);

/* Figures of a final in one line on stderr. */
void conversation_print_figures(const json_t *final);

#endif
