/* launch.cuh: how the .cu files meet CUDA: the runtime, launches, shared memory. Compiled for the host (KVQ_SIMT), the
 * same names come from the SIMT shim, which runs blocks one after the other and checks every access to shared memory;
 * this file and ptx.cuh are the only ones that know the difference.
 *
 * Rules that make a kernel fit both: blocks of whole warps; warp-wide instructions by whole warps (KVQ_WARP), never in
 * a branch that only some lanes take; shared memory through KVQ_SHARED and KVQ_SHARED_PTR; no reliance on lock step or
 * on the order of blocks. Floating-point contraction is off (-fmad=false): a fused multiply-add is written fmaf, so
 * that host and device round alike. */
#ifndef KVQ_CUDA_LAUNCH_CUH
#define KVQ_CUDA_LAUNCH_CUH

#define KVQ_WARP 0xffffffffu /* the mask of a whole warp */
#define KVQ_WARP_LANES 32

#ifdef KVQ_SIMT
#include "simt.h"

/* kernel<<<grid, block, shared_bytes>>>(...) on a kvq_stream; a failure becomes the stream's error. */
#define KVQ_LAUNCH(kernel, grid, block, shared_bytes, s, ...)                                 \
    do {                                                                                      \
        simt_launch_call((s)->cuda, #kernel, grid, block, shared_bytes, kernel, __VA_ARGS__); \
        kvq_cuda_launched(s, #kernel, grid, block, shared_bytes);                             \
    } while (0)

/* `type name[count]` in shared memory, declared at the top of a kernel; count is a constant. */
#define KVQ_SHARED(type, name, count) \
    static simt_site name##_site;     \
    simt_shared<type> name = simt_static_array<type>(&name##_site, count)

/* The launch's shared_bytes as `type *name`; at most one per kernel. */
#define KVQ_SHARED_DYNAMIC(type, name) simt_shared<type> name = simt_dynamic_array<type>()

/* A pointer into shared memory, and the same bytes as another type. */
#define KVQ_SHARED_PTR(type) simt_shared<type>
#define KVQ_SHARED_CAST(type, pointer) simt_shared_cast<type>(pointer)

#else
#include <cuda_runtime.h>

#define KVQ_LAUNCH(kernel, grid, block, shared_bytes, s, ...)          \
    do {                                                               \
        kernel<<<grid, block, shared_bytes, (s)->cuda>>>(__VA_ARGS__); \
        kvq_cuda_launched(s, #kernel, grid, block, shared_bytes);      \
    } while (0)
#define KVQ_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define KVQ_SHARED_DYNAMIC(type, name)                                  \
    extern __shared__ __align__(16) unsigned char kvq_dynamic_shared[]; \
    type *name = reinterpret_cast<type *>(kvq_dynamic_shared)
#define KVQ_SHARED_PTR(type) type *
#define KVQ_SHARED_CAST(type, pointer) reinterpret_cast<type *>(pointer)
#endif

#endif
