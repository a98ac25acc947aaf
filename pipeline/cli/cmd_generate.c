/*
 * draftattn generate: a video from a prompt. Owns its options and how they become settings; the
 * work is in generate.c, the closing report in generate_summary.c.
 */
#include "command.h"
#include "console.h"
#include "generate_summary.h"
#include "generation_options.h"
#include "model_location.h"

#include "../generate.h"

#include <inttypes.h>
#include <stdio.h>

struct arguments {
    struct generation_arguments common;
    const char *output, *save_latents, *attention;
    struct option_real sparsity;
};

static const struct option_spec options[] = {
    GENERATION_ROWS_PROMPT,
    OPTION_ROW_HEADING("Files"),
    GENERATION_ROW_MODEL,
    OPTION_ROW_TEXT(
        'o', "output", "FILE", output,
        ".mp4, .webm, .gif, or a series such as out-%05d.png (default: draftattn-SEED.mp4)"),
    OPTION_ROW_TEXT(0, "save-latents", "FILE", save_latents,
                    "keep the latents as safetensors, for 'draftattn decode'"),
    GENERATION_ROW_NOISE,
    GENERATION_ROWS_VIDEO,
    GENERATION_ROWS_SAMPLING,
    OPTION_ROW_HEADING("Attention"),
    OPTION_ROW_TEXT('a', "attention", "POLICY", attention,
                    "draft, draft-paper (as published) or dense (default: draft)"),
    OPTION_ROW_BELOW(0, "sparsity", "X", sparsity, 0, 1,
                     "share of block pairs not computed exactly, 0 to below 1 (default: the "
                     "model's for the size, else 0.75)"),
    GENERATION_ROWS_ATTENTION,
    GENERATION_ROWS_MACHINE,
    OPTION_ROW_HEADING("Messages"),
    OPTION_ROW_FLAG(0, "json", common.json,
                    "one JSON object with settings and measurements on standard output"),
    OPTION_ROW_FLAG('q', "quiet", common.quiet, "errors only"),
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

static bool take_settings(const struct arguments *a, struct generate_settings *s,
                          struct generation_texts *texts, struct error *error)
{
    draftattn_policy policy = DRAFTATTN_POLICY_DRAFT;
    if (a->attention && !generation_policy("--attention", a->attention, &policy, error))
        return false;
    generation_set_policy(&s->attention, policy);
    if (a->sparsity.given)
        s->attention.sparsity = a->sparsity.value;
    s->save_latents = a->save_latents;
    return generation_options_take(&a->common, s, texts, error);
}

static bool generate(const struct arguments *arguments, struct generate_settings *settings,
                     struct error *error)
{
    char path[MODEL_PATH_MAX];
    struct model model = {0};
    struct console console;
    struct generate_report report;
    const struct generate_events events = {
        .step = console_step, .note = console_note, .user = &console};
    console_open(&console, arguments->common.quiet);
    bool ok = model_location_find(arguments->common.model, path, sizeof path, error) &&
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
    if (ok && arguments->common.json)
        ok = generate_summary_json(stdout, settings, &report, path, error);
    model_close(&model);
    return ok;
}

bool cmd_generate(int argc, char *const *argv, struct error *error)
{
    struct arguments arguments = {0};
    struct generate_settings settings = generate_settings_default();
    struct generation_texts texts = {0};
    char output[64];
    bool help;
    if (!options_parse(&generate_command, argc, argv, &arguments, &help, error))
        return false;
    if (help) {
        options_print_help(&generate_command, stdout);
        return true;
    }
    bool ok = take_settings(&arguments, &settings, &texts, error);
    snprintf(output, sizeof output, "draftattn-%" PRIu64 ".mp4", settings.seed);
    settings.output = arguments.output ? arguments.output : output;
    ok = ok && generate(&arguments, &settings, error);
    generation_texts_free(&texts);
    return ok;
}
