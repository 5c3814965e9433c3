/* test_journal.c: the durable queue (daemon/journal.c). A crash is a child process that is killed without closing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/journal.h"

typedef struct world {
    char folder[64];
    journal *j;
    kvq_error err;
} world;

static void reopen(world *w) {
    bool damaged = true;
    journal_close(w->j);
    assert_int_equal(journal_open(w->folder, &w->j, &damaged, &w->err), KVQ_OK);
    assert_false(damaged);
}

static int setup(void **state) {
    bool damaged;
    world *w = calloc(1, sizeof *w);
    /* in memory where that can be: none of this is about power loss */
    const char *parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(w->folder, sizeof w->folder, "%s/kvqd-test-journal-XXXXXX", parent);
    if (!mkdtemp(w->folder) || journal_open(w->folder, &w->j, &damaged, &w->err)) return -1;
    *state = w;
    return 0;
}

static int teardown(void **state) {
    static const char *const names[] = {"journal.db", "journal.db-wal", "journal.db-shm", "journal.db.damaged",
                                        "journal.lock"};
    world *w = *state;
    char path[128];
    journal_close(w->j);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", w->folder, names[i]);
        unlink(path);
    }
    rmdir(w->folder);
    free(w);
    return 0;
}

static message make(const char *topic, const char *payload) {
    return (message){.topic = topic,
                     .payload = payload,
                     .n_bytes = strlen(payload),
                     .qos = 1,
                     .packet_id = 7,
                     .received_ms = 1000,
                     .clock_synced = true,
                     .response_topic = "reply/here",
                     .content_type = "text/plain",
                     .correlation = "\0\x01\xff",
                     .n_correlation_bytes = 3,
                     .expiry_s = 60};
}

static void append(world *w, const char *topic, const char *payload) {
    message m = make(topic, payload);
    if (journal_append(w->j, &m, &w->err)) fail_msg("%s", w->err.text);
}

static journal_row next(world *w, int64_t after) {
    journal_row r;
    assert_int_equal(journal_next_prompt(w->j, after, &r, &w->err), KVQ_OK);
    return r;
}

static void finish(world *w, int64_t row, const char *name, const char *answer, bool reusable) {
    assert_int_equal(journal_finish(w->j, row, name, "out", "c", 1, answer, strlen(answer), reusable, &w->err), KVQ_OK);
}

static void a_prompt_comes_back_as_it_went_in(void **state) {
    world *w = *state;
    append(w, "kvqd/n/prompt/a", "hello \xe2\x82\xac");
    reopen(w);
    journal_row r = next(w, 0);
    const message *m = r.message;
    assert_string_equal(m->topic, "kvqd/n/prompt/a");
    assert_int_equal(m->n_bytes, 9);
    assert_memory_equal(m->payload, "hello \xe2\x82\xac", 9);
    assert_string_equal(m->response_topic, "reply/here");
    assert_string_equal(m->content_type, "text/plain");
    assert_int_equal(m->n_correlation_bytes, 3);
    assert_memory_equal(m->correlation, "\0\x01\xff", 3);
    assert_int_equal(m->expiry_s, 60);
    assert_int_equal(m->received_ms, 1000);
    assert_true(m->clock_synced);
    assert_int_equal(r.attempts, 0);
    assert_false(r.has_seed);
    assert_string_equal(r.name, "");
    message_free(r.message);
    assert_int_equal(journal_next_prompt(w->j, r.row, &r, &w->err), KVQ_NOT_FOUND);
}

static void prompts_come_in_the_order_of_arrival(void **state) {
    world *w = *state;
    append(w, "t", "one");
    append(w, "t", "two");
    append(w, "t", "");
    journal_row a = next(w, 0), b = next(w, a.row), c = next(w, b.row);
    assert_memory_equal(a.message->payload, "one", 3);
    assert_memory_equal(b.message->payload, "two", 3);
    assert_int_equal(c.message->n_bytes, 0);
    message_free(a.message);
    message_free(b.message);
    message_free(c.message);
    assert_int_equal(journal_last_row(w->j), c.row);
}

/* The child does the work and is killed; the parent then looks at what is left. */
static void crash_after(world *w, void (*work)(world *w)) {
    journal_close(w->j);
    w->j = NULL;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bool damaged;
        if (journal_open(w->folder, &w->j, &damaged, &w->err)) _exit(1);
        work(w);
        kill(getpid(), SIGKILL);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    reopen(w);
}

static void append_and_start(world *w) {
    message m = make("t", "fragile");
    if (journal_append(w->j, &m, &w->err)) _exit(2);
    if (journal_start(w->j, journal_last_row(w->j), "alice/q", 1234567890123456789u, &w->err)) _exit(3);
}

static void start_again(world *w) {
    if (journal_start(w->j, journal_last_row(w->j), "alice/q", 1234567890123456789u, &w->err)) _exit(3);
}

static void a_killed_daemon_finds_its_prompt_with_seed_and_attempts(void **state) {
    world *w = *state;
    crash_after(w, append_and_start);
    journal_row r = next(w, 0);
    assert_int_equal(r.attempts, 1);
    assert_true(r.has_seed);
    assert_true(r.seed == 1234567890123456789u);
    assert_string_equal(r.name, "alice/q");
    assert_memory_equal(r.message->payload, "fragile", 7);
    message_free(r.message);
    crash_after(w, start_again);
    crash_after(w, start_again);
    r = next(w, 0);
    assert_int_equal(r.attempts, 3);
    message_free(r.message);
    assert_int_equal(journal_forgive(w->j, r.row, &w->err), KVQ_OK);
    r = next(w, 0);
    assert_int_equal(r.attempts, 2);
    message_free(r.message);
}

static void finish_it(world *w) {
    if (journal_finish(w->j, journal_last_row(w->j), "q", "out/q", "\0c", 2, "{\"text\":1}", 10, true, &w->err))
        _exit(4);
}

static void an_answer_survives_until_it_is_delivered_byte_for_byte(void **state) {
    world *w = *state;
    journal_answer a;
    journal_row r;
    append(w, "t", "p");
    crash_after(w, finish_it);
    assert_int_equal(journal_next_prompt(w->j, 0, &r, &w->err), KVQ_NOT_FOUND);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(journal_next_answer(w->j, 0, &a, &w->err), KVQ_OK);
        assert_string_equal(a.topic, "out/q");
        assert_int_equal(a.n_bytes, 10);
        assert_memory_equal(a.payload, "{\"text\":1}", 10);
        assert_int_equal(a.n_correlation_bytes, 2);
        assert_memory_equal(a.correlation, "\0c", 2);
        journal_answer_done(&a);
        reopen(w);
    }
    assert_int_equal(journal_delivered(w->j, journal_last_row(w->j), &w->err), KVQ_OK);
    assert_int_equal(journal_next_answer(w->j, 0, &a, &w->err), KVQ_NOT_FOUND);
}

static void answers_come_in_the_order_they_were_finished(void **state) {
    world *w = *state;
    journal_answer a;
    append(w, "t", "1");
    append(w, "t", "2");
    finish(w, 2, "b", "second", true);
    reopen(w); /* the sequence goes on where it was */
    finish(w, 1, "a", "first", true);
    assert_int_equal(journal_next_answer(w->j, 0, &a, &w->err), KVQ_OK);
    assert_int_equal(a.row, 2);
    int64_t sequence = a.sequence;
    journal_answer_done(&a);
    assert_int_equal(journal_next_answer(w->j, sequence, &a, &w->err), KVQ_OK);
    assert_int_equal(a.row, 1);
    journal_answer_done(&a);
}

static void the_same_prompt_finds_its_answer_and_another_payload_does_not(void **state) {
    world *w = *state;
    journal_answer a;
    append(w, "t", "p");
    finish(w, 1, "q", "answer", true);
    assert_int_equal(journal_delivered(w->j, 1, &w->err), KVQ_OK);
    message same = make("t", "p"), other = make("t", "p2"), typed = make("t", "p");
    typed.content_type = "application/json";
    assert_int_equal(journal_find_answer(w->j, "q", &same, &a, &w->err), KVQ_OK);
    assert_memory_equal(a.payload, "answer", 6);
    journal_answer_done(&a);
    assert_int_equal(journal_find_answer(w->j, "q", &other, &a, &w->err), KVQ_NOT_FOUND);
    assert_int_equal(journal_find_answer(w->j, "q", &typed, &a, &w->err), KVQ_NOT_FOUND);
    assert_int_equal(journal_find_answer(w->j, "q2", &same, &a, &w->err), KVQ_NOT_FOUND);
}

static void a_refusal_serves_nobody_again(void **state) {
    world *w = *state;
    journal_answer a;
    append(w, "t", "p");
    finish(w, 1, "q", "busy", false);
    message m = make("t", "p");
    assert_int_equal(journal_find_answer(w->j, "q", &m, &a, &w->err), KVQ_NOT_FOUND);
}

static void a_message_the_broker_sends_again_is_stored_once(void **state) {
    world *w = *state;
    journal_stats s;
    message m = make("t", "p"), again = m, other_id = m;
    again.duplicate = true;
    other_id.duplicate = true;
    other_id.packet_id = 8;
    assert_int_equal(journal_append(w->j, &m, &w->err), KVQ_OK);
    assert_int_equal(journal_append(w->j, &again, &w->err), KVQ_OK);
    journal_get_stats(w->j, &s);
    assert_int_equal(s.n_unanswered, 1);
    assert_int_equal(journal_append(w->j, &other_id, &w->err), KVQ_OK); /* its first copy never reached us */
    assert_int_equal(journal_append(w->j, &m, &w->err), KVQ_OK);        /* not flagged: a new one */
    journal_get_stats(w->j, &s);
    assert_int_equal(s.n_unanswered, 3);
}

/* Delivered: so the broker has our PUBACK, and the packet id is free for another message. */
static void a_message_like_one_whose_answer_was_delivered_is_a_new_one(void **state) {
    world *w = *state;
    journal_stats s;
    message m = make("t", "p"), other = m;
    other.duplicate = true; /* the broker lost the connection while it sent this one for the first time */
    assert_int_equal(journal_append(w->j, &m, &w->err), KVQ_OK);
    finish(w, 1, "q", "answer", true);
    assert_int_equal(journal_append(w->j, &other, &w->err), KVQ_OK);
    journal_get_stats(w->j, &s);
    assert_int_equal(s.n_unanswered, 0); /* the answer is on its way and will do */
    assert_int_equal(journal_delivered(w->j, 1, &w->err), KVQ_OK);
    assert_int_equal(journal_append(w->j, &other, &w->err), KVQ_OK);
    journal_get_stats(w->j, &s);
    assert_int_equal(s.n_unanswered, 1);
}

static void a_delivered_answer_goes_at_once_without_retention(void **state) {
    world *w = *state;
    journal_answer a;
    journal_stats s;
    message m = make("t", "p");
    journal_set_limits(w->j, 1u << 20, 0);
    append(w, "t", "p");
    finish(w, 1, "q", "answer", true);
    assert_int_equal(journal_next_answer(w->j, 0, &a, &w->err), KVQ_OK); /* it is kept until then */
    journal_answer_done(&a);
    assert_int_equal(journal_delivered(w->j, 1, &w->err), KVQ_OK);
    assert_int_equal(journal_find_answer(w->j, "q", &m, &a, &w->err), KVQ_NOT_FOUND);
    journal_get_stats(w->j, &s);
    assert_int_equal(s.bytes, 0);
    assert_int_equal(s.n_undelivered, 0);
    assert_int_equal(s.n_kept, 0);
}

static void an_answer_counts_once_however_often_it_is_delivered(void **state) {
    world *w = *state;
    journal_stats s;
    append(w, "t", "1");
    append(w, "t", "2");
    finish(w, 1, "a", "first", true);
    finish(w, 2, "b", "second", true);
    assert_int_equal(journal_delivered(w->j, 1, &w->err), KVQ_OK);
    assert_int_equal(journal_delivered(w->j, 1, &w->err), KVQ_OK);
    journal_get_stats(w->j, &s);
    assert_int_equal(s.n_undelivered, 1);
    assert_int_equal(s.n_kept, 1);
}

static void a_full_journal_refuses_prompts_but_takes_their_answers(void **state) {
    world *w = *state;
    journal_stats s;
    message m = make("t", "0123456789");
    journal_set_limits(w->j, 1200, INT64_MAX);
    assert_int_equal(journal_append(w->j, &m, &w->err), KVQ_OK);
    assert_int_equal(journal_append(w->j, &m, &w->err), KVQ_OK);
    assert_int_equal(journal_append(w->j, &m, &w->err), KVQ_BUSY);
    assert_non_null(strstr(w->err.text, "the journal is full"));
    finish(w, 1, "a", "a long answer", true);
    assert_int_equal(journal_append(w->j, &m, &w->err), KVQ_BUSY);
    assert_int_equal(journal_delivered(w->j, 1, &w->err), KVQ_OK);
    assert_int_equal(journal_append(w->j, &m, &w->err), KVQ_OK); /* the delivered answer made room */
    journal_get_stats(w->j, &s);
    assert_int_equal(s.n_kept, 0);
    assert_int_equal(s.n_unanswered, 2);
    uint64_t bytes = s.bytes;
    reopen(w);
    journal_get_stats(w->j, &s);
    assert_int_equal(s.bytes, bytes); /* what was counted is what is there */
}

/* A client chooses the length of each of these; the payload alone would let it fill the disk. */
/* More than are forgotten at once; what was counted is what is there. */
static void the_oldest_answers_go_first_and_the_sums_stay_right(void **state) {
    world *w = *state;
    journal_stats s, read;
    journal_answer a;
    message m = make("t", "0123456789");
    enum { N = 70 };
    for (int64_t row = 1; row <= N; row++) {
        append(w, "t", "0123456789");
        finish(w, row, "a", "0123456789", true);
        if (row > 2) assert_int_equal(journal_delivered(w->j, row, &w->err), KVQ_OK);
    }
    journal_get_stats(w->j, &s);
    assert_int_equal(s.n_kept, N - 2);
    journal_set_limits(w->j, s.bytes, INT64_MAX);
    append(w, "t", "0123456789");
    journal_get_stats(w->j, &s);
    assert_int_equal(s.n_undelivered, 2);
    assert_int_equal(s.n_unanswered, 1);
    assert_in_range(s.n_kept, 1, N - 3);
    assert_int_equal(journal_find_answer(w->j, "a", &m, &a, &w->err), KVQ_OK);
    assert_int_equal(a.row, N); /* the newest is still there */
    journal_answer_done(&a);
    reopen(w);
    journal_get_stats(w->j, &read);
    assert_memory_equal(&s, &read, sizeof s);

    journal_set_limits(w->j, s.bytes + 1000, INT64_MAX); /* not even all answers would make room for this one */
    static char large[100000];
    m.payload = large;
    m.n_bytes = sizeof large;
    assert_int_equal(journal_append(w->j, &m, &w->err), KVQ_BUSY);
    journal_get_stats(w->j, &read);
    assert_memory_equal(&s, &read, sizeof s);
    reopen(w);
    journal_get_stats(w->j, &read);
    assert_memory_equal(&s, &read, sizeof s);

    journal_set_limits(w->j, UINT64_MAX, 1);
    assert_int_equal(journal_prune(w->j, INT64_MAX, &w->err), KVQ_OK);
    journal_get_stats(w->j, &s);
    assert_int_equal(s.n_kept, 0);
    assert_int_equal(s.n_undelivered, 2);
    reopen(w);
    journal_get_stats(w->j, &read);
    assert_memory_equal(&s, &read, sizeof s);
}

static void whatever_a_client_can_make_long_counts(void **state) {
    world *w = *state;
    static char text[20001], euros[6001];
    journal_stats s;
    memset(text, 't', sizeof text - 1);
    for (size_t i = 0; i + 3 < sizeof euros; i += 3) memcpy(euros + i, "\xe2\x82\xac", 3);
    for (int which = 0; which < 4; which++) {
        message m = make("t", "x");
        if (which == 0) m.topic = text;
        if (which == 1) m.response_topic = text;
        if (which == 2) m.content_type = text;
        if (which == 3) m.correlation = text, m.n_correlation_bytes = sizeof text - 1;
        journal_get_stats(w->j, &s);
        journal_set_limits(w->j, s.bytes + 20000, INT64_MAX);
        assert_int_equal(journal_append(w->j, &m, &w->err), KVQ_BUSY);
        journal_set_limits(w->j, s.bytes + 21000, INT64_MAX);
        assert_int_equal(journal_append(w->j, &m, &w->err), KVQ_OK);
    }
    message m = make("t", "x");
    m.content_type = euros; /* bytes, not characters */
    journal_set_limits(w->j, UINT64_MAX, INT64_MAX);
    assert_int_equal(journal_append(w->j, &m, &w->err), KVQ_OK);
    assert_int_equal(journal_finish(w->j, 1, "a", text, text, 20000, "answer", 6, true, &w->err), KVQ_OK);
    journal_get_stats(w->j, &s);
    assert_in_range(s.bytes, 126000, 130000);
    uint64_t bytes = s.bytes;
    reopen(w);
    journal_get_stats(w->j, &s);
    assert_int_equal(s.bytes, bytes);
}

static void delivered_answers_are_forgotten_after_the_retention(void **state) {
    world *w = *state;
    journal_answer a;
    message m = make("t", "p");
    append(w, "t", "p");
    append(w, "t", "undelivered");
    finish(w, 1, "q", "answer", true);
    finish(w, 2, "u", "kept", true);
    assert_int_equal(journal_delivered(w->j, 1, &w->err), KVQ_OK);
    journal_set_limits(w->j, 1u << 20, 3600000);
    assert_int_equal(journal_prune(w->j, clock_wall_ms() + 3500000, &w->err), KVQ_OK);
    assert_int_equal(journal_find_answer(w->j, "q", &m, &a, &w->err), KVQ_OK);
    journal_answer_done(&a);
    assert_int_equal(journal_prune(w->j, clock_wall_ms() + 3700000, &w->err), KVQ_OK);
    assert_int_equal(journal_find_answer(w->j, "q", &m, &a, &w->err), KVQ_NOT_FOUND);
    assert_int_equal(journal_next_answer(w->j, 0, &a, &w->err), KVQ_OK);
    assert_string_equal((char *)a.payload, "kept");
    journal_answer_done(&a);
}

static void a_damaged_file_is_put_aside(void **state) {
    world *w = *state;
    char path[128];
    bool damaged = false;
    append(w, "t", "p");
    journal_close(w->j);
    w->j = NULL;
    snprintf(path, sizeof path, "%s/journal.db", w->folder);
    int fd = open(path, O_WRONLY);
    char junk[4096];
    memset(junk, 0x5a, sizeof junk);
    assert_int_equal(pwrite(fd, junk, sizeof junk, 0), sizeof junk);
    close(fd);
    assert_int_equal(journal_open(w->folder, &w->j, &damaged, &w->err), KVQ_OK);
    assert_true(damaged);
    snprintf(path, sizeof path, "%s/journal.db.damaged", w->folder);
    assert_int_equal(access(path, F_OK), 0);
    append(w, "t", "works again");
}

static void a_folder_that_is_not_there_is_an_error_that_names_it(void **state) {
    (void)state;
    journal *j = NULL;
    bool damaged;
    kvq_error err;
    assert_int_equal(journal_open("/nonexistent/folder", &j, &damaged, &err), KVQ_IO);
    assert_null(j);
    assert_non_null(strstr(err.text, "/nonexistent/folder/journal.lock"));
}

static void a_folder_whose_journal_is_open_is_refused_until_it_is_closed(void **state) {
    world *w = *state;
    journal *second = NULL;
    bool damaged;
    assert_int_equal(journal_open(w->folder, &second, &damaged, &w->err), KVQ_BUSY);
    assert_null(second);
    assert_non_null(strstr(w->err.text, "another kvqd uses"));
    assert_non_null(strstr(w->err.text, w->folder));
    reopen(w);
}

static void a_remembered_name_stays(void **state) {
    world *w = *state;
    char *name;
    assert_int_equal(journal_remember(w->j, "node", "first", &name, &w->err), KVQ_OK);
    assert_string_equal(name, "first");
    free(name);
    reopen(w);
    assert_int_equal(journal_remember(w->j, "node", "second", &name, &w->err), KVQ_OK);
    assert_string_equal(name, "first");
    free(name);
}

/* This program's own, which SQLite's calls reach as they would libc's. */
static int n_flushes;

int fdatasync(int fd) {
    n_flushes++;
    return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd) {
    n_flushes++;
    return (int)syscall(SYS_fsync, fd);
}

static int flushes_since(int *before) {
    int n = n_flushes - *before;
    *before = n_flushes;
    return n;
}

/* What survives kill -9 alone need not wait for the disk; a prompt must be there before it is acknowledged, and so must
 * an answer before it is published. */
static void prompts_and_answers_are_flushed_to_the_disk_and_bookkeeping_is_not(void **state) {
    world *w = *state;
    append(w, "t", "one");
    append(w, "t", "two");
    journal_row a = next(w, 0), b = next(w, a.row);
    int at = n_flushes;
    assert_int_equal(journal_start(w->j, a.row, "a", 1, &w->err), KVQ_OK);
    assert_int_equal(journal_start(w->j, b.row, "b", 1, &w->err), KVQ_OK);
    assert_int_equal(flushes_since(&at), 0);
    append(w, "t", "three");
    assert_true(flushes_since(&at) > 0);
    finish(w, a.row, "a", "answer", true);
    assert_true(flushes_since(&at) > 0);
    assert_int_equal(journal_delivered(w->j, a.row, &w->err), KVQ_OK);
    assert_int_equal(flushes_since(&at), 0);
    finish(w, b.row, "b", "answer", true);
    assert_true(flushes_since(&at) > 0);
    message_free(a.message);
    message_free(b.message);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_prompt_comes_back_as_it_went_in),
        TEST(prompts_come_in_the_order_of_arrival),
        TEST(a_killed_daemon_finds_its_prompt_with_seed_and_attempts),
        TEST(an_answer_survives_until_it_is_delivered_byte_for_byte),
        TEST(answers_come_in_the_order_they_were_finished),
        TEST(the_same_prompt_finds_its_answer_and_another_payload_does_not),
        TEST(a_refusal_serves_nobody_again),
        TEST(a_message_the_broker_sends_again_is_stored_once),
        TEST(a_message_like_one_whose_answer_was_delivered_is_a_new_one),
        TEST(a_delivered_answer_goes_at_once_without_retention),
        TEST(an_answer_counts_once_however_often_it_is_delivered),
        TEST(a_full_journal_refuses_prompts_but_takes_their_answers),
        TEST(the_oldest_answers_go_first_and_the_sums_stay_right),
        TEST(whatever_a_client_can_make_long_counts),
        TEST(delivered_answers_are_forgotten_after_the_retention),
        TEST(a_damaged_file_is_put_aside),
        TEST(a_folder_that_is_not_there_is_an_error_that_names_it),
        TEST(a_folder_whose_journal_is_open_is_refused_until_it_is_closed),
        TEST(a_remembered_name_stays),
        TEST(prompts_and_answers_are_flushed_to_the_disk_and_bookkeeping_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
