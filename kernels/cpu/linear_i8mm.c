/* linear_i8mm.c: `linear` in Advanced SIMD with matrix products of bytes (ARMv8.6); see linear_tmpl.h. */
#include "simd_i8mm.h"

#include "ops.h"

#ifndef PANEL_ROWS /* sanitizer builds say 2: all of the template, a tenth of the code */
#define PANEL_ROWS 4
#endif

#include "linear_tmpl.h"
