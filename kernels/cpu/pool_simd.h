/* The sum of rows, once per instruction set; which one is the backend's choice. */
#ifndef DRAFTATTN_KERNELS_CPU_POOL_SIMD_H
#define DRAFTATTN_KERNELS_CPU_POOL_SIMD_H

#include <stdint.h>

/* out[row_floats] = the sum of the rows base + place[i] * stride, 0 <= i < count, one after the
 * other; place NULL = rows 0 .. count - 1. stride in floats. */
typedef void (*pool_sum_fn)(const float *base, int64_t stride, const int64_t *place, int64_t count,
                            int32_t row_floats, float *out);

void pool_portable(const float *base, int64_t stride, const int64_t *place, int64_t count,
                   int32_t row_floats, float *out);
void pool_avx2(const float *base, int64_t stride, const int64_t *place, int64_t count,
               int32_t row_floats, float *out);
void pool_avx512(const float *base, int64_t stride, const int64_t *place, int64_t count,
                 int32_t row_floats, float *out);

#endif
