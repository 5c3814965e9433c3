/* linear_rows_tmpl.h: what linear_tmpl.h and linear_arm64_tmpl.h have in common, who include it first: a group of
 * activations, panels and the table of kernels for float weights, and the operators that linear.c and refine.c carry
 * out with V_NAME(kvq_linear_kernels), which the template that includes this defines. */
#include <math.h>

#include "linear.h"
#include "ops.h"

/* X(1, ..) to X(PANEL_ROWS, ..) */
#define PANEL_MAP(X, ...) V_JOIN(PANEL_MAP, PANEL_ROWS)(X, __VA_ARGS__)
/* clang-format off */
#define PANEL_MAP_1(X, ...) X(1, __VA_ARGS__)
#define PANEL_MAP_2(X, ...) PANEL_MAP_1(X, __VA_ARGS__) X(2, __VA_ARGS__)
#define PANEL_MAP_4(X, ...) PANEL_MAP_2(X, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__)
#define PANEL_MAP_6(X, ...) PANEL_MAP_4(X, __VA_ARGS__) X(5, __VA_ARGS__) X(6, __VA_ARGS__)
#define PANEL_MAP_12(X, ...) PANEL_MAP_6(X, __VA_ARGS__) X(7, __VA_ARGS__) X(8, __VA_ARGS__) \
    X(9, __VA_ARGS__) X(10, __VA_ARGS__) X(11, __VA_ARGS__) X(12, __VA_ARGS__)
/* clang-format on */
#define KERNEL_ENTRY(R, name) name##_##R,

/* ---- activations into panels ---- */

/* One group of one row: its codes, also as integers, and d, which is returned (matrix.h). The maximum is taken over the
 * bits of |x|, whose order is that of the floats with NaN and infinity above all of them. */
V_INLINE float quantize_group(const float *x, int8_t q[KVQ_ACT_GROUP], v16i ret_codes[2]) {
    v16f a = v_load(x), b = v_load(x + V_LANES);
    int32_t bits = v_hmax_i(v_max_i(v_bits(v_abs(a)), v_bits(v_abs(b))));
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    bool finite = bits < 0x7F800000;
    if (!finite || largest < KVQ_ACT_TINY) {
        ret_codes[0] = ret_codes[1] = v_zero_i();
        memset(q, 0, KVQ_ACT_GROUP);
        return finite ? 0.0f : (float)NAN;
    }
    float d = largest / 127.0f;
    v16f inverse = v_set1(1.0f / d);
    ret_codes[0] = v_rint(v_mul(a, inverse));
    ret_codes[1] = v_rint(v_mul(b, inverse));
    v_store_low_b(q, ret_codes[0]);
    v_store_low_b(q + V_LANES, ret_codes[1]);
    return d;
}

static void transpose(const float *in, int n_in, int n_rows, void *panel) {
    float *out = panel;
    for (int r = 0; r < n_rows; r++)
        for (int i = 0; i < n_in; i++) out[(size_t)i * n_rows + r] = in[(size_t)r * n_in + i];
}

/* ---- float weights ---- */

/* T tiles times R rows, of which one is 1: a row alone takes four tiles at once, because its chain of additions waits
 * for itself. The template's own. */
V_INLINE void float_tiles(const kvq_linear_run *run, int tile, const kvq_format kind, const int T, const int R);

typedef void float_kernel(const kvq_linear_run *run, int tile);

#define FLOAT_KERNEL(R, name, kind)                               \
    static void name##_##R(const kvq_linear_run *run, int tile) { \
        float_tiles(run, tile, kind, 1, R);                       \
    }
#define FLOAT_KERNELS(name, kind)                                  \
    PANEL_MAP(FLOAT_KERNEL, name, kind)                            \
    static void name##_four(const kvq_linear_run *run, int tile) { \
        float_tiles(run, tile, kind, 4, 1);                        \
    }
FLOAT_KERNELS(f32, KVQ_FORMAT_F32)
FLOAT_KERNELS(f16, KVQ_FORMAT_F16)
FLOAT_KERNELS(bf16, KVQ_FORMAT_BF16)

static const struct float_kind {
    kvq_format kind;
    float_kernel *four; /* four tiles, one row */
    float_kernel *rows[PANEL_ROWS];
} float_kinds[] = {
    {KVQ_FORMAT_F32, f32_four, {PANEL_MAP(KERNEL_ENTRY, f32)}},
    {KVQ_FORMAT_F16, f16_four, {PANEL_MAP(KERNEL_ENTRY, f16)}},
    {KVQ_FORMAT_BF16, bf16_four, {PANEL_MAP(KERNEL_ENTRY, bf16)}},
};

static void floats(const kvq_linear_run *run) {
    const struct float_kind *kind = float_kinds;
    while (kind->kind != run->part->layout.kind) kind++;
    int tile = run->tile_begin, end = run->tile_begin + run->n_tiles;
    for (; run->n_rows == 1 && tile + 4 <= end; tile += 4) kind->four(run, tile);
    for (; tile < end; tile++) kind->rows[run->n_rows - 1](run, tile);
}

/* ---- the operators ---- */

static void linear(kvq_stream *s, const kvq_linear *job) {
    kvq_cpu_linear(s, job, &V_NAME(kvq_linear_kernels));
}

static void refine(kvq_stream *s, const kvq_refine *job) {
    kvq_cpu_refine(s, job, &V_NAME(kvq_linear_kernels));
}

void V_NAME(kvq_linear_fill)(kvq_ops *ops) {
    ops->linear = linear;
    ops->refine = refine;
}
