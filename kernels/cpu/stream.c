/* stream.c: the CPU's stream. Made by the engine at open, one per engine; see stream.h. */
#define _GNU_SOURCE
#include "stream.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CACHE_LEAST (512L << 10)
#define CACHE_MOST (2048L << 10)

static int threads_of(const kvq_shapes *shapes) {
    return shapes->threads > 0 ? shapes->threads : kvq_physical_cores();
}

size_t kvq_cpu_workspace_bytes(const kvq_shapes *shapes) {
    int threads = threads_of(shapes);
    size_t linear = kvq_linear_workspace_bytes(shapes, threads);
    size_t attend = kvq_attend_workspace_bytes(shapes, threads);
    size_t sample = kvq_sample_workspace_bytes(shapes, threads), most = linear > attend ? linear : attend;
    return kvq_aligned(most > sample ? most : sample);
}

/* Bytes of a core's second-level cache as the system says, which may be nothing: -1 or 0. Some cores share one, and
 * virtual machines may say anything, so it is kept between what is usual at least and at most. */
static size_t second_level_cache(void) {
    long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return (size_t)(bytes < CACHE_LEAST ? CACHE_LEAST : bytes > CACHE_MOST ? CACHE_MOST : bytes);
}

kvq_status kvq_cpu_stream_new(const kvq_shapes *shapes, kvq_stream **ret, kvq_error *err) {
    if (shapes->max_rows < 1 || shapes->max_in < 1 || shapes->max_out < 1)
        return kvq_fail(err, KVQ_BAD_ARGUMENT,
                        "a CPU stream for %d rows of %d inputs and %d outputs: all must be at least 1",
                        shapes->max_rows, shapes->max_in, shapes->max_out);
    kvq_stream *s = calloc(1, sizeof *s);
    if (!s) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for a CPU stream");
    kvq_status status = kvq_workers_new(shapes->threads, &s->workers, err);
    if (status != KVQ_OK) goto fail;
    s->shapes = *shapes;
    s->shapes.threads = kvq_workers_count(s->workers);
    s->cache_bytes = second_level_cache();
    s->workspace_bytes = kvq_cpu_workspace_bytes(&s->shapes);
    s->workspace = aligned_alloc(KVQ_ALIGN, s->workspace_bytes);
    if (!s->workspace) {
        status = kvq_fail(err, KVQ_NO_MEMORY, "no memory for %zu bytes of CPU workspace (%d rows in a step)",
                          s->workspace_bytes, shapes->max_rows);
        goto fail;
    }
    memset(s->workspace, 0, s->workspace_bytes); /* touched now: memory that is missing is missed at open */
    *ret = s;
    return KVQ_OK;
fail:
    kvq_cpu_stream_free(s);
    return status;
}

void kvq_cpu_stream_free(kvq_stream *s) {
    if (!s) return;
    kvq_workers_free(s->workers);
    free(s->workspace);
    free(s);
}

int kvq_cpu_stream_threads(const kvq_stream *s) {
    return kvq_workers_count(s->workers);
}

kvq_status kvq_cpu_stream_error(const kvq_stream *s, kvq_error *err) {
    if (err) *err = s->error;
    return s->error.code;
}

void kvq_stream_fail(kvq_stream *s, kvq_status code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    kvq_fail_first(&s->error, code, format, args);
    va_end(args);
}

void *kvq_stream_take(kvq_stream *s, size_t *used, size_t bytes) {
    size_t aligned = kvq_aligned(bytes);
    if (aligned < bytes || aligned > s->workspace_bytes - *used) {
        kvq_stream_fail(s, KVQ_INTERNAL, "an operator wants %zu bytes of workspace, %zu of %zu are left", aligned,
                        s->workspace_bytes - *used, s->workspace_bytes);
        return NULL;
    }
    void *ret = s->workspace + *used;
    *used += aligned;
    return ret;
}
