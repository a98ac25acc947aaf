/*
 * A streaming pass through the steps of the Wan VAE: its memory and its operations.
 *
 * Frames come in chunks (one latent frame when decoding; one, then four frames when encoding), and
 * every convolution that looks back keeps the last frames of its input. Two buffers of activations
 * change places; a third one, the staging buffer, holds the input of a convolution with its history
 * in front. Residual sums are part of the second convolution, in place.
 */
#include "wan_vae_layers.h"

#include "../tensor/checked.h"

#include <math.h>

/* ---- memory ---------------------------------------------------------------------------------- */

struct sizing {
    struct vae_sizes *sizes;
    int64_t frames, height, width;
    bool first_only;
    bool overflow;
};

static int64_t count(struct sizing *at, int64_t frames, int64_t channels)
{
    int64_t total;
    if (checked_mul(at->height, at->width, &total) && checked_mul(total, frames, &total) &&
        checked_mul(total, channels, &total))
        return total;
    at->overflow = true;
    return 0;
}

static void need_values(struct sizing *at, int64_t channels)
{
    int64_t values = count(at, at->frames, channels);
    if (values > at->sizes->values)
        at->sizes->values = values;
}

static void need_staging(struct sizing *at, int64_t frames, int64_t channels)
{
    int64_t staging = count(at, frames, channels);
    if (staging > at->sizes->staging)
        at->sizes->staging = staging;
}

/* A convolution over time: its history, and the staging of that with the frames of a chunk. */
static void need_history(struct sizing *at, int step, int slot, int64_t frames, int64_t channels)
{
    int64_t history = count(at, frames, channels);
    at->sizes->history[step][slot] = history;
    if (!checked_add(at->sizes->history_total, history, &at->sizes->history_total))
        at->overflow = true;
    need_staging(at, at->frames + frames, channels);
}

static void size_step(struct sizing *at, const struct vae_step *step, int index)
{
    need_values(at, step->in);
    switch (step->kind) {
    case VAE_LINEAR:
        break;
    case VAE_CONV:
    case VAE_HEAD:
        need_history(at, index, 0, 2, step->in);
        break;
    case VAE_RES:
        need_history(at, index, 0, 2, step->in);
        need_history(at, index, 1, 2, step->out);
        break;
    case VAE_ATTENTION:
        need_staging(at, at->frames, 3LL * step->in);
        break;
    case VAE_UP:
        if (step->time && !at->first_only) {
            need_history(at, index, 0, 2, step->in);
            at->frames *= 2;
            need_values(at, step->in);
        }
        at->height *= 2;
        at->width *= 2;
        need_staging(at, 1, step->in);
        break;
    case VAE_DOWN:
        at->height /= 2;
        at->width /= 2;
        if (step->time && !at->first_only) {
            need_history(at, index, 0, 1, step->in);
            at->frames /= 2;
        }
        break;
    }
    need_values(at, step->out);
}

bool vae_net_sizes(const struct vae_net *net, int64_t frames, int64_t height, int64_t width,
                   bool first_only, struct vae_sizes *out)
{
    struct sizing at = {
        .sizes = out, .frames = frames, .height = height, .width = width, .first_only = first_only};
    /* Decoding multiplies each side by 8: keeps the products below from overflowing unseen. */
    if (height > INT64_MAX / 8 || width > INT64_MAX / 8)
        return false;
    *out = (struct vae_sizes){0};
    for (int i = 0; i < net->count; i++)
        size_step(&at, &net->steps[i], i);
    return !at.overflow;
}

static float *pass_alloc(const struct vae_pass *pass, int64_t floats, struct error *error)
{
    int64_t bytes;
    float *memory = NULL;
    if (checked_mul(floats, sizeof(float), &bytes)) {
        memory = pass->net->ops->alloc(pass->net->device, (size_t)bytes);
        if (!memory)
            error_out_of_memory(error, "the VAE's buffers (a smaller tile needs less)",
                                (unsigned long long)bytes);
    } else {
        error_set(error, "the VAE's buffers are too large: use a smaller tile");
    }
    return memory;
}

/* Zeros to begin with, then copies of what is zero already. */
static void pass_zero(const struct vae_pass *pass, float *to, int64_t floats)
{
    static const float zeros[4096] = {0};
    const struct ops *ops = pass->net->ops;
    int64_t done = floats < 4096 ? floats : 4096;
    ops->upload(pass->net->device, to, zeros, (size_t)done * sizeof(float));
    for (int64_t part; done < floats; done += part) {
        part = floats - done < done ? floats - done : done;
        ops->copy(pass->net->device, to + done, to, (size_t)part * sizeof(float));
    }
}

bool vae_pass_begin(struct vae_pass *pass, const struct vae_net *net, int64_t chunk, int64_t height,
                    int64_t width, bool first_only, struct error *error)
{
    *pass = (struct vae_pass){.net = net, .chunk = chunk, .first_only = first_only};
    if (!vae_net_sizes(net, chunk, height, width, first_only, &pass->sizes))
        return error_set(error, "a VAE tile of %lldx%lld is too large: use a smaller tile",
                         (long long)width, (long long)height);
    pass->values[0] = pass_alloc(pass, pass->sizes.values, error);
    pass->values[1] = pass->values[0] ? pass_alloc(pass, pass->sizes.values, error) : NULL;
    pass->staging = pass->values[1] ? pass_alloc(pass, pass->sizes.staging, error) : NULL;
    pass->history = pass->staging ? pass_alloc(pass, pass->sizes.history_total, error) : NULL;
    if (pass->history)
        return true;
    vae_pass_end(pass);
    return false;
}

void vae_pass_start(struct vae_pass *pass, int64_t height, int64_t width)
{
    /* A smaller tile needs less of everything, and fits the buffers and the integers. */
    vae_net_sizes(pass->net, pass->chunk, height, width, pass->first_only, &pass->sizes);
    pass->tile_height = height;
    pass->tile_width = width;
    pass->first = true;
    float *next = pass->history;
    for (int i = 0; i < pass->net->count; i++)
        for (int slot = 0; slot < 2; slot++) {
            pass->step_history[i][slot] = next;
            next += pass->sizes.history[i][slot];
        }
    pass_zero(pass, pass->history, pass->sizes.history_total);
}

void vae_pass_end(struct vae_pass *pass)
{
    if (!pass->net)
        return;
    const struct ops *ops = pass->net->ops;
    struct device *device = pass->net->device;
    ops->free(device, pass->values[0]);
    ops->free(device, pass->values[1]);
    ops->free(device, pass->staging);
    ops->free(device, pass->history);
    *pass = (struct vae_pass){0};
}

/* ---- a chunk through the steps --------------------------------------------------------------- */

static void swap_values(struct vae_pass *pass)
{
    float *first = pass->values[0];
    pass->values[0] = pass->values[1];
    pass->values[1] = first;
}

static int64_t positions(const struct vae_pass *pass)
{
    return pass->frames * pass->height * pass->width;
}

static bool linear(const struct vae_pass *pass, const struct linear *layer, const float *x,
                   float *y, struct error *error)
{
    return pass->net->ops->linear(pass->net->device, layer, x, ELEMENT_F32, y, ELEMENT_F32,
                                  positions(pass), ACTIVATION_NONE, error);
}

static void copy(const struct vae_pass *pass, float *to, const float *from, int64_t floats)
{
    pass->net->ops->combine(pass->net->device, to, 1.0f, from, 0.0f, from, floats);
}

/* Where a check is asked for: is what a layer has written finite? */
static bool all_finite(const struct vae_pass *pass, const struct vae_step *step, const char *part,
                       const float *values, int64_t floats, struct error *error)
{
    if (!pass->check || pass->net->ops->first_not_finite(pass->net->device, values, floats) < 0)
        return true;
    return error_set(error, "'%s%s' gives a NaN or an infinity", step->name, part);
}

/*
 * The staging buffer becomes [history][frames of this chunk]. gamma NULL: the frames are x as it
 * is; else norm and SiLU of x. The last frames of it are the history for the next chunk.
 */
static void stage(struct vae_pass *pass, int step, int slot, int64_t history_frames, const float *x,
                  int32_t channels, const float *gamma)
{
    const struct vae_net *net = pass->net;
    const int64_t frame = pass->height * pass->width * channels;
    float *history = pass->step_history[step][slot];
    float *frames = pass->staging + history_frames * frame;
    copy(pass, pass->staging, history, history_frames * frame);
    if (gamma)
        net->ops->channel_norm(net->device, x, frames, positions(pass), channels, gamma, true);
    else
        copy(pass, frames, x, pass->frames * frame);
    copy(pass, history, pass->staging + pass->frames * frame, history_frames * frame);
}

/* A causal 3x3x3 convolution over the staging buffer. */
static bool causal(struct vae_pass *pass, const struct vae_step *step, int slot, const char *part,
                   const float *add, float *y, struct error *error)
{
    const struct vae_net *net = pass->net;
    int32_t out = step->out;
    return net->ops->conv(net->device, step->conv[slot], pass->staging, pass->frames + 2,
                          pass->height, pass->width, add, y, error) &&
           all_finite(pass, step, part, y, positions(pass) * out, error);
}

static bool run_res(struct vae_pass *pass, int index, struct error *error)
{
    const struct vae_net *net = pass->net;
    const struct vae_step *step = &net->steps[index];
    stage(pass, index, 0, 2, pass->values[0], step->in, step->gamma[0]);
    if (!causal(pass, step, 0, ".conv1", NULL, pass->values[1], error))
        return false;
    stage(pass, index, 1, 2, pass->values[1], step->out, step->gamma[1]);
    if (step->linear[0]) {
        /* The first convolution's result is used up: its buffer takes the shortcut and the sum. */
        if (!linear(pass, step->linear[0], pass->values[0], pass->values[1], error) ||
            !all_finite(pass, step, ".conv_shortcut", pass->values[1], positions(pass) * step->out,
                        error))
            return false;
        swap_values(pass);
    }
    return causal(pass, step, 1, ".conv2", pass->values[0], pass->values[0], error);
}

static bool run_attention(struct vae_pass *pass, const struct vae_step *step, struct error *error)
{
    const struct vae_net *net = pass->net;
    const int64_t rows = pass->height * pass->width, channels = step->in;
    float *y = pass->values[1], *qkv = pass->staging;
    net->ops->channel_norm(net->device, pass->values[0], y, positions(pass), channels,
                           step->gamma[0], false);
    if (!linear(pass, step->linear[0], y, qkv, error) ||
        !all_finite(pass, step, ".to_qkv", qkv, positions(pass) * 3 * channels, error))
        return false;
    for (int64_t frame = 0; frame < pass->frames; frame++) {
        const float *q = qkv + frame * rows * 3 * channels;
        const struct ops_attention attention = {.q = q,
                                                .k = q + channels,
                                                .v = q + 2 * channels,
                                                .o = y + frame * rows * channels,
                                                .q_stride = 3 * channels,
                                                .k_stride = 3 * channels,
                                                .v_stride = 3 * channels,
                                                .o_stride = channels,
                                                .q_rows = rows,
                                                .k_rows = rows,
                                                .heads = 1,
                                                .head_dim = step->in,
                                                .scale = 1.0f / sqrtf((float)channels)};
        if (!net->ops->attention(net->device, &attention, error))
            return false;
    }
    if (!linear(pass, step->linear[1], y, qkv, error) ||
        !all_finite(pass, step, ".proj", qkv, positions(pass) * channels, error))
        return false;
    net->ops->add(net->device, pass->values[0], qkv, positions(pass) * channels);
    return true;
}

/* Every frame but the clip's first becomes two. */
static bool double_time(struct vae_pass *pass, int index, struct error *error)
{
    const struct vae_net *net = pass->net;
    const struct vae_step *step = &net->steps[index];
    const int64_t frame = pass->height * pass->width * step->in;
    stage(pass, index, 0, 2, pass->values[0], step->in, NULL);
    for (int64_t i = 0; i < 2 * pass->frames; i++)
        if (!net->ops->conv(net->device, step->conv[1 + i % 2], pass->staging + i / 2 * frame, 3,
                            pass->height, pass->width, NULL, pass->values[1] + i * frame, error))
            return false;
    pass->frames *= 2;
    swap_values(pass);
    return all_finite(pass, step, ".time_conv", pass->values[0], pass->frames * frame, error);
}

/* Frame by frame, so that the enlarged frames need not exist all at once. */
static bool run_up(struct vae_pass *pass, int index, struct error *error)
{
    const struct vae_net *net = pass->net;
    const struct vae_step *step = &net->steps[index];
    if (step->time && !pass->first && !double_time(pass, index, error))
        return false;
    const int64_t in = pass->height * pass->width * step->in;
    const int64_t out = 4 * pass->height * pass->width * step->out;
    for (int64_t i = 0; i < pass->frames; i++) {
        net->ops->upsample2(net->device, pass->values[0] + i * in, pass->staging, 1, pass->height,
                            pass->width, step->in);
        if (!net->ops->conv(net->device, step->conv[0], pass->staging, 1, 2 * pass->height,
                            2 * pass->width, NULL, pass->values[1] + i * out, error))
            return false;
    }
    pass->height *= 2;
    pass->width *= 2;
    swap_values(pass);
    return all_finite(pass, step, ".resample.1", pass->values[0], pass->frames * out, error);
}

static bool run_down(struct vae_pass *pass, int index, struct error *error)
{
    const struct vae_net *net = pass->net;
    const struct vae_step *step = &net->steps[index];
    if (!net->ops->conv(net->device, step->conv[0], pass->values[0], pass->frames, pass->height,
                        pass->width, NULL, pass->values[1], error))
        return false;
    pass->height /= 2;
    pass->width /= 2;
    swap_values(pass);
    const int64_t frame = pass->height * pass->width * step->out;
    if (!all_finite(pass, step, ".resample.1", pass->values[0], pass->frames * frame, error))
        return false;
    if (!step->time)
        return true;
    if (pass->first) {
        if (pass->sizes.history[index][0] > 0)
            copy(pass, pass->step_history[index][0], pass->values[0], frame);
        return true;
    }
    stage(pass, index, 0, 1, pass->values[0], step->out, NULL);
    if (!net->ops->conv(net->device, step->conv[1], pass->staging, pass->frames + 1, pass->height,
                        pass->width, NULL, pass->values[1], error))
        return false;
    pass->frames /= 2;
    swap_values(pass);
    return all_finite(pass, step, ".time_conv", pass->values[0], pass->frames * frame, error);
}

static bool run_step(struct vae_pass *pass, int index, struct error *error)
{
    const struct vae_net *net = pass->net;
    const struct vae_step *step = &net->steps[index];
    switch (step->kind) {
    case VAE_LINEAR:
        if (!linear(pass, step->linear[0], pass->values[0], pass->values[1], error))
            return false;
        swap_values(pass);
        return all_finite(pass, step, "", pass->values[0], positions(pass) * step->out, error);
    case VAE_CONV:
    case VAE_HEAD:
        stage(pass, index, 0, 2, pass->values[0], step->in, step->gamma[0]);
        if (!causal(pass, step, 0, step->kind == VAE_HEAD ? ".conv_out" : "", NULL, pass->values[1],
                    error))
            return false;
        swap_values(pass);
        return true;
    case VAE_RES:
        return run_res(pass, index, error);
    case VAE_ATTENTION:
        return run_attention(pass, step, error);
    case VAE_UP:
        return run_up(pass, index, error);
    case VAE_DOWN:
        return run_down(pass, index, error);
    }
    return false;
}

bool vae_pass_chunk(struct vae_pass *pass, int64_t frames, struct error *error)
{
    pass->frames = frames;
    pass->height = pass->tile_height;
    pass->width = pass->tile_width;
    for (int i = 0; i < pass->net->count; i++) {
        if (!run_step(pass, i, error))
            return false;
        pass->channels = pass->net->steps[i].out;
    }
    pass->first = false;
    return true;
}
