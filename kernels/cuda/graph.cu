/* graph.cu: launches, at once or kept until a step ends and then replayed as a CUDA graph. Called by KVQ_LAUNCH, by
 * step.cu, which says when to keep, and by those who fetch.
 *
 * A decode step is hundreds of kernels of a few microseconds, the same ones every step, so that launching them one by
 * one can cost more than they do. Kept launches are compared with those of a graph made before: the same kernels in the
 * same order is the same graph, and whatever else differs (grids, arguments) is changed in it, launch by launch;
 * step.cu lays its lists out so that little does. So a graph can never replay something else than what was asked for,
 * whatever the operators do.
 *
 * Steps of different row counts have graphs of their own, KVQ_CUDA_GRAPHS of them, used longest ago given up first. One
 * is built when its kernels come the second time. What the driver takes for it on the device comes out of what the pool
 * left free. Where a graph cannot be built, the launches are made one by one. KVQ_CUDA_GRAPHS=0 in the environment does
 * that always, to measure what graphs bring.
 *
 * KVQ_CUDA_EARLY=1 lets a launch come early, on compute capability 9.0 and later: its blocks take their places while
 * the launch before it ends, and wait there (kvq_wait_for_launches), instead of being started when all is done. */
#include "stream.h"

#include <stdlib.h>

typedef struct kept_call {
    const void *kernel;
    const char *name;
    dim3 grid, block;
    size_t shared_bytes;
    int n_args;
    size_t at, n_bytes; /* of its arguments, in values: offsets of each [n_args], then the values */
} kept_call;

#define VALUE_ALIGN 16

static size_t aligned(size_t bytes) {
    return (bytes + VALUE_ALIGN - 1) / VALUE_ALIGN * VALUE_ALIGN;
}

#define EARLY_CAPABILITY 90 /* from which on kernels are compiled with griddepcontrol, and devices know it */

/* ---- one launch ---- */

static void tell_refusal(kvq_stream *s, cudaError_t error, const char *kernel, dim3 grid, dim3 block,
                         size_t shared_bytes) {
    if (error == cudaSuccess) return;
    (void)cudaGetLastError(); /* it is told here */
    kvq_cuda_fail(
        s, KVQ_DEVICE, "the GPU refused kernel %s (grid %u x %u x %u, %u threads, %zu bytes of shared memory): %s (%s)",
        kernel, grid.x, grid.y, grid.z, block.x, shared_bytes, cudaGetErrorName(error), cudaGetErrorString(error));
}

static void launch_now(kvq_stream *s, const kvq_cuda_call *c) {
    if (s->times) kvq_cuda_times_begin(s->times, s->cuda);
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    const cudaLaunchConfig_t config = {c->grid, c->block, c->shared_bytes,
                                       s->cuda, &early,   s->launches_early ? 1u : 0u};
    tell_refusal(s, cudaLaunchKernelExC(&config, c->kernel, c->args), c->name, c->grid, c->block, c->shared_bytes);
    if (s->times) kvq_cuda_times_end(s->times, s->cuda, c->name, c->grid);
}

/* ---- kept launches ---- */

static bool calls_init(kvq_cuda_calls *c) {
    c->list = (kept_call *)calloc(KVQ_CUDA_CALLS, sizeof *c->list);
    c->values = (uint8_t *)aligned_alloc(VALUE_ALIGN, KVQ_CUDA_VALUE_BYTES);
    return c->list && c->values;
}

static void calls_done(kvq_cuda_calls *c) {
    free(c->list);
    free(c->values);
}

/* False when there is no room. */
static bool keep(kvq_cuda_calls *to, const kvq_cuda_call *call) {
    size_t offsets_bytes = aligned((size_t)call->n_args * sizeof(size_t)), bytes = offsets_bytes;
    for (int i = 0; i < call->n_args; i++) bytes += aligned(call->arg_bytes[i]);
    if (to->n == KVQ_CUDA_CALLS || bytes > KVQ_CUDA_VALUE_BYTES - to->value_bytes) return false;
    uint8_t *values = to->values + to->value_bytes;
    memset(values, 0, bytes); /* what lies between values is compared too */
    size_t *offsets = (size_t *)values, at = offsets_bytes;
    for (int i = 0; i < call->n_args; i++) {
        offsets[i] = at;
        memcpy(values + at, call->args[i], call->arg_bytes[i]);
        at += aligned(call->arg_bytes[i]);
    }
    to->list[to->n++] = kept_call{call->kernel,       call->name,   call->grid,      call->block,
                                  call->shared_bytes, call->n_args, to->value_bytes, bytes};
    to->value_bytes += bytes;
    return true;
}

enum { MAX_ARGS = 64 };

/* Pointers to the values, as the runtime wants them. */
static void **args_of(const kvq_cuda_calls *c, const kept_call *k, void *args[MAX_ARGS]) {
    uint8_t *values = c->values + k->at;
    for (int i = 0; i < k->n_args; i++) args[i] = values + ((const size_t *)values)[i];
    return args;
}

static void launch_kept(kvq_stream *s) {
    void *args[MAX_ARGS];
    for (int i = 0; i < s->calls.n; i++) {
        const kept_call *k = &s->calls.list[i];
        const kvq_cuda_call call = {
            k->name, k->kernel, k->grid, k->block, k->shared_bytes, k->n_args, args_of(&s->calls, k, args), NULL};
        launch_now(s, &call);
    }
}

/* ---- graphs ---- */

static cudaKernelNodeParams node_of(const kvq_cuda_calls *c, const kept_call *k, void *args[MAX_ARGS]) {
    return cudaKernelNodeParams{(void *)k->kernel,   k->grid, k->block, (unsigned)k->shared_bytes,
                                args_of(c, k, args), NULL};
}

static bool same_kernels(const kvq_cuda_calls *a, const kvq_cuda_calls *b) {
    if (a->n != b->n) return false;
    for (int i = 0; i < a->n; i++)
        if (a->list[i].kernel != b->list[i].kernel || a->list[i].n_bytes != b->list[i].n_bytes) return false;
    return true;
}

static bool same_dim(dim3 a, dim3 b) {
    return a.x == b.x && a.y == b.y && a.z == b.z;
}

static bool same_call(const kvq_cuda_calls *a, const kvq_cuda_calls *b, int i) {
    const kept_call *x = &a->list[i], *y = &b->list[i];
    return same_dim(x->grid, y->grid) && same_dim(x->block, y->block) && x->shared_bytes == y->shared_bytes &&
           memcmp(a->values + x->at, b->values + y->at, x->n_bytes) == 0;
}

/* Launches that differ between what was asked for and what the graph has; all if it is of other kernels. */
static int n_differing(const kvq_cuda_calls *a, const kvq_cuda_graph *g) {
    int ret = 0;
    if (!same_kernels(a, &g->calls)) return KVQ_CUDA_CALLS;
    for (int i = 0; i < a->n; i++) ret += !same_call(a, &g->calls, i);
    return ret;
}

/* The graph that is nearest; steps of other row counts differ in almost every launch, so those make one of their own.
 */
static kvq_cuda_graph *find_graph(kvq_stream *s) {
    kvq_cuda_graph *best = NULL;
    int least = s->calls.n / 2;
    for (kvq_cuda_graph *g = s->graphs; g < s->graphs + KVQ_CUDA_GRAPHS; g++) {
        int n = g->used_at ? n_differing(&s->calls, g) : KVQ_CUDA_CALLS;
        if (n > least) continue;
        best = g;
        least = n;
    }
    return best;
}

static void drop_graph(kvq_cuda_graph *g) {
    if (g->exec) (void)cudaGraphExecDestroy(g->exec); /* nothing could be done about it */
    if (g->graph) (void)cudaGraphDestroy(g->graph);
    g->exec = NULL;
    g->graph = NULL;
    g->used_at = 0;
}

/* The kept launches become the graph's; the graph's memory is used for the next step's. */
static void take_calls(kvq_stream *s, kvq_cuda_graph *g) {
    kvq_cuda_calls calls = g->calls;
    g->calls = s->calls;
    s->calls = calls;
}

static kvq_cuda_graph *oldest_graph(kvq_stream *s) {
    kvq_cuda_graph *ret = s->graphs;
    for (kvq_cuda_graph *g = s->graphs; g < s->graphs + KVQ_CUDA_GRAPHS; g++)
        if (g->used_at < ret->used_at) ret = g;
    return ret;
}

/* Launch i behind the one before it, from which the edge comes; an early one's has a kind of its own, for which drivers
 * before CUDA 12.3 have no call. */
static cudaError_t add_node(kvq_cuda_graph *g, int i, const cudaKernelNodeParams *node, bool is_early) {
    const cudaGraphNode_t *before = i > 0 ? &g->nodes[i - 1] : NULL;
    if (!before || !is_early) return cudaGraphAddKernelNode(&g->nodes[i], g->graph, before, before != NULL, node);
    cudaError_t error = cudaGraphAddKernelNode(&g->nodes[i], g->graph, NULL, 0, node);
    cudaGraphEdgeData edge = {};
    edge.from_port = cudaGraphKernelNodePortProgrammatic;
    edge.type = cudaGraphDependencyTypeProgrammatic;
    return error == cudaSuccess ? kvq_add_edges(g->graph, before, &g->nodes[i], &edge, 1) : error;
}

static cudaError_t build(kvq_cuda_graph *g, bool launches_early) {
    void *args[MAX_ARGS];
    cudaError_t error = cudaGraphCreate(&g->graph, 0);
    for (int i = 0; i < g->calls.n && error == cudaSuccess; i++) {
        const cudaKernelNodeParams node = node_of(&g->calls, &g->calls.list[i], args);
        error = add_node(g, i, &node, launches_early);
    }
    return error == cudaSuccess ? cudaGraphInstantiate(&g->exec, g->graph, 0) : error;
}

/* The kept launches' values into the graph. Both lists are of the same kernels, and their values lie alike. */
static cudaError_t update(kvq_stream *s, kvq_cuda_graph *g) {
    void *args[MAX_ARGS];
    cudaError_t error = cudaSuccess;
    for (int i = 0; i < s->calls.n && error == cudaSuccess; i++) {
        if (same_call(&s->calls, &g->calls, i)) continue;
        const cudaKernelNodeParams node = node_of(&s->calls, &s->calls.list[i], args);
        error = cudaGraphExecKernelNodeSetParams(g->exec, g->nodes[i], &node);
    }
    return error;
}

/* A graph that the driver will not make or change: launched one by one from now on, whatever the reason; if the device
 * is to blame, the launches will tell. */
static void give_up_graphs(kvq_stream *s) {
    (void)cudaGetLastError();
    for (int i = 0; i < KVQ_CUDA_GRAPHS; i++) drop_graph(&s->graphs[i]);
    s->uses_graphs = false;
}

static void launch_as_graph(kvq_stream *s) {
    kvq_cuda_graph *g = find_graph(s);
    if (!g) { /* the first time */
        launch_kept(s);
        g = oldest_graph(s);
        drop_graph(g);
        g->used_at = s->n_steps;
        take_calls(s, g);
        return;
    }
    cudaError_t error = g->exec ? update(s, g) : cudaSuccess;
    if (error == cudaSuccess) take_calls(s, g);
    if (error == cudaSuccess && !g->exec) error = build(g, s->launches_early);
    if (error == cudaSuccess) {
        g->used_at = s->n_steps;
        s->n_replays++;
        kvq_cuda_check(s, cudaGraphLaunch(g->exec, s->cuda), "launching a step's graph");
        return;
    }
    if (!g->exec) take_calls(s, g); /* they were not launched yet */
    give_up_graphs(s);
    launch_kept(s);
}

/* ---- what the others call ---- */

void kvq_cuda_call_kernel(kvq_stream *s, const kvq_cuda_call *call) {
    kvq_cuda_settle(s);
    s->n_launches++;
    if (s->keeps_calls && call->n_args <= MAX_ARGS && keep(&s->calls, call)) return;
    kvq_cuda_flush(s); /* no room: what was kept goes first */
    launch_now(s, call);
}

void kvq_cuda_keep_calls(kvq_stream *s) {
    s->keeps_calls = s->uses_graphs && s->error.code == KVQ_OK;
    s->n_steps++;
}

void kvq_cuda_flush(kvq_stream *s) {
    kvq_cuda_settle(s);
    if (!s->keeps_calls) return;
    s->keeps_calls = false;
    if (s->error.code == KVQ_OK && s->calls.n > 0) launch_as_graph(s);
    s->calls.n = 0;
    s->calls.value_bytes = 0;
}

bool kvq_cuda_graphs_init(kvq_stream *s) {
    const char *wish = secure_getenv("KVQ_CUDA_GRAPHS");
    const char *early = secure_getenv("KVQ_CUDA_EARLY");
    s->uses_graphs = !s->times && (!wish || strcmp(wish, "0") != 0);
    s->launches_early = !s->times && s->built_for >= EARLY_CAPABILITY && early && strcmp(early, "1") == 0;
    bool ok = calls_init(&s->calls);
    for (int i = 0; i < KVQ_CUDA_GRAPHS && ok; i++) {
        kvq_cuda_graph *g = &s->graphs[i];
        g->nodes = (cudaGraphNode_t *)calloc(KVQ_CUDA_CALLS, sizeof *g->nodes);
        ok = g->nodes && calls_init(&g->calls);
    }
    return ok;
}

void kvq_cuda_graphs_done(kvq_stream *s) {
    for (int i = 0; i < KVQ_CUDA_GRAPHS; i++) {
        drop_graph(&s->graphs[i]);
        calls_done(&s->graphs[i].calls);
        free(s->graphs[i].nodes);
    }
    calls_done(&s->calls);
}
