/* attend.cu: attention on the codes (../ops.h). A block is a tile (queries that see the same image of every page: rows
 * of one sequence that lie in one page, times heads of one KV group) times one split of the cache (KVQ_SPLIT_PAGES
 * pages at a fixed place). Its warps take pieces of the split's pages by turns, each on its own (attend_piece.cuh);
 * what pieces gave is merged in order of position. Splits leave their soft-max states in the workspace; a second kernel
 * merges them in order too and turns the result back. So a row's result depends on nothing but its own query, its
 * position and the cache: not on the rows beside it, nor on how many warps a block has.
 *
 * What it costs and needs stands in docs/cuda.md. */
#include "stream.h"

#include "attend_piece.cuh"
#include "columns.cuh"

#define ATTEND_WARPS 4
#define ATTEND_THREADS (ATTEND_WARPS * KVQ_WARP_LANES)
#define MERGE_WARPS 4   /* of a block; a warp has a query */
#define MERGE_AT_ONCE 4 /* splits that are asked for at once: the states come from memory */
#define MAX_QUERIES KVQ_CUDA_QUERIES
#define MAX_CHANNELS (KVQ_MAX_HEAD_DIM / KVQ_WARP_LANES) /* of a lane that merges */
#define STATE_BYTES ((size_t)32 << 20)                   /* of the workspace, for states of splits */

typedef struct attend_job {
    kvq_attend job;
    kvq_cuda_kv kv;
    kvq_batch batch;
    kvq_cuda_hadamard hadamard;
    const kvq_row_run *tiles;
    int first_tile; /* of this launch */
    int heads_a_tile, n_head_tiles, n_splits;
    float *states; /* [tiles, n_head_tiles, n_splits, state_floats]: maxima, sums, accumulators of a tile's queries */
    int state_floats;
    kvq_activations left; /* of attend_merge */
} attend_job;

/* A soft-max over part of the cache, one per query: maximum and sum, then acc [head_dim] scaled by 2^-maximum; a
 * maximum of minus infinity is the empty state. */
static __host__ __device__ __forceinline__ int state_floats_of(int head_dim) {
    return MAX_QUERIES * (2 + head_dim);
}

/* ---- tiles ---- */

typedef struct tile {
    kvq_row_run run;
    int g, head_begin, n_heads, n_queries, pos; /* pos: of the first row */
    int first_page, last_page;
} tile;

static __device__ tile tile_of(const attend_job &a, int index, int head_tile) {
    tile ret;
    int group = a.job.n_heads / a.kv.n_kv_heads, tiles_a_group = a.n_head_tiles / a.kv.n_kv_heads;
    int in_group = head_tile % tiles_a_group * a.heads_a_tile, window = a.job.window;
    ret.run = a.tiles[index];
    ret.g = head_tile / tiles_a_group;
    ret.head_begin = ret.g * group + in_group;
    ret.n_heads = group - in_group < a.heads_a_tile ? group - in_group : a.heads_a_tile;
    ret.n_queries = ret.run.n_rows * ret.n_heads;
    ret.pos = a.batch.pos[ret.run.row_begin];
    ret.first_page = window && ret.pos >= window ? (ret.pos - window + 1) / a.kv.block_tokens : 0;
    ret.last_page = ret.pos / a.kv.block_tokens; /* a tile's rows lie in one page */
    return ret;
}

/* The row and the head of the tile's query n. */
static __device__ __forceinline__ int row_of(const tile &t, int n) {
    return t.run.row_begin + n / t.n_heads;
}
static __device__ __forceinline__ int head_of(const tile &t, int n) {
    return t.head_begin + n % t.n_heads;
}

static __device__ __forceinline__ const float *query_of(const attend_job &a, const tile &t, int n) {
    return a.job.q + ((size_t)row_of(t, n) * a.job.n_heads + head_of(t, n)) * a.kv.head_dim;
}

static __device__ __forceinline__ float unit_of(const kvq_attend &job) {
    return job.softcap > 0 ? job.scale : job.scale * KVQ_LOG2_E;
}

/* ---- shared memory ---- */

/* Byte offsets of the parts of a block's shared memory, for rows queries. */
typedef struct places {
    int q_pitch; /* rows lie 16 or 32 bytes on in the banks, so that reading words of eight of them meets no conflict */
    int pages, floats, q, v, acc, bytes; /* queues stand first */
} places;

#define FLOATS_OF_TILE (3 * 16 + 4 * 16 * KVQ_SPLIT_PAGES)

static __host__ __device__ __forceinline__ places places_of(int d, int rows, bool halves, int n_warps) {
    places ret;
    int row_floats = rows * (d + 4);
    ret.q_pitch = halves ? 2 * d + 16 : (d + 63) / 64 * 64 + 32;
    ret.pages = n_warps * KVQ_QUEUE_BYTES;
    ret.floats = ret.pages + 2 * KVQ_SPLIT_PAGES * (int)sizeof(kvq_kv_half);
    ret.q = ret.floats + (FLOATS_OF_TILE + n_warps * PIECE_FLOATS * 16) * 4;
    ret.v = ret.q + 16 * ret.q_pitch;
    ret.acc = ret.v + n_warps * row_floats * 4;
    ret.bytes = ret.acc + row_floats * 4;
    return ret;
}

static __device__ __forceinline__ shared shared_of(KVQ_SHARED_PTR(uint8_t) memory, const places &at) {
    KVQ_SHARED_PTR(float) floats = KVQ_SHARED_CAST(float, memory + at.floats);
    return shared{memory + at.q,
                  floats,
                  floats + 16,
                  KVQ_SHARED_CAST(int, floats + 32),
                  floats + 48,
                  KVQ_SHARED_CAST(kvq_kv_half, memory + at.pages),
                  floats + FLOATS_OF_TILE,
                  KVQ_SHARED_CAST(float, memory + at.v),
                  KVQ_SHARED_CAST(float, memory + at.acc),
                  at.q_pitch};
}

/* ---- queries: a warp each; rows that the tile does not have are zeros ---- */

/* 2^14 over the power of two of max; 0 when there is nothing to bring up. */
static __device__ __forceinline__ float power_up(float max) {
    int exponent = __float_as_int(max) >> 23;
    return max > 1e-30f ? __int_as_float((268 - exponent) << 23) : 0.0f;
}
static __device__ __forceinline__ float power_down(float max) {
    int exponent = __float_as_int(max) >> 23;
    return max > 1e-30f ? __int_as_float((exponent - 14) << 23) : 0.0f;
}

/* Returns the sum of the codes. */
static __device__ int quantize_query(const shared &s, const float *q, int n, int d, float max) {
    int lane = threadIdx.x % KVQ_WARP_LANES, sum = 0;
    float per_code = max > 1e-30f ? 127.0f / max : 0.0f;
    for (int i = lane; i < s.q_pitch; i += KVQ_WARP_LANES) { /* zeros behind the head */
        float x = i < d && q ? q[i] * per_code : 0.0f;
        x = x > -127.0f ? x : -127.0f;
        int code = __float2int_rn(x < 127.0f ? x : 127.0f);
        s.q[n * s.q_pitch + i] = (uint8_t)code;
        sum += code;
    }
    return kvq_warp_sum(sum);
}

static __device__ void split_query(const shared &s, const float *q, int n, int d, float up) {
    KVQ_SHARED_PTR(uint32_t) upper = KVQ_SHARED_CAST(uint32_t, s.q + n * s.q_pitch);
    KVQ_SHARED_PTR(uint32_t) lower = KVQ_SHARED_CAST(uint32_t, s.q + (n + 8) * s.q_pitch);
    for (int i = threadIdx.x % KVQ_WARP_LANES; i < d / 2; i += KVQ_WARP_LANES) {
        uint32_t high, low;
        split_floats(&high, &low, q ? q[2 * i] * up : 0.0f, q ? q[2 * i + 1] * up : 0.0f);
        upper[i] = high;
        lower[i] = low;
    }
}

template <tile_kind KIND> static __device__ void load_queries(const attend_job &a, const tile &t, const shared &s) {
    int d = a.kv.head_dim, lane = threadIdx.x % KVQ_WARP_LANES, n_warps = blockDim.x / KVQ_WARP_LANES;
    for (int n = threadIdx.x / KVQ_WARP_LANES; n < rows_of_tile<KIND>; n += n_warps) {
        const float *q = n < t.n_queries ? query_of(a, t, n) : nullptr;
        float max = 0;
        for (int i = lane; q && i < d; i += KVQ_WARP_LANES) max = kvq_larger(max, fabsf(q[i]));
        max = kvq_warp_max(max);
        int sum = 0;
        if (is_halves<KIND>)
            split_query(s, q, n, d, power_up(max));
        else
            sum = quantize_query(s, q, n, d, max);
        if (lane == 0) {
            s.q_up[n] = power_up(max);
            s.q_sum[n] = sum;
            s.q_scale[n] = (is_halves<KIND> ? power_down(max) : max * (1.0f / 127.0f)) * unit_of(a.job);
        }
    }
}

/* ---- what a page's constant adds to scores: q . (k_mean + k_ref) ---- */

/* Products of the tile's queries with the constants of all pages of the split, on tensor cores: floats are two halves
 * each, so three products give 22 bits. A quarter of the channels (groups of 16, by turns) at a time, so that four
 * warps can share them. */
template <tile_kind KIND>
static __device__ void multiply_constants(const attend_job &a, const tile &t, const shared &s, int first_page,
                                          int n_pages, int quarter) {
    int d = a.kv.head_dim, lane = threadIdx.x % KVQ_WARP_LANES, g = lane / 4, q = lane % 4;
    const uint16_t *mean = g < n_pages ? ((kvq_kv_half)s.pages[2 * g]).mean : nullptr;
    const float *k_ref = g < n_pages ? a.kv.layer.k_ref : nullptr;
    if (k_ref) k_ref += ((size_t)(first_page + g) * a.kv.n_kv_heads + t.g) * d;
    const float *rows[2] = {g < t.n_queries ? query_of(a, t, g) : nullptr,
                            rows_of_lane<KIND> == 2 && g + 8 < t.n_queries ? query_of(a, t, g + 8) : nullptr};
    float ups[2] = {s.q_up[g], rows_of_lane<KIND> == 2 ? s.q_up[g + 8] : 0.0f}, c[4] = {};
    for (int begin = 16 * quarter; begin < d; begin += 64) {
        uint32_t upper[4], lower[4], b[2], b_low[2];
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const float *x = rows[w % 2];
            int i = begin + 2 * q + w / 2 * 8;
            split_floats(&upper[w], &lower[w], x ? x[i] * ups[w % 2] : 0.0f, x ? x[i + 1] * ups[w % 2] : 0.0f);
        }
#pragma unroll
        for (int w = 0; w < 2; w++) {
            int i = begin + 2 * q + w * 8;
            float x = mean ? kvq_half_float(mean[i]) : 0.0f, y = mean ? kvq_half_float(mean[i + 1]) : 0.0f;
            split_floats(&b[w], &b_low[w], k_ref ? x + k_ref[i] : x, k_ref ? y + k_ref[i + 1] : y);
        }
        kvq_mma_halves(c, upper, b);
        kvq_mma_halves(c, lower, b);
        kvq_mma_halves(c, upper, b_low);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) s.constants[(quarter * 16 + g + i / 2 * 8) * KVQ_SPLIT_PAGES + 2 * q + i % 2] = c[i];
}

static __device__ __forceinline__ bool has_constants(const attend_job &a) {
    return a.kv.layer.k_ref || a.kv.layer.closed.k_mean != KVQ_ABSENT;
}

static __device__ __forceinline__ float constant_of(const shared &s, int n, int index) {
    float sum = 0;
#pragma unroll
    for (int quarter = 0; quarter < 4; quarter++) sum += s.constants[(quarter * 16 + n) * KVQ_SPLIT_PAGES + index];
    float up = s.q_up[n];
    return up > 0 ? sum / up : 0.0f;
}

/* ---- a split ---- */

template <tile_kind KIND>
static __device__ __forceinline__ piece_view view_of(const attend_job &a, const tile &t, const shared &s,
                                                     int first_page, int piece) {
    piece_view ret;
    int g = threadIdx.x % KVQ_WARP_LANES / 4, window = a.job.window, n_tokens = a.kv.block_tokens;
    ret.page = kvq_page_of_piece(piece, n_tokens);
    int begin = (first_page + ret.page) * n_tokens + kvq_begin_of_piece(piece, n_tokens);
    int last_row = t.pos + t.run.n_rows - 1, end = n_tokens < KVQ_PIECE_TOKENS ? n_tokens : KVQ_PIECE_TOKENS;
    ret.n_written = last_row + 1 - begin;
    ret.masked = end < KVQ_PIECE_TOKENS || begin + end - 1 > t.pos || (window && begin <= last_row - window);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int n = g + 8 * r, last = t.pos + n / t.n_heads - begin;
        ret.before[r] = window ? last - window : -1;
        ret.last[r] = last < end ? last : end - 1;
        ret.plus[r] = r < rows_of_lane<KIND> && has_constants(a) ? constant_of(s, n, ret.page) * unit_of(a.job) : 0.0f;
    }
    return ret;
}

/* A query's state; every thread of a query has it. */
typedef struct row_state {
    float max, sum;
} row_state;

/* Merges what n_pieces warps left into the accumulators, in order. A query has blockDim.x / rows threads. */
template <tile_kind KIND>
static __device__ __forceinline__ void merge_pieces(const shared &s, int n_pieces, int d, row_state *state) {
    constexpr int rows = rows_of_tile<KIND>;
    int threads = blockDim.x / rows, n = threadIdx.x / threads, pitch = d + 4;
    float keep[ATTEND_WARPS], scale[ATTEND_WARPS], plus[ATTEND_WARPS];
#pragma unroll
    for (int w = 0; w < ATTEND_WARPS; w++) {
        KVQ_SHARED_PTR(float) piece = s.piece + w * (PIECE_FLOATS * 16) + n;
        float from = w < n_pieces ? (float)piece[PIECE_MAX * 16] : -INFINITY;
        keep[w] = 1;
        scale[w] = plus[w] = 0;
        if (from == -INFINITY) continue; /* nothing seen */
        float larger = state->max > from ? state->max : from, add = kvq_exp2_low(from - larger);
        keep[w] = kvq_exp2_low(state->max - larger);
        scale[w] = piece[PIECE_SCALE * 16] * add;
        plus[w] = piece[PIECE_PLUS * 16] * add;
        state->sum = fmaf(state->sum, keep[w], piece[PIECE_SUM * 16] * add);
        state->max = larger;
    }
    for (int i = threadIdx.x % threads * 4; i < d; i += threads * 4) {
        KVQ_SHARED_PTR(float4) to = KVQ_SHARED_CAST(float4, s.acc + n * pitch + i);
        float4 acc = to[0];
#pragma unroll
        for (int w = 0; w < ATTEND_WARPS; w++) {
            if (w >= n_pieces) break;
            const float4 v = KVQ_SHARED_CAST(float4, s.v + (w * rows + n) * pitch + i)[0];
            acc.x = fmaf(scale[w], v.x, fmaf(acc.x, keep[w], plus[w]));
            acc.y = fmaf(scale[w], v.y, fmaf(acc.y, keep[w], plus[w]));
            acc.z = fmaf(scale[w], v.z, fmaf(acc.z, keep[w], plus[w]));
            acc.w = fmaf(scale[w], v.w, fmaf(acc.w, keep[w], plus[w]));
        }
        to[0] = acc;
    }
}

template <tile_kind KIND>
static __device__ __forceinline__ void store_state(const tile &t, const shared &s, int d, const row_state &state,
                                                   float *to) {
    int threads = blockDim.x / rows_of_tile<KIND>, n = threadIdx.x / threads, first = threadIdx.x % threads;
    if (n >= t.n_queries) return;
    if (first == 0) {
        to[n] = state.max;
        to[MAX_QUERIES + n] = state.sum;
    }
    for (int i = 4 * first; i < d; i += 4 * threads)
        *(float4 *)(to + 2 * MAX_QUERIES + n * d + i) = KVQ_SHARED_CAST(float4, s.acc + n * (d + 4) + i)[0];
}

/* Where the split's pages are, a thread each; accumulators begin empty. */
template <tile_kind KIND>
static __device__ void look_up_pages(const attend_job &a, const tile &t, const shared &s, int begin, int n_pages) {
    const kvq_kv_page *pages = a.batch.seqs[t.run.seq].pages[a.kv.layer.group] + begin;
    int i = threadIdx.x;
    if (i < n_pages) {
        kvq_kv_half k, v;
        if (kvq_sees_wide(a.kv, t.pos, begin + i))
            kvq_wide_halves(a.kv, pages[i], a.batch, true, t.g, &k, &v);
        else
            kvq_closed_halves(a.kv, pages[i], t.g, &k, &v);
        s.pages[2 * i] = k;
        s.pages[2 * i + 1] = v;
    }
    for (; i < rows_of_tile<KIND> * (a.kv.head_dim + 4); i += blockDim.x) s.acc[i] = 0;
}

template <tile_kind KIND> __global__ __launch_bounds__(ATTEND_THREADS) void attend_split(attend_job a) {
    KVQ_SHARED_DYNAMIC(uint8_t, memory);
    tile t = tile_of(a, a.first_tile + blockIdx.x, blockIdx.y);
    int split = t.first_page / KVQ_SPLIT_PAGES + (int)blockIdx.z, d = a.kv.head_dim;
    int begin = split * KVQ_SPLIT_PAGES, end = begin + KVQ_SPLIT_PAGES;
    if (begin < t.first_page) begin = t.first_page;
    if (end > t.last_page + 1) end = t.last_page + 1;
    if (begin >= end) return; /* the whole block: this tile has fewer splits than the longest */
    int warp = threadIdx.x / KVQ_WARP_LANES, n_warps = blockDim.x / KVQ_WARP_LANES;
    int n_pieces = (end - begin) * kvq_pieces_of_page(a.kv.block_tokens);
    const places at = places_of(d, rows_of_tile<KIND>, is_halves<KIND>, n_warps);
    const shared s = shared_of(memory, at);

    look_up_pages<KIND>(a, t, s, begin, end - begin);
    __syncthreads();
    kvq_page_queue queue;
    queue.ring = memory + warp * KVQ_QUEUE_BYTES;
    queue.scales = queue.ring + KVQ_QUEUE_STEPS * KVQ_QUEUE_STEP_BYTES;
    queue.pages = s.pages;
    queue.head_dim = d;
    queue.block_tokens = a.kv.block_tokens;
    queue.n_seen = t.pos + t.run.n_rows - begin * a.kv.block_tokens;
    kvq_queue_begin<is_halves<KIND>>(queue, warp, n_warps, n_pieces);
    load_queries<KIND>(a, t, s);
    if (has_constants(a)) {
        __syncthreads();
        for (int quarter = warp; quarter < 4; quarter += n_warps)
            multiply_constants<KIND>(a, t, s, begin, end - begin, quarter);
    }
    __syncthreads();

    row_state state = {-INFINITY, 0};
    for (int first = 0, set = 0; first < n_pieces; first += n_warps, set = kvq_next_scales(set)) {
        int left = n_pieces - first;
        if (warp < left) {
            const piece_view view = view_of<KIND>(a, t, s, begin, first + warp);
            attend_piece<KIND>(s, queue, set, a.job.softcap, a.kv.policy.sym, view);
        }
        __syncthreads();
        merge_pieces<KIND>(s, left < n_warps ? left : n_warps, d, &state);
        __syncthreads();
    }
    size_t place = ((size_t)blockIdx.x * a.n_head_tiles + blockIdx.y) * a.n_splits + blockIdx.z;
    store_state<KIND>(t, s, d, state, a.states + place * a.state_floats);
}

/* ---- splits merged in order, then turned back: a warp per query ---- */

/* What a lane has of a query's soft-max. */
typedef struct merge_state {
    float max, sum, acc[MAX_CHANNELS];
} merge_state;

/* Query n's state of a split as attend_split left it; the empty one for splits behind the last. */
static __device__ __forceinline__ void load_state(merge_state *ret, const float *state, bool exists, int n, int d) {
    int lane = threadIdx.x % KVQ_WARP_LANES;
    ret->max = exists ? state[n] : -INFINITY;
    ret->sum = exists ? state[MAX_QUERIES + n] : 0.0f;
#pragma unroll
    for (int c = 0; c < MAX_CHANNELS; c++) {
        int channel = c * KVQ_WARP_LANES + lane;
        ret->acc[c] = exists && channel < d ? state[2 * MAX_QUERIES + n * d + channel] : 0.0f;
    }
}

static __device__ __forceinline__ void merge_state_into(merge_state *to, const merge_state &from) {
    if (from.max == -INFINITY) return;
    float larger = to->max > from.max ? to->max : from.max;
    float keep = kvq_exp2_low(to->max - larger), add = kvq_exp2_low(from.max - larger);
    if (to->max == -INFINITY) keep = 0;
    to->sum = fmaf(to->sum, keep, from.sum * add);
    to->max = larger;
#pragma unroll
    for (int c = 0; c < MAX_CHANNELS; c++) to->acc[c] = fmaf(to->acc[c], keep, from.acc[c] * add);
}

__global__ void attend_merge(attend_job a) {
    KVQ_SHARED(float, heads, MERGE_WARPS *KVQ_MAX_HEAD_DIM);
    KVQ_SHARED(float, others, MERGE_WARPS *KVQ_MAX_HEAD_DIM);
    tile t = tile_of(a, a.first_tile + blockIdx.x, blockIdx.y);
    int d = a.kv.head_dim, n_splits = t.last_page / KVQ_SPLIT_PAGES - t.first_page / KVQ_SPLIT_PAGES + 1;
    int warp = threadIdx.x / KVQ_WARP_LANES, lane = threadIdx.x % KVQ_WARP_LANES, n = blockIdx.z * MERGE_WARPS + warp;
    if (n >= t.n_queries) return; /* the whole warp */
    const float *states = a.states + ((size_t)blockIdx.x * a.n_head_tiles + blockIdx.y) * a.n_splits * a.state_floats;
    merge_state all = {-INFINITY, 0, {}}, splits[MERGE_AT_ONCE];
    for (int first = 0; first < n_splits; first += MERGE_AT_ONCE) {
#pragma unroll
        for (int i = 0; i < MERGE_AT_ONCE; i++)
            load_state(&splits[i], states + (size_t)(first + i) * a.state_floats, first + i < n_splits, n, d);
#pragma unroll
        for (int i = 0; i < MERGE_AT_ONCE; i++) merge_state_into(&all, splits[i]);
    }
    KVQ_SHARED_PTR(float) x = heads + warp * KVQ_MAX_HEAD_DIM;
    float unit = 1.0f / all.sum;
#pragma unroll
    for (int c = 0; c < MAX_CHANNELS; c++)
        if (c * KVQ_WARP_LANES + lane < d) x[c * KVQ_WARP_LANES + lane] = all.acc[c] * unit;
    if (a.kv.policy.rotated) kvq_hadamard_warp(x, others + warp * KVQ_MAX_HEAD_DIM, d, a.hadamard);
    int row = row_of(t, n), at = head_of(t, n) * d;
    float *out = a.job.out + (size_t)row * a.job.n_heads * d + at;
    for (int i = lane; i < d; i += KVQ_WARP_LANES) {
        out[i] = x[i];
        if (a.left.columns) kvq_quantize_step(a.left, row, (at + i) / KVQ_STEP, x[i]); /* by all lanes */
    }
}

/* ---- the host's part ---- */

size_t kvq_cuda_attend_bytes(const kvq_shapes *shapes) {
    size_t most = 0;
    for (int queries = 8; queries <= MAX_QUERIES; queries *= 2) {
        kvq_head_tiles heads = kvq_cut_heads(shapes->n_heads, shapes->n_kv_heads, queries);
        size_t one = (size_t)heads.n_tiles * kvq_cuda_splits(shapes->max_tokens, shapes->block_tokens) *
                     state_floats_of(shapes->head_dim) * sizeof(float);
        size_t all = one * (size_t)shapes->max_rows;
        size_t here = all < STATE_BYTES ? all : one > STATE_BYTES ? one : STATE_BYTES;
        if (here > most) most = here;
    }
    return most;
}

/* A kernel for each kind of tile. */
typedef struct variant {
    int rows;
    void (*launch)(kvq_stream *s, dim3 grid, int threads, size_t shared_bytes, const attend_job &a);
    cudaError_t (*allow)(size_t shared_bytes);
} variant;

template <tile_kind KIND>
static void launch_split(kvq_stream *s, dim3 grid, int threads, size_t shared_bytes, const attend_job &a) {
    KVQ_LAUNCH(attend_split<KIND>, grid, dim3(threads), shared_bytes, s, a);
}
/* Copies pass the first-level cache by, so all of its memory may be shared memory, and as many blocks as fit there run
 * beside each other. */
template <tile_kind KIND> static cudaError_t allow_split(size_t shared_bytes) {
    cudaError_t error = cudaFuncSetAttribute(attend_split<KIND>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                             cudaSharedmemCarveoutMaxShared);
    if (error != cudaSuccess) return error;
    return cudaFuncSetAttribute(attend_split<KIND>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
}

#define VARIANT(KIND) \
    { rows_of_tile<KIND>, launch_split<KIND>, allow_split<KIND> }
static const variant variants[] = {VARIANT(TILE_HALVES), VARIANT(TILE_CODES_8), VARIANT(TILE_CODES_16)};

kvq_status kvq_cuda_allow_attend(size_t shared_bytes, kvq_error *err) {
    for (const variant &v : variants) {
        cudaError_t error = v.allow(shared_bytes);
        if (error != cudaSuccess)
            return kvq_fail(err, KVQ_DEVICE, "asking for %zu bytes of shared memory a block: %s", shared_bytes,
                            cudaGetErrorString(error));
    }
    return KVQ_OK;
}

/* Tiles [a.first_tile, end), as many at a time as the workspace has room for. */
static void attend_tiles(kvq_stream *s, attend_job a, tile_kind kind, int end) {
    const variant *v = &variants[kind];
    int n_warps = ATTEND_WARPS;
    places at = places_of(a.kv.head_dim, v->rows, kind == TILE_HALVES, n_warps);
    while (n_warps > 1 && (size_t)at.bytes > s->shared_bytes) {
        n_warps /= 2; /* another number gives the same results */
        at = places_of(a.kv.head_dim, v->rows, kind == TILE_HALVES, n_warps);
    }
    size_t a_tile = (size_t)a.n_head_tiles * a.n_splits * a.state_floats * sizeof(float), used = 0;
    size_t n_fit = s->workspace_bytes / a_tile;
    int n_tiles = end - a.first_tile, tiles_a_launch = n_fit < (size_t)n_tiles ? (int)n_fit : n_tiles;
    if (tiles_a_launch < 1) tiles_a_launch = 1; /* and fail below */
    a.states = n_tiles > 0 ? (float *)kvq_cuda_take(s, &used, (size_t)tiles_a_launch * a_tile) : NULL;
    for (; a.states && a.first_tile < end; a.first_tile += tiles_a_launch) {
        int left = end - a.first_tile, n = left < tiles_a_launch ? left : tiles_a_launch;
        v->launch(s, dim3(n, a.n_head_tiles, a.n_splits), n_warps * KVQ_WARP_LANES, at.bytes, a);
        if (a.kv.head_dim % KVQ_STEP == 0)
            a.left = kvq_cuda_leave(s, a.job.out, a.batch.n_rows, a.job.n_heads * a.kv.head_dim);
        KVQ_LAUNCH(attend_merge, dim3(n, a.n_head_tiles, kvq_cuda_blocks(v->rows, MERGE_WARPS)),
                   dim3(MERGE_WARPS * KVQ_WARP_LANES), 0, s, a);
    }
}

static void attend(kvq_stream *s, const kvq_attend *job) {
    const kvq_cuda_step *step = kvq_cuda_step_of(s, job->batch);
    if (!step || step->n_tiles == 0) return;
    attend_job a = {};
    a.job = *job;
    a.kv = kvq_cuda_kv_of(job->kv, job->layer);
    a.batch = step->batch;
    a.tiles = step->tiles;
    a.heads_a_tile = step->heads.heads_a_tile;
    a.n_head_tiles = step->heads.n_tiles;
    a.n_splits = step->most_splits;
    a.state_floats = state_floats_of(a.kv.head_dim);
    if (a.kv.policy.rotated) a.hadamard = kvq_cuda_hadamard_of(a.kv.head_dim);
    bool halves = a.kv.policy.k_bits == 16;
    attend_tiles(s, a, halves ? TILE_HALVES : TILE_CODES_8, step->n_small_tiles);
    a.first_tile = step->n_small_tiles;
    attend_tiles(s, a, TILE_CODES_16, step->n_tiles);
}

void kvq_cuda_fill_attend(kvq_ops *ops) {
    ops->attend = attend;
}
