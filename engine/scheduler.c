/* scheduler.c: which rows run in this step. Called by engine.c; takes blocks from pool.c and prefix.c.
 *
 * Policy.
 *   Each step takes one row of every sequence that decodes, then rows of prompts up to max_prefill_token_num. The
 * oldest sequence still reading its prompt may use half of that budget, the rest goes to those with the least left to
 * read, so that a short prompt is answered while a long one is read and the long one still moves. Waiting sequences are
 * admitted while there are slots and blocks for their whole prompt: preempted ones first, then by priority, then by
 * turn (each client's sequences take turns with the other clients'), then by arrival. The first that does not fit stops
 * the admission, so that large prompts do not starve. When blocks run out, cached prefixes are evicted, then the
 * youngest running sequence is preempted: its blocks are given back, it waits in front, and its tokens are computed
 * again later (the same tokens: results do not depend on it). The oldest is never preempted for a younger one, so
 * somebody always finishes. */
#include "scheduler.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct kvq_scheduler {
    kvq_scheduler_options o;
    int block_tokens, n_groups, max_rows, max_pages, max_closes;
    kvq_sequence *waiting;  /* list in order of arrival */
    kvq_sequence **running; /* [max_batch_size], in order of admission */
    int n_running, n_waiting;
    kvq_kv_page *pages;                         /* [max_batch_size, n_groups, max_pages] */
    kvq_kv_page *(*page_lists)[KVQ_MAX_GROUPS]; /* [max_batch_size]: into pages */
    int (*first_page)[KVQ_MAX_GROUPS];          /* [max_batch_size]: pages before it were given back */
    bool *slot_used;                            /* [max_batch_size] */
    uint64_t next_arrival, next_admission, turn;
    kvq_scheduler_stats stats;

    /* the step being planned */
    kvq_batch batch;
    int *ids, *pos, *row_seq;  /* [max_rows] */
    kvq_batch_seq *batch_seqs; /* [max_batch_size] */
    kvq_batch_close *closes;   /* [max_closes] */
    kvq_scheduled *scheduled;  /* [max_batch_size] */
    kvq_sequence **by_rest;    /* [max_batch_size] scratch of the prefill split */
};

int kvq_scheduler_max_rows(int max_batch_size, int max_prefill_token_num) {
    return max_batch_size + max_prefill_token_num;
}

/* Every sequence can close one page with its first rows, and one more for every block_tokens rows. */
static int max_closing_pages(const kvq_kv_plan *plan, int max_batch_size, int max_prefill_token_num) {
    return max_batch_size + max_prefill_token_num / plan->kv.block_tokens + 1;
}

static size_t scratch_slot_bytes(const kvq_kv_plan *plan) {
    return (size_t)plan->kv.n_kv_heads * 2 * kvq_kv_wide_half_bytes(plan->kv.head_dim, plan->kv.block_tokens);
}

uint64_t kvq_scheduler_scratch_bytes(const kvq_kv_plan *plan, int max_batch_size, int max_prefill_token_num) {
    if (!plan->kv.policy->wide) return 0;
    return (uint64_t)max_closing_pages(plan, max_batch_size, max_prefill_token_num) * scratch_slot_bytes(plan);
}

kvq_status kvq_scheduler_new(const kvq_scheduler_options *options, kvq_scheduler **ret, kvq_error *err) {
    kvq_scheduler *s = calloc(1, sizeof *s);
    if (!s) goto fail;
    s->o = *options;
    s->block_tokens = options->plan->kv.block_tokens;
    s->n_groups = options->plan->kv.n_groups;
    s->max_rows = kvq_scheduler_max_rows(options->max_batch_size, options->max_prefill_token_num);
    s->max_pages = (options->session_len + s->block_tokens - 1) / s->block_tokens;
    s->max_closes =
        max_closing_pages(options->plan, options->max_batch_size, options->max_prefill_token_num) * s->n_groups;
    size_t n = (size_t)options->max_batch_size, rows = (size_t)s->max_rows;
    s->running = calloc(n, sizeof *s->running);
    s->pages = calloc(n * (size_t)s->n_groups * (size_t)s->max_pages, sizeof *s->pages);
    s->page_lists = calloc(n, sizeof *s->page_lists);
    s->first_page = calloc(n, sizeof *s->first_page);
    s->slot_used = calloc(n, sizeof *s->slot_used);
    s->ids = calloc(rows, sizeof *s->ids);
    s->pos = calloc(rows, sizeof *s->pos);
    s->row_seq = calloc(rows, sizeof *s->row_seq);
    s->batch_seqs = calloc(n, sizeof *s->batch_seqs);
    s->closes = calloc((size_t)s->max_closes, sizeof *s->closes);
    s->scheduled = calloc(n, sizeof *s->scheduled);
    s->by_rest = calloc(n, sizeof *s->by_rest);
    if (!s->running || !s->pages || !s->page_lists || !s->first_page || !s->slot_used || !s->ids || !s->pos ||
        !s->row_seq || !s->batch_seqs || !s->closes || !s->scheduled || !s->by_rest)
        goto fail;
    s->batch.scratch_slot_bytes = scratch_slot_bytes(options->plan);
    s->batch.scratch = options->scratch;
    for (size_t i = 0; i < n; i++)
        for (int g = 0; g < s->n_groups; g++)
            s->page_lists[i][g] = s->pages + (i * (size_t)s->n_groups + (size_t)g) * (size_t)s->max_pages;
    *ret = s;
    return KVQ_OK;
fail:
    kvq_scheduler_free(s);
    return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the scheduler's lists of %d sequences", options->max_batch_size);
}

void kvq_scheduler_free(kvq_scheduler *s) {
    if (!s) return;
    while (s->n_running > 0) kvq_scheduler_remove(s, s->running[0]);
    free(s->running);
    free(s->pages);
    free(s->page_lists);
    free(s->first_page);
    free(s->slot_used);
    free(s->ids);
    free(s->pos);
    free(s->row_seq);
    free(s->batch_seqs);
    free(s->closes);
    free(s->scheduled);
    free(s->by_rest);
    free(s);
}

/* ---- blocks of one sequence
 * ---------------------------------------------------------------------------------------------- */

/* Gives one reference back and counts it. */
static void give(kvq_scheduler *s, kvq_sequence *seq, uint8_t **block) {
    if (!*block) return;
    kvq_pool_unref(s->o.pool, block);
    seq->n_blocks--;
}

static void give_page(kvq_scheduler *s, kvq_sequence *seq, kvq_kv_page *page) {
    give(s, seq, &page->block);
    give(s, seq, &page->wide_v);
    page->scratch = -1;
}

static void give_all_pages(kvq_scheduler *s, kvq_sequence *seq) {
    for (int g = 0; g < s->n_groups; g++) {
        for (int i = 0; i < s->max_pages && seq->n_blocks > 0; i++) give_page(s, seq, &s->page_lists[seq->slot][g][i]);
        s->first_page[seq->slot][g] = 0;
    }
    assert(seq->n_blocks == 0);
}

/* Makes room for n blocks by evicting cached prefixes. */
static bool make_room(kvq_scheduler *s, uint64_t n) {
    if (kvq_pool_n_free(s->o.pool) >= n) return true;
    return s->o.prefix && kvq_prefix_evict(s->o.prefix, n);
}

static bool take(kvq_scheduler *s, kvq_sequence *seq, uint8_t **block) {
    if (*block) return true;
    if (!make_room(s, 1)) return false;
    *block = kvq_pool_take(s->o.pool);
    seq->n_blocks += *block != NULL;
    return *block != NULL;
}

/* True when the page becomes full at n_tokens tokens and is then closed: of a wide policy all but the first. */
static bool page_closes(const kvq_scheduler *s, int page, int n_tokens) {
    return s->o.plan->kv.policy->wide && page > 0 && (page + 1) * s->block_tokens <= n_tokens;
}

/* Takes what the next n_rows rows need. What was taken stays with the sequence when it fails. */
static bool reserve(kvq_scheduler *s, kvq_sequence *seq, int n_rows) {
    int end = seq->n_computed + n_rows;
    for (int i = seq->n_computed / s->block_tokens; i <= (end - 1) / s->block_tokens; i++) {
        bool needs_wide_v = s->o.plan->kv.policy->wide && !page_closes(s, i, end);
        for (int g = 0; g < s->n_groups; g++) {
            kvq_kv_page *page = &s->page_lists[seq->slot][g][i];
            page->scratch = -1;
            if (!take(s, seq, &page->block) || (needs_wide_v && !take(s, seq, &page->wide_v))) return false;
        }
    }
    return true;
}

/* ---- waiting and running
 * ------------------------------------------------------------------------------------------------------ */

/* The turn of a client's next sequence: behind its own last one, never before the turn being served. */
static uint64_t next_turn(const kvq_scheduler *s, const char *client) {
    uint64_t turn = s->turn;
    for (const kvq_sequence *q = s->waiting; q; q = q->next)
        if (strcmp(q->client, client) == 0 && q->turn >= turn) turn = q->turn + 1;
    for (int i = 0; i < s->n_running; i++)
        if (strcmp(s->running[i]->client, client) == 0 && s->running[i]->turn >= turn) turn = s->running[i]->turn + 1;
    return turn;
}

static void append_waiting(kvq_scheduler *s, kvq_sequence *seq) {
    kvq_sequence **link = &s->waiting;
    while (*link) link = &(*link)->next;
    *link = seq;
    seq->next = NULL;
    seq->state = KVQ_SEQUENCE_WAITING;
    s->n_waiting++;
}

void kvq_scheduler_enqueue(kvq_scheduler *s, kvq_sequence *seq) {
    assert(seq->state == KVQ_SEQUENCE_IDLE && seq->n_tokens >= 1 && seq->n_tokens <= s->o.session_len);
    seq->arrival = s->next_arrival++;
    seq->turn = next_turn(s, seq->client);
    append_waiting(s, seq);
}

static void unlink_waiting(kvq_scheduler *s, kvq_sequence *seq) {
    kvq_sequence **link = &s->waiting;
    while (*link != seq) link = &(*link)->next;
    *link = seq->next;
    seq->next = NULL;
    s->n_waiting--;
}

/* Full pages go to the prefix cache, those whose tokens are known. */
static void keep_pages(kvq_scheduler *s, kvq_sequence *seq) {
    for (; (seq->n_kept + 1) * s->block_tokens <= seq->n_computed; seq->n_kept++) {
        if (seq->tokens[(seq->n_kept + 1) * s->block_tokens - 1] < 0) return;
        if (s->o.prefix && !seq->is_private)
            kvq_prefix_keep(s->o.prefix, seq->tokens, seq->n_kept, s->page_lists[seq->slot]);
    }
}

static void unlink_running(kvq_scheduler *s, kvq_sequence *seq) {
    int i = 0;
    keep_pages(s, seq); /* one whose last token was not known when it was computed */
    while (s->running[i] != seq) i++;
    memmove(&s->running[i], &s->running[i + 1], (size_t)(s->n_running - i - 1) * sizeof s->running[0]);
    s->n_running--;
    give_all_pages(s, seq);
    s->slot_used[seq->slot] = false;
}

void kvq_scheduler_remove(kvq_scheduler *s, kvq_sequence *seq) {
    if (seq->state == KVQ_SEQUENCE_WAITING) unlink_waiting(s, seq);
    if (seq->state == KVQ_SEQUENCE_RUNNING) unlink_running(s, seq);
    seq->state = KVQ_SEQUENCE_IDLE;
}

static void preempt(kvq_scheduler *s, kvq_sequence *seq) {
    unlink_running(s, seq);
    seq->n_computed = 0;
    seq->n_rows = 0;
    seq->n_preemptions++;
    s->stats.preemptions++;
    append_waiting(s, seq);
}

static bool is_before(const kvq_sequence *a, const kvq_sequence *b) {
    if ((a->n_preemptions > 0) != (b->n_preemptions > 0)) return a->n_preemptions > 0;
    if (a->n_preemptions > 0) return a->arrival < b->arrival;
    if (a->priority != b->priority) return a->priority > b->priority;
    if (a->turn != b->turn) return a->turn < b->turn;
    return a->arrival < b->arrival;
}

static kvq_sequence *first_waiting(const kvq_scheduler *s) {
    kvq_sequence *best = s->waiting;
    for (kvq_sequence *q = best; q; q = q->next)
        if (is_before(q, best)) best = q;
    return best;
}

static uint64_t missing_blocks(const kvq_scheduler *s, const kvq_sequence *seq) {
    uint64_t want = kvq_plan_blocks(s->o.plan, (uint64_t)seq->n_tokens, (uint64_t)s->o.max_prefill_token_num);
    return want > seq->n_blocks ? want - seq->n_blocks : 0;
}

/* Blocks that running sequences will still take for the tokens they have. */
static uint64_t promised_blocks(const kvq_scheduler *s) {
    uint64_t n = 0;
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i]->n_computed + 1 < s->running[i]->n_tokens) n += missing_blocks(s, s->running[i]);
    return n;
}

static void find_prefix(kvq_scheduler *s, kvq_sequence *seq) {
    seq->n_computed = seq->n_kept = 0;
    if (!s->o.prefix || seq->is_private) return;
    /* the last token is always computed, and its page is still open then */
    int max_pages = (seq->n_tokens - 1) / s->block_tokens;
    int n = kvq_prefix_find(s->o.prefix, seq->tokens, max_pages, s->page_lists[seq->slot]);
    for (int g = 0; g < s->n_groups; g++) {
        kvq_kv_page *pages = s->page_lists[seq->slot][g];
        int first = n;
        for (int i = 0; i < n; i++) {
            if (!pages[i].block) continue;
            if (first == n) first = i;
            seq->n_blocks += 1 + (pages[i].wide_v != NULL);
        }
        s->first_page[seq->slot][g] = first;
    }
    seq->n_computed = n * s->block_tokens;
    seq->n_kept = n;
}

/* Once a request, when it is admitted first; its own pages after a preemption are no hit that anyone is interested in.
 */
static void count_hit(kvq_scheduler *s, kvq_sequence *seq) {
    if (!s->o.prefix || seq->is_private || seq->n_preemptions > 0) return;
    seq->n_cached = seq->n_computed;
    s->stats.prefix_queries++;
    s->stats.prefix_hits += seq->n_computed > 0;
    s->stats.prefix_query_tokens += (uint64_t)seq->n_tokens;
    s->stats.prefix_hit_tokens += (uint64_t)seq->n_computed;
}

static uint64_t blocks_left(const kvq_scheduler *s) {
    return kvq_pool_n_free(s->o.pool) + kvq_pool_n_cached(s->o.pool);
}

/* Whether its tokens fit beside what is promised, with a margin of a page for everyone (two for the preempted, so that
 * two cannot push each other out for ever). Alone it always fits: session_len was chosen so. */
static bool fits(const kvq_scheduler *s, const kvq_sequence *seq) {
    uint64_t margin = (uint64_t)(s->n_running + 1) * (uint64_t)s->n_groups * (seq->n_preemptions > 0 ? 2 : 1);
    return s->n_running == 0 || missing_blocks(s, seq) + promised_blocks(s) + margin <= blocks_left(s);
}

static bool admit(kvq_scheduler *s, kvq_sequence *seq) {
    int slot = 0;
    while (s->slot_used[slot]) slot++;
    seq->slot = slot;
    find_prefix(s, seq);
    if (!fits(s, seq)) {
        give_all_pages(s, seq);
        return false;
    }
    unlink_waiting(s, seq);
    count_hit(s, seq);
    s->slot_used[slot] = true;
    seq->state = KVQ_SEQUENCE_RUNNING;
    seq->admission = s->next_admission++;
    if (seq->turn > s->turn) s->turn = seq->turn;
    s->running[s->n_running++] = seq;
    return true;
}

/* ---- the split of the prefill budget
 * ---------------------------------------------------------------------------------------- */

static int rest_of(const kvq_sequence *seq) {
    return seq->n_tokens - seq->n_computed - seq->n_rows;
}

static int grant(kvq_sequence *seq, int most) {
    int n = rest_of(seq) < most ? rest_of(seq) : most;
    seq->n_rows += n;
    return n;
}

static int by_rest(const void *a, const void *b) {
    const kvq_sequence *x = *(kvq_sequence *const *)a, *y = *(kvq_sequence *const *)b;
    if (rest_of(x) != rest_of(y)) return rest_of(x) < rest_of(y) ? -1 : 1;
    return x->admission < y->admission ? -1 : x->admission > y->admission;
}

/* Decode rows for all, then the budget: half to the oldest prompt, the rest to the shortest. Admits while budget is
 * left. */
static void share_budget(kvq_scheduler *s) {
    int budget = s->o.max_prefill_token_num, n = 0, waiting_for_budget = 0;
    kvq_sequence *oldest = NULL;
    for (int i = 0; i < s->n_running; i++) {
        kvq_sequence *seq = s->running[i];
        seq->n_rows = 0;
        if (rest_of(seq) == 1)
            (void)grant(seq, 1);
        else if (!oldest)
            oldest = seq;
        waiting_for_budget += rest_of(seq);
    }
    /* one at least, so that a short prompt may overtake when the oldest fills the budget */
    for (int n_admitted = 0; s->waiting && s->n_running < s->o.max_batch_size; n_admitted++) {
        if (waiting_for_budget >= budget && n_admitted > 0) break;
        kvq_sequence *seq = first_waiting(s);
        if (!admit(s, seq)) break;
        seq->n_rows = 0;
        if (!oldest) oldest = seq;
        waiting_for_budget += rest_of(seq);
    }
    if (!oldest) return;
    budget -= grant(oldest, (budget + 1) / 2);
    for (int i = 0; i < s->n_running; i++)
        if (rest_of(s->running[i]) > 0) s->by_rest[n++] = s->running[i];
    qsort(s->by_rest, (size_t)n, sizeof s->by_rest[0], by_rest);
    for (int i = 0; i < n && budget > 0; i++) budget -= grant(s->by_rest[i], budget);
}

/* ---- the batch
 * --------------------------------------------------------------------------------------------------------------------
 */

/* Reserves in order of admission; who finds no block preempts the youngest. The youngest itself first makes do with the
 * rest of its page: a chunk that crosses a page's end needs wide blocks on both sides of it, which is more than the
 * plan counts for a sequence. */
static void reserve_all(kvq_scheduler *s) {
    for (int i = 0; i < s->n_running; i++) {
        kvq_sequence *seq = s->running[i];
        while (seq->n_rows > 0 && !reserve(s, seq, seq->n_rows)) {
            kvq_sequence *youngest = s->running[s->n_running - 1];
            int page_rest = s->block_tokens - seq->n_computed % s->block_tokens;
            if (youngest == seq && seq->n_rows > page_rest) {
                seq->n_rows = page_rest;
                continue;
            }
            preempt(s, youngest);
            if (youngest == seq) return; /* it was the last in the list */
        }
    }
}

static void add_closes(kvq_scheduler *s, int seq_index, kvq_sequence *seq, int *n_slots) {
    int end = seq->n_computed + seq->n_rows;
    for (int i = seq->n_computed / s->block_tokens; i <= (end - 1) / s->block_tokens; i++) {
        if (!page_closes(s, i, end)) continue;
        for (int g = 0; g < s->n_groups; g++) {
            s->page_lists[seq->slot][g][i].scratch = *n_slots; /* a layer is in one group: groups may share a slot */
            assert(s->batch.n_closes < s->max_closes);
            s->closes[s->batch.n_closes++] = (kvq_batch_close){seq_index, g, i};
        }
        ++*n_slots;
    }
}

static void add_rows(kvq_scheduler *s, kvq_sequence *seq, int *n_slots) {
    kvq_batch *b = &s->batch;
    kvq_batch_seq *rows = &s->batch_seqs[b->n_seqs];
    *rows = (kvq_batch_seq){.row_begin = b->n_rows, .n_rows = seq->n_rows, .pos_begin = seq->n_computed};
    for (int g = 0; g < s->n_groups; g++) rows->pages[g] = s->page_lists[seq->slot][g];
    add_closes(s, b->n_seqs, seq, n_slots);
    for (int i = 0; i < seq->n_rows; i++, b->n_rows++) {
        s->ids[b->n_rows] = seq->tokens[seq->n_computed + i];
        s->pos[b->n_rows] = seq->n_computed + i;
        s->row_seq[b->n_rows] = b->n_seqs;
    }
    bool reads_all = seq->n_computed + seq->n_rows == seq->n_tokens;
    s->scheduled[b->n_seqs] = (kvq_scheduled){seq, reads_all ? b->n_rows - 1 : -1};
    b->n_seqs++;
}

bool kvq_scheduler_plan(kvq_scheduler *s, const kvq_batch **ret_batch, const kvq_scheduled **ret_list) {
    share_budget(s);
    reserve_all(s);
    kvq_batch *b = &s->batch;
    b->n_rows = b->n_seqs = b->n_closes = 0;
    b->ids = s->ids;
    b->pos = s->pos;
    b->row_seq = s->row_seq;
    b->seqs = s->batch_seqs;
    b->closes = s->closes;
    int n_slots = 0;
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i]->n_rows > 0) add_rows(s, s->running[i], &n_slots);
    *ret_batch = b;
    *ret_list = s->scheduled;
    return b->n_rows > 0;
}

bool kvq_scheduler_goes_on(const kvq_scheduler *s) {
    uint64_t blocks_a_page = (uint64_t)s->n_groups * (s->o.plan->kv.policy->wide ? 2 : 1), need = 0;
    if (s->waiting && s->n_running < s->o.max_batch_size && fits(s, first_waiting(s))) return false;
    for (int i = 0; i < s->n_running; i++) {
        const kvq_sequence *seq = s->running[i];
        if (seq->n_computed < seq->n_tokens) return false;
        if (seq->n_computed % s->block_tokens == 0) need += blocks_a_page;
    }
    return need <= blocks_left(s);
}

/* Pages behind the window of every row to come go back. */
static void give_dead_pages(kvq_scheduler *s, kvq_sequence *seq) {
    for (int g = 0; g < s->n_groups; g++) {
        int window = s->o.plan->group_window[g];
        int first_seen = seq->n_computed - window + 1; /* position */
        int *first = &s->first_page[seq->slot][g];
        while (window > 0 && (*first + 1) * s->block_tokens <= first_seen)
            give_page(s, seq, &s->page_lists[seq->slot][g][(*first)++]);
    }
}

void kvq_scheduler_commit(kvq_scheduler *s) {
    for (int q = 0; q < s->batch.n_seqs; q++) {
        kvq_sequence *seq = s->scheduled[q].seq;
        kvq_kv_page *const *lists = s->page_lists[seq->slot];
        int begin = seq->n_computed, end = begin + seq->n_rows;
        for (int i = begin / s->block_tokens; (i + 1) * s->block_tokens <= end; i++) {
            for (int g = 0; g < s->n_groups && page_closes(s, i, end); g++) {
                lists[g][i].scratch = -1;
                give(s, seq, &lists[g][i].wide_v);
            }
        }
        seq->n_computed = end;
        seq->n_rows = 0;
        keep_pages(s, seq);
        give_dead_pages(s, seq);
    }
}

void kvq_scheduler_get_stats(const kvq_scheduler *s, kvq_scheduler_stats *ret) {
    *ret = s->stats;
    ret->n_running = s->n_running;
    ret->n_waiting = s->n_waiting;
}
