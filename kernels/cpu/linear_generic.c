/* linear_generic.c: `linear` in plain C, for any machine; see linear_tmpl.h. */
#include "simd_generic.h"

#include "ops.h"

#define PANEL_ROWS 4
#define PANEL_MAP(X, ...) X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__)

#include <math.h>

#include "linear_tmpl.h"
