/* linear_dotprod.c: `linear` in Advanced SIMD with dot products (ARMv8.2); see linear_tmpl.h. */
#include "simd_dotprod.h"

#include "ops.h"

#ifndef PANEL_ROWS /* sanitizer builds say 2: all of the template, a tenth of the code */
#define PANEL_ROWS 4
#endif

#include "linear_tmpl.h"
