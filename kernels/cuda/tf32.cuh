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

/* sum[16][8] += a[16][8] b[8][8], as mma.sync has them in fragments. */
static __device__ inline void multiply_tf32(float (&sum)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2])
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif
