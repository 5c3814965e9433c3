/* paho_sleep.c: takes a hidden tenth of a second out of the first token's time.
 *
 * After a second without traffic the receive thread of Paho C (MQTTAsync_cycle; 1.3.12 and still today) calls
 * usleep(100000) before it looks at its socket again, so a prompt that comes just then waits up to 100 ms, one in
 * eleven on an idle connection. The pause is needed only where there is no socket to wait on. There is no option for
 * it, and keeping the connection noisy would wake both ends every second. So this program brings its own usleep, which
 * the library's calls reach as they would libc's: it sleeps, unless the same thread last asked for a tenth of a second
 * at least 0.9 s ago. Then the thread has just waited a whole second in poll, a socket is there, and it may go back to
 * it at once. Without a socket the calls follow each other every 100 ms, so they sleep as before and nothing spins. */
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "message.h"

#define PAHO_PAUSE_US 100000
#define WAITED_NS INT64_C(900000000)

int usleep(useconds_t us) {
    static _Thread_local int64_t last_ns; /* of this thread's last call; 0: none yet */
    int64_t now_ns = clock_monotonic_ns(), since_ns = now_ns - last_ns;
    bool skip = us == PAHO_PAUSE_US && last_ns != 0 && since_ns >= WAITED_NS;
    last_ns = now_ns;
    if (skip) return 0;
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    return nanosleep(&t, NULL);
}
