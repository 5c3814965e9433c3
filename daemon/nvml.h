/* nvml.h: the NVIDIA driver's management library, opened at run time where it is installed. Called by telemetry.c
 * while a model runs on a GPU; one thread. */
#ifndef KVQD_NVML_H
#define KVQD_NVML_H

#include "gpu.h"

#define NVML_LIBRARY "libnvidia-ml.so.1"

typedef struct nvml nvml;

/* Opens `library` and finds the GPU at the PCI address "0000:65:00.0". NULL where there is no library, no such GPU, or
 * no right to ask: then nothing is known, and nothing is lost but figures. */
nvml *nvml_open(const char *library, const char *bus_id);
void nvml_close(nvml *n); /* NULL allowed */

/* Overwrites what the driver knows of *ret; the rest stays as it is. */
void nvml_read(nvml *n, gpu_sample *ret);

/* Joules since nvml_open, never falling: the driver's own counter, or where it has none (before Volta, on Jetsons) the
 * power that was read, over the time in between. NAN: neither. */
double nvml_joules(nvml *n, double now_s);

#endif
