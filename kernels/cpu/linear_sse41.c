/* linear_sse41.c: `linear` in SSE4.1; see linear_tmpl.h. */
#include "simd_sse41.h"

#include "ops.h"

/* 2 rows of integer accumulators are 8 of the 16 registers; the float ones wait in the first-level cache. */
#ifndef PANEL_ROWS
#define PANEL_ROWS 2
#endif

#define UNPACK_FROM (PANEL_ROWS + 1)
#define UNPACK_TILES 1
#define UNPACK_ROWS PANEL_ROWS

#include "linear_tmpl.h"
