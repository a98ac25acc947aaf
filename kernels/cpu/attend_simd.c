/*
 * The attention micro-kernel for CPUs: one tile of query rows against a list of packed key panels
 * (attend.h). Compiled once per CPU row of variants.def, with HEAD_DIM, VECTOR_FLOATS (lanes of a
 * register) and ATTEND_NAME from the build; GCC vector extensions, so one text serves every width.
 *
 * Per panel: logits = q kt; weights = 2^(logits - running maximum); o = o * shrink + weights v.
 * Both products are one register-tiled loop, multiply_add(): TILE_ROWS x TILE_VECTORS accumulators
 * stay in registers while each step loads TILE_VECTORS vectors of the panel and broadcasts
 * TILE_ROWS scalars. A row's bits depend on that row and the panels alone, not on the rows it
 * shares a tile with.
 *
 * It refuses nothing: shapes are compiled in, and tile->rows is trusted.
 *
 * Ladder, best GFLOP/s of one 128-row tile against 36 panels, head_dim 128, AMD EPYC (Zen 5), 1
 * thread. A bare loop of multiply-adds reaches 252 with 512-bit, 127 with 256-bit registers here.
 *   1  6 x 4 accumulators (AVX-512), 6 x 2 (others)          215   avx2 114   portable 40
 *   2  4 x 4 and 3 x 4, which waste fewer of 128 rows        216   avx2 115   portable 41
 *   3  sums of a panel start at zero: errors no longer grow  215   avx2 112   portable 38
 *      with the list (2560 equal keys: 2.5e-5 -> 1e-6)
 *   failed: 12 x 2 (AVX-512) 186; 2 x 4 and 4 x 1 (AVX2) 91 and 68
 */
#include "attend.h"

#include <math.h>
#include <string.h>

typedef float vector __attribute__((vector_size(VECTOR_FLOATS * sizeof(float))));
typedef int32_t vector_int __attribute__((vector_size(VECTOR_FLOATS * sizeof(float))));
typedef uint32_t vector_bits __attribute__((vector_size(VECTOR_FLOATS * sizeof(float))));

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum {
    PANEL = ATTEND_PANEL_KEYS,
    /* Accumulators of multiply_add(): 16 of 32 registers (AVX-512), 12 of 16 elsewhere. */
    TILE_ROWS = VECTOR_FLOATS == 16 ? 4 : 3,
    TILE_VECTORS = 4,
    TILE_COLUMNS = TILE_VECTORS * VECTOR_FLOATS
};

/* Callers owe no alignment; memcpy compiles to one unaligned load or store. */
ALWAYS_INLINE vector load(const float *from)
{
    vector value;
    memcpy(&value, from, sizeof(value));
    return value;
}

ALWAYS_INLINE void store(float *to, vector value)
{
    memcpy(to, &value, sizeof(value));
}

ALWAYS_INLINE vector spread(float value)
{
    return value - (vector){0};
}

ALWAYS_INLINE vector larger(vector a, vector b)
{
    vector_int pick = a > b;
    return (vector)((pick & (vector_int)a) | (~pick & (vector_int)b));
}

/*
 * 2^x for x <= 0, within 1.2e-7 of it relatively; exactly 1 at 0 and exactly 0 below -126 and at
 * -infinity; NaN stays NaN. x = n + f with n the nearest integer: adding 1.5 * 2^23 leaves n in the
 * low bits of the float. The polynomial is minimax for the relative error of 2^f on [-1/2, 1/2],
 * with constant term 1.
 */
ALWAYS_INLINE vector exp2_of(vector x)
{
    const vector shift = spread(12582912.0f);
    vector_int below = x < spread(-126.0f);
    vector bounded = (vector)((below & (vector_int)spread(-126.0f)) | (~below & (vector_int)x));
    vector shifted = bounded + shift;
    vector f = bounded - (shifted - shift);
    vector p = spread(0x1.41fbbcp-13f);

    p = p * f + 0x1.5f3e54p-10f;
    p = p * f + 0x1.3b2d4cp-7f;
    p = p * f + 0x1.c6aee8p-5f;
    p = p * f + 0x1.ebfbdcp-3f;
    p = p * f + 0x1.62e430p-1f;
    p = p * f + 1.0f;
    /* A product, not a sum of exponents: that would let a NaN with low bits set come out finite.
     * Unsigned, as a NaN's bits may carry out of 32. */
    vector scale = (vector)(((vector_bits)shifted << 23) + 0x3f800000u);
    return (vector)((vector_int)(p * scale) & ~below);
}

/*
 * out[r][c] += sum_k a[r][k] * b[k][c] over rows x TILE_COLUMNS, for k in [0, depth). rows, depth
 * and the row strides are constants once inlined, so the accumulators become registers. They start
 * at zero and meet out last: rounding errors grow with a panel's length, not with the list's.
 */
ALWAYS_INLINE void multiply_add(int rows, int depth, const float *a, int a_stride, const float *b,
                                int b_stride, float *out, int out_stride)
{
    vector sum[TILE_ROWS][TILE_VECTORS];

    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < TILE_VECTORS; c++) {
            sum[r][c] = spread(0);
        }
    }
    for (int k = 0; k < depth; k++) {
        vector column[TILE_VECTORS];
        for (int c = 0; c < TILE_VECTORS; c++) {
            column[c] = load(b + k * b_stride + c * VECTOR_FLOATS);
        }
        for (int r = 0; r < rows; r++) {
            vector scalar = spread(a[r * a_stride + k]);
            for (int c = 0; c < TILE_VECTORS; c++) {
                sum[r][c] += scalar * column[c];
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < TILE_VECTORS; c++) {
            float *at = out + r * out_stride + c * VECTOR_FLOATS;
            store(at, load(at) + sum[r][c]);
        }
    }
}

/* The running state of a tile's softmax; sums are kept per lane until the end. */
struct state {
    float largest[ATTEND_MAX_ROWS];
    vector sum[ATTEND_MAX_ROWS];
};

ALWAYS_INLINE float largest_lane(vector v)
{
    float lane[VECTOR_FLOATS];

    memcpy(lane, &v, sizeof(v));
    for (int half = VECTOR_FLOATS / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
        }
    }
    return lane[0];
}

/* Logits to weights in place, for one row; shrinks what the row has gathered to the new maximum. */
ALWAYS_INLINE void soften(struct state *state, int row, float *logits, float *o)
{
    enum { COUNT = PANEL / VECTOR_FLOATS };
    vector largest = load(logits);

    for (int i = 1; i < COUNT; i++) {
        largest = larger(load(logits + i * VECTOR_FLOATS), largest);
    }
    float before = state->largest[row];
    float after = largest_lane(largest);
    after = before > after ? before : after;
    /* While a row has seen only -infinity, any finite base keeps its weights at 0 and off NaN. */
    vector base = spread(after > -INFINITY ? after : 0.0f);

    if (after > before) {
        vector shrink = exp2_of(spread(before) - base);
        state->sum[row] *= shrink;
        for (int c = 0; c < HEAD_DIM; c += VECTOR_FLOATS) {
            store(o + c, load(o + c) * shrink);
        }
        state->largest[row] = after;
    }
    vector sum = spread(0);
    for (int i = 0; i < COUNT; i++) {
        vector weight = exp2_of(load(logits + i * VECTOR_FLOATS) - base);
        store(logits + i * VECTOR_FLOATS, weight);
        sum += weight;
    }
    state->sum[row] += sum;
}

/* rows query rows from row on: the keys of a panel to weights. */
ALWAYS_INLINE void weigh(int rows, const struct attend_tile *tile, const struct attend_panel *panel,
                         int row, struct state *state)
{
    const float *q = tile->q + row * HEAD_DIM;
    float *weights = tile->scratch + row * PANEL;

    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < PANEL; c += VECTOR_FLOATS) {
            store(weights + r * PANEL + c, panel->bias ? load(panel->bias + c) : spread(0));
        }
    }
    for (int c = 0; c < PANEL; c += TILE_COLUMNS) {
        multiply_add(rows, HEAD_DIM, q, HEAD_DIM, panel->kt + c, PANEL, weights + c, PANEL);
    }
    for (int r = 0; r < rows; r++) {
        soften(state, row + r, weights + r * PANEL, tile->o + (row + r) * HEAD_DIM);
    }
}

ALWAYS_INLINE void gather(int rows, const struct attend_tile *tile,
                          const struct attend_panel *panel, int row)
{
    const float *weights = tile->scratch + row * PANEL;

    for (int c = 0; c < HEAD_DIM; c += TILE_COLUMNS) {
        multiply_add(rows, PANEL, weights, PANEL, panel->v + c, HEAD_DIM,
                     tile->o + row * HEAD_DIM + c, HEAD_DIM);
    }
}

static void finish(const struct attend_tile *tile, const struct state *state)
{
    const double ln_2 = 0.693147180559945309;

    for (int row = 0; row < tile->rows; row++) {
        float *o = tile->o + row * HEAD_DIM;
        float sum = 0;
        for (int i = 0; i < VECTOR_FLOATS; i++) {
            sum += state->sum[row][i];
        }
        vector share = spread(sum > 0 ? 1.0f / sum : 0.0f);
        for (int c = 0; c < HEAD_DIM; c += VECTOR_FLOATS) {
            store(o + c, load(o + c) * share);
        }
        if (tile->lse) {
            tile->lse[row] = sum == 0 ? -INFINITY : (float)(state->largest[row] * ln_2 + log(sum));
        }
    }
}

void ATTEND_NAME(const struct attend_tile *tile);

void ATTEND_NAME(const struct attend_tile *tile)
{
    struct state state;

    for (int row = 0; row < tile->rows; row++) {
        state.largest[row] = -INFINITY;
        state.sum[row] = spread(0);
    }
    memset(tile->o, 0, (size_t)tile->rows * HEAD_DIM * sizeof(float));
    /* Keys, then values, for all rows: half a panel at a time stays in the first-level cache. */
    for (int64_t i = 0; i < tile->panel_count; i++) {
        const struct attend_panel *panel = &tile->panels[i];
        int row = 0;
        for (; row + TILE_ROWS <= tile->rows; row += TILE_ROWS) {
            weigh(TILE_ROWS, tile, panel, row, &state);
        }
        for (; row < tile->rows; row++) {
            weigh(1, tile, panel, row, &state);
        }
        row = 0;
        for (; row + TILE_ROWS <= tile->rows; row += TILE_ROWS) {
            gather(TILE_ROWS, tile, panel, row);
        }
        for (; row < tile->rows; row++) {
            gather(1, tile, panel, row);
        }
    }
    finish(tile, &state);
}
