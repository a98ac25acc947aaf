/*
 * The contract between the CPU stages and the attention micro-kernels: one tile of query rows
 * against a list of key panels, in one online softmax.
 *
 * A panel is up to PANEL_KEYS rows of keys and of values, read where they lie: in the caller's
 * tensors in any order, or among the block means. Exact blocks and the means of skipped blocks are
 * both panels, which is why compensation costs no code here, and a panel costs what its keys cost.
 */
#ifndef DRAFTATTN_KERNELS_CPU_ATTEND_H
#define DRAFTATTN_KERNELS_CPU_ATTEND_H

#include "rows_cpu.h"

#define ATTEND_PANEL_KEYS 64
#define ATTEND_MAX_ROWS   128

struct attend_panel {
    const float *k, *v;   /* rows of head_dim floats, one behind the other */
    const int64_t *place; /* [keys] which rows; NULL = 0 .. keys - 1 */
    const float *bias; /* [keys] added to the base-2 logits: -INFINITY closes a key, log2(n) makes
                             a block mean weigh as n tokens; or NULL */
    int32_t keys;      /* 1 .. ATTEND_PANEL_KEYS */
};

struct attend_tile {
    const struct rows *q, *o; /* o: normalised; 0 where a row sees nothing */
    int64_t q_begin, o_begin; /* positions of the first row */
    int32_t rows;             /* 1 .. ATTEND_MAX_ROWS */
    bool stream;              /* o will not be found in a cache: write it past them */
    float scale;              /* of the base-2 logits: softmax_scale * log2(e) */
    /* Query rows of the tile that the thread will probably be at next: asked for meanwhile. NULL =
     * none. */
    const struct rows *q_ahead;
    int64_t ahead_begin;
    int32_t ahead_rows;
    float *lse; /* [rows] natural logarithm, -INFINITY where a row sees nothing; may be NULL */
    const struct attend_panel *panels;
    int64_t panel_count; /* may be 0 */
    float *scratch;      /* attend_scratch_floats() floats, one per thread */
};

/* Deterministic: the result depends on the tile alone. */
typedef void (*attend_fn)(const struct attend_tile *tile);

/* Floats of scratch that a micro-kernel may use: queries, weights and accumulators of a tile. */
static inline int64_t attend_scratch_floats(int32_t head_dim)
{
    return (int64_t)ATTEND_MAX_ROWS * (ATTEND_PANEL_KEYS + 2 * head_dim);
}

#endif
