/*
 * Block lists and masks as a caller hands them in, with a capacity of their own, and tensors with
 * odd strides. What the check accepts must attend and come back through the mask the same; what it
 * refuses every call refuses.
 */
#define _GNU_SOURCE
#include "fuzz_library.h"

struct shape {
    draftattn_plan_desc desc;
    draftattn_plan *plan;
    draftattn_plan_info info;
    int64_t rows;
};

static bool make_plan(struct shape *shape, struct fuzz_input *input)
{
    static const int32_t head_dims[] = {64, 128, 8, 1};
    draftattn_plan_desc *desc = &shape->desc;
    draftattn_context *context = fuzz_context(fuzz_byte(input));
    *desc = draftattn_plan_desc_default();
    desc->grid.frames = fuzz_range(input, 1, 3);
    desc->grid.height = fuzz_range(input, 1, 10);
    desc->grid.width = fuzz_range(input, 1, 13);
    desc->grid.text_tokens = fuzz_range(input, 0, 140);
    uint8_t bits = fuzz_byte(input);
    desc->batch = 1 + (bits & 1);
    desc->heads = 1 + (bits >> 1 & 1);
    desc->head_dim = head_dims[bits >> 2 & 3];
    desc->key_block = bits & 16 ? 64 : 128;
    desc->compensation = bits >> 5 & 1;
    desc->order = bits & 64 ? DRAFTATTN_ORDER_BLOCK : DRAFTATTN_ORDER_RASTER;
    desc->policy = bits & 128 ? DRAFTATTN_POLICY_DENSE : DRAFTATTN_POLICY_DRAFT;
    bits = fuzz_byte(input);
    desc->in_dtype = (draftattn_dtype)(bits % 3);
    desc->out_dtype = (draftattn_dtype)(bits / 3 % 3);
    desc->repair = bits >> 4 & 1;
    desc->probes = bits >> 5;
    if (!fuzz_judge(draftattn_plan_create(&shape->plan, context, desc)))
        return false; /* head sizes that this backend has no kernel for */
    if (!fuzz_judge(draftattn_plan_info_get(shape->plan, &shape->info)))
        abort();
    shape->rows = (int64_t)desc->batch * desc->heads * shape->info.query_blocks;
    return true;
}

/* A list whose entries are small numbers mostly, as far as its capacity goes; the capacity it
 * claims may be less than it has, or negative. */
static draftattn_block_list make_list(const struct shape *shape, struct fuzz_input *input)
{
    int64_t there = fuzz_byte(input);
    draftattn_block_list list = {.capacity = there};
    list.row_ptr = fuzz_alloc((size_t)(shape->rows + 1) * sizeof *list.row_ptr);
    list.block_idx = fuzz_alloc((size_t)list.capacity * sizeof *list.block_idx);
    int64_t at = 0;
    for (int64_t row = 0; row <= shape->rows; row++) {
        uint8_t step = fuzz_byte(input);
        list.row_ptr[row] = at;
        if (step == 255)
            fuzz_take(input, &list.row_ptr[row], sizeof *list.row_ptr);
        at += step % 8;
    }
    for (int64_t i = 0; i < list.capacity; i++) {
        list.block_idx[i] = fuzz_byte(input);
        if (list.block_idx[i] == 255)
            fuzz_take(input, &list.block_idx[i], sizeof *list.block_idx);
    }
    if (fuzz_byte(input) == 255)
        fuzz_take(input, &list.capacity, sizeof list.capacity);
    if (list.capacity > there)
        list.capacity = there;
    return list;
}

static void free_list(draftattn_block_list *list)
{
    free(list->row_ptr);
    free(list->block_idx);
}

/* list -> mask -> list gives the same. */
static void there_and_back(const struct shape *shape, const draftattn_block_list *list)
{
    size_t pairs = (size_t)shape->info.max_list_entries;
    uint8_t *mask = fuzz_alloc(pairs);
    int64_t entries = list->row_ptr[shape->rows];
    draftattn_block_list back = {.capacity = entries};
    back.row_ptr = fuzz_alloc((size_t)(shape->rows + 1) * sizeof *back.row_ptr);
    back.block_idx = fuzz_alloc((size_t)(entries > 0 ? entries : 1) * sizeof *back.block_idx);
    if (!fuzz_judge(draftattn_block_list_to_mask(shape->plan, list, mask)) ||
        !fuzz_judge(draftattn_block_list_from_mask(shape->plan, mask, &back)) ||
        memcmp(back.row_ptr, list->row_ptr, (size_t)(shape->rows + 1) * sizeof *back.row_ptr) != 0)
        abort();
    for (int64_t i = 0; i < entries; i++)
        if (back.block_idx[i] != list->block_idx[i])
            abort();
    free_list(&back);
    free(mask);
}

/* One stride widened, in an array that is as much longer. */
static draftattn_tensor stretch(draftattn_tensor tensor, const struct fuzz_input *values,
                                uint8_t how)
{
    const draftattn_plan_desc flat = {.batch = 1, .heads = 1};
    int64_t reach = 1, last = 0, add = how >> 2, dim = how & 3;
    if (add == 0)
        return tensor;
    for (int64_t i = 3; i >= 0; i--) {
        tensor.stride[i] = reach + (i == dim ? add : 0);
        reach = tensor.stride[i] * tensor.shape[i];
    }
    for (int i = 0; i < 4; i++)
        last += (tensor.shape[i] - 1) * tensor.stride[i];
    free(tensor.data);
    tensor.data = fuzz_tensor(&flat, last + 1, 1, tensor.dtype, values).data;
    return tensor;
}

static void attend(const struct shape *shape, const draftattn_block_list *list, bool accepted,
                   struct fuzz_input *input)
{
    const draftattn_plan_desc *desc = &shape->desc;
    int64_t tokens = shape->info.tokens, dim = desc->head_dim;
    draftattn_tensor all[5];
    size_t bytes;
    for (int i = 0; i < 5; i++) {
        draftattn_dtype dtype = i < 3 ? desc->in_dtype : i == 3 ? desc->out_dtype : DRAFTATTN_F32;
        all[i] = fuzz_tensor(desc, tokens, i < 4 ? dim : 1, dtype, input);
        all[i] = stretch(all[i], input, fuzz_byte(input));
    }
    if (!fuzz_judge(draftattn_plan_workspace_size(shape->plan, &bytes)))
        abort();
    void *workspace = fuzz_workspace(bytes);
    uint8_t hostile = fuzz_byte(input);
    if (hostile & 1)
        fuzz_take(input, &all[hostile >> 1 & 3].shape[hostile >> 3 & 3], sizeof(int64_t));
    bool shaped = true;
    for (int i = 0; i < 5; i++)
        shaped = shaped && all[i].shape[0] == desc->batch && all[i].shape[1] == desc->heads &&
                 all[i].shape[2] == tokens && all[i].shape[3] == (i < 4 ? dim : 1);
    bool ran = fuzz_judge(draftattn_attend(shape->plan, &all[0], &all[1], &all[2], &all[3], &all[4],
                                           list, workspace, bytes, NULL));
    if (ran != (accepted && shaped))
        abort();
    ran = fuzz_judge(draftattn_run(shape->plan, NULL, &all[0], &all[1], &all[2], &all[3], NULL,
                                   list, workspace, bytes, NULL));
    if (ran != (accepted && shaped))
        abort();
    draftattn_stats stats;
    if (ran && !fuzz_judge(draftattn_read_stats(shape->plan, workspace, &stats, NULL)))
        abort();
    free(workspace);
    for (int i = 0; i < 5; i++)
        free(all[i].data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct shape shape = {0};
    if (!make_plan(&shape, &input))
        return 0;
    draftattn_block_list list = make_list(&shape, &input);
    uint8_t *mask = fuzz_alloc((size_t)shape.info.max_list_entries);
    bool accepted = fuzz_judge(draftattn_block_list_check(shape.plan, &list));
    if (fuzz_judge(draftattn_block_list_to_mask(shape.plan, &list, mask)) != accepted)
        abort();
    attend(&shape, &list, accepted, &input);
    if (accepted)
        there_and_back(&shape, &list);
    fuzz_take(&input, mask, (size_t)shape.info.max_list_entries);
    fuzz_judge(draftattn_block_list_from_mask(shape.plan, mask, &list));
    free(mask);
    free_list(&list);
    draftattn_plan_destroy(shape.plan);
    return 0;
}
