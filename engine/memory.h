/* memory.h: how much memory the machine has, and how much of it is still for us. Called by machine.c and, for
 * telemetry, by daemon/power.c. */
#ifndef KVQ_MEMORY_H
#define KVQ_MEMORY_H

#include <stdint.h>

#include "../kernels/status.h"

typedef struct kvq_memory {
    uint64_t total_bytes, available_bytes; /* of the machine: MemTotal, MemAvailable; 0: unknown */
    uint64_t limit_bytes;                  /* the least limit of our control group and those above it; 0: none */
    uint64_t used_bytes;                   /* of our control group; 0: unknown */
    uint64_t left_bytes;                   /* available_bytes, capped by what is left under every such limit */
} kvq_memory;

/* root is "" for the machine, a folder with its own /proc and /sys in tests. */
kvq_memory kvq_memory_read(const char *root);

/* left_bytes of the machine. Errors: KVQ_IO (it does not tell). */
kvq_status kvq_memory_free_bytes(uint64_t *ret, kvq_error *err);

#endif
