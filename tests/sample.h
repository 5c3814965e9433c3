/* sample.h: the argument --sample, with which a test does a part of its cases: for emulators and sanitizers, where all
 * of them take minutes (tests.cmake). */
#ifndef KVQ_TEST_SAMPLE_H
#define KVQ_TEST_SAMPLE_H

#include <stdbool.h>
#include <string.h>

static inline bool is_sample(int argc, char **argv) {
    return argc > 1 && strcmp(argv[1], "--sample") == 0;
}

#endif
