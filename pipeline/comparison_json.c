/* The figures of a comparison as JSON, for other programs. Frames and maps are not in it; NaN and
 * infinity are null, as cJSON prints them. */
#include "compare.h"

#include "generate_json.h"
#include "io/json_file.h"

#include <math.h>

static void add_numbers(cJSON *object, const char *name, const double *values, int64_t count)
{
    cJSON *list = cJSON_AddArrayToObject(object, name);
    for (int64_t i = 0; i < count; i++)
        cJSON_AddItemToArray(list, cJSON_CreateNumber(values[i]));
}

static void add_table(cJSON *object, const char *name, const struct comparison *c,
                      const float *values)
{
    cJSON *rows = cJSON_AddArrayToObject(object, name);
    for (int64_t step = 0; step < c->steps; step++) {
        cJSON *row = cJSON_CreateArray();
        for (int64_t layer = 0; layer < c->layers; layer++)
            cJSON_AddItemToArray(row, cJSON_CreateNumber(values[step * c->layers + layer]));
        cJSON_AddItemToArray(rows, row);
    }
}

static void add_attention(cJSON *json, const struct comparison *c,
                          const struct comparison_variant *variant)
{
    cJSON *object = generate_json_attention(json, &variant->attention, &variant->report);
    cJSON_AddStringToObject(object, "last_step", variant->words);
    add_table(object, "error_median_by_step_and_layer", c, variant->error_median);
    add_table(object, "error_worst_by_step_and_layer", c, variant->error_worst);
}

static void add_times(cJSON *json, const struct comparison_variant *variant,
                      const struct comparison_variant *baseline)
{
    const struct generate_report *report = &variant->report, *base = &baseline->report;
    cJSON *seconds = generate_json_seconds(json, report);
    cJSON_AddNumberToObject(seconds, "attention", variant->attention_seconds);
    cJSON_AddNumberToObject(seconds, "collecting", variant->capture_seconds);
    cJSON *gain = cJSON_AddObjectToObject(json, "speed_up");
    cJSON_AddNumberToObject(gain, "total", base->total_seconds / report->total_seconds);
    cJSON_AddNumberToObject(gain, "denoise",
                            base->seconds[PHASE_DENOISE] / report->seconds[PHASE_DENOISE]);
    cJSON_AddNumberToObject(gain, "attention",
                            baseline->attention_seconds / variant->attention_seconds);
}

static void add_quality(cJSON *json, const struct comparison *c,
                        const struct comparison_quality *quality)
{
    cJSON *object = cJSON_AddObjectToObject(json, "quality");
    cJSON_AddBoolToObject(object, "identical", isinf(quality->psnr_rgb));
    cJSON_AddNumberToObject(object, "psnr", quality->psnr_all);
    cJSON_AddNumberToObject(object, "ssim", quality->ssim_all);
    cJSON_AddNumberToObject(object, "psnr_rgb", quality->psnr_rgb);
    cJSON_AddNumberToObject(object, "worst_frame", (double)quality->worst_frame + 1);
    cJSON_AddNumberToObject(object, "worst_frame_psnr", quality->psnr[quality->worst_frame]);
    add_numbers(object, "psnr_of_frames", quality->psnr, c->frames);
    add_numbers(object, "ssim_of_frames", quality->ssim, c->frames);
}

static void add_settings(cJSON *json, const struct comparison *c)
{
    cJSON_AddStringToObject(json, "command", c->command);
    cJSON_AddStringToObject(json, "machine", c->machine);
    cJSON_AddStringToObject(json, "model", c->model);
    generate_json_settings(json, c->settings);
    cJSON_AddNumberToObject(json, "layers", (double)c->layers);
    cJSON_AddNumberToObject(json, "heads", (double)c->heads);
    cJSON_AddNumberToObject(json, "tokens", (double)c->variants[0].report.tokens);
    if (c->side_by_side)
        cJSON_AddStringToObject(json, "side_by_side", c->side_by_side);
    else
        cJSON_AddNullToObject(json, "side_by_side");
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
        generate_json_device(json, &variant->report);
        add_times(json, variant, &c->variants[0]);
        add_quality(json, c, &variant->quality);
        add_attention(json, c, variant);
        generate_json_memory(json, &variant->report);
        cJSON_AddItemToArray(list, json);
    }
    char *text = json_print(root, true);
    cJSON_Delete(root);
    return text;
}
