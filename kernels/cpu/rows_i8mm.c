/* rows_i8mm.c: norm, glu and softcap in Advanced SIMD with matrix products of bytes (ARMv8.6); see rows_tmpl.h. */
#include "simd_i8mm.h"

#include "ops.h"
#include "rows_tmpl.h"
