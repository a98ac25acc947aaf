/*
 * The correction: o += shift + [o, q] weight for the video rows of blocks that skip something, of
 * heads that repair_fit.cu's weights help, in place. Each row is read once and written once; those
 * that are probes are then overwritten by their exact rows, by the same threads.
 *
 * Tensor cores, where q and o are of one half type and rows are whole vectors: a warp takes 16
 * rows at a time. Which column of a row a place in a fragment stands for is free as long as all
 * factors agree; it is chosen so that a lane's 16 bytes of global memory are its share of two
 * fragments of o or q, and the sums that it ends up with are those of the very columns of o that it
 * holds. So rows never pass through shared memory, and warps wait for nobody. Weights lie in shared
 * memory as fragments, rounded to the type: that costs 2^-9 of a correction that is itself a small
 * part of o, which is rounded as well; the shift goes with the rounded weights. The next rows are
 * on their way as soon as the registers of those before are free. The first are before the launches
 * that this one waits for have ended, and those that follow are warm, see warm_rows().
 *
 * Elsewhere (F32, odd strides, mixed types) float32 FMAs, 32 rows a block, through shared memory.
 *
 * Bound: memory, three tensors' worth; the tensor cores and the fragments' way out of shared memory
 * take about half as long.
 *
 * Ladder, 128 columns, bfloat16, an H100:
 *   1  six warps that load, multiply and store in turn  24 x 118,784 0.84 ms (2.2 GB, 2.6 TB/s),
 *                                                       12 x 32,760 0.12 ms
 *   2  four that load ahead                             0.82 ms, 0.117 ms, exact rows included
 *   3  the first rows warm: nothing where repair runs alone; after attention over 12 x 32,768 the
 *      whole of repair goes from 0.305 to 0.295 ms
 * Tried without gain: no hints to the caches (alone -3 to -4 % at 24 x 118,784; after attention
 * nothing, at 12 x 32,768 +1 %); with that, blocks that take every so many rows instead of a run of
 * them (alone another -3 %, at 12 x 32,760 nothing); three blocks a multiprocessor (+5 %). Without
 * the products it takes 6 % longer: what bounds it is how reads and writes mix in memory.
 */
#include "mma.cuh"
#include "repair_cuda.cuh"

#include <algorithm>
#include <cuda_pipeline.h>

enum {
    APPLY_WARPS = 4,
    APPLY_THREADS = APPLY_WARPS * 32,
    WARP_ROWS = 16,
    WARM_PERCENT = 25, /* of the second-level cache; 12 and 37 make no difference */
    PLAIN_ROWS = 32,
    PLAIN_STRIDE = PLAIN_ROWS + 4 /* keeps vectors aligned and banks apart */
};

static bool is_vectors(const void *data, int64_t a, int64_t b, int64_t c)
{
    return (uintptr_t)data % 16 == 0 && a % 8 == 0 && b % 8 == 0 && c % 8 == 0;
}

bool repair_is_packed(const struct repair_cuda *repair)
{
    const struct rows_cuda *q = &repair->q;
    const int64_t *stride = repair->o.stride;
    return repair->dtype != DRAFTATTN_F32 && repair->o.dtype == repair->dtype && stride[3] == 1 &&
           is_vectors(q->data, q->stride_entry, q->stride_head, q->stride_token) &&
           is_vectors(repair->o.data, stride[0], stride[1], stride[2]);
}

/* ---- tensor cores --------------------------------------------------------------------------- */

static __device__ float2 to_floats(uint32_t pair, __nv_bfloat16)
{
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

static __device__ float2 to_floats(uint32_t pair, __half)
{
    return __half22float2(*(__half2 *)&pair);
}

static __device__ uint32_t to_pair(float low, float high, __nv_bfloat16)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&pair;
}

static __device__ uint32_t to_pair(float low, float high, __half)
{
    __half2 pair = __floats2half2_rn(low, high);
    return *(uint32_t *)&pair;
}

static __device__ uint32_t word_of(const uint4 &vector, int32_t i)
{
    return i == 0 ? vector.x : i == 1 ? vector.y : i == 2 ? vector.z : vector.w;
}

template <int D> struct apply_room {
    uint4 fragments[2 * D / 16][D / 16][32]; /* [16 of the features][16 columns][lane] */
    float shift[D];
    float unscale[D / 32]; /* of o's weights */
    float rescale[D / 32]; /* from q's weights to o's */
};

/* Of a multiprocessor that has the memory: as registers allow. */
template <int D> constexpr int32_t apply_blocks()
{
    return D == 128 ? 2 : 4;
}

/* sum += rows weight, of which a lane holds columns 32 c + 8 t .. + 7 of rows g and g + 8. */
template <typename Half, int D>
static __device__ void multiply_rows(const uint4 (&rows)[2][D / 32],
                                     const uint4 (*fragments)[D / 16][32], float (&sum)[D / 8][4])
{
    int32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int32_t step = 0; step < D / 16; step++) {
        int32_t c = step / 2, w = step % 2 * 2;
        uint32_t a[4] = {word_of(rows[0][c], w), word_of(rows[1][c], w), word_of(rows[0][c], w + 1),
                         word_of(rows[1][c], w + 1)};
#pragma unroll
        for (int32_t n = 0; n < D / 16; n++) {
            uint4 b = fragments[step][n][lane];
            multiply_half<Half>(sum[2 * n], a, b.x, b.y);
            multiply_half<Half>(sum[2 * n + 1], a, b.z, b.w);
        }
    }
}

/* What a lane holds of WARP_ROWS rows, as above, and where in o they are. */
template <typename Half, int D> struct lane_rows {
    uint4 q[2][D / 32], o[2][D / 32];
    Half *to[2];
};

/* Rows behind the last are its copies, and not written. */
static __device__ int32_t lane_position(const struct repair_cuda &repair, int32_t first,
                                        int32_t half)
{
    return min(first + (int32_t)threadIdx.x % 32 / 4 + half * 8, repair.shape.video_tokens - 1);
}

template <typename Half, int D>
static __device__ void load_q(const struct repair_cuda &repair, int32_t head, int32_t first,
                              struct lane_rows<Half, D> *rows)
{
#pragma unroll
    for (int32_t half = 0; half < 2; half++) {
        int32_t position = lane_position(repair, first, half);
        const Half *from = (const Half *)repair.q.data +
                           q_row(repair.shape, repair.q, head, position) + threadIdx.x % 4 * 8;
#pragma unroll
        for (int32_t c = 0; c < D / 32; c++)
            rows->q[half][c] = __ldcs((const uint4 *)(from + c * 32));
    }
}

template <typename Half>
static __device__ void find_o(const struct repair_cuda &repair, int32_t head, int32_t first,
                              Half *(&to)[2])
{
#pragma unroll
    for (int32_t half = 0; half < 2; half++)
        to[half] = (Half *)repair.o.data + o_row(repair, head, lane_position(repair, first, half)) +
                   threadIdx.x % 4 * 8;
}

template <typename Half, int D>
static __device__ void load_o(Half *const (&to)[2], struct lane_rows<Half, D> *rows)
{
#pragma unroll
    for (int32_t half = 0; half < 2; half++) {
        rows->to[half] = to[half];
#pragma unroll
        for (int32_t c = 0; c < D / 32; c++)
            rows->o[half][c] = __ldcs((const uint4 *)(to[half] + c * 32));
    }
}

template <typename Half, int D>
static __device__ void load_rows(const struct repair_cuda &repair, int32_t head, int32_t first,
                                 struct lane_rows<Half, D> *rows)
{
    Half *to[2];
    load_q(repair, head, first, rows);
    find_o(repair, head, first, to);
    load_o(to, rows);
}

/* o + shift + sum, as sum is scaled. */
template <typename Half, int D>
static __device__ void
store_rows(const struct repair_cuda &repair, const struct apply_room<D> &room, int32_t first,
           const struct lane_rows<Half, D> &rows, const float (&sum)[D / 8][4])
{
#pragma unroll
    for (int32_t half = 0; half < 2; half++) {
        bool there = first + threadIdx.x % 32 / 4 + half * 8 < repair.shape.video_tokens;
#pragma unroll
        for (int32_t c = 0; c < D / 32; c++) {
            const float *shift = room.shift + c * 32 + threadIdx.x % 4 * 8;
            float back = room.unscale[c];
            uint32_t words[4];
#pragma unroll
            for (int32_t w = 0; w < 4; w++) {
                const float *change = sum[c * 4 + w] + half * 2;
                float2 old = to_floats(word_of(rows.o[half][c], w), Half());
                words[w] = to_pair(old.x + shift[w * 2] + change[0] * back,
                                   old.y + shift[w * 2 + 1] + change[1] * back, Half());
            }
            if (there)
                __stcs((uint4 *)(rows.to[half] + c * 32),
                       make_uint4(words[0], words[1], words[2], words[3]));
        }
    }
}

/* Rows from first on, which the lane holds; then it holds those from next on. */
template <typename Half, int D>
static __device__ void correct_rows(const struct repair_cuda &repair,
                                    const struct apply_room<D> &room, int32_t head, int32_t first,
                                    int32_t next, int32_t end, struct lane_rows<Half, D> *rows)
{
    Half *to[2];
    float sum[D / 8][4];
#pragma unroll
    for (int32_t i = 0; i < D / 2; i++)
        sum[i / 4][i % 4] = 0;
    multiply_rows<Half, D>(rows->q, room.fragments + D / 16, sum);
    if (next < end) {
        load_q(repair, head, next, rows);
        find_o(repair, head, next, to);
    }
#pragma unroll
    for (int32_t i = 0; i < D / 2; i++)
        sum[i / 4][i % 4] *= room.rescale[i / 16];
    multiply_rows<Half, D>(rows->o, room.fragments, sum);
    store_rows(repair, room, first, *rows, sum);
    if (next < end)
        load_o(to, rows);
}

/* Exact rows over the probes' among those that the warp has corrected: WARP_ROWS from begin on, and
 * from each APPLY_WARPS times as many further, to before end. */
template <typename Half, int D>
static __device__ void deliver_exact(const struct repair_cuda &repair, int32_t head, int32_t begin,
                                     int32_t end)
{
    enum { TOGETHER = 4 }; /* rows whose loads are under way at once */
    int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, of_row = 0;
    int32_t past = past_probes(repair.shape, end);
    const float *exact = repair.exact + (int64_t)head * repair.shape.probes * D + lane * 2;
    __syncwarp(); /* other lanes have stored there */
    for (int32_t first = first_probe(repair.shape, begin); first < past; first += 32) {
        int32_t position = first + lane < past ? probe_position(repair.shape, first + lane) : -1;
        bool own = position >= begin && position < end &&
                   (position - begin) / WARP_ROWS % APPLY_WARPS == warp &&
                   !block_is_full(repair, head, position);
        for (uint32_t left = __ballot_sync(0xffffffff, own); left != 0;) {
            float2 rows[TOGETHER][D / 64];
            uint32_t *to[TOGETHER];
#pragma unroll
            for (int32_t i = 0; i < TOGETHER; i++, left &= left - 1) {
                of_row = left != 0 ? __ffs(left) - 1 : of_row; /* or the last one again */
                int64_t o = o_row(repair, head, __shfl_sync(0xffffffff, position, of_row));
                to[i] = (uint32_t *)((Half *)repair.o.data + o) + lane;
#pragma unroll
                for (int32_t c = 0; c < D / 64; c++)
                    rows[i][c] = *(const float2 *)(exact + (first + of_row) * D + c * 64);
            }
#pragma unroll
            for (int32_t i = 0; i < TOGETHER * D / 64; i++) {
                float2 pair = rows[i / (D / 64)][i % (D / 64)];
                to[i / (D / 64)][i % (D / 64) * 32] = to_pair(pair.x, pair.y, Half());
            }
        }
    }
}

/* A warp's rows to correct, from first on. */
static __device__ int32_t skip_full(const struct repair_cuda &repair, int32_t head, int32_t first,
                                    int32_t end)
{
    while (first < end && block_is_full(repair, head, first))
        first += APPLY_WARPS * WARP_ROWS;
    return first;
}

/* A share of a head's rows, WARP_ROWS a warp at a time. Nothing else of repair writes to them, so
 * that the first need not wait for what was launched before; but shares that begin late do not read
 * what may turn out not to be needed. */
template <typename Half, int D>
static __global__ void __launch_bounds__(APPLY_THREADS, apply_blocks<D>())
    apply_kernel(struct repair_cuda repair, struct fit_arrays arrays, struct apply_plan plan)
{
    static_assert(D <= APPLY_THREADS && D * D / 4 % APPLY_THREADS == 0, "see what is copied");
    extern __shared__ __align__(16) unsigned char shared[];
    struct apply_room<D> &room = *(struct apply_room<D> *)shared;
    int32_t head = blockIdx.x / plan.shares, thread = threadIdx.x;
    int32_t begin = (int32_t)(blockIdx.x % plan.shares) * plan.rows;
    int32_t end = min(repair.shape.video_tokens, begin + plan.rows);
    int32_t first = skip_full(repair, head, begin + thread / 32 * WARP_ROWS, end);
    struct lane_rows<Half, D> rows;
    bool early = blockIdx.x < plan.warm_shares;
    if (early && first < end)
        load_rows(repair, head, first, &rows);
    await_launch_before();
    if (!repair.heads[head].repaired)
        return;
    const uint4 *fragments = (const uint4 *)(arrays.fragments + (int64_t)head * D * D);
#pragma unroll 8
    for (int32_t i = 0; i < D * D / 4; i += APPLY_THREADS)
        __pipeline_memcpy_async((uint4 *)room.fragments + i + thread, fragments + i + thread,
                                sizeof(*fragments));
    __pipeline_commit();
    if (!early && first < end)
        load_rows(repair, head, first, &rows);
    if (thread < D)
        room.shift[thread] = arrays.shift[(int64_t)head * D + thread];
    if (thread < D / 32) {
        const float *unscale = arrays.unscale + (int64_t)head * (D / 16) + thread * 2;
        room.unscale[thread] = unscale[0];
        room.rescale[thread] = unscale[1] / unscale[0];
    }
    __pipeline_wait_prior(0);
    __syncthreads();
    while (first < end) {
        int32_t next = skip_full(repair, head, first + APPLY_WARPS * WARP_ROWS, end);
        correct_rows(repair, room, head, first, next, end, &rows);
        first = next;
    }
    deliver_exact<Half, D>(repair, head, begin, end);
}

/* Enough shares for every multiprocessor to have several, unless they would be too short to be
 * worth fetching weights for. Of the cache, shares that begin at once get their parts. */
cudaError_t repair_plan(const struct repair_cuda *repair, struct apply_plan *plan)
{
    enum { LEAST_BANDS = 64, ROUNDS = 4 };
    int device, processors, cache, heads = repair->shape.heads;
    *plan = {};
    if (!repair_is_packed(repair))
        return cudaSuccess;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, device);
    if (error != cudaSuccess)
        return error;
    int32_t bands = (repair->shape.video_tokens + WARP_ROWS - 1) / WARP_ROWS;
    int32_t blocks =
        processors * (repair->shape.head_dim == 128 ? apply_blocks<128>() : apply_blocks<64>());
    int32_t shares = (int32_t)(((int64_t)blocks * ROUNDS + heads - 1) / heads);
    if (bands / shares < LEAST_BANDS)
        shares = (blocks + heads - 1) / heads;
    int32_t share = (bands + shares - 1) / shares;
    plan->shares = (bands + share - 1) / share;
    plan->rows = share * WARP_ROWS;
    plan->warm_shares = (uint32_t)std::min((int64_t)heads * plan->shares, (int64_t)blocks);
    /* A row of both tensors has 4 bytes a column. */
    int64_t rows = (int64_t)cache * WARM_PERCENT / 100 / (4 * repair->shape.head_dim);
    plan->warm_rows = (int32_t)std::min(rows / (int64_t)plan->warm_shares, (int64_t)plan->rows);
    plan->idle = plan->warm_rows > 0 ? std::max(processors - heads, 0) : 0;
    return cudaSuccess;
}

template <typename Half, int D>
static cudaError_t launch_packed(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                                 const struct apply_plan *plan, cudaStream_t stream)
{
    return launch_next(apply_kernel<Half, D>, (int64_t)repair->shape.heads * plan->shares,
                       APPLY_THREADS, sizeof(struct apply_room<D>), stream, *repair, *arrays,
                       *plan);
}

/* ---- any type, any strides ------------------------------------------------------------------ */

/* PLAIN_ROWS rows of a head; a thread has a column of them. */
template <int D>
static __global__ void __launch_bounds__(D)
    apply_plain_kernel(struct repair_cuda repair, struct fit_arrays arrays, int32_t shares)
{
    __shared__ __align__(16) float rows[2 * D][PLAIN_STRIDE];
    int32_t head = blockIdx.x / shares, first = (int32_t)(blockIdx.x % shares) * PLAIN_ROWS;
    int32_t column = threadIdx.x, count = min(PLAIN_ROWS, repair.shape.video_tokens - first);
    const float *weight = arrays.weight + (int64_t)head * 2 * D * D + column;
    float shift, sum[PLAIN_ROWS] = {};
    await_launch_before();
    if (!repair.heads[head].repaired || block_is_full(repair, head, first))
        return;
    for (int32_t row = 0; row < PLAIN_ROWS; row++) {
        int32_t position = first + min(row, count - 1);
        int64_t o = o_row(repair, head, position) + column * repair.o.stride[3];
        rows[column][row] = load_element(repair.o.data, repair.o.dtype, o);
        rows[D + column][row] = load_element(
            repair.q.data, repair.dtype, q_row(repair.shape, repair.q, head, position) + column);
    }
    __syncthreads();
#pragma unroll 2
    for (int32_t feature = 0; feature < 2 * D; feature++) {
        float factor = weight[feature * D];
#pragma unroll
        for (int32_t row = 0; row < PLAIN_ROWS; row += 4) {
            float4 part = *(const float4 *)&rows[feature][row];
            sum[row] = fmaf(part.x, factor, sum[row]);
            sum[row + 1] = fmaf(part.y, factor, sum[row + 1]);
            sum[row + 2] = fmaf(part.z, factor, sum[row + 2]);
            sum[row + 3] = fmaf(part.w, factor, sum[row + 3]);
        }
    }
    shift = arrays.shift[(int64_t)head * D + column];
#pragma unroll
    for (int32_t row = 0; row < PLAIN_ROWS; row++)
        if (row < count)
            store_element(repair.o.data, repair.o.dtype,
                          o_row(repair, head, first + row) + column * repair.o.stride[3],
                          rows[column][row] + shift + sum[row]);
    const float *exact = repair.exact + (int64_t)head * repair.shape.probes * D + column;
    int32_t past = past_probes(repair.shape, first + count);
    for (int32_t probe = first_probe(repair.shape, first); probe < past; probe++) {
        int32_t position = probe_position(repair.shape, probe);
        if (position >= first && position < first + count)
            store_element(repair.o.data, repair.o.dtype,
                          o_row(repair, head, position) + column * repair.o.stride[3],
                          exact[probe * D]);
    }
}

template <int D>
static cudaError_t launch_plain(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                                cudaStream_t stream)
{
    int32_t shares = (repair->shape.video_tokens + PLAIN_ROWS - 1) / PLAIN_ROWS;
    int64_t blocks = (int64_t)repair->shape.heads * shares;
    return launch_next(apply_plain_kernel<D>, blocks, D, 0, stream, *repair, *arrays, shares);
}

/* ---- launch --------------------------------------------------------------------------------- */

cudaError_t repair_apply(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                         const struct apply_plan *plan, cudaStream_t stream)
{
    bool wide = repair->shape.head_dim == 128;
    if (!repair_is_packed(repair))
        return wide ? launch_plain<128>(repair, arrays, stream)
                    : launch_plain<64>(repair, arrays, stream);
    if (repair->dtype == DRAFTATTN_F16)
        return wide ? launch_packed<__half, 128>(repair, arrays, plan, stream)
                    : launch_packed<__half, 64>(repair, arrays, plan, stream);
    return wide ? launch_packed<__nv_bfloat16, 128>(repair, arrays, plan, stream)
                : launch_packed<__nv_bfloat16, 64>(repair, arrays, plan, stream);
}
