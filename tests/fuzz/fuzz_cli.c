/*
 * Command lines, one argument a line, the command's name first. Every option table parses them;
 * then the commands themselves run, up to the point where the work would begin: the linker puts
 * this file's generate_run() and so on in place of the real ones.
 */
#define _GNU_SOURCE
#include "fuzz_input.h"

#include "unit/scratch.h"

#include "cli/bench_jobs.h"
#include "cli/command.h"
#include "compare.h"
#include "decode_video.h"
#include "generate.h"

#define MAX_ARGUMENTS 48
#define MODEL         TEST_SOURCE_DIR "/samples/tiny-world/checkpoint"

/* As large as the struct arguments of any command. */
static union {
    max_align_t align;
    char bytes[1 << 16];
} fields;

static const struct command_spec *const specs[] = {&generate_command, &compare_command,
                                                   &bench_command,    &decode_command,
                                                   &inspect_command,  &info_command};

/* All but info, whose arguments are flags alone, and which asks FFmpeg for its encoders. */
static bool (*const commands[])(int argc, char *const *argv, struct error *error) = {
    cmd_generate, cmd_compare, cmd_bench, cmd_decode, cmd_inspect};

bool __wrap_generate_run(const struct model *model, const struct generate_settings *settings,
                         const struct generate_events *events, struct generate_report *report,
                         struct error *error);
bool __wrap_decode_video(const struct decode_video *job, struct decode_video_times *times,
                         struct error *error);
bool __wrap_compare_run(const struct compare_job *job, struct comparison *out, struct error *error);
bool __wrap_bench_jobs_run(const struct bench_settings *settings, struct console *console,
                           struct bench_report *report, struct error *error);

bool __wrap_generate_run(const struct model *model, const struct generate_settings *settings,
                         const struct generate_events *events, struct generate_report *report,
                         struct error *error)
{
    char comment[1024];
    (void)model, (void)events, (void)report;
    generate_settings_describe(settings, "model", comment, sizeof comment);
    if (settings->width < 16 || settings->height < 16 || settings->frames < 1 ||
        settings->steps < 1 || settings->attention.dense_layer_count < 0)
        abort();
    return error_set(error, "not run");
}

bool __wrap_decode_video(const struct decode_video *job, struct decode_video_times *times,
                         struct error *error)
{
    (void)job, (void)times;
    return error_set(error, "not run");
}

bool __wrap_compare_run(const struct compare_job *job, struct comparison *out, struct error *error)
{
    (void)out;
    if (job->variant_count < 2 || job->place_count < 0)
        abort();
    for (int64_t i = 0; i < job->variant_count; i++) {
        double sparsity = job->variants[i].attention.sparsity;
        if (!(sparsity < 1) || !job->variants[i].label[0])
            abort();
    }
    return error_set(error, "not run");
}

bool __wrap_bench_jobs_run(const struct bench_settings *settings, struct console *console,
                           struct bench_report *report, struct error *error)
{
    (void)console;
    *report = (struct bench_report){0};
    if (settings->grid_count < 1 || settings->kernel_count < 1 || settings->sparsity_count < 1 ||
        settings->grid_count > BENCH_MAX_GRIDS || settings->kernel_count > BENCH_MAX_KERNELS ||
        settings->sparsity_count > BENCH_MAX_SPARSITY || settings->runs < 1)
        abort();
    return error_set(error, "not run");
}

/* compare makes its folder where we stand. */
static struct scratch scratch;

static void close_scratch(void)
{
    scratch_close(&scratch);
}

static void prepare(void)
{
    if (scratch_open(&scratch) != 0 || chdir(scratch.root) != 0)
        abort();
    atexit(close_scratch);
    setenv("DRAFTATTN_MODEL", MODEL, 1);
}

static void parse_everywhere(int argc, char *const *argv)
{
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct error error = {0};
        bool help;
        memset(&fields, 0, sizeof fields);
        if (!options_parse(specs[i], argc, argv, &fields, &help, &error) &&
            (!error.usage || !error.text[0]))
            abort();
    }
}

/* Sizes, lists and so on are parsed where a command asks for them; here whatever stands there. */
static void parse_values(const char *text)
{
    struct error error = {0};
    int64_t a = 0, b = 0, tile = -1;
    int32_t *list = NULL, count = 0;
    double real;
    if (parse_size("x", text, 1, 16384, &a, &b, &error) &&
        (a < 1 || b < 1 || a > 16384 || b > 16384))
        abort();
    if (parse_list("x", text, 64, &list, &count, &error) && (count < 1 || count > 64))
        abort();
    for (int32_t i = 0; i < count; i++)
        if (list[i] < 0 || list[i] >= 64 || (i > 0 && list[i] <= list[i - 1]))
            abort();
    free(list);
    if (parse_tile("x", text, &tile, &error) && (tile < -1 || tile > 16384))
        abort();
    if (parse_int("x", text, -5, 5, &a, &error) && (a < -5 || a > 5))
        abort();
    if (parse_real("x", text, -1, 1, true, &real, &error) && !(real >= -1 && real < 1))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_text(data, size), *argv[MAX_ARGUMENTS + 1] = {0};
    int argc = 0;
    if (!scratch.root[0])
        prepare();
    for (char *line = text; line && argc < MAX_ARGUMENTS;) {
        argv[argc++] = line;
        line = strchr(line, '\n');
        if (line)
            *line++ = '\0';
    }
    parse_everywhere(argc - 1, argv + 1);
    for (int i = 0; i < argc; i++)
        parse_values(argv[i]);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        struct error error = {0};
        if (strcmp(argv[0], specs[i]->name) == 0 && !commands[i](argc - 1, argv + 1, &error) &&
            !error.text[0])
            abort();
    }
    free(text);
    return 0;
}
