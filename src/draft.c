/* Owns the draft map as a stage that can be called alone: block means of q and k, softmax over
 * means. */
#include "error.h"
#include "tensor_check.h"
#include "workspace.h"

draftattn_status draftattn_draft_map(const draftattn_plan *plan, const draftattn_tensor *q,
                                     const draftattn_tensor *k, float *map, void *workspace,
                                     size_t workspace_size, void *stream)
{
    RETURN_IF(!plan || !map, DRAFTATTN_INVALID_ARGUMENT, "%s is NULL", plan ? "map" : "plan");
    const struct problem *problem = &plan->problem;
    const struct backend *backend = plan->context->backend;
    TRY(workspace_check(plan, workspace, workspace_size));
    draftattn_dtype dtype = problem->desc.in_dtype;
    int32_t head_dim = problem->desc.head_dim;
    TRY(tensor_check_input(problem, "q", q, dtype, head_dim, workspace, workspace_size));
    TRY(tensor_check_input(problem, "k", k, dtype, head_dim, workspace, workspace_size));
    size_t map_size = (size_t)problem->heads * (size_t)problem->video_query_blocks *
                      (size_t)problem->video_key_blocks * sizeof(*map);
    RETURN_IF(memory_overlaps(map, map_size, workspace, workspace_size), DRAFTATTN_INVALID_ARGUMENT,
              "map overlaps the workspace");
    TRY(memory_check(plan, "q", q->data));
    TRY(memory_check(plan, "k", k->data));
    TRY(memory_check(plan, "map", map));
    struct run run = {.problem = problem,
                      .q = q,
                      .k = k,
                      .scratch = workspace_scratch(plan, workspace),
                      .stream = stream};
    draftattn_status status = backend->pool(&run);
    if (status == DRAFTATTN_SUCCESS)
        status = backend->draft_map(&run, DRAFTATTN_SCORE_MASS, map);
    return error_backend(status, "the draft map");
}
