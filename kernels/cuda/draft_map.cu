/*
 * Owns the draft map on the device: per head and query block, softmax over the video key blocks of
 * the logits of means, each block weighing as many tokens as it has; and the score made from it.
 *
 * The idea: a CTA owns 32 query blocks and all their columns. It multiplies in float32, 8 x 8
 * products a thread, a warp 64 columns: the means of its queries stay in shared memory, those of
 * the keys pass through it, MEANS_DEPTH elements of 256 blocks at a time, the next while one is
 * used. Rows in shared memory are padded so that eight neighbours lie in all the banks; a thread
 * reads four elements of a row at once, and the products need no transpose. Logits go to the map
 * and come back for the softmax, a warp a row, up to 1,024 columns in its registers. The spread
 * factor is a second product of the same kind, of squares and variances.
 *
 * Few rows are under way at once, so that logits come back from L2: 2 x 132 CTAs x 32 rows x 928
 * columns are 31 MB.
 *
 * Bound by FMA: at 24 x 928 x 928 x 128, 5.3 GFLOP.
 *
 * Ladder
 *   v1  as above: 24 x 928 x 928 x 128 0.255 ms (21 TFLOP/s), with spread 0.625 ms; 24 x 928 x 1856
 *       x 128 0.551 ms; 12 x 256 x 256 x 128 0.026 ms (H100, warm, median)
 */
#include "attend_item.cuh"

#include <cuda_pipeline.h>

#include <math.h>

enum {
    WARPS = 4,
    THREADS = WARPS * 32,
    TILE_ROWS = 32,
    WARP_COLUMNS = 64,
    TILE_COLUMNS = WARPS * WARP_COLUMNS,
    ROW_LANES = 4,                /* of a warp, beside */
    COLUMN_LANES = 8,             /* of them: neighbours in a row */
    ROWS = TILE_ROWS / ROW_LANES, /* of a thread */
    COLUMNS = WARP_COLUMNS / COLUMN_LANES,
    MEANS_DEPTH = 16,
    PAD = 4,
    KEY_STRIDE = MEANS_DEPTH + PAD,
    HELD = 32 /* columns of a row that a lane holds */
};

struct map_args {
    const float *mean_q, *mean_k, *spread_k;
    float *map;
    int32_t rows, columns, row_tiles;
    float scale, log_block, log_last; /* log n of a key block, and of the last one */
};

template <int HEAD_DIM> struct shared_means {
    float keys[2][TILE_COLUMNS][KEY_STRIDE];
    float queries[TILE_ROWS][HEAD_DIM + PAD];
};

/* What a CTA works on. */
struct rows_of_map {
    float *map;        /* row 0 of them */
    const float *keys; /* [columns][HEAD_DIM] of the head */
    int32_t count;     /* rows, <= TILE_ROWS */
};

/* Rows that do not exist are zero. */
template <int HEAD_DIM>
DEVICE void load_queries(struct shared_means<HEAD_DIM> &means, const float *queries, int32_t count)
{
    constexpr int PIECES = HEAD_DIM / 4;

    for (int32_t i = threadIdx.x; i < TILE_ROWS * PIECES; i += THREADS) {
        const int32_t row = i / PIECES, d = i % PIECES * 4;
        const float4 *from = (const float4 *)(queries + row * HEAD_DIM + d);
        *(float4 *)&means.queries[row][d] = row < count ? *from : make_float4(0, 0, 0, 0);
    }
}

/* Stage number `stage` of the keys on its way: elements [d, d + MEANS_DEPTH) of a tile of columns.
 * Columns that do not exist are zero. */
template <int HEAD_DIM>
DEVICE void fetch_keys(struct shared_means<HEAD_DIM> &means, const float *keys, int32_t columns,
                       int32_t stage)
{
    constexpr int STAGES = HEAD_DIM / MEANS_DEPTH, PIECES = MEANS_DEPTH / 4;
    const int32_t first = stage / STAGES * TILE_COLUMNS, d = stage % STAGES * MEANS_DEPTH;

#pragma unroll
    for (int n = 0; n < TILE_COLUMNS * PIECES / THREADS; n++) {
        const int32_t i = n * THREADS + (int32_t)threadIdx.x;
        const int32_t column = i / PIECES, piece = i % PIECES * 4;
        const bool there = first + column < columns;
        const int64_t row = there ? first + column : 0;
        __pipeline_memcpy_async(&means.keys[stage % 2][column][piece],
                                keys + row * HEAD_DIM + d + piece, 16, there ? 0 : 16);
    }
    __pipeline_commit();
}

/* Adds the products over one stage. */
template <int HEAD_DIM>
DEVICE void multiply(const struct shared_means<HEAD_DIM> &means, int32_t stage,
                     float (&sum)[ROWS][COLUMNS])
{
    constexpr int STAGES = HEAD_DIM / MEANS_DEPTH;
    const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float(*keys)[KEY_STRIDE] =
        &means.keys[stage % 2][warp * WARP_COLUMNS + lane % COLUMN_LANES];
    const float(*queries)[HEAD_DIM + PAD] = &means.queries[lane / COLUMN_LANES];
    const int32_t first = stage % STAGES * MEANS_DEPTH;

#pragma unroll 2
    for (int d = 0; d < MEANS_DEPTH; d += 4) {
        float4 key[COLUMNS];
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            key[j] = *(const float4 *)&keys[j * COLUMN_LANES][d];
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const float4 query = *(const float4 *)&queries[i * ROW_LANES][first + d];
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                sum[i][j] = fmaf(query.x, key[j].x, sum[i][j]);
                sum[i][j] = fmaf(query.y, key[j].y, sum[i][j]);
                sum[i][j] = fmaf(query.z, key[j].z, sum[i][j]);
                sum[i][j] = fmaf(query.w, key[j].w, sum[i][j]);
            }
        }
    }
}

/* A tile of products becomes logits; or, of squares, multiplies what is there. */
template <bool SPREAD>
DEVICE void deliver(const struct map_args &args, const struct rows_of_map &rows, int32_t first,
                    const float (&sum)[ROWS][COLUMNS])
{
    const int32_t lane = threadIdx.x % 32;

#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int32_t row = i * ROW_LANES + lane / COLUMN_LANES;
        float *to = rows.map + (int64_t)row * args.columns;
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            const int32_t column = first + j * COLUMN_LANES + lane % COLUMN_LANES;
            if (row >= rows.count || column >= args.columns)
                continue;
            if (SPREAD)
                to[column] *= args.scale * sqrtf(sum[i][j]);
            else
                to[column] = fmaf(args.scale, sum[i][j],
                                  column == args.columns - 1 ? args.log_last : args.log_block);
        }
    }
}

/* All products of the rows in means.queries with the keys. */
template <int HEAD_DIM, bool SPREAD>
DEVICE void products(const struct map_args &args, const struct rows_of_map &rows,
                     struct shared_means<HEAD_DIM> &means)
{
    constexpr int STAGES = HEAD_DIM / MEANS_DEPTH;
    const int32_t tiles = (args.columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
    const int32_t warp_first = (int32_t)threadIdx.x / 32 * WARP_COLUMNS;

    fetch_keys(means, rows.keys, args.columns, 0);
    for (int32_t tile = 0; tile < tiles; tile++) {
        const int32_t first = tile * TILE_COLUMNS + warp_first;
        float sum[ROWS][COLUMNS] = {};
        for (int32_t stage = tile * STAGES; stage < (tile + 1) * STAGES; stage++) {
            __pipeline_wait_prior(0);
            __syncthreads(); /* the stage is there, and the one before it has been used */
            if (stage + 1 < tiles * STAGES)
                fetch_keys(means, rows.keys, args.columns, stage + 1);
            if (first < args.columns)
                multiply(means, stage, sum);
        }
        deliver<SPREAD>(args, rows, first, sum);
    }
    __syncthreads(); /* keys and queries are free, the map is visible */
}

DEVICE float warp_max(float value)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, mask));
    }
    return value;
}

DEVICE float warp_sum(float value)
{
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
        value += __shfl_xor_sync(0xffffffff, value, mask);
    }
    return value;
}

/* Of a warp. A long row is read twice: once for its largest logit and its sum, in pieces. */
DEVICE void softmax(float *row, int32_t columns)
{
    const int32_t lane = threadIdx.x % 32;
    float held[HELD], largest = -INFINITY, sum = 0;

    for (int32_t first = 0; first < columns; first += 32 * HELD) {
        float top = largest, part = 0;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const int32_t column = first + i * 32 + lane;
            held[i] = column < columns ? row[column] : -INFINITY;
        }
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            top = fmaxf(top, held[i]);
        }
        top = warp_max(top);
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            held[i] = expf(held[i] - top);
            part += held[i];
        }
        sum = sum * expf(largest - top) + warp_sum(part);
        largest = top;
    }
    const float share = 1 / sum;
    if (columns > 32 * HELD) {
#pragma unroll 8
        for (int32_t column = lane; column < columns; column += 32) {
            row[column] = expf(row[column] - largest) * share;
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        if (i * 32 + lane < columns)
            row[i * 32 + lane] = held[i] * share;
    }
}

template <int HEAD_DIM>
static __global__ void __launch_bounds__(THREADS, 2)
    draft_map_kernel(const __grid_constant__ struct map_args args)
{
    extern __shared__ float4 shared[];
    struct shared_means<HEAD_DIM> &means = *(struct shared_means<HEAD_DIM> *)shared;
    const int32_t head = (int32_t)blockIdx.x / args.row_tiles;
    const int32_t first = (int32_t)blockIdx.x % args.row_tiles * TILE_ROWS;
    const int64_t row = (int64_t)head * args.rows + first;
    const int64_t keys = (int64_t)head * args.columns * HEAD_DIM;
    struct rows_of_map rows = {args.map + row * args.columns, args.mean_k + keys,
                               min(TILE_ROWS, args.rows - first)};

    load_queries(means, args.mean_q + row * HEAD_DIM, rows.count);
    products<HEAD_DIM, false>(args, rows, means);
    for (int32_t i = threadIdx.x / 32; i < rows.count; i += WARPS) {
        softmax(rows.map + (int64_t)i * args.columns, args.columns);
    }
    if (!args.spread_k)
        return;
    for (int32_t i = threadIdx.x; i < TILE_ROWS * HEAD_DIM; i += THREADS) {
        float *query = &means.queries[i / HEAD_DIM][i % HEAD_DIM];
        *query *= *query;
    }
    rows.keys = args.spread_k + keys;
    __syncthreads(); /* the softmax is visible */
    products<HEAD_DIM, true>(args, rows, means);
}

template <int HEAD_DIM>
static cudaError_t launch(const struct map_args *args, int64_t tiles, cudaStream_t stream)
{
    const void *kernel = (const void *)draft_map_kernel<HEAD_DIM>;
    const int bytes = (int)sizeof(struct shared_means<HEAD_DIM>);
    void *arguments[] = {(void *)args};
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);

    if (error == cudaSuccess)
        error = cudaLaunchKernel(kernel, dim3((unsigned)tiles), dim3(THREADS), arguments,
                                 (size_t)bytes, stream);
    return error != cudaSuccess ? error : cudaGetLastError();
}

extern "C" cudaError_t cuda_draft_map(const struct shape_cuda *shape, const float *mean_q,
                                      const float *mean_k, const float *spread_k, float *map,
                                      cudaStream_t stream)
{
    const int32_t columns = shape->video_key_blocks;
    const int32_t last = shape->video_tokens - (columns - 1) * shape->key_block;
    struct map_args args = {};

    args.mean_q = mean_q;
    args.mean_k = mean_k;
    args.spread_k = spread_k;
    args.map = map;
    args.rows = shape->video_query_blocks;
    args.columns = columns;
    args.row_tiles = (args.rows + TILE_ROWS - 1) / TILE_ROWS;
    args.scale = shape->scale;
    args.log_block = logf((float)shape->key_block);
    args.log_last = logf((float)last);
    const int64_t tiles = (int64_t)shape->heads * args.row_tiles;
    if (tiles == 0 || columns == 0)
        return cudaSuccess;
    if (tiles > INT32_MAX ||
        ((uintptr_t)mean_q | (uintptr_t)mean_k | (uintptr_t)spread_k) % sizeof(float4) != 0)
        return cudaErrorInvalidValue;
    if (shape->head_dim == 64)
        return launch<64>(&args, tiles, stream);
    if (shape->head_dim == 128)
        return launch<128>(&args, tiles, stream);
    return cudaErrorInvalidValue;
}
