/*
 * Owns what a product needs and cuBLASLt does not do: float32 to bfloat16 and back, activations
 * that are no epilogue, and a checksum by which two results are compared without a second copy.
 * None of it is in the way of a large layer, so each is a plain loop over the elements.
 */
#include "linear_convert_cuda.h"

#include "elements_cuda.cuh"

enum { THREADS = 256 };

DEVICE float activated(float x, enum activation activation)
{
    switch (activation) {
    case ACTIVATION_GELU_TANH:
        /* 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)) with u = sqrt(2 / pi) (x + 0.044715 x^3) */
        return x / (1 + expf(-2 * x * (0.79788456f + 0.035677408f * x * x)));
    case ACTIVATION_GELU_ERF:
        return 0.5f * x * (1 + erff(0.70710678f * x));
    case ACTIVATION_SILU:
        return x / (1 + expf(-x));
    default:
        return x;
    }
}

template <typename From, typename To>
__global__ static void convert_kernel(const From *from, To *to, int64_t count,
                                      enum activation activation)
{
    const int64_t step = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += step)
        store(to + i, activated(to_float(from[i]), activation));
}

template <typename From, typename To>
static void convert(struct device *device, const void *from, void *to, int64_t count,
                    enum activation activation)
{
    convert_kernel<<<shared_grid(device, count, THREADS), THREADS, 0, device->stream>>>(
        (const From *)from, (To *)to, count, activation);
}

extern "C" void linear_convert_cuda(struct device *device, const void *from, enum element from_type,
                                    void *to, enum element to_type, int64_t count,
                                    enum activation activation)
{
    if (count == 0)
        return;
    const bool from_half = from_type == ELEMENT_BF16, to_half = to_type == ELEMENT_BF16;
    if (from_half && to_half)
        convert<__nv_bfloat16, __nv_bfloat16>(device, from, to, count, activation);
    else if (from_half)
        convert<__nv_bfloat16, float>(device, from, to, count, activation);
    else if (to_half)
        convert<float, __nv_bfloat16>(device, from, to, count, activation);
    else
        convert<float, float>(device, from, to, count, activation);
    device_cuda_launched(device, "conversion around a linear layer");
}

/* Each 8 bytes are mixed with their place, so that the sum's order does not matter, but theirs
 * does. */
__global__ static void sum_kernel(const ulonglong2 *data, int64_t count, unsigned long long *sum)
{
    const int64_t step = (int64_t)gridDim.x * THREADS;
    unsigned long long mine = 0;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += step) {
        const ulonglong2 value = data[i];
        mine += mixed(value.x + (2 * i + 1) * 0x9e3779b97f4a7c15u);
        mine += mixed(value.y + (2 * i + 2) * 0x9e3779b97f4a7c15u);
    }
    for (int lanes = 16; lanes > 0; lanes /= 2)
        mine += __shfl_down_sync(0xffffffffu, mine, lanes);
    if (threadIdx.x % 32 == 0)
        atomicAdd(sum, mine);
}

extern "C" void linear_convert_cuda_sum(struct device *device, const void *data, size_t bytes,
                                        uint64_t *sum)
{
    const int64_t count = (int64_t)(bytes / sizeof(ulonglong2));
    device_cuda_check(device, cudaMemsetAsync(sum, 0, sizeof *sum, device->stream), "checksum");
    sum_kernel<<<shared_grid(device, count, THREADS), THREADS, 0, device->stream>>>(
        (const ulonglong2 *)data, count, (unsigned long long *)sum);
    device_cuda_launched(device, "checksum");
}
