/* machine.c: chooses and opens the machine that a model runs on; see machine.h. The CUDA backend is a file of its own,
 * so that the plain package runs everywhere and the GPU's adds one file. */
#define _GNU_SOURCE
#include "machine.h"

#include <stdlib.h>
#include <string.h>

#include "memory.h"

#ifndef KVQ_PLUGIN_DIR
#define KVQ_PLUGIN_DIR "/usr/lib/kvqd/backends" /* CMake says where it is really installed */
#endif

/* KVQ_CUDA_PLUGIN names another file: the one just built, or the tests' (ignored in programs with raised rights). */
static const char *plugin_path(void) {
    const char *path = secure_getenv("KVQ_CUDA_PLUGIN");
    return path && *path ? path : KVQ_PLUGIN_DIR "/libkvq-cuda.so";
}

static kvq_status open_device(kvq_machine *m, const kvq_backend *backend, const char *isa, int device, kvq_error *err) {
    kvq_status status = backend->open(&(kvq_device_options){.isa = isa, .index = device}, &m->device, err);
    if (status) return status;
    m->backend = backend;
    backend->describe(m->device, &m->info);
    return KVQ_OK;
}

static kvq_status open_cuda(kvq_machine *m, int device, kvq_error *err) {
    const kvq_backend *backend;
    kvq_status status = kvq_plugin_open(plugin_path(), &backend, err);
    return status ? status : open_device(m, backend, "auto", device, err);
}

kvq_status kvq_machine_open(kvq_machine *ret, const char *backend, const char *isa, int device, kvq_error *err) {
    kvq_machine m = {0};
    bool is_auto = strcmp(backend, "auto") == 0, is_cuda = strcmp(backend, "cuda") == 0;
    if (!is_auto && !is_cuda && strcmp(backend, "cpu") != 0)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "backend '%.32s' is none of auto, cpu, cuda", backend);
    kvq_status status = KVQ_NOT_FOUND;
    if (is_cuda || (is_auto && strcmp(isa, "auto") == 0)) status = open_cuda(&m, device, &m.passed_over);
    if (is_cuda && status) /* a missing plugin is the GPU missing: callers know one status for that */
        return kvq_fail(err, status == KVQ_NOT_FOUND ? KVQ_DEVICE : status, "backend 'cuda' is asked for: %s",
                        m.passed_over.text);
    if (status == KVQ_NOT_FOUND) m.passed_over = (kvq_error){0}; /* no plugin: nothing was passed over */
    if (status) status = open_device(&m, kvq_cpu_backend(), isa, device, err);
    if (!status) *ret = m;
    return status;
}

void kvq_machine_close(kvq_machine *m) {
    if (m->backend) m->backend->close(m->device);
    *m = (kvq_machine){0};
}

kvq_overlap kvq_machine_overlap(const kvq_machine *m) {
    const char *wish = secure_getenv("KVQ_OVERLAP");
    if (wish && *wish >= '0' && *wish <= '2' && !wish[1]) return (kvq_overlap)(*wish - '0');
    return m->info.is_host ? KVQ_OVERLAP_NONE : KVQ_OVERLAP_LAUNCH;
}

void kvq_machine_describe(kvq_machine *m) {
    m->backend->describe(m->device, &m->info);
}

kvq_status kvq_machine_free_bytes(const kvq_machine *m, uint64_t *ret, kvq_error *err) {
    if (m->info.shares_memory) return kvq_memory_free_bytes(ret, err);
    return m->backend->free_bytes(m->device, ret, err);
}

kvq_status kvq_machine_take(const kvq_machine *m, kvq_memory_kind kind, uint64_t bytes, bool resident, const char *what,
                            uint8_t **ret, kvq_error *err) {
    return m->backend->take(m->device, kind, bytes, resident, what, ret, err);
}

void kvq_machine_give(const kvq_machine *m, kvq_memory_kind kind, uint8_t *memory, uint64_t bytes) {
    if (m->backend && memory) m->backend->give(m->device, kind, memory, bytes);
}
