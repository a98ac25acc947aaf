/*
 * Owns the library's part of the workspace and what can be read from it after a run. A workspace
 * that no finished run of the plan has used is refused.
 */
#include "workspace.h"

#include "block_list.h"
#include "error.h"

#include <string.h>

#define WORKSPACE_MAGIC     0x6e74746174667264u
#define WORKSPACE_ALIGNMENT 64

static struct workspace_header *header_of(const draftattn_plan *plan, const void *workspace)
{
    return (struct workspace_header *)((char *)workspace + plan->layout.header);
}

draftattn_status workspace_check(const draftattn_plan *plan, const void *workspace, size_t size)
{
    RETURN_IF(!workspace, DRAFTATTN_INVALID_ARGUMENT,
              "workspace is NULL; this plan needs %zu bytes", plan->layout.size);
    RETURN_IF(size < plan->layout.size, DRAFTATTN_INVALID_ARGUMENT,
              "workspace_size is %zu; this plan needs %zu bytes", size, plan->layout.size);
    RETURN_IF((uintptr_t)workspace % WORKSPACE_ALIGNMENT, DRAFTATTN_INVALID_ARGUMENT,
              "workspace is not aligned to %d bytes", WORKSPACE_ALIGNMENT);
    return DRAFTATTN_SUCCESS;
}

void workspace_invalidate(const draftattn_plan *plan, void *workspace)
{
    header_of(plan, workspace)->magic = 0;
}

void workspace_finish(const draftattn_plan *plan, void *workspace, const draftattn_stats *stats)
{
    *header_of(plan, workspace) =
        (struct workspace_header){WORKSPACE_MAGIC, plan, plan->made, *stats};
}

draftattn_block_list workspace_list(const draftattn_plan *plan, const void *workspace)
{
    char *base = (char *)workspace;
    return (draftattn_block_list){.row_ptr = (int64_t *)(base + plan->layout.row_ptr),
                                  .block_idx = (int32_t *)(base + plan->layout.block_idx),
                                  .capacity = plan->pairs};
}

draftattn_head_stats *workspace_heads(const draftattn_plan *plan, const void *workspace)
{
    return (draftattn_head_stats *)((char *)workspace + plan->layout.heads);
}

float *workspace_map(const draftattn_plan *plan, void *workspace)
{
    return (float *)((char *)workspace + plan->layout.map);
}

uint8_t *workspace_keep(const draftattn_plan *plan, void *workspace)
{
    return (uint8_t *)workspace + plan->layout.keep;
}

int64_t *workspace_select(const draftattn_plan *plan, void *workspace)
{
    return (int64_t *)((char *)workspace + plan->layout.select);
}

void *workspace_scratch(const draftattn_plan *plan, void *workspace)
{
    return (char *)workspace + plan->layout.scratch;
}

static draftattn_status finished_header(const draftattn_plan *plan, const void *workspace,
                                        const struct workspace_header **header)
{
    RETURN_IF(!plan || !workspace, DRAFTATTN_INVALID_ARGUMENT, "%s is NULL",
              plan ? "workspace" : "plan");
    TRY(workspace_check(plan, workspace, plan->layout.size));
    *header = header_of(plan, workspace);
    RETURN_IF((*header)->magic != WORKSPACE_MAGIC || (*header)->plan != plan ||
                  (*header)->made != plan->made,
              DRAFTATTN_INVALID_ARGUMENT, "no finished run of this plan has used the workspace");
    return DRAFTATTN_SUCCESS;
}

draftattn_status draftattn_read_stats(const draftattn_plan *plan, const void *workspace,
                                      draftattn_stats *stats, draftattn_head_stats *heads)
{
    const struct workspace_header *header;
    TRY(finished_header(plan, workspace, &header));
    if (stats)
        *stats = header->stats;
    if (heads)
        memcpy(heads, workspace_heads(plan, workspace),
               (size_t)plan->problem.heads * sizeof(*heads));
    return DRAFTATTN_SUCCESS;
}

draftattn_status draftattn_read_block_list(const draftattn_plan *plan, const void *workspace,
                                           draftattn_block_list *list)
{
    const struct workspace_header *header;
    TRY(finished_header(plan, workspace, &header));
    RETURN_IF(!list || !list->row_ptr || !list->block_idx, DRAFTATTN_INVALID_ARGUMENT,
              "list, its row_ptr or its block_idx is NULL");
    if (!header->stats.dense) {
        draftattn_block_list own = workspace_list(plan, workspace);
        return block_list_copy(&plan->problem, &own, list);
    }
    RETURN_IF(list->capacity < plan->pairs, DRAFTATTN_INVALID_ARGUMENT,
              "list.capacity is %lld and the list has %lld entries", (long long)list->capacity,
              (long long)plan->pairs);
    block_list_fill_dense(&plan->problem, list);
    return DRAFTATTN_SUCCESS;
}
