/* fake_cublas.h: what a test may ask of the false cuBLAS (fake_cublas.c) that the shim's plugin has opened, by the
 * symbol fake_cublas. */
#ifndef FAKE_CUBLAS_H
#define FAKE_CUBLAS_H

typedef struct fake_cublas_counts {
    int n_handles;  /* made and not ended */
    int n_products; /* asked for, since the process began */
} fake_cublas_counts;

#endif
