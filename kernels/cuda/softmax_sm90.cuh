/*
 * Owns the way from logits to weights in attend_sm90.cu, within the registers that products of a
 * warpgroup leave: which logits count, how much those of block means weigh, the softmax's base.
 *
 * Layout of a warp's m64nN sums: thread t of the warp holds rows t / 4 and t / 4 + 8 of its 16, and
 * of every 8 columns two, from t % 4 * 2 on: sums[4 * g + 2 * h + i] is row h, column
 * 8 * g + .. + i.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_SOFTMAX_SM90_CUH
#define DRAFTATTN_KERNELS_CUDA_SOFTMAX_SM90_CUH

#include "attend_epilogue.cuh"
#include "attend_item.cuh"
#include "hopper.cuh"

#include <math.h>

enum {
    KEYS = 128, /* of a step */
    SLOT = 64   /* keys of it that lie side by side in memory */
};

/* A row's base moves when a logit rises so far above it, in powers of 2: to follow the maximum
 * closely would only cost rescaling. */
constexpr float LAZY = 8;

/* A base beyond it is rounded by 1 and more. That is a factor of all weights of a row, which soon
 * takes them out of what numbers hold. */
constexpr float FAR = 0x1p24f;

/* What is taken off a row's base-2 logits. */
enum base_kind {
    FIXED,     /* the largest of the first step */
    FOLLOWING, /* the largest so far, but for LAZY */
    CAREFUL    /* the same, and right where it is far from 0 */
};

/* ---- which count ---------------------------------------------------------------------------- */

/* Takes out the keys that do not count. valid: those of the first slot | of the second << 8. */
DEVICE void mask_keys(float (&sums)[64], int valid)
{
    int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 64; i++) {
        int slot = i / 32, count = slot ? valid >> 8 : valid & 255;
        if (i / 4 * 8 % SLOT + column + (i & 1) >= count)
            sums[i] = -INFINITY;
    }
}

/* Bits `from` to 31. */
DEVICE uint32_t bits_from(int from)
{
    return __funnelshift_lc(0, ~0u, max(from, 0));
}

/* Two logits, where the bit is set. In one piece, for the compiler would shift each bit down, in
 * three instructions instead of one. */
DEVICE void take_out(float &a, float &b, uint32_t bits, uint32_t bit)
{
    asm("{\n.reg .pred set;\n.reg .b32 x;\nand.b32 x, %2, %3;\nsetp.ne.u32 set, x, 0;\n"
        "selp.f32 %0, 0fff800000, %0, set;\nselp.f32 %1, 0fff800000, %1, set;\n}\n"
        : "+f"(a), "+f"(b)
        : "r"(bits), "r"(bit));
}

/* Takes out the means of kept blocks, and what lies behind the last. words: the step's kept bits;
 * there: means from the step's first to the last of all. The bits of a thread's columns are brought
 * together, a byte for every fourth group of 8 columns, so that predicates are set many at once. */
template <int N> DEVICE void mask_means(float (&sums)[N], uint4 words, int there)
{
    int column = threadIdx.x % 4 * 2;
    if (there < KEYS) {
        words.x |= bits_from(there), words.y |= bits_from(there - 32);
        words.z |= bits_from(there - 64), words.w |= bits_from(there - 96);
    }
    uint32_t pairs = 0x03030303;
    uint32_t out = (words.x >> column & pairs) | (words.y >> column & pairs) << 2 |
                   (words.z >> column & pairs) << 4 | (words.w >> column & pairs) << 6;
#pragma unroll
    for (int j = 0; j < 32; j++) {
        /* Bits 2 i and 2 i + 1 of byte j / 8: of words[i], its columns 8 * (j / 8) on. */
        int g = j % 8 / 2 * 4 + j / 8, i = j % 2;
        if (g < N / 4)
            take_out(sums[4 * g + i], sums[4 * g + 2 + i], out, 1u << j);
    }
}

/* ---- block means ---------------------------------------------------------------------------- */

/* A key block that is short: the last of the video, of all. */
struct cut_block {
    int32_t block; /* INT32_MAX: it is whole */
    float lift;    /* log2 of the part of key_block that it has, as a product of q and k */
};

/* Of the key block, by the host. */
static inline cut_block cut_block_of(const shape_cuda &shape, float scale_log2, int block)
{
    bool video = block < shape.video_key_blocks;
    int first = video ? block * shape.key_block
                      : shape.video_tokens + (block - shape.video_key_blocks) * shape.key_block;
    int keys = (video ? shape.video_tokens : shape.tokens) - first;
    if (keys >= shape.key_block)
        return {INT32_MAX, 0};
    return {block, log2f((float)keys / (float)shape.key_block) / scale_log2};
}

/* Means count as many times as their blocks have keys, and all are taken for whole ones: makes up
 * for it at a short block. begin: the step's first mean. */
template <int N> DEVICE void lift_cut_mean(float (&sums)[N], const cut_block &cut, int begin)
{
    int at = cut.block - begin, column = at % 8 - threadIdx.x % 4 * 2;
    float low = column == 0 ? cut.lift : 0, high = column == 1 ? cut.lift : 0;
    asm("" : "+f"(low), "+f"(high)); /* once, not for every group of 8 columns */
#pragma unroll
    for (int g = 0; g < N / 4; g++) {
        float even = g == at / 8 ? low : 0, odd = g == at / 8 ? high : 0;
        sums[4 * g] += even, sums[4 * g + 1] += odd;
        sums[4 * g + 2] += even, sums[4 * g + 3] += odd;
    }
}

/* ---- softmax -------------------------------------------------------------------------------- */

/* Of a thread's two rows. */
struct softmax_rows {
    float base[2];   /* taken off base-2 logits; -INFINITY: nothing has counted yet */
    float sum[2];    /* of the thread's own columns */
    float shrink[2]; /* of what was gathered, where the base has moved */
    bool moved;
};

/* Whether something has counted, and so far from 0. */
DEVICE bool is_far(float base)
{
    return fabsf(base) > FAR && base != -INFINITY;
}

/* A base-2 logit, rounded twice: as CAREFUL has logits and bases. */
DEVICE float scaled(float sum, float scale, float lift)
{
    return at_most_finite(sum * scale) + lift;
}

/* Largest base-2 logits of the rows, each by its four lanes. */
template <base_kind BASE, int N>
DEVICE void find_largest(const float (&sums)[N], float scale, float lift, float (&top)[2])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float even = fmaxf(sums[2 * h], sums[2 * h + 1]);
        float odd = fmaxf(sums[2 * h + 4], sums[2 * h + 5]);
#pragma unroll
        for (int g = 2; g < N / 4; g += 2) {
            even = fmaxf(even, fmaxf(sums[4 * g + 2 * h], sums[4 * g + 2 * h + 1]));
            odd = fmaxf(odd, fmaxf(sums[4 * g + 2 * h + 4], sums[4 * g + 2 * h + 5]));
        }
        top[h] = fmaxf(even, odd);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 1));
        top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 2));
        top[h] = BASE == CAREFUL ? scaled(top[h], scale, lift) : fmaf(top[h], scale, lift);
    }
}

/* All rows of a warp move together: the branch stays uniform. At a base far from 0, halves may have
 * been infinite where floats were not: then shrinking would leave a sum, but not o, that looks
 * right. So FOLLOWING makes it NaN. */
template <base_kind BASE> DEVICE void move_base(softmax_rows &rows, const float (&top)[2])
{
    rows.moved = __any_sync(~0u, top[0] - rows.base[0] > LAZY || top[1] - rows.base[1] > LAZY);
    if (!rows.moved)
        return;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float old = rows.base[h];
        rows.base[h] = fmaxf(old, top[h]);
        rows.shrink[h] = old == -INFINITY ? 0 : exp2_fast(old - rows.base[h]);
        rows.sum[h] = BASE == FOLLOWING && is_far(old) ? NAN : rows.sum[h] * rows.shrink[h];
    }
}

/* Where a base is far, sums become base-2 logits before it is taken off: their distance is exact
 * then. Scale and lift are what is left to do. All rows of a warp together. */
template <int N>
DEVICE void scale_far(float (&sums)[N], const softmax_rows &rows, float &scale, float &lift)
{
    if (!__any_sync(~0u, is_far(rows.base[0]) || is_far(rows.base[1])))
        return;
#pragma unroll
    for (int i = 0; i < N; i++)
        sums[i] = scaled(sums[i], scale, lift);
    scale = 1;
    lift = 0;
}

/* Logits to weights, in place: 2^(sums scale + lift - base). */
template <base_kind BASE, bool FIRST, int N>
DEVICE void soften(float (&sums)[N], softmax_rows &rows, float scale, float lift)
{
    float top[2];
    rows.moved = false;
    if constexpr (FIRST) {
        find_largest<BASE>(sums, scale, lift, rows.base);
    } else if constexpr (BASE != FIXED) {
        find_largest<BASE>(sums, scale, lift, top);
        move_base<BASE>(rows, top);
    }
    if constexpr (BASE == CAREFUL)
        scale_far(sums, rows, scale, lift);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float even = 0, odd = 0;
        if (FIRST && BASE == FIXED && rows.base[h] == -INFINITY) /* no logit is a float */
            rows.base[h] = NAN;
        float shift = lift - (BASE != FIXED && rows.base[h] == -INFINITY ? 0 : rows.base[h]);
#pragma unroll
        for (int g = 0; g < N / 4; g++) {
            float &a = sums[4 * g + 2 * h], &b = sums[4 * g + 2 * h + 1];
            a = exp2_fast(fmaf(a, scale, shift));
            b = exp2_fast(fmaf(b, scale, shift));
            even += a;
            odd += b;
        }
        rows.sum[h] = FIRST ? even + odd : rows.sum[h] + (even + odd);
    }
}

template <typename T, int N> DEVICE void round_weights(const float (&sums)[N], uint32_t (&p)[32])
{
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        p[i] = pack_pair<T>(sums[2 * i], sums[2 * i + 1]);
}

#endif
