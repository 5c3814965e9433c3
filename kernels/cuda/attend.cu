/* attend.cu: attention on the codes (../ops.h). A tile is queries that see the same image of every page: rows of one
 * sequence that lie in one page, times heads of one KV group. A block has one split of the cache (KVQ_SPLIT_PAGES pages
 * at a fixed place) and
 *   one tile (attend_split): its warps take pieces of the split's pages by turns, each on its own (attend_piece.cuh),
 *   or a tile for each warp, of the same page (attend_split_shared): so pages come from memory once for all of them.
 * What pieces gave is merged in order of position. Splits leave their soft-max states in the workspace; they are merged
 * in order too and the result is turned back: by that block of attend_split that is done last of a tile's, or, of tiles
 * that share their pages, by a third kernel (attend_merge). So a row's result depends on nothing but its own query, its
 * position and the cache: not on the rows beside it, nor on which of the kernels had its tile and with how many warps.
 *
 * What it costs and needs stands in docs/cuda.md. */
#include "stream.h"

#include "attend_piece.cuh"
#include "columns.cuh"

#define ATTEND_WARPS KVQ_CUDA_SHARING_TILES
#define ATTEND_THREADS (ATTEND_WARPS * KVQ_WARP_LANES)
#define MERGE_WARPS 4 /* of a block of attend_merge; a warp has a query */
#define MERGE_THREADS (MERGE_WARPS * KVQ_WARP_LANES)
#define MERGE_BLOCKS 6 /* of an SM, that registers leave room for */
#define MAX_QUERIES KVQ_CUDA_QUERIES
#define STATE_BYTES ((size_t)32 << 20) /* of the workspace, for states of splits */

typedef struct attend_job {
    kvq_attend job;
    kvq_cuda_kv kv;
    kvq_batch batch;
    kvq_cuda_hadamard hadamard;
    const kvq_row_run *tiles;
    int first_tile;                         /* of this launch */
    int group, heads_a_tile, tiles_a_group; /* query heads of a KV head, and how they are cut */
    int n_head_tiles, n_splits;
    float *states; /* [tiles, n_head_tiles, n_splits, state_floats]: maxima, sums, accumulators of a tile's queries */
    int state_floats;
    unsigned *counters;   /* [tiles, n_head_tiles] of this launch: blocks of attend_split that are done; 0 before */
    kvq_activations left; /* by what merges */
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
    float per_head;                             /* 1 / n_heads, so nearly that no query of a tile gets another row */
    int first_page, last_page;
} tile;

static __device__ tile tile_of(const attend_job &a, int index, int head_tile) {
    tile ret;
    int window = a.job.window;
    ret.g = a.tiles_a_group == 1 ? head_tile : head_tile / a.tiles_a_group;
    int in_group = (head_tile - ret.g * a.tiles_a_group) * a.heads_a_tile;
    ret.run = a.tiles[index];
    ret.head_begin = ret.g * a.group + in_group;
    ret.n_heads = a.group - in_group < a.heads_a_tile ? a.group - in_group : a.heads_a_tile;
    ret.per_head = kvq_reciprocal((float)ret.n_heads);
    ret.n_queries = ret.run.n_rows * ret.n_heads;
    ret.pos = a.batch.pos[ret.run.row_begin];
    ret.first_page = window && ret.pos >= window ? (ret.pos - window + 1) >> a.kv.block_shift : 0;
    ret.last_page = ret.pos >> a.kv.block_shift; /* a tile's rows lie in one page */
    return ret;
}

/* The row and the head of the tile's query n, or of one of at most 16 that it does not have. */
static __device__ __forceinline__ int row_in_tile(const tile &t, int n) {
    return (int)(((float)n + 0.5f) * t.per_head);
}
static __device__ __forceinline__ int row_of(const tile &t, int n) {
    return t.run.row_begin + row_in_tile(t, n);
}
static __device__ __forceinline__ int head_of(const tile &t, int n) {
    return t.head_begin + n - row_in_tile(t, n) * t.n_heads;
}

static __device__ __forceinline__ const float *query_of(const attend_job &a, const tile &t, int n) {
    return a.job.q + ((size_t)row_of(t, n) * a.job.n_heads + head_of(t, n)) * a.kv.head_dim;
}

static __device__ __forceinline__ float unit_of(const kvq_attend &job) {
    return job.softcap > 0 ? job.scale : job.scale * KVQ_LOG2_E;
}

/* ---- shared memory ---- */

/* Byte offsets of the parts of a block's shared memory: queues, the split's pages, then tiles. */
typedef struct places {
    int pages, tiles; /* queues stand first */
    int q, v, acc;    /* of a tile, whose floats stand first */
    int tile_bytes, bytes;
} places;

#define SCALARS_OF_TILE (4 * 16)

template <tile_kind KIND>
constexpr int floats_of_tile = SCALARS_OF_TILE + 4 * rows_of_tile<KIND> *KVQ_SPLIT_PAGES; /* constants behind */

/* Of a tile's queries as the products take them. */
template <tile_kind KIND> static __host__ __device__ __forceinline__ constexpr int query_bytes(int d) {
    return 16 * (is_halves<KIND> ? 2 * d : (d + 63) / 64 * 64);
}

/* Of a kernel's block: with SHARED one queue, and for each warp a tile, which needs no room for what several warps
 * would have made of its pieces; else a queue a warp and one tile. */
template <tile_kind KIND, bool SHARED>
static __host__ __device__ __forceinline__ constexpr places places_of(int d, int n_warps) {
    places ret = {};
    int row_floats = rows_of_tile<KIND> * (d + 4), warps_a_tile = SHARED ? 0 : n_warps;
    ret.pages = (SHARED ? 1 : n_warps) * KVQ_QUEUE_BYTES;
    ret.tiles = ret.pages + 2 * KVQ_SPLIT_PAGES * (int)sizeof(kvq_queue_half);
    ret.q = (floats_of_tile<KIND> + warps_a_tile * PIECE_FLOATS * rows_of_tile<KIND>)*4;
    ret.v = ret.q + query_bytes<KIND>(d);
    ret.acc = ret.v + warps_a_tile * row_floats * 4;
    ret.tile_bytes = ret.acc + row_floats * 4;
    ret.bytes = ret.tiles + (SHARED ? n_warps : 1) * ret.tile_bytes;
    return ret;
}

/* Three blocks of small tiles fit an SM of Hopper, which has 228 KB and takes 1 KB of a block for itself. */
static_assert(3 * (places_of<TILE_HALVES, false>(128, 4).bytes + 1024) <= 228 * 1024, "f16, heads of 128");
static_assert(3 * (places_of<TILE_CODES_8, false>(128, 4).bytes + 1024) <= 228 * 1024, "codes, heads of 128");

/* The block's tile of that number, as this warp of it sees it. */
template <tile_kind KIND>
static __device__ __forceinline__ shared shared_of(KVQ_SHARED_PTR(uint8_t) memory, const places &at, int tile,
                                                   int warp) {
    KVQ_SHARED_PTR(uint8_t) own = memory + at.tiles + tile * at.tile_bytes;
    KVQ_SHARED_PTR(float) floats = KVQ_SHARED_CAST(float, own);
    return shared{own + at.q,
                  floats,
                  floats + 16,
                  floats + 32,
                  KVQ_SHARED_CAST(int, floats + 48),
                  floats + 64,
                  KVQ_SHARED_CAST(kvq_queue_half, memory + at.pages),
                  KVQ_SHARED_CAST(float4, floats + floats_of_tile<KIND>),
                  KVQ_SHARED_CAST(float, own + at.v),
                  KVQ_SHARED_CAST(float, own + at.acc),
                  warp};
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

/* What a lane has of a query: four channels of every 128. */
#define QUERY_PARTS (KVQ_MAX_HEAD_DIM / (4 * KVQ_WARP_LANES))

/* Where query n has four codes from `channel` on, or two halves, among the words of A. */
static __device__ __forceinline__ int place_of_codes(int n, int channel) {
    return channel / 32 * 512 + (n % 8 * 4 + channel % 32 / 8) * 16 + n / 8 * 4 + channel % 8 / 4 * 8;
}
static __device__ __forceinline__ int place_of_halves(int n, int channel) {
    return channel / 16 * 512 + (n * 4 + channel % 8 / 2) * 16 + channel % 16 / 8 * 8;
}

/* Its codes, with zeros behind the head up to whole steps; returns their sum. */
template <tile_kind KIND>
static __device__ __forceinline__ int quantize_query(const shared &s, const float4 *x, int n, int d, float max) {
    int lane = threadIdx.x % KVQ_WARP_LANES, sum = 0;
    float per_code = max > 1e-30f ? 127.0f / max : 0.0f;
#pragma unroll
    for (int i = 0; i < QUERY_PARTS; i++) {
        int channel = 4 * (lane + i * KVQ_WARP_LANES);
        if (128 * i >= d) break; /* all lanes */
        if (channel >= (d + 63) / 64 * 64) continue;
        uint32_t codes = kvq_four_bytes(x[i].x, x[i].y, x[i].z, x[i].w, per_code);
        KVQ_SHARED_PTR(uint32_t) to = KVQ_SHARED_CAST(uint32_t, s.q + place_of_codes(n, channel));
        to[0] = codes;
        if (rows_of_lane<KIND> == 1) to[1] = codes; /* again for rows 8 .. 15 */
        sum = kvq_dp4a_us(0x01010101u, codes, sum);
    }
    return kvq_warp_sum(sum);
}

static __device__ __forceinline__ void split_query(const shared &s, const float4 *x, int n, int d, float up) {
    int lane = threadIdx.x % KVQ_WARP_LANES;
#pragma unroll
    for (int i = 0; i < QUERY_PARTS; i++) {
        int channel = 4 * (lane + i * KVQ_WARP_LANES);
        if (128 * i >= d) break; /* all lanes */
        if (channel >= d) continue;
        uint2 two; /* the upper halves, the lower */
        split_floats(&two.x, &two.y, x[i].x * up, x[i].y * up);
        KVQ_SHARED_CAST(uint2, s.q + place_of_halves(n, channel))[0] = two;
        split_floats(&two.x, &two.y, x[i].z * up, x[i].w * up);
        KVQ_SHARED_CAST(uint2, s.q + place_of_halves(n, channel + 2))[0] = two;
    }
}

/* Returns the largest magnitude. */
static __device__ __forceinline__ float load_query(float4 *x, const float *q, int d) {
    float max = 0;
#pragma unroll
    for (int i = 0; i < QUERY_PARTS; i++) {
        int channel = 4 * (threadIdx.x % KVQ_WARP_LANES + i * KVQ_WARP_LANES);
        if (128 * i >= d) break; /* all lanes */
        if (channel < d) x[i] = *(const float4 *)(q + channel);
        max = fmaxf(fmaxf(max, fabsf(x[i].x)), fmaxf(fmaxf(fabsf(x[i].y), fabsf(x[i].z)), fabsf(x[i].w)));
    }
    return kvq_warp_max(max);
}

/* By n_warps of the tile's; queries that it does not have were cleared. */
template <tile_kind KIND>
static __device__ void load_queries(const attend_job &a, const tile &t, const shared &s, int n_warps) {
    int d = a.kv.head_dim;
#pragma unroll 1
    for (int n = s.warp; n < t.n_queries; n += n_warps) {
        float4 x[QUERY_PARTS] = {};
        float max = load_query(x, query_of(a, t, n), d);
        int sum = 0;
        if (is_halves<KIND>)
            split_query(s, x, n, d, power_up(max));
        else
            sum = quantize_query<KIND>(s, x, n, d, max);
        if (threadIdx.x % KVQ_WARP_LANES == 0) {
            float unit = unit_of(a.job);
            s.q_up[n] = power_up(max);
            s.q_down[n] = power_down(max) * unit;
            s.q_sum[n] = sum;
            s.q_scale[n] = (is_halves<KIND> ? power_down(max) : max * (1.0f / 127.0f)) * unit;
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
    const uint16_t *mean = g < n_pages ? ((kvq_queue_half)s.pages[2 * g]).mean : nullptr;
    const float *k_ref = g < n_pages ? a.kv.layer.k_ref : nullptr;
    if (k_ref) k_ref += ((size_t)(first_page + g) * a.kv.n_kv_heads + t.g) * d;
    const float *rows[2] = {g < t.n_queries ? query_of(a, t, g) : nullptr,
                            rows_of_lane<KIND> == 2 && g + 8 < t.n_queries ? query_of(a, t, g + 8) : nullptr};
    float ups[2] = {s.q_up[g], rows_of_lane<KIND> == 2 ? s.q_up[g + 8] : 0.0f}, c[4] = {};
#pragma unroll 1
    for (int begin = 16 * quarter; begin < d; begin += 64) {
        uint32_t upper[4], lower[4], b[2], b_low[2];
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const float *x = rows[w % 2];
            int i = begin + 2 * q + w / 2 * 8;
            const float2 two = x ? *(const float2 *)(x + i) : float2{0, 0};
            split_floats(&upper[w], &lower[w], two.x * ups[w % 2], two.y * ups[w % 2]);
        }
#pragma unroll
        for (int w = 0; w < 2; w++) {
            int i = begin + 2 * q + w * 8;
            const uint32_t means = mean ? *(const uint32_t *)(mean + i) : 0;
            const float2 ref = k_ref ? *(const float2 *)(k_ref + i) : float2{0, 0};
            split_floats(&b[w], &b_low[w], kvq_low_half_float(means) + ref.x, kvq_high_half_float(means) + ref.y);
        }
        kvq_mma_halves(c, upper, b);
        kvq_mma_halves(c, lower, b);
        kvq_mma_halves(c, upper, b_low);
    }
#pragma unroll
    for (int i = 0; i < 2 * rows_of_lane<KIND>; i++)
        s.constants[(quarter * rows_of_tile<KIND> + g + i / 2 * 8) * KVQ_SPLIT_PAGES + 2 * q + i % 2] = c[i];
}

static __device__ __forceinline__ bool has_constants(const attend_job &a) {
    return a.kv.layer.k_ref || a.kv.layer.closed.k_mean != KVQ_ABSENT;
}

/* What it adds, in the job's scale. */
template <tile_kind KIND> static __device__ __forceinline__ float constant_of(const shared &s, int n, int index) {
    float sum = 0;
#pragma unroll
    for (int quarter = 0; quarter < 4; quarter++)
        sum += s.constants[(quarter * rows_of_tile<KIND> + n) * KVQ_SPLIT_PAGES + index];
    return sum * s.q_down[n];
}

/* ---- splits merged in order, then turned back: a warp per query ---- */

/* Where a tile's state of a split goes; the tile's place in the launch, and the split counted from its own first. */
static __device__ __forceinline__ float *state_of(const attend_job &a, int place, int head_tile, int split) {
    return a.states + (((size_t)place * a.n_head_tiles + head_tile) * a.n_splits + split) * a.state_floats;
}

static __device__ __forceinline__ int splits_of(const tile &t) {
    return t.last_page / KVQ_SPLIT_PAGES - t.first_page / KVQ_SPLIT_PAGES + 1;
}

/* What a lane has of a query's soft-max over a split: four channels of every 128, of a head of at most 128 N. */
template <int N> struct merge_state {
    float max, sum;
    float4 acc[N];
};

/* Query n's state of a split as a block left it, perhaps another one of this launch. */
template <int N>
static __device__ __forceinline__ void load_state(merge_state<N> *ret, const float *state, int n, int d) {
    ret->max = kvq_load_4_l2(state + n);
    ret->sum = kvq_load_4_l2(state + MAX_QUERIES + n);
#pragma unroll
    for (int c = 0; c < N; c++) {
        int channel = 4 * (threadIdx.x % KVQ_WARP_LANES + c * KVQ_WARP_LANES);
        ret->acc[c] = float4{0, 0, 0, 0};
        if (channel < d) ret->acc[c] = kvq_load_16_l2(state + 2 * MAX_QUERIES + n * d + channel);
    }
}

template <int N>
static __device__ __forceinline__ void merge_state_into(row_state *state, float acc[N][4], const merge_state<N> &from) {
    const row_merge m = merge_row(state, piece_row{from.max, from.sum, 1, 0});
#pragma unroll
    for (int c = 0; c < N; c++) {
        const float add[4] = {from.acc[c].x, from.acc[c].y, from.acc[c].z, from.acc[c].w};
        for (int b = 0; b < 4; b++) acc[c][b] = fmaf(m.scale, add[b], acc[c][b] * m.keep);
    }
}

/* Splits that a warp asks for at once, since they come from the L2 cache or from memory; as registers allow. */
template <int N> constexpr int merge_at_once = 8 / N;

/* Query n's result, from all splits of its tile; room [2 * 128 N] is for the transform. */
template <int N>
static __device__ __forceinline__ void merge_query(const attend_job &a, const tile &t, int n, const float *states,
                                                   KVQ_SHARED_PTR(float) room) {
    int d = a.kv.head_dim, n_splits = splits_of(t), lane = threadIdx.x % KVQ_WARP_LANES;
    constexpr int at_once = merge_at_once<N>;
    merge_state<N> splits[at_once];
    row_state all = {-INFINITY, 0};
    float acc[N][4] = {};
#pragma unroll 1
    for (int first = 0; first < n_splits; first += at_once, states += (size_t)at_once * a.state_floats) {
#pragma unroll
        for (int i = 0; i < at_once; i++)
            if (first + i < n_splits) load_state<N>(&splits[i], states + (size_t)i * a.state_floats, n, d);
#pragma unroll
        for (int i = 0; i < at_once; i++)
            if (first + i < n_splits) merge_state_into<N>(&all, acc, splits[i]);
    }
    float unit = 1.0f / all.sum;
#pragma unroll
    for (int c = 0; c < N; c++)
        for (int b = 0; b < 4; b++) acc[c][b] *= unit;
    if (a.kv.policy.rotated) /* back: the transform is its own inverse */
        kvq_hadamard_head<N>(acc, d, a.hadamard, room, room + N * 4 * KVQ_WARP_LANES);
    int row = row_of(t, n), at = head_of(t, n) * d;
    float *out = a.job.out + (size_t)row * a.job.n_heads * d + at;
#pragma unroll
    for (int c = 0; c < N; c++) {
        int channel = 4 * (lane + c * KVQ_WARP_LANES);
        if (channel < d) kvq_store_values<4>(out + channel, acc[c]);
        if (a.left.columns) kvq_quantize_values<4>(a.left, row, at + channel, acc[c], channel < d); /* by all lanes */
    }
}

template <int N>
__global__ __launch_bounds__(MERGE_THREADS, MERGE_BLOCKS) void attend_merge(KVQ_ARGUMENT(attend_job) a) {
    constexpr int room = 2 * N * 4 * KVQ_WARP_LANES;
    KVQ_SHARED(float, rooms, MERGE_WARPS *room);
    kvq_wait_for_launches();
    tile t = tile_of(a, a.first_tile + blockIdx.x, blockIdx.y);
    int warp = threadIdx.x / KVQ_WARP_LANES, n = blockIdx.z * MERGE_WARPS + warp;
    if (n >= t.n_queries) return; /* the whole warp */
    merge_query<N>(a, t, n, state_of(a, blockIdx.x, blockIdx.y, 0), rooms + warp * room);
}

/* The queries of the block's tile, by its warps; the room is the begin of a warp's queue, which is done with. */
template <int N>
static __device__ __forceinline__ void merge_queries(const attend_job &a, const tile &t,
                                                     KVQ_SHARED_PTR(uint8_t) queues) {
    int warp = threadIdx.x / KVQ_WARP_LANES, n_warps = blockDim.x / KVQ_WARP_LANES;
    static_assert(2 * N * 4 * KVQ_WARP_LANES * sizeof(float) <= KVQ_QUEUE_BYTES);
    const float *states = state_of(a, blockIdx.x, blockIdx.y, 0);
#pragma unroll 1
    for (int n = warp; n < t.n_queries; n += n_warps)
        merge_query<N>(a, t, n, states, KVQ_SHARED_CAST(float, queues + warp * KVQ_QUEUE_BYTES));
}

/* Whether this block, which has left its state, is the last one of its tile's to be done: it sees what the others left.
 * Which one that is differs from launch to launch, and results do not depend on it. The counter is 0 again behind it.
 */
static __device__ __forceinline__ bool is_last_of_tile(const attend_job &a, const tile &t,
                                                       KVQ_SHARED_PTR(unsigned) ticket) {
    unsigned last = splits_of(t) - 1; /* blocks behind the tile's last page have returned and are not counted */
    __syncthreads();
    if (last == 0) return true;
    if (threadIdx.x == 0) ticket[0] = kvq_take_ticket(a.counters + blockIdx.x * a.n_head_tiles + blockIdx.y, last);
    __syncthreads();
    return ticket[0] == last;
}

/* ---- a split ---- */

template <tile_kind KIND>
static __device__ __forceinline__ piece_view view_of(const attend_job &a, const tile &t, const shared &s,
                                                     int first_page, int piece) {
    piece_view ret;
    int g = threadIdx.x % KVQ_WARP_LANES / 4, window = a.job.window, n_tokens = a.kv.block_tokens;
    ret.page = kvq_page_of_piece(piece, n_tokens);
    int begin = ((first_page + ret.page) << a.kv.block_shift) + kvq_begin_of_piece(piece, n_tokens);
    int last_row = t.pos + t.run.n_rows - 1, end = n_tokens < KVQ_PIECE_TOKENS ? n_tokens : KVQ_PIECE_TOKENS;
    ret.n_written = last_row + 1 - begin;
    ret.masked = end < KVQ_PIECE_TOKENS || begin + end - 1 > t.pos || (window && begin <= last_row - window);
#pragma unroll
    for (int r = 0; r < rows_of_lane<KIND>; r++) {
        int last = t.pos + row_in_tile(t, g + 8 * r) - begin;
        ret.before[r] = window ? last - window : -1;
        ret.last[r] = last < end ? last : end - 1;
        ret.plus[r] = has_constants(a) ? constant_of<KIND>(s, g + 8 * r, ret.page) : 0.0f;
    }
    return ret;
}

/* The tile's threads: so many for each query, of which this one is `first` of query n. */
typedef struct tile_threads {
    int a_query, n, first;
} tile_threads;

template <tile_kind KIND> static __device__ __forceinline__ tile_threads threads_of(const shared &s, int n_warps) {
    tile_threads ret;
    int thread = s.warp * KVQ_WARP_LANES + threadIdx.x % KVQ_WARP_LANES;
    int shift = (rows_of_lane<KIND> == 1 ? 2 : 1) + n_warps / 2; /* n_warps is 1, 2 or 4 */
    ret.a_query = 1 << shift;
    ret.n = thread >> shift;
    ret.first = thread & (ret.a_query - 1);
    return ret;
}

/* Merges what n_pieces warps left into the accumulators, in order. */
template <tile_kind KIND>
static __device__ __forceinline__ void merge_pieces(const shared &s, const tile_threads &own, int n_pieces, int d,
                                                    row_state *state) {
    constexpr int rows = rows_of_tile<KIND>;
    int n = own.n, pitch = d + 4;
    row_merge merges[ATTEND_WARPS];
#pragma unroll
    for (int w = 0; w < ATTEND_WARPS; w++) {
        merges[w] = row_merge{1, 0, 0};
        if (w >= n_pieces) continue;
        const float4 from = s.piece[w * rows + n];
        merges[w] = merge_row(state, piece_row{from.x, from.y, from.z, from.w});
    }
    for (int i = 4 * own.first; i < d; i += 4 * own.a_query) {
        KVQ_SHARED_PTR(float4) to = KVQ_SHARED_CAST(float4, s.acc + n * pitch + i);
        float4 acc = to[0];
#pragma unroll
        for (int w = 0; w < ATTEND_WARPS; w++) {
            if (w >= n_pieces) break;
            acc = merged(acc, KVQ_SHARED_CAST(float4, s.v + (w * rows + n) * pitch + i)[0], merges[w]);
        }
        kvq_store_shared_16(to, acc);
    }
}

static __device__ __forceinline__ void store_row_state(const tile &t, int n, const row_state &state, float *to) {
    if (n >= t.n_queries) return;
    to[n] = state.max;
    to[MAX_QUERIES + n] = state.sum;
}

static __device__ __forceinline__ void store_acc(const tile &t, const shared &s, const tile_threads &own, int d,
                                                 float *to) {
    int n = own.n;
    if (n >= t.n_queries) return;
#pragma unroll 1
    for (int i = 4 * own.first; i < d; i += 4 * own.a_query)
        *(float4 *)(to + 2 * MAX_QUERIES + n * d + i) = KVQ_SHARED_CAST(float4, s.acc + n * (d + 4) + i)[0];
}

/* Where the pages of a split are that a tile sees, [begin, end). */
typedef struct page_range {
    int begin, end;
} page_range;

static __device__ __forceinline__ page_range pages_of(const tile &t, int split) {
    page_range ret = {split * KVQ_SPLIT_PAGES, (split + 1) * KVQ_SPLIT_PAGES};
    if (ret.begin < t.first_page) ret.begin = t.first_page;
    if (ret.end > t.last_page + 1) ret.end = t.last_page + 1;
    return ret;
}

/* Where they are, a thread for each half; n_seen as page_queue.cuh has it. */
template <bool HALVES>
static __device__ void look_up_pages(const attend_job &a, const tile &t, const shared &s, int begin, int n_pages,
                                     int n_seen) {
    const kvq_kv_page *pages = a.batch.seqs[t.run.seq].pages[a.kv.layer.group] + begin;
#pragma unroll 1
    for (int i = threadIdx.x; i < 2 * n_pages; i += blockDim.x) {
        int page = i / 2;
        kvq_kv_half k, v;
        if (kvq_sees_wide(a.kv, t.pos, begin + page))
            kvq_wide_halves(a.kv, pages[page], a.batch, true, t.g, &k, &v);
        else
            kvq_closed_halves(a.kv, pages[page], t.g, &k, &v);
        s.pages[i] = kvq_queue_half_of<HALVES>(i % 2 ? v : k, i % 2, a.kv.head_dim, a.kv.block_tokens,
                                               n_seen - page * a.kv.block_tokens);
    }
}

/* Zeros from `to` on, `floats` a multiple of 4, by n_warps. */
static __device__ __forceinline__ void clear(const shared &s, KVQ_SHARED_PTR(float) to, int floats, int n_warps) {
    int thread = s.warp * KVQ_WARP_LANES + threadIdx.x % KVQ_WARP_LANES;
#pragma unroll 1
    for (int i = thread; i < floats / 4; i += n_warps * KVQ_WARP_LANES)
        kvq_store_shared_16(KVQ_SHARED_CAST(float4, to) + i, float4{0, 0, 0, 0});
}

/* Accumulators begin empty, and so do queries. */
template <tile_kind KIND> static __device__ void clear_tile(const shared &s, int n_warps, int d) {
    clear(s, s.acc, rows_of_tile<KIND> * (d + 4), n_warps);
    clear(s, KVQ_SHARED_CAST(float, s.q), query_bytes<KIND>(d) / 4, n_warps);
    clear(s, s.q_scale, SCALARS_OF_TILE, n_warps); /* and the others behind */
}

/* The block's queue number `own`; n_seen as page_queue.cuh has it. */
static __device__ __forceinline__ kvq_page_queue queue_of(const attend_job &a, const shared &s,
                                                          KVQ_SHARED_PTR(uint8_t) memory, int own, int n_seen) {
    kvq_page_queue ret;
    ret.ring = memory + (own * KVQ_QUEUE_BYTES + 16 * (int)(threadIdx.x % KVQ_WARP_LANES));
    ret.scales = memory + (own * KVQ_QUEUE_BYTES + KVQ_QUEUE_RING_BYTES);
    ret.pages = s.pages;
    ret.head_dim = a.kv.head_dim;
    ret.block_tokens = a.kv.block_tokens;
    ret.n_seen = n_seen;
    return ret;
}

/* Blocks of an SM that registers leave room for. */
template <tile_kind KIND> constexpr int blocks_of_sm = KIND == TILE_CODES_16 ? 3 : 4;

template <tile_kind KIND>
__global__ __launch_bounds__(ATTEND_THREADS, blocks_of_sm<KIND>) void attend_split(KVQ_ARGUMENT(attend_job) a) {
    KVQ_SHARED_DYNAMIC(uint8_t, memory);
    kvq_wait_for_launches();
    tile t = tile_of(a, a.first_tile + blockIdx.x, blockIdx.y);
    int d = a.kv.head_dim, warp = threadIdx.x / KVQ_WARP_LANES, n_warps = blockDim.x / KVQ_WARP_LANES;
    const page_range pages = pages_of(t, t.first_page / KVQ_SPLIT_PAGES + (int)blockIdx.z);
    int begin = pages.begin, n_pages = pages.end - begin, n_pieces = n_pages * kvq_pieces_of_page(a.kv.block_tokens);
    if (n_pages <= 0) return; /* the whole block: this tile has fewer splits than the longest */
    const shared s = shared_of<KIND>(memory, places_of<KIND, false>(d, n_warps), 0, warp);

    int n_seen = t.pos + t.run.n_rows - begin * a.kv.block_tokens;
    look_up_pages<is_halves<KIND>>(a, t, s, begin, n_pages, n_seen);
    clear_tile<KIND>(s, n_warps, d);
    __syncthreads();
    kvq_page_queue queue = queue_of(a, s, memory, warp, n_seen);
    kvq_queue_begin<is_halves<KIND>, false>(queue, warp, n_warps, n_pieces);
    load_queries<KIND>(a, t, s, n_warps);
    if (has_constants(a)) {
        __syncthreads();
        for (int quarter = warp; quarter < 4; quarter += n_warps)
            multiply_constants<KIND>(a, t, s, begin, n_pages, quarter);
    }
    __syncthreads();

    const tile_threads own = threads_of<KIND>(s, n_warps);
    row_state state = {-INFINITY, 0};
    for (int first = 0, set = 0; first < n_pieces; first += n_warps, set = kvq_next_scales(set)) {
        int left = n_pieces - first;
        if (warp < left) {
            const piece_view view = view_of<KIND>(a, t, s, begin, first + warp);
            attend_piece<KIND, false>(s, queue, set, a.job.softcap, a.kv.policy.sym, view, nullptr);
        }
        __syncthreads();
        merge_pieces<KIND>(s, own, left < n_warps ? left : n_warps, d, &state);
        __syncthreads();
    }
    float *to = state_of(a, blockIdx.x, blockIdx.y, blockIdx.z);
    if (own.first == 0) store_row_state(t, own.n, state, to);
    store_acc(t, s, own, d, to);

    if (!is_last_of_tile(a, t, KVQ_SHARED_CAST(unsigned, s.q_sum))) return;
    if (d <= 128)
        merge_queries<1>(a, t, memory);
    else if (d <= 256)
        merge_queries<2>(a, t, memory);
    else
        merge_queries<4>(a, t, memory);
}

/* The last position of the block's tiles, and one. */
static __device__ __forceinline__ int end_of_tiles(const attend_job &a, int first, int n) {
    int ret = 0;
    for (int i = first; i < first + n; i++) {
        const kvq_row_run run = a.tiles[i];
        int end = a.batch.pos[run.row_begin] + run.n_rows;
        ret = end > ret ? end : ret;
    }
    return ret;
}

/* Tiles of one page, a warp each; behind the last one there may be some without rows. Warps walk the pages of the first
 * one, which are all that the others see: what a tile does not see changes nothing of it (with f16, where V is finite).
 */
template <tile_kind KIND>
__global__ __launch_bounds__(ATTEND_THREADS, blocks_of_sm<KIND>) void attend_split_shared(KVQ_ARGUMENT(attend_job) a) {
    KVQ_SHARED_DYNAMIC(uint8_t, memory);
    kvq_wait_for_launches();
    int d = a.kv.head_dim, warp = threadIdx.x / KVQ_WARP_LANES, n_warps = blockDim.x / KVQ_WARP_LANES;
    int place = blockIdx.x * n_warps;
    tile front = tile_of(a, a.first_tile + place, blockIdx.y), t = tile_of(a, a.first_tile + place + warp, blockIdx.y);
    int split = front.first_page / KVQ_SPLIT_PAGES + (int)blockIdx.z, block_tokens = a.kv.block_tokens;
    const page_range pages = pages_of(front, split);
    int begin = pages.begin, n_pages = pages.end - begin, n_pieces = n_pages * kvq_pieces_of_page(block_tokens);
    if (n_pages <= 0 || front.n_queries == 0) return; /* the whole block */
    const shared s = shared_of<KIND>(memory, places_of<KIND, true>(d, n_warps), warp, 0);

    int n_seen = end_of_tiles(a, a.first_tile + place, n_warps) - begin * block_tokens;
    look_up_pages<is_halves<KIND>>(a, front, s, begin, n_pages, n_seen);
    clear_tile<KIND>(s, 1, d);
    __syncthreads();
    kvq_page_queue queue = queue_of(a, s, memory, 0, n_seen);
    kvq_queue_begin<is_halves<KIND>, true>(queue, 0, 1, n_pieces);
    load_queries<KIND>(a, t, s, 1);
    __syncwarp();
    for (int quarter = 0; quarter < 4 && has_constants(a); quarter++)
        multiply_constants<KIND>(a, t, s, begin, n_pages, quarter);
    __syncwarp();

    row_state states[2] = {{-INFINITY, 0}, {-INFINITY, 0}};
    for (int piece = 0, set = 0; piece < n_pieces; piece++, set = kvq_next_scales(set)) {
        const piece_view view = view_of<KIND>(a, t, s, begin, piece);
        attend_piece<KIND, true>(s, queue, set, a.job.softcap, a.kv.policy.sym, view, states);
    }
    __syncwarp();
    int own_split = split - t.first_page / KVQ_SPLIT_PAGES, lane = threadIdx.x % KVQ_WARP_LANES;
    if (own_split < 0) return; /* the whole warp: behind the last barrier */
    float *to = state_of(a, place + warp, blockIdx.y, own_split);
    if (lane % 4 == 0) {
#pragma unroll
        for (int r = 0; r < rows_of_lane<KIND>; r++) store_row_state(t, lane / 4 + 8 * r, states[r], to);
    }
    store_acc(t, s, threads_of<KIND>(s, 1), d, to);
}

/* ---- the host's part ---- */

size_t kvq_cuda_attend_bytes(const kvq_shapes *shapes) {
    size_t most = 0;
    for (int queries = 8; queries <= MAX_QUERIES; queries *= 2) {
        kvq_head_tiles heads = kvq_cut_heads(shapes->n_heads, shapes->n_kv_heads, queries);
        size_t one = (size_t)heads.n_tiles * kvq_cuda_splits(shapes->max_tokens, shapes->block_tokens) *
                     state_floats_of(shapes->head_dim) * sizeof(float);
        size_t all = one * kvq_cuda_tiles_most(shapes->max_rows);
        size_t here = all < STATE_BYTES ? all : one > STATE_BYTES ? one : STATE_BYTES;
        if (here > most) most = here;
    }
    return most;
}

size_t kvq_cuda_attend_counters(const kvq_shapes *shapes) {
    return (size_t)shapes->max_rows *
           (size_t)kvq_cut_heads(shapes->n_heads, shapes->n_kv_heads, MAX_QUERIES / 2).n_tiles;
}

/* A kernel for each kind of tile, alone in a block or sharing it. */
typedef struct variant {
    bool shares;
    int rows;
    const char *name;
    void (*kernel)(attend_job a);
    places (*places_of)(int head_dim, int n_warps);
} variant;

#define VARIANT(KERNEL, KIND, SHARED) \
    { SHARED, rows_of_tile<KIND>, #KERNEL "<" #KIND ">", KERNEL<KIND>, places_of<KIND, SHARED> }
#define ALONE(KIND) VARIANT(attend_split, KIND, false)
#define SHARING(KIND) VARIANT(attend_split_shared, KIND, true)
enum { HALVES, CODES_8, CODES_16, SHARED_HALVES, SHARED_CODES };
static const variant variants[] = {ALONE(TILE_HALVES), ALONE(TILE_CODES_8), ALONE(TILE_CODES_16), SHARING(TILE_HALVES),
                                   SHARING(TILE_CODES_16)};

kvq_status kvq_cuda_allow_attend(size_t shared_bytes, kvq_error *err) {
    for (const variant &v : variants) {
        cudaError_t error = kvq_cuda_allow_shared(v.kernel, shared_bytes);
        if (error != cudaSuccess)
            return kvq_fail(err, KVQ_DEVICE, "asking for %zu bytes of shared memory a block: %s", shared_bytes,
                            cudaGetErrorString(error));
    }
    return KVQ_OK;
}

/* What the next launch merges, it leaves in 8 bits as well. */
static void leave_columns(kvq_stream *s, attend_job *a) {
    if (a->kv.head_dim % KVQ_STEP == 0)
        a->left = kvq_cuda_leave(s, a->job.out, a->batch.n_rows, a->job.n_heads * a->kv.head_dim, NULL);
}

/* The splits of n tiles of so many rows, by a kernel of its own. */
static void merge_tiles(kvq_stream *s, attend_job a, int n, int rows) {
    const dim3 grid(n, a.n_head_tiles, kvq_cuda_blocks(rows, MERGE_WARPS)), block(MERGE_THREADS);
    leave_columns(s, &a);
    if (a.kv.head_dim <= 128)
        KVQ_LAUNCH(attend_merge<1>, grid, block, 0, s, a);
    else if (a.kv.head_dim <= 256)
        KVQ_LAUNCH(attend_merge<2>, grid, block, 0, s, a);
    else
        KVQ_LAUNCH(attend_merge<4>, grid, block, 0, s, a);
}

/* Tiles [a.first_tile, end), as many at a time as the workspace has room for. */
static void attend_tiles(kvq_stream *s, attend_job a, const variant *v, int end) {
    size_t a_tile = (size_t)a.n_head_tiles * a.n_splits * a.state_floats * sizeof(float), used = 0;
    size_t n_fit = s->workspace_bytes / a_tile;
    int n_warps = ATTEND_WARPS, n_tiles = end - a.first_tile;
    if (n_tiles <= 0) return;
    places at = v->places_of(a.kv.head_dim, n_warps);
    /* Another number of warps gives the same results. */
    while (n_warps > 1 && ((size_t)at.bytes > s->shared_bytes || (v->shares && n_fit < (size_t)n_warps))) {
        n_warps /= 2;
        at = v->places_of(a.kv.head_dim, n_warps);
    }
    int a_block = v->shares ? n_warps : 1;
    int a_launch = n_fit < (size_t)n_tiles ? (int)n_fit / a_block * a_block : n_tiles;
    if (a_launch < 1) a_launch = a_block; /* and fail below */
    a.states = (float *)kvq_cuda_take(s, &used, (size_t)a_launch * a_tile);
    for (; a.states && a.first_tile < end; a.first_tile += a_launch) {
        int left = end - a.first_tile, n = left < a_launch ? left : a_launch;
        if (!v->shares) leave_columns(s, &a); /* its blocks merge their tiles */
        const dim3 grid(n / a_block, a.n_head_tiles, a.n_splits), block(n_warps * KVQ_WARP_LANES);
        KVQ_LAUNCH_NAMED(v->name, v->kernel, grid, block, at.bytes, s, a);
        if (v->shares) merge_tiles(s, a, n, v->rows);
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
    a.group = job->n_heads / a.kv.n_kv_heads;
    a.heads_a_tile = step->heads.heads_a_tile;
    a.n_head_tiles = step->heads.n_tiles;
    a.tiles_a_group = a.n_head_tiles / a.kv.n_kv_heads;
    a.n_splits = step->most_splits;
    a.state_floats = state_floats_of(a.kv.head_dim);
    a.counters = s->counters;
    if ((size_t)step->alone_end * a.n_head_tiles > s->n_counters) {
        kvq_cuda_fail(s, KVQ_INTERNAL, "attention has %d times %d tiles, the stream is for %zu", step->alone_end,
                      a.n_head_tiles, s->n_counters);
        return;
    }
    if (a.kv.policy.rotated) a.hadamard = kvq_cuda_hadamard_of(a.kv.head_dim);
    bool halves = a.kv.policy.k_bits == 16;
    attend_tiles(s, a, &variants[halves ? HALVES : CODES_8], step->small_end);
    a.first_tile = step->small_end;
    attend_tiles(s, a, &variants[CODES_16], step->alone_end);
    a.first_tile = step->alone_end;
    attend_tiles(s, a, &variants[halves ? SHARED_HALVES : SHARED_CODES], step->n_tiles);
}

void kvq_cuda_fill_attend(kvq_ops *ops) {
    ops->attend = attend;
}
