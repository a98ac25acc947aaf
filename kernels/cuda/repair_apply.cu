/*
 * The correction: o += shift + [o, q] weight for the video rows of blocks that skip something, of
 * heads that repair_fit.cu's weights help, in place. Each row is read once and written once.
 *
 * Tensor cores, where q and o are of one half type and rows are whole vectors: a warp takes 16
 * rows at a time. Which column of a row a place in a fragment stands for is free as long as all
 * factors agree; it is chosen so that a lane's 16 bytes of global memory are its share of two
 * fragments of o or q, and the sums that it ends up with are those of the very columns of o that it
 * holds. So rows never pass through shared memory, and warps wait for nobody. Weights lie in shared
 * memory as fragments, rounded to the type: that costs 2^-9 of a correction that is itself a small
 * part of o, which is rounded as well; the shift goes with the rounded weights.
 *
 * Elsewhere (F32, odd strides, mixed types) float32 FMAs, 32 rows a block, through shared memory.
 *
 * Bound: memory, three tensors' worth; the tensor cores and the fragments' way out of shared memory
 * take about half as long.
 *
 * Ladder, 128 columns, bfloat16, an H100:
 *   1  as above: 24 x 118,784 0.84 ms (2.2 GB, 2.6 TB/s), 12 x 32,760 0.12 ms
 */
#include "repair_cuda.cuh"

enum {
    APPLY_THREADS = 192,
    WARP_ROWS = 16,
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

template <typename Half>
static __device__ void multiply_half(float (&sum)[4], const uint32_t (&a)[4], uint32_t b_low,
                                     uint32_t b_high);

template <>
__device__ void multiply_half<__nv_bfloat16>(float (&sum)[4], const uint32_t (&a)[4],
                                             uint32_t b_low, uint32_t b_high)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

template <>
__device__ void multiply_half<__half>(float (&sum)[4], const uint32_t (&a)[4], uint32_t b_low,
                                      uint32_t b_high)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

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
    float unscale[D / 32][2];
};

/* Of a multiprocessor that has the memory: as registers allow. */
template <int D> constexpr int32_t apply_blocks()
{
    return D == 128 ? 2 : 3;
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

template <typename Half, int D>
static __device__ void correct_rows(const struct repair_cuda &repair,
                                    const struct apply_room<D> &room, int32_t head, int32_t first)
{
    int32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    uint4 q[2][D / 32], o[2][D / 32];
    Half *to[2];
    float sum[D / 8][4];
#pragma unroll
    for (int32_t half = 0; half < 2; half++) {
        /* Rows behind the last are its copies, and not written. */
        int32_t position = min(first + g + half * 8, repair.shape.video_tokens - 1);
        const Half *from =
            (const Half *)repair.q.data + q_row(repair.shape, repair.q, head, position) + t * 8;
        to[half] = (Half *)repair.o.data + o_row(repair, head, position) + t * 8;
#pragma unroll
        for (int32_t c = 0; c < D / 32; c++)
            q[half][c] = __ldcs((const uint4 *)(from + c * 32));
#pragma unroll
        for (int32_t c = 0; c < D / 32; c++)
            o[half][c] = __ldcs((const uint4 *)(to[half] + c * 32));
    }
#pragma unroll
    for (int32_t i = 0; i < D / 2; i++)
        sum[i / 4][i % 4] = 0;
    multiply_rows<Half, D>(q, room.fragments + D / 16, sum);
#pragma unroll
    for (int32_t i = 0; i < D / 2; i++) /* from the scale of q's weights to that of o's */
        sum[i / 4][i % 4] *= room.unscale[i / 16][1] / room.unscale[i / 16][0];
    multiply_rows<Half, D>(o, room.fragments, sum);
#pragma unroll
    for (int32_t half = 0; half < 2; half++)
#pragma unroll
        for (int32_t c = 0; c < D / 32; c++) {
            const float *shift = room.shift + c * 32 + t * 8;
            float back = room.unscale[c][0];
            uint32_t words[4];
#pragma unroll
            for (int32_t w = 0; w < 4; w++) {
                const float *change = sum[c * 4 + w] + half * 2;
                float2 old = to_floats(word_of(o[half][c], w), Half());
                words[w] = to_pair(old.x + shift[w * 2] + change[0] * back,
                                   old.y + shift[w * 2 + 1] + change[1] * back, Half());
            }
            if (first + g + half * 8 < repair.shape.video_tokens)
                __stcs((uint4 *)(to[half] + c * 32),
                       make_uint4(words[0], words[1], words[2], words[3]));
        }
}

/* Bands of WARP_ROWS rows, share of them a block. */
template <typename Half, int D>
static __global__ void __launch_bounds__(APPLY_THREADS, apply_blocks<D>())
    apply_kernel(struct repair_cuda repair, struct fit_arrays arrays, int32_t shares, int32_t share)
{
    extern __shared__ __align__(16) unsigned char shared[];
    struct apply_room<D> &room = *(struct apply_room<D> *)shared;
    int32_t head = blockIdx.x / shares, thread = threadIdx.x;
    int32_t bands = (repair.shape.video_tokens + WARP_ROWS - 1) / WARP_ROWS;
    int64_t begin = (int64_t)(blockIdx.x % shares) * share;
    int32_t end = (int32_t)min((int64_t)bands, begin + share);
    if (!repair.heads[head].repaired)
        return;
    const uint4 *fragments = (const uint4 *)(arrays.fragments + (int64_t)head * D * D);
    for (int32_t i = thread; i < D * D / 4; i += APPLY_THREADS)
        ((uint4 *)room.fragments)[i] = fragments[i];
    for (int32_t i = thread; i < D; i += APPLY_THREADS)
        room.shift[i] = arrays.shift[(int64_t)head * D + i];
    for (int32_t i = thread; i < D / 16; i += APPLY_THREADS)
        ((float *)room.unscale)[i] = arrays.unscale[(int64_t)head * (D / 16) + i];
    __syncthreads();
    for (int32_t band = (int32_t)min(begin, (int64_t)bands) + thread / 32; band < end;
         band += APPLY_THREADS / 32)
        if (!block_is_full(repair, head, band * WARP_ROWS))
            correct_rows<Half, D>(repair, room, head, band * WARP_ROWS);
}

/* Enough shares for every multiprocessor to have several, unless they would be too short to be
 * worth fetching weights for. */
template <typename Half, int D>
static cudaError_t launch_packed(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                                 cudaStream_t stream)
{
    enum { LEAST_BANDS = 64, ROUNDS = 4 };
    int device, processors, heads = repair->shape.heads;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (error == cudaSuccess)
        error =
            cudaFuncSetAttribute(apply_kernel<Half, D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 sizeof(struct apply_room<D>));
    if (error != cudaSuccess)
        return error;
    int32_t bands = (repair->shape.video_tokens + WARP_ROWS - 1) / WARP_ROWS;
    int32_t blocks = processors * apply_blocks<D>();
    int32_t shares = (int32_t)(((int64_t)blocks * ROUNDS + heads - 1) / heads);
    if (bands / shares < LEAST_BANDS)
        shares = (blocks + heads - 1) / heads;
    int32_t share = (bands + shares - 1) / shares;
    shares = (bands + share - 1) / share;
    apply_kernel<Half, D><<<heads * shares, APPLY_THREADS, sizeof(struct apply_room<D>), stream>>>(
        *repair, *arrays, shares, share);
    return cudaGetLastError();
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
}

template <int D>
static cudaError_t launch_plain(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                                cudaStream_t stream)
{
    int32_t shares = (repair->shape.video_tokens + PLAIN_ROWS - 1) / PLAIN_ROWS;
    int64_t blocks = (int64_t)repair->shape.heads * shares;
    apply_plain_kernel<D><<<(uint32_t)blocks, D, 0, stream>>>(*repair, *arrays, shares);
    return cudaGetLastError();
}

/* ---- launch --------------------------------------------------------------------------------- */

cudaError_t repair_apply(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                         cudaStream_t stream)
{
    bool wide = repair->shape.head_dim == 128;
    if (!repair_is_packed(repair))
        return wide ? launch_plain<128>(repair, arrays, stream)
                    : launch_plain<64>(repair, arrays, stream);
    if (repair->dtype == DRAFTATTN_F16)
        return wide ? launch_packed<__half, 128>(repair, arrays, stream)
                    : launch_packed<__half, 64>(repair, arrays, stream);
    return wide ? launch_packed<__nv_bfloat16, 128>(repair, arrays, stream)
                : launch_packed<__nv_bfloat16, 64>(repair, arrays, stream);
}
