/* machine.h: the machine that a model runs on: a backend (kernels/backend.h), its device, and the memory taken there.
 * Opened by engine.c; model.c, forward.c and pool.c take their memory through it. */
#ifndef KVQ_MACHINE_H
#define KVQ_MACHINE_H

#include "../kernels/backend.h"

typedef struct kvq_machine {
    const kvq_backend *backend;
    kvq_device *device;
    kvq_device_info info;
    kvq_error passed_over; /* why "auto" did not take the GPU; code KVQ_OK: there was nothing to pass over */
} kvq_machine;

/* backend: "cpu", "cuda", or "auto": the GPU where its plugin is installed and a device is usable, else the CPU. An isa
 * other than "auto" is the CPU's, so "auto" takes the CPU then. "cuda" never gives the CPU. Errors: KVQ_BAD_ARGUMENT,
 * KVQ_UNSUPPORTED (isa), KVQ_DEVICE (no plugin, driver or device: says which), KVQ_NO_MEMORY. */
kvq_status kvq_machine_open(kvq_machine *ret, const char *backend, const char *isa, int device, kvq_error *err);
void kvq_machine_close(kvq_machine *m); /* after everything taken from it; harmless on zeros */

/* Brings info up to date: some of it is known only when a stream was planned or made. */
void kvq_machine_describe(kvq_machine *m);

/* What is free for us: the device's memory, or the system's where the device has none of its own. */
kvq_status kvq_machine_free_bytes(const kvq_machine *m, uint64_t *ret, kvq_error *err);

/* When the next step is launched. */
typedef enum kvq_overlap {
    KVQ_OVERLAP_NONE,  /* when this one's tokens are told: the CPU, where launching is computing */
    KVQ_OVERLAP_TELL,  /* when they are known, so that they are told meanwhile */
    KVQ_OVERLAP_LAUNCH /* before they are known, where it can be planned without: a GPU */
} kvq_overlap;

/* As the machine wants it, or as KVQ_OVERLAP in the environment says (0, 1, 2): to measure what it brings, and to test
 * without a GPU. */
kvq_overlap kvq_machine_overlap(const kvq_machine *m);

/* Memory of the machine, as kvq_backend.take and give. */
kvq_status kvq_machine_take(const kvq_machine *m, kvq_memory_kind kind, uint64_t bytes, bool resident, const char *what,
                            uint8_t **ret, kvq_error *err);
void kvq_machine_give(const kvq_machine *m, kvq_memory_kind kind, uint8_t *memory, uint64_t bytes);

#endif
