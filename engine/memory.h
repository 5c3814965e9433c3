/* memory.h: how much memory the machine still has for us. Called by plan.c and engine.c. */
#ifndef KVQ_MEMORY_H
#define KVQ_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "../kernels/status.h"

/* MemAvailable, capped by what is left under every memory.max on the way from our cgroup to the root. */
kvq_status kvq_memory_free_bytes(uint64_t *ret, kvq_error *err);

#endif
