/* The two kernels on rows of pixels that centre_of_mass.c is made of: a 3x3 convolution's share of one row, and the
 * sums of products of two rows at several shifts.
 */
#ifndef RECPARAM_ROWS_H
#define RECPARAM_ROWS_H
#include "vectors.h"

enum { PAD = 8, BLOCK = 32 };

INLINE v8 keep(i8 mask, v8 x) { return (v8)(mask & (i8)x); }

/* To [-limit, limit]; NaN stays NaN, which decides the order of the operands. */
INLINE v8 clamp(v8 x, float limit) {
#ifdef __AVX__
    return __builtin_ia32_maxps256(splat(-limit), __builtin_ia32_minps256(splat(limit), x));
#else
    i8 above = x > limit, below = x < -limit;
    x = (v8)((above & (i8)splat(limit)) | (~above & (i8)x));
    return (v8)((below & (i8)splat(-limit)) | (~below & (i8)x));
#endif
}

/* 1 / x to about 1 ulp. */
INLINE v8 reciprocal(v8 x) {
#ifdef __AVX__
    v8 y = __builtin_ia32_rcpps256(x); /* 12 bits, and a step of Newton's */
    return y * (2.f - x * y);
#else
    return 1.f / x;
#endif
}

/* exp(x) to about 1 ulp on [-87, 87], constant beyond: 2^n times the Taylor series of exp on [-ln2/2, ln2/2],
 * whose remainder after r^6 is 1e-7 at most. */
INLINE void exponentials(v8 x[4]) {
    v8 shifted[4], r[4];
    FOUR x[v] = clamp(x[v], 87.f);
    HOLD4(x);
    FOUR shifted[v] = x[v] * 1.44269504f + 12582912.f; /* 1.5 2^23: the last bits hold the rounded integer n */
    HOLD4(shifted);
    FOUR r[v] = shifted[v] - 12582912.f;
    HOLD4(r);
    FOUR {
        x[v] -= r[v] * 0.693359375f;
        r[v] = x[v] + r[v] * 2.12194440e-4f;
    }
    HOLD4(r);
    FOUR x[v] = r[v] * (1.f / 720) + 1.f / 120;
    HOLD4(x);
    FOUR x[v] = x[v] * r[v] + 1.f / 24;
    HOLD4(x);
    FOUR x[v] = x[v] * r[v] + 1.f / 6;
    HOLD4(x);
    FOUR x[v] = x[v] * r[v] + .5f;
    HOLD4(x);
    FOUR x[v] = x[v] * r[v] + 1.f;
    HOLD4(x);
    FOUR x[v] = x[v] * r[v] + 1.f;
    HOLD4(x);
    FOUR x[v] = (v8)((i8)x[v] + ((i8)shifted[v] << 23));
}

/* ---- the two row kernels ------------------------------------------------------------------------------- */

/* out[o][x] = bias[o] + sum_{j,s} weight[(3 j + s) stride + o] rows[j][x + s - 1], rectified if asked, and zero
 * where mask[o][x] <= 0 if there is a mask. */
INLINE void convolve_block(const int outs, const int vectors, const float *const *rows, int count,
                           const float *weight, int stride, const float *bias, float *const *out, int wide,
                           const float *const *mask, int rectify) {
    for (int x = 0; x < wide; x += 8 * vectors) {
        v8 sum[6][4];
        UNROLL for (int o = 0; o < outs; o++)
            UNROLL for (int v = 0; v < vectors; v++) sum[o][v] = splat(bias ? bias[o] : 0.f);
        const float *w = weight;
        for (int j = 0; j < count; j++) {
            const float *row = rows[j] + x - 1;
            UNROLL for (int s = 0; s < 3; s++) {
                if (outs > vectors) {
                    v8 in[4];
                    UNROLL for (int v = 0; v < vectors; v++) in[v] = load(row + s + 8 * v);
                    UNROLL for (int o = 0; o < outs; o++) {
                        v8 k = splat(w[o]);
                        UNROLL for (int v = 0; v < vectors; v++) sum[o][v] += k * in[v];
                    }
                } else {
                    v8 k[6];
                    UNROLL for (int o = 0; o < outs; o++) k[o] = splat(w[o]);
                    UNROLL for (int v = 0; v < vectors; v++) {
                        v8 in = load(row + s + 8 * v);
                        HOLD(in);
                        UNROLL for (int o = 0; o < outs; o++) sum[o][v] += k[o] * in;
                    }
                }
                w += stride;
            }
        }
        UNROLL for (int o = 0; o < outs; o++)
            UNROLL for (int v = 0; v < vectors; v++) {
                v8 y = sum[o][v];
                if (rectify) y = keep(~(y < 0.f), y);
                if (mask) y = keep(load(mask[o] + x + 8 * v) > 0.f, y);
                store(out[o] + x + 8 * v, y);
            }
    }
}

typedef void convolver(const float *const *rows, int count, const float *weight, int stride, const float *bias,
                       float *const *out, int wide, const float *const *mask, int rectify);
#define CONVOLVE(outs, vectors)                                                                                  \
    static __attribute__((noinline)) void convolve##outs(                                                        \
        const float *const *rows, int count, const float *weight, int stride, const float *bias,                 \
        float *const *out, int wide, const float *const *mask, int rectify) {                                    \
        convolve_block(outs, vectors, rows, count, weight, stride, bias, out, wide, mask, rectify);              \
    }
CONVOLVE(6, 2)
CONVOLVE(3, 4)
CONVOLVE(1, 4)

static void convolve(int outs, const float *const *rows, int count, const float *weight, const float *bias,
                     float *const *out, int wide, const float *const *mask, int rectify) {
    for (int o = 0, n; o < outs; o += n) {
        n = outs - o >= 6 ? 6 : outs - o >= 3 ? 3 : 1;
        convolver *block = n == 6 ? convolve6 : n == 3 ? convolve3 : convolve1;
        block(rows, count, weight + o, outs, bias ? bias + o : 0, out + o, wide, mask ? mask + o : 0, rectify);
    }
}

/* sum[i stride + s] += sum_x a[i][x] b[x + first + s], lane by lane. */
INLINE void correlate_block(const int many, const int shifts, float *const *a, const float *b, int first,
                            v8 *sum, int stride, int wide) {
    v8 part[3][3];
    UNROLL for (int i = 0; i < many; i++)
        UNROLL for (int s = 0; s < shifts; s++) part[i][s] = sum[i * stride + s];
    b += first;
    for (int x = 0; x < wide; x += 8) {
        v8 shifted[3];
        UNROLL for (int s = 0; s < shifts; s++) shifted[s] = load(b + x + s);
        UNROLL for (int i = 0; i < many; i++) {
            v8 left = load(a[i] + x);
            UNROLL for (int s = 0; s < shifts; s++) part[i][s] += left * shifted[s];
        }
    }
    UNROLL for (int i = 0; i < many; i++)
        UNROLL for (int s = 0; s < shifts; s++) sum[i * stride + s] = part[i][s];
}

#define CORRELATE(many, shifts)                                                                               \
    static __attribute__((noinline)) void correlate##many##shifts(float *const *a, const float *b, int first,    \
                                                                  v8 *sum, int stride, int wide) {            \
        correlate_block(many, shifts, a, b, first, sum, stride, wide);                                       \
    }
CORRELATE(3, 3)
CORRELATE(3, 2)
CORRELATE(1, 3)
CORRELATE(1, 2)

static void correlate(int many, int shifts, float *const *a, const float *b, int first, v8 *sum, int stride,
                      int wide) {
    for (int i = 0, n; i < many; i += n) {
        n = many - i >= 3 ? 3 : 1;
        (n == 3 ? shifts == 3 ? correlate33 : correlate32 : shifts == 3 ? correlate13 : correlate12)(
            a + i, b, first, sum + (size_t)i * stride, stride, wide);
    }
}

static void flush(v8 *sum, double *into, int count) {
    for (int i = 0; i < count; i++) {
        into[i] += total(sum[i]);
        sum[i] = splat(0.f);
    }
}

#endif
