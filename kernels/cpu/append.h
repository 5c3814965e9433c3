/* append.h: what append.c (who writes which rows) and append_tmpl.h (how, per instruction set) say to each other. */
#ifndef KVQ_CPU_APPEND_H
#define KVQ_CPU_APPEND_H

#include "../ops.h"

typedef void kvq_append_rows_fn(const kvq_append *job, int row_begin, int n_rows);

void kvq_cpu_append(kvq_stream *s, const kvq_append *job, kvq_append_rows_fn *rows);

#endif
