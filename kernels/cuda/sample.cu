/* sample.cu: logits -> token; ../sampling.h has the arithmetic, the CPU's own, whose sums are exact: so the same token.
 *
 * Three kernels: edits, a thread each; the largest logit of every block of 128 tokens, all of the GPU; then a row's
 * draw by one block. That one block can do it because it looks only at blocks of tokens that hold something of the set:
 * a set is a least place, found by bisection between one that keeps enough and one that keeps too little, and every
 * step of it reads only the blocks whose maximum is not below. top_k begins at the k-th largest block maximum, top_p at
 * a guess, tried first, so that already the first step reads few. Whatever is guessed, the bisection ends at the same
 * place. */
#include "stream.h"

#define KVQ_SAMPLING_FN static __device__ __forceinline__
#include "../sampling.h"
#include "warp.cuh"

enum { EDIT_THREADS = 256, MAXIMA_WARPS = 8, DRAW_THREADS = 512, DRAW_WARPS = DRAW_THREADS / KVQ_WARP_LANES };
#define BLOCK KVQ_SAMPLE_BLOCK
#define LANE_TOKENS (BLOCK / KVQ_WARP_LANES)

/* ---- before the draw ---- */

__global__ void edit_logits(kvq_sample job) {
    kvq_wait_for_launches();
    const kvq_sample_row row = job.rows[blockIdx.x];
    float *x = job.logits + (size_t)blockIdx.x * job.vocab_size;
    for (int i = threadIdx.x; i < row.n_edits; i += blockDim.x) {
        const kvq_sample_edit e = job.edits[row.edit_begin + i];
        x[e.id] = kvq_sample_edited(&row, &e, x[e.id]);
    }
}

/* maxima [n_rows, n_blocks]: keys. */
__global__ void find_maxima(kvq_sample job, uint32_t *maxima, int n_blocks) {
    kvq_wait_for_launches();
    int lane = threadIdx.x % KVQ_WARP_LANES, b = blockIdx.x * MAXIMA_WARPS + threadIdx.x / KVQ_WARP_LANES;
    if (b >= n_blocks) return; /* the whole warp */
    const float *x = job.logits + (size_t)blockIdx.y * job.vocab_size;
    uint32_t most = 0;
    for (int id = b * BLOCK + lane; id < (b + 1) * BLOCK && id < job.vocab_size; id += KVQ_WARP_LANES)
        most = kvq_larger<uint32_t>(most, kvq_sample_key(x[id]));
    most = kvq_warp_max(most);
    if (lane == 0) maxima[(size_t)blockIdx.y * n_blocks + b] = most;
}

/* ---- one row ---- */

typedef struct sampling {
    const float *x;
    const uint32_t *maxima;
    uint64_t *sums; /* [n_blocks] shares of what is kept */
    int n, n_blocks;
    kvq_sample_heat heat;
    uint64_t least; /* kept: places from here on .. */
    float min_p;    /* .. of at least this weight */
} sampling;

/* Of places from some place on. */
typedef struct tally {
    uint32_t count;
    uint64_t share;
} tally;

static __device__ tally sum_over_block(tally t, KVQ_SHARED_PTR(uint64_t) scratch) {
    int lane = threadIdx.x % KVQ_WARP_LANES, warp = threadIdx.x / KVQ_WARP_LANES;
    tally ret = {kvq_warp_sum(t.count), kvq_warp_sum(t.share)};
    if (lane == 0) {
        scratch[2 * warp] = ret.count;
        scratch[2 * warp + 1] = ret.share;
    }
    __syncthreads();
    ret = tally{0, 0};
    if (lane < DRAW_WARPS) ret = tally{(uint32_t)scratch[2 * lane], scratch[2 * lane + 1]};
    ret = tally{kvq_warp_sum(ret.count), kvq_warp_sum(ret.share)};
    __syncthreads();
    return ret;
}

/* This thread's part of the tally of tokens. */
static __device__ tally tally_tokens(const sampling *s, uint64_t least, bool by_share) {
    int lane = threadIdx.x % KVQ_WARP_LANES;
    tally ret = {0, 0};
    for (int first = threadIdx.x - lane; first < s->n_blocks; first += DRAW_THREADS) {
        int mine = first + lane;
        bool looks = mine < s->n_blocks && kvq_sample_place(s->maxima[mine], 0) >= least;
        for (unsigned left = __ballot_sync(KVQ_WARP, looks); left != 0; left &= left - 1) {
            int b = first + __ffs((int)left) - 1;
#pragma unroll
            for (int i = 0; i < LANE_TOKENS; i++) {
                int id = b * BLOCK + i * KVQ_WARP_LANES + lane;
                float x = id < s->n ? s->x[id] : 0.0f;
                if (id >= s->n || kvq_sample_place(kvq_sample_key(x), id) < least) continue;
                ret.count++;
                if (by_share) ret.share += kvq_sample_share(s->heat, x);
            }
        }
    }
    return ret;
}

/* Of the blocks, by their maxima: as if each were a token. */
static __device__ tally tally_blocks(const sampling *s, uint64_t least) {
    tally ret = {0, 0};
    for (int b = threadIdx.x; b < s->n_blocks; b += DRAW_THREADS)
        ret.count += kvq_sample_place(s->maxima[b], b) >= least;
    return ret;
}

enum of_what { BLOCKS, TOKENS, SHARES };

static __device__ tally tally_from(const sampling *s, of_what what, uint64_t least, KVQ_SHARED_PTR(uint64_t) scratch) {
    tally mine = what == BLOCKS ? tally_blocks(s, least) : tally_tokens(s, least, what == SHARES);
    return sum_over_block(mine, scratch);
}

/* The least place of the fewest first ones that reach `need`, by count or by share. `guess` may be any place: a good
 * one is a little below. 0 if all of them do not reach it. */
static __device__ uint64_t bisect(const sampling *s, of_what what, uint64_t need, uint64_t guess,
                                  KVQ_SHARED_PTR(uint64_t) scratch) {
    uint64_t low = 0, high = UINT64_MAX, at = guess; /* no place is as large as high: its key would be a NaN's */
    uint64_t n_low = UINT64_MAX, n_high = 0;
    while (n_low - n_high > 1) { /* one place for a tally, whose code is long */
        tally t = tally_from(s, what, at, scratch);
        if ((what == SHARES ? t.share : t.count) >= need) {
            low = at;
            n_low = t.count;
        } else if (at == 0) {
            return 0;
        } else {
            high = at;
            n_high = t.count;
        }
        at = n_low == UINT64_MAX ? 0 : low + (high - low) / 2; /* all of them, where the guess was a bad one */
    }
    return low;
}

static __device__ uint64_t largest_over_block(uint64_t x, KVQ_SHARED_PTR(uint64_t) scratch) {
    int lane = threadIdx.x % KVQ_WARP_LANES, warp = threadIdx.x / KVQ_WARP_LANES;
    x = kvq_warp_max(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = kvq_warp_max<uint64_t>(scratch[lane % DRAW_WARPS]);
    __syncthreads();
    return x;
}

/* The first token with the largest logit of the row; all threads get it. */
static __device__ uint64_t find_best(const sampling *s, KVQ_SHARED_PTR(uint64_t) scratch) {
    uint64_t best = 0;
    for (int b = threadIdx.x; b < s->n_blocks; b += DRAW_THREADS)
        best = kvq_larger<uint64_t>(best, kvq_sample_place(s->maxima[b], b));
    int b = kvq_sample_id(largest_over_block(best, scratch)), id = b * BLOCK + threadIdx.x;
    best = threadIdx.x < BLOCK && id < s->n ? kvq_sample_place(kvq_sample_key(s->x[id]), id) : 0;
    return largest_over_block(best, scratch);
}

static __device__ bool any_finite(const sampling *s, KVQ_SHARED_PTR(uint64_t) scratch) {
    tally t = {0, 0};
#pragma unroll 4
    for (int id = threadIdx.x; id < s->n; id += DRAW_THREADS) t.count += fabsf(s->x[id]) <= FLT_MAX;
    return sum_over_block(t, scratch).count > 0;
}

static __device__ void keep_top_k(sampling *s, const kvq_sample_row *row, KVQ_SHARED_PTR(uint64_t) scratch) {
    uint64_t need = row->top_k, guess = 0;
    if (row->top_k < s->n_blocks) /* of the k-th largest block maximum */
        guess = bisect(s, BLOCKS, need, 0, scratch) >> 32 << 32;
    s->least = bisect(s, TOKENS, need, guess, scratch);
}

/* Of what is kept so far: all, or the top_k. */
static __device__ void keep_top_p(sampling *s, const kvq_sample_row *row, KVQ_SHARED_PTR(uint64_t) scratch) {
    uint64_t total = tally_from(s, SHARES, s->least, scratch).share, need = kvq_sample_need(row->top_p, total);
    /* shares below this can all be left out; a hundredth of a nat for the logarithm's and exponential's roundings */
    float least_weight = (float)((total - need) / (uint64_t)s->n) / KVQ_SHARE_UNITS;
    float guess = s->heat.max + (logf(least_weight) - 0.01f) / s->heat.inverse; /* of 0: -infinity, all */
    uint64_t place = kvq_sample_place(kvq_sample_key(guess), -1);
    s->least = bisect(s, SHARES, need, kvq_larger<uint64_t>(place, s->least), scratch);
}

/* ---- the draw ---- */

static __device__ uint64_t kept_share(const sampling *s, int id) {
    if (id >= s->n || kvq_sample_place(kvq_sample_key(s->x[id]), id) < s->least) return 0;
    float weight = kvq_sample_weight(s->heat, s->x[id]);
    return weight >= s->min_p ? kvq_sample_share_of(weight) : 0;
}

/* Fills sums; all of them together. */
static __device__ uint64_t sum_kept(const sampling *s, KVQ_SHARED_PTR(uint64_t) scratch) {
    int lane = threadIdx.x % KVQ_WARP_LANES;
    tally total = {0, 0};
    for (int first = threadIdx.x - lane; first < s->n_blocks; first += DRAW_THREADS) {
        int mine = first + lane;
        bool looks = mine < s->n_blocks && kvq_sample_place(s->maxima[mine], 0) >= s->least;
        uint64_t own = 0;
        for (unsigned left = __ballot_sync(KVQ_WARP, looks); left != 0; left &= left - 1) {
            int j = __ffs((int)left) - 1;
            uint64_t sum = 0;
#pragma unroll
            for (int i = 0; i < LANE_TOKENS; i++) sum += kept_share(s, (first + j) * BLOCK + i * KVQ_WARP_LANES + lane);
            sum = kvq_warp_sum(sum);
            if (lane == j) own = sum;
        }
        if (mine < s->n_blocks) s->sums[mine] = own;
        total.share += own;
    }
    return sum_over_block(total, scratch).share; /* with barriers, behind which sums is filled */
}

/* Where in a list of n shares, in order, *target is passed; *target is less what stands before. By one warp. */
template <typename F> static __device__ int find_passed(int n, uint64_t *target, F share_at) {
    int lane = threadIdx.x % KVQ_WARP_LANES, each = (n + KVQ_WARP_LANES - 1) / KVQ_WARP_LANES;
    int begin = lane * each, end = begin + each < n ? begin + each : n;
    uint64_t own = 0, before = 0;
    for (int i = begin; i < end; i++) own += share_at(i);
    for (int l = 0; l < KVQ_WARP_LANES - 1; l++) {
        uint64_t other = __shfl_sync(KVQ_WARP, own, l);
        if (l < lane) before += other;
    }
    unsigned passes = __ballot_sync(KVQ_WARP, *target >= before && *target - before < own);
    int from = __ffs((int)passes) - 1, at = begin; /* one lane does */
    uint64_t rest = *target - before;
    if (lane == from)
        for (uint64_t share; rest >= (share = share_at(at)); at++) rest -= share;
    *target = __shfl_sync(KVQ_WARP, rest, from);
    return __shfl_sync(KVQ_WARP, at, from);
}

static __device__ int find_target(const sampling *s, uint64_t target) {
    int b = find_passed(s->n_blocks, &target, [=](int i) { return s->sums[i]; });
    return b * BLOCK + find_passed(BLOCK, &target, [=](int i) { return kept_share(s, b * BLOCK + i); });
}

__global__ void __launch_bounds__(DRAW_THREADS, 2)
    draw(kvq_sample job, const uint32_t *maxima, uint64_t *sums, int n_blocks) {
    KVQ_SHARED(uint64_t, scratch, 2 * DRAW_WARPS);
    kvq_wait_for_launches();
    const kvq_sample_row row = job.rows[blockIdx.x];
    sampling s = {};
    s.x = job.logits + (size_t)blockIdx.x * job.vocab_size;
    s.maxima = maxima + (size_t)blockIdx.x * n_blocks;
    s.sums = sums + (size_t)blockIdx.x * n_blocks;
    s.n = job.vocab_size;
    s.n_blocks = n_blocks;
    uint64_t best = find_best(&s, scratch);
    float max = kvq_sample_logit(best);
    bool drawn = row.temperature > 0;
    int id = kvq_sample_id(best);
    if (!(fabsf(max) <= FLT_MAX) && !any_finite(&s, scratch)) {
        id = 0;
        drawn = false;
    }
    if (drawn) {
        s.heat = kvq_sample_heat_of(max, row.temperature);
        if (kvq_sample_has_top_k(&row, s.n)) keep_top_k(&s, &row, scratch);
        if (row.top_p < 1) keep_top_p(&s, &row, scratch);
        s.min_p = row.min_p;
        uint64_t target = kvq_sample_target(kvq_sample_random(row.seed, row.index), sum_kept(&s, scratch));
        if (threadIdx.x < KVQ_WARP_LANES) id = find_target(&s, target);
    }
    if (threadIdx.x == 0) job.ids[blockIdx.x] = id;
}

/* ---- the operator ---- */

static int blocks_of(int vocab_size) {
    return kvq_cuda_blocks(vocab_size, BLOCK);
}

size_t kvq_cuda_sample_bytes(const kvq_shapes *shapes) {
    size_t n = (size_t)shapes->max_seqs * (size_t)blocks_of(shapes->vocab_size);
    return kvq_cuda_aligned(n * sizeof(uint32_t)) + kvq_cuda_aligned(n * sizeof(uint64_t));
}

static void sample(kvq_stream *s, const kvq_sample *job) {
    if (job->n_rows == 0) return;
    int n_blocks = blocks_of(job->vocab_size);
    size_t used = 0, n = (size_t)job->n_rows * (size_t)n_blocks;
    uint32_t *maxima = (uint32_t *)kvq_cuda_take(s, &used, n * sizeof *maxima);
    uint64_t *sums = (uint64_t *)kvq_cuda_take(s, &used, n * sizeof *sums);
    if (!maxima || !sums) return;
    kvq_sample on_device = *job;
    size_t rows_bytes = (size_t)job->n_rows * sizeof *job->rows,
           edits_bytes = (size_t)job->n_edits * sizeof *job->edits;
    kvq_cuda_room room = kvq_cuda_take_room(s, rows_bytes + edits_bytes);
    if (!room.host) return;
    memcpy(room.host, job->rows, rows_bytes);
    if (edits_bytes > 0) memcpy(room.host + rows_bytes, job->edits, edits_bytes);
    kvq_cuda_send(s, room, rows_bytes + edits_bytes);
    on_device.rows = (const kvq_sample_row *)room.device;
    on_device.edits = (const kvq_sample_edit *)(room.device + rows_bytes);
    on_device.n_edits = 0; /* each row has its own; what varies from step to step would have to be changed in a graph */
    if (job->n_edits > 0) KVQ_LAUNCH(edit_logits, dim3(job->n_rows), dim3(EDIT_THREADS), 0, s, on_device);
    dim3 grid(kvq_cuda_blocks(n_blocks, MAXIMA_WARPS), job->n_rows);
    KVQ_LAUNCH(find_maxima, grid, dim3(MAXIMA_WARPS * KVQ_WARP_LANES), 0, s, on_device, maxima, n_blocks);
    KVQ_LAUNCH(draw, dim3(job->n_rows), dim3(DRAW_THREADS), 0, s, on_device, maxima, sums, n_blocks);
}

void kvq_cuda_fill_sample(kvq_ops *ops) {
    ops->sample = sample;
}
