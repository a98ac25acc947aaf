/*
 * The linear algebra of repair, for all heads at once. With n probe rows' centred features
 * x = [o, q] and their centred residual e, ridge regression is solved in its primal form,
 * features x features whatever n is:
 *
 *     (x^T x + L) weight = x^T e,   L = lambda for o, lambda / beta^2 for q
 *
 * beta = rms(o) / rms(q) makes the ridge the same for both, lambda = ridge * |x|^2 / features with
 * q scaled by beta: the solution of repair_simd.c, which works in the dual. A row left out would
 * have been predicted with the error (e_i - x_i weight) / (1 - x_i (x^T x + L)^-1 x_i^T - 1 / n),
 * Allen's PRESS.
 *
 * Three launches: the products x^T x and x^T e, here, in tiles of 64 x 64; the factor of what they
 * come to with the ridge, in repair_factor.cu; solving and what follows, judgement included, in
 * repair_solve.cu.
 * Float32 will do: the ridge keeps the condition number below features / ridge.
 *
 * Bound: 18 tiles of a head at head_dim 128 wait for the second-level cache. Ladder: in
 * repair_factor.cu.
 */
#include "repair_cuda.cuh"
#include "repair_mma.cuh"

enum {
    TILE_THREADS = 128, /* 2 x 2 warps of 32 x 32 each */
    INNER = 32,         /* of a tile's factors at a time */
    BY_INNER = 72       /* keeps a warp's reads on banks of their own */
};

/* A factor of a product: element (row, column) is data[row * stride + column]. */
struct factor {
    const float *data;
    int32_t stride;
};

struct tile_room {
    float a[2][INNER * BY_INNER], b[2][INNER * BY_INNER];
};

/* ---- products ------------------------------------------------------------------------------- */

/* INNER x 64 from inner on, as much as a thread carries. */
static __device__ void fetch(struct factor from, int32_t inner, float4 (&carried)[4])
{
#pragma unroll
    for (int32_t i = 0; i < 4; i++) {
        int32_t vector = (int32_t)threadIdx.x + i * TILE_THREADS;
        carried[i] =
            *(const float4 *)(from.data + (inner + vector / 16) * from.stride + vector % 16 * 4);
    }
}

static __device__ void put(const float4 (&carried)[4], float *to)
{
#pragma unroll
    for (int32_t i = 0; i < 4; i++) {
        int32_t vector = (int32_t)threadIdx.x + i * TILE_THREADS;
        *(float4 *)(to + vector / 16 * BY_INNER + vector % 16 * 4) = carried[i];
    }
}

/* The 32 x 32 of a warp, 8 of the inner dimension. */
static __device__ void multiply_step(const float *a, const float *b, float (&sum)[2][4][4])
{
    int32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    struct left_parts left[2];
#pragma unroll
    for (int32_t m = 0; m < 2; m++) {
        const float *from = a + t * BY_INNER + m * 16 + g;
        float places[4] = {from[0], from[8], from[4 * BY_INNER], from[4 * BY_INNER + 8]};
        left[m] = split_left(places);
    }
#pragma unroll
    for (int32_t n = 0; n < 4; n++) {
        const float *from = b + t * BY_INNER + n * 8 + g;
        struct right_parts right = split_right(from[0], from[4 * BY_INNER]);
        multiply_parts(sum[0][n], left[0], right);
        multiply_parts(sum[1][n], left[1], right);
    }
}

/* sum = a^T b, 64 x 64; inner is a multiple of INNER. */
static __device__ void multiply_tile(struct tile_room *room, struct factor a, struct factor b,
                                     int32_t inner, float (&sum)[2][4][4])
{
    int32_t warp = threadIdx.x / 32, a_place = warp / 2 * 32, b_place = warp % 2 * 32;
    float4 next_a[4], next_b[4];
#pragma unroll
    for (int32_t i = 0; i < 32; i++)
        sum[i / 16][i / 4 % 4][i % 4] = 0;
    fetch(a, 0, next_a);
    fetch(b, 0, next_b);
    for (int32_t done = 0; done < inner; done += INNER) {
        float *room_a = room->a[done / INNER % 2], *room_b = room->b[done / INNER % 2];
        put(next_a, room_a);
        put(next_b, room_b);
        __syncthreads();
        if (done + INNER < inner) {
            fetch(a, done + INNER, next_a);
            fetch(b, done + INNER, next_b);
        }
#pragma unroll
        for (int32_t k = 0; k < INNER * BY_INNER; k += 8 * BY_INNER)
            multiply_step(room_a + a_place + k, room_b + b_place + k, sum);
    }
}

static __device__ void store_tile(const float (&sum)[2][4][4], float *out, int32_t stride)
{
    int32_t row = threadIdx.x / 64 * 32 + threadIdx.x % 32 / 4;
    int32_t column = threadIdx.x / 32 % 2 * 32 + threadIdx.x % 4 * 2;
#pragma unroll
    for (int32_t i = 0; i < 16; i++) {
        int32_t m = i / 8, n = i / 2 % 4, half = i % 2;
        *(float2 *)(out + (row + m * 16 + half * 8) * stride + column + n * 8) =
            make_float2(sum[m][n][half * 2], sum[m][n][half * 2 + 1]);
    }
}

/* ---- gram and cross ------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(TILE_THREADS)
    gram_kernel(struct fit_arrays arrays, int32_t head_dim, int32_t tiles)
{
    __shared__ __align__(16) struct tile_room room;
    int32_t head = blockIdx.x / tiles, tile = blockIdx.x % tiles;
    int32_t features = arrays.features, i = 0;
    int32_t pairs = features / FIT_TILE * (features / FIT_TILE + 1) / 2;
    const float *x = arrays.x + (int64_t)head * arrays.rows * features;
    float sum[2][4][4];
    await_launch_before();
    if (!fit_is_due(arrays, head))
        return;
    if (tile >= pairs) {
        int32_t columns = head_dim / FIT_TILE, j = (tile - pairs) % columns * FIT_TILE;
        i = (tile - pairs) / columns * FIT_TILE;
        const float *residual = arrays.residual + (int64_t)head * arrays.rows * head_dim;
        multiply_tile(&room, {x + i, features}, {residual + j, head_dim}, arrays.rows, sum);
        store_tile(sum, arrays.cross + ((int64_t)head * features + i) * head_dim + j, head_dim);
        return;
    }
    while ((i + 1) * (i + 2) / 2 <= tile)
        i++;
    int32_t j = tile - i * (i + 1) / 2;
    multiply_tile(&room, {x + i * FIT_TILE, features}, {x + j * FIT_TILE, features}, arrays.rows,
                  sum);
    store_tile(sum,
               arrays.gram + ((int64_t)head * features + i * FIT_TILE) * features + j * FIT_TILE,
               features);
}

/* ---- launches ------------------------------------------------------------------------------- */

cudaError_t repair_fit(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                       const struct apply_plan *plan, cudaStream_t stream)
{
    int32_t heads = repair->shape.heads, head_dim = repair->shape.head_dim;
    int32_t squares = arrays->features / FIT_TILE, columns = head_dim / FIT_TILE;
    int32_t grams = squares * (squares + 1) / 2 + squares * columns;
    cudaError_t error = launch_next(gram_kernel, (int64_t)heads * grams, TILE_THREADS, 0, stream,
                                    *arrays, head_dim, grams);
    if (error == cudaSuccess)
        error = repair_factor(repair, arrays, plan, stream);
    return error == cudaSuccess ? repair_solve(repair, arrays, stream) : error;
}
