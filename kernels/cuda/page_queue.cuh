/* page_queue.cuh: a warp's pages on their way from device memory to its tensor cores, or those of a block whose warps
 * all want the same. Used by attend.cu.
 *
 * A half (K or V, ../kv.h) is a matrix of words: rows are 4 bytes' worth of what products run over (8 codes at 4 bits),
 * columns are K's tokens or V's channels. A lane's 16 bytes are four columns of one row: as they are (8 bits, a sign
 * bit turned) or parted into nibbles (4 bits) they are four B fragments of mma.m16n8k32, columns 4 g + u for fragment
 * u, with g = lane / 4. Halves are eight columns 8 g + u, two rows make eight fragments of mma.m16n8k16. So no code
 * goes from one lane to another: each lane copies what it will use itself into its own 16 bytes of every slot, and
 * needs no barrier, no padding and no rearrangement; the slots are but a queue of registers. What a fragment's columns
 * and depth mean is chosen in attend_piece.cuh so that the soft-max of K's products is V's A fragment in the same lane.
 *
 * A lane uses the same bytes whichever warp it is in. So a queue can be SHARED by a block's warps, which all take every
 * step of it: each copies a part of a step, and a barrier stands before it is used.
 *
 * Pages are taken in *pieces* of 64 tokens (a page of 32 is half a piece), and copies go in *steps* of 2 KB: a depth of
 * 32 or 64 channels of K, or 32 or 64 channels of V, KVQ_QUEUE_STEPS - 1 of them under way. */
#ifndef KVQ_CUDA_PAGE_QUEUE_CUH
#define KVQ_CUDA_PAGE_QUEUE_CUH

#include "kv.cuh"

#define KVQ_PIECE_TOKENS 64
#define KVQ_QUEUE_STEPS 5
#define KVQ_QUEUE_STEP_BYTES 2048 /* 4 entries of 16 bytes a lane */
#define KVQ_QUEUE_ENTRY_BYTES (16 * KVQ_WARP_LANES)

enum { KVQ_QUEUE_K_SCALES, KVQ_QUEUE_K_MINS, KVQ_QUEUE_V_SCALES, KVQ_QUEUE_V_MINS, KVQ_QUEUE_SCALES };
#define KVQ_QUEUE_SCALE_BYTES (KVQ_QUEUE_SCALES * KVQ_PIECE_TOKENS * 2) /* of a piece */
/* A piece has two steps at least, so the last of those under way may be of the piece after the next. */
#define KVQ_QUEUE_SCALE_SETS ((KVQ_QUEUE_STEPS - 1) / 2 + 1)
#define KVQ_QUEUE_BYTES (KVQ_QUEUE_STEPS * KVQ_QUEUE_STEP_BYTES + KVQ_QUEUE_SCALE_SETS * KVQ_QUEUE_SCALE_BYTES)

typedef struct kvq_page_queue {
    KVQ_SHARED_PTR(uint8_t) ring;      /* [KVQ_QUEUE_STEPS, 4 entries, 32 lanes, 16] */
    KVQ_SHARED_PTR(uint8_t) scales;    /* [KVQ_QUEUE_SCALE_SETS, KVQ_QUEUE_SCALES, 64] halves */
    KVQ_SHARED_PTR(kvq_kv_half) pages; /* [KVQ_SPLIT_PAGES, K and V] of the split */
    int head_dim, block_tokens;
    int n_seen;                             /* tokens from the split's first page on that may be looked at */
    int piece, stride, end;                 /* the piece whose step is copied next, the one after, and where they end */
    int step, n_steps, bits, set, put, got; /* of the half; which scales; slots */
    bool is_v;
    const uint8_t *codes; /* of the half */
    int mine;             /* bit i: of a shared queue's steps this warp copies entry i */
} kvq_page_queue;

/* ---- pieces ---- */

static __host__ __device__ __forceinline__ int kvq_pieces_of_page(int block_tokens) {
    return block_tokens > KVQ_PIECE_TOKENS ? block_tokens / KVQ_PIECE_TOKENS : 1;
}
static __device__ __forceinline__ int kvq_page_of_piece(int piece, int block_tokens) {
    return block_tokens > KVQ_PIECE_TOKENS ? piece * KVQ_PIECE_TOKENS / block_tokens : piece;
}
/* The token of its page that a piece begins with. */
static __device__ __forceinline__ int kvq_begin_of_piece(int piece, int block_tokens) {
    return block_tokens > KVQ_PIECE_TOKENS ? piece * KVQ_PIECE_TOKENS % block_tokens : 0;
}

/* The set of scales of the queue's next piece. */
static __device__ __forceinline__ int kvq_next_scales(int set) {
    return set + 1 == KVQ_QUEUE_SCALE_SETS ? 0 : set + 1;
}

/* ---- one step: copies of a lane; what is not there becomes zeros ---- */

/* Whether the lane copies entry i: a shared queue's entries are dealt out. */
template <bool SHARED> static __device__ __forceinline__ bool kvq_queue_is_mine(const kvq_page_queue &s, int i) {
    return !SHARED || (s.mine >> i & 1);
}

template <int BITS, bool SHARED>
static __device__ __forceinline__ void kvq_queue_copy_k(const kvq_page_queue &s, KVQ_SHARED_PTR(uint8_t) slot,
                                                        int begin, int g, int q) {
    constexpr int between_lanes = BITS == 4 ? 1 : 2, between_entries = BITS == 4 ? 4 : 1; /* rows */
    int row_bytes = 4 * s.block_tokens, n_rows = s.head_dim * BITS / 32;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (!kvq_queue_is_mine<SHARED>(s, i)) continue;
        int row = 8 * s.step + between_lanes * q + between_entries * (i % 2),
            column = 4 * begin + 128 * (i / 2) + 16 * g;
        bool is_there = row < n_rows && column < row_bytes;
        kvq_copy_async(slot + i * KVQ_QUEUE_ENTRY_BYTES, s.codes + row * row_bytes + column, is_there ? 16 : 0);
    }
}

template <bool SHARED>
static __device__ __forceinline__ void kvq_queue_copy_k_halves(const kvq_page_queue &s, KVQ_SHARED_PTR(uint8_t) slot,
                                                               int begin, int g, int q) {
    int row_bytes = 2 * s.block_tokens, column = 2 * begin + 16 * g;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (!kvq_queue_is_mine<SHARED>(s, i)) continue;
        int row = 16 * s.step + 2 * q + i % 2 + i / 2 * 8;
        kvq_copy_async(slot + i * KVQ_QUEUE_ENTRY_BYTES, s.codes + row * row_bytes + column,
                       column < row_bytes ? 16 : 0);
    }
}

template <int BITS, bool SHARED>
static __device__ __forceinline__ void kvq_queue_copy_v(const kvq_page_queue &s, KVQ_SHARED_PTR(uint8_t) slot,
                                                        int begin, int g, int q) {
    int row_bytes = 4 * s.head_dim, n_rows = s.block_tokens * BITS / 32, first = begin * BITS / 32;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (!kvq_queue_is_mine<SHARED>(s, i)) continue;
        int row = first + (BITS == 4 ? i % 2 * 4 + q : i / 2 * 8 + 2 * q + i % 2);
        int column = BITS == 4 ? 256 * s.step + 128 * (i / 2) + 16 * g : 128 * s.step + 16 * g;
        bool is_there = row < n_rows && column < row_bytes;
        kvq_copy_async(slot + i * KVQ_QUEUE_ENTRY_BYTES, s.codes + row * row_bytes + column, is_there ? 16 : 0);
    }
}

/* Rows behind what is written may hold a NaN, which times a probability of 0 is one too. */
template <bool SHARED>
static __device__ __forceinline__ void kvq_queue_copy_v_halves(const kvq_page_queue &s, KVQ_SHARED_PTR(uint8_t) slot,
                                                               int begin, int g, int q) {
    int row_bytes = 2 * s.head_dim, column = s.step / 4 * 128 + 16 * g;
    int n_written = s.n_seen - kvq_page_of_piece(s.piece, s.block_tokens) * s.block_tokens;
    if (n_written > s.block_tokens) n_written = s.block_tokens;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (!kvq_queue_is_mine<SHARED>(s, i)) continue;
        int row = begin + 16 * q + s.step % 4 * 4 + i;
        bool is_there = column < row_bytes && row < n_written;
        kvq_copy_async(slot + i * KVQ_QUEUE_ENTRY_BYTES, s.codes + row * row_bytes + column, is_there ? 16 : 0);
    }
}

/* All scales and minimums of the piece, with its first step: 16 bytes a lane. */
static __device__ __forceinline__ void kvq_queue_copy_scales(const kvq_page_queue &s, int page, int begin, int lane) {
    const kvq_kv_half k = s.pages[2 * page], v = s.pages[2 * page + 1];
    int part = lane / 8, token = begin + lane % 8 * 8;
    const uint16_t *of_k = part == KVQ_QUEUE_K_SCALES ? k.scales : k.mins;
    const uint16_t *from = part < KVQ_QUEUE_V_SCALES ? of_k : part == KVQ_QUEUE_V_SCALES ? v.scales : v.mins;
    bool is_there = from && token < s.block_tokens;
    kvq_copy_async(s.scales + s.set * KVQ_QUEUE_SCALE_BYTES + lane * 16, is_there ? from + token : k.scales,
                   is_there ? 16 : 0);
}

/* ---- the queue ---- */

template <bool HALVES> static __device__ __forceinline__ void kvq_queue_open_half(kvq_page_queue &s) {
    if (s.piece >= s.end) return;
    const kvq_kv_half half = s.pages[2 * kvq_page_of_piece(s.piece, s.block_tokens) + s.is_v];
    s.codes = half.codes;
    s.bits = half.bits;
    s.step = 0;
    s.n_steps = HALVES && s.is_v ? (s.head_dim + 63) / 64 * 4 : (s.head_dim * s.bits + 255) / 256;
}

template <bool HALVES, bool SHARED>
static __device__ __forceinline__ void kvq_queue_copy_step(const kvq_page_queue &s) {
    int lane = threadIdx.x % KVQ_WARP_LANES, g = lane / 4, q = lane % 4;
    int begin = kvq_begin_of_piece(s.piece, s.block_tokens);
    KVQ_SHARED_PTR(uint8_t) slot = s.ring + s.put * KVQ_QUEUE_STEP_BYTES + lane * 16;
    if (HALVES && s.is_v)
        kvq_queue_copy_v_halves<SHARED>(s, slot, begin, g, q);
    else if (HALVES)
        kvq_queue_copy_k_halves<SHARED>(s, slot, begin, g, q);
    else if (s.is_v && s.bits == 4)
        kvq_queue_copy_v<4, SHARED>(s, slot, begin, g, q);
    else if (s.is_v)
        kvq_queue_copy_v<8, SHARED>(s, slot, begin, g, q);
    else if (s.bits == 4)
        kvq_queue_copy_k<4, SHARED>(s, slot, begin, g, q);
    else
        kvq_queue_copy_k<8, SHARED>(s, slot, begin, g, q);
    if (!HALVES && !s.is_v && s.step == 0 && kvq_queue_is_mine<SHARED>(s, 0))
        kvq_queue_copy_scales(s, kvq_page_of_piece(s.piece, s.block_tokens), begin, lane);
}

/* Begins to copy the next step, if there is one. */
template <bool HALVES, bool SHARED> static __device__ __forceinline__ void kvq_queue_put(kvq_page_queue &s) {
    if (s.piece < s.end) {
        kvq_queue_copy_step<HALVES, SHARED>(s);
        if (++s.step == s.n_steps) {
            if (s.is_v) {
                s.piece += s.stride;
                s.set = kvq_next_scales(s.set);
            }
            s.is_v = !s.is_v;
            kvq_queue_open_half<HALVES>(s);
        }
        s.put = s.put + 1 == KVQ_QUEUE_STEPS ? 0 : s.put + 1;
    }
    kvq_copy_commit(); /* an empty group at the end, so that waiting counts the same */
}

/* Pieces [piece, end), every stride-th, of the split. */
template <bool HALVES, bool SHARED>
static __device__ __forceinline__ void kvq_queue_begin(kvq_page_queue &s, int piece, int stride, int end) {
    s.piece = piece;
    s.stride = stride;
    s.end = end;
    s.is_v = false;
    s.set = s.put = s.got = 0;
    s.bits = s.step = s.n_steps = 0; /* a warp may have no piece at all */
    s.codes = nullptr;
    kvq_queue_open_half<HALVES>(s);
#pragma unroll 1 /* code that runs once a launch is waited for, instruction by instruction */
    for (int i = 1; i < KVQ_QUEUE_STEPS; i++) kvq_queue_put<HALVES, SHARED>(s);
}

/* The next step: entry i of this lane is [32 i]. What the step before returned is overwritten from here on. With SHARED
 * by all of the block. */
template <bool HALVES, bool SHARED>
static __device__ __forceinline__ KVQ_SHARED_PTR(uint4) kvq_queue_take(kvq_page_queue &s) {
    kvq_copy_wait<KVQ_QUEUE_STEPS - 2>();
    if (SHARED) __syncthreads();
    kvq_queue_put<HALVES, SHARED>(s);
    KVQ_SHARED_PTR(uint8_t) slot = s.ring + s.got * KVQ_QUEUE_STEP_BYTES;
    s.got = s.got + 1 == KVQ_QUEUE_STEPS ? 0 : s.got + 1;
    return KVQ_SHARED_CAST(uint4, slot) + threadIdx.x % KVQ_WARP_LANES;
}

#endif
