/* One convolution of float32 in cuDNN, y = conv(x), for conv_cuda.c. */
#ifndef PIPELINE_TENSOR_CUDNN_PLAN_CUDA_H
#define PIPELINE_TENSOR_CUDNN_PLAN_CUDA_H

#include <cudnn_graph.h>

#include <stdbool.h>
#include <stddef.h>

#define CUDNN_PLAN_ALIGNMENT 16 /* bytes, of x, weight and y */
#define CUDNN_PLAN_SPATIAL   3  /* the most dimensions of space and time */

/* Dimensions are batch (of the weight: output channels), channels, then space; channels last in
 * memory, packed. Padding is the same on both sides. */
struct cudnn_problem {
    int spatial;
    int64_t x[2 + CUDNN_PLAN_SPATIAL], weight[2 + CUDNN_PLAN_SPATIAL], y[2 + CUDNN_PLAN_SPATIAL];
    int64_t padding[CUDNN_PLAN_SPATIAL], stride[CUDNN_PLAN_SPATIAL];
    bool tensor_cores;      /* TF32 products are allowed */
    int64_t most_workspace; /* bytes */
};

/* plan NULL: none. */
struct cudnn_plan {
    struct cudnn_graph *graph; /* the problem as cuDNN has it */
    cudnnBackendDescriptor_t plan;
    int64_t engine, workspace;
};

/* The plan that cuDNN expects to be the fastest of those that keep to the problem's workspace and
 * to sums of products in float32 in an order that does not change: no transforms (Winograd, FFT),
 * no rounding on the way. Without a plan: CUDNN_STATUS_SUCCESS where it has none, else what is
 * wrong with cuDNN, the device or memory. */
cudnnStatus_t cudnn_plan_create(struct cudnn_plan *out, cudnnHandle_t handle,
                                const struct cudnn_problem *problem);
void cudnn_plan_destroy(struct cudnn_plan *plan); /* accepts none */

/* Enqueues it on the handle's stream. */
cudnnStatus_t cudnn_plan_run(const struct cudnn_plan *plan, cudnnHandle_t handle, const float *x,
                             const float *weight, float *y, void *workspace);

#endif
