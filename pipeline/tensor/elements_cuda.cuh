/*
 * What kernels of the networks share: float32 and bfloat16 in the memory of a GPU, one and several
 * at a time, the grid of those that loop over elements, and a hash.
 */
#ifndef PIPELINE_TENSOR_ELEMENTS_CUDA_CUH
#define PIPELINE_TENSOR_ELEMENTS_CUDA_CUH

#include "device_cuda.h"

#include <cuda_bf16.h>

#include <stddef.h>
#include <stdint.h>

#define DEVICE static __device__ __forceinline__

DEVICE float to_float(float x)
{
    return x;
}

DEVICE float to_float(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

DEVICE void store(float *to, float x)
{
    *to = x;
}

DEVICE void store(__nv_bfloat16 *to, float x)
{
    *to = __float2bfloat16_rn(x);
}

/* What becomes of a value that is stored as a T. */
template <typename T> DEVICE float rounded(float x)
{
    T stored;
    store(&stored, x);
    return to_float(stored);
}

/* The word that COUNT aligned elements are in memory, and the elements of a word. Between loading
 * words and opening them lies the time that memory takes. */
template <typename T, int COUNT> struct word_of;

template <> struct word_of<float, 4> {
    typedef float4 type;
};

template <> struct word_of<__nv_bfloat16, 4> {
    typedef uint2 type;
};

template <> struct word_of<__nv_bfloat16, 8> {
    typedef uint4 type;
};

DEVICE void open_word(float4 word, float (&to)[4])
{
    to[0] = word.x, to[1] = word.y, to[2] = word.z, to[3] = word.w;
}

DEVICE void open_pair(uint32_t pair, float &low, float &high)
{
    low = __uint_as_float(pair << 16);
    high = __uint_as_float(pair & 0xffff0000u);
}

DEVICE void open_word(uint2 word, float (&to)[4])
{
    open_pair(word.x, to[0], to[1]);
    open_pair(word.y, to[2], to[3]);
}

DEVICE void open_word(uint4 word, float (&to)[8])
{
    open_pair(word.x, to[0], to[1]);
    open_pair(word.y, to[2], to[3]);
    open_pair(word.z, to[4], to[5]);
    open_pair(word.w, to[6], to[7]);
}

/* Rounded to bfloat16, low in the lower half. */
DEVICE uint32_t pack_pair(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

DEVICE void store(float *to, const float (&x)[4])
{
    *(float4 *)to = make_float4(x[0], x[1], x[2], x[3]);
}

DEVICE void store(__nv_bfloat16 *to, const float (&x)[4])
{
    *(uint2 *)to = make_uint2(pack_pair(x[0], x[1]), pack_pair(x[2], x[3]));
}

DEVICE void store(__nv_bfloat16 *to, const float (&x)[8])
{
    *(uint4 *)to = make_uint4(pack_pair(x[0], x[1]), pack_pair(x[2], x[3]), pack_pair(x[4], x[5]),
                              pack_pair(x[6], x[7]));
}

/* NULL is as aligned as may be. */
static inline bool aligned(const void *memory, size_t bytes)
{
    return (uintptr_t)memory % bytes == 0;
}

/* CTAs of so many threads that share the work of count of them: as many as keep the device busy. */
static inline unsigned shared_grid(const struct device *device, int64_t count, int threads)
{
    const int64_t enough = (int64_t)device->multiprocessors * 16;
    const int64_t all = (count + threads - 1) / threads;
    return (unsigned)(all < enough ? all : enough);
}

/* The last steps of splitmix64: any bit of z moves all bits of the result. */
DEVICE uint64_t mixed(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

#endif
