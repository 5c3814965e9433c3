/* rows_generic.c: norm, glu and softcap in plain C, for any machine; see rows_tmpl.h. */
#include "simd_generic.h"

#include "ops.h"
#include "rows_tmpl.h"
