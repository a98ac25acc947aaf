/*
 * The CTA that ends a launch: what needs the work of all others and is little goes into it, and
 * saves a launch of its own.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_LAST_CTA_CUH
#define DRAFTATTN_KERNELS_CUDA_LAST_CTA_CUH

#include <stdint.h>

/* Whether this CTA is the last of all that count on done, which begins as 0. What the others wrote
 * is there then, but not in the L1 cache. By all threads. */
static inline __device__ bool is_last_cta(uint32_t *done, uint32_t all)
{
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence(); /* also of what the others wrote in front of the barrier */
        last = atomicAdd(done, 1u) == all - 1;
        __threadfence();
    }
    __syncthreads();
    return last;
}

#endif
