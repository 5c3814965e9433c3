/* pool.c: the KV pool, one allocation cut into blocks. Called by scheduler.c (take, ref, unref) and prefix.c (cache,
 * uncache). Touches no block, which may lie in a GPU's memory: what its bytes mean is the policy's business
 * (kernels/kv.h). One thread: only the caller of kvq_step comes here. The free list is a stack, so that the block given
 * back last, still in the processor's cache, is taken first. */
#include "pool.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

typedef struct block_state {
    uint32_t n_live; /* sequences that hold it */
    bool cached;     /* the prefix cache holds it */
} block_state;

struct kvq_pool {
    const kvq_machine *machine;
    uint8_t *base;
    size_t block_bytes;
    uint64_t n_blocks, n_free, n_live, n_cached;
    block_state *states;  /* [n_blocks] */
    uint32_t *free_stack; /* [n_blocks], n_free of them valid */
};

kvq_status kvq_pool_new(const kvq_machine *machine, uint64_t n_blocks, size_t block_bytes, kvq_pool **ret,
                        kvq_error *err) {
    uint64_t bytes;
    if (n_blocks == 0 || n_blocks > UINT32_MAX || __builtin_mul_overflow(n_blocks, (uint64_t)block_bytes, &bytes))
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "a KV pool of %" PRIu64 " blocks is not possible", n_blocks);
    kvq_pool *p = calloc(1, sizeof *p);
    if (!p) goto fail;
    p->machine = machine;
    p->n_blocks = n_blocks;
    p->block_bytes = block_bytes;
    /* first, since it is what a size beyond the machine fails at; resident: what is missing is missed now, not in the
     * field */
    if (kvq_machine_take(machine, KVQ_MEMORY_DEVICE, bytes, true, "the KV pool", &p->base, err)) goto fail;
    p->states = calloc(n_blocks, sizeof *p->states);
    p->free_stack = malloc(n_blocks * sizeof *p->free_stack);
    if (!p->states || !p->free_stack) goto fail;
    for (uint64_t i = 0; i < n_blocks; i++) p->free_stack[i] = (uint32_t)(n_blocks - 1 - i);
    p->n_free = n_blocks;
    *ret = p;
    return KVQ_OK;
fail:
    kvq_pool_free(p);
    return kvq_fail(err, KVQ_NO_MEMORY, "no memory for a KV pool of %" PRIu64 " blocks of %zu bytes", n_blocks,
                    block_bytes);
}

void kvq_pool_free(kvq_pool *p) {
    if (!p) return;
    kvq_machine_give(p->machine, KVQ_MEMORY_DEVICE, p->base, p->n_blocks * p->block_bytes);
    free(p->states);
    free(p->free_stack);
    free(p);
}

static uint32_t index_of(const kvq_pool *p, const uint8_t *block) {
    size_t offset = (size_t)(block - p->base);
    assert(offset % p->block_bytes == 0 && offset / p->block_bytes < p->n_blocks);
    return (uint32_t)(offset / p->block_bytes);
}

static void give_if_unheld(kvq_pool *p, uint32_t i) {
    if (p->states[i].n_live == 0 && !p->states[i].cached) p->free_stack[p->n_free++] = i;
}

uint8_t *kvq_pool_take(kvq_pool *p) {
    if (p->n_free == 0) return NULL;
    uint32_t i = p->free_stack[--p->n_free];
    p->states[i].n_live = 1;
    p->n_live++;
    return p->base + (size_t)i * p->block_bytes;
}

void kvq_pool_ref(kvq_pool *p, uint8_t *block) {
    block_state *s = &p->states[index_of(p, block)];
    assert(s->n_live > 0 || s->cached);
    if (s->n_live++ == 0) {
        p->n_live++;
        p->n_cached--;
    }
}

void kvq_pool_unref(kvq_pool *p, uint8_t **block) {
    if (!*block) return;
    uint32_t i = index_of(p, *block);
    block_state *s = &p->states[i];
    assert(s->n_live > 0);
    *block = NULL;
    if (--s->n_live > 0) return;
    p->n_live--;
    p->n_cached += s->cached;
    give_if_unheld(p, i);
}

void kvq_pool_cache(kvq_pool *p, uint8_t *block) {
    block_state *s = &p->states[index_of(p, block)];
    assert(s->n_live > 0 && !s->cached);
    s->cached = true;
}

void kvq_pool_uncache(kvq_pool *p, uint8_t **block) {
    if (!*block) return;
    uint32_t i = index_of(p, *block);
    block_state *s = &p->states[i];
    assert(s->cached);
    *block = NULL;
    s->cached = false;
    p->n_cached -= s->n_live == 0;
    give_if_unheld(p, i);
}

bool kvq_pool_is_live(const kvq_pool *p, const uint8_t *block) {
    return p->states[index_of(p, block)].n_live > 0;
}
uint64_t kvq_pool_n_blocks(const kvq_pool *p) {
    return p->n_blocks;
}
uint64_t kvq_pool_n_free(const kvq_pool *p) {
    return p->n_free;
}
uint64_t kvq_pool_n_live(const kvq_pool *p) {
    return p->n_live;
}
uint64_t kvq_pool_n_cached(const kvq_pool *p) {
    return p->n_cached;
}
