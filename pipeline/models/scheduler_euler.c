/*
 * Euler's method on the flow: x += (sigma' - sigma) v. Timesteps are not cut to whole numbers. The
 * table of HunyuanVideo spaces the base sigmas evenly; that of diffusers
 * (FlowMatchEulerDiscreteScheduler with its own sigmas) spaces sigmas evenly that have been shifted
 * and shifts them once more.
 */
#include "sampler.h"

static double euler_sigma(const struct scheduler_desc *desc, int32_t i)
{
    double shift = desc->flow_shift;
    if (desc->table == SCHEDULER_TABLE_WAN || desc->steps == 1)
        return sampler_shift(sampler_even(1.0, 0.0, desc->steps, i), shift);
    /* The ends are shifted once and kept in float32 there. */
    double least = (double)(float)sampler_shift((double)0.001f, shift);
    return sampler_shift(sampler_even(1.0, least, desc->steps - 1, i), shift);
}

static double euler_timestep(double sigma)
{
    return (double)((float)sigma * 1000.0f);
}

static void euler_advance(struct scheduler *scheduler, int32_t step, float *velocity, float *sample)
{
    double distance = scheduler->sigmas[step + 1] - scheduler->sigmas[step];
    sampler_sum(scheduler, sample, 1.0, sample, distance, velocity);
}

const struct sampler sampler_euler = {
    .name = "euler", .sigma = euler_sigma, .timestep = euler_timestep, .advance = euler_advance};
