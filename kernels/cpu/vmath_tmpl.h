/* vmath_tmpl.h: elementary functions over simd.h's vectors, the same operations and so the same bits on every
 * instruction set. Included by kernel files after their simd_*.h. */

/* exp(x) = 2^n exp(r), n = rint(x / ln 2), |r| <= ln 2 / 2. ln 2 in two parts (its upper one has 9 trailing zeros, so
 * that n * upper is exact) and the Taylor series of exp to r^7 / 7!, whose remainder is 5e-9 of the result at |r| =
 * 0.347. Error below 1.2 ulp (tests/unit/test_vmath.c). Exactly 0 below -86.9, just before the result leaves the
 * normal numbers, infinity above 88.73; exp(0) = 1; a NaN stays one (constants come first in min and max, which give
 * their second argument then). */
#define V_EXP_LOWEST (-86.9f)
#define V_EXP_HIGHEST 88.73f

V_INLINE v16f v_exp(v16f x) {
    v16f clamped = v_min(v_set1(V_EXP_HIGHEST), v_max(v_set1(V_EXP_LOWEST), x));
    v16i n = v_rint(v_mul(clamped, v_set1(1.44269504f)));
    v16f nf = v_float(n);
    v16f r = v_fma(nf, v_set1(-0.693359375f), clamped);
    r = v_fma(nf, v_set1(2.12194440e-4f), r);
    v16f p = v_set1(1.0f / 5040.0f);
    p = v_fma(p, r, v_set1(1.0f / 720.0f));
    p = v_fma(p, r, v_set1(1.0f / 120.0f));
    p = v_fma(p, r, v_set1(1.0f / 24.0f));
    p = v_fma(p, r, v_set1(1.0f / 6.0f));
    p = v_fma(p, r, v_set1(0.5f));
    p = v_fma(p, r, v_set1(1.0f));
    p = v_fma(p, r, v_set1(1.0f));
    /* In two steps, because 2^128 is no float: 2^(n-1) and 2. */
    v16f power = v_from_bits(v_shl_i(v_add_i(n, v_set1_i(126)), 23));
    v16f y = v_mul(v_mul(p, v_set1(2.0f)), power);
    return v_select_lt(x, v_set1(V_EXP_LOWEST), v_zero(), y);
}

/* tanh(x) = sign(x) (1 - e) / (1 + e), e = exp(-2 |x|): absolute error below 2e-7. */
V_INLINE v16f v_tanh(v16f x) {
    v16f e = v_exp(v_mul(v_abs(x), v_set1(-2.0f)));
    v16f t = v_div(v_sub(v_set1(1.0f), e), v_add(v_set1(1.0f), e));
    return v_select_lt(x, v_zero(), v_neg(t), t);
}
