/*
 * One plan of libdraftattn with what a run needs around it: the workspace, the token order, and the
 * books that reports are made of. Refuses nothing by itself; what the library refuses is passed on
 * in its words.
 *
 * Errors of heads are kept one by one (4 bytes a head and sparse call), since a median over a whole
 * generation cannot be had from medians of calls.
 */
#include "self_attention.h"

#include "../median.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct self_attention {
    draftattn_context *context;
    draftattn_plan *plan;
    draftattn_plan_desc desc;
    draftattn_plan_info info;
    int64_t *order;
    void *workspace;
    size_t workspace_bytes;

    draftattn_head_stats *heads; /* of the last call */
    float *errors;               /* of all heads of all sparse calls, those that are known */
    size_t error_count, error_capacity;
    double density_sum, density_sparse_sum;
    int64_t sparse_heads, repaired_heads;
    struct self_attention_report report;

    self_attention_tap_fn tap;
    void *tap_user;
};

static bool failed(const struct self_attention *attention, draftattn_status status,
                   const char *what, struct error *error)
{
    const char *why = draftattn_context_last_error(attention->context);
    return error_set(error, "attention: %s: %s", what,
                     why[0] ? why : draftattn_status_string(status));
}

static bool prepare(struct self_attention *attention, const draftattn_plan_desc *desc,
                    struct error *error)
{
    draftattn_status status = draftattn_plan_create(&attention->plan, attention->context, desc);
    if (status == DRAFTATTN_SUCCESS)
        status = draftattn_plan_info_get(attention->plan, &attention->info);
    if (status == DRAFTATTN_SUCCESS)
        status = draftattn_plan_workspace_size(attention->plan, &attention->workspace_bytes);
    if (status != DRAFTATTN_SUCCESS)
        return failed(attention, status, "no plan", error);

    size_t tokens = (size_t)attention->info.tokens;
    attention->order = calloc(tokens, sizeof *attention->order);
    attention->heads = calloc((size_t)desc->heads, sizeof *attention->heads);
    attention->workspace_bytes = (attention->workspace_bytes + 255) / 256 * 256 + 256;
    attention->workspace = aligned_alloc(256, attention->workspace_bytes);
    if (!attention->order || !attention->heads || !attention->workspace)
        return error_out_of_memory(error, "the workspace of attention",
                                   attention->workspace_bytes + tokens * sizeof(int64_t));
    status = draftattn_plan_order(attention->plan, attention->order);
    if (status != DRAFTATTN_SUCCESS)
        return failed(attention, status, "no token order", error);
    return true;
}

bool self_attention_create(struct self_attention **out, draftattn_context *context,
                           const draftattn_plan_desc *desc, struct error *error)
{
    *out = NULL;
    if (desc->order != DRAFTATTN_ORDER_BLOCK || desc->batch != 1 ||
        desc->in_dtype != DRAFTATTN_F32 || desc->out_dtype != DRAFTATTN_F32)
        return error_set(error, "attention: networks hand over float32 in block order, batch 1");
    struct self_attention *attention = calloc(1, sizeof *attention);
    if (!attention)
        return error_out_of_memory(error, "attention", sizeof *attention);
    attention->context = context;
    attention->desc = *desc;
    attention->desc.dense_layers = NULL;
    attention->desc.dense_layer_count = 0;
    attention->report.error_worst = NAN;
    attention->report.worst_layer = attention->report.worst_step = -1;
    attention->report.worst_head = -1;
    if (!prepare(attention, desc, error)) {
        self_attention_destroy(attention);
        return false;
    }
    *out = attention;
    return true;
}

void self_attention_destroy(struct self_attention *attention)
{
    if (!attention)
        return;
    draftattn_plan_destroy(attention->plan);
    free(attention->order);
    free(attention->workspace);
    free(attention->heads);
    free(attention->errors);
    free(attention);
}

int64_t self_attention_tokens(const struct self_attention *attention)
{
    return attention->info.tokens;
}

const int64_t *self_attention_order(const struct self_attention *attention)
{
    return attention->order;
}

const draftattn_plan_desc *self_attention_desc(const struct self_attention *attention)
{
    return &attention->desc;
}

int64_t self_attention_workspace_bytes(const struct self_attention *attention)
{
    return (int64_t)attention->workspace_bytes;
}

static bool keep_error(struct self_attention *attention, float value, struct error *error)
{
    if (attention->error_count == attention->error_capacity) {
        size_t capacity = attention->error_capacity ? 2 * attention->error_capacity : 1024;
        float *grown = realloc(attention->errors, capacity * sizeof *grown);
        if (!grown)
            return error_out_of_memory(error, "the report of attention", capacity * sizeof *grown);
        attention->errors = grown;
        attention->error_capacity = capacity;
    }
    attention->errors[attention->error_count++] = value;
    return true;
}

static bool count_heads(struct self_attention *attention, const draftattn_step *step,
                        struct error *error)
{
    struct self_attention_report *report = &attention->report;
    for (int32_t head = 0; head < attention->desc.heads; head++) {
        const draftattn_head_stats *stats = &attention->heads[head];
        attention->sparse_heads++;
        attention->repaired_heads += stats->repaired;
        if (isnan(stats->error))
            continue;
        if (!keep_error(attention, stats->error, error))
            return false;
        if (!(stats->error <= report->error_worst)) {
            report->error_worst = stats->error;
            report->worst_layer = step->layer;
            report->worst_step = step->step;
            report->worst_head = head;
        }
    }
    return true;
}

static bool count_call(struct self_attention *attention, const draftattn_step *step,
                       struct error *error)
{
    draftattn_stats stats;
    draftattn_status status =
        draftattn_read_stats(attention->plan, attention->workspace, &stats, attention->heads);
    if (status != DRAFTATTN_SUCCESS)
        return failed(attention, status, "no statistics", error);
    struct self_attention_report *report = &attention->report;
    report->calls++;
    attention->density_sum += stats.density;
    for (int stage = 0; stage < DRAFTATTN_STAGE_COUNT; stage++)
        report->seconds[stage] += stats.seconds[stage];
    if (stats.dense) {
        report->dense_calls++;
        return true;
    }
    attention->density_sparse_sum += stats.density;
    return count_heads(attention, step, error);
}

/* The library takes one tensor type for both directions and only reads q, k and v. */
static draftattn_tensor view(const struct self_attention *attention, const float *rows,
                             int64_t stride)
{
    const draftattn_plan_desc *desc = &attention->desc;
    int64_t tokens = attention->info.tokens;
    return (draftattn_tensor){.data = (void *)rows,
                              .dtype = DRAFTATTN_F32,
                              .shape = {1, desc->heads, tokens, desc->head_dim},
                              .stride = {tokens * stride, desc->head_dim, stride, 1}};
}

bool self_attention_run(struct self_attention *attention, const draftattn_step *step,
                        const float *q, const float *k, const float *v, int64_t qkv_stride,
                        float *o, int64_t o_stride, struct error *error)
{
    draftattn_tensor q_view = view(attention, q, qkv_stride);
    draftattn_tensor k_view = view(attention, k, qkv_stride);
    draftattn_tensor v_view = view(attention, v, qkv_stride);
    draftattn_tensor o_view = view(attention, o, o_stride);
    draftattn_status status =
        draftattn_run(attention->plan, step, &q_view, &k_view, &v_view, &o_view, NULL, NULL,
                      attention->workspace, attention->workspace_bytes, NULL);
    if (status != DRAFTATTN_SUCCESS)
        return failed(attention, status, "run", error);
    if (!count_call(attention, step, error))
        return false;
    if (attention->tap)
        attention->tap(attention->tap_user, step, q, k, v, qkv_stride, o, o_stride);
    return true;
}

/* NaN for none; the array is left as it is. Out of memory also gives NaN: a report is not worth
 * failing. */
static double median(const float *values, size_t count)
{
    float *sorted = count > 0 ? malloc(count * sizeof *sorted) : NULL;
    if (!sorted)
        return NAN;
    memcpy(sorted, values, count * sizeof *sorted);
    double middle = median_sort(sorted, count);
    free(sorted);
    return middle;
}

void self_attention_report_get(const struct self_attention *attention,
                               struct self_attention_report *report)
{
    *report = attention->report;
    int64_t sparse = report->calls - report->dense_calls;
    report->density = sparse > 0 ? attention->density_sparse_sum / (double)sparse : 1.0;
    report->density_all = report->calls > 0 ? attention->density_sum / (double)report->calls : 1.0;
    report->error_median = median(attention->errors, attention->error_count);
    report->repaired_share = attention->sparse_heads > 0 ? (double)attention->repaired_heads /
                                                               (double)attention->sparse_heads
                                                         : 0.0;
}

size_t self_attention_describe(const struct self_attention *attention, const draftattn_step *step,
                               char *buffer, size_t size)
{
    return draftattn_plan_describe(attention->plan, step, buffer, size);
}

const draftattn_plan *self_attention_plan(const struct self_attention *attention)
{
    return attention->plan;
}

const draftattn_head_stats *self_attention_heads(const struct self_attention *attention)
{
    return attention->heads;
}

bool self_attention_draft_map(struct self_attention *attention, const float *q, const float *k,
                              int64_t qkv_stride, float *map, struct error *error)
{
    draftattn_tensor q_view = view(attention, q, qkv_stride);
    draftattn_tensor k_view = view(attention, k, qkv_stride);
    draftattn_status status =
        draftattn_draft_map(attention->plan, &q_view, &k_view, map, attention->workspace,
                            attention->workspace_bytes, NULL);
    return status == DRAFTATTN_SUCCESS || failed(attention, status, "no draft map", error);
}

bool self_attention_block_list(const struct self_attention *attention, draftattn_block_list *list,
                               struct error *error)
{
    draftattn_status status =
        draftattn_read_block_list(attention->plan, attention->workspace, list);
    return status == DRAFTATTN_SUCCESS || failed(attention, status, "no block list", error);
}

void self_attention_set_tap(struct self_attention *attention, self_attention_tap_fn tap, void *user)
{
    attention->tap = tap;
    attention->tap_user = user;
}
