/*
 * The attention micro-kernel for CPUs: one tile of query rows against a list of key panels
 * (attend.h). Compiled once per CPU row of variants.def, with HEAD_DIM, VECTOR_FLOATS (lanes of a
 * register) and ATTEND_NAME from the build; GCC vector extensions, so one text serves every width.
 *
 * Query rows are the lanes: they are transposed once, keys and values are read row by row where
 * they lie. Per panel: logits[key][query] = k q^T; weights = 2^(logits - running maximum), down the
 * columns; o = o * shrink + weights^T v. Both products are register tiles of TILE_ROWS x
 * TILE_VECTORS accumulators: each step loads TILE_VECTORS vectors and broadcasts TILE_ROWS scalars.
 * A row's bits depend on that row and the panels alone, not on the rows it shares a tile with.
 *
 * It refuses nothing: shapes are compiled in, and the tile is trusted.
 *
 * Ladder, best GFLOP/s of one 128-row tile against 36 panels, head_dim 128, AMD EPYC (Zen 5), 1
 * thread. A bare loop of multiply-adds reaches 252 with 512-bit, 127 with 256-bit registers here.
 *   1  6 x 4 accumulators (AVX-512), 6 x 2 (others)          215   avx2 114   portable 40
 *   2  4 x 4 and 3 x 4, which waste fewer of 128 rows        216   avx2 115   portable 41
 *   3  sums of a panel start at zero: errors no longer grow  215   avx2 112   portable 38
 *      with the list (2560 equal keys: 2.5e-5 -> 1e-6)
 * From here on machine shared, beside version 3 in the same process, as a share of its time:
 *   4  query rows as lanes; keys and values read in place    1.00  avx2 1.28  portable 1.11
 *      instead of from packed copies; no horizontal maximum
 *   5  the maximum in four chains; soften 10 % -> 5 %        0.98
 *   6  the products out of line; one of their sides in        0.93  avx2 0.90  portable 1.08
 *      registers, so that nothing spills
 *   7  the next panel's rows asked for ahead                 0.91  avx2 0.90  portable 1.08
 *   8  queries turned by squares of LANES; outputs scaled on their way out: 1.1 ms less of 41 for a
 *      call of 12 x 4096 x 128 at 90 % sparsity, 2 threads, machine quiet
 *   9  large outputs past the caches: 1 ms less of the same
 *  10  the next tile's queries asked for during the last panel: 0.7 ms less; means before exact
 *      blocks and whole panels asked for during short ones: another 0.2 ms
 *   failed: 12 x 2 (AVX-512) 186; 2 x 4 and 4 x 1 (AVX2) 91 and 68; with version 7, 6 x 4 for
 *   either product: no gain; panels of 128 keys: 5 % slower; asking ahead for rows of o: no gain;
 *   rows of stride 4608 in place: 15 to 25 % slower, with copied values still 10 %
 */
#include "attend.h"
#include "turn_simd.h"

#include <math.h>
#include <string.h>
#if VECTOR_FLOATS >= 8
#include <immintrin.h>
#endif

typedef float vector __attribute__((vector_size(VECTOR_FLOATS * sizeof(float))));
typedef int32_t vector_int __attribute__((vector_size(VECTOR_FLOATS * sizeof(float))));
typedef uint32_t vector_bits __attribute__((vector_size(VECTOR_FLOATS * sizeof(float))));

#define ALWAYS_INLINE static inline __attribute__((always_inline))
/* All in one function, the compiler runs out of registers and spills inside the products. */
#define OUT_OF_LINE static __attribute__((noinline))

enum {
    PANEL = ATTEND_PANEL_KEYS,
    LANES = VECTOR_FLOATS,
    GROUPS = ATTEND_MAX_ROWS / LANES, /* of query rows that share a register */
    /* Accumulators of a product: 16 of 32 registers (AVX-512), 12 of 16 elsewhere. */
    TILE_ROWS = LANES == 16 ? 4 : 3,
    TILE_VECTORS = 4,
    TILE_COLUMNS = TILE_VECTORS * LANES,
    CACHE_LINE_BYTES = 64,
    CACHE_LINE_FLOATS = 16
};

struct state {
    const struct attend_tile *tile;
    int groups;
    float *q;                         /* [GROUPS / TILE_VECTORS][HEAD_DIM][TILE_COLUMNS], scaled */
    float *weights;                   /* [GROUPS][PANEL][LANES] */
    float *o;                         /* [rows][HEAD_DIM] */
    const float *k[PANEL], *v[PANEL]; /* rows of the panel at hand */
    const struct attend_panel *next;  /* the one after it, or itself */
    int ahead; /* rows of next to ask for with every TILE_ROWS keys of the panel at hand */
    /* By query row: of the logits so far, of the weights, what the last panel makes of both. */
    vector largest[GROUPS], sum[GROUPS], shrink[GROUPS];
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

/* Past the caches, to where a register is aligned; stream_end() orders it before what follows. */
#if VECTOR_FLOATS == 16
#define STREAM(to, value) _mm512_stream_ps(to, (__m512)(value))
#define stream_end()      _mm_sfence()
#elif VECTOR_FLOATS == 8
#define STREAM(to, value) _mm256_stream_ps(to, (__m256)(value))
#define stream_end()      _mm_sfence()
#else
#define STREAM(to, value) store(to, value)
#define stream_end()      (void)0
#endif

ALWAYS_INLINE vector spread(float value)
{
    return value - (vector){0};
}

/* a where it is larger; a NaN in a is passed over. */
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

/* --- queries ------------------------------------------------------------------------------- */

/* A square of LANES rows and as many columns from d on: columns become vectors, scaled. */
ALWAYS_INLINE void turn(const float *const *row, int d, float scale, float *to)
{
    vector rows[LANES];

    for (int i = 0; i < LANES; i++) {
        rows[i] = load(row[i] + d);
    }
    turn_square(rows);
    for (int i = 0; i < LANES; i++) {
        store(to + (d + i) * TILE_COLUMNS, rows[i] * scale);
    }
}

/* Rows to lanes, scaled. Lanes without a row hold zeros. */
OUT_OF_LINE void load_queries(const struct state *state)
{
    const struct attend_tile *tile = state->tile;
    struct rows rows = *tile->q;
    float copy[LANES][HEAD_DIM];
    const float *row[LANES];

    rows.count = HEAD_DIM;
    for (int first = 0; first < state->groups * LANES; first += LANES) {
        float *to =
            state->q + first / TILE_COLUMNS * TILE_COLUMNS * HEAD_DIM + first % TILE_COLUMNS;
        for (int r = 0; r < LANES; r++) {
            row[r] = copy[r];
            if (first + r < tile->rows) {
                row[r] = rows_read(&rows, tile->q_begin + first + r, copy[r]);
            } else {
                memset(copy[r], 0, sizeof(copy[r]));
            }
        }
        for (int d = 0; d < HEAD_DIM; d += LANES) {
            turn(row, d, tile->scale, to);
        }
    }
}

/* --- logits -------------------------------------------------------------------------------- */

/* logits[key][.] of keys rows from key on for vectors groups from group on. Both are constants once
 * inlined, so the accumulators become registers. */
ALWAYS_INLINE void logits_tile(int keys, int vectors, const struct state *state, int key, int group,
                               const float *bias)
{
    const float *q =
        state->q + group / TILE_VECTORS * HEAD_DIM * TILE_COLUMNS + group % TILE_VECTORS * LANES;
    vector sum[TILE_ROWS][TILE_VECTORS];

    for (int r = 0; r < keys; r++) {
        for (int c = 0; c < vectors; c++) {
            sum[r][c] = spread(0);
        }
    }
    for (int d = 0; d < HEAD_DIM; d++) {
        vector column[TILE_VECTORS];
        for (int c = 0; c < vectors; c++) {
            column[c] = load(q + d * TILE_COLUMNS + c * LANES);
        }
        for (int r = 0; r < keys; r++) {
            vector scalar = spread(state->k[key + r][d]);
            for (int c = 0; c < vectors; c++) {
                sum[r][c] += scalar * column[c];
            }
        }
    }
    for (int r = 0; r < keys; r++) {
        for (int c = 0; c < vectors; c++) {
            float *to = state->weights + ((group + c) * PANEL + key + r) * LANES;
            store(to, sum[r][c] + (bias ? bias[key + r] : 0.0f));
        }
    }
}

/* Asks for rows of the next panel while the multipliers are busy with this one: keys during the
 * first groups, values during the next ones. Rows in raster order are too short for the hardware to
 * see them coming. */
ALWAYS_INLINE void fetch_ahead(const struct state *state, int key, int group)
{
    const struct attend_panel *next = state->next;
    const float *rows = group == 0 ? next->k : next->v;
    int first = key / TILE_ROWS * state->ahead;

    if (group > TILE_VECTORS) {
        return;
    }
    for (int r = first; r < first + state->ahead && r < next->keys; r++) {
        const float *row = rows + (next->place ? next->place[r] : r) * HEAD_DIM;
        for (int d = 0; d < HEAD_DIM; d += CACHE_LINE_FLOATS) {
            __builtin_prefetch(row + d);
        }
    }
}

ALWAYS_INLINE void logits_groups(int vectors, const struct state *state, int group, int keys,
                                 const float *bias)
{
    int key = 0;

    for (; key + TILE_ROWS <= keys; key += TILE_ROWS) {
        fetch_ahead(state, key, group);
        logits_tile(TILE_ROWS, vectors, state, key, group, bias);
    }
    for (; key < keys; key++) {
        logits_tile(1, vectors, state, key, group, bias);
    }
}

OUT_OF_LINE void make_logits(const struct state *state, const struct attend_panel *panel)
{
    int group = 0;

    for (; group + TILE_VECTORS <= state->groups; group += TILE_VECTORS) {
        logits_groups(TILE_VECTORS, state, group, panel->keys, panel->bias);
    }
    for (; group < state->groups; group++) {
        logits_groups(1, state, group, panel->keys, panel->bias);
    }
}

/* --- weights ------------------------------------------------------------------------------- */

/* The larger of start and a column of logits. Comparing takes several cycles: four at a time. */
ALWAYS_INLINE vector largest_of(const float *logits, int keys, vector start)
{
    vector part[4] = {start, start, start, start};
    int key = 0;

    for (; key + 4 <= keys; key += 4) {
        for (int i = 0; i < 4; i++) {
            part[i] = larger(load(logits + (key + i) * LANES), part[i]);
        }
    }
    for (; key < keys; key++) {
        part[0] = larger(load(logits + key * LANES), part[0]);
    }
    return larger(larger(part[0], part[1]), larger(part[2], part[3]));
}

/* Logits to weights in place, for one group of rows. */
OUT_OF_LINE void soften(struct state *state, int group, int keys)
{
    float *weights = state->weights + group * PANEL * LANES;
    vector before = state->largest[group];
    vector after = largest_of(weights, keys, before);
    /* While a row has seen only -infinity, any finite base keeps its weights at 0 and off NaN. */
    vector_int seen = after > spread(-INFINITY);
    vector base = (vector)((vector_int)after & seen);
    vector sum = spread(0);

    for (int key = 0; key < keys; key++) {
        vector weight = exp2_of(load(weights + key * LANES) - base);
        store(weights + key * LANES, weight);
        sum += weight;
    }
    state->shrink[group] = exp2_of(before - base);
    state->sum[group] = state->sum[group] * state->shrink[group] + sum;
    state->largest[group] = after;
}

/* --- values -------------------------------------------------------------------------------- */

/* o[row][column ..] = o * shrink + weights^T v for rows rows and TILE_COLUMNS columns. Sums of a
 * panel start at zero: rounding errors grow with a panel's length, not with the list's. */
ALWAYS_INLINE void values_tile(int rows, const struct state *state, int keys, int row, int column)
{
    vector sum[TILE_ROWS][TILE_VECTORS];
    const float *weight[TILE_ROWS];

    for (int r = 0; r < rows; r++) {
        weight[r] = state->weights + (row + r) / LANES * PANEL * LANES + (row + r) % LANES;
        for (int c = 0; c < TILE_VECTORS; c++) {
            sum[r][c] = spread(0);
        }
    }
    for (int key = 0; key < keys; key++) {
        vector scalar[TILE_ROWS];
        for (int r = 0; r < rows; r++) {
            scalar[r] = spread(weight[r][key * LANES]);
        }
        for (int c = 0; c < TILE_VECTORS; c++) {
            vector v = load(state->v[key] + column + c * LANES);
            for (int r = 0; r < rows; r++) {
                sum[r][c] += scalar[r] * v;
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        vector shrink = spread(state->shrink[(row + r) / LANES][(row + r) % LANES]);
        for (int c = 0; c < TILE_VECTORS; c++) {
            float *o = state->o + (row + r) * HEAD_DIM + column + c * LANES;
            store(o, load(o) * shrink + sum[r][c]);
        }
    }
}

/* Asks for rows of the next tile's queries: a tile's first need, and far apart in raster order. */
ALWAYS_INLINE void fetch_queries(const struct state *state, int first)
{
    const struct attend_tile *tile = state->tile;
    int row_bytes = HEAD_DIM * (int)dtype_size(tile->q_ahead->dtype);

    for (int r = first; r < first + TILE_ROWS && r < tile->ahead_rows; r++) {
        const char *row = row_at(tile->q_ahead, tile->ahead_begin + r);
        for (int at = 0; at < row_bytes; at += CACHE_LINE_BYTES) {
            __builtin_prefetch(row + at);
        }
    }
}

OUT_OF_LINE void add_values(const struct state *state, int keys, bool is_last)
{
    for (int column = 0; column < HEAD_DIM; column += TILE_COLUMNS) {
        bool fetch = is_last && column == 0 && state->tile->q_ahead;
        int row = 0;
        for (; row + TILE_ROWS <= state->tile->rows; row += TILE_ROWS) {
            if (fetch) {
                fetch_queries(state, row);
            }
            values_tile(TILE_ROWS, state, keys, row, column);
        }
        for (; row < state->tile->rows; row++) {
            values_tile(1, state, keys, row, column);
        }
    }
}

/* --- the tile ------------------------------------------------------------------------------ */

/* Rows of the panel at hand, and how many of the one after it to ask for at a time. */
static void find_rows(struct state *state, const struct attend_panel *panel)
{
    int steps = panel == state->next ? 0 : panel->keys / TILE_ROWS;

    state->ahead = steps ? (state->next->keys + steps - 1) / steps : 0;
    for (int key = 0; key < panel->keys; key++) {
        int64_t place = panel->place ? panel->place[key] : key;
        state->k[key] = panel->k + place * HEAD_DIM;
        state->v[key] = panel->v + place * HEAD_DIM;
    }
}

OUT_OF_LINE void finish(const struct state *state)
{
    const struct attend_tile *tile = state->tile;
    const double ln_2 = 0.693147180559945309;
    struct rows rows = *tile->o;

    rows.count = HEAD_DIM;
    for (int row = 0; row < tile->rows; row++) {
        float *o = state->o + row * HEAD_DIM;
        float *to = rows_are_floats(&rows) ? row_at(&rows, tile->o_begin + row) : o;
        float sum = state->sum[row / LANES][row % LANES];
        float largest = state->largest[row / LANES][row % LANES];
        vector share = spread(sum > 0 ? 1.0f / sum : 0.0f);
        bool past = tile->stream && to != o && (uintptr_t)to % sizeof(vector) == 0;
        for (int c = 0; c < HEAD_DIM; c += LANES) {
            if (past) {
                STREAM(to + c, load(o + c) * share);
            } else {
                store(to + c, load(o + c) * share);
            }
        }
        if (to == o) {
            rows_store(&rows, tile->o_begin + row, o);
        }
        if (tile->lse) {
            tile->lse[row] = sum == 0 ? -INFINITY : (float)(largest * ln_2 + log(sum));
        }
    }
    stream_end();
}

void ATTEND_NAME(const struct attend_tile *tile);

void ATTEND_NAME(const struct attend_tile *tile)
{
    struct state state = {.tile = tile, .groups = (tile->rows + LANES - 1) / LANES};

    state.q = tile->scratch;
    state.weights = state.q + ATTEND_MAX_ROWS * HEAD_DIM;
    state.o = state.weights + ATTEND_MAX_ROWS * PANEL;
    for (int group = 0; group < state.groups; group++) {
        state.largest[group] = spread(-INFINITY);
        state.sum[group] = spread(0);
    }
    memset(state.o, 0, (size_t)tile->rows * HEAD_DIM * sizeof(float));
    load_queries(&state);
    for (int64_t i = 0; i < tile->panel_count; i++) {
        bool is_last = i + 1 == tile->panel_count;
        state.next = &tile->panels[is_last ? i : i + 1];
        find_rows(&state, &tile->panels[i]);
        make_logits(&state, &tile->panels[i]);
        for (int group = 0; group < state.groups; group++) {
            soften(&state, group, tile->panels[i].keys);
        }
        add_values(&state, tile->panels[i].keys, is_last);
    }
    finish(&state);
}
