/*
 * The table of operations that measures another one. Owns its struct device: the table and device
 * that do the work, and the sums by kind.
 *
 * The networks enqueue everything through the table but their self-attention, which libdraftattn
 * enqueues on the same stream. So what passes between the end of one operation and the beginning of
 * the next, both waited for, is attention; what the host does there besides is small beside it.
 */
#include "ops_profile.h"

#include "../clock.h"

#include <stdlib.h>

struct device {
    const struct ops *ops;
    struct device *inner;
    bool measuring;
    double at; /* the end of the last operation, then the beginning of this one */
    struct profile_times times;
};

const char *profile_kind_name(enum profile_kind kind)
{
    static const char *const names[PROFILE_KIND_COUNT] = {
        "attention", "cross-attention", "matmul", "convolution", "elementwise", "transfer"};
    return kind < PROFILE_KIND_COUNT ? names[kind] : "";
}

/* Everything until now belongs to kind. A failure is the device's to keep: the next call that can
 * fail reports it. */
static void account(struct device *d, enum profile_kind kind)
{
    struct error ignored = {0};
    if (!d->measuring)
        return;
    d->ops->synchronise(d->inner, &ignored);
    double now = clock_seconds();
    d->times.seconds[kind] += now - d->at;
    d->at = now;
}

static void enter(struct device *d)
{
    account(d, PROFILE_ATTENTION);
}

bool ops_profile_wrap(struct device **out, const struct ops *ops, struct device *inner,
                      struct error *error)
{
    struct device *d = *out = calloc(1, sizeof *d);
    if (!d)
        return error_out_of_memory(error, "the profile", sizeof *d);
    d->ops = ops;
    d->inner = inner;
    return true;
}

void ops_profile_begin(struct device *d)
{
    struct error ignored = {0};
    d->ops->synchronise(d->inner, &ignored);
    d->times = (struct profile_times){.total = 0};
    d->measuring = true;
    d->at = clock_seconds();
}

void ops_profile_end(struct device *d, struct profile_times *times)
{
    account(d, PROFILE_ATTENTION);
    d->measuring = false;
    *times = d->times;
    for (int kind = 0; kind < PROFILE_KIND_COUNT; kind++)
        times->total += times->seconds[kind];
}

/* ---- what is handed on as it is -------------------------------------------------------------- */

static void profile_destroy(struct device *d)
{
    free(d);
}

static enum element profile_activations(const struct device *d)
{
    return d->ops->activations(d->inner);
}

static void *profile_stream(const struct device *d)
{
    return d->ops->stream(d->inner);
}

static bool profile_synchronise(struct device *d, struct error *error)
{
    return d->ops->synchronise(d->inner, error);
}

static void *profile_alloc(struct device *d, size_t bytes)
{
    return d->ops->alloc(d->inner, bytes);
}

static void profile_free(struct device *d, void *memory)
{
    d->ops->free(d->inner, memory);
}

static bool profile_linear_create(struct device *d, struct linear **out,
                                  const struct linear_desc *desc, struct error *error)
{
    return d->ops->linear_create(d->inner, out, desc, error);
}

static void profile_linear_destroy(struct device *d, struct linear *linear)
{
    d->ops->linear_destroy(d->inner, linear);
}

static void profile_group_begin(struct device *d)
{
    d->ops->group_begin(d->inner);
}

static bool profile_group_end(struct device *d, struct error *error)
{
    return d->ops->group_end(d->inner, error);
}

static bool profile_conv_create(struct device *d, struct conv **out, const struct conv_desc *desc,
                                const float *weight, const float *bias, struct error *error)
{
    return d->ops->conv_create(d->inner, out, desc, weight, bias, error);
}

static void profile_conv_destroy(struct device *d, struct conv *conv)
{
    d->ops->conv_destroy(d->inner, conv);
}

static void profile_watch(struct device *d, int32_t place)
{
    d->ops->watch(d->inner, place);
}

static bool profile_record_begin(struct device *d, struct error *error)
{
    return d->measuring || d->ops->record_begin(d->inner, error);
}

static bool profile_record_end(struct device *d, struct recording **out, struct error *error)
{
    *out = NULL;
    return d->measuring || d->ops->record_end(d->inner, out, error);
}

static bool profile_replay(struct device *d, const struct recording *recording, struct error *error)
{
    return d->ops->replay(d->inner, recording, error);
}

static void profile_recording_destroy(struct device *d, struct recording *recording)
{
    d->ops->recording_destroy(d->inner, recording);
}

/* ---- what is measured ------------------------------------------------------------------------ */

static void profile_upload(struct device *d, void *to, const void *from, size_t bytes)
{
    enter(d);
    d->ops->upload(d->inner, to, from, bytes);
    account(d, PROFILE_TRANSFER);
}

static void profile_download(struct device *d, void *to, const void *from, size_t bytes)
{
    enter(d);
    d->ops->download(d->inner, to, from, bytes);
    account(d, PROFILE_TRANSFER);
}

static void profile_copy(struct device *d, void *to, const void *from, size_t bytes)
{
    enter(d);
    d->ops->copy(d->inner, to, from, bytes);
    account(d, PROFILE_TRANSFER);
}

static bool profile_group_need(struct device *d, int64_t group, int64_t next, struct error *error)
{
    enter(d);
    bool ok = d->ops->group_need(d->inner, group, next, error);
    account(d, PROFILE_TRANSFER);
    return ok;
}

static bool profile_linear(struct device *d, const struct linear *linear, const void *x,
                           enum element x_type, void *y, enum element y_type, int64_t rows,
                           enum activation activation, struct error *error)
{
    enter(d);
    bool ok = d->ops->linear(d->inner, linear, x, x_type, y, y_type, rows, activation, error);
    account(d, PROFILE_MATMUL);
    return ok;
}

static bool profile_conv(struct device *d, const struct conv *conv, const float *x, int64_t frames,
                         int64_t height, int64_t width, const float *add, float *y,
                         struct error *error)
{
    enter(d);
    bool ok = d->ops->conv(d->inner, conv, x, frames, height, width, add, y, error);
    account(d, PROFILE_CONVOLUTION);
    return ok;
}

static bool profile_attention(struct device *d, const struct ops_attention *attention,
                              struct error *error)
{
    enter(d);
    bool ok = d->ops->attention(d->inner, attention, error);
    account(d, PROFILE_CROSS_ATTENTION);
    return ok;
}

static void profile_residual(struct device *d, const struct ops_residual *residual)
{
    enter(d);
    d->ops->residual(d->inner, residual);
    account(d, PROFILE_ELEMENTWISE);
}

static void profile_norm_rope(struct device *d, const struct ops_norm_rope *norm)
{
    enter(d);
    d->ops->norm_rope(d->inner, norm);
    account(d, PROFILE_ELEMENTWISE);
}

static bool profile_watched(struct device *d, int32_t *place, int64_t *row)
{
    enter(d);
    bool found = d->ops->watched(d->inner, place, row);
    account(d, PROFILE_ELEMENTWISE);
    return found;
}

static void profile_layer_norm(struct device *d, const float *x, float *y, int64_t rows,
                               int64_t features, float eps, const float *weight, const float *bias)
{
    enter(d);
    d->ops->layer_norm(d->inner, x, y, rows, features, eps, weight, bias);
    account(d, PROFILE_ELEMENTWISE);
}

static void profile_rms_norm(struct device *d, const float *x, float *y, int64_t rows,
                             int64_t features, float eps, const float *weight)
{
    enter(d);
    d->ops->rms_norm(d->inner, x, y, rows, features, eps, weight);
    account(d, PROFILE_ELEMENTWISE);
}

static void profile_channel_norm(struct device *d, const float *x, float *y, int64_t positions,
                                 int64_t channels, const float *gamma, bool silu)
{
    enter(d);
    d->ops->channel_norm(d->inner, x, y, positions, channels, gamma, silu);
    account(d, PROFILE_ELEMENTWISE);
}

static void profile_cut_patches(struct device *d, const struct ops_patches *patches,
                                const float *latents, void *rows, enum element type)
{
    enter(d);
    d->ops->cut_patches(d->inner, patches, latents, rows, type);
    account(d, PROFILE_ELEMENTWISE);
}

static void profile_join_patches(struct device *d, const struct ops_patches *patches,
                                 const float *rows, float *latents)
{
    enter(d);
    d->ops->join_patches(d->inner, patches, rows, latents);
    account(d, PROFILE_ELEMENTWISE);
}

static void profile_activate(struct device *d, float *x, int64_t count, enum activation activation)
{
    enter(d);
    d->ops->activate(d->inner, x, count, activation);
    account(d, PROFILE_ELEMENTWISE);
}

static void profile_multiply(struct device *d, float *x, const float *y, int64_t count)
{
    enter(d);
    d->ops->multiply(d->inner, x, y, count);
    account(d, PROFILE_ELEMENTWISE);
}

static void profile_add(struct device *d, float *x, const float *y, int64_t count)
{
    enter(d);
    d->ops->add(d->inner, x, y, count);
    account(d, PROFILE_ELEMENTWISE);
}

static void profile_combine(struct device *d, float *out, float a, const float *x, float b,
                            const float *y, int64_t count)
{
    enter(d);
    d->ops->combine(d->inner, out, a, x, b, y, count);
    account(d, PROFILE_ELEMENTWISE);
}

static void profile_scatter_rows(struct device *d, const float *x, const int64_t *index, float *y,
                                 int64_t rows, int64_t features)
{
    enter(d);
    d->ops->scatter_rows(d->inner, x, index, y, rows, features);
    account(d, PROFILE_ELEMENTWISE);
}

static void profile_upsample2(struct device *d, const float *x, float *y, int64_t frames,
                              int64_t height, int64_t width, int64_t channels)
{
    enter(d);
    d->ops->upsample2(d->inner, x, y, frames, height, width, channels);
    account(d, PROFILE_ELEMENTWISE);
}

static int64_t profile_first_not_finite(struct device *d, const float *x, int64_t count)
{
    enter(d);
    int64_t found = d->ops->first_not_finite(d->inner, x, count);
    account(d, PROFILE_ELEMENTWISE);
    return found;
}

_Static_assert(sizeof(struct ops) == 41 * sizeof(void *), "a new operation has to be handed on");

const struct ops ops_profile = {
    .name = "profile",
    .create = NULL,
    .destroy = profile_destroy,
    .activations = profile_activations,
    .stream = profile_stream,
    .synchronise = profile_synchronise,
    .alloc = profile_alloc,
    .free = profile_free,
    .upload = profile_upload,
    .download = profile_download,
    .copy = profile_copy,
    .linear_create = profile_linear_create,
    .linear_destroy = profile_linear_destroy,
    .linear = profile_linear,
    .group_begin = profile_group_begin,
    .group_end = profile_group_end,
    .group_need = profile_group_need,
    .conv_create = profile_conv_create,
    .conv_destroy = profile_conv_destroy,
    .conv = profile_conv,
    .residual = profile_residual,
    .norm_rope = profile_norm_rope,
    .watch = profile_watch,
    .watched = profile_watched,
    .layer_norm = profile_layer_norm,
    .rms_norm = profile_rms_norm,
    .channel_norm = profile_channel_norm,
    .attention = profile_attention,
    .cut_patches = profile_cut_patches,
    .join_patches = profile_join_patches,
    .activate = profile_activate,
    .multiply = profile_multiply,
    .add = profile_add,
    .combine = profile_combine,
    .scatter_rows = profile_scatter_rows,
    .upsample2 = profile_upsample2,
    .first_not_finite = profile_first_not_finite,
    .record_begin = profile_record_begin,
    .record_end = profile_record_end,
    .replay = profile_replay,
    .recording_destroy = profile_recording_destroy,
};
