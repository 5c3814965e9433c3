/* plan.c: the arithmetic of memory. Called by engine.c at open and by kvqctl show through kvq_plan_open.
 *
 * Layers with a sliding window and layers without are put into groups of equally many layers of one kind (the greatest
 * common divisor of both counts), so that one block size serves all and pages behind a window can be given back. */
#include "plan.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SHARE 0.5     /* of free memory where the system lives in it too */
#define DEFAULT_SHARE_OWN 0.8 /* of a GPU's own */

static int gcd(int a, int b) {
    return b ? gcd(b, a % b) : a;
}

/* Gives every layer its group; layers of one kind fill groups of group_layers in order. */
static kvq_status assign_groups(kvq_kv_plan *plan, const kvq_hparams *p, kvq_error *err) {
    int n_local = 0;
    for (int l = 0; l < p->n_layers; l++) n_local += kvq_hparams_is_local(p, l);
    int group_layers = gcd(p->n_layers - n_local, n_local);
    plan->kv.n_groups = p->n_layers / group_layers;
    if (plan->kv.n_groups > KVQ_MAX_GROUPS)
        return kvq_fail(err, KVQ_UNSUPPORTED, "%d layers with a window among %d make %d groups, allowed are %d",
                        n_local, p->n_layers, plan->kv.n_groups, KVQ_MAX_GROUPS);
    int seen[2] = {0, 0}; /* layers of each kind so far */
    int first_local_group = (p->n_layers - n_local) / group_layers;
    for (int l = 0; l < p->n_layers; l++) {
        bool local = kvq_hparams_is_local(p, l);
        int group = seen[local]++ / group_layers + (local ? first_local_group : 0);
        plan->kv.layers[l].group = group;
        plan->group_window[group] = local ? p->window : 0;
    }
    return KVQ_OK;
}

kvq_status kvq_kv_plan_init(kvq_kv_plan *ret, const kvq_gguf *g, const kvq_hparams *p, kvq_policy_id policy,
                            int block_tokens, kvq_error *err) {
    kvq_kv_plan plan = {.kv = {.policy = kvq_policy_get(policy),
                               .block_tokens = block_tokens,
                               .head_dim = p->head_dim,
                               .n_kv_heads = p->n_kv_heads,
                               .n_layers = p->n_layers}};
    size_t kv_dim = (size_t)p->n_kv_heads * (size_t)p->head_dim;
    plan.kv.layers = calloc((size_t)p->n_layers, sizeof *plan.kv.layers);
    float *bias = malloc(kv_dim * sizeof *bias);
    kvq_status status = plan.kv.layers && bias ? KVQ_OK : kvq_fail(err, KVQ_NO_MEMORY, "no memory for the KV plan");
    if (!status) status = assign_groups(&plan, p, err);
    if (status) {
        free(bias);
        kvq_kv_plan_done(&plan);
        return status;
    }

    size_t group_bytes[KVQ_MAX_GROUPS] = {0}, group_bytes_f16[KVQ_MAX_GROUPS] = {0};
    kvq_kv_image f16;
    kvq_kv_image_init(&f16, kvq_policy_get(KVQ_POLICY_F16), p->head_dim, block_tokens, false);
    double values = 2.0 * (double)kv_dim * block_tokens * p->n_layers, bytes = 0;
    for (int l = 0; l < p->n_layers; l++) {
        kvq_kv_layer *layer = &plan.kv.layers[l];
        bool has_bias = plan.kv.policy->bias_out && kvq_model_k_bias(g, p, l, bias);
        const kvq_rope *rope = &p->rope[kvq_hparams_is_local(p, l)];
        layer->hard = plan.kv.policy->wide && has_bias &&
                      kvq_kv_bias_is_hard(bias, rope, p->n_kv_heads, p->head_dim, block_tokens);
        kvq_kv_image_init(&layer->closed, plan.kv.policy, p->head_dim, block_tokens, layer->hard);
        layer->offset = group_bytes[layer->group];
        group_bytes[layer->group] += layer->closed.bytes * (size_t)p->n_kv_heads;
        group_bytes_f16[layer->group] += f16.bytes * (size_t)p->n_kv_heads;
        bytes += (double)(layer->closed.bytes * (size_t)p->n_kv_heads);
        plan.n_hard_layers += layer->hard;
        plan.n_ref_layers += has_bias;
    }
    for (int i = 0; i < plan.kv.n_groups; i++) {
        if (group_bytes[i] > plan.kv.block_bytes) plan.kv.block_bytes = group_bytes[i];
        if (group_bytes_f16[i] > plan.block_bytes_f16) plan.block_bytes_f16 = group_bytes_f16[i];
    }
    plan.bits_per_value = bytes * 8.0 / values;
    free(bias);
    *ret = plan;
    return KVQ_OK;
}

void kvq_kv_plan_done(kvq_kv_plan *plan) {
    if (!plan) return;
    free(plan->kv.layers);
    *plan = (kvq_kv_plan){0};
}

/* Pages of one group: all, or those that a window of w tokens (and a chunk being read) can still see. */
static uint64_t group_pages(uint64_t n_tokens, uint64_t window, uint64_t chunk, uint64_t block_tokens) {
    uint64_t pages = (n_tokens + block_tokens - 1) / block_tokens;
    if (window == 0) return pages;
    uint64_t seen = (window + chunk + block_tokens - 2) / block_tokens + 1; /* a window may begin inside a page */
    return pages < seen ? pages : seen;
}

static uint64_t blocks_of(const kvq_kv_plan *plan, uint64_t n_tokens, uint64_t chunk, bool wide) {
    uint64_t block_tokens = (uint64_t)plan->kv.block_tokens, blocks = 0;
    for (int i = 0; i < plan->kv.n_groups; i++) {
        uint64_t pages = group_pages(n_tokens, (uint64_t)plan->group_window[i], chunk, block_tokens);
        /* While it is read, the first page has not left the window yet and stands beside as many others. */
        bool keeps_first = chunk > 0 || pages * block_tokens >= n_tokens;
        uint64_t wide_pages = !wide || pages == 0 ? 0 : pages > 1 && keeps_first ? 2 : 1;
        blocks += pages + wide_pages * (uint64_t)(plan->kv.policy->wide_blocks - 1);
    }
    return blocks;
}

uint64_t kvq_plan_blocks(const kvq_kv_plan *plan, uint64_t n_tokens, uint64_t chunk_tokens) {
    return blocks_of(plan, n_tokens, chunk_tokens, plan->kv.policy->wide);
}

uint64_t kvq_plan_blocks_f16(const kvq_kv_plan *plan, uint64_t n_tokens) {
    return blocks_of(plan, n_tokens, 0, false);
}

static double mib(uint64_t bytes) {
    return (double)bytes / 1048576;
}

kvq_status kvq_plan_fixed(uint64_t weight_bytes, uint64_t workspace_bytes, kvq_free_memory *free, kvq_error *err) {
    uint64_t wanted = weight_bytes + workspace_bytes; /* both are sums of what exists or is checked */
    if (wanted > free->bytes)
        return kvq_fail(err, KVQ_NO_MEMORY,
                        "weights take %.1f MiB and the workspace %.1f MiB, %.1f MiB %sare free: %.1f MiB are missing; "
                        "take a model of fewer or smaller weights, or lower max_batch_size or max_prefill_token_num, "
                        "which make the workspace",
                        mib(weight_bytes), mib(workspace_bytes), mib(free->bytes),
                        free->is_shared ? "" : "of the GPU's memory ", mib(wanted - free->bytes));
    free->bytes -= wanted;
    return KVQ_OK;
}

/* A decimal number without regard to the locale: digits, one point. False if there is anything else. */
static bool parse_number(const char *text, double *ret, bool *ret_has_point, const char **ret_end) {
    double value = 0, unit = 1;
    bool has_point = false, has_digit = false;
    for (; isdigit((unsigned char)*text) || (*text == '.' && !has_point); text++) {
        if (*text == '.') {
            has_point = true;
            continue;
        }
        has_digit = true;
        if (has_point)
            value += (unit /= 10) * (*text - '0');
        else
            value = value * 10 + (*text - '0');
    }
    *ret = value;
    *ret_has_point = has_point;
    *ret_end = text;
    return has_digit;
}

kvq_status kvq_plan_pool_bytes(const kvq_kv_plan *plan, const char *cache_max_entry_count, kvq_free_memory free,
                               int session_len, int max_batch_size, uint64_t *ret_n_blocks, kvq_error *err) {
    double free_bytes = (double)free.bytes, want = free_bytes * (free.is_shared ? DEFAULT_SHARE : DEFAULT_SHARE_OWN);
    if (!cache_max_entry_count) {
        double cap = 2.0 * (double)kvq_plan_blocks_f16(plan, (uint64_t)session_len) * (double)plan->block_bytes_f16 *
                     max_batch_size;
        /* While it is read, a sequence holds pages that its windows will drop; with few sequences that is more than the
         * cap. */
        double one =
            (double)kvq_plan_blocks(plan, (uint64_t)session_len, (uint64_t)session_len) * (double)plan->kv.block_bytes;
        if (cap < one) cap = one;
        if (want > cap) want = cap;
    } else {
        static const char units[] = "KMGT";
        double value;
        bool has_point;
        const char *end;
        bool good = parse_number(cache_max_entry_count, &value, &has_point, &end) && value > 0;
        const char *unit = good && *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
        bool is_part_block = !*end && value > 1 && has_point; /* 1.5 was meant as neither a share nor a number */
        if (!good || is_part_block || (*end && (!unit || end[1])))
            return kvq_fail(err, KVQ_BAD_ARGUMENT,
                            "cache_max_entry_count '%.40s' is none of: a share above 0 to 1, a whole number of f16 "
                            "blocks above 1, bytes with a unit (1536M, 6G)",
                            cache_max_entry_count);
        if (unit) {
            for (long i = 0; i <= unit - units; i++) value *= 1024;
            want = value;
        } else
            want = value <= 1 ? value * free_bytes : value * (double)plan->block_bytes_f16;
    }
    if (want > free_bytes)
        return kvq_fail(err, KVQ_NO_SPACE,
                        "a KV pool of %.0f MiB is asked for, %.0f MiB are free after weights and workspace: %.0f MiB "
                        "are missing; lower cache_max_entry_count",
                        want / 1048576, free_bytes / 1048576, (want - free_bytes) / 1048576);
    *ret_n_blocks = (uint64_t)(want / (double)plan->kv.block_bytes);
    return KVQ_OK;
}

/* The longest sequence that n_blocks hold, by bisection: blocks_of never falls as tokens rise. */
static uint64_t longest_sequence(const kvq_kv_plan *plan, uint64_t n_blocks, uint64_t limit, uint64_t chunk) {
    uint64_t low = 0, high = limit;
    while (low < high) {
        uint64_t middle = low + (high - low + 1) / 2;
        if (kvq_plan_blocks(plan, middle, chunk) <= n_blocks)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

kvq_status kvq_plan_session_len(const kvq_kv_plan *plan, uint64_t n_blocks, int asked, int model_context_len,
                                int chunk_tokens, int *ret, kvq_error *err) {
    uint64_t fits = longest_sequence(plan, n_blocks, (uint64_t)model_context_len, (uint64_t)chunk_tokens);
    if (asked > model_context_len)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "session_len %d is beyond the model's context of %d tokens", asked,
                        model_context_len);
    uint64_t want = asked                                         ? (uint64_t)asked
                    : model_context_len < KVQ_DEFAULT_SESSION_LEN ? (uint64_t)model_context_len
                                                                  : KVQ_DEFAULT_SESSION_LEN;
    if (!asked && want > fits) want = fits;
    uint64_t least = asked ? 1 : 2 * (uint64_t)plan->kv.block_tokens; /* unasked, a pool below that is of no use */
    if (least > (uint64_t)model_context_len) least = (uint64_t)model_context_len;
    if (want > fits || want < least)
        return kvq_fail(err, KVQ_NO_SPACE,
                        "the KV pool of %" PRIu64 " blocks holds one sequence of %" PRIu64
                        " tokens, session_len asks for %" PRIu64
                        "; raise cache_max_entry_count, lower session_len or choose a quant_policy of fewer bits",
                        n_blocks, fits, want > least ? want : least);
    *ret = (int)want;
    return KVQ_OK;
}
