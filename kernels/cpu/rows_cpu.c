/* Owns the view of one head of the caller's tensors as rows in block order. */
#include "rows_cpu.h"

struct rows rows_of(const struct problem *problem, const draftattn_tensor *tensor, int64_t head)
{
    int64_t heads = problem->desc.heads;
    int64_t offset = head / heads * tensor->stride[0] + head % heads * tensor->stride[1];
    return (struct rows){.base = (char *)tensor->data + offset * (int64_t)dtype_size(tensor->dtype),
                         .dtype = tensor->dtype,
                         .token_stride = tensor->stride[2],
                         .element_stride = tensor->stride[3],
                         .count = (int32_t)tensor->shape[3],
                         .order = problem->order};
}
