/* hash.c: see hash.h. */
#include "hash.h"

#include <sys/random.h>
#include <time.h>

uint64_t kvq_random(void) {
    uint64_t number;
    if (getrandom(&number, sizeof number, 0) == sizeof number) return number;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return kvq_hash_mix((uint64_t)t.tv_sec, (uint64_t)t.tv_nsec);
}
