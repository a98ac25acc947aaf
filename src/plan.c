/*
 * Owns a plan: a checked description bound to a kernel, its block order and block bounds, and where
 * everything lies in the workspace. Immutable once made. It refuses what no kernel of the context's
 * backend does, and sizes that leave 64 bits.
 */
#include "plan.h"

#include "carve.h"
#include "cost.h"
#include "error.h"
#include "names.h"
#include "order.h"
#include "workspace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

draftattn_plan_desc draftattn_plan_desc_default(void)
{
    return (draftattn_plan_desc){.size = sizeof(draftattn_plan_desc),
                                 .grid = {1, 1, 1, 0},
                                 .batch = 1,
                                 .heads = 1,
                                 .head_dim = 128,
                                 .in_dtype = DRAFTATTN_F32,
                                 .out_dtype = DRAFTATTN_F32,
                                 .policy = DRAFTATTN_POLICY_DRAFT,
                                 .order = DRAFTATTN_ORDER_RASTER,
                                 .sparsity = 0.75,
                                 .key_block = 128,
                                 .strip_height = 8,
                                 .score = DRAFTATTN_SCORE_MASS,
                                 .row_floor = 1,
                                 .head_spread = 1,
                                 .compensation = 1,
                                 .probes = 256,
                                 .repair = 1,
                                 .ridge = 0.1,
                                 .dense_steps = 0.2};
}

static int64_t blocks_of(int64_t tokens, int64_t size)
{
    return tokens / size + (tokens % size != 0);
}

/* begin[] of the video blocks, then of the text blocks, then the end of all. */
static void fill_begins(int64_t *begin, int64_t video, int64_t tokens, int64_t size)
{
    int64_t block = 0;
    for (int64_t at = 0; at < video; at += size)
        begin[block++] = at;
    for (int64_t at = video; at < tokens; at += size)
        begin[block++] = at;
    begin[block] = tokens;
}

static void count_blocks(struct problem *problem)
{
    const draftattn_grid *grid = &problem->desc.grid;
    int64_t text = grid->text_tokens, key_block = problem->desc.key_block;
    problem->video_tokens = grid->frames * grid->height * grid->width;
    problem->tokens = problem->video_tokens + text;
    problem->video_query_blocks = blocks_of(problem->video_tokens, PLAN_QUERY_BLOCK);
    problem->query_blocks = problem->video_query_blocks + blocks_of(text, PLAN_QUERY_BLOCK);
    problem->video_key_blocks = blocks_of(problem->video_tokens, key_block);
    problem->key_blocks = problem->video_key_blocks + blocks_of(text, key_block);
    problem->probes = problem->desc.probes;
    if (problem->probes > problem->video_tokens)
        problem->probes = problem->video_tokens;
    problem->heads = (int64_t)problem->desc.batch * problem->desc.heads;
}

static draftattn_status make_order(draftattn_plan *plan)
{
    struct problem *problem = &plan->problem;
    const draftattn_plan_desc *desc = &problem->desc;
    int64_t begins = problem->query_blocks + problem->key_blocks + 2;
    plan->order = malloc((size_t)problem->tokens * sizeof(*plan->order));
    plan->begins = malloc((size_t)begins * sizeof(*plan->begins));
    RETURN_IF(!plan->order || !plan->begins, DRAFTATTN_OUT_OF_MEMORY,
              "no memory for the block order of %lld tokens", (long long)problem->tokens);
    if (desc->policy == DRAFTATTN_POLICY_DRAFT_PAPER)
        order_patches(&desc->grid, plan->order);
    else
        order_strips(&desc->grid, desc->strip_height, plan->order);
    for (int64_t i = problem->video_tokens; i < problem->tokens; i++)
        plan->order[i] = i;
    problem->order = desc->order == DRAFTATTN_ORDER_RASTER ? plan->order : NULL;

    int64_t *key_begin = plan->begins + problem->query_blocks + 1;
    fill_begins(plan->begins, problem->video_tokens, problem->tokens, PLAN_QUERY_BLOCK);
    fill_begins(key_begin, problem->video_tokens, problem->tokens, desc->key_block);
    problem->query_begin = plan->begins;
    problem->key_begin = key_begin;
    return DRAFTATTN_SUCCESS;
}

static draftattn_status copy_layers(draftattn_plan *plan)
{
    draftattn_plan_desc *desc = &plan->problem.desc;
    size_t bytes = (size_t)desc->dense_layer_count * sizeof(int32_t);
    if (desc->dense_layer_count > 0) {
        plan->dense_layers = malloc(bytes);
        RETURN_IF(!plan->dense_layers, DRAFTATTN_OUT_OF_MEMORY, "no memory for %d dense layers",
                  desc->dense_layer_count);
        memcpy(plan->dense_layers, desc->dense_layers, bytes);
    }
    desc->dense_layers = plan->dense_layers;
    return DRAFTATTN_SUCCESS;
}

/* NULL = the row can do the plan's problem, else why not. */
static const char *row_why_not(const draftattn_plan *plan, const struct kernel_row *row)
{
    const struct backend *backend = plan->context->backend;
    int32_t head_dim = plan->problem.desc.head_dim;
    if (row->head_dim != 0 && row->head_dim != head_dim)
        return row->head_dim == 64 ? "it is compiled for head_dim 64"
                                   : "it is compiled for head_dim 128";
    if (!backend->row_why_not)
        return NULL;
    return backend->row_why_not(row, &plan->problem, plan->problem.device);
}

static draftattn_status choose_kernel(draftattn_plan *plan)
{
    const struct draftattn_context *context = plan->context;
    const draftattn_plan_desc *desc = &plan->problem.desc;
    draftattn_backend backend = context->backend->id;
    const struct kernel_row *rows, *forced = context->kernel;
    const char *why = NULL;
    int32_t count;
    rows = kernels_all(&count);
    for (int32_t i = 0; i < count; i++) {
        const struct kernel_row *row = &rows[i];
        if (row->backend != backend || (forced && row != forced))
            continue;
        why = row_why_not(plan, row);
        if (!why) {
            plan->problem.kernel = row;
            context_log(context, "kernel %s", row->name);
            return DRAFTATTN_SUCCESS;
        }
        context_log(context, "kernel %s passed over: %s", row->name, why);
    }
    RETURN_IF(forced, DRAFTATTN_UNSUPPORTED,
              "kernel %s, which is asked for by name, cannot do this plan (head_dim %d, %s): %s",
              forced->name, desc->head_dim, dtype_name(desc->in_dtype), why);
    RETURN_IF(desc->head_dim == 64 || desc->head_dim == 128, DRAFTATTN_UNSUPPORTED,
              "no kernel of backend %s can do this plan (head_dim %d, %s): %s",
              draftattn_backend_name(backend), desc->head_dim, dtype_name(desc->in_dtype),
              why ? why : "there is none");
    return error_report(DRAFTATTN_UNSUPPORTED,
                        "head_dim is %d; backend %s has kernels for 64 and 128, and backend "
                        "reference takes any",
                        desc->head_dim, draftattn_backend_name(backend));
}

static draftattn_status lay_out(draftattn_plan *plan)
{
    const struct problem *problem = &plan->problem;
    struct plan_layout *layout = &plan->layout;
    const struct backend *backend = plan->context->backend;
    struct carve carve = {0};
    size_t select = 0, scratch = 0;
    int64_t rows = carve_product(problem->heads, problem->query_blocks);
    int64_t entries = carve_product(carve_product(problem->heads, problem->video_query_blocks),
                                    problem->video_key_blocks);
    plan->pairs = carve_product(rows, problem->key_blocks);
    layout->header = carve_array(&carve, 1, sizeof(struct workspace_header));
    layout->heads = carve_array(&carve, problem->heads, sizeof(draftattn_head_stats));
    layout->row_ptr = carve_array(&carve, rows < 0 ? rows : rows + 1, sizeof(int64_t));
    layout->block_idx = carve_array(&carve, plan->pairs, sizeof(int32_t));
    layout->map = carve_array(&carve, entries, sizeof(float));
    bool fits = !carve.overflow && backend->select_size(problem, &select) &&
                backend->scratch_size(problem, &scratch) && select <= PTRDIFF_MAX &&
                scratch <= PTRDIFF_MAX;
    layout->select = carve_array(&carve, fits ? (int64_t)select : -1, 1);
    layout->scratch = carve_array(&carve, fits ? (int64_t)scratch : -1, 1);
    layout->size = carve.size;
    RETURN_IF(carve.overflow, DRAFTATTN_INVALID_ARGUMENT,
              "a workspace for %lld tokens and %lld heads does not fit the address space",
              (long long)problem->tokens, (long long)problem->heads);
    return DRAFTATTN_SUCCESS;
}

static draftattn_status create(draftattn_plan *plan, const draftattn_plan_desc *desc)
{
    plan->problem.desc = *desc;
    plan->problem.desc.dense_layers = NULL;
    plan->problem.threads = plan->context->threads;
    plan->problem.device = plan->context->device;
    if (desc->softmax_scale == 0)
        plan->problem.desc.softmax_scale = (float)(1 / sqrt(desc->head_dim));
    count_blocks(&plan->problem);
    TRY(choose_kernel(plan));
    TRY(lay_out(plan));
    plan->break_even = cost_break_even(&plan->problem, plan->context->backend->cost);
    plan->problem.desc.dense_layers = desc->dense_layers;
    TRY(copy_layers(plan));
    TRY(make_order(plan));
    const struct backend *backend = plan->context->backend;
    if (!backend->prepare)
        return DRAFTATTN_SUCCESS;
    return error_backend(backend->prepare(&plan->problem, &plan->problem.prepared),
                         "preparing the plan");
}

draftattn_status draftattn_plan_create(draftattn_plan **out, draftattn_context *context,
                                       const draftattn_plan_desc *desc)
{
    RETURN_IF(!out, DRAFTATTN_INVALID_ARGUMENT, "out is NULL");
    *out = NULL;
    RETURN_IF(!context, DRAFTATTN_INVALID_ARGUMENT, "context is NULL");
    RETURN_IF(!desc, DRAFTATTN_INVALID_ARGUMENT, "desc is NULL");
    TRY(plan_check(desc));
    draftattn_plan *plan = calloc(1, sizeof(*plan));
    RETURN_IF(!plan, DRAFTATTN_OUT_OF_MEMORY, "no memory for a plan");
    plan->context = context;
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    plan->made = (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
    draftattn_status status = create(plan, desc);
    if (status == DRAFTATTN_SUCCESS)
        *out = plan;
    else
        draftattn_plan_destroy(plan);
    return status;
}

void draftattn_plan_destroy(draftattn_plan *plan)
{
    if (!plan)
        return;
    if (plan->problem.prepared)
        plan->context->backend->release(&plan->problem, plan->problem.prepared);
    free(plan->order);
    free(plan->begins);
    free(plan->dense_layers);
    free(plan);
}

draftattn_status draftattn_plan_info_get(const draftattn_plan *plan, draftattn_plan_info *info)
{
    RETURN_IF(!plan || !info, DRAFTATTN_INVALID_ARGUMENT, "%s is NULL", plan ? "info" : "plan");
    const struct problem *problem = &plan->problem;
    draftattn_backend backend = plan->context->backend->id;
    *info = (draftattn_plan_info){.backend = backend,
                                  .backend_name = draftattn_backend_name(backend),
                                  .kernel_name = problem->kernel->name,
                                  .tokens = problem->tokens,
                                  .video_tokens = problem->video_tokens,
                                  .query_blocks = problem->query_blocks,
                                  .video_query_blocks = problem->video_query_blocks,
                                  .key_blocks = problem->key_blocks,
                                  .video_key_blocks = problem->video_key_blocks,
                                  .max_list_entries = plan->pairs,
                                  .break_even_tokens = plan->break_even};
    return DRAFTATTN_SUCCESS;
}

draftattn_status draftattn_plan_workspace_size(const draftattn_plan *plan, size_t *bytes)
{
    RETURN_IF(!plan || !bytes, DRAFTATTN_INVALID_ARGUMENT, "%s is NULL", plan ? "bytes" : "plan");
    *bytes = plan->layout.size;
    return DRAFTATTN_SUCCESS;
}

draftattn_status draftattn_plan_order(const draftattn_plan *plan, int64_t *order)
{
    RETURN_IF(!plan || !order, DRAFTATTN_INVALID_ARGUMENT, "%s is NULL", plan ? "order" : "plan");
    memcpy(order, plan->order, (size_t)plan->problem.tokens * sizeof(*order));
    return DRAFTATTN_SUCCESS;
}
