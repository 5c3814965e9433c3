/* simt.h: a GPU on the host, small and strict: what kernels/cuda/launch.cuh includes instead of the CUDA runtime when
 * the same .cu sources are compiled as C++ for the host (KVQ_SIMT). simt.cc has the rest.
 *
 * A launch is kept until the stream is waited for, as on a device, so that host memory that changes too early shows.
 * Then blocks run one after the other; the threads of a block are fibers that run until a barrier or a warp-wide
 * instruction. What is reported as an error of the launch, with kernel, block and thread:
 *   - a shared-memory race: two threads, at least one writing, without a barrier in between. Each byte remembers its
 * last writer and reader and their *phases*: the number of barriers the block had passed and, within a warp, of
 *     __syncwarp;
 *   - shared memory out of bounds, or read before it was written;
 *   - a barrier or warp-wide instruction that some threads never reach, or reach elsewhere;
 *   - a mask that is not the whole warp: partial warps are not used here;
 *   - an asynchronous copy whose bytes are used before it was waited for, or that nobody waits for;
 *   - a thread of an early launch that ends without having waited for the launches before it;
 *   - a ticket (kvq_take_ticket) that is taken with no barrier before it, or by two threads of a block;
 *   - a load of what other blocks left (kvq_load_16_l2) with no barrier since the block's ticket;
 *   - addresses of ldmatrix and asynchronous copies that are no multiples of 16.
 * Device memory can only be touched while kernels and copies run; otherwise it is protected, so the host crashes on it.
 * Every allocation ends at a page that no one may touch. */
#ifndef KVQ_SIMT_H
#define KVQ_SIMT_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utility>

/* ---- the language ---- */

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

#define CUDART_VERSION 0 /* of no CUDA, whose libraries could not use this GPU: by that name there is no cuBLAS */

/* ---- the machine (simt.cc) ---- */

/* What is no kernel's code and runs at every access to shared memory or in every product: looked at by the sanitizers
 * it would take half of their time. */
#define SIMT_NOT_SANITIZED __attribute__((no_sanitize("address", "undefined")))

enum { SIMT_WARP = 32, SIMT_MAX_THREADS = 1024, SIMT_SHARED_BYTES = 227 * 1024, SIMT_SLOT_BYTES = 64 };

/* The thread that runs. */
typedef struct simt_place {
    dim3 thread, block, block_dim, grid_dim;
    unsigned lane, warp, index;
    uint32_t block_phase, warp_phase;
} simt_place;
extern simt_place *simt_current;
#define simt_now (*simt_current)

#define threadIdx (simt_now.thread)
#define blockIdx (simt_now.block)
#define blockDim (simt_now.block_dim)
#define gridDim (simt_now.grid_dim)

/* Ends the launch with an error; the thread does not go on. */
[[noreturn]] void simt_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

void simt_barrier(int line);
/* Waits for the warp. Each lane leaves up to SIMT_SLOT_BYTES; returns the 32 slots, valid until the lane's next
 * exchange but one. ordered: shared memory is ordered too (__syncwarp). */
const uint8_t (*simt_exchange(const char *what, unsigned mask, const void *value, size_t bytes,
                              bool ordered))[SIMT_SLOT_BYTES];

#define __syncthreads() simt_barrier(__LINE__)
void simt_wait_for_launches(void); /* what griddepcontrol.wait is on a device */

/* For kvq_take_ticket and for loads of what other blocks left (ptx.cuh). */
unsigned simt_take_ticket(unsigned *counter, unsigned last);
void simt_check_ticket(void);

static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    simt_exchange("__syncwarp", mask, NULL, 0, true);
}

template <typename T> static inline T simt_from_lane(const uint8_t (*slots)[SIMT_SLOT_BYTES], unsigned lane) {
    T ret;
    memcpy(&ret, slots[lane], sizeof ret);
    return ret;
}
template <typename T> static inline T __shfl_sync(unsigned mask, T value, int from, int width = SIMT_WARP) {
    const uint8_t(*slots)[SIMT_SLOT_BYTES] = simt_exchange("__shfl_sync", mask, &value, sizeof value, false);
    unsigned begin = simt_now.lane / (unsigned)width * (unsigned)width;
    return simt_from_lane<T>(slots, begin + (unsigned)from % (unsigned)width);
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int other, int width = SIMT_WARP) {
    const uint8_t(*slots)[SIMT_SLOT_BYTES] = simt_exchange("__shfl_xor_sync", mask, &value, sizeof value, false);
    unsigned from = simt_now.lane ^ (unsigned)other;
    return from / (unsigned)width == simt_now.lane / (unsigned)width ? simt_from_lane<T>(slots, from) : value;
}
template <typename T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned n, int width = SIMT_WARP) {
    const uint8_t(*slots)[SIMT_SLOT_BYTES] = simt_exchange("__shfl_down_sync", mask, &value, sizeof value, false);
    return simt_now.lane % (unsigned)width + n < (unsigned)width ? simt_from_lane<T>(slots, simt_now.lane + n) : value;
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const uint8_t(*slots)[SIMT_SLOT_BYTES] = simt_exchange("__ballot_sync", mask, &predicate, sizeof predicate, false);
    unsigned ret = 0;
    for (unsigned lane = 0; lane < SIMT_WARP; lane++) ret |= (unsigned)(simt_from_lane<int>(slots, lane) != 0) << lane;
    return ret;
}
static inline int __any_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate) {
    return __ballot_sync(mask, predicate) == 0xffffffffu;
}

static inline int __ffs(int x) {
    return __builtin_ffs(x);
}

/* ---- shared memory ---- */

/* A place in the block's shared memory, looked at and written to through checks. */
uint8_t *simt_shared_bytes(size_t at, size_t bytes, bool writes); /* ends the launch when that is not allowed */

template <typename T> struct simt_ref {
    size_t at;
    operator T() const {
        T ret;
        memcpy(&ret, simt_shared_bytes(at, sizeof ret, false), sizeof ret);
        return ret;
    }
    T operator=(T value) const {
        memcpy(simt_shared_bytes(at, sizeof value, true), &value, sizeof value);
        return value;
    }
    T operator=(const simt_ref &from) const { return *this = (T)from; }
    T operator+=(T value) const { return *this = (T)((T) * this + value); }
    T operator-=(T value) const { return *this = (T)((T) * this - value); }
    T operator*=(T value) const { return *this = (T)((T) * this * value); }
    T operator|=(T value) const { return *this = (T)((T) * this | value); }
};

/* A pointer into shared memory that knows its array's ends. */
template <typename T> struct simt_shared {
    size_t at, begin, end;
    simt_ref<T> operator[](ptrdiff_t i) const {
        size_t place = at + (size_t)i * sizeof(T);
        if (place < begin || place > end - sizeof(T) || end < sizeof(T))
            simt_fail("shared memory out of bounds: element %td of an array, %td bytes behind its begin, which has %zu",
                      i, (ptrdiff_t)(place - begin), end - begin);
        return simt_ref<T>{place};
    }
    simt_ref<T> operator*() const { return (*this)[0]; }
    simt_shared operator+(ptrdiff_t n) const { return simt_shared{at + (size_t)n * sizeof(T), begin, end}; }
    simt_shared &operator+=(ptrdiff_t n) {
        at += (size_t)n * sizeof(T);
        return *this;
    }
};
template <typename To, typename From> static inline simt_shared<To> simt_shared_cast(simt_shared<From> from) {
    if (from.at % alignof(To) != 0) simt_fail("shared memory read in pieces of %zu bytes at %zu", sizeof(To), from.at);
    return simt_shared<To>{from.at, from.begin, from.end};
}

/* The rows of 16 bytes that the warp's lanes point at, for ldmatrix. What a lane then reads of them, it reads itself.
 */
template <typename T> static inline void simt_exchange_rows(const char *what, simt_shared<T> row, simt_shared<T> *ret) {
    if (row.at % 16 != 0) simt_fail("%s at byte %zu of shared memory, no multiple of 16", what, row.at);
    const uint8_t(*slots)[SIMT_SLOT_BYTES] = simt_exchange(what, 0xffffffffu, &row, sizeof row, false);
    for (unsigned lane = 0; lane < SIMT_WARP; lane++) ret[lane] = simt_from_lane<simt_shared<T>>(slots, lane);
}

/* cp.async: the copy happens when it is waited for, and not before; until then its 16 bytes may be neither read nor
 * written. */
void simt_copy_bytes(size_t to, const void *from, int bytes);
void simt_copy_commit(void);
void simt_copy_wait(unsigned n_groups); /* all but the last n_groups */
static inline void simt_copy_async(simt_shared<uint8_t> to, const void *from, int bytes) {
    (void)to[0]; /* looks for the array's ends */
    (void)to[15];
    simt_copy_bytes(to.at, from, bytes);
}

/* Where a static array lies in the current launch; one per declaration. */
typedef struct simt_site {
    uint64_t launch;
    size_t at;
} simt_site;
size_t simt_place_static(simt_site *site, size_t bytes);
size_t simt_dynamic_bytes(void);

template <typename T> static inline simt_shared<T> simt_static_array(simt_site *site, size_t count) {
    size_t at = simt_place_static(site, count * sizeof(T));
    return simt_shared<T>{at, at, at + count * sizeof(T)};
}
template <typename T> static inline simt_shared<T> simt_dynamic_array() {
    return simt_shared<T>{0, 0, simt_dynamic_bytes()};
}

/* ---- integer and float instructions that the host has under other names ---- */

static inline int __float_as_int(float x) {
    int ret;
    memcpy(&ret, &x, sizeof ret);
    return ret;
}
static inline float __int_as_float(int x) {
    float ret;
    memcpy(&ret, &x, sizeof ret);
    return ret;
}
static inline int __float2int_rn(float x) { /* saturates; a NaN gives 0 */
    if (!(x == x)) return 0;
    if (x >= 2147483648.0f) return INT32_MAX;
    if (x <= -2147483648.0f) return INT32_MIN;
    return (int)lrintf(x);
}

/* ---- the runtime: as much of it as backend.cu uses ---- */

typedef enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorLaunchFailure = 719,
    cudaErrorNotSupported = 801
} cudaError_t;

typedef struct simt_stream *cudaStream_t;
typedef struct simt_event *cudaEvent_t;
typedef enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 } cudaMemcpyKind;
typedef enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
} cudaFuncAttribute;
enum { cudaSharedmemCarveoutMaxShared = 100 };
typedef struct cudaDeviceProp {
    char name[256];
    int major, minor, integrated, multiProcessorCount, l2CacheSize;
    int pciDomainID, pciBusID, pciDeviceID;
    size_t totalGlobalMem, sharedMemPerBlockOptin;
} cudaDeviceProp;
#define cudaStreamLegacy ((cudaStream_t)1)
enum { cudaHostAllocMapped = 2, cudaStreamNonBlocking = 1, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *ret, int device);
cudaError_t cudaDriverGetVersion(int *ret);
cudaError_t cudaRuntimeGetVersion(int *ret);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaMalloc(void **ret, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaHostAlloc(void **ret, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *memory);
cudaError_t cudaMemset(void *memory, int value, size_t bytes);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *ret, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *ret, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end); /* always 1: there is no time here */
cudaError_t cudaEventDestroy(cudaEvent_t event);
/* A launch of a kernel that was announced (below), now or as a node of a graph. A graph's nodes run in the order in
 * which they were added; each must get an edge from the one before, since nothing else is used here. */
typedef struct simt_graph *cudaGraph_t, *cudaGraphExec_t;
typedef struct simt_node *cudaGraphNode_t;
typedef struct cudaKernelNodeParams { /* the second and third are gridDim and blockDim, which are macros here */
    void *func;
    dim3 grid, block;
    unsigned sharedMemBytes;
    void **kernelParams, **extra;
} cudaKernelNodeParams;
/* The first two are gridDim and blockDim. */
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
typedef struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    struct {
        int programmaticStreamSerializationAllowed;
    } val;
} cudaLaunchAttribute;
typedef struct cudaLaunchConfig_t {
    dim3 grid, block;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
} cudaLaunchConfig_t;
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **args);
cudaError_t cudaGraphCreate(cudaGraph_t *ret, unsigned flags);
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t *ret, cudaGraph_t g, const cudaGraphNode_t *dependencies,
                                   size_t n_dependencies, const cudaKernelNodeParams *params);
enum { cudaGraphDependencyTypeProgrammatic = 1, cudaGraphKernelNodePortProgrammatic = 1 };
typedef struct cudaGraphEdgeData {
    unsigned char from_port, to_port, type;
} cudaGraphEdgeData;
cudaError_t cudaGraphAddDependencies(cudaGraph_t g, const cudaGraphNode_t *from, const cudaGraphNode_t *to,
                                     const cudaGraphEdgeData *edges, size_t n);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ret, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t g, cudaGraphNode_t node,
                                             const cudaKernelNodeParams *params);
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g);
cudaError_t cudaGraphDestroy(cudaGraph_t g);

cudaError_t cudaGetLastError(void);
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error); /* of a failed launch: what the shim found */
template <typename F> static inline cudaError_t cudaFuncSetAttribute(F *kernel, cudaFuncAttribute what, int value) {
    (void)kernel;
    (void)what;
    return value <= SIMT_SHARED_BYTES ? cudaSuccess : cudaErrorInvalidValue;
}

/* Blocks and warps run from the last to the first: results must not depend on it. */
void simt_stream_reverse(cudaStream_t s, bool reverse);

/* ---- a launch ---- */

typedef struct simt_launch {
    struct simt_launch *next;
    const char *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    bool is_early;           /* may begin before the launch ahead of it has ended, on a device */
    void (*run)(void *body); /* one thread */
    void (*drop)(void *body);
    void *body;
} simt_launch;
void simt_enqueue(cudaStream_t s, const simt_launch *launch);

/* What the shim must know of a kernel to launch it by its address alone; nvcc's own tables are of that kind. */
typedef struct simt_kernel {
    const void *kernel;
    const char *name;
    void (*call)(const void *kernel, void **args);
    int n_args;
    const size_t *arg_bytes;
} simt_kernel;
void simt_announce_kernel(const simt_kernel *k); /* copied; the second time is nothing */

template <typename... Types> struct simt_signature {
    static constexpr size_t bytes[] = {sizeof(Types)...};
    template <size_t... I> static void call_with(void (*kernel)(Types...), void **args, std::index_sequence<I...>) {
        kernel(*(Types *)args[I]...);
    }
    static void call(const void *kernel, void **args) {
        call_with((void (*)(Types...))kernel, args, std::index_sequence_for<Types...>{});
    }
};
template <typename... Types> static inline void simt_announce(const char *name, void (*kernel)(Types...)) {
    typedef simt_signature<Types...> signature;
    const simt_kernel k = {(const void *)kernel, name, signature::call, (int)sizeof...(Types), signature::bytes};
    simt_announce_kernel(&k);
}

/* kernel(args...), with the values that the arguments have now. */
template <typename Kernel, typename... Args>
static inline void simt_launch_call(cudaStream_t s, const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                                    Kernel kernel, Args... args) {
    auto body = [=]() { kernel(args...); };
    typedef decltype(body) Body;
    simt_launch launch = {};
    launch.kernel = name;
    launch.grid = grid;
    launch.block = block;
    launch.shared_bytes = shared_bytes;
    launch.run = [](void *b) { (*(const Body *)b)(); };
    launch.drop = [](void *b) { delete (Body *)b; };
    launch.body = new Body(body);
    simt_enqueue(s, &launch);
}

#endif
