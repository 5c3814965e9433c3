/* rows_neon.c: norm, glu and softcap in Advanced SIMD, any arm64 CPU; see rows_tmpl.h. */
#include "simd_neon.h"

#include "ops.h"
#include "rows_tmpl.h"
