/* What conv_cuda.c does without cuDNN, enqueued on the device's stream. */
#ifndef PIPELINE_TENSOR_CONV_PARTS_CUDA_H
#define PIPELINE_TENSOR_CONV_PARTS_CUDA_H

#include "device_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

struct conv_size {
    int64_t frames, height, width;
};

/* x [frames][height][width][in] -> y [out.frames][out.height][out.width][desc.out] */
struct conv_work {
    struct conv_desc desc;
    int32_t in_padded; /* weight [desc.out][kt][kh][kw][in_padded] */
    struct conv_size in, out;
    const float *x, *weight, *bias; /* bias [desc.out] */
    const float *add;               /* NULL, or the shape of y; may be y */
    float *y;
};

/* to [frames][top + height + bottom][left + width + right][padded] = x, zeros around it. */
void conv_cuda_pad(struct device *device, const struct conv_work *work, float *to);
/* y = sums [positions][padded] + bias + add; sums may be y where padded is desc.out. */
void conv_cuda_finish(struct device *device, const struct conv_work *work, const float *sums,
                      int32_t padded);
/* The whole convolution in float32, for any desc and size: what cuDNN refuses. */
void conv_cuda_plain(struct device *device, const struct conv_work *work);

#ifdef __cplusplus
}
#endif

#endif
