/* Fully connected layers on the GPU through cuBLASLt; contracts of the operations in ops.h. */
#ifndef PIPELINE_TENSOR_LINEAR_CUDA_H
#define PIPELINE_TENSOR_LINEAR_CUDA_H

#include "device_cuda.h"

#include <cublasLt.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Sets device->blas; linear_cuda_close() frees it and accepts a device without. */
bool linear_cuda_open(struct device *device, struct error *error);
void linear_cuda_close(struct device *device);

/* For products that are no layers. One workspace serves all: products of a device are enqueued on
 * its stream, one after the other. */
cublasLtHandle_t device_blas(struct device *device);
void *device_blas_workspace(struct device *device, size_t *bytes);

/* Of the matrices of d = a b + c, c being where d is: all bits that any address in use has. */
struct blas_places {
    uintptr_t a, b, d;
};

/* Up to most algorithms of cuBLASLt's heuristic, best first; returns how many. They use the
 * workspace above, and add the sums of products that are split in one of the ways in schemes, a
 * mask of cublasLtReductionScheme_t. */
int device_blas_algorithms(struct device *device, cublasLtMatmulDesc_t desc,
                           cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                           cublasLtMatrixLayout_t d, const struct blas_places *places,
                           uint32_t schemes, cublasLtMatmulHeuristicResult_t *found, int most);

bool linear_cuda_create(struct device *device, struct linear **out, const struct linear_desc *desc,
                        struct error *error);
void linear_cuda_destroy(struct device *device, struct linear *linear);
bool linear_cuda(struct device *device, const struct linear *linear, const void *x,
                 enum element x_type, void *y, enum element y_type, int64_t rows,
                 enum activation activation, struct error *error);

#ifdef __cplusplus
}
#endif

#endif
