/*
 * The figures of draftattn bench. Owns how they are shown: milliseconds in the table, seconds for
 * machines; what was not measured is "-", empty or null. Speed-up is dense by median, share of peak
 * is of the peak of the backend's instruction set, a device's of matrix products in bfloat16.
 */
#include "bench_report.h"

#include "../io/json_file.h"
#include "../machine.h"

#include <draftattn.h>

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t bench_grid_tokens(const struct bench_grid *g)
{
    return g->grid.frames * g->grid.height * g->grid.width + g->grid.text_tokens;
}

/* "21x30x52+256" */
static void numbers_of(const struct bench_grid *g, char *text, size_t size)
{
    int length = snprintf(text, size, "%" PRId64 "x%" PRId64 "x%" PRId64, g->grid.frames,
                          g->grid.height, g->grid.width);
    if (g->grid.text_tokens > 0 && length > 0 && (size_t)length < size)
        snprintf(text + length, size - (size_t)length, "+%" PRId64, g->grid.text_tokens);
}

void bench_grid_name(const struct bench_grid *grid, char *text, size_t size)
{
    if (grid->name)
        snprintf(text, size, "%s", grid->name);
    else
        numbers_of(grid, text, size);
}

static double speed_up(const struct bench_result *result, const struct bench_row *row)
{
    return result->rows[0].median / row->median;
}

static double peak_share(const struct bench_report *report, const struct bench_result *result,
                         const struct bench_row *row)
{
    double peak = report->peak[result->kernel->backend];
    return peak > 0 ? row->gflops / peak : NAN;
}

const char *bench_dtype_name(draftattn_dtype dtype)
{
    return dtype == DRAFTATTN_F32 ? "float32" : "bfloat16";
}

/* ---- table ----------------------------------------------------------------------------------- */

/* Four digits in a column of width: 0.1234, 12.34, 1234, 123456 */
static void print_number(FILE *out, int width, double value)
{
    int decimals = value < 10 ? 3 : value < 100 ? 2 : value < 1000 ? 1 : 0;
    if (isfinite(value))
        fprintf(out, " %*.*f", width, decimals, value);
    else
        fprintf(out, " %*s", width, "-");
}

static void print_row(FILE *out, const struct bench_report *report,
                      const struct bench_result *result, const struct bench_row *row)
{
    char sparsity[16] = "dense";
    if (!row->dense)
        snprintf(sparsity, sizeof sparsity, "%.3g", row->sparsity);
    fprintf(out, "  %8s %7.3f", sparsity, row->density);
    print_number(out, 8, 1e3 * row->median);
    print_number(out, 8, 1e3 * row->min);
    print_number(out, 8, 1e3 * row->max);
    for (int stage = 0; stage < DRAFTATTN_STAGE_COUNT; stage++)
        print_number(out, 7, 1e3 * row->stages[stage]);
    double share = peak_share(report, result, row);
    fprintf(out, row->gflops < 1e5 ? " %7.1f" : " %7.0f", row->gflops);
    if (isfinite(share))
        fprintf(out, " %4.0f%%", 100 * share);
    else
        fprintf(out, " %5s", "-");
    fprintf(out, " %7.2fx", speed_up(result, row));
    print_number(out, 6, row->error);
    fputc('\n', out);
}

static void print_result(FILE *out, const struct bench_report *report,
                         const struct bench_result *result)
{
    const struct bench_grid *grid = result->grid;
    char numbers[96];
    if (result->row_count == 0 && !result->why[0])
        return; /* not reached before Ctrl-C */
    numbers_of(grid, numbers, sizeof numbers);
    fprintf(out, "\n%s%s%s, %" PRId64 " tokens, %s: ", grid->name ? grid->name : "",
            grid->name ? ", " : "", numbers, bench_grid_tokens(grid), result->kernel->name);
    if (result->row_count == 0) {
        fprintf(out, "left out: %s\n", result->why);
        return;
    }
    if (result->heads < grid->heads)
        fprintf(out, "%d of %d heads x %d", result->heads, grid->heads, grid->head_dim);
    else
        fprintf(out, "%d heads x %d", result->heads, grid->head_dim);
    int runs = result->rows[0].runs;
    fprintf(out, ", %s, %d run%s\n", bench_dtype_name(result->dtype), runs, runs == 1 ? "" : "s");
    fprintf(out, "  sparsity density  median      min      max   order    pool   draft  select  "
                 "attend  repair GFLOP/s  peak speed-up  error\n");
    for (int i = 0; i < result->row_count; i++)
        print_row(out, report, result, &result->rows[i]);
    if (result->why[0])
        fprintf(out, "  %s\n", result->why);
}

static void measured_words(double tokens, char *text, size_t size)
{
    if (isnan(tokens))
        snprintf(text, size, "not found");
    else if (tokens == 0)
        snprintf(text, size, "under %d", BENCH_SHORTEST);
    else
        snprintf(text, size, "%.0f", tokens);
}

static void predicted_words(int64_t tokens, char *text, size_t size)
{
    if (tokens == 0)
        snprintf(text, size, "any");
    else if (tokens == INT64_MAX)
        snprintf(text, size, "never");
    else
        snprintf(text, size, "%" PRId64, tokens);
}

static void print_break_even(FILE *out, const struct bench_break_evens *found)
{
    fprintf(out, "\nbreak-even, %s, %d heads x %d, %s: tokens from which on sparse beats dense\n",
            found->kernel->name, found->heads, found->head_dim, bench_dtype_name(found->dtype));
    if (found->why[0]) {
        fprintf(out, "  left out: %s\n", found->why);
        return;
    }
    fprintf(out, "  sparsity  probes   measured  predicted\n");
    for (int i = 0; i < found->count; i++) {
        const struct bench_break_even *row = &found->rows[i];
        char measured[32], predicted[32];
        measured_words(row->measured, measured, sizeof measured);
        predicted_words(row->predicted, predicted, sizeof predicted);
        fprintf(out, "  %8.3g %7d %10s %10s\n", row->sparsity, row->probes, measured, predicted);
    }
}

static void print_machine(FILE *out, const struct bench_report *report)
{
    fprintf(out, "draftattn " DRAFTATTN_VERSION_STRING ", commit %s; %s, %d thread%s\n",
            machine_commit(), report->cpu, report->threads, report->threads == 1 ? "" : "s");
    if (report->device[0])
        fprintf(out, "cuda: %s\n", report->device);
    double peak = report->peak[DRAFTATTN_BACKEND_CUDA];
    if (peak > 0)
        fprintf(out, "peak of cuBLAS's matrix products in bfloat16: cuda %.0f GFLOP/s\n", peak);
    else if (report->device[0])
        fprintf(out, "peak of cuda: not measured, there is no cuBLAS\n");
    const char *separator = "peak of multiply-adds: ";
    for (int b = 0; b < DRAFTATTN_BACKEND_CUDA; b++) {
        if (report->peak[b] <= 0)
            continue;
        fprintf(out, "%s%s %.0f GFLOP/s", separator, draftattn_backend_name((draftattn_backend)b),
                report->peak[b]);
        separator = ", ";
    }
    if (separator[0] == ',')
        fputc('\n', out);
}

void bench_report_table(FILE *out, const struct bench_report *report)
{
    const draftattn_plan_desc *desc = &report->desc;
    print_machine(out, report);
    fprintf(out, "%s", draftattn_policy_name(desc->policy));
    if (desc->policy == DRAFTATTN_POLICY_DRAFT)
        fprintf(out, ", compensation %s", desc->compensation ? "on" : "off");
    if (desc->policy != DRAFTATTN_POLICY_DENSE)
        fprintf(out, ", %d probe rows%s", desc->probes,
                desc->repair && desc->probes ? " and repair" : "");
    fprintf(out,
            "; random data, seed %d, raster order\ntimes in ms; speed-up by medians; error: "
            "relative L2, estimated from the probe rows, median over heads\n",
            BENCH_SEED);
    for (int i = 0; i < report->result_count; i++)
        print_result(out, report, &report->results[i]);
    for (int i = 0; i < report->break_even_count; i++)
        print_break_even(out, &report->break_evens[i]);
}

/* ---- CSV ------------------------------------------------------------------------------------- */

static void csv_number(FILE *out, double value)
{
    if (isfinite(value))
        fprintf(out, ",%.9g", value);
    else
        fputc(',', out);
}

static void csv_row(FILE *out, const struct bench_report *report, const struct bench_result *result,
                    const struct bench_row *row)
{
    char name[96], numbers[96];
    bench_grid_name(result->grid, name, sizeof name);
    numbers_of(result->grid, numbers, sizeof numbers);
    fprintf(out, "%s,%s,%" PRId64 ",%d,%d,%d,%s,%s,%s,%d", name, numbers,
            bench_grid_tokens(result->grid), result->heads, result->grid->heads,
            result->grid->head_dim, draftattn_backend_name(result->kernel->backend),
            result->kernel->name, row->dense ? "dense" : draftattn_policy_name(report->desc.policy),
            row->runs);
    csv_number(out, row->sparsity);
    csv_number(out, row->density);
    csv_number(out, row->median);
    csv_number(out, row->min);
    csv_number(out, row->max);
    for (int stage = 0; stage < DRAFTATTN_STAGE_COUNT; stage++)
        csv_number(out, row->stages[stage]);
    csv_number(out, row->flops);
    csv_number(out, row->gflops);
    csv_number(out, peak_share(report, result, row));
    csv_number(out, speed_up(result, row));
    csv_number(out, row->error);
    fprintf(out, ",%s,%s\n", bench_dtype_name(result->dtype), machine_commit());
}

void bench_report_csv(FILE *out, const struct bench_report *report)
{
    fprintf(out, "name,grid,tokens,heads,heads_asked,head_dim,backend,kernel,policy,runs,sparsity,"
                 "density,median,min,max");
    for (int stage = 0; stage < DRAFTATTN_STAGE_COUNT; stage++)
        fprintf(out, ",%s", draftattn_stage_name((draftattn_stage)stage));
    fprintf(out, ",flops,gflops,peak_share,speedup,error,dtype,commit\n");
    for (int i = 0; i < report->result_count; i++)
        for (int row = 0; row < report->results[i].row_count; row++)
            csv_row(out, report, &report->results[i], &report->results[i].rows[row]);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void json_row(cJSON *list, const struct bench_report *report,
                     const struct bench_result *result, const struct bench_row *row)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddItemToArray(list, json);
    cJSON_AddStringToObject(
        json, "policy",
        draftattn_policy_name(row->dense ? DRAFTATTN_POLICY_DENSE : report->desc.policy));
    cJSON_AddNumberToObject(json, "sparsity", row->sparsity);
    cJSON_AddNumberToObject(json, "density", row->density);
    cJSON_AddNumberToObject(json, "runs", row->runs);
    cJSON *seconds = cJSON_AddObjectToObject(json, "seconds");
    cJSON_AddNumberToObject(seconds, "median", row->median);
    cJSON_AddNumberToObject(seconds, "min", row->min);
    cJSON_AddNumberToObject(seconds, "max", row->max);
    cJSON *stages = cJSON_AddObjectToObject(json, "stages");
    for (int stage = 0; stage < DRAFTATTN_STAGE_COUNT; stage++)
        cJSON_AddNumberToObject(stages, draftattn_stage_name((draftattn_stage)stage),
                                row->stages[stage]);
    cJSON_AddNumberToObject(json, "flops", row->flops);
    cJSON_AddNumberToObject(json, "gflops", row->gflops);
    cJSON_AddNumberToObject(json, "peak_share", peak_share(report, result, row));
    cJSON_AddNumberToObject(json, "speedup", speed_up(result, row));
    cJSON_AddNumberToObject(json, "error", row->error); /* NaN becomes null */
}

static void json_result(cJSON *list, const struct bench_report *report,
                        const struct bench_result *result)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddItemToArray(list, json);
    const draftattn_grid *grid = &result->grid->grid;
    char name[96];
    bench_grid_name(result->grid, name, sizeof name);
    cJSON_AddStringToObject(json, "name", name);
    cJSON_AddNumberToObject(json, "frames", (double)grid->frames);
    cJSON_AddNumberToObject(json, "height", (double)grid->height);
    cJSON_AddNumberToObject(json, "width", (double)grid->width);
    cJSON_AddNumberToObject(json, "text_tokens", (double)grid->text_tokens);
    cJSON_AddNumberToObject(json, "tokens", (double)bench_grid_tokens(result->grid));
    cJSON_AddNumberToObject(json, "heads", result->heads);
    cJSON_AddNumberToObject(json, "heads_asked", result->grid->heads);
    cJSON_AddNumberToObject(json, "head_dim", result->grid->head_dim);
    cJSON_AddStringToObject(json, "backend", draftattn_backend_name(result->kernel->backend));
    cJSON_AddStringToObject(json, "kernel", result->kernel->name);
    cJSON_AddStringToObject(json, "dtype", bench_dtype_name(result->dtype));
    cJSON_AddStringToObject(json, "left_out", result->why);
    cJSON *rows = cJSON_AddArrayToObject(json, "rows");
    for (int i = 0; i < result->row_count; i++)
        json_row(rows, report, result, &result->rows[i]);
}

static void json_break_even(cJSON *list, const struct bench_break_evens *found)
{
    for (int i = 0; i < found->count; i++) {
        const struct bench_break_even *row = &found->rows[i];
        cJSON *json = cJSON_CreateObject();
        cJSON_AddItemToArray(list, json);
        cJSON_AddStringToObject(json, "kernel", found->kernel->name);
        cJSON_AddNumberToObject(json, "heads", found->heads);
        cJSON_AddNumberToObject(json, "head_dim", found->head_dim);
        cJSON_AddStringToObject(json, "dtype", bench_dtype_name(found->dtype));
        cJSON_AddNumberToObject(json, "sparsity", row->sparsity);
        cJSON_AddNumberToObject(json, "probes", row->probes);
        cJSON_AddNumberToObject(json, "measured", row->measured);
        cJSON_AddNumberToObject(json, "predicted",
                                row->predicted == INT64_MAX ? NAN : (double)row->predicted);
    }
}

bool bench_report_json(FILE *out, const struct bench_report *report, struct error *error)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "version", DRAFTATTN_VERSION_STRING);
    cJSON_AddStringToObject(root, "commit", machine_commit());
    cJSON_AddStringToObject(root, "cpu", report->cpu);
    cJSON_AddStringToObject(root, "device", report->device);
    cJSON_AddNumberToObject(root, "threads", report->threads);
    cJSON_AddNumberToObject(root, "seed", BENCH_SEED);
    cJSON_AddStringToObject(root, "policy", draftattn_policy_name(report->desc.policy));
    cJSON_AddBoolToObject(root, "compensation", report->desc.compensation);
    cJSON_AddNumberToObject(root, "probes", report->desc.probes);
    cJSON *peak = cJSON_AddObjectToObject(root, "peak_gflops");
    for (int b = 0; b <= DRAFTATTN_BACKEND_CUDA; b++)
        if (report->peak[b] > 0)
            cJSON_AddNumberToObject(peak, draftattn_backend_name((draftattn_backend)b),
                                    report->peak[b]);
    cJSON *results = cJSON_AddArrayToObject(root, "results");
    for (int i = 0; i < report->result_count; i++)
        json_result(results, report, &report->results[i]);
    cJSON *break_even = cJSON_AddArrayToObject(root, "break_even");
    for (int i = 0; i < report->break_even_count; i++)
        json_break_even(break_even, &report->break_evens[i]);
    char *text = json_print(root, false);
    cJSON_Delete(root);
    if (!text)
        return error_out_of_memory(error, "the JSON report", 65536);
    fprintf(out, "%s\n", text);
    free(text);
    return true;
}
