/* Row-wise log-sum-exp of t_ij = rows_i . columns_j + bias_j with its gradients, for few features.
 *
 * Columns lie in blocks of eight, feature after feature. A tile of eight rows sweeps over all blocks: exponentials
 * and, while they are in the first-level cache, their sum and their product with the columns. They are kept (8 m
 * floats) for a second sweep that adds to the gradients of the columns, once each row's sum is known. The algebra,
 * with the own column apart, is that of blocked.py. Each thread takes a share of the rows and accumulates
 * gradients of the columns of its own, added up at the end in the threads' order.
 */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "vectors.h"

enum { TILE = 8, CHUNK = 32, PROBES = 16, MOST = 16 }; /* rows, blocks, columns, features */

typedef struct {
    int n, m, width, padded, blocks, keep_own, contrast, need_rows, need_columns, need_bias, threads;
    const float *rows, *columns, *bias, *upstream;
    const int64_t *own;
    float *out, *grad_rows, *packed;
    int probed[PROBES];
    v8 probes[2 * MOST + 2]; /* the probed columns, their bias last */
} job;

typedef struct {
    const job *j;
    int first, last; /* rows */
    float *grad, *kept; /* of the packed columns; exponentials [block][row][8] */
} share;

INLINE v8 *at(float *p) { return (v8 *)p; } /* aligned, as all buffers here are */
INLINE v8 get(const float *p) { return *(const v8 *)p; }

/* exp(x) to 2e-7, zero below -88.03 and infinite above 88.73; NaN stays NaN. The polynomial, of least relative
 * error on [-ln2/2, ln2/2], is good to 1.1e-7. */
INLINE void exponentials(v8 x[4]) {
    v8 shifted[4], r[4];
#ifdef __AVX__
    FOUR x[v] = __builtin_ia32_maxps256(splat(-88.03f), __builtin_ia32_minps256(splat(88.73f), x[v]));
#else
    FOUR {
        i8 above = x[v] > 88.73f, below = x[v] < -88.03f;
        x[v] = (v8)((above & (i8)splat(88.73f)) | (~above & (i8)x[v]));
        x[v] = (v8)((below & (i8)splat(-88.03f)) | (~below & (i8)x[v]));
    }
#endif
    FOUR shifted[v] = x[v] * 1.44269504f + 12583039.f; /* 1.5 2^23 + 127: the last bits hold the exponent of 2^n */
    HOLD4(shifted);
    FOUR r[v] = x[v] - (shifted[v] - 12583039.f) * .693147181f;
    HOLD4(r);
    FOUR x[v] = r[v] * 8.31250138e-3f + 4.18903316e-2f;
    FOUR x[v] = x[v] * r[v] + .166671154f;
    FOUR x[v] = x[v] * r[v] + .499992303f;
    FOUR x[v] = x[v] * r[v] + 1.f;
    FOUR x[v] = (x[v] * r[v] + 1.f) * (v8)((i8)shifted[v] << 23);
}

/* exp(t - reference) of a tile with some blocks. */
INLINE void score(const int F, const float *columns, int blocks, const v8 *rows, const float *reference, float *e) {
    for (int b = 0; b < blocks; b += 2, columns += 16 * (F + 1), e += 16 * TILE)
        for (int half = 0; half < TILE; half += 4) {
            const float *right = columns + 8 * (F + 1);
            v8 x[8];
            FOUR {
                x[v] = get(columns + 8 * F) - reference[half + v];
                x[4 + v] = get(right + 8 * F) - reference[half + v];
            }
            _Pragma("GCC unroll 16") for (int f = 0; f < F; f++) {
                v8 c = get(columns + 8 * f), d = get(right + 8 * f);
                FOUR {
                    v8 row = rows[f * TILE + half + v];
                    HOLD(row);
                    x[v] += row * c;
                    x[4 + v] += row * d;
                }
            }
            exponentials(x);
            exponentials(x + 4);
            FOUR {
                *at(e + 8 * (half + v)) = x[v];
                *at(e + 8 * (TILE + half + v)) = x[4 + v];
            }
        }
}

/* Adds sums of e, and of e times pairs of features if needed, to total[row] and product[feature][row]. */
INLINE void products(const int F, const int need, const float *columns, int blocks, const float *e, v8 *total,
                     v8 *product) {
    for (int half = 0; half < TILE; half += 4)
        _Pragma("GCC unroll 8") for (int f = 0; f < (need ? F : 1); f += 2) {
            v8 s[4] = {0}, a[4] = {0}, d[4] = {0};
            const float *column = columns + 8 * f, *p = e + 8 * half;
            for (int b = 0; b < blocks; b++, column += 8 * (F + 1), p += 8 * TILE) {
                v8 left = get(column), right = get(column + 8);
                FOUR {
                    v8 x = get(p + 8 * v);
                    if (!f) s[v] += x;
                    if (need) {
                        a[v] += x * left;
                        d[v] += x * right;
                    }
                }
            }
            FOUR {
                if (!f) total[half + v] += s[v];
                if (need) {
                    product[f * TILE + half + v] += a[v];
                    product[(f + 1) * TILE + half + v] += d[v];
                }
            }
        }
}

/* grad[block][feature] += sum_row e[block][row] factor[feature][row] */
INLINE void spread(const int F, int features, int blocks, const float *e, const v8 *factor, float *grad) {
    for (int b = 0; b < blocks; b += 2, grad += 16 * (F + 1), e += 16 * TILE)
        for (int half = 0; half < TILE; half += 4) {
            v8 x[8];
            FOUR {
                x[v] = get(e + 8 * (half + v));
                x[4 + v] = get(e + 8 * (TILE + half + v));
            }
            _Pragma("GCC unroll 17") for (int f = 0; f < features; f++) {
                const v8 *from = factor + f * TILE + half;
                float *left = grad + 8 * f, *right = left + 8 * (F + 1);
                v8 k[4] = {from[0], from[1], from[2], from[3]};
                HOLD4(k);
                *at(left) += ((x[0] * k[0] + x[1] * k[1]) + x[2] * k[2]) + x[3] * k[3];
                *at(right) += ((x[4] * k[0] + x[5] * k[1]) + x[6] * k[2]) + x[7] * k[3];
            }
        }
}

static float *cell(const job *j, float *packed, int64_t column) {
    return packed + column / 8 * 8 * (j->padded + 1) + column % 8;
}

static double logit(const job *j, int row, int64_t column) {
    const float *a = j->rows + (size_t)row * j->width, *b = j->columns + (size_t)column * j->width;
    double t = j->bias ? j->bias[column] : 0;
    for (int f = 0; f < j->width; f++) t += (double)a[f] * b[f];
    return t;
}

/* The largest logit of a row among the columns, or the probed ones, that are not its own; zero if there is none. */
static float largest(const job *j, int row, int64_t own, int probed) {
    float most = -INFINITY, t[PROBES];
    if (probed)
        for (int k = 0; k < 2; k++) {
            v8 sum = j->probes[2 * MOST + k];
            for (int f = 0; f < j->width; f++) sum += j->rows[(size_t)row * j->width + f] * j->probes[2 * f + k];
            for (int i = 0; i < 8; i++) t[8 * k + i] = sum[i];
        }
    for (int i = 0; i < (probed ? PROBES : j->m); i++) {
        int column = probed ? j->probed[i] : i;
        float here = column == own ? -INFINITY : probed ? t[i] : logit(j, row, column);
        if (here > most) most = here;
    }
    return isinf(most) && most < 0 ? 0 : most;
}

/* From the log-sum of the others and the own logit, both less the reference: the value, and the derivatives in the
 * row's exponentials (times their sum) and in the own logit. */
static double value(const job *j, int has, double off, double own, double *weight, double *weight_own) {
    *weight = 1;
    *weight_own = 0;
    if (!has) return off;
    if (!j->keep_own) {
        if (!j->contrast) return off;
        *weight = -1;
        *weight_own = 1;
        return own - off;
    }
    double apart = off - own, sign = j->contrast ? -1 : 1;
    *weight = sign / (1 + exp(-apart));
    *weight_own = j->contrast ? -*weight : 1 / (1 + exp(apart));
    double softplus = (apart > 0 ? apart : 0) + log1p(exp(-fabs(apart)));
    return j->contrast ? -softplus : own + softplus;
}

INLINE void tile(const int F, share *s, int first) {
    const job *j = s->j;
    const int keep = j->need_columns || j->need_bias;
    v8 rows[MOST * TILE], total8[TILE], product[MOST * TILE], factor[(MOST + 1) * TILE];
    float reference[TILE];
    double sum[TILE];
    int64_t own[TILE];
    int row[TILE], passes = 0, again;
    for (int r = 0; r < TILE; r++) { /* a last tile that is not full repeats its last row, with weight zero */
        row[r] = first + r < s->last ? first + r : s->last - 1;
        own[r] = j->own ? j->own[row[r]] : -1;
        for (int f = 0; f < F; f++)
            rows[f * TILE + r] = splat(f < j->width ? j->rows[(size_t)row[r] * j->width + f] : 0.f);
        reference[r] = largest(j, row[r], own[r], 1);
    }
    do {
        memset(total8, 0, sizeof total8);
        memset(product, 0, F * TILE * sizeof(v8));
        for (int b = 0, many; b < j->blocks; b += many) {
            const float *columns = j->packed + (size_t)b * 8 * (F + 1);
            float *e = s->kept + (keep ? (size_t)b * 8 * TILE : 0);
            many = j->blocks - b < CHUNK ? j->blocks - b : CHUNK;
            score(F, columns, many, rows, reference, e);
            for (int r = 0; r < TILE; r++) {
                int64_t c = own[r] - (int64_t)b * 8;
                if (own[r] >= 0 && c >= 0 && c < many * 8) e[c / 8 * 8 * TILE + r * 8 + c % 8] = 0;
            }
            if (j->need_rows)
                products(F, 1, columns, many, e, total8, product);
            else
                products(F, 0, columns, many, e, total8, product);
        }
        again = 0;
        for (int r = 0; r < TILE; r++) {
            sum[r] = total(total8[r]);
            if (passes || (sum[r] >= .5 && sum[r] < 1e9)) continue;
            again = 1; /* a column far above the probed ones, or none */
            if (sum[r] > 1e-9 && sum[r] < 1e37)
                reference[r] += log(sum[r]);
            else
                reference[r] = largest(j, row[r], own[r], 0);
        }
    } while (again && !passes++);
    for (int r = 0; r < TILE; r++) {
        const int i = row[r], pad = first + r >= s->last;
        double off = log(sum[r]), weight, weight_own, g = pad ? 0 : j->upstream ? j->upstream[i] : 1;
        double t_own = own[r] >= 0 ? logit(j, i, own[r]) - reference[r] : 0;
        double out = value(j, own[r] >= 0, off, t_own, &weight, &weight_own);
        weight *= sum[r] > 0 ? g / sum[r] : 0;
        weight_own *= g;
        for (int f = 0; f < F; f++) factor[f * TILE + r] = rows[f * TILE + r] * (float)weight;
        factor[F * TILE + r] = splat(weight);
        if (pad) continue;
        j->out[i] = j->contrast ? out : out + reference[r];
        float *grad = keep && own[r] >= 0 ? cell(j, s->grad, own[r]) : 0;
        for (int f = 0; f < j->width; f++) {
            if (grad) grad[8 * f] += weight_own * j->rows[(size_t)i * j->width + f];
            if (j->need_rows)
                j->grad_rows[(size_t)i * j->width + f] =
                    weight * total(product[f * TILE + r]) +
                    (own[r] >= 0 ? weight_own * j->columns[(size_t)own[r] * j->width + f] : 0);
        }
        if (grad) grad[8 * F] += weight_own;
    }
    if (j->need_bias)
        spread(F, F + 1, j->blocks, s->kept, factor, s->grad);
    else if (keep)
        spread(F, F, j->blocks, s->kept, factor, s->grad);
}

typedef void tiles(share *s);
#define TILES(F)                                                                              \
    static void tiles##F(share *s) {                                                          \
        for (int first = s->first; first < s->last; first += TILE) tile(F, s, first);         \
    }
TILES(4)
TILES(8)
TILES(12)
TILES(16)

static void *work(void *argument) {
    share *s = argument;
    static tiles *const by_width[] = {tiles4, tiles8, tiles12, tiles16};
#if defined(__SSE2__) /* denormal numbers, far below what a sum of one feels, cost a hundred times a normal one */
    unsigned control = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(control | 0x8040);
#endif
    by_width[s->j->padded / 4 - 1](s);
#if defined(__SSE2__)
    __builtin_ia32_ldmxcsr(control);
#endif
    return 0;
}

/* Other than zero if there is no memory. Pointers may be null where something is absent or not needed. */
int recparam_native(int n, int m, int width, int keep_own, int contrast, int threads, const float *rows,
                    const float *columns, const float *bias, const int64_t *own, const float *upstream, float *out,
                    float *grad_rows, float *grad_columns, float *grad_bias) {
    job j = {.n = n, .m = m, .width = width, .padded = (width + 3) / 4 * 4, .blocks = (m + 15) / 16 * 2,
             .keep_own = keep_own, .contrast = contrast, .need_rows = grad_rows != 0, .need_columns = grad_columns != 0,
             .need_bias = grad_bias != 0, .rows = rows, .columns = columns, .bias = bias, .upstream = upstream,
             .own = own, .out = out, .grad_rows = grad_rows};
    share shares[MAX_THREADS];
    pthread_t id[MAX_THREADS];
    const int keep = j.need_columns || j.need_bias, count = (n + TILE - 1) / TILE;
    const size_t size = (size_t)j.blocks * 8 * (j.padded + 1),
                 kept = (size_t)(keep || j.blocks < CHUNK ? j.blocks : CHUNK) * 8 * TILE;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > count) threads = count;
    const size_t all = (size * (keep ? threads + 1 : 1) + kept * threads) * sizeof(float);
    float *memory = aligned_alloc(64, (all + 63) / 64 * 64);
    if (!memory) return 1;
    memset(memory, 0, all);
    j.packed = memory;
    for (int c = 0; c < j.blocks * 8; c++) {
        float *to = cell(&j, memory, c);
        for (int f = 0; f < width && c < m; f++) to[8 * f] = columns[(size_t)c * width + f];
        to[8 * j.padded] = c >= m ? -INFINITY : bias ? bias[c] : 0;
    }
    for (int i = 0; i < PROBES; i++) {
        const int c = j.probed[i] = (int64_t)i * (m - 1) / (PROBES - 1);
        for (int f = 0; f < width; f++) j.probes[2 * f + i / 8][i % 8] = columns[(size_t)c * width + f];
        j.probes[2 * MOST + i / 8][i % 8] = bias ? bias[c] : 0;
    }
    char started[MAX_THREADS] = {0};
    for (int t = threads - 1; t >= 0; t--) {
        shares[t] = (share){&j, (int)((int64_t)count * t / threads) * TILE,
                            t == threads - 1 ? n : (int)((int64_t)count * (t + 1) / threads) * TILE,
                            memory + size * (keep ? t + 1 : 0), memory + size * (keep ? threads + 1 : 1) + kept * t};
        started[t] = t && !pthread_create(&id[t], 0, work, &shares[t]);
        if (!started[t]) work(&shares[t]);
    }
    for (int t = 1; t < threads; t++)
        if (started[t]) pthread_join(id[t], 0);
    for (int t = 1; keep && t < threads; t++)
        for (size_t i = 0; i < size; i++) shares[0].grad[i] += shares[t].grad[i];
    for (int c = 0; keep && c < m; c++) {
        const float *from = cell(&j, shares[0].grad, c);
        for (int f = 0; grad_columns && f < width; f++) grad_columns[(size_t)c * width + f] = from[8 * f];
        if (grad_bias) grad_bias[c] = from[8 * j.padded];
    }
    free(memory);
    return 0;
}
