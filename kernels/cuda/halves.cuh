/* halves.cuh: the weights of ../matrix.h as halves, in the places where tensor cores take them. Included by
 * linear_halves.cu and linear_cublas.cu.
 *
 * As in fragments.cuh a warp has 32 output rows, a step is 32 inputs, and what a lane loads are its own words of A:
 * rows 4 g .. 4 g + 3, inputs 8 t .. 8 t + 7 (g = lane / 4, t = lane % 4). A step is two products of 16 inputs for each
 * pair of a lane's rows. Which inputs stand together in a word is free as long as both factors agree; here it is what
 * one `and` takes out of a word of nibbles: (0, 2), (1, 3), then (4, 6), (5, 7) of a lane's eight. kvq_half_input is
 * that order.
 *
 * A code below 1024 is the low bits of the half 1024 + code, which one subtraction turns into code - zero, exactly; a
 * high nibble is used where it stands, in 64 + code. Then one product with the scale, or one fused multiply-add of
 * scale and minimum, rounds to a half. With scales that are halves in the file that is the only rounding; super scales
 * times their factor are rounded to a half before. Nothing is lost to denormals there: all of these are multiples of a
 * half's smallest. Too large a weight is an infinity, and linear_halves.cu sees it in the sum. */
#ifndef KVQ_CUDA_HALVES_CUH
#define KVQ_CUDA_HALVES_CUH

#include "fragments.cuh"

/* Of each eight inputs, the one at place i. */
static __device__ __forceinline__ int kvq_half_input(int i) {
    return i / 4 * 4 + i % 2 * 2 + i / 2 % 2;
}

/* 8 activation rows of a step. A lane's 16 bytes are its words of B, in both products. */
typedef struct kvq_half_columns {
    uint16_t x[KVQ_COLUMNS][KVQ_STEP]; /* each eight of inputs in the order of kvq_half_input */
} kvq_half_columns;

/* Words of A of a step: of rows 2 p and 2 p + 1 of a lane, of product q. */
typedef struct kvq_half_weights {
    uint32_t a[KVQ_LANE_ROWS / 2][2][4];
} kvq_half_weights;

/* Row i's pairs of inputs: (0, 2), (1, 3), (4, 6), (5, 7). */
static __device__ __forceinline__ void kvq_put_pairs(kvq_half_weights *ret, int i, const uint32_t *pairs) {
#pragma unroll
    for (int n = 0; n < 4; n++) ret->a[i / 2][n / 2][n % 2 * 2 + i % 2] = pairs[n];
}

/* Row i's eight inputs, in the order of kvq_half_input. */
static __device__ __forceinline__ uint4 kvq_row_pairs(const kvq_half_weights &w, int i) {
    const uint32_t *low = w.a[i / 2][0], *high = w.a[i / 2][1];
    return uint4{low[i % 2], low[2 + i % 2], high[i % 2], high[2 + i % 2]};
}

/* ---- coded weights ---- */

/* The four rows' scales or minimums as halves. Those of super scales are bytes, which the half 1024 + 128 + byte makes
 * whole numbers, exactly; so the product rounds once. */
template <typename K>
static __device__ __forceinline__ void kvq_scale_halves(uint32_t ret[2], const uint32_t *words, const uint32_t *super) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
        if constexpr (K::SCALE == KVQ_SCALE_SUPER) {
            uint32_t bytes = kvq_pick_bytes(words[0] ^ 0x80808080u, 0x64646464u, n ? 0x4342 : 0x4140);
            ret[n] = kvq_mul_halves(kvq_sub_halves(bytes, 0x64806480u), super[n]);
        } else if constexpr (K::SCALE == KVQ_SCALE_F16) {
            ret[n] = words[n];
        } else {
            ret[n] = kvq_two_halves(__int_as_float((int)words[2 * n]), __int_as_float((int)words[2 * n + 1]));
        }
    }
}

/* Row i's of four halves, twice. */
static __device__ __forceinline__ uint32_t kvq_twice(const uint32_t halves[2], int i) {
    return kvq_pick_bytes(halves[i / 2], 0, i % 2 ? 0x3232 : 0x1010);
}

/* Codes of a row as halves 1024 + code (a high nibble of 4 bits: 64 + code), in pairs. */
template <typename K>
static __device__ __forceinline__ void kvq_code_pairs(uint32_t *ret, const kvq_raw<K> &raw, int i, int lane) {
    uint32_t word = raw.codes[0][i];
    if constexpr (K::BITS == 4) {
        uint32_t next = word >> 8;
        ret[0] = (word & 0x000f000fu) | 0x64006400u;
        ret[1] = (next & 0x000f000fu) | 0x64006400u;
        ret[2] = (word & 0x00f000f0u) | 0x54005400u;
        ret[3] = (next & 0x00f000f0u) | 0x54005400u;
    } else {
        uint32_t low = word, high = raw.codes[1][i];
        if constexpr (K::BITS < 8) {
            const int n_high = K::BITS - 4;
            const uint32_t mask = n_high == 1 ? 0x01010101u : 0x03030303u;
            uint32_t bits = high >> ((K::HALVES == 2 ? lane % 2 : lane % 4) * 2 * n_high);
            low = (word & 0x0f0f0f0fu) | kvq_bits_up(bits, mask, 4);
            high = (word >> 4 & 0x0f0f0f0fu) | kvq_bits_up(bits, mask << n_high, 4 - n_high);
        }
        const uint32_t top = 0x64646464u;
        ret[0] = kvq_pick_bytes(low, top, 0x4240);
        ret[1] = kvq_pick_bytes(low, top, 0x4341);
        ret[2] = kvq_pick_bytes(high, top, 0x4240);
        ret[3] = kvq_pick_bytes(high, top, 0x4341);
    }
}

template <typename K> struct kvq_half_coded {
    typedef kvq_raw<K> raw;
    static constexpr bool CODED = true;
    static constexpr int STEP_BYTES = K::STEP_BYTES, SUPER_BYTES = K::SUPER_BYTES;

    static __device__ __forceinline__ int step_at(int step) { return kvq_step_at<K>(step); }
    static __device__ __forceinline__ int super_at(int step) { return kvq_super_at<K>(step); }
    /* Where the 16 bytes `chunk` of a step go to in shared memory. */
    static __device__ __forceinline__ int place(int chunk) { return kvq_spread<K>(chunk); }

    template <typename Bytes> static __device__ __forceinline__ void load(raw *ret, Bytes step, Bytes super, int lane) {
        kvq_load_step<K, true>(ret, step, super, lane);
    }
    /* The same from where the matrix is, instead of shared memory. */
    static __device__ __forceinline__ void load_from_tile(raw *ret, const uint8_t *step, const uint8_t *super,
                                                          int lane) {
        kvq_load_step<K>(ret, step, super, lane);
    }

    static __device__ __forceinline__ void unpack(kvq_half_weights *ret, const raw &from, int lane) {
        bool second = K::HALVES == 2 && lane % 4 / 2 == 1; /* of the step's halves: where the lane's codes are */
        uint32_t scales[K::SCALE_WORDS], mins[K::SCALE_WORDS], scale_halves[2], min_halves[2] = {};
#pragma unroll
        for (int n = 0; n < K::SCALE_WORDS; n++) {
            scales[n] = second ? from.scales[K::HALVES - 1][n] : from.scales[0][n];
            if constexpr (K::HAS_MIN) mins[n] = second ? from.mins[K::HALVES - 1][n] : from.mins[0][n];
        }
        kvq_scale_halves<K>(scale_halves, scales, from.super);
        if constexpr (K::HAS_MIN) kvq_scale_halves<K>(min_halves, mins, from.super_min);
        const uint32_t zero = (0x6400u + K::ZERO) * 0x10001u, high_zero = (0x5400u + K::ZERO * 16u) * 0x10001u;
#pragma unroll
        for (int i = 0; i < KVQ_LANE_ROWS; i++) {
            uint32_t pairs[4], scale = kvq_twice(scale_halves, i), min = kvq_twice(min_halves, i);
            kvq_code_pairs<K>(pairs, from, i, lane);
#pragma unroll
            for (int n = 0; n < 4; n++) {
                uint32_t code = kvq_sub_halves(pairs[n], K::BITS == 4 && n >= 2 ? high_zero : zero);
                pairs[n] = K::HAS_MIN ? kvq_fma_halves(code, scale, min) : kvq_mul_halves(code, scale);
            }
            kvq_put_pairs(ret, i, pairs);
        }
    }
};

/* ---- F16 and BF16: 16 rows of each input in turn ---- */

template <kvq_format KIND> struct kvq_half_floats {
    typedef struct raw {
        uint32_t rows[8][2]; /* of each of the lane's inputs: rows 0 and 1, 2 and 3 */
    } raw;
    static constexpr bool CODED = false;
    static constexpr int STEP_BYTES = KVQ_STEP * KVQ_TILE_ROWS * 2, SUPER_BYTES = 0;

    static __device__ __forceinline__ int step_at(int step) { return step * STEP_BYTES; }
    static __device__ __forceinline__ int super_at(int) { return 0; }
    /* So that what lanes of different t load at once lies in different banks. */
    static __device__ __forceinline__ int place(int chunk) { return chunk ^ chunk / 16 % 4 * 2; }

    template <typename Bytes> static __device__ __forceinline__ void load(raw *ret, Bytes step, Bytes, int lane) {
        int t = lane % 4, r = lane / 4 % 4 * KVQ_LANE_ROWS;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int chunk = place((8 * t + i) * 2 + r / 8);
            kvq_read_words<2>(ret->rows[i], step + (16 * chunk + r % 8 * 2));
        }
    }
    static __device__ __forceinline__ void load_from_tile(raw *ret, const uint8_t *step, const uint8_t *, int lane) {
        int t = lane % 4, r = lane / 4 % 4 * KVQ_LANE_ROWS;
#pragma unroll
        for (int i = 0; i < 8; i++) kvq_read_words<2>(ret->rows[i], step + ((8 * t + i) * KVQ_TILE_ROWS + r) * 2);
    }

    static __device__ __forceinline__ void unpack(kvq_half_weights *ret, const raw &from, int) {
#pragma unroll
        for (int i = 0; i < KVQ_LANE_ROWS; i++) {
            uint32_t pairs[4];
#pragma unroll
            for (int n = 0; n < 4; n++) {
                int first = n / 2 * 4 + n % 2;
                uint32_t a = from.rows[first][i / 2], b = from.rows[first + 2][i / 2];
                pairs[n] = kvq_pick_bytes(a, b, i % 2 ? 0x7632 : 0x5410);
                if constexpr (KIND == KVQ_FORMAT_BF16)
                    pairs[n] = kvq_two_halves(__int_as_float((int)(pairs[n] << 16)),
                                              __int_as_float((int)(pairs[n] & 0xffff0000u)));
            }
            kvq_put_pairs(ret, i, pairs);
        }
    }
};

#endif
