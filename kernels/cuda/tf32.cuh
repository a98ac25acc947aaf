/*
 * Float32 on tensor cores, for the draft map and for repair: a float in two parts of TF32, big and
 * small, three products of which keep what float32 would.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_TF32_CUH
#define DRAFTATTN_KERNELS_CUDA_TF32_CUH

#include <stdint.h>

/* value = big + small to its last bit or the one before: big is the nearest of 11 bits, of small
 * the tensor cores drop what is beyond its first 11. What is not a number stays none in small. */
static __device__ inline void split_float(float value, uint32_t *big, uint32_t *small)
{
    *big = (__float_as_uint(value) + 0x1000u) & 0xffffe000u;
    *small = __float_as_uint(value - __uint_as_float(*big));
}

#endif
