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
#include "repair.h"
#include "select.h"
#include "tensor_check.h"
#include "workspace.h"

#include <math.h>
#include <time.h>

struct call {
    const draftattn_plan *plan;
    const struct backend *backend;
    void *workspace;
    struct run run;
    draftattn_block_list list;
    draftattn_stats stats;
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
    call->stats.seconds[stage] += time - call->clock;
    call->clock = time;
    RETURN_IF(status != DRAFTATTN_SUCCESS, status, "stage %s failed: %s",
              draftattn_stage_name(stage), draftattn_status_string(status));
    return DRAFTATTN_SUCCESS;
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
    RETURN_IF(o->data == q->data || o->data == k->data || o->data == v->data,
              DRAFTATTN_INVALID_ARGUMENT, "o is the same memory as q, k or v; it needs its own");
    if (!lse)
        return DRAFTATTN_SUCCESS;
    TRY(tensor_check_output(problem, "lse", lse, DRAFTATTN_F32, 1, workspace, size));
    RETURN_IF(lse->data == o->data || lse->data == q->data || lse->data == k->data ||
                  lse->data == v->data,
              DRAFTATTN_INVALID_ARGUMENT,
              "lse is the same memory as q, k, v or o; it needs its own");
    return DRAFTATTN_SUCCESS;
}

static draftattn_status pool(struct call *call)
{
    return stage_done(call, DRAFTATTN_STAGE_POOL, call->backend->pool(&call->run));
}

/* Pool, draft map, select: the list of the plan's policy. */
static draftattn_status draft_list(struct call *call)
{
    const struct problem *problem = &call->plan->problem;
    float *map = workspace_map(call->plan, call->workspace);
    bool draft = problem->desc.policy == DRAFTATTN_POLICY_DRAFT;
    draftattn_score score = draft ? problem->desc.score : DRAFTATTN_SCORE_MASS;
    TRY(pool(call));
    TRY(stage_done(call, DRAFTATTN_STAGE_DRAFT, call->backend->draft_map(&call->run, score, map)));
    select_fill(problem, map, workspace_keep(call->plan, call->workspace),
                workspace_select(call->plan, call->workspace), &call->list);
    return stage_done(call, DRAFTATTN_STAGE_SELECT, DRAFTATTN_SUCCESS);
}

/* A list from outside is copied, so that it can be read back as any other. */
static draftattn_status given_list(struct call *call, const draftattn_block_list *list)
{
    TRY(stage_done(call, DRAFTATTN_STAGE_SELECT,
                   block_list_copy(&call->plan->problem, list, &call->list)));
    return call->run.compensation ? pool(call) : DRAFTATTN_SUCCESS;
}

/* Density is known before attending; errors only where nothing is skipped. */
static void fill_heads(struct call *call)
{
    const struct problem *problem = &call->plan->problem;
    const draftattn_block_list *list = call->run.list;
    int64_t pairs = problem->query_blocks * problem->key_blocks;
    for (int64_t head = 0; head < problem->heads; head++) {
        int64_t kept = pairs;
        if (list)
            kept = list->row_ptr[list_row(problem, head + 1, 0)] -
                   list->row_ptr[list_row(problem, head, 0)];
        float error = kept == pairs ? 0 : NAN;
        call->run.heads[head] =
            (draftattn_head_stats){.density = (float)((double)kept / (double)pairs),
                                   .error = error,
                                   .error_before = error};
    }
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
    workspace_invalidate(plan, call->workspace);
    call->clock = now();
    call->list = workspace_list(plan, call->workspace);
    call->stats.dense = dense;
    call->run.heads = workspace_heads(plan, call->workspace);
    call->run.scratch = workspace_scratch(plan, call->workspace);
    if (!dense) {
        call->run.list = &call->list;
        call->run.compensation = draft && desc->compensation;
        call->run.probes = plan->problem.probes > 0;
        call->run.repair = draft && desc->repair;
        TRY(list ? given_list(call, list) : draft_list(call));
    }
    fill_heads(call);
    TRY(attend_groups(call));
    repair_summarise(call->run.heads, plan->problem.heads, &call->stats);
    workspace_finish(plan, call->workspace, &call->stats);
    return DRAFTATTN_SUCCESS;
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
        TRY(block_list_validate(&plan->problem, list));
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
    TRY(block_list_validate(&plan->problem, list));
    struct call call = make_call(plan, q, k, v, o, lse, workspace, stream);
    return execute(&call, false, list);
}
