/* test_notify.c: daemon/notify.c and log.c against a real socket in the manager's place and a real pipe as standard
 * error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/notify.h"

enum { SECOND = 1000000000 };

typedef struct manager {
    char directory[64], path[96], text[2048];
    int fd;
} manager;

static int setup(void **state) {
    manager *m = calloc(1, sizeof *m);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!m) return -1;
    strcpy(m->directory, "/tmp/kvqd-test-notify-XXXXXX");
    if (!mkdtemp(m->directory)) return -1;
    (void)snprintf(m->path, sizeof m->path, "%s/notify", m->directory);
    strcpy(address.sun_path, m->path);
    m->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (m->fd < 0 || bind(m->fd, (struct sockaddr *)&address, sizeof address)) return -1;
    setenv("NOTIFY_SOCKET", m->path, 1);
    *state = m;
    return 0;
}

static int teardown(void **state) {
    manager *m = *state;
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    (void)close(m->fd);
    (void)unlink(m->path);
    int result = rmdir(m->directory);
    free(m);
    return result;
}

/* The next message, "" if there is none: sending is synchronous, so nothing can still be on its way. */
static const char *received(manager *m) {
    ssize_t n = recv(m->fd, m->text, sizeof m->text - 1, 0);
    m->text[n < 0 ? 0 : n] = '\0';
    return m->text;
}

static void the_watchdog_is_fed_at_half_its_time(void **state) {
    manager *m = *state;
    notify n;
    setenv("WATCHDOG_USEC", "1000000", 1); /* WatchdogSec=1: half of it is not a whole second */
    notify_init(&n, 5 * (int64_t)SECOND);
    assert_int_equal(n.feed_every_ns, SECOND / 2);
    notify_tick(&n, 5 * (int64_t)SECOND);
    assert_string_equal(received(m), "WATCHDOG=1");
    assert_int_equal(notify_wait_ms(&n, 5 * (int64_t)SECOND), 500);
    notify_tick(&n, 5 * (int64_t)SECOND + SECOND / 2 - 1);
    assert_string_equal(received(m), "");
    notify_tick(&n, 5 * (int64_t)SECOND + SECOND / 2);
    assert_string_equal(received(m), "WATCHDOG=1");
    assert_int_equal(notify_wait_ms(&n, 20 * (int64_t)SECOND), 0);
}

static void without_a_watchdog_the_loop_may_sleep(void **state) {
    manager *m = *state;
    notify n;
    notify_init(&n, 0);
    notify_tick(&n, SECOND);
    assert_int_equal(notify_wait_ms(&n, SECOND), -1);
    assert_string_equal(received(m), "");
}

static void loading_asks_for_time_once_a_second_and_feeds_the_watchdog(void **state) {
    manager *m = *state;
    notify n;
    setenv("WATCHDOG_USEC", "4000000", 1);
    notify_init(&n, 0);
    notify_loading(&n, 0, "loading the model", 0.25);
    assert_string_equal(received(m), "WATCHDOG=1");
    assert_string_equal(received(m), "EXTEND_TIMEOUT_USEC=30000000\nSTATUS=loading the model: 25 %");
    notify_loading(&n, SECOND - 1, "loading the model", 0.3);
    assert_string_equal(received(m), "");
    notify_loading(&n, SECOND, "loading the model", -1);
    assert_string_equal(received(m), "EXTEND_TIMEOUT_USEC=30000000\nSTATUS=loading the model");
    notify_loading(&n, 2 * (int64_t)SECOND, "loading the model", 1);
    assert_string_equal(received(m), "WATCHDOG=1");
    assert_string_equal(received(m), "EXTEND_TIMEOUT_USEC=30000000\nSTATUS=loading the model: 100 %");
}

static void states_are_told_as_systemd_knows_them(void **state) {
    manager *m = *state;
    notify n;
    notify_init(&n, 0);
    notify_ready(&n, "ready");
    assert_string_equal(received(m), "READY=1\nSTATUS=ready");
    notify_status(&n, "ready");
    assert_string_equal(received(m), "");
    notify_status(&n, "12 tokens/s\nREADY=0");
    assert_string_equal(received(m), "STATUS=12 tokens/s READY=0");
    notify_reloading(&n, 1234567000);
    assert_string_equal(received(m), "RELOADING=1\nMONOTONIC_USEC=1234567\nSTATUS=reloading the configuration");
    notify_stopping(&n, "finishing 2 prompts");
    assert_string_equal(received(m), "STOPPING=1\nSTATUS=finishing 2 prompts");
}

/* The broker's reason is the last of the line, and a cut character would have systemd pass over all of it. */
static void a_status_line_is_long_and_cut_between_characters(void **state) {
    manager *m = *state;
    char line[2048];
    notify n;
    notify_init(&n, 0);
    (void)snprintf(line, sizeof line, "%0600d; no broker", 0);
    notify_status(&n, line);
    assert_string_equal(received(m) + strlen("STATUS="), line);
    for (size_t i = 0; i < sizeof line - 2; i += 2) memcpy(line + i, "\xc3\xbc", 2); /* an odd number of bytes fits */
    line[sizeof line - 2] = '\0';
    notify_status(&n, line);
    const char *told = received(m) + strlen("STATUS=");
    assert_int_equal(strlen(told), NOTIFY_STATUS_BYTES - 1);
    assert_int_equal(told[NOTIFY_STATUS_BYTES - 2], '?');
}

static void without_a_manager_nothing_happens(void **state) {
    manager *m = *state;
    notify n;
    unsetenv("NOTIFY_SOCKET");
    notify_init(&n, 0);
    notify_ready(&n, "ready");
    notify_stopping(&n, "");
    assert_string_equal(received(m), "");
}

/* ---- the log
 * ---------------------------------------------------------------------------------------------------------- */

typedef struct capture {
    int pipe_fds[2], stderr_before;
} capture;

static void begin(capture *c) {
    assert_int_equal(pipe(c->pipe_fds), 0);
    c->stderr_before = dup(STDERR_FILENO);
    assert_true(dup2(c->pipe_fds[1], STDERR_FILENO) >= 0);
}

static void end(capture *c, char *text, size_t n_bytes) {
    assert_true(dup2(c->stderr_before, STDERR_FILENO) >= 0);
    (void)close(c->pipe_fds[1]);
    size_t n = 0;
    for (ssize_t step = 1; step > 0 && n < n_bytes - 1; n += (size_t)step) {
        step = read(c->pipe_fds[0], text + n, n_bytes - 1 - n);
        if (step < 0) break;
    }
    text[n] = '\0';
    (void)close(c->pipe_fds[0]);
    (void)close(c->stderr_before);
}

static void lines_go_to_standard_error_with_their_fields(void **state) {
    capture c;
    char text[4096];
    (void)state;
    begin(&c);
    log_init();
    log_info("plain %d", 1);
    log_warning("from outside: %s", "a\nkvqd: forged\x1b[2J");
    log_event(LOG_MESSAGE_REQUEST_FINISHED, LOG_FIELDS(LOG_TEXT("REQUEST_ID", "a\nb"), LOG_NUMBER("TOKENS", 17)),
              "answered");
    log_debug("not at this level");
    log_set_level("error");
    log_warning("not at this level");
    log_error("at every level");
    log_event_lines(LOG_MESSAGE_CONFIG_REFUSED, "one\ntwo\n");
    log_set_level("info");
    end(&c, text, sizeof text);
    assert_string_equal(text, "kvqd: plain 1\n"
                              "kvqd: warning: from outside: a?kvqd: forged?[2J\n"
                              "kvqd: answered REQUEST_ID=a?b TOKENS=17\n"
                              "kvqd: error: at every level\n"
                              "kvqd: error: one\n"
                              "kvqd: error: two\n");
}

static void a_long_line_is_cut_and_ends(void **state) {
    capture c;
    char text[16384], *long_text = malloc(10000);
    (void)state;
    memset(long_text, 'x', 9999);
    long_text[9999] = '\0';
    begin(&c);
    log_write(LOG_LEVEL_INFO, LOG_FIELDS(LOG_TEXT("A", long_text)), "%s", long_text);
    end(&c, text, sizeof text);
    assert_int_equal(text[strlen(text) - 1], '\n');
    assert_int_equal(strchr(text, '\n') - text, strlen(text) - 1);
    assert_true(strlen(text) > 2000 && strlen(text) < 3000);
    free(long_text);
}

/* JOURNAL_STREAM that names another file than standard error (a shell redirected it): the lines belong to standard
 * error. */
static void a_foreign_journal_stream_is_not_ours(void **state) {
    capture c;
    char text[256];
    (void)state;
    setenv("JOURNAL_STREAM", "1:2", 1);
    begin(&c);
    log_init();
    log_info("here");
    end(&c, text, sizeof text);
    unsetenv("JOURNAL_STREAM");
    assert_string_equal(text, "kvqd: here\n");
}

static void every_message_id_is_a_uuid_of_its_own(void **state) {
    static const char *const ids[] = {
#define MESSAGE(name, level, id, ...) id,
#include "daemon/messages.def"
#undef MESSAGE
    };
    (void)state;
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        assert_int_equal(strlen(ids[i]), 32);
        assert_int_equal(strspn(ids[i], "0123456789abcdef"), 32);
        for (size_t k = 0; k < i; k++) assert_string_not_equal(ids[i], ids[k]);
    }
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_watchdog_is_fed_at_half_its_time),
        TEST(without_a_watchdog_the_loop_may_sleep),
        TEST(loading_asks_for_time_once_a_second_and_feeds_the_watchdog),
        TEST(states_are_told_as_systemd_knows_them),
        TEST(a_status_line_is_long_and_cut_between_characters),
        TEST(without_a_manager_nothing_happens),
        TEST(lines_go_to_standard_error_with_their_fields),
        TEST(a_long_line_is_cut_and_ends),
        TEST(a_foreign_journal_stream_is_not_ours),
        TEST(every_message_id_is_a_uuid_of_its_own),
    };
    return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
