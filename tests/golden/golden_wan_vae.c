/*
 * The Wan VAE against diffusers' AutoencoderKLWan: latents to frames, video to mean and logvar.
 * Latents and moments are as the network has them (not normalised). Frames of the case are
 * [1][3][frames][height][width] in -1..1, clamped; ours have the channels last. A case may hold
 * only one of the two directions.
 */
#include "golden.h"

#include "models/wan_vae.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOLERANCE 1e-4

struct frames {
    float *values; /* channels first, like the case's */
    int64_t count, height, width, filled;
};

static bool collect(void *user, const float *values, int64_t count, struct error *error)
{
    struct frames *frames = user;
    const int64_t plane = frames->height * frames->width;
    if (frames->filled + count > frames->count)
        return error_set(error, "more frames than the %lld expected", (long long)frames->count);
    for (int64_t i = 0; i < count * plane; i++)
        for (int64_t c = 0; c < 3; c++)
            frames->values[(c * frames->count + frames->filled) * plane + i] = values[i * 3 + c];
    frames->filled += count;
    return true;
}

/* [1][channels][frames][height][width]; channels 0 = any. */
static bool is_clip(const struct checkpoint *io, const struct stored_tensor *tensor,
                    int64_t channels, struct error *error)
{
    if (tensor->rank == 5 && tensor->shape[0] == 1 &&
        (channels == 0 || tensor->shape[1] == channels))
        return true;
    return error_set(error, "%s: '%s' is not a clip", checkpoint_path(io), tensor->name);
}

static bool test_decode(const struct golden *golden, const struct checkpoint *io,
                        struct wan_vae *vae, int64_t z_dim, struct error *error)
{
    const struct stored_tensor *shape = NULL, *frames_shape = NULL;
    float *latents = NULL, *want = NULL;
    struct frames frames = {0};
    bool ok = golden_floats(io, "latents", &latents, &shape, error) &&
              golden_floats(io, "frames", &want, &frames_shape, error) &&
              is_clip(io, shape, z_dim, error) && is_clip(io, frames_shape, 3, error);
    if (!ok)
        goto done;
    const int64_t *size = frames_shape->shape;
    frames = (struct frames){.count = size[2], .height = size[3], .width = size[4]};
    const int64_t total = 3 * size[2] * size[3] * size[4];
    if (size[2] != 4 * (shape->shape[2] - 1) + 1 || size[3] != 8 * shape->shape[3] ||
        size[4] != 8 * shape->shape[4]) {
        ok = error_set(error, "%s: 'frames' does not belong to 'latents'", checkpoint_path(io));
        goto done;
    }
    frames.values = calloc((size_t)total, sizeof(*frames.values));
    ok = frames.values ? true : error_out_of_memory(error, "frames", (unsigned long long)total * 4);
    ok = ok &&
         wan_vae_decode(vae, latents, shape->shape[2], shape->shape[3], shape->shape[4], false,
                        NULL, collect, &frames, NULL, error) &&
         golden_close(golden, "frames", frames.values, want, total, TOLERANCE, error);
done:
    free(latents);
    free(want);
    free(frames.values);
    return ok;
}

/* [3][frames][height][width] to [frames][height][width][3] */
static float *channels_last(const float *video, const int64_t *shape)
{
    const int64_t count = shape[2] * shape[3] * shape[4];
    float *out = malloc((size_t)(count * 3) * sizeof(*out));
    for (int64_t i = 0; out && i < count * 3; i++)
        out[i] = video[i % 3 * count + i / 3];
    return out;
}

static bool test_encode(const struct golden *golden, const struct checkpoint *io,
                        struct wan_vae *vae, int64_t z_dim, struct error *error)
{
    const struct stored_tensor *shape = NULL, *mean_shape = NULL, *logvar_shape = NULL;
    float *stored = NULL, *video = NULL, *want_mean = NULL, *want_logvar = NULL, *got = NULL;
    bool ok = golden_floats(io, "video", &stored, &shape, error) &&
              golden_floats(io, "mean", &want_mean, &mean_shape, error) &&
              golden_floats(io, "logvar", &want_logvar, &logvar_shape, error) &&
              is_clip(io, shape, 3, error) && is_clip(io, mean_shape, z_dim, error);
    if (!ok)
        goto done;
    const int64_t *size = mean_shape->shape;
    const int64_t total = z_dim * size[2] * size[3] * size[4];
    if (size[2] != (shape->shape[2] - 1) / 4 + 1 || size[3] != shape->shape[3] / 8 ||
        size[4] != shape->shape[4] / 8 || logvar_shape->bytes != mean_shape->bytes) {
        ok = error_set(error, "%s: 'mean' does not belong to 'video'", checkpoint_path(io));
        goto done;
    }
    video = channels_last(stored, shape->shape);
    got = malloc((size_t)(2 * total) * sizeof(*got));
    ok = video && got ? true : error_out_of_memory(error, "video", (unsigned long long)total * 8);
    ok = ok &&
         wan_vae_encode(vae, video, shape->shape[2], shape->shape[3], shape->shape[4], false, NULL,
                        got, got + total, NULL, error) &&
         golden_close(golden, "mean", got, want_mean, total, TOLERANCE, error) &&
         golden_close(golden, "logvar", got + total, want_logvar, total, TOLERANCE, error);
done:
    free(stored);
    free(video);
    free(want_mean);
    free(want_logvar);
    free(got);
    return ok;
}

bool golden_wan_vae(const struct golden *golden, struct error *error)
{
    char path[4200];
    struct wan_vae_config config;
    struct checkpoint *io = NULL, *weights = NULL;
    struct wan_vae *vae = NULL;
    snprintf(path, sizeof(path), "%s/config.json", golden->dir);
    bool ok = wan_vae_config_read(&config, path, error) && golden_open(golden, NULL, &io, error) &&
              golden_open(golden, "diffusion_pytorch_model.safetensors", &weights, error);
    if (ok) {
        const bool decode = checkpoint_find(io, "latents"), encode = checkpoint_find(io, "video");
        const int parts = (decode ? (int)WAN_VAE_DECODER : 0) | (encode ? (int)WAN_VAE_ENCODER : 0);
        ok = parts ? true
                   : error_set(error, "%s: has neither 'latents' nor 'video'", checkpoint_path(io));
        ok =
            ok &&
            wan_vae_load(&vae, &config, parts, weights, golden->ops, golden->device, NULL, error) &&
            (!decode || test_decode(golden, io, vae, config.z_dim, error)) &&
            (!encode || test_encode(golden, io, vae, config.z_dim, error));
    }
    wan_vae_free(vae);
    checkpoint_close(weights);
    checkpoint_close(io);
    return ok;
}
