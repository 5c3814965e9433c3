/* rows.h: what rows.c (who computes which rows) and rows_tmpl.h (how, per instruction set) say to each other. */
#ifndef KVQ_CPU_ROWS_H
#define KVQ_CPU_ROWS_H

#include "stream.h"

/* Rows [begin, begin + n) of a job; for softcap values of the flat tensor. */
typedef void kvq_norm_rows_fn(const kvq_norm *job, int begin, int n);
typedef void kvq_glu_rows_fn(const kvq_glu *job, int begin, int n);
typedef void kvq_softcap_values_fn(float *x, size_t n, float cap);

void kvq_cpu_norm(kvq_stream *s, const kvq_norm *job, kvq_norm_rows_fn *rows);
void kvq_cpu_glu(kvq_stream *s, const kvq_glu *job, kvq_glu_rows_fn *rows);
void kvq_cpu_softcap(kvq_stream *s, const kvq_softcap *job, kvq_softcap_values_fn *values);
void kvq_cpu_embed(kvq_stream *s, const kvq_embed *job); /* copying and scaling: nothing to gain from vectors */

#endif
