/*
 * Owns the dense guards: which steps and layers run dense, and why. Guards look at the plan and at
 * what the caller tells about the step; what is unknown guards nothing. The break-even comes last:
 * a block list of the caller's stands above it and below the others (attention.c).
 */
#include "error.h"
#include "plan.h"

#include <math.h>

int32_t plan_dense_step_count(const draftattn_plan *plan, int32_t steps)
{
    return steps > 0 ? (int32_t)lround(plan->problem.desc.dense_steps * steps) : 0;
}

static bool layer_is_listed(const draftattn_plan *plan, int32_t layer)
{
    for (int32_t i = 0; i < plan->problem.desc.dense_layer_count; i++)
        if (plan->dense_layers[i] == layer)
            return true;
    return false;
}

enum dense_reason plan_dense_reason(const draftattn_plan *plan, const draftattn_step *step)
{
    const draftattn_plan_desc *desc = &plan->problem.desc;
    if (desc->policy == DRAFTATTN_POLICY_DENSE)
        return DENSE_POLICY;
    if (plan->problem.tokens < desc->min_tokens)
        return DENSE_TOKENS;
    enum dense_reason otherwise = DENSE_NOT;
    if (desc->min_tokens == 0 && plan->problem.tokens < plan->break_even)
        otherwise = DENSE_BREAK_EVEN;
    if (!step)
        return otherwise;
    if (step->layer >= 0 && layer_is_listed(plan, step->layer))
        return DENSE_LAYER;
    if (step->step >= 0 && step->step < plan_dense_step_count(plan, step->steps))
        return DENSE_STEP;
    if (desc->dense_sigma > 0 && (double)step->sigma > desc->dense_sigma)
        return DENSE_SIGMA;
    return otherwise;
}

draftattn_status draftattn_plan_is_dense(const draftattn_plan *plan, const draftattn_step *step,
                                         int32_t *dense)
{
    RETURN_IF(!plan || !dense, DRAFTATTN_INVALID_ARGUMENT, "%s is NULL", plan ? "dense" : "plan");
    *dense = plan_dense_reason(plan, step) != DENSE_NOT;
    return DRAFTATTN_SUCCESS;
}
