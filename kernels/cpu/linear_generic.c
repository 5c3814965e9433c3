/* linear_generic.c: `linear` in plain C, for any machine; see linear_tmpl.h. */
#include "simd_generic.h"

#include "ops.h"

#ifndef PANEL_ROWS
#define PANEL_ROWS 4
#endif

#include "linear_tmpl.h"
