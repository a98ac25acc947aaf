/*
 * Owns the library's part of the workspace and what can be read from it after a run. A workspace
 * that no finished run of the plan has used is refused. It may lie where the host cannot look:
 * everything goes by way of the backend.
 */
#include "workspace.h"

#include "block_list.h"
#include "error.h"
#include "repair.h"

#include <stdlib.h>
#include <string.h>

#define WORKSPACE_MAGIC     0x6e74746174667264u
#define WORKSPACE_ALIGNMENT 64

_Static_assert(sizeof(struct workspace_header) <= BACKEND_STORE_BYTES,
               "a header is stored in one piece");

static draftattn_status store_header(const draftattn_plan *plan, void *workspace, void *stream,
                                     const struct workspace_header *header)
{
    draftattn_status status = plan->context->backend->store(
        &plan->problem, stream, (char *)workspace + plan->layout.header, header, sizeof(*header));
    return error_backend(status, "writing to the workspace");
}

/* Out of the workspace. */
static draftattn_status read_back(const draftattn_plan *plan, void *to, const void *from,
                                  size_t bytes)
{
    return error_backend(plan->context->backend->read(&plan->problem, to, from, bytes),
                         "reading from the workspace");
}

draftattn_status memory_check(const draftattn_plan *plan, const char *name, const void *data)
{
    const struct backend *backend = plan->context->backend;
    enum memory memory = backend->memory ? backend->memory(&plan->problem, data) : MEMORY_OWN;
    if (memory == MEMORY_UNKNOWN)
        return error_backend(DRAFTATTN_DEVICE_ERROR, "asking where memory is");
    RETURN_IF(
        memory == MEMORY_HOST, DRAFTATTN_INVALID_ARGUMENT,
        "%s is in host memory; backend %s works on memory of its device (cudaMalloc), or make "
        "the context with a CPU backend",
        name, draftattn_backend_name(backend->id));
    RETURN_IF(memory == MEMORY_FOREIGN, DRAFTATTN_INVALID_ARGUMENT,
              "%s is in the memory of another device than %d, which the context is bound to "
              "(draftattn_context_desc.device)",
              name, plan->problem.device);
    return DRAFTATTN_SUCCESS;
}

draftattn_status workspace_check(const draftattn_plan *plan, const void *workspace, size_t size)
{
    RETURN_IF(!workspace, DRAFTATTN_INVALID_ARGUMENT,
              "workspace is NULL; this plan needs %zu bytes", plan->layout.size);
    RETURN_IF(size < plan->layout.size, DRAFTATTN_INVALID_ARGUMENT,
              "workspace_size is %zu; this plan needs %zu bytes", size, plan->layout.size);
    RETURN_IF((uintptr_t)workspace % WORKSPACE_ALIGNMENT, DRAFTATTN_INVALID_ARGUMENT,
              "workspace is not aligned to %d bytes", WORKSPACE_ALIGNMENT);
    return memory_check(plan, "workspace", workspace);
}

draftattn_status workspace_invalidate(const draftattn_plan *plan, void *workspace, void *stream)
{
    return store_header(plan, workspace, stream, &(struct workspace_header){0});
}

draftattn_status workspace_finish(const draftattn_plan *plan, void *workspace, void *stream,
                                  bool dense, const double *seconds)
{
    struct workspace_header header = {
        .magic = WORKSPACE_MAGIC, .plan = plan, .made = plan->made, .dense = dense};
    memcpy(header.seconds, seconds, sizeof(header.seconds));
    return store_header(plan, workspace, stream, &header);
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

void *workspace_select(const draftattn_plan *plan, void *workspace)
{
    return (char *)workspace + plan->layout.select;
}

void *workspace_scratch(const draftattn_plan *plan, void *workspace)
{
    return (char *)workspace + plan->layout.scratch;
}

/* workspace: or the beginning of one, saved. */
static draftattn_status finished_header(const draftattn_plan *plan, const void *workspace,
                                        struct workspace_header *header)
{
    RETURN_IF(!plan || !workspace, DRAFTATTN_INVALID_ARGUMENT, "%s is NULL",
              plan ? "workspace" : "plan");
    TRY(workspace_check(plan, workspace, plan->layout.size));
    TRY(read_back(plan, header, (const char *)workspace + plan->layout.header, sizeof(*header)));
    RETURN_IF(header->magic != WORKSPACE_MAGIC || header->plan != plan ||
                  header->made != plan->made,
              DRAFTATTN_INVALID_ARGUMENT, "no finished run of this plan has used the workspace");
    return DRAFTATTN_SUCCESS;
}

draftattn_status draftattn_read_stats(const draftattn_plan *plan, const void *workspace,
                                      draftattn_stats *stats, draftattn_head_stats *heads)
{
    struct workspace_header header;
    TRY(finished_header(plan, workspace, &header));
    size_t bytes = (size_t)plan->problem.heads * sizeof(*heads);
    draftattn_head_stats *all = heads ? heads : malloc(bytes);
    RETURN_IF(!all, DRAFTATTN_OUT_OF_MEMORY, "no memory for the stats of %lld heads",
              (long long)plan->problem.heads);
    draftattn_status status = read_back(plan, all, workspace_heads(plan, workspace), bytes);
    if (status == DRAFTATTN_SUCCESS && stats) {
        *stats = (draftattn_stats){.dense = (int32_t)header.dense};
        memcpy(stats->seconds, header.seconds, sizeof(stats->seconds));
        repair_summarise(all, plan->problem.heads, stats);
    }
    if (!heads)
        free(all);
    return status;
}

/* They lie ahead of the list, in the order and at the distances that reading expects. */
static size_t stats_bytes(const draftattn_plan *plan)
{
    return plan->layout.row_ptr;
}

draftattn_status draftattn_stats_size(const draftattn_plan *plan, size_t *bytes)
{
    RETURN_IF(!plan || !bytes, DRAFTATTN_INVALID_ARGUMENT, "%s is NULL", plan ? "bytes" : "plan");
    *bytes = stats_bytes(plan);
    return DRAFTATTN_SUCCESS;
}

draftattn_status draftattn_save_stats(const draftattn_plan *plan, const void *workspace, void *to,
                                      void *stream)
{
    RETURN_IF(!plan || !workspace || !to, DRAFTATTN_INVALID_ARGUMENT, "%s is NULL",
              !plan        ? "plan"
              : !workspace ? "workspace"
                           : "to");
    TRY(workspace_check(plan, workspace, plan->layout.size));
    RETURN_IF((uintptr_t)to % WORKSPACE_ALIGNMENT, DRAFTATTN_INVALID_ARGUMENT,
              "to is not aligned to %d bytes", WORKSPACE_ALIGNMENT);
    TRY(memory_check(plan, "to", to));
    return error_backend(
        plan->context->backend->copy(&plan->problem, stream, to, workspace, stats_bytes(plan)),
        "saving statistics");
}

static draftattn_status check_capacity(const draftattn_block_list *list, int64_t entries)
{
    RETURN_IF(list->capacity < entries, DRAFTATTN_INVALID_ARGUMENT,
              "list.capacity is %lld and the list has %lld entries", (long long)list->capacity,
              (long long)entries);
    return DRAFTATTN_SUCCESS;
}

draftattn_status workspace_read_list(const draftattn_plan *plan, const void *workspace,
                                     draftattn_block_list *list)
{
    draftattn_block_list own = workspace_list(plan, workspace);
    int64_t rows = list_row(&plan->problem, plan->problem.heads, 0), entries;
    TRY(read_back(plan, &entries, own.row_ptr + rows, sizeof(entries)));
    TRY(check_capacity(list, entries));
    TRY(read_back(plan, list->row_ptr, own.row_ptr, (size_t)(rows + 1) * sizeof(*own.row_ptr)));
    return read_back(plan, list->block_idx, own.block_idx,
                     (size_t)entries * sizeof(*own.block_idx));
}

draftattn_status draftattn_read_block_list(const draftattn_plan *plan, const void *workspace,
                                           draftattn_block_list *list)
{
    struct workspace_header header;
    TRY(finished_header(plan, workspace, &header));
    RETURN_IF(!list || !list->row_ptr || !list->block_idx, DRAFTATTN_INVALID_ARGUMENT,
              "list, its row_ptr or its block_idx is NULL");
    if (!header.dense)
        return workspace_read_list(plan, workspace, list);
    TRY(check_capacity(list, plan->pairs));
    block_list_fill_dense(&plan->problem, list);
    return DRAFTATTN_SUCCESS;
}
