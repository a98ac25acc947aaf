/*
 * Owns random weights on a GPU. An element is a hash of the seed and its index, so that pieces and
 * threads need no state, and pieces of any size give the same weights.
 */
#include "random_cuda.h"

#include "elements_cuda.cuh"

#include <math.h>

enum { THREADS = 256, QUAD = 4 };

/* splitmix64 of a place in the sequence of seed. */
DEVICE uint64_t random_bits(uint64_t seed, uint64_t index)
{
    return mixed(seed * 0xd1342543de82ef95u + (index + 1) * 0x9e3779b97f4a7c15u);
}

/* 24 bits to the middle of one of as many steps of (-bound, bound): the mean is 0. */
DEVICE float uniform(uint32_t bits, float bound)
{
    return ((float)(bits >> 8) * 0x1p-23f + (0x1p-24f - 1)) * bound;
}

template <typename T> struct alignas(QUAD * sizeof(T)) quad {
    T values[QUAD];
};

template <typename T>
__global__ static void fill_kernel(T *to, int64_t first_quad, int64_t count, float bound,
                                   uint64_t seed)
{
    const int64_t quads = (count + QUAD - 1) / QUAD, step = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < quads; i += step) {
        const uint64_t place = 2 * (uint64_t)(first_quad + i);
        const uint64_t a = random_bits(seed, place), b = random_bits(seed, place + 1);
        quad<T> out;
        store(&out.values[0], uniform((uint32_t)a, bound));
        store(&out.values[1], uniform((uint32_t)(a >> 32), bound));
        store(&out.values[2], uniform((uint32_t)b, bound));
        store(&out.values[3], uniform((uint32_t)(b >> 32), bound));
        if ((i + 1) * QUAD <= count)
            ((quad<T> *)to)[i] = out;
        else
            for (int64_t j = i * QUAD; j < count; j++)
                to[j] = out.values[j - i * QUAD];
    }
}

extern "C" void random_cuda_fill(struct device *device, void *to, enum element type, int64_t first,
                                 int64_t count, int64_t inputs, uint64_t seed)
{
    if (count == 0)
        return;
    const unsigned blocks = shared_grid(device, (count + QUAD - 1) / QUAD, THREADS);
    const float bound = (float)sqrt(3.0 / (double)inputs);
    if (type == ELEMENT_BF16)
        fill_kernel<<<blocks, THREADS, 0, device->stream>>>((__nv_bfloat16 *)to, first / QUAD,
                                                            count, bound, seed);
    else
        fill_kernel<<<blocks, THREADS, 0, device->stream>>>((float *)to, first / QUAD, count, bound,
                                                            seed);
    device_cuda_launched(device, "random weights");
}

extern "C" cudaError_t random_cuda_probe(void)
{
    struct cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, fill_kernel<float>);
}
