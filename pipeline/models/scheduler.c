/*
 * The samplers behind one interface: the table of them, their timetables and their memory. A
 * sampler is one file with a row in this table. Coefficients are computed in float64 from sigmas
 * rounded to float32 (the published schedulers store them so); the state is float32, as there, and
 * stays on the device. A shift that makes two sigmas equal is refused here, so that no sampler ever
 * divides by a step of zero length.
 */
#include "scheduler.h"

#include "../tensor/checked.h"
#include "sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STEPS_MAX 10000

static const struct sampler *const samplers[] = {&sampler_unipc, &sampler_dpmpp, &sampler_euler};

const char *scheduler_names(void)
{
    return "unipc, dpm++, euler";
}

double sampler_shift(double sigma, double shift)
{
    return shift * sigma / (1.0 + (shift - 1.0) * sigma);
}

double sampler_even(double first, double last, int32_t count, int32_t i)
{
    return i == count ? last : i * ((last - first) / count) + first;
}

double sampler_whole_timestep(double sigma)
{
    return trunc(sigma * 1000.0);
}

double sampler_lambda(double sigma)
{
    return log(1.0 - sigma) - log(sigma);
}

void sampler_sum(const struct scheduler *scheduler, float *out, double a, const float *x, double b,
                 const float *y)
{
    scheduler->ops->combine(scheduler->device, out, (float)a, x, (float)b, y, scheduler->elements);
}

void sampler_copy(const struct scheduler *scheduler, float *to, const float *from)
{
    scheduler->ops->copy(scheduler->device, to, from, (size_t)scheduler->elements * sizeof(float));
}

static const struct sampler *find_sampler(const char *name)
{
    for (size_t i = 0; name && i < sizeof samplers / sizeof samplers[0]; i++)
        if (strcmp(samplers[i]->name, name) == 0)
            return samplers[i];
    return NULL;
}

static bool fill_timetable(struct scheduler *scheduler, const struct scheduler_desc *desc,
                           struct error *error)
{
    for (int32_t i = 0; i < desc->steps; i++) {
        double sigma = scheduler->sampler->sigma(desc, i);
        scheduler->sigmas[i] = (double)(float)sigma;
        scheduler->timesteps[i] = scheduler->sampler->timestep(sigma);
    }
    scheduler->sigmas[desc->steps] = 0.0;
    for (int32_t i = 0; i < desc->steps; i++)
        if (!(scheduler->sigmas[i + 1] < scheduler->sigmas[i]))
            return error_set_usage(
                error,
                "flow shift %g with %d steps leaves no distance between steps %d "
                "and %d; use a shift nearer to 1 (published: 3 to 16) or fewer steps",
                desc->flow_shift, desc->steps, i, i + 1);
    return true;
}

static bool allocate(struct scheduler *scheduler, struct error *error)
{
    size_t table = (size_t)scheduler->steps + 1, bytes;
    scheduler->sigmas = calloc(table, sizeof *scheduler->sigmas);
    scheduler->timesteps = calloc(table, sizeof *scheduler->timesteps);
    if (!scheduler->sigmas || !scheduler->timesteps)
        return error_out_of_memory(error, "the sampler's timetable", 2 * table * sizeof(double));
    if (!checked_bytes(&scheduler->elements, 1, sizeof(float), &bytes))
        return error_set(error, "a sampler for %lld elements is not possible",
                         (long long)scheduler->elements);
    for (int i = 0; scheduler->elements > 0 && i < scheduler->sampler->history; i++) {
        scheduler->history[i] = scheduler->ops->alloc(scheduler->device, bytes);
        if (!scheduler->history[i])
            return error_out_of_memory(error, "the sampler's history", bytes);
    }
    return true;
}

bool scheduler_create(struct scheduler **out, const struct scheduler_desc *desc, int64_t elements,
                      const struct ops *ops, struct device *device, struct error *error)
{
    *out = NULL;
    const struct sampler *sampler = find_sampler(desc->sampler);
    if (!sampler)
        return error_set_usage(error, "there is no sampler '%s'; use one of %s",
                               desc->sampler ? desc->sampler : "", scheduler_names());
    if (desc->steps < 1 || desc->steps > STEPS_MAX)
        return error_set_usage(error, "%d steps are not possible; use 1 to %d", desc->steps,
                               STEPS_MAX);
    if (!(desc->flow_shift > 0.0) || !isfinite(desc->flow_shift))
        return error_set_usage(error, "a flow shift of %g is not possible; use one above 0",
                               desc->flow_shift);
    struct scheduler *scheduler = calloc(1, sizeof *scheduler);
    if (!scheduler)
        return error_out_of_memory(error, "the sampler", sizeof *scheduler);
    scheduler->sampler = sampler;
    scheduler->ops = ops;
    scheduler->device = device;
    scheduler->steps = desc->steps;
    scheduler->elements = elements;
    if (!allocate(scheduler, error) || !fill_timetable(scheduler, desc, error)) {
        scheduler_destroy(scheduler);
        return false;
    }
    *out = scheduler;
    return true;
}

void scheduler_destroy(struct scheduler *scheduler)
{
    if (!scheduler)
        return;
    for (int i = 0; scheduler->ops && i < SCHEDULER_HISTORY_MAX; i++)
        scheduler->ops->free(scheduler->device, scheduler->history[i]);
    free(scheduler->sigmas);
    free(scheduler->timesteps);
    free(scheduler);
}

int32_t scheduler_steps(const struct scheduler *scheduler)
{
    return scheduler->steps;
}

double scheduler_sigma(const struct scheduler *scheduler, int32_t step)
{
    return scheduler->sigmas[step];
}

double scheduler_timestep(const struct scheduler *scheduler, int32_t step)
{
    return scheduler->timesteps[step];
}

void scheduler_advance(struct scheduler *scheduler, int32_t step, float *velocity, float *sample)
{
    scheduler->sampler->advance(scheduler, step, velocity, sample);
}

int scheduler_history_count(const struct scheduler *scheduler)
{
    return scheduler->sampler->history;
}

void scheduler_history(const struct scheduler *scheduler, float *const *to)
{
    for (int i = 0; i < scheduler->sampler->history; i++)
        scheduler->ops->download(scheduler->device, to[i], scheduler->history[i],
                                 (size_t)scheduler->elements * sizeof(float));
}

void scheduler_restore(struct scheduler *scheduler, const float *const *from)
{
    for (int i = 0; i < scheduler->sampler->history; i++)
        scheduler->ops->upload(scheduler->device, scheduler->history[i], from[i],
                               (size_t)scheduler->elements * sizeof(float));
}
