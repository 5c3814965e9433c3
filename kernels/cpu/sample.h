/* sample.h: the sampler of the CPU, one for all instruction sets; called by ops.c. */
#ifndef KVQ_CPU_SAMPLE_H
#define KVQ_CPU_SAMPLE_H

#include "../ops.h"

void kvq_cpu_fill_sample(kvq_ops *ops);

#endif
