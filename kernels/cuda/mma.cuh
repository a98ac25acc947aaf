/*
 * Products of bfloat16 or float16 by tensor cores, from compute capability 8.0 on, for attention
 * and for the correction. tf32.cuh has those of float32, hopper.cuh those of warpgroups.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_MMA_CUH
#define DRAFTATTN_KERNELS_CUDA_MMA_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#include <type_traits>

/* sum[16][8] += a[16][16] b[16][8], as mma.sync has them in fragments: two Halves a word. */
template <typename Half>
static __device__ __forceinline__ void multiply_half(float *sum, const uint32_t (&a)[4],
                                                     uint32_t b_low, uint32_t b_high)
{
    if constexpr (std::is_same_v<Half, __half>)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
            "{%8, %9}, {%0, %1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

#endif
