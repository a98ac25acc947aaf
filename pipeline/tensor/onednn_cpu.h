/*
 * The members of ops_cpu that oneDNN computes: fully connected layers and convolutions. Signatures
 * and contracts are those of struct ops.
 */
#ifndef PIPELINE_TENSOR_ONEDNN_CPU_H
#define PIPELINE_TENSOR_ONEDNN_CPU_H

#include "ops.h"

/* Fill and clear device->onednn. The number of OpenMP threads must be set before. */
bool onednn_open(struct device *device, struct error *error);
void onednn_close(struct device *device);

bool onednn_linear_create(struct device *device, struct linear **out,
                          const struct linear_desc *desc, struct error *error);
void onednn_linear_destroy(struct device *device, struct linear *linear);
bool onednn_linear(struct device *device, const struct linear *linear, const void *x,
                   enum element x_type, void *y, enum element y_type, int64_t rows,
                   enum activation activation, struct error *error);

/* add of onednn_conv() may be y itself, which saves a copy. */
bool onednn_conv_create(struct device *device, struct conv **out, const struct conv_desc *desc,
                        const float *weight, const float *bias, struct error *error);
void onednn_conv_destroy(struct device *device, struct conv *conv);
bool onednn_conv(struct device *device, const struct conv *conv, const float *x, int64_t frames,
                 int64_t height, int64_t width, const float *add, float *y, struct error *error);

#endif
