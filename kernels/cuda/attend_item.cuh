/*
 * What every attention kernel must know of stages_cuda.h: what an item of the queue is, where a key
 * block lies, which vectors the caller's pointers allow. Instructions are the kernels' own matter.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_ATTEND_ITEM_CUH
#define DRAFTATTN_KERNELS_CUDA_ATTEND_ITEM_CUH

#include "stages_cuda.h"

#define DEVICE static __device__ __forceinline__

/* A launch as its kernel takes it. */
struct attend_args {
    struct attend_cuda attend;
    float scale_log2; /* of the base-2 logits: softmax_scale * log2(e) */
    bool vectors_in;  /* 16-byte loads of all rows that come in */
    bool vectors_o;   /* 16-byte stores of o */
    bool vectors_exact;
};

struct attend_item {
    int32_t head;          /* through the batch */
    int32_t first, rows;   /* position of the first row, or its probe; how many, <= 128 */
    bool probe;            /* rows of probe_q, into exact */
    const int32_t *blocks; /* [count] key blocks that are computed exactly; NULL = 0 .. count - 1 */
    int32_t count;
    const uint32_t *kept; /* those of the means that are left out; NULL = no means */
};

/* Positions [first, first + count), 1 <= count <= key_block. */
struct key_range {
    int32_t first, count;
};

/* ---- on the device -------------------------------------------------------------------------- */

/* Infinity becomes the largest float; NaN stays what it is, which fminf() would take away. */
DEVICE float at_most_finite(float x)
{
    asm("min.NaN.f32 %0, %0, 0f7f7fffff;" : "+f"(x));
    return x;
}

DEVICE int32_t probe_tiles(const struct shape_cuda &shape)
{
    return (shape.probes + CUDA_QUERY_BLOCK - 1) / CUDA_QUERY_BLOCK;
}

DEVICE int32_t mean_rows(const struct shape_cuda &shape)
{
    return (shape.key_blocks + CUDA_KEPT_BITS - 1) / CUDA_KEPT_BITS * CUDA_KEPT_BITS;
}

/* Block `block` of a size, when video_blocks of them cover the video and text begins a new one. */
DEVICE struct key_range block_range(const struct shape_cuda &shape, int32_t block, int32_t size,
                                    int32_t video_blocks)
{
    const bool video = block < video_blocks;
    const int32_t first = video ? block * size : shape.video_tokens + (block - video_blocks) * size;
    return {first, min(size, (video ? shape.video_tokens : shape.tokens) - first)};
}

DEVICE struct key_range key_block_range(const struct shape_cuda &shape, int32_t block)
{
    return block_range(shape, block, shape.key_block, shape.video_key_blocks);
}

/* The item in place `index` of the queue. */
DEVICE struct attend_item item_at(const struct attend_cuda &attend, int32_t index)
{
    const struct shape_cuda &shape = attend.shape;
    const int32_t item = attend.queue ? attend.queue[index] : index;
    const int32_t probe_tile = item - shape.heads * shape.query_blocks;
    struct attend_item result = {};

    result.count = shape.key_blocks;
    result.probe = probe_tile >= 0;
    if (result.probe) {
        const int32_t tiles = probe_tiles(shape);
        result.head = probe_tile / tiles;
        result.first = probe_tile % tiles * CUDA_QUERY_BLOCK;
        result.rows = min(CUDA_QUERY_BLOCK, shape.probes - result.first);
        return result;
    }
    result.head = item / shape.query_blocks;
    const struct key_range rows =
        block_range(shape, item % shape.query_blocks, CUDA_QUERY_BLOCK, shape.video_query_blocks);
    result.first = rows.first;
    result.rows = rows.count;
    if (attend.row_ptr) {
        const int64_t begin = attend.row_ptr[item];
        result.blocks = attend.block_idx + begin;
        result.count = (int32_t)(attend.row_ptr[item + 1] - begin);
        if (attend.kept && result.count < shape.key_blocks)
            result.kept = attend.kept + (int64_t)item * (mean_rows(shape) / 32);
    }
    return result;
}

/* Row `position` of a head. */
DEVICE const char *row_at(const struct shape_cuda &shape, const struct rows_cuda &rows,
                          int32_t element_size, int32_t head, int32_t position)
{
    const int64_t offset = head / shape.entry_heads * rows.stride_entry +
                           head % shape.entry_heads * rows.stride_head +
                           position * rows.stride_token;
    return (const char *)rows.data + offset * element_size;
}

/* The first query row of an item, and the distance of its rows in bytes. */
DEVICE const char *query_rows(const struct attend_cuda &attend, const struct attend_item &item,
                              int32_t element_size, int64_t *stride)
{
    const struct shape_cuda &shape = attend.shape;
    const int64_t probe = (int64_t)item.head * probe_tiles(shape) * CUDA_QUERY_BLOCK + item.first;

    if (item.probe) {
        *stride = (int64_t)shape.head_dim * element_size;
        return (const char *)attend.probe_q + probe * *stride;
    }
    *stride = attend.q.stride_token * element_size;
    return row_at(shape, attend.q, element_size, item.head, item.first);
}

/* ---- on the host ---------------------------------------------------------------------------- */

static inline bool attend_aligned(const void *data, int64_t stride_a, int64_t stride_b,
                                  int64_t stride_c, int64_t element_size)
{
    const int64_t bits = (int64_t)(uintptr_t)data | stride_a * element_size |
                         stride_b * element_size | stride_c * element_size;
    return bits % 16 == 0;
}

static inline bool attend_aligned_rows(const struct rows_cuda *rows, int64_t element_size)
{
    return attend_aligned(rows->data, rows->stride_entry, rows->stride_head, rows->stride_token,
                          element_size);
}

static inline struct attend_args attend_args_of(const struct attend_cuda *attend)
{
    const int64_t size = attend->dtype == DRAFTATTN_F32 ? 4 : 2;
    const draftattn_tensor *o = &attend->o;
    struct attend_args args = {};

    args.attend = *attend;
    args.scale_log2 = (float)(attend->shape.scale * 1.4426950408889634);
    args.vectors_in =
        attend_aligned_rows(&attend->q, size) && attend_aligned_rows(&attend->k, size) &&
        attend_aligned_rows(&attend->v, size) && attend_aligned(attend->probe_q, 0, 0, 0, 1) &&
        attend_aligned(attend->low_k, 0, 0, 0, 1) && attend_aligned(attend->low_v, 0, 0, 0, 1);
    args.vectors_o =
        o->stride[3] == 1 && attend_aligned(o->data, o->stride[0], o->stride[1], o->stride[2],
                                            o->dtype == DRAFTATTN_F32 ? 4 : 2);
    args.vectors_exact = attend_aligned(attend->exact, 0, 0, 0, 1);
    return args;
}

/* Persistent blocks of threads: as many as fit the device at once, no more than there are items. */
static inline cudaError_t attend_launch(const void *kernel, const void *argument, int32_t items,
                                        int threads, int shared_bytes, cudaStream_t stream)
{
    int device = 0, multiprocessors = 0, resident = 0;
    void *arguments[] = {(void *)argument};
    cudaError_t error;

    if (items == 0)
        return cudaSuccess;
    if ((error = cudaGetDevice(&device)) != cudaSuccess ||
        (error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount,
                                        device)) != cudaSuccess ||
        (error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      shared_bytes)) != cudaSuccess ||
        (error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads,
                                                               shared_bytes)) != cudaSuccess)
        return error;
    const int64_t fit = (int64_t)multiprocessors * (resident > 0 ? resident : 1);
    const int64_t grid = fit < items ? fit : items;
    error = cudaLaunchKernel(kernel, dim3((unsigned)grid), dim3((unsigned)threads), arguments,
                             (size_t)shared_bytes, stream);
    return error != cudaSuccess ? error : cudaGetLastError();
}

#endif
