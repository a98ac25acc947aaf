/*
 * The Cholesky factor C of x^T x + L for repair: C C^T = x^T x + L, in place, one block of threads
 * a head. Blocks of 32 x 32 on the diagonal are left as their factors' inverses, which is how
 * repair_solve.cu takes them. A matrix that is not positive definite is reported, not factorised.
 *
 * The lower half lies in registers, as tensor cores leave it, minus itself, so that updates add.
 * For each 32 columns: their blocks go to shared memory; warp 0 factorises the one on the diagonal,
 * a row a lane, as unit lower times diagonal, which keeps roots out of what each pivot waits for; a
 * warp a block solves for the rest, a row a lane; all warps update what lies behind. The inverse of
 * the factor comes by solving for the rows of the identity, while the other blocks are solved for.
 *
 * Bound: the pivots, one after the other: products take about a fifth as long.
 *
 * Ladder, repair without correction of 12 x 32,760 at head_dim 128 on an H100:
 *   1  Gauss-Jordan inverse by float32 FMAs, 8 pivots a step, then products    260 us
 *   2  this factor and repair_solve.cu                                         164 us
 */
#include "repair_cuda.cuh"
#include "repair_mma.cuh"

enum {
    FACTOR_WARPS = 12, /* share 36 blocks evenly, three a warp */
    FACTOR_THREADS = FACTOR_WARPS * 32,
    STRIDE = FIT_BLOCK + 4 /* keeps vectors aligned and a warp's reads on banks of their own */
};

template <int BLOCKS> struct factor_room {
    float panel[BLOCKS][FIT_BLOCK][STRIDE];
    float unit[FIT_BLOCK][STRIDE]; /* [pivot][row] of the diagonal block's unit factor */
    float scale[FIT_BLOCK];        /* 1 / sqrt(pivot) */
    int32_t failed;
};

/* A warp's block as tensor cores leave it: [rows 16 m + ..][columns 8 n + ..][4]. */
typedef float block_sums[2][4][4];

/* Blocks (i, j), i >= j, in one register; -1 stands for none. */
static __device__ int32_t block_i(int32_t block)
{
    return block >> 8;
}

static __device__ int32_t block_j(int32_t block)
{
    return (int8_t)block;
}

/* The block at a place in column order, the diagonal first. */
static __device__ int32_t find_block(int32_t place, int32_t blocks)
{
    int32_t column = 0;
    while (column < blocks && place >= blocks - column)
        place -= blocks - column++;
    return column < blocks ? (column + place) << 8 | column : -1;
}

static __device__ void load_minus(const float *from, int32_t stride, float ridge, block_sums &at)
{
    int32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int32_t m = 0; m < 2; m++)
#pragma unroll
        for (int32_t n = 0; n < 4; n++)
#pragma unroll
            for (int32_t half = 0; half < 2; half++) {
                int32_t row = m * 16 + half * 8 + g, column = n * 8 + t * 2;
                float2 pair = *(const float2 *)(from + row * stride + column);
                at[m][n][half * 2] = -pair.x - (row == column ? ridge : 0);
                at[m][n][half * 2 + 1] = -pair.y - (row == column + 1 ? ridge : 0);
            }
}

static __device__ void put_minus(const block_sums &at, float (*to)[STRIDE])
{
    int32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int32_t i = 0; i < 16; i++) {
        int32_t m = i / 8, n = i / 2 % 4, half = i % 2;
        *(float2 *)&to[m * 16 + half * 8 + g][n * 8 + t * 2] =
            make_float2(-at[m][n][half * 2], -at[m][n][half * 2 + 1]);
    }
}

static __device__ void get_row(const float *from, float (&row)[FIT_BLOCK])
{
#pragma unroll
    for (int32_t i = 0; i < FIT_BLOCK; i += 4) {
        float4 part = *(const float4 *)(from + i);
        row[i] = part.x;
        row[i + 1] = part.y;
        row[i + 2] = part.z;
        row[i + 3] = part.w;
    }
}

static __device__ void put_row(const float (&row)[FIT_BLOCK], float *to)
{
#pragma unroll
    for (int32_t i = 0; i < FIT_BLOCK; i += 4)
        *(float4 *)(to + i) = make_float4(row[i], row[i + 1], row[i + 2], row[i + 3]);
}

/* The diagonal block by one warp, a row a lane; to the right of the diagonal rows hold whatever. */
template <int BLOCKS>
static __device__ void factorise_diagonal(struct factor_room<BLOCKS> *room, int32_t k)
{
    int32_t lane = threadIdx.x % 32;
    bool positive = true;
    float row[FIT_BLOCK], scale = 0;
    get_row(room->panel[k][lane], row);
#pragma unroll
    for (int32_t p = 0; p < FIT_BLOCK; p++) {
        float pivot = __shfl_sync(0xffffffff, row[p], p), unit = row[p] * __fdividef(1, pivot);
        positive = positive && pivot > 0 && pivot < INFINITY;
        scale = lane == p ? rsqrtf(pivot) : scale;
        room->unit[p][lane] = unit;
#pragma unroll
        for (int32_t i = p + 1; i < FIT_BLOCK; i++)
            row[i] = fmaf(-unit, __shfl_sync(0xffffffff, row[p], i), row[i]);
    }
    room->scale[lane] = scale;
    if (lane == 0 && !positive)
        room->failed = 1;
}

/* row = row C^-T for the diagonal block's factor C; one row a lane. */
template <int BLOCKS>
static __device__ void solve_row(const struct factor_room<BLOCKS> &room, float (&row)[FIT_BLOCK])
{
#pragma unroll
    for (int32_t p = 0; p < FIT_BLOCK - 1; p++)
#pragma unroll
        for (int32_t i = (p + 1) / 4 * 4; i < FIT_BLOCK; i += 4) {
            float4 unit = *(const float4 *)&room.unit[p][i];
            row[i] = i > p ? fmaf(-row[p], unit.x, row[i]) : row[i];
            row[i + 1] = i + 1 > p ? fmaf(-row[p], unit.y, row[i + 1]) : row[i + 1];
            row[i + 2] = i + 2 > p ? fmaf(-row[p], unit.z, row[i + 2]) : row[i + 2];
            row[i + 3] = fmaf(-row[p], unit.w, row[i + 3]);
        }
#pragma unroll
    for (int32_t i = 0; i < FIT_BLOCK; i++)
        row[i] *= room.scale[i];
}

/* Below diagonal block k, a warp a block; and a warp for the inverse of its factor, of which a lane
 * has a column. */
template <int BLOCKS>
static __device__ void solve_panel(struct factor_room<BLOCKS> *room, int32_t k, float *gram)
{
    constexpr int32_t FEATURES = BLOCKS * FIT_BLOCK;
    int32_t lane = threadIdx.x % 32, block = k + 1 + (int32_t)threadIdx.x / 32;
    float row[FIT_BLOCK];
    if (block > BLOCKS)
        return;
    if (block < BLOCKS)
        get_row(room->panel[block][lane], row);
    else
#pragma unroll
        for (int32_t i = 0; i < FIT_BLOCK; i++)
            row[i] = i == lane;
    solve_row(*room, row);
    if (block < BLOCKS) {
        put_row(row, room->panel[block][lane]);
        put_row(row, gram + (block * FIT_BLOCK + lane) * FEATURES + k * FIT_BLOCK);
    } else {
#pragma unroll
        for (int32_t i = 0; i < FIT_BLOCK; i++)
            gram[(k * FIT_BLOCK + i) * FEATURES + k * FIT_BLOCK + lane] = row[i];
    }
}

/* at += a b^T, of blocks of the panel. */
static __device__ void update(const float (*a)[STRIDE], const float (*b)[STRIDE], block_sums &at)
{
    int32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int32_t step = 0; step < FIT_BLOCK; step += 8) {
        struct left_parts left[2];
#pragma unroll
        for (int32_t m = 0; m < 2; m++) {
            const float *from = &a[m * 16 + g][step + t];
            float places[4] = {from[0], from[8 * STRIDE], from[4], from[8 * STRIDE + 4]};
            left[m] = split_left(places);
        }
#pragma unroll
        for (int32_t n = 0; n < 4; n++) {
            const float *from = &b[n * 8 + g][step + t];
            struct right_parts right = split_right(from[0], from[4]);
            multiply_parts(at[0][n], left[0], right);
            multiply_parts(at[1][n], left[1], right);
        }
    }
}

template <int BLOCKS>
static __global__ void __launch_bounds__(FACTOR_THREADS, 1)
    factor_kernel(struct fit_arrays arrays, double ridge)
{
    constexpr int32_t FEATURES = BLOCKS * FIT_BLOCK;
    constexpr int32_t OWN = (BLOCKS * (BLOCKS + 1) / 2 + FACTOR_WARPS - 1) / FACTOR_WARPS;
    __shared__ __align__(16) struct factor_room<BLOCKS> room;
    int32_t head = blockIdx.x, warp = threadIdx.x / 32, own[OWN];
    float *gram = arrays.gram + (int64_t)head * FEATURES * FEATURES;
    block_sums at[OWN];
    struct head_sums sums = sums_of(arrays, head);
    double beta_squared = sums.raw_q > 0 ? sums.raw_o / sums.raw_q : 0;
    double lambda = ridge * (sums.centred_o + beta_squared * sums.centred_q) / FEATURES;
    if (!fit_is_due(sums) || !(lambda > 0) || !isfinite(lambda)) {
        if (threadIdx.x == 0)
            arrays.solved[head] = 0;
        return;
    }
    /* Where q is 0 or o is, any ridge will do for q's features: their weight is 0. */
    double of_q = beta_squared > 0 ? lambda / beta_squared : lambda;
    if (threadIdx.x == 0)
        room.failed = 0;
#pragma unroll
    for (int32_t l = 0; l < OWN; l++) {
        own[l] = find_block(warp + l * FACTOR_WARPS, BLOCKS);
        int32_t i = block_i(own[l]), j = block_j(own[l]);
        float added = i != j ? 0 : (float)(i < BLOCKS / 2 ? lambda : of_q);
        if (i >= 0)
            load_minus(gram + (i * FEATURES + j) * FIT_BLOCK, FEATURES, added, at[l]);
    }
#pragma unroll 1
    for (int32_t k = 0; k < BLOCKS; k++) {
#pragma unroll
        for (int32_t l = 0; l < OWN; l++)
            if (block_j(own[l]) == k)
                put_minus(at[l], room.panel[block_i(own[l])]);
        __syncthreads();
        if (warp == 0)
            factorise_diagonal(&room, k);
        __syncthreads();
        solve_panel(&room, k, gram);
        __syncthreads();
#pragma unroll
        for (int32_t l = 0; l < OWN; l++)
            if (block_j(own[l]) > k)
                update(room.panel[block_i(own[l])], room.panel[block_j(own[l])], at[l]);
        __syncthreads();
    }
    if (threadIdx.x == 0)
        arrays.solved[head] = !room.failed;
}

cudaError_t repair_factor(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                          cudaStream_t stream)
{
    int32_t heads = repair->shape.heads;
    if (repair->shape.head_dim == 128)
        factor_kernel<8><<<heads, FACTOR_THREADS, 0, stream>>>(*arrays, repair->ridge);
    else
        factor_kernel<4><<<heads, FACTOR_THREADS, 0, stream>>>(*arrays, repair->ridge);
    return cudaGetLastError();
}
