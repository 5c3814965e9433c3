/* plugin.c: opens a backend's shared object (backend.h). Called by engine/machine.c and check_kernels. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"

static kvq_status wrong_version(const char *path, const kvq_backend *backend, kvq_error *err) {
    return kvq_fail(err, KVQ_DEVICE,
                    "the CUDA backend '%.200s' is of another version of kvqd (interface %" PRIx64 ", wanted %" PRIx64
                    "); install packages of one version",
                    path, backend->interface, (uint64_t)KVQ_BACKEND_INTERFACE);
}

kvq_status kvq_plugin_open(const char *path, const kvq_backend **ret, kvq_error *err) {
    if (access(path, F_OK) != 0) return kvq_fail(err, KVQ_NOT_FOUND, "there is no CUDA backend at '%.200s'", path);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) return kvq_fail(err, KVQ_DEVICE, "the CUDA backend cannot be loaded: %.300s", dlerror());
    void *symbol = dlsym(handle, KVQ_CUDA_PLUGIN_SYMBOL);
    /* cppcheck-suppress resourceLeak ; it stays loaded on purpose, here and below */
    if (!symbol) return kvq_fail(err, KVQ_DEVICE, "'%.200s' is no CUDA backend of kvqd", path);
    kvq_plugin_fn *get;
    memcpy(&get, &symbol, sizeof get); /* POSIX promises it, ISO C has no cast for it */
    const kvq_backend *backend = get();
    /* cppcheck-suppress resourceLeak */
    if (backend->interface != KVQ_BACKEND_INTERFACE) return wrong_version(path, backend, err);
    *ret = backend;
    /* cppcheck-suppress resourceLeak */
    return KVQ_OK;
}
