/*
 * The steps of the Wan VAE: their names, shapes and weights. What runs them is wan_vae_pass.c.
 */
#include "wan_vae_layers.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- the list -------------------------------------------------------------------------------- */

static struct vae_step *add_step(struct vae_net *net, enum vae_step_kind kind, int64_t in,
                                 int64_t out, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

static struct vae_step *add_step(struct vae_net *net, enum vae_step_kind kind, int64_t in,
                                 int64_t out, const char *format, ...)
{
    struct vae_step *step = &net->steps[net->count++];
    *step = (struct vae_step){.kind = kind, .in = (int32_t)in, .out = (int32_t)out};
    va_list args;
    va_start(args, format);
    vsnprintf(step->name, sizeof(step->name), format, args);
    va_end(args);
    return step;
}

static void add_middle(struct vae_net *net, const char *half, int64_t channels)
{
    add_step(net, VAE_RES, channels, channels, "%s.mid_block.resnets.0", half);
    add_step(net, VAE_ATTENTION, channels, channels, "%s.mid_block.attentions.0", half);
    add_step(net, VAE_RES, channels, channels, "%s.mid_block.resnets.1", half);
}

static void describe_decoder(struct vae_net *net, const struct wan_vae_config *config)
{
    int64_t channels = config->base_dim * config->dim_mult[3];
    add_step(net, VAE_LINEAR, config->z_dim, config->z_dim, "post_quant_conv");
    add_step(net, VAE_CONV, config->z_dim, channels, "decoder.conv_in");
    add_middle(net, "decoder", channels);
    for (int level = 0; level < 4; level++) {
        int64_t out = config->base_dim * config->dim_mult[3 - level];
        for (int block = 0; block <= config->res_blocks; block++) {
            add_step(net, VAE_RES, channels, out, "decoder.up_blocks.%d.resnets.%d", level, block);
            channels = out;
        }
        if (level == 3)
            break;
        add_step(net, VAE_UP, channels, channels / 2, "decoder.up_blocks.%d.upsamplers.0", level)
            ->time = config->temporal_down[2 - level];
        channels /= 2;
    }
    add_step(net, VAE_HEAD, channels, 3, "decoder");
}

static void describe_encoder(struct vae_net *net, const struct wan_vae_config *config)
{
    int64_t channels = config->base_dim;
    int index = 0;
    add_step(net, VAE_CONV, 3, channels, "encoder.conv_in");
    for (int level = 0; level < 4; level++) {
        int64_t out = config->base_dim * config->dim_mult[level];
        for (int block = 0; block < config->res_blocks; block++) {
            add_step(net, VAE_RES, channels, out, "encoder.down_blocks.%d", index++);
            channels = out;
        }
        if (level < 3)
            add_step(net, VAE_DOWN, channels, channels, "encoder.down_blocks.%d", index++)->time =
                config->temporal_down[level];
    }
    add_middle(net, "encoder", channels);
    add_step(net, VAE_HEAD, channels, 2 * config->z_dim, "encoder");
    add_step(net, VAE_LINEAR, 2 * config->z_dim, 2 * config->z_dim, "quant_conv");
}

void vae_net_describe(struct vae_net *net, const struct wan_vae_config *config, bool decoder)
{
    *net = (struct vae_net){.decoder = decoder};
    if (decoder)
        describe_decoder(net, config);
    else
        describe_encoder(net, config);
}

int64_t vae_net_parameters(const struct vae_net *net)
{
    int64_t total = 0;
    for (int i = 0; i < net->count; i++) {
        const struct vae_step *step = &net->steps[i];
        const int64_t in = step->in, out = step->out;
        switch (step->kind) {
        case VAE_LINEAR:
            total += in * out + out;
            break;
        case VAE_CONV:
            total += 27 * in * out + out;
            break;
        case VAE_RES:
            total += in + 27 * in * out + out + out + 27 * out * out + out;
            total += in != out ? in * out + out : 0;
            break;
        case VAE_ATTENTION:
            total += in + 3 * in * in + 3 * in + in * in + in;
            break;
        case VAE_UP:
            total += 9 * in * out + out + (step->time ? 6 * in * in + 2 * in : 0);
            break;
        case VAE_DOWN:
            total += 9 * in * out + out + (step->time ? 3 * in * in + in : 0);
            break;
        case VAE_HEAD:
            total += in + 27 * in * out + out;
            break;
        }
    }
    return total;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* A kernel with its padding: space is padded to keep its size, time never. */
static struct conv_desc kernel(int32_t in, int32_t out, int32_t kt, int32_t k)
{
    return (struct conv_desc){.in = in,
                              .out = out,
                              .kt = kt,
                              .kh = k,
                              .kw = k,
                              .stride_t = 1,
                              .stride_h = 1,
                              .stride_w = 1,
                              .pad_top = k / 2,
                              .pad_bottom = k / 2,
                              .pad_left = k / 2,
                              .pad_right = k / 2};
}

struct loading {
    const struct vae_net *net;
    const struct checkpoint *checkpoint; /* NULL = random weights */
    float *weight, *bias; /* host, large enough for any tensor; NULL to check alone */
    uint64_t seed;        /* of the next random layer */
};

static const float *stored(const struct loading *loading, const float *values)
{
    return loading->checkpoint ? values : NULL;
}

/* Reads NAME.part.weight of shape [out][rest...] and NAME.part.bias. */
static bool read_pair(struct loading *loading, const struct vae_step *step, const char *part,
                      const int64_t *shape, int rank, struct error *error)
{
    char name[128];
    if (!loading->checkpoint)
        return true;
    snprintf(name, sizeof(name), "%s%s.weight", step->name, part);
    if (!checkpoint_read(loading->checkpoint, name, shape, rank, loading->weight, error))
        return false;
    snprintf(name, sizeof(name), "%s%s.bias", step->name, part);
    return checkpoint_read(loading->checkpoint, name, shape, 1, loading->bias, error);
}

static bool load_gamma(struct loading *loading, const struct vae_step *step, const char *part,
                       int64_t channels, float **out, struct error *error)
{
    const struct vae_net *net = loading->net;
    const size_t bytes = (size_t)channels * sizeof(float);
    char name[128];
    snprintf(name, sizeof(name), "%s%s.gamma", step->name, part);
    if (loading->checkpoint &&
        !checkpoint_read(loading->checkpoint, name, &channels, 1, loading->weight, error))
        return false;
    if (!loading->weight)
        return true;
    for (int64_t i = 0; !loading->checkpoint && i < channels; i++)
        loading->weight[i] = 1.0f;
    *out = net->ops->alloc(net->device, bytes);
    if (!*out)
        return error_out_of_memory(error, name, bytes);
    net->ops->upload(net->device, *out, loading->weight, bytes);
    return true;
}

static bool load_conv(struct loading *loading, const struct vae_step *step, const char *part,
                      const struct conv_desc *d, struct conv **out, struct error *error)
{
    const int64_t shape[] = {d->out, d->in, d->kt, d->kh, d->kw};
    return read_pair(loading, step, part, shape, 5, error) &&
           (!loading->weight ||
            loading->net->ops->conv_create(loading->net->device, out, d,
                                           stored(loading, loading->weight), loading->bias, error));
}

static bool load_linear(struct loading *loading, const struct vae_step *step, const char *part,
                        int64_t in, int64_t features, struct linear **out, struct error *error)
{
    const int64_t shape[] = {features, in};
    const struct linear_desc desc = {.in = in,
                                     .out = features,
                                     .bias = true,
                                     .exact = true,
                                     .weight = stored(loading, loading->weight),
                                     .bias_values = loading->bias,
                                     .seed = loading->seed++};
    return read_pair(loading, step, part, shape, 2, error) &&
           (!loading->weight ||
            loading->net->ops->linear_create(loading->net->device, out, &desc, error));
}

/* The time convolution of VAE_UP gives two frames in one: channels [0, in) and [in, 2 in). As two
 * convolutions each of them writes its frame where it belongs. */
static bool load_time_halves(struct loading *loading, struct vae_step *step, struct error *error)
{
    const struct vae_net *net = loading->net;
    const int64_t shape[] = {2 * step->in, step->in, 3, 1, 1};
    const struct conv_desc d = kernel(step->in, step->in, 3, 1);
    if (!read_pair(loading, step, ".time_conv", shape, 5, error))
        return false;
    for (int half = 0; loading->weight && half < 2; half++)
        if (!net->ops->conv_create(
                net->device, &step->conv[1 + half], &d,
                stored(loading, loading->weight + half * 3LL * step->in * step->in),
                loading->bias + half * step->in, error))
            return false;
    return true;
}

static bool load_step(struct loading *loading, struct vae_step *step, struct error *error)
{
    const int32_t in = step->in, out = step->out;
    struct conv_desc first = kernel(in, out, 3, 3), second = kernel(out, out, 3, 3);
    struct conv_desc space = kernel(in, out, 1, 3), time = kernel(in, in, 3, 1);
    switch (step->kind) {
    case VAE_LINEAR:
        return load_linear(loading, step, "", in, out, &step->linear[0], error);
    case VAE_CONV:
        return load_conv(loading, step, "", &first, &step->conv[0], error);
    case VAE_RES:
        return load_gamma(loading, step, ".norm1", in, &step->gamma[0], error) &&
               load_conv(loading, step, ".conv1", &first, &step->conv[0], error) &&
               load_gamma(loading, step, ".norm2", out, &step->gamma[1], error) &&
               load_conv(loading, step, ".conv2", &second, &step->conv[1], error) &&
               (in == out ||
                load_linear(loading, step, ".conv_shortcut", in, out, &step->linear[0], error));
    case VAE_ATTENTION:
        return load_gamma(loading, step, ".norm", in, &step->gamma[0], error) &&
               load_linear(loading, step, ".to_qkv", in, 3LL * in, &step->linear[0], error) &&
               load_linear(loading, step, ".proj", in, in, &step->linear[1], error);
    case VAE_UP:
        return load_conv(loading, step, ".resample.1", &space, &step->conv[0], error) &&
               (!step->time || load_time_halves(loading, step, error));
    case VAE_DOWN:
        space.stride_h = space.stride_w = 2;
        space.pad_top = space.pad_left = 0;
        time.stride_t = 2;
        return load_conv(loading, step, ".resample.1", &space, &step->conv[0], error) &&
               (!step->time ||
                load_conv(loading, step, ".time_conv", &time, &step->conv[1], error));
    case VAE_HEAD:
        return load_gamma(loading, step, ".norm_out", in, &step->gamma[0], error) &&
               load_conv(loading, step, ".conv_out", &first, &step->conv[0], error);
    }
    return false;
}

bool vae_net_check(struct vae_net *net, const struct checkpoint *checkpoint, struct error *error)
{
    struct loading loading = {.net = net, .checkpoint = checkpoint};
    bool ok = true;
    for (int i = 0; ok && i < net->count; i++)
        ok = load_step(&loading, &net->steps[i], error);
    return ok;
}

bool vae_net_load(struct vae_net *net, const struct checkpoint *checkpoint, const struct ops *ops,
                  struct device *device, const struct progress *progress, struct error *error)
{
    int64_t widest = 0;
    net->ops = ops;
    net->device = device;
    for (int i = 0; i < net->count; i++) {
        const struct vae_step *step = &net->steps[i];
        widest = step->in > widest ? step->in : widest;
        widest = step->out > widest ? step->out : widest;
    }
    /* The largest tensor is a 3x3x3 kernel, the longest bias that of q, k and v. */
    const size_t bytes = (size_t)(27 * widest * widest) * sizeof(float);
    struct loading loading = {.net = net, .checkpoint = checkpoint};
    loading.weight = malloc(bytes);
    loading.bias = calloc((size_t)(3 * widest), sizeof(float)); /* zeros of random layers */
    bool ok = loading.weight && loading.bias;
    if (!ok)
        error_out_of_memory(error, "reading the VAE's weights", bytes);
    for (int i = 0; ok && i < net->count; i++)
        ok = progress_step(progress, 0, net->count, error) &&
             load_step(&loading, &net->steps[i], error);
    free(loading.weight);
    free(loading.bias);
    return ok;
}

void vae_net_free(struct vae_net *net)
{
    if (!net->ops)
        return;
    for (int i = 0; i < net->count; i++) {
        struct vae_step *step = &net->steps[i];
        for (int j = 0; j < 2; j++) {
            net->ops->free(net->device, step->gamma[j]);
            net->ops->linear_destroy(net->device, step->linear[j]);
        }
        for (int j = 0; j < 3; j++)
            net->ops->conv_destroy(net->device, step->conv[j]);
    }
}
