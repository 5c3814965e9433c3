/* test_reload.c: daemon/reload.c: the result of a reload reaches the one who asked for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/reload.h"

static char directory[64];

static int setup(void **state) {
    (void)state;
    strcpy(directory, "/tmp/kvqd-test-reload-XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int teardown(void **state) {
    char command[128];
    (void)state;
    (void)snprintf(command, sizeof command, "rm -rf '%s'", directory);
    return system(command);
}

/* A daemon that answers one SIGHUP; ready once the signal is blocked. */
static pid_t start_daemon(bool is_ok, const char *text) {
    sigset_t hup;
    sigemptyset(&hup);
    sigaddset(&hup, SIGHUP);
    assert_int_equal(sigprocmask(SIG_BLOCK, &hup, NULL),
                     0); /* before the fork, so that the child has it from the start */
    pid_t pid = fork();
    if (pid == 0) {
        int number;
        (void)sigwait(&hup, &number);
        _exit(text ? (int)reload_publish(directory, is_ok, text, NULL) : 0);
    }
    assert_true(pid > 0);
    return pid;
}

static void check(bool is_ok, const char *text) {
    bool got_ok = !is_ok;
    char *got = NULL;
    kvq_error err;
    int exit_status;
    pid_t pid = start_daemon(is_ok, text);
    assert_int_equal(reload_request(directory, pid, 10000, &got_ok, &got, &err), KVQ_OK);
    assert_int_equal(got_ok, is_ok);
    assert_string_equal(got, text);
    free(got);
    assert_int_equal(waitpid(pid, &exit_status, 0), pid);
    assert_int_equal(exit_status, 0);
}

static void the_result_and_its_text_come_back(void **state) {
    (void)state;
    check(true, "");
    check(false, "kvqd.ini:1: wrong\nkvqd.ini:2: wrong too\n");
    check(true, "log level\n"); /* and not the older result */
}

static void a_daemon_that_dies_is_an_error(void **state) {
    bool is_ok;
    char *text, want[128];
    kvq_error err;
    (void)state;
    assert_true(signal(SIGCHLD, SIG_IGN) != SIG_ERR); /* no zombie: a reaped child is a process that is gone */
    pid_t pid = start_daemon(true, NULL);
    assert_int_equal(reload_request(directory, pid, 10000, &is_ok, &text, &err), KVQ_IO);
    (void)snprintf(want, sizeof want, "reload: process %d: No such process", (int)pid);
    assert_string_equal(err.text, want);
    assert_true(signal(SIGCHLD, SIG_DFL) != SIG_ERR);
}

static void no_answer_ends_at_the_deadline(void **state) {
    bool is_ok;
    char *text;
    kvq_error err;
    (void)state;
    sigset_t hup;
    sigemptyset(&hup);
    sigaddset(&hup, SIGHUP);
    assert_int_equal(sigprocmask(SIG_BLOCK, &hup, NULL), 0); /* to ourselves, who never answer */
    assert_int_equal(reload_request(directory, getpid(), 20, &is_ok, &text, &err), KVQ_DEADLINE);
}

static void outside_systemd_nobody_can_wait(void **state) {
    bool is_ok;
    char *text;
    kvq_error err;
    (void)state;
    assert_int_equal(reload_publish(NULL, true, "", &err), KVQ_OK);
    assert_int_equal(reload_request(NULL, getpid(), 20, &is_ok, &text, &err), KVQ_BAD_ARGUMENT);
    assert_string_equal(err.text, "reload: RUNTIME_DIRECTORY is not set; run: systemctl reload kvqd");
    assert_int_equal(reload_publish("/nonexistent", true, "", &err), KVQ_IO);
    assert_string_equal(err.text, "cannot write '/nonexistent/.reload': No such file or directory");
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_result_and_its_text_come_back),
        TEST(a_daemon_that_dies_is_an_error),
        TEST(no_answer_ends_at_the_deadline),
        TEST(outside_systemd_nobody_can_wait),
    };
    return cmocka_run_group_tests_name("reload", tests, NULL, NULL);
}
