/*
 * A whole generation with the small random Wan model: prompt embeddings and noise in, latents and
 * frames out, as diffusers' WanPipeline runs it (UniPC, guidance, decode). The text encoder has
 * cases of its own. Frames of the case are [1][frame][channel][height][width] in 0..1, ours
 * [frame][height][width][channel] in -1..1.
 */
#include "golden_generation.h"

#include "io/config.h"

#include <stdio.h>
#include <stdlib.h>

#define PATH_SIZE         4200
#define LATENTS_TOLERANCE 2e-3
#define FRAMES_TOLERANCE  (1.0 / 255)

struct run {
    const struct golden *golden;
    double guidance, flow_shift;
    int64_t steps;
    const struct stored_tensor *shape; /* of the latents: [1][channels][frames][height][width] */
    const struct stored_tensor *text;  /* [1][rows][width] */
    float *latents;                    /* noise, then what came out */
    float *prompt, *negative;
    float *final_latents, *frames;
    const struct stored_tensor *frames_shape;
};

static bool read_settings(struct run *run, struct error *error)
{
    char path[PATH_SIZE];
    struct config *config = NULL;
    snprintf(path, sizeof path, "%s/case.json", run->golden->dir);
    bool ok = config_open(&config, path, error) &&
              config_float_or(config, "guidance_scale", 0, 100, 5, &run->guidance, error) &&
              config_float_or(config, "flow_shift", 1e-3, 100, 5, &run->flow_shift, error) &&
              config_int(config, "steps", 1, 1000, &run->steps, error);
    config_close(config);
    return ok;
}

static bool read_tensors(struct run *run, const struct checkpoint *io, struct error *error)
{
    const struct stored_tensor *negative = NULL;
    if (!golden_floats(io, "latents", &run->latents, &run->shape, error) ||
        !golden_floats(io, "prompt_embeds", &run->prompt, &run->text, error) ||
        !golden_floats(io, "negative_prompt_embeds", &run->negative, &negative, error) ||
        !golden_floats(io, "final_latents", &run->final_latents, NULL, error) ||
        !golden_floats(io, "frames", &run->frames, &run->frames_shape, error))
        return false;
    if (run->shape->rank != 5 || run->text->rank != 3 || negative->bytes != run->text->bytes ||
        run->frames_shape->rank != 5 || run->frames_shape->shape[2] != 3 ||
        run->frames_shape->shape[3] != 8 * run->shape->shape[3] ||
        run->frames_shape->shape[4] != 8 * run->shape->shape[4])
        return error_set(error, "%s: shapes do not belong together", checkpoint_path(io));
    return true;
}

static bool denoise(const struct run *run, struct error *error)
{
    char config[PATH_SIZE], weights[PATH_SIZE];
    snprintf(config, sizeof config, "%s/transformer/config.json", run->golden->dir);
    snprintf(weights, sizeof weights, "%s/transformer", run->golden->dir);
    int64_t rows = run->text->shape[1];
    struct golden_denoise desc = {.transformer = {config, weights, NULL},
                                  .texts = {run->prompt, run->negative},
                                  .rows = {rows, rows},
                                  .pad_to = rows,
                                  .steps = run->steps,
                                  .guidance = run->guidance,
                                  .flow_shift = run->flow_shift,
                                  .shape = run->shape->shape + 1};
    return golden_denoise(run->golden, &desc, run->latents, error);
}

/* Decoded frames in the case's layout and range. */
struct sink {
    float *frames;
    const int64_t *shape; /* [1][frames][channels][height][width] */
    int64_t done;
};

static bool take_frames(void *user, const float *frames, int64_t count, struct error *error)
{
    struct sink *sink = user;
    int64_t channels = sink->shape[2];
    int64_t area = sink->shape[3] * sink->shape[4];
    if (sink->done + count > sink->shape[1])
        return error_set(error, "the decoder gives more than the %lld frames expected",
                         (long long)sink->shape[1]);
    float *out = sink->frames + sink->done * channels * area;
    for (int64_t f = 0; f < count; f++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t i = 0; i < area; i++)
                out[(f * channels + c) * area + i] =
                    (frames[(f * area + i) * channels + c] + 1) / 2;
    sink->done += count;
    return true;
}

static bool decode(const struct run *run, float *frames, struct error *error)
{
    char config[PATH_SIZE], weights[PATH_SIZE];
    snprintf(config, sizeof config, "%s/vae/config.json", run->golden->dir);
    snprintf(weights, sizeof weights, "%s/vae", run->golden->dir);
    struct golden_network vae = {config, weights, NULL};
    struct sink sink = {.frames = frames, .shape = run->frames_shape->shape};
    if (!golden_decode(run->golden, &vae, run->latents, run->shape->shape + 1, take_frames, &sink,
                       error))
        return false;
    if (sink.done != sink.shape[1])
        return error_set(error, "the decoder gives %lld frames, expected %lld",
                         (long long)sink.done, (long long)sink.shape[1]);
    return true;
}

static bool compare(const struct run *run, struct error *error)
{
    int64_t latents = 1, elements = 1;
    for (int i = 0; i < 5; i++) {
        latents *= run->shape->shape[i];
        elements *= run->frames_shape->shape[i];
    }
    float *frames = malloc((size_t)elements * sizeof *frames);
    if (!frames)
        return error_out_of_memory(error, "frames", (unsigned long long)elements * sizeof *frames);
    bool ok =
        denoise(run, error) &&
        golden_close(run->golden, "latents", run->latents, run->final_latents, latents,
                     LATENTS_TOLERANCE, error) &&
        decode(run, frames, error) &&
        golden_close(run->golden, "frames", frames, run->frames, elements, FRAMES_TOLERANCE, error);
    free(frames);
    return ok;
}

bool golden_wan_pipeline(const struct golden *golden, struct error *error)
{
    struct run run = {.golden = golden};
    struct checkpoint *io = NULL;
    bool ok = read_settings(&run, error) && golden_open(golden, NULL, &io, error) &&
              read_tensors(&run, io, error) && compare(&run, error);
    free(run.latents);
    free(run.prompt);
    free(run.negative);
    free(run.final_latents);
    free(run.frames);
    checkpoint_close(io);
    return ok;
}
