/* linear_avx512.c: `linear` in AVX-512 with VNNI; see linear_tmpl.h. */
#include "simd_avx512.h"

#include "ops.h"

/* 12 integer and 12 float accumulators, weights, scales and constants fill the 32 registers. */
#ifndef PANEL_ROWS /* sanitizer builds say 2: all of the template, a tenth of the code */
#define PANEL_ROWS 12
#endif

#include "linear_tmpl.h"
