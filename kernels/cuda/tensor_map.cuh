/*
 * Tensor maps for bulk tensor copies, made on the host. The driver's function is looked up, so that
 * nothing links the driver.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_TENSOR_MAP_CUH
#define DRAFTATTN_KERNELS_CUDA_TENSOR_MAP_CUH

#include "stages_cuda.h"

#include <cuda.h>

/* [entries][heads][tokens][head_dim]; strides of `rows` are multiples of 16 bytes but the last,
 * which is an element. */
struct tensor_rows {
    struct rows_cuda rows;
    CUtensorMapDataType type;
    int64_t bytes; /* of an element */
    int64_t head_dim, tokens, heads, entries;
};

typedef CUresult (*encode_tensor_map)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                      const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                      const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                      CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* NULL where the driver has none. */
static inline encode_tensor_map find_encode_tensor_map(void)
{
    cudaDriverEntryPointQueryResult found;
    encode_tensor_map encode = NULL;
    const char *name = "cuTensorMapEncodeTiled";
#if CUDART_VERSION >= 12050
    cudaError_t error =
        cudaGetDriverEntryPointByVersion(name, (void **)&encode, 12000, cudaEnableDefault, &found);
#else
    cudaError_t error = cudaGetDriverEntryPoint(name, (void **)&encode, cudaEnableDefault, &found);
#endif
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? encode : NULL;
}

/* Boxes of box_tokens rows of box_dim elements, 128 bytes, which swizzle; zeros outside. False
 * where there is no encode, or it refuses. */
static inline bool make_tensor_map(encode_tensor_map encode, CUtensorMap *map,
                                   const struct tensor_rows *of, uint32_t box_dim,
                                   uint32_t box_tokens)
{
    const struct rows_cuda *rows = &of->rows;
    const cuuint64_t sizes[4] = {(cuuint64_t)of->head_dim, (cuuint64_t)of->tokens,
                                 (cuuint64_t)of->heads, (cuuint64_t)of->entries};
    const cuuint64_t strides[3] = {(cuuint64_t)(rows->stride_token * of->bytes),
                                   (cuuint64_t)(rows->stride_head * of->bytes),
                                   (cuuint64_t)(rows->stride_entry * of->bytes)};
    const cuuint32_t box[4] = {box_dim, box_tokens, 1, 1}, one[4] = {1, 1, 1, 1};

    return encode && encode(map, of->type, 4, (void *)rows->data, sizes, strides, box, one,
                            CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#endif
