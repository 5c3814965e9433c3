/* prefix.h: the prefix cache: full pages of sequences, found by their token path, evicted least recently used when the
 * pool needs their blocks. Called by scheduler.c. */
#ifndef KVQ_PREFIX_H
#define KVQ_PREFIX_H

#include "../kernels/batch.h"
#include "pool.h"

typedef struct kvq_prefix kvq_prefix;

/* group_window [n_groups]: tokens, 0 for groups that attend to all. At most max_pages pages are kept. */
kvq_status kvq_prefix_new(kvq_pool *pool, int n_groups, const int *group_window, int block_tokens, uint64_t max_pages,
                          kvq_prefix **ret, kvq_error *err);
void kvq_prefix_free(kvq_prefix *c); /* before the pool */

/* The longest cached path of ids, at most max_pages pages, such that every group still has the pages that a query
 * behind it can see. Refs the blocks for the caller and writes them to pages[group][0..]; returns the number of pages.
 */
int kvq_prefix_find(kvq_prefix *c, const int *ids, int max_pages, kvq_kv_page *const *pages);

/* Keeps page `page` (full, closed) of the sequence ids, whose pages before it are pages[group][..]. Where the
 * cache has the page already, pages[..][page] becomes the cache's blocks. A path whose parent is gone is not kept. */
void kvq_prefix_keep(kvq_prefix *c, const int *ids, int page, kvq_kv_page *const *pages);

/* Gives blocks back until the pool has n_free of them free, or nothing more can be given; true when it has. All of
 * kvq_pool_n_cached can be given. */
bool kvq_prefix_evict(kvq_prefix *c, uint64_t n_free);

#endif
