/* test_progress.c: tools/progress.c draws on a terminal only, after a second, ten times a second at most. Time is an
 * argument. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tools/progress.h"

#define MS INT64_C(1000000)

typedef struct screen {
    FILE *file;
    char *text;
    size_t n;
} screen;

static const char *drawn(screen *s) {
    fflush(s->file);
    return s->text ? s->text : "";
}

static void open_screen(screen *s) {
    *s = (screen){0};
    s->file = open_memstream(&s->text, &s->n);
    assert_non_null(s->file);
}

static void nothing_in_the_first_second(void **state) {
    (void)state;
    screen s;
    open_screen(&s);
    progress p;
    progress_init(&p, s.file, true, "Loading", 5000 * MS);
    progress_show(&p, 0.1, 5000 * MS);
    progress_show(&p, 0.5, 5999 * MS);
    progress_done(&p);
    assert_string_equal(drawn(&s), "");
    fclose(s.file);
    free(s.text);
}

static void then_a_bar_that_goes_away(void **state) {
    (void)state;
    screen s;
    open_screen(&s);
    progress p;
    progress_init(&p, s.file, true, "Loading", 0);
    progress_show(&p, 0.5, 1000 * MS);
    assert_string_equal(drawn(&s), "\rLoading [###############...............]  50 %\033[K");
    size_t before = strlen(drawn(&s));
    progress_show(&p, 0.6, 1099 * MS);
    assert_int_equal(strlen(drawn(&s)), before);
    progress_show(&p, 2, 1100 * MS);
    assert_string_equal(drawn(&s) + before, "\rLoading [##############################] 100 %\033[K");
    before = strlen(drawn(&s));
    progress_done(&p);
    progress_done(&p);
    assert_string_equal(drawn(&s) + before, "\r\033[K");
    fclose(s.file);
    free(s.text);
}

static void nothing_into_a_pipe(void **state) {
    (void)state;
    screen s;
    open_screen(&s);
    progress p;
    progress_init(&p, s.file, false, "Loading", 0);
    progress_show(&p, 0.5, 60000 * MS);
    progress_done(&p);
    assert_string_equal(drawn(&s), "");
    fclose(s.file);
    free(s.text);
}

static void a_ratio_that_is_no_number_draws_an_empty_bar(void **state) {
    (void)state;
    screen s;
    open_screen(&s);
    progress p;
    progress_init(&p, s.file, true, "x", 0);
    progress_show(&p, 0.0 / 0.0, 2000 * MS);
    assert_string_equal(drawn(&s), "\rx [..............................]   0 %\033[K");
    progress_done(&p);
    fclose(s.file);
    free(s.text);
}

/* Where a bar that begins while stderr is fd would be drawn. */
static FILE *begun_on(int fd) {
    progress p;
    int own = dup(STDERR_FILENO);
    assert_true(own >= 0 && fd >= 0 && dup2(fd, STDERR_FILENO) >= 0);
    progress_begin(&p, "x");
    assert_true(dup2(own, STDERR_FILENO) >= 0);
    close(own);
    return p.out;
}

static void a_bar_begins_on_a_terminal_only(void **state) {
    (void)state;
    int terminal = posix_openpt(O_RDWR | O_NOCTTY), pipes[2], nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_true(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0 && pipe(pipes) == 0);
    int slave = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_ptr_equal(begun_on(slave), stderr);
    assert_null(begun_on(pipes[1]));
    assert_null(begun_on(nowhere));
    int all[] = {terminal, slave, pipes[0], pipes[1], nowhere};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) close(all[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_in_the_first_second),
        cmocka_unit_test(then_a_bar_that_goes_away),
        cmocka_unit_test(nothing_into_a_pipe),
        cmocka_unit_test(a_ratio_that_is_no_number_draws_an_empty_bar),
        cmocka_unit_test(a_bar_begins_on_a_terminal_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
