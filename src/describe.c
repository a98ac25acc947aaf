/*
 * Owns the sentences that say what a plan will run at a step and why. They are read by people:
 * numbers come with what they count, and a guard with what lifts it.
 */
#include "plan.h"
#include "select.h"

#include <stdarg.h>
#include <stdio.h>

/* Counts on past the end of the buffer, as snprintf does. */
struct text {
    char *buffer;
    size_t size, length;
};

static void add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *text, const char *format, ...)
{
    va_list arguments;
    size_t room = text->length < text->size ? text->size - text->length : 0;
    va_start(arguments, format);
    int written = vsnprintf(room ? text->buffer + text->length : NULL, room, format, arguments);
    va_end(arguments);
    text->length += written > 0 ? (size_t)written : 0;
}

static void add_place(struct text *text, const draftattn_step *step)
{
    bool layer = step && step->layer >= 0, count = step && step->steps > 0;
    if (layer && count)
        add(text, "Layer %d, step %lld of %d: ", step->layer, step->step + 1LL, step->steps);
    else if (layer)
        add(text, "Layer %d: ", step->layer);
    else if (count)
        add(text, "Step %lld of %d: ", step->step + 1LL, step->steps);
    else
        add(text, "Any layer and step: ");
}

static void add_break_even(struct text *text, const draftattn_plan *plan)
{
    const draftattn_plan_desc *desc = &plan->problem.desc;
    if (plan->break_even == INT64_MAX)
        add(text, "at sparsity %g sparse attention is estimated to take longer at any length",
            desc->sparsity);
    else
        add(text,
            "the grid has %lld tokens and sparse attention at sparsity %g with %lld probe rows is "
            "estimated to pay from %lld on",
            (long long)plan->problem.tokens, desc->sparsity, (long long)plan->problem.probes,
            (long long)plan->break_even);
    add(text, " (min_tokens 1 runs it all the same)");
}

static void add_dense(struct text *text, const draftattn_plan *plan, const draftattn_step *step,
                      enum dense_reason reason)
{
    const struct problem *problem = &plan->problem;
    long long pairs = problem->query_blocks * problem->key_blocks;
    add(text, "dense attention over all %lld block pairs of a head, because ", pairs);
    switch (reason) {
    case DENSE_POLICY:
        add(text, "the policy is dense");
        break;
    case DENSE_TOKENS:
        add(text, "the grid has %lld tokens and stays dense below %lld (min_tokens)",
            (long long)problem->tokens, (long long)problem->desc.min_tokens);
        break;
    case DENSE_LAYER:
        add(text, "layer %d is among the layers that stay dense (dense_layers)", step->layer);
        break;
    case DENSE_STEP:
        add(text, "the first %d of %d steps stay dense (dense_steps %g)",
            plan_dense_step_count(plan, step->steps), step->steps, problem->desc.dense_steps);
        break;
    case DENSE_SIGMA:
        add(text, "sigma %g is above %g (dense_sigma)", (double)step->sigma,
            problem->desc.dense_sigma);
        break;
    case DENSE_BREAK_EVEN:
        add_break_even(text, plan);
        break;
    case DENSE_NOT:
        break;
    }
}

/* What the policy draft really spends: rows and text have their minimum. */
static void add_budget(struct text *text, const struct problem *problem)
{
    int64_t pairs = problem->query_blocks * problem->key_blocks;
    int64_t video = problem->video_query_blocks * problem->video_key_blocks;
    int64_t kept = policy_draft_budget(problem) + pairs - video;
    double asked = 100 * (1 - problem->desc.sparsity), share = 100 * (double)kept / (double)pairs;
    add(text, "draft attention, %.3g %% of %lld block pairs of a head computed exactly", share,
        (long long)pairs);
    if (share > asked + 1)
        add(text, " (%.3g %% asked for: text and one block a row are always kept)", asked);
    if (problem->desc.head_spread > 1)
        add(text, ", a head's budget up to %g times more or less", problem->desc.head_spread);
    add(text, problem->desc.compensation ? ", compensation on" : ", compensation off");
    if (problem->desc.repair && problem->probes)
        add(text, ", repair fitted on %lld probe rows a head", (long long)problem->probes);
    else if (problem->probes)
        add(text, ", error estimated from %lld probe rows a head", (long long)problem->probes);
}

static void add_published(struct text *text, const struct problem *problem)
{
    long long pairs = problem->video_query_blocks * problem->video_key_blocks;
    add(text,
        "draft attention as published, about %.3g %% of %lld video block pairs of a head computed "
        "exactly, one threshold a head, skipped blocks dropped",
        100 * (1 - problem->desc.sparsity), pairs);
    if (problem->probes)
        add(text, ", error estimated from %lld probe rows a head", (long long)problem->probes);
}

static void add_guards(struct text *text, const draftattn_plan *plan)
{
    const draftattn_plan_desc *desc = &plan->problem.desc;
    if (desc->dense_steps == 0 && desc->dense_sigma == 0 && desc->dense_layer_count == 0)
        return;
    const char *separator = "";
    add(text, "; dense would run ");
    if (desc->dense_steps > 0) {
        add(text, "in the first %g %% of steps", 100 * desc->dense_steps);
        separator = ", ";
    }
    if (desc->dense_sigma > 0) {
        add(text, "%sabove sigma %g", separator, desc->dense_sigma);
        separator = ", ";
    }
    if (desc->dense_layer_count > 0)
        add(text, "%sin layer%s", separator, desc->dense_layer_count > 1 ? "s" : "");
    for (int32_t i = 0; i < desc->dense_layer_count; i++)
        add(text, "%s %d", i ? "," : "", desc->dense_layers[i]);
}

size_t draftattn_plan_describe(const draftattn_plan *plan, const draftattn_step *step, char *buffer,
                               size_t size)
{
    struct text text = {buffer, buffer ? size : 0, 0};
    if (text.size)
        buffer[0] = '\0';
    if (!plan)
        return 0;
    enum dense_reason reason = plan_dense_reason(plan, step);
    add_place(&text, step);
    if (reason != DENSE_NOT)
        add_dense(&text, plan, step, reason);
    else if (plan->problem.desc.policy == DRAFTATTN_POLICY_DRAFT_PAPER)
        add_published(&text, &plan->problem);
    else
        add_budget(&text, &plan->problem);
    add(&text, "; kernel %s (backend %s)", plan->problem.kernel->name,
        draftattn_backend_name(plan->problem.kernel->backend));
    if (reason == DENSE_NOT)
        add_guards(&text, plan);
    add(&text, ".");
    return text.length;
}
