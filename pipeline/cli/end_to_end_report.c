/*
 * The figures of draftattn bench --end-to-end. Owns how they are shown: seconds and GiB in the
 * tables, seconds and bytes for machines. Where the time goes is told in shares of a pass that was
 * measured operation by operation; what passes took is measured without that.
 */
#include "end_to_end_report.h"

#include "../io/json_file.h"
#include "../machine.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

#define GIB 1073741824.0

/* ---- tables ---------------------------------------------------------------------------------- */

struct table {
    FILE *out;
    bool markdown;
};

/* A cell of a row: right-aligned, or between bars. */
static void cell(const struct table *t, int width, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void cell(const struct table *t, int width, const char *format, ...)
{
    char text[96];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (t->markdown)
        fprintf(t->out, "| %s ", text);
    else
        fprintf(t->out, " %*s", width, text);
}

static void end_row(const struct table *t)
{
    fputs(t->markdown ? "|\n" : "\n", t->out);
}

/* What stands between Markdown's head and its rows. */
static void end_head(const struct table *t, int columns)
{
    end_row(t);
    for (int i = 0; t->markdown && i < columns; i++)
        fputs(i ? "|--:" : "|:--", t->out);
    if (t->markdown)
        end_row(t);
}

/* Three decimals of little, one of much. */
static void seconds_cell(const struct table *t, double seconds)
{
    cell(t, 9, "%.*f", seconds < 10 ? 3 : seconds < 100 ? 2 : 1, seconds);
}

static void name_of(const struct end_to_end_row *row, char *text, size_t size)
{
    if (row->dense)
        snprintf(text, size, "dense");
    else
        snprintf(text, size, "%.4g %%", 100 * row->sparsity);
}

static double speed_up(const struct end_to_end_report *report, const struct end_to_end_row *row)
{
    return report->rows[0].forward / row->forward;
}

static void share_cell(const struct table *t, double share)
{
    if (isfinite(share))
        cell(t, 15, "%.1f %%", 100 * share);
    else
        cell(t, 15, "-");
}

/* NaN where an interruption came first. */
static double share_of(const struct end_to_end_row *row, int kind)
{
    return row->parts.total > 0 ? row->parts.seconds[kind] / row->parts.total : NAN;
}

/* Convolutions are the VAE's, which is not taken apart. */
static bool is_shown(int kind)
{
    return kind != PROFILE_CONVOLUTION;
}

static void print_passes(const struct table *t, const struct end_to_end_report *report)
{
    int columns = 7;
    cell(t, 9, "sparsity");
    cell(t, 9, "density");
    cell(t, 9, "s a pass");
    cell(t, 9, "min");
    cell(t, 9, "max");
    cell(t, 9, "speed-up");
    cell(t, 9, "s a step");
    for (int kind = 0; kind < PROFILE_KIND_COUNT; kind++)
        if (is_shown(kind)) {
            cell(t, 15, "%s", profile_kind_name((enum profile_kind)kind));
            columns++;
        }
    end_head(t, columns);
    for (int i = 0; i < report->row_count; i++) {
        const struct end_to_end_row *row = &report->rows[i];
        char name[32];
        name_of(row, name, sizeof name);
        cell(t, 9, "%s", name);
        cell(t, 9, "%.3f", row->density);
        seconds_cell(t, row->forward);
        seconds_cell(t, row->forward_min);
        seconds_cell(t, row->forward_max);
        cell(t, 9, "%.2fx", speed_up(report, row));
        seconds_cell(t, row->step);
        for (int kind = 0; kind < PROFILE_KIND_COUNT; kind++)
            if (is_shown(kind))
                share_cell(t, share_of(row, kind));
        end_row(t);
    }
}

/* Waiting around every operation costs; how much tells what the shares are worth. */
static void print_profiled(FILE *out, const struct end_to_end_report *report, bool offload)
{
    fprintf(out, "\nshares: of a pass that waits around every operation; that took");
    for (int i = 0; i < report->row_count; i++)
        fprintf(out, "%s %.2f", i ? "," : "",
                report->rows[i].parts.total / report->rows[i].forward);
    fprintf(out, " times as long%s\n",
            offload ? "; transfers, which otherwise run beside the rest, show in full" : "");
}

static void print_generation(const struct table *t, const struct end_to_end_settings *settings,
                             const struct end_to_end_report *report, int r, int share)
{
    const struct end_to_end_row *row = &report->rows[r];
    const struct end_to_end_generation g = end_to_end_generation(settings, report, row, share);
    char name[32];
    name_of(row, name, sizeof name);
    cell(t, 9, "%s", name);
    cell(t, 11, "%.3g %%", 100 * (row->dense ? 1 : settings->shares[share]));
    cell(t, 9, "%.1f", g.total);
    cell(t, 9, "%.2fx",
         end_to_end_generation(settings, report, &report->rows[0], share).total / g.total);
    for (int kind = 0; kind < PROFILE_KIND_COUNT; kind++)
        if (is_shown(kind))
            cell(t, 15, "%.1f", g.denoise[kind]);
    cell(t, 7, "%.1f", g.text);
    cell(t, 7, "%.1f", g.decode);
    end_row(t);
}

static void print_generations(const struct table *t, const struct end_to_end_settings *settings,
                              const struct end_to_end_report *report)
{
    int columns = 6;
    cell(t, 9, "sparsity");
    cell(t, 11, "dense steps");
    cell(t, 9, "seconds");
    cell(t, 9, "speed-up");
    for (int kind = 0; kind < PROFILE_KIND_COUNT; kind++)
        if (is_shown(kind)) {
            cell(t, 15, "%s", profile_kind_name((enum profile_kind)kind));
            columns++;
        }
    cell(t, 7, "text");
    cell(t, 7, "VAE");
    end_head(t, columns);
    print_generation(t, settings, report, 0, 0);
    for (int r = 1; r < report->row_count; r++)
        for (int share = 0; share < settings->share_count; share++)
            print_generation(t, settings, report, r, share);
}

static const char *precision_words(const struct end_to_end_report *report)
{
    return report->activations == ELEMENT_BF16 ? "bfloat16" : "float32";
}

static void print_head(FILE *out, const struct end_to_end_settings *settings,
                       const struct end_to_end_report *report, const char *newline)
{
    const struct generate_settings *v = &settings->video;
    const draftattn_plan_desc *a = &v->attention;
    char cpu[160];
    machine_describe(v->runtime.threads, cpu, sizeof cpu);
    fprintf(out, "draftattn " DRAFTATTN_VERSION_STRING ", commit %s; %s%s", machine_commit(), cpu,
            newline);
    fprintf(out, "%s, %s, %s%s%s", report->device, precision_words(report), report->kernel,
            v->runtime.offload ? ", blocks in host memory" : "", newline);
    fprintf(out,
            "%s: %" PRId64 "x%" PRId64 ", %" PRId64 " frames: %" PRId64 " tokens, %" PRId64
            " of text; %d pass%s a step%s",
            model_name(settings->model), v->width, v->height, v->frames, report->tokens,
            report->text_tokens, report->passes, report->passes == 1 ? "" : "es", newline);
    fprintf(out, "%s, compensation %s, %d probe rows%s; %d step%s of each row, medians\n\n",
            draftattn_policy_name(a->policy), a->compensation ? "on" : "off", a->probes,
            a->repair && a->probes ? " and repair" : "", settings->runs,
            settings->runs == 1 ? "" : "s");
}

static void print_memory(FILE *out, const struct end_to_end_report *report, const char *newline)
{
    const struct memory_plan *plan = &report->memory;
    fprintf(out, "memory: %.2f GiB at most", report->peak / GIB);
    if (report->gpu)
        fprintf(out, " (text %.2f, denoise %.2f, decode %.2f)", report->peak_text / GIB,
                report->peak_denoise / GIB, report->peak_decode / GIB);
    fprintf(out, ", planned %.2f (text %.2f, denoise %.2f, decode %.2f)%s", plan->peak / GIB,
            plan->encode / GIB, plan->denoise / GIB, plan->decode / GIB, newline);
}

void end_to_end_report_table(FILE *out, const struct end_to_end_settings *settings,
                             const struct end_to_end_report *report, bool markdown)
{
    const struct table table = {out, markdown};
    const char *newline = markdown ? "  \n" : "\n";
    print_head(out, settings, report, newline);
    print_passes(&table, report);
    if (report->decode <= 0)
        return; /* interrupted */
    print_profiled(out, report, settings->video.runtime.offload);
    fprintf(out, "\nload: text encoder %.2f s, transformer %.2f s, VAE %.2f s%s", report->load_text,
            report->load_transformer, report->load_vae, newline);
    fprintf(out, "text %.3f s, VAE %.2f s%s", report->text, report->decode, newline);
    print_memory(out, report, newline);
    fprintf(out,
            "\na generation of %" PRId64 " steps with text and VAE, without loading and writing; "
            "seconds, %s:\n\n",
            settings->video.steps,
            settings->full ? "all steps measured, split by the shares above"
                           : "reckoned from the medians of a step and the shares above");
    print_generations(&table, settings, report);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void json_row(cJSON *list, const struct end_to_end_report *report,
                     const struct end_to_end_row *row)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddItemToArray(list, json);
    cJSON_AddBoolToObject(json, "dense", row->dense);
    cJSON_AddNumberToObject(json, "sparsity", row->sparsity);
    cJSON_AddNumberToObject(json, "density", row->density);
    cJSON *seconds = cJSON_AddObjectToObject(json, "forward_seconds");
    cJSON_AddNumberToObject(seconds, "median", row->forward);
    cJSON_AddNumberToObject(seconds, "min", row->forward_min);
    cJSON_AddNumberToObject(seconds, "max", row->forward_max);
    cJSON_AddNumberToObject(json, "speedup", speed_up(report, row));
    cJSON_AddNumberToObject(json, "step_seconds", row->step);
    cJSON *shares = cJSON_AddObjectToObject(json, "shares");
    for (int kind = 0; kind < PROFILE_KIND_COUNT; kind++)
        if (is_shown(kind))
            cJSON_AddNumberToObject(shares, profile_kind_name((enum profile_kind)kind),
                                    share_of(row, kind));
    cJSON_AddNumberToObject(json, "profiled_forward_seconds", row->parts.total);
}

static void json_generation(cJSON *list, const struct end_to_end_settings *settings,
                            const struct end_to_end_report *report, int r, int share)
{
    const struct end_to_end_row *row = &report->rows[r];
    const struct end_to_end_generation g = end_to_end_generation(settings, report, row, share);
    cJSON *json = cJSON_CreateObject();
    cJSON_AddItemToArray(list, json);
    cJSON_AddNumberToObject(json, "sparsity", row->sparsity);
    cJSON_AddNumberToObject(json, "dense_steps", row->dense ? 1 : settings->shares[share]);
    cJSON_AddNumberToObject(json, "seconds", g.total);
    cJSON_AddNumberToObject(json, "speedup",
                            end_to_end_generation(settings, report, &report->rows[0], share).total /
                                g.total);
    cJSON_AddBoolToObject(json, "measured", g.measured);
    cJSON *parts = cJSON_AddObjectToObject(json, "parts");
    for (int kind = 0; kind < PROFILE_KIND_COUNT; kind++)
        if (is_shown(kind))
            cJSON_AddNumberToObject(parts, profile_kind_name((enum profile_kind)kind),
                                    g.denoise[kind]);
    cJSON_AddNumberToObject(parts, "text", g.text);
    cJSON_AddNumberToObject(parts, "vae", g.decode);
}

static void json_generations(cJSON *root, const struct end_to_end_settings *settings,
                             const struct end_to_end_report *report)
{
    cJSON *list = cJSON_AddArrayToObject(root, "generations");
    json_generation(list, settings, report, 0, 0);
    for (int r = 1; r < report->row_count; r++)
        for (int share = 0; share < settings->share_count; share++)
            json_generation(list, settings, report, r, share);
}

static void json_parts(cJSON *root, const struct end_to_end_report *report)
{
    cJSON *seconds = cJSON_AddObjectToObject(root, "seconds");
    cJSON_AddNumberToObject(seconds, "load_text_encoder", report->load_text);
    cJSON_AddNumberToObject(seconds, "load_transformer", report->load_transformer);
    cJSON_AddNumberToObject(seconds, "load_vae", report->load_vae);
    cJSON_AddNumberToObject(seconds, "text", report->text);
    cJSON_AddNumberToObject(seconds, "decode", report->decode);
    cJSON *memory = cJSON_AddObjectToObject(root, "memory");
    cJSON_AddNumberToObject(memory, "peak", (double)report->peak);
    cJSON_AddNumberToObject(memory, "text", (double)report->peak_text);
    cJSON_AddNumberToObject(memory, "denoise", (double)report->peak_denoise);
    cJSON_AddNumberToObject(memory, "decode", (double)report->peak_decode);
    cJSON_AddNumberToObject(memory, "planned", (double)report->memory.peak);
    cJSON_AddNumberToObject(memory, "planned_text", (double)report->memory.encode);
    cJSON_AddNumberToObject(memory, "planned_denoise", (double)report->memory.denoise);
    cJSON_AddNumberToObject(memory, "planned_decode", (double)report->memory.decode);
}

bool end_to_end_report_json(FILE *out, const struct end_to_end_settings *settings,
                            const struct end_to_end_report *report, struct error *error)
{
    const struct generate_settings *v = &settings->video;
    const draftattn_plan_desc *a = &v->attention;
    cJSON *root = cJSON_CreateObject();
    char text[128];
    machine_cpu_name(text, sizeof text);
    cJSON_AddStringToObject(root, "commit", machine_commit());
    cJSON_AddStringToObject(root, "cpu", text);
    cJSON_AddNumberToObject(root, "threads",
                            v->runtime.threads > 0 ? v->runtime.threads : machine_threads());
    cJSON_AddStringToObject(root, "device", report->device);
    cJSON_AddStringToObject(root, "precision", precision_words(report));
    cJSON_AddStringToObject(root, "kernel", report->kernel);
    cJSON_AddBoolToObject(root, "offload", v->runtime.offload);
    cJSON_AddStringToObject(root, "model", model_name(settings->model));
    cJSON_AddNumberToObject(root, "width", (double)v->width);
    cJSON_AddNumberToObject(root, "height", (double)v->height);
    cJSON_AddNumberToObject(root, "frames", (double)v->frames);
    cJSON_AddNumberToObject(root, "steps", (double)v->steps);
    cJSON_AddNumberToObject(root, "tokens", (double)report->tokens);
    cJSON_AddNumberToObject(root, "text_tokens", (double)report->text_tokens);
    cJSON_AddNumberToObject(root, "passes", report->passes);
    cJSON_AddNumberToObject(root, "runs", settings->runs);
    cJSON_AddStringToObject(root, "policy", draftattn_policy_name(a->policy));
    cJSON_AddBoolToObject(root, "compensation", a->compensation);
    cJSON_AddNumberToObject(root, "probes", a->probes);
    cJSON_AddBoolToObject(root, "repair", a->repair);
    json_parts(root, report);
    cJSON *rows = cJSON_AddArrayToObject(root, "rows");
    for (int i = 0; i < report->row_count; i++)
        json_row(rows, report, &report->rows[i]);
    json_generations(root, settings, report);
    char *json = json_print(root, true);
    cJSON_Delete(root);
    if (!json)
        return error_out_of_memory(error, "the JSON text", 4096);
    fprintf(out, "%s\n", json);
    free(json);
    return true;
}
