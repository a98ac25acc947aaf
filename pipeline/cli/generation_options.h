/*
 * What generate and compare have in common: the rows of their option tables and how they become
 * settings. A command keeps a struct generation_arguments in a member called common of its own
 * struct arguments and puts the rows where they belong on its help page.
 */
#ifndef PIPELINE_CLI_GENERATION_OPTIONS_H
#define PIPELINE_CLI_GENERATION_OPTIONS_H

#include "options.h"

#include "../generate.h"

struct generation_arguments {
    const char *prompt, *negative, *model, *noise, *size, *sampler, *dense_layers, *tile;
    const char *device, *precision, *backend;
    struct option_int width, height, frames, steps, seed, compensation, probes, threads;
    struct option_int min_tokens;
    struct option_real fps, cfg, flow_shift, dense_steps;
    bool offload, json, quiet;
};

#define GENERATION_MAX_SIDE   16384
#define GENERATION_MAX_FRAMES 9999

#define GENERATION_ROWS_PROMPT                                                                     \
    OPTION_ROW_HEADING("Prompt"),                                                                  \
        OPTION_ROW_TEXT('p', "prompt", "TEXT", common.prompt,                                      \
                        "what to show; @FILE reads it from a file"),                               \
        OPTION_ROW_TEXT('n', "negative-prompt", "TEXT", common.negative,                           \
                        "what to keep away from; @FILE likewise (default: the model's)")

#define GENERATION_ROW_MODEL                                                                       \
    OPTION_ROW_TEXT('m', "model", "FOLDER", common.model,                                          \
                    "Wan2.1 model, diffusers or original layout (default: $DRAFTATTN_MODEL, else " \
                    "the bundled model)")

#define GENERATION_ROW_NOISE                                                                       \
    OPTION_ROW_TEXT(0, "noise", "FILE", common.noise,                                              \
                    "start from the tensor 'noise' or 'latents' of a safetensors file instead of " \
                    "the seed's noise")

#define GENERATION_ROWS_VIDEO                                                                      \
    OPTION_ROW_HEADING("Video"),                                                                   \
        OPTION_ROW_TEXT(0, "size", "WxH", common.size,                                             \
                        "in pixels, rounded to multiples of 16 (default: the model's)"),           \
        OPTION_ROW_INT('W', "width", "N", common.width, 1, GENERATION_MAX_SIDE, "width alone"),    \
        OPTION_ROW_INT('H', "height", "N", common.height, 1, GENERATION_MAX_SIDE, "height alone"), \
        OPTION_ROW_INT('f', "frames", "N", common.frames, 1, GENERATION_MAX_FRAMES,                \
                       "number of frames, rounded to 4n + 1 (default: the model's)"),              \
        OPTION_ROW_REAL(0, "fps", "X", common.fps, 1, 240,                                         \
                        "frames a second (default: the model's, 16)")

#define GENERATION_ROWS_SAMPLING                                                                   \
    OPTION_ROW_HEADING("Sampling"),                                                                \
        OPTION_ROW_INT('s', "steps", "N", common.steps, 1, 1000,                                   \
                       "denoising steps (default: the model's for the size)"),                     \
        OPTION_ROW_REAL(0, "cfg", "X", common.cfg, 0, 100,                                         \
                        "classifier-free guidance; up to 1 = none, half the work (default: the "   \
                        "model's)"),                                                               \
        OPTION_ROW_REAL(0, "flow-shift", "X", common.flow_shift, 0.01, 1000,                       \
                        "time shift of the noise levels (default: the model's for the size)"),     \
        OPTION_ROW_TEXT(0, "sampler", "NAME", common.sampler,                                      \
                        "unipc, dpm++ or euler (default: unipc)"),                                 \
        OPTION_ROW_INT(0, "seed", "N", common.seed, 0, 4294967295.0,                               \
                       "of the noise, 0 to 4294967295 (default: random, printed)")

#define GENERATION_ROWS_ATTENTION                                                                  \
    OPTION_ROW_REAL(0, "dense-steps", "X", common.dense_steps, 0, 1,                               \
                    "share of the first steps that stay dense, 0 to 1 (default: 0.2)"),            \
        OPTION_ROW_TEXT(0, "dense-layers", "LIST", common.dense_layers,                            \
                        "layers that stay dense, such as 0,1,5-7"),                                \
        OPTION_ROW_SWITCH(0, "compensation", common.compensation,                                  \
                          "whether skipped blocks enter through their means (default: on)"),       \
        OPTION_ROW_INT(                                                                            \
            0, "probes", "N", common.probes, 0, 1024,                                              \
            "exact rows per head that repair the rest and measure the error; 0 = neither "         \
            "(default: the model's for the size, else 256)"),                                      \
        OPTION_ROW_INT(0, "min-tokens", "N", common.min_tokens, 1, INT32_MAX,                      \
                       "grids of fewer tokens stay dense; 1 = none (default: those where sparse "  \
                       "attention is estimated to take longer)")

#define GENERATION_ROWS_MACHINE                                                                    \
    OPTION_ROW_HEADING("Machine"),                                                                 \
        OPTION_ROW_TEXT(0, "device", "NAME", common.device,                                        \
                        "cpu, cuda, cuda:N for a GPU by number, or auto: a GPU where one works "   \
                        "and the video fits (default: auto)"),                                     \
        OPTION_ROW_TEXT(0, "precision", "NAME", common.precision,                                  \
                        "bf16 (GPUs alone) or float32 (default: bf16 on a GPU)"),                  \
        OPTION_ROW_FLAG(0, "offload", common.offload,                                              \
                        "keep the transformer's blocks in the host's memory and bring them to "    \
                        "the GPU one by one: large models on small cards"),                        \
        OPTION_ROW_INT('t', "threads", "N", common.threads, 1, 1024,                               \
                       "CPU threads (default: all)"),                                              \
        OPTION_ROW_TEXT(0, "backend", "NAME", common.backend,                                      \
                        "of the attention: auto (the device's fastest), reference, portable, "     \
                        "avx2, avx512 or cuda (default: auto)"),                                   \
        OPTION_ROW_TEXT(                                                                           \
            0, "tile", "N", common.tile,                                                           \
            "VAE tiles: auto (when memory is short), off, or a side in pixels (default: "          \
            "auto)")

/* What settings point into besides argv. */
struct generation_texts {
    char *prompt, *negative;
    int32_t *dense_layers;
};

/* Settings from what was given; what was not is left to the model. The output stays the caller's to
 * set. texts (zeroed by the caller) has to be freed in every case. */
bool generation_options_take(const struct generation_arguments *arguments,
                             struct generate_settings *settings, struct generation_texts *texts,
                             struct error *error);
void generation_texts_free(struct generation_texts *texts);

/* --device, --precision and --backend (NULL = not given) to a device. */
bool generation_runtime(const char *device, const char *precision, const char *backend,
                        struct runtime_desc *runtime, struct error *error);

/* Opens the synthetic model of this name; the message lists what there is. */
bool generation_synthetic(const char *name, struct model *model, struct error *error);

/* "draft-paper" to its number; the message lists what there is. */
bool generation_policy(const char *flag, const char *name, draftattn_policy *policy,
                       struct error *error);

/* The same for "avx2". */
bool generation_backend(const char *flag, const char *name, draftattn_backend *backend,
                        struct error *error);

/* Gives desc this policy, and what goes with it its place: the published one has no compensation,
 * and repair belongs to draft alone. */
void generation_set_policy(draftattn_plan_desc *desc, draftattn_policy policy);

#endif
