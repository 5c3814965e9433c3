/* ref.h: the reference operators, plain C with double sums: the truth that every other backend is checked against.
 * Called by dispatch (kvq_cpu_ops_init, isa "ref") and check_kernels. */
#ifndef KVQ_REF_H
#define KVQ_REF_H

#include "../ops.h"

#define KVQ_X(op) kvq_##op##_fn kvq_ref_##op;
KVQ_OP_MAP(KVQ_X)
#undef KVQ_X

#endif
