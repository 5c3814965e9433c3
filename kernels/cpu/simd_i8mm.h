/* simd_i8mm.h: simd.h for arm64 with the matrix products of bytes of ARMv8.6 (Cortex-A710, X2, Neoverse V1): what only
 * `linear` makes use of (linear_i8mm.c); all else is as with dotprod. */
#ifndef KVQ_SIMD_I8MM_H
#define KVQ_SIMD_I8MM_H

#include "simd_arm64.h"

#define V_ISA i8mm
#include "simd_dots_arm64.h"

#endif
