/* message.c: copies of MQTT messages, and the clocks. See message.h. */
#include "message.h"

#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>
#include <time.h>

static size_t text_bytes(const char *text) {
    return (text ? strlen(text) : 0) + 1;
}

static const char *put(char **at, const void *bytes, size_t n_bytes, bool terminate) {
    char *start = *at;
    if (n_bytes) memcpy(start, bytes, n_bytes);
    if (terminate) start[n_bytes] = '\0';
    *at += n_bytes + (terminate ? 1 : 0);
    return start;
}

static const char *put_text(char **at, const char *text) {
    return put(at, text, text ? strlen(text) : 0, true);
}

message *message_copy(const message *m) {
    size_t n = text_bytes(m->topic) + text_bytes(m->response_topic) + text_bytes(m->content_type), all;
    if (__builtin_add_overflow(n, m->n_bytes, &all) || __builtin_add_overflow(all, m->n_correlation_bytes, &all) ||
        __builtin_add_overflow(all, sizeof *m, &all))
        return NULL;
    message *copy = malloc(all);
    if (!copy) return NULL;
    char *at = (char *)(copy + 1);
    *copy = *m;
    copy->topic = put_text(&at, m->topic);
    copy->response_topic = put_text(&at, m->response_topic);
    copy->content_type = put_text(&at, m->content_type);
    copy->payload = put(&at, m->payload, m->n_bytes, false);
    copy->correlation = put(&at, m->correlation, m->n_correlation_bytes, false);
    return copy;
}

void message_free(message *m) {
    free(m);
}

static int64_t clock_ns(clockid_t id) {
    struct timespec t;
    (void)clock_gettime(id, &t); /* cannot fail for these clocks */
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t clock_wall_ms(void) {
    return clock_ns(CLOCK_REALTIME) / 1000000;
}

int64_t clock_monotonic_ns(void) {
    return clock_ns(CLOCK_MONOTONIC);
}

clock_sync clock_ask_sync(void) {
    struct timex t = {0};
    if (adjtimex(&t) == -1) return CLOCK_UNKNOWN;
    return t.status & STA_UNSYNC ? CLOCK_UNSYNCED : CLOCK_SYNCED;
}

bool clock_is_synced(void) {
    return clock_ask_sync() == CLOCK_SYNCED;
}
