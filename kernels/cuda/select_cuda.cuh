/*
 * What the files of selection share on the device: what is known of a head's cut, keys, histograms,
 * rows that are read once more. select.cu takes rows and launches all, select_rest.cu takes what
 * they left, select_budget.cu shares the budgets of heads out.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_SELECT_CUDA_CUH
#define DRAFTATTN_KERNELS_CUDA_SELECT_CUDA_CUH

#include "last_cta.cuh"
#include "stages_cuda.h"

#include <cub/block/block_scan.cuh>

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    DIGIT_BITS = 11,
    BINS = 1 << DIGIT_BITS,
    LAST_PASS = 2,
    BIN_SHIFT = 17, /* 64 bins of take_rows an octave */
    COUNT_ROWS = 2, /* rows a warp reads once more in turn: fewer histograms to flush */
    LOADS = 16      /* scores a lane has under way then */
};

static const uint32_t ALL_LANES = 0xffffffffu;
/* Keys of 2^-31 and 2: bins of take_rows, BINS in all, lie between them. */
static const uint32_t BINS_BEGIN = 0xb0000000u, BINS_END = BINS_BEGIN + (BINS << BIN_SHIFT);
static const uint32_t KEY_OF_0 = 0x80000000u; /* those of scores below 0 are below it */
/* Keys of scores: from minus infinity on, infinity is the last. */
static const uint32_t KEYS_BEGIN = 0x007fffffu, KEYS_END = 0xff800001u;

/* What is known of the cut of a head. */
struct head_cut {
    int64_t share;      /* with spread: what every row takes first, */
    int64_t rest;       /* and what is left of the head's budget then */
    int64_t above;      /* with spread: entries that rank above all those with the prefix */
    uint32_t prefix;    /* with spread: the digits found so far, in place */
    uint32_t low, high; /* the cut is in [low, high), */
    int64_t missing;    /* the last of so many there; 0 = all of the budget is taken */
    uint32_t unbinned;  /* rows left entries from BINS_END on, which are in no bin */
    uint32_t listed;    /* entries found in [low, high): the list may be shorter */
    uint32_t done[2];   /* CTAs of take_rows and take_rest */
};

/* Everything a kernel needs, by value. */
struct select_work {
    struct select_cuda select;
    int64_t rows, columns;         /* of the video */
    int64_t share, rest;           /* without spread: of every head */
    int32_t words;                 /* of a row of kept bits */
    int32_t rows_per_cta;          /* of take_rows */
    bool aligned;                  /* rows of the map begin at multiples of 16 bytes */
    bool cuts;                     /* rows leave something that may be taken */
    unsigned long long *histogram; /* [heads][BINS] */
    struct head_cut *cut;          /* [heads] */
    uint32_t *bound;               /* [heads][rows] no key that a row left is above it */
    unsigned long long *list;      /* [heads][room] keys, then places, the first highest */
    uint32_t room;
    size_t cleared, size; /* bytes of scratch that begin as 0, and in all */
};

/* Digit 0, 1 or 2 of a key, from the top, and the digits above it. */
struct digit {
    uint32_t above; /* mask of those */
    uint32_t shift, mask;
};

static inline __host__ __device__ struct digit digit_of(int32_t pass)
{
    struct digit digit = {0, 32 - DIGIT_BITS, BINS - 1};
    if (pass > 0) {
        digit.shift = pass == LAST_PASS ? 0 : 32 - 2 * DIGIT_BITS;
        digit.above = ALL_LANES << (digit.shift + (pass == LAST_PASS ? 10 : DIGIT_BITS));
        digit.mask = ~digit.above >> digit.shift;
    }
    return digit;
}

static inline __host__ __device__ int64_t clip(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* What every row takes first of a head's budget. */
static inline __host__ __device__ int64_t share_of(const struct select_work *work, int64_t budget)
{
    double share = floor(work->select.row_floor * (double)budget / (double)work->rows);
    return clip((int64_t)share, 1, work->columns);
}

/* A CTA's head, and the row of the warps of number index in it; see grid_of(). */
struct place {
    int64_t head, row;
};

static inline __device__ struct place place_of(int64_t rows, uint32_t rows_per_cta, uint32_t index)
{
    const uint32_t chunks = ((uint32_t)rows + rows_per_cta - 1) / rows_per_cta;
    const uint32_t head = blockIdx.x / chunks, chunk = blockIdx.x - head * chunks;
    return {head, (int64_t)chunk * rows_per_cta + index};
}

/* Order of floats as integers, never 0; 0 and -0 are one. */
static inline __device__ uint32_t score_key(float score)
{
    const uint32_t bits = __float_as_uint(score + 0.0f);
    return bits ^ ((uint32_t)((int32_t)bits >> 31) | KEY_OF_0);
}

/* The other way round; NaN from KEYS_END on. */
static inline __device__ float key_score(uint32_t key)
{
    return __uint_as_float(key & KEY_OF_0 ? key ^ KEY_OF_0 : ~key);
}

/* Bits [begin, end) of a row, as far as they lie in this word. */
static inline __device__ uint32_t span_bits(int32_t begin, int32_t end, int32_t word)
{
    const int32_t from = min(max(begin - 32 * word, 0), 32), to = min(max(end - 32 * word, 0), 32);
    return __funnelshift_rc(ALL_LANES, 0, 32 - to) & ~__funnelshift_rc(ALL_LANES, 0, 32 - from);
}

static inline __device__ uint32_t lower_lanes(void)
{
    return (1u << threadIdx.x % 32) - 1;
}

static inline __device__ uint32_t *kept_row(const struct select_work *work, int64_t head,
                                            int64_t row)
{
    return work->select.kept + (head * work->select.shape.query_blocks + row) * work->words;
}

static inline __device__ const float *map_row(const struct select_work *work, int64_t head,
                                              int64_t row)
{
    return work->select.map + (head * work->rows + row) * work->columns;
}

/* ---- histograms ------------------------------------------------------------------------------ */

static inline __device__ void clear_bins(uint32_t *bins)
{
    for (int32_t i = threadIdx.x; i < BINS; i += (int32_t)blockDim.x)
        bins[i] = 0;
    __syncthreads();
}

static inline __device__ void flush_bins(const uint32_t *bins, unsigned long long *histogram)
{
    __syncthreads();
    for (int32_t i = threadIdx.x; i < BINS; i += THREADS)
        if (bins[i] > 0)
            atomicAdd(histogram + i, (unsigned long long)bins[i]);
}

/* The largest bin from which on there are wanted, how many above it, how many in it. bin -1: there
 * are fewer, all of them above. */
struct bin_cut {
    int32_t bin;
    int64_t above, inside;
};

/* By all N threads of a CTA. Not through the L1 cache: other CTAs may have added to the bins. */
template <int N, class T>
static inline __device__ struct bin_cut find_bin(const T *bins, int64_t wanted)
{
    enum { EACH = BINS / N };
    typedef cub::BlockScan<int64_t, N, cub::BLOCK_SCAN_WARP_SCANS> scan;
    __shared__ typename scan::TempStorage storage;
    __shared__ struct bin_cut found;
    const int32_t first = BINS - 1 - EACH * (int32_t)threadIdx.x;
    int64_t inside[EACH], sum = 0, above;
#pragma unroll
    for (int32_t i = 0; i < EACH; i++) {
        inside[i] = (int64_t)((const volatile T *)bins)[first - i];
        sum += inside[i];
    }
    scan(storage).ExclusiveSum(sum, above);
    if (threadIdx.x == N - 1 && above + sum < wanted)
        found = {-1, above + sum, 0};
#pragma unroll
    for (int32_t i = 0; i < EACH; i++) {
        if (above < wanted && wanted <= above + inside[i])
            found = {first - i, above, inside[i]};
        above += inside[i];
    }
    __syncthreads();
    const struct bin_cut cut = found;
    __syncthreads(); /* the next call may write found */
    return cut;
}

/* ---- rows anew ------------------------------------------------------------------------------- */

/* Keys of LOADS words of a row from column on; 0 beyond its end, where the last score is loaded: a
 * load that may not be would have a predicate, and there are seven. */
static inline __device__ void load_keys(const float *row, int64_t columns, int64_t column,
                                        uint32_t *key)
{
    const float *score = row + column;
    const int32_t end = (int32_t)(columns - column);
#pragma unroll
    for (int32_t i = 0; i < LOADS; i++)
        key[i] = __float_as_uint(__ldg(score + min(32 * i, end - 1)));
#pragma unroll
    for (int32_t i = 0; i < LOADS; i++)
        key[i] = 32 * i < end ? score_key(__uint_as_float(key[i])) : 0;
}

/* The word of this lane, of those LOADS from column on. */
static inline __device__ uint32_t load_kept(const struct select_work *work, const uint32_t *kept,
                                            int64_t column)
{
    const int64_t word = column / 32 + threadIdx.x % 32;
    return threadIdx.x % 32 < LOADS && word < work->words ? kept[word] : 0;
}

/* One more digit of a row's keys that begin with prefix and are not kept; kept NULL: of all. */
static inline __device__ void count_row(const struct select_work *work, const float *row,
                                        const uint32_t *kept, struct digit digit, uint32_t prefix,
                                        uint32_t *bins)
{
    const int32_t lane = threadIdx.x % 32;
    for (int64_t column = 0; column < work->columns; column += 32 * LOADS) {
        const uint32_t taken = kept ? load_kept(work, kept, column) : 0;
        uint32_t key[LOADS];
        load_keys(row, work->columns, column + lane, key);
#pragma unroll
        for (int32_t i = 0; i < LOADS; i++) {
            const uint32_t word = __shfl_sync(ALL_LANES, taken, i);
            if (key[i] > 0 && (key[i] & digit.above) == prefix && !(word >> lane & 1))
                atomicAdd(bins + (key[i] >> digit.shift & digit.mask), 1u);
        }
    }
}

/* CTAs of one head after the other; see place_of(). */
static inline unsigned grid_of(const struct select_work *work, int64_t rows, int64_t rows_per_cta)
{
    return (unsigned)(work->select.shape.heads * ((rows + rows_per_cta - 1) / rows_per_cta));
}

/* Of select_budget.cu: share and rest of every head. */
void select_budgets(const struct select_work *work, cudaStream_t stream);

/* Of select_rest.cu: what rows left of every head's budget. */
void select_rest(const struct select_work *work, cudaStream_t stream);

#endif
