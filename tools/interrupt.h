/* interrupt.h: Ctrl-C as a question that loops ask, so that a command can end cleanly. A second Ctrl-C kills as usual.
 */
#ifndef KVQ_INTERRUPT_H
#define KVQ_INTERRUPT_H

#include <stdbool.h>

void interrupt_catch(void); /* once, at the start of a command that asks */
bool interrupt_seen(void);

#endif
