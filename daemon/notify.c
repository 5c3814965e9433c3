/* notify.c: readiness, status, watchdog and start-time extension for systemd. Called by main.c's loop. The watchdog is
 * fed from that loop and from nowhere else, so that a step that hangs gets the service restarted. */
#include "notify.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "text.h"

enum {
    EXTEND_EVERY_NS = 1000000000, /* how often more time is asked for */
    EXTEND_BY_S = 30              /* and how much: a slow disk may stall a single read for that long */
};

void notify_init(notify *n, int64_t now_ns) {
    uint64_t watchdog_us = 0;
    *n = (notify){.feed_next_ns = now_ns, .extend_next_ns = now_ns};
    if (sd_watchdog_enabled(0, &watchdog_us) > 0 && watchdog_us < INT64_MAX / 1000)
        n->feed_every_ns = (int64_t)watchdog_us * 500;
}

void notify_tick(notify *n, int64_t now_ns) {
    if (!n->feed_every_ns || now_ns < n->feed_next_ns) return;
    n->feed_next_ns = now_ns + n->feed_every_ns;
    (void)sd_notify(
        0, "WATCHDOG=1"); /* nothing can be done about a manager that does not listen; so for all calls below */
}

int notify_wait_ms(const notify *n, int64_t now_ns) {
    if (!n->feed_every_ns) return -1;
    int64_t wait_ms = (n->feed_next_ns - now_ns) / 1000000;
    return wait_ms <= 0 ? 0 : wait_ms > INT32_MAX ? INT32_MAX : (int)wait_ms;
}

/* One line, cut to the field's size; a newline would begin another assignment of the protocol. */
static void set_status(notify *n, const char *status) {
    (void)snprintf(n->status, sizeof n->status, "%s", status);
    for (char *p = n->status; *p; p++)
        if ((unsigned char)*p < ' ') *p = ' ';
    text_mend(n->status); /* systemd takes UTF-8 only */
}

void notify_loading(notify *n, int64_t now_ns, const char *what, double ratio) {
    char status[sizeof n->status];
    notify_tick(n, now_ns);
    if (now_ns < n->extend_next_ns) return;
    n->extend_next_ns = now_ns + EXTEND_EVERY_NS;
    if (ratio >= 0)
        (void)snprintf(status, sizeof status, "%s: %d %%", what, (int)lrint(fmin(ratio, 1) * 100));
    else
        (void)snprintf(status, sizeof status, "%s", what);
    set_status(n, status);
    (void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%" PRIu64 "\nSTATUS=%s", (uint64_t)EXTEND_BY_S * 1000000, n->status);
}

void notify_ready(notify *n, const char *status) {
    set_status(n, status);
    (void)sd_notifyf(0, "READY=1\nSTATUS=%s", n->status);
}

void notify_status(notify *n, const char *status) {
    char before[sizeof n->status];
    memcpy(before, n->status, sizeof before);
    set_status(n, status);
    if (strcmp(before, n->status)) (void)sd_notifyf(0, "STATUS=%s", n->status);
}

void notify_reloading(notify *n, int64_t now_ns) {
    set_status(n, "reloading the configuration");
    (void)sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRId64 "\nSTATUS=%s", now_ns / 1000, n->status);
}

void notify_stopping(notify *n, const char *status) {
    set_status(n, status);
    (void)sd_notifyf(0, "STOPPING=1\nSTATUS=%s", n->status);
}
