/* linear_avx2.c: `linear` in AVX2 with FMA; see linear_tmpl.h. */
#include "simd_avx2.h"

#include "ops.h"

/* 4 rows of integer accumulators are 8 of the 16 registers; the float ones wait in the first-level cache. */
#define PANEL_ROWS 4
#define PANEL_MAP(X, ...) X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__)

#include <math.h>

#include "linear_tmpl.h"
