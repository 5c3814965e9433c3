/* kv_sse41.c: append, close_pages and attend in SSE4.1. */
#include "simd_sse41.h"

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
