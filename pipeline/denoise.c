/*
 * The denoising loop: per step one forward pass for the prompt, one for the negative prompt if
 * there is guidance, and the scheduler's update. Owns the two velocities and, for image to video,
 * the latents with their condition channels. Refuses to go on after a NaN: says where it appeared.
 */
#include "denoise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct loop {
    const struct denoise *denoise;
    const struct progress *progress;
    int64_t channels_in, channels_out;
    int64_t elements;    /* of the latents */
    int64_t done, total; /* forward passes */
    float *input;        /* [channels_in]...: latents, then the condition; NULL without one */
    float *velocity;
    float *negative; /* NULL without guidance */
};

static bool one_pass(struct loop *loop, int32_t step, const char *which,
                     const struct wan_context *context, const float *latents, float *velocity,
                     struct error *error)
{
    const struct denoise *denoise = loop->denoise;
    int32_t steps = scheduler_steps(denoise->scheduler);
    const draftattn_step place = {.step = step,
                                  .steps = steps,
                                  .layer = -1,
                                  .sigma = (float)scheduler_sigma(denoise->scheduler, step)};
    if (!wan_transformer_forward(denoise->transformer, latents, denoise->frames, denoise->height,
                                 denoise->width, scheduler_timestep(denoise->scheduler, step),
                                 context, denoise->attention, &place, velocity, error))
        return error_prefix(error, "step %d of %d, %s pass: ", step + 1, steps, which);
    return progress_step(loop->progress, ++loop->done, loop->total, error);
}

static bool check_latents(const struct loop *loop, int32_t step, const float *latents,
                          struct error *error)
{
    for (int64_t i = 0; i < loop->elements; i++)
        if (!isfinite(latents[i]))
            return error_set(error, "step %d of %d, scheduler: NaN or infinity in the latents",
                             step + 1, scheduler_steps(loop->denoise->scheduler));
    return true;
}

static bool one_step(struct loop *loop, int32_t step, float *latents, struct error *error)
{
    const struct denoise *denoise = loop->denoise;
    const float *input = latents;
    if (loop->input) {
        memcpy(loop->input, latents, (size_t)loop->elements * sizeof *latents);
        input = loop->input;
    }
    if (!one_pass(loop, step, "prompt", denoise->prompt, input, loop->velocity, error))
        return false;
    if (loop->negative) {
        if (!one_pass(loop, step, "negative", denoise->negative, input, loop->negative, error))
            return false;
        float guidance = (float)denoise->guidance;
        for (int64_t i = 0; i < loop->elements; i++)
            loop->velocity[i] =
                loop->negative[i] + guidance * (loop->velocity[i] - loop->negative[i]);
    }
    scheduler_advance(denoise->scheduler, step, loop->velocity, latents);
    return check_latents(loop, step, latents, error);
}

static bool prepare(struct loop *loop, const float *latents, struct error *error)
{
    const struct denoise *denoise = loop->denoise;
    int64_t positions = denoise->frames * denoise->height * denoise->width;
    size_t bytes = (size_t)loop->elements * sizeof(float);
    int64_t extra = loop->channels_in - loop->channels_out;
    if ((denoise->condition != NULL) != (extra > 0))
        return error_set(error,
                         "the transformer takes %lld channels and gives %lld: it %s a condition "
                         "image",
                         (long long)loop->channels_in, (long long)loop->channels_out,
                         extra > 0 ? "needs" : "takes no");
    for (int64_t i = 0; i < loop->elements; i++)
        if (!isfinite(latents[i]))
            return error_set(error, "NaN or infinity in the initial latents");
    loop->velocity = malloc(bytes);
    if (denoise->negative)
        loop->negative = malloc(bytes);
    if (extra > 0)
        loop->input = malloc((size_t)(loop->channels_in * positions) * sizeof(float));
    if (!loop->velocity || (denoise->negative && !loop->negative) || (extra > 0 && !loop->input))
        return error_out_of_memory(error, "the denoising loop", 3ull * bytes);
    if (extra > 0)
        memcpy(loop->input + loop->elements, denoise->condition,
               (size_t)(extra * positions) * sizeof(float));
    return true;
}

bool denoise_run(const struct denoise *denoise, float *latents, const struct progress *progress,
                 struct error *error)
{
    int32_t steps = scheduler_steps(denoise->scheduler);
    struct loop loop = {.denoise = denoise, .progress = progress};
    wan_transformer_channels(denoise->transformer, &loop.channels_in, &loop.channels_out);
    loop.elements = loop.channels_out * denoise->frames * denoise->height * denoise->width;
    loop.total = (int64_t)steps * (denoise->negative ? 2 : 1);
    bool ok = prepare(&loop, latents, error) && progress_step(progress, 0, loop.total, error);
    for (int32_t step = 0; ok && step < steps; step++)
        ok = one_step(&loop, step, latents, error);
    free(loop.input);
    free(loop.velocity);
    free(loop.negative);
    return ok;
}
