/* ops.h (cpu): the functions that replace pointers of the operator table, one per file family and instruction set.
 * Called by ops.c after ref has filled the table, in rising order of sets. */
#ifndef KVQ_CPU_OPS_H
#define KVQ_CPU_OPS_H

#include "../ops.h"

#define KVQ_CPU_FILLERS(isa)                                                \
    void kvq_rows_fill_##isa(kvq_ops *ops); /* embed, norm, glu, softcap */ \
    void kvq_linear_fill_##isa(kvq_ops *ops);                               \
    void kvq_kv_fill_##isa(kvq_ops *ops); /* append, close_pages, attend */

KVQ_CPU_FILLERS(generic)
KVQ_CPU_FILLERS(avx2)
KVQ_CPU_FILLERS(avx512)
KVQ_CPU_FILLERS(neon)
KVQ_CPU_FILLERS(dotprod)
KVQ_CPU_FILLERS(i8mm)

#endif
