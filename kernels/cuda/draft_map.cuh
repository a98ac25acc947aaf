/*
 * What the kernels of the draft map share: a launch as they take it, the softmax of part of a row,
 * four columns of the map at a time.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_DRAFT_MAP_CUH
#define DRAFTATTN_KERNELS_CUDA_DRAFT_MAP_CUH

#include "attend_item.cuh"

struct map_args {
    const float *mean_q, *mean_k, *spread_k;
    float *map;
    int32_t rows, columns, row_tiles;
    int32_t width, segments;   /* columns of a segment, a multiple of MAP_EVEN */
    float scale, scale_log2;   /* the latter of base-2 logits, as are the next */
    float log_block, log_last; /* log n of a key block, and of the last one */
    bool vectors;              /* four columns of the map lie on 16 bytes */
};

enum { MAP_EVEN = 16 };

/* A row of logits, or a part of it. */
struct softmax_part {
    float largest, sum; /* of 2^(logit - largest); nothing yet: -FLT_MAX, 0 */
};

/* ---- on the device -------------------------------------------------------------------------- */

DEVICE struct softmax_part joined(struct softmax_part a, struct softmax_part b)
{
    const float top = fmaxf(a.largest, b.largest);
    return {top, a.sum * exp2f(a.largest - top) + b.sum * exp2f(b.largest - top)};
}

/* value = big + small to its last bit or the one before: big is the nearest of 11 bits, of small
 * the tensor cores drop what is beyond its first 11. */
DEVICE void split(float value, uint32_t *big, uint32_t *small)
{
    *big = (__float_as_uint(value) + 0x1000) & 0xffffe000;
    *small = __float_as_uint(value - __uint_as_float(*big));
}

/* Four columns, of which `there` exist. */
DEVICE float4 load_four(const struct map_args &args, const float *from, int32_t there)
{
    if (args.vectors)
        return *(const float4 *)from;
    return make_float4(from[0], there > 1 ? from[1] : 0, there > 2 ? from[2] : 0,
                       there > 3 ? from[3] : 0);
}

DEVICE void store_four(const struct map_args &args, float *to, int32_t there, float4 value)
{
    if (args.vectors) {
        *(float4 *)to = value;
        return;
    }
    to[0] = value.x;
    if (there > 1)
        to[1] = value.y;
    if (there > 2)
        to[2] = value.z;
    if (there > 3)
        to[3] = value.w;
}

/* ---- on the host ---------------------------------------------------------------------------- */

/* Segments of at most `most` columns, a multiple of MAP_EVEN, as even as can be. */
static inline void set_segments(struct map_args *args, int32_t most)
{
    const int32_t segments = (args->columns - 1) / most + 1;

    args->width = cuda_round_up((args->columns - 1) / segments + 1, MAP_EVEN);
    args->segments = (args->columns - 1) / args->width + 1;
}

/* Sets row_tiles, width and segments; for devices of compute capability 9.0. */
cudaError_t draft_map_sm90(struct map_args *args, int32_t heads, int32_t head_dim,
                           cudaStream_t stream);

#endif
