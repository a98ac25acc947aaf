/*
 * Owns the way between the caller's tensors (any strides, three storage types, raster or block
 * order) and rows of floats. Rows without gaps go through loops that vectorise; the others element
 * by element.
 */
#include "rows_cpu.h"

#include "dtype.h"

#include <string.h>

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

static char *row_at(const struct rows *rows, int64_t position)
{
    int64_t token = rows->order ? rows->order[position] : position;
    return rows->base + token * rows->token_stride * (int64_t)dtype_size(rows->dtype);
}

static void load_f16(const uint16_t *from, int64_t stride, int32_t count, float *out)
{
    if (stride == 1)
        for (int32_t i = 0; i < count; i++)
            out[i] = float_from_f16(from[i]);
    else
        for (int32_t i = 0; i < count; i++)
            out[i] = float_from_f16(from[i * stride]);
}

static void load_bf16(const uint16_t *from, int64_t stride, int32_t count, float *out)
{
    if (stride == 1)
        for (int32_t i = 0; i < count; i++)
            out[i] = float_from_bf16(from[i]);
    else
        for (int32_t i = 0; i < count; i++)
            out[i] = float_from_bf16(from[i * stride]);
}

void rows_load(const struct rows *rows, int64_t position, float *out)
{
    const void *from = row_at(rows, position);
    int64_t stride = rows->element_stride;
    switch (rows->dtype) {
    case DRAFTATTN_F32:
        if (stride == 1)
            memcpy(out, from, (size_t)rows->count * sizeof(float));
        else
            for (int32_t i = 0; i < rows->count; i++)
                out[i] = ((const float *)from)[i * stride];
        break;
    case DRAFTATTN_F16:
        load_f16(from, stride, rows->count, out);
        break;
    case DRAFTATTN_BF16:
        load_bf16(from, stride, rows->count, out);
        break;
    }
}

void rows_store(const struct rows *rows, int64_t position, const float *row)
{
    void *to = row_at(rows, position);
    int64_t stride = rows->element_stride;
    switch (rows->dtype) {
    case DRAFTATTN_F32:
        for (int32_t i = 0; i < rows->count; i++)
            ((float *)to)[i * stride] = row[i];
        break;
    case DRAFTATTN_F16:
        for (int32_t i = 0; i < rows->count; i++)
            ((uint16_t *)to)[i * stride] = f16_from_float(row[i]);
        break;
    case DRAFTATTN_BF16:
        for (int32_t i = 0; i < rows->count; i++)
            ((uint16_t *)to)[i * stride] = bf16_from_float(row[i]);
        break;
    }
}
