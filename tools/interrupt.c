/* interrupt.c: the one signal handler of kvqctl; it sets a flag and nothing else. Called by the commands that compute.
 */
#include "interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t seen; /* a handler can reach nothing but a global */

static void note(int signal_number) {
    (void)signal_number;
    seen = 1;
}

void interrupt_catch(void) {
    struct sigaction action = {.sa_handler = note, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL); /* cannot fail: the signal and the flags exist */
}

bool interrupt_seen(void) {
    return seen != 0;
}
