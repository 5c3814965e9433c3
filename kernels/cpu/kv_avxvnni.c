/* kv_avxvnni.c: append, close_pages and attend in AVX-VNNI. */
#include "simd_avxvnni.h"

#include "vmath_tmpl.h"

#include "head_tmpl.h"

#include "append_tmpl.h"
#include "close_tmpl.h"
#include "attend_tmpl.h"

void V_NAME(kvq_kv_fill)(kvq_ops *ops) {
    ops->append = append;
    ops->close_pages = close_pages;
    ops->attend = attend;
}
