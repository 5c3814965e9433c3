/* test_config_pages.c: the committed pages that are made from tables are what the tables give.
 * KVQD_MEND=1 writes them instead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "daemon/config.h"
#include "daemon/file.h"
#include "daemon/log.h"
#include "daemon/topics.h"

#define TABLE_BEGIN "<!-- made from daemon/config.def -->\n"
#define TABLE_END "<!-- end -->\n"

static char *print(void (*write_page)(FILE *)) {
    char *text = NULL;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    assert_non_null(out);
    write_page(out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void write_page_file(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static void compare(const char *name, const char *want) {
    char path[4096], *have = NULL;
    kvq_error err;
    (void)snprintf(path, sizeof path, "%s/%s", KVQ_SOURCE_DIR, name);
    if (getenv("KVQD_MEND")) write_page_file(path, want);
    if (file_read(path, 1 << 20, &have, &err)) fail_msg("%s", err.text);
    if (strcmp(have, want)) fail_msg("%s is not what its table gives; mend it with: KVQD_MEND=1 %s", name, KVQ_PROGRAM);
    free(have);
}

static void compare_page(const char *name, void (*write_page)(FILE *)) {
    char *want = print(write_page);
    compare(name, want);
    free(want);
}

static void shipped_ini_is_what_the_table_gives(void **state) {
    (void)state;
    compare_page("etc/kvqd.ini", config_print_ini);
}

static void shipped_ini_is_a_valid_configuration(void **state) {
    config c;
    config_report report = {0};
    (void)state;
    char *text = print(config_print_ini);
    if (!config_load_text(text, &c, &report)) fail_msg("%s", report.text);
    config_free(&c);
    for (char *p = text; *p; p++) /* and with every key uncommented */
        if (*p == ';' && p[-1] == '\n') *p = ' ';
    for (char *p = text, *line = text; *p; p++) { /* at the left edge: an indented line continues */
        if (line == p && *p == ' ') memmove(p, p + 1, strlen(p));
        if (*p == '\n') line = p + 1;
    }
    assert_non_null(strstr(text, "\nsession_len = 0\n"));
    if (!config_load_text(text, &c, &report)) fail_msg("%s", report.text);
    config_free(&c);
    free(text);
}

static void man_page_is_what_the_table_gives(void **state) {
    (void)state;
    compare_page("packaging/man/kvqd.ini.5", config_print_man);
}

/* A table between two marks in a page that people write. */
static void compare_table(const char *name, void (*write_table)(FILE *)) {
    char path[4096], *page = NULL, *want = NULL, *table = print(write_table);
    kvq_error err;
    (void)snprintf(path, sizeof path, "%s/%s", KVQ_SOURCE_DIR, name);
    if (file_read(path, 1 << 20, &page, &err)) fail_msg("%s", err.text);
    char *begin = strstr(page, TABLE_BEGIN), *end = begin ? strstr(begin, TABLE_END) : NULL;
    if (!end) fail_msg("%s has lost its two marks around the table", name);
    *begin = '\0';
    assert_true(asprintf(&want, "%s" TABLE_BEGIN "\n%s\n%s", page, table, end) > 0);
    compare(name, want);
    free(want);
    free(table);
    free(page);
}

static void tables_in_docs_are_what_the_table_gives(void **state) {
    (void)state;
    compare_table("docs/configuration.md", config_print_markdown);
    compare_table("README.md", config_print_readme);
}

/* "%b/%d/prompt/%r" as the page writes it: prompt/<r>. */
static void write_topic(const char *pattern, FILE *out) {
    static const struct {
        char letter;
        const char *text;
    } names[] = {{'b', "kvqd"}, {'d', "<node>"}, {'p', "<p>"}, {'h', "homeassistant"}, {'r', "<r>"}, {'c', "<cmd>"}};
    static const char node[] = "%b/%d/";
    if (!strncmp(pattern, node, strlen(node))) pattern += strlen(node);
    fputc('`', out);
    for (; *pattern; pattern++) {
        size_t i = 0;
        if (*pattern != '%') {
            fputc(*pattern, out);
            continue;
        }
        for (pattern++; names[i].letter != *pattern;) assert_true(++i < sizeof names / sizeof *names);
        fputs(names[i].text, out);
    }
    fputc('`', out);
}

static void readme_has_every_topic(void **state) {
    (void)state;
    char *page = NULL, topic[TOPIC_BYTES];
    kvq_error err;
    if (file_read(KVQ_SOURCE_DIR "/README.md", 1 << 20, &page, &err)) fail_msg("%s", err.text);
    for (int i = 0; i < TOPIC_COUNT; i++) {
        FILE *out = fmemopen(topic, sizeof topic, "w");
        assert_non_null(out);
        write_topic(topic_table[i].pattern, out);
        assert_int_equal(fclose(out), 0);
        if (!strstr(page, topic)) fail_msg("README.md lacks the topic %s", topic);
    }
    free(page);
}

static void catalog_is_what_the_table_gives(void **state) {
    (void)state;
    compare_page("packaging/kvqd.catalog", log_print_catalog);
}

static void help_has_every_key(void **state) {
    (void)state;
    char *help = print(config_print_help), line[128];
    for (size_t i = 0; i < config_n_keys; i++) {
        (void)snprintf(line, sizeof line, "\n  %s = %s ", config_keys[i].name, config_keys[i].preset);
        assert_non_null(strstr(help, line));
    }
    free(help);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shipped_ini_is_what_the_table_gives),
        cmocka_unit_test(shipped_ini_is_a_valid_configuration),
        cmocka_unit_test(man_page_is_what_the_table_gives),
        cmocka_unit_test(tables_in_docs_are_what_the_table_gives),
        cmocka_unit_test(readme_has_every_topic),
        cmocka_unit_test(catalog_is_what_the_table_gives),
        cmocka_unit_test(help_has_every_key),
    };
    return cmocka_run_group_tests_name("config_pages", tests, NULL, NULL);
}
