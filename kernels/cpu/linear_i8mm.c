/* linear_i8mm.c: `linear` in Advanced SIMD with matrix products of bytes (ARMv8.6); see linear_arm64_tmpl.h. */
#include "simd_i8mm.h"

#include "ops.h"

#ifndef PANEL_ROWS
#define PANEL_ROWS 12
#endif
#define V_MATRIX

#include "linear_arm64_tmpl.h"
