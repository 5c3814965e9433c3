/* linear_dotprod.c: `linear` in Advanced SIMD with dot products (ARMv8.2); see linear_arm64_tmpl.h. */
#include "simd_dotprod.h"

#include "ops.h"

#ifndef PANEL_ROWS
#define PANEL_ROWS 12
#endif

#include "linear_arm64_tmpl.h"
