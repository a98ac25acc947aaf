/*
 * Owns attention on Hopper: exact key blocks by list, means of what is skipped, probe rows.
 *
 * A CTA takes items from the queue. Its producer warp copies queries, keys and values by TMA; two
 * consumer warpgroups own 64 query rows each. They take turns on the tensor cores (ping-pong), and
 * within one the product with V of a step runs under the softmax of the next. A step is 128 keys:
 * two slots of 64 that come from one block of 128, from two of 64, or are 128 block means; the last
 * means, where 64 places hold them, are a step of half the width. Queries and weights stay in
 * registers.
 *
 * The softmax needs one maximum: the largest logit of a row's first step is its base throughout.
 * Weights above 1 do no harm to float sums or to bfloat16, so nothing is compared and nothing
 * rescaled from then on. Only a row whose later logits rise 2^64 above its first step's would leave
 * the range: its sum tells, and its item is done again by a second kernel, which follows the
 * maximum as usual. float16, which ends at 2^16, has it followed at once. What is so far from 0
 * that the base's rounding would show is the second kernel's in either case; in nearly every call
 * it finds an empty queue.
 *
 * It refuses what TMA cannot read; gather_pool.cu makes copies of that.
 *
 * Source: FlashAttention-3, arXiv 2407.08608 (ping-pong, overlap within a warpgroup).
 *
 * What bounds it is power: in long calls the card sits at its 700 W with 1.4 to 1.55 GHz, where its
 * bfloat16 peak is 760 to 840 TFLOP/s, and every instruction and every byte moved lowers the clock.
 *
 * Ladder. H100 80 GB, bfloat16, random data, warm, medians of variants taking turns in one process;
 * TFLOP/s of 12 x 65,536 x 128 dense, at 90 % sparsity, and there with means. Runs differ by 3 %.
 *   1  queries from shared memory; running maximum, moved where it grows by more than 2^8; the
 *      compiler waits for the values ahead of the exponentials        654   627   578
 *   2  that wait behind the loop's branch                             632   612   563
 *   3  queries in registers                                           653   624   573
 *   4  descriptors of one word, indices told to be uniform: beside 3   -0.5 %
 *   5  a fixed base, beside 1 in one run: 597   629   589 -> 752   718   667 with a base handed in;
 *      with that of the first step 710   692   626 in another
 *   6  the logarithm of whole blocks shifts the base: beside 5   700   676   614 -> 724   687   629
 *   7  kept means by predicates, seven an instruction; no weights loaded but for short blocks: 24 x
 *      118,784 with means at 75 and 90 % 66.6 -> 65.6, 30.7 -> 29.2 ms, 12 x 32,760 at 90 % 1.21 ->
 *      1.20; what means cost, by fastest tenths taking turns, 5.4 -> 3.1 and 12.2 -> 11.4 %
 *   8  a last step of means as wide as they need: at 90 % 27.26 -> 27.12 ms, and 9.9 -> 9.8 % for
 *      means, by fastest tenths; medians 28.8 -> 28.5 and 11.4 -> 9.0; 75 % and 12 x 32,760 as ever
 * Beside others in one process (tests/bench/compare_gpu.py): 12 x 32,760 dense 752,
 * FlashAttention-4 705, cuDNN 564; 24 x 118,784 dense 734, 686, 623; 90 % 714, 680; with key blocks
 * of 64 725, 586.
 * At 12 x 32,768 and 90 % 634, 607: 26 steps an item leave its beginning and end bare.
 *
 * Tried without gain: three stages (-2 to -5 %); passing the turn before or behind the products
 * with values, and no turns at all (+-2 %; at head dim 64 turns gain 3 %); waiting for values
 * between the two products (serialised: C7520); no overlap within a warpgroup (-6 %); a last step
 * of 64 means within the loop (no registers left: C7511; short_step() stands behind it); warps
 * that gather the means of skipped blocks alone (a step of them took as long as three); a thread of
 * its own that finds out what items are and hands them over in shared memory, with 224 registers
 * for the consumers (-5 to -7 %, and without turns -5 to -9 %; at head dim 64 -12 %);
 * kept means taken out by one more product of 16 columns, 1 for each query and -infinity for each
 * of them (means cost a tenth less, but exact steps 1 to 3 % more, wherever the branch stands);
 * weights rounded and descriptors made ahead of the turn instead of behind it (-3.5 %; at head dim
 * 64 +2.7 %); an item's kept bits fetched ahead into either cache.
 */
#include "attend_epilogue.cuh"
#include "attend_item.cuh"
#include "hopper.cuh"
#include "softmax_sm90.cuh"
#include "tensor_map.cuh"

#include <math.h>

namespace
{

enum {
    ROWS = CUDA_QUERY_BLOCK, /* of an item */
    PANEL = 64,              /* elements of a row under one 128-byte swizzle */
    PANEL_BYTES = KEYS * PANEL * 2,
    SLOT_BYTES = SLOT * PANEL * 2,
    STAGES = 2,
    TILES = 2, /* items under way: one in the consumers, one ahead of them */
    CONSUMERS = 2,
    THREADS = 128 * (1 + CONSUMERS),
    ALL_VALID = SLOT | SLOT << 8,
    TURN = 1 /* and 2, named barriers: a consumer's turn to issue products */
};

/* Sums above it send an item to the second kernel. Far below what floats hold: the weighted values
 * must stay in range too, and do up to 2^63. */
constexpr float LARGEST_SUM = 0x1p64f;

/* What the first kernel leaves to the second, in the scratch of attend_cuda. */
struct again {
    int32_t *items, *turn; /* as attend_cuda has them */
    uint32_t *bits;        /* one for each item of the call: it stands in the queue */
    int32_t *queue;
};

struct arguments {
    CUtensorMap q, k, v, low_k, low_v, probe_q;
    CUtensorMap video_v; /* v as far as the video goes */
    struct attend_args args;
    int32_t mean_steps; /* of an item that skips something */
    bool short_means;   /* the last of them holds no more than SLOT means */
    int32_t cut_row; /* the first of the video's last block where that ends among text, else -1 */
    struct cut_block cut[2];
    struct again again;
    bool second; /* this is it */
};

template <int D> struct storage {
    static constexpr int BYTES = KEYS * D * 2;
    uint8_t q[BYTES];
    uint8_t k[STAGES][BYTES];
    uint8_t v[STAGES][BYTES];
    uint64_t q_full, q_empty;
    uint64_t k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
    uint64_t tile_full[TILES], tile_empty[TILES];
    int32_t item[TILES]; /* place in the queue; -1: there are no more */
    int32_t
        valid[STAGES]; /* keys that count: first slot | second << 8; ~index of a step of means */
};

/* Rings are walked by turns, counted from 0. */
template <int N> DEVICE int place_of(uint32_t turn)
{
    return turn % N;
}

/* Of the round that the turn belongs to: what a full barrier is waited for with. */
template <int N> DEVICE int parity_of(uint32_t turn)
{
    return turn / N & 1;
}

/* Steps of an item: exact ones, and all. */
struct step_counts {
    int32_t exact, all;
};

DEVICE step_counts steps_of(const arguments &a, const attend_item &item)
{
    int slots = a.args.attend.shape.key_block == SLOT ? 2 : 1;
    int exact = (item.count + slots - 1) / slots;
    return {exact, exact + (item.kept ? a.mean_steps : 0)};
}

/* ---- producer ------------------------------------------------------------------------------ */

/* The exact key blocks of an item, from the last to the first, so that short ones come early: a
 * warp reads 32 entries at a time, one a lane. */
struct list_window {
    const int32_t *blocks;
    int32_t count;
    key_range lane;
};

DEVICE void read_entries(const shape_cuda &shape, list_window &entries, int first, int lane)
{
    int at = entries.count - 1 - first - lane;
    if (at >= 0)
        entries.lane = key_block_range(shape, entries.blocks ? __ldg(entries.blocks + at) : at);
}

/* What is copied into a stage. */
struct step {
    int32_t row[2]; /* of the slots; with key blocks of 128 and means the first alone */
    int32_t valid;  /* as in storage */
};

DEVICE step step_of(const shape_cuda &shape, list_window &entries, int j, int exact, int lane)
{
    step s;
    if (j >= exact) {
        s.row[0] = s.row[1] = (j - exact) * KEYS;
        s.valid = ~(j - exact);
    } else if (shape.key_block == KEYS) {
        if (j % 32 == 0)
            read_entries(shape, entries, j, lane);
        int length = __shfl_sync(~0u, entries.lane.count, j % 32);
        s.row[0] = s.row[1] = __shfl_sync(~0u, entries.lane.first, j % 32);
        s.valid = min(length, (int)SLOT) | max(length - SLOT, 0) << 8;
    } else {
        if (j % 16 == 0)
            read_entries(shape, entries, 2 * j, lane);
        /* Where there is no second block the slot repeats the first, and counts nothing. */
        int second = 2 * j + 1 < entries.count;
        s.row[0] = __shfl_sync(~0u, entries.lane.first, 2 * j % 32);
        s.row[1] = __shfl_sync(~0u, entries.lane.first, (2 * j + second) % 32);
        int length = __shfl_sync(~0u, entries.lane.count, (2 * j + second) % 32);
        s.valid = __shfl_sync(~0u, entries.lane.count, 2 * j % 32) | (second ? length << 8 : 0);
    }
    return s;
}

/* A head as tensor maps count it. */
struct coordinates {
    int head, entry;
};

template <int D>
DEVICE void load_tile(const CUtensorMap *map, int row, coordinates of, uint8_t *to, uint64_t *full)
{
#pragma unroll
    for (int panel = 0; panel < D / PANEL; panel++)
        tensor_load(to + panel * PANEL_BYTES, map, full, panel * PANEL, row, of.head, of.entry);
}

/* Exact rows. Text behind the video's last block has weights of 0, but may hold values that times 0
 * are not 0. */
template <bool VALUES> DEVICE const CUtensorMap *map_of(const arguments &a, int row)
{
    return !VALUES ? &a.k : row == a.cut_row ? &a.video_v : &a.v;
}

template <int D, bool VALUES>
DEVICE void load_step(const step &s, coordinates of, const arguments &a, bool slots, uint8_t *to,
                      uint64_t *full)
{
    mbarrier_expect(full, storage<D>::BYTES);
    const CUtensorMap *means = VALUES ? &a.low_v : &a.low_k;
    load_tile<D>(s.valid < 0 ? means : map_of<VALUES>(a, s.row[0]), s.row[0], of, to, full);
    if (slots && s.valid >= 0)
        load_tile<D>(map_of<VALUES>(a, s.row[1]), s.row[1], of, to + SLOT_BYTES, full);
}

/* The keys of a step go ahead of the values of the step before: they are needed first. */
template <int D>
DEVICE void load_keys_and_values(storage<D> &s, const arguments &a, list_window &entries,
                                 coordinates of, step_counts steps, uint32_t turn, int lane)
{
    bool slots = a.args.attend.shape.key_block == SLOT;
    step before = {};
    for (int j = 0; j <= steps.all; j++, turn++) {
        step now = before;
        if (j < steps.all) {
            int at = place_of<STAGES>(turn);
            now = step_of(a.args.attend.shape, entries, j, steps.exact, lane);
            mbarrier_wait(&s.k_empty[at], parity_of<STAGES>(turn) ^ 1);
            if (lane == 0) {
                s.valid[at] = now.valid;
                load_step<D, false>(now, of, a, slots, s.k[at], &s.k_full[at]);
            }
        }
        if (j > 0) {
            int at = place_of<STAGES>(turn - 1);
            mbarrier_wait(&s.v_empty[at], parity_of<STAGES>(turn - 1) ^ 1);
            if (lane == 0)
                load_step<D, true>(before, of, a, slots, s.v[at], &s.v_full[at]);
        }
        before = now;
    }
}

/* The next place in the queue; -1 where there is none. */
DEVICE int next_place(const arguments &a, int lane)
{
    int place = lane == 0 ? atomicAdd(a.args.attend.counter, 1) : 0;
    int items = a.second ? *a.again.items : a.args.attend.items;
    place = __shfl_sync(~0u, place, 0);
    return place < items ? place : -1;
}

template <int D> DEVICE void produce(storage<D> &s, const arguments &a, int lane)
{
    const attend_cuda &attend = a.args.attend;
    uint32_t turn = 0, queries = 0;
    for (uint32_t tile = 0;; tile++) {
        int place = next_place(a, lane), slot = place_of<TILES>(tile);
        mbarrier_wait(&s.tile_empty[slot], parity_of<TILES>(tile) ^ 1);
        if (lane == 0) {
            s.item[slot] = place;
            mbarrier_arrive(&s.tile_full[slot]);
        }
        if (place < 0)
            return;
        attend_item item = item_at(attend, place);
        step_counts steps = steps_of(a, item);
        coordinates of = {item.head % attend.shape.entry_heads,
                          item.head / attend.shape.entry_heads};
        if (steps.all == 0)
            continue;
        mbarrier_wait(&s.q_empty, parity_of<1>(queries++) ^ 1);
        if (lane == 0) {
            mbarrier_expect(&s.q_full, storage<D>::BYTES);
            load_tile<D>(item.probe ? &a.probe_q : &a.q, item.first, of, s.q, &s.q_full);
        }
        list_window entries = {item.blocks, item.count};
        load_keys_and_values(s, a, entries, of, steps, turn, lane);
        turn += steps.all;
    }
}

/* ---- consumers ----------------------------------------------------------------------------- */

template <int D, typename T, int N>
DEVICE void multiply_keys(float (&sums)[N], const uint32_t (&q)[D / 4], const uint8_t *keys)
{
    uint32_t k = matrix_word(shared_address(keys), 0);
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        wgmma<T, false>(sums, q + 4 * i, k + (i / 4 * PANEL_BYTES + i % 4 * 32) / 16, i != 0);
}

template <int D, typename T, int COUNT>
DEVICE void multiply_values(float (&o)[D / 2], const uint32_t (&p)[32], const uint8_t *values)
{
    uint32_t v = matrix_word(shared_address(values), PANEL_BYTES);
#pragma unroll
    for (int i = 0; i < COUNT / 16; i++)
        wgmma<T, true>(o, p + 4 * i, v + i * 2048 / 16, 1);
}

/* The warp's queries as products take them from registers. */
template <int D> DEVICE void read_queries(uint32_t (&q)[D / 4], const uint8_t *rows)
{
    int lane = threadIdx.x % 32, row = lane % 16;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        int chunk = 2 * i + lane / 16;
        const uint8_t *at = rows + chunk / 8 * PANEL_BYTES + row * 128 + ((chunk ^ row) % 8) * 16;
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(q[4 * i]), "=r"(q[4 * i + 1]), "=r"(q[4 * i + 2]), "=r"(q[4 * i + 3])
                     : "r"(shared_address(at))
                     : "memory");
    }
}

/* What a consumer works on. */
template <int D> struct rows_state {
    int group;            /* the consumer */
    const uint32_t *kept; /* of the item */
    uint32_t q[D / 4];
    float sums[64]; /* logits, then weights */
    uint32_t p[32]; /* rounded weights */
    float o[D / 2];
    softmax_rows softmax;
};

/* Products are issued in turns, so that the softmax of one consumer runs under those of the
 * other. */
DEVICE void take_turn(int group)
{
    barrier_sync(TURN + group, 128 * CONSUMERS);
}

DEVICE void pass_turn(int group)
{
    barrier_arrive(TURN + 1 - group, 128 * CONSUMERS);
}

/* One thread of a consumer says that it is done with a place. */
DEVICE void release(uint64_t *empty)
{
    if (threadIdx.x % 128 == 0)
        mbarrier_arrive(empty);
}

/* Each warp says so: of items, of queries, and of keys, beside which it reads what the producer
 * said of the step. */
DEVICE void release_by_warp(uint64_t *empty)
{
    if (threadIdx.x % 32 == 0)
        mbarrier_arrive(empty);
}

/* What is known of a step before its products: read while they are under way. */
struct step_mask {
    int valid;   /* as in storage */
    uint4 words; /* of a step of means */
};

template <int D> DEVICE step_mask read_mask(const storage<D> &s, const rows_state<D> &rows, int at)
{
    /* One lane reads, the one that releases the step: who reads beside it is not known to be
     * done. */
    step_mask mask = {uniform(threadIdx.x % 32 == 0 ? s.valid[at] : INT32_MIN)};
    if (mask.valid < 0)
        mask.words = __ldg((const uint4 *)rows.kept + ~mask.valid);
    return mask;
}

/* Logits of means but for what to_weights() adds to all, which it returns. */
template <int N>
DEVICE float prepare_means(float (&sums)[N], const arguments &a, const step_mask &mask)
{
    int begin = ~mask.valid * KEYS;
    mask_means(sums, mask.words, a.args.attend.shape.key_blocks - begin);
    for (const cut_block &cut : a.cut)
        if (cut.block / KEYS == ~mask.valid)
            lift_cut_mean(sums, cut, begin);
    return a.args.attend.shape.key_block == KEYS ? 7 : 6; /* its logarithm */
}

template <int D, base_kind BASE, bool FIRST>
DEVICE void to_weights(const arguments &a, rows_state<D> &rows, const step_mask &mask)
{
    float lift = 0;
    settle(rows.sums);
    if (mask.valid < 0)
        lift = prepare_means(rows.sums, a, mask);
    else if (mask.valid != ALL_VALID)
        mask_keys(rows.sums, mask.valid);
    soften<BASE, FIRST>(rows.sums, rows.softmax, a.args.scale_log2, lift);
}

template <int D, typename T, base_kind BASE>
DEVICE void first_step(storage<D> &s, const arguments &a, rows_state<D> &rows, uint32_t turn)
{
    int at = place_of<STAGES>(turn);
    mbarrier_wait(&s.k_full[at], parity_of<STAGES>(turn));
    step_mask mask = read_mask<D>(s, rows, at);
    take_turn(rows.group);
    settle(rows.sums);
    wgmma_fence();
    multiply_keys<D, T>(rows.sums, rows.q, s.k[at]);
    wgmma_commit();
    pass_turn(rows.group);
    wgmma_wait<0>();
    release_by_warp(&s.k_empty[at]);
    release_by_warp(&s.q_empty); /* products have had them: they are read, not just on their way */
    to_weights<D, BASE, true>(a, rows, mask);
}

/* The weights of the turn before meet their values, under the way to the weights of this turn. */
template <int D, typename T, base_kind BASE>
DEVICE void next_step(storage<D> &s, const arguments &a, rows_state<D> &rows, uint32_t turn)
{
    int at = place_of<STAGES>(turn), last = place_of<STAGES>(turn - 1);
    mbarrier_wait(&s.k_full[at], parity_of<STAGES>(turn));
    step_mask mask = read_mask<D>(s, rows, at);
    /* Waiting for these between the products would make the compiler serialise them. */
    mbarrier_wait(&s.v_full[last], parity_of<STAGES>(turn - 1));
    take_turn(rows.group);
    settle(rows.sums);
    settle(rows.o);
    settle(rows.p);
    wgmma_fence();
    multiply_keys<D, T>(rows.sums, rows.q, s.k[at]);
    wgmma_commit();
    multiply_values<D, T, KEYS>(rows.o, rows.p, s.v[last]);
    wgmma_commit();
    pass_turn(rows.group);
    wgmma_wait<1>();
    release_by_warp(&s.k_empty[at]);
    to_weights<D, BASE, false>(a, rows, mask);
}

/* Waits for the products with values that are under way, and prepares the next ones. */
template <int D, typename T, base_kind BASE, int N>
DEVICE void close_step(rows_state<D> &rows, const float (&sums)[N])
{
    wgmma_wait<0>();
    settle(rows.o);
    settle(rows.p);
    round_weights<T>(sums, rows.p);
    if (BASE != FIXED && rows.softmax.moved) {
#pragma unroll
        for (int i = 0; i < D / 2; i++)
            rows.o[i] *= rows.softmax.shrink[i / 2 % 2];
    }
}

template <int D, typename T, int COUNT>
DEVICE void last_values(storage<D> &s, rows_state<D> &rows, uint32_t turn)
{
    int last = place_of<STAGES>(turn);
    mbarrier_wait(&s.v_full[last], parity_of<STAGES>(turn));
    settle(rows.o);
    settle(rows.p);
    wgmma_fence();
    multiply_values<D, T, COUNT>(rows.o, rows.p, s.v[last]);
    wgmma_commit();
    wgmma_wait<0>();
    settle(rows.o);
    release(&s.v_empty[last]);
}

/* The last step, where it is one of at most SLOT means: at half the width, when all else is done,
 * in the registers of what is. Only the other consumer's work overlaps it. */
template <int D, typename T, base_kind BASE>
DEVICE void short_step(storage<D> &s, const arguments &a, rows_state<D> &rows, uint32_t turn)
{
    int at = place_of<STAGES>(turn);
    float sums[SLOT / 2];
    mbarrier_wait(&s.k_full[at], parity_of<STAGES>(turn));
    step_mask mask = read_mask<D>(s, rows, at);
#pragma unroll
    for (int i = 0; i < SLOT / 2; i++)
        sums[i] = 0; /* never read */
    settle(sums);
    wgmma_fence();
    multiply_keys<D, T>(sums, rows.q, s.k[at]);
    wgmma_commit();
    wgmma_wait<0>();
    release_by_warp(&s.k_empty[at]);
    settle(sums);
    float lift = prepare_means(sums, a, mask);
    soften<BASE, false>(sums, rows.softmax, a.args.scale_log2, lift);
    close_step<D, T, BASE>(rows, sums);
    last_values<D, T, SLOT>(s, rows, turn);
}

/*
 * The wait for the values of a step stands behind the loop's branch: in front of it, the compiler
 * would move the wait ahead of the exponentials, and nothing would run under the products.
 */
template <int D, typename T, base_kind BASE>
DEVICE void all_steps(storage<D> &s, const arguments &a, rows_state<D> &rows, uint32_t turn,
                      step_counts counts)
{
    bool ends_short = a.short_means && counts.all > max(counts.exact, 1);
    int steps = counts.all - ends_short;
    first_step<D, T, BASE>(s, a, rows, turn);
#pragma unroll 1
    for (int j = 1; j < steps; j++) {
        close_step<D, T, BASE>(rows, rows.sums);
        if (j > 1)
            release(&s.v_empty[place_of<STAGES>(turn + j - 2)]);
        next_step<D, T, BASE>(s, a, rows, turn + j);
    }
    close_step<D, T, BASE>(rows, rows.sums);
    if (steps > 1)
        release(&s.v_empty[place_of<STAGES>(turn + steps - 2)]);
    last_values<D, T, KEYS>(s, rows, turn + steps - 1);
    if (ends_short)
        short_step<D, T, BASE>(s, a, rows, turn + steps);
}

/* Into the queue of the second kernel, once. */
DEVICE void do_again(const arguments &a, int item)
{
    uint32_t bit = 1u << item % 32;
    if (!(atomicOr(a.again.bits + item / 32, bit) & bit))
        a.again.queue[atomicAdd(a.again.items, 1)] = item;
}

/* o over the sums of the four lanes that hold a row. */
template <int D, base_kind BASE>
DEVICE void deliver(const arguments &a, const attend_item &item, int place, rows_state<D> &rows)
{
    int row = rows.group * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    float sum[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] = rows.softmax.sum[h];
        sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
        sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
    }
    deliver_rows<D>(a.args, item, row, rows.o, rows.softmax.base, sum);
    bool again = false;
#pragma unroll
    for (int h = 0; h < 2; h++)
        again |=
            row + 8 * h < item.rows && (!(sum[h] < LARGEST_SUM) || is_far(rows.softmax.base[h]));
    if (BASE != CAREFUL && __any_sync(~0u, again) && threadIdx.x % 32 == 0)
        do_again(a, a.args.attend.queue ? __ldg(a.args.attend.queue + place) : place);
}

template <int D, typename T, base_kind BASE>
DEVICE void consume(storage<D> &s, const arguments &a, int group)
{
    rows_state<D> rows;
    uint32_t turn = 0, queries = 0;
    rows.group = group;
    if (group == 1)
        pass_turn(group); /* the first turn is the other's */
    for (uint32_t tile = 0;; tile++) {
        int slot = place_of<TILES>(tile);
        mbarrier_wait(&s.tile_full[slot], parity_of<TILES>(tile));
        int place = uniform(s.item[slot]);
        __syncwarp();
        release_by_warp(&s.tile_empty[slot]);
        if (place < 0)
            return;
        attend_item item = item_at(a.args.attend, place);
        step_counts steps = steps_of(a, item);
        steps = {uniform(steps.exact), uniform(steps.all)};
        rows.kept = item.kept;
        rows.softmax = {{-INFINITY, -INFINITY}};
#pragma unroll
        for (int i = 0; i < D / 2; i++)
            rows.o[i] = 0;
        if (steps.all > 0) {
            mbarrier_wait(&s.q_full, parity_of<1>(queries++));
            read_queries<D>(rows.q, s.q + (group * 64 + threadIdx.x % 128 / 32 * 16) * 128);
            all_steps<D, T, BASE>(s, a, rows, turn, steps);
            turn += steps.all;
        }
        deliver<D, BASE>(a, item, place, rows);
    }
}

template <int D, typename T, base_kind BASE>
__global__ void __launch_bounds__(THREADS, 1) attend_kernel(const __grid_constant__ arguments a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ uint8_t memory[];
    storage<D> &s = *(storage<D> *)(memory + (1024 - shared_address(memory) % 1024) % 1024);
    if (threadIdx.x == 0) {
        mbarrier_init(&s.q_full, 1), mbarrier_init(&s.q_empty, 4 * CONSUMERS);
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(&s.k_full[i], 1), mbarrier_init(&s.k_empty[i], 4 * CONSUMERS);
            mbarrier_init(&s.v_full[i], 1), mbarrier_init(&s.v_empty[i], CONSUMERS);
        }
        for (int i = 0; i < TILES; i++)
            mbarrier_init(&s.tile_full[i], 1), mbarrier_init(&s.tile_empty[i], 4 * CONSUMERS);
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x < 32)
            produce<D>(s, a, threadIdx.x);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        consume<D, T, BASE>(s, a, uniform(threadIdx.x / 128 - 1));
    }
#endif
}

/* ---- launch -------------------------------------------------------------------------------- */

/* What makes the tensor maps of a call, and what they have in common. */
struct map_maker {
    encode_tensor_map encode;
    tensor_rows like;
    bool failed;
};

/* Boxes of box_rows x PANEL elements. */
CUtensorMap make_map(map_maker &maker, const rows_cuda &rows, int64_t tokens, uint32_t box_rows)
{
    CUtensorMap map = {};
    tensor_rows of = maker.like;
    of.rows = rows;
    of.tokens = tokens;
    maker.failed |= !make_tensor_map(maker.encode, &map, &of, PANEL, box_rows);
    return map;
}

/* [entries][heads][rows][head_dim] without gaps. */
CUtensorMap packed_map(map_maker &maker, const void *data, int64_t rows)
{
    int64_t heads = maker.like.heads, dim = maker.like.head_dim;
    return make_map(maker, {data, heads * rows * dim, rows * dim, dim}, rows, KEYS);
}

bool fill_arguments(const attend_cuda &attend, arguments &a)
{
    const shape_cuda &shape = attend.shape;
    map_maker maker = {};
    tensor_rows &like = maker.like;
    int64_t tokens = shape.tokens, mean_rows = cuda_mean_rows(&shape);
    uint32_t key_rows = (uint32_t)shape.key_block;
    maker.encode = find_encode_tensor_map();
    like.type = attend.dtype == DRAFTATTN_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                              : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    like.bytes = 2;
    like.head_dim = shape.head_dim;
    like.heads = shape.entry_heads;
    like.entries = shape.heads / shape.entry_heads;
    a.args = attend_args_of(&attend);
    a.mean_steps = (int32_t)(mean_rows / KEYS);
    a.short_means = mean_rows - shape.key_blocks >= KEYS - SLOT;
    a.cut[0] = cut_block_of(shape, a.args.scale_log2, shape.video_key_blocks - 1);
    a.cut[1] = cut_block_of(shape, a.args.scale_log2, shape.key_blocks - 1);
    if (a.cut[1].block == a.cut[0].block)
        a.cut[1].block = INT32_MAX;
    a.q = make_map(maker, attend.q, tokens, ROWS);
    a.k = make_map(maker, attend.k, tokens, key_rows);
    a.v = make_map(maker, attend.v, tokens, key_rows);
    a.video_v = make_map(maker, attend.v, shape.video_tokens, key_rows);
    bool cuts = shape.video_tokens < tokens && a.cut[0].block != INT32_MAX;
    a.cut_row = cuts ? a.cut[0].block * shape.key_block : -1;
    if (attend.kept) {
        a.low_k = packed_map(maker, attend.low_k, mean_rows);
        a.low_v = packed_map(maker, attend.low_v, mean_rows);
    }
    if (attend.exact)
        a.probe_q = packed_map(maker, attend.probe_q, (int64_t)cuda_probe_tiles(&shape) * ROWS);
    return !maker.failed;
}

/* Lays the second kernel's queue out over the scratch and empties it. */
cudaError_t open_again(arguments &a, cudaStream_t stream)
{
    const attend_cuda &attend = a.args.attend;
    int64_t words = attend.items / 32 + 1;
    a.again.items = attend.scratch;
    a.again.turn = attend.scratch + 1;
    a.again.bits = (uint32_t *)attend.scratch + 2;
    a.again.queue = attend.scratch + 2 + words;
    return cudaMemsetAsync(attend.scratch, 0, (size_t)(2 + words) * sizeof(int32_t), stream);
}

template <int D, typename T, base_kind BASE>
cudaError_t attend_with(const struct attend_cuda *attend, cudaStream_t stream)
{
    arguments a = {};
    int bytes = (int)sizeof(storage<D>) + 1024;
    if (!fill_arguments(*attend, a))
        return cudaErrorInvalidValue;
    cudaError_t error = open_again(a, stream);
    if (error == cudaSuccess)
        error = attend_launch((const void *)attend_kernel<D, T, BASE>, &a, attend->items, THREADS,
                              bytes, stream);
    if (error != cudaSuccess)
        return error;
    a.second = true;
    a.args.attend.queue = a.again.queue;
    a.args.attend.counter = a.again.turn;
    return attend_launch((const void *)attend_kernel<D, T, CAREFUL>, &a, attend->items, THREADS,
                         bytes, stream);
}

template <int D> cudaError_t attend(const struct attend_cuda *attend, cudaStream_t stream)
{
    if (attend->items == 0)
        return cudaSuccess;
    return attend->dtype == DRAFTATTN_F16 ? attend_with<D, __half, FOLLOWING>(attend, stream)
                                          : attend_with<D, __nv_bfloat16, FIXED>(attend, stream);
}

} // namespace

extern "C" const struct cuda_kernel attend_sm90_d128_kernel = {90, 90, true, attend<128>, true};
extern "C" const struct cuda_kernel attend_sm90_d64_kernel = {90, 90, true, attend<64>, true};
