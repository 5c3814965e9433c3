/* notify.h: what kvqd tells its service manager (sd_notify). main.c owns one struct notify and calls notify_tick from
 * its loop. Without systemd (NOTIFY_SOCKET unset) all calls do nothing. Time is monotonic nanoseconds, given by the
 * caller. */
#ifndef KVQD_NOTIFY_H
#define KVQD_NOTIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NOTIFY_STATUS_BYTES 1024 /* longer ones are cut, between characters */

typedef struct notify {
    int64_t feed_every_ns; /* half of the unit's WatchdogSec; 0: no watchdog */
    int64_t feed_next_ns, extend_next_ns;
    char status[NOTIFY_STATUS_BYTES];
} notify;

void notify_init(notify *n, int64_t now_ns);

/* Call it from the loop that must not hang: once a step, and whenever notify_wait_ms has passed. Feeds the watchdog
 * when due. */
void notify_tick(notify *n, int64_t now_ns);

/* Milliseconds until notify_tick must be called again; -1: no watchdog. For the loop's poll. */
int notify_wait_ms(const notify *n, int64_t now_ns);

/* While something long runs before READY or while reloading a model: asks for more time, at most once a second, feeds
 * the watchdog and shows "what: 43 %" as status. ratio below 0: not known. */
void notify_loading(notify *n, int64_t now_ns, const char *what, double ratio);

void notify_ready(notify *n, const char *status);
void notify_status(notify *n, const char *status); /* one line for systemctl status; sent only when it changed */
void notify_reloading(notify *n, int64_t now_ns);  /* then notify_ready */
void notify_stopping(notify *n, const char *status);

#endif
