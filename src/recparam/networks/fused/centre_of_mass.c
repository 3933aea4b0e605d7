/* Fused block: convolution, batch norm, ReLU, convolution, batch norm, sigmoid, centre of mass.
 *
 * Plain C with GCC/Clang vector extensions, loaded through ctypes; docs/fused-step.md derives the algebra.
 * Kernels are 3x3 with one ring of zeros around the image. Every row buffer holds PAD zeros, `wide` floats
 * (the width rounded up to BLOCK) and PAD zeros, so that shifted reads need no branches. Floats are summed over
 * 2048 pixels or 8 rows at most, and in eight lanes; beyond that sums are double, one set for each image, so that
 * results do not depend on the number of threads.
 */
#define _DEFAULT_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif
#include "rows.h"

/* ---- images over threads -------------------------------------------------------------------------------- */

typedef struct job {
    const void *frames;
    int bytes; /* frames are uint8, meaning value / 255 */
    int batch, in, mid, maps, height, width, wide, stride, flush;
    const float *weight1, *bias1, *weight2, *weight2_back; /* folded; [taps][channels] */
    const float *shift;                                    /* [in], subtracted before moments */
    float *planes;                                         /* [batch][maps][height][wide] before batch norm */
    const float *affine;  /* [maps][4]: mean, 1/std, gamma, beta of the second batch norm */
    const float *slopes;  /* [batch][maps][3]: dL/dmap = s0 + s1 (column - middle) + s2 (row - middle) */
    const float *means;   /* [maps][2]: means of the gradient g and of g * normalised */
    double *out;          /* [batch][out_size] */
    int out_size;
    size_t scratch;       /* floats for each thread */
    void (*one)(struct job *, int image, float *scratch);
    int next, failed;
} job;

static void *worker(void *argument) {
    job *j = argument;
    float *scratch = 0;
    if (posix_memalign((void **)&scratch, 64, j->scratch * sizeof(float))) {
        __atomic_store_n(&j->failed, 1, __ATOMIC_RELAXED);
        return 0;
    }
    memset(scratch, 0, j->scratch * sizeof(float));
    int image;
    while ((image = __atomic_fetch_add(&j->next, 1, __ATOMIC_RELAXED)) < j->batch) j->one(j, image, scratch);
    free(scratch);
    return 0;
}

static int run(job *j, int threads) {
    pthread_t id[MAX_THREADS];
    int started = 0;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > j->batch) threads = j->batch;
    j->next = j->failed = 0;
    while (started < threads - 1 && !pthread_create(&id[started], 0, worker, j)) started++;
    worker(j);
    for (int i = 0; i < started; i++) pthread_join(id[i], 0);
    return j->failed;
}

static void set_width(job *j, int width) {
    j->width = width;
    j->wide = (width + BLOCK - 1) / BLOCK * BLOCK;
    j->stride = j->wide + 2 * PAD;
    j->flush = j->wide < 256 ? 2048 / j->wide : 8;
}

static void read_row(const job *j, int image, int channel, int row, float shift, float *to) {
    size_t at = (((size_t)image * j->in + channel) * j->height + row) * j->width;
    if (j->bytes) {
        const uint8_t *from = (const uint8_t *)j->frames + at;
        for (int x = 0; x < j->width; x++) to[x] = (float)from[x] * (1.f / 255.f) - shift;
    } else {
        const float *from = (const float *)j->frames + at;
        for (int x = 0; x < j->width; x++) to[x] = from[x] - shift;
    }
}

/* Row `row` of channel c in a ring of three rows for each channel; `ring` starts at the first buffer. */
INLINE float *slot(const job *j, float *ring, int channel, int row) {
    return ring + (size_t)(3 * channel + (row + 3) % 3) * j->stride + PAD;
}

/* The three rows around `row` of every channel, zeros outside the image. */
INLINE void around(const job *j, float *ring, int channels, int row, const float *zeros, const float **rows) {
    for (int c = 0; c < channels; c++)
        for (int i = -1; i < 2; i++) {
            int r = row + i;
            *rows++ = r < 0 || r >= j->height ? zeros + PAD : slot(j, ring, c, r);
        }
}

/* ---- second moments of the frames' patches -------------------------------------------------------------- */

/* Offsets into one image's sums, for C channels: products of rows dy apart at column lags -2..2 (T), the same
 * within the first and the last row (R), within the first and the last column (K), the four corners (Q) and sums
 * over the image less 0..2 rows and columns at either end (S). */
#define T_(dy, d, c, dx) ((((dy) * C + (d)) * C + (c)) * 5 + (dx) + 2)
#define R_(last, c, d, dx) (15 * C * C + (((last) * C + (c)) * C + (d)) * 5 + (dx) + 2)
#define K_(last, dy, c, d) (25 * C * C + (((last) * 3 + (dy)) * C + (c)) * C + (d))
#define Q_(below, right, c, d) (31 * C * C + (((below) * 2 + (right)) * C + (c)) * C + (d))
#define S_(c, top, bottom, left, right) (35 * C * C + (((c) * 3 + (top)) * 3 + (bottom)) * 9 + (left) * 3 + (right))
#define MOMENTS(C) (35 * (C) * (C) + 81 * (C))

static double trimmed(double sum, const double *edge, int stride, int size, int low, int high) {
    if (low + high >= size) return 0;
    for (int i = 0; i < low; i++) sum -= edge[(size_t)i * stride];
    for (int i = 0; i < high; i++) sum -= edge[(size_t)(size - 1 - i) * stride];
    return sum;
}

static void moments_one(job *j, int image, float *scratch) {
    const int C = j->in, H = j->height, W = j->width, wide8 = (W + 7) / 8 * 8;
    double *out = j->out + (size_t)image * j->out_size;
    float *ring = scratch;
    v8 *sum = (v8 *)(ring + (size_t)3 * C * j->stride);
    v8 *border = sum + 15 * C * C;
    double *windows = (double *)(border + 5 * C * C); /* [C][H][9] */
    float **a = (float **)(windows + (size_t)9 * C * H);
    memset(out, 0, j->out_size * sizeof(double));
    for (int i = 0; i < 15 * C * C; i++) sum[i] = splat(0.f);
    for (int h = 0; h < H; h++) {
        for (int r = h ? h + 2 : 0; r <= h + 2 && r < H; r++)
            for (int c = 0; c < C; c++) read_row(j, image, c, r, j->shift[c], slot(j, ring, c, r));
        for (int c = 0; c < C; c++) a[c] = slot(j, ring, c, h);
        for (int dy = 0; dy < 3 && h + dy < H; dy++)
            for (int d = 0; d < C; d++) {
                const float *b = slot(j, ring, d, h + dy);
                int pairs = dy ? C : d + 1; /* within a row the rest is symmetric */
                correlate(pairs, 3, a, b, -2, sum + T_(dy, d, 0, -2), 5, wide8);
                correlate(pairs, 2, a, b, 1, sum + T_(dy, d, 0, 1), 5, wide8);
                for (int c = 0; c < C; c++) {
                    out[K_(0, dy, c, d)] += (double)a[c][0] * b[0];
                    out[K_(1, dy, c, d)] += (double)a[c][W - 1] * b[W - 1];
                }
            }
        if ((h + 1) % j->flush == 0 || h == H - 1) flush(sum, out, 15 * C * C);
        for (int c = 0; c < C; c++) {
            v8 row[4] = {splat(0.f), splat(0.f), splat(0.f), splat(0.f)};
            for (int x = 0; x < j->wide; x += BLOCK) FOUR row[v] += load(a[c] + x + 8 * v);
            /* one row's sum less its ends */
            const double all = total((row[0] + row[1]) + (row[2] + row[3]));
            const double left[3] = {0, a[c][0], (double)a[c][0] + a[c][1]};
            const double right[3] = {0, a[c][W - 1], W > 1 ? (double)a[c][W - 1] + a[c][W - 2] : 0};
            double *to = windows + ((size_t)c * H + h) * 9;
            UNROLL for (int low = 0; low < 3; low++)
                UNROLL for (int high = 0; high < 3; high++)
                    to[3 * low + high] = low + high < W ? all - left[low] - right[high] : 0;
        }
        for (int below = 0; below < 2; below++) {
            if (h != (below ? H - 1 : 0)) continue;
            for (int i = 0; i < 5 * C * C; i++) border[i] = splat(0.f);
            for (int d = 0; d < C; d++) {
                const float *b = slot(j, ring, d, h);
                correlate(C, 3, a, b, -2, border + 5 * C * d, 5, wide8);
                correlate(C, 2, a, b, 1, border + 5 * C * d + 3, 5, wide8);
                for (int c = 0; c < C; c++) {
                    for (int dx = -2; dx < 3; dx++)
                        out[R_(below, c, d, dx)] = total(border[(C * d + c) * 5 + dx + 2]);
                    out[Q_(below, 0, c, d)] = (double)a[c][0] * b[0];
                    out[Q_(below, 1, c, d)] = (double)a[c][W - 1] * b[W - 1];
                }
            }
        }
    }
    for (int c = 0; c < C; c++)
        for (int k = 0; k < 9; k++) {
            const double *of = windows + (size_t)c * H * 9 + k;
            double all = 0;
            for (int h = 0; h < H; h++) all += of[(size_t)9 * h];
            for (int top = 0; top < 3; top++)
                for (int bottom = 0; bottom < 3; bottom++)
                    out[S_(c, top, bottom, k / 3, k % 3)] = trimmed(all, of, 9, H, top, bottom);
        }
}

static int most(int a, int b, int c) { return a > b ? (a > c ? a : c) : (b > c ? b : c); }

static double extent(int size, int low, int high) { return size > low + high ? size - low - high : 0; }

/* Mean (K) and covariance (K, K) of the frames' zero-padded 3x3 patches, K = 9 in. Returns 1 if out of memory. */
int recparam_patch_moments(const void *frames, int bytes, int batch, int in, int height, int width, int threads,
                           double *mean, double *covariance) {
    job j = {.frames = frames, .bytes = bytes, .batch = batch, .in = in, .height = height};
    const int C = in, taps = 9 * in;
    set_width(&j, width);
    float *row = calloc(width, sizeof(float)), *shift = calloc(in, sizeof(float));
    double *sums = malloc((size_t)batch * MOMENTS(C) * sizeof(double));
    int failed = !row || !shift || !sums;
    if (!failed) {
        /* Any shift is exact; one near the mean keeps the float products free of cancellation. */
        for (int c = 0; c < in; c++) {
            double sum = 0, count = 0;
            for (int b = 0; b < batch; b++)
                for (int h = height / 32; h < height; h += 16) {
                    read_row(&j, b, c, h, 0.f, row);
                    float part = 0;
                    for (int x = 0; x < width; x += 4) part += row[x], count++;
                    sum += part;
                }
            shift[c] = (float)(sum / count);
        }
        j.shift = shift;
        j.out = sums;
        j.out_size = MOMENTS(C);
        j.scratch = (size_t)3 * C * j.stride + 20 * C * C * 8 + (size_t)18 * C * height + 2 * C + 16;
        j.one = moments_one;
        failed = run(&j, threads);
    }
    if (!failed) {
        for (int b = 1; b < batch; b++)
            for (int i = 0; i < MOMENTS(C); i++) sums[i] += sums[(size_t)b * MOMENTS(C) + i];
        const double n = (double)batch * height * width;
        for (int i = 0; i < taps; i++) {
            int c = i / 9, y = i / 3 % 3 - 1, x = i % 3 - 1;
            mean[i] = (sums[S_(c, y > 0, y < 0, x > 0, x < 0)] +
                       shift[c] * batch * extent(height, y > 0, y < 0) * extent(width, x > 0, x < 0)) / n;
        }
        for (int i = 0; i < taps; i++)
            for (int k = 0; k < taps; k++) {
                int c = i / 9, y = i / 3 % 3 - 1, x = i % 3 - 1, d = k / 9, v = k / 3 % 3 - 1, u = k % 3 - 1;
                if (v < y) continue; /* the transposed entry */
                int dy = v - y, dx = u - x;
                double t = dy || c <= d ? sums[T_(dy, d, c, dx)] : sums[T_(dy, c, d, -dx)];
                if (!dy && y) t -= sums[R_(y < 0, c, d, dx)];
                if (!dx && x) t -= sums[K_(x < 0, dy, c, d)];
                if (!dy && !dx && y && x) t += sums[Q_(y < 0, x < 0, c, d)];
                /* where both taps lie within the image: rows and columns left out at either end, for each tap */
                int top = most(0, y, y - v), bottom = most(0, -y, v - y), left = most(0, x, x - u),
                    right = most(0, -x, u - x);
                int top2 = most(0, v, v - y), bottom2 = most(0, -v, y - v), left2 = most(0, u, u - x),
                    right2 = most(0, -u, x - u);
                t += shift[d] * sums[S_(c, top, bottom, left, right)];
                t += shift[c] * sums[S_(d, top2, bottom2, left2, right2)];
                t += (double)shift[c] * shift[d] * batch * extent(height, top, bottom) *
                     extent(width, left, right);
                covariance[i * taps + k] = covariance[k * taps + i] = t / n - mean[i] * mean[k];
            }
    }
    free(row);
    free(shift);
    free(sums);
    return failed;
}

/* ---- forward: both convolutions, and the sums behind the second batch norm -------------------------------- */

static void planes_one(job *j, int image, float *scratch) {
    const int H = j->height, W = j->width, maps = j->maps, mid = j->mid;
    double *out = j->out + (size_t)image * j->out_size;
    float *zeros = scratch, *ring = zeros + j->stride, *hidden = ring + (size_t)3 * j->in * j->stride,
          *ones = hidden + (size_t)3 * mid * j->stride;
    const float **rows = (const float **)(ones + j->wide);
    float **to = (float **)(rows + 3 * (j->in > mid ? j->in : mid));
    float *middle = (float *)(to + (mid > maps ? mid : maps));
    memset(out, 0, j->out_size * sizeof(double));
    for (int x = 0; x < W; x++) ones[x] = 1.f;
    for (int q = 0; q <= H; q++) {
        if (q < H) {
            for (int r = q ? q + 1 : 0; r <= q + 1 && r < H; r++)
                for (int c = 0; c < j->in; c++) read_row(j, image, c, r, 0.f, slot(j, ring, c, r));
            around(j, ring, j->in, q, zeros, rows);
            for (int c = 0; c < mid; c++) to[c] = slot(j, hidden, c, q);
            convolve(mid, rows, 3 * j->in, j->weight1, j->bias1, to, j->wide, 0, 1);
            for (int c = 0; c < mid; c++) memset(to[c] + W, 0, (j->wide - W) * sizeof(float));
        }
        if (!q) continue;
        around(j, hidden, mid, q - 1, zeros, rows);
        for (int k = 0; k < maps; k++)
            to[k] = j->planes + (((size_t)image * maps + k) * H + q - 1) * j->wide;
        convolve(maps, rows, 3 * mid, j->weight2, 0, to, j->wide, 0, 0);
        for (int k = 0; k < maps; k++) {
            /* about the last row's mean, so that squares do not cancel */
            float about = q == 1 ? to[k][W / 2] : middle[k];
            v8 first = splat(0.f), second = splat(0.f);
            for (int x = 0; x < j->wide; x += 8) {
                v8 z = (load(to[k] + x) - about) * load(ones + x);
                first += z;
                second += z * z;
            }
            double s = total(first);
            middle[k] = (float)(about + s / W);
            out[2 * k] += s + (double)W * about;
            out[2 * k + 1] += total(second) + 2. * about * s + (double)W * about * about;
        }
    }
}

/* The planes are fresh memory in every step; in large pages it costs a tenth as many faults. */
static void use_huge_pages(void *start, size_t size) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 1 << 21, from = ((uintptr_t)start + page - 1) & ~(page - 1),
                    to = ((uintptr_t)start + size) & ~(page - 1);
    if (to > from) madvise((void *)from, to - from, MADV_HUGEPAGE); /* only advice: a failure changes nothing */
#else
    (void)start, (void)size;
#endif
}

/* Fills planes (batch, maps, height, wide) and sums (batch, maps, 2): each map's sum and sum of squares. */
int recparam_planes(const void *frames, int bytes, int batch, int in, int mid, int maps, int height, int width,
                    int threads, const float *weight1, const float *bias1, const float *weight2, float *planes,
                    double *sums) {
    job j = {.frames = frames, .bytes = bytes, .batch = batch, .in = in, .mid = mid, .maps = maps,
             .height = height, .weight1 = weight1, .bias1 = bias1, .weight2 = weight2, .planes = planes,
             .out = sums, .out_size = 2 * maps, .one = planes_one};
    set_width(&j, width);
    use_huge_pages(planes, (size_t)batch * maps * height * j.wide * sizeof(float));
    j.scratch = (size_t)(1 + 3 * in + 3 * mid) * j.stride + j.wide + 8 * (in + mid) + 4 * (mid + maps) + maps + 16;
    return run(&j, threads);
}

/* ---- sigmoid and its sums --------------------------------------------------------------------------------- */

INLINE v8 normalise(v8 z, const float *affine) { return (z - affine[0]) * affine[1]; }

/* exp(-y) for four vectors of the batch norm's output y. */
INLINE void odds(const float *z, const float *affine, v8 e[4]) {
    FOUR e[v] = normalise(load(z + 8 * v), affine) * -affine[2] - affine[3];
    exponentials(e);
}

static void coordinates(const job *j, float *ones, float *columns) {
    for (int x = 0; x < j->width; x++) {
        ones[x] = 1.f;
        columns[x] = x - .5f * (j->width - 1);
    }
}

INLINE void add_sums(v8 *s, const float *z, const float *affine, const float *ones, const float *columns,
                     const int whole) {
    v8 e[4];
    odds(z, affine, e);
    FOUR {
        v8 m = reciprocal(1.f + e[v]), slope = m * (m * e[v]); /* m (1 - m) without cancellation */
        v8 both = slope * normalise(load(z + 8 * v), affine);
        v8 one = load(ones + 8 * v), column = load(columns + 8 * v);
        s[0] += whole ? m : one * m;
        s[1] += column * m;
        s[2] += whole ? slope : one * slope;
        s[3] += column * slope;
        s[4] += whole ? both : one * both;
        s[5] += column * both;
    }
}

static void sums_one(job *j, int image, float *scratch) {
    const int H = j->height;
    float *ones = scratch, *columns = ones + j->wide;
    coordinates(j, ones, columns);
    for (int k = 0; k < j->maps; k++) {
        const float *affine = j->affine + 4 * k;
        double *out = j->out + ((size_t)image * j->maps + k) * 9;
        memset(out, 0, 9 * sizeof(double));
        for (int h = 0; h < H; h++) {
            const float *z = j->planes + (((size_t)image * j->maps + k) * H + h) * j->wide;
            v8 s[6];
            UNROLL for (int i = 0; i < 6; i++) s[i] = splat(0.f);
            int x = 0;
            for (; x + BLOCK <= j->width; x += BLOCK) add_sums(s, z + x, affine, ones + x, columns + x, 1);
            if (x < j->width) add_sums(s, z + x, affine, ones + x, columns + x, 0);
            double y = h - .5 * (H - 1);
            for (int i = 0; i < 3; i++) {
                double t = total(s[2 * i]);
                out[3 * i] += t;
                out[3 * i + 1] += total(s[2 * i + 1]);
                out[3 * i + 2] += y * t;
            }
        }
    }
}

/* sums (batch, maps, 3, 3): of m, m (1 - m) and m (1 - m) normalised, each times 1, column and row (centred). */
int recparam_sums(int batch, int maps, int height, int width, int threads, float *planes, const float *affine,
                  double *sums) {
    job j = {.batch = batch, .maps = maps, .height = height, .planes = planes, .affine = affine, .out = sums,
             .out_size = 9 * maps, .one = sums_one};
    set_width(&j, width);
    j.scratch = 2 * j.wide + 16;
    return run(&j, threads);
}

/* ---- backward --------------------------------------------------------------------------------------------- */

/* Gradient of the loss by one row of the second convolution's output. */
static void plane_gradient(const job *j, int image, int map, int row, const float *columns, float *to) {
    const float *affine = j->affine + 4 * map, *means = j->means + 2 * map,
                *slopes = j->slopes + ((size_t)image * j->maps + map) * 3,
                *z = j->planes + (((size_t)image * j->maps + map) * j->height + row) * j->wide;
    const float factor = affine[1] * affine[2], base = slopes[0] + slopes[2] * (row - .5f * (j->height - 1));
    for (int x = 0; x < j->width; x += BLOCK) {
        v8 e[4];
        odds(z + x, affine, e);
        FOUR {
            v8 n = normalise(load(z + x + 8 * v), affine), m = reciprocal(1.f + e[v]);
            v8 g = m * (m * e[v]) * (base + slopes[1] * load(columns + x + 8 * v));
            store(to + x + 8 * v, factor * (g - means[0] - n * means[1]));
        }
    }
    memset(to + j->width, 0, (j->wide - j->width) * sizeof(float));
}

static void gradients_one(job *j, int image, float *scratch) {
    const int H = j->height, W = j->width, in = j->in, mid = j->mid, maps = j->maps, wide8 = (W + 7) / 8 * 8,
              taps1 = 9 * in, taps2 = 9 * maps, count = mid * (taps1 + taps2 + 1);
    double *out = j->out + (size_t)image * j->out_size;
    v8 *sum = (v8 *)scratch;
    float *zeros = scratch + 8 * count, *ring = zeros + j->stride, *above = ring + (size_t)3 * in * j->stride,
          *hidden = above + (size_t)3 * maps * j->stride, *slope = hidden + (size_t)mid * j->stride,
          *ones = slope + (size_t)mid * j->stride, *columns = ones + j->wide;
    const float **rows1 = (const float **)(columns + j->wide), **rows2 = rows1 + 3 * in;
    float **h = (float **)(rows2 + 3 * maps), **g = h + mid;
    memset(out, 0, j->out_size * sizeof(double));
    memset(sum, 0, count * sizeof(v8));
    coordinates(j, ones, columns);
    for (int c = 0; c < mid; c++) {
        h[c] = hidden + (size_t)c * j->stride + PAD;
        g[c] = slope + (size_t)c * j->stride + PAD;
    }
    for (int r = 0; r < H; r++) {
        for (int q = r ? r + 1 : 0; q <= r + 1 && q < H; q++) {
            for (int c = 0; c < in; c++) read_row(j, image, c, q, 0.f, slot(j, ring, c, q));
            for (int k = 0; k < maps; k++) plane_gradient(j, image, k, q, columns, slot(j, above, k, q));
        }
        around(j, ring, in, r, zeros, rows1);
        around(j, above, maps, r, zeros, rows2);
        convolve(mid, rows1, 3 * in, j->weight1, j->bias1, h, j->wide, 0, 1);
        for (int c = 0; c < mid; c++)
            memset(h[c] + W, 0, (j->wide - W) * sizeof(float));
        convolve(mid, rows2, 3 * maps, j->weight2_back, 0, g, j->wide, (const float *const *)h, 0);
        for (int c = 0; c < mid; c++) {
            v8 t = splat(0.f);
            for (int x = 0; x < wide8; x += 8) t += load(g[c] + x);
            sum[mid * (taps1 + taps2) + c] += t;
        }
        for (int i = 0; i < 3 * in; i++) correlate(mid, 3, g, rows1[i], -1, sum + 3 * i, taps1, wide8);
        for (int i = 0; i < 3 * maps; i++)
            correlate(mid, 3, h, rows2[i], -1, sum + mid * taps1 + 3 * i, taps2, wide8);
        if ((r + 1) % j->flush == 0 || r == H - 1) flush(sum, out, count);
    }
}

/* sums (batch, mid (9 in + 9 maps + 1)): of g patch, of hidden times the planes' gradient, and of g, where g is
 * the gradient by the first batch norm's output. */
int recparam_gradients(const void *frames, int bytes, int batch, int in, int mid, int maps, int height, int width,
                       int threads, const float *weight1, const float *bias1, const float *weight2_back,
                       float *planes, const float *affine, const float *slopes, const float *means, double *sums) {
    job j = {.frames = frames, .bytes = bytes, .batch = batch, .in = in, .mid = mid, .maps = maps,
             .height = height, .weight1 = weight1, .bias1 = bias1, .weight2_back = weight2_back, .planes = planes,
             .affine = affine, .slopes = slopes, .means = means, .out = sums,
             .out_size = mid * (9 * in + 9 * maps + 1), .one = gradients_one};
    set_width(&j, width);
    j.scratch = 8 * (size_t)j.out_size + (size_t)(1 + 3 * in + 3 * maps + 2 * mid) * j.stride + 2 * j.wide +
                6 * (in + maps) + 4 * mid + 16;
    return run(&j, threads);
}
