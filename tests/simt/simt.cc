/* simt.cc: the machine behind simt.h: fibers, barriers, the race detector, memory and streams. Linked into
 * libkvq-cuda-shim.so and the shim's own test. One thread of the host uses it at a time.
 *
 * Faults on purpose, from the environment, for the tests of what the engine says then:
 *   KVQ_SIMT_FAULT = no_driver | old_driver | no_device | old_device | no_image | launch | no_graphs | integrated
 *                    (no fault: a GPU whose memory is the system's)
 *                  | @FILE: what is in that file, nothing if it is not there
 *   KVQ_SIMT_MEMORY = bytes of device memory (4 GiB) */
#include "simt.h"

#include "simt_stream.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>

#if !defined(__x86_64__)
#error "the shim switches fibers by hand, on x86-64 only"
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define FIBER_BYTES ((size_t)256 << 10)
#else
#define FIBER_BYTES ((size_t)64 << 10)
#endif

/* Between the stacks' begins, beside their size: were they a multiple of 4096 bytes apart, all lanes of a warp would
 * share the same few lines of the caches. */
#define STACK_STAGGER ((size_t)448)

#define WORD ((size_t)4)
#define PAGE_BYTES ((size_t)4096)
#define DEVICE_ALIGN ((size_t)256)        /* as cudaMalloc */
#define PROTECTED_BYTES ((size_t)8 << 20) /* larger allocations stay open: protecting every page costs too much */

static simt_place no_place; /* outside of launches */
simt_place *simt_current = &no_place;

/* ---- fibers -------------------------------------------------------------------------------------------------------
 */

/* Pushes what a call must keep, leaves the stack pointer in *save and goes on at `to`; by a jump, because a return that
 * does not go back to its call is foretold wrong every time. */
extern "C" void simt_switch(void **save, void *to);
asm(".text\n"
    ".globl simt_switch\n"
    ".hidden simt_switch\n"
    ".type simt_switch, @function\n"
    "simt_switch:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    popq %rcx\n    jmp *%rcx\n"
    ".size simt_switch, . - simt_switch\n");

typedef enum fiber_state { FIBER_RUNS, FIBER_AT_BARRIER, FIBER_DONE } fiber_state;

/* An asynchronous copy that was not waited for yet. */
typedef struct flight {
    size_t to;
    const void *from;
    int bytes;
    unsigned group;
} flight;
#define MAX_FLIGHTS 64 /* of a thread */

typedef struct fiber {
    void *stack_pointer;
    void *fake_stack; /* the address sanitizer's */
    fiber_state state;
    int line; /* of the barrier */
    simt_place place;
    bool has_waited;              /* for the launches before */
    unsigned n_flights, n_groups; /* copies under way, in order; groups committed */
    flight flights[MAX_FLIGHTS];
} fiber;

typedef struct warp {
    uint32_t ready; /* lanes that can go on */
    unsigned n_arrived;
    uint32_t generation; /* of exchanges */
    const char *what;    /* the exchange that lanes wait in */
    uint8_t slots[2][SIMT_WARP][SIMT_SLOT_BYTES];
} warp;

/* Who touched a piece of shared memory last: a word as long as a block uses it as a whole, from then on each of its
 * bytes. A phase below the block's first is an earlier block's: nobody. */
typedef struct shadow {
    uint32_t write_phase, write_warp_phase, read_phase, read_warp_phase;
    uint32_t flight_phase; /* the writer's copy is under way since then; 0: arrived */
    uint16_t writer, reader;
    uint8_t n_readers; /* since the last barrier: 1, 2: more in one warp at once, 3: in several warps */
} shadow;

/* The machine. */
static struct {
    uint8_t *stacks;
    fiber fibers[SIMT_MAX_THREADS];
    warp warps[SIMT_MAX_THREADS / SIMT_WARP];
    unsigned n_threads, current;
    bool from_scheduler; /* the last switch */
    void *scheduler_pointer, *scheduler_fake_stack;
    const void *scheduler_stack; /* of the thread that called, for the sanitizer */
    size_t scheduler_stack_bytes;
    const simt_launch *launch;
    uint64_t n_launches;
    bool stacks_are_dirty;

    alignas(256) uint8_t shared[SIMT_SHARED_BYTES];
    shadow shadows[SIMT_SHARED_BYTES]; /* of bytes; a word's is its first byte's */
    uint32_t
        split_phase[SIMT_SHARED_BYTES / WORD]; /* the block's first phase: the word's bytes have shadows of their own */
    size_t shared_used;
    uint32_t next_phase, first_phase;
    uint32_t ticket_phase; /* the block's when it took a ticket; 0: it has none */

    bool failed;
    char error[512]; /* of the launch that failed */
    cudaError_t last;
} simt;

/* From where we are (*pointer, *fake_stack keep it; fake_stack NULL: it will never go on) into a fiber. */
static void enter_fiber(unsigned index, void **pointer, void **fake_stack) {
    fiber *f = &simt.fibers[index];
    simt.current = index;
    simt_current = &f->place;
    (void)fake_stack; /* only the sanitizer wants it */
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake_stack, simt.stacks + index * FIBER_BYTES, FIBER_BYTES);
#endif
    simt_switch(pointer, f->stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack ? *fake_stack : NULL, NULL, NULL);
#endif
}

/* The running fiber waits: another lane of its warp goes on, or else the scheduler. Returns when it may go on itself.
 */
static void leave_fiber(bool for_ever) {
    fiber *f = &simt.fibers[simt.current];
    warp *w = &simt.warps[simt.current / SIMT_WARP];
    void **fake_stack = for_ever ? NULL : &f->fake_stack;
    if (w->ready != 0 && !simt.failed) {
        simt.from_scheduler = false;
        enter_fiber(simt.current / SIMT_WARP * SIMT_WARP + (unsigned)__builtin_ctz(w->ready), &f->stack_pointer,
                    fake_stack);
        return;
    }
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake_stack, simt.scheduler_stack, simt.scheduler_stack_bytes);
#endif
    simt_switch(&f->stack_pointer, simt.scheduler_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(f->fake_stack, NULL, NULL);
#endif
}

__attribute__((no_sanitize("address"))) static void fiber_main(void) {
#if defined(__SANITIZE_ADDRESS__)
    const void *stack;
    size_t stack_bytes;
    __sanitizer_finish_switch_fiber(NULL, &stack, &stack_bytes);
    if (simt.from_scheduler) {
        simt.scheduler_stack = stack;
        simt.scheduler_stack_bytes = stack_bytes;
    }
#endif
    simt.launch->run(simt.launch->body);
    if (simt.fibers[simt.current].n_flights > 0)
        simt_fail("thread %u ends without waiting for its asynchronous copies", simt_now.index);
    if (simt.launch->is_early && !simt.fibers[simt.current].has_waited)
        simt_fail("thread %u of an early launch ends and has not waited for the launches before it", simt_now.index);
    simt.fibers[simt.current].state = FIBER_DONE;
    simt.warps[simt.current / SIMT_WARP].ready &= ~(1u << simt.current % SIMT_WARP);
    leave_fiber(true);
    abort(); /* nobody enters it again */
}

static void make_fiber(unsigned index, dim3 block) {
    fiber *f = &simt.fibers[index];
    const simt_launch *l = simt.launch;
    void **top = (void **)(simt.stacks + (index + 1) * FIBER_BYTES - index % 64 * STACK_STAGGER);
    *--top = NULL; /* where a caller's address would be: so that the stack is aligned as after a call */
    *--top = (void *)fiber_main;
    for (int i = 0; i < 6; i++) *--top = NULL;
    f->stack_pointer = top;
    f->state = FIBER_RUNS;
    f->has_waited = false;
    f->place = simt_place{};
    f->place.thread = dim3(index % l->block.x, index / l->block.x % l->block.y, index / (l->block.x * l->block.y));
    f->place.block = block;
    f->place.block_dim = l->block;
    f->place.grid_dim = l->grid;
    f->place.index = index;
    f->place.lane = index % SIMT_WARP;
    f->place.warp = index / SIMT_WARP;
    f->place.block_phase = f->place.warp_phase = simt.first_phase;
    f->n_flights = f->n_groups = 0;
}

static void set_error(const char *format, va_list args) {
    if (simt.failed) return;
    simt.failed = true;
    int n = snprintf(simt.error, sizeof simt.error, "kernel %s, block (%u, %u, %u): ", simt.launch->kernel,
                     simt_now.block.x, simt_now.block.y, simt_now.block.z);
    vsnprintf(simt.error + n, sizeof simt.error - (size_t)n, format, args);
}

void simt_fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    set_error(format, args);
    va_end(args);
    leave_fiber(false);
    abort();
}

static void fail_block(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void fail_block(const char *format, ...) {
    va_list args;
    va_start(args, format);
    set_error(format, args);
    va_end(args);
}

/* ---- barriers and warps -------------------------------------------------------------------------------------------
 */

void simt_barrier(int line) {
    fiber *f = &simt.fibers[simt.current];
    f->state = FIBER_AT_BARRIER;
    f->line = line;
    simt.warps[simt_now.warp].ready &= ~(1u << simt_now.lane);
    leave_fiber(false);
}

const uint8_t (*simt_exchange(const char *what, unsigned mask, const void *value, size_t bytes,
                              bool ordered))[SIMT_SLOT_BYTES] {
    warp *w = &simt.warps[simt_now.warp];
    if (mask != 0xffffffffu)
        simt_fail("%s with mask %08x in thread %u: only whole warps are used", what, mask, simt_now.index);
    if (w->n_arrived > 0 && w->what != what && strcmp(w->what, what) != 0)
        simt_fail("thread %u is at %s while its warp is at %s", simt_now.index, what, w->what);
    w->what = what;
    uint8_t(*slots)[SIMT_SLOT_BYTES] = w->slots[w->generation % 2];
    if (bytes > 0) memcpy(slots[simt_now.lane], value, bytes);
    if (++w->n_arrived < SIMT_WARP) {
        w->ready &= ~(1u << simt_now.lane);
        leave_fiber(false);
    } else {
        w->n_arrived = 0;
        w->generation++;
        w->ready = 0xffffffffu; /* all of them wait here, but the last */
    }
    if (ordered) simt_now.warp_phase++;
    return slots;
}

/* ---- blocks of a launch -------------------------------------------------------------------------------------------
 */

unsigned simt_take_ticket(unsigned *counter, unsigned last) {
    if (simt.ticket_phase != 0) simt_fail("thread %u takes a second ticket for its block", simt_now.index);
    if (simt_now.block_phase == simt.first_phase)
        simt_fail("thread %u takes a ticket, and no barrier orders what the others wrote before it", simt_now.index);
    simt.ticket_phase = simt_now.block_phase;
    unsigned ret = *counter;
    *counter = ret >= last ? 0 : ret + 1;
    return ret;
}

void simt_check_ticket(void) {
    if (simt.ticket_phase == simt_now.block_phase)
        simt_fail("thread %u loads what other blocks left and has passed no barrier since the ticket", simt_now.index);
}

/* ---- shared memory ------------------------------------------------------------------------------------------------
 */

/* Whether what `other` did in these phases is unordered with what the running thread does now. */
SIMT_NOT_SANITIZED static bool is_unordered(unsigned other, uint32_t block_phase, uint32_t warp_phase) {
    if (other == simt_now.index || block_phase != simt_now.block_phase) return false;
    return other / SIMT_WARP != simt_now.warp || warp_phase == simt_now.warp_phase;
}

SIMT_NOT_SANITIZED static void check_arrived(const shadow *s, size_t at) {
    if (s->flight_phase >= simt.first_phase)
        simt_fail("thread %u uses byte %zu of shared memory, where an asynchronous copy of thread %u is under way",
                  simt_now.index, at, s->writer);
}

SIMT_NOT_SANITIZED static void check_write(const shadow *s, size_t at) {
    check_arrived(s, at);
    if (s->write_phase >= simt.first_phase && is_unordered(s->writer, s->write_phase, s->write_warp_phase))
        simt_fail("shared-memory race at byte %zu: thread %u writes what thread %u wrote since the last barrier", at,
                  simt_now.index, s->writer);
    bool read_here = s->read_phase >= simt.first_phase && s->read_phase == simt_now.block_phase;
    if (read_here && (s->n_readers == 3 || is_unordered(s->reader, s->read_phase, s->read_warp_phase) ||
                      (s->n_readers == 2 && s->read_warp_phase == simt_now.warp_phase)))
        simt_fail("shared-memory race at byte %zu: thread %u writes what thread %u read since the last barrier", at,
                  simt_now.index, s->reader);
}

SIMT_NOT_SANITIZED static void check_read(const shadow *s, size_t at) {
    check_arrived(s, at);
    if (s->write_phase < simt.first_phase)
        simt_fail("thread %u reads byte %zu of shared memory, which nobody wrote", simt_now.index, at);
    if (is_unordered(s->writer, s->write_phase, s->write_warp_phase))
        simt_fail("shared-memory race at byte %zu: thread %u reads what thread %u wrote since the last barrier", at,
                  simt_now.index, s->writer);
}

SIMT_NOT_SANITIZED static void remember_read(shadow *s) {
    if (s->read_phase != simt_now.block_phase)
        s->n_readers = 1;
    else if (s->reader / SIMT_WARP != simt_now.warp)
        s->n_readers = 3;
    else if (s->n_readers < 3 && s->read_warp_phase != simt_now.warp_phase)
        s->n_readers = 1; /* what the warp read before its __syncwarp is ordered */
    else if (s->n_readers < 3 && s->reader != simt_now.index)
        s->n_readers = 2;
    s->reader = (uint16_t)simt_now.index;
    s->read_phase = simt_now.block_phase;
    s->read_warp_phase = simt_now.warp_phase;
}

/* How many bytes from `at` on have one shadow, of `bytes` that are used; splits a word of which less is used. */
SIMT_NOT_SANITIZED static size_t shadow_bytes(size_t at, size_t bytes) {
    size_t word = at / WORD;
    if (simt.split_phase[word] == simt.first_phase) return 1;
    if (at % WORD == 0 && bytes >= WORD) return WORD;
    for (size_t i = 1; i < WORD; i++) simt.shadows[word * WORD + i] = simt.shadows[word * WORD];
    simt.split_phase[word] = simt.first_phase;
    return 1;
}

SIMT_NOT_SANITIZED uint8_t *simt_shared_bytes(size_t at, size_t bytes, bool writes) {
    for (size_t i = at, step; i < at + bytes; i += step) {
        step = shadow_bytes(i, at + bytes - i);
        shadow *s = &simt.shadows[i];
        if (writes) {
            check_write(s, i);
            s->writer = (uint16_t)simt_now.index;
            s->write_phase = simt_now.block_phase;
            s->write_warp_phase = simt_now.warp_phase;
        } else {
            check_read(s, i);
            remember_read(s);
        }
    }
    return simt.shared + at;
}

/* ---- asynchronous copies --------------------------------------------------------------------------------------------
 */

SIMT_NOT_SANITIZED static void mark_flight(size_t at, uint32_t phase) {
    for (size_t i = at; i < at + 16; i++) simt.shadows[i].flight_phase = phase;
}

void simt_copy_bytes(size_t to, const void *from, int bytes) {
    fiber *f = &simt.fibers[simt.current];
    if (to % 16 != 0 || (uintptr_t)from % 16 != 0)
        simt_fail("an asynchronous copy from %p to byte %zu of shared memory: no multiples of 16", from, to);
    if (bytes < 0 || bytes > 16) simt_fail("an asynchronous copy of %d bytes, 0 to 16 are possible", bytes);
    if (f->n_flights == MAX_FLIGHTS) simt_fail("more than %d asynchronous copies of a thread under way", MAX_FLIGHTS);
    simt_shared_bytes(to, 16, true);
    mark_flight(to, simt_now.block_phase);
    f->flights[f->n_flights++] = flight{to, from, bytes, f->n_groups};
}

void simt_copy_commit(void) {
    simt.fibers[simt.current].n_groups++;
}

/* It arrives now, as if it had been written now. */
static void land(const flight *c) {
    mark_flight(c->to, 0);
    uint8_t *to = simt_shared_bytes(c->to, 16, true);
    memset(to, 0, 16);
    if (c->bytes > 0) memcpy(to, c->from, (size_t)c->bytes);
}

void simt_copy_wait(unsigned n_groups) {
    fiber *f = &simt.fibers[simt.current];
    unsigned n = 0;
    while (n < f->n_flights && f->flights[n].group + n_groups < f->n_groups) land(&f->flights[n++]);
    f->n_flights -= n;
    memmove(f->flights, f->flights + n, f->n_flights * sizeof *f->flights);
}

size_t simt_place_static(simt_site *site, size_t bytes) {
    if (site->launch == simt.n_launches) return site->at;
    size_t at = (simt.shared_used + 15) / 16 * 16;
    if (bytes > SIMT_SHARED_BYTES - at)
        simt_fail("%zu bytes of shared memory, a block has %d", at + bytes, SIMT_SHARED_BYTES);
    simt.shared_used = at + bytes;
    site->launch = simt.n_launches;
    site->at = at;
    return at;
}

size_t simt_dynamic_bytes(void) {
    return simt.launch->shared_bytes;
}

/* ---- a block ------------------------------------------------------------------------------------------------------
 */

static bool run_warp(unsigned index) {
    bool ran = false;
    for (const warp *w = &simt.warps[index]; w->ready != 0 && !simt.failed; ran = true) {
        simt.from_scheduler = true;
        enter_fiber(index * SIMT_WARP + (unsigned)__builtin_ctz(w->ready), &simt.scheduler_pointer,
                    &simt.scheduler_fake_stack);
    }
    return ran;
}

/* Opens the barrier when all threads are at it. */
static bool pass_barrier(void) {
    for (unsigned t = 0; t < simt.n_threads; t++)
        if (simt.fibers[t].state != FIBER_AT_BARRIER || simt.fibers[t].line != simt.fibers[0].line) return false;
    uint32_t phase = ++simt.next_phase;
    for (unsigned t = 0; t < simt.n_threads; t++) {
        simt.fibers[t].state = FIBER_RUNS;
        simt.fibers[t].place.block_phase = phase;
        simt.fibers[t].place.warp_phase++;
    }
    for (unsigned w = 0; w < simt.n_threads / SIMT_WARP; w++) simt.warps[w].ready = 0xffffffffu;
    return true;
}

static bool all_done(void) {
    for (unsigned t = 0; t < simt.n_threads; t++)
        if (simt.fibers[t].state != FIBER_DONE) return false;
    return true;
}

/* Says who waits for whom: threads that can never go on. */
static void report_stuck(void) {
    static const char *const where[] = {"in a warp-wide instruction", "at a barrier", "gone"};
    const fiber *first = NULL;
    for (unsigned t = 0; t < simt.n_threads && !first; t++)
        if (simt.fibers[t].state != FIBER_DONE) first = &simt.fibers[t];
    for (unsigned t = 0; t < simt.n_threads; t++) {
        const fiber *f = &simt.fibers[t];
        if (f->state == first->state && f->line == first->line) continue;
        fail_block("divergent barrier: thread %u is %s (line %d), thread %u is %s (line %d)", first->place.index,
                   where[first->state], first->line, t, where[f->state], f->line);
        return;
    }
    fail_block("divergent warp: thread %u waits for lanes that never come", first->place.index);
}

static void run_block(dim3 block, bool reverse) {
    unsigned n_warps = simt.n_threads / SIMT_WARP;
    simt.first_phase = ++simt.next_phase;
    simt.ticket_phase = 0;
    for (unsigned w = 0; w < n_warps; w++) {
        simt.warps[w].ready = 0xffffffffu;
        simt.warps[w].n_arrived = 0;
        simt.warps[w].generation = 0;
    }
    for (unsigned t = 0; t < simt.n_threads; t++) make_fiber(t, block);
    while (!simt.failed) {
        bool ran = false;
        for (unsigned w = 0; w < n_warps && !simt.failed; w++) ran |= run_warp(reverse ? n_warps - 1 - w : w);
        if (simt.failed || all_done()) return;
        if (!pass_barrier() && !ran) report_stuck();
    }
}

/* Where an abandoned thread stood, its poisoned places stay. */
static void clean_stacks(void) {
    if (!simt.stacks)
        simt.stacks = (uint8_t *)mmap(NULL, FIBER_BYTES * SIMT_MAX_THREADS, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (simt.stacks == MAP_FAILED) abort();
#if defined(__SANITIZE_ADDRESS__)
    if (simt.stacks_are_dirty) __asan_unpoison_memory_region(simt.stacks, FIBER_BYTES * SIMT_MAX_THREADS);
#endif
    simt.stacks_are_dirty = true; /* until the launch has ended well */
}

static void run_launch(const simt_launch *l, bool reverse) {
    simt.launch = l;
    simt.n_launches++;
    simt.n_threads = l->block.x * l->block.y * l->block.z;
    simt.shared_used = l->shared_bytes;
    simt.failed = false;
    simt_current = &no_place;
    if (simt.n_threads == 0 || simt.n_threads > SIMT_MAX_THREADS || simt.n_threads % SIMT_WARP != 0)
        fail_block("%u threads in a block, not whole warps up to 1024", simt.n_threads);
    if (l->shared_bytes > SIMT_SHARED_BYTES || l->grid.y > 65535 || l->grid.z > 65535 || l->grid.x == 0 ||
        l->grid.y == 0 || l->grid.z == 0)
        fail_block("%zu bytes of shared memory or a grid of %u x %u x %u are not possible", l->shared_bytes, l->grid.x,
                   l->grid.y, l->grid.z);
    clean_stacks();
    uint64_t n = (uint64_t)l->grid.x * l->grid.y * l->grid.z;
    for (uint64_t i = 0; i < n && !simt.failed; i++) {
        uint64_t b = reverse ? n - 1 - i : i;
        run_block(dim3((unsigned)(b % l->grid.x), (unsigned)(b / l->grid.x % l->grid.y),
                       (unsigned)(b / l->grid.x / l->grid.y)),
                  reverse);
    }
    simt.stacks_are_dirty = simt.failed;
    simt_current = &no_place;
    if (simt.failed) simt.last = cudaErrorLaunchFailure;
}

/* ---- memory -------------------------------------------------------------------------------------------------------
 */

typedef struct allocation {
    struct allocation *next;
    uint8_t *map, *data;
    size_t map_bytes, bytes;
    bool is_device, is_protected;
} allocation;

static allocation *allocations;
static bool is_open = true; /* device memory may be touched */

static bool fault_is(const char *name) {
    const char *fault = getenv("KVQ_SIMT_FAULT");
    char text[32] = "";
    if (fault && *fault == '@') {
        FILE *f = fopen(fault + 1, "r");
        if (f && fscanf(f, "%31s", text) != 1) *text = '\0';
        if (f) fclose(f);
        fault = text;
    }
    return fault && strcmp(fault, name) == 0;
}

static size_t device_bytes(void) {
    const char *text = getenv("KVQ_SIMT_MEMORY");
    return text ? (size_t)strtoull(text, NULL, 10) : (size_t)4 << 30;
}

static size_t used_bytes(void) {
    size_t ret = 0;
    for (const allocation *a = allocations; a; a = a->next) ret += a->is_device ? a->bytes : 0;
    return ret;
}

/* KVQ_SIMT_IDLE=1: graphs are launched and do nothing, and memory stays open, so that what is left of a decode step is
 * what it costs the host, without the driver's own part. Tokens mean nothing then. */
static bool is_idle(void) {
    static const char *const wish = getenv("KVQ_SIMT_IDLE");
    return wish && strcmp(wish, "1") == 0;
}

static void open_memory(bool open) {
    open |= is_idle();
    if (open == is_open) return;
    is_open = open;
    for (const allocation *a = allocations; a; a = a->next)
        if (a->is_protected &&
            mprotect(a->map, a->map_bytes - PAGE_BYTES, open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
            abort();
}

static cudaError_t failed(cudaError_t error) {
    simt.last = error;
    return error;
}

static uint64_t n_allocations;

/* All that were ever made: for the test that a step makes none. */
extern "C" __attribute__((visibility("default"))) uint64_t simt_count_allocations(void) {
    return n_allocations;
}

static cudaError_t allocate(void **ret, size_t bytes, bool is_device) {
    n_allocations++;
    size_t rounded = (bytes + DEVICE_ALIGN - 1) / DEVICE_ALIGN * DEVICE_ALIGN;
    size_t map_bytes = (rounded + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES + PAGE_BYTES;
    if (bytes == 0 || rounded < bytes) return failed(cudaErrorInvalidValue);
    if (is_device && bytes > device_bytes() - used_bytes()) return failed(cudaErrorMemoryAllocation);
    allocation *a = (allocation *)calloc(1, sizeof *a);
    uint8_t *map = (uint8_t *)mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!a || map == MAP_FAILED || mprotect(map + map_bytes - PAGE_BYTES, PAGE_BYTES, PROT_NONE) != 0) abort();
    a->map = map;
    a->data = map + map_bytes - PAGE_BYTES - rounded;
    a->map_bytes = map_bytes;
    a->bytes = bytes;
    a->is_device = is_device;
    a->is_protected = is_device && bytes <= PROTECTED_BYTES;
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(a->data + bytes, rounded - bytes);
#endif
    a->next = allocations;
    allocations = a;
    *ret = a->data;
    if (is_device) { /* the others' state */
        is_open = !is_open;
        open_memory(!is_open);
    }
    return cudaSuccess;
}

static cudaError_t release(void *memory) {
    if (!memory) return cudaSuccess;
    for (allocation **link = &allocations; *link; link = &(*link)->next) {
        allocation *a = *link;
        if (a->data != memory) continue;
        *link = a->next;
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(a->map, a->map_bytes);
#endif
        munmap(a->map, a->map_bytes);
        free(a);
        return cudaSuccess;
    }
    return failed(cudaErrorInvalidValue);
}

cudaError_t cudaMalloc(void **ret, size_t bytes) {
    return allocate(ret, bytes, true);
}
cudaError_t cudaFree(void *memory) {
    return release(memory);
}
cudaError_t cudaHostAlloc(void **ret, size_t bytes, unsigned flags) {
    (void)flags;
    return allocate(ret, bytes, false);
}
cudaError_t cudaFreeHost(void *memory) {
    return release(memory);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *total_bytes = device_bytes();
    *free_bytes = *total_bytes - used_bytes();
    return cudaSuccess;
}

/* What cudaMemset and a copy from pageable memory may have left to do when they return. Streams here do not block on
 * the default stream, so nothing may be given to one before that is waited for. */
static bool default_stream_is_busy;

cudaError_t cudaMemset(void *memory, int value, size_t bytes) {
    default_stream_is_busy = true;
    open_memory(true);
    memset(memory, value, bytes);
    open_memory(false);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    default_stream_is_busy = kind == cudaMemcpyHostToDevice;
    open_memory(true);
    memcpy(to, from, bytes);
    open_memory(false);
    return cudaSuccess;
}

/* ---- streams ------------------------------------------------------------------------------------------------------
 */

struct simt_stream {
    simt_stream_front front;
    simt_launch *first, **end;
    bool reverse;
    uint64_t n_asked, n_run;
};
struct simt_event {
    cudaStream_t stream;
    uint64_t after; /* that many of what the stream was asked for */
};

typedef struct copy_body {
    void *to;
    const void *from;
    size_t bytes;
} copy_body;

static void call_in_turn(simt_stream_front *s, void (*run)(void *body), void (*drop)(void *body), void *body) {
    simt_launch call = {};
    call.run = run;
    call.drop = drop;
    call.body = body;
    simt_enqueue((cudaStream_t)s, &call);
}

static bool is_device(const void *memory, size_t bytes) {
    const uint8_t *at = (const uint8_t *)memory;
    for (const allocation *a = allocations; a; a = a->next)
        if (a->is_device && at >= a->data && at <= a->data + a->bytes && bytes <= (size_t)(a->data + a->bytes - at))
            return true;
    return false;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *ret, unsigned flags) {
    (void)flags;
    *ret = (cudaStream_t)calloc(1, sizeof **ret);
    if (!*ret) abort();
    (*ret)->front = simt_stream_front{call_in_turn, is_device};
    (*ret)->end = &(*ret)->first;
    return cudaSuccess;
}

static simt_launch *take_first(cudaStream_t s) {
    simt_launch *l = s->first;
    s->n_run++;
    s->first = l->next;
    if (!s->first) s->end = &s->first;
    return l;
}

static void drop_launch(simt_launch *l) {
    l->drop(l->body);
    free(l);
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
    while (s->first) drop_launch(take_first(s));
    free(s);
    return cudaSuccess;
}

void simt_stream_reverse(cudaStream_t s, bool reverse) {
    s->reverse = reverse;
}

void simt_enqueue(cudaStream_t s, const simt_launch *launch) {
    simt_launch *l = (simt_launch *)malloc(sizeof *l);
    if (!l) abort();
    if (default_stream_is_busy) {
        fprintf(stderr, "simt: a stream is given work while the default stream may have some left\n");
        abort();
    }
    *l = *launch;
    l->next = NULL;
    *s->end = l;
    s->end = &l->next;
    s->n_asked++;
    if (launch->kernel && fault_is("no_image")) simt.last = cudaErrorNoKernelImageForDevice;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s) {
    (void)kind;
    copy_body *body = (copy_body *)malloc(sizeof *body);
    if (!body) abort();
    body->to = to;
    body->from = from;
    body->bytes = bytes;
    simt_launch copy = {};
    copy.run = [](void *b) {
        const copy_body *c = (const copy_body *)b;
        memcpy(c->to, c->from, c->bytes);
    };
    copy.drop = free;
    copy.body = body;
    simt_enqueue(s, &copy);
    return cudaSuccess;
}

/* ---- launches by a kernel's address, and graphs of them -----------------------------------------------------------
 */

enum { MAX_KERNELS = 1024 };
static simt_kernel kernels[MAX_KERNELS];
static int n_kernels;

static const simt_kernel *find_kernel(const void *kernel) {
    for (int i = 0; i < n_kernels; i++)
        if (kernels[i].kernel == kernel) return &kernels[i];
    return NULL;
}

void simt_announce_kernel(const simt_kernel *k) {
    if (find_kernel(k->kernel)) return;
    if (n_kernels == MAX_KERNELS) abort();
    kernels[n_kernels++] = *k;
}

/* A launch with its arguments' values. */
struct simt_node {
    struct simt_node *next;
    const simt_kernel *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    bool is_early, has_edge; /* of a graph: from the node before */
    void *args[64];
    uint8_t *values;
};

static void set_values(simt_node *n, void **args) {
    size_t bytes = 0, at = 0;
    if (n->kernel->n_args > (int)(sizeof n->args / sizeof *n->args)) abort();
    for (int i = 0; i < n->kernel->n_args; i++) bytes += (n->kernel->arg_bytes[i] + 15) / 16 * 16;
    uint8_t *values = (uint8_t *)aligned_alloc(16, bytes + 16);
    if (!values) abort();
    for (int i = 0; i < n->kernel->n_args; i++) {
        memcpy(values + at, args[i], n->kernel->arg_bytes[i]);
        n->args[i] = values + at;
        at += (n->kernel->arg_bytes[i] + 15) / 16 * 16;
    }
    free(n->values); /* args may point into it */
    n->values = values;
}

static void free_node(void *node) {
    free(((simt_node *)node)->values);
    free(node);
}

static simt_node *new_node(const simt_kernel *kernel, dim3 grid, dim3 block, size_t shared_bytes, void **args) {
    simt_node *n = (simt_node *)calloc(1, sizeof *n);
    if (!n) abort();
    n->kernel = kernel;
    n->grid = grid;
    n->block = block;
    n->shared_bytes = shared_bytes;
    set_values(n, args);
    return n;
}

void simt_wait_for_launches(void) {
    simt.fibers[simt.current].has_waited = true;
}

static uint64_t n_early_launches;

/* Launches that may come early, for the test that there are such. */
extern "C" __attribute__((visibility("default"))) uint64_t simt_count_early_launches(void) {
    return n_early_launches;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *kernel, void **args) {
    const simt_kernel *k = find_kernel(kernel);
    if (!k) return failed(cudaErrorInvalidValue);
    simt_launch launch = {};
    launch.kernel = k->name;
    launch.grid = c->grid;
    launch.block = c->block;
    launch.shared_bytes = c->dynamicSmemBytes;
    for (unsigned i = 0; i < c->numAttrs; i++)
        if (c->attrs[i].id == cudaLaunchAttributeProgrammaticStreamSerialization)
            launch.is_early = c->attrs[i].val.programmaticStreamSerializationAllowed != 0;
    launch.run = [](void *body) {
        simt_node *n = (simt_node *)body;
        n->kernel->call(n->kernel->kernel, n->args);
    };
    launch.drop = free_node;
    launch.body = new_node(k, c->grid, c->block, c->dynamicSmemBytes, args);
    n_early_launches += launch.is_early;
    simt_enqueue(c->stream, &launch);
    return simt.last;
}

struct simt_graph {
    simt_node *first, *last;
};

static uint64_t n_graph_launches, n_graph_nodes, n_node_changes;

/* All graphs that were ever launched, their nodes, and nodes that were changed: for the test that steps are replayed.
 */
extern "C" __attribute__((visibility("default"))) uint64_t simt_count_graph_launches(void) {
    return n_graph_launches;
}
extern "C" __attribute__((visibility("default"))) uint64_t simt_count_graph_nodes(void) {
    return n_graph_nodes;
}
extern "C" __attribute__((visibility("default"))) uint64_t simt_count_node_changes(void) {
    return n_node_changes;
}

cudaError_t cudaGraphCreate(cudaGraph_t *ret, unsigned flags) {
    (void)flags;
    *ret = (cudaGraph_t)calloc(1, sizeof **ret);
    if (!*ret) abort();
    return cudaSuccess;
}

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t *ret, cudaGraph_t g, const cudaGraphNode_t *dependencies,
                                   size_t n_dependencies, const cudaKernelNodeParams *p) {
    const simt_kernel *k = find_kernel(p->func);
    bool is_chain = n_dependencies == 0 || (g->last && n_dependencies == 1 && dependencies[0] == g->last);
    if (!k || !is_chain) return failed(cudaErrorInvalidValue);
    *ret = new_node(k, p->grid, p->block, p->sharedMemBytes, p->kernelParams);
    (*ret)->has_edge = n_dependencies > 0;
    *(g->last ? &g->last->next : &g->first) = *ret;
    g->last = *ret;
    return cudaSuccess;
}

/* From the node before the last one, which was added without; an edge that lets it come early. */
cudaError_t cudaGraphAddDependencies(cudaGraph_t g, const cudaGraphNode_t *from, const cudaGraphNode_t *to,
                                     const cudaGraphEdgeData *edges, size_t n) {
    if (n != 1 || *to != g->last || (*from)->next != *to) return failed(cudaErrorInvalidValue);
    if (edges->type != cudaGraphDependencyTypeProgrammatic || edges->from_port != cudaGraphKernelNodePortProgrammatic)
        return failed(cudaErrorInvalidValue);
    (*to)->is_early = true;
    (*to)->has_edge = true;
    return cudaSuccess;
}

/* The graph itself: none is changed or instantiated twice here. */
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ret, cudaGraph_t g, unsigned long long flags) {
    (void)flags;
    if (fault_is("no_graphs")) return failed(cudaErrorNotSupported);
    for (const simt_node *n = g->first; n; n = n->next)
        if (n->has_edge != (n != g->first)) return failed(cudaErrorInvalidValue);
    *ret = g;
    return cudaSuccess;
}

cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t g, cudaGraphNode_t node, const cudaKernelNodeParams *p) {
    (void)g;
    if (p->func != node->kernel->kernel) return failed(cudaErrorInvalidValue);
    n_node_changes++;
    node->grid = p->grid;
    node->block = p->block;
    node->shared_bytes = p->sharedMemBytes;
    set_values(node, p->kernelParams);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) {
    n_graph_launches++;
    if (is_idle()) return simt.last;
    for (simt_node *n = g->first; n; n = n->next) {
        n_graph_nodes++;
        cudaLaunchAttribute early = {};
        early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        early.val.programmaticStreamSerializationAllowed = n->is_early;
        const cudaLaunchConfig_t config = {n->grid, n->block, n->shared_bytes, s, &early, 1};
        (void)cudaLaunchKernelExC(&config, n->kernel->kernel, n->args); /* simt.last has it */
    }
    return simt.last;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
    (void)g;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    while (g->first) {
        simt_node *n = g->first;
        g->first = n->next;
        free_node(n);
    }
    free(g);
    return cudaSuccess;
}

static uint64_t n_waits;

/* How often the host waited for a kernel that had not run: for the test that it does so once a step. */
extern "C" __attribute__((visibility("default"))) uint64_t simt_count_waits(void) {
    return n_waits;
}

/* Runs the first n_asked of what was asked for. After a failure nothing runs any more, as on a device. */
static cudaError_t run_until(cudaStream_t s, uint64_t n_asked) {
    cudaError_t error = simt.last;
    uint64_t n_launches = simt.n_launches;
    open_memory(true);
    while (s->n_run < n_asked) {
        simt_launch *l = take_first(s);
        if (error == cudaSuccess && l->kernel) run_launch(l, s->reverse);
        if (error == cudaSuccess && !l->kernel) l->run(l->body);
        if (fault_is("launch") && l->kernel) {
            snprintf(simt.error, sizeof simt.error, "kernel %s: a fault on purpose", l->kernel);
            simt.last = cudaErrorLaunchFailure;
        }
        error = simt.last;
        drop_launch(l);
    }
    n_waits += simt.n_launches > n_launches;
    open_memory(false);
    return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    if (s != cudaStreamLegacy) return run_until(s, s->n_asked);
    default_stream_is_busy = false;
    return simt.last;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *ret, unsigned flags) {
    (void)flags;
    *ret = (cudaEvent_t)calloc(1, sizeof **ret);
    if (!*ret) abort();
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t s) {
    event->stream = s;
    event->after = s->n_asked;
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return event->stream ? run_until(event->stream, event->after) : cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
    if (!begin->stream || !end->stream) return cudaErrorInvalidValue;
    *ms = 1;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}

/* ---- the device ---------------------------------------------------------------------------------------------------
 */

cudaError_t cudaGetLastError(void) {
    cudaError_t ret = simt.last;
    simt.last = cudaSuccess;
    return ret;
}

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver:
        return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
        return "cudaErrorInvalidDevice";
    case cudaErrorNoKernelImageForDevice:
        return "cudaErrorNoKernelImageForDevice";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    case cudaErrorNotSupported:
        return "cudaErrorNotSupported";
    }
    return "?";
}

const char *cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorLaunchFailure ? simt.error : cudaGetErrorName(error);
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    if (fault_is("no_driver") || fault_is("old_driver")) return failed(cudaErrorInsufficientDriver);
    if (fault_is("no_device")) return failed(cudaErrorNoDevice);
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    return device == 0 ? cudaSuccess : failed(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *ret, int device) {
    if (device != 0) return failed(cudaErrorInvalidDevice);
    memset(ret, 0, sizeof *ret);
    snprintf(ret->name, sizeof ret->name, "SIMT shim on the host");
    ret->major = fault_is("old_device") ? 6 : 9;
    ret->minor = fault_is("old_device") ? 1 : 0;
    ret->multiProcessorCount = 4;
    ret->l2CacheSize = 1 << 20;
    ret->integrated = fault_is("integrated");
    ret->pciBusID = 0x65;
    ret->totalGlobalMem = device_bytes();
    ret->sharedMemPerBlockOptin = fault_is("little_shared") ? 64 * 1024 : SIMT_SHARED_BYTES; /* Turing's */
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *ret) {
    *ret = fault_is("no_driver") ? 0 : fault_is("old_driver") ? 11040 : 13000;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *ret) {
    *ret = 13000;
    return cudaSuccess;
}
