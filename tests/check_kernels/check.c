/* check.c: cases, guarded buffers, comparison, crashes, benches; see check.h. */
#define _GNU_SOURCE
#include "check.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define GUARD_BYTES 256 /* before a buffer; behind it the rest of its cache line, then a page that no one may touch */
#define GUARD_BYTE 0xA5
#define PAGE_BYTES ((size_t)65536) /* a multiple of every page size in use */

/* ---- random numbers: splitmix64 (Steele, Lea, Flood 2014), seeded by --seed and the case's name ---- */

static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

uint32_t check_random(check *c) {
    return (uint32_t)(next_random(&c->rng) >> 32);
}

int check_random_int(check *c, int low, int high) {
    return low + (int)(check_random(c) % (uint32_t)(high - low + 1));
}

double check_random_normal(check *c) {
    double sum = 0; /* of 12 uniform ones: deviation 1 */
    for (int i = 0; i < 12; i++) sum += check_random(c) / 4294967296.0;
    return sum - 6;
}

static float outlier(check *c) {
    switch (check_random(c) % 64) {
    case 0:
        return (float)(check_random_normal(c) * 20);
    case 1:
        return (float)(check_random_normal(c) * 1000);
    case 2:
        return -0.0f;
    case 3:
        return 1e-41f;
    default:
        return (float)check_random_normal(c);
    }
}

void check_fill_floats(check *c, float *out, size_t n, check_fill fill) {
    size_t zeros = 0; /* left of a run of zeros, long enough to clear a whole group of activations */
    for (size_t i = 0; i < n; i++) {
        if (fill == CHECK_OUTLIERS && zeros == 0 && check_random(c) % 512 == 0) zeros = 80;
        if (zeros > 0) {
            zeros--;
            out[i] = 0;
            continue;
        }
        switch (fill) {
        case CHECK_JUNK:
            out[i] = -7.25e11f - (float)(i % 13);
            break;
        case CHECK_NORMAL:
            out[i] = (float)check_random_normal(c);
            break;
        case CHECK_OUTLIERS:
            out[i] = outlier(c);
            break;
        case CHECK_ZEROS:
            out[i] = 0;
            break;
        case CHECK_HUGE:
            out[i] = (float)(check_random_normal(c) * 1e17);
            break;
        case CHECK_TINY:
            out[i] = (float)(check_random_normal(c) * 1e-38);
            break;
        }
    }
}

/* ---- cases ---- */

/* `*` in the pattern stands for anything; the pattern may match anywhere. */
static bool matches(const char *pattern, const char *text) {
    if (*pattern == 0) return true;
    if (*pattern == '*') return matches(pattern + 1, text) || (*text && matches(pattern, text + 1));
    return *text == *pattern && matches(pattern + 1, text + 1);
}

static bool matches_anywhere(const char *pattern, const char *text) {
    for (; *text; text++)
        if (matches(pattern, text)) return true;
    return false;
}

bool check_begin(check *c, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(c->name, sizeof c->name, format, args);
    va_end(args);
    if (c->pattern && !matches_anywhere(c->pattern, c->name)) return false;
    if (c->list) {
        printf("%s\n", c->name);
        c->n_cases++;
        return false;
    }
    c->rng = c->seed;
    for (const char *p = c->name; *p; p++) c->rng = (c->rng ^ (uint8_t)*p) * 0x100000001B3u;
    if (c->sample > 1 && check_random_int(c, 1, c->sample) > 1) return false;
    c->failure = CHECK_PASSED;
    c->n_cases++;
    return true;
}

void check_end(check *c) {
    for (int i = 0; i < c->n_buffers; i++) {
        if (c->device_memory)
            check_give(c, c->buffers[i].map, c->buffers[i].map_bytes);
        else
            munmap(c->buffers[i].map, c->buffers[i].map_bytes);
        free(c->buffers[i].before);
    }
    c->n_buffers = 0;
    if (c->failure != CHECK_PASSED) c->n_failed++;
}

void check_fail(check *c, check_failure failure, const char *format, ...) {
    if (c->failure == CHECK_PASSED) c->failure = failure;
    if (c->quiet) return;
    va_list args;
    va_start(args, format);
    printf("FAILED %s --seed=%llu: ", c->name, (unsigned long long)c->seed);
    vprintf(format, args);
    printf("\n");
    fflush(stdout);
    va_end(args);
}

/* ---- guarded buffers ---- */

static void out_of_memory(void) {
    fprintf(stderr, "check_kernels: out of memory\n");
    exit(2);
}

void *check_take(const check *c, size_t bytes) {
    uint8_t *ret = NULL;
    size_t rounded = (bytes + 127) / 64 * 64; /* never nothing */
    if (c->device_memory) {
        const check_level *level = &c->levels[1];
        kvq_error error;
        if (level->backend->take(level->device, KVQ_MEMORY_SHARED, rounded, true, "a check", &ret, &error))
            out_of_memory();
        return ret;
    }
    ret = aligned_alloc(64, rounded);
    if (!ret) out_of_memory();
    return memset(ret, 0, rounded);
}

void check_give(const check *c, void *memory, size_t bytes) {
    if (c->device_memory)
        c->levels[1].backend->give(c->levels[1].device, KVQ_MEMORY_SHARED, memory, (bytes + 127) / 64 * 64);
    else
        free(memory);
}

/* A buffer without the page behind it that no one may touch: devices have none to give. */
static void *alloc_on_device(check *c, size_t bytes, size_t rounded) {
    if (c->n_buffers == CHECK_MAX_BUFFERS) out_of_memory();
    size_t map_bytes = GUARD_BYTES + rounded + GUARD_BYTES;
    uint8_t *map = check_take(c, map_bytes), *data = map + GUARD_BYTES;
    memset(map, GUARD_BYTE, map_bytes);
    memset(data, 0, bytes);
    c->buffers[c->n_buffers++] = (check_buffer){.map = map, .map_bytes = map_bytes, .data = data, .bytes = bytes};
    return data;
}

void *check_alloc(check *c, size_t bytes) {
    if (c->device_memory) return alloc_on_device(c, bytes, (bytes + 63) / 64 * 64);
    size_t rounded = (bytes + 63) / 64 * 64;
    size_t map_bytes = (GUARD_BYTES + rounded + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES + PAGE_BYTES;
    uint8_t *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || c->n_buffers == CHECK_MAX_BUFFERS) out_of_memory();
    uint8_t *wall = map + map_bytes - PAGE_BYTES;
    if (mprotect(wall, PAGE_BYTES, PROT_NONE) != 0) out_of_memory();
    uint8_t *data = wall - rounded;
    memset(data - GUARD_BYTES, GUARD_BYTE, GUARD_BYTES + rounded);
    memset(data, 0, bytes);
    c->buffers[c->n_buffers++] = (check_buffer){.map = map, .map_bytes = map_bytes, .data = data, .bytes = bytes};
    return data;
}

float *check_floats(check *c, size_t n, check_fill fill) {
    float *ret = check_alloc(c, n * sizeof *ret);
    check_fill_floats(c, ret, n, fill);
    return ret;
}

static bool guards_stand(const check_buffer *b) {
    const uint8_t *end = b->data + (b->bytes + 63) / 64 * 64;
    for (const uint8_t *p = b->data - GUARD_BYTES; p < b->data; p++)
        if (*p != GUARD_BYTE) return false;
    for (const uint8_t *p = b->data + b->bytes; p < end; p++)
        if (*p != GUARD_BYTE) return false;
    return true;
}

static void mend_guards(const check_buffer *b) {
    memset(b->data - GUARD_BYTES, GUARD_BYTE, GUARD_BYTES);
    memset(b->data + b->bytes, GUARD_BYTE, (b->bytes + 63) / 64 * 64 - b->bytes);
}

static bool is_output(const check_op *op, const check_buffer *b) {
    for (int i = 0; i < op->n_outs; i++)
        if (op->outs[i] == b->data) return true;
    return false;
}

static size_t bytes_of(const check *c, const void *data) {
    for (int i = 0; i < c->n_buffers; i++)
        if (c->buffers[i].data == data) return c->buffers[i].bytes;
    return 0;
}

static uint8_t *copy_of(const void *data, size_t bytes) {
    uint8_t *ret = malloc(bytes > 0 ? bytes : 1);
    if (!ret) out_of_memory();
    memcpy(ret, data, bytes);
    return ret;
}

static void remember_buffers(check *c) {
    for (int i = 0; i < c->n_buffers; i++) {
        check_buffer *b = &c->buffers[i];
        free(b->before);
        b->before = copy_of(b->data, b->bytes);
    }
}

static void restore_buffers(check *c) {
    for (int i = 0; i < c->n_buffers; i++) memcpy(c->buffers[i].data, c->buffers[i].before, c->buffers[i].bytes);
}

/* ---- crashes ---- */

/* The one thing here that must be global: a signal handler has no argument. A crash in a worker thread cannot be jumped
 * out of; it names the case and ends the program. */
static sigjmp_buf crash_return;
static pthread_t crash_thread;
static volatile sig_atomic_t crash_armed;
static const char *crash_case;

static void on_crash(int number) {
    if (crash_armed && pthread_equal(pthread_self(), crash_thread)) {
        crash_armed = 0;
        siglongjmp(crash_return, number);
    }
    static const char text[] = "FAILED, crashed outside the calling thread: ";
    (void)!write(STDOUT_FILENO, text, sizeof text - 1); /* nothing left to do if it fails */
    if (crash_case) (void)!write(STDOUT_FILENO, crash_case, strlen(crash_case));
    (void)!write(STDOUT_FILENO, "\n", 1);
    _exit(1);
}

static void catch_crashes(void) {
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    struct sigaction action = {.sa_handler = on_crash, .sa_flags = SA_NODEFER};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaction(numbers[i], &action, NULL);
}

/* The signal that the call died of; 0 when it returned. */
static int call_guarded(check *c, const check_op *op, const check_level *level, kvq_stream *s) {
    catch_crashes();
    crash_case = c->name;
    crash_thread = pthread_self();
    int number = sigsetjmp(crash_return, 1);
    if (number == 0) {
        crash_armed = 1;
        op->call(&level->ops, s, op->job);
        (void)level->backend->fetch(s, NULL, NULL, 0, NULL); /* waits; the error is looked at below */
    }
    crash_armed = 0;
    return number;
}

/* ---- comparison ---- */

static bool same_bits(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static bool float_is_right(float want, float got, double bound) {
    if (!isfinite(want)) return isnan(want) ? isnan(got) : want == got;
    return fabs((double)got - (double)want) <= bound; /* false for a NaN */
}

bool check_same_floats(const float *want, const float *got, size_t n, const double *bound, check_difference *ret) {
    for (size_t i = 0; i < n; i++) {
        if (bound ? float_is_right(want[i], got[i], bound[i]) : same_bits(want[i], got[i])) continue;
        *ret = (check_difference){.index = i, .want = want[i], .got = got[i], .bound = bound ? bound[i] : 0};
        return false;
    }
    return true;
}

static bool same_bytes(const uint8_t *want, const uint8_t *got, size_t n, check_difference *ret) {
    for (size_t i = 0; i < n; i++)
        if (want[i] != got[i]) {
            *ret = (check_difference){.index = i, .want = want[i], .got = got[i]};
            return false;
        }
    return true;
}

static void compare_with_ref(check *c, const check_op *op, const char *level, uint8_t *const *want) {
    for (int o = 0; o < op->n_outs; o++) {
        check_difference diff = {0};
        bool right = op->compare ? op->compare(op->context, o, want[o], op->outs[o], &diff)
                                 : check_same_floats((const float *)want[o], op->outs[o],
                                                     bytes_of(c, op->outs[o]) / sizeof(float), op->bound, &diff);
        if (!right)
            check_fail(c, CHECK_WRONG_VALUE, "%s, output %d [%zu]: want %.9g, got %.9g, bound %.3g", level, o,
                       diff.index, diff.want, diff.got, diff.bound);
    }
}

/* Bit for bit, but one NaN is as good as another in float outputs. */
static void compare_bits(check *c, const check_op *op, const char *level, uint8_t *const *first,
                         const char *first_level) {
    for (int o = 0; o < op->n_outs; o++) {
        size_t bytes = bytes_of(c, op->outs[o]);
        check_difference diff = {0};
        bool same = op->compare ? same_bytes(first[o], op->outs[o], bytes, &diff)
                                : check_same_floats((const float *)first[o], op->outs[o], bytes / 4, NULL, &diff);
        if (!same)
            check_fail(c, CHECK_NOT_IDENTICAL, "%s and %s differ, output %d [%zu]: %.9g and %.9g", first_level, level,
                       o, diff.index, diff.want, diff.got);
    }
}

static void look_at_buffers(check *c, const check_op *op, const char *level) {
    for (int i = 0; i < c->n_buffers; i++) {
        const check_buffer *b = &c->buffers[i];
        if (!guards_stand(b)) {
            check_fail(c, CHECK_GUARD, "%s wrote around buffer %d of %zu bytes", level, i, b->bytes);
            mend_guards(b);
        }
        if (!is_output(op, b) && memcmp(b->data, b->before, b->bytes) != 0)
            check_fail(c, CHECK_INPUT, "%s changed buffer %d, an input", level, i);
    }
}

/* Runs one level on one stream from the remembered contents; false when there is nothing to compare. */
static bool run_level(check *c, const check_op *op, const check_level *level, kvq_stream *s) {
    restore_buffers(c);
    int number = call_guarded(c, op, level, s);
    if (number != 0) {
        check_fail(c, CHECK_CRASH, "%s crashed: %s", level->name, strsignal(number));
        return false;
    }
    kvq_error error;
    if (level->backend->stream_error(s, &error) != KVQ_OK) {
        check_fail(c, CHECK_STREAM, "%s: %s", level->name, error.text);
        return false;
    }
    look_at_buffers(c, op, level->name);
    return true;
}

static void copy_outputs(check *c, const check_op *op, uint8_t **ret) {
    for (int o = 0; o < op->n_outs; o++) ret[o] = copy_of(op->outs[o], bytes_of(c, op->outs[o]));
}

static void free_outputs(uint8_t **outputs) {
    for (int o = 0; o < CHECK_MAX_OUTS; o++) free(outputs[o]);
}

void check_run(check *c, const check_op *op) {
    uint8_t *want[CHECK_MAX_OUTS] = {0}, *first[CHECK_MAX_OUTS] = {0};
    const char *first_level = NULL;
    remember_buffers(c);
    if (!run_level(c, op, &c->levels[0], c->levels[0].one)) return;
    copy_outputs(c, op, want);
    for (int l = 1; l < c->n_levels && c->failure == CHECK_PASSED; l++) {
        const char *name = c->levels[l].name;
        if (!run_level(c, op, &c->levels[l], c->levels[l].one)) break;
        c->n_runs++;
        compare_with_ref(c, op, name, want);
        if (first_level)
            compare_bits(c, op, name, first, first_level);
        else
            copy_outputs(c, op, first);
        first_level = first_level ? first_level : name;
        if (c->failure != CHECK_PASSED || !run_level(c, op, &c->levels[l], c->levels[l].many)) break;
        compare_bits(c, op, "the same by several threads", first, first_level);
    }
    restore_buffers(c);
    free_outputs(want);
    free_outputs(first);
}

/* ---- benches ---- */

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

double check_time(void (*fn)(void *arg), void *arg) {
    double best = INFINITY, begin = now_ns();
    fn(arg);
    for (int i = 0; i < 50 && (i < 3 || now_ns() - begin < 300e6); i++) {
        double from = now_ns();
        fn(arg);
        double ns = now_ns() - from;
        if (ns < best) best = ns;
    }
    return best;
}

#define READ_BYTES ((size_t)256 << 20) /* beyond any last-level cache share of ours */

typedef struct reader {
    const uint64_t *from;
    size_t n;
    uint64_t sum;
} reader;

static void *read_all(void *arg) {
    reader *r = arg;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i + 8 <= r->n; i += 8)
        for (int j = 0; j < 8; j++) sum[j] += r->from[i + j];
    for (int j = 0; j < 8; j++) r->sum += sum[j];
    return NULL;
}

typedef struct read_job {
    uint64_t *memory;
    int threads;
} read_job;

static void read_by_threads(void *arg) {
    const read_job *job = arg;
    pthread_t threads[16];
    reader readers[16];
    size_t n = READ_BYTES / sizeof(uint64_t) / (size_t)job->threads;
    for (int t = 0; t < job->threads; t++) {
        readers[t] = (reader){.from = job->memory + (size_t)t * n, .n = n};
        if (pthread_create(&threads[t], NULL, read_all, &readers[t]) != 0) out_of_memory();
    }
    volatile uint64_t sink = 0; /* or the reading would be optimized away */
    for (int t = 0; t < job->threads; t++) {
        pthread_join(threads[t], NULL);
        sink = sink + readers[t].sum;
    }
}

double check_read_bandwidth(int threads) {
    static double known[17];
    if (threads > 16) threads = 16;
    if (known[threads] > 0) return known[threads];
    read_job job = {.memory = aligned_alloc(64, READ_BYTES), .threads = threads};
    if (!job.memory) out_of_memory();
    memset(job.memory, 1, READ_BYTES);
    known[threads] = (double)READ_BYTES / check_time(read_by_threads, &job);
    free(job.memory);
    return known[threads];
}

void check_bench_row(const char *name, const char *level, int threads, double ns, double bytes, double products) {
    printf("%-44s %-8s %d threads %10.1f us", name, level, threads, ns / 1e3);
    if (bytes > 0) {
        double rate = bytes / ns, limit = check_read_bandwidth(threads);
        printf("  %6.2f GB/s, %3.0f %% of %.1f", rate, 100 * rate / limit, limit);
    }
    if (products > 0) printf("  %7.1f G products/s", products / ns);
    printf("\n");
    fflush(stdout);
}
