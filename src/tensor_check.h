#ifndef DRAFTATTN_TENSOR_CHECK_H
#define DRAFTATTN_TENSOR_CHECK_H

#include "backend.h"

/* Sizes in bytes, any. */
bool memory_overlaps(const void *a, size_t a_size, const void *b, size_t b_size);

/* A tensor that is read: dtype, shape [batch, heads, tokens, last], strides within 63 bits, nothing
 * of it in the workspace. */
draftattn_status tensor_check_input(const struct problem *problem, const char *name,
                                    const draftattn_tensor *tensor, draftattn_dtype dtype,
                                    int64_t last, const void *workspace, size_t workspace_size);

/* The same for one that is written: and no two elements may share a place. */
draftattn_status tensor_check_output(const struct problem *problem, const char *name,
                                     const draftattn_tensor *tensor, draftattn_dtype dtype,
                                     int64_t last, const void *workspace, size_t workspace_size);

#endif
