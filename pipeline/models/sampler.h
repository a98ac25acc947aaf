/* What a sampler gives to scheduler.c: its timetable and one step. For scheduler*.c alone. */
#ifndef PIPELINE_MODELS_SAMPLER_H
#define PIPELINE_MODELS_SAMPLER_H

#include "scheduler.h"

struct sampler;

struct scheduler {
    const struct sampler *sampler;
    const struct ops *ops;
    struct device *device;
    int32_t steps;
    int64_t elements;
    double *sigmas;    /* [steps + 1], the last is 0; rounded to float32 */
    double *timesteps; /* [steps] */
    /* [elements] each, on the device; what they hold is the sampler's matter */
    float *history[SCHEDULER_HISTORY_MAX];
};

struct sampler {
    const char *name;
    int history;
    /* The i-th of steps sigmas, shifted, in float64. */
    double (*sigma)(const struct scheduler_desc *desc, int32_t i);
    double (*timestep)(double sigma);
    void (*advance)(struct scheduler *scheduler, int32_t step, float *velocity, float *sample);
};

extern const struct sampler sampler_unipc;
extern const struct sampler sampler_dpmpp;
extern const struct sampler sampler_euler;

/* out = a x + b y over the elements; b = 0 leaves y unread. */
void sampler_sum(const struct scheduler *scheduler, float *out, double a, const float *x, double b,
                 const float *y);
void sampler_copy(const struct scheduler *scheduler, float *to, const float *from);

/* sigma moved towards the noise: s sigma / (1 + (s - 1) sigma) */
double sampler_shift(double sigma, double shift);
/* The i-th of the count + 1 evenly spaced numbers from first to last, with numpy's rounding: a
 * product that falls just under a whole timestep must do so here as well. */
double sampler_even(double first, double last, int32_t count, int32_t i);
/* Timesteps as the networks of Wan were trained on them: whole, cut and not rounded. */
double sampler_whole_timestep(double sigma);

/* ln((1 - sigma) / sigma), half the log signal-to-noise ratio: -inf for 1, +inf for 0. */
double sampler_lambda(double sigma);

#endif
