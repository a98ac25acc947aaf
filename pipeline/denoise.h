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
};

/* latents [out_channels][frames][height][width], host memory: noise in, clean latents out. progress
 * counts forward passes. A NaN or infinity is an error that names step, pass and layer. */
bool denoise_run(const struct denoise *denoise, float *latents, const struct progress *progress,
                 struct error *error);

#endif
