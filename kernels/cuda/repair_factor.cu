/*
 * The Cholesky factor C of x^T x + L for repair: C C^T = x^T x + L, in place, one block of threads
 * a head. Blocks of 32 x 32 on the diagonal are left as their factors' inverses, which is how
 * repair_solve.cu takes them. A matrix that is not positive definite is reported, not factorised.
 *
 * Warp 0 factorises the blocks on the diagonal, a row a lane, GROUP pivots at a time, and hands
 * columns on as it goes. Row i of blocks has two warps. One solves for block (i, k), a row a lane,
 * and keeps (i, i - 2) in registers, as tensor cores leave it; the other keeps (i, i - 1) and
 * (i, i). They give them their share of each column, so that what is due next depends on nobody's
 * leisure. Where k = i - 1, the second gives (i, i) its share of every 8 columns as soon as the
 * first has solved for them, and warp 0 waits for no more than that. A warp more solves for the
 * rows of the identity, which gives the inverse; those of rows 1 and 2, which are soon through,
 * help with blocks further from the diagonal. Who needs something waits for just that: each event
 * has an mbarrier of its own, which is used once. Columns of blocks that are due or solved for lie
 * in shared memory.
 *
 * Bound: for each column of a row, a share and then solving for what is due, one after the other;
 * pivots take half of that.
 *
 * Ladder, repair without correction of 12 x 32,760 at head_dim 128 on an H100:
 *   1  Gauss-Jordan inverse by float32 FMAs, 8 pivots a step, then products    260 us
 *   2  a factor and repair_solve.cu, one step of 32 columns after the other    164 us
 *   3  look-ahead; columns of a pivot through shared memory, not lane to lane  131 us
 *   4  4 pivots at a time; each launch begins while the one before ends         124 us
 *   5  a warp a row of blocks, and waits for events only                        116 us
 *   6  two, of which one solves and one updates                                 109 us
 *   7  repair.cu: probe rows stay in registers until their means are known      105 us
 * Tried without gain: 256 threads a tile of x^T x; fetching the factor a turn ahead in
 * repair_solve.cu. Left: 16 columns a CTA there, two CTAs a multiprocessor (97 us, behind attention
 * 4 us less, for 170 lines more).
 */
#include "repair_cuda.cuh"
#include "repair_mma.cuh"

enum {
    GROUP = 4, /* pivots of a diagonal block that are taken together */
    GROUPS = FIT_BLOCK / GROUP,
    PART = 8, /* columns that tensor cores take at a time */
    PARTS = FIT_BLOCK / PART,
    PANEL = 18,            /* blocks in shared memory: three columns; see place_of() */
    STRIDE = FIT_BLOCK + 4 /* keeps vectors aligned and a warp's reads on banks of their own */
};

typedef float padded_row[STRIDE];

/* Two a row; those of row 0 are that for the diagonal and that for inverses. */
template <int BLOCKS> struct factor_warps {
    static_assert(BLOCKS == 4 || BLOCKS == 8, "see help()");
    enum { ALL = 2 * BLOCKS, HELPERS = BLOCKS > 4 ? 4 : 0 };
};

/* Of one arrival each. */
template <int BLOCKS> struct factor_events {
    uint64_t columns[BLOCKS][GROUPS]; /* a group of the factor of diagonal block k is there */
    uint64_t diagonal[BLOCKS];        /* diagonal block k is */
    uint64_t due[BLOCKS][BLOCKS];     /* [column][row]: lacks nothing but to be solved for */
    uint64_t solved[BLOCKS][BLOCKS];  /* [column][row] */
    uint64_t parts[BLOCKS][PARTS];    /* [row]: that many columns of (i, i - 1) are solved for */
};

template <int BLOCKS> struct factor_room {
    padded_row panel[PANEL][FIT_BLOCK]; /* see place_of() */
    padded_row diagonal[FIT_BLOCK];     /* the next block on it */
    padded_row column[2][FIT_BLOCK];    /* [pivot][row] of its factor and of the one before; on
                                           their own diagonals the reciprocals */
    struct factor_events<BLOCKS> events;
    uint64_t followed[BLOCKS]; /* nobody reads the columns of diagonal block k any more */
    uint64_t used[2];          /* nor column k of blocks */
    float ridge[2];            /* of features of o and of q */
    int32_t turn;              /* which diagonal block warp 0 is at, for want of registers */
    bool is_due;
};

/* A warp's block as tensor cores leave it: [rows 16 m + ..][columns 8 n + ..][4]. */
typedef float block_sums[2][4][4];

/* The same in all lanes, told to the compiler: it need not expect that they part. */
static __device__ int32_t find_warp(void)
{
#if __CUDA_ARCH__ >= 900
    return (int32_t)__reduce_max_sync(0xffffffff, threadIdx.x / 32);
#else
    return (int32_t)threadIdx.x / 32; /* else it takes more registers than there are */
#endif
}

/* Where block (i, k), i > k, is while it is due or solved for. Columns from the fourth on take the
 * room of the first ones. */
template <int BLOCKS>
static __device__ padded_row *place_of(struct factor_room<BLOCKS> *room, int32_t i, int32_t k)
{
    int32_t place = k * (2 * BLOCKS - 1 - k) / 2 + i - k - 1;
    return room->panel[place < PANEL ? place : place - PANEL];
}

static __device__ void load_block(const float *from, int32_t stride, block_sums &at)
{
    int32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int32_t i = 0; i < 16; i++) {
        int32_t m = i / 8, n = i / 2 % 4, half = i % 2;
        float2 pair = *(const float2 *)(from + (m * 16 + half * 8 + g) * stride + n * 8 + t * 2);
        at[m][n][half * 2] = pair.x;
        at[m][n][half * 2 + 1] = pair.y;
    }
}

/* LOWER: only what may be on the diagonal or below. */
template <bool LOWER = false> static __device__ void put_block(const block_sums &at, padded_row *to)
{
    int32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int32_t i = 0; i < 16; i++) {
        int32_t m = i / 8, n = i / 2 % 4, half = i % 2;
        if (LOWER && n > m * 2 + 1)
            continue;
        *(float2 *)&to[m * 16 + half * 8 + g][n * 8 + t * 2] =
            make_float2(at[m][n][half * 2], at[m][n][half * 2 + 1]);
    }
}

static __device__ void add_ridge(float ridge, block_sums &at)
{
    int32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int32_t i = 0; i < 8; i++)
        at[i / 4][i / 2][i % 4] += g == t * 2 + i % 2 ? ridge : 0;
}

/* A block of rows as they lie: four at a time. */
static __device__ void load_rows(const float *from, int32_t stride, float4 (&rows)[8])
{
    int32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int32_t i = 0; i < 8; i++)
        rows[i] = *(const float4 *)(from + (i * 4 + lane / 8) * stride + lane % 8 * 4);
}

static __device__ void put_rows(const float4 (&rows)[8], padded_row *to)
{
    int32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int32_t i = 0; i < 8; i++)
        *(float4 *)&to[i * 4 + lane / 8][lane % 8 * 4] = rows[i];
}

static __device__ void store_rows(const padded_row *from, float *to, int32_t stride)
{
    int32_t lane = threadIdx.x % 32;
    to += lane / 8 * stride + lane % 8 * 4;
    asm volatile("" : "+l"(to)); /* one address; registers are dear */
#pragma unroll
    for (int32_t i = 0; i < 8; i++)
        *(float4 *)(to + i * 4 * stride) = *(const float4 *)&from[i * 4 + lane / 8][lane % 8 * 4];
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

/* Columns [FIRST, END) of it. */
template <int FIRST, int END>
static __device__ void put_row(const float (&row)[FIT_BLOCK], float *to)
{
#pragma unroll
    for (int32_t i = FIRST; i < END; i += 4)
        *(float4 *)(to + i) = make_float4(row[i], row[i + 1], row[i + 2], row[i + 3]);
}

/* 1 / sqrt of what is not subnormal. */
static __device__ float reciprocal_root(float value)
{
    float root;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(value));
    return root;
}

/* ---- events --------------------------------------------------------------------------------- */

static __device__ uint32_t address_of(const uint64_t *event)
{
    return (uint32_t)__cvta_generic_to_shared(event);
}

static __device__ void make_event(const uint64_t *event, int32_t warps)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(address_of(event)), "r"(warps * 32)
                 : "memory");
}

/* By a warp: what it has read and written is done. All lanes say so: one for the others would do,
 * but tools that look for races do not know that. */
static __device__ void say(uint32_t event)
{
    __syncwarp();
    asm volatile("{\n"
                 ".reg .b64 state;\n"
                 "mbarrier.arrive.shared.b64 state, [%0];\n"
                 "}\n" ::"r"(event)
                 : "memory");
}

/* By a warp, all lanes of which leave together. */
static __device__ void hear(uint32_t event)
{
    uint32_t done;
    do {
        asm volatile("{\n"
                     ".reg .pred done;\n"
#if __CUDA_ARCH__ >= 900
                     "mbarrier.try_wait.parity.shared.b64 done, [%1], 0;\n"
#else
                     "mbarrier.test_wait.parity.shared.b64 done, [%1], 0;\n"
#endif
                     "selp.u32 %0, 1, 0, done;\n"
                     "}\n"
                     : "=r"(done)
                     : "r"(event)
                     : "memory");
    } while (!__all_sync(0xffffffff, done));
}

static __device__ void say(const uint64_t *event)
{
    say(address_of(event));
}

static __device__ void hear(const uint64_t *event)
{
    hear(address_of(event));
}

/* By all threads. */
template <int BLOCKS> static __device__ void make_events(struct factor_room<BLOCKS> *room)
{
    int32_t i = threadIdx.x;
    for (int32_t k = i; k < (int32_t)(sizeof(room->events) / sizeof(uint64_t)); k += blockDim.x)
        make_event((uint64_t *)&room->events + k, 1);
    if (i < BLOCKS)
        make_event(&room->followed[i], BLOCKS - i);
    if (i < 2)
        make_event(&room->used[i],
                   2 * (BLOCKS - 1 - i) + factor_warps<BLOCKS>::HELPERS + (BLOCKS > 4 && i == 0));
}

/* ---- the diagonal --------------------------------------------------------------------------- */

/* row's columns [FIRST, END) -= of_lane of the GROUP columns from column on. */
template <int FIRST, int END>
static __device__ void subtract_group(const padded_row *column, const float (&of_lane)[GROUP],
                                      float (&row)[FIT_BLOCK])
{
#pragma unroll
    for (int32_t i = FIRST; i < END; i += 4) {
        if ((i - FIRST) % 16 == 12)
            __syncwarp(); /* or more is fetched ahead than there are registers for */
#pragma unroll
        for (int32_t p = 0; p < GROUP; p++) {
            float4 part = *(const float4 *)&column[p][i];
            row[i] = fmaf(-of_lane[p], part.x, row[i]);
            row[i + 1] = fmaf(-of_lane[p], part.y, row[i + 1]);
            row[i + 2] = fmaf(-of_lane[p], part.z, row[i + 2]);
            row[i + 3] = fmaf(-of_lane[p], part.w, row[i + 3]);
        }
    }
}

/* Pivots from P on. All lanes factorise the GROUP x GROUP on the diagonal, each for itself, and
 * solve for their places next to it. was: those in the group before, which all columns but these
 * still lack: that is made up for while pivots wait for one another. */
template <int P>
static __device__ void factorise_groups(padded_row *column, uint32_t event, float (&row)[FIT_BLOCK],
                                        const float (&was)[GROUP])
{
    if constexpr (P < FIT_BLOCK) {
        int32_t lane = threadIdx.x % 32;
        float square[GROUP][GROUP], scale[GROUP], place[GROUP];
#pragma unroll
        for (int32_t i = 0; i < GROUP * GROUP; i++)
            if (i % GROUP <= i / GROUP)
                square[i / GROUP][i % GROUP] =
                    __shfl_sync(0xffffffff, row[P + i % GROUP], P + i / GROUP);
#pragma unroll
        for (int32_t p = 0; p < GROUP; p++) {
            scale[p] = reciprocal_root(square[p][p]);
            place[p] = row[P + p] * scale[p];
#pragma unroll
            for (int32_t i = p + 1; i < GROUP; i++) {
                square[i][p] *= scale[p];
                row[P + i] = fmaf(-place[p], square[i][p], row[P + i]);
#pragma unroll
                for (int32_t j = p + 1; j <= i; j++)
                    square[i][j] = fmaf(-square[i][p], square[j][p], square[i][j]);
            }
        }
        if constexpr (P > 0)
            subtract_group<P + GROUP, FIT_BLOCK>(column + P - GROUP, was, row);
#pragma unroll
        for (int32_t p = 0; p < GROUP; p++)
            column[P + p][lane] = lane == P + p ? scale[p] : place[p];
        say(event + P / GROUP * (uint32_t)sizeof(uint64_t));
        if constexpr (P + GROUP < FIT_BLOCK)
            subtract_group<P + GROUP, P + 2 * GROUP>(column + P, place, row);
        factorise_groups<P + GROUP>(column, event, row, place);
    }
}

/* By warp 0, a row a lane; to the right of the diagonal rows hold whatever. */
template <int BLOCKS> static __device__ void factorise_diagonals(struct factor_room<BLOCKS> *room)
{
#pragma unroll 1
    for (int32_t k = 0; k < BLOCKS; k = *(volatile int32_t *)&room->turn + 1) {
        float row[FIT_BLOCK];
        __syncwarp();
        room->turn = k;
        if (k > 0)
            hear(&room->events.diagonal[k]);
        if (k > 1)
            hear(&room->followed[k - 2]);
        int32_t lane = threadIdx.x % 32;
        asm volatile("" : "+r"(lane)); /* registers are dearer than addresses found anew */
        get_row(room->diagonal[lane], row);
        factorise_groups<0>(room->column[k % 2], address_of(room->events.columns[k]), row, {});
    }
}

/* ---- what lies below ------------------------------------------------------------------------ */

/* row = row C^-T in columns [P, P + GROUP), and their share for those that follow; C is the factor
 * of a diagonal block. */
template <int P>
static __device__ void solve_group(const padded_row *column, float (&row)[FIT_BLOCK])
{
#pragma unroll
    for (int32_t p = P; p < P + GROUP; p++) {
        row[p] *= column[p][p];
#pragma unroll
        for (int32_t i = (p + 1) / 4 * 4; i < FIT_BLOCK; i += 4) {
            float4 part = *(const float4 *)&column[p][i];
            row[i] = i > p ? fmaf(-row[p], part.x, row[i]) : row[i];
            row[i + 1] = i + 1 > p ? fmaf(-row[p], part.y, row[i + 1]) : row[i + 1];
            row[i + 2] = i + 2 > p ? fmaf(-row[p], part.z, row[i + 2]) : row[i + 2];
            row[i + 3] = fmaf(-row[p], part.w, row[i + 3]);
        }
    }
}

/* at -= a b^T, of blocks of the panel. */
static __device__ void update(const padded_row *a, const padded_row *b, block_sums &at)
{
    int32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll 1 /* or it needs too many registers */
    for (int32_t step = 0; step < FIT_BLOCK; step += PART) {
        struct right_parts right[4];
#pragma unroll
        for (int32_t n = 0; n < 4; n++) {
            const float *from = &b[n * 8 + g][step + t];
            right[n] = split_right(from[0], from[4]);
        }
#pragma unroll
        for (int32_t m = 0; m < 2; m++) {
            const float *from = &a[m * 16 + g][step + t];
            float places[4] = {from[0], from[8 * STRIDE], from[4], from[8 * STRIDE + 4]};
            struct left_parts left = split_left(places);
#pragma unroll
            for (int32_t n = 0; n < 4; n++)
                multiply_parts<true>(at[m][n], left, right[n]);
        }
    }
}

/* at -= a a^T of columns [step, step + PART) of a, where it matters, which is not right of the
 * diagonal: places of a left fragment are those of two right ones. */
static __device__ void update_diagonal(const padded_row *a, int32_t step, block_sums &at)
{
    int32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    struct right_parts right[4];
#pragma unroll
    for (int32_t n = 0; n < 4; n++) {
        const float *from = &a[n * 8 + g][step + t];
        right[n] = split_right(from[0], from[4]);
    }
#pragma unroll
    for (int32_t m = 0; m < 2; m++) {
        struct left_parts left;
#pragma unroll
        for (int32_t i = 0; i < 4; i++) {
            left.big[i] = right[m * 2 + i % 2].big[i / 2];
            left.small[i] = right[m * 2 + i % 2].small[i / 2];
        }
#pragma unroll
        for (int32_t n = 0; n < 2 * m + 2; n++)
            multiply_parts<true>(at[m][n], left, right[n]);
    }
}

/* Columns from P on of what is due, as warp 0 finds those of the factor. */
template <int P>
static __device__ void solve_row(const padded_row *column, uint32_t event, float (&row)[FIT_BLOCK])
{
    if constexpr (P < FIT_BLOCK) {
        if (P % PART == 0)
            hear(event + ((P + PART) / GROUP - 1) * (uint32_t)sizeof(uint64_t));
        solve_group<P>(column, row);
        solve_row<P + GROUP>(column, event, row);
    }
}

template <int BLOCKS>
static __device__ void solve_row(const struct factor_room<BLOCKS> &room, int32_t k,
                                 float (&row)[FIT_BLOCK])
{
    solve_row<0>(room.column[k % 2], address_of(room.events.columns[k]), row);
}

/* The same right below a diagonal block; goes to own, PART columns at a time, which part tells. */
template <int P>
static __device__ void solve_next_row(const padded_row *column, uint32_t event, uint32_t part,
                                      float *own, float (&row)[FIT_BLOCK])
{
    if constexpr (P < FIT_BLOCK) {
        hear(event + P / GROUP * (uint32_t)sizeof(uint64_t));
        solve_group<P>(column, row);
        if constexpr ((P + GROUP) % PART == 0) {
            put_row<P + GROUP - PART, P + GROUP>(row, own);
            say(part + P / PART * (uint32_t)sizeof(uint64_t));
        }
        solve_next_row<P + GROUP>(column, event, part, own, row);
    }
}

/* Block (i, j) gets its share of column k, if it lies behind it; if right behind it, it is due. */
template <int BLOCKS>
static __device__ void give_share(struct factor_room<BLOCKS> *room, int32_t k, int32_t i, int32_t j,
                                  block_sums &at)
{
    if (j <= k)
        return;
    asm volatile("" : "+r"(i), "+r"(j)); /* registers are dearer than addresses found anew */
    hear(&room->events.solved[k][i]);
    hear(&room->events.solved[k][j]);
    update(place_of(room, i, k), place_of(room, j, k), at);
    if (j > k + 1)
        return;
    if (BLOCKS > 4 && j >= 3)
        hear(&room->used[j >= 5]);
    put_block(at, place_of(room, i, j));
    say(&room->events.due[j][i]);
}

/* Where block (i, j) is in global memory; found anew each time, because registers are dear. */
template <int BLOCKS>
static __device__ float *gram_at(const struct fit_arrays &arrays, int32_t i, int32_t j)
{
    constexpr int32_t FEATURES = BLOCKS * FIT_BLOCK;
    int32_t head = blockIdx.x;
    asm volatile("" : "+r"(head));
    return arrays.gram + ((int64_t)head * FEATURES + i * FIT_BLOCK) * FEATURES + j * FIT_BLOCK;
}

/* Block (i, j), further left than (i, i - 2), until it is due. */
template <int BLOCKS>
static __device__ void help_block(struct factor_room<BLOCKS> *room, int32_t i, int32_t j,
                                  bool is_last, const struct fit_arrays &arrays)
{
    block_sums at;
    load_block(gram_at<BLOCKS>(arrays, i, j), BLOCKS * FIT_BLOCK, at);
#pragma unroll 1
    for (int32_t k = 0; k < j; k++) {
        give_share(room, k, i, j, at);
        if (is_last && k < 2)
            say(&room->used[k]);
    }
}

/* Blocks (i, j), two digits each, the first one last. There are ten, and (6, 1) is invert()'s.
 * Blocks due first are done first, and what is due of columns 0 and 1 does not wait for later
 * columns, which need their room. */
template <int BLOCKS>
static __device__ void help(struct factor_room<BLOCKS> *room, const struct fit_arrays &arrays)
{
    int32_t warp = find_warp();
    uint32_t blocks = warp == 1            ? 0x637151
                      : warp == 2          ? 0x7452
                      : warp == BLOCKS + 1 ? 0x736241
                                           : 0x72;
#pragma unroll 1
    for (; blocks > 0; blocks >>= 8)
        help_block(room, blocks >> 4 & 15, blocks & 15, blocks < 256, arrays);
}

/* By the first warp of row i of blocks, a column a turn: block (i, k) is solved for when it is due;
 * (i, i - 2), which is at, gets its share. The last turn is in haste. */
template <int BLOCKS>
static __device__ void solve_blocks(struct factor_room<BLOCKS> *room, block_sums &at)
{
    int32_t i = find_warp(), lane = threadIdx.x % 32;
    float row[FIT_BLOCK];
    say(&room->events.due[0][i]);
#pragma unroll 1
    for (int32_t k = 0; k < i; k++) {
        padded_row *own = place_of(room, i, k);
        hear(&room->events.due[k][i]);
        get_row(own[lane], row);
        if (k < i - 1) {
            solve_row(*room, k, row);
            put_row<0, FIT_BLOCK>(row, own[lane]);
        } else {
            solve_next_row<0>(room->column[k % 2], address_of(room->events.columns[k]),
                              address_of(room->events.parts[i]), own[lane], row);
        }
        say(&room->events.solved[k][i]);
        say(&room->followed[k]);
        give_share(room, k, i, i - 2, at);
        if (k < 2)
            say(&room->used[k]);
    }
}

/* By the second: (i, i) and (i, i - 1), which are at, get their share of what the first has solved
 * for, and that goes to global memory. */
template <int BLOCKS>
static __device__ void update_blocks(struct factor_room<BLOCKS> *room, block_sums (&at)[2],
                                     const struct fit_arrays &arrays)
{
    int32_t i = find_warp() - BLOCKS;
#pragma unroll 1
    for (int32_t k = 0; k < i; k++) {
        give_share(room, k, i, i - 1, at[1]);
        if (k == i - 1) {
            add_ridge(room->ridge[i >= BLOCKS / 2], at[0]);
        }
        const padded_row *own = place_of(room, i, k);
#pragma unroll 1
        for (int32_t part = 0; part < PARTS; part++) {
            if (k == i - 1)
                hear(&room->events.parts[i][part]);
            update_diagonal(own, part * PART, at[0]);
        }
        if (k == i - 1) {
            put_block<true>(at[0], room->diagonal);
            say(&room->events.diagonal[i]);
        }
        store_rows(own, gram_at<BLOCKS>(arrays, i, k), BLOCKS * FIT_BLOCK);
        if (k < 2)
            say(&room->used[k]);
    }
}

/* The inverses of the diagonal blocks' factors, a column a lane; but first (6, 1), which
 * is in more of a hurry. Returns whether all of the lane's pivots were positive: roots tell. */
template <int BLOCKS>
static __device__ bool invert(struct factor_room<BLOCKS> *room, const struct fit_arrays &arrays)
{
    int32_t lane = threadIdx.x % 32;
    bool positive = true;
    if (BLOCKS > 4)
        help_block(room, 6, 1, true, arrays);
#pragma unroll 1
    for (int32_t k = 0; k < BLOCKS; k++) {
        float row[FIT_BLOCK];
#pragma unroll
        for (int32_t i = 0; i < FIT_BLOCK; i++)
            row[i] = i == lane;
        solve_row(*room, k, row);
        float scale = room->column[k % 2][lane][lane];
        positive = positive && scale > 0 && scale < INFINITY;
        say(&room->followed[k]);
        float *to = gram_at<BLOCKS>(arrays, k, k) + lane;
#pragma unroll
        for (int32_t i = 0; i < FIT_BLOCK; i++)
            to[i * BLOCKS * FIT_BLOCK] = row[i];
    }
    return positive;
}

/* ---- launch --------------------------------------------------------------------------------- */

/* What the ridge adds for features of o and of q; false where there is nothing to fit. */
static __device__ bool find_ridge(const struct head_sums &sums, double ridge, int32_t features,
                                  float (&added)[2])
{
    double beta_squared = sums.raw_q > 0 ? sums.raw_o / sums.raw_q : 0;
    double lambda = ridge * (sums.centred_o + beta_squared * sums.centred_q) / features;
    /* Where q is 0 or o is, any ridge will do for q's features: their weight is 0. */
    added[0] = (float)lambda;
    added[1] = (float)(beta_squared > 0 ? lambda / beta_squared : lambda);
    return fit_is_due(sums) && lambda > 0 && isfinite(lambda);
}

/* By warp 0: the ridge, and the first diagonal block with it. */
template <int BLOCKS>
static __device__ void begin(struct factor_room<BLOCKS> *room, const struct fit_arrays &arrays,
                             double ridge, const float4 (&first)[8])
{
    int32_t lane = threadIdx.x % 32;
    float added[2];
    bool is_due = find_ridge(sums_of(arrays, blockIdx.x), ridge, BLOCKS * FIT_BLOCK, added);
    put_rows(first, room->diagonal);
    __syncwarp();
    room->diagonal[lane][lane] += added[0];
    if (lane == 0) {
        room->ridge[0] = added[0];
        room->ridge[1] = added[1];
        room->is_due = is_due;
    }
    __syncwarp();
}

template <int BLOCKS>
static __global__ void __launch_bounds__(factor_warps<BLOCKS>::ALL * 32, 1)
    factor_kernel(struct repair_cuda repair, struct fit_arrays arrays, struct apply_plan plan)
{
    extern __shared__ __align__(16) char shared[];
    struct factor_room<BLOCKS> &room = *(struct factor_room<BLOCKS> *)shared;
    int32_t warp = find_warp(), row = warp % BLOCKS;
    block_sums at[2];
    int32_t spare = (int32_t)blockIdx.x - repair.shape.heads;
    if (spare >= 0) { /* a multiprocessor without a head */
        warm_rows(repair, plan, spare, plan.idle);
        return;
    }
    make_events(&room);
    await_launch_before();
    if (warp < BLOCKS) {
        float4 first[8];
        load_rows(gram_at<BLOCKS>(arrays, row, 0), BLOCKS * FIT_BLOCK, first);
        if (row > 2)
            load_block(gram_at<BLOCKS>(arrays, row, row - 2), BLOCKS * FIT_BLOCK, at[0]);
        if (row == 0) {
            begin(&room, arrays, repair.ridge, first);
        } else {
            put_rows(first, place_of(&room, row, 0));
        }
    } else if (row > 0) {
        load_block(gram_at<BLOCKS>(arrays, row, row), BLOCKS * FIT_BLOCK, at[0]);
        if (row > 1)
            load_block(gram_at<BLOCKS>(arrays, row, row - 1), BLOCKS * FIT_BLOCK, at[1]);
    }
    __syncthreads();
    if (!room.is_due) {
        if (threadIdx.x == 0)
            arrays.solved[blockIdx.x] = 0;
    } else if (warp == 0) {
        factorise_diagonals(&room);
    } else if (warp == BLOCKS) {
        bool positive = __all_sync(0xffffffff, invert(&room, arrays));
        if (threadIdx.x % 32 == 0)
            arrays.solved[blockIdx.x] = positive;
    } else {
        if (warp < BLOCKS) {
            solve_blocks(&room, at[0]);
        } else {
            update_blocks(&room, at, arrays);
        }
        if (BLOCKS > 4 && row <= 2)
            help(&room, arrays);
    }
}

template <int BLOCKS>
static cudaError_t launch(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                          const struct apply_plan *plan, cudaStream_t stream)
{
    return launch_next(factor_kernel<BLOCKS>, repair->shape.heads + plan->idle,
                       factor_warps<BLOCKS>::ALL * 32, sizeof(struct factor_room<BLOCKS>), stream,
                       *repair, *arrays, *plan);
}

cudaError_t repair_factor(const struct repair_cuda *repair, const struct fit_arrays *arrays,
                          const struct apply_plan *plan, cudaStream_t stream)
{
    return repair->shape.head_dim == 128 ? launch<8>(repair, arrays, plan, stream)
                                         : launch<4>(repair, arrays, plan, stream);
}
