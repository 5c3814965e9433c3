/* simd_dotprod.h: simd.h for arm64 with the dot products of ARMv8.2 (Cortex-A76, A78, X1): signed by signed or unsigned
 * by unsigned, so codes of 8 bits are flipped for signed activations. */
#ifndef KVQ_SIMD_DOTPROD_H
#define KVQ_SIMD_DOTPROD_H

#include "simd_arm64.h"

#define V_ISA dotprod
#include "simd_dots_arm64.h"

#endif
