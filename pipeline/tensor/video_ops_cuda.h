/* The entries of ops_cuda for channels-last video; contracts in ops.h. */
#ifndef PIPELINE_TENSOR_VIDEO_OPS_CUDA_H
#define PIPELINE_TENSOR_VIDEO_OPS_CUDA_H

#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

void video_cuda_channel_norm(struct device *device, const float *x, float *y, int64_t positions,
                             int64_t channels, const float *gamma, bool silu);
void video_cuda_upsample2(struct device *device, const float *x, float *y, int64_t frames,
                          int64_t height, int64_t width, int64_t channels);

#ifdef __cplusplus
}
#endif

#endif
