/* attend.cu: attention on the codes (../ops.h), plain: a block is a tile (up to 8 queries: rows of one sequence that
 * lie in one page, times heads of one KV group) times one split of the cache (KVQ_SPLIT_PAGES pages at a fixed place).
 * A page at a time: scores   a thread per token: one load of K codes serves all queries; integer dot products with dp4a
 *   weigh    a warp per query: soft-max, probabilities times V's scales to bytes
 *   values   a thread per channel: integer sums over the page, then one fused multiply-add into the accumulator
 * Splits leave their soft-max states in the workspace; a second kernel merges them in order of position and turns the
 * result back. So a row's result depends on nothing but its own query, its position and the cache.
 *
 * Made to be right first: no tensor cores, no asynchronous copies. Not measured on any GPU yet. */
#include "stream.h"

#include "kv.cuh"
#include "vmath.cuh"
#include "warp.cuh"

#define ATTEND_THREADS 128 /* at least the tokens of a page */
#define MAX_QUERIES KVQ_CUDA_QUERIES
#define MAX_TOKENS 128
#define MAX_CHANNELS (KVQ_MAX_HEAD_DIM / ATTEND_THREADS) /* of a thread */
#define STATE_BYTES ((size_t)32 << 20)                   /* of the workspace, for states of splits */
#define LOG2_E 1.44269504f                               /* scores are kept in units of ln 2 */
#define N_WARPS (ATTEND_THREADS / KVQ_WARP_LANES)

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
} attend_job;

/* A soft-max over part of the cache, one per query: maximum and sum, then acc [head_dim] scaled by 2^-maximum; a
 * maximum of minus infinity is the empty state. */
static __host__ __device__ __forceinline__ int state_floats_of(int head_dim) {
    return MAX_QUERIES * (2 + head_dim);
}

/* The tile that a block works on. */
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

static __device__ __forceinline__ size_t query_at(const attend_job &a, const tile &t, int n) {
    int r = t.run.row_begin + n / t.n_heads, h = t.head_begin + n % t.n_heads;
    return ((size_t)r * a.job.n_heads + h) * a.kv.head_dim;
}

/* Shared memory of a block. */
typedef struct shared {
    KVQ_SHARED_PTR(uint8_t) q;     /* [MAX_QUERIES, KVQ_MAX_HEAD_DIM] bytes of the queries */
    KVQ_SHARED_PTR(float) q_scale; /* [MAX_QUERIES] of the bytes, in units of the job's scale */
    KVQ_SHARED_PTR(int) q_sum;     /* [MAX_QUERIES] of the bytes */
    KVQ_SHARED_PTR(float) plus;    /* [MAX_QUERIES] what the page's constant adds to every score */
    KVQ_SHARED_PTR(float) scores;  /* [MAX_QUERIES, MAX_TOKENS]; of halves: then the probabilities */
    KVQ_SHARED_PTR(uint8_t) w;     /* [MAX_QUERIES, MAX_TOKENS] probabilities in bytes */
    KVQ_SHARED_PTR(float) max;     /* [MAX_QUERIES] of the state so far */
    KVQ_SHARED_PTR(float) sum;     /* [MAX_QUERIES] */
    KVQ_SHARED_PTR(float) factor;  /* [MAX_QUERIES] of what the state has so far */
    KVQ_SHARED_PTR(float) w_scale; /* [MAX_QUERIES] value = w_scale (integer sum - zero) + w_plus */
    KVQ_SHARED_PTR(float) w_plus;  /* [MAX_QUERIES] */
    KVQ_SHARED_PTR(int) w_zero;    /* [MAX_QUERIES] */
    KVQ_SHARED_PTR(int) seen;      /* [MAX_QUERIES] something of the page is */
} shared;

static __device__ __forceinline__ float unit_of(const kvq_attend &job) {
    return job.softcap > 0 ? job.scale : job.scale * LOG2_E;
}

/* ---- queries: a warp each ---- */

static __device__ void load_queries(const attend_job &a, const tile &t, const shared &s) {
    int d = a.kv.head_dim, lane = threadIdx.x % KVQ_WARP_LANES;
    for (int n = threadIdx.x / KVQ_WARP_LANES; n < t.n_queries; n += N_WARPS) {
        const float *q = a.job.q + query_at(a, t, n);
        float max = 0;
        for (int i = lane; i < d; i += KVQ_WARP_LANES) max = kvq_larger(max, fabsf(q[i]));
        max = kvq_warp_max(max);
        float per_code = max > 1e-30f ? 127.0f / max : 0.0f;
        int sum = 0;
        for (int i = lane; i < d; i += KVQ_WARP_LANES) {
            float x = q[i] * per_code;
            x = x > -127.0f ? x : -127.0f;
            int code = __float2int_rn(x < 127.0f ? x : 127.0f);
            s.q[n * KVQ_MAX_HEAD_DIM + i] = (uint8_t)code;
            sum += code;
        }
        sum = kvq_warp_sum(sum);
        if (lane == 0) {
            s.q_sum[n] = sum;
            s.q_scale[n] = max * (1.0f / 127.0f) * unit_of(a.job);
            s.max[n] = -INFINITY;
            s.sum[n] = 0;
        }
    }
}

/* ---- scores ---- */

/* q . (k_mean + k_ref), a warp per query. */
static __device__ void page_constant(const attend_job &a, const tile &t, const shared &s, const kvq_kv_half &k, int p) {
    int d = a.kv.head_dim, lane = threadIdx.x % KVQ_WARP_LANES;
    const float *k_ref = a.kv.layer.k_ref;
    if (k_ref) k_ref += ((size_t)p * a.kv.n_kv_heads + t.g) * d;
    for (int n = threadIdx.x / KVQ_WARP_LANES; n < t.n_queries; n += N_WARPS) {
        const float *q = a.job.q + query_at(a, t, n);
        float sum = 0;
        for (int i = lane; (k.mean || k_ref) && i < d; i += KVQ_WARP_LANES) {
            float mean = k.mean ? kvq_half_float(k.mean[i]) : 0.0f;
            sum = fmaf(q[i], k_ref ? mean + k_ref[i] : mean, sum);
        }
        sum = kvq_warp_sum(sum);
        if (lane == 0) s.plus[n] = sum * unit_of(a.job);
    }
}

/* Products of token t's codes with every query's bytes. */
static __device__ __forceinline__ void dot_k_codes(int *dots, const kvq_kv_half &k, const shared &s, int n_queries,
                                                   int n_tokens, int t, int d) {
    const uint32_t *codes = (const uint32_t *)k.codes + t;
    KVQ_SHARED_PTR(uint32_t) q = KVQ_SHARED_CAST(uint32_t, s.q);
    for (int j = 0; j < d * k.bits / 32; j++, codes += n_tokens) {
        uint32_t word = *codes, low = k.bits == 4 ? word & 0x0f0f0f0fu : word, high = word >> 4 & 0x0f0f0f0fu;
#pragma unroll
        for (int n = 0; n < MAX_QUERIES; n++) {
            if (n >= n_queries) break;
            KVQ_SHARED_PTR(uint32_t) bytes = q + n * (KVQ_MAX_HEAD_DIM / 4) + (k.bits == 4 ? 2 * j : j);
            dots[n] = kvq_dp4a_us(low, bytes[0], dots[n]);
            if (k.bits == 4) dots[n] = kvq_dp4a_us(high, bytes[1], dots[n]);
        }
    }
}

static __device__ void scores_of_codes(const attend_job &a, const tile &t, const shared &s, const kvq_kv_half &k) {
    int token = threadIdx.x, dots[MAX_QUERIES] = {}, zero = k.sym ? 1 << (k.bits - 1) : 0;
    if (token >= a.kv.block_tokens) return;
    dot_k_codes(dots, k, s, t.n_queries, a.kv.block_tokens, token, a.kv.head_dim);
    float k_scale = kvq_half_float(k.scales[token]), k_min = k.sym ? 0.0f : kvq_half_float(k.mins[token]);
#pragma unroll
    for (int n = 0; n < MAX_QUERIES; n++) {
        if (n >= t.n_queries) break;
        float rest = s.plus[n], scale = s.q_scale[n];
        int q_sum = s.q_sum[n];
        if (!k.sym) rest = fmaf(scale * (float)q_sum, k_min, rest);
        s.scores[n * MAX_TOKENS + token] = fmaf(scale * k_scale, (float)(dots[n] - zero * q_sum), rest);
    }
}

static __device__ void scores_of_halves(const attend_job &a, const tile &t, const shared &s, const kvq_kv_half &k) {
    int token = threadIdx.x, n_tokens = a.kv.block_tokens;
    if (token >= n_tokens) return;
    const uint16_t *halves = (const uint16_t *)k.codes + token;
    for (int n = 0; n < t.n_queries; n++) {
        const float *q = a.job.q + query_at(a, t, n);
        float sum = 0;
        for (int i = 0; i < a.kv.head_dim; i++) sum = fmaf(kvq_half_float(halves[(size_t)i * n_tokens]), q[i], sum);
        s.scores[n * MAX_TOKENS + token] = fmaf(unit_of(a.job), sum, s.plus[n]);
    }
}

/* ---- soft-max: a warp per query; a lane has every 32nd token ---- */

#define LANE_TOKENS (MAX_TOKENS / KVQ_WARP_LANES)

/* Probabilities times V's scales to bytes, with what the codes' zero and minimum add up to. */
static __device__ void weights_to_bytes(float *x, const shared &s, const kvq_kv_half &v, int n, int n_tokens,
                                        int n_written) {
    int lane = threadIdx.x % KVQ_WARP_LANES, zero = 0;
    float max = 0, plus = 0;
    bool mirrored[LANE_TOKENS];
#pragma unroll
    for (int j = 0; j < LANE_TOKENS; j++) {
        int t = j * KVQ_WARP_LANES + lane;
        bool written = t < n_tokens && t < n_written; /* scales behind may be anything, a NaN too */
        uint16_t bits = written ? v.scales[t] : 0;
        if (!v.sym && written) plus = fmaf(x[j], kvq_half_float(v.mins[t]), plus);
        mirrored[j] = bits >> 15;
        x[j] = x[j] * fabsf(kvq_half_float(bits));
        max = kvq_larger(max, x[j]);
    }
    max = kvq_warp_max(max);
    float per_byte = max > 1e-30f ? 255.0f / max : 0.0f;
#pragma unroll
    for (int j = 0; j < LANE_TOKENS; j++) {
        int t = j * KVQ_WARP_LANES + lane, byte = __float2int_rn(x[j] * per_byte) & 255;
        if (t < n_tokens) s.w[n * MAX_TOKENS + t] = (uint8_t)byte;
        /* zeros of the codes as the sums see them: 8 or, mirrored, 7; and -128 of asym 8-bit codes, which are flipped
         */
        if (v.bits == 4 && v.sym) zero += byte * (mirrored[j] ? 7 : 8);
        if (v.bits == 8 && !v.sym) zero -= byte * 128;
    }
    zero = kvq_warp_sum(zero);
    plus = kvq_warp_sum(plus);
    if (lane == 0) {
        s.w_scale[n] = max * (1.0f / 255.0f);
        s.w_zero[n] = zero;
        s.w_plus[n] = v.sym ? 0.0f : plus;
    }
}

static __device__ void weigh_query(const attend_job &a, const tile &t, const shared &s, const kvq_kv_half &v, int n,
                                   int page_begin, int n_written) {
    int lane = threadIdx.x % KVQ_WARP_LANES, n_tokens = a.kv.block_tokens;
    int last = t.pos + n / t.n_heads - page_begin, before = a.job.window ? last - a.job.window : -1;
    float x[LANE_TOKENS], here = -INFINITY, max = s.max[n], total = 0;
#pragma unroll
    for (int j = 0; j < LANE_TOKENS; j++) {
        int token = j * KVQ_WARP_LANES + lane;
        x[j] = -INFINITY;
        if (token >= n_tokens || token > last || token <= before) continue;
        x[j] = s.scores[n * MAX_TOKENS + token];
        if (a.job.softcap > 0) x[j] = kvq_tanh(x[j] * (1.0f / a.job.softcap)) * (a.job.softcap * LOG2_E);
        here = kvq_larger(here, x[j]);
    }
    here = kvq_warp_max(here);
    bool seen = here != -INFINITY;
    float new_max = here > max ? here : max;
#pragma unroll
    for (int j = 0; j < LANE_TOKENS; j++) {
        float y = x[j] - new_max;
        x[j] = x[j] == -INFINITY || !seen ? 0.0f : kvq_exp2_low(y);
        total += x[j];
    }
    total = kvq_warp_sum(total);
    float factor = seen ? kvq_exp2_low(max - new_max) : 1.0f, sum = s.sum[n];
    __syncwarp(); /* max and sum are read, then written */
    if (lane == 0) {
        s.seen[n] = seen;
        s.factor[n] = factor;
        if (seen) {
            s.max[n] = new_max;
            s.sum[n] = fmaf(sum, factor, total);
        }
    }
    if (v.bits != 16) {
        weights_to_bytes(x, s, v, n, n_tokens, n_written);
        return;
    }
#pragma unroll
    for (int j = 0; j < LANE_TOKENS; j++)
        if (j * KVQ_WARP_LANES + lane < n_tokens) s.scores[n * MAX_TOKENS + j * KVQ_WARP_LANES + lane] = x[j];
}

/* ---- values: a thread per channel ---- */

/* Products of channel i's codes with every query's bytes. */
static __device__ __forceinline__ void dot_v_codes(int *sums, const kvq_kv_half &v, const shared &s, int n_queries,
                                                   int n_tokens, int i, int d) {
    const uint32_t *codes = (const uint32_t *)v.codes + i;
    KVQ_SHARED_PTR(uint32_t) w = KVQ_SHARED_CAST(uint32_t, s.w);
    for (int j = 0; j < n_tokens * v.bits / 32; j++, codes += d) {
        uint32_t word = *codes, low = v.bits == 4 ? word & 0x0f0f0f0fu : word ^ 0x80808080u;
        uint32_t high = word >> 4 & 0x0f0f0f0fu;
#pragma unroll
        for (int n = 0; n < MAX_QUERIES; n++) {
            if (n >= n_queries) break;
            KVQ_SHARED_PTR(uint32_t) bytes = w + n * (MAX_TOKENS / 4) + (v.bits == 4 ? 2 * j : j);
            sums[n] = kvq_dp4a_us(bytes[0], low, sums[n]);
            if (v.bits == 4) sums[n] = kvq_dp4a_us(bytes[1], high, sums[n]);
        }
    }
}

static __device__ __forceinline__ void add_values(const attend_job &a, const tile &t, const shared &s,
                                                  const kvq_kv_half &v, int n_written, int i, float *acc) {
    int d = a.kv.head_dim, sums[MAX_QUERIES] = {};
    float values[MAX_QUERIES] = {};
    if (v.bits == 16) {
        const uint16_t *halves = (const uint16_t *)v.codes + i;
        for (int token = 0; token < n_written; token++) {
            float value = kvq_half_float(halves[(size_t)token * d]);
#pragma unroll
            for (int n = 0; n < MAX_QUERIES; n++)
                if (n < t.n_queries) values[n] = fmaf(value, s.scores[n * MAX_TOKENS + token], values[n]);
        }
    } else {
        dot_v_codes(sums, v, s, t.n_queries, a.kv.block_tokens, i, d);
    }
#pragma unroll
    for (int n = 0; n < MAX_QUERIES; n++) {
        if (n >= t.n_queries || !s.seen[n]) continue;
        float factor = s.factor[n];
        if (v.bits == 16)
            acc[n] = fmaf(acc[n], factor, values[n]);
        else
            acc[n] = fmaf(s.w_scale[n], (float)(sums[n] - s.w_zero[n]), fmaf(acc[n], factor, s.w_plus[n]));
    }
}

/* ---- a split ---- */

__global__ void attend_split(attend_job a) {
    KVQ_SHARED(uint8_t, q, MAX_QUERIES * KVQ_MAX_HEAD_DIM);
    KVQ_SHARED(uint8_t, w, MAX_QUERIES * MAX_TOKENS);
    KVQ_SHARED(float, scores, MAX_QUERIES *MAX_TOKENS);
    KVQ_SHARED(float, floats, 7 * MAX_QUERIES);
    KVQ_SHARED(int, ints, 3 * MAX_QUERIES);
    const shared s = {q,
                      floats,
                      ints,
                      floats + MAX_QUERIES,
                      scores,
                      w,
                      floats + 2 * MAX_QUERIES,
                      floats + 3 * MAX_QUERIES,
                      floats + 4 * MAX_QUERIES,
                      floats + 5 * MAX_QUERIES,
                      floats + 6 * MAX_QUERIES,
                      ints + MAX_QUERIES,
                      ints + 2 * MAX_QUERIES};
    tile t = tile_of(a, a.first_tile + blockIdx.x, blockIdx.y);
    int split = t.first_page / KVQ_SPLIT_PAGES + (int)blockIdx.z, d = a.kv.head_dim, n_tokens = a.kv.block_tokens;
    int begin = split * KVQ_SPLIT_PAGES, end = begin + KVQ_SPLIT_PAGES;
    if (begin < t.first_page) begin = t.first_page;
    if (end > t.last_page + 1) end = t.last_page + 1;
    if (begin >= end) return; /* the whole block: this tile has fewer splits than the longest */
    const kvq_kv_page *pages = a.batch.seqs[t.run.seq].pages[a.kv.layer.group];
    float acc[MAX_CHANNELS][MAX_QUERIES] = {};
    load_queries(a, t, s);

    for (int p = begin; p < end; p++) {
        kvq_kv_half k, v;
        if (kvq_sees_wide(a.kv, t.pos, p))
            kvq_wide_halves(a.kv, pages[p], a.batch, true, t.g, &k, &v);
        else
            kvq_closed_halves(a.kv, pages[p], t.g, &k, &v);
        int seen = t.pos + t.run.n_rows - p * n_tokens, n_written = seen < n_tokens ? seen : n_tokens;
        page_constant(a, t, s, k, p);
        __syncthreads();
        if (k.bits == 16)
            scores_of_halves(a, t, s, k);
        else
            scores_of_codes(a, t, s, k);
        __syncthreads();
        for (int n = threadIdx.x / KVQ_WARP_LANES; n < t.n_queries; n += N_WARPS)
            weigh_query(a, t, s, v, n, p * n_tokens, n_written);
        __syncthreads();
#pragma unroll
        for (int c = 0; c < MAX_CHANNELS; c++)
            if (c * ATTEND_THREADS + (int)threadIdx.x < d)
                add_values(a, t, s, v, n_written, c * ATTEND_THREADS + threadIdx.x, acc[c]);
    }
    size_t at = ((size_t)blockIdx.x * a.n_head_tiles + blockIdx.y) * a.n_splits + blockIdx.z;
    float *state = a.states + at * a.state_floats;
    __syncthreads();
    if ((int)threadIdx.x < t.n_queries) {
        state[threadIdx.x] = s.max[threadIdx.x];
        state[MAX_QUERIES + threadIdx.x] = s.sum[threadIdx.x];
    }
#pragma unroll
    for (int c = 0; c < MAX_CHANNELS; c++)
        for (int n = 0; n < MAX_QUERIES; n++)
            if (n < t.n_queries && c * ATTEND_THREADS + (int)threadIdx.x < d)
                state[2 * MAX_QUERIES + n * d + c * ATTEND_THREADS + threadIdx.x] = acc[c][n];
}

/* ---- splits merged in order, then turned back: a block per tile ---- */

__global__ void attend_merge(attend_job a) {
    KVQ_SHARED(float, x, KVQ_MAX_HEAD_DIM);
    KVQ_SHARED(float, other, KVQ_MAX_HEAD_DIM);
    tile t = tile_of(a, a.first_tile + blockIdx.x, blockIdx.y);
    int d = a.kv.head_dim, n_splits = t.last_page / KVQ_SPLIT_PAGES - t.first_page / KVQ_SPLIT_PAGES + 1;
    const float *states = a.states + ((size_t)blockIdx.x * a.n_head_tiles + blockIdx.y) * a.n_splits * a.state_floats;
    for (int n = 0; n < t.n_queries; n++) {
        float max = -INFINITY, sum = 0, acc[MAX_CHANNELS] = {};
        for (int i = 0; i < n_splits; i++) {
            const float *state = states + (size_t)i * a.state_floats;
            float from = state[n];
            if (from == -INFINITY) continue;
            float larger = max > from ? max : from;
            float keep = kvq_exp2_low(max - larger), add = kvq_exp2_low(from - larger);
            if (max == -INFINITY) keep = 0;
            sum = fmaf(sum, keep, state[MAX_QUERIES + n] * add);
            max = larger;
#pragma unroll
            for (int c = 0; c < MAX_CHANNELS; c++) {
                int channel = c * ATTEND_THREADS + threadIdx.x;
                if (channel < d) acc[c] = fmaf(acc[c], keep, state[2 * MAX_QUERIES + n * d + channel] * add);
            }
        }
        float unit = 1.0f / sum;
        __syncthreads(); /* the query before is written */
#pragma unroll
        for (int c = 0; c < MAX_CHANNELS; c++)
            if (c * ATTEND_THREADS + (int)threadIdx.x < d) x[c * ATTEND_THREADS + threadIdx.x] = acc[c] * unit;
        if (a.kv.policy.rotated) kvq_hadamard_block(x, other, d, a.hadamard);
        __syncthreads();
        float *out = a.job.out + query_at(a, t, n);
        for (int i = threadIdx.x; i < d; i += blockDim.x) out[i] = x[i];
    }
}

/* ---- the host's part ---- */

size_t kvq_cuda_attend_bytes(const kvq_shapes *shapes) {
    kvq_head_tiles heads = kvq_cut_heads(shapes->n_heads, shapes->n_kv_heads, MAX_QUERIES);
    size_t one = (size_t)heads.n_tiles * kvq_cuda_splits(shapes->max_tokens, shapes->block_tokens) *
                 state_floats_of(shapes->head_dim) * sizeof(float);
    size_t all = one * (size_t)shapes->max_rows;
    return all < STATE_BYTES ? all : one > STATE_BYTES ? one : STATE_BYTES;
}

static void attend(kvq_stream *s, const kvq_attend *job) {
    const kvq_cuda_step *step = kvq_cuda_step_of(s, job->batch);
    if (!step || step->n_tiles == 0) return;
    attend_job a = {};
    a.job = *job;
    a.kv = kvq_cuda_kv_of(job->kv, job->layer);
    a.batch = step->batch;
    a.tiles = step->tiles;
    a.heads_a_tile = s->heads.heads_a_tile;
    a.n_head_tiles = s->heads.n_tiles;
    a.n_splits = step->most_splits;
    a.state_floats = state_floats_of(a.kv.head_dim);
    if (a.kv.policy.rotated) a.hadamard = kvq_cuda_hadamard_of(a.kv.head_dim);

    size_t a_tile = (size_t)a.n_head_tiles * a.n_splits * a.state_floats * sizeof(float), used = 0;
    size_t n_fit = s->workspace_bytes / a_tile;
    int tiles_a_launch = n_fit < (size_t)step->n_tiles ? (int)n_fit : step->n_tiles;
    if (tiles_a_launch < 1) tiles_a_launch = 1; /* and fail below */
    a.states = (float *)kvq_cuda_take(s, &used, (size_t)tiles_a_launch * a_tile);
    for (; a.states && a.first_tile < step->n_tiles; a.first_tile += tiles_a_launch) {
        int left = step->n_tiles - a.first_tile, n = left < tiles_a_launch ? left : tiles_a_launch;
        KVQ_LAUNCH(attend_split, dim3(n, a.n_head_tiles, a.n_splits), dim3(ATTEND_THREADS), 0, s, a);
        KVQ_LAUNCH(attend_merge, dim3(n, a.n_head_tiles), dim3(ATTEND_THREADS), 0, s, a);
    }
}

void kvq_cuda_fill_attend(kvq_ops *ops) {
    ops->attend = attend;
}
