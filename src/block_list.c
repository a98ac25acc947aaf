/*
 * Owns block lists in host memory: filling them from marks, checking those that come from outside,
 * and the way to and from dense masks. A list from outside is hostile until checked: nothing is
 * read before the offsets that lead there have been.
 */
#include "block_list.h"

#include "error.h"
#include "plan.h"

#include <string.h>

/* Fewer are done before threads have woken up. */
#define MIN_SHARED_PAIRS 100000

static int64_t row_count(const struct problem *problem)
{
    return problem->heads * problem->query_blocks;
}

/* Marks of a row's video pairs, or NULL where the row is all kept. */
static const uint8_t *row_marks(const struct problem *problem, const uint8_t *keep, int64_t row)
{
    int64_t head = row / problem->query_blocks, block = row % problem->query_blocks;
    if (block >= problem->video_query_blocks)
        return NULL;
    return keep + (head * problem->video_query_blocks + block) * problem->video_key_blocks;
}

void block_list_fill(const struct problem *problem, const uint8_t *keep, draftattn_block_list *list)
{
    int64_t rows = row_count(problem), video = problem->video_key_blocks;
    bool threads_pay = rows * problem->key_blocks > MIN_SHARED_PAIRS;
    list->row_ptr[0] = 0;
#pragma omp parallel for num_threads(problem->threads) if (threads_pay)
    for (int64_t row = 0; row < rows; row++) {
        const uint8_t *marks = row_marks(problem, keep, row);
        int64_t count = problem->key_blocks - video;
        for (int64_t block = 0; block < video; block++)
            count += !marks || marks[block];
        list->row_ptr[row + 1] = count;
    }
    for (int64_t row = 0; row < rows; row++)
        list->row_ptr[row + 1] += list->row_ptr[row];
#pragma omp parallel for num_threads(problem->threads) if (threads_pay)
    for (int64_t row = 0; row < rows; row++) {
        const uint8_t *marks = row_marks(problem, keep, row);
        int32_t *out = list->block_idx + list->row_ptr[row];
        for (int64_t block = 0; block < problem->key_blocks; block++)
            if (block >= video || !marks || marks[block])
                *out++ = (int32_t)block;
    }
}

void block_list_fill_dense(const struct problem *problem, draftattn_block_list *list)
{
    int64_t rows = row_count(problem), blocks = problem->key_blocks;
    for (int64_t row = 0; row <= rows; row++)
        list->row_ptr[row] = row * blocks;
    for (int64_t i = 0; i < rows * blocks; i++)
        list->block_idx[i] = (int32_t)(i % blocks);
}

draftattn_status block_list_copy(const struct problem *problem, const draftattn_block_list *from,
                                 draftattn_block_list *to)
{
    int64_t rows = row_count(problem), entries = from->row_ptr[rows];
    RETURN_IF(to->capacity < entries, DRAFTATTN_INVALID_ARGUMENT,
              "list.capacity is %lld and the list has %lld entries", (long long)to->capacity,
              (long long)entries);
    memcpy(to->row_ptr, from->row_ptr, (size_t)(rows + 1) * sizeof(*to->row_ptr));
    if (entries > 0) /* a list without entries may be without an array for them */
        memcpy(to->block_idx, from->block_idx, (size_t)entries * sizeof(*to->block_idx));
    return DRAFTATTN_SUCCESS;
}

static draftattn_status check_row(const struct problem *problem, const draftattn_block_list *list,
                                  int64_t row)
{
    int64_t begin = list->row_ptr[row], end = list->row_ptr[row + 1];
    long long head = row / problem->query_blocks, block = row % problem->query_blocks;
    RETURN_IF(end < begin, DRAFTATTN_INVALID_ARGUMENT,
              "list.row_ptr falls from %lld to %lld at head %lld, query block %lld",
              (long long)begin, (long long)end, head, block);
    RETURN_IF(end > list->capacity, DRAFTATTN_INVALID_ARGUMENT,
              "list.row_ptr is %lld after head %lld, query block %lld, and list.capacity is %lld",
              (long long)end, head, block, (long long)list->capacity);
    for (int64_t i = begin; i < end; i++) {
        int32_t key = list->block_idx[i];
        RETURN_IF(
            key < 0 || key >= problem->key_blocks, DRAFTATTN_INVALID_ARGUMENT,
            "list.block_idx[%lld] is %d (head %lld, query block %lld); key blocks are 0 to %lld",
            (long long)i, key, head, block, (long long)problem->key_blocks - 1);
        RETURN_IF(i > begin && key <= list->block_idx[i - 1], DRAFTATTN_INVALID_ARGUMENT,
                  "list.block_idx[%lld] is %d after %d (head %lld, query block %lld); a row is "
                  "strictly ascending",
                  (long long)i, key, list->block_idx[i - 1], head, block);
    }
    return DRAFTATTN_SUCCESS;
}

draftattn_status block_list_validate(const struct problem *problem,
                                     const draftattn_block_list *list)
{
    RETURN_IF(!list->row_ptr || (!list->block_idx && list->capacity > 0),
              DRAFTATTN_INVALID_ARGUMENT, "list.%s is NULL",
              list->row_ptr ? "block_idx" : "row_ptr");
    RETURN_IF(list->capacity < 0, DRAFTATTN_INVALID_ARGUMENT, "list.capacity is %lld",
              (long long)list->capacity);
    RETURN_IF(list->row_ptr[0] != 0, DRAFTATTN_INVALID_ARGUMENT,
              "list.row_ptr[0] is %lld; a list starts at 0", (long long)list->row_ptr[0]);
    for (int64_t row = 0; row < row_count(problem); row++)
        TRY(check_row(problem, list, row));
    return DRAFTATTN_SUCCESS;
}

draftattn_status draftattn_block_list_check(const draftattn_plan *plan,
                                            const draftattn_block_list *list)
{
    RETURN_IF(!plan || !list, DRAFTATTN_INVALID_ARGUMENT, "%s is NULL", plan ? "list" : "plan");
    return block_list_validate(&plan->problem, list);
}

draftattn_status draftattn_block_list_to_mask(const draftattn_plan *plan,
                                              const draftattn_block_list *list, uint8_t *mask)
{
    RETURN_IF(!mask, DRAFTATTN_INVALID_ARGUMENT, "mask is NULL");
    TRY(draftattn_block_list_check(plan, list));
    int64_t blocks = plan->problem.key_blocks, rows = row_count(&plan->problem);
    memset(mask, 0, (size_t)(rows * blocks));
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = list->row_ptr[row]; i < list->row_ptr[row + 1]; i++)
            mask[row * blocks + list->block_idx[i]] = 1;
    return DRAFTATTN_SUCCESS;
}

draftattn_status draftattn_block_list_from_mask(const draftattn_plan *plan, const uint8_t *mask,
                                                draftattn_block_list *list)
{
    RETURN_IF(!plan || !mask || !list, DRAFTATTN_INVALID_ARGUMENT, "%s is NULL",
              !plan   ? "plan"
              : !mask ? "mask"
                      : "list");
    RETURN_IF(!list->row_ptr || !list->block_idx, DRAFTATTN_INVALID_ARGUMENT, "list.%s is NULL",
              list->row_ptr ? "block_idx" : "row_ptr");
    int64_t blocks = plan->problem.key_blocks, rows = row_count(&plan->problem), entries = 0;
    for (int64_t i = 0; i < rows * blocks; i++) {
        RETURN_IF(mask[i] > 1, DRAFTATTN_INVALID_ARGUMENT, "mask[%lld] is %d; it is 0 or 1",
                  (long long)i, mask[i]);
        entries += mask[i];
    }
    RETURN_IF(list->capacity < entries, DRAFTATTN_INVALID_ARGUMENT,
              "list.capacity is %lld and the mask has %lld entries", (long long)list->capacity,
              (long long)entries);
    entries = 0;
    list->row_ptr[0] = 0;
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t block = 0; block < blocks; block++)
            if (mask[row * blocks + block])
                list->block_idx[entries++] = (int32_t)block;
        list->row_ptr[row + 1] = entries;
    }
    return DRAFTATTN_SUCCESS;
}
