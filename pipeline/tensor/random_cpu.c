/*
 * Random weights by counting: number i of a seed is a hash of both (the output function of
 * splitmix64), so that threads share the work without a state and without a say in the result. The
 * upper 24 bits of a hash are a float exactly.
 */
#include "random_cpu.h"

#include "device_cpu.h"

#include <math.h>

static uint64_t hash(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

void random_weights_cpu(struct device *device, float *x, int64_t count, int64_t fan_in,
                        uint64_t seed)
{
    const float limit = sqrtf(3.0f / (float)fan_in); /* uniform in [-a, a]: variance a^2 / 3 */
    const uint64_t start = hash(seed + 0x9e3779b97f4a7c15u);
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t i = 0; i < count; i++) {
        uint64_t bits = hash(start + (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u) >> 40;
        x[i] = limit * (((float)bits + 0.5f) * 0x1p-23f - 1.0f);
    }
}
