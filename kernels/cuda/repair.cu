/*
 * Owns repair on the device from both ends: the probe rows' queries on their way into attention;
 * and afterwards what became of those rows in blocks that skip something. Rows that saw every key,
 * and heads that gain nothing, are left alone.
 *
 * Bound: all of this is small (256 rows a head) and waits for launches and memory; only the
 * correction in repair_apply.cu reads and writes whole tensors.
 */
#include "carve.h"
#include "repair_cuda.cuh"
#include "repair_judge.cuh"

enum {
    COLLECT_THREADS = 1024, /* a warp a row, MAX_PROBES flags at once */
    WARPS = COLLECT_THREADS / 32,
    TOGETHER = 4, /* loads of a thread that are under way at once */
    SUMS = 4,     /* that a block of threads adds up */
    JUDGE_THREADS = 32,
    ROW_THREADS = 256
};

/* ---- probe queries -------------------------------------------------------------------------- */

template <typename Element>
static __global__ void __launch_bounds__(ROW_THREADS)
    probe_kernel(struct shape_cuda shape, struct rows_cuda q, int32_t rows, Element *probe_q)
{
    int64_t row = ((int64_t)blockIdx.x * ROW_THREADS + threadIdx.x) / 32; /* a warp a row */
    if (row >= (int64_t)shape.heads * shape.probes)
        return;
    int32_t head = (int32_t)(row / shape.probes), index = (int32_t)(row % shape.probes);
    const Element *from =
        (const Element *)q.data + q_row(shape, q, head, probe_position(shape, index));
    Element *to = probe_q + ((int64_t)head * rows + index) * shape.head_dim;
    for (int32_t i = threadIdx.x % 32; i < shape.head_dim; i += 32)
        to[i] = from[i];
}

/* Blocks for a warp a probe row of every head. */
static uint32_t probe_blocks(const struct shape_cuda *shape)
{
    return (uint32_t)(((int64_t)shape->heads * shape->probes * 32 + ROW_THREADS - 1) / ROW_THREADS);
}

cudaError_t cuda_probe_queries(const struct shape_cuda *shape, draftattn_dtype dtype,
                               const struct rows_cuda *q, void *probe_q, cudaStream_t stream)
{
    if (shape->probes == 0)
        return cudaSuccess;
    int32_t rows = cuda_probe_tiles(shape) * CUDA_QUERY_BLOCK;
    if (dtype == DRAFTATTN_F32)
        probe_kernel<<<probe_blocks(shape), ROW_THREADS, 0, stream>>>(*shape, *q, rows,
                                                                      (float *)probe_q);
    else
        probe_kernel<<<probe_blocks(shape), ROW_THREADS, 0, stream>>>(*shape, *q, rows,
                                                                      (uint16_t *)probe_q);
    return cudaGetLastError();
}

/* ---- probe rows into features and residual -------------------------------------------------- */

#define NO_PLACE INT64_MIN

struct collect_room {
    int64_t place[MAX_PROBES]; /* where the row of o or q starts; NO_PLACE: it does not count */
    float column[WARPS][FIT_SLICE];
    double sums[SUMS][WARPS], total[SUMS];
};

/* Sum over the rows of the thread's column. */
static __device__ float column_sum(struct collect_room *room, float value)
{
    float sum = 0;
    room->column[threadIdx.x / 32][threadIdx.x % 32] = value;
    __syncthreads();
    for (int32_t i = 0; i < WARPS; i++)
        sum += room->column[i][threadIdx.x % 32];
    __syncthreads();
    return sum;
}

template <typename Number> static __device__ Number warp_sum(Number value)
{
    for (int32_t lane = 16; lane > 0; lane /= 2)
        value += __shfl_xor_sync(0xffffffff, value, lane);
    return value;
}

/* Takes the mean out of the thread's rows, fills up with 0, returns the sum of squares. */
static __device__ float centre_rows(const struct collect_room *room, float *column, int32_t stride,
                                    int32_t probes, int32_t rows, float mean)
{
    float squares = 0;
    for (int32_t first = threadIdx.x / 32; first < rows; first += WARPS * TOGETHER) {
        float value[TOGETHER];
        bool counts[TOGETHER];
#pragma unroll
        for (int32_t i = 0; i < TOGETHER; i++) {
            int32_t row = first + i * WARPS;
            counts[i] = row < probes && room->place[row] != NO_PLACE;
            value[i] = counts[i] ? column[row * stride] : 0;
        }
#pragma unroll
        for (int32_t i = 0; i < TOGETHER; i++) {
            value[i] = counts[i] ? value[i] - mean : 0;
            if (first + i * WARPS < rows)
                column[(first + i * WARPS) * stride] = value[i];
            squares += value[i] * value[i];
        }
    }
    return squares;
}

/* Sums of values over all threads, into room->total. */
static __device__ void add_up(struct collect_room *room, const double (&values)[SUMS])
{
    int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int32_t i = 0; i < SUMS; i++) {
        double sum = warp_sum(values[i]);
        if (lane == 0)
            room->sums[i][warp] = sum;
    }
    __syncthreads();
    if (warp < SUMS) {
        double sum = warp_sum(room->sums[warp][lane]);
        if (lane == 0)
            room->total[warp] = sum;
    }
    __syncthreads();
}

/* An element before it becomes a number: what waits for it comes later than other loads. */
static __device__ uint32_t load_bits(const void *data, draftattn_dtype dtype, int64_t index)
{
    if (dtype == DRAFTATTN_F32)
        return ((const uint32_t *)data)[index];
    return ((const uint16_t *)data)[index];
}

static __device__ float number_of(uint32_t bits, draftattn_dtype dtype)
{
    if (dtype == DRAFTATTN_F16)
        return __half2float(__ushort_as_half((uint16_t)bits));
    return __uint_as_float(dtype == DRAFTATTN_F32 ? bits : bits << 16);
}

/* A slice of FIT_SLICE columns of o and exact, or of q, of one head. */
static __global__ void __launch_bounds__(COLLECT_THREADS)
    collect_kernel(struct repair_cuda repair, struct fit_arrays arrays)
{
    __shared__ struct collect_room room;
    const struct shape_cuda &shape = repair.shape;
    int32_t head = blockIdx.x / arrays.slices, slice = blockIdx.x % arrays.slices;
    int32_t head_dim = shape.head_dim, thread = threadIdx.x;
    bool of_o = slice < arrays.slices / 2;
    int32_t feature = slice * FIT_SLICE + thread % 32, column = feature % head_dim;
    struct slice_sums *out = arrays.sums + (int64_t)head * arrays.slices + slice;
    await_launch_before();
    if (slice == 0 && thread == 0)
        arrays.done[head] = 0;
    if (head_is_full(repair, head)) {
        if (thread == 0)
            *out = {};
        return;
    }
    int64_t own = NO_PLACE;
    if (thread < shape.probes) {
        int32_t position = probe_position(shape, thread);
        if (!block_is_full(repair, head, position))
            own = of_o ? o_row(repair, head, position) : q_row(shape, repair.q, head, position);
    }
    room.place[thread] = own;
    int32_t count = __syncthreads_count(own != NO_PLACE);
    if (slice == 0 && thread < arrays.rows)
        arrays.counted[(int64_t)head * arrays.rows + thread] = own != NO_PLACE;
    const void *from = of_o ? repair.o.data : repair.q.data;
    draftattn_dtype dtype = of_o ? repair.o.dtype : repair.dtype;
    int64_t offset = of_o ? column * repair.o.stride[3] : column;

    float *x = arrays.x + (int64_t)head * arrays.rows * arrays.features + feature;
    float *residual = arrays.residual + (int64_t)head * arrays.rows * head_dim + column;
    const float *exact = repair.exact + (int64_t)head * shape.probes * head_dim + column;
    float *before = arrays.before + ((int64_t)head * (head_dim / FIT_BLOCK) + slice) * arrays.rows;
    float sum = 0, rest_sum = 0, raw = 0, error = 0, norm = 0;
    for (int32_t first = thread / 32; first < shape.probes; first += WARPS * TOGETHER) {
        float whole[TOGETHER];
        uint32_t bits[TOGETHER];
#pragma unroll
        for (int32_t i = 0; i < TOGETHER; i++) {
            int32_t row = first + i * WARPS;
            int64_t place = row < shape.probes ? room.place[row] : NO_PLACE;
            whole[i] = of_o && row < shape.probes ? exact[row * head_dim] : 0;
            bits[i] = place == NO_PLACE ? 0 : load_bits(from, dtype, place + offset);
        }
#pragma unroll
        for (int32_t i = 0; i < TOGETHER; i++) {
            int32_t row = first + i * WARPS;
            float value = number_of(bits[i], dtype), rest = whole[i] - value;
            norm += whole[i] * whole[i];
            if (row >= shape.probes || room.place[row] == NO_PLACE)
                continue;
            x[row * arrays.features] = value;
            sum += value;
            raw += value * value;
            if (of_o) {
                float squares = warp_sum(rest * rest);
                residual[row * head_dim] = rest;
                rest_sum += rest;
                error += rest * rest;
                if (thread % 32 == 0)
                    before[row] = squares;
            }
        }
    }
    float *means = arrays.mean + (int64_t)head * 3 * head_dim;
    float mean = column_sum(&room, sum) / (float)max(count, 1);
    float rest_mean = column_sum(&room, rest_sum) / (float)max(count, 1);
    float centred = centre_rows(&room, x, arrays.features, shape.probes, arrays.rows, mean);
    if (of_o)
        centre_rows(&room, residual, head_dim, shape.probes, arrays.rows, rest_mean);
    if (thread < 32) {
        means[feature] = mean;
        if (of_o)
            means[2 * head_dim + column] = rest_mean;
    }
    add_up(&room, {raw, centred, error, norm});
    if (thread == 0)
        *out = {room.total[0], room.total[1], room.total[2], room.total[3], (double)count};
}

/* ---- judgement ------------------------------------------------------------------------------ */

/* Where nothing is fitted. solve_kernel() judges fits. */
static __global__ void __launch_bounds__(JUDGE_THREADS)
    judge_kernel(struct repair_cuda repair, struct fit_arrays arrays)
{
    await_launch_before();
    judge_head(repair, arrays, blockIdx.x, false, NULL);
}

/* ---- scratch, launches ---------------------------------------------------------------------- */

/* Lays scratch out over base. */
static struct fit_arrays open_arrays(const struct shape_cuda *shape, void *base, size_t *bytes)
{
    struct carve carve = {};
    struct fit_arrays arrays = {};
    int64_t heads = shape->heads, d = shape->head_dim;
    arrays.rows = cuda_round_up(shape->probes, FIT_TILE);
    arrays.features = 2 * shape->head_dim;
    arrays.slices = arrays.features / FIT_SLICE;
    int64_t rows = arrays.rows, features = arrays.features;
    uintptr_t start = (uintptr_t)base;
#define ARRAY(name, count)                                                                         \
    arrays.name = (decltype(arrays.name))(start + carve_array(&carve, heads * (count),             \
                                                              sizeof(*arrays.name)))
    ARRAY(x, rows * features);
    ARRAY(residual, rows * d);
    ARRAY(counted, rows);
    ARRAY(mean, 3 * d);
    ARRAY(gram, features * features);
    ARRAY(cross, features * d);
    ARRAY(weight, features * d);
    ARRAY(shift, d);
    ARRAY(fragments, features * d / 2);
    ARRAY(unscale, features / FIT_BLOCK);
    ARRAY(leverage, rows);
    ARRAY(left, d / FIT_BLOCK * rows);
    ARRAY(before, d / FIT_BLOCK * rows);
    ARRAY(sums, arrays.slices);
    ARRAY(solved, 1);
    ARRAY(done, 1);
#undef ARRAY
    *bytes = carve.size;
    return arrays;
}

size_t cuda_repair_scratch(const struct shape_cuda *shape)
{
    size_t bytes;
    open_arrays(shape, NULL, &bytes);
    return bytes;
}

cudaError_t cuda_repair(const struct repair_cuda *repair, cudaStream_t stream)
{
    size_t bytes;
    const struct shape_cuda *shape = &repair->shape;
    struct fit_arrays arrays = open_arrays(shape, repair->scratch, &bytes);
    if (shape->probes == 0)
        return cudaSuccess;
    /* The first of the chain comes after whatever was launched before it. */
    collect_kernel<<<shape->heads * arrays.slices, COLLECT_THREADS, 0, stream>>>(*repair, arrays);
    cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess && !repair->apply)
        return launch_next(judge_kernel, shape->heads, JUDGE_THREADS, 0, stream, *repair, arrays);
    struct apply_plan plan;
    if (error == cudaSuccess)
        error = repair_plan(repair, &plan);
    if (error == cudaSuccess)
        error = repair_fit(repair, &arrays, &plan, stream);
    return error == cudaSuccess ? repair_apply(repair, &arrays, &plan, stream) : error;
}
