/*
 * From the factor C of repair_factor.cu to all that judgement and correction need. One block of
 * threads takes FIT_BLOCK columns of a head: either columns of the residual e, for which it solves
 *
 *     C C^T weight = x^T e,
 *
 * works out the squares that e - x weight leaves in each row, and packs the weights; or rows of x,
 * whose leverage is |C^-1 x_i^T|^2. Columns have nothing to do with each other, so that blocks wait
 * for nobody; the last of a head judges what all have found. Solving is backward stable; an
 * explicit inverse times x^T e loses the condition number twice.
 *
 * Warp w has rows 32 w .. of the unknowns in registers, minus themselves, so that updates add. Once
 * 32 rows are due, all warps multiply them by the diagonal block's inverse, and those whose turn is
 * still to come take their share of the factor from global memory and update. Vectors of it serve
 * as fragments, because which of 16 columns a fragment's place stands for is free as long as both
 * factors agree; turned, the same goes for which row.
 *
 * Bound: the 16 turns of a block of columns, each two barriers and the second-level cache's
 * latency.
 *
 * Ladder: see repair_factor.cu.
 */
#include "last_cta.cuh"
#include "repair_judge.cuh"
#include "repair_mma.cuh"

enum { STRIDE = FIT_BLOCK + 2 /* keeps a warp's reads on banks of their own */ };

/* FEATURES are 32 rows a warp. */
template <int WARPS> struct solve_room {
    float z[WARPS * FIT_BLOCK][STRIDE]; /* columns that are solved for */
    float due[FIT_BLOCK][STRIDE];       /* the rows whose turn it is; room for sums */
};

/* 16 M rows of 32 columns as left fragments: [16 rows][8 columns][place]. */
template <int M> struct fragments {
    float at[M][4][4];
};

/* Places of right fragments: of 16 rows, step by step. Left ones agree. */
static __device__ int32_t inner_row(int32_t step, int32_t i)
{
    return step / 2 * 16 + threadIdx.x % 4 * 4 + step % 2 * 2 + i;
}

/* Row (m, half) of a lane: as matrices lie, or as they are fetched turned. */
template <bool TURNED> static __device__ int32_t outer_row(int32_t m, int32_t half)
{
    int32_t g = threadIdx.x % 32 / 4;
    return TURNED ? g * 4 + m * 2 + half : m * 16 + half * 8 + g;
}

template <int M>
static __device__ void fetch_rows(const float *from, int32_t stride, struct fragments<M> *out)
{
    int32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int32_t m = 0; m < M; m++)
#pragma unroll
        for (int32_t half = 0; half < 2; half++)
#pragma unroll
            for (int32_t i = 0; i < 2; i++) {
                float4 part =
                    *(const float4 *)(from + (m * 16 + half * 8 + g) * stride + i * 16 + t * 4);
                out->at[m][i * 2][half] = part.x;
                out->at[m][i * 2][half + 2] = part.y;
                out->at[m][i * 2 + 1][half] = part.z;
                out->at[m][i * 2 + 1][half + 2] = part.w;
            }
}

/* Of the transpose of the 32 x 32 at from: all of it, or rows 4 g + 2 m and the next. */
static __device__ void fetch_turned(const float *from, int32_t stride, struct fragments<2> *out)
{
#pragma unroll
    for (int32_t i = 0; i < 8; i++) {
        float4 part =
            *(const float4 *)(from + inner_row(i / 2, i % 2) * stride + outer_row<true>(0, 0));
        out->at[0][i / 2][i % 2 * 2] = part.x;
        out->at[0][i / 2][i % 2 * 2 + 1] = part.y;
        out->at[1][i / 2][i % 2 * 2] = part.z;
        out->at[1][i / 2][i % 2 * 2 + 1] = part.w;
    }
}

static __device__ void fetch_turned(const float *from, int32_t stride, int32_t m,
                                    struct fragments<1> *out)
{
#pragma unroll
    for (int32_t i = 0; i < 8; i++) {
        float2 part =
            *(const float2 *)(from + inner_row(i / 2, i % 2) * stride + outer_row<true>(m, 0));
        out->at[0][i / 2][i % 2 * 2] = part.x;
        out->at[0][i / 2][i % 2 * 2 + 1] = part.y;
    }
}

/* sum += a b, of 32 rows of b columns [8 first, 8 (first + N)). */
template <int M, int N>
static __device__ void multiply_block(const struct fragments<M> &a, const float (*b)[STRIDE],
                                      int32_t first, float (&sum)[M][N][4])
{
#pragma unroll
    for (int32_t step = 0; step < 4; step++) {
        const float *low = b[inner_row(step, 0)] + first * 8 + threadIdx.x % 32 / 4;
        struct left_parts left[M];
#pragma unroll
        for (int32_t m = 0; m < M; m++)
            left[m] = split_left(a.at[m][step]);
#pragma unroll
        for (int32_t n = 0; n < N; n++) {
            struct right_parts right = split_right(low[n * 8], low[n * 8 + STRIDE]);
#pragma unroll
            for (int32_t m = 0; m < M; m++)
                multiply_parts(sum[m][n], left[m], right);
        }
    }
}

static __device__ float2 *pair_at(float (*rows)[STRIDE], int32_t row, int32_t n)
{
    return (float2 *)&rows[row][n * 8 + threadIdx.x % 4 * 2];
}

/* A warp's 32 x 32 of a matrix, minus itself. from: its first row, the lane's first column. */
static __device__ void load_minus(const float *from, int32_t stride, float (&sum)[2][4][4])
{
#pragma unroll
    for (int32_t i = 0; i < 16; i++) {
        float2 pair =
            *(const float2 *)(from + outer_row<false>(i / 8, i % 2) * stride + i / 2 % 4 * 8);
        sum[i / 8][i / 2 % 4][i % 2 * 2] = -pair.x;
        sum[i / 8][i / 2 % 4][i % 2 * 2 + 1] = -pair.y;
    }
}

/* ---- solving -------------------------------------------------------------------------------- */

/* z = C^-1 or, turned, C^-T of what the warps hold minus of. */
template <int WARPS, bool TURNED>
static __device__ void solve(struct solve_room<WARPS> *room, const float *factor,
                             float (&sum)[2][4][4])
{
    constexpr int32_t FEATURES = WARPS * FIT_BLOCK, PIECE = 8 / WARPS;
    int32_t warp = threadIdx.x / 32, m = warp % 2, first = warp / 2 * PIECE;
#pragma unroll 1
    for (int32_t turn = 0; turn < WARPS; turn++) {
        int32_t k = TURNED ? WARPS - 1 - turn : turn;
        bool waits = TURNED ? warp < k : warp > k;
        const float *diagonal = factor + k * FIT_BLOCK * (FEATURES + 1);
        struct fragments<1> inverse;
        struct fragments<2> own;
        float piece[1][PIECE][4] = {};
        if (TURNED)
            fetch_turned(diagonal, FEATURES, m, &inverse);
        else
            fetch_rows<1>(diagonal + m * 16 * FEATURES, FEATURES, &inverse);
        if (waits && TURNED)
            fetch_turned(factor + (k * FEATURES + warp) * FIT_BLOCK, FEATURES, &own);
        else if (waits)
            fetch_rows<2>(factor + (warp * FEATURES + k) * FIT_BLOCK, FEATURES, &own);
        if (warp == k)
#pragma unroll
            for (int32_t i = 0; i < 16; i++)
                *pair_at(room->due, outer_row<TURNED>(i / 8, i % 2), i / 2 % 4) = make_float2(
                    -sum[i / 8][i / 2 % 4][i % 2 * 2], -sum[i / 8][i / 2 % 4][i % 2 * 2 + 1]);
        __syncthreads();
        multiply_block<1, PIECE>(inverse, room->due, first, piece);
#pragma unroll
        for (int32_t i = 0; i < 2 * PIECE; i++)
            *pair_at(room->z + k * FIT_BLOCK, outer_row<TURNED>(m, i % 2), first + i / 2) =
                make_float2(piece[0][i / 2][i % 2 * 2], piece[0][i / 2][i % 2 * 2 + 1]);
        __syncthreads();
        if (waits)
            multiply_block<2, 4>(own, room->z + k * FIT_BLOCK, 0, sum);
    }
}

/* ---- leverage ------------------------------------------------------------------------------- */

template <int WARPS>
static __device__ void find_leverage(struct solve_room<WARPS> *room,
                                     const struct fit_arrays &arrays, int32_t head, int32_t tile)
{
    constexpr int32_t FEATURES = WARPS * FIT_BLOCK;
    int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = tile * FIT_BLOCK;
    const float *x = arrays.x + ((int64_t)head * arrays.rows + first) * FEATURES;
    float sum[2][4][4], squares = 0;
#pragma unroll
    for (int32_t i = 0; i < 32; i++)
        sum[i / 16][i / 4 % 4][i % 4] = -x[(i / 4 % 4 * 8 + lane % 4 * 2 + i % 2) * FEATURES +
                                           warp * FIT_BLOCK + outer_row<false>(i / 16, i / 2 % 2)];
    solve<WARPS, false>(room, arrays.gram + (int64_t)head * FEATURES * FEATURES, sum);
#pragma unroll 8
    for (int32_t row = 0; row < FIT_BLOCK; row++) {
        float value = room->z[warp * FIT_BLOCK + row][lane];
        squares = fmaf(value, value, squares);
    }
    room->due[warp][lane] = squares; /* it is read no more */
    __syncthreads();
    for (int32_t i = 1; i < WARPS; i++)
        squares += room->due[i][lane];
    if (warp == 0)
        arrays.leverage[(int64_t)head * arrays.rows + first + lane] = squares;
}

/* ---- what is left --------------------------------------------------------------------------- */

/* Squares of what the weights leave of the residual, of this block's columns and every row. */
template <int WARPS>
static __device__ void find_left(struct solve_room<WARPS> *room, const struct fit_arrays &arrays,
                                 int32_t head, int32_t tile)
{
    constexpr int32_t FEATURES = WARPS * FIT_BLOCK, D = FEATURES / 2;
#pragma unroll 1
    for (int32_t band = threadIdx.x / 32 * FIT_BLOCK; band < arrays.rows;
         band += WARPS * FIT_BLOCK) {
        int64_t row = (int64_t)head * arrays.rows + band;
        float sum[2][4][4]; /* x weight - residual */
        load_minus(arrays.residual + row * D + tile * FIT_BLOCK + threadIdx.x % 4 * 2, D, sum);
        const float *x = arrays.x + row * FEATURES;
        struct fragments<2> rows, next;
        fetch_rows<2>(x, FEATURES, &next);
#pragma unroll 1
        for (int32_t k = 0; k < WARPS; k++) {
            rows = next;
            if (k + 1 < WARPS)
                fetch_rows<2>(x + (k + 1) * FIT_BLOCK, FEATURES, &next);
            multiply_block<2, 4>(rows, room->z + k * FIT_BLOCK, 0, sum);
        }
        float *out = arrays.left + ((int64_t)head * (D / FIT_BLOCK) + tile) * arrays.rows + band;
#pragma unroll
        for (int32_t i = 0; i < 4; i++) {
            float squares = 0;
#pragma unroll
            for (int32_t l = 0; l < 8; l++) {
                float left = sum[i / 2][l / 2][i % 2 * 2 + l % 2];
                squares = fmaf(left, left, squares);
            }
            squares += __shfl_xor_sync(0xffffffff, squares, 1);
            squares += __shfl_xor_sync(0xffffffff, squares, 2);
            if (threadIdx.x % 4 == 0)
                out[outer_row<false>(i / 2, i % 2)] = squares;
        }
    }
}

/* ---- the weights as they are applied -------------------------------------------------------- */

static __device__ uint16_t round_to_half(draftattn_dtype dtype, float value)
{
    return dtype == DRAFTATTN_F16 ? __half_as_ushort(__float2half_rn(value))
                                  : __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

/* Rounded weights where repair_apply.cu looks for them. */
template <int WARPS>
static __device__ void store_fragments(const struct solve_room<WARPS> &room, int32_t tile,
                                       uint32_t *out)
{
    constexpr int32_t FEATURES = WARPS * FIT_BLOCK, D = FEATURES / 2;
#pragma unroll 4
    for (int32_t i = threadIdx.x; i < FEATURES * FIT_BLOCK / 2; i += WARPS * 32) {
        int32_t word = i % 4, owner = i / 4 % 32, pair = i / 128 % 2, step = i / 256;
        int32_t half = step / (D / 16), in_half = step % (D / 16);
        int32_t row = half * D + in_half / 2 * 32 + owner % 4 * 8 + in_half % 2 * 4 + word % 2 * 2;
        int32_t from = owner / 8 * 8 + pair * 4 + word / 2 * 2 + owner / 4 % 2;
        out[((step * (D / 16) + tile * 2 + pair) * 32 + owner) * 4 + word] =
            __float_as_uint(room.z[row][from]) | __float_as_uint(room.z[row + 1][from]) << 16;
    }
}

/* The power of two that brings the largest of a half's weights into [1, 2). A warp has 32 rows. */
template <int WARPS>
static __device__ float find_scale(struct solve_room<WARPS> *room, const float *column)
{
    float largest = 0;
#pragma unroll 8
    for (int32_t i = 0; i < FIT_BLOCK; i++)
        largest = fmaxf(largest, fabsf(column[i * STRIDE]));
    for (int32_t lane = 16; lane > 0; lane /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, lane));
    room->due[0][threadIdx.x / 32] = largest;
    __syncthreads();
    const float *half = room->due[0] + threadIdx.x / (WARPS * 16) * (WARPS / 2);
    for (int32_t i = 0; i < WARPS / 2; i++)
        largest = fmaxf(largest, half[i]);
    __syncthreads();
    if (!(largest > 0 && largest < INFINITY))
        return 1;
    return ldexpf(1, max(-60, min(60, ilogbf(largest))));
}

/*
 * The block's columns of the weights: what tensor cores take, rounded to dtype, or as they are for
 * F32; and the shift that belongs to what was rounded, so that means cancel. Rounded weights are
 * scaled: F16 could not hold those of large q.
 */
template <int WARPS>
static __device__ void pack_columns(struct solve_room<WARPS> *room, const struct fit_arrays &arrays,
                                    int32_t head, int32_t tile, draftattn_dtype dtype)
{
    constexpr int32_t FEATURES = WARPS * FIT_BLOCK, D = FEATURES / 2;
    int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = tile * FIT_BLOCK + lane;
    const float *mean = arrays.mean + (int64_t)head * 3 * D;
    float *own = &room->z[warp * FIT_BLOCK][lane];
    float *weight = arrays.weight + ((int64_t)head * FEATURES + warp * FIT_BLOCK) * D + column;
    float scale = dtype == DRAFTATTN_F32 ? 1 : find_scale(room, own);
    float inverse = 1 / scale; /* powers of two: exact */
    float shift = 0, row_mean = mean[warp * FIT_BLOCK + lane];
#pragma unroll 4
    for (int32_t i = 0; i < FIT_BLOCK; i++) {
        float value = own[i * STRIDE];
        if (dtype == DRAFTATTN_F32) {
            weight[i * D] = value;
        } else {
            uint16_t bits = round_to_half(dtype, value * inverse);
            value = load_element(&bits, dtype, 0) * scale;
            own[i * STRIDE] = __uint_as_float(bits);
        }
        shift = fmaf(__shfl_sync(0xffffffff, row_mean, i), value, shift);
    }
    room->due[warp][lane] = shift;
    if (lane == 0 && warp % (WARPS / 2) == 0)
        arrays.unscale[((int64_t)head * D / FIT_BLOCK + tile) * 2 + warp / (WARPS / 2)] = scale;
    __syncthreads();
    for (int32_t i = 1; i < WARPS; i++)
        shift += room->due[i][lane];
    if (warp == 0)
        arrays.shift[(int64_t)head * D + column] = mean[FEATURES + column] - shift;
    if (dtype != DRAFTATTN_F32)
        store_fragments(*room, tile, arrays.fragments + (int64_t)head * FEATURES * D / 2);
}

template <int WARPS>
static __device__ void find_weights(struct solve_room<WARPS> *room, const struct fit_arrays &arrays,
                                    int32_t head, int32_t tile, draftattn_dtype packed)
{
    constexpr int32_t FEATURES = WARPS * FIT_BLOCK, D = FEATURES / 2;
    int32_t first = threadIdx.x / 32 * FIT_BLOCK;
    const float *factor = arrays.gram + (int64_t)head * FEATURES * FEATURES;
    const float *cross = arrays.cross + ((int64_t)head * FEATURES + first) * D + tile * FIT_BLOCK +
                         threadIdx.x % 4 * 2;
    float sum[2][4][4];
    load_minus(cross, D, sum);
    solve<WARPS, false>(room, factor, sum);
#pragma unroll
    for (int32_t i = 0; i < 16; i++) {
        float2 pair = *pair_at(room->z + first, outer_row<true>(i / 8, i % 2), i / 2 % 4);
        sum[i / 8][i / 2 % 4][i % 2 * 2] = -pair.x;
        sum[i / 8][i / 2 % 4][i % 2 * 2 + 1] = -pair.y;
    }
    solve<WARPS, true>(room, factor, sum);
    find_left(room, arrays, head, tile);
    __syncthreads(); /* the weights have been read as they are */
    pack_columns(room, arrays, head, tile, packed);
}

/* ---- launch --------------------------------------------------------------------------------- */

/* Tiles of the weights, which take longest, come first. Heads without a fit are judged as well. */
template <int WARPS>
static __global__ void __launch_bounds__(WARPS * 32, 8 / WARPS)
    solve_kernel(struct repair_cuda repair, struct fit_arrays arrays, draftattn_dtype packed)
{
    constexpr int32_t COLUMNS = WARPS / 2; /* tiles of the weights */
    __shared__ __align__(16) struct solve_room<WARPS> room;
    __shared__ double judge_room[WARPS];
    int32_t head = blockIdx.x % repair.shape.heads, tile = blockIdx.x / repair.shape.heads;
    await_launch_before();
    bool solved = arrays.solved[head];
    if (solved && tile < COLUMNS)
        find_weights(&room, arrays, head, tile, packed);
    else if (solved)
        find_leverage(&room, arrays, head, tile - COLUMNS);
    if (solved ? is_last_cta(arrays.done + head, gridDim.x / repair.shape.heads) : tile == 0)
        judge_head(repair, arrays, head, solved, judge_room);
}

template <int WARPS>
static cudaError_t launch(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                          cudaStream_t stream)
{
    draftattn_dtype packed = repair_is_packed(repair) ? repair->dtype : DRAFTATTN_F32;
    int64_t tiles = WARPS / 2 + arrays->rows / FIT_BLOCK;
    return launch_next(solve_kernel<WARPS>, repair->shape.heads * tiles, WARPS * 32, 0, stream,
                       *repair, *arrays, packed);
}

cudaError_t repair_solve(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                         cudaStream_t stream)
{
    return repair->shape.head_dim == 128 ? launch<8>(repair, arrays, stream)
                                         : launch<4>(repair, arrays, stream);
}
