/* report.h: what the commands with `-o json` share. */
#ifndef KVQ_REPORT_H
#define KVQ_REPORT_H

#include <stdbool.h>

#include <jansson.h>

#include "../kernels/status.h"

/* Writes root (NULL: memory ran out while it was made) and a line end to stdout. */
kvq_status report_print(const json_t *root, kvq_error *err);

/* A policy's name as the documents have it: 4 is a number, "lmdeploy4" a text. */
json_t *report_policy(const char *policy);

#endif
