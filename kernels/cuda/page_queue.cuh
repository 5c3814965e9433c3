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
#define KVQ_QUEUE_RING_BYTES (KVQ_QUEUE_STEPS * KVQ_QUEUE_STEP_BYTES)
#define KVQ_QUEUE_BYTES (KVQ_QUEUE_RING_BYTES + KVQ_QUEUE_SCALE_SETS * KVQ_QUEUE_SCALE_BYTES)

/* A half of a page, and how a lane's copies go through it: entry i of a piece's step n is at
 * codes + (lane / 4) 16 + (lane % 4) lane_bytes + i % 2 odd + i / 2 upper + n step_bytes, but V's halves turn after
 * every fourth step; a page's second piece begins second_bytes further on. */
typedef struct kvq_queue_half {
    const uint8_t *codes;
    int bits, n_steps;
    int lane_bytes, odd, upper, step_bytes;
    int turn_bytes, second_bytes;
    const uint16_t *mean; /* of K; NULL: none */
    const uint16_t *scales, *mins;
    int whole_pieces; /* bit i: every byte that piece i's steps take is there */
    int unused[3];    /* so that several fields come in one load */
} kvq_queue_half;

typedef struct kvq_page_queue {
    KVQ_SHARED_PTR(uint8_t) ring;         /* [KVQ_QUEUE_STEPS, 4 entries, 32 lanes, 16], from this lane's 16 bytes on */
    KVQ_SHARED_PTR(uint8_t) scales;       /* [KVQ_QUEUE_SCALE_SETS, KVQ_QUEUE_SCALES, 64] halves */
    KVQ_SHARED_PTR(kvq_queue_half) pages; /* [KVQ_SPLIT_PAGES, K and V] of the split */
    int head_dim, block_tokens;
    int n_seen;             /* tokens from the split's first page on that may be looked at */
    int piece, stride, end; /* the piece whose step is copied next, the one after, and where they end */
    int slot, set;          /* where in the ring the next step goes; which scales the next piece has */
    const uint8_t *from;    /* entry 0 of the next step, and of its half: */
    int odd, upper, step_bytes, turn_bytes;
    int bits, left;      /* steps left; 0: there is nothing more to copy */
    bool is_v, is_whole; /* whole: what it says above */
} kvq_page_queue;

/* ---- pieces ---- */

static __host__ __device__ __forceinline__ int kvq_pieces_of_page(int block_tokens) {
    return block_tokens > KVQ_PIECE_TOKENS ? 2 : 1; /* a page has 32, 64 or 128 tokens */
}
static __device__ __forceinline__ int kvq_page_of_piece(int piece, int block_tokens) {
    return block_tokens > KVQ_PIECE_TOKENS ? piece >> 1 : piece;
}
/* The token of its page that a piece begins with. */
static __device__ __forceinline__ int kvq_begin_of_piece(int piece, int block_tokens) {
    return block_tokens > KVQ_PIECE_TOKENS ? (piece & 1) * KVQ_PIECE_TOKENS : 0;
}

/* The set of scales of the queue's next piece. */
static __device__ __forceinline__ int kvq_next_scales(int set) {
    return set + 1 == KVQ_QUEUE_SCALE_SETS ? 0 : set + 1;
}

/* ---- where a half's entries are ---- */

/* A half is a matrix of rows, its columns counted in bytes. Of entry i of step n lane (g, q) has
 *   row     first_row + lane_rows q + odd_rows (i % 2) + upper_rows (i / 2) + step_rows n
 *   column  first_column + 16 g + upper_columns (i / 2) + step_columns n
 * V's halves have four steps for the rows of 64 channels (step_rows), then the next 128 bytes of the same rows. */
typedef struct kvq_half_walk {
    int first_row, lane_rows, odd_rows, upper_rows, step_rows;
    int first_column, upper_columns, step_columns;
    int n_rows, row_bytes, n_steps;
} kvq_half_walk;

template <bool HALVES>
static __device__ __forceinline__ kvq_half_walk kvq_walk_of(bool v, int bits, int d, int block_tokens, int begin) {
    kvq_half_walk ret;
    bool four = !HALVES && bits == 4;
    int column_bytes = HALVES ? 2 : 4, shift = HALVES ? 0 : four ? 3 : 2;
    ret.n_rows = (v ? block_tokens : d) >> shift; /* a row holds one channel or token; of codes eight or four */
    ret.row_bytes = column_bytes * (v ? d : block_tokens);
    ret.first_row = v ? begin >> shift : 0;
    ret.first_column = v ? 0 : column_bytes * begin;
    if (HALVES) {
        ret.lane_rows = v ? 16 : 2;
        ret.odd_rows = 1;
        ret.upper_rows = v ? 2 : 8;
        ret.step_rows = v ? 4 : 16;
        ret.upper_columns = ret.step_columns = 0;
        ret.n_steps = v ? (d + 63) / 64 * 4 : d / 16;
    } else {
        ret.lane_rows = four ? 1 : 2;
        ret.odd_rows = four ? 4 : 1;
        ret.upper_rows = v && !four ? 8 : 0;
        ret.step_rows = v ? 0 : 8;
        ret.upper_columns = v && !four ? 0 : 128;
        ret.step_columns = !v ? 0 : four ? 256 : 128;
        ret.n_steps = (d * bits + 255) / 256;
    }
    return ret;
}

/* Rows of V's halves behind what is written may hold a NaN, which times a probability of 0 is one too. n_seen: tokens
 * from the page's first on that may be looked at. */
static __device__ __forceinline__ int kvq_rows_written(int n_seen, int block_tokens) {
    return n_seen < block_tokens ? n_seen : block_tokens;
}

template <bool HALVES>
static __device__ __forceinline__ bool kvq_piece_is_whole(bool v, int bits, int d, int block_tokens, int n_seen,
                                                          int begin) {
    if (HALVES && v) return d % 64 == 0 && begin + KVQ_PIECE_TOKENS <= kvq_rows_written(n_seen, block_tokens);
    return block_tokens >= KVQ_PIECE_TOKENS && (HALVES || d * bits % 256 == 0);
}

/* What the queue is told of a half; v: it is V's. n_seen counts from the page's first token. */
template <bool HALVES>
static __device__ __forceinline__ kvq_queue_half kvq_queue_half_of(const kvq_kv_half &half, bool v, int d,
                                                                   int block_tokens, int n_seen) {
    const kvq_half_walk at = kvq_walk_of<HALVES>(v, half.bits, d, block_tokens, 0);
    const kvq_half_walk second = kvq_walk_of<HALVES>(v, half.bits, d, block_tokens, KVQ_PIECE_TOKENS);
    kvq_queue_half ret = {};
    ret.codes = half.codes;
    ret.bits = half.bits;
    ret.n_steps = at.n_steps;
    ret.lane_bytes = at.lane_rows * at.row_bytes;
    ret.odd = at.odd_rows * at.row_bytes;
    ret.upper = at.upper_rows * at.row_bytes + at.upper_columns;
    ret.step_bytes = at.step_rows * at.row_bytes + at.step_columns;
    ret.turn_bytes = 128 - 12 * at.row_bytes;
    ret.second_bytes = second.first_row * at.row_bytes + second.first_column;
    ret.mean = half.mean;
    ret.scales = half.scales;
    ret.mins = half.mins;
    for (int i = 0; i < kvq_pieces_of_page(block_tokens); i++)
        ret.whole_pieces |= kvq_piece_is_whole<HALVES>(v, half.bits, d, block_tokens, n_seen, i * KVQ_PIECE_TOKENS)
                            << i;
    return ret;
}

/* Whether the lane's entry i of the next step is there, of a half that is not whole. */
template <bool HALVES>
static __device__ __forceinline__ bool kvq_queue_has_entry(const kvq_page_queue &s, const kvq_half_walk &at, int i) {
    int lane = threadIdx.x % KVQ_WARP_LANES, step = at.n_steps - s.left, fours = HALVES && s.is_v ? step / 4 : 0;
    int row = at.first_row + at.lane_rows * (lane % 4) + at.odd_rows * (i % 2) + at.upper_rows * (i / 2) +
              at.step_rows * (step - 4 * fours);
    int column = at.first_column + 16 * (lane / 4) + at.upper_columns * (i / 2) + at.step_columns * step + 128 * fours;
    int n_seen = s.n_seen - kvq_page_of_piece(s.piece, s.block_tokens) * s.block_tokens;
    return row < (HALVES && s.is_v ? kvq_rows_written(n_seen, s.block_tokens) : at.n_rows) && column < at.row_bytes;
}

/* ---- one step: copies of a lane; what is not there becomes zeros ---- */

/* A shared queue's entries are dealt out to the block's warps. */
template <bool HALVES, bool SHARED>
static __device__ __forceinline__ void kvq_queue_copy_step(const kvq_page_queue &s) {
    KVQ_SHARED_PTR(uint8_t) to = s.ring + s.slot;
    int first = SHARED ? threadIdx.x / KVQ_WARP_LANES : 0, by = SHARED ? blockDim.x / KVQ_WARP_LANES : 1;
    if (s.is_whole) {
#pragma unroll(SHARED ? 1 : 4)
        for (int i = first; i < 4; i += by)
            kvq_copy_async(to + i * KVQ_QUEUE_ENTRY_BYTES, s.from + (i & 1) * s.odd + (i >> 1) * s.upper, 16);
        return;
    }
    const kvq_half_walk at =
        kvq_walk_of<HALVES>(s.is_v, s.bits, s.head_dim, s.block_tokens, kvq_begin_of_piece(s.piece, s.block_tokens));
#pragma unroll 1
    for (int i = first; i < 4; i += by)
        kvq_copy_async(to + i * KVQ_QUEUE_ENTRY_BYTES, s.from + (i & 1) * s.odd + (i >> 1) * s.upper,
                       kvq_queue_has_entry<HALVES>(s, at, i) ? 16 : 0);
}

/* All scales and minimums of the piece, 16 bytes a lane: they come with what is copied next. */
static __device__ __forceinline__ void kvq_queue_copy_scales(const kvq_page_queue &s, int page, int begin, int lane) {
    int part = lane / 8, token = begin + lane % 8 * 8;
    const kvq_queue_half half = s.pages[2 * page + part / 2];
    const uint16_t *from = part % 2 ? half.mins : half.scales;
    bool is_there = from && token < s.block_tokens;
    kvq_copy_async(s.scales + s.set * KVQ_QUEUE_SCALE_BYTES + lane * 16, is_there ? from + token : half.scales,
                   is_there ? 16 : 0);
}

/* ---- the queue ---- */

template <bool HALVES, bool SHARED> static __device__ __forceinline__ void kvq_queue_open_half(kvq_page_queue &s) {
    s.left = 0;
    if (s.piece >= s.end) return;
    int lane = threadIdx.x % KVQ_WARP_LANES;
    int page = kvq_page_of_piece(s.piece, s.block_tokens), begin = kvq_begin_of_piece(s.piece, s.block_tokens);
    const kvq_queue_half half = s.pages[2 * page + s.is_v];
    s.from = half.codes + (begin ? half.second_bytes : 0) + lane % 4 * half.lane_bytes + 16 * (lane / 4);
    s.odd = half.odd;
    s.upper = half.upper;
    s.step_bytes = half.step_bytes;
    if (HALVES) s.turn_bytes = half.turn_bytes;
    s.bits = half.bits;
    s.left = half.n_steps;
    s.is_whole = half.whole_pieces >> (begin ? 1 : 0) & 1;
    if (!HALVES && !s.is_v && (!SHARED || threadIdx.x < KVQ_WARP_LANES)) kvq_queue_copy_scales(s, page, begin, lane);
}

/* Begins to copy the next step, if there is one. */
template <bool HALVES, bool SHARED> static __device__ __forceinline__ void kvq_queue_put(kvq_page_queue &s) {
    if (s.left > 0) {
        kvq_queue_copy_step<HALVES, SHARED>(s);
        s.from += HALVES && s.is_v && s.left % 4 == 1 ? s.turn_bytes : s.step_bytes;
        if (--s.left == 0) {
            if (s.is_v) {
                s.piece += s.stride;
                s.set = kvq_next_scales(s.set);
            }
            s.is_v = !s.is_v;
            kvq_queue_open_half<HALVES, SHARED>(s);
        }
    }
    kvq_copy_commit(); /* an empty group at the end, so that waiting counts the same */
    s.slot = s.slot + KVQ_QUEUE_STEP_BYTES == KVQ_QUEUE_RING_BYTES ? 0 : s.slot + KVQ_QUEUE_STEP_BYTES;
}

/* Pieces [piece, end), every stride-th, of the split; a warp may have none at all. */
template <bool HALVES, bool SHARED>
static __device__ __forceinline__ void kvq_queue_begin(kvq_page_queue &s, int piece, int stride, int end) {
    s.piece = piece;
    s.stride = stride;
    s.end = end;
    s.is_v = s.is_whole = false;
    s.set = s.slot = s.bits = s.odd = s.upper = s.step_bytes = s.turn_bytes = 0;
    s.from = nullptr;
    kvq_queue_open_half<HALVES, SHARED>(s);
#pragma unroll 1 /* code that runs once a launch is waited for, instruction by instruction */
    for (int i = 1; i < KVQ_QUEUE_STEPS; i++) kvq_queue_put<HALVES, SHARED>(s);
}

/* The next step: entry i of this lane is [32 i]. What the step before returned is overwritten from here on, since the
 * ring is full: the slot behind the one that is filled is the one to read. With SHARED by all of the block. */
template <bool HALVES, bool SHARED>
static __device__ __forceinline__ KVQ_SHARED_PTR(uint4) kvq_queue_take(kvq_page_queue &s) {
    kvq_copy_wait<KVQ_QUEUE_STEPS - 2>();
    if (SHARED) __syncthreads();
    kvq_queue_put<HALVES, SHARED>(s);
    return KVQ_SHARED_CAST(uint4, s.ring + s.slot);
}

#endif
