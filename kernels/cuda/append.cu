/* append.cu: q and k normed and turned, k and v quantized into the page of their position. A warp has one head of
 * one row, on its own: a lane has four values side by side of every 128 from the projection's output to their codes,
 * and shared memory serves only where lanes look further than an exchange does. Two tokens that share bytes (4-bit V of
 * LMDeploy's format: t and t + 4 of 8) are written by one warp, one after the other.
 *
 * Bytes: the row of q | k | v once, the codes once. Decode waits for one row: so everything that a head needs is asked
 * for first, and the kernel is made for heads of up to 128, 256 and 512, each with few instructions. */
#include "stream.h"

#include "kv.cuh"
#include "warp.cuh"

#define APPEND_WARPS 4 /* of a block */
#define APPEND_THREADS (APPEND_WARPS * KVQ_WARP_LANES)
#define TOKENS_OF_A_BYTE 8

#define LANE_VALUES 4
#define WARP_VALUES (LANE_VALUES * KVQ_WARP_LANES)

/* A lane's part of a head of at most N * WARP_VALUES: x[c] are channels channel_of(c) .. + 3, zeros behind the head's
 * end. A head's size is a multiple of 16. */
template <int N> struct lane_head {
    float x[N][LANE_VALUES];
    float weight[N][LANE_VALUES];    /* of the norm, if there is one */
    float table[N][2 * LANE_VALUES]; /* cosines and sines, where the lane's channels are turned by fours */
};

/* Room of a warp in shared memory, each for a head. */
typedef struct room {
    KVQ_SHARED_PTR(float) x;
    KVQ_SHARED_PTR(float) other;
} room;

static __device__ __forceinline__ int lane_of() {
    return threadIdx.x % KVQ_WARP_LANES;
}
static __device__ __forceinline__ int channel_of(int c) {
    return c * WARP_VALUES + LANE_VALUES * lane_of();
}

/* ---- pages that close in this step but were begun in an earlier one move to their slots first ---- */

__global__ void move_begun_page(kvq_cuda_kv kv, kvq_batch batch) {
    kvq_wait_for_launches();
    const kvq_batch_close close = batch.closes[blockIdx.x];
    const kvq_batch_seq *seq = &batch.seqs[close.seq];
    if (close.group != kv.layer.group || seq->pos_begin <= close.page * kv.block_tokens) return;
    const kvq_kv_page page = seq->pages[close.group][close.page];
    kvq_kv_half from[2], to[2];
    kvq_wide_halves(kv, page, batch, false, blockIdx.y, &from[0], &from[1]);
    kvq_wide_halves(kv, page, batch, true, blockIdx.y, &to[0], &to[1]);
    int n_words = (int)(kvq_wide_half_bytes(kv) / 4);
    for (int half = 0; half < 2; half++)
        for (int i = threadIdx.x; i < n_words; i += blockDim.x)
            ((uint32_t *)to[half].codes)[i] = ((const uint32_t *)from[half].codes)[i];
}

typedef struct append_job {
    kvq_append job;
    kvq_cuda_kv kv;
    kvq_batch batch;
    kvq_cuda_hadamard hadamard;
    int row_values; /* of q, k and v together */
    bool by_fours;  /* n_rot is a multiple of 8: what a lane has is turned alike */
    bool by_runs;   /* tokens share bytes: the first row of a run of 8 writes them all */
} append_job;

/* ---- norm and RoPE ---- */

/* Where a lane's four values from channel i on have their cosines and sines; of NeoX' pairs, i or i - n_rot / 2 is the
 * pair. */
static __device__ __forceinline__ int pair_of(const kvq_append &job, int i) {
    return !job.neox ? i / 2 : i < job.n_rot / 2 ? i : i - job.n_rot / 2;
}

/* Asks for everything; rope: the row's table, NULL for a head that is not turned. */
template <int N>
static __device__ __forceinline__ void load_head(lane_head<N> *ret, const append_job &a, const float *in,
                                                 const float *norm, const float *rope) {
#pragma unroll
    for (int c = 0; c < N; c++) {
        int i = channel_of(c);
        for (int b = 0; b < LANE_VALUES; b++) ret->x[c][b] = 0;
        if (i >= a.kv.head_dim) continue;
        kvq_load_values<LANE_VALUES>(ret->x[c], in + i);
        if (norm) kvq_load_values<LANE_VALUES>(ret->weight[c], norm + i);
        if (!rope || !a.by_fours || i >= a.job.n_rot) continue;
        const float *table = rope + 2 * pair_of(a.job, i);
        kvq_load_values<4>(ret->table[c], table);
        if (a.job.neox) kvq_load_values<4>(ret->table[c] + 4, table + 4);
    }
}

template <int N> static __device__ __forceinline__ void norm_head(lane_head<N> *h, int d, float eps) {
    float sum = 0;
#pragma unroll
    for (int c = 0; c < N; c++)
        for (int b = 0; b < LANE_VALUES; b++) sum = fmaf(h->x[c][b], h->x[c][b], sum);
    float unit = 1.0f / sqrtf(kvq_warp_sum(sum) / (float)d + eps);
#pragma unroll
    for (int c = 0; c < N; c++)
        if (channel_of(c) < d)
            for (int b = 0; b < LANE_VALUES; b++) h->x[c][b] = h->x[c][b] * unit * h->weight[c][b];
}

static __device__ __forceinline__ float turned(float own, float other, float cosine, float sine) {
    return fmaf(own, cosine, other * sine);
}

/* Pairs far apart, or side by side in a lane. */
template <int N> static __device__ __forceinline__ void turn_far(lane_head<N> *h, const room &room, int d, int n_rot) {
    kvq_put_head<N>(room.x, h->x, d);
#pragma unroll
    for (int c = 0; c < N; c++) {
        int i = channel_of(c), half = n_rot / 2;
        if (i >= n_rot) continue;
        float other[LANE_VALUES];
        kvq_get_four(other, room.x, i < half ? i + half : i - half);
        for (int b = 0; b < LANE_VALUES; b++) {
            float s = h->table[c][2 * b + 1];
            h->x[c][b] = turned(h->x[c][b], other[b], h->table[c][2 * b], i < half ? -s : s);
        }
    }
}
template <int N> static __device__ __forceinline__ void turn_near(lane_head<N> *h, int n_rot) {
#pragma unroll
    for (int c = 0; c < N; c++)
        for (int b = 0; b < LANE_VALUES && channel_of(c) < n_rot; b += 2) {
            float first = h->x[c][b], second = h->x[c][b + 1], s = h->table[c][b + 1];
            h->x[c][b] = turned(first, second, h->table[c][b], -s);
            h->x[c][b + 1] = turned(second, first, h->table[c][b], s);
        }
}
/* Any n_rot. */
static __device__ void turn_slowly(KVQ_SHARED_PTR(float) x, const float *rope, int n_rot, bool neox) {
#pragma unroll 1
    for (int pair = lane_of(); pair < n_rot / 2; pair += KVQ_WARP_LANES) {
        int i = neox ? pair : 2 * pair, j = neox ? pair + n_rot / 2 : 2 * pair + 1;
        float c = rope[2 * pair], s = rope[2 * pair + 1], first = x[i], second = x[j];
        x[i] = turned(first, second, c, -s);
        x[j] = turned(second, first, c, s);
    }
    __syncwarp();
}

template <int N>
static __device__ __forceinline__ void turn_head(lane_head<N> *h, const append_job &a, const float *rope,
                                                 const room &room) {
    if (!a.by_fours) {
        kvq_put_head<N>(room.x, h->x, a.kv.head_dim);
        turn_slowly(room.x, rope, a.job.n_rot, a.job.neox);
        kvq_get_head<N>(h->x, room.x, a.kv.head_dim);
    } else if (a.job.neox) {
        turn_far<N>(h, room, a.kv.head_dim, a.job.n_rot);
    } else {
        turn_near<N>(h, a.job.n_rot);
    }
}

/* ---- quantize: a lane's codes, four in a word ---- */

static __device__ __forceinline__ float clamp(float x, float low, float high) { /* a NaN becomes low */
    x = x > low ? x : low;
    return x < high ? x : high;
}

template <int N>
static __device__ __forceinline__ void quantize_sym8(uint32_t words[N], const lane_head<N> &h, uint16_t *scale) {
    float max = 0, xc = 0, cc = 0;
#pragma unroll
    for (int c = 0; c < N; c++)
        for (int b = 0; b < LANE_VALUES; b++) max = kvq_larger(max, fabsf(h.x[c][b]));
    max = kvq_warp_max(max);
    float per_code = max > 1e-30f ? 127.0f / max : 0.0f; /* a scale below 1e-32 is 0 in half */
#pragma unroll
    for (int c = 0; c < N; c++) {
        words[c] = 0;
        for (int b = 0; b < LANE_VALUES; b++) { /* zeros behind the head's end add nothing */
            float x = h.x[c][b];
            int code = __float2int_rn(clamp(x * per_code, -127.0f, 127.0f));
            words[c] |= (uint32_t)(code + 128) << (8 * b);
            xc = fmaf(x, (float)code, xc);
            cc = fmaf((float)code, (float)code, cc);
        }
    }
    xc = kvq_warp_sum(xc);
    cc = kvq_warp_sum(cc); /* exact: at most 512 x 127^2 */
    if (lane_of() == 0) *scale = kvq_float_half(cc > 0 ? xc / cc : 0.0f);
}

/* LMDeploy's format: scale and minimum rounded to halves first. */
template <int N>
static __device__ __forceinline__ void quantize_asym(uint32_t words[N], const lane_head<N> &h, int d, int bits,
                                                     uint16_t *scale, uint16_t *min) {
    float largest = __shfl_sync(KVQ_WARP, h.x[0][0], 0), smallest = largest, n = (float)((1 << bits) - 1);
#pragma unroll
    for (int c = 0; c < N; c++)
        for (int b = 0; b < LANE_VALUES && channel_of(c) < d; b++) {
            float x = h.x[c][b];
            largest = kvq_larger(largest, x);
            smallest = x < smallest ? x : smallest;
        }
    largest = kvq_warp_max(largest);
    smallest = -kvq_warp_max(-smallest);
    uint16_t s_bits = kvq_float_half((largest - smallest) / n), m_bits = kvq_float_half(smallest);
    float s = kvq_half_float(s_bits), m = kvq_half_float(m_bits);
#pragma unroll
    for (int c = 0; c < N; c++) {
        words[c] = 0;
        for (int b = 0; b < LANE_VALUES && s > 0; b++)
            words[c] |= (uint32_t)__float2int_rn(clamp((h.x[c][b] - m) / s, 0.0f, n)) << (8 * b);
    }
    if (lane_of() == 0) {
        *scale = s_bits;
        *min = m_bits;
    }
}

/* ---- write: token t of a half ---- */

template <int N>
static __device__ __forceinline__ void write_k_codes(const uint32_t words[N], const kvq_cuda_kv &kv,
                                                     const kvq_kv_half &k, int t) {
    uint32_t *to = (uint32_t *)k.codes + t;
#pragma unroll
    for (int c = 0; c < N; c++) {
        uint32_t word = words[c], high = __shfl_xor_sync(KVQ_WARP, word, 1); /* the next four channels' */
        int i = channel_of(c), j = k.bits == 8 ? i / 4 : i / 8;
        if (k.bits == 4) word |= high << 4;
        if (i < kv.head_dim && (k.bits == 8 || i % 8 == 0)) to[(size_t)j * kv.block_tokens] = word;
    }
}

template <int N>
static __device__ __forceinline__ void write_v_codes(const uint32_t words[N], const kvq_cuda_kv &kv,
                                                     const kvq_kv_half &v, int t) {
#pragma unroll
    for (int c = 0; c < N; c++) {
        int i = channel_of(c), d = kv.head_dim;
        if (i >= d) continue;
        uint32_t word = words[c];
        uint8_t *to = v.codes + ((size_t)(v.bits == 8 ? t / 4 : t / 8) * d + i) * 4 + t % 4;
        if (v.bits == 4) { /* beside those of t + 4 or t - 4 */
            uint32_t there = 0;
            for (int b = 0; b < LANE_VALUES; b++) there |= (uint32_t)to[4 * b] << (8 * b);
            word = t % 8 < 4 ? (there & 0xf0f0f0f0u) | word : (there & 0x0f0f0f0fu) | word << 4;
        }
        for (int b = 0; b < LANE_VALUES; b++) to[4 * b] = (uint8_t)(word >> (8 * b));
    }
}

template <int N>
static __device__ __forceinline__ void write_halves(const lane_head<N> &h, const kvq_cuda_kv &kv,
                                                    const kvq_kv_half &half, bool is_v, int t) {
    uint16_t *to = (uint16_t *)half.codes;
#pragma unroll
    for (int c = 0; c < N; c++) {
        int i = channel_of(c), d = kv.head_dim;
        if (i >= d) continue;
        uint2 words = {kvq_two_halves(h.x[c][0], h.x[c][1]), kvq_two_halves(h.x[c][2], h.x[c][3])};
        if (is_v) {
            *(uint2 *)(to + (size_t)t * d + i) = words;
            continue;
        }
        for (int b = 0; b < LANE_VALUES; b++)
            to[(size_t)(i + b) * kv.block_tokens + t] = (uint16_t)((b < 2 ? words.x : words.y) >> (b % 2 * 16));
    }
}

template <int N>
static __device__ __forceinline__ void write_head(const lane_head<N> &h, const kvq_cuda_kv &kv, const kvq_kv_half &half,
                                                  bool is_v, int t) {
    if (half.bits == 16) {
        write_halves<N>(h, kv, half, is_v, t);
        return;
    }
    uint32_t words[N];
    if (half.sym) /* 4-bit sym pages are made by closing */
        quantize_sym8<N>(words, h, &half.scales[t]);
    else
        quantize_asym<N>(words, h, kv.head_dim, half.bits, &half.scales[t], &half.mins[t]);
    if (is_v)
        write_v_codes<N>(words, kv, half, t);
    else
        write_k_codes<N>(words, kv, half, t);
}

/* ---- rows ---- */

/* Head `slot` (of q, then k, then v) of row r. */
template <int N>
static __device__ __forceinline__ void append_head(const append_job &a, const room &room, int r, int slot) {
    const kvq_append &job = a.job;
    const kvq_cuda_kv &kv = a.kv;
    int d = kv.head_dim, pos = a.batch.pos[r], seq = a.batch.row_seq[r], g = slot - job.n_heads;
    bool is_q = g < 0, is_v = g >= kv.n_kv_heads;
    if (is_v) g -= kv.n_kv_heads;
    const float *norm = is_q ? job.q_norm : is_v ? nullptr : job.k_norm;
    const float *rope = job.rope + (size_t)r * job.n_rot;
    lane_head<N> h;
    load_head<N>(&h, a, job.qkv + (size_t)r * a.row_values + slot * d, norm, is_v ? nullptr : rope);
    int p = pos >> kv.block_shift, t = pos & (kv.block_tokens - 1);
    kvq_kv_page page = {};
    if (!is_q) page = a.batch.seqs[seq].pages[kv.layer.group][p]; /* four loads, one behind the other */
    if (norm) norm_head<N>(&h, d, job.norm_eps);
    if (!is_v) turn_head<N>(&h, a, rope, room);
    if (kv.policy.rotated) kvq_hadamard_head<N>(h.x, kv.head_dim, a.hadamard, room.x, room.other);
    if (is_q) {
        float *out = job.q_out + (size_t)r * (job.n_heads * d) + slot * d;
#pragma unroll
        for (int c = 0; c < N; c++)
            if (channel_of(c) < d) kvq_store_values<LANE_VALUES>(out + channel_of(c), h.x[c]);
        return;
    }
    kvq_kv_half half, v;
    if (kv.policy.wide)
        kvq_wide_halves(kv, page, a.batch, true, g, &half, &v);
    else
        kvq_closed_halves(kv, page, g, &half, &v);
    if (is_v) half = v;
    if (!is_v && kv.layer.k_ref) {
        const float *k_ref = kv.layer.k_ref + ((size_t)p * kv.n_kv_heads + g) * d;
#pragma unroll
        for (int c = 0; c < N; c++) {
            float y[LANE_VALUES] = {};
            if (channel_of(c) < d) kvq_load_values<LANE_VALUES>(y, k_ref + channel_of(c));
            for (int b = 0; b < LANE_VALUES; b++) h.x[c][b] -= y[b];
        }
    }
    write_head<N>(h, kv, half, is_v, t);
}

template <int N> __global__ void append_rows(KVQ_ARGUMENT(append_job) a) {
    KVQ_SHARED(float, x, APPEND_WARPS *N *WARP_VALUES);
    KVQ_SHARED(float, other, APPEND_WARPS *N *WARP_VALUES);
    kvq_wait_for_launches();
    int warp = __shfl_sync(KVQ_WARP, (int)threadIdx.x / KVQ_WARP_LANES, 0); /* one for all lanes, and seen to be */
    const room room = {x + warp * N * WARP_VALUES, other + warp * N * WARP_VALUES};
    int r = blockIdx.x, end = r + 1, slot = (int)blockIdx.y * APPEND_WARPS + warp;
    if (slot >= a.job.n_heads + 2 * a.kv.n_kv_heads) return; /* the whole warp */
    if (a.by_runs) {
        const kvq_batch_seq *seq = &a.batch.seqs[a.batch.row_seq[r]];
        if (r > seq->row_begin && a.batch.pos[r] % TOKENS_OF_A_BYTE != 0) return; /* the first row of the run does it */
        while (end < seq->row_begin + seq->n_rows && a.batch.pos[end] % TOKENS_OF_A_BYTE != 0) end++;
    }
#pragma unroll 1
    for (; r < end; r++) append_head<N>(a, room, r, slot);
}

static void append(kvq_stream *s, const kvq_append *job) {
    const kvq_cuda_step *step = kvq_cuda_step_of(s, job->batch);
    if (!step || job->batch->n_rows == 0) return;
    append_job a = {};
    a.job = *job;
    a.kv = kvq_cuda_kv_of(job->kv, job->layer);
    a.batch = step->batch;
    if (a.kv.policy.rotated) a.hadamard = kvq_cuda_hadamard_of(a.kv.head_dim);
    a.row_values = (job->n_heads + 2 * a.kv.n_kv_heads) * a.kv.head_dim;
    a.by_fours = job->n_rot % (2 * LANE_VALUES) == 0;
    a.by_runs = a.kv.policy.v_bits == 4 && !a.kv.policy.wide;
    if (a.kv.policy.wide && a.batch.n_closes > 0)
        KVQ_LAUNCH(move_begun_page, dim3(a.batch.n_closes, a.kv.n_kv_heads), dim3(APPEND_THREADS), 0, s, a.kv, a.batch);
    dim3 grid(a.batch.n_rows, kvq_cuda_blocks(job->n_heads + 2 * a.kv.n_kv_heads, APPEND_WARPS));
    if (a.kv.head_dim <= WARP_VALUES)
        KVQ_LAUNCH(append_rows<1>, grid, dim3(APPEND_THREADS), 0, s, a);
    else if (a.kv.head_dim <= 2 * WARP_VALUES)
        KVQ_LAUNCH(append_rows<2>, grid, dim3(APPEND_THREADS), 0, s, a);
    else
        KVQ_LAUNCH(append_rows<4>, grid, dim3(APPEND_THREADS), 0, s, a);
}

void kvq_cuda_fill_append(kvq_ops *ops) {
    ops->append = append;
}
