/*
 * Opens a model folder and its configurations, or makes one up: a synthetic model has the published
 * configuration of its name and no files.
 *
 * Refuses what this program cannot run, in words and before any weight is read: image-to-video
 * checkpoints (their image encoder is not here), text widths and channel counts that do not fit
 * together.
 */
#include "model.h"

#include "io/config.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Published with Wan2.1 and used by its own generate.py when none is given. */
static const char wan_negative_prompt[] =
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，"
    "低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，"
    "毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";

static const struct model_defaults wan_defaults = {
    .width = 832,
    .height = 480,
    .frames = 81,
    .steps = 50,
    .steps_large = 50,
    .guidance = 5,
    .fps = 16,
    .flow_shift = 5,
    .flow_shift_large = 5,
    .sparsity = -1,
    .probes = -1,
};

static bool read_defaults(struct model_defaults *d, const char *path, struct error *error)
{
    struct config *config = NULL;
    if (!config_open(&config, path, error))
        return false;
    const char *negative = config_string(config, "negative_prompt");
    const char *prompt = config_string(config, "prompt");
    bool ok =
        config_int_or(config, "width", 16, 16384, d->width, &d->width, error) &&
        config_int_or(config, "height", 16, 16384, d->height, &d->height, error) &&
        config_int_or(config, "frames", 1, 9999, d->frames, &d->frames, error) &&
        config_int_or(config, "steps", 1, 1000, d->steps, &d->steps, error) &&
        config_int_or(config, "steps_large", 1, 1000, d->steps, &d->steps_large, error) &&
        config_float_or(config, "guidance", 0, 100, d->guidance, &d->guidance, error) &&
        config_float_or(config, "fps", 1, 240, d->fps, &d->fps, error) &&
        config_float_or(config, "flow_shift", 0.01, 1000, d->flow_shift, &d->flow_shift, error) &&
        config_float_or(config, "flow_shift_large", 0.01, 1000, d->flow_shift, &d->flow_shift_large,
                        error) &&
        config_float_or(config, "sparsity", 0, 0.999, d->sparsity, &d->sparsity, error) &&
        config_int_or(config, "probes", 0, 1024, d->probes, &d->probes, error);
    if (ok) {
        d->negative_prompt = strdup(negative ? negative : "");
        d->prompt = prompt ? strdup(prompt) : NULL;
        ok = (d->negative_prompt && (d->prompt || !prompt)) ||
             error_out_of_memory(error, "the model's defaults", 4096);
    }
    config_close(config);
    return ok;
}

/* Wan as published; its diffusers uploads carry the shift of the small size in the scheduler's
 * configuration. */
static bool published_defaults(struct model_defaults *d, const char *scheduler_config,
                               struct error *error)
{
    d->negative_prompt = strdup(wan_negative_prompt);
    if (!d->negative_prompt)
        return error_out_of_memory(error, "the negative prompt", sizeof wan_negative_prompt);
    if (!scheduler_config[0])
        return true;
    struct config *config = NULL;
    if (!config_open(&config, scheduler_config, error))
        return false;
    bool ok =
        config_float_or(config, "flow_shift", 0.01, 1000, d->flow_shift, &d->flow_shift, error);
    config_close(config);
    return ok;
}

static bool load_defaults(struct model *model, struct error *error)
{
    char path[MODEL_PATH_MAX + sizeof MODEL_DEFAULTS_FILE + 1];
    model->defaults = wan_defaults;
    snprintf(path, sizeof path, "%s/%s", model->folder.root, MODEL_DEFAULTS_FILE);
    if (access(path, F_OK) == 0)
        return read_defaults(&model->defaults, path, error);
    return published_defaults(&model->defaults, model->folder.scheduler_config, error);
}

static bool check_parts(const struct model *model, const char *path, struct error *error)
{
    const struct wan_transformer_config *t = &model->transformer;
    if (t->image_dim > 0 || t->in_channels != t->out_channels)
        return error_set(
            error,
            "model '%s' is an image-to-video checkpoint (%lld channels in, %lld out): its "
            "image encoder is not supported; use a text-to-video (T2V) checkpoint",
            path, (long long)t->in_channels, (long long)t->out_channels);
    if (t->out_channels != model->vae.z_dim)
        return error_set(
            error,
            "model '%s': the transformer makes %lld latent channels, the VAE takes %lld; "
            "these parts are not of one model",
            path, (long long)t->out_channels, (long long)model->vae.z_dim);
    if (t->text_dim != model->text.width)
        return error_set(
            error,
            "model '%s': the transformer takes text of width %lld, the text encoder makes "
            "%lld; these parts are not of one model",
            path, (long long)t->text_dim, (long long)model->text.width);
    return true;
}

bool model_open(struct model *out, const char *path, struct error *error)
{
    *out = (struct model){0};
    bool ok =
        model_folder_open(&out->folder, path, error) &&
        wan_transformer_config_read(&out->transformer, out->folder.transformer_config, error) &&
        wan_vae_config_read(&out->vae, out->folder.vae_config, error) &&
        umt5_config_read(&out->text, out->folder.text_encoder_config, error) &&
        check_parts(out, path, error) && load_defaults(out, error);
    if (!ok)
        model_close(out);
    return ok;
}

struct synthetic {
    const char *name;
    int64_t heads, layers, ffn;
};

static const struct synthetic synthetic_models[] = {
    {"wan2.1-t2v-1.3b", 12, 30, 8960},
    {"wan2.1-t2v-14b", 40, 40, 13824},
};

const char *model_synthetic_name(size_t index)
{
    return index < sizeof synthetic_models / sizeof *synthetic_models ? synthetic_models[index].name
                                                                      : NULL;
}

bool model_open_synthetic(struct model *out, const char *name, struct error *error)
{
    const struct synthetic *found = NULL;
    for (size_t i = 0; model_synthetic_name(i); i++)
        if (strcmp(name, model_synthetic_name(i)) == 0)
            found = &synthetic_models[i];
    *out = (struct model){.synthetic = true};
    if (!found)
        return error_set_usage(error, "there is no synthetic model '%s'", name);
    out->folder.layout = MODEL_LAYOUT_ORIGINAL;
    snprintf(out->folder.root, sizeof out->folder.root, "%s", found->name);
    out->transformer = (struct wan_transformer_config){
        .heads = found->heads,
        .head_dim = 128,
        .layers = found->layers,
        .ffn = found->ffn,
        .in_channels = 16,
        .out_channels = 16,
        .text_dim = 4096,
        .freq_dim = 256,
        .text_len = 512,
        .patch = {1, 2, 2},
        .rope_max = 1024,
        .eps = 1e-6,
    };
    out->defaults = wan_defaults;
    bool ok = wan_vae_config_read(&out->vae, "", error) &&
              umt5_config_read(&out->text, "", error) &&
              published_defaults(&out->defaults, "", error);
    if (!ok)
        model_close(out);
    return ok;
}

const char *model_name(const struct model *model)
{
    const char *slash = strrchr(model->folder.root, '/');
    return slash && slash[1] ? slash + 1 : model->folder.root;
}

/* FNV-1a over the text. */
static void mix(uint64_t *hash, const char *format, ...)
{
    char text[64];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (const char *c = text; *c; c++)
        *hash = (*hash ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
}

static void mix_numbers(uint64_t *hash, const int64_t *numbers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        mix(hash, "%" PRId64 " ", numbers[i]);
}

void model_identity(const struct model *model, char *buffer, size_t size)
{
    const struct wan_transformer_config *t = &model->transformer;
    const struct wan_vae_config *v = &model->vae;
    const struct umt5_config *u = &model->text;
    const int64_t numbers[] = {
        t->heads,
        t->head_dim,
        t->layers,
        t->ffn,
        t->in_channels,
        t->text_dim,
        t->freq_dim,
        t->text_len,
        t->patch[0],
        t->patch[1],
        t->patch[2],
        t->out_channels,
        v->base_dim,
        v->z_dim,
        v->res_blocks,
        v->temporal_down[0],
        v->dim_mult[0],
        v->dim_mult[1],
        v->dim_mult[2],
        v->dim_mult[3],
        v->temporal_down[1],
        v->temporal_down[2],
        u->vocab,
        u->width,
        u->heads,
        u->head_dim,
        u->ffn,
        u->layers,
        u->buckets,
        u->max_distance,
        (int64_t)model->folder.layout,
    };
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    mix_numbers(&hash, numbers, sizeof numbers / sizeof *numbers);
    mix(&hash, "%.17g %.17g", t->eps, u->eps);
    for (int64_t i = 0; i < v->z_dim; i++)
        mix(&hash, " %.17g %.17g", v->mean[i], v->std[i]);
    snprintf(buffer, size, "%s %016" PRIx64, model_name(model), hash);
}

void model_close(struct model *model)
{
    free(model->defaults.negative_prompt);
    free(model->defaults.prompt);
    *model = (struct model){0};
}

bool model_open_weights(struct checkpoint **out, const char *path, checkpoint_rename_fn rename,
                        struct error *error)
{
    *out = NULL;
    if (!path[0])
        return true;
    if (!checkpoint_open(out, path, error))
        return false;
    checkpoint_set_rename(*out, rename);
    return true;
}
