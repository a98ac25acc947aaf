/*
 * Owns selection on the device: a score map becomes the bits of the pairs that are kept, the very
 * set that src/select.c defines. Text rows and text keys are kept without asking.
 *
 * The idea: no sort. Cuts are keys, integers in the order of scores (score_key()).
 *
 *   take_rows   a row lives in the registers of 1 to 8 warps, while their next one is copied into
 *               shared memory. Its best are found by guesses at the cut's key, which end as soon as
 *               a count is met and begin where the row before was cut; the ballot of 32 columns is
 *               a word of kept bits. What is left of the row goes into the head's histogram, whose
 *               bins are a 64th of an octave wide. The last CTA of a head then knows the bin that
 *               the rest of the budget ends in
 *   take_rest   of select_rest.cu takes what is above that bin and ranks what lies in it; take_slow
 *               is for heads where that is too much to be ranked, else it ends at once
 *
 * head_spread puts the budgets of heads in front, select_budget.cu. The published policy takes no
 * rows, and all ties.
 *
 * Bounds: take_rows reads the map once (83 MB at 24 x 928 x 928) and issues about 34 instructions
 * for 32 entries: 5 guesses of 2, 8 for bits and bins, 16 for what there is once a guess or a row.
 * Half of them are for the integer pipe, which has half the rate: so scores are compared as they
 * are, and counts are added up as floats. take_rest reads again what rows left above the bin, a
 * twentieth to a half.
 *
 * Ladder, H100, 24 x 928 x 928 with floor 1, floor 0, spread 2; 12 x 256 x 256
 *   v1  guesses from the ends of a row; three digits of the rest by count_digit and choose_digit,
 *       ties by launches of their own, nine in all: 0.1423, 0.2087, 0.4791; 0.0533 ms
 *   v2  as above, four launches: 0.0932, 0.8334, 0.4108; 0.0351 ms. The second and third have rows
 *       whose best score is above 2, as no softmax gives, and go the slow way
 *   v3  scores compared as floats, rows copied ahead, handed out one by one; take_rest in one wave,
 *       its list by way of shared memory; one thread of a CTA waits for its writes:
 *       0.0733, 0.7786, 0.3776; 0.0352 ms
 */
#include "select_cuda.cuh"

enum {
    MOST_TURNS = 8,    /* rows of a group of warps in take_rows, and */
    FULL_GRID = 396,   /* so many CTAs, three each for 132, if that is enough */
    LEAST_LIST = 4096, /* entries in the bin of the cut that can be ranked, or a */
    LIST_SHARE = 32    /* so much of a head, whichever is more */
};

#include <math.h>

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

/* A warp's part of a row: items words of 32 columns, a column a lane, NaN beyond the row: no
 * comparison with it is true. ITEMS > 0: in registers; ITEMS = 0: as many as there are, read anew
 * each time. */
template <int ITEMS> struct part {
    const float *score; /* of this lane's column in item 0 */
    int32_t begin, end; /* that column, and the columns of the row */
    int32_t items;
    float own[ITEMS > 0 ? ITEMS : 1];
};

template <int ITEMS> static __device__ float score_of(const struct part<ITEMS> *part, int32_t i)
{
    if (ITEMS > 0)
        return part->own[ITEMS > 0 ? i : 0];
    return 32 * i < part->end - part->begin ? __ldg(part->score + 32 * i) : NAN;
}

/* Floats of a lane go into shared memory, and are there after finish_part(). */
static __device__ void copy_4(uint32_t to, const float *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

static __device__ void copy_1(uint32_t to, const float *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(from) : "memory");
}

/* A copy of a warp's part of a row, from column on, into stage is under way when this returns. */
template <int ITEMS>
static __device__ void start_part(const struct select_work *work, const float *row, int32_t column,
                                  float *stage)
{
    const int32_t each = work->aligned ? 4 : 1, begin = each * (threadIdx.x % 32);
    const int32_t left = min((int32_t)work->columns - column, 32 * ITEMS) - begin;
    const float *from = row + column + begin;
    uint32_t to = (uint32_t)__cvta_generic_to_shared(stage + begin);
    asm("" : "+r"(to), "+l"(from)); /* or the compiler works every address out from the start */
    if (each == 4) {
#pragma unroll
        for (int32_t i = 0; i < 32 * ITEMS; i += 128)
            if (i < left)
                copy_4(to + 4 * i, from + i);
    } else {
#pragma unroll 4
        for (int32_t i = 0; i < left; i += 32)
            copy_1(to + 4 * i, from + i);
    }
}

/* That copy, when it is there. Where no column is beyond the row none is asked about. */
template <int ITEMS>
static __device__ void finish_part(struct part<ITEMS> *part, const float *stage)
{
    const float *own = stage + threadIdx.x % 32;
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncwarp();
    if (part->begin / 32 * 32 + 32 * ITEMS <= part->end) {
#pragma unroll
        for (int32_t i = 0; i < ITEMS; i++)
            part->own[i] = own[32 * i];
    } else {
#pragma unroll
        for (int32_t i = 0; i < ITEMS; i++)
            part->own[i] = 32 * i < part->end - part->begin ? own[32 * i] : NAN;
    }
    __syncwarp();
}

/* Columns with a key of at least least. Added up as floats, from where these are integers:
 * additions of integers would wait for the pipe that the comparisons need. Two sums, as each waits
 * for itself. */
template <int GROUP, int ITEMS>
static __device__ uint32_t count_from(const struct part<ITEMS> *part, struct group *group,
                                      uint32_t least)
{
    const int32_t items = ITEMS > 0 ? ITEMS : part->items;
    const float score = key_score(least), zero = 8388608.0f;
    float count[2] = {zero, 0};
#pragma unroll(ITEMS > 0 ? ITEMS : 4)
    for (int32_t i = 0; i < items; i++)
        asm("{ .reg .pred p; setp.ge.f32 p, %1, %2; @p add.f32 %0, %0, 0f3F800000; }"
            : "+f"(count[i % 2])
            : "f"(score_of(part, i)), "f"(score));
    return group_sum<GROUP>(group, __float_as_uint(count[0] + count[1]) - __float_as_uint(zero));
}

/* The column behind the first wanted columns at the cut. */
template <int GROUP, int ITEMS>
static __device__ int32_t end_of_ties(const struct part<ITEMS> *part, struct group *group,
                                      uint32_t cut, uint32_t wanted)
{
    const int32_t items = ITEMS > 0 ? ITEMS : part->items;
    const float score = key_score(cut);
    uint32_t count = 0, before = 0, end = 0;
    if (GROUP > 1) {
#pragma unroll(ITEMS > 0 ? ITEMS : 4)
        for (int32_t i = 0; i < items; i++)
            count += score_of(part, i) == score;
        const uint32_t *all = exchange<GROUP>(group, __reduce_add_sync(ALL_LANES, count));
        for (int32_t i = 0; group->first + i < (int32_t)threadIdx.x / 32; i++)
            before += all[i];
    }
#pragma unroll(ITEMS > 0 ? ITEMS : 4)
    for (int32_t i = 0; i < items; i++) {
        const bool tie = score_of(part, i) == score;
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

/* Where the row before was cut, and how far apart keys lay there. key 0: there was no row. */
struct hint {
    uint32_t key;
    float pitch;
};

/* The best and the worst key of a row. */
struct key_range {
    uint32_t best, worst;
};

template <int GROUP, int ITEMS>
static __device__ struct key_range range_of(const struct part<ITEMS> *part, struct group *group)
{
    const int32_t items = ITEMS > 0 ? ITEMS : part->items;
    float best = -INFINITY, worst = INFINITY;
#pragma unroll(ITEMS > 0 ? ITEMS : 4)
    for (int32_t i = 0; i < items; i++) {
        best = fmaxf(best, score_of(part, i)); /* the other one of NaN */
        worst = fminf(worst, score_of(part, i));
    }
    const uint32_t key = group_max<GROUP>(group, score_key(best));
    return {key, ~group_max<GROUP>(group, ~score_key(worst))};
}

/* The wanted columns and so many more are >= low, so few less are >= high. 0: that end was not
 * counted, it is known by its place alone. */
struct bracket {
    uint32_t low, high;
    float many, few;
};

/* Of a count. The division of the toolkit would look after values that are no counts. */
static __device__ float reciprocal(float count)
{
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(count));
    return result;
}

/* A key inside that cuts off about the wanted columns: by proportion, but not near the ends; with
 * one end counted by the pitch, four times as far each turn; after some turns just the middle. */
static __device__ uint32_t guess_cut(const struct bracket *at, struct hint *hint, int32_t turn)
{
    const uint32_t keys = at->high - at->low;
    const float width = (float)keys;
    float step = 0.5f * width;
    if (turn < 8 && at->many > 0 && at->few > 0) {
        const float columns = at->many + at->few, each = reciprocal(columns);
        step = fminf(fmaxf(at->many * each, 0.15f), 0.85f) * width;
        hint->pitch = columns >= 8 ? width * each : hint->pitch;
    } else if (turn < 8) {
        const float columns = 1.3f * (at->many + at->few) + 1; /* to be beyond the cut, rather */
        step = fminf(step, columns * hint->pitch * (float)(1 << 2 * turn));
        step = at->many > 0 ? step : width - step;
    }
    return at->low + min(max((uint32_t)step, 1u), keys - 1);
}

/* The best wanted columns. */
template <int GROUP, int ITEMS>
static __device__ struct row_cut find_row_cut(const struct part<ITEMS> *part, struct group *group,
                                              int32_t wanted, struct hint *hint)
{
    if (wanted < 1)
        return {range_of<GROUP>(part, group).best, 0};
    if (wanted >= part->end)
        return {KEYS_BEGIN - 1, 0};
    struct bracket at = {KEYS_BEGIN, KEYS_END, 0, 0};
    uint32_t guess = hint->key;
    if (guess == 0) {
        const struct key_range range = range_of<GROUP>(part, group);
        at = {range.worst, range.best + 1, (float)(part->end - wanted), (float)wanted};
        hint->pitch = (float)(at.high - at.low) * reciprocal((float)part->end);
        guess = guess_cut(&at, hint, 0);
    }
    for (int32_t turn = 0; at.high - at.low > 1; turn++) {
        const int32_t more = (int32_t)count_from<GROUP>(part, group, guess) - wanted;
        hint->key = guess;
        if (more == 0)
            return {guess - 1, 0};
        if (more > 0)
            at.low = guess, at.many = (float)more;
        else
            at.high = guess, at.few = -(float)more;
        guess = guess_cut(&at, hint, turn);
    }
    const int32_t ties = at.few > 0 ? (int32_t)at.few : wanted;
    return {at.low, end_of_ties<GROUP>(part, group, at.low, (uint32_t)ties)};
}

/* The words of a row's kept bits; what is left goes into bins, as far as there are bins for it: the
 * rest goes into one more, as a branch would cost more. TIES: some at the cut are taken. */
template <bool TIES, int ITEMS>
static __device__ void mark_row(const struct select_work *work, const struct part<ITEMS> *part,
                                const struct row_cut cut, int32_t first, uint32_t *kept,
                                uint32_t *word, uint32_t *bins)
{
    const int32_t lane = threadIdx.x % 32, items = ITEMS > 0 ? ITEMS : part->items;
    const int32_t tie_items = (cut.end_of_ties - part->begin + 31) >> 5; /* this lane's */
    const float at_cut = key_score(cut.key), above = key_score(cut.key + 1);
    __syncwarp(); /* or the compiler checks at every ballot whether all are there */
#pragma unroll(ITEMS > 0 ? ITEMS : 4)
    for (int32_t i = 0; i < items; i++) {
        const float score = score_of(part, i);
        const bool take = score >= (TIES && i < tie_items ? at_cut : above);
        const uint32_t bits = __ballot_sync(ALL_LANES, take);
        if (lane == 0)
            word[i % 32] = bits;
        /* Those of scores below 0 and of NaN are beyond all bins. */
        const uint32_t place = __float_as_uint(score) - BINS_BEGIN % KEY_OF_0;
        const uint32_t bin = min(place, BINS << BIN_SHIFT) >> BIN_SHIFT;
        atomicAdd(bins + (take ? BINS : bin), 1u);
        if (i % 32 == 31 || i == items - 1) {
            const int32_t at = first + i / 32 * 32 + lane;
            const bool counted = lane <= i % 32;
            __syncwarp();
            if ((ITEMS > 0 || counted) && at < work->words)
                kept[at] = (counted ? word[lane] : 0) |
                           span_bits(part->end, work->select.shape.key_blocks, at);
            __syncwarp();
        }
    }
}

/* Kept bits of a video row, which is in stage; then goes for the next one, if there is. What is
 * left goes into bins, where it must end into bound[]. */
template <int GROUP, int ITEMS>
static __device__ void take_row(const struct select_work *work, int64_t head, int32_t row,
                                int32_t next, int32_t wanted, struct group *group,
                                struct hint *hint, float *stage, uint32_t *word, uint32_t *bins)
{
    const int32_t lane = threadIdx.x % 32, rank = (int32_t)threadIdx.x / 32 - group->first;
    const int32_t items = ITEMS > 0 ? ITEMS : (work->words + GROUP - 1) / GROUP;
    const int32_t first = rank * items, begin = 32 * first + lane;
    struct part<ITEMS> part;
    part.score = map_row(work, head, row) + begin;
    part.begin = begin;
    part.end = (int32_t)work->columns;
    part.items = items;
    if (ITEMS > 0) {
        finish_part(&part, stage);
        if (next < (int32_t)work->rows)
            start_part<ITEMS>(work, map_row(work, head, next), 32 * first, stage);
    }
    const struct row_cut cut = find_row_cut<GROUP>(&part, group, wanted, hint);
    uint32_t *kept = kept_row(work, head, row);
    if (cut.end_of_ties > 0)
        mark_row<true>(work, &part, cut, first, kept, word, bins);
    else
        mark_row<false>(work, &part, cut, first, kept, word, bins);
    if (ITEMS > 0) /* what no warp has columns of */
        for (int32_t i = 32 * (GROUP + rank) + lane; i < work->words; i += 32 * GROUP)
            kept[i] = span_bits(part.end, work->select.shape.key_blocks, i);
    if (rank == 0 && lane == 0) {
        work->bound[head * work->rows + row] = cut.key;
        if (cut.key >= BINS_END)
            atomicOr(&work->cut[head].unbinned, 1u);
    }
}

/* A CTA's rows go to its groups of warps one by one, so that these end together. */
template <int GROUP> static __device__ int32_t next_row(struct group *group, int32_t *taken)
{
    int32_t row = 0;
    if ((int32_t)threadIdx.x == 32 * group->first)
        row = atomicAdd(taken, 1);
    return GROUP > 1 ? (int32_t)*exchange<GROUP>(group, (uint32_t)row)
                     : __shfl_sync(ALL_LANES, row, 0);
}

/* Adds the bins in which the rest of a head's budget can end, or above: what its own rows left
 * is enough of it for a CTA to know. */
static __device__ void add_bins(const uint32_t *bins, int64_t rest, unsigned long long *histogram)
{
    __syncthreads();
    if (rest == 0)
        return;
    const struct bin_cut own = find_bin<THREADS>(bins, rest);
    for (int32_t i = max(own.bin, 0) + (int32_t)threadIdx.x; i < BINS; i += THREADS)
        if (bins[i] > 0)
            atomicAdd(histogram + i, (unsigned long long)bins[i]);
}

/* Where the rest of a head's budget ends, by the CTA that came last. */
static __device__ void bracket_cut(const struct select_work *work, int64_t head, int64_t rest)
{
    struct head_cut *cut = work->cut + head;
    uint32_t low = KEYS_BEGIN, high = KEYS_END;
    int64_t missing = rest;
    if (rest > 0 && *(volatile uint32_t *)&cut->unbinned == 0) {
        const struct bin_cut found = find_bin<THREADS>(work->histogram + head * BINS, rest);
        high = BINS_BEGIN + ((uint32_t)(found.bin + 1) << BIN_SHIFT);
        low = found.bin < 0 ? KEYS_BEGIN : high - (1u << BIN_SHIFT);
        missing = rest - found.above;
    }
    if (threadIdx.x == 0)
        cut->low = low, cut->high = high, cut->missing = missing;
}

/* All query blocks, so many a CTA, each to GROUP warps. */
template <int GROUP, int ITEMS>
static __global__ void __launch_bounds__(THREADS, 3) take_rows(const struct select_work work)
{
    enum { ROOM = ITEMS > 0 ? 32 * ITEMS : 4 };
    __shared__ __align__(16) float stage[WARPS][ROOM];
    __shared__ uint32_t bins[BINS + 1], slot[2][WARPS], word[WARPS][32];
    __shared__ int32_t taken;
    const int32_t query_blocks = work.select.shape.query_blocks, warp = threadIdx.x / 32;
    const uint32_t per_cta = (uint32_t)work.rows_per_cta;
    const struct place place = place_of(query_blocks, per_cta, 0);
    const int64_t head = place.head;
    const int32_t begin = (int32_t)place.row, end = min(query_blocks, begin + work.rows_per_cta);
    const int32_t wanted = (int32_t)(work.select.spread ? work.cut[head].share : work.share);
    struct group group = {slot, 0, warp / GROUP * GROUP};
    struct hint hint = {0, 0};
    int32_t row = begin + warp / GROUP;
    if (ITEMS > 0 && row < min(end, (int32_t)work.rows))
        start_part<ITEMS>(&work, map_row(&work, head, row), 32 * ITEMS * (warp - group.first),
                          stage[warp]);
    if (threadIdx.x == 0)
        taken = WARPS / GROUP;
    clear_bins(bins);
    while (row < end) {
        int32_t next = begin + next_row<GROUP>(&group, &taken);
        next = next < end ? next : query_blocks;
        if (row < work.rows) {
            take_row<GROUP, ITEMS>(&work, head, row, next, wanted, &group, &hint, stage[warp],
                                   word[warp], bins);
        } else {
            uint32_t *kept = kept_row(&work, head, row);
            for (int32_t i = threadIdx.x % (32 * GROUP); i < work.words; i += 32 * GROUP)
                kept[i] = span_bits(0, work.select.shape.key_blocks, i);
        }
        row = next;
    }
    if (!work.cuts)
        return;
    const int64_t rest = work.select.spread ? work.cut[head].rest : work.rest;
    add_bins(bins, rest, work.histogram + head * BINS);
    if (is_last_cta(&work.cut[head].done[0], (query_blocks + per_cta - 1) / per_cta))
        bracket_cut(&work, head, rest);
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
    const int64_t entries = (int64_t)shape->video_query_blocks * shape->video_key_blocks;
    work.room = (uint32_t)clip(entries / LIST_SHARE, LEAST_LIST, INT32_MAX);
    size_t bound = take_bytes(&at, rows);
    size_t list = take_bytes(&at, heads * work.room * sizeof(*work.list));
    work.size = at;
    if (base) {
        work.histogram = (unsigned long long *)(base + histogram);
        work.cut = (struct head_cut *)(base + cut);
        work.bound = (uint32_t *)(base + bound);
        work.list = (unsigned long long *)(base + list);
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

/* All CTAs at once, as long as a group of warps has few rows then. */
template <int GROUP, int ITEMS>
static void launch_rows(const struct select_work *given, cudaStream_t stream)
{
    struct select_work work = *given;
    const int32_t query_blocks = work.select.shape.query_blocks, groups = WARPS / GROUP;
    const int32_t chunks = max(FULL_GRID / work.select.shape.heads, 1);
    work.rows_per_cta =
        (int32_t)clip((query_blocks + chunks - 1) / chunks, groups, groups * MOST_TURNS);
    unsigned grid = grid_of(&work, query_blocks, work.rows_per_cta);
    take_rows<GROUP, ITEMS><<<grid, THREADS, 0, stream>>>(work);
}

/* The fewest warps and registers that hold a row. */
static void launch_take_rows(const struct select_work *work, cudaStream_t stream)
{
    if (work->columns <= 256)
        launch_rows<1, 8>(work, stream);
    else if (work->columns <= 512)
        launch_rows<1, 16>(work, stream);
    else if (work->columns <= 928) /* 720p has 928 */
        launch_rows<1, 29>(work, stream);
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

cudaError_t cuda_select(const struct select_cuda *select, cudaStream_t stream)
{
    struct select_work work = make_work(&select->shape, select->scratch);
    if (work.rows * work.columns > UINT32_MAX) /* of 16 GiB a head: places are 32 bits */
        return cudaErrorInvalidValue;
    work.select = *select;
    work.select.spread = select->spread && !select->paper;
    work.aligned = work.columns % 4 == 0 && (uintptr_t)select->map % 16 == 0;
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
        select_budgets(&work, stream);
    launch_take_rows(&work, stream);
    if (work.cuts)
        select_rest(&work, stream);
    return cudaGetLastError();
}
