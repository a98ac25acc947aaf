/* Products and sums of sizes from files or flags: false where they leave int64_t/size_t. */
#ifndef PIPELINE_TENSOR_CHECKED_H
#define PIPELINE_TENSOR_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool checked_mul(int64_t a, int64_t b, int64_t *out)
{
    return a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, out);
}

static inline bool checked_add(int64_t a, int64_t b, int64_t *out)
{
    return a >= 0 && b >= 0 && !__builtin_add_overflow(a, b, out);
}

/* *bytes = product of dims * element_size */
static inline bool checked_bytes(const int64_t *dims, int rank, size_t element_size, size_t *bytes)
{
    int64_t total = (int64_t)element_size;
    for (int i = 0; i < rank; i++)
        if (!checked_mul(total, dims[i], &total))
            return false;
    *bytes = (size_t)total;
    return true;
}

#endif
