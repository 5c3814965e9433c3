/* merge.c: merging the best neighbours of a chain, with a heap of candidates, so that a word of a million bytes costs
 * n log n and not n^2. Called by bpe.c and spm.c.
 * A candidate is stale when one of its symbols was merged otherwise meanwhile. That shows in the bytes: its left symbol
 * is gone, or left and right together are no longer as long as they were. */
#include "merge.h"

#include <stdlib.h>

void kvq_merger_done(kvq_merger *m) {
    free(m->symbols);
    free(m->heap);
    *m = (kvq_merger){0};
}

void kvq_merger_clear(kvq_merger *m) {
    m->n_symbols = 0;
    m->n_candidates = 0;
}

bool kvq_merger_add(kvq_merger *m, int start, int n_bytes, int id) {
    if ((size_t)m->n_symbols == m->symbols_capacity) {
        size_t wanted = m->symbols_capacity ? m->symbols_capacity * 2 : 64;
        kvq_symbol *bigger = realloc(m->symbols, wanted * sizeof *bigger);
        if (!bigger) return false;
        m->symbols = bigger;
        m->symbols_capacity = wanted;
    }
    if (m->n_symbols > 0) m->symbols[m->n_symbols - 1].next = m->n_symbols;
    m->symbols[m->n_symbols] =
        (kvq_symbol){.previous = m->n_symbols - 1, .next = -1, .start = start, .n_bytes = n_bytes, .id = id};
    m->n_symbols++;
    return true;
}

/* ---- the heap ---------------------------------------------------------------------------------------------------- */

static bool goes_before(kvq_merge_candidate a, kvq_merge_candidate b) {
    return a.order < b.order || (a.order == b.order && a.left < b.left);
}

static bool push(kvq_merger *m, kvq_merge_candidate candidate) {
    if (m->n_candidates == m->heap_capacity) {
        size_t wanted = m->heap_capacity ? m->heap_capacity * 2 : 64;
        kvq_merge_candidate *bigger = realloc(m->heap, wanted * sizeof *bigger);
        if (!bigger) return false;
        m->heap = bigger;
        m->heap_capacity = wanted;
    }
    size_t i = m->n_candidates++;
    while (i > 0 && goes_before(candidate, m->heap[(i - 1) / 2])) {
        m->heap[i] = m->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    m->heap[i] = candidate;
    return true;
}

static kvq_merge_candidate pop(kvq_merger *m) {
    kvq_merge_candidate best = m->heap[0], last = m->heap[--m->n_candidates];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= m->n_candidates) break;
        if (child + 1 < m->n_candidates && goes_before(m->heap[child + 1], m->heap[child])) child++;
        if (!goes_before(m->heap[child], last)) break;
        m->heap[i] = m->heap[child];
        i = child;
    }
    m->heap[i] = last;
    return best;
}

/* ---- the loop ---------------------------------------------------------------------------------------------------- */

static bool consider(kvq_merger *m, kvq_merge_rule *rule, const void *family, int left) {
    if (left < 0) return true;
    const kvq_symbol *l = &m->symbols[left];
    if (l->next < 0) return true;
    const kvq_symbol *r = &m->symbols[l->next];
    kvq_merge_candidate c = {.left = left, .n_bytes = l->n_bytes + r->n_bytes};
    if (!rule(family, l, r, &c.order, &c.id)) return true;
    return push(m, c);
}

static void merge(kvq_merger *m, kvq_merge_candidate c) {
    kvq_symbol *left = &m->symbols[c.left], *right = &m->symbols[left->next];
    left->n_bytes = c.n_bytes;
    left->id = c.id;
    left->next = right->next;
    if (right->next >= 0) m->symbols[right->next].previous = c.left;
    right->n_bytes = 0;
}

static bool is_stale(const kvq_merger *m, kvq_merge_candidate c) {
    const kvq_symbol *left = &m->symbols[c.left];
    return left->n_bytes == 0 || left->next < 0 || left->n_bytes + m->symbols[left->next].n_bytes != c.n_bytes;
}

bool kvq_merger_run(kvq_merger *m, kvq_merge_rule *rule, const void *family) {
    for (int i = 0; i + 1 < m->n_symbols; i++)
        if (!consider(m, rule, family, i)) return false;
    while (m->n_candidates > 0) {
        kvq_merge_candidate c = pop(m);
        if (is_stale(m, c)) continue;
        merge(m, c);
        if (!consider(m, rule, family, m->symbols[c.left].previous) || !consider(m, rule, family, c.left)) return false;
    }
    return true;
}
