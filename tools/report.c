/* report.c: JSON on stdout. Called by bench, eval, tokenize, show. */
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

kvq_status report_print(const json_t *root, kvq_error *err) {
    if (!root) return kvq_fail(err, KVQ_NO_MEMORY, "No memory for the result as JSON.");

    if (json_dumpf(root, stdout, JSON_REAL_PRECISION(9)) == 0 && putchar('\n') != EOF && fflush(stdout) == 0)
        return KVQ_OK;
    return kvq_fail(err, KVQ_IO, "Cannot write the result: %s.", strerror(errno));
}

json_t *report_policy(const char *policy) {
    bool is_number = policy[0] >= '0' && policy[0] <= '9' && policy[1] == '\0';
    return is_number ? json_integer(policy[0] - '0') : json_string(policy);
}
