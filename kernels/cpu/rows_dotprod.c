/* rows_dotprod.c: norm, glu and softcap in Advanced SIMD with dot products (ARMv8.2); see rows_tmpl.h. */
#include "simd_dotprod.h"

#include "ops.h"
#include "rows_tmpl.h"
