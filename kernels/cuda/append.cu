/* append.cu: q and k normed and turned, k and v quantized into the page of their position. A warp has one head of
 * one row, on its own: the head stays in shared memory from the projection's output to its codes. Two tokens that share
 * bytes (4-bit V of LMDeploy's format: t and t + 4 of 8) are written by one warp, one after the other.
 *
 * Bytes: the row of q | k | v once, the codes once. */
#include "stream.h"

#include "kv.cuh"
#include "warp.cuh"

#define APPEND_WARPS 4 /* of a block */
#define APPEND_THREADS (APPEND_WARPS * KVQ_WARP_LANES)
#define TOKENS_OF_A_BYTE 8

/* Shared memory of a warp. */
typedef struct head {
    KVQ_SHARED_PTR(float) x;
    KVQ_SHARED_PTR(float) other;
    KVQ_SHARED_PTR(uint8_t) codes;
} head;

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

/* ---- one head ---- */

static __device__ __forceinline__ int lane_of() {
    return threadIdx.x % KVQ_WARP_LANES;
}

static __device__ void norm_head(const head &h, int d, const float *weight, float eps) {
    float sum = 0;
    for (int i = lane_of(); i < d; i += KVQ_WARP_LANES) {
        float x = h.x[i];
        sum = fmaf(x, x, sum);
    }
    sum = kvq_warp_sum(sum);
    float unit = 1.0f / sqrtf(sum / (float)d + eps);
    for (int i = lane_of(); i < d; i += KVQ_WARP_LANES) h.x[i] = h.x[i] * unit * weight[i];
    __syncwarp();
}

static __device__ void turn_head(const head &h, const float *rope, int n_rot, bool neox) {
    for (int pair = lane_of(); pair < n_rot / 2; pair += KVQ_WARP_LANES) {
        int first = neox ? pair : 2 * pair, second = neox ? pair + n_rot / 2 : 2 * pair + 1;
        float c = rope[2 * pair], s = rope[2 * pair + 1], a = h.x[first], b = h.x[second];
        h.x[first] = fmaf(a, c, b * -s);
        h.x[second] = fmaf(b, c, a * s);
    }
    __syncwarp();
}

static __device__ void load_head(const head &h, const float *in, int d) {
    __syncwarp(); /* the head before is done with */
    for (int i = lane_of(); i < d; i += KVQ_WARP_LANES) h.x[i] = in[i];
    __syncwarp();
}

/* ---- quantize: codes into shared memory ---- */

static __device__ __forceinline__ float clamp(float x, float low, float high) { /* a NaN becomes low */
    x = x > low ? x : low;
    return x < high ? x : high;
}

static __device__ void quantize_sym8(const head &h, int d, uint16_t *scale) {
    float max = 0, xc = 0, cc = 0;
    for (int i = lane_of(); i < d; i += KVQ_WARP_LANES) max = kvq_larger(max, fabsf(h.x[i]));
    max = kvq_warp_max(max);
    float per_code = max > 1e-30f ? 127.0f / max : 0.0f; /* a scale below 1e-32 is 0 in half */
    for (int i = lane_of(); i < d; i += KVQ_WARP_LANES) {
        float x = h.x[i];
        int code = __float2int_rn(clamp(x * per_code, -127.0f, 127.0f));
        h.codes[i] = (uint8_t)(code + 128);
        xc = fmaf(x, (float)code, xc);
        cc = fmaf((float)code, (float)code, cc);
    }
    xc = kvq_warp_sum(xc);
    cc = kvq_warp_sum(cc); /* exact: at most 512 x 127^2 */
    if (lane_of() == 0) *scale = kvq_float_half(cc > 0 ? xc / cc : 0.0f);
}

/* LMDeploy's format: scale and minimum rounded to halves first. */
static __device__ void quantize_asym(const head &h, int d, int bits, uint16_t *scale, uint16_t *min) {
    float largest = h.x[0], smallest = largest, n = (float)((1 << bits) - 1);
    for (int i = lane_of(); i < d; i += KVQ_WARP_LANES) {
        float x = h.x[i];
        largest = kvq_larger(largest, x);
        smallest = x < smallest ? x : smallest;
    }
    largest = kvq_warp_max(largest);
    smallest = -kvq_warp_max(-smallest);
    uint16_t s_bits = kvq_float_half((largest - smallest) / n), m_bits = kvq_float_half(smallest);
    float s = kvq_half_float(s_bits), m = kvq_half_float(m_bits);
    for (int i = lane_of(); i < d; i += KVQ_WARP_LANES)
        h.codes[i] = (uint8_t)(s > 0 ? __float2int_rn(clamp((h.x[i] - m) / s, 0.0f, n)) : 0);
    if (lane_of() == 0) {
        *scale = s_bits;
        *min = m_bits;
    }
}

/* ---- write: token t of a half ---- */

static __device__ void write_k_codes(const head &h, const kvq_cuda_kv &kv, const kvq_kv_half &k, int t) {
    KVQ_SHARED_PTR(uint32_t) codes = KVQ_SHARED_CAST(uint32_t, h.codes);
    uint32_t *to = (uint32_t *)k.codes + t;
    for (int j = lane_of(); j < kv.head_dim * k.bits / 32; j += KVQ_WARP_LANES)
        to[(size_t)j * kv.block_tokens] = k.bits == 8 ? (uint32_t)codes[j] : codes[2 * j] | codes[2 * j + 1] << 4;
}

static __device__ void write_v_codes(const head &h, const kvq_cuda_kv &kv, const kvq_kv_half &v, int t) {
    for (int i = lane_of(); i < kv.head_dim; i += KVQ_WARP_LANES) {
        uint8_t *to = v.codes + ((size_t)(t / (32 / v.bits)) * kv.head_dim + i) * 4 + t % 4;
        if (v.bits == 8)
            *to = h.codes[i];
        else if (t % 8 < 4)
            *to = (uint8_t)((*to & 0xf0) | h.codes[i]);
        else
            *to = (uint8_t)((*to & 0x0f) | h.codes[i] << 4);
    }
}

static __device__ void write_halves(const head &h, const kvq_cuda_kv &kv, const kvq_kv_half &half, bool is_v, int t) {
    uint16_t *to = (uint16_t *)half.codes;
    for (int i = lane_of(); i < kv.head_dim; i += KVQ_WARP_LANES)
        to[is_v ? (size_t)t * kv.head_dim + i : (size_t)i * kv.block_tokens + t] = kvq_float_half(h.x[i]);
}

static __device__ void write_head(const head &h, const kvq_cuda_kv &kv, const kvq_kv_half &half, bool is_v, int t) {
    if (half.bits == 16) {
        write_halves(h, kv, half, is_v, t);
        return;
    }
    if (half.sym) /* 4-bit sym pages are made by closing */
        quantize_sym8(h, kv.head_dim, &half.scales[t]);
    else
        quantize_asym(h, kv.head_dim, half.bits, &half.scales[t], &half.mins[t]);
    __syncwarp();
    if (is_v)
        write_v_codes(h, kv, half, t);
    else
        write_k_codes(h, kv, half, t);
}

/* ---- rows ---- */

typedef struct append_job {
    kvq_append job;
    kvq_cuda_kv kv;
    kvq_batch batch;
    kvq_cuda_hadamard hadamard;
    bool by_runs; /* tokens share bytes: the first row of a run of 8 writes them all */
} append_job;

/* Head `slot` (of q, then k, then v) of row r. */
static __device__ void append_head(const append_job &a, const head &h, int r, int slot) {
    const kvq_append &job = a.job;
    const kvq_cuda_kv &kv = a.kv;
    int d = kv.head_dim, p = a.batch.pos[r] / kv.block_tokens, t = a.batch.pos[r] % kv.block_tokens;
    bool is_q = slot < job.n_heads, is_v = slot >= job.n_heads + kv.n_kv_heads;
    load_head(h, job.qkv + ((size_t)r * (job.n_heads + 2 * kv.n_kv_heads) + slot) * d, d);
    const float *norm = is_q ? job.q_norm : is_v ? nullptr : job.k_norm;
    if (norm) norm_head(h, d, norm, job.norm_eps);
    if (!is_v) turn_head(h, job.rope + (size_t)r * job.n_rot, job.n_rot, job.neox);
    if (kv.policy.rotated) kvq_hadamard_warp(h.x, h.other, d, a.hadamard);
    if (is_q) {
        float *out = job.q_out + ((size_t)r * job.n_heads + slot) * d;
        for (int i = lane_of(); i < d; i += KVQ_WARP_LANES) out[i] = h.x[i];
        return;
    }
    int g = (slot - job.n_heads) % kv.n_kv_heads;
    const kvq_kv_page page = a.batch.seqs[a.batch.row_seq[r]].pages[kv.layer.group][p];
    kvq_kv_half half, v;
    if (kv.policy.wide)
        kvq_wide_halves(kv, page, a.batch, true, g, &half, &v);
    else
        kvq_closed_halves(kv, page, g, &half, &v);
    if (is_v) half = v;
    if (!is_v && kv.layer.k_ref) {
        const float *k_ref = kv.layer.k_ref + ((size_t)p * kv.n_kv_heads + g) * d;
        for (int i = lane_of(); i < d; i += KVQ_WARP_LANES) h.x[i] = h.x[i] - k_ref[i];
        __syncwarp();
    }
    write_head(h, kv, half, is_v, t);
}

__global__ void append_rows(KVQ_ARGUMENT(append_job) a) {
    KVQ_SHARED(float, x, APPEND_WARPS *KVQ_MAX_HEAD_DIM);
    KVQ_SHARED(float, other, APPEND_WARPS *KVQ_MAX_HEAD_DIM);
    KVQ_SHARED(uint8_t, codes, APPEND_WARPS * KVQ_MAX_HEAD_DIM);
    kvq_wait_for_launches();
    int warp = threadIdx.x / KVQ_WARP_LANES, mine = warp * KVQ_MAX_HEAD_DIM;
    const head h = {x + mine, other + mine, codes + mine};
    int r = blockIdx.x, end = r + 1, slot = (int)blockIdx.y * APPEND_WARPS + warp;
    if (slot >= a.job.n_heads + 2 * a.kv.n_kv_heads) return; /* the whole warp */
    if (a.by_runs) {
        const kvq_batch_seq *seq = &a.batch.seqs[a.batch.row_seq[r]];
        if (r > seq->row_begin && a.batch.pos[r] % TOKENS_OF_A_BYTE != 0) return; /* the first row of the run does it */
        while (end < seq->row_begin + seq->n_rows && a.batch.pos[end] % TOKENS_OF_A_BYTE != 0) end++;
    }
    for (; r < end; r++) append_head(a, h, r, slot);
}

static void append(kvq_stream *s, const kvq_append *job) {
    const kvq_cuda_step *step = kvq_cuda_step_of(s, job->batch);
    if (!step || job->batch->n_rows == 0) return;
    append_job a = {};
    a.job = *job;
    a.kv = kvq_cuda_kv_of(job->kv, job->layer);
    a.batch = step->batch;
    if (a.kv.policy.rotated) a.hadamard = kvq_cuda_hadamard_of(a.kv.head_dim);
    a.by_runs = a.kv.policy.v_bits == 4 && !a.kv.policy.wide;
    if (a.kv.policy.wide && a.batch.n_closes > 0)
        KVQ_LAUNCH(move_begun_page, dim3(a.batch.n_closes, a.kv.n_kv_heads), dim3(APPEND_THREADS), 0, s, a.kv, a.batch);
    dim3 grid(a.batch.n_rows, kvq_cuda_blocks(job->n_heads + 2 * a.kv.n_kv_heads, APPEND_WARPS));
    KVQ_LAUNCH(append_rows, grid, dim3(APPEND_THREADS), 0, s, a);
}

void kvq_cuda_fill_append(kvq_ops *ops) {
    ops->append = append;
}
