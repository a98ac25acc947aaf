/*
 * Owns selection on the device: a score map becomes the bits of the pairs that are kept, the very
 * set that src/select.c defines. Text rows and text keys are kept without asking.
 *
 * The idea: no sort. Scores become integers of the same order (score_key()).
 *
 *   take_rows   a row lives in the registers of 1 to 8 warps. Its best are found by guesses at the
 *               cut's key, which end as soon as a count is met and begin where the row before was
 *               cut; the ballot of 32 columns is a word of kept bits. What is left of the row goes
 *               into the head's histogram, whose bins are a 64th of an octave wide. The last CTA of
 *               a head then knows the bin that the rest of the budget ends in
 *   take_rest   of select_rest.cu takes what is above that bin and ranks what lies in it; take_slow
 *               is for heads where that is too much to be ranked, else it ends at once
 *
 * head_spread puts the budgets of heads in front, select_budget.cu. The published policy takes no
 * rows, and all ties.
 *
 * Bounds: take_rows reads the map once (83 MB at 24 x 928 x 928) and issues about 25 instructions
 * for 32 entries, most of them on the integer pipe, which has half the rate: counts of a guess are
 * added up as floats. take_rest reads again what rows left above the bin, a tenth to a half.
 *
 * Ladder, H100, 24 x 928 x 928 with floor 1, floor 0, spread 2; 12 x 256 x 256
 *   v1  guesses from the ends of a row; three digits of the rest by count_digit and choose_digit,
 *       ties by launches of their own, nine in all: 0.1423, 0.2087, 0.4791; 0.0533 ms
 *   v2  as above, four launches: 0.0932, 0.8334, 0.4108; 0.0351 ms. The second and third have rows
 *       whose best score is above 2, as no softmax gives, and go the slow way
 */
#include "select_cuda.cuh"

enum {
    MOST_TURNS = 8,    /* rows of a group of warps in take_rows, as long as there are */
    FULL_GRID = 352,   /* so many CTAs: three each for most of 132 */
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

/* All loads before the first use. Where no column is beyond the row none is asked about: there are
 * seven predicates, and with them no more than so many loads under way. */
template <int ITEMS> static __device__ void load_part(struct part<ITEMS> *part)
{
    if (part->begin / 32 * 32 + 32 * ITEMS <= part->end) {
#pragma unroll
        for (int32_t i = 0; i < ITEMS; i++)
            part->key[i] = __float_as_uint(__ldg(part->score + 32 * i));
#pragma unroll
        for (int32_t i = 0; i < ITEMS; i++)
            part->key[i] = score_key(__uint_as_float(part->key[i]));
    } else {
#pragma unroll
        for (int32_t i = 0; i < ITEMS; i++)
            part->key[i] = __float_as_uint(score_of(part, i));
#pragma unroll
        for (int32_t i = 0; i < ITEMS; i++)
            part->key[i] = key_from(part, i, __uint_as_float(part->key[i]));
    }
}

/* Columns with a key of at least least. Added up as floats: additions of integers would wait for
 * the pipe that the comparisons need. */
template <int GROUP, int ITEMS>
static __device__ uint32_t count_from(const struct part<ITEMS> *part, struct group *group,
                                      uint32_t least)
{
    const int32_t items = ITEMS > 0 ? ITEMS : part->items;
    float count = 0;
#pragma unroll(ITEMS > 0 ? ITEMS : 4)
    for (int32_t i = 0; i < items; i++)
        asm("{ .reg .pred p; setp.ge.u32 p, %1, %2; @p add.f32 %0, %0, 0f3F800000; }"
            : "+f"(count)
            : "r"(key_of(part, i)), "r"(least));
    return group_sum<GROUP>(group, (uint32_t)count);
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
    uint32_t best = 0, worst = 0;
#pragma unroll(ITEMS > 0 ? ITEMS : 4)
    for (int32_t i = 0; i < items; i++) {
        const uint32_t key = key_of(part, i);
        best = max(best, key);
        worst = max(worst, key > 0 ? ~key : 0);
    }
    best = group_max<GROUP>(group, best);
    return {best, ~group_max<GROUP>(group, worst)};
}

/* More than the wanted columns are >= low: below; fewer are >= high: above. An end that was not
 * counted is known by its place alone. */
struct bracket {
    uint32_t low, high, below, above;
    bool low_counted, high_counted;
};

/* A key inside that cuts off about wanted columns: by proportion, but not near the ends; with one
 * end counted by the pitch, four times as far each turn; after some turns just the middle. */
static __device__ uint32_t guess_cut(const struct bracket *at, uint32_t wanted, float pitch,
                                     int32_t turn)
{
    const uint32_t width = at->high - at->low;
    float step = 0.5f * (float)width;
    if (turn < 8 && at->low_counted && at->high_counted) {
        const float share = __fdividef((float)(at->below - wanted), (float)(at->below - at->above));
        step = fminf(fmaxf(share, 0.15f), 0.85f) * (float)width;
    } else if (turn < 8 && at->low_counted) {
        step = fminf(step, (float)(at->below - wanted + 1) * pitch * (float)(1 << 2 * turn));
    } else if (turn < 8) {
        step = fminf(step, (float)(wanted - at->above + 1) * pitch * (float)(1 << 2 * turn));
        step = (float)width - step;
    }
    return at->low + min(max((uint32_t)step, 1u), width - 1);
}

/* The best wanted columns. */
template <int GROUP, int ITEMS>
static __device__ struct row_cut find_row_cut(const struct part<ITEMS> *part, struct group *group,
                                              int32_t wanted, struct hint *hint)
{
    if (wanted < 1)
        return {range_of<GROUP>(part, group).best, 0};
    if (wanted >= part->end)
        return {0, 0};
    struct bracket at = {1, KEYS_END, (uint32_t)part->end, 0, false, false};
    uint32_t guess = hint->key;
    if (guess == 0) {
        const struct key_range range = range_of<GROUP>(part, group);
        hint->pitch = __fdividef((float)(range.best - range.worst), (float)part->end);
        at = {range.worst, range.best + 1, (uint32_t)part->end, 0, true, true};
        guess = guess_cut(&at, (uint32_t)wanted, 0, 0);
    }
    for (int32_t turn = 0; at.high - at.low > 1; turn++) {
        const uint32_t count = count_from<GROUP>(part, group, guess);
        hint->key = guess;
        if (count == (uint32_t)wanted)
            return {guess - 1, 0};
        if (count > (uint32_t)wanted)
            at.low = guess, at.below = count, at.low_counted = true;
        else
            at.high = guess, at.above = count, at.high_counted = true;
        if (at.low_counted && at.high_counted && at.below - at.above >= 8)
            hint->pitch = __fdividef((float)(at.high - at.low), (float)(at.below - at.above));
        guess = guess_cut(&at, (uint32_t)wanted, hint->pitch, turn);
    }
    return {at.low, end_of_ties<GROUP>(part, group, at.low, (uint32_t)wanted - at.above)};
}

/* The words of a row's kept bits; keys below the cut go into bins, as far as there are bins for
 * them: others go into one more, as a branch would cost more. TIES: some at the cut are taken. */
template <bool TIES, int ITEMS>
static __device__ void mark_row(const struct select_work *work, const struct part<ITEMS> *part,
                                const struct row_cut cut, int32_t first, uint32_t *kept,
                                uint32_t *word, uint32_t *bins)
{
    const int32_t lane = threadIdx.x % 32, items = ITEMS > 0 ? ITEMS : part->items;
    const int32_t tie_items = (cut.end_of_ties - part->begin + 31) >> 5; /* this lane's */
    __syncwarp(); /* or the compiler checks at every ballot whether all are there */
#pragma unroll(ITEMS > 0 ? ITEMS : 4)
    for (int32_t i = 0; i < items; i++) {
        const uint32_t key = key_of(part, i);
        const uint32_t least = TIES && i < tie_items ? cut.key : cut.key + 1;
        const uint32_t bits = __ballot_sync(ALL_LANES, key >= least);
        if (lane == 0)
            word[i % 32] = bits;
        const uint32_t place = key - BINS_BEGIN, end = max(min(least, BINS_END), BINS_BEGIN);
        const bool counts = place < end - BINS_BEGIN;
        atomicAdd(bins + ((counts ? place : BINS << BIN_SHIFT) >> BIN_SHIFT), 1u);
        if (i % 32 == 31 || i == items - 1) {
            const int32_t at = first + i / 32 * 32 + lane;
            __syncwarp();
            if (lane <= i % 32 && at < work->words)
                kept[at] = word[lane] | span_bits(part->end, work->select.shape.key_blocks, at);
            __syncwarp();
        }
    }
}

/* Kept bits of a video row; what is left goes into bins, where it must end into bound[]. */
template <int GROUP, int ITEMS>
static __device__ void take_row(const struct select_work *work, int64_t head, int64_t row,
                                struct group *group, struct hint *hint, uint32_t *word,
                                uint32_t *bins)
{
    const int32_t lane = threadIdx.x % 32, rank = (int32_t)threadIdx.x / 32 - group->first;
    const int32_t items = ITEMS > 0 ? ITEMS : (work->words + GROUP - 1) / GROUP;
    const int32_t first = rank * items, begin = 32 * first + lane;
    struct part<ITEMS> part;
    part.score = map_row(work, head, row) + begin;
    part.begin = begin;
    part.end = (int32_t)work->columns;
    part.items = items;
    load_part(&part);

    const int64_t share = work->select.spread ? work->cut[head].share : work->share;
    const struct row_cut cut = find_row_cut<GROUP>(&part, group, (int32_t)share, hint);
    uint32_t *kept = kept_row(work, head, row);
    if (cut.end_of_ties > 0)
        mark_row<true>(work, &part, cut, first, kept, word, bins);
    else
        mark_row<false>(work, &part, cut, first, kept, word, bins);
    for (int32_t i = GROUP * items + 32 * rank + lane; i < work->words; i += 32 * GROUP)
        kept[i] = span_bits(part.end, work->select.shape.key_blocks, i);
    if (rank == 0 && lane == 0) {
        work->bound[head * work->rows + row] = cut.key;
        if (cut.key >= BINS_END)
            atomicOr(&work->cut[head].unbinned, 1u);
    }
}

/* Where the rest of a head's budget ends, by the CTA that came last. */
static __device__ void bracket_cut(const struct select_work *work, int64_t head)
{
    struct head_cut *cut = work->cut + head;
    const int64_t rest = work->select.spread ? cut->rest : work->rest;
    uint32_t low = 1, high = KEYS_END;
    int64_t missing = rest;
    if (rest > 0 && *(volatile uint32_t *)&cut->unbinned == 0) {
        const struct bin_cut found = find_bin<THREADS>(work->histogram + head * BINS, rest);
        high = BINS_BEGIN + ((uint32_t)(found.bin + 1) << BIN_SHIFT);
        low = found.bin < 0 ? 1 : high - (1u << BIN_SHIFT);
        missing = rest - found.above;
    }
    if (threadIdx.x == 0)
        cut->low = low, cut->high = high, cut->missing = missing;
}

/* All query blocks, turns rows for every GROUP warps. */
template <int GROUP, int ITEMS>
static __global__ void __launch_bounds__(THREADS, 3) take_rows(const struct select_work work)
{
    __shared__ uint32_t bins[BINS + 1], slot[2][WARPS], word[WARPS][32];
    const int32_t query_blocks = work.select.shape.query_blocks, warp = threadIdx.x / 32;
    const int32_t rows_per_cta = WARPS / GROUP * work.turns;
    const struct place place = place_of(query_blocks, rows_per_cta, warp / GROUP * work.turns);
    const int64_t head = place.head;
    struct group group = {slot, 0, warp / GROUP * GROUP};
    struct hint hint = {0, 0};
    clear_bins(bins);
    for (int32_t turn = 0; turn < work.turns && place.row + turn < query_blocks; turn++) {
        const int64_t row = place.row + turn;
        if (row < work.rows) {
            take_row<GROUP, ITEMS>(&work, head, row, &group, &hint, word[warp], bins);
            continue;
        }
        uint32_t *kept = kept_row(&work, head, row);
        for (int32_t i = threadIdx.x % (32 * GROUP); i < work.words; i += 32 * GROUP)
            kept[i] = span_bits(0, work.select.shape.key_blocks, i);
    }
    if (!work.cuts)
        return;
    flush_bins(bins, work.histogram + head * BINS);
    if (is_last_cta(&work.cut[head].done[0], (query_blocks + rows_per_cta - 1) / rows_per_cta))
        bracket_cut(&work, head);
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

template <int GROUP, int ITEMS>
static void launch_rows(const struct select_work *given, cudaStream_t stream)
{
    struct select_work work = *given;
    const int32_t query_blocks = work.select.shape.query_blocks, groups = WARPS / GROUP;
    const int64_t all = (int64_t)work.select.shape.heads * query_blocks, full = FULL_GRID * groups;
    work.turns = (int32_t)clip((all + full / 2) / full, 1, MOST_TURNS);
    unsigned grid = grid_of(&work, query_blocks, groups * work.turns);
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
