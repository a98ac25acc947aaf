/* Owns the table of kernels: variants.def, once to declare them and once to list them. */
#include "cpu/cpu_kernel.h"

#define DECLARE_SIMD(name, isa)                                                                    \
    void name(const struct attend_tile *tile);                                                     \
    static const struct cpu_kernel name##_kernel = {name, &repair_##isa, pool_##isa};

#define DECLARE_AVX512(name)   DECLARE_SIMD(name, avx512)
#define DECLARE_AVX2(name)     DECLARE_SIMD(name, avx2)
#define DECLARE_PORTABLE(name) DECLARE_SIMD(name, portable)
#define DECLARE_REFERENCE(name)                                                                    \
    static const struct cpu_kernel name##_kernel = {NULL, &repair_portable, NULL};

struct cuda_kernel;
#define DECLARE_CUDA(name) extern const struct cuda_kernel name##_kernel;

#define KERNEL(backend, name, head_dim) DECLARE_##backend(name)
#include "variants.def"

#define KERNEL(backend, name, head_dim)                                                            \
    {#name, DRAFTATTN_BACKEND_##backend, head_dim, &name##_kernel},
static const struct kernel_row rows[] = {
#include "variants.def"
};

const struct kernel_row *kernels_all(int32_t *count)
{
    *count = (int32_t)(sizeof(rows) / sizeof(rows[0]));
    return rows;
}
