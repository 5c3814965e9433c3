/* rows_avx512.c: norm, glu and softcap in AVX-512; see rows_tmpl.h. */
#include "simd_avx512.h"

#include "ops.h"
#include "rows_tmpl.h"
