/*
 * The contract between the CPU stages and the attention micro-kernels: one tile of query rows
 * against a list of packed key panels, in one online softmax.
 *
 * A panel is PANEL_KEYS keys of one head in the layout that the multiply-add loops want:
 *
 *     kt    [head_dim][PANEL_KEYS]   keys transposed, float
 *     v     [PANEL_KEYS][head_dim]   values, float
 *     bias  [PANEL_KEYS] or NULL     added to the base-2 logits: -INFINITY closes a padding slot,
 *                                    log2(n) makes a block mean weigh as n tokens
 *
 * Padding slots hold zeros in kt and v, so that 0 * 0 is all they can add. Exact blocks and the
 * means of skipped blocks are both panels, which is why compensation costs no code here.
 */
#ifndef DRAFTATTN_KERNELS_CPU_ATTEND_H
#define DRAFTATTN_KERNELS_CPU_ATTEND_H

#include <stdint.h>

#define ATTEND_PANEL_KEYS 64
#define ATTEND_MAX_ROWS   128
#define ATTEND_ALIGNMENT  64

struct attend_panel {
    const float *kt;
    const float *v;
    const float *bias;
};

struct attend_tile {
    const float *q; /* [rows][head_dim], already multiplied by softmax_scale * log2(e) */
    float *o;       /* [rows][head_dim], normalised; 0 where a row sees nothing */
    float *lse;     /* [rows] natural logarithm, -INFINITY where a row sees nothing; may be NULL */
    int32_t rows;   /* 1 .. ATTEND_MAX_ROWS */
    const struct attend_panel *panels;
    int64_t panel_count; /* may be 0 */
    float *scratch;      /* attend_scratch_floats() floats, aligned, one per thread */
};

/* Deterministic: the result depends on the tile alone. */
typedef void (*attend_fn)(const struct attend_tile *tile);

/* Floats of scratch that a micro-kernel may use: a tile of weights, accumulators, row state. */
static inline int64_t attend_scratch_floats(int32_t head_dim)
{
    return (int64_t)ATTEND_MAX_ROWS * (ATTEND_PANEL_KEYS + head_dim + 4);
}

#endif
