/* main.c: kvqd. Arguments, signals, exit codes, and the loop: a list of the daemon's steps (daemon.h).
 * Exit codes: 0 stopped in good order; 1 could not start (the reason is logged); 2 wrong arguments; 78 the
 * configuration has errors. */
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "daemon.h"
#include "log.h"
#include "reload.h"

#define EXIT_USAGE 2

typedef struct arguments {
    const char *config_path;
    bool check_only;
} arguments;

static void print_help(void) {
    puts("kvqd - answers prompts from MQTT with a language model on this machine\n"
         "\n"
         "  kvqd [--config FILE]          run in the foreground; FILE is " CONFIG_DEFAULT_PATH " unless given,\n"
         "                                and conf.d/*.ini beside it are read after it\n"
         "  kvqd --check-config [FILE]    only read the configuration; 0 if it is good, 78 if not\n"
         "  kvqd --reload PID             SIGHUP to a running kvqd, and wait for what becomes of it\n"
         "  kvqd --help | --version\n"
         "\n"
         "State (the journal, models/) is kept in $STATE_DIRECTORY, or in the working directory.\n"
         "SIGHUP reads the configuration again; SIGTERM finishes what runs, then stops.\n"
         "\n"
         "Keys of the configuration:\n");
    config_print_help(stdout);
}

/* What was asked for must arrive: a full disk behind `kvqd --help > FILE` is an error. */
static int end_of_output(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return EXIT_SUCCESS;
    perror("kvqd: standard output");
    return EXIT_FAILURE;
}

/* Returns an exit code, or -1 to go on. */
static int parse_arguments(int argc, char **argv, arguments *ret) {
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"check-config", no_argument, NULL, 'k'},
        {"reload", required_argument, NULL, 'r'}, {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},      {0}};
    *ret = (arguments){0};
    for (int c; (c = getopt_long(argc, argv, "c:hv", options, NULL)) != -1;) {
        switch (c) {
        case 'c':
            ret->config_path = optarg;
            break;
        case 'k':
            ret->check_only = true;
            break;
        case 'r':
            return reload_main(optarg);
        case 'h':
            print_help();
            return end_of_output();
        case 'v':
            puts("kvqd " KVQ_VERSION);
            return end_of_output();
        default:
            fputs("kvqd: see kvqd --help\n", stderr);
            return EXIT_USAGE;
        }
    }
    if (ret->check_only && optind < argc && !ret->config_path) ret->config_path = argv[optind++];
    if (optind == argc) return -1;
    fprintf(stderr, "kvqd: '%s' is not an argument; see kvqd --help\n", argv[optind]);
    return EXIT_USAGE;
}

static bool load_config(const arguments *a, config *ret) {
    config_report report = {0};
    bool ok = config_load(a->config_path, ret, &report);
    if (!ok && a->check_only) fputs(report.text ? report.text : "no memory\n", stderr);
    if (!ok && !a->check_only) log_event_lines(LOG_MESSAGE_CONFIG_REFUSED, report.text ? report.text : "no memory");
    config_report_free(&report);
    return ok;
}

/* Blocked before any thread exists, so that all of them inherit it and only the loop sees signals. */
static int open_signals(void) {
    sigset_t set;
    (void)sigemptyset(&set); /* these cannot fail for valid signals */
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)signal(SIGPIPE, SIG_IGN); /* a broker that closes its end */
    (void)signal(SIGXFSZ, SIG_IGN); /* a file that may not grow: the write's error is handled */
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0) return -1;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void take_signals(kvqd *d, int signal_fd) {
    struct signalfd_siginfo s;
    char text[1024];
    while (read(signal_fd, &s, sizeof s) == (ssize_t)sizeof s) {
        if (s.ssi_signo == SIGHUP)
            (void)daemon_reload(d, text, sizeof text); /* logged and told there, either way */
        else
            daemon_drain(d);
    }
}

static void wait_for_work(const kvqd *d, int signal_fd) {
    struct pollfd fds[] = {{.fd = d->wake_fd, .events = POLLIN}, {.fd = signal_fd, .events = POLLIN}};
    (void)poll(fds, 2, daemon_wait_ms(d)); /* interrupted or not, the steps look for themselves */
}

static void run(kvqd *d, int signal_fd) {
    while (!daemon_is_drained(d)) {
        daemon_await_step(d); /* first: what comes while it waits is in time for the next one */
        wait_for_work(d, signal_fd);
        take_signals(d, signal_fd);
        daemon_read_inbox(d);
        daemon_take_model(d);
        daemon_step_engine(d);
        daemon_upkeep(d);
    }
}

int main(int argc, char **argv) {
    static kvqd d; /* large; the only one of the process */
    arguments a;
    config c;
    kvq_error err;
    int code = parse_arguments(argc, argv, &a);
    if (code >= 0) return code;
    log_init();
    if (!load_config(&a, &c)) return CONFIG_EXIT_CODE;
    if (a.check_only) {
        config_free(&c);
        return EXIT_SUCCESS;
    }
    int signal_fd = open_signals();
    if (signal_fd < 0) {
        log_error("signals cannot be received: %m");
        config_free(&c);
        return EXIT_FAILURE;
    }
    kvq_status status = daemon_open(a.config_path, &c, &d, &err); /* c is d's now */
    if (status)
        log_error("cannot start: %s", err.text);
    else
        run(&d, signal_fd);
    bool failed = status || d.has_lost_gpu;
    daemon_close(&d);
    (void)close(signal_fd); /* nothing to lose */
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
