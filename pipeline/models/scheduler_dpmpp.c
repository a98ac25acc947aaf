/*
 * DPM-Solver++ (Lu 2022), multistep, order 2, midpoint, on the predicted x0 = x - sigma v. The
 * first step has no past and the last one ends at sigma 0: both are of order 1. sigma begins at 1,
 * where lambda is -infinity; the formulas hold there in the limit (e^-h = 0, and a past step of
 * infinite length counts for nothing), and the arithmetic below takes these limits without a NaN.
 */
#include "sampler.h"

#include <math.h>

/* diffusers counts alpha = 1 - sigma down from 0.999, so that its first sigma is below 1. */
static double dpmpp_sigma(const struct scheduler_desc *desc, int32_t i)
{
    double sigma = desc->table == SCHEDULER_TABLE_DIFFUSERS
                       ? 1.0 - sampler_even(1.0, 0.001, desc->steps, desc->steps - i)
                       : sampler_even(1.0, 0.0, desc->steps, i);
    return sampler_shift(sigma, desc->flow_shift);
}

/* x' = on_sample x + on_now m + on_past m_before */
struct step {
    double on_sample, on_now, on_past;
};

static struct step make_step(const struct scheduler *scheduler, int32_t i)
{
    if (i == scheduler->steps - 1)
        return (struct step){.on_now = 1.0};
    const double *sigma = scheduler->sigmas + i;
    double lambda = sampler_lambda(sigma[0]), h = sampler_lambda(sigma[1]) - lambda;
    double gain = -(1.0 - sigma[1]) * expm1(-h);
    struct step step = {.on_sample = sigma[1] / sigma[0], .on_now = gain};
    if (i > 0) {
        double past = h / (lambda - sampler_lambda(sigma[-1])); /* 1 / r0; 0 for an infinite step */
        step.on_now += 0.5 * gain * past;
        step.on_past = -0.5 * gain * past;
    }
    return step;
}

static void dpmpp_advance(struct scheduler *scheduler, int32_t i, float *velocity, float *sample)
{
    const struct step step = make_step(scheduler, i);
    float *past = scheduler->history[0], *now = velocity;
    sampler_sum(scheduler, now, 1.0, sample, -scheduler->sigmas[i], velocity);
    sampler_sum(scheduler, sample, step.on_sample, sample, step.on_now, now);
    sampler_sum(scheduler, sample, 1.0, sample, step.on_past, past); /* 0 leaves it unread */
    sampler_copy(scheduler, past, now);
}

const struct sampler sampler_dpmpp = {.name = "dpm++",
                                      .history = 1,
                                      .sigma = dpmpp_sigma,
                                      .timestep = sampler_whole_timestep,
                                      .advance = dpmpp_advance};
