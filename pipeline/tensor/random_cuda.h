/* Random weights, made where they are used. */
#ifndef PIPELINE_TENSOR_RANDOM_CUDA_H
#define PIPELINE_TENSOR_RANDOM_CUDA_H

#include "device_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* to[i] = element first + i of the sequence that seed stands for, 0 <= i < count: uniform, mean 0,
 * variance 1 / inputs. first is a multiple of 4, to is aligned to 16 bytes. */
void random_cuda_fill(struct device *device, void *to, enum element type, int64_t first,
                      int64_t count, int64_t inputs, uint64_t seed);

/* Whether this program holds code for the current device. */
cudaError_t random_cuda_probe(void);

#ifdef __cplusplus
}
#endif

#endif
