/*
 * Owns the data that attention is timed on. Every number is a function of the seed and its place,
 * so that it does not matter who computes it. A video token is the sum of what its patch of the
 * frame shares, at two sizes, and of noise; queries and keys share the patches' part, which makes
 * near tokens attend to each other, and gives block means something to say.
 */
#include "bench.h"

#include <math.h>
#include <string.h>

/* Patches of frames x height x width tokens, and their parts' standard deviations. */
static const struct scale {
    int64_t frames, height, width;
    float deviation;
} scales[] = {{2, 4, 4, 0.6f}, {8, 12, 12, 0.6f}};

#define NOISE 0.6f

/* splitmix64's finaliser. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Of variance 1: the sum of four uniform numbers. */
static float normal(uint64_t key)
{
    uint64_t bits = mix(key * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u);
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)(bits >> (16 * i) & 0xffff);
    return (sum * (1.0f / 65536) - 2) * 1.7320508f;
}

static void add(float *row, int64_t count, uint64_t key, float deviation)
{
    for (int64_t i = 0; i < count; i++)
        row[i] += deviation * normal(key + (uint64_t)i);
}

/* stream tells tensors apart; q and k are of one field. */
static void fill_row(const draftattn_grid *grid, int64_t token, int64_t head_dim, uint64_t field,
                     uint64_t stream, float *row)
{
    int64_t frame = token / (grid->height * grid->width);
    int64_t y = token / grid->width % grid->height, x = token % grid->width;
    for (int64_t i = 0; i < head_dim; i++)
        row[i] = 0;
    add(row, head_dim, stream + (uint64_t)(token * head_dim), NOISE);
    for (size_t s = 0; frame < grid->frames && s < sizeof scales / sizeof *scales; s++) {
        const struct scale *scale = &scales[s];
        int64_t patch = (frame / scale->frames * grid->height + y / scale->height) * grid->width +
                        x / scale->width;
        add(row, head_dim, field + ((uint64_t)(s + 1) << 56) + (uint64_t)(patch * head_dim),
            scale->deviation);
    }
}

void bench_fill(const draftattn_grid *grid, int64_t first, int64_t heads, int64_t head_dim,
                uint64_t seed, float *q, float *k, float *v)
{
    int64_t tokens = grid->frames * grid->height * grid->width + grid->text_tokens;
#pragma omp parallel for
    for (int64_t row = 0; row < heads * tokens; row++) {
        uint64_t head = mix(seed) + ((uint64_t)(first + row / tokens) << 48);
        float *const out[3] = {q, k, v};
        static const uint64_t fields[3] = {1, 1, 2};
        for (uint64_t t = 0; t < 3; t++)
            fill_row(grid, row % tokens, head_dim, mix(head + fields[t]), mix(head + 16 + t),
                     out[t] + row * head_dim);
    }
}

void bench_round(const float *values, int64_t count, draftattn_dtype dtype, void *out)
{
    if (dtype == DRAFTATTN_F32) {
        memcpy(out, values, (size_t)count * sizeof *values);
        return;
    }
    uint16_t *rounded = out;
#pragma omp parallel for
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        rounded[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}
