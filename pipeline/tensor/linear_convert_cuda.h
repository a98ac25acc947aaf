/* The small kernels around cuBLASLt's products. */
#ifndef PIPELINE_TENSOR_LINEAR_CONVERT_CUDA_H
#define PIPELINE_TENSOR_LINEAR_CONVERT_CUDA_H

#include "device_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* to[i] = activation(from[i]); to may be from where the types are the same. */
void linear_convert_cuda(struct device *device, const void *from, enum element from_type, void *to,
                         enum element to_type, int64_t count, enum activation activation);

/* *sum (device memory) = a number that differs where any bit of the data does, as good as always.
 * data is aligned to 16 bytes, and bytes a multiple of 16. */
void linear_convert_cuda_sum(struct device *device, const void *data, size_t bytes, uint64_t *sum);

#ifdef __cplusplus
}
#endif

#endif
