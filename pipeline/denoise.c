/*
 * The denoising loop: per step one forward pass for the prompt, one for the negative prompt if
 * there is guidance, and the scheduler's update. Owns latents and velocities on the device and, for
 * image to video, the condition channels behind the latents. Latents change once a step, at its
 * end, so that a run that is stopped in between can be saved as it was before the step. Refuses to
 * go on after a NaN: says where it appeared.
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
    float *latents;      /* device: [channels_in]...: latents, then the condition */
    float *velocity;     /* device */
    float *negative;     /* device; NULL without guidance */
    int32_t steps_done;
    int32_t steps_saved;                    /* what the caller was given last */
    bool broken;                            /* the latents are not finite */
    float *host[1 + SCHEDULER_HISTORY_MAX]; /* latents and history on their way to be saved */
};

static bool one_pass(struct loop *loop, int32_t step, const char *which,
                     const struct wan_context *context, float *velocity, struct error *error)
{
    const struct denoise *denoise = loop->denoise;
    int32_t steps = scheduler_steps(denoise->scheduler);
    const draftattn_step place = {.step = step,
                                  .steps = steps,
                                  .layer = -1,
                                  .sigma = (float)scheduler_sigma(denoise->scheduler, step)};
    if (!wan_transformer_forward(denoise->transformer, loop->latents, denoise->frames,
                                 denoise->height, denoise->width,
                                 scheduler_timestep(denoise->scheduler, step), context,
                                 denoise->attention, &place, velocity, error))
        return error_prefix(error, "step %d of %d, %s pass: ", step + 1, steps, which);
    return progress_step(loop->progress, ++loop->done, loop->total, error);
}

static bool one_step(struct loop *loop, int32_t step, struct error *error)
{
    const struct denoise *denoise = loop->denoise;
    const struct ops *ops = denoise->ops;
    if (!one_pass(loop, step, "prompt", denoise->prompt, loop->velocity, error))
        return false;
    if (loop->negative) {
        if (!one_pass(loop, step, "negative", denoise->negative, loop->negative, error))
            return false;
        /* The difference first: guidance by the prompt itself then changes nothing. */
        ops->combine(denoise->device, loop->velocity, 1.0f, loop->velocity, -1.0f, loop->negative,
                     loop->elements);
        ops->combine(denoise->device, loop->velocity, (float)denoise->guidance, loop->velocity,
                     1.0f, loop->negative, loop->elements);
    }
    scheduler_advance(denoise->scheduler, step, loop->velocity, loop->latents);
    loop->broken = ops->first_not_finite(denoise->device, loop->latents, loop->elements) >= 0;
    if (loop->broken)
        return error_set(error, "step %d of %d, scheduler: NaN or infinity in the latents",
                         step + 1, scheduler_steps(denoise->scheduler));
    return true;
}

/* Hands the state after steps_done steps to the caller. */
static bool save(struct loop *loop, struct error *error)
{
    const struct denoise *denoise = loop->denoise;
    const int count = scheduler_history_count(denoise->scheduler);
    const size_t bytes = (size_t)loop->elements * sizeof(float);
    for (int i = 0; i <= count; i++)
        if (!loop->host[i] && !(loop->host[i] = malloc(bytes)))
            return error_out_of_memory(error, "saving the latents", bytes);
    denoise->ops->download(denoise->device, loop->host[0], loop->latents, bytes);
    scheduler_history(denoise->scheduler, loop->host + 1);
    if (!denoise->ops->synchronise(denoise->device, error))
        return false; /* what was downloaded is not to be trusted */
    loop->steps_saved = loop->steps_done;
    return denoise->saved(denoise->saved_user, loop->steps_done, loop->host[0],
                          (const float *const *)loop->host + 1, count, error);
}

static bool finish_step(struct loop *loop, struct error *error)
{
    const struct denoise *denoise = loop->denoise;
    loop->steps_done++;
    if (!denoise->saved || (denoise->due && !denoise->due(denoise->saved_user, loop->steps_done)))
        return true;
    return save(loop, error);
}

static bool allocate(struct loop *loop, struct error *error)
{
    const struct denoise *denoise = loop->denoise;
    const struct ops *ops = denoise->ops;
    int64_t positions = denoise->frames * denoise->height * denoise->width;
    const size_t in = (size_t)(loop->channels_in * positions) * sizeof(float);
    const size_t out = (size_t)loop->elements * sizeof(float);
    loop->latents = ops->alloc(denoise->device, in);
    loop->velocity = ops->alloc(denoise->device, out);
    loop->negative = denoise->negative ? ops->alloc(denoise->device, out) : NULL;
    if (!loop->latents || !loop->velocity || (denoise->negative && !loop->negative))
        return error_out_of_memory(error, "the denoising loop", in + 2ull * out);
    return true;
}

static bool prepare(struct loop *loop, const float *latents, struct error *error)
{
    const struct denoise *denoise = loop->denoise;
    int64_t positions = denoise->frames * denoise->height * denoise->width;
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
    if (!allocate(loop, error))
        return false;
    denoise->ops->upload(denoise->device, loop->latents, latents,
                         (size_t)loop->elements * sizeof(float));
    if (extra > 0)
        denoise->ops->upload(denoise->device, loop->latents + loop->elements, denoise->condition,
                             (size_t)(extra * positions) * sizeof(float));
    if (denoise->history)
        scheduler_restore(denoise->scheduler, denoise->history);
    return true;
}

/* The loop has stopped early: what it had reached is not lost. A failure here would hide the one
 * that matters. */
static void rescue(struct loop *loop)
{
    if (loop->denoise->saved && !loop->broken && loop->steps_done != loop->steps_saved)
        save(loop, NULL);
}

static void release(struct loop *loop)
{
    const struct denoise *denoise = loop->denoise;
    wan_transformer_forget(denoise->transformer);
    denoise->ops->free(denoise->device, loop->latents);
    denoise->ops->free(denoise->device, loop->velocity);
    denoise->ops->free(denoise->device, loop->negative);
    for (int i = 0; i <= SCHEDULER_HISTORY_MAX; i++)
        free(loop->host[i]);
}

bool denoise_run(const struct denoise *denoise, float *latents, const struct progress *progress,
                 struct error *error)
{
    const int32_t steps = scheduler_steps(denoise->scheduler), first = denoise->first_step;
    const int64_t passes = denoise->negative ? 2 : 1;
    struct loop loop = {.denoise = denoise,
                        .progress = progress,
                        .done = first * passes,
                        .total = steps * passes,
                        .steps_done = first,
                        .steps_saved = first};
    wan_transformer_channels(denoise->transformer, &loop.channels_in, &loop.channels_out);
    loop.elements = loop.channels_out * denoise->frames * denoise->height * denoise->width;
    bool ok =
        prepare(&loop, latents, error) && progress_step(progress, loop.done, loop.total, error);
    for (int32_t step = first; ok && step < steps; step++)
        ok = one_step(&loop, step, error) && finish_step(&loop, error);
    if (ok) {
        denoise->ops->download(denoise->device, latents, loop.latents,
                               (size_t)loop.elements * sizeof(float));
        ok = denoise->ops->synchronise(denoise->device, error);
    } else {
        rescue(&loop);
    }
    release(&loop);
    return ok;
}
