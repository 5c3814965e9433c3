/* rows_sse41.c: norm, glu and softcap in SSE4.1; see rows_tmpl.h. */
#include "simd_sse41.h"

#include "ops.h"
#include "rows_tmpl.h"
