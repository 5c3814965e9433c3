/* hadamard.h: what the operators need of hadamard.c beyond kvq_hadamard (ops.h). */
#ifndef KVQ_HADAMARD_H
#define KVQ_HADAMARD_H

/* As kvq_hadamard, on doubles. n fits (kvq_hadamard_fits). */
void kvq_hadamard_double(double *x, int n);

/* 1, 12 or 20: n = base * 2^k; 0 if there is no such base. */
int kvq_hadamard_base(int n);

/* Entry (i, j) of the base matrix, +1 or -1. */
int kvq_hadamard_base_sign(int base, int i, int j);

#endif
