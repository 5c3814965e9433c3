/* hadamard.c: the orthonormal Hadamard transform of a head, in place, plain C: the truth for the vector versions, and
 * what turns the constants of a model at load (kv_bias.c).
 *
 * H = (base matrix) x (Sylvester's matrix of 2^k): base 1, 12 or 20. The base matrices are Paley's second construction,
 * H = C x [1 1; 1 -1] + I x [1 -1; -1 -1] with C the symmetric conference matrix of order q + 1 (q = 5, 9: zero
 * diagonal, a border of ones, inside the quadratic character of GF(q) at i - j). C is symmetric because q = 1 mod 4, so
 * H is symmetric, and with it the Kronecker product: **H is its own inverse**, and the transform turns K, Q, V and the
 * output's way back alike. */
#include "hadamard.h"

#include <math.h>

#include "ops.h"

/* The quadratic character of i - j in GF(q): 1 for squares, -1 for others, 0 for 0. */
static int character(int q, int i, int j) {
    /* GF(5): squares 1, 4. GF(9) = GF(3)[x]/(x^2 + 1), element a + 3 b for a + b x: squares 1, 2, x, 2x. */
    if (i == j) return 0;
    if (q == 5) return (i - j + 5) % 5 == 1 || (i - j + 5) % 5 == 4 ? 1 : -1;
    int a = (i % 3 - j % 3 + 3) % 3, b = (i / 3 - j / 3 + 3) % 3;
    return a == 0 || b == 0 ? 1 : -1;
}

static int conference(int q, int i, int j) {
    if (i == j) return 0;
    if (i == 0 || j == 0) return 1;
    return character(q, i - 1, j - 1);
}

int kvq_hadamard_base(int n) {
    if (n <= 0) return 0;
    int odd = n;
    while (odd % 2 == 0) odd /= 2;
    if (odd == 1) return 1;
    if (odd == 3 && n % 12 == 0) return 12;
    if (odd == 5 && n % 20 == 0) return 20;
    return 0;
}

int kvq_hadamard_base_sign(int base, int i, int j) {
    static const int c_part[2][2] = {{1, 1}, {1, -1}}, i_part[2][2] = {{1, -1}, {-1, -1}};
    if (base == 1) return 1;
    int c = conference(base / 2 - 1, i / 2, j / 2);
    return c * c_part[i % 2][j % 2] + (i / 2 == j / 2 ? i_part[i % 2][j % 2] : 0);
}

bool kvq_hadamard_fits(int n) {
    return n >= 8 && n <= KVQ_MAX_HEAD_DIM && n % 8 == 0 && kvq_hadamard_base(n) != 0;
}

static void butterflies(double *x, int n, int from, int to) {
    for (int h = from; h < to; h *= 2)
        for (int i = 0; i < n; i++)
            if (!(i / h % 2)) {
                double a = x[i], b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
}

/* x viewed as [base][n / base]: the base matrix over the first index. */
static void turn_base(double *x, int n, int base) {
    int step = n / base;
    double column[20];
    for (int c = 0; c < step; c++) {
        for (int i = 0; i < base; i++) column[i] = x[i * step + c];
        for (int i = 0; i < base; i++) {
            double sum = 0;
            for (int j = 0; j < base; j++) sum += kvq_hadamard_base_sign(base, i, j) * column[j];
            x[i * step + c] = sum;
        }
    }
}

void kvq_hadamard_double(double *x, int n) {
    int base = kvq_hadamard_base(n);
    butterflies(x, n, 1, n / base);
    if (base > 1) turn_base(x, n, base);
    double unit = 1.0 / sqrt((double)n);
    for (int i = 0; i < n; i++) x[i] *= unit;
}

void kvq_hadamard(float *x, int n) {
    double y[KVQ_MAX_HEAD_DIM];
    for (int i = 0; i < n; i++) y[i] = (double)x[i];
    kvq_hadamard_double(y, n);
    for (int i = 0; i < n; i++) x[i] = (float)y[i];
}
