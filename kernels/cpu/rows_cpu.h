/* Rows of one head of a caller's tensor, read and written as float by place in block order. */
#ifndef DRAFTATTN_KERNELS_CPU_ROWS_CPU_H
#define DRAFTATTN_KERNELS_CPU_ROWS_CPU_H

#include "backend.h"

#define ROWS_MAX_HEAD_DIM 512

struct rows {
    char *base; /* token 0, element 0 of the head */
    draftattn_dtype dtype;
    int64_t token_stride, element_stride;
    int32_t count;        /* elements of a row */
    const int64_t *order; /* NULL = the tensor is in block order */
};

/* head counts through the batch. */
struct rows rows_of(const struct problem *problem, const draftattn_tensor *tensor, int64_t head);

void rows_load(const struct rows *rows, int64_t position, float *out);
void rows_store(const struct rows *rows, int64_t position, const float *row);

#endif
