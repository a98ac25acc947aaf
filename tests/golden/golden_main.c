/*
 * test_golden: replays cases from the reference implementations and compares.
 *
 * A case is a folder; its kind is found by its name, or by the class name in its config.json. One
 * line a case: what was compared as measured/allowed, then ok, FAIL with the reason, or skipped
 * with the reason. Cases of networks that are not here are skipped, never passed. Exit code: 0, 1
 * when a case failed, 77 when nothing ran, 2 for a mistake on the command line.
 */
#include "golden.h"

#include "io/config.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CASES_MAX 256
#define PATH_SIZE 4096

enum outcome { PASSED, FAILED, SKIPPED, OUTCOMES };

struct kind {
    const char *prefix;
    const char *class_name; /* NULL: by name alone */
    golden_fn run;
};

static const struct kind kinds[] = {
    {"draft", NULL, golden_draft},
    {"schedulers", NULL, golden_schedulers},
    {"tokenizer", NULL, golden_tokenizer},
    {"umt5", "UMT5EncoderModel", golden_umt5},
    {"wan-transformer", "WanTransformer3DModel", golden_wan_transformer},
    {"wan-i2v-transformer", NULL, golden_wan_transformer},
    {"wan-vae", "AutoencoderKLWan", golden_wan_vae},
    {"wan-pipeline", NULL, golden_wan_pipeline},
    {"tiny-world", NULL, golden_tiny_world},
};

struct options {
    const char *cases;
    const char *only; /* NULL = every case */
    const char *model;
    draftattn_backend backend;
    int32_t threads;
    bool gpu, bf16;
    bool help;
};

static const char usage[] =
    "Usage: test_golden [--cases DIR] [--case NAME] [--backend NAME] [--threads N] [--model DIR]\n"
    "                   [--device cpu|cuda] [--precision float32|bf16]\n"
    "\n"
    "  --cases DIR     folder of case folders; default: the bundled ones\n"
    "  --case NAME     this case alone\n"
    "  --backend NAME  auto, reference, portable, avx2, avx512 or cuda; default: auto\n"
    "  --threads N     default: one a core\n"
    "  --model DIR     the bundled model, for the kind tiny-world\n"
    "  --device        cuda: networks and their attention on the first GPU; default: cpu\n"
    "  --precision     of a GPU; bf16 is compared by relative L2 differences; default: float32\n";

static bool parse_value(struct options *options, const char *flag, const char *value,
                        struct error *error)
{
    if (strcmp(flag, "--cases") == 0)
        options->cases = value;
    else if (strcmp(flag, "--case") == 0)
        options->only = value;
    else if (strcmp(flag, "--model") == 0)
        options->model = value;
    else if (strcmp(flag, "--device") == 0) {
        options->gpu = strcmp(value, "cuda") == 0;
        if (!options->gpu && strcmp(value, "cpu") != 0)
            return error_set_usage(error, "--device: '%s' is neither cpu nor cuda", value);
    } else if (strcmp(flag, "--precision") == 0) {
        options->bf16 = strcmp(value, "bf16") == 0;
        if (!options->bf16 && strcmp(value, "float32") != 0)
            return error_set_usage(error, "--precision: '%s' is neither float32 nor bf16", value);
    } else if (strcmp(flag, "--backend") == 0) {
        if (draftattn_backend_from_name(value, &options->backend) != DRAFTATTN_SUCCESS)
            return error_set_usage(error, "--backend: there is no backend '%s'", value);
    } else if (strcmp(flag, "--threads") == 0) {
        char *end;
        long threads = strtol(value, &end, 10);
        if (*end || end == value || threads < 1 || threads > 4096)
            return error_set_usage(error, "--threads: '%s' is not a number from 1 to 4096", value);
        options->threads = (int32_t)threads;
    } else
        return error_set_usage(error, "unknown flag '%s'; see --help", flag);
    return true;
}

static bool parse(struct options *options, int argc, char **argv, struct error *error)
{
    for (int i = 1; i < argc; i += 2) {
        if (strcmp(argv[i], "--help") == 0) {
            options->help = true;
            return true;
        }
        if (i + 1 >= argc)
            return error_set_usage(error, "%s: unknown, or its value is missing", argv[i]);
        if (!parse_value(options, argv[i], argv[i + 1], error))
            return false;
    }
    return true;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_folder(const char *root, const char *name)
{
    char path[PATH_SIZE];
    struct stat status;
    int length = snprintf(path, sizeof path, "%s/%s", root, name);
    return length > 0 && (size_t)length < sizeof path && stat(path, &status) == 0 &&
           S_ISDIR(status.st_mode);
}

/* Names of the folders in root, sorted; freed by the caller one by one. */
static bool list_cases(const char *root, const char *only, char **names, int *count,
                       struct error *error)
{
    *count = 0;
    DIR *folder = opendir(root);
    if (!folder)
        return error_set(error, "%s: cannot be opened as a folder; --cases DIR names another",
                         root);
    for (const struct dirent *entry; (entry = readdir(folder)) && *count < CASES_MAX;) {
        if (entry->d_name[0] == '.' || !is_folder(root, entry->d_name) ||
            (only && strcmp(only, entry->d_name) != 0))
            continue;
        names[*count] = strdup(entry->d_name);
        if (names[*count])
            ++*count;
    }
    closedir(folder);
    if (*count == 0)
        return error_set(error, "%s: holds no case%s%s", root, only ? " named " : "",
                         only ? only : "");
    qsort(names, (size_t)*count, sizeof *names, by_name);
    return true;
}

/* The class name in DIR/config.json, compared with those of the kinds. */
static const struct kind *kind_by_class(const char *dir)
{
    char path[PATH_SIZE];
    struct config *config = NULL;
    const struct kind *found = NULL;
    int length = snprintf(path, sizeof path, "%s/config.json", dir);
    if (length < 0 || (size_t)length >= sizeof path || !config_open(&config, path, NULL))
        return NULL;
    const char *class_name = config_string(config, "_class_name");
    for (size_t i = 0; class_name && i < sizeof kinds / sizeof kinds[0]; i++)
        if (kinds[i].class_name && strcmp(kinds[i].class_name, class_name) == 0)
            found = &kinds[i];
    config_close(config);
    return found;
}

static const struct kind *find_kind(const char *name, const char *dir)
{
    const struct kind *found = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        size_t length = strlen(kinds[i].prefix);
        if (strncmp(name, kinds[i].prefix, length) == 0 &&
            (!found || length > strlen(found->prefix)))
            found = &kinds[i];
    }
    return found ? found : kind_by_class(dir);
}

static enum outcome run_case(const struct golden *setting, const char *root, const char *name)
{
    char dir[PATH_SIZE];
    struct golden golden = *setting;
    struct error error = {0};
    snprintf(dir, sizeof dir, "%s/%s", root, name);
    golden.dir = dir;
    printf("%s:", name);
    fflush(stdout);
    const struct kind *kind = find_kind(name, dir);
    if (!kind) {
        printf(" skipped (no test for this kind of case)\n");
        return SKIPPED;
    }
    bool passed = kind->run(&golden, &error);
    if (passed)
        printf(" ok\n");
    else
        printf(" FAIL (%s)\n", error.text);
    return passed ? PASSED : FAILED;
}

/* 0, or the exit code: a GPU that is not there is a reason to skip. */
static int open_device(struct golden *golden, const struct options *options)
{
    const struct device_desc desc = {.threads = options->threads,
                                     .activations = options->bf16 ? ELEMENT_BF16 : ELEMENT_F32};
    struct error error = {0};
    golden->gpu = options->gpu;
    golden->activations = desc.activations;
    golden->ops = options->gpu ? ops_cuda() : &ops_cpu;
    if (!golden->ops) {
        printf("skipped (built without a GPU runtime)\n");
        return 77;
    }
    if (golden->ops->create(&golden->device, &desc, &error))
        return 0;
    printf("%s (%s)\n", options->gpu ? "skipped" : "FAIL", error.text);
    return options->gpu ? 77 : 1;
}

/* 0, or the exit code. */
static int open_setting(struct golden *golden, const struct options *options)
{
    draftattn_context_desc desc = draftattn_context_desc_default();
    int code = open_device(golden, options);
    if (code != 0)
        return code;
    desc.backend = options->gpu ? DRAFTATTN_BACKEND_CUDA : options->backend;
    desc.threads = options->threads;
    desc.device = options->gpu ? 0 : -1; /* where the networks' memory is */
    draftattn_status status = draftattn_context_create(&golden->context, &desc);
    if (status != DRAFTATTN_SUCCESS) {
        printf("backend %s: %s (%s)\n", draftattn_backend_name(options->backend),
               status == DRAFTATTN_UNSUPPORTED ? "skipped" : "FAIL",
               draftattn_context_last_error(NULL));
        return status == DRAFTATTN_UNSUPPORTED ? 77 : 1;
    }
    golden->model = options->model;
    return 0;
}

static int run_all(const struct golden *golden, const struct options *options)
{
    char *names[CASES_MAX];
    int count;
    int outcomes[OUTCOMES] = {0};
    struct error error = {0};
    if (!list_cases(options->cases, options->only, names, &count, &error)) {
        fprintf(stderr, "test_golden: %s\n", error.text);
        return 1;
    }
    for (int i = 0; i < count; i++) {
        outcomes[run_case(golden, options->cases, names[i])]++;
        free(names[i]);
    }
    printf("%d passed, %d failed, %d skipped (backend %s)\n", outcomes[PASSED], outcomes[FAILED],
           outcomes[SKIPPED], draftattn_backend_name(draftattn_context_backend(golden->context)));
    if (outcomes[FAILED])
        return 1;
    return outcomes[PASSED] ? 0 : 77;
}

int main(int argc, char **argv)
{
    struct golden golden = {0};
    struct error error = {0};
    struct options options = {
        .cases = TEST_SOURCE_DIR "/tests/golden/cases",
        .model = TEST_SOURCE_DIR "/samples/tiny-world/checkpoint",
        .backend = DRAFTATTN_BACKEND_AUTO,
    };
    if (!parse(&options, argc, argv, &error)) {
        fprintf(stderr, "test_golden: %s\n", error.text);
        return 2;
    }
    if (options.help) {
        fputs(usage, stdout);
        return 0;
    }
    int code = open_setting(&golden, &options);
    if (code == 0)
        code = run_all(&golden, &options);
    if (golden.device)
        golden.ops->destroy(golden.device);
    draftattn_context_destroy(golden.context);
    return code;
}
