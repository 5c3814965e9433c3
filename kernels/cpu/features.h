/* features.h: what this CPU and operating system can run. Asked by ops.c when an operator table is filled. */
#ifndef KVQ_FEATURES_H
#define KVQ_FEATURES_H

#include <stdbool.h>

#include "../isas.h"

/* kvq_cpu_has_NAME for the sets of this machine's kind. A set is there only when the CPU has every instruction its
 * files are compiled for and the operating system saves the registers. */
#define KVQ_ISA_HAS(name, rows, linear, kv) bool kvq_cpu_has_##name(void);
KVQ_ISA_MAP_HERE(KVQ_ISA_HAS)
#undef KVQ_ISA_HAS

#endif
