/*
 * What surrounds the products of attention where logits are stored: their softmax in place, and
 * bfloat16 rows to and from float32. One read finds the largest logit and the sum of a row, a
 * second one, mostly from cache, and a write make weights. Long rows have a CTA, short ones a warp
 * each.
 *
 * A row with a NaN or an infinity among its logits is NaN throughout, as on the CPU: nothing here
 * may hide a broken layer. Bound by memory.
 *
 * Ladder: in attention_cuda.c, which times them with the products.
 */
#include "attention_cuda.h"

#include "elements_cuda.cuh"

#include <cfloat>

enum { THREADS = 256, WARP = 32, SHORT = 1024 /* columns that a warp goes through */ };

/* Weights of what was seen so far are e^(logit - top). */
struct running {
    float top, sum;
};

DEVICE struct running merge(struct running a, struct running b)
{
    const float top = fmaxf(a.top, b.top);
    return {top, a.sum * expf(a.top - top) + b.sum * expf(b.top - top)};
}

DEVICE struct running merge_warp(struct running mine)
{
#pragma unroll
    for (int apart = WARP / 2; apart > 0; apart /= 2)
        mine = merge(mine, {__shfl_xor_sync(0xffffffff, mine.top, apart),
                            __shfl_xor_sync(0xffffffff, mine.sum, apart)});
    return mine;
}

/* All warps of the CTA call it, once. */
DEVICE struct running merge_block(struct running mine)
{
    __shared__ struct running warps[THREADS / WARP];

    mine = merge_warp(mine);
    if (threadIdx.x % WARP == 0)
        warps[threadIdx.x / WARP] = mine;
    __syncthreads();
    mine = warps[0];
    for (int i = 1; i < THREADS / WARP; i++)
        mine = merge(mine, warps[i]);
    return mine;
}

/* Of key j; s and band are those of its row. */
DEVICE float biased(const struct attention_scores &a, const float *s, const float *band, int64_t j)
{
    float logit = s[j];
    if (a.bias)
        logit += band[j];
    if (a.key_bias)
        logit += a.key_bias[j];
    return logit;
}

/* SHARE threads a row. */
template <int SHARE>
__global__ void __launch_bounds__(THREADS) softmax_kernel(const struct attention_scores a)
{
    const int64_t row = (int64_t)blockIdx.x * (THREADS / SHARE) + threadIdx.x / SHARE;
    const int64_t head = row / a.rows, query = row % a.rows;
    const float *band = a.bias + (head * a.bias_stride - query);
    float *s = a.scores + row * a.stride;
    struct running all = {-FLT_MAX, 0}; /* finite: those of two idle threads can be merged */

    if (head >= a.heads)
        return; /* all of a warp; where a row has more, there is no such row */
    for (int64_t j = threadIdx.x % SHARE; j < a.columns; j += SHARE) {
        const float logit = biased(a, s, band, j);
        all = merge(all, {logit, 1});
        all.sum += logit * 0; /* the maximum would swallow a NaN, the exponential an infinity */
    }
    all = SHARE == WARP ? merge_warp(all) : merge_block(all);
    const float inverse = 1 / all.sum;
    for (int64_t j = threadIdx.x % SHARE; j < a.columns; j += SHARE)
        s[j] = expf(biased(a, s, band, j) - all.top) * inverse;
}

void attention_scores_softmax(struct device *device, const struct attention_scores *scores)
{
    const int64_t rows = scores->heads * scores->rows;
    const bool few = scores->columns <= SHORT;
    const int64_t blocks = few ? (rows + THREADS / WARP - 1) / (THREADS / WARP) : rows;

    if (few)
        softmax_kernel<WARP><<<(unsigned)blocks, THREADS, 0, device->stream>>>(*scores);
    else
        softmax_kernel<THREADS><<<(unsigned)blocks, THREADS, 0, device->stream>>>(*scores);
    device_cuda_launched(device, "softmax of attention");
}

__global__ static void widen_kernel(const struct attention_rows a, float *to)
{
    const int64_t total = a.count * a.width, step = (int64_t)gridDim.x * THREADS;

    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < total; i += step)
        to[i] = to_float(((const __nv_bfloat16 *)a.rows)[i / a.width * a.stride + i % a.width]);
}

__global__ static void narrow_kernel(const struct attention_rows a, const float *from, bool add)
{
    const int64_t total = a.count * a.width, step = (int64_t)gridDim.x * THREADS;

    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < total; i += step) {
        __nv_bfloat16 *to = (__nv_bfloat16 *)a.rows + (i / a.width * a.stride + i % a.width);
        store(to, add ? to_float(*to) + rounded<__nv_bfloat16>(from[i]) : from[i]);
    }
}

void attention_rows_widen(struct device *device, const struct attention_rows *rows, float *to)
{
    widen_kernel<<<shared_grid(device, rows->count * rows->width, THREADS), THREADS, 0,
                   device->stream>>>(*rows, to);
    device_cuda_launched(device, "attention");
}

void attention_rows_narrow(struct device *device, const struct attention_rows *rows,
                           const float *from, bool add)
{
    narrow_kernel<<<shared_grid(device, rows->count * rows->width, THREADS), THREADS, 0,
                    device->stream>>>(*rows, from, add);
    device_cuda_launched(device, "attention");
}
