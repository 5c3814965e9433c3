/* backend.cu: the CUDA backend behind ../backend.h: the device, its memory, streams, and the one symbol that the plugin
 * exports. Every call of the runtime is checked; nothing here prints or aborts, and after start nothing allocates. */
#include "stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define LEAST_CAPABILITY 75 /* Turing: dp4a, tensor cores for int8, what the toolkit still compiles for */
#define ARCHITECTURES "7.5 and later"

struct kvq_device {
    kvq_ops ops;
    kvq_device_info info;
    char isa[16];
    size_t shared_bytes;       /* of a block, at most */
    int capability, built_for; /* of the device; of the code that it runs, which may be another's PTX */
    int n_sms;
    size_t l2_bytes;
    int cublas_rows;            /* of a step that has products for cuBLAS, at least */
    bool looked_for_cublas;     /* when first asked */
    kvq_cublas_library *cublas; /* NULL: there is none */
};

static kvq_status fail_call(kvq_error *err, cudaError_t error, const char *what) {
    (void)cudaGetLastError(); /* it is told here */
    return kvq_fail(err, KVQ_DEVICE, "%s: %s (%s)", what, cudaGetErrorName(error), cudaGetErrorString(error));
}

/* ---- the device ---- */

/* Says what is missing: the driver, its version, or a device. */
static kvq_status count_devices(int *ret, kvq_error *err) {
    int driver = 0, runtime = 0;
    cudaError_t error = cudaGetDeviceCount(ret);
    (void)cudaDriverGetVersion(&driver); /* 0 stays when there is none */
    (void)cudaRuntimeGetVersion(&runtime);
    if (error == cudaSuccess && *ret > 0) return KVQ_OK;
    (void)cudaGetLastError();
    if (driver == 0) return kvq_fail(err, KVQ_DEVICE, "no NVIDIA driver is installed (libcuda.so.1 is not there)");
    if (error == cudaErrorInsufficientDriver || driver / 1000 < runtime / 1000)
        return kvq_fail(err, KVQ_DEVICE, "the NVIDIA driver is too old: it knows CUDA %d.%d, this backend needs %d.0",
                        driver / 1000, driver % 1000 / 10, runtime / 1000);
    if (error == cudaErrorNoDevice || error == cudaSuccess)
        return kvq_fail(err, KVQ_DEVICE,
                        "no NVIDIA GPU is found; is there one, and may this user open /dev/nvidia* (service: the "
                        "drop-in of kvqd-cuda)?");
    return fail_call(err, error, "looking for GPUs");
}

__global__ void probe(int *out) {
    kvq_wait_for_launches();
    if (threadIdx.x == 0) *out = kvq_built_for();
}

/* Runs a kernel: a plugin without code for this architecture is found out here, not in the first answer. The kernel
 * tells which capability it was compiled for. */
static kvq_status run_probe(int *ret_built_for, kvq_error *err) {
    kvq_stream s = {};
    int *memory = NULL, result = 0;
    cudaError_t error = cudaMalloc((void **)&memory, sizeof *memory);
    if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&s.cuda, cudaStreamNonBlocking);
    if (error == cudaSuccess) {
        KVQ_LAUNCH(probe, dim3(1), dim3(32), 0, &s, memory);
        if (s.error.code == KVQ_OK) error = cudaStreamSynchronize(s.cuda);
        if (error == cudaSuccess && s.error.code == KVQ_OK)
            error = cudaMemcpy(&result, memory, sizeof result, cudaMemcpyDeviceToHost);
        (void)cudaStreamDestroy(s.cuda); /* what can go wrong here went wrong before */
    }
    (void)cudaFree(memory);
    if (error != cudaSuccess) return fail_call(err, error, "the GPU does not run a first kernel");
    if (s.error.code != KVQ_OK) return kvq_fail(err, KVQ_DEVICE, "%s", s.error.text);
    if (result < LEAST_CAPABILITY)
        return kvq_fail(err, KVQ_DEVICE, "the GPU ran a first kernel, which says that it was compiled for %d", result);
    *ret_built_for = result;
    return KVQ_OK;
}

static kvq_status examine(kvq_device *d, int index, kvq_error *err) {
    cudaDeviceProp properties;
    int driver = 0, runtime = 0;
    cudaError_t error = cudaGetDeviceProperties(&properties, index);
    if (error == cudaSuccess) error = cudaSetDevice(index);
    if (error != cudaSuccess) return fail_call(err, error, "the GPU cannot be opened");
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    snprintf(d->info.name, sizeof d->info.name, "%.95s", properties.name);
    snprintf(d->info.version, sizeof d->info.version, "driver for CUDA %d.%d, runtime %d.%d, compute capability %d.%d",
             driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10, properties.major,
             properties.minor);
    snprintf(d->info.bus_id, sizeof d->info.bus_id, "%04x:%02x:%02x.0", (unsigned)properties.pciDomainID,
             (unsigned)properties.pciBusID, (unsigned)properties.pciDeviceID);
    snprintf(d->isa, sizeof d->isa, "sm_%d%d", properties.major, properties.minor);
    d->info.shares_memory = properties.integrated != 0;
    d->shared_bytes = properties.sharedMemPerBlockOptin;
    d->capability = properties.major * 10 + properties.minor;
    d->n_sms = properties.multiProcessorCount;
    d->l2_bytes = properties.l2CacheSize > 0 ? (size_t)properties.l2CacheSize : 0;
    d->cublas_rows = kvq_cuda_least_cublas_rows(d->capability);
    if (d->capability < LEAST_CAPABILITY)
        return kvq_fail(err, KVQ_DEVICE, "'%s' has compute capability %d.%d, this backend runs on " ARCHITECTURES,
                        properties.name, properties.major, properties.minor);
    return run_probe(&d->built_for, err);
}

static void fill(kvq_ops *ops, const char *isa) {
    *ops = kvq_ops{};
    ops->backend = "cuda";
    ops->isa = isa;
    kvq_cuda_fill_step(ops);
    kvq_cuda_fill_rows(ops);
    kvq_cuda_fill_linear(ops);
    kvq_cuda_fill_refine(ops);
    kvq_cuda_fill_append(ops);
    kvq_cuda_fill_close(ops);
    kvq_cuda_fill_attend(ops);
    kvq_cuda_fill_sample(ops);
}

static void close_device(kvq_device *d) {
    if (d) kvq_cublas_close(d->cublas);
    free(d);
}

static kvq_status open_device(const kvq_device_options *options, kvq_device **ret, kvq_error *err) {
    int n = 0;
    kvq_status status = count_devices(&n, err);
    if (status) return status;
    if (options->index < 0 || options->index >= n)
        return kvq_fail(err, KVQ_DEVICE, "GPU %d is asked for, this machine has %d, counted from 0", options->index, n);
    kvq_device *d = (kvq_device *)calloc(1, sizeof *d);
    if (!d) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the CUDA backend");
    status = examine(d, options->index, err);
    if (!status) status = kvq_cuda_allow_attend(d->shared_bytes, err);
    if (!status) status = kvq_cuda_allow_halves(d->shared_bytes, err);
    if (status) {
        close_device(d);
        return status;
    }
    fill(&d->ops, d->isa);
    *ret = d;
    return KVQ_OK;
}

static void describe(const kvq_device *d, kvq_device_info *ret) {
    *ret = d->info;
}

static const kvq_ops *ops_of(const kvq_device *d) {
    return &d->ops;
}

/* ---- memory ---- */

static kvq_status free_bytes(kvq_device *d, uint64_t *ret, kvq_error *err) {
    size_t free_now = 0, total = 0;
    (void)d;
    cudaError_t error = cudaMemGetInfo(&free_now, &total);
    if (error != cudaSuccess) return fail_call(err, error, "asking for the GPU's free memory");
    *ret = free_now;
    return KVQ_OK;
}

static kvq_status no_memory(kvq_device *d, kvq_memory_kind kind, uint64_t bytes, const char *what, kvq_error *err) {
    uint64_t left = 0;
    (void)cudaGetLastError();
    if (kind == KVQ_MEMORY_SHARED || free_bytes(d, &left, NULL) != KVQ_OK)
        return kvq_fail(err, KVQ_NO_MEMORY, "no memory for %" PRIu64 " bytes of %s", bytes, what);
    return kvq_fail(err, KVQ_NO_MEMORY,
                    "no memory on the GPU for %s: %" PRIu64 " MiB are needed, %" PRIu64 " MiB are free", what,
                    (bytes + 1048575) >> 20, left >> 20);
}

/* Waits for what was asked of the default stream. cudaMemset and copies from pageable memory may return before the
 * device has done them, and a kvq_stream, which does not block on that stream, would overtake them: on a GPU that
 * another program kept busy, zeros came over a step's lists after they had been sent. */
static cudaError_t finish_default_stream(void) {
    return cudaStreamSynchronize(cudaStreamLegacy);
}

/* Plain allocations, the device's always resident; pinned memory of the host for what both sides see. */
static kvq_status take(kvq_device *d, kvq_memory_kind kind, uint64_t bytes, bool resident, const char *what,
                       uint8_t **ret, kvq_error *err) {
    void *memory = NULL;
    (void)resident;
    cudaError_t error =
        kind == KVQ_MEMORY_SHARED ? cudaHostAlloc(&memory, bytes, cudaHostAllocMapped) : cudaMalloc(&memory, bytes);
    if (error == cudaErrorMemoryAllocation) return no_memory(d, kind, bytes, what, err);
    if (error != cudaSuccess) return fail_call(err, error, what);
    if (kind == KVQ_MEMORY_SHARED)
        memset(memory, 0, bytes);
    else
        error = cudaMemset(memory, 0, bytes);
    if (error == cudaSuccess && kind != KVQ_MEMORY_SHARED) error = finish_default_stream();
    if (error != cudaSuccess) {
        (void)cudaFree(memory);
        return fail_call(err, error, what);
    }
    *ret = (uint8_t *)memory;
    return KVQ_OK;
}

static void give(kvq_device *d, kvq_memory_kind kind, uint8_t *memory, uint64_t bytes) {
    (void)d;
    (void)bytes;
    if (!memory) return;
    (void)(kind == KVQ_MEMORY_SHARED ? cudaFreeHost(memory) : cudaFree(memory)); /* nothing could be done about it */
}

static kvq_status copy(kvq_device *d, void *to, const void *from, uint64_t bytes, kvq_error *err) {
    (void)d;
    if (bytes == 0) return KVQ_OK;
    cudaError_t error = cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice);
    if (error == cudaSuccess) error = finish_default_stream();
    return error == cudaSuccess ? KVQ_OK : fail_call(err, error, "copying to the GPU");
}

/* ---- cuBLAS ---- */

static void tell_without_cublas(kvq_device *d, const kvq_error *why) {
    kvq_error text;
    (void)kvq_fail(&text, why->code, "not used: %s", why->text); /* cut on a character, as info's text must be */
    snprintf(d->info.cublas, sizeof d->info.cublas, "%s", text.text);
}

/* Whether a stream of these shapes would have products for it, and there is one: looked for only then, since to load it
 * takes time and memory of the host. */
static bool wants_cublas(kvq_device *d, const kvq_shapes *shapes) {
    kvq_error err;
    if (!shapes->depends_on_batch || shapes->max_rows < d->cublas_rows) return false;
    if (!d->looked_for_cublas && kvq_cublas_open(&d->cublas, &err)) tell_without_cublas(d, &err);
    d->looked_for_cublas = true;
    if (d->cublas)
        snprintf(d->info.cublas, sizeof d->info.cublas, "'%s' for %d rows a step and more", kvq_cublas_file(d->cublas),
                 d->cublas_rows);
    return d->cublas != NULL;
}

/* For a stream that has all but that. What does not start is told, and the stream does without: its products are
 * linear_halves.cu's then. */
static void open_cublas(kvq_stream *s) {
    kvq_device *d = s->device;
    kvq_error err;
    kvq_status status = take(d, KVQ_MEMORY_DEVICE, KVQ_CUBLAS_BYTES, true, "cuBLAS", &s->cublas_memory, &err);
    if (!status) status = kvq_cublas_new(d->cublas, s->cuda, s->cublas_memory, &s->cublas, &err);
    if (!status) status = kvq_cuda_try_cublas(s, &err);
    if (!status) {
        int version = kvq_cublas_version(s->cublas);
        snprintf(d->info.cublas, sizeof d->info.cublas, "%d.%d.%d for %d rows a step and more", version / 10000,
                 version / 100 % 100, version % 100, d->cublas_rows);
        return;
    }
    tell_without_cublas(d, &err);
    kvq_cublas_free(s->cublas);
    give(d, KVQ_MEMORY_DEVICE, s->cublas_memory, KVQ_CUBLAS_BYTES);
    s->cublas = NULL;
    s->cublas_memory = NULL;
}

/* ---- streams ---- */

static size_t operator_bytes(const kvq_device *d, const kvq_shapes *shapes, bool has_cublas) {
    size_t most = kvq_cuda_linear_bytes(shapes, d->n_sms), refine = kvq_cuda_refine_bytes(shapes);
    size_t attend = kvq_cuda_attend_bytes(shapes), sample = kvq_cuda_sample_bytes(shapes);
    size_t cublas = has_cublas ? kvq_cuda_cublas_bytes(shapes) : 0;
    if (cublas > most) most = cublas;
    if (refine > most) most = refine;
    if (sample > most) most = sample;
    return kvq_cuda_aligned(attend > most ? attend : most);
}

/* Rows, sequences, page tables, closing pages and tiles of the largest step (step.cu's order). */
static size_t lists_bytes(const kvq_shapes *shapes) {
    size_t rows = (size_t)shapes->max_rows, seqs = (size_t)(shapes->max_seqs > 0 ? shapes->max_seqs : 1);
    size_t groups = (size_t)(shapes->n_groups > 0 ? shapes->n_groups : 1);
    size_t pages = (size_t)kvq_cuda_blocks(shapes->max_tokens, shapes->block_tokens) + 1;
    size_t closes = (seqs + rows / (size_t)shapes->block_tokens + 1) * groups;
    return kvq_cuda_aligned(rows * (3 * sizeof(int) + sizeof(kvq_row_run)) +
                            kvq_cuda_tiles_most(shapes->max_rows) * sizeof(kvq_row_run) + seqs * sizeof(kvq_batch_seq) +
                            seqs * groups * (pages * sizeof(kvq_kv_page) + 16) + closes * sizeof(kvq_batch_close) +
                            8 * 16);
}

/* Rows that are picked, what is sampled and its edits. */
static size_t room_bytes(const kvq_shapes *shapes) {
    size_t seqs = (size_t)(shapes->max_seqs > 0 ? shapes->max_seqs : 1);
    return 4 * kvq_cuda_aligned((size_t)shapes->max_rows * sizeof(int)) +
           kvq_cuda_aligned(seqs * sizeof(kvq_sample_row) + (size_t)shapes->vocab_size * sizeof(kvq_sample_edit));
}

static size_t n_counters(const kvq_device *d, const kvq_shapes *shapes) {
    size_t attend = kvq_cuda_attend_counters(shapes), halves = kvq_cuda_halves_counters(d->n_sms);
    return attend > halves ? attend : halves;
}

/* What is kept beside the workspace from one operator to the next, in the same allocation. */
static size_t kept_bytes(const kvq_device *d, const kvq_shapes *shapes) {
    return kvq_cuda_left_bytes(shapes) + kvq_cuda_aligned(n_counters(d, shapes) * sizeof(unsigned));
}

static size_t workspace_bytes(kvq_device *d, const kvq_shapes *shapes) {
    bool has_cublas = wants_cublas(d, shapes);
    return operator_bytes(d, shapes, has_cublas) + kept_bytes(d, shapes) + lists_bytes(shapes) + room_bytes(shapes) +
           (has_cublas ? KVQ_CUBLAS_BYTES : 0);
}

static void stream_free(kvq_stream *s) {
    if (!s) return;
    if (s->cuda) (void)cudaStreamSynchronize(s->cuda); /* an error was told or does not matter any more */
    if (s->uploaded) (void)cudaEventDestroy(s->uploaded);
    for (int i = 0; i < KVQ_BACKEND_FETCHES; i++)
        if (s->fetched[i]) (void)cudaEventDestroy(s->fetched[i]);
    kvq_cuda_times_done(s->times);
    kvq_cuda_graphs_done(s);
    kvq_cublas_free(s->cublas);
    if (s->cuda) (void)cudaStreamDestroy(s->cuda);
    give(s->device, KVQ_MEMORY_DEVICE, s->workspace, 0);
    give(s->device, KVQ_MEMORY_DEVICE, s->cublas_memory, 0);
    give(s->device, KVQ_MEMORY_DEVICE, s->lists, 0);
    give(s->device, KVQ_MEMORY_SHARED, s->staging, 0);
    free(s);
}

/* Whoever waits for an event sleeps: a device that answers all day should not keep a processor at full power for it.
 * That the host wakes some microseconds later costs nothing where the next step is under way already. KVQ_CUDA_SPIN=1
 * in the environment looks at the event all the time instead, to measure what that brings. */
static unsigned event_flags() {
    const char *wish = secure_getenv("KVQ_CUDA_SPIN");
    unsigned flags = cudaEventDisableTiming;
    if (!wish || strcmp(wish, "1") != 0) flags |= cudaEventBlockingSync;
    return flags;
}

static kvq_status stream_new(kvq_device *d, const kvq_shapes *shapes, kvq_stream **ret, kvq_error *err) {
    if (shapes->max_rows < 1 || shapes->max_in < 1 || shapes->n_kv_heads < 1 || shapes->block_tokens < 1)
        return kvq_fail(err, KVQ_BAD_ARGUMENT,
                        "a CUDA stream for %d rows of %d inputs and %d KV heads: at least 1 each", shapes->max_rows,
                        shapes->max_in, shapes->n_kv_heads);
    kvq_stream *s = (kvq_stream *)calloc(1, sizeof *s);
    if (!s) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for a CUDA stream");
    bool has_cublas = wants_cublas(d, shapes);
    s->device = d;
    s->shapes = *shapes;
    s->cublas_rows = d->cublas_rows;
    s->halves_rows = kvq_cuda_least_halves_rows();
    s->workspace_bytes = operator_bytes(d, shapes, has_cublas);
    s->lists_bytes = lists_bytes(shapes);
    s->room_bytes = room_bytes(shapes);
    s->shared_bytes = d->shared_bytes;
    s->capability = d->capability;
    s->built_for = d->built_for;
    s->n_sms = d->n_sms;
    s->l2_bytes = d->l2_bytes;
    size_t lists = s->lists_bytes + s->room_bytes, all = s->workspace_bytes + kept_bytes(d, shapes);
    kvq_status status = take(d, KVQ_MEMORY_DEVICE, all, true, "workspace", &s->workspace, err);
    if (!status) status = take(d, KVQ_MEMORY_DEVICE, lists, true, "a step's lists", &s->lists, err);
    if (!status) status = take(d, KVQ_MEMORY_SHARED, lists, true, "a step's lists", &s->staging, err);
    if (!status) {
        kvq_cuda_place_left(s, s->workspace + s->workspace_bytes);
        s->counters = (unsigned *)(s->workspace + s->workspace_bytes + kvq_cuda_left_bytes(shapes));
        s->n_counters = n_counters(d, shapes);
        unsigned flags = event_flags();
        cudaError_t error = cudaStreamCreateWithFlags(&s->cuda, cudaStreamNonBlocking);
        if (error == cudaSuccess) error = cudaEventCreateWithFlags(&s->uploaded, flags);
        for (int i = 0; i < KVQ_BACKEND_FETCHES && error == cudaSuccess; i++)
            error = cudaEventCreateWithFlags(&s->fetched[i], flags);
        if (error != cudaSuccess) status = fail_call(err, error, "making a stream");
        s->times = kvq_cuda_times_new();
        if (!status && !kvq_cuda_graphs_init(s)) status = kvq_fail(err, KVQ_NO_MEMORY, "no memory for a CUDA stream");
    }
    if (!status && has_cublas) open_cublas(s);
    if (status) {
        stream_free(s);
        return status;
    }
#ifdef KVQ_SIMT
    simt_stream_reverse(s->cuda, shapes->threads > 1); /* the checks' second stream: another order of blocks */
#endif
    *ret = s;
    return KVQ_OK;
}

static int stream_threads(const kvq_stream *s) {
    (void)s;
    return 1; /* of the host */
}

static kvq_status stream_error(kvq_stream *s, kvq_error *err) {
    if (err) *err = s->error;
    return s->error.code;
}

/* Launches all that was kept, and a copy behind it. */
static void ask_for(kvq_stream *s, void *to, const void *from, uint64_t bytes) {
    kvq_cuda_flush(s);
    s->left.floats = NULL; /* the host may write there from now on */
    if (bytes > 0 && s->error.code == KVQ_OK)
        kvq_cuda_check(s, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, s->cuda), "copying results");
}

void kvq_cuda_waited(kvq_stream *s, cudaError_t error, const char *what) {
    kvq_cuda_check(s, error, what);
    for (int i = 0; i < KVQ_BACKEND_FETCHES; i++) s->failed[i] |= error != cudaSuccess;
}

static kvq_status fetch(kvq_stream *s, void *to, const void *from, uint64_t bytes, kvq_error *err) {
    ask_for(s, to, from, bytes);
    kvq_cuda_waited(s, cudaStreamSynchronize(s->cuda), "a step");
    return stream_error(s, err);
}

static void start_fetch(kvq_stream *s, void *to, const void *from, uint64_t bytes, int which) {
    ask_for(s, to, from, bytes);
    kvq_cuda_check(s, cudaEventRecord(s->fetched[which], s->cuda), "copying results");
    s->failed[which] = s->error.code != KVQ_OK;
}

static kvq_status wait_fetch(kvq_stream *s, int which, kvq_error *err) {
    kvq_cuda_waited(s, cudaEventSynchronize(s->fetched[which]), "a step");
    return s->failed[which] ? stream_error(s, err) : KVQ_OK;
}

static kvq_backend make_backend() {
    kvq_backend ret = {};
    ret.interface = KVQ_BACKEND_INTERFACE;
    ret.name = "cuda";
    ret.open = open_device;
    ret.close = close_device;
    ret.describe = describe;
    ret.ops = ops_of;
    ret.free_bytes = free_bytes;
    ret.take = take;
    ret.give = give;
    ret.copy = copy;
    ret.workspace_bytes = workspace_bytes;
    ret.stream_new = stream_new;
    ret.stream_free = stream_free;
    ret.stream_threads = stream_threads;
    ret.stream_error = stream_error;
    ret.fetch = fetch;
    ret.start_fetch = start_fetch;
    ret.wait_fetch = wait_fetch;
    return ret;
}

extern "C" __attribute__((visibility("default"))) const kvq_backend *kvq_cuda_backend(void) {
    static const kvq_backend backend = make_backend();
    return &backend;
}
