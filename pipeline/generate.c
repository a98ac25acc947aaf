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
#include "generate.h"

#include "clock.h"
#include "decode_video.h"
#include "denoise.h"
#include "io/output_file.h"
#include "io/rng.h"
#include "io/tokenizer.h"
#include "io/video_writer.h"
#include "latents_file.h"
#include "system_memory.h"
#include "tensor/checked.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct generation {
    const struct model *model;
    const struct generate_settings *settings;
    const struct generate_events *events;
    struct generate_report *report;
    const struct ops *ops;
    struct device *device;
    draftattn_context *context;
    draftattn_plan_desc attention;
    struct self_attention *attend; /* while it denoises */
    struct generate_text *text;
    bool guided;
    int64_t shape[4]; /* of the latents */
    int64_t elements;
    float *latents;
    char comment[1024];
    enum generate_phase phase; /* that progress reports are about */
};

const char *generate_phase_name(enum generate_phase phase)
{
    static const char *const names[PHASE_COUNT] = {"load", "text", "denoise", "decode", "write"};
    return phase < PHASE_COUNT ? names[phase] : "";
}

static void note(const struct generation *g, const char *text)
{
    if (g->events && g->events->note)
        g->events->note(g->events->user, text);
}

static bool step(void *user, int64_t done, int64_t total)
{
    const struct generation *g = user;
    return !g->events || !g->events->step ||
           g->events->step(g->events->user, g->phase, done, total);
}

static struct progress enter(struct generation *g, enum generate_phase phase)
{
    g->phase = phase;
    return (struct progress){step, g};
}

/* ---- before the work ------------------------------------------------------------------------- */

static bool open_devices(struct generation *g, struct error *error)
{
    draftattn_context_desc desc = draftattn_context_desc_default();
    desc.backend = g->settings->backend;
    desc.threads = g->settings->threads;
    desc.device = -1; /* the networks run on the CPU, so its memory is where attention works */
    if (draftattn_context_create(&g->context, &desc) != DRAFTATTN_SUCCESS) {
        error_set_usage(error, "%s", draftattn_context_last_error(NULL));
        if (desc.backend != DRAFTATTN_BACKEND_AUTO)
            error_prefix(error, "--backend %s: ", draftattn_backend_name(desc.backend));
        return false;
    }
    g->report->backend = draftattn_backend_name(draftattn_context_backend(g->context));
    return g->ops->create(&g->device, g->settings->threads, error);
}

static bool plan_memory(struct generation *g, struct error *error)
{
    const struct generate_settings *s = g->settings;
    int64_t available = system_memory_available();
    const struct memory_query query = {
        .model = g->model,
        .width = s->width,
        .height = s->height,
        .frames = s->frames,
        .guided = g->guided,
        .tile = s->tile,
        .context = g->context,
        .attention = s->attention,
        .available = available > s->held_bytes ? available - s->held_bytes : 0,
    };
    struct memory_plan *plan = &g->report->memory;
    if (!memory_plan_make(plan, &query, error))
        return false;
    g->attention = memory_plan_attention(&query);
    g->report->tokens =
        g->attention.grid.frames * g->attention.grid.height * g->attention.grid.width;
    if (plan->peak <= query.available)
        return true;
    int64_t width = 0, height = 0;
    const double gib = 1073741824.0;
    bool fits = memory_plan_fit(&query, &width, &height);
    error_set(error,
              "not enough memory for %" PRId64 "x%" PRId64 ", %" PRId64
              " frames: about %.2f GiB are needed, %.2f GiB are available; ",
              s->width, s->height, s->frames, plan->peak / gib, query.available / gib);
    if (fits)
        return error_append(error, "--size %" PRId64 "x%" PRId64 " would fit, or fewer --frames",
                            width, height);
    if (plan->weights > query.available)
        return error_append(error, "the weights of this model alone take %.1f GiB: no size fits",
                            plan->weights / gib);
    return error_append(error, "no size fits with so many frames; ask for fewer --frames");
}

/* Says what will be held in memory, which kernel will attend, and what it does in the last step. */
static bool announce(struct generation *g, struct error *error)
{
    draftattn_plan *plan = NULL;
    draftattn_plan_info info;
    char text[1024];
    const int32_t steps = (int32_t)g->settings->steps;
    const draftattn_step last = {.step = steps - 1, .steps = steps, .layer = 0, .sigma = -1};
    memory_plan_describe(&g->report->memory, system_memory_available(), text, sizeof text);
    note(g, text);
    if (draftattn_plan_create(&plan, g->context, &g->attention) != DRAFTATTN_SUCCESS ||
        draftattn_plan_info_get(plan, &info) != DRAFTATTN_SUCCESS) {
        draftattn_plan_destroy(plan);
        return error_set(error, "attention: %s", draftattn_context_last_error(g->context));
    }
    g->report->kernel = info.kernel_name;
    draftattn_plan_describe(plan, &last, text, sizeof text);
    draftattn_plan_destroy(plan);
    note(g, text);
    return true;
}

/* Opens every network's files and checks the one that comes last, so that a damaged one is found
 * before the long work and not after it. */
static bool check_weights(const struct generation *g, struct error *error)
{
    const struct model_folder *folder = &g->model->folder;
    const char *const paths[] = {folder->text_encoder, folder->transformer};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct checkpoint *weights = NULL;
        if (!checkpoint_open(&weights, paths[i], error))
            return false;
        checkpoint_close(weights);
    }
    return decode_video_check(g->model, error);
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
    if (s->save_latents && !output_file_check(s->save_latents, error))
        return error_prefix(error, "--save-latents: ");
    if (!video_writer_check(s->output, &desc, error))
        return false;
    g->report->encoder = video_writer_encoder(s->output);
    return true;
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
    const char *slash = strrchr(g->model->folder.root, '/');
    generate_settings_describe(s, slash && slash[1] ? slash + 1 : g->model->folder.root, g->comment,
                               sizeof g->comment);
    return open_devices(g, error) && plan_memory(g, error) && check_outputs(g, error) &&
           announce(g, error);
}

/* ---- prompt ---------------------------------------------------------------------------------- */

static bool tokenize_one(struct generation *g, const struct tokenizer *tokenizer, const char *flag,
                         const char *text, struct generate_prompt *out, struct error *error)
{
    int64_t limit = g->model->transformer.text_len, cut = 0;
    out->ids = calloc((size_t)limit, sizeof *out->ids);
    if (!out->ids)
        return error_out_of_memory(error, "prompt tokens", (size_t)limit * sizeof *out->ids);
    if (!tokenizer_prompt(tokenizer, text, out->ids, limit, &out->count, &cut, error)) {
        error->usage = true;
        return error_prefix(error, "%s: ", flag);
    }
    for (int64_t i = 0; i < out->count; i++)
        if (out->ids[i] < 0 || out->ids[i] >= g->model->text.vocab)
            return error_set(
                error,
                "%s: token id %d of %s is outside the text encoder's vocabulary of %" PRId64
                "; the tokenizer and the encoder are not of one model",
                g->model->folder.tokenizer, out->ids[i], flag, g->model->text.vocab);
    if (cut > 0) {
        char message[160];
        snprintf(message, sizeof message,
                 "%s is %" PRId64 " tokens longer than the %" PRId64
                 " this model takes; its end is cut",
                 flag, cut, limit);
        note(g, message);
    }
    return true;
}

static bool tokenize(struct generation *g, struct error *error)
{
    struct tokenizer *tokenizer = NULL;
    const struct generate_settings *s = g->settings;
    bool ok = tokenizer_open(&tokenizer, g->model->folder.tokenizer, error) &&
              tokenize_one(g, tokenizer, "--prompt", s->prompt, &g->text->prompt, error) &&
              (!g->guided || tokenize_one(g, tokenizer, "--negative-prompt", s->negative_prompt,
                                          &g->text->negative, error));
    tokenizer_close(tokenizer);
    return ok;
}

static bool encode_one(struct generation *g, struct umt5 *encoder, struct generate_prompt *prompt,
                       struct error *error)
{
    size_t bytes = (size_t)prompt->count * (size_t)g->model->text.width * sizeof(float);
    prompt->rows = malloc(bytes);
    if (!prompt->rows)
        return error_out_of_memory(error, "the encoded prompt", bytes);
    return umt5_encode(encoder, prompt->ids, prompt->count, prompt->rows, error);
}

static bool encode_text(struct generation *g, struct error *error)
{
    const struct model *model = g->model;
    struct checkpoint *weights = NULL;
    struct umt5 *encoder = NULL;
    double start = clock_seconds();
    struct progress progress = enter(g, PHASE_LOAD);
    bool ok = model_open_weights(&weights, model->folder.text_encoder,
                                 model->folder.rename_text_encoder, error) &&
              umt5_load(&encoder, &model->text, weights, g->ops, g->device, &progress, error);
    double loaded = clock_seconds();
    progress = enter(g, PHASE_TEXT);
    ok = ok && progress_step(&progress, 0, 2, error) &&
         encode_one(g, encoder, &g->text->prompt, error) && progress_step(&progress, 1, 2, error) &&
         (!g->guided || encode_one(g, encoder, &g->text->negative, error)) &&
         progress_step(&progress, 2, 2, error);
    umt5_free(encoder);
    checkpoint_close(weights);
    g->text->encoded = ok;
    g->text->load_seconds = loaded - start;
    g->text->encode_seconds = clock_seconds() - loaded;
    return ok;
}

/* Encodes the prompts, or takes them from an earlier run with what they took then. */
static bool prepare_text(struct generation *g, struct error *error)
{
    bool ready = g->text->encoded;
    if (!ready && !(tokenize(g, error) && encode_text(g, error)))
        return false;
    g->report->seconds[PHASE_LOAD] += g->text->load_seconds;
    g->report->seconds[PHASE_TEXT] += g->text->encode_seconds;
    if (ready)
        g->report->total_seconds += g->text->load_seconds + g->text->encode_seconds;
    return true;
}

void generate_text_free(struct generate_text *text)
{
    free(text->prompt.ids);
    free(text->prompt.rows);
    free(text->negative.ids);
    free(text->negative.rows);
    *text = (struct generate_text){0};
}

/* ---- noise and denoising --------------------------------------------------------------------- */

static bool draw_noise(struct generation *g, struct error *error)
{
    const char *file = g->settings->noise_file;
    if (!file) {
        size_t bytes = 0;
        if (!checked_bytes(g->shape, 4, sizeof(float), &bytes) || !(g->latents = malloc(bytes)))
            return error_out_of_memory(error, "latents", bytes);
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
    struct checkpoint *weights = NULL;
    struct progress progress = enter(g, PHASE_LOAD);
    double start = clock_seconds();
    bool ok = model_open_weights(&weights, model->folder.transformer,
                                 model->folder.rename_transformer, error) &&
              wan_transformer_load(out, &model->transformer, weights, g->ops, g->device, &progress,
                                   error);
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

static bool make_scheduler(struct generation *g, struct scheduler **out, struct error *error)
{
    const struct scheduler_desc desc = {
        .sampler = g->settings->sampler,
        .steps = (int32_t)g->settings->steps,
        .flow_shift = g->settings->flow_shift,
        .table = g->model->folder.layout == MODEL_LAYOUT_DIFFUSERS ? SCHEDULER_TABLE_DIFFUSERS
                                                                   : SCHEDULER_TABLE_WAN,
    };
    return scheduler_create(out, &desc, g->elements, error);
}

static void tap(void *user, const draftattn_step *step, const float *q, const float *k,
                const float *v, int64_t qkv_stride, const float *o, int64_t o_stride)
{
    const struct generation *g = user;
    (void)v, (void)o, (void)o_stride;
    g->events->attention(g->events->user, g->attend, step, q, k, qkv_stride);
}

/* Runs the loop with what is loaded. */
static bool run_steps(struct generation *g, struct wan_transformer *transformer,
                      struct error *error)
{
    struct wan_context *prompt = NULL, *negative = NULL;
    struct scheduler *scheduler = NULL;
    struct progress progress = enter(g, PHASE_DENOISE);
    double start = clock_seconds();
    bool ok = embed_prompt(g, transformer, &g->text->prompt, &prompt, error) &&
              (!g->guided || embed_prompt(g, transformer, &g->text->negative, &negative, error)) &&
              make_scheduler(g, &scheduler, error) &&
              self_attention_create(&g->attend, g->context, &g->attention, error);
    if (ok) {
        const struct denoise loop = {
            .transformer = transformer,
            .prompt = prompt,
            .negative = negative,
            .guidance = g->settings->guidance,
            .scheduler = scheduler,
            .attention = g->attend,
            .frames = g->shape[1],
            .height = g->shape[2],
            .width = g->shape[3],
        };
        if (g->events && g->events->attention)
            self_attention_set_tap(g->attend, tap, g);
        ok = denoise_run(&loop, g->latents, &progress, error);
        self_attention_report_get(g->attend, &g->report->attention);
    }
    self_attention_destroy(g->attend);
    g->attend = NULL;
    scheduler_destroy(scheduler);
    wan_context_free(negative);
    wan_context_free(prompt);
    g->report->seconds[PHASE_DENOISE] = clock_seconds() - start;
    g->report->step_seconds = g->report->seconds[PHASE_DENOISE] / (double)g->settings->steps;
    return ok;
}

static bool denoise(struct generation *g, struct error *error)
{
    struct wan_transformer *transformer = NULL;
    bool ok = load_transformer(g, &transformer, error) && run_steps(g, transformer, error);
    wan_transformer_free(transformer);
    return ok;
}

/* ---- latents and video ----------------------------------------------------------------------- */

static bool save_latents(struct generation *g, const char *path, struct error *error)
{
    const char *const metadata[] = {"prompt",
                                    g->settings->prompt,
                                    "negative_prompt",
                                    g->settings->negative_prompt,
                                    "settings",
                                    g->comment,
                                    NULL};
    return latents_write(path, g->latents, g->shape, metadata, error);
}

/* What took so long to make is kept where decoding failed, and the message says so. */
static void rescue_latents(struct generation *g, struct error *error)
{
    char path[MODEL_PATH_MAX + 64];
    const char *saved = g->settings->save_latents;
    struct error why = {0};
    if (!saved) {
        int length = snprintf(path, sizeof path, "%s.latents.safetensors", g->settings->output);
        if (length < 0 || (size_t)length >= sizeof path || !save_latents(g, path, &why)) {
            error_append(error,
                         "; the latents could not be kept either (%s): --save-latents puts "
                         "them elsewhere",
                         why.text);
            return;
        }
        saved = path;
    }
    error_append(error,
                 "; the latents are kept: 'draftattn decode %s -m %s -o FILE' goes on from there",
                 saved, g->model->folder.root);
}

static bool decode(struct generation *g, struct error *error)
{
    const char *const metadata[] = {"title", g->settings->prompt, "comment", g->comment, NULL};
    const struct decode_video job = {
        .model = g->model,
        .ops = g->ops,
        .device = g->device,
        .latents = g->latents,
        .frames = g->shape[1],
        .height = g->shape[2],
        .width = g->shape[3],
        .tiling = g->report->memory.tiling,
        .output = g->settings->output,
        .fps = g->settings->fps,
        .crf_offset = g->settings->crf_offset,
        .metadata = metadata,
        .progress = enter(g, PHASE_DECODE),
        .frame = g->events ? g->events->frame : NULL,
        .frame_user = g->events ? g->events->user : NULL,
    };
    struct decode_video_times times;
    bool ok = decode_video(&job, &times, error);
    g->report->seconds[PHASE_LOAD] += times.load;
    g->report->seconds[PHASE_DECODE] = times.decode;
    g->report->seconds[PHASE_WRITE] = times.write;
    if (!ok && !error->interrupted)
        rescue_latents(g, error);
    return ok;
}

static struct generation begin(const struct model *model, const struct generate_settings *settings,
                               const struct generate_events *events, struct generate_report *report)
{
    *report = (struct generate_report){.encoder = "", .backend = "", .kernel = ""};
    return (struct generation){
        .model = model,
        .settings = settings,
        .events = events,
        .report = report,
        .ops = &ops_cpu,
        .text = settings->text,
    };
}

static void end(struct generation *g)
{
    free(g->latents);
    if (g->device)
        g->ops->destroy(g->device);
    draftattn_context_destroy(g->context);
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
    bool ok = prepare(&g, error) && check_weights(&g, error) && draw_noise(&g, error) &&
              prepare_text(&g, error) && denoise(&g, error) &&
              (!settings->save_latents || save_latents(&g, settings->save_latents, error)) &&
              decode(&g, error);
    generate_text_free(&own_text);
    end(&g);
    report->total_seconds += clock_seconds() - start;
    report->memory_peak = system_memory_peak();
    return ok;
}
