/*
 * Prompt to video, in the order it happens:
 *
 *     prompt - tokenizer - text encoder --+
 *     seed --- noise ---------------------+
 *                                         v
 *              denoise:  scheduler <-> transformer -- self-attention -> libdraftattn
 *                                         v
 *                  latents - VAE decoder - frames - FFmpeg - out.mp4
 *
 * Everything that can fail without weights is tried before the first weight is read. Each network
 * is freed before the next one is loaded, so that the largest of them decides the memory, not their
 * sum.
 */
#include "generation.h"

#include "clock.h"
#include "decode_video.h"
#include "denoise.h"
#include "io/output_file.h"
#include "io/rng.h"
#include "io/video_writer.h"
#include "latents_file.h"
#include "median.h"
#include "system_memory.h"
#include "tensor/checked.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *generate_phase_name(enum generate_phase phase)
{
    static const char *const names[PHASE_COUNT] = {"load", "text", "denoise", "decode", "write"};
    return phase < PHASE_COUNT ? names[phase] : "";
}

void generation_note(const struct generation *g, const char *text)
{
    if (g->events && g->events->note)
        g->events->note(g->events->user, text);
}

/* Takes the time of a step when its last pass is done, or the first begins. */
static void time_passes(struct generation *g, int64_t done)
{
    const int64_t passes = g->guided ? 2 : 1;
    struct generation_times *times = &g->times;
    if (g->phase != PHASE_DENOISE || done % passes != 0)
        return;
    double now = clock_seconds();
    int32_t step = (int32_t)(done / passes) - 1, dense = 0;
    if (step >= g->report->first_step) {
        const draftattn_step place = {.step = step,
                                      .steps = (int32_t)g->settings->steps,
                                      .layer = -1,
                                      .sigma = (float)scheduler_sigma(g->scheduler, step)};
        float seconds = (float)(now - times->start - (g->kept.seconds - times->kept));
        draftattn_plan_is_dense(self_attention_plan(g->attend), &place, &dense);
        if (dense)
            times->dense[g->report->dense_steps++] = seconds;
        else
            times->sparse[g->report->sparse_steps++] = seconds;
    }
    times->start = now;
    times->kept = g->kept.seconds;
}

static bool step(void *user, int64_t done, int64_t total)
{
    struct generation *g = user;
    time_passes(g, done);
    int64_t taken = runtime_taken(&g->runtime);
    if (taken > g->report->device_peak)
        g->report->device_peak = taken;
    return !g->events || !g->events->step ||
           g->events->step(g->events->user, g->phase, done, total);
}

struct progress generation_enter(struct generation *g, enum generate_phase phase)
{
    g->phase = phase;
    return (struct progress){step, g};
}

/* ---- before the work ------------------------------------------------------------------------- */

static bool open_runtime(struct generation *g, const struct runtime_desc *desc, struct error *error)
{
    struct generate_report *report = g->report;
    if (!runtime_open(&g->runtime, desc, error))
        return false;
    if (g->runtime.why_cpu[0])
        generation_note(g, g->runtime.why_cpu);
    report->backend = draftattn_backend_name(draftattn_context_backend(g->runtime.context));
    memcpy(report->device, g->runtime.name, sizeof report->device);
    report->gpu = g->runtime.gpu;
    report->offload = g->runtime.desc.offload;
    report->activations = g->runtime.activations;
    return true;
}

static bool make_plan(struct generation *g, struct error *error)
{
    const struct generate_settings *s = g->settings;
    int64_t host = system_memory_available();
    host = host > s->held_bytes ? host - s->held_bytes : 0;
    g->query = (struct memory_query){
        .model = g->model,
        .width = s->width,
        .height = s->height,
        .frames = s->frames,
        .guided = g->guided,
        .tile = s->tile,
        .context = g->runtime.context,
        .attention = s->attention,
        .available = g->runtime.gpu ? runtime_available(&g->runtime) : host,
        .gpu = g->runtime.gpu,
        .activations = g->runtime.activations,
        .offload = g->runtime.desc.offload,
        .host_available = host,
    };
    return memory_plan_make(&g->report->memory, &g->query, error);
}

/* The GPU that was only the best choice is too small. */
static bool fall_back(struct generation *g, const struct error *why, struct error *error)
{
    char text[sizeof why->text + 64];
    struct runtime_desc desc = g->settings->runtime;
    desc.kind = RUNTIME_CPU;
    snprintf(text, sizeof text, "this runs on the CPU: %s", why->text);
    generation_note(g, text);
    runtime_close(&g->runtime);
    return open_runtime(g, &desc, error) && make_plan(g, error);
}

static bool plan_memory(struct generation *g, struct error *error)
{
    const struct memory_plan *plan = &g->report->memory;
    if (!make_plan(g, error))
        return false;
    if (!memory_plan_fits(plan, &g->query) && g->runtime.gpu && g->runtime.chosen) {
        struct error why = {.usage = false};
        memory_plan_refuse(plan, &g->query, &why);
        if (!fall_back(g, &why, error))
            return false;
    }
    g->attention = memory_plan_attention(&g->query);
    g->report->tokens =
        g->attention.grid.frames * g->attention.grid.height * g->attention.grid.width;
    return memory_plan_fits(plan, &g->query) || memory_plan_refuse(plan, &g->query, error);
}

/* Says what will be held in memory, which kernel will attend, and what it does in the last step. */
static bool announce(struct generation *g, struct error *error)
{
    draftattn_plan *plan = NULL;
    draftattn_plan_info info;
    char text[1024];
    const int32_t steps = (int32_t)g->settings->steps;
    const draftattn_step last = {.step = steps - 1, .steps = steps, .layer = 0, .sigma = -1};
    memory_plan_describe(&g->report->memory, &g->query, text, sizeof text);
    generation_note(g, text);
    if (g->model->synthetic)
        generation_note(g, "the weights are random: the video will be noise; time and memory are "
                           "those of the real model");
    if (draftattn_plan_create(&plan, g->runtime.context, &g->attention) != DRAFTATTN_SUCCESS ||
        draftattn_plan_info_get(plan, &info) != DRAFTATTN_SUCCESS) {
        draftattn_plan_destroy(plan);
        return error_set(error, "attention: %s", draftattn_context_last_error(g->runtime.context));
    }
    g->report->kernel = info.kernel_name;
    draftattn_plan_describe(plan, &last, text, sizeof text);
    draftattn_plan_destroy(plan);
    generation_note(g, text);
    return true;
}

/* Opens every network's files and checks the one that comes last, so that a damaged one is found
 * before the long work and not after it. */
static bool check_weights(const struct generation *g, struct error *error)
{
    const struct model_folder *folder = &g->model->folder;
    const char *const paths[] = {folder->text_encoder, folder->transformer};
    if (g->model->synthetic)
        return true;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct checkpoint *weights = NULL;
        if (!checkpoint_open(&weights, paths[i], error))
            return false;
        checkpoint_close(weights);
    }
    return decode_video_check(g->model, error);
}

/* What could not be kept would be lost. A state to go on with is there already, and may lie where
 * nothing can be written. */
static bool check_state(const struct generation *g, struct error *error)
{
    const char *state = g->settings->state;
    struct error why = {.usage = false};
    char text[sizeof why.text + 64];
    if (!state || output_file_check(state, &why))
        return true;
    if (!g->settings->resume)
        return error_set(error, "the state of the run could not be kept: %s", why.text);
    snprintf(text, sizeof text, "the state stays as it is: %s", why.text);
    generation_note(g, text);
    return true;
}

static bool check_outputs(struct generation *g, struct error *error)
{
    const struct generate_settings *s = g->settings;
    const struct video_desc desc = {
        .width = (int32_t)s->width,
        .height = (int32_t)s->height,
        .frames = s->frames,
        .fps = s->fps,
        .crf_offset = s->crf_offset,
    };
    if (s->save_latents && output_file_same(s->save_latents, s->output))
        return error_set_usage(error, "--save-latents '%s' is the output too; name another file",
                               s->save_latents);
    if (s->save_latents && s->state && output_file_same(s->save_latents, s->state))
        return error_set_usage(error,
                               "--save-latents '%s' is where the state is kept; name "
                               "another file",
                               s->save_latents);
    if (s->save_latents && s->noise_file && output_file_same(s->save_latents, s->noise_file))
        return error_set_usage(error,
                               "--save-latents '%s' is the --noise file too; name another file",
                               s->save_latents);
    if (s->state && output_file_same(s->output, s->state)) /* which goes when the video is there */
        return error_set_usage(error,
                               "output '%s' is the file that the state is kept in; name another "
                               "output",
                               s->output);
    if (s->save_latents && !output_file_check(s->save_latents, error))
        return error_prefix(error, "--save-latents: ");
    if (!video_writer_check(s->output, &desc, error) || !check_state(g, error))
        return false;
    g->report->encoder = video_writer_encoder(s->output);
    return true;
}

/* elements 0 = only to be asked about. */
static bool make_scheduler(struct generation *g, int64_t elements, struct error *error)
{
    const struct scheduler_desc desc = {
        .sampler = g->settings->sampler,
        .steps = (int32_t)g->settings->steps,
        .flow_shift = g->settings->flow_shift,
        .table = g->model->folder.layout == MODEL_LAYOUT_DIFFUSERS ? SCHEDULER_TABLE_DIFFUSERS
                                                                   : SCHEDULER_TABLE_WAN,
    };
    return scheduler_create(&g->scheduler, &desc, elements, g->runtime.ops, g->runtime.device,
                            error);
}

static void drop_scheduler(struct generation *g)
{
    scheduler_destroy(g->scheduler);
    g->scheduler = NULL;
}

/* A run that does not go on with the state that lies there. */
static void note_earlier_state(const struct generation *g)
{
    const char *state = g->settings->state;
    char text[MODEL_PATH_MAX + 256];
    if (!state || access(state, F_OK) != 0)
        return;
    snprintf(text, sizeof text,
             "%s is there from an earlier run, which --resume goes on with; this run keeps its own "
             "state there, once a minute and where it is interrupted: rename the file if it is "
             "wanted",
             state);
    generation_note(g, text);
}

/* What the state holds is what this run goes on with. */
static bool check_resume(struct generation *g, struct error *error)
{
    const struct generate_settings *s = g->settings;
    const struct run_state *state = s->resume;
    const struct runtime_desc *was = state ? &state->settings.runtime : NULL;
    const struct runtime_desc *is = &g->runtime.desc;
    if (!state) {
        note_earlier_state(g);
        return true;
    }
    if (was->kind != is->kind || was->precision != is->precision)
        generation_note(g, "the run began on another device: the video will differ a little from "
                           "what it would have been there");
    if (memcmp(state->shape, g->shape, sizeof g->shape) != 0)
        return error_set(error, "%s: its latents are not of the size that it names", state->path);
    if (state->step == s->steps)
        return true;
    if (!make_scheduler(g, 0, error))
        return false;
    int count = scheduler_history_count(g->scheduler);
    drop_scheduler(g);
    return state->history_count == count ||
           error_set(error,
                     "%s: holds %d tensors of the sampler's history, '%s' takes %d: it was "
                     "changed, or made by another version",
                     state->path, state->history_count, s->sampler, count);
}

/* For the files: the settings, and the device, which the bits depend on. */
static void describe(struct generation *g)
{
    const struct runtime_desc *runtime = &g->runtime.desc;
    char device[16];
    int length = generate_settings_describe(g->settings, model_name(g->model), g->comment,
                                            sizeof g->comment);
    runtime_kind_describe(runtime, device, sizeof device);
    if (length >= 0 && (size_t)length < sizeof g->comment)
        snprintf(g->comment + length, sizeof g->comment - (size_t)length, "; device %s, %s", device,
                 runtime_precision_name(runtime->precision));
}

static bool prepare(struct generation *g, struct error *error)
{
    const struct generate_settings *s = g->settings;
    g->guided = s->guidance > 1;
    g->shape[0] = g->model->transformer.in_channels;
    g->shape[1] = (s->frames - 1) / MODEL_VAE_STRIDE_TIME + 1;
    g->shape[2] = s->height / MODEL_VAE_STRIDE;
    g->shape[3] = s->width / MODEL_VAE_STRIDE;
    g->elements = g->shape[0] * g->shape[1] * g->shape[2] * g->shape[3];
    g->report->first_step = s->resume ? s->resume->step : 0;
    if (!open_runtime(g, &s->runtime, error) || !plan_memory(g, error))
        return false;
    describe(g);
    return check_outputs(g, error) && check_resume(g, error) && announce(g, error);
}

/* ---- noise and denoising --------------------------------------------------------------------- */

/* Noise, or what an earlier run has made of it. */
static bool first_latents(struct generation *g, struct error *error)
{
    const char *file = g->settings->noise_file;
    const struct run_state *state = g->settings->resume;
    if (state || !file) {
        size_t bytes = 0;
        if (!checked_bytes(g->shape, 4, sizeof(float), &bytes) || !(g->latents = malloc(bytes)))
            return error_out_of_memory(error, "latents", bytes);
        if (state)
            memcpy(g->latents, state->latents, bytes);
        else
            rng_normal(g->settings->seed, g->latents, g->elements);
        return true;
    }
    int64_t shape[4];
    if (!latents_read(file, g->shape[0], &g->latents, shape, error))
        return error_prefix(error, "--noise: ");
    if (memcmp(shape, g->shape, sizeof shape) != 0)
        return error_set_usage(
            error,
            "--noise: %s holds %" PRId64 " x %" PRId64 " x %" PRId64
            " (frames, height, width), this size takes %" PRId64 " x %" PRId64 " x %" PRId64,
            file, shape[1], shape[2], shape[3], g->shape[1], g->shape[2], g->shape[3]);
    return true;
}

static bool load_transformer(struct generation *g, struct wan_transformer **out,
                             struct error *error)
{
    const struct model *model = g->model;
    const struct runtime *r = &g->runtime;
    struct checkpoint *weights = NULL;
    struct progress progress = generation_enter(g, PHASE_LOAD);
    double start = clock_seconds();
    bool ok = model_open_weights(&weights, model->folder.transformer,
                                 model->folder.rename_transformer, error) &&
              wan_transformer_load(out, &model->transformer, weights, r->ops, r->device, &progress,
                                   error) &&
              r->ops->synchronise(r->device, error);
    checkpoint_close(weights);
    g->report->seconds[PHASE_LOAD] += clock_seconds() - start;
    return ok;
}

static bool embed_prompt(struct generation *g, struct wan_transformer *transformer,
                         const struct generate_prompt *prompt, struct wan_context **out,
                         struct error *error)
{
    return wan_context_create(out, transformer, prompt->rows, prompt->count,
                              g->model->transformer.text_len, NULL, 0, error);
}

static void listen(void *user, const draftattn_step *step)
{
    const struct generation *g = user;
    g->events->attention(g->events->user, g->attend, step);
}

static double median(float *seconds, int64_t count)
{
    return count ? median_sort(seconds, (size_t)count) : NAN;
}

/* The loop itself, with its times. */
static bool run_loop(struct generation *g, struct denoise *loop, struct error *error)
{
    size_t bytes = (size_t)g->settings->steps * sizeof(float);
    struct generation_times *times = &g->times;
    struct progress progress = generation_enter(g, PHASE_DENOISE);
    times->dense = malloc(bytes);
    times->sparse = malloc(bytes);
    if (!times->dense || !times->sparse)
        return error_out_of_memory(error, "the steps' times", 2 * bytes);
    if (g->settings->state) {
        g->kept.written = clock_seconds(); /* the first minute begins */
        loop->due = generation_save_due;
        loop->saved = generation_save;
        loop->saved_user = g;
    }
    if (g->settings->resume) {
        loop->first_step = (int32_t)g->settings->resume->step;
        loop->history = (const float *const *)g->settings->resume->history;
    }
    if (g->events && g->events->attention)
        self_attention_set_listener(g->attend, listen, g);
    if (!denoise_run(loop, g->latents, &progress, error))
        return false;
    self_attention_report_get(g->attend, &g->report->attention);
    g->report->dense_step_seconds = median(times->dense, g->report->dense_steps);
    g->report->sparse_step_seconds = median(times->sparse, g->report->sparse_steps);
    return true;
}

/* Runs the loop with what is loaded. */
static bool run_steps(struct generation *g, struct wan_transformer *transformer,
                      struct error *error)
{
    const struct runtime *r = &g->runtime;
    struct wan_context *prompt = NULL, *negative = NULL;
    double start = clock_seconds();
    bool ok =
        embed_prompt(g, transformer, &g->text->prompt, &prompt, error) &&
        (!g->guided || embed_prompt(g, transformer, &g->text->negative, &negative, error)) &&
        make_scheduler(g, g->elements, error) &&
        self_attention_create(&g->attend, r->context, &g->attention,
                              (int32_t)g->model->transformer.layers, r->ops, r->device, error);
    if (ok) {
        struct denoise loop = {
            .ops = r->ops,
            .device = r->device,
            .transformer = transformer,
            .prompt = prompt,
            .negative = negative,
            .guidance = g->settings->guidance,
            .scheduler = g->scheduler,
            .attention = g->attend,
            .frames = g->shape[1],
            .height = g->shape[2],
            .width = g->shape[3],
        };
        ok = run_loop(g, &loop, error);
    }
    self_attention_destroy(g->attend);
    g->attend = NULL;
    drop_scheduler(g);
    wan_context_free(negative);
    wan_context_free(prompt);
    g->report->seconds[PHASE_DENOISE] = clock_seconds() - start;
    g->report->step_seconds =
        g->report->seconds[PHASE_DENOISE] / (double)(g->settings->steps - g->report->first_step);
    return ok;
}

static bool denoise(struct generation *g, struct error *error)
{
    struct wan_transformer *transformer = NULL;
    if (g->report->first_step < g->settings->steps) {
        bool ok = generation_prepare_text(g, error) && load_transformer(g, &transformer, error) &&
                  run_steps(g, transformer, error);
        wan_transformer_free(transformer);
        if (!ok)
            return false;
    }
    g->denoised = true;
    return true;
}

/* ---- latents and video ----------------------------------------------------------------------- */

static bool save_latents(struct generation *g, const char *path, struct error *error)
{
    char fps[32];
    const char *const metadata[] = {"prompt",
                                    g->settings->prompt,
                                    "negative_prompt",
                                    g->settings->negative_prompt,
                                    "fps",
                                    fps,
                                    "settings",
                                    g->comment,
                                    NULL};
    snprintf(fps, sizeof fps, "%.17g", g->settings->fps);
    return latents_write(path, g->latents, g->shape, metadata, error);
}

static bool decode(struct generation *g, struct error *error)
{
    const char *const metadata[] = {"title", g->settings->prompt, "comment", g->comment, NULL};
    const struct decode_video job = {
        .model = g->model,
        .ops = g->runtime.ops,
        .device = g->runtime.device,
        .latents = g->latents,
        .frames = g->shape[1],
        .height = g->shape[2],
        .width = g->shape[3],
        .tiling = g->report->memory.tiling,
        .output = g->settings->output,
        .fps = g->settings->fps,
        .crf_offset = g->settings->crf_offset,
        .metadata = metadata,
        .progress = generation_enter(g, PHASE_DECODE),
        .frame = g->events ? g->events->frame : NULL,
        .frame_user = g->events ? g->events->user : NULL,
    };
    struct decode_video_times times;
    bool ok = decode_video(&job, &times, error);
    g->report->seconds[PHASE_LOAD] += times.load;
    g->report->seconds[PHASE_DECODE] = times.decode;
    g->report->seconds[PHASE_WRITE] = times.write;
    return ok;
}

static struct generation begin(const struct model *model, const struct generate_settings *settings,
                               const struct generate_events *events, struct generate_report *report)
{
    *report = (struct generate_report){.encoder = "",
                                       .backend = "",
                                       .kernel = "",
                                       .step_seconds = NAN,
                                       .dense_step_seconds = NAN,
                                       .sparse_step_seconds = NAN,
                                       .attention = {.density = NAN,
                                                     .density_all = NAN,
                                                     .error_median = NAN,
                                                     .error_worst = NAN,
                                                     .repaired_share = NAN}};
    return (struct generation){
        .model = model,
        .settings = settings,
        .events = events,
        .report = report,
        .text = settings->text,
    };
}

static void end(struct generation *g)
{
    free(g->latents);
    free(g->times.dense);
    free(g->times.sparse);
    runtime_close(&g->runtime);
}

bool generate_check(const struct model *model, const struct generate_settings *settings,
                    struct error *error)
{
    struct generate_report report;
    struct generation g = begin(model, settings, NULL, &report);
    bool ok = prepare(&g, error);
    end(&g);
    return ok;
}

bool generate_run(const struct model *model, const struct generate_settings *settings,
                  const struct generate_events *events, struct generate_report *report,
                  struct error *error)
{
    double start = clock_seconds();
    struct generate_text own_text = {0};
    struct generation g = begin(model, settings, events, report);
    if (!g.text)
        g.text = &own_text;
    bool ok = prepare(&g, error) && check_weights(&g, error) && first_latents(&g, error) &&
              denoise(&g, error) &&
              (!settings->save_latents || save_latents(&g, settings->save_latents, error)) &&
              decode(&g, error);
    if (ok)
        generation_forget(&g);
    else
        generation_rescue(&g, error);
    generate_text_free(&own_text);
    end(&g);
    report->total_seconds += clock_seconds() - start;
    report->memory_peak = system_memory_peak();
    return ok;
}
