/*
 * draftattn bench --end-to-end. Owns which model, which size and which shares; the work is in
 * bench_end_to_end.c, the figures are shown by end_to_end_report.c.
 */
#include "end_to_end.h"

#include "generation_options.h"
#include "model_location.h"

#include <stdio.h>
#include <string.h>

static bool open_model(const struct end_to_end_arguments *a, struct model *model,
                       struct error *error)
{
    char path[MODEL_PATH_MAX];
    if (a->synthetic && a->model)
        return error_set_usage(error, "give --synthetic or --model, not both");
    if (a->synthetic)
        return generation_synthetic(a->synthetic, model, error);
    return model_location_find(a->model, path, sizeof path, error) &&
           model_open(model, path, error);
}

/* What the model leaves open is the library's or the model's; see generate_settings_fill(). */
static bool take_video(const struct end_to_end_arguments *a, const struct bench_settings *common,
                       const char *backend, struct generate_settings *video, struct error *error)
{
    *video = generate_settings_default();
    video->attention = common->desc;
    video->frames = a->frames.value;
    video->steps = a->steps.value;
    if (a->cfg.given)
        video->guidance = a->cfg.value;
    video->runtime.threads = common->threads;
    video->runtime.offload = a->offload;
    return (!a->size || parse_size("--size", a->size, 1, GENERATION_MAX_SIDE, &video->width,
                                   &video->height, error)) &&
           generation_runtime(a->device, a->precision, backend, &video->runtime, error);
}

bool end_to_end_command(const struct end_to_end_arguments *arguments,
                        const struct bench_settings *common, const char *backend, bool json,
                        bool quiet, struct error *error)
{
    struct model model = {0};
    struct end_to_end_settings settings = {
        .model = &model,
        .sparsity_count = common->sparsity_count,
        .share_count = arguments->share_count,
        .runs = common->runs,
        .full = arguments->full,
    };
    struct end_to_end_report report;
    struct console console;
    memcpy(settings.sparsity, common->sparsity, sizeof settings.sparsity);
    memcpy(settings.shares, arguments->shares, sizeof settings.shares);
    if (!take_video(arguments, common, backend, &settings.video, error) ||
        !open_model(arguments, &model, error))
        return false;
    console_open(&console, quiet);
    const struct generate_events events = {
        .step = console_step, .note = console_note, .user = &console};
    generate_settings_fill(&settings.video, &model, &events);
    bool ok = end_to_end_run(&settings, &events, &report, error);
    console_close(&console);
    if (ok && json)
        ok = end_to_end_report_json(stdout, &settings, &report, error);
    else if (ok || (error->interrupted && !json && report.row_count > 0))
        end_to_end_report_table(stdout, &settings, &report, arguments->markdown);
    model_close(&model);
    return ok;
}
