/*
 * The policy draft-paper: one percentile per head over its whole draft map, as published (arXiv
 * 2505.14708, section 3) and as its code has it, ties included. Rows compete: one may keep nothing.
 */
#include "select.h"

#include <math.h>

int64_t policy_draft_paper_dropped(const struct problem *problem)
{
    double video = (double)(problem->video_query_blocks * problem->video_key_blocks);
    return (int64_t)floor(video * problem->desc.sparsity);
}

static void fill_head(const float *map, uint8_t *keep, int64_t count, int64_t dropped)
{
    uint32_t least = 0;
    if (dropped > 0)
        least = select_find_cut(map, keep, count, count - dropped + 1).key;
    for (int64_t i = 0; i < count; i++)
        keep[i] = select_key(map[i]) >= least;
}

void policy_draft_paper(const struct problem *problem, const float *score, uint8_t *keep,
                        int64_t *scratch)
{
    int64_t video = problem->video_query_blocks * problem->video_key_blocks;
    int64_t dropped = policy_draft_paper_dropped(problem);
    (void)scratch;
#pragma omp parallel for schedule(dynamic) num_threads(problem->threads)
    for (int64_t head = 0; head < problem->heads; head++)
        fill_head(score + head * video, keep + head * video, video, dropped);
}
