/*
 * The way out of every attention kernel: sums become rows of o (any type, any strides, at
 * order[position]) or of exact, and their denominators lse. For tensor-core accumulators, 16 rows a
 * warp in the layout that mma.sync and wgmma share, and for single elements.
 *
 * Four lanes hold a row, two columns of every eight each. Types of two bytes go through a transpose
 * of 4 x 4 words among them and leave as 16 bytes a lane; floats leave as 8, whole sectors both.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_ATTEND_EPILOGUE_CUH
#define DRAFTATTN_KERNELS_CUDA_ATTEND_EPILOGUE_CUH

#include "attend_item.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <type_traits>

/* Rounded to T, low in the lower half. */
template <typename T> DEVICE uint32_t pack_pair(float low, float high)
{
    uint32_t both;
    if constexpr (std::is_same_v<T, __half>)
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    else
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

/* A row on its way out; data NULL = there is no such row. */
struct row_out {
    char *data;
    float *lse;     /* NULL = not wanted */
    int64_t stride; /* in elements, of head_dim */
    draftattn_dtype dtype;
    bool vectors;
};

DEVICE struct row_out row_out_of(const struct attend_args &args, const struct attend_item &item,
                                 int32_t row)
{
    const struct attend_cuda &attend = args.attend;
    const struct shape_cuda &shape = attend.shape;
    const draftattn_tensor &o = attend.o, &lse = attend.lse;
    struct row_out out = {};

    if (row >= item.rows)
        return out;
    if (item.probe) {
        const int64_t place = (int64_t)item.head * shape.probes + item.first + row;
        out.data = (char *)(attend.exact + place * shape.head_dim);
        out.stride = 1;
        out.dtype = DRAFTATTN_F32;
        out.vectors = args.vectors_exact;
        return out;
    }
    const int64_t entry = item.head / shape.entry_heads, head = item.head % shape.entry_heads;
    const int64_t position = item.first + row;
    const int64_t token = shape.order ? shape.order[position] : position;
    const int64_t offset = entry * o.stride[0] + head * o.stride[1] + token * o.stride[2];
    out.data = (char *)o.data + offset * (o.dtype == DRAFTATTN_F32 ? 4 : 2);
    out.stride = o.stride[3];
    out.dtype = o.dtype;
    out.vectors = args.vectors_o;
    if (lse.data)
        out.lse = (float *)lse.data + entry * lse.stride[0] + head * lse.stride[1] +
                  token * lse.stride[2];
    return out;
}

DEVICE uint16_t half_bits_of(draftattn_dtype dtype, float value)
{
    return dtype == DRAFTATTN_F16 ? __half_as_ushort(__float2half_rn(value))
                                  : __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

DEVICE uint32_t half_pair_of(draftattn_dtype dtype, float low, float high)
{
    return half_bits_of(dtype, low) | (uint32_t)half_bits_of(dtype, high) << 16;
}

DEVICE void store_element(const struct row_out &out, int32_t d, float value)
{
    if (out.dtype == DRAFTATTN_F32)
        ((float *)out.data)[d * out.stride] = value;
    else
        ((uint16_t *)out.data)[d * out.stride] = half_bits_of(out.dtype, value);
}

/* sum over the row's keys of 2^(logit - base), in base-2 logits; 0 = the row sees nothing. */
DEVICE float natural_lse(float base, float sum)
{
    return sum == 0 ? -INFINITY : fmaf(base, 0.69314718056f, logf(sum));
}

/* words[u] of lane t of four becomes words[t] of lane u. */
DEVICE void transpose_quad(uint32_t (&words)[4])
{
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
    uint32_t a = __shfl_xor_sync(0xffffffff, odd ? words[0] : words[1], 1);
    uint32_t b = __shfl_xor_sync(0xffffffff, odd ? words[2] : words[3], 1);
    words[0] = odd ? a : words[0];
    words[1] = odd ? words[1] : a;
    words[2] = odd ? b : words[2];
    words[3] = odd ? words[3] : b;
    a = __shfl_xor_sync(0xffffffff, high ? words[0] : words[2], 2);
    b = __shfl_xor_sync(0xffffffff, high ? words[1] : words[3], 2);
    words[0] = high ? a : words[0];
    words[2] = high ? words[2] : a;
    words[1] = high ? b : words[1];
    words[3] = high ? words[3] : b;
}

/* A row of four lanes: columns 8 j + 2 (lane % 4) from value[2 j] on. All lanes of a warp call. */
template <int D> DEVICE void store_row(const struct row_out &out, const float (&value)[D / 4])
{
    const int quarter = threadIdx.x & 3;

#pragma unroll
    for (int j = 0; j < D / 8; j += 4) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            words[i] = half_pair_of(out.dtype, value[2 * (j + i)], value[2 * (j + i) + 1]);
        }
        transpose_quad(words);
        if (out.data && out.vectors && out.dtype != DRAFTATTN_F32) {
            *(uint4 *)(out.data + (j + quarter) * 16) =
                make_uint4(words[0], words[1], words[2], words[3]);
            continue;
        }
#pragma unroll
        for (int i = j; out.data && i < j + 4; i++) {
            const int d = 8 * i + 2 * quarter;
            if (out.vectors) {
                *(float2 *)(out.data + d * 4) = make_float2(value[2 * i], value[2 * i + 1]);
            } else {
                store_element(out, d, value[2 * i]);
                store_element(out, d + 1, value[2 * i + 1]);
            }
        }
    }
}

/*
 * Rows `row` and `row` + 8 of the item, as this lane holds them: o[4 j + e] is column
 * 8 j + 2 (lane % 4) + e % 2 of row + 8 (e / 2). base and sum, of either row, as natural_lse() has
 * them; o is divided by sum. All lanes of a warp call it, also where there are no such rows.
 */
template <int D>
DEVICE void deliver_rows(const struct attend_args &args, const struct attend_item &item,
                         int32_t row, const float (&o)[D / 2], const float (&base)[2],
                         const float (&sum)[2])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const struct row_out out = row_out_of(args, item, row + 8 * half);
        const float inverse = sum[half] == 0 ? 0 : 1 / sum[half];
        float value[D / 4];
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            value[2 * j] = o[4 * j + 2 * half] * inverse;
            value[2 * j + 1] = o[4 * j + 2 * half + 1] * inverse;
        }
        store_row<D>(out, value);
        if (out.lse && (threadIdx.x & 3) == 0)
            *out.lse = natural_lse(base[half], sum[half]);
    }
}

#endif
