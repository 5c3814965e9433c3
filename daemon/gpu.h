/* gpu.h: what is known of the GPU that runs the model. Two files fill it in: nvml.c asks the driver, power.c reads a
 * Jetson's sensors from /sys. For telemetry.c. A figure that nobody gives is NAN, never a guess. */
#ifndef KVQD_GPU_H
#define KVQD_GPU_H

#include <math.h>
#include <stdbool.h>

typedef struct gpu_sample {
    double power_w, temperature_c;
    double clock_hz, memory_clock_hz; /* of the multiprocessors, of the memory */
    double utilization_ratio;         /* share of the time that a kernel ran */
    double memory_used_bytes, memory_total_bytes;
    double throttled;       /* 1: slowed down by heat, a power brake or a fault of the supply; 0: not */
    char throttle_text[64]; /* every reason that lowers the clocks, "hw_thermal,power_cap"; "": none */
} gpu_sample;

#define GPU_UNKNOWN                          \
    ((gpu_sample){.power_w = NAN,            \
                  .temperature_c = NAN,      \
                  .clock_hz = NAN,           \
                  .memory_clock_hz = NAN,    \
                  .utilization_ratio = NAN,  \
                  .memory_used_bytes = NAN,  \
                  .memory_total_bytes = NAN, \
                  .throttled = NAN})

#endif
