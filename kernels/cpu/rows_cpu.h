/*
 * Rows of one head of a tensor in any strides, storage type and token order, read and written as
 * float by position. Inline, so that every instruction set gets conversions of its own; rows
 * without gaps go through loops that vectorise, the others element by element.
 */
#ifndef DRAFTATTN_KERNELS_CPU_ROWS_CPU_H
#define DRAFTATTN_KERNELS_CPU_ROWS_CPU_H

#include "backend.h"
#include "dtype.h"

#define ROWS_MAX_HEAD_DIM 512

struct rows {
    char *base; /* token 0, element 0 of the head */
    draftattn_dtype dtype;
    int64_t token_stride, element_stride; /* in elements */
    int32_t count;                        /* elements of a row */
    const int64_t *order;                 /* position -> token; NULL = the same */
};

/* head counts through the batch. */
struct rows rows_of(const struct problem *problem, const draftattn_tensor *tensor, int64_t head);

/* float rows one behind the other, in order. */
static inline struct rows rows_dense(float *base, int32_t count)
{
    return (struct rows){(char *)base, DRAFTATTN_F32, count, 1, count, NULL};
}

static inline void *row_at(const struct rows *rows, int64_t position)
{
    int64_t token = rows->order ? rows->order[position] : position;
    return rows->base + token * rows->token_stride * (int64_t)dtype_size(rows->dtype);
}

static inline void rows_load_f16(const uint16_t *from, int64_t stride, int32_t count, float *out)
{
    if (stride == 1)
        for (int32_t i = 0; i < count; i++)
            out[i] = float_from_f16(from[i]);
    else
        for (int32_t i = 0; i < count; i++)
            out[i] = float_from_f16(from[i * stride]);
}

static inline void rows_load_bf16(const uint16_t *from, int64_t stride, int32_t count, float *out)
{
    if (stride == 1)
        for (int32_t i = 0; i < count; i++)
            out[i] = float_from_bf16(from[i]);
    else
        for (int32_t i = 0; i < count; i++)
            out[i] = float_from_bf16(from[i * stride]);
}

static inline void rows_load(const struct rows *rows, int64_t position, float *out)
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
        rows_load_f16(from, stride, rows->count, out);
        break;
    case DRAFTATTN_BF16:
        rows_load_bf16(from, stride, rows->count, out);
        break;
    }
}

/* Whether rows can be used where they lie. */
static inline bool rows_are_floats(const struct rows *rows)
{
    return rows->dtype == DRAFTATTN_F32 && rows->element_stride == 1;
}

/* Where the row lies, if it can be used there; else copy, filled. */
static inline const float *rows_read(const struct rows *rows, int64_t position, float *copy)
{
    if (rows_are_floats(rows))
        return row_at(rows, position);
    rows_load(rows, position, copy);
    return copy;
}

static inline void rows_store(const struct rows *rows, int64_t position, const float *row)
{
    void *to = row_at(rows, position);
    int64_t stride = rows->element_stride;
    switch (rows->dtype) {
    case DRAFTATTN_F32:
        if (stride == 1)
            memcpy(to, row, (size_t)rows->count * sizeof(float));
        else
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

#endif
