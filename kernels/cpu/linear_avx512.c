/* linear_avx512.c: `linear` in AVX-512 with VNNI; see linear_tmpl.h. */
#include "simd_avx512.h"

#include "ops.h"

/* 12 integer and 12 float accumulators, weights, scales and constants fill the 32 registers. */
#define PANEL_ROWS 12
#define PANEL_MAP(X, ...) \
    X(1, __VA_ARGS__)     \
    X(2, __VA_ARGS__)     \
    X(3, __VA_ARGS__)     \
    X(4, __VA_ARGS__)     \
    X(5, __VA_ARGS__)     \
    X(6, __VA_ARGS__)     \
    X(7, __VA_ARGS__) X(8, __VA_ARGS__) X(9, __VA_ARGS__) X(10, __VA_ARGS__) X(11, __VA_ARGS__) X(12, __VA_ARGS__)

#include <math.h>

#include "linear_tmpl.h"
