/* Convolutions of the Wan VAE on the GPU; contracts of the operations in ops.h. */
#ifndef PIPELINE_TENSOR_CONV_CUDA_H
#define PIPELINE_TENSOR_CONV_CUDA_H

#include "device_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The most workspace that a convolution uses, next to a copy of its output. */
#define CONV_CUDA_WORKSPACE ((int64_t)256 << 20)

/* device->dnn lives from the first convolution that is made to the last that is destroyed. */
bool conv_cuda_create(struct device *device, struct conv **out, const struct conv_desc *desc,
                      const float *weight, const float *bias, struct error *error);
void conv_cuda_destroy(struct device *device, struct conv *conv);
bool conv_cuda(struct device *device, const struct conv *conv, const float *x, int64_t frames,
               int64_t height, int64_t width, const float *add, float *y, struct error *error);

/* How the convolution of these sizes is done, once it has been: "cuDNN, engine 12, 3.0 MB of
 * workspace". */
void conv_cuda_describe(const struct device *device, const struct conv *conv, int64_t frames,
                        int64_t height, int64_t width, char *text, size_t size);

#ifdef __cplusplus
}
#endif

#endif
