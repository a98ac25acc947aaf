/*
 * Owns repair on the device from both ends: the probe rows' queries on their way into attention;
 * and afterwards what became of those rows in blocks that skip something. Rows that saw every key,
 * and heads that gain nothing, are left alone.
 *
 * Bound: all of this is small (256 rows a head) and waits for launches and memory; only the
 * correction in repair_apply.cu reads and writes whole tensors. Ladder: in repair_factor.cu.
 */
#include "carve.h"
#include "repair_cuda.cuh"
#include "repair_judge.cuh"

enum {
    COLLECT_THREADS = 512,
    WARPS = COLLECT_THREADS / 32,
    ROWS = COLLECT_THREADS / 16, /* half a warp a row, a lane two columns */
    TOGETHER = 8,                /* rows of a thread whose loads are under way at once */
    BATCH = ROWS * TOGETHER,
    SUMS = 4, /* that a block of threads adds up */
    JUDGE_THREADS = 32,
    ROW_THREADS = 256
};

/* ---- probe queries -------------------------------------------------------------------------- */

template <typename Element>
static __global__ void __launch_bounds__(ROW_THREADS)
    probe_kernel(struct shape_cuda shape, struct rows_cuda q, int32_t rows, Element *probe_q)
{
    int64_t row = ((int64_t)blockIdx.x * ROW_THREADS + threadIdx.x) / 32; /* a warp a row */
    if (row >= (int64_t)shape.heads * rows)
        return;
    int32_t head = (int32_t)(row / rows), index = (int32_t)(row % rows);
    bool there = index < shape.probes;
    const Element *from =
        (const Element *)q.data + q_row(shape, q, head, there ? probe_position(shape, index) : 0);
    Element *to = probe_q + row * shape.head_dim;
    for (int32_t i = threadIdx.x % 32; i < shape.head_dim; i += 32)
        to[i] = there ? from[i] : Element(0);
}

cudaError_t cuda_probe_queries(const struct shape_cuda *shape, draftattn_dtype dtype,
                               const struct rows_cuda *q, void *probe_q, cudaStream_t stream)
{
    if (shape->probes == 0)
        return cudaSuccess;
    int32_t rows = cuda_probe_tiles(shape) * CUDA_QUERY_BLOCK;
    uint32_t blocks =
        (uint32_t)(((int64_t)shape->heads * rows * 32 + ROW_THREADS - 1) / ROW_THREADS);
    if (dtype == DRAFTATTN_F32)
        probe_kernel<<<blocks, ROW_THREADS, 0, stream>>>(*shape, *q, rows, (float *)probe_q);
    else
        probe_kernel<<<blocks, ROW_THREADS, 0, stream>>>(*shape, *q, rows, (uint16_t *)probe_q);
    return cudaGetLastError();
}

/* ---- probe rows into features and residual -------------------------------------------------- */

#define NO_PLACE INT64_MIN

struct collect_room {
    int64_t place[MAX_PROBES]; /* where the row of o or q starts; NO_PLACE: it does not count */
    float column[2][FIT_SLICE][WARPS + 1]; /* sums of o or q, and of the residual */
    float mean[2][FIT_SLICE];
    float sums[SUMS][WARPS];
};

/* Over LANES neighbours. */
template <int LANES, typename Number> static __device__ Number lane_sum(Number value)
{
    for (int32_t lane = LANES / 2; lane > 0; lane /= 2)
        value += __shfl_xor_sync(0xffffffff, value, lane);
    return value;
}

static __device__ float2 subtract(float2 a, float2 b)
{
    return make_float2(a.x - b.x, a.y - b.y);
}

static __device__ float2 add(float2 a, float2 b)
{
    return make_float2(a.x + b.x, a.y + b.y);
}

static __device__ float squares_of(float2 pair)
{
    return pair.x * pair.x + pair.y * pair.y;
}

/* Those of probe rows of o or q: room->place. Returns how many count. */
static __device__ int32_t find_places(struct collect_room *room, const struct repair_cuda &repair,
                                      int32_t head, bool of_o)
{
    int32_t count = 0;
    for (int32_t index = threadIdx.x; index < MAX_PROBES; index += COLLECT_THREADS) {
        int64_t place = NO_PLACE;
        if (index < repair.shape.probes) {
            int32_t position = probe_position(repair.shape, index);
            int64_t row = of_o ? o_row(repair, head, position)
                               : q_row(repair.shape, repair.q, head, position);
            if (!block_is_full(repair, head, position))
                place = row;
        }
        room->place[index] = place;
        count += __syncthreads_count(place != NO_PLACE);
    }
    return count;
}

/* Of the slice's columns, from what a thread has added up of its two: room->mean. */
static __device__ void find_means(struct collect_room *room, const float2 (&sum)[2], int32_t count)
{
    static_assert((int)ROWS == (int)FIT_SLICE && WARPS == 16,
                  "half a warp a column, a lane a warp");
    int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = threadIdx.x / 16;
#pragma unroll
    for (int32_t i = 0; i < 2; i++) {
        float2 of_warp = {sum[i].x + __shfl_xor_sync(0xffffffff, sum[i].x, 16),
                          sum[i].y + __shfl_xor_sync(0xffffffff, sum[i].y, 16)};
        if (lane < 16) {
            room->column[i][lane * 2][warp] = of_warp.x;
            room->column[i][lane * 2 + 1][warp] = of_warp.y;
        }
    }
    __syncthreads();
#pragma unroll
    for (int32_t i = 0; i < 2; i++) {
        float all = lane_sum<16>(room->column[i][column][lane % 16]);
        if (lane % 16 == 0)
            room->mean[i][column] = all / (float)max(count, 1);
    }
    __syncthreads();
}

/* Without the mean, or 0 where the row does not count; returns the sum of squares. */
static __device__ float store_centred(float2 value, bool counts, float2 mean, float *to)
{
    float2 centred = counts ? subtract(value, mean) : make_float2(0, 0);
    *(float2 *)to = centred;
    return squares_of(centred);
}

/* What the sums of all threads come to. */
static __device__ void store_sums(struct collect_room *room, const float (&sums)[SUMS],
                                  int32_t count, struct slice_sums *out)
{
    double total[SUMS];
#pragma unroll
    for (int32_t i = 0; i < SUMS; i++) {
        float of_warp = lane_sum<32>(sums[i]);
        if (threadIdx.x % 32 == 0)
            room->sums[i][threadIdx.x / 32] = of_warp;
    }
    __syncthreads();
    if (threadIdx.x >= 32)
        return;
#pragma unroll
    for (int32_t i = 0; i < SUMS; i++)
        total[i] = lane_sum<WARPS>((double)room->sums[i][threadIdx.x % WARPS]);
    if (threadIdx.x == 0)
        *out = {total[0], total[1], total[2], total[3], (double)count};
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

/* A slice of FIT_SLICE columns of o and exact, or of q, of one head. The last batch of rows, which
 * up to 256 probes is the only one, stays in registers until the means are known. */
static __global__ void __launch_bounds__(COLLECT_THREADS)
    collect_kernel(struct repair_cuda repair, struct fit_arrays arrays)
{
    __shared__ struct collect_room room;
    const struct shape_cuda &shape = repair.shape;
    int32_t head = blockIdx.x / arrays.slices, slice = blockIdx.x % arrays.slices;
    int32_t head_dim = shape.head_dim, thread = threadIdx.x, half_lane = thread % 16;
    bool of_o = slice < arrays.slices / 2;
    int32_t feature = slice * FIT_SLICE + half_lane * 2, column = feature % head_dim;
    struct slice_sums *out = arrays.sums + (int64_t)head * arrays.slices + slice;
    await_all_before();
    bool full = head_is_full(repair, head);
    int32_t count = find_places(&room, repair, head, of_o);
    if (slice == 0 && thread == 0)
        arrays.done[head] = 0;
    if (full) {
        if (thread == 0)
            *out = {};
        return;
    }
    if (slice == 0)
        for (int32_t row = thread; row < arrays.rows; row += COLLECT_THREADS)
            arrays.counted[(int64_t)head * arrays.rows + row] = room.place[row] != NO_PLACE;
    const void *from = of_o ? repair.o.data : repair.q.data;
    draftattn_dtype dtype = of_o ? repair.o.dtype : repair.dtype;
    int64_t step = of_o ? repair.o.stride[3] : 1;

    float *x = arrays.x + (int64_t)head * arrays.rows * arrays.features + feature;
    float *residual = arrays.residual + (int64_t)head * arrays.rows * head_dim + column;
    const float *exact = repair.exact + (int64_t)head * shape.probes * head_dim + column;
    float *before = arrays.before + ((int64_t)head * (head_dim / FIT_BLOCK) + slice) * arrays.rows;
    float2 value[TOGETHER], whole[TOGETHER], sum[2] = {};
    float raw = 0, error = 0, norm = 0;
    int32_t batch = 0;
    for (;; batch += BATCH) {
        uint32_t bits[TOGETHER][2];
#pragma unroll
        for (int32_t i = 0; i < TOGETHER; i++) {
            int32_t row = batch + i * ROWS + thread / 16;
            int64_t place = room.place[row];
            whole[i] = of_o && row < shape.probes ? *(const float2 *)(exact + row * head_dim)
                                                  : make_float2(0, 0);
            bits[i][0] = place == NO_PLACE ? 0 : load_bits(from, dtype, place + column * step);
            bits[i][1] =
                place == NO_PLACE ? 0 : load_bits(from, dtype, place + (column + 1) * step);
        }
#pragma unroll
        for (int32_t i = 0; i < TOGETHER; i++) {
            int32_t row = batch + i * ROWS + thread / 16;
            bool counts = room.place[row] != NO_PLACE;
            value[i] = {number_of(bits[i][0], dtype), number_of(bits[i][1], dtype)};
            norm += squares_of(whole[i]);
            raw += squares_of(value[i]);
            sum[0] = add(sum[0], value[i]);
            if (of_o) {
                float2 rest = counts ? subtract(whole[i], value[i]) : make_float2(0, 0);
                float squares = squares_of(rest);
                error += squares;
                sum[1] = add(sum[1], rest);
                squares = lane_sum<16>(squares);
                if (half_lane == 0 && counts)
                    before[row] = squares;
            }
        }
        if (batch + BATCH >= arrays.rows)
            break;
#pragma unroll
        for (int32_t i = 0; i < TOGETHER; i++) {
            int32_t row = batch + i * ROWS + thread / 16;
            *(float2 *)(x + row * arrays.features) = value[i];
            if (of_o)
                *(float2 *)(residual + row * head_dim) = subtract(whole[i], value[i]);
        }
    }
    find_means(&room, sum, count);
    float2 mean = *(const float2 *)&room.mean[0][half_lane * 2];
    float2 rest_mean = *(const float2 *)&room.mean[1][half_lane * 2];
    float centred = 0;
    for (int32_t row = thread / 16; row < batch; row += ROWS) {
        bool counts = room.place[row] != NO_PLACE;
        float *to = x + row * arrays.features, *rest_to = residual + row * head_dim;
        centred += store_centred(*(const float2 *)to, counts, mean, to);
        if (of_o)
            store_centred(*(const float2 *)rest_to, counts, rest_mean, rest_to);
    }
#pragma unroll
    for (int32_t i = 0; i < TOGETHER; i++) {
        int32_t row = batch + i * ROWS + thread / 16;
        bool counts = room.place[row] != NO_PLACE;
        if (row >= arrays.rows)
            break;
        centred += store_centred(value[i], counts, mean, x + row * arrays.features);
        if (of_o)
            store_centred(subtract(whole[i], value[i]), counts, rest_mean,
                          residual + row * head_dim);
    }
    if (thread < 16) {
        float *means = arrays.mean + (int64_t)head * 3 * head_dim;
        *(float2 *)(means + feature) = mean;
        if (of_o)
            *(float2 *)(means + 2 * head_dim + column) = rest_mean;
    }
    store_sums(&room, {raw, centred, error, norm}, count, out);
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
    cudaError_t error = launch_next(collect_kernel, (int64_t)shape->heads * arrays.slices,
                                    COLLECT_THREADS, 0, stream, *repair, arrays);
    if (error == cudaSuccess && !repair->apply)
        return launch_next(judge_kernel, shape->heads, JUDGE_THREADS, 0, stream, *repair, arrays);
    struct apply_plan plan;
    if (error == cudaSuccess)
        error = repair_plan(repair, &plan);
    if (error == cudaSuccess)
        error = repair_fit(repair, &arrays, &plan, stream);
    return error == cudaSuccess ? repair_apply(repair, &arrays, &plan, stream) : error;
}
