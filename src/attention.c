/*
 * Owns a run: the picture
 *
 *     q k v - order - pool - draft map - select - block list - attend - repair - o
 *
 * in that order. Everything is checked before the first byte is written; pooling, draft map and
 * selection are left out where a guard, the policy or the caller's own list makes them idle.
 */
#include "block_list.h"
#include "error.h"
#include "plan.h"
#include "tensor_check.h"
#include "workspace.h"

#include <stdio.h>
#include <time.h>

struct call {
    const draftattn_plan *plan;
    const struct backend *backend;
    void *workspace;
    struct run run;
    draftattn_block_list list;
    double seconds[DRAFTATTN_STAGE_COUNT];
    double clock; /* when the stage under way began */
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Books the time since the last booking and puts words to a failure. */
static draftattn_status stage_done(struct call *call, draftattn_stage stage,
                                   draftattn_status status)
{
    double time = now();
    char what[40];
    if (!call->backend->asynchronous)
        call->seconds[stage] += time - call->clock;
    call->clock = time;
    snprintf(what, sizeof(what), "stage %s", draftattn_stage_name(stage));
    return error_backend(status, what);
}

static draftattn_status check_arguments(const draftattn_plan *plan, const draftattn_tensor *q,
                                        const draftattn_tensor *k, const draftattn_tensor *v,
                                        const draftattn_tensor *o, const draftattn_tensor *lse,
                                        const void *workspace, size_t size)
{
    RETURN_IF(!plan, DRAFTATTN_INVALID_ARGUMENT, "plan is NULL");
    const struct problem *problem = &plan->problem;
    draftattn_dtype in = problem->desc.in_dtype, out = problem->desc.out_dtype;
    int32_t head_dim = problem->desc.head_dim;
    TRY(workspace_check(plan, workspace, size));
    TRY(tensor_check_input(problem, "q", q, in, head_dim, workspace, size));
    TRY(tensor_check_input(problem, "k", k, in, head_dim, workspace, size));
    TRY(tensor_check_input(problem, "v", v, in, head_dim, workspace, size));
    TRY(tensor_check_output(problem, "o", o, out, head_dim, workspace, size));
    TRY(memory_check(plan, "q", q->data));
    TRY(memory_check(plan, "k", k->data));
    TRY(memory_check(plan, "v", v->data));
    TRY(memory_check(plan, "o", o->data));
    RETURN_IF(o->data == q->data || o->data == k->data || o->data == v->data,
              DRAFTATTN_INVALID_ARGUMENT, "o is the same memory as q, k or v; it needs its own");
    if (!lse)
        return DRAFTATTN_SUCCESS;
    TRY(tensor_check_output(problem, "lse", lse, DRAFTATTN_F32, 1, workspace, size));
    TRY(memory_check(plan, "lse", lse->data));
    RETURN_IF(lse->data == o->data || lse->data == q->data || lse->data == k->data ||
                  lse->data == v->data,
              DRAFTATTN_INVALID_ARGUMENT,
              "lse is the same memory as q, k, v or o; it needs its own");
    return DRAFTATTN_SUCCESS;
}

/* A list in memory of the backend's own is taken as it is: the host cannot look at it. */
static draftattn_status check_list(const draftattn_plan *plan, const draftattn_block_list *list)
{
    const struct backend *backend = plan->context->backend;
    const struct problem *problem = &plan->problem;
    bool entries = list->block_idx && list->capacity > 0;
    if (!backend->memory || !list->row_ptr || (!entries && list->capacity != 0))
        return block_list_validate(problem, list);
    bool host = backend->memory(problem, list->row_ptr) == MEMORY_HOST;
    if (entries)
        RETURN_IF(host != (backend->memory(problem, list->block_idx) == MEMORY_HOST),
                  DRAFTATTN_INVALID_ARGUMENT,
                  "list.row_ptr and list.block_idx are not both in host memory, nor both on the "
                  "device");
    if (host)
        return block_list_validate(problem, list);
    TRY(memory_check(plan, "list.row_ptr", list->row_ptr));
    return entries ? memory_check(plan, "list.block_idx", list->block_idx) : DRAFTATTN_SUCCESS;
}

/* Pool and draft map, as far as list and compensation want them, and select. */
static draftattn_status make_list(struct call *call)
{
    const struct backend *backend = call->backend;
    const draftattn_plan_desc *desc = &call->plan->problem.desc;
    bool draft = desc->policy == DRAFTATTN_POLICY_DRAFT;
    draftattn_score score = draft ? desc->score : DRAFTATTN_SCORE_MASS;
    bool ranks = call->run.list && !call->run.given;
    if (ranks || call->run.compensation)
        TRY(stage_done(call, DRAFTATTN_STAGE_POOL, backend->pool(&call->run)));
    if (ranks) {
        float *map = workspace_map(call->plan, call->workspace);
        TRY(stage_done(call, DRAFTATTN_STAGE_DRAFT, backend->draft_map(&call->run, score, map)));
        call->run.map = map;
    }
    return stage_done(call, DRAFTATTN_STAGE_SELECT, backend->select(&call->run));
}

static draftattn_status attend_groups(struct call *call)
{
    const struct backend *backend = call->backend;
    int64_t heads = call->plan->problem.heads;
    int64_t group = backend->group_heads(&call->run);
    for (int64_t first = 0; first < heads; first += group) {
        int64_t count = heads - first < group ? heads - first : group;
        TRY(stage_done(call, DRAFTATTN_STAGE_ORDER, backend->gather(&call->run, first, count)));
        TRY(stage_done(call, DRAFTATTN_STAGE_ATTEND, backend->attend(&call->run, first, count)));
        if (call->run.probes)
            TRY(stage_done(call, DRAFTATTN_STAGE_REPAIR,
                           backend->repair(&call->run, first, count)));
    }
    return DRAFTATTN_SUCCESS;
}

static draftattn_status execute(struct call *call, bool dense, const draftattn_block_list *list)
{
    const draftattn_plan *plan = call->plan;
    const draftattn_plan_desc *desc = &plan->problem.desc;
    bool draft = desc->policy == DRAFTATTN_POLICY_DRAFT;
    TRY(workspace_invalidate(plan, call->workspace, call->run.stream));
    call->clock = now();
    call->list = workspace_list(plan, call->workspace);
    call->run.heads = workspace_heads(plan, call->workspace);
    call->run.select_scratch = workspace_select(plan, call->workspace);
    call->run.scratch = workspace_scratch(plan, call->workspace);
    if (!dense) {
        call->run.list = &call->list;
        call->run.given = list;
        call->run.compensation = draft && desc->compensation;
        call->run.probes = plan->problem.probes > 0;
        call->run.repair = draft && desc->repair;
    }
    TRY(make_list(call));
    TRY(attend_groups(call));
    return workspace_finish(plan, call->workspace, call->run.stream, dense, call->seconds);
}

static struct call make_call(const draftattn_plan *plan, const draftattn_tensor *q,
                             const draftattn_tensor *k, const draftattn_tensor *v,
                             const draftattn_tensor *o, const draftattn_tensor *lse,
                             void *workspace, void *stream)
{
    return (struct call){.plan = plan,
                         .backend = plan->context->backend,
                         .workspace = workspace,
                         .run = {.problem = &plan->problem,
                                 .q = q,
                                 .k = k,
                                 .v = v,
                                 .o = o,
                                 .lse = lse,
                                 .stream = stream}};
}

draftattn_status draftattn_run(const draftattn_plan *plan, const draftattn_step *step,
                               const draftattn_tensor *q, const draftattn_tensor *k,
                               const draftattn_tensor *v, const draftattn_tensor *o,
                               const draftattn_tensor *lse, const draftattn_block_list *list,
                               void *workspace, size_t workspace_size, void *stream)
{
    TRY(check_arguments(plan, q, k, v, o, lse, workspace, workspace_size));
    enum dense_reason reason = plan_dense_reason(plan, step);
    /* A list is a policy of its own and a wish whatever it costs; guards stand above it. */
    bool yields = reason == DENSE_POLICY || reason == DENSE_BREAK_EVEN;
    bool dense = reason != DENSE_NOT && !(yields && list);
    if (list)
        TRY(check_list(plan, list));
    struct call call = make_call(plan, q, k, v, o, lse, workspace, stream);
    return execute(&call, dense, list);
}

draftattn_status draftattn_attend(const draftattn_plan *plan, const draftattn_tensor *q,
                                  const draftattn_tensor *k, const draftattn_tensor *v,
                                  const draftattn_tensor *o, const draftattn_tensor *lse,
                                  const draftattn_block_list *list, void *workspace,
                                  size_t workspace_size, void *stream)
{
    TRY(check_arguments(plan, q, k, v, o, lse, workspace, workspace_size));
    RETURN_IF(!list, DRAFTATTN_INVALID_ARGUMENT, "list is NULL; draftattn_run() makes its own");
    TRY(check_list(plan, list));
    struct call call = make_call(plan, q, k, v, o, lse, workspace, stream);
    return execute(&call, false, list);
}
