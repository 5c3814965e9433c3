/* linear_avxvnni.c: `linear` in AVX-VNNI; see linear_tmpl.h. */
#include "simd_avxvnni.h"

#include "ops.h"

/* 4 rows of integer accumulators are 8 of the 16 registers; the float ones wait in the first-level cache. */
#ifndef PANEL_ROWS /* sanitizer builds say 2: all of the template, a tenth of the code */
#define PANEL_ROWS 4
#endif

#define UNPACK_FROM (PANEL_ROWS + 1)
#define UNPACK_TILES 1
#define UNPACK_ROWS PANEL_ROWS

#include "linear_tmpl.h"
