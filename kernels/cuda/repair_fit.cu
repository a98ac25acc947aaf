/*
 * The linear algebra of repair, for all heads at once. With n probe rows' centred features
 * x = [o, q] and their centred residual e, ridge regression is solved in its primal form,
 * features x features whatever n is:
 *
 *     N = (x^T x + L)^-1,   weight = N x^T e,   L = lambda for o, lambda / beta^2 for q
 *
 * beta = rms(o) / rms(q) makes the ridge the same for both, lambda = ridge * |x|^2 / features with
 * q scaled by beta: the solution of repair_simd.c, which works in the dual. A row left out would
 * have been predicted with the error (e_i - x_i weight) / (1 - x_i N x_i^T - 1 / n), Allen's PRESS.
 *
 * Four launches, each over (head, tile): gram, inverse, projections, what is left. Products are
 * tiles of 64 x 64 by tensor cores, each float in two parts of TF32 and three products of them: as
 * good as float32. The inverse has one block of threads a head: the lower half of the matrix lies
 * in registers, 8 x 8 a thread, and 8 pivots a step are swept, -(x^T x + L)^-1 being what is left
 * at the end. The lanes of warp 0 own the diagonal, and one of them inverts the next pivots while
 * the other warps are still busy. Float32 will do: the ridge keeps the condition number below
 * features / ridge.
 *
 * Bound: the inverse, by one multiprocessor's FMAs, 8.4 M for 256 features; tiles elsewhere are
 * short and wait for the second-level cache.
 *
 * Ladder, 256 probes of 128, an H100:
 *   1  as above: all of the fit 0.30 ms at 24 heads, 0.26 at 12; 0.21 of it the inverse, one block
 *      a head. Corrections of float32 rows are up to 4e-4 of themselves from the CPU's, with a
 *      small ridge 1.6e-3: the inverse is explicit and float32, and long sums of tensor cores
 *      truncate
 */
#include "repair_cuda.cuh"

enum {
    TILE_THREADS = 128, /* 2 x 2 warps of 32 x 32 each */
    INNER = 32,         /* of a tile's factors at a time */
    BY_INNER = 72, /* strides in shared memory that keep a warp's reads on banks of their own */
    BY_ROW = 36,
    FACTOR_FLOATS = 64 * BY_ROW, /* = INNER * BY_INNER */
    PIVOTS = 8,
    BLOCK_FLOATS = PIVOTS * PIVOTS + 8, /* blocks on banks of their own */
    PACK_COLUMNS = 32
};

/* A factor of a product: element (row, column) is data[row * stride + column]. */
struct factor {
    const float *data;
    int32_t stride;
};

struct tile_room {
    float a[2][FACTOR_FLOATS], b[2][FACTOR_FLOATS];
};

/* ---- products ------------------------------------------------------------------------------- */

/* 64 x INNER (by row) or INNER x 64, from inner on, as much as a thread carries. */
template <bool ROWS>
static __device__ void fetch(struct factor from, int32_t inner, float4 (&carried)[4])
{
#pragma unroll
    for (int32_t i = 0; i < 4; i++) {
        int32_t vector = (int32_t)threadIdx.x + i * TILE_THREADS;
        int32_t row = ROWS ? vector / 8 : inner + vector / 16;
        int32_t column = ROWS ? inner + vector % 8 * 4 : vector % 16 * 4;
        carried[i] = *(const float4 *)(from.data + row * from.stride + column);
    }
}

template <bool ROWS> static __device__ void put(const float4 (&carried)[4], float *to)
{
#pragma unroll
    for (int32_t i = 0; i < 4; i++) {
        int32_t vector = (int32_t)threadIdx.x + i * TILE_THREADS;
        int32_t place =
            ROWS ? vector / 8 * BY_ROW + vector % 8 * 4 : vector / 16 * BY_INNER + vector % 16 * 4;
        *(float4 *)(to + place) = carried[i];
    }
}

/* Two parts whose products by TF32 lose nothing that float32 would keep. */
static __device__ void split(float value, uint32_t *big, uint32_t *small)
{
    *big = __float_as_uint(value) & 0xffffe000u;
    *small = __float_as_uint(value - __uint_as_float(*big));
}

static __device__ void multiply_tf32(float (&sum)[4], const uint32_t (&a)[4],
                                     const uint32_t (&b)[2])
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The 32 x 32 of a warp, 8 of the inner dimension. */
template <bool A_ROWS>
static __device__ void multiply_step(const float *a, const float *b, float (&sum)[2][4][4])
{
    constexpr int32_t ROW = A_ROWS ? BY_ROW : 1, COLUMN = A_ROWS ? 1 : BY_INNER;
    int32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    uint32_t a_big[2][4], a_small[2][4];
#pragma unroll
    for (int32_t m = 0; m < 2; m++)
#pragma unroll
        for (int32_t i = 0; i < 4; i++)
            split(a[(m * 16 + g + i % 2 * 8) * ROW + (t + i / 2 * 4) * COLUMN], &a_big[m][i],
                  &a_small[m][i]);
#pragma unroll
    for (int32_t n = 0; n < 4; n++) {
        uint32_t b_big[2], b_small[2];
#pragma unroll
        for (int32_t i = 0; i < 2; i++)
            split(b[(t + i * 4) * BY_INNER + n * 8 + g], &b_big[i], &b_small[i]);
#pragma unroll
        for (int32_t m = 0; m < 2; m++) {
            multiply_tf32(sum[m][n], a_small[m], b_big);
            multiply_tf32(sum[m][n], a_big[m], b_small);
            multiply_tf32(sum[m][n], a_big[m], b_big);
        }
    }
}

/* sum = a b, or a^T b where a is not taken by rows; 64 x 64, inner a multiple of INNER. */
template <bool A_ROWS>
static __device__ void multiply_tile(struct tile_room *room, struct factor a, struct factor b,
                                     int32_t inner, float (&sum)[2][4][4])
{
    int32_t warp = threadIdx.x / 32;
    int32_t a_place = warp / 2 * 32 * (A_ROWS ? BY_ROW : 1), b_place = warp % 2 * 32;
    float4 next_a[4], next_b[4];
#pragma unroll
    for (int32_t i = 0; i < 32; i++)
        sum[i / 16][i / 4 % 4][i % 4] = 0;
    fetch<A_ROWS>(a, 0, next_a);
    fetch<false>(b, 0, next_b);
    for (int32_t done = 0; done < inner; done += INNER) {
        float *room_a = room->a[done / INNER % 2], *room_b = room->b[done / INNER % 2];
        put<A_ROWS>(next_a, room_a);
        put<false>(next_b, room_b);
        __syncthreads();
        if (done + INNER < inner) {
            fetch<A_ROWS>(a, done + INNER, next_a);
            fetch<false>(b, done + INNER, next_b);
        }
#pragma unroll
        for (int32_t k = 0; k < INNER; k += 8)
            multiply_step<A_ROWS>(room_a + a_place + k * (A_ROWS ? 1 : BY_INNER),
                                  room_b + b_place + k * BY_INNER, sum);
    }
}

/* Where sum[m][n][i] stands in its tile. */
static __device__ int32_t tile_row(int32_t m, int32_t i)
{
    return threadIdx.x / 64 * 32 + m * 16 + i / 2 * 8 + threadIdx.x % 32 / 4;
}

static __device__ int32_t tile_column(int32_t n, int32_t i)
{
    return threadIdx.x / 32 % 2 * 32 + n * 8 + threadIdx.x % 4 * 2 + i % 2;
}

static __device__ void store_tile(const float (&sum)[2][4][4], float *out, int32_t stride)
{
#pragma unroll
    for (int32_t m = 0; m < 2; m++)
#pragma unroll
        for (int32_t n = 0; n < 4; n++)
#pragma unroll
            for (int32_t i = 0; i < 4; i += 2)
                *(float2 *)(out + tile_row(m, i) * stride + tile_column(n, i)) =
                    make_float2(sum[m][n][i], sum[m][n][i + 1]);
}

/* out[64]: sums over a tile's columns, from what each thread has of rows tile_row(m, 2 half). */
static __device__ void store_row_sums(struct tile_room *room, const float (&part)[2][2], float *out)
{
    float *halves = room->a[0]; /* [2][64] */
    __syncthreads();            /* the tile has been read */
#pragma unroll
    for (int32_t i = 0; i < 4; i++) {
        float value = part[i / 2][i % 2];
        value += __shfl_xor_sync(0xffffffff, value, 1);
        value += __shfl_xor_sync(0xffffffff, value, 2);
        if (threadIdx.x % 4 == 0)
            halves[threadIdx.x / 32 % 2 * 64 + tile_row(i / 2, i % 2 * 2)] = value;
    }
    __syncthreads();
    if (threadIdx.x < 64)
        out[threadIdx.x] = halves[threadIdx.x] + halves[64 + threadIdx.x];
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
    if (!fit_is_due(arrays, head))
        return;
    if (tile >= pairs) {
        int32_t columns = head_dim / FIT_TILE, j = (tile - pairs) % columns * FIT_TILE;
        i = (tile - pairs) / columns * FIT_TILE;
        const float *residual = arrays.residual + (int64_t)head * arrays.rows * head_dim;
        multiply_tile<false>(&room, {x + i, features}, {residual + j, head_dim}, arrays.rows, sum);
        store_tile(sum, arrays.cross + ((int64_t)head * features + i) * head_dim + j, head_dim);
        return;
    }
    while ((i + 1) * (i + 2) / 2 <= tile)
        i++;
    int32_t j = tile - i * (i + 1) / 2;
    multiply_tile<false>(&room, {x + i * FIT_TILE, features}, {x + j * FIT_TILE, features},
                         arrays.rows, sum);
    store_tile(sum,
               arrays.gram + ((int64_t)head * features + i * FIT_TILE) * features + j * FIT_TILE,
               features);
}

/* ---- inverse -------------------------------------------------------------------------------- */

/* Blocks stand in shared memory as they do in registers, [block][PIVOTS][PIVOTS], or as columns of
 * pivots: [pivot][of all blocks' elements 0 .. 3, then of all blocks' elements 4 .. 7], so that
 * lanes with neighbouring blocks read neighbouring vectors. */
template <int BLOCKS> struct sweep_room {
    float blocks[BLOCKS][BLOCK_FLOATS];    /* row k of the lower half, then column k: its owners' */
    float swept[BLOCKS][BLOCK_FLOATS];     /* what becomes of it */
    float panel[PIVOTS][PIVOTS * BLOCKS];  /* column k */
    float solved[PIVOTS][PIVOTS * BLOCKS]; /* the same times the pivots' inverse */
    float pivots[PIVOTS][PIVOTS];          /* minus their inverse */
    int32_t failed;
};

template <int BLOCKS> static __device__ float4 *panel_at(float *row, int32_t block, int32_t half)
{
    return (float4 *)(row + (half * BLOCKS + block) * 4);
}

static __device__ float part_of(const float4 &vector, int32_t i)
{
    return i == 0 ? vector.x : i == 1 ? vector.y : i == 2 ? vector.z : vector.w;
}

/* at = -at^-1; false where it is not positive definite. */
static __device__ bool sweep_pivots(float (&at)[PIVOTS][PIVOTS])
{
    bool positive = true;
#pragma unroll
    for (int32_t p = 0; p < PIVOTS; p++) {
        float pivot = at[p][p], scale = __fdividef(1, pivot), column[PIVOTS];
        positive = positive && pivot > 0 && pivot < INFINITY;
#pragma unroll
        for (int32_t i = 0; i < PIVOTS; i++)
            column[i] = i < p ? at[p][i] : at[i][p]; /* the lower half alone is kept */
#pragma unroll
        for (int32_t i = 0; i < PIVOTS; i++)
#pragma unroll
            for (int32_t j = 0; j <= i; j++)
                at[i][j] = i == p && j == p ? -scale
                           : i == p         ? column[j] * scale
                           : j == p         ? column[i] * scale
                                            : fmaf(-column[i] * scale, column[j], at[i][j]);
    }
#pragma unroll
    for (int32_t i = 0; i < PIVOTS; i++)
#pragma unroll
        for (int32_t j = i + 1; j < PIVOTS; j++)
            at[i][j] = at[j][i];
    return positive;
}

static __device__ void put_block(const float (&at)[PIVOTS][PIVOTS], float *to)
{
#pragma unroll
    for (int32_t a = 0; a < PIVOTS; a++)
#pragma unroll
        for (int32_t e = 0; e < PIVOTS; e += 4)
            *(float4 *)(to + a * PIVOTS + e) =
                make_float4(at[a][e], at[a][e + 1], at[a][e + 2], at[a][e + 3]);
}

/* What block (i, j) contributes to step k. */
template <int BLOCKS>
static __device__ void publish(struct sweep_room<BLOCKS> *room, int32_t k, int32_t i, int32_t j,
                               float (&at)[PIVOTS][PIVOTS])
{
    if (i == k && j == k) {
        if (!sweep_pivots(at))
            room->failed = 1;
        put_block(at, room->pivots[0]);
    } else if (i == k || j == k) {
        put_block(at, room->blocks[j == k ? i : j]);
    }
}

/* From blocks and pivots: panel, solved and swept, by all threads; but for block k itself. */
template <int BLOCKS> static __device__ void solve_panel(struct sweep_room<BLOCKS> *room, int32_t k)
{
    constexpr int32_t ROWS = PIVOTS * BLOCKS;
#pragma unroll 1
    for (int32_t task = threadIdx.x; task < 2 * ROWS; task += blockDim.x) {
        int32_t row = task % ROWS, first = task / ROWS * 4; /* of the pivots */
        int32_t block = row / PIVOTS, in_block = row % PIVOTS;
        int32_t column = (in_block / 4 * BLOCKS + block) * 4 + in_block % 4;
        const float *from = room->blocks[block] + (block < k ? in_block : in_block * PIVOTS);
        float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 2
        for (int32_t p = 0; p < PIVOTS; p++) {
            float value = from[block < k ? p * PIVOTS : p];
            float4 pivots = *(const float4 *)&room->pivots[p][first];
            sum.x = fmaf(-value, pivots.x, sum.x);
            sum.y = fmaf(-value, pivots.y, sum.y);
            sum.z = fmaf(-value, pivots.z, sum.z);
            sum.w = fmaf(-value, pivots.w, sum.w);
            if (first == p / 4 * 4)
                room->panel[p][column] = value;
        }
        *(float4 *)(room->swept[block] + in_block * PIVOTS + first) = sum;
#pragma unroll
        for (int32_t p = 0; p < 4; p++)
            room->solved[first + p][column] = part_of(sum, p);
    }
}

/* Block (i, j) once the pivots of block k are swept; their own block has been. */
template <int BLOCKS>
static __device__ void sweep(struct sweep_room<BLOCKS> *room, int32_t k, int32_t i, int32_t j,
                             float (&at)[PIVOTS][PIVOTS])
{
    if (i == k || j == k) {
        if (i == j)
            return;
#pragma unroll
        for (int32_t a = 0; a < PIVOTS; a++)
#pragma unroll
            for (int32_t half = 0; half < 2; half++) {
                const float *from = j == k ? room->swept[i] + a * PIVOTS + half * 4
                                           : (float *)panel_at<BLOCKS>(room->solved[a], j, half);
                float4 part = *(const float4 *)from;
#pragma unroll
                for (int32_t e = 0; e < 4; e++)
                    at[a][half * 4 + e] = part_of(part, e);
            }
        return;
    }
#pragma unroll 1 /* more take more registers than there are */
    for (int32_t p = 0; p < PIVOTS; p++) {
        float4 left[2], right[2];
#pragma unroll
        for (int32_t half = 0; half < 2; half++) {
            left[half] = *panel_at<BLOCKS>(room->solved[p], i, half);
            right[half] = *panel_at<BLOCKS>(room->panel[p], j, half);
        }
#pragma unroll
        for (int32_t a = 0; a < PIVOTS; a++)
#pragma unroll
            for (int32_t b = 0; b < PIVOTS; b++)
                at[a][b] =
                    fmaf(-part_of(left[a / 4], a % 4), part_of(right[b / 4], b % 4), at[a][b]);
    }
}

/* Lower half of gram + ridge, block (i, j). */
template <int BLOCKS>
static __device__ void load_block(const float *gram, int32_t i, int32_t j, float ridge,
                                  float (&at)[PIVOTS][PIVOTS])
{
#pragma unroll
    for (int32_t a = 0; a < PIVOTS; a++)
#pragma unroll
        for (int32_t e = 0; e < PIVOTS; e += 4) {
            float4 part =
                *(const float4 *)(gram + (i * PIVOTS + a) * PIVOTS * BLOCKS + j * PIVOTS + e);
#pragma unroll
            for (int32_t l = 0; l < 4; l++)
                at[a][e + l] = part_of(part, l) + (i == j && a == e + l ? ridge : 0);
        }
}

/* Block (i, j) and, turned, block (j, i). */
template <int BLOCKS>
static __device__ void store_block(const float (&at)[PIVOTS][PIVOTS], int32_t i, int32_t j,
                                   float *out)
{
    constexpr int32_t STRIDE = PIVOTS * BLOCKS;
#pragma unroll
    for (int32_t a = 0; a < PIVOTS; a++)
#pragma unroll
        for (int32_t b = 0; b < PIVOTS; b++) {
            out[(i * PIVOTS + a) * STRIDE + j * PIVOTS + b] = at[a][b];
            out[(j * PIVOTS + b) * STRIDE + i * PIVOTS + a] = at[a][b];
        }
}

template <int BLOCKS> constexpr int32_t sweep_threads()
{
    return 32 + (BLOCKS * (BLOCKS - 1) / 2 + 31) / 32 * 32;
}

/* Of block rows below the diagonal, one after the other: which is place in? */
static __device__ int32_t row_of_pair(int32_t place)
{
    int32_t row = 1;
    while (row * (row + 1) / 2 <= place)
        row++;
    return row;
}

template <int BLOCKS>
static __global__ void __launch_bounds__(sweep_threads<BLOCKS>(), 1)
    invert_kernel(struct fit_arrays arrays, double ridge)
{
    __shared__ __align__(16) struct sweep_room<BLOCKS> room;
    int32_t head = blockIdx.x, pair = (int32_t)threadIdx.x - 32;
    int32_t i = pair < 0 ? (int32_t)threadIdx.x : row_of_pair(pair);
    int32_t j = pair < 0 ? i : pair - i * (i - 1) / 2;
    bool owns = i < BLOCKS;
    float *gram = arrays.gram + (int64_t)head * arrays.features * arrays.features;
    float at[PIVOTS][PIVOTS];
    struct head_sums sums = sums_of(arrays, head);
    double beta_squared = sums.raw_q > 0 ? sums.raw_o / sums.raw_q : 0;
    double lambda = ridge * (sums.centred_o + beta_squared * sums.centred_q) / arrays.features;
    if (!fit_is_due(sums) || !(lambda > 0) || !isfinite(lambda)) {
        if (threadIdx.x == 0)
            arrays.solved[head] = 0;
        return;
    }
    /* Where q is 0 or o is, any ridge will do for q's features: their weight is 0. */
    bool of_o = i < BLOCKS / 2;
    double own = of_o || !(beta_squared > 0) ? lambda : lambda / beta_squared;
    if (threadIdx.x == 0)
        room.failed = 0;
    __syncthreads();
    if (owns) {
        load_block<BLOCKS>(gram, i, j, (float)own, at);
        publish<BLOCKS>(&room, 0, i, j, at);
    }
    __syncthreads();
    for (int32_t k = 0; k < BLOCKS; k++) {
        solve_panel<BLOCKS>(&room, k);
        __syncthreads();
        if (owns) {
            sweep<BLOCKS>(&room, k, i, j, at);
            publish<BLOCKS>(&room, k + 1, i, j, at); /* nobody has block BLOCKS */
        }
        __syncthreads();
    }
    if (owns)
        store_block<BLOCKS>(at, i, j, gram);
    if (threadIdx.x == 0)
        arrays.solved[head] = !room.failed;
}

/* ---- projections: leverage and weight ------------------------------------------------------- */

static __global__ void __launch_bounds__(TILE_THREADS)
    project_kernel(struct fit_arrays arrays, int32_t head_dim, int32_t tiles)
{
    __shared__ __align__(16) struct tile_room room;
    int32_t head = blockIdx.x / tiles, tile = blockIdx.x % tiles;
    int32_t features = arrays.features, squares = features / FIT_TILE;
    int32_t leverages = arrays.rows / FIT_TILE * squares;
    const float *inverse = arrays.gram + (int64_t)head * features * features; /* minus it */
    float sum[2][4][4];
    if (!arrays.solved[head])
        return;
    if (tile >= leverages) {
        int32_t columns = head_dim / FIT_TILE;
        int32_t i = (tile - leverages) / columns * FIT_TILE;
        int32_t j = (tile - leverages) % columns * FIT_TILE;
        int64_t base = (int64_t)head * features * head_dim;
        multiply_tile<true>(&room, {inverse + i * features, features},
                            {arrays.cross + base + j, head_dim}, features, sum);
#pragma unroll
        for (int32_t l = 0; l < 32; l++)
            sum[l / 16][l / 4 % 4][l % 4] *= -1;
        store_tile(sum, arrays.weight + base + i * head_dim + j, head_dim);
        return;
    }
    int32_t i = tile / squares * FIT_TILE, j = tile % squares * FIT_TILE;
    const float *x = arrays.x + ((int64_t)head * arrays.rows + i) * features;
    float part[2][2] = {};
    multiply_tile<true>(&room, {x, features}, {inverse + j, features}, features, sum);
#pragma unroll
    for (int32_t m = 0; m < 2; m++)
#pragma unroll
        for (int32_t n = 0; n < 4; n++)
#pragma unroll
            for (int32_t l = 0; l < 4; l += 2) {
                float2 own =
                    *(const float2 *)(x + tile_row(m, l) * features + j + tile_column(n, l));
                part[m][l / 2] -= sum[m][n][l] * own.x + sum[m][n][l + 1] * own.y;
            }
    store_row_sums(&room, part,
                   arrays.leverage + ((int64_t)head * squares + j / FIT_TILE) * arrays.rows + i);
}

/* ---- what is left, and the weights as they are applied -------------------------------------- */

static __device__ void leave_tile(struct tile_room *room, const struct fit_arrays &arrays,
                                  int32_t head, int32_t head_dim, int32_t tile)
{
    int32_t columns = head_dim / FIT_TILE, features = arrays.features;
    int32_t i = tile / columns * FIT_TILE, j = tile % columns * FIT_TILE;
    const float *x = arrays.x + ((int64_t)head * arrays.rows + i) * features;
    const float *weight = arrays.weight + (int64_t)head * features * head_dim + j;
    const float *residual = arrays.residual + ((int64_t)head * arrays.rows + i) * head_dim + j;
    const float *mean = arrays.mean + (int64_t)head * 3 * head_dim + features + j;
    int64_t out = ((int64_t)head * columns + j / FIT_TILE) * arrays.rows + i;
    float sum[2][4][4], left[2][2] = {}, before[2][2] = {};
    multiply_tile<true>(room, {x, features}, {weight, head_dim}, features, sum);
#pragma unroll
    for (int32_t m = 0; m < 2; m++)
#pragma unroll
        for (int32_t n = 0; n < 4; n++)
#pragma unroll
            for (int32_t l = 0; l < 4; l++) {
                int32_t column = tile_column(n, l);
                float own = residual[tile_row(m, l) * head_dim + column];
                float whole = own + mean[column], rest = own - sum[m][n][l];
                left[m][l / 2] += rest * rest;
                before[m][l / 2] += whole * whole;
            }
    store_row_sums(room, left, arrays.left + out);
    store_row_sums(room, before, arrays.before + out);
}

static __device__ float block_max(float value, float *room)
{
    for (int32_t lane = 16; lane > 0; lane /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, lane));
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = value;
    __syncthreads();
    return fmaxf(fmaxf(room[0], room[1]), fmaxf(room[2], room[3]));
}

static __device__ uint16_t round_to_half(draftattn_dtype dtype, float value)
{
    return dtype == DRAFTATTN_F16 ? __half_as_ushort(__float2half_rn(value))
                                  : __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

/*
 * PACK_COLUMNS of the weights: what tensor cores take, rounded to dtype, and the shift that belongs
 * to what was rounded, so that means cancel. A power of two brings either half's largest weight
 * into [1, 2): F16 could not hold those of large q. Places follow repair_apply.cu.
 */
static __device__ void pack_columns(const struct fit_arrays &arrays, int32_t head, int32_t head_dim,
                                    int32_t part, draftattn_dtype dtype, float *room)
{
    enum { STRIDE = PACK_COLUMNS + 1, THREADS = TILE_THREADS };
    int32_t features = arrays.features, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int32_t column = part * PACK_COLUMNS + lane;
    const float *weight = arrays.weight + (int64_t)head * features * head_dim;
    const float *mean = arrays.mean + (int64_t)head * 3 * head_dim;
    float *sums = room + features * STRIDE; /* [4][32], and before that a maximum per warp */
    float largest[2] = {0, 0}, unscale[2];
    for (int32_t row = warp; row < features; row += THREADS / 32) {
        float value = weight[row * head_dim + column];
        room[row * STRIDE + lane] = value;
        largest[row >= head_dim] = fmaxf(largest[row >= head_dim], fabsf(value));
    }
    for (int32_t half = 0; half < 2; half++) {
        float most = block_max(largest[half], sums);
        int32_t exponent = most > 0 && most < INFINITY ? max(-60, min(60, ilogbf(most))) : 0;
        unscale[half] = dtype == DRAFTATTN_F32 ? 1 : ldexpf(1, exponent);
        if (threadIdx.x == 0)
            arrays.unscale[((int64_t)head * head_dim / PACK_COLUMNS + part) * 2 + half] =
                unscale[half];
    }
    float shift = 0;
    for (int32_t row = warp; row < features; row += THREADS / 32) {
        float back = unscale[row >= head_dim], value = room[row * STRIDE + lane];
        if (dtype != DRAFTATTN_F32) {
            uint16_t bits = round_to_half(dtype, value / back);
            value = load_element(&bits, dtype, 0) * back;
            room[row * STRIDE + lane] = __uint_as_float(bits);
        }
        shift = fmaf(mean[row], value, shift);
    }
    __syncthreads(); /* maxima have been read, everything is rounded */
    sums[threadIdx.x] = shift;
    __syncthreads();
    if (warp == 0)
        arrays.shift[(int64_t)head * head_dim + column] =
            mean[features + column] -
            (sums[lane] + sums[32 + lane] + sums[64 + lane] + sums[96 + lane]);
    if (dtype == DRAFTATTN_F32)
        return;
    uint32_t *out = arrays.fragments + (int64_t)head * features * head_dim / 2;
    for (int32_t i = threadIdx.x; i < features * PACK_COLUMNS / 2; i += THREADS) {
        int32_t word = i % 4, owner = i / 4 % 32, pair = i / 128 % 2, step = i / 256;
        int32_t half = step / (head_dim / 16), in_half = step % (head_dim / 16);
        int32_t row =
            half * head_dim + in_half / 2 * 32 + owner % 4 * 8 + in_half % 2 * 4 + word % 2 * 2;
        int32_t from = owner / 8 * 8 + pair * 4 + word / 2 * 2 + owner / 4 % 2;
        const float *low = room + row * STRIDE + from;
        out[((step * (head_dim / 16) + part * 2 + pair) * 32 + owner) * 4 + word] =
            __float_as_uint(low[0]) | __float_as_uint(low[STRIDE]) << 16;
    }
}

static __global__ void __launch_bounds__(TILE_THREADS)
    leave_kernel(struct fit_arrays arrays, int32_t head_dim, draftattn_dtype packed, int32_t tiles)
{
    __shared__ __align__(16) struct tile_room room;
    int32_t head = blockIdx.x / tiles, tile = blockIdx.x % tiles;
    int32_t leaving = arrays.rows / FIT_TILE * (head_dim / FIT_TILE);
    if (!arrays.solved[head])
        return;
    if (tile < leaving)
        leave_tile(&room, arrays, head, head_dim, tile);
    else
        pack_columns(arrays, head, head_dim, tile - leaving, packed, room.a[0]);
}

/* ---- launches ------------------------------------------------------------------------------- */

cudaError_t repair_fit(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                       cudaStream_t stream)
{
    int32_t heads = repair->shape.heads, head_dim = repair->shape.head_dim;
    int32_t squares = arrays->features / FIT_TILE, columns = head_dim / FIT_TILE;
    int32_t bands = arrays->rows / FIT_TILE;
    draftattn_dtype packed = repair_is_packed(repair) ? repair->dtype : DRAFTATTN_F32;
    int32_t grams = squares * (squares + 1) / 2 + squares * columns;
    int32_t projections = bands * squares + squares * columns;
    int32_t leaving = bands * columns + head_dim / PACK_COLUMNS;
    gram_kernel<<<heads * grams, TILE_THREADS, 0, stream>>>(*arrays, head_dim, grams);
    if (head_dim == 128)
        invert_kernel<32><<<heads, sweep_threads<32>(), 0, stream>>>(*arrays, repair->ridge);
    else
        invert_kernel<16><<<heads, sweep_threads<16>(), 0, stream>>>(*arrays, repair->ridge);
    project_kernel<<<heads * projections, TILE_THREADS, 0, stream>>>(*arrays, head_dim,
                                                                     projections);
    leave_kernel<<<heads * leaving, TILE_THREADS, 0, stream>>>(*arrays, head_dim, packed, leaving);
    return cudaGetLastError();
}
