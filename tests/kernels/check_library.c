/*
 * Whole calls of the library on each backend that this machine has: random grids, text, batches,
 * heads, layouts, number formats, densities and injected lists, judged by check_case(). Reaches
 * every row of variants.def, those without a micro-kernel of their own too.
 */
#include "check_kernels.h"

#include <stdio.h>

static const draftattn_backend backends[] = {DRAFTATTN_BACKEND_REFERENCE,
                                             DRAFTATTN_BACKEND_PORTABLE, DRAFTATTN_BACKEND_AVX2,
                                             DRAFTATTN_BACKEND_AVX512, DRAFTATTN_BACKEND_CUDA};

static void choose_grid(struct random *random, draftattn_plan_desc *desc)
{
    desc->grid.frames = random_between(random, 1, 7);
    desc->grid.height = random_between(random, 1, 19);
    desc->grid.width = random_between(random, 1, 21);
    if (desc->policy == DRAFTATTN_POLICY_DRAFT_PAPER) {
        desc->grid.height = 8 * random_between(random, 1, 3);
        desc->grid.width = 16 * random_between(random, 1, 2);
    }
    desc->grid.text_tokens = random_chance(random, 0.5) ? 0 : random_between(random, 1, 300);
}

struct test_case random_case(struct random *random)
{
    static const double sparsities[] = {0, 0.3, 0.5, 0.8, 0.9, 0.97};
    struct test_case test = {.desc = draftattn_plan_desc_default()};
    draftattn_plan_desc *desc = &test.desc;
    const double policy = random_uniform(random);

    desc->min_tokens = 1; /* sparse whatever it costs */
    desc->policy = policy < 0.8   ? DRAFTATTN_POLICY_DRAFT
                   : policy < 0.9 ? DRAFTATTN_POLICY_DRAFT_PAPER
                                  : DRAFTATTN_POLICY_DENSE;
    choose_grid(random, desc);
    desc->batch = (int32_t)random_between(random, 1, 2);
    desc->heads = (int32_t)random_between(random, 1, 3);
    desc->head_dim = random_chance(random, 0.5) ? 64 : 128;
    desc->in_dtype = (draftattn_dtype)random_between(random, 0, 2);
    desc->out_dtype = (draftattn_dtype)random_between(random, 0, 2);
    desc->softmax_scale = random_chance(random, 0.8) ? 0 : 0.07f;
    desc->order = random_chance(random, 0.7) ? DRAFTATTN_ORDER_RASTER : DRAFTATTN_ORDER_BLOCK;
    desc->sparsity = sparsities[random_between(random, 0, 5)];
    /* The published method knows one block size. */
    desc->key_block =
        random_chance(random, 0.7) || desc->policy == DRAFTATTN_POLICY_DRAFT_PAPER ? 128 : 64;
    desc->strip_height = (int32_t)random_between(random, 1, 12);
    desc->score = random_chance(random, 0.5) ? DRAFTATTN_SCORE_MASS : DRAFTATTN_SCORE_SPREAD;
    desc->row_floor = random_uniform(random);
    desc->head_spread = 1 + random_uniform(random);
    desc->compensation = random_chance(random, 0.6);
    desc->probes = 0, desc->repair = 0; /* their outputs are not the definition's */
    desc->dense_steps = 0;
    test.layout = (enum layout)random_between(random, 0, LAYOUT_COUNT - 1);
    test.deviation = random_chance(random, 0.8) ? 1 : 2.5;
    test.list_share = -1;
    if (desc->policy == DRAFTATTN_POLICY_DRAFT && random_chance(random, 0.3)) {
        test.list_share = random_uniform(random);
    }
    test.rows = 60;
    test.seed = random_bits(random);
    return test;
}

static bool supports(draftattn_context *context, const draftattn_plan_desc *desc)
{
    draftattn_plan *plan;
    bool made = draftattn_plan_create(&plan, context, desc) == DRAFTATTN_SUCCESS;

    draftattn_plan_destroy(plan);
    return made;
}

/* The problem as the one kernel of a context takes it. */
static void fit_to_kernel(struct test_case *test, draftattn_context *context,
                          const draftattn_kernel_info *kernel, struct random *random)
{
    test->desc.head_dim = kernel->head_dim;
    if (!supports(context, &test->desc)) {
        test->desc.in_dtype = test->desc.in_dtype != DRAFTATTN_F32 ? DRAFTATTN_F32
                              : random_chance(random, 0.5)         ? DRAFTATTN_F16
                                                                   : DRAFTATTN_BF16;
    }
}

/* kernel NULL = the plans choose. */
static int check_context(draftattn_context *context, const draftattn_kernel_info *kernel,
                         const struct check_options *options)
{
    const draftattn_backend backend = draftattn_context_backend(context);
    const char *name = kernel ? kernel->name : draftattn_backend_name(backend);
    /* The reference against itself: only what stands around it is tested, and it is slow. */
    const int64_t problems =
        backend == DRAFTATTN_BACKEND_REFERENCE ? options->problems / 4 : options->problems;
    struct random random = {options->seed};
    struct verdict worst = {0};
    char text[400];
    int failures = 0;

    for (int64_t i = 0; i < problems; i++) {
        struct test_case test = random_case(&random);
        struct verdict verdict = {0};
        if (kernel) {
            fit_to_kernel(&test, context, kernel, &random);
        }
        check_case(context, &test, &verdict);
        if (!(verdict.measured <= 1)) {
            test_case_describe(&test, text, sizeof(text));
            printf("%s: problem %lld fails: %s\n    %s\n", name, (long long)i, verdict.where, text);
            failures++;
        }
        /* The rounding of a 16-bit output hides what the kernel adds. */
        if (verdict.measured >= worst.measured &&
            (test.desc.out_dtype == DRAFTATTN_F32 || verdict.measured > 1)) {
            worst = verdict;
        }
    }
    printf("%-22s whole calls   measured/allowed %.3f  %s\n", name, worst.measured, worst.where);
    return failures;
}

static int check_backend(draftattn_backend backend, const draftattn_kernel_info *kernel,
                         const struct check_options *options)
{
    draftattn_context_desc desc = draftattn_context_desc_default();
    draftattn_context *context;

    desc.backend = backend;
    desc.kernel = kernel ? kernel->name : NULL;
    draftattn_status status = draftattn_context_create(&context, &desc);
    if (status == DRAFTATTN_UNSUPPORTED) {
        printf("%-22s skipped: %s\n", draftattn_backend_name(backend),
               draftattn_context_last_error(NULL));
        return 0;
    }
    if (status != DRAFTATTN_SUCCESS) {
        printf("%s: no context: %s\n", draftattn_backend_name(backend),
               draftattn_context_last_error(NULL));
        return 1;
    }
    int failures = check_context(context, kernel, options);
    draftattn_context_destroy(context);
    return failures;
}

/* A device has several kernels for the same problem, of which plans take the fastest alone. */
static int check_kernels_of(draftattn_backend backend, const struct check_options *options)
{
    draftattn_kernel_info kernel;
    int failures = 0;

    for (int32_t i = 0; draftattn_kernel_get(i, &kernel) == DRAFTATTN_SUCCESS; i++) {
        if (kernel.backend == backend && kernel.available) {
            failures += check_backend(backend, &kernel, options);
        }
    }
    return failures;
}

int check_library(const struct check_options *options)
{
    int failures = 0;

    for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
        if (options->backend != DRAFTATTN_BACKEND_AUTO && options->backend != backends[i]) {
            continue;
        }
        failures += check_backend(backends[i], NULL, options);
        if (backends[i] == DRAFTATTN_BACKEND_CUDA) {
            failures += check_kernels_of(backends[i], options);
        }
    }
    return failures;
}
