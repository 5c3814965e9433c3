/* test_text.c: UTF-8 from outside (daemon/text.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/text.h"

static void only_well_formed_characters_are_valid(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        bool valid;
    } cases[] = {
        {"", 0, true},
        {"abc\n\x7f", 5, true},
        {"\xc2\x80\xdf\xbf", 4, true},                 /* U+0080, U+07FF */
        {"\xe0\xa0\x80\xef\xbf\xbf", 6, true},         /* U+0800, U+FFFF */
        {"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", 8, true}, /* U+10000, U+10FFFF */
        {"a\0b", 3, false},
        {"\xc1\xbf", 2, false},         /* overlong */
        {"\xe0\x9f\xbf", 3, false},     /* overlong */
        {"\xed\xa0\x80", 3, false},     /* surrogate */
        {"\xf4\x90\x80\x80", 4, false}, /* above U+10FFFF */
        {"\xf8\x88\x80\x80\x80", 5, false},
        {"\xe2\x82", 2, false}, /* cut */
        {"\xe2\x28\xa1", 3, false},
        {"\xbf", 1, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (text_is_valid(cases[i].bytes, cases[i].n) != cases[i].valid) fail_msg("case %zu", i);
}

static void what_is_mended_is_valid_and_keeps_its_good_parts(void **state) {
    (void)state;
    char text[] = "a\xff\xe2\x82\xac\xe2\x82 \xc3";
    text_mend(text);
    assert_string_equal(text, "a?\xe2\x82\xac?? ?");
    assert_true(text_is_valid(text, strlen(text)));
    char good[] = "\xf0\x9f\x98\x80 stays";
    text_mend(good);
    assert_string_equal(good, "\xf0\x9f\x98\x80 stays");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_well_formed_characters_are_valid),
        cmocka_unit_test(what_is_mended_is_valid_and_keeps_its_good_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
