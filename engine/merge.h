/* merge.h: the loop that both tokenizer families share: a chain of symbols in which the best neighbouring pair is
 * merged until none can be. Called by bpe.c (the order is the rank of a merge rule) and spm.c (the score of the merged
 * token). */
#ifndef KVQ_MERGE_H
#define KVQ_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kvq_symbol {
    int previous, next; /* -1: none */
    int start, n_bytes; /* in the text; n_bytes 0: merged into its left neighbour */
    int id;             /* the family's own */
} kvq_symbol;

/* May left and right be merged? order: the smaller goes first (on a tie, the one further left); id: what they become.
 */
typedef bool kvq_merge_rule(const void *family, const kvq_symbol *left, const kvq_symbol *right, uint32_t *ret_order,
                            int *ret_id);

typedef struct kvq_merge_candidate {
    uint32_t order;
    int left, n_bytes, id;
} kvq_merge_candidate;

/* Scratch that is kept from word to word. Init with zeros. */
typedef struct kvq_merger {
    kvq_symbol *symbols;
    int n_symbols;
    size_t symbols_capacity;
    kvq_merge_candidate *heap;
    size_t n_candidates, heap_capacity;
} kvq_merger;

void kvq_merger_done(kvq_merger *m);
void kvq_merger_clear(kvq_merger *m);

/* Appends a symbol to the chain. False: no memory. */
bool kvq_merger_add(kvq_merger *m, int start, int n_bytes, int id);

/* Merges; afterwards the chain from symbols[0] along next is the result. n log n in the number of symbols. False: no
 * memory. */
bool kvq_merger_run(kvq_merger *m, kvq_merge_rule *rule, const void *family);

#endif
