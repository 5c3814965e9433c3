/* backend.c (cpu): the CPU as a backend (../backend.h): the host's own memory, so copies are memory copies. Asked for
 * by engine/machine.c and the checks. take, give and copy need no device. */
#define _GNU_SOURCE
#include "../backend.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define TOUCH_BYTES 4096

struct kvq_device {
    kvq_ops ops;
};

static kvq_status open_cpu(const kvq_device_options *options, kvq_device **ret, kvq_error *err) {
    kvq_device *d = calloc(1, sizeof *d);
    if (!d) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the CPU backend");
    kvq_status status = kvq_cpu_ops_init(&d->ops, options->isa, err);
    if (status) {
        free(d);
        return status;
    }
    *ret = d;
    return KVQ_OK;
}

static void close_cpu(kvq_device *d) {
    free(d);
}

static void describe(const kvq_device *d, kvq_device_info *ret) {
    (void)d; /* all CPUs are alike here */
    *ret = (kvq_device_info){.is_host = true, .shares_memory = true};
}

static const kvq_ops *ops_of(const kvq_device *d) {
    return &d->ops;
}

static kvq_status free_bytes(kvq_device *d, uint64_t *ret, kvq_error *err) {
    (void)d;
    (void)ret;
    return kvq_fail(err, KVQ_INTERNAL, "the CPU's free memory is the system's");
}

static kvq_status take(kvq_device *d, kvq_memory_kind kind, uint64_t bytes, bool resident, const char *what,
                       uint8_t **ret, kvq_error *err) {
    (void)d;
    (void)kind; /* there is one */
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for %" PRIu64 " bytes of %s", bytes, what);
    /* huge pages spare the page walks of streaming reads; without them it only runs slower */
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    for (uint64_t i = 0; resident && i < bytes; i += TOUCH_BYTES) ((volatile uint8_t *)memory)[i] = 0;
    *ret = memory;
    return KVQ_OK;
}

static void give(kvq_device *d, kvq_memory_kind kind, uint8_t *memory, uint64_t bytes) {
    (void)d;
    (void)kind;
    if (memory) (void)munmap(memory, bytes); /* nothing could be done about it */
}

static kvq_status copy(kvq_device *d, void *to, const void *from, uint64_t bytes, kvq_error *err) {
    (void)d;
    (void)err;
    memcpy(to, from, bytes);
    return KVQ_OK;
}

static size_t workspace_bytes(kvq_device *d, const kvq_shapes *shapes) {
    (void)d;
    return kvq_cpu_workspace_bytes(shapes);
}

static kvq_status stream_new(kvq_device *d, const kvq_shapes *shapes, kvq_stream **ret, kvq_error *err) {
    (void)d;
    return kvq_cpu_stream_new(shapes, ret, err);
}

static kvq_status stream_error(kvq_stream *s, kvq_error *err) {
    return kvq_cpu_stream_error(s, err);
}

static kvq_status fetch(kvq_stream *s, void *to, const void *from, uint64_t bytes, kvq_error *err) {
    if (bytes > 0 && to != from) memcpy(to, from, bytes);
    return kvq_cpu_stream_error(s, err);
}

/* What was asked has run already. */
static void start_fetch(kvq_stream *s, void *to, const void *from, uint64_t bytes, int which) {
    (void)s;
    (void)which;
    if (bytes > 0 && to != from) memcpy(to, from, bytes);
}

static kvq_status wait_fetch(kvq_stream *s, int which, kvq_error *err) {
    (void)which;
    return kvq_cpu_stream_error(s, err);
}

const kvq_backend *kvq_cpu_backend(void) {
    static const kvq_backend cpu = {.interface = KVQ_BACKEND_INTERFACE,
                                    .name = "cpu",
                                    .open = open_cpu,
                                    .close = close_cpu,
                                    .describe = describe,
                                    .ops = ops_of,
                                    .free_bytes = free_bytes,
                                    .take = take,
                                    .give = give,
                                    .copy = copy,
                                    .workspace_bytes = workspace_bytes,
                                    .stream_new = stream_new,
                                    .stream_free = kvq_cpu_stream_free,
                                    .stream_threads = kvq_cpu_stream_threads,
                                    .stream_error = stream_error,
                                    .fetch = fetch,
                                    .start_fetch = start_fetch,
                                    .wait_fetch = wait_fetch};
    return &cpu;
}
