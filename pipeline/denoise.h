/*
 * The denoising loop: scheduler and transformer in turn, with classifier-free guidance.
 */
#ifndef PIPELINE_DENOISE_H
#define PIPELINE_DENOISE_H

#include "models/scheduler.h"
#include "models/self_attention.h"
#include "models/wan_transformer.h"
#include "progress.h"

struct denoise {
    struct wan_transformer *transformer;
    const struct wan_context *prompt;
    const struct wan_context *negative; /* NULL = no guidance: one pass a step */
    double guidance;                    /* v = v_negative + guidance * (v_prompt - v_negative) */
    struct scheduler *scheduler;
    struct self_attention *attention;
    const float
        *condition; /* NULL, or [in - out channels][frames][height][width] of I2V, appended to
                               the latents as channels */
    int64_t frames, height, width; /* of the latents */
    const struct ops *ops;         /* of the transformer and the scheduler */
    struct device *device;

    /* To go on with a run: its latents after first_step steps, and what the scheduler remembered
     * (scheduler_history(), host memory; NULL with first_step 0). The rest gives the same bits. */
    int32_t first_step;
    const float *const *history;
    /* NULL, or what to do with the state between steps; all in host memory, valid during the call.
     * Called after steps where due says so (NULL: after every one), and, where the loop stops
     * early, with the state of the last finished step if that is not what was saved last; error is
     * NULL then. False stops the run. */
    bool (*saved)(void *user, int32_t steps_done, const float *latents, const float *const *history,
                  int history_count, struct error *error);
    bool (*due)(void *user, int32_t steps_done);
    void *saved_user;
};

/* latents [out_channels][frames][height][width], host memory: noise in, clean latents out. progress
 * counts forward passes, those before first_step as done. A NaN or infinity is an error that names
 * step, pass and layer. */
bool denoise_run(const struct denoise *denoise, float *latents, const struct progress *progress,
                 struct error *error);

#endif
