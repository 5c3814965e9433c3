/* features.h: what this CPU and operating system can run. Asked by ops.c when an operator table is filled. */
#ifndef KVQ_FEATURES_H
#define KVQ_FEATURES_H

#include <stdbool.h>

/* A set is there only when the CPU has every instruction its files are compiled for and the operating system saves the
 * registers. Always false on other architectures. */
bool kvq_cpu_has_avx2(void);   /* AVX2, FMA, F16C, BMI2 */
bool kvq_cpu_has_avx512(void); /* the above, AVX-512 F, BW, DQ, VL, VNNI */

bool kvq_cpu_has_dotprod(void); /* SDOT and UDOT, and the rest of ARMv8.2 that a compiler may use for it */
bool kvq_cpu_has_i8mm(void);    /* the above, SMMLA and USDOT */

#endif
