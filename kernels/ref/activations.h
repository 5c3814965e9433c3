/* activations.h: activations quantized as matrix.h says, one value after the other. Used by linear.c of ref and by the
 * checks, which compare the fast quantizers with it bit for bit. */
#ifndef KVQ_REF_ACTIVATIONS_H
#define KVQ_REF_ACTIVATIONS_H

#include "../matrix.h"

/* q [n], d [n / 32], sums of q over 16 [n / 16]. n is a multiple of 32. */
void kvq_ref_quantize(const float *x, int n, int8_t *q, float *d, int *sums);

/* What the codes leave of n values: out = x - d q, rounded once. NaN where d is. */
void kvq_ref_remainder(const float *x, int n, float *out);

#endif
