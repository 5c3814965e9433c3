/* latency.c: quantiles of recent durations. See latency.h. Sorted on demand: a few times a minute, a few hundred
 * numbers. */
#include "latency.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void latency_add(latency *l, double seconds) {
    if (!isfinite(seconds)) return;
    l->samples[l->n % LATENCY_SAMPLES] = seconds;
    l->n++;
    l->sum += seconds;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double latency_quantile(const latency *l, double q) {
    double sorted[LATENCY_SAMPLES];
    size_t n = l->n < LATENCY_SAMPLES ? (size_t)l->n : LATENCY_SAMPLES;
    if (n == 0) return NAN;
    memcpy(sorted, l->samples, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare);
    double rank = ceil(q * (double)n);
    size_t i = rank < 1 ? 0 : (size_t)rank - 1;
    return sorted[i < n ? i : n - 1];
}
