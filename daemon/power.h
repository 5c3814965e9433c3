/* power.h: what the machine tells about watts, degrees, throttling and memory, from /sys and /proc. For telemetry.c and
 * the energy of an answer (reply.c). A figure that the machine or the sandbox does not give is NAN or 0 with has_
 * false, never a guess. */
#ifndef KVQD_POWER_H
#define KVQD_POWER_H

#include <stdbool.h>
#include <stdint.h>

#include "gpu.h"

typedef struct power power;

typedef struct power_sample {
    const char *source;   /* which sensor: "rapl", "ina3221", "power_meter"; NULL: none */
    double power_w;       /* mean since the sample before; NAN: unknown, also in the first sample */
    double energy_j;      /* since power_new, never falling; NAN: unknown */
    double temperature_c; /* the processor's hottest sensor; NAN: unknown */
    bool has_throttling, is_throttled;
    uint64_t throttle_events; /* counted by the processor since boot */
    gpu_sample gpu;           /* a GPU of the board, as on a Jetson */

    uint64_t memory_total_bytes, memory_available_bytes; /* of the machine; 0: unknown */
    uint64_t memory_limit_bytes;                         /* the least memory.max above us; 0: none */
    uint64_t memory_used_bytes;                          /* of our control group; 0: unknown */
    uint64_t resident_bytes;                             /* of this process */
} power_sample;

/* Looks for sensors once. root is "" for the machine, a folder with its own /sys and /proc in tests; copied. NULL: no
 * memory. */
power *power_new(const char *root);
void power_free(power *p); /* NULL allowed */

/* Reads all; opens about ten files. now_ns is monotonic. */
void power_read(power *p, int64_t now_ns, power_sample *ret);

#endif
