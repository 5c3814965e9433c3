/* reload.c: the two sides of a reload that waits. The result is one file, RUNTIME_DIRECTORY/reload, put in place by
 * rename; its first line is "ok" or "refused". The waiter watches the directory from before it sends the signal, so
 * that no result is missed and an old one is not taken for it. */
#include "reload.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

#include "config.h"
#include "file.h"

#define RESULT_NAME "reload"
#define IS_OK "ok\n"
#define IS_REFUSED "refused\n"

enum { MAX_RESULT_BYTES = 1 << 20, PATH_BYTES = 4096 };

kvq_status reload_publish(const char *directory, bool is_ok, const char *text, kvq_error *err) {
    char path[PATH_BYTES], fresh[PATH_BYTES];
    if (!directory) return KVQ_OK;
    if (snprintf(path, sizeof path, "%s/" RESULT_NAME, directory) >= (int)sizeof path ||
        snprintf(fresh, sizeof fresh, "%s/." RESULT_NAME, directory) >= (int)sizeof fresh)
        return kvq_fail(err, KVQ_IO, "the result of the reload: '%s' is too long a path", directory);
    FILE *out = fopen(fresh, "we");
    if (!out) return kvq_fail(err, KVQ_IO, "cannot write '%s': %s", fresh, strerror(errno));
    int written = fprintf(out, "%s%s", is_ok ? IS_OK : IS_REFUSED, text ? text : "");
    if (fclose(out) || written < 0 || rename(fresh, path))
        return kvq_fail(err, KVQ_IO, "cannot write '%s': %s", path, strerror(errno));
    return KVQ_OK;
}

static int64_t now_ms(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t); /* cannot fail with a valid clock and address */
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Whether the events that inotify has for us tell of a result. */
static bool result_arrived(int watch) {
    _Alignas(struct inotify_event) char buffer[4096];
    bool arrived = false;
    ssize_t n = read(watch, buffer, sizeof buffer);
    for (ssize_t i = 0; i < n;) {
        const struct inotify_event *event = (const struct inotify_event *)(buffer + i);
        arrived |= event->len && !strcmp(event->name, RESULT_NAME);
        i += (ssize_t)sizeof *event + event->len;
    }
    return arrived;
}

static kvq_status wait_for_result(int watch, int pid, int timeout_ms, kvq_error *err) {
    int64_t end_ms = now_ms() + timeout_ms;
    for (;;) {
        int64_t left_ms = end_ms - now_ms();
        if (left_ms <= 0)
            return kvq_fail(err, KVQ_DEADLINE, "reload: no result from process %d within %d s", pid, timeout_ms / 1000);
        struct pollfd fd = {.fd = watch, .events = POLLIN};
        int step_ms = left_ms < 500 ? (int)left_ms : 500; /* now and then looks whether the daemon is still there */
        if (poll(&fd, 1, step_ms) > 0 && result_arrived(watch)) return KVQ_OK;
        if (kill(pid, 0)) return kvq_fail(err, KVQ_IO, "reload: process %d: %s", pid, strerror(errno));
    }
}

static kvq_status read_result(const char *directory, bool *ret_is_ok, char **ret_text, kvq_error *err) {
    char path[PATH_BYTES], *result;
    (void)snprintf(path, sizeof path, "%s/" RESULT_NAME, directory); /* the directory's watch shows that it fits */
    kvq_status status = file_read(path, MAX_RESULT_BYTES, &result, err);
    if (status) return status;
    *ret_is_ok = !strncmp(result, IS_OK, strlen(IS_OK));
    size_t head = strcspn(result, "\n");
    head += result[head] == '\n';
    memmove(result, result + head, strlen(result + head) + 1);
    *ret_text = result;
    return KVQ_OK;
}

kvq_status reload_request(const char *directory, int pid, int timeout_ms, bool *ret_is_ok, char **ret_text,
                          kvq_error *err) {
    if (!directory)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "reload: RUNTIME_DIRECTORY is not set; run: systemctl reload kvqd");
    int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (watch < 0) return kvq_fail(err, KVQ_IO, "reload: cannot watch '%s': %s", directory, strerror(errno));
    kvq_status status = KVQ_OK;
    if (inotify_add_watch(watch, directory, IN_MOVED_TO) < 0)
        status = kvq_fail(err, KVQ_IO, "reload: cannot watch '%s': %s", directory, strerror(errno));
    else if (kill(pid, SIGHUP))
        status = kvq_fail(err, KVQ_IO, "reload: process %d: %s", pid, strerror(errno));
    else
        status = wait_for_result(watch, pid, timeout_ms, err);
    (void)close(watch);
    return status ? status : read_result(directory, ret_is_ok, ret_text, err);
}

int reload_main(const char *pid_text) {
    char *end, *text = NULL;
    bool is_ok = false;
    kvq_error err;
    long pid = strtol(pid_text, &end, 10);
    if (*end || pid <= 1 || pid > INT32_MAX) {
        (void)fprintf(stderr, "kvqd --reload '%s': not a process\n", pid_text);
        return 1;
    }
    if (reload_request(getenv("RUNTIME_DIRECTORY"), (int)pid, RELOAD_TIMEOUT_MS, &is_ok, &text, &err)) {
        (void)fprintf(stderr, "kvqd: %s\n", err.text);
        return 1;
    }
    (void)fputs(text, stderr);
    free(text);
    return is_ok ? 0 : CONFIG_EXIT_CODE;
}
