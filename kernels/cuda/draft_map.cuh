/*
 * What the kernels of the draft map share: a launch as they take it, the softmax of part of a row.
 */
#ifndef DRAFTATTN_KERNELS_CUDA_DRAFT_MAP_CUH
#define DRAFTATTN_KERNELS_CUDA_DRAFT_MAP_CUH

#include "attend_item.cuh"
#include "tf32.cuh"

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
