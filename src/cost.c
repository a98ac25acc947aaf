/*
 * Owns the estimate of what a sparse run costs beside a dense one, and the length from which on it
 * pays. The unit is the exact key: the time in which a query row takes in one key. A dense row of T
 * tokens costs T. A sparse one costs
 *
 *     density * T         the kept blocks
 *   + (1 - density) * T / key_block
 *                         the means of the skipped ones, with compensation
 *   + probes              that many rows of T keys, shared by T rows
 *   + row                 pool, draft map, selection
 *   + apply * head_dim    the correction
 *   + fit / T             of n probe rows, n^2 (1 + n / (2 head_dim)) times its unit: products in
 *                         single, the n x n factorisation in double precision
 *
 * What reading q, k and v costs is the same on both sides. The backend's constants were measured;
 * sizes are taken as continuous. Where repair is on, every head is taken to be corrected. Threads
 * are taken to have heads enough to work on: their number must not change what is computed.
 *
 * What is saved grows with T and what is spent does not, so there is one break-even.
 */
#include "cost.h"

#include "plan.h"

#include <math.h>

/* Keys a row sees exactly, over all rows: text whole, one block at least. */
static double kept_keys(const struct problem *problem, double tokens)
{
    const draftattn_plan_desc *desc = &problem->desc;
    double video = tokens - (double)desc->grid.text_tokens, share = 1 - desc->sparsity;
    double text_pairs = tokens * tokens - video * video;
    if (desc->policy == DRAFTATTN_POLICY_DRAFT_PAPER)
        return (text_pairs + share * video * video) / tokens;
    double floor = text_pairs + video * fmin(desc->key_block, video);
    return fmax(share * tokens * tokens, floor) / tokens;
}

double cost_sparse(const struct problem *problem, const struct backend_cost *cost, int64_t tokens)
{
    const draftattn_plan_desc *desc = &problem->desc;
    bool draft = desc->policy == DRAFTATTN_POLICY_DRAFT;
    double length = (double)tokens;
    double probes = fmin(desc->probes, (double)(tokens - desc->grid.text_tokens));
    double kept = kept_keys(problem, length), keys = kept + cost->row + probes;
    if (draft && desc->compensation)
        keys += (length - kept) / desc->key_block;
    if (draft && desc->repair && probes > 0) {
        double fit = probes * probes * (1 + probes / (2.0 * desc->head_dim));
        keys += cost->apply * desc->head_dim + cost->fit * fit / length;
    }
    return keys;
}

int64_t cost_break_even(const struct problem *problem, const struct backend_cost *cost)
{
    int64_t low = problem->desc.grid.text_tokens, high = PLAN_MAX_TOKENS;
    if (problem->desc.policy == DRAFTATTN_POLICY_DENSE ||
        (cost && cost_sparse(problem, cost, high) >= (double)high))
        return INT64_MAX;
    if (!cost || cost_sparse(problem, cost, low + 1) < (double)(low + 1))
        return 0;
    low++;
    while (high - low > 1) { /* it does not pay at low, it does at high */
        int64_t middle = low + (high - low) / 2;
        if (cost_sparse(problem, cost, middle) < (double)middle)
            high = middle;
        else
            low = middle;
    }
    return high;
}
