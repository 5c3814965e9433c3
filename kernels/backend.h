/* backend.h: what the engine asks of a machine besides operators (ops.h): memory on it, copies, a stream. Two fillings:
 * the CPU's (kernels/cpu/backend.c) and CUDA's (kernels/cuda/backend.cu, a shared object opened at run time by
 * kernels/plugin.c). Called by the engine at open and once or twice a step, and by check_kernels.
 *
 * Memory is of two kinds. DEVICE is where tensors live: weights, activations, the pool, scratch. The host may look at
 * it only where info.is_host says so; else bytes get there and back by copy and fetch. SHARED is seen by both sides
 * under one address, slower for the device: results that the host reads, and the buffers of the checks. Everything is
 * taken at open; nothing is allocated in a step. */
#ifndef KVQ_BACKEND_H
#define KVQ_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops.h"

typedef struct kvq_device kvq_device; /* a backend's own */

typedef enum kvq_memory_kind { KVQ_MEMORY_DEVICE, KVQ_MEMORY_SHARED } kvq_memory_kind;

typedef struct kvq_device_options {
    const char *isa; /* CPU only: see kvq_cpu_ops_init */
    int index;       /* of the GPU; the CPU ignores it */
} kvq_device_options;

typedef struct kvq_device_info {
    char name[96];                /* "NVIDIA H100 80GB HBM3"; empty for the CPU */
    char version[96];             /* "driver 13.0, runtime 13.0"; empty for the CPU */
    char bus_id[24];              /* its PCI address, "0000:65:00.0"; empty for the CPU */
    char cublas[KVQ_ERROR_BYTES]; /* how it makes large products, or why it does not; empty: not asked */
    bool is_host;                 /* DEVICE memory is the host's own: pointers work on both sides */
    bool
        shares_memory; /* its memory is the system's (CPU, integrated GPUs): what is free is what the system has free */
} kvq_device_info;

typedef struct kvq_backend {
    uint64_t interface; /* KVQ_BACKEND_INTERFACE of the headers that it was built with */
    const char *name;   /* "cpu", "cuda" */

    /* The device; owned by the caller, who closes it last. Errors: KVQ_DEVICE (none, or not usable: says why),
     * KVQ_UNSUPPORTED, KVQ_NO_MEMORY. */
    kvq_status (*open)(const kvq_device_options *options, kvq_device **ret, kvq_error *err);
    void (*close)(kvq_device *d); /* NULL allowed */
    /* Some of it is known only when a stream was planned or made. */
    void (*describe)(const kvq_device *d, kvq_device_info *ret);
    const kvq_ops *(*ops)(const kvq_device *d); /* lives as long as the device */

    /* Bytes free on the device. Not asked where shares_memory is set. */
    kvq_status (*free_bytes)(kvq_device *d, uint64_t *ret, kvq_error *err);

    /* Memory, aligned for every operator and filled with zeros; `what` is named by the error. resident: touched whole
     * now, so that what is missing is missed now (a GPU's always is). Errors: KVQ_NO_MEMORY. */
    kvq_status (*take)(kvq_device *d, kvq_memory_kind kind, uint64_t bytes, bool resident, const char *what,
                       uint8_t **ret, kvq_error *err);
    void (*give)(kvq_device *d, kvq_memory_kind kind, uint8_t *memory, uint64_t bytes);            /* NULL allowed */
    kvq_status (*copy)(kvq_device *d, void *to, const void *from, uint64_t bytes, kvq_error *err); /* host to device */

    /* Of DEVICE memory that a stream takes; looks for what it would use beyond the backend itself. */
    size_t (*workspace_bytes)(kvq_device *d, const kvq_shapes *shapes);
    kvq_status (*stream_new)(kvq_device *d, const kvq_shapes *shapes, kvq_stream **ret, kvq_error *err);
    void (*stream_free)(kvq_stream *s); /* NULL allowed */
    int (*stream_threads)(const kvq_stream *s);
    /* The stream's first error so far; what still runs may add one. */
    kvq_status (*stream_error)(kvq_stream *s, kvq_error *err);
    /* Waits for all that was asked of the stream, and copies bytes from DEVICE memory to the host's (SHARED or any).
     * bytes 0 only waits. Returns the stream's first error. */
    kvq_status (*fetch)(kvq_stream *s, void *to, const void *from, uint64_t bytes, kvq_error *err);
    /* As fetch, without waiting: all that was asked runs from now on, with the copy behind it, to SHARED memory, where
     * the bytes are once wait_fetch of the same `which` has returned, or any later fetch. which: 0 or 1, so that two
     * may be under way. */
    void (*start_fetch)(kvq_stream *s, void *to, const void *from, uint64_t bytes, int which);
    /* Waits for all that was asked before the last start_fetch of `which`, and for its copy; what was asked behind it
     * may still run. Returns the stream's first error; one of what was asked behind need not count. */
    kvq_status (*wait_fetch)(kvq_stream *s, int which, kvq_error *err);
} kvq_backend;

#define KVQ_BACKEND_FETCHES 2 /* that may be under way */

/* A plugin and the program that opens it must agree on every struct that passes between them: the number is raised
 * when a meaning changes, the sizes notice what was forgotten. */
#define KVQ_BACKEND_INTERFACE                                                                                 \
    ((uint64_t)4 << 48 | (uint64_t)(sizeof(kvq_backend) + sizeof(kvq_ops) + sizeof(kvq_shapes)) << 32 |       \
     (uint64_t)(sizeof(kvq_batch) + sizeof(kvq_batch_seq) + sizeof(kvq_kv_page) + sizeof(kvq_matrix)) << 16 | \
     (uint64_t)(sizeof(kvq_kv) + sizeof(kvq_kv_layer) + sizeof(kvq_append) + sizeof(kvq_attend) +             \
                sizeof(kvq_device_info) + sizeof(kvq_error)))

const kvq_backend *kvq_cpu_backend(void);

/* The one symbol that a CUDA plugin exports: const kvq_backend *kvq_cuda_backend(void). */
#define KVQ_CUDA_PLUGIN_SYMBOL "kvq_cuda_backend"
typedef const kvq_backend *kvq_plugin_fn(void);

/* Opens a plugin's file and checks its interface. It stays loaded until the process ends: GPU runtimes do not survive
 * being unloaded. Errors: KVQ_NOT_FOUND (no such file), KVQ_DEVICE (cannot be loaded, or of another version). */
kvq_status kvq_plugin_open(const char *path, const kvq_backend **ret, kvq_error *err);

#endif
