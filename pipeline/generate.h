/*
 * Prompt to video: the runtime as one call.
 *
 *     model_open(&model, folder, error)
 *     settings = generate_settings_default(); settings.prompt = ...; settings.output = ...
 *     generate_settings_resolve(&settings, &model, &events, error)
 *     generate_run(&model, &settings, &events, &report, error)
 *
 * What a run has denoised is not lost: see run_state.h.
 */
#ifndef PIPELINE_GENERATE_H
#define PIPELINE_GENERATE_H

#include "error.h"
#include "memory_plan.h"
#include "model.h"
#include "models/self_attention.h"
#include "progress.h"
#include "runtime.h"

#include <draftattn.h>

#include <stdbool.h>
#include <stdint.h>

enum generate_phase {
    PHASE_LOAD,
    PHASE_TEXT,
    PHASE_DENOISE,
    PHASE_DECODE,
    PHASE_WRITE,
    PHASE_COUNT
};

const char *generate_phase_name(enum generate_phase phase);

/* What the caller hears while the work goes on. Members may be NULL. */
struct generate_events {
    /* done of total in this phase; false stops the work. */
    bool (*step)(void *user, enum generate_phase phase, int64_t done, int64_t total);
    /* Something the user should know: a size that was rounded, the memory plan. Lines without a
     * last newline. */
    void (*note)(void *user, const char *text);
    /* After every call of attention, which is waited for then. Its time counts as denoising. */
    void (*attention)(void *user, struct self_attention *attention, const draftattn_step *step);
    /* Every frame before it is encoded, [height][width][3]. Its time counts as writing. */
    void (*frame)(void *user, const uint8_t *rgb);
    void *user;
};

struct generate_prompt {
    int32_t *ids;
    int64_t count;
    float *rows; /* [count][text width] */
};

/* Encoded prompts, for several runs with the same ones: the first run fills it, the others take
 * them from it, and what they took counts in the times of each. Zeroed at first. */
struct generate_text {
    struct generate_prompt prompt, negative; /* negative unused without guidance */
    bool encoded;
    double load_seconds, encode_seconds;
};

void generate_text_free(struct generate_text *text);

struct run_state;

struct generate_settings {
    const char *prompt;
    const char *negative_prompt; /* NULL = the model's */
    const char *output;
    const char *save_latents;             /* NULL = not */
    const char *noise_file;               /* NULL = noise from the seed */
    int64_t width, height, frames, steps; /* 0 = the model's */
    double fps, flow_shift;               /* 0 = the model's */
    double guidance;                      /* negative = the model's; at most 1 = no guidance */
    const char *sampler;                  /* NULL = unipc */
    uint64_t seed;
    draftattn_plan_desc attention; /* without grid, heads, head_dim */
    struct runtime_desc runtime;
    int64_t tile;               /* VAE_TILE_AUTO, VAE_TILE_OFF, or a side in pixels */
    int32_t crf_offset;         /* of the output, as in struct video_desc */
    int64_t held_bytes;         /* memory that the caller will fill beside the run */
    struct generate_text *text; /* NULL = encoded for this run alone */
    /* Where the state is kept that --resume goes on from: after an interruption or a failure, once
     * a minute, and every save_every steps (0 = not). A run that ends well removes what it or
     * resume left there. NULL = nowhere. */
    const char *state;
    int64_t save_every;
    const struct run_state *resume; /* NULL = from the beginning. Of the same settings */
};

struct generate_settings generate_settings_default(void);

/* Fills in what is left to the model and rounds sizes to what it takes (with a note). Strings of
 * settings may point into the model afterwards. */
void generate_settings_fill(struct generate_settings *settings, const struct model *model,
                            const struct generate_events *events);

/* Fills, and checks every value. */
bool generate_settings_resolve(struct generate_settings *settings, const struct model *model,
                               const struct generate_events *events, struct error *error);

/* "seed 1; 256x256; 33 frames; ..." for the file's metadata. Like snprintf. */
int generate_settings_describe(const struct generate_settings *settings, const char *model_name,
                               char *buffer, size_t size);

struct generate_report {
    double seconds[PHASE_COUNT];
    double total_seconds;
    double step_seconds; /* of denoising, mean over the steps of this run; NaN for none */
    double dense_step_seconds, sparse_step_seconds; /* medians; NaN where there was none */
    int64_t dense_steps, sparse_steps;              /* of this run */
    int64_t first_step;                             /* not 0 after resume */
    struct self_attention_report attention;
    const char *backend, *kernel; /* static */
    const char *encoder;          /* static */
    char device[sizeof((struct runtime *)0)->name];
    enum element activations;
    bool gpu, offload;
    struct memory_plan memory;
    int64_t memory_peak; /* measured: of the process */
    int64_t device_peak; /* of the GPU, by whomever, as seen between passes; 0 without one */
    int64_t tokens;      /* of a forward pass */
};

/* What can be refused before any weight is read: devices, memory, the output, the attention's plan.
 * generate_run() does it too. */
bool generate_check(const struct model *model, const struct generate_settings *settings,
                    struct error *error);

/* settings resolved. On failure there is no output file; what was denoised is kept as settings say,
 * and the message says where. */
bool generate_run(const struct model *model, const struct generate_settings *settings,
                  const struct generate_events *events, struct generate_report *report,
                  struct error *error);

#endif
