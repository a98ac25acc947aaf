/*
 * What a run leaves in the caller's workspace: a header that tells whose it is, stats, the block
 * list. All of it lies in the backend's memory space, so it is written and read by way of it.
 */
#ifndef DRAFTATTN_WORKSPACE_H
#define DRAFTATTN_WORKSPACE_H

#include "plan.h"

struct workspace_header {
    uint64_t magic; /* WORKSPACE_MAGIC once a run has finished */
    const draftattn_plan *plan;
    int64_t made; /* the plan's: a later plan may lie where an earlier one lay */
    int64_t dense;
    double seconds[DRAFTATTN_STAGE_COUNT];
};

/* The backend can work there, or INVALID_ARGUMENT; DEVICE_ERROR where the device does not tell. */
draftattn_status memory_check(const draftattn_plan *plan, const char *name, const void *data);

/* Big enough, aligned and in the backend's memory space, or INVALID_ARGUMENT. */
draftattn_status workspace_check(const draftattn_plan *plan, const void *workspace, size_t size);

/* From here to workspace_finish() there is nothing to be read. */
draftattn_status workspace_invalidate(const draftattn_plan *plan, void *workspace, void *stream);
draftattn_status workspace_finish(const draftattn_plan *plan, void *workspace, void *stream,
                                  bool dense, const double *seconds);

draftattn_block_list workspace_list(const draftattn_plan *plan, const void *workspace);
draftattn_head_stats *workspace_heads(const draftattn_plan *plan, const void *workspace);
float *workspace_map(const draftattn_plan *plan, void *workspace);
void *workspace_select(const draftattn_plan *plan, void *workspace);
void *workspace_scratch(const draftattn_plan *plan, void *workspace);

/* The list there, to host memory; INVALID_ARGUMENT with the number of entries, and list untouched,
 * where its capacity is too small. */
draftattn_status workspace_read_list(const draftattn_plan *plan, const void *workspace,
                                     draftattn_block_list *list);

#endif
