/*
 * Settings of a generation: defaults of the model, sizes rounded to what it takes, every value
 * checked. What is refused here is a mistake of use and is said before any work.
 */
#include "generate.h"

#include "io/codepoints.h"
#include "models/scheduler.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct generate_settings generate_settings_default(void)
{
    struct generate_settings settings = {
        .guidance = -1,
        .sampler = "unipc",
        .attention = draftattn_plan_desc_default(),
        .tile = VAE_TILE_AUTO,
    };
    settings.attention.sparsity = -1;
    settings.attention.probes = -1;
    return settings;
}

static void note(const struct generate_events *events, const char *text)
{
    if (events && events->note)
        events->note(events->user, text);
}

/* The multiple of step nearest to value, at least step and at most limit. */
static int64_t nearest_multiple(int64_t value, int64_t step, int64_t limit)
{
    int64_t rounded = (value + step / 2) / step * step;
    if (rounded > limit)
        rounded = limit / step * step;
    return rounded < step ? step : rounded;
}

static void round_sizes(struct generate_settings *s, const struct model *model,
                        const struct generate_events *events)
{
    const struct wan_transformer_config *t = &model->transformer;
    int64_t step_w = MODEL_VAE_STRIDE * t->patch[2], step_h = MODEL_VAE_STRIDE * t->patch[1];
    int64_t step_f = MODEL_VAE_STRIDE_TIME * t->patch[0];
    int64_t width = nearest_multiple(s->width, step_w, t->rope_max * step_w);
    int64_t height = nearest_multiple(s->height, step_h, t->rope_max * step_h);
    /* frames = 4 n + 1; with a patch of p latent frames n + 1 must divide by p */
    int64_t first = MODEL_VAE_STRIDE_TIME - 1;
    int64_t frames = nearest_multiple(s->frames + first, step_f, t->rope_max * step_f) - first;
    char text[256];
    if (width != s->width || height != s->height) {
        snprintf(text, sizeof text,
                 "size %" PRId64 "x%" PRId64 " rounded to %" PRId64 "x%" PRId64
                 ": width takes multiples of %" PRId64 ", height of %" PRId64 ", up to %" PRId64,
                 s->width, s->height, width, height, step_w, step_h, t->rope_max * step_w);
        note(events, text);
    }
    if (frames != s->frames) {
        snprintf(text, sizeof text,
                 "%" PRId64 " frames rounded to %" PRId64 ": this model takes %" PRId64
                 "n + %" PRId64,
                 s->frames, frames, step_f, step_f - first);
        note(events, text);
    }
    s->width = width;
    s->height = height;
    s->frames = frames;
}

static void fill_attention(draftattn_plan_desc *attention, const struct model_defaults *d,
                           bool large)
{
    draftattn_plan_desc library = draftattn_plan_desc_default();
    if (attention->sparsity < 0)
        attention->sparsity = large || d->sparsity < 0 ? library.sparsity : d->sparsity;
    if (attention->probes < 0)
        attention->probes = large || d->probes < 0 ? library.probes : (int32_t)d->probes;
    if (attention->probes == 0)
        attention->repair = 0;
}

static void fill_defaults(struct generate_settings *s, const struct model_defaults *d)
{
    if (!s->width)
        s->width = d->width;
    if (!s->height)
        s->height = d->height;
    if (!s->frames)
        s->frames = d->frames;
    if (s->fps <= 0)
        s->fps = d->fps;
    if (s->guidance < 0)
        s->guidance = d->guidance;
    bool large = s->width * s->height > d->width * d->height;
    if (!s->steps)
        s->steps = large ? d->steps_large : d->steps;
    if (s->flow_shift <= 0)
        s->flow_shift = large ? d->flow_shift_large : d->flow_shift;
    fill_attention(&s->attention, d, large);
    if (!s->negative_prompt)
        s->negative_prompt = d->negative_prompt;
}

static bool is_blank(const char *text)
{
    while (*text == ' ' || *text == '\t' || *text == '\n' || *text == '\r')
        text++;
    return !*text;
}

/* Networks, files and figures alike take nothing else. */
static bool check_text(const char *flag, const char *text, struct error *error)
{
    struct codepoints codes = {0};
    struct error why = {.usage = false};
    bool ok = codepoints_decode(&codes, text, &why);
    codepoints_free(&codes);
    return ok || error_set_usage(error, "%s: %s", flag, why.text);
}

static bool check_values(const struct generate_settings *s, const struct model *model,
                         struct error *error)
{
    const draftattn_plan_desc *a = &s->attention;
    if (!s->prompt || is_blank(s->prompt))
        return error_set_usage(error,
                               "the prompt is empty; say what to show with --prompt TEXT%s%s%s",
                               model->defaults.prompt ? ", such as \"" : "",
                               model->defaults.prompt ? model->defaults.prompt : "",
                               model->defaults.prompt ? "\"" : "");
    if (!check_text("--prompt", s->prompt, error) ||
        !check_text("--negative-prompt", s->negative_prompt, error))
        return false;
    if (!s->output || !s->output[0])
        return error_set_usage(error, "no output file; name one with --output FILE");
    for (int32_t i = 0; i < a->dense_layer_count; i++)
        if (a->dense_layers[i] >= model->transformer.layers)
            return error_set_usage(error,
                                   "--dense-layers: layer %d; this model has layers 0 to %" PRId64,
                                   a->dense_layers[i], model->transformer.layers - 1);
    if (a->policy == DRAFTATTN_POLICY_DRAFT_PAPER && a->compensation)
        return error_set_usage(error, "--compensation on: the published method has none; use "
                                      "--attention draft, or --compensation off");
    struct scheduler *scheduler = NULL;
    const struct scheduler_desc desc = {
        .sampler = s->sampler, .steps = (int32_t)s->steps, .flow_shift = s->flow_shift};
    bool ok = scheduler_create(&scheduler, &desc, 0, NULL, NULL, error);
    scheduler_destroy(scheduler);
    return ok;
}

void generate_settings_fill(struct generate_settings *settings, const struct model *model,
                            const struct generate_events *events)
{
    fill_defaults(settings, &model->defaults);
    round_sizes(settings, model, events);
}

bool generate_settings_resolve(struct generate_settings *settings, const struct model *model,
                               const struct generate_events *events, struct error *error)
{
    generate_settings_fill(settings, model, events);
    return check_values(settings, model, error);
}

int generate_settings_describe(const struct generate_settings *s, const char *model_name,
                               char *buffer, size_t size)
{
    const draftattn_plan_desc *a = &s->attention;
    char sparse[96] = "";
    if (a->policy != DRAFTATTN_POLICY_DENSE)
        snprintf(sparse, sizeof sparse, " sparsity %g, dense steps %g, probes %d", a->sparsity,
                 a->dense_steps, a->probes);
    return snprintf(
        buffer, size,
        "draftattn " DRAFTATTN_VERSION_STRING "; model %s; seed %" PRIu64 "; size %" PRId64
        "x%" PRId64 "; frames %" PRId64 "; fps %g; steps %" PRId64 "; cfg %g; flow shift %g; "
        "sampler %s; attention %s%s",
        model_name, s->seed, s->width, s->height, s->frames, s->fps, s->steps, s->guidance,
        s->flow_shift, s->sampler, draftattn_policy_name(a->policy), sparse);
}
