/*
 * Owns the checks of a plan's description: each refusal names the field, its value and what would
 * fit. It knows no kernel; what is well-formed but has no kernel is for plan.c to refuse.
 */
#include "error.h"
#include "order.h"
#include "plan.h"

#include <math.h>

#define MAX_HEAD_DIM 512

#define REFUSE_IF(condition, ...) RETURN_IF(condition, DRAFTATTN_INVALID_ARGUMENT, __VA_ARGS__)

/* NaN is outside every range. */
static bool within(double value, double low, double high)
{
    return value >= low && value <= high;
}

static draftattn_status check_grid(const draftattn_grid *grid)
{
    int64_t tokens;
    bool overflow;
    REFUSE_IF(grid->frames < 1 || grid->height < 1 || grid->width < 1,
              "grid is %lld x %lld x %lld (frames, height, width); each is at least 1",
              (long long)grid->frames, (long long)grid->height, (long long)grid->width);
    REFUSE_IF(grid->text_tokens < 0, "grid.text_tokens is %lld; it is 0 or more",
              (long long)grid->text_tokens);
    overflow = __builtin_mul_overflow(grid->frames, grid->height, &tokens) ||
               __builtin_mul_overflow(tokens, grid->width, &tokens) ||
               __builtin_add_overflow(tokens, grid->text_tokens, &tokens);
    REFUSE_IF(overflow || tokens > PLAN_MAX_TOKENS,
              "grid %lld x %lld x %lld with %lld text tokens has more than %d tokens",
              (long long)grid->frames, (long long)grid->height, (long long)grid->width,
              (long long)grid->text_tokens, PLAN_MAX_TOKENS);
    return DRAFTATTN_SUCCESS;
}

/* The nearest multiple of unit that is not 0. */
static long long nearest(int64_t size, int64_t unit)
{
    int64_t units = (size + unit / 2) / unit;
    return units ? units * unit : unit;
}

static draftattn_status check_patches(const draftattn_plan_desc *desc)
{
    const draftattn_grid *grid = &desc->grid;
    REFUSE_IF(
        grid->height % ORDER_PATCH_HEIGHT || grid->width % ORDER_PATCH_WIDTH,
        "policy draft-paper cuts frames into %d x %d patches, and a grid of %lld x %lld tokens "
        "(height x width) does not divide; the nearest that does is %lld x %lld, and policy "
        "draft takes any grid",
        ORDER_PATCH_HEIGHT, ORDER_PATCH_WIDTH, (long long)grid->height, (long long)grid->width,
        nearest(grid->height, ORDER_PATCH_HEIGHT), nearest(grid->width, ORDER_PATCH_WIDTH));
    REFUSE_IF(desc->key_block != PLAN_QUERY_BLOCK,
              "key_block is %d; policy draft-paper is defined for 128", desc->key_block);
    return DRAFTATTN_SUCCESS;
}

static draftattn_status check_shape(const draftattn_plan_desc *desc)
{
    TRY(check_grid(&desc->grid));
    REFUSE_IF(desc->batch < 1, "batch is %d; it is at least 1", desc->batch);
    REFUSE_IF(desc->heads < 1, "heads is %d; it is at least 1", desc->heads);
    REFUSE_IF(desc->head_dim < 1 || desc->head_dim > MAX_HEAD_DIM, "head_dim is %d; it is 1 to %d",
              desc->head_dim, MAX_HEAD_DIM);
    REFUSE_IF((int)desc->in_dtype < 0 || desc->in_dtype > DRAFTATTN_BF16,
              "in_dtype is %d; it is F32, F16 or BF16", (int)desc->in_dtype);
    REFUSE_IF((int)desc->out_dtype < 0 || desc->out_dtype > DRAFTATTN_BF16,
              "out_dtype is %d; it is F32, F16 or BF16", (int)desc->out_dtype);
    REFUSE_IF(!isfinite(desc->softmax_scale) || desc->softmax_scale < 0,
              "softmax_scale is %g; it is positive, or 0 for 1 / sqrt(head_dim)",
              (double)desc->softmax_scale);
    REFUSE_IF((int)desc->order < 0 || desc->order > DRAFTATTN_ORDER_BLOCK,
              "order is %d; it is RASTER or BLOCK", (int)desc->order);
    return DRAFTATTN_SUCCESS;
}

static draftattn_status check_policy(const draftattn_plan_desc *desc)
{
    REFUSE_IF((int)desc->policy < 0 || desc->policy > DRAFTATTN_POLICY_DRAFT_PAPER,
              "policy is %d; it is dense, draft or draft-paper", (int)desc->policy);
    REFUSE_IF(!(desc->sparsity >= 0 && desc->sparsity < 1),
              "sparsity is %g; it is at least 0 and below 1", desc->sparsity);
    REFUSE_IF(desc->key_block != 128 && desc->key_block != 64, "key_block is %d; it is 128 or 64",
              desc->key_block);
    REFUSE_IF(desc->strip_height < 1, "strip_height is %d; it is at least 1", desc->strip_height);
    REFUSE_IF((int)desc->score < 0 || desc->score > DRAFTATTN_SCORE_SPREAD,
              "score is %d; it is MASS or SPREAD", (int)desc->score);
    REFUSE_IF(!within(desc->row_floor, 0, 1), "row_floor is %g; it is in [0, 1]", desc->row_floor);
    REFUSE_IF(!within(desc->head_spread, 1, 1e6), "head_spread is %g; it is a factor, 1 to 1e6",
              desc->head_spread);
    if (desc->policy == DRAFTATTN_POLICY_DRAFT_PAPER)
        TRY(check_patches(desc));
    return DRAFTATTN_SUCCESS;
}

static draftattn_status check_repair(const draftattn_plan_desc *desc)
{
    REFUSE_IF(desc->compensation != 0 && desc->compensation != 1,
              "compensation is %d; it is 0 or 1", desc->compensation);
    REFUSE_IF(desc->probes < 0 || desc->probes > PLAN_MAX_PROBES, "probes is %d; it is 0 to %d",
              desc->probes, PLAN_MAX_PROBES);
    REFUSE_IF(desc->repair != 0 && desc->repair != 1, "repair is %d; it is 0 or 1", desc->repair);
    /* Far above this the errors it is judged by vanish in float32. */
    REFUSE_IF(!(desc->ridge > 0) || desc->ridge > 1e6, "ridge is %g; it is in (0, 1e6]",
              desc->ridge);
    return DRAFTATTN_SUCCESS;
}

static draftattn_status check_guards(const draftattn_plan_desc *desc)
{
    REFUSE_IF(!within(desc->dense_steps, 0, 1), "dense_steps is %g; it is a share in [0, 1]",
              desc->dense_steps);
    REFUSE_IF(!(desc->dense_sigma >= 0) || !isfinite(desc->dense_sigma),
              "dense_sigma is %g; it is positive, or 0 for not used", desc->dense_sigma);
    REFUSE_IF(desc->dense_layer_count < 0, "dense_layer_count is %d; it is 0 or more",
              desc->dense_layer_count);
    REFUSE_IF(desc->dense_layer_count > 0 && !desc->dense_layers,
              "dense_layer_count is %d, but dense_layers is NULL", desc->dense_layer_count);
    REFUSE_IF(desc->min_tokens < 0, "min_tokens is %lld; it is 0 (automatic), 1 (none) or more",
              (long long)desc->min_tokens);
    return DRAFTATTN_SUCCESS;
}

draftattn_status plan_check(const draftattn_plan_desc *desc)
{
    REFUSE_IF(desc->size != sizeof(*desc),
              "draftattn_plan_desc.size is %zu, this library's is %zu; start from "
              "draftattn_plan_desc_default() and use the header that belongs to the library",
              desc->size, sizeof(*desc));
    TRY(check_shape(desc));
    TRY(check_policy(desc));
    TRY(check_repair(desc));
    return check_guards(desc);
}
