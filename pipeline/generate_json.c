/* One member a line; NaN and infinity are null, as cJSON prints them. */
#include "generate_json.h"

#include <math.h>

void generate_json_settings(cJSON *to, const struct generate_settings *s)
{
    cJSON_AddStringToObject(to, "version", DRAFTATTN_VERSION_STRING);
    cJSON_AddStringToObject(to, "prompt", s->prompt);
    cJSON_AddStringToObject(to, "negative_prompt", s->negative_prompt);
    cJSON_AddNumberToObject(to, "seed", (double)s->seed);
    cJSON_AddNumberToObject(to, "width", (double)s->width);
    cJSON_AddNumberToObject(to, "height", (double)s->height);
    cJSON_AddNumberToObject(to, "frames", (double)s->frames);
    cJSON_AddNumberToObject(to, "fps", s->fps);
    cJSON_AddNumberToObject(to, "steps", (double)s->steps);
    cJSON_AddNumberToObject(to, "cfg", s->guidance);
    cJSON_AddNumberToObject(to, "flow_shift", s->flow_shift);
    cJSON_AddStringToObject(to, "sampler", s->sampler);
}

void generate_json_device(cJSON *to, const struct generate_report *report)
{
    const enum runtime_precision precision =
        report->activations == ELEMENT_BF16 ? RUNTIME_BF16 : RUNTIME_F32;
    cJSON_AddStringToObject(to, "device", report->device);
    cJSON_AddStringToObject(to, "precision", runtime_precision_name(precision));
    cJSON_AddBoolToObject(to, "offload", report->offload);
}

cJSON *generate_json_attention(cJSON *to, const draftattn_plan_desc *asked,
                               const struct generate_report *report)
{
    const struct self_attention_report *a = &report->attention;
    const bool dense = asked->policy == DRAFTATTN_POLICY_DENSE;
    cJSON *json = cJSON_AddObjectToObject(to, "attention");
    cJSON_AddStringToObject(json, "policy", draftattn_policy_name(asked->policy));
    cJSON_AddNumberToObject(json, "sparsity", dense ? 0 : asked->sparsity);
    cJSON_AddNumberToObject(json, "dense_steps", dense ? 1 : asked->dense_steps);
    cJSON_AddBoolToObject(json, "compensation", !dense && asked->compensation);
    cJSON_AddNumberToObject(json, "probes", dense ? 0 : asked->probes);
    cJSON_AddBoolToObject(json, "repair", !dense && asked->repair);
    cJSON_AddStringToObject(json, "backend", report->backend);
    cJSON_AddStringToObject(json, "kernel", report->kernel);
    cJSON_AddNumberToObject(json, "tokens", (double)report->tokens);
    cJSON_AddNumberToObject(json, "calls", (double)a->calls);
    cJSON_AddNumberToObject(json, "dense_calls", (double)a->dense_calls);
    if (a->calls > 0)
        cJSON_AddBoolToObject(json, "ran_dense", a->calls == a->dense_calls);
    else
        cJSON_AddNullToObject(json, "ran_dense"); /* resumed after the last step */
    cJSON_AddNumberToObject(json, "density", a->density_all);
    cJSON_AddNumberToObject(json, "density_sparse_calls", a->density);
    cJSON_AddNumberToObject(json, "error_median", a->error_median);
    cJSON_AddNumberToObject(json, "error_worst", a->error_worst);
    if (isfinite(a->error_worst)) {
        cJSON *worst = cJSON_AddObjectToObject(json, "worst");
        cJSON_AddNumberToObject(worst, "layer", a->worst_layer);
        cJSON_AddNumberToObject(worst, "step", a->worst_step);
        cJSON_AddNumberToObject(worst, "head", a->worst_head);
    }
    cJSON_AddNumberToObject(json, "repaired_share", a->repaired_share);
    cJSON *seconds = cJSON_AddObjectToObject(json, "seconds");
    for (int i = 0; i < DRAFTATTN_STAGE_COUNT; i++)
        cJSON_AddNumberToObject(seconds, draftattn_stage_name((draftattn_stage)i), a->seconds[i]);
    return json;
}

cJSON *generate_json_seconds(cJSON *to, const struct generate_report *report)
{
    cJSON *seconds = cJSON_AddObjectToObject(to, "seconds");
    for (int i = 0; i < PHASE_COUNT; i++)
        cJSON_AddNumberToObject(seconds, generate_phase_name((enum generate_phase)i),
                                report->seconds[i]);
    cJSON_AddNumberToObject(seconds, "total", report->total_seconds);
    return seconds;
}

void generate_json_memory(cJSON *to, const struct generate_report *report)
{
    const struct memory_plan *plan = &report->memory;
    const struct {
        const char *name;
        int64_t bytes;
    } parts[] = {
        {"planned", plan->peak},
        {"peak", report->memory_peak},
        {"device_peak", report->device_peak},
        {"program", plan->program},
        {"latents", plan->latents},
        {"text_encoder", plan->text_encoder},
        {"transformer_weights", plan->transformer_weights},
        {"transformer_work", plan->transformer_work},
        {"prompts", plan->prompts},
        {"attention", plan->attention},
        {"vae_weights", plan->vae_weights},
        {"vae_work", plan->vae_work},
        {"offloaded", plan->host},
    };
    cJSON *memory = cJSON_AddObjectToObject(to, "memory");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        cJSON_AddNumberToObject(memory, parts[i].name, (double)parts[i].bytes);
}
