/* reload.h: makes `systemctl reload kvqd` wait and fail with the reason. systemd 252 has no Type=notify-reload, and a
 * bare SIGHUP returns before anything was read, so ExecReload= runs `kvqd --reload $MAINPID`: it sends SIGHUP and waits
 * for the result that the daemon leaves in its runtime directory. main.c calls both sides. */
#ifndef KVQD_RELOAD_H
#define KVQD_RELOAD_H

#include <stdbool.h>

#include "../engine/kvq.h"

#define RELOAD_TIMEOUT_MS 60000

/* In the daemon, at the end of each reload: leaves the result for whoever waits. text is the report, or what changed.
 * directory NULL ($RUNTIME_DIRECTORY is unset outside systemd): nobody can wait, nothing happens. Errors: IO. */
kvq_status reload_publish(const char *directory, bool is_ok, const char *text, kvq_error *err);

/* The other side: sends SIGHUP to pid and waits for the result. *ret_text is the caller's to free.
 * Errors: BAD_ARGUMENT (directory NULL), IO (no such process, ...), DEADLINE. */
kvq_status reload_request(const char *directory, int pid, int timeout_ms, bool *ret_is_ok, char **ret_text,
                          kvq_error *err);

/* `kvqd --reload PID`: the above with $RUNTIME_DIRECTORY, result to standard error. Returns the exit code: 0, 1, or
 * CONFIG_EXIT_CODE when the configuration was refused. */
int reload_main(const char *pid_text);

#endif
