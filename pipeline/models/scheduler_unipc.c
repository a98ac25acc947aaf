/*
 * UniPC (Zhao 2023), order 2, B(h) = e^-h - 1 ("bh2"), on the predicted x0 = x - sigma v: Wan's
 * sampler. Every step first corrects the sample it was given, with the velocity that was just
 * computed there (the velocity itself stays that of the uncorrected sample, so that a step costs
 * one pass of the network), then predicts the next one. The last step ends at sigma 0, where h is
 * infinite: there x = x0.
 */
#include "sampler.h"

#include <math.h>

static double unipc_sigma(const struct scheduler_desc *desc, int32_t i)
{
    if (desc->table == SCHEDULER_TABLE_WAN)
        return sampler_shift(sampler_even((double)0.999f, 0.0, desc->steps, i), desc->flow_shift);
    double sigma = sampler_shift(sampler_even(1.0, 0.001, desc->steps, i), desc->flow_shift);
    return i == 0 && fabs(sigma - 1.0) < 1e-6 ? sigma - 1e-6 : sigma;
}

/* a sum of the sample (corrected, of this step or the last) and the predicted x0 of three steps */
struct sum {
    double on_sample, on_now, on_past, on_past2;
};

/* The predictor's order at a step: what its past and the end allow. */
static int order_at(const struct scheduler *scheduler, int32_t i)
{
    return i == 0 || i == scheduler->steps - 1 ? 1 : 2;
}

/* From step i - 1 to i, given x0 at i. */
static struct sum make_corrector(const struct scheduler *scheduler, int32_t i)
{
    const double *sigma = scheduler->sigmas + i;
    double lambda = sampler_lambda(sigma[0]), last = sampler_lambda(sigma[-1]);
    double h = lambda - last, phi = expm1(-h), gain = -(1.0 - sigma[0]) * phi;
    double on_d = 0.0, on_change = 0.5; /* weights of (m_past2 - m_past) and (m_now - m_past) */
    if (order_at(scheduler, i - 1) == 2) {
        double r = (sampler_lambda(sigma[-2]) - last) / h;
        double g = phi / -h - 1.0, b1 = g / phi;
        double b2 = 2.0 * (g / -h - 0.5) / phi;
        double rho0 = (b1 - b2) / (1.0 - r);
        on_d = rho0 / r;
        on_change = b1 - rho0;
    }
    return (struct sum){.on_sample = sigma[0] / sigma[-1],
                        .on_now = gain * on_change,
                        .on_past = gain * (1.0 - on_change - on_d),
                        .on_past2 = gain * on_d};
}

/* From step i to i + 1. */
static struct sum make_predictor(const struct scheduler *scheduler, int32_t i)
{
    if (i == scheduler->steps - 1)
        return (struct sum){.on_now = 1.0};
    const double *sigma = scheduler->sigmas + i;
    double lambda = sampler_lambda(sigma[0]), h = sampler_lambda(sigma[1]) - lambda;
    double gain = -(1.0 - sigma[1]) * expm1(-h), on_d = 0.0;
    if (order_at(scheduler, i) == 2)
        on_d = 0.5 * h / (sampler_lambda(sigma[-1]) - lambda);
    return (struct sum){
        .on_sample = sigma[1] / sigma[0], .on_now = gain * (1.0 - on_d), .on_past = gain * on_d};
}

static void unipc_advance(struct scheduler *scheduler, int32_t i, float *velocity, float *sample)
{
    float *past = scheduler->history[0], *past2 = scheduler->history[1];
    float *corrected = scheduler->history[2], *now = velocity;
    sampler_sum(scheduler, now, 1.0, sample, -scheduler->sigmas[i], velocity);
    if (i == 0) { /* nothing to correct; the past has no weight yet, but becomes past2 */
        sampler_copy(scheduler, corrected, sample);
        sampler_copy(scheduler, past, now);
    } else {
        const struct sum correct = make_corrector(scheduler, i);
        sampler_sum(scheduler, corrected, correct.on_sample, corrected, correct.on_now, now);
        sampler_sum(scheduler, corrected, 1.0, corrected, correct.on_past, past);
        sampler_sum(scheduler, corrected, 1.0, corrected, correct.on_past2, past2);
    }
    const struct sum predict = make_predictor(scheduler, i);
    sampler_sum(scheduler, sample, predict.on_sample, corrected, predict.on_now, now);
    sampler_sum(scheduler, sample, 1.0, sample, predict.on_past, past);
    sampler_copy(scheduler, past2, past);
    sampler_copy(scheduler, past, now);
}

const struct sampler sampler_unipc = {.name = "unipc",
                                      .history = 3,
                                      .sigma = unipc_sigma,
                                      .timestep = sampler_whole_timestep,
                                      .advance = unipc_advance};
