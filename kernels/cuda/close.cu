/* close.cu: the closed image of a page that became full, from its wide image (../kv.h). A block is one KV head of one
 * page. K: a thread per channel for the mean, then a thread per token. V: a warp per eight tokens, which share bytes; a
 * token's 4-bit codes follow from its 8-bit codes alone, in integers but for one rounding without ties, so they are the
 * CPU's bit for bit. */
#include "stream.h"

#include "kv.cuh"
#include "warp.cuh"

#define CLOSE_THREADS 128 /* at least the tokens of a page */

static __device__ __forceinline__ int k_code(const kvq_kv_half &wide, int n_tokens, int t, int i) {
    return (int)wide.codes[((size_t)(i / 4) * n_tokens + t) * 4 + i % 4] - 128;
}

static __device__ __forceinline__ float clamp4(float x) {
    x = x > -8.0f ? x : -8.0f;
    return x < 7.0f ? x : 7.0f;
}

static __device__ void copy_k(const kvq_cuda_kv &kv, const kvq_kv_half &wide, const kvq_kv_half &closed) {
    int n_words = kv.block_tokens * kv.head_dim / 4;
    for (int i = threadIdx.x; i < n_words; i += blockDim.x)
        ((uint32_t *)closed.codes)[i] = ((const uint32_t *)wide.codes)[i];
    for (int t = threadIdx.x; t < kv.block_tokens; t += blockDim.x) closed.scales[t] = wide.scales[t];
}

/* The mean over the page of each channel, rounded to half. */
static __device__ void mean_of_k(const kvq_cuda_kv &kv, const kvq_kv_half &wide, uint16_t *to,
                                 KVQ_SHARED_PTR(float) mean) {
    for (int i = threadIdx.x; i < kv.head_dim; i += blockDim.x) {
        float sum = 0;
        for (int t = 0; t < kv.block_tokens; t++)
            sum = fmaf((float)k_code(wide, kv.block_tokens, t, i), kvq_half_float(wide.scales[t]), sum);
        uint16_t half = kvq_float_half(sum / (float)kv.block_tokens);
        if (to) to[i] = half;
        mean[i] = to ? kvq_half_float(half) : 0.0f;
    }
    __syncthreads();
}

static __device__ void close_k_token(const kvq_cuda_kv &kv, const kvq_kv_half &wide, const kvq_kv_half &closed,
                                     KVQ_SHARED_PTR(float) mean, int t) {
    float scale = kvq_half_float(wide.scales[t]), largest = 0, smallest = 0, xc = 0, cc = 0;
    for (int i = 0; i < kv.head_dim; i++) {
        float y = fmaf((float)k_code(wide, kv.block_tokens, t, i), scale, -mean[i]);
        largest = kvq_larger(largest, y);
        smallest = y < smallest ? y : smallest;
    }
    float m = largest < -smallest ? smallest : largest, per_code = 1e-30f < fabsf(m) ? -8.0f / m : 0.0f;
    for (int j = 0; j < kv.head_dim / 8; j++) {
        uint32_t packed = 0;
        for (int c = 0; c < 8; c++) {
            float y = fmaf((float)k_code(wide, kv.block_tokens, t, 8 * j + c), scale, -mean[8 * j + c]);
            int code = __float2int_rn(clamp4(y * per_code));
            xc = fmaf(y, (float)code, xc);
            cc = fmaf((float)code, (float)code, cc);
            packed |= (uint32_t)(code + 8) << (8 * (c % 4) + c / 4 * 4);
        }
        ((uint32_t *)closed.codes)[(size_t)j * kv.block_tokens + t] = packed;
    }
    closed.scales[t] = kvq_float_half(0 < cc ? xc / cc : 0.0f);
}

/* Eight tokens from t on, by one warp: one after the other, lane b keeping what token b's codes are made with. */
static __device__ void close_v_tokens(const kvq_cuda_kv &kv, const kvq_kv_half &wide, const kvq_kv_half &closed,
                                      int t) {
    int d = kv.head_dim, lane = threadIdx.x % KVQ_WARP_LANES;
    float per_code[8], own = 0;
    unsigned mirrored = 0;
#pragma unroll 1
    for (int b = 0; b < 8; b++) {
        const uint8_t *codes = wide.codes + (size_t)(t + b / 4 * 4) * d + b % 4;
        int largest = 0, smallest = 0, xc = 0, cc = 0;
        for (int i = lane; i < d; i += KVQ_WARP_LANES) {
            int code = (int)codes[4 * i] - 128;
            largest = code > largest ? code : largest;
            smallest = code < smallest ? code : smallest;
        }
        largest = kvq_warp_max(largest);
        smallest = -kvq_warp_max(-smallest);
        int m = largest >= -smallest ? largest : smallest;
        float factor = m ? -8.0f / (float)m : 0.0f;
        for (int i = lane; i < d; i += KVQ_WARP_LANES) {
            int code = (int)codes[4 * i] - 128, narrow = __float2int_rn(clamp4((float)code * factor));
            xc += code * narrow;
            cc += narrow * narrow;
        }
        xc = kvq_warp_sum(xc);
        cc = kvq_warp_sum(cc);
        double scale = (double)kvq_half_float(wide.scales[t + b]);
        uint16_t half = kvq_float_half(cc ? (float)(scale * xc / cc) : 0.0f);
        mirrored |= (unsigned)(half >> 15) << b;
        if (lane == b) own = factor;
        if (lane == 0) closed.scales[t + b] = half;
    }
#pragma unroll
    for (int b = 0; b < 8; b++) per_code[b] = __shfl_sync(KVQ_WARP, own, b);
    for (int i = lane; i < d; i += KVQ_WARP_LANES) {
        uint32_t packed = 0;
#pragma unroll
        for (int b = 0; b < 8; b++) {
            int code = (int)wide.codes[(size_t)(t + b / 4 * 4) * d + 4 * i + b % 4] - 128;
            int narrow = __float2int_rn(clamp4((float)code * per_code[b]));
            packed |= (uint32_t)((mirrored >> b & 1) ? 7 - narrow : narrow + 8) << (8 * (b % 4) + b / 4 * 4);
        }
        ((uint32_t *)closed.codes)[(size_t)(t / 8) * d + i] = packed;
    }
}

__global__ void close_page(kvq_cuda_kv kv, kvq_batch batch) {
    KVQ_SHARED(float, mean, KVQ_MAX_HEAD_DIM);
    kvq_wait_for_launches();
    const kvq_batch_close close = batch.closes[blockIdx.x];
    if (close.group != kv.layer.group) return;
    const kvq_kv_page page = batch.seqs[close.seq].pages[close.group][close.page];
    kvq_kv_half k_wide, v_wide, k, v;
    kvq_wide_halves(kv, page, batch, true, blockIdx.y, &k_wide, &v_wide);
    kvq_closed_halves(kv, page, blockIdx.y, &k, &v);
    if (k.bits == 8) { /* a hard layer */
        copy_k(kv, k_wide, k);
    } else {
        mean_of_k(kv, k_wide, k.mean, mean);
        if ((int)threadIdx.x < kv.block_tokens) close_k_token(kv, k_wide, k, mean, threadIdx.x);
    }
    for (int t = threadIdx.x / KVQ_WARP_LANES * 8; t < kv.block_tokens; t += CLOSE_THREADS / KVQ_WARP_LANES * 8)
        close_v_tokens(kv, v_wide, v, t);
}

static void close_pages(kvq_stream *s, const kvq_close_pages *job) {
    if (!job->kv->policy->wide || job->batch->n_closes == 0) return;
    const kvq_cuda_step *step = kvq_cuda_step_of(s, job->batch);
    if (!step) return;
    KVQ_LAUNCH(close_page, dim3(step->batch.n_closes, job->kv->n_kv_heads), dim3(CLOSE_THREADS), 0, s,
               kvq_cuda_kv_of(job->kv, job->layer), step->batch);
}

void kvq_cuda_fill_close(kvq_ops *ops) {
    ops->close_pages = close_pages;
}
