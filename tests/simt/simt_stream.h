/* simt_stream.h: what a library that is given a stream of the shim can ask of it: the real ones have the CUDA runtime
 * for that. At the address of every cudaStream_t; for fake_cublas.c. */
#ifndef SIMT_STREAM_H
#define SIMT_STREAM_H

#include <stdbool.h>
#include <stddef.h>

typedef struct simt_stream_front {
    /* run(body) in the stream's turn, when device memory can be touched; then, or when the stream ends, drop(body). */
    void (*call)(struct simt_stream_front *s, void (*run)(void *body), void (*drop)(void *body), void *body);
    bool (*is_device)(const void *memory, size_t bytes); /* all of it is one allocation of the device's */
} simt_stream_front;

#endif
