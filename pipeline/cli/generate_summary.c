/* The figures of a generation, in words and as JSON. Shares and errors that were not measured are
 * said to be so, and are null in JSON. */
#include "generate_summary.h"

#include "../generate_json.h"
#include "../io/json_file.h"

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

bool generate_summary_json(FILE *out, const struct generate_settings *s,
                           const struct generate_report *report, const char *model_path,
                           struct error *error)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "output", s->output);
    cJSON_AddStringToObject(root, "encoder", report->encoder);
    cJSON_AddStringToObject(root, "model", model_path);
    generate_json_settings(root, s);
    generate_json_device(root, report);
    generate_json_attention(root, &s->attention, report);
    cJSON *seconds = generate_json_seconds(root, report);
    cJSON_AddNumberToObject(seconds, "step", report->step_seconds);
    cJSON_AddNumberToObject(seconds, "dense_step", report->dense_step_seconds);
    cJSON_AddNumberToObject(seconds, "sparse_step", report->sparse_step_seconds);
    cJSON_AddNumberToObject(root, "first_step", (double)report->first_step);
    cJSON_AddNumberToObject(root, "dense_steps", (double)report->dense_steps);
    cJSON_AddNumberToObject(root, "sparse_steps", (double)report->sparse_steps);
    generate_json_memory(root, report);
    char *text = json_print(root, false);
    cJSON_Delete(root);
    if (!text)
        return error_out_of_memory(error, "the JSON report", 4096);
    fprintf(out, "%s\n", text);
    free(text);
    return true;
}
