/* chat.c: `kvqctl chat`: a conversation with a running kvqd, line by line. The daemon keeps it as a session, so that
 * each turn sends only what is new. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
#include "command.h"
#include "conversation.h"
#include "interrupt.h"

typedef struct chat_values {
    client_options client;
    const char *system, *session;
    int timeout_s;
} chat_values;

#define AT(member) offsetof(chat_values, member)

/* clang-format off */
static const option options[] = {
    CLIENT_OPTIONS(chat_values),
    { 0,  "system",  OPTION_TEXT, AT(system),    "TEXT", NULL,  0, 0, NULL, false, "A system message at the start."},
    {'s', "session", OPTION_TEXT, AT(session),   "NAME", NULL,  0, 0, NULL, false, "Go on with the conversation of this name; without it a new one begins."},
    { 0,  "timeout", OPTION_INT,  AT(timeout_s), "S",    "300", 1, 86400, NULL, false, "Give up after this many seconds without a sign of an answer."},
};
/* clang-format on */

static kvq_status one_turn(client *c, const chat_values *v, const char *session, const char *line, bool is_first,
                           kvq_error *err) {
    json_t *final = NULL, *prompt = json_pack("{s:s, s:s}", "prompt", line, "session", session);
    if (!prompt) return kvq_fail(err, KVQ_BAD_ARGUMENT, "That line is not UTF-8 text.");
    if (is_first && v->system)
        (void)json_object_set_new(prompt, "system", json_string(v->system)); /* no UTF-8: seen at the dump */
    kvq_status status = conversation_ask(c, prompt, v->timeout_s, &final, err);
    if (!status) putchar('\n');
    json_decref(final);
    return status;
}

/* A refused turn (busy, context_full) is said, and the conversation goes on; a broken connection ends it. */
static kvq_status talk(client *c, const chat_values *v, const char *session, kvq_error *err) {
    char *line = NULL;
    size_t capacity = 0;
    bool is_first = true, is_terminal = isatty(STDIN_FILENO);
    kvq_status status = KVQ_OK;
    while (!status && !interrupt_seen()) {
        if (is_terminal) fputs("> ", stderr);
        ssize_t n = getline(&line, &capacity, stdin);
        if (n < 0) break;
        if (line[n - 1] == '\n') line[--n] = '\0';
        if (n == 0) continue;
        status = strlen(line) == (size_t)n
                     ? one_turn(c, v, session, line, is_first, err)
                     : kvq_fail(err, KVQ_BAD_ARGUMENT, "That line has a NUL byte; it is not text and was not sent.");
        is_first = is_first && status; /* a turn that was refused began no session */
        if (status == KVQ_BUSY || status == KVQ_BAD_ARGUMENT) {
            (void)command_fail(0, "%s", err->text); /* only said */
            status = KVQ_OK;
        }
    }
    free(line);
    return status;
}

static int run(const void *values) {
    const chat_values *v = values;
    client *c = NULL;
    char own[CLIENT_ID_BYTES];
    kvq_error err = {0};
    client_make_id(own);
    interrupt_catch();
    kvq_status status = client_open(&v->client, &c, &err);
    const char *session = v->session ? v->session : own;
    if (!status) {
        if (isatty(STDIN_FILENO))
            fprintf(stderr, "Session '%s' on '%s'. An empty line is skipped; Ctrl-D ends, Ctrl-C too.\n", session,
                    client_node(c));
        status = talk(c, v, session, &err);
    }
    client_close(c);
    if (status == KVQ_CANCELLED) return EXIT_CODE_INTERRUPTED;
    return status ? command_fail(EXIT_CODE_FAILED, "%s", err.text) : EXIT_CODE_OK;
}

const command command_chat = {
    .name = "chat",
    .doc = "A conversation with a running kvqd; each line is a turn.",
    .about = "The daemon remembers the conversation under a session name, so that a later 'kvqctl chat --session NAME' "
             "goes on with it.",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .values_bytes = sizeof(chat_values),
    .run = run,
};
