/*
 * draftattn generate: a video from a prompt, or the rest of one from the state that an earlier run
 * left. Owns its options and how they become settings; the work is in generate.c, the closing
 * report in generate_summary.c.
 */
#include "command.h"
#include "console.h"
#include "generate_summary.h"
#include "generation_options.h"
#include "model_location.h"

#include "../run_state.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    struct generation_arguments common;
    const char *output, *save_latents, *attention, *synthetic, *resume;
    struct option_int save_every;
    struct option_real sparsity;
};

static const struct option_spec options[] = {
    GENERATION_ROWS_PROMPT,
    OPTION_ROW_HEADING("Files"),
    GENERATION_ROW_MODEL,
    OPTION_ROW_TEXT(0, "synthetic", "NAME", synthetic,
                    "wan2.1-t2v-1.3b or wan2.1-t2v-14b at full size with random weights instead "
                    "of a model: for time and memory, the video is noise"),
    OPTION_ROW_TEXT(
        'o', "output", "FILE", output,
        ".mp4, .webm, .gif, or a series such as out-%05d.png (default: draftattn-SEED.mp4)"),
    OPTION_ROW_TEXT(0, "save-latents", "FILE", save_latents,
                    "keep the latents as safetensors, for 'draftattn decode'"),
    GENERATION_ROW_NOISE,
    OPTION_ROW_TEXT(0, "resume", "FILE", resume,
                    "go on from the state of an interrupted run, with its settings; beside it "
                    "only -o, -m, --save-latents, --device, --threads, --offload, --quiet and "
                    "--json"),
    OPTION_ROW_INT(0, "save-every", "N", save_every, 1, 1000,
                   "save the state every N steps (default: once a minute, and when the run is "
                   "interrupted or fails)"),
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
        "file's metadata. A run that is interrupted leaves OUTPUT" RUN_STATE_SUFFIX
        ", from which --resume goes on.",
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

/* What one command works with; all of it is there until it ends. */
struct job {
    const struct arguments *arguments;
    struct generate_settings settings;
    struct generation_texts texts;
    struct run_state state; /* of --resume */
    struct model model;
    char path[MODEL_PATH_MAX]; /* of the model */
    char *output, *kept;       /* where arguments name none */
};

static char *with_suffix(const char *text, const char *suffix)
{
    size_t size = strlen(text) + strlen(suffix) + 1;
    char *joined = malloc(size);
    if (joined)
        snprintf(joined, size, "%s%s", text, suffix);
    return joined;
}

static bool take_new(struct job *job, struct error *error)
{
    struct generate_settings *s = &job->settings;
    char name[64];
    if (!take_settings(job->arguments, s, &job->texts, error))
        return false;
    s->save_every = job->arguments->save_every.value;
    snprintf(name, sizeof name, "draftattn-%" PRIu64 ".mp4", s->seed);
    job->output = with_suffix(job->arguments->output ? job->arguments->output : name, "");
    job->kept = job->output ? with_suffix(job->output, RUN_STATE_SUFFIX) : NULL;
    s->output = job->output;
    s->state = job->kept;
    return job->kept || error_out_of_memory(error, "the names of files", 2 * MODEL_PATH_MAX);
}

/* The output of a state that still has the name it was given; malloc'd. */
static bool name_resumed(struct job *job, struct error *error)
{
    const char *state = job->arguments->resume, *given = job->arguments->output;
    size_t length = strlen(state), suffix = strlen(RUN_STATE_SUFFIX);
    bool ours = length > suffix && strcmp(state + length - suffix, RUN_STATE_SUFFIX) == 0;
    if (!given && !ours)
        return error_set_usage(error,
                               "--resume %s: the name does not end in " RUN_STATE_SUFFIX
                               "; name the video with --output FILE",
                               state);
    job->output = given ? with_suffix(given, "") : strndup(state, length - suffix);
    job->settings.output = job->output;
    return job->output || error_out_of_memory(error, "the name of the output", length);
}

/* Another device than the one of the state takes what it can of the state's wishes. */
static bool take_device(const struct arguments *a, struct runtime_desc *runtime,
                        struct error *error)
{
    struct runtime_desc asked = *runtime;
    if (a->common.offload && !a->common.device && asked.kind == RUNTIME_CPU)
        asked = (struct runtime_desc){.kind = RUNTIME_AUTO};
    if (a->common.device) {
        if (!generation_runtime(a->common.device, NULL, NULL, &asked, error))
            return false;
        if (asked.kind != runtime->kind)
            asked.backend = DRAFTATTN_BACKEND_AUTO;
        if (asked.kind == RUNTIME_CPU) {
            asked.precision = RUNTIME_F32;
            asked.offload = false;
        }
    }
    asked.threads = (int32_t)a->common.threads.value;
    asked.offload |= a->common.offload;
    *runtime = asked;
    return true;
}

static bool take_resumed(struct job *job, struct error *error)
{
    static const char *const allowed[] = {"resume",  "output",  "model", "save-latents", "device",
                                          "threads", "offload", "quiet", "json",         NULL};
    const struct arguments *a = job->arguments;
    const char *other = options_given_beside(&generate_command, a, allowed);
    if (other)
        return error_set_usage(error,
                               "--%s does not go with --resume, which takes the settings of the "
                               "run that it goes on with; leave out one of them",
                               other);
    if (!run_state_read(&job->state, a->resume, error))
        return error_prefix(error, "--resume: ");
    job->settings = job->state.settings;
    job->settings.resume = &job->state;
    job->settings.state = a->resume;
    job->settings.save_latents = a->save_latents;
    return take_device(a, &job->settings.runtime, error) && name_resumed(job, error);
}

static bool open_model(struct job *job, struct error *error)
{
    const struct arguments *a = job->arguments;
    const bool resumed = job->settings.resume != NULL;
    const char *synthetic = a->synthetic;
    if (a->synthetic && a->common.model)
        return error_set_usage(error, "give --model or --synthetic, not both");
    if (resumed && job->state.synthetic)
        synthetic = job->state.model;
    if (synthetic) {
        snprintf(job->path, sizeof job->path, "%.100s", synthetic);
        return generation_synthetic(synthetic, &job->model, error);
    }
    const bool stored = resumed && !a->common.model;
    const char *given = stored ? job->state.model : a->common.model;
    return (model_location_find(given, job->path, sizeof job->path, error) &&
            model_open(&job->model, job->path, error)) ||
           (stored && error_append(error, "; if it was moved, say where to with --model FOLDER"));
}

static bool generate(struct job *job, struct error *error)
{
    const struct arguments *arguments = job->arguments;
    struct generate_settings *settings = &job->settings;
    struct console console;
    struct generate_report report;
    const struct generate_events events = {
        .step = console_step, .note = console_note, .user = &console};
    console_open(&console, arguments->common.quiet);
    bool ok = open_model(job, error) &&
              generate_settings_resolve(settings, &job->model, &events, error) &&
              (!settings->resume || run_state_load(&job->state, &job->model, error));
    if (ok) {
        console.steps = settings->steps;
        generate_summary_begin(&console, settings, job->path);
        if (settings->resume)
            console_print(&console, "resumed after %" PRId64 " of %" PRId64 " steps\n",
                          job->state.step, settings->steps);
        ok = generate_run(&job->model, settings, &events, &report, error);
    }
    console_close(&console);
    if (ok)
        generate_summary_end(&console, settings, &report);
    if (ok && arguments->common.json)
        ok = generate_summary_json(stdout, settings, &report, job->path, error);
    return ok;
}

bool cmd_generate(int argc, char *const *argv, struct error *error)
{
    struct arguments arguments = {0};
    struct job job = {.arguments = &arguments, .settings = generate_settings_default()};
    bool help;
    if (!options_parse(&generate_command, argc, argv, &arguments, &help, error))
        return false;
    if (help) {
        options_print_help(&generate_command, stdout);
        return true;
    }
    bool ok = (arguments.resume ? take_resumed(&job, error) : take_new(&job, error)) &&
              generate(&job, error);
    model_close(&job.model);
    run_state_free(&job.state);
    generation_texts_free(&job.texts);
    free(job.output);
    free(job.kept);
    return ok;
}
