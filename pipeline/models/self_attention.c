/*
 * One plan of libdraftattn with what a run needs around it: the workspace, the token order, and the
 * books that reports are made of. Refuses nothing by itself; what the library refuses is passed on
 * in its words.
 *
 * On a GPU a run must not wait for its statistics: every layer has a slot that they are saved to,
 * in order with the runs, and a forward pass ends with reading them all.
 *
 * Errors of heads are kept one by one (4 bytes a head and sparse call), since a median over a whole
 * generation cannot be had from medians of calls.
 */
#include "self_attention.h"

#include "../io/checkpoint.h"
#include "../median.h"
#include "../tensor/checked.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct self_attention {
    const struct ops *ops;
    struct device *device;
    draftattn_context *context;
    draftattn_plan *plan;
    draftattn_plan_desc desc;
    draftattn_plan_info info;
    int64_t *order;
    void *workspace;
    size_t workspace_bytes;
    char *slots; /* device: [layers][slot_bytes], see draftattn_save_stats() */
    size_t slot_bytes;
    int32_t layers;
    draftattn_tensor q, k; /* of the last run */

    draftattn_head_stats *heads; /* of the last call */
    float *errors;               /* of all heads of all sparse calls, those that are known */
    size_t error_count, error_capacity;
    double density_sum, density_sparse_sum;
    int64_t sparse_heads, repaired_heads;
    struct self_attention_report report;

    self_attention_listener_fn listener;
    void *listener_user;
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
    if (status == DRAFTATTN_SUCCESS)
        status = draftattn_stats_size(attention->plan, &attention->slot_bytes);
    if (status != DRAFTATTN_SUCCESS)
        return failed(attention, status, "no plan", error);

    size_t tokens = (size_t)attention->info.tokens;
    attention->order = calloc(tokens, sizeof *attention->order);
    attention->heads = calloc((size_t)desc->heads, sizeof *attention->heads);
    attention->slot_bytes = (attention->slot_bytes + 255) / 256 * 256;
    const size_t slots = (size_t)attention->layers * attention->slot_bytes;
    attention->workspace = attention->ops->alloc(attention->device, attention->workspace_bytes);
    attention->slots = attention->ops->alloc(attention->device, slots);
    if (!attention->order || !attention->heads || !attention->workspace || !attention->slots)
        return error_out_of_memory(error, "the workspace of attention",
                                   attention->workspace_bytes + slots + tokens * sizeof(int64_t));
    status = draftattn_plan_order(attention->plan, attention->order);
    if (status != DRAFTATTN_SUCCESS)
        return failed(attention, status, "no token order", error);
    return true;
}

bool self_attention_create(struct self_attention **out, draftattn_context *context,
                           const draftattn_plan_desc *desc, int32_t layers, const struct ops *ops,
                           struct device *device, struct error *error)
{
    *out = NULL;
    if (desc->order != DRAFTATTN_ORDER_BLOCK || desc->batch != 1)
        return error_set(error, "attention: networks hand over tokens in block order, batch 1");
    struct self_attention *attention = calloc(1, sizeof *attention);
    if (!attention)
        return error_out_of_memory(error, "attention", sizeof *attention);
    attention->ops = ops;
    attention->device = device;
    attention->context = context;
    attention->layers = layers;
    draftattn_plan_desc typed = *desc;
    typed.in_dtype = typed.out_dtype =
        ops->activations(device) == ELEMENT_BF16 ? DRAFTATTN_BF16 : DRAFTATTN_F32;
    attention->desc = typed;
    attention->desc.dense_layers = NULL;
    attention->desc.dense_layer_count = 0;
    attention->report.error_worst = NAN;
    attention->report.worst_layer = attention->report.worst_step = -1;
    attention->report.worst_head = -1;
    if (!prepare(attention, &typed, error)) {
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
    attention->ops->free(attention->device, attention->workspace);
    attention->ops->free(attention->device, attention->slots);
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

/* kept: the workspace, or a slot. */
static bool count_call(struct self_attention *attention, const draftattn_step *step,
                       const void *kept, struct error *error)
{
    draftattn_stats stats;
    draftattn_status status = draftattn_read_stats(attention->plan, kept, &stats, attention->heads);
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
static draftattn_tensor view(const struct self_attention *attention, const void *rows,
                             int64_t stride)
{
    const draftattn_plan_desc *desc = &attention->desc;
    int64_t tokens = attention->info.tokens;
    return (draftattn_tensor){.data = (void *)(uintptr_t)rows,
                              .dtype = desc->in_dtype,
                              .shape = {1, desc->heads, tokens, desc->head_dim},
                              .stride = {tokens * stride, desc->head_dim, stride, 1}};
}

/* to [tokens][heads * head_dim]: rows of device memory, in host memory and float32. */
static bool to_host(const struct self_attention *attention, const void *rows, int64_t stride,
                    float *to, struct error *error)
{
    const int64_t tokens = attention->info.tokens;
    const int64_t row = (int64_t)attention->desc.heads * attention->desc.head_dim;
    const enum element type = attention->ops->activations(attention->device);
    const int64_t span = (tokens - 1) * stride + row;
    char *stored = malloc((size_t)span * element_size(type));
    if (!stored)
        return error_out_of_memory(error, "a copy of attention's inputs",
                                   (size_t)span * element_size(type));
    attention->ops->download(attention->device, stored, rows, (size_t)span * element_size(type));
    for (int64_t i = 0; i < tokens; i++)
        stored_to_float(type == ELEMENT_BF16 ? STORED_BF16 : STORED_F32,
                        stored + (size_t)(i * stride) * element_size(type), row, to + i * row);
    free(stored);
    return true;
}

static bool tap_copies(const struct self_attention *attention, const draftattn_step *step,
                       const void *const qkv[3], int64_t qkv_stride, const void *o,
                       int64_t o_stride, struct error *error)
{
    const int64_t row = (int64_t)attention->desc.heads * attention->desc.head_dim;
    const int64_t values = attention->info.tokens * row;
    const size_t bytes = 4 * (size_t)values * sizeof(float);
    float *copies = malloc(bytes);
    if (!copies)
        return error_out_of_memory(error, "a copy of attention's inputs", bytes);
    bool ok = to_host(attention, o, o_stride, copies + 3 * values, error);
    for (int i = 0; ok && i < 3; i++)
        ok = to_host(attention, qkv[i], qkv_stride, copies + i * values, error);
    if (ok)
        attention->tap(attention->tap_user, step, copies, copies + values, copies + 2 * values, row,
                       copies + 3 * values, row);
    free(copies);
    return ok;
}

/* What follows a run at once: its statistics, listener and tap. */
static bool look_now(struct self_attention *attention, const draftattn_step *step,
                     const void *const qkv[3], int64_t qkv_stride, const void *o, int64_t o_stride,
                     struct error *error)
{
    if (!count_call(attention, step, attention->workspace, error))
        return false;
    if (attention->listener)
        attention->listener(attention->listener_user, step);
    if (!attention->tap)
        return true;
    if (attention->ops->stream(attention->device))
        return tap_copies(attention, step, qkv, qkv_stride, o, o_stride, error);
    attention->tap(attention->tap_user, step, qkv[0], qkv[1], qkv[2], qkv_stride, o, o_stride);
    return true;
}

bool self_attention_run(struct self_attention *attention, const draftattn_step *step, const void *q,
                        const void *k, const void *v, int64_t qkv_stride, void *o, int64_t o_stride,
                        struct error *error)
{
    void *stream = attention->ops->stream(attention->device);
    draftattn_tensor v_view = view(attention, v, qkv_stride);
    draftattn_tensor o_view = view(attention, o, o_stride);
    attention->q = view(attention, q, qkv_stride);
    attention->k = view(attention, k, qkv_stride);
    draftattn_status status =
        draftattn_run(attention->plan, step, &attention->q, &attention->k, &v_view, &o_view, NULL,
                      NULL, attention->workspace, attention->workspace_bytes, stream);
    if (status != DRAFTATTN_SUCCESS)
        return failed(attention, status, "run", error);
    if (self_attention_watched(attention) || step->layer < 0 || step->layer >= attention->layers)
        return look_now(attention, step, (const void *const[]){q, k, v}, qkv_stride, o, o_stride,
                        error);
    status = draftattn_save_stats(attention->plan, attention->workspace,
                                  attention->slots + (size_t)step->layer * attention->slot_bytes,
                                  stream);
    return status == DRAFTATTN_SUCCESS || failed(attention, status, "no statistics", error);
}

bool self_attention_collect(struct self_attention *attention, const draftattn_step *step,
                            struct error *error)
{
    draftattn_step place = *step;
    if (self_attention_watched(attention))
        return true;
    for (place.layer = 0; place.layer < attention->layers; place.layer++)
        if (!count_call(attention, &place,
                        attention->slots + (size_t)place.layer * attention->slot_bytes, error))
            return false;
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
    for (int i = 0; i < DRAFTATTN_STAGE_COUNT && attention->ops->stream(attention->device); i++)
        report->seconds[i] = NAN;
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

bool self_attention_draft_map(struct self_attention *attention, float *map, struct error *error)
{
    const struct ops *ops = attention->ops;
    const int64_t dims[] = {attention->desc.heads, attention->info.video_query_blocks,
                            attention->info.video_key_blocks};
    size_t bytes;
    if (!attention->q.data || !checked_bytes(dims, 3, sizeof *map, &bytes))
        return error_set(error, "attention: no draft map without a run");
    float *there = ops->alloc(attention->device, bytes);
    if (!there)
        return error_out_of_memory(error, "a draft map", bytes);
    draftattn_status status = draftattn_draft_map(
        attention->plan, &attention->q, &attention->k, there, attention->workspace,
        attention->workspace_bytes, ops->stream(attention->device));
    if (status == DRAFTATTN_SUCCESS)
        ops->download(attention->device, map, there, bytes);
    ops->free(attention->device, there);
    return status == DRAFTATTN_SUCCESS || failed(attention, status, "no draft map", error);
}

bool self_attention_block_list(const struct self_attention *attention, draftattn_block_list *list,
                               struct error *error)
{
    draftattn_status status =
        draftattn_read_block_list(attention->plan, attention->workspace, list);
    return status == DRAFTATTN_SUCCESS || failed(attention, status, "no block list", error);
}

void self_attention_set_listener(struct self_attention *attention,
                                 self_attention_listener_fn listener, void *user)
{
    attention->listener = listener;
    attention->listener_user = user;
}

void self_attention_set_tap(struct self_attention *attention, self_attention_tap_fn tap, void *user)
{
    attention->tap = tap;
    attention->tap_user = user;
}

bool self_attention_watched(const struct self_attention *attention)
{
    return attention->listener || attention->tap;
}
