/*
 * Sampler trajectories: for every METHOD_STEPS_SHIFT_traj of the case the sampler walks from x_init
 * with the model of case.json, v = 0.7 x + 0.2 sin(3 x) - 0.1 t / 1000, and must pass through the
 * same states, sigmas and timesteps. Which published timetable a trajectory follows, its first
 * sigmas say.
 */
#include "golden.h"

#include "models/scheduler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATE_TOLERANCE 1e-5
#define SIGMA_TOLERANCE 1e-6
#define TIME_TOLERANCE  1e-3

struct walk {
    const struct golden *golden;
    char name[96]; /* METHOD_STEPS_SHIFT */
    struct scheduler_desc desc;
    float *sigmas, *timesteps, *states;
    int64_t elements;
};

static bool parse_name(struct walk *walk, const char *tensor, struct error *error)
{
    int length = (int)(strlen(tensor) - strlen("_traj"));
    snprintf(walk->name, sizeof walk->name, "%.*s", length, tensor);
    char method[32];
    int steps;
    double shift;
    if (sscanf(walk->name, "%31[^_]_%d_%lf", method, &steps, &shift) != 3)
        return error_set(error, "'%s' is not METHOD_STEPS_SHIFT_traj", tensor);
    walk->desc = (struct scheduler_desc){.sampler = strncmp(method, "dpm", 3) == 0     ? "dpm++"
                                                    : strncmp(method, "euler", 5) == 0 ? "euler"
                                                                                       : "unipc",
                                         .steps = steps,
                                         .flow_shift = shift};
    return true;
}

static bool load(const struct checkpoint *io, struct walk *walk, int64_t elements,
                 struct error *error)
{
    static const char *const parts[] = {"sigmas", "timesteps", "traj"};
    float **to[] = {&walk->sigmas, &walk->timesteps, &walk->states};
    int64_t steps = walk->desc.steps;
    int64_t expected[] = {steps + 1, steps, steps * elements};
    walk->elements = elements;
    for (int i = 0; i < 3; i++) {
        char name[128];
        const struct stored_tensor *info;
        snprintf(name, sizeof name, "%s_%s", walk->name, parts[i]);
        if (!golden_floats(io, name, to[i], &info, error))
            return false;
        int64_t count = 1;
        for (int d = 0; d < info->rank; d++)
            count *= info->shape[d];
        if (count != expected[i])
            return error_set(error, "'%s' has %lld elements, expected %lld", name, (long long)count,
                             (long long)expected[i]);
    }
    return true;
}

/* The scheduler whose table begins as the case's does. */
static struct scheduler *choose(struct walk *walk, struct error *error)
{
    for (int table = SCHEDULER_TABLE_DIFFUSERS; table >= SCHEDULER_TABLE_WAN; table--) {
        struct scheduler *scheduler;
        walk->desc.table = (enum scheduler_table)table;
        if (!scheduler_create(&scheduler, &walk->desc, walk->elements, walk->golden->ops,
                              walk->golden->device, error))
            return NULL;
        int32_t look = walk->desc.steps > 1 ? 1 : 0;
        double off = scheduler_sigma(scheduler, look) - (double)walk->sigmas[look];
        if (table == SCHEDULER_TABLE_WAN || fabs(off) <= SIGMA_TOLERANCE)
            return scheduler;
        scheduler_destroy(scheduler);
    }
    return NULL;
}

static bool check_table(const struct walk *walk, const struct scheduler *scheduler,
                        struct error *error)
{
    for (int32_t i = 0; i <= walk->desc.steps; i++) {
        float sigma = (float)scheduler_sigma(scheduler, i);
        if (!(fabs((double)sigma - (double)walk->sigmas[i]) <= SIGMA_TOLERANCE))
            return error_set(error, "%s: sigma %d is %.9g, expected %.9g", walk->name, i,
                             (double)sigma, (double)walk->sigmas[i]);
    }
    for (int32_t i = 0; i < walk->desc.steps; i++) {
        double time = scheduler_timestep(scheduler, i);
        if (!(fabs(time - (double)walk->timesteps[i]) <= TIME_TOLERANCE))
            return error_set(error, "%s: timestep %d is %.9g, expected %.9g", walk->name, i, time,
                             (double)walk->timesteps[i]);
    }
    return true;
}

static bool follow(struct walk *walk, const float *start, struct error *error)
{
    const struct ops *ops = walk->golden->ops;
    struct device *device = walk->golden->device;
    size_t bytes = (size_t)walk->elements * sizeof(float);
    float *x = malloc(bytes), *v = malloc(bytes);
    float *sample = ops->alloc(device, bytes), *velocity = ops->alloc(device, bytes);
    float *passed = malloc(bytes * (size_t)walk->desc.steps);
    struct scheduler *scheduler = choose(walk, error);
    bool ok = scheduler != NULL;
    if (ok && (!x || !v || !passed || !sample || !velocity))
        ok = error_out_of_memory(error, walk->name, bytes);
    ok = ok && check_table(walk, scheduler, error);
    if (ok) {
        memcpy(x, start, bytes);
        ops->upload(device, sample, start, bytes);
    }
    for (int32_t i = 0; ok && i < walk->desc.steps; i++) {
        double time = scheduler_timestep(scheduler, i);
        for (int64_t j = 0; j < walk->elements; j++)
            v[j] = (float)(0.7 * x[j] + 0.2 * sin(3.0 * x[j]) - 0.1 * time / 1000.0);
        ops->upload(device, velocity, v, bytes);
        scheduler_advance(scheduler, i, velocity, sample);
        ops->download(device, x, sample, bytes);
        memcpy(passed + i * walk->elements, x, bytes);
    }
    ok = ok && golden_close(walk->golden, walk->name, passed, walk->states,
                            walk->desc.steps * walk->elements, STATE_TOLERANCE, error);
    scheduler_destroy(scheduler);
    ops->free(device, velocity);
    ops->free(device, sample);
    free(passed);
    free(v);
    free(x);
    return ok;
}

static bool run_one(const struct golden *golden, const struct checkpoint *io, const char *tensor,
                    const float *start, int64_t elements, struct error *error)
{
    struct walk walk = {.golden = golden};
    bool ok = parse_name(&walk, tensor, error) && load(io, &walk, elements, error) &&
              follow(&walk, start, error);
    free(walk.sigmas);
    free(walk.timesteps);
    free(walk.states);
    return ok;
}

bool golden_schedulers(const struct golden *golden, struct error *error)
{
    struct checkpoint *io;
    const struct stored_tensor *info;
    float *start = NULL;
    if (!golden_open(golden, "io.safetensors", &io, error))
        return false;
    bool ok = golden_floats(io, "x_init", &start, &info, error);
    int64_t elements = 1;
    for (int i = 0; ok && i < info->rank; i++)
        elements *= info->shape[i];
    int walks = 0;
    for (int64_t i = 0; ok && i < checkpoint_count(io); i++) {
        const char *name = checkpoint_at(io, i)->name;
        size_t length = strlen(name);
        if (length > 5 && strcmp(name + length - 5, "_traj") == 0) {
            walks++;
            ok = run_one(golden, io, name, start, elements, error);
        }
    }
    if (ok && walks == 0)
        ok = error_set(error, "%s: holds no trajectory", checkpoint_path(io));
    free(start);
    checkpoint_close(io);
    return ok;
}
