/* linear_halves.cu: products of many rows in half precision, where results may depend on the batch (kvq_shapes): what
 * linear.cu costs in scaling integer sums is spared, since scales go into the weights, once for all rows of a block.
 * Activations are halves, finer than int8; sums are floats.
 *
 *   A block is 256 output rows times 128 or 64 activation rows, a warp 32 of the former and all of the latter. And the
 * inputs may be cut into slices, a block each, where there would be too few blocks for the GPU: of a tile's blocks the
 * one that is done last adds their sums, in order. What is best is reckoned from the product's sizes (choose_cut).
 *   So each code is unpacked by one warp only, in registers, into its own words of A (halves.cuh), while the tensor
 * cores are at the step before. Codes and activations come into shared memory by asynchronous copies, some steps ahead.
 * Blocks of the same outputs are neighbours: the weights come from memory once, the activations stay in the L2 cache.
 *
 * Ranges: a row of activations whose largest is not between 2^-8 and 2^15 is brought to 2^8 by a power of two that its
 * results are multiplied with. A weight beyond a half's range makes a sum that is not finite: such a result is
 * computed again in float, one by one. A row with a NaN or an infinity gives NaN with codes, and what floats give with
 * floats, as everywhere.
 *
 * Weights in F16 and BF16 go the same way. Steps of still more rows are linear_cublas.cu's on some devices. What
 * they cost: docs/cuda.md. */
#include "stream.h"

#include "halves.cuh"
#include "linear_halves.cuh"
#include "warp.cuh"

#define CONVERT_THREADS 256

#define WARPS 8
#define THREADS (WARPS * KVQ_WARP_LANES)
#define OUTS (WARPS * KVQ_WARP_ROWS) /* output rows of a block */
#define TILES (OUTS / KVQ_TILE_ROWS)
#define MANY 128 /* activation rows of a block */
#define FEW 64

#define LEAST_ROWS 33 /* fewer are linear.cu's, which needs fewer launches for them (docs/cuda.md) */

/* Activations of a launch. No padding: graph.cu compares arguments. */
typedef struct half_activations {
    kvq_half_columns *columns; /* [n_rows / 8, n_steps]; rows behind n_rows, up to whole blocks, are anything */
    float *scale;              /* [n_rows] of the row's results; NaN where they are */
    int n_steps, slice_steps;  /* in a row; of a slice, the block's in z, at most */
} half_activations;

static size_t columns_bytes(int n_rows, int n_in) {
    return (size_t)kvq_cuda_blocks(n_rows, MANY) * MANY * (size_t)n_in * sizeof(uint16_t);
}

/* Sums of slices, of a block of many rows or two of few for each SM (choose_cut). */
static size_t sums_bytes(int n_sms) {
    return (size_t)n_sms * MANY * OUTS * sizeof(float);
}

size_t kvq_cuda_halves_bytes(const kvq_shapes *shapes, int n_sms) {
    if (shapes->max_rows < kvq_cuda_least_halves_rows()) return 0;
    return kvq_cuda_aligned(columns_bytes(shapes->max_rows, shapes->max_in)) +
           kvq_cuda_aligned((size_t)shapes->max_rows * sizeof(float)) + kvq_cuda_aligned(sums_bytes(n_sms));
}

/* Tiles that have slices are no more than there are SMs (choose_cut). */
size_t kvq_cuda_halves_counters(int n_sms) {
    return (size_t)n_sms;
}

/* ---- activations ---- */

/* A block is a row. */
__global__ void convert_rows(const float *in, kvq_half_rows to) {
    KVQ_SHARED(int, scratch, KVQ_WARP_LANES);
    kvq_wait_for_launches();
    int largest = 0;
    const float *from = in + (size_t)blockIdx.x * to.n_in;
    for (int i = (int)threadIdx.x * 4; i < to.n_in; i += CONVERT_THREADS * 4) {
        float x[4];
        kvq_load_values<4>(x, from + i);
        largest = kvq_largest_bits<4>(largest, x);
    }
    kvq_leave_halves(to, (int)blockIdx.x, from, largest, scratch);
}

void kvq_cuda_convert_rows(kvq_stream *s, const kvq_linear *job, const kvq_half_rows *to) {
    if (!kvq_cuda_fuse_conversion(s, job, to))
        KVQ_LAUNCH(convert_rows, dim3(job->n_rows), dim3(CONVERT_THREADS), 0, s, job->in, *to);
}

/* ---- copies ---- */

/* A step in shared memory: of each tile its super scales and the step, then the activations. */
template <typename W, int ROWS> struct stage {
    static constexpr int TILE_CHUNKS = (W::SUPER_BYTES + W::STEP_BYTES) / 16, CHUNKS = TILES * TILE_CHUNKS,
                         COPIES = (CHUNKS + THREADS - 1) / THREADS, /* of a thread */
        COLUMNS_AT = CHUNKS * 16, COLUMN_CHUNKS = sizeof(kvq_half_columns) / 16, PRODUCTS = ROWS / KVQ_COLUMNS,
                         COLUMN_COPIES = PRODUCTS * COLUMN_CHUNKS / THREADS,
                         BYTES = COLUMNS_AT + PRODUCTS * (int)sizeof(kvq_half_columns),
                         COUNT = W::CODED ? 8 : 4, /* of stages: codes are for devices that have 160 KB a block */
        SHARED_BYTES = COUNT * BYTES;
};

/* Where a thread's copies of the next step come from, and where they go to in a stage. */
template <typename W> struct half_copies {
    static constexpr int COPIES = stage<W, MANY>::COPIES;
    const uint8_t *tile[COPIES]; /* 16 bytes of a super scale or of the step */
    int to[COPIES];
    bool is_super[COPIES];
    const uint8_t *columns; /* the first; the others are blocks of rows behind it */
};

template <typename W, int ROWS>
static __device__ __forceinline__ void copies_of(half_copies<W> *ret, const kvq_matrix_part &part,
                                                 const half_activations &x, int row, int first_tile, int step) {
    typedef stage<W, ROWS> S;
    unsigned thread = threadIdx.x;
    int step_at = W::step_at(step), super_at = W::super_at(step);
#pragma unroll
    for (int n = 0; n < S::COPIES; n++) {
        const unsigned supers = W::SUPER_BYTES / 16;
        unsigned chunk = n * THREADS + thread, tile = chunk / S::TILE_CHUNKS, at = chunk % S::TILE_CHUNKS;
        bool is_super = supers > 0 && at < supers;
        ret->is_super[n] = is_super;
        ret->tile[n] = kvq_tile_of(part, first_tile + (int)tile) +
                       (is_super ? super_at + (int)at * 16 : step_at + (int)(at - supers) * 16);
        ret->to[n] = (int)(tile * S::TILE_CHUNKS + (is_super ? at : supers + W::place((int)(at - supers)))) * 16;
    }
    ret->columns =
        (const uint8_t *)(x.columns + (size_t)(row / KVQ_COLUMNS + thread / S::COLUMN_CHUNKS) * x.n_steps + step) +
        thread % S::COLUMN_CHUNKS * 16;
}

/* Asks for a step's bytes, if there is such a step; a group in any case. */
template <typename W, int ROWS>
static __device__ __forceinline__ void copy_step(KVQ_SHARED_PTR(uint8_t) to, half_copies<W> *from, int step, int end,
                                                 int n_steps) {
    typedef stage<W, ROWS> S;
    int thread = threadIdx.x, to_next = W::step_at(step + 1) - W::step_at(step);
    int super_to_next = W::super_at(step + 1) - W::super_at(step);
    size_t apart = (size_t)(THREADS / S::COLUMN_CHUNKS) * n_steps * sizeof(kvq_half_columns);
#pragma unroll
    for (int n = 0; n < S::COPIES; n++) {
        if (n * THREADS + thread < S::CHUNKS && step < end) kvq_copy_async(to + from->to[n], from->tile[n], 16);
        from->tile[n] += from->is_super[n] ? super_to_next : to_next;
    }
#pragma unroll
    for (int n = 0; n < S::COLUMN_COPIES; n++)
        if (step < end)
            kvq_copy_async(to + (S::COLUMNS_AT + (n * THREADS + thread) * 16), from->columns + n * apart, 16);
    from->columns += sizeof(kvq_half_columns);
    kvq_copy_commit();
}

/* ---- sums ---- */

#define HALVES (KVQ_LANE_ROWS / 2) /* of a product: 16 outputs each */

/* A warp's sums of a product: 32 outputs by 8 rows. */
typedef struct product_sums {
    float of[HALVES][4];
} product_sums;

static __device__ __forceinline__ float4 four_of(const product_sums &sums, int i) {
    return float4{sums.of[i][0], sums.of[i][1], sums.of[i][2], sums.of[i][3]};
}
static __device__ __forceinline__ void add_four(product_sums *sums, int i, const float4 &plus) {
    sums->of[i][0] += plus.x, sums->of[i][1] += plus.y, sums->of[i][2] += plus.z, sums->of[i][3] += plus.w;
}

/* Leaves the sums of a slice; true in the block that is the last of its tile, which then has those of all slices,
 * added in order. sums [tiles, slices, N, threads, 4]: what lies side by side is stored and loaded together. */
template <int ROWS>
static __device__ __forceinline__ bool add_slices(product_sums *own, float *sums, unsigned *counters,
                                                  KVQ_SHARED_PTR(unsigned) ticket) {
    const int N = ROWS / KVQ_COLUMNS * HALVES, AT_ONCE = 8; /* fours of a thread; loaded before the first is added */
    unsigned tile = blockIdx.y * gridDim.x + blockIdx.x, n_slices = gridDim.z;
    float *first = sums + (size_t)tile * n_slices * N * THREADS * 4 + threadIdx.x * 4;
#pragma unroll
    for (int e = 0; e < N; e++)
        kvq_store_16(first + ((size_t)blockIdx.z * N + e) * THREADS * 4, four_of(own[e / HALVES], e % HALVES));
    __syncthreads();
    if (threadIdx.x == 0) ticket[0] = kvq_take_ticket(counters + tile, n_slices - 1);
    __syncthreads();
    if (ticket[0] != n_slices - 1) return false;
#pragma unroll
    for (int p = 0; p < N / HALVES; p++) own[p] = product_sums{};
#pragma unroll 1
    for (unsigned z = 0; z < n_slices; z++, first += N * THREADS * 4)
#pragma unroll
        for (int begin = 0; begin < N; begin += AT_ONCE) {
            float4 from[AT_ONCE];
#pragma unroll
            for (int e = 0; e < AT_ONCE; e++) from[e] = kvq_load_16_l2(first + (begin + e) * THREADS * 4);
#pragma unroll
            for (int e = 0; e < AT_ONCE; e++) add_four(&own[(begin + e) / HALVES], (begin + e) % HALVES, from[e]);
        }
    return true;
}

/* ---- results ---- */

#define ROUND_ROWS KVQ_WARP_LANES          /* that go through a warp's share of the shared memory at a time */
#define PITCH (KVQ_WARP_ROWS + 4)          /* floats from row to row there: no two lanes' fours in the same banks */
#define LOADED 4                           /* residuals of a lane that are asked for before the first is added */
#define FOURS (KVQ_WARP_ROWS / 4)          /* lanes that have a row */
#define LOAD_ROWS (KVQ_WARP_LANES / FOURS) /* rows of a load */

/* 32 outputs of 32 rows from `row` on, from shared memory [ROUND_ROWS, PITCH]. Returns which fours of the lane's, in
 * turn, are to be computed in float. An addend that is not there is -0: x + -0 is x. */
template <bool CODED>
static __device__ __forceinline__ uint32_t store_round(const kvq_linear &job, const kvq_matrix_part &part,
                                                       const half_activations &x, int n_out, int first_out, int row,
                                                       KVQ_SHARED_PTR(float) sums) {
    int lane = threadIdx.x % KVQ_WARP_LANES, o = first_out + lane % FOURS * 4, lane_row = lane / FOURS;
    float scales = row + lane < job.n_rows ? x.scale[row + lane] : 0.0f;
    bool is_aligned = kvq_lie_together(part, n_out, o);
    float4 bias = {-0.0f, -0.0f, -0.0f, -0.0f};
    if (job.bias && is_aligned) bias = *(const float4 *)(job.bias + part.row_begin + o);
    uint32_t again = 0;
#pragma unroll 1
    for (int begin = 0; begin < ROUND_ROWS && row + begin < job.n_rows; begin += LOADED * LOAD_ROWS) {
        float4 residual[LOADED];
#pragma unroll
        for (int u = 0; u < LOADED; u++) {
            int r = row + begin + u * LOAD_ROWS + lane_row;
            residual[u] = float4{-0.0f, -0.0f, -0.0f, -0.0f};
            if (job.residual && is_aligned && r < job.n_rows)
                residual[u] = *(const float4 *)(job.residual + (size_t)r * n_out + part.row_begin + o);
        }
#pragma unroll
        for (int u = 0; u < LOADED; u++) {
            int of_round = begin + u * LOAD_ROWS + lane_row, r = row + of_round;
            float scale = __shfl_sync(KVQ_WARP, scales, of_round);
            float4 sum = *KVQ_SHARED_CAST(float4, sums + (of_round * PITCH + lane % FOURS * 4));
            bool finite = kvq_is_finite(sum.x) && kvq_is_finite(sum.y) && kvq_is_finite(sum.z) && kvq_is_finite(sum.w);
            if (r >= job.n_rows) continue;
            if (!(kvq_is_finite(scale) ? finite : CODED)) { /* an infinity among floats is more than a NaN */
                again |= 1u << (of_round / LOAD_ROWS);
                continue;
            }
            if (!is_aligned) continue;
            float4 value = {sum.x * scale + bias.x, sum.y * scale + bias.y, sum.z * scale + bias.z,
                            sum.w * scale + bias.w};
            const float4 &plus = residual[u];
            kvq_store_16(job.out + (size_t)r * n_out + part.row_begin + o,
                         float4{value.x + plus.x, value.y + plus.y, value.z + plus.z, value.w + plus.w});
        }
    }
#pragma unroll 1
    for (int e = 0; e < 4 * ROUND_ROWS / LOAD_ROWS && !is_aligned; e++) { /* at the end of a part, or of an odd n_out */
        int of_round = e / 4 * LOAD_ROWS + lane_row, r = row + of_round;
        if (r < job.n_rows && !(again >> (e / 4) & 1))
            kvq_store(job, part, n_out, o + e % 4, r, sums[of_round * PITCH + lane % FOURS * 4 + e % 4] * x.scale[r]);
    }
    return again;
}

/* Results of a warp's sums: of 32 outputs from first_out on, rows from `row` on. They go through shared memory, 32 rows
 * at a time, so that a lane has four outputs of a row, and the code is short: a launch waits for code that it runs
 * once. room: the stages, which nobody reads any more. */
template <typename W, int ROWS>
static __device__ __forceinline__ void store_sums(const kvq_linear &job, const kvq_matrix_part &part,
                                                  const half_activations &x, int n_out, int first_out, int row,
                                                  const product_sums *sums, KVQ_SHARED_PTR(float) room) {
    const int PRODUCTS = ROUND_ROWS / KVQ_COLUMNS, ROUNDS = ROWS / ROUND_ROWS, BITS = ROUND_ROWS / LOAD_ROWS;
    static_assert(ROUNDS * BITS <= 32);
    int lane = threadIdx.x % KVQ_WARP_LANES, g = lane / 4, t = lane % 4;
    KVQ_SHARED_PTR(float) mine = room + (int)threadIdx.x / KVQ_WARP_LANES * ROUND_ROWS * PITCH;
    uint32_t again = 0;
#pragma unroll
    for (int round = 0; round < ROUNDS; round++) {
        __syncwarp(); /* what stood there is stored */
#pragma unroll
        for (int e = 0; e < PRODUCTS * KVQ_LANE_COLUMNS; e++) {
            int p = e / KVQ_LANE_COLUMNS, n = e % KVQ_LANE_COLUMNS;
            const product_sums &from = sums[round * PRODUCTS + p];
            *KVQ_SHARED_CAST(float4, mine + ((p * KVQ_COLUMNS + 2 * t + n) * PITCH + 4 * g)) =
                float4{from.of[0][n], from.of[0][2 + n], from.of[1][n], from.of[1][2 + n]};
        }
        __syncwarp();
        again |= store_round<W::CODED>(job, part, x, n_out, first_out, row + round * ROUND_ROWS, mine)
                 << (round * BITS);
    }
    for (int e = 0; again != 0; e++, again >>= 1)
        for (int i = 0; i < 4 && again % 2 == 1; i++)
            kvq_store_exactly(job, part, x.n_steps * KVQ_STEP, n_out, first_out + lane % FOURS * 4 + i,
                              row + e * LOAD_ROWS + lane / FOURS);
}

/* ---- products ---- */

template <typename W, int ROWS>
static __device__ __forceinline__ void multiply(const kvq_linear &job, const kvq_matrix_part &part,
                                                const half_activations &x, float *sums, unsigned *counters, int n_out) {
    typedef stage<W, ROWS> S;
    KVQ_SHARED_DYNAMIC(uint8_t, stages);
    KVQ_SHARED(unsigned, ticket, 1);
    int warp = threadIdx.x / KVQ_WARP_LANES, lane = threadIdx.x % KVQ_WARP_LANES, g = lane / 4;
    int row = (int)blockIdx.x * ROWS, out = (int)blockIdx.y * OUTS;
    int begin = (int)blockIdx.z * x.slice_steps;
    int end = begin + x.slice_steps < x.n_steps ? begin + x.slice_steps : x.n_steps;
    int tile_at = (warp * 2 + g / 4) * S::TILE_CHUNKS * 16; /* the lane's */
    product_sums acc[S::PRODUCTS] = {};
    half_copies<W> from;
    copies_of<W, ROWS>(&from, part, x, row, out / KVQ_TILE_ROWS, begin);
#pragma unroll 1 /* so that the first is asked for soon */
    for (int n = 0; n < S::COUNT - 1; n++) copy_step<W, ROWS>(stages + n * S::BYTES, &from, begin + n, end, x.n_steps);
    kvq_copy_wait<S::COUNT - 2>();
    __syncthreads();
    kvq_half_weights next;
    typename W::raw raw;
    W::load(&raw, stages + (tile_at + W::SUPER_BYTES), stages + tile_at, lane);
    W::unpack(&next, raw, lane);
    int step = begin, n = 0;
    do { /* there is one step at least */
        KVQ_SHARED_PTR(uint8_t) here = stages + n % S::COUNT * S::BYTES;
        KVQ_SHARED_PTR(uint8_t) behind = stages + (step + 1 < end ? n + 1 : n) % S::COUNT * S::BYTES;
        kvq_half_weights w = next; /* behind the last step it is made once more, rather than in a branch */
#pragma unroll
        for (int p = 0; p < S::PRODUCTS; p++) {
            if (p == S::PRODUCTS / 2) { /* so that products are under way while warps wait, and follow at once */
                kvq_copy_wait<S::COUNT - 3>();
                __syncthreads(); /* the next step is there for all, and all have done with the one before this */
                copy_step<W, ROWS>(stages + (n + S::COUNT - 1) % S::COUNT * S::BYTES, &from, step + S::COUNT - 1, end,
                                   x.n_steps);
                W::load(&raw, behind + (tile_at + W::SUPER_BYTES), behind + tile_at, lane);
                W::unpack(&next, raw, lane);
            }
            uint32_t b[4];
            kvq_read_words<4>(b, here + (S::COLUMNS_AT + p * (int)sizeof(kvq_half_columns) + lane * 16));
#pragma unroll
            for (int q = 0; q < 2; q++)
#pragma unroll
                for (int i = 0; i < HALVES; i++) kvq_mma_halves(acc[p].of[i], w.a[i][q], b + 2 * q);
        }
        n++;
    } while (++step < end);
    __syncthreads(); /* the stages are read */
    if (gridDim.z > 1 && !add_slices<ROWS>(acc, sums, counters, ticket)) return;
    static_assert(S::SHARED_BYTES >= WARPS * ROUND_ROWS * PITCH * (int)sizeof(float));
    if (out + warp * KVQ_WARP_ROWS >= part.n_rows) return;
    store_sums<W, ROWS>(job, part, x, n_out, out + warp * KVQ_WARP_ROWS, row, acc, KVQ_SHARED_CAST(float, stages));
}

template <typename W, int ROWS>
__global__ void __launch_bounds__(THREADS, MANY / ROWS)
    half_rows(KVQ_ARGUMENT(kvq_linear) job, KVQ_ARGUMENT(kvq_matrix_part) part, KVQ_ARGUMENT(half_activations) x,
              float *sums, unsigned *counters, int n_out) {
    kvq_wait_for_launches();
    if constexpr (KVQ_BUILT_FOR_HALVES(W::CODED)) multiply<W, ROWS>(job, part, x, sums, counters, n_out);
}

/* ---- the host's part ---- */

/* How a product is cut: into blocks of so many rows (one of cuts), and slices of so many steps. */
typedef struct half_plan {
    int cut, n_slices, slice_steps;
} half_plan;

/* Costs count a warp's products of 16 x 8 x 16, which an SM has least time for: those of a step, with what its barrier
 * costs (of few rows: as much as the L2 cache gives); in the time of so many, what is between a block's start and its
 * first product, and adding a slice. By counting, for an H200 (docs/cuda.md). */
static const struct cut { int rows, step, start, slice; } cuts[] = {{MANY, 66, 240, 190}, {FEW, 36, 240, 120}};
enum { N_CUTS = sizeof cuts / sizeof *cuts, MOST_SLICES = 16 };

typedef void half_kernel(kvq_linear job, kvq_matrix_part part, half_activations x, float *sums, unsigned *counters,
                         int n_out);

static const struct kind {
    kvq_linear_key key;
    kvq_format format; /* of float weights */
    struct {
        size_t shared_bytes; /* the first has most */
        const char *name;
        half_kernel *kernel;
    } cuts[N_CUTS];
} kinds[] = {
#define CUT(ROWS, ...) \
    { stage<__VA_ARGS__, ROWS>::SHARED_BYTES, "half_rows<" #ROWS ">", half_rows<__VA_ARGS__, ROWS> }
#define CUTS(...) \
    { CUT(MANY, __VA_ARGS__), CUT(FEW, __VA_ARGS__) }
#define CODED(bits, group, zero, scale, min)      \
    {{bits, group, zero, KVQ_SCALE_##scale, min}, \
     KVQ_FORMAT_COUNT,                            \
     CUTS(kvq_half_coded<kvq_coded<bits, group, zero, KVQ_SCALE_##scale, min>>)},
    {{0, 1, 0, KVQ_SCALE_NONE, false}, KVQ_FORMAT_F16, CUTS(kvq_half_floats<KVQ_FORMAT_F16>)},
    {{0, 1, 0, KVQ_SCALE_NONE, false}, KVQ_FORMAT_BF16, CUTS(kvq_half_floats<KVQ_FORMAT_BF16>)},
    KVQ_CODED_MAP(CODED)
#undef CODED
#undef CUTS
#undef CUT
};

kvq_status kvq_cuda_allow_halves(size_t shared_bytes, kvq_error *err) {
    for (const struct kind &kind : kinds)
        for (const auto &cut : kind.cuts) {
            cudaError_t error =
                cut.shared_bytes <= shared_bytes ? kvq_cuda_allow_shared(cut.kernel, cut.shared_bytes) : cudaSuccess;
            if (error != cudaSuccess)
                return kvq_fail(err, KVQ_DEVICE, "asking for %zu bytes of shared memory a block: %s", cut.shared_bytes,
                                cudaGetErrorString(error));
        }
    return KVQ_OK;
}

/* NULL: F32, which halves would cut short. */
static const struct kind *find_kind(const kvq_layout *layout) {
    for (const struct kind &kind : kinds)
        if (kvq_linear_fits(&kind.key, layout) && kind.format == layout->kind) return &kind;
    return NULL;
}

/* KVQ_CUDA_HALVES_ROWS in the environment is the least instead, to measure where it is. */
int kvq_cuda_least_halves_rows() {
    const char *wish = secure_getenv("KVQ_CUDA_HALVES_ROWS");
    int n_rows = wish ? atoi(wish) : 0;
    return n_rows > 0 ? n_rows : LEAST_ROWS;
}

bool kvq_cuda_codes_as_halves(const kvq_stream *s, int n_rows) {
    return s->shapes.depends_on_batch && n_rows >= s->halves_rows && kvq_has_fast_halves(s->capability) &&
           kvq_has_fast_halves(s->built_for);
}

/* Codes only where halves are fast; floats, which linear.cu multiplies without tensor cores, everywhere. */
bool kvq_cuda_takes_halves(const kvq_stream *s, const kvq_matrix *m, int n_rows) {
    if (!s->shapes.depends_on_batch || n_rows < s->halves_rows || m->n_in % KVQ_STEP != 0) return false;
    bool coded = false;
    for (int p = 0; p < m->n_parts; p++) {
        const struct kind *kind = find_kind(&m->parts[p].layout);
        if (!kind || kind->cuts[0].shared_bytes > s->shared_bytes) return false;
        coded |= m->parts[p].layout.bits > 0;
    }
    return !coded || kvq_cuda_codes_as_halves(s, n_rows);
}

/* The cut and slices with which the SM that has most blocks is done first. An SM has two blocks of few rows beside each
 * other, if its shared memory has room for them. Slices only where they make no more blocks than there are SMs, or
 * twice as many of few rows: sums_bytes has room for so many. */
static half_plan choose_cut(const kvq_stream *s, const struct kind *kind, int n_rows, int n_outs, int n_steps) {
    half_plan best = {};
    int64_t least = INT64_MAX;
    for (int c = 0; c < N_CUTS; c++) {
        const cut &way = cuts[c];
        int small = MANY / way.rows, together = small * kind->cuts[c].shared_bytes <= s->shared_bytes ? small : 1;
        int n_tiles = kvq_cuda_blocks(n_rows, way.rows) * kvq_cuda_blocks(n_outs, OUTS);
        for (int n = 1; n <= MOST_SLICES && (n == 1 || n_tiles * n <= s->n_sms * small); n++) {
            int slice_steps = kvq_cuda_blocks(n_steps, n), of_an_sm = kvq_cuda_blocks(n_tiles * n, s->n_sms);
            if (kvq_cuda_blocks(n_steps, slice_steps) < n) continue; /* a slice would have none */
            int64_t cost = (int64_t)of_an_sm * slice_steps * way.step +
                           (int64_t)kvq_cuda_blocks(of_an_sm, together) * way.start + (n > 1 ? n * way.slice : 0);
            if (cost >= least) continue;
            least = cost;
            best = half_plan{c, n, slice_steps};
        }
    }
    return best;
}

bool kvq_cuda_linear_halves(kvq_stream *s, const kvq_linear *job) {
    const kvq_matrix *m = job->w;
    size_t used = 0;
    if (!kvq_cuda_takes_halves(s, m, job->n_rows)) return false;
    half_activations x = {};
    x.n_steps = m->n_in / KVQ_STEP;
    x.columns = (kvq_half_columns *)kvq_cuda_take(s, &used, columns_bytes(job->n_rows, m->n_in));
    x.scale = (float *)kvq_cuda_take(s, &used, (size_t)job->n_rows * sizeof(float));
    float *sums = (float *)kvq_cuda_take(s, &used, sums_bytes(s->n_sms));
    if (!x.columns || !x.scale || !sums) return true; /* an error of the stream */
    const kvq_half_rows rows = {(uint16_t *)x.columns, x.scale, m->n_in, KVQ_STEP};
    kvq_cuda_convert_rows(s, job, &rows);
    for (int p = 0; p < m->n_parts; p++) {
        const kvq_matrix_part *part = &m->parts[p];
        const struct kind *kind = find_kind(&part->layout);
        half_plan plan = choose_cut(s, kind, job->n_rows, part->n_rows, x.n_steps);
        x.slice_steps = plan.slice_steps;
        const auto &cut = kind->cuts[plan.cut];
        dim3 grid(kvq_cuda_blocks(job->n_rows, cuts[plan.cut].rows), kvq_cuda_blocks(part->n_rows, OUTS),
                  plan.n_slices);
        KVQ_LAUNCH_NAMED(cut.name, cut.kernel, grid, dim3(THREADS), cut.shared_bytes, s, *job, *part, x, sums,
                         s->counters, m->n_out);
    }
    return true;
}
