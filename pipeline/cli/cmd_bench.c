/*
 * draftattn bench: times attention on real grids. Owns the options, the presets, and which kernels
 * are meant; the work is in bench_jobs.c, the figures are shown by bench_report.c. Whole networks
 * are end_to_end.c's.
 */
#include "bench_jobs.h"
#include "command.h"
#include "end_to_end.h"
#include "generation_options.h"
#include "suggest.h"

#include "../machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct arguments {
    const char *presets, *grid, *dtype, *sparsity, *policy, *backend, *kernel;
    struct option_int heads, head_dim, compensation, probes, break_even, threads, runs;
    struct option_real limit;
    struct end_to_end_arguments flow;
    bool json, csv, quiet;
};

#define MAX_GRID_SIDE    65536
#define DEFAULT_LIMIT    90
#define DEFAULT_RUNS     5
#define DEFAULT_HEADS    12
#define DEFAULT_HEAD_DIM 128
#define DEFAULT_SPARSITY "0.5,0.75,0.9"

/* Of whole networks. */
#define FLOW_RUNS     3
#define FLOW_SPARSITY "0.75,0.9"
#define FLOW_SHARES   "0.2,0.1"

static const struct option_spec options[] = {
    OPTION_ROW_HEADING("Grids"),
    OPTION_ROW_TEXT(
        0, "preset", "LIST", presets,
        "tiny-256, tiny-512, wan-480p, wan-720p, hunyuan-720p, cogvideox (default: all)"),
    OPTION_ROW_TEXT(0, "grid", "FxHxW[+T]", grid,
                    "a grid of one's own: frames, height and width in tokens, and text tokens"),
    OPTION_ROW_INT(0, "heads", "N", heads, 1, 1024,
                   "of the grid (default: the preset's, else 12); fewer are measured where time is "
                   "short"),
    OPTION_ROW_INT(0, "head-dim", "N", head_dim, 1, 512,
                   "64 or 128, any for the reference (default: 128)"),
    OPTION_ROW_TEXT(0, "dtype", "NAME", dtype,
                    "float32 or bfloat16, of q, k, v and o (default: float32, on CUDA bfloat16 "
                    "where the kernel has it)"),
    OPTION_ROW_HEADING("Attention"),
    OPTION_ROW_TEXT(0, "sparsity", "LIST", sparsity,
                    "each 0 to below 1; dense is always measured (default: " DEFAULT_SPARSITY
                    ", with --end-to-end " FLOW_SPARSITY ")"),
    OPTION_ROW_TEXT('a', "policy", "NAME", policy,
                    "of the sparse runs: draft, draft-paper or dense (default: draft)"),
    OPTION_ROW_SWITCH(0, "compensation", compensation,
                      "whether skipped blocks enter through their means (default: on)"),
    OPTION_ROW_INT(0, "probes", "N", probes, 0, 1024,
                   "exact rows per head that repair the rest and measure the error; 0 = neither "
                   "(default: 256, with --end-to-end the model's)"),
    OPTION_ROW_SWITCH(0, "break-even", break_even,
                      "find the number of tokens from which on sparse attention pays (default: on "
                      "where no grid is given)"),
    OPTION_ROW_HEADING("Machine"),
    OPTION_ROW_TEXT(0, "backend", "NAME", backend,
                    "auto (the fastest), portable, avx2, avx512, cuda or reference (default: all "
                    "that work here but the reference)"),
    OPTION_ROW_TEXT(0, "kernel", "NAME", kernel, "one kernel, as 'draftattn info' lists them"),
    OPTION_ROW_INT('t', "threads", "N", threads, 1, 1024, "CPU threads (default: all)"),
    OPTION_ROW_INT(
        0, "runs", "N", runs, 1, BENCH_MAX_RUNS,
        "of each row, fewer where time is short (default: 5); with --end-to-end steps of "
        "each row, all of them (default: 3)"),
    OPTION_ROW_REAL(0, "time-limit", "SECONDS", limit, 1, 86400,
                    "for all of it; what does not fit is left out and says so (default: 90)"),
    END_TO_END_ROWS,
    OPTION_ROW_HEADING("Messages"),
    OPTION_ROW_FLAG(0, "json", json, "one JSON object on standard output"),
    OPTION_ROW_FLAG(0, "csv", csv, "comma-separated values on standard output"),
    OPTION_ROW_FLAG('q', "quiet", quiet, "errors and the figures only"),
    OPTION_ROW_END,
};

const struct command_spec bench_command = {
    .name = "bench",
    .summary = "time attention on real grids",
    .usage = "[options]",
    .text =
        "Times dense and sparse attention on the token grids of real models, kernel by kernel, "
        "with random data, and prints a table: time in all and per stage, operations a second "
        "and their share of what this machine's multiply-add units can do, and the speed-up "
        "over dense. Where no grid is given it also finds the number of tokens from which on "
        "sparse attention pays, beside the estimate by which 'generate' decides. With "
        "--end-to-end it times whole networks, dense and sparse, tells where the time goes, and "
        "reckons what a generation takes.",
    .options = options,
};

/* The bundled model at 256x256x33 and 512x512x65, Wan2.1 1.3B at 832x480x81 and 14B at
 * 1280x720x81, HunyuanVideo at 1280x720x129, CogVideoX-5B, whose heads are of 64, at 720x480x49. */
static const struct bench_grid presets[] = {
    {"tiny-256", {9, 16, 16, 0}, 2, 128},         {"tiny-512", {17, 32, 32, 0}, 2, 128},
    {"wan-480p", {21, 30, 52, 0}, 12, 128},       {"wan-720p", {21, 45, 80, 0}, 40, 128},
    {"hunyuan-720p", {33, 45, 80, 256}, 24, 128}, {"cogvideox", {13, 30, 45, 226}, 48, 64}};

#define PRESET_COUNT (sizeof presets / sizeof *presets)

static const char *preset_at(const void *user, size_t index)
{
    (void)user;
    return index < PRESET_COUNT ? presets[index].name : NULL;
}

static const char *kernel_at(const void *user, size_t index)
{
    draftattn_kernel_info kernel;
    (void)user;
    return draftattn_kernel_get((int32_t)index, &kernel) == DRAFTATTN_SUCCESS ? kernel.name : NULL;
}

/* ---- grids ----------------------------------------------------------------------------------- */

/* Copies the word at *list, up to a comma, and goes on; *list is NULL after the last. */
static void next_word(const char **list, char *word, size_t size)
{
    size_t length = strcspn(*list, ",");
    snprintf(word, size, "%.*s", (int)(length < size ? length : size - 1), *list);
    *list = (*list)[length] ? *list + length + 1 : NULL;
}

static bool take_presets(const char *list, struct bench_settings *set, struct error *error)
{
    char word[64];
    while (list) {
        size_t found = 0;
        next_word(&list, word, sizeof word);
        while (found < PRESET_COUNT && strcmp(presets[found].name, word) != 0)
            found++;
        if (found == PRESET_COUNT)
            return suggest_refuse("--preset", word, preset_at, NULL, error);
        if (set->grid_count == BENCH_MAX_GRIDS)
            return error_set_usage(error, "--preset: takes at most %d names", BENCH_MAX_GRIDS);
        set->grids[set->grid_count++] = presets[found];
    }
    return true;
}

/* "21x30x52" or "33x45x80+256"; whether so many tokens fit is the library's to say. */
static bool parse_grid(const char *text, draftattn_grid *grid, struct error *error)
{
    int64_t *const sides[] = {&grid->frames, &grid->height, &grid->width, &grid->text_tokens};
    const char *at = text;
    *grid = (draftattn_grid){0};
    for (int i = 0; i < 4; i++) {
        char *end;
        bool digit = *at >= '0' && *at <= '9';
        long long value = digit ? strtoll(at, &end, 10) : -1;
        if (value < (i < 3) || value > MAX_GRID_SIDE)
            break;
        *sides[i] = value;
        at = end;
        if (i >= 2 && !*at)
            return true;
        if (*at++ != (i < 2 ? 'x' : '+'))
            break;
    }
    return error_set_usage(error,
                           "--grid '%s': takes FRAMESxHEIGHTxWIDTH in tokens, each from 1 to %d, "
                           "and perhaps text tokens, such as 21x30x52 or 33x45x80+256",
                           text, MAX_GRID_SIDE);
}

static int compare_grids(const void *a, const void *b)
{
    int64_t x = bench_grid_tokens(a), y = bench_grid_tokens(b);
    return (x > y) - (x < y);
}

static bool take_grids(const struct arguments *a, struct bench_settings *set, struct error *error)
{
    if (a->grid && a->presets)
        return error_set_usage(error, "give --grid or --preset, not both");
    if (a->grid) {
        set->grids[0] = (struct bench_grid){.heads = DEFAULT_HEADS, .head_dim = DEFAULT_HEAD_DIM};
        set->grid_count = 1;
        if (!parse_grid(a->grid, &set->grids[0].grid, error))
            return false;
    } else if (a->presets) {
        if (!take_presets(a->presets, set, error))
            return false;
    } else {
        memcpy(set->grids, presets, sizeof presets);
        set->grid_count = PRESET_COUNT;
    }
    for (int i = 0; i < set->grid_count; i++) {
        if (a->heads.given)
            set->grids[i].heads = (int32_t)a->heads.value;
        if (a->head_dim.given)
            set->grids[i].head_dim = (int32_t)a->head_dim.value;
    }
    qsort(set->grids, (size_t)set->grid_count, sizeof *set->grids, compare_grids);
    set->break_even = a->break_even.given ? a->break_even.value : !a->grid && !a->presets;
    set->break_even_heads = a->heads.given ? (int32_t)a->heads.value : DEFAULT_HEADS;
    set->break_even_head_dim = a->head_dim.given ? (int32_t)a->head_dim.value : DEFAULT_HEAD_DIM;
    return true;
}

/* ---- kernels --------------------------------------------------------------------------------- */

static bool head_dim_is_asked(const struct bench_settings *set, int32_t head_dim)
{
    for (int i = 0; i < set->grid_count; i++)
        if (head_dim == 0 || set->grids[i].head_dim == head_dim)
            return true;
    return false;
}

/* One kernel by name, whatever its backend. */
static bool take_kernel(const char *flag, const char *name, struct bench_settings *set,
                        struct error *error)
{
    draftattn_kernel_info *kernel = &set->kernels[0];
    for (int32_t i = 0; draftattn_kernel_get(i, kernel) == DRAFTATTN_SUCCESS; i++) {
        if (strcmp(kernel->name, name) != 0)
            continue;
        set->kernel_count = 1;
        if (!kernel->available)
            return error_set_usage(error, "%s %s: %s", flag, name, kernel->why_not);
        return head_dim_is_asked(set, kernel->head_dim) ||
               error_set_usage(error, "%s %s: it is compiled for --head-dim %d", flag, name,
                               kernel->head_dim);
    }
    return suggest_refuse(flag, name, kernel_at, NULL, error);
}

/* All that work here, or those of one backend; the reference only where it is asked for. */
static bool take_backend(const char *flag, const char *name, struct bench_settings *set,
                         struct error *error)
{
    draftattn_backend wanted = DRAFTATTN_BACKEND_AUTO;
    draftattn_kernel_info kernel;
    const char *why_not = "this build has no such kernels";
    if (name && !generation_backend(flag, name, &wanted, error))
        return false;
    bool fastest = name && wanted == DRAFTATTN_BACKEND_AUTO;
    for (int32_t i = 0; draftattn_kernel_get(i, &kernel) == DRAFTATTN_SUCCESS; i++) {
        bool slow = kernel.backend == DRAFTATTN_BACKEND_REFERENCE;
        if (wanted == DRAFTATTN_BACKEND_AUTO ? slow : kernel.backend != wanted)
            continue;
        why_not = "no kernel is compiled for this --head-dim; 64 and 128 have one";
        if (!kernel.available)
            why_not = kernel.why_not;
        else if (head_dim_is_asked(set, kernel.head_dim) && set->kernel_count < BENCH_MAX_KERNELS)
            set->kernels[set->kernel_count++] = kernel;
    }
    if (set->kernel_count == 0)
        return error_set_usage(error, "%s %s: %s", name ? flag : "--backend", name ? name : "auto",
                               why_not);
    draftattn_backend best = set->kernels[0].backend;
    for (int i = 1; fastest && i < set->kernel_count; i++)
        if (set->kernels[i].backend != best)
            set->kernel_count = i;
    return true;
}

/* The library's environment variables hold here as they do elsewhere. */
static bool take_kernels(const struct arguments *a, struct bench_settings *set, struct error *error)
{
    const char *kernel = getenv("DRAFTATTN_KERNEL"), *backend = getenv("DRAFTATTN_BACKEND");
    if (a->kernel && a->backend)
        return error_set_usage(error,
                               "give --kernel or --backend, not both: a kernel has a backend");
    if (a->kernel)
        return take_kernel("--kernel", a->kernel, set, error);
    if (a->backend)
        return take_backend("--backend", a->backend, set, error);
    if (kernel && kernel[0])
        return take_kernel("DRAFTATTN_KERNEL", kernel, set, error);
    return take_backend("DRAFTATTN_BACKEND", backend && backend[0] ? backend : NULL, set, error);
}

/* ---- the rest -------------------------------------------------------------------------------- */

/* "0.5,0.9": numbers from 0 to 1, 1 itself where closed. */
static bool take_shares(const char *flag, const char *list, bool closed, double *out, int limit,
                        int *count, struct error *error)
{
    char word[64];
    for (*count = 0; list; ++*count) {
        double value;
        next_word(&list, word, sizeof word);
        if (!parse_real(flag, word, 0, 1, !closed, &value, error))
            return false;
        if (*count == limit)
            return error_set_usage(error, "%s: takes at most %d values", flag, limit);
        out[*count] = value;
    }
    return true;
}

static bool take_attention(const struct arguments *a, struct bench_settings *set,
                           struct error *error)
{
    draftattn_plan_desc *desc = &set->desc;
    draftattn_policy policy = DRAFTATTN_POLICY_DRAFT;
    *desc = draftattn_plan_desc_default();
    if (a->policy && !generation_policy("--policy", a->policy, &policy, error))
        return false;
    if (policy == DRAFTATTN_POLICY_DRAFT_PAPER && a->compensation.value)
        return error_set_usage(error, "--compensation on: the published method has none; use "
                                      "--policy draft, or --compensation off");
    if (a->compensation.given)
        desc->compensation = (int32_t)a->compensation.value;
    if (a->probes.given)
        desc->probes = (int32_t)a->probes.value;
    generation_set_policy(desc, policy);
    if (policy == DRAFTATTN_POLICY_DENSE)
        return !a->sparsity || error_set_usage(error, "--sparsity: policy dense has none");
    const char *list = a->flow.wanted ? FLOW_SPARSITY : DEFAULT_SPARSITY;
    return take_shares("--sparsity", a->sparsity ? a->sparsity : list, false, set->sparsity,
                       BENCH_MAX_SPARSITY, &set->sparsity_count, error);
}

static bool take_dtype(const struct arguments *a, struct bench_settings *set, struct error *error)
{
    static const draftattn_dtype dtypes[] = {DRAFTATTN_F32, DRAFTATTN_BF16};
    set->any_dtype = !a->dtype;
    for (size_t i = 0; a->dtype && i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(a->dtype, bench_dtype_name(dtypes[i])) == 0) {
            set->desc.in_dtype = dtypes[i];
            return true;
        }
    return !a->dtype || error_set_usage(error, "--dtype '%s': takes float32 or bfloat16", a->dtype);
}

static bool take_settings(const struct arguments *a, struct bench_settings *set,
                          struct error *error)
{
    if (a->json && a->csv)
        return error_set_usage(error, "give --json or --csv, not both");
    set->threads = a->threads.given ? (int32_t)a->threads.value : machine_threads();
    set->runs = a->runs.given ? (int)a->runs.value : DEFAULT_RUNS;
    set->limit = a->limit.given ? a->limit.value : DEFAULT_LIMIT;
    return take_grids(a, set, error) && take_kernels(a, set, error) &&
           take_attention(a, set, error) && take_dtype(a, set, error);
}

static bool show(const struct arguments *a, const struct bench_report *report, struct error *error)
{
    if (a->json)
        return bench_report_json(stdout, report, error);
    if (a->csv)
        bench_report_csv(stdout, report);
    else
        bench_report_table(stdout, report);
    return true;
}

/* ---- whole networks -------------------------------------------------------------------------- */

/* An option of the other kind of benchmark. */
static const char *stray_option(const struct arguments *a)
{
    const struct end_to_end_arguments *flow = &a->flow;
    const struct {
        bool given, flow;
        const char *name;
    } options_of_one[] = {
        {a->presets, false, "--preset"},
        {a->grid, false, "--grid"},
        {a->heads.given, false, "--heads"},
        {a->head_dim.given, false, "--head-dim"},
        {a->dtype, false, "--dtype"},
        {a->kernel, false, "--kernel"},
        {a->break_even.given, false, "--break-even"},
        {a->limit.given, false, "--time-limit"},
        {a->csv, false, "--csv"},
        {flow->model, true, "--model"},
        {flow->synthetic, true, "--synthetic"},
        {flow->size, true, "--size"},
        {flow->frames.given, true, "--frames"},
        {flow->steps.given, true, "--steps"},
        {flow->cfg.given, true, "--cfg"},
        {flow->dense_steps, true, "--dense-steps"},
        {flow->full, true, "--full"},
        {flow->device, true, "--device"},
        {flow->precision, true, "--precision"},
        {flow->offload, true, "--offload"},
        {flow->markdown, true, "--markdown"},
    };
    for (size_t i = 0; i < sizeof options_of_one / sizeof *options_of_one; i++)
        if (options_of_one[i].given && options_of_one[i].flow != flow->wanted)
            return options_of_one[i].name;
    return NULL;
}

static bool bench_end_to_end(struct arguments *a, struct error *error)
{
    struct bench_settings set = {0};
    struct end_to_end_arguments *flow = &a->flow;
    if (a->json && flow->markdown)
        return error_set_usage(error, "give --json or --markdown, not both");
    if (!take_attention(a, &set, error) ||
        !take_shares("--dense-steps", flow->dense_steps ? flow->dense_steps : FLOW_SHARES, true,
                     flow->shares, END_TO_END_MAX_SHARES, &flow->share_count, error))
        return false;
    if (!a->probes.given)
        set.desc.probes = -1; /* the model's */
    set.runs = a->runs.given ? (int)a->runs.value : FLOW_RUNS;
    set.threads = (int32_t)a->threads.value;
    return end_to_end_command(flow, &set, a->backend, a->json, a->quiet, error);
}

bool cmd_bench(int argc, char *const *argv, struct error *error)
{
    struct arguments a = {0};
    struct bench_settings settings = {0};
    struct bench_report report;
    struct console console;
    bool help;
    if (!options_parse(&bench_command, argc, argv, &a, &help, error))
        return false;
    if (help) {
        options_print_help(&bench_command, stdout);
        return true;
    }
    const char *stray = stray_option(&a);
    if (stray)
        return error_set_usage(error, "%s: %s with --end-to-end", stray,
                               a.flow.wanted ? "not" : "only");
    if (a.flow.wanted)
        return bench_end_to_end(&a, error);
    if (!take_settings(&a, &settings, error))
        return false;
    console_open(&console, a.quiet);
    bool ok = bench_jobs_run(&settings, &console, &report, error);
    console_close(&console);
    if (ok)
        ok = show(&a, &report, error);
    else if (error->interrupted && !a.json && !a.csv && report.result_count > 0)
        bench_report_table(stdout, &report); /* what there was time for */
    bench_jobs_free(&report);
    return ok;
}
