/* fragments.cuh: the coded weights of ../matrix.h as tensor cores take them. Included by linear.cu.
 *
 * A *step* is 32 inputs, a warp has 32 output rows: two tiles. Which row and which input a place of a fragment means is
 * free as long as both factors agree; so the tiles need no other layout than the CPU's: a lane loads 16 bytes, and what
 * it has then are its own words of A (ptx.cuh), without shuffles:
 *
 *   lane (g, t), g = lane / 4, t = lane % 4: rows 4 g .. 4 g + 3 of the 32 (tile g / 4, its rows 4 (g % 4) ...),
 *   inputs 8 t .. 8 t + 7 of the step: chunk t of the codes, low nibbles the first four, high nibbles the others.
 *
 * Product p of two takes rows 4 g + 2 p and 4 g + 2 p + 1 as rows g and g + 8 of A; inputs 8 t .. 8 t + 3 are A's
 * k = 4 t ... and the other four 16 + 4 t .... Activations are column g of B: 8 bytes at 8 t. A lane's sums are of its
 * four rows and of activation rows 2 t and 2 t + 1.
 *
 * Where 16 inputs share a scale, a step has two *halves*, each a product of its own with the other's activations set to
 * zero: t / 2 is the half that a lane's codes belong to.
 *
 * Codes become signed bytes with their zero taken out: a layout's codes are below twice its zero, so that shifted up
 * until the zero is 128 and with their top bits turned they are 2^n (code - zero). (A zero of 0: unsigned, as they
 * are.) A product starts at the bits of a float so large that its last place is 2^-n: the sum's integers are then that
 * float's neighbours, and one exact subtraction gives (float)dot instead of a shift and a conversion at a fraction of
 * the rate.
 */
#ifndef KVQ_CUDA_FRAGMENTS_CUH
#define KVQ_CUDA_FRAGMENTS_CUH

#include "columns.cuh"

#define KVQ_WARP_ROWS (2 * KVQ_TILE_ROWS) /* output rows of a warp */
#define KVQ_LANE_ROWS 4
#define KVQ_LANE_COLUMNS 2 /* activation rows of a lane, of the 8 of a product */

/* A coded layout whose numbers are constants. */
template <int BITS_, int GROUP_, int ZERO_, kvq_scale_type SCALE_, bool HAS_MIN_> struct kvq_coded {
    static constexpr int BITS = BITS_, GROUP = GROUP_, ZERO = ZERO_;
    static constexpr kvq_scale_type SCALE = SCALE_;
    static constexpr bool HAS_MIN = HAS_MIN_;
    static constexpr int HALVES = KVQ_STEP / GROUP;
    static constexpr int CHUNKS = BITS > 4 ? 2 : 1; /* loads of 16 bytes for a lane's codes */
    static constexpr int SCALE_WORDS = SCALE == KVQ_SCALE_SUPER ? 1 : SCALE == KVQ_SCALE_F16 ? 2 : 4; /* of four rows */
    static constexpr int CODES_BYTES = GROUP * BITS / 8 * KVQ_TILE_ROWS;
    static constexpr int SCALES_BYTES = 4 * SCALE_WORDS * KVQ_TILE_ROWS / KVQ_LANE_ROWS;
    static constexpr int GROUP_BYTES = CODES_BYTES + SCALES_BYTES * (HAS_MIN ? 2 : 1);
    static constexpr int STEP_BYTES = GROUP_BYTES * HALVES; /* a multiple of 16 */
    static constexpr int SUPER_BYTES = SCALE == KVQ_SCALE_SUPER ? 2 * KVQ_TILE_ROWS * (HAS_MIN ? 2 : 1) : 0;
    /* Codes are multiplied by 2^SHIFT, from 8 bits up by 1; FLOAT_BITS is the float 1.5 * 2^(23 - SHIFT). */
    static constexpr int SHIFT = ZERO == 0 ? 0 : ZERO == 4 ? 5 : ZERO == 8 ? 4 : ZERO == 16 ? 3 : ZERO == 32 ? 2 : 0;
    static constexpr int FLOAT_BITS = 0x4b400000 - (SHIFT << 23);
    static_assert(ZERO == 0 || ZERO << SHIFT == 128, "codes are below twice their zero");
    static constexpr int SUPER_STEPS = KVQ_SUPER_INPUTS / KVQ_STEP;
};

/* Where the super scales of a step stand in its tile; and where the step does. */
template <typename K> static __device__ __forceinline__ int kvq_super_at(int step) {
    return (step & -K::SUPER_STEPS) / K::SUPER_STEPS * (K::SUPER_BYTES + K::SUPER_STEPS * K::STEP_BYTES);
}
template <typename K> static __device__ __forceinline__ int kvq_step_at(int step) {
    if (K::SCALE != KVQ_SCALE_SUPER) return step * K::STEP_BYTES;
    return kvq_super_at<K>(step) + K::SUPER_BYTES + (step & (K::SUPER_STEPS - 1)) * K::STEP_BYTES;
}

/* A lane's part of a step as it was loaded. */
template <typename K> struct kvq_raw {
    uint32_t codes[K::CHUNKS][4];
    uint32_t scales[K::HALVES][K::SCALE_WORDS], mins[K::HALVES][K::SCALE_WORDS];
    uint32_t super[2], super_min[2]; /* halves of the four rows */
};

/* And as it is multiplied. */
template <typename K> struct kvq_weights {
    uint32_t codes[KVQ_LANE_ROWS][2]; /* bytes of inputs 8 t .. 8 t + 3 and 8 t + 4 .. 8 t + 7 */
    float scale[K::HALVES][KVQ_LANE_ROWS], min[K::HALVES][KVQ_LANE_ROWS];
};

/* What a lane has of 8 activation rows of a step. */
template <typename K> struct kvq_lane_columns {
    uint32_t q[2];                                                      /* column g, inputs 8 t .. 8 t + 7 */
    uint32_t d[KVQ_LANE_COLUMNS], d_sums[KVQ_LANE_COLUMNS * K::HALVES]; /* floats, of columns 2 t and 2 t + 1 */
};

/* N words in one load, from device or shared memory. */
template <int N, typename Bytes> static __device__ __forceinline__ void kvq_read_words(uint32_t *to, Bytes at) {
    if constexpr (N == 1) {
        to[0] = kvq_read<uint32_t>(at);
    } else if constexpr (N == 2) {
        uint2 v = kvq_read<uint2>(at);
        to[0] = v.x, to[1] = v.y;
    } else {
        uint4 v = kvq_read<uint4>(at);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    }
}

/* `lane` has the bytes of column lane / 4 and scales of two from 2 t on: its own, or others that are not used. */
template <typename K, typename Bytes>
static __device__ __forceinline__ void kvq_load_columns(kvq_lane_columns<K> *ret, Bytes columns, int lane, int t) {
    kvq_read_words<2>(ret->q, columns + 8 * lane);
    kvq_read_words<2>(ret->d, columns + ((int)offsetof(kvq_columns, d) + 8 * t));
    if constexpr (K::HAS_MIN && K::HALVES == 1)
        kvq_read_words<2>(ret->d_sums, columns + ((int)offsetof(kvq_columns, d_sum) + 8 * t));
    if constexpr (K::HAS_MIN && K::HALVES == 2)
        kvq_read_words<4>(ret->d_sums, columns + ((int)offsetof(kvq_columns, d_sums) + 16 * t));
}

/* Where 16 bytes of a step stand that was copied with its codes spread over the banks of shared memory: what lanes of
 * other t load at once is else at the same banks, two or four of them. Where 16 inputs share a scale, as they are. */
template <typename K> static __device__ __forceinline__ int kvq_spread(int chunk) {
    if (K::HALVES == 2) return chunk;
    return chunk ^ chunk / 8 % (K::BITS == 8 ? 4 : 2) * 2;
}

/* step: of the lane's tile; super: its super scales; each in device or shared memory. SPREAD: as kvq_spread says. */
template <typename K, bool SPREAD = false, typename Bytes, typename SuperBytes>
static __device__ __forceinline__ void kvq_load_step(kvq_raw<K> *ret, Bytes step, SuperBytes super, int lane) {
    int t = lane % 4, g = lane / 4 % 4, r = g * KVQ_LANE_ROWS;
    int group = K::HALVES == 2 ? t / 2 * K::GROUP_BYTES : 0, low, high; /* chunks of 16 bytes */
    if (K::BITS == 8)
        low = 8 * t + g, high = low + 4;
    else
        low = (K::BITS > 4 ? 4 : 0) + 4 * (K::HALVES == 2 ? t % 2 : t) + g, high = g; /* high: bits above the nibbles */
    kvq_read_words<4>(ret->codes[0], step + (group + 16 * (SPREAD ? kvq_spread<K>(low) : low)));
    if constexpr (K::BITS > 4)
        kvq_read_words<4>(ret->codes[1], step + (group + 16 * (SPREAD ? kvq_spread<K>(high) : high)));
    const int scale_bytes = K::SCALES_BYTES / KVQ_TILE_ROWS;
#pragma unroll
    for (int h = 0; h < K::HALVES; h++) {
        int at = h * K::GROUP_BYTES + K::CODES_BYTES + scale_bytes * r;
        kvq_read_words<K::SCALE_WORDS>(ret->scales[h], step + at);
        if constexpr (K::HAS_MIN) kvq_read_words<K::SCALE_WORDS>(ret->mins[h], step + (at + K::SCALES_BYTES));
    }
    if constexpr (K::SCALE == KVQ_SCALE_SUPER) {
        kvq_read_words<2>(ret->super, super + 2 * r);
        if constexpr (K::HAS_MIN) kvq_read_words<2>(ret->super_min, super + (2 * KVQ_TILE_ROWS + 2 * r));
    }
}

static __device__ __forceinline__ float kvq_half_of(const uint32_t *words, int i) {
    return i % 2 ? kvq_high_half_float(words[i / 2]) : kvq_low_half_float(words[i / 2]);
}

/* Scale or minimum of a lane's row i. */
template <typename K>
static __device__ __forceinline__ float kvq_scale_in(const uint32_t *words, const uint32_t *super, int i) {
    if constexpr (K::SCALE == KVQ_SCALE_SUPER)
        return kvq_half_of(super, i) * (float)(int8_t)(words[0] >> (8 * i));
    else if constexpr (K::SCALE == KVQ_SCALE_F16)
        return kvq_half_of(words, i);
    else
        return __int_as_float((int)words[i]);
}

/* Each byte's bits `mask`, moved up by n (down if negative); no other bits may get there. */
static __device__ __forceinline__ uint32_t kvq_bits_up(uint32_t word, uint32_t mask, int n) {
    return (n < 0 ? word >> -n : word << n) & (n < 0 ? mask >> -n : mask << n);
}

template <typename K>
static __device__ __forceinline__ void kvq_unpack_codes(uint32_t (*ret)[2], const uint32_t (*codes)[4], int lane) {
    const int n_high = K::BITS - 4; /* bits above the nibble */
    const uint32_t high_mask = n_high == 1 ? 0x01010101u : 0x03030303u, turn = K::ZERO ? 0x80808080u : 0;
    int first = (K::HALVES == 2 ? lane % 2 : lane % 4) * 2 * n_high; /* of the lane's inputs in the high bits */
#pragma unroll
    for (int i = 0; i < KVQ_LANE_ROWS; i++) {
        uint32_t word = codes[0][i], low, high;
        if constexpr (K::BITS == 8) {
            low = word, high = codes[1][i];
        } else {
            low = kvq_bits_up(word, 0x0f0f0f0fu, K::SHIFT);
            high = kvq_bits_up(word, 0xf0f0f0f0u, K::SHIFT - 4);
        }
        if constexpr (K::BITS == 5 || K::BITS == 6) {
            uint32_t bits = codes[1][i] >> first;
            low |= kvq_bits_up(bits, high_mask, K::SHIFT + 4);
            high |= kvq_bits_up(bits, high_mask << n_high, K::SHIFT + 4 - n_high);
        }
        ret[i][0] = low ^ turn;
        ret[i][1] = high ^ turn;
    }
}

template <typename K>
static __device__ __forceinline__ void kvq_unpack_step(kvq_weights<K> *ret, const kvq_raw<K> &raw, int lane) {
    kvq_unpack_codes<K>(ret->codes, raw.codes, lane);
#pragma unroll
    for (int h = 0; h < K::HALVES; h++)
#pragma unroll
        for (int i = 0; i < KVQ_LANE_ROWS; i++) {
            ret->scale[h][i] = kvq_scale_in<K>(raw.scales[h], raw.super, i);
            if constexpr (K::HAS_MIN) ret->min[h][i] = kvq_scale_in<K>(raw.mins[h], raw.super_min, i);
        }
}

/* A product of a lane's rows 2 p and 2 p + 1: the integers, as floats that are K::FLOAT_BITS more. */
template <typename K>
static __device__ __forceinline__ void kvq_multiply(int *c, const uint32_t (*codes)[2], int p, const uint32_t *b) {
    uint32_t a[4] = {codes[2 * p][0], codes[2 * p + 1][0], codes[2 * p][1], codes[2 * p + 1][1]};
    for (int e = 0; e < 4; e++) c[e] = K::FLOAT_BITS;
    if constexpr (K::ZERO == 0)
        kvq_mma_us(c, a, b);
    else
        kvq_mma_ss(c, a, b);
}

/* acc [4 rows, 2 columns] += the step's products, in the order of ../matrix.h. */
template <typename K>
static __device__ __forceinline__ void kvq_add_step(float (*acc)[KVQ_LANE_COLUMNS], const kvq_weights<K> &w,
                                                    const kvq_lane_columns<K> &x, int lane) {
    const float plus = __int_as_float(K::FLOAT_BITS);
#pragma unroll
    for (int h = 0; h < K::HALVES; h++) {
        bool here = K::HALVES == 1 || lane % 4 / 2 == h;
        uint32_t b[2] = {here ? x.q[0] : 0, here ? x.q[1] : 0};
#pragma unroll
        for (int p = 0; p < KVQ_LANE_ROWS / 2; p++) {
            int c[4];
            kvq_multiply<K>(c, w.codes, p, b);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int i = 2 * p + e / 2, n = e % 2;
                float d = __int_as_float((int)x.d[n]), dot = __int_as_float(c[e]) - plus;
                acc[i][n] = fmaf(dot, w.scale[h][i] * d, acc[i][n]);
                if constexpr (K::HAS_MIN) {
                    float d_sum = __int_as_float((int)x.d_sums[n * K::HALVES + h]);
                    acc[i][n] = fmaf(w.min[h][i], d_sum, acc[i][n]);
                }
            }
        }
    }
}

/* ---- one activation row --------------------------------------------------------------------------------------------
 *
 * All columns of B may then be that row, so that each lane has the sums of its four rows and scales but one of them,
 * row t: lane l has row l of the 32. Of two halves the even columns have the first and the odd ones the second, so that
 * one product gives both. */

/* Where a lane finds the next step to load, `step` of the row. */
template <typename K> struct kvq_row_source {
    const uint8_t *codes, *high, *scales, *super; /* high: bits above the nibble */
    int step;
};

/* A lane's part of a step as it was loaded: scales and minimums of its own row. */
template <typename K> struct kvq_row_raw {
    uint32_t codes[K::CHUNKS][4], scales[K::HALVES], mins[K::HALVES], super, super_min;
};

/* The row's activations of a step. */
template <typename K> struct kvq_row_column { uint32_t q[2], d, d_sums[K::HALVES]; /* q: inputs 8 t .. 8 t + 7 */ };

/* The first 16 bytes of a lane's codes, from the beginning of a step. */
template <typename K> static __device__ __forceinline__ int kvq_lane_codes_at(int lane) {
    int t = lane % 4, words = lane / 4 % 4 * 16;
    if (K::BITS == 8) return 128 * t + words;
    int chunk = K::HALVES == 2 ? t / 2 * K::GROUP_BYTES + t % 2 * 64 : t * 64;
    return chunk + (K::BITS > 4 ? 64 : 0) + words;
}

/* step: may be before the first, where nothing is loaded. */
template <typename K>
static __device__ __forceinline__ kvq_row_source<K> kvq_row_source_of(const uint8_t *tile, int step, int lane) {
    int group = K::HALVES == 2 ? lane % 4 / 2 * K::GROUP_BYTES : 0, r = lane % 16; /* r: the lane's own row */
    const uint8_t *at = tile + kvq_step_at<K>(step);
    kvq_row_source<K> ret = {};
    ret.codes = at + kvq_lane_codes_at<K>(lane);
    if constexpr (K::BITS == 5 || K::BITS == 6) ret.high = at + (group + r / 4 * 16);
    ret.scales = at + (K::CODES_BYTES + K::SCALES_BYTES / KVQ_TILE_ROWS * r);
    if constexpr (K::SCALE == KVQ_SCALE_SUPER) ret.super = tile + kvq_super_at<K>(step) + 2 * r;
    ret.step = step;
    return ret;
}

/* Of a lane's own row: a half's bits, a float's or a signed byte. */
template <typename K> static __device__ __forceinline__ uint32_t kvq_read_scale(const uint8_t *at) {
    if constexpr (K::SCALE == KVQ_SCALE_SUPER)
        return (uint32_t)kvq_read<int8_t>(at);
    else if constexpr (K::SCALE == KVQ_SCALE_F16)
        return kvq_read<uint16_t>(at);
    else
        return kvq_read<uint32_t>(at);
}

template <typename K>
static __device__ __forceinline__ void kvq_load_row_step(kvq_row_raw<K> *ret, const kvq_row_source<K> *from) {
    kvq_read_words<4>(ret->codes[0], from->codes);
    if constexpr (K::BITS == 8) kvq_read_words<4>(ret->codes[1], from->codes + 64);
    if constexpr (K::BITS == 5 || K::BITS == 6) kvq_read_words<4>(ret->codes[1], from->high);
#pragma unroll
    for (int h = 0; h < K::HALVES; h++) {
        ret->scales[h] = kvq_read_scale<K>(from->scales + h * K::GROUP_BYTES);
        if constexpr (K::HAS_MIN) ret->mins[h] = kvq_read_scale<K>(from->scales + h * K::GROUP_BYTES + K::SCALES_BYTES);
    }
    if constexpr (K::SCALE == KVQ_SCALE_SUPER) {
        ret->super = kvq_read<uint16_t>(from->super);
        if constexpr (K::HAS_MIN) ret->super_min = kvq_read<uint16_t>(from->super + 2 * KVQ_TILE_ROWS);
    }
}

template <typename K> static __device__ __forceinline__ void kvq_next_row_step(kvq_row_source<K> *from) {
    int bytes = K::STEP_BYTES;
    if constexpr (K::SCALE == KVQ_SCALE_SUPER) {
        if ((++from->step & (K::SUPER_STEPS - 1)) == 0) {
            bytes += K::SUPER_BYTES;
            from->super += K::SUPER_BYTES + K::SUPER_STEPS * K::STEP_BYTES;
        }
    }
    from->codes += bytes;
    if constexpr (K::BITS == 5 || K::BITS == 6) from->high += bytes;
    from->scales += bytes;
}

template <typename K>
static __device__ __forceinline__ void kvq_load_row_column(kvq_row_column<K> *ret, const uint8_t *column, int lane) {
    kvq_read_words<2>(ret->q, column + 8 * (lane % 4));
    ret->d = kvq_read<uint32_t>(column + offsetof(kvq_columns, d));
    if constexpr (K::HAS_MIN && K::HALVES == 1)
        ret->d_sums[0] = kvq_read<uint32_t>(column + offsetof(kvq_columns, d_sum));
    if constexpr (K::HAS_MIN && K::HALVES == 2) kvq_read_words<2>(ret->d_sums, column + offsetof(kvq_columns, d_sums));
}

template <typename K> static __device__ __forceinline__ float kvq_row_scale(uint32_t scale, uint32_t super) {
    if constexpr (K::SCALE == KVQ_SCALE_SUPER)
        return kvq_low_half_float(super) * (float)(int)scale;
    else if constexpr (K::SCALE == KVQ_SCALE_F16)
        return kvq_low_half_float(scale);
    else
        return __int_as_float((int)scale);
}

/* acc, of the lane's row, += the step's product; raw's codes are unpacked. */
template <typename K>
static __device__ __forceinline__ float kvq_add_row_step(float acc, const uint32_t (*codes)[2], const float *scale,
                                                         const float *min, const kvq_row_column<K> &x, int lane) {
    bool mine = K::HALVES == 1 || lane % 4 / 2 == lane / 4 % 2;
    uint32_t b[2] = {mine ? x.q[0] : 0, mine ? x.q[1] : 0};
    int c[2][4];
    for (int p = 0; p < 2; p++) kvq_multiply<K>(c[p], codes, p, b);
#pragma unroll
    for (int h = 0; h < K::HALVES; h++) {
        int low = lane % 2 ? c[0][2 + h] : c[0][h], high = lane % 2 ? c[1][2 + h] : c[1][h];
        float dot = __int_as_float(lane % 4 / 2 ? high : low) - __int_as_float(K::FLOAT_BITS);
        acc = fmaf(dot, scale[h] * __int_as_float((int)x.d), acc);
        if constexpr (K::HAS_MIN) acc = fmaf(min[h], __int_as_float((int)x.d_sums[h]), acc);
    }
    return acc;
}

#endif
