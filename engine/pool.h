/* pool.h: the KV pool, one allocation cut into blocks. Who holds a block: live sequences (counted) and the prefix cache
 * (once). A block that nobody holds is free. Called by scheduler.c and prefix.c. */
#ifndef KVQ_POOL_H
#define KVQ_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "machine.h"

typedef struct kvq_pool kvq_pool;

/* Takes n_blocks x block_bytes (a multiple of 64) of the machine's memory, resident; the machine is borrowed until
 * kvq_pool_free. Errors: KVQ_NO_MEMORY. */
kvq_status kvq_pool_new(const kvq_machine *machine, uint64_t n_blocks, size_t block_bytes, kvq_pool **ret,
                        kvq_error *err);
void kvq_pool_free(kvq_pool *p);

uint8_t *kvq_pool_take(kvq_pool *p);               /* held by one sequence; NULL when none is free */
void kvq_pool_ref(kvq_pool *p, uint8_t *block);    /* one more sequence */
void kvq_pool_unref(kvq_pool *p, uint8_t **block); /* one less; nulls the pointer; NULL inside is allowed */
void kvq_pool_cache(kvq_pool *p, uint8_t *block);  /* the prefix cache holds it too */
void kvq_pool_uncache(kvq_pool *p, uint8_t **block);
bool kvq_pool_is_live(const kvq_pool *p, const uint8_t *block); /* some sequence holds it */

uint64_t kvq_pool_n_blocks(const kvq_pool *p);
uint64_t kvq_pool_n_free(const kvq_pool *p);
uint64_t kvq_pool_n_live(const kvq_pool *p);
uint64_t kvq_pool_n_cached(const kvq_pool *p); /* by the prefix cache alone */

#endif
