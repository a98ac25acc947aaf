/*
 * Owns the budgets of heads that share one (head_spread): as select_share() of src/select.c has it.
 *
 * The idea: the cut that the heads of a batch entry have in common, in three digits of 11, 11 and
 * 10 bits. Histograms by many CTAs (count_digit); between them choose_digit clips what every head
 * has from a digit on and adds it up. What is missing at the cut goes to the heads in order.
 *
 * Bounds: the map is read three times.
 *
 * Ladder: in select.cu, whose v1 this is
 */
#include "select_cuda.cuh"

enum { CHOOSE_THREADS = BINS / 2 /* each has two bins */ };

/* One more digit of all keys of a head that begin with its prefix. */
static __global__ void __launch_bounds__(THREADS)
    count_digit(const struct select_work work, const struct digit digit)
{
    __shared__ uint32_t bins[BINS];
    const struct place place = place_of(work.rows, WARPS * COUNT_ROWS, threadIdx.x / 32);
    const int64_t head = place.head;
    clear_bins(bins);
    for (int32_t turn = 0; turn < COUNT_ROWS; turn++) {
        const int64_t row = place.row + turn * WARPS;
        if (row < work.rows)
            count_row(&work, map_row(&work, head, row), NULL, digit, work.cut[head].prefix, bins);
    }
    flush_bins(bins, work.histogram + head * BINS);
}

/* Budgets of the heads of a batch entry, from first on, by the clipped counts above and at the
 * common cut: what is missing goes to the heads in order. */
static __device__ void deal_budgets(const struct select_work *work, int64_t first, uint32_t chosen)
{
    const int64_t low = work->select.low, high = work->select.high;
    const int32_t heads = work->select.shape.entry_heads;
    struct head_cut *cut = work->cut + first;
    int64_t missing = heads * work->select.mean;
    for (int32_t i = 0; i < heads; i++)
        missing -= clip(cut[i].above, low, high);
    for (int32_t i = 0; i < heads; i++) {
        const int64_t reached = (int64_t)work->histogram[(first + i) * BINS + chosen];
        const int64_t base = clip(cut[i].above, low, high);
        const int64_t extra = clip(missing, 0, clip(reached, low, high) - base);
        missing -= extra;
        cut[i].share = share_of(work, base + extra);
        cut[i].rest = clip(base + extra - work->rows * cut[i].share, 0, INT64_MAX);
    }
}

/*
 * A CTA a batch entry: the largest digit from which on its heads reach their total, from the
 * histograms, which it leaves empty. Thread t has bins BINS - 1 - 2t and the one below, so that a
 * scan over the threads counts from the top.
 */
static __global__ void __launch_bounds__(CHOOSE_THREADS)
    choose_digit(const struct select_work work, int32_t pass)
{
    typedef cub::BlockScan<unsigned long long, CHOOSE_THREADS, cub::BLOCK_SCAN_WARP_SCANS> scan;
    __shared__ typename scan::TempStorage storage;
    const struct select_cuda *select = &work.select;
    const int32_t heads = select->shape.entry_heads;
    const int64_t first = (int64_t)blockIdx.x * heads, total = heads * select->mean;
    const int32_t upper = BINS - 1 - 2 * (int32_t)threadIdx.x;
    int64_t reached[2] = {0, 0};
    for (int32_t i = 0; i < heads; i++) {
        unsigned long long *bins = work.histogram + (first + i) * BINS, sum;
        const unsigned long long at_upper = bins[upper], at_lower = bins[upper - 1];
        scan(storage).InclusiveSum(at_upper + at_lower, sum);
        __syncthreads();
        sum += (unsigned long long)work.cut[first + i].above;
        bins[upper - 1] = sum; /* from here on: entries from this digit on */
        bins[upper] = sum - at_lower;
        reached[0] += clip((int64_t)(sum - at_lower), select->low, select->high);
        reached[1] += clip((int64_t)sum, select->low, select->high);
    }
    int32_t beyond = __syncthreads_count(reached[0] < total);
    beyond += __syncthreads_count(reached[1] < total);
    const uint32_t chosen = beyond < BINS ? BINS - 1 - beyond : 0;

    for (int32_t i = threadIdx.x; i < heads; i += CHOOSE_THREADS) {
        struct head_cut *cut = work.cut + first + i;
        if (chosen < BINS - 1)
            cut->above = (int64_t)work.histogram[(first + i) * BINS + chosen + 1];
        cut->prefix |= chosen << digit_of(pass).shift;
    }
    __syncthreads();
    if (pass == LAST_PASS && threadIdx.x == 0)
        deal_budgets(&work, first, chosen);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < (int64_t)heads * BINS; i += CHOOSE_THREADS)
        work.histogram[first * BINS + i] = 0;
}

void select_budgets(const struct select_work *work, cudaStream_t stream)
{
    const unsigned entries = (unsigned)(work->select.shape.heads / work->select.shape.entry_heads);
    const unsigned grid = grid_of(work, work->rows, WARPS * COUNT_ROWS);
    for (int32_t pass = 0; pass <= LAST_PASS; pass++) {
        count_digit<<<grid, THREADS, 0, stream>>>(*work, digit_of(pass));
        choose_digit<<<entries, CHOOSE_THREADS, 0, stream>>>(*work, pass);
    }
}
