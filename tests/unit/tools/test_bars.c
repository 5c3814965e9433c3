/* test_bars.c: which progress bars a command draws and where they end. The functions of progress.h are wrapped
 * (tools.cmake) by ones that write down what they are told, so that nothing here depends on time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tiny_model.h"
#include "tools/command.h"
#include "tools/progress.h"

extern const command command_bench, command_eval, command_logits, command_run, command_tokenize;

/* ---- what the bars were told --------------------------------------------------------------------------------- */

enum { MAX_BARS = 16 };

static struct {
    char label[32];
    double last;
    int n_steps;
    bool is_done;
} bars[MAX_BARS];
static int n_bars;

void __wrap_progress_begin(progress *p, const char *label);
void __wrap_progress_step(progress *p, double ratio);
void __wrap_progress_done(progress *p);

void __wrap_progress_begin(progress *p, const char *label) {
    assert_true(n_bars < MAX_BARS);
    *p = (progress){.drawn_ns = n_bars};
    (void)snprintf(bars[n_bars++].label, sizeof bars[0].label, "%s", label);
}

void __wrap_progress_step(progress *p, double ratio) {
    int i = (int)p->drawn_ns;
    assert_true(i < n_bars && ratio >= bars[i].last && ratio <= 1);
    bars[i].last = ratio;
    bars[i].n_steps++;
    bars[i].is_done = false;
}

void __wrap_progress_done(progress *p) {
    bars[p->drawn_ns].is_done = true;
}

int command_fail(int exit_code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return exit_code;
}

/* ---- commands ------------------------------------------------------------------------------------------------ */

static char folder[] = "/tmp/kvqctl-test-bars-XXXXXX", model[64], text[64], prompt[64], logits[64];

static bool write_text(const char *path, int n_bytes) {
    FILE *f = fopen(path, "w");
    for (int i = 0; f && i < n_bytes; i++) fputc("It was the worst of times. "[i % 27], f);
    return f && fclose(f) == 0;
}

static int set_up(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    (void)snprintf(model, sizeof model, "%s/llama.gguf", folder);
    (void)snprintf(text, sizeof text, "%s/text", folder);
    (void)snprintf(logits, sizeof logits, "%s/logits.npy", folder);
    (void)snprintf(prompt, sizeof prompt, "%s/prompt", folder);
    bool written = tiny_model_write(&tiny_models[TINY_LLAMA], model) && write_text(text, 140) &&
                   write_text(prompt, 520); /* more than the 512 tokens of a step, which take emulators seconds */
    return written ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    (void)unlink(model);
    (void)unlink(text);
    (void)unlink(prompt);
    (void)unlink(logits);
    return rmdir(folder);
}

#define SMALL "--cache", "400", "--threads", "1"

/* The command with the model and more arguments (a NULL ends them); what it prints goes nowhere. */
static void run_command(const command *c, const char *const *more) {
    const char *argv[32] = {"--model", model};
    int argc = 2, screen = dup(STDOUT_FILENO), nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    kvq_error err = {0};
    while (*more) argv[argc++] = *more++;
    void *values = malloc(c->values_bytes);
    assert_non_null(values);
    if (option_parse(c->options, c->n_options, argc, (char **)argv, values, c->values_bytes, &err))
        fail_msg("%s", err.text);
    n_bars = 0;
    memset(bars, 0, sizeof bars);
    assert_true(fflush(stdout) == 0 && dup2(nowhere, STDOUT_FILENO) >= 0);
    int code = c->run(values);
    assert_true(fflush(stdout) == 0 && dup2(screen, STDOUT_FILENO) >= 0);
    close(screen);
    close(nowhere);
    free(values);
    assert_int_equal(code, EXIT_CODE_OK);
}

/* The bars of a command in order, "Loading, Comparing": each is taken away, and what was told went to the end,
 * but for what alignment takes from the sizes that loading counts. */
static void assert_bars(const char *labels) {
    char have[MAX_BARS * 36] = "";
    for (int i = 0; i < n_bars; i++) {
        size_t n = strlen(have);
        (void)snprintf(have + n, sizeof have - n, "%s%.31s", i ? ", " : "", bars[i].label);
        if (!bars[i].is_done) fail_msg("'%s' is not taken away", bars[i].label);
        if (bars[i].n_steps == 0) fail_msg("'%s' is never drawn", bars[i].label);
        if (bars[i].last < 0.99) fail_msg("'%s' ends at %.0f %%", bars[i].label, 100 * bars[i].last);
    }
    assert_string_equal(have, labels);
}

static void run_has_one_while_the_prompt_is_read(void **state) {
    (void)state;
    run_command(&command_run, (const char *const[]){SMALL, "-f", prompt, "-n", "40", "-q", NULL});
    assert_int_equal(n_bars, 2);
    assert_string_equal(bars[1].label, "Reading");
    assert_true(bars[1].is_done);
    assert_true(bars[1].n_steps >= 1 && bars[1].n_steps < 10); /* none for what is said */
    assert_true(bars[1].last > 0.5);
}

static void eval_counts_the_f16_cache_once(void **state) {
    (void)state;
    run_command(&command_eval,
                (const char *const[]){SMALL, "-f", text, "-c", "64", "--chunks", "2", "--kv", "0,8,4", NULL});
    assert_bars("Tokenizing, Loading, Loading, Loading, Comparing");
    run_command(&command_eval,
                (const char *const[]){SMALL, "-f", text, "-c", "64", "--chunks", "2", "--kv", "8", NULL});
    assert_bars("Tokenizing, Loading, Loading, Comparing");
}

static void logits_end_with_the_last_row(void **state) {
    (void)state;
    run_command(&command_logits, (const char *const[]){SMALL, "-f", text, "-o", logits, NULL});
    assert_bars("Tokenizing, Loading, Logits");
}

static void bench_has_one_for_each_policy(void **state) {
    (void)state;
    run_command(&command_bench, (const char *const[]){SMALL, "-p", "20", "-n", "4", "-d", "0,30", "-b", "2", "-r", "2",
                                                      "--kv", "0,4", NULL});
    assert_bars("Loading, 0, Loading, 4");
}

static void tokenize_has_one(void **state) {
    (void)state;
    run_command(&command_tokenize, (const char *const[]){"-f", text, NULL});
    assert_bars("Tokenizing");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(run_has_one_while_the_prompt_is_read),
        cmocka_unit_test(eval_counts_the_f16_cache_once),
        cmocka_unit_test(logits_end_with_the_last_row),
        cmocka_unit_test(bench_has_one_for_each_policy),
        cmocka_unit_test(tokenize_has_one),
    };
    return cmocka_run_group_tests_name("bars", tests, set_up, tear_down);
}
