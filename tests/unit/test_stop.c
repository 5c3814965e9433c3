/* test_stop.c: engine/stop.c, on chosen streams and against a plain search however the stream is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/sampler.h"
#include "failing_alloc.h"

#define COUNT_OF(a) (int)(sizeof(a) / sizeof *(a))

/* Feeds the pieces (NULL ends them); what came out, "|" behind each call, "!" where a stop string was found, and what
 * finish gave. */
static void run(const char *const *stops, int n_stops, const char *const *pieces, char *out, size_t n_out) {
    kvq_stop_matcher *m = NULL;
    const char *text;
    size_t n, used = 0;
    assert_int_equal(kvq_stop_new(stops, n_stops, &m, NULL), KVQ_OK);
    for (; *pieces; pieces++) {
        bool found = kvq_stop_feed(m, *pieces, strlen(*pieces), &text, &n);
        used += (size_t)snprintf(out + used, n_out - used, "%.*s%s", (int)n, text, found ? "!" : "|");
    }
    kvq_stop_finish(m, &text, &n);
    snprintf(out + used, n_out - used, "%.*s", (int)n, text);
    kvq_stop_free(m);
}

static void text_ends_before_the_stop_string(void **state) {
    (void)state;
    static const struct {
        const char *stops[4], *pieces[8], *expected, *why;
    } cases[] = {
        {{NULL}, {"one", " two"}, "one| two|", "no stop strings: everything at once"},
        {{"END"}, {"one", " two"}, "one| two|", "no beginning of it"},
        {{"END"}, {"oneEND", "more"}, "one!!", "within a piece; nothing after it comes out"},
        {{"END"}, {"one E", "N", "D two"}, "one ||!", "spans three pieces"},
        {{"END"}, {"one E", "N", "d two"}, "one ||ENd two|", "a false beginning comes out whole"},
        {{"END"}, {"one EN"}, "one |EN", "finish gives back what was held"},
        {{"END"}, {"EENEND"}, "EEN!", "a beginning inside a beginning"},
        {{"aab"}, {"aa", "a", "ab"}, "|a|a!", "only the longest possible beginning is held"},
        {{"abac"}, {"ab", "ab", "ac"}, "|ab|!", "falls back to the border"},
        {{"abcd", "b"}, {"a", "b", "cd"}, "|a!!", "the one that completes first, though another began before it"},
        {{"xb", "b", "axb"}, {"1ax", "b"}, "1|!", "several complete at one byte: the longest"},
        {{"b", "a"}, {"cab"}, "c!", "whichever comes first in the text"},
        {{"\n\n"}, {"line\n", "line\n", "\nrest"}, "line|\nline|!", "a blank line across pieces"},
        {{"\xC3\xA9!"}, {"caf\xC3\xA9", " cr\xC3\xA9!"}, "caf|\xC3\xA9 cr!", "held on whole characters"},
        {{"\xF0\x9F\x98\x80"},
         {"a\xF0\x9F\x98\x81", "b\xF0\x9F\x98\x80"
                               "c"},
         "a\xF0\x9F\x98\x81|b!",
         "characters that share their first bytes"},
        {{"END"}, {"", "E", "", "ND", ""}, "|||!!", "empty pieces"},
    };
    for (int i = 0; i < COUNT_OF(cases); i++) {
        char out[256];
        int n_stops = 0;
        while (n_stops < 4 && cases[i].stops[n_stops]) n_stops++;
        run(cases[i].stops, n_stops, cases[i].pieces, out, sizeof out);
        if (strcmp(out, cases[i].expected) != 0)
            fail_msg("%s: got '%s', expected '%s'", cases[i].why, out, cases[i].expected);
    }
}

/* Text before the stop string whose end comes first (of those, the longest); all of it when there is none. */
static size_t plain_search(const char *text, const char *const *stops, int n_stops) {
    size_t n = strlen(text);
    for (size_t end = 1; end <= n; end++) {
        size_t longest = 0;
        for (int i = 0; i < n_stops; i++) {
            size_t k = strlen(stops[i]);
            if (k <= end && k > longest && memcmp(text + end - k, stops[i], k) == 0) longest = k;
        }
        if (longest) return end - longest;
    }
    return n;
}

static uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void random_word(char *out, size_t n, uint32_t *rnd) {
    for (size_t i = 0; i < n; i++) out[i] = (char)('a' + next_random(rnd) % 2);
    out[n] = '\0';
}

static void the_result_does_not_depend_on_how_the_text_is_cut(void **state) {
    (void)state;
    uint32_t rnd = 1;
    int n_found = 0;
    for (int round = 0; round < 3000; round++) {
        char text[61], words[3][12], out[128];
        const char *stops[3] = {words[0], words[1], words[2]};
        random_word(text, sizeof text - 1, &rnd);
        for (int i = 0; i < 3; i++) random_word(words[i], 4 + next_random(&rnd) % 8, &rnd);
        size_t expected = plain_search(text, stops, 3), used = 0, n, at = 0;
        kvq_stop_matcher *m = NULL;
        const char *piece;
        assert_int_equal(kvq_stop_new(stops, 3, &m, NULL), KVQ_OK);
        bool found = false;
        while (at < strlen(text)) {
            size_t take = next_random(&rnd) % 9;
            if (take > strlen(text) - at) take = strlen(text) - at;
            found = kvq_stop_feed(m, text + at, take, &piece, &n);
            memcpy(out + used, piece, n);
            used += n;
            at += take;
        }
        kvq_stop_finish(m, &piece, &n);
        memcpy(out + used, piece, n);
        used += n;
        n_found += found;
        assert_int_equal(found, expected < strlen(text));
        assert_int_equal(used, expected);
        assert_memory_equal(out, text, expected);
        kvq_stop_free(m);
    }
    assert_in_range(n_found, 500, 2999); /* both kinds of stream occurred */
}

static void a_long_piece_comes_out_whole(void **state) {
    (void)state;
    enum { N = 100000 };
    char *text = malloc(N);
    assert_non_null(text);
    memset(text, 'x', N);
    text[N - 1] = 'E';
    const char *stops[] = {"END"}, *out;
    size_t n;
    kvq_stop_matcher *m = NULL;
    assert_int_equal(kvq_stop_new(stops, 1, &m, NULL), KVQ_OK);
    assert_false(kvq_stop_feed(m, text, N, &out, &n));
    assert_int_equal(n, N - 1);
    assert_memory_equal(out, text, N - 1);
    assert_true(kvq_stop_feed(m, "ND", 2, &out, &n));
    assert_int_equal(n, 0);
    kvq_stop_free(m);
    free(text);
}

static void bytes_of_any_value_are_text(void **state) {
    (void)state;
    const char *stops[] = {"a"}, *out;
    const char bytes[] = {'\0', (char)0xFF, 'b', '\0'};
    size_t n;
    kvq_stop_matcher *m = NULL;
    assert_int_equal(kvq_stop_new(stops, 1, &m, NULL), KVQ_OK);
    assert_false(kvq_stop_feed(m, bytes, sizeof bytes, &out, &n));
    assert_int_equal(n, sizeof bytes);
    assert_memory_equal(out, bytes, sizeof bytes);
    kvq_stop_free(m);
}

static void stop_strings_that_cannot_be_are_refused(void **state) {
    (void)state;
    static char longest[4098];
    memset(longest, 'x', 4097);
    const char *const empty[] = {"a", ""}, *const too_long[] = {longest}, *const not_text[] = {"a", "b", "\xA9"};
    const char *many[65];
    for (int i = 0; i < 65; i++) many[i] = "a";
    const struct {
        const char *const *stops;
        int n;
        const char *text;
    } cases[] = {
        {empty, 2, "'stop' string 1 is empty, which would end every answer."},
        {too_long, 1, "'stop' string 0 is longer than the 4096 bytes allowed."},
        {not_text, 3, "'stop' string 2 is not valid UTF-8."},
        {many, 65, "'stop' has 65 strings; allowed are at most 64."},
    };
    for (int i = 0; i < COUNT_OF(cases); i++) {
        kvq_stop_matcher *m = NULL;
        kvq_error err = {0};
        assert_int_equal(kvq_stop_new(cases[i].stops, cases[i].n, &m, &err), KVQ_BAD_ARGUMENT);
        assert_string_equal(err.text, cases[i].text);
        assert_null(m);
    }
    kvq_stop_free(NULL);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    const char *const stops[] = {"END", "\n\n"};
    int n = 0;
    for (;; n++) {
        kvq_stop_matcher *m = NULL;
        kvq_error err = {0};
        allocations_left = n;
        kvq_status status = kvq_stop_new(stops, 2, &m, &err);
        bool all_done = allocations_left >= 0;
        allocations_left = -1;
        if (all_done) {
            assert_int_equal(status, KVQ_OK);
            kvq_stop_free(m);
            break;
        }
        assert_int_equal(status, KVQ_NO_MEMORY);
        assert_null(m);
        assert_string_equal(err.text, "No memory for 2 stop strings.");
    }
    assert_int_equal(n, 5); /* the matcher, the strings, their text, their borders, the buffer */
}

/* What was held is no stop string and comes out; what there was no room for does not, nor does anything after it. */
static void the_text_ends_where_there_is_no_memory_for_it(void **state) {
    (void)state;
    static char piece[5000];
    const char *stops[] = {"END"}, *out;
    size_t n;
    kvq_stop_matcher *m = NULL;
    memset(piece, 'x', sizeof piece);
    assert_int_equal(kvq_stop_new(stops, 1, &m, NULL), KVQ_OK);
    assert_false(kvq_stop_feed(m, "one EN", 6, &out, &n));
    assert_int_equal(n, 4);
    allocations_left = 0;
    bool ended = kvq_stop_feed(m, piece, sizeof piece, &out, &n);
    allocations_left = -1;
    assert_true(ended);
    assert_int_equal(n, 2);
    assert_memory_equal(out, "EN", 2);
    assert_true(kvq_stop_feed(m, "more", 4, &out, &n));
    assert_int_equal(n, 0);
    kvq_stop_finish(m, &out, &n);
    assert_int_equal(n, 0);
    kvq_stop_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_ends_before_the_stop_string),
        cmocka_unit_test(the_result_does_not_depend_on_how_the_text_is_cut),
        cmocka_unit_test(a_long_piece_comes_out_whole),
        cmocka_unit_test(bytes_of_any_value_are_text),
        cmocka_unit_test(stop_strings_that_cannot_be_are_refused),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(the_text_ends_where_there_is_no_memory_for_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
