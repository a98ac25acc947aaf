#ifndef DRAFTATTN_PLAN_H
#define DRAFTATTN_PLAN_H

#include "backend.h"
#include "context.h"

#define PLAN_QUERY_BLOCK 128
#define PLAN_MAX_PROBES  1024

/* More than any attention can work through, and every product of two of them fits int64_t. */
#define PLAN_MAX_TOKENS INT32_MAX

/* Offsets into the workspace; the backend's scratch comes last. */
struct plan_layout {
    size_t header;    /* struct workspace_header */
    size_t heads;     /* draftattn_head_stats [heads] */
    size_t row_ptr;   /* int64_t [heads * query_blocks + 1] */
    size_t block_idx; /* int32_t [pairs] */
    size_t map;       /* float [heads, video_query_blocks, video_key_blocks] */
    size_t select;    /* the backend's select_size() bytes */
    size_t scratch;
    size_t size;
};

struct draftattn_plan {
    const struct draftattn_context *context;
    struct problem problem;
    struct plan_layout layout;
    int64_t *order;  /* [tokens]; what draftattn_plan_order() tells */
    int64_t *begins; /* query_begin, then key_begin */
    int32_t *dense_layers;
    int64_t pairs;      /* heads * query_blocks * key_blocks */
    int64_t break_even; /* tokens; see cost.h */
    int64_t made;       /* when, in nanoseconds: tells plans apart that lie in the same place */
};

/* Why a step is dense. */
enum dense_reason {
    DENSE_NOT,
    DENSE_POLICY,
    DENSE_TOKENS,
    DENSE_LAYER,
    DENSE_STEP,
    DENSE_SIGMA,
    DENSE_BREAK_EVEN
};

enum dense_reason plan_dense_reason(const draftattn_plan *plan, const draftattn_step *step);

/* Steps that dense_steps keeps dense: the share rounded to whole steps. */
int32_t plan_dense_step_count(const draftattn_plan *plan, int32_t steps);

/* Checks a description by itself (check.c). */
draftattn_status plan_check(const draftattn_plan_desc *desc);

#endif
