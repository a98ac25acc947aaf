/*
 * Owns the ranking of block pairs, and the way from a score map to a block list. The chosen set is
 * defined to the last tie, so that every backend can choose the same one:
 *
 *   rank      higher score first, then lower index (row-major within the span that is ranked); 0
 *             and -0 are equal
 *   draft     video pairs of a head: budget B = round((1 - sparsity) * all pairs) - pairs with
 *             text, clipped to [rows, rows * columns]. Each row first takes its best
 *             max(1, floor(row_floor * B / rows)) (at most all); the rest of B goes to the best of
 *             what is left in the whole head
 *   spread    with head_spread s > 1, per batch entry: c_h(t) = entries of head h with score >= t,
 *             clipped to [ceil(B / s), floor(B * s)] (and to [rows, rows * columns]). At the
 *             largest t where the sum reaches heads * B, a head gets its clipped count of scores >
 *             t; what is missing goes to the heads in order, each up to its clipped c_h(t)
 *   paper     k = floor(rows * columns * sparsity): all entries >= the k-th smallest; k = 0 keeps
 *   all
 *
 * The cut is found by radix: four histograms of 8 bits over the scores' order-preserving bits.
 */
#include "select.h"

#include "block_list.h"
#include "dtype.h"
#include "error.h"
#include "plan.h"
#include "workspace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAP_PART ((int64_t)1 << 20) /* a device is waited for so often */

uint32_t select_key(float score)
{
    uint32_t bits = bits_from_float(score + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct select_cut select_find_cut(const float *score, const uint8_t *keep, int64_t count,
                                  int64_t wanted)
{
    uint32_t prefix = 0, mask = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        int64_t histogram[256] = {0};
        for (int64_t i = 0; i < count; i++) {
            uint32_t key = select_key(score[i]);
            histogram[key >> shift & 255] += (key & mask) == prefix && !keep[i];
        }
        uint32_t digit = 255;
        for (; digit > 0 && histogram[digit] < wanted; digit--)
            wanted -= histogram[digit];
        prefix |= digit << shift;
        mask |= 255u << shift;
    }
    return (struct select_cut){prefix, wanted};
}

void select_mark_best(const float *score, uint8_t *keep, int64_t count, int64_t wanted)
{
    if (wanted < 1)
        return;
    struct select_cut cut = select_find_cut(score, keep, count, wanted);
    for (int64_t i = 0; i < count; i++) {
        uint32_t key = select_key(score[i]);
        if (keep[i] || key < cut.key || (key == cut.key && cut.ties == 0))
            continue;
        cut.ties -= key == cut.key;
        keep[i] = 1;
    }
}

void select_share(const float *score, int64_t heads, int64_t count, int64_t mean, int64_t low,
                  int64_t high, int64_t *budget, int64_t *histogram, int32_t threads)
{
    int64_t total = heads * mean,
            *above = budget; /* entries ranked above what is being looked at */
    uint32_t prefix = 0, mask = 0, digit = 0;
    memset(above, 0, (size_t)heads * sizeof(*above));
    for (int shift = 24; shift >= 0; shift -= 8) {
        memset(histogram, 0, (size_t)heads * 256 * sizeof(*histogram));
#pragma omp parallel for num_threads(threads)
        for (int64_t head = 0; head < heads; head++) {
            for (int64_t i = 0; i < count; i++) {
                uint32_t key = select_key(score[head * count + i]);
                histogram[head * 256 + (key >> shift & 255)] += (key & mask) == prefix;
            }
        }
        for (digit = 255;; digit--) {
            int64_t reached = 0;
            for (int64_t head = 0; head < heads; head++)
                reached += select_clip(above[head] + histogram[head * 256 + digit], low, high);
            if (digit == 0 || reached >= total)
                break;
            for (int64_t head = 0; head < heads; head++)
                above[head] += histogram[head * 256 + digit];
        }
        prefix |= digit << shift;
        mask |= 255u << shift;
    }
    int64_t missing = total;
    for (int64_t head = 0; head < heads; head++)
        missing -= select_clip(above[head], low, high);
    for (int64_t head = 0; head < heads; head++) {
        int64_t base = select_clip(above[head], low, high);
        int64_t room = select_clip(above[head] + histogram[head * 256 + digit], low, high) - base;
        int64_t extra = select_clip(missing, 0, room);
        budget[head] = base + extra;
        missing -= extra;
    }
}

int64_t select_scratch(const struct problem *problem)
{
    return problem->heads > INT64_MAX / 512 ? -1 : problem->heads * 257;
}

void select_fill(const struct problem *problem, const float *score, uint8_t *keep, int64_t *scratch,
                 draftattn_block_list *list)
{
    static const policy_fn policies[] = {policy_dense, policy_draft, policy_draft_paper};
    int64_t entries = problem->heads * problem->video_query_blocks * problem->video_key_blocks;
    memset(keep, 0, (size_t)entries);
    policies[problem->desc.policy](problem, score, keep, scratch);
    block_list_fill(problem, keep, list);
}

/* A part of the map, which is [heads][rows][columns], from entry begin on. */
static draftattn_status check_part(const struct problem *problem, const float *part, int64_t begin,
                                   int64_t count)
{
    int64_t columns = problem->video_key_blocks, rows = problem->video_query_blocks;
    for (int64_t i = begin; i < begin + count; i++)
        RETURN_IF(isnan(part[i - begin]), DRAFTATTN_INVALID_ARGUMENT,
                  "map holds NaN at head %lld, query block %lld, key block %lld",
                  (long long)(i / columns / rows), (long long)(i / columns % rows),
                  (long long)(i % columns));
    return DRAFTATTN_SUCCESS;
}

/* Looks at the map by way of a buffer: it may lie where the host cannot look. */
static draftattn_status check_map(const draftattn_plan *plan, const float *map)
{
    const struct problem *problem = &plan->problem;
    int64_t entries = problem->heads * problem->video_query_blocks * problem->video_key_blocks;
    int64_t most = entries < MAP_PART ? entries : MAP_PART;
    float *part = malloc((size_t)most * sizeof(*part));
    RETURN_IF(!part && most > 0, DRAFTATTN_OUT_OF_MEMORY, "no memory to check the map: %lld bytes",
              (long long)most * 4);
    draftattn_status status = DRAFTATTN_SUCCESS;
    for (int64_t begin = 0; status == DRAFTATTN_SUCCESS && begin < entries; begin += most) {
        int64_t count = entries - begin < most ? entries - begin : most;
        status = error_backend(
            plan->context->backend->read(problem, part, map + begin, (size_t)count * sizeof(*part)),
            "reading map");
        if (status == DRAFTATTN_SUCCESS)
            status = check_part(problem, part, begin, count);
    }
    free(part);
    return status;
}

draftattn_status draftattn_select(const draftattn_plan *plan, const float *map,
                                  draftattn_block_list *list, void *workspace,
                                  size_t workspace_size, void *stream)
{
    RETURN_IF(!plan || !map || !list || !list->row_ptr || !list->block_idx,
              DRAFTATTN_INVALID_ARGUMENT, "%s is NULL",
              !plan  ? "plan"
              : !map ? "map"
                     : "list, its row_ptr or its block_idx");
    TRY(workspace_check(plan, workspace, workspace_size));
    TRY(memory_check(plan, "map", map));
    TRY(check_map(plan, map));

    /* The list is made in the workspace, which has room for any, and copied if it fits. */
    draftattn_block_list full = workspace_list(plan, workspace);
    struct run run = {.problem = &plan->problem,
                      .list = &full,
                      .map = map,
                      .heads = workspace_heads(plan, workspace),
                      .select_scratch = workspace_select(plan, workspace),
                      .scratch = workspace_scratch(plan, workspace),
                      .stream = stream};
    TRY(workspace_invalidate(plan, workspace, stream));
    TRY(error_backend(plan->context->backend->select(&run), "the selection"));
    return workspace_read_list(plan, workspace, list);
}
