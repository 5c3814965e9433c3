/* ops.h (cpu): the functions that replace pointers of the operator table, one per file family and instruction set.
 * Called by ops.c after ref has filled the table, in rising order of sets. */
#ifndef KVQ_CPU_OPS_H
#define KVQ_CPU_OPS_H

#include "../isas.h"
#include "../ops.h"

#define KVQ_CPU_FILLERS(name, rows, linear, kv)                              \
    void kvq_rows_fill_##name(kvq_ops *ops); /* embed, norm, glu, softcap */ \
    void kvq_linear_fill_##name(kvq_ops *ops);                               \
    void kvq_kv_fill_##name(kvq_ops *ops); /* append, close_pages, attend */
KVQ_ISA_MAP_HERE(KVQ_CPU_FILLERS)
#undef KVQ_CPU_FILLERS

#endif
