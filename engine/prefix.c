/* prefix.c: the prefix cache. Called by scheduler.c (find at admission, keep when a page is full, evict when blocks run
 * out).
 *
 * A trie whose nodes are pages: a node is one page of block_tokens ids below its parent. Children are found through one
 * hash table over (parent, ids), and the ids are compared exactly: a hash alone never decides. A node holds one block
 * per group (the first page of a wide policy two).
 *
 * Eviction. Nodes stand in one list by time of last use; a path is touched from its end to its root, so that the end of
 * the list is always the end of some path. Going from there:
 *   - a page of a windowed group may go on its own: it only shortens what can be reused;
 *   - a page of a group that attends to all may go only when nothing hangs below its node, and takes the node with it.
 * A live sequence holds all pages before its own in the groups that attend to all, so a block that only the cache holds
 * never has a live one below it: every such block can be given. */
#include "prefix.h"

#include <stdlib.h>
#include <string.h>

#include "hash.h"

#define NONE UINT32_MAX
#define BLOCKS_A_PAGE 2 /* block and wide_v */

typedef struct node {
    uint32_t parent, next_in_bucket;
    uint32_t newer, older; /* the list by time of use */
    uint32_t hash;
    uint32_t n_children;
} node;

struct kvq_prefix {
    kvq_pool *pool;
    int n_groups, block_tokens;
    int group_window[KVQ_MAX_GROUPS];
    uint32_t n_nodes_max, n_buckets; /* n_buckets is a power of two */
    node *nodes;
    int *ids;         /* [n_nodes_max, block_tokens] */
    uint8_t **blocks; /* [n_nodes_max, n_groups, BLOCKS_A_PAGE] */
    uint32_t *buckets;
    uint64_t hash_seed;
    uint32_t *path;                  /* [n_nodes_max] scratch of find and keep */
    uint32_t newest, oldest, unused; /* unused: list through next_in_bucket */
};

kvq_status kvq_prefix_new(kvq_pool *pool, int n_groups, const int *group_window, int block_tokens, uint64_t max_pages,
                          kvq_prefix **ret, kvq_error *err) {
    if (max_pages >= NONE / 4) max_pages = NONE / 4;
    kvq_prefix *c = calloc(1, sizeof *c);
    if (!c) goto fail;
    c->pool = pool;
    c->n_groups = n_groups;
    c->block_tokens = block_tokens;
    c->hash_seed = kvq_random();
    memcpy(c->group_window, group_window, (size_t)n_groups * sizeof *group_window);
    c->n_nodes_max = (uint32_t)max_pages;
    for (c->n_buckets = 16; c->n_buckets < max_pages; c->n_buckets *= 2) {
    }
    c->nodes = malloc(max_pages * sizeof *c->nodes);
    c->ids = malloc(max_pages * (size_t)block_tokens * sizeof *c->ids);
    c->blocks = calloc(max_pages * (size_t)n_groups * BLOCKS_A_PAGE, sizeof *c->blocks);
    c->buckets = malloc(c->n_buckets * sizeof *c->buckets);
    c->path = malloc(max_pages * sizeof *c->path);
    if (!c->nodes || !c->ids || !c->blocks || !c->buckets || !c->path) goto fail;
    memset(c->buckets, 0xFF, c->n_buckets * sizeof *c->buckets); /* NONE */
    c->newest = c->oldest = NONE;
    c->unused = NONE;
    for (uint32_t i = c->n_nodes_max; i-- > 0;) {
        c->nodes[i].next_in_bucket = c->unused;
        c->unused = i;
    }
    *ret = c;
    return KVQ_OK;
fail:
    if (c) c->n_nodes_max = 0; /* nothing to give back */
    kvq_prefix_free(c);
    return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the prefix cache's index");
}

static uint8_t **block_at(const kvq_prefix *c, uint32_t n, int group, int which) {
    return &c->blocks[((size_t)n * (size_t)c->n_groups + (size_t)group) * BLOCKS_A_PAGE + (size_t)which];
}

static const int *ids_of(const kvq_prefix *c, uint32_t n) {
    return &c->ids[(size_t)n * (size_t)c->block_tokens];
}

static void drop_block(kvq_prefix *c, uint8_t **block) {
    if (*block) kvq_pool_uncache(c->pool, block);
}

void kvq_prefix_free(kvq_prefix *c) {
    if (!c) return;
    if (c->n_nodes_max)
        for (uint32_t n = c->newest; n != NONE; n = c->nodes[n].older)
            for (int g = 0; g < c->n_groups; g++)
                for (int w = 0; w < BLOCKS_A_PAGE; w++) drop_block(c, block_at(c, n, g, w));
    free(c->nodes);
    free(c->ids);
    free(c->blocks);
    free(c->buckets);
    free(c->path);
    free(c);
}

/* ---- the list by time of use and the hash table
 * -------------------------------------------------------------------------- */

static void unlink_node(kvq_prefix *c, uint32_t n) {
    node *x = &c->nodes[n];
    if (x->newer != NONE)
        c->nodes[x->newer].older = x->older;
    else
        c->newest = x->older;
    if (x->older != NONE)
        c->nodes[x->older].newer = x->newer;
    else
        c->oldest = x->newer;
}

static void link_newest(kvq_prefix *c, uint32_t n) {
    node *x = &c->nodes[n];
    x->newer = NONE;
    x->older = c->newest;
    if (c->newest != NONE)
        c->nodes[c->newest].newer = n;
    else
        c->oldest = n;
    c->newest = n;
}

/* From the end of a path to its root, so that ends are older than what they hang on. */
static void touch_path(kvq_prefix *c, uint32_t end) {
    for (uint32_t n = end; n != NONE; n = c->nodes[n].parent) {
        unlink_node(c, n);
        link_newest(c, n);
    }
}

/* Over the parent and the ids; only spreads, never decides. */
static uint32_t hash_page(const kvq_prefix *c, uint32_t parent, const int *ids) {
    return (uint32_t)kvq_hash(c->hash_seed ^ parent, ids, (size_t)c->block_tokens * sizeof *ids);
}

static uint32_t find_child(const kvq_prefix *c, uint32_t parent, const int *ids) {
    uint32_t hash = hash_page(c, parent, ids);
    uint32_t n = c->buckets[hash & (c->n_buckets - 1)];
    for (; n != NONE; n = c->nodes[n].next_in_bucket)
        if (c->nodes[n].hash == hash && c->nodes[n].parent == parent &&
            memcmp(ids_of(c, n), ids, (size_t)c->block_tokens * sizeof *ids) == 0)
            return n;
    return NONE;
}

static void remove_node(kvq_prefix *c, uint32_t n) {
    node *x = &c->nodes[n];
    for (int g = 0; g < c->n_groups; g++)
        for (int w = 0; w < BLOCKS_A_PAGE; w++) drop_block(c, block_at(c, n, g, w));
    uint32_t *link = &c->buckets[x->hash & (c->n_buckets - 1)];
    while (*link != n) link = &c->nodes[*link].next_in_bucket;
    *link = x->next_in_bucket;
    unlink_node(c, n);
    if (x->parent != NONE) c->nodes[x->parent].n_children--;
    x->next_in_bucket = c->unused;
    c->unused = n;
}

/* ---- find and keep
 * ------------------------------------------------------------------------------------------------------------ */

/* The first page of a group that the query behind n_pages whole pages can see. */
static int first_seen_page(const kvq_prefix *c, int group, int n_pages) {
    int window = c->group_window[group];
    int first_pos = n_pages * c->block_tokens - window + 1;
    return window == 0 || first_pos <= 0 ? 0 : first_pos / c->block_tokens;
}

/* True when every group has the pages it needs for reuse of the first n_pages of c->path. */
static bool path_serves(const kvq_prefix *c, int n_pages) {
    for (int g = 0; g < c->n_groups; g++)
        for (int i = first_seen_page(c, g, n_pages); i < n_pages; i++)
            if (!*block_at(c, c->path[i], g, 0)) return false;
    return true;
}

int kvq_prefix_find(kvq_prefix *c, const int *ids, int max_pages, kvq_kv_page *const *pages) {
    int n = 0;
    for (uint32_t parent = NONE; n < max_pages && (uint32_t)n < c->n_nodes_max; n++) {
        uint32_t child = find_child(c, parent, ids + (size_t)n * (size_t)c->block_tokens);
        if (child == NONE) break;
        c->path[n] = parent = child;
    }
    while (n > 0 && !path_serves(c, n)) n--;
    if (n > 0) touch_path(c, c->path[n - 1]);
    for (int g = 0; g < c->n_groups; g++)
        for (int i = first_seen_page(c, g, n); i < n; i++) {
            pages[g][i] = (kvq_kv_page){*block_at(c, c->path[i], g, 0), *block_at(c, c->path[i], g, 1), -1};
            kvq_pool_ref(c->pool, pages[g][i].block);
            if (pages[g][i].wide_v) kvq_pool_ref(c->pool, pages[g][i].wide_v);
        }
    return n;
}

/* A node to fill: an unused one, else the oldest whose blocks only the cache holds and on which nothing hangs. */
static uint32_t take_node(kvq_prefix *c, uint32_t parent) {
    for (uint32_t n = c->oldest; c->unused == NONE && n != NONE; n = c->nodes[n].newer)
        if (c->nodes[n].n_children == 0 && n != parent) {
            remove_node(c, n);
            break;
        }
    uint32_t n = c->unused;
    if (n != NONE) c->unused = c->nodes[n].next_in_bucket;
    return n;
}

/* Puts into a node what the sequence holds and the node lacks; where the node has the page already, the sequence takes
 * the node's block for its own (the bytes are the same: results do not depend on how they came about) and gives its own
 * back. So whatever hangs below a node is held by sequences that hold the node's blocks too. */
static void share_page(kvq_prefix *c, uint32_t n, int page, kvq_kv_page *const *pages) {
    for (int g = 0; g < c->n_groups; g++) {
        uint8_t **held[BLOCKS_A_PAGE] = {&pages[g][page].block, &pages[g][page].wide_v};
        if (!*held[0]) continue;
        bool has_page = *block_at(c, n, g, 0) != NULL;
        for (int w = 0; w < BLOCKS_A_PAGE; w++) {
            uint8_t **kept = block_at(c, n, g, w);
            if (!*held[w] || *held[w] == *kept) continue;
            if (has_page) {
                kvq_pool_ref(c->pool, *kept);
                kvq_pool_unref(c->pool, held[w]);
                *held[w] = *kept;
            } else {
                kvq_pool_cache(c->pool, *held[w]);
                *kept = *held[w];
            }
        }
    }
}

void kvq_prefix_keep(kvq_prefix *c, const int *ids, int page, kvq_kv_page *const *pages) {
    uint32_t parent = NONE;
    for (int i = 0; i < page; i++) {
        parent = find_child(c, parent, ids + (size_t)i * (size_t)c->block_tokens);
        if (parent == NONE) return;
    }
    const int *page_ids = ids + (size_t)page * (size_t)c->block_tokens;
    uint32_t n = find_child(c, parent, page_ids);
    if (n == NONE) {
        for (int g = 0; g < c->n_groups; g++)
            if (c->group_window[g] == 0 && !pages[g][page].block) return; /* a node has all pages that never go alone */
        n = take_node(c, parent);
        if (n == NONE) return;
        uint32_t hash = hash_page(c, parent, page_ids);
        uint32_t *bucket = &c->buckets[hash & (c->n_buckets - 1)];
        c->nodes[n] = (node){.parent = parent, .hash = hash, .next_in_bucket = *bucket};
        *bucket = n;
        memcpy(&c->ids[(size_t)n * (size_t)c->block_tokens], page_ids, (size_t)c->block_tokens * sizeof *ids);
        if (parent != NONE) c->nodes[parent].n_children++;
        link_newest(c, n);
    }
    share_page(c, n, page, pages);
    touch_path(c, n);
}

/* ---- eviction
 * ------------------------------------------------------------------------------------------------------------------ */

static void evict_windowed(kvq_prefix *c, uint32_t n) {
    for (int g = 0; g < c->n_groups; g++)
        for (int w = 0; w < BLOCKS_A_PAGE && c->group_window[g]; w++) {
            uint8_t **block = block_at(c, n, g, w);
            if (*block && !kvq_pool_is_live(c->pool, *block)) kvq_pool_uncache(c->pool, block);
        }
}

static bool node_is_live(const kvq_prefix *c, uint32_t n) {
    for (int g = 0; g < c->n_groups; g++)
        for (int w = 0; w < BLOCKS_A_PAGE; w++) {
            const uint8_t *block = *block_at(c, n, g, w);
            if (block && kvq_pool_is_live(c->pool, block)) return true;
        }
    return false;
}

bool kvq_prefix_evict(kvq_prefix *c, uint64_t n_free) {
    uint32_t newer;
    for (uint32_t n = c->oldest; n != NONE && kvq_pool_n_free(c->pool) < n_free; n = newer) {
        newer = c->nodes[n].newer;
        evict_windowed(c, n);
        if (c->nodes[n].n_children == 0 && !node_is_live(c, n)) remove_node(c, n);
    }
    return kvq_pool_n_free(c->pool) >= n_free;
}
