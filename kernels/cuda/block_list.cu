/*
 * Owns block lists on the device: kept bits to CSR, densities and the queue of the attention, and
 * the way from a list to bits. A list that comes from outside is hostile: its offsets are clamped
 * before they are followed, what they lead to is checked.
 *
 * The idea: chunks of items (rows, then probe tiles). A warp counts the bits of a row; a chunk
 * knows its sum and how many items it has of each cost (count_items), one CTA adds those up over
 * all chunks (scan_chunks), and a chunk gives its items their places in row_ptr and in the queue
 * (place_items): a stable counting sort. write_rows takes one popcount a block, 32 blocks a store.
 * The cost of an item is one byte that says how far it falls short of all key blocks, in steps of
 * 1/32 of itself: longest first as far as it matters, and among equals in order, so that neighbours
 * share keys in the L2 cache.
 *
 * CUB would do both, with twice the launches, a scratch that depends on the device and, in 13.0,
 * with spilled registers.
 *
 * Bounds: launches and the list itself, 4 bytes a kept pair; 24 x 929 x 929 at 10 % are 8 MB.
 *
 * Ladder
 *   v1  as above: 24 x 928 x 928, 20 % kept, 0.076 ms, half kept 0.082 ms; 12 x 256 x 256 0.031 ms
 *       (H100, warm, median)
 */
#include "stages_cuda.h"

#include <cub/block/block_scan.cuh>

#include <math.h>

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    CHUNK = THREADS, /* items: place_items has a thread for each */
    COUNT_THREADS = 1024,
    COSTS = 256
};

static const uint32_t ALL_LANES = 0xffffffffu;

/* What the kernels that make a list share, by value. */
struct list_work {
    struct list_cuda list;
    int64_t rows, items;
    int32_t words, chunks; /* words of a row of kept bits */
    uint8_t *cost;         /* [items] */
    int64_t *kept;         /* [chunks] pairs in the rows of a chunk; then: of all before it */
    int64_t *count;        /* [COSTS][chunks] items; then: of all before them */
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

static __device__ int64_t count_bits(const uint32_t *bits, int32_t words)
{
    uint32_t kept = 0;
    for (int32_t word = threadIdx.x % 32; word < words; word += 32)
        kept += __popc(bits[word]);
    return __reduce_add_sync(ALL_LANES, kept);
}

/* A CTA a chunk, a warp an item. row_ptr[row + 1] is the length of the row for now. */
static __global__ void __launch_bounds__(COUNT_THREADS) count_items(const struct list_work work)
{
    __shared__ uint32_t count[COSTS];
    __shared__ unsigned long long all;
    const int32_t lane = threadIdx.x % 32, key_blocks = work.list.shape.key_blocks;
    const int64_t first = (int64_t)blockIdx.x * CHUNK;
    for (int32_t i = threadIdx.x; i < COSTS; i += COUNT_THREADS)
        count[i] = 0;
    if (threadIdx.x == 0)
        all = 0;
    __syncthreads();
    for (int32_t i = threadIdx.x / 32; i < CHUNK && first + i < work.items;
         i += COUNT_THREADS / 32) {
        const int64_t item = first + i;
        const bool row = item < work.rows;
        int64_t kept = key_blocks; /* of a probe tile */
        if (row)
            kept = count_bits(work.list.kept + item * work.words, work.words);
        if (lane != 0)
            continue;
        const uint8_t cost = cost_of(kept, key_blocks);
        work.cost[item] = cost;
        atomicAdd(count + cost, 1u);
        if (row) {
            work.list.row_ptr[item + 1] = kept;
            atomicAdd(&all, (unsigned long long)kept);
        }
    }
    __syncthreads();
    for (int32_t i = threadIdx.x; i < COSTS; i += COUNT_THREADS)
        work.count[(int64_t)i * work.chunks + blockIdx.x] = count[i];
    if (threadIdx.x == 0)
        work.kept[blockIdx.x] = (int64_t)all;
}

/* Sums of all before, in place, by one CTA: a stretch a thread. */
static __device__ void scan_array(int64_t *value, int64_t length)
{
    typedef cub::BlockScan<int64_t, COUNT_THREADS, cub::BLOCK_SCAN_WARP_SCANS> scan;
    __shared__ typename scan::TempStorage storage;
    const int64_t stretch = (length + COUNT_THREADS - 1) / COUNT_THREADS;
    const int64_t begin = min(length, (int64_t)threadIdx.x * stretch);
    const int64_t end = min(length, begin + stretch);
    int64_t sum = 0;
#pragma unroll 8
    for (int64_t i = begin; i < end; i++)
        sum += value[i];
    scan(storage).ExclusiveSum(sum, sum);
    for (int64_t i = begin; i < end; i++) {
        const int64_t own = value[i];
        value[i] = sum;
        sum += own;
    }
    __syncthreads();
}

static __global__ void __launch_bounds__(COUNT_THREADS) scan_chunks(const struct list_work work)
{
    scan_array(work.kept, work.chunks);
    scan_array(work.count, (int64_t)COSTS * work.chunks);
}

/* A CTA a chunk, a thread an item. */
static __global__ void __launch_bounds__(THREADS) place_items(const struct list_work work)
{
    typedef cub::BlockScan<int64_t, THREADS, cub::BLOCK_SCAN_WARP_SCANS> scan;
    __shared__ typename scan::TempStorage storage;
    enum { COUNTS = COSTS + 1 }; /* the last is for threads without an item */
    __shared__ int32_t count[WARPS * COUNTS];
    const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int64_t item = (int64_t)blockIdx.x * CHUNK + threadIdx.x;
    const bool row = item < work.rows;
    for (int32_t i = threadIdx.x; i < WARPS * COUNTS; i += THREADS)
        count[i] = 0;
    int64_t end = row ? work.list.row_ptr[item + 1] : 0;
    scan(storage).InclusiveSum(end, end);
    if (row)
        work.list.row_ptr[item + 1] = work.kept[blockIdx.x] + end;
    if (item == 0) {
        work.list.row_ptr[0] = 0;
        *work.list.counter = 0;
    }
    __syncthreads();

    const int32_t cost = item < work.items ? work.cost[item] : COSTS;
    const uint32_t same = __match_any_sync(ALL_LANES, cost);
    int32_t before = __popc(same & ((1u << lane) - 1));
    if (before == 0)
        count[warp * COUNTS + cost] = __popc(same);
    __syncthreads();
    for (int32_t i = 0; i < warp; i++)
        before += count[i * COUNTS + cost];
    if (item < work.items)
        work.list.queue[work.count[(int64_t)cost * work.chunks + blockIdx.x] + before] =
            (int32_t)item;
}

static __device__ void write_stats(const struct list_cuda *list, int64_t head, int64_t kept)
{
    const int64_t pairs = (int64_t)list->shape.query_blocks * list->shape.key_blocks;
    const float error = kept == pairs ? 0.0f : NAN;
    list->heads[head] = {(float)((double)kept / (double)pairs), error, error, 0};
}

/* A warp a row; the first row of a head writes its stats. */
static __global__ void __launch_bounds__(THREADS) write_rows(const struct list_work work)
{
    const int64_t row = warp_row(), *row_ptr = work.list.row_ptr;
    const int32_t lane = threadIdx.x % 32, query_blocks = work.list.shape.query_blocks;
    if (row >= work.rows)
        return;
    if (row % query_blocks == 0 && lane == 0)
        write_stats(&work.list, row / query_blocks, row_ptr[row + query_blocks] - row_ptr[row]);

    const uint32_t *kept = work.list.kept + row * work.words;
    int32_t *out = work.list.block_idx + row_ptr[row];
    for (int32_t first = 0; first < work.words; first += 32) {
        const uint32_t mine = first + lane < work.words ? kept[first + lane] : 0;
        for (int32_t i = 0; i < min(work.words - first, 32); i++) {
            const uint32_t bits = __shfl_sync(ALL_LANES, mine, i);
            if (bits >> lane & 1)
                out[__popc(bits & ((1u << lane) - 1))] = (first + i) * 32 + lane;
            out += __popc(bits);
        }
    }
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
    size_t cost = take_bytes(&at, (size_t)work.items);
    size_t kept = take_bytes(&at, (size_t)work.chunks * sizeof(*work.kept));
    size_t count = take_bytes(&at, (size_t)work.chunks * COSTS * sizeof(*work.count));
    work.size = at;
    if (base) {
        work.cost = (uint8_t *)(base + cost);
        work.kept = (int64_t *)(base + kept);
        work.count = (int64_t *)(base + count);
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
    count_items<<<(unsigned)work.chunks, COUNT_THREADS, 0, stream>>>(work);
    scan_chunks<<<1, COUNT_THREADS, 0, stream>>>(work);
    place_items<<<(unsigned)work.chunks, THREADS, 0, stream>>>(work);
    write_rows<<<grid_of(work.rows, WARPS), THREADS, 0, stream>>>(work);
    return cudaGetLastError();
}
