/*
 * Statistics of a head, and whether it is corrected: repair_rules.h on what repair_fit.cu and
 * repair_solve.cu have found. By the block of threads that ends a head's fit, or by one of its own
 * where there is none.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_REPAIR_JUDGE_CUH
#define DRAFTATTN_KERNELS_CUDA_REPAIR_JUDGE_CUH

#include "repair_cuda.cuh"

/* Leverages are float32 sums of up to 1: less than this of what they leave is rounding. */
#define LEVERAGE_ROUNDING 1e-5

/* NaN in either stays NaN: it must not read as no error. */
static __device__ inline float relative_error(double error, double norm)
{
    if (error > 0 && norm == 0)
        return INFINITY;
    return error == 0 ? 0 : (float)sqrt(error / norm);
}

/* What rows would have lost and gained had the fit not seen them, in the thread's share. False
 * where rounding has eaten a leverage. Other blocks have just written most of it. */
static __device__ inline bool add_unseen(const struct fit_arrays &arrays, int32_t head,
                                         int32_t head_dim, double rows, double *unseen,
                                         double *gain, double *gain_squares)
{
    int32_t columns = head_dim / FIT_BLOCK;
    const float *leverage = arrays.leverage + (int64_t)head * arrays.rows;
    const float *left = arrays.left + (int64_t)head * columns * arrays.rows;
    const float *before = arrays.before + (int64_t)head * columns * arrays.rows;
    const float *counted = arrays.counted + (int64_t)head * arrays.rows;
    bool sound = true;
    for (int32_t row = threadIdx.x; row < arrays.rows; row += blockDim.x) {
        double leverage_left = 1 - 1 / rows - __ldcg(leverage + row), lost = 0, whole = 0;
        if (counted[row] == 0)
            continue;
#pragma unroll /* for all loads to be under way at once */
        for (int32_t i = 0; i < MAX_SLICES / 2; i++) {
            lost += i < columns ? __ldcg(left + i * arrays.rows + row) : 0;
            whole += i < columns ? before[i * arrays.rows + row] : 0;
        }
        sound = sound && leverage_left > LEVERAGE_ROUNDING;
        lost /= leverage_left * leverage_left;
        *unseen += lost;
        *gain += whole - lost;
        *gain_squares += (whole - lost) * (whole - lost);
    }
    return sound;
}

/* By all threads; room holds a number per warp. fitted: leverage and left are there. */
static __device__ inline void judge_head(const struct repair_cuda &repair,
                                         const struct fit_arrays &arrays, int32_t head, bool fitted,
                                         double *room)
{
    const struct shape_cuda &shape = repair.shape;
    draftattn_head_stats *stats = repair.heads + head;
    if (head_is_full(repair, head))
        return;
    struct head_sums sums = sums_of(arrays, head);
    float before = relative_error(sums.error, sums.norm), after = before;
    bool repaired = false;
    if (fitted) {
        double unseen = 0, gain = 0, gain_squares = 0;
        bool sound =
            add_unseen(arrays, head, shape.head_dim, sums.rows, &unseen, &gain, &gain_squares);
        sound = __syncthreads_and(sound);
        unseen = block_sum(unseen, room);
        gain = block_sum(gain, room);
        gain_squares = block_sum(gain_squares, room);
        double spread = sqrt(fmax(gain_squares - gain * gain / sums.rows, 0.0));
        double gained = sums.error - unseen;
        repaired = sound && isfinite(unseen) && isfinite(gain_squares) &&
                   gained > MIN_GAIN * sums.error && gained > MIN_SPREADS * spread;
        /* The unseen error holds for the rows that are not probes; those are delivered exactly. */
        double share = 1 - (double)shape.probes / (double)shape.video_tokens;
        if (repaired)
            after = relative_error(unseen * share, sums.norm);
    }
    if (threadIdx.x == 0) {
        stats->error = after;
        stats->error_before = before;
        stats->repaired = repaired;
    }
}

#endif
