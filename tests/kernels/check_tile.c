/*
 * The micro-kernels of the CPU rows of variants.def against a double oracle: one tile of query rows
 * and panels of keys, in place or scattered (kernels/cpu/attend.h), shapes around every edge,
 * hostile fills.
 *
 * What is allowed is the first-order error of float arithmetic, computed beside the oracle: a logit
 * may be off by DOT ulps of the sum of its absolute products A, which moves o by sum_t w_t A_t |v_t
 * - o|; a weighted sum may be off by SUM ulps of sum_t w_t |v_t|. DOT and SUM are stated per fill.
 */
#include "check_kernels.h"

#include "attend.h"
#include "cpu_features.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { GUARD = 64, MAX_PANELS = 40 };

static const double ulp = 0x1p-24; /* half a spacing of floats at 1 */
static const double ln_2 = 0.693147180559945309;

struct tile_kernel {
    const char *name;
    draftattn_backend backend;
    int32_t head_dim;
    attend_fn run;
};

#define ROW_AVX512(name, dim)      void name(const struct attend_tile *tile);
#define ROW_AVX2(name, dim)        void name(const struct attend_tile *tile);
#define ROW_PORTABLE(name, dim)    void name(const struct attend_tile *tile);
#define ROW_REFERENCE(name, dim)   /* has no micro-kernel */
#define ROW_CUDA(name, dim)        /* nor has the device: check_library() tests both */
#define KERNEL(backend, name, dim) ROW_##backend(name, dim)
#include "variants.def"

#undef ROW_AVX512
#undef ROW_AVX2
#undef ROW_PORTABLE
#define ROW_AVX512(name, dim)      {#name, DRAFTATTN_BACKEND_AVX512, dim, name},
#define ROW_AVX2(name, dim)        {#name, DRAFTATTN_BACKEND_AVX2, dim, name},
#define ROW_PORTABLE(name, dim)    {#name, DRAFTATTN_BACKEND_PORTABLE, dim, name},
#define KERNEL(backend, name, dim) ROW_##backend(name, dim)
static const struct tile_kernel tile_kernels[] = {
#include "variants.def"
};

enum fill {
    FILL_RANDOM,
    FILL_CONSTANT,
    FILL_HUGE,
    FILL_DENORMAL,
    FILL_CLOSED,
    FILL_MEANS,
    FILL_COUNT
};

static const struct {
    const char *name;
    double dot, sum;
} fills[FILL_COUNT] = {
    {"random", 4, 8},
    {"constant", 16, 24},   /* equal terms round the same way: errors add up */
    {"huge logits", 8, 24}, /* one large term, then up to 63 roundings at its size */
    {"denormals", 4, 8},
    {"closed slots", 4, 8}, /* -infinity in the bias: slots, whole panels, whole tiles */
    {"block means", 4, 8},  /* log2(n) in the bias */
};

struct tile_problem {
    int32_t head_dim, rows;
    int64_t panel_count;
    enum fill fill;
    float *q, *k, *v, *bias, *o, *lse, *scratch;
    int64_t place[MAX_PANELS * ATTEND_PANEL_KEYS]; /* of every key, in the order of the panels */
    struct rows q_rows, o_rows;
    struct attend_panel panels[MAX_PANELS];
    struct attend_tile tile;
};

/* --- problems ------------------------------------------------------------------------------ */

/* NaN between guard bands of NaN: reading past an end poisons results, writing past it shows. */
static float *guarded(int64_t count)
{
    float *memory = check_alloc((size_t)(count + 2 * GUARD) * sizeof(float));
    memset(memory, 0xff, (size_t)(count + 2 * GUARD) * sizeof(float));
    return memory + GUARD;
}

static bool guards_hold(const float *values, int64_t count)
{
    const unsigned char *before = (const unsigned char *)(values - GUARD);
    const unsigned char *after = (const unsigned char *)(values + count);

    for (size_t i = 0; i < GUARD * sizeof(float); i++) {
        if (before[i] != 0xff || after[i] != 0xff) {
            return false;
        }
    }
    return true;
}

static void release(float *values)
{
    free(values - GUARD);
}

static double fill_value(enum fill fill, struct random *random)
{
    switch (fill) {
    case FILL_CONSTANT:
        return 0.3;
    case FILL_DENORMAL:
        return 1e-40 * random_normal(random);
    default:
        return random_normal(random);
    }
}

static void fill_bias(struct tile_problem *problem, struct random *random)
{
    const bool all_closed = random_chance(random, 0.1);

    for (int64_t panel = 0; panel < problem->panel_count; panel++) {
        bool closed = all_closed || random_chance(random, 0.3);
        for (int64_t i = 0; i < ATTEND_PANEL_KEYS; i++) {
            float *bias = &problem->bias[panel * ATTEND_PANEL_KEYS + i];
            *bias = 0;
            if (problem->fill == FILL_MEANS) {
                *bias = (float)log2((double)random_between(random, 1, 128));
            }
            if (closed || random_chance(random, 0.4)) {
                *bias = -INFINITY;
            }
        }
    }
}

/* The rows of a head in any order. */
static void scatter(struct tile_problem *problem, int64_t keys, struct random *random)
{
    for (int64_t i = 0; i < keys; i++) {
        int64_t other = random_between(random, 0, i);
        problem->place[i] = problem->place[other];
        problem->place[other] = i;
    }
}

/* Full panels in place, as timings want them; or short and scattered ones among them. */
static void make_panels(struct tile_problem *problem, bool plain, struct random *random)
{
    const bool biased = problem->fill == FILL_CLOSED || problem->fill == FILL_MEANS;
    const bool scattered = !plain && random_chance(random, 0.5);
    const bool all_short = !plain && random_chance(random, 0.5);
    const int64_t head_dim = problem->head_dim;

    for (int64_t i = 0; i < problem->panel_count * ATTEND_PANEL_KEYS; i++) {
        problem->place[i] = i;
    }
    if (scattered) {
        scatter(problem, problem->panel_count * ATTEND_PANEL_KEYS, random);
    }
    for (int64_t i = 0; i < problem->panel_count; i++) {
        int64_t first = i * ATTEND_PANEL_KEYS, row = scattered ? 0 : first;
        problem->panels[i] = (struct attend_panel){
            .k = problem->k + row * head_dim,
            .v = problem->v + row * head_dim,
            .place = scattered ? problem->place + first : NULL,
            .bias = biased ? problem->bias + first : NULL,
            .keys = ATTEND_PANEL_KEYS,
        };
        if (all_short || (!plain && random_chance(random, 0.2))) {
            problem->panels[i].keys = (int32_t)random_between(random, 1, ATTEND_PANEL_KEYS);
        }
    }
}

static void make_problem(struct tile_problem *problem, bool plain, struct random *random)
{
    const int64_t head_dim = problem->head_dim, keys = problem->panel_count * ATTEND_PANEL_KEYS;
    problem->q = guarded(problem->rows * head_dim);
    problem->o = guarded(problem->rows * head_dim);
    problem->lse = guarded(problem->rows);
    problem->k = guarded(keys * head_dim);
    problem->v = guarded(keys * head_dim);
    problem->bias = guarded(keys);
    problem->scratch = guarded(attend_scratch_floats(problem->head_dim));
    for (int64_t i = 0; i < problem->rows * head_dim; i++) {
        problem->q[i] = (float)fill_value(problem->fill, random);
    }
    for (int64_t i = 0; i < keys * head_dim; i++) {
        problem->k[i] = (float)fill_value(problem->fill, random);
        problem->v[i] = (float)fill_value(problem->fill, random);
    }
    if (problem->fill == FILL_HUGE && keys > 0) {
        /* One key towers over the others, on either side of zero, wherever it comes in the list. */
        int64_t key = random_between(random, 0, keys - 1);
        double size = pow(10, (double)random_between(random, 2, 30));
        for (int64_t d = 0; d < head_dim; d++) {
            problem->k[key * head_dim + d] = (float)(d == 0 ? size : 0);
        }
    }
    fill_bias(problem, random);
    make_panels(problem, plain, random);
    problem->q_rows = rows_dense(problem->q, problem->head_dim);
    problem->o_rows = rows_dense(problem->o, problem->head_dim);
    problem->tile = (struct attend_tile){
        .q = &problem->q_rows,
        .o = &problem->o_rows,
        .lse = problem->lse,
        .rows = problem->rows,
        .stream = problem->rows % 2 == 1,
        /* 1 / sqrt(head_dim) is what makes logits of unit variance; times log2(e). */
        .scale = (float)(1.442695 / sqrt((double)head_dim)),
        .panels = problem->panels,
        .panel_count = problem->panel_count,
        .scratch = problem->scratch,
    };
}

static void free_problem(struct tile_problem *problem)
{
    release(problem->q);
    release(problem->o);
    release(problem->lse);
    release(problem->k);
    release(problem->v);
    release(problem->bias);
    release(problem->scratch);
}

/* --- the oracle ---------------------------------------------------------------------------- */

/* The keys of all panels, one after the other: a key's number, its bias, its row of k and v. */
struct seen_key {
    int64_t row;
    double bias;
};

static int64_t see_keys(const struct tile_problem *problem, struct seen_key *keys)
{
    int64_t count = 0;

    for (int64_t i = 0; i < problem->panel_count; i++) {
        const struct attend_panel *panel = &problem->panels[i];
        for (int32_t key = 0; key < panel->keys; key++) {
            keys[count].bias = panel->bias ? (double)panel->bias[key] : 0;
            keys[count++].row = problem->place[i * ATTEND_PANEL_KEYS + key];
        }
    }
    return count;
}

/* Logits to base 2 of one row, and the sums of their absolute products. */
static void oracle_logits(const struct tile_problem *problem, int64_t row,
                          const struct seen_key *keys, int64_t count, double *logit, double *size)
{
    const float *q = problem->q + row * problem->head_dim;

    for (int64_t key = 0; key < count; key++) {
        const float *k = problem->k + keys[key].row * problem->head_dim;
        logit[key] = keys[key].bias;
        size[key] = keys[key].bias > -INFINITY ? fabs(keys[key].bias) : 0;
        for (int64_t d = 0; d < problem->head_dim; d++) {
            double product = (double)(q[d] * problem->tile.scale) * k[d];
            logit[key] += product;
            size[key] += fabs(product);
        }
    }
}

static void judge_row(const struct tile_problem *problem, int64_t row, struct verdict *verdict)
{
    const int64_t head_dim = problem->head_dim;
    const double dot = fills[problem->fill].dot * ulp, sum_ulps = fills[problem->fill].sum * ulp;
    double weight[MAX_PANELS * ATTEND_PANEL_KEYS], size[MAX_PANELS * ATTEND_PANEL_KEYS];
    struct seen_key seen[MAX_PANELS * ATTEND_PANEL_KEYS];
    double largest = -INFINITY, sum = 0, logit_error = 0;
    const int64_t keys = see_keys(problem, seen);

    oracle_logits(problem, row, seen, keys, weight, size);
    for (int64_t key = 0; key < keys; key++) {
        largest = fmax(largest, weight[key]);
    }
    for (int64_t key = 0; key < keys; key++) {
        weight[key] = largest > -INFINITY ? exp2(weight[key] - largest) : 0;
        sum += weight[key];
    }
    for (int64_t key = 0; key < keys; key++) {
        weight[key] = sum > 0 ? weight[key] / sum : 0;
        logit_error += weight[key] * ln_2 * dot * size[key];
    }
    for (int64_t d = 0; d < head_dim; d++) {
        double o = 0, allowed = 0;
        for (int64_t key = 0; key < keys; key++) {
            o += weight[key] * problem->v[seen[key].row * head_dim + d];
        }
        for (int64_t key = 0; key < keys; key++) {
            double v = problem->v[seen[key].row * head_dim + d];
            allowed += weight[key] * (ln_2 * dot * size[key] * fabs(v - o) + sum_ulps * fabs(v));
        }
        /* Below the smallest denormal nothing can be said: one for every key. */
        verdict_add(verdict, problem->o[row * head_dim + d], o,
                    allowed + 1.5e-45 * (double)(keys + 1), "o (row, d)", row, d, 0);
    }
    double lse = sum > 0 ? ln_2 * largest + log(sum) : -INFINITY;
    verdict_add(verdict, problem->lse[row], lse,
                logit_error + ulp * (4 + fabs(lse) + sum_ulps / ulp), "lse (row)", row, 0, 0);
}

static void judge(const struct tile_kernel *kernel, struct tile_problem *problem,
                  struct verdict *verdict)
{
    const int64_t head_dim = problem->head_dim;

    kernel->run(&problem->tile);
    for (int64_t row = 0; row < problem->rows; row++) {
        judge_row(problem, row, verdict);
    }
    if (!guards_hold(problem->o, problem->rows * head_dim) ||
        !guards_hold(problem->lse, problem->rows) ||
        !guards_hold(problem->scratch, attend_scratch_floats(problem->head_dim))) {
        verdict_fail(verdict, "wrote outside o, lse or scratch");
    }

    /* A row's bits do not depend on its neighbours, nor on whether lse is wanted. */
    int64_t row = problem->rows / 2;
    float *alone = guarded(head_dim);
    struct attend_tile tile = problem->tile;
    struct rows alone_rows = rows_dense(alone, problem->head_dim);
    tile.q_begin = row, tile.o = &alone_rows, tile.lse = NULL, tile.rows = 1;
    kernel->run(&tile);
    if (memcmp(alone, problem->o + row * head_dim, (size_t)head_dim * sizeof(float)) != 0) {
        verdict_fail(verdict, "a row alone has other bits than among others");
    }
    release(alone);
}

/* 2^x over its whole range, seen through two keys: o = 2^x / (1 + 2^x). */
static void judge_exp2(const struct tile_kernel *kernel, struct verdict *verdict)
{
    struct random random = {1};
    struct tile_problem problem = {.head_dim = kernel->head_dim,
                                   .rows = ATTEND_MAX_ROWS,
                                   .panel_count = 1,
                                   .fill = FILL_CLOSED};

    make_problem(&problem, true, &random);
    problem.tile.scale = 1;
    for (int64_t i = 0; i < problem.head_dim * ATTEND_PANEL_KEYS; i++) {
        /* The first component of the second key. */
        problem.k[i] = i == problem.head_dim ? 1.0f : 0.0f;
        problem.v[i] = i / problem.head_dim == 1 ? 1.0f : 0.0f;
    }
    for (int64_t i = 0; i < ATTEND_PANEL_KEYS; i++) {
        problem.bias[i] = i < 2 ? 0 : -INFINITY;
    }
    for (int batch = 0; batch < 64; batch++) {
        for (int64_t row = 0; row < problem.rows; row++) {
            problem.q[row * problem.head_dim] = (float)-(
                ((double)(batch * problem.rows + row) + random_uniform(&random)) * 130 / 8192);
        }
        kernel->run(&problem.tile);
        for (int64_t row = 0; row < problem.rows; row++) {
            double x = problem.q[row * problem.head_dim], power = exp2(x);
            double allowed = x < -126 ? 1e-45 : 3e-7 * power;
            power = x < -126 ? 0 : power;
            verdict_add(verdict, problem.o[row * problem.head_dim], power / (1 + power), allowed,
                        "2^x (row, batch)", row, batch, 0);
        }
    }
    free_problem(&problem);
}

/* --- running ------------------------------------------------------------------------------- */

static bool wanted(const struct tile_kernel *kernel, const struct check_options *options)
{
    return (!options->kernel || strcmp(options->kernel, kernel->name) == 0) &&
           (options->backend == DRAFTATTN_BACKEND_AUTO || options->backend == kernel->backend);
}

/* Rows and panels around every edge first, then random ones. */
static void choose_shape(int64_t index, struct random *random, struct tile_problem *problem)
{
    static const int32_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 63, 64, 65, 125, 126, 127, 128};
    static const int64_t panels[] = {0, 1, 2, 3, MAX_PANELS};
    const int64_t row_count = sizeof(rows) / sizeof(rows[0]);
    const int64_t panel_count = sizeof(panels) / sizeof(panels[0]);

    problem->fill = (enum fill)(index % FILL_COUNT);
    index /= FILL_COUNT;
    if (index < row_count + panel_count) {
        problem->rows = index < row_count ? rows[index] : 5;
        problem->panel_count = index < row_count ? 2 : panels[index - row_count];
        return;
    }
    problem->rows = (int32_t)random_between(random, 1, ATTEND_MAX_ROWS);
    problem->panel_count = random_between(random, 0, 8);
}

static int check_kernel(const struct tile_kernel *kernel, const struct check_options *options)
{
    struct random random = {options->seed};
    struct verdict worst[FILL_COUNT + 1] = {{0}};
    int failures = 0;

    for (int64_t i = 0; i < options->problems; i++) {
        struct tile_problem problem = {.head_dim = kernel->head_dim};
        struct verdict verdict = {0};
        choose_shape(i, &random, &problem);
        make_problem(&problem, false, &random);
        judge(kernel, &problem, &verdict);
        free_problem(&problem);
        if (!(verdict.measured <= 1)) {
            printf("%s: problem %lld (%s, %d rows, %lld panels) fails: %s\n", kernel->name,
                   (long long)i, fills[problem.fill].name, problem.rows,
                   (long long)problem.panel_count, verdict.where);
            failures++;
        }
        if (verdict.measured >= worst[problem.fill].measured) {
            worst[problem.fill] = verdict;
        }
    }
    judge_exp2(kernel, &worst[FILL_COUNT]);
    failures += !(worst[FILL_COUNT].measured <= 1);
    for (int fill = 0; fill <= FILL_COUNT; fill++) {
        printf("%-22s %-13s measured/allowed %.3f  %s\n", kernel->name,
               fill < FILL_COUNT ? fills[fill].name : "2^x", worst[fill].measured,
               worst[fill].where);
    }
    return failures;
}

int check_tiles(const struct check_options *options)
{
    int failures = 0;

    for (size_t i = 0; i < sizeof(tile_kernels) / sizeof(tile_kernels[0]); i++) {
        const char *why_not = cpu_features_why_not(tile_kernels[i].backend);
        if (!wanted(&tile_kernels[i], options)) {
            continue;
        }
        if (why_not) {
            printf("%-22s skipped: %s\n", tile_kernels[i].name, why_not);
            continue;
        }
        failures += check_kernel(&tile_kernels[i], options);
    }
    return failures;
}

/* --- timing -------------------------------------------------------------------------------- */

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bench_kernel(const struct tile_kernel *kernel, const struct check_options *options,
                         int32_t rows, int64_t panel_count)
{
    enum { REPEATS = 41 };
    struct random random = {options->seed};
    struct tile_problem problem = {.head_dim = kernel->head_dim,
                                   .rows = rows,
                                   .panel_count = panel_count,
                                   .fill = FILL_RANDOM};
    double time[REPEATS];
    const double work =
        4.0 * rows * (double)panel_count * ATTEND_PANEL_KEYS * (double)kernel->head_dim / 1e9;

    make_problem(&problem, true, &random);
    kernel->run(&problem.tile);
    for (int i = 0; i < REPEATS; i++) {
        double start = seconds();
        kernel->run(&problem.tile);
        time[i] = seconds() - start;
    }
    free_problem(&problem);
    qsort(time, REPEATS, sizeof(time[0]), compare_doubles);
    printf("%-22s %3d rows x %2lld panels: median %7.1f GFLOP/s, best %7.1f, worst %7.1f\n",
           kernel->name, rows, (long long)panel_count, work / time[REPEATS / 2], work / time[0],
           work / time[REPEATS - 1]);
}

int bench_tiles(const struct check_options *options)
{
    for (size_t i = 0; i < sizeof(tile_kernels) / sizeof(tile_kernels[0]); i++) {
        if (wanted(&tile_kernels[i], options) && !cpu_features_why_not(tile_kernels[i].backend)) {
            bench_kernel(&tile_kernels[i], options, 128, 36);
            bench_kernel(&tile_kernels[i], options, 128, 4);
            bench_kernel(&tile_kernels[i], options, 5, 36);
        }
    }
    return 0;
}
