/* close.h: what close.c (who closes which page) and close_tmpl.h (how, per instruction set) say to each other. */
#ifndef KVQ_CPU_CLOSE_H
#define KVQ_CPU_CLOSE_H

#include "../ops.h"

typedef void kvq_close_head_fn(const kvq_close_pages *job, const kvq_kv_page *page, int g);

void kvq_cpu_close_pages(kvq_stream *s, const kvq_close_pages *job, kvq_close_head_fn *head);

#endif
