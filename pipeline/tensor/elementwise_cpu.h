/* The entries of ops_cpu that work element by element or row by row; contracts in ops.h. */
#ifndef PIPELINE_TENSOR_ELEMENTWISE_CPU_H
#define PIPELINE_TENSOR_ELEMENTWISE_CPU_H

#include "ops.h"

void elementwise_residual(struct device *device, const struct ops_residual *residual);
void elementwise_norm_rope(struct device *device, const struct ops_norm_rope *norm);
void elementwise_layer_norm(struct device *device, const float *x, float *y, int64_t rows,
                            int64_t features, float eps, const float *weight, const float *bias);
void elementwise_rms_norm(struct device *device, const float *x, float *y, int64_t rows,
                          int64_t features, float eps, const float *weight);
void elementwise_activate(struct device *device, float *x, int64_t count,
                          enum activation activation);
void elementwise_multiply(struct device *device, float *x, const float *y, int64_t count);
void elementwise_add(struct device *device, float *x, const float *y, int64_t count);
void elementwise_combine(struct device *device, float *out, float a, const float *x, float b,
                         const float *y, int64_t count);
void elementwise_scatter_rows(struct device *device, const float *x, const int64_t *index, float *y,
                              int64_t rows, int64_t features);
int64_t elementwise_first_not_finite(struct device *device, const float *x, int64_t count);

#endif
