/*
 * Owns the way of q, k and v into block order and their block means: one launch and one pass over
 * each tensor. Where the caller's rows can be used as they lie there is no copy, and the pass only
 * reads.
 *
 * The idea: a CTA owns a tile, the 128 positions of a query block, of one head of one tensor. Its
 * rows come in whole, 16 bytes a thread and all loads of the tile under way at once, and stay in
 * registers: from there they are stored in block order, added up, and for spread_k added up again
 * around the mean, so that no variance suffers from cancellation. Sums have a fixed order: a
 * thread's rows of either half of the tile, then the threads of a column through shared memory. A
 * tile is one block of 128 or two of 64. Columns run along a row, so that a warp reads one to four
 * of them.
 *
 * Bound by memory. At 24 x 119,040 x 128 in two bytes: 4.4 GB with copies, 2.2 GB without.
 *
 * Ladder
 *   v1  as above: 24 x 119,040 x 128 bfloat16 from raster order 1.51 ms (2.90 TB/s), in block
 *       order, nothing copied, 0.75 ms (2.94 TB/s); heads beside each other in memory 1.54 ms; rows
 *       that allow no vectors 1.75 ms; 12 x 32,760 0.217 and 0.109 ms (H100, warm, median)
 */
#include "attend_item.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <math.h>

enum { THREADS = 256, TILE = CUDA_QUERY_BLOCK, HALVES = 2, MAX_JOBS = 3 };

/* What becomes of one tensor. */
struct job {
    draftattn_tensor from;
    void *copy;
    float *mean, *spread; /* of video blocks */
    void *low;            /* of all blocks */
    float *bias;
    int32_t block, video_blocks; /* tokens of a block; blocks */
    bool heads_first;            /* neighbours in memory are the heads of a token: so are CTAs */
};

struct gather_args {
    struct shape_cuda shape;
    struct job jobs[MAX_JOBS];
    int32_t count;
};

/* ---- on the device -------------------------------------------------------------------------- */

/* 128 rows of elements T as the threads of a CTA hold them: a piece of 16 bytes in each of LOADS
 * rows, those of the upper half last. */
template <typename T, int HEAD_DIM> struct layout {
    static constexpr int PIECE = 16 / sizeof(T);
    static constexpr int COLUMNS = HEAD_DIM / PIECE;
    static constexpr int LANES = THREADS / COLUMNS;
    static constexpr int LOADS = TILE / LANES;
    static constexpr int BLOCKS_PER_SM = sizeof(T) == 2 ? 4 : 2; /* what registers allow */
};

/* A tile as a CTA sees it. */
struct tile {
    int32_t head, index;
    struct key_range range; /* of positions */
    bool video;
};

DEVICE struct tile tile_of(const struct shape_cuda &shape, const struct job &job)
{
    const int32_t item = (int32_t)blockIdx.x;
    struct tile tile;

    tile.head = job.heads_first ? item % shape.heads : item / shape.query_blocks;
    tile.index = job.heads_first ? item / shape.heads : item % shape.query_blocks;
    tile.range = block_range(shape, tile.index, TILE, shape.video_query_blocks);
    tile.video = tile.index < shape.video_query_blocks;
    return tile;
}

/* A word of memory as the elements that it holds, and the way back of one. */
template <typename T> struct word;

template <> struct word<float> {
    static constexpr int ELEMENTS = 1;
    static __device__ __forceinline__ void open(uint32_t word, float *out)
    {
        out[0] = __uint_as_float(word);
    }
    static __device__ __forceinline__ uint32_t load(const float *from, int64_t)
    {
        return __float_as_uint(from[0]);
    }
};

template <> struct word<__half> {
    static constexpr int ELEMENTS = 2;
    static __device__ __forceinline__ void open(uint32_t word, float *out)
    {
        out[0] = __half2float(__ushort_as_half((uint16_t)word));
        out[1] = __half2float(__ushort_as_half((uint16_t)(word >> 16)));
    }
    static __device__ __forceinline__ uint32_t load(const __half *from, int64_t stride)
    {
        return __half_as_ushort(from[0]) | (uint32_t)__half_as_ushort(from[stride]) << 16;
    }
};

template <> struct word<__nv_bfloat16> {
    static constexpr int ELEMENTS = 2;
    static __device__ __forceinline__ void open(uint32_t word, float *out)
    {
        out[0] = __uint_as_float(word << 16);
        out[1] = __uint_as_float(word & 0xffff0000u);
    }
    static __device__ __forceinline__ uint32_t load(const __nv_bfloat16 *from, int64_t stride)
    {
        return __bfloat16_as_ushort(from[0]) | (uint32_t)__bfloat16_as_ushort(from[stride]) << 16;
    }
};

template <typename T> DEVICE void open_piece(const uint4 &piece, float (&out)[16 / sizeof(T)])
{
    constexpr int ELEMENTS = word<T>::ELEMENTS;

    word<T>::open(piece.x, out);
    word<T>::open(piece.y, out + ELEMENTS);
    word<T>::open(piece.z, out + 2 * ELEMENTS);
    word<T>::open(piece.w, out + 3 * ELEMENTS);
}

template <typename T, bool VECTORS> DEVICE uint4 load_piece(const T *from, int64_t stride)
{
    const int64_t step = word<T>::ELEMENTS * stride;

    if constexpr (VECTORS)
        return __ldcs((const uint4 *)from);
    return make_uint4(word<T>::load(from, stride), word<T>::load(from + step, stride),
                      word<T>::load(from + 2 * step, stride),
                      word<T>::load(from + 3 * step, stride));
}

/* Rows that the tile does not have are zero. */
template <typename T, int HEAD_DIM, bool VECTORS>
DEVICE void load_tile(const struct shape_cuda &shape, const draftattn_tensor &from,
                      const struct tile &tile, uint4 (&pieces)[layout<T, HEAD_DIM>::LOADS])
{
    using L = layout<T, HEAD_DIM>;
    const int32_t column = threadIdx.x % L::COLUMNS, lane = threadIdx.x / L::COLUMNS;
    const T *base = (const T *)from.data + tile.head / shape.entry_heads * from.stride[0] +
                    tile.head % shape.entry_heads * from.stride[1] +
                    column * L::PIECE * from.stride[3];
    int32_t tokens[L::LOADS];

#pragma unroll
    for (int i = 0; i < L::LOADS; i++) {
        const int32_t row = i * L::LANES + lane;
        const int32_t position = tile.range.first + row;
        tokens[i] = row >= tile.range.count ? -1 : shape.order ? shape.order[position] : position;
    }
#pragma unroll
    for (int i = 0; i < L::LOADS; i++) {
        pieces[i] = make_uint4(0, 0, 0, 0);
        if (tokens[i] >= 0)
            pieces[i] = load_piece<T, VECTORS>(base + tokens[i] * from.stride[2], from.stride[3]);
    }
}

template <typename T, int HEAD_DIM>
DEVICE void store_tile(const struct shape_cuda &shape, const struct tile &tile,
                       const uint4 (&pieces)[layout<T, HEAD_DIM>::LOADS], void *copy)
{
    using L = layout<T, HEAD_DIM>;
    const int64_t first = (int64_t)tile.head * shape.tokens + tile.range.first;
    uint4 *to = (uint4 *)copy + first * L::COLUMNS + threadIdx.x;

#pragma unroll
    for (int i = 0; i < L::LOADS; i++) {
        if (i * L::LANES + (int32_t)threadIdx.x / L::COLUMNS < tile.range.count)
            to[i * THREADS] = pieces[i];
    }
}

/* What a CTA adds up through. */
template <typename T, int HEAD_DIM> struct shared_sums {
    float partial[HALVES * layout<T, HEAD_DIM>::LANES][HEAD_DIM];
    float mean[HALVES][HEAD_DIM]; /* of the block that this half of the tile is in */
};

/* This thread's sums of its columns, one per half, into partial: of the elements, or of their
 * squared distances from mean. */
template <typename T, int HEAD_DIM, bool SQUARES>
DEVICE void add_rows(const uint4 (&pieces)[layout<T, HEAD_DIM>::LOADS], int32_t count,
                     struct shared_sums<T, HEAD_DIM> &sums)
{
    using L = layout<T, HEAD_DIM>;
    constexpr int LOADS = L::LOADS / HALVES;
    const int32_t column = threadIdx.x % L::COLUMNS, lane = threadIdx.x / L::COLUMNS;

#pragma unroll
    for (int half = 0; half < HALVES; half++) {
        const float *mean = &sums.mean[half][column * L::PIECE];
        float sum[L::PIECE] = {};
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            float element[L::PIECE];
            const bool there = (half * LOADS + i) * L::LANES + lane < count;
            open_piece<T>(pieces[half * LOADS + i], element);
#pragma unroll
            for (int e = 0; e < L::PIECE; e++) {
                const float value = SQUARES ? element[e] - mean[e] : element[e];
                if (!SQUARES)
                    sum[e] += value;
                else if (there)
                    sum[e] = fmaf(value, value, sum[e]);
            }
        }
        float4 *to = (float4 *)&sums.partial[half * L::LANES + lane][column * L::PIECE];
#pragma unroll
        for (int e = 0; e < L::PIECE; e += 4) {
            to[e / 4] = make_float4(sum[e], sum[e + 1], sum[e + 2], sum[e + 3]);
        }
    }
}

/* An element of a block's mean: of thread block * HEAD_DIM + d. */
struct pooled {
    int32_t block, d; /* block in the tile */
    int32_t count;    /* tokens of the block; 0 = this thread has none */
};

template <int HEAD_DIM>
DEVICE struct pooled pooled_of(const struct tile &tile, const struct job &job)
{
    struct pooled pooled = {(int32_t)threadIdx.x / HEAD_DIM, (int32_t)threadIdx.x % HEAD_DIM, 0};

    if (pooled.block < TILE / job.block)
        pooled.count = max(0, min(job.block, tile.range.count - pooled.block * job.block));
    return pooled;
}

/* The mean of what the threads of a column have put into partial. */
template <typename T, int HEAD_DIM>
DEVICE float column_mean(const struct shared_sums<T, HEAD_DIM> &sums, const struct pooled &pooled,
                         int32_t block_size)
{
    const int32_t rows = HALVES * layout<T, HEAD_DIM>::LANES * block_size / TILE;
    float sum = 0;

#pragma unroll 8
    for (int32_t row = 0; row < rows; row++) {
        sum += sums.partial[pooled.block * rows + row][pooled.d];
    }
    return sum / (float)pooled.count;
}

/* Else the compiler keeps all elements as floats from the first pass to the second: they do not fit
 * the registers. */
template <int LOADS> DEVICE void forget_floats(uint4 (&pieces)[LOADS])
{
#pragma unroll
    for (int i = 0; i < LOADS; i++) {
        asm volatile(""
                     : "+r"(pieces[i].x), "+r"(pieces[i].y), "+r"(pieces[i].z), "+r"(pieces[i].w));
    }
}

template <typename T, int HEAD_DIM>
DEVICE void pool_tile(const struct shape_cuda &shape, const struct job &job,
                      const struct tile &tile, uint4 (&pieces)[layout<T, HEAD_DIM>::LOADS],
                      struct shared_sums<T, HEAD_DIM> &sums)
{
    const struct pooled pooled = pooled_of<HEAD_DIM>(tile, job);
    const int32_t per_tile = TILE / job.block;
    const int32_t text_tile = tile.index - shape.video_query_blocks;
    const int32_t block = pooled.block + (tile.video ? tile.index * per_tile
                                                     : job.video_blocks + text_tile * per_tile);
    const int64_t place = ((int64_t)tile.head * job.video_blocks + block) * HEAD_DIM + pooled.d;
    float mean = 0;

    add_rows<T, HEAD_DIM, false>(pieces, tile.range.count, sums);
    __syncthreads();
    if (pooled.count > 0) {
        mean = column_mean<T, HEAD_DIM>(sums, pooled, job.block);
        if (job.mean && tile.video)
            job.mean[place] = mean;
        if (job.low)
            ((T *)job.low)[((int64_t)tile.head * mean_rows(shape) + block) * HEAD_DIM + pooled.d] =
                (T)mean;
        if (job.bias && tile.head == 0 && pooled.d == 0)
            job.bias[block] = log2f((float)pooled.count);
    }
    if (!job.spread || !tile.video)
        return;
    if (pooled.count > 0) {
        sums.mean[pooled.block][pooled.d] = mean;
        if (per_tile == 1)
            sums.mean[1][pooled.d] = mean;
    }
    forget_floats(pieces);
    __syncthreads();
    add_rows<T, HEAD_DIM, true>(pieces, tile.range.count, sums);
    __syncthreads();
    if (pooled.count > 0)
        job.spread[place] = column_mean<T, HEAD_DIM>(sums, pooled, job.block);
}

/* Behind the last key block: means of 0 that no row sees. */
template <typename T, int HEAD_DIM>
DEVICE void pad_means(const struct shape_cuda &shape, const struct job &job, int32_t head)
{
    const int32_t rows = mean_rows(shape), missing = rows - shape.key_blocks;

    if (job.low) {
        T *to = (T *)job.low + ((int64_t)head * rows + shape.key_blocks) * HEAD_DIM;
        for (int32_t i = threadIdx.x; i < missing * HEAD_DIM; i += THREADS) {
            to[i] = (T)0.0f;
        }
    }
    if (job.bias && head == 0 && (int32_t)threadIdx.x < missing)
        job.bias[shape.key_blocks + threadIdx.x] = -INFINITY;
}

template <typename T, int HEAD_DIM, bool VECTORS>
static __global__ void __launch_bounds__(THREADS, (layout<T, HEAD_DIM>::BLOCKS_PER_SM))
    gather_pool_kernel(const __grid_constant__ struct gather_args args)
{
    __shared__ alignas(16) struct shared_sums<T, HEAD_DIM> sums;
    const struct shape_cuda &shape = args.shape;
    const struct job &job = args.jobs[blockIdx.y];
    const struct tile tile = tile_of(shape, job);
    const bool pools = job.low || job.bias || (tile.video && (job.mean || job.spread));
    uint4 pieces[layout<T, HEAD_DIM>::LOADS];

    if (!job.copy && !pools)
        return;
    load_tile<T, HEAD_DIM, VECTORS>(shape, job.from, tile, pieces);
    if (tile.index == 0)
        pad_means<T, HEAD_DIM>(shape, job, tile.head);
    if (job.copy)
        store_tile<T, HEAD_DIM>(shape, tile, pieces, job.copy);
    if (pools)
        pool_tile<T, HEAD_DIM>(shape, job, tile, pieces, sums);
}

/* ---- on the host ---------------------------------------------------------------------------- */

/* A dimension of one index may have any stride. */
static bool vectors_of(const draftattn_tensor *tensor)
{
    int64_t stride[3];

    for (int i = 0; i < 3; i++) {
        stride[i] = tensor->shape[i] > 1 ? tensor->stride[i] : 0;
    }
    return tensor->stride[3] == 1 && attend_aligned(tensor->data, stride[0], stride[1], stride[2],
                                                    tensor->dtype == DRAFTATTN_F32 ? 4 : 2);
}

/* Keeps a job that has something to do. */
static void add_job(struct gather_args *args, const struct job *job)
{
    if (!job->from.data || (!job->copy && !job->mean && !job->spread && !job->low && !job->bias))
        return;
    args->jobs[args->count] = *job;
    args->jobs[args->count].heads_first = job->from.stride[1] < job->from.stride[2];
    args->count++;
}

static struct gather_args gather_args_of(const struct pool_cuda *pool)
{
    const struct shape_cuda *shape = &pool->shape;
    struct gather_args args = {};
    struct job q = {}, k = {}, v = {};

    args.shape = *shape;
    q.from = pool->q;
    q.copy = pool->q_copy;
    q.mean = pool->mean_q;
    q.block = TILE;
    q.video_blocks = shape->video_query_blocks;
    add_job(&args, &q);
    k.from = pool->k;
    k.copy = pool->k_copy;
    k.mean = pool->mean_k;
    k.spread = pool->spread_k;
    k.low = pool->low_k;
    k.bias = pool->bias;
    k.block = shape->key_block;
    k.video_blocks = shape->video_key_blocks;
    add_job(&args, &k);
    v.from = pool->v;
    v.copy = pool->v_copy;
    v.low = pool->low_v;
    v.block = shape->key_block;
    v.video_blocks = shape->video_key_blocks;
    add_job(&args, &v);
    return args;
}

template <typename T> static const void *kernel_of(int32_t head_dim, bool vectors)
{
    if (head_dim == 64)
        return vectors ? (const void *)gather_pool_kernel<T, 64, true>
                       : (const void *)gather_pool_kernel<T, 64, false>;
    return vectors ? (const void *)gather_pool_kernel<T, 128, true>
                   : (const void *)gather_pool_kernel<T, 128, false>;
}

static const void *kernel_for(draftattn_dtype dtype, int32_t head_dim, bool vectors)
{
    if (dtype == DRAFTATTN_F32)
        return kernel_of<float>(head_dim, vectors);
    if (dtype == DRAFTATTN_F16)
        return kernel_of<__half>(head_dim, vectors);
    return kernel_of<__nv_bfloat16>(head_dim, vectors);
}

extern "C" cudaError_t cuda_gather_pool(const struct pool_cuda *pool, cudaStream_t stream)
{
    struct gather_args args = gather_args_of(pool);
    const int64_t tiles = (int64_t)pool->shape.heads * pool->shape.query_blocks;
    void *arguments[] = {&args};
    bool vectors = true;

    if (tiles > INT32_MAX || (pool->shape.head_dim != 64 && pool->shape.head_dim != 128))
        return cudaErrorInvalidValue;
    if (args.count == 0 || tiles == 0)
        return cudaSuccess;
    for (int32_t i = 0; i < args.count; i++) {
        vectors = vectors && vectors_of(&args.jobs[i].from);
    }
    const void *kernel = kernel_for(args.jobs[0].from.dtype, pool->shape.head_dim, vectors);
    const cudaError_t error = cudaLaunchKernel(kernel, dim3((unsigned)tiles, (unsigned)args.count),
                                               dim3(THREADS), arguments, 0, stream);
    return error != cudaSuccess ? error : cudaGetLastError();
}
