/*
 * Owns the draft map on the device: per head and query block, softmax over the video key blocks of
 * the logits of means, each block weighing as many tokens as it has; and the score made from it.
 *
 * The idea: a CTA owns 32 query blocks and up to 1,024 of their columns at once, whose logits stay
 * in registers until they are probabilities: the map is written once. A warp multiplies 32 x 64,
 * pairs of mma tiles that lie WARPS apart, so that any width is shared out evenly. The means of the
 * keys pass through shared memory, SLICE elements of each at a time, the next ones while one is
 * used. A wider map comes in segments, of which all but the last leave their logits in the map and
 * fetch them back once the sum of the row is known. The spread factor is a second product of the
 * same kind, of squares and variances.
 *
 * Products are those of float32, on tensor cores: a float is split in two parts of TF32, three
 * products of them are summed from zero over 8 elements at a time, the smallest first, and join
 * the rest by a float32 addition. The tensor cores truncate, so nothing long is summed in them.
 * What is lost is the product of the small parts, 2^-22 of a product at most and of either sign.
 *
 * The order of elements within a product is free, and so is that of columns within a pair: a thread
 * takes two neighbours as its elements t and t + 4, and gets four columns side by side to store.
 *
 * On compute capability 9.0 the work is draft_map_sm90.cu's.
 *
 * Bound by mma: at 24 x 928 x 928 x 128, 3 x 5.3 GFLOP; and near to it by the second-level cache,
 * from which every CTA takes the keys of its head, 330 MB.
 *
 * Ladder, 24 x 928 x 928 x 128 on an H100
 *   v1  FMA, 8 x 8 a thread, logits through the map: 0.255 ms; with spread 0.625, 12 x 256 x 256
 *       0.026
 *   v2  as above: 0.212 ms; with spread 0.383, 12 x 256 x 256 0.021, 24 x 928 x 1856 x 128 0.421
 */
#include "draft_map.cuh"

#include <cuda_pipeline.h>

#include <float.h>
#include <math.h>

enum {
    WARPS = 16,
    THREADS = WARPS * 32,
    TILE_ROWS = 32,
    ROWS = TILE_ROWS / 8, /* of a thread, 8 apart */
    PAIR_COLUMNS = MAP_EVEN,
    PAIRS = 4, /* of a warp */
    MOST_COLUMNS = WARPS * PAIRS * PAIR_COLUMNS,
    DEPTH = 8,  /* of an mma; in shared memory, so many elements of a row lie side by side */
    SLICE = 16, /* elements of each key that a stage brings */
    GAP = 2,    /* rows left free after each DEPTH elements of all rows, for the banks' sake */
    MANY_STAGES = 6,
    FEW_STAGES = 3
};

/* What a CTA works on. */
struct rows_of_map {
    const float *from; /* [columns][HEAD_DIM] of the head: means, later variances */
    float *map;        /* row 0 of them */
    int32_t count;     /* rows, <= TILE_ROWS */
};

/* In front of the stages in shared memory. */
template <int HEAD_DIM> struct alignas(16) shared_room {
    float queries[HEAD_DIM * (TILE_ROWS + GAP)]; /* see place() */
    struct softmax_part parts[TILE_ROWS][WARPS + 2];
    struct rows_of_map rows; /* here, lest it take registers */
};

/* Sums of a thread: [m][pair][tile][i] is of row 2 m + i / 2, column 2 tile + i % 2 of four. */
typedef float sums[ROWS / 2][PAIRS][2][4];

DEVICE float &sum_of(sums &sum, int row, int pair, int column)
{
    return sum[row / 2][pair][column / 2][row % 2 * 2 + column % 2];
}

/* Where element d of a row lies, of `rows` in shared memory. */
DEVICE int32_t place(int32_t rows, int32_t row, int32_t d)
{
    return (d / DEPTH * (rows + GAP) + row) * DEPTH + d % DEPTH;
}

/* The first of the four columns of this thread in a pair, counted in the segment. */
DEVICE int32_t first_column(int32_t pair)
{
    const int32_t warp = threadIdx.x / 32;
    return (warp + pair * WARPS) * PAIR_COLUMNS + (int32_t)threadIdx.x % 4 * 4;
}

DEVICE int32_t row_of_thread(int32_t i)
{
    return i * 8 + (int32_t)threadIdx.x % 32 / 4;
}

/* ---- products ------------------------------------------------------------------------------- */

/* Part of what the next stage commits. Rows that do not exist are zero. */
template <int HEAD_DIM>
DEVICE void fetch_queries(struct shared_room<HEAD_DIM> &room, const float *queries)
{
    constexpr int PIECES = HEAD_DIM / 4;

    for (int32_t i = threadIdx.x; i < TILE_ROWS * PIECES; i += THREADS) {
        const int32_t row = i / PIECES, d = i % PIECES * 4;
        const bool there = row < room.rows.count;
        __pipeline_memcpy_async(room.queries + place(TILE_ROWS, row, d),
                                queries + (there ? row : 0) * HEAD_DIM + d, 16, there ? 0 : 16);
    }
}

/* Where a stage lies: behind the room. */
template <int HEAD_DIM, int STAGES>
DEVICE float *stage_keys(struct shared_room<HEAD_DIM> &room, int32_t width, int32_t stage)
{
    return (float *)(&room + 1) + stage % STAGES * (SLICE * (width + GAP));
}

/* Stage number `stage` on its way: SLICE elements of the keys of a segment; past the last stage,
 * nothing. Columns that do not exist are zero. */
template <int HEAD_DIM, int STAGES>
DEVICE void fetch_keys(const struct map_args &args, struct shared_room<HEAD_DIM> &room,
                       int32_t stage)
{
    constexpr int SLICES = HEAD_DIM / SLICE, PIECES = SLICE / 4;
    const int32_t piece = (int32_t)(threadIdx.x % PIECES) * 4;
    const int32_t first = stage / SLICES * args.width, d = stage % SLICES * SLICE + piece;
    const int32_t width = stage < args.segments * SLICES ? args.width : 0;
    const float *from = room.rows.from + d;
    float *to = stage_keys<HEAD_DIM, STAGES>(room, args.width, stage) + place(args.width, 0, piece);

#pragma unroll 2
    for (int32_t i = (int32_t)(threadIdx.x / PIECES); i < width; i += THREADS / PIECES) {
        const bool there = first + i < args.columns;
        const int64_t row = there ? first + i : 0;
        __pipeline_memcpy_async(to + place(0, i, 0), from + row * HEAD_DIM, 16, there ? 0 : 16);
    }
    __pipeline_commit();
}

DEVICE void multiply_parts(const uint32_t (&a)[ROWS / 2][4], const uint32_t (&b)[2],
                           float (&sum)[ROWS / 2][4])
{
#pragma unroll
    for (int m = 0; m < ROWS / 2; m++) {
        multiply_tf32(sum[m], a[m], b);
    }
}

/* Adds the products over DEPTH elements, which begin at queries and at keys. */
DEVICE void multiply(const float *queries, const float *keys, int32_t pairs, sums &sum)
{
    const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4;
    uint32_t big[ROWS / 2][4], small[ROWS / 2][4];

    queries += place(TILE_ROWS, g, lane % 4 * 2);
    keys += place(0, warp * PAIR_COLUMNS + g / 2 * 4 + g % 2, lane % 4 * 2);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const float2 query = *(const float2 *)(queries + place(TILE_ROWS, i * 8, 0));
        split_float(query.x, &big[i / 2][i % 2], &small[i / 2][i % 2]);
        split_float(query.y, &big[i / 2][i % 2 + 2], &small[i / 2][i % 2 + 2]);
    }
#pragma unroll
    for (int pair = 0; pair < PAIRS; pair++) {
        if (warp + pair * WARPS >= pairs)
            return;
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
            const int32_t row = pair * WARPS * PAIR_COLUMNS + tile * 2;
            const float2 key = *(const float2 *)(keys + place(0, row, 0));
            uint32_t key_big[2], key_small[2];
            split_float(key.x, &key_big[0], &key_small[0]);
            split_float(key.y, &key_big[1], &key_small[1]);
            float part[ROWS / 2][4] = {};
            multiply_parts(small, key_big, part);
            multiply_parts(big, key_small, part);
            multiply_parts(big, key_big, part);
#pragma unroll
            for (int i = 0; i < ROWS / 2 * 4; i++) {
                sum[i / 4][pair][tile][i % 4] += part[i / 4][i % 4];
            }
        }
    }
}

/* The first stages on their way; the others are fetched as products() goes along. */
template <int HEAD_DIM, int STAGES>
DEVICE void begin_products(const struct map_args &args, struct shared_room<HEAD_DIM> &room)
{
#pragma unroll 1
    for (int32_t stage = 0; stage < STAGES - 1; stage++) {
        fetch_keys<HEAD_DIM, STAGES>(args, room, stage);
    }
}

/* All products of a segment. */
template <int HEAD_DIM, int STAGES>
DEVICE void products(const struct map_args &args, struct shared_room<HEAD_DIM> &room,
                     int32_t segment, sums &sum)
{
    constexpr int SLICES = HEAD_DIM / SLICE;
    const int32_t count = min(args.width, args.columns - segment * args.width);
    const int32_t pairs = (count + PAIR_COLUMNS - 1) / PAIR_COLUMNS;

    for (int32_t slice = 0; slice < SLICES; slice++) {
        const int32_t stage = segment * SLICES + slice;
        const float *keys = stage_keys<HEAD_DIM, STAGES>(room, args.width, stage);
        __pipeline_wait_prior(STAGES - 2);
        __syncthreads(); /* the stage is there, and the one before it has been used */
        fetch_keys<HEAD_DIM, STAGES>(args, room, stage + STAGES - 1);
#pragma unroll
        for (int d = 0; d < SLICE; d += DEPTH) {
            multiply(room.queries + place(TILE_ROWS, 0, slice * SLICE + d),
                     keys + place(args.width, 0, d), pairs, sum);
        }
    }
}

/* ---- the map -------------------------------------------------------------------------------- */

/* Four columns, of which `there` exist. */
DEVICE float4 load_four(const struct map_args &args, const float *from, int32_t there)
{
    if (args.vectors)
        return *(const float4 *)from;
    return make_float4(from[0], there > 1 ? from[1] : 0, there > 2 ? from[2] : 0,
                       there > 3 ? from[3] : 0);
}

DEVICE void store_four(const struct map_args &args, float *to, int32_t there, float4 value)
{
    if (args.vectors) {
        *(float4 *)to = value;
        return;
    }
    to[0] = value.x;
    if (there > 1)
        to[1] = value.y;
    if (there > 2)
        to[2] = value.z;
    if (there > 3)
        to[3] = value.w;
}

/* Calls four(row, pair, to, there) for each four columns that this thread has of a segment. */
template <typename Four>
DEVICE void each_four(const struct map_args &args, const struct rows_of_map &rows, int32_t segment,
                      Four four)
{
    const int32_t first = segment * args.width;
    const int32_t end = min(args.columns, first + args.width);

#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        if (row_of_thread(row) >= rows.count)
            return;
#pragma unroll
        for (int pair = 0; pair < PAIRS; pair++) {
            const int32_t column = first + first_column(pair);
            if (column < end)
                four(row, pair, rows.map + (row_of_thread(row) * args.columns + column),
                     args.columns - column);
        }
    }
}

/* Sums times the factors of their rows become the map. */
DEVICE void store(const struct map_args &args, const struct rows_of_map &rows, int32_t segment,
                  sums &sum, const float (&factor)[ROWS])
{
    each_four(args, rows, segment, [&](int row, int pair, float *to, int32_t there) {
        const float by = factor[row];
        store_four(args, to, there,
                   make_float4(by * sum_of(sum, row, pair, 0), by * sum_of(sum, row, pair, 1),
                               by * sum_of(sum, row, pair, 2), by * sum_of(sum, row, pair, 3)));
    });
}

/* ---- softmax -------------------------------------------------------------------------------- */

/* Of the four lanes that share rows. */
DEVICE float four_max(float value)
{
    value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffff, value, 2));
}

DEVICE float four_sum(float value)
{
    value += __shfl_xor_sync(0xffffffff, value, 1);
    return value + __shfl_xor_sync(0xffffffff, value, 2);
}

/* Products become base-2 logits; -INFINITY where there is no column. */
DEVICE void logits(const struct map_args &args, int32_t segment, sums &sum)
{
    const int32_t last = args.columns - 1 - segment * args.width;

#pragma unroll
    for (int pair = 0; pair < PAIRS; pair++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int32_t column = first_column(pair) + i;
            const bool there = column <= last && column < args.width;
            const float log_n = column == last ? args.log_last : args.log_block;
#pragma unroll
            for (int row = 0; row < ROWS; row++) {
                float &value = sum_of(sum, row, pair, i);
                value = there ? fmaf(args.scale_log2, value, log_n) : -INFINITY;
            }
        }
    }
}

/* Logits become powers of two, relative to the largest that the warp has of a row. */
DEVICE struct softmax_part powers(sums &sum, int row)
{
    struct softmax_part part = {-FLT_MAX, 0};

#pragma unroll
    for (int i = 0; i < PAIRS * 4; i++) {
        part.largest = fmaxf(part.largest, sum_of(sum, row, i / 4, i % 4));
    }
    part.largest = four_max(part.largest);
#pragma unroll
    for (int i = 0; i < PAIRS * 4; i++) {
        float &value = sum_of(sum, row, i / 4, i % 4);
        value = exp2f(value - part.largest);
        part.sum += value;
    }
    part.sum = four_sum(part.sum);
    return part;
}

/* Of all warps. */
DEVICE struct softmax_part gather(const struct softmax_part (&parts)[WARPS + 2])
{
    const float4 *from = (const float4 *)&parts[threadIdx.x % 4 * (WARPS / 4)];
    const float4 a = from[0], b = from[1]; /* two parts each */
    struct softmax_part all;

    all.largest = four_max(fmaxf(fmaxf(a.x, a.z), fmaxf(b.x, b.z)));
    all.sum = four_sum(a.y * exp2f(a.x - all.largest) + a.w * exp2f(a.z - all.largest) +
                       (b.y * exp2f(b.x - all.largest) + b.w * exp2f(b.z - all.largest)));
    return all;
}

/* Logits become powers. Keeps the rows as they are with this segment, beside those before it.
 * factor: of the powers, were this segment the last. */
DEVICE void softmax(struct softmax_part (&parts)[TILE_ROWS][WARPS + 2], int32_t segment, sums &sum,
                    float (&factor)[ROWS])
{
    const int32_t warp = threadIdx.x / 32, t = threadIdx.x % 4;
    float largest[ROWS];

#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        const struct softmax_part part = powers(sum, row);
        largest[row] = part.largest;
        if (t == row)
            parts[row_of_thread(row)][warp] = part;
    }
    __syncthreads();
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        struct softmax_part(&kept)[WARPS + 2] = parts[row_of_thread(row)];
        struct softmax_part all = gather(kept);
        if (segment > 0)
            all = joined(all, kept[WARPS + (segment - 1) % 2]);
        if (warp == 0 && t == row)
            kept[WARPS + segment % 2] = all;
        factor[row] = exp2f(largest[row] - all.largest) / all.sum;
    }
}

/* The map of the rows: a segment's logits stay in the map until the last is known. */
template <int HEAD_DIM, int STAGES>
DEVICE void make_map(const struct map_args &args, struct shared_room<HEAD_DIM> &room)
{
    const int32_t before = args.segments - 1;

    for (int32_t segment = 0; segment <= before; segment++) {
        float factor[ROWS] = {1, 1, 1, 1};
        sums sum = {};
        products<HEAD_DIM, STAGES>(args, room, segment, sum);
        logits(args, segment, sum);
        if (segment < before)
            store(args, room.rows, segment, sum, factor);
        softmax(room.parts, segment, sum, factor);
        if (segment == before)
            store(args, room.rows, segment, sum, factor);
    }
    if (before > 0)
        __syncthreads(); /* what is kept of all segments is visible */
    for (int32_t segment = 0; segment < before; segment++) {
        each_four(args, room.rows, segment, [&](int row, int, float *to, int32_t there) {
            const struct softmax_part all = room.parts[row_of_thread(row)][WARPS + before % 2];
            const float4 logit = load_four(args, to, there);
            const float share = 1 / all.sum;
            store_four(args, to, there,
                       make_float4(exp2f(logit.x - all.largest) * share,
                                   exp2f(logit.y - all.largest) * share,
                                   exp2f(logit.z - all.largest) * share,
                                   exp2f(logit.w - all.largest) * share));
        });
    }
}

/* Products of squares and variances multiply what is in the map, each thread's own. */
template <int HEAD_DIM, int STAGES>
DEVICE void apply_spread(const struct map_args &args, struct shared_room<HEAD_DIM> &room)
{
    for (int32_t segment = 0; segment < args.segments; segment++) {
        sums sum = {};
        products<HEAD_DIM, STAGES>(args, room, segment, sum);
        each_four(args, room.rows, segment, [&](int row, int pair, float *to, int32_t there) {
            const float4 value = load_four(args, to, there);
            store_four(args, to, there,
                       make_float4(value.x * (args.scale * sqrtf(sum_of(sum, row, pair, 0))),
                                   value.y * (args.scale * sqrtf(sum_of(sum, row, pair, 1))),
                                   value.z * (args.scale * sqrtf(sum_of(sum, row, pair, 2))),
                                   value.w * (args.scale * sqrtf(sum_of(sum, row, pair, 3)))));
        });
    }
}

template <int HEAD_DIM, int STAGES>
static __global__ void __launch_bounds__(THREADS, 1)
    draft_map_kernel(const __grid_constant__ struct map_args args)
{
    extern __shared__ float4 shared[];
    struct shared_room<HEAD_DIM> &room = *(struct shared_room<HEAD_DIM> *)shared;
    const int32_t head = (int32_t)blockIdx.x / args.row_tiles;
    const int32_t first = (int32_t)blockIdx.x % args.row_tiles * TILE_ROWS;
    const int64_t row = (int64_t)head * args.rows + first;
    const int64_t keys = (int64_t)head * args.columns * HEAD_DIM;

    if (threadIdx.x == 0)
        room.rows = {args.mean_k + keys, args.map + row * args.columns,
                     min(TILE_ROWS, args.rows - first)};
    __syncthreads();
    fetch_queries<HEAD_DIM>(room, args.mean_q + row * HEAD_DIM);
    begin_products<HEAD_DIM, STAGES>(args, room);
    make_map<HEAD_DIM, STAGES>(args, room);
    if (!args.spread_k)
        return;
    /* The barrier in softmax() was behind all reads of queries and keys; the gap is not read. */
    for (int32_t i = threadIdx.x; i < HEAD_DIM * (TILE_ROWS + GAP); i += THREADS) {
        room.queries[i] *= room.queries[i];
    }
    if (threadIdx.x == 0)
        room.rows.from = args.spread_k + keys;
    __syncthreads();
    begin_products<HEAD_DIM, STAGES>(args, room);
    apply_spread<HEAD_DIM, STAGES>(args, room);
}

/* ---- launch --------------------------------------------------------------------------------- */

static int32_t room_bytes(int32_t head_dim)
{
    return head_dim == 64 ? (int32_t)sizeof(struct shared_room<64>)
                          : (int32_t)sizeof(struct shared_room<128>);
}

static int32_t stage_bytes(int32_t width)
{
    return SLICE * (width + GAP) * (int32_t)sizeof(float);
}

/* The kernel is allowed the most there is, whatever this launch takes: threads may be here at once,
 * and what one of them allows holds for all. */
template <int HEAD_DIM, int STAGES>
static cudaError_t launch(const struct map_args *args, int64_t tiles, int most_bytes,
                          cudaStream_t stream)
{
    const void *kernel = (const void *)draft_map_kernel<HEAD_DIM, STAGES>;
    const int bytes = room_bytes(HEAD_DIM) + STAGES * stage_bytes(args->width);
    void *arguments[] = {(void *)args};
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_bytes);

    if (error == cudaSuccess)
        error = cudaLaunchKernel(kernel, dim3((unsigned)tiles), dim3(THREADS), arguments,
                                 (size_t)bytes, stream);
    return error != cudaSuccess ? error : cudaGetLastError();
}

static struct map_args args_of(const struct shape_cuda *shape)
{
    const int32_t columns = shape->video_key_blocks;
    const int32_t last = shape->video_tokens - (columns - 1) * shape->key_block;
    struct map_args args = {};

    args.rows = shape->video_query_blocks;
    args.columns = columns;
    args.scale = shape->scale;
    args.scale_log2 = (float)((double)shape->scale * M_LOG2E);
    args.log_block = log2f((float)shape->key_block);
    args.log_last = log2f((float)last);
    return args;
}

/* On a device whose blocks may have most_bytes of shared memory: segments as wide as the stages'
 * room allows. */
static cudaError_t draft_map_mma(struct map_args *args, int32_t heads, int32_t head_dim,
                                 int most_bytes, cudaStream_t stream)
{
    args->row_tiles = (args->rows + TILE_ROWS - 1) / TILE_ROWS;
    const int64_t tiles = (int64_t)heads * args->row_tiles;
    const int32_t room = most_bytes - room_bytes(head_dim);
    const int32_t fit = room / (FEW_STAGES * SLICE * (int32_t)sizeof(float)) - GAP;

    if (tiles > INT32_MAX)
        return cudaErrorInvalidValue;
    set_segments(args, min(fit / PAIR_COLUMNS * PAIR_COLUMNS, (int32_t)MOST_COLUMNS));
    const bool many = MANY_STAGES * stage_bytes(args->width) <= room;
    if (head_dim == 64)
        return many ? launch<64, MANY_STAGES>(args, tiles, most_bytes, stream)
                    : launch<64, FEW_STAGES>(args, tiles, most_bytes, stream);
    return many ? launch<128, MANY_STAGES>(args, tiles, most_bytes, stream)
                : launch<128, FEW_STAGES>(args, tiles, most_bytes, stream);
}

/* Of the current device: compute capability * 10 and shared memory that a block may have. */
static cudaError_t find_device(int *capability, int *most_bytes)
{
    int device = 0, major = 0, minor = 0;
    cudaError_t error = cudaGetDevice(&device);

    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    *capability = major * 10 + minor;
    return error;
}

extern "C" cudaError_t cuda_draft_map(const struct shape_cuda *shape, const float *mean_q,
                                      const float *mean_k, const float *spread_k, float *map,
                                      cudaStream_t stream)
{
    struct map_args args = args_of(shape);
    int capability = 0, most_bytes = 0;

    if (shape->heads == 0 || args.rows == 0 || args.columns == 0)
        return cudaSuccess;
    if ((shape->head_dim != 64 && shape->head_dim != 128) ||
        ((uintptr_t)mean_q | (uintptr_t)mean_k | (uintptr_t)spread_k) % sizeof(float4) != 0)
        return cudaErrorInvalidValue;
    cudaError_t error = find_device(&capability, &most_bytes);
    if (error != cudaSuccess)
        return error;
    args.mean_q = mean_q;
    args.mean_k = mean_k;
    args.spread_k = spread_k;
    args.map = map;
    args.vectors = args.columns % 4 == 0 && (uintptr_t)map % sizeof(float4) == 0;
#if defined(DRAFTATTN_CUDA_SM90)
    if (capability == 90)
        return draft_map_sm90(&args, shape->heads, shape->head_dim, stream);
#endif
    return draft_map_mma(&args, shape->heads, shape->head_dim, most_bytes, stream);
}
