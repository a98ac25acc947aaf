/* The figures of a comparison as JSON, for other programs. Frames and maps are not in it. */
#include "compare.h"

#include <cjson/cJSON.h>

#include <math.h>
#include <stdio.h>

static void add_numbers(cJSON *object, const char *name, const double *values, int64_t count)
{
    cJSON *list = cJSON_AddArrayToObject(object, name);
    for (int64_t i = 0; i < count; i++)
        cJSON_AddItemToArray(list, isfinite(values[i]) ? cJSON_CreateNumber(values[i])
                                                       : cJSON_CreateNull());
}

/* NaN and infinity as null, which cJSON prints for them. */
static void add_number(cJSON *object, const char *name, double value)
{
    if (isfinite(value))
        cJSON_AddNumberToObject(object, name, value);
    else
        cJSON_AddNullToObject(object, name);
}

static void add_table(cJSON *object, const char *name, const struct comparison *c,
                      const float *values)
{
    cJSON *rows = cJSON_AddArrayToObject(object, name);
    for (int64_t step = 0; step < c->steps; step++) {
        cJSON *row = cJSON_CreateArray();
        for (int64_t layer = 0; layer < c->layers; layer++) {
            double value = values[step * c->layers + layer];
            cJSON_AddItemToArray(row,
                                 isfinite(value) ? cJSON_CreateNumber(value) : cJSON_CreateNull());
        }
        cJSON_AddItemToArray(rows, row);
    }
}

static void add_attention(cJSON *json, const struct comparison *c,
                          const struct comparison_variant *variant)
{
    const struct self_attention_report *report = &variant->report.attention;
    const draftattn_plan_desc *desc = &variant->attention;
    bool dense = desc->policy == DRAFTATTN_POLICY_DENSE;
    cJSON *object = cJSON_AddObjectToObject(json, "attention");
    cJSON_AddStringToObject(object, "policy", draftattn_policy_name(desc->policy));
    cJSON_AddNumberToObject(object, "sparsity", dense ? 0 : desc->sparsity);
    cJSON_AddNumberToObject(object, "dense_steps", dense ? 1 : desc->dense_steps);
    cJSON_AddBoolToObject(object, "compensation", !dense && desc->compensation);
    cJSON_AddNumberToObject(object, "probes", dense ? 0 : desc->probes);
    cJSON_AddBoolToObject(object, "repair", !dense && desc->repair);
    cJSON_AddStringToObject(object, "backend", variant->report.backend);
    cJSON_AddStringToObject(object, "kernel", variant->report.kernel);
    cJSON_AddStringToObject(object, "last_step", variant->words);
    cJSON_AddNumberToObject(object, "calls", (double)report->calls);
    cJSON_AddNumberToObject(object, "dense_calls", (double)report->dense_calls);
    cJSON_AddBoolToObject(object, "ran_dense", report->calls == report->dense_calls);
    cJSON_AddNumberToObject(object, "density", report->density_all);
    cJSON_AddNumberToObject(object, "density_sparse_calls", report->density);
    add_number(object, "error_median", report->error_median);
    add_number(object, "error_worst", report->error_worst);
    cJSON_AddNumberToObject(object, "repaired_share", report->repaired_share);
    cJSON *seconds = cJSON_AddObjectToObject(object, "seconds");
    for (int i = 0; i < DRAFTATTN_STAGE_COUNT; i++)
        cJSON_AddNumberToObject(seconds, draftattn_stage_name((draftattn_stage)i),
                                report->seconds[i]);
    add_table(object, "error_median_by_step_and_layer", c, variant->error_median);
    add_table(object, "error_worst_by_step_and_layer", c, variant->error_worst);
}

static void add_times(cJSON *json, const struct comparison_variant *variant,
                      const struct comparison_variant *baseline)
{
    const struct generate_report *report = &variant->report, *base = &baseline->report;
    cJSON *seconds = cJSON_AddObjectToObject(json, "seconds");
    for (int i = 0; i < PHASE_COUNT; i++)
        cJSON_AddNumberToObject(seconds, generate_phase_name((enum generate_phase)i),
                                report->seconds[i]);
    cJSON_AddNumberToObject(seconds, "total", report->total_seconds);
    cJSON_AddNumberToObject(seconds, "attention", variant->attention_seconds);
    cJSON_AddNumberToObject(seconds, "collecting", variant->capture_seconds);
    cJSON *gain = cJSON_AddObjectToObject(json, "speed_up");
    add_number(gain, "total", base->total_seconds / report->total_seconds);
    add_number(gain, "denoise", base->seconds[PHASE_DENOISE] / report->seconds[PHASE_DENOISE]);
    add_number(gain, "attention", baseline->attention_seconds / variant->attention_seconds);
}

static void add_quality(cJSON *json, const struct comparison *c,
                        const struct comparison_quality *quality)
{
    cJSON *object = cJSON_AddObjectToObject(json, "quality");
    cJSON_AddBoolToObject(object, "identical", isinf(quality->psnr_rgb));
    add_number(object, "psnr", quality->psnr_all);
    add_number(object, "ssim", quality->ssim_all);
    add_number(object, "psnr_rgb", quality->psnr_rgb);
    cJSON_AddNumberToObject(object, "worst_frame", (double)quality->worst_frame + 1);
    add_number(object, "worst_frame_psnr", quality->psnr[quality->worst_frame]);
    add_numbers(object, "psnr_of_frames", quality->psnr, c->frames);
    add_numbers(object, "ssim_of_frames", quality->ssim, c->frames);
}

static void add_settings(cJSON *json, const struct comparison *c)
{
    const struct generate_settings *s = c->settings;
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", DRAFTATTN_VERSION_MAJOR, DRAFTATTN_VERSION_MINOR,
             DRAFTATTN_VERSION_PATCH);
    cJSON_AddStringToObject(json, "version", version);
    cJSON_AddStringToObject(json, "command", c->command);
    cJSON_AddStringToObject(json, "machine", c->machine);
    cJSON_AddStringToObject(json, "model", c->model);
    cJSON_AddStringToObject(json, "prompt", c->prompt);
    cJSON_AddStringToObject(json, "negative_prompt", c->negative_prompt);
    cJSON_AddNumberToObject(json, "seed", (double)s->seed);
    cJSON_AddNumberToObject(json, "width", (double)c->width);
    cJSON_AddNumberToObject(json, "height", (double)c->height);
    cJSON_AddNumberToObject(json, "frames", (double)c->frames);
    cJSON_AddNumberToObject(json, "fps", c->fps);
    cJSON_AddNumberToObject(json, "steps", (double)c->steps);
    cJSON_AddNumberToObject(json, "cfg", s->guidance);
    cJSON_AddNumberToObject(json, "flow_shift", s->flow_shift);
    cJSON_AddStringToObject(json, "sampler", s->sampler);
    cJSON_AddNumberToObject(json, "layers", (double)c->layers);
    cJSON_AddNumberToObject(json, "heads", (double)c->heads);
    cJSON_AddNumberToObject(json, "tokens", (double)c->variants[0].report.tokens);
    cJSON_AddStringToObject(json, "side_by_side", c->side_by_side);
}

char *comparison_json(const struct comparison *c)
{
    cJSON *root = cJSON_CreateObject();
    add_settings(root, c);
    cJSON *list = cJSON_AddArrayToObject(root, "variants");
    for (int64_t i = 0; i < c->variant_count; i++) {
        const struct comparison_variant *variant = &c->variants[i];
        cJSON *json = cJSON_CreateObject();
        cJSON_AddStringToObject(json, "label", variant->label);
        cJSON_AddStringToObject(json, "video", variant->video);
        cJSON_AddStringToObject(json, "encoder", variant->report.encoder);
        add_times(json, variant, &c->variants[0]);
        add_quality(json, c, &variant->quality);
        add_attention(json, c, variant);
        cJSON_AddItemToArray(list, json);
    }
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    return text;
}
