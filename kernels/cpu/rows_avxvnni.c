/* rows_avxvnni.c: norm, glu and softcap in AVX-VNNI; see rows_tmpl.h. */
#include "simd_avxvnni.h"

#include "ops.h"
#include "rows_tmpl.h"
