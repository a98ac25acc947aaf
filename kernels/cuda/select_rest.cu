/*
 * Owns the rest of a head's budget, behind take_rows of select.cu: the best of what rows left, of
 * which so many are missing in the bin [low, high) of the cut, and all above it.
 *
 *   take_rest   takes what rows left above the bin and lists what lies in it; rows whose own cut is
 *               below it are not read. The last CTA of a head ranks the list by score and place
 *   take_slow   is for heads whose list was too long (much of the map within 1 %, or ties): a CTA a
 *               head, three digits of 11, 11 and 10 bits, ties row by row. Else it ends at once
 *
 * Bounds: take_rest by the rows that it reads, a tenth to a half of the map, take_slow by what one
 * CTA has under way, which is a few per cent of the memory's speed: it is there to be right.
 *
 * Ladder: in select.cu
 */
#include "select_cuda.cuh"

enum {
    SLOW_THREADS = 1024,
    SLOW_WARPS = SLOW_THREADS / 32,
    REST_ROWS = 64,  /* of a CTA of take_rest: bits of a mask */
    NOTES = BINS / 2 /* entries that it notes: as many as its bins have room for */
};

/* What a CTA has to list, in shared memory. */
struct notes {
    unsigned long long *entry; /* [NOTES] */
    uint32_t *count;
};

/* What there is no room for in the notes goes to the list at once. A list that is too long is left
 * as it is. */
static __device__ void list_entry(const struct select_work *work, int64_t head, uint32_t key,
                                  int64_t place, const struct notes *notes)
{
    const unsigned long long entry = (unsigned long long)key << 32 | (UINT32_MAX - (uint32_t)place);
    uint32_t *listed = &work->cut[head].listed, at = atomicAdd(notes->count, 1u);
    if (at < NOTES) {
        notes->entry[at] = entry;
        return;
    }
    if (*(volatile uint32_t *)listed > work->room)
        return;
    at = atomicAdd(listed, 1u);
    if (at < work->room)
        work->list[head * (int64_t)work->room + at] = entry;
}

/* Notes go to the head's list, by all threads. */
static __device__ void list_notes(const struct select_work *work, int64_t head,
                                  const struct notes *notes)
{
    __shared__ uint32_t begin;
    __syncthreads();
    const uint32_t count = min(*notes->count, (uint32_t)NOTES);
    if (count == 0)
        return;
    if (threadIdx.x == 0)
        begin = atomicAdd(&work->cut[head].listed, count);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < count && begin + i < work->room; i += THREADS)
        work->list[head * (int64_t)work->room + begin + i] = notes->entry[i];
}

/* Takes what a row left from high on and lists what is in [low, high). */
static __device__ void rest_of_row(const struct select_work *work, int64_t head, int64_t row,
                                   uint32_t low, uint32_t high, const struct notes *notes)
{
    const int32_t lane = threadIdx.x % 32;
    const float *score = map_row(work, head, row);
    uint32_t *kept = kept_row(work, head, row);
    for (int64_t column = 0; column < work->columns; column += 32 * LOADS) {
        const uint32_t taken = load_kept(work, kept, column);
        uint32_t key[LOADS], mine = taken, near = 0; /* near: bit i for key i */
        load_keys(score, work->columns, column + lane, key);
#pragma unroll
        for (int32_t i = 0; i < LOADS; i++) {
            const uint32_t word = __shfl_sync(ALL_LANES, taken, i);
            const bool free = key[i] >= low && !(word >> lane & 1);
            const uint32_t above = __ballot_sync(ALL_LANES, free && key[i] >= high);
            mine |= lane == i ? above : 0;
            near |= free && key[i] < high ? 1u << i : 0;
        }
        if (mine != taken)
            kept[column / 32 + lane] = mine;
        for (; near != 0; near &= near - 1) {
            const int64_t at = column + 32 * (__ffs((int32_t)near) - 1) + lane;
            list_entry(work, head, score_key(__ldg(score + at)), row * work->columns + at, notes);
        }
        __syncwarp();
    }
}

/* The best missing of a list of count, whose keys are in [low, high), by digits from the top. The
 * published policy does not look at places: it takes all ties. */
static __device__ void settle(const struct select_work *work, int64_t head, uint32_t count,
                              uint32_t *bins)
{
    const struct head_cut *cut = work->cut + head;
    const unsigned long long *list = work->list + head * (int64_t)work->room;
    const unsigned long long base = (unsigned long long)cut->low << 32;
    const int32_t last = work->select.paper ? 32 : 0;
    unsigned long long prefix = 0; /* of the cut, relative to base: bits from known on */
    int32_t known = 64 - __clz((int32_t)(cut->high - 1 - cut->low));
    int64_t missing = cut->missing, inside = count;
    while (known > last && inside > missing) {
        const int32_t shift = max(known - DIGIT_BITS, last), width = known - shift;
        clear_bins(bins);
        for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
            const unsigned long long value = (__ldcg(list + i) - base) >> shift;
            if (value >> width == prefix >> shift >> width)
                atomicAdd(bins + (uint32_t)value % (1u << width), 1u);
        }
        __syncthreads();
        const struct bin_cut found = find_bin<THREADS>(bins, missing);
        prefix |= (unsigned long long)found.bin << shift;
        missing -= found.above;
        inside = found.inside;
        known = shift;
    }
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
        const unsigned long long entry = __ldcg(list + i);
        const uint32_t place = UINT32_MAX - (uint32_t)entry, columns = (uint32_t)work->columns;
        if (known < 64 && (entry - base) >> known < prefix >> known)
            continue;
        const uint32_t column = place % columns;
        atomicOr(kept_row(work, head, place / columns) + column / 32, 1u << column % 32);
    }
}

/* Rows of a CTA that left something from low on, from row first on. The same in all warps. */
static __device__ uint64_t open_rows(const struct select_work *work, int64_t head, int64_t first,
                                     uint32_t low)
{
    const int64_t row = first + threadIdx.x % 32;
    const uint32_t *bound = work->bound + head * work->rows;
    const uint32_t upper = row < work->rows ? __ldg(bound + row) : 0;
    const uint32_t lower = row + 32 < work->rows ? __ldg(bound + row + 32) : 0;
    return (uint64_t)__ballot_sync(ALL_LANES, lower >= low) << 32 |
           __ballot_sync(ALL_LANES, upper >= low);
}

/* Warps take those rows in turn. */
static __global__ void __launch_bounds__(THREADS) take_rest(const struct select_work work)
{
    __shared__ unsigned long long room[NOTES];
    __shared__ uint32_t noted;
    uint32_t *bins = (uint32_t *)room;
    const struct notes notes = {room, &noted};
    const struct place place = place_of(work.rows, REST_ROWS, 0);
    const int64_t head = place.head;
    struct head_cut *cut = work.cut + head;
    const uint32_t low = cut->low, high = cut->high;
    uint64_t open = open_rows(&work, head, place.row, low);
    if (cut->missing == 0)
        return;
    if (threadIdx.x == 0)
        noted = 0;
    __syncthreads();
    for (uint32_t i = 0; open != 0; i++, open &= open - 1)
        if (i % WARPS == threadIdx.x / 32)
            rest_of_row(&work, head, place.row + __ffsll((long long)open) - 1, low, high, &notes);
    list_notes(&work, head, &notes);
    if (!is_last_cta(&cut->done[1], ((uint32_t)work.rows + REST_ROWS - 1) / REST_ROWS))
        return;
    const uint32_t listed = *(volatile uint32_t *)&cut->listed;
    if (listed > work.room)
        return;
    settle(&work, head, listed, bins);
    __syncthreads();
    if (threadIdx.x == 0)
        cut->missing = 0;
}

/* Takes what a row left above the cut and, where all ties are taken, at it; else counts those. */
static __device__ uint32_t take_above(const struct select_work *work, const float *row,
                                      uint32_t *kept, uint32_t cut, bool partial)
{
    const int32_t lane = threadIdx.x % 32;
    uint32_t ties = 0;
    for (int64_t column = 0; column < work->columns; column += 32 * LOADS) {
        const uint32_t taken = load_kept(work, kept, column);
        uint32_t key[LOADS], mine = taken;
        load_keys(row, work->columns, column + lane, key);
#pragma unroll
        for (int32_t i = 0; i < LOADS; i++) {
            const bool free = !(__shfl_sync(ALL_LANES, taken, i) >> lane & 1);
            const bool at = free && key[i] == cut;
            const bool keep = free && (key[i] > cut || (at && !partial));
            const uint32_t bits = __ballot_sync(ALL_LANES, keep);
            mine |= lane == i ? bits : 0;
            ties += at;
        }
        if (mine != taken)
            kept[column / 32 + lane] = mine;
    }
    return __reduce_add_sync(ALL_LANES, ties);
}

/* The first entries at the cut that a row left, until of all rows' missing are taken; before were
 * in the rows above. */
static __device__ void take_ties(const struct select_work *work, const float *row, uint32_t *kept,
                                 uint32_t cut, int64_t before, int64_t missing)
{
    const int32_t lane = threadIdx.x % 32;
    for (int64_t column = 0; before < missing && column < work->columns; column += 32 * LOADS) {
        const uint32_t taken = load_kept(work, kept, column);
        uint32_t key[LOADS], mine = taken;
        load_keys(row, work->columns, column + lane, key);
#pragma unroll
        for (int32_t i = 0; i < LOADS; i++) {
            const bool free = !(__shfl_sync(ALL_LANES, taken, i) >> lane & 1);
            const uint32_t at = __ballot_sync(ALL_LANES, free && key[i] == cut);
            const bool keep = at >> lane & 1 && before + __popc(at & lower_lanes()) < missing;
            const uint32_t bits = __ballot_sync(ALL_LANES, keep);
            mine |= lane == i ? bits : 0;
            before += __popc(at);
        }
        if (mine != taken)
            kept[column / 32 + lane] = mine;
    }
}

/* A CTA a head, for those that take_rest could not settle: the best missing of what is not kept. */
static __global__ void __launch_bounds__(SLOW_THREADS) take_slow(const struct select_work work)
{
    __shared__ uint32_t bins[BINS], ties[SLOW_WARPS];
    const int64_t head = blockIdx.x;
    const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t *bound = work.bound + head * work.rows, low = work.cut[head].low;
    int64_t missing = work.cut[head].missing, inside = 0, before = 0;
    uint32_t cut = 0;
    if (missing == 0)
        return;
    for (int32_t pass = 0; pass <= LAST_PASS; pass++) {
        const struct digit digit = digit_of(pass);
        clear_bins(bins);
        for (int64_t row = warp; row < work.rows; row += SLOW_WARPS)
            if (bound[row] >= low)
                count_row(&work, map_row(&work, head, row), kept_row(&work, head, row), digit, cut,
                          bins);
        __syncthreads();
        const struct bin_cut found = find_bin<SLOW_THREADS>(bins, missing);
        cut |= (uint32_t)found.bin << digit.shift;
        missing -= found.above;
        inside = found.inside;
    }
    const bool partial = !work.select.paper && missing < inside;
    for (int64_t first = 0; first < work.rows; first += SLOW_WARPS) {
        const int64_t row = first + warp;
        const float *score = map_row(&work, head, row);
        uint32_t *kept = kept_row(&work, head, row), own = 0;
        if (row < work.rows && bound[row] >= cut)
            own = take_above(&work, score, kept, cut, partial);
        if (!partial)
            continue;
        if (lane == 0)
            ties[warp] = own;
        __syncthreads();
        const uint32_t all = ties[lane], above = lane < warp ? all : 0;
        const int64_t start = before + __reduce_add_sync(ALL_LANES, above);
        before += __reduce_add_sync(ALL_LANES, all);
        if (own > 0 && start < missing)
            take_ties(&work, score, kept, cut, start, missing);
        __syncthreads(); /* ties is written again */
    }
}

void select_rest(const struct select_work *work, cudaStream_t stream)
{
    const unsigned heads = (unsigned)work->select.shape.heads;
    const unsigned grid = grid_of(work, work->rows, REST_ROWS);
    take_rest<<<grid, THREADS, 0, stream>>>(*work);
    take_slow<<<heads, SLOW_THREADS, 0, stream>>>(*work);
}
