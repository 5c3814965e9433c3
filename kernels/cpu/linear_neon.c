/* linear_neon.c: `linear` in Advanced SIMD, any arm64 CPU; see linear_tmpl.h. */
#include "simd_neon.h"

#include "ops.h"

#ifndef PANEL_ROWS /* sanitizer builds say 2: all of the template, a tenth of the code */
#define PANEL_ROWS 4
#endif

#include "linear_tmpl.h"
