/* rows_avx2.c: norm, glu and softcap in AVX2 with FMA and F16C; see rows_tmpl.h. */
#include "simd_avx2.h"

#include "ops.h"
#include "rows_tmpl.h"
