/*
 * The runs one after the other, and what is taken from them.
 *
 * Owns the order (checks, runs, likeness, the grid of videos, report and figures) and the frames of
 * all variants, which stay in memory: decoding the files again would give the encoder's picture of
 * them, and 65 frames of 512x512 are 51 MB. They are part of what every run's memory plan counts.
 */
#include "compare.h"

#include "clock.h"
#include "frame_metrics.h"
#include "io/output_file.h"
#include "io/video_writer.h"
#include "report/report.h"
#include "side_by_side.h"
#include "system_memory.h"
#include "tensor/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Constant rate factor 6 where generate has 16: the encoder's own error is then about 55 dB. */
#define CRF_OFFSET (-10)

/* One run's listener. */
struct listener {
    const struct compare_job *job;
    struct capture *capture;
    uint8_t *next; /* where the next frame goes */
    int64_t frame_bytes, frames_left;
    double seconds; /* spent in taking frames */
};

static bool on_step(void *user, enum generate_phase phase, int64_t done, int64_t total)
{
    const struct generate_events *events = ((const struct listener *)user)->job->events;
    return !events || !events->step || events->step(events->user, phase, done, total);
}

static void on_note(void *user, const char *text)
{
    const struct generate_events *events = ((const struct listener *)user)->job->events;
    if (events && events->note)
        events->note(events->user, text);
}

static void on_attention(void *user, struct self_attention *attention, const draftattn_step *step)
{
    capture_attention(((struct listener *)user)->capture, attention, step);
}

static void on_frame(void *user, const uint8_t *rgb)
{
    struct listener *listener = user;
    double start = clock_seconds();
    if (listener->frames_left-- > 0) {
        memcpy(listener->next, rgb, (size_t)listener->frame_bytes);
        listener->next += listener->frame_bytes;
    }
    listener->seconds += clock_seconds() - start;
}

static bool on_write_step(void *user, int64_t done, int64_t total)
{
    return on_step(user, PHASE_WRITE, done, total);
}

static void begin(const struct compare_job *job, int64_t index, const char *label)
{
    if (job->begin)
        job->begin(job->events ? job->events->user : NULL, index, job->variant_count, label);
}

/* prefix + name + ".mp4", malloc'd. */
static char *video_path(const struct compare_job *job, const char *name, struct error *error)
{
    size_t size = strlen(job->prefix) + strlen(name) + sizeof ".mp4";
    char *path = malloc(size);
    if (path)
        snprintf(path, size, "%s%s.mp4", job->prefix, name);
    else
        error_out_of_memory(error, "the name of a video", size);
    return path;
}

/* ---- before the work ------------------------------------------------------------------------- */

static struct generate_settings settings_of(const struct compare_job *job,
                                            const struct comparison *c, int64_t index)
{
    struct generate_settings settings = *job->settings;
    const struct comparison_variant *variant = &c->variants[index];
    settings.attention = variant->attention;
    settings.output = variant->video;
    settings.save_latents = NULL;
    settings.crf_offset = CRF_OFFSET;
    settings.held_bytes = c->width * c->height * 3 * c->frames * (c->variant_count - index);
    return settings;
}

static bool fill_variant(const struct compare_job *job, int64_t index,
                         struct comparison_variant *variant, size_t bytes, size_t frames,
                         struct error *error)
{
    const struct compare_variant *asked = &job->variants[index];
    memcpy(variant->label, asked->label, sizeof variant->label);
    variant->attention = asked->attention;
    variant->video = video_path(job, asked->name, error);
    if (!variant->video)
        return false;
    variant->frames = malloc(bytes);
    variant->quality.psnr = malloc(frames * sizeof(double));
    variant->quality.ssim = malloc(frames * sizeof(double));
    if (variant->frames && variant->quality.psnr && variant->quality.ssim)
        return true;
    return error_out_of_memory(error, "the frames of the variants", bytes);
}

/* Asked before there are any: an allocation that is too large may succeed and end the process when
 * it is filled. */
static bool check_frames(const struct compare_job *job, size_t *bytes, struct error *error)
{
    const struct generate_settings *s = job->settings;
    const int64_t shape[4] = {s->frames, s->height, s->width, 3};
    const double gib = 1073741824.0;
    double available = (double)system_memory_available();
    bool known = checked_bytes(shape, 4, 1, bytes);
    double wanted = known ? (double)*bytes * (double)job->variant_count : INFINITY;
    return wanted <= available ||
           error_set(error,
                     "not enough memory: the frames of %" PRId64 " variants at %" PRId64 "x%" PRId64
                     ", %" PRId64 " frames take %.2f GiB, %.2f GiB are available; ask for fewer "
                     "--frames, a smaller --size, or fewer variants",
                     job->variant_count, s->width, s->height, s->frames, wanted / gib,
                     available / gib);
}

static bool fill(const struct compare_job *job, struct comparison *c, struct error *error)
{
    const struct generate_settings *s = job->settings;
    size_t bytes = 0;
    *c = (struct comparison){
        .model = job->model->folder.root,
        .prompt = s->prompt,
        .negative_prompt = s->negative_prompt,
        .settings = s,
        .command = job->command,
        .machine = job->machine,
        .width = s->width,
        .height = s->height,
        .frames = s->frames,
        .steps = s->steps,
        .layers = job->model->transformer.layers,
        .heads = job->model->transformer.heads,
        .fps = s->fps,
    };
    if (!check_frames(job, &bytes, error))
        return false;
    c->variants = calloc((size_t)job->variant_count, sizeof *c->variants);
    if (!c->variants)
        return error_out_of_memory(error, "the variants", sizeof *c->variants);
    for (; c->variant_count < job->variant_count; c->variant_count++)
        if (!fill_variant(job, c->variant_count, &c->variants[c->variant_count], bytes,
                          (size_t)s->frames, error)) {
            c->variant_count++; /* what it got so far is freed too */
            return false;
        }
    c->side_by_side = video_path(job, "side-by-side", error);
    return c->side_by_side != NULL;
}

static struct side_by_side grid_of(const struct comparison *c, struct side_by_side_cell *cells)
{
    return (struct side_by_side){
        .cells = cells,
        .count =
            (int32_t)(c->variant_count < SIDE_BY_SIDE_MAX ? c->variant_count : SIDE_BY_SIDE_MAX),
        .width = (int32_t)c->width,
        .height = (int32_t)c->height,
        .frames = c->frames,
        .fps = c->fps,
    };
}

static bool check(const struct compare_job *job, const struct comparison *c, struct error *error)
{
    for (int64_t i = 0; i < c->variant_count; i++) {
        struct generate_settings settings = settings_of(job, c, i);
        if (!generate_check(job->model, &settings, error))
            return error_prefix(error, "variant '%s': ", c->variants[i].label);
    }
    struct side_by_side_cell cells[SIDE_BY_SIDE_MAX];
    for (int64_t i = 0; i < c->variant_count && i < SIDE_BY_SIDE_MAX; i++)
        cells[i] = (struct side_by_side_cell){c->variants[i].label, "", NULL};
    struct side_by_side grid = grid_of(c, cells);
    return side_by_side_check(c->side_by_side, &grid, error) &&
           output_file_check(job->report, error) && output_file_check(job->json, error);
}

/* ---- the runs -------------------------------------------------------------------------------- */

/* Takes what collecting took out of the times. */
static void correct_times(struct comparison_variant *variant, double attention, double frames,
                          int64_t steps)
{
    struct generate_report *report = &variant->report;
    report->seconds[PHASE_DENOISE] -= attention;
    report->step_seconds -= attention / (double)steps;
    report->seconds[PHASE_WRITE] -= frames;
    report->total_seconds -= attention + frames;
    variant->capture_seconds = attention + frames;
    for (int i = 0; i < DRAFTATTN_STAGE_COUNT; i++)
        variant->attention_seconds += report->attention.seconds[i];
}

static void note_trouble(struct listener *listener, const char *label)
{
    const char *trouble = capture_trouble(listener->capture);
    char note[sizeof((struct error *)0)->text + 128];
    if (!trouble)
        return;
    snprintf(note, sizeof note, "draft maps of '%s' are missing: %s", label, trouble);
    on_note(listener, note);
}

static bool run_variant(const struct compare_job *job, struct comparison *c, int64_t index,
                        struct generate_text *text, struct error *error)
{
    struct comparison_variant *variant = &c->variants[index];
    struct generate_settings settings = settings_of(job, c, index);
    if (index > 0) /* what one run leaves in memory must not move the next to another device */
        settings.runtime.kind = c->variants[0].report.gpu ? RUNTIME_CUDA : RUNTIME_CPU;
    const struct capture_desc desc = {
        .steps = (int32_t)c->steps,
        .layers = (int32_t)c->layers,
        .heads = (int32_t)c->heads,
        .passes = settings.guidance > 1 ? 2 : 1,
        .places = job->places,
        .place_count = job->place_count,
    };
    struct listener listener = {
        .job = job,
        .next = variant->frames,
        .frame_bytes = c->width * c->height * 3,
        .frames_left = c->frames,
    };
    const struct generate_events events = {on_step, on_note, on_attention, on_frame, &listener};
    settings.text = text;
    begin(job, index, variant->label);
    bool ok = capture_create(&listener.capture, &desc, error) &&
              generate_run(job->model, &settings, &events, &variant->report, error) &&
              capture_finish(listener.capture, variant, error);
    if (ok) {
        note_trouble(&listener, variant->label);
        correct_times(variant, capture_seconds(listener.capture), listener.seconds, c->steps);
    } else if (!error->interrupted && !error->usage) /* what is wrong with a flag is so for all */
        error_prefix(error, "variant '%s': ", variant->label);
    capture_destroy(listener.capture);
    return ok;
}

/* Every run loads the same files; the first alone finds them outside of the system's cache. */
static void even_out_loading(struct comparison *c)
{
    double least = INFINITY;
    for (int64_t i = 0; i < c->variant_count; i++)
        least = fmin(least, c->variants[i].report.seconds[PHASE_LOAD]);
    for (int64_t i = 0; i < c->variant_count; i++) {
        struct generate_report *report = &c->variants[i].report;
        report->total_seconds -= report->seconds[PHASE_LOAD] - least;
        report->seconds[PHASE_LOAD] = least;
    }
}

/* ---- after the runs -------------------------------------------------------------------------- */

static void measure_baseline(const struct comparison *c)
{
    struct comparison_quality *quality = &c->variants[0].quality;
    for (int64_t i = 0; i < c->frames; i++) {
        quality->psnr[i] = INFINITY;
        quality->ssim[i] = 1;
    }
    quality->psnr_all = quality->psnr_rgb = INFINITY;
    quality->ssim_all = 1;
}

static bool measure(const struct compare_job *job, struct comparison *c, int64_t index,
                    struct error *error)
{
    const struct comparison_variant *variant = &c->variants[index], *baseline = &c->variants[0];
    struct comparison_quality *quality = &c->variants[index].quality;
    struct listener listener = {.job = job};
    const struct progress progress = {on_write_step, &listener};
    size_t bytes = (size_t)(c->width * c->height * 3 * c->frames);
    if (!frame_metrics_files(baseline->video, variant->video, c->frames, quality->psnr,
                             quality->ssim, &quality->psnr_all, &quality->ssim_all, &progress,
                             error))
        return false;
    quality->psnr_rgb =
        frame_metrics_psnr(frame_metrics_mse(baseline->frames, variant->frames, bytes));
    for (int64_t i = 1; i < c->frames; i++)
        if (quality->psnr[i] < quality->psnr[quality->worst_frame])
            quality->worst_frame = i;
    return true;
}

static bool measure_all(const struct compare_job *job, struct comparison *c, struct error *error)
{
    begin(job, job->variant_count, "PSNR and SSIM");
    measure_baseline(c);
    for (int64_t i = 1; i < c->variant_count; i++)
        if (!measure(job, c, i, error))
            return false;
    return true;
}

/* "2.31x, 34.2 dB" */
static void describe_cell(const struct comparison *c, int64_t index, char *text, size_t size)
{
    const struct comparison_variant *variant = &c->variants[index];
    double seconds = variant->report.total_seconds, psnr = variant->quality.psnr_all;
    if (index == 0)
        snprintf(text, size, "%.1f s", seconds);
    else if (isfinite(psnr))
        snprintf(text, size, "%.2fx, %.1f dB", c->variants[0].report.total_seconds / seconds, psnr);
    else
        snprintf(text, size, "%.2fx, identical", c->variants[0].report.total_seconds / seconds);
}

static bool write_grid(const struct compare_job *job, struct comparison *c, struct error *error)
{
    struct listener listener = {.job = job};
    struct side_by_side_cell cells[SIDE_BY_SIDE_MAX];
    char details[SIDE_BY_SIDE_MAX][64];
    const char *const metadata[] = {"title", c->prompt, "comment", c->command, NULL};
    struct side_by_side grid = grid_of(c, cells);
    grid.metadata = metadata;
    grid.progress = (struct progress){on_write_step, &listener};
    for (int32_t i = 0; i < grid.count; i++) {
        describe_cell(c, i, details[i], sizeof details[i]);
        cells[i] =
            (struct side_by_side_cell){c->variants[i].label, details[i], c->variants[i].frames};
    }
    begin(job, job->variant_count, "side by side");
    if (side_by_side_write(c->side_by_side, &grid, error))
        return true;
    free(c->side_by_side);
    c->side_by_side = NULL;
    return false;
}

static bool write_text(const struct output_file *output, const char *text, struct error *error)
{
    FILE *file = fopen(output->temporary, "wb");
    bool ok = file && fputs(text, file) >= 0 && fputc('\n', file) != EOF;
    int reason = errno;
    if (file && fclose(file) != 0 && ok) {
        reason = errno;
        ok = false;
    }
    return ok || error_set(error, "output '%s': %s", output->target, output_file_reason(reason));
}

static bool write_json(const struct compare_job *job, struct comparison *c, struct error *error)
{
    struct output_file file;
    char *text = comparison_json(c);
    if (!text)
        return error_out_of_memory(error, "the figures", 1 << 20);
    bool ok = output_file_create(&file, job->json, error);
    if (ok && !(ok = write_text(&file, text, error)))
        output_file_discard(&file);
    ok = ok && output_file_commit(&file, error);
    free(text);
    return ok;
}

static bool write_report(const struct compare_job *job, struct comparison *c, struct error *error)
{
    begin(job, job->variant_count, "report");
    bool ok = report_write(job->report, c, error);
    c->page = ok ? job->report : NULL;
    return ok;
}

/* All that can be written is; the message has every file that cannot. */
static bool write_files(const struct compare_job *job, struct comparison *c, struct error *error)
{
    bool (*const writers[])(const struct compare_job *, struct comparison *,
                            struct error *) = {write_grid, write_json, write_report};
    bool ok = true;
    for (size_t i = 0; i < sizeof writers / sizeof *writers && !error->interrupted; i++) {
        struct error why = {.usage = false};
        if (writers[i](job, c, &why))
            continue;
        error_append(error, "%s%s", ok ? "" : "; ", why.text);
        error->interrupted = why.interrupted;
        ok = false;
    }
    return ok;
}

bool compare_run(const struct compare_job *job, struct comparison *out, struct error *error)
{
    struct generate_text text = {0};
    bool ok = fill(job, out, error) && check(job, out, error);
    for (int64_t i = 0; ok && i < out->variant_count; i++)
        ok = run_variant(job, out, i, &text, error);
    generate_text_free(&text);
    if (!ok)
        return false;
    even_out_loading(out);
    if (out->variants[0].report.gpu)
        out->machine = out->variants[0].report.device;
    out->measured = measure_all(job, out, error);
    return out->measured && write_files(job, out, error);
}

static void free_variant(struct comparison_variant *variant)
{
    for (int64_t i = 0; i < variant->map_count; i++) {
        free(variant->maps[i].map);
        free(variant->maps[i].mask);
    }
    free(variant->maps);
    free(variant->video);
    free(variant->frames);
    free(variant->quality.psnr);
    free(variant->quality.ssim);
    free(variant->error_median);
    free(variant->error_worst);
}

void comparison_free(struct comparison *comparison)
{
    for (int64_t i = 0; i < comparison->variant_count; i++)
        free_variant(&comparison->variants[i]);
    free(comparison->variants);
    free(comparison->side_by_side);
    *comparison = (struct comparison){0};
}
