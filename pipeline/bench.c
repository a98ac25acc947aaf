/*
 * Owns one grid on one kernel: context, data, plans and samples. Every plan runs what it is asked
 * for: no guard, no break-even.
 */
#include "bench.h"

#include "clock.h"
#include "interrupt.h"
#include "system_memory.h"
#include "tensor/checked.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { Q, K, V, O, TENSORS };

static int64_t tokens_of(const draftattn_grid *grid)
{
    return grid->frames * grid->height * grid->width + grid->text_tokens;
}

int64_t bench_data_bytes(const draftattn_grid *grid, int64_t heads, int64_t head_dim)
{
    const int64_t dims[] = {TENSORS, heads, tokens_of(grid), head_dim};
    size_t bytes;
    return checked_bytes(dims, 4, sizeof(float), &bytes) ? (int64_t)bytes : INT64_MAX;
}

double bench_dense_flops(const draftattn_grid *grid, int64_t heads, int64_t head_dim)
{
    double tokens = (double)tokens_of(grid);
    return 4 * (double)head_dim * (double)heads * tokens * tokens;
}

static bool failed(const struct bench_lab *lab, const char *what, struct error *error)
{
    return error_set(error, "%s: %s: %s", lab->setup.kernel.name, what,
                     draftattn_context_last_error(lab->context));
}

static bool check_memory(int64_t bytes, const char *what, struct error *error)
{
    int64_t available = system_memory_available();
    const double gib = 1073741824.0;
    return bytes <= available ||
           error_set(error,
                     "not enough memory: %s takes %.2f GiB, %.2f GiB are available; take a smaller "
                     "--grid or fewer --heads",
                     what, (double)bytes / gib, (double)available / gib);
}

bool bench_lab_open(struct bench_lab *lab, const struct bench_setup *setup, struct error *error)
{
    draftattn_context_desc desc = draftattn_context_desc_default();
    int64_t bytes = bench_data_bytes(&setup->grid, setup->heads, setup->head_dim);
    lab->setup = *setup;
    desc.backend = setup->kernel.backend;
    desc.kernel = setup->kernel.name;
    desc.threads = setup->threads;
    if (draftattn_context_create(&lab->context, &desc) != DRAFTATTN_SUCCESS)
        return failed(lab, "no context", error);
    if (!check_memory(bytes, "the data", error))
        return false;
    lab->data = malloc((size_t)bytes);
    if (!lab->data)
        return error_out_of_memory(error, "the data", (unsigned long long)bytes);
    size_t floats = (size_t)bytes / sizeof(float) / TENSORS;
    bench_fill(&setup->grid, setup->heads, setup->head_dim, BENCH_SEED, lab->data + Q * floats,
               lab->data + K * floats, lab->data + V * floats);
    return true;
}

/* All contenders share the largest workspace. */
static bool grow_workspace(struct bench_lab *lab, size_t bytes, struct error *error)
{
    if (bytes <= lab->workspace_bytes)
        return true;
    free(lab->workspace);
    lab->workspace = NULL;
    lab->workspace_bytes = 0;
    bytes = (bytes + 255) / 256 * 256;
    if (!check_memory((int64_t)bytes, "the workspace", error))
        return false;
    lab->workspace = aligned_alloc(256, bytes);
    if (!lab->workspace)
        return error_out_of_memory(error, "the workspace", bytes);
    lab->workspace_bytes = bytes;
    return true;
}

bool bench_lab_add(struct bench_lab *lab, const draftattn_plan_desc *desc, struct error *error)
{
    struct bench_contender *contender = &lab->contenders[lab->count];
    size_t bytes;
    memset(contender, 0, sizeof *contender);
    contender->desc = *desc;
    contender->desc.grid = lab->setup.grid;
    contender->desc.heads = lab->setup.heads;
    contender->desc.head_dim = lab->setup.head_dim;
    contender->desc.min_tokens = 1;
    if (draftattn_plan_create(&contender->plan, lab->context, &contender->desc) !=
        DRAFTATTN_SUCCESS) {
        failed(lab, "no plan", error);
        error->usage = true;
        return false;
    }
    lab->count++;
    if (draftattn_plan_info_get(contender->plan, &contender->info) != DRAFTATTN_SUCCESS ||
        draftattn_plan_workspace_size(contender->plan, &bytes) != DRAFTATTN_SUCCESS)
        return failed(lab, "no plan", error);
    return grow_workspace(lab, bytes, error);
}

static draftattn_tensor tensor_of(const struct bench_lab *lab, int which)
{
    int64_t heads = lab->setup.heads, tokens = tokens_of(&lab->setup.grid);
    int64_t head_dim = lab->setup.head_dim, floats = heads * tokens * head_dim;
    return (draftattn_tensor){.data = lab->data + which * floats,
                              .dtype = DRAFTATTN_F32,
                              .shape = {1, heads, tokens, head_dim},
                              .stride = {floats, tokens * head_dim, head_dim, 1}};
}

bool bench_lab_run(struct bench_lab *lab, int index, double *seconds, struct error *error)
{
    struct bench_contender *contender = &lab->contenders[index];
    const draftattn_tensor q = tensor_of(lab, Q), k = tensor_of(lab, K), v = tensor_of(lab, V),
                           o = tensor_of(lab, O);
    if (interrupt_requested()) {
        error_set(error, "interrupted");
        error->interrupted = true;
        return false;
    }
    double start = clock_seconds();
    draftattn_status status = draftattn_run(contender->plan, NULL, &q, &k, &v, &o, NULL, NULL,
                                            lab->workspace, lab->workspace_bytes, NULL);
    double took = clock_seconds() - start;
    if (status != DRAFTATTN_SUCCESS ||
        draftattn_read_stats(contender->plan, lab->workspace, &contender->stats, NULL) !=
            DRAFTATTN_SUCCESS)
        return failed(lab, "run", error);
    if (seconds) {
        *seconds = took;
    } else if (contender->runs < BENCH_MAX_RUNS) {
        contender->seconds[contender->runs] = took;
        for (int stage = 0; stage < DRAFTATTN_STAGE_COUNT; stage++)
            contender->stages[stage][contender->runs] = contender->stats.seconds[stage];
        contender->runs++;
    }
    return true;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int count)
{
    double sorted[BENCH_MAX_RUNS];
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, compare_doubles);
    return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
}

/* Keys that a query row meets on average: exact ones, means of skipped blocks, its share of the
 * probe rows. */
static double keys_per_row(const struct bench_contender *contender)
{
    const draftattn_plan_desc *desc = &contender->desc;
    const draftattn_stats *stats = &contender->stats;
    double tokens = (double)contender->info.tokens;
    if (stats->dense)
        return tokens;
    bool means = desc->policy == DRAFTATTN_POLICY_DRAFT && desc->compensation;
    double probes = fmin(desc->probes, (double)contender->info.video_tokens);
    return stats->density * tokens +
           (means ? (1 - stats->density) * (double)contender->info.key_blocks : 0) + probes;
}

void bench_lab_row(const struct bench_lab *lab, int index, struct bench_row *row)
{
    const struct bench_contender *contender = &lab->contenders[index];
    bool dense = contender->desc.policy == DRAFTATTN_POLICY_DENSE;
    int runs = contender->runs;
    *row = (struct bench_row){.runs = runs, .dense = dense};
    row->sparsity = dense ? 0 : contender->desc.sparsity;
    if (runs == 0)
        return;
    row->density = contender->stats.density;
    row->error = contender->stats.error_median;
    row->median = median(contender->seconds, runs);
    row->min = row->max = contender->seconds[0];
    for (int run = 1; run < runs; run++) {
        row->min = fmin(row->min, contender->seconds[run]);
        row->max = fmax(row->max, contender->seconds[run]);
    }
    for (int stage = 0; stage < DRAFTATTN_STAGE_COUNT; stage++)
        row->stages[stage] = median(contender->stages[stage], runs);
    double pairs = keys_per_row(contender) * (double)contender->info.tokens;
    row->flops = 4 * (double)lab->setup.head_dim * (double)lab->setup.heads * pairs;
    row->gflops = row->flops / row->median * 1e-9;
}

void bench_lab_close(struct bench_lab *lab)
{
    for (int i = 0; i < lab->count; i++)
        draftattn_plan_destroy(lab->contenders[i].plan);
    draftattn_context_destroy(lab->context);
    free(lab->data);
    free(lab->workspace);
    memset(lab, 0, sizeof *lab);
}
