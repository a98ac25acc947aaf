/* The figures of a generation, in words and as JSON. Shares and errors that were not measured are
 * said to be so, and are null in JSON. */
#include "generate_summary.h"

#include <cjson/cJSON.h>

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

void generate_summary_begin(struct console *console, const struct generate_settings *s,
                            const char *model_path)
{
    console_print(console,
                  "model %s\n%" PRId64 "x%" PRId64 ", %" PRId64 " frames at %g a second; %" PRId64
                  " steps, cfg %g, flow shift %g, %s; seed %" PRIu64 "\n",
                  model_path, s->width, s->height, s->frames, s->fps, s->steps, s->guidance,
                  s->flow_shift, s->sampler, s->seed);
}

static void print_attention(struct console *console, const struct generate_settings *s,
                            const struct generate_report *report)
{
    const struct self_attention_report *a = &report->attention;
    if (a->calls == 0)
        return; /* resumed after the last step */
    console_print(console, "attention: %s on %s (%s), %" PRId64 " tokens; density %.3f",
                  draftattn_policy_name(s->attention.policy), report->backend, report->kernel,
                  report->tokens, a->density_all);
    if (a->calls > a->dense_calls)
        fprintf(stderr, ", %.3f in the %" PRId64 " sparse of %" PRId64 " calls", a->density,
                a->calls - a->dense_calls, a->calls);
    fputc('\n', stderr);
    if (isfinite(a->error_median))
        fprintf(stderr,
                "estimated attention error: median %.3f, worst %.3f (layer %d, step %d, head %d); "
                "%.0f %% of heads repaired\n",
                a->error_median, a->error_worst, a->worst_layer, a->worst_step + 1, a->worst_head,
                100 * a->repaired_share);
    else if (a->calls > a->dense_calls)
        fprintf(stderr, "estimated attention error: not measured (--probes 256 measures it)\n");
}

static void print_memory(const struct generate_report *report)
{
    const double mib = 1048576.0;
    double planned = (double)report->memory.peak / mib, peak = (double)report->memory_peak / mib;
    if (report->gpu)
        fprintf(stderr,
                "memory: %.0f MiB of the GPU taken at most (planned %.0f), %.0f MiB of the host\n",
                (double)report->device_peak / mib, planned, peak);
    else
        fprintf(stderr, "memory: %.0f MiB at most (planned %.0f)\n", peak, planned);
}

/* "; 2.31 s a step", and of each kind where there are both */
static void print_steps(const struct generate_report *report)
{
    if (report->dense_steps + report->sparse_steps == 0)
        return;
    fprintf(stderr, "; %.2f s a step", report->step_seconds);
    if (report->dense_steps > 0 && report->sparse_steps > 0)
        fprintf(stderr, " (dense %.2f, sparse %.2f)", report->dense_step_seconds,
                report->sparse_step_seconds);
}

void generate_summary_end(struct console *console, const struct generate_settings *s,
                          const struct generate_report *report)
{
    if (console->quiet)
        return;
    console_print(console, "time: %.1f s =", report->total_seconds);
    for (int i = 0; i < PHASE_COUNT; i++)
        fprintf(stderr, "%s %s %.1f", i ? " +" : "", generate_phase_name((enum generate_phase)i),
                report->seconds[i]);
    print_steps(report);
    fputc('\n', stderr);
    print_attention(console, s, report);
    print_memory(report);
    fprintf(stderr, "wrote %s (%s)\n", s->output, report->encoder);
}

static void add_attention(cJSON *root, const struct generate_settings *s,
                          const struct generate_report *report)
{
    const struct self_attention_report *a = &report->attention;
    cJSON *json = cJSON_AddObjectToObject(root, "attention");
    cJSON_AddStringToObject(json, "policy", draftattn_policy_name(s->attention.policy));
    cJSON_AddStringToObject(json, "backend", report->backend);
    cJSON_AddStringToObject(json, "kernel", report->kernel);
    cJSON_AddNumberToObject(json, "tokens", (double)report->tokens);
    cJSON_AddNumberToObject(json, "sparsity", s->attention.sparsity);
    cJSON_AddNumberToObject(json, "dense_steps", s->attention.dense_steps);
    cJSON_AddBoolToObject(json, "compensation", s->attention.compensation);
    cJSON_AddNumberToObject(json, "probes", s->attention.probes);
    cJSON_AddBoolToObject(json, "repair", s->attention.repair);
    cJSON_AddNumberToObject(json, "calls", (double)a->calls);
    cJSON_AddNumberToObject(json, "dense_calls", (double)a->dense_calls);
    cJSON_AddNumberToObject(json, "density", a->density_all);
    cJSON_AddNumberToObject(json, "density_sparse_calls", a->density);
    bool measured = isfinite(a->error_median);
    cJSON_AddNumberToObject(json, "error_median", measured ? a->error_median : NAN);
    cJSON_AddNumberToObject(json, "error_worst", measured ? a->error_worst : NAN);
    if (measured) {
        cJSON *worst = cJSON_AddObjectToObject(json, "worst");
        cJSON_AddNumberToObject(worst, "layer", a->worst_layer);
        cJSON_AddNumberToObject(worst, "step", a->worst_step);
        cJSON_AddNumberToObject(worst, "head", a->worst_head);
    }
    cJSON_AddNumberToObject(json, "repaired_share", a->repaired_share);
    cJSON *seconds = cJSON_AddObjectToObject(json, "seconds");
    for (int i = 0; i < DRAFTATTN_STAGE_COUNT; i++)
        cJSON_AddNumberToObject(seconds, draftattn_stage_name((draftattn_stage)i), a->seconds[i]);
}

static void add_times(cJSON *root, const struct generate_report *report)
{
    cJSON *seconds = cJSON_AddObjectToObject(root, "seconds");
    for (int i = 0; i < PHASE_COUNT; i++)
        cJSON_AddNumberToObject(seconds, generate_phase_name((enum generate_phase)i),
                                report->seconds[i]);
    cJSON_AddNumberToObject(seconds, "total", report->total_seconds);
    cJSON_AddNumberToObject(seconds, "step", report->step_seconds);
    cJSON_AddNumberToObject(seconds, "dense_step", report->dense_step_seconds);
    cJSON_AddNumberToObject(seconds, "sparse_step", report->sparse_step_seconds);
    cJSON_AddNumberToObject(root, "first_step", (double)report->first_step);
    cJSON_AddNumberToObject(root, "dense_steps", (double)report->dense_steps);
    cJSON_AddNumberToObject(root, "sparse_steps", (double)report->sparse_steps);
}

static void add_memory(cJSON *root, const struct generate_report *report)
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
    cJSON *memory = cJSON_AddObjectToObject(root, "memory");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        cJSON_AddNumberToObject(memory, parts[i].name, (double)parts[i].bytes);
}

bool generate_summary_json(FILE *out, const struct generate_settings *s,
                           const struct generate_report *report, const char *model_path,
                           struct error *error)
{
    cJSON *root = cJSON_CreateObject();
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", DRAFTATTN_VERSION_MAJOR, DRAFTATTN_VERSION_MINOR,
             DRAFTATTN_VERSION_PATCH);
    cJSON_AddStringToObject(root, "version", version);
    cJSON_AddStringToObject(root, "output", s->output);
    cJSON_AddStringToObject(root, "encoder", report->encoder);
    cJSON_AddStringToObject(root, "model", model_path);
    cJSON_AddStringToObject(root, "prompt", s->prompt);
    cJSON_AddStringToObject(root, "negative_prompt", s->negative_prompt);
    cJSON_AddNumberToObject(root, "seed", (double)s->seed);
    cJSON_AddNumberToObject(root, "width", (double)s->width);
    cJSON_AddNumberToObject(root, "height", (double)s->height);
    cJSON_AddNumberToObject(root, "frames", (double)s->frames);
    cJSON_AddNumberToObject(root, "fps", s->fps);
    cJSON_AddNumberToObject(root, "steps", (double)s->steps);
    cJSON_AddNumberToObject(root, "cfg", s->guidance);
    cJSON_AddNumberToObject(root, "flow_shift", s->flow_shift);
    cJSON_AddStringToObject(root, "sampler", s->sampler);
    cJSON_AddStringToObject(root, "device", report->device);
    cJSON_AddStringToObject(root, "precision",
                            report->activations == ELEMENT_BF16 ? "bf16" : "float32");
    cJSON_AddBoolToObject(root, "offload", report->offload);
    add_attention(root, s, report);
    add_times(root, report);
    add_memory(root, report);
    char *text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    if (!text)
        return error_out_of_memory(error, "the JSON report", 4096);
    fprintf(out, "%s\n", text);
    free(text);
    return true;
}
