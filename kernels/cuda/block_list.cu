/*
 * Owns block lists on the device: kept bits to CSR, densities and the queue of the attention, and
 * the way from a list to bits. A list that comes from outside is hostile: its offsets are clamped
 * before they are followed, what they lead to is checked.
 *
 * The idea: chunks of items (rows, then probe tiles). A warp counts the bits of a row; a chunk
 * ranks its items of each cost and adds up its rows, and the CTA that comes last adds those up over
 * all chunks (count_items): a stable counting sort. Then a warp an item knows all it needs to write
 * row_ptr, block_idx and the queue (write_items): a lane a word or a word after the other. The cost
 * of an item is one byte that says how far it falls short of all key blocks, in steps of 1/32 of
 * itself: longest first as far as it matters, and among equals in order, so that neighbours share
 * keys in the L2 cache.
 *
 * CUB would do both, with twice the launches, a scratch that depends on the device and, in 13.0,
 * with spilled registers.
 *
 * Bounds: launches and the list itself, 4 bytes a kept pair; 24 x 928 x 928 at 10 % and rows that
 * are full are 17 MB, 6 us.
 *
 * Ladder, H100, 24 x 928 x 928 of 4.2 and of 10.4 million pairs; 12 x 256 x 256
 *   v1  count, scan by one CTA whose threads each read a stretch, place, write: 0.0756, 0.0824;
 *       0.0315 ms. Bits of the list: 0.0570 ms
 *   v2  a clear and two launches, two popcounts a word and lane: 0.0372, 0.0429; 0.0201 ms. Bits:
 *       0.0545 ms
 *   v3  as above, popcounts of a lane's own word; loads of the last CTA at once: 0.0322,
 *       0.0397; 0.0212 ms. Bits: 0.0553 ms
 */
#include "last_cta.cuh"
#include "stages_cuda.h"

#include <cub/block/block_scan.cuh>

#include <math.h>

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    COUNT_THREADS = 1024,
    COUNT_WARPS = COUNT_THREADS / 32,
    CHUNK = 256, /* items */
    WARP_ITEMS = CHUNK / COUNT_WARPS,
    COSTS = 256,
    GROUPS = COUNT_THREADS / COSTS, /* of chunks, that are added up side by side */
    TILE = 32                       /* chunks whose counts a thread has under way */
};

static const uint32_t ALL_LANES = 0xffffffffu;

/* What the kernels that make a list share, by value. */
struct list_work {
    struct list_cuda list;
    int64_t rows, items;
    int32_t words, chunks; /* words of a row of kept bits */
    uint32_t *done;        /* CTAs of count_items; begins as 0 */
    uint8_t *cost, *rank;  /* [items]; items of its cost in its chunk before it */
    int64_t *before;       /* [rows] pairs in its chunk before it */
    int64_t *kept;         /* [chunks + 1] pairs in the rows of a chunk; then: of all before it */
    int32_t *count;        /* [chunks][COSTS] items; then: their first place in the queue */
    size_t size;           /* bytes of scratch */
};

static __host__ __device__ int64_t row_count(const struct shape_cuda *shape)
{
    return (int64_t)shape->heads * shape->query_blocks;
}

static unsigned grid_of(int64_t count, int64_t per_cta)
{
    return (unsigned)((count + per_cta - 1) / per_cta);
}

/* Row of this warp where a warp has a row. */
static __device__ int64_t warp_row(void)
{
    return (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
}

/* ---- from bits ------------------------------------------------------------------------------- */

/* 0 for the longest. From the bits of a float in (0, 1], which are a logarithm: exponent and five
 * bits of mantissa. */
static __device__ uint8_t cost_of(int64_t kept, int32_t key_blocks)
{
    const uint32_t one = 0x3f800000u, share = __float_as_uint((float)kept / (float)key_blocks);
    return (uint8_t)min((one >> 18) - (share >> 18), (uint32_t)COSTS - 1);
}

/* Lengths of a chunk's items, a warp WARP_ITEMS: the first loads of all are under way at once. */
static __device__ void count_lengths(const struct list_work *work, int64_t first, int32_t *length)
{
    const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t kept[WARP_ITEMS];
#pragma unroll
    for (int32_t i = 0; i < WARP_ITEMS; i++) {
        const int64_t item = first + warp * WARP_ITEMS + i;
        const bool holds = item < work->rows && lane < work->words;
        kept[i] = holds ? __ldg(work->list.kept + item * work->words + lane) : 0;
    }
#pragma unroll
    for (int32_t i = 0; i < WARP_ITEMS; i++) {
        const int64_t item = first + warp * WARP_ITEMS + i;
        kept[i] = __popc(kept[i]);
        if (item < work->rows)
#pragma unroll 1
            for (int32_t word = lane + 32; word < work->words; word += 32)
                kept[i] += __popc(__ldg(work->list.kept + item * work->words + word));
    }
    __syncwarp(); /* or the compiler calls a function for every sum */
#pragma unroll
    for (int32_t i = 0; i < WARP_ITEMS; i++) {
        const bool row = first + warp * WARP_ITEMS + i < work->rows;
        kept[i] = __reduce_add_sync(ALL_LANES, kept[i]);
        if (lane == 0)
            length[warp * WARP_ITEMS + i] = row ? (int32_t)kept[i] : work->list.shape.key_blocks;
    }
    __syncthreads();
}

typedef cub::BlockScan<int64_t, COUNT_THREADS, cub::BLOCK_SCAN_WARP_SCANS> list_scan;

/* Counts of the chunks from begin on, at most TILE; 0 from end on. */
static __device__ void load_counts(const int32_t *count, int32_t begin, int32_t end, int32_t *own)
{
#pragma unroll
    for (int32_t i = 0; i < TILE; i++)
        own[i] = begin + i < end ? __ldcg(count + (int64_t)(begin + i) * COSTS) : 0;
}

/* Counts become first places, for all chunks: a thread a cost and a group of chunks. */
static __device__ void scan_counts(const struct list_work *work,
                                   typename list_scan::TempStorage *storage)
{
    __shared__ int32_t sums[GROUPS][COSTS], start[COSTS];
    const int32_t cost = threadIdx.x % COSTS, group = threadIdx.x / COSTS;
    const int32_t stretch = (work->chunks + GROUPS - 1) / GROUPS;
    const int32_t begin = min(work->chunks, group * stretch);
    const int32_t end = min(work->chunks, begin + stretch);
    int32_t *count = work->count + cost, sum = 0, own[TILE];
    for (int32_t i = begin; i < end; i += TILE) {
        load_counts(count, i, end, own);
#pragma unroll
        for (int32_t j = 0; j < TILE; j++)
            sum += own[j];
    }
    sums[group][cost] = sum;
    __syncthreads();
    int64_t all = 0;
    if (group == 0)
        for (int32_t i = 0; i < GROUPS; i++)
            all += sums[i][cost];
    list_scan(*storage).ExclusiveSum(all, all);
    if (group == 0)
        start[cost] = (int32_t)all;
    __syncthreads();
    sum = start[cost];
    for (int32_t i = 0; i < group; i++)
        sum += sums[i][cost];
    for (int32_t i = begin; i < end; i += TILE) {
        if (stretch > TILE) /* else they are there still */
            load_counts(count, i, end, own);
#pragma unroll
        for (int32_t j = 0; j < TILE; j++) {
            if (i + j < end)
                count[(int64_t)(i + j) * COSTS] = sum;
            sum += own[j];
        }
    }
}

/* Pairs of chunks become pairs before them, and of all: a stretch of chunks a thread. */
static __device__ void scan_kept(const struct list_work *work,
                                 typename list_scan::TempStorage *storage)
{
    const int32_t stretch = (work->chunks + COUNT_THREADS - 1) / COUNT_THREADS;
    const int32_t begin = min(work->chunks, (int32_t)threadIdx.x * stretch);
    const int32_t end = min(work->chunks, begin + stretch);
    int64_t sum = 0, all;
    for (int32_t i = begin; i < end; i++)
        sum += __ldcg(work->kept + i);
    list_scan(*storage).ExclusiveSum(sum, sum, all);
    for (int32_t i = begin; i < end; i++) {
        const int64_t own = i + 1 < end ? __ldcg(work->kept + i) : 0;
        work->kept[i] = sum;
        sum += own;
    }
    if (threadIdx.x == 0)
        work->kept[work->chunks] = all;
    __syncthreads();
}

/* A CTA a chunk; then a thread an item, as far as there are. */
static __global__ void __launch_bounds__(COUNT_THREADS, 1) count_items(const struct list_work work)
{
    enum { COUNTS = COSTS + 1, ITEM_WARPS = CHUNK / 32 }; /* the last is for no item */
    __shared__ typename list_scan::TempStorage storage;
    __shared__ int32_t length[CHUNK], count[ITEM_WARPS * COUNTS];
    const int32_t thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int64_t first = (int64_t)blockIdx.x * CHUNK, item = first + thread;
    const bool own = thread < CHUNK && item < work.items;
    for (int32_t i = thread; i < ITEM_WARPS * COUNTS; i += COUNT_THREADS)
        count[i] = 0;
    count_lengths(&work, first, length);

    const int64_t pairs = own && item < work.rows ? length[thread] : 0;
    int64_t before;
    list_scan(storage).ExclusiveSum(pairs, before);
    if (own && item < work.rows)
        work.before[item] = before;
    if (thread == COUNT_THREADS - 1)
        work.kept[blockIdx.x] = before; /* it has no item */
    const int32_t cost = own ? cost_of(length[thread], work.list.shape.key_blocks) : COSTS;
    const uint32_t same = __match_any_sync(ALL_LANES, cost);
    int32_t rank = __popc(same & ((1u << lane) - 1));
    if (warp < ITEM_WARPS && rank == 0)
        count[warp * COUNTS + cost] = __popc(same);
    __syncthreads();
    if (own) {
        for (int32_t i = 0; i < warp; i++)
            rank += count[i * COUNTS + cost];
        work.cost[item] = (uint8_t)cost;
        work.rank[item] = (uint8_t)rank;
    }
    if (thread < COSTS) {
        int32_t all = 0;
        for (int32_t i = 0; i < ITEM_WARPS; i++)
            all += count[i * COUNTS + thread];
        work.count[(int64_t)blockIdx.x * COSTS + thread] = all;
    }
    if (!is_last_cta(work.done, gridDim.x))
        return;
    scan_kept(&work, &storage);
    scan_counts(&work, &storage);
}

static __device__ void write_stats(const struct list_cuda *list, int64_t head, int64_t kept)
{
    const int64_t pairs = (int64_t)list->shape.query_blocks * list->shape.key_blocks;
    const float error = kept == pairs ? 0.0f : NAN;
    list->heads[head] = {(float)((double)kept / (double)pairs), error, error, 0};
}

static __device__ int64_t begin_of(const struct list_work *work, int64_t row)
{
    return row < work->rows ? __ldg(work->kept + row / CHUNK) + __ldg(work->before + row)
                            : __ldg(work->kept + work->chunks);
}

/* What there is once an item, by one lane; the first row of a head writes its stats. */
static __device__ void write_item(const struct list_work *work, int64_t item, int64_t begin,
                                  int32_t place)
{
    const struct list_cuda *list = &work->list;
    const uint32_t query_blocks = (uint32_t)list->shape.query_blocks;
    list->queue[place] = (int32_t)item;
    if (item < work->rows)
        list->row_ptr[item] = begin;
    if (item == work->rows - 1)
        list->row_ptr[work->rows] = begin_of(work, work->rows);
    if (item == 0)
        *list->counter = 0;
    if (item < work->rows && (uint32_t)item % query_blocks == 0)
        write_stats(list, (uint32_t)item / query_blocks,
                    begin_of(work, item + query_blocks) - begin);
}

/* Blocks of 32 words, mine and those of the other lanes, of which the first is block; returns how
 * many. Either a lane goes through its word, by way of stage, or a warp through the words that are
 * not 0, whichever is shorter: the bits of scattered blocks, or of neighbours. */
static __device__ int32_t write_blocks(uint32_t mine, int32_t block, uint16_t *stage, int32_t *out)
{
    const int32_t lane = threadIdx.x % 32, own = __popc(mine);
    uint32_t words = __ballot_sync(ALL_LANES, own > 0);
    int32_t end = own;
#pragma unroll
    for (int32_t step = 1; step < 32; step *= 2) {
        const int32_t below = __shfl_up_sync(ALL_LANES, end, step);
        end += lane >= step ? below : 0;
    }
    const int32_t begin = end - own, all = __shfl_sync(ALL_LANES, end, 31);
    if (__reduce_max_sync(ALL_LANES, (uint32_t)own) < (uint32_t)__popc(words)) {
        for (int32_t at = begin; at < end; at++, mine &= mine - 1)
            stage[at] = (uint16_t)(32 * lane + __ffs((int32_t)mine) - 1);
        __syncwarp();
        for (int32_t at = lane; at < all; at += 32)
            out[at] = block + stage[at];
        __syncwarp();
        return all;
    }
    for (; words != 0; words &= words - 1) {
        const int32_t word = __ffs((int32_t)words) - 1;
        const uint32_t bits = __shfl_sync(ALL_LANES, mine, word);
        const int32_t at = __shfl_sync(ALL_LANES, begin, word);
        if (bits >> lane & 1)
            out[at + __popc(bits & ((1u << lane) - 1))] = block + 32 * word + lane;
    }
    return all;
}

/* A warp an item. */
static __global__ void __launch_bounds__(THREADS) write_items(const struct list_work work)
{
    __shared__ uint16_t stage[WARPS][32 * 32];
    const int64_t item = warp_row();
    const int32_t lane = threadIdx.x % 32;
    if (item >= work.items)
        return;
    const bool row = item < work.rows;
    const uint32_t *kept = work.list.kept + item * work.words;
    uint32_t mine = row && lane < work.words ? __ldg(kept + lane) : 0;
    const int64_t begin = row ? begin_of(&work, item) : 0;
    const int32_t place = __ldg(work.count + item / CHUNK * COSTS + __ldg(work.cost + item)) +
                          __ldg(work.rank + item);
    int32_t *out = work.list.block_idx + begin;
    for (int32_t first = 0; row && first < work.words; first += 32) {
        if (first > 0)
            mine = first + lane < work.words ? __ldg(kept + first + lane) : 0;
        out += write_blocks(mine, 32 * first, stage[threadIdx.x / 32], out);
    }
    if (lane == 0)
        write_item(&work, item, begin, place);
}

/* Nothing is skipped: items in their order, no probe tiles. */
static __global__ void __launch_bounds__(THREADS) write_dense(const struct list_cuda list)
{
    const int64_t item = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (item >= row_count(&list.shape))
        return;
    list.queue[item] = (int32_t)item;
    if (item < list.shape.heads)
        write_stats(&list, item, (int64_t)list.shape.query_blocks * list.shape.key_blocks);
    if (item == 0)
        *list.counter = 0;
}

/* ---- to bits --------------------------------------------------------------------------------- */

/* A warp a row. No row that is right has more than key_blocks entries: a list that is wrong costs
 * no more than a full one. */
static __global__ void __launch_bounds__(THREADS)
    mark_list(const struct shape_cuda shape, int32_t words, const int64_t *row_ptr,
              const int32_t *block_idx, int64_t capacity, uint32_t *kept)
{
    const int64_t row = warp_row();
    const int32_t lane = threadIdx.x % 32;
    if (row >= row_count(&shape))
        return;
    uint32_t *bits = kept + row * words;
    for (int32_t word = lane; word < words; word += 32)
        bits[word] = 0;
    __syncwarp();
    const int64_t begin = max((int64_t)0, min(row_ptr[row], capacity));
    const int64_t end = min(min(row_ptr[row + 1], capacity), begin + shape.key_blocks);
    for (int64_t i = begin + lane; i < end; i += 32) {
        const int32_t block = block_idx[i];
        if (block >= 0 && block < shape.key_blocks)
            atomicOr(bits + block / 32, 1u << block % 32);
    }
}

cudaError_t cuda_kept_from_list(const struct shape_cuda *shape, const int64_t *row_ptr,
                                const int32_t *block_idx, int64_t capacity, uint32_t *kept,
                                cudaStream_t stream)
{
    mark_list<<<grid_of(row_count(shape), WARPS), THREADS, 0, stream>>>(
        *shape, cuda_mean_rows(shape) / 32, row_ptr, block_idx, capacity, kept);
    return cudaGetLastError();
}

/* ---- launches -------------------------------------------------------------------------------- */

static size_t take_bytes(size_t *at, size_t bytes)
{
    size_t begin = *at;
    *at = (begin + bytes + 255) / 256 * 256;
    return begin;
}

static struct list_work make_work(const struct shape_cuda *shape, bool probes, void *scratch)
{
    struct list_work work = {};
    size_t at = 0;
    char *base = (char *)scratch;
    work.rows = row_count(shape);
    work.items = work.rows + (probes ? (int64_t)shape->heads * cuda_probe_tiles(shape) : 0);
    work.words = cuda_mean_rows(shape) / 32;
    work.chunks = (int32_t)((work.items + CHUNK - 1) / CHUNK);
    size_t done = take_bytes(&at, sizeof(*work.done));
    size_t cost = take_bytes(&at, (size_t)work.items), rank = take_bytes(&at, (size_t)work.items);
    size_t before = take_bytes(&at, (size_t)work.rows * sizeof(*work.before));
    size_t kept = take_bytes(&at, ((size_t)work.chunks + 1) * sizeof(*work.kept));
    size_t count = take_bytes(&at, (size_t)work.chunks * COSTS * sizeof(*work.count));
    work.size = at;
    if (base) {
        work.done = (uint32_t *)(base + done);
        work.cost = (uint8_t *)(base + cost);
        work.rank = (uint8_t *)(base + rank);
        work.before = (int64_t *)(base + before);
        work.kept = (int64_t *)(base + kept);
        work.count = (int32_t *)(base + count);
    }
    return work;
}

size_t cuda_list_scratch(const struct shape_cuda *shape)
{
    return make_work(shape, true, NULL).size;
}

cudaError_t cuda_list(const struct list_cuda *list, cudaStream_t stream)
{
    struct list_work work = make_work(&list->shape, list->probes, list->scratch);
    work.list = *list;
    if (!list->kept) {
        write_dense<<<grid_of(work.rows, THREADS), THREADS, 0, stream>>>(*list);
        return cudaGetLastError();
    }
    cudaError_t error = cudaMemsetAsync(work.done, 0, sizeof(*work.done), stream);
    if (error != cudaSuccess)
        return error;
    count_items<<<(unsigned)work.chunks, COUNT_THREADS, 0, stream>>>(work);
    write_items<<<grid_of(work.items, WARPS), THREADS, 0, stream>>>(work);
    return cudaGetLastError();
}
