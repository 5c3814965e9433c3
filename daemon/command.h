/* command.h: request/<cmd> -> reply/<cmd>. Called by daemon.c with each such message. The commands are the table in
 * command.c. */
#ifndef KVQD_COMMAND_H
#define KVQD_COMMAND_H

#include "message.h"

struct kvqd;

/* Answers every message, unknown commands and payloads that do not parse too:
 * {"status":"ok","data":...,"transaction":...} or {"status":"error","error":{"code","message"},"transaction":...}. */
void command_run(struct kvqd *d, const char *name, const message *m);

#endif
