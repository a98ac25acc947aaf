/*
 * draftattn compare: dense attention and variants from one seed. Owns its options, the variants
 * they ask for and the names of the files; the work is in compare.c.
 */
#include "command.h"
#include "compare_summary.h"
#include "console.h"
#include "generate_summary.h"
#include "generation_options.h"
#include "model_location.h"
#include "variant_spec.h"

#include "../compare.h"
#include "../interrupt.h"
#include "../io/output_file.h"
#include "../machine.h"
#include "../shell_word.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define VARIANTS_MAX 16

struct arguments {
    struct generation_arguments common;
    const char *output, *sparsity, *maps;
    struct option_texts variants;
};

static const struct option_spec options[] = {
    GENERATION_ROWS_PROMPT,
    OPTION_ROW_HEADING("Files"),
    GENERATION_ROW_MODEL,
    OPTION_ROW_TEXT('o', "output", "FOLDER", output,
                    "where the files go, or NAME.html: the others are then NAME-... beside it "
                    "(default: compare-SEED)"),
    GENERATION_ROW_NOISE,
    OPTION_ROW_HEADING("Variants"),
    OPTION_ROW_TEXT(0, "sparsity", "LIST", sparsity,
                    "draft attention at each of these, such as 0.75,0.9 (default, where there is "
                    "no --variant: 0.75,0.9)"),
    OPTION_ROW_TEXTS('v', "variant", "SPEC", variants,
                     "POLICY[:SPARSITY][:KEY=VALUE]...; may be given several times. Policies: "
                     "draft, draft-paper, dense. Keys: " VARIANT_SPEC_KEYS
                     ". What is not given is as for generate. Such as draft:0.9:compensation=off"),
    OPTION_ROW_TEXT(0, "maps", "LIST", maps,
                    "layer:head:step of the draft maps in the report, such as 0:1:5,7:0:12; layers "
                    "and heads from 0, steps from 1 (default: a spread, and the head with the "
                    "worst estimated error)"),
    GENERATION_ROWS_VIDEO,
    GENERATION_ROWS_SAMPLING,
    OPTION_ROW_HEADING("Attention of all variants"),
    GENERATION_ROWS_ATTENTION,
    GENERATION_ROWS_MACHINE,
    OPTION_ROW_HEADING("Messages"),
    OPTION_ROW_FLAG(0, "json", common.json,
                    "the figures as JSON on standard output instead of the table"),
    OPTION_ROW_FLAG('q', "quiet", common.quiet, "no progress"),
    OPTION_ROW_END,
};

const struct command_spec compare_command = {
    .name = "compare",
    .summary = "measure variants of attention against dense",
    .usage = "-p TEXT [-o FOLDER] [options]",
    .text = "Makes the same video with dense attention and with every variant, and says how much "
            "faster each was and how close it came: a table on standard output, report.html, a "
            "video of each, side-by-side.mp4 (the first six) and comparison.json.",
    .options = options,
};

/* Names of the outputs. */
struct outputs {
    char prefix[MODEL_PATH_MAX], report[MODEL_PATH_MAX + 16], json[MODEL_PATH_MAX + 16];
    char folder[MODEL_PATH_MAX]; /* "" = none of ours */
    bool made;                   /* folder was not there before */
};

static bool name_outputs(const char *output, uint64_t seed, struct outputs *out,
                         struct error *error)
{
    char standard[64];
    snprintf(standard, sizeof standard, "compare-%" PRIu64, seed);
    if (!output)
        output = standard;
    size_t length = strlen(output);
    if (length == 0 || length > MODEL_PATH_MAX - 128)
        return error_set_usage(error, "--output '%.100s': %s", output,
                               length ? "longer than a path can be" : "names nothing");
    bool page = length > 5 && strcasecmp(output + length - 5, ".html") == 0;
    if (page) {
        int stem = (int)length - 5;
        snprintf(out->report, sizeof out->report, "%s", output);
        snprintf(out->prefix, sizeof out->prefix, "%.*s-", stem, output);
    } else {
        while (length > 1 && output[length - 1] == '/')
            length--;
        snprintf(out->folder, sizeof out->folder, "%.*s", (int)length, output);
        snprintf(out->prefix, sizeof out->prefix, "%.*s/", (int)length, output);
        snprintf(out->report, sizeof out->report, "%sreport.html", out->prefix);
    }
    snprintf(out->json, sizeof out->json, "%scomparison.json", out->prefix);
    return true;
}

static bool make_folder(struct outputs *out, struct error *error)
{
    struct stat info;
    if (!out->folder[0])
        return true;
    out->made = mkdir(out->folder, 0777) == 0;
    if (out->made)
        return true;
    int reason = errno;
    if (reason != EEXIST)
        return error_set(error, "--output '%s': cannot make this folder: %s", out->folder,
                         output_file_reason(reason));
    return (stat(out->folder, &info) == 0 && S_ISDIR(info.st_mode)) ||
           error_set(error,
                     "--output '%s': is there and no folder; name another, or NAME.html for files "
                     "beside each other",
                     out->folder);
}

/* ---- variants -------------------------------------------------------------------------------- */

struct variants {
    struct compare_variant list[VARIANTS_MAX];
    int64_t count;
};

static bool add_variant(struct variants *variants, const struct compare_variant *variant,
                        struct error *error)
{
    struct compare_variant *to = &variants->list[variants->count];
    if (variants->count == VARIANTS_MAX)
        return error_set_usage(error, "more than %d variants", VARIANTS_MAX - 1);
    *to = *variant;
    if (variants->count > 0 && strcmp(to->name, variants->list[0].name) == 0) {
        snprintf(to->label, sizeof to->label, "dense again"); /* tells how exact the times are */
        snprintf(to->name, sizeof to->name, "dense-again");
    }
    for (int64_t i = 0; i < variants->count; i++)
        if (strcmp(variants->list[i].name, to->name) == 0)
            return error_set_usage(error, "the variant '%s' is there twice", to->label);
    variants->count++;
    return true;
}

/* "0.75,0.9" */
static bool add_sparsities(struct variants *variants, const char *text,
                           const draftattn_plan_desc *base, struct error *error)
{
    char number[32];
    struct compare_variant variant;
    for (const char *at = text;; at++) {
        size_t length = strcspn(at, ",");
        double sparsity;
        snprintf(number, sizeof number, "%.*s", length < 31 ? (int)length : 31, at);
        if (!parse_real("--sparsity", number, 0, 1, true, &sparsity, error))
            return error_append(error, "; several are separated by commas, such as 0.75,0.9");
        variant_spec_draft(sparsity, base, &variant);
        if (!add_variant(variants, &variant, error))
            return false;
        at += length;
        if (!*at)
            return true;
    }
}

static bool list_variants(const struct arguments *a, const draftattn_plan_desc *base,
                          struct variants *variants, struct error *error)
{
    struct compare_variant variant;
    const char *sparsity = a->sparsity ? a->sparsity : a->variants.count ? NULL : "0.75,0.9";
    if (!variant_spec_parse("dense", base, &variant, error) ||
        !add_variant(variants, &variant, error) ||
        (sparsity && !add_sparsities(variants, sparsity, base, error)))
        return false;
    for (int i = 0; i < a->variants.count; i++)
        if (!variant_spec_parse(a->variants.values[i], base, &variant, error) ||
            !add_variant(variants, &variant, error))
            return false;
    return true;
}

/* ---- maps ------------------------------------------------------------------------------------ */

static bool parse_place(const char **at, const int64_t low[3], const int64_t high[3],
                        struct capture_place *out)
{
    int64_t values[3];
    for (int i = 0; i < 3; i++) {
        char number[16];
        size_t length = strspn(*at, "0123456789");
        snprintf(number, sizeof number, "%.*s", length < 15 ? (int)length : 15, *at);
        if (!parse_int("--maps", number, low[i], high[i], &values[i], NULL))
            return false;
        *at += length;
        if (i < 2 && *(*at)++ != ':')
            return false;
    }
    *out = (struct capture_place){(int32_t)values[0], (int32_t)values[1], (int32_t)values[2] - 1};
    return true;
}

static bool is_listed(const struct capture_place *places, int32_t count,
                      const struct capture_place *place)
{
    for (int32_t i = 0; i < count; i++)
        if (places[i].layer == place->layer && places[i].head == place->head &&
            places[i].step == place->step)
            return true;
    return false;
}

static bool parse_places(const char *text, const struct model *model, int64_t steps,
                         struct capture_place *places, int32_t *count, struct error *error)
{
    const int64_t low[3] = {0, 0, 1};
    const int64_t high[3] = {model->transformer.layers - 1, model->transformer.heads - 1, steps};
    *count = 0;
    if (!text)
        return true;
    for (const char *at = text; *count < CAPTURE_PLACES_MAX; at++) {
        if (!parse_place(&at, low, high, &places[*count]))
            break;
        *count += !is_listed(places, *count, &places[*count]);
        if (!*at)
            return true;
        if (*at != ',')
            break;
    }
    return error_set_usage(error,
                           "--maps '%s': takes up to %d layer:head:step such as 0:1:5,7:0:12; "
                           "layers 0 to %" PRId64 ", heads 0 to %" PRId64 ", steps 1 to %" PRId64,
                           text, CAPTURE_PLACES_MAX, high[0], high[1], high[2]);
}

/* ---- the command ----------------------------------------------------------------------------- */

/* Whose run the console speaks of. */
struct listener {
    struct console console;
    int64_t index;
    bool after; /* the runs are done; what follows takes seconds */
};

static bool on_step(void *user, enum generate_phase phase, int64_t done, int64_t total)
{
    struct listener *listener = user;
    if (listener->after)
        return !interrupt_requested();
    return console_step(&listener->console, phase, done, total);
}

/* The memory plan is the same for all; what a variant's attention does is said at the end. */
static void on_note(void *user, const char *text)
{
    struct listener *listener = user;
    if (listener->index == 0)
        console_note(&listener->console, text);
}

static void on_begin(void *user, int64_t index, int64_t count, const char *label)
{
    struct listener *listener = user;
    listener->index = index;
    listener->after = index == count;
    console_close(&listener->console);
    listener->console.label = label;
    if (listener->after)
        console_print(&listener->console, "%s\n", label);
    else
        console_print(&listener->console, "run %" PRId64 " of %" PRId64 ": %s\n", index + 1, count,
                      label);
}

/* The command line as it can be given to a shell again, with the seed where it was drawn (NULL =
 * given); malloc'd. */
static char *quote_command(int argc, char *const *argv, const uint64_t *drawn)
{
    size_t size = sizeof "draftattn compare --seed 18446744073709551615";
    for (int i = 0; i < argc; i++)
        size += 1 + SHELL_WORD_SIZE(strlen(argv[i]));
    char *text = malloc(size), *at = text;
    if (!text)
        return NULL;
    at += sprintf(at, "draftattn compare");
    if (drawn)
        at += sprintf(at, " --seed %" PRIu64, *drawn);
    for (int i = 0; i < argc; i++) {
        *at++ = ' ';
        at += shell_word(at, argv[i]);
    }
    return text;
}

static bool print_results(const struct arguments *a, const struct compare_job *job,
                          const struct comparison *comparison, struct error *error)
{
    if (a->common.json) {
        char *text = comparison_json(comparison);
        if (text)
            puts(text); /* what comes of it is asked at the end, for all commands */
        free(text);
        return text || error_out_of_memory(error, "the figures", 1 << 20);
    }
    compare_summary_print(stdout, comparison);
    for (int64_t i = 1; i < comparison->variant_count; i++)
        if (comparison->variants[i].map_count < job->place_count)
            printf("%s: %" PRId64 " of the %d --maps; the others' calls ran dense.\n",
                   comparison->variants[i].label, comparison->variants[i].map_count,
                   job->place_count);
    if (comparison->page)
        printf("Report: %s\n", comparison->page);
    if (comparison->side_by_side)
        printf("Side by side: %s\n", comparison->side_by_side);
    return true;
}

static bool run(const struct arguments *a, const struct generate_settings *settings,
                const struct model *model, const struct outputs *outputs, const char *command,
                struct listener *listener, struct error *error)
{
    struct variants variants = {.count = 0};
    struct capture_place places[CAPTURE_PLACES_MAX];
    struct comparison comparison = {0};
    char machine[192];
    const struct generate_events events = {.step = on_step, .note = on_note, .user = listener};
    struct compare_job job = {
        .model = model,
        .settings = settings,
        .variants = variants.list,
        .places = places,
        .prefix = outputs->prefix,
        .report = outputs->report,
        .json = outputs->json,
        .command = command,
        .machine = machine,
        .events = &events,
        .begin = on_begin,
    };
    machine_describe(settings->runtime.threads, machine, sizeof machine);
    bool ok = list_variants(a, &settings->attention, &variants, error) &&
              parse_places(a->maps, model, settings->steps, places, &job.place_count, error);
    job.variant_count = variants.count;
    ok = ok && compare_run(&job, &comparison, error);
    console_close(&listener->console);
    if (comparison.measured)
        ok = print_results(a, &job, &comparison, error) && ok;
    comparison_free(&comparison);
    return ok;
}

static bool compare(const struct arguments *a, struct generate_settings *settings,
                    struct outputs *outputs, const char *command, struct error *error)
{
    char path[MODEL_PATH_MAX];
    struct model model = {0};
    struct listener listener = {.index = 0};
    const struct generate_events events = {.note = on_note, .user = &listener};
    console_open(&listener.console, a->common.quiet);
    settings->output = outputs->report; /* every run gets its own */
    bool ok = model_location_find(a->common.model, path, sizeof path, error) &&
              model_open(&model, path, error) &&
              generate_settings_resolve(settings, &model, &events, error) &&
              make_folder(outputs, error);
    if (ok) {
        listener.console.steps = settings->steps;
        generate_summary_begin(&listener.console, settings, path);
        ok = run(a, settings, &model, outputs, command, &listener, error);
    }
    console_close(&listener.console);
    if (!ok && outputs->made)
        rmdir(outputs->folder); /* where nothing was finished; else it stays */
    model_close(&model);
    return ok;
}

bool cmd_compare(int argc, char *const *argv, struct error *error)
{
    struct arguments arguments = {0};
    struct generate_settings settings = generate_settings_default();
    struct generation_texts texts = {0};
    struct outputs outputs = {.made = false};
    bool help;
    if (!options_parse(&compare_command, argc, argv, &arguments, &help, error))
        return false;
    if (help) {
        options_print_help(&compare_command, stdout);
        return true;
    }
    bool ok = generation_options_take(&arguments.common, &settings, &texts, error) &&
              name_outputs(arguments.output, settings.seed, &outputs, error);
    char *command =
        ok ? quote_command(argc, argv, arguments.common.seed.given ? NULL : &settings.seed) : NULL;
    if (ok && !command)
        ok = error_out_of_memory(error, "the command line", 4096);
    ok = ok && compare(&arguments, &settings, &outputs, command, error);
    generation_texts_free(&texts);
    free(command);
    return ok;
}
