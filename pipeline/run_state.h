/*
 * A generation on its way, as a file: safetensors with the latents after so many steps, what the
 * sampler remembers, and all settings as metadata. What goes on from there gives the video that the
 * whole run would have given, bit for bit on the same device.
 *
 *     run_state_read(&state, path, error)           settings
 *     model_open(&model, state.model, error)
 *     run_state_load(&state, &model, error)         latents; the model is the one it was made with
 *     settings.resume = &state
 *     run_state_free(&state)
 *
 * Neither the output nor another file to write is named in it: a file that came from elsewhere
 * cannot make the program write where its user did not ask.
 */
#ifndef PIPELINE_RUN_STATE_H
#define PIPELINE_RUN_STATE_H

#include "generate.h"

#define RUN_STATE_SUFFIX  ".state.safetensors"
#define RUN_STATE_HISTORY 3 /* the most that a sampler remembers, in copies of the latents */

struct cJSON;

struct run_state {
    struct generate_settings settings; /* its texts are the state's; output, state are not set */
    const char *model;                 /* folder, absolute; or a synthetic model's name */
    bool synthetic;
    int64_t step; /* steps that are done, 1 to settings.steps */
    /* after run_state_load() */
    int64_t shape[4];
    float *latents, *history[RUN_STATE_HISTORY];
    int history_count;
    /* its own */
    const char *path;
    struct cJSON *metadata;
    int32_t *dense_layers;
};

/* Settings and texts; every value is checked. path has to outlive the state. *out is zeroed on
 * failure. */
bool run_state_read(struct run_state *out, const char *path, struct error *error);

/* Latents and history, of the shape that the settings say. Refuses a model of other shapes; its
 * folder may have another name. */
bool run_state_load(struct run_state *state, const struct model *model, struct error *error);

void run_state_free(struct run_state *state); /* accepts a zeroed struct */

struct run_state_to_write {
    const struct model *model;
    const struct generate_settings *settings;
    const struct runtime_desc *runtime; /* as opened */
    int64_t step;
    const int64_t *shape; /* [4] */
    const float *latents;
    const float *const *history; /* NULL where history_count is 0 */
    int history_count;
};

/* Whole or not at all, in place of what was there. */
bool run_state_write(const char *path, const struct run_state_to_write *state, struct error *error);

#endif
