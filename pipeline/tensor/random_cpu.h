/* Random weights, for models that are measured and not looked at. */
#ifndef PIPELINE_TENSOR_RANDOM_CPU_H
#define PIPELINE_TENSOR_RANDOM_CPU_H

#include "ops.h"

/* count numbers, uniform with mean 0 and variance 1 / fan_in, the same for the same seed. */
void random_weights_cpu(struct device *device, float *x, int64_t count, int64_t fan_in,
                        uint64_t seed);

#endif
