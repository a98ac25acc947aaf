/*
 * draftattn generate: a video from a prompt. Owns its options and how they become settings; the
 * work is in generate.c, the closing report in generate_summary.c.
 */
#include "command.h"
#include "console.h"
#include "generate_summary.h"
#include "model_location.h"
#include "suggest.h"

#include "../generate.h"
#include "../io/rng.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    const char *prompt, *negative, *model, *output, *save_latents, *noise, *size;
    const char *sampler, *attention, *dense_layers, *backend, *tile;
    struct option_int width, height, frames, steps, seed, compensation, probes, threads;
    struct option_real fps, cfg, flow_shift, sparsity, dense_steps;
    bool json, quiet;
};

#define MAX_SIDE   16384
#define MAX_FRAMES 9999
#define MAX_PROMPT (1 << 20)

static const struct option_spec options[] = {
    OPTION_ROW_HEADING("Prompt"),
    OPTION_ROW_TEXT('p', "prompt", "TEXT", prompt, "what to show; @FILE reads it from a file"),
    OPTION_ROW_TEXT('n', "negative-prompt", "TEXT", negative,
                    "what to keep away from; @FILE likewise (default: the model's)"),
    OPTION_ROW_HEADING("Files"),
    OPTION_ROW_TEXT('m', "model", "FOLDER", model,
                    "Wan2.1 model, diffusers or original layout (default: $DRAFTATTN_MODEL, else "
                    "the bundled model)"),
    OPTION_ROW_TEXT(
        'o', "output", "FILE", output,
        ".mp4, .webm, .gif, or a series such as out-%05d.png (default: draftattn-SEED.mp4)"),
    OPTION_ROW_TEXT(0, "save-latents", "FILE", save_latents,
                    "keep the latents as safetensors, for 'draftattn decode'"),
    OPTION_ROW_TEXT(0, "noise", "FILE", noise,
                    "start from the tensor 'noise' or 'latents' of a safetensors file instead of "
                    "the seed's noise"),
    OPTION_ROW_HEADING("Video"),
    OPTION_ROW_TEXT(0, "size", "WxH", size,
                    "in pixels, rounded to multiples of 16 (default: the model's)"),
    OPTION_ROW_INT('W', "width", "N", width, 1, MAX_SIDE, "width alone"),
    OPTION_ROW_INT('H', "height", "N", height, 1, MAX_SIDE, "height alone"),
    OPTION_ROW_INT('f', "frames", "N", frames, 1, MAX_FRAMES,
                   "number of frames, rounded to 4n + 1 (default: the model's)"),
    OPTION_ROW_REAL(0, "fps", "X", fps, 1, 240, "frames a second (default: the model's, 16)"),
    OPTION_ROW_HEADING("Sampling"),
    OPTION_ROW_INT('s', "steps", "N", steps, 1, 1000, "denoising steps (default: the model's)"),
    OPTION_ROW_REAL(
        0, "cfg", "X", cfg, 0, 100,
        "classifier-free guidance; up to 1 = none, half the work (default: the model's)"),
    OPTION_ROW_REAL(0, "flow-shift", "X", flow_shift, 0.01, 1000,
                    "time shift of the noise levels (default: the model's for the size)"),
    OPTION_ROW_TEXT(0, "sampler", "NAME", sampler, "unipc, dpm++ or euler (default: unipc)"),
    OPTION_ROW_INT(0, "seed", "N", seed, 0, 4294967295.0,
                   "of the noise, 0 to 4294967295 (default: random, printed)"),
    OPTION_ROW_HEADING("Attention"),
    OPTION_ROW_TEXT('a', "attention", "POLICY", attention,
                    "draft, draft-paper (as published) or dense (default: draft)"),
    OPTION_ROW_BELOW(0, "sparsity", "X", sparsity, 0, 1,
                     "share of block pairs not computed exactly, 0 to below 1 (default: the "
                     "model's for the size, else 0.75)"),
    OPTION_ROW_REAL(0, "dense-steps", "X", dense_steps, 0, 1,
                    "share of the first steps that stay dense, 0 to 1 (default: 0.2)"),
    OPTION_ROW_TEXT(0, "dense-layers", "LIST", dense_layers,
                    "layers that stay dense, such as 0,1,5-7"),
    OPTION_ROW_SWITCH(0, "compensation", compensation,
                      "whether skipped blocks enter through their means (default: on)"),
    OPTION_ROW_INT(0, "probes", "N", probes, 0, 1024,
                   "exact rows per head that repair the rest and measure the error; 0 = neither "
                   "(default: the model's for the size, else 256)"),
    OPTION_ROW_HEADING("Machine"),
    OPTION_ROW_INT('t', "threads", "N", threads, 1, 1024, "CPU threads (default: all)"),
    OPTION_ROW_TEXT(
        0, "backend", "NAME", backend,
        "of the attention: auto, reference, portable, avx2, avx512 or cuda (default: auto)"),
    OPTION_ROW_TEXT(
        0, "tile", "N", tile,
        "VAE tiles: auto (when memory is short), off, or a side in pixels (default: auto)"),
    OPTION_ROW_HEADING("Messages"),
    OPTION_ROW_FLAG(0, "json", json,
                    "one JSON object with settings and measurements on standard output"),
    OPTION_ROW_FLAG('q', "quiet", quiet, "errors only"),
    OPTION_ROW_END,
};

const struct command_spec generate_command = {
    .name = "generate",
    .summary = "make a video from a prompt",
    .usage = "-p TEXT [-o FILE] [options]",
    .text =
        "Makes a video from a prompt. Progress goes to standard error; settings are kept in the "
        "file's metadata.",
    .options = options,
};

static const char *policy_at(const void *user, size_t index)
{
    (void)user;
    return index <= DRAFTATTN_POLICY_DRAFT_PAPER ? draftattn_policy_name((draftattn_policy)index)
                                                 : NULL;
}

static const char *backend_at(const void *user, size_t index)
{
    (void)user;
    return index <= DRAFTATTN_BACKEND_CUDA ? draftattn_backend_name((draftattn_backend)index)
                                           : NULL;
}

/* "unknown policy 'x'; there are a, b, c" */
static bool unknown_name(const char *flag, const char *name,
                         const char *(*at)(const void *user, size_t index), struct error *error)
{
    const char *nearest = suggest_nearest(name, at, NULL);
    error_set_usage(error, "%s '%s' is unknown%s%s%s; there are", flag, name,
                    nearest ? " (did you mean '" : "", nearest ? nearest : "",
                    nearest ? "'?)" : "");
    for (size_t i = 0; at(NULL, i); i++)
        error_append(error, "%s %s", i ? "," : "", at(NULL, i));
    return false;
}

/* Text as given, or the contents of @FILE in *buffer. */
static bool read_prompt(const char *flag, const char *given, const char **text, char **buffer,
                        struct error *error)
{
    *text = given;
    if (!given || given[0] != '@')
        return true;
    FILE *file = fopen(given + 1, "rb");
    if (!file)
        return error_set_usage(error, "%s %s: cannot read the file: %s", flag, given,
                               strerror(errno));
    *buffer = malloc(MAX_PROMPT + 1);
    size_t length = *buffer ? fread(*buffer, 1, MAX_PROMPT + 1, file) : 0;
    int reason = ferror(file) ? errno : 0;
    fclose(file);
    if (!*buffer)
        return error_out_of_memory(error, "the prompt", MAX_PROMPT);
    if (reason)
        return error_set_usage(error, "%s %s: cannot read the file: %s", flag, given,
                               strerror(reason));
    if (length > MAX_PROMPT)
        return error_set_usage(error, "%s %s: longer than 1 MiB", flag, given);
    if (memchr(*buffer, '\0', length))
        return error_set_usage(error, "%s %s: not a text file (it holds a zero byte)", flag, given);
    while (length && ((*buffer)[length - 1] == '\n' || (*buffer)[length - 1] == '\r'))
        length--;
    (*buffer)[length] = '\0';
    *text = *buffer;
    return true;
}

static bool take_size(const struct arguments *a, struct generate_settings *s, struct error *error)
{
    if (a->size && (a->width.given || a->height.given))
        return error_set_usage(error, "give --size, or --width and --height, not both");
    s->width = a->width.value;
    s->height = a->height.value;
    s->frames = a->frames.value;
    return !a->size || parse_size("--size", a->size, 1, MAX_SIDE, &s->width, &s->height, error);
}

/* *layers keeps what the description points at. */
static bool take_attention(const struct arguments *a, draftattn_plan_desc *desc, int32_t **layers,
                           struct error *error)
{
    if (a->attention &&
        draftattn_policy_from_name(a->attention, &desc->policy) != DRAFTATTN_SUCCESS)
        return unknown_name("--attention", a->attention, policy_at, error);
    if (desc->policy == DRAFTATTN_POLICY_DRAFT_PAPER)
        desc->compensation = 0;
    if (a->sparsity.given)
        desc->sparsity = a->sparsity.value;
    if (a->dense_steps.given)
        desc->dense_steps = a->dense_steps.value;
    if (a->compensation.given)
        desc->compensation = (int32_t)a->compensation.value;
    if (a->probes.given)
        desc->probes = (int32_t)a->probes.value;
    if (desc->policy != DRAFTATTN_POLICY_DRAFT)
        desc->repair = 0;
    if (a->dense_layers && !parse_list("--dense-layers", a->dense_layers, 1000, layers,
                                       &desc->dense_layer_count, error))
        return false;
    desc->dense_layers = *layers;
    return true;
}

static bool take_settings(const struct arguments *a, struct generate_settings *s, int32_t **layers,
                          struct error *error)
{
    s->save_latents = a->save_latents;
    s->noise_file = a->noise;
    s->steps = a->steps.value;
    s->fps = a->fps.value;
    s->flow_shift = a->flow_shift.value;
    s->seed = a->seed.given ? (uint64_t)a->seed.value : rng_random_seed();
    s->threads = (int32_t)a->threads.value;
    if (a->cfg.given)
        s->guidance = a->cfg.value;
    if (a->sampler)
        s->sampler = a->sampler;
    if (a->backend && draftattn_backend_from_name(a->backend, &s->backend) != DRAFTATTN_SUCCESS)
        return unknown_name("--backend", a->backend, backend_at, error);
    return take_size(a, s, error) && parse_tile("--tile", a->tile, &s->tile, error) &&
           take_attention(a, &s->attention, layers, error);
}

static bool generate(const struct arguments *arguments, struct generate_settings *settings,
                     struct error *error)
{
    char path[MODEL_PATH_MAX];
    struct model model = {0};
    struct console console;
    struct generate_report report;
    const struct generate_events events = {console_step, console_note, &console};
    console_open(&console, arguments->quiet);
    bool ok = model_location_find(arguments->model, path, sizeof path, error) &&
              model_open(&model, path, error) &&
              generate_settings_resolve(settings, &model, &events, error);
    if (ok) {
        console.steps = settings->steps;
        generate_summary_begin(&console, settings, path);
        ok = generate_run(&model, settings, &events, &report, error);
    }
    console_close(&console);
    if (ok)
        generate_summary_end(&console, settings, &report);
    if (ok && arguments->json)
        ok = generate_summary_json(stdout, settings, &report, path, error);
    model_close(&model);
    return ok;
}

bool cmd_generate(int argc, char *const *argv, struct error *error)
{
    struct arguments arguments = {0};
    struct generate_settings settings = generate_settings_default();
    char *prompt = NULL, *negative = NULL, output[64];
    int32_t *layers = NULL;
    bool help;
    if (!options_parse(&generate_command, argc, argv, &arguments, &help, error))
        return false;
    if (help) {
        options_print_help(&generate_command, stdout);
        return true;
    }
    bool ok = take_settings(&arguments, &settings, &layers, error) &&
              read_prompt("--prompt", arguments.prompt, &settings.prompt, &prompt, error) &&
              read_prompt("--negative-prompt", arguments.negative, &settings.negative_prompt,
                          &negative, error);
    snprintf(output, sizeof output, "draftattn-%" PRIu64 ".mp4", settings.seed);
    settings.output = arguments.output ? arguments.output : output;
    ok = ok && generate(&arguments, &settings, error);
    free(prompt);
    free(negative);
    free(layers);
    return ok;
}
