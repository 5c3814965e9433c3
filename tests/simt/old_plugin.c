/* old_plugin.c: a CUDA backend as another version of kvqd would bring it, for test_engine_on_shim.c. */
#include "kernels/backend.h"

const kvq_backend *kvq_cuda_backend(void);

const kvq_backend *kvq_cuda_backend(void) {
    static const kvq_backend old = {.interface = KVQ_BACKEND_INTERFACE ^ 1, .name = "cuda"};
    return &old;
}
