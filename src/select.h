/*
 * Which block pairs are kept. Exact, without sorting and without a list of dense size; select.c
 * defines the set that every backend must choose.
 */
#ifndef DRAFTATTN_SELECT_H
#define DRAFTATTN_SELECT_H

#include "backend.h"

/* Where the ranking is cut: all entries with a key above, and the first ties of those at it. */
struct select_cut {
    uint32_t key;
    int64_t ties;
};

static inline int64_t select_clip(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* Total order of floats as integers: larger score, larger key; 0 and -0 are one. Not for NaN. */
uint32_t select_key(float score);

/* The cut that takes the best wanted of the entries with keep == 0; 1 <= wanted <= their number. */
struct select_cut select_find_cut(const float *score, const uint8_t *keep, int64_t count,
                                  int64_t wanted);

/* Marks the best wanted of the entries with keep == 0; a tie goes to the lower index. */
void select_mark_best(const float *score, uint8_t *keep, int64_t count, int64_t wanted);

/*
 * budget[heads] with the given mean, each within [low, high], by ranking all heads' entries
 * together (count each): the mean is kept exactly. low <= mean <= high <= count. histogram: [heads
 * * 256].
 */
void select_share(const float *score, int64_t heads, int64_t count, int64_t mean, int64_t low,
                  int64_t high, int64_t *budget, int64_t *histogram, int32_t threads);

/* int64_t of scratch that filling a list by policy needs; -1 where it overflows. */
int64_t select_scratch(const struct problem *problem);

/*
 * A policy is a rule that fills the block list: keep[heads, video_query_blocks, video_key_blocks],
 * 0 on entry, gets 1 where the pair is kept. Pairs with text are kept without asking.
 */
typedef void (*policy_fn)(const struct problem *problem, const float *score, uint8_t *keep,
                          int64_t *scratch);

void policy_dense(const struct problem *problem, const float *score, uint8_t *keep,
                  int64_t *scratch);
void policy_draft(const struct problem *problem, const float *score, uint8_t *keep,
                  int64_t *scratch);
void policy_draft_paper(const struct problem *problem, const float *score, uint8_t *keep,
                        int64_t *scratch);

/* Video pairs of a head that the budget leaves after text, >= 1 a row: what policy_draft spends on
 * the mean head. */
int64_t policy_draft_budget(const struct problem *problem);

/* That mean, and what a single head may go down and up to. */
struct policy_draft_range {
    int64_t mean, low, high;
};

struct policy_draft_range policy_draft_range(const struct problem *problem);

/* Video pairs of a head that policy_draft_paper ranks below the cut. */
int64_t policy_draft_paper_dropped(const struct problem *problem);

/* The list of the plan's policy. list has room for every pair. */
void select_fill(const struct problem *problem, const float *score, uint8_t *keep, int64_t *scratch,
                 draftattn_block_list *list);

#endif
