/*
 * The sum of rows of floats where they lie: what block means are made of. Compiled once per
 * instruction set with POOL_NAME and VECTOR_FLOATS from the build; rows are added one after the
 * other, so every instruction set gives the same bits.
 *
 * This is bound by memory: few instructions a row let several rows be on their way at once, and
 * rows in raster order, too short for the hardware to see them coming, are asked for ahead.
 */
#include "pool_simd.h"

#include <string.h>

typedef float vector __attribute__((vector_size(VECTOR_FLOATS * sizeof(float))));

#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum {
    PIECES = 8, /* sums in registers: a row of 128 floats with AVX-512 */
    AHEAD = 16  /* rows that are asked for before they are needed */
};

/* pieces is a constant once inlined. */
ALWAYS_INLINE void sum_pieces(int pieces, const float *base, int64_t stride, const int64_t *place,
                              int64_t count, float *out)
{
    vector sum[PIECES];

    for (int i = 0; i < pieces; i++) {
        sum[i] = (vector){0};
    }
    for (int64_t r = 0; r < count; r++) {
        const float *row = base + (place ? place[r] : r) * stride;
        const float *next = row;
        if (r + AHEAD < count) {
            next = base + (place ? place[r + AHEAD] : r + AHEAD) * stride;
        }
        for (int i = 0; i < pieces; i++) {
            vector piece;
            __builtin_prefetch(next + i * VECTOR_FLOATS);
            memcpy(&piece, row + i * VECTOR_FLOATS, sizeof(piece));
            sum[i] += piece;
        }
    }
    memcpy(out, sum, (size_t)pieces * sizeof(vector));
}

void POOL_NAME(const float *base, int64_t stride, const int64_t *place, int64_t count,
               int32_t row_floats, float *out)
{
    int32_t i = 0;

    for (; i + PIECES * VECTOR_FLOATS <= row_floats; i += PIECES * VECTOR_FLOATS) {
        sum_pieces(PIECES, base + i, stride, place, count, out + i);
    }
    for (; i + 4 * VECTOR_FLOATS <= row_floats; i += 4 * VECTOR_FLOATS) {
        sum_pieces(4, base + i, stride, place, count, out + i);
    }
    for (; i < row_floats; i++) {
        out[i] = 0;
        for (int64_t r = 0; r < count; r++) {
            out[i] += base[(place ? place[r] : r) * stride + i];
        }
    }
}
