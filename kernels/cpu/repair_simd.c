/*
 * Owns the arithmetic of repair. Compiled once per instruction set with REPAIR_NAME and
 * VECTOR_FLOATS from the build. It refuses fits whose features do not vary.
 *
 * With the n probe rows' features x = [o, beta q] (beta = rms(o) / rms(q)), centred to X, and their
 * residual e = exact - o, centred to E, ridge regression is solved in the dual, n x n:
 *
 *     A = (X X^T + lambda I)^-1,  alpha = A E,  W = X^T alpha,  lambda = ridge * |X|^2 / features
 *
 * A row left out would have been predicted with the error lambda alpha_i / (lambda A_ii - 1/n):
 * that is exact for ridge with an intercept, and it is how the fit is judged, on rows it has not
 * seen. Source: probe-row repair after arXiv 2608.18484; the leave-one-out form is Allen's PRESS
 * statistic.
 *
 * Products are float in register tiles; the factorisation and its inverse are double, some pivots
 * at a time, each an axpy over contiguous rows, which the compiler vectorises without reordering a
 * sum. What is triangular is worked out as such.
 *
 * Ladder, 256 rows of 128 with AVX-512, AMD EPYC (Zen 5), 1 thread, machine shared:
 *   1  4 x 2 accumulators, one pivot at a time, full squares     fit 2.0 ms
 *   2  4 x 4 accumulators, 4 pivots, triangles                   fit 1.2 ms
 *   3  8 pivots, sums of squares in 16 lanes                     fit 0.9 ms
 *   4  rows of the triangles in whole registers; features in one vectorised pass: with 128 rows
 *      0.10 -> 0.066 ms
 *   5  squares turned in registers, the inverse by bands of rows, sums of short rows by halves, no
 *      narrow tiles where wider ones fit: with 128 rows 0.130 -> 0.092 ms, machine busy
 *   apply to 2304 rows: 1.0 ms with 4 x 2, 0.85 ms with 4 x 4 accumulators
 */
#include "repair_simd.h"

#include "turn_simd.h"

#include <math.h>
#include <string.h>

typedef float vector __attribute__((vector_size(VECTOR_FLOATS * sizeof(float))));

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum {
    /* Accumulators: 16 of 32 registers (AVX-512), 12 of 16 elsewhere. */
    TILE_ROWS = VECTOR_FLOATS == 16 ? 4 : 3,
    TILE_VECTORS = 4,
    TILE_COLUMNS = TILE_VECTORS * VECTOR_FLOATS,
    /* Rows of a triangle that are worked on together, and pivots of a factorisation. */
    BAND = 16,
    PIVOTS = 8,
    SUM_LANES = 16
};

static inline vector load(const float *from)
{
    vector value;
    memcpy(&value, from, sizeof(value));
    return value;
}

static inline void store(float *to, vector value)
{
    memcpy(to, &value, sizeof(value));
}

struct matrix {
    const float *data;
    int64_t stride; /* of a row */
};

/* out[rows][vectors * VECTOR_FLOATS] += a[rows][inner] b; rows and vectors are constants once
 * inlined. */
ALWAYS_INLINE void multiply_tile(int rows, int vectors, int64_t inner, struct matrix a,
                                 struct matrix b, float *out, int64_t out_stride)
{
    vector sum[TILE_ROWS][TILE_VECTORS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < vectors; c++)
            sum[r][c] = load(out + r * out_stride + c * VECTOR_FLOATS);
    for (int64_t k = 0; k < inner; k++) {
        vector column[TILE_VECTORS];
        for (int c = 0; c < vectors; c++)
            column[c] = load(b.data + k * b.stride + c * VECTOR_FLOATS);
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < vectors; c++)
                sum[r][c] += a.data[r * a.stride + k] * column[c];
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < vectors; c++)
            store(out + r * out_stride + c * VECTOR_FLOATS, sum[r][c]);
}

/* All rows over the same few columns of b, which stay in the first-level cache. */
ALWAYS_INLINE void multiply_columns(int vectors, int64_t rows, int64_t inner, struct matrix a,
                                    struct matrix b, float *out, int64_t out_stride)
{
    int64_t r = 0;
    for (; r + TILE_ROWS <= rows; r += TILE_ROWS)
        multiply_tile(TILE_ROWS, vectors, inner, (struct matrix){a.data + r * a.stride, a.stride},
                      b, out + r * out_stride, out_stride);
    for (; r < rows; r++)
        multiply_tile(1, vectors, inner, (struct matrix){a.data + r * a.stride, a.stride}, b,
                      out + r * out_stride, out_stride);
}

/* The columns that fill no vector. */
static void multiply_rest(int64_t rows, int64_t inner, int64_t columns, struct matrix a,
                          struct matrix b, float *out, int64_t out_stride)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < inner; k++)
            for (int64_t c = 0; c < columns; c++)
                out[r * out_stride + c] += a.data[r * a.stride + k] * b.data[k * b.stride + c];
}

/* out[rows][columns] += a[rows][inner] b[inner][columns] */
static void multiply_add(int64_t rows, int64_t inner, int64_t columns, struct matrix a,
                         struct matrix b, float *out, int64_t out_stride)
{
    int64_t c = 0;
    for (; c + TILE_COLUMNS <= columns; c += TILE_COLUMNS)
        multiply_columns(TILE_VECTORS, rows, inner, a, (struct matrix){b.data + c, b.stride},
                         out + c, out_stride);
    for (; c + TILE_COLUMNS / 2 <= columns; c += TILE_COLUMNS / 2)
        multiply_columns(TILE_VECTORS / 2, rows, inner, a, (struct matrix){b.data + c, b.stride},
                         out + c, out_stride);
    for (; c + VECTOR_FLOATS <= columns; c += VECTOR_FLOATS)
        multiply_columns(1, rows, inner, a, (struct matrix){b.data + c, b.stride}, out + c,
                         out_stride);
    multiply_rest(rows, inner, columns - c, a, (struct matrix){b.data + c, b.stride}, out + c,
                  out_stride);
}

/* out[0 .. count) -= factor * x */
static void subtract(int64_t count, double factor, const double *restrict x, double *restrict out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] -= factor * x[i];
}

/* By halves: one after the other, each addition would wait for the one before. */
static double sum_of_lanes(double lane[SUM_LANES])
{
    for (int half = SUM_LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            lane[l] += lane[l + half];
    return lane[0];
}

/* In lanes that are added up in one fixed order. */
static double sum_of_squares(const float *a, const float *b, int64_t count)
{
    double lane[SUM_LANES] = {0};
    int64_t i = 0;
    for (; i + SUM_LANES <= count; i += SUM_LANES)
        for (int l = 0; l < SUM_LANES; l++) {
            double x = (double)a[i + l] - (b ? (double)b[i + l] : 0);
            lane[l] += x * x;
        }
    for (; i < count; i++) {
        double x = (double)a[i] - (b ? (double)b[i] : 0);
        lane[0] += x * x;
    }
    return sum_of_lanes(lane);
}

/* The same of x[from .. end), where what lies before, to a multiple of the lanes, is 0. */
static double squares_from(const double *x, int64_t from, int64_t end)
{
    double lane[SUM_LANES] = {0};
    int64_t i = from - from % SUM_LANES;
    for (; i + SUM_LANES <= end; i += SUM_LANES)
        for (int l = 0; l < SUM_LANES; l++)
            lane[l] += x[i + l] * x[i + l];
    for (; i < end; i++)
        lane[0] += x[i] * x[i];
    return sum_of_lanes(lane);
}

/* In squares that fit in registers. */
static void transpose(const float *from, int64_t rows, int64_t columns, float *to)
{
    int64_t full_rows = rows - rows % VECTOR_FLOATS, full = columns - columns % VECTOR_FLOATS;
    for (int64_t top = 0; top < full_rows; top += VECTOR_FLOATS)
        for (int64_t left = 0; left < full; left += VECTOR_FLOATS) {
            vector square[VECTOR_FLOATS];
            for (int i = 0; i < VECTOR_FLOATS; i++)
                square[i] = load(from + (top + i) * columns + left);
            turn_square(square);
            for (int i = 0; i < VECTOR_FLOATS; i++)
                store(to + (left + i) * rows + top, square[i]);
        }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = r < full_rows ? full : 0; c < columns; c++)
            to[c * rows + r] = from[r * columns + c];
}

/* Takes the mean over rows out of x[rows][count] and writes it. */
static void centre(float *x, int64_t rows, int64_t count, int64_t stride, float *mean)
{
    memset(mean, 0, (size_t)count * sizeof(*mean));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < count; i++)
            mean[i] += x[r * stride + i] / (float)rows;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < count; i++)
            x[r * stride + i] -= mean[i];
}

/* out[0 .. count) -= factors[0] x[0] + .. + factors[PIVOTS - 1] x[PIVOTS - 1], in that order */
static void subtract_all(int64_t count, const double factors[PIVOTS], const double *restrict x,
                         int64_t stride, double *restrict out)
{
    for (int64_t i = 0; i < count; i++) {
        double value = out[i];
        for (int p = 0; p < PIVOTS; p++)
            value -= factors[p] * x[p * stride + i];
        out[i] = value;
    }
}

/* Rows [first, end) of the factor, once the rows above have been subtracted from them. */
static bool factorise_rows(double *u, int64_t n, int64_t first, int64_t end)
{
    for (int64_t k = first; k < end; k++) {
        double *row = u + k * n, pivot = row[k];
        if (!(pivot > 0) || !isfinite(pivot))
            return false;
        double scale = 1 / sqrt(pivot);
        for (int64_t j = first; j < n; j++)
            row[j] *= scale;
        for (int64_t i = k + 1; i < end; i++)
            subtract(n - first, row[i], row + first, u + i * n + first);
    }
    return true;
}

/* a = u^T u in place, upper triangle by rows; false where it is not positive definite. Rows are
 * worked on from a multiple of PIVOTS on, in whole registers: what lies there below the diagonal
 * must be numbers, and is left as others. */
static bool factorise(double *u, int64_t n)
{
    int64_t k = 0;
    for (; k + PIVOTS <= n; k += PIVOTS) {
        if (!factorise_rows(u, n, k, k + PIVOTS))
            return false;
        for (int64_t i = k + PIVOTS; i < n; i++) {
            double factors[PIVOTS];
            int64_t begin = i - i % PIVOTS;
            for (int p = 0; p < PIVOTS; p++)
                factors[p] = u[(k + p) * n + i];
            subtract_all(n - begin, factors, u + k * n + begin, n, u + i * n + begin);
        }
    }
    return factorise_rows(u, n, k, n);
}

/* Rows [first, end) of v = u^-1, once those below are there; upper triangle by rows. first is a
 * multiple of PIVOTS, end is another or n. */
static void invert_rows(const double *u, int64_t n, int64_t first, int64_t end, double *v)
{
    int64_t k = end;
    memset(v + first * n, 0, (size_t)((end - first) * n) * sizeof(*v));
    /* Below its diagonal v is 0, so that rows can go together from the first one's diagonal; and
     * they serve all rows of u while they are in the first-level cache. */
    for (; k + PIVOTS <= n; k += PIVOTS)
        for (int64_t i = first; i < end; i++)
            subtract_all(n - k, u + i * n + k, v + k * n + k, n, v + i * n + k);
    for (; k < n; k++)
        for (int64_t i = first; i < end; i++)
            subtract(n - k, u[i * n + k], v + k * n + k, v + i * n + k);
    for (int64_t i = end - 1; i >= first; i--) {
        double *row = v + i * n, scale = 1 / u[i * n + i];
        row[i] = 1;
        for (k = i + 1; k < end; k++)
            subtract(n - first, u[i * n + k], v + k * n + first, row + first);
        for (int64_t j = first; j < n; j++)
            row[j] *= scale;
    }
}

static void invert(const double *u, int64_t n, double *v)
{
    for (int64_t end = n, first; end > 0; end = first) {
        first = (end - 1) / PIVOTS * PIVOTS;
        invert_rows(u, n, first, end, v);
    }
}

struct buffers {
    float *x, *xt, *gram, *transposed, *residual, *half, *alpha, *mean;
    double *upper, *inverse;
};

static struct buffers open_scratch(const struct repair_fit *fit)
{
    struct repair_layout layout = repair_lay_out(fit->rows, fit->head_dim);
    char *base = fit->scratch;
    return (struct buffers){.x = (float *)(base + layout.x),
                            .xt = (float *)(base + layout.xt),
                            .gram = (float *)(base + layout.gram),
                            .transposed = (float *)(base + layout.transposed),
                            .residual = (float *)(base + layout.residual),
                            .half = (float *)(base + layout.half),
                            .alpha = (float *)(base + layout.alpha),
                            .mean = (float *)(base + layout.mean),
                            .upper = (double *)(base + layout.upper),
                            .inverse = (double *)(base + layout.inverse)};
}

/* Fills x, xt, residual, mean. Returns beta. */
static float make_features(struct repair_fit *fit, struct buffers *b)
{
    int64_t n = fit->rows, d = fit->head_dim, features = 2 * d;
    double o_norm = sum_of_squares(fit->o, NULL, n * d);
    double q_norm = sum_of_squares(fit->q, NULL, n * d);
    float beta = q_norm > 0 ? (float)sqrt(o_norm / q_norm) : 0;
    for (int64_t r = 0; r < n; r++) {
        const float *o = fit->o + r * d, *q = fit->q + r * d, *exact = fit->exact + r * d;
        float *restrict x = b->x + r * features, *restrict residual = b->residual + r * d;
        memcpy(x, o, (size_t)d * sizeof(*x));
        for (int64_t i = 0; i < d; i++)
            x[d + i] = beta * q[i];
        for (int64_t i = 0; i < d; i++)
            residual[i] = exact[i] - o[i];
    }
    centre(b->x, n, features, features, b->mean);
    centre(b->residual, n, d, d, b->mean + features);
    transpose(b->x, n, features, b->xt);
    return beta;
}

/* alpha = v v^T residual, v = inverse. Rounding v to float costs 1e-7 of it, and the ridge keeps it
 * small. */
static void solve(const struct buffers *b, int64_t n, int64_t d)
{
    struct matrix v = {b->gram, n}, v_transposed = {b->transposed, n};
    for (int64_t i = 0; i < n * n; i++)
        b->gram[i] = (float)b->inverse[i];
    transpose(b->gram, n, n, b->transposed);
    memset(b->half, 0, (size_t)(n * d) * sizeof(*b->half));
    memset(b->alpha, 0, (size_t)(n * d) * sizeof(*b->alpha));
    for (int64_t r = 0; r < n; r += BAND) {
        int64_t end = r + BAND < n ? r + BAND : n; /* what is left out of the products is 0 */
        multiply_add(end - r, end, d, (struct matrix){v_transposed.data + r * n, n},
                     (struct matrix){b->residual, d}, b->half + r * d, d);
    }
    for (int64_t r = 0; r < n; r += BAND) {
        int64_t end = r + BAND < n ? r + BAND : n;
        multiply_add(end - r, n - r, d, (struct matrix){v.data + r * n + r, n},
                     (struct matrix){b->half + r * d, d}, b->alpha + r * d, d);
    }
}

/* error_unseen, from the leave-one-out residuals, and gain_spread; false where rounding has eaten a
 * leverage. */
static bool judge(struct repair_fit *fit, const struct buffers *b, double lambda)
{
    int64_t n = fit->rows, d = fit->head_dim;
    double sum = 0, gain = 0, gain_squares = 0;
    for (int64_t i = 0; i < n; i++) {
        double diagonal = squares_from(b->inverse + i * n, i, n);
        double leverage_left = lambda * diagonal - 1 / (double)n;
        if (!(leverage_left > 1e-9))
            return false;
        double unseen = sum_of_squares(b->alpha + i * d, NULL, d) * (lambda / leverage_left) *
                        (lambda / leverage_left);
        double gained = sum_of_squares(fit->exact + i * d, fit->o + i * d, d) - unseen;
        sum += unseen;
        gain += gained;
        gain_squares += gained * gained;
    }
    fit->error_unseen = sum;
    fit->gain_spread = sqrt(fmax(gain_squares - gain * gain / (double)n, 0));
    return isfinite(sum) && isfinite(gain_squares);
}

/* W and the shift that stands for both means; beta moves from the features into W. */
static void finish(struct repair_fit *fit, const struct buffers *b, float beta)
{
    int64_t n = fit->rows, d = fit->head_dim, features = 2 * d;
    memset(fit->weight, 0, (size_t)(features * d) * sizeof(*fit->weight));
    multiply_add(features, n, d, (struct matrix){b->xt, n}, (struct matrix){b->alpha, d},
                 fit->weight, d);
    memcpy(fit->shift, b->mean + features, (size_t)d * sizeof(*fit->shift));
    for (int64_t i = 0; i < features; i++)
        for (int64_t c = 0; c < d; c++)
            fit->shift[c] -= b->mean[i] * fit->weight[i * d + c];
    for (int64_t i = d * d; i < features * d; i++)
        fit->weight[i] *= beta;
}

static bool fit_rows(struct repair_fit *fit)
{
    struct buffers b = open_scratch(fit);
    int64_t n = fit->rows, features = 2 * (int64_t)fit->head_dim;
    float beta = make_features(fit, &b);
    double lambda = fit->ridge * sum_of_squares(b.x, NULL, n * features) / (double)features;
    if (!(lambda > 0) || !isfinite(lambda))
        return false;
    memset(b.gram, 0, (size_t)(n * n) * sizeof(*b.gram));
    for (int64_t r = 0; r < n; r += BAND) /* the upper triangle is all that is read */
        multiply_add(r + BAND < n ? BAND : n - r, features, n - r,
                     (struct matrix){b.x + r * features, features}, (struct matrix){b.xt + r, n},
                     b.gram + r * n + r, n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i - i % PIVOTS; j < n; j++)
            b.upper[i * n + j] = j < i ? 0 : (double)b.gram[i * n + j] + (i == j ? lambda : 0);
    if (!factorise(b.upper, n))
        return false;
    invert(b.upper, n, b.inverse);
    solve(&b, n, fit->head_dim);
    if (!judge(fit, &b, lambda) || fit->error_unseen >= fit->error)
        return false;
    finish(fit, &b, beta);
    return true;
}

static void apply(int64_t rows, int32_t head_dim, const float *weight, const float *shift,
                  const float *q, float *o, float *fixed)
{
    int64_t d = head_dim;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < d; c++)
            fixed[r * d + c] = o[r * d + c] + shift[c];
    multiply_add(rows, d, d, (struct matrix){o, d}, (struct matrix){weight, d}, fixed, d);
    multiply_add(rows, d, d, (struct matrix){q, d}, (struct matrix){weight + d * d, d}, fixed, d);
    memcpy(o, fixed, (size_t)(rows * d) * sizeof(*o));
}

const struct repair_kernels REPAIR_NAME = {sum_of_squares, fit_rows, apply};
