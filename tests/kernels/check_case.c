/*
 * One call of the library through its public interface, judged by the double reference: o, lse, the
 * block list that was used, and that nothing else was written.
 *
 * Inputs are random numbers already rounded to the input type, so the reference sees the very same
 * ones. What is allowed: the float error of a logit of the size at hand, then the rounding of the
 * output type.
 */
#include "check_kernels.h"

#include "cpu/reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct call {
    const struct test_case *test;
    draftattn_context *context;
    draftattn_plan *plan;
    draftattn_plan_info info;
    const struct test_space *space;
    struct test_tensor q, k, v, o, lse, want_o, want_lse;
    struct test_tensor weight; /* what o would be if v were |v| */
    draftattn_block_list list;
    void *workspace; /* in space */
    size_t workspace_size;
    int64_t *order, *query_begin, *key_begin;
    int64_t *rows; /* positions; NULL = all */
    int64_t row_count;
    draftattn_stats stats;
    struct verdict *verdict;
};

void check_block_begins(int64_t video, int64_t text, int64_t size, int64_t *begin)
{
    int64_t block = 0;

    for (int64_t at = 0; at < video; at += size) {
        begin[block++] = at;
    }
    for (int64_t at = 0; at < text; at += size) {
        begin[block++] = video + at;
    }
    begin[block] = video + text;
}

void test_case_describe(const struct test_case *test, char *text, size_t size)
{
    const draftattn_plan_desc *desc = &test->desc;

    snprintf(
        text, size,
        "%lldx%lldx%lld+%lld batch %d heads %d dim %d dtype %d->%d order %d layout %d policy %s "
        "sparsity %.3f list %.2f key_block %d strip %d score %d floor %.2f spread %.2f "
        "compensation %d deviation %.2g seed %llu",
        (long long)desc->grid.frames, (long long)desc->grid.height, (long long)desc->grid.width,
        (long long)desc->grid.text_tokens, desc->batch, desc->heads, desc->head_dim,
        (int)desc->in_dtype, (int)desc->out_dtype, (int)desc->order, (int)test->layout,
        draftattn_policy_name(desc->policy), desc->sparsity, test->list_share, desc->key_block,
        desc->strip_height, (int)desc->score, desc->row_floor, desc->head_spread,
        desc->compensation, test->deviation, (unsigned long long)test->seed);
}

/* True on success; else the verdict holds the call and its reason. */
static bool passed(struct call *call, draftattn_status status, const char *what)
{
    char text[160];

    if (status == DRAFTATTN_SUCCESS) {
        return true;
    }
    snprintf(text, sizeof(text), "%s: %s: %.100s", what, draftattn_status_string(status),
             draftattn_context_last_error(call->context));
    verdict_fail(call->verdict, text);
    return false;
}

static void make_tensors(struct call *call, struct random *random)
{
    const draftattn_plan_desc *desc = &call->test->desc;
    const int64_t shape[4] = {desc->batch, desc->heads, call->info.tokens, desc->head_dim};
    const int64_t lse_shape[4] = {desc->batch, desc->heads, call->info.tokens, 1};
    const enum layout layout = call->test->layout;
    const enum layout out = layout == LAYOUT_BROADCAST ? LAYOUT_HEADS_FIRST : layout;

    call->q = test_tensor_make(desc->in_dtype, shape, layout);
    call->k = test_tensor_make(desc->in_dtype, shape, layout);
    call->v = test_tensor_make(desc->in_dtype, shape, layout);
    call->o = test_tensor_make(desc->out_dtype, shape, out);
    call->lse = test_tensor_make(DRAFTATTN_F32, lse_shape, out);
    call->want_o = test_tensor_make(DRAFTATTN_F32, shape, LAYOUT_HEADS_FIRST);
    call->want_lse = test_tensor_make(DRAFTATTN_F32, lse_shape, LAYOUT_HEADS_FIRST);
    call->weight = test_tensor_make(DRAFTATTN_F32, shape, LAYOUT_HEADS_FIRST);
    test_tensor_normal(&call->q, random, call->test->deviation);
    test_tensor_normal(&call->k, random, call->test->deviation);
    test_tensor_normal(&call->v, random, 1);
}

/* CUDA kernels for F16 and BF16 multiply with probabilities of that type. */
static bool rounds_weights(const struct call *call)
{
    return call->info.backend == DRAFTATTN_BACKEND_CUDA &&
           call->test->desc.in_dtype != DRAFTATTN_F32;
}

static void make_positions(struct call *call)
{
    const draftattn_plan_info *info = &call->info;
    const int64_t text = info->tokens - info->video_tokens;

    call->query_begin = check_alloc((size_t)(info->query_blocks + 1) * sizeof(int64_t));
    call->key_begin = check_alloc((size_t)(info->key_blocks + 1) * sizeof(int64_t));
    check_block_begins(info->video_tokens, text, 128, call->query_begin);
    check_block_begins(info->video_tokens, text, call->test->desc.key_block, call->key_begin);
    call->order = check_alloc((size_t)info->tokens * sizeof(int64_t));
    if (call->test->rows > 0 && call->test->rows < info->tokens) {
        call->row_count = call->test->rows;
        call->rows = check_alloc((size_t)call->row_count * sizeof(int64_t));
        for (int64_t i = 0; i < call->row_count; i++) {
            call->rows[i] =
                call->row_count == 1 ? 0 : i * (info->tokens - 1) / (call->row_count - 1);
        }
    }
}

/* Room for any list; a random one where the case asks for it, some rows empty or full. */
static void make_list(struct call *call, struct random *random)
{
    const int64_t rows =
        (int64_t)call->test->desc.batch * call->test->desc.heads * call->info.query_blocks;
    int64_t count = 0;

    call->list.capacity = call->info.max_list_entries;
    call->list.row_ptr = check_alloc((size_t)(rows + 1) * sizeof(int64_t));
    call->list.block_idx = check_alloc((size_t)call->list.capacity * sizeof(int32_t));
    if (call->test->list_share < 0) {
        return;
    }
    for (int64_t row = 0; row < rows; row++) {
        double share = call->test->list_share;
        if (random_chance(random, 0.1)) {
            share = random_chance(random, 0.5) ? 0 : 1;
        }
        call->list.row_ptr[row] = count;
        for (int32_t block = 0; block < call->info.key_blocks; block++) {
            if (random_chance(random, share)) {
                call->list.block_idx[count++] = block;
            }
        }
    }
    call->list.row_ptr[rows] = count;
}

/* Runs, and reads back the list that was used. */
static bool run_library(struct call *call)
{
    const draftattn_block_list *given = call->test->list_share >= 0 ? &call->list : NULL;
    const draftattn_tensor q = test_tensor_push(&call->q, call->space);
    const draftattn_tensor k = test_tensor_push(&call->k, call->space);
    const draftattn_tensor v = test_tensor_push(&call->v, call->space);
    const draftattn_tensor o = test_tensor_push(&call->o, call->space);
    const draftattn_tensor lse = test_tensor_push(&call->lse, call->space);

    if (!passed(call,
                draftattn_run(call->plan, NULL, &q, &k, &v, &o, &lse, given, call->workspace,
                              call->workspace_size, NULL),
                "draftattn_run") ||
        !passed(call, draftattn_read_stats(call->plan, call->workspace, &call->stats, NULL),
                "draftattn_read_stats")) {
        return false;
    }
    test_tensor_pull(&call->o);
    test_tensor_pull(&call->lse);
    if (given) {
        return true;
    }
    return passed(call, draftattn_read_block_list(call->plan, call->workspace, &call->list),
                  "draftattn_read_block_list") &&
           passed(call, draftattn_block_list_check(call->plan, &call->list),
                  "the list that was used");
}

static void judge_values(struct call *call)
{
    static const double output_ulp[] = {0x1p-24, 0x1p-11, 0x1p-8};
    const draftattn_plan_desc *desc = &call->test->desc;
    /* Logits of this deviation come from products that add up, without signs, to some seven times
     * as much; four ulps of that, on two keys whose values differ by two, are 64. */
    const double logit = call->test->deviation * call->test->deviation;
    const double allowed = 0x1p-24 * (24 + 64 * logit);
    /* Of each term that is summed up, and half as much again. */
    const double rounding = rounds_weights(call) ? 1.5 * output_ulp[desc->in_dtype] : 0;
    /* Means of that type move a logit by as much as it is wide, with compensation. */
    const double means = rounds_weights(call) && desc->compensation ? rounding * logit : 0;
    const int64_t rows = call->rows ? call->row_count : call->info.tokens;

    for (int64_t i = 0; i < (int64_t)desc->batch * desc->heads * rows; i++) {
        int64_t b = i / rows / desc->heads, h = i / rows % desc->heads;
        int64_t position = call->rows ? call->rows[i % rows] : i % rows;
        int64_t token = desc->order == DRAFTATTN_ORDER_BLOCK ? position : call->order[position];
        for (int64_t d = 0; d < desc->head_dim; d++) {
            double want = reference_load(&call->want_o.tensor, b, h, token, d);
            double got = reference_load(&call->o.tensor, b, h, token, d);
            double weight = rounding > 0 ? reference_load(&call->weight.tensor, b, h, token, d) : 0;
            /* 2^-25: half the smallest denormal of F16. */
            verdict_add(call->verdict, got, want,
                        allowed + (rounding + means) * weight +
                            output_ulp[desc->out_dtype] * fabs(want) +
                            (desc->out_dtype == DRAFTATTN_F16 ? 0x1p-25 : 0),
                        "o (head, token, d)", i / rows, token, d);
        }
        double want = reference_load(&call->want_lse.tensor, b, h, token, 0);
        double got = reference_load(&call->lse.tensor, b, h, token, 0);
        verdict_add(call->verdict, got, want, allowed + means + 4 * 0x1p-24 * fabs(want),
                    "lse (head, token)", i / rows, token, 0);
    }
}

/* What is told about the run is what its list says. */
static void judge_stats(struct call *call)
{
    const int64_t heads = (int64_t)call->test->desc.batch * call->test->desc.heads;
    const double pairs = (double)(heads * call->info.query_blocks * call->info.key_blocks);
    const double density = (double)call->list.row_ptr[heads * call->info.query_blocks] / pairs;
    char text[120];

    if (!(fabs(call->stats.density - density) <= 1e-6)) {
        snprintf(text, sizeof(text), "density %.9g, the list's is %.9g", call->stats.density,
                 density);
        verdict_fail(call->verdict, text);
    }
}

/* What selection owes whatever it picks: its budget, something for each row, all of the text. */
static void judge_list(struct call *call)
{
    const draftattn_plan_desc *desc = &call->test->desc;
    const draftattn_plan_info *info = &call->info;
    const int64_t heads = (int64_t)desc->batch * desc->heads;
    const int64_t *row_ptr = call->list.row_ptr;
    const bool whole = desc->policy == DRAFTATTN_POLICY_DENSE || desc->sparsity == 0;

    for (int64_t row = 0; row < heads * info->query_blocks; row++) {
        int64_t count = row_ptr[row + 1] - row_ptr[row];
        int64_t text = info->key_blocks - info->video_key_blocks;
        bool full = whole || row % info->query_blocks >= info->video_query_blocks;
        if (count < 1 || (full && count != info->key_blocks)) {
            verdict_fail(call->verdict, full ? "a row is not full" : "a row is empty");
            return;
        }
        if (text > 0 && call->list.block_idx[row_ptr[row + 1] - text] != info->video_key_blocks) {
            verdict_fail(call->verdict, "a row lacks text blocks");
            return;
        }
    }
    /* The mean over heads keeps the budget, unless the least that rows are owed exceeds it. */
    double pairs = (double)info->query_blocks * (double)info->key_blocks;
    double least = pairs - (double)info->video_query_blocks * (double)(info->video_key_blocks - 1);
    double budget = fmax(round((1 - desc->sparsity) * pairs), least) * (double)heads;
    if (!whole && fabs((double)row_ptr[heads * info->query_blocks] - budget) > (double)heads) {
        char text[120];
        snprintf(text, sizeof(text), "%lld pairs in the list, the budget is %.0f",
                 (long long)row_ptr[heads * info->query_blocks], budget);
        verdict_fail(call->verdict, text);
    }
}

static void take_magnitudes(draftattn_tensor *x)
{
    const int64_t *shape = x->shape;

    for (int64_t i = 0; i < shape[0] * shape[1] * shape[2] * shape[3]; i++) {
        int64_t d = i % shape[3], token = i / shape[3] % shape[2], row = i / shape[3] / shape[2];
        double value = reference_load(x, row / shape[1], row % shape[1], token, d);
        reference_store(x, row / shape[1], row % shape[1], token, d, fabs(value));
    }
}

static void judge_call(struct call *call)
{
    const draftattn_plan_desc *desc = &call->test->desc;
    const bool raster = desc->order == DRAFTATTN_ORDER_RASTER;
    struct reference_problem problem = {
        .q = &call->q.tensor,
        .k = &call->k.tensor,
        .v = &call->v.tensor,
        .order = raster ? call->order : NULL,
        .query_begin = call->query_begin,
        .key_begin = call->key_begin,
        .query_blocks = call->info.query_blocks,
        .key_blocks = call->info.key_blocks,
        .scale = desc->softmax_scale > 0 ? desc->softmax_scale : 1 / sqrt(desc->head_dim),
        .list = &call->list,
        .compensation = desc->compensation && desc->policy == DRAFTATTN_POLICY_DRAFT,
        .rows = call->rows,
        .row_count = call->row_count,
        .o = &call->want_o.tensor,
        .lse = &call->want_lse.tensor,
    };

    if (!passed(call, draftattn_plan_order(call->plan, call->order), "draftattn_plan_order")) {
        return;
    }
    if (!reference_attend(&problem)) {
        verdict_fail(call->verdict, "the reference ran out of memory");
        return;
    }
    if (rounds_weights(call)) {
        take_magnitudes(&call->v.tensor);
        problem.o = &call->weight.tensor;
        problem.lse = NULL;
        reference_attend(&problem);
    }
    judge_values(call);
    judge_stats(call);
    if (call->test->list_share < 0 && desc->policy != DRAFTATTN_POLICY_DRAFT_PAPER) {
        judge_list(call);
    }
    if (!test_tensor_guards_hold(&call->o) || !test_tensor_guards_hold(&call->lse)) {
        verdict_fail(call->verdict, "wrote between or outside the elements of o or lse");
    }
}

static void free_call(struct call *call)
{
    test_tensor_free(&call->q);
    test_tensor_free(&call->k);
    test_tensor_free(&call->v);
    test_tensor_free(&call->o);
    test_tensor_free(&call->lse);
    test_tensor_free(&call->want_o);
    test_tensor_free(&call->want_lse);
    test_tensor_free(&call->weight);
    free(call->list.row_ptr);
    free(call->list.block_idx);
    if (call->workspace) {
        call->space->release(call->workspace);
    }
    free(call->order);
    free(call->query_begin);
    free(call->key_begin);
    free(call->rows);
    draftattn_plan_destroy(call->plan);
}

void check_case(draftattn_context *context, const struct test_case *test, struct verdict *verdict)
{
    struct call call = {.test = test, .context = context, .verdict = verdict};
    struct random random = {test->seed};

    call.space = test_space_of(draftattn_context_backend(context));
    if (passed(&call, draftattn_plan_create(&call.plan, context, &test->desc),
               "draftattn_plan_create") &&
        passed(&call, draftattn_plan_info_get(call.plan, &call.info), "draftattn_plan_info_get") &&
        passed(&call, draftattn_plan_workspace_size(call.plan, &call.workspace_size),
               "draftattn_plan_workspace_size")) {
        void *rubbish = check_alloc(call.workspace_size);
        memset(rubbish, 0xff, call.workspace_size);
        call.workspace = call.space->alloc(call.workspace_size);
        call.space->copy(call.workspace, rubbish, call.workspace_size);
        free(rubbish);
        make_tensors(&call, &random);
        make_positions(&call);
        make_list(&call, &random);
        if (run_library(&call)) {
            judge_call(&call);
        }
    }
    free_call(&call);
}
