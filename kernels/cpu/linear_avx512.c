/* linear_avx512.c: `linear` in AVX-512 with VNNI; see linear_tmpl.h. */
#include "simd_avx512.h"

#include "ops.h"

/* 12 integer and 12 float accumulators, weights, scales and constants fill the 32 registers. */
#ifndef PANEL_ROWS /* sanitizer builds say 2: all of the template, a tenth of the code */
#define PANEL_ROWS 12
#define UNPACK_ROWS 6
#else
#define UNPACK_ROWS 1
#endif
/* Prefill of 512 rows is 5 % faster for it (Emerald Rapids), 16 and 32 rows a quarter slower (Zen 5; SmolLM2, Q4_1). */
#define UNPACK_FROM 37
/* An input and its share of the zero are read, and spread over all lanes, for both. */
#define UNPACK_TILES 2

#include "linear_tmpl.h"
