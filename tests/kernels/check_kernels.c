/*
 * check_kernels: every row of variants.def that this machine can run, against the double reference;
 * and the CPU's rows timed (test_attend_cuda --time and `draftattn bench` time a GPU's).
 *
 *     check_kernels [--seed N] [--problems N] [--kernel NAME] [--backend NAME] [--bench]
 *
 * Exit code 0 = all right, 1 = failures, 2 = usage, 77 = the backend asked for does not work here.
 */
#include "check_kernels.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool parse_number(const char *text, int64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoll(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' && *out >= 0;
}

static bool parse(int count, char **words, struct check_options *options, bool *bench)
{
    for (int i = 1; i < count; i++) {
        const char *value = i + 1 < count ? words[i + 1] : "";
        int64_t number;
        if (strcmp(words[i], "--bench") == 0) {
            *bench = true;
            continue;
        }
        if (strcmp(words[i], "--seed") == 0 && parse_number(value, &number)) {
            options->seed = (uint64_t)number;
        } else if (strcmp(words[i], "--problems") == 0 && parse_number(value, &number)) {
            options->problems = number;
        } else if (strcmp(words[i], "--kernel") == 0 && *value) {
            options->kernel = value;
        } else if (strcmp(words[i], "--backend") != 0 ||
                   draftattn_backend_from_name(value, &options->backend) != DRAFTATTN_SUCCESS) {
            fprintf(stderr,
                    "%s %s: not understood\nusage: %s [--seed N] [--problems N] [--kernel NAME] "
                    "[--backend NAME] [--bench]\n",
                    words[i], value, words[0]);
            return false;
        }
        i++;
    }
    return true;
}

/* A name that no row has would pass without having tested anything. */
static bool kernel_exists(const char *name)
{
    draftattn_kernel_info info;

    for (int32_t i = 0; draftattn_kernel_get(i, &info) == DRAFTATTN_SUCCESS; i++) {
        if (strcmp(info.name, name) == 0) {
            return true;
        }
    }
    fprintf(stderr, "--kernel %s: no such row in kernels/variants.def\n", name);
    return false;
}

int main(int count, char **words)
{
    struct check_options options = {.seed = 1, .problems = 120};
    bool bench = false;

    if (!parse(count, words, &options, &bench)) {
        return 2;
    }
    if (options.kernel && !kernel_exists(options.kernel)) {
        return 2;
    }
    if (options.backend != DRAFTATTN_BACKEND_AUTO) {
        draftattn_context_desc desc = draftattn_context_desc_default();
        draftattn_context *context;
        desc.backend = options.backend;
        if (draftattn_context_create(&context, &desc) != DRAFTATTN_SUCCESS) {
            printf("skipped: %s\n", draftattn_context_last_error(NULL));
            return 77;
        }
        draftattn_context_destroy(context);
    }
    if (bench && options.backend == DRAFTATTN_BACKEND_CUDA) {
        fprintf(stderr, "--bench times CPU kernels; test_attend_cuda --time has those of a GPU\n");
        return 2;
    }
    if (bench) {
        return bench_tiles(&options);
    }
    printf("seed %llu, %lld problems\n", (unsigned long long)options.seed,
           (long long)options.problems);
    int failures = check_tiles(&options);
    if (!options.kernel) {
        failures += check_library(&options);
    }
    printf("%d failures\n", failures);
    return failures != 0;
}
