/* command.h: request/<cmd> -> reply/<cmd>. Called by daemon.c with each such message. The commands are the table in
 * command.c. */
#ifndef KVQD_COMMAND_H
#define KVQD_COMMAND_H

#include <jansson.h>

#include "failure.h"
#include "message.h"

struct kvqd;

/* Answers every message, unknown commands and payloads that do not parse too:
 * {"status":"ok","data":...,"transaction":...} or {"status":"error","error":{"code","message"},"transaction":...}. */
void command_run(struct kvqd *d, const char *name, const message *m);

/* The reply to a command that did not have it at once. Takes data; NULL: f says why. */
void command_reply(struct kvqd *d, const char *name, const json_t *args, json_t *data, const failure *f);

#endif
