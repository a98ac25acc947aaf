/*
 * Flow-matching samplers: x_sigma = (1 - sigma) x0 + sigma noise, the network predicts noise - x0.
 * One table entry each: UniPC (order 2, bh2, Wan's default), DPM++ 2M, Euler.
 * Sources: Zhao 2023 (UniPC), Lu 2022 (DPM-Solver++), as run by Wan2.1 and diffusers.
 */
#ifndef PIPELINE_MODELS_SCHEDULER_H
#define PIPELINE_MODELS_SCHEDULER_H

#include "../error.h"
#include "../tensor/ops.h"

#include <stdbool.h>
#include <stdint.h>

/* Which published timetable of base sigmas (i of N, before the shift) a run follows. */
enum scheduler_table {
    /* as Wan2.1 and HunyuanVideo publish them: UniPC 0.999 (1 - i/N), DPM++ and Euler 1 - i/N */
    SCHEDULER_TABLE_WAN,
    /* as diffusers does by default: UniPC 1 - 0.999 i/N with the first sigma below 1 (since
     * 2026-01), DPM++ 0.999 (1 - i/N), Euler evenly between shifted ends and then shifted again */
    SCHEDULER_TABLE_DIFFUSERS
};

struct scheduler;

struct scheduler_desc {
    const char *sampler; /* "unipc", "dpm++", "euler" */
    int32_t steps;
    double flow_shift;
    enum scheduler_table table;
};

/* Comma-separated names of the samplers, for messages and --help. Static. */
const char *scheduler_names(void);

/* elements: length of the latents, which are on the device, as is what a sampler remembers. With 0
 * there is the timetable alone, and no need for a device. Fails (usage) for an unknown sampler,
 * steps < 1, shift <= 0. */
bool scheduler_create(struct scheduler **out, const struct scheduler_desc *desc, int64_t elements,
                      const struct ops *ops, struct device *device, struct error *error);
void scheduler_destroy(struct scheduler *scheduler); /* accepts NULL */

int32_t scheduler_steps(const struct scheduler *scheduler);
double scheduler_sigma(const struct scheduler *scheduler, int32_t step); /* step in [0, steps] */
double scheduler_timestep(const struct scheduler *scheduler,
                          int32_t step); /* what the network is told */

/* Advances sample in place from step to step + 1 by the network's velocity at (sample, step), which
 * is used up: undefined afterwards. Steps in order, each once; from another step than 0 after
 * scheduler_restore(). Device memory; enqueued. */
void scheduler_advance(struct scheduler *scheduler, int32_t step, float *velocity, float *sample);

#define SCHEDULER_HISTORY_MAX 3

/* What the sampler remembers between steps, as so many arrays of elements in host memory. Taken
 * after step k and restored before step k + 1, with the sample of then, the rest of a run gives the
 * same bits. */
int scheduler_history_count(const struct scheduler *scheduler);
void scheduler_history(const struct scheduler *scheduler, float *const *to);
void scheduler_restore(struct scheduler *scheduler, const float *const *from);

#endif
