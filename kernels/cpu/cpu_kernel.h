/* What a row of the kernel list means to the CPU backends: the micro-kernels of one instruction
 * set. */
#ifndef DRAFTATTN_KERNELS_CPU_CPU_KERNEL_H
#define DRAFTATTN_KERNELS_CPU_CPU_KERNEL_H

#include "attend.h"
#include "backend.h"
#include "pool_simd.h"
#include "repair_simd.h"

struct cpu_kernel {
    attend_fn attend; /* NULL for the reference, which has no micro-kernel */
    const struct repair_kernels *repair;
    pool_sum_fn pool; /* NULL for the reference, which pools in double precision */
};

static inline const struct cpu_kernel *cpu_kernel_of(const struct problem *problem)
{
    return problem->kernel->implementation;
}

#endif
