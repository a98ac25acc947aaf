/*
 * Owns the draft map on Hopper; draft_map.cu says what it is, and how float32 products come of
 * TF32.
 *
 * The idea: keys are the rows of warpgroup products (m64 n64 k8), queries their columns. A cluster
 * of four CTAs owns 64 query blocks and up to 1,024 columns of them at once, each CTA every fourth
 * 128; the logits stay in registers until they are probabilities, and the map is written once. The
 * two parts of the queries are made once and lie in shared memory. A key element belongs to one
 * thread of the cluster: it comes by bulk tensor copies into a ring that the warp has for itself,
 * is split in registers and goes into the products from there. So no barrier stands between loading
 * and multiplying, and the loads, splits and additions of one warpgroup run under the products of
 * the others. Two CTAs share a multiprocessor, lest it rests in one's prologue or softmax. Sums
 * over DEPTH elements, the smallest products first, join the rest by float32 additions.
 *
 * For the softmax of a row its four CTAs send each other what they have, {largest, sum}, by stores
 * that count themselves in at the receiver's mbarrier: nobody fences, or waits for more than that.
 *
 * The order of elements within DEPTH is free: a thread takes four neighbours. So is that of keys
 * within 16: a thread has two side by side of each of its queries, a warp 64 bytes to store.
 *
 * Bound by TF32 products: at 24 x 928 x 928 x 128, 3 x 5.3 GFLOP, 7 % more as tiles are 64 x 64
 * throughout; the keys of all clusters are 170 MB from the second-level cache.
 *
 * Ladder, 24 x 928 x 928 x 128 on an H100; with spread; 24 x 928 x 1856 x 128; 12 x 256 x 256 x 128
 *   v1  mma.sync, as draft_map.cu has it                           0.207; 0.418; 0.423; 0.021 ms
 *   v2  wgmma, clusters of two CTAs of 16 warps, cp.async          0.149; 0.322; 0.308; 0.021 ms
 *   v3  as above                                                   0.101; 0.297; 0.237; 0.019 ms
 * In a call whose attention keeps the card at its power limit 0.32 -> 0.22 -> 0.12 ms.
 * Tried without gain: clusters spread by policy, the loop over panels not unrolled, keys whose big
 * part the tensor cores cut off themselves; CTAs started out of step (-3 %).
 */
#include "draft_map.cuh"
#include "hopper.cuh"
#include "tensor_map.cuh"

#include <float.h>

namespace
{

enum {
    CTAS = 4, /* of a cluster */
    WARPS = 8,
    THREADS = WARPS * 32,
    QUERIES = 64, /* of a cluster */
    OCTETS = QUERIES / 8,
    MINE = OCTETS * 2, /* queries of a thread: number n is query_of(lane, n) */
    TILES = 2,         /* of TILE keys, a pair of which a warpgroup owns */
    TILE = 64,
    PAIR = TILES * TILE,
    STRIP = 16,          /* keys of a warp in a tile */
    COLUMNS = 2 * TILES, /* of a thread */
    MOST_COLUMNS = CTAS * WARPS / 4 * PAIR,
    PANEL = 32, /* elements of a row under one 128-byte swizzle, and what a stage brings of each */
    DEPTH = 16, /* elements that tensor cores sum */
    STAGES = 2
};

/* Of the softmax, each query has CTAS threads in every CTA, each of them two warps' parts. */
static_assert(THREADS == CTAS * QUERIES && WARPS == 2 * CTAS && WARPS == OCTETS, "shares are even");
static_assert(MAP_EVEN % STRIP == 0, "a strip lies in one segment");

/* What is padded is so for the banks' sake. */
template <int HEAD_DIM> struct room_of {
    float queries[2][HEAD_DIM / PANEL][QUERIES * PANEL]; /* big parts, small parts; swizzled */
    float keys[WARPS][STAGES][STRIP * PANEL];            /* swizzled */
    struct softmax_part parts[WARPS][QUERIES + 4];
    struct softmax_part sent[2][CTAS][QUERIES + 4]; /* of even and odd segments, by the CTAs */
    float factors[WARPS][QUERIES + 8];
    struct softmax_part rows[QUERIES]; /* of all segments so far */
    uint64_t full[WARPS][STAGES];
    uint64_t all_sent[2];
};

/* Where a warp is at work: the same for all of it, and told so. */
struct place {
    int32_t warp, head;
    int32_t first; /* row of the head, of QUERIES that the cluster has */
    int32_t segment;
};

/* Of a thread: [tile][4 octet + 2 r + i] is key_of_thread() + TILE tile + r, query
 * query_of(lane, 2 octet + i). */
typedef float sums[TILES][OCTETS * 4];

/* Read afresh each time: what is made from it is not kept in registers, which are scarce. */
DEVICE int32_t thread_index(void)
{
    uint32_t index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return (int32_t)(index % THREADS);
}

DEVICE int32_t lane_of_thread(void)
{
    return thread_index() % 32;
}

DEVICE int32_t rank_of_cta(void)
{
    return (int32_t)blockIdx.x % CTAS;
}

/* The first column of the warpgroup's pair, counted in the segment. */
DEVICE int32_t key_of_warpgroup(int32_t warp)
{
    return (warp / 4 * CTAS + rank_of_cta()) * PAIR;
}

/* That of the warp's strip in the first tile. */
DEVICE int32_t key_of_warp(int32_t warp)
{
    return key_of_warpgroup(warp) + warp % 4 * STRIP;
}

/* The first of the thread's two rows in a strip: those of lanes that read shared memory together
 * differ in bit 2, where the swizzle puts them on different banks. */
DEVICE int32_t row_of_thread(void)
{
    const int32_t g = lane_of_thread() / 4;
    return (g & 4 | (g & 1) << 1 | (g & 2) >> 1) * 2;
}

DEVICE int32_t key_of_thread(int32_t warp)
{
    return key_of_warp(warp) + row_of_thread();
}

DEVICE int32_t query_of(int32_t lane, int32_t n)
{
    return n / 2 * 8 + lane % 4 * 2 + n % 2;
}

DEVICE int32_t segment_end(const struct map_args &args, int32_t segment)
{
    return min(args.columns, (segment + 1) * args.width);
}

DEVICE int64_t row_of_all(const struct map_args &args, struct place at, int32_t query)
{
    return (int64_t)at.head * args.rows + at.first + query;
}

/* Whether the warpgroup has columns in a tile. */
DEVICE bool has_tile(const struct map_args &args, struct place at, int32_t tile)
{
    const int32_t first = key_of_warpgroup(at.warp) + tile * TILE;
    return tile < TILES && first < args.width && at.segment * args.width + first < args.columns;
}

/* Tiles that it has in each segment but the last. */
DEVICE int32_t tiles_of_segment(const struct map_args &args, struct place at)
{
    at.segment = 0;
    return has_tile(args, at, 0) + has_tile(args, at, 1);
}

/* ---- products ------------------------------------------------------------------------------- */

/*
 * Parts of the queries, or of their squares, as products read them: rows of 128 bytes, of which
 * chunk c lies at c ^ row % 8. Element 4 t + e of DEPTH is column t of chunk e: so a thread's four
 * neighbours among the keys meet their own.
 */
template <int HEAD_DIM, bool SQUARES>
DEVICE void write_queries(const struct map_args &args, struct room_of<HEAD_DIM> &room,
                          struct place at)
{
    constexpr int STEPS = HEAD_DIM / DEPTH;
    const int32_t g = lane_of_thread() / 4, t = lane_of_thread() % 4;
    const int32_t row = at.warp * 8 + g;
    const float *from = args.mean_q + (row_of_all(args, at, row) * HEAD_DIM + t * 4);
    float4 four[STEPS];

#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        four[step] = make_float4(0, 0, 0, 0);
        if (at.first + row < args.rows)
            four[step] = __ldg((const float4 *)(from + step * DEPTH));
    }
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const float value[4] = {four[step].x, four[step].y, four[step].z, four[step].w};
        const int panel = step / (PANEL / DEPTH);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int32_t chunk = (step % (PANEL / DEPTH) * 4 + e) ^ g;
            const int32_t word = row * PANEL + chunk * 4 + t;
            uint32_t big, small;
            split_float(SQUARES ? value[e] * value[e] : value[e], &big, &small);
            room.queries[0][panel][word] = __uint_as_float(big);
            room.queries[1][panel][word] = __uint_as_float(small);
        }
    }
    proxy_fence();
}

/* Stage number `stage` of a segment on its way to this warp: PANEL elements of its STRIP keys of a
 * tile, zeros past the last of all keys. Of tiles that the warpgroup has not, nothing. */
template <int HEAD_DIM>
DEVICE void fetch_keys(const struct map_args &args, const CUtensorMap &keys,
                       struct room_of<HEAD_DIM> &room, struct place at, int32_t stage)
{
    constexpr int PANELS = HEAD_DIM / PANEL;
    const int32_t tile = stage / PANELS, slot = stage % STAGES;

    if (!has_tile(args, at, tile) || !elected())
        return;
    mbarrier_expect(&room.full[at.warp][slot], sizeof(room.keys[at.warp][slot]));
    tensor_load(room.keys[at.warp][slot], &keys, &room.full[at.warp][slot], stage % PANELS * PANEL,
                at.segment * args.width + key_of_warp(at.warp) + tile * TILE, at.head, 0);
}

template <int HEAD_DIM>
DEVICE void begin_products(const struct map_args &args, const CUtensorMap &keys,
                           struct room_of<HEAD_DIM> &room, struct place at)
{
#pragma unroll
    for (int stage = 0; stage < STAGES; stage++)
        fetch_keys<HEAD_DIM>(args, keys, room, at, stage);
}

/* Adds products over DEPTH elements: those of a thread's two keys, and parts of the queries at the
 * two words. */
DEVICE void multiply(float4 low, float4 high, uint32_t query_big, uint32_t query_small,
                     float (&sum)[32])
{
    uint32_t big[8], small[8];
    float part[32];

    split_float(low.x, &big[0], &small[0]);
    split_float(high.x, &big[1], &small[1]);
    split_float(low.y, &big[2], &small[2]);
    split_float(high.y, &big[3], &small[3]);
    split_float(low.z, &big[4], &small[4]);
    split_float(high.z, &big[5], &small[5]);
    split_float(low.w, &big[6], &small[6]);
    split_float(high.w, &big[7], &small[7]);
    settle(big);
    settle(small);
    wgmma_fence();
    wgmma_tf32<false>(part, small, query_big);
    wgmma_tf32<true>(part, small + 4, query_big + 2);
    wgmma_tf32<true>(part, big, query_small);
    wgmma_tf32<true>(part, big + 4, query_small + 2);
    wgmma_tf32<true>(part, big, query_big);
    wgmma_tf32<true>(part, big + 4, query_big + 2);
    wgmma_commit();
    wgmma_wait<0>();
    settle(part);
#pragma unroll
    for (int i = 0; i < 32; i++)
        sum[i] += part[i];
    settle(sum);
}

/* All products of a segment that this CTA has. */
template <int HEAD_DIM>
DEVICE void products(const struct map_args &args, const CUtensorMap &keys,
                     struct room_of<HEAD_DIM> &room, struct place at, sums &sum)
{
    constexpr int PANELS = HEAD_DIM / PANEL, PANEL_WORDS = QUERIES * PANEL * 4 / 16;
    const int32_t row = row_of_thread();
    /* Of the first DEPTH elements of the first key; those of the next lie at ^ 16, of the other key
     * at ^ (PANEL + 4). */
    const int32_t own = row * PANEL + (lane_of_thread() % 4 ^ row % 8) * 4;
    const uint32_t queries = matrix_word(shared_address(room.queries), 0);

    /* Times that each stage has been used: as often in each segment, but for the last. */
    int32_t used = PANELS / STAGES * at.segment * tiles_of_segment(args, at);

#pragma unroll
    for (int tile = 0; tile < TILES; tile++, used += PANELS / STAGES) {
        if (!has_tile(args, at, tile))
            break;
#pragma unroll 2
        for (int32_t panel = 0; panel < PANELS; panel++) {
            const int32_t slot = panel % STAGES;
            const float *from = room.keys[at.warp][slot];
            const uint32_t big = queries + panel * PANEL_WORDS, small = big + PANELS * PANEL_WORDS;
            mbarrier_wait(&room.full[at.warp][slot], (used + panel / STAGES) % 2);
            multiply(*(const float4 *)(from + own), *(const float4 *)(from + (own ^ (PANEL + 4))),
                     big, small, sum[tile]);
            multiply(*(const float4 *)(from + (own ^ 16)),
                     *(const float4 *)(from + (own ^ (PANEL + 4 + 16))), big + DEPTH * 4 / 16,
                     small + DEPTH * 4 / 16, sum[tile]);
            /* Products have had what all lanes read of the stage. A load that is only issued may
             * still be overtaken by the copy. */
            __syncwarp();
            fetch_keys<HEAD_DIM>(args, keys, room, at, tile * PANELS + panel + STAGES);
        }
    }
}

/* ---- the map -------------------------------------------------------------------------------- */

DEVICE float &sum_of(sums &sum, int n, int column)
{
    return sum[column / 2][n / 2 * 4 + column % 2 * 2 + n % 2];
}

/* Calls two(n, tile, to, second) for the two columns of each query, number n, in each tile of a
 * segment; second: there are both, as always where VECTORS. */
template <bool VECTORS, typename Two>
DEVICE void each_two(const struct map_args &args, struct place at, Two two)
{
    const int32_t column = at.segment * args.width + key_of_thread(at.warp);
    const int32_t there = segment_end(args, at.segment) - column, lane = lane_of_thread();
    const int32_t queries = args.rows - at.first;
    float *to = args.map + (row_of_all(args, at, query_of(lane, 0)) * args.columns + column);

#pragma unroll
    for (int n = 0; n < MINE; n++) {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
            if (query_of(lane, n) < queries && tile * TILE < there)
                two(n, tile, to + tile * TILE, VECTORS || tile * TILE + 1 < there);
        to += (int64_t)(query_of(0, n + 1) - query_of(0, n)) * args.columns;
    }
}

template <bool VECTORS> DEVICE float2 load_two(const float *from, bool second)
{
    if (VECTORS)
        return *(const float2 *)from;
    return make_float2(from[0], second ? from[1] : 0);
}

template <bool VECTORS> DEVICE void store_two(float *to, bool second, float2 value)
{
    if (VECTORS) {
        /* A plain store the compiler may split. */
        asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)),
                     "f"(value.x), "f"(value.y)
                     : "memory");
        return;
    }
    to[0] = value.x;
    if (second)
        to[1] = value.y;
}

/* Sums times the factors of their rows become the map. */
template <bool VECTORS>
DEVICE void store(const struct map_args &args, struct place at, sums &sum,
                  const float (&factor)[MINE])
{
    each_two<VECTORS>(args, at, [&](int n, int tile, float *to, bool second) {
        store_two<VECTORS>(to, second,
                           make_float2(factor[n] * sum_of(sum, n, 2 * tile),
                                       factor[n] * sum_of(sum, n, 2 * tile + 1)));
    });
}

/* ---- softmax -------------------------------------------------------------------------------- */

/* Products become base-2 logits; -INFINITY where there is no column. */
DEVICE void logits(const struct map_args &args, struct place at, sums &sum)
{
    const int32_t first = at.segment * args.width + key_of_thread(at.warp);

#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        const int32_t column = first + i / 2 * TILE + i % 2;
        const float log_n = column == args.columns - 1 ? args.log_last : args.log_block;
        const float with = column < segment_end(args, at.segment) ? log_n : -INFINITY;
#pragma unroll
        for (int n = 0; n < MINE; n++)
            sum_of(sum, n, i) = fmaf(args.scale_log2, sum_of(sum, n, i), with);
    }
}

/* Lanes `other` apart share out the values of both: the upper one goes on with the second half. */
template <int HALF, typename Join>
DEVICE void halve(const float (&value)[2 * HALF], float (&half)[HALF], int other, Join join)
{
    const bool upper = lane_of_thread() & other;

#pragma unroll
    for (int i = 0; i < HALF; i++) {
        const float sent = upper ? value[i] : value[i + HALF];
        const float kept = upper ? value[i + HALF] : value[i];
        half[i] = join(kept, __shfl_xor_sync(~0u, sent, other));
    }
}

/* Reduces each query's value over the eight lanes that share it; the lane is left with numbers
 * 2 (lane / 4) and the next. */
template <typename Join> DEVICE void reduce(const float (&value)[MINE], float (&left)[2], Join join)
{
    float half[MINE / 2], quarter[MINE / 4];

    halve(value, half, 16, join);
    halve(half, quarter, 8, join);
    halve(quarter, left, 4, join);
}

/* Logits become powers of two, relative to the largest that the warp has of a row, and the warp's
 * part of each row goes to shared memory. */
DEVICE void powers(sums &sum, struct softmax_part (&parts)[QUERIES + 4])
{
    const int32_t lane = lane_of_thread();
    float value[MINE], largest[2], total[2];

#pragma unroll
    for (int n = 0; n < MINE; n++)
        value[n] = fmaxf(fmaxf(sum_of(sum, n, 0), sum_of(sum, n, 1)),
                         fmaxf(sum_of(sum, n, 2), sum_of(sum, n, 3)));
    reduce(value, largest, [](float a, float b) { return fmaxf(a, b); });
    largest[0] = fmaxf(largest[0], -FLT_MAX); /* no column: what follows is 0, not NaN */
    largest[1] = fmaxf(largest[1], -FLT_MAX);
#pragma unroll
    for (int n = 0; n < MINE; n++) {
        const float top = __shfl_sync(~0u, largest[n % 2], n / 2 * 4 + lane % 4);
        value[n] = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float &power = sum_of(sum, n, i);
            power = exp2_fast(power - top);
            value[n] += power;
        }
    }
    reduce(value, total, [](float a, float b) { return a + b; });
#pragma unroll
    for (int i = 0; i < 2; i++)
        parts[query_of(lane, lane / 4 * 2 + i)] = {largest[i], total[i]};
}

/* Parts that the four lanes of a query have, made one: the same to the bit in all of them. */
DEVICE struct softmax_part gathered(struct softmax_part part)
{
    struct softmax_part all = part;

#pragma unroll
    for (int other = 1; other < CTAS; other *= 2)
        all.largest = fmaxf(all.largest, __shfl_xor_sync(~0u, all.largest, other));
    all.sum *= exp2_fast(part.largest - all.largest);
#pragma unroll
    for (int other = 1; other < CTAS; other *= 2)
        all.sum += __shfl_xor_sync(~0u, all.sum, other);
    return all;
}

/*
 * Logits become powers, and room.factors what makes shares of them, were this segment the last. The
 * four threads of a query take two warps each, then a CTA each. A CTA sends for the next segment
 * but one only when all have read this one: they have sent for the next. So two places suffice.
 */
template <int HEAD_DIM>
DEVICE void softmax(struct room_of<HEAD_DIM> &room, struct place at, sums &sum)
{
    const int32_t query = thread_index() / CTAS, mine = thread_index() % CTAS;
    const int32_t turn = at.segment % 2;

    powers(sum, room.parts[at.warp]);
    if (threadIdx.x == 0)
        mbarrier_expect(&room.all_sent[turn], CTAS * QUERIES * sizeof(struct softmax_part));
    __syncthreads();
    const struct softmax_part one = room.parts[mine][query], other = room.parts[mine + CTAS][query];
    if (at.segment == 0)
        cluster_wait();
    const struct softmax_part part = gathered(joined(one, other));
    cluster_send(make_float2(part.largest, part.sum), &room.sent[turn][rank_of_cta()][query],
                 &room.all_sent[turn], mine);
    cluster_mbarrier_wait(&room.all_sent[turn], at.segment / 2 % 2);
    struct softmax_part all = gathered(room.sent[turn][mine][query]);
    if (at.segment > 0)
        all = joined(all, room.rows[query]);
    __syncwarp();
    if (mine == 0)
        room.rows[query] = all;
    const float share = 1 / all.sum;
    room.factors[mine][query] = exp2_fast(one.largest - all.largest) * share;
    room.factors[mine + CTAS][query] = exp2_fast(other.largest - all.largest) * share;
    __syncthreads();
}

/* What earlier segments left in the map are logits: now that the rows are known, shares. */
template <bool VECTORS, int HEAD_DIM>
DEVICE void finish_segments(const struct map_args &args, const struct room_of<HEAD_DIM> &room,
                            struct place at)
{
    const int32_t lane = lane_of_thread();

    for (at.segment = 0; at.segment < args.segments - 1; at.segment++) {
        each_two<VECTORS>(args, at, [&](int n, int, float *to, bool second) {
            const struct softmax_part all = room.rows[query_of(lane, n)];
            const float2 logit = load_two<VECTORS>(to, second);
            const float share = 1 / all.sum;
            store_two<VECTORS>(to, second,
                               make_float2(exp2_fast(logit.x - all.largest) * share,
                                           exp2_fast(logit.y - all.largest) * share));
        });
    }
}

/* Products of means become the map, but for finish_segments(). */
template <bool VECTORS, int HEAD_DIM>
DEVICE void make_map(const struct map_args &args, struct room_of<HEAD_DIM> &room, struct place at,
                     sums &sum)
{
    const bool last = at.segment == args.segments - 1;
    float factor[MINE];

    logits(args, at, sum);
    if (!last) {
#pragma unroll
        for (int n = 0; n < MINE; n++)
            factor[n] = 1;
        store<VECTORS>(args, at, sum, factor);
    }
    softmax<HEAD_DIM>(room, at, sum);
    if (!last)
        return;
#pragma unroll
    for (int n = 0; n < MINE; n++)
        factor[n] = room.factors[at.warp][query_of(lane_of_thread(), n)];
    store<VECTORS>(args, at, sum, factor);
}

/* Products of squares and variances multiply what is in the map, each thread's own. */
template <bool VECTORS>
DEVICE void apply_spread(const struct map_args &args, struct place at, sums &sum)
{
    each_two<VECTORS>(args, at, [&](int n, int tile, float *to, bool second) {
        const float2 value = load_two<VECTORS>(to, second);
        store_two<VECTORS>(
            to, second,
            make_float2(value.x * (args.scale * sqrtf(sum_of(sum, n, 2 * tile))),
                        value.y * (args.scale * sqrtf(sum_of(sum, n, 2 * tile + 1)))));
    });
}

DEVICE struct place place_of_warp(const struct map_args &args)
{
    const int32_t tile = (int32_t)blockIdx.x / CTAS, head = uniform(tile / args.row_tiles);
    return {uniform(thread_index()) / 32, head, (tile - head * args.row_tiles) * QUERIES, 0};
}

template <int HEAD_DIM> DEVICE void init_barriers(struct room_of<HEAD_DIM> &room, int32_t warp)
{
    if (lane_of_thread() == 0) {
        for (int stage = 0; stage < STAGES; stage++)
            mbarrier_init(&room.full[warp][stage], 1);
        if (threadIdx.x == 0) {
            mbarrier_init(&room.all_sent[0], 1);
            mbarrier_init(&room.all_sent[1], 1);
        }
        mbarrier_init_fence();
    }
    __syncwarp();
}

/* keys: means or variances, in boxes of a stage. SPREAD: products of squares and variances, onto
 * the map that the kernel without has made. */
template <int HEAD_DIM, bool SPREAD, bool VECTORS>
__global__ void __cluster_dims__(CTAS, 1, 1) __launch_bounds__(THREADS, 2)
    draft_map_kernel(const __grid_constant__ struct map_args args,
                     const __grid_constant__ CUtensorMap keys)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(1024) uint8_t memory[]; /* the swizzle counts from there */
    struct room_of<HEAD_DIM> &room = *(struct room_of<HEAD_DIM> *)memory;
    struct place at = place_of_warp(args);

    init_barriers<HEAD_DIM>(room, at.warp);
    if (!SPREAD)
        cluster_arrive();
    begin_products<HEAD_DIM>(args, keys, room, at);
    write_queries<HEAD_DIM, SPREAD>(args, room, at);
    __syncthreads();
    for (;;) {
        sums sum = {};
        struct place next = at;
        next.segment++;
        products<HEAD_DIM>(args, keys, room, at, sum);
        if (next.segment < args.segments)
            begin_products<HEAD_DIM>(args, keys, room, next);
        if (SPREAD)
            apply_spread<VECTORS>(args, at, sum);
        else
            make_map<VECTORS, HEAD_DIM>(args, room, at, sum);
        if (next.segment >= args.segments)
            break;
        at = next;
    }
    if (!SPREAD)
        finish_segments<VECTORS, HEAD_DIM>(args, room, at);
#endif
}

/* ---- launch --------------------------------------------------------------------------------- */

template <int HEAD_DIM, bool SPREAD, bool VECTORS>
cudaError_t launch_one(const struct map_args *args, int32_t heads, cudaStream_t stream)
{
    const void *kernel = (const void *)draft_map_kernel<HEAD_DIM, SPREAD, VECTORS>;
    const int bytes = (int)sizeof(struct room_of<HEAD_DIM>);
    const int64_t head = (int64_t)args->columns * HEAD_DIM;
    const struct rows_cuda rows = {SPREAD ? args->spread_k : args->mean_k, heads * head, head,
                                   HEAD_DIM};
    const struct tensor_rows keys_of = {
        rows, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, sizeof(float), HEAD_DIM, args->columns, heads, 1};
    CUtensorMap keys;
    void *arguments[] = {(void *)args, &keys};

    if (!make_tensor_map(find_encode_tensor_map(), &keys, &keys_of, PANEL, STRIP))
        return cudaErrorInvalidValue;
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error == cudaSuccess)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                     cudaSharedmemCarveoutMaxShared);
    if (error == cudaSuccess)
        error = cudaLaunchKernel(kernel, dim3((unsigned)(heads * args->row_tiles * CTAS)),
                                 dim3(THREADS), arguments, (size_t)bytes, stream);
    return error != cudaSuccess ? error : cudaGetLastError();
}

template <int HEAD_DIM, bool VECTORS>
cudaError_t launch(const struct map_args *args, int32_t heads, cudaStream_t stream)
{
    const cudaError_t error = launch_one<HEAD_DIM, false, VECTORS>(args, heads, stream);

    if (error != cudaSuccess || !args->spread_k)
        return error;
    return launch_one<HEAD_DIM, true, VECTORS>(args, heads, stream);
}

template <int HEAD_DIM>
cudaError_t launch(const struct map_args *args, int32_t heads, cudaStream_t stream)
{
    return args->vectors ? launch<HEAD_DIM, true>(args, heads, stream)
                         : launch<HEAD_DIM, false>(args, heads, stream);
}

} // namespace

cudaError_t draft_map_sm90(struct map_args *args, int32_t heads, int32_t head_dim,
                           cudaStream_t stream)
{
    args->row_tiles = (args->rows + QUERIES - 1) / QUERIES;
    set_segments(args, MOST_COLUMNS);
    if ((int64_t)heads * args->row_tiles * CTAS > INT32_MAX)
        return cudaErrorInvalidValue;
    return head_dim == 64 ? launch<64>(args, heads, stream) : launch<128>(args, heads, stream);
}
