/*
 * One generation's networks, timed. The order is a generation's: text encoder, transformer, VAE,
 * each freed before the next is loaded, on one device that was opened for all of them.
 *
 * Every row denoises a few steps with its own attention; the first is left out, because buffers,
 * tables and algorithms are made in it. Where the time goes is found in passes of their own, with
 * waiting around every operation, after all rows were timed: a network that was recorded as a whole
 * has no parts.
 */
#include "bench_end_to_end.h"

#include "clock.h"
#include "denoise.h"
#include "io/rng.h"
#include "median.h"
#include "system_memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define WARM_STEPS 1
#define MAX_PASSES (2 * (WARM_STEPS + BENCH_MAX_RUNS))

struct flow {
    const struct end_to_end_settings *settings;
    const struct generate_events *events;
    struct end_to_end_report *report;
    struct runtime runtime;
    struct device *device;         /* the runtime's, measured: see ops_profile.h */
    draftattn_plan_desc attention; /* of the size, without sparsity */
    int64_t shape[4];              /* of the latents */
    int64_t elements;
    float *latents;
    float *text; /* [text_tokens][text width], for every prompt the same */
    struct wan_transformer *transformer;
    struct wan_context *prompt, *negative;
    enum generate_phase phase;
    int64_t *peak; /* of the phase's network */
};

/* The passes of one run of the denoising loop. */
struct pass_clock {
    struct flow *flow;
    double last;
    double seconds[MAX_PASSES]; /* of the first ones */
    double total;               /* of all */
};

static void sample_memory(struct flow *f)
{
    int64_t taken = runtime_taken(&f->runtime);
    if (taken > *f->peak)
        *f->peak = taken;
}

static bool tell(struct flow *f, int64_t done, int64_t total)
{
    sample_memory(f);
    return !f->events || !f->events->step ||
           f->events->step(f->events->user, f->phase, done, total);
}

static bool step(void *user, int64_t done, int64_t total)
{
    return tell(user, done, total);
}

static struct progress enter(struct flow *f, enum generate_phase phase)
{
    f->phase = phase;
    return (struct progress){step, f};
}

static void note(const struct flow *f, const char *text)
{
    if (f->events && f->events->note)
        f->events->note(f->events->user, text);
}

/* Waits, so that what was enqueued counts. */
static bool since(struct flow *f, double start, double *seconds, struct error *error)
{
    bool ok = f->runtime.ops->synchronise(f->runtime.device, error);
    *seconds = clock_seconds() - start;
    sample_memory(f);
    return ok;
}

/* ---- before the work ------------------------------------------------------------------------- */

static bool plan_memory(struct flow *f, struct error *error)
{
    const struct generate_settings *v = &f->settings->video;
    const struct memory_query query = {
        .model = f->settings->model,
        .width = v->width,
        .height = v->height,
        .frames = v->frames,
        .guided = f->report->passes == 2,
        .tile = v->tile,
        .context = f->runtime.context,
        .attention = v->attention,
        .available = runtime_available(&f->runtime),
        .gpu = f->runtime.gpu,
        .offload = f->runtime.desc.offload,
        .activations = f->runtime.activations,
        .host_available = system_memory_available(),
    };
    struct memory_plan *plan = &f->report->memory;
    char text[1024];
    if (!memory_plan_make(plan, &query, error))
        return false;
    f->attention = memory_plan_attention(&query);
    f->attention.min_tokens = 1;
    const draftattn_grid *grid = &f->attention.grid;
    f->report->tokens = grid->frames * grid->height * grid->width;
    memory_plan_describe(plan, &query, text, sizeof text);
    note(f, text);
    return memory_plan_fits(plan, &query) || memory_plan_refuse(plan, &query, error);
}

static bool prepare(struct flow *f, struct error *error)
{
    const struct generate_settings *v = &f->settings->video;
    const struct model *model = f->settings->model;
    f->shape[0] = model->transformer.in_channels;
    f->shape[1] = (v->frames - 1) / MODEL_VAE_STRIDE_TIME + 1;
    f->shape[2] = v->height / MODEL_VAE_STRIDE;
    f->shape[3] = v->width / MODEL_VAE_STRIDE;
    f->elements = f->shape[0] * f->shape[1] * f->shape[2] * f->shape[3];
    f->report->text_tokens = model->transformer.text_len;
    f->report->passes = v->guidance > 1 ? 2 : 1;
    if (!runtime_open(&f->runtime, &v->runtime, error) ||
        !ops_profile_wrap(&f->device, f->runtime.ops, f->runtime.device, error))
        return false;
    if (f->runtime.why_cpu[0])
        note(f, f->runtime.why_cpu);
    snprintf(f->report->device, sizeof f->report->device, "%s", f->runtime.name);
    f->report->gpu = f->runtime.gpu;
    f->report->activations = f->runtime.activations;
    if (!plan_memory(f, error))
        return false;
    f->latents = malloc((size_t)f->elements * sizeof *f->latents);
    f->text =
        malloc((size_t)(f->report->text_tokens * model->transformer.text_dim) * sizeof *f->text);
    return (f->latents && f->text) ||
           error_out_of_memory(error, "latents and text", (size_t)f->elements * sizeof(float));
}

/* ---- text ------------------------------------------------------------------------------------ */

/* As many tokens as a prompt can have, so that nothing is shared among padding. */
static bool encode_prompts(struct flow *f, struct umt5 *encoder, struct error *error)
{
    const int64_t count = f->report->text_tokens;
    struct progress progress = enter(f, PHASE_TEXT);
    int32_t *ids = calloc((size_t)count, sizeof *ids);
    if (!ids)
        return error_out_of_memory(error, "prompt tokens", (size_t)count * sizeof *ids);
    for (int64_t i = 0; i < count; i++)
        ids[i] = (int32_t)(2 + i * 7919 % (f->settings->model->text.vocab - 2));
    bool ok = progress_step(&progress, 0, f->report->passes, error);
    for (int pass = 0; ok && pass < f->report->passes; pass++)
        ok = umt5_encode(encoder, ids, count, f->text, error) &&
             progress_step(&progress, pass + 1, f->report->passes, error);
    free(ids);
    return ok;
}

static bool time_text(struct flow *f, struct error *error)
{
    const struct model *model = f->settings->model;
    struct checkpoint *weights = NULL;
    struct umt5 *encoder = NULL;
    struct progress progress = enter(f, PHASE_LOAD);
    double start = clock_seconds();
    f->peak = &f->report->peak_text;
    bool ok =
        model_open_weights(&weights, model->folder.text_encoder, model->folder.rename_text_encoder,
                           error) &&
        umt5_load(&encoder, &model->text, weights, &ops_profile, f->device, &progress, error) &&
        since(f, start, &f->report->load_text, error);
    start = clock_seconds();
    ok = ok && encode_prompts(f, encoder, error) && since(f, start, &f->report->text, error);
    umt5_free(encoder);
    checkpoint_close(weights);
    return ok;
}

/* ---- transformer ----------------------------------------------------------------------------- */

static bool load_transformer(struct flow *f, struct error *error)
{
    const struct model *model = f->settings->model;
    struct checkpoint *weights = NULL;
    struct progress progress = enter(f, PHASE_LOAD);
    double start = clock_seconds();
    bool ok = model_open_weights(&weights, model->folder.transformer,
                                 model->folder.rename_transformer, error) &&
              wan_transformer_load(&f->transformer, &model->transformer, weights, &ops_profile,
                                   f->device, &progress, error) &&
              since(f, start, &f->report->load_transformer, error);
    checkpoint_close(weights);
    const int64_t count = f->report->text_tokens;
    return ok &&
           wan_context_create(&f->prompt, f->transformer, f->text, count, count, NULL, 0, error) &&
           (f->report->passes == 1 || wan_context_create(&f->negative, f->transformer, f->text,
                                                         count, count, NULL, 0, error));
}

static bool pass_done(void *user, int64_t done, int64_t total)
{
    struct pass_clock *clock = user;
    double now = clock_seconds();
    if (done > 0) {
        if (done <= MAX_PASSES)
            clock->seconds[done - 1] = now - clock->last;
        clock->total += now - clock->last;
    }
    bool go_on = tell(clock->flow, done, total);
    clock->last = clock_seconds();
    return go_on;
}

/* What a run of the denoising loop is about. */
struct run {
    draftattn_plan_desc attention;
    int64_t steps;
    bool guided;
    bool (*step)(void *user, int64_t done, int64_t total);
    void *user;
    struct self_attention_report found;
};

static bool denoise(struct flow *f, struct run *run, struct error *error)
{
    const struct end_to_end_settings *s = f->settings;
    struct self_attention *attend = NULL;
    struct scheduler *scheduler = NULL;
    const struct progress progress = {run->step, run->user};
    const struct scheduler_desc desc = {.sampler = s->video.sampler,
                                        .steps = (int32_t)run->steps,
                                        .flow_shift = s->video.flow_shift};
    enter(f, PHASE_DENOISE);
    rng_normal(BENCH_SEED, f->latents, f->elements);
    bool ok = scheduler_create(&scheduler, &desc, f->elements, &ops_profile, f->device, error) &&
              self_attention_create(&attend, f->runtime.context, &run->attention,
                                    (int32_t)s->model->transformer.layers, &ops_profile, f->device,
                                    error);
    if (ok) {
        const struct denoise loop = {
            .ops = &ops_profile,
            .device = f->device,
            .transformer = f->transformer,
            .prompt = f->prompt,
            .negative = run->guided ? f->negative : NULL,
            .guidance = s->video.guidance,
            .scheduler = scheduler,
            .attention = attend,
            .frames = f->shape[1],
            .height = f->shape[2],
            .width = f->shape[3],
        };
        ok = denoise_run(&loop, f->latents, &progress, error);
        self_attention_report_get(attend, &run->found);
    }
    self_attention_destroy(attend);
    scheduler_destroy(scheduler);
    return ok;
}

static draftattn_plan_desc row_attention(const struct flow *f, const struct end_to_end_row *row,
                                         double share)
{
    draftattn_plan_desc desc = f->attention;
    if (row->dense)
        desc.policy = DRAFTATTN_POLICY_DENSE;
    else
        desc.sparsity = row->sparsity;
    desc.dense_steps = share;
    return desc;
}

static bool time_row(struct flow *f, struct end_to_end_row *row, struct error *error)
{
    const int passes = f->report->passes, runs = f->settings->runs;
    struct pass_clock clock = {.flow = f};
    struct run run = {
        .attention = row_attention(f, row, 0),
        .steps = WARM_STEPS + runs,
        .guided = passes == 2,
        .step = pass_done,
        .user = &clock,
    };
    double steps[BENCH_MAX_RUNS];
    double *seconds = clock.seconds + (ptrdiff_t)WARM_STEPS * passes;
    if (!denoise(f, &run, error))
        return false;
    for (int i = 0; i < runs; i++)
        steps[i] = seconds[passes * i] + (passes == 2 ? seconds[passes * i + 1] : 0);
    row->step = median_sort_doubles(steps, (size_t)runs);
    row->forward = median_sort_doubles(seconds, (size_t)(passes * runs));
    row->forward_min = seconds[0];
    row->forward_max = seconds[passes * runs - 1];
    row->density = row->dense ? 1 : run.found.density;
    return true;
}

/* The first pass makes what the second one finds. */
static bool second_pass(void *user, int64_t done, int64_t total)
{
    struct flow *f = user;
    if (done == 1)
        ops_profile_begin(f->device);
    return tell(f, done, total);
}

static bool profile_row(struct flow *f, struct end_to_end_row *row, struct error *error)
{
    struct run run = {
        .attention = row_attention(f, row, 0), .steps = 2, .step = second_pass, .user = f};
    bool ok = denoise(f, &run, error);
    ops_profile_end(f->device, &row->parts);
    return ok;
}

static bool run_all_steps(struct flow *f, struct end_to_end_row *row, struct error *error)
{
    for (int i = 0; i < f->settings->share_count; i++) {
        struct pass_clock clock = {.flow = f};
        struct run run = {
            .attention = row_attention(f, row, f->settings->shares[i]),
            .steps = f->settings->video.steps,
            .guided = f->report->passes == 2,
            .step = pass_done,
            .user = &clock,
        };
        if (row->dense && i > 0)
            row->denoise[i] = row->denoise[0];
        else if (!denoise(f, &run, error))
            return false;
        else
            row->denoise[i] = clock.total;
    }
    return true;
}

static void begin_rows(struct flow *f)
{
    const struct end_to_end_settings *s = f->settings;
    for (int i = 0; i <= s->sparsity_count; i++) {
        struct end_to_end_row *row = &f->report->rows[i];
        *row = (struct end_to_end_row){.dense = i == 0};
        row->sparsity = i ? s->sparsity[i - 1] : 0;
        for (int share = 0; share < END_TO_END_MAX_SHARES; share++)
            row->denoise[share] = NAN;
    }
}

static bool kernel_name(struct flow *f, struct error *error)
{
    draftattn_plan *plan = NULL;
    draftattn_plan_info info;
    draftattn_plan_desc desc = f->attention;
    desc.in_dtype = desc.out_dtype =
        f->runtime.activations == ELEMENT_BF16 ? DRAFTATTN_BF16 : DRAFTATTN_F32;
    draftattn_status status = draftattn_plan_create(&plan, f->runtime.context, &desc);
    if (status == DRAFTATTN_SUCCESS)
        status = draftattn_plan_info_get(plan, &info);
    if (status == DRAFTATTN_SUCCESS)
        f->report->kernel = info.kernel_name;
    draftattn_plan_destroy(plan);
    return status == DRAFTATTN_SUCCESS ||
           error_set_usage(error, "attention: %s",
                           draftattn_context_last_error(f->runtime.context));
}

static void announce(const struct flow *f, const struct end_to_end_row *row, const char *what)
{
    char text[96];
    if (row->dense)
        snprintf(text, sizeof text, "dense: %s", what);
    else
        snprintf(text, sizeof text, "sparsity %g: %s", row->sparsity, what);
    note(f, text);
}

static bool time_transformer(struct flow *f, struct error *error)
{
    struct end_to_end_report *report = f->report;
    const int count = 1 + f->settings->sparsity_count;
    f->peak = &report->peak_denoise;
    begin_rows(f);
    bool ok = load_transformer(f, error);
    for (int i = 0; ok && i < count; i++) {
        announce(f, &report->rows[i], "steps");
        ok = time_row(f, &report->rows[i], error);
        report->row_count += ok;
    }
    for (int i = 0; ok && f->settings->full && i < count; i++) {
        announce(f, &report->rows[i], "all steps");
        ok = run_all_steps(f, &report->rows[i], error);
    }
    for (int i = 0; ok && i < count; i++) {
        announce(f, &report->rows[i], "where the time goes");
        ok = profile_row(f, &report->rows[i], error);
    }
    wan_context_free(f->negative);
    wan_context_free(f->prompt);
    wan_transformer_free(f->transformer);
    return ok;
}

/* ---- VAE ------------------------------------------------------------------------------------- */

static bool sink(void *user, const float *frames, int64_t count, struct error *error)
{
    (void)frames, (void)count, (void)error;
    sample_memory(user);
    return true;
}

static bool time_vae(struct flow *f, struct error *error)
{
    const struct model *model = f->settings->model;
    struct checkpoint *weights = NULL;
    struct wan_vae *vae = NULL;
    struct progress progress = enter(f, PHASE_LOAD);
    double start = clock_seconds();
    f->peak = &f->report->peak_decode;
    bool ok = model_open_weights(&weights, model->folder.vae, model->folder.rename_vae, error) &&
              wan_vae_load(&vae, &model->vae, WAN_VAE_DECODER, weights, &ops_profile, f->device,
                           &progress, error) &&
              since(f, start, &f->report->load_vae, error);
    checkpoint_close(weights);
    rng_normal(BENCH_SEED, f->latents, f->elements);
    progress = enter(f, PHASE_DECODE);
    start = clock_seconds();
    ok = ok &&
         wan_vae_decode(vae, f->latents, f->shape[1], f->shape[2], f->shape[3], true,
                        &f->report->memory.tiling, sink, f, &progress, error) &&
         since(f, start, &f->report->decode, error);
    wan_vae_free(vae);
    return ok;
}

/* ---------------------------------------------------------------------------------------------- */

bool end_to_end_run(const struct end_to_end_settings *settings,
                    const struct generate_events *events, struct end_to_end_report *report,
                    struct error *error)
{
    *report = (struct end_to_end_report){.kernel = ""};
    struct flow f = {
        .settings = settings, .events = events, .report = report, .peak = &report->peak_text};
    bool ok = prepare(&f, error) && kernel_name(&f, error) && time_text(&f, error) &&
              time_transformer(&f, error) && time_vae(&f, error);
    free(f.latents);
    free(f.text);
    if (f.device)
        ops_profile.destroy(f.device);
    runtime_close(&f.runtime);
    report->peak = system_memory_peak();
    if (report->gpu)
        report->peak = (int64_t)fmax(fmax((double)report->peak_text, (double)report->peak_denoise),
                                     (double)report->peak_decode);
    return ok;
}

struct end_to_end_generation end_to_end_generation(const struct end_to_end_settings *settings,
                                                   const struct end_to_end_report *report,
                                                   const struct end_to_end_row *row, int share)
{
    const struct end_to_end_row *first = &report->rows[0];
    double steps = (double)settings->video.steps;
    double dense = (double)lround(settings->shares[share] * steps); /* as the library rounds it */
    double dense_seconds = dense * first->step, row_seconds = (steps - dense) * row->step;
    double reckoned = dense_seconds + row_seconds;
    struct end_to_end_generation g = {
        .text = report->text, .decode = report->decode, .measured = isfinite(row->denoise[share])};
    double denoise = g.measured ? row->denoise[share] : reckoned;
    g.total = g.text + denoise + g.decode;
    for (int kind = 0; kind < PROFILE_KIND_COUNT; kind++)
        g.denoise[kind] = denoise / reckoned *
                          (dense_seconds * first->parts.seconds[kind] / first->parts.total +
                           row_seconds * row->parts.seconds[kind] / row->parts.total);
    return g;
}
