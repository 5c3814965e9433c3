/* latency.h: quantiles of the last LATENCY_SAMPLES durations. Owned by telemetry.c's struct; main loop only. */
#ifndef KVQD_LATENCY_H
#define KVQD_LATENCY_H

#include <stddef.h>
#include <stdint.h>

#define LATENCY_SAMPLES 512

typedef struct latency {
    double samples[LATENCY_SAMPLES]; /* a ring, in the order they came */
    uint64_t n;                      /* all that ever came */
    double sum;
} latency; /* init with zeros */

void latency_add(latency *l, double seconds);

/* Nearest rank; q in 0..1. NaN without samples. */
double latency_quantile(const latency *l, double q);

#endif
