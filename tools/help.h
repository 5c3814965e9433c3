/* help.h: pages made from the command table: usage, a command's help, the man page, bash completion. */
#ifndef KVQ_HELP_H
#define KVQ_HELP_H

#include <stdio.h>

#include "command.h"

void help_usage(FILE *out, const command *const *commands, size_t n);
void help_command(FILE *out, const command *c);
void help_man(FILE *out, const command *const *commands, size_t n);        /* kvqctl(1) in roff */
void help_completion(FILE *out, const command *const *commands, size_t n); /* for bash */

#endif
