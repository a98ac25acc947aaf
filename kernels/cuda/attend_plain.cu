/*
 * Attention over block lists in float32 throughout, on any device from sm_80 on: what F32 tensors
 * get, and the plainest statement of the contract. It refuses nothing: the launch is trusted.
 *
 * A CTA takes an item of the queue, 128 query rows; two neighbouring lanes share a row, each with
 * half of its q and o in registers. Keys and values come in tiles of KEYS rows through shared
 * memory, where all rows read the same element at the same time. A list entry is cut into tiles,
 * block means follow as further ones, with bias and kept bits. One online softmax over all.
 *
 * Bound by shared memory: each 16 bytes read feed 4 multiply-adds a lane.
 *
 * Not timed: it is there to check others by.
 */
#include "attend_epilogue.cuh"

#include <cfloat>

enum {
    KEYS = 16, /* of a tile: divides blocks and the padding of means */
    THREADS = 2 * CUDA_QUERY_BLOCK
};

/* Half a row: chunk c of 4 elements is chunk 2 c + side of the row, so that neighbouring lanes read
 * neighbouring chunks of a key. */
template <int D> struct row_state {
    float4 q[D / 8], o[D / 8]; /* q scaled to base-2 logits */
    float base, sum;
    float lost; /* what the last addition to sum put on too much */
};

DEVICE float dot(float4 a, float4 b, float sum)
{
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

DEVICE void add_scaled(float4 &to, float weight, float4 value)
{
    to.x = fmaf(weight, value.x, to.x);
    to.y = fmaf(weight, value.y, to.y);
    to.z = fmaf(weight, value.z, to.z);
    to.w = fmaf(weight, value.w, to.w);
}

DEVICE void scale_by(float4 &value, float factor)
{
    value.x *= factor;
    value.y *= factor;
    value.z *= factor;
    value.w *= factor;
}

/* Thousands of small weights that follow a large one would each be rounded away, and all to one
 * side: Kahan's sum keeps them. */
template <int D> DEVICE void add_to_sum(struct row_state<D> &row, float tile_sum)
{
    const float added = tile_sum - row.lost, sum = row.sum + added;
    row.lost = sum - row.sum - added;
    row.sum = sum;
}

/* One tile: logits, weights, sums. Key i is open where open >> i & 1; bias NULL = none. */
template <int D>
DEVICE void attend_tile(struct row_state<D> &row, const float4 (*k)[D / 4],
                        const float4 (*v)[D / 4], uint32_t open, const float *bias)
{
    const int side = threadIdx.x & 1;
    float weight[KEYS], top = row.base;

#pragma unroll
    for (int i = 0; i < KEYS; i++) {
        float logit = 0;
#pragma unroll
        for (int c = 0; c < D / 8; c++) {
            logit = dot(row.q[c], k[i][2 * c + side], logit);
        }
        logit += __shfl_xor_sync(0xffffffff, logit, 1);
        /* No logit, however large, may meet the other infinity. */
        logit = at_most_finite(logit) + (bias ? bias[i] : 0.0f);
        weight[i] = open >> i & 1 ? logit : -INFINITY;
        top = fmaxf(top, weight[i]);
    }
    if (top > row.base) {
        const float shrink = exp2f(row.base - top);
        row.base = top;
        row.sum *= shrink;
        row.lost *= shrink;
#pragma unroll
        for (int c = 0; c < D / 8; c++) {
            scale_by(row.o[c], shrink);
        }
    }
    float tile_sum = 0;
#pragma unroll
    for (int i = 0; i < KEYS; i++) {
        weight[i] = exp2f(weight[i] - row.base);
        tile_sum += weight[i];
#pragma unroll
        for (int c = 0; c < D / 8; c++) {
            add_scaled(row.o[c], weight[i], v[i][2 * c + side]);
        }
    }
    add_to_sum(row, tile_sum);
}

/* Rows [0, KEYS) of a tile from memory of any stride; those from count on become zeros. */
template <int D>
DEVICE void load_tile(float4 (*to)[D / 4], const char *from, int64_t stride, int32_t count)
{
    for (int i = threadIdx.x; i < KEYS * D; i += THREADS) {
        const int row = i / D;
        ((float *)to)[i] = row < count ? *(const float *)(from + row * stride + i % D * 4) : 0;
    }
}

/* `keys` rows of k and v, tile by tile. kept: bit of row 0; NULL for exact keys. */
template <int D>
DEVICE void attend_rows(struct row_state<D> &row, float4 (*k)[D / 4], float4 (*v)[D / 4],
                        const char *k_rows, int64_t k_stride, const char *v_rows, int64_t v_stride,
                        int32_t keys, const float *bias, const uint32_t *kept)
{
    for (int32_t first = 0; first < keys; first += KEYS) {
        const int32_t count = min(KEYS, keys - first);
        uint32_t open = (1u << count) - 1;

        __syncthreads(); /* the tile before has been read */
        load_tile<D>(k, k_rows + first * k_stride, k_stride, count);
        load_tile<D>(v, v_rows + first * v_stride, v_stride, count);
        __syncthreads();
        if (kept)
            open &= ~(kept[first / 32] >> (first % 32));
        attend_tile<D>(row, k, v, open, bias ? bias + first : NULL);
    }
}

/* Queries in, all keys, nothing out yet. */
template <int D>
DEVICE void attend_keys(struct row_state<D> &row, const struct attend_args &args,
                        const struct attend_item &item, float4 (*k)[D / 4], float4 (*v)[D / 4])
{
    const struct attend_cuda &attend = args.attend;
    const struct shape_cuda &shape = attend.shape;
    const int side = threadIdx.x & 1, number = threadIdx.x / 2;
    int64_t stride;
    const char *q = query_rows(attend, item, 4, &stride);

    q += number * stride;
    row.base = -FLT_MAX; /* -infinity minus it is one still */
    row.sum = row.lost = 0;
#pragma unroll
    for (int c = 0; c < D / 8; c++) {
        float element[4] = {};
        for (int i = 0; number < item.rows && i < 4; i++) {
            element[i] = ((const float *)q)[8 * c + 4 * side + i] * args.scale_log2;
        }
        row.q[c] = make_float4(element[0], element[1], element[2], element[3]);
        row.o[c] = make_float4(0, 0, 0, 0);
    }
    for (int32_t entry = 0; entry < item.count; entry++) {
        const struct key_range block =
            key_block_range(shape, item.blocks ? item.blocks[entry] : entry);
        attend_rows<D>(row, k, v, row_at(shape, attend.k, 4, item.head, block.first),
                       attend.k.stride_token * 4,
                       row_at(shape, attend.v, 4, item.head, block.first),
                       attend.v.stride_token * 4, block.count, NULL, NULL);
    }
    if (item.kept) {
        const int64_t means = (int64_t)item.head * mean_rows(shape) * D * 4;
        attend_rows<D>(row, k, v, (const char *)attend.low_k + means, D * 4,
                       (const char *)attend.low_v + means, D * 4, shape.key_blocks, attend.bias,
                       item.kept);
    }
}

template <int D>
DEVICE void deliver(const struct row_state<D> &row, const struct attend_args &args,
                    const struct attend_item &item)
{
    const int side = threadIdx.x & 1;
    const struct row_out out = row_out_of(args, item, threadIdx.x / 2);
    const float inverse = row.sum == 0 ? 0 : 1 / row.sum;

    if (!out.data)
        return;
#pragma unroll
    for (int c = 0; c < D / 8; c++) {
        const int d = 8 * c + 4 * side;
        store_element(out, d, row.o[c].x * inverse);
        store_element(out, d + 1, row.o[c].y * inverse);
        store_element(out, d + 2, row.o[c].z * inverse);
        store_element(out, d + 3, row.o[c].w * inverse);
    }
    if (out.lse && side == 0)
        *out.lse = natural_lse(row.base, row.sum);
}

template <int D>
__global__ void __launch_bounds__(THREADS)
    attend_plain(const __grid_constant__ struct attend_args args)
{
    __shared__ float4 k[KEYS][D / 4], v[KEYS][D / 4];
    __shared__ int32_t taken;

    for (;;) {
        struct row_state<D> row;

        __syncthreads(); /* everyone has read what was taken before */
        if (threadIdx.x == 0)
            taken = atomicAdd(args.attend.counter, 1);
        __syncthreads();
        if (taken >= args.attend.items)
            return;
        const struct attend_item item = item_at(args.attend, taken);
        attend_keys<D>(row, args, item, k, v);
        deliver<D>(row, args, item);
    }
}

template <int D> static cudaError_t attend(const struct attend_cuda *attend, cudaStream_t stream)
{
    const struct attend_args args = attend_args_of(attend);
    return attend_launch((const void *)attend_plain<D>, &args, args.attend.items, THREADS, 0,
                         stream);
}

extern "C" const struct cuda_kernel attend_plain_d128_kernel = {80, 999, false, attend<128>, false};
extern "C" const struct cuda_kernel attend_plain_d64_kernel = {80, 999, false, attend<64>, false};
