/* The entries of ops_cpu that work element by element or row by row; contracts in ops.h. */
#ifndef PIPELINE_TENSOR_ELEMENTWISE_CPU_H
#define PIPELINE_TENSOR_ELEMENTWISE_CPU_H

#include "ops.h"

void elementwise_layer_norm(struct device *device, const float *x, float *y, int64_t rows,
                            int64_t features, float eps, const float *weight, const float *bias,
                            const float *scale, const float *shift);
void elementwise_rms_norm(struct device *device, const float *x, int64_t x_stride, float *y,
                          int64_t y_stride, int64_t rows, int64_t features, float eps,
                          const float *weight);
void elementwise_rope(struct device *device, float *x, int64_t x_stride, int64_t rows,
                      int32_t heads, int32_t head_dim, const float *cosine, const float *sine);
void elementwise_activate(struct device *device, float *x, int64_t count,
                          enum activation activation);
void elementwise_multiply(struct device *device, float *x, const float *y, int64_t count);
void elementwise_add(struct device *device, float *x, const float *y, int64_t count);
void elementwise_add_gated(struct device *device, float *x, const float *y, const float *gate,
                           int64_t rows, int64_t features);
void elementwise_combine(struct device *device, float *out, float a, const float *x, float b,
                         const float *y, int64_t count);
void elementwise_gather_rows(struct device *device, const float *x, const int64_t *index, float *y,
                             int64_t rows, int64_t features);
void elementwise_scatter_rows(struct device *device, const float *x, const int64_t *index, float *y,
                              int64_t rows, int64_t features);
int64_t elementwise_first_not_finite(struct device *device, const float *x, int64_t count);

#endif
