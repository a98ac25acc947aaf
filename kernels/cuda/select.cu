/*
 * Owns selection on the device: a score map becomes the bits of the pairs that are kept, the very
 * set that src/select.c defines. Text rows and text keys are kept without asking.
 *
 * The idea: no sort. Scores become integers of the same order (score_key()).
 *
 *   take_rows   a row lives in the registers of 1 to 8 warps. Its best are found by guesses at the
 *               cut's key, which end as soon as a count is met; the ballot of 32 columns is a word
 *               of kept bits. What is left of the row goes into the head's histogram
 *   the rest    of a head's budget is one cut in what its rows left. The cut's key is found in
 *               three digits of 11, 11 and 10 bits: histograms by many CTAs (count_digit), a digit
 *               chosen between them (choose_digit). Rows whose best key is below the digits found
 *               so far are not read again
 *   ties        mark_best counts the entries at the cut per row, mark_ties takes the first of them:
 *               lower rows first, then lower columns
 *
 * head_spread puts the same three histograms, of whole heads, in front: choose_digit then clips the
 * counts of a batch entry's heads and adds them up. The published policy takes no rows and no ties.
 *
 * Bounds: take_rows reads the map once (83 MB at 24 x 929 x 929) and issues, by its SASS, about
 * 1,900 instructions a row of 929, of which the guesses are 750: issue comes first. Every later
 * pass reads the rows that still matter, often from the L2 cache, and is bound by memory and its
 * launch.
 *
 * Ladder
 *   v1  as above: 24 x 928 x 928 0.142 ms, with row_floor 0 0.209 ms, with head_spread 2 0.479 ms;
 *       24 x 928 x 1856 0.257 ms; 12 x 256 x 256 0.053 ms (H100, warm, median)
 */
#include "stages_cuda.h"

#include <cub/block/block_scan.cuh>

#include <math.h>

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    DIGIT_BITS = 11,
    BINS = 1 << DIGIT_BITS,
    CHOOSE_THREADS = BINS / 2, /* each has two bins */
    COUNT_ROWS = 2,            /* rows a warp counts in turn: fewer histograms to flush */
    LOADS = 8,                 /* scores a lane has under way */
    LAST_PASS = 2
};

static const uint32_t ALL_LANES = 0xffffffffu;

/* What is known of the cut of a head. */
struct head_cut {
    int64_t share;   /* with spread: what every row takes first, */
    int64_t rest;    /* and what is left of the head's budget then */
    int64_t above;   /* entries that rank above all those with the prefix */
    int64_t missing; /* entries at the cut that are taken */
    uint32_t prefix; /* the digits found so far, in place: in the end the key of the cut */
    int32_t partial; /* not all entries at the cut are taken */
};

/* Everything a kernel needs, by value. */
struct select_work {
    struct select_cuda select;
    int64_t rows, columns;         /* of the video */
    int64_t share, rest;           /* without spread: of every head */
    int32_t words;                 /* of a row of kept bits */
    bool cuts;                     /* rows leave something that may be taken */
    unsigned long long *histogram; /* [heads][BINS] */
    struct head_cut *cut;          /* [heads] */
    uint32_t *left;                /* [heads][rows] best key that a row left; 0 = none */
    uint32_t *ties;                /* [heads][rows] entries at the cut that a row left */
    size_t cleared, size;          /* bytes of scratch that begin as 0, and in all */
};

/* Digit 0, 1 or 2 of a key, from the top, and the digits above it. */
struct digit {
    uint32_t above; /* mask of those */
    uint32_t shift, mask;
};

static __host__ __device__ struct digit digit_of(int32_t pass)
{
    struct digit digit = {0, 32 - DIGIT_BITS, BINS - 1};
    if (pass > 0) {
        digit.shift = pass == LAST_PASS ? 0 : 32 - 2 * DIGIT_BITS;
        digit.above = ALL_LANES << (digit.shift + (pass == LAST_PASS ? 10 : DIGIT_BITS));
        digit.mask = ~digit.above >> digit.shift;
    }
    return digit;
}

static __host__ __device__ int64_t clip(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* What every row takes first of a head's budget. */
static __host__ __device__ int64_t share_of(const struct select_work *work, int64_t budget)
{
    double share = floor(work->select.row_floor * (double)budget / (double)work->rows);
    return clip((int64_t)share, 1, work->columns);
}

/* A CTA's head, and the row of the warps of number index in it; see grid_of(). */
struct place {
    int64_t head, row;
};

static __device__ struct place place_of(int64_t rows, uint32_t rows_per_cta, uint32_t index)
{
    const uint32_t chunks = ((uint32_t)rows + rows_per_cta - 1) / rows_per_cta;
    const uint32_t head = blockIdx.x / chunks, chunk = blockIdx.x - head * chunks;
    return {head, (int64_t)chunk * rows_per_cta + index};
}

/* Order of floats as integers, never 0; 0 and -0 are one. */
static __device__ uint32_t score_key(float score)
{
    uint32_t bits = __float_as_uint(score + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* Bits [begin, end) of a row, as far as they lie in this word. */
static __device__ uint32_t span_bits(int64_t begin, int64_t end, int64_t word)
{
    uint64_t one = 1, from = (uint64_t)clip(begin - 32 * word, 0, 32),
             to = (uint64_t)clip(end - 32 * word, 0, 32);
    return (uint32_t)((one << to) - 1) & ~(uint32_t)((one << from) - 1);
}

static __device__ uint32_t lower_lanes(void)
{
    return (1u << threadIdx.x % 32) - 1;
}

static __device__ uint32_t *kept_row(const struct select_work *work, int64_t head, int64_t row)
{
    return work->select.kept + (head * work->select.shape.query_blocks + row) * work->words;
}

static __device__ const float *map_row(const struct select_work *work, int64_t head, int64_t row)
{
    return work->select.map + (head * work->rows + row) * work->columns;
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* The GROUP warps that share a row, and what they tell each other: the half of slot that turn names
 * is written, the other may still be read, so one barrier an exchange is enough. */
struct group {
    uint32_t (*slot)[WARPS];
    int32_t turn, first; /* warp of the CTA */
};

/* Every warp's value, [GROUP]; to be read before the next exchange. */
template <int GROUP> static __device__ const uint32_t *exchange(struct group *group, uint32_t value)
{
    uint32_t *slot = group->slot[group->turn];
    if (threadIdx.x % 32 == 0)
        slot[threadIdx.x / 32] = value;
    asm volatile("bar.sync %0, %1;" ::"r"(group->first / GROUP + 1), "r"(GROUP * 32) : "memory");
    group->turn ^= 1;
    return slot + group->first;
}

template <int GROUP> static __device__ uint32_t group_sum(struct group *group, uint32_t value)
{
    value = __reduce_add_sync(ALL_LANES, value);
    if (GROUP > 1) {
        const uint32_t *all = exchange<GROUP>(group, value);
        value = 0;
        for (int32_t i = 0; i < GROUP; i++)
            value += all[i];
    }
    return value;
}

template <int GROUP> static __device__ uint32_t group_max(struct group *group, uint32_t value)
{
    value = __reduce_max_sync(ALL_LANES, value);
    if (GROUP > 1) {
        const uint32_t *all = exchange<GROUP>(group, value);
        for (int32_t i = 0; i < GROUP; i++)
            value = max(value, all[i]);
    }
    return value;
}

/* A warp's part of a row: items words of 32 columns, a column a lane. ITEMS > 0: in registers;
 * ITEMS = 0: as many as there are, read anew each time. */
template <int ITEMS> struct part {
    const float *score; /* of this lane's column in item 0 */
    int32_t begin, end; /* that column, and the columns of the row */
    int32_t items;
    uint32_t key[ITEMS > 0 ? ITEMS : 1];
};

template <int ITEMS> static __device__ float score_of(const struct part<ITEMS> *part, int32_t i)
{
    return 32 * i < part->end - part->begin ? __ldg(part->score + 32 * i) : 0.0f;
}

/* Beyond the row the key is 0, less than any. */
template <int ITEMS>
static __device__ uint32_t key_from(const struct part<ITEMS> *part, int32_t i, float score)
{
    return 32 * i < part->end - part->begin ? score_key(score) : 0;
}

template <int ITEMS> static __device__ uint32_t key_of(const struct part<ITEMS> *part, int32_t i)
{
    return ITEMS > 0 ? part->key[ITEMS > 0 ? i : 0] : key_from(part, i, score_of(part, i));
}

/* Columns with a key of at least least. The compiler's own code for the sum is half as long
 * again. */
template <int GROUP, int ITEMS>
static __device__ uint32_t count_from(const struct part<ITEMS> *part, struct group *group,
                                      uint32_t least)
{
    const int32_t items = ITEMS > 0 ? ITEMS : part->items;
    uint32_t count = 0;
#pragma unroll(ITEMS > 0 ? ITEMS : 4)
    for (int32_t i = 0; i < items; i++)
        asm("{ .reg .pred p; setp.ge.u32 p, %1, %2; @p add.u32 %0, %0, 1; }"
            : "+r"(count)
            : "r"(key_of(part, i)), "r"(least));
    return group_sum<GROUP>(group, count);
}

/* The column behind the first wanted columns at the cut. */
template <int GROUP, int ITEMS>
static __device__ int32_t end_of_ties(const struct part<ITEMS> *part, struct group *group,
                                      uint32_t cut, uint32_t wanted)
{
    const int32_t items = ITEMS > 0 ? ITEMS : part->items;
    uint32_t count = 0, before = 0, end = 0;
    if (GROUP > 1) {
#pragma unroll(ITEMS > 0 ? ITEMS : 4)
        for (int32_t i = 0; i < items; i++)
            count += key_of(part, i) == cut;
        const uint32_t *all = exchange<GROUP>(group, __reduce_add_sync(ALL_LANES, count));
        for (int32_t i = 0; group->first + i < (int32_t)threadIdx.x / 32; i++)
            before += all[i];
    }
#pragma unroll(ITEMS > 0 ? ITEMS : 4)
    for (int32_t i = 0; i < items; i++) {
        const bool tie = key_of(part, i) == cut;
        const uint32_t ties = __ballot_sync(ALL_LANES, tie);
        if (tie && before + __popc(ties & lower_lanes()) == wanted - 1)
            end = (uint32_t)(part->begin + 32 * i + 1);
        before += __popc(ties);
    }
    return (int32_t)group_max<GROUP>(group, end);
}

/* All keys above key are taken, and those at it in columns before end_of_ties. */
struct row_cut {
    uint32_t key;
    int32_t end_of_ties;
};

/* A key between low and high that cuts off about wanted columns, as below columns are >= low and
 * above are >= high: by proportion, but not near the ends; after some guesses just the middle. */
static __device__ uint32_t guess_cut(uint32_t low, uint32_t high, uint32_t below, uint32_t above,
                                     uint32_t wanted, int32_t turn)
{
    float share = __fdividef((float)(below - wanted), (float)(below - above));
    share = turn < 8 ? fminf(fmaxf(share, 0.15f), 0.85f) : 0.5f;
    return low + min(max((uint32_t)(share * (float)(high - low)), 1u), high - low - 1);
}

/* The best wanted columns. More than wanted are >= low, fewer are >= high. */
template <int GROUP, int ITEMS>
static __device__ struct row_cut find_row_cut(const struct part<ITEMS> *part, struct group *group,
                                              int32_t wanted)
{
    if (wanted < 1)
        return {UINT32_MAX - 1, 0};
    if (wanted >= part->end)
        return {1, 0};
    const int32_t items = ITEMS > 0 ? ITEMS : part->items;
    uint32_t best = 0, worst = 0, above = 0, below = (uint32_t)part->end;
#pragma unroll(ITEMS > 0 ? ITEMS : 4)
    for (int32_t i = 0; i < items; i++) {
        uint32_t key = key_of(part, i);
        best = max(best, key);
        worst = max(worst, key > 0 ? ~key : 0);
    }
    uint32_t high = group_max<GROUP>(group, best) + 1, low = ~group_max<GROUP>(group, worst);
    for (int32_t turn = 0; high - low > 1; turn++) {
        const uint32_t middle = guess_cut(low, high, below, above, (uint32_t)wanted, turn);
        const uint32_t count = count_from<GROUP>(part, group, middle);
        if (count == (uint32_t)wanted)
            return {middle - 1, 0};
        if (count > (uint32_t)wanted) {
            low = middle;
            below = count;
        } else {
            high = middle;
            above = count;
        }
    }
    return {low, end_of_ties<GROUP>(part, group, low, (uint32_t)wanted - above)};
}

/* No key begins with the digit 0: its bin takes what does not count. */
static __device__ void lose(uint32_t key, uint32_t *best, uint32_t *bins)
{
    *best = max(*best, key);
    atomicAdd(bins + (key >> (32 - DIGIT_BITS)), 1u);
}

/* Kept bits of a video row; what is left goes into bins, its best key into left[]. */
template <int GROUP, int ITEMS>
static __device__ void take_row(const struct select_work *work, int64_t head, int64_t row,
                                struct group *group, uint32_t *bins)
{
    const int32_t lane = threadIdx.x % 32, rank = (int32_t)threadIdx.x / 32 - group->first;
    const int32_t items = ITEMS > 0 ? ITEMS : (work->words + GROUP - 1) / GROUP;
    const int32_t columns = (int32_t)work->columns, key_blocks = work->select.shape.key_blocks;
    const int32_t first = rank * items, begin = 32 * first + lane;
    struct part<ITEMS> part;
    part.score = map_row(work, head, row) + begin;
    part.begin = begin;
    part.end = columns;
    part.items = items;
#pragma unroll
    for (int32_t i = 0; i < ITEMS; i++) /* all loads before the first use */
        part.key[i] = __float_as_uint(score_of(&part, i));
#pragma unroll
    for (int32_t i = 0; i < ITEMS; i++)
        part.key[i] = key_from(&part, i, __uint_as_float(part.key[i]));

    const int64_t share = work->select.spread ? work->cut[head].share : work->share;
    const struct row_cut cut = find_row_cut<GROUP>(&part, group, (int32_t)share);
    __syncwarp(); /* or the compiler checks at every ballot whether all are there */
    const int32_t tie_items = (cut.end_of_ties - begin + 31) >> 5; /* this lane's with ties */
    uint32_t *kept = kept_row(work, head, row), mine = 0, left = 0;
#pragma unroll(ITEMS > 0 ? ITEMS : 4)
    for (int32_t i = 0; i < items; i++) {
        const uint32_t key = key_of(&part, i), least = i < tie_items ? cut.key : cut.key + 1;
        const uint32_t bits = __ballot_sync(ALL_LANES, key >= least);
        const uint32_t loser = key >= least ? 0 : key;
        mine = lane == i % 32 ? bits : mine;
        if (i % 32 == 31 || i == items - 1) {
            const int32_t word = first + i / 32 * 32 + lane;
            if (lane <= i % 32 && word < work->words)
                kept[word] = mine | span_bits(columns, key_blocks, word);
        }
        if (ITEMS > 0)
            part.key[ITEMS > 0 ? i : 0] = loser;
        else
            lose(loser, &left, bins);
    }
#pragma unroll
    for (int32_t i = 0; i < ITEMS; i++)
        lose(part.key[i], &left, bins);
    for (int32_t word = GROUP * items + 32 * rank + lane; word < work->words; word += 32 * GROUP)
        kept[word] = span_bits(columns, key_blocks, word);
    left = group_max<GROUP>(group, left);
    if (rank == 0 && lane == 0)
        work->left[head * work->rows + row] = left;
}

static __device__ void clear_bins(uint32_t *bins)
{
    for (int32_t i = threadIdx.x; i < BINS; i += THREADS)
        bins[i] = 0;
    __syncthreads();
}

static __device__ void flush_bins(const uint32_t *bins, unsigned long long *histogram)
{
    __syncthreads();
    for (int32_t i = threadIdx.x; i < BINS; i += THREADS)
        if (bins[i] > 0)
            atomicAdd(histogram + i, (unsigned long long)bins[i]);
}

/* All query blocks, a row for every GROUP warps. */
template <int GROUP, int ITEMS>
static __global__ void __launch_bounds__(THREADS, 3) take_rows(const struct select_work work)
{
    __shared__ uint32_t bins[BINS], slot[2][WARPS];
    const int32_t query_blocks = work.select.shape.query_blocks, warp = threadIdx.x / 32;
    const struct place place = place_of(query_blocks, WARPS / GROUP, warp / GROUP);
    struct group group = {slot, 0, warp / GROUP * GROUP};
    clear_bins(bins);
    if (place.row < work.rows) {
        take_row<GROUP, ITEMS>(&work, place.head, place.row, &group, bins);
    } else if (place.row < query_blocks) {
        uint32_t *kept = kept_row(&work, place.head, place.row);
        for (int32_t word = threadIdx.x % (32 * GROUP); word < work.words; word += 32 * GROUP)
            kept[word] = span_bits(0, work.select.shape.key_blocks, word);
    }
    flush_bins(bins, work.histogram + place.head * BINS);
}

/* ---- the cut of a head ----------------------------------------------------------------------- */

/* Keys of LOADS words of a row from column on; 0 beyond its end. */
static __device__ void load_keys(const float *row, int64_t columns, int64_t column, uint32_t *key)
{
    const float *score = row + column;
    const int32_t end = (int32_t)(columns - column);
#pragma unroll
    for (int32_t i = 0; i < LOADS; i++)
        key[i] = 32 * i < end ? score_key(__ldg(score + 32 * i)) : 0;
}

/* One more digit of what rows left (or, with all, of everything), where the digits above it are the
 * head's prefix. */
static __global__ void __launch_bounds__(THREADS)
    count_digit(const struct select_work work, const struct digit digit, bool all)
{
    __shared__ uint32_t bins[BINS];
    const int32_t lane = threadIdx.x % 32;
    const struct place place = place_of(work.rows, WARPS * COUNT_ROWS, threadIdx.x / 32);
    const int64_t head = place.head;
    const uint32_t prefix = work.cut[head].prefix;
    clear_bins(bins);
    for (int32_t turn = 0; turn < COUNT_ROWS; turn++) {
        const int64_t row = place.row + turn * WARPS;
        if (row >= work.rows)
            break;
        if (!all && (work.left[head * work.rows + row] & digit.above) < prefix)
            continue;
        const uint32_t *kept = kept_row(&work, head, row);
        for (int64_t column = 0; column < work.columns; column += 32 * LOADS) {
            uint32_t key[LOADS], taken = 0;
            if (!all && lane < LOADS && column / 32 + lane < work.words)
                taken = kept[column / 32 + lane];
            load_keys(map_row(&work, head, row), work.columns, column + lane, key);
#pragma unroll
            for (int32_t i = 0; i < LOADS; i++) {
                const uint32_t word = __shfl_sync(ALL_LANES, taken, i);
                if (key[i] > 0 && (key[i] & digit.above) == prefix && !(word >> lane & 1))
                    atomicAdd(bins + (key[i] >> digit.shift & digit.mask), 1u);
            }
        }
    }
    flush_bins(bins, work.histogram + head * BINS);
}

/* Heads [first, first + count) that are cut at one key: clipped to [low, high], what they have from
 * there on reaches total. */
struct common {
    int64_t first, count, total, low, high;
};

static __device__ struct common common_of(const struct select_work *work, bool budgets)
{
    const struct select_cuda *select = &work->select;
    const int64_t heads = select->shape.entry_heads, head = blockIdx.x;
    if (budgets)
        return {head * heads, heads, heads * select->mean, select->low, select->high};
    return {head, 1, select->spread ? work->cut[head].rest : work->rest, 0, INT64_MAX};
}

/* Budgets of the heads of a batch entry, from the clipped counts above and at the common cut: what
 * is missing goes to the heads in order. */
static __device__ void deal_budgets(const struct select_work *work, const struct common *common,
                                    uint32_t chosen)
{
    const int64_t low = common->low, high = common->high;
    struct head_cut *cut = work->cut + common->first;
    int64_t missing = common->total;
    for (int64_t i = 0; i < common->count; i++)
        missing -= clip(cut[i].above, low, high);
    for (int64_t i = 0; i < common->count; i++) {
        const int64_t reached = (int64_t)work->histogram[(common->first + i) * BINS + chosen];
        const int64_t base = clip(cut[i].above, low, high);
        const int64_t extra = clip(missing, 0, clip(reached, low, high) - base);
        const int64_t share = share_of(work, base + extra);
        missing -= extra;
        cut[i] = {share, clip(base + extra - work->rows * share, 0, INT64_MAX), 0, 0, 0, 0};
    }
}

/*
 * The largest digit from which on the heads reach their total, from the histograms, which it leaves
 * empty. A CTA for each batch entry (budgets) or each head. Thread t has bins BINS - 1 - 2t and the
 * one below, so that a scan over the threads counts from the top.
 */
static __global__ void __launch_bounds__(CHOOSE_THREADS)
    choose_digit(const struct select_work work, int32_t pass, bool budgets)
{
    typedef cub::BlockScan<unsigned long long, CHOOSE_THREADS, cub::BLOCK_SCAN_WARP_SCANS> scan;
    __shared__ typename scan::TempStorage storage;
    const struct common common = common_of(&work, budgets);
    const int32_t upper = BINS - 1 - 2 * (int32_t)threadIdx.x;
    int64_t reached[2] = {0, 0};
    for (int64_t i = 0; i < common.count; i++) {
        unsigned long long *bins = work.histogram + (common.first + i) * BINS, sum;
        const unsigned long long at_upper = bins[upper], at_lower = bins[upper - 1];
        scan(storage).InclusiveSum(at_upper + at_lower, sum);
        __syncthreads();
        sum += (unsigned long long)work.cut[common.first + i].above;
        bins[upper - 1] = sum; /* from here on: entries from this digit on */
        bins[upper] = sum - at_lower;
        reached[0] += clip((int64_t)(sum - at_lower), common.low, common.high);
        reached[1] += clip((int64_t)sum, common.low, common.high);
    }
    int32_t beyond = __syncthreads_count(reached[0] < common.total);
    beyond += __syncthreads_count(reached[1] < common.total);
    const uint32_t chosen = beyond < BINS ? BINS - 1 - beyond : 0;

    for (int64_t i = threadIdx.x; i < common.count; i += CHOOSE_THREADS) {
        const unsigned long long *bins = work.histogram + (common.first + i) * BINS;
        struct head_cut *cut = work.cut + common.first + i;
        if (chosen < BINS - 1)
            cut->above = (int64_t)bins[chosen + 1];
        cut->prefix |= chosen << digit_of(pass).shift;
        cut->missing = common.total - cut->above;
        cut->partial = !work.select.paper && cut->missing < (int64_t)bins[chosen] - cut->above;
    }
    __syncthreads();
    if (pass == LAST_PASS && budgets && threadIdx.x == 0)
        deal_budgets(&work, &common, chosen);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < common.count * BINS; i += CHOOSE_THREADS)
        work.histogram[common.first * BINS + i] = 0;
}

/* Takes what is above the cut and, where all ties are taken, at it; else counts those. */
static __global__ void __launch_bounds__(THREADS) mark_best(const struct select_work work)
{
    const int32_t lane = threadIdx.x % 32;
    const struct place place = place_of(work.rows, WARPS, threadIdx.x / 32);
    const int64_t head = place.head, row = place.row;
    const struct head_cut cut = work.cut[head];
    uint32_t ties = 0;
    if (row >= work.rows)
        return;
    const bool reaches = work.left[head * work.rows + row] >= cut.prefix;
    uint32_t *kept = kept_row(&work, head, row);
    for (int64_t column = 0; reaches && column < work.columns; column += 32 * LOADS) {
        const int64_t word = column / 32 + lane;
        const bool holds = lane < LOADS && word < work.words;
        const uint32_t taken = holds ? kept[word] : 0;
        uint32_t key[LOADS], mine = taken;
        load_keys(map_row(&work, head, row), work.columns, column + lane, key);
#pragma unroll
        for (int32_t i = 0; i < LOADS; i++) {
            const bool free = !(__shfl_sync(ALL_LANES, taken, i) >> lane & 1);
            const bool at = free && key[i] == cut.prefix;
            const bool keep = free && (key[i] > cut.prefix || (at && !cut.partial));
            const uint32_t bits = __ballot_sync(ALL_LANES, keep);
            mine |= lane == i ? bits : 0;
            ties += at;
        }
        if (mine != taken)
            kept[word] = mine;
    }
    ties = __reduce_add_sync(ALL_LANES, ties);
    if (lane == 0)
        work.ties[head * work.rows + row] = ties;
}

/* The first of the entries at the cut, in the order of rows and columns. */
static __global__ void __launch_bounds__(THREADS) mark_ties(const struct select_work work)
{
    const int32_t lane = threadIdx.x % 32;
    const struct place place = place_of(work.rows, WARPS, threadIdx.x / 32);
    const int64_t head = place.head, row = place.row;
    const struct head_cut cut = work.cut[head];
    const uint32_t *ties = work.ties + head * work.rows;
    if (!cut.partial || row >= work.rows || ties[row] == 0)
        return;
    int64_t before = 0;
#pragma unroll 4
    for (int64_t i = lane; i < row; i += 32)
        before += ties[i];
    for (int32_t step = 16; step > 0; step /= 2)
        before += __shfl_xor_sync(ALL_LANES, before, step);
    uint32_t *kept = kept_row(&work, head, row);
    for (int64_t column = 0; before < cut.missing && column < work.columns; column += 32 * LOADS) {
        const int64_t word = column / 32 + lane;
        const bool holds = lane < LOADS && word < work.words;
        const uint32_t taken = holds ? kept[word] : 0;
        uint32_t key[LOADS], mine = taken;
        load_keys(map_row(&work, head, row), work.columns, column + lane, key);
#pragma unroll
        for (int32_t i = 0; i < LOADS; i++) {
            const bool free = !(__shfl_sync(ALL_LANES, taken, i) >> lane & 1);
            const uint32_t at = __ballot_sync(ALL_LANES, free && key[i] == cut.prefix);
            const bool keep = at >> lane & 1 && before + __popc(at & lower_lanes()) < cut.missing;
            const uint32_t bits = __ballot_sync(ALL_LANES, keep);
            mine |= lane == i ? bits : 0;
            before += __popc(at);
        }
        if (mine != taken)
            kept[word] = mine;
    }
}

/* ---- launches -------------------------------------------------------------------------------- */

static size_t take_bytes(size_t *at, size_t bytes)
{
    size_t begin = *at;
    *at = (begin + bytes + 255) / 256 * 256;
    return begin;
}

static struct select_work make_work(const struct shape_cuda *shape, void *scratch)
{
    struct select_work work = {};
    size_t at = 0, heads = (size_t)shape->heads,
           rows = heads * (size_t)shape->video_query_blocks * sizeof(uint32_t);
    char *base = (char *)scratch;
    size_t histogram = take_bytes(&at, heads * BINS * sizeof(*work.histogram));
    size_t cut = take_bytes(&at, heads * sizeof(*work.cut));
    work.cleared = at;
    size_t left = take_bytes(&at, rows), ties = take_bytes(&at, rows);
    work.size = at;
    if (base) {
        work.histogram = (unsigned long long *)(base + histogram);
        work.cut = (struct head_cut *)(base + cut);
        work.left = (uint32_t *)(base + left);
        work.ties = (uint32_t *)(base + ties);
    }
    work.rows = shape->video_query_blocks;
    work.columns = shape->video_key_blocks;
    work.words = cuda_mean_rows(shape) / 32;
    return work;
}

size_t cuda_select_scratch(const struct shape_cuda *shape)
{
    return make_work(shape, NULL).size;
}

/* CTAs of one head after the other. */
static unsigned grid_of(const struct select_work *work, int64_t rows, int64_t rows_per_cta)
{
    return (unsigned)(work->select.shape.heads * ((rows + rows_per_cta - 1) / rows_per_cta));
}

template <int GROUP, int ITEMS>
static void launch_rows(const struct select_work *work, cudaStream_t stream)
{
    unsigned grid = grid_of(work, work->select.shape.query_blocks, WARPS / GROUP);
    take_rows<GROUP, ITEMS><<<grid, THREADS, 0, stream>>>(*work);
}

/* The fewest warps and registers that hold a row. */
static void launch_take_rows(const struct select_work *work, cudaStream_t stream)
{
    if (work->columns <= 256)
        launch_rows<1, 8>(work, stream);
    else if (work->columns <= 512)
        launch_rows<1, 16>(work, stream);
    else if (work->columns <= 1024)
        launch_rows<1, 32>(work, stream);
    else if (work->columns <= 2048)
        launch_rows<2, 32>(work, stream);
    else if (work->columns <= 4096)
        launch_rows<4, 32>(work, stream);
    else if (work->columns <= 8192)
        launch_rows<8, 32>(work, stream);
    else
        launch_rows<8, 0>(work, stream);
}

static void launch_count(const struct select_work *work, int32_t pass, bool all,
                         cudaStream_t stream)
{
    unsigned grid = grid_of(work, work->rows, WARPS * COUNT_ROWS);
    count_digit<<<grid, THREADS, 0, stream>>>(*work, digit_of(pass), all);
}

static void launch_budgets(const struct select_work *work, cudaStream_t stream)
{
    unsigned entries = (unsigned)(work->select.shape.heads / work->select.shape.entry_heads);
    for (int32_t pass = 0; pass <= LAST_PASS; pass++) {
        launch_count(work, pass, true, stream);
        choose_digit<<<entries, CHOOSE_THREADS, 0, stream>>>(*work, pass, true);
    }
}

/* take_rows has counted the first digit. */
static void launch_rest(const struct select_work *work, cudaStream_t stream)
{
    unsigned heads = (unsigned)work->select.shape.heads;
    for (int32_t pass = 0; pass <= LAST_PASS; pass++) {
        if (pass > 0)
            launch_count(work, pass, false, stream);
        choose_digit<<<heads, CHOOSE_THREADS, 0, stream>>>(*work, pass, false);
    }
    unsigned grid = grid_of(work, work->rows, WARPS);
    mark_best<<<grid, THREADS, 0, stream>>>(*work);
    if (!work->select.paper)
        mark_ties<<<grid, THREADS, 0, stream>>>(*work);
}

cudaError_t cuda_select(const struct select_cuda *select, cudaStream_t stream)
{
    struct select_work work = make_work(&select->shape, select->scratch);
    work.select = *select;
    work.select.spread = select->spread && !select->paper;
    if (select->paper) {
        work.share = select->dropped > 0 ? 0 : work.columns;
        work.rest = work.rows * work.columns - select->dropped + 1;
        work.cuts = select->dropped > 0;
    } else {
        work.share = share_of(&work, select->mean);
        work.rest = clip(select->mean - work.rows * work.share, 0, INT64_MAX);
        work.cuts = select->spread || work.rest > 0;
    }
    cudaError_t error = cudaMemsetAsync(select->scratch, 0, work.cleared, stream);
    if (error != cudaSuccess)
        return error;
    if (work.select.spread)
        launch_budgets(&work, stream);
    launch_take_rows(&work, stream);
    if (work.cuts)
        launch_rest(&work, stream);
    return cudaGetLastError();
}
