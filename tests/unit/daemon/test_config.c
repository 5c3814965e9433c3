/* test_config.c: daemon/config.c, config_types.c, config_use.c, file.c: values, every error's text, reload, secrets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/config_types.h"
#include "daemon/file.h"
#include "engine/request.h"

/* ---- a folder of its own for each test
 * -------------------------------------------------------------------------------- */

typedef struct world {
    char directory[64], ini[128];
    config c;
    config_report report;
} world;

static int setup(void **state) {
    world *w = calloc(1, sizeof *w);
    if (!w) return -1;
    strcpy(w->directory, "/tmp/kvqd-test-config-XXXXXX");
    if (!mkdtemp(w->directory)) return -1;
    (void)snprintf(w->ini, sizeof w->ini, "%s/kvqd.ini", w->directory);
    *state = w;
    return 0;
}

static int teardown(void **state) {
    world *w = *state;
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", w->directory);
    config_free(&w->c);
    config_report_free(&w->report);
    free(w);
    return system(command);
}

static void write_file(const world *w, const char *name, const char *text, size_t n) {
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", w->directory, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void write_text(const world *w, const char *name, const char *text) {
    write_file(w, name, text, strlen(text));
}

static void make_directory(const world *w, const char *name) {
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", w->directory, name);
    assert_int_equal(mkdir(path, 0755), 0);
}

/* ---- values
 * ----------------------------------------------------------------------------------------------------------- */

static void an_empty_file_gives_every_default(void **state) {
    world *w = *state;
    assert_true(config_load_text("", &w->c, &w->report));
    assert_null(w->report.text);
    assert_string_equal(w->c.engine_backend, "auto");
    assert_string_equal(w->c.engine_quant_policy, "8");
    assert_int_equal(w->c.engine_session_len, 0);
    assert_int_equal(w->c.engine_cache_block_seq_len, 64);
    assert_true(w->c.engine_enable_prefix_caching);
    assert_true(w->c.generation_temperature == 0.8);
    assert_int_equal(w->c.journal_max_bytes, 256 << 20);
    assert_int_equal(w->c.mqtt_session_expiry_s, 86400);
    assert_int_equal(w->c.limits_max_request_s, 1800);
    assert_int_equal(w->c.mqtt_response_topic_prefixes.n, 0);
    assert_false(w->c.generation_random_seed.is_set);
}

static void the_defaults_of_the_table_are_what_print_gives_back(void **state) {
    world *w = *state;
    assert_true(config_load_text("", &w->c, &w->report));
    for (size_t i = 0; i < config_n_keys; i++) {
        const config_key *key = &config_keys[i];
        char *text = config_value(&w->c, key), line[4096];
        config again;
        assert_non_null(text);
        (void)snprintf(line, sizeof line, "[%s]\n%s = %s\n", key->section, key->name, text);
        assert_true(config_load_text(line, &again, &w->report));
        char *text_again = config_value(&again, key);
        assert_string_equal(text, text_again);
        free(text);
        free(text_again);
        config_free(&again);
    }
}

static void each_type_reads_its_forms(void **state) {
    world *w = *state;
    static const struct {
        const char *section, *name, *text, *want;
    } cases[] = {
        {"engine", "session_len", "0", "0"},
        {"engine", "session_len", "1048576", "1048576"},
        {"engine", "cache_block_seq_len", "128", "128"},
        {"engine", "quant_policy", "lmdeploy4", "lmdeploy4"},
        {"engine", "enable_prefix_caching", "off", "no"},
        {"engine", "reproducible", "true", "yes"},
        {"engine", "cache_max_entry_count", "0.5", "0.5"},
        {"engine", "cache_max_entry_count", "4000", "4000"},
        {"engine", "cache_max_entry_count", "1536M", "1536M"},
        {"engine", "cache_max_entry_count", "1", "1"},
        {"generation", "temperature", "1e-1", "0.10000000000000001"},
        {"generation", "presence_penalty", "-1.5", "-1.5"},
        {"generation", "random_seed", "9223372036854775807", "9223372036854775807"},
        {"generation", "stop_words", "a, \"b, c\" ,\"\\n\\\"\\\\\"", "\"a\", \"b, c\", \"\\n\\\"\\\\\""},
        {"journal", "retain_h", "7d", "168"},
        {"mqtt", "keepalive_s", "2 min", "120"},
        {"journal", "max_bytes", "2g", "2147483648"},
        {"mqtt", "broker", "wss://[fe80::1]:443/mqtt", "wss://[fe80::1]:443/mqtt"},
        {"mqtt", "broker", "mqtt://box", "mqtt://box"},
        {"mqtt", "base_topic", "site/hall 2/kvqd", "site/hall 2/kvqd"},
        {"log", "level", "debug", "debug"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[256], *value = NULL;
        config c;
        (void)snprintf(line, sizeof line, "[%s]\n%s = %s\n", cases[i].section, cases[i].name, cases[i].text);
        assert_true(config_load_text(line, &c, &w->report));
        for (size_t k = 0; k < config_n_keys; k++)
            if (!strcmp(config_keys[k].section, cases[i].section) && !strcmp(config_keys[k].name, cases[i].name))
                value = config_value(&c, &config_keys[k]);
        assert_string_equal(value, cases[i].want);
        free(value);
        config_free(&c);
    }
}

static void an_indented_line_goes_on_with_a_text(void **state) {
    world *w = *state;
    assert_true(config_load_text("[generation]\nsystem = one ; a comment\n  two\n\t three\nstop_words = a\n  b, c\n",
                                 &w->c, &w->report));
    assert_string_equal(w->c.generation_system, "one\ntwo\nthree");
    assert_int_equal(w->c.generation_stop_words.n, 3);
    assert_string_equal(w->c.generation_stop_words.items[2], "c");
}

static void every_range_fits_its_c_type_and_holds_its_default(void **state) {
    (void)state;
    for (size_t i = 0; i < config_n_keys; i++) {
        const config_key *key = &config_keys[i];
        assert_true(key->low <= key->high);
        if (key->bytes == sizeof(int)) assert_true(key->high <= INT_MAX);
        assert_true(key->doc[strlen(key->doc) - 1] == '.');
        for (size_t k = 0; k < i; k++)
            assert_true(strcmp(config_keys[k].section, key->section) || strcmp(config_keys[k].name, key->name));
    }
}

/* The engine's table stands in another room; the row must list the same names. */
static void quant_policy_names_are_those_of_policies_def(void **state) {
    (void)state;
    static const char *const policies[] = {
#define POLICY(name, value, ...) value,
#include "kernels/policies.def"
#undef POLICY
        NULL};
    for (size_t i = 0; i < config_n_keys; i++) {
        if (strcmp(config_keys[i].name, "quant_policy")) continue;
        size_t n = 0;
        for (; policies[n] && config_keys[i].names[n]; n++) assert_string_equal(config_keys[i].names[n], policies[n]);
        assert_null(policies[n]);
        assert_null(config_keys[i].names[n]);
        return;
    }
    fail();
}

/* ---- errors: each text
 * ------------------------------------------------------------------------------------------------ */

static const struct {
    const char *text, *want;
} errors[] = {
    {"[engine]\nsession_len = 12\n",
     "text:2: [engine] session_len = '12': allowed are 0, or whole numbers of tokens from 64 to 1048576\n"},
    {"[engine]\nsession_len = -1\n",
     "text:2: [engine] session_len = '-1': allowed are 0, or whole numbers of tokens from 64 to 1048576\n"},
    {"[engine]\nthreads = 1.5\n", "text:2: [engine] threads = '1.5': allowed are whole numbers from 0 to 1024\n"},
    {"[engine]\nthreads = 99999999999999999999\n",
     "text:2: [engine] threads = '99999999999999999999': allowed are whole numbers from 0 to 1024\n"},
    {"[engine]\nthreads =\n", "text:2: [engine] threads = '': allowed are whole numbers from 0 to 1024\n"},
    {"[engine]\nbackend = gpu\n", "text:2: [engine] backend = 'gpu': allowed are auto, cpu or cuda\n"},
    {"[engine]\ncache_block_seq_len = 48\n",
     "text:2: [engine] cache_block_seq_len = '48': allowed are 32, 64 or 128\n"},
    {"[engine]\ncache_max_entry_count = 1.5\n", "text:2: [engine] cache_max_entry_count = '1.5': allowed are auto, a "
                                                "fraction above 0 and up to 1, a whole number of blocks above 1, "
                                                "or bytes with a unit (1536M, 6G)\n"},
    {"[engine]\ncache_max_entry_count = 0\n", "text:2: [engine] cache_max_entry_count = '0': allowed are auto, a "
                                              "fraction above 0 and up to 1, a whole number of blocks above 1, or "
                                              "bytes with a unit (1536M, 6G)\n"},
    {"[engine]\nreproducible = maybe\n", "text:2: [engine] reproducible = 'maybe': allowed are yes or no\n"},
    {"[generation]\ntemperature = hot\n",
     "text:2: [generation] temperature = 'hot': allowed are numbers from 0 to 2\n"},
    {"[generation]\ntemperature = nan\n",
     "text:2: [generation] temperature = 'nan': allowed are numbers from 0 to 2\n"},
    {"[generation]\nmin_p = 0x1\n", "text:2: [generation] min_p = '0x1': allowed are numbers from 0 to 1\n"},
    {"[generation]\ntop_p = 0\n", "text:2: [generation] top_p = '0': allowed are numbers above 0, up to 1\n"},
    {"[generation]\ntop_p = 1e-60\n", "text:2: [generation] top_p = '1e-60': allowed are numbers above 0, up to 1\n"},
    {"[generation]\nrepetition_penalty = 0\n",
     "text:2: [generation] repetition_penalty = '0': allowed are numbers above 0, up to 100\n"},
    {"[generation]\nrandom_seed = 9223372036854775808\n",
     "text:2: [generation] random_seed = '9223372036854775808': allowed are auto, or a whole number from 0 to "
     "9223372036854775807\n"},
    {"[generation]\nstop_words = \"a\n",
     "text:2: [generation] stop_words = '\"a': allowed are up to 16 items of at most 256 bytes, separated by commas, "
     "in double quotes where they hold blanks, "
     "commas or \\n, \\t, \\r, \\\", \\\\\n"},
    {"[generation]\nstop_words = a,,b\n",
     "text:2: [generation] stop_words = 'a,,b': allowed are up to 16 items of at most 256 bytes, separated by commas, "
     "in double quotes where they hold blanks, "
     "commas or \\n, \\t, \\r, \\\", \\\\\n"},
    {"[generation]\nstop_words = a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q\n",
     "text:2: [generation] stop_words = 'a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q': allowed are up to 16 items of at most 256 "
     "bytes, separated by commas, in double "
     "quotes where they hold blanks, commas or \\n, \\t, \\r, \\\", \\\\\n"},
    {"[model]\npath = models/a.gguf\n",
     "text:2: [model] path = 'models/a.gguf': allowed are an absolute path, or nothing\n"},
    {"[journal]\nmax_bytes = 1K\n", "text:2: [journal] max_bytes = '1K': allowed are whole numbers of bytes from "
                                    "1048576 to 1099511627776, or with a unit: K, M, G, T\n"},
    {"[journal]\nmax_bytes = 99999999999999999T\n", "text:2: [journal] max_bytes = '99999999999999999T': allowed are "
                                                    "whole numbers of bytes from 1048576 to 1099511627776, or with a "
                                                    "unit: K, M, G, T\n"},
    {"[journal]\nretain_h = 90min\n",
     "text:2: [journal] retain_h = '90min': allowed are whole numbers of hours from 0 to 8760, or with a unit: h, d\n"},
    {"[mqtt]\nkeepalive_s = 1d\n", "text:2: [mqtt] keepalive_s = '1d': allowed are whole numbers of seconds from 5 to "
                                   "3600, or with a unit: s, min, h, d\n"},
    {"[mqtt]\nkeepalive_s = 9000000000000000000d\n", "text:2: [mqtt] keepalive_s = '9000000000000000000d': allowed are "
                                                     "whole numbers of seconds from 5 to 3600, or with a unit: s, min, "
                                                     "h, d\n"},
#define URL_ERROR(value)                                                                              \
    {                                                                                                 \
        "[mqtt]\nbroker = " value "\n",                                                               \
            "text:2: [mqtt] broker = '" value                                                         \
            "': allowed are SCHEME://HOST[:PORT] with SCHEME mqtt, mqtts, ws or wss, and no user or " \
            "password in it (see username, password_file)\n"                                          \
    }
    URL_ERROR("localhost"),
    URL_ERROR("tcp://localhost"),
    URL_ERROR("mqtt://"),
    URL_ERROR("mqtt://user:secret@box"),
    URL_ERROR("mqtt://box:0"),
    URL_ERROR("mqtt://box:65536"),
    URL_ERROR("mqtt://box:18x"),
    URL_ERROR("mqtt://[::1"),
    {"[mqtt]\nnode = a/b\n", "text:2: [mqtt] node = 'a/b': allowed are up to 64 of the characters A-Z a-z 0-9 _ -\n"},
#define TOPIC_ERROR(value)                                                                                    \
    {                                                                                                         \
        "[mqtt]\nbase_topic = " value "\n",                                                                   \
            "text:2: [mqtt] base_topic = '" value                                                             \
            "': allowed are a topic of up to 128 bytes without + and #, that neither begins nor ends with / " \
            "and does not begin with $\n"                                                                     \
    }
    TOPIC_ERROR("kvqd/#"),
    TOPIC_ERROR("/kvqd"),
    TOPIC_ERROR("kvqd/"),
    TOPIC_ERROR("a//b"),
    TOPIC_ERROR("$SYS"),
    TOPIC_ERROR(""),
    {"[mqtt]\npassword_file = ../secret\n", "text:2: [mqtt] password_file = '../secret': allowed are an absolute path, "
                                            "the name of a systemd credential, or nothing\n"},
    {"[engine]\nsesion_len = 64\n", "text:2: [engine] sesion_len: unknown key; did you mean 'session_len'?\n"},
    {"[mqtt]\npassword = secret\n", "text:2: [mqtt] password: unknown key; did you mean 'password_file'?\n"},
    {"[mqtt]\nretain_h = 1\n", "text:2: [mqtt] retain_h: unknown key; did you mean 'retain_h' in [journal]?\n"},
    {"[mqtt]\nqwertzuiop = 1\n", "text:2: [mqtt] qwertzuiop: unknown key; see kvqd.ini(5)\n"},
    {"[engin]\nthreads = 1\ndevice = 1\n", "text:2: unknown section [engin]; did you mean [engine]?\n"},
    {"[frobnicate]\nx = 1\n", "text:2: unknown section [frobnicate]; see kvqd.ini(5)\n"},
    {"threads = 1\n", "text:1: a key stands before the first [section]\n"},
    {"[engine]\nthreads = 1\nthreads = 2\n", "text:3: [engine] threads: already set in line 2\n"},
    {"[engine]\nthreads = 1\n  device = 1\n",
     "text:3: [engine] threads: an indented line continues the value above it, which takes one line only\n"},
    {"[engine]\njust words\n", "text:2: neither 'key = value' nor '[section]' nor a comment\n"},
    {"[engine\nthreads = 1\n", "text:1: the section's name does not end with ]\n"},
    {"[model]\nname = a\x01"
     "b\n",
     "text:2: the line holds a control character\n"},
    {"[model]\nname = \xC3\n", "text:2: the line is not UTF-8\n"},
    {"[model]\nname = \xED\xA0\x80\n", "text:2: the line is not UTF-8\n"},
    {"[mqtt]\nbroker = mqtts://b\ncert_file = /c\n",
     "text: [mqtt] cert_file and key_file: one is set without the other\n"},
    {"[mqtt]\ncert_file = /c\nkey_file = /k\n",
     "text: [mqtt] cert_file: needs a broker that begins with mqtts:// or wss://\n"},
    {"[mqtt]\npassword_file = /p\n", "text: [mqtt] password_file: a password needs a username\n"},
};

static void each_error_says_where_what_and_what_is_allowed(void **state) {
    world *w = *state;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        config_report report = {0};
        if (config_load_text(errors[i].text, &w->c, &report)) fail_msg("accepted: %s", errors[i].text);
        assert_string_equal(report.text, errors[i].want);
        assert_true(report.n_errors >= 1);
        config_report_free(&report);
    }
}

static void all_errors_of_a_file_are_told_at_once(void **state) {
    world *w = *state;
    assert_false(config_load_text("[engine]\nthreads = x\n[log]\nlevel = loud\nrubbish\n", &w->c, &w->report));
    assert_int_equal(w->report.n_errors, 3);
    assert_string_equal(w->report.text, "text:2: [engine] threads = 'x': allowed are whole numbers from 0 to 1024\n"
                                        "text:4: [log] level = 'loud': allowed are error, warning, info or debug\n"
                                        "text:5: neither 'key = value' nor '[section]' nor a comment\n");
}

static void a_file_of_rubbish_has_a_bounded_report(void **state) {
    world *w = *state;
    enum { N_LINES = 5000 };
    char *text = malloc(2 * N_LINES + 1);
    for (int i = 0; i < N_LINES; i++) memcpy(text + 2 * i, "x\n", 3);
    assert_false(config_load_text(text, &w->c, &w->report));
    assert_non_null(strstr(w->report.text, "text:100: neither"));
    assert_null(strstr(w->report.text, "text:101: neither"));
    assert_non_null(strstr(w->report.text, "further errors are not shown\n"));
    free(text);
}

static void a_long_line_is_one_error_and_not_two_lines(void **state) {
    world *w = *state;
    char *text = malloc(20000);
    memset(text, 'x', 19999);
    memcpy(text, "[model]\nname = ", 15);
    strcpy(text + 19980, "\n[log]\nlevel=info\n");
    assert_false(config_load_text(text, &w->c, &w->report));
    assert_string_equal(w->report.text,
                        "text:2: the line is too long; go on in an indented line where the key allows it\n");
    free(text);
}

static void the_longest_line_is_read_whole(void **state) {
    world *w = *state;
    enum { LINE_BYTES = 8192 };
    char text[LINE_BYTES + 32] = "[generation]\nsystem=";
    size_t n = strlen(text);
    memset(text + n, 'y', LINE_BYTES - strlen("system="));
    strcpy(text + n + LINE_BYTES - strlen("system="), "\n");
    assert_true(config_load_text(text, &w->c, &w->report));
    assert_int_equal(strlen(w->c.generation_system), LINE_BYTES - strlen("system="));
}

/* ---- files
 * ------------------------------------------------------------------------------------------------------------ */

static void later_files_win_in_order_of_name(void **state) {
    world *w = *state;
    make_directory(w, "conf.d");
    write_text(w, "kvqd.ini", "\xEF\xBB\xBF[engine]\r\nthreads = 1\r\ndevice = 1\r\nsession_len = 64\r\n");
    write_text(w, "conf.d/20-b.ini", "[engine]\nthreads = 3\n");
    write_text(w, "conf.d/10-a.ini", "[engine]\nthreads = 2\ndevice = 2\n");
    write_text(w, "conf.d/30-c.ini.dpkg-old", "rubbish");
    write_text(w, "conf.d/.40.ini", "rubbish");
    assert_true(config_load(w->ini, &w->c, &w->report));
    assert_int_equal(w->c.engine_threads, 3);
    assert_int_equal(w->c.engine_device, 2);
    assert_int_equal(w->c.engine_session_len, 64);
}

static void an_error_names_the_file_it_is_in(void **state) {
    world *w = *state;
    char want[256];
    make_directory(w, "conf.d");
    write_text(w, "kvqd.ini", "");
    write_text(w, "conf.d/a.ini", "\n[log]\nlevl = info\n");
    assert_false(config_load(w->ini, &w->c, &w->report));
    (void)snprintf(want, sizeof want, "%s/conf.d/a.ini:3: [log] levl: unknown key; did you mean 'level'?\n",
                   w->directory);
    assert_string_equal(w->report.text, want);
}

static void a_named_file_must_exist_and_be_a_file(void **state) {
    world *w = *state;
    char want[256];
    assert_false(config_load(w->ini, &w->c, &w->report));
    (void)snprintf(want, sizeof want, "cannot read '%s': No such file or directory\n", w->ini);
    assert_string_equal(w->report.text, want);
    config_report_free(&w->report);
    assert_false(config_load(w->directory, &w->c, &w->report));
    (void)snprintf(want, sizeof want, "cannot read '%s': not a regular file\n", w->directory);
    assert_string_equal(w->report.text, want);
    config_report_free(&w->report);
    assert_int_equal(mkfifo(w->ini, 0600), 0);
    assert_false(config_load(w->ini, &w->c, &w->report));
    (void)snprintf(want, sizeof want, "cannot read '%s': not a regular file\n", w->ini);
    assert_string_equal(w->report.text, want);
}

static void zero_bytes_and_large_files_are_refused(void **state) {
    world *w = *state;
    char want[256], *text;
    kvq_error err;
    write_file(w, "kvqd.ini", "[log]\0level = info\n", 19);
    assert_false(config_load(w->ini, &w->c, &w->report));
    (void)snprintf(want, sizeof want, "cannot read '%s': there is a zero byte in it\n", w->ini);
    assert_string_equal(w->report.text, want);
    assert_int_equal(file_read(w->ini, 18, &text, &err), KVQ_IO);
    (void)snprintf(want, sizeof want, "cannot read '%s': larger than 18 bytes", w->ini);
    assert_string_equal(err.text, want);
}

/* ---- reload
 * ----------------------------------------------------------------------------------------------------------- */

static void reload_takes_what_it_may_and_names_what_needs_a_restart(void **state) {
    world *w = *state;
    config fresh;
    config_changes changes;
    write_text(w, "kvqd.ini", "[engine]\nthreads = 1\n[log]\nlevel = info\n");
    assert_true(config_load(w->ini, &w->c, &w->report));
    write_text(w, "kvqd.ini",
               "[engine]\nthreads = 2\nquant_policy = 4\n[log]\nlevel = debug\n[generation]\nstop_words = a\n");
    assert_true(config_reload(w->ini, &w->c, &fresh, &changes, &w->report));
    assert_int_equal(changes.n_reloaded, 2);
    assert_string_equal(changes.reloaded[0]->name, "stop_words");
    assert_string_equal(changes.reloaded[1]->name, "level");
    assert_int_equal(changes.n_restart, 2);
    assert_string_equal(changes.restart[0]->name, "quant_policy");
    assert_string_equal(changes.restart[1]->name, "threads");
    assert_string_equal(fresh.log_level, "debug");
    assert_int_equal(fresh.engine_threads, 1);
    assert_string_equal(fresh.engine_quant_policy, "8");
    config_changes_free(&changes);
    config_free(&fresh);
}

static void reload_of_a_bad_file_changes_nothing(void **state) {
    world *w = *state;
    config fresh;
    config_changes changes;
    write_text(w, "kvqd.ini", "[log]\nlevel = info\n");
    assert_true(config_load(w->ini, &w->c, &w->report));
    write_text(w, "kvqd.ini", "[log]\nlevel = debug\n[engine]\nthreads = x\n");
    assert_false(config_reload(w->ini, &w->c, &fresh, &changes, &w->report));
    assert_int_equal(w->report.n_errors, 1);
    assert_string_equal(w->c.log_level, "info");
}

/* ---- for others
 * ------------------------------------------------------------------------------------------------------- */

static void the_json_has_every_key_and_no_secret(void **state) {
    world *w = *state;
    write_text(w, "secret", "hunter2\nsecond line\n");
    char text[256];
    (void)snprintf(text, sizeof text, "[mqtt]\nusername = u\npassword_file = %s/secret\n", w->directory);
    assert_true(config_load_text(text, &w->c, &w->report));
    json_t *json = config_to_json(&w->c);
    size_t n = 0;
    for (size_t i = 0; i < config_n_keys; i++)
        n += json_object_get(json_object_get(json, config_keys[i].section), config_keys[i].name) != NULL;
    assert_int_equal(n, config_n_keys);
    char *dump = json_dumps(json, 0);
    assert_null(strstr(dump, "hunter2"));
    free(dump);
    json_decref(json);

    char *password;
    kvq_error err;
    assert_int_equal(config_read_password(&w->c, &password, &err), KVQ_OK);
    assert_string_equal(password, "hunter2");
    free(password);
}

static void a_password_comes_from_a_credential_too(void **state) {
    world *w = *state;
    char *password = NULL;
    kvq_error err;
    write_text(w, "mqtt-password", "one\n");
    write_text(w, "other", "two");
    assert_true(config_load_text("[mqtt]\nusername = u\npassword_file = other\n", &w->c, &w->report));
    unsetenv("CREDENTIALS_DIRECTORY");
    assert_int_equal(config_read_password(&w->c, &password, &err), KVQ_BAD_ARGUMENT);
    assert_string_equal(err.text, "credential 'other': systemd gave none; see LoadCredential= in systemd.exec(5)");
    setenv("CREDENTIALS_DIRECTORY", w->directory, 1);
    assert_int_equal(config_read_password(&w->c, &password, &err), KVQ_OK);
    assert_string_equal(password, "two");
    free(password);
    config_free(&w->c);
    assert_true(config_load_text("", &w->c, &w->report));
    assert_int_equal(config_read_password(&w->c, &password, &err), KVQ_OK);
    assert_string_equal(password, "one");
    free(password);
    setenv("CREDENTIALS_DIRECTORY", "/nonexistent", 1);
    assert_int_equal(config_read_password(&w->c, &password, &err), KVQ_OK);
    assert_null(password);
    unsetenv("CREDENTIALS_DIRECTORY");
}

static void keys_become_engine_options_and_request_defaults(void **state) {
    world *w = *state;
    kvq_options options = {.chat_template = "untouched"};
    kvq_request request = {.priority = 7};
    assert_true(config_load_text(
        "[engine]\nthreads = 3\ncache_max_entry_count = 6G\nquant_policy = 4\n[generation]\nsystem = s\n"
        "max_new_tokens = 9\nrandom_seed = 5\nstop_words = a, b\ntemperature = 0.5\n",
        &w->c, &w->report));
    config_engine_options(&w->c, &options);
    config_request_defaults(&w->c, &request);
    assert_int_equal(options.threads, 3);
    assert_string_equal(options.cache_max_entry_count, "6G");
    assert_string_equal(options.quant_policy, "4");
    assert_string_equal(options.chat_template, "untouched");
    assert_null(options.model_path);
    assert_string_equal(request.system, "s");
    assert_int_equal(request.max_tokens, 9);
    assert_true(request.has_seed && request.seed == 5);
    assert_int_equal(request.n_stop, 2);
    assert_string_equal(request.stop[1], "b");
    assert_true(request.temperature == 0.5f);
    assert_int_equal(request.priority, 7);
}

/* One key of [generation] set to a value, in a prompt that says nothing else, as the engine checks it. */
static void check_admitted(world *w, const config_key *key, double value) {
    static const kvq_text_tools tools = {.session_len = 64, .vocab_size = 1, .longest_piece = 1};
    char line[128];
    kvq_request request = kvq_default_request();
    kvq_active *active = NULL;
    kvq_error err = {0};
    config c;
    (void)snprintf(line, sizeof line, "[generation]\n%s = %.17g\n", key->name, value);
    if (!config_load_text(line, &c, &w->report)) fail_msg("%s", w->report.text);
    config_request_defaults(&c, &request);
    request.prompt = "x";
    request.raw = true;
    if (kvq_active_new(&request, &tools, &active, &err)) fail_msg("%s = %.17g: %s", key->name, value, err.text);
    kvq_active_free(active);
    config_free(&c);
}

/* What a file may say breaks no prompt: the ends of every range are the engine's, too. */
static void the_ends_of_every_generation_range_are_admitted_by_the_engine(void **state) {
    world *w = *state;
    int n_checked = 0;
    for (size_t i = 0; i < config_n_keys; i++) {
        const config_key *key = &config_keys[i];
        if (strcmp(key->section, "generation")) continue;
        if (key->type != &config_type_NUMBER && key->type != &config_type_INT) continue;
        check_admitted(w, key, key->open_low ? (double)nextafterf((float)key->low, (float)key->high) : key->low);
        check_admitted(w, key, key->high);
        n_checked++;
    }
    assert_true(n_checked >= 8);
}

/* Whoever uses libkvq and whoever runs kvqd get the same answers unless they ask otherwise. */
static void the_defaults_are_the_engines(void **state) {
    world *w = *state;
    kvq_options options = kvq_default_options(), engine = options;
    kvq_request request = kvq_default_request(), plain = request;
    assert_true(config_load_text("", &w->c, &w->report));
    config_engine_options(&w->c, &options);
    config_request_defaults(&w->c, &request);
    assert_string_equal(options.backend, engine.backend);
    assert_string_equal(options.isa, engine.isa);
    assert_string_equal(options.quant_policy, engine.quant_policy);
    assert_null(options.cache_max_entry_count);
    assert_null(engine.cache_max_entry_count);
    assert_int_equal(options.device, engine.device);
    assert_int_equal(options.cache_block_seq_len, engine.cache_block_seq_len);
    assert_int_equal(options.session_len, engine.session_len);
    assert_int_equal(options.max_batch_size, engine.max_batch_size);
    assert_int_equal(options.max_prefill_token_num, engine.max_prefill_token_num);
    assert_int_equal(options.enable_prefix_caching, engine.enable_prefix_caching);
    assert_int_equal(options.threads, engine.threads);
    assert_null(request.system);
    assert_int_equal(request.max_tokens, plain.max_tokens);
    assert_int_equal(request.top_k, plain.top_k);
    assert_int_equal(request.has_seed, plain.has_seed);
    assert_int_equal(request.n_stop, 0);
    assert_true(request.temperature == plain.temperature && request.top_p == plain.top_p &&
                request.min_p == plain.min_p);
    assert_true(request.repetition_penalty == plain.repetition_penalty);
    assert_true(request.presence_penalty == plain.presence_penalty &&
                request.frequency_penalty == plain.frequency_penalty);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(an_empty_file_gives_every_default),
        TEST(the_defaults_of_the_table_are_what_print_gives_back),
        TEST(each_type_reads_its_forms),
        TEST(an_indented_line_goes_on_with_a_text),
        TEST(every_range_fits_its_c_type_and_holds_its_default),
        TEST(quant_policy_names_are_those_of_policies_def),
        TEST(each_error_says_where_what_and_what_is_allowed),
        TEST(all_errors_of_a_file_are_told_at_once),
        TEST(a_file_of_rubbish_has_a_bounded_report),
        TEST(a_long_line_is_one_error_and_not_two_lines),
        TEST(the_longest_line_is_read_whole),
        TEST(later_files_win_in_order_of_name),
        TEST(an_error_names_the_file_it_is_in),
        TEST(a_named_file_must_exist_and_be_a_file),
        TEST(zero_bytes_and_large_files_are_refused),
        TEST(reload_takes_what_it_may_and_names_what_needs_a_restart),
        TEST(reload_of_a_bad_file_changes_nothing),
        TEST(the_json_has_every_key_and_no_secret),
        TEST(a_password_comes_from_a_credential_too),
        TEST(keys_become_engine_options_and_request_defaults),
        TEST(the_ends_of_every_generation_range_are_admitted_by_the_engine),
        TEST(the_defaults_are_the_engines),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
