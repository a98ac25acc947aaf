/*
 * Owns repair on the device from both ends: the probe rows' queries on their way into attention;
 * and afterwards what became of those rows in blocks that skip something, whether the fit of
 * repair_fit.cu is believed (repair_rules.h), and probe rows of a corrected head delivered exactly.
 * Rows that saw every key, and heads that gain nothing, are left alone.
 *
 * Bound: all of this is small (256 rows a head) and waits for launches and memory; only the
 * correction in repair_apply.cu reads and writes whole tensors.
 */
#include "carve.h"
#include "repair_cuda.cuh"

enum {
    COLLECT_THREADS = 1024, /* a warp a row, MAX_PROBES flags at once */
    WARPS = COLLECT_THREADS / 32,
    TOGETHER = 4, /* loads of a thread that are under way at once */
    JUDGE_THREADS = 256,
    ROW_THREADS = 256
};

/* Leverages are float32 sums of up to 1: less than this of what they leave is rounding. */
#define LEVERAGE_ROUNDING 1e-5

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

struct collect_room {
    int32_t position[MAX_PROBES]; /* -1: the row does not count */
    float column[WARPS][FIT_SLICE];
    double sums[WARPS];
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

static __device__ float warp_sum(float value)
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
    for (int32_t row = threadIdx.x / 32; row < rows; row += WARPS) {
        bool counts = row < probes && room->position[row] >= 0;
        float value = counts ? column[row * stride] - mean : 0;
        column[row * stride] = value;
        squares += value * value;
    }
    return squares;
}

static __device__ float load_probe(const struct repair_cuda &repair, int32_t head, int32_t position,
                                   bool of_o, int32_t column)
{
    if (of_o)
        return load_element(repair.o.data, repair.o.dtype,
                            o_row(repair, head, position) + column * repair.o.stride[3]);
    return load_element(repair.q.data, repair.dtype,
                        q_row(repair.shape, repair.q, head, position) + column);
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
    if (head_is_full(repair, head)) {
        if (thread == 0)
            *out = {};
        return;
    }
    int32_t position = thread < shape.probes ? probe_position(shape, thread) : -1;
    if (position >= 0 && block_is_full(repair, head, position))
        position = -1;
    room.position[thread] = position;
    int32_t count = __syncthreads_count(position >= 0);
    if (slice == 0 && thread < arrays.rows)
        arrays.counted[(int64_t)head * arrays.rows + thread] = position >= 0;

    float *x = arrays.x + (int64_t)head * arrays.rows * arrays.features + feature;
    float *residual = arrays.residual + (int64_t)head * arrays.rows * head_dim + column;
    const float *exact = repair.exact + (int64_t)head * shape.probes * head_dim + column;
    float *before = arrays.before + ((int64_t)head * (head_dim / FIT_BLOCK) + slice) * arrays.rows;
    float sum = 0, rest_sum = 0, raw = 0, error = 0, norm = 0;
    for (int32_t first = thread / 32; first < shape.probes; first += WARPS * TOGETHER) {
        float value[TOGETHER], whole[TOGETHER];
#pragma unroll
        for (int32_t i = 0; i < TOGETHER; i++) {
            int32_t row = first + i * WARPS, place = row < shape.probes ? room.position[row] : -1;
            whole[i] = of_o && row < shape.probes ? exact[row * head_dim] : 0;
            value[i] = place < 0 ? 0 : load_probe(repair, head, place, of_o, column);
        }
#pragma unroll
        for (int32_t i = 0; i < TOGETHER; i++) {
            int32_t row = first + i * WARPS;
            float rest = whole[i] - value[i];
            norm += whole[i] * whole[i];
            if (row >= shape.probes || room.position[row] < 0)
                continue;
            x[row * arrays.features] = value[i];
            sum += value[i];
            raw += value[i] * value[i];
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
    struct slice_sums sums;
    sums.raw = block_sum(raw, room.sums);
    sums.centred = block_sum(centred, room.sums);
    sums.error = block_sum(error, room.sums);
    sums.norm = block_sum(norm, room.sums);
    sums.rows = count;
    if (thread == 0)
        *out = sums;
}

/* ---- judgement ------------------------------------------------------------------------------ */

/* NaN in either stays NaN: it must not read as no error. */
static __device__ float relative(double error, double norm)
{
    if (error > 0 && norm == 0)
        return INFINITY;
    return error == 0 ? 0 : (float)sqrt(error / norm);
}

/* What rows would have lost and gained had the fit not seen them, in the thread's share. False
 * where rounding has eaten a leverage. */
static __device__ bool add_unseen(const struct fit_arrays &arrays, int32_t head, int32_t head_dim,
                                  double rows, double *unseen, double *gain, double *gain_squares)
{
    int32_t columns = head_dim / FIT_BLOCK;
    const float *leverage = arrays.leverage + (int64_t)head * arrays.rows;
    const float *left = arrays.left + (int64_t)head * columns * arrays.rows;
    const float *before = arrays.before + (int64_t)head * columns * arrays.rows;
    const float *counted = arrays.counted + (int64_t)head * arrays.rows;
    bool sound = true;
    for (int32_t row = threadIdx.x; row < arrays.rows; row += JUDGE_THREADS) {
        double leverage_left = 1 - 1 / rows - leverage[row], lost = 0, whole = 0;
        if (counted[row] == 0)
            continue;
        for (int32_t i = 0; i < columns; i++) {
            lost += left[i * arrays.rows + row];
            whole += before[i * arrays.rows + row];
        }
        sound = sound && leverage_left > LEVERAGE_ROUNDING;
        lost /= leverage_left * leverage_left;
        *unseen += lost;
        *gain += whole - lost;
        *gain_squares += (whole - lost) * (whole - lost);
    }
    return sound;
}

/* Statistics of a head, and whether it is corrected. */
static __global__ void __launch_bounds__(JUDGE_THREADS)
    judge_kernel(struct repair_cuda repair, struct fit_arrays arrays)
{
    __shared__ double room[JUDGE_THREADS / 32];
    const struct shape_cuda &shape = repair.shape;
    int32_t head = blockIdx.x;
    draftattn_head_stats *stats = repair.heads + head;
    if (head_is_full(repair, head))
        return;
    struct head_sums sums = sums_of(arrays, head);
    float before = relative(sums.error, sums.norm), after = before;
    bool repaired = false;
    if (repair.apply && fit_is_due(sums) && arrays.solved[head]) {
        double unseen = 0, gain = 0, gain_squares = 0;
        bool sound =
            add_unseen(arrays, head, shape.head_dim, sums.rows, &unseen, &gain, &gain_squares);
        sound = __syncthreads_and(sound);
        unseen = block_sum(unseen, room);
        gain = block_sum(gain, room);
        gain_squares = block_sum(gain_squares, room);
        double spread = sqrt(fmax(gain_squares - gain * gain / sums.rows, 0.0));
        double gained = sums.error - unseen;
        repaired = sound && isfinite(unseen) && isfinite(gain_squares) &&
                   gained > MIN_GAIN * sums.error && gained > MIN_SPREADS * spread;
        /* The unseen error holds for the rows that are not probes; those are delivered exactly. */
        double share = 1 - (double)shape.probes / (double)shape.video_tokens;
        if (repaired)
            after = relative(unseen * share, sums.norm);
    }
    if (threadIdx.x == 0) {
        stats->error = after;
        stats->error_before = before;
        stats->repaired = repaired;
    }
}

/* ---- probe rows of a corrected head --------------------------------------------------------- */

static __global__ void __launch_bounds__(ROW_THREADS) exact_kernel(struct repair_cuda repair)
{
    const struct shape_cuda &shape = repair.shape;
    int64_t row = ((int64_t)blockIdx.x * ROW_THREADS + threadIdx.x) / 32; /* a warp a row */
    if (row >= (int64_t)shape.heads * shape.probes)
        return;
    int32_t head = (int32_t)(row / shape.probes);
    int32_t position = probe_position(shape, (int32_t)(row % shape.probes));
    if (!repair.heads[head].repaired || block_is_full(repair, head, position))
        return;
    int64_t to = o_row(repair, head, position);
    for (int32_t i = threadIdx.x % 32; i < shape.head_dim; i += 32)
        store_element(repair.o.data, repair.o.dtype, to + i * repair.o.stride[3],
                      repair.exact[row * shape.head_dim + i]);
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
    cudaError_t error = cudaSuccess;
    if (shape->probes == 0)
        return cudaSuccess;
    collect_kernel<<<shape->heads * arrays.slices, COLLECT_THREADS, 0, stream>>>(*repair, arrays);
    if (repair->apply)
        error = repair_fit(repair, &arrays, stream);
    if (error != cudaSuccess)
        return error;
    judge_kernel<<<shape->heads, JUDGE_THREADS, 0, stream>>>(*repair, arrays);
    if (!repair->apply)
        return cudaGetLastError();
    error = repair_apply(repair, &arrays, stream);
    if (error != cudaSuccess)
        return error;
    exact_kernel<<<probe_blocks(shape), ROW_THREADS, 0, stream>>>(*repair);
    return cudaGetLastError();
}
