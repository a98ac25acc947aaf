/*
 * The entries of ops_cuda that work element by element or row by row; contracts in ops.h. All but
 * first_not_finite are enqueued on the device's stream and may be recorded.
 */
#ifndef PIPELINE_TENSOR_ELEMENTWISE_CUDA_H
#define PIPELINE_TENSOR_ELEMENTWISE_CUDA_H

#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

void elementwise_cuda_residual(struct device *device, const struct ops_residual *residual);
/* BF16: what the norm makes is rounded before it is weighed, as the original has it, and once more
 * when it is stored. */
void elementwise_cuda_norm_rope(struct device *device, const struct ops_norm_rope *norm);
void elementwise_cuda_layer_norm(struct device *device, const float *x, float *y, int64_t rows,
                                 int64_t features, float eps, const float *weight,
                                 const float *bias);
void elementwise_cuda_rms_norm(struct device *device, const float *x, float *y, int64_t rows,
                               int64_t features, float eps, const float *weight);
void elementwise_cuda_cut_patches(struct device *device, const struct ops_patches *patches,
                                  const float *latents, void *rows, enum element type);
void elementwise_cuda_join_patches(struct device *device, const struct ops_patches *patches,
                                   const float *rows, float *latents);
void elementwise_cuda_activate(struct device *device, float *x, int64_t count,
                               enum activation activation);
void elementwise_cuda_multiply(struct device *device, float *x, const float *y, int64_t count);
void elementwise_cuda_add(struct device *device, float *x, const float *y, int64_t count);
void elementwise_cuda_combine(struct device *device, float *out, float a, const float *x, float b,
                              const float *y, int64_t count);
void elementwise_cuda_scatter_rows(struct device *device, const float *x, const int64_t *index,
                                   float *y, int64_t rows, int64_t features);
/* Waits. -1 on a failure, which the device keeps. */
int64_t elementwise_cuda_first_not_finite(struct device *device, const float *x, int64_t count);

#ifdef __cplusplus
}
#endif

#endif
