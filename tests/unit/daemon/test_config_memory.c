/* test_config_memory.c: want of memory while the configuration is read, reloaded or shown. The linker puts the
 * functions below in the place of those that allocate (daemon.cmake, WRAPPED); each test is run again and again, and
 * each time a later allocation fails, until none does. Nothing may crash, leak (the sanitizer's build sees it) or pass
 * for a success. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config.h"

static int left = -1; /* allocations until one fails; below 0: none does */
static int failed;

static bool fails(void) {
    if (left < 0 || left-- > 0) return false;
    failed++;
    errno = ENOMEM;
    return true;
}

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_malloc(size_t n) {
    return fails() ? NULL : __real_malloc(n);
}

void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size) {
    return fails() ? NULL : __real_calloc(n, size);
}

void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n) {
    return fails() ? NULL : __real_realloc(p, n);
}

char *__real_strdup(const char *s);
char *__wrap_strdup(const char *s);
char *__wrap_strdup(const char *s) {
    return fails() ? NULL : __real_strdup(s);
}

FILE *__real_open_memstream(char **text, size_t *n);
FILE *__wrap_open_memstream(char **text, size_t *n);
FILE *__wrap_open_memstream(char **text, size_t *n) {
    return fails() ? NULL : __real_open_memstream(text, n);
}

int __real_vasprintf(char **text, const char *format, va_list args);
int __wrap_vasprintf(char **text, const char *format, va_list args) __attribute__((format(printf, 2, 0)));
int __wrap_vasprintf(char **text, const char *format, va_list args) {
    return fails() ? -1 : __real_vasprintf(text, format, args);
}

int __wrap_asprintf(char **text, const char *format, ...) __attribute__((format(printf, 2, 3)));
int __wrap_asprintf(char **text, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = fails() ? -1 : __real_vasprintf(text, format, args);
    va_end(args);
    return n;
}

static const char good[] =
    "[generation]\nsystem = a\n  b\nstop_words = \"x\", y\n[mqtt]\nusername = u\npassword_file = p\n";

/* Runs attempt with the first, the second, ... allocation failing, until it meets no failure; returns how many that
 * took. */
static int run_all(bool (*attempt)(void)) {
    for (int n = 0; n < 10000; n++) {
        left = n;
        failed = 0;
        bool ok = attempt();
        left = -1;
        if (failed == 0) {
            assert_true(ok);
            return n;
        }
    }
    fail();
    return 0;
}

static bool load_good(void) {
    config c;
    config_report report = {0};
    bool ok = config_load_text(good, &c, &report);
    assert_int_equal(ok, report.n_errors == 0);
    if (ok) {
        assert_string_equal(c.generation_system, "a\nb");
        assert_int_equal(c.generation_stop_words.n, 2);
        config_free(&c);
    }
    config_report_free(&report);
    return ok;
}

static void loading_fails_or_succeeds_whole(void **state) {
    (void)state;
    assert_true(run_all(load_good) > 20);
}

/* Errors may lose their text to want of memory, never their number. */
static bool load_bad(void) {
    config c;
    config_report report = {0};
    assert_false(config_load_text("[engine]\nthreads = x\nthreds = 1\n[log]\nlevel = loud\n", &c, &report));
    assert_true(report.n_errors >= 1);
    bool complete = report.n_errors == 3 && report.text && strstr(report.text, "level = 'loud': allowed are error");
    config_report_free(&report);
    return complete;
}

static void errors_are_never_taken_for_success(void **state) {
    (void)state;
    assert_true(run_all(load_bad) > 20);
}

static config running;
static char ini[64];

static bool reload(void) {
    config fresh;
    config_changes changes;
    config_report report = {0};
    bool ok = config_reload(ini, &running, &fresh, &changes, &report);
    assert_int_equal(ok, report.n_errors == 0);
    if (ok) {
        assert_int_equal(changes.n_reloaded + changes.n_restart, 2);
        config_changes_free(&changes);
        config_free(&fresh);
    }
    config_report_free(&report);
    return ok;
}

static void a_reload_is_whole_or_not_at_all(void **state) {
    config_report report = {0};
    (void)state;
    strcpy(ini, "/tmp/kvqd-test-memory-XXXXXX");
    int fd = mkstemp(ini);
    static const char text[] = "[generation]\nsystem = a\n[engine]\nthreads = 2\n";
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    (void)close(fd);
    assert_true(config_load_text("", &running, &report));
    assert_true(run_all(reload) > 40);
    config_free(&running);
    (void)unlink(ini);
}

static bool show(void) {
    config c;
    config_report report = {0};
    int before = left;
    left = -1;
    assert_true(config_load_text(good, &c, &report));
    left = before;
    char *value = config_value(&c, &config_keys[0]);
    json_t *json = config_to_json(&c);
    bool ok = value && json;
    json_decref(json);
    free(value);
    config_free(&c);
    return ok;
}

static void showing_gives_null(void **state) {
    (void)state;
    json_set_alloc_funcs(__wrap_malloc, free);
    int n = run_all(show);
    json_set_alloc_funcs(__real_malloc, free);
    assert_true(n > 40);
}

static char secret[64];

static bool read_password(void) {
    config c = {.mqtt_password_file = secret};
    char *password = NULL;
    kvq_error err = {0};
    kvq_status status = config_read_password(&c, &password, &err);
    assert_true(status == KVQ_OK || status == KVQ_NO_MEMORY);
    if (status == KVQ_OK) assert_string_equal(password, "hunter2");
    free(password);
    return status == KVQ_OK;
}

static void a_password_is_read_or_refused(void **state) {
    (void)state;
    strcpy(secret, "/tmp/kvqd-test-secret-XXXXXX");
    int fd = mkstemp(secret);
    assert_int_equal(write(fd, "hunter2\n", 8), 8);
    (void)close(fd);
    assert_true(run_all(read_password) >= 2);
    (void)unlink(secret);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loading_fails_or_succeeds_whole), cmocka_unit_test(errors_are_never_taken_for_success),
        cmocka_unit_test(a_reload_is_whole_or_not_at_all), cmocka_unit_test(showing_gives_null),
        cmocka_unit_test(a_password_is_read_or_refused),
    };
    return cmocka_run_group_tests_name("config_memory", tests, NULL, NULL);
}
