/*
 * One forward pass of the Wan transformer, text and image to video, against diffusers in float32;
 * dense attention. Where the case has it, the residual stream after the first block is compared
 * too, so that a failure says which half is wrong.
 */
#include "golden.h"

#include "models/wan_transformer.h"

#include <stdio.h>
#include <stdlib.h>

#define TOLERANCE 1e-3

struct transformer_case {
    float *hidden, *timestep, *text, *image, *want, *block0; /* image, block0: NULL without */
    int64_t batch, channels_in, channels_out, frames, height, width;
    int64_t text_rows, text_dim, image_rows, image_dim;
};

static bool read_optional(const struct checkpoint *io, const char *name, float **out,
                          const struct stored_tensor **info, struct error *error)
{
    *info = NULL;
    return !checkpoint_find(io, name) || golden_floats(io, name, out, info, error);
}

static bool read_tensors(struct transformer_case *data, const struct checkpoint *io,
                         struct error *error)
{
    const struct stored_tensor *hidden, *timestep, *text, *image, *want, *block0;
    if (!golden_floats(io, "hidden_states", &data->hidden, &hidden, error) ||
        !golden_floats(io, "timestep", &data->timestep, &timestep, error) ||
        !golden_floats(io, "encoder_hidden_states", &data->text, &text, error) ||
        !golden_floats(io, "out", &data->want, &want, error) ||
        !read_optional(io, "encoder_hidden_states_image", &data->image, &image, error) ||
        !read_optional(io, "block0_out", &data->block0, &block0, error))
        return false;
    if (hidden->rank != 5 || want->rank != 5 || text->rank != 3 || timestep->rank != 1 ||
        (image && image->rank != 3) || timestep->shape[0] != hidden->shape[0] ||
        text->shape[0] != hidden->shape[0] || want->shape[0] != hidden->shape[0] ||
        (image && image->shape[0] != hidden->shape[0]) || want->shape[2] != hidden->shape[2] ||
        want->shape[3] != hidden->shape[3] || want->shape[4] != hidden->shape[4])
        return error_set(error, "%s: shapes do not fit each other", checkpoint_path(io));
    data->batch = hidden->shape[0];
    data->channels_in = hidden->shape[1];
    data->channels_out = want->shape[1];
    data->frames = hidden->shape[2];
    data->height = hidden->shape[3];
    data->width = hidden->shape[4];
    data->text_rows = text->shape[1];
    data->text_dim = text->shape[2];
    data->image_rows = image ? image->shape[1] : 0;
    data->image_dim = image ? image->shape[2] : 0;
    return true;
}

static bool plan(struct self_attention **out, const struct golden *golden,
                 const struct wan_transformer_config *config, const struct transformer_case *data,
                 struct error *error)
{
    draftattn_plan_desc desc = draftattn_plan_desc_default();
    desc.grid = (draftattn_grid){.frames = data->frames / config->patch[0],
                                 .height = data->height / config->patch[1],
                                 .width = data->width / config->patch[2]};
    desc.heads = (int32_t)config->heads;
    desc.head_dim = (int32_t)config->head_dim;
    desc.policy = DRAFTATTN_POLICY_DENSE;
    desc.order = DRAFTATTN_ORDER_BLOCK;
    return self_attention_create(out, golden->context, &desc, (int32_t)config->layers, golden->ops,
                                 golden->device, error);
}

/* One forward pass with latents and velocity in host memory. */
static bool forward(const struct golden *golden, struct wan_transformer *transformer,
                    struct self_attention *attention, const struct transformer_case *data,
                    int64_t sample, const struct wan_context *context, float *velocity,
                    struct error *error)
{
    const struct ops *ops = golden->ops;
    const int64_t positions = data->frames * data->height * data->width;
    const int64_t values = data->channels_in * positions;
    const size_t in = (size_t)values * sizeof(float);
    const size_t out = (size_t)(data->channels_out * positions) * sizeof(float);
    float *latents = ops->alloc(golden->device, in), *result = ops->alloc(golden->device, out);
    bool ok = latents && result;
    if (!ok)
        error_out_of_memory(error, "a golden case", in + out);
    if (ok)
        ops->upload(golden->device, latents, data->hidden + sample * values, in);
    ok = ok &&
         wan_transformer_forward(transformer, latents, data->frames, data->height, data->width,
                                 data->timestep[sample], context, attention, NULL, result, error);
    if (ok)
        ops->download(golden->device, velocity, result, out);
    wan_transformer_forget(transformer);
    ops->free(golden->device, latents);
    ops->free(golden->device, result);
    return ok;
}

static bool compare_sample(const struct golden *golden, struct wan_transformer *transformer,
                           struct self_attention *attention, const struct transformer_case *data,
                           int64_t sample, int64_t stream, struct error *error)
{
    int64_t positions = data->frames * data->height * data->width;
    int64_t values = data->channels_out * positions;
    const float *image =
        data->image ? data->image + sample * data->image_rows * data->image_dim : NULL;
    float *velocity = calloc((size_t)values, sizeof *velocity);
    float *block0 = data->block0 ? calloc((size_t)stream, sizeof *block0) : NULL;
    struct wan_context *context = NULL;
    wan_transformer_probe(transformer, 0, block0);
    bool ok = velocity && (block0 || !data->block0) &&
              wan_context_create(
                  &context, transformer, data->text + sample * data->text_rows * data->text_dim,
                  data->text_rows, data->text_rows, image, data->image_rows, error) &&
              forward(golden, transformer, attention, data, sample, context, velocity, error) &&
              (!block0 || golden_close(golden, "block 0", block0, data->block0 + sample * stream,
                                       stream, TOLERANCE, error)) &&
              golden_close(golden, "output", velocity, data->want + sample * values, values,
                           TOLERANCE, error);
    wan_context_free(context);
    free(velocity);
    free(block0);
    return ok;
}

static bool check_config(const struct wan_transformer_config *config,
                         const struct transformer_case *data, const char *dir, struct error *error)
{
    return (config->in_channels == data->channels_in &&
            config->out_channels == data->channels_out && config->text_dim == data->text_dim &&
            config->image_dim == data->image_dim) ||
           error_set(error, "%s: config.json and io.safetensors do not fit each other", dir);
}

bool golden_wan_transformer(const struct golden *golden, struct error *error)
{
    char path[4096];
    struct transformer_case data = {0};
    struct wan_transformer_config config;
    struct checkpoint *io = NULL, *weights = NULL;
    struct wan_transformer *transformer = NULL;
    struct self_attention *attention = NULL;
    snprintf(path, sizeof path, "%s/config.json", golden->dir);
    bool ok = golden_open(golden, NULL, &io, error) && read_tensors(&data, io, error) &&
              wan_transformer_config_read(&config, path, error) &&
              check_config(&config, &data, golden->dir, error) &&
              checkpoint_open(&weights, golden->dir, error) &&
              wan_transformer_load(&transformer, &config, weights, golden->ops, golden->device,
                                   NULL, error) &&
              plan(&attention, golden, &config, &data, error);
    for (int64_t i = 0; ok && i < data.batch; i++)
        ok = compare_sample(golden, transformer, attention, &data, i,
                            self_attention_tokens(attention) * config.heads * config.head_dim,
                            error);
    self_attention_destroy(attention);
    wan_transformer_free(transformer);
    checkpoint_close(weights);
    checkpoint_close(io);
    free(data.hidden);
    free(data.timestep);
    free(data.text);
    free(data.image);
    free(data.want);
    free(data.block0);
    return ok;
}
