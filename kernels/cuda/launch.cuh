/* launch.cuh: how the .cu files meet CUDA: the runtime, launches, shared memory. Compiled for the host (KVQ_SIMT), the
 * same names come from the SIMT shim, which runs blocks one after the other and checks every access to shared memory;
 * this file and ptx.cuh are the only ones that know the difference.
 *
 * Rules that make a kernel fit both: blocks of whole warps; warp-wide instructions by whole warps (KVQ_WARP), never in
 * a branch that only some lanes take; shared memory through KVQ_SHARED and KVQ_SHARED_PTR; no reliance on lock step or
 * on the order of blocks; kvq_wait_for_launches (ptx.cuh) first. Where blocks leave something for the one of them that
 * comes last, whichever that is, a ticket (kvq_take_ticket) tells it so. An operator does its work on the device by
 * KVQ_LAUNCH and nothing else (no copies, no memset): launches may be kept until the step ends (graph.cu).
 * Floating-point contraction is off (-fmad=false): a fused multiply-add is written fmaf, so that host and device round
 * alike. */
#ifndef KVQ_CUDA_LAUNCH_CUH
#define KVQ_CUDA_LAUNCH_CUH

#define KVQ_WARP 0xffffffffu /* the mask of a whole warp */
#define KVQ_WARP_LANES 32

#include <stddef.h>

#ifdef KVQ_SIMT
#include "simt.h"
#define KVQ_ANNOUNCE(name, kernel) simt_announce(name, kernel)
#define kvq_add_edges cudaGraphAddDependencies

/* `type name[count]` in shared memory, declared at the top of a kernel; count is a constant. */
#define KVQ_SHARED(type, name, count) \
    static simt_site name##_site;     \
    simt_shared<type> name = simt_static_array<type>(&name##_site, count)

/* The launch's shared_bytes as `type *name`; at most one per kernel. */
#define KVQ_SHARED_DYNAMIC(type, name) simt_shared<type> name = simt_dynamic_array<type>()

#define KVQ_ARGUMENT(type) const type

/* A pointer into shared memory, and the same bytes as another type. */
#define KVQ_SHARED_PTR(type) simt_shared<type>
#define KVQ_SHARED_CAST(type, pointer) simt_shared_cast<type>(pointer)

/* What stands at a place of device or shared memory, as a T in one load. */
template <typename T> static inline T kvq_read(const uint8_t *at) {
    return *(const T *)at;
}
template <typename T> static inline T kvq_read(simt_shared<uint8_t> at) {
    return *simt_shared_cast<T>(at);
}

#else
#include <cuda_runtime.h>
#define KVQ_ANNOUNCE(name, kernel) ((void)0)
/* CUDA 13 gave the name to the function with edges. */
#if CUDART_VERSION >= 13000
#define kvq_add_edges cudaGraphAddDependencies
#else
#define kvq_add_edges cudaGraphAddDependencies_v2
#endif
/* A struct among a kernel's arguments that is read where it lies. Without it one whose address is taken somewhere, for
 * a call or an index, is copied first, to each thread's own memory. */
#define KVQ_ARGUMENT(type) const __grid_constant__ type
#define KVQ_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define KVQ_SHARED_DYNAMIC(type, name)                                  \
    extern __shared__ __align__(16) unsigned char kvq_dynamic_shared[]; \
    type *name = reinterpret_cast<type *>(kvq_dynamic_shared)
#define KVQ_SHARED_PTR(type) type *
#define KVQ_SHARED_CAST(type, pointer) reinterpret_cast<type *>(pointer)
template <typename T> static __device__ __forceinline__ T kvq_read(const unsigned char *at) {
    return *reinterpret_cast<const T *>(at);
}
#endif

/* ---- a launch ---- */

typedef struct kvq_cuda_call {
    const char *name;
    const void *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    int n_args;
    void **args; /* pointers to values of exactly the kernel's types */
    const size_t *arg_bytes;
} kvq_cuda_call;

/* Launches, now or when the step ends; a failure becomes the stream's error (graph.cu). */
void kvq_cuda_call_kernel(struct kvq_stream *s, const kvq_cuda_call *call);

/* The arguments are converted to the kernel's types, as in a call. */
template <typename... Types> struct kvq_cuda_kernel {
    static void call(struct kvq_stream *s, const char *name, void (*kernel)(Types...), dim3 grid, dim3 block,
                     size_t shared_bytes, Types... values) {
        void *args[] = {(void *)&values...};
        const size_t arg_bytes[] = {sizeof values...};
        const kvq_cuda_call call = {name,         (const void *)kernel,  grid, block,
                                    shared_bytes, (int)sizeof...(Types), args, arg_bytes};
        KVQ_ANNOUNCE(name, kernel);
        kvq_cuda_call_kernel(s, &call);
    }
};
template <typename... Types> kvq_cuda_kernel<Types...> kvq_cuda_kernel_of(void (*)(Types...));

/* Allows a kernel that much shared memory a block, and all of the first-level cache as such, which its copies pass by
 * anyway: as many blocks as fit there run beside each other. */
template <typename Kernel> static inline cudaError_t kvq_cuda_allow_shared(Kernel kernel, size_t shared_bytes) {
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    if (error != cudaSuccess) return error;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
}

/* kernel<<<grid, block, shared_bytes>>>(...) on a kvq_stream; the name, which stays, is what people are told. */
#define KVQ_LAUNCH_NAMED(name, kernel, grid, block, shared_bytes, s, ...) \
    decltype(kvq_cuda_kernel_of(kernel))::call(s, name, kernel, grid, block, shared_bytes, __VA_ARGS__)
#define KVQ_LAUNCH(kernel, grid, block, shared_bytes, s, ...) \
    KVQ_LAUNCH_NAMED(#kernel, kernel, grid, block, shared_bytes, s, __VA_ARGS__)

#endif
