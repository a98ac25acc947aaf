/*
 * Owns the checks of tensors that come from outside. An output whose elements might share a place
 * is refused by a sufficient rule: with the dimensions sorted by stride, each stride must step over
 * all that the smaller ones reach.
 */
#include "tensor_check.h"

#include "dtype.h"
#include "error.h"
#include "names.h"

#define REFUSE_IF(condition, ...) RETURN_IF(condition, DRAFTATTN_INVALID_ARGUMENT, __VA_ARGS__)

/* Elements from the first to the last, or -1 where that leaves 63 bits of bytes. */
static int64_t extent(const draftattn_tensor *tensor)
{
    int64_t last = 0, bytes;
    for (int i = 0; i < 4; i++) {
        int64_t reach;
        if (__builtin_mul_overflow(tensor->shape[i] - 1, tensor->stride[i], &reach) ||
            __builtin_add_overflow(last, reach, &last))
            return -1;
    }
    if (last == INT64_MAX ||
        __builtin_mul_overflow(last + 1, (int64_t)dtype_size(tensor->dtype), &bytes))
        return -1;
    return last + 1;
}

bool memory_overlaps(const void *a, size_t a_size, const void *b, size_t b_size)
{
    uintptr_t first = (uintptr_t)a, second = (uintptr_t)b;
    return first < second ? second - first < a_size : first - second < b_size;
}

draftattn_status tensor_check_input(const struct problem *problem, const char *name,
                                    const draftattn_tensor *tensor, draftattn_dtype dtype,
                                    int64_t last, const void *workspace, size_t workspace_size)
{
    const int64_t shape[4] = {problem->desc.batch, problem->desc.heads, problem->tokens, last};
    REFUSE_IF(!tensor || !tensor->data, "%s is NULL", name);
    REFUSE_IF(tensor->dtype != dtype, "%s is %s; the plan says %s", name, dtype_name(tensor->dtype),
              dtype_name(dtype));
    REFUSE_IF((uintptr_t)tensor->data % dtype_size(dtype),
              "%s is not aligned to its %zu-byte elements", name, dtype_size(dtype));
    for (int i = 0; i < 4; i++) {
        REFUSE_IF(tensor->shape[i] != shape[i],
                  "%s has shape [%lld, %lld, %lld, %lld]; the plan says [%lld, %lld, %lld, %lld]",
                  name, (long long)tensor->shape[0], (long long)tensor->shape[1],
                  (long long)tensor->shape[2], (long long)tensor->shape[3], (long long)shape[0],
                  (long long)shape[1], (long long)shape[2], (long long)shape[3]);
        REFUSE_IF(tensor->stride[i] < 0, "%s.stride[%d] is %lld; strides are 0 or more", name, i,
                  (long long)tensor->stride[i]);
    }
    REFUSE_IF(extent(tensor) < 0, "the strides of %s reach beyond 63 bits", name);
    size_t bytes = (size_t)extent(tensor) * dtype_size(dtype);
    REFUSE_IF(memory_overlaps(tensor->data, bytes, workspace, workspace_size),
              "%s overlaps the workspace", name);
    return DRAFTATTN_SUCCESS;
}

static bool elements_apart(const draftattn_tensor *tensor)
{
    int order[4] = {0, 1, 2, 3};
    int64_t reach = 0;
    for (int i = 1; i < 4; i++) {
        for (int j = i; j > 0 && tensor->stride[order[j]] < tensor->stride[order[j - 1]]; j--) {
            int swap = order[j];
            order[j] = order[j - 1];
            order[j - 1] = swap;
        }
    }
    for (int i = 0; i < 4; i++) {
        int64_t steps = tensor->shape[order[i]] - 1, stride = tensor->stride[order[i]];
        if (steps > 0 && stride <= reach)
            return false;
        reach += steps * stride;
    }
    return true;
}

draftattn_status tensor_check_output(const struct problem *problem, const char *name,
                                     const draftattn_tensor *tensor, draftattn_dtype dtype,
                                     int64_t last, const void *workspace, size_t workspace_size)
{
    TRY(tensor_check_input(problem, name, tensor, dtype, last, workspace, workspace_size));
    REFUSE_IF(!elements_apart(tensor),
              "%s with strides [%lld, %lld, %lld, %lld] may hold two elements in one place", name,
              (long long)tensor->stride[0], (long long)tensor->stride[1],
              (long long)tensor->stride[2], (long long)tensor->stride[3]);
    return DRAFTATTN_SUCCESS;
}
