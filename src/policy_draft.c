/*
 * The policy draft: row-fair selection. Every query block is sure of a share of the head's budget,
 * so that a flat row does not starve beside peaked ones; the rest goes where the scores of the
 * whole head are highest. Heads may trade budget with each other at a fixed mean. select.c defines
 * the set.
 */
#include "select.h"

#include <math.h>

/* Fewer are ranked before threads have woken up. */
#define MIN_SHARED_PAIRS 10000

int64_t policy_draft_budget(const struct problem *problem)
{
    int64_t rows = problem->video_query_blocks, video = rows * problem->video_key_blocks;
    int64_t pairs = problem->query_blocks * problem->key_blocks;
    double budget = round((1 - problem->desc.sparsity) * (double)pairs);
    return select_clip((int64_t)budget - (pairs - video), rows, video);
}

struct policy_draft_range policy_draft_range(const struct problem *problem)
{
    int64_t rows = problem->video_query_blocks, video = rows * problem->video_key_blocks;
    int64_t mean = policy_draft_budget(problem);
    double spread = problem->desc.head_spread;
    return (struct policy_draft_range){
        .mean = mean,
        .low = select_clip((int64_t)ceil((double)mean / spread), rows, mean),
        .high = select_clip((int64_t)fmin((double)mean * spread, (double)video), mean, video)};
}

static void fill_head(const struct problem *problem, const float *score, uint8_t *keep,
                      int64_t budget)
{
    int64_t rows = problem->video_query_blocks, columns = problem->video_key_blocks;
    double share = floor(problem->desc.row_floor * (double)budget / (double)rows);
    int64_t floor_count = select_clip((int64_t)share, 1, columns);
    for (int64_t row = 0; row < rows; row++)
        select_mark_best(score + row * columns, keep + row * columns, columns, floor_count);
    select_mark_best(score, keep, rows * columns, budget - rows * floor_count);
}

void policy_draft(const struct problem *problem, const float *score, uint8_t *keep,
                  int64_t *scratch)
{
    int64_t rows = problem->video_query_blocks, video = rows * problem->video_key_blocks;
    int64_t heads = problem->desc.heads;
    struct policy_draft_range range = policy_draft_range(problem);
    int64_t *budget = scratch, *histogram = scratch + problem->heads;
    for (int64_t head = 0; head < problem->heads; head++)
        budget[head] = range.mean;
    if (problem->desc.head_spread > 1)
        for (int64_t head = 0; head < problem->heads; head += heads)
            select_share(score + head * video, heads, video, range.mean, range.low, range.high,
                         budget + head, histogram, problem->threads);
    bool threads_pay = problem->heads * video > MIN_SHARED_PAIRS;
#pragma omp parallel for schedule(dynamic) num_threads(problem->threads) if (threads_pay)
    for (int64_t head = 0; head < problem->heads; head++)
        fill_head(problem, score + head * video, keep + head * video, budget[head]);
}
