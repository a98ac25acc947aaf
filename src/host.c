/*
 * Owns the stages that every backend in host memory takes from src/: the list by the plan's policy
 * or from outside, what it says about the heads, and memory that can simply be copied.
 */
#include "host.h"

#include "block_list.h"
#include "carve.h"
#include "select.h"

#include <math.h>
#include <string.h>

/* Scratch of selection: numbers first, then a byte for each video pair. */
static struct carve place(const struct problem *problem, size_t *keep)
{
    struct carve carve = {0};
    int64_t rows = carve_product(problem->heads, problem->video_query_blocks);
    carve_array(&carve, select_scratch(problem), sizeof(int64_t));
    *keep = carve_array(&carve, carve_product(rows, problem->video_key_blocks), sizeof(uint8_t));
    return carve;
}

bool host_select_size(const struct problem *problem, size_t *bytes)
{
    size_t keep;
    struct carve carve = place(problem, &keep);
    *bytes = carve.size;
    return !carve.overflow;
}

/* Density is known before attending; errors only where nothing is skipped. */
static void fill_heads(const struct run *run)
{
    const struct problem *problem = run->problem;
    const draftattn_block_list *list = run->list;
    int64_t pairs = problem->query_blocks * problem->key_blocks;
    for (int64_t head = 0; head < problem->heads; head++) {
        int64_t kept = pairs;
        if (list)
            kept = list->row_ptr[list_row(problem, head + 1, 0)] -
                   list->row_ptr[list_row(problem, head, 0)];
        float error = kept == pairs ? 0 : NAN;
        run->heads[head] = (draftattn_head_stats){.density = (float)((double)kept / (double)pairs),
                                                  .error = error,
                                                  .error_before = error};
    }
}

draftattn_status host_select(const struct run *run)
{
    draftattn_status status = DRAFTATTN_SUCCESS;
    if (run->list) {
        draftattn_block_list list = *run->list;
        size_t keep;
        place(run->problem, &keep);
        if (run->given)
            status = block_list_copy(run->problem, run->given, &list);
        else
            select_fill(run->problem, run->map, (uint8_t *)run->select_scratch + keep,
                        run->select_scratch, &list);
    }
    fill_heads(run);
    return status;
}

draftattn_status host_store(const struct problem *problem, void *stream, void *to, const void *from,
                            size_t bytes)
{
    (void)problem, (void)stream;
    memcpy(to, from, bytes);
    return DRAFTATTN_SUCCESS;
}

draftattn_status host_read(const struct problem *problem, void *to, const void *from, size_t bytes)
{
    (void)problem;
    memcpy(to, from, bytes);
    return DRAFTATTN_SUCCESS;
}

draftattn_status host_copy(const struct problem *problem, void *stream, void *to, const void *from,
                           size_t bytes)
{
    (void)stream;
    return host_read(problem, to, from, bytes);
}
