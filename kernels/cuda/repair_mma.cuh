/*
 * Products of float32 by tensor cores, as tf32.cuh has it, for the files of repair that multiply
 * matrices. Tensor cores add up by truncation, which long sums show: every 8 products go into sums
 * of their own, which are then added as floats, rounded.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_REPAIR_MMA_CUH
#define DRAFTATTN_KERNELS_CUDA_REPAIR_MMA_CUH

#include "tf32.cuh"

/* 16 x 8 of a left factor in the fragment of mma.m16n8k8, or 8 x 8 of a right one. */
struct left_parts {
    uint32_t big[4], small[4];
};

struct right_parts {
    uint32_t big[2], small[2];
};

static __device__ inline struct left_parts split_left(const float (&from)[4])
{
    struct left_parts parts;
#pragma unroll
    for (int32_t i = 0; i < 4; i++)
        split_float(from[i], &parts.big[i], &parts.small[i]);
    return parts;
}

static __device__ inline struct right_parts split_right(float low, float high)
{
    struct right_parts parts;
    split_float(low, &parts.big[0], &parts.small[0]);
    split_float(high, &parts.big[1], &parts.small[1]);
    return parts;
}

/* sum += a b; SUBTRACT: sum -= a b. */
template <bool SUBTRACT = false>
static __device__ inline void multiply_parts(float (&sum)[4], const struct left_parts &a,
                                             const struct right_parts &b)
{
    float part[4] = {0, 0, 0, 0};
    multiply_tf32(part, a.small, b.big);
    multiply_tf32(part, a.big, b.small);
    multiply_tf32(part, a.big, b.big);
#pragma unroll
    for (int32_t i = 0; i < 4; i++)
        sum[i] = SUBTRACT ? sum[i] - part[i] : sum[i] + part[i];
}

#endif
