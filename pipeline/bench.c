/*
 * Owns one grid on one kernel: context, data, plans and samples. Every plan runs what it is asked
 * for: no guard, no break-even. Data and workspace are where the backend works; a device is waited
 * for at both ends of a run, so that one clock serves all backends.
 */
#include "bench.h"

#include "clock.h"
#include "device_memory.h"
#include "interrupt.h"
#include "median.h"
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

static size_t element_bytes(draftattn_dtype dtype)
{
    return dtype == DRAFTATTN_F32 ? 4 : 2;
}

int64_t bench_data_bytes(const draftattn_grid *grid, int64_t heads, int64_t head_dim,
                         draftattn_dtype dtype)
{
    const int64_t dims[] = {TENSORS, heads, tokens_of(grid), head_dim};
    size_t bytes;
    return checked_bytes(dims, 4, element_bytes(dtype), &bytes) ? (int64_t)bytes : INT64_MAX;
}

int64_t bench_memory_available(draftattn_backend backend)
{
    return backend == DRAFTATTN_BACKEND_CUDA ? device_memory_available()
                                             : system_memory_available();
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

/* Aligned to 256, where the backend works. */
static bool take_memory(const struct bench_lab *lab, int64_t bytes, const char *what, void **memory,
                        struct error *error)
{
    int64_t available = bench_memory_available(lab->setup.kernel.backend);
    const double gib = 1073741824.0;
    if (bytes > available)
        return error_set(error,
                         "not enough %smemory: %s takes %.2f GiB, %.2f GiB are available; take a "
                         "smaller --grid or fewer --heads",
                         lab->device ? "device " : "", what, (double)bytes / gib,
                         (double)available / gib);
    size_t rounded = ((size_t)bytes + 255) / 256 * 256;
    if (lab->device)
        return device_memory_alloc(memory, rounded, what, error);
    *memory = aligned_alloc(256, rounded);
    return *memory || error_out_of_memory(error, what, rounded);
}

static void give_memory(const struct bench_lab *lab, void *memory)
{
    if (lab->device)
        device_memory_free(memory);
    else
        free(memory);
}

static int64_t elements_of(const struct bench_lab *lab)
{
    return lab->setup.heads * tokens_of(&lab->setup.grid) * lab->setup.head_dim;
}

static char *place_of(const struct bench_lab *lab, int which, int64_t element)
{
    int64_t at = which * elements_of(lab) + element;
    return (char *)lab->data + at * (int64_t)element_bytes(lab->setup.dtype);
}

/* q, k and v head by head, from float32 in host memory to where and how they are wanted. */
static bool fill_rounded(struct bench_lab *lab, struct error *error)
{
    const struct bench_setup *setup = &lab->setup;
    int64_t count = tokens_of(&setup->grid) * setup->head_dim;
    size_t bytes = (size_t)count * element_bytes(setup->dtype);
    float *values = malloc(3 * (size_t)count * sizeof *values);
    void *rounded = malloc(bytes);
    bool ok = (values && rounded) ||
              error_out_of_memory(error, "the data of a head", 3 * (size_t)count * sizeof *values);
    for (int64_t head = 0; ok && head < setup->heads; head++) {
        bench_fill(&setup->grid, head, 1, setup->head_dim, BENCH_SEED, values, values + count,
                   values + 2 * count);
        for (int which = Q; ok && which <= V; which++) {
            char *to = place_of(lab, which, head * count);
            bench_round(values + which * count, count, setup->dtype, lab->device ? rounded : to);
            ok = !lab->device || device_memory_copy(to, rounded, bytes, error);
        }
    }
    free(rounded);
    free(values);
    return ok;
}

bool bench_lab_open(struct bench_lab *lab, const struct bench_setup *setup, struct error *error)
{
    draftattn_context_desc desc = draftattn_context_desc_default();
    int64_t bytes = bench_data_bytes(&setup->grid, setup->heads, setup->head_dim, setup->dtype);
    lab->setup = *setup;
    lab->device = setup->kernel.backend == DRAFTATTN_BACKEND_CUDA;
    desc.backend = setup->kernel.backend;
    desc.kernel = setup->kernel.name;
    desc.threads = setup->threads;
    if (draftattn_context_create(&lab->context, &desc) != DRAFTATTN_SUCCESS)
        return failed(lab, "no context", error);
    if (!take_memory(lab, bytes, "the data", &lab->data, error))
        return false;
    if (lab->device || setup->dtype != DRAFTATTN_F32)
        return fill_rounded(lab, error);
    /* In place, by the threads that will read it: pages lie near who touches them first. */
    bench_fill(&setup->grid, 0, setup->heads, setup->head_dim, BENCH_SEED,
               (float *)place_of(lab, Q, 0), (float *)place_of(lab, K, 0),
               (float *)place_of(lab, V, 0));
    return true;
}

/* All contenders share the largest workspace. */
static bool grow_workspace(struct bench_lab *lab, size_t bytes, struct error *error)
{
    if (bytes <= lab->workspace_bytes)
        return true;
    give_memory(lab, lab->workspace);
    lab->workspace = NULL;
    lab->workspace_bytes = 0;
    if (!take_memory(lab, (int64_t)bytes, "the workspace", &lab->workspace, error))
        return false;
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
    contender->desc.in_dtype = contender->desc.out_dtype = lab->setup.dtype;
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
    int64_t head_dim = lab->setup.head_dim;
    return (draftattn_tensor){.data = place_of(lab, which, 0),
                              .dtype = lab->setup.dtype,
                              .shape = {1, heads, tokens, head_dim},
                              .stride = {elements_of(lab), tokens * head_dim, head_dim, 1}};
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
    if (lab->device && !device_memory_synchronise(error))
        return false;
    double start = clock_seconds();
    draftattn_status status = draftattn_run(contender->plan, NULL, &q, &k, &v, &o, NULL, NULL,
                                            lab->workspace, lab->workspace_bytes, NULL);
    if (status == DRAFTATTN_SUCCESS && lab->device && !device_memory_synchronise(error))
        return false;
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

static double median(const double *values, int count)
{
    double sorted[BENCH_MAX_RUNS];
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    return median_sort_doubles(sorted, (size_t)count);
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
        row->stages[stage] = lab->device ? NAN : median(contender->stages[stage], runs);
    double pairs = keys_per_row(contender) * (double)contender->info.tokens;
    row->flops = 4 * (double)lab->setup.head_dim * (double)lab->setup.heads * pairs;
    row->gflops = row->flops / row->median * 1e-9;
}

void bench_lab_close(struct bench_lab *lab)
{
    for (int i = 0; i < lab->count; i++)
        draftattn_plan_destroy(lab->contenders[i].plan);
    draftattn_context_destroy(lab->context);
    give_memory(lab, lab->data);
    give_memory(lab, lab->workspace);
    memset(lab, 0, sizeof *lab);
}
