/*
 * Hostile descriptions of plans. The input is a series of edits, a field's number and eight bytes
 * that go into it. Whatever is accepted must answer all questions and, where it is small, run.
 */
#define _GNU_SOURCE
#include "fuzz_library.h"

#define LARGE_TOKENS (1 << 14) /* more is left out: memory and time are all it would show */
#define LARGE_RUN    (1 << 15)
#define MAX_LAYERS   16
#define FIELD(member)                                                                              \
    offsetof(draftattn_plan_desc, member), sizeof(((draftattn_plan_desc *)0)->member)

static const struct field {
    size_t offset, size;
} fields[] = {
    {FIELD(grid.frames)},  {FIELD(grid.height)},
    {FIELD(grid.width)},   {FIELD(grid.text_tokens)},
    {FIELD(batch)},        {FIELD(heads)},
    {FIELD(head_dim)},     {FIELD(in_dtype)},
    {FIELD(out_dtype)},    {FIELD(softmax_scale)},
    {FIELD(policy)},       {FIELD(order)},
    {FIELD(sparsity)},     {FIELD(key_block)},
    {FIELD(strip_height)}, {FIELD(score)},
    {FIELD(row_floor)},    {FIELD(head_spread)},
    {FIELD(compensation)}, {FIELD(probes)},
    {FIELD(repair)},       {FIELD(ridge)},
    {FIELD(dense_steps)},  {FIELD(dense_sigma)},
    {FIELD(min_tokens)},   {FIELD(dense_layer_count)},
    {FIELD(size)},
};
#define FIELD_COUNT (sizeof fields / sizeof *fields)

static bool is_large(const draftattn_grid *grid)
{
    int64_t tokens;
    if (grid->frames < 1 || grid->height < 1 || grid->width < 1 || grid->text_tokens < 0)
        return false; /* to be refused */
    return __builtin_mul_overflow(grid->frames, grid->height, &tokens)
               ? false
               : !__builtin_mul_overflow(tokens, grid->width, &tokens) &&
                     !__builtin_add_overflow(tokens, grid->text_tokens, &tokens) &&
                     tokens > LARGE_TOKENS && tokens <= INT32_MAX;
}

static void ask(const draftattn_plan *plan, const draftattn_plan_info *info,
                const draftattn_step *step)
{
    int32_t dense;
    char exact[1], *whole;
    if (!fuzz_judge(draftattn_plan_is_dense(plan, step, &dense)) || dense < 0 || dense > 1)
        abort();
    size_t length = draftattn_plan_describe(plan, step, NULL, 0);
    if (draftattn_plan_describe(plan, step, exact, sizeof exact) != length || exact[0])
        abort();
    whole = fuzz_alloc(length + 1);
    if (draftattn_plan_describe(plan, step, whole, length + 1) != length || strlen(whole) != length)
        abort();
    free(whole);
    int64_t *order = fuzz_alloc((size_t)info->tokens * sizeof *order);
    uint8_t *seen = fuzz_alloc((size_t)info->tokens);
    memset(seen, 0, (size_t)info->tokens);
    if (!fuzz_judge(draftattn_plan_order(plan, order)))
        abort();
    for (int64_t i = 0; i < info->tokens; i++)
        if (order[i] < 0 || order[i] >= info->tokens || seen[order[i]]++)
            abort();
    free(seen);
    free(order);
}

static void read_back(const draftattn_plan *plan, const draftattn_plan_info *info,
                      const draftattn_plan_desc *desc, const void *workspace)
{
    int64_t heads = (int64_t)desc->batch * desc->heads;
    draftattn_stats stats;
    draftattn_head_stats *each = fuzz_alloc((size_t)heads * sizeof *each);
    draftattn_block_list list = {.capacity = info->max_list_entries};
    list.row_ptr = fuzz_alloc((size_t)(heads * info->query_blocks + 1) * sizeof *list.row_ptr);
    list.block_idx = fuzz_alloc((size_t)list.capacity * sizeof *list.block_idx);
    if (!fuzz_judge(draftattn_read_stats(plan, workspace, &stats, each)) ||
        !(stats.density >= 0 && stats.density <= 1) ||
        !fuzz_judge(draftattn_read_block_list(plan, workspace, &list)) ||
        !fuzz_judge(draftattn_block_list_check(plan, &list)))
        abort();
    free(list.block_idx);
    free(list.row_ptr);
    free(each);
}

static void run(const draftattn_plan *plan, const draftattn_plan_info *info,
                const draftattn_plan_desc *desc, const draftattn_step *step, size_t bytes,
                const struct fuzz_input *input)
{
    draftattn_tensor q, k, v, o, lse;
    q = fuzz_tensor(desc, info->tokens, desc->head_dim, desc->in_dtype, input);
    k = fuzz_tensor(desc, info->tokens, desc->head_dim, desc->in_dtype, input);
    v = fuzz_tensor(desc, info->tokens, desc->head_dim, desc->in_dtype, input);
    o = fuzz_tensor(desc, info->tokens, desc->head_dim, desc->out_dtype, input);
    lse = fuzz_tensor(desc, info->tokens, 1, DRAFTATTN_F32, input);
    void *workspace = fuzz_workspace(bytes);
    if (!fuzz_judge(draftattn_run(plan, step, &q, &k, &v, &o, &lse, NULL, workspace, bytes, NULL)))
        abort();
    read_back(plan, info, desc, workspace);
    free(workspace);
    free(lse.data);
    free(o.data);
    free(v.data);
    free(k.data);
    free(q.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size}, values;
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    draftattn_plan *plan = NULL;
    draftattn_step step;
    desc.head_dim = 64, desc.probes = 8; /* for speed */
    draftattn_context *context = fuzz_context(fuzz_byte(&input));
    fuzz_take(&input, &step, sizeof step);
    values = input;
    while (input.size > 0) {
        const struct field *field = &fields[fuzz_byte(&input) % FIELD_COUNT];
        uint8_t value[8];
        fuzz_take(&input, value, sizeof value);
        memcpy((char *)&desc + field->offset, value, field->size);
    }
    if (is_large(&desc.grid) || desc.dense_layer_count > MAX_LAYERS)
        return 0;
    int32_t layers[MAX_LAYERS] = {0, 3, -1, INT32_MAX, INT32_MIN};
    int32_t *exact = NULL; /* as long as it is said to be */
    if (desc.dense_layer_count > 0) {
        exact = fuzz_alloc((size_t)desc.dense_layer_count * sizeof *exact);
        memcpy(exact, layers, (size_t)desc.dense_layer_count * sizeof *exact);
    }
    desc.dense_layers = exact;
    bool made = fuzz_judge(draftattn_plan_create(&plan, context, &desc));
    free(exact); /* the plan has its own */
    if (made != (plan != NULL))
        abort();
    draftattn_plan_info info;
    size_t bytes;
    if (made && fuzz_judge(draftattn_plan_info_get(plan, &info)) &&
        fuzz_judge(draftattn_plan_workspace_size(plan, &bytes))) {
        ask(plan, &info, &step);
        ask(plan, &info, NULL);
        int64_t heads = (int64_t)desc.batch * desc.heads;
        if (heads < LARGE_RUN && info.tokens * desc.head_dim < LARGE_RUN &&
            heads * info.tokens * desc.head_dim < LARGE_RUN)
            run(plan, &info, &desc, &step, bytes, &values);
    }
    draftattn_plan_destroy(plan);
    return 0;
}
