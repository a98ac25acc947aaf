/*
 * What a run leaves in the caller's workspace: a header that tells whose it is, stats, the block
 * list. All of it is host memory here; a backend with memory of its own keeps its part in scratch.
 */
#ifndef DRAFTATTN_WORKSPACE_H
#define DRAFTATTN_WORKSPACE_H

#include "plan.h"

struct workspace_header {
    uint64_t magic; /* WORKSPACE_MAGIC once a run has finished */
    const draftattn_plan *plan;
    int64_t made; /* the plan's: a later plan may lie where an earlier one lay */
    draftattn_stats stats;
};

/* Big enough and aligned, or INVALID_ARGUMENT. */
draftattn_status workspace_check(const draftattn_plan *plan, const void *workspace, size_t size);

/* From here to workspace_finish() there is nothing to be read. */
void workspace_invalidate(const draftattn_plan *plan, void *workspace);
void workspace_finish(const draftattn_plan *plan, void *workspace, const draftattn_stats *stats);

draftattn_block_list workspace_list(const draftattn_plan *plan, const void *workspace);
draftattn_head_stats *workspace_heads(const draftattn_plan *plan, const void *workspace);
float *workspace_map(const draftattn_plan *plan, void *workspace);
uint8_t *workspace_keep(const draftattn_plan *plan, void *workspace);
int64_t *workspace_select(const draftattn_plan *plan, void *workspace);
void *workspace_scratch(const draftattn_plan *plan, void *workspace);

#endif
